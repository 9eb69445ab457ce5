"""Quantized layers: roundings against hand-worked numbers and their C, the value, its files, the mistakes."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import convmat as cm
from convmat import reference
from convmat.cli import run
from convmat.cli.quantized import quantization_of
from convmat.errors import DTypeError, FileError, IntegerRangeError, SettingError
from convmat.quantization import DTYPES, Quantization
from convmat.roundings import ROUNDINGS, Scales, canonical, truncated
from convmat.verification.diagnosis import diagnose
from tests import quantized
from tests.tools import DIGIT, STROKES, convmat, npy

LOW, HIGH = -(2**31), 2**31 - 1
HALF = 2**30  # the multiplier of a half

# Roundings by hand. scale = multiplier · 2^(shift − 31); "all" is what the others give.
VECTORS: list[tuple[int, int, int, dict[str, int]]] = [
    # 1/2, −1/2, 3/2, … : the first multiply of tflite is the only one, and rounds half up.
    (1, HALF, 0, {"all": 1, "float32": 0, "floor": 0, "half-even": 0}),
    (-1, HALF, 0, {"all": 0, "floor": -1, "half-away": -1}),
    (3, HALF, 0, {"all": 2, "floor": 1}),
    (-3, HALF, 0, {"all": -1, "floor": -2, "float32": -2, "half-even": -2, "half-away": -2}),
    (5, HALF, 0, {"all": 3, "floor": 2, "float32": 2, "half-even": 2}),
    (-5, HALF, 0, {"all": -2, "floor": -3, "half-away": -3}),
    # ±2/4: the multiply gives ±1, and its half goes away from zero.
    (2, HALF, -1, {"all": 1, "floor": 0, "float32": 0, "half-even": 0}),
    (-2, HALF, -1, {"all": 0, "tflite": -1, "floor": -1, "half-away": -1}),
    # 1/4: the multiply rounds 1/2 to 1, and its half goes up: two roundings make 1 of a quarter.
    (1, HALF, -1, {"all": 0, "tflite": 1}),
    # −1/4: the multiply rounds −1/2 to 0.
    (-1, HALF, -1, {"all": 0, "floor": -1}),
    # 3/8: 3/2 is rounded to 2, and 2/4 to 1.
    (3, HALF, -2, {"all": 0, "tflite": 1}),
    # −3/8: −3/2 is rounded to −1, and −1/4 to 0.
    (-3, HALF, -2, {"all": 0, "floor": -1}),
    # −5/8: −5/2 is rounded to −2, and −2/4 away from zero.
    (-5, HALF, -2, {"all": -1}),
    # The largest multiplier, 1 − 2^-31, of 16 bits 1 − 2^-15, as float32 1.
    (1, HIGH, 0, {"all": 1, "floor": 0}),
    (-1, HIGH, 0, {"all": -1}),
    # (2^31 − 1)² / 2^31 = 2^31 − 2 + 2^-31; 16 bits take off 2^16 − 2^-15; float32 rounds both factors up.
    (HIGH, HIGH, 0, {"all": HIGH - 1, "tflite-16x8": HIGH - 65536, "float32": 2**31}),
    (LOW, HIGH, 0, {"all": LOW + 1, "tflite-16x8": LOW + 65536, "float32": LOW}),
    # 2^17 · (1/2 + 2^-17) = 2^16 + 1; the multiplier of 16 bits loses its 2^14.
    (2**17, HALF + 2**14, 0, {"all": 2**16 + 1, "tflite-16x8": 2**16}),
    # 2^24 + 1 is no float32, and to even it is 2^24.
    (2**24 + 1, HALF, 1, {"all": 2**24 + 1, "float32": 2**24}),
    # 9/6 − 9·2^-33/6: as float32 1/6 is a little more, and its product with 9 is rounded to 3/2. The multiply
    # of tflite gives 6, of which a quarter is 3/2, too. The multiplier of 16 bits, 21845, is less.
    (9, 1431655765, -2, {"all": 1, "tflite": 2, "float32": 2}),
    # Shifts of −31: (2^31 − 1)/2^32 is a little less than 1/2, but the multiply makes 2^30 of it, the half of
    # 2^31; −2^31/2^32 is −1/2.
    (HIGH, HALF, -31, {"all": 0, "tflite": 1}),
    (LOW, HALF, -31, {"all": 0, "tflite": -1, "floor": -1, "half-away": -1}),
    (HIGH, HIGH, -31, {"all": 1, "floor": 0}),
    (LOW, HIGH, -31, {"all": -1}),
    # Shifts of 7: 128 − 2^-24, of 16 bits 128 − 2^-8; and 64.5.
    (1, HIGH, 7, {"all": 128, "floor": 127}),
    (-1, HIGH, 7, {"all": -128}),
    (1, HALF + 2**23, 7, {"all": 65, "floor": 64, "float32": 64, "half-even": 64}),
    (-1, HALF + 2**23, 7, {"all": -64, "floor": -65, "half-away": -65}),
    (0, HIGH, 7, {"all": 0}),
]
# 5 · 0.3 is 2.8e-16 less than 3/2, since the double 0.3 is less than 3/10; its multiplier of 31 bits is more.
# So it is below 0: −5 · 0.3 is a little above −3/2, by the multiplier of 31 bits a little below.
REALS = [
    (5, 0.3, {"all": 1, "tflite": 2, "tflite-single": 2, "tflite-16x8": 2, "float32": 2}),
    (-5, 0.3, {"all": -1, "tflite": -2, "tflite-single": -2, "tflite-16x8": -2, "float32": -2, "floor": -2}),
]
NAMES = [name for name in ROUNDINGS if canonical(name, False) == name]


def rounded(name: str, acc: int, scales: Scales) -> int:
    return int(ROUNDINGS[name](np.array([acc]), scales).item())


@pytest.mark.parametrize("name", NAMES)
def test_vectors_by_hand(name: str) -> None:
    for acc, multiplier, shift, wanted in VECTORS:
        found = rounded(name, acc, Scales.of_fixed(multiplier, shift))
        assert found == wanted.get(name, wanted["all"]), (acc, multiplier, shift)
    for acc, scale, wanted in REALS:
        assert rounded(name, acc, Scales.of_reals(scale)) == wanted.get(name, wanted["all"]), (acc, scale)


def test_vectors_tell_each_from_every_other() -> None:
    """And the other names are those of functions that are the same."""
    rows = {
        name: tuple(wanted.get(name, wanted["all"]) for *_, wanted in (*VECTORS, *REALS)) for name in NAMES
    }
    assert len(VECTORS) > 20
    assert len(set(rows.values())) == len(NAMES) == 8
    assert {name: canonical(name, False) for name in ROUNDINGS if name not in NAMES} == {
        "cmsis-nn": "tflite",
        "gemmlowp": "tflite",
    }


# The same in Python's integers, line by line as the C has it: its division cuts off, its >> rounds down.


def divided(a: int, b: int) -> int:
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def c_tflite(acc: int, multiplier: int, shift: int) -> int:
    ab = min(max(acc << max(shift, 0), LOW), HIGH) * multiplier
    high = divided(ab + (2**30 if ab >= 0 else 1 - 2**30), 2**31)
    exponent = max(-shift, 0)
    mask = 2**exponent - 1
    return (high >> exponent) + ((high & mask) > (mask >> 1) + (high < 0))


def c_cmsis_nn(acc: int, multiplier: int, shift: int) -> int:
    dividend = (2**30 + min(max(acc << max(shift, 0), LOW), HIGH) * multiplier) >> 31
    exponent = max(-shift, 0)
    mask, result = 2**exponent - 1, dividend >> exponent
    return result + ((dividend & mask) > (mask >> 1) + (result < 0))


def c_tflite_single(acc: int, multiplier: int, shift: int) -> int:
    return (acc * multiplier + (1 << (30 - shift))) >> (31 - shift)


def c_tflite_16x8(acc: int, multiplier: int, shift: int) -> int:
    reduced = (multiplier + (1 << 15)) >> 16 if multiplier < 0x7FFF0000 else 0x7FFF
    return (acc * reduced + (1 << (14 - shift))) >> (15 - shift)


def c_float32(acc: int, multiplier: int, shift: int) -> int:
    return round(float(np.float32(acc) * np.float32(math.ldexp(multiplier, shift - 31))))


C: dict[str, Callable[[int, int, int], int]] = {
    "tflite": c_tflite,
    "gemmlowp": c_tflite,
    "cmsis-nn": c_cmsis_nn,
    "tflite-single": c_tflite_single,
    "tflite-16x8": c_tflite_16x8,
    "float32": c_float32,
}


def nearest(value: Fraction, rounding: str) -> int:
    down = math.floor(value)
    rest = value - down
    if rounding == "floor":
        return down
    if rest == Fraction(1, 2):
        return down + {"half-up": True, "half-even": down % 2 == 1, "half-away": value > 0}[rounding]
    return down + (rest > Fraction(1, 2))


def by_definition(rounding: str, acc: int, multiplier: int, shift: int) -> int:
    if rounding in C:
        return C[rounding](acc, multiplier, shift)
    return nearest(acc * Fraction(multiplier) * Fraction(2) ** (shift - 31), rounding)


accumulators = st.integers(LOW, HIGH) | st.integers(-300, 300) | st.sampled_from([LOW, HIGH, 0, 1, -1])
multipliers = st.integers(HALF, HIGH) | st.sampled_from([HALF, HIGH, 1, 0x7FFF0000])
scales = (
    st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
    | st.floats(2.0**-33, 4)
    | st.sampled_from([0.5, 0.25, 0.75, 1.0, 1.5, 2.0**-31, 2.0**-32, 2.0**24, 2.0**31, 5e-324, 1 - 2.0**-53])
)


@given(
    st.lists(accumulators, min_size=1, max_size=20),
    multipliers,
    st.integers(-31, 7),
    st.sampled_from(list(ROUNDINGS)),
)
@example([LOW, HIGH], HIGH, 7, "tflite")
def test_every_rounding_of_multiplier_and_shift(
    values: list[int], multiplier: int, shift: int, rounding: str
) -> None:
    q = Quantization(multiplier=multiplier, shift=shift, rounding=rounding, dtype="int16")
    for acc, found in zip(values, q.apply(np.array(values)).tolist(), strict=True):
        wanted = by_definition(rounding, acc, multiplier, shift)
        assert found == min(max(wanted, -(2**15)), 2**15 - 1), acc


@given(
    st.lists(accumulators, min_size=1, max_size=20),
    scales,
    st.sampled_from(["floor", "half-up", "half-even", "half-away"]),
    st.sampled_from(DTYPES),
)
@example([1, 3, -1, -3, 5, -5], 0.5, "half-even", "int8")
def test_every_exact_rounding_of_a_real_scale(
    values: list[int], scale: float, rounding: str, dtype: str
) -> None:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    zero = high // 3
    q = Quantization(scale=scale, output_zero_point=zero, rounding=rounding, dtype=dtype)
    found = q.apply(np.array(values))
    assert found.dtype == dtype
    for acc, y in zip(values, found.tolist(), strict=True):
        assert y == min(max(nearest(acc * Fraction(scale), rounding) + zero, low), high), (acc, scale)


@given(
    st.lists(st.integers(-(2**47), 2**47 - 1), min_size=1, max_size=9),
    multipliers,
    st.integers(-31, -10),
    st.sampled_from(["tflite-16x8", "cmsis-nn", "float32", "floor", "half-up", "half-even", "half-away"]),
)
def test_accumulators_of_64_bits(values: list[int], multiplier: int, shift: int, rounding: str) -> None:
    """CMSIS-NN's rounding of them is that of 16×8 layers."""
    q = Quantization(
        multiplier=multiplier, shift=shift, rounding=rounding, accumulator="int64", dtype="int16"
    )
    name = "tflite-16x8" if rounding == "cmsis-nn" else rounding
    for acc, found in zip(values, q.apply(np.array(values)).tolist(), strict=True):
        assert found == min(max(by_definition(name, acc, multiplier, shift), -(2**15)), 2**15 - 1), acc


