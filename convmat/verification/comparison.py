"""A result compared with its definition, part by part, as a judge says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.checks import numbers
from convmat.verification.judge import BAND, Exactly, Judge, Rule, WithinBound, WithinTolerance, bands
from convmat.verification.verdict import FEW, HISTOGRAM, Report

Array = NDArray[Any]

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
        judge = self.judge(result.dtype, rule)
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

    def judge(self, dtype: np.dtype[Any], rule: Rule) -> Judge:
        """What judges a result of this dtype."""
        bound, dtypes = None, [dtype, *(a.dtype for a in self.inputs)]
        if self.inputs and not rule.exact and any(d.kind in "fc" for d in dtypes):
            bound = WithinBound(dtype, self.inputs, self.terms, self.divided)
        if rule.tolerances is not None:
            return WithinTolerance(*rule.tolerances, bound)
        return bound or Exactly()


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
    return _BESIDE + min(elements, BAND) * _EACH * (2 if any(dtype.kind == "c" for dtype in dtypes) else 1)


def _moved(at: Sequence[Any], origin: Sequence[int]) -> tuple[int, ...]:
    """An index of a part, as that of the whole."""
    return tuple(int(i) + start for i, start in zip(at, origin, strict=True))
