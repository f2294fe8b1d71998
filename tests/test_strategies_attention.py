"""VCD, SoFA, delimiter scaling, block attention: each against a computation without its code."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus.decoding import (
    BlockAttention,
    DelimiterScaling,
    GenerationSettings,
    Plain,
    Sofa,
    Vcd,
)
from focus.decoding.preparing import prepare
from focus.decoding.rows import clean_rows
from focus.errors import InvalidValueError, PromptError
from focus.models import VisionLanguageModel, tiny
from focus.randomness import generator

STEPS = 3
SETTINGS = GenerationSettings(max_new_tokens=STEPS)
DEFAULTS = (Vcd(), Sofa(), DelimiterScaling(), BlockAttention())
HOOKED = (Sofa(), DelimiterScaling(), BlockAttention())
by_name = pytest.mark.parametrize("strategy", DEFAULTS, ids=lambda s: s.name)
hooked = pytest.mark.parametrize("strategy", HOOKED, ids=lambda s: s.name)


@pytest.fixture(scope="module", params=list(tiny.BUILDERS))
def any_vlm(request) -> VisionLanguageModel:
    """Deeper than usual. What changes image tokens in the last layer reaches no logit, and the norm
    of the last layer undoes a scaling of its input: of three layers most would go untested.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny._TEXT, "num_hidden_layers", 6)
        return tiny.build_tiny(request.param)


def decode(vlm, strategy, request, keep_logits="all", settings=SETTINGS, **kwargs):
    return strategy.decode(vlm, request, settings, keep_logits=keep_logits, **kwargs)


def logits(vlm, strategy, request, **kwargs) -> Tensor:
    """[steps, vocab]"""
    return torch.stack(decode(vlm, strategy, request, **kwargs).combined_logits)[:, 0]


@torch.no_grad()
def by_hand(
    vlm,
    request,
    tokens: tuple[int, ...] = (),
    mask_of_layer: Callable[[int, Tensor, list[tuple[int, int]]], Tensor] | None = None,
    after_layer: Callable[[int, Tensor, Tensor, list[tuple[int, int]]], Tensor] | None = None,
    through_model: bool = False,
) -> Tensor:
    """Logits of every step from one pass over prompt and answer: no cache, no hooks, no engine.

    Args:
        tokens: the answer, which the pass is forced to follow.
        mask_of_layer: (layer, causal mask, spans) to the boolean mask of that layer.
        after_layer: (layer, hidden states, ids, spans) to hidden states.
        through_model: give the mask of layer 0 to the model's own `forward` instead.
    """
    model, language = vlm.model, vlm.model.model.language_model
    branches = prepare(vlm, request, *clean_rows(len(request.images)))
    prompt, spans = branches.prompt, list(branches.prompt.spans)
    features = vlm.family.encode(model, [branches.images[c] for c in branches.plan.contents])
    ids = torch.cat([prompt.input_ids, torch.tensor([tokens[:-1]], dtype=torch.long)], dim=1)
    new = prompt.position_ids.max() + 1 + torch.arange(len(tokens[:-1]))
    positions = torch.cat(
        [prompt.position_ids, new.expand(*prompt.position_ids.shape[:-1], -1)], dim=-1
    )
    length = ids.shape[1]
    causal = torch.tensor([[key <= query for key in range(length)] for query in range(length)])

    def mask(layer):
        seen = mask_of_layer(layer, causal.clone(), spans) if mask_of_layer else causal
        return torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)

    if through_model:
        outputs = model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask(0),
            **vlm.family.model_kwargs([branches.images[c] for c in branches.plan.contents]),
            use_cache=False,
        )
        return outputs.logits[0, prompt.input_ids.shape[1] - 1 :]

    hidden = language.embed_tokens(ids)
    for (start, end), feature in zip(spans, features, strict=True):
        hidden[0, start:end] = feature.embeddings
    rotary = language.rotary_emb(hidden, positions)
    for layer, module in enumerate(language.layers):
        hidden = module(hidden, attention_mask=mask(layer), position_embeddings=rotary)
        if after_layer:
            hidden = after_layer(layer, hidden, ids[0], spans)
        for (start, end), feature in zip(spans, features, strict=True):
            if layer < len(feature.deepstack):
                hidden[0, start:end] += feature.deepstack[layer]
    hidden = language.norm(hidden[0, prompt.input_ids.shape[1] - 1 :])
    return model.lm_head(hidden)


def blocked_in(layers):
    """Mask of each layer for block attention, pair by pair."""

    def mask_of_layer(layer, mask, spans):
        for one, (start, end) in enumerate(spans):
            for other, (first, last) in enumerate(spans):
                if one != other and (layers == "all" or layer in layers):
                    mask[start:end, first:last] = False
        return mask

    return mask_of_layer


