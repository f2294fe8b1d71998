"""Single image, caption then answer, adaptive FOCUS: each against a reference made by hand.

What holds for every strategy is in test_strategies_contract.py.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from focus.decoding import (
    AdaptiveFocus,
    CaptionThenAnswer,
    Focus,
    GenerationSettings,
    Plain,
    Request,
    RoutedFocus,
    SingleImage,
)
from focus.decoding.adaptive_focus import first_margin
from focus.decoding.reuse import remembering
from focus.decoding.single_image import drop_placeholders
from focus.errors import InvalidValueError
from focus.noise import NoiseConfig
from focus.routing import route

SHORT = GenerationSettings(max_new_tokens=3)
SAMPLED = GenerationSettings(max_new_tokens=4, temperature=1.0, num_return_sequences=2)
NAN = math.nan


def assert_same(one, other, *, exact=True):
    """Same text and same logits of every row and step; `exact` to the last bit, and at one cost."""
    assert one.token_ids == other.token_ids
    assert one.row_labels == other.row_labels
    for name in ("branch_logits", "combined_logits"):
        mine, theirs = torch.stack(getattr(one, name)), torch.stack(getattr(other, name))
        tolerance = {"rtol": 0, "atol": 0 if exact else 1e-4}
        torch.testing.assert_close(mine, theirs, **tolerance)
    if exact:
        assert one.num_rows == other.num_rows
        assert one.num_encoded == other.num_encoded


def difference(one, other):
    """Largest difference of the first token's combined logits."""
    return (one.combined_logits[0] - other.combined_logits[0]).abs().max()


class Ear:
    """A streamer that writes down what it hears."""

    def __init__(self):
        self.heard = []

    def put(self, value):
        self.heard.append(value.tolist())

    def end(self):
        self.heard.append("end")


