"""What a probe computes with: which numbers its dtypes and arithmetic hold, and how many bits sums leave."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import DTypeError

PROBE_DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16")
ARITHMETICS = {
    "tf32": (11, 24),
    "bfloat16": (8, 24),
    "float16": (11, 24),
    "float16-accumulate": (11, 11),
    "bfloat16-accumulate": (8, 8),
}
"""Bits of the operands, and of the sums."""


class Operands(NamedTuple):
    """The dtypes of x and kernel, and the arithmetic, whose operands they fit; None is that of the dtypes."""

    x: np.dtype[Any]
    kernel: np.dtype[Any]
    arithmetic: str | None = None

    def check(self) -> None:
        """Raise DTypeError where they do not go together."""
        for name, dtype in (("dtype", self.x), ("kernel_dtype", self.kernel)):
            if str(dtype) not in PROBE_DTYPES:
                raise DTypeError(name, f"got {dtype}; give one of {', '.join(PROBE_DTYPES)}")
        if self.x != self.kernel and (self.floats or self.kernel.kind == "f"):
            raise DTypeError(
                "kernel_dtype",
                f"got {self.kernel} for an input of {self.x}; give the same, or integers",
            )
        if self.arithmetic is None:
            return
        if self.arithmetic not in ARITHMETICS:
            raise DTypeError("arithmetic", f"got {self.arithmetic!r}; give one of {', '.join(ARITHMETICS)}")
        if not self.floats:
            raise DTypeError("arithmetic", f"{self.arithmetic} is of floats, not of {self.x}; leave it out")

    @property
    def floats(self) -> bool:
        """Whether they are floats, not integers."""
        return self.x.kind == "f"

    @property
    def summed(self) -> np.dtype[Any]:
        """The dtype of bias and Y."""
        return self.x if self.floats else np.dtype(np.int32)

    @property
    def accumulator(self) -> np.dtype[Any]:
        """The dtype of the sums before the bias."""
        return np.dtype(np.float32) if self.x == np.float16 else self.summed

    @property
    def sum_bits(self) -> int:
        """Bits of whole numbers that the accumulators hold, all of them."""
        own = _bits(self.accumulator)
        return own if self.arithmetic is None else min(own, ARITHMETICS[self.arithmetic][1])

    @property
    def limit(self) -> int:
        """Whole numbers below it are exact in the accumulators and in Y."""
        return 1 << min(self.sum_bits, _bits(self.summed))

    @property
    def ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The range of x and that of kernel in which each whole number is one of theirs."""
        if not self.floats:
            x, kernel = map(np.iinfo, self[:2])
            return (int(x.min), int(x.max)), (int(kernel.min), int(kernel.max))
        bits = _bits(self.x)
        most = (1 << (min(bits, ARITHMETICS[self.arithmetic][0]) if self.arithmetic else bits)) - 1
        return (-most, most), (-most, most)

    def within(self, *most: int) -> list[tuple[int, int]]:
        """The least and the largest whole number of each, of at most these magnitudes."""
        return [(max(low, -m), min(high, m)) for (low, high), m in zip(self.ranges, most, strict=True)]

    @property
    def is_narrow(self) -> bool:
        """Whether they have no more exponents than float16, from 2^-14 to 2^15."""
        return self.x == np.float16 or (self.arithmetic or "").startswith("float16")

    def units(self, case: str) -> tuple[int, int]:
        """The exponents e of x and of kernel, which are whole multiples of 2^e in a case.

        Where the arithmetic has a wider range than float16, they lie outside float16's.
        """
        if not self.floats or case == "integers":
            return 0, 0
        if case == "bias":
            return 0, -3
        if self.is_narrow:
            return -5, -5
        return {"wide-x": (-40, 20), "wide-kernel": (20, -40), "extremes": (-20, -20)}[case]

    def most(self, case: str, terms: int) -> tuple[tuple[int, int], int]:
        """The largest magnitudes of x and kernel in a case, and the taps of each filter that are not 0.

        The product of the three is below 2^p, p the bits of the sums. In `extremes` of float32 and float64 it
        is more, but each filter has one such tap, whose product is rounded once; it has at most 64 bits, so
        that accumulators that are wider, as long double is, do not round it before.
        """
        x, kernel = (max(-low, high) for low, high in self.ranges)
        below = (1 << self.sum_bits) - 1
        if case == "extremes":
            rounded = self.floats and self.arithmetic is None
            kernel = min(kernel, (1 << 64 - x.bit_length()) - 1 if rounded else below // x)
            return (x, kernel), max(1, min(terms, below // (x * kernel)))
        taps, spare = (min(terms, 64), 7) if self.sum_bits >= 24 else (min(terms, 2), 2)
        wide, small = (x, kernel) if case == "wide-x" else (kernel, x)
        wide = min(wide, (1 << self.sum_bits - spare) - 1)
        small = min(small, below // (wide * taps))
        return ((wide, small) if case == "wide-x" else (small, wide)), taps

    def check_numbers(self, name: str, array: NDArray[Any]) -> None:
        """Raise DTypeError where an array holds what is no number, or none of the arithmetic."""
        if not np.isfinite(array).all():
            raise DTypeError(name, "holds numbers that are not finite")
        if name == "bias" or self.arithmetic is None:
            return
        odd, exponents = _odd(array)
        fits = odd.max() <= self.ranges[0][1]
        if self.is_narrow:
            fits &= exponents.min() >= -14 and np.abs(array).max() <= np.finfo(np.float16).max
        if not fits:
            raise DTypeError(name, f"holds numbers that {self.arithmetic} does not")


def whole_numbers(array: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """|array| / 2^e, whole numbers, and the largest such e; 0 of zeros alone."""
    odd, exponents = _odd(array)
    unit = int(exponents.min(initial=1 << 11, where=odd > 0)) if odd.any() else 0
    return np.where(odd, np.ldexp(odd.astype(np.float64), exponents - unit), 0.0), unit


def _bits(dtype: np.dtype[Any]) -> int:
    """Bits of the whole numbers below which the dtype has all."""
    return int(np.finfo(dtype).nmant) + 1 if dtype.kind == "f" else int(np.iinfo(dtype).max).bit_length()


def _odd(array: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """|array| as odd · 2^exponent; zeros as 0 · 2^0."""
    mantissas, exponents = np.frexp(np.abs(array.astype(np.float64)))
    numbers = np.ldexp(mantissas, 53).astype(np.int64)
    lowest = np.maximum(numbers & -numbers, 1)
    zeros = np.frexp(lowest.astype(np.float64))[1] - 1
    return numbers // lowest, np.where(numbers, exponents - 53 + zeros, 0)
