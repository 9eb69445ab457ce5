"""A wrong result beside its definition, and what it takes for a sentence about it to be true."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.formats import narrow
from convmat.geometry import ConvGeometry
from convmat.verification.computed import Array, Computation
from convmat.verification.judge import Judged
from convmat.verification.layer import judge_layer
from convmat.verification.problem import Problem
from convmat.verification.where import Mask, Where, axis_names, describe, touching

Floats = NDArray[np.float64]

ENOUGH = 3
"""Elements that it takes to tell a number by."""

NAMED = 3
"""Lines that a sentence names one by one, at most."""

_LETTERS = {"image": "n", "slice": "z", "row": "y", "column": "x", "filter": "k"}


@dataclass(frozen=True)
class Effect:
    """What a kernel did instead, as far as a sentence is true of every element that it speaks of."""

    sentence: str
    kind: str
    """Stable."""
    value: dict[str, Any]
    """The numbers of the sentence, as JSON has them."""
    where: Where | None = None
    """The part of the result; None for all of it, or for the wrong elements where no words tell them."""
    everywhere: bool = True
    """Whether it is true of all elements; else of the wrong ones, and of all that `where` has."""
    filters: Array | None = field(default=None, repr=False, compare=False)
    """In effect, where other filters are what it is about."""

    @property
    def definite(self) -> bool:
        """Whether the sentence says where it is true, and what is wrong, not one example of it."""
        return (self.everywhere or self.where is not None) and self.value.get("changed", 1) == 1

    def as_json(self) -> dict[str, Any]:
        """The sentence, where it is true, and its numbers."""
        where = None if self.where is None else self.where.value()
        told = {"sentence": self.sentence, "kind": self.kind, "everywhere": self.everywhere, "where": where}
        return told | {"numbers": self.value}

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Claim:
    """What elements may be, if a sentence is true of them."""

    kind: str
    sentence: str
    low: Array
    """The least that each may be, broadcast to the result."""
    high: Array
    value: dict[str, Any]
    of: Mask | None = None
    """The elements that it speaks of, where others are left to other sentences."""
    own: str = ""
    """What lies along the axis whose lines the sentence names itself."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A wrong result, (N, *out, K), its definition, and how far each element may lie from it, in float64."""

    layer: Computation
    got: Floats
    wanted: Floats
    allowed: Floats
    wrong: Mask
    slack: float
    """By which share of a value its rounding to the result's dtype may move it."""
    judged: dict[str, Any]
    result: Array
    """As it was given."""

    @classmethod
    def of(cls, problem: Problem) -> Evidence | None:
        """That of a problem; None where the result has another shape, or complex numbers."""
        layer, shape, result = problem.right, problem.right.convolved_shape, problem.result
        if result.shape == (math.prod(shape[:-1]), shape[-1]):
            result = result.reshape(shape)
        kinds = result.dtype.kind + layer.x.dtype.kind + layer.filters.dtype.kind
        if result.shape != shape or "c" in kinds or not result.size:
            return None
        wanted = np.empty_like(result, np.float64)
        allowed, wrong = np.empty_like(wanted), np.zeros_like(wanted, bool)

        def note(band: tuple[slice, ...], values: Array, says: Judged) -> None:
            wanted[band], allowed[band], wrong[band] = values, says.allowed, says.outside

        known = narrow(result, problem.narrow)
        stored = layer.arguments | {"x": layer.x, "filters": layer.filters}
        if judge_layer(expected=known, **stored, **problem.judged, note=note):
            return None
        slack = 0.0 if problem.form is None else 2 * problem.form.u
        got = result.astype(np.float64)
        return cls(layer, got, wanted, allowed, wrong, slack, problem.judged, known)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.got.shape

    @cached_property
    def edges(self) -> list[Mask]:
        """Along each spatial axis, the lines whose patches touch the padding."""
        layer = self.layer
        window = layer.stride, layer.padding, layer.dilation
        return touching(ConvGeometry(layer.x.shape, layer.kernel, *window))

    @property
    def names(self) -> tuple[str, ...]:
        """What lies along each axis."""
        return axis_names(self.got.ndim - 2)

    def left(self, wrong: Mask) -> Evidence:
        """The same with fewer wrong elements."""
        return replace(self, wrong=wrong)

    def near(self, kind: str, sentence: str, values: Array, allowed: Array, **more: Any) -> Claim:
        """A claim that elements are `values`, to within what is allowed and their rounding."""
        with np.errstate(all="ignore"):
            room = allowed + (2 * self.slack + 1e-12) * np.abs(values)
            return Claim(kind, sentence, values - room, values + room, **more)

    def effect(self, claim: Claim) -> Effect | None:
        """The claim with the words for where it holds; None where it is not true of all it speaks of."""
        with np.errstate(all="ignore"):
            true = (claim.low <= self.got) & (self.got <= claim.high)
        true |= np.isnan(claim.low) & np.isnan(self.got)
        of = self.wrong if claim.of is None else self.wrong & claim.of
        if not of.any() or not true[of].all():
            return None
        return self.settled(claim, true, of)

    def settled(self, claim: Claim, true: Mask, of: Mask) -> Effect:
        """A claim that is true of these elements, among them all wrong ones `of` which it speaks."""
        kind, value = claim.kind, claim.value
        if true.all():
            return Effect(claim.sentence, kind, value)
        where = describe(of, self.names, self.edges)
        if where.told and true[where.mask(of)].all():
            said = all(line.axis == claim.own for line in where.lines if line.words)
            sentence = claim.sentence if said else f"{claim.sentence} in {where.words}"
            return Effect(sentence, kind, value, where, everywhere=False)
        return Effect(f"{claim.sentence} where it is wrong", kind, value, None, everywhere=False)

    def true_for(self, layer: Computation) -> Mask:
        """Which elements another layer's definition explains, by verify's judgment."""
        report = judge_layer(expected=self.result, **layer.arguments, **self.judged)
        return np.ones(self.shape, bool) if report.wrong is None else ~report.wrong

    def lines_wrong(self, axis: int) -> Mask:
        """Which lines along an axis have wrong elements."""
        return np.asarray(self.wrong.any(axis=tuple(a for a in range(self.wrong.ndim) if a != axis)))

    def sample(self, count: int) -> tuple[Array, ...]:
        """An index of at most so many of the wrong elements."""
        flat = np.flatnonzero(self.wrong)
        chosen = np.random.default_rng(0).choice(flat, min(count, len(flat)), replace=False)
        return np.unravel_index(np.sort(chosen), self.shape)


