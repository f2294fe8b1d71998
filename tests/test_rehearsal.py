"""Dress rehearsal: the four families as their repositories ship them, on tiny random weights.

Right values are written out by hand: prompts as the vendors document them, tokens per image as the
checkpoints' own processors count them. Everything is loaded from a folder of files, and what is
compared with is the vendor's own processor and `generate`, not code of this package.
"""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rehearsal import END_TOKENS, FIRST_SPECIAL, FOLDERS, OLDER_LLAVA_TEMPLATE, write_folder
from transformers import (
    InternVLProcessor,
    LlavaOnevisionProcessor,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)

from focus.branches import focus_plan
from focus.decoding import Focus, GenerationSettings, Plain, Request
from focus.decoding.shown import ShownImages
from focus.doctor import plain_is_generate
from focus.errors import ContextLengthError
from focus.models import Checkpoint
from focus.noise import NoiseConfig
from focus.prompts import build_prompt, render_chat

BOUND = 1e-4  # between two ways to compute the same logits, float32
CONTROL = 100 * BOUND  # the least by which the rows of a plan must differ from each other

QUESTION = "First <image>, then <image>: which is red?"
SYSTEM = "Answer briefly."
SPAN = "<|vision_start|><|image_pad|><|vision_end|>"
#: Family to the user's turn, with text between the images and with both images first.
TURNS = {
    "internvl": (
        "<|im_start|>user\nFirst <img><IMG_CONTEXT></img>\n, then <img><IMG_CONTEXT></img>\n"
        ": which is red?<|im_end|>\n",
        "<|im_start|>user\n<img><IMG_CONTEXT></img>\n<img><IMG_CONTEXT></img>\n"
        "which is red?<|im_end|>\n",
    ),
    # The template itself would write "<image>\n<image>\nFirst , then : which is red?".
    "llava_onevision": (
        "<|im_start|>user\nFirst <image>, then <image>: which is red?<|im_end|>\n",
        "<|im_start|>user\n<image>\n<image>\nwhich is red?<|im_end|>\n",
    ),
    "qwen2_5_vl": (
        f"<|im_start|>user\nFirst {SPAN}, then {SPAN}: which is red?<|im_end|>\n",
        f"<|im_start|>user\n{SPAN}{SPAN}which is red?<|im_end|>\n",
    ),
    "qwen3_vl": (
        f"<|im_start|>user\nFirst {SPAN}, then {SPAN}: which is red?<|im_end|>\n",
        f"<|im_start|>user\n{SPAN}{SPAN}which is red?<|im_end|>\n",
    ),
}
DEFAULT_SYSTEM = {
    "qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
}
GIVEN_SYSTEM = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
ANSWER = "<|im_start|>assistant\n"

#: Tokens per image at the checkpoint's own budget.
SIZES = ((512, 512), (640, 480), (1024, 683), (1920, 1080))
TOKENS = {
    "internvl": (256, 3_328, 1_792, 2_304),
    "llava_onevision": (730, 730, 730, 730),
    "qwen2_5_vl": (324, 391, 888, 2_691),
    "qwen3_vl": (256, 300, 672, 2_040),
}

UPSTREAM = {
    "internvl": InternVLProcessor,
    "llava_onevision": LlavaOnevisionProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
}
#: Of unequal size, so that a wrong span shows; for InternVL two tiles and a thumbnail, and one.
SHOWN = ((280, 140), (100, 100))


