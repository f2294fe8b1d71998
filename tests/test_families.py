"""One contract, kept by every architecture: exact, equal to plain decoding, reloadable, unpatched.

The logits of the shared prefixes are compared with two others: the naive batch of all rows, and
the model's own forward pass over the whole sequence, without any cache, at every step. The last one
shares nothing with this package but the pictures. Logits, not tokens: on a tiny model a wrong cache
can choose the right tokens.
"""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURES, PARTS

from focus.decoding import Focus, GenerationSettings, Plain
from focus.decoding.shown import render
from focus.errors import InvalidValueError
from focus.models import Checkpoint, ImageBudget
from focus.models.tiny import BUILDERS
from focus.noise import NoiseConfig
from focus.prompts import build_prompt

STEPS = 7
BOUND = 1e-4  # between two ways to compute the same logits, float32
CONTROL = 100 * BOUND  # the least by which the rows of a plan must differ from each other

# Noise at the image's own size, so that the processor itself can be given the picture of every row;
# `test_rehearsal` holds noise at the size that the model sees to that.
NOISE, BLEND = NoiseConfig(drawn_at="image"), NoiseConfig(drawn_at="image", scale=0.5)
VARIANTS = {
    "sample": Focus(noise=NOISE, single_image="contrast"),
    "run": Focus(noise=NOISE, sharing="run"),
    "branch": Focus(noise=NOISE, sharing="branch", single_image="contrast"),
    "blend": Focus(noise=BLEND),
    "blend, branch": Focus(noise=BLEND, sharing="branch"),
    "groups": Focus(noise=NOISE, targets="named"),
}
CASES = [(1, "sample"), (1, "branch"), *itertools.product((2, 4), VARIANTS)]
TARGETS = {1: (0,), 2: (1,), 4: ((3, 0), 2)}  # a group, and units in another order than the images


def processor_inputs(vlm, rows):
    """What the processor itself makes of the chat and the pictures of each row."""
    content = [
        {"type": "text", "text": part} if part else {"type": "image"}
        for part in PARTS[len(rows[0])]
    ]
    chat = [{"role": "user", "content": content}]
    text = vlm.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = vlm.processor(text=[text] * len(rows), images=rows, return_tensors="pt")
    if vlm.family.name == "llava_onevision" and len(rows[0]) == 1:
        # Alone, an image would get anyres tiles; here it is treated as one of several.
        pairs = vlm.processor.image_processor([[*row, *row] for row in rows], return_tensors="pt")
        inputs["pixel_values"] = pairs["pixel_values"][::2]
        inputs["image_sizes"] = pairs["image_sizes"][::2]
        inputs["batch_num_images"] = torch.full((len(rows),), 2)
    return inputs


@torch.no_grad()
def logits_without_cache(vlm, rows, tokens):
    """``[step, row, vocab]``: the whole sequence through the model's own forward at every step."""
    inputs = processor_inputs(vlm, rows)
    inputs.pop("attention_mask")
    prompt, logits = inputs.pop("input_ids"), []
    for step in range(len(tokens)):
        new = torch.tensor([tokens[:step]] * len(rows), dtype=torch.long)
        if "mm_token_type_ids" in inputs:  # from which Qwen works out positions
            types = (prompt == vlm.model.config.image_token_id).int()
            inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(new).int()], dim=1)
        ids = torch.cat([prompt, new], dim=1)
        logits.append(vlm.model(input_ids=ids, use_cache=False, **inputs).logits[:, -1])
    return torch.stack(logits)


@pytest.mark.parametrize(("num_images", "variant"), CASES)
def test_branch_logits_are_exact(any_vlm, ask, words_only, num_images, variant):
    focus, request = VARIANTS[variant], ask(num_images, targets=TARGETS[num_images])
    settings = GenerationSettings(max_new_tokens=STEPS)
    shared, naive = (
        replace(focus, prefill=prefill).decode(
            any_vlm, request, settings, keep_logits="all", **words_only
        )
        for prefill in ("shared", "naive")
    )
    plan = focus.plan(request)
    shown = render(plan, request, focus.noise, per_run=focus.sharing == "run")
    rows = [[shown[content] for content in row] for row in plan.rows]
    own = logits_without_cache(any_vlm, rows, shared.token_ids[0])

    logits = torch.stack(shared.branch_logits)[:, :, 0]  # [step, row, vocab]
    assert len(logits) == STEPS
    assert (logits - torch.stack(naive.branch_logits)[:, :, 0]).abs().max() <= BOUND
    assert (logits - own).abs().max() <= BOUND
    for one, other in itertools.combinations(range(len(rows)), 2):  # control: rows do differ
        assert (own[:, one] - own[:, other]).abs().max() > CONTROL


