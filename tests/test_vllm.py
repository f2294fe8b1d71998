"""The engine of vLLM servers: the answers of the engine of this process, whatever servers do."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from omegaconf import OmegaConf
from test_benchmarks_end_to_end import call
from vllm_stub import (
    ASKED,
    EVALUATED,
    GREEDY,
    MODELS,
    QUESTIONS,
    late,
    questions,
    recorded,
    refusal,
    stub,
)

from experiments import bench
from experiments.evaluate import main
from focus.aggregation import AGGREGATIONS
from focus.contrast import combine
from focus.decoding import Focus, Plain, Sofa, official_settings
from focus.engines import LocalEngine, VllmEngine
from focus.engines.vllm import invariant
from focus.errors import (
    ContextLengthError,
    InvalidValueError,
    MissingExtraError,
    ServingError,
    UnsupportedGenerationError,
)
from focus.models.loading import Checkpoint
from focus.models.tiny import build_tiny

BOUND = 1e-3


def loaded(model: str, *, weights: bool):
    return Checkpoint(model, f"embedded:{model}", device="cpu").load(weights=weights)


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def light():
    return loaded(MODELS[0], weights=False)


def engine_of(vlm, url, **settings) -> VllmEngine:
    defaults = {"model": vlm.name, "retries": 2, "concurrency": 8}
    return VllmEngine(vlm, base_url=url, **{**defaults, **settings})


def compare(engine: VllmEngine, local: LocalEngine, number: int = 2) -> dict[str, float]:
    """Largest difference of log-probabilities for each strategy; everything else is equal."""
    worst: dict[str, float] = {}
    for strategy, settings in ASKED:
        ours, theirs = (
            strategy.decode_many(each, questions(number), settings, keep_logits="first")
            for each in (engine, local)
        )
        for a, b in zip(ours, theirs, strict=True):
            for name in ("texts", "token_ids", "row_labels", "truncated", "noise_std"):
                assert getattr(a, name) == getattr(b, name), (strategy, name)
            for name in ("branch_logits", "combined_logits"):
                (p,), (q,) = ([x.log_softmax(-1) for x in getattr(each, name)] for each in (a, b))
                known = q.isfinite()
                assert (p.isfinite() == known).all()
                difference = float((p - q)[known].abs().max())
                worst[strategy.name] = max(worst.get(strategy.name, 0.0), difference)
    return worst


def compare_scores(engine: VllmEngine, local: LocalEngine, number: int = 2) -> float:
    """The same for candidates, one of them of two tokens."""
    tokens = local.vlm.processor.tokenizer("red blue green circle").input_ids
    candidates = [[(tokens[0],), (tokens[1],), tuple(tokens[2:4]), (tokens[2],)]] * number
    prompts = [Focus().one_pass(local.vlm, each).prepare(local.vlm, seed=0, keep_logits="none")
               for each in questions(number)]  # fmt: skip
    worst = 0.0
    for a, b in zip(*(each.score(prompts, candidates, keep=3) for each in (engine, local)),
                    strict=True):  # fmt: skip
        assert a.combined.argsort().tolist() == b.combined.argsort().tolist()
        assert torch.equal(a.tokens, b.tokens)
        pairs = [(a.combined, b.combined), (a.first, b.first), *zip(a.rows, b.rows, strict=True)]
        worst = max(worst, *(float((p - q).abs().max()) for p, q in pairs))
    return worst


def test_the_answers_of_a_real_server_are_those_of_this_process(model):
    local = LocalEngine(loaded(model, weights=True))
    with stub(model) as (url, server):
        engine = engine_of(loaded(model, weights=False), url)
        assert max(compare(engine, local).values()) <= BOUND
        assert compare_scores(engine, local) <= BOUND
    assert server.refused == [[]]  # once, and before any image was shown
    usage = engine.facts()["engine"]
    assert usage["requests"] == server.number == server.asked.total()
    assert usage["prompt_tokens"] > usage["cached_tokens"] > 0


def left_out(*numbers: int):
    """Fault: answers to these requests, or all, lack an array, as where its place was cached."""

    def fault(number: int, due: dict) -> None:
        if number in numbers or not numbers:
            due.pop("prompt_token_id_logprobs", None)

    return fault


def test_arrays_are_what_lists_are(light):
    """As long as they are not left out they are all that is asked for."""

    def answers(**faults):
        with stub(MODELS[0], **faults) as (url, server):
            engine = engine_of(light, url)
            found = Focus().decode_many(engine, questions(2), GREEDY, keep_logits="all")
        return found, server.number

    lists, number = answers()
    for fault, more in ((None, 0), (left_out(2), 1), (left_out(), 2 * number)):
        arrays, total = answers(arrays=True, fault=fault)
        assert total == number + more
        for one, other in zip(arrays, lists, strict=True):
            assert one.token_ids == other.token_ids
            for ours, theirs in zip(one.branch_logits, other.branch_logits, strict=True):
                assert torch.equal(ours, theirs)
    with (
        stub(MODELS[0], narrower, arrays=True) as (url, _),
        pytest.raises(ServingError, match="image budget"),
    ):
        Plain().decode_many(engine_of(light, url), questions(1), GREEDY)


@pytest.mark.vllm
def test_a_real_server(model, capsys):
    from vllm_server import serving

    local = LocalEngine(loaded(model, weights=True))
    with serving(model) as url:
        engine = engine_of(loaded(model, weights=False), url, timeout=60)
        worst = compare(engine, local, number=6)
        worst["candidates"] = compare_scores(engine, local, number=6)
        with capsys.disabled():
            print(f"\n{model}: {engine.facts()['engine']}")
            for name, difference in worst.items():
                print(f"  {name:16} {difference:.1e}")
        assert max(worst.values()) <= BOUND
        with pytest.raises(ServingError, match=r"engine\.model"):
            Plain().decode_many(engine_of(engine.vlm, url, model="another"), questions(1), GREEDY)
        with pytest.raises(ServingError, match="limit-mm-per-prompt"):
            Plain().decode_many(engine, questions(1, num_images=8) * 2, GREEDY)


def asked(vlm, url, number: int = 1, **settings):
    return Focus().decode_many(engine_of(vlm, url, **settings), questions(number), GREEDY)


def texts(answers) -> list[str]:
    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def expected(light) -> list[str]:
    with stub(MODELS[0]) as (url, _):
        return texts(asked(light, url, 2))


TRANSIENT = {
    "429": lambda number, _: refusal(429, "slow down") if number in (1, 2) else None,
    "500 in the middle": lambda number, _: refusal(500, "oops") if number in (3, 5) else None,
    "time-outs": lambda number, due: late(4.0, due) if number == 2 else None,
    "broken off": lambda number, _: (0, {}, None) if number == 2 else None,
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_passes_is_asked_again(light, expected, name):
    with stub(MODELS[0], TRANSIENT[name]) as (url, server):
        slow = name == "time-outs"  # and with it whatever a busy machine delays
        engine = engine_of(light, url, timeout=2 if slow else 60, retries=5)
        assert texts(Focus().decode_many(engine, questions(2), GREEDY)) == expected
        usage, wrong = engine.servers.usage.requests, 2 if name[0] in "45" else 1
        if slow:
            assert server.number > usage == len(server.asked)
        else:  # nothing twice, and nothing is missing
            assert server.number - wrong == server.asked.total() == usage


def nowhere() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_a_server_that_dies_is_left_out(light, expected):
    with pytest.raises(ServingError, match=r"no server answers .*vllm serve"):
        asked(light, nowhere(), retries=0)
    dead = {"fault": lambda number, _: refusal(500, "dead") if number > 2 else None}
    with stub(MODELS[0], **dead) as (dying, first), stub(MODELS[0]) as (url, second):
        engine = engine_of(light, [nowhere(), dying, url], retries=0)
        assert texts(Focus().decode_many(engine, questions(2), GREEDY)) == expected
        assert first.asked.total() == 2
        assert not first.asked.keys() & second.asked.keys()
        before = first.number
        assert texts(Focus().decode_many(engine, questions(2), GREEDY)) == expected
        assert first.number == before


def without_logprobs(_, due):
    return 200, {}, {**due, "choices": [{**due["choices"][0], "logprobs": None}]}


def fewer(_, due):
    due["choices"][0]["logprobs"]["content"][0]["top_logprobs"].pop()


def narrower(_, due):
    due["prompt_token_ids"].pop()


REFUSALS = {
    "without logprobs": (without_logprobs, "0 tokens, not of all 112 .*--max-logprobs -1"),
    "fewer logprobs": (
        lambda *_: refusal(400, "Requested sample logprobs of 112, which is greater than max "
                                "allowed: 20"),
        "--max-logprobs -1",
    ),
    "fewer candidates": (fewer, "111 tokens, not of all 112"),
    "other tokens": (narrower, "image budget"),
    "fewer images": (
        lambda *_: refusal(400, "At most 1 image(s) may be provided in one prompt."),
        "--limit-mm-per-prompt",
    ),
    "no route": (lambda *_: (404, {}, {"detail": "Not Found"}), "--enable-scale-out"),
    "no choices": (lambda *_: (200, {}, {"choices": []}), "without choices"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_would_not_pass_says_what_helps(light, name):
    fault, words = REFUSALS[name]
    with stub(MODELS[0], fault) as (url, server):
        with pytest.raises(ServingError, match=words):
            asked(light, url)
        assert server.number <= 8  # is not asked again


def test_another_model_and_too_long_a_prompt(light):
    with stub(MODELS[0]) as (url, _), pytest.raises(ServingError, match="Valid aliases: qwen2_5"):
        asked(light, url, model="another")
    long = "This model's maximum context length is 32 tokens. However, ..."
    fault = lambda number, _: refusal(400, long) if number == 1 else None  # noqa: E731
    with stub(MODELS[0], fault) as (url, _):
        answers = Plain().decode_many(engine_of(light, url), questions(2), GREEDY)
        assert sum(isinstance(answer, ContextLengthError) for answer in answers) == 1


def test_only_combinations_that_a_constant_per_row_leaves_alone(light):
    for name in AGGREGATIONS:
        for beta in (0.0, 0.1):

            def pooled(rows, *, name=name, beta=beta):
                return combine(rows[1:], rows[0], alpha=0.3, beta=beta, aggregation=name)

            assert invariant(pooled, 4), name
    largest = lambda logits: logits.amax(dim=0)  # noqa: E731
    assert not invariant(largest, 4)
    assert invariant(largest, 1)
    one = Focus().one_pass(light, questions(1)[0])
    prompt = replace(one, combine=largest).prepare(light, seed=0, keep_logits="none")
    with pytest.raises(UnsupportedGenerationError, match="compares the logits of different rows"):
        engine_of(light, nowhere()).generate([prompt], GREEDY)


def test_what_no_server_can_do_is_refused(light, own_vlm, monkeypatch):
    engine = engine_of(light, nowhere())
    for strategy, words in ((Focus(prefill="naive"), "full batch"), (Sofa(), "engine=local")):
        with pytest.raises(UnsupportedGenerationError, match=words):
            strategy.decode_many(engine, questions(1), GREEDY)
    monkeypatch.setattr(light.model.generation_config, "repetition_penalty", 1.05)
    assert not engine.supports(official_settings(4))
    with pytest.raises(UnsupportedGenerationError, match="repetition_penalty"):
        Plain().decode_many(engine, questions(1), official_settings(4))
    with pytest.raises(UnsupportedGenerationError, match="tiles"):
        engine_of(build_tiny("llava_onevision"), nowhere())
    own_vlm.processor.image_processor.max_patches = 4
    own_vlm.processor.image_processor.crop_to_patches = True
    (request,) = questions(1)
    wide = replace(request, images=tuple(image.resize((64, 32)) for image in request.images))
    with (
        stub(MODELS[0]) as (url, _),
        pytest.raises(UnsupportedGenerationError, match="3 tiles"),
    ):
        Plain().decode_many(engine_of(own_vlm, url, model=MODELS[0]), [wide], GREEDY)


def test_settings(light, monkeypatch):
    for settings in ({"batch": 0}, {"concurrency": 0}, {"timeout": 0}, {"retries": -1}):
        with pytest.raises(InvalidValueError):
            engine_of(light, nowhere(), **settings)
    with pytest.raises(InvalidValueError, match="base_url"):
        engine_of(light, [])
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"\[vllm\]"):
        engine_of(light, nowhere())


def test_prompts_without_weights_are_those_with_them(model):
    heavy, light = (loaded(model, weights=each) for each in (True, False))
    assert {parameter.device.type for parameter in light.model.parameters()} == {"meta"}
    own, other = (vlm.model.generation_config.to_diff_dict() for vlm in (heavy, light))
    assert own == other
    for request in questions(2, num_images=3):
        a, b = (Focus().one_pass(vlm, request).prepare(vlm, seed=0, keep_logits="none")
                for vlm in (heavy, light))  # fmt: skip
        assert torch.equal(a.prompt.input_ids, b.prompt.input_ids)
        assert torch.equal(a.prompt.position_ids, b.prompt.position_ids)
        for content, image in a.images.items():
            assert image.key == b.images[content].key
            views = heavy.family.views(heavy.processor, image)  # what is sent
            again = heavy.family.view_inputs(heavy.processor, views).tensors["pixel_values"]
            assert torch.allclose(again, image.tensors["pixel_values"], atol=1e-5)


def evaluate(folder: Path, url: str, *overrides: str) -> None:
    call(main, *EVALUATED, f"engine.base_url={url}", f"results={folder}", *overrides,
         folder=folder)  # fmt: skip


def records(folder: Path) -> list[str]:
    return [re.sub(r'"seconds": [0-9.e-]+', "", line)
            for path in sorted(folder.rglob("records.jsonl")) for line in path.open()]  # fmt: skip


def test_a_run_over_http_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """The server dies in the middle; finished with another, the run is as if nothing had been."""
    automatic = transformers.AutoModelForImageTextToText
    monkeypatch.setattr(automatic, "from_pretrained", lambda *_, **__: pytest.fail("has weights"))
    with stub(MODELS[0]) as (url, server):
        evaluate(tmp_path / "straight", url)
        total = server.number
    whole = records(tmp_path / "straight")
    assert len(whole) == 3 * QUESTIONS  # plain ones twice: of their own, and beside those of FOCUS
    (run,) = (tmp_path / "straight").glob("scenes_*/run.json")
    (session,) = json.loads(run.read_text())["sessions"]
    assert session["engine"]["requests"] == total
    assert session["engine"]["cached_tokens"] > 0

    dies = lambda number, _: refusal(500, "dead") if number > total // 2 else None  # noqa: E731
    with stub(MODELS[0], dies) as (url, _), pytest.raises(SystemExit):
        evaluate(tmp_path / "killed", url, "engine.retries=0")
    before = records(tmp_path / "killed")
    assert 0 < len(before) < len(whole)
    with stub(MODELS[0]) as (url, server):
        evaluate(tmp_path / "killed", url)
        assert server.number < total
    assert records(tmp_path / "killed") == whole


def test_the_bench_asks_a_server_that_is_named(light, monkeypatch):
    monkeypatch.setattr(bench, "many_questions", lambda *_, weights: (light, questions(2)))
    monkeypatch.setattr(bench, "READ", {"text": GREEDY.max_new_tokens})
    with stub(MODELS[0]) as (url, server):
        rows = bench.server_rows(OmegaConf.create({"vllm": url}))
        assert sum(row["requests"] for row in rows) == server.number
    assert [row["scheme"] for row in rows] == [*bench.ASKED]
    assert all(row["per_second"] > 0 for row in rows)
    assert bench.server_rows(OmegaConf.create({"vllm": None})) == []


def test_the_recording_is_small():
    assert set(recorded()) == set(MODELS)
    assert (Path(__file__).parent / "vllm_exchanges.json.gz").stat().st_size < 200_000
