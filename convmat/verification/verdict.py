"""The verdict on a result: what a comparison counted, and its first line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.errors import ConvmatError
from convmat.formats import dtype_name
from convmat.shown import Fact, Shown, percent, shape_fact, sizes
from convmat.verification.numerics import Numerics
from convmat.verification.where import Where, map_text, wrong_map

HISTOGRAM = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 10.0)
"""The upper edges of a histogram's buckets; two more are for what is above, and for NaN and infinity that
stand where the other side has none."""

FEW = 16
"""Elements outside that a report lists."""


class Diagnosed(Protocol):
    """What a search for mistakes found."""

    @property
    def story(self) -> str:
        """All of it."""

    @property
    def headline(self) -> str:
        """In a few words, to go on from a verdict; none where nothing was found."""


@dataclass(frozen=True)
class Report(Shown):
    """What a comparison found; true when equal.

    As text it is the verdict, in one line. Its representation, which a failing `assert report` shows, is the
    whole story: the verdict, the facts, and the diagnosis of a result that differs. The diagnosis is made
    when it is first asked for, and then kept; until the report is let go it holds on to the arrays that
    `verify` was given, which must be the same then.
    """

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
    axes: tuple[str, ...] = field(default=(), compare=False)
    """What the numbers of an index are, where that is known."""
    diagnose: Callable[[], Diagnosed] | None = field(default=None, compare=False)
    """Searches for the mistakes that explain the result; None where it is equal, or nothing known of it."""

    arithmetic: str | None = None
    """The name of the one that it was judged by; None where the dtypes decided."""
    named_arithmetic: str | None = None
    """The name of the one that the errors are of, where that is another than the dtypes': see `verify`."""
    activation: str | None = None
    """What was applied to the definition."""
    wrong: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)
    """Which elements are outside, in the memory order of the result; None where none is, or shapes differ."""
    where: Where | None = field(default=None, compare=False)
    """The set that they are, in words, where the axes are known."""
    rounding: str | None = None
    """That was asked for, of a quantized result."""
    equal_as: tuple[str, ...] = ()
    """Other roundings under which every element of a result that differs would be equal."""

    @classmethod
    def of_shapes(cls, result: NDArray[Any], shape: tuple[int, ...]) -> Report:
        """The verdict on a result of another shape than the definition's."""
        count, off = math.prod(shape), math.inf
        dtype = dtype_name(result)
        return cls(False, result.shape, shape, dtype, False, count, count, off, 0.0, off, None, None)

    @property
    def explained(self) -> bool:
        """Whether it is equal, or the named arithmetic leaves no room for a mistake."""
        named = self.named_arithmetic
        return self.equal or (named is not None and not Numerics.of(named).wide)

    @property
    def outside_share(self) -> float:
        """Of 1."""
        return self.outside / self.elements if self.elements else 0.0

    @property
    def smallest_atol(self) -> float:
        """The smallest absolute tolerance, alone, that would pass; infinite where none would."""
        return self.max_abs_error

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        if self.shape != self.expected_shape:
            return "different: shape {}, expected {}".format(*self._shapes())
        if not self.equal:
            briefs = [fact.brief for fact in self._where_facts() if fact.brief]
            return ", ".join([self._difference(), *briefs])
        return f"equal: {_elements(self.elements)}, {self._largest_error()}"

    def __repr__(self) -> str:
        rows = [fact for fact in self.facts() if fact.label]
        width = max(len(fact.label) for fact in rows)
        lines = [f"  {fact.label:{width}}  {fact.text}" for fact in rows if fact.key != "equal"]
        headline, *whole = self._diagnosis
        first = f"{self._difference()}, {headline}" if headline else str(self)
        return "\n".join([first, *lines, *whole])

    @cached_property
    def _diagnosis(self) -> tuple[str, ...]:
        """The diagnosis in a few words, and in lines of its own, where there is one."""
        if self.diagnose is None:
            return ("",)
        try:
            found = self.diagnose()
        except ConvmatError as error:
            return "", f"no diagnosis: {error}"
        return found.headline, found.story

    def _difference(self) -> str:
        return f"different: {self.outside} of {_elements(self.elements)}{self._other_rounding()}"

    def _shapes(self) -> Iterator[str]:
        """Both shapes as they are spoken, and what to do where they are the same but for axes of 1."""
        both = (self.shape, self.expected_shape)
        first, second = ([size for size in shape if size != 1] for shape in both)
        yield sizes(self.shape) or "()"
        advice = f", but for axes of 1 the same: reshape the first to {self.expected_shape}"
        yield (sizes(self.expected_shape) or "()") + (advice if first == second else "")

    def _other_rounding(self) -> str:
        return f"; equal as {self.equal_as[0]}; you asked for {self.rounding}" if self.equal_as else ""

    def _largest_error(self) -> str:
        if self.exact:
            return "exactly"
        if self.tolerances is not None:
            return f"largest error {self.max_abs_error:.2g}"
        return f"largest error {self.error_over_bound:.2g} of its bound"

    def facts(self) -> list[Fact]:
        """What was counted, ending with the verdict."""
        facts = [
            shape_fact("result_shape", "result", self.shape),
            shape_fact("definition_shape", "definition", self.expected_shape),
            Fact("result_dtype", "result dtype", self.dtype, self.dtype),
            Fact("elements", "", self.elements, ""),
            Fact("outside_share", "", self.outside_share, ""),
        ]
        brief = str(self) if self.where is None else self._difference()
        verdict = Fact("equal", "verdict", self.equal, brief, brief=brief)
        if self.shape != self.expected_shape:
            return [*facts, Fact("outside", "", self.outside, ""), verdict]
        return [*facts, *self._error_facts(), *self._worst_facts(), *self._where_facts(), verdict]

    def _error_facts(self) -> Iterator[Fact]:
        share = f"{self.outside} of {self.elements}"
        share += f" ({percent(self.outside_share)})" if self.outside else ""
        error = f"{self.max_abs_error:{'.15g' if self.exact else '.3g'}}"
        atol, rtol = self.tolerances or (None, None)
        yield Fact("exact", "judged", self.exact, self._judged_text())
        yield Fact("exact_sums", "", self.exact_sums, "")
        arithmetic = None if self.arithmetic is None else Numerics.of(self.arithmetic)
        yield Fact("arithmetic", "arithmetic" if arithmetic else "", self.arithmetic, str(arithmetic or ""))
        yield Fact(
            "activation", "activation" if self.activation else "", self.activation, self.activation or ""
        )
        yield self._named_fact()
        yield Fact("atol", "", atol, "")
        yield Fact("rtol", "", rtol, "")
        yield Fact("outside", "elements outside", self.outside, share)
        yield Fact("max_abs_error", "max abs error", self.max_abs_error, error)
        yield Fact("max_rel_error", "max relative error", self.max_rel_error, f"{self.max_rel_error:.3g}")
        if not self.exact:
            ratio = self.error_over_bound
            yield Fact("bound", "its bound", self.bound, f"{self.bound:.3g}")
            yield Fact("error_over_bound", "largest error / bound", ratio, f"{ratio:.3g}")
        atol = self.smallest_atol
        text = "none: NaN or infinity differs" if math.isinf(atol) else f"--atol {number_text(atol)}"
        yield Fact("smallest_atol", "" if self else "smallest that would pass", atol, text)
        yield Fact("histogram", "", self.buckets(), "")

    def _named_fact(self) -> Fact:
        """Whose arithmetic the errors are of."""
        if self.named_arithmetic is None:
            return Fact("named_arithmetic", "", None, "")
        words = Numerics.of(self.named_arithmetic).words
        brief = f"but the errors are those of {words}" if self else f"equal as {words}"
        text = f"{self.named_arithmetic}: {brief}"
        return Fact("named_arithmetic", "arithmetic seen", self.named_arithmetic, text, brief=brief)

    def _worst_facts(self) -> Iterator[Fact]:
        if self.worst is not None and self.worst_values is not None:
            value, wanted = self.worst_values
            names = [f"{axis} " for axis in self.axes] or [""] * len(self.worst)
            place = ", ".join(f"{a}{i}" for a, i in zip(names, self.worst, strict=True)) or "the only one"
            yield Fact("worst", "worst element", list(self.worst), place)
            yield Fact("worst_value", "its value", plain(value), f"{value}")
            yield Fact("worst_definition", "by definition", plain(wanted), f"{wanted}")
        if self.ulps is not None:
            yield Fact("ulps", "its error in ULP" if self.ulps else "", self.ulps, f"{self.ulps:.3g}")

    def _where_facts(self) -> Iterator[Fact]:
        if self.where is not None and self.wrong is not None:
            at = "at" if self.outside == 1 or self.where.places else "all in"
            brief = f"{at} {self.where.words}" if self.where.told and not self.equal_as else ""
            yield Fact("where", "where", self.where.value(), str(self.where), brief=brief)
            shares = wrong_map(self.wrong)
            shown = "" if shares.min() == shares.max() else "map of them"  # one shade tells nothing
            yield Fact("wrong_map", shown, shares.tolist(), map_text(shares))

    def _judged_text(self) -> str:
        if self.exact:
            return "exactly" + (": sums of whole numbers, exact in any order" if self.exact_sums else "")
        if self.tolerances is None:
            some = f"; {self.exact_sums} exactly, sums of whole numbers" if self.exact_sums else ""
            return f"by each element's error bound{some}"
        atol, rtol = map(number_text, self.tolerances)
        return f"within {atol}" + (f" + {rtol}·|definition|" if self.tolerances[1] else "")

    def buckets(self) -> list[dict[str, Any]]:
        """The histogram, each bucket with its upper edge, or what else it is for."""
        names = [*(f"{edge:g}" for edge in HISTOGRAM), "more", "NaN or infinity"]
        return [{"up_to": name, "count": count} for name, count in zip(names, self.histogram, strict=True)]


