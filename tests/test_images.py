"""Images as arrays and back: every mode and rotation, and refusals of what an array could not hold."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from convmat.errors import FileError, ShapeError
from convmat.files.images import PIXEL_LIMIT, ImageInput, to_pixels, write_picture
from convmat.files.outputs import PICTURE_FORMATS, is_picture

pytestmark = pytest.mark.usefixtures("folder")


def coded(dtype: str, channels: int = 1, scale: int = 1) -> NDArray[Any]:
    """A picture of 3 rows and 5 columns whose pixels say where they are: 100·y + 10·x + c, scaled."""
    y, x, c = np.ogrid[:3, :5, :channels]
    return ((100 * y + 10 * x + c) % 256 * scale).astype(dtype)


def save(name: str, pixels: NDArray[Any], mode: str | None = None, **options: Any) -> str:
    """Save (H, W, C) with Pillow; the modes that NumPy has no dtype for are converted to."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    (image if mode is None else image.convert(mode)).save(name, **options)
    return name


def check(name: str, wanted: NDArray[Any]) -> None:
    """The image is `wanted`, and its header promised as much."""
    image = ImageInput(name)
    assert (image.shape, image.dtype) == (wanted.shape, wanted.dtype)
    pixels = image.read()
    assert pixels.dtype == wanted.dtype
    np.testing.assert_array_equal(pixels, wanted)