@pytest.mark.parametrize("num_images", [1, 2, 4])
def test_plain_decoding_is_generate(any_vlm, ask, images, num_images):
    settings = GenerationSettings(max_new_tokens=STEPS)
    decoded = Plain().decode(any_vlm, ask(num_images), settings, keep_logits="all")
    inputs = processor_inputs(any_vlm, [list(images[:num_images])])
    plain = any_vlm.model.generate(
        **inputs,
        max_new_tokens=STEPS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert plain.sequences[0, decoded.prompt_tokens :].tolist() == list(decoded.token_ids[0])
    difference = torch.stack(decoded.combined_logits) - torch.stack(plain.logits)
    assert difference.abs().max() <= BOUND


def test_focus_of_one_image_without_contrast_is_plain_decoding(any_vlm, ask, images):
    settings = GenerationSettings(max_new_tokens=STEPS)
    inputs = processor_inputs(any_vlm, [[images[0]]])
    plain = any_vlm.model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    for alpha, same in ((0.0, True), (0.9, False)):  # control: contrast changes something
        contrasted = Focus(alpha=alpha, single_image="contrast")
        decoded = contrasted.decode(any_vlm, ask(1), settings)
        ours = list(decoded.token_ids[0])
        assert (plain[0, decoded.prompt_tokens :].tolist() == ours) == same


@pytest.mark.parametrize("num_images", [2, 4])
def test_prompt_is_the_processors_own(any_vlm, ask, images, num_images):
    """Ids as the processor builds them; spans on the placeholders, inside their delimiters."""
    family, model, processor = any_vlm.family, any_vlm.model, any_vlm.processor
    inputs = [family.image_inputs(processor, image) for image in images[:num_images]]
    prompt = build_prompt(model, processor, family, ask(num_images).question, inputs)
    own = processor_inputs(any_vlm, [list(images[:num_images])])
    assert prompt.input_ids.tolist() == own["input_ids"].tolist()

    ids = prompt.input_ids[0].tolist()
    inside = [k for start, end in prompt.spans for k in range(start, end)]
    assert inside == [k for k, token in enumerate(ids) if token == family.image_token_id(model)]
    assert [end - start for start, end in prompt.spans] == [image.num_tokens for image in inputs]
    opening, closing = family.delimiters
    for start, end in prompt.spans:
        before, after = processor.tokenizer.convert_ids_to_tokens([ids[start - 1], ids[end]])
        assert (before, after) == (opening, closing) or (opening, closing) == ("", "")


def test_an_image_takes_the_same_tokens_in_any_company(any_vlm, images):
    """Upstream LLaVA-OneVision gives a lone image many tiles: strategies would not compare."""
    family, model, processor = any_vlm.family, any_vlm.model, any_vlm.processor
    alone = []
    for image in images:
        one = family.image_inputs(processor, image)
        alone.append(build_prompt(model, processor, family, "<image>what", [one]).spans[0])
    inputs = [family.image_inputs(processor, image) for image in images]
    together = build_prompt(model, processor, family, "<image>what" * 4, inputs).spans
    assert [end - start for start, end in alone] == [end - start for start, end in together]


def test_encoded_features_are_those_of_an_image_alone(any_vlm, images):
    family, processor = any_vlm.family, any_vlm.processor
    turned = images[-1].rotate(180)  # of the same size as the one before it
    inputs = [family.image_inputs(processor, image) for image in (*images, turned)]
    with torch.no_grad():
        together = family.encode(any_vlm.model, inputs)
        alone = [family.encode(any_vlm.model, [image])[0] for image in inputs]
    for image, one, other in zip(inputs, together, alone, strict=True):
        assert len(one.embeddings) == image.num_tokens
        assert len(one.deepstack) == (2 if family.name == "qwen3_vl" else 0)
        for x, y in zip(*(vars(f).values() for f in (one, other)), strict=True):
            torch.testing.assert_close(x, y, atol=BOUND, rtol=0)


def test_saved_and_reloaded_it_gives_the_same_logits(any_vlm, ask, tmp_path):
    any_vlm.model.save_pretrained(tmp_path)
    any_vlm.processor.save_pretrained(tmp_path)
    reloaded = Checkpoint(
        name="reloaded", source=str(tmp_path), dtype="float32", device="cpu"
    ).load()
    assert reloaded.family is any_vlm.family
    assert not reloaded.model.training
    settings = GenerationSettings(max_new_tokens=3)
    before, after = (
        Focus().decode(vlm, ask(2), settings, keep_logits="all") for vlm in (any_vlm, reloaded)
    )
    assert before.token_ids == after.token_ids
    assert torch.equal(torch.stack(before.branch_logits), torch.stack(after.branch_logits))


def test_decoder_layers_are_those_that_run_in_order(any_vlm, ask):
    layers = any_vlm.family.decoder_layers(any_vlm.model)
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: seen.append(index))
        for index, layer in enumerate(layers)
    ]
    Plain().decode(any_vlm, ask(1), GenerationSettings(max_new_tokens=1))
    for hook in hooks:
        hook.remove()
    assert seen == list(range(any_vlm.model.config.get_text_config().num_hidden_layers))


