"""What FOCUS costs: ratios to plain decoding and to the published scheme, within one run.

    python -m experiments.bench num_images=[2,4] repeats=1 [vllm=http://127.0.0.1:8000/v1]

Four parts: one answer at a time, by number of images (random weights at a real shape); its first
token, by number and size of images and length of text; many questions at once on an embedded model;
several questions about one image pair. A fourth where a
vLLM server is named: the many questions, asked of that. Times depend on the machine and are never
tested; ratios measured side by side are comparable. Beside each time stands what was computed:
images encoded, tokens through the language model, tokens whose keys and values are kept, and
floating-point operations, whose ratio is the floor of the ratio of times.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("bench", __name__)  # before the seconds that the other imports take

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from omegaconf import DictConfig
from rich.table import Table

from analysis.figures import bench_figures, save_figure
from experiments.benching import (
    build_model,
    clock,
    fresh,
    inside,
    make_request,
    measured,
    operations_per_question,
    operations_per_second,
    sized_request,
)
from experiments.config import entry_point, plain
from experiments.evaluation import make_console, progress_bars, set_threads
from experiments.logging import Run, reported
from focus.benchmarks.embedded import IndexedQuestion
from focus.decoding import (
    AbstractDecoding,
    ComposedFocus,
    Focus,
    GenerationSettings,
    MaskedFocus,
    Plain,
    Request,
)
from focus.engines import LocalEngine, VllmEngine
from focus.environment import environment
from focus.errors import UnknownNameError
from focus.evaluation import request_of
from focus.models import Checkpoint, VisionLanguageModel

PLAIN = "plain decoding"
COMPOSED = "composed (ours), noise per run"
PUBLISHED = "published: N(N+1) encodings, full batch"
SCHEMES: dict[str, AbstractDecoding] = {
    PLAIN: Plain(),
    PUBLISHED: Focus(sharing="branch", prefill="naive"),
    "noise per branch, prefixes shared": Focus(sharing="branch"),
    "noise per sample, prefixes shared (default)": Focus(sharing="sample"),
    "noise per run, prefixes shared": Focus(sharing="run"),
    COMPOSED: ComposedFocus(sharing="run"),
    "masked (ours), no noise": MaskedFocus(),
}
FOUR_PLAIN = "four plain runs"
#: Of the first token alone, over sizes of images and text.
PREFILLS = {
    PLAIN: Plain(),
    "FOCUS": Focus(sharing="run"),
    "composed": ComposedFocus(sharing="run"),
    "crossed": ComposedFocus(sharing="run", flow="crossed"),
    "stand-in": ComposedFocus(sharing="run", flow="stand_in"),
    "isolated": ComposedFocus(sharing="run", flow="isolated"),
    "masked": MaskedFocus(),
}
#: Strategies whose throughput is measured, one question at a time and in batches.
ASKED = {
    PLAIN: Plain(),
    "FOCUS, noise per sample": Focus(),
    "FOCUS, noise per run": Focus(sharing="run"),
}
#: How they are read, and how many tokens that takes at most.
READ = {"candidates": 1, "text": 4}


@entry_point("bench")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Times everything and prints seconds and ratios."""
    mpl.use("Agg")
    set_threads(config.threads)
    unknown = [part for part in config.parts if part not in PARTS]
    if unknown:
        raise UnknownNameError("part", unknown[0], PARTS)
    console = make_console()
    with progress_bars(console, run) as progress:
        total = sum(PARTS[part].steps(config) for part in config.parts)
        task = progress.add_task("timing", total=total)
        found = {
            part: PARTS[part].measure(config, lambda: progress.advance(task))
            for part in config.parts
        }
    for name, rows in found.items():
        if rows:
            console.print(table(rows, PARTS[name].title))
            run.table(name, pd.DataFrame(rows))
    folder = Path(config.results)
    record = renewed(folder / "bench.json", found, {"config": plain(config), **environment()})
    for figure_name, figure in bench_figures(record):
        save_figure(figure, folder / f"{figure_name}.png")
        run.figures({figure_name: folder / f"{figure_name}.png"})
    console.print(f"bench.json and figures: {folder}", soft_wrap=True)
    run.records(folder)


