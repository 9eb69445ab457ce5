"""Mistakes planted in a quantized kernel of plain loops: all are caught, most named, none wrongly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import convmat as cm
from convmat.quantization import Quantization
from convmat.verification import quantized_mistakes
from convmat.verification.diagnosis import diagnose
from convmat.verification.mistakes import known_mistakes
from tests.tools import mostly_slow

Array = np.ndarray


def wrapped(values: Array, bits: int) -> Array:
    return (values + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def saturated(values: Array, bits: int) -> Array:
    return np.clip(values, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


class Kernel(NamedTuple):
    """A convolution of integers as firmware has it; each part of it may be put wrong."""

    x: Array
    """(N, H, W, C)."""
    w: Array
    """(K, kh, kw, C)."""
    bias: Array
    multiplier: Array
    shift: Array
    x_zero: int
    w_zero: Array
    y_zero: int
    activation: tuple[int, int]
    held: int
    """By the padding of one pixel on every side."""
    products: Callable[[Array, Array], Array] | None = None
    """In place of the sum of (x − zero)·(w − zero), of patches and one filter, each a row."""
    sums: Callable[[Array], Array] = lambda acc: acc
    rounding: str = "tflite"
    after: Callable[[Array], Array] = lambda y: y
    """Of what is rounded."""
    end: Callable[[Kernel, Array], Array] = lambda self, y: np.clip(y + self.y_zero, *self.activation)
    dtype: str = "int8"

    def run(self) -> Array:
        """Y, (N, H, W, K)."""
        n, height, width, _ = self.x.shape
        padded = np.pad(self.x.astype(np.int64), [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=self.held)
        y = np.zeros((n, height, width, len(self.w)), np.int64)
        for i, row, column, k in itertools.product(range(n), range(height), range(width), range(len(self.w))):
            patch = padded[i, row : row + 3, column : column + 3].ravel()
            weights = self.w[k].astype(np.int64).ravel()
            acc = ((patch - self.x_zero) * (weights - self.w_zero[k])).sum()
            if self.products is not None:
                acc = acc + self.products(patch, weights)
            acc = self.sums(np.asarray(acc + self.bias[k]))
            scale = {"multiplier": int(self.multiplier[k]), "shift": int(self.shift[k])}
            round_ = Quantization(**scale, rounding=self.rounding, accumulator="int64", dtype="int16")
            y[i, row, column, k] = round_.apply(self.after(acc))
        return self.end(self, y).astype(self.dtype)

    @property
    def layer(self) -> dict[str, Any]:
        """The arguments of `verify` for what was meant."""
        quantization = Quantization(
            input_zero_point=self.x_zero,
            weight_zero_point=self.w_zero,
            multiplier=self.multiplier,
            shift=self.shift,
            output_zero_point=self.y_zero,
            activation=self.activation,
            rounding=self.rounding,
            dtype=self.dtype,
        )
        return {
            "x": self.x,
            "filters": self.w,
            "bias": self.bias,
            "padding": 1,
            "quantization": quantization,
        }


def kernel() -> Kernel:
    """A layer of 4 channels and 5 filters, whose results fill most of int8."""
    rng = np.random.default_rng(2017)
    w = rng.integers(-128, 128, (5, 3, 3, 4)).astype(np.int8)
    return Kernel(
        x=rng.integers(0, 256, (1, 6, 7, 4)).astype(np.uint8),
        w=w,
        bias=(rng.integers(-99, 99, 5) * 90).astype(np.int32),
        multiplier=rng.integers(1 << 30, 1 << 31, 5),
        shift=np.array([-9, -8, -9, -10, -8]),
        x_zero=113,
        w_zero=np.array([3, -2, 0, 7, 1]),
        y_zero=-11,
        activation=(-70, 90),
        held=113,
    )


def quiet() -> Kernel:
    """The same layer with small sums, of which many lie halfway."""
    right, rng = kernel(), np.random.default_rng(7)
    return right._replace(
        x=rng.integers(108, 118, right.x.shape).astype(np.uint8),
        w=rng.integers(-4, 5, right.w.shape).astype(np.int8),
        w_zero=np.zeros(5, int),
        bias=right.bias // 99,
        multiplier=(1 << 30) + (1 << 14) * np.array([0, 1, 0, 1, 0]),
        shift=np.array([-3, -2, -2, -3, -1]),
    )


def lost_in_pairs(order: str, patch: Array, weights: Array) -> Array:
    if order == "chw":
        patch, weights = (a.reshape(9, 4).T.ravel() for a in (patch, weights))
    pairs = (patch * weights).reshape(-1, 2).sum(1)
    return (saturated(pairs, 16) - pairs).sum()


def of(name: str, change: Callable[[Any], Any]) -> Callable[[Kernel], Kernel]:
    return lambda right: right._replace(**{name: change(getattr(right, name))})


def clamped_first(self: Kernel, y: Array) -> Array:
    return saturated(np.clip(y, *self.activation) + self.y_zero, 8)


rolled = partial(np.roll, shift=1)
# What is named, and how it is planted; without a name it is not known, and must only be caught.
PLANTED: dict[str, Callable[[Kernel], Kernel]] = {
    "input-zero-point-ignored": lambda p: p._replace(x_zero=0, held=0),
    "input-zero-point-ignored, padding holds it": of("x_zero", lambda _: 0),
    "input-zero-point-negated": lambda p: p._replace(x_zero=-113, held=-113),
    "input-zero-point-128-less": lambda p: p._replace(x_zero=113 - 128, held=113 - 128),
    "padding-without-zero-point": of("held", lambda _: 0),
    "weight-zero-point-ignored": of("w_zero", lambda zero: 0 * zero),
    "weight-zero-point-negated": of("w_zero", lambda zero: -zero),
    "weight-zero-point-of-previous-filter": of("w_zero", rolled),
    "output-zero-point-ignored": of("y_zero", lambda _: 0),
    "output-zero-point-negated": of("y_zero", lambda zero: -zero),
    "shift-one-too-large": of("shift", lambda shift: shift + 1),
    "shift-one-too-small": of("shift", lambda shift: shift - 1),
    "scale-of-previous-filter": lambda p: p._replace(multiplier=rolled(p.multiplier), shift=rolled(p.shift)),
    "scale-of-first-filter": lambda p: p._replace(multiplier=p.multiplier[[0] * 5], shift=p.shift[[0] * 5]),
    "multiplier-of-next-filter": of("multiplier", partial(np.roll, shift=-1)),
    "shift-of-first-filter": of("shift", lambda shift: shift[[0] * 5]),
    "rounded-tflite-single": of("rounding", lambda _: "tflite-single"),
    "rounded-tflite-16x8": of("rounding", lambda _: "tflite-16x8"),
    "rounded-floor": of("rounding", lambda _: "floor"),
    "rounded-half-even": of("rounding", lambda _: "half-even"),
    "clamp-before-zero-point": of("end", lambda _: clamped_first),
    "activation-ignored": of("activation", lambda _: (-128, 127)),
    "result-wrapped": of("end", lambda _: lambda self, y: wrapped(y + self.y_zero, 8)),
    "relu-at-zero": of("activation", lambda ends: (0, ends[1])),
    "bias-missing": of("bias", lambda bias: 0 * bias),
    "bias-doubled": of("bias", lambda bias: 2 * bias),
    "bias-of-next-filter": of("bias", partial(np.roll, shift=-1)),
    "bias-scaled": lambda p: p._replace(
        bias=np.rint(p.bias * p.multiplier * 2.0 ** (p.shift - 31)).astype(int)
    ),
    "bias-unscaled": lambda p: p._replace(
        bias=0 * p.bias, end=lambda self, y: np.clip(y + p.bias + self.y_zero, *self.activation)
    ),
    "accumulator-wrap-int16": of("sums", lambda _: partial(wrapped, bits=16)),
    "accumulator-saturate-int16": of("sums", lambda _: partial(saturated, bits=16)),
    "pairs-saturated-hwc": of("products", lambda _: partial(lost_in_pairs, "hwc")),
    "pairs-saturated-chw": of("products", lambda _: partial(lost_in_pairs, "chw")),
    "relu": of("after", lambda _: lambda acc: np.maximum(acc, 0)),
    "flipped-both": of("w", lambda w: w[:, ::-1, ::-1]),
    "channels-reversed": of("x", lambda x: x[..., ::-1]),
    "? sums of 17 bits": of("sums", lambda _: partial(saturated, bits=17)),
    "? 1 too much": of("end", lambda end: lambda self, y: end(self, y + 1)),
}


def named(key: str) -> str | None:
    return None if key.startswith("?") else key.partition(",")[0]


def test_what_is_meant_is_equal() -> None:
    right = kernel()
    y = right.run()
    assert cm.verify(expected=y, **right.layer)
    assert np.unique(y).size > 80
    np.testing.assert_array_equal(y, cm.convolve(**right.layer))


def test_as_many_as_were_promised() -> None:
    assert len(PLANTED) > 30
    assert sum(named(key) is not None for key in PLANTED) >= 25
    known = {m.key for m in quantized_mistakes.quantized_mistakes(known_mistakes(2))}
    assert {named(key) for key in PLANTED} - {None} <= known


@pytest.mark.parametrize("key", mostly_slow(PLANTED, 4))
def test_planted_mistakes_are_caught_and_named(key: str) -> None:
    right = quiet() if key.startswith("rounded") else kernel()
    wrong = PLANTED[key](right).run()
    layer = right.layer
    report = cm.verify(expected=wrong, **layer)
    assert not report
    quantization = layer.pop("quantization")
    found = diagnose(expected=wrong, **layer, judged={"quantization": quantization}, budget=1 << 20)
    assert named(key) in ([d.mistakes[0] for d in found] or [None])
    assert not any(d.exceptions or len(d.mistakes) > 1 for d in found)
    if key.startswith("rounded"):
        assert key.removeprefix("rounded-") in report.equal_as
    else:
        assert report.equal_as == ()
