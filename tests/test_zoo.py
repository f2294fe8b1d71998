"""The embedded models: prompts as the processor makes them, training that resumes, an export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from focus.benchmarks.shapes import IndexedQuestion, MinimalPair, SingleImage
from focus.errors import InvalidValueError
from focus.models.internvl import InternVL, InternVLImageProcessor
from focus.prompts import build_prompt, chat_messages
from focus.randomness import generator
from focus.zoo import card as card_module
from focus.zoo.bank import NOISE, NOISE_NAMES, build_bank, normalised, stack
from focus.zoo.build import Architecture, build_model, build_processor
from focus.zoo.encoding import encode_answer, encode_prompt
from focus.zoo.evaluation import (
    Accuracy,
    branch_logits,
    combined,
    pair_score,
    plain_logits,
)
from focus.zoo.mixture import Mixture, clean_item, draw_items, masked_item, single_item
from focus.zoo.questions import ORDINALS, UNKNOWN
from focus.zoo.training import Recipe, Stage, State, train
from focus.zoo.vocabulary import token_ids

TINY = Architecture(
    hidden=32, layers=2, heads=2, vision_hidden=32, vision_layers=1, vision_heads=2, expansion=2
)
MIX = Mixture(clean_multi=0.2, masked_multi=0.4, abstention=0.5, many_images=0.3)


def recipe(**changes) -> Recipe:
    settings = {
        "seed": 3,
        "stages": (
            Stage(name="single", steps=4, learning_rate=3e-3, warmup=2),
            Stage(name="multi", steps=4, learning_rate=3e-3, schedule="cosine", mixture=MIX),
        ),
        "architecture": TINY,
        "batch_size": 4,
        "per_truth": 2,
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
    return build_bank(seed=0, per_truth=2, noise_images=16)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, State]:
    folder = tmp_path_factory.mktemp("zoo")
    state = train(recipe(), folder / "checkpoints")
    card_module.export(
        state, recipe(), folder / "m", name="tiny", summary="Tiny.", command="none", size=3
    )
    return folder / "m", state


EXAMPLES = [
    *SingleImage(size=9),
    *IndexedQuestion(size=4, num_images=3),
    *IndexedQuestion(size=3, num_images=8),
    *MinimalPair(size=2, direction="both"),
]


def test_training_sees_what_the_processor_gives():
    """A model trained on other ids than it is used with fails in ways that look like science."""
    model, processor = build_model(TINY, seed=0), build_processor(Architecture())
    for example in EXAMPLES:
        text = processor.apply_chat_template(
            chat_messages(example.question), add_generation_prompt=True, tokenize=False
        )
        inputs = processor(text=text, images=list(example.images), return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == encode_prompt(example.question, 4)
        images = [InternVL().image_inputs(processor, image) for image in example.images]
        prompt = build_prompt(model, processor, InternVL(), example.question, images)
        assert prompt.input_ids[0].tolist() == encode_prompt(example.question, 4)
        torch.testing.assert_close(
            inputs["pixel_values"], normalised(stack(example.images), processor.image_processor)
        )
        for choice in example.choices:
            ids = processor.tokenizer(choice)["input_ids"]
            assert ids == encode_answer(choice)[:-1] == [token_ids()[choice]]


def test_letters_keep_their_case_and_words_lose_it():
    """The option "A" and the article "a" must stay apart, and "Red?" must be understood."""
    tokenizer = build_processor(TINY).tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Shows A a RED circle?")["input_ids"])
    assert tokens == ["shows", "A", "a", "red", "circle", "?"]
    assert tokenizer.unk_token_id in tokenizer("elephant")["input_ids"]


def test_the_model_is_the_real_architecture():
    model = build_model(Architecture(), seed=0)
    assert 1.0e6 < sum(p.numel() for p in model.parameters()) < 1.3e6
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.config.image_token_id == token_ids()["<IMG_CONTEXT>"]
    assert hasattr(model.model.language_model.layers[0].self_attn, "q_norm")
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    assert weight.std().item() == pytest.approx(0.08, rel=0.05)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build_model(TINY, seed=0).lm_head.weight
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the global generator was left alone
    assert torch.equal(first, build_model(TINY, seed=0).lm_head.weight)
    assert not torch.equal(first, build_model(TINY, seed=1).lm_head.weight)


def test_training_lowers_the_loss(tmp_path):
    stage = Stage(name="single", steps=60, learning_rate=3e-3, warmup=5)
    losses = train(recipe(stages=(stage,), batch_size=16), tmp_path).losses["single"]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


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


def test_recipes_that_begin_alike_share_their_first_stage(tmp_path):
    """The two models of the zoo must differ in one factor, so they share the rest to the bit."""
    one = recipe()
    other_multi = dataclasses.replace(
        one.stages[1], mixture=dataclasses.replace(MIX, abstention=0.0)
    )
    other = recipe(stages=(one.stages[0], other_multi))
    assert one.key(1) == other.key(1)
    assert one.key(2) != other.key(2)
    assert recipe(seed=4).key(1) != one.key(1)
    stages = []
    train(one, tmp_path)
    train(other, tmp_path, report=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"multi"}


def test_masked_questions_are_answerable_exactly_when_they_say_so(bank):
    scenes = bank.per_truth * 96
    for i in range(300):
        rng = generator(i)
        item = masked_item(bank, rng, num_images=3, abstain=bool(i % 2))
        (clean,) = [k for k, image in enumerate(item.images) if image < scenes]
        assert item.noise_images == 2
        assert (item.answer == UNKNOWN) == bool(i % 2)
        if f" the {ORDINALS[clean]} image ," in item.question:
            assert item.answer != UNKNOWN
        elif "which image" not in item.question:
            assert item.answer == UNKNOWN
        elif item.answer != UNKNOWN:
            assert item.answer == ORDINALS[clean]


def test_a_mixture_has_the_shares_that_it_names(bank):
    items = [
        item for step in range(100) for item in draw_items(MIX, bank, generator(step), size=20)
    ]
    total = len(items)
    masked = [item for item in items if item.noise_images]
    clean = [item for item in items if len(item.images) > 1 and not item.noise_images]
    abstained = [item for item in masked if item.answer == UNKNOWN]
    assert len(clean) / total == pytest.approx(0.2, abs=0.04)
    assert len(masked) / total == pytest.approx(0.4, abs=0.04)
    assert len(abstained) / len(masked) == pytest.approx(0.5, abs=0.06)
    assert not [item for item in items if item.answer == UNKNOWN and not item.noise_images]
    never = dataclasses.replace(MIX, abstention=0.0)
    answers = [x.answer for i in range(30) for x in draw_items(never, bank, generator(i), size=20)]
    assert UNKNOWN not in answers


def test_noise_in_training_hides_the_image_completely(bank):
    assert "imagenet+uniform" in NOISE_NAMES
    assert not {"shot", "impulse", "speckle", "imagenet+diffusion"} & set(NOISE_NAMES)
    rng = generator("rows")
    assert all(bank.draw(NOISE, rng) >= 96 * bank.per_truth for _ in range(20))


def test_every_training_answer_can_be_said(bank):
    for i in range(200):
        for item in (single_item(bank, generator(i)), clean_item(bank, generator(i), num_images=2)):
            encode_prompt(item.question, 4)
            assert encode_answer(item.answer)[-1] == token_ids()["<|end|>"]


def test_a_saved_model_loads_through_the_public_classes(exported):
    folder, state = exported
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = InternVLImageProcessor.from_pretrained(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(value, bits(state)[name].bfloat16().float()), name
    assert type(processor.image_processor).__name__ == "GotOcr2ImageProcessorPil"
    example = IndexedQuestion(size=1)[0]
    text = processor.apply_chat_template(
        chat_messages(example.question), add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=text, images=list(example.images), return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == encode_prompt(example.question, 4)
    out = model.generate(**inputs)
    assert not model.generation_config.do_sample
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 8
    quick = plain_logits(model, processor, [example])[0]
    with torch.no_grad():
        slow = model(**inputs).logits[0, -1]
    torch.testing.assert_close(quick, slow, atol=1e-4, rtol=1e-4)


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
    assert all(row in text for row in record["results"])
    assert card_module.is_exported(recipe(), folder)
    assert not card_module.is_exported(recipe(seed=4), folder)


def test_branches_hold_one_clean_image_and_the_reference_none():
    """Checked on the model itself: a branch must ignore the images that it masks."""
    model, processor = build_model(TINY, seed=0), build_processor(TINY)
    (example,) = IndexedQuestion(size=1, num_images=3)
    other = Image.new("RGB", (32, 32), "red")
    changed = dataclasses.replace(example, images=(other, *example.images[1:]))
    a, a_reference = branch_logits(model, processor, [example], seed=0)
    b, b_reference = branch_logits(model, processor, [changed], seed=0)
    assert a.shape == (1, 3, len(token_ids()))
    assert not torch.equal(a[:, 0], b[:, 0])
    assert torch.equal(a[:, 1:], b[:, 1:])
    assert torch.equal(a_reference, b_reference)
    # Scored in batches of another size the same question gives the same logits.
    more = branch_logits(model, processor, [changed, example], seed=0)[0][1:]
    torch.testing.assert_close(more, a, atol=1e-5, rtol=1e-5)


def test_the_combination_is_the_published_sum():
    branches = torch.tensor([[[2.0, 1.0], [0.0, 4.0]]])
    reference = torch.tensor([[1.0, 2.0]])
    expected = torch.tensor([[2.0 - 2 * 0.5 * 1.0, 5.0 - 2 * 0.5 * 2.0]])
    torch.testing.assert_close(combined(branches, reference, 0.5), expected)


def test_wilson_interval_matches_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for correct, total in [(0, 10), (7, 10), (400, 400), (199, 400)]:
        expected = proportion.proportion_confint(correct, total, method="wilson")
        assert Accuracy(correct, total).interval == pytest.approx(expected)


def test_a_pair_counts_only_if_both_members_are_right():
    pairs = list(MinimalPair(size=2))
    ids = token_ids()
    logits = torch.zeros(4, len(ids))
    for row, word in enumerate(["first", "second", "first", "first"]):
        logits[row, ids[word]] = 1.0
    assert pair_score(pairs, logits) == Accuracy(1, 2)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Mixture(single_shares=(0.5, 0.5)), "single_shares"),
        (lambda: Mixture(single_attributes=("colour",)), "single_attributes"),
        (lambda: Mixture(clean_multi=1.5), "clean_multi"),
        (lambda: Mixture(clean_multi=0.6, masked_multi=0.6), "masked_multi"),
        (lambda: Stage(name="x", steps=0, learning_rate=1.0), "steps"),
        (lambda: Stage(name="x", steps=1, learning_rate=1.0, schedule="linear"), "schedule"),
        (lambda: Architecture(heads=3), "heads"),
        (lambda: Architecture(patch=5), "patch"),
        (lambda: Architecture(layers=0), "layers"),
    ],
)
def test_bad_values_are_named(make, name):
    with pytest.raises(InvalidValueError) as error:
        make()
    assert error.value.name == name
