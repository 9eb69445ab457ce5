"""Verification: a result against the definition, element by element, within a proven bound.

The bound is Higham's ("Accuracy and Stability of Numerical Algorithms", 2nd ed., Section 3.1): a sum of n
products computed with unit roundoff u, in any order, with or without fused multiply-add, differs from the
exact one by at most γ_n·A, γ_n = n·u / (1 − n·u), A = |X_col|·|W_col| (+ |b|). It is no tolerance to tune: a
right sum of products stays inside, whatever the input. Each element has a tolerance of its own:

    0                                                    where its sum is exact in any order, else
    (γ_n·A + F)·(1 + u_out) + u_out·|R| + n·tiny,        R being its definition, in float64.

- A sum of whole numbers is exact in any order where A < 2^p, p the bits of the accumulator's mantissa, or of
  the result's if it has fewer: 24 of float32, 53 of float64, 11 of float16.
- n is n + 2 where the inputs are wider than the accumulator, which rounds both factors as it loads them.
- F is the sum of |x|·|w| over products with a subnormal operand, which kernels may flush to zero; what they
  flush of products and sums is at most n·tiny, tiny being the least normal number.
- u_out is that of a result narrower than the accumulator, else 0. R has a γ_n of its own, which is added.

Complex sums are judged part by part, each of 2·n products; F and A are of moduli.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.checks import finite, flag, got, numbers
from convmat.engine import execute, filter_geometry, prepare
from convmat.errors import DTypeError, SettingError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.shown import Fact, Shown, shape_fact
from convmat.verification.quantization import Requantize
from convmat.watching import Watch, unwatched

HISTOGRAM = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 10.0)
"""The upper edges of a histogram's buckets; two more are for what is above, and for NaN and infinity that
stand where the other side has none."""

FEW = 16
"""Elements outside that a report lists."""

_BAND = 1 << 18  # elements of the definition that are held at one time
_EACH = 112  # bytes that are made of an element


@dataclass(frozen=True)
class Report(Shown):
    """What a comparison found; true when equal."""

    equal: bool
    shape: tuple[int, ...]
    """Of the result, as compared."""
    expected_shape: tuple[int, ...]
    """Of the definition."""
    dtype: str
    """Of the result."""
    exact: bool
    """Judged by equality rather than by a bound."""
    elements: int
    outside: int
    """Elements that differ (exact), or differ by more than their bound."""
    max_abs_error: float
    bound: float
    """The bound of the element with the largest error; 0 when exact."""
    error_over_bound: float
    """The largest over all elements: at most 1 when equal."""
    worst: tuple[int, ...] | None
    """Index of the element with the largest error / bound, or error if exact; None where there is none."""
    worst_values: tuple[Any, Any] | None
    """The result's value there, and the definition's."""
    tolerances: tuple[float, float] | None = None
    """The absolute and the relative tolerance that took the bound's place."""
    max_rel_error: float = 0.0
    """The largest error / |definition|, of elements that the definition does not make 0."""
    ulps: float | None = None
    """The error of the worst element in units in the last place of the result's dtype; None for integers."""
    histogram: tuple[int, ...] = ()
    """How many elements have an error / bound, or an error if exact, up to each edge of `HISTOGRAM`, how many
    have more, and how many differ by NaN or infinity."""
    exact_sums: int = 0
    """Elements that could have been judged by a bound, but are sums of whole numbers, exact in any order."""
    outside_at: tuple[tuple[int, ...], ...] = ()
    """Indices of all elements outside, where they are at most `FEW`; else empty."""

    @property
    def outside_share(self) -> float:
        """Of 1."""
        return self.outside / self.elements if self.elements else 0.0

    @property
    def smallest_atol(self) -> float:
        """The smallest absolute tolerance, alone, that would pass; infinite where none would."""
        return self.max_abs_error

    def facts(self) -> list[Fact]:
        """What was compared, the largest error, and the verdict."""
        shapes = [
            shape_fact("result_shape", "result", self.shape),
            shape_fact("definition_shape", "definition", self.expected_shape),
            Fact("result_dtype", "result dtype", self.dtype, self.dtype),
        ]
        if self.shape != self.expected_shape:
            return [*shapes, Fact("equal", "verdict", False, "different shapes")]
        error, ratio = self.max_abs_error, self.error_over_bound
        return [
            *shapes,
            Fact("outside", "elements outside", self.outside, f"{self.outside} of {self.elements}"),
            Fact("max_abs_error", "max abs error", error, f"{error:{'.15g' if self.exact else '.3g'}}"),
            Fact("error_over_bound", "" if self.exact else "largest error / bound", ratio, f"{ratio:.3g}"),
            Fact("equal", "verdict", self.equal, "equal" if self else "different"),
        ]

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        if self.shape != self.expected_shape:
            return f"different: shape {self.shape}, the definition gives {self.expected_shape}"
        verdict = "equal" if self.equal else "different"
        allowed = "0, exact" if self.exact else f"bound {self.bound:.3g}"
        if self.tolerances is not None:
            allowed = "atol {}, rtol {}".format(*self.tolerances)
        return (
            f"{verdict}: {self.outside} of {self.elements} elements outside, "
            f"max abs error {self.max_abs_error:.3g} ({allowed})"
        )


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
    geometry = todo.plan.geometry
    size = reference.output_size(
        x.shape[1:-1], filters.shape[1:-1], geometry.stride, plain_padding(geometry), geometry.dilation
    )
    shape = (len(x), *size, len(filters))
    result = None if expected is None else numbers("expected", expected)
    quantized = None
    if requantize is not None:
        quantized = Requantize.of(requantize).resolved(None if result is None else result.dtype)
        _check_integers(x, filters, bias)
    if result is None:
        result = execute(todo)
        if quantized is not None:
            accumulators, result = result, np.empty(result.shape, quantized.dtype)
            for band in bands(shape):
                result[band] = quantized.apply(accumulators[band])
    if result.shape == (math.prod(shape[:-1]), shape[-1]) and result.shape != shape:
        result = result.reshape(shape)
    if result.shape != shape:
        return other_shape(result, shape)
    inputs = [x, filters] if bias is None else [x, filters, bias]
    if quantized is None:
        judge = Judge(result.dtype, geometry.terms + len(inputs) - 2, inputs, rule)
    else:
        judge = Judge(result.dtype, rule=rule)
    arguments = {
        "stride": geometry.stride,
        "padding": plain_padding(geometry),
        "dilation": geometry.dilation,
        "groups": groups,
        "flip": flip,
        "padding_mode": padding_mode,
    }
    definition = partial(reference.convolve_by_taps, x, filters, **arguments)
    sizes = smalls = None  # of the bias
    if bias is not None and judge.bounded:
        sizes, smalls = _magnitude(bias), judge.subnormal(bias)
    with np.errstate(all="ignore"):  # infinities and NaN are compared, not warned of
        parts = bands(shape[:-1], max(shape[-1], x.shape[-1]))
        for band in watch(parts, len(parts)):
            wanted = definition(bias=bias, band=band)
            if quantized is not None:
                wanted = quantized.apply(wanted)
            magnitude = flushed = None
            if judge.bounded:
                magnitude = definition(bias=sizes, band=band, pixels=_magnitude, weights=_magnitude)
            if judge.bounded and judge.has_subnormal:
                flushed = definition(bias=smalls, band=band, pixels=judge.subnormal, weights=_magnitude)
                flushed += definition(band=band, pixels=_magnitude, weights=judge.subnormal)
            judge.compare(result[band], wanted, magnitude, flushed, [part.start for part in band])
    return judge.report(result)


