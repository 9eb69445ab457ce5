"""How large numbers are, and their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def mantissa_bits(dtype: np.dtype[Any]) -> int:
    """Bits of the largest whole numbers of which the dtype has all."""
    if dtype.kind in "fc":
        return int(np.finfo(dtype).nmant) + 1
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max).bit_length()


def parts_of(a: Array) -> tuple[Array, ...]:
    """Views of the real and the imaginary part, or the array itself."""
    return (a.real, a.imag) if a.dtype.kind == "c" else (a,)


def magnitude(a: Array) -> NDArray[np.float64]:
    """|a|, which of the least integer is none of its own dtype."""
    return np.asarray(np.abs(a.astype(np.result_type(a.dtype, np.float64))), np.float64)


def least_normal(a: Array, tiny: float) -> float:
    """Below which numbers are subnormal, in their own dtype or where `tiny` is the least normal number."""
    return max(tiny, float(np.finfo(a.dtype).tiny)) if a.dtype.kind in "fc" else 0.0


@np.errstate(all="ignore")
def has_subnormal(a: Array, tiny: float) -> bool:
    """Whether `subnormal` is above 0 anywhere."""
    least = least_normal(a, tiny)
    below = (
        np.count_nonzero(np.abs(part) < least) > part.size - np.count_nonzero(part) for part in parts_of(a)
    )
    return bool(least) and any(below)


@np.errstate(all="ignore")
def subnormal(a: Array, tiny: float) -> NDArray[np.float64]:
    """As much of |a| as is subnormal, in its own dtype or where `tiny` is the least normal number."""
    least = least_normal(a, tiny)
    sizes = (np.abs(part).astype(np.float64) for part in parts_of(a))
    return np.asarray(sum(np.where(size < least, size, 0.0) for size in sizes), np.float64)
