"""What a kernel did instead: sentences about a wrong result, found from its numbers and true of them.

No mistake is looked up. What is tried follows from the result: values that are all the same, right values of
other places, a factor, a constant, an end that cuts off, other steps of the window, other weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from convmat import reference
from convmat.axis import kernel_extent
from convmat.errors import ConvmatError
from convmat.verification.computed import Array
from convmat.verification.effective import other_filters
from convmat.verification.evidence import Claim, Effect, Evidence, Floats
from convmat.verification.problem import Problem
from convmat.verification.where import Mask

_LETTERS = {"image": "n", "slice": "z", "row": "y", "column": "x", "filter": "k"}
_LONGEST = 512  # of axes whose lines are all held against each other
_SAMPLE = 16  # elements of each line that are
_REACH = 64  # elements of memory that a result may have slipped by
_SIMPLE = 1024  # denominators of simple fractions
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
    for finder in finders:
        with np.errstate(all="ignore"):
            for claim in finder(evidence):
                effect = claim if isinstance(claim, Effect) else evidence.effect(claim)
                if effect is not None:
                    return effect
    return None


def _largest(evidence: Evidence, claims: Iterator[Claim]) -> tuple[Effect, Mask] | None:
    """Of the claims about a part the first that is true of most."""
    best, most = None, 0
    for claim in claims:
        of = evidence.wrong & claim.of if claim.of is not None else evidence.wrong
        count = int(np.count_nonzero(of))
        if count > most and (effect := evidence.effect(claim)) is not None:
            best, most = (effect, of), count
    return best


# Values


def _constant(e: Evidence) -> Iterator[Claim]:
    """One number wherever it is wrong."""
    values = e.got[e.wrong]
    first = values[0]
    same = np.isnan(values).all() if np.isnan(first) else (values == first).all()
    if same and (len(values) > 1 or first == 0 or not np.isfinite(first)):
        value = np.broadcast_to(first, e.shape)
        yield Claim("constant", f"yours is {first:.6g}", value, value, {"value": float(first)})


def _factor(e: Evidence) -> Iterator[Claim]:
    """One factor; of the sums without their bias, too; or one for each filter."""
    for name, base, bias in _bases(e):
        got = e.got - bias
        for c in _snapped(_ratio(got[e.wrong], base[e.wrong])):
            text = f"yours is {name} × {_number(c)}"
            yield e.near("factor", text, c * base + bias, abs(c) * e.allowed, value={"factor": c})
        each = np.ones(e.shape[-1])
        for k in np.flatnonzero(e.lines_wrong(-1 % e.got.ndim)):
            some = e.wrong[..., k]
            each[k] = next(_snapped(_ratio(got[..., k][some], base[..., k][some])), 1.0)
        text = f"yours is {name} × a factor of its own for each filter: {_listed(each)}"
        yield e.near(
            "factors", text, each * base + bias, np.abs(each) * e.allowed, value={"factors": each.tolist()}
        )


def _bases(e: Evidence) -> Iterator[tuple[str, Floats, Floats]]:
    """What may have been multiplied, and what is added to it then."""
    yield "the right one", e.wanted, np.zeros(1)
    if e.layer.bias is not None and "requantize" not in e.judged:
        bias = e.layer.bias.astype(np.float64)
        yield "the right one, without its bias,", e.wanted - bias, bias


def _ratio(got: Floats, base: Floats) -> float:
    """By least squares."""
    fit = np.isfinite(got) & np.isfinite(base)
    below = float(base[fit] @ base[fit])
    return float(got[fit] @ base[fit]) / below if below else 1.0


def _snapped(number: float) -> Iterator[float]:
    """A number, as a simple fraction first where it is near one."""
    if not np.isfinite(number):
        return
    near = Fraction(number).limit_denominator(_SIMPLE)
    if near and abs(float(near) - number) <= 1e-5 * abs(number):
        yield float(near)
    yield number


def _number(number: float) -> str:
    """A number as it is spoken: 2, 0.1, 1/255."""
    near = Fraction(number).limit_denominator(_SIMPLE)
    if float(near) == number and 1000 % near.denominator:
        return str(near)
    return f"{number:.6g}"


def _listed(numbers: Sequence[float] | Array, most: int = 6) -> str:
    some = ", ".join(f"{number:.4g}" for number in numbers[:most])
    return some + (", …" if len(numbers) > most else "")


def _offset(e: Evidence) -> Iterator[Claim]:
    """One constant; or one for each line along an axis: the bias, say, or what is in its place."""
    off = e.got - e.wanted
    if not np.isfinite(off[e.wrong]).all():
        return
    bias = np.zeros(e.shape[-1]) if e.layer.bias is None else e.layer.bias.astype(np.float64)
    room = e.allowed + 2 * e.slack * np.abs(e.wanted)
    mean = float(off[e.wrong].mean())
    for c in _snapped(mean):
        yield e.near("offset", f"{_number(c)} is added", e.wanted + c, room, value={"offset": c})
    last = e.got.ndim - 1
    for axis in (last, *range(last)):
        base = off if axis == last else off + bias
        if axis != last and not bias.any():
            base = off
        line = [-1 if a == axis else 1 for a in range(e.got.ndim)]
        wrong = e.lines_wrong(axis)
        means = _line_means(base, e.wrong, axis)
        means[~wrong] = 0
        added = means.reshape(line) - (0 if base is off else bias)
        of = wrong.reshape(line) & np.ones(e.shape, bool)
        if axis == last:
            yield from _bias(e, means, bias, wrong, room)
        text = f"a number of its own for each {e.names[axis]} is added"
        text += "" if base is off else ", and no bias"
        value = {"axis": e.names[axis], "added": means.tolist(), "bias": base is off}
        if wrong.sum() > 1:
            yield e.near(
                "offsets", f"{text}: {_listed(means[wrong])}", e.wanted + added, room, value=value, of=of
            )


def _line_means(a: Floats, wrong: Mask, axis: int) -> Floats:
    others = tuple(i for i in range(a.ndim) if i != axis)
    counts = np.maximum(wrong.sum(axis=others), 1)
    return np.asarray(np.where(wrong, a, 0).sum(axis=others) / counts)


def _bias(e: Evidence, means: Floats, bias: Floats, wrong: Mask, room: Floats) -> Iterator[Claim]:
    """Constants of filters that come of their bias: a multiple of it, or another filter's."""
    if not bias.any():
        return
    times = Fraction(_ratio(means[wrong], bias[wrong]) + 1).limit_denominator(1024)
    text = "the bias is missing" if times == 0 else f"the bias is added {times} times"
    value = {"bias_times": float(times)}
    yield e.near("bias", text, e.wanted + bias * (float(times) - 1), room, value=value)
    other = np.abs((means + bias)[:, None] - bias).argmin(1)
    source = np.where(wrong, other, np.arange(len(bias)))
    rule = _rule("filter", source, wrong)
    value = {"bias_of": source.tolist()}
    yield e.near("bias-of", f"{rule} as to its bias", e.wanted + bias[source] - bias, room, value=value)
    cut = np.trunc(bias)
    yield e.near(
        "bias", "the bias is cut to whole numbers", e.wanted + cut - bias, room, value={"bias": cut.tolist()}
    )