class TestSingleImage:
    @pytest.fixture
    def decode(self, any_vlm, words_only):
        def decode(strategy, request, settings=SHORT):
            return strategy.decode(any_vlm, request, settings, keep_logits="all", **words_only)

        return decode

    def test_removed_is_plain_decoding_of_the_question_written_by_hand(self, decode, ask, images):
        by_hand = Request((images[1],), "a b <image> c which is green ?", "sample")
        alone = decode(SingleImage(), ask(3, targets=[1]))
        assert_same(alone, dataclasses.replace(decode(Plain(), by_hand), row_labels=("image 2",)))
        assert (alone.num_rows, alone.num_encoded, len(alone.image_tokens)) == (1, 1, 1)
        by_hand = Request((images[0], images[2]), "a <image> b c <image> which is green ?", "s")
        two = decode(SingleImage(), ask(3, targets=[(2, 0)]))
        assert_same(two, dataclasses.replace(decode(Plain(), by_hand), row_labels=("image 1+3",)))

    def test_noise_is_the_on_target_branch_of_focus(self, decode, ask):
        for noise in (NoiseConfig(), NoiseConfig("black"), NoiseConfig(scale=0.5, seed=1)):
            request = ask(3, targets=[1])
            alone = decode(SingleImage(others="noise", noise=noise), request)
            branches = decode(Focus(noise=noise), request)
            assert branches.row_labels[2] == alone.row_labels[0] == "image 2"
            torch.testing.assert_close(
                alone.branch_logits[0][0], branches.branch_logits[0][2], rtol=0, atol=1e-4
            )
            assert (alone.num_rows, alone.num_encoded) == (1, 3)

    def test_several_units_are_clean_together(self, decode, ask):
        one_row = decode(SingleImage(others="noise"), ask(4, targets=[3, (0, 1)]))
        assert one_row.row_labels == ("image 1+2+4",)
        branch = decode(Focus(targets="named"), ask(4, targets=[(0, 1, 3)]))
        torch.testing.assert_close(
            one_row.branch_logits[0][0], branch.branch_logits[0][1], rtol=0, atol=1e-4
        )

    @pytest.mark.parametrize("others", ["removed", "noise"])
    def test_all_images_as_targets_is_plain_decoding(self, decode, ask, others):
        for targets in ([0, 1, 2], [(2, 0), 1]):
            request = ask(3, targets=targets)
            assert_same(decode(SingleImage(others=others), request), decode(Plain(), request))

    @pytest.mark.parametrize("others", ["removed", "noise"])
    def test_a_lone_image_is_its_own_target(self, decode, ask, others):
        plain = decode(Plain(), ask(1))
        for targets in (None, [], [0]):
            assert_same(decode(SingleImage(others=others), ask(1, targets=targets)), plain)

    @pytest.mark.parametrize("targets", [None, []])
    def test_unknown_targets_are_refused_with_what_is_accepted(self, vlm, ask, targets):
        with pytest.raises(
            InvalidValueError, match=r"targets=(None|\[\]) .* from 0 to 2 for single"
        ):
            SingleImage().decode(vlm, ask(3, targets=targets), SHORT)

    def test_images_without_placeholders_come_first(self, vlm, images):
        request = Request(images[:3], "what", "sample", targets=[1])
        by_hand = Request(images[1:2], "what", "sample")
        one, other = (
            strategy.decode(vlm, each, SHORT, keep_logits="all")
            for strategy, each in ((SingleImage(), request), (Plain(), by_hand))
        )
        assert one.prompt_tokens == other.prompt_tokens
        assert difference(one, other) == 0

    def test_target_others_and_noise_all_matter(self, decode, ask):
        found = [
            decode(strategy, ask(3, targets=[target]))
            for strategy, target in (
                (SingleImage(), 0),
                (SingleImage(), 1),
                (SingleImage(others="noise"), 0),
                (SingleImage(others="noise"), 1),
                (SingleImage(others="noise", noise=NoiseConfig("black")), 0),
            )
        ]
        found.append(decode(Plain(), ask(3)))
        for index, one in enumerate(found):
            assert all(difference(one, other) > 1e-3 for other in found[:index])

    @pytest.mark.parametrize(
        ("question", "dropped", "expected"),
        [
            ("a : <image> b : <image> what", {0}, "a : b : <image> what"),
            ("a : <image> b : <image> what", {1}, "a : <image> b : what"),
            ("<image><image>What", {0}, "<image>What"),
            ("<image><image>What", {1}, "<image>What"),
            ("<image>\n<image>\nWhat", {0}, "<image>\nWhat"),
            ("<image>\n<image>\nWhat", {1}, "<image>\nWhat"),
            ("Q\n(A) <image>\n(B) <image>\n(C) <image>", {0, 2}, "Q\n(A)\n(B) <image>\n(C)"),
            ("see <image>and <image>.", {0}, "see and <image>."),
            ("see <image><image><image> now", {0, 1, 2}, "see now"),
            ("see <image><image> now", {0}, "see <image> now"),
            (" <image> <image> now", {0, 1}, "now"),
            ("no change <image> ?", set(), "no change <image> ?"),
        ],
    )
    def test_a_dropped_placeholder_takes_no_word_along(self, question, dropped, expected):
        assert drop_placeholders(question, dropped) == expected

    @pytest.mark.parametrize(
        ("name", "value"), [("others", "black"), ("others", None), ("noise", "black")]
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            SingleImage(**{name: value})


class TestCaptionThenAnswer:
    CAPTIONS = CaptionThenAnswer(
        caption_prompt="what is image {index} in {count} ?",
        max_caption_tokens=5,
        template=" image {index} shows {caption} .",
    )

    def captions(self, vlm, images, settings, sample_id="sample"):
        """By hand: the answer to the caption prompt about each image alone."""
        short = dataclasses.replace(settings, max_new_tokens=5, num_return_sequences=1)
        count = len(images)
        return [
            Plain()
            .decode(
                vlm,
                Request(
                    (image,), f"what is image {k} in {count} ?", f"{sample_id}/caption {k}", "what"
                ),
                short,
            )
            .text
            for k, image in enumerate(images, start=1)
        ]

    @pytest.mark.parametrize("settings", [SHORT, SAMPLED])
    def test_is_plain_decoding_of_the_prompt_with_captions_written_by_hand(
        self, any_vlm, ask, words_only, settings
    ):
        request = ask(2, system="what")
        first, second = self.captions(any_vlm, request.images, settings)
        assert first != second
        question = (
            f"first <image> image 1 shows {first} . and second "
            f"<image> image 2 shows {second} . which is red ?"
        )
        by_hand = dataclasses.replace(request, question=question)
        one, other = (
            strategy.decode(any_vlm, each, settings, keep_logits="all", **words_only)
            for strategy, each in ((self.CAPTIONS, request), (Plain(), by_hand))
        )
        assert_same(one, dataclasses.replace(other, num_rows=3), exact=False)
        assert one.prompt_tokens == other.prompt_tokens

    def test_counts_all_passes_and_encodes_each_image_once(self, any_vlm, ask, monkeypatch):
        encoded, family = [], type(any_vlm.family)
        encode = family.encode

        def spy(self, model, images):
            encoded.extend(images)
            return encode(self, model, images)

        monkeypatch.setattr(family, "encode", spy)
        decoded = self.CAPTIONS.decode(any_vlm, ask(3), SHORT)
        assert (decoded.num_rows, decoded.num_encoded, len(encoded)) == (4, 3, 3)
        assert decoded.seconds > Plain().decode(any_vlm, ask(3), SHORT).seconds

    def test_keeps_the_logits_of_the_answer_alone(self, vlm, ask, words_only):
        for keep, steps in (("none", 0), ("first", 1), ("all", 3)):
            decoded = self.CAPTIONS.decode(vlm, ask(2), SHORT, keep_logits=keep, **words_only)
            assert len(decoded.branch_logits) == len(decoded.combined_logits) == steps
        assert decoded.row_labels == ("image 1+2",)

    @pytest.mark.parametrize("off", [{"max_caption_tokens": 0}, {"template": ""}])
    def test_off_is_plain_decoding(self, vlm, ask, off):
        for settings in (SHORT, SAMPLED):
            one, other = (
                strategy.decode(vlm, ask(2), settings, keep_logits="all")
                for strategy in (CaptionThenAnswer(**off), Plain())
            )
            assert_same(one, other)

    def test_every_setting_changes_the_answer(self, vlm, ask):
        found = [
            strategy.decode(vlm, ask(2), SHORT, keep_logits="first")
            for strategy in (
                Plain(),
                self.CAPTIONS,
                dataclasses.replace(self.CAPTIONS, max_caption_tokens=1),
                dataclasses.replace(self.CAPTIONS, caption_prompt="<image> is what ?"),
                dataclasses.replace(self.CAPTIONS, template=" {caption}"),
            )
        ]
        for index, one in enumerate(found):
            assert all(difference(one, other) > 1e-3 for other in found[:index])

    def test_a_caption_depends_on_its_own_image_alone(self, vlm, ask, images):
        """Swapping the other image leaves it as it was: no leakage into captions."""
        request = ask(2)
        swapped = dataclasses.replace(request, images=(images[0], images[3]))
        heard = []
        for each in (request, swapped):
            alone = self.CAPTIONS.caption_requests(each)
            heard.append([Plain().decode(vlm, one, SAMPLED).texts for one in alone])
        assert heard[0][0] == heard[1][0]
        assert heard[0][1] != heard[1][1]

    def test_each_caption_has_draws_of_its_own(self, vlm, images):
        request = Request((images[0], images[0]), "what", "sample")
        same = dataclasses.replace(self.CAPTIONS, caption_prompt="what")
        captions = [
            Plain().decode(vlm, each, SAMPLED).text for each in same.caption_requests(request)
        ]
        assert captions[0] != captions[1]
        again = [
            Plain().decode(vlm, each, SAMPLED).text
            for each in reversed(same.caption_requests(request))
        ]
        assert again == captions[::-1]

    def test_what_is_passed_on_acts_on_the_answer_alone(self, vlm, ask):
        ear = Ear()
        lengths = []

        def look(ids, scores):
            lengths.append(ids.shape[1])
            return scores

        decoded = self.CAPTIONS.decode(vlm, ask(2), SHORT, logits_processor=[look], streamer=ear)
        assert lengths[0] == decoded.prompt_tokens == len(ear.heard[0][0])
        assert len(lengths) == len(ear.heard) - 2 == len(decoded.token_ids[0])
        assert ear.heard[-1] == "end"

    def test_captions_cannot_ask_for_images_nor_fill_in_fields(self, vlm, ask):
        request = self.CAPTIONS.captioned(
            ask(2), ["a <image> b", f"{vlm.processor.image_token}{{index}}"], vlm
        )
        assert request.question == (
            "first <image> image 1 shows a  b . and second "
            "<image> image 2 shows {index} . which is red ?"
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("max_caption_tokens", value) for value in (-1, 1.0, True, "4", None)),
            *(("template", value) for value in ("no field", "{captoin}", "{", "{}", None)),
            ("template", "<image> {caption}"),
            *(("caption_prompt", value) for value in ("", " ", "{caption}", "}", None, 3)),
            *(("caption_prompt", value) for value in ("<image>", "<image> or <image> ?")),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"(?s)^{name}=.* must be "):
            CaptionThenAnswer(**{name: value})