# Files that Pillow cannot write.


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, lines: bytes, before: bytes = b"") -> bytes:
    """A PNG with any header; colour is 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + png_chunk(b"IEND", b"")


def tiff(pixels: NDArray[Any], photometric: int = 1, order: str = "<") -> bytes:
    """A TIFF of one strip, in either byte order and with whatever sample format the dtype is."""
    height, width, channels = pixels.shape
    bits, kind = 8 * pixels.itemsize, {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0)]
    tags += [(277, channels), (278, height), (279, pixels.nbytes), (339, kind)]
    after = 8 + 2 + 12 * len(tags) + 4
    values = {258: (bits,) * channels, 339: (kind,) * channels} if channels > 1 else {}
    extra, entries = b"", b""
    for tag, value in tags:
        if tag in values:
            entries += struct.pack(f"{order}HHII", tag, 3, channels, after + len(extra))
            extra += struct.pack(f"{order}{channels}H", *values[tag])
        else:
            offset = after + sum(2 * len(v) for v in values.values())
            entries += struct.pack(f"{order}HHII", tag, 4, 1, offset if tag == 273 else value)
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    magic = struct.pack(f"{order}HIH", 42, 8, len(tags))
    return {"<": b"II", ">": b"MM"}[order] + magic + entries + bytes(4) + extra + data


# Modes


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_one_bit_is_0_and_255(suffix: str) -> None:
    bits = (coded("u1") // 10 % 2 * 255).astype("u1")
    check(save(f"a.{suffix}", bits, "1"), bits)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("bmp", {}),
        ("gif", {}),
        ("pgm", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
def test_gray(suffix: str, options: dict[str, Any]) -> None:
    pixels = coded("u1")
    # A GIF has a palette, be it one of grays.
    check(save(f"a.{suffix}", pixels, **options), pixels.repeat(3, 2) if suffix == "gif" else pixels)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_with_alpha(suffix: str) -> None:
    pixels = coded("u1", 2)
    check(save(f"a.{suffix}", pixels), pixels)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_of_16_bits(suffix: str) -> None:
    pixels = coded("u2", scale=257)
    check(save(f"a.{suffix}", pixels), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "scale"), [("u1", 1), ("u2", 257), ("i4", 1 << 22), ("f4", 1)])
def test_tiff_of_either_byte_order(order: str, dtype: str, scale: int) -> None:
    pixels = coded(dtype, scale=scale)
    Path("a.tif").write_bytes(tiff(pixels, order=order))
    check("a.tif", pixels)


def test_integers_of_32_bits() -> None:
    pixels = (coded("i4", scale=1 << 22) - (1 << 29)).astype("i4")
    check(save("a.tif", pixels), pixels)


def test_floats() -> None:
    pixels = coded("f4") / np.float32(-7)
    check(save("a.tif", pixels), pixels)


@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("bmp", {}), ("ppm", {}), ("tif", {}), ("webp", {"lossless": True})]
)
def test_rgb(suffix: str, options: dict[str, Any]) -> None:
    pixels = coded("u1", 3)
    check(save(f"a.{suffix}", pixels, **options), pixels)


@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("tif", {}), ("webp", {"lossless": True, "exact": True})]
)
def test_rgba(suffix: str, options: dict[str, Any]) -> None:
    pixels = coded("u1", 4)
    check(save(f"a.{suffix}", pixels, **options), pixels)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_gives_its_colours(suffix: str) -> None:
    image = Image.new("P", (3, 2))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 2, 1, 0])
    image.save(f"a.{suffix}")
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    check(f"a.{suffix}", colours[[[0, 1, 2], [2, 1, 0]]])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_with_transparency_has_alpha(suffix: str) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    image.save(f"a.{suffix}", transparency=1)
    check(f"a.{suffix}", np.array([[[10, 20, 30, 255], [40, 50, 60, 0], [70, 80, 90, 255]]], np.uint8))


@pytest.mark.parametrize(("depth", "byte", "levels"), [(2, 0b00011011, 3), (4, 0b00010010, 15)])
def test_grays_of_few_bits_fill_0_to_255(depth: int, byte: int, levels: int) -> None:
    Path("a.png").write_bytes(png(2, 1, depth, 0, bytes([0, byte])))
    check(
        "a.png",
        np.array([[[byte >> (8 - depth)], [byte >> (8 - 2 * depth)]]], "u1") % (levels + 1) * (255 // levels),
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_content_counts_and_not_the_suffix(name: str, channels: int) -> None:
    pixels = coded("u1", channels)
    save("b.jpg", pixels, quality=100)
    Path("b.jpg").replace(name)
    image = ImageInput(name)
    assert (image.shape, image.dtype) == (pixels.shape, np.uint8)
    assert abs(image.read().astype(int) - pixels).max() <= 25 * channels


def test_a_cameras_previews_are_no_pages() -> None:
    pixels = coded("u1", 3)
    save("a.jpg", pixels, quality=100)
    save("b.jpg", pixels, format="MPO", quality=100, save_all=True, append_images=[Image.new("RGB", (2, 2))])
    check("b.jpg", ImageInput("a.jpg").read())


# Frames and alpha


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_a_frame_is_chosen_from_several(suffix: str) -> None:
    frames = [np.full((3, 5, 3), 60 * i, np.uint8) for i in range(4)]
    frames[2][1, 2] = 255
    options = {"lossless": True} if suffix == "webp" else {}
    first, *others = map(Image.fromarray, frames)
    first.save(f"a.{suffix}", save_all=True, append_images=others, **options)
    for i, frame in enumerate(frames):
        image = ImageInput(f"a.{suffix}", frame=i)
        pixels = image.read()
        assert (pixels.shape, pixels.dtype) == (image.shape, image.dtype)
        np.testing.assert_array_equal(pixels[..., :3], frame)


def test_pages_may_differ_in_size_and_mode() -> None:
    pages = [coded("u1"), coded("u1", 3)[:2], coded("u2", scale=257)[:, :4]]
    first, *others = [Image.fromarray(page[..., 0] if page.shape[-1] == 1 else page) for page in pages]
    first.save("a.tif", save_all=True, append_images=others)
    for i, page in enumerate(pages):
        image = ImageInput("a.tif", frame=i)
        assert (image.shape, image.dtype) == (page.shape, page.dtype)
        np.testing.assert_array_equal(image.read(), page)


@pytest.mark.parametrize("frame", [-1, 3, 10**30])
def test_no_such_frame(frame: int) -> None:
    _frames("GIF", 3)
    with pytest.raises(FileError, match=rf"^bad: has no frame {frame}; it has 3, from 0$"):
        ImageInput("bad", frame=frame)


def test_an_image_of_one_has_frame_0() -> None:
    save("a.png", coded("u1"))
    np.testing.assert_array_equal(ImageInput("a.png", frame=0).read(), coded("u1"))
    with pytest.raises(FileError, match=r"^a.png: has no frame 1; it has 1, from 0$"):
        ImageInput("a.png", frame=1)


def _pages(count: int, order: str, big: bool, back_to: int | None = None) -> bytes:
    """A TIFF or BigTIFF of pages of one black pixel; the last may lead back to an earlier one."""
    offset, number, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    length = struct.calcsize(f"<{number}") + len(tags) * (4 + 2 * size) + size
    start = 16 if big else 8
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, start) if big else struct.pack(f"{order}HI", 42, start)
    content = bytearray(b"II" if order == "<" else b"MM") + head
    for page in range(count):
        after = start + (page + 1) * length
        if page == count - 1:
            after = 0 if back_to is None else start + back_to * length
        content += struct.pack(order + number, len(tags))
        for tag, value in tags.items():
            content += struct.pack(f"{order}HH{offset}{offset}", tag, 16 if big else 4, 1, value)
        content += struct.pack(order + offset, after)
    return bytes(content)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # as Pillow knows them
def test_pages_are_counted_without_their_tags(order: str, big: bool) -> None:
    for count in (1, 2, 7):
        _bytes(_pages(count, order, big))
        assert ImageInput("bad", frame=count - 1).shape == (1, 1, 1)
        with pytest.raises(FileError, match=rf"^bad: has no frame {count}; it has {count}, from 0$"):
            ImageInput("bad", frame=count)


def test_pages_that_lead_back_come_to_an_end() -> None:
    _bytes(_pages(5, "<", False, back_to=2))
    with pytest.raises(FileError, match=r"^bad: has 5 frames; choose one with --frame, 0 to 4$"):
        ImageInput("bad")


def test_pages_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow looks at none of them: it compares each with all before it."""
    _bytes(_pages(50_000, "<", False))
    seeks: list[int] = []
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "seek", lambda _, frame: seeks.append(frame))
    with pytest.raises(FileError, match=r"^bad: has 50000 frames; choose one with --frame, 0 to 4095$"):
        ImageInput("bad")
    with pytest.raises(FileError, match=r"^bad: is read to frame 4095, got 49999; save that one by itself$"):
        ImageInput("bad", frame=49_999)
    assert seeks == []


