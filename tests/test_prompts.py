"""From a question with placeholders to ids with image spans; what cannot be a prompt."""

from __future__ import annotations

import re

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from focus.errors import PromptError
from focus.models.tiny import VOCABULARY, build_tiny
from focus.prompts import (
    build_prompt,
    chat_messages,
    place_images,
    render_chat,
    without_special_tokens,
)

IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


def build(vlm, images, question, **kwargs):
    inputs = [vlm.family.image_inputs(vlm.processor, image) for image in images]
    return build_prompt(vlm.model, vlm.processor, vlm.family, question, inputs, **kwargs)


class TestPlaceholders:
    def test_images_come_first_where_none_is_written(self):
        assert place_images("what", 2) == "<image><image>what"

    def test_written_ones_stay_where_they_are(self):
        question = "a <image> b <image>"
        assert place_images(question, 2) == question

    @pytest.mark.parametrize("question", ["", "  ", "\n", "<image>", "<image> \t<image>"])
    def test_a_question_needs_text(self, question):
        with pytest.raises(PromptError, match="is empty"):
            place_images(question, max(1, question.count("<image>")))

    def test_their_number_must_be_that_of_the_images(self):
        with pytest.raises(PromptError, match=r"1 <image> placeholders but 2 images .* or none"):
            place_images("what is <image>", 2)
        with pytest.raises(PromptError, match="2 <image> placeholders but 1 images"):
            place_images("<image> or <image>", 1)

    def test_no_images(self):
        with pytest.raises(PromptError, match="no images"):
            place_images("what", 0)

    @pytest.mark.parametrize("question", [None, 3, ["what"], b"what"])
    def test_a_question_is_text(self, question):
        with pytest.raises(PromptError, match=f"must be text, not {type(question).__name__}"):
            place_images(question, 1)


class TestMessages:
    def test_images_stand_between_the_text(self):
        content = [text("a "), IMAGE, text(" b "), IMAGE]
        assert chat_messages("a <image> b <image>") == [{"role": "user", "content": content}]
        assert chat_messages("<image><image>c")[0]["content"] == [IMAGE, IMAGE, text("c")]

    def test_a_system_prompt_comes_first(self):
        system, user = chat_messages("<image>c", system="be brief")
        assert system == {"role": "system", "content": [text("be brief")]}
        assert user["role"] == "user"
        assert len(chat_messages("<image>c", system="")) == 1


