"""Judges of a result: exactly, within a tolerance, within a proven bound of each element.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.checks import finite, flag, got, numbers
from convmat.errors import SettingError
from convmat.verification.verdict import FEW, HISTOGRAM, Report

Array = NDArray[Any]

_BAND = 1 << 18  # elements of the definition that are held at one time
_EACH = 112  # bytes that are made of an element
_BESIDE = 4 << 20  # bytes that a comparison takes, however small


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
    return Definition(wanted.shape, [wanted], lambda whole: whole).compare(result, rule)


def compare_exactly(result: Array, wanted: Array) -> Report:
    """Compare arrays that must be equal in every element: moved bytes, integers, exact probes."""
    return compare(result, wanted, exact=True)


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


@dataclass(frozen=True)
class Definition:
    """What a result must be, a part at a time, in the order of its elements.

    Where the result is sums, their magnitudes are defined, too, which bound what their errors come to.
    """

    shape: tuple[int, ...]
    parts: Iterable[Any]
    values: Callable[[Any], Array]
    """Of a part."""
    sizes: Callable[[Any], Array] | None = None
    """A = Σ|x|·|w| (+ |b|) of a part."""
    flushed: Callable[[Any, Callable[[Array], Array]], Array] | None = None
    """F of a part: its sums of those products of magnitudes in which a factor is subnormal, of which the
    second argument makes as much as is."""
    inputs: Sequence[Array] = ()
    """What is summed; nothing where the result must be exact."""
    terms: int = 1
    """Numbers in each sum: products, and the bias."""
    divided: bool = False
    """Sums of whole numbers are divided, and whole no more."""

    @np.errstate(all="ignore")  # infinities and NaN are compared, not warned of
    def compare(self, result: Array, rule: Rule) -> Report:
        """The verdict on a result, by the judge that fits what it is made of."""
        if result.shape != self.shape:
            return Report.of_shapes(result, self.shape)
        judge = self._judge(result.dtype, rule)
        comparison = _Comparison(result, judge)
        for part in self.parts:
            sizes = flushed = None
            values = self.values(part)
            if judge.bound is not None and self.sizes is not None and self.flushed is not None:
                sizes = self.sizes(part)
                if judge.bound.has_subnormal:
                    flushed = self.flushed(part, judge.bound.subnormal)
            comparison.add(values, sizes, flushed)
        return comparison.report()

    def _judge(self, dtype: np.dtype[Any], rule: Rule) -> Judge:
        bound, dtypes = None, [dtype, *(a.dtype for a in self.inputs)]
        if self.inputs and not rule.exact and any(d.kind in "fc" for d in dtypes):
            bound = WithinBound(dtype, self.inputs, self.terms, self.divided)
        if rule.tolerances is not None:
            return WithinTolerance(*rule.tolerances, bound)
        return bound or Exactly()


class Judged(NamedTuple):
    """What a judge says of the elements of a part."""

    error: Array
    """|result − definition|."""
    allowed: Array
    outside: Array
    """Where the error is more than is allowed."""
    ratio: Array
    """error / allowed."""
    exactly: Array
    """Which elements were to be met exactly."""


class Exactly:
    """Every element must be equal in value: NaN where the definition has it, and infinity."""

    bound = None

    def __call__(self, result: Array, wanted: Array, sizes: Any, flushed: Any) -> Judged:
        result, wanted = _comparable(result, wanted)
        error, allowed = _distance(result, wanted), np.zeros(result.shape)
        outside = np.asarray((result != wanted) & ~((result != result) & (wanted != wanted)))
        return Judged(error, allowed, outside, _ratio(error, allowed), np.ones(result.shape, bool))


class WithinTolerance(NamedTuple):
    """|result − definition| ≤ atol + rtol·|definition|, of complex numbers the moduli."""

    atol: float
    rtol: float
    bound: WithinBound | None
    """That of sums, which says where they may overflow."""

    def __call__(self, result: Array, wanted: Array, sizes: Array | None, flushed: Array | None) -> Judged:
        if self.bound is None or sizes is None:
            result, wanted = _comparable(result, wanted)
        else:
            result, wanted, _ = self.bound.settled(result, wanted, sizes, flushed)
        error = _distance(result, wanted)
        size = np.abs(wanted.astype(np.result_type(wanted, np.float64)))
        share = self.rtol * size if self.rtol else np.zeros(size.shape)
        allowed = np.asarray(self.atol + share, np.float64)
        outside = ~((error == 0) | ((error <= allowed) & np.isfinite(error)))
        return Judged(error, allowed, outside, _ratio(error, allowed), np.zeros(error.shape, bool))


class WithinBound:
    """Each element must be as near to its definition as any order of summing it brings it."""

    def __init__(self, dtype: np.dtype[Any], inputs: Sequence[Array], terms: int, divided: bool) -> None:
        # The coarsest arithmetic that the result may honestly come from; the engine's own word for what it
        # summed in is not taken.
        sources = (
            [] if all(a.dtype.kind in "biu" for a in inputs) else [np.result_type(*(a.dtype for a in inputs))]
        )
        sources += [dtype] if dtype.kind in "fc" else []
        summed_in = [np.dtype(np.float32) if d == np.float16 else d for d in sources]
        limits = max((np.finfo(d) for d in summed_in), key=lambda info: float(info.eps))
        self.bound, self.u, self.tiny = self, float(limits.eps) / 2, float(limits.tiny)
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

    def subnormal(self, a: Array) -> NDArray[np.float64]:
        """As much of |a| as kernels may flush."""
        return subnormal(a, self.tiny)

    def __call__(self, result: Array, wanted: Array, sizes: Any, flushed: Array | None) -> Judged:
        result, wanted, bounds = self.settled(result, wanted, sizes, flushed)
        # Of a complex element the part counts that is further off.
        outside, ratio, allowed = np.zeros(result.shape, bool), np.zeros(result.shape), bounds[0]
        for r, w, bound in zip(_parts(result), _parts(wanted), bounds, strict=True):
            error = _distance(r, w)
            outside |= (error != 0) & ~((error <= bound) & np.isfinite(error))
            of_part = _ratio(error, bound)
            allowed = np.where(of_part > ratio, bound, allowed)
            ratio = np.fmax(ratio, of_part)
        return Judged(_distance(result, wanted), allowed, outside, ratio, sizes < self.exact_below)

    def settled(
        self, result: Array, wanted: Array, sizes: Array, flushed: Array | None
    ) -> tuple[Array, Array, list[Array]]:
        """The result and the definition, both as wide, and the bounds of their parts.

        What may honestly have overflowed in the result, or not have, is as the definition has it: a sum may
        overflow in one order and not in another, and then no bound holds.
        """
        kind = np.result_type(result.dtype, wanted.dtype, np.float64)
        result, wanted = result.astype(kind), wanted.astype(kind)
        bounds = [self._of(part, sizes, flushed) for part in _parts(wanted)]
        settled = result.copy()
        for r, w, bound in zip(_parts(settled), _parts(wanted), bounds, strict=True):
            overflow = ~(sizes + bound < self.largest)
            if not self.finite_inputs:
                overflow &= np.isfinite(w)
            wild = ~np.isfinite(r) | ~np.isfinite(w)
            rounded = (np.abs(w) + bound >= self.largest_out) & (r == np.copysign(np.inf, w))
            np.copyto(r, w, where=(overflow & wild) | rounded)
        if settled.dtype.kind == "c":
            # Where infinities meet, what each part becomes depends on how complex numbers multiply.
            np.copyto(settled, wanted, where=~np.isfinite(result) & ~np.isfinite(wanted))
        return settled, wanted, bounds

    def _of(self, wanted: Array, sizes: Array, flushed: Array | None) -> Array:
        """How far from `wanted`, real numbers, each element may lie."""
        # R comes from float64 sums, with an error of their own.
        gamma = _gamma(self.terms, self.u) + _gamma(self.terms, 2.0**-53)
        off = gamma * sizes if flushed is None else gamma * sizes + flushed
        bound = off * (1 + self.u_out) + self.u_out * np.abs(wanted) + self.underflow
        return np.where(sizes < self.exact_below, 0.0, bound)


Judge = Exactly | WithinTolerance | WithinBound


class _Comparison:
    """Counts what a judge says of a result, part by part, and keeps the worst."""

    def __init__(self, result: Array, judge: Judge) -> None:
        self.result, self.judge = result, judge
        self.elements = self.outside = self.exact_sums = 0
        self.outside_at: list[tuple[int, ...]] = []
        self.max_abs_error = self.max_rel_error = self.bound = 0.0
        self.histogram = np.zeros(len(HISTOGRAM) + 2, np.int64)
        self.furthest = (0.0, 0.0)  # ratio and error of the worst element
        self.worst: tuple[int, ...] | None = None
        self.worst_values: tuple[Any, Any] | None = None

    def add(self, wanted: Array, sizes: Array | None, flushed: Array | None) -> None:
        """Judge the elements that come next; they have the definition `wanted`, A and F."""
        if not wanted.size:
            return
        start = np.unravel_index(self.elements, self.result.shape)
        part = self.result[tuple(slice(i, i + n) for i, n in zip(start, wanted.shape, strict=True))]
        for band in bands(wanted.shape):
            above, lost = (None if a is None else a[band] for a in (sizes, flushed))
            within = itertools.zip_longest(start, (inner.start for inner in band), fillvalue=0)
            self._add(part[band], wanted[band], above, lost, [int(i) + first for i, first in within])

    def _add(
        self, result: Array, wanted: Array, sizes: Array | None, flushed: Array | None, origin: Sequence[int]
    ) -> None:
        error, allowed, outside, ratio, exactly = self.judge(result, wanted, sizes, flushed)
        first = not self.elements
        self.elements += outside.size
        self.outside += int(np.count_nonzero(outside))
        self.exact_sums += int(np.count_nonzero(exactly))
        if self.outside <= FEW:
            self.outside_at += [_moved(at, origin) for at in np.argwhere(outside).tolist()]
        ratio[outside & ~(ratio > 1)] = math.inf  # NaN where the definition has none, say
        self._count(np.where(exactly, error, ratio), error, wanted)
        largest = np.unravel_index(int(error.argmax()), error.shape)
        if first or error[largest] > self.max_abs_error:
            self.max_abs_error, self.bound = float(error[largest]), float(allowed[largest])
        # Of those furthest past what is allowed them, and past nothing all are infinitely far, the farthest.
        at = np.unravel_index(int(np.where(ratio == ratio.max(), error, -1.0).argmax()), error.shape)
        if (ratio[at], error[at]) > self.furthest:
            self.furthest = float(ratio[at]), float(error[at])
            self.worst_values = result[at].item(), wanted[at].item()
            self.worst = _moved(at, origin)

    def _count(self, rank: Array, error: Array, wanted: Array) -> None:
        """Take a part into the histogram and the relative error."""
        buckets = np.searchsorted(HISTOGRAM, rank.ravel())
        buckets[np.isinf(error).ravel()] = len(HISTOGRAM) + 1
        self.histogram += np.bincount(buckets, minlength=len(HISTOGRAM) + 2)
        there = (error != 0) & (wanted != 0)
        relative = error[there] / np.abs(wanted[there].astype(np.result_type(wanted, np.float64)))
        relative[np.isnan(relative)] = math.inf
        self.max_rel_error = max(self.max_rel_error, float(relative.max(initial=0)))
        if np.isinf(error).any():
            self.max_rel_error = math.inf

    def _ulps(self) -> float | None:
        """The worst element's error, in units in the last place that the right value has in the dtype."""
        floating = self.result.dtype.kind in "fc"
        if not floating or self.worst_values is None:
            return 0.0 if floating else None
        right = np.abs(np.asarray(self.worst_values[1])).astype(np.zeros(0, self.result.dtype).real.dtype)
        return float(self.furthest[1] / np.spacing(right))

    def report(self) -> Report:
        exact = isinstance(self.judge, Exactly)
        tolerances = self.judge[:2] if isinstance(self.judge, WithinTolerance) else None
        return Report(
            equal=self.outside == 0,
            shape=self.result.shape,
            expected_shape=self.result.shape,
            dtype=str(self.result.dtype),
            exact=exact or 0 < self.elements == self.exact_sums,
            elements=self.elements,
            outside=self.outside,
            max_abs_error=self.max_abs_error,
            bound=self.bound,
            error_over_bound=self.furthest[0],
            worst=self.worst,
            worst_values=self.worst_values,
            tolerances=tolerances,
            max_rel_error=self.max_rel_error,
            ulps=self._ulps(),
            histogram=tuple(self.histogram.tolist()),
            exact_sums=0 if exact else self.exact_sums,
            outside_at=tuple(self.outside_at) if self.outside <= FEW else (),
        )


