"""Roundings of accumulators times a scale, each under the name of who rounds so, exact in integers.

A rounding is a function of accumulators, int64 of any shape, and of `Scales` that broadcast against them. It
returns int64, before the output's zero point is added and the activation's range cuts off. The order of these
last two steps is no part of it: onnxruntime and XNNPACK cut off at the range less the zero point and add the
zero point then, FBGEMM and QNNPACK the other way round, which comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import IntegerRangeError, SettingError

Array = NDArray[Any]

_INT32 = np.iinfo(np.int32)
_LOW_BITS = 27  # of a double's 53; then both parts times an int32 fit in int64
_ENDS = 1 << 40  # far beyond every dtype of a result


class Scales(NamedTuple):
    """Scales above 0, one or one for each filter: as reals, and as multiplier · 2^(shift − 31)."""

    real: NDArray[np.float64]
    multiplier: NDArray[np.int64]
    """Below 2^31."""
    shift: NDArray[np.int64]
    """To the left where above 0."""

    @classmethod
    def of_reals(cls, real: Any) -> Scales:
        """Of real numbers, each with the fixed-point number that TensorFlow Lite's QuantizeMultiplier makes.

        The multiplier is at least 2^30, rounded half away from zero. A scale below 2^-32 is 0; one that would
        take a shift above 30 is the largest there is.
        """
        real = np.asarray(real, np.float64)
        fraction, shift = np.frexp(real)
        multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
        carried = multiplier == 1 << 31
        multiplier, shift = multiplier >> carried, shift + carried
        small, large = shift < -31, shift > 30
        multiplier = np.where(small, 0, np.where(large, _INT32.max, multiplier))
        return cls(real, multiplier, np.where(small, 0, np.minimum(shift, 30)).astype(np.int64))

    @classmethod
    def of_fixed(cls, multiplier: Any, shift: Any) -> Scales:
        """Of pairs of int32: the reals are exactly as large."""
        pairs = np.broadcast_arrays(np.asarray(multiplier, np.int64), np.asarray(shift, np.int64))
        return cls(np.ldexp(pairs[0].astype(np.float64), pairs[1] - 31), *pairs)

    def of_filters(self, k: Array) -> Scales:
        """Those of the filters `k`; of all of them, where there is one."""
        if self.real.ndim == 0:
            return self
        return Scales(self.real[k], self.multiplier[k], self.shift[k])


def tflite(acc: Array, scales: Scales) -> Array:
    """TensorFlow Lite's double rounding: a doubling high multiply, then a division by a power of two.

    acc·2^max(s, 0) · m / 2^31 is rounded half up, and that divided by 2^max(−s, 0) and rounded again, half
    away from zero. What the shift to the left takes beyond int32 means nothing in C; here it saturates.

    Source: MultiplyByQuantizedMultiplier of tensorflow/lite/kernels/internal/common.h as it is built by
    default, with SaturatingRoundingDoublingHighMul and RoundingDivideByPOT of gemmlowp's fixedpoint.h. Jacob
    et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (CVPR 2018), Section 2.2, has the idea.

    Raises:
        IntegerRangeError: an accumulator beyond int32.
    """
    _check_bits(acc, 32, "tflite")
    left = np.clip(acc << np.maximum(scales.shift, 0), _INT32.min, _INT32.max)
    product = (left * scales.multiplier + (1 << 30)) >> 31
    right = np.maximum(-scales.shift, 0)
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (product < 0)
    return np.asarray((product >> right) + ((product & mask) > threshold))


def tflite_single(acc: Array, scales: Scales) -> Array:
    """TensorFlow Lite's single rounding: acc · m / 2^(31 − s), rounded half up.

    Source: MultiplyByQuantizedMultiplier of tensorflow/lite/kernels/internal/common.h, built with
    TFLITE_SINGLE_ROUNDING. CMSIS-NN's arm_nn_requantize with CMSIS_NN_USE_SINGLE_ROUNDING is the same.

    Raises:
        IntegerRangeError: an accumulator beyond int32.
    """
    _check_bits(acc, 32, "tflite-single")
    right = 31 - scales.shift
    return np.asarray((acc * scales.multiplier + (1 << (right - 1))) >> right)


def tflite_16x8(acc: Array, scales: Scales) -> Array:
    """TensorFlow Lite's rounding of 16×8 layers: acc · m' / 2^(15 − s), rounded half up.

    m' = ⌊(m + 2^15) / 2^16⌋ is the multiplier reduced to 16 bits, 2^15 − 1 where m is at least 2^31 − 2^16.

    Source: MultiplyByQuantizedMultiplier for int64 of tensorflow/lite/kernels/internal/common.h, which asks
    for accumulators of 48 bits and shifts of −31 to 7.

    Raises:
        IntegerRangeError: an accumulator beyond 48 bits. SettingError: a shift above 7.
    """
    _check_bits(acc, 48, "tflite-16x8")
    if scales.shift.max(initial=0) > 7:
        raise SettingError("quantization", f"a shift is {scales.shift.max()}; tflite-16x8 takes -31 to 7")
    reduced = np.minimum((scales.multiplier + (1 << 15)) >> 16, 0x7FFF)
    right = 15 - scales.shift
    return np.asarray((acc * reduced + (1 << (right - 1))) >> right)


def cmsis_nn(acc: Array, scales: Scales) -> Array:
    """CMSIS-NN's rounding of int32 accumulators, arm_nn_requantize: the same function as `tflite`.

    Its doubling high multiply adds 2^30 and shifts, where gemmlowp's nudges by the sign and divides: both
    round half up. Its division by a power of two asks for the sign of the quotient, gemmlowp's for that of
    the dividend: a quotient rounded down is below 0 where the dividend is. What gemmlowp saturates, −2^31
    times −2^31, no multiplier above 0 makes.

    Source: arm_nn_doubling_high_mult_no_sat and arm_nn_divide_by_power_of_two of CMSIS-NN's
    arm_nnsupportfunctions.h. For int64 accumulators arm_nn_requantize_s64 there is `tflite_16x8`: it shifts
    by one less, adds 1 and shifts again, which rounds half up, too.

    Raises:
        IntegerRangeError: an accumulator beyond int32.
    """
    return tflite(acc, scales)


def float32(acc: Array, scales: Scales) -> Array:
    """float32(acc) · float32(scale), rounded to float32 and then half to even.

    Source: onnxruntime's MlasRequantizeOutput, XNNPACK's fp32 requantization, FBGEMM's and PyTorch's
    QNNPACK's for x86. Accumulators above 2^24 lose their last bits before they are multiplied.
    """
    largest = np.finfo(np.float32).max
    scale = np.minimum(scales.real, largest).astype(np.float32)
    with np.errstate(over="ignore"):
        product = np.rint(acc.astype(np.float32) * scale)
    return np.asarray(np.clip(product, -float(_ENDS), float(_ENDS)).astype(np.int64))


def floor(acc: Array, scales: Scales) -> Array:
    """acc · scale rounded down, as a plain arithmetic shift to the right does."""
    down, _ = _divided(acc, scales)
    return down


def half_up(acc: Array, scales: Scales) -> Array:
    """acc · scale, exact, rounded to the nearest, from halfway towards +∞."""
    down, above = _divided(acc, scales)
    return np.asarray(down + (above >= 0))


def half_even(acc: Array, scales: Scales) -> Array:
    """acc · scale, exact, rounded to the nearest, from halfway to the even one (IEEE 754's default)."""
    down, above = _divided(acc, scales)
    return np.asarray(down + ((above > 0) | ((above == 0) & (down % 2 == 1))))


def half_away(acc: Array, scales: Scales) -> Array:
    """acc · scale, exact, rounded to the nearest, from halfway away from zero (C's round)."""
    down, above = _divided(acc, scales)
    return np.asarray(down + ((above > 0) | ((above == 0) & (down >= 0))))


def truncated(acc: Array, scales: Scales) -> Array:
    """acc · scale, exact, cut off towards zero, as C's division does: a mistake rather than a rounding."""
    return np.asarray(np.sign(acc) * floor(np.abs(acc), scales))


Rounding = Callable[[Array, Scales], Array]
ROUNDINGS: dict[str, Rounding] = {
    "tflite": tflite,
    "tflite-single": tflite_single,
    "tflite-16x8": tflite_16x8,
    "float32": float32,
    "cmsis-nn": cmsis_nn,
    "floor": floor,
    "half-up": half_up,
    "half-even": half_even,
    "half-away": half_away,
    "gemmlowp": tflite,
}
"""By name."""
FIXED = ("tflite", "tflite-single", "tflite-16x8")
"""Those, by their first names, that multiply by a fixed-point number, whatever the scale was given as."""


def canonical(name: str, wide: bool) -> str:
    """The first name of a rounding that has several: of int32 accumulators, or of `wide` ones, int64."""
    same = {"gemmlowp": "tflite", "cmsis-nn": "tflite-16x8" if wide else "tflite"}
    return same.get(name, name)


def _divided(acc: Array, scales: Scales) -> tuple[Array, Array]:
    """⌊acc · scale⌋, and the sign of what is left, less a half: 0 where the product lies halfway.

    Accumulators beyond int32 are Python's integers for so long.
    """
    # Above 2^24 every accumulator but 0 is cut off at the end of the range, whatever the zero point.
    fraction, exponent = np.frexp(np.minimum(scales.real, 2.0**24))
    mantissa = (fraction * 2.0**53).astype(np.int64)  # scale = mantissa · 2^(exponent − 53)
    shift = np.minimum(
        53 - exponent.astype(np.int64) - _LOW_BITS, 62
    )  # 2^-62 of an int32 is less than a half
    if wide := not _within(acc, 32):
        shift = 53 - exponent.astype(np.int64) - _LOW_BITS
        acc, mantissa, shift = (a.astype(object) for a in (acc, mantissa, shift))
    # acc · mantissa = top · 2^27 + rest, 0 ≤ rest < 2^27: 85 bits in two integers.
    low = (1 << _LOW_BITS) - 1
    rest = acc * (mantissa & low)
    top = acc * (mantissa >> _LOW_BITS) + (rest >> _LOW_BITS)
    rest = rest & low
    down = top >> shift
    above = top - (down << shift) - (1 << (shift - 1))  # a half is where this and the rest are 0
    sign = np.where(above == 0, np.sign(rest), np.sign(above))
    if wide:
        down = np.clip(down, -_ENDS, _ENDS)
    return np.asarray(down).astype(np.int64), np.asarray(sign).astype(np.int64)


def _within(acc: Array, bits: int) -> bool:
    return bool(acc.min(initial=0) >= -1 << (bits - 1) and acc.max(initial=0) < 1 << (bits - 1))


def _check_bits(acc: Array, bits: int, rounding: str) -> None:
    if not _within(acc, bits):
        extreme = max(acc.min(initial=0), acc.max(initial=0), key=abs)
        raise IntegerRangeError(
            "quantization",
            f"an accumulator is {extreme}, {rounding} takes {bits} bits; give smaller inputs or weights, or "
            "another rounding",
        )
