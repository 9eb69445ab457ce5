"""Images as arrays, by Pillow.

| image | array (H, W, C) |
|---|---|
| 1-bit | uint8, 0 and 255, C = 1 |
| gray 8-bit, 16-bit, 32-bit, float | uint8, uint16, int32, float32, C = 1 |
| gray with alpha | uint8, C = 2 |
| RGB, RGBA | uint8, C = 3, 4 |
| palette | the colours, as RGB, or RGBA where any is transparent |
| gray, RGB with a colour key | with alpha: 0 where a pixel has that colour, the largest value elsewhere |

EXIF rotation is applied, so that the array is what viewers show. Alpha is kept as a channel, dropped, or
multiplied into the colours, which is what a viewer shows on black. Refused, because an array could only hold
part of what the file says: animations and pages unless one frame is named, 16-bit colour, CMYK and other
colour spaces. From a pipe an image is taken in whole, up to `PIPE_BYTES`.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import reduce
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from convmat.errors import ConvmatError, FileError
from convmat.files import jpeg, tiff
from convmat.files.foreign import KNOWN_BYTES, foreign
from convmat.files.memory import check_memory
from convmat.files.outputs import reading
from convmat.files.schema import shown
from convmat.files.streams import Pipe, take

# Pillow logs what it also raises, which would be a second line on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

PIXEL_LIMIT = 89_478_485
"""Pixels of the largest image that is opened: where Pillow begins to suspect a decompression bomb."""

MOST_FRAMES = 4096
"""Frames, or pages, of an image that can be chosen from; to come to one, all before it are gone through."""

PIPE_BYTES = 1 << 28
"""Size of the largest image that is taken from a pipe, which might never end."""

_MODES = {
    "1": ("L", np.uint8, 1),
    "L": ("L", np.uint8, 1),
    "LA": ("LA", np.uint8, 2),
    "La": ("LA", np.uint8, 2),
    "I;16": ("I;16", np.uint16, 1),
    "I;16L": ("I;16", np.uint16, 1),
    "I;16B": ("I;16B", np.uint16, 1),
    "I;16N": ("I;16N", np.uint16, 1),
    "I": ("I", np.int32, 1),
    "F": ("F", np.float32, 1),
    "RGB": ("RGB", np.uint8, 3),
    "RGBX": ("RGB", np.uint8, 3),
    "RGBA": ("RGBA", np.uint8, 4),
    "RGBa": ("RGBA", np.uint8, 4),
}
# Pillow reads many more, some by running other programs on the file.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
# How files in them begin, which is looked at before anything else of them.
MAGICS = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", *tiff.MAGICS),
    *(b"P%d" % number for number in range(1, 8)),
)
_TURNS = {
    2: "mirrored",
    3: "180°",
    4: "flipped top to bottom",
    5: "mirrored, 90° counterclockwise",
    6: "90° clockwise",
    7: "mirrored, 90° clockwise",
    8: "90° counterclockwise",
}
_ROTATED = range(5, 9)  # EXIF orientations that exchange height and width
_ORIENTATION = 0x0112
_WITH_ALPHA = (2, 4)  # channels
_BAND_PIXELS = 1 << 18  # of an image that are converted at a time
_NEITHER = "is neither an image nor an .npy array"
_EMPTY = "is empty; expected an image or an .npy array"


class ImageInput:
    """An image whose header has been read and whose pixels have not.

    Args:
        name: a path.
        frame: of an animation or of pages, from 0; None refuses images of several.
        alpha: "keep", "drop" or "premultiply", see the module; for images without alpha all are the same.
        pipe: what to read in place of the file at `name`.

    Attributes:
        has_alpha: whether the last channel is transparency.
        turned: how EXIF had the picture turned to stand upright, in words; None where it stood so.

    Raises:
        FileError: no such file, no image, or one that is refused (see the module).
    """

    def __init__(
        self, name: str, frame: int | None = None, alpha: str = "keep", pipe: Pipe | None = None
    ) -> None:
        self.name = name if pipe is None else pipe.name
        self._frame, self._alpha = frame, alpha
        self._data = None if pipe is None else _taken_in(pipe)
        with self._open() as image:
            _, dtype, channels = self._kind(image)
            self.has_alpha = alpha == "keep" and channels in _WITH_ALPHA
            if alpha != "keep" and channels in _WITH_ALPHA:
                channels -= 1
            width, height = image.size
            orientation = _orientation(image)
            if orientation in _ROTATED:
                width, height = height, width
            self._decoded = width * height * _decoder_bytes(image) + self._nbytes()
        self.turned = _TURNS.get(orientation)
        self.shape = (height, width, channels)
        self.dtype = np.dtype(dtype)

    @property
    def nbytes(self) -> int:
        """Memory that `read` takes: what Pillow decodes to, and the array."""
        return self._decoded + math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """The pixels, (H, W, C)."""
        check_memory(self.name, self.nbytes, "give a smaller image")
        with self._open() as image:
            mode, dtype, channels = self._kind(image)
            key = _colour_key(image)
            expected = self._longer_sum() if image.format in ("JPEG", "MPO") else None
            is_tiff = image.format == "TIFF"
            with tiff.complaints(self.name) if is_tiff else nullcontext():
                image.load()
            orientation = 1 if is_tiff else _orientation(image)  # TIFF is turned by Pillow as it is decoded
            turned = orientation in _ROTATED
            size = self.shape[1::-1] if turned else self.shape[:2]
            values = np.empty((*size, self.shape[2]), self.dtype)
            decoded = 0
            for top, band in _bands(image):
                if expected is not None:
                    decoded = zlib.crc32(band.tobytes(), decoded)
                pixels = np.asarray(band if band.mode == mode else band.convert(mode))
                if key is not None:
                    pixels = _with_alpha(pixels.astype(dtype, copy=False), key)
                if self._alpha != "keep" and channels in _WITH_ALPHA:
                    pixels = _without_alpha(pixels, self._alpha)
                rows = values[top : top + len(pixels)]
                rows[...] = pixels.astype(dtype, copy=False).reshape(rows.shape)
            if expected not in (None, decoded):
                raise ValueError("its data end before the picture does")
            return _upright(values, orientation)

    def _longer_sum(self) -> int | None:
        """The checksum of a JPEG's pixels were its scans longer; None where that tells nothing."""
        with self._stream() as stream:
            longer = jpeg.with_longer_scans(stream.read())
        if longer is None:
            return None
        with Image.open(io.BytesIO(longer), formats=("JPEG",)) as image:
            return reduce(lambda before, part: zlib.crc32(part[1].tobytes(), before), _bands(image), 0)

    @contextmanager
    def _open(self) -> Iterator[Image.Image]:
        """The image, with what Pillow may raise at any time told in one line."""
        try:
            # Pillow only warns of what we refuse below; told twice would be once too often.
            with warnings.catch_warnings(), reading(self.name):
                warnings.simplefilter("ignore")
                with self._stream() as stream:
                    start = stream.read(KNOWN_BYTES)
                _check_start(self.name, start)
                # Given the name rather than a stream, Pillow loads only the decoder its suffix asks for.
                source = self.name if self._data is None else io.BytesIO(self._data)
                with Image.open(source, formats=_FORMATS) as image:
                    yield image
        except FileError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise FileError(self.name, self._what_else()) from None
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is None:
                raise FileError(self.name, f"is a damaged image: {error.__cause__}") from None
            raise
        except Image.DecompressionBombError:
            raise FileError(self.name, _too_large("")) from None
        except (ConvmatError, MemoryError):
            raise
        except Exception as error:  # a decoder fed with nonsense may raise anything
            raise FileError(self.name, f"is a damaged image: {error}") from None

    def _stream(self) -> IO[bytes]:
        return open(self.name, "rb") if self._data is None else io.BytesIO(self._data)

    def _what_else(self) -> str:
        """What this is that Pillow takes for no image, as the rest of a sentence."""
        with self._stream() as stream:
            is_tiff = stream.read(4) in tiff.MAGICS
            stream.seek(0)
            return (tiff.unread(stream) if is_tiff else None) or _NEITHER

    def _nbytes(self) -> int:
        return os.path.getsize(self.name) if self._data is None else len(self._data)

    def _kind(self, image: Image.Image) -> tuple[str, type, int]:
        """(mode to convert to, dtype, channels), or a refusal; a colour key becomes a channel of alpha."""
        if image.width * image.height > PIXEL_LIMIT:
            raise FileError(self.name, _too_large(f"{image.width} × {image.height} pixels"))
        # Deflate packs 1032 bytes into one at most (zlib's technical notes): more is a header's lie.
        bits = {"L": 8, "LA": 16, "RGB": 24, "RGBA": 32}.get(image.mode, 1)
        if image.format == "PNG" and image.width * image.height * bits // 8 > 1032 * self._nbytes():
            raise FileError(
                self.name,
                f"is a damaged image: {image.width} × {image.height} pixels do not fit in its bytes",
            )
        self._choose_frame(image)
        self._check_samples(image)
        # What each tile is decoded from: the file's own depth, which the mode may have lost.
        deep = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        if image.mode == "I" and (deep or image.format == "PPM"):  # 16-bit gray that Pillow widens
            return "I", np.uint16, 1
        if deep and not image.mode.startswith("I;16"):
            raise FileError(self.name, "has 16 bits a colour, of which only 8 would be read; save it as .npy")
        if image.mode in ("P", "PA"):
            transparent = image.mode == "PA" or "transparency" in image.info
            return _MODES["RGBA" if transparent else "RGB"]
        if image.mode not in _MODES:
            raise FileError(self.name, f"is a {image.mode} image; convert it to RGB or gray first")
        mode, dtype, channels = _MODES[image.mode]
        return mode, dtype, channels + (_colour_key(image) is not None)

    def _choose_frame(self, image: Image.Image) -> None:
        frames = self._count_frames(image)
        last = min(frames, MOST_FRAMES) - 1
        if self._frame is None:
            if frames > 1:
                raise FileError(self.name, f"has {frames} frames; choose one with --frame, 0 to {last}")
        elif not 0 <= self._frame < frames:
            raise FileError(self.name, f"has no frame {shown(self._frame)}; it has {frames}, from 0")
        elif self._frame > last:
            raise FileError(self.name, f"is read to frame {last}, got {self._frame}; save that one by itself")
        elif self._frame:
            image.seek(self._frame)

    def _count_frames(self, image: Image.Image) -> int:
        if image.format == "MPO":  # a camera's: a JPEG with previews of itself behind it
            return 1
        if image.format == "TIFF":  # of which Pillow reads all tags, page by page
            with self._stream() as stream:
                return tiff.count_pages(stream)
        return getattr(image, "n_frames", 1)

    def _check_samples(self, image: Image.Image) -> None:
        """Refuse numbers that Pillow would read as other numbers."""
        for tile in getattr(image, "tile", ()):
            if not str(tile[0]).startswith("ppm") or not isinstance(tile[3], tuple):
                continue
            if tile[3][1] not in (255, 65535 if image.mode == "I" else 255):
                most = "255 or 65535 in gray" if image.mode in ("I", "L") else "255 in colour"
                raise FileError(
                    self.name,
                    f"has values up to {tile[3][1]}, which would be read as others; expected up to {most}: "
                    "save it as .npy",
                )
        tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
        if tags is not None and (problem := tiff.misread(tags)) is not None:
            raise FileError(self.name, problem)


