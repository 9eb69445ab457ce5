"""A layer's result against the definition of convolution, and the sum that is one element of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.checks import choice, got, known_numbers, numbers
from convmat.engine import Convolution, execute, prepare
from convmat.errors import DTypeError, SettingError
from convmat.formats import Narrow
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.layouts import KERNEL_LAYOUTS, to_batch, to_filters
from convmat.plan import filter_geometry
from convmat.verification.activation import Activation
from convmat.verification.comparison import Definition, Note
from convmat.verification.judge import Rule, bands
from convmat.verification.numbers import magnitude
from convmat.verification.numerics import PLAIN, Numerics, named
from convmat.verification.quantization import Requantize
from convmat.verification.seen import seen_arithmetic
from convmat.verification.tiles import Layer, Tiles
from convmat.verification.verdict import Report
from convmat.verification.where import axis_names, describe, touching
from convmat.watching import Watch, unwatched
from convmat.words import POSITION_NAMES


def verify(
    x: ArrayLike,
    filters: ArrayLike,
    expected: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    layout: str = "nhwc",
    kernel_layout: str = "ohwi",
    exact: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    requantize: tuple[Any, ...] | None = None,
    arithmetic: str | None = None,
    activation: Any = "none",
    watch: Watch = unwatched,
    note: Note | None = None,
) -> Report:
    """Compare a convolution with the definition: the engine's, or yours if `expected` is given.

    Args:
        x, filters and the geometry: as `convolve` takes them, arrays or tensors (see `formats.as_array`).
        expected: the result to judge, (N, *out, K) or (N·H_out·W_out, K). Its accumulator is taken to be
            the coarser of the inputs' dtype and its own (float32 for float16, bfloat16 and float8).
        layout, kernel_layout: "nhwc" or "nchw" of x and the result; of filters "ohwi", "oihw" or "hwio".
        exact: floats, too, must be equal in value.
        atol, rtol: |result − definition| ≤ atol + rtol·|definition|, of complex numbers the moduli, in place
            of the bound; of the two the one that is not given is 0.
        requantize: (scale, zero_point, rounding, dtype) of `quantization.Requantize`; the definition is then
            the quantized result of integer inputs, and must be met exactly unless a tolerance is given.
        arithmetic: one of `numerics.NAMES`, whose bound takes the place of the dtypes'.
        activation: "none", "relu", "relu6", "clamp:LO,HI" or (LO, HI), which is applied to the definition.
        note: a function that is told of each band. watch: hands on where the compared parts begin.

    Returns:
        A report, truthy when every element is equal (integers, and floats whose sum is exact in any order) or
        within its bound (other floats), and NaN and infinity stand where the definition has them. A result of
        another shape is different, no error. `named_arithmetic` is that of errors that are not the dtypes'.

    Raises:
        The errors of `convolve`, for inputs that make no convolution. SettingError, DTypeError: ways to judge
        that contradict each other, or that this layer has not.
    """
    x, filters, result = channels_last(x, filters, expected, layout, kernel_layout)
    layer = (stride, padding, dilation, groups, bias, flip, padding_mode)
    report = judge_layer(
        *(x, filters, result, *layer),
        exact=exact,
        atol=atol,
        rtol=rtol,
        requantize=requantize,
        arithmetic=arithmetic,
        activation=activation,
        note=note,
        watch=watch,
        naming=True,
    )
    return _said_in(layout, report)


def judge_layer(
    x: ArrayLike,
    filters: ArrayLike,
    expected: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    requantize: tuple[Any, ...] | None = None,
    arithmetic: str | None = None,
    activation: Any = None,
    note: Note | None = None,
    watch: Watch = unwatched,
    naming: bool = False,
    **tolerance: Any,
) -> Report:
    """As `verify`; without `naming`, whose arithmetic the errors are is not asked."""
    if not callable(watch):
        raise SettingError("watch", f"got {got(watch)}; give what hands on the steps of an iterable")
    rule, numerics = Rule.of(**tolerance, arithmetic=arithmetic), named(arithmetic)
    clamp = Activation.of(activation)
    x, filters = numbers("input", x), numbers("filters", filters)
    bias = None if bias is None else numbers("bias", bias)
    result = None if expected is None else known_numbers("expected", expected)
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode)
    if requantize is not None and arithmetic is not None:
        raise SettingError("arithmetic", "is of floats; a quantized result is met exactly")
    quantized = None if requantize is None else _quantized(requantize, result, x, filters, bias)
    own = result is None
    if result is None:
        result = _own_result(todo, quantized, clamp)
    if numerics is not PLAIN:
        numerics.check(*(a.dtype for a in (x, filters, bias, result) if a is not None))
    options = {"groups": groups, "flip": flip, "padding_mode": padding_mode}
    inputs = _Inputs(x, filters, bias, todo.plan.geometry, options)

    def definition(numerics: Numerics, kept: Sequence[int] = (), watch: Watch = unwatched) -> Definition:
        made = _definition(inputs.of_filters(kept), quantized, numerics, watch)
        return made if clamp is None else replace(made, activation=clamp)

    wanted = definition(numerics, watch=watch)
    shape = wanted.shape
    if result.shape == (math.prod(shape[:-1]), shape[-1]):
        result = result.reshape(shape)
    report = _located(wanted.compare(result, rule, note=note), todo.plan.geometry)
    report = replace(report, arithmetic=arithmetic, activation=clamp and str(clamp))
    if (
        own
        or not naming
        or isinstance(result, Narrow)
        or numerics is not PLAIN
        or rule != Rule()
        or quantized is not None
        or result.shape != shape
    ):
        return report
    return replace(report, named_arithmetic=seen_arithmetic(result, report, definition, groups))


def _located(report: Report, geometry: ConvGeometry) -> Report:
    """A report on Y with where its wrong elements are."""
    if report.wrong is None:
        return report
    names = axis_names(len(geometry.output_size))
    return replace(report, where=describe(report.wrong, names, touching(geometry)))


class _Inputs(NamedTuple):
    """What is convolved, and how."""

    x: NDArray[Any]
    filters: NDArray[Any]
    bias: NDArray[Any] | None
    geometry: ConvGeometry
    options: dict[str, Any]
    """`groups`, `flip` and `padding_mode`."""

    def of_filters(self, kept: Sequence[int]) -> _Inputs:
        """The layer of some filters of one group, or of several groups whole; of all where none are named."""
        if not kept:
            return self
        depth, of, some = self.filters.shape[-1], self.geometry, list(kept)
        first, last = (k * self.options["groups"] // len(self.filters) for k in (some[0], some[-1]))
        x = self.x[..., first * depth : (last + 1) * depth]
        return _Inputs(
            x,
            self.filters[some],
            None if self.bias is None else self.bias[some],
            ConvGeometry(x.shape, of.kernel_size, of.stride, of.padding, of.dilation),
            self.options | {"groups": last + 1 - first},
        )


def channels_last(
    x: ArrayLike, filters: ArrayLike, result: ArrayLike | None, layout: str, kernel_layout: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Input, filters and result of a layer, as views with channels last; what is not of as many axes stays.

    Raises:
        GeometryError: no such layout. DTypeError, ShapeError: no numbers, or no arrays of them.
    """
    choice("layout", layout, ("nhwc", "nchw"))
    choice("kernel_layout", kernel_layout, KERNEL_LAYOUTS)
    x, filters = numbers("input", x), numbers("filters", filters)
    result = None if result is None else known_numbers("expected", result)
    dims = x.ndim - 2
    if dims > 0 and filters.ndim == x.ndim:
        filters = to_filters(filters, dims, kernel_layout)
    if dims > 0 and result is not None and result.ndim == x.ndim:
        result = to_batch(result, dims, layout)
    return to_batch(x, dims, layout) if dims > 0 else x, filters, result


