"""Is composed FOCUS the same as FOCUS? Paired answers of both, on any model and benchmark.

    python -m experiments.equivalence                                       (make equivalence)
    python -m experiments.equivalence models=[qwen2_5_vl_7b] questions=[{benchmark:muirbench}] \\
        output=results/equivalence/muirbench

Every strategy answers the same questions; `analysis.equivalence` says where two are equivalent and
where they part. Run it again when there is another model: only what is new is asked.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("equivalence", __name__)  # before the seconds that the other imports take

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from analysis.equivalence import cells, equivalence_figure, page
from analysis.figures import save_figure
from experiments.cell_reports import first_examples
from experiments.config import CONF, build, check_positive, entry_point, plain
from experiments.demo import model_configs
from experiments.evaluation import make_console, progress_bars, request_of, row_records, set_threads
from experiments.logging import Run, reported, samples
from experiments.tuning import to_dev
from focus.benchmarks import AbstractBenchmark, Example
from focus.decoding import AbstractDecoding, Decoded, GenerationSettings
from focus.engines import LocalEngine
from focus.environment import environment
from focus.errors import FocusError, UnknownNameError
from focus.records import digest

#: Part of every key: raise it when an answer would come out otherwise.
VERSION = 1
CELLS, FIGURE, DOCUMENT = "cells.csv", "equivalence.png", "README.md"
NAMED = ("benchmark", "world")  # settings that a benchmark's name tells
EXACT = {"plain_isolated": "plain"}  # all others are compared with FOCUS


@entry_point("equivalence")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Asks what is missing, compares, and writes the page."""
    check_positive(config, "max_new_tokens", "batch")
    set_threads(config.threads)
    mpl.use("Agg")
    console = make_console()
    with progress_bars(console, run) as progress:
        answers = asked(config, progress)
    compared = cells(answers, margin=config.margin)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    compared.to_csv(output / CELLS, index=False, float_format="%.4g")
    save_figure(equivalence_figure(compared, margin=config.margin), output / FIGURE)
    told = [each for each in HydraConfig.get().overrides.task
            if not each.startswith(("results=", "output="))]  # fmt: skip
    command = " ".join(["python -m experiments.equivalence", *told])
    origin = f"`{command}`, commit {environment()['commit'] or 'unknown'}"
    text = page(answers, compared, margin=config.margin, origin=origin)
    (output / DOCUMENT).write_text(text, encoding="utf-8")
    console.print(f"{len(compared)} comparisons: {output / DOCUMENT}", soft_wrap=True)
    run.table("cells", compared)
    run.table("samples", told_of(config, answers))
    run.figures({"equivalence": output / FIGURE})
    run.records(output)


def told_of(config: DictConfig, answers: pd.DataFrame) -> pd.DataFrame:
    """The first questions of the first set, with every answer to them."""
    node = next(question_sets(plain(config)["questions"]))
    examples = first_examples(build_benchmark(node, "test"))
    own = answers[answers["questions"] == node["name"]]
    return samples(examples, own.to_dict("records"), ["model", "strategy", "text", "candidate"])


def asked(config: DictConfig, progress: Any) -> pd.DataFrame:
    """One line per question, strategy and model, answered once."""
    models = model_configs(config.models or "all")
    sets = list(question_sets(plain(config)["questions"]))
    todo = list(itertools.product(models, sets, config.limits.items()))
    task = progress.add_task("equivalence", total=len(todo))
    found, loaded = [], {}
    for name, node, (split, limit) in todo:
        key = digest([VERSION, name, node, split, limit, plain(config)["strategies"],
                      config.max_new_tokens])  # fmt: skip
        path = Path(config.results) / name / f"{node['name']}-{split}-{key}.parquet"
        if not path.exists():
            if name not in loaded:
                loaded = {name: build(models[name]).load()}
            benchmark = build_benchmark(node, split)
            engine = LocalEngine(loaded[name], batch=config.batch)
            lines = answered(engine, benchmark, config, limit)
            labels = {"model": loaded[name].name, "questions": node["name"], "split": split}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            pd.DataFrame([{**labels, **line} for line in lines]).to_parquet(partial, index=False)
            partial.replace(path)
        found.append(pd.read_parquet(path))
        progress.advance(task)
    return pd.concat(found, ignore_index=True)


