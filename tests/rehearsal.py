"""Checkpoint folders as the hub has them, around tiny random weights.

Processor settings, special tokens with their ids, end tokens, sampling defaults, image geometry
and what the chat templates do are those of the real checkpoints (file formats and class names too,
so that everything resolves as it would there); only the widths and depths of the networks, the
merges of the tokenizer and the wording of the templates are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

#: Qwen2's byte BPE has this many entries; special tokens follow in the order of the lists below.
FIRST_SPECIAL = 151_643
VOCABULARY = 151_936
END_TOKENS = [151_645, 151_643]  # <|im_end|>, <|endoftext|>
_QWEN2 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_QWEN2_5 = [
    *_QWEN2,
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
]
_QWEN3 = [*_QWEN2_5, "<tool_response>", "</tool_response>", "<think>", "</think>"]
_INTERNVL = [
    *(*_QWEN2_5, "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>"),
    *("<box>", "</box>", "<video>"),
]

#: Large: with nearly constant logits a wrong cache would go unnoticed.
_RANDOM = {"initializer_range": 0.15}
HIDDEN = 64
_TEXT = {
    **_RANDOM,
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": FIRST_SPECIAL,
    "eos_token_id": END_TOKENS[0],
    "tie_word_embeddings": True,
}
_VISION = {**_RANDOM, "hidden_size": 32, "intermediate_size": 64}
_VIT = {**_VISION, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
_QWEN_VISION = {**_VISION, "num_heads": 2, "out_hidden_size": HIDDEN}
_QWEN_IDS = {
    "vision_start_token_id": 151_652,
    "vision_end_token_id": 151_653,
    "image_token_id": 151_655,
    "video_token_id": 151_656,
}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_GRID = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


def _chat(parts: str, *, role_end: str = "\n", turn_end: str = "\n", default: str = "") -> str:
    """Template whose turns hold `parts`; `default` is the system prompt of a chat without one."""
    system = (
        "{% if loop.first and message.role != 'system' %}"
        "{{ '<|im_start|>system\n" + default + "<|im_end|>\n' }}{% endif %}"
    )
    return (
        "{% for message in messages %}"
        + (system if default else "")
        + "{{ '<|im_start|>' + message.role + '" + role_end + "' }}" + parts
        + "{{ '<|im_end|>" + turn_end + "' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )  # fmt: skip


def _in_order(image: str) -> str:
    return (
        "{% for part in message.content %}{% if part.type == 'image' %}{{ '" + image + "' }}"
        "{% else %}{{ part.text }}{% endif %}{% endfor %}"
    )


def _images_first(image: str, before_text: str = "") -> str:
    return (
        "{% for part in message.content if part.type == 'image' %}{{ '" + image + "' }}{% endfor %}"
        "{% for part in message.content if part.type == 'text' %}"
        "{{ '" + before_text + "' + part.text }}{% endfor %}"
    )


_VISION_SPAN = "<|vision_start|><|image_pad|><|vision_end|>"
#: LLaVA-OneVision's older files; the newer ones are in `FOLDERS`.
OLDER_LLAVA_TEMPLATE = _chat(_images_first("<image>", "\n"), role_end=" ", turn_end="")


@dataclass(frozen=True)
class Folder:
    """What one family's repositories hold, beside weights and vocabulary.

    Args:
        config: ``config.json``.
        special_tokens: in the order of their ids.
        template: chat template.
        preprocessor: ``preprocessor_config.json``.
        processor: ``processor_config.json``; empty where there is no such file.
        tokenizer: what ``tokenizer_config.json`` holds beside the usual.
        generation: what ``generation_config.json`` holds beside the usual.
    """

    config: Mapping[str, Any]
    special_tokens: list[str]
    template: str
    preprocessor: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


_INTERNVL_ROLES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}

FOLDERS = {
    "internvl": Folder(
        {
            "model_type": "internvl",
            "architectures": ["InternVLForConditionalGeneration"],
            "text_config": {**_TEXT, "model_type": "qwen2", "max_position_embeddings": 32_768},
            "vision_config": {**_VIT, "image_size": [448, 448], "patch_size": [14, 14]},
            "image_token_id": 151_667,
            "image_seq_length": 256,
            "downsample_ratio": 0.5,
        },
        _INTERNVL,
        _chat(_in_order("<IMG_CONTEXT>\n")),
        {
            **_IMAGENET,
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "processor_class": "InternVLProcessor",
            "size": {"height": 448, "width": 448},
            "crop_to_patches": False,  # the processor's call switches it on
            "min_patches": 1,
            "max_patches": 12,
            "resample": 3,
        },
        processor={"image_seq_length": 256, "processor_class": "InternVLProcessor"},
        tokenizer={**_INTERNVL_ROLES, "extra_special_tokens": _INTERNVL_ROLES},
    ),
    "llava_onevision": Folder(
        {
            "model_type": "llava_onevision",
            "architectures": ["LlavaOnevisionForConditionalGeneration"],
            "text_config": {**_TEXT, "model_type": "qwen2", "max_position_embeddings": 32_768},
            "vision_config": {
                **_VIT,
                "model_type": "siglip_vision_model",
                "image_size": 384,
                "vision_use_head": False,
            },
            "image_token_index": 151_646,
            "video_token_index": 151_647,
            "image_grid_pinpoints": _GRID,
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
            **_RANDOM,
        },
        [*_QWEN2, "<image>", "<video>"],
        _chat(_images_first("<image>\n")),
        {
            **_HALF,
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "size": {"height": 384, "width": 384},
            "image_grid_pinpoints": _GRID,
            "resample": 3,
        },
        processor={
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": 729,
            "vision_feature_select_strategy": "full",
            "processor_class": "LlavaOnevisionProcessor",
        },
        generation={"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    ),
    "qwen2_5_vl": Folder(
        {
            "model_type": "qwen2_5_vl",
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            **_TEXT,  # there is no part of its own for the language model
            "max_position_embeddings": 128_000,
            "rope_theta": 1e6,
            # The real sections (16, 24, 24) at a quarter of the real width of a head.
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            "vision_config": {
                **_QWEN_VISION,
                "depth": 2,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 112,
                "fullatt_block_indexes": [1],
            },
            **_QWEN_IDS,
        },
        _QWEN2_5,
        _chat(_in_order(_VISION_SPAN), default="You are a helpful assistant."),
        {
            **_CLIP,
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 3_136,
            "max_pixels": 12_845_056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        generation={"repetition_penalty": 1.05, "temperature": 1e-6},
    ),
    "qwen3_vl": Folder(
        {
            "model_type": "qwen3_vl",
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "text_config": {
                **_TEXT,
                "head_dim": 128,
                "max_position_embeddings": 262_144,
                "rope_theta": 5e6,
                "rope_scaling": {
                    "rope_type": "default",
                    "mrope_interleaved": True,
                    "mrope_section": [24, 20, 20],
                },
            },
            "vision_config": {
                **_QWEN_VISION,
                "depth": 3,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "num_position_embeddings": 2_304,
                "deepstack_visual_indexes": [0, 1],
            },
            **_QWEN_IDS,
            "tie_word_embeddings": True,
        },
        _QWEN3,
        _chat(_in_order(_VISION_SPAN)),
        {
            **_HALF,
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        generation={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.0},
    ),
}


def write_folder(family: str, folder: Path) -> None:
    """Writes the files of a checkpoint repository."""
    facts = FOLDERS[family]

    def write(name: str, content: Mapping[str, Any]) -> None:
        (folder / name).write_text(json.dumps(content))

    write("config.json", facts.config)
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    write("config.json", facts.config)  # as it is on the hub, not as it would be saved today
    generation = {"bos_token_id": FIRST_SPECIAL, "pad_token_id": FIRST_SPECIAL, "do_sample": True}
    write("generation_config.json", {**generation, "eos_token_id": END_TOKENS, **facts.generation})
    write("preprocessor_config.json", facts.preprocessor)
    if facts.processor:
        write("processor_config.json", facts.processor)
    write("chat_template.json", {"chat_template": facts.template})
    _tokenizer(facts.special_tokens).save(str(folder / "tokenizer.json"))
    write("tokenizer_config.json", _tokenizer_config(facts))


def _tokenizer(special_tokens: list[str]) -> Tokenizer:
    """Byte BPE with a few merges; entries that no merge reaches fill it up to Qwen2's size."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(
        ["which image shows the red circle, the first or the second"], trainer
    )
    bpe = json.loads(trained.to_str())["model"]
    filler = {f"unused-{index}": index for index in range(len(bpe["vocab"]), FIRST_SPECIAL)}
    tokenizer = Tokenizer(
        models.BPE(bpe["vocab"] | filler, [tuple(pair) for pair in bpe["merges"]])
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special_tokens)
    return tokenizer


def _tokenizer_config(facts: Folder) -> dict[str, Any]:
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {
            str(FIRST_SPECIAL + index): {"content": token, "special": True, **entry}
            for index, token in enumerate(facts.special_tokens)
        },
        "additional_special_tokens": facts.special_tokens[1:],
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 131_072,
        "split_special_tokens": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": facts.template,
        **facts.tokenizer,
    }
