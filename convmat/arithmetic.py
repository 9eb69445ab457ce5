"""In which dtype sums of products are exact, or within the bound."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import DTypeError, IntegerRangeError

# Integers whose partial sums stay below this are exact in the dtype, in whatever order they are added.
_HOLDS = ((np.dtype(np.float32), 1 << 24), (np.dtype(np.float64), 1 << 53), (np.dtype(np.int64), 1 << 63))


class Arithmetic(NamedTuple):
    """The dtypes that products are summed in and returned in."""

    accumulator: np.dtype[Any]
    result: np.dtype[Any]
    pairs: bool = False
    """Whether int16 holds all factors and int32 all sums, so that instructions may multiply two at a time."""


def choose_arithmetic(
    terms: int, x: NDArray[Any], weights: NDArray[Any], bias: NDArray[Any] | None = None
) -> Arithmetic:
    """How to compute sums of `terms` products x·w (+ bias) so that they are exact, or within the bound.

    Floats and complex numbers sum in the widest of their dtypes, float16 in float32. Integers are exact: no
    partial sum is above n·max|x|·max|w| + max|b|. Below 2^24 float32 holds it, below 2^53 float64, below 2^63
    int64. Where int16 and int32 would do as well, `pairs` says so.

    Raises:
        DTypeError: floats wider than float64. IntegerRangeError: sums that could pass 2^63.
    """
    if bias is None:
        known = arithmetic_of(terms, (x.dtype, weights.dtype))
        return known or _exact(terms, _value_peak(x), _value_peak(weights))
    known = arithmetic_of(terms, (x.dtype, weights.dtype, bias.dtype))
    return known or _exact(terms, _value_peak(x), _value_peak(weights), _value_peak(bias))


@lru_cache(maxsize=256)
def arithmetic_of(terms: int, dtypes: tuple[np.dtype[Any], ...]) -> Arithmetic | None:
    """The same by the dtypes alone; None for integers whose values decide.

    Raises:
        DTypeError: floats wider than float64.
    """
    if all(dtype.kind in "biu" for dtype in dtypes):
        peaks = tuple(map(_dtype_peak, dtypes))
        return _exact(terms, *peaks) if _largest_sum(terms, *peaks) < _HOLDS[0][1] else None
    result = np.result_type(*dtypes).newbyteorder("=")
    if result.itemsize > (16 if result.kind == "c" else 8):
        raise DTypeError(
            "input", f"computing in {result} is not supported; use float64 or complex128 at most"
        )
    return Arithmetic(np.dtype(np.float32) if result == np.float16 else result, result)


def _exact(terms: int, *peaks: int) -> Arithmetic:
    peak = _largest_sum(terms, *peaks)
    for dtype, limit in _HOLDS:
        if peak < limit:
            return Arithmetic(dtype, np.dtype(np.int64), peak < 1 << 31 and max(peaks[:2]) < 1 << 15)
    raise IntegerRangeError(
        "input",
        f"sums of {terms} products could reach {peak:.3g}, int64 ends at {2**63 - 1:.3g}; "
        "use smaller integers, or floats",
    )


def _largest_sum(terms: int, x: int, w: int, bias: int = 0) -> int:
    return terms * x * w + bias


def _dtype_peak(dtype: np.dtype[Any]) -> int:
    if dtype.kind == "b":
        return 1
    info = np.iinfo(dtype)
    return max(int(info.max), -int(info.min))


def _value_peak(a: NDArray[Any]) -> int:
    return max(int(a.max()), -int(a.min())) if a.size else 0