@given(scales)
def test_a_scale_as_multiplier_and_shift(scale: float) -> None:
    """The nearest fixed-point number, from halfway away from zero; 0 and the largest beyond its range."""
    found = Scales.of_reals(scale)
    multiplier, shift = int(found.multiplier), int(found.shift)
    fraction, exponent = math.frexp(scale)
    wanted = nearest(Fraction(fraction) * 2**31, "half-away")
    if wanted == 2**31:
        wanted, exponent = HALF, exponent + 1
    if exponent < -31:
        assert (multiplier, shift) == (0, 0)
    else:
        assert (multiplier, shift) == ((wanted, exponent) if exponent <= 30 else (HIGH, 30))


def test_truncation_is_towards_zero() -> None:
    assert truncated(np.array([3, -3, 2, -2]), Scales.of_reals(0.5)).tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)], ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    for sums in (np.zeros(shape, np.int32), np.zeros(shape, np.uint8), np.full(shape, 1 << 40)):
        q = Quantization(scale=2.0**-60, output_zero_point=5, accumulator="int64")
        assert q.apply(sums).shape == shape
        assert (q.apply(sums) == 5).all()


# The value.


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_accumulators_beyond_int32(value: int) -> None:
    q = Quantization(scale=2.0**-30)
    with pytest.raises(IntegerRangeError, match=f"^quantization: an accumulator is {value}, beyond int32, "):
        q.apply(np.array([0, value]))
    assert replace(q, accumulator="int64").apply(np.array([value])) == (2 if value > 0 else -2)
    assert replace(q, accumulator="int32-wrapping").apply(np.array([value])) == (-2 if value > 0 else 2)
    for rounding, bits in (("tflite", 32), ("tflite-single", 32), ("tflite-16x8", 48)):
        wide = replace(q, accumulator="int64", rounding=rounding)
        with pytest.raises(IntegerRangeError, match=rf"is -?\d+, {rounding} takes {bits} bits; give smaller"):
            wide.apply(np.array([value << (bits - 32)]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "scale: got none; give scale, or multiplier and shift"),
        ({"scale": 0.5, "shift": 1}, "scale: got scale and shift; give scale, or multiplier and shift"),
        ({"multiplier": HALF}, "scale: got multiplier; give scale, or multiplier and shift"),
        ({"scale": 0.0}, "scale: got 0.0; give finite numbers above 0"),
        ({"scale": [0.5, -1.0]}, "scale: got -1.0; give"),
        ({"scale": math.nan}, "scale: got nan; give"),
        ({"scale": np.array([1, np.inf])}, "scale: got inf; give"),
        ({"scale": True}, "scale: got True; give"),
        ({"scale": "x"}, "scale: got 'x'; give"),
        ({"scale": np.ones((2, 2))}, r"scale: has shape \(2, 2\); give one number, or a list"),
        ({"multiplier": 0, "shift": 1}, "multiplier: got 0; give a whole number from 1 to 2147483647"),
        ({"multiplier": HALF, "shift": 31}, "shift: got 31; give a whole number from -31 to 30"),
        ({"multiplier": HALF, "shift": [0, 0.5]}, "shift: got 0.5; give a whole number"),
        ({"scale": 1, "input_zero_point": 1.5}, "input_zero_point: got 1.5; give a whole number"),
        ({"scale": 1, "weight_zero_point": [True]}, "weight_zero_point: got True; give"),
        ({"scale": 1, "activation": 6}, r"activation: got 6; give \[min, max\], two whole numbers"),
        ({"scale": 1, "activation": [3, 2]}, r"activation: got \(3, 2\); give the least first"),
        ({"scale": 1, "rounding": "up"}, "rounding: got 'up'; expected one of tflite, tflite-single, tf"),
        ({"scale": 1, "accumulator": "int16"}, "accumulator: got 'int16'; expected one of int32, int32-"),
        ({"scale": 1, "dtype": "int64"}, "dtype: got 'int64'; expected one of int8, uint8, int16"),
    ],
)
def test_what_makes_no_quantization(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^quantization: {message}"):
        Quantization(**fields)


X, W = np.zeros((1, 4, 4, 2), np.uint8), np.zeros((3, 2, 2, 2), np.int8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": [0.5, 0.5]}, "scale: has 2 numbers for 3 filters; give one, or one for each"),
        ({"scale": 1, "weight_zero_point": [1] * 4}, "weight_zero_point: has 4 numbers for 3 filters"),
        (
            {"scale": 1, "input_zero_point": -1},
            r"input_zero_point: got -1, which is no uint8; give .*0\.\.255",
        ),
        ({"scale": 1, "weight_zero_point": 128}, "weight_zero_point: got 128, which is no int8;"),
        ({"scale": 1, "output_zero_point": 128}, "output_zero_point: got 128, which is no int8;"),
        ({"scale": 1, "output_zero_point": -1, "dtype": "uint8"}, "output_zero_point: got -1, which is no u"),
        ({"scale": 1, "activation": [0, 255]}, "activation: got 255, which is no int8;"),
        ({"scale": 300, "rounding": "tflite-16x8"}, "a shift is 9; tflite-16x8 takes -31 to 7"),
    ],
)
def test_what_fits_no_layer(fields: dict[str, Any], message: str) -> None:
    for function in (cm.convolve, cm.verify):
        with pytest.raises(SettingError, match=f"^quantization: {message}"):
            function(X, W, quantization=Quantization(**fields))