#: Per family: budgets one after the other, each with the sign of the change in an image's tokens.
BUDGETS = {
    "internvl": [({"max_tiles": 1}, -1), ({"max_tiles": 4}, +1)],
    "llava_onevision": [],
    "qwen2_5_vl": [({"max_pixels": 32**2}, -1), ({"min_pixels": 60**2, "max_pixels": 64**2}, +1)],
    "qwen3_vl": [({"max_pixels": 32**2}, -1), ({"min_pixels": 60**2, "max_pixels": 64**2}, +1)],
}


def test_budgets_change_the_tokens_of_an_image_and_foreign_ones_are_refused(any_vlm, images):
    family = any_vlm.family
    processor = copy.deepcopy(any_vlm.processor)
    for fields, sign in BUDGETS[family.name]:
        before = family.image_inputs(processor, images[1]).num_tokens
        family.set_budget(processor, ImageBudget(**fields))
        after = family.image_inputs(processor, images[1])
        assert (after.num_tokens - before) * sign > 0
        with torch.no_grad():  # the model agrees with the count
            assert len(family.encode(any_vlm.model, [after])[0].embeddings) == after.num_tokens
    own = {name for fields, _ in BUDGETS[family.name] for name in fields}
    for name in {"min_pixels", "max_pixels", "max_tiles"} - own:
        with pytest.raises(InvalidValueError, match=f"{name}=9 .*{family.name}"):
            family.set_budget(processor, ImageBudget(**{name: 9}))


def test_transformers_is_not_patched_and_torchvision_not_needed():
    """In a process of its own, where importing torchvision fails even if it is installed."""
    script = """
import sys
sys.modules["torchvision"] = None
from PIL import Image
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.generation import utils
watched = (GenerationMixin, PreTrainedModel, DynamicCache, utils)
before = [dict(vars(thing)) for thing in watched]

import focus
from focus.models.tiny import BUILDERS, build_tiny
for architecture in BUILDERS:
    vlm = build_tiny(architecture)
    settings = focus.GenerationSettings(max_new_tokens=2)
    for decoding in (focus.Focus(), focus.Focus.official(), focus.Plain()):
        focus.answer(vlm, [Image.new("RGB", (32, 32))] * 2, "what", decoding=decoding,
                     settings=settings)
after = [dict(vars(thing)) for thing in watched]
for old, new in zip(before, after):
    changed = [name for name in {*old, *new} if old.get(name) is not new.get(name)]
    changed = [name for name in changed if not name.startswith("_abc")]
    assert not changed, changed
assert sys.modules["torchvision"] is None
print("untouched")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip().endswith("untouched"), run.stderr


def test_in_bfloat16_shared_and_naive_rows_are_equally_far_from_the_exact_logits(any_vlm, ask):
    """They round in other places, so tokens may differ in close calls; neither is better."""
    half = replace(any_vlm, model=copy.deepcopy(any_vlm.model).bfloat16())
    exact = replace(any_vlm, model=copy.deepcopy(half.model).float())  # the same, rounded weights
    settings = GenerationSettings(max_new_tokens=1)

    def logits(vlm, prefill):
        found = [
            Focus(prefill=prefill).decode(
                vlm, ask(n, sample_id=f"{k}"), settings, keep_logits="all"
            )
            for n in (2, 4)
            for k in range(4)
        ]
        return torch.cat([each.branch_logits[0].flatten() for each in found])

    true = logits(exact, "naive")
    assert (logits(exact, "shared") - true).abs().max() <= BOUND
    shared, naive = ((logits(half, p) - true).square().mean().sqrt() for p in ("shared", "naive"))
    assert naive > 100 * BOUND / 10  # control: there is rounding to speak of
    assert 0.8 < shared / naive < 1.25


def test_every_architecture_is_tested():
    assert set(ARCHITECTURES) == set(BUILDERS)
