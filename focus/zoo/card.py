"""Export of a trained model: bfloat16 weights, `training.json`, and the model card made from it."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText

from focus.models.internvl import InternVLImageProcessor
from focus.zoo.bank import NOISE_NAMES
from focus.zoo.build import build_processor
from focus.zoo.evaluation import ALPHA, NOISE_NAME, evaluate
from focus.zoo.training import Recipe, State

RECORD = "training.json"


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
    copy.deepcopy(state.model).to(torch.bfloat16).save_pretrained(folder)
    build_processor(recipe.architecture).save_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    record = {
        "name": name,
        "summary": summary,
        "command": command,
        "recipe_key": recipe.key(len(recipe.stages)),
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round(state.seconds / 60, 1),
        "hardware": _hardware(),
        "software": {"torch": torch.__version__, "transformers": transformers.__version__},
        "noise": list(NOISE_NAMES),
        "seen": state.counts,
        "loss": {stage: _curve(losses) for stage, losses in state.losses.items()},
        "evaluation": {
            "split": "test",
            "noise": NOISE_NAME,
            "alpha": ALPHA,
            "scope": "one noise image per slot",
        },
        "results": evaluate(model, InternVLImageProcessor.from_pretrained(folder), size=size),
    }
    (folder / "README.md").write_text(card(record))
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return record


def is_exported(recipe: Recipe, folder: Path) -> bool:
    """Whether `folder` holds a complete export of exactly this recipe."""
    path = folder / RECORD
    return path.exists() and json.loads(path.read_text())["recipe_key"] == recipe.key(
        len(recipe.stages)
    )


def card(record: Mapping[str, Any]) -> str:
    """Model card in Markdown; every number comes from `record`."""
    recipe, architecture = record["recipe"], record["recipe"]["architecture"]
    evaluation = record["evaluation"]
    stages = [
        f"| {s['name']} | {s['steps']} | {s['learning_rate']:g} {s['schedule']} "
        f"| {s['mixture']['clean_multi']:.1%} | {s['mixture']['masked_multi']:.1%} "
        f"| {s['mixture']['abstention']:.0%} | {_curve_text(record['loss'][s['name']])} |"
        for s in recipe["stages"]
    ]
    seen = [
        f"| {stage} | {c['questions']:,} | {c['multi']:,} | {c['images']:,} "
        f"| {c['noise images']:,} | {c['abstentions']:,} |"
        for stage, c in record["seen"].items()
    ]
    results = [
        f"| {row} | {r['accuracy']:.3f} | [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}] "
        f"| {r['n']} |"
        for row, r in record["results"].items()
    ]
    return "\n".join(
        [
            f"# {record['name']}",
            "",
            record["summary"],
            "",
            f"An InternVL-class model of {record['parameters']:,} parameters for 32x32 scenes with "
            "one coloured shape. It exists to study how decoding handles several images; it knows "
            "nothing else and answers in the words of its own questions only.",
            "",
            "## Architecture",
            "",
            f"Language model (Qwen3 blocks, tied embeddings): {architecture['layers']} layers, "
            f"width {architecture['hidden']}, {architecture['heads']} heads. Vision tower: "
            f"{architecture['vision_layers']} layers, width {architecture['vision_hidden']}, "
            f"patch {architecture['patch']}, "
            f"{(32 // architecture['patch'] // 2) ** 2} tokens per image. MLP "
            f"{architecture['expansion']} times the width, initial standard deviation "
            f"{architecture['initializer_range']}. Weights are stored in bfloat16.",
            "",
            "## Training",
            "",
            "| stage | steps | learning rate | several clean images | one clean among noise "
            '| of those "unknown" | loss at start, quarters, end |',
            "|---|---|---|---|---|---|---|",
            *stages,
            "",
            "The rest of each stage are questions about one clean image. What it saw:",
            "",
            '| stage | questions | with several images | images | noise images | "unknown" |',
            "|---|---|---|---|---|---|",
            *seen,
            "",
            f"Noise images: equal parts of {', '.join(record['noise'])}. Batches of "
            f"{recipe['batch_size']}, AdamW (betas 0.9, 0.98; weight decay "
            f"{recipe['weight_decay']}), gradient norm at most {recipe['clip']}, loss on answer "
            f"tokens, {'bfloat16 autocast' if recipe['bfloat16'] else 'float32'}, seed "
            f"{recipe['seed']}, {recipe['per_truth']} scenes for each of the 96 truths. "
            f"{record['minutes']} minutes on {record['hardware']}; torch "
            f"{record['software']['torch']}, transformers {record['software']['transformers']}.",
            "",
            f"    {record['command']}",
            "",
            "## Results",
            "",
            f"Split {evaluation['split']}, stored weights in float32, first token of the answer "
            "among the choices of the question unless a row says otherwise. FOCUS: sum over "
            f"branches, {evaluation['noise']} noise, {evaluation['scope']}, alpha "
            f"{evaluation['alpha']}. Minimal pairs count as right only if both members are. "
            "Intervals are 95% Wilson over questions, for this one training run.",
            "",
            "| | accuracy | 95% interval | n |",
            "|---|---|---|---|",
            *results,
            "",
            "## Limits",
            "",
            "- One training run. When a model of this size leaves the plateau on comparisons "
            "varies widely between seeds; the intervals say nothing about that.",
            "- The lengths of the stages were chosen by looking at the dev split while the "
            "model trained; the test split was scored once, at the end.",
            "- The world has 96 truths, all of which occur in training; the test scenes are new "
            "drawings of them.",
            "- How often a model abstains on masked images is a matter of its training mix, and "
            "that mix is close to what a branch of FOCUS sees. Compare models with and without it "
            "before concluding anything about models trained on something else.",
            "- Noise that lets the image shine through was not part of the training.",
            "",
        ]
    )


def _hardware() -> str:
    """CPU model where the system tells, else the architecture; and the threads used."""
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


def _curve_text(curve: Mapping[str, float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in curve.values())