def test_computation_by_hand_is_plain_where_nothing_is_changed(any_vlm, ask):
    """Otherwise the comparisons below would prove nothing."""
    plain = decode(any_vlm, Plain(), ask(3))
    expected = torch.stack(plain.combined_logits)[:, 0]
    tokens = plain.token_ids[0]
    for through_model in (False, True):
        found = by_hand(any_vlm, ask(3), tokens, through_model=through_model)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


class TestAll:
    """What holds for all of them beside the contract of every strategy."""

    @hooked
    def test_candidates_are_scored_under_the_same_hooks(self, any_vlm, ask, strategy):
        """Against an answer of the candidate's tokens, which the model is made to give."""
        request = ask(3, candidates=("red", "red circle", "blue circle"))
        scored = decode(any_vlm, strategy, request).scored
        for i, text in enumerate(request.candidates):
            tokens = any_vlm.processor.tokenizer.encode(text)
            left = iter(tokens)

            def force(_, scores, left=left):
                only = torch.full_like(scores, -math.inf)
                only[:, next(left)] = 0
                return only

            said = decode(
                any_vlm, strategy, ask(3), logits_processor=[force],
                settings=GenerationSettings(max_new_tokens=len(tokens)),
            )  # fmt: skip
            assert list(said.token_ids[0]) == tokens
            rows = torch.stack(said.combined_logits)[:, 0].log_softmax(-1)
            expected = rows[range(len(tokens)), tokens]
            torch.testing.assert_close(scored.rows[i][0], expected, atol=2e-5, rtol=0)

    @hooked
    def test_one_image_is_plain(self, any_vlm, ask, strategy):
        assert torch.equal(logits(any_vlm, strategy, ask(1)), logits(any_vlm, Plain(), ask(1)))

    @by_name
    def test_half_precision(self, vlm, ask, strategy):
        half = replace(vlm, model=copy.deepcopy(vlm.model).to(torch.bfloat16))
        decoded = decode(half, strategy, ask(3))
        assert torch.stack(decoded.branch_logits).isfinite().all()


class TestVcd:
    def diffused(self, vlm, request, step):
        """The published loop over steps, in the processor's own normalisation."""
        betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
        left = math.prod(1 - betas[: step + 1])
        mean, std = (
            np.array(getattr(vlm.processor.image_processor, name))
            for name in ("image_mean", "image_std")
        )
        images = []
        for j, image in enumerate(request.images):
            noise = generator(0, request.sample_id, j, None, "noise").standard_normal(
                np.asarray(image).shape
            )
            tensor = (np.asarray(image) / 255 - mean) / std
            pixels = (left**0.5 * tensor + (1 - left) ** 0.5 * noise) * std + mean
            images.append(Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)))
        return replace(request, images=tuple(images))

    @pytest.mark.parametrize("n", [1, 3])
    def test_is_the_published_formula(self, any_vlm, ask, n):
        """At later steps too: the public code mixed up the two rows' caches from token two on."""
        request = ask(n)
        # Images that every family sees as they are: the size at which noise is added.
        request = replace(request, images=tuple(i.resize((32, 32)) for i in request.images))
        decoded = decode(any_vlm, Vcd(alpha=0.7, beta=0.1), request)
        assert decoded.row_labels[0] == "reference"
        assert (decoded.num_rows, decoded.num_encoded) == (2, 2 * n)
        clean = by_hand(any_vlm, request, decoded.token_ids[0])
        noised = by_hand(any_vlm, self.diffused(any_vlm, request, 500), decoded.token_ids[0])
        assert (clean - noised).abs().max() > 0.1  # control
        expected = 1.7 * clean - 0.7 * noised
        top = clean.max(dim=-1, keepdim=True).values
        expected[clean < math.log(0.1) + top] = -math.inf
        found = torch.stack(decoded.combined_logits)[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert expected.isneginf().any()  # control

    def test_sign(self):
        """Tokens that only the clean images support go up."""
        noised, clean = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        combined = Vcd(alpha=1, beta=0).combine(torch.stack([noised, clean]))
        assert combined.tolist() == [[2.0, -1.0]]

    def test_cut_off_keeps_what_the_clean_row_finds_plausible(self):
        noised, clean = torch.tensor([[5.0, 4.9, -20.0]]), torch.tensor([[5.0, 4.9, -3.0]])
        rows = torch.stack([noised, clean])
        assert Vcd(beta=0).combine(rows).argmax() == 2
        combined = Vcd(beta=0.1).combine(rows)
        assert combined.argmax() == 0
        assert combined.isfinite().tolist() == [[True, True, False]]
        assert Vcd(beta=1).combine(rows).isfinite().tolist() == [[True, False, False]]
        assert Vcd(alpha=0, beta=0.1).combine(clean[None]).isneginf().tolist() == [
            [False] * 2 + [True]
        ]

    def test_every_setting_changes_something(self, vlm, ask):
        base = logits(vlm, Vcd(beta=0), ask(2))[0]
        for other in (Vcd(0.5, 0), Vcd(beta=0.5), Vcd(beta=0, step=900), Vcd(beta=0, seed=1)):
            assert not torch.allclose(logits(vlm, other, ask(2))[0], base, atol=1e-3), other

    def test_noise_is_keyed_by_sample(self, vlm, ask):
        one, other = (
            decode(vlm, Vcd(), ask(2, sample_id=name)).branch_logits[0] for name in ("a", "b")
        )
        assert not torch.allclose(one[0], other[0], atol=1e-3)
        torch.testing.assert_close(one[1], other[1])

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("alpha", value) for value in (math.nan, -0.1, 11, "1", None, True)),
            *(("beta", value) for value in (math.nan, -0.1, 1.1, None)),
            *(("step", value) for value in (-1, 1000, 500.0, "500", True)),
            *(("seed", value) for value in (-1, 0.5, None, True)),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            Vcd(**{name: value})


