"""What every decoding strategy promises, on every architecture; strategies come from the registry.

A new strategy needs an entry in `OFF` (how it is switched off), and nothing else here.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from experiments.config import build, compose_config
from focus.decoding import (
    STRATEGIES,
    AbstractDecoding,
    AdaptiveFocus,
    BlockAttention,
    CaptionThenAnswer,
    ComposedFocus,
    Decoded,
    DelimiterScaling,
    Focus,
    GenerationSettings,
    MaskedFocus,
    Plain,
    Request,
    RoutedFocus,
    SingleImage,
    Sofa,
    Vcd,
)
from focus.models import VisionLanguageModel
from focus.models.tiny import BUILDERS, build_tiny
from focus.noise import NoiseConfig

SHORT = GenerationSettings(max_new_tokens=3)
SAMPLED = GenerationSettings(max_new_tokens=3, temperature=1.0, num_return_sequences=2, seed=1)

#: Settings that make a strategy plain decoding: clean rows pooled without contrast, nothing masked,
#: nothing scaled. Where the request decides, as for `SingleImage`, all images are targets.
OFF: dict[str, list[AbstractDecoding]] = {
    "plain": [Plain()],
    "single_image": [SingleImage(), SingleImage(others="noise")],
    "focus": [Focus(alpha=0, aggregation="mean", noise=NoiseConfig(scale=0))],
    "vcd": [Vcd(alpha=0, beta=0)],
    "sofa": [Sofa(s=0)],
    "delimiter_scaling": [DelimiterScaling(factor=1), DelimiterScaling(layers=[])],
    "block_attention": [BlockAttention(layers=[])],
    "caption_then_answer": [
        CaptionThenAnswer(max_caption_tokens=0),
        CaptionThenAnswer(template=""),
    ],
    "adaptive_focus": [AdaptiveFocus(threshold=0)],
    "routed_focus": [RoutedFocus(alpha=0, noise=NoiseConfig(scale=0))],
    "composed_focus": [ComposedFocus(alpha=0, aggregation="mean", noise=NoiseConfig(scale=0))],
    "masked_focus": [MaskedFocus(alpha=0, aggregation="mean", layers=[])],
}

#: Strategies that are plain decoding to the last bit, and at its cost, when they are off.
EXACT = {"vcd", "sofa", "delimiter_scaling", "block_attention"}
#: Where an answer is interrupted.
PLACES = ("processor", "criterion", "prefill", "step")

#: Defaults that are slow for nothing on random weights.
CHEAPER = {"caption_then_answer": {"max_caption_tokens": 4}}

pytestmark = pytest.mark.filterwarnings("error")
every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))

#: Strategies that reach into a model, which each architecture builds in its own way.
REACHING = {"block_attention", "composed_focus", "delimiter_scaling", "masked_focus", "sofa"}
#: These on every architecture; of the others, which only say what rows show, each on two in turn.
MET = sorted(
    (list(BUILDERS).index(architecture), name)
    for k, name in enumerate(sorted(STRATEGIES))
    for architecture in (
        BUILDERS if name in REACHING else [list(BUILDERS)[(k + j) % len(BUILDERS)] for j in (0, 2)]
    )
)


def strategy(name: str) -> AbstractDecoding:
    return STRATEGIES[name](**CHEAPER.get(name, {}))


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, ask: Callable[..., Request]) -> VisionLanguageModel:
    """A model of an architecture that no other module has touched."""
    vlm = build_tiny(list(BUILDERS)[request.param])
    # `transformers` hangs hooks of its own into a vision tower when that first encodes an image.
    Plain().decode(vlm, ask(2), SHORT)
    return vlm


@pytest.fixture(scope="module")
def requests(ask: Callable[..., Request]) -> list[Request]:
    """About one, two and three images; the last one is the target."""
    return [ask(count, sample_id=f"{count}", targets=[count - 1]) for count in (1, 2, 3)]


@pytest.fixture(scope="module")
def plain(own: VisionLanguageModel, requests: list[Request], words_only: dict) -> list[Decoded]:
    """What plain decoding makes of each request."""
    return [
        Plain().decode(own, request, SHORT, keep_logits="all", **words_only) for request in requests
    ]


def state_of(vlm: VisionLanguageModel) -> dict[str, Any]:
    """Everything about a model and the process that a strategy must leave as it was."""
    modules = dict(vlm.model.named_modules())
    configs = {name: getattr(module, "config", None) for name, module in modules.items()}
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is meant
    return {
        "weights": {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()},
        "hooks": {
            (name, kind): list(hooks)
            for name, module in modules.items()
            for kind, hooks in vars(module).items()
            if kind.endswith("_hooks")
        },
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "classes": {name: (type(module), type(module).forward) for name, module in modules.items()},
        "forward": {name: vars(module).get("forward") for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "gradients": {name: p.requires_grad for name, p in vlm.model.named_parameters()},
        "attention": {
            name: config._attn_implementation
            for name, config in configs.items()
            if hasattr(config, "_attn_implementation")
        },
        "config": vlm.model.config.to_dict(),
        "generation": vlm.model.generation_config.to_dict(),
        "processor": vlm.processor.image_processor.to_dict(),
        "torch random": torch.get_rng_state(),
        "numpy random": numpy_state["state"],
        "python random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "attention functions": sorted(ALL_ATTENTION_FUNCTIONS.valid_keys()),
        "fields": sorted(vars(vlm)),
        "noise of the run": len(vlm.noise_cache),
    }


def assert_as_found(vlm: VisionLanguageModel, before: dict[str, Any]) -> None:
    after = state_of(vlm)
    assert after.keys() == before.keys()
    for name, value in before.items():
        if name == "weights":
            assert value.keys() == after[name].keys()
            assert all(torch.equal(value[key], after[name][key]) for key in value), name
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name]), name
        elif name == "numpy random":
            assert value["pos"] == after[name]["pos"], name
            assert np.array_equal(value["key"], after[name]["key"]), name
        else:
            assert value == after[name], name


@pytest.mark.parametrize(("own", "name"), MET, indirect=["own"], scope="module")
class TestEveryStrategy:
    def test_decodes_the_same_again_and_in_any_order(self, own, requests, words_only, name):
        """Requests about one, two and three images; the model is left as it was found."""
        before, decoding, runs = state_of(own), strategy(name), []
        for order in ((0, 1, 2), (2, 1, 0)):
            found = {
                k: decoding.decode(own, requests[k], SAMPLED, keep_logits="all", **words_only)
                for k in order
            }
            runs.append([found[k] for k in range(3)])
        assert_as_found(own, before)
        for one, other in zip(*runs, strict=True):
            assert one.token_ids == other.token_ids
            assert one.num_encoded == other.num_encoded
            for a, b in zip(one.branch_logits, other.branch_logits, strict=True):
                assert torch.equal(a, b)
            rows, sequences = len(one.row_labels), len(one.texts)
            assert len(one.branch_logits) == len(one.combined_logits) == len(one.token_ids[0])
            assert one.branch_logits[0].shape[:2] == (rows, sequences) == (rows, 2)
            assert one.combined_logits[0].shape[0] == sequences
            assert one.num_rows >= rows >= 1
            assert one.num_encoded >= 1
            assert one.seconds > 0

    def test_says_what_it_chooses_from_and_it_is_not_plain_decoding(
        self, own, requests, plain, words_only, name
    ):
        for request, other in zip(requests[1:], plain[1:], strict=True):
            decoded = strategy(name).decode(own, request, SHORT, keep_logits="all", **words_only)
            combined = torch.stack(decoded.combined_logits)[:, 0].clone()
            combined[:, words_only["suppress_tokens"]] = -torch.inf
            assert decoded.token_ids == (tuple(combined.argmax(-1).tolist()),)
            unchanged = torch.allclose(
                decoded.combined_logits[0], other.combined_logits[0], atol=1e-2
            )
            assert unchanged == (name == "plain")

    def test_off_is_plain_decoding(self, own, requests, plain, words_only, name):
        """Logit by logit: a rule that normalises (``max``) keeps the distribution alone, and is
        switched off with another one, or without normalising."""
        for request, other in zip(requests, plain, strict=True):
            request = dataclasses.replace(request, targets=range(len(request.images)))
            for off in OFF[name]:
                assert off.name == name
                one = off.decode(own, request, SHORT, keep_logits="all", **words_only)
                assert one.token_ids == other.token_ids
                if name in EXACT:
                    assert (one.num_rows, one.num_encoded) == (1, len(request.images))
                torch.testing.assert_close(
                    torch.stack(one.combined_logits),
                    torch.stack(other.combined_logits),
                    rtol=0,
                    atol=0 if name in EXACT else 1e-4,
                )

    def test_leaves_the_model_as_found_when_interrupted(
        self, own, requests, plain, words_only, name
    ):
        """An exception from outside while tokens are chosen, or from within a forward pass.

        Every architecture meets every place, and so does every strategy that reaches into it.
        """
        turn = sorted(STRATEGIES).index(name) + list(BUILDERS).index(own.name.removeprefix("tiny-"))
        where = PLACES[turn % len(PLACES)]
        before = state_of(own)
        fuse = Fuse(calls=1 if where == "prefill" else 2)
        kwargs, hook = dict(words_only), None
        if where == "processor":
            kwargs["logits_processor"] = [lambda ids, scores: fuse(scores)]
        elif where == "criterion":
            kwargs["stopping_criteria"] = [
                lambda ids, scores: fuse(torch.zeros(len(ids), dtype=torch.bool))
            ]
        else:  # in the last layer, when a strategy has done its work in the others
            last = own.family.decoder_layers(own.model)[-1]
            hook = last.register_forward_hook(lambda module, args, output: fuse(None))
        try:
            with pytest.raises(Interruption):
                strategy(name).decode(own, requests[1], SHORT, **kwargs)
        finally:
            if hook is not None:
                hook.remove()
        assert_as_found(own, before)
        after = Plain().decode(own, requests[1], SHORT, keep_logits="first")
        assert torch.equal(after.combined_logits[0], plain[1].combined_logits[0])


class Interruption(Exception):
    """What the tests raise in the middle of an answer."""


class Fuse:
    """Hands on what it is given, and blows at a certain call."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, value: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise Interruption
        return value