class TestAdaptiveFocus:
    @pytest.fixture
    def decode(self, any_vlm, words_only):
        def decode(strategy, request, settings=SHORT):
            return strategy.decode(any_vlm, request, settings, keep_logits="all", **words_only)

        return decode

    @pytest.mark.parametrize(("margin", "settings"), [("probability", SHORT), ("logit", SAMPLED)])
    def test_zero_is_plain_decoding_and_infinity_is_focus(self, decode, ask, settings, margin):
        for num_images in (1, 3):
            for threshold, other in ((0, Plain()), (math.inf, Focus())):
                adaptive = AdaptiveFocus(threshold=threshold, margin=margin)
                request = ask(num_images)
                assert_same(decode(adaptive, request, settings), decode(other, request, settings))

    @pytest.mark.parametrize(("margin", "settings"), [("probability", SHORT), ("logit", SAMPLED)])
    def test_switches_where_the_margin_falls_below_the_threshold(
        self, decode, ask, margin, settings
    ):
        """Several requests under one threshold: those below are FOCUS's, the others plain."""
        requests = [ask(count, sample_id=f"{count}") for count in (2, 3, 4)]
        plain = [decode(Plain(), each, settings) for each in requests]
        focus = [decode(Focus(), each, settings) for each in requests]
        # By hand, from sorted probabilities or logits.
        values = [each.combined_logits[0][0] for each in plain]
        if margin == "probability":
            values = [torch.exp(each) / torch.exp(each).sum() for each in values]
        ordered = [each.sort(descending=True).values.tolist() for each in values]
        margins = [each[0] - each[1] for each in ordered]
        threshold = sum(sorted(margins)[:2]) / 2
        adaptive = AdaptiveFocus(threshold=threshold, margin=margin)
        unsure = [m < threshold for m in margins]
        assert sum(unsure) == 1
        for request, switched, clean, branched in zip(requests, unsure, plain, focus, strict=True):
            found = decode(adaptive, request, settings)
            if switched:
                assert_same(found, branched, exact=False)
                assert found.num_rows == branched.num_rows + 1
                assert found.num_encoded == branched.num_encoded
            else:
                assert_same(found, clean)

    def test_a_margin_at_the_threshold_is_sure(self, vlm, ask):
        plain = Plain().decode(vlm, ask(2), SHORT, keep_logits="first")
        margin = first_margin(plain.combined_logits[0][0], "logit")
        above = math.nextafter(margin, math.inf)
        rows = [
            AdaptiveFocus(threshold=threshold, margin="logit").decode(vlm, ask(2), SHORT).num_rows
            for threshold in (margin, above)
        ]
        assert rows == [1, 4]

    def test_margins_by_hand(self):
        logits = torch.tensor([0.6, 0.1, 0.3]).log() + 5
        assert first_margin(logits, "probability") == pytest.approx(0.3)
        assert first_margin(logits, "logit") == pytest.approx(math.log(2))

    @pytest.mark.parametrize(
        ("focus", "encoded"),
        [
            ({}, 6),
            ({"sharing": "branch"}, 12),
            ({"prefill": "naive"}, 3 + 12),  # encodes every image of every row
            ({"targets": "named"}, 6),  # image 1 is clean in the plain pass alone
            ({"noise": NoiseConfig(scale=0.5)}, 9),
        ],
    )
    def test_branches_reuse_the_clean_images_of_the_plain_pass(
        self, vlm, ask, monkeypatch, focus, encoded
    ):
        """What is counted is what the vision tower does, a count of its own aside from ours."""
        calls, family = [], type(vlm.family)
        encode = family.encode

        def spy(self, model, images):
            calls.extend(images)
            return encode(self, model, images)

        monkeypatch.setattr(family, "encode", spy)
        unsure = AdaptiveFocus(threshold=1e6, margin="logit", **focus)
        request = ask(3, targets=[1, 2])
        decoded = unsure.decode(vlm, request, SHORT)
        assert decoded.num_encoded == encoded
        assert len(calls) == (3 if focus.get("prefill") == "naive" else encoded)
        assert decoded.num_rows == 1 + unsure.focus.decode(vlm, request, SHORT).num_rows

    def test_noise_of_a_run_is_not_counted_whoever_comes_first(self, vlm, ask):
        own = dataclasses.replace(vlm, noise_cache={})
        unsure = AdaptiveFocus(threshold=1e6, margin="logit", sharing="run")
        counts = [unsure.decode(own, ask(3), SHORT).num_encoded for _ in range(2)]
        assert counts == [3, 3]
        assert len(own.noise_cache) == 3

    def test_seconds_are_those_of_both_passes(self, own_vlm, ask, monkeypatch):
        clock = iter(range(1000))
        monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
        unsure = AdaptiveFocus(threshold=1e6, margin="logit")
        assert unsure.decode(own_vlm, ask(2), SHORT).seconds == 5  # readings: start, 2 passes' 4

    def test_sure_answers_run_the_language_model_as_plain_decoding_does(self, vlm, ask):
        def shapes(strategy):
            seen = []
            hook = vlm.model.model.language_model.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape)),
                with_kwargs=True,
            )
            try:
                strategy.decode(vlm, ask(3), SHORT)
            finally:
                hook.remove()
            return seen

        plain, focus = shapes(Plain()), shapes(Focus())
        assert shapes(AdaptiveFocus(threshold=1e-9, margin="logit")) == plain
        # Unsure: the plain prefill, nothing of its decoding, and then FOCUS.
        assert shapes(AdaptiveFocus(threshold=1e6, margin="logit")) == plain[:1] + focus

    @pytest.mark.parametrize("threshold", [1e-9, 1e6])
    def test_a_streamer_hears_one_prompt_and_one_answer(self, vlm, ask, words_only, threshold):
        ear = Ear()
        adaptive = AdaptiveFocus(threshold=threshold, margin="logit")
        decoded = adaptive.decode(vlm, ask(2), SHORT, streamer=ear, **words_only)
        assert len(ear.heard[0][0]) == decoded.prompt_tokens
        assert [each[0] for each in ear.heard[1:-1]] == list(decoded.token_ids[0])
        assert ear.heard[-1] == "end"

    def test_processors_see_one_answer_alone(self, vlm, ask):
        """The plain pass is given up before it chooses: a stateful processor is not spoilt."""
        lengths = []

        def look(ids, scores):
            lengths.append(ids.shape[1])
            return scores

        unsure = AdaptiveFocus(threshold=1e6, margin="logit")
        decoded = unsure.decode(vlm, ask(2), SHORT, logits_processor=[look])
        assert lengths == [decoded.prompt_tokens + k for k in range(len(lengths))]

    def test_every_setting_of_focus_is_passed_on(self, vlm, ask):
        """Under the same names and defaults, so that one override serves both."""
        own = {field.name: field for field in dataclasses.fields(AdaptiveFocus)}
        for field in dataclasses.fields(Focus):
            assert own[field.name].default == field.default
        changed = {
            "alpha": 0.1,
            "beta": 0.2,
            "aggregation": "max",
            "noise": NoiseConfig("black"),
            "sharing": "run",
            "single_image": "contrast",
            "targets": "named",
            "prefill": "naive",
            "encode_batch": 3,
        }
        assert AdaptiveFocus(**changed).focus == Focus(**changed)
        mixed = {k: v for k, v in changed.items() if k not in ("beta", "aggregation")}
        assert AdaptiveFocus(routed=True, **mixed).focus == RoutedFocus(**mixed)
        assert set(changed) == {field.name for field in dataclasses.fields(Focus)}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("threshold", value) for value in (NAN, -0.1, -math.inf, 1.5, "0.5", None, True)),
            *(("margin", value) for value in ("entropy", None)),
            ("alpha", -1),
            ("noise", "black"),
            ("routed", 1),
        ],
    )
    def test_bad_values_are_named(self, name, value):
        with pytest.raises(InvalidValueError, match=rf"^{name}=.* must be "):
            AdaptiveFocus(**{name: value})
        assert AdaptiveFocus(threshold=1.5, margin="logit")

    @pytest.mark.parametrize("ignored", [{"beta": 0.1}, {"aggregation": "max"}])
    def test_settings_that_a_mixture_has_no_use_for_are_refused(self, ignored):
        assert AdaptiveFocus(**ignored)
        with pytest.raises(InvalidValueError, match=f"{next(iter(ignored))}=.*routed"):
            AdaptiveFocus(routed=True, **ignored)

    def test_routed_it_answers_as_routed_focus_where_plain_decoding_is_unsure(
        self, vlm, ask, words_only
    ):
        def decode(strategy):
            return strategy.decode(vlm, ask(3), SHORT, keep_logits="all", **words_only)

        unsure, routed = (
            decode(AdaptiveFocus(threshold=1e6, margin="logit", routed=True)),
            decode(RoutedFocus()),
        )
        assert_same(unsure, routed, exact=False)
        assert unsure.num_rows == 1 + routed.num_rows
        assert unsure.num_encoded == routed.num_encoded  # clean images are encoded once
        sure = decode(AdaptiveFocus(threshold=1e-9, margin="logit", routed=True))
        assert_same(sure, decode(Plain()))


