"""Loading a checkpoint, and every way in which it cannot be had."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlavaOnevisionProcessor, Qwen2_5_VLProcessor

import focus
from focus.decoding import GenerationSettings, Plain
from focus.errors import CheckpointUnavailableError, InvalidValueError, UnknownNameError
from focus.models import FAMILIES, Checkpoint, ImageBudget, embedded_names, family_of, loading, wrap
from focus.models.tiny import BUILDERS, build_tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A complete checkpoint; tests copy it before they damage it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-internvl"
    vlm = build_tiny("internvl")
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_folder_loads_in_evaluation_mode_with_its_family(saved):
    vlm = Checkpoint(name="mine", source=str(saved), dtype="float32", device="cpu").load()
    assert vlm.name == "mine"
    assert vlm.family is FAMILIES["internvl"]
    assert not vlm.model.training
    assert vlm.model.dtype == torch.float32
    assert vlm.model.config._attn_implementation == "sdpa"


def test_settings_of_a_checkpoint_reach_the_model(saved):
    budget = ImageBudget(max_tiles=1)
    vlm = Checkpoint(
        name="mine", source=str(saved), dtype="bfloat16", attention="eager", budget=budget
    ).load()
    assert vlm.model.dtype == torch.bfloat16
    assert vlm.model.config._attn_implementation == "eager"
    assert vlm.processor.image_processor.max_patches == 1


def test_load_takes_paths_and_names_the_model(saved):
    assert focus.load(saved).name == "tiny-internvl"
    assert focus.load(f"{saved}/").name == "tiny-internvl"
    assert focus.load(str(saved), name="mine").name == "mine"
    with pytest.raises(TypeError, match="dtyp"):
        focus.load(saved, dtyp="float32")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "fp32"}, r"dtype='fp32' .* float32, bfloat16, float16"),
        ({"source": ""}, r"source='' .* embedded:<name>, a folder or a hub id"),
    ],
)
def test_bad_fields_are_named_at_once(fields, message):
    with pytest.raises(InvalidValueError, match=message):
        Checkpoint(**{"name": "mine", "source": "somewhere", **fields})


def test_a_device_that_is_not_here(saved, monkeypatch):
    with pytest.raises(InvalidValueError, match=r"device='gpu' .* auto, cpu, cuda"):
        focus.load(saved, device="gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InvalidValueError, match=r"device='cuda:7' .* 1 CUDA devices are visible"):
        focus.load(saved, device="cuda:7")


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "big"])
def test_a_budget_is_a_positive_whole_number(value):
    for name in ("min_pixels", "max_pixels", "max_tiles"):
        with pytest.raises(
            InvalidValueError, match=rf"{name}=.* (greater than or equal to 1|a valid integer)"
        ):
            ImageBudget(**{name: value})


def test_a_smallest_size_above_the_largest_is_refused(saved):
    """Images would be scaled down for one and up for the other, to a size that neither names."""
    vlm = build_tiny("qwen3_vl")
    smallest = vlm.processor.image_processor.size["shortest_edge"]
    for budget in (
        ImageBudget(max_pixels=smallest - 1),
        ImageBudget(min_pixels=5000),
        ImageBudget(min_pixels=2000, max_pixels=1000),
    ):
        with pytest.raises(InvalidValueError, match=r"min_pixels \(\d+\) is at most max_pixels"):
            vlm.family.set_budget(vlm.processor, budget)
        assert vlm.processor.image_processor.size["shortest_edge"] == smallest
    vlm.family.set_budget(vlm.processor, ImageBudget(min_pixels=5000, max_pixels=5000))


class TestEmbedded:
    def test_unknown_names_list_the_known_ones(self, monkeypatch, saved, tmp_path):
        weights = tmp_path / "weights"
        shutil.copytree(saved, weights / "zoo-tiny")
        (weights / "no-model").mkdir()
        monkeypatch.setattr(loading.resources, "files", lambda package: tmp_path)
        assert embedded_names() == ("zoo-tiny",)
        with pytest.raises(UnknownNameError, match=r"did you mean 'zoo-tiny'\?"):
            focus.load("embedded:zoo-tin")
        vlm = focus.load("embedded:zoo-tiny")
        assert vlm.name == "zoo-tiny"
        with pytest.raises(CheckpointUnavailableError, match="need no download: zoo-tiny"):
            focus.load(tmp_path)


class TestHub:
    def test_offline_says_which_model_why_and_what_to_do(self):
        checkpoint = Checkpoint(name="big", source="nobody/nothing", revision="0123abc")
        with pytest.raises(CheckpointUnavailableError) as caught:
            checkpoint.load()
        for part in (
            "'big'",
            "'nobody/nothing' at revision 0123abc",
            "neither a folder nor in the local cache",
            "connect to the network once",
            "hf download nobody/nothing",
        ):
            assert part in str(caught.value)
        assert isinstance(caught.value, OSError)
        assert caught.value.__cause__ is not None

    @pytest.mark.parametrize(
        ("cause", "message"),
        [
            (GatedRepoError, "it is gated: accept its licence .*hf auth login"),
            (RepositoryNotFoundError, "no such repository: check the spelling"),
        ],
    )
    def test_gated_and_missing_are_told_apart(self, monkeypatch, cause, message):
        """As `transformers` raises them: an OSError whose cause is the hub's own error."""

        reply = httpx.Response(401, request=httpx.Request("GET", "https://hub"))

        def refuse(*args, **kwargs):
            try:
                raise cause("401 Client Error", response=reply)
            except cause as error:
                raise OSError("You are trying to access a gated repo.") from error

        monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
        with pytest.raises(CheckpointUnavailableError, match=message) as caught:
            focus.load("someone/something")
        assert "'someone/something'" in str(caught.value)

    @pytest.mark.parametrize("source", ["/no/such/folder", "./nothing-here/at/all", "two words"])
    def test_neither_a_folder_nor_a_hub_id(self, source):
        with pytest.raises(CheckpointUnavailableError, match="no such folder, and a hub id looks"):
            focus.load(source)


