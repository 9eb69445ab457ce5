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
- u_out is that of a result narrower than the accumulator, else 0: of bfloat16 2^-8, of float8 2^-5 to 2^-3.
  In float8 what is beyond the largest number may be that one, infinity or NaN: conversions differ.
- R has a γ_n of its own, which is added.

Complex sums are judged part by part, each of 2·n products; F and A are of moduli.

A named arithmetic (`numerics`) says otherwise what u, u_out and tiny are, computes R of rounded operands,
whose doubts are in F, or has an n and an A of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.checks import finite, flag, got
from convmat.errors import SettingError
from convmat.formats import Format
from convmat.verification.numbers import has_subnormal, mantissa_bits, parts_of
from convmat.verification.numerics import PLAIN, Numerics

Array = NDArray[Any]

BAND = 1 << 18  # elements of the definition that are held at one time


class Rule(NamedTuple):
    """What is asked of a result, other than to be within its bound."""

    exact: bool = False
    tolerances: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        exact: bool = False,
        atol: float | None = None,
        rtol: float | None = None,
        arithmetic: Any = None,
    ) -> Rule:
        """The rule that the arguments of `verify` make; an arithmetic has a bound, in place of the others."""
        flag("exact", exact)
        for name, asked in (("exact", exact), ("atol", atol is not None), ("rtol", rtol is not None)):
            if asked and arithmetic is not None:
                raise SettingError(
                    "arithmetic", f"brings a bound of its own; leave out {name}, or the arithmetic"
                )
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

    def __init__(
        self,
        dtype: np.dtype[Any],
        inputs: Sequence[Array],
        terms: int,
        divided: bool,
        numerics: Numerics = PLAIN,
        amplified: float = 1.0,
        form: Format | None = None,
    ) -> None:
        """Of a result's dtype and what is summed; `amplified` is what the least error on the way comes to.

        `form` is that of a result that NumPy has no dtype for.
        """
        self.bound, self.numerics = self, numerics
        sums = numerics.sums or _coarsest(dtype, inputs)
        self.u, self.tiny, self.largest = sums.u, sums.tiny, sums.largest
        self.terms = 2 * terms if any(a.dtype.kind == "c" for a in inputs) else terms
        # Float16's subnormals are numbers to whoever adds in it.
        self.underflow = self.terms * amplified * (sums.least if sums.bits == 11 else sums.tiny)
        if numerics.operands is None and any(mantissa_bits(a.dtype) > sums.bits for a in inputs):
            self.terms += 2
        outs = [form or Format.of(dtype)] if dtype.kind in "fc" else []
        out = min([sums, *outs, *filter(None, [numerics.result])], key=lambda f: f.bits)
        self.is_scaled = out.bits < 8  # of 8 bits in all, whose overflow has no one meaning
        self.u_out = out.u if out.bits < sums.bits else 0.0
        if self.u_out:
            self.underflow += out.tiny if numerics.flush else out.least
        self.largest_out = min(f.largest for f in (sums, out))
        self._look_at(inputs, divided or numerics.tiles is not None, out.bits)

    def _look_at(self, inputs: Sequence[Array], fractions: bool, bits: int) -> None:
        """What the numbers themselves decide."""
        whole, self.finite_inputs, self.has_doubt = not fractions, True, self.numerics.operands is not None
        for part in (part for a in inputs for part in _pieces(a)):
            part = self.numerics.value(part)
            whole = whole and _is_whole(part)
            self.finite_inputs = self.finite_inputs and bool(np.isfinite(part).all())
            self.has_doubt = self.has_doubt or has_subnormal(part, self.tiny)
        self.exact_below = 2.0**bits if whole else 0.0

    @property
    def is_plain(self) -> bool:
        """Whether no sum has to be exact, no operand is in doubt, and no result has saturated."""
        return not (self.exact_below or self.has_doubt or self.is_scaled)

    def doubt(self, a: Array) -> NDArray[np.float64]:
        """How far each operand may be from the definition's: what is subnormal kernels may flush."""
        return self.numerics.doubt(a, self.tiny)

    def __call__(self, result: Array, wanted: Array, sizes: Any, flushed: Array | None) -> Judged:
        exactly = sizes < self.exact_below if self.exact_below else np.zeros(result.shape, bool)
        if not self.is_scaled and np.result_type(result, wanted, np.float64) == np.float64:
            bound = self.allowed(wanted, sizes, flushed)
            error = np.abs(result - wanted.astype(np.float64, copy=False))
            if (error <= bound).all() and bound.max(initial=0) < math.inf:  # as nearly always
                ratio = np.divide(error, bound, out=np.zeros(error.shape), where=bound > 0)
                return Judged(error, bound, np.zeros(error.shape, bool), ratio, exactly)
        result, wanted, bounds = self.settled(result, wanted, sizes, flushed)
        # Of a complex element the part counts that is further off.
        outside, ratio, allowed = np.zeros(result.shape, bool), np.zeros(result.shape), bounds[0]
        for r, w, bound in zip(parts_of(result), parts_of(wanted), bounds, strict=True):
            error = _distance(r, w)
            outside |= (error != 0) & ~((error <= bound) & np.isfinite(error))
            of_part = _ratio(error, bound)
            allowed = np.where(of_part > ratio, bound, allowed)
            ratio = np.fmax(ratio, of_part)
        return Judged(_distance(result, wanted), allowed, outside, ratio, exactly)

    def settled(
        self, result: Array, wanted: Array, sizes: Array, flushed: Array | None
    ) -> tuple[Array, Array, list[Array]]:
        """The result and the definition, both as wide, and the bounds of their parts.

        What may honestly have overflowed in the result, or not have, is as the definition has it: a sum may
        overflow in one order and not in another, and then no bound holds.
        """
        kind = np.result_type(result.dtype, wanted.dtype, np.float64)
        result, wanted = result.astype(kind), wanted.astype(kind)
        bounds = [self.allowed(part, sizes, flushed) for part in parts_of(wanted)]
        settled = result.copy()
        for r, w, bound in zip(parts_of(settled), parts_of(wanted), bounds, strict=True):
            overflow = ~(sizes + bound < self.largest)
            if not self.finite_inputs and self.numerics.tiles is None:  # which spread NaN over a tile
                overflow &= np.isfinite(w)
            wild = ~np.isfinite(r) | ~np.isfinite(w)
            there = r == np.copysign(np.inf, w)
            if self.is_scaled:
                there |= np.isnan(r) | (r == np.copysign(self.largest_out, w))
            rounded = (np.abs(w) + bound >= self.largest_out) & there
            np.copyto(r, w, where=(overflow & wild) | rounded)
        if settled.dtype.kind == "c":
            # Where infinities meet, what each part becomes depends on how complex numbers multiply.
            np.copyto(settled, wanted, where=~np.isfinite(result) & ~np.isfinite(wanted))
        return settled, wanted, bounds

    def allowed(self, wanted: Array, sizes: Array, flushed: Array | None) -> Array:
        """How far from `wanted`, real numbers, each element may lie."""
        # R comes from float64 sums, with an error of their own.
        share = gamma(self.terms, self.u) + gamma(self.terms, 2.0**-53)
        bound: Array = share * sizes if flushed is None else share * sizes + flushed
        if self.u_out:
            bound = bound * (1 + self.u_out) + self.u_out * np.abs(wanted)
        bound += self.underflow
        if not self.exact_below:
            return bound
        return np.where(sizes < self.exact_below, 0.0 if flushed is None else flushed, bound)


