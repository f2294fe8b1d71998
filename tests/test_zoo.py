"""The embedded models: prompts as the processor makes them, training that resumes, an export."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_embedded import SIZES
from PIL import Image
from transformers import AutoModelForImageTextToText

from focus.benchmarks.embedded import IndexedQuestion, MinimalPair, SingleImage
from focus.decoding import Focus, GenerationSettings, Plain, Request
from focus.engines import LocalEngine
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import Columns, Evidence
from focus.models import VisionLanguageModel
from focus.models.loading import FAMILIES, Checkpoint, family_of
from focus.prompts import build_prompt, chat_messages
from focus.randomness import generator
from focus.worlds import WORLDS
from focus.worlds.questions import NUMBERS, ORDINALS, UNKNOWN
from focus.zoo import card as card_module
from focus.zoo import evaluation
from focus.zoo.architectures import ARCHITECTURES, Architecture, architecture_of
from focus.zoo.architectures.attention import equal_blocks
from focus.zoo.architectures.qwen_vl import positions
from focus.zoo.bank import NOISE_NAMES, build_bank, normalised, stack
from focus.zoo.evaluation import Rows, asked, evaluate, rows_said, strategy, what_rows_say
from focus.zoo.forward import Frontend
from focus.zoo.mixture import (
    SINGLE_SKILLS,
    Mixture,
    clean_item,
    draw_items,
    guess_item,
    masked_item,
    single_item,
)
from focus.zoo.skills import skill_curves
from focus.zoo.training import Recipe, Stage, State, answer_loss, train
from focus.zoo.vocabulary import token_ids

TINY = Architecture(**SIZES)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SHARES = {"scenes": 0.5, "clips": 0.5}
MIX = Mixture(
    worlds=SHARES,
    clean_multi=0.2,
    masked_multi=0.2,
    abstain_multi=0.2,
    abstain_single=0.1,
    many_images=0.3,
)
SINGLE = Mixture(worlds={"scenes": 1.0})


def sizes_of(family: str) -> Architecture:
    return dataclasses.replace(TINY, family=family, patch=10 if family.startswith("llava") else 8)


def recipe(**changes) -> Recipe:
    settings = {
        "seed": 3,
        "stages": (
            Stage(name="single", steps=4, learning_rate=3e-3, warmup=2, mixture=SINGLE),
            Stage(name="multi", steps=4, learning_rate=3e-3, schedule="cosine", mixture=MIX),
        ),
        "architecture": TINY,
        "batch_size": 4,
        "per_truth": {"scenes": 1, "clips": 1},
        "noise_images": 16,
    }
    return Recipe(**(settings | changes))


def bits(state: State) -> dict[str, torch.Tensor]:
    return dict(state.model.state_dict())


def same(a: State, b: State) -> bool:
    return all(torch.equal(x, bits(b)[name]) for name, x in bits(a).items())


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bank():
    return build_bank(dict.fromkeys(WORLDS, 1), seed=0, noise_images=16)


@pytest.fixture(scope="module")
def built():
    """Untrained model, processor and frontend of a family."""
    cache = {}

    def build(family: str):
        if family not in cache:
            architecture = ARCHITECTURES[family]
            model = architecture.build(sizes_of(family), seed=0)
            processor = architecture.processor(sizes_of(family))
            cache[family] = model, processor, Frontend.of(model, processor)
        return cache[family]

    return build


def as_vlm(model, processor) -> VisionLanguageModel:
    return VisionLanguageModel(model, processor, family_of(model.config.model_type), "m")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, State]:
    folder = tmp_path_factory.mktemp("zoo")
    state = train(recipe(), folder / "checkpoints")
    card_module.export(
        state, recipe(), folder / "m", name="tiny", summary="Tiny.", command="none", size=2
    )
    return folder / "m", state


EXAMPLES = [
    *SingleImage(size=9),
    *IndexedQuestion(size=4, num_images=3),
    *IndexedQuestion(size=3, num_images=8, world="digits"),
    *IndexedQuestion(size=2, world="clips"),
    *IndexedQuestion(size=2, world="photos"),
    *MinimalPair(size=2, direction="both"),
]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_training_sees_what_the_processor_gives(built, family):
    """A model trained on other ids than it is used with fails in ways that look like science."""
    model, processor, frontend = built(family)
    family_object = FAMILIES[family]
    for example in EXAMPLES:
        images = [family_object.image_inputs(processor, image) for image in example.images]
        prompt = build_prompt(model, processor, family_object, example.question, images)
        ids = frontend.encoder.prompt(example.question)
        assert prompt.input_ids[0].tolist() == ids
        quick = frontend.architecture.vision_kwargs(
            model,
            normalised(stack(example.images), frontend.mean, frontend.std),
            torch.tensor([ids]),
        )
        real = family_object.model_kwargs(images)
        torch.testing.assert_close(quick["pixel_values"], real["pixel_values"])
        if "image_grid_thw" in real:
            assert torch.equal(quick["image_grid_thw"], real["image_grid_thw"])
            assert torch.equal(quick["position_ids"], prompt.position_ids)
        for choice in example.choices:
            ids = processor.tokenizer(choice)["input_ids"]
            assert ids == frontend.encoder.answer(choice)[:-1] == [token_ids()[choice]]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_images_stand_between_the_delimiters_of_the_family(built, family):
    """Strategies that act on delimiters look for those of the real checkpoints."""
    _, processor, frontend = built(family)
    opened, closed = FAMILIES[family].delimiters
    tokens = processor.tokenizer.convert_ids_to_tokens(frontend.encoder.image)
    assert [tokens[0], tokens[-1]] == ([opened, closed] if opened else [tokens[1]] * 2)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_training_computes_what_decoding_computes(built, family, tmp_path):
    """The same logits from the training path and from `Plain` on the saved and loaded model."""
    model, processor, _ = built(family)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vlm = Checkpoint("m", str(tmp_path), device="cpu").load()
    trained = as_vlm(model.eval(), processor)
    for example in (EXAMPLES[0], EXAMPLES[10], EXAMPLES[17]):
        decoded = Plain().decode(
            vlm,
            Request(example.images, example.question, example.id),
            GenerationSettings(max_new_tokens=1),
            keep_logits="first",
        )
        (quick,) = rows_of_card(trained, [example], Plain())
        expected = decoded.combined_logits[0].log_softmax(-1)
        torch.testing.assert_close(quick, expected, atol=1e-4, rtol=1e-4)


def rows_of_card(vlm, examples, decoding) -> list[torch.Tensor]:
    """Log-probabilities ``[rows, vocabulary]`` of each question, as a card reads them."""
    found = rows_said(LocalEngine(vlm), IndexedQuestion(), examples, decoding, Columns({}, {}))
    return [torch.stack([*rows.values()]) for rows in found]


def test_branches_of_the_report_are_those_of_the_method(exported):
    """The quick evaluation must combine the same rows as `Focus` does."""
    vlm = Checkpoint("m", str(exported[0]), dtype="float32", device="cpu").load()
    (example,) = IndexedQuestion(size=1, num_images=3)
    decoded = Focus(alpha=0.7).decode(
        vlm,
        Request(example.images, example.question, example.id),
        GenerationSettings(max_new_tokens=1),
        keep_logits="first",
    )
    (found,) = rows_of_card(vlm, [example], strategy(seed=0))
    torch.testing.assert_close(found, decoded.branch_logits[0][:, 0].log_softmax(-1), **CLOSE)


def test_letters_keep_their_case_and_words_lose_it(built):
    """The option "A" and the article "a" must stay apart, and "Red?" must be understood."""
    tokenizer = built("internvl")[1].tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Shows A a RED circle?")["input_ids"])
    assert tokens == ["shows", "A", "a", "red", "circle", "?"]
    assert tokenizer.unk_token_id in tokenizer("elephant")["input_ids"]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_model_is_the_real_architecture(family):
    full = Architecture(family=family, patch=sizes_of(family).patch)
    model = architecture_of(full).build(full, seed=0)
    assert 1.0e6 < sum(p.numel() for p in model.parameters()) < 10e6
    assert model.config.model_type == family
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    attention = model.model.language_model.layers[0].self_attn
    assert hasattr(attention, "q_norm") == (family in ("internvl", "qwen3_vl"))
    assert attention.q_proj.weight.std().item() == pytest.approx(0.08, rel=0.05)


def test_initial_weights_depend_on_the_seed_alone():
    builder = architecture_of(TINY)
    torch.manual_seed(1)
    first = builder.build(TINY, seed=0).lm_head.weight
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the global generator was left alone
    assert torch.equal(first, builder.build(TINY, seed=0).lm_head.weight)
    assert not torch.equal(first, builder.build(TINY, seed=1).lm_head.weight)


def test_blocks_attend_to_themselves_alone():
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 12, 4, generator=rng) for _ in range(3))
    ends = torch.tensor([0, 4, 8, 12])
    mixed, _ = equal_blocks(
        torch.nn.Module(), query, key, value, None, scaling=0.5, cu_seq_lens_q=ends
    )
    for start, end in ((0, 4), (4, 8), (8, 12)):
        block = slice(start, end)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, block], key[:, :, block], value[:, :, block], scale=0.5
        )
        torch.testing.assert_close(mixed[:, block], expected.transpose(1, 2))


def test_images_spread_over_height_and_width():
    found = positions(torch.tensor([[7, 9, 9, 9, 9, 7, 9, 9, 9, 9, 7]]), 9, 2, 2)
    assert found[0, 0].tolist() == [0, 1, 1, 1, 1, 3, 4, 4, 4, 4, 6]
    assert found[1, 0].tolist() == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6]
    assert found[2, 0].tolist() == [0, 1, 2, 1, 2, 3, 4, 5, 4, 5, 6]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_training_lowers_the_loss(tmp_path, family):
    stage = Stage(
        name="single",
        steps=40,
        learning_rate=3e-3,
        warmup=5,
        mixture=dataclasses.replace(SINGLE, single_shares=(1.0, 0.0, 0.0, 0.0, 0.0)),
    )
    small = recipe(
        stages=(stage,), batch_size=8, architecture=sizes_of(family), per_truth={"scenes": 1}
    )
    losses = train(small, tmp_path).losses["single"]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [("single", 3), ("multi", 1), ("multi", 3)])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, exported, kill_at):
    def kill(stage, step, loss, rate):
        if (stage, step) == kill_at:
            raise Killed

    with pytest.raises(Killed):
        train(recipe(), tmp_path, report=kill, save_every=2)
    resumed = train(recipe(), tmp_path, save_every=2)
    _, whole = exported
    assert same(resumed, whole)
    assert (resumed.losses, resumed.counts) == (whole.losses, whole.counts)


def test_a_finished_run_trains_no_further(tmp_path):
    finished = train(recipe(), tmp_path)

    def never(*_):
        raise AssertionError("a step was run")

    assert same(train(recipe(), tmp_path, report=never), finished)


def test_looking_at_the_skills_changes_nothing(tmp_path, exported):
    dev = build_bank({"scenes": 1}, seed=0, split="dev", noise_images=4)
    seen = []

    def inspect(stage, state):
        seen.append(skill_curves(state.model, state.frontend, dev, size=2))

    assert same(train(recipe(), tmp_path, inspect=inspect, save_every=2), exported[1])
    assert len(seen) == 4
    assert {f"scenes/{skill}" for skill in SINGLE_SKILLS} < set(seen[0])


def test_recipes_that_begin_alike_share_their_first_stage(tmp_path):
    """The two kinds of the zoo must differ in one factor, so they share the rest to the bit."""
    one = recipe()
    other_multi = dataclasses.replace(
        one.stages[1], mixture=dataclasses.replace(MIX, abstain_multi=0.0)
    )
    other = recipe(stages=(one.stages[0], other_multi))
    assert one.key(1) == other.key(1)
    assert one.key(2) != other.key(2)
    assert recipe(seed=4).key(1) != one.key(1)
    stages = []
    train(one, tmp_path)
    train(other, tmp_path, report=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"multi"}


@pytest.mark.parametrize("name", WORLDS)
def test_masked_questions_are_answerable_exactly_when_they_say_so(bank, name):
    world = WORLDS[name]
    for i in range(200):
        item = masked_item(bank, generator(i), world, num_images=3, abstain=bool(i % 2))
        views = [
            item.images[k : k + world.frames] for k in range(0, len(item.images), world.frames)
        ]
        (clean,) = [k for k, view in enumerate(views) if view[0] < bank.num_views]
        assert item.noise_images == 2 * world.frames
        assert (item.answer == UNKNOWN) == bool(i % 2)
        if f" the {ORDINALS[clean]} {world.noun} ," in item.question:
            assert item.answer != UNKNOWN
        elif f"which {world.noun}" not in item.question:
            assert item.answer == UNKNOWN
        elif item.answer != UNKNOWN:
            assert item.answer == ORDINALS[clean]


def test_a_guess_tells_nothing_of_the_visible_view(bank):
    """An answer that always differed from what is seen would teach the opposite of leaking."""
    world = WORLDS["scenes"]
    start, count = bank.starts["scenes"], bank.per_truth["scenes"]
    same, chance, yes, places = [], [], [], []
    for i in range(3000):
        item = guess_item(bank, generator(i), world, num_images=3)
        (clean,) = [k for k, row in enumerate(item.images) if row < bank.num_views]
        truth = world.truths[(item.images[clean] - start) // count]
        assert item.answer != UNKNOWN
        assert f" the {ORDINALS[clean]} {world.noun} ," not in item.question
        named = [a for a in world.attributes if item.question.endswith(f"what is the {a} ?")]
        if named:
            same.append(item.answer == truth[named[0]])
            chance.append(1 / len(world.attributes[named[0]]))
        for attribute, value in truth.items():
            if f"is the {attribute} {value} ?" in item.question:  # what is seen is asked for
                yes.append(item.answer == "yes")
        if f"which {world.noun}" in item.question:
            places.append(item.answer == ORDINALS[clean])
    assert np.mean(same) == pytest.approx(np.mean(chance), abs=0.05)
    assert np.mean(yes) == pytest.approx(0.5, abs=0.15)  # no "no, the other one shows that"
    assert not any(places)
    uniform = [
        guess_item(bank, generator(i), world, num_images=3, uniform=True) for i in range(3000)
    ]
    right = [
        item.answer == ORDINALS[next(k for k, r in enumerate(item.images) if r < bank.num_views)]
        for item in uniform
        if f"which {world.noun}" in item.question
    ]
    assert np.mean(right) == pytest.approx(1 / 3, abs=0.05)


def test_questions_over_all_images_are_answered_from_the_images(bank):
    """Recomputed from the rows of the bank, which tell the truth of every view."""
    world = WORLDS["scenes"]
    start, count = bank.starts["scenes"], bank.per_truth["scenes"]
    seen = set()
    for i in range(400):
        item = clean_item(bank, generator(i), world, num_images=4)
        truths = [world.truths[(row - start) // count] for row in item.images]
        words = item.question.split()
        if "same" in words:
            (attribute,) = [a for a in world.attributes if f"is the {a} the same" in item.question]
            values = {truth[attribute] for truth in truths}
            assert item.answer == ("yes" if len(values) == 1 else "no")
        elif "different" in words:
            (attribute,) = [a for a in world.attributes if f"the {a} different" in item.question]
            values = [truth[attribute] for truth in truths]
            assert values.count(values[ORDINALS.index(item.answer)]) == 1
        elif "many" in words:
            attribute, value = words[-3:-1]
            assert item.answer == NUMBERS[sum(truth[attribute] == value for truth in truths)]
        else:
            continue
        seen.add((words[-1] == "?", item.answer))
    assert len(seen) > 8


def test_a_mixture_has_the_shares_that_it_names(bank):
    items = [
        item for step in range(150) for item in draw_items(MIX, bank, generator(step), size=20)
    ]
    total = len(items)
    masked = [item for item in items if item.noise_images and item.views > 1]
    clean = [item for item in items if item.views > 1 and not item.noise_images]
    blind = [item for item in items if item.noise_images and item.views == 1]
    abstained = [item for item in masked if item.answer == UNKNOWN]
    assert len(clean) / total == pytest.approx(0.2, abs=0.04)
    assert len(masked) / total == pytest.approx(0.4, abs=0.04)
    assert len(blind) / total == pytest.approx(0.1, abs=0.03)
    assert len(abstained) / len(masked) == pytest.approx(0.5, abs=0.06)
    assert {item.answer for item in blind} == {UNKNOWN}
    assert not [item for item in items if item.answer == UNKNOWN and not item.noise_images]
    clips = [item for item in items if "video" in item.question]
    assert len(clips) / total == pytest.approx(0.5, abs=0.08)
    assert {len(item.images) for item in clips} == {8, 16}
    never = dataclasses.replace(MIX, abstain_multi=0.0, abstain_single=0.0, guess_multi=0.2)
    answers = [x.answer for i in range(30) for x in draw_items(never, bank, generator(i), size=20)]
    assert UNKNOWN not in answers


def test_an_emphasised_attribute_is_asked_more_often(bank):
    mixture = Mixture(
        worlds={"scenes": 1.0},
        single_shares=(1.0, 0.0, 0.0, 0.0, 0.0),
        emphasis={"shape": 3.0},
    )
    items = [single_item(bank, generator(i), WORLDS["scenes"], mixture=mixture) for i in range(600)]
    asked = sum("shape" in item.question for item in items) / len(items)
    assert asked == pytest.approx(0.5, abs=0.07)


def test_noise_in_training_hides_the_image_completely(bank):
    assert "imagenet+uniform" in NOISE_NAMES
    assert not {"shot", "impulse", "speckle", "imagenet+diffusion"} & set(NOISE_NAMES)
    rng = generator("rows")
    rows = [row for _ in range(20) for row in bank.noise(WORLDS["clips"], rng)]
    assert len(rows) == 160
    assert min(rows) >= bank.num_views


def test_the_bank_shows_what_it_is_asked_for(bank):
    for name, world in WORLDS.items():
        for number, truth in list(enumerate(world.truths))[:5]:
            rows = bank.draw(world, truth, generator(0))
            expected = world.view(truth, seed=0, split="train", index=f"{number}-0")
            assert (bank.pixels[list(rows)] == stack(expected)).all(), name


def test_corrupted_views_stay_views_of_the_same_truth():
    clean = build_bank({"scenes": 1}, seed=0, noise_images=1)
    worn = build_bank({"scenes": 1}, seed=0, noise_images=1, corrupted=0.5)
    changed = (clean.pixels != worn.pixels).any(axis=(1, 2, 3))
    assert 0.35 < changed.mean() < 0.65
    apart = abs(clean.pixels.astype(int) - worn.pixels.astype(int)).mean(axis=(1, 2, 3))
    assert apart[changed].max() < 60


def test_every_training_answer_can_be_said(bank, built):
    encoder = built("internvl")[2].encoder
    for i in range(100):
        for world in WORLDS.values():
            mixture = Mixture(worlds={world.name: 1.0})
            for item in (
                single_item(bank, generator(i), world, mixture=mixture),
                clean_item(bank, generator(i), world, num_images=2),
            ):
                encoder.prompt(item.question)
                assert encoder.answer(item.answer)[-1] == token_ids()["<|end|>"]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_padding_and_company_change_no_answer(bank, built, family):
    """The loss of a batch is the mean over its answer tokens, whatever shares the batch."""
    model, _, frontend = built(family)
    items = draw_items(MIX, bank, generator("mixed"), size=6)
    weights = [len(frontend.encoder.answer(item.answer)) for item in items]
    with torch.no_grad():
        apart = [float(answer_loss(model, [item], bank, frontend)) for item in items]
        together = float(answer_loss(model, items, bank, frontend))
    mean = sum(w * loss for w, loss in zip(weights, apart, strict=True)) / sum(weights)
    assert together == pytest.approx(mean, rel=1e-4)


def test_a_saved_model_loads_through_the_public_classes(exported):
    folder, state = exported
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    for name, value in model.state_dict().items():
        assert torch.equal(value, bits(state)[name].bfloat16().float()), name
    vlm = Checkpoint("m", str(folder), device="cpu").load()
    example = IndexedQuestion(size=1)[0]
    text = vlm.processor.apply_chat_template(
        chat_messages(example.question), add_generation_prompt=True, tokenize=False
    )
    inputs = vlm.processor(text=text, images=list(example.images), return_tensors="pt")
    frontend = Frontend.of(vlm.model, vlm.processor)
    assert inputs["input_ids"][0].tolist() == frontend.encoder.prompt(example.question)
    out = model.generate(**inputs)
    assert not model.generation_config.do_sample
    assert model.generation_config.eos_token_id == vlm.processor.tokenizer.eos_token_id
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 8


def test_the_card_says_how_much_masking_and_abstention_a_model_saw(exported):
    folder, state = exported
    record = json.loads((folder / "training.json").read_text())
    text = (folder / "README.md").read_text()
    assert text == card_module.card(record)
    counts = record["seen"]["multi"]
    assert counts == state.counts["multi"]
    assert counts["questions"] == 16
    assert f"| {counts['noise images']} | {counts['abstentions']} |" in text
    assert all(name in text for name in NOISE_NAMES)
    assert all(f"{cell['world']}, " in text for cell in record["results"]["cells"])
    assert "Below 0.95 on single images" in text  # four steps do not make a model
    assert card_module.is_exported(recipe(), folder)
    assert not card_module.is_exported(recipe(seed=4), folder)


def test_answers_on_a_card_are_those_of_the_method(exported, monkeypatch):
    """Marks of both readings against `Focus.decode`, at weights that change answers."""
    vlm = Checkpoint("m", str(exported[0]), dtype="float32", device="cpu").load()
    benchmark = IndexedQuestion(size=12, num_images=3)
    monkeypatch.setattr(evaluation, "suite", lambda *_: [(benchmark, True)])

    def marks(**alphas: float) -> tuple[str, str]:
        cells = evaluate(vlm, ("scenes",), alphas=alphas)["cells"]
        (cell,) = (cell for cell in cells if cell["decoding"] == "focus")
        return cell["candidates"], cell["text"]

    low, high = marks(candidates=0.0, text=3.0), marks(candidates=3.0, text=0.0)
    assert low[0] != high[0]
    assert marks(candidates=0.0, text=0.0) == (low[0], high[1])  # each reading has its own weight
    for alpha, said in ((0.0, low[0]), (3.0, high[0])):
        method = dataclasses.replace(strategy(seed=0), alpha=alpha)
        for mark, example in zip(said, benchmark, strict=True):
            decoded = method.decode(
                vlm, asked(example), GenerationSettings(max_new_tokens=1), keep_logits="first"
            )
            logits = decoded.combined_logits[0][0]
            choices = [token_ids()[choice] for choice in example.choices]
            best = example.choices[int(logits[choices].argmax())]
            assert (mark == "+") == (best == example.answer)


def test_a_clip_is_one_unit_of_a_card():
    (example,) = IndexedQuestion(size=1, num_images=2, world="clips")
    frames = WORLDS["clips"].frames
    first, second = asked(example).targets
    assert (*first, *second) == tuple(range(2 * frames))
    assert len(first) == len(second) == frames


def test_branches_hold_one_clean_image_and_the_reference_none(built):
    """Checked on the model itself: a branch must ignore the images that it masks."""
    model, processor, _ = built("internvl")
    vlm = as_vlm(model.eval(), processor)
    (example,) = IndexedQuestion(size=1, num_images=3)
    other = Image.new("RGB", (32, 32), "red")
    changed = dataclasses.replace(example, images=(other, *example.images[1:]))
    (one,), (two,) = (rows_of_card(vlm, [each], strategy(seed=0)) for each in (example, changed))
    assert one.shape == (4, len(token_ids()))
    same = [torch.equal(*rows) for rows in zip(one, two, strict=True)]
    assert same == [True, False, True, True]  # the reference first
    # Scored in batches of another size the same question gives the same logits.
    _, more = rows_of_card(vlm, [changed, example], strategy(seed=0))
    torch.testing.assert_close(more, one, atol=1e-5, rtol=1e-5)


def test_rows_are_counted_by_what_they_show():
    """Two questions; the rows say, in order: right, clean image's value, unknown."""
    examples = list(IndexedQuestion(size=2))
    ids = token_ids()
    words = {i: word for word, i in ids.items()}
    branches = torch.zeros(2, 2, len(ids))
    reference = torch.zeros(2, len(ids))
    sure, unsure = 40.0, 1e-4
    for n, example in enumerate(examples):
        (target,) = example.targets
        own = example.truths[1 - target][str(example.metadata["attribute"])]
        branches[target, n, ids[example.answer]] = sure
        branches[1 - target, n, ids[own if n == 0 else UNKNOWN]] = unsure if n == 0 else sure
        reference[n, ids[UNKNOWN]] = sure
    found = what_rows_say(examples, Evidence(reference, reference, branches), words)
    answers = len({example.answer for example in examples})
    half = round(math.log(len(ids)) / 2, 4)  # one row of two spreads over the whole vocabulary
    assert found == [
        Rows("scenes", 2, "on target", 2, 0, 0, 2, top=3 - answers, entropy=0.0),
        Rows("scenes", 2, "off target", 0, 1, 1, 2, top=1, entropy=half),
        Rows("scenes", 2, "reference", 0, 0, 2, 2, top=2, entropy=0.0),
    ]


