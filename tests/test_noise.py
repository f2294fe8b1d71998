"""Promises that every noise type keeps, and the published definitions, recomputed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import skimage.util
import torch
from PIL import Image

from focus.errors import ImageError, InvalidValueError, UnknownNameError
from focus.noise import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NOISE_TYPES,
    NoiseConfig,
    blend,
    diffusion_alpha_bar,
    noise_generator,
    noise_image,
    published_blend,
)

ALL = list(NOISE_TYPES)
PUBLISHED = ["black", "white", "gray", "random", "gaussian", "uniform"]
PUBLISHED += ["imagenet+gaussian", "imagenet+uniform", "imagenet+diffusion"]
PUBLISHED += ["shot", "impulse", "speckle"]
FORGETFUL = ["imagenet+diffusion", "shot", "impulse", "speckle"]


def picture(width: int = 48, height: int = 32, *, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def pixels(name: str, image: Image.Image, *key: int, severity: int = 3) -> np.ndarray:
    rng = noise_generator(*(key or (0,)), "sample", 0, None)
    return np.asarray(noise_image(name, image, rng, severity=severity))


def test_the_published_types_are_all_there():
    assert [name for name in ALL if NOISE_TYPES[name].published] == PUBLISHED
    assert {f"{name}-corrected" for name in FORGETFUL} < set(ALL)
    assert all(NOISE_TYPES[name].name == name for name in ALL)


@pytest.mark.parametrize("name", ALL)
class TestEveryType:
    @pytest.mark.parametrize("size", [(48, 32), (5, 17), (1, 1)])
    def test_keeps_size_and_mode(self, name, size):
        made = noise_image(name, picture(*size), np.random.default_rng(0))
        assert (made.size, made.mode) == (size, "RGB")
        assert np.asarray(made).dtype == np.uint8

    def test_equal_keys_equal_noise_other_keys_other_noise(self, name):
        image = picture()
        np.testing.assert_array_equal(pixels(name, image, 0), pixels(name, image, 0))
        same = np.array_equal(pixels(name, image, 0), pixels(name, image, 1))
        assert same == NOISE_TYPES[name].constant

    def test_leaves_the_image_and_the_global_generators_alone(self, name):
        image, copy = picture(), picture()
        numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002 - it is what must not move
        torch_before = torch.get_rng_state()
        pixels(name, image)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_before)
        assert image.tobytes() == copy.tobytes()

    def test_says_truly_whether_it_depends_on_the_image(self, name):
        one, other = picture(seed=1), picture(seed=2)
        differs = not np.array_equal(pixels(name, one), pixels(name, other))
        assert differs == NOISE_TYPES[name].content_dependent

    def test_distorts_more_at_higher_severity_or_not_at_all(self, name):
        image = picture(96, 96)
        clean = np.asarray(image) / 255
        if NOISE_TYPES[name].published:  # these show the clipped normalised image
            clean = np.clip((clean - IMAGENET_MEAN) / IMAGENET_STD, 0, 1)
        made = [pixels(name, image, severity=severity) / 255 for severity in range(1, 6)]
        distortion = [np.abs(m - clean).mean() for m in made]
        if NOISE_TYPES[name].uses_severity:
            assert all(low < 0.95 * high for low, high in itertools.pairwise(distortion))
        else:
            assert len(set(distortion)) == 1

    def test_blends_exactly_at_both_ends(self, name):
        image = picture()
        noise = noise_image(name, image, np.random.default_rng(0))
        assert blend(image, noise, scale=0).tobytes() == image.tobytes()
        assert blend(image, noise, scale=1).tobytes() == noise.tobytes()


@pytest.mark.parametrize(("name", "level"), [("black", 0), ("white", 255), ("gray", 127)])
def test_constant_levels(name, level):
    assert (pixels(name, picture()) == level).all()


@pytest.mark.parametrize(("name", "mean"), [("random", 127.5), ("uniform", 127.0)])
def test_pixel_noise_covers_all_levels_evenly(name, mean):
    made = pixels(name, picture(256, 256))
    assert (made.min(), made.max()) == (0, 255 if name == "random" else 254)  # cut, not rounded
    assert made.mean() == pytest.approx(mean, abs=1.0)


def test_imagenet_uniform_is_nearly_flat_light_grey():
    """U(0, 1) in normalised space reaches from the ImageNet mean to mean + std only."""
    made = pixels("imagenet+uniform", picture(256, 256)).reshape(-1, 3)
    low, high = [0.485, 0.456, 0.406], [0.714, 0.680, 0.631]
    np.testing.assert_array_equal(made.min(axis=0), np.floor(255 * np.array(low)))
    np.testing.assert_array_equal(made.max(axis=0), np.floor(255 * np.array(high)))


def test_imagenet_gaussian_has_the_statistics_of_imagenet():
    made = pixels("imagenet+gaussian", picture(256, 256)).reshape(-1, 3) / 255
    np.testing.assert_allclose(made.mean(axis=0), IMAGENET_MEAN, atol=0.01)
    np.testing.assert_allclose(made.std(axis=0), IMAGENET_STD, atol=0.02)


def test_gaussian_is_half_black_and_a_sixth_white():
    """Clipping N(0, 1) to [0, 1]: P(<= 0) = 1/2 (a little more when cut) and P(>= 1) = 0.159."""
    made = pixels("gaussian", picture(256, 256))
    assert (made == 0).mean() == pytest.approx(0.5016, abs=0.005)
    assert (made == 255).mean() == pytest.approx(0.1587, abs=0.005)


@pytest.mark.parametrize("name", FORGETFUL)
def test_correction_keeps_what_lies_below_the_mean(name):
    image = picture(96, 96)
    published, corrected = pixels(name, image), pixels(f"{name}-corrected", image)
    assert (published != corrected).mean() > 0.3
    # Everything darker than the ImageNet mean is cut to black, unless the normalisation is undone.
    below_mean = Image.new("RGB", (32, 32), (100, 100, 100))
    assert (pixels(name, below_mean) == 0).mean() > 0.4
    assert (pixels(f"{name}-corrected", below_mean) == 0).mean() < 0.1


def test_diffusion_by_hand():
    """VCD's schedule as a plain loop; at the last step sqrt(abar) = 0.285, so the image shows."""
    left = 1.0
    for step in range(1000):
        beta = 1e-5 + (5e-3 - 1e-5) / (1 + math.exp(-(-6 + 12 * step / 999)))
        left *= 1 - beta
        if step in (0, 500, 999):
            assert diffusion_alpha_bar(step) == pytest.approx(left, rel=1e-12)
    assert math.sqrt(left) == pytest.approx(0.285, abs=5e-4)
    flat = Image.new("RGB", (256, 256), (150, 150, 150))
    made = pixels("imagenet+diffusion-corrected", flat).reshape(-1, 3) / 255
    expected = math.sqrt(left) * (150 / 255 - IMAGENET_MEAN) + IMAGENET_MEAN
    np.testing.assert_allclose(made.mean(axis=0), expected, atol=0.01)


