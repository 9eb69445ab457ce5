"""A layer's result against the definition of convolution, and the sum that is one element of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.arithmetic import choose_arithmetic
from convmat.arrays import known_numbers, numbers
from convmat.checks import choice, got
from convmat.engine import execute, prepare
from convmat.errors import ConvmatError, SettingError
from convmat.formats import Narrow
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.layouts import KERNEL_LAYOUTS, to_batch, to_filters
from convmat.plan import filter_geometry
from convmat.quantization import Quantization
from convmat.roundings import ROUNDINGS, canonical
from convmat.verification.activation import Activation
from convmat.verification.comparison import Definition, Note
from convmat.verification.judge import Rule, bands
from convmat.verification.numbers import magnitude
from convmat.verification.numerics import PLAIN, Numerics, named
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
    quantization: Quantization | None = None,
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
        quantization: what the definition makes of integers; to be met exactly unless a tolerance is given.
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
    how: dict[str, Any] = {"exact": exact, "atol": atol, "rtol": rtol, "quantization": quantization}
    how |= {"arithmetic": arithmetic, "activation": activation, "note": note, "watch": watch}
    report = judge_layer(x, filters, result, *layer, **how, naming=True)
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
    quantization: Quantization | None = None,
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
    if note is not None and not callable(note):
        raise SettingError("note", f"got {got(note)}; give a function of a band, its definition and verdict")
    rule, numerics = Rule.of(**tolerance, arithmetic=arithmetic), named(arithmetic)
    clamp = Activation.of(activation)
    x, filters = numbers("input", x), numbers("filters", filters)
    bias = None if bias is None else numbers("bias", bias)
    result = None if expected is None else known_numbers("expected", expected)
    own = quantization if result is None else None
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode, own)
    options = {"groups": groups, "flip": flip, "padding_mode": padding_mode}
    inputs = _Inputs(x, filters, bias, todo.plan.geometry, options)
    if quantization is not None:
        for name, value in (("arithmetic", arithmetic), ("activation", clamp)):
            if value is not None:
                raise SettingError(name, "is of floats; a quantized result is met exactly, its range and all")
        return _judge_quantized(
            inputs, quantization, execute(todo) if result is None else result, rule, note, watch
        )
    if numerics is not PLAIN:
        numerics.check(*(a.dtype for a in (x, filters, bias, result) if a is not None))
    naming = naming and result is not None and numerics is PLAIN and rule == Rule()
    if result is None:
        result = activated(execute(todo), activation)

    def definition(numerics: Numerics, kept: Sequence[int] = (), watch: Watch = unwatched) -> Definition:
        made = _definition(inputs.of_filters(kept), numerics, watch)
        return made if clamp is None else replace(made, activation=clamp)

    wanted = definition(numerics, watch=watch)
    result = _in_shape(result, wanted.shape)
    report = _located(wanted.compare(result, rule, note=note), todo.plan.geometry)
    report = replace(report, arithmetic=arithmetic, activation=clamp and str(clamp))
    if not naming or isinstance(result, Narrow) or result.shape != wanted.shape:
        return report
    return replace(report, named_arithmetic=seen_arithmetic(result, report, definition, groups))


def _judge_quantized(
    given: _Inputs,
    quantization: Quantization,
    result: NDArray[Any],
    rule: Rule,
    note: Note | None,
    watch: Watch,
) -> Report:
    """The verdict on a quantized result, and the other roundings that it equals."""
    x, filters, bias, geometry, _ = given
    quantized = Quantization.checked(quantization).of_layer(x, filters, bias, result.dtype)
    wanted = _accumulators(given, quantized, quantized.apply, watch)
    result = _in_shape(result, wanted.shape)
    report = _located(wanted.compare(result, rule, note=note), geometry)
    return _with_rounding(report, result, _accumulators(given, quantized, np.asarray, unwatched), quantized)


def _accumulators(
    given: _Inputs, quantized: Quantization, outcome: Callable[[NDArray[Any]], NDArray[Any]], watch: Watch
) -> Definition:
    """What becomes of a quantized layer's sums, some outputs at a time; it is met exactly."""
    x, filters, bias, geometry, layer = given
    weights = quantized.weights(filters)
    holds = choose_arithmetic(geometry.terms, quantized.pixels(x), weights, bias).accumulator
    layer = layer | {"pixels": quantized.pixels, "outside": quantized.input_zero_point, "sums": holds}
    window = (geometry.stride, geometry.padding, geometry.dilation)
    size = reference.output_size(x.shape[1:-1], filters.shape[1:-1], *window)
    shape = (len(x), *size, len(filters))
    parts = bands(shape[:-1], max(shape[-1], x.shape[-1]))
    sums = partial(reference.convolve_by_taps, x, weights, *window, **layer, bias=bias)
    return Definition(shape, watch(parts, len(parts)), lambda band: outcome(sums(band=band).astype(np.int64)))