@pytest.fixture(scope="module", params=list(FOLDERS))
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    folder.mkdir()
    write_folder(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def vlm(folder):
    return Checkpoint(name=folder.name, source=str(folder), dtype="float32", device="cpu").load()


@pytest.fixture(scope="module")
def shown():
    rng = np.random.default_rng(0)
    return tuple(
        Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
        for width, height in SHOWN
    )


@pytest.fixture(scope="module")
def request_(shown):
    return Request(shown, QUESTION, sample_id="sample")


def prompt_of(vlm, question, images, system=None):
    """Token ids of the prompt, and its text with one image token in place of each image's many."""
    inputs = [vlm.family.image_inputs(vlm.processor, image) for image in images]
    prompt = build_prompt(vlm.model, vlm.processor, vlm.family, question, inputs, system=system)
    ids = prompt.input_ids[0].tolist()
    short = list(ids)
    for start, end in reversed(prompt.spans):
        assert set(ids[start:end]) == {vlm.model.config.image_token_id}
        short[start + 1 : end] = []
    return ids, vlm.processor.tokenizer.decode(short)


@pytest.mark.parametrize("system", [None, SYSTEM])
def test_the_prompt_is_the_vendors(vlm, shown, system):
    """Read back from the ids, so that it holds of what the model is given."""
    name = vlm.family.name
    before = GIVEN_SYSTEM if system else DEFAULT_SYSTEM.get(name, "")
    for question, turn in zip((QUESTION, "<image><image>which is red?"), TURNS[name], strict=True):
        ids, text = prompt_of(vlm, question, shown, system)
        assert text == before + turn + ANSWER
        marks = [token for token in ids if FIRST_SPECIAL <= token <= END_TOKENS[0]]
        turns = 1 + bool(before)
        assert marks == [*[151_644, 151_645] * turns, 151_644]  # nothing before or between


def test_older_llava_files_keep_the_order_of_the_question(vlm):
    if vlm.family.name != "llava_onevision":
        return
    processor = copy.copy(vlm.processor)
    processor.chat_template = OLDER_LLAVA_TEMPLATE
    assert render_chat(processor, QUESTION, SYSTEM) == (
        f"<|im_start|>system \n{SYSTEM}<|im_end|>"
        "<|im_start|>user \nFirst <image>, then <image>: which is red?<|im_end|>"
        "<|im_start|>assistant\n"
    )
    assert render_chat(processor, "<image><image>which is red?") == (
        "<|im_start|>user <image><image>\nwhich is red?<|im_end|><|im_start|>assistant\n"
    )


#: Deviation of the published noise in grey levels: 255 / 12 ** .5 times the ImageNet deviations.
DEVIATION = 255 * 12**-0.5 * 0.2259
#: What is left of it where it is drawn at the photograph's size, as published, and Qwen2.5-VL sees
#: images of at most 512 x 512 pixels (the compact budget).
SHRUNK = {(512, 512): 13.3, (1280, 960): 6.1, (3000, 2000): 2.7}


def noise_seen(vlm, size, drawn_at):
    """Deviation of the noise in every view (tile) of the vision tower, in grey levels."""
    request = Request((Image.new("RGB", size),), "<image> which ?", "x")
    shown, content = ShownImages(vlm, request), focus_plan(1).rows[0][0]
    inputs = shown.masked(content, NoiseConfig(drawn_at=drawn_at), per_run=False)
    assert inputs.num_tokens == shown.clean(0).num_tokens
    views = vlm.family.views(vlm.processor, inputs)
    assert [view.size for view in views] == [view.size for view in shown.views(0)]
    return [float(np.asarray(view, float).var(axis=(0, 1)).mean() ** 0.5) for view in views]


def test_noise_reaches_the_model_undiminished(vlm):
    """Drawn at the photograph's size, as published, most of it is averaged away before that."""
    name = vlm.family.name
    if name == "qwen2_5_vl":
        vlm = replace(vlm, processor=copy.deepcopy(vlm.processor))
        vlm.family.set_budget(vlm.processor, vlm.family.named_budget(vlm.processor, "compact"))
    for size in SHRUNK if name == "qwen2_5_vl" else [(512, 512), (1200, 800)]:
        found = noise_seen(vlm, size, "model")
        assert found == pytest.approx([DEVIATION] * len(found), rel=0.01)  # thumbnails, too
        published = noise_seen(vlm, size, "image")
        if name == "qwen2_5_vl":
            assert published == pytest.approx([SHRUNK[size]], abs=0.3)
    assert min(published) < 0.95 * min(found)  # control, and the reason


def test_views_are_what_the_vision_tower_gets(vlm, shown):
    """To the bit where nothing is resized: back and forth, also for sizes near the limits."""
    for image in (*shown, Image.new("RGB", (1000, 60), "red"), Image.new("RGB", (90, 70))):
        inputs = vlm.family.image_inputs(vlm.processor, image)
        views = vlm.family.views(vlm.processor, inputs)
        again = vlm.family.view_inputs(vlm.processor, views)
        assert (again.num_tokens, again.placeholder) == (inputs.num_tokens, inputs.placeholder)
        torch.testing.assert_close(
            again.tensors["pixel_values"], inputs.tensors["pixel_values"], atol=0.02, rtol=0
        )
        for one, other in zip(views, vlm.family.views(vlm.processor, again), strict=True):
            assert one.tobytes() == other.tobytes()


def test_a_flat_list_means_any_resolution_tiles_to_llava_alone(vlm, request_):
    """So the published comparison of plain decoding with FOCUS also changes the resolution."""
    flat = replace(vlm, family=vlm.family.flat())
    if vlm.family.name != "llava_onevision":
        assert flat.family is vlm.family
        return
    counts = {(512, 512): (3699, 730), (640, 480): (2929, 730)}
    for size, expected in counts.items():
        image = Image.new("RGB", size)
        found = [v.family.image_inputs(v.processor, image).num_tokens for v in (flat, vlm)]
        assert tuple(found) == expected
    small = replace(request_, images=(request_.images[0], request_.images[1].resize((90, 70))))
    settings = GenerationSettings(max_new_tokens=4)
    tiles, one = (Plain(flat_images=f).decode(vlm, small, settings) for f in (True, False))
    assert min(tiles.image_tokens) > one.image_tokens[0] == one.image_tokens[1] == 730
    assert plain_is_generate(flat, [small], new_tokens=4).status == "ok"


@pytest.mark.parametrize(
    "index", range(len(SIZES)), ids=lambda index: "x".join(map(str, SIZES[index]))
)
def test_an_image_fills_as_many_tokens_as_the_checkpoint_says(vlm, index):
    image = vlm.family.image_inputs(vlm.processor, Image.new("RGB", SIZES[index]))
    assert image.num_tokens == TOKENS[vlm.family.name][index]
    assert image.placeholder.count(vlm.processor.image_token) == image.num_tokens


def upstream_inputs(vlm, folder, images):
    """What the vendor's own processor makes of the vendor's own text."""
    parent = UPSTREAM[vlm.family.name]

    class WithoutVideo(parent):  # whose video half cannot be built without torchvision
        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

        video_processor = None

    name = vlm.family.name
    text = DEFAULT_SYSTEM.get(name, "") + TURNS[name][0] + ANSWER
    text = re.sub("</?img>", "", text)  # InternVL's processor writes them itself
    processor = WithoutVideo.from_pretrained(folder)
    # Nested, as for several images of one sample: LLaVA-OneVision then gives each one tile.
    return processor(text=[text], images=[list(images)], return_tensors="pt")


def test_plain_decoding_is_generate_of_the_vendors_inputs(vlm, folder, shown, request_):
    decoded = Plain().decode(vlm, request_, GenerationSettings(max_new_tokens=5), keep_logits="all")
    inputs = upstream_inputs(vlm, folder, shown)
    assert decoded.prompt_tokens == inputs["input_ids"].shape[1]
    plain = vlm.model.generate(
        **inputs,
        max_new_tokens=5,
        do_sample=False,
        repetition_penalty=1.0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = plain.sequences[0, decoded.prompt_tokens :].tolist()
    assert new == list(decoded.token_ids[0])
    assert len(set(new)) > 1  # control: not one token over and over
    difference = torch.stack(decoded.combined_logits) - torch.stack(plain.logits)
    assert difference.abs().max() <= BOUND


def test_focus_is_the_naive_scheme(vlm, request_):
    shared, naive = (
        Focus(prefill=prefill).decode(
            vlm, request_, GenerationSettings(max_new_tokens=3), keep_logits="all"
        )
        for prefill in ("shared", "naive")
    )
    logits, reference = (torch.stack(one.branch_logits)[:, :, 0] for one in (shared, naive))
    assert logits.shape[:2] == (3, 3)  # [step, row, vocab]
    assert (logits - reference).abs().max() <= BOUND
    for one, other in itertools.combinations(range(3), 2):
        assert (reference[:, one] - reference[:, other]).abs().max() > CONTROL
    assert len(set(shared.image_tokens)) == (1 if vlm.family.name == "llava_onevision" else 2)


@pytest.mark.parametrize("end", END_TOKENS)
@pytest.mark.parametrize("decoding", [Plain(), Focus()], ids=["plain", "focus"])
def test_either_end_token_ends_the_answer(vlm, request_, decoding, end):
    def end_third(ids, scores):
        prompt_tokens = end_third.__dict__.setdefault("start", ids.shape[1])
        token = end if ids.shape[1] == prompt_tokens + 2 else 65
        return scores.clone().index_fill_(1, torch.tensor([token]), torch.inf)

    decoded = decoding.decode(
        vlm, request_, GenerationSettings(max_new_tokens=8), logits_processor=[end_third]
    )
    assert decoded.token_ids == ((65, 65, end),)
    assert decoded.text == vlm.processor.tokenizer.decode([65, 65])


def test_a_context_that_is_too_short_is_named_in_numbers(vlm, request_):
    context = vlm.model.config.get_text_config().max_position_embeddings
    plain = Plain().decode(vlm, request_, GenerationSettings(max_new_tokens=1))
    length, images = plain.prompt_tokens, plain.image_tokens
    with pytest.raises(
        ContextLengthError,
        match=rf"{length} tokens and up to {context} new .* holds {context}.*{context - length}",
    ):
        Focus().decode(vlm, request_, GenerationSettings(max_new_tokens=context))
    if context > 100_000:
        return  # the rest is the same for all, and takes a second for so long a prompt
    long = replace(request_, question=QUESTION + " red" * context)
    with pytest.raises(
        ContextLengthError,
        match=rf"{sum(images)} of them for 2 images \(\[{images[0]}, {images[1]}\]\).*{context}",
    ):
        Focus().decode(vlm, long, GenerationSettings(max_new_tokens=1))
