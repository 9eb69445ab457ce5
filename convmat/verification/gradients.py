"""Gradients of a layer against their definitions: dX of the input, dW of the filters, db of the bias.

The loss is ⟨Y, dY⟩ = Σ Y·dY, where dY is given: the gradient of any loss by the layer's result. Complex
numbers are multiplied as they are, and not conjugated. Each element of a gradient is a sum of n products,
which is judged as an element of a convolution is (see `judge`):

    dX[n, p, c]    = Σ dY[n, y, k]·W[k, tap, c]     n = taps that meet a pixel × K/groups,
    dW[k, tap, c]  = Σ x[n, seen by tap from y, c]·dY[n, y, k]      n = N·H_out·W_out,
    db[k]          = Σ dY[n, y, k]                                  n = N·H_out·W_out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.adjoint import convolve_transpose
from convmat.arithmetic import choose_arithmetic
from convmat.arrays import numbers
from convmat.axis import padding_source
from convmat.checks import filter_groups
from convmat.engine import convolve, multiply, result_dtype
from convmat.errors import ShapeError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.verification.comparison import Definition
from convmat.verification.computed import Computation
from convmat.verification.judge import BAND, Rule, bands
from convmat.verification.numbers import magnitude, subnormal
from convmat.verification.verdict import Report
from convmat.watching import Watch, unwatched

Array = NDArray[Any]
_Values = Callable[[Array], Array]


def verify_input_gradient(
    grad: ArrayLike,
    filters: ArrayLike,
    input_shape: Sequence[int],
    expected: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    watch: Watch = unwatched,
    **judged: Any,
) -> Report:
    """Compare dX, the gradient by the layer's input, with its definition: convmat's, or yours.

    Args:
        grad: dY, (N, *out, K).
        filters and the layer: as `convolve` takes them. input_shape: (N, *spatial, C).
        expected: (N, *spatial, C). What other padding modes than "zeros" show again is added to its pixel.
        judged: the `exact`, `atol` and `rtol` of `verify`.

    Raises:
        ShapeError: a dY that is not of the layer's result. Else the errors of `convolve`.
    """
    grad, filters = numbers("grad", grad), numbers("filters", filters)
    geometry = filter_geometry(tuple(input_shape), filters.shape, stride, padding, dilation, groups)
    check_grad(grad.shape, geometry, len(filters))
    layer = input_layer(filters, geometry, flip, padding_mode)
    definition = input_definition(grad, layer, watch)
    result = input_gradient(grad, layer, geometry) if expected is None else expected
    return definition.compare(numbers("expected", result), Rule.of(**judged))


def verify_weight_gradient(
    x: ArrayLike,
    grad: ArrayLike,
    kernel_size: Sizes,
    expected: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    watch: Watch = unwatched,
    **judged: Any,
) -> Report:
    """Compare dW, the gradient by the layer's filters, with its definition: convmat's, or yours.

    Args:
        x and the layer: as `convolve` takes them. grad: dY, (N, *out, K).
        expected: (K, *kernel, C/groups), summed over the batch.
        judged: the `exact`, `atol` and `rtol` of `verify`.

    Raises:
        ShapeError: a dY that is not of the layer's result. Else the errors of `convolve`.
    """
    x, grad = numbers("input", x), numbers("grad", grad)
    geometry = ConvGeometry(x.shape, kernel_size, stride, padding, dilation, groups)
    check_grad(grad.shape, geometry)
    filter_groups(grad.shape[-1], geometry.groups)
    definition = weight_definition(grad, weight_layer(x, grad.shape[-1], geometry, padding_mode), flip, watch)
    result = weight_gradient(x, grad, geometry, flip, padding_mode) if expected is None else expected
    return definition.compare(numbers("expected", result), Rule.of(**judged))


def verify_bias_gradient(
    grad: ArrayLike, expected: ArrayLike | None = None, watch: Watch = unwatched, **judged: Any
) -> Report:
    """Compare db, the gradient by the layer's bias, with its definition: convmat's, or yours.

    Args:
        grad: dY, (N, *out, K). expected: (K,).
        judged: the `exact`, `atol` and `rtol` of `verify`.

    Raises:
        ShapeError: a dY without axes. IntegerRangeError: integers whose sums could pass 2^63.
    """
    grad = numbers("grad", grad)
    if grad.ndim < 2:
        raise ShapeError("grad", f"has shape {grad.shape}; give dY, (N, *out, K)")
    definition = bias_definition(grad, watch)
    result = bias_gradient(grad) if expected is None else expected
    return definition.compare(numbers("expected", result), Rule.of(**judged))


def check_grad(shape: tuple[int, ...], geometry: ConvGeometry, filters: int | None = None) -> None:
    """Raise ShapeError unless this is the shape of the layer's result, with as many filters."""
    wanted = (*geometry.positions, *([] if filters is None else [filters]))
    if len(shape) != len(geometry.input_shape) or shape[: len(wanted)] != wanted or not shape[-1]:
        named = ", ".join(map(str, (*geometry.positions, "K" if filters is None else filters)))
        raise ShapeError(
            "grad", f"has shape {shape}, the layer's result has ({named}); give dY of that shape"
        )


