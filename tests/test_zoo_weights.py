"""The stored models: what their configuration says, one factor apart, and their cards."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForImageTextToText

from focus.models.internvl import InternVLImageProcessor
from focus.zoo import card as card_module
from focus.zoo.evaluation import evaluate

ROOT = Path(__file__).parents[1]
WEIGHTS = Path(card_module.__file__).parent / "weights"
NAMES = ("shapes-abstaining", "shapes-answering")


def composed(name: str) -> dict:
    """What `python -m experiments.train_zoo zoo=<name>` would train."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("train_zoo", overrides=[f"zoo={name}"])
        return OmegaConf.to_container(config.zoo, resolve=True)


def test_the_two_models_differ_in_abstention_alone():
    """Otherwise no difference between them could be put down to abstention."""
    one, other = (composed(name)["recipe"] for name in NAMES)
    assert one != other
    for config in (one, other):
        assert instantiate(config).stages[-1].mixture.masked_multi > 0
        for stage in config["stages"]:
            stage["mixture"].pop("abstention", None)
    assert one == other


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_models_have_the_recipe_of_their_configuration(name):
    recipe = instantiate(composed(name)["recipe"])
    assert card_module.is_exported(recipe, WEIGHTS / name)
    record = json.loads((WEIGHTS / name / "training.json").read_text())
    assert (WEIGHTS / name / "README.md").read_text() == card_module.card(record)
    abstained = sum(counts["abstentions"] for counts in record["seen"].values())
    assert (abstained > 0) == (name == "shapes-abstaining")
    for skill in ("name", "yes_no", "letter"):
        assert record["results"][f"single image, {skill}"]["accuracy"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_what_the_stored_weights_give(name):
    model = AutoModelForImageTextToText.from_pretrained(
        WEIGHTS / name, dtype=torch.float32, attn_implementation="eager"
    )
    results = evaluate(model, InternVLImageProcessor.from_pretrained(WEIGHTS / name))
    for row, result in json.loads((WEIGHTS / name / "training.json").read_text())[
        "results"
    ].items():
        # Another kernel may flip a question whose two best answers are all but equal.
        assert results[row]["accuracy"] == pytest.approx(result["accuracy"], abs=0.01), row