def _decoder_bytes(image: Image.Image) -> int:
    """Memory that decoding takes for a pixel: Pillow's own, and what the decoder holds."""
    own = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        return own + 2 * len(image.getbands())  # all coefficients
    return own + (12 if image.format == "WEBP" else 0)


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in bands of lines, each with the number of its first."""
    step = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, step):
        yield top, image.crop((0, top, image.width, min(top + step, image.height)))


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels, (H, W, C), turned as EXIF says; a view."""
    if orientation in (5, 7):  # rows and columns exchanged, then turned
        pixels, orientation = pixels.swapaxes(0, 1), {5: 1, 7: 3}[orientation]
    if orientation in (2, 4):
        return np.flip(pixels, 1 if orientation == 2 else 0)
    return np.rot90(pixels, {3: 2, 6: -1, 8: 1}.get(orientation, 0))


def _taken_in(pipe: Pipe) -> bytes:
    """All of an image that comes through a pipe, if it begins like one.

    Raises:
        FileError: it does not, or has more than `PIPE_BYTES`.
    """
    with reading(pipe.name), pipe:
        _check_start(pipe.name, pipe.peek(KNOWN_BYTES))
        data = take(pipe, PIPE_BYTES + 1, pipe.name)
    if len(data) > PIPE_BYTES:
        raise FileError(
            pipe.name, f"goes on after {PIPE_BYTES} bytes, more than an image has; save it to a file"
        )
    return bytes(data)