class TestRemembering:
    def test_everything_else_is_the_family_itself(self, any_vlm):
        vlm = remembering(any_vlm)
        family = vlm.family
        assert family is not any_vlm.family
        assert vlm.noise_cache is any_vlm.noise_cache
        assert family.name == any_vlm.family.name
        assert family.context_length(any_vlm.model) == any_vlm.family.context_length(any_vlm.model)

    def test_an_image_is_known_by_identity_also_within_one_call(self, vlm, images):
        own = remembering(vlm)
        family = own.family
        one, again, copy, other = (
            family.image_inputs(own.processor, image)
            for image in (images[0], images[0], images[0].copy(), images[1])
        )
        assert one is again
        assert one is not copy
        with torch.no_grad():
            first = family.encode(vlm.model, [one, again, copy])
            second = family.encode(vlm.model, [other, one])
        assert first[0] is first[1] is second[1]
        assert first[0] is not first[2]
        expected = vlm.family.encode(vlm.model, [other])[0].embeddings
        torch.testing.assert_close(second[0].embeddings, expected, rtol=0, atol=1e-5)


class TestRoutedFocus:
    @pytest.fixture
    def decode(self, any_vlm, words_only):
        def decode(strategy, request, settings=SHORT):
            return strategy.decode(any_vlm, request, settings, keep_logits="all", **words_only)

        return decode

    def test_mixes_the_rows_of_focus_and_plain_decoding(self, decode, ask):
        """First token: rows bit for bit those of the two strategies, combined as documented."""
        for sharing in ("sample", "branch"):
            focus = {"alpha": 0.7, "noise": NoiseConfig("gaussian", seed=3), "sharing": sharing}
            routed = decode(RoutedFocus(**focus), ask(3))
            branches, plain = decode(Focus(**focus), ask(3)), decode(Plain(), ask(3))
            assert routed.row_labels == (*branches.row_labels, *plain.row_labels)
            rows = routed.branch_logits[0]
            close = {"rtol": 0, "atol": 1e-4}
            torch.testing.assert_close(rows[:-1], branches.branch_logits[0], **close)
            torch.testing.assert_close(rows[-1], plain.branch_logits[0][0], **close)
            for step, combined in zip(routed.branch_logits, routed.combined_logits, strict=True):
                mixed = route(step[1:-1], step[0], step[-1], alpha=0.7)
                torch.testing.assert_close(combined, mixed, rtol=0, atol=0)
            assert (routed.num_rows, branches.num_rows) == (5, 4)
            assert routed.num_encoded == branches.num_encoded

    def test_shared_prefixes_change_nothing(self, decode, ask):
        assert_same(
            decode(RoutedFocus(), ask(3)), decode(RoutedFocus(prefill="naive"), ask(3)), exact=False
        )

    def test_named_targets_alone_get_branches(self, decode, ask):
        routed = decode(RoutedFocus(targets="named"), ask(3, targets=[(0, 2)]))
        assert routed.row_labels == ("reference", "image 1+3", "image 1+2+3")

    def test_one_image_is_focus(self, decode, ask):
        one, other = decode(RoutedFocus(alpha=0.5), ask(1)), decode(Focus(alpha=0.5), ask(1))
        assert one.token_ids == other.token_ids
        first, second = (d.combined_logits[0].log_softmax(-1) for d in (one, other))
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)

    def test_settings_of_the_branches_are_checked_at_once(self):
        own = {field.name for field in dataclasses.fields(RoutedFocus)}
        assert own == {f.name for f in dataclasses.fields(Focus)} - {"beta", "aggregation"}
        for wrong in ({"alpha": -1}, {"sharing": "all"}, {"noise": "black"}, {"prefill": "x"}):
            with pytest.raises(InvalidValueError, match=next(iter(wrong))):
                RoutedFocus(**wrong)
