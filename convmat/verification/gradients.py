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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.adjoint import convolve_transpose
from convmat.arithmetic import choose_arithmetic
from convmat.axis import padding_source
from convmat.checks import filter_groups, numbers
from convmat.engine import convolve, multiply, result_dtype
from convmat.errors import ShapeError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.verification.comparison import Definition
from convmat.verification.judge import BAND, Rule, bands, magnitude
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
    layer: dict[str, Any] = {"flip": flip, "padding_mode": padding_mode}
    definition = input_definition(grad, filters, geometry, **layer, watch=watch)
    result = input_gradient(grad, filters, geometry, **layer) if expected is None else expected
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
    layer: dict[str, Any] = {"flip": flip, "padding_mode": padding_mode}
    definition = weight_definition(x, grad, geometry, **layer, watch=watch)
    result = weight_gradient(x, grad, geometry, **layer) if expected is None else expected
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


def gradient_bytes(geometry: ConvGeometry, filters: int) -> int:
    """Memory that the definition of dX or dW takes, about: what a band sees of x and of dY, in float64."""
    pixels = min(2 * BAND, math.prod(geometry.input_shape))
    outputs = min(2 * BAND // geometry.channels + 1, math.prod(geometry.positions)) * filters
    return 3 * 16 * (pixels + outputs)


# By the engine.


def input_gradient(
    grad: Array, filters: Array, geometry: ConvGeometry, flip: bool = False, padding_mode: str = "zeros"
) -> Array:
    """dX: the convolution's transpose; what it lays in the padding is added to the pixels shown there."""
    if flip:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
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


def input_definition(
    grad: Array,
    filters: Array,
    geometry: ConvGeometry,
    flip: bool = False,
    padding_mode: str = "zeros",
    watch: Watch = unwatched,
) -> Definition:
    """dX, some lines of pixels at a time."""
    terms = _most_that_meet(geometry, padding_mode) * len(filters) // geometry.groups
    steps = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)

    def sums(band: Any, slopes: _Values, weights: _Values) -> Array:
        return reference.input_gradient(
            *(grad, filters, geometry.input_shape, *steps, flip, padding_mode, band, slopes, weights)
        )

    return _definition(geometry.input_shape, bands(geometry.input_shape), sums, [grad, filters], terms, watch)


def weight_definition(
    x: Array,
    grad: Array,
    geometry: ConvGeometry,
    flip: bool = False,
    padding_mode: str = "zeros",
    watch: Watch = unwatched,
) -> Definition:
    """dW, some filters and taps at a time, each summed over some outputs after others."""
    shape = (grad.shape[-1], *geometry.kernel_size, geometry.channels // geometry.groups)
    steps = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    positions = bands(geometry.positions, geometry.channels)

    def sums(band: Any, pixels: _Values, slopes: _Values) -> Array:
        total: Any = 0
        for part in positions or [(slice(0, 0),)]:
            total = total + reference.weight_gradient(
                *(x, grad, geometry.kernel_size, *steps, flip, padding_mode, band, part, pixels, slopes)
            )
        return np.asarray(total)

    parts = bands(shape[:-1], shape[-1])
    return _definition(shape, parts, sums, [x, grad], math.prod(geometry.positions), watch)


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

    def flushed(part: Any, subnormal: _Values) -> Array:
        return sums(part, subnormal, magnitude) + sums(part, magnitude, subnormal)

    return Definition(
        shape,
        watch(parts, len(parts)),
        lambda part: sums(part, np.asarray, np.asarray),
        lambda part: sums(part, magnitude, magnitude),
        flushed,
        operands,
        max(terms, 1),
    )


def _most_that_meet(geometry: ConvGeometry, padding_mode: str) -> int:
    """Outputs and taps that see one pixel, at most."""
    most = 1
    for size, k, s, d, (before, _), out in zip(
        geometry.input_size,
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        geometry.pads,
        geometry.output_size,
        strict=True,
    ):
        seen = np.add.outer(np.arange(k) * d, np.arange(out) * s).ravel() - before
        if padding_mode == "zeros":
            seen = seen[(seen >= 0) & (seen < size)]
        else:
            seen = padding_source(seen, size, padding_mode)
        most *= int(np.bincount(seen, minlength=1).max())
    return most