@pytest.mark.parametrize("step", [-1, 1000, True, 2.0])
def test_diffusion_step_outside_the_schedule(step):
    with pytest.raises(InvalidValueError, match=r"^step=.* must be "):
        diffusion_alpha_bar(step)


def test_impulse_follows_skimage():
    """The authors call `skimage.util.random_noise`; same draws, so the same picture."""
    image = picture()
    unit = np.asarray(image) / 255
    for name, start in [
        ("impulse-corrected", unit),
        ("impulse", (unit - IMAGENET_MEAN) / IMAGENET_STD),
    ]:
        theirs = skimage.util.random_noise(
            start, mode="s&p", amount=0.09, rng=np.random.default_rng(5)
        )
        ours = noise_image(name, image, np.random.default_rng(5))
        expected = (np.clip(theirs, 0, 1) * 255).astype(np.uint8)
        np.testing.assert_array_equal(np.asarray(ours), expected)


def test_shot_and_speckle_moments_on_flat_grey():
    """Poisson(60 v) / 60 has variance v / 60; v + v N(0, 0.15) has standard deviation 0.15 v."""
    flat, value = Image.new("RGB", (256, 256), (102, 102, 102)), 0.4
    shot = pixels("shot-corrected", flat, severity=1) / 255
    speckle = pixels("speckle-corrected", flat, severity=1) / 255
    for made, std in [(shot, math.sqrt(value / 60)), (speckle, 0.15 * value)]:
        assert made.mean() == pytest.approx(value, abs=0.004)  # cut to 8 bit: half a level low
        assert made.std() == pytest.approx(std, rel=0.03)


