"""Every kind of image that can be given, and every way in which one can be bad."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageSequence

from focus.errors import ImageError, InvalidValueError, PromptError
from focus.images import load_image, load_images

RED = (255, 0, 0)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def photo(width=24, height=16):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def as_bytes(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_all_kinds_of_source_give_the_same_image(tmp_path):
    path = saved(tmp_path / "a.png", photo(), dpi=(72, 72))
    assert Image.open(path).info  # control: there is something to drop
    kinds = [path, str(path), path.read_bytes(), photo(), Image.open(path), np.asarray(photo())]
    for loaded in load_images(kinds):
        assert type(loaded) is Image.Image
        assert (loaded.mode, loaded.size) == ("RGB", (24, 16))
        assert loaded.tobytes() == photo().tobytes()
        assert loaded.info == {}


def test_the_result_is_independent_of_the_source():
    image, array = photo(), np.zeros((4, 4, 3), np.uint8)
    from_image, from_array = load_image(image), load_image(array)
    image.putpixel((0, 0), RED)
    array[:] = 255
    assert from_image.tobytes() == photo().tobytes()
    assert from_array.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),  # 0.8 of white
        (Image.new("LA", (2, 2), (100, 255)), (100, 100, 100)),
        (Image.new("LA", (2, 2), (100, 0)), (255, 255, 255)),
        (Image.new("L", (2, 2), 100), (100, 100, 100)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("I;16", (2, 2), 257 * 100), (100, 100, 100)),
        (Image.new("F", (2, 2), 0.2), (51, 51, 51)),
        (Image.new("RGB", (2, 2), RED).convert("P"), RED),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_modes(image, expected):
    assert load_image(image).getpixel((1, 1)) == expected


def test_palette_and_truecolour_transparency(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    opaque = load_image(saved(tmp_path / "opaque.png", palette))
    clear = load_image(saved(tmp_path / "clear.png", palette, transparency=1))
    gif = load_image(saved(tmp_path / "clear.gif", palette, transparency=1))
    assert [opaque.getpixel((x, 0)) for x in (0, 1)] == [RED, (0, 0, 255)]
    assert [clear.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]
    assert [gif.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]
    keyed = load_image(as_bytes(Image.new("RGB", (1, 1), RED), transparency=RED))
    assert keyed.getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_files_are_scaled_and_not_clipped(tmp_path):
    ramp = np.array([[0, 256, 1000, 30000, 65535]], dtype=np.uint16)
    for name in ("ramp.png", "ramp.tif"):
        loaded = load_image(saved(tmp_path / name, Image.fromarray(ramp)))
        assert [loaded.getpixel((x, 0))[0] for x in range(5)] == [0, 1, 4, 117, 255]


def test_exif_rotation_is_applied(tmp_path):
    upright = Image.new("RGB", (30, 20), "white")
    upright.paste(RED, (0, 0, 10, 20))  # red stripe on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    path = saved(tmp_path / "phone.png", upright, exif=exif)
    assert Image.open(path).size == (30, 20)  # control: stored lying
    loaded = load_image(path)
    assert loaded.size == (20, 30)
    assert loaded.getpixel((10, 2)) == RED
    assert loaded.getpixel((10, 25)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((3, 2), 7, np.uint8), (7, 7, 7)),
        (np.full((3, 2, 1), True), (255, 255, 255)),
        (np.full((3, 2, 2), [100, 0], np.uint8), (255, 255, 255)),
        (np.full((3, 2, 2), [100, 255], np.uint8), (100, 100, 100)),
        (np.full((3, 2, 4), [255, 0, 0, 255], np.uint8), RED),
        (np.full((3, 2, 3), 257 * 9, np.uint16), (9, 9, 9)),
        (np.full((3, 2, 3), 257 * 9, ">u2"), (9, 9, 9)),
        (np.full((3, 2, 3), [1.0, 0.0, 0.2], np.float32), (255, 0, 51)),
        (np.full((3, 2, 4), [0.0, 0.0, 0.0, 0.2]), (204, 204, 204)),
        (np.full((2, 3, 4), 5, np.uint8).transpose(1, 0, 2)[:, :, :3], (5, 5, 5)),
    ],
)
def test_arrays(array, expected):
    loaded = load_image(array)
    assert (loaded.mode, loaded.size) == ("RGB", (2, 3))
    assert loaded.getpixel((1, 2)) == expected


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((2, 2, 3), 255.0), r"from 255 to 255, .* divide"),
        (np.full((2, 2, 3), np.nan), "nan"),
        (np.full((2, 2, 3), -0.1), "undo any normalisation"),
        (np.zeros((2, 2, 3), np.int64), "unclear range"),
        (np.zeros((3, 20, 20)), r"transpose\(1, 2, 0\)"),
        (np.zeros((5, 20, 20, 3)), r"list\(array\)"),
        (np.zeros((20, 20, 5)), "not an image"),
        (np.zeros(20), "not an image"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_bad_arrays(array, says):
    with pytest.raises(ImageError, match=says):
        load_image(array)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_truncated_files(tmp_path, fmt):
    data = as_bytes(photo(64, 64), fmt)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=r"cut\.img.*accepted are"):
        load_image(path)
    load_image(data)  # control: the whole file is fine


def test_truncated_files_may_go_unnoticed_only_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = as_bytes(photo(64, 64), "JPEG")
    with pytest.warns(UserWarning, match="cannot be noticed"):
        load_image(data[: len(data) * 2 // 3])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, says in [
        ("empty.png", r"empty\.png.* is empty"),
        ("text.png", r"text\.png.* not an image"),
        ("missing.png", r"missing\.png.* does not exist"),
        (".", "is a folder"),
        ("a\0b.png", "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=says):
            load_image(str(tmp_path / name))
    with pytest.raises(ImageError, match="download it first"):
        load_image("https://example.org/a.png")
    for source in (b"", b"junk", None, 3, [photo()]):
        with pytest.raises(ImageError, match="accepted are"):
            load_image(source)


def test_empty_and_damaged_pil_images():
    with pytest.raises(ImageError, match="no pixels"):
        load_image(Image.new("RGB", (0, 4)))
    data = as_bytes(photo(64, 64))
    with pytest.raises(ImageError, match="truncated or damaged"):
        load_image(Image.open(io.BytesIO(data[: len(data) // 2])))
    with pytest.raises(ImageError, match="32-bit"):
        load_image(Image.new("I", (2, 2)))


def test_bombs_are_refused_before_decoding(tmp_path):
    limit, settings = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(9000, 9000))  # above our limit, below Pillow's
    with pytest.raises(ImageError, match=r"bomb\.png.*9000 x 9000.*max_pixels"):
        load_image(path)
    with pytest.raises(ImageError, match=r"too large"):
        load_image(png_header(50000, 50000))  # above Pillow's
    with pytest.raises(ImageError, match="max_pixels=100"):
        load_image(photo(11, 10), max_pixels=100)
    assert load_image(photo(10, 10), max_pixels=100).size == (10, 10)
    assert (limit, settings) == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_max_pixels_out_of_range(value):
    with pytest.raises(InvalidValueError, match="max_pixels"):
        load_image(photo(), max_pixels=value)


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_are_refused_and_the_hint_works(tmp_path, fmt):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    path = saved(
        tmp_path / "moving", frames[0], format=fmt, save_all=True, append_images=frames[1:]
    )
    with pytest.raises(ImageError, match=r"moving.*3 frames.*frame\.copy\(\)") as error:
        load_image(path)
    hint = str(error.value).split("such as ")[1].replace("PIL.", "")
    scope = {"Image": Image, "ImageSequence": ImageSequence, "path": path}
    assert len(load_images(eval(hint, scope))) == 3
    single = saved(tmp_path / "still", frames[0], format=fmt, save_all=True)
    assert load_image(single).size == (4, 4)


def test_phone_photo_with_a_preview_is_its_first_frame(tmp_path):
    red, blue = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), "blue")
    path = saved(tmp_path / "phone.mpo", red, format="MPO", save_all=True, append_images=[blue])
    assert Image.open(path).n_frames == 2  # control
    assert load_image(path).getpixel((4, 4))[0] > 250


def test_lists():
    with pytest.raises(PromptError, match="no images"):
        load_images([])
    for single in ("a.png", b"", photo(), np.zeros((4, 4, 3), np.uint8), None):
        with pytest.raises(PromptError, match="list"):
            load_images(single)
    with pytest.raises(ImageError, match=r"^image 2 of 3: .*missing\.png"):
        load_images([photo(), "missing.png", photo()])
    assert len(load_images(image for image in [photo(), photo()])) == 2
