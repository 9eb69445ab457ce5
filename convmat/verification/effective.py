"""The filter in effect: the weights that a wrong result comes from, by least squares on the patches.

Where a result y = X_col · w' + b is wrong, y − X_col · w = X_col · (w' − w) has the changed weights as its
solution, which needs no more rows than X_col has columns. The solution has errors of its own; so each weight
is taken for a simple one that is near it, such as 0 or another tap's, and what these come to is held against
every element by verify's bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from convmat.verification.computed import Array
from convmat.verification.evidence import Claim, Effect, Evidence, Floats
from convmat.verification.where import Mask, box_around, describe

_SPARE = 64  # rows beyond as many as there are unknowns
_COST = 1 << 33  # products that solving may take
MOST_UNKNOWNS = 2048
"""Weights of a filter, above which none are solved for."""

_MOST = 0.9  # of a box of weights has changed: all of it has
_NEAR = 6.0  # standard errors
_TAP_NAMES = {1: ("tap",), 2: ("tap row", "tap column"), 3: ("tap slice", "tap row", "tap column")}


class Solved(NamedTuple):
    """Weights in effect."""

    filters: Array
    """Those that are solved for."""
    weights: Floats
    """(K, *kernel, C/groups); of other filters those of the layer."""
    error: Floats
    """How far each may be from the truth, of the same shape."""


def other_filters(e: Evidence) -> Iterator[Claim | Effect]:
    """Other weights that explain every wrong element, the simplest first."""
    if "quantization" in e.judged:
        return
    solved = _solve(e)
    if solved is None:
        return
    given = e.layer.filters.astype(np.float64)
    for kind, sentence, weights, value in _readings(solved, given, e.layer.filters.dtype.kind in "iu"):
        true = e.true_for(replace(e.layer, filters=weights))
        if true[e.wrong].all():
            effect = e.settled(Claim(kind, sentence, given, given, value), true, e.wrong)
            yield replace(effect, filters=weights)


def _solve(e: Evidence) -> Solved | None:
    """The weights in effect in the filters that are wrong; None where the result does not determine them."""
    layer, filters = e.layer, np.flatnonzero(e.lines_wrong(e.got.ndim - 1))
    weights = layer.filters.astype(np.float64)
    error = np.zeros(weights.shape)
    unknowns = weights[0].size
    each = len(layer.filters) // layer.groups
    products = unknowns**2 * (unknowns + _SPARE) * len(set(filters // each))
    if unknowns > MOST_UNKNOWNS or products > _COST:
        return None
    for group in sorted(set(filters // each)):
        some = filters[filters // each == group]
        rows = np.flatnonzero(e.wrong[..., some].any(-1))
        count = min(len(rows), unknowns + _SPARE)
        rows = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
        at = np.unravel_index(rows, e.shape[:-1])
        patches = layer.patches((*at, np.full(count, some[0]))).reshape(count, -1).astype(np.float64)
        off, allowed = (e.got[at] - e.wanted[at])[:, some], e.allowed[at][:, some]
        live = patches.any(0)
        found = _least_squares(patches[:, live], off) if live.sum() < count else None
        if found is None:
            return None
        change, spread = np.zeros((unknowns, len(some))), np.zeros(unknowns)
        change[live], spread[live] = found
        left = np.abs(off - patches @ change)
        noise = np.sqrt((allowed**2).mean(0)) + 1e-9 * np.abs(off).max(initial=1e-300)
        if not (left <= 8 * noise + 4 * allowed).all():
            return None
        weights[some] += change.T.reshape(len(some), *weights.shape[1:])
        error[some] = (_NEAR * noise[:, None] * spread).reshape(len(some), *weights.shape[1:])
    return Solved(filters, weights, error)


def _least_squares(x: Floats, y: Floats) -> tuple[Floats, Floats] | None:
    """The solution of X·c = y, and for each unknown by how much an error of 1 in y moves it."""
    if not np.isfinite(y).all() or not np.isfinite(x).all():
        return None
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += 1e-13 * gram.trace() / len(gram)
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        return None
    solution = inverse @ (x.T @ y)
    for _ in range(2):
        solution += inverse @ (x.T @ (y - x @ solution))
    spread = np.sqrt(np.abs(np.diag(inverse)))
    return (solution, spread) if np.isfinite(solution).all() else None


_Reading = tuple[str, str, Array, dict[str, Any]]


def _readings(solved: Solved, given: Floats, whole: bool) -> Iterator[_Reading]:
    """Simple weights near those in effect: kind, sentence, all filters, and what JSON says of them.

    `whole` weights stay whole numbers.
    """
    changed = np.abs(solved.weights - given) > solved.error
    changed[np.setdiff1d(np.arange(len(given)), solved.filters)] = False
    if not changed.any():
        return
    yield from _of_one_value(solved, given, changed)
    yield from _of_others(solved, given)
    yield from _scaled(solved, given)
    yield from _as_solved(solved, given, changed, whole)


def _of_one_value(solved: Solved, given: Floats, changed: Mask) -> Iterator[_Reading]:
    """All changed weights 0; or times one factor; or with one number added."""
    where, changed = _taps(changed)
    now, was = solved.weights[changed], given[changed]
    value: dict[str, Any] = {"weights": where}
    if (np.abs(now) <= solved.error[changed]).all():
        yield "weights", f"the weights of {where} are 0", np.where(changed, 0, given), value | {"factor": 0.0}
        return
    if changed.sum() == 1:
        return
    if was.any():
        factor = float(Fraction(float(now @ was / (was @ was))).limit_denominator(1024))
        text = f"the weights of {where} are × {factor:.6g}"
        yield "weights", text, np.where(changed, factor * given, given), value | {"factor": factor}
    added = float(Fraction(float((now - was).mean())).limit_denominator(1024))
    text = f"{added:.6g} is added to the weights of {where}"
    yield "weights", text, np.where(changed, given + added, given), value | {"added": added}


def _of_others(solved: Solved, given: Floats) -> Iterator[_Reading]:
    """The weights of other filters, of other taps or of other channels, or 0."""
    now, error = solved.weights, solved.error
    taps = (len(given), -1, given.shape[-1])
    for axis, name in enumerate(("filter", "tap", "channel")):
        some = solved.filters if axis else np.arange(len(given))
        is_, was, off = (np.moveaxis(a.reshape(taps)[some], axis, 0) for a in (now, given, error))
        source = np.arange(given.reshape(taps).shape[axis])
        lines = source if axis else solved.filters
        found = _sources(is_, was, off, lines)
        if found is None or (found == lines).all():
            continue
        source = source.copy()
        source[lines] = found
        none = (source < 0).reshape([-1 if a == axis else 1 for a in range(3)])
        weights = given.reshape(taps).copy()
        weights[some] = np.where(none, 0, np.take(weights, source, axis))[some]
        text = _sources_text(name, source, given.shape[1:-1])
        if len(some) < len(given):
            text += f", in {_of_filters(some, len(given))}"
        yield f"{name}s", text, weights.reshape(given.shape), {"axis": name, "source": source.tolist()}


def _of_filters(some: Array, count: int) -> str:
    mask = np.zeros((count, 1), bool)
    mask[some] = True
    return describe(mask, ("filter", "tap")).words


def _sources(now: Floats, given: Floats, error: Floats, lines: Array) -> Array | None:
    """For each line the given one that it is, itself first, or -1 for zeros; None where one is none."""
    found = []
    for i in lines:
        order = [i, *(j for j in range(len(given)) if j != i)]
        near = (j for j in order if (np.abs(now[i] - given[j]) <= error[i]).all())
        source = next(near, None)
        if source is None and (np.abs(now[i]) <= error[i]).all():
            source = -1
        if source is None:
            return None
        found.append(source)
    return np.array(found)


def _sources_text(name: str, source: Array, kernel: tuple[int, ...]) -> str:
    """Which lines have the weights of which others."""

    def called(i: int) -> str:
        if name != "tap" or len(kernel) == 1:
            return f"{name} {i}"
        return f"{name} ({', '.join(str(int(j)) for j in np.unravel_index(i, kernel))})"

    moved = [i for i in range(len(source)) if source[i] != i]
    parts = [
        f"{called(i)} has weight 0"
        if source[i] < 0
        else f"{called(i)} has the weights of {called(source[i])}"
        for i in moved[:3]
    ]
    return ", ".join(parts) + (", …" if len(moved) > 3 else "")


def _scaled(solved: Solved, given: Floats) -> Iterator[_Reading]:
    """Each filter times a factor of its own."""
    axes = tuple(range(1, given.ndim))
    below = (given**2).sum(axes)
    factors = (solved.weights * given).sum(axes) / np.where(below, below, 1)
    factors = np.array([float(Fraction(f).limit_denominator(1024)) for f in factors.tolist()])
    text = "the weights of each filter have a factor of their own: " + ", ".join(
        f"{f:.4g}" for f in factors[:6]
    )
    line = (-1, *(1,) * len(axes))
    yield "scales", text, factors.reshape(line) * given, {"factors": factors.tolist()}


def _as_solved(solved: Solved, given: Floats, changed: Mask, whole: bool) -> Iterator[_Reading]:
    """The weights as they were solved, the one named that changed most."""
    worst = np.unravel_index(np.where(changed, np.abs(solved.weights - given), 0).argmax(), given.shape)
    k, *tap, channel = (int(i) for i in worst)
    weights = np.where(changed, np.rint(solved.weights) if whole else solved.weights, given)
    where = f"tap ({', '.join(map(str, tap))}), channel {channel}"
    text = f"{where} of filter {k} has weight {weights[worst]:.4g}, not {given[worst]:.4g}"
    count = int(np.count_nonzero(changed))
    if count > 1:
        text += f", and {count - 1} other weights differ" if count > 2 else ", and another differs"
    value = {"tap": [*tap, channel], "filter": k, "weight": float(weights[worst]), "not": float(given[worst])}
    yield "weight", text, weights, value | {"changed": count}


def _taps(changed: Mask) -> tuple[str, Mask]:
    """Which weights, (K, *kernel, C/groups), in words; with the few among them that seem to be unchanged."""
    axes = changed.ndim - 2
    names = ("filter", *_TAP_NAMES[axes], "channel")
    flat = changed.reshape(len(changed), -1)
    for mask, called in ((changed, names), (flat, ("filter", "column of X_col"))):
        box = box_around(mask, called)
        if box.share < _MOST or not (box.told or box.everywhere):
            continue
        words = "every tap" if box.everywhere else box.words
        single = [line.spans[0][0] for line in box.lines[1 : 1 + axes] if line.total == 1]
        if mask is changed and len(single) == axes > 1:
            tap = f"tap ({', '.join(map(str, single))})"
            channel, filters = box.lines[-1].words, box.lines[0].words
            words = " of ".join(filter(None, (", ".join(filter(None, (tap, channel))), filters)))
        return words, box.mask(mask).reshape(changed.shape)
    return f"{np.count_nonzero(changed)} taps", changed