def in_layout(at: tuple[Any, ...], layout: str, axes: int) -> tuple[Any, ...]:
    """What stands for (n, *position, k) in the order of a layout; rows and columns as they are."""
    return (at[0], at[-1], *at[1:-1]) if layout == "nchw" and len(at) == axes else at


def _said_in(layout: str, report: Report) -> Report:
    """A report whose shapes and indices are those of a result in this layout, each number with its name."""
    axes = len(report.expected_shape)
    return replace(
        report,
        shape=in_layout(report.shape, layout, axes),
        expected_shape=in_layout(report.expected_shape, layout, axes),
        worst=None if report.worst is None else in_layout(report.worst, layout, axes),
        outside_at=tuple(in_layout(at, layout, axes) for at in report.outside_at),
        axes=in_layout(("n", *POSITION_NAMES[axes - 2], "k"), layout, axes),
    )


def _quantized(
    requantize: tuple[Any, ...], result: NDArray[Any] | None, *inputs: NDArray[Any] | None
) -> Requantize:
    """How integer inputs' sums become a result; DTypeError for other inputs."""
    quantized = Requantize.of(requantize).resolved(None if result is None else result.dtype)
    for array in inputs:
        if array is not None and array.dtype.kind not in "biu":
            raise DTypeError(
                "requantize",
                f"takes integer inputs, kernels and bias, for an exact int32 accumulator; got {array.dtype}",
            )
    return quantized