def test_layers_of_quantizations_are_of_integers() -> None:
    half = Quantization(scale=0.5)
    for x, w, b in ((X.astype(float), W, None), (X, W.astype("f4"), None), (X, W, np.zeros(3))):
        with pytest.raises(DTypeError, match=r"^quantization: takes integer inputs, .*; got float"):
            cm.convolve(x, w, bias=b, quantization=half)
    with pytest.raises(DTypeError, match=r"^quantization: has accumulators of float64;"):
        half.apply(np.zeros(1))
    with pytest.raises(SettingError, match=r"^quantization: got 0\.5; give a convmat.Quantization"):
        cm.verify(X, W, quantization=0.5)  # type: ignore[arg-type]
    with pytest.raises(IntegerRangeError, match=r"^quantization: int64 less its zero point leaves int64"):
        replace(half, input_zero_point=-1).pixels(np.array([2**63 - 1]))


def test_numbers_of_any_kind_are_taken() -> None:
    q = Quantization(scale=np.float32(0.5), weight_zero_point=np.array([1, 2, 3]), shift=None)
    assert (q.scale, q.weight_zero_point) == (0.5, (1, 2, 3))
    assert q == replace(q, weight_zero_point=[1, 2, 3])
    assert hash(q) == hash(replace(q))
    assert q.as_dict()["weight_zero_point"] == [1, 2, 3]
    assert str(q) == "scale 0.5, weight zero point per filter 1..3, half-even, int8"
    full = Quantization(
        input_zero_point=1,
        output_zero_point=2,
        multiplier=HALF,
        shift=[-1, 2],
        rounding="floor",
        accumulator="int64",
        activation=(0, 6),
        dtype="int16",
    )
    assert str(full) == (
        f"multiplier {HALF}, shift per filter -1..2, input zero point 1, output zero point 2, floor, "
        "int64 sums, int16, cut off at 0..6"
    )


