"""The embedded worlds: keyed, complete, and without anything in common between their splits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from focus.errors import InvalidValueError, UnknownNameError
from focus.randomness import generator
from focus.worlds import SIZE, SPLITS, WORLDS, AbstractWorld, Truth, world_of
from focus.worlds import photos as photos_module
from focus.worlds.clips import Clips
from focus.worlds.digits import Digits, scans
from focus.worlds.photos import Photos, photo, regions
from focus.worlds.scenes import COLORS


@pytest.fixture(params=list(WORLDS))
def world(request: pytest.FixtureRequest) -> AbstractWorld:
    return WORLDS[request.param]


def pixels(
    world: AbstractWorld, truth: Truth, *, seed: int = 0, split: str = "train", index: int | str = 0
) -> np.ndarray:
    """A view as [frames, size, size, 3]."""
    views = world.view(truth, seed=seed, split=split, index=index)
    return np.stack([np.asarray(view) for view in views]).astype(int)


def nearest_color(view: np.ndarray, names: tuple[str, ...]) -> str:
    """The colour of the pixel that is closest to any of `names`: found from the picture alone."""
    distances = {n: np.linalg.norm(view - np.array(COLORS[n]), axis=-1) for n in names}
    return min(distances, key=lambda name: float(np.quantile(distances[name], 0.01)))


# --- every world -----------------------------------------------------------------------------


def test_worlds_go_by_their_names():
    assert set(WORLDS) == {"scenes", "digits", "photos", "clips"}
    assert all(world_of(name).name == name for name in WORLDS)
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        world_of("digit")


def test_truths_are_all_combinations_and_differ(world: AbstractWorld):
    expected = int(np.prod([len(values) for values in world.attributes.values()]))
    assert len(world.truths) == expected
    assert len({world.description(truth) for truth in world.truths}) == expected


def test_every_truth_can_be_shown(world: AbstractWorld):
    for truth in world.truths:
        views = world.view(truth, seed=0, split="dev", index=1)
        assert len(views) == world.frames
        for view in views:
            assert (view.size, view.mode) == ((SIZE, SIZE), "RGB")
            assert np.asarray(view).std() > 3, truth  # something is to be seen


def test_a_view_depends_on_its_key_and_on_nothing_else(world: AbstractWorld):
    for truth in (world.truths[0], world.truths[-1]):
        key = {"seed": 3, "split": "train", "index": 7}
        view = pixels(world, truth, **key)
        world.view(world.truths[1], seed=9, split="test", index=0)  # what is drawn between is moot
        np.testing.assert_array_equal(view, pixels(world, truth, **key))
        for other in ({"seed": 4}, {"split": "dev"}, {"split": "test"}, {"index": 8}):
            assert not np.array_equal(view, pixels(world, truth, **(key | other))), other
        assert not np.array_equal(view, pixels(world, truth, **(key | {"index": "7"})))


@pytest.mark.parametrize("other", [{"split": "dev"}, {"split": "test"}, {"seed": 1}])
def test_views_of_one_number_are_unrelated(world: AbstractWorld, other: dict):
    """Not the same view with other grain: everything that no attribute names is drawn anew."""
    distances = []
    for index in range(30):
        truth = world.truths[index % len(world.truths)]
        view = pixels(world, truth, index=index)
        distances.append(np.abs(view - pixels(world, truth, index=index, **other)).mean())
    assert np.mean(distances) > 15  # grain alone: 4


def test_a_view_depends_on_every_attribute(world: AbstractWorld):
    truth = world.truths[0]
    for attribute, values in world.attributes.items():
        changed = {**truth, attribute: values[-1]}
        assert not np.array_equal(pixels(world, truth), pixels(world, changed)), attribute


def test_words(world: AbstractWorld):
    """Values are single lower-case words, and captions and descriptions contain each of them."""
    for values in world.attributes.values():
        assert len(set(values)) == len(values)
        assert all(value.isascii() and value.isalpha() and value.islower() for value in values)
    for truth in world.truths:
        caption = world.caption(truth).split()
        assert all(caption.count(value) >= 1 for value in truth.values()), caption
        assert all(word == "," or (word.isalpha() and word.islower()) for word in caption)
        assert world.description(truth).split() == list(truth.values())
    assert len({world.caption(truth) for truth in world.truths}) == len(world.truths)


def test_what_a_world_lacks_is_refused(world: AbstractWorld):
    good = world.truths[0]
    attribute, *others = good
    for bad in (
        {**good, attribute: "plaid"},
        {other: good[other] for other in others},
        {**good, "mood": "happy"},
    ):
        with pytest.raises(InvalidValueError):
            world.view(bad, seed=0, split="train", index=0)
    with pytest.raises(InvalidValueError, match="split='validation'"):
        world.view(good, seed=0, split="validation", index=0)


def test_counterparts_differ_and_belong_to_the_world(world: AbstractWorld):
    rng = np.random.default_rng(0)
    for truth in world.truths:
        for attribute in world.attributes:
            other = world.counterpart(truth, attribute, rng)
            assert other in world.truths
            assert other[attribute] != truth[attribute]


@pytest.mark.parametrize("name", ["scenes", "digits", "photos"])
def test_thousands_of_views_are_all_different(name: str):
    world = WORLDS[name]
    seen = {
        world.view(world.truths[i % len(world.truths)], seed=1, split="train", index=i)[0].tobytes()
        for i in range(2000)
    }
    assert len(seen) == 2000


# --- digits ----------------------------------------------------------------------------------


def test_digit_scans_are_split_without_overlap_or_loss():
    digits = Digits.attributes["digit"]
    rows = [row for split in SPLITS for digit in digits for row in scans(split, digit)]
    assert sorted(rows) == list(range(1797))
    for digit in digits:
        train, dev, test = (len(scans(split, digit)) for split in SPLITS)
        assert train == pytest.approx(0.6 * (train + dev + test), abs=1)
        assert dev == pytest.approx(test, abs=1)


def test_digit_scans_show_the_digit():
    from sklearn.datasets import load_digits

    labels = load_digits().target
    for number, digit in enumerate(Digits.attributes["digit"]):
        assert {int(labels[row]) for split in SPLITS for row in scans(split, digit)} == {number}


def test_digits_show_scans_of_their_split(monkeypatch: pytest.MonkeyPatch):
    """Scans are exchanged for opacities that tell which scan was used."""
    from focus.worlds import digits

    plain = tuple(Image.new("L", (8, 8), 255) for _ in range(1797))
    used: list[int] = []

    class Recorder(tuple):
        def __getitem__(self, row):
            used.append(row)
            return super().__getitem__(row)

    monkeypatch.setattr(digits, "_masks", lambda: Recorder(plain))
    for split in SPLITS:
        used.clear()
        for index in range(150):
            Digits().view({"digit": "six", "color": "red"}, seed=0, split=split, index=index)
        assert set(used) <= set(scans(split, "six"))
        assert len(set(used)) > 20  # and many of them, not one


def test_ink_has_its_colour_and_stands_out():
    world = Digits()
    right = 0
    for index in range(200):
        truth = world.truths[index % len(world.truths)]
        view = pixels(world, truth, split="dev", index=index)[0]
        right += nearest_color(view, world.attributes["color"]) == truth["color"]
        border = np.median(np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]]), axis=0)
        distance = np.linalg.norm(view - border, axis=-1)
        assert np.quantile(distance, 0.95) > 80, truth
    assert right >= 195


# --- photos ----------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", Photos.attributes["subject"])
def test_regions_share_no_pixel(subject: str):
    height, width = photo(subject).shape[:2]
    painted = np.zeros((height, width), dtype=int)
    for split in SPLITS:
        assert regions(split, subject)
        for top, left, bottom, right in regions(split, subject):
            assert 0 <= top < bottom <= height
            assert 0 <= left < right <= width
            painted[top:bottom, left:right] += 1
    assert painted.max() == 1


def test_regions_are_mostly_for_training():
    for subject in Photos.attributes["subject"]:
        train, dev, test = (len(regions(split, subject)) for split in SPLITS)
        total = train + dev + test
        assert 0.55 <= train / total <= 0.65
        assert min(dev, test) / total >= 0.15


def split_map(subject: str) -> np.ndarray:
    """A photograph whose grey value says whose pixel it is: 0 nobody's, 80 train, 160 dev, ..."""
    pixels = np.zeros_like(photo(subject))
    for number, split in enumerate(SPLITS, start=1):
        for top, left, bottom, right in regions(split, subject):
            pixels[top:bottom, left:right] = 80 * number
    return pixels