def question_sets(grids: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of a benchmark and its settings, with a name that tells it apart."""
    for grid in grids:
        values = [value if isinstance(value, list) else [value] for value in grid.values()]
        for chosen in itertools.product(*values):
            node = dict(zip(grid, chosen, strict=True))
            named = build_benchmark(node, "test").name
            extra = [f"{key}{value}" for key, value in node.items() if key not in NAMED]
            yield {**node, "name": "-".join([named, *extra])}


def build_benchmark(node: Mapping[str, Any], split: str) -> AbstractBenchmark:
    """The benchmark with its settings; that of ``dev`` has the questions to decide things on."""
    known = {path.stem for path in (CONF / "benchmark").glob("*.yaml")}
    if node["benchmark"] not in known:
        raise UnknownNameError("benchmark", node["benchmark"], sorted(known))
    config = cast(DictConfig, OmegaConf.load(CONF / "benchmark" / f"{node['benchmark']}.yaml"))
    config.update({key: value for key, value in node.items() if key not in ("benchmark", "name")})
    if split == "dev":
        to_dev(config)
    benchmark: AbstractBenchmark = build(config)
    return benchmark


def answered(
    engine: LocalEngine, benchmark: AbstractBenchmark, config: DictConfig, limit: int
) -> Iterator[dict[str, Any]]:
    """One line per question and strategy."""
    settings = GenerationSettings(max_new_tokens=config.max_new_tokens)
    strategies = {name: build(node) for name, node in config.strategies.items()}
    total = min(limit, len(benchmark))
    for start in range(0, total, config.batch):
        examples = [benchmark[i] for i in range(start, min(start + config.batch, total))]
        requests = [request_of(benchmark.name, example) for example in examples]
        answers = {
            name: told(strategy, engine, requests, settings)
            for name, strategy in strategies.items()
        }
        for i, example in enumerate(examples):
            labels = {"id": example.id, "cluster": example.cluster or example.id,
                      "num_images": len(example.images)}  # fmt: skip
            for name, each in answers.items():
                exact = answers[EXACT.get(name, "focus")][i]
                yield {
                    **labels,
                    "strategy": name,
                    **line(engine, benchmark, example, each[i], exact),
                }


def told(
    strategy: AbstractDecoding, engine: LocalEngine, requests: Sequence[Any],
    settings: GenerationSettings,
) -> list[Decoded]:  # fmt: skip
    """All answers.

    Raises:
        FocusError: one of them could not be had.
    """
    answers = strategy.decode_many(engine, requests, settings, keep_logits="first")
    for answer in answers:
        if isinstance(answer, FocusError):
            raise answer
    return [answer for answer in answers if isinstance(answer, Decoded)]


def line(
    engine: LocalEngine,
    benchmark: AbstractBenchmark,
    example: Example,
    ours: Decoded,
    exact: Decoded,
) -> dict[str, Any]:
    """How an answer was read, and how far its first distribution is from the exact one's."""
    score = benchmark.score(ours.text, example.reference)
    read_as = row_records(engine.vlm, ours, example)
    said = read_as["choice_answer"]
    mine, theirs = (each.combined_logits[0][0].log_softmax(-1) for each in (ours, exact))
    return {
        "text": ours.text,
        "text_right": score.correct,
        "divergence": float(torch.nn.functional.kl_div(mine, theirs, reduction="sum",
                                                       log_target=True)),
        "candidate": said,
        "candidate_right": None if said is None else said == example.answer,
        "leaked": score.leaked if said is None else said in example.distractors,
        "on_target_right": None,
        "off_target_commits": None,
        **branch_facts(read_as["row_logprobs"] or {}, example),
    }  # fmt: skip


def branch_facts(rows: Mapping[str, Sequence[float]], example: Example) -> dict[str, float]:
    """Where one image is asked: whether its branch is right, and how sure of another answer the
    other branches are, as the mean probability of their likeliest candidate that is not right.

    Args:
        rows: log-probability of every candidate in every row.
        example: the question.
    """
    if len(example.targets) != 1 or "reference" not in rows:
        return {}
    (unit,) = example.targets
    asked = "image " + "+".join(str(k + 1) for k in (unit if isinstance(unit, tuple) else (unit,)))
    plain_row = "image " + "+".join(str(k + 1) for k in range(len(example.images)))
    others = [row for name, row in rows.items() if name not in ("reference", asked, plain_row)]
    if asked not in rows or not others:
        return {}
    right = example.choices.index(example.answer)

    def wrong(row: Sequence[float]) -> float:
        shares = torch.tensor(row).softmax(-1)
        return float(shares[torch.arange(len(shares)) != right].max())

    return {
        "on_target_right": float(
            max(range(len(rows[asked])), key=rows[asked].__getitem__) == right
        ),
        "off_target_commits": math.fsum(map(wrong, others)) / len(others),
    }


if __name__ == "__main__":
    main()
