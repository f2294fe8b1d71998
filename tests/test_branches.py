"""Which image is clean in which row, as a plan and as pictures; what each draw is keyed by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from focus.branches import Content, clean_plan, focus_plan, target_units
from focus.decoding import Focus, Request
from focus.decoding.shown import render
from focus.errors import InvalidValueError
from focus.noise import NOISE_TYPES, NoiseConfig, blend, noise_generator, noise_image

PLANS = {
    "sample": focus_plan(4),
    "branch": focus_plan(4, sharing="branch"),
    "run": focus_plan(4, sharing="run"),
    "targets": focus_plan(4, targets=[2, 0]),
    "group": focus_plan(4, targets=[(0, 3), 1]),
}


def shown(plan, request, noise=None, **kwargs):
    """``[row][slot]``: the pixels that the model is shown."""
    images = render(plan, request, noise or NoiseConfig(), **kwargs)
    return [[images[content].tobytes() for content in row] for row in plan.rows]


@pytest.mark.parametrize("name", PLANS)
def test_a_branch_masks_every_image_but_its_own(name, ask):
    plan, request = PLANS[name], ask(4)
    clean = [image.tobytes() for image in request.images]
    reference, *branches = shown(plan, request)
    assert all(pixels != original for pixels, original in zip(reference, clean, strict=True))
    for unit, branch in zip(plan.units, branches, strict=True):
        kept = tuple(k for k in range(4) if branch[k] == clean[k])
        assert kept == tuple(sorted(unit))


def test_the_reference_holds_no_clean_pixel(ask):
    """Pure noise even where the branches blend: it may depend on an image's size, not on it."""
    request = ask(3)
    other = tuple(image.transpose(0) for image in request.images)
    swapped = Request(other, request.question, request.sample_id)
    for scale, sharing in itertools.product((1.0, 0.3), ("branch", "sample", "run")):
        noise = NoiseConfig(scale=scale)
        plan = focus_plan(3, sharing=sharing, scale=scale)
        one, two = shown(plan, request, noise), shown(plan, swapped, noise)
        assert one[0] == two[0]
        assert one[1] != two[1]  # control: branches do show the images


def test_blends_mix_image_and_noise_at_the_scale(ask):
    request, noise = ask(2), NoiseConfig(scale=0.25)
    plan = focus_plan(2, scale=0.25)
    images = render(plan, request, noise)
    drawn = noise_image(noise.name, request.images[1], noise_generator(0, "sample", 1, None))
    mixed = images[Content(1, "blend")]
    assert mixed.tobytes() == blend(request.images[1], drawn, scale=0.25).tobytes()
    assert images[Content(1, "noise")].tobytes() == drawn.tobytes()
    assert plan.rows == (
        (Content(0, "noise"), Content(1, "noise")),
        (Content(0, "clean"), Content(1, "blend")),
        (Content(0, "blend"), Content(1, "clean")),
    )


@pytest.mark.parametrize(
    ("sharing", "across_rows", "across_samples"),
    [("branch", False, False), ("sample", True, False), ("run", True, True)],
)
def test_noise_is_shared_exactly_as_far_as_its_scope(ask, sharing, across_rows, across_samples):
    plan = focus_plan(3, sharing=sharing)
    per_run = sharing == "run"
    rows = shown(plan, ask(3), per_run=per_run)
    masked = {slot: {row[slot] for k, row in enumerate(rows) if k != slot + 1} for slot in range(3)}
    assert all(len(seen) == (1 if across_rows else 3) for seen in masked.values())
    other = shown(plan, ask(3, sample_id="other"), per_run=per_run)
    assert (rows[0] == other[0]) == across_samples
    assert not set(rows[0]) & {pixels for row in rows[1:] for pixels in row} or across_rows
    seeded = shown(plan, ask(3), NoiseConfig(seed=1), per_run=per_run)
    assert not set(rows[0]) & set(seeded[0])  # another seed, another noise, whatever the scope


def test_equal_images_get_noise_of_their_own_in_every_slot(images):
    request = Request((images[0],) * 3, "what", "sample")
    for sharing in ("branch", "sample", "run"):
        rows = shown(focus_plan(3, sharing=sharing), request, per_run=sharing == "run")
        assert len(set(rows[0])) == 3