def test_every_question_of_the_evaluation_is_marked(built):
    model, processor, _ = built("internvl")
    results = evaluate(as_vlm(model, processor), ("scenes", "clips"), size=4, most_images=3)
    kinds = {(cell["world"], cell["kind"], cell["num_images"]) for cell in results["cells"]}
    assert {("scenes", "indexed", 2), ("scenes", "indexed", 3), ("clips", "indexed", 2)} <= kinds
    assert ("clips", "indexed", 3) not in kinds  # 24 frames are more than a prompt takes
    for cell in results["cells"]:
        assert len(cell["candidates"]) == len(cell["text"]) == len(cell["category"])
        assert len(cell["candidates"]) == len(cell["group"])
        assert set(cell["candidates"]) <= set("+x-")
        assert set(cell["text"]) <= set("+x-?")
    one = evaluate(
        as_vlm(model, processor), ("scenes",), size=4, most_images=2, kinds=("matching",)
    )
    assert [cell["kind"] for cell in one["cells"]] == ["matching text", *["matching image"] * 2]
    assert one["rows"] == []


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: dataclasses.replace(SINGLE, single_shares=(0.5, 0.5)), "single_shares"),
        (lambda: dataclasses.replace(SINGLE, worlds={"scenes": 0.7}), "worlds"),
        (lambda: dataclasses.replace(SINGLE, emphasis={"colour": 2.0}), "emphasis"),
        (lambda: dataclasses.replace(SINGLE, clean_multi=1.5), "clean_multi"),
        (
            lambda: dataclasses.replace(SINGLE, clean_multi=0.6, masked_multi=0.6),
            "clean_multi + masked_multi + abstain_multi + guess_multi + abstain_single",
        ),
        (lambda: Stage(name="x", steps=0, learning_rate=1.0, mixture=SINGLE), "steps"),
        (
            lambda: Stage(name="x", steps=1, learning_rate=1.0, schedule="linear", mixture=SINGLE),
            "schedule",
        ),
        (lambda: Architecture(heads=3), "heads"),
        (lambda: Architecture(patch=33), "patch"),
        (lambda: architecture_of(Architecture()).build(Architecture(patch=5), seed=0), "patch"),
        (lambda: Architecture(layers=0), "layers"),
        (lambda: architecture_of(Architecture()).build(Architecture(patch=32), seed=0), "patch"),
        (lambda: build_bank({"scenes": 0}, seed=0), "scenes"),
    ],
)
def test_bad_values_are_named(make, name):
    with pytest.raises(InvalidValueError) as error:
        make()
    assert error.value.name == name


@pytest.mark.parametrize(
    "make",
    [
        lambda: architecture_of(Architecture(family="gpt")),
        lambda: Mixture(worlds={"seas": 1.0}),
        lambda: build_bank({"seas": 1}, seed=0),
    ],
)
def test_unknown_names_are_named(make):
    with pytest.raises(UnknownNameError):
        make()
