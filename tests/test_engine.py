"""Many prompts at once: the same answers as one by one, everything shared computed once."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.cache_utils import DynamicLayer

from focus.cache import SharedLayer, token_bytes
from focus.decoding import (
    AdaptiveFocus,
    CaptionThenAnswer,
    Focus,
    GenerationSettings,
    Plain,
    Request,
    RoutedFocus,
    SingleImage,
    Sofa,
    Vcd,
    official_settings,
)
from focus.decoding.preparing import prepare
from focus.engines import LocalEngine, local
from focus.engines.base import Scored
from focus.errors import (
    BranchMemoryError,
    ContextLengthError,
    ImageError,
    InvalidValueError,
    NonFiniteLogitsError,
)
from focus.generate import encode_contents
from focus.models.tiny import build_tiny
from focus.prefill import PromptRow, SharedPrefixRows

BOUND = 1e-4
CANDIDATES = ("red", "red circle", "blue square ?")
GREEDY = GenerationSettings(max_new_tokens=4)
SAMPLED = GenerationSettings(max_new_tokens=3, temperature=1.0, num_return_sequences=2)
STRATEGIES = (
    *(Plain(), Focus(), Focus(sharing="run"), Focus(sharing="branch"), RoutedFocus(), Vcd()),
    *(SingleImage(), AdaptiveFocus(threshold=0.02), CaptionThenAnswer(max_caption_tokens=2)),
    *(AdaptiveFocus(threshold=math.inf), AdaptiveFocus(threshold=0), Sofa()),
)


def picture(number: int, width: int = 40, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def questions(*numbers: int) -> list[Request]:
    """Of every number of images: two about the same ones, of unequal length, and one about others
    of the same sizes, with text between them."""
    requests = []
    for n in numbers:
        shared = tuple(picture(k, 40 + 8 * k) for k in range(n))
        other = tuple(picture(20 + k, 40 + 8 * k) for k in range(n))
        for text in ("what is it ?", "which one of these images shows a red dog ?"):
            requests.append(Request(shared, "<image>" * n + text, f"shared {n}", targets=(0,)))
        text = " ".join(["image : <image>"] * n) + " is it ?"
        requests.append(Request(other, text, f"other {n}", targets=(n - 1,)))
    return requests


def compare(engine, strategy, requests, settings) -> float:
    """Largest difference in logits; everything else must be equal."""
    together = strategy.decode_many(engine, requests, settings, keep_logits="first")
    worst = 0.0
    for request, many in zip(requests, together, strict=True):
        alone = strategy.decode(engine.vlm, request, settings, keep_logits="first")
        for name in ("texts", "token_ids", "row_labels", "num_rows", "num_encoded", "truncated",
                     "prompt_tokens", "image_tokens", "noise_std"):  # fmt: skip
            assert getattr(many, name) == getattr(alone, name), (name, request.sample_id)
        for name in ("branch_logits", "combined_logits"):
            (ours,), (theirs,) = getattr(many, name), getattr(alone, name)
            worst = max(worst, difference(ours, theirs))
        assert (many.scored is None) == (alone.scored is None) == (not request.candidates)
        for one in filter(None, (many.scored, alone.scored)):
            worst = max(worst, *map(difference, one.rows, alone.scored.rows))
            worst = max(worst, difference(one.combined, alone.scored.combined))
            # The first candidate is one token, of which the answer's own first step speaks.
            (token,) = engine.vlm.processor.tokenizer.encode(request.candidates[0])
            first = alone.combined_logits[0].log_softmax(-1)[:1, token]
            worst = max(worst, difference(one.combined[:1], first))
    return worst


def difference(ours, theirs) -> float:
    """The largest one, where tokens are possible; the same ones must be."""
    known = theirs.isfinite()
    assert (ours.isfinite() == known).all()
    return float((ours - theirs)[known].abs().max()) if known.any() else 0.0


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.name)
def test_together_as_one_by_one(vlm, strategy):
    engine, requests = LocalEngine(vlm), questions(1, 2, 3)
    requests[3:] = [replace(each, candidates=CANDIDATES) for each in requests[3:]]
    for settings in (GREEDY, SAMPLED):
        assert compare(engine, strategy, requests, settings) <= BOUND


def test_in_every_family_and_for_every_number_of_images(any_vlm):
    for strategy in (Focus(), RoutedFocus(sharing="run")):
        assert compare(LocalEngine(any_vlm), strategy, questions(1, 2, 4, 8), GREEDY) <= BOUND


def test_with_eager_attention(own_vlm):
    own_vlm.model.set_attn_implementation("eager")
    assert compare(LocalEngine(own_vlm), Focus(), questions(2), GREEDY) <= BOUND


def test_in_bfloat16_batches_are_as_far_from_the_exact_logits_as_single_prompts():
    """Each rounds in its own way; tokens of close calls may differ."""
    vlm, requests = build_tiny("qwen2_5_vl"), questions(2, 3)
    half = replace(vlm, model=copy.deepcopy(vlm.model).bfloat16())
    exact, alone, together = (
        [each.combined_logits[0].float() for each in answers]
        for answers in (
            Focus().decode_many(LocalEngine(vlm), requests, GREEDY, keep_logits="first"),
            [Focus().decode(half, each, GREEDY, keep_logits="first") for each in requests],
            Focus().decode_many(LocalEngine(half), requests, GREEDY, keep_logits="first"),
        )
    )
    errors = [
        float(torch.cat([(a - b).flatten() for a, b in zip(found, exact, strict=True)]).std())
        for found in (alone, together)
    ]
    assert 0 < errors[1] < 1.5 * errors[0]


def test_the_order_and_the_company_of_prompts_change_nothing(vlm):
    requests = questions(2, 3)
    whole = Focus().decode_many(LocalEngine(vlm), requests, SAMPLED)
    for batch in (1, 2):
        engine = LocalEngine(vlm, batch=batch)
        assert tokens_of(Focus().decode_many(engine, requests[::-1], SAMPLED)) == tokens_of(
            whole[::-1]
        )


def tokens_of(answers):
    return [answer.token_ids for answer in answers]


def test_prompts_of_different_strategies_share_a_batch(vlm):
    """Equal rows, combined each in its own way."""
    (request,) = questions(2)[2:]
    passes = [Focus(alpha=alpha).one_pass(vlm, request) for alpha in (0.1, 2.0)]
    prompts = [each.prepare(vlm, seed=0, keep_logits="first") for each in passes]
    engine = LocalEngine(vlm)
    alone = [engine.generate([prompt], GREEDY)[0] for prompt in prompts]
    together = engine.generate(prompts, GREEDY)
    for one, other in zip(alone, together, strict=True):
        assert one.tokens == other.tokens
        assert difference(other.combined_logits[0], one.combined_logits[0]) <= BOUND
    assert difference(alone[0].combined_logits[0], alone[1].combined_logits[0]) > 1  # control


def test_what_the_engine_does_not_know_is_decoded_alone(own_vlm, monkeypatch):
    """The published full batch, and a checkpoint that asks for more than we decide ourselves."""
    engine = LocalEngine(own_vlm)
    monkeypatch.setattr(engine, "generate", lambda *_: pytest.fail("was asked"))
    (request,) = questions(2)[2:]
    naive = Focus(prefill="naive")
    assert compare(engine, naive, [request], GREEDY) == 0
    assert compare(engine, naive, [replace(request, candidates=CANDIDATES)], GREEDY) <= BOUND
    own_vlm.model.generation_config.no_repeat_ngram_size = 2
    assert not engine.supports(official_settings(4))
    assert compare(engine, Focus(), [request], official_settings(4)) == 0


def test_a_repetition_penalty_and_a_nucleus_act_as_in_generate(own_vlm):
    config = own_vlm.model.generation_config
    config.repetition_penalty, config.top_p, config.top_k = 1.3, 0.8, 7
    engine, settings = LocalEngine(own_vlm), replace(official_settings(5), temperature=1.5)
    assert engine.supports(settings)
    assert compare(engine, Focus(), questions(2), settings) <= BOUND
    plain = replace(settings, checkpoint_defaults=False, top_p=1.0, top_k=0)
    tokens = [Focus().decode_many(engine, questions(2), each) for each in (settings, plain)]
    assert tokens_of(tokens[0]) != tokens_of(tokens[1])  # control: they do act


@pytest.fixture
def spy(own_vlm):
    """Shapes ``(rows, tokens)`` of every pass of the language model."""
    shapes = []
    own_vlm.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    return shapes


def test_questions_about_the_same_images_share_all_up_to_their_words(own_vlm, spy):
    """Four prompts on one pair of images, as a Winoground pair has them."""
    pair = tuple(picture(k) for k in range(2))
    texts = ("is it red ?", "is it blue ?", "which one is it ?", "what is in the first one ?")
    requests = [Request(pair, f"<image><image>{text}", "pair") for text in texts]
    engine = LocalEngine(own_vlm)
    one = GenerationSettings(max_new_tokens=1)
    Focus().decode_many(engine, requests[:1], one)
    alone, encoded = [*spy], engine.store.num_encoded
    spy.clear()
    Focus().decode_many(LocalEngine(own_vlm), requests, one)
    *images, (rows, words) = spy
    assert sum(rows * tokens for rows, tokens in images) < sum(r * t for r, t in alone)
    assert rows == 3 * len(requests)
    assert words < 12
    assert encoded == 4
    Focus().decode_many(engine, requests, one)
    assert engine.store.num_encoded == 4  # kept from before


def test_noise_of_a_run_is_a_prefix_that_all_references_share(own_vlm, spy):
    requests = [
        Request((picture(k), picture(k + 9)), "<image><image>what is it ?", f"{k}")
        for k in range(5)
    ]
    last = {}
    for sharing in ("sample", "run"):
        spy.clear()
        one = GenerationSettings(max_new_tokens=1)
        Focus(sharing=sharing).decode_many(LocalEngine(own_vlm), requests, one)
        last[sharing] = sum(rows * tokens for rows, tokens in spy)
    assert last["run"] < last["sample"]


def test_sequences_leave_when_they_end(own_vlm, spy):
    """The end token is what half of the prompts would say second."""
    requests = questions(2)[:2]
    engine = LocalEngine(own_vlm)
    told = [a.token_ids[0] for a in Focus().decode_many(engine, requests, GREEDY)]
    ends = next(token for token in told[0] if token not in told[1])
    own_vlm.model.generation_config.eos_token_id = ends
    spy.clear()
    answers = Focus().decode_many(engine, requests, GREEDY)
    steps = [rows for rows, tokens in spy if tokens == 1]
    assert answers[0].token_ids[0] == told[0][: told[0].index(ends) + 1]
    assert answers[1].token_ids[0] == told[1]
    assert steps == [6] * told[0].index(ends) + [3] * (len(told[1]) - 1 - told[0].index(ends))


@torch.no_grad()
def test_candidates_of_several_tokens(vlm):
    """Against whole forward passes over prompt and candidate, row by row."""
    requests, focus = questions(1, 2)[1:5], Focus(single_image="contrast")
    prompts = [
        prepare(vlm, each, focus.plan(each), focus.combine) for each in requests
    ]  # fmt: skip
    candidates = [[(30,), (31, 32), (30, 33, 34)], [(40, 41)], [(50,), (51,)], [(60, 61), (62,)]]
    scored = LocalEngine(vlm).score(prompts, candidates, keep="all")
    for prompt, each, found in zip(prompts, candidates, scored, strict=True):
        for j, candidate in enumerate(each):
            rows = brute_force(vlm, prompt, candidate)  # [rows, tokens, vocab]
            places = torch.arange(len(candidate))
            whole = torch.stack(
                [prompt.combine(rows[:, t, None])[0].log_softmax(-1) for t in places]
            )
            expected = whole[places, list(candidate)].sum()
            assert abs(found.combined[j] - expected) <= BOUND
            own = rows.log_softmax(-1)[:, places, list(candidate)]
            assert (found.rows[j] - own).abs().max() <= BOUND
        assert (found.first - rows.log_softmax(-1)[:, 0]).abs().max() <= BOUND
    top = LocalEngine(vlm).score(prompts[:1], candidates[:1], keep=3)[0]
    assert isinstance(top, Scored)
    assert torch.equal(top.first, scored[0].first.gather(1, top.tokens))
    assert top.first.shape == (2, 3)


def brute_force(vlm, prompt, candidate):
    """Logits ``[rows, tokens, vocab]`` behind the prompt and behind each token but the last."""
    ids = torch.cat([prompt.prompt.input_ids, torch.tensor([[*candidate[:-1]]]).long()], dim=1)
    ids = ids.expand(len(prompt.plan.rows), -1)
    pixels = vlm.family.model_kwargs([prompt.images[c] for row in prompt.plan.rows for c in row])
    logits = vlm.model(input_ids=ids, use_cache=False, **pixels,
                       **vlm.family.text_kwargs(vlm.model, ids)).logits  # fmt: skip
    return logits[:, -len(candidate) :]


def test_wrong_questions_to_score_are_refused(vlm):
    (request,) = questions(1)[:1]
    prompt = prepare(vlm, request, Plain().one_pass(vlm, request).plan, lambda rows: rows[0])
    engine = LocalEngine(vlm)
    for candidates in ([], [[]], [[()]]):
        with pytest.raises(InvalidValueError, match="candidates"):
            engine.score([prompt], candidates)
    for same in (("red", "red"), ("red", "")):
        with pytest.raises(InvalidValueError, match="candidates"):
            Plain().decode(vlm, replace(request, candidates=same), GREEDY)
    for keep in ("some", 0, True):
        with pytest.raises(InvalidValueError, match="keep"):
            engine.score([prompt], [[(1,)]], keep=keep)
    for wrong in ({"batch": 0}, {"memory": 0}, {"features": True}):
        with pytest.raises(InvalidValueError, match=next(iter(wrong))):
            LocalEngine(vlm, **wrong)


def test_an_error_stands_in_place_of_its_prompt_alone():
    own_vlm = build_tiny("qwen2_5_vl")
    good = questions(2)
    thin = Request((Image.new("RGB", (4000, 4)), picture(1)), "<image><image>what ?", "thin")
    long = replace(good[0], question="<image><image>" + "red " * 5000)
    requests = [good[0], thin, good[1], long, good[2]]
    answers = Focus().decode_many(LocalEngine(own_vlm), requests, GREEDY)
    assert [type(a) for a in answers[1::2]] == [ImageError, ContextLengthError]
    expected = Focus().decode_many(LocalEngine(own_vlm), good, GREEDY)
    assert tokens_of(answers[::2]) == tokens_of(expected)

    def spoiled(module, args, output):
        output.last_hidden_state[0] = math.nan  # a row of the shortest prompt
        return output

    own_vlm.model.get_decoder().register_forward_hook(spoiled)
    one = GenerationSettings(max_new_tokens=1)
    answers = Focus().decode_many(LocalEngine(own_vlm), good[:2], one)
    assert sum(isinstance(each, NonFiniteLogitsError) for each in answers) == 1


def test_candidates_that_do_not_fit_are_an_error_of_their_question(own_vlm):
    short, long = (replace(each, candidates=CANDIDATES) for each in questions(2)[:2])
    one = GenerationSettings(max_new_tokens=1)
    length = Plain().decode(own_vlm, long, one).prompt_tokens
    own_vlm.model.config.get_text_config().max_position_embeddings = length + 2
    answers = Plain().decode_many(LocalEngine(own_vlm), [short, long], one)
    assert answers[0].scored is not None
    assert isinstance(answers[1], ContextLengthError)
    with pytest.raises(ContextLengthError):
        Plain().decode(own_vlm, long, one)


@pytest.mark.parametrize(("most_rows", "most_tokens"), [(5, 1000), (5, 24)])
def test_out_of_memory_goes_on_with_less_and_the_same_results(
    own_vlm, monkeypatch, most_rows, most_tokens
):
    """First too many prompts for the memory, then too many tokens of one."""
    requests, said = questions(2), []
    expected = Focus().decode_many(LocalEngine(own_vlm), requests, GREEDY, keep_logits="first")

    def scarce(_, args, kwargs):
        rows, tokens = kwargs["inputs_embeds"].shape[:2]
        if rows > most_rows or rows * tokens > most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    own_vlm.model.get_decoder().register_forward_pre_hook(scarce, with_kwargs=True)
    monkeypatch.setattr(local, "FEWEST_TOKENS", 8)
    engine = LocalEngine(own_vlm, warn=said.append)
    answers = Focus().decode_many(engine, requests, GREEDY, keep_logits="first")
    assert tokens_of(answers) == tokens_of(expected)
    for ours, theirs in zip(answers, expected, strict=True):
        assert (ours.branch_logits[0] - theirs.branch_logits[0]).abs().max() <= BOUND
    assert any("prompts at once" in each for each in said)
    assert any("tokens in a pass" in each for each in said) == (most_tokens == 24)


def test_where_nothing_is_small_enough_the_error_says_what_to_lower(own_vlm):
    def full(_, args, kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    own_vlm.model.get_decoder().register_forward_pre_hook(full, with_kwargs=True)
    with pytest.raises(BranchMemoryError, match="image budget"):
        Focus().decode_many(LocalEngine(own_vlm, warn=lambda _: None), questions(2)[:1], GREEDY)


def test_a_small_memory_makes_small_batches_and_a_small_store_keeps_little(own_vlm, spy):
    requests = questions(3)
    expected = Focus().decode_many(LocalEngine(own_vlm), requests, GREEDY)
    together = max(rows for rows, _ in spy)
    spy.clear()
    engine = LocalEngine(own_vlm, memory=1e-6, features=1e-6)
    assert tokens_of(Focus().decode_many(engine, requests, GREEDY)) == tokens_of(expected)
    assert max(rows for rows, _ in spy) == 4 < together  # the rows of one question at a time
    before = engine.store.num_encoded
    Focus().decode_many(engine, requests, GREEDY)
    assert engine.store.num_encoded == 2 * before  # none was kept


def test_keys_and_values_are_kept_once_and_read_by_many():
    """Against the cache of `transformers`, through parting, growing, leaving and reordering."""
    ours, theirs = SharedLayer(), DynamicLayer()
    random = torch.Generator().manual_seed(0)
    rows = 2
    for tokens, chosen in (
        *((5, [0, 1, 0, 1, 1]), (3, [4, 2, 0, 1, 3]), (2, [0, 0, 1, 2, 3, 4, 4])),
        *((1, [6, 2]), (1, [1, 0]), (1, [0])),
    ):
        new = [torch.randn(rows, 2, tokens, 4, generator=random) for _ in range(2)]
        for mine, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(mine, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if len(chosen) > rows:  # what is repeated is not copied
            before = ours.num_bytes
            ours.batch_select_indices(torch.tensor(chosen))
            assert ours.num_bytes == before
        else:
            ours.batch_select_indices(torch.tensor(chosen))
        theirs.batch_select_indices(torch.tensor(chosen))
        rows = len(chosen)
    assert ours.num_bytes < 2 * (theirs.keys.nbytes + theirs.values.nbytes)


@torch.no_grad()
def test_the_bytes_of_a_token_are_those_that_are_cached(any_vlm):
    ids = torch.tensor([[5, 6, 7]])
    layer = any_vlm.model(input_ids=ids, use_cache=True).past_key_values.layers[0]
    assert 3 * token_bytes(any_vlm.model) == layer.keys.nbytes + layer.values.nbytes


@torch.no_grad()
def test_what_branches_have_in_common_is_cached_once(vlm):
    """Eight branches: keys and values of N + 1 whole rows would be almost twice as many."""
    request = Request(tuple(picture(k) for k in range(8)), "<image>" * 8 + "what ?", "eight")
    focus = Focus()
    prompt = prepare(vlm, request, focus.plan(request), focus.combine)
    features = encode_contents(vlm.model, prompt)
    rows = SharedPrefixRows(
        vlm.model, vlm.family, [PromptRow(prompt.prompt, row) for row in prompt.plan.rows], features
    )
    rows.prefill()
    config, length = vlm.model.config.get_text_config(), prompt.prompt.input_ids.shape[1]
    token = token_bytes(vlm.model)
    starts = [0, *(start for start, _ in prompt.prompt.spans), length]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    kept = sum(number * each for number, each in zip(range(1, 10), lengths, strict=True))
    assert [layer.num_bytes for layer in rows._cache.layers] == [
        kept * token
    ] * config.num_hidden_layers
    assert kept < 0.75 * 9 * length