def input_layer(
    filters: Array, geometry: ConvGeometry, flip: bool = False, padding_mode: str = "zeros"
) -> Computation:
    """A layer of which dX is asked: its input is zeros that take no memory, its filters are turned."""
    if flip:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    nothing = np.broadcast_to(np.zeros(1), geometry.input_shape)
    return _layer(nothing, filters, geometry, padding_mode)


def weight_layer(x: Array, filters: int, geometry: ConvGeometry, padding_mode: str = "zeros") -> Computation:
    """A layer of which dW is asked: its filters are zeros that take no memory."""
    shape = (filters, *geometry.kernel_size, geometry.channels // geometry.groups)
    return _layer(x, np.broadcast_to(np.zeros(1), shape), geometry, padding_mode)


def _layer(x: Array, filters: Array, geometry: ConvGeometry, padding_mode: str) -> Computation:
    window = (geometry.stride, geometry.padding, geometry.dilation)
    return Computation(x, filters, *window, geometry.groups, None, padding_mode)


def gradient_bytes(geometry: ConvGeometry, filters: int) -> int:
    """Memory that the definition of dX or dW takes, about: what a band sees of x and of dY, in float64."""
    pixels = min(2 * BAND, math.prod(geometry.input_shape))
    outputs = min(2 * BAND // geometry.channels + 1, math.prod(geometry.positions)) * filters
    return 3 * 16 * (pixels + outputs)


# By the engine.


def input_gradient(grad: Array, layer: Computation, geometry: ConvGeometry) -> Array:
    """dX: the convolution's transpose; what it lays in the padding is added to the pixels shown there."""
    filters, padding_mode = layer.filters, layer.padding_mode
    steps = (geometry.stride, geometry.pads, geometry.dilation, geometry.groups)
    if padding_mode == "zeros":
        return convolve_transpose(grad, filters, *steps, input_shape=geometry.input_shape)
    kind = result_dtype(grad.dtype, filters.dtype)
    if kind == np.float16:  # so that it is rounded once
        grad = grad.astype(np.float32)
    size = [h + sum(pads) for h, pads in zip(geometry.input_size, geometry.pads, strict=True)]
    padded_shape = (geometry.batch, *size, geometry.channels)
    found = convolve_transpose(grad, filters, steps[0], "valid", *steps[2:], input_shape=padded_shape)
    for axis, (h, (before, _)) in enumerate(zip(geometry.input_size, geometry.pads, strict=True), 1):
        padded = np.moveaxis(found, axis, 0)
        image = np.zeros((h, *padded.shape[1:]), found.dtype)
        for line, pixel in zip(
            padded, padding_source(np.arange(len(padded)) - before, h, padding_mode), strict=True
        ):
            image[pixel] += line
        found = np.moveaxis(image, 0, axis)
    return found.astype(kind, copy=False)


def weight_gradient(
    x: Array, grad: Array, geometry: ConvGeometry, flip: bool = False, padding_mode: str = "zeros"
) -> Array:
    """dW: of each group a convolution, of which the channels are the images, and the filters are dY.

    Its stride is the layer's dilation, and its dilation the layer's stride.
    """
    axes = tuple(range(1, grad.ndim - 1))
    parts = []
    for pixels, towards in zip(
        np.split(x, geometry.groups, -1), np.split(grad, geometry.groups, -1), strict=True
    ):
        shape = (towards.shape[-1], *geometry.kernel_size, pixels.shape[-1])
        if not len(x):
            parts.append(np.zeros(shape, result_dtype(x.dtype, grad.dtype)))
            continue
        found = convolve(
            pixels.swapaxes(0, -1),
            towards.swapaxes(0, -1),
            geometry.dilation,
            geometry.pads,
            geometry.stride,
            padding_mode=padding_mode,
        )
        parts.append(found.swapaxes(0, -1)[tuple(map(slice, shape))])
    dw = np.concatenate(parts)
    return np.flip(dw, axes) if flip else dw


def bias_gradient(grad: Array) -> Array:
    """db: a row of ones times the rows of dY."""
    rows = grad.reshape(-1, grad.shape[-1])
    if not len(rows):
        return np.zeros(grad.shape[-1], result_dtype(grad.dtype, grad.dtype))
    return np.asarray(multiply(np.ones((1, len(rows)), grad.dtype), rows)[0])


# By definition.


def input_definition(grad: Array, layer: Computation, watch: Watch = unwatched) -> Definition:
    """dX of a layer, of whose input only the shape matters, some lines of pixels at a time."""
    steps = (layer.stride, layer.padding, layer.dilation, layer.groups, False, layer.padding_mode)
    shape, terms = layer.x.shape, _most_that_meet(layer) * len(layer.filters) // layer.groups

    def sums(band: Any, slopes: _Values, weights: _Values) -> Array:
        return reference.input_gradient(grad, layer.filters, shape, *steps, band, slopes, weights)

    parts = bands(shape[:-1], shape[-1])
    return _definition(shape, parts, sums, [grad, layer.filters], terms, watch)


def weight_definition(
    grad: Array, layer: Computation, flip: bool = False, watch: Watch = unwatched
) -> Definition:
    """dW of a layer, of whose filters only the shape matters, some filters and taps at a time.

    Each part is summed over some outputs after others.
    """
    steps = (layer.stride, layer.padding, layer.dilation, layer.groups, flip, layer.padding_mode)
    outputs = layer.convolved_shape[:-1]
    positions = bands(outputs, layer.x.shape[-1]) or [(slice(0, 0),)]

    def sums(band: Any, pixels: _Values, slopes: _Values) -> Array:
        total: Any = 0
        for part in positions:
            total = total + reference.weight_gradient(
                layer.x, grad, layer.kernel, *steps, band, part, pixels, slopes
            )
        return np.asarray(total)

    shape = layer.filters.shape
    parts = bands(shape[:-1], shape[-1])
    return _definition(shape, parts, sums, [layer.x, grad], math.prod(outputs), watch)


def bias_definition(grad: Array, watch: Watch = unwatched) -> Definition:
    """db, summed over some outputs after others."""
    positions = bands(grad.shape[:-1], grad.shape[-1])

    def sums(_: Any, slopes: _Values, __: _Values) -> Array:
        parts = (reference.bias_gradient(grad, part, slopes) for part in positions or [(slice(0, 0),)])
        return np.asarray(sum(parts))

    ones = np.ones(1, grad.dtype)  # what each number is multiplied by
    return _definition(grad.shape[-1:], [()], sums, [grad, ones], math.prod(grad.shape[:-1]), watch)


def _definition(
    shape: tuple[int, ...],
    parts: Sequence[Any],
    sums: Callable[[Any, _Values, _Values], Array],
    operands: list[Array],
    terms: int,
    watch: Watch,
) -> Definition:
    """Sums of `terms` products of two operands; `sums` takes a part, and what to multiply in place of each.

    Raises:
        IntegerRangeError: integers whose sums could pass 2^63. DTypeError: floats wider than float64.
    """
    choose_arithmetic(terms, *operands)

    def flushed(part: Any, tiny: float) -> Array:
        doubted = partial(subnormal, tiny=tiny)
        return sums(part, doubted, magnitude) + sums(part, magnitude, doubted)

    return Definition(
        shape,
        watch(parts, len(parts)),
        lambda part: sums(part, np.asarray, np.asarray),
        lambda part: sums(part, magnitude, magnitude),
        flushed,
        operands,
        max(terms, 1),
    )


def _most_that_meet(layer: Computation) -> int:
    """Outputs and taps that see one pixel, at most."""
    most, outputs = 1, layer.convolved_shape[1:-1]
    for size, k, s, d, (before, _), out in zip(
        layer.size, layer.kernel, layer.stride, layer.dilation, layer.pads, outputs, strict=True
    ):
        seen = np.add.outer(np.arange(k) * d, np.arange(out) * s).ravel() - before
        if layer.padding_mode == "zeros":
            seen = seen[(seen >= 0) & (seen < size)]
        else:
            seen = padding_source(seen, size, layer.padding_mode)
        most *= int(np.bincount(seen, minlength=1).max())
    return most
