"""Will FOCUS work on my model? Versions, prompt, tokens, exactness, cost, behaviour, a verdict.

    python -m experiments.doctor model=qwen2_5_vl_7b                             (make doctor)
    python -m experiments.doctor model=internvl_answering benchmark.world=digits

Ends with exit status 1 where a check failed. The findings are also written as text and as JSON.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("doctor", __name__)  # before the seconds that the other imports take

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from experiments.config import build, check_positive, entry_point
from experiments.evaluation import progress_bars, set_threads
from experiments.logging import Run, reported, samples
from focus import doctor
from focus.benchmarks import AbstractBenchmark
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.doctor import Check, attempt
from focus.errors import DatasetUnavailableError
from focus.evaluation import request_of

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@entry_point("doctor")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Runs all checks on one model and writes what they found."""
    check_positive(config, "size")
    set_threads(config.threads)
    console = Console(width=100, highlight=False)
    benchmark: AbstractBenchmark = build(config.benchmark)
    vlm = build(config.model).load()
    asked_for, note = benchmark, ""
    try:
        questions = len(benchmark)
    except DatasetUnavailableError as error:
        console.print(str(error), soft_wrap=True)
        benchmark = build(config.embedded)
        questions = stated_questions(asked_for) or len(benchmark)
        note = f"{asked_for.name} is not here: the questions below are those of {benchmark.name}"
    folder = Path(config.results) / f"{vlm.name}-{benchmark.name}"
    folder.mkdir(parents=True, exist_ok=True)
    asked = partial(request_of, budget=vlm.budget)  # as in an evaluation
    examples = doctor.several_images(benchmark, 2) or [benchmark[0]]
    requests = [asked(benchmark, example) for example in examples]
    checks: list[Check] = []
    with progress_bars(console, run) as progress:
        task = progress.add_task(f"{vlm.name} · doctor", total=7 + config.size)

        def step() -> None:
            progress.advance(task)

        for name, check in {
            "environment": lambda: doctor.environment_check(vlm),
            "prompt": lambda: doctor.prompt_check(vlm, requests[0]),
            "image tokens": lambda: doctor.budgets(vlm),
            "shared prefixes": lambda: doctor.shared_is_naive(vlm, requests),
            "plain decoding": lambda: doctor.plain_is_generate(vlm, requests),
            "cost": lambda: doctor.cost(vlm, requests[0], questions=questions),
            "behaviour": lambda: doctor.behaviour(
                vlm, benchmark, asked, size=config.size, progress=step
            ),
        }.items():
            checks.append(attempt(name, check))
            step()
    verdict = doctor.verdict(checks)
    with (folder / "doctor.txt").open("w", encoding="utf-8") as file:
        for each in (console, Console(file=file, width=100, highlight=False)):
            show(each, checks, verdict, note)
    findings = {
        "benchmark": benchmark.name,
        "asked_for": asked_for.name,
        "verdict": verdict,
        "checks": [asdict(check) for check in checks],
    }
    text = json.dumps(findings, indent=2, ensure_ascii=False)
    (folder / "doctor.json").write_text(text + "\n", encoding="utf-8")
    console.print(f"doctor.txt and doctor.json: {folder}", soft_wrap=True)
    run.table("checks", pd.DataFrame(findings["checks"]))
    run.table("samples", samples(examples))
    run.records(folder)
    if any(check.status == "fail" for check in checks):
        sys.exit(1)


def show(console: Console, checks: list[Check], verdict: str, note: str = "") -> None:
    """One block per check, then the verdict."""
    if note:
        console.print(note, style="yellow", soft_wrap=True)
    for check in checks:
        colour = COLOURS[check.status]
        console.print(f"[{colour}]{check.status:<5}[/{colour}] [bold]{check.name}[/bold]")
        for line in (*check.lines, *([f"-> {check.advice}"] if check.advice else ())):
            console.print(Padding(Text(line), (0, 0, 0, 6)))
    console.print(f"verdict: {verdict}", markup=False, style="bold")


def stated_questions(benchmark: AbstractBenchmark) -> int | None:
    """Questions of the whole split, as its source states them; None where it does not."""
    if not isinstance(benchmark, AbstractHubBenchmark):
        return None
    rows = benchmark.source.size.get(benchmark.split)
    return rows and rows * benchmark.questions_per_row


if __name__ == "__main__":
    main()
