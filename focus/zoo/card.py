"""Export of a trained model: bfloat16 weights, `training.json`, and the model card made from it."""

from __future__ import annotations

import copy
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from statsmodels.stats.proportion import proportion_confint

from focus.marks import CANDIDATES, TEXT
from focus.models.loading import Checkpoint
from focus.zoo.bank import NOISE_NAMES
from focus.zoo.evaluation import ALPHAS, NOISE_NAME, evaluate
from focus.zoo.training import Recipe, State

RECORD = "training.json"
#: Single-image accuracy that every skill should reach.
BAR = 0.95


def export(
    state: State,
    recipe: Recipe,
    folder: Path,
    *,
    name: str,
    summary: str,
    command: str,
    size: int = 400,
) -> dict[str, Any]:
    """Saves a trained model, measures what was saved, and writes its card.

    The numbers are those of the saved bfloat16 weights loaded in float32, which is how the model
    is meant to be used on a CPU.

    Args:
        state: finished run; its model stays as it is.
        recipe: what it was trained with.
        folder: receives everything; made if missing.
        name: of the model.
        summary: what it is for, in a sentence.
        command: that trains it again.
        size: test questions per cell.

    Returns:
        The content of `training.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The record says that the export is complete, so it goes first and comes back last.
    (folder / RECORD).unlink(missing_ok=True)
    save_model(state, folder)
    record = {
        "name": name,
        "summary": summary,
        "command": command,
        "recipe_key": recipe.key(len(recipe.stages)),
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "minutes": round(state.seconds / 60, 1),
        "hardware": hardware(state.model.device),
        "software": {"torch": torch.__version__, "transformers": transformers.__version__},
        "noise": list(NOISE_NAMES),
        "seen": state.counts,
        "loss": {stage: _curve(losses) for stage, losses in state.losses.items()},
        "results": measure(folder, worlds_of(recipe), size=size),
    }
    write(record, folder)
    return record


def save_model(state: State, folder: Path) -> None:
    """Saves the weights of a run in bfloat16, and its processor, as a checkpoint to load."""
    copy.deepcopy(state.model).to("cpu", torch.bfloat16).save_pretrained(folder)
    state.processor.save_pretrained(folder)


def measure(
    folder: Path,
    worlds: Sequence[str],
    *,
    split: str = "test",
    size: int = 400,
    seed: int = 0,
    alphas: Mapping[str, float] = ALPHAS,
) -> dict[str, Any]:
    """Answers of a saved model, in float32 on the CPU; see `focus.zoo.evaluation.evaluate`."""
    vlm = Checkpoint(folder.name, str(folder), dtype="float32", device="cpu").load()
    return {
        "split": split,
        "seed": seed,
        "noise": NOISE_NAME,
        "alphas": dict(alphas),
        "scope": "one noise image per slot",
        **evaluate(vlm, worlds, split=split, size=size, seed=seed, alphas=alphas),
    }


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Writes the card and, last, the record that it comes from."""
    (folder / "README.md").write_text(card(record), encoding="utf-8")
    text = json.dumps(record, indent=1)
    # A number per line would make most of the file white space.
    text = re.sub(r"\[[\d\s,.]+\]", lambda found: " ".join(found[0].split()), text)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def record_folders(weights: Path) -> dict[str, Path]:
    """Folders of all models in `weights` that have a record, by name."""
    return {path.parent.name: path.parent for path in sorted(weights.glob(f"*/{RECORD}"))}


def worlds_of(recipe: Recipe) -> tuple[str, ...]:
    """Worlds that a recipe trains on."""
    return tuple(recipe.per_truth)


def is_exported(recipe: Recipe, folder: Path) -> bool:
    """Whether `folder` holds a complete export of exactly this recipe."""
    path = folder / RECORD
    return path.exists() and json.loads(path.read_text())["recipe_key"] == recipe.key(
        len(recipe.stages)
    )


