"""Where a result is wrong: a set that holds all wrong elements, in few words, and a small map of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import AXIS_NAMES, ConvGeometry
from convmat.shown import percent

Mask = NDArray[np.bool_]
Span = tuple[int, int, int]
"""Every number from the first to the last, both included, by the step."""

LINES = {"depth": "slice", "height": "row", "width": "column"}
"""What lies along each spatial axis."""

_OF_WHAT = re.compile(r" (?=of |in )")
_FEW = 6  # numbers, or runs of them, that are listed
_LONGEST = 256  # of periods that are looked for
_TILES = tuple(1 << bits for bits in range(10, 1, -1))  # 1024 to 4
_LISTED = 3  # elements that are told one by one
_PART = 0.75  # of all elements is no part of memory, or of patches, that is worth telling
_AS_GOOD = 0.97  # of a set is wrong: another has no more to say
_MOSTLY = 0.95  # of a line is wrong: the whole line is meant
MAP = (16, 32)
"""Rows and columns of a map, at most."""


class Lines(NamedTuple):
    """Numbers along one axis."""

    axis: str
    """image, slice, row, column, filter; patch, row of Y, or element in memory."""
    size: int
    spans: tuple[Span, ...]
    words: str
    """Empty for all of them."""
    note: str = ""
    """What else is to be said of them: that they are the last."""
    listed: bool = True
    """Whether the words tell each number."""

    def mask(self) -> Mask:
        """Which of the axis' numbers they are, (size,)."""
        chosen = np.zeros(self.size, bool)
        for first, last, step in self.spans:
            chosen[first : last + 1 : step] = True
        return chosen

    @property
    def total(self) -> int:
        """How many they are."""
        return sum((last - first) // step + 1 for first, last, step in self.spans)


@dataclass(frozen=True)
class Where:
    """A set of elements that has all wrong ones: where numbers along each axis meet, or where either is."""

    words: str
    """Few, to go on from "in": rows 3..7 of filter 2."""
    wrong: int
    elements: int
    """In the set: as many as are wrong where the words are true of the wrong elements and only them."""
    view: str
    """The axes: those of the result; its patches; the rows of Y; its memory, in the order that it lies in."""
    lines: tuple[Lines, ...]
    either: tuple[str, ...] = ()
    """Axes of which one is enough; the numbers of all others must hold, too."""
    places: tuple[tuple[int, ...], ...] = ()
    """Indices of the elements, where they are told one by one."""

    @property
    def share(self) -> float:
        """Of the set that is wrong."""
        return self.wrong / self.elements

    @property
    def everywhere(self) -> bool:
        """Whether the set is the whole result."""
        return not any(line.words for line in self.lines)

    @property
    def told(self) -> bool:
        """Whether the words tell most of it: the set is a part, each number of it is told, 9 of 10 wrong."""
        return not self.everywhere and self.share >= 0.9 and all(line.listed for line in self.lines)

    def value(self) -> dict[str, Any]:
        """As JSON has it."""
        axes = [
            {"axis": line.axis, "size": line.size, "spans": [list(span) for span in line.spans]}
            for line in self.lines
        ]
        return {
            "words": self.words,
            "wrong": self.wrong,
            "elements": self.elements,
            "view": self.view,
            "axes": axes,
            "either": list(self.either),
            "places": [list(place) for place in self.places],
        }

    def mask(self, like: Mask) -> Mask:
        """Which elements the set has, of an array of the shape and the memory order of `like`."""
        meant = np.zeros_like(like, bool)
        if self.places:
            meant[tuple(zip(*self.places, strict=True))] = True
            return meant
        masks = [line.mask() for line in self.lines]
        free = [line.axis in self.either for line in self.lines]
        view = _meeting([mask | one for mask, one in zip(masks, free, strict=True)])
        if self.either:
            view &= ~_meeting([~mask | (not one) for mask, one in zip(masks, free, strict=True)])
        if self.view == "memory":
            order = sorted(range(like.ndim), key=lambda axis: -like.strides[axis])
            meant.transpose(order)[...] = view.reshape([like.shape[axis] for axis in order])
            return meant
        return view.reshape(like.shape)

    def __str__(self) -> str:
        right = self.elements - self.wrong
        if self.told or not right:
            return self.words + (f", but for {right} of {self.elements} elements" if right else "")
        return f"{self.words}, {percent(self.share)} of it"


def _meeting(lines: Sequence[Mask]) -> Mask:
    """The elements where chosen lines of all axes meet."""
    view = np.zeros([len(line) for line in lines], bool)
    view[np.ix_(*lines)] = True
    return view


def axis_names(axes: int) -> tuple[str, ...]:
    """What lies along the axes of a result (N, *out, K)."""
    return ("image", *(LINES[name] for name in AXIS_NAMES[axes]), "filter")


def touching(geometry: ConvGeometry) -> list[Mask]:
    """Along each spatial axis, the outputs whose patch touches the padding."""
    starts = (
        np.arange(size) * step - before
        for size, step, (before, _) in zip(geometry.output_size, geometry.stride, geometry.pads, strict=True)
    )
    return [
        (start < 0) | (start + extent > h)
        for start, extent, h in zip(starts, geometry.extent, geometry.input_size, strict=True)
    ]


def describe(wrong: Mask, names: Sequence[str], edges: Sequence[Mask] | None = None) -> Where:
    """The set of wrong elements, of which there are some.

    Args:
        wrong: (N, *out, K), or an array of any other axes; its memory order is that of the result.
        names: what lies along its axes, the first of them counting whole results, the last their channels.
        edges: of each spatial axis the lines whose patches touch the padding.

    Returns:
        Of the sets that can be told in words the one with the least right elements in it, and of those that
        are about as good the first of: a box of lines along each axis, a border, boxes of patches, of rows
        of Y, of memory. Where none is, the box around all, as "within", with its share.
    """
    count = int(np.count_nonzero(wrong))
    box = box_around(wrong, names)
    if box.told and box.wrong == box.elements:
        return box
    if count <= _LISTED:
        return _elements(wrong, names, box)
    found = [box, *_others(wrong, names, edges, box, count)]
    good = (one for one in found if one.told and (one.view == "result" or one.elements <= _PART * wrong.size))
    return max(good, key=lambda one: min(one.share, _AS_GOOD), default=box)


def _elements(wrong: Mask, names: Sequence[str], box: Where) -> Where:
    """Each wrong element by itself."""
    alone, places = [], tuple(map(tuple, np.argwhere(wrong).tolist()))
    for at in places:
        mask = np.zeros(wrong.shape, bool)
        mask[at] = True
        alone.append(box_around(mask, names).words)
    return replace(box, words="; ".join(alone), elements=len(alone), places=places)


def _others(
    wrong: Mask, names: Sequence[str], edges: Sequence[Mask] | None, box: Where, count: int
) -> Iterator[Where]:
    """Sets that are no box of the result's axes."""
    if wrong.ndim > 3:
        yield from _border(wrong, box, edges, count)
        merged = (len(wrong), -1, wrong.shape[-1])
        yield box_around(wrong.reshape(merged), (names[0], "patch", names[-1]), "patches")
    if wrong.ndim > 2 and len(wrong) > 1:
        yield box_around(wrong.reshape(-1, wrong.shape[-1]), ("row of Y", names[-1]), "rows")
    yield from _in_memory(np.flatnonzero(wrong.ravel(order="K")), wrong.size)


def box_around(wrong: Mask, names: Sequence[str], view: str = "result") -> Where:
    """The smallest box of lines around all wrong elements."""
    others = [tuple(a for a in range(wrong.ndim) if a != axis) for axis in range(wrong.ndim)]
    lines = tuple(
        _lines(name, np.asarray(wrong.any(axis=axes))) for name, axes in zip(names, others, strict=True)
    )
    return _where(view, lines, int(np.count_nonzero(wrong)), math.prod(line.total for line in lines))


def _border(wrong: Mask, box: Where, edges: Sequence[Mask] | None, count: int) -> Iterator[Where]:
    """The set of lines along spatial axes that are wrong as a whole, in the box's images and filters."""
    first, *spatial, last = box.lines
    inner = wrong[first.mask()][..., last.mask()].mean(axis=(0, -1))
    images = first.total * last.total
    axes = range(inner.ndim)
    others = [tuple(a for a in axes if a != axis) for axis in axes]
    candidates = [[inner.mean(axis=rest) >= _MOSTLY for rest in others]]
    if edges is not None:
        candidates.append(list(edges))
    for chosen in reversed(candidates):
        lined = [(line.axis, c) for line, c in zip(spatial, chosen, strict=True) if c.any()]
        meant = np.zeros(inner.shape, bool)
        for axis, one in zip(axes, chosen, strict=True):
            meant |= one.reshape([-1 if a == axis else 1 for a in axes])
        if len(lined) < 2 or meant.all() or inner[~meant].any():
            continue
        lines = [_lines(line.axis, c) for line, c in zip(spatial, chosen, strict=True)]
        words = " or ".join(line.words for line in lines if line.words)
        if edges is not None and all(map(np.array_equal, chosen, edges)):
            words = "the patches that touch the padding"
        elif (wide := _width(chosen)) is not None:
            words = f"the border, {wide} wide"
        elements = images * int(np.count_nonzero(meant))
        lined_up = tuple(axis for axis, _ in lined)
        yield _where("result", (first, *lines, last), count, elements, words, lined_up)


def _width(chosen: Sequence[Mask]) -> int | None:
    """Of the border that the lines of all axes make, if they make one."""
    widths = {int(one.argmin()) for one in chosen}
    wide = widths.pop()
    around = [np.minimum(np.arange(len(one)), np.arange(len(one))[::-1]) < wide for one in chosen]
    return wide if not widths and all(map(np.array_equal, chosen, around)) else None


def _in_memory(at: NDArray[np.int64], size: int) -> Iterator[Where]:
    """Runs and periods of the elements as they lie in memory."""
    for period in (1, *range(2, 17), 32, 64, 128):
        if 2 * len(np.unique(at[:1000] % period)) > max(period, 2):
            continue
        residues = np.flatnonzero(np.bincount(at % period, minlength=period))
        if 2 * len(residues) > max(period, 2) or np.count_nonzero(np.diff(residues) != 1) > 2:
            continue
        chosen = np.zeros(size, bool)
        for residue in residues:
            chosen[residue::period] = True
        if period == 1:
            chosen[: at[0]] = chosen[at[-1] + 1 :] = False
        lines = _lines("element in memory", chosen)
        yield _where("memory", (lines,), len(at), int(np.count_nonzero(chosen)))


def _where(
    view: str,
    lines: tuple[Lines, ...],
    wrong: int,
    elements: int,
    spatial: str | None = None,
    either: tuple[str, ...] = (),
) -> Where:
    """The words for where lines meet: rows 3..7, columns 0..3 of filter 2 in image 1."""
    told = {line.axis: line.words for line in lines if line.words}
    if len(told) == 1:
        told = {line.axis: line.words + line.note for line in lines if line.words}
    image, filters = told.pop("image", ""), told.pop("filter", "")
    if spatial is None:
        spatial = ", ".join(told.values())
    words = " of ".join(filter(None, (spatial, filters)))
    words = " in ".join(filter(None, (words, image)))
    where = Where(words, wrong, elements, view, lines, either)
    if where.everywhere:
        words = "everywhere" if where.share >= _MOSTLY else "everywhere, scattered"
    elif not where.told:
        words = f"within {words}"
    return replace(where, words=words)


def _lines(name: str, chosen: Mask) -> Lines:
    """Numbers along an axis, with the fewest words for them."""
    size, at = len(chosen), np.flatnonzero(chosen)
    if len(at) == size:
        return Lines(name, size, ((0, size - 1, 1),), "")
    if not len(at):  # along another axis there are some
        return Lines(name, size, (), "")
    several = np.count_nonzero(np.diff(at) != 1)
    if several and len(at) > _FEW // 2 and (periodic := _periodic(name, chosen, at)) is not None:
        return periodic
    runs = _runs(at)
    if several < _FEW:
        noun = _noun(name) if len(at) == 1 else _plural(name)
        numbers = Lines(name, size, runs, _suffixed(name, f"{noun} {_numbers(runs)}"))
        if not several:
            return numbers._replace(note=_end(size, *runs[0]))
    else:
        words = _suffixed(name, f"{len(at)} of the {size} {_plural(name)}")
        numbers = Lines(name, size, runs, words, listed=False)
    absent = np.flatnonzero(~chosen)
    if len(at) > _FEW // 2 and (len(absent) <= 2 or absent[-1] - absent[0] < len(absent)):
        words = _suffixed(name, f"all {_plural(name)} but {_numbers(_runs(absent))}")
        return numbers._replace(words=words, listed=True)
    return numbers


def _end(size: int, first: int, last: int, _: int) -> str:
    """What a run is at the end of an axis."""
    if last < size - 1 or first == 0:
        return ""
    tile = next((tile for tile in _TILES if size % tile == size - first), None)
    if tile is not None:
        return f" (past the last multiple of {tile})"
    return " (the last)" if first == last else ""


def _periodic(name: str, chosen: Mask, at: NDArray[np.int64]) -> Lines | None:
    """Numbers that come again and again, if they do: every 4th, 2..3 of every 8."""
    size = len(chosen)
    steps = np.unique(np.diff(at))
    if len(steps) == 1:
        span = (int(at[0]), int(at[-1]), int(steps[0]))
        words = f"every {_ordinal(span[2])} {_noun(name)} from {span[0]}"
        if span[1] + span[2] < size:
            words += f" to {span[1]}"
        return Lines(name, size, (span,), _suffixed(name, words))
    for period in range(2, min(size // 2, _LONGEST) + 1):
        if (chosen[:512][period:] != chosen[:512][:-period]).any() or (
            chosen[period:] != chosen[:-period]
        ).any():
            continue
        residues = np.flatnonzero(chosen[:period])
        runs = _runs(residues)
        spans = tuple((int(r), int(r + (size - 1 - r) // period * period), period) for r in residues)
        if len(runs) > 3:
            return None
        return Lines(
            name, size, spans, _suffixed(name, f"{_plural(name)} {_numbers(runs)} of every {period}")
        )
    return None


def _runs(at: NDArray[np.int64]) -> tuple[Span, ...]:
    """Numbers in ascending order, as runs of neighbours."""
    ends = np.flatnonzero(np.diff(at) != 1)
    firsts, lasts = at[np.r_[0, ends + 1]], at[np.r_[ends, len(at) - 1]]
    return tuple((int(first), int(last), 1) for first, last in zip(firsts, lasts, strict=True))


def _numbers(runs: Sequence[Span]) -> str:
    return ", ".join(f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}..{b}" for a, b, _ in runs)


def _noun(name: str) -> str:
    return _OF_WHAT.split(name)[0]


def _plural(name: str) -> str:
    noun = _noun(name)
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def _suffixed(name: str, words: str) -> str:
    """With what a noun is of: rows 3..7 of Y."""
    return words + name.removeprefix(_noun(name))


def _ordinal(number: int) -> str:
    last = number % 10 if number % 100 not in (11, 12, 13) else 0
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(last, 'th')}"


def wrong_map(wrong: Mask) -> NDArray[np.float64]:
    """The share that is wrong of each part of the output, at most 16 × 32.

    Rows and columns of all images, slices and filters; with one spatial axis, filters and columns.
    """
    axes = wrong.ndim
    over = tuple(a for a in range(axes) if a not in (axes - 3, axes - 2)) if axes > 3 else (0,)
    shares = wrong.mean(axis=over)
    if axes <= 3:
        shares = np.atleast_2d(shares).T
    for axis, most in enumerate(MAP):
        size = shares.shape[axis]
        edges = np.arange(min(size, most)) * size // min(size, most)
        counts = np.diff(np.append(edges, size))
        shares = np.add.reduceat(shares, edges, axis) / np.expand_dims(counts, 1 - axis)
    return np.asarray(shares, np.float64)


def map_text(shares: NDArray[np.float64]) -> str:
    """A map, darker where more is wrong; a dot where all is right."""
    shades = "∙░▒▓█"
    levels = np.minimum(np.ceil(shares * (len(shades) - 1)).astype(int), len(shades) - 1)
    return "\n".join("".join(shades[level] for level in row) for row in levels.tolist())
