"""Public benchmarks through their real loading code: rows, parts, placeholders, clear failures."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Image
from fixtures_benchmarks import FIXTURES, WINOGROUND, colour_of, picture

from focus.benchmarks import source as sources
from focus.benchmarks.blink import BLINK, TASKS
from focus.benchmarks.hub import DEV_FRACTION, part_of
from focus.benchmarks.prompting import images_first, interleaved
from focus.benchmarks.registry import BENCHMARKS, parsers_of
from focus.benchmarks.vismin import VisMin
from focus.benchmarks.winoground import Winoground
from focus.errors import (
    ImageError,
    InvalidValueError,
    UnknownNameError,
)

datasets.disable_progress_bars()
NAMES = list(FIXTURES)
PROTOCOLS = {name: tuple(FIXTURES[name].cls.parsers()) for name in NAMES}
#: Those that have a hub to be asked for.
PUBLIC = [name for name in NAMES if FIXTURES[name].cls.source.repo]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Folder of every fixture as parquet files, by benchmark."""
    root = tmp_path_factory.mktemp("parquet")
    return {name: str(FIXTURES[name].saved(root / name, "parquet")) for name in NAMES}


@pytest.fixture
def hub(monkeypatch):
    """A hub that serves the fixtures, and the list of what was asked of it."""
    asked = []
    by_repo = {fixture.cls.source.repo: fixture for fixture in FIXTURES.values()}

    def load_dataset(repo, name=None, *, split, revision):
        asked.append((repo, name, split, revision))
        return by_repo[repo].dataset(name or "")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "hub_answers", lambda: True)
    return asked


def facts(example) -> tuple:
    """All of an example that can be compared."""
    images = [(image.mode, image.size, colour_of(image)) for image in example.images]
    return (example.id, images, example.question, example.answer, example.choices, example.cluster,
            example.group, example.category, dict(example.metadata), example.system)  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_hub_and_every_local_form_serve_the_same_examples(name, hub, tmp_path):
    fixture = FIXTURES[name]
    served = [facts(e) for e in fixture.cls(part="all")]
    assert len(served) == fixture.cls.questions_per_row * sum(
        len(fixture.rows(config)) for config in fixture.configs
    )
    forms = ["parquet", "arrow", "jsonl"] + (["disk"] if len(fixture.configs) == 1 else [])
    for form in forms:
        folder = fixture.saved(tmp_path / form, form)
        local = fixture.cls(part="all", path=str(folder))
        assert [facts(e) for e in local] == served, form


@pytest.mark.parametrize("name", PUBLIC)
def test_the_pinned_revision_is_what_is_asked_for(name, hub):
    source = FIXTURES[name].cls.source
    len(FIXTURES[name].cls())
    assert {repo for repo, *_ in hub} == {source.repo}
    assert [config for _, config, _, _ in hub] == [*source.configs] or not source.configs
    assert {revision for *_, revision in hub} == {source.revision}
    assert source.revision is None or len(source.revision) == 40
    hub.clear()
    len(FIXTURES[name].cls(revision="main"))
    assert {revision for *_, revision in hub} == {"main"}


@pytest.mark.parametrize(
    ("name", "protocol"), [(name, protocol) for name in NAMES for protocol in PROTOCOLS[name]]
)
def test_every_example_has_a_placeholder_per_image_and_scores_its_own_answer(
    name, protocol, parquet
):
    benchmark = FIXTURES[name].cls(part="all", protocol=protocol, path=parquet[name])
    for example in benchmark:
        assert example.question.count("<image>") == len(example.images) > 0
        assert all(image.mode == "RGB" for image in example.images)
        if protocol == "strict":
            assert benchmark.score(example.answer, example.reference).correct, example.id
            assert not benchmark.score("", example.reference).correct
            assert benchmark.score("", example.reference).unparsed


@pytest.mark.parametrize("name", NAMES)
def test_dev_and_test_are_disjoint_complete_and_the_same_for_both_protocols(name, parquet):
    parts = {
        part: {FIXTURES[name].cls(part=part, protocol=protocol, path=parquet[name]).items
               for protocol in PROTOCOLS[name]}
        for part in ("dev", "test", "all")
    }  # fmt: skip
    assert all(len(versions) == 1 for versions in parts.values())
    dev, test, every = ({item.id for item in next(iter(parts[p]))} for p in ("dev", "test", "all"))
    assert not dev & test
    assert dev | test == every
    clusters = [{item.cluster for item in next(iter(parts[part]))} for part in ("dev", "test")]
    assert not clusters[0] & clusters[1]


def test_parts_are_a_tenth_and_the_rest_whatever_the_order():
    names = [f"row{i}" for i in range(20_000)]
    share = np.mean([part_of("winoground", name) == "dev" for name in names])
    assert abs(share - DEV_FRACTION) < 0.01
    assert [part_of("winoground", n) for n in names] != [part_of("vismin", n) for n in names]


def test_rows_that_share_images_stay_together(parquet):
    nlvr2 = FIXTURES["nlvr2"].cls(part="all", path=parquet["nlvr2"])
    assert {item.cluster for item in nlvr2.items if item.id.startswith("test1-3-")} == {"test1-3"}
    muirbench = FIXTURES["muirbench"].cls(part="all", path=parquet["muirbench"])
    twins = {item.id: item.cluster for item in muirbench.items}
    assert twins["6"] == twins["7"] != twins["8"]