def joined(one: Report, other: Report) -> Report:
    """The report on two parts of a result, each `moved` to where it lies, without what needs all elements."""
    both = (one, other)
    worst = min(both, key=lambda part: (-part.error_over_bound, -part.max_abs_error, part.worst or ()))
    largest = max(both, key=lambda part: (part.max_abs_error, part.bound))
    outside = one.outside + other.outside
    return replace(
        worst,
        equal=one.equal and other.equal,
        exact=one.exact and other.exact,
        elements=one.elements + other.elements,
        outside=outside,
        max_abs_error=largest.max_abs_error,
        bound=largest.bound,
        max_rel_error=max(one.max_rel_error, other.max_rel_error),
        histogram=tuple(map(sum, zip(one.histogram, other.histogram, strict=True))),
        exact_sums=one.exact_sums + other.exact_sums,
        outside_at=tuple(sorted(one.outside_at + other.outside_at)) if outside <= FEW else (),
        equal_as=tuple(name for name in one.equal_as if name in other.equal_as),
    )


def moved(report: Report, start: tuple[int, ...]) -> Report:
    """A report on a part of a result, its indices those of the whole, in which the part begins there."""

    def whole(index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i + first for i, first in zip(index, start, strict=True))

    worst = None if report.worst is None else whole(report.worst)
    return replace(report, worst=worst, outside_at=tuple(map(whole, report.outside_at)))


def _elements(count: int) -> str:
    return f"{count} element{'' if count == 1 else 's'}"


def number_text(value: Any) -> str:
    """A number in full, and a whole one without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return str(int(value))
    return str(value)


def plain(value: Any) -> Any:
    """A number as JSON has it, which has no complex ones."""
    return str(value) if isinstance(value, complex | np.clongdouble) else value
