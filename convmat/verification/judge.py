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

Array = NDArray[Any]

BAND = 1 << 18  # elements of the definition that are held at one time


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
        self, dtype: np.dtype[Any], inputs: Sequence[Array], terms: int, divided: bool, form: Format | None
    ) -> None:
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
        self.is_scaled = form is not None and form.bits < 8  # of 8 bits, whose overflow has no one meaning
        if form is not None and form.bits < bits:
            self.u_out, self.largest_out, bits = form.u, form.largest, form.bits
            self.underflow += form.least
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
            there = r == np.copysign(np.inf, w)
            if self.is_scaled:
                there |= np.isnan(r) | (r == np.copysign(self.largest_out, w))
            rounded = (np.abs(w) + bound >= self.largest_out) & there
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
    """All elements, in any order, `BAND` at a time."""
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    return iter(np.nditer(a, flags, buffersize=BAND))


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