@pytest.mark.parametrize("subject", Photos.attributes["subject"])
def test_crops_stay_within_the_regions_of_their_split(
    subject: str, monkeypatch: pytest.MonkeyPatch
):
    """Where the photograph says whose each pixel is, a view has the one value of its split."""
    coded = split_map(subject)
    monkeypatch.setattr(photos_module, "photo", lambda _: coded)
    monkeypatch.setattr(  # light would move the values
        photos_module, "_lit", lambda pixels, mean: Image.fromarray(pixels.astype(np.uint8))
    )
    truth = {"subject": subject, "light": "dark"}
    for number, split in enumerate(SPLITS, start=1):
        for index in range(40):
            view = pixels(Photos(), truth, split=split, index=index)
            assert set(np.unique(view)) == {80 * number}, (split, index)


def test_a_crop_across_regions_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    """Positive control of the test above: regions one pixel too wide."""
    coded = split_map("brick")
    monkeypatch.setattr(photos_module, "photo", lambda _: coded)
    monkeypatch.setattr(
        photos_module, "_lit", lambda pixels, mean: Image.fromarray(pixels.astype(np.uint8))
    )
    monkeypatch.setattr(photos_module, "_LEAST_SIDE", 1.0)
    true_regions = regions("dev", "brick")
    wider = tuple((top, left - 1, bottom, right) for top, left, bottom, right in true_regions)
    monkeypatch.setattr(photos_module, "regions", lambda split, subject: wider)
    truth = {"subject": "brick", "light": "dark"}
    values = {
        v for i in range(20) for v in np.unique(pixels(Photos(), truth, split="dev", index=i))
    }
    assert values != {160}