class TestPrompt:
    def test_adjacent_images_have_spans_of_their_own(self, any_vlm, images):
        """LLaVA-OneVision has no delimiters: two images are one run of placeholders."""
        prompt = build(any_vlm, images[:3], "<image><image><image> what")
        tokens = any_vlm.family.image_token_id(any_vlm.model)
        lengths = [end - start for start, end in prompt.spans]
        inputs = [any_vlm.family.image_inputs(any_vlm.processor, image) for image in images[:3]]
        assert lengths == [image.num_tokens for image in inputs]
        assert all((prompt.input_ids[0, start:end] == tokens).all() for start, end in prompt.spans)
        assert all(a[1] <= b[0] for a, b in zip(prompt.spans, prompt.spans[1:], strict=False))

    def test_positions_are_those_of_the_family(self, any_vlm, images):
        prompt = build(any_vlm, images[:2], "<image> and <image> what")
        length = prompt.input_ids.shape[1]
        if not any_vlm.family.name.startswith("qwen"):
            assert prompt.position_ids.tolist() == [list(range(length))]
            return
        assert prompt.position_ids.shape == (3, 1, length)
        # M-RoPE: an image of t x h x w tokens takes max(t, h, w) positions, so fewer than tokens.
        assert prompt.position_ids.max() < length - 1
        start = prompt.spans[0][0]
        assert prompt.position_ids[:, 0, :start].tolist() == [list(range(start))] * 3

    def test_the_system_prompt_is_in_it(self, vlm, images):
        with_system = build(vlm, images[:1], "<image> what", system="be brief")
        assert "be brief" in with_system.text
        without = build(vlm, images[:1], "<image> what")
        assert with_system.spans[0][0] > without.spans[0][0]

    def test_special_tokens_as_text_are_refused(self, any_vlm, images):
        """They would take the features of an image that is not there, or end the user's turn."""
        control = ["<eos>", "<|video_pad|>", "<|vision_start|>"]
        for token in (any_vlm.processor.image_token, *control):
            for kwargs in ({"question": f"what {token} is <image>"}, {"system": f"be {token}"}):
                if kwargs.get("question", "").count("<image>") == 2:
                    continue  # LLaVA-OneVision's token is the placeholder itself
                with pytest.raises(PromptError, match=f"must not contain .*{re.escape(token)}"):
                    build(any_vlm, images[:1], **{"question": "<image> what", **kwargs})

    def test_a_processor_without_a_template_is_refused(self, own_vlm, images):
        own_vlm.processor.chat_template = None
        with pytest.raises(PromptError, match="has no chat template"):
            build(own_vlm, images[:1], "<image> what")

    def test_spans_must_be_those_of_the_images(self, vlm):
        token = vlm.family.image_token_id(vlm.model)
        ids = torch.tensor([5, token, token, 6, token])
        assert vlm.family.image_spans(vlm.model, ids, [2, 1]) == [(1, 3), (4, 5)]
        assert vlm.family.image_spans(vlm.model, ids, [1, 1, 1]) == [(1, 2), (2, 3), (4, 5)]
        with pytest.raises(PromptError, match=r"holds 3 image tokens but the 2 images fill 5"):
            vlm.family.image_spans(vlm.model, ids, [2, 3])
        with pytest.raises(PromptError, match=r"image 1 should fill 2 consecutive tokens"):
            vlm.family.image_spans(vlm.model, ids, [1, 2])

    @pytest.mark.parametrize("written", [True, False])
    def test_the_start_token_comes_exactly_once(self, own_vlm, images, written):
        """Whether the template writes it or the tokenizer adds it."""
        tokenizer = own_vlm.processor.tokenizer
        tokenizer.bos_token = "<user>"
        bos = VOCABULARY["<user>"]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<user> $A", special_tokens=[("<user>", bos)]
        )
        if not written:
            own_vlm.processor.chat_template = own_vlm.processor.chat_template.replace(
                "<{{ message.role }}> ", "<img> "
            )
        ids = build(own_vlm, images[:1], "<image> what").input_ids[0].tolist()
        assert ids[0] == bos
        assert ids.count(bos) == 1


IMAGES_FIRST = (
    "a chat : {% for message in messages %}"
    "{% for part in message.content if part.type == 'image' %}<image>{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% endfor %}"
)


def test_images_stay_where_they_stand_though_the_template_moves_them():
    """LLaVA-OneVision's own template puts all images first, away from the words about them."""
    vlm = build_tiny("llava_onevision")
    vlm.processor.chat_template = IMAGES_FIRST
    question = "first image : <image> second image : <image> which ?"
    moved = vlm.processor.apply_chat_template(chat_messages(question), tokenize=False)
    assert "<image><image>" in moved  # control: the template does move them
    assert render_chat(vlm.processor, question) == f"a chat : {question}"
    assert render_chat(vlm.processor, "<image><image> which ?") == "a chat : <image><image> which ?"


@pytest.mark.parametrize(
    ("question", "system"),
    [
        ("Compare the images. <image><image> Which is red ?", "Judge. Compare the images."),
        ("a <image><image> which is red ?", None),  # the template's header begins with "a"
    ],
)
def test_words_that_stand_elsewhere_too_do_not_move_the_images(question, system):
    vlm = build_tiny("llava_onevision")
    vlm.processor.chat_template = IMAGES_FIRST
    assert render_chat(vlm.processor, question, system) == f"a chat : {system or ''}{question}"


def test_generated_text_loses_its_special_tokens(vlm):
    """One that is taken out must not put another together."""
    text = "red <eos> blue<ima<eos>ge> <i<IMG_CONTEXT>mg>"
    assert without_special_tokens(vlm.processor, text) == "red  blue "
