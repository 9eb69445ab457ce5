"""The diagnosis of stages beside the convolution: a result, held against what each known mistake makes of it.

A slip is another definition; a reading is another order in which the elements lie. Each is judged on all
elements as `verify` judges, part by part, and given up where more are outside than could be told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import ConvmatError
from convmat.formats import Format
from convmat.verification.comparison import Definition
from convmat.verification.computed import Computation
from convmat.verification.diagnosis import Diagnosis, Findings, made_by
from convmat.verification.judge import Judge, Rule, bands
from convmat.verification.mistakes import known_mistakes
from convmat.verification.verdict import FEW
from convmat.watching import Watch, unwatched

Array = NDArray[Any]

_BUDGET = 1 << 27  # numbers that slips in other readings may be looked at, before the search ends early
_ATTEMPT = 1 << 14  # numbers that are looked at in the time that making an attempt takes
_PRODUCTS = 16  # that are computed in the time that a number is looked at in
_KEPT = 1 << 23  # numbers that slips are given, and that are kept
_SMALLER = 8  # parts of the first image, or filter, are so many times smaller than others, and so on

SEARCH_BYTES = 16 * _KEPT
"""Memory that a search takes at most, beside three results."""


class Slip(NamedTuple):
    """A mistake that defines another result."""

    key: str
    phrase: str
    """Goes on from "your output equals the correct one"."""
    defined: Callable[[], Definition]
    """What it makes; it raises a ConvmatError where it cannot be made."""


class Reading(NamedTuple):
    """How the elements of a result lie, where the right one has axes of its own."""

    keys: tuple[str, ...]
    phrases: tuple[str, ...]
    order: tuple[int, ...]
    """The right axes as they lie in the result, the slowest first."""
    turned: tuple[int, ...] = ()
    """Right axes that run backwards."""

    def of(self, result: Array, shape: Sequence[int]) -> Array:
        """The elements of a result, of any shape, in the place that they have in the right `shape`; a view
        where the result lies in one piece.
        """
        lying = result.reshape([shape[axis] for axis in self.order])
        return np.flip(lying.transpose(np.argsort(self.order)), self.turned)


Words = Sequence[tuple[str, str]]
"""A key and a phrase for each mistake that an order is; none for the right one."""


def readings(
    shape: Sequence[int],
    named: Iterable[tuple[Sequence[int], Words]],
    turned: Iterable[tuple[str, str, tuple[int, ...]]] = (),
) -> list[Reading]:
    """The readings that a result of the right `shape` may have, the right one first, then those of few words.

    Args:
        named: orders with their words. Axes of one element may stand anywhere, so that an order may have
            several words, of which the fewest are taken.
        turned: axes that run backwards, with a key and a phrase; in any order of at most one word.
    """
    found: dict[tuple[int, ...], Reading] = {}
    for order, words in sorted(named, key=lambda entry: len(entry[1])):
        seen = tuple(axis for axis in order if shape[axis] > 1)
        keys, phrases = zip(*words, strict=True) if words else ((), ())
        found.setdefault(seen, Reading(keys, phrases, tuple(order)))
    plain = list(found.values())
    back = [
        Reading((key, *one.keys), (phrase, *one.phrases), one.order, axes)
        for one, (key, phrase, axes) in itertools.product(plain, turned)
        if len(one.keys) < 2 and any(shape[axis] > 1 for axis in axes)
    ]
    return sorted(plain + back, key=lambda reading: len(reading.keys))


Layers = Iterable[tuple[str, str, Computation]]
"""Mistaken layers, with their keys and phrases."""


def of_layer(
    meant: Computation, parts: Sequence[str], more: Layers = ()
) -> Iterator[tuple[str, str, Computation]]:
    """The layers that known mistakes in some parts make of one, and `more`: those that have outputs."""
    known = (m for m in known_mistakes(meant.x.ndim - 2) if m.part in parts)
    made = ((m.key, m.phrase, layer) for m in known for layer in made_by(m, meant))
    for key, phrase, layer in itertools.chain(made, more):
        with suppress(ConvmatError):  # a kernel larger than what is left of the image
            if min(layer.convolved_shape[1:]) > 0:
                yield key, phrase, layer


def fitted(array: Array, lengths: Sequence[int]) -> Array:
    """An array (n, *outputs, …) with so many outputs along each axis: some left out, or zeros more."""
    for axis, length in enumerate(lengths, 1):
        array = array[(slice(None),) * axis + (slice(length),)]
        more = length - array.shape[axis]
        if more:
            around = [(0, 0)] * array.ndim
            around[axis] = (0, more)
            array = np.pad(array, around)
    return array


def in_growing_parts(definition: Definition, lead: Sequence[int], each: int = 1) -> Definition:
    """The same, whose parts are slices of the axes `lead`, each of whose elements stands for `each`: one of
    them first, then ever more, so that what differs is soon seen.
    """
    return replace(definition, parts=_growing(lead, each) if math.prod(lead) else [])


def _growing(lead: Sequence[int], each: int) -> list[tuple[slice, ...]]:
    if not lead:
        return [()]
    first = [(slice(0, 1), *part) for part in _growing(lead[1:], each * _SMALLER)]
    rest = bands((lead[0] - 1, *lead[1:]), each)
    return first + [(slice(p[0].start + 1, p[0].stop + 1), *p[1:]) for p in rest]


def search(
    result: Array,
    right: Definition,
    slips: Sequence[Slip],
    readings: Sequence[Reading],
    rule: Rule,
    shapes: Sequence[tuple[int, ...]],
    watch: Watch = unwatched,
) -> Findings:
    """The slips and readings that explain a wrong result, the fewest together: alone, else two by two.

    A slip explains a result if each element is within what its own definition allows; at most 1 % of the
    elements, at most 16, may be left, if more than twice as many are wrong. The right result must not be
    explained as well: what makes no difference has no name. The first of `readings` is the right one, and
    `shapes` are those that the result may have.
    """
    return _Search(result, right, rule).run(slips, readings, shapes, watch)


_RESHAPED = Diagnosis(("reshaped",), ("in another shape, with all elements in their order",))


class _Search:
    """One wrong result, to be held against slips and readings."""

    def __init__(self, result: Array, right: Definition, rule: Rule) -> None:
        self.given, self.result = result.shape, np.ascontiguousarray(result)
        self.right, self.rule = _Held.of(right), rule
        self.allowed = min(FEW, result.size // 100)
        self.cost = 0
        self.made: dict[Slip, Definition] = {}
        self.room = _KEPT
        self._right_values: Array | None = None

    def run(
        self,
        slips: Sequence[Slip],
        readings: Sequence[Reading],
        shapes: Sequence[tuple[int, ...]],
        watch: Watch,
    ) -> Findings:
        """Slips and readings alone, readings of the fewest words first; then each slip in each reading."""
        self.plain, *readings = readings
        if not self.result.size:
            return Findings()
        report = self._held(self.right, self.plain, 2 * self.allowed)
        self.wrong = self.result.size if report is None else report.outside  # or of many the first
        if not self.wrong:
            return Findings(() if self.given in shapes else (_RESHAPED,), 1, 1)
        simple = [r for r in readings if len(r.keys) == 1]
        alone: list[tuple[Slip | None, Reading]] = [(None, r) for r in readings]
        alone += [(slip, self.plain) for slip in slips]
        pairs = [(slip, r) for slip, r in itertools.product(slips, simple)]
        found: list[Diagnosis] = []
        tried, known = 0, len(alone)
        for attempt in watch(alone, known):
            tried += 1
            found += self._explanation(*attempt)
        if not found or any(d.exceptions for d in found):
            known += len(pairs)
            most = self.cost + _BUDGET
            for attempt in watch(pairs, len(pairs)):
                if self.cost > most:
                    break
                tried += 1
                found += self._explanation(*attempt)
        return Findings(tuple(_fewest(found)), tried, known)

    def _held(self, definition: Definition, reading: Reading, most: int | None, result: Any = None) -> Any:
        """The report on a result, read so; None where it has not as many elements."""
        result = self.result if result is None else result
        self.cost += _ATTEMPT
        if math.prod(definition.shape) != result.size:
            return None
        report = definition.compare(reading.of(result, definition.shape), self.rule, most)
        self.cost += report.elements * definition.terms // _PRODUCTS
        return report

    def _defined(self, slip: Slip) -> Definition:
        """What a slip defines, kept for other readings where it is not too large."""
        if slip in self.made:
            return self.made[slip]
        definition = _Held.of(slip.defined())
        given = self.right.inputs
        size = sum(a.size for a in definition.inputs if not any(np.may_share_memory(a, b) for b in given))
        self.cost += size
        if size <= self.room:
            self.room -= size
            self.made[slip] = definition
        return definition

    def _explanation(self, slip: Slip | None, reading: Reading) -> Iterator[Diagnosis]:
        """The diagnosis that a slip in a reading is, if it explains the result."""
        try:
            definition = self.right if slip is None else self._defined(slip)
            report = self._held(definition, reading, self.allowed)
        except (ConvmatError, ValueError):  # what cannot be made
            return
        if report is None or report.outside > self.allowed or self.wrong <= 2 * report.outside:
            return
        if math.prod(self.right.shape) == self.result.size:
            as_right = self._held(definition, reading, report.outside, self._right())
            if as_right is not None and as_right.outside <= report.outside:
                return
        keys = (*(() if slip is None else (slip.key,)), *reading.keys)
        phrases = (*(() if slip is None else (slip.phrase,)), *reading.phrases)
        numbers = np.arange(self.result.size) if report.outside_at else np.arange(0)
        places = []
        for at in report.outside_at:
            number = reading.of(numbers, definition.shape)[at]
            places.append(tuple(int(i) for i in np.unravel_index(number, self.given)))
        yield Diagnosis(keys, phrases, tuple(places))

    def _right(self) -> Array:
        """The right values as a right result has them, in its dtype where that can hold them."""
        if self._right_values is None:
            values = np.empty(self.right.shape, _dtype_of(self.right, self.result))
            start = 0
            for part in self.right.parts:
                found = self.right.values(part).ravel()
                values.reshape(-1)[start : start + found.size] = found
                start += found.size
            self._right_values = np.ascontiguousarray(values.transpose(self.plain.order))
        return self._right_values


@dataclass(frozen=True)
class _Held(Definition):
    """A definition that is held against several readings: its judge and its first part are made once."""

    made: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, definition: Definition) -> _Held:
        """The same definition."""
        own = cls(**{f.name: getattr(definition, f.name) for f in fields(definition)})
        first = next(iter(own.parts), None)

        def once(name: str, function: Callable[..., Array]) -> Callable[..., Array]:
            def values(part: Any, *more: Any) -> Array:
                if part is not first:
                    return function(part, *more)
                if name not in own.made:
                    own.made[name] = function(part, *more)
                found: Array = own.made[name]
                return found

            return values

        names = [name for name in ("values", "sizes", "flushed") if getattr(own, name) is not None]
        changed: dict[str, Any] = {name: once(name, getattr(own, name)) for name in names}
        return replace(own, **changed)

    def judge(self, dtype: np.dtype[Any], rule: Rule, form: Format | None = None) -> Judge:
        how = dtype, rule, form
        if how not in self.made:
            self.made[how] = super().judge(*how)
        judge: Judge = self.made[how]
        return judge


def _dtype_of(right: Definition, result: Array) -> np.dtype[Any]:
    values = next((right.values(part) for part in right.parts), result)
    if result.dtype.kind in "fc" and not (values.dtype.kind == "c" and result.dtype.kind == "f"):
        return result.dtype
    return values.dtype


def _fewest(found: Sequence[Diagnosis]) -> Iterator[Diagnosis]:
    """Those of the fewest mistakes that leave nothing, else of the fewest; none told twice."""

    def rank(one: Diagnosis) -> tuple[bool, int]:
        return bool(one.exceptions), len(one.mistakes)

    ranked = sorted(found, key=rank)
    alike = itertools.takewhile(lambda d: rank(d) == rank(ranked[0]), ranked)
    yield from {one.phrases: one for one in alike}.values()
