"""A layer's result against the definition of convolution, and the sum that is one element of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.checks import got, numbers
from convmat.engine import Convolution, execute, prepare
from convmat.errors import DTypeError, SettingError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.verification.comparison import Definition
from convmat.verification.judge import Rule, bands, magnitude
from convmat.verification.quantization import Requantize
from convmat.verification.verdict import Report
from convmat.watching import Watch, unwatched


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
    exact: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    requantize: tuple[Any, ...] | None = None,
    watch: Watch = unwatched,
) -> Report:
    """Compare a convolution with the definition: the engine's, or yours if `expected` is given.

    Args:
        x, filters and the geometry: as `convolve` takes them.
        expected: the result to judge, (N, *out, K) or (N·H_out·W_out, K). Its accumulator is taken to be
            the coarser of the inputs' dtype and its own (float32 for float16).
        exact: floats, too, must be equal in value.
        atol, rtol: in place of the bound, |result − definition| ≤ atol + rtol·|definition|, of complex
            numbers the moduli; of the two the one that is not given is 0.
        requantize: (scale, zero_point, rounding, dtype) of `quantization.Requantize`; the definition is then
            the quantized result of integer inputs, and must be met exactly unless a tolerance is given.
        watch: hands on where the parts begin that the result is compared in.

    Returns:
        A report, truthy when every element is equal (integers, and floats whose sum is exact in any order) or
        within its bound (other floats), and NaN and infinity stand where the definition has them. A result of
        another shape is different, no error.

    Raises:
        The errors of `convolve`, for inputs that make no convolution. SettingError: `exact` and a tolerance,
        a tolerance below 0, or what makes no requantization.
    """
    if not callable(watch):
        raise SettingError("watch", f"got {got(watch)}; give what hands on the steps of an iterable")
    rule = Rule.of(exact, atol, rtol)
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode)
    x, filters = np.asarray(x), np.asarray(filters)
    bias = None if bias is None else np.asarray(bias)
    result = None if expected is None else numbers("expected", expected)
    quantized = None
    if requantize is not None:
        quantized = Requantize.of(requantize).resolved(None if result is None else result.dtype)
        _check_integers(x, filters, bias)
    layer = {"groups": groups, "flip": flip, "padding_mode": padding_mode}
    definition = _definition(x, filters, bias, todo.plan.geometry, layer, quantized, watch)
    if result is None:
        result = _own_result(todo, quantized)
    shape = definition.shape
    if result.shape == (math.prod(shape[:-1]), shape[-1]):
        result = result.reshape(shape)
    return definition.compare(result, rule)


def _check_integers(*arrays: NDArray[Any] | None) -> None:
    for array in arrays:
        if array is not None and array.dtype.kind not in "biu":
            raise DTypeError(
                "requantize",
                f"takes integer inputs, kernels and bias, for an exact int32 accumulator; got {array.dtype}",
            )


def _own_result(todo: Convolution, quantized: Requantize | None) -> NDArray[Any]:
    result = execute(todo)
    if quantized is None:
        return result
    made = np.empty(result.shape, quantized.dtype)
    for band in bands(result.shape):
        made[band] = quantized.apply(result[band])
    return made


def _definition(
    x: NDArray[Any],
    filters: NDArray[Any],
    bias: NDArray[Any] | None,
    geometry: ConvGeometry,
    layer: dict[str, Any],
    quantized: Requantize | None,
    watch: Watch,
) -> Definition:
    """The layer's result, some outputs at a time."""
    window = (geometry.stride, geometry.padding, geometry.dilation)
    size = reference.output_size(x.shape[1:-1], filters.shape[1:-1], *window)
    shape = (len(x), *size, len(filters))
    sums = partial(reference.convolve_by_taps, x, filters, *window, **layer)
    parts = bands(shape[:-1], max(shape[-1], x.shape[-1]))
    inputs = [x, filters] if bias is None else [x, filters, bias]

    def values(band: Any) -> NDArray[Any]:
        accumulators = sums(bias=bias, band=band)
        return accumulators if quantized is None else quantized.apply(accumulators)

    def sizes(band: Any) -> NDArray[Any]:
        shift = None if bias is None else magnitude(bias)
        return sums(bias=shift, band=band, pixels=magnitude, weights=magnitude)

    def flushed(band: Any, subnormal: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        shift = None if bias is None else subnormal(bias)
        lost = sums(bias=shift, band=band, pixels=subnormal, weights=magnitude)
        lost += sums(band=band, pixels=magnitude, weights=subnormal)
        return lost

    return Definition(
        shape,
        watch(parts, len(parts)),
        values,
        sizes,
        flushed,
        [] if quantized is not None else inputs,
        geometry.terms + (bias is not None),
    )


def definition(
    x: NDArray[Any],
    filters: NDArray[Any],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: NDArray[Any] | None = None,
) -> Definition:
    """What a layer's result must be, some outputs at a time, for who judges several results of it at once.

    Arguments and errors are those of `convolve`.
    """
    geometry = prepare(x, filters, stride, padding, dilation, groups, bias).plan.geometry
    return _definition(x, filters, bias, geometry, {"groups": groups}, None, unwatched)


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
