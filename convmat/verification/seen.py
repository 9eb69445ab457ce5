"""Whose arithmetic the errors of a result are: told from a sample of it, and only where it is sure.

An arithmetic with rounded operands has a definition of its own. It is named where the result is at least
twice as near to that as to the plain one: errors of another kind lie as far from either. A transform is
named where errors of the sizes that it usually has, output by output, are much likelier than those of plain
sums, and of its scale. Narrow sums are named where every element is a number of their format. Each must
have every element of the result within its bound, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.errors import SettingError
from convmat.verification.comparison import Definition
from convmat.verification.judge import Rule, WithinBound
from convmat.verification.numerics import PLAIN, Numerics
from convmat.verification.verdict import Report

Array = NDArray[Any]

# Tightest first; of two that are as near, the first is named.
_OF_OPERANDS = (
    *("tf32", "float16", "tf32-truncated", "bfloat16", "bfloat16-truncated"),
    *("float16-result", "float16-rounded", "bfloat16-result", "bfloat16-rounded"),
)
_TRANSFORMS = ("winograd:2", "winograd:4", "winograd:6", "fft")
_PATTERNED = ("winograd:4", "winograd:6")  # whose errors change from output to output of a tile
_NARROW = ("bfloat16-accumulate", "float16-accumulate")
_SAMPLE, _FILTERS = 8192, 32  # elements, about, and filters that they are of
_LINES = 8, 64  # that they are on: at least, and at most
_FEWEST = 4, 32  # elements that say something: where the plain bound fails, and where it holds
_AS_NEAR = 1.1  # times as far as the nearest, which chance may bring
_LIKELIER = 0.02, 0.1  # in a mean logarithm: where the plain bound fails, and where it holds
_SCALES = 0.5, 8.0  # of errors, in usual ones, that are a transform's
_WIDEST = 0.25  # of A that a bound may allow, if it is to tell anything


class OfNumerics(Protocol):
    """The definition of an arithmetic; of some filters only, of one group or of groups whole, if named."""

    def __call__(self, numerics: Numerics, kept: Sequence[int] = ()) -> Definition: ...


class _Place(NamedTuple):
    """Where the sample is taken."""

    bands: list[tuple[slice, ...]]
    filters: list[int]

    def together(self, values: Callable[[Any], Array]) -> Array:
        """All that `values` makes of the bands."""
        return np.concatenate([values(band).ravel() for band in self.bands])


class _Sample(NamedTuple):
    """Some elements of a result, and their definition."""

    got: Array
    wanted: Array
    there: Array
    """Which of them say something: numbers that are not 0, nor cut off, by definition."""

    @property
    def errors(self) -> Array:
        """Of those."""
        return np.asarray((self.got - self.wanted)[self.there])

    @property
    def distance(self) -> float:
        """The root mean square of the errors; infinite of too few."""
        if np.count_nonzero(self.there) < _FEWEST[0]:
            return math.inf
        return float(np.sqrt(np.mean(self.errors**2)))


def seen_arithmetic(result: Array, report: Report, definition: OfNumerics, groups: int) -> str | None:
    """The name of the arithmetic that the result's errors are of; None for the dtypes' own, and if unsure.

    Args:
        result: (N, *out, K).
        report: on it, by the plain bound.
        definition: that of an arithmetic.
        groups: of the filters.
    """
    kinds = {a.dtype.kind for a in definition(PLAIN).inputs}
    if (
        report.shape != report.expected_shape
        or result.dtype.kind != "f"
        or kinds <= set("biu")
        or "c" in kinds
    ):
        return None
    if report.equal and (report.exact or report.max_abs_error == 0):
        return None
    place = _place(result.shape, report.worst or (0,) * result.ndim, groups)
    with np.errstate(all="ignore"):
        for name in _candidates(result, report, definition, place):
            if definition(Numerics.of(name)).compare(result, Rule()):
                return name
    return None


def _candidates(result: Array, report: Report, definition: OfNumerics, place: _Place) -> Iterator[str]:
    """Names that the sample speaks for, the likeliest first."""

    def sampled(numerics: Numerics) -> _Sample:
        return _sampled(result, definition(numerics, place.filters), place)

    usual, ways = sampled(PLAIN), len(definition(PLAIN).inputs) - 1  # with a bias, two
    if not 0 < usual.distance < math.inf or np.count_nonzero(usual.there) < _FEWEST[report.equal]:
        return
    distances = {
        name: min(sampled(replace(Numerics.of(name), bias=bias)).distance for bias in (False, True)[:ways])
        for name in _OF_OPERANDS
    }
    least = _AS_NEAR * min(distances.values())
    ranked = sorted(_OF_OPERANDS, key=lambda name: max(distances[name], least))
    near = [name for name in ranked if distances[name] < usual.distance / 2]
    yield from near
    narrow = [n for n in _NARROW if _holds(n, usual.got)]
    if near:  # something like it, and something else
        return
    if not narrow:
        yield from _likely_transforms(usual, report, definition, place)
    elif not report.equal:
        one = Numerics.of(narrow[0])
        if _tells(definition(one), result.dtype) and _not_one_sided(sampled(one)):
            yield narrow[0]


def _holds(name: str, values: Array) -> bool:
    """Whether values are all of an arithmetic's format."""
    return np.array_equal(Numerics(operands=Numerics.of(name).operands).value(values), values)