def working_bytes(elements: int, *dtypes: np.dtype[Any]) -> int:
    """Memory that comparing results of these dtypes takes, beside the two: up to 32 MB, 60 MB of complex."""
    return _BESIDE + min(elements, _BAND) * _EACH * (2 if any(dtype.kind == "c" for dtype in dtypes) else 1)


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


def _moved(at: Sequence[Any], origin: Sequence[int]) -> tuple[int, ...]:
    """An index of a part, as that of the whole."""
    return tuple(int(i) + start for i, start in zip(at, origin, strict=True))


def _gamma(terms: int, u: float) -> float:
    """Higham's γ_n = n·u / (1 − n·u)."""
    return terms * u / (1 - terms * u) if terms * u < 1 else math.inf


def _mantissa_bits(dtype: np.dtype[Any]) -> int:
    """Bits of the largest whole numbers of which the dtype has all."""
    if dtype.kind in "fc":
        return int(np.finfo(dtype).nmant) + 1
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max).bit_length()


def _parts(a: Array) -> tuple[Array, ...]:
    """Views of the real and the imaginary part, or the array itself."""
    return (a.real, a.imag) if a.dtype.kind == "c" else (a,)


def _pieces(a: Array) -> Iterator[Array]:
    """All elements, in any order, `_BAND` at a time."""
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    return iter(np.nditer(a, flags, buffersize=_BAND))


