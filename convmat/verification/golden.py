"""Golden vectors: what each step of a layer of one's own makes of an input of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.arithmetic import arithmetic_of
from convmat.checks import filter_groups
from convmat.engine import prepare
from convmat.errors import DTypeError, GeometryError, ShapeError
from convmat.geometry import ConvGeometry
from convmat.plan import filter_geometry
from convmat.quantization import Quantization
from convmat.verification.comparison import Definition
from convmat.verification.judge import Rule, bands
from convmat.verification.layer import judge_layer
from convmat.verification.probes import Inputs, Judge, Layered
from convmat.verification.verdict import Report

Array = NDArray[Any]

MOST_ELEMENTS = 1 << 24
"""Of each array."""

STEPS = {
    "x": "the input",
    "kernel": "the filters",
    "bias": "one number a filter, 0 where none was given",
    "x_col": "the unrolled input",
    "w_col": "the flattened filters",
    "accumulators": "sums of products",
    "biased": "with the bias",
    "scaled": "times the scale, rounded",
    "unclamped": "with the output's zero point",
    "y": "the result",
    "weight_zero_point": "of each filter",
    "multiplier": "of each filter",
    "shift": "of each filter, to the left above 0",
    "scale": "of each filter",
}
"""The arrays that there may be, in order."""


@dataclass(frozen=True)
class OwnLayer(Layered):
    """A layer whose arrays are given.

    Sums of integers are exact. Sums of floats are the definition's in float64, each rounded once to nearest
    even: exact, too, where they are of whole numbers that float64 holds.

    Raises:
        GeometryError: arrays of more than `MOST_ELEMENTS`, or filters that the groups cannot share.
        ShapeError: an empty array.
    """

    geometry: ConvGeometry
    filters: int
    dtypes: tuple[np.dtype[Any], np.dtype[Any], np.dtype[Any]]
    """Of x, kernel and bias."""
    quantization: Quantization | None = None
    """With its dtype."""
    flip: bool = False
    padding_mode: str = "zeros"
    order: str = "hwc"
    """Of the columns of X_col."""

    def __post_init__(self) -> None:
        filter_groups(self.filters, self.geometry.groups)
        _check_sizes(self.geometry, self.filters)

    @classmethod
    def of(
        cls,
        x: Array,
        filters: Array,
        quantization: Quantization | None = None,
        order: str = "hwc",
        *,
        stride: Any = 1,
        padding: Any = "valid",
        dilation: Any = 1,
        groups: int = 1,
        bias: Array | None = None,
        flip: bool = False,
        padding_mode: str = "zeros",
    ) -> tuple[OwnLayer, Inputs]:
        """The layer that the arguments of `convolve` make, and its arrays as they are written.

        A bias that is not given is 0; of integers it is int32 where they fit, else int64.

        Raises:
            The errors of `convolve`. DTypeError: numbers that are no integers or floats, or not finite.
        """
        geometry = filter_geometry(x.shape, filters.shape, stride, padding, dilation, groups)
        where = (stride, padding, dilation, groups, bias, flip, padding_mode)
        result = prepare(x, filters, *where, quantization=quantization, threads=1).result
        if bias is None:
            bias = np.zeros(len(filters), result)
        if result.kind in "iu":
            bias = _narrowed(bias, quantization)
        inputs = Inputs(*(a.astype(a.dtype.newbyteorder("="), copy=False) for a in (x, filters, bias)))
        x, filters, bias = inputs
        if quantization is not None:
            quantization = quantization.of_layer(x, filters, bias)
        dtypes = (x.dtype, filters.dtype, bias.dtype)
        made = cls(geometry, len(filters), dtypes, quantization, flip, padding_mode, order)
        made.check(inputs)
        return made, inputs

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that are written."""
        quantized = ("biased", "scaled", "unclamped")
        of_each = () if self.quantization is None else self.quantization.of_each(self.filters)
        some = (*quantized, "weight_zero_point", "multiplier", "shift", "scale")
        wanted = (*quantized, *of_each) if self.quantization is not None else ()
        return tuple(name for name in STEPS if name not in some or name in wanted)

    @property
    def is_integer(self) -> bool:
        """Whether it has no floats."""
        return all(dtype.kind in "iu" for dtype in self.dtypes)

    @property
    def rules(self) -> dict[str, Any]:
        """How its result is to be judged."""
        return {"quantization": self.quantization}

    def check(self, inputs: Inputs) -> None:
        """Check that these are arrays of this layer, and of finite numbers.

        Raises:
            ShapeError, DTypeError: they are not. SettingError: they cannot be quantized so.
        """
        shapes = (self.geometry.input_shape, self.filter_shape, (self.filters,))
        for name, array, shape, dtype in zip(Inputs._fields, inputs, shapes, self.dtypes, strict=True):
            subject = {"x": "input", "kernel": "filters"}.get(name, name)
            if array.shape != shape:
                raise ShapeError(subject, f"has shape {array.shape}, expected {shape}")
            if array.dtype != dtype:
                raise DTypeError(subject, f"has dtype {array.dtype}, expected {dtype}")
            if dtype.kind not in "iuf":
                raise DTypeError(subject, f"is {dtype}; golden vectors are of integers, or of floats")
            if not np.isfinite(array).all():
                raise DTypeError(subject, "holds NaN or infinity, which golden vectors do not")
        if self.quantization is not None:
            self.quantization.of_layer(*inputs)

    def results(self, inputs: Inputs) -> dict[str, Array]:
        """What the definition makes of the inputs: all arrays of `names` but them.

        x_col has the padding as the kernel sees it: where it is of zeros, and the layer quantized, the
        input's zero point.

        Raises:
            ShapeError, DTypeError: arrays of another layer. IntegerRangeError: accumulators beyond int32.
        """
        self.check(inputs)
        outside = 0 if self.quantization is None else self.quantization.input_zero_point
        steps = {**self.where, "order": self.order, "outside": outside}
        unrolled = reference.unroll_by_taps(inputs.x, self.geometry.kernel_size, **steps)
        w_col = reference.flatten_filters(self.turned(inputs.kernel), self.order)
        made = {"x_col": unrolled, "w_col": w_col}
        if self.quantization is not None:
            return made | self._quantized(inputs, self.quantization, outside)
        sums = reference.convolve_by_taps(inputs.x, inputs.kernel, **self.how)
        biased = sums + inputs.bias
        known = None if self.is_integer else arithmetic_of(self.geometry.terms, self.dtypes)
        if known is None:
            return made | {"accumulators": _narrowed(sums), "y": _narrowed(biased)}
        with np.errstate(over="ignore"):
            made |= {"accumulators": sums.astype(known.accumulator), "y": biased.astype(known.result)}
        if not np.isfinite(made["y"]).all():
            raise DTypeError(
                "input", f"has sums beyond {known.result}; give smaller numbers, or a wider dtype"
            )
        return made

    def _quantized(self, inputs: Inputs, quantized: Quantization, outside: int) -> dict[str, Array]:
        x, kernel, bias = inputs
        how = {**self.how, "pixels": quantized.pixels, "outside": outside}
        sums = reference.convolve_by_taps(x, quantized.weights(kernel), **how)
        biased = sums + bias
        if quantized.accumulator == "int32-wrapping":
            sums = quantized.accumulated(sums)
        steps = {
            "accumulators": sums,
            "biased": quantized.accumulated(biased),
            "scaled": quantized.after(biased, ("round",)),
            "unclamped": quantized.after(biased, ("round", "zero-point")),
        }
        return {
            **{name: _narrowed(values, quantized) for name, values in steps.items()},
            "y": quantized.apply(biased),
            **quantized.of_each(self.filters),
        }

    def judges(self, key: str, inputs: Inputs, results: Mapping[str, Array]) -> list[Judge]:
        """What judges a result that is to be one of `results`; sums of floats are met by their bound."""
        if key != "y":
            wanted = results[key]
            moved = Definition(wanted.shape, bands(wanted.shape), lambda band: wanted[band])
            return [lambda result: moved.compare(result, Rule(exact=True))]
        return [partial(self._judge, inputs)]

    def _judge(self, inputs: Inputs, result: Array) -> Report:
        x, kernel, bias = inputs
        return judge_layer(x, kernel, result, bias=bias, **self.how, **self.rules)

    def confirms(self, key: str, values: Array, inputs: Inputs) -> bool:
        """Whether values that are not ours, of any other machine's sums of floats, are right, too."""
        if self.is_integer or key not in ("accumulators", "y"):
            return False
        none = np.zeros_like(inputs.bias)
        return bool(self._judge(inputs if key == "y" else inputs._replace(bias=none), values))

    def is_exact(self, inputs: Inputs, y: Array) -> bool:
        """Whether all sums are exact in any order, so that only what is equal is right."""
        if self.is_integer:
            return True
        report = self._judge(inputs, y)
        return report.exact or report.exact_sums == report.elements