def test_the_dtype_is_as_said_or_that_of_the_result() -> None:
    plain = Quantization(scale=0.5)
    assert plain.of_layer(X, W).dtype == "int8"
    assert plain.of_layer(X, W, result=np.dtype(">i2")).dtype == "int16"
    assert plain.of_layer(X, W, result=np.dtype("f4")).dtype == "int8"
    assert replace(plain, dtype="uint8").of_layer(X, W, result=np.dtype("i2")).dtype == "uint8"


# ONNX.


def qlinear(**other: Any) -> tuple[Any, dict[str, Any]]:
    """A QLinearConv and its initializers."""
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    arrays = {"xs": np.float32(0.1), "xz": np.uint8(3), "ws": np.array([0.2, 0.3], np.float32)}
    arrays |= {"wz": np.array([0, -1], np.int8), "ys": np.float32(0.7), "yz": np.uint8(128)}
    return SimpleNamespace(op_type="QLinearConv", input=names, output=["y"], **other), arrays


def test_a_qlinearconv_of_onnx() -> None:
    q = Quantization.from_onnx(*qlinear())
    f = np.float32
    scales = tuple(float(f(f(0.1) * f(w)) / f(0.7)) for w in (0.2, 0.3))
    assert q == Quantization(
        input_zero_point=3,
        weight_zero_point=(0, -1),
        scale=scales,
        output_zero_point=128,
        rounding="float32",
        dtype="uint8",
    )
    onnx = pytest.importorskip("onnx")
    node, arrays = qlinear()
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    made = onnx.helper.make_node("QLinearConv", node.input, node.output)
    assert Quantization.from_onnx(made, tensors) == q
    assert Quantization.from_onnx(made, {t.name: t for t in tensors}) == q