def _is_whole(a: Array) -> bool:
    """Whether all are whole numbers, or none at all: the sums that infinity and NaN are in are no numbers."""
    return a.dtype.kind not in "fc" or all(bool(((p == np.trunc(p)) | (p != p)).all()) for p in _parts(a))


def magnitude(a: Array) -> NDArray[np.float64]:
    """|a|, which of the least integer is none of its own dtype."""
    return np.asarray(np.abs(a.astype(np.result_type(a.dtype, np.float64))), np.float64)


@np.errstate(all="ignore")
def subnormal(a: Array, tiny: float) -> NDArray[np.float64]:
    """As much of |a| as is subnormal, in its own dtype or where `tiny` is the least normal number."""
    least = max(tiny, float(np.finfo(a.dtype).tiny)) if a.dtype.kind in "fc" else 0.0
    sizes = (np.abs(part).astype(np.float64) for part in _parts(a))
    return np.asarray(sum(np.where(size < least, size, 0.0) for size in sizes), np.float64)


@np.errstate(all="ignore")
def _ratio(error: Array, allowed: Array) -> Array:
    return np.where(error == 0, 0.0, error / allowed)


def _comparable(a: Array, b: Array) -> tuple[Array, Array]:
    """Both so that comparing rounds neither: integers above 2^53 are not what float64 makes of them."""
    if {a.dtype.kind, b.dtype.kind} & set("iu") and {a.dtype.kind, b.dtype.kind} & set("f"):
        return a.astype(np.longdouble), b.astype(np.longdouble)
    return a, b


def _distance(a: Array, b: Array) -> Array:
    """|a − b| in float64, right also where integers' difference would wrap."""
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        if np.uint64 in (a.dtype, b.dtype):
            a, b = a.astype(np.longdouble), b.astype(np.longdouble)
        else:
            high, low = np.maximum(a, b, dtype=np.int64), np.minimum(a, b, dtype=np.int64)
            return np.asarray(high.astype(np.uint64) - low.astype(np.uint64), np.float64)
    kind = np.result_type(a.dtype, b.dtype, np.float64)  # the difference of two float16 may be none
    distance = np.asarray(np.abs(a.astype(kind) - b.astype(kind)), np.float64)
    distance[(a == b) | ((a != a) & (b != b))] = 0.0
    distance[np.isnan(distance)] = math.inf
    return distance