def rule(name: str, source: Array, held: Mask) -> str:
    """What lines hold, in words: row y holds row y − 1; filter 3 holds filter 2."""
    letter, lines = _LETTERS[name], np.flatnonzero(held)
    sources, size = source[lines], len(source)
    if len(lines) <= 2:
        return ", ".join(f"{name} {i} holds {name} {j}" for i, j in zip(lines, sources, strict=True))
    if (sources == sources[0]).all():
        return (
            f"{name}s hold {name} {sources[0]}"
            if not held.all()
            else f"every {name} holds {name} {sources[0]}"
        )
    shift = lines - sources
    if (shift == shift[0]).all():
        return f"{name} {letter} holds {name} {letter} {'−' if shift[0] > 0 else '+'} {abs(shift[0])}"
    if ((shift - shift[0]) % size == 0).all():
        by = int(shift[0] % size)
        by, sign = (by, "−") if 2 * by <= size else (size - by, "+")
        return f"{name} {letter} holds {name} {letter} {sign} {by}, and around the end"
    if (lines + sources == size - 1).all():
        return f"{name}s lie in reverse order"
    for block in (2, 4, 8):
        if (lines ^ sources == block - 1).all():
            return f"{name}s lie in reverse order in each {block}"
    some = zip(lines[:NAMED], sources[:NAMED], strict=True)
    pairs = ", ".join(f"{name} {i} holds {name} {j}" for i, j in some)
    return pairs + (", …" if len(lines) > NAMED else "")