def _straight(e: Evidence) -> Iterator[Claim]:
    """A factor and a constant."""
    x, y = e.wanted[e.wrong], e.got[e.wrong]
    if len(x) < 3 or not np.isfinite(y).all() or not np.ptp(x):
        return
    for a, c in itertools.product(*map(_snapped, np.polyfit(x, y, 1).tolist())):
        values, room = a * e.wanted + c, abs(a) * e.allowed
        text = f"yours is the right one × {_number(a)} + {_number(c)}"
        room = room + 2 * e.slack * np.abs(a * e.wanted)
        yield e.near("straight", text, values, room, value={"factor": a, "offset": c})


def _curves(e: Evidence) -> Iterator[Claim]:
    """A monotone function of each value: cut off at ends, rounded; its absolute; ReLU before the bias."""
    low, high = e.wanted - e.allowed, e.wanted + e.allowed

    def claim(kind: str, text: str, f: Callable[[Array], Array], **value: float) -> Claim:
        a, b = f(low), f(high)
        room = 2 * e.slack * np.maximum(np.abs(a), np.abs(b))
        return Claim(kind, text, a - room, b + room, {**value})

    yield e.near("absolute", "yours is the absolute of the right one", np.abs(e.wanted), e.allowed, value={})
    seen = e.got[np.isfinite(e.got)]
    least, most = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    yield claim("cut", f"yours is cut off above {most:.6g}", lambda v: np.minimum(v, most), high=most)
    yield claim("cut", f"yours is cut off below {least:.6g}", lambda v: np.maximum(v, least), low=least)
    text = f"yours is cut off below {least:.6g} and above {most:.6g}"
    yield claim("cut", text, lambda v: v.clip(least, most), low=least, high=most)
    some = e.wrong & (e.wanted != 0)
    c = _ratio(e.got[some], e.wanted[some])
    power = 2.0 ** np.rint(np.log2(abs(c))) if c else 1.0
    for factor, (name, f) in itertools.product(
        sorted({1.0, power}, reverse=True),
        (("towards 0", np.trunc), ("to the nearest", np.rint), ("down", np.floor), ("up", np.ceil)),
    ):
        times = "" if factor == 1 else f" × {_number(factor)}"
        text = f"yours is the right one{times}, rounded {name} to a whole number"
        yield claim("rounded", text, lambda v, f=f, c=factor: f(v * c), factor=factor)  # type: ignore[misc]
    for _, base, bias in itertools.islice(_bases(e), 1, None):
        values = np.maximum(base, 0) + bias
        yield e.near("relu-before-bias", "ReLU is before the bias", values, e.allowed, value={})


