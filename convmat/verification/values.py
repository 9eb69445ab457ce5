"""Values made in place of the right ones: one number, a factor, a constant, a cut off end, a rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from convmat.verification.computed import Array
from convmat.verification.evidence import ENOUGH, Claim, Effect, Evidence, Floats, rule
from convmat.verification.where import Mask

_SIMPLE = 1024  # denominators of simple fractions


def constant(e: Evidence) -> Iterator[Claim | Effect]:
    """One number wherever it is wrong."""
    values = e.got[e.wrong]
    first = values[0]
    same = np.isnan(values).all() if np.isnan(first) else (values == first).all()
    if same and (len(values) > 1 or first == 0 or not np.isfinite(first)):
        value = np.broadcast_to(first, e.shape)
        name = "NaN" if np.isnan(first) else f"{first + 0.0:.6g}"
        yield Claim("constant", f"yours is {name}", value, value, {"value": float(first)})


def factor(e: Evidence) -> Iterator[Claim | Effect]:
    """One factor; of the sums without their bias, too; or one for each filter."""
    for name, base, bias in _bases(e):
        got = e.got - bias
        for c in snapped(ratio(got[e.wrong], base[e.wrong])):
            text = f"yours is {name} × {number(c)}"
            yield e.near(
                "factor",
                text,
                c * base + bias,
                abs(c) * e.allowed,
                value={"factor": c, "bias": bool(bias.any())},
            )
        if not _many(e, -1):
            continue
        each = np.ones(e.shape[-1])
        for k in np.flatnonzero(e.lines_wrong(-1 % e.got.ndim)):
            some = e.wrong[..., k]
            each[k] = next(snapped(ratio(got[..., k][some], base[..., k][some])), 1.0)
        text = f"yours is {name} × a factor of its own for each filter: {_listed(each)}"
        yield e.near(
            "factors",
            text,
            each * base + bias,
            np.abs(each) * e.allowed,
            value={"factors": each.tolist(), "bias": bool(bias.any())},
        )


def _many(e: Evidence, axis: int) -> bool:
    """Whether each line with wrong elements has enough of them to tell a number by, and there are several."""
    others = tuple(a for a in range(e.wrong.ndim) if a != axis % e.wrong.ndim)
    counts = e.wrong.sum(axis=others)
    return bool(np.count_nonzero(counts) > 1 and counts[counts > 0].min() >= ENOUGH)


def _bases(e: Evidence) -> Iterator[tuple[str, Floats, Floats]]:
    """What may have been multiplied, and what is added to it then."""
    yield "the right one", e.wanted, np.zeros(1)
    if e.layer.bias is not None and "quantization" not in e.judged:
        bias = e.layer.bias.astype(np.float64)
        yield "the right one, without its bias,", e.wanted - bias, bias


def ratio(got: Floats, base: Floats) -> float:
    """By least squares."""
    fit = np.isfinite(got) & np.isfinite(base)
    below = float(base[fit] @ base[fit])
    return float(got[fit] @ base[fit]) / below if below else 1.0


def _simple(number: float) -> Fraction | None:
    """A simple fraction that a number is near, if there is one: 3, 3/4, 1/255."""
    near = Fraction(number).limit_denominator(_SIMPLE)
    simple = near and (abs(near.numerator) == 1 or near.denominator <= 16 or 1000 % near.denominator == 0)
    return near if simple and abs(float(near) - number) <= 1e-5 * abs(number) else None


def snapped(number: float) -> Iterator[float]:
    """A number, as a simple fraction first where it is near one."""
    if np.isfinite(number):
        if near := _simple(number):
            yield float(near)
        yield number


def number(number: float) -> str:
    """A number as it is spoken: 2, 0.1, 1/255."""
    near = _simple(number)
    return str(near) if near and float(near) == number and 1000 % near.denominator else f"{number:.6g}"


def _listed(numbers: Sequence[float] | Array, most: int = 6) -> str:
    some = ", ".join(f"{number:.4g}" for number in numbers[:most])
    return some + (", …" if len(numbers) > most else "")


def offset(e: Evidence) -> Iterator[Claim | Effect]:
    """One constant; or one for each line along an axis: the bias, say, or what is in its place."""
    off = e.got - e.wanted
    if not np.isfinite(off[e.wrong]).all():
        return
    bias = np.zeros(e.shape[-1]) if e.layer.bias is None else e.layer.bias.astype(np.float64)
    room = e.allowed + 2 * e.slack * np.abs(e.wanted)
    mean = float(off[e.wrong].mean())
    for c in snapped(mean):
        yield e.near("offset", f"{number(c)} is added", e.wanted + c, room, value={"offset": c})
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
        value = {"axis": e.names[axis], "added": means.tolist(), "without_bias": base is not off}
        if _many(e, axis):
            yield e.near(
                "offsets", f"{text}: {_listed(means[wrong])}", e.wanted + added, room, value=value, of=of
            )


def _line_means(a: Floats, wrong: Mask, axis: int) -> Floats:
    others = tuple(i for i in range(a.ndim) if i != axis)
    counts = np.maximum(wrong.sum(axis=others), 1)
    return np.asarray(np.where(wrong, a, 0).sum(axis=others) / counts)


def _bias(e: Evidence, means: Floats, bias: Floats, wrong: Mask, room: Floats) -> Iterator[Claim | Effect]:
    """Constants of filters that come of their bias: a multiple of it, or another filter's."""
    if not bias.any():
        return
    times = next(snapped(ratio(means[wrong], bias[wrong]) + 1), 1.0)
    times = 0.0 if abs(times) < 1e-5 else times
    often = {0.0: "missing", 2.0: "added twice", -1.0: "subtracted"}.get(
        times, f"added {number(times)} times"
    )
    value = {"bias_times": times}
    yield e.near("bias", f"the bias is {often}", e.wanted + bias * (times - 1), room, value=value)
    other = np.abs((means + bias)[:, None] - bias).argmin(1)
    source = np.where(wrong, other, np.arange(len(bias)))
    named = rule("filter", source, wrong)
    value = {"bias_of": source.tolist()}
    yield e.near("bias-of", f"{named} as to its bias", e.wanted + bias[source] - bias, room, value=value)
    cut = np.trunc(bias)
    yield e.near(
        "bias", "the bias is cut to whole numbers", e.wanted + cut - bias, room, value={"bias": cut.tolist()}
    )