def working_bytes(elements: int, *dtypes: np.dtype[Any]) -> int:
    """Memory that comparing results of these dtypes takes, beside the two: up to 28 MB, 56 MB of complex."""
    return min(elements, _BAND) * _EACH * (2 if any(dtype.kind == "c" for dtype in dtypes) else 1)


def bands(shape: Sequence[int], each: int = 1) -> list[tuple[slice, ...]]:
    """Parts of an array of this shape, in order: slices of its first axes, of at most `_BAND` elements, each
    of which stands for `each`, or of one.
    """
    if not shape:
        return [()]
    inner = math.prod(shape[1:]) * each
    if len(shape) > 1 and inner > _BAND:
        rest = bands(shape[1:], each)
        return [(slice(i, i + 1), *part) for i in range(shape[0]) for part in rest]
    step = max(_BAND // max(inner, 1), 1)
    return [(slice(start, min(start + step, shape[0])),) for start in range(0, shape[0], step)]


def compare(
    result: ArrayLike,
    wanted: ArrayLike,
    *,
    exact: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
) -> Report:
    """Compare two arrays: equal in every value, or |result − wanted| ≤ atol + rtol·|wanted|, of moduli.

    Of two arrays alone no error bound is known, so there is none: without a tolerance floats must be equal,
    too. NaN equals NaN, and infinity itself. Other shapes are different, no error.

    Raises:
        DTypeError: no numbers. SettingError: `exact` and a tolerance, or a tolerance below 0.
    """
    rule = Rule.of(exact, atol, rtol)
    result, wanted = numbers("result", result), numbers("expected", wanted)
    if result.shape != wanted.shape:
        return other_shape(result, wanted.shape)
    judge = Judge(result.dtype, rule=rule)
    judge.compare_whole(result, wanted)
    return judge.report(result)


def compare_exactly(result: NDArray[Any], wanted: NDArray[Any]) -> Report:
    """Compare arrays that must be equal in every element: moved bytes, integers, exact probes."""
    return compare(result, wanted, exact=True)


def compare_sums(
    result: NDArray[Any],
    sums: Callable[[NDArray[Any]], NDArray[Any]],
    source: NDArray[Any],
    shape: tuple[int, ...],
    terms: int,
    *,
    parts: int = 1,
    divided: bool = False,
    **judged: Any,
) -> Report:
    """Compare a result with `sums(source)`, of this shape, each of at most `terms` numbers of the source.

    The first axes of both fall into `parts` that belong together, images, say; one at a time is summed.
    Integers must be equal, floats within the bound; `divided` says that the sums of whole numbers are divided
    and whole no more. `judged` are the `exact`, `atol` and `rtol` of `verify`.
    """
    if result.shape != shape:
        return other_shape(result, shape)
    judge = Judge(result.dtype, terms, [source], Rule.of(**judged), divided=divided)
    for part in range(parts):
        step, rows = len(result) // parts, len(source) // parts
        numbers = source[part * rows : (part + 1) * rows]
        with np.errstate(all="ignore"):
            wanted, magnitude, flushed = sums(numbers), None, None
            if judge.bounded:
                magnitude = sums(_magnitude(numbers))
                flushed = sums(judge.subnormal(numbers)) if judge.has_subnormal else None
        judge.compare_whole(result[part * step : (part + 1) * step], wanted, magnitude, flushed, part * step)
    return judge.report(result)


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
    where = {key: layer.pop(key, 1) for key in ("stride", "dilation", "groups")}
    geometry = filter_geometry(x.shape, filters.shape, padding=padding, **where)
    terms = reference.terms(
        x,
        filters,
        at,
        geometry.stride,
        plain_padding(geometry),
        geometry.dilation,
        groups=where["groups"],
        **layer,
    )
    products = [term.value * term.weight for term in terms]
    sums = list(itertools.accumulate(products))
    shift = None if bias is None else bias[at[-1]].item()
    return Explanation(at, terms, products, sums, shift, sums[-1] + (shift or 0))


class Rule(NamedTuple):
    """What is asked of a result, other than to be within its bound."""

    exact: bool = False
    tolerances: tuple[float, float] | None = None

    @classmethod
    def of(cls, exact: bool = False, atol: float | None = None, rtol: float | None = None) -> Rule:
        """The rule that the arguments of `verify` make."""
        flag("exact", exact)
        for name, value in (("atol", atol), ("rtol", rtol)):
            if value is None:
                continue
            if exact:
                raise SettingError(
                    name, f"got {got(value)}, and exact leaves no tolerance; give one of the two"
                )
            if not finite(value) or value < 0:
                raise SettingError(name, f"got {got(value)}; give a finite number, at least 0")
        given = atol is not None or rtol is not None
        return cls(exact, (float(atol or 0), float(rtol or 0)) if given else None)


def _check_integers(*arrays: NDArray[Any] | None) -> None:
    for array in arrays:
        if array is not None and array.dtype.kind not in "biu":
            raise DTypeError(
                "requantize",
                f"takes integer inputs, kernels and bias, for an exact int32 accumulator; got {array.dtype}",
            )


def plain_padding(geometry: ConvGeometry) -> Any:
    """The padding as given, in the only forms the reference reads; names are left for it to work out."""
    return geometry.padding


def other_shape(result: NDArray[Any], shape: tuple[int, ...]) -> Report:
    """The verdict on a result of another shape than the definition's."""
    count = math.prod(shape)
    return Report(
        equal=False,
        shape=result.shape,
        expected_shape=shape,
        dtype=str(result.dtype),
        exact=False,
        elements=count,
        outside=count,
        max_abs_error=math.inf,
        bound=0.0,
        error_over_bound=math.inf,
        worst=None,
        worst_values=None,
    )


class Judge:
    """Compares a result with the definition in parts, and keeps the worst."""

    def __init__(
        self,
        dtype: np.dtype[Any],
        terms: int = 1,
        inputs: Sequence[NDArray[Any]] = (),
        rule: Rule = Rule(),  # noqa: B008  # of constants
        divided: bool = False,
    ) -> None:
        """Without inputs the result must be exact; else it is sums of `terms` (products, bias) of them, maybe
        `divided`. A rule takes the place of either.
        """
        integers = all(a.dtype.kind in "biu" for a in inputs)
        self.dtype, self.tolerances = dtype, rule.tolerances
        self.exact = rule.exact or (
            rule.tolerances is None and (not inputs or (integers and dtype.kind in "biu"))
        )
        self.elements = self.outside = self.exact_sums = 0
        self._outside_at: list[tuple[int, ...]] = []
        self.max_abs_error = self.max_rel_error = self.bound = self.ratio = 0.0
        self.histogram = np.zeros(len(HISTOGRAM) + 2, np.int64)
        self._worst = (0.0, 0.0)
        self.worst: tuple[int, ...] | None = None
        self.worst_values: tuple[Any, Any] | None = None
        self.bounded = not self.exact and bool(inputs) and (dtype.kind in "fc" or not integers)
        if not self.bounded:
            return
        # The coarsest arithmetic that the result may honestly come from; the engine's own word for what it
        # summed in is not taken.
        sources = [] if integers else [np.result_type(*(a.dtype for a in inputs))]
        sources += [dtype] if dtype.kind in "fc" else []
        summed_in = [np.dtype(np.float32) if d == np.float16 else d for d in sources]
        limits = max((np.finfo(d) for d in summed_in), key=lambda info: float(info.eps))
        self.u, self.tiny = float(limits.eps) / 2, float(limits.tiny)
        self.largest = self.largest_out = float(limits.max)
        self.terms = 2 * terms if any(a.dtype.kind == "c" for a in inputs) else terms
        self.underflow = self.terms * self.tiny
        bits = int(limits.nmant) + 1
        if any(_mantissa_bits(a.dtype) > bits for a in inputs):
            self.terms += 2
        self.u_out = 0.0
        if dtype.kind in "fc" and np.finfo(dtype).eps > limits.eps:
            self.u_out = float(np.finfo(dtype).eps) / 2
            self.underflow += float(np.finfo(dtype).smallest_subnormal)
            self.largest_out = float(np.finfo(dtype).max)
            bits = int(np.finfo(dtype).nmant) + 1
        whole = not divided and all(_is_whole(part) for a in inputs for part in _pieces(a))
        self.exact_below = 2.0**bits if whole else 0.0
        self.finite_inputs = all(bool(np.isfinite(part).all()) for a in inputs for part in _pieces(a))
        self.has_subnormal = any(self.subnormal(part).any() for a in inputs for part in _pieces(a))

    def subnormal(self, a: NDArray[Any]) -> NDArray[np.float64]:
        """As much of |a| as kernels may flush."""
        return subnormal(a, self.tiny)

    def compare_whole(
        self,
        result: NDArray[Any],
        wanted: NDArray[Any],
        magnitude: NDArray[Any] | None = None,
        flushed: NDArray[Any] | None = None,
        start: int = 0,
    ) -> None:
        """Judge what begins at `start` of the first axis, in parts."""
        with np.errstate(all="ignore"):
            for band in bands(result.shape):
                above, lost = (None if a is None else a[band] for a in (magnitude, flushed))
                at = [part.start for part in band]
                self.compare(result[band], wanted[band], above, lost, [*(i + start for i in at[:1]), *at[1:]])

    def compare(
        self,
        result: NDArray[Any],
        wanted: NDArray[Any],
        magnitude: NDArray[Any] | None = None,
        flushed: NDArray[Any] | None = None,
        origin: Sequence[int] = (),
    ) -> None:
        """Judge a part of the result that begins at `origin` of its first axes, with A and F if need be."""
        shown = result, wanted
        exactly = np.full(result.shape, self.exact)
        bounds: list[NDArray[Any]] = []
        if magnitude is None:
            result, wanted = _comparable(result, wanted)
        else:
            kind = np.result_type(result.dtype, wanted.dtype, np.float64)
            result, wanted = result.astype(kind), wanted.astype(kind)
            exactly = magnitude < self.exact_below
            bounds = [self._bound(part, magnitude, flushed, exactly) for part in _parts(wanted)]
            result = self._settled(result, wanted, magnitude, bounds)
        error = _distance(result, wanted)
        if self.tolerances is not None:
            tolerance = self._tolerance(wanted)
            exactly = np.zeros(error.shape, bool)
            outside = ~((error == 0) | ((error <= tolerance) & np.isfinite(error)))
            ratio = _ratio(error, tolerance)
        elif magnitude is None:
            tolerance = np.zeros(error.shape)
            outside = np.asarray((result != wanted) & ~((result != result) & (wanted != wanted)))
            ratio = _ratio(error, tolerance)
        else:
            tolerance, outside, ratio = _of_worse_part(result, wanted, bounds)
        self.elements += outside.size
        self.outside += int(np.count_nonzero(outside))
        self.exact_sums += 0 if self.exact else int(np.count_nonzero(exactly))
        if not error.size:
            return
        if self.outside <= FEW:
            self._outside_at += [_moved(found, origin) for found in np.argwhere(outside).tolist()]
        ratio[outside & ~(ratio > 1)] = math.inf  # NaN where the definition has none, say
        self._count(np.where(exactly, error, ratio), error, wanted)
        largest = np.unravel_index(int(error.argmax()), error.shape)
        if self.elements == outside.size or error[largest] > self.max_abs_error:
            self.max_abs_error = float(error[largest])
            self.bound = float(tolerance[largest])
        self.ratio = max(self.ratio, float(ratio.max()))
        # Of those furthest past what is allowed them, and past nothing all are infinitely far, the farthest.
        at = np.unravel_index(int(np.where(ratio == ratio.max(), error, -1.0).argmax()), error.shape)
        if (ratio[at], error[at]) > self._worst:
            self._worst = float(ratio[at]), float(error[at])
            self.worst_values = shown[0][at].item(), shown[1][at].item()
            self.worst = _moved(at, origin)

    def _count(self, rank: NDArray[Any], error: NDArray[Any], wanted: NDArray[Any]) -> None:
        """Take a part into the histogram and the relative error."""
        buckets = np.searchsorted(HISTOGRAM, rank.ravel())
        buckets[np.isinf(error).ravel()] = len(HISTOGRAM) + 1
        self.histogram += np.bincount(buckets, minlength=len(HISTOGRAM) + 2)
        there = (error != 0) & (wanted != 0)
        with np.errstate(all="ignore"):
            relative = error[there] / np.abs(wanted[there].astype(np.result_type(wanted, np.float64)))
        relative[np.isnan(relative)] = math.inf
        self.max_rel_error = max(self.max_rel_error, float(relative.max(initial=0)))
        if np.isinf(error).any():
            self.max_rel_error = math.inf

    def _tolerance(self, wanted: NDArray[Any]) -> NDArray[Any]:
        atol, rtol = self.tolerances or (0.0, 0.0)
        size = np.abs(wanted.astype(np.result_type(wanted, np.float64)))
        return np.asarray(atol + (rtol * size if rtol else np.zeros(size.shape)), np.float64)

    def _ulps(self) -> float | None:
        """The worst element's error, in units in the last place that the right value has in the dtype."""
        if self.dtype.kind not in "fc":
            return None
        if self.worst_values is None:
            return 0.0
        with np.errstate(all="ignore"):
            right = np.abs(np.asarray(self.worst_values[1])).astype(np.zeros(0, self.dtype).real.dtype)
            return float(self._worst[1] / np.spacing(right))

    def _bound(
        self,
        wanted: NDArray[Any],
        magnitude: NDArray[Any],
        flushed: NDArray[Any] | None,
        exactly: NDArray[Any],
    ) -> NDArray[Any]:
        """How far from `wanted`, real numbers, each element may lie."""
        # R comes from float64 sums, with an error of their own.
        gamma = _gamma(self.terms, self.u) + _gamma(self.terms, 2.0**-53)
        off = gamma * magnitude if flushed is None else gamma * magnitude + flushed
        bound = off * (1 + self.u_out) + self.u_out * np.abs(wanted) + self.underflow
        return np.where(exactly, 0.0, bound)

    def _settled(
        self,
        result: NDArray[Any],
        wanted: NDArray[Any],
        magnitude: NDArray[Any],
        bounds: Sequence[NDArray[Any]],
    ) -> NDArray[Any]:
        """The result with what may honestly have overflowed, or not have, as the definition has it.

        A sum may overflow in one order and not in another; then no bound holds.
        """
        settled = result.copy()
        for r, w, bound in zip(_parts(settled), _parts(wanted), bounds, strict=True):
            overflow = ~(magnitude + bound < self.largest)
            if not self.finite_inputs:
                overflow &= np.isfinite(w)
            wild = ~np.isfinite(r) | ~np.isfinite(w)
            rounded = (np.abs(w) + bound >= self.largest_out) & (r == np.copysign(np.inf, w))
            np.copyto(r, w, where=(overflow & wild) | rounded)
        if settled.dtype.kind == "c":
            # Where infinities meet, what each part becomes depends on how complex numbers multiply.
            np.copyto(settled, wanted, where=~np.isfinite(result) & ~np.isfinite(wanted))
        return settled

    def report(self, result: NDArray[Any]) -> Report:
        return Report(
            equal=self.outside == 0,
            shape=result.shape,
            expected_shape=result.shape,
            dtype=str(result.dtype),
            exact=self.exact or 0 < self.elements == self.exact_sums,
            elements=self.elements,
            outside=self.outside,
            max_abs_error=self.max_abs_error,
            bound=self.bound,
            error_over_bound=self.ratio,
            worst=self.worst,
            worst_values=self.worst_values,
            tolerances=self.tolerances,
            max_rel_error=self.max_rel_error,
            ulps=self._ulps(),
            histogram=tuple(self.histogram.tolist()),
            exact_sums=self.exact_sums,
            outside_at=tuple(self._outside_at) if self.outside <= FEW else (),
        )


def _moved(at: Sequence[Any], origin: Sequence[int]) -> tuple[int, ...]:
    """An index of a part, as that of the whole."""
    return tuple(int(i) + start for i, start in itertools.zip_longest(at, origin, fillvalue=0))


def _gamma(terms: int, u: float) -> float:
    """Higham's γ_n = n·u / (1 − n·u)."""
    return terms * u / (1 - terms * u) if terms * u < 1 else math.inf


def _mantissa_bits(dtype: np.dtype[Any]) -> int:
    """Bits of the largest whole numbers of which the dtype has all."""
    if dtype.kind in "fc":
        return int(np.finfo(dtype).nmant) + 1
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max).bit_length()


