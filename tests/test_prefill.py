"""Where the prompt is cut, what each chunk costs, and that no cut changes a logit."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from focus.branches import BranchPlan, clean_plan, focus_plan
from focus.decoding import Focus, GenerationSettings, Plain, Request
from focus.decoding.preparing import prepare
from focus.generate import encode_contents
from focus.models.tiny import build_tiny
from focus.prefill import NaiveRows, PromptRow, SharedPrefixRows, prefill_chunks, slots_between
from focus.prompts import Prompt

BOUND = 1e-4
ONE_TOKEN = GenerationSettings(max_new_tokens=1)
SPREAD = ((5, 9), (12, 16), (20, 24))  # text before, between and after
FIRST = ((0, 4), (7, 11), (15, 19))  # an image is the first thing in the prompt
ADJACENT = ((3, 7), (7, 11), (11, 15))


def cut(spans, plan, length=30):
    ids = torch.zeros(1, length, dtype=torch.long)
    prompt = Prompt(ids, spans, ids, "")
    chunks = prefill_chunks([PromptRow(prompt, row) for row in plan.rows])
    slots = [list(slots_between(prompt, start, end)) for start, end in chunks]
    return [(start, end or length, each) for (start, end), each in zip(chunks, slots, strict=True)]


@pytest.mark.parametrize(
    ("spans", "plan", "expected"),
    [
        (SPREAD, focus_plan(3), [(0, 5, []), (5, 12, [0]), (12, 20, [1]), (20, 30, [2])]),
        (FIRST, focus_plan(3), [(0, 7, [0]), (7, 15, [1]), (15, 30, [2])]),
        (ADJACENT, focus_plan(3), [(0, 3, []), (3, 7, [0]), (7, 11, [1]), (11, 30, [2])]),
        # Only image 1 is ever clean: what comes before it is common to both rows.
        (SPREAD, focus_plan(3, targets=[1]), [(0, 12, [0]), (12, 30, [1, 2])]),
        # One group: rows part at its first image and stay two.
        (SPREAD, focus_plan(3, targets=[(0, 2)]), [(0, 5, []), (5, 30, [0, 1, 2])]),
        # Noise of its own in every row: nothing is common after the first image starts.
        (SPREAD, focus_plan(3, sharing="branch"), [(0, 5, []), (5, 30, [0, 1, 2])]),
        # Blends: noise, clean and blend part at image 0; branches 2 and 3 at image 1.
        (SPREAD, focus_plan(3, scale=0.5), [(0, 5, []), (5, 12, [0]), (12, 30, [1, 2])]),
        (SPREAD, clean_plan(3), [(0, 30, [0, 1, 2])]),
        (FIRST, clean_plan(3), [(0, 30, [0, 1, 2])]),
        (((0, 30),), focus_plan(1), [(0, 30, [0])]),
    ],
)
def test_the_prompt_is_cut_where_rows_part(spans, plan, expected):
    assert cut(spans, plan) == expected


@pytest.fixture
def spy(vlm):
    """Shapes ``(rows, tokens)`` of every forward pass of the language model."""
    shapes = []
    hook = vlm.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    yield shapes
    hook.remove()


def test_the_batch_grows_by_one_row_per_image(vlm, ask, spy):
    request = ask(4)
    decoded = Focus().decode(vlm, request, GenerationSettings(max_new_tokens=3))
    spans = spans_of(vlm, request)
    cuts = [0, *(start for start, _ in spans), decoded.prompt_tokens]
    widths = [end - start for start, end in itertools.pairwise(cuts)]
    assert spy == [*zip([1, 2, 3, 4, 5], widths, strict=True), (5, 1), (5, 1)]

    spy.clear()
    Focus(prefill="naive").decode(vlm, request, GenerationSettings(max_new_tokens=3))
    assert spy == [(5, decoded.prompt_tokens), (5, 1), (5, 1)]


def spans_of(vlm, request):
    focus = Focus()
    return prepare(vlm, request, focus.plan(request), focus.combine).prompt.spans


def test_plain_decoding_is_one_pass_over_the_prompt(vlm, ask, spy):
    decoded = Plain().decode(vlm, ask(4), ONE_TOKEN)
    assert spy == [(1, decoded.prompt_tokens)]


@pytest.mark.parametrize("architecture", ["internvl", "llava_onevision", "qwen2_5_vl"])
def test_number_of_images_that_are_encoded(architecture, ask):
    """Counted at the vision tower, where they cost: N(N+1) published, 2N and N with sharing."""
    vlm, request, n = build_tiny(architecture), ask(4), 4
    if architecture == "internvl":
        vlm.processor.image_processor.crop_to_patches = False  # one tile per image, to count them
    tower = vlm.model.model.visual if "qwen" in architecture else vlm.model.model.vision_tower
    counts = []

    def count(_, args, kwargs):
        given = kwargs.get("grid_thw", kwargs.get("pixel_values", args[0] if args else None))
        counts.append(len(given))

    tower.register_forward_pre_hook(count, with_kwargs=True)

    def encoded(decoding, request=request):
        counts.clear()
        decoded = decoding.decode(vlm, request, ONE_TOKEN)
        return sum(counts), decoded.num_encoded

    assert encoded(Plain()) == (n, n)
    assert encoded(Focus()) == (2 * n, 2 * n)
    assert encoded(Focus(sharing="branch", prefill="naive")) == (n * (n + 1), n * (n + 1))
    assert encoded(Focus.official()) == (n * (n + 1), n * (n + 1))
    # Each of N branches keeps one clean image, so it draws N - 1 noise images; the reference N.
    distinct = n + n * (n - 1) + n
    assert encoded(Focus(sharing="branch")) == (distinct, distinct)
    # A run encodes its noise once; what one request reports does not depend on which came first.
    assert encoded(Focus(sharing="run")) == (2 * n, n)
    assert encoded(Focus(sharing="run")) == (n, n)
    assert encoded(Focus(sharing="run"), replace(request, sample_id="other")) == (n, n)


@pytest.mark.parametrize("encode_batch", [1, 3, 100])
def test_no_call_encodes_more_images_than_allowed(vlm, ask, monkeypatch, encode_batch):
    sizes, encode = [], vlm.family.encode

    def counted(model, images):
        sizes.append(len(images))
        return encode(model, images)

    expected = Focus().decode(vlm, ask(4), ONE_TOKEN, keep_logits="all")
    monkeypatch.setattr(vlm.family, "encode", counted)
    focus = Focus(encode_batch=encode_batch)
    decoded = focus.decode(vlm, ask(4), ONE_TOKEN, keep_logits="all")
    assert sum(sizes) == 8
    assert max(sizes) == min(encode_batch, 8)
    difference = decoded.branch_logits[0] - expected.branch_logits[0]
    assert difference.abs().max() <= BOUND


def both_rows(vlm, request, plan):
    """The same plan with shared prefixes and as one naive batch."""
    branches = prepare(vlm, request, plan, lambda logits: logits[0])
    features = encode_contents(vlm.model, branches)
    parts, prompt = (vlm.model, vlm.family), branches.prompt
    rows = [PromptRow(prompt, row) for row in plan.rows]
    naive = NaiveRows(*parts, prompt, plan.rows, branches.images)
    return SharedPrefixRows(*parts, rows, features), naive


@torch.no_grad()
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 2, 1], [2, 2, 0, 1, 3, 0], [1, 1]])
@pytest.mark.parametrize(
    "question", ["<image><image><image> what", "a <image> b <image> c <image>"]
)
def test_rows_come_back_in_the_order_of_the_plan(vlm, images, question, order):
    """Also where rows are equal, which run once and are then duplicated."""
    plan = focus_plan(3)
    rows = tuple(plan.rows[k] for k in order)
    plan = BranchPlan(rows, has_reference=False, units=((0,),) * len(rows))
    shared, naive = both_rows(vlm, Request(images[:3], question, "sample"), plan)
    twenty, thirty = (torch.full((len(order),), token) for token in (20, 30))
    logits, others = (
        [each.prefill(), each.step(twenty), each.step(thirty)] for each in (shared, naive)
    )
    for ours, theirs in zip(logits, others, strict=True):
        assert ours.shape == (len(order), vlm.model.config.text_config.vocab_size)
        assert (ours - theirs).abs().max() <= BOUND
        for one, other in ((0, 1), (0, -1)):
            same = order[one] == order[other]
            assert ((ours[one] - ours[other]).abs().max() <= BOUND) == same


@torch.no_grad()
def test_each_sequence_of_each_row_keeps_its_own_cache(vlm, ask):
    """Row-major order of the repeated caches: a mix-up would swap texts between branches."""
    request = ask(2)
    plan = focus_plan(2)
    together, _ = both_rows(vlm, request, plan)
    together.prefill()
    together.select([row for row in range(3) for _ in range(3)])
    tokens = [torch.tensor([20, 30, 40]), torch.tensor([21, 31, 41])]
    logits = [together.step(token.repeat(3)).unflatten(0, (3, 3)) for token in tokens]
    for sequence in range(3):
        _, alone = both_rows(vlm, request, plan)
        alone.prefill()
        for step, token in enumerate(tokens):
            expected = alone.step(token[sequence].repeat(3))
            difference = logits[step][:, sequence] - expected
            assert difference.abs().max() <= BOUND
    assert (logits[1][:, 0] - logits[1][:, 1]).abs().max() > 100 * BOUND  # control


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [None, 8])
def test_exact_with_eager_attention_and_sliding_windows(ask, attention, window):
    """The window is shorter than a chunk, so a cache that forgets too early would show."""
    vlm = build_tiny("qwen2_5_vl")
    if window:
        config = copy.deepcopy(vlm.model.config)
        config.text_config.use_sliding_window = True
        config.text_config.sliding_window = window
        config.text_config.layer_types = ["sliding_attention", "full_attention"] * 2
        config.text_config.layer_types = config.text_config.layer_types[:3]
        windowed = type(vlm.model)(config).eval()
        windowed.load_state_dict(vlm.model.state_dict())
        plain = both_rows(vlm, ask(4), focus_plan(4))[1].prefill()
        vlm = replace(vlm, model=windowed)
        assert (both_rows(vlm, ask(4), focus_plan(4))[1].prefill() - plain).abs().max() > 0.01
    vlm.model.set_attn_implementation(attention)
    shared, naive = both_rows(vlm, ask(4), focus_plan(4))
    assert (shared.prefill() - naive.prefill()).abs().max() <= BOUND
    for token in range(20, 32):
        step = torch.full((5,), token)
        assert (shared.step(step) - naive.step(step)).abs().max() <= BOUND
