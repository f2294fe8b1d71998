"""Composed and hidden images: equal to one sequence with every copy of an image and a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageOps
from test_engine import GREEDY, compare, picture, questions

from focus.branches import Content
from focus.decoding import (
    AdaptiveFocus,
    ComposedFocus,
    Focus,
    GenerationSettings,
    MaskedFocus,
    Plain,
    Request,
)
from focus.decoding.shown import ShownImages, photograph
from focus.engines import LocalEngine
from focus.errors import InvalidValueError, UnsupportedGenerationError
from focus.generate import BranchedPrompt, encode_contents
from focus.noise import NoiseConfig

BOUND = 1e-4
STRATEGIES = (
    *(ComposedFocus(), ComposedFocus(flow="isolated", sharing="run"), ComposedFocus(routed=True)),
    *(ComposedFocus(noise=NoiseConfig(scale=0.5)), ComposedFocus(targets="named")),
    *(MaskedFocus(), MaskedFocus(layers=(1,)), MaskedFocus(flow="isolated")),
    *(ComposedFocus(flow="crossed"), ComposedFocus(flow="crossed", routed=True, targets="named")),
    ComposedFocus(flow="stand_in", sharing="run"),
    *(Plain(flow="isolated"), AdaptiveFocus(threshold=0.02, flow="kept")),
)


def name(strategy) -> str:
    return str(strategy).replace("NoiseConfig", "")[:60]


@torch.no_grad()
def emulated(vlm, prompt: BranchedPrompt, tokens=()) -> list[torch.Tensor]:
    """Logits of every row, from one sequence without a cache: all runs, then the row's text.

    A second road to the definition: [run, run, .., text], each token at its place in the prompt,
    and a mask that says who sees whom.
    """
    family, model = vlm.family, vlm.model
    ids, positions = prompt.prompt.input_ids, prompt.prompt.position_ids
    spans, lead, end = prompt.prompt.spans, prompt.prompt.spans[0][0], prompt.prompt.spans[-1][1]
    features = encode_contents(model, prompt)
    number, logits = len(spans), []
    for row in prompt.plan.rows:
        shown = [Content(c.slot, "clean") if c.kind == "hidden" else c for c in row]
        places, images, kinds = [], [], []  # of the tokens before the row's text
        # Noise behind a clean image, which has seen other than noise.
        seen = {"crossed": "clean", "stand_in": "stand-in"}.get(prompt.flow)
        behind = [c for c in shown if seen and c.kind != "clean"
                  and any(other.kind == "clean" for other in shown[: c.slot])]  # fmt: skip
        if prompt.flow != "isolated":
            runs = [*(c.kind for c in shown), *([seen] if behind else [])]
            for kind in dict.fromkeys(runs):
                places += range(end)
                kinds += [kind] * end
                images += [Content(slot, kind) for slot in range(number)]
            for content in behind:
                a, b = spans[content.slot]
                places += range(a, b)
                kinds += [content] * (b - a)
                images.append(content)
        else:
            for content, (a, b) in zip(shown, spans, strict=True):
                places += [*range(lead), *range(a, b)]
                kinds += [content] * (lead + b - a)
                images.append(content)
        text = [p for p in range(lead, ids.shape[1]) if not any(a <= p < b for a, b in spans)]
        hidden = {spans[c.slot] for c in row if c.kind == "hidden"}
        sees = []
        for p in [*text, *[ids.shape[1]] * len(tokens)]:
            keys = []
            for k, place in enumerate(places):
                span = next(((a, b) for a, b in spans if a <= place < b), None)
                if span is None:
                    keys.append(place < lead and k == place)
                else:
                    mine = shown[spans.index(span)]
                    apart = prompt.flow == "isolated" or mine in behind
                    there = kinds[k] == (mine if apart else mine.kind)
                    keys.append(there and span[1] <= p and span not in hidden)
            sees.append(keys)
        before, total = len(places), len(places) + len(text) + len(tokens)
        visible = torch.zeros(total, total, dtype=torch.bool)
        names = {kind: at for at, kind in enumerate(kinds)}
        run = torch.tensor([names[kind] for kind in kinds])
        visible[:before, :before] = (run[:, None] == run).tril()
        for k, kind in enumerate(kinds):
            if kind in behind:
                there = [kinds[j] == seen and places[j] < spans[kind.slot][0]
                         for j in range(before)]  # fmt: skip
                visible[k, :before] |= torch.tensor(there)
        visible[before:, :before] = torch.tensor(sees)
        visible[before:, before:] = torch.ones(total - before, total - before).tril().bool()
        all_ids = torch.cat([ids[:, places + text], torch.tensor([list(tokens)]).long()], dim=1)
        new = positions.max() + 1 + torch.arange(len(tokens)).expand(*positions.shape[:-1], -1)
        at = torch.cat([positions[..., places + text], new], dim=-1)
        outputs = model.get_decoder()(
            **family.embedded(model, all_ids, [features[content] for content in images]),
            position_ids=at,
            attention_mask=visible[None, None],
        )
        logits.append(model.get_output_embeddings()(outputs.last_hidden_state[0, -1]).float())
    return logits


@pytest.mark.parametrize("strategy", [STRATEGIES[k] for k in (0, 1, 5, 7, 8, 10, 11)], ids=name)
def test_rows_are_those_of_one_sequence_with_a_mask(any_vlm, strategy):
    """The contract, while decoding too; that flows differ from FOCUS shows the test can fail."""
    settings = GenerationSettings(max_new_tokens=2)
    for number in (1, 2, 4, 8):
        images = tuple(picture(number + k, 32 + 8 * (k % 3)) for k in range(number))
        images = (*images[:-1], images[0]) if number == 4 else images  # one picture in two places
        text = "first " + " and ".join(["image <image>"] * number) + " which is red ?"
        request = Request(images, text, str(number), targets=(number - 1,))
        prompt = strategy.one_pass(any_vlm, request).prepare(any_vlm, seed=0, keep_logits="none")
        image = [any_vlm.family.image_token_id(any_vlm.model)]  # stands for images in `emulated`
        found = strategy.decode(
            any_vlm, request, settings, keep_logits="all", suppress_tokens=image
        )
        exact = Focus().decode(any_vlm, request, settings, keep_logits="all")
        for step, rows in enumerate(found.branch_logits):
            said = found.token_ids[0][:step]
            for row, expected in zip(rows[:, 0], emulated(any_vlm, prompt, said), strict=True):
                assert float((row - expected).abs().max()) <= BOUND
        if number > 1 and not isinstance(strategy, Plain):
            rows = exact.branch_logits[0][-1] - found.branch_logits[0][-1]
            assert float(rows.abs().max()) > 100 * BOUND


def test_the_reference_of_kept_flow_is_that_of_focus_and_one_image_is_plain_decoding(any_vlm):
    """Crossed, so is the branch of the first image, if there are two."""
    for request in questions(1, 2, 3):
        exact = Focus().decode(any_vlm, request, GREEDY, keep_logits="first").branch_logits[0]
        for flow in ("kept", "crossed", "stand_in"):
            ours = ComposedFocus(flow=flow)
            rows = ours.decode(any_vlm, request, GREEDY, keep_logits="first").branch_logits[0]
            assert float((rows[0] - exact[0]).abs().max()) <= BOUND
            if len(request.images) == 2:
                first = float((rows[1] - exact[1]).abs().max())
                assert first <= BOUND if flow == "crossed" else first > 100 * BOUND
        routed = ComposedFocus(routed=True).decode(any_vlm, request, GREEDY, keep_logits="first")
        plain = Plain().decode(any_vlm, request, GREEDY, keep_logits="first").branch_logits[0]
        assert float((routed.branch_logits[0][-1] - plain[0]).abs().max()) <= BOUND


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_together_as_one_by_one(vlm, strategy):
    sampled = GenerationSettings(max_new_tokens=3, temperature=1.0, num_return_sequences=2)
    for settings in (GREEDY, sampled):
        assert compare(LocalEngine(vlm), strategy, questions(1, 2, 3), settings) <= BOUND


def test_with_eager_attention_and_little_memory(own_vlm):
    """The same with another attention, with passes that are cut, and from a cache of 0 bytes."""
    own = ComposedFocus(), MaskedFocus(layers=(0,))
    expected = [s.decode_many(LocalEngine(own_vlm), questions(3), GREEDY, keep_logits="first")
                for s in own]  # fmt: skip
    own_vlm.model.set_attn_implementation("eager")
    small = replace(own_vlm, known_states=type(own_vlm.known_states)(1, lambda entry: entry.nbytes))
    engine = LocalEngine(small)
    engine._most_tokens = 24
    for strategy, many in zip(own, expected, strict=True):
        found = strategy.decode_many(engine, questions(3), GREEDY, keep_logits="first")
        for ours, theirs in zip(found, many, strict=True):
            difference = ours.combined_logits[0] - theirs.combined_logits[0]
            assert float(difference.abs().max()) <= BOUND
            assert ours.token_ids == theirs.token_ids
    assert len(small.known_states) == 0


def test_prompts_of_different_flows_can_be_asked_together(vlm):
    """They do not share a batch, whose rows all have one way of coming about."""
    (request,) = questions(2)[2:]
    strategies = (Plain(), ComposedFocus(), ComposedFocus(flow="isolated"), MaskedFocus(),
                  MaskedFocus(layers=(0,)))  # fmt: skip
    prompts = [s.one_pass(vlm, request).prepare(vlm, seed=0, keep_logits="first")
               for s in strategies]  # fmt: skip
    for strategy, found in zip(strategies, LocalEngine(vlm).generate(prompts, GREEDY), strict=True):
        alone = strategy.decode(vlm, request, GREEDY, keep_logits="first").branch_logits[0]
        assert float((found.branch_logits[0] - alone).abs().max()) <= BOUND


def test_hiding_in_no_layer_is_plain_decoding_and_in_one_layer_something_between(vlm):
    (request,) = questions(2)[2:]
    first = {
        layers: MaskedFocus(layers=layers).decode(vlm, request, GREEDY, keep_logits="first")
        .branch_logits[0] for layers in ((), (0,), "all")
    }  # fmt: skip
    plain = Plain().decode(vlm, request, GREEDY, keep_logits="first").branch_logits[0]
    assert float((first[()] - plain).abs().max()) <= BOUND
    assert float((first[0,] - plain).abs().max()) > 100 * BOUND
    assert float((first[0,] - first["all"]).abs().max()) > 100 * BOUND


def test_images_run_once_for_all_questions_about_them(own_vlm, monkeypatch):
    """Isolated, in any question, order and strategy; kept, where the images before are the same."""
    vlm = own_vlm
    decoder, tokens = vlm.model.get_decoder(), []
    monkeypatch.setattr(type(decoder), "forward", counting(type(decoder).forward, tokens))
    first, second, _ = questions(3)
    swapped = replace(first, images=(first.images[0], *first.images[:0:-1]))

    def run(strategy, request) -> int:
        tokens.clear()
        strategy.decode(vlm, request, GenerationSettings(max_new_tokens=1))
        return sum(tokens)

    kept = ComposedFocus(sharing="run")
    run(kept, first)
    run(ComposedFocus(flow="crossed", sharing="run"), first)
    isolated = Plain(flow="isolated")
    run(isolated, first)
    text = run(isolated, second)
    assert run(kept, second) == 4 * text
    assert run(ComposedFocus(flow="crossed", sharing="run"), second) == 4 * text
    # A stand-in is the same whatever the images, so that noise behind it runs once for all.
    stands_in = ComposedFocus(flow="stand_in", sharing="run")
    run(stands_in, first)
    new, newer = (replace(first, images=tuple(picture(start + k, *image.size)
                                              for k, image in enumerate(first.images)))
                  for start in (70, 80))  # fmt: skip
    assert run(stands_in, new) == run(kept, newer) > 4 * text
    composed = ComposedFocus(flow="isolated", sharing="run")
    assert run(composed, second) > 4 * text == run(composed, second)  # noise was new
    assert run(Plain(), second) > text
    # Adaptive, both passes run the images once: the plain row is text alone.
    other, third = (replace(first, images=tuple(picture(n + k, 40 + 8 * k) for k in range(3)))
                    for n in (40, 50))  # fmt: skip
    unsure = AdaptiveFocus(threshold=1, flow="kept", sharing="run")
    plain_text = text - second_longer(first, second)
    assert run(unsure, other) == run(kept, third) + plain_text
    # Two images have changed places and are wider than each other: they are run again, the first
    # and all noise that keeps its place are not.
    assert text < run(isolated, swapped) < run(Plain(), swapped)


def second_longer(first: Request, second: Request) -> int:
    """Words by which the second question is longer."""
    return len(second.question.split()) - len(first.question.split())


def counting(forward, tokens):
    def counted(self, *args, **kwargs):
        tokens.append(kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1])
        return forward(self, *args, **kwargs)

    return counted


def test_a_stand_in_is_the_same_photograph_whatever_the_image(any_vlm):
    first, second = (
        ShownImages(any_vlm, Request((picture(number, 48),), "<image> ?", str(number)))
        for number in (1, 2)
    )
    stands_in = first.stand_in(0)
    assert stands_in.key == second.stand_in(0).key
    assert stands_in.num_tokens == first.clean(0).num_tokens
    for shown in any_vlm.family.views(any_vlm.processor, stands_in):
        expected = np.asarray(ImageOps.fit(photograph(), shown.size), dtype=float)
        assert np.abs(np.asarray(shown, dtype=float) - expected).mean() <= 1


@pytest.mark.parametrize(("flow", "times"), [("kept", 2), ("crossed", 2.75), ("stand_in", 2.75)])
def test_keys_and_values_of_images_are_kept_once(vlm, flow, times):
    """Twice plain decoding's for the images (clean and noise; all noise but the first once more, if
    it is to see something else), and the text of each row."""
    request = Request(tuple(picture(k, 64, 64) for k in range(4)), "<image>" * 4 + "what ?", "s")
    strategy = ComposedFocus(flow=flow)
    prompt = strategy.one_pass(vlm, request).prepare(vlm, seed=0, keep_logits="none")
    from focus.engines.flight import Flight

    features = {prompt.images[c].key: f for c, f in encode_contents(vlm.model, prompt).items()}
    rows = Flight(vlm, [prompt], features)._rows
    with torch.no_grad():
        rows.prefill()
        rows.step(torch.zeros(5, dtype=torch.long))
    layer = rows._cache.layers[0]
    (start, _), *_, (_, end) = prompt.prompt.spans
    images = sum(b - a for a, b in prompt.prompt.spans)
    text = prompt.prompt.input_ids.shape[1] - end + (end - start - images) + 1
    expected = start + times * images + 5 * text
    per_token = layer.num_bytes / expected
    assert per_token == 2 * 4 * layer.keys.shape[1] * layer.keys.shape[3]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ComposedFocus(sharing="branch"), "'sample' or 'run'"),
        (lambda: ComposedFocus(prefill="naive"), "'shared'"),
        (lambda: ComposedFocus(flow="row"), "'kept', 'crossed', 'stand_in' or 'isolated'"),
        (lambda: MaskedFocus(flow="row"), "'kept' or 'isolated'"),
        (lambda: MaskedFocus(layers=[-1]), "layer indices"),
        (lambda: Plain(flow="row"), "'isolated'"),
        (lambda: Plain(flow="isolated", flat_images=True), "without flat_images"),
        (lambda: AdaptiveFocus(flow="none"), "'stand_in' or 'isolated'"),
    ],
)
def test_settings_that_are_not_accepted(make, said):
    with pytest.raises(InvalidValueError, match=said):
        make()


def test_attention_that_takes_no_mask_is_refused(own_vlm):
    own_vlm.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    (request,) = questions(2)[:1]
    with pytest.raises(UnsupportedGenerationError, match="sdpa or eager"):
        MaskedFocus().decode(own_vlm, request, GREEDY)


def test_layers_with_a_window_are_refused(own_vlm):
    own_vlm.model.config.get_text_config().sliding_window = 8
    own_vlm.model.config.get_text_config().layer_types = ["sliding_attention", "full_attention"]
    (request,) = questions(2)[:1]
    with pytest.raises(UnsupportedGenerationError, match="sliding window"):
        ComposedFocus().decode(own_vlm, request, GREEDY)