def test_every_strategy_can_be_switched_off_here():
    assert set(OFF) == set(STRATEGIES)


@every_strategy
def test_every_strategy_has_a_configuration_of_its_name_with_its_defaults(name):
    overrides = [f"decoding={name}", "benchmark=winoground", "model=tiny_internvl"]
    node = compose_config("config", overrides).decoding
    built = build(node)
    assert type(built) is STRATEGIES[name]
    assert built == STRATEGIES[name]()
    # What a file leaves out cannot be set on the command line.
    left_out = {field.name for field in dataclasses.fields(built)} - set(node)
    assert left_out == ({"prefill"} if name == "composed_focus" else set())  # it has one way only


@every_strategy
def test_every_strategy_is_a_frozen_dataclass_in_a_file_of_its_name(name):
    cls = STRATEGIES[name]
    assert cls.__module__ == f"focus.decoding.{name}"
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    with pytest.raises(TypeError, match="misspelt"):
        cls(misspelt=1)


class TestTheChecksThemselves:
    """A check that cannot fail is none: what a careless strategy does must be noticed."""

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda vlm: vlm.model.lm_head.register_forward_hook(lambda *args: None),
            lambda vlm: vlm.model.lm_head.weight.data.add_(1e-3),
            lambda vlm: vlm.model.set_attn_implementation("eager"),
            lambda vlm: setattr(vlm.model.lm_head, "forward", vlm.model.lm_head.forward),
            lambda vlm: vlm.model.train(),
            lambda vlm: setattr(vlm.model.generation_config, "top_k", 1),
            lambda vlm: setattr(vlm.processor.image_processor, "do_resize", False),
            lambda vlm: torch.rand(1),
            lambda vlm: np.random.rand(1),  # noqa: NPY002
            lambda vlm: random.random(),
        ],
    )
    def test_every_kind_of_trace_is_noticed(self, own_vlm, spoil):
        before, torch_state = state_of(own_vlm), torch.get_rng_state()
        assert_as_found(own_vlm, before)
        spoil(own_vlm)
        with pytest.raises(AssertionError):
            assert_as_found(own_vlm, before)
        torch.set_rng_state(torch_state)
