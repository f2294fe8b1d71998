"""The embedded benchmarks: exact truth, stable identity, and no image in two splits."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from focus.benchmarks.shapes import IndexedQuestion, MinimalPair, SingleImage
from focus.errors import InvalidValueError
from focus.zoo.bank import build_bank
from focus.zoo.questions import LETTERS, MAX_IMAGES, ORDINALS
from focus.zoo.world import ATTRIBUTES, SIZE, SPLITS, TRUTHS, scene

BENCHMARKS = [
    SingleImage(size=12),
    IndexedQuestion(size=12),
    IndexedQuestion(size=9, num_images=MAX_IMAGES, similarity=2),
    MinimalPair(size=6, direction="both"),
]


def digest(image) -> str:
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def difference(a, b) -> set[str]:
    return {name for name in ATTRIBUTES if a[name] != b[name]}


def test_a_scene_depends_on_its_key_and_on_nothing_else():
    """A scene drawn after others must be the scene that is drawn first."""
    first = scene(TRUTHS[5], seed=0, split="test", index=3)
    scene(TRUTHS[6], seed=0, split="test", index=4)
    assert digest(scene(TRUTHS[5], seed=0, split="test", index=3)) == digest(first)
    others = [
        scene(TRUTHS[5], seed=1, split="test", index=3),
        scene(TRUTHS[5], seed=0, split="dev", index=3),
        scene(TRUTHS[5], seed=0, split="test", index=4),
    ]
    assert len({digest(image) for image in [first, *others]}) == 4
    assert first.size == (SIZE, SIZE)
    assert first.mode == "RGB"


@pytest.mark.parametrize("place", ATTRIBUTES["place"])
def test_the_shape_stands_where_the_truth_says(place):
    """Against a flat average of many backgrounds, the coloured pixels lie on the named side."""
    truths = [truth for truth in TRUTHS if truth["place"] == place and truth["color"] == "red"]
    mass = np.zeros((SIZE, SIZE))
    for i, truth in enumerate(truths * 5):
        pixels = np.asarray(scene(truth, seed=0, split="dev", index=i), dtype=float)
        mass += pixels[..., 0] - pixels[..., 1:].mean(-1) > 60  # clearly red
    rows, columns = (np.average(grid, weights=mass) for grid in np.indices(mass.shape))
    offset = {"top": -rows, "bottom": rows, "left": -columns, "right": columns}[place]
    center = SIZE / 2 * (1 if place in ("bottom", "right") else -1)
    assert offset - center > 3


def test_no_image_occurs_in_two_splits():
    """Test images that a model was trained on would measure memory, not sight."""
    seen = {
        split: {
            digest(image)
            for benchmark in (SingleImage, IndexedQuestion, MinimalPair)
            for example in benchmark(split=split, size=40)
            for image in example.images
        }
        for split in SPLITS
    }
    seen["bank"] = {digest(pixels) for pixels in build_bank(seed=0, per_truth=5).pixels}
    assert all(len(hashes) > 100 for hashes in seen.values())
    for a, b in itertools.combinations(seen, 2):
        assert not seen[a] & seen[b], (a, b)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda b: f"{b.name}-{len(b)}")
def test_examples_are_the_same_every_time(benchmark):
    forwards = list(benchmark)
    backwards = [benchmark[i] for i in reversed(range(len(benchmark)))][::-1]
    assert len({example.id for example in forwards}) == len(benchmark)
    for a, b in zip(forwards, backwards, strict=True):
        assert (a.id, a.question, a.answer, a.choices) == (b.id, b.question, b.answer, b.choices)
        assert [digest(x) for x in a.images] == [digest(x) for x in b.images]
    with pytest.raises(IndexError):
        benchmark[len(benchmark)]


def test_ids_differ_between_settings():
    """Records of several settings may lie in one file; an id names one question."""
    settings = [
        SingleImage(size=3),
        SingleImage(size=3, split="dev"),
        SingleImage(size=3, seed=1),
        IndexedQuestion(size=3),
        IndexedQuestion(size=3, similarity=0),
        IndexedQuestion(size=3, num_images=3),
        MinimalPair(size=3, direction="both"),
    ]
    ids = [example.id for benchmark in settings for example in benchmark]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda b: f"{b.name}-{len(b)}")
def test_every_image_is_announced_by_its_ordinal(benchmark):
    for example in benchmark:
        for ordinal in ORDINALS[: len(example.images)]:
            assert f"{ordinal} image : <image>" in example.question


@pytest.mark.parametrize("num_images", [2, 5, MAX_IMAGES])
@pytest.mark.parametrize("similarity", [0, 1, 2])
def test_indexed_answers_and_distractors_are_true(num_images, similarity):
    for example in IndexedQuestion(size=48, num_images=num_images, similarity=similarity):
        (target,) = example.targets
        attribute = example.metadata["attribute"]
        others = [t for i, t in enumerate(example.truths) if i != target]
        assert example.answer == example.truths[target][attribute]
        assert f"in the {ORDINALS[target]} image , what is the {attribute} ?" in example.question
        assert set(example.distractors) == {truth[attribute] for truth in others}
        assert example.answer not in example.distractors
        assert set(example.distractors) < set(example.choices) == set(ATTRIBUTES[attribute])
        for other in others:
            assert len(difference(example.truths[target], other)) == len(ATTRIBUTES) - similarity


def test_indexed_questions_ask_for_every_image_equally_often():
    targets = [example.targets[0] for example in IndexedQuestion(size=24, num_images=3)]
    assert [targets.count(k) for k in range(3)] == [8, 8, 8]


def test_minimal_pairs_differ_in_one_attribute_and_ask_for_both():
    examples = iter(MinimalPair(size=12, direction="both"))
    for pair in zip(*[examples] * 4, strict=True):
        first, second, *texts = pair
        assert len({example.cluster for example in pair}) == 1
        assert first.group == second.group != texts[0].group == texts[1].group
        assert [example.category for example in pair] == ["image", "image", "text", "text"]
        assert len(difference(*first.truths)) == 1
        assert [digest(x) for x in first.images] == [digest(x) for x in second.images]
        assert (first.answer, second.answer) == ORDINALS[:2]
        for k, (image, text) in enumerate(zip((first, second), texts, strict=True)):
            truth = first.truths[k]
            words = f"{truth['color']} {truth['shape']}"
            assert f"shows a {words} at the {truth['place']} ?" in image.question
            assert [digest(x) for x in text.images] == [digest(first.images[k])]
            assert text.answer == LETTERS[k]
            assert f"{LETTERS[k]} {words} {truth['place']}" in text.question


def test_single_image_answers_are_true():
    answers = set()
    for example in SingleImage(size=90):
        value = example.truths[0][example.metadata["attribute"]]
        words = example.question.split()
        if example.category == "name":
            assert example.answer == value
        elif example.category == "yes_no":
            assert (words[-2] == value) == (example.answer == "yes")
        else:
            assert words[words.index(example.answer) + 1] == value
        answers.add(example.answer)
    assert {"yes", "no", "A", "B", "C", "D"} <= answers  # controls: no answer is constant


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SingleImage(split="validation"), "split"),
        (lambda: SingleImage(size=0), "size"),
        (lambda: SingleImage(size=True), "size"),
        (lambda: SingleImage(seed=-1), "seed"),
        (lambda: IndexedQuestion(num_images=1), "num_images"),
        (lambda: IndexedQuestion(num_images=9), "num_images"),
        (lambda: IndexedQuestion(similarity=3), "similarity"),
        (lambda: MinimalPair(direction="audio"), "direction"),
        (lambda: scene({"color": "red"}, seed=0, split="test", index=0), "truth"),
        (lambda: scene(TRUTHS[0] | {"color": "pink"}, seed=0, split="test", index=0), "color"),
        (lambda: scene(TRUTHS[0], seed=0, split="tset", index=0), "split"),
    ],
)
def test_bad_values_are_named(make, name):
    with pytest.raises(InvalidValueError) as error:
        make()
    assert error.value.name == name