def _of_sign(e: Evidence) -> Iterator[Claim]:
    """Another factor for what is below 0."""
    below = e.wanted < 0
    if (e.wrong & ~below & (e.wanted > e.allowed)).any():
        return
    for c in _snapped(_ratio(e.got[e.wrong], e.wanted[e.wrong])):
        values = np.where(below, c * e.wanted, e.wanted)
        room = np.maximum(1, abs(c)) * e.allowed
        text = f"yours is the right one × {_number(c)} where that is below 0"
        yield e.near("leaky", text, values, room, value={"factor": c})


# Places


def _moved(e: Evidence) -> Iterator[Claim]:
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
        yield e.near("moved", _rule(name, source, held), values, room, value=value, of=of)


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


def _rule(name: str, source: Array, held: Mask) -> str:
    """What lines hold, in words: row y holds row y − 1; filter 3 holds filter 2."""
    letter, lines = _LETTERS[name], np.flatnonzero(held)
    sources, size = source[lines], len(source)
    if len(lines) == 1:
        return f"{name} {lines[0]} holds {name} {sources[0]}"
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
    pairs = [f"{name} {i} holds {name} {j}" for i, j in zip(lines[:3], sources[:3], strict=True)]
    return ", ".join(pairs) + (", …" if len(lines) > 3 else "")


def _slipped(e: Evidence) -> Iterator[Claim]:
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


def _accumulated(e: Evidence) -> Iterator[Claim]:
    """An accumulator that goes on along an axis."""
    for axis in range(e.got.ndim):
        if e.shape[axis] > 1:
            values, room = np.add.accumulate(e.wanted, axis), np.add.accumulate(e.allowed, axis)
            room = room + e.slack * np.add.accumulate(np.abs(values), axis)
            text = f"each {e.names[axis]} holds the sum of all up to it: the accumulator is not cleared"
            yield e.near("accumulated", text, values, room, value={"axis": e.names[axis]})


# Pixels


def _padding(e: Evidence) -> Iterator[Claim]:
    """A number in the padding, or one added to every pixel, and none there."""
    layer = e.layer
    if "requantize" in e.judged:
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
        for c in _snapped(_ratio((e.got - e.wanted)[e.wrong], part[e.wrong])):
            more = abs(c) * weights * (filters[0].size * e.slack + 1e-9)
            claim = e.near(
                kind,
                text.format(_number(c)),
                e.wanted + c * part,
                e.allowed + more,
                value={kind: c},
            )
            yield claim


def _windows(e: Evidence) -> Iterator[Effect]:
    """Another stride, dilation or start of the window, along one axis or in the same way along all."""
    layer, axes = e.layer, len(e.layer.size)
    if "requantize" in e.judged:
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


Finder = Callable[[Evidence], Iterator[Claim] | Iterator[Effect]]
_ALL: tuple[Finder, ...] = (
    _constant,
    _factor,
    _curves,
    _of_sign,
    _offset,
    _moved,
    _slipped,
    _accumulated,
    _straight,
    _padding,
    other_filters,
    _windows,
)
