"""A result compared with its definition, part by part, as a judge says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.arrays import known_numbers, numbers
from convmat.formats import Format, dtype_name, format_of
from convmat.verification.activation import Activation
from convmat.verification.judge import BAND, Exactly, Judge, Judged, Rule, WithinBound, WithinTolerance, bands
from convmat.verification.numerics import PLAIN, Numerics
from convmat.verification.verdict import FEW, HISTOGRAM, Report

Array = NDArray[Any]

Spread = Callable[[], list[Callable[[Any], Array]]]
Note = Callable[[tuple[slice, ...], Array, Judged], None]
"""Is told of each band of a result where it is, its definition, and what the judge says of it."""

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
    result, wanted = known_numbers("result", result), numbers("wanted", wanted)
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
    flushed: Callable[[Any, float], Array] | None = None
    """F of a part: its sums of those products of magnitudes in which a factor is in doubt: subnormal, which
    is below the second argument, or rounded to either side."""
    inputs: Sequence[Array] = ()
    """What is summed; nothing where the result must be exact."""
    terms: int = 1
    """Numbers in each sum: products, and the bias."""
    divided: bool = False
    """Sums of whole numbers are divided, and whole no more."""
    numerics: Numerics = PLAIN
    amplified: float = 1.0
    """What the least error on the way may come to in the result."""
    activation: Activation | None = None
    both: Callable[[Any], tuple[Array, Array]] | None = None
    """Values and sizes of a part at once, if that is quicker."""
    squares: Spread | None = None
    """How the squares of usual errors spread over a part, in each way to come to the result."""

    @np.errstate(all="ignore")  # infinities and NaN are compared, not warned of
    def compare(self, result: Array, rule: Rule, most: int | None = None, note: Note | None = None) -> Report:
        """The verdict on a result, by the judge that fits what it is made of.

        Where `most` is given, the comparison ends after the part in which more elements are outside; `note`
        is told of all that is judged.
        """
        return self.compare_all([result], rule, most, note)[0]

    @np.errstate(all="ignore")
    def compare_all(
        self, results: Sequence[Array], rule: Rule, most: int | None = None, note: Note | None = None
    ) -> list[Report]:
        """The verdicts on several results, as `compare` gives each; the definition is computed once."""
        fitting = {(result.dtype, format_of(result)) for result in results if result.shape == self.shape}
        judges = {(dtype, form): self.judge(dtype, rule, form) for dtype, form in fitting}
        comparisons = [
            _Comparison(result, judges[result.dtype, format_of(result)], self.activation, note)
            if result.shape == self.shape
            else None
            for result in results
        ]
        judged = [comparison for comparison in comparisons if comparison is not None]
        for part in self.parts if judged else ():
            values, sizes = self._sums(part, any(one.judge.bound is not None for one in judged))
            lost: dict[float | None, Array] = {}
            for one in judged:
                if one.tiny is not None and one.tiny not in lost and self.flushed is not None:
                    lost[one.tiny] = self.flushed(part, one.tiny)
                one.add(values, sizes if one.judge.bound is not None else None, lost.get(one.tiny))
            if most is not None and all(one.outside > most for one in judged):
                break
        return [
            Report.of_shapes(result, self.shape) if one is None else one.report()
            for result, one in zip(results, comparisons, strict=True)
        ]

    def _sums(self, part: Any, bounded: bool) -> tuple[Array, Array | None]:
        """A part, and its A where there is a bound."""
        if not bounded or self.sizes is None:
            return self.values(part), None
        return (self.values(part), self.sizes(part)) if self.both is None else self.both(part)

    def judge(self, dtype: np.dtype[Any], rule: Rule, form: Format | None = None) -> Judge:
        """The judge of a result of this dtype; `form` is of one that NumPy has no dtype for."""
        bound, dtypes = None, [dtype, *(a.dtype for a in self.inputs)]
        if self.inputs and not rule.exact and any(d.kind in "fc" for d in dtypes):
            how = (self.divided, self.numerics, self.amplified, form)
            bound = WithinBound(dtype, self.inputs, self.terms, *how)
        if rule.tolerances is not None:
            return WithinTolerance(*rule.tolerances, bound)
        return bound or Exactly()


class _Comparison:
    """Counts what a judge says of a result, part by part, and keeps the worst."""

    def __init__(self, result: Array, judge: Judge, activation: Activation | None, note: Note | None) -> None:
        self.dtype, self.form = dtype_name(result), format_of(result)
        self.result, self.judge = np.asarray(result), judge
        self.activation = activation and activation.fitted(result.dtype)
        bound = judge.bound
        self.tiny = bound.tiny if bound is not None and bound.has_doubt else None
        """Below which operands are in doubt, if any is."""
        self.note = note
        self.wrong: NDArray[np.bool_] | None = None
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
        if self.activation is not None:
            wanted = self.activation.settled(part, self.activation.apply(wanted))
        for band in bands(wanted.shape, _EACH // 8):  # as many as lie in a cache together
            above, lost = (None if a is None else a[band] for a in (sizes, flushed))
            within = itertools.zip_longest(start, (inner.start for inner in band), fillvalue=0)
            self._add(part[band], wanted[band], above, lost, [int(i) + first for i, first in within])

    def _add(
        self, result: Array, wanted: Array, sizes: Array | None, flushed: Array | None, origin: Sequence[int]
    ) -> None:
        says = self.judge(result, wanted, sizes, flushed)
        error, allowed, outside, ratio, exactly = says
        band = tuple(slice(i, i + n) for i, n in zip(origin, wanted.shape, strict=True))
        first = not self.elements
        self.elements += outside.size
        self.exact_sums += int(np.count_nonzero(exactly))
        if outside.any():
            if self.wrong is None:
                self.wrong = np.zeros_like(self.result, bool)
            self.wrong[band] = outside
            self.outside += int(np.count_nonzero(outside))
            if self.outside <= FEW:
                self.outside_at += [_moved(at, origin) for at in np.argwhere(outside).tolist()]
            ratio[outside & ~(ratio > 1)] = math.inf  # NaN where the definition has none, say
        if self.note is not None:
            self.note(band, wanted, says)
        self._count(np.where(exactly, error, ratio) if exactly.any() else ratio, error, wanted)
        largest = np.unravel_index(int(error.argmax()), error.shape)
        if first or error[largest] > self.max_abs_error:
            self.max_abs_error, self.bound = float(error[largest]), float(allowed[largest])
        # Of those furthest past what is allowed them, and past nothing all are infinitely far, the farthest.
        worst = ratio.max()
        if worst < self.furthest[0]:
            return
        at = np.unravel_index(int(np.where(ratio == worst, error, -1.0).argmax()), error.shape)
        if (ratio[at], error[at]) > self.furthest:
            self.furthest = float(ratio[at]), float(error[at])
            self.worst_values = result[at].item(), wanted[at].item()
            self.worst = _moved(at, origin)

    def _count(self, rank: Array, error: Array, wanted: Array) -> None:
        """Take a part into the histogram and the relative error."""
        wild = np.isinf(error)
        lost = int(np.count_nonzero(wild))
        rank = np.where(wild, math.nan, rank) if lost else rank
        highest = rank.max()
        up_to = [rank.size if highest <= edge else np.count_nonzero(rank <= edge) for edge in HISTOGRAM]
        self.histogram += np.diff([0, *up_to, error.size - lost, error.size])
        size = np.abs(wanted.astype(np.result_type(wanted, np.float64), copy=False))
        relative = np.divide(error, size, out=np.zeros(error.shape), where=size != 0).max(initial=0)
        relative = math.inf if lost or np.isnan(relative) else float(relative)
        self.max_rel_error = max(self.max_rel_error, relative)

    def _ulps(self) -> float | None:
        """The worst element's error, in units in the last place that the right value has in the dtype."""
        if self.form is None or self.worst_values is None:
            return None if self.form is None else 0.0
        right = np.abs(np.asarray(self.worst_values[1])).astype(np.zeros(0, self.result.dtype).real.dtype)
        return float(self.furthest[1] / self.form.spacing(right))

    def report(self) -> Report:
        exact = isinstance(self.judge, Exactly)
        tolerances = self.judge[:2] if isinstance(self.judge, WithinTolerance) else None
        return Report(
            equal=self.outside == 0,
            shape=self.result.shape,
            expected_shape=self.result.shape,
            dtype=self.dtype,
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
            wrong=self.wrong,
        )


def working_bytes(elements: int, *dtypes: np.dtype[Any]) -> int:
    """Memory that comparing results of these dtypes takes, beside the two: up to 32 MB, 60 MB of complex, and
    a byte for each element, since those that are wrong are kept.
    """
    return (
        _BESIDE
        + elements
        + min(elements, BAND) * _EACH * (2 if any(dtype.kind == "c" for dtype in dtypes) else 1)
    )


def _moved(at: Sequence[Any], origin: Sequence[int]) -> tuple[int, ...]:
    """An index of a part, as that of the whole."""
    return tuple(int(i) + start for i, start in zip(at, origin, strict=True))
