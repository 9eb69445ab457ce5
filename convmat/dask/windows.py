"""Which parts of which chunks a chunk of a result sees: the halo, planned along one axis at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.axis import padding_source
from convmat.geometry import ConvGeometry

Array = NDArray[Any]
Bounds = NDArray[np.int64]
Index = tuple[int, ...]
Read = Callable[[], Array]


class Part(NamedTuple):
    """Neighbouring places of a window along one axis that come from one chunk."""

    chunk: int
    source: slice | Array
    """Of the chunk."""
    target: slice
    """Of the window."""


class Line(NamedTuple):
    """What a chunk of a result sees along one axis: so many places, padding where no part brings anything."""

    length: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, pixels: Array, bounds: Bounds) -> Line:
        """The pixels at these indices of an axis that is chunked at `bounds`; none where an index is −1."""
        inside = np.flatnonzero(pixels >= 0)
        chunks = np.searchsorted(bounds, pixels[inside], "right") - 1
        cuts = np.flatnonzero((np.diff(chunks) != 0) | (np.diff(inside) != 1)) + 1
        parts = []
        for run in np.split(np.arange(len(inside)), cuts) if len(inside) else []:
            chunk = int(chunks[run[0]])
            local = pixels[inside[run]] - bounds[chunk]
            source: slice | Array = local
            if (np.diff(local) == 1).all():
                source = slice(int(local[0]), int(local[-1]) + 1)
            parts.append(Part(chunk, source, slice(int(inside[run[0]]), int(inside[run[-1]]) + 1)))
        return cls(len(pixels), tuple(parts))

    @classmethod
    def of_range(cls, places: range, bounds: Bounds) -> Line:
        """Neighbouring places of an axis, all of them inside."""
        return cls.of(np.arange(places.start, places.stop), bounds)


def bounds_of(chunks: Sequence[int]) -> Bounds:
    """Where chunks begin along an axis, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(chunks, dtype=np.int64)])


def ranges(bounds: Iterable[int]) -> list[range]:
    """What lies between bounds, without what is empty; one empty range where all are."""
    return [range(a, b) for a, b in pairwise(map(int, bounds)) if a < b] or [range(0)]


# From input to output, and back


