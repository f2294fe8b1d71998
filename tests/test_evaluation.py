"""What a record keeps of the first step of an answer."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.evaluation import row_records
from focus.benchmarks import Example
from focus.decoding import Decoded
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


def test_choices_that_a_strategy_ruled_out_are_not_chosen(vlm):
    """A plausibility cut-off may leave no candidate: the first one must not win by default."""
    out = float("-inf")
    record = row_records(vlm, decoded_with(vlm, red=out, blue=2.0), QUESTION)
    assert (record["choice_answer"], record["choice_logprobs"][0]) == ("blue", None)
    record = row_records(vlm, decoded_with(vlm, red=out, blue=out, green=1.0), QUESTION)
    assert (record["choice_answer"], record["choice_logprobs"]) == ("", [None, None])
    assert "Infinity" not in json.dumps(record)