def unlink(name):
    return lambda folder: (folder / name).unlink()


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def edit_config(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def drop_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("layers.0.mlp.down_proj.weight")))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_tied_output_embeddings_count_as_there(tmp_path):
    """Their file holds one matrix for two parameters, which is no gap."""
    config = build_tiny("qwen2_5_vl").model.config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    vlm = build_tiny("qwen2_5_vl")
    type(vlm.model)(config).save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    model = focus.load(tmp_path).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (unlink("config.json"), "model_type"),
            (unlink("model.safetensors"), "model.safetensors"),
            (unlink("processor_config.json"), "image processor"),
            (unlink("tokenizer.json"), "tokenizer"),
            (overwrite("config.json", b"{"), "not a valid JSON"),
            (overwrite("processor_config.json", b"{"), "not a valid JSON"),
            (overwrite("tokenizer.json", b"{}"), "added_tokens"),
            (overwrite("model.safetensors", b""), "header"),
            (overwrite("model.safetensors", b"\x10" * 100), "header"),
            (edit_config(model_type="martian"), "martian"),
            (edit_config(text_config={"hidden_size": 32}), "mismatch"),
            # `transformers` only logs this one, and fills the gap with random numbers.
            (drop_a_tensor, r"no weights for \S+\.layers\.0\.mlp\.down_proj\.weight"),
        ],
    )
    def test_a_folder_that_is_no_whole_checkpoint(self, folder, damage, reason):
        damage(folder)
        with pytest.raises(CheckpointUnavailableError, match=reason) as caught:
            focus.load(folder)
        assert "incomplete, damaged or of an unsupported kind" in str(caught.value)
        assert str(folder) in str(caught.value)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(CheckpointUnavailableError, match="incomplete"):
            focus.load(tmp_path)

    def test_an_architecture_that_no_family_serves(self, folder):
        edit_config(model_type="bert")(folder)
        with pytest.raises(UnknownNameError, match="unknown model type 'bert'; known: ") as caught:
            focus.load(folder)
        assert "qwen2_5_vl" in str(caught.value)


class TestWrap:
    class OtherQwen(Qwen2_5_VLProcessor):
        """The upstream class; only its video half cannot be built here."""

        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

    class OtherLlava(LlavaOnevisionProcessor):
        @classmethod
        def get_attributes(cls):
            return ["image_processor", "tokenizer"]

    def test_a_model_and_processor_of_ones_own(self, ask):
        vlm = build_tiny("qwen2_5_vl")
        processor = self.OtherQwen(
            image_processor=vlm.processor.image_processor,
            tokenizer=vlm.processor.tokenizer,
            chat_template=vlm.processor.chat_template,
        )
        wrapped = wrap(vlm.model.train(), processor, name="mine")
        assert wrapped.name == "mine"
        assert not wrapped.model.training
        settings = GenerationSettings(max_new_tokens=3)
        for decoding in (focus.Focus(), Plain()):
            one, other = (decoding.decode(v, ask(2), settings).token_ids for v in (vlm, wrapped))
            assert one == other

    def test_upstream_llava_onevision_would_change_the_tokens_of_a_lone_image(self, images):
        vlm = build_tiny("llava_onevision")
        processor = self.OtherLlava(
            image_processor=vlm.processor.image_processor,
            tokenizer=vlm.processor.tokenizer,
            num_image_tokens=vlm.processor.num_image_tokens,
            vision_feature_select_strategy="full",
        )
        with pytest.raises(InvalidValueError, match=r"OtherLlava.*LlavaOnevisionImageProcessor"):
            wrap(vlm.model, processor)
        assert wrap(vlm.model, vlm.processor).family is FAMILIES["llava_onevision"]

        def tokens_of_a_lone_image(processor):
            ids = processor(text=["<image> what"], images=[[images[1]]])["input_ids"][0]
            return ids.count(vlm.model.config.image_token_id)

        assert tokens_of_a_lone_image(vlm.processor) == vlm.processor.tokens_per_image
        assert tokens_of_a_lone_image(processor) > vlm.processor.tokens_per_image

    def test_an_unknown_architecture(self):
        with pytest.raises(UnknownNameError, match=r"'bert'; known: internvl"):
            family_of("bert")
        with pytest.raises(UnknownNameError, match=r"'qwen4' .*; known: internvl"):
            build_tiny("qwen4")

    def test_every_family_has_a_tiny_model(self):
        served = {kind for family in FAMILIES.values() for kind in family.model_types}
        assert {build_tiny(name).model.config.model_type for name in BUILDERS} == served