def test_noise_does_not_depend_on_the_order_of_samples_or_slots(ask):
    plan = focus_plan(3)
    forwards = {name: shown(plan, ask(3, sample_id=name)) for name in "abc"}
    backwards = {name: shown(plan, ask(3, sample_id=name)) for name in "cba"}
    assert forwards == backwards
    assert len({str(rows) for rows in forwards.values()}) == 3
    # Fewer targets, same noise: a draw is keyed by its slot, not by how many came before it.
    fewer = shown(focus_plan(3, targets=[2]), ask(3, sample_id="a"))
    assert fewer[0] == forwards["a"][0]
    assert fewer[1] == forwards["a"][3]


@pytest.mark.parametrize("name", [n for n, kind in NOISE_TYPES.items() if kind.content_dependent])
def test_noise_that_shows_the_image_differs_between_images_in_a_run(ask, name):
    plan = focus_plan(2, sharing="run")
    request = ask(2)
    flipped = Request(tuple(image.transpose(1) for image in request.images), "what", "sample")
    noise = NoiseConfig(name)
    one, other = (shown(plan, r, noise, per_run=True) for r in (request, flipped))
    assert one[0][0] != other[0][0]


class TestPlans:
    def test_of_two_images(self):
        z1, z2, i1, i2 = (Content(k, kind) for kind in ("noise", "clean") for k in range(2))
        plan = focus_plan(2)
        assert plan.rows == ((z1, z2), (i1, z2), (z1, i2))
        assert plan.contents == (z1, z2, i1, i2)
        assert plan.labels == ("reference", "image 1", "image 2")
        assert plan.has_reference

    def test_labels_name_groups_and_count_from_one(self):
        assert focus_plan(4, targets=[(2, 3), 0]).labels == ("reference", "image 3+4", "image 1")

    def test_plain_decoding_has_one_clean_row(self):
        plan = clean_plan(3)
        assert plan.rows == (tuple(Content(k, "clean") for k in range(3)),)
        assert not plan.has_reference
        assert plan.labels == ("image 1+2+3",)

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_number_of_distinct_images(self, n):
        assert len(focus_plan(n).contents) == 2 * n
        assert len(focus_plan(n, sharing="branch").contents) == n + n * n
        assert len(focus_plan(n, targets=[0]).contents) == n + 1

    def test_the_strategy_asks_for_the_plan_it_is_set_to(self, ask):
        request = ask(4, targets=((0, 3), 1))
        assert Focus().plan(request) == focus_plan(4)
        assert Focus(targets="named").plan(request) == focus_plan(4, targets=((0, 3), 1))
        assert Focus(targets="named").plan(ask(4)) == focus_plan(4)
        assert Focus(targets="named").plan(ask(4, targets=())) == focus_plan(4)
        assert Focus(sharing="branch").plan(request) == focus_plan(4, sharing="branch")
        blended = Focus(noise=NoiseConfig(scale=0.5))
        assert blended.plan(request) == focus_plan(4, scale=0.5)


class TestTargets:
    def test_all_single_or_grouped(self):
        assert target_units(3, None) == ((0,), (1,), (2,))
        assert target_units(3, [2, 0]) == ((2,), (0,))
        assert target_units(5, ([0, 1], 4, (2, 3))) == ((0, 1), (4,), (2, 3))

    @pytest.mark.parametrize(
        "targets",
        [[], [()], [3], [-1], [0, 0], [(0, 1), 1], [True], [1.0], ["0"], "01", 1, [None], [[[0]]]],
        ids=str,
    )
    def test_anything_else_is_refused_by_name(self, targets, images):
        with pytest.raises(InvalidValueError, match=r"targets=.*indices from 0 to 2"):
            target_units(3, targets)
        if targets != []:  # none named: all are meant
            with pytest.raises(InvalidValueError, match="targets="):
                Request(images[:3], "what", "sample", targets=targets)

    def test_arrays_are_refused_too(self):
        with pytest.raises(InvalidValueError, match="targets="):
            target_units(3, np.array([0, 1]))
        with pytest.raises(InvalidValueError, match="targets="):
            target_units(3, [np.int64(1)])

    def test_no_images_or_an_unknown_scope(self):
        with pytest.raises(InvalidValueError, match=r"num_images=0 .* at least 1"):
            focus_plan(0)
        with pytest.raises(InvalidValueError, match=r"sharing='batch' .* branch, sample, run"):
            focus_plan(2, sharing="batch")
