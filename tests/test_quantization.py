"""Requantization: every rounding against exact fractions, and gemmlowp's against its own arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from convmat.errors import DTypeError, IntegerRangeError, SettingError
from convmat.verification.quantization import DTYPES, ROUNDINGS, Requantize, requantize

LOW, HIGH = -(2**31), 2**31 - 1
accumulators = st.integers(LOW, HIGH) | st.integers(-300, 300) | st.sampled_from([LOW, HIGH, 0, 1, -1])
scales = (
    st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
    | st.floats(2.0**-33, 4)
    | st.sampled_from([0.5, 0.25, 0.75, 1.0, 1.5, 2.0**-31, 2.0**-32, 2.0**24, 2.0**31, 5e-324, 1 - 2.0**-53])
)


def nearest(value: Fraction, rounding: str) -> int:
    down = math.floor(value)
    rest = value - down
    if rest == Fraction(1, 2):
        return down + {"half-up": True, "half-even": down % 2 == 1, "half-away": value > 0}[rounding]
    return down + (rest > Fraction(1, 2))


def by_gemmlowp(acc: int, scale: float) -> int:
    """As fixedpoint.h has it in C: division cuts off, >> rounds down."""
    q, shift = math.frexp(scale)
    multiplier = nearest(Fraction(q) * 2**31, "half-away")
    if multiplier == 2**31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0
    if shift > 30:
        multiplier, shift = 2**31 - 1, 30
    acc = min(max(acc * 2 ** max(shift, 0), LOW), HIGH)
    ab = acc * multiplier
    nudge = 2**30 if ab >= 0 else 1 - 2**30
    quotient = abs(ab + nudge) // 2**31
    high = quotient if ab + nudge >= 0 else -quotient
    exponent = max(-shift, 0)
    mask = 2**exponent - 1
    remainder, threshold = high & mask, (mask >> 1) + (high < 0)
    return (high >> exponent) + (remainder > threshold)


@given(
    st.lists(accumulators, min_size=1, max_size=20),
    scales,
    st.sampled_from(ROUNDINGS),
    st.sampled_from(DTYPES),
)
@example([1, 3, -1, -3, 5, -5], 0.5, "half-even", "int8")
@example([LOW, HIGH], 1.0, "gemmlowp", "int16")
def test_every_rounding_is_exact(values: list[int], scale: float, rounding: str, dtype: str) -> None:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    zero_point = high // 3
    found = requantize(np.array(values), scale, zero_point, rounding, dtype)
    assert found.dtype == dtype
    for acc, q in zip(values, found.tolist(), strict=True):
        value = (
            by_gemmlowp(acc, scale) if rounding == "gemmlowp" else nearest(acc * Fraction(scale), rounding)
        )
        assert q == min(max(value + zero_point, low), high), (acc, scale)


@given(st.integers(-(2**15), 2**15), st.integers(1, 2**18), st.sampled_from(ROUNDINGS[:3]))
def test_what_is_halfway_is_rounded_as_named(whole: int, odd: int, rounding: str) -> None:
    """Ties proper: acc · m / 2^k is a whole number and a half."""
    acc, scale = (2 * whole + 1) * (2 * odd + 1), 0.5 / (2 * odd + 1)
    if LOW <= acc <= HIGH:
        value = nearest(acc * Fraction(scale), rounding)
        assert requantize(np.array([acc]), scale, 0, rounding, "int16") == np.clip(value, -(2**15), 2**15 - 1)
    tie = 2 * whole + 1
    assert requantize(np.array(tie), 0.5, 0, rounding, "int16") == np.clip(
        nearest(Fraction(tie, 2), rounding), -(2**15), 2**15 - 1
    )


@pytest.mark.parametrize(
    "rounding, expected",
    [
        ("half-up", [1, 0, 2, -1, 3, -2]),
        ("half-even", [0, 0, 2, -2, 2, -2]),
        ("half-away", [1, -1, 2, -2, 3, -3]),
        ("gemmlowp", [1, 0, 2, -1, 3, -2]),
    ],
)
def test_the_table_of_halves(rounding: str, expected: list[int]) -> None:
    assert requantize(np.array([1, -1, 3, -3, 5, -5]), 0.5, 0, rounding).tolist() == expected


def test_gemmlowp_rounds_twice() -> None:
    """Some of what is a little below a half is rounded to it first, and then up."""
    scale = 0.0123
    once = {a: nearest(a * Fraction(scale), "half-away") for a in range(1, 4000)}
    twice = [a for a, value in once.items() if by_gemmlowp(a, scale) != value]
    assert twice
    single = requantize(np.array(twice), scale, 0, "half-away", "int16")
    double = requantize(np.array(twice), scale, 0, "gemmlowp", "int16")
    assert (double - single == 1).all()


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)], ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert requantize(np.zeros(shape, np.int32), 0.1, 5).shape == shape
    assert (requantize(np.zeros(shape, np.int32), 0.1, 5) == 5).all()


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_an_accumulator_beyond_int32_is_named(value: int) -> None:
    with pytest.raises(IntegerRangeError, match=f"^requantize: an accumulator is {value}, beyond int32, "):
        requantize(np.array([0, value]), 0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale": 0.0}, r"the scale is 0.0; give one finite number above 0"),
        ({"scale": -1.0}, r"the scale is -1.0;"),
        ({"scale": math.nan}, r"the scale is nan;"),
        ({"scale": math.inf}, r"the scale is inf;"),
        ({"rounding": "up"}, r"got 'up'; expected one of half-up, half-even, half-away, gemmlowp"),
        ({"dtype": "int64"}, r"got 'int64'; expected one of int8, uint8, int16"),
        ({"zero_point": 128}, r"the zero point 128 is no int8; give one of -128\.\.127"),
        ({"zero_point": -1, "dtype": "uint8"}, r"the zero point -1 is no uint8; give one of 0\.\.255"),
    ],
)
def test_what_makes_no_requantization(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=f"^requantize: {message}"):
        requantize(np.zeros(1, int), **({"scale": 0.5} | arguments))  # type: ignore[arg-type]


def test_accumulators_are_integers() -> None:
    with pytest.raises(DTypeError, match=r"^requantize: has accumulators of float64;"):
        requantize(np.zeros(1), 0.5)


def test_the_dtype_is_as_said_or_that_of_the_result() -> None:
    plain = Requantize(0.5)
    assert plain.resolved().dtype == "int8"
    assert plain.resolved(np.dtype(">i2")).dtype == "int16"
    assert plain.resolved(np.dtype("f4")).dtype == "int8"
    assert plain._replace(dtype="uint8").resolved(np.dtype("i2")).dtype == "uint8"
    assert str(plain) == "scale 0.5, zero point 0, half-even, int8"