def outputs_of(geometry: ConvGeometry, axis: int, bounds: Bounds) -> list[range]:
    """Outputs along an axis by the chunks of the input in which their windows would begin without padding.

    So chunks of one size give chunks of one size, which files of zarr have to have.
    """
    stride, count = geometry.stride[axis], geometry.output_size[axis]
    return ranges([0, *(min(-(-bound // stride), count) for bound in bounds[1:-1].tolist()), count])


def lines_of(geometry: ConvGeometry, axis: int, bounds: Bounds) -> list[range]:
    """Lines of the input along an axis, cut where the outputs are chunked: the inverse of `outputs_of`."""
    stride, size = geometry.stride[axis], geometry.input_size[axis]
    return ranges([0, *(min(bound * stride, size) for bound in bounds[1:-1].tolist()), size])


class Seen(NamedTuple):
    """What a run of outputs sees along an axis, and what the layer still has to pad there."""

    outputs: range
    line: Line
    pads: tuple[int, int]


def seen_along(geometry: ConvGeometry, axis: int, bounds: Bounds, mode: str, outputs: range) -> Seen:
    """What a run of outputs sees along a spatial axis of the input; an axis that is whole is padded later."""
    size = geometry.input_size[axis]
    if len(outputs) == geometry.output_size[axis] and len(bounds) == 2:
        return Seen(outputs, Line.of_range(range(size), bounds), geometry.pads[axis])
    lines = geometry.lines_seen(axis, outputs)
    pixels = np.arange(lines.start, lines.stop)
    if mode == "zeros":
        pixels[(pixels < 0) | (pixels >= size)] = -1
    else:
        pixels = padding_source(pixels, size, mode)
    return Seen(outputs, Line.of(pixels, bounds), (0, 0))


class Reached(NamedTuple):
    """Lines of the input along an axis, the outputs that reach into them, and where those begin."""

    lines: range
    outputs: range
    offset: int
    """Of the first output's first tap, from the first line on."""
    support: int
    """Lines from the first tap to the last, both included; 0 where no output reaches."""

    @property
    def pads(self) -> tuple[int, int]:
        """What the outputs reach before the lines and behind them."""
        return max(-self.offset, 0), max(self.offset + self.support - len(self.lines), 0)

    @property
    def covered(self) -> slice:
        """The lines from the first that an output reaches to the last."""
        return slice(max(self.offset, 0), max(min(self.offset + self.support, len(self.lines)), 0))


def reached_along(geometry: ConvGeometry, axis: int, lines: range, count: int) -> Reached:
    """What reaches into lines of the input, of `count` outputs along that axis."""
    outputs = geometry.outputs_reaching(axis, lines, count)
    support = (len(outputs) - 1) * geometry.stride[axis] + geometry.extent[axis] if outputs else 0
    offset = outputs.start * geometry.stride[axis] - geometry.pads[axis][0] - lines.start
    return Reached(lines, outputs, offset, support)


# What a task does


class Piece(NamedTuple):
    """A part of a window, over all axes."""

    chunk: Index
    sources: tuple[slice | Array, ...]
    targets: tuple[slice, ...]


def pieces_of(lines: Sequence[Line]) -> Iterator[Piece]:
    """The parts that make up a window of these lines, one for each axis."""
    for parts in itertools.product(*(line.parts for line in lines)):
        yield Piece(*(tuple(each) for each in zip(*parts, strict=True)))


def cut(chunk: Array, sources: Sequence[slice | Array]) -> Array:
    """What a piece takes of a chunk; a view where it is a box of it."""
    part = chunk[tuple(source if isinstance(source, slice) else slice(None) for source in sources)]
    for axis, source in enumerate(sources):
        if not isinstance(source, slice):
            part = part.take(source, axis)
    return part


@dataclass(frozen=True, eq=False)
class Cuts:
    """Cuts from a chunk what other chunks' windows see of it, and lets the rest of it go."""

    read: Read | None
    """Reads the chunk, where that is not an argument."""
    cuts: list[tuple[slice | Array, ...]]

    def __call__(self, *chunk: Array) -> list[Array]:
        [whole] = chunk or [self.read()] if self.read else chunk
        return [cut(whole, sources).copy() for sources in self.cuts]


class Window(NamedTuple):
    """What a chunk of a result sees, in the chunks and cuts that have it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: int
    """What stands where no part brings anything."""
    parts: list[tuple[Array, tuple[slice | Array, ...], tuple[slice, ...]]]
    """An array, what of it, and where in the window."""

    def lines(self, axis: int = 0, lines: range | None = None) -> Array:
        """Those lines of the window along an axis, or all; a view where one chunk has them."""
        lines = range(self.shape[axis]) if lines is None else lines
        shape = (*self.shape[:axis], len(lines), *self.shape[axis + 1 :])
        window = None
        for array, sources, targets in self.parts:
            target, source = targets[axis], sources[axis]
            first, last = max(target.start, lines.start), min(target.stop, lines.stop)
            if first >= last:
                continue
            skip, stop = first - target.start, last - target.start
            some = (
                slice(source.start + skip, source.start + stop)
                if isinstance(source, slice)
                else source[skip:stop]
            )
            part = cut(array, (*sources[:axis], some, *sources[axis + 1 :]))
            if part.shape == shape:
                return part
            window = np.full(shape, self.fill, self.dtype) if window is None else window
            into = slice(first - lines.start, last - lines.start)
            window[(*targets[:axis], into, *targets[axis + 1 :])] = part
        return np.full(shape, self.fill, self.dtype) if window is None else window


@dataclass(frozen=True, eq=False)
class Step:
    """Computes a chunk of a result from the chunk that it sees most of, and from cuts of its neighbours."""

    work: Callable[[Window, Any], Array]
    """Of the window and the operands."""
    shape: tuple[int, ...]
    """Of the window."""
    dtype: np.dtype[Any]
    fill: int
    own: list[Piece]
    """Of the first of what is seen, a chunk."""
    others: list[tuple[int, int, tuple[slice, ...]]]
    """Which of what is seen, which of its cuts, and where in the window."""
    read: Read | None
    """Reads the chunk, where that is not the first of what is seen."""

    def __call__(self, operands: Any, *seen: Any) -> Array:
        if self.read is not None:
            seen = (self.read(), *seen)
        parts = [(seen[0], sources, targets) for _, sources, targets in self.own]
        for number, place, targets in self.others:
            part = seen[number][place]
            parts.append((part, tuple(slice(0, size) for size in part.shape), targets))
        return self.work(Window(self.shape, self.dtype, self.fill, parts), operands)


class Result(NamedTuple):
    """A chunk of a result: what it sees along each axis, what is done with that."""

    place: Index
    """In the grid of chunks."""
    lines: tuple[Line, ...]
    work: Callable[[Window, Any], Array]


def graph_of(
    name: str,
    source: str,
    reads: Mapping[Index, Read],
    dtype: np.dtype[Any],
    results: Sequence[Result],
    operands: Any,
    fill: int = 0,
) -> dict[Any, Any]:
    """The tasks of a result that is called `name`: one for each of its chunks, and one for each chunk of
    the source that more than one of them sees.

    No chunk goes whole to another than the one result that sees most of it. One that can be read, by
    `reads`, is read by who needs it, rather than held until its neighbours have been read. Where nothing of
    the source is seen stands `fill`.
    """
    graph: dict[Any, Any] = {}
    cuts: dict[Index, list[tuple[slice | Array, ...]]] = {}
    for result in results:
        pieces = list(pieces_of(result.lines))
        seen: dict[Index, int] = {}
        for piece in pieces:
            size = math.prod(target.stop - target.start for target in piece.targets)
            seen[piece.chunk] = seen.get(piece.chunk, 0) + size
        home = max(seen, key=lambda chunk: seen[chunk], default=None)
        numbers = {chunk: number for number, chunk in enumerate((c for c in seen if c != home), 1)}
        others = []
        for piece in pieces:
            if piece.chunk != home:
                asked = cuts.setdefault(piece.chunk, [])
                others.append((numbers[piece.chunk], len(asked), piece.targets))
                asked.append(piece.sources)
        shape = tuple(line.length for line in result.lines)
        own = [piece for piece in pieces if piece.chunk == home]
        read = None if home is None else reads.get(home)
        keys = [] if home is None or read is not None else [(source, *home)]
        keys += [(f"cuts-{name}", *chunk) for chunk in numbers]
        graph[(name, *result.place)] = (
            Step(result.work, shape, dtype, fill, own, others, read),
            operands,
            *keys,
        )
    for chunk, asked in cuts.items():
        read = reads.get(chunk)
        keys = [] if read is not None else [(source, *chunk)]
        graph[(f"cuts-{name}", *chunk)] = (Cuts(read, asked), *keys)
    return graph


def taken(graph: dict[Any, Any], key: Any) -> Any:
    """The task of a key, out of its graph, for the only task that needs it: a worker then does both at once,
    and no result waits between them. What is no task stays; the key stands for it.
    """
    is_task = isinstance(graph[key], tuple) and callable(graph[key][0])
    return graph.pop(key) if is_task else key
