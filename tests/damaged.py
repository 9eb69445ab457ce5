"""Good files of every kind that convmat reads, and what damages them: bytes, headers, arrays, JSON."""

from __future__ import annotations

import gzip
import io
import random
import re
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

_NUMBERS = (0, 1, 2, 3, 8, 16, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_WORDS = [
    *map(str, (*_NUMBERS, 2**63 - 1, 2**63, 10**30, -1, -(2**63))),
    *str.split("True None () [] 1.5 1e9 1+1 '|O' '<U9' '<M8[s]' '<f16' '<c32'"),
    *("-" * 3000 + "1", "(" * 300),
]
Files = list[tuple[str, bytes]]
"""Contents, with what their names end in."""

# Good files


def saved(array: NDArray[Any], version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    npy_format.write_array(stream, array, version=version)
    return stream.getvalue()


def archive(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content, how)  # with no time of now
    return stream.getvalue()


@cache
def arrays() -> Files:
    """Arrays of several dtypes, orders, axes and format versions, and archives."""
    counted = np.arange(480)
    dtypes = "u1", "<i2", ">i4", "<f8", "f4", "c16", "?", "f2", "g"
    kinds: list[NDArray[Any]] = [counted.reshape(20, 24).astype(dtype) for dtype in dtypes]
    kinds += [counted.reshape(8, 10, 6), np.asfortranarray(counted.reshape(4, 10, 6, 2)), np.zeros((0, 3))]
    found = [saved(a) for a in kinds] + [saved(kinds[0], (2, 0)), saved(kinds[1], (3, 0))]
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    packed_ones = [(".npz", archive({"a.npy": found[0]}, how)) for how in methods]
    return [(".npy", content) for content in found] + packed_ones


@cache
def images() -> Files:
    """Pictures in every format and mode that Pillow writes and convmat reads, some of several frames."""
    y, x, c = np.ogrid[:12, :10, :4]
    pixels = ((100 * y + 10 * x + c) % 256).astype(np.uint8)
    rgba = Image.fromarray(pixels)
    plain = {mode: rgba.convert("RGB").convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "CMYK")}
    plain["RGBA"] = rgba
    plain["I;16"] = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    written: list[tuple[str, str, str, dict[str, Any]]] = [
        *((".png", "PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        (".png", "PNG", "RGB", {"exif": exif}),
        (".png", "PNG", "P", {"transparency": 3}),
        (".png", "PNG", "RGB", {"save_all": True, "append_images": [plain["RGB"].rotate(90)]}),
        *((".jpg", "JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        (".jpg", "JPEG", "RGB", {"exif": exif, "progressive": True}),
        *((".gif", "GIF", mode, {}) for mode in ("L", "P")),
        (".gif", "GIF", "P", {"save_all": True, "append_images": [plain["P"].rotate(90)]}),
        *((".tif", "TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "I;16", "CMYK")),
        *(
            (".tif", "TIFF", "RGB", {"compression": f"tiff_{how}"})
            for how in ("lzw", "adobe_deflate", "jpeg")
        ),
        (".tif", "TIFF", "1", {"compression": "group4"}),
        (".tif", "TIFF", "L", {"save_all": True, "append_images": [plain["L"]]}),
        *((".bmp", "BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *((".ppm", "PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
        *((".webp", "WEBP", mode, {"lossless": mode == "RGBA"}) for mode in ("RGB", "RGBA")),
    ]
    found = []
    for suffix, kind, mode, options in written:
        stream = io.BytesIO()
        plain[mode].save(stream, kind, **options)
        found.append((suffix, stream.getvalue()))
    return found


@cache
def texts() -> Files:
    """Kernels as text."""
    found = "1 0 -1\n2 0 -2\n1 0 -1\n", "# sharp\n0,-1,0\n-1,5,-1\n", "1/9 1e308\n.5 +2\n", "\ufeff1\n"
    return [(suffix, text.encode()) for text in found for suffix in (".txt", ".csv")]


@cache
def tables() -> Files:
    """Quantizations as TOML."""
    found = "scale = 0.02\nrounding = 'tflite'\nactivation = [-3, 127]\n", "scale = [0.5, 1e9]\n"
    found += (
        "multiplier = 1374389535\nshift = -5\ninput_zero_point = 3\n",
        "scale = 'b.npy'\ndtype = 'int16'\n",
    )
    return [(".toml", text.encode()) for text in found]


@cache
def idx() -> Files:
    """MNIST's own files, plain and packed."""
    plain = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (40, 6, 6)) + bytes(range(240)) * 6
    return [("", plain), (".gz", gzip.compress(plain, mtime=0))]


# _Mutations: each takes the content, another seed's, and the source of chance


def _flip(data: bytearray, other: bytes, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _truncate(data: bytearray, other: bytes, chance: random.Random) -> None:
    del data[chance.randint(0, len(data)) :]


def _extend(data: bytearray, other: bytes, chance: random.Random) -> None:
    data += chance.randbytes(chance.randint(1, 100))


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    start, source = chance.randint(0, len(data)), chance.randint(0, len(other))
    data[start : start + chance.randint(0, 40)] = other[source : source + chance.randint(0, 40)]


def _cross(data: bytearray, other: bytes, chance: random.Random) -> None:
    data[chance.randint(0, len(data)) :] = other[chance.randint(0, len(other)) :]


def _number(data: bytearray, other: bytes, chance: random.Random) -> None:
    width = chance.choice((1, 2, 4))
    start = chance.randint(0, min(len(data), 64))
    value = chance.choice(_NUMBERS) % (1 << 8 * width)
    data[start : start + width] = value.to_bytes(width, chance.choice(("little", "big")))


def _header(data: bytearray, other: bytes, chance: random.Random) -> None:
    """Another word or number in an .npy header, or in what stands in its place."""
    words = list(re.finditer(rb"'[^']*'|\w+|[(){}]", bytes(data[10:128])))
    if not words:
        return
    word = chance.choice(words)
    data[10 + word.start() : 10 + word.end()] = chance.choice(_WORDS).encode()
    # With the length mended, the parser gets to see it.
    end = data.find(b"\n", 10)
    if chance.random() < 0.8 and data[6:7] == b"\x01" and end > 0:
        data[8:10] = min(end - 9, 65535).to_bytes(2, "little")


_Mutation = Callable[[bytearray, bytes, random.Random], None]
_ANYWHERE: tuple[_Mutation, ...] = (_flip, _flip, _truncate, _extend, _splice, _cross, _number, _number)


_NONSENSE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    0.5,
    1e300,
    10**30,
    2**63,
    "",
    "x",
    "float64",
    "\0",
    [],
    [[]],
    [1, 2],
)


def swapped(value: Any, chance: random.Random) -> Any:
    """A value of JSON with one of all that it holds replaced, left out or added."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return chance.choice(_NONSENSE)
    found: Any = value.copy()
    key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
    found[key] = swapped(value[key], chance)
    if chance.random() < 0.15:
        del found[key]
    return found


_SPECIAL = [
    *map(float, str.split("nan inf -inf -0 1e-45 5e-324 65504 3.4e38 1.7e308 -1.7e308 1e30 16777217"))
]
_SIGNALLING = {2: 0x7D01, 4: 0x7FA00001, 8: 0x7FF4000000000001}
_DTYPES = str.split("u1 i1 ? <i2 >i4 <i8 u8 f2 <f4 >f4 <f4 <f8 >f8 <f8 g c8 c16 G")


def nasty(shape: tuple[int, ...], chance: random.Random) -> NDArray[Any]:
    """An array of any dtype and order, with the last numbers of it, or none; rarely of another shape."""
    sizes = list(shape)
    if chance.random() < 0.15:
        sizes[chance.randrange(len(sizes))] = chance.choice((0, 0, 1, 2, 7))
    dtype = np.dtype(chance.choice(_DTYPES))
    count = int(np.prod(sizes))
    array = (np.arange(count) % 7).astype(dtype)
    for _ in range(chance.choice((0, 1, 2, 5)) if count else 0):
        at = chance.randrange(count)
        if dtype.kind in "iu":
            array[at] = chance.choice((np.iinfo(dtype).min, np.iinfo(dtype).max))
        elif dtype.kind == "f" and dtype.itemsize in _SIGNALLING and chance.random() < 0.3:
            array.view(f"{dtype.str[0]}u{dtype.itemsize}")[at] = _SIGNALLING[dtype.itemsize]
        elif dtype.kind in "fc":
            with np.errstate(all="ignore"):
                array[at] = chance.choice(_SPECIAL) * chance.choice((1, 1j if dtype.kind == "c" else 1))
    if chance.random() < 0.1:
        array[:] = array[:1]  # all alike
    found: NDArray[Any] = array.reshape(sizes, order="F" if chance.random() < 0.5 else "C")
    return found


def damaged(files: Files, chance: random.Random, arrays: bool = False) -> tuple[str, bytes]:
    """One of some files, by ending and content; whole once in a while. Of arrays the header suffers most."""
    suffix, content = chance.choice(files)
    data = bytearray(content)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        mutation = chance.choice((*_ANYWHERE, *[_header] * 6 * arrays))
        mutation(data, chance.choice(files)[1], chance)
    return suffix, bytes(data)