def _parts(a: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Views of the real and the imaginary part, or the array itself."""
    return (a.real, a.imag) if a.dtype.kind == "c" else (a,)


def _pieces(a: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """All elements, in any order, `_BAND` at a time."""
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    return iter(np.nditer(a, flags, buffersize=_BAND))


@np.errstate(all="ignore")  # of a signalling NaN, too
def _is_whole(a: NDArray[Any]) -> bool:
    """Whether all are whole numbers, or none at all: the sums that infinity and NaN are in are no numbers."""
    return a.dtype.kind not in "fc" or all(bool(((p == np.trunc(p)) | (p != p)).all()) for p in _parts(a))


def _magnitude(a: NDArray[Any]) -> NDArray[np.float64]:
    """|a|, which of the least integer is none of its own dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(np.abs(a.astype(np.result_type(a.dtype, np.float64))), np.float64)


@np.errstate(all="ignore")
def subnormal(a: NDArray[Any], tiny: float) -> NDArray[np.float64]:
    """As much of |a| as is subnormal, in its own dtype or where `tiny` is the least normal number."""
    least = max(tiny, float(np.finfo(a.dtype).tiny)) if a.dtype.kind in "fc" else 0.0
    sizes = (np.abs(part).astype(np.float64) for part in _parts(a))
    return np.asarray(sum(np.where(size < least, size, 0.0) for size in sizes), np.float64)


def _ratio(error: NDArray[Any], allowed: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return np.where(error == 0, 0.0, error / allowed)


def _of_worse_part(
    result: NDArray[Any], wanted: NDArray[Any], bounds: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(bound, outside, error / bound) of each element; of complex ones, of the part that is further off."""
    outside = np.zeros(result.shape, bool)
    bound, worst = bounds[0], np.zeros(result.shape)
    for r, w, allowed in zip(_parts(result), _parts(wanted), bounds, strict=True):
        error = _distance(r, w)
        outside |= (error != 0) & ~((error <= allowed) & np.isfinite(error))
        ratio = _ratio(error, allowed)
        bound = np.where(ratio > worst, allowed, bound)
        worst = np.fmax(worst, ratio)
    return bound, outside, worst


def _comparable(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both so that comparing rounds neither: integers above 2^53 are not what float64 makes of them."""
    if {a.dtype.kind, b.dtype.kind} & set("iu") and {a.dtype.kind, b.dtype.kind} & set("f"):
        return a.astype(np.longdouble), b.astype(np.longdouble)
    return a, b


def _distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """|a − b| in float64, right also where integers' difference would wrap."""
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        if np.uint64 in (a.dtype, b.dtype):
            a, b = a.astype(np.longdouble), b.astype(np.longdouble)
        else:
            high, low = np.maximum(a, b, dtype=np.int64), np.minimum(a, b, dtype=np.int64)
            return np.asarray(high.astype(np.uint64) - low.astype(np.uint64), np.float64)
    kind = np.result_type(a.dtype, b.dtype, np.float64)  # the difference of two float16 may be none
    with np.errstate(all="ignore"):
        distance = np.asarray(np.abs(a.astype(kind) - b.astype(kind)), np.float64)
    distance[(a == b) | ((a != a) & (b != b))] = 0.0
    distance[np.isnan(distance)] = math.inf
    return distance