class TestSofa:
    def reference(self, vlm, request, tokens, share, every, monkeypatch):
        """Attention written out: two softmaxes, their weights mixed, then the values."""
        spans = prepare(vlm, request, *clean_rows(len(request.images))).prompt.spans

        def attention(module, query, key, value, attention_mask, scaling, **kwargs):
            groups = query.shape[1] // key.shape[1]
            key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
            scores = query @ key.mT * scaling
            visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
            if module.layer_idx % every == 0:
                for start, end in spans:
                    for first, last in spans:
                        if first > start:
                            visible[start:end, first:last] = True
                soft = scores.masked_fill(~visible, -math.inf).softmax(-1)
                weights = (1 - share) * weights + share * soft
                torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
            return (weights @ value).transpose(1, 2), weights

        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "by_hand", attention)
        own = replace(vlm, model=copy.deepcopy(vlm.model))
        for layer in own.family.decoder_layers(own.model):
            layer.self_attn.config._attn_implementation = "by_hand"
        return by_hand(own, request, tokens)

    @pytest.mark.parametrize(("share", "every"), [(0.5, 2), (0.3, 1), (1.0, 2)])
    def test_mixes_attention_weights(self, any_vlm, ask, share, every, monkeypatch):
        decoded = decode(any_vlm, Sofa(share, every), ask(3))
        expected = self.reference(any_vlm, ask(3), decoded.token_ids[0], share, every, monkeypatch)
        found = torch.stack(decoded.combined_logits)[:, 0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)

    def test_every_setting_changes_something(self, any_vlm, ask):
        base = logits(any_vlm, Sofa(), ask(3))[0]
        for other in (Sofa(0.25), Sofa(1.0), Sofa(every=1), Sofa(every=3)):
            assert not torch.allclose(logits(any_vlm, other, ask(3))[0], base, atol=1e-3), other

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("s", value) for value in (math.nan, -0.1, 1.1, "0.5", None, True)),
            *(("every", value) for value in (0, -1, 2.0, None, True)),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            Sofa(**{name: value})


#: Written down from the paper, not read from the families.
DELIMITERS = {
    "internvl": ("<img>", "</img>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"),
    "qwen3_vl": ("<|vision_start|>", "<|vision_end|>"),
    "llava_onevision": None,
}


class TestDelimiterScaling:
    @pytest.mark.parametrize(
        ("factor", "layers"), [(8.0, (0, 1, 2, 3)), (3.0, (1, 30)), (0.5, "all")]
    )
    def test_scales_the_residual_stream(self, any_vlm, ask, factor, layers):
        tokens = DELIMITERS[any_vlm.family.name]
        scaled = []

        def after_layer(layer, hidden, ids, spans):
            for start, end in spans:
                places = (start - 1, end) if tokens else (end - 1,)
                if tokens:  # the prompt is what the paper describes
                    words = any_vlm.processor.tokenizer.convert_ids_to_tokens(ids[[start - 1, end]])
                    assert tuple(words) == tokens
                for place in places:
                    if layers == "all" or layer in layers:
                        hidden[0, place] = hidden[0, place] * factor
                        scaled.append(place)
            return hidden

        decoded = decode(any_vlm, DelimiterScaling(factor, layers), ask(3))
        expected = by_hand(any_vlm, ask(3), decoded.token_ids[0], after_layer=after_layer)
        found = torch.stack(decoded.combined_logits)[:, 0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
        assert len(set(scaled)) == (6 if tokens else 3)

    def test_every_setting_changes_something(self, any_vlm, ask):
        # Not from 8, which has nearly all of its effect after three layers: 512 times the stream.
        base = logits(any_vlm, DelimiterScaling(2.0), ask(3))[0]
        same_factor = [DelimiterScaling(2.0, layers) for layers in ([0], [0, 1, 2], [3])]
        for other in (*same_factor, DelimiterScaling()):
            assert not torch.allclose(logits(any_vlm, other, ask(3))[0], base, atol=1e-3), other

    def test_a_prompt_without_delimiters_is_an_error_not_a_no_op(self, vlm, ask):
        class Undelimited(type(vlm.family)):
            delimiters = ("<user>.", "green.")

        with pytest.raises(PromptError, match=r"no image delimiter"):
            decode(replace(vlm, family=Undelimited()), DelimiterScaling(), ask(3))

    def test_layers_that_no_model_has_are_named(self, vlm, ask):
        with pytest.raises(InvalidValueError, match=r"layers=\(7, 9\) .* below 3"):
            decode(vlm, DelimiterScaling(layers=(7, 9)), ask(3))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("factor", value) for value in (math.nan, math.inf, 0, -8, "8", None, True)),
            *(("layers", value) for value in ("some", 3, None, [-1], [0, 0], [0.5], [True])),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            DelimiterScaling(**{name: value})


