"""Whole numbers of any length, read and told: Python reads and writes 4,300 digits at most."""

from __future__ import annotations

import math
import re

INT64 = (1 << 63) - 1
"""The largest whole number that an array's index, or its size, can be."""

SEED_LIMIT = (1 << 64) - 1
"""The largest seed of random numbers."""

_READ_DIGITS = 640  # the least that Python can be told to read
_TOLD_BITS = 128
_COUNTED_DIGITS = 1_000_000  # beyond, to count them to the last takes longer than it tells


def read_whole(text: str) -> int:
    """A whole number as text; in place of one of more digits than Python reads, another of as many.

    Which it is makes no difference: no range goes so far.

    Raises:
        ValueError: something else.
    """
    if len(text) <= _READ_DIGITS:
        return int(text)
    found = re.fullmatch(r"\s*([+-]?)0*(\d+)\s*", text, re.ASCII)
    if found is None:
        raise ValueError("no whole number")
    sign, digits = found.groups()
    return int(sign + digits) if len(digits) <= _READ_DIGITS else int(f"{sign}1") * 10 ** (len(digits) - 1)


def whole_text(number: int) -> str:
    """A whole number as an error tells it: where it is long, how many digits it has."""
    bits = number.bit_length()
    if bits <= _TOLD_BITS:
        return str(number)
    digits = int((bits - 1) * math.log10(2)) + 1
    digits += digits < _COUNTED_DIGITS and abs(number) >= 10**digits
    return f"a number of {digits} digits"