def qdq(between: list[str]) -> tuple[Any, dict[str, Any], list[Any]]:
    """A Conv among dequantized inputs and weights, and what comes after it; its initializers, all nodes."""

    def node(kind: str, inputs: list[str], output: str) -> Any:
        return SimpleNamespace(op_type=kind, input=inputs, output=[output])

    _, arrays = qlinear()
    conv = node("Conv", ["dx", "dw"], "t0")
    nodes = [node("DequantizeLinear", ["x", "xs", "xz"], "dx"), conv]
    nodes += [node("DequantizeLinear", ["w", "ws", "wz"], "dw")]
    for number, kind in enumerate(between):
        inputs = [f"t{number}"] + (["ys", "yz"] if kind == "QuantizeLinear" else [])
        nodes.append(node(kind, inputs, f"t{number + 1}"))
    return conv, arrays, nodes


def test_a_conv_between_qdq_nodes_of_onnx() -> None:
    plain = Quantization.from_onnx(*qlinear())
    assert Quantization.from_onnx(*qdq(["QuantizeLinear"])) == plain
    relu = Quantization.from_onnx(*qdq(["Relu", "QuantizeLinear"]))
    assert relu == replace(plain, activation=(128, 255))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((SimpleNamespace(op_type="MatMul"), {}), "node: is MatMul; give a QLinearConv, or a Conv between"),
        ((qlinear()[0], {}), "initializers: have no 'xs', a scale or a zero point of the node"),
        (qdq(["Clip", "QuantizeLinear"]), "node: gives 't0' to Clip; expected one QuantizeLinear"),
        (qdq(["Relu"]), "node: gives 't1' to nothing among the nodes; expected one QuantizeLinear"),
        (qdq(["QuantizeLinear"])[:2], "node: gives 't0' to nothing among the nodes"),
        ((qlinear()[0], qlinear()[1] | {"yz": np.int32(0)}), "node: gives int32; int8, uint8 and int16 are"),
    ],
)
def test_what_is_no_quantization_of_onnx(given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        Quantization.from_onnx(*given)


# Files.


def table(folder: Path, text: str | bytes) -> str:
    (folder / "layer.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return "layer.toml"


def test_a_file_has_numbers_lists_and_arrays_beside_it(folder: Path) -> None:
    (folder / "scales.npy").write_bytes(npy(np.array([0.5, 0.25])))
    text = "input_zero_point = 3\nweight_zero_point = [1, 2]\nscale = 'scales.npy'\nactivation = [0, 6]\n"
    text += "output_zero_point = -1\nrounding = 'tflite'\naccumulator = 'int64'\ndtype = 'int16'"
    assert quantization_of(table(folder, text), None) == Quantization(
        input_zero_point=3,
        weight_zero_point=(1, 2),
        scale=(0.5, 0.25),
        activation=(0, 6),
        output_zero_point=-1,
        rounding="tflite",
        accumulator="int64",
        dtype="int16",
    )
    assert quantization_of(None, None) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("scales = 1", "has the unknown key 'scales'; did you mean scale?"),
        ("zero-point = 1", "has the unknown key 'zero-point'; did you mean output_zero_point?"),
        ("[layer]\nscale = 1", "has the unknown key 'layer'; it may have input_zero_point, .*, dtype$"),
        ("scale = nan", "scale: got nan; give finite numbers above 0"),
        ("scale = [0.5, [1]]", r"scale: got \[1\]; give"),
        ("scale = 2020-01-01", "scale: got datetime.date.*; give"),
        ("scale = {a = 1}", r"scale: got \{'a': 1\}; give"),
        ("", "scale: got none; give scale, or multiplier and shift"),
        ("scale = ", "is no TOML: Invalid value"),
        ("scale = 1\nscale = 2", "is no TOML: Cannot overwrite a value"),
        ("scale = " + "9" * 9999, "is no TOML: Exceeds the limit"),
        ("a = " + "[" * 9999, "is no TOML: lists within lists without an end"),
        (b"scale = 1 # \xff", "is no TOML: 'utf-8' codec"),
        (b"#" * (1 << 21), "is larger than 1048576 bytes; expected a few lines of TOML"),
        ("scale = '../s.npy'", "scale: '../s.npy' is not beside it; give the name of an .npy in its folder"),
        ("scale = 'none.npy'", "none.npy: cannot be read: No such file or directory"),
        ("scale = 'large.npy'", "large.npy: has 2000000 numbers; expected one for each filter"),
        ("scale = 'square.npy'", r"scale: has shape \(2, 2\); give one number"),
        ("scale = 'layer.toml'", "scale: got 'layer.toml'; give finite"),
    ],
)
def test_hostile_files(folder: Path, text: str | bytes, problem: str) -> None:
    (folder / "large.npy").write_bytes(npy(np.zeros(2_000_000, np.uint8)))
    (folder / "square.npy").write_bytes(npy(np.ones((2, 2))))
    with pytest.raises(FileError, match=f"^(layer.toml: )?{problem}") as caught:
        quantization_of(table(folder, text), None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_that_is_none(folder: Path) -> None:
    for name, problem in ((".", "Is a directory"), ("none.toml", "No such file")):
        with pytest.raises(FileError, match=f"^{name}: cannot be read: {problem}"):
            quantization_of(name, None)


# Layers.


@given(st.integers(0, 2**32), st.sampled_from(["tflite", "float32", "floor"]), st.booleans())
@settings(max_examples=6)
def test_convolve_is_the_definition(seed: int, rounding: str, per_filter: bool) -> None:
    """Zero points are subtracted from padding that holds the input's, by another way than the engine goes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (2, 6, 7, 4)).astype(np.uint8)
    w = rng.integers(-128, 128, (6, 3, 2, 2)).astype(np.int8)
    q = Quantization(
        input_zero_point=77,
        weight_zero_point=rng.integers(-9, 9, 6) if per_filter else 3,
        scale=rng.uniform(0.0005, 0.005, 6) if per_filter else 0.002,
        output_zero_point=-5,
        activation=(-100, 90),
        rounding=rounding,
    )
    layer: dict[str, Any] = {"stride": (1, 2), "dilation": (2, 1), "groups": 2}
    layer |= {"padding": ((2, 1), (0, 1)), "bias": rng.integers(-5000, 5000, 6)}
    y = cm.convolve(x, w, **layer, quantization=q)
    padded = np.pad(x, [(0, 0), (2, 1), (0, 1), (0, 0)], constant_values=77).astype(int) - 77
    centred = w - np.broadcast_to(q.weight_zero_point, 6)[:, None, None, None]
    wanted = q.apply(reference.convolve(padded, centred, **layer | {"padding": "valid"}))
    np.testing.assert_array_equal(y, wanted)
    assert y.dtype == np.int8
    assert cm.verify(x, w, y, **layer, quantization=q)
    assert cm.verify(x, w, **layer, quantization=q)
    out = np.empty(y.shape, np.int8, order="F")
    assert cm.convolve(x, w, **layer, quantization=q, out=out) is out
    np.testing.assert_array_equal(out, y)
    with pytest.raises(DTypeError, match=r"^out: has dtype int64, Y has int8"):
        cm.convolve(x, w, **layer, quantization=q, out=np.empty(y.shape, np.int64))


def test_results_of_16_by_8_bits() -> None:
    """Sums beyond int32, which saturate or wrap where they may not."""
    rng = np.random.default_rng(2017)
    x = rng.integers(20_000, 32_767, (1, 5, 5, 64)).astype(np.int16)
    w = rng.integers(100, 128, (2, 3, 3, 64)).astype(np.int8)
    q = Quantization(scale=2.0**-17, rounding="tflite-16x8", accumulator="int64", dtype="int16")
    y = cm.convolve(x, w, bias=np.array([-(2**31), 5]), quantization=q)
    assert cm.verify(x, w, y, bias=np.array([-(2**31), 5]), quantization=q)
    large = np.full(2, 2**31)
    with pytest.raises(IntegerRangeError, match=r"an accumulator is \d+, beyond int32, .*; give smaller"):
        cm.convolve(x, w, bias=large, quantization=replace(q, accumulator="int32"))
    sums = reference.convolve_by_taps(x, w, bias=large)
    for how, wrong in (
        ("saturate", np.clip(sums, LOW, HIGH)),
        ("wrap", sums.astype(np.int32).astype(np.int64)),
    ):
        found = diagnose(x, w, q.apply(wrong), bias=large, judged={"quantization": q}, budget=0)
        assert f"accumulator-{how}-int32" in [d.mistakes[0] for d in found]


def test_a_tolerance_is_of_the_results_integers() -> None:
    """Also where they are as far apart as int8 goes."""
    x, w = np.array([[[-100], [100]]], np.int8), np.ones((1, 1, 1), np.int8)
    q = Quantization(scale=1)
    assert not cm.verify(x, w, -x, quantization=q, atol=150)
    assert cm.verify(x, w, -x, quantization=q, atol=200)
    found = diagnose(x, w, -x, judged={"quantization": q, "atol": 199}, budget=0)
    assert all(d.mistakes != ("rounded-floor",) for d in found)


def test_reports_name_the_rounding() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-9, 9, shape).astype(np.int8) for shape in ((1, 9, 9, 3), (4, 3, 3, 3)))
    q = Quantization(scale=0.1234, rounding="tflite")
    y = cm.convolve(x, w, quantization=replace(q, rounding="floor"))
    report = cm.verify(x, w, y, quantization=q)
    assert not report
    assert (report.rounding, report.equal_as) == ("tflite", ("floor",))
    assert str(report).endswith("; equal as floor; you asked for tflite")
    y[0, 0, 0, 0] ^= 1
    assert cm.verify(x, w, y, quantization=q).equal_as == ()
    assert cm.verify(x, w, y[:, 1:], quantization=q).equal_as == ()
    assert cm.verify(x, w, quantization=q).equal_as == ()
    assert cm.verify(x, w).rounding is None


# The commands.

LAYER = (DIGIT, "--kernel", STROKES, "--stride", "7")
TABLE = "sample_images/quantized.toml"


def told(line: Sequence[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[Any, str]:
    """What a command prints as JSON and as a table."""
    assert run([*line, "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert run(list(line)) == status
    return found, capsys.readouterr().out


def test_commands_of_a_quantized_layer(samples: None, capsys: pytest.CaptureFixture[str]) -> None:
    quantize = (*LAYER, "--quantize", TABLE)
    found, text = told(["convolve", *quantize, "-o", "y.npy"], capsys)
    q = quantization_of(TABLE, None)
    assert q is not None
    assert (found["dtype"], found["quantization"]) == ("int8", q.as_dict())
    assert (
        "│ quantized       │ scale 0.02, input zero point 3, output zero point -3, tflite, int8, cut " in text
    )
    y, x, w = np.load("y.npy"), np.asarray(Image.open(DIGIT))[None, :, :, None], np.load(STROKES)
    np.testing.assert_array_equal(y, cm.convolve(x, w, stride=7, quantization=q))
    assert told(["verify", *quantize, "--expected", "y.npy"], capsys)[0]["equal_as"] is None
    found, _ = told(["convolve", *LAYER], capsys)
    assert found["quantization"] is None
    np.save("floor.npy", cm.convolve(x, w, stride=7, quantization=replace(q, rounding="floor")))
    found, text = told(["verify", *quantize, "--expected", "floor.npy"], capsys, 1)
    assert found["equal_as"] == ["floor"]
    assert ["rounded-floor"] in [one["mistakes"] for one in found["diagnosis"]]
    assert re.match(r"different: \d+ of 32 elements; equal as floor; you asked for tflite\n", text)
    assert re.search(r"│ rounding +│ equal as floor; you asked for tflite +│", text)
    y[0, 1, 1, 0] ^= 1
    np.save("y.npy", y)
    found, _ = told(["verify", *quantize, "--explain", "--no-diagnose", "--expected", "y.npy"], capsys, 1)
    assert found["explained"]["sum"] == ((x[0, 7:14, 7:14, 0] - 3.0) * w[0, ..., 0]).sum()


@pytest.mark.slow
def test_images_are_quantized_as_they_come(folder: Path) -> None:
    """Several chunks of them, channels first, in a real pipe."""
    rng = np.random.default_rng(1)
    x, w = rng.integers(0, 256, (9, 3, 600, 601)).astype(np.uint8), rng.integers(-9, 9, (2, 3, 3, 3))
    np.save("w.npy", w.astype(np.int8))
    table(folder, "scale = 0.01\ninput_zero_point = 9\nrounding = 'half-up'\ndtype = 'uint8'")
    arguments = (
        "--kernel",
        "w.npy",
        "--layout",
        "nchw",
        "--kernel-layout",
        "oihw",
        "--quantize",
        "layer.toml",
    )
    done = convmat("convolve", "-", *arguments, "-o", "-", stdin=npy(x))
    assert done.returncode == 0
    y = np.load(io.BytesIO(done.stdout))
    assert y.dtype == np.uint8
    q = quantization_of("layer.toml", None)
    wanted = cm.convolve(np.moveaxis(x, 1, -1), np.moveaxis(w, 1, -1), quantization=q)
    np.testing.assert_array_equal(y, np.moveaxis(wanted, -1, 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convolve IN --kernel sobel-x --quantize none.toml", "none.toml: cannot be read: No such file"),
        ("convolve IN --kernel sobel-x --quantize TOML --figure f.png", "--figure goes without --quantize"),
        ("convolve IN --kernel sobel-x --quantize TOML --transpose", "--quantize goes without --transpose"),
        (
            "verify IN --kernel sobel-x --quantize TOML --requantize 1,0,floor",
            "--quantize goes without --req",
        ),
        ("verify IN --kernel sobel-x --quantize TOML --exact", "--exact goes without --quantize"),
        (
            "verify IN --kernel sobel-x --quantize TOML --stage matrix",
            "--quantize goes with --stage convolve",
        ),
        ("verify IN --kernel box:3 --quantize TOML", "--quantize: takes integer inputs, kernels and bias"),
        (
            "convolve IN --kernel sobel-x --quantize two.toml",
            "--quantize: scale: has 2 numbers for 1 filters",
        ),
        (
            "convolve IN --kernel sobel-x --quantize bad.toml",
            "bad.toml: has the unknown key 'round'; did you",
        ),
        (
            "convolve IN --kernel sobel-x --requantize 1,0,up",
            "--requantize: rounding: got 'up'; expected one",
        ),
        ("convolve x.npy --kernel '1 1' --quantize TOML", "--quantize: an accumulator is 4294967286, beyond"),
    ],
)
def test_trouble_of_quantized_layers(
    samples: None, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("two.toml").write_text("scale = [1, 2]")
    Path("bad.toml").write_text("round = 'floor'")
    np.save("x.npy", np.full((3, 3), 2**31 - 2))
    assert run(shlex.split(line.replace("IN", DIGIT, 1).replace("TOML", TABLE))) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("convmat: ")
    assert err.count("\n") == 1


# Frameworks: `python -m tests.quantized` asks more of them.


@pytest.mark.parametrize("maker", [quantized.by_onnxruntime, quantized.by_torch])
def test_frameworks_agree_to_the_last_bit(maker: Any) -> None:
    pytest.importorskip("torch" if maker is quantized.by_torch else "onnxruntime")
    verdicts = [made.verdict() for made in maker(12)]
    assert "different" not in verdicts
    assert verdicts.count("equal") >= 9