def renewed(
    path: Path, found: Mapping[str, list[dict[str, Any]]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of all parts: those that were measured anew, and the others as they were.

    Args:
        path: of the record, which is written.
        found: rows of every part that was measured.
        facts: when and how that was: kept for each of these parts.
    """
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = record.get("measured", {}) | {key: dict(facts) for key in found}
    record = {**record, **found, "measured": measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def answer_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """One answer at a time under every scheme, by number of images."""
    built = build_model(config)
    settings = GenerationSettings(max_new_tokens=config.new_tokens)
    rows = []
    for num_images in config.num_images:
        requests = [make_request(config, num_images, k) for k in range(config.repeats + 2)]
        for scheme, decoding in SCHEMES.items():
            vlm = fresh(built)
            # Without a lower bound random weights end some answers early.
            decode = answering(vlm, decoding, settings, min_new_tokens=config.new_tokens)

            row = {"num_images": num_images, "scheme": scheme}
            rows.append(row | measured(vlm, decode, requests))
            advance()
    for row in rows:
        same = {r["scheme"]: r for r in rows if r["num_images"] == row["num_images"]}
        row["over_plain"] = row["seconds"] / same[PLAIN]["seconds"]
        row["published_over_this"] = same[PUBLISHED]["seconds"] / row["seconds"]
        row["flops_over_plain"] = row["flops"] / same[PLAIN]["flops"]
    return rows


def prefill_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """The first token, by number and size of images and length of text: images encoded, language
    model run, rows combined. Noise of a run is there from the first question on."""
    built = build_model(config)
    settings = GenerationSettings(max_new_tokens=1)
    rows = []
    for num_images, tokens, words in sizes(config):
        requests = [sized_request(config, num_images, k, tokens=tokens, words=words)
                    for k in range(config.prefill.repeats + 2)]  # fmt: skip
        line: dict[str, Any] = {"num_images": num_images, "image": tokens, "text": words}
        for scheme, decoding in PREFILLS.items():
            vlm = fresh(built)
            decode = answering(vlm, decoding, settings)
            line[scheme] = measured(vlm, decode, requests)
            advance()
        for scheme in PREFILLS:
            found, base = line[scheme], line[PLAIN]
            rows.append({**{key: line[key] for key in ("num_images", "image", "text")},
                         "scheme": scheme, **found,
                         "over_plain": found["seconds"] / base["seconds"],
                         "flops_over_plain": found["flops"] / base["flops"],
                         "kept_over_plain": found["kept"] / base["kept"]})  # fmt: skip
    return rows


def answering(
    vlm: VisionLanguageModel,
    decoding: AbstractDecoding,
    settings: GenerationSettings,
    **kwargs: Any,
) -> Callable[[Request], object]:
    """A strategy with everything but its question."""
    return lambda request: decoding.decode(vlm, request, settings, **kwargs)


def sizes(config: DictConfig) -> list[tuple[int, int, int]]:
    """Number of images, tokens of each and words; without what is too large in all."""
    chosen = itertools.product(config.prefill.num_images, config.prefill.tokens,
                               config.prefill.words)  # fmt: skip
    return [each for each in chosen if each[0] * each[1] <= config.prefill.most_tokens]


def throughput_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Questions per second on an embedded model, one at a time and in batches.

    Read as candidates (one step) and as text of at most four tokens. Both ways process every
    question anew: the model forgets what it has seen in between. Two bounds beside them: what the
    batches would reach if only the model's own parts took time, and what their operations allow.
    """
    loaded, requests = many_questions(config)
    few = requests[: config.throughput.alone]
    rows = []
    speed = operations_per_second()
    for read, length in READ.items():
        settings = GenerationSettings(max_new_tokens=length)
        for scheme, decoding in ASKED.items():
            vlm = fresh(loaded)
            alone = clock(lambda: [decoding.decode(vlm, r, settings, keep_logits="first")  # noqa: B023
                                   for r in few])  # fmt: skip
            advance()
            engine = LocalEngine(fresh(loaded))
            with inside(loaded) as model:
                together = clock(
                    lambda: decoding.decode_many(engine, requests, settings,  # noqa: B023
                                                 keep_logits="first"))  # fmt: skip
            advance()
            rows.append(
                {
                    "read": read,
                    "scheme": scheme,
                    "alone_per_second": len(few) / alone,
                    "batched_per_second": len(requests) / together,
                    "faster": (alone / len(few)) / (together / len(requests)),
                    "model_per_second": len(requests) / sum(model),
                    "floor_per_second": speed / operations_per_question(
                        fresh(loaded), decoding, few, settings),
                }
            )  # fmt: skip
    return rows


def server_rows(
    config: DictConfig, advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """The same questions asked of a vLLM server that serves the same model; none without one.

    What it has cached before counts for it, which is why the share of cached tokens is told.
    """
    if config.vllm is None:
        return []
    loaded, requests = many_questions(config, weights=False)
    rows = []
    for read, length in READ.items():
        settings = GenerationSettings(max_new_tokens=length)
        for scheme, decoding in ASKED.items():
            engine = VllmEngine(fresh(loaded), base_url=config.vllm, model=loaded.name)
            seconds = clock(lambda: decoding.decode_many(engine, requests, settings,  # noqa: B023
                                                         keep_logits="first"))  # fmt: skip
            usage = engine.servers.usage
            rows.append({"read": read, "scheme": scheme, "per_second": len(requests) / seconds,
                         "requests": usage.requests, "prompt_tokens": usage.prompt_tokens,
                         "cached_tokens": usage.cached_tokens})  # fmt: skip
            advance()
    return rows


def many_questions(
    config: DictConfig, *, weights: bool = True
) -> tuple[VisionLanguageModel, list[Request]]:
    """An embedded model, and questions about two images each."""
    name = config.throughput.model
    loaded = Checkpoint(name, f"embedded:{name}", device="cpu").load(weights=weights)
    benchmark = IndexedQuestion(split="test", num_images=2, size=config.throughput.questions)
    return loaded, [request_of(benchmark, example) for example in benchmark]


def sharing_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Four questions about one image pair, as a Winoground pair asks them: candidates."""
    vlm = build_model(config)
    pairs = [make_request(config, 2, k) for k in range(config.repeats + 2)]
    settings = GenerationSettings(max_new_tokens=1)

    def questions(request: Request) -> list[Request]:
        return [replace(request, question=f"{request.question} {k}") for k in "abcd"]

    ways: dict[str, Callable[[Request], object]] = {
        "four published runs": lambda r: [
            SCHEMES[PUBLISHED].decode(vlm, q, settings) for q in questions(r)
        ],
        "four runs, prefixes shared": lambda r: [
            Focus().decode(fresh(vlm), q, settings) for q in questions(r)
        ],
        "together": lambda r: Focus().decode_many(LocalEngine(fresh(vlm)), questions(r), settings),
        FOUR_PLAIN: lambda r: [Plain().decode(fresh(vlm), q, settings) for q in questions(r)],
        "four plain runs, images isolated and kept": lambda r: kept_images(
            fresh(vlm), questions(r)
        ),
    }

    def kept_images(vlm: VisionLanguageModel, asked: list[Request]) -> object:
        return Plain(flow="isolated").decode_many(LocalEngine(vlm, batch=1), asked, settings)

    rows = []
    for scheme, answer in ways.items():
        rows.append({"scheme": scheme} | measured(vlm, answer, pairs))
        advance()
    for row in rows:
        row["faster"] = rows[0]["seconds"] / row["seconds"]
        row["flops_ratio"] = rows[0]["flops"] / row["flops"]
    plain = next(row for row in rows if row["scheme"] == FOUR_PLAIN)
    for row in rows:
        row["over_plain"] = row["seconds"] / plain["seconds"]
    return rows


@dataclass(frozen=True)
class Part:
    """What can be measured by itself.

    Args:
        title: of its table.
        measure: gives its rows; calls its second argument after every step.
        steps: how many there are.
    """

    title: str
    measure: Callable[[DictConfig, Callable[[], None]], list[dict[str, Any]]]
    steps: Callable[[DictConfig], int]


PARTS = {
    "rows": Part(
        "One answer at a time (medians; ratios within this run)",
        answer_rows,
        lambda config: len(config.num_images) * len(SCHEMES),
    ),
    "throughput": Part(
        "Many questions on an embedded model (questions per second)",
        throughput_rows,
        lambda config: 2 * len(READ) * len(ASKED),
    ),
    "prefill": Part(
        "The first token, noise per run (medians; ratios within this run)",
        prefill_rows,
        lambda config: len(PREFILLS) * len(sizes(config)),
    ),
    "sharing": Part(
        "Four questions about one image pair (candidates)", sharing_rows, lambda config: 5
    ),
    "server": Part(
        "The many questions asked of a vLLM server",
        server_rows,
        lambda config: 0 if config.vllm is None else len(READ) * len(ASKED),
    ),
}
#: Columns of the terminal's tables that need no digits behind the point.
WHOLE = (
    "num_images",
    "image",
    "text",
    "encoded",
    "tokens",
    "kept",
    "requests",
    "prompt_tokens",
    "cached_tokens",
)


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Rows for the terminal."""
    frame = pd.DataFrame(rows).drop(columns=["flops", "peak_bytes"], errors="ignore")
    shown = Table(title=title, title_justify="left")
    for column in frame.columns:
        text = column in ("scheme", "read")
        shown.add_column(column.replace("_", " "), justify="left" if text else "right")
    for row in frame.to_dict("records"):
        shown.add_row(*(str(v) if k in WHOLE or isinstance(v, str) else f"{v:.2f}"
                        for k, v in row.items()))  # fmt: skip
    return shown


if __name__ == "__main__":
    main()
