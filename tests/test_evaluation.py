"""What a record keeps of the first step of an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from focus.benchmarks import Example
from focus.decoding import Decoded, Focus, GenerationSettings
from focus.engines import LocalEngine
from focus.evaluation import Cell, row_records
from focus.models.tiny import build_tiny


@pytest.fixture(scope="module")
def vlm():
    return build_tiny("internvl")


def decoded_with(vlm, **logits: float) -> Decoded:
    """One row that gives each word its logit and all others minus ten."""
    row = torch.full((len(vlm.processor.tokenizer),), -10.0)
    for word, value in logits.items():
        row[vlm.processor.tokenizer.convert_tokens_to_ids(word)] = value
    return Decoded(
        texts=("",),
        token_ids=((),),
        row_labels=("plain",),
        num_rows=1,
        num_encoded=1,
        prompt_tokens=1,
        image_tokens=(1,),
        seconds=0.0,
        branch_logits=(row[None, None],),
        combined_logits=(row[None],),
    )


QUESTION = Example(
    id="q", images=(), question="red or blue ?", answer="red", choices=("red", "blue")
)


def test_the_choice_is_the_best_of_the_candidates(vlm):
    record = row_records(vlm, decoded_with(vlm, red=1.0, blue=2.0, green=9.0), QUESTION)
    assert record["choice_answer"] == "blue"
    assert record["row_tops"] == {"plain": "green"}
    assert record["choice_logprobs"][1] - record["choice_logprobs"][0] == pytest.approx(1.0)


def test_choices_of_several_tokens_have_the_likelihood_of_all_of_them(vlm):
    """Two of them begin alike, and the model says none of them."""
    images = (Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue"))
    choices = ("red circle", "red square", "blue")
    example = replace(QUESTION, images=images, question="<image><image> ?", choices=choices,
                      answer="blue")  # fmt: skip
    benchmark = SimpleNamespace(name="b", published_single="contrast", published_size=None)
    settings = GenerationSettings(max_new_tokens=1)
    cell = Cell(LocalEngine(vlm), benchmark, Focus(), settings, "focus")
    assert cell.request(replace(example, choices=("red", "blue"))).candidates == ()
    request = cell.request(example)
    (decoded,) = Focus().decode_many(cell.engine, [request], settings, keep_logits="first")
    record = row_records(vlm, decoded, example)

    rows = {label: [] for label in decoded.row_labels}
    combined = []
    for choice in choices:
        tokens = vlm.processor.tokenizer.encode(choice)
        forced = Focus().decode(
            vlm, replace(request, candidates=()), replace(settings, max_new_tokens=len(tokens)),
            keep_logits="all", logits_processor=[made_to_say(tokens)],
        )  # fmt: skip
        steps = list(enumerate(tokens))
        combined.append(sum(float(forced.combined_logits[t][0].log_softmax(-1)[token])
                            for t, token in steps))  # fmt: skip
        for r, label in enumerate(rows):
            rows[label].append(sum(float(forced.branch_logits[t][r, 0].log_softmax(-1)[token])
                                   for t, token in steps))  # fmt: skip
    assert record["choice_logprobs"] == pytest.approx(combined, abs=1e-3)
    assert record["choice_answer"] == choices[combined.index(max(combined))]
    assert record["row_logprobs"].keys() == rows.keys()
    for label, expected in rows.items():
        assert record["row_logprobs"][label] == pytest.approx(expected, abs=1e-3)


def made_to_say(tokens):
    """A logits processor that leaves one token possible, step by step."""
    left = iter(tokens)

    def force(_, scores):
        only = torch.full_like(scores, -torch.inf)
        only[:, next(left)] = 0
        return only

    return force


def test_choices_that_a_strategy_ruled_out_are_not_chosen(vlm):
    """A plausibility cut-off may leave no candidate: the first one must not win by default."""
    out = float("-inf")
    record = row_records(vlm, decoded_with(vlm, red=out, blue=2.0), QUESTION)
    assert (record["choice_answer"], record["choice_logprobs"][0]) == ("blue", None)
    record = row_records(vlm, decoded_with(vlm, red=out, blue=out, green=1.0), QUESTION)
    assert (record["choice_answer"], record["choice_logprobs"]) == ("", [None, None])
    assert "Infinity" not in json.dumps(record)
