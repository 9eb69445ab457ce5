"""A layer's result against the definition of convolution, and the sum that is one element of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.checks import got, numbers
from convmat.engine import execute, prepare
from convmat.errors import ConvmatError, SettingError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.quantization import Quantization
from convmat.roundings import ROUNDINGS, canonical
from convmat.verification.comparison import Definition
from convmat.verification.judge import Rule, bands, magnitude
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
    quantization: Quantization | None = None,
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
        quantization: what the definition makes of integers; to be met exactly unless a tolerance is given.
        watch: hands on where the parts begin that the result is compared in.

    Returns:
        A report, truthy when every element is equal (integers, and floats whose sum is exact in any order) or
        within its bound (other floats), and NaN and infinity stand where the definition has them. A result of
        another shape is different, no error.

    Raises:
        The errors of `convolve`, for inputs that make no convolution. SettingError: `exact` and a tolerance,
        a tolerance below 0, or a quantization for another layer.
    """
    if not callable(watch):
        raise SettingError("watch", f"got {got(watch)}; give what hands on the steps of an iterable")
    rule = Rule.of(exact, atol, rtol)
    own = quantization if expected is None else None
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode, own)
    x, filters = np.asarray(x), np.asarray(filters)
    bias = None if bias is None else np.asarray(bias)
    result = execute(todo) if expected is None else numbers("expected", expected)
    quantized = None
    if quantization is not None:
        quantized = Quantization.checked(quantization).of_layer(x, filters, bias, result.dtype)
    layer = {"groups": groups, "flip": flip, "padding_mode": padding_mode}
    given = (x, filters, bias, todo.plan.geometry, layer, quantized)
    definition = _definition(*given, watch)
    shape = definition.shape
    if result.shape == (math.prod(shape[:-1]), shape[-1]):
        result = result.reshape(shape)
    report = definition.compare(result, rule)
    if quantized is None:
        return report
    return _with_rounding(report, result, _definition(*given, raw=True), quantized)


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


def _definition(
    x: NDArray[Any],
    filters: NDArray[Any],
    bias: NDArray[Any] | None,
    geometry: ConvGeometry,
    layer: dict[str, Any],
    quantized: Quantization | None,
    watch: Watch = unwatched,
    raw: bool = False,
) -> Definition:
    """The layer's result, some outputs at a time; `raw` leaves a quantized one's sums as they are."""
    inputs = [x, filters] if bias is None else [x, filters, bias]
    if quantized is not None:
        filters = quantized.weights(filters)
        layer = layer | {"pixels": quantized.pixels, "outside": quantized.input_zero_point}
    window = (geometry.stride, geometry.padding, geometry.dilation)
    size = reference.output_size(x.shape[1:-1], filters.shape[1:-1], *window)
    shape = (len(x), *size, len(filters))
    sums = partial(reference.convolve_by_taps, x, filters, *window, **layer)
    parts = bands(shape[:-1], max(shape[-1], x.shape[-1]))

    def values(band: Any) -> NDArray[Any]:
        accumulators = sums(bias=bias, band=band)
        return accumulators if quantized is None or raw else quantized.apply(accumulators)

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