def _tells(definition: Definition, dtype: np.dtype[Any]) -> bool:
    """Whether a bound allows less than a result may well be off by."""
    judge = definition.judge(dtype, Rule())
    return isinstance(judge, WithinBound) and judge.terms * judge.u < _WIDEST


def _sampled(result: Array, definition: Definition, place: _Place) -> _Sample:
    got = place.together(lambda band: result[band][..., place.filters]).astype(np.float64)
    wanted = place.together(definition.values).astype(np.float64)
    there = np.isfinite(got) & np.isfinite(wanted) & (wanted != 0)
    if definition.activation is not None:
        ends = definition.activation.fitted(result.dtype)
        there &= (ends.low < wanted) & (wanted < ends.high)
        wanted = ends.apply(wanted)
    if definition.numerics.result is not None:
        wanted = Numerics(operands=definition.numerics.result).value(wanted).astype(np.float64)
    return _Sample(got, wanted, there)


def _likely_transforms(
    usual: _Sample, report: Report, definition: OfNumerics, place: _Place
) -> Iterator[str]:
    """The likeliest transform, if it is much likelier than plain sums.

    Errors e are taken to be normal, of variances that are a multiple of the usual T²: for the best multiple
    the mean logarithm of their likelihood is −(mean log T² + log mean e²/T² + 1)/2.
    """
    found = {}
    for name in ("", *_TRANSFORMS):
        try:
            made = definition(Numerics.of(name) if name else PLAIN, place.filters)
        except SettingError:  # no such transform of this layer
            continue
        assert made.squares is not None
        found[name] = max(_likelihood(usual, place.together(squares)) for squares in made.squares())
    name = max(found, key=found.__getitem__)
    likelihood, scale = found.pop(name)
    judge = definition(PLAIN, place.filters).judge(np.dtype(np.float64), Rule())
    assert isinstance(judge, WithinBound)
    if not name or not _SCALES[0] < scale / judge.u < _SCALES[1] or not _not_one_sided(usual):
        return
    # What is right has to be another thing beyond doubt, and so have errors without a pattern.
    sure = _LIKELIER[report.equal or name == "fft"]
    if (name in _PATTERNED or not report.equal) and likelihood - max(found.values())[0] > sure:
        yield name


def _likelihood(usual: _Sample, squares: Array) -> tuple[float, float]:
    """The mean logarithm of how likely errors are that have such squares, and their scale."""
    there = usual.there & (squares > 0) & np.isfinite(squares)
    of_errors = (usual.got - usual.wanted)[there] ** 2
    if np.count_nonzero(of_errors) < _FEWEST[1]:
        return -math.inf, 0.0
    scale = float(np.mean(of_errors / squares[there]))
    return -(float(np.mean(np.log(squares[there]))) + math.log(scale) + 1) / 2, math.sqrt(scale)


def _not_one_sided(sample: _Sample) -> bool:
    """Whether errors lie around 0, are many, and no share of the values."""
    errors, values = sample.errors, sample.wanted[sample.there]
    size = float(np.sqrt(np.mean(errors**2)))
    along = abs(float(errors @ values)) / math.sqrt(float(errors @ errors) * float(values @ values))
    return abs(float(errors.mean())) < size / 4 and bool(np.mean(errors != 0) > 0.5) and along < 0.8


def _place(shape: tuple[int, ...], worst: tuple[int, ...], groups: int) -> _Place:
    """Stretches of outputs, and some filters, the worst element's among them; always the same."""
    *outer, length, filters = shape
    random, lines, of_group = np.random.default_rng(0), math.prod(outer), filters // groups
    few, group = max(_FILTERS, _SAMPLE // (8 * lines * length)), worst[-1] // of_group
    if of_group > few:
        some = group * of_group + random.permutation(of_group)[: few - 1]
        kept = sorted({worst[-1], *some.tolist()})
    else:
        last = min(group + few // of_group, groups)
        kept = list(range(max(last - few // of_group, 0) * of_group, last * of_group))
    width = min(max(_SAMPLE // _LINES[0] // len(kept), 1), length)
    count = min(max(_SAMPLE // (len(kept) * width), _LINES[0]), _LINES[1], lines)
    chosen = random.choice(lines, count, replace=False)
    chosen[0] = np.ravel_multi_index(worst[:-2], tuple(outer))
    bands = []
    for line in dict.fromkeys(chosen.tolist()):
        start = int(random.integers(length - width + 1))
        at = np.unravel_index(line, tuple(outer))
        bands.append((*(slice(int(i), int(i) + 1) for i in at), slice(start, start + width)))
    return _Place(bands, kept)