def vectors_bytes(geometry: ConvGeometry, filters: Array, dtype: np.dtype[Any]) -> int:
    """Memory that the arrays of a layer take whose input is of this dtype, and making them, about.

    Raises:
        GeometryError, ShapeError: as `OwnLayer`.
    """
    _check_sizes(geometry, len(filters))
    rows, columns = geometry.matrix_shape
    unrolled = 2 * rows * columns + math.prod(geometry.input_shape)
    return unrolled * dtype.itemsize + 3 * filters.nbytes + 100 * rows * max(len(filters), geometry.channels)


def _check_sizes(geometry: ConvGeometry, filters: int) -> None:
    rows, columns = geometry.matrix_shape
    for name, count in (
        ("x", math.prod(geometry.input_shape)),
        ("W_col", geometry.terms * filters),
        ("X_col", rows * columns),
        ("Y", rows * filters),
    ):
        if count == 0:
            raise ShapeError(
                "input", f"makes a layer whose {name} is empty; golden vectors have some numbers"
            )
        if count > MOST_ELEMENTS:
            problem = f"makes {name} of {count} elements, golden vectors have at most {MOST_ELEMENTS}"
            raise GeometryError("input", f"{problem}; give fewer images, or a part of one")


def _narrowed(values: Array, quantized: Quantization | None = None) -> Array:
    """Integers as int32; as int64 where they leave it, or the accumulators are of int64."""
    wide = quantized is not None and quantized.accumulator == "int64"
    info = np.iinfo(np.int32)
    fits = info.min <= values.min(initial=0) and values.max(initial=0) <= info.max
    return values.astype(np.int32 if fits and not wide else np.int64)