Judge = Exactly | WithinTolerance | WithinBound


def bands(shape: Sequence[int], each: int = 1) -> list[tuple[slice, ...]]:
    """Parts of an array of this shape, in order: slices of its first axes, of at most `BAND` elements, each
    of which stands for `each`, or of one.
    """
    if not shape:
        return [()]
    inner = math.prod(shape[1:]) * each
    if len(shape) > 1 and inner > BAND:
        rest = bands(shape[1:], each)
        return [(slice(i, i + 1), *part) for i in range(shape[0]) for part in rest]
    step = max(BAND // max(inner, 1), 1)
    return [(slice(start, min(start + step, shape[0])),) for start in range(0, shape[0], step)]


def _coarsest(dtype: np.dtype[Any], inputs: Sequence[Array]) -> Format:
    """The coarsest format that sums may honestly have been in; the engine's own word for it is not taken."""
    sources = (
        [] if all(a.dtype.kind in "biu" for a in inputs) else [np.result_type(*(a.dtype for a in inputs))]
    )
    sources += [dtype] if dtype.kind in "fc" else []
    return min(
        (Format.of(np.dtype(np.float32) if d == np.float16 else d) for d in sources), key=lambda f: f.bits
    )


def gamma(terms: int, u: float) -> float:
    """Higham's γ_n = n·u / (1 − n·u)."""
    return terms * u / (1 - terms * u) if terms * u < 1 else math.inf


def _pieces(a: Array) -> Iterator[Array]:
    """All elements, in any order, `BAND` at a time."""
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    return iter(np.nditer(a, flags, buffersize=BAND))


def _is_whole(a: Array) -> bool:
    """Whether all are whole numbers, or none at all: the sums that infinity and NaN are in are no numbers."""
    return a.dtype.kind not in "fc" or all(bool(((p == np.trunc(p)) | (p != p)).all()) for p in parts_of(a))


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