def test_only_the_beginning_of_what_is_no_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of Pillow's formats would be looked for in all of it, line by line."""
    opened: list[int] = []

    def look(stream: io.BytesIO, *rest: object, **more: object) -> Image.Image:
        opened.append(len(stream.getvalue()))
        raise UnidentifiedImageError

    monkeypatch.setattr(Image, "open", look)
    for start in (b"", b"%!PS-Adobe", b"\0\0\1\xba", b"id=ImageMagick\n", b"#define x"):
        _bytes(start + b"\n")
        os.truncate("bad", 300_000_000)
        with pytest.raises(FileError, match=r"^bad: is neither an image nor an \.npy array$"):
            ImageInput("bad")
    assert opened == [512] * 5


def test_pillow_tries_no_other_formats_than_are_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that begins like a PNG, and is none, is looked at by no other decoder."""
    formats: list[object] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: formats.append(k.get("formats")) or real(*a, **k))
    _bytes(b"\x89PNG" + bytes(100))
    with pytest.raises(FileError, match=r"^bad: is neither an image nor an \.npy array$"):
        ImageInput("bad")
    assert formats == [("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("alpha", ["keep", "drop", "premultiply"])
def test_alpha(alpha: str, channels: int) -> None:
    pixels = coded("u1", channels)
    wanted = pixels
    if alpha != "keep" and channels in (2, 4):
        share = pixels[..., -1:] / 255 if alpha == "premultiply" else 1
        wanted = np.rint(pixels[..., :-1] * share).astype("u1")
    image = ImageInput(save("a.png", pixels), alpha=alpha)
    assert image.shape == wanted.shape
    np.testing.assert_array_equal(image.read(), wanted)


@pytest.mark.parametrize("alpha", ["drop", "premultiply"])
def test_alpha_of_a_palette(alpha: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save("a.png", transparency=1)
    second = [40, 50, 60] if alpha == "drop" else [0, 0, 0]
    assert ImageInput("a.png", alpha=alpha).read().tolist() == [[[10, 20, 30], second]]


# Colour keys: one gray or colour of an image without alpha is transparent.


def keyed(depth: int, colour: int, line: bytes, key: tuple[int, ...]) -> str:
    """A PNG of two pixels with a tRNS chunk."""
    before = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    Path("key.png").write_bytes(png(2, 1, depth, colour, b"\0" + line, before))
    return "key.png"


@pytest.mark.parametrize(
    ("depth", "colour", "line", "key", "wanted", "dtype"),
    [
        (1, 0, b"\x40", (1,), [[0, 255], [255, 0]], "u1"),
        (1, 0, b"\x40", (0,), [[0, 0], [255, 255]], "u1"),
        (2, 0, b"\x70", (3,), [[85, 255], [255, 0]], "u1"),
        (2, 0, b"\x70", (1,), [[85, 0], [255, 255]], "u1"),
        (4, 0, b"\x3f", (15,), [[51, 255], [255, 0]], "u1"),
        (4, 0, b"\x3f", (3,), [[51, 0], [255, 255]], "u1"),
        (8, 0, b"\x05\x06", (6,), [[5, 255], [6, 0]], "u1"),
        (8, 0, b"\x05\x06", (0xFF06,), [[5, 255], [6, 0]], "u1"),  # the lowest bits count
        (16, 0, b"\x01\x02\x02\x01", (0x102,), [[258, 0], [513, 65535]], "u2"),
        (8, 2, b"\x01\x02\x03\x01\x02\x04", (1, 2, 4), [[1, 2, 3, 255], [1, 2, 4, 0]], "u1"),
    ],
)
def test_a_colour_key_of_png_is_alpha(
    depth: int, colour: int, line: bytes, key: tuple[int, ...], wanted: list[list[int]], dtype: str
) -> None:
    name, pixels = keyed(depth, colour, line, key), np.array([wanted], dtype)
    check(name, pixels)
    dropped = ImageInput(name, alpha="drop")
    assert dropped.shape == (1, 2, len(wanted[0]) - 1)
    np.testing.assert_array_equal(dropped.read(), pixels[..., :-1])
    shown = ImageInput(name, alpha="premultiply")
    assert (shown.shape, shown.dtype) == (dropped.shape, pixels.dtype)
    np.testing.assert_array_equal(shown.read(), pixels[..., :-1] * (pixels[..., -1:] > 0))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_key_that_is_white_leaves_black(suffix: str) -> None:
    gray = np.array([[255, 0], [255, 90]], np.uint8)
    name = f"a.{suffix}"
    Image.fromarray(gray).save(name, transparency=255)
    channels = {"png": 1, "gif": 3}[suffix]  # Pillow gives a GIF's grays a palette
    read = ImageInput(name, alpha="premultiply").read()
    np.testing.assert_array_equal(read, np.repeat([[[0], [0]], [[0], [90]]], channels, axis=2))


def test_a_colour_key_of_a_gif_of_grays() -> None:
    """One whose palette is 0, 1, 2, …, which is no palette to Pillow."""
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 3]))
    image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    image.save("a.gif", transparency=2)
    check("a.gif", np.array([[[0, 255], [1, 255]], [[2, 0], [3, 255]]], np.uint8))
    assert ImageInput("a.gif", alpha="premultiply").read().ravel().tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_key_holds_however_the_picture_is_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = coded("u1")
    save("a.png", pixels, transparency=110, exif=exif)
    wanted = UPRIGHT[orientation](np.concatenate([pixels, (pixels != 110) * np.uint8(255)], axis=2))
    check("a.png", wanted)


# EXIF orientation: how what is stored becomes upright, in the words of the standard.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # mirrored
    3: lambda a: a[::-1, ::-1],  # upside down
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),  # to be turned clockwise
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),  # to be turned anticlockwise
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"quality": 100}),
        ("png", {}),
        ("webp", {"lossless": True}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_rotation_is_applied(
    suffix: str, options: dict[str, Any], orientation: int, channels: int, request: pytest.FixtureRequest
) -> None:
    stored = coded("u1", channels)
    save(f"a.{suffix}", stored, **options)
    as_decoded = ImageInput(f"a.{suffix}").read()  # JPEG changes pixels, WebP has no gray
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(f"b.{suffix}", stored, exif=exif, **options)
    if suffix == "tif" and orientation > 4:
        with pytest.raises(FileError, match="is a TIFF turned by a quarter, which may be misread"):
            ImageInput("b.tif")
    else:
        check(f"b.{suffix}", UPRIGHT[orientation](as_decoded))


@pytest.mark.parametrize("mode", ["1", "I;16", "P"])
def test_exif_rotation_of_other_modes(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = {"1": coded("u1") // 10 % 2 * 255, "I;16": coded("u2", scale=257), "P": coded("u1")}[mode]
    save("a.png", stored, None if mode == "I;16" else mode, exif=exif)
    check("a.png", UPRIGHT[6](stored.repeat(3, 2) if mode == "P" else stored))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_no_such_orientation_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    check(save("a.png", coded("u1"), exif=exif), coded("u1"))


# Refusing


def _cmyk() -> None:
    Image.new("CMYK", (4, 4)).save("bad", format="JPEG")


def _lab() -> None:
    Image.new("LAB", (4, 4)).save("bad", format="TIFF")


def _frames(kind: str, count: int) -> None:
    first, *others = [Image.new("L", (4, 4), 50 * i) for i in range(count)]
    first.save("bad", format=kind, save_all=True, append_images=others)


def _other(kind: str) -> None:
    Image.new("RGB", (16, 16)).save("bad", format=kind)


def _bytes(content: bytes) -> None:
    Path("bad").write_bytes(content)


def _cut(kind: str, keep: float) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(stream, format=kind)
    _bytes(stream.getvalue()[: int(keep * len(stream.getvalue()))])


DEEP = "has 16 bits a colour, of which only 8 would be read; save it as .npy$"
REFUSED: dict[str, tuple[Callable[[], None], str]] = {
    "16-bit RGB PNG": (lambda: _bytes(png(1, 1, 16, 2, bytes(7))), DEEP),
    "16-bit RGBA PNG": (lambda: _bytes(png(1, 1, 16, 6, bytes(9))), DEEP),
    "16-bit gray and alpha PNG": (lambda: _bytes(png(1, 1, 16, 4, bytes(5))), DEEP),
    "16-bit RGB TIFF": (lambda: _bytes(tiff(coded("u2", 3), photometric=2)), DEEP),
    "CMYK JPEG": (_cmyk, "is a CMYK image; convert it to RGB or gray first$"),
    "LAB TIFF": (_lab, "is a LAB image; convert it to RGB or gray first$"),
    "animated GIF": (lambda: _frames("GIF", 3), "has 3 frames; choose one with --frame, 0 to 2$"),
    "animated PNG": (lambda: _frames("PNG", 2), "has 2 frames; choose one with --frame, 0 to 1$"),
    "animated WebP": (lambda: _frames("WEBP", 2), "has 2 frames; choose one with --frame, 0 to 1$"),
    "pages of TIFF": (lambda: _frames("TIFF", 2), "has 2 frames; choose one with --frame, 0 to 1$"),
    "PNG cut": (lambda: _cut("PNG", 0.6), "is a damaged image: image file is truncated"),
    "JPEG cut": (lambda: _cut("JPEG", 0.6), "is a damaged image: image file is truncated"),
    "BMP cut": (lambda: _cut("BMP", 0.6), "is a damaged image: image file is truncated"),
    "TIFF cut": (lambda: _cut("TIFF", 0.9), "is a damaged image: "),
    "PNG with too few lines": (lambda: _bytes(png(5, 5, 8, 0, bytes(10))), "is a damaged image: "),
    "PNG of no height": (lambda: _bytes(png(5, 0, 8, 0, b"")), "is neither an image nor an .npy array$"),
    "text": (lambda: _bytes(b"1 2 3\n"), "is neither an image nor an .npy array$"),
    "zeros": (lambda: _bytes(bytes(1000)), "is neither an image nor an .npy array$"),
    "nothing": (lambda: _bytes(b""), "is empty; expected an image or an .npy array$"),
    "bomb": (
        lambda: _bytes(png(20_000, 20_000, 8, 0, b"")),
        f"is too large; expected at most {PIXEL_LIMIT} pi",
    ),
    "bomb of 2^62": (lambda: _bytes(png(2**31 - 1, 2**31 - 1, 8, 0, b"")), "is too large; expected at most "),
    "just too large": (
        lambda: _bytes(png(9460, 9459, 8, 0, b"")),
        f"is too large: 9460 × 9459 pixels; expected at most {PIXEL_LIMIT} pixels, or an .npy array$",
    ),
    "text bomb": (
        lambda: _bytes(
            png(1, 1, 8, 0, bytes(2), png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 22))))
        ),
        "(?i)is a damaged image: decompressed data too large",
    ),
    "EPS": (
        lambda: _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"),
        "is in EPS format; expected one of PNG, JPEG, ",
    ),
    "PCX": (lambda: _other("PCX"), "is in PCX format; expected one of PNG, JPEG, "),
    "ICO": (lambda: _other("ICO"), "is in ICO format; expected one of PNG, JPEG, "),
    "TGA": (lambda: _other("TGA"), "is in TGA format; expected one of PNG, JPEG, "),
    "folder": (lambda: Path("bad").mkdir(), "cannot be read: Is a directory$"),
    "no file": (lambda: None, "cannot be read: No such file or directory$"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_an_array_could_not_hold(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = REFUSED[case]
    make()
    with pytest.raises(FileError, match=message) as caught:
        ImageInput("bad").read()
    assert str(caught.value).startswith("bad: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    [case for case in REFUSED if case.endswith(("PNG", "GIF", "WebP", "bomb", "too large", "EPS", "JPEG"))],
)
def test_refuses_by_the_header_alone(name: str) -> None:
    make, message = REFUSED[name]
    make()
    with pytest.raises(FileError, match=message):
        ImageInput("bad")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_the_header_is_read_without_the_pixels(kind: str) -> None:
    _cut(kind, 0.95 if kind == "TIFF" else 0.6)  # its header may stand at the end
    assert ImageInput("bad").shape == (64, 64, 1)


# Files that Pillow reads as something else than they are.
TREACHEROUS: dict[str, tuple[bytes, NDArray[Any]]] = {
    "int8 TIFF": (tiff(coded("i1") - np.int8(9)), coded("i1") - np.int8(9)),
    "int16 TIFF": (tiff(coded("i2") - np.int16(99)), coded("i2") - np.int16(99)),
    "uint32 TIFF": (tiff(coded("u4", scale=1 << 24)), coded("u4", scale=1 << 24)),
    "float64 TIFF": (tiff(coded("f8") / 7), coded("f8") / 7),
    "16-bit TIFF whose white is 0": (tiff(coded("u2", scale=257), 0), 65535 - coded("u2", scale=257)),
    "16-bit PPM": (b"P6 5 3 65535\n" + coded(">u2", 3, 257).tobytes(), coded("u2", 3, 257)),
    "16-bit PGM": (b"P5 5 3 65535\n" + coded(">u2", 1, 257).tobytes(), coded("u2", 1, 257)),
    "16-bit PGM as text": (b"P2 2 1 65535\n1000 2000\n", np.array([[[1000], [2000]]], "u2")),
    "10-bit PGM": (b"P5 5 3 1023\n" + coded(">u2").tobytes(), coded("u2")),
    "10-bit PPM": (b"P6 5 3 1023\n" + coded(">u2", 3).tobytes(), coded("u2", 3)),
}


@pytest.mark.parametrize("case", TREACHEROUS)
def test_reads_rightly_or_not_at_all(case: str) -> None:
    content, wanted = TREACHEROUS[case]
    Path("a").write_bytes(content)
    try:
        check("a", wanted)
    except FileError as error:
        assert not case.startswith("16-bit PGM")
        assert re.search(
            "samples.*, which would be misread; save it as .npy, in Python|has values up to", str(error)
        )


def _samples() -> list[bytes]:
    samples = [png(2, 2, 16, 2, bytes(14)), tiff(coded("u2", 3), 2), b"P6 5 3 65535\n" + bytes(90)]
    for kind, mode in (
        ("PNG", "P"),
        ("JPEG", "RGB"),
        ("GIF", "L"),
        ("BMP", "RGB"),
        ("TIFF", "L"),
        ("WEBP", "RGBA"),
        ("PPM", "1"),
    ):
        stream = io.BytesIO()
        Image.fromarray(coded("u1", 3)).convert(mode).save(stream, format=kind)
        samples.append(stream.getvalue())
    return samples


SAMPLES = _samples()


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
def test_a_damaged_image_is_refused_or_keeps_what_its_header_promised(
    sample: bytes, changes: list[tuple[int, int]], end: int
) -> None:
    content = bytearray(sample)
    for where, value in changes:
        content[where % len(content)] = value
    Path("a").write_bytes(bytes(content[: max(end, len(content) - 100)]))
    try:
        image = ImageInput("a")
        pixels = image.read()
    except FileError as error:
        assert str(error).startswith("a: ")
        assert "\n" not in str(error)
    else:
        assert (pixels.shape, pixels.dtype) == (image.shape, image.dtype)


# Pictures


finite = hnp.arrays(
    st.sampled_from(["u1", "i8", "f2", "f4", "f8"]).map(np.dtype),
    hnp.array_shapes(min_dims=1, max_dims=3),
    elements={"allow_nan": False, "allow_infinity": False},
)


@given(hnp.arrays("f8", hnp.array_shapes(), elements=st.floats(0, 255)))
def test_values_in_the_scale_of_pixels_are_kept(values: NDArray[Any]) -> None:
    pixels, how = to_pixels(values, keep=True)
    assert pixels.dtype == np.uint8
    assert how == "values kept, rounded to 0..255"
    assert abs(pixels - values).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "keep"),
    [
        ([-7, 3, 4, 13], True),
        ([0, 100, 255], False),
        ([2, 3], False),
        ([-(2**63), 0, 2**63 - 1], True),
        ([-6e4, 6e4], False),
        ([-1e300, 0, 1e300], True),
    ],
)
def test_other_values_are_stretched(values: list[float], keep: bool) -> None:
    array = np.array(values)
    pixels, how = to_pixels(array, keep)
    span = max(values) - min(values)
    wanted = [(v - min(values)) / span * 255 for v in values]
    assert abs(pixels - np.array(wanted)).max() <= 0.5 + 1e-6
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert how == f"values {array.min():.6g} .. {array.max():.6g} stretched to 0..255"


@pytest.mark.parametrize(
    "values",
    [
        [-1e308, 1e308],  # the span overflows
        [0, 5e-324],  # 255 / span does
        [0, 1e-310],
    ],
)
def test_the_ends_of_the_floats_are_stretched(values: list[float]) -> None:
    assert to_pixels(np.array(values), keep=False)[0].tolist() == [0, 255]


@given(finite.filter(lambda a: 1e-300 < float(a.max()) - float(a.min()) < 1e300))
def test_stretching_keeps_the_order_and_fills_the_scale(values: NDArray[Any]) -> None:
    pixels, _ = to_pixels(values, keep=False)
    assert pixels.shape == values.shape
    assert (pixels.min(), pixels.max()) == (0, 255)
    in_order = pixels.ravel()[np.argsort(values, axis=None)].astype(int)
    assert (np.diff(in_order) >= 0).all()


def test_a_last_bit_beyond_the_scale_changes_nothing() -> None:
    """A mean of 255s may come out as 255.00000000000003."""
    pixels, how = to_pixels(np.array([-1e-12, 120, 255 + 1e-12]), keep=True)
    assert (pixels.tolist(), how) == ([0, 120, 255], "values kept, rounded to 0..255")


@pytest.mark.parametrize("value", [-7, 0, 7, 255, 300, 1.5])
@pytest.mark.parametrize("keep", [False, True])
def test_a_constant_image(value: float, keep: bool) -> None:
    pixels, how = to_pixels(np.full((2, 3), value), keep)
    kept = keep and 0 <= value <= 255
    assert (pixels == min(max(round(value), 0), 255)).all()
    assert ("kept" in how) is kept


@pytest.mark.parametrize("values", [[1, np.nan], [np.inf, 1], [1, -np.inf], [1j, 2]])
@pytest.mark.parametrize("keep", [False, True])
def test_what_has_no_pixels(values: list[Any], keep: bool) -> None:
    message = "^output: complex, NaN or infinite values have no pixels; write .npy instead$"
    with pytest.raises(ShapeError, match=message):
        to_pixels(np.array(values), keep)
    with pytest.raises(ShapeError, match=message):
        write_picture("a.png", np.array(values).reshape(1, 1, 2, 1), keep)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 2), (1, 3, 4, 4), (2, 3, 4, 1), (0, 3, 4, 1), (1, 3, 1), (1, 2, 3, 4, 1), (3, 4)]
)
def test_only_one_image_of_one_or_three_channels_is_a_picture(shape: tuple[int, ...]) -> None:
    told = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(
        ShapeError, match=rf"^output: has shape {told}, a picture shows \(1, H, W, 1\) or \(1, H"
    ):
        write_picture("a.png", np.zeros(shape), keep=True)
    assert list(Path().iterdir()) == []


MAGIC = {
    ".bmp": b"BM",
    ".gif": b"GIF8",
    ".jpeg": b"\xff\xd8\xff",
    ".jpg": b"\xff\xd8\xff",
    ".pgm": b"P",
    ".png": b"\x89PNG",
    ".ppm": b"P",
    ".tif": b"II*\0",
    ".tiff": b"II*\0",
    ".webp": b"RIFF",
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [*PICTURE_FORMATS, ".PNG", ".Jpg"])
def test_each_suffix_is_written_as_its_format(suffix: str, channels: int) -> None:
    name = f"a{suffix}"
    assert is_picture(name)
    # In one colour, which no format changes by more than its rounding.
    y = np.full((1, 3, 5, channels), 100) + 40 * np.arange(channels)
    how = write_picture(name, y, keep=True)
    assert how.startswith("values kept, rounded to 0..255")
    assert how.endswith("nearly)") == (suffix.lower() in (".gif", ".jpeg", ".jpg", ".webp"))
    assert [path.name for path in Path().iterdir()] == [name]
    assert Path(name).read_bytes().startswith(MAGIC[suffix.lower()])
    image = ImageInput(name)
    assert image.shape[:2] == (3, 5)
    assert image.dtype == np.uint8
    assert abs(image.read().astype(int) - y[0]).max() <= 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".bmp", ".pgm", ".png", ".ppm", ".tif", ".tiff"])
def test_pixels_survive_where_the_format_keeps_them(suffix: str, channels: int) -> None:
    pixels = coded("u1", channels)
    write_picture(f"a{suffix}", pixels[None], keep=True)
    check(f"a{suffix}", pixels)


@pytest.mark.parametrize("name", ["a", "a.npy", "a.png.npy", ".png", "png", "a.jp", "-", "a.png/b", "a.jpg2"])
def test_other_names_are_no_pictures(name: str) -> None:
    assert not is_picture(name)


@pytest.mark.parametrize("suffix", [".jpg", ".gif", ".webp"])
def test_a_picture_too_wide_for_its_format(suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path(f"a{suffix}").write_bytes(b"old")
    with pytest.raises(FileError, match=rf"^a\{suffix}: "):
        write_picture(f"a{suffix}", np.zeros((1, 1, 70_000, 1)), keep=True)
    assert [(path.name, path.read_bytes()) for path in Path().iterdir()] == [(f"a{suffix}", b"old")]