class TestBlockAttention:
    def test_is_the_model_under_an_explicit_mask(self, any_vlm, ask):
        decoded = decode(any_vlm, BlockAttention(), ask(3))
        expected = by_hand(
            any_vlm,
            ask(3),
            decoded.token_ids[0],
            mask_of_layer=blocked_in("all"),
            through_model=True,
        )
        found = torch.stack(decoded.combined_logits)[:, 0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)

    @pytest.mark.parametrize("layers", [(0,), (1, 4, 30)])
    def test_acts_in_the_chosen_layers_only(self, any_vlm, ask, layers):
        decoded = decode(any_vlm, BlockAttention(layers), ask(3))
        expected = by_hand(any_vlm, ask(3), decoded.token_ids[0], mask_of_layer=blocked_in(layers))
        found = torch.stack(decoded.combined_logits)[:, 0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
        everywhere = logits(any_vlm, BlockAttention(), ask(3))[0]
        assert not torch.allclose(everywhere, found[0], atol=1e-3)

    def test_hides_an_image_from_the_next_but_not_from_the_question(self, any_vlm, images, ask):
        """Image 1 changes. In the first layer image 2 does not move; later, text may carry it."""
        layers = any_vlm.family.decoder_layers(any_vlm.model)
        mirrored = images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        start, end = prepare(any_vlm, ask(2), *clean_rows(2)).prompt.spans[1]

        def moved(strategy):
            seen = []
            handles = [
                layer.register_forward_hook(lambda m, args, out: seen.append(out[0].clone()))
                for layer in (layers[0], layers[-1])
            ]
            for first in (images[0], mirrored):
                request = replace(ask(2), images=(first, images[1]))
                decode(any_vlm, strategy, request, settings=GenerationSettings(1))
            for handle in handles:
                handle.remove()
            first_layer, last_layer = ((seen[k] - seen[k + 2]).abs() for k in (0, 1))
            return first_layer[start:end].max(), last_layer[-1].max()

        image, question = moved(BlockAttention())
        assert image < 1e-5
        assert question > 1e-2
        assert moved(Plain())[0] > 1e-2  # control

    @pytest.mark.parametrize("layers", ["some", 3, None, [-1], [0, 0], [0.5], [True]])
    def test_bad_values_are_named(self, layers):
        with pytest.raises(InvalidValueError, match=r"^layers=.* must be "):
            BlockAttention(layers)


class TestAttentionImplementations:
    @hooked
    def test_eager_and_sdpa_agree(self, any_vlm, ask, strategy):
        eager = replace(any_vlm, model=copy.deepcopy(any_vlm.model))
        eager.model.set_attn_implementation("eager")
        found = logits(eager, strategy, ask(3))
        torch.testing.assert_close(found, logits(any_vlm, strategy, ask(3)), atol=2e-5, rtol=0)
        assert eager.model.config._attn_implementation == "eager"

    @pytest.mark.parametrize("strategy", [Sofa(), BlockAttention()], ids=lambda s: s.name)
    def test_flash_attention_is_refused(self, vlm, ask, strategy):
        """It would ignore the mask: plain decoding under another name."""
        flash = replace(vlm, model=copy.deepcopy(vlm.model))
        for layer in flash.family.decoder_layers(flash.model):
            layer.self_attn.config._attn_implementation = "flash_attention_2"
        with pytest.raises(
            InvalidValueError, match=r"attention='flash_attention_2' .*eager or sdpa"
        ):
            decode(flash, strategy, ask(3))
