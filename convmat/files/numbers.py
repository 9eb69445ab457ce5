"""Numbers as text: typed on the command line, or in .txt and .csv files."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.errors import FileError, ShapeError
from convmat.files.outputs import reading

TEXT_BYTES = 1 << 24
"""Size of the largest text file that is read: it is held whole, with an object for each number."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(/\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_TYPED = re.compile(r"\s*[+-]?\.?\d[^:]*")


def is_typed(text: str) -> bool:
    """Whether an argument is numbers, well typed or not, and no file's name."""
    return bool(_TYPED.fullmatch(text)) and not os.path.exists(text) and not _is_file_name(text)


def _is_file_name(text: str) -> bool:
    """Whether a text that begins like a number is rather a file's name: 3x3.npy, 1/w.npy."""
    return bool(re.search(r"\.[A-Za-z]\w*$", text))


def is_text(name: str) -> bool:
    """Whether a file is to hold numbers as text."""
    return os.path.splitext(name)[1].lower() in (".txt", ".csv")


def parse_numbers(text: str, subject: str) -> NDArray[Any]:
    """Typed numbers, "1 0 -1; 2 0 -2", as (rows, columns): int64 where all are integers, else float64.

    Rows are parted by semicolons, numbers by spaces or commas; 1/9 is a number, too.

    Raises:
        ShapeError: no numbers, or rows of different lengths; it is about `subject`.
    """
    rows = text.split(";")
    if len(rows) > 1 and not rows[-1].strip():
        rows.pop()  # as after the only row of "3;"
    try:
        return _table([(f"row {number}", row) for number, row in enumerate(rows, 1)])
    except ValueError as error:
        raise ShapeError(subject, f"{error}; write rows of numbers, as in '1 0 -1; 2 0 -2'") from None


def read_numbers(name: str) -> NDArray[Any]:
    """A .txt or .csv file as (lines, columns); # begins a comment, lines without numbers are left out.

    Raises:
        FileError: it cannot be read, is no table of numbers, or is larger than `TEXT_BYTES`.
    """
    with reading(name), open(name, "rb") as stream:
        data = stream.read(TEXT_BYTES + 1)
    if len(data) > TEXT_BYTES:
        raise FileError(name, f"is more than {TEXT_BYTES} bytes of text; write it as .npy")
    try:
        lines = data.decode("utf-8-sig").splitlines()
        rows = [(f"line {number}", line.partition("#")[0]) for number, line in enumerate(lines, 1)]
        return _table([row for row in rows if row[1].strip()])
    except UnicodeDecodeError:
        raise FileError(name, "is no text in UTF-8; write numbers, or .npy") from None
    except ValueError as error:
        raise FileError(name, f"{error}; write lines of numbers parted by spaces or commas") from None


def _table(rows: list[tuple[str, str]]) -> NDArray[Any]:
    """Rows, each with the name it has in errors, as one array."""
    table = [_row(*row) for row in rows]
    if not table:
        raise ValueError("has no numbers")
    for (where, _), numbers in zip(rows, table, strict=True):
        if len(numbers) != len(table[0]):
            raise ValueError(f"{rows[0][0]} has {len(table[0])} numbers, {where} has {len(numbers)}")
    words = [word for numbers in table for word in numbers]
    if all(map(_INTEGER.fullmatch, words)):
        integers = [int(word) if len(word) < 21 else 1 << 63 for word in words]
        if max(map(abs, integers)) >= 1 << 63:
            raise ValueError("has integers beyond int64, which ends at 2^63 - 1")
        return np.array(integers, np.int64).reshape(len(table), -1)
    fractions = [word.partition("/") for word in words]
    with np.errstate(all="ignore"):
        tops, bottoms = np.array([(top, bottom or 1) for top, _, bottom in fractions], np.float64).T
        values: NDArray[Any] = tops / bottoms
    if not np.isfinite(values).all():
        raise ValueError("has numbers that float64 cannot hold")
    return values.reshape(len(table), -1)


def _row(where: str, text: str) -> list[str]:
    """The numbers of a row, still as words."""
    if not text.strip():
        raise ValueError(f"{where} has no numbers")
    words = re.split(r"\s*,\s*|\s+", text.strip())
    for word in words:
        if not word:
            raise ValueError(f"{where} has a comma without a number")
        if not _NUMBER.fullmatch(word):
            raise ValueError(f"{where}: {word[:20]!r} is no number")
    return words
