"""Each check of an argument that is no array, once; and how a value is told in an error.

NumPy is imported where its numbers are checked, so that `--help` need not wait for it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from convmat.errors import GeometryError, MappingIndexError

INT64 = (1 << 63) - 1
"""The largest whole number that an array's index, or its size, can be."""

SEED_LIMIT = (1 << 64) - 1
"""The largest seed of random numbers."""

STEP_LIMIT = (1 << 31) - 1
"""Pixels of stride, dilation, extent and padding, at most: with them addresses fit in int64."""

_READ_DIGITS = 640  # the least that Python can be told to read
_TOLD_BITS = 128
_COUNTED_DIGITS = 1_000_000  # beyond, to count them to the last takes longer than it tells


# Values, told and read


def got(value: Any) -> str:
    """Any value, as it is told in an error: on one line, and not all of it where it is long."""
    if type(value) is int:
        return _whole_text(value)
    try:
        if type(value) is tuple and value:
            text = f"({', '.join(map(got, value[:8]))}{', …' * (len(value) > 8)}{',' * (len(value) == 1)})"
        else:
            text = " ".join(repr(value).split())
    except Exception:  # a value may have no text
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:60]} … {text[-10:]}"


def got_sizes(sizes: tuple[int, ...]) -> str:
    """Sizes as they may be given: one number where all are the same."""
    return got(sizes[0] if len(set(sizes)) == 1 else sizes)


def _whole_text(number: int) -> str:
    """A whole number; where it is long, how many digits it has, for Python writes 4,300 at most."""
    bits = number.bit_length()
    if bits <= _TOLD_BITS:
        return str(number)
    digits = int((bits - 1) * math.log10(2)) + 1
    digits += digits < _COUNTED_DIGITS and abs(number) >= 10**digits
    return f"a number of {digits} digits"


def read_whole(text: str) -> int:
    """A whole number as text; in place of one of more digits than Python reads, another of as many.

    Which it is makes no difference: no range goes so far.

    Raises:
        ValueError: something else.
    """
    if len(text) <= _READ_DIGITS:
        return int(text)
    match = re.fullmatch(r"\s*([+-]?)0*(\d+)\s*", text, re.ASCII)
    if match is None:
        raise ValueError("no whole number")
    sign, digits = match.groups()
    return int(sign + digits) if len(digits) <= _READ_DIGITS else int(f"{sign}1") * 10 ** (len(digits) - 1)


