"""Arrays as C source and as memory files for $readmemh: text that a compiler or a simulator reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINE = 100  # characters
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_PIECE = 1 << 16  # elements that are spelt at a time
_C_TYPES = {"float16": "uint16_t", "float32": "float", "float64": "double"}
_DIGITS = {"float32": 9, "float64": 17}  # that tell each number from its neighbours


def is_c_name(text: str) -> bool:
    """Whether names in C may begin so, and C has none of them itself."""
    return _WORD.fullmatch(text) is not None


def c_header(
    guard: str, macros: Mapping[str, int | str], arrays: Mapping[str, NDArray[Any]]
) -> Iterator[str]:
    """The lines of a header for C99 and C++: macros, and arrays, flat in C order, as `static const`.

    Floats have as many digits as bring back each of their bits. float16, which C99 has not, is written as its
    IEEE bits in uint16_t.
    """
    yield f"#ifndef {guard}"
    yield f"#define {guard}"
    yield ""
    yield "#include <stdint.h>"
    yield ""
    for name, value in macros.items():
        yield f"#define {name} {value if isinstance(value, str) or value >= 0 else f'({value})'}"
    for name, array in arrays.items():
        half = array.dtype == np.float16
        shown = " x ".join(map(str, array.shape))
        yield ""
        yield f"/* {shown}{', float16 as IEEE bits' if half else ''} */"
        kind = _C_TYPES.get(str(array.dtype), f"{array.dtype}_t")
        yield f"static const {kind} {name}[{array.size}] = {{"
        yield from _wrapped(_c_numbers(_bits(array) if half else array.reshape(-1)))
        yield "};"
    yield ""
    yield f"#endif /* {guard} */"


def _c_numbers(flat: NDArray[Any]) -> Iterator[str]:
    digits = _DIGITS.get(str(flat.dtype))
    for start in range(0, flat.size, _PIECE):
        numbers = flat[start : start + _PIECE].tolist()
        yield from map(_c_integer, numbers) if digits is None else (_c_float(n, digits) for n in numbers)


def _c_integer(number: int) -> str:
    """A literal of it, which int64's least and uint64's greatest have in no plain way."""
    if number == -1 << 63:
        return f"({number + 1} - 1)"
    return str(number) if number < 1 << 63 else f"{number}u"


def _c_float(number: float, digits: int) -> str:
    text = f"{number:.{digits}g}"
    return (text if "." in text or "e" in text else f"{text}.0") + (
        "f" if digits == _DIGITS["float32"] else ""
    )


def _wrapped(words: Iterable[str]) -> Iterator[str]:
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _LINE:
            yield line
            line = "   "
        line += f" {word},"
    yield line


def hex_lines(name: str, array: NDArray[Any]) -> Iterator[str]:
    """The lines of a file for $readmemh: one element a line in C order, in two's complement or IEEE bits."""
    width = 2 * array.dtype.itemsize
    form = {"f": "IEEE bits", "i": "two's complement"}.get(array.dtype.kind, "unsigned")
    yield f"// {name}: {' x '.join(map(str, array.shape))}, {array.dtype}, {4 * width} bits, {form}, C order"
    flat = _bits(array)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        text = piece.astype(piece.dtype.newbyteorder(">")).tobytes().hex()
        yield from (text[at : at + width] for at in range(0, len(text), width))


def raw_bytes(array: NDArray[Any]) -> bytes:
    """The elements alone, in C order, the lowest byte first."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """Flat, as unsigned integers of the same bits."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(flat.dtype.newbyteorder("=").str.replace(flat.dtype.kind, "u"))
