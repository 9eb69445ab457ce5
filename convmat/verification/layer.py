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
        quantization: what the definition makes of integers; the result is then one of integers, too, and must
            be met exactly unless a tolerance is given. One that differs is held against the other roundings.
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
    sums = _Sums(x, filters, bias, todo.plan.geometry, layer, quantized)
    if result.shape == (math.prod(sums.shape[:-1]), sums.shape[-1]):
        result = result.reshape(sums.shape)
    report = sums.definition(watch).compare(result, rule)
    return report if quantized is None else _with_rounding(report, result, sums, quantized)


class _Sums:
    """The layer's sums by definition, some outputs at a time."""

    def __init__(
        self,
        x: NDArray[Any],
        filters: NDArray[Any],
        bias: NDArray[Any] | None,
        geometry: ConvGeometry,
        layer: dict[str, Any],
        quantized: Quantization | None,
    ) -> None:
        self.bias, self.quantized, self.terms = bias, quantized, geometry.terms + (bias is not None)
        self.inputs = [x, filters] if bias is None else [x, filters, bias]
        if quantized is not None:
            filters = quantized.weights(filters)
            layer = layer | {"pixels": quantized.pixels, "outside": quantized.input_zero_point}
        window = (geometry.stride, geometry.padding, geometry.dilation)
        size = reference.output_size(x.shape[1:-1], filters.shape[1:-1], *window)
        self.shape = (len(x), *size, len(filters))
        self.bands = bands(self.shape[:-1], max(self.shape[-1], x.shape[-1]))
        self._sums = partial(reference.convolve_by_taps, x, filters, *window, **layer)

    def __call__(self, band: Any) -> NDArray[Any]:
        """Of a band, with the bias."""
        return self._sums(bias=self.bias, band=band)

    def definition(self, watch: Watch) -> Definition:
        """What the result must be."""
        quantized, bias, sums = self.quantized, self.bias, self._sums

        def values(band: Any) -> NDArray[Any]:
            return self(band) if quantized is None else quantized.apply(self(band))

        def sizes(band: Any) -> NDArray[Any]:
            shift = None if bias is None else magnitude(bias)
            return sums(bias=shift, band=band, pixels=magnitude, weights=magnitude)

        def flushed(band: Any, subnormal: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
            shift = None if bias is None else subnormal(bias)
            lost = sums(bias=shift, band=band, pixels=subnormal, weights=magnitude)
            lost += sums(band=band, pixels=magnitude, weights=subnormal)
            return lost

        return Definition(
            self.shape,
            watch(self.bands, len(self.bands)),
            values,
            sizes,
            flushed,
            self.inputs if quantized is None else [],
            self.terms,
        )


def _with_rounding(report: Report, result: NDArray[Any], sums: _Sums, quantized: Quantization) -> Report:
    """A report that names the other roundings under which a result, if it differs, is equal throughout."""
    wide, asked = quantized.accumulator == "int64", quantized.canonical_rounding
    names = [name for name in ROUNDINGS if name == canonical(name, wide) != asked]
    left = [replace(quantized, rounding=name) for name in names]
    if report or result.shape != sums.shape:
        left = []
    for band in sums.bands if left else []:
        accumulators = sums(band)
        left = [other for other in left if _equals(result[band], accumulators, other)]
        if not left:
            break
    return replace(report, rounding=quantized.rounding, equal_as=tuple(other.rounding for other in left))


def _equals(result: NDArray[Any], sums: NDArray[Any], quantized: Quantization) -> bool:
    try:
        return bool((quantized.apply(sums) == result).all())
    except ConvmatError:  # sums or shifts that the rounding does not take
        return False


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