def card(record: Mapping[str, Any]) -> str:
    """Model card in Markdown; every number comes from `record`."""
    parts = [
        f"# {record['name']}",
        record["summary"],
        f"A model of {record['parameters']:,} parameters for images of 32x32 pixels, of the "
        f"{record['recipe']['architecture']['family']} family (the real `transformers` classes in "
        "a small size). It exists to study how decoding handles several images; it knows nothing "
        "else and answers in the words of its own questions only.",
        *_architecture(record["recipe"]["architecture"]),
        *_training(record),
        *_results(record["results"]),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(record)),
    ]
    return "\n\n".join(parts) + "\n"


def _architecture(sizes: Mapping[str, Any]) -> list[str]:
    return [
        "## Architecture",
        f"Language model (tied embeddings): {sizes['layers']} layers, width {sizes['hidden']}, "
        f"{sizes['heads']} heads. Vision tower: {sizes['vision_layers']} layers, width "
        f"{sizes['vision_hidden']}, patches of {sizes['patch']} pixels. MLP {sizes['expansion']} "
        f"times the width, initial standard deviation {sizes['initializer_range']}. Weights are "
        "stored in bfloat16.",
    ]


def _training(record: Mapping[str, Any]) -> list[str]:
    recipe = record["recipe"]
    shown = {
        "clean_multi": "several clean images",
        "masked_multi": "one clean among noise, asked",
        "abstain_multi": 'noise asked among several, "unknown"',
        "guess_multi": "noise asked among several, a guess",
        "abstain_single": 'single noise image, "unknown"',
    }
    if not any(stage["mixture"].get("guess_multi") for stage in recipe["stages"]):
        del shown["guess_multi"]  # models from before there were guesses
    stages = [
        f"| stage | steps | learning rate | {' | '.join(shown.values())} | "
        "loss at start, quarters, end |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for stage in recipe["stages"]:
        shares = (stage["mixture"][name] for name in shown)
        stages.append(
            f"| {stage['name']} | {stage['steps']} "
            f"| {stage['learning_rate'] * recipe['learning_rate_scale']:g} "
            f"{stage['schedule']} | {' | '.join(f'{share:.1%}' for share in shares)} "
            f"| {', '.join(f'{x:.3f}' for x in record['loss'][stage['name']].values())} |"
        )
    seen = [
        '| stage | questions | with several images | images | noise images | "unknown" |',
        "|---|---|---|---|---|---|",
    ]
    for stage, count in record["seen"].items():
        numbers = (
            count[k] for k in ("questions", "multi", "images", "noise images", "abstentions")
        )
        seen.append(f"| {stage} | {' | '.join(f'{number:,}' for number in numbers)} |")
    worlds = ", ".join(
        f"{name} ({count} views of each truth)" for name, count in recipe["per_truth"].items()
    )
    return [
        "## Training",
        "\n".join(stages),
        "The rest of each stage are questions about one clean image. What it saw:",
        "\n".join(seen),
        f"Worlds: {worlds}; {recipe['corrupted']:.0%} of the views with mild corruption. Noise "
        f"images: equal parts of {', '.join(record['noise'])}. Batches of {recipe['batch_size']}, "
        f"AdamW (betas 0.9, 0.98; weight decay {recipe['weight_decay']}), gradient norm at most "
        f"{recipe['clip']}, loss on answer tokens, "
        f"{'bfloat16 autocast' if recipe['bfloat16'] else 'float32'}, seed {recipe['seed']}. "
        f"{record['minutes']} minutes on {record['hardware']}; torch "
        f"{record['software']['torch']}, transformers {record['software']['transformers']}.",
        f"    {record['command']}",
    ]


def _results(results: Mapping[str, Any]) -> list[str]:
    singles = [
        (f"{cell['world']}, {category}", f"{share:.3f}", interval, str(total))
        for cell in results["cells"]
        if cell["kind"] == "single"
        for category, share, interval, total in by_category(cell)
    ]
    several = [
        (
            f"{cell['world']}, {cell['kind']}, {cell['num_images']} images, {cell['decoding']}",
            *_rate(cell[CANDIDATES], "+"),
            _rate(cell[CANDIDATES], "x")[0],
            _rate(cell[TEXT], "+")[0],
            str(len(cell[CANDIDATES])),
        )
        for cell in results["cells"]
        if cell["kind"] != "single"
    ]
    rows = [
        (
            f"{row['world']}, {row['num_images']} images, {row['row']}",
            *(f"{row[key] / row['total']:.3f}" for key in ("right", "own", "unknown")),
            f"{row['top'] / row['total']:.3f}",
            f"{row['entropy']:.2f}",
            str(row["total"]),
        )
        for row in results["rows"]
    ]
    return [
        "## Results",
        f"Split {results['split']}, stored weights in float32, first token of the answer among the "
        "choices of the question. Intervals are 95% Wilson over questions, for this one training "
        "run.",
        "### One image",
        _table(("skill", "accuracy", "95% interval", "n"), singles),
        "### Several images",
        f"FOCUS: sum over branches, {results['noise']} noise, {results['scope']}, alpha "
        f'{results["alphas"][CANDIDATES]}. "Leaked": answers that another image would make true. '
        '"As text": accuracy of the first token over the whole vocabulary, at alpha '
        f"{results['alphas'][TEXT]}.",
        _table(("questions", "accuracy", "95% interval", "leaked", "as text", "n"), several),
        "### What the branches say",
        "First token over the whole vocabulary, on indexed questions. On target: the asked image "
        "is the clean one. Off target: another one is.",
        _table(
            (
                *("row", "right", "names the clean image", '"unknown"'),
                *("most frequent answer", "entropy (nats)", "n"),
            ),
            rows,
        ),
    ]


def _limits(record: Mapping[str, Any]) -> list[str]:
    below = [
        f"{cell['world']} {category} {share:.3f}"
        for cell in record["results"]["cells"]
        if cell["kind"] == "single"
        for category, share, _, _ in by_category(cell)
        if share < BAR
    ]
    return [
        f"Below {BAR} on single images: {', '.join(below)}."
        if below
        else f"At least {BAR} on every single-image skill.",
        "One training run. When a model of this size leaves the plateau on comparisons varies "
        "widely between seeds; the intervals say nothing about that.",
        "The lengths of the stages were chosen by looking at the dev split; the test split was "
        "scored once, at the end.",
        "All truths of the worlds occur in training; the test views are new drawings, scans and "
        "parts of photographs.",
        "How often a model abstains on masked images is a matter of its training mix, and that mix "
        "is close to what a branch of FOCUS sees. Compare models with and without it before "
        "concluding anything about models trained on something else.",
        "Noise that lets the image shine through was not part of the training.",
    ]


def by_category(cell: Mapping[str, Any]) -> list[tuple[str, float, str, int]]:
    """Category, accuracy, interval and number of questions, for each category of a cell."""
    rows = []
    for index, category in enumerate(cell["categories"]):
        marks = "".join(
            mark
            for mark, c in zip(cell[CANDIDATES], cell["category"], strict=True)
            if int(c) == index
        )
        rows.append((category, marks.count("+") / len(marks), _rate(marks, "+")[1], len(marks)))
    return rows


def _rate(marks: str, mark: str) -> tuple[str, str]:
    """Share of a mark and its 95% Wilson interval."""
    low, high = proportion_confint(marks.count(mark), len(marks), method="wilson")
    return f"{marks.count(mark) / len(marks):.3f}", f"[{low:.3f}, {high:.3f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def hardware(device: torch.device) -> str:
    """GPU, or CPU model where the system tells, else the architecture; and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    return f"{cpu}, {torch.get_num_threads()} thread(s)"


def _curve(losses: list[float], points: int = 5) -> dict[str, float]:
    """Mean loss of up to 50 steps around a few evenly spaced steps, keyed by step."""
    width = min(50, max(1, len(losses) // points))
    starts = [round(i * (len(losses) - width) / (points - 1)) for i in range(points)]
    return {
        str(start + width): round(sum(losses[start : start + width]) / width, 4) for start in starts
    }
