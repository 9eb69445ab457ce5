"""Arrays as C source and as memory files for $readmemh: text that a compiler or a simulator reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINE = 100  # characters
_TRAILING = re.compile(r"\.?0*(p)")  # zeros, of 0x1.8000000000000p-3


def c_header(
    guard: str, macros: Mapping[str, int | str], arrays: Mapping[str, NDArray[Any]]
) -> Iterator[str]:
    """The lines of a C99 header: macros, and arrays, flat in C order, as `static const`.

    Fractions are in hexadecimal, which is exact. float16, which C99 has not, is written as its IEEE bits in
    uint16_t.
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
        shown = " × ".join(map(str, array.shape)).replace("×", "x")
        yield ""
        yield f"/* {shown}{', float16 as IEEE bits' if half else ''} */"
        kind = {"float16": "uint16_t", "float32": "float", "float64": "double"}.get(
            str(array.dtype), f"{array.dtype}_t"
        )
        yield f"static const {kind} {name}[{array.size}] = {{"
        yield from _wrapped(_c_number(value) for value in (_bits(array) if half else array.reshape(-1)))
        yield "};"
    yield ""
    yield f"#endif /* {guard} */"


def _c_number(value: Any) -> str:
    if value.dtype.kind != "f":
        return str(int(value))
    number = float(value)
    text = repr(number) if number.is_integer() else _TRAILING.sub(r"\1", number.hex())
    return text + ("f" if value.dtype == np.float32 else "")


def _wrapped(words: Iterator[str]) -> Iterator[str]:
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _LINE:
            yield line
            line = "   "
        line += f" {word},"
    yield line


def hex_lines(name: str, array: NDArray[Any]) -> Iterator[str]:
    """The lines of a file for $readmemh: one element a line in C order, in two's complement or IEEE bits."""
    bits = array.dtype.itemsize * 8
    form = (
        "IEEE bits"
        if array.dtype.kind == "f"
        else "two's complement"
        if array.dtype.kind == "i"
        else "unsigned"
    )
    yield f"// {name}: {' x '.join(map(str, array.shape))}, {array.dtype}, {bits} bits, {form}, C order"
    for value in _bits(array):
        yield f"{int(value):0{bits // 4}x}"


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """Flat, as unsigned integers of the same bits."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(flat.dtype.newbyteorder("=").str.replace(flat.dtype.kind, "u"))