def _own_result(
    todo: Convolution, quantized: Requantize | None, activation: Activation | None
) -> NDArray[Any]:
    result = execute(todo)
    if activation is not None:
        activation = activation.fitted(np.dtype(quantized.dtype) if quantized else result.dtype)
    made = result if quantized is None else np.empty(result.shape, quantized.dtype)
    for band in bands(result.shape):
        values = result[band] if quantized is None else quantized.apply(result[band])
        made[band] = values if activation is None else activation.apply(values)
    return made


def _definition(given: _Inputs, quantized: Requantize | None, numerics: Numerics, watch: Watch) -> Definition:
    """The layer's result, some outputs at a time."""
    x, filters, bias, geometry, layer = given
    window = (geometry.stride, geometry.padding, geometry.dilation)
    size = reference.output_size(x.shape[1:-1], filters.shape[1:-1], *window)
    shape = (len(x), *size, len(filters))
    sums = partial(reference.convolve_by_taps, x, filters, *window, **layer)
    rounded = partial(reference.convolve_by_taps, x, numerics.value(filters), *window, **layer)
    parts = bands(shape[:-1], max(shape[-1], x.shape[-1]))
    inputs = [x, filters] if bias is None else [x, filters, bias]

    def values(band: Any) -> NDArray[Any]:
        shift = None if bias is None else numerics.bias_value(bias)
        accumulators = rounded(bias=shift, band=band, pixels=numerics.value)
        return accumulators if quantized is None else quantized.apply(accumulators)

    def sizes(band: Any) -> NDArray[Any]:
        shift = None if bias is None else numerics.bias_size(bias)
        return sums(bias=shift, band=band, pixels=numerics.size, weights=numerics.size)

    def flushed(band: Any, tiny: float) -> NDArray[Any]:
        doubt = partial(numerics.doubt, tiny=tiny)
        shift = None if bias is None else numerics.bias_doubt(bias, tiny)
        lost = sums(bias=shift, band=band, pixels=doubt, weights=numerics.size)
        lost += sums(band=band, pixels=numerics.size, weights=doubt)
        return lost

    made = Definition(
        shape,
        watch(parts, len(parts)),
        values,
        sizes,
        flushed,
        [] if quantized is not None else inputs,
        geometry.terms + (bias is not None),
        numerics=numerics,
        squares=lambda: [lambda band: sums(band=band, pixels=_square, weights=_square)],
    )
    if numerics.tiles is None:
        return made
    turned = np.flip(filters, tuple(range(1, filters.ndim - 1))) if layer["flip"] else filters
    of_transform = Layer(x, turned, geometry, layer["groups"], layer["padding_mode"])
    return _transformed(made, of_transform, 0.0 if bias is None else magnitude(bias), numerics.tiles)


def _transformed(made: Definition, layer: Layer, bias: Any, tiles: Tiles) -> Definition:
    """The definition, with the errors of a transform."""
    tiles.check(layer.geometry)
    of_band, shifts = tiles.sizes(layer), made.terms - layer.geometry.terms
    largest = sum(float(magnitude(a).max(initial=0, where=np.isfinite(a))) for a in layer[:2])
    return replace(
        made,
        sizes=lambda band: of_band(band) + bias,
        terms=tiles.roundings(layer.geometry) + shifts,
        amplified=1 + largest * tiles.amplification(layer.geometry),
        squares=partial(tiles.squares, layer),
    )


def _square(a: NDArray[Any]) -> NDArray[np.float64]:
    return magnitude(a) ** 2


class Explanation(NamedTuple):
    """The sum that is one element of the definition, term by term."""

    at: tuple[int, ...]
    """(n, *position, k)."""
    terms: list[reference.Term]
    products: list[Any]
    sums: list[Any]
    """After each product."""
    bias: Any
    """Python's number, or None."""
    total: Any
    """With the bias, if there is one."""


def explain(
    x: NDArray[Any],
    filters: NDArray[Any],
    at: tuple[int, ...],
    *,
    bias: NDArray[Any] | None = None,
    padding: Padding = "valid",
    **layer: Any,
) -> Explanation:
    """What the definition sums for the element `at` (n, *position, k); other arguments as `convolve`'s.

    Integers are exact, floats are summed in double precision in the order of a row of X_col.
    """
    steps = {key: layer.pop(key, 1) for key in ("stride", "dilation", "groups")}
    geometry = filter_geometry(x.shape, filters.shape, padding=padding, **steps)
    terms = reference.terms(
        x,
        filters,
        at,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        groups=steps["groups"],
        **layer,
    )
    products = [term.value * term.weight for term in terms]
    sums = list(itertools.accumulate(products))
    shift = None if bias is None else bias[at[-1]].item()
    return Explanation(at, terms, products, sums, shift, sums[-1] + (shift or 0))
