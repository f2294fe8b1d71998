"""Vinoground: 500 pairs of short videos whose captions differ in the order of events.

Paper: https://arxiv.org/abs/2410.02763 (Zhang et al., 2024).
Data: https://huggingface.co/datasets/HanSolo9682/Vinoground, split test, 500 rows; the clips are
``{index}_pos.mp4`` and ``{index}_neg.mp4`` of its ``vinoground_videos.zip``. Licence: none stated.
Not gated. No revision could be verified, so none is pinned: name one with `revision`.

The clips are not fetched by themselves:

    hf download HanSolo9682/Vinoground vinoground_videos.zip --repo-type dataset --local-dir .
    unzip vinoground_videos.zip

Frames are single images to the model. Where the decoding uses named targets, the frames of a clip
stay clean together (``units="clip"``) or each is clean alone (``units="frame"``).

``official`` is `eval/vinoground.py` of the authors of FOCUS: 8 frames a clip, each the start of an
equal stretch, all frames first, and DEFECT: an answer without a stand-alone a or b is "a".
``strict`` asks the benchmark's own questions. Deviations: their wording comes from published
copies (lmms-eval and papers quoting it), not from the question files; these shuffle which caption
is A, here it is always the positive one, as with the authors; the concatenated video with its two
black seconds becomes the frames of both clips with one black image between; 8 frames a clip are
the default, the benchmark samples 32 from each video.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

from PIL import Image

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item
from focus.benchmarks.pairs import score_official, score_strict
from focus.benchmarks.prompting import rotation
from focus.benchmarks.source import DataSource
from focus.benchmarks.video import evenly_from_start, first_to_last, sample_frames
from focus.checks import Positive
from focus.errors import DatasetUnavailableError, InvalidValueError
from focus.images import IMAGE_PLACEHOLDER
from focus.scoring import Scorer

DIRECTIONS = ("text", "video")
SIDES = ("pos", "neg")
UNITS = ("clip", "frame")
SYSTEM = (
    "You are an evaluator tasked with comparing video clips and captions to answer the question."
)
_LETTER = (
    "Answer with the option's letter from the given choices directly.\n"
    "Please only output one English character."
)
_SEGMENTS = ("First segment (before black frame)", "Second segment (after black frame)")


@final
@dataclass(frozen=True)
class Vinoground(AbstractHubBenchmark):
    """Vinoground; see the module for data, licence and where the clips come from.

    ``metadata["task"]`` is the major category, ``metadata["minor"]`` the minor ones.

    Args:
        videos: folder of the clips.
        num_frames: frames per clip.
        units: "clip" or "frame": what stays clean together.
    """

    videos: str | None = None
    num_frames: Positive = 8
    units: str = "clip"

    name: ClassVar[str] = "vinoground"
    source: ClassVar[DataSource] = DataSource(
        name="vinoground",
        repo="HanSolo9682/Vinoground",
        revision=None,  # no revision was verified
        splits=("test",),
        fields={"index": "id", "major": "string", "pos_cap": "string", "neg_cap": "string"},
        optional={"minor": "string"},
        size={"test": 500},
        paper="https://arxiv.org/abs/2410.02763",
        licence="none stated",
    )
    index_fields: ClassVar[tuple[str, ...]] = ("index",)
    questions_per_row: ClassVar[int] = 4
    orders: ClassVar[int] = 2  # captions in the text, clips in the video questions

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units not in UNITS:
            raise InvalidValueError("units", self.units, "clip or frame")

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row["index"]), str(row["index"])

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        direction, asked = DIRECTIONS[member // 2], member % 2
        captions = [str(row["pos_cap"]), str(row["neg_cap"])]
        turn = rotation(2, self.order)
        sides = (SIDES[asked],) if direction == "text" else tuple(SIDES[k] for k in turn)
        listed = [captions[k] for k in turn] if direction == "text" else captions
        clips = [self._clip(str(row["index"]), side) for side in sides]
        images, spans = self._arranged(clips)
        official = self.protocol == "official"
        ask = (official_prompt if official else strict_prompt)(
            direction, listed, asked, self.num_frames
        )
        group = f"{item.id}-{direction}"
        return Example(
            id=f"{group}-{asked}",
            images=images,
            question=IMAGE_PLACEHOLDER * len(images) + ("" if official else "\n") + ask,
            answer="AB"[turn.index(asked)],
            choices=("A", "B"),
            targets=spans if self.units == "clip" else tuple(k for span in spans for k in span),
            group=group,
            cluster=item.cluster,
            category=direction,
            metadata={
                "options": listed if direction == "text" else ["first", "second"],
                "asked": asked,
                "task": str(row["major"]),
                "minor": [name for name in (row.get("minor") or "").split(";") if name],
                "num_frames": self.num_frames,
            },
            system=SYSTEM if official else "",
            permutation=turn,
        )

    def _clip(self, index: str, side: str) -> tuple[Image.Image, ...]:
        if not self.videos:
            raise DatasetUnavailableError(
                "vinoground: its clips are not fetched by themselves; download and unpack "
                f"vinoground_videos.zip of {self.source.card} and pass the folder as "
                "benchmark.videos=/path/to/vinoground_videos"
            )
        path = Path(self.videos).expanduser() / f"{index}_{side}.mp4"
        indices = evenly_from_start if self.protocol == "official" else first_to_last
        return sample_frames(path, self.num_frames, indices)

    def _arranged(
        self, clips: list[tuple[Image.Image, ...]]
    ) -> tuple[tuple[Image.Image, ...], tuple[tuple[int, ...], ...]]:
        """All images in order, and which of them belong to each clip."""
        images: list[Image.Image] = []
        spans = []
        for clip in clips:
            if images and self.protocol == "strict":
                images.append(Image.new("RGB", clip[0].size))  # the black frame of the prompt
            spans.append(tuple(range(len(images), len(images) + len(clip))))
            images += clip
        return tuple(images), tuple(spans)

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": partial(score_official, fallback=True), "strict": score_strict}


def official_prompt(direction: str, captions: list[str], asked: int, frames: int) -> str:
    """The authors' question, without images."""
    if direction == "text":
        return (
            f"Does this video show: (A): {captions[0]} or (B): {captions[1]}? Answer with A or B."
        )
    return (
        f"The first {frames} frames are from Video A and the next {frames} frames are from Video "
        f'B. Which video better depicts: "{captions[asked]}"? Answer with A or B.'
    )


def strict_prompt(direction: str, captions: list[str], asked: int, frames: int) -> str:
    """The benchmark's question, without images."""
    if direction == "text":
        options = f"A. {captions[0]}\nB. {captions[1]}"
        return f"Which caption best describes this video?\n{options}\n{_LETTER}"
    return (
        "Which video segment matches this caption? Note: The video contains two segments separated "
        f"by a 2-second black frame.\nCaption: {captions[asked]}\n"
        f"A. {_SEGMENTS[0]}\nB. {_SEGMENTS[1]}\n{_LETTER}"
    )
