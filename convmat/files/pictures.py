"""Arrays as pictures, still or moving, in Pillow's formats: numbers become 8-bit pixels, and are told how."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmat.errors import FileError, ShapeError
from convmat.files.names import ANIMATION_FORMATS, PICTURE_FORMATS, check_ending, ending
from convmat.files.outputs import open_output

_PIECES: dict[str, Any] = {"flags": ["external_loop", "buffered", "zerosize_ok"], "buffersize": 1 << 18}
# What Pillow may raise for a picture that is too large for a format.
_TOO_LARGE = (OSError, ValueError, OverflowError, struct.error, SystemError)
_GIF_COLOURS = 128  # of 256: Pillow needs a free one for what has not changed, and fewer pack better


def to_pixels(values: NDArray[Any], keep: bool) -> tuple[NDArray[np.uint8], str]:
    """Numbers as 8-bit pixels, and a sentence that says how.

    With `keep`, for results in the scale of the 8-bit image they came from, values that all round to
    0..255 are kept so. All others are stretched: the smallest becomes 0, the largest 255.

    Raises:
        ShapeError: complex, NaN or infinite values.
    """
    if keep and values.dtype == np.uint8:
        return values, "values kept, rounded to 0..255"
    if values.dtype.type is np.longdouble:
        with np.errstate(all="ignore"):
            values = values.astype(np.float64)  # infinite beyond its range
    if values.dtype.kind == "c" or not all(np.isfinite(part).all() for part in np.nditer(values, **_PIECES)):
        raise ShapeError("output", "complex, NaN or infinite values have no pixels; write .npy instead")
    low, high = float(values.min()), float(values.max())
    # Judged as rounded: a mean of 255s may come out a last bit above 255.
    if keep and round(low) >= 0 and round(high) <= 255:
        return _changed(values, np.rint), "values kept, rounded to 0..255"
    if low == high:
        return _changed(values, lambda part: np.clip(np.rint(part), 0, 255)), f"all values are {low:.6g}"
    # Halved, so that the span of the largest floats is still a number.
    half = 2 if high - low == np.inf else 1
    start, span = low / half, high / half - low / half

    def stretched(part: NDArray[Any]) -> NDArray[Any]:
        return np.rint((part.astype(np.float64) / half - start) / span * 255)

    return _changed(values, stretched), f"values {low:.6g} .. {high:.6g} stretched to 0..255"


def _changed(values: NDArray[Any], change: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.uint8]:
    """All values, a piece at a time, as what a change makes of them."""
    pixels = np.empty(values.shape, np.uint8)
    with np.nditer([values, pixels], op_flags=[["readonly"], ["writeonly"]], **_PIECES) as pieces:
        for part, made in pieces:
            made[...] = change(part)
    return pixels


def check_picture(shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless a result of this shape, (N, *out, K), is one gray or RGB picture."""
    if len(shape) != 4 or shape[0] != 1 or shape[-1] not in (1, 3):
        raise ShapeError(
            "output", f"has shape {shape}, a picture shows (1, H, W, 1) or (1, H, W, 3); write .npy instead"
        )


def picture_bytes(shape: tuple[int, ...]) -> int:
    """Memory that `write_picture` takes: pixels, Pillow's, and the file's bytes."""
    count, channels = math.prod(shape[:-1]), shape[-1]
    return count * (2 * channels + (1 if channels == 1 else 4))


def write_animation(name: str, frames: Iterable[tuple[NDArray[np.uint8], int]]) -> tuple[int, int]:
    """Write pictures, each (H, W, 3) with its milliseconds, as one that moves and begins again.

    The name's suffix says the format. Returns the number of pictures and of bytes. All are held in memory.

    Raises:
        FileError: the output cannot be written; nothing is left of it.
    """
    check_ending(name, "animation")
    kind = ANIMATION_FORMATS[ending(name)]
    pictures, times = [], []
    for pixels, milliseconds in frames:
        pictures.append(Image.fromarray(pixels))
        times.append(milliseconds)
    if kind == "GIF":
        pictures = _with_one_palette(pictures)
    encoded = io.BytesIO()
    # A GIF's later frames are what changes; its palette is the same for all.
    options: dict[str, Any] = {"GIF": {"optimize": True}, "WEBP": {"lossless": True}}.get(kind, {})
    pictures[0].save(
        encoded, kind, save_all=True, append_images=pictures[1:], duration=times, loop=0, **options
    )
    return len(pictures), _write(name, encoded)


def animation_bytes(name: str, size: tuple[int, int], count: int) -> int:
    """Memory that `write_animation` takes for so many pictures of a size.

    Pillow's have 4 bytes a pixel; a GIF's are held with palettes, too, a PNG's as what changes.
    """
    return (4 + {".gif": 1, ".apng": 4, ".png": 4}.get(ending(name), 0)) * math.prod(size) * count


def _with_one_palette(pictures: list[Image.Image]) -> list[Image.Image]:
    """The pictures in few colours, the same ones in all: those of the first, the middle and the last."""
    chosen = [pictures[0], pictures[len(pictures) // 2], pictures[-1]]
    width, height = chosen[0].size
    together = Image.new("RGB", (width, 3 * height))
    for index, picture in enumerate(chosen):
        together.paste(picture, (0, index * height))
    palette = together.quantize(_GIF_COLOURS, Image.Quantize.MEDIANCUT)
    return [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]


def write_picture(name: str, y: NDArray[Any], keep: bool) -> str:
    """Write one image's result, (1, H_out, W_out, K) with K = 1 (gray) or 3 (RGB), as a picture.

    The name's suffix says the format. Returns how `to_pixels` made numbers into pixels.

    Raises:
        ShapeError: more images, other numbers of filters or axes. FileError: the output cannot be written;
            nothing is left of it.
    """
    check_ending(name, "picture")
    check_picture(y.shape)
    pixels, how = to_pixels(y[0], keep)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    kind = PICTURE_FORMATS[ending(name)]
    # Encoded in memory: straight to a file, Pillow may overlook that the disk is full.
    encoded = io.BytesIO()
    try:
        picture.save(encoded, format=kind)
    except _TOO_LARGE as error:
        size = f"{picture.width} × {picture.height}"
        raise FileError(name, f"cannot hold {size} pixels as {kind}: {error}; name it .png") from None
    _write(name, encoded)
    if kind in ("JPEG", "WEBP", "GIF"):
        how += f" (as {kind} holds them: nearly)"
    return how


def _write(name: str, encoded: io.BytesIO) -> int:
    """Write what has been encoded, so many bytes."""
    with open_output(name, encoded.tell()) as stream:
        stream.write(encoded.getbuffer())
    return encoded.tell()
