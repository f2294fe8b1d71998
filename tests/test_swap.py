"""Every order asks the same question: what moves, what stays, and what a swap reveals."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from functools import cache

import datasets
import numpy as np
import pytest
from fixtures_benchmarks import FIXTURES, MANTIS, MUIRBENCH, Fixture, colour_of, muir_row, picture

from analysis.summary import summarise
from focus.benchmarks import AbstractBenchmark, Example
from focus.benchmarks.embedded import IndexedQuestion, MinimalPair, SingleImage
from focus.benchmarks.muirbench import MuirBench
from focus.benchmarks.prompting import rotation, turned
from focus.benchmarks.registry import BENCHMARKS
from focus.decoding import Focus, GenerationSettings, Plain, Vcd
from focus.engines import LocalEngine
from focus.errors import InvalidValueError
from focus.evaluation import Cell, variants
from focus.models import VisionLanguageModel
from focus.noise import NoiseConfig
from focus.worlds import WORLDS

datasets.disable_progress_bars()

PROTOCOLS = ("official", "strict")
SWAPPED = ("winoground", "vismin", "mantis_eval", "muirbench", "mvh_bench")
HUB = [(name, protocol) for name in SWAPPED for protocol in PROTOCOLS]
#: Of every example in the first order, as these benchmarks read before they had others.
BEFORE = {
    ("winoground", "official"): "e86a27e6cecbfafd",
    ("winoground", "strict"): "6034ebe5cc9543ab",
    ("vismin", "official"): "c361e1be8e576bbd",
    ("vismin", "strict"): "377e8c0bf8c3e23e",
    ("mantis_eval", "official"): "947417222c95619f",
    ("mantis_eval", "strict"): "71911a82d93771de",
    ("muirbench", "official"): "fb65a5d07dd0358c",
    ("muirbench", "strict"): "9ed9ca6da142fe35",
    ("scenes_matching", ""): "4d700649e760994f",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every fixture with several orders as parquet files."""
    root = tmp_path_factory.mktemp("swap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        yield {name: str(FIXTURES[name].saved(root / name, "parquet")) for name in SWAPPED}


def hub(folders: dict[str, str], name: str, protocol: str) -> AbstractBenchmark:
    return FIXTURES[name].cls(part="all", protocol=protocol, path=folders[name])


@cache
def all_orders(benchmark: AbstractBenchmark) -> list[list[Example]]:
    return [list(benchmark.reordered(order)) for order in range(benchmark.orders)]


def fingerprint(examples: Sequence[Example]) -> str:
    """Of all that a run reads of them, pixels included."""
    everything = hashlib.sha256()
    for e in examples:
        facts = [
            e.id,
            e.question,
            e.answer,
            e.choices,
            e.targets,
            e.distractors,
            e.group,
            e.cluster,
            e.category,
            [dict(t) for t in e.truths],
            dict(e.metadata),
            e.system,
        ]
        everything.update(json.dumps(facts, sort_keys=True).encode())
        for image in e.images:
            everything.update(np.asarray(image).tobytes())
    return everything.hexdigest()[:16]  # fmt: skip


def shown(example: Example) -> dict[str, str]:
    """Text that the prompt itself puts behind each lettered choice."""
    question = example.question.replace("<image>", "")
    marks = r"\(?{0}[):.]+ ?(.*?)"  # "(A) a dog", "(A): a dog"
    ends = r"(?=\n|,? or \(|\? Answer|\? Choices:| image|', '|'\]|Hint:|$)"
    return {
        letter: found.group(1).strip(" ,'")
        for letter in example.choices
        if (found := re.search(marks.format(letter) + ends, question))
    }


@pytest.mark.parametrize(("name", "protocol"), [each for each in HUB if each in BEFORE])
def test_the_first_order_is_what_it_was(folders, name, protocol):
    benchmark = hub(folders, name, protocol)
    assert fingerprint(list(benchmark.reordered(0))) == BEFORE[name, protocol]
    assert fingerprint(list(benchmark)) == BEFORE[name, protocol]


def test_the_first_order_of_the_embedded_pairs_is_what_it_was():
    pairs = MinimalPair(size=6, direction="both")
    assert fingerprint(list(pairs)) == BEFORE["scenes_matching", ""]
    assert fingerprint(list(pairs.reordered(1).reordered(0))) == BEFORE["scenes_matching", ""]


def check_orders(orders: list[list[Example]]) -> None:
    """What holds in every benchmark: identity, placeholders, and who the answer is."""
    for examples in zip(*orders, strict=True):
        first = examples[0]
        assert first.permutation == tuple(range(len(first.permutation)))
        for order, example in enumerate(examples):
            for field in ("id", "group", "cluster", "category", "choices", "system"):
                assert getattr(example, field) == getattr(first, field)
            assert example.question.count("<image>") == len(example.images) == len(first.images)
            assert sorted(map(colour_of, example.images)) == sorted(map(colour_of, first.images))
            assert example.metadata.keys() == first.metadata.keys()
            if not example.permutation:  # a question without options
                assert fingerprint([example]) == fingerprint([first])
                continue
            assert example.permutation == rotation(len(example.permutation), order)
            place = example.choices.index(example.answer)
            assert example.permutation[place] == first.choices.index(first.answer)


@pytest.mark.parametrize(("name", "protocol"), HUB)
def test_only_places_change(folders, name, protocol):
    check_orders(all_orders(hub(folders, name, protocol)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["winoground", "vismin"])
def test_pairs_swap_captions_or_images(folders, name, protocol):
    for examples in zip(*all_orders(hub(folders, name, protocol)), strict=True):
        number, direction, asked = (int(p) if p.isdigit() else p for p in examples[0].id.split("-"))
        golds = set()
        for order, example in enumerate(examples):
            place = example.choices.index(example.answer)
            golds.add(place)
            assert place == (asked + order) % 2
            if direction == "text":  # one image, both captions: the gold names its own
                assert [colour_of(image) for image in example.images] == [2 * number + asked]
                wanted = f"caption {number} of a {('dog', 'cat')[asked]}"
                assert shown(example)[example.answer] == wanted
                assert example.metadata["options"][place] == wanted
            else:  # one caption, both images: the gold points at the image of that caption
                assert colour_of(example.images[place]) == 2 * number + asked
                assert f"caption {number} of a {('dog', 'cat')[asked]}" in example.question
                assert example.question == examples[0].question
        assert golds == {0, 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lettered_options_keep_their_text(folders, protocol):
    """Read back from the prompt: the gold letter stands before the same words in every order."""
    for name, rows in (("muirbench", MUIRBENCH[:-1]), ("mantis_eval", MANTIS[:20])):
        orders = all_orders(hub(folders, name, protocol))
        for row, *examples in zip(rows, *orders):  # noqa: B905 - the rest has other options
            texts = [re.sub(r"^\(C\) ", "", option) for option in row["options"]]
            gold = texts["ABCD".index(row["answer"].strip("()"))]
            for order, example in enumerate(examples):
                place = example.choices.index(example.answer)
                assert example.metadata["options"][place].endswith(gold)
                if (name, protocol) == ("mantis_eval", "official"):
                    assert str(example.metadata["options"]) in example.question
                    continue  # DEFECT of that prompt: a list, letters only where options have them
                assert shown(example)[example.answer] == gold
                turn = rotation(len(texts), order)
                assert list(shown(example).values()) == [texts[k] for k in turn]
                # images before the options stay where they are
                assert [*map(colour_of, example.images)] == [*map(colour_of, examples[0].images)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_options_that_bring_a_letter_take_that_of_their_place(folders, protocol):
    options = [e[0].metadata["options"] for e in all_orders(hub(folders, "mantis_eval", protocol))]
    assert options == [
        ["a dog", "a cat", "(C) a bird"],
        ["a cat", "(B) a bird", "a dog"],
        ["(A) a bird", "a dog", "a cat"],
        ["a dog", "a cat", "(C) a bird"],
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_images_move_with_their_options(tmp_path, monkeypatch, protocol):
    """Images in options turn with them, however many each holds; those before them stay."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        muir_row(0, question="As <image>?", answer="C", image_list=[picture(k) for k in range(4)],
                 options=["<image>", "<image>", "<image>", "None of the choices provided"]),
        muir_row(2, question="As this?", answer="B", image_list=[picture(k) for k in range(10, 15)],
                 options=["both <image> and <image>", "neither", "only <image>"]),
    ]  # fmt: skip
    Fixture(MuirBench, FIXTURES["muirbench"].features, lambda _: rows).saved(tmp_path, "parquet")
    orders = all_orders(MuirBench(part="all", protocol=protocol, path=str(tmp_path)))
    check_orders(orders)
    colours = [[[*map(colour_of, e.images)] for e in examples] for examples in orders]
    assert [c[0] for c in colours] == [[0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 2, 3]]
    # two images without a placeholder stand in front; order 3 is order 0 of three options
    assert [c[1] for c in colours] == [
        [10, 11, 12, 13, 14],
        [10, 11, 14, 12, 13],
        [10, 11, 14, 12, 13],
        [10, 11, 12, 13, 14],
    ]
    for row, examples in zip(rows, zip(*orders, strict=True), strict=True):
        before = len(row["image_list"]) - sum(o.count("<image>") for o in row["options"])
        gold = "ABCD".index(row["answer"])
        for example in examples:
            own = by_option(example, before)[example.answer]
            assert own == by_option(examples[0], before)["ABCD"[gold]]
            if protocol == "strict":  # the placeholder stands on the line of its own option
                for letter, option in zip(
                    example.choices, example.metadata["options"], strict=True
                ):
                    assert f"({letter}) {option}" in example.question


def by_option(example: Example, before: int) -> dict[str, tuple[str, list[int]]]:
    """Text and images of each option, counted off by placeholders."""
    images = iter([*map(colour_of, example.images)][before:])
    return {
        letter: (option, [*itertools.islice(images, option.count("<image>"))])
        for letter, option in zip(example.choices, example.metadata["options"], strict=True)
    }


def test_turning_by_hand():
    images = [picture(k) for k in range(4)]
    options, moved = turned("<image> ?", ["<image> <image>", "x", "<image>"], images, (2, 0, 1))
    assert options == ["<image>", "<image> <image>", "x"]
    assert [colour_of(image) for image in moved] == [0, 3, 1, 2]
    assert [rotation(3, k) for k in range(4)] == [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 1, 2)]


def test_embedded_pairs():
    orders = all_orders(MinimalPair(size=6, direction="both"))
    for examples in zip(*orders, strict=True):
        first, second = examples
        assert (first.id, first.group, first.cluster) == (second.id, second.group, second.cluster)
        assert first.answer != second.answer
        places = [e.choices.index(e.answer) for e in examples]
        assert [e.permutation[p] for e, p in zip(examples, places, strict=True)] == [places[0]] * 2
        if first.category == "image":
            assert first.question == second.question
            assert second.truths == first.truths[::-1]
            golds = [e.truths[p] for e, p in zip(examples, places, strict=True)]
            pixels = [np.asarray(e.images[p]) for e, p in zip(examples, places, strict=True)]
            assert golds[0] == golds[1]
            assert all(str(value) in first.question for value in golds[0].values())
            assert (pixels[0] == pixels[1]).all()
        else:
            texts = [re.search(r"A (.*) B (.*)", e.question).groups() for e in examples]
            assert texts[1] == texts[0][::-1]
            truth = first.truths[0]
            right = " ".join(truth[name] for name in ("color", "shape", "place", "count"))
            assert [t[p] for t, p in zip(texts, places, strict=True)] == [right] * 2
            assert (np.asarray(first.images[0]) == np.asarray(second.images[0])).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clips_and_their_captions(tmp_path, monkeypatch, protocol):
    av = pytest.importorskip("av")
    from test_benchmarks_video import write_clip

    from focus.benchmarks.vinoground import Vinoground

    assert av
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_clip(tmp_path / "0_pos.mp4", [50] * 8)
    write_clip(tmp_path / "0_neg.mp4", [200] * 8)
    row = {"index": 0, "major": "action", "minor": None, "pos_cap": "dark", "neg_cap": "bright"}
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "test.parquet")
    benchmark = Vinoground(
        part="all", protocol=protocol, path=str(tmp_path), videos=str(tmp_path), num_frames=2
    )
    for examples in zip(*all_orders(benchmark), strict=True):
        for order, e in enumerate(examples):
            _, direction, asked = e.id.split("-")
            assert (e.id, e.group, e.cluster) == (examples[0].id, examples[0].group, "0")
            assert e.question.count("<image>") == len(e.images)
            place = e.choices.index(e.answer)
            assert place == (int(asked) + order) % 2
            assert e.targets == examples[0].targets
            if direction == "text":
                lines = re.search(r"A\)?[:.] (\w+)(?: or \(B\): |\nB\. )(\w+)", e.question)
                assert lines.groups()[place] == ("dark", "bright")[int(asked)]
            else:
                clip = [np.asarray(e.images[k]).mean() for k in e.targets[place]]
                assert clip == pytest.approx([(50, 200)[int(asked)]] * 2, abs=8)
                assert e.question == examples[0].question


@pytest.mark.parametrize("order", [-1, 2, 4, True, 1.0, "1", None])
def test_orders_that_do_not_exist(folders, order):
    for benchmark in (MinimalPair(), hub(folders, "winoground", "strict")):
        with pytest.raises(InvalidValueError, match=r"order.* from 0 to 1"):
            benchmark.reordered(order)
    if order != 2:
        with pytest.raises(InvalidValueError, match=r"order.* from 0 to 3"):
            hub(folders, "muirbench", "strict").reordered(order)


def test_an_order_is_checked_when_it_is_configured():
    with pytest.raises(InvalidValueError, match="from 0 to 1"):
        MinimalPair(order=2)
    with pytest.raises(InvalidValueError, match="from 0 to 3"):
        MuirBench(order=4)


def test_benchmarks_of_one_order_are_themselves():
    for benchmark in (SingleImage(), IndexedQuestion(), *map(one_order, ("mirb", "blink"))):
        assert benchmark.orders == 1
        assert benchmark.reordered(0) is benchmark
        with pytest.raises(InvalidValueError, match="from 0 to 0"):
            benchmark.reordered(1)


def one_order(name: str) -> AbstractBenchmark:
    return FIXTURES[name].cls()


def test_every_benchmark_with_orders_is_tested_here():
    several = {name for name, cls in BENCHMARKS.items() if cls.orders > 1}
    embedded = {f"{world}_{kind}" for world in WORLDS for kind in ("matching", "probe", "mvh")}
    assert several == {*SWAPPED, "vinoground", *embedded}


def test_variants_of_a_cell(vlm: VisionLanguageModel):
    """Further seeds are asked in the first order only, and only where there is noise."""
    decoding = Focus(noise=NoiseConfig(seed=5))
    engine, settings = LocalEngine(vlm), GenerationSettings(seed=7)
    cell = Cell(engine, MinimalPair(size=2), decoding, settings, "focus")
    cells = variants(cell, orders=9, noise_seeds=3)
    assert [(c.order, c.seed) for c in cells] == [(0, None), (1, None), (0, 1), (0, 2)]
    assert [c.benchmark.order for c in cells] == [0, 1, 0, 0]
    assert [c.decoding.noise.seed for c in cells] == [5, 5, 6, 7]
    assert [c.settings.seed for c in cells] == [7, 7, 8, 9]
    plain = Cell(engine, MinimalPair(size=2), Plain(), GenerationSettings(), "plain")
    assert [(c.order, c.seed) for c in variants(plain, orders=2, noise_seeds=3)] == [
        (0, None),
        (1, None),
    ]
    vcd = Cell(engine, SingleImage(size=2), Vcd(seed=4), GenerationSettings(), "vcd")
    assert [c.decoding.seed for c in variants(vcd, orders=1, noise_seeds=2)] == [4, 5]
    single = Cell(engine, SingleImage(size=2), Plain(), GenerationSettings(), "plain")
    assert len(variants(single, orders=4, noise_seeds=1)) == 1


# What the summary says of answers in several orders, on hand-made records.


def record(question: int, order: int, parsed: str | None, gold: int, **extra: object) -> dict:
    """Question with options 0, 1, 2 of which `gold` is right, read as a letter or None."""
    turn, choices = rotation(3, order), ["A", "B", "C"]
    correct = parsed is not None and turn[choices.index(parsed)] == gold
    return {
        "benchmark": "b", "model": "m", "decoding": "plain", "id": f"q{question}",
        "order": order, "seed": None, "group": f"q{question}", "cluster": f"q{question}",
        "category": "x", "parsed": parsed, "choices": choices, "permutation": list(turn),
        "answer": choices[turn.index(gold)], "choice_answer": None, "correct": correct,
        "score": float(correct), "unparsed": parsed is None, "leaked": False, "traceable": False,
        "seconds": 0.5, **extra,
    }  # fmt: skip


Model = Callable[[tuple[int, ...], int], str | None]


def asked(model: Model, golds: Sequence[int] = (0, 1, 2, 0), orders: int = 3) -> list[dict]:
    return [
        record(question, order, model(rotation(3, order), gold), gold)
        for order in range(orders)
        for question, gold in enumerate(golds)
    ]


def values(records: list[dict]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in summarise(records)}


def test_always_the_first_place():
    """Right twice of four in order 0, but never the same content twice."""
    found = values(asked(lambda turn, gold: "A"))
    assert found["swap consistency"] == 0
    assert found["swap accuracy"] == 0
    assert found["accuracy"] == 0.5


def test_always_the_right_content():
    found = values(asked(lambda turn, gold: "ABC"[turn.index(gold)]))
    assert found["swap consistency"] == found["swap accuracy"] == found["accuracy"] == 1


def test_always_the_same_wrong_content():
    found = values(asked(lambda turn, gold: "ABC"[turn.index((gold + 1) % 3)]))
    assert found["swap consistency"] == 1
    assert found["swap accuracy"] == found["accuracy"] == 0


def test_unread_answers_are_never_consistent():
    assert values(asked(lambda turn, gold: None))["swap consistency"] == 0
    mixed = asked(lambda turn, gold: "ABC"[turn.index(0)] if turn[0] else None)  # not order 0
    assert values(mixed)["swap consistency"] == 0
    # what a protocol puts where it finds nothing is no choice of the model
    fallback = [{**r, "unparsed": True} for r in asked(lambda turn, gold: "ABC"[turn.index(0)])]
    assert values(fallback)["swap consistency"] == 0


def test_swap_metrics_by_hand():
    """q0 right in both orders, q1 right then wrong, q2 twice the same wrong, q3 unread once."""
    answers = {0: ("A", "C"), 1: ("A", "A"), 2: ("B", "A"), 3: ("A", None)}
    records = [
        record(q, order, text, gold=0)
        for q, texts in answers.items()
        for order, text in enumerate(texts)
    ]
    rows = {row["metric"]: row for row in summarise(records)}
    # contents chosen: q0 0, 0; q1 0, 1; q2 1, 1; q3 0, none
    assert rows["swap consistency"]["value"] == 2 / 4
    assert rows["swap accuracy"]["value"] == 1 / 4
    assert rows["accuracy"]["value"] == 3 / 4  # q0, q1 and q3 in the first order
    assert rows["unparsed rate"]["value"] == 0
    assert {rows[m]["n"] for m in ("accuracy", "swap consistency", "swap accuracy")} == {4}
    assert rows["swap consistency"]["ci_low"] < 0.5 < rows["swap consistency"]["ci_high"]


def test_records_of_other_orders_leave_the_rest_as_it_is():
    records = asked(lambda turn, gold: "A")
    first = [r for r in records if r["order"] == 0]
    before, after = values(first), values(records)
    assert {k: v for k, v in after.items() if not k.startswith("swap")} == before
    assert not any(metric.startswith("swap") for metric in before)


def test_only_questions_asked_in_several_orders_count():
    """Asked once (a larger limit in the first order), or without options: nothing to swap."""
    right = asked(lambda turn, gold: "A", golds=(0, 0), orders=2)
    once = [record(9, 0, "A", gold=0)]
    open_ended = [
        {**record(8, order, None, gold=0), "choices": [], "permutation": []} for order in range(2)
    ]
    rows = {row["metric"]: row for row in summarise([*right, *once, *open_ended])}
    assert (rows["swap consistency"]["value"], rows["swap consistency"]["n"]) == (0, 2)
    assert (rows["swap accuracy"]["value"], rows["swap accuracy"]["n"]) == (0, 2)
    assert rows["accuracy"]["n"] == 4
    assert "swap consistency" not in values(open_ended)


def test_seeds_by_hand():
    """Accuracies 1/4, 2/4 and 3/4: standard deviation 0.25; the first seed alone is reported."""
    records = [
        record(q, 0, "A" if q <= (seed or 0) else "B", gold=0, seed=seed, decoding="focus")
        for seed in (None, 1, 2)
        for q in range(4)
    ]
    # other orders of the first seed have no part in the spread
    records += [record(q, 1, "B", gold=0, decoding="focus") for q in range(4)]
    rows = {row["metric"]: row for row in summarise(records)}
    accuracy = rows["accuracy"]
    assert (accuracy["value"], accuracy["n"], accuracy["seeds"]) == (0.25, 4, 3)
    assert accuracy["seed_sd"] == pytest.approx(0.25)
    assert "seed_sd" not in next(r for r in summarise(records[:4]) if r["metric"] == "accuracy")
    # a question that one seed has not answered says nothing of the spread
    more = [*records, record(4, 0, "A", gold=0, decoding="focus")]
    accuracy = next(r for r in summarise(more) if r["metric"] == "accuracy")
    assert (accuracy["value"], accuracy["n"]) == (2 / 5, 5)
    assert accuracy["seed_sd"] == pytest.approx(0.25)