def _check_start(name: str, start: bytes) -> None:
    """Raise FileError unless a file that begins so may be in one of our formats; it tells what else it is."""
    if start.startswith(MAGICS):
        return
    problem = (foreign(start) or _NEITHER) if start else _EMPTY
    if problem == _NEITHER:
        # Of no more than this beginning: some of Pillow's formats are looked for in the whole of a file.
        with suppress(Exception), Image.open(io.BytesIO(start)) as image:
            formats = ", ".join(_FORMATS)
            problem = f"is in {image.format} format; expected one of {formats}; save it as .png"
    raise FileError(name, problem)


def _colour_key(image: Image.Image) -> tuple[int, ...] | None:
    """The gray or colour that is transparent in an image without alpha, as its pixels have it; None for none.

    It is that of a PNG's tRNS chunk, or of a GIF whose palette is the grays.
    """
    key = image.info.get("transparency")
    if key is None or image.mode not in ("1", "L", "I;16", "RGB"):
        return None
    samples = key if isinstance(key, tuple) else (key,)
    if image.mode == "I;16":
        return samples
    # Pillow spreads grays of 2 and 4 bits over 0..255, but not their key, of which the lowest bits count
    # (PNG, 11.3.2.1); that of 1 bit is 0 or 255.
    tiles = getattr(image, "tile", ())
    most = next(({"L;2": 3, "L;4": 15}.get(str(tile[3]), 255) for tile in tiles), 255)
    return tuple((sample & most) * 255 // most for sample in samples)


def _with_alpha(pixels: NDArray[Any], key: tuple[int, ...]) -> NDArray[Any]:
    """Colours, (H, W) or (H, W, 3), with alpha as a last channel: 0 where they are the key."""
    colours = pixels if pixels.ndim == 3 else pixels[..., None]
    solid = (colours != np.array(key)).any(axis=-1, keepdims=True)
    return np.concatenate([colours, solid.astype(pixels.dtype) * np.iinfo(pixels.dtype).max], axis=-1)


def _without_alpha(pixels: NDArray[Any], alpha: str) -> NDArray[Any]:
    """Pixels with alpha last, as colours alone."""
    colours, most = pixels[..., :-1], np.iinfo(pixels.dtype).max
    if alpha == "drop":
        return np.ascontiguousarray(colours)
    over_black = colours.astype(np.uint32) * pixels[..., -1:]
    return np.asarray((over_black + most // 2) // most, pixels.dtype)  # rounded to the nearest


def _orientation(image: Image.Image) -> int:
    """How the picture is turned, 1 to 8; 1 is upright."""
    # For EXIF behind the pixels of a PNG, where hardly any is, Pillow would decode them all.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(_ORIENTATION, 1))


def _too_large(size: str) -> str:
    return f"is too large{size and f': {size}'}; expected at most {PIXEL_LIMIT} pixels, or an .npy array"