def test_light_is_told_by_brightness():
    world = Photos()
    luminance = np.array([0.299, 0.587, 0.114])
    for index, truth in enumerate(list(world.truths) * 6):
        mean = (pixels(world, truth, split="train", index=index) @ luminance).mean()
        # 12 of jitter, 1 of rounding: what is clipped must be made up for
        assert mean == pytest.approx(170 if truth["light"] == "bright" else 70, abs=13.2), truth


def test_every_subject_has_a_domain():
    world = Photos()
    domains = {truth["subject"]: world.domain(truth) for truth in world.truths}
    assert set(domains.values()) == {"medical", "astronomy", "texture", "everyday"}
    assert domains["retina"] == "medical"
    assert domains["galaxy"] == "astronomy"
    assert domains["brick"] == "texture"
    assert domains["coffee"] == "everyday"
    scene = WORLDS["scenes"]
    assert scene.domain(scene.truths[0]) == "scenes"


# --- clips -----------------------------------------------------------------------------------


def foreground(clip: np.ndarray) -> np.ndarray:
    """Where something else than the background is, [frames, size, size]."""
    ground = np.median(clip, axis=(0, 1, 2))
    return np.abs(clip - ground).max(axis=-1) > 40


def center(mask: np.ndarray) -> np.ndarray:
    """Row and column of the middle of a mask."""
    return np.argwhere(mask).mean(axis=0)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("rightward", 1, 1), ("leftward", 1, -1), ("downward", 0, 1), ("upward", 0, -1)],
)
def test_shapes_move_as_said(motion: str, axis: int, sign: int):
    for index in range(20):
        truth = {"motion": motion, "start": "red", "end": "red"}
        masks = foreground(pixels(Clips(), truth, index=index))
        way = np.array([center(mask) for mask in masks])
        assert (sign * np.diff(way[:, axis]) > 1).all()
        assert np.ptp(way[:, 1 - axis]) < 1
        assert np.ptp(way[:, axis]) > SIZE / 2


def test_shapes_grow_and_shrink_as_said():
    for index in range(20):
        truth = {"motion": "appearing", "start": "blue", "end": "blue"}
        sizes = foreground(pixels(Clips(), truth, index=index)).sum(axis=(1, 2))
        assert sizes[0] >= 3  # seen from the first frame on
        assert (np.diff(sizes) >= 0).all()
        assert sizes[-1] > 5 * sizes[0]


def test_both_colors_are_seen_in_their_half():
    for truth in Clips().truths:
        clip = pixels(Clips(), truth, split="test", index=5)
        masks = foreground(clip)
        for frame, name in ((2, truth["start"]), (5, truth["end"])):
            shape = np.median(clip[frame][masks[frame]], axis=0)
            nearest = min(COLORS, key=lambda c: float(np.linalg.norm(shape - COLORS[c])))
            assert nearest == name, truth


@pytest.mark.parametrize("attribute", ["motion", "start", "end"])
def test_counterparts_play_the_clip_backwards(attribute: str):
    """Reversed in `attribute` alone; both reversals together are the clip backwards, but grain."""
    world = Clips()
    for number, truth in enumerate(world.truths):
        rng = generator(0, number)
        other = world.counterpart(truth, attribute, rng)
        changed = {a for a in truth if truth[a] != other[a]}
        if attribute == "motion":
            assert changed == {"motion"}
            assert world.counterpart(other, "motion", rng) == truth
            backwards = world.counterpart(other, "start", rng)
        elif truth["start"] == truth["end"]:
            assert changed == {attribute}
            continue
        else:
            assert changed == {"start", "end"}
            assert world.counterpart(other, attribute, rng) == truth
            backwards = world.counterpart(other, "motion", rng)
        if truth["start"] == truth["end"]:
            backwards = other
        clip = pixels(world, truth, index=3)
        distance = np.abs(clip[::-1] - pixels(world, backwards, index=3)).mean()
        assert distance < 8, truth  # grain of two clips; a shape elsewhere would be far more


def test_a_clip_is_not_its_own_reverse():
    """Positive control of the test above, where the distance is smallest: of growing dots."""
    for truth in Clips().truths:
        clip = pixels(Clips(), truth, index=3)
        shape = foreground(clip) | foreground(clip)[::-1]
        difference = np.abs(clip - clip[::-1]).max(axis=-1)
        assert (difference[shape] > 40).mean() > 0.3, truth