def _in_shape(result: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Rows of Y as Y; anything else as it is."""
    return result.reshape(shape) if result.shape == (math.prod(shape[:-1]), shape[-1]) else result


def activated(result: NDArray[Any], activation: Any) -> NDArray[Any]:
    """convmat's own result after an activation, as `verify` takes it, in its place."""
    clamp = Activation.of(activation)
    if clamp is None:
        return result
    fitted = clamp.fitted(result.dtype)
    for band in bands(result.shape):
        result[band] = fitted.apply(result[band])
    return result


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


def _with_rounding(report: Report, result: NDArray[Any], sums: Definition, quantized: Quantization) -> Report:
    """The report, with the other roundings under which every element of a result that differs is equal."""
    wide, asked = quantized.accumulator == "int64", quantized.canonical_rounding
    names = [name for name in ROUNDINGS if name == canonical(name, wide) != asked]
    left = [replace(quantized, rounding=name) for name in names]
    if report or result.shape != sums.shape:
        left = []
    for band in sums.parts if left else []:
        of_band = sums.values(band)
        left = [other for other in left if _equals(result[band], of_band, other)]
        if not left:
            break
    return replace(report, rounding=quantized.rounding, equal_as=tuple(other.rounding for other in left))


def _equals(result: NDArray[Any], sums: NDArray[Any], quantized: Quantization) -> bool:
    try:
        return bool((quantized.apply(sums) == result).all())
    except ConvmatError:  # sums or shifts that the rounding does not take
        return False


def _definition(given: _Inputs, numerics: Numerics, watch: Watch) -> Definition:
    """The layer's result, some outputs at a time."""
    x, filters, bias, geometry, layer = given
    window = (geometry.stride, geometry.padding, geometry.dilation)
    size = reference.output_size(x.shape[1:-1], filters.shape[1:-1], *window)
    shape = (len(x), *size, len(filters))
    inputs = [x, filters] if bias is None else [x, filters, bias]
    sums = partial(reference.convolve_by_taps, x, filters, *window, **layer)
    rounded = partial(reference.convolve_by_taps, x, numerics.value(filters), *window, **layer)
    parts = bands(shape[:-1], max(shape[-1], x.shape[-1]))
    integers = all(a.dtype.kind in "biu" for a in inputs) and numerics is PLAIN
    holds = choose_arithmetic(geometry.terms, x, filters, bias).accumulator if integers else None

    def values(band: Any) -> NDArray[Any]:
        shift = None if bias is None else numerics.bias_value(bias)
        made = rounded(bias=shift, band=band, pixels=numerics.value, sums=holds)
        return made.astype(np.int64, copy=False) if integers else made

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
        inputs,
        geometry.terms + (bias is not None),
        numerics=numerics,
        both=_together(given) if numerics is PLAIN and not integers else None,
        squares=lambda: [lambda band: sums(band=band, pixels=_square, weights=_square)],
    )
    if numerics.tiles is None:
        return made
    turned = np.flip(filters, tuple(range(1, filters.ndim - 1))) if layer["flip"] else filters
    of_transform = Layer(x, turned, geometry, layer["groups"], layer["padding_mode"])
    return _transformed(made, of_transform, 0.0 if bias is None else magnitude(bias), numerics.tiles)


def _together(given: _Inputs) -> Callable[[Any], tuple[NDArray[Any], NDArray[Any]]]:
    """The result and A of a band at once."""
    x, filters, bias, geometry, layer = given
    size = np.abs if x.dtype.kind == filters.dtype.kind == "f" else magnitude
    shift = None if bias is None else magnitude(bias)
    products = [reference.Products(bias=bias), reference.Products(size, size, shift)]
    window = (geometry.stride, geometry.padding, geometry.dilation)
    sums = partial(reference.sums_by_taps, x, filters, products, *window, **layer)

    def both(band: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        values, sizes = sums(band=band)
        return values, sizes

    return both


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


def definition(
    x: NDArray[Any],
    filters: NDArray[Any],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: NDArray[Any] | None = None,
    quantization: Quantization | None = None,
) -> Definition:
    """What a layer's result must be, some outputs at a time, for who judges several results of it at once.

    Arguments and errors are those of `convolve`.
    """
    geometry = prepare(x, filters, stride, padding, dilation, groups, bias).plan.geometry
    options = {"groups": groups, "flip": False, "padding_mode": "zeros"}
    given = _Inputs(x, filters, bias, geometry, options)
    if quantization is None:
        return _definition(given, PLAIN, unwatched)
    quantized = quantization.of_layer(x, filters, bias)
    return _accumulators(given, quantized, quantized.apply, unwatched)


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
