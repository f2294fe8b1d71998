"""Published numbers of the paper's comparison, in percent, with the source of each.

A number is here only if its source could be read; what is missing was not found. Those of plain
models come from reports with protocols of their own: one checkpoint is ten points apart between two
of them, so a difference to ours says little. Differences on the same questions say more.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "FOCUS, arXiv:2508.13744"


@dataclass(frozen=True)
class Published:
    """One number.

    Args:
        benchmark: as records call it.
        metric: as summaries call it, see `analysis.summary.metric_values`.
        model: as records call it; None for a claim about no model in particular ("up to").
        decoding: ``plain``, or ``focus`` for a gain over plain decoding.
        value: percent of right answers, or percentage points of gain.
        source: where it was read.
        version: of the source: version or table of a paper, commit of a page.
        protocol: how it was measured, as far as the source says.
        second_hand: read in another work than the one that measured it.
    """

    benchmark: str
    metric: str
    model: str | None
    decoding: str
    value: float
    source: str
    version: str
    protocol: str = "the source's own prompts and parser"
    second_hand: bool = False


def _claim(benchmark: str, metric: str, value: float) -> Published:
    protocol = "largest gain over the compared models"
    return Published(benchmark, metric, None, "focus", value, PAPER, "v1, summary", protocol)


def _plain(
    benchmark: str,
    model: str,
    value: float,
    source: str,
    version: str,
    *,
    second_hand: bool = False,
) -> Published:
    return Published(
        benchmark, "accuracy", model, "plain", value, source, version, second_hand=second_hand
    )


_INTERNVL3 = ("InternVL3 report, arXiv:2504.10479", "Table 4 (arXiv version not recorded)")
_MANTIS_CARD = ("card of TIGER-Lab/Mantis-Eval on the Hugging Face hub", "commit 6e92f8c")
_DELIMITER = "report of github.com/mrpc2003/DelimScaling"
_MIMIC = ("baseline of MIMIC (data set anurag4446/mimic)", "version not recorded")
_VISC = ("baseline of VISC-150K", "version not recorded")

#: The paper's main tables per model and its contrast weights were not found; its summary was.
PUBLISHED: tuple[Published, ...] = (
    _claim("vismin", "image score", 32.1),
    _claim("vismin", "group score", 29.9),
    _claim("winoground", "image score", 18.8),
    _claim("winoground", "group score", 16.8),
    _plain("mantis_eval", "internvl3-2b", 65.9, *_INTERNVL3),
    _plain("mantis_eval", "internvl3-8b", 70.1, *_INTERNVL3),
    _plain("mantis_eval", "llava-onevision-0.5b", 39.60, *_MANTIS_CARD),
    _plain("mantis_eval", "llava-onevision-7b", 64.20, *_MANTIS_CARD),
    _plain("muirbench", "internvl3-2b", 38.8, *_INTERNVL3),
    _plain("muirbench", "internvl3-8b", 55.0, *_INTERNVL3),
    _plain("muirbench", "qwen2.5-vl-3b", 47.7, *_INTERNVL3),
    _plain(
        *("muirbench", "qwen2.5-vl-3b", 37.31),
        *(f"Delimiter Token Scaling, quoted in the {_DELIMITER}", "its Table 1"),
        second_hand=True,
    ),
    _plain(
        *("muirbench", "qwen2.5-vl-3b", 37.00),
        *(f"rerun, {_DELIMITER}", "962 of 2,600 questions; commit not recorded"),
    ),
    _plain("muirbench", "qwen2.5-vl-7b", 59.6, *_INTERNVL3),
    _plain("muirbench", "llava-onevision-0.5b", 26.8, *_MIMIC, second_hand=True),
    _plain("muirbench", "llava-onevision-7b", 41.77, *_VISC, second_hand=True),
    _plain("muirbench", "llava-onevision-7b", 41.7, *_MIMIC, second_hand=True),
)


def published(benchmark: str, metric: str, model: str | None, decoding: str) -> list[Published]:
    """All numbers that were found for a cell."""
    wanted = (benchmark, metric, model, decoding)
    return [p for p in PUBLISHED if (p.benchmark, p.metric, p.model, p.decoding) == wanted]
