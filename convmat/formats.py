"""Floating-point formats: how fine, how large, and how numbers are rounded to them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Format(NamedTuple):
    """A binary floating-point format, as IEEE 754 describes them."""

    name: str
    bits: int
    """Of the significand, the hidden one included."""
    largest: float
    tiny: float
    """The least normal number."""
    overflow: float = math.inf
    """What is rounded beyond the largest number becomes: infinity, or NaN where there is none."""

    @property
    def least(self) -> float:
        """The least subnormal number."""
        return math.ldexp(self.tiny, 1 - self.bits)

    @property
    def u(self) -> float:
        """The unit roundoff: rounding moves a normal number by at most its u-fold."""
        return 2.0**-self.bits

    def round(self, values: Array) -> Array:
        """The nearest numbers of the format, ties to even, in float32 or float64 as `values` are."""
        rounded = self._rounded(values, np.rint)
        over = np.abs(rounded) > self.largest
        over &= np.isfinite(values)
        np.copyto(rounded, np.copysign(rounded.dtype.type(self.overflow), rounded), where=over)
        if math.isnan(self.overflow):
            rounded[np.isinf(rounded)] = math.nan
        return rounded

    def truncate(self, values: Array) -> Array:
        """The nearest numbers of the format on the side of zero, in float32 or float64 as `values` are."""
        cut = self._rounded(values, np.trunc)
        return np.where(np.isinf(values), cut, np.clip(cut, -self.largest, self.largest))

    @np.errstate(invalid="ignore")
    def _rounded(self, values: Array, to_whole: Any) -> Array:
        """Multiples of the last place that the values have in the format, as `to_whole` chooses them."""
        values = np.asarray(values)
        _, exponent = np.frexp(values)  # values = m·2^exponent, 1/2 <= |m| < 1
        least_exponent = math.frexp(self.tiny)[1]
        place = np.maximum(exponent, least_exponent, dtype=np.int32) - np.int32(self.bits)
        quantum = np.ldexp(values.dtype.type(1), place)
        rounded = np.asarray(to_whole(values / quantum) * quantum)
        return np.where(np.isfinite(values), rounded, values)


def _format(name: str, bits: int, largest: float, exponent: int, overflow: float = math.inf) -> Format:
    """The format whose least normal number is 2^exponent."""
    return Format(name, bits, largest, 2.0**exponent, overflow)


FORMATS = {
    form.name: form
    for form in (
        _format("float64", 53, (2 - 2.0**-52) * 2.0**1023, -1022),
        _format("float32", 24, (2 - 2.0**-23) * 2.0**127, -126),
        _format("tf32", 11, (2 - 2.0**-10) * 2.0**127, -126),
        _format("bfloat16", 8, (2 - 2.0**-7) * 2.0**127, -126),
        _format("float16", 11, 65504.0, -14),
        # OCP OFP8 1.0, and the variants of ml_dtypes: "fn" without infinity, "uz" without negative zero.
        _format("float8_e5m2", 3, 57344.0, -14),
        _format("float8_e5m2fnuz", 3, 57344.0, -15, math.nan),
        _format("float8_e4m3", 4, 240.0, -6),
        _format("float8_e4m3fn", 4, 448.0, -6, math.nan),
        _format("float8_e4m3fnuz", 4, 240.0, -7, math.nan),
        _format("float8_e4m3b11fnuz", 4, 30.0, -10, math.nan),
        _format("float8_e3m4", 5, 15.5, -2),
    )
}
"""The formats by their names, which are those of NumPy and ml_dtypes, and NVIDIA's of TF32."""