def straight(e: Evidence) -> Iterator[Claim | Effect]:
    """A factor and a constant."""
    x, y = e.wanted[e.wrong], e.got[e.wrong]
    if not np.isfinite(y).all() or not np.ptp(x):
        return
    for a, c in itertools.product(*map(snapped, np.polyfit(x, y, 1).tolist())):
        values, room = a * e.wanted + c, abs(a) * e.allowed
        text = f"yours is the right one × {number(a)} + {number(c)}"
        room = room + 2 * e.slack * np.abs(a * e.wanted)
        yield e.near("straight", text, values, room, value={"factor": a, "offset": c})


def curves(e: Evidence) -> Iterator[Claim | Effect]:
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
    c = ratio(e.got[some], e.wanted[some])
    power = 2.0 ** np.rint(np.log2(abs(c))) if c else 1.0
    for factor, (name, f) in itertools.product(
        sorted({1.0, power}, reverse=True),
        (("towards 0", np.trunc), ("to the nearest", np.rint), ("down", np.floor), ("up", np.ceil)),
    ):
        times = "" if factor == 1 else f" × {number(factor)}"
        text = f"yours is the right one{times}, rounded {name} to a whole number"
        yield claim("rounded", text, lambda v, f=f, c=factor: f(v * c), factor=factor)  # type: ignore[misc]
    for _, base, bias in itertools.islice(_bases(e), 1, None):
        values = np.maximum(base, 0) + bias
        yield e.near("relu-before-bias", "ReLU is before the bias", values, e.allowed, value={})


def of_sign(e: Evidence) -> Iterator[Claim | Effect]:
    """Another factor for what is below 0."""
    below = e.wanted < 0
    if (e.wrong & ~below & (e.wanted > e.allowed)).any():
        return
    for c in snapped(ratio(e.got[e.wrong], e.wanted[e.wrong])):
        values = np.where(below, c * e.wanted, e.wanted)
        room = np.maximum(1, abs(c)) * e.allowed
        text = f"yours is the right one × {number(c)} where that is below 0"
        yield e.near("leaky", text, values, room, value={"factor": c})
