"""Every configuration composes and instantiates; what does not exist is named with what does."""

from itertools import cycle

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.config import CONF, build, build_settings, compose_config, explain_overrides
from focus.aggregation import AGGREGATIONS
from focus.benchmarks.embedded import KINDS
from focus.decoding import STRATEGIES
from focus.errors import InvalidValueError, UnknownNameError
from focus.noise import NOISE_TYPES

GROUPS = ("model", "benchmark", "decoding", "settings", "engine")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def together() -> list[dict[str, str]]:
    """Every option of every group in as few compositions as there are options of the largest.

    Embedded benchmarks are built in test_embedded_examples.py.
    """
    found = {group: options(group) for group in GROUPS}
    found["benchmark"] = sorted(set(found["benchmark"]) - set(KINDS))
    parts = [GROUPS[:-1], GROUPS[-1:]]  # engines fit the default model with its `source`
    return [
        {group: found[group][k % len(found[group])] for group in part}
        for part in parts
        for k in range(max(len(found[group]) for group in part))
    ]


@pytest.mark.parametrize("chosen", together(), ids=lambda chosen: "-".join(chosen.values()))
def test_every_option_composes_and_instantiates(chosen):
    config = compose_config("config", [f"{group}={option}" for group, option in chosen.items()])
    for group, option in chosen.items():
        node = config[group]
        built = build_settings(node, 16) if group == "settings" else build(node)
        if group == "decoding":
            assert built.name in STRATEGIES, option


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment):
    config = compose_config("config", [f"experiment={experiment}"])
    for node in ("model", "benchmark", "decoding", "logger"):
        build(config[node])
    assert build_settings(config.settings, 16).max_new_tokens in (3, 16, 512)


def test_every_experiment_file_starts_with_its_command():
    for path in (CONF / "experiment").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert f"experiment={path.stem}" in lines[1]


def test_experiments_beat_the_defaults_and_the_command_line_beats_experiments():
    assert compose_config("config").limit is None
    assert compose_config("config", ["experiment=smoke"]).limit == 4
    assert compose_config("config", ["experiment=smoke", "limit=2"]).limit == 2


def test_every_strategy_has_a_file_and_so_has_every_kind_of_embedded_question():
    assert set(KINDS) < set(options("benchmark"))
    targets = [OmegaConf.load(CONF / "decoding" / f"{o}.yaml") for o in options("decoding")]
    own = [node._target_ for node in targets if "_target_" in node]  # others build on these
    assert {get_object(target).name for target in own} == set(STRATEGIES)


def test_every_noise_type_and_aggregation_reaches_the_strategy_by_its_name():
    for noise, pool in zip(NOISE_TYPES, cycle(AGGREGATIONS), strict=False):
        overrides = [f"decoding.noise.name={noise}", f"decoding.aggregation={pool}"]
        focus = build(compose_config("config", [*overrides, "decoding.alpha=0.5"]).decoding)
        assert (focus.noise.name, focus.aggregation, focus.alpha) == (noise, pool, 0.5)


def test_the_seed_reaches_noise_and_sampling():
    config = compose_config("config", ["seed=7"])
    assert build(config.decoding).noise.seed == 7
    assert build_settings(config.settings, 16).seed == 7


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("decoding.alfa=1", "did you mean 'alpha'"),
        ("decoding.noise.scal=1", "did you mean 'scale'"),
        ("limt=3", "did you mean 'limit'"),
        ("decoding.alpha=1", None),
        ("decoding.noise.name=imagenet+gaussian", None),
    ],
)
def test_misspelt_settings_are_answered_with_the_accepted_ones(override, expected):
    problem = explain_overrides("config", [override])
    if expected is None:
        assert problem is None
    else:
        assert expected in problem
        assert "known: " in problem


def test_settings_of_a_chosen_group_are_checked_against_that_group():
    assert explain_overrides("config", ["decoding=plain", "decoding.alpha=1"])
    assert not explain_overrides("config", ["decoding=focus", "decoding.alpha=1"])


def test_added_keys_fail_when_built():
    config = compose_config("config", ["+decoding.alfa=1"])
    with pytest.raises(UnknownNameError, match=r"alfa.*known: .*alpha"):
        build(config.decoding)


def test_refused_values_keep_their_own_error():
    with pytest.raises(InvalidValueError, match="alpha"):
        build(compose_config("config", ["decoding.alpha=-1"]).decoding)


def test_model_files_of_real_checkpoints_are_pinned():
    for option in options("model"):
        config = OmegaConf.load(CONF / "model" / f"{option}.yaml")
        source = config.get("source", "")
        if source and not source.startswith("embedded:"):
            assert config.dtype == "bfloat16", option
            assert "revision" in config, option
