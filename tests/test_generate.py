"""One choice per step for all rows; what `generate` can do, and what it must refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from focus.decoding import Focus, GenerationSettings, Plain
from focus.decoding.preparing import prepare
from focus.errors import (
    BranchMemoryError,
    ContextLengthError,
    InvalidValueError,
    NonFiniteLogitsError,
    PromptError,
    UnsupportedGenerationError,
)
from focus.generate import BranchedOutput, decode_branches
from focus.models.tiny import VOCABULARY

BOUND = 1e-4
EOS, PAD = VOCABULARY["<eos>"], VOCABULARY["<pad>"]
FOCUS = Focus(alpha=0.3, single_image="contrast")


def prepared(vlm, request, **kwargs):
    return prepare(vlm, request, FOCUS.plan(request), FOCUS.combine, **kwargs)


def generate(vlm, branches, **kwargs):
    """The direct way, without a strategy."""
    kwargs = {"input_ids": branches.prompt.input_ids, "max_new_tokens": 4, **kwargs}
    mask = torch.ones_like(kwargs["input_ids"])
    return vlm.model.generate(
        **{"attention_mask": mask, **kwargs}, branches=branches, custom_generate=decode_branches
    )


def forced(tokens, prompt_length):
    """`generate` argument that dictates the tokens."""
    return {"prefix_allowed_tokens_fn": lambda _, ids: [tokens[len(ids) - prompt_length]]}


class TestGreedy:
    def test_takes_the_largest_combined_logit_at_every_step(self, vlm, ask, words_only):
        settings = GenerationSettings(max_new_tokens=6)
        decoded = FOCUS.decode(vlm, ask(2), settings, keep_logits="all", **words_only)
        allowed = torch.ones(len(VOCABULARY) + 1, dtype=torch.bool)
        allowed[words_only["suppress_tokens"]] = False
        allowed = allowed[: decoded.combined_logits[0].shape[-1]]
        for token, rows, combined in zip(
            decoded.token_ids[0], decoded.branch_logits, decoded.combined_logits, strict=True
        ):
            by_hand = (rows[1] - 0.3 * rows[0]) + (rows[2] - 0.3 * rows[0])
            assert (combined - by_hand).abs().max() < 1e-5
            assert token == by_hand[0].masked_fill(~allowed, -torch.inf).argmax()

    def test_is_repeatable_and_not_plain_decoding(self, vlm, ask):
        settings = GenerationSettings(max_new_tokens=6)
        first, again = (FOCUS.decode(vlm, ask(2), settings).token_ids for _ in range(2))
        assert first == again
        assert first != Plain().decode(vlm, ask(2), settings).token_ids

    @pytest.mark.parametrize("top_p_k", [(1.0, 0), (None, None)])
    def test_checkpoint_defaults_for_sampling_raise_no_warnings(
        self, own_vlm, ask, transformers_log, top_p_k
    ):
        """As Qwen2.5-VL ships them; greedy decoding must ignore them without a word."""
        top_p, top_k = top_p_k
        settings = GenerationSettings(max_new_tokens=3, top_p=top_p, top_k=top_k)
        expected = FOCUS.decode(own_vlm, ask(2), settings).token_ids
        own_vlm.model.generation_config.update(do_sample=True, temperature=0.1, top_k=1, top_p=0.1)
        assert FOCUS.decode(own_vlm, ask(2), settings).token_ids == expected
        assert transformers_log == []
        # Control: the log does hear such warnings.
        generate(own_vlm, prepared(own_vlm, ask(2)), do_sample=False, top_k=7)
        assert "top_k" in transformers_log[0]

    def test_defaults_of_the_checkpoint_hold_only_where_they_are_asked_for(self, own_vlm, ask):
        """`generate` applies them silently; a penalty on the sum of N branches is another one."""
        config = own_vlm.model.generation_config
        config.eos_token_id = None
        strict = GenerationSettings(max_new_tokens=12)
        before = [s.decode(own_vlm, ask(2), strict).token_ids for s in (Plain(), FOCUS)]
        config.update(
            repetition_penalty=1.05, no_repeat_ngram_size=1, min_p=0.9, suppress_tokens=[9]
        )
        assert before == [s.decode(own_vlm, ask(2), strict).token_ids for s in (Plain(), FOCUS)]
        assert len(set(before[1][0])) < 12  # control: it repeats itself
        own = replace(strict, checkpoint_defaults=True)
        assert len(set(FOCUS.decode(own_vlm, ask(2), own).token_ids[0])) == 12
        assert strict.resolved(config)["do_sample"] is False
        assert "repetition_penalty" not in strict.resolved(config)
        assert own.resolved(config)["repetition_penalty"] == 1.05
        assert own.resolved(config)["suppress_tokens"] == [9]

    def test_sum_and_product_agree_without_a_repetition_penalty(self, own_vlm, ask):
        """They differ by a constant, which a penalty on the sign of a logit does not respect."""
        config = own_vlm.model.generation_config
        config.eos_token_id, config.repetition_penalty = None, 1.3
        answers = {}
        for own in (False, True):
            settings = GenerationSettings(max_new_tokens=12, checkpoint_defaults=own)
            answers[own] = [
                [
                    replace(FOCUS, aggregation=name)
                    .decode(own_vlm, ask(2, sample_id=f"{k}"), settings)
                    .token_ids
                    for k in range(6)
                ]
                for name in ("sum", "product")
            ]
        assert answers[False][0] == answers[False][1]
        assert answers[True][0] != answers[True][1]  # control


class TestSampling:
    SETTINGS = GenerationSettings(max_new_tokens=6, temperature=1.5)

    def test_one_draw_per_step_goes_to_all_rows(self, vlm, ask, words_only):
        """The published code lets every row draw: its branches go on with different texts."""
        appended = []
        hook = vlm.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, args: appended.append(args[0])
        )
        settings = replace(self.SETTINGS, num_return_sequences=3)
        decoded = FOCUS.decode(vlm, ask(2), settings, **words_only)
        hook.remove()
        steps = [ids.view(3, 3) for ids in appended if ids.shape[1] == 1]  # [row, sequence]
        assert len(steps) == 5
        for step, tokens in enumerate(steps):
            drawn = [sequence[step] for sequence in decoded.token_ids]
            assert tokens.tolist() == [drawn] * 3
        assert len(set(decoded.token_ids)) == 3  # control: sequences draw apart from each other

    def test_depends_on_seed_and_sample_alone(self, vlm, ask):
        def text(seed=0, sample_id="sample"):
            settings = replace(self.SETTINGS, seed=seed)
            return FOCUS.decode(vlm, ask(2, sample_id=sample_id), settings).token_ids

        state = torch.get_rng_state()
        first = text()
        assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone,
        torch.manual_seed(99)
        assert text() == first  # and not listened to
        torch.set_rng_state(state)
        assert len({text(seed=seed) for seed in range(5)}) > 1
        # Without noise, what differs between samples are the draws alone.
        plain = [
            Plain().decode(vlm, ask(2, sample_id=name), self.SETTINGS).token_ids
            for name in ("one", "other", "one")
        ]
        assert plain[0] == plain[2] != plain[1]

    def test_frequencies_follow_the_combined_distribution(self, vlm, ask):
        """Over seeds and over sequences. Both p-values are fixed by the seeds; chance of 1e-4."""
        temperature, draws = 0.8, 300
        first = FOCUS.decode(vlm, ask(1), GenerationSettings(max_new_tokens=1), keep_logits="all")
        branches = prepared(vlm, ask(1))
        sampling = {"do_sample": True, "temperature": temperature, "max_new_tokens": 1}
        keyed = [replace(branches, sampling_key=(seed, "sample")) for seed in range(draws)]
        by_seed = [generate(vlm, b, **sampling, top_k=0)[0, -1].item() for b in keyed]
        settings = GenerationSettings(
            max_new_tokens=1, temperature=temperature, num_return_sequences=draws
        )
        by_sequence = [ids[0] for ids in FOCUS.decode(vlm, ask(1), settings).token_ids]

        def p_value(tokens, temperature):
            expected = (first.combined_logits[0][0] / temperature).softmax(dim=-1) * draws
            counts = torch.bincount(torch.tensor(tokens), minlength=len(expected))
            frequent = expected >= 5  # the rest is one class, as the test needs
            observed = [*counts[frequent].tolist(), counts[~frequent].sum().item()]
            predicted = [*expected[frequent].tolist(), expected[~frequent].sum().item()]
            return chisquare(observed, predicted, sum_check=False).pvalue

        for tokens in (by_seed, by_sequence):
            assert p_value(tokens, temperature) > 1e-4
            assert p_value(tokens, 2 * temperature) < 1e-4  # control: it would notice

    def test_several_sequences_decode_like_one_alone(self, vlm, ask, words_only):
        settings = replace(self.SETTINGS, num_return_sequences=3)
        request = ask(2)
        together = FOCUS.decode(vlm, request, settings, keep_logits="all", **words_only)
        logits = torch.stack(together.branch_logits)  # [step, row, sequence, vocab]
        for index, tokens in enumerate(together.token_ids):
            alone = replace(FOCUS, prefill="naive").decode(
                vlm,
                request,
                GenerationSettings(max_new_tokens=6),
                keep_logits="all",
                **forced(tokens, together.prompt_tokens),
            )
            assert alone.token_ids[0] == tokens
            difference = logits[:, :, index] - torch.stack(alone.branch_logits)[:, :, 0]
            assert difference.abs().max() <= BOUND
        assert (logits[-1, :, 0] - logits[-1, :, 1]).abs().max() > 100 * BOUND  # control

    def test_none_keeps_the_top_k_and_top_p_of_the_checkpoint(self, own_vlm, ask):
        def tokens(**kwargs):
            settings = GenerationSettings(max_new_tokens=6, temperature=50.0, **kwargs)
            return FOCUS.decode(own_vlm, ask(2), settings).token_ids

        greedy = FOCUS.decode(own_vlm, ask(2), GenerationSettings(max_new_tokens=6)).token_ids
        own_vlm.model.generation_config.top_k = 1
        assert tokens(top_k=None) == greedy
        assert tokens() != greedy
        own_vlm.model.generation_config.update(top_k=0, top_p=1e-6)
        assert tokens(top_p=None) == greedy
        assert tokens() != greedy

    def test_whole_numbers_are_temperatures_too(self, vlm, ask):
        one, other = (
            FOCUS.decode(vlm, ask(1), GenerationSettings(max_new_tokens=4, temperature=t))
            for t in (2, 2.0)
        )
        assert one.token_ids == other.token_ids


class TestProcessors:
    def test_come_after_the_combination(self, vlm, ask):
        """One call per step, on ``[sequences, vocab]``, with the whole text so far."""
        calls = []

        def spy(ids, scores):
            calls.append((ids, scores.clone()))
            return scores

        settings = GenerationSettings(max_new_tokens=3, temperature=1.0, num_return_sequences=2)
        decoded = FOCUS.decode(vlm, ask(2), settings, keep_logits="all", logits_processor=[spy])
        assert [tuple(ids.shape) for ids, _ in calls] == [
            (2, decoded.prompt_tokens + step) for step in range(3)
        ]
        for (_, scores), combined in zip(calls, decoded.combined_logits, strict=True):
            assert torch.equal(scores, combined)

    def test_minus_infinity_does_not_become_nan(self, vlm, ask):
        """Masked before the combination, the end token would be -inf - (-inf)."""
        output = generate(
            vlm,
            prepared(vlm, ask(2)),
            min_new_tokens=4,
            output_scores=True,
            return_dict_in_generate=True,
        )
        scores = torch.stack(output.scores)
        assert not scores.isnan().any()
        assert scores[:, 0, EOS].isneginf().all()
        assert scores.isneginf().sum() == 4
        assert EOS not in output.sequences[0, -4:]

    @pytest.mark.parametrize("decoding", [FOCUS, Plain()], ids=["focus", "plain"])
    def test_may_write_into_what_they_are_given(self, vlm, ask, decoding):
        def in_place(ids, scores):
            scores[:, EOS] = -torch.inf
            return scores

        settings = GenerationSettings(max_new_tokens=3, temperature=1.0, num_return_sequences=2)
        decoded = decoding.decode(
            vlm, ask(2), settings, keep_logits="all", logits_processor=[in_place]
        )
        assert torch.stack(decoded.combined_logits).isfinite().all()
        assert torch.stack(decoded.branch_logits).isfinite().all()


def end_first_sequence(prompt_length, step):
    """A processor that makes sequence 0, and no other, end at a step."""

    def process(ids, scores):
        scores[:, EOS] = -torch.inf
        if ids.shape[1] == prompt_length + step:
            scores[0] = -torch.inf
            scores[0, EOS] = 0.0
        return scores

    return [process]


class TestStopping:
    SETTINGS = GenerationSettings(max_new_tokens=5, temperature=1.5, num_return_sequences=3)

    @pytest.mark.parametrize("pad", [PAD, None])
    def test_a_finished_sequence_is_padded_while_others_go_on(self, own_vlm, ask, pad):
        own_vlm.model.generation_config.pad_token_id = pad
        branches = prepared(own_vlm, ask(2))
        length = branches.prompt.input_ids.shape[1]
        output = generate(
            own_vlm,
            branches,
            do_sample=True,
            max_new_tokens=5,
            num_return_sequences=3,
            logits_processor=end_first_sequence(length, 2),
            return_dict_in_generate=True,
        )
        new = output.sequences[:, length:].tolist()
        assert new[0][2:] == [EOS, *[EOS if pad is None else PAD] * 2]
        assert all(EOS not in tokens and len(tokens) == 5 for tokens in new[1:])
        assert output.num_new_tokens.tolist() == [3, 5, 5]

    def test_answers_end_with_their_end_token(self, vlm, ask):
        length = len(prepared(vlm, ask(2)).prompt.input_ids[0])
        decoded = FOCUS.decode(
            vlm, ask(2), self.SETTINGS, logits_processor=end_first_sequence(length, 2)
        )
        assert [len(tokens) for tokens in decoded.token_ids] == [3, 5, 5]
        assert decoded.token_ids[0][-1] == EOS
        assert len(decoded.texts[0].split()) == 2  # no end token, no padding

    def test_one_sequence_may_end_by_a_criterion_of_its_own(self, own_vlm, ask):
        """Without an end or padding token, what follows must not count as answer either."""
        own_vlm.model.generation_config.update(eos_token_id=None, pad_token_id=None)

        def criterion(ids, scores):
            done = torch.zeros(len(ids), dtype=torch.bool)
            done[1] = ids.shape[1] >= length + 2
            return done

        length = len(prepared(own_vlm, ask(2)).prompt.input_ids[0])
        decoded = FOCUS.decode(own_vlm, ask(2), self.SETTINGS, stopping_criteria=[criterion])
        assert [len(tokens) for tokens in decoded.token_ids] == [5, 2, 5]

    def test_stopping_ends_all_rows_at_once(self, vlm, ask):
        calls = []
        hook = vlm.model.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        stop = StoppingCriteriaList([lambda ids, scores: torch.tensor([True])])
        decoded = FOCUS.decode(
            vlm, ask(2), GenerationSettings(max_new_tokens=9), stopping_criteria=stop
        )
        hook.remove()
        assert len(decoded.token_ids[0]) == 1
        assert 1 not in calls  # the prefill chooses the first token; no step was run for nothing

    def test_a_lone_answer_stops_at_the_end_token(self, vlm, ask):
        length = len(prepared(vlm, ask(2)).prompt.input_ids[0])
        settings = GenerationSettings(max_new_tokens=9)
        decoded = FOCUS.decode(
            vlm, ask(2), settings, logits_processor=end_first_sequence(length, 3)
        )
        assert len(decoded.token_ids[0]) == 4
        assert decoded.token_ids[0][-1] == EOS


class Recorder:
    def __init__(self):
        self.heard = []

    def put(self, tokens):
        self.heard.append(tokens.tolist())

    def end(self):
        self.heard.append("end")


@pytest.mark.parametrize("sequences", [1, 2])
def test_a_streamer_hears_the_prompt_each_token_and_the_end(vlm, ask, words_only, sequences):
    settings = GenerationSettings(max_new_tokens=3, temperature=1.0, num_return_sequences=sequences)
    streamer = Recorder()
    decoded = FOCUS.decode(vlm, ask(2), settings, streamer=streamer, **words_only)
    prompt = prepared(vlm, ask(2)).prompt.input_ids.tolist()
    tokens = [list(step) for step in zip(*decoded.token_ids, strict=True)]
    assert streamer.heard == [prompt * sequences, *tokens, "end"]


class TestOutput:
    @pytest.mark.parametrize(("keep", "steps"), [("none", 0), ("first", 1), ("all", 4)])
    def test_logits_are_kept_as_asked(self, vlm, ask, words_only, keep, steps):
        settings = GenerationSettings(max_new_tokens=4)
        decoded = FOCUS.decode(vlm, ask(2), settings, keep_logits=keep, **words_only)
        assert len(decoded.branch_logits) == len(decoded.combined_logits) == steps
        for logits, combined in zip(decoded.branch_logits, decoded.combined_logits, strict=True):
            assert logits.shape == (3, 1, vlm.model.config.text_config.vocab_size)
            assert torch.equal(FOCUS.combine(logits), combined)
        assert decoded.row_labels == ("reference", "image 1", "image 2")
        assert decoded.num_rows == 3

    def test_generate_returns_ids_or_a_dictionary(self, vlm, ask):
        branches = prepared(vlm, ask(2), keep_logits="all")
        ids = generate(vlm, branches)
        assert torch.equal(ids[:, :-4], branches.prompt.input_ids)
        full = generate(
            vlm, branches, return_dict_in_generate=True, output_scores=True, output_logits=True
        )
        assert isinstance(full, BranchedOutput)
        assert isinstance(full, GenerateDecoderOnlyOutput)
        assert torch.equal(full.sequences, ids)
        assert len(full.scores) == len(full.logits) == len(full.branch_logits) == 4
        assert [logits[0].argmax().item() for logits in full.logits] == ids[0, -4:].tolist()
        bare = generate(vlm, prepared(vlm, ask(2)), return_dict_in_generate=True)
        assert (bare.scores, bare.logits, bare.branch_logits) == (None, None, None)

    def test_the_direct_call_is_the_strategy(self, vlm, ask):
        """As documented, with no more than ids, branches and the callable."""
        branches = prepared(vlm, ask(2))
        ids = branches.prompt.input_ids
        output = vlm.model.generate(
            input_ids=ids, branches=branches, custom_generate=decode_branches, max_new_tokens=5
        )
        decoded = FOCUS.decode(vlm, ask(2), GenerationSettings(max_new_tokens=5))
        assert output[0, ids.shape[1] :].tolist() == list(decoded.token_ids[0])


UNSUPPORTED = [
    ({"num_beams": 2}, "num_beams=2"),
    ({"num_beams": 2, "do_sample": True}, "num_beams=2"),
    ({"penalty_alpha": 0.6}, "penalty_alpha=0.6"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
    ({"dola_layers": "low"}, "dola"),
    ({"prompt_lookup_num_tokens": 3}, "assisted|prompt_lookup_num_tokens"),
    ({"assistant_early_exit": 1}, "assisted"),
    ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
    ({"cache_implementation": "static"}, "static"),
    ({"use_cache": False}, "use_cache=False"),
    ({"output_attentions": True}, "output_attentions"),
    ({"output_hidden_states": True}, "output_hidden_states"),
]


class TestRefusals:
    @pytest.mark.parametrize(("kwargs", "message"), UNSUPPORTED)
    def test_settings_without_meaning_for_branches(self, vlm, ask, kwargs, message):
        with pytest.raises(UnsupportedGenerationError, match=message):
            generate(vlm, prepared(vlm, ask(2)), **kwargs)
        if "do_sample" not in kwargs and "top_k" not in kwargs:
            with pytest.raises(UnsupportedGenerationError, match=message):
                FOCUS.decode(vlm, ask(2), GenerationSettings(max_new_tokens=2), **kwargs)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"assistant_model": "another model"},
            {"stop_strings": ["."]},
            {"temperature": 0.7},
            {"do_sample": True},
            {"top_k": None},
            {"max_new_tokens": 3},
            {"num_return_sequences": 2},
            {"generation_config": GenerationConfig()},
            {"output_scores": True},
            {"output_logits": True},
            {"return_dict_in_generate": False},
        ],
        ids=lambda kwargs: next(iter(kwargs)),
    )
    def test_what_another_argument_decides(self, vlm, ask, kwargs):
        """Passed on, these would be ignored, or collide with the settings."""
        with pytest.raises(UnsupportedGenerationError, match=next(iter(kwargs))):
            FOCUS.decode(vlm, ask(2), GenerationSettings(max_new_tokens=2), **kwargs)

    def test_caches_and_pixels_from_outside(self, vlm, ask):
        branches = prepared(vlm, ask(2))
        cache = DynamicCache(config=vlm.model.config.get_text_config())
        vlm.model(input_ids=torch.tensor([[20, 21]]), past_key_values=cache)
        with pytest.raises(UnsupportedGenerationError, match="past_key_values"):
            generate(vlm, branches, past_key_values=cache)
        pixels = vlm.family.model_kwargs([branches.images[c] for c in branches.plan.rows[0]])
        with pytest.raises(UnsupportedGenerationError, match="pixel_values"):
            generate(vlm, branches, **pixels)

    def test_a_padded_batch(self, vlm, ask):
        branches = prepared(vlm, ask(2))
        mask = torch.ones_like(branches.prompt.input_ids)
        mask[0, 0] = 0
        with pytest.raises(UnsupportedGenerationError, match="padded batch"):
            generate(vlm, branches, attention_mask=mask)

    def test_several_prompts_in_one_batch(self, vlm, ask):
        branches = prepared(vlm, ask(2))
        with pytest.raises(UnsupportedGenerationError, match="several prompts"):
            generate(vlm, branches, input_ids=branches.prompt.input_ids.repeat(2, 1))

    @pytest.mark.parametrize("change", ["token", "length"])
    def test_the_ids_of_another_prompt(self, vlm, ask, change):
        branches = prepared(vlm, ask(2))
        ids = branches.prompt.input_ids.clone()
        ids = ids[:, :-1] if change == "length" else ids.index_fill(1, torch.tensor([1]), 20)
        with pytest.raises(PromptError, match="not the prompt that the branches were prepared for"):
            generate(vlm, branches, input_ids=ids)

    def test_a_prompt_longer_than_the_context(self, own_vlm, ask):
        branches = prepared(own_vlm, ask(2))
        length = branches.prompt.input_ids.shape[1]
        own_vlm.model.config.text_config.max_position_embeddings = length + 1
        generate(own_vlm, branches, max_new_tokens=1)
        own_vlm.model.config.text_config.max_position_embeddings = length
        tokens = [end - start for start, end in branches.prompt.spans]
        with pytest.raises(ContextLengthError) as caught:
            generate(own_vlm, branches, max_new_tokens=1)
        for part in (f"{length} tokens", f"{sum(tokens)} of them", str(tokens), f"holds {length}"):
            assert part in str(caught.value)

    def test_more_new_tokens_than_the_context_holds(self, own_vlm, ask):
        """Positions beyond the context would be decoded into garbage without a word."""
        branches = prepared(own_vlm, ask(2))
        length = branches.prompt.input_ids.shape[1]
        own_vlm.model.config.text_config.max_position_embeddings = length + 5
        generate(own_vlm, branches, max_new_tokens=5)
        with pytest.raises(ContextLengthError, match="max_new_tokens to at most 5"):
            generate(own_vlm, branches, max_new_tokens=6)

    def test_a_row_with_numbers_that_are_none(self, own_vlm, ask):
        """The message names the row and the step; text drawn from NaN would be garbage."""
        calls = []

        def poison(_, args, output):
            calls.append(output.shape[0])
            if len(calls) == 3 + 2:  # three chunks of the prefill, then the second step
                output[1] = torch.nan
            return output

        own_vlm.model.lm_head.register_forward_hook(poison)
        settings = GenerationSettings(max_new_tokens=6)
        with pytest.raises(NonFiniteLogitsError, match=r"step 2 in: image 1; check"):
            FOCUS.decode(own_vlm, ask(2), settings, min_new_tokens=6)
        assert calls == [1, 2, 3, 3, 3]

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_a_reference_with_numbers_that_are_none(self, own_vlm, ask, value):
        own_vlm.model.lm_head.register_forward_hook(
            lambda _, args, output: output.index_fill(0, torch.tensor([0]), value)
        )
        with pytest.raises(NonFiniteLogitsError, match=r"step 0 in: reference; check"):
            FOCUS.decode(own_vlm, ask(2), GenerationSettings())

    @pytest.mark.parametrize("prefill", ["shared", "naive"])
    def test_unknown_words(self, vlm, ask, prefill):
        for wrong in ({"keep_logits": "some"}, {"prefill": "fast"}, {"encode_batch": 0}):
            with pytest.raises(InvalidValueError, match=next(iter(wrong))):
                prepared(vlm, ask(2), **{"prefill": prefill, **wrong})


CPU_ALLOCATOR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    CPU_ALLOCATOR,
    CUBLAS,
    MemoryError(),
]


class TestMemory:
    def failing(self, vlm, where, error):
        """Makes the vision tower, the prefill or a later step fail."""

        def fail(_, args, kwargs):
            if where != "step" or kwargs["inputs_embeds"].shape[1] == 1:
                raise error

        module = vlm.model.model.vision_tower if where == "encode" else vlm.model.get_decoder()
        module.register_forward_pre_hook(fail, with_kwargs=True)
        return vlm

    @pytest.mark.parametrize("prefill", ["shared", "naive"])
    @pytest.mark.parametrize("where", ["encode", "prefill", "step"])
    def test_running_out_of_it_says_what_to_lower(self, own_vlm, ask, where, prefill):
        vlm = self.failing(own_vlm, where, torch.OutOfMemoryError("CUDA out of memory."))
        with pytest.raises(BranchMemoryError) as caught:
            replace(FOCUS, prefill=prefill).decode(vlm, ask(2), GenerationSettings())
        message = str(caught.value)
        for part in ("N=2 images", "3 rows", "image budget", "encode_batch=8", "target images"):
            assert part in message
        assert isinstance(caught.value, MemoryError)
        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)

    @pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["torch", "cpu", "cublas", "python"])
    def test_every_way_of_saying_it_is_understood(self, own_vlm, ask, error):
        with pytest.raises(BranchMemoryError):
            FOCUS.decode(self.failing(own_vlm, "prefill", error), ask(2), GenerationSettings())

    def test_the_allocator_says_what_we_listen_for(self):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(10**17)

    def test_other_errors_pass_unchanged(self, own_vlm, ask):
        error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        with pytest.raises(RuntimeError) as caught:
            FOCUS.decode(self.failing(own_vlm, "prefill", error), ask(2), GenerationSettings())
        assert caught.value is error