def test_blend_agrees_with_mixing_in_normalised_space():
    """The published formula, floats and all, differs by one 8-bit level at most."""
    image, scale = picture(), 0.3
    draw = np.random.default_rng(3).random((32, 48, 3))
    normalised = (np.asarray(image) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    published = ((1 - scale) * normalised + scale * draw) * IMAGENET_STD + IMAGENET_MEAN
    noise = noise_image("imagenet+uniform", image, np.random.default_rng(3))
    mixed = np.asarray(blend(image, noise, scale=scale)).astype(int)
    assert np.abs(mixed - (255 * published).astype(int)).max() <= 1
    assert np.abs(mixed - np.asarray(image).astype(int)).max() > 10  # control: it did mix


def test_keys_are_for_something_and_never_for_an_order():
    def first(*key):
        return noise_generator(*key).random()

    base = first(0, "a", 1, None)
    assert first(0, "a", 1, None) == base
    others = [(1, "a", 1, None), (0, "b", 1, None), (0, "a", 2, None), (0, "a", 1, 0)]
    assert len({base, *(first(*key) for key in others)}) == 5
    assert (
        first(0, 7, 1, None) == first(0, "7", 1, None) == first(0, np.int64(7), np.int64(1), None)
    )


def test_defaults_are_the_published_ones():
    assert NoiseConfig() == NoiseConfig(name="imagenet+uniform", scale=1.0, severity=3, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [{"scale": value} for value in (math.nan, -0.01, 1.01, math.inf, True, "1", None)]
    + [{"severity": value} for value in (0, 6, 3.0, True, "3")]
    + [{"seed": value} for value in (-1, 1.5, True, None)],
)
def test_config_names_the_field_and_the_value(wrong):
    ((field, value),) = wrong.items()
    with pytest.raises(InvalidValueError) as error:
        NoiseConfig(**wrong)
    assert f"{field}={value!r}" in str(error.value)


def test_unknown_name_suggests_the_known_one():
    with pytest.raises(UnknownNameError, match=r"did you mean 'imagenet\+uniform'"):
        NoiseConfig(name="imagenet_uniform")
    with pytest.raises(UnknownNameError, match="noise type"):
        noise_image("grey-ish", picture(), np.random.default_rng(0))


def test_unusable_images_and_settings():
    rng = np.random.default_rng(0)
    with pytest.raises(ImageError, match="RGBA"):
        noise_image("gray", picture().convert("RGBA"), rng)
    with pytest.raises(ImageError, match=r"\(0, 4\)"):
        noise_image("gray", Image.new("RGB", (0, 4)), rng)
    with pytest.raises(ImageError, match=r"\(5, 4\).*\(4, 5\)"):
        blend(picture(4, 5), picture(5, 4), scale=0.5)
    with pytest.raises(InvalidValueError, match="severity=6"):
        noise_image("shot", picture(), rng, severity=6)
    with pytest.raises(InvalidValueError, match="scale=nan"):
        blend(picture(), picture(), scale=math.nan)


def test_published_blends_mix_before_they_clip():
    """Values by hand: one pixel, with the draws that the generator will give."""
    image = Image.new("RGB", (1, 1), (0, 128, 255))
    scale = 0.5
    drawn = np.random.default_rng(3).standard_normal((1, 1, 3))
    normalised = (np.array([0, 128, 255]) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    mixed = (0.5 * normalised + 0.5 * drawn) * IMAGENET_STD + IMAGENET_MEAN
    expected = (np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    found = published_blend("imagenet+gaussian", image, np.random.default_rng(3), scale=scale)
    assert np.asarray(found).tolist() == expected.tolist()


def test_published_blends_end_at_the_image_and_at_the_noise():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for name in ("imagenet+gaussian", "imagenet+uniform", "gaussian"):

        def mixed(scale, name=name):
            rng = np.random.default_rng(1)
            return np.asarray(published_blend(name, image, rng, scale=scale)).astype(int)

        noise = noise_image(name, image, np.random.default_rng(1))
        assert (mixed(1.0) == np.asarray(noise)).all()
        assert np.abs(mixed(0.0) - pixels).max() <= 1  # cut to 8 bit, not rounded
        ours = np.asarray(blend(image, noise, scale=0.5)).astype(int)
        apart = np.abs(mixed(0.5) - ours).max()
        assert 20 < apart < 60 if name == "imagenet+gaussian" else apart <= 1
