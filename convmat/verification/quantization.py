"""Requantization: int32 accumulators to int8, uint8 or int16, rounded as kernels round, in exact integers.

q = saturate(round(acc · scale) + zero_point). What differs from kernel to kernel is the rounding, and with
it the last bit: so it is named, and nothing here is computed in floating point.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.checks import finite, got, several
from convmat.errors import DTypeError, IntegerRangeError, SettingError

ROUNDINGS = ("half-up", "half-even", "half-away", "gemmlowp")
DTYPES = ("int8", "uint8", "int16")

_INT32 = np.iinfo(np.int32)
_LOW_BITS = 27  # of a double's 53; then both parts times an int32 fit in int64


class Requantize(NamedTuple):
    """How accumulators become a quantized result."""

    scale: float
    """Of the input times that of the weights, by that of the output: above 0."""
    zero_point: int = 0
    rounding: str = "half-even"
    """One of `ROUNDINGS`."""
    dtype: str | None = None
    """One of `DTYPES`; None is that of the result that is judged, or int8."""

    @classmethod
    def of(cls, given: Any) -> Requantize:
        """From (scale, zero_point, rounding, dtype), of which the last ones may be left out.

        Raises:
            SettingError: something else.
        """
        parts = several(given)
        if parts is None or not 1 <= len(parts) <= len(cls._fields):
            raise SettingError(
                "requantize", f"got {got(given)}; expected ({', '.join(cls._fields)}), as in (0.004, -3)"
            )
        return cls(*parts)

    def check(self) -> Requantize:
        """Itself.

        Raises:
            SettingError: what makes no requantization.
        """
        for value, choices in (
            (self.rounding, ROUNDINGS),
            (DTYPES[0] if self.dtype is None else self.dtype, DTYPES),
        ):
            if not isinstance(value, str) or value not in choices:
                raise SettingError("requantize", f"got {got(value)}; expected one of {', '.join(choices)}")
        if not finite(self.scale) or self.scale <= 0:
            raise SettingError(
                "requantize", f"the scale is {got(self.scale)}; give one finite number above 0"
            )
        if not isinstance(self.zero_point, (int, np.integer)):
            raise SettingError("requantize", f"the zero point is {got(self.zero_point)}; give a whole number")
        if self.dtype is not None:
            self.limits(np.dtype(self.dtype))
        return self

    def limits(self, dtype: np.dtype[Any]) -> tuple[int, int]:
        """The least and greatest value of `dtype`.

        Raises:
            SettingError: the zero point is none of its values.
        """
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        if not low <= self.zero_point <= high:
            raise SettingError(
                "requantize",
                f"the zero point {got(self.zero_point)} is no {dtype}; give one of {low}..{high}",
            )
        return low, high

    def resolved(self, result: np.dtype[Any] | None = None) -> Requantize:
        """With its dtype: as said, or that of `result` where it is one of `DTYPES`, or int8."""
        name = "" if result is None else result.newbyteorder("=").name
        own = name if name in DTYPES else DTYPES[0]
        return self._replace(dtype=own if self.dtype is None else self.dtype).check()

    def apply(self, accumulators: NDArray[Any]) -> NDArray[Any]:
        """As `requantize`."""
        return requantize(accumulators, self.scale, self.zero_point, self.rounding, self.dtype or DTYPES[0])

    def __str__(self) -> str:
        return f"scale {self.scale}, zero point {self.zero_point}, {self.rounding}, {self.dtype or DTYPES[0]}"


def requantize(
    accumulators: NDArray[Any],
    scale: float,
    zero_point: int = 0,
    rounding: str = "half-even",
    dtype: str = "int8",
) -> NDArray[Any]:
    """saturate(round(acc · scale) + zero_point), in `dtype`, of the shape of `accumulators`.

    Args:
        accumulators: integers within int32.
        scale: a finite double above 0, taken as the exact number that it is.
        rounding: to the nearest integer, and from halfway between two "half-up" towards +∞, "half-even" to
            the even one, "half-away" away from zero. Or "gemmlowp": scale = m · 2^(s − 31), where m is an
            int32 of at least 2^30, rounded half away from zero; the product acc·2^max(s, 0) · m / 2^31 is
            rounded half up (saturating rounding doubling high multiply), and then divided by 2^max(−s, 0)
            and rounded again, half away from zero (rounding divide by a power of two).
        dtype: "int8", "uint8" or "int16", to whose range the result is cut off.

    Raises:
        DTypeError: no integers. IntegerRangeError: an accumulator beyond int32. SettingError: a scale, zero
            point, rounding or dtype that makes no requantization.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference" (CVPR 2018), Section 2.2; for "gemmlowp" that library's fixedpoint.h, and TensorFlow Lite's
    QuantizeMultiplier and MultiplyByQuantizedMultiplier.
    """
    low, high = Requantize(scale, zero_point, rounding, dtype).check().limits(np.dtype(dtype))
    if accumulators.dtype.kind not in "biu":
        raise DTypeError("requantize", f"has accumulators of {accumulators.dtype}; they are integers")
    for extreme in (accumulators.min(initial=0), accumulators.max(initial=0)):
        if not _INT32.min <= extreme <= _INT32.max:
            raise IntegerRangeError(
                "requantize",
                f"an accumulator is {extreme}, beyond int32, {_INT32.min}..{_INT32.max}; "
                "give smaller inputs or weights",
            )
    acc = accumulators.astype(np.int64)
    rounded = _by_gemmlowp(acc, scale) if rounding == "gemmlowp" else _to_nearest(acc, scale, rounding)
    return np.clip(rounded + zero_point, low, high).astype(dtype)


def _to_nearest(acc: NDArray[np.int64], scale: float, rounding: str) -> NDArray[np.int64]:
    # Above 2^24 every accumulator but 0 is cut off at the end of the range, whatever the zero point.
    fraction, exponent = math.frexp(min(scale, 2.0**24))
    mantissa = int(fraction * 2**53)  # scale = mantissa · 2^(exponent − 53)
    # acc · mantissa = top · 2^27 + rest, 0 ≤ rest < 2^27: 85 bits in two integers.
    rest = acc * (mantissa & (1 << _LOW_BITS) - 1)
    top = acc * (mantissa >> _LOW_BITS) + (rest >> _LOW_BITS)
    rest &= (1 << _LOW_BITS) - 1
    shift = min(53 - exponent - _LOW_BITS, 62)  # from 2^-62 on, all is below a half in any case
    down = top >> shift
    above = top - (down << shift) - (1 << shift - 1)  # a half is where this and the rest are 0
    up = (above > 0) | ((above == 0) & (rest > 0))
    tie = (above == 0) & (rest == 0)
    if rounding == "half-up":
        up |= tie
    elif rounding == "half-even":
        up |= tie & (down % 2 == 1)
    else:
        up |= tie & (down >= 0)
    return np.asarray(down + up)


def _by_gemmlowp(acc: NDArray[np.int64], scale: float) -> NDArray[np.int64]:
    fraction, shift = math.frexp(scale)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return np.zeros_like(acc)
    if shift > 30:
        multiplier, shift = (1 << 31) - 1, 30
    left = np.clip(acc << max(shift, 0), _INT32.min, _INT32.max)
    product = (left * multiplier + (1 << 30)) >> 31
    exponent = max(-shift, 0)
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (product < 0)
    return np.asarray((product >> exponent) + ((product & mask) > threshold))
