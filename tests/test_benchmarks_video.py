"""Vinoground: clips written here as mp4, decoded by the real code."""

from __future__ import annotations

import builtins
import importlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset

from focus.benchmarks.video import evenly_from_start, first_to_last, sample_frames
from focus.benchmarks.vinoground import Vinoground
from focus.errors import (
    DatasetUnavailableError,
    ImageError,
    InvalidValueError,
    MissingExtraError,
)

av = pytest.importorskip("av")
datasets.disable_progress_bars()

FRAMES = 24


def write_clip(path: Path, shades: list[int]) -> None:
    """A clip of flat grey frames of these shades."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.bit_rate = 4_000_000
        for shade in shades:
            pixels = np.full((16, 32, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def shade(image) -> float:
    return float(np.asarray(image).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve rows; the positive clips grow brighter, the negative ones darker."""
    root = tmp_path_factory.mktemp("vinoground")
    rising = [10 * i + 10 for i in range(FRAMES)]
    for index in range(12):
        write_clip(root / f"{index}_pos.mp4", rising)
        write_clip(root / f"{index}_neg.mp4", rising[::-1])
    rows = [
        {"index": i, "major": "action", "minor": "cyclical;spatial" if i else None,
         "pos_cap": f"{i} grows brighter", "neg_cap": f"{i} grows darker"}
        for i in range(12)
    ]  # fmt: skip
    Dataset.from_list(rows).save_to_disk(root / "rows")
    return root


def vinoground(folder: Path, **settings: object) -> Vinoground:
    known = {"part": "all", "path": str(folder / "rows"), "videos": str(folder), **settings}
    return Vinoground(**known)


def test_frames_stand_where_they_should(folder):
    clip = str(folder / "0_pos.mp4")
    for indices in (first_to_last, evenly_from_start):
        chosen = indices(FRAMES, 4)
        frames = sample_frames(clip, 4, indices)
        assert [image.size for image in frames] == [(32, 16)] * 4
        np.testing.assert_allclose(
            [shade(f) for f in frames], [10 * i + 10 for i in chosen], atol=6
        )


def test_which_frames_are_taken():
    assert evenly_from_start(300, 8) == [0, 37, 75, 112, 150, 187, 225, 262]
    for total, wanted in ((300, 8), (24, 5), (3, 8), (1, 4)):
        assert first_to_last(total, wanted) == np.linspace(0, total - 1, wanted, dtype=int).tolist()
        assert max(evenly_from_start(total, wanted)) < total
    assert first_to_last(9, 1) == [0]


def test_short_clips_repeat_frames(tmp_path):
    write_clip(tmp_path / "short.mp4", [40, 200])
    shades = [shade(frame) for frame in sample_frames(tmp_path / "short.mp4", 4)]
    np.testing.assert_allclose(shades, [40, 40, 40, 200], atol=6)


def test_a_clip_that_claims_more_frames_than_it_has(folder):
    """Asked beyond its end, the last frame stands in."""
    frames = sample_frames(folder / "0_pos.mp4", 2, lambda total, wanted: [0, 999])
    assert shade(frames[1]) == pytest.approx(10 * FRAMES, abs=6)


def test_four_questions_a_row(folder):
    examples = [e for e in vinoground(folder, num_frames=3) if e.cluster == "2"]
    assert [e.id for e in examples] == ["2-text-0", "2-text-1", "2-video-0", "2-video-1"]
    assert [e.category for e in examples] == ["text", "text", "video", "video"]
    assert [e.answer for e in examples] == ["A", "B", "A", "B"]
    assert all(e.question.count("<image>") == len(e.images) for e in examples)
    assert examples[0].metadata["minor"] == ["cyclical", "spatial"]
    rising = [shade(image) for image in examples[0].images]
    falling = [shade(image) for image in examples[1].images]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_strict_prompts_and_the_black_frame(folder):
    text, _, video, _ = (e for e in vinoground(folder, num_frames=3) if e.cluster == "2")
    assert text.question == (
        "<image><image><image>\nWhich caption best describes this video?\nA. 2 grows brighter\n"
        "B. 2 grows darker\nAnswer with the option's letter from the given choices directly.\n"
        "Please only output one English character."
    )
    assert "black frame.\nCaption: 2 grows brighter\nA. First segment (before" in video.question
    assert len(video.images) == 7
    assert [shade(video.images[k]) == 0 for k in range(7)] == [k == 3 for k in range(7)]
    assert text.system == ""


def test_official_prompts(folder):
    examples = list(vinoground(folder, protocol="official"))
    text, video = examples[1], examples[3]
    assert text.question == (
        "<image>" * 8 + "Does this video show: (A): 0 grows brighter or (B): 0 grows darker? "
        "Answer with A or B."
    )
    assert video.question == (
        "<image>" * 16 + "The first 8 frames are from Video A and the next 8 frames are from Video "
        'B. Which video better depicts: "0 grows darker"? Answer with A or B.'
    )
    assert video.system.startswith("You are an evaluator tasked with comparing video clips")


def test_frames_are_units_by_clip_or_singly(folder):
    text, _, video, _ = (e for e in vinoground(folder, num_frames=2) if e.cluster == "0")
    assert text.targets == ((0, 1),)
    assert video.targets == ((0, 1), (3, 4))  # image 2 is the black one
    official = list(vinoground(folder, num_frames=2, protocol="official"))[2]
    assert official.targets == ((0, 1), (2, 3))
    frames = list(vinoground(folder, num_frames=2, units="frame"))
    assert [frames[k].targets for k in (0, 2)] == [(0, 1), (0, 1, 3, 4)]


def test_missing_clips_say_where_they_come_from(folder, tmp_path):
    with pytest.raises(DatasetUnavailableError, match=r"vinoground_videos\.zip.*benchmark\.videos"):
        vinoground(folder, videos=None)[0]
    with pytest.raises(DatasetUnavailableError, match=r"there is no video .*0_pos\.mp4"):
        vinoground(folder, videos=str(tmp_path))[0]


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ImageError, match=r"text\.mp4' cannot be decoded"):
        sample_frames(tmp_path / "text.mp4", 2)
    with pytest.raises(InvalidValueError, match="num_frames=0"):
        sample_frames(tmp_path / "text.mp4", 0)


def test_without_pyav_the_extra_is_named(folder, monkeypatch):
    real = importlib.import_module

    def without_av(name: str, *args: object):
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without_av)
    with pytest.raises(MissingExtraError, match=r"'av' is needed.*\.\[video\]"):
        sample_frames(folder / "1_neg.mp4", 5)
    assert builtins.issubclass(MissingExtraError, ImportError)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"num_frames": 0}, "num_frames=0"), ({"units": "video"}, "units='video'.*clip or frame")],
)
def test_settings_are_checked(settings, expected):
    with pytest.raises(InvalidValueError, match=expected):
        Vinoground(**settings)