def test_ids_do_not_depend_on_the_order_of_the_rows(tmp_path):
    fixture = FIXTURES["winoground"]
    rows = fixture.dataset()
    rows.to_parquet(tmp_path / "forward" / "test.parquet")
    rows.select(range(len(rows) - 1, -1, -1)).to_parquet(tmp_path / "backward" / "test.parquet")
    forward, backward = (
        [item.id for item in Winoground(path=str(tmp_path / order)).items]
        for order in ("forward", "backward")
    )
    assert backward == forward[::-1]


def test_more_items_only_add_to_fewer(parquet):
    few, more = ({item.id for item in
                  Winoground(part="all", path=parquet["winoground"], max_items=n).items}
                 for n in (5, 11))  # fmt: skip
    assert (len(few), len(more)) == (5, 11)
    assert few < more
    assert sorted(few) != [str(n) for n in range(5)]  # by hash, not the first ones


def test_ids_that_the_data_set_repeats_are_told_apart(tmp_path):
    rows = [{**row, "id": 7} for row in WINOGROUND[:3]]
    Dataset.from_list(rows, features=Features(FIXTURES["winoground"].features)).to_parquet(
        tmp_path / "test.parquet"
    )
    ids = [item.id for item in Winoground(part="all", path=str(tmp_path)).items]
    assert ids == ["7", "7~2", "7~3"]


def test_images_are_decoded_only_when_their_row_is_asked_for(tmp_path):
    """A damaged image spoils its own row and no other."""
    rows = FIXTURES["winoground"].dataset().with_format("arrow")[:].to_pylist()
    rows[2]["image_1"]["bytes"] = b"not an image"
    undecoded = dict.fromkeys(("image_0", "image_1"), Image(decode=False))
    features = Features({**FIXTURES["winoground"].features, **undecoded})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    benchmark = Winoground(part="all", path=str(tmp_path))
    assert len(benchmark) == 4 * len(WINOGROUND)
    assert colour_of(benchmark[4].images[0]) == colour_of(WINOGROUND[1]["image_0"])
    with pytest.raises(ImageError, match=r"winoground, row '2': .*not an image"):
        benchmark[4 * 2 + 1]


def test_transparent_images(tmp_path):
    """On white, except in the official protocol, which drops transparency as its code does."""
    clear = picture(9).convert("RGBA")
    clear.putalpha(0)
    rows = [{**WINOGROUND[0], "image_0": clear}]
    FIXTURES["winoground"].dataset().from_list(
        rows, features=Features(FIXTURES["winoground"].features)
    ).to_parquet(tmp_path / "test.parquet")
    pixels = {
        protocol: Winoground(part="all", protocol=protocol, path=str(tmp_path))[0]
        .images[0].getpixel((0, 0))
        for protocol in ("official", "strict")
    }  # fmt: skip
    assert pixels == {"strict": (255, 255, 255), "official": picture(9).getpixel((0, 0))}


def test_blink_takes_one_task_or_all(parquet, tmp_path):
    one = BLINK(part="all", task="Jigsaw", path=parquet["blink"])
    assert {example.category for example in one} == {"Jigsaw"}
    assert [len(example.images) for example in one] == [1, 2, 3, 4]
    assert len(BLINK(part="all", path=parquet["blink"])) == 4 * len(TASKS)


def test_vismin_takes_one_category(parquet):
    one = VisMin(part="all", category="counting", path=parquet["vismin"])
    assert {example.metadata["task"] for example in one} == {"counting"}
    assert len(one) == 4 * 10


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"split": "train"}, "split='train'.*one of test"),
        ({"part": "val"}, "part='val'.*dev, test, all"),
        ({"protocol": "lenient"}, "protocol='lenient'.*official, strict"),
        ({"path": ""}, "path=''"),
        ({"max_items": 0}, "max_items=0"),
        ({"max_items": True}, "max_items=True"),
        ({"offline": "no"}, "offline='no'"),
        ({"revision": 3}, "revision=3"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(settings, expected):
    with pytest.raises(InvalidValueError, match=expected):
        Winoground(**settings)


def test_subsets_are_checked():
    with pytest.raises(InvalidValueError, match=r"category='count'.*counting"):
        VisMin(category="count")
    with pytest.raises(InvalidValueError, match=r"task='jigsaw'.*Jigsaw"):
        BLINK(task="jigsaw")


def test_indices(parquet):
    benchmark = Winoground(part="all", path=parquet["winoground"])
    assert benchmark[-1].id == benchmark[len(benchmark) - 1].id
    with pytest.raises(IndexError):
        benchmark[len(benchmark)]


def test_a_log_can_be_scored_without_its_data():
    assert set(BENCHMARKS) > set(NAMES)
    for name in PUBLIC:
        assert set(parsers_of(name)) == {"official", "strict"}
    with pytest.raises(UnknownNameError, match=r"winnoground.*winoground"):
        parsers_of("winnoground")
    with pytest.raises(UnknownNameError, match="parser"):
        Winoground().score("A", None, parser="lenient")


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("a <image> b <image>", 2, "a <image> b <image>"),
        ("a <image> b", 3, "<image><image>a <image> b"),
        ("plain", 2, "<image><image>plain"),
        ("<image> a <image> b <image>", 1, "<image> a  b "),
    ],
)
def test_placeholders_stay_where_they_are(text, count, expected):
    assert interleaved(text, count) == expected
    assert images_first(text, count).startswith("<image>" * count)
    assert images_first(text, count).count("<image>") == count
