"""What a kernel did instead: sentences about a wrong result, found from its numbers and true of them.

No mistake is looked up. What is tried follows from the result: values that are all the same, right values of
other places, a factor, a constant, an end that cuts off, other steps of the window, other weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convmat import reference
from convmat.axis import kernel_extent
from convmat.errors import ConvmatError
from convmat.verification.computed import Array
from convmat.verification.effective import other_filters
from convmat.verification.evidence import ENOUGH, NAMED, Claim, Effect, Evidence, rule
from convmat.verification.problem import Problem
from convmat.verification.values import (
    constant,
    curves,
    factor,
    number,
    of_sign,
    offset,
    ratio,
    snapped,
    straight,
)
from convmat.verification.where import Mask

_LONGEST = 512  # of axes whose lines are all held against each other
_SAMPLE = 16  # elements of each line that are
_REACH = 64  # elements of memory that a result may have slipped by
_ATTEMPTS = 8  # wrong elements that other steps of the window must explain before all are looked at


def instead(problem: Problem) -> tuple[Effect, ...]:
    """Sentences that are true of every element that they speak of, and together of all wrong ones.

    Empty where there is none, or the result has another shape.
    """
    evidence = Evidence.of(problem)
    if evidence is None:
        return ()
    if (effect := _first(evidence, _ALL)) is not None:
        return (effect,)
    effects: list[Effect] = []
    rest = evidence
    while rest.wrong.any() and (found := _largest(rest, _parts(rest))) is not None:
        effect, of = found
        effects.append(effect)
        rest = rest.left(rest.wrong & ~of)
        if rest.wrong.any() and (last := _first(rest, _ALL)) is not None:
            return (*effects, last)
    return tuple(effects)


def _first(evidence: Evidence, finders: Sequence[Finder]) -> Effect | None:
    """The first sentence that says where it is true; else the first."""
    vague = None
    if np.count_nonzero(evidence.wrong) < ENOUGH:
        finders = (constant,)
    with np.errstate(all="ignore"):
        for claim in itertools.chain.from_iterable(finder(evidence) for finder in finders):
            effect = claim if isinstance(claim, Effect) else evidence.effect(claim)
            if effect is not None and effect.definite:
                return effect
            vague = vague or effect
    return vague


def _largest(evidence: Evidence, claims: Iterator[Claim]) -> tuple[Effect, Mask] | None:
    """Of the claims about a part the first that is true of most."""
    best, most = None, 0
    for claim in claims:
        of = evidence.wrong & claim.of if claim.of is not None else evidence.wrong
        count = int(np.count_nonzero(of))
        if count > most and (effect := evidence.effect(claim)) is not None:
            best, most = (effect, of), count
    return best


# Places


def _moved(e: Evidence) -> Iterator[Claim | Effect]:
    """Lines of the right result along an axis, in other places, for all lines that are wrong."""
    for axis in range(e.got.ndim):
        yield from _moved_along(e, axis, whole=True)


def _parts(e: Evidence) -> Iterator[Claim]:
    """The same for some of the lines."""
    for axis in range(e.got.ndim):
        yield from _moved_along(e, axis, whole=False)


def _moved_along(e: Evidence, axis: int, whole: bool) -> Iterator[Claim]:
    size, name = e.shape[axis], e.names[axis]
    wrong = e.lines_wrong(axis)
    if not 1 < size <= _LONGEST:
        return
    match = _matches(e, axis)
    if not match[wrong].any():
        return
    for source in _mappings(match, wrong):
        held = wrong & (source >= 0)
        if not held.any() or (whole and (held != wrong).any()):
            continue
        line = [-1 if a == axis else 1 for a in range(e.got.ndim)]
        of = None if whole else np.broadcast_to(held.reshape(line), e.shape)
        safe = np.where(source >= 0, source, 0)
        values, room = (np.take(a, safe, axis) for a in (e.wanted, e.allowed))
        value = {"axis": name, "source": np.where(held, source, -1).tolist()}
        few = name if np.count_nonzero(held) <= NAMED else ""
        yield e.near("moved", rule(name, source, held), values, room, value=value, of=of, own=few)


def _matches(e: Evidence, axis: int) -> Mask:
    """(i, j): whether line i may hold the right line j along an axis, by a sample of its wrong elements."""
    first = np.moveaxis(e.wrong, axis, 0)
    some = np.flatnonzero(first.any(axis=0))
    chosen = np.random.default_rng(0).choice(some, min(_SAMPLE, len(some)), replace=False)
    at: Any = (slice(None), *np.unravel_index(chosen, first.shape[1:]))
    got, wanted, allowed = (np.moveaxis(a, axis, 0)[at] for a in (e.got, e.wanted, e.allowed))
    wrong = first[at]
    room = allowed + (2 * e.slack + 1e-12) * np.abs(wanted)
    match = (np.abs(got[:, None] - wanted) <= room) | ~wrong[:, None]
    return np.asarray(match.all(-1) & wrong.any(-1)[:, None])


def _mappings(match: Mask, wrong: Mask) -> Iterator[Array]:
    """From each line to the one that it may hold, -1 where it holds none: simple ones first."""
    size, lines = len(match), np.arange(len(match))
    seen = match.any(1)

    def fits(source: Array) -> bool:
        inside = (source >= 0) & (source < size) & seen
        return bool(inside.any() and match[lines[inside], source[inside]].all())

    simple = [np.full(size, j) for j in np.flatnonzero(match[seen].all(0))]
    shifts = [lines - d for d in sorted(range(1 - size, size), key=abs) if d]
    simple += [source for source in shifts if fits(source)]
    simple += [source % size for source in shifts if fits(source % size)]
    simple += [s for s in (size - 1 - lines, *(lines ^ m for m in (1, 3, 7))) if fits(s)]
    for source in simple:
        yield np.where((source >= 0) & (source < size), source, -1)
    general = np.where(seen & wrong, match.argmax(1), -1)
    if np.count_nonzero(general >= 0) > 0:
        yield general


def _slipped(e: Evidence) -> Iterator[Claim | Effect]:
    """Every element of memory so many places from where it belongs."""
    at = np.random.default_rng(0).choice(flat := np.flatnonzero(e.wrong.ravel(order="K")), min(64, len(flat)))
    got, wanted, allowed = (a.ravel(order="K") for a in (e.got, e.wanted, e.allowed))
    for by in sorted((d for d in range(-_REACH, _REACH + 1) if d), key=abs):
        inside = at[(at >= by) & (at - by < len(got))]
        room = allowed[inside - by] + 2 * e.slack * np.abs(got[inside])
        if len(inside) < 2 or not (np.abs(got[inside] - wanted[inside - by]) <= room).all():
            continue
        sign = "−" if by > 0 else "+"
        values, room = (_as(e, np.roll(a, by)) for a in (wanted, allowed))
        held = np.zeros(len(got), bool)
        held[max(by, 0) : len(got) + min(by, 0)] = True
        text = f"element i of memory holds element i {sign} {abs(by)}"
        yield e.near("slipped", text, values, room, value={"by": by}, of=_as(e, held))


def _as(e: Evidence, flat: Array) -> Array:
    """An array that lies in memory as the result does."""
    order = sorted(range(e.got.ndim), key=lambda axis: -e.got.strides[axis])
    lying = flat.reshape([e.shape[axis] for axis in order])
    return np.asarray(lying.transpose(np.argsort(order)))


def _accumulated(e: Evidence) -> Iterator[Claim | Effect]:
    """An accumulator that goes on along an axis."""
    for axis in range(e.got.ndim):
        if e.shape[axis] > 1:
            values, room = np.add.accumulate(e.wanted, axis), np.add.accumulate(e.allowed, axis)
            room = room + e.slack * np.add.accumulate(np.abs(values), axis)
            text = f"each {e.names[axis]} holds the sum of all up to it: the accumulator is not cleared"
            yield e.near("accumulated", text, values, room, value={"axis": e.names[axis]})


# Pixels


def _padding(e: Evidence) -> Iterator[Claim | Effect]:
    """A number in the padding, or one added to every pixel, and none there."""
    layer = e.layer
    if "quantization" in e.judged:
        return
    ones = np.ones((1, *layer.size, layer.x.shape[-1]))
    weights = np.abs(layer.filters.astype(np.float64)).reshape(len(layer.filters), -1).sum(1)
    steps: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    steps |= {"groups": layer.groups, "padding_mode": layer.padding_mode}
    filters = layer.filters.astype(np.float64)
    inside = reference.convolve_by_taps(ones, filters, **steps)
    outside = filters.reshape(len(filters), -1).sum(1) - inside
    for kind, text, part in (
        ("padding", "the padding holds {}", outside),
        ("pixels", "{} is added to every pixel", inside),
    ):
        part = np.broadcast_to(part, e.shape)
        for c in snapped(ratio((e.got - e.wanted)[e.wrong], part[e.wrong])):
            more = abs(c) * weights * (filters[0].size * e.slack + 1e-9)
            claim = e.near(
                kind,
                text.format(number(c)),
                e.wanted + c * part,
                e.allowed + more,
                value={kind: c},
            )
            yield claim


def _windows(e: Evidence) -> Iterator[Claim | Effect]:
    """Another stride, dilation or start of the window, along one axis or in the same way along all."""
    layer, axes = e.layer, len(e.layer.size)
    if "quantization" in e.judged:
        return
    at = e.sample(_ATTEMPTS)
    got = e.got[at]
    for along, stride, dilation, shift in _steps(layer.stride, layer.dilation, axes):
        pads = []
        for a in range(axes):
            before = layer.pads[a][0] - shift[a]
            reach = (e.shape[1 + a] - 1) * stride[a] + kernel_extent(layer.kernel[a], dilation[a])
            pads.append((before, reach - layer.size[a] - before))
        other = replace(layer, stride=stride, dilation=dilation, padding=tuple(pads))
        try:
            sums, sizes = other.sums(at, np.dtype(np.float64))
            room = 4 * layer.filters[0].size * max(e.slack, 1e-15) * sizes
            if not (np.abs(sums - got) <= room).all():
                continue
            true = e.true_for(other)
        except (ConvmatError, IndexError):
            continue
        if true[e.wrong].all():
            text = _steps_text(e, along, stride, dilation, shift)
            value = {"stride": list(stride), "dilation": list(dilation), "shift": list(shift)}
            yield e.settled(Claim("window", text, got, got, value), true, e.wrong)


def _steps(
    stride: tuple[int, ...], dilation: tuple[int, ...], axes: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Axes, and the strides, dilations and shifts that windows may have along them."""
    ways = [(s, d, o) for o in range(-3, 4) for s in range(-3, 4) for d in range(-3, 4) if 0 in (s, d)]
    ways.sort(key=lambda way: (sum(map(bool, way)), sum(map(abs, way))))
    groups = [(a,) for a in range(axes)] + ([tuple(range(axes))] if axes > 1 else [])
    for (s, d, o), along in itertools.product(ways[1:], groups):
        strides = tuple(v + s * (a in along) for a, v in enumerate(stride))
        dilations = tuple(v + d * (a in along) for a, v in enumerate(dilation))
        if min(strides) >= 1 and min(dilations) >= 1:
            yield along, strides, dilations, tuple(o * (a in along) for a in range(axes))


def _steps_text(
    e: Evidence,
    along: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    shift: tuple[int, ...],
) -> str:
    a, layer = along[0], e.layer
    line = f"{e.names[1 + a]}" if len(along) == 1 else "pixel"
    parts = []
    if stride != layer.stride:
        parts.append(f"the stride is {stride[a]}")
    if dilation != layer.dilation:
        parts.append(f"the dilation is {dilation[a]}")
    if shift[a]:
        many = "" if abs(shift[a]) == 1 else "s"
        parts.append(f"windows begin {abs(shift[a])} {line}{many} {'later' if shift[a] > 0 else 'earlier'}")
    return " and ".join(parts) + (
        f" along {line}s" if len(along) == 1 and len(layer.size) > 1 and not shift[a] else ""
    )


Finder = Callable[[Evidence], Iterator[Claim | Effect]]
_ALL: tuple[Finder, ...] = (
    constant,
    factor,
    curves,
    of_sign,
    offset,
    _moved,
    _slipped,
    _accumulated,
    straight,
    _padding,
    other_filters,
    _windows,
)
