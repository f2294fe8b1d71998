"""Known checkpoints, image back ends, and models that are spread over devices."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import focus
from experiments.config import CONF
from focus.decoding import GenerationSettings
from focus.engines import LocalEngine
from focus.errors import AssumptionWarning, InvalidValueError, MissingExtraError
from focus.models import Checkpoint, loading
from focus.models.known import KNOWN
from focus.models.tiny import BUILDERS, build_tiny


def test_files_and_table_of_known_checkpoints_agree():
    files = [OmegaConf.load(path) for path in sorted((CONF / "model").glob("*.yaml"))]
    said = {f.source: (f.name, f.revision, f.dtype) for f in files if "revision" in f}
    assert said == {s: (k.name, k.revision, k.dtype) for s, k in KNOWN.items()}


def test_a_known_checkpoint_brings_its_settings():
    source = "Qwen/Qwen2.5-VL-7B-Instruct"
    checkpoint = Checkpoint("mine", source)
    assert (checkpoint.dtype, checkpoint.revision) == ("bfloat16", KNOWN[source].revision)
    told = Checkpoint("mine", source, dtype="float16", revision="main")
    assert (told.dtype, told.revision) == ("float16", "main")
    assert Checkpoint("e", "embedded:internvl-answering").dtype == "float32"


@pytest.fixture(scope="module", params=list(BUILDERS))
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed") / request.param
    vlm = build_tiny(request.param)
    vlm.model.to(torch.bfloat16).save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def test_an_unknown_checkpoint_says_what_it_assumes(saved, recwarn):
    with pytest.warns(AssumptionWarning, match=r"dtype=bfloat16 \(as its conf.*Pass dtype=") as w:
        vlm = focus.load(saved)
    assert vlm.model.dtype == torch.bfloat16
    assert w[0].filename == __file__
    recwarn.clear()
    focus.load(saved, dtype="float32")
    assert not [w for w in recwarn if w.category is AssumptionWarning]


def test_a_model_spread_over_memory_and_disk_answers_the_same(saved, tmp_path, ask, words_only):
    settings = GenerationSettings(max_new_tokens=4)
    whole = focus.load(saved, dtype="float32", device="cpu")
    language = [n for n, _ in whole.model.model.language_model.named_children()]
    layers = len(whole.family.decoder_layers(whole.model))
    placed = {n: "cpu" for n, _ in whole.model.model.named_children() if n != "language_model"}
    placed = {f"model.{name}": device for name, device in placed.items()}
    placed |= {f"model.{n}": "cpu" for n, _ in whole.model.model.named_parameters(recurse=False)}
    placed |= {f"model.language_model.{n}": "cpu" for n in language if n != "layers"}
    placed |= {f"model.language_model.layers.{k}": "cpu" for k in range(layers)}
    placed |= {"model.language_model.embed_tokens": "disk", "lm_head": "cpu"}
    placed |= {f"model.language_model.layers.{layers - 1}": "disk"}
    first = next(name for name, _ in whole.model.named_parameters())
    # So that `model.device` is no device to compute on (LLaVA-OneVision's first parameter belongs
    # to no module that could go); the embeddings are on disk as well.
    placed |= {name: "disk" for name in placed if first.startswith(f"{name}.")}
    spread = focus.load(saved, dtype="float32", device_map=placed, offload_folder=str(tmp_path))
    assert spread.model.device.type == "meta" or first == "model.image_newline"
    assert spread.model.get_input_embeddings().weight.device.type == "meta"
    for prefill in ("shared", "naive"):
        decoding = focus.Focus(prefill=prefill)
        one, other = (
            decoding.decode(v, ask(3), settings, keep_logits="all", **words_only)
            for v in (whole, spread)
        )
        assert one.token_ids == other.token_ids
        for a, b in zip(one.branch_logits, other.branch_logits, strict=True):
            torch.testing.assert_close(a, b)
    requests = [ask(3), ask(2), ask(3, sample_id="another")]
    one, other = (
        focus.Focus().decode_many(LocalEngine(v), requests, settings, keep_logits="all")
        for v in (whole, spread)
    )
    for a, b in zip(one, other, strict=True):
        assert a.token_ids == b.token_ids
        torch.testing.assert_close(a.branch_logits[0], b.branch_logits[0])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_spread_over_two_gpus_answers_the_same(saved, ask, words_only):
    settings = GenerationSettings(max_new_tokens=4)
    whole = focus.load(saved, dtype="float32", device="cuda:0")
    spread = focus.load(saved, dtype="float32", device_map="balanced")
    one, other = (focus.Focus().decode(v, ask(3), settings, **words_only) for v in (whole, spread))
    assert one.token_ids == other.token_ids


def test_one_device_or_a_device_map():
    with pytest.raises(InvalidValueError, match=r"device='cpu' .* beside device_map"):
        Checkpoint("mine", "somewhere", device="cpu", device_map="auto")


def test_the_image_back_end_is_chosen_and_known(saved, monkeypatch):
    assert focus.load(saved, dtype="float32").backend == "pil"
    monkeypatch.setattr(loading, "is_torchvision_available", lambda: False)
    with pytest.raises(MissingExtraError, match="torchvision, which is not installed"):
        focus.load(saved, backend="torchvision")
    with pytest.raises(InvalidValueError, match=r"backend='opencv' .* pil, torchvision"):
        focus.load(saved, backend="opencv")


@pytest.mark.skipif(not loading.is_torchvision_available(), reason="needs torchvision")
def test_torchvision_scales_images_where_asked(saved):
    vlm = focus.load(saved, dtype="float32", backend="torchvision")
    assert vlm.backend == "torchvision"
    assert vlm.family.image_inputs(vlm.processor, Image.new("RGB", (40, 28))).num_tokens