# Numbers and names


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int, of the range that is given.

    Raises:
        GeometryError: not a whole number, or one out of range.
    """
    try:
        number = int(operator.index(value))  # of a bool, too, a plain number
    except TypeError:
        raise GeometryError(name, f"expected a whole number, got {got(value)}; give an int") from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise GeometryError(name, f"must be {least} to {most}, got {got(number)}; give a number between")
    return number


def finite(value: Any) -> bool:
    """Whether `value` is one real number, as float64 can hold it."""
    import numpy as np

    try:
        return isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)
    except OverflowError:
        return False


def flag(name: str, value: Any) -> None:
    """Raise GeometryError unless `value` is True or False, of Python or NumPy."""
    if value is True or value is False:
        return
    import numpy as np

    if not isinstance(value, np.bool_):
        raise GeometryError(name, f"expected True or False, got {got(value)}")


def choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise GeometryError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise GeometryError(name, f"unknown {got(value)}; give one of {', '.join(choices)}")


def several(value: Any) -> tuple[Any, ...] | None:
    """The elements of what has them in an order; None for a single thing."""
    if isinstance(value, (str, bytes, Set, Mapping)) or not isinstance(value, Iterable):
        return None
    try:
        return tuple(value)
    except TypeError:  # an array without axes
        return None


# Geometry


def per_axis(name: str, value: Any, axes: int, least: int = 1, most: int = STEP_LIMIT) -> tuple[int, ...]:
    """`value` as one int for each spatial axis, none below `least` or above `most`; else GeometryError."""
    if (parts := several(value)) is not None:
        sizes = tuple(whole(name, v) for v in parts)
        if len(sizes) != axes:
            raise GeometryError(
                name,
                f"got {len(sizes)} numbers {got(sizes)} for {axes} spatial "
                f"{'axis' if axes == 1 else 'axes'}; give one, or one for each axis",
            )
    else:
        sizes = (whole(name, value),) * axes
    for wrong, limit, range_text in (
        (min(sizes) < least, f"least {least}", f"{least} or more"),
        (max(sizes) > most, f"most {most}", f"{least} to {most}"),
    ):
        if wrong:
            raise GeometryError(
                name, f"must be at {limit} along every axis, got {got_sizes(sizes)}; give {range_text}"
            )
    return sizes


def side_pads(padding: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """Padding by number, per axis or per side, as (before, after) for each axis; else GeometryError."""
    parts = several(padding)
    inner = [several(part) for part in parts or ()]
    named = any(isinstance(part, str) for part in parts or ())
    if parts is not None and (named or any(pair is not None for pair in inner)):
        pairs = [(p, p) if pair is None else pair for p, pair in zip(parts, inner, strict=True)]
        if named or len(pairs) != axes or any(len(pair) != 2 for pair in pairs):
            raise GeometryError(
                "padding",
                f"got {got(padding)}; give a (before, after) pair for each of {axes} spatial axes",
            )
        before, after = zip(*pairs, strict=True)
    else:
        before = after = padding if parts is None else parts
    sides = (per_axis("padding", side, axes, least=0) for side in (before, after))
    return tuple(zip(*sides, strict=True))


def spatial_shape(name: str, shape: Any) -> tuple[int, ...]:
    """`shape` as (N, *spatial, C) with 1 to 3 spatial axes, of which only N may be 0; else GeometryError."""
    if (parts := several(shape)) is None:
        raise GeometryError(name, f"expected (N, *spatial, C), got {got(shape)}")
    sizes = tuple(whole(name, v) for v in parts)
    if not 3 <= len(sizes) <= 5:
        raise GeometryError(
            name, f"{got(sizes)} has {len(sizes)} axes; expected (N, *spatial, C) with 1 to 3 spatial axes"
        )
    if sizes[0] < 0 or min(sizes[1:]) < 1:
        raise GeometryError(
            name, f"{got(sizes)} is empty; spatial sizes and channels must be at least 1 (only N may be 0)"
        )
    countable(name, sizes, got(sizes))
    return sizes


def countable(name: str, shape: tuple[int, ...], what: str) -> None:
    """Raise GeometryError where an array of this shape would have elements that int64 cannot count."""
    if math.prod(max(size, 1) for size in shape) > INT64:
        raise GeometryError(name, f"{what} has more elements than {INT64}, which is the most; give less")


def group_count(groups: Any, count: int, what: str) -> int:
    """`groups` as an int that divides `count`, told as `what`, "the {} filters"; else GeometryError."""
    number = whole("groups", groups)
    if number < 1 or count % number:
        things = what.format(got(count))
        raise GeometryError(
            "groups", f"{got(number)} does not divide {things}; give a divisor of {got(count)}"
        )
    return number


def filter_groups(count: int, groups: Any) -> None:
    """Raise GeometryError unless `groups` divides the number of filters."""
    group_count(groups, count, "the {} filters")


def indices(name: str, numbers: Any, sizes: tuple[int, ...], what: str) -> tuple[int, ...]:
    """`numbers` as whole numbers, each an index below the one of `sizes` at its place.

    Raises:
        MappingIndexError: another count of numbers, or one out of range. GeometryError: no whole number.
    """
    digits = tuple(whole(name, number) for number in listed(name, numbers))
    if len(digits) != len(sizes) or not all(0 <= d < size for d, size in zip(digits, sizes, strict=True)):
        raise MappingIndexError(name, f"{got(digits)} is not in {what} {sizes}")
    return digits


def listed(name: str, numbers: Any) -> tuple[Any, ...]:
    """The elements of any iterable; MappingIndexError for what is none."""
    if not isinstance(numbers, Iterable) or isinstance(numbers, str):
        raise MappingIndexError(name, f"expected one number for each axis, got {got(numbers)}")
    return tuple(numbers)
