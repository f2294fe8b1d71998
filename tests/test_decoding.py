"""Settings that validate themselves, requests, and answers from end to end."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from cachetools import LRUCache
from PIL import Image

import focus
from focus.aggregation import AGGREGATIONS
from focus.benchmarks.registry import BENCHMARKS
from focus.branches import SHARING_SCOPES
from focus.decoding import (
    STRATEGIES,
    AdaptiveFocus,
    Focus,
    GenerationSettings,
    Plain,
    Request,
    RoutedFocus,
    Vcd,
    official_settings,
)
from focus.decoding.preparing import prepare
from focus.errors import ImageError, InvalidValueError, PromptError, UnknownNameError
from focus.models import ImageBudget
from focus.models.tiny import build_tiny
from focus.noise import NoiseConfig

SHORT = GenerationSettings(max_new_tokens=3)
NAN = math.nan


class TestGenerationSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("max_new_tokens", value) for value in (0, -1, 2.0, True, "4", None)),
            *(("temperature", value) for value in (NAN, math.inf, -0.1, "0.2", None, True)),
            *(("top_p", value) for value in (0.0, 1.1, NAN, -1.0, "1", True)),
            *(("top_k", value) for value in (-1, 5.5, NAN, "5", True)),
            *(("num_return_sequences", value) for value in (0, -1, 2.0, True)),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            GenerationSettings(**{name: value})

    def test_several_greedy_sequences_would_be_equal(self):
        with pytest.raises(InvalidValueError, match=r"num_return_sequences=2 .* temperature is 0"):
            GenerationSettings(num_return_sequences=2)
        assert GenerationSettings(num_return_sequences=2, temperature=0.1)

    def test_misspelt_names_fail(self):
        with pytest.raises(TypeError, match="max_tokens"):
            GenerationSettings(max_tokens=4)

    def test_greedy_by_default_and_no_setting_of_a_checkpoint_sneaks_in(self):
        assert GenerationSettings().generate_kwargs()["do_sample"] is False
        sampling = GenerationSettings(temperature=0.5).generate_kwargs()
        assert (sampling["do_sample"], sampling["top_p"], sampling["top_k"]) == (True, 1.0, 0)
        kept = GenerationSettings(temperature=0.5, top_p=None, top_k=None).generate_kwargs()
        assert "top_p" not in kept
        assert "top_k" not in kept


class TestFocusSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("alpha", value) for value in (NAN, math.inf, -0.1, 11, "0.3", None, True)),
            *(("beta", value) for value in (NAN, -0.1, 1.1, "0", None)),
            *(("sharing", value) for value in ("batch", None)),
            *(("targets", value) for value in ("some", None)),
            *(("prefill", value) for value in ("fast", None)),
            *(("encode_batch", value) for value in (0, -1, 1.5, True, "8")),
            *(("noise", value) for value in ("black", None, {"name": "black"})),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            Focus(**{name: value})

    def test_unknown_names_list_the_known_ones(self):
        with pytest.raises(UnknownNameError, match=r"'summ' \(did you mean 'sum'\?\)") as caught:
            Focus(aggregation="summ")
        assert all(name in str(caught.value) for name in AGGREGATIONS)
        with pytest.raises(UnknownNameError, match="did you mean 'uniform'"):
            Focus(noise=NoiseConfig("unifrom"))
        with pytest.raises(InvalidValueError, match="'branch', 'sample' or 'run'"):
            Focus(sharing="smaple")

    def test_misspelt_settings_fail(self):
        with pytest.raises(TypeError, match="alfa"):
            Focus(alfa=0.3)

    def test_official_is_the_published_protocol(self):
        official = Focus.official()
        assert (official.sharing, official.prefill) == ("branch", "naive")
        assert (official.aggregation, official.beta) == ("sum", 0.0)
        assert official.noise == NoiseConfig(
            "imagenet+uniform", scale=1.0, seed=42, drawn_at="image"
        )
        assert Focus.official(alpha=0.03).alpha == 0.03
        settings = official_settings()
        assert (settings.temperature, settings.max_new_tokens, settings.seed) == (0.2, 512, 42)
        assert settings.top_p is settings.top_k is None

    def test_official_runs_and_is_its_shared_twin(self, vlm, ask):
        settings = official_settings(max_new_tokens=4)
        official = Focus.official()
        one, other = (
            replace(official, prefill=prefill).decode(vlm, ask(3), settings, keep_logits="all")
            for prefill in ("naive", "shared")
        )
        assert one.token_ids == other.token_ids
        assert one.num_encoded == 3 * 4
        difference = torch.stack(one.branch_logits) - torch.stack(other.branch_logits)
        assert difference.abs().max() < 1e-4

    def test_every_strategy_is_listed_under_its_name(self):
        assert STRATEGIES["focus"] is Focus
        assert STRATEGIES["plain"] is Plain
        assert all(name == strategy.name for name, strategy in STRATEGIES.items())


class TestFocusDecodes:
    def first(self, vlm, request, **settings):
        return Focus(**settings).decode(vlm, request, SHORT, keep_logits="first")

    def test_every_setting_changes_something(self, vlm, ask):
        request = ask(3, targets=(1,))
        base = self.first(vlm, request).combined_logits[0]
        for settings in (
            {"alpha": 0.0},
            {"beta": 0.5},
            *({"aggregation": name} for name in set(AGGREGATIONS) - {"sum", "product"}),
            {"noise": NoiseConfig("black")},
            {"noise": NoiseConfig(scale=0.5)},
            {"noise": NoiseConfig(seed=1)},
            {"sharing": "branch"},
            {"sharing": "run"},
            {"targets": "named"},
        ):
            changed = self.first(vlm, request, **settings).combined_logits[0]
            assert not torch.allclose(changed, base, atol=1e-3), settings

    def test_sample_id_keys_noise_in_all_scopes_but_run(self, vlm, ask):
        for sharing, same in (("branch", False), ("sample", False), ("run", True)):
            one, other = (
                self.first(vlm, ask(2, sample_id=name), sharing=sharing).branch_logits[0]
                for name in ("one", "other")
            )
            assert torch.equal(one[0], other[0]) == same

    def test_results_do_not_depend_on_what_came_before(self, vlm, ask):
        """Bit for bit, with a cold and a warm cache of noise, in any order."""
        requests = [ask(2, sample_id="a"), ask(3, sample_id="b"), ask(4, sample_id="c")]
        # Other sizes in the same slots.
        requests[2] = replace(requests[2], images=requests[2].images[::-1])
        for sharing in SHARING_SCOPES:
            results = []
            for order in ([0, 1, 2], [2, 1, 0], [1, 1, 1]):
                fresh = replace(vlm, noise_cache=LRUCache(maxsize=3))
                found = {k: self.first(fresh, requests[k], sharing=sharing) for k in order}
                results.append(found[1].branch_logits[0])
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])

    @pytest.mark.parametrize(("name", "cached"), [("uniform", 2), ("shot", 0), ("speckle", 0)])
    def test_only_noise_that_hides_the_image_is_kept_for_the_run(self, vlm, ask, name, cached):
        """Noise that shows the image would leak it into the next sample."""
        noise = NoiseConfig(name)
        own = replace(vlm, noise_cache=LRUCache(maxsize=64))
        request = ask(2)
        flipped = Request(
            tuple(image.transpose(1) for image in request.images), request.question, "sample"
        )
        self.first(own, request, sharing="run", noise=noise)
        assert len(own.noise_cache) == cached
        warm = self.first(own, flipped, sharing="run", noise=noise)
        cold = replace(vlm, noise_cache=LRUCache(maxsize=64))
        expected = self.first(cold, flipped, sharing="run", noise=noise)
        assert torch.equal(warm.branch_logits[0], expected.branch_logits[0])

    def test_noise_of_a_run_is_kept_apart_by_all_it_depends_on(self, vlm, ask):
        own = replace(vlm, noise_cache=LRUCache(maxsize=64))
        for noise in (
            NoiseConfig(),
            NoiseConfig(scale=0.5),  # the reference's noise is pure, whatever the scale
            NoiseConfig(seed=1),
            NoiseConfig("black"),
        ):
            warm = self.first(own, ask(2), sharing="run", noise=noise).branch_logits[0]
            cold = replace(vlm, noise_cache=LRUCache(maxsize=64))
            expected = self.first(cold, ask(2), sharing="run", noise=noise).branch_logits[0]
            assert torch.equal(warm, expected)
        assert len(own.noise_cache) == 6

    def test_noise_of_a_run_follows_a_changed_budget(self, ask):
        """Another pixel budget means another number of tokens: old features would not fit."""
        vlm = build_tiny("qwen2_5_vl")
        before = self.first(vlm, ask(2), sharing="run")
        vlm.family.set_budget(vlm.processor, ImageBudget(max_pixels=16**2))
        after = self.first(vlm, ask(2), sharing="run")
        assert after.prompt_tokens < before.prompt_tokens

    def test_named_targets_leave_out_rows(self, vlm, ask):
        decoded = self.first(vlm, ask(4, targets=[(0, 1), 3]), targets="named")
        assert decoded.row_labels == ("reference", "image 1+2", "image 4")
        assert decoded.num_rows == 3
        ignored = self.first(vlm, ask(4, targets=[(0, 1), 3]))
        assert ignored.num_rows == 5


class TestRequest:
    def test_digest_names_the_sample_where_no_id_is_given(self, images):
        ids = {
            Request.create(list(pictures), question).sample_id
            for pictures, question in (
                (images[:2], "what"),
                (images[:2], "which"),
                (images[1::-1], "what"),
                (images[:1], "what"),
            )
        }
        assert len(ids) == 4
        again = Request.create([image.copy() for image in images[:2]], "<image><image>what")
        assert again.sample_id in ids  # pixels and words count, not objects or file names
        assert Request.create(images[0], "what", sample_id="mine").sample_id == "mine"

    def test_digest_tells_sizes_apart(self, images):
        image = images[0]
        # The same bytes in another shape.
        turned = Image.frombytes("RGB", (image.height, image.width), image.tobytes())
        one, other = (Request.create(i, "what").sample_id for i in (image, turned))
        assert one != other

    def test_images_from_anywhere(self, images, tmp_path):
        path = tmp_path / "image.png"
        images[0].save(path)
        requests = [
            Request.create(source, "what")
            for source in (images[0], [images[0]], (images[0],), path, str(path))
        ]
        assert len({request.sample_id for request in requests}) == 1
        assert {request.images[0].tobytes() for request in requests} == {images[0].tobytes()}

    def test_bad_images_and_questions(self, images):
        with pytest.raises(PromptError, match="no images"):
            Request.create([], "what")
        with pytest.raises(ImageError, match=r"image 2 of 2: .*missing\.png"):
            Request.create([images[0], "missing.png"], "what")
        with pytest.raises(PromptError, match="is empty"):
            Request.create(images[0], " ")
        with pytest.raises(PromptError, match="1 <image> placeholders but 2 images"):
            Request.create(list(images[:2]), "what is <image>")


class TestAnswer:
    """`focus.answer`, the one call most users need."""

    def test_end_to_end_on_every_architecture(self, any_vlm, images, tmp_path):
        paths = []
        for index, image in enumerate(images[:2]):
            paths.append(tmp_path / f"{index}.png")
            image.save(paths[-1])
        decoded = focus.answer(any_vlm, list(images[:2]), "what is red ?", settings=SHORT)
        assert isinstance(decoded.text, str)
        assert decoded.texts == (decoded.text,)
        assert len(decoded.token_ids[0]) <= 3
        assert (decoded.num_rows, decoded.num_encoded) == (3, 4)
        assert decoded.seconds > 0
        from_paths = focus.answer(any_vlm, paths, "what is red ?", settings=SHORT)
        assert from_paths.token_ids == decoded.token_ids

    def test_text_is_that_of_the_tokens(self, vlm, images, words_only):
        decoded = focus.answer(vlm, images, "what", settings=SHORT, **words_only)
        words = vlm.processor.tokenizer.convert_ids_to_tokens(list(decoded.token_ids[0]))
        assert decoded.text.split() == words

    def test_is_focus_on_the_named_images_unless_told_otherwise(self, vlm, images):
        def rows(**kwargs):
            decoded = focus.answer(vlm, images, "what", settings=SHORT, **kwargs)
            return decoded.row_labels

        assert rows() == ("reference", "image 1", "image 2", "image 3", "image 4")
        assert rows(targets=[2]) == ("reference", "image 3")
        assert rows(targets=[2], decoding=Focus()) == ("reference", "image 3")
        assert rows(decoding=Plain()) == ("image 1+2+3+4",)
        with pytest.raises(InvalidValueError, match="targets"):
            rows(targets=[4])

    def test_passes_everything_on(self, vlm, images):
        def logits(**kwargs):
            decoded = focus.answer(
                vlm, images[:2], "what", settings=SHORT, keep_logits="first", **kwargs
            )
            return decoded.branch_logits[0]

        base = logits()
        assert torch.equal(base, logits())
        assert not torch.equal(base, logits(sample_id="mine"))
        assert torch.equal(logits(sample_id="mine"), logits(sample_id="mine"))
        assert not torch.equal(base, logits(system="be brief"))
        long = focus.answer(
            vlm,
            images[:2],
            "what",
            settings=GenerationSettings(max_new_tokens=40),
            stopping_criteria=[lambda ids, scores: torch.tensor([ids.shape[1] >= 45])],
            min_new_tokens=40,
        )
        assert len(long.token_ids[0]) == 45 - long.prompt_tokens

    def test_misspelt_arguments_fail(self, vlm, images):
        with pytest.raises(ValueError, match="max_tokens"):
            focus.answer(vlm, images[:2], "what", max_tokens=4)

    def test_bad_input_is_refused_before_the_model_runs(self, own_vlm, images):
        def explode(*args):
            raise AssertionError("the model ran")

        own_vlm.model.register_forward_pre_hook(explode)
        own_vlm.model.model.vision_tower.register_forward_pre_hook(explode)
        for question, kwargs in (("", {}), ("<image>", {}), ("what", {"targets": [9]})):
            with pytest.raises(focus.FocusError):
                focus.answer(own_vlm, images[:2], question, **kwargs)
        with pytest.raises(AssertionError, match="the model ran"):  # control
            focus.answer(own_vlm, images[:2], "what")


def test_half_precision_decodes(any_vlm, ask):
    """Logits are combined in float32 whatever the weights are; bfloat16 adds too coarsely."""
    model = copy.deepcopy(any_vlm.model).to(torch.bfloat16)
    half = replace(any_vlm, model=model, noise_cache=LRUCache(maxsize=8))
    for decoding in (Focus(), Focus(sharing="run"), Focus.official(), Plain()):
        decoded = decoding.decode(half, ask(2), SHORT, keep_logits="all")
        for logits in (*decoded.branch_logits, *decoded.combined_logits):
            assert logits.dtype == torch.float32
            assert logits.isfinite().all()


def test_prompt_features_are_those_of_the_contents(vlm, ask):
    """`prepare` keeps pixels for every content, and encoded features for the noise of a run."""
    focus_run = Focus(sharing="run")
    own = replace(vlm, noise_cache=LRUCache(maxsize=8))
    plan = focus_run.plan(ask(2))
    branches = prepare(own, ask(2), plan, focus_run.combine, per_run=True)
    assert set(branches.images) == set(plan.contents)
    assert {content.kind for content in branches.features} == {"noise"}
    naive = prepare(own, ask(2), plan, focus_run.combine, per_run=True, prefill="naive")
    assert not naive.features


class TestSingleImage:
    """Where no branch masks anything, FOCUS has nothing to do (protocol: per benchmark)."""

    def test_nothing_to_mask_is_plain_decoding_at_its_cost(self, any_vlm, ask):
        settings = GenerationSettings(max_new_tokens=4)
        whole = ask(3, targets=[(0, 1, 2)])
        strategies = (Focus(alpha=0.9), RoutedFocus(alpha=0.9), AdaptiveFocus(threshold=1))
        for strategy, request in itertools.product(strategies, (ask(1), whole)):
            strategy = replace(strategy, targets="named")
            plain = Plain().decode(any_vlm, request, settings, keep_logits="all")
            found = strategy.decode(any_vlm, request, settings, keep_logits="all")
            assert found.token_ids == plain.token_ids
            assert (found.num_rows, found.num_encoded) == (plain.num_rows, plain.num_encoded)
            contrasted = replace(strategy, single_image="contrast")
            if not isinstance(strategy, AdaptiveFocus):  # control
                assert contrasted.decode(any_vlm, request, settings).num_rows > 1

    def test_the_published_protocol_decides_by_benchmark(self, ask):
        official, rows = Focus.official(), {}
        for kind in ("plain", "contrast"):
            rows[kind] = len(official.plan(ask(1, published_single=kind)).rows)
        assert rows == {"plain": 1, "contrast": 2}
        assert len(official.plan(ask(2, published_single="plain")).rows) == 3
        plain = {name for name, b in BENCHMARKS.items() if b.published_single == "plain"}
        assert plain == {"winoground", "vismin"}


def test_targets_hold_for_every_strategy_with_branches(vlm, ask):
    request = ask(3)
    settings = GenerationSettings(max_new_tokens=2)
    for strategy in (Focus(), RoutedFocus(), AdaptiveFocus(threshold=math.inf)):
        asked = {"decoding": strategy, "settings": settings}
        every = focus.answer(vlm, request.images, request.question, **asked)
        one = focus.answer(vlm, request.images, request.question, targets=[1], **asked)
        assert every.num_rows - one.num_rows == 2
    for strategy in (Plain(), Vcd()):
        with pytest.raises(InvalidValueError, match=f"targets=.*left out for {strategy.name}"):
            focus.answer(vlm, request.images, request.question, decoding=strategy, targets=[1])
