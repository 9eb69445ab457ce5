"""What the definition sees of x, chunk by chunk, and the tasks that judge by it: plain lists of indices.

It shares no code of halos with `windows`, by which `convolve` plans, so that a mistake in one is not on both
sides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from convmat.dask.arrays import reads_of
from convmat.dask.operands import Operands
from convmat.dask.windows import taken
from convmat.geometry import ConvGeometry
from convmat.verification.layer import activated, judge_layer
from convmat.verification.verdict import Report, moved

Array = NDArray[Any]
Places = range | Array
"""Indices along an axis."""

_NUMPY_MODES: dict[str, Any] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


class _Part(NamedTuple):
    """What a window takes of a chunk, along one axis."""

    chunk: int
    source: Places
    """Of the chunk."""
    target: Places
    """Of the window."""


class _Piece(NamedTuple):
    """What a window takes of a chunk, along all axes."""

    chunk: tuple[int, ...]
    source: tuple[Places, ...]
    target: tuple[Places, ...]

    @property
    def size(self) -> int:
        """Pixels."""
        return math.prod(map(len, self.target))


def judging(
    x: da.Array,
    geometry: ConvGeometry,
    mode: str,
    result: da.Array,
    operands: Operands,
    judge: dict[str, Any],
) -> tuple[dict[Any, Any], list[Any]]:
    """The tasks that judge a result's chunks, and the keys of their reports.

    They are one for each chunk of the result, and one for each of x, that cuts what other windows see of it.

    Args:
        judge: `layer` and `is_own` of `_Judge`.
    """
    name, reads = f"verdict-{result.name}", reads_of(x)
    given: dict[Any, Any] = {} if reads else dict(x.__dask_graph__())
    graph = given | dict(result.__dask_graph__()) | {f"{name}-operands": operands}
    quantization = judge["layer"]["quantization"]
    padding = 0 if quantization is None else quantization.input_zero_point
    cuts: dict[tuple[int, ...], list[tuple[Places, ...]]] = {}
    keys = []
    along = _along(x, geometry, mode, result)
    for place in np.ndindex(*map(len, along)):
        starts, sizes, parts = zip(*(line[i] for line, i in zip(along, place, strict=True)), strict=True)
        pieces = [_Piece(*zip(*each, strict=True)) for each in itertools.product(*parts)]
        most = max(pieces, key=lambda piece: piece.size, default=None)
        own = None if most is None else most.chunk
        seen = list(dict.fromkeys(piece.chunk for piece in pieces if piece.chunk != own))
        others = []
        for piece in pieces:
            if piece.chunk != own:
                asked = cuts.setdefault(piece.chunk, [])
                others.append((seen.index(piece.chunk), len(asked), piece.target))
                asked.append(piece.source)
        read = None if own is None else reads.get(own)
        task = _Judge(
            **judge,
            start=starts,
            shape=sizes,
            dtype=x.dtype,
            padding=padding,
            own=[(piece.source, piece.target) for piece in pieces if piece.chunk == own],
            others=others,
            read=read,
        )
        keys.append((name, *place))
        held = [] if own is None or read is not None else [(x.name, *own)]
        cut = [(f"{name}-cuts", *chunk) for chunk in seen]
        judged = (result.name, *place)
        if judged not in given:
            judged = taken(graph, judged)
        graph[keys[-1]] = (task, f"{name}-operands", judged, len(held), *held, *cut)
    for chunk, asked in cuts.items():
        read = reads.get(chunk)
        graph[(f"{name}-cuts", *chunk)] = (_Cuts(asked, read), *([] if read else [(x.name, *chunk)]))
    return graph, keys


def _along(
    x: da.Array, geometry: ConvGeometry, mode: str, result: da.Array
) -> list[list[tuple[int, int, list[_Part]]]]:
    """Of each axis, for each chunk of the result: where that begins, its window's length, and its parts."""
    axes = range(len(geometry.stride))
    lines = [np.arange(len(x)), *(_padded_line(geometry, axis, mode) for axis in axes)]
    along = []
    for axis, line, stride, extent in zip(
        itertools.count(), lines, (1, *geometry.stride), (1, *geometry.extent), strict=False
    ):
        each, first = [], 0
        for count in result.chunks[axis]:
            seen = line[first * stride : (first + count - 1) * stride + extent] if count else line[:0]
            each.append((first, len(seen), _parts(seen, x.chunks[axis])))
            first += count
        along.append(each)
    return [*along, [(0, x.shape[-1], _parts(np.arange(x.shape[-1]), x.chunks[-1]))]]


def _padded_line(geometry: ConvGeometry, axis: int, mode: str) -> Array:
    """Which pixel each line of the padded input is along an axis, as NumPy pads; −1 where it is none."""
    how: dict[str, Any] = {"constant_values": -1} if mode == "zeros" else {}
    line = np.pad(np.arange(geometry.input_size[axis]), geometry.pads[axis], _NUMPY_MODES[mode], **how)
    return np.asarray(line)


def _parts(pixels: Array, chunks: Sequence[int]) -> list[_Part]:
    """The parts of a window along an axis, in which it has these pixels of an axis that is chunked so."""
    ends = np.cumsum(chunks)
    of = np.where(pixels < 0, -1, np.searchsorted(ends, pixels, "right"))
    starts = ends - chunks
    return [
        _Part(int(c), _brief(pixels[of == c] - starts[c]), _brief(np.flatnonzero(of == c)))
        for c in np.unique(of[of >= 0])
    ]


def _brief(indices: Array) -> Places:
    """Indices as a range, where they are one."""
    first, last = int(indices[0]), int(indices[-1])
    neighbours = last - first + 1 == len(indices) and (np.diff(indices) == 1).all()
    return range(first, last + 1) if neighbours else indices


# Run: what tasks do.


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Cuts from a chunk what others see of it; the chunk is read, where it is no argument."""

    sources: list[tuple[Places, ...]]
    read: Any

    def __call__(self, *chunk: Array) -> list[Array]:
        [whole] = chunk or [self.read()]
        return [whole[np.ix_(*source)] for source in self.sources]


@dataclass(frozen=True, eq=False)
class _Judge:
    """The report on a chunk of a result."""

    layer: dict[str, Any]
    """The arguments of `judge_layer` that all chunks have."""
    is_own: bool
    """Whether the result is convmat's, to which an activation is still to be applied."""
    start: tuple[int, ...]
    """Where it begins in the whole result."""
    shape: tuple[int, ...]
    """Of the window."""
    dtype: np.dtype[Any]
    padding: int
    """What stands where there is no pixel."""
    own: list[tuple[tuple[Places, ...], tuple[Places, ...]]]
    """What the window takes of the chunk that it sees most of, and where to."""
    others: list[tuple[int, int, tuple[Places, ...]]]
    """What it takes of others: of which, which of its cuts, where to."""
    read: Any
    """Reads the chunk, where it is no argument."""

    def __call__(self, operands: Operands, result: Array, held: int, *seen: Any) -> Report:
        """Args: held: 1 if the first of what is seen is the chunk, and the others are cuts; else 0."""
        window = np.full(self.shape, self.padding, self.dtype)
        if self.own:
            chunk = seen[0] if held else self.read()
            for source, target in self.own:
                window[np.ix_(*target)] = chunk[np.ix_(*source)]
            del chunk
        for number, place, target in self.others:
            window[np.ix_(*target)] = seen[held + number][place]
        if self.is_own:
            result = activated(result.copy(), self.layer["activation"])
        report = judge_layer(window, operands.filters, result, bias=operands.bias, **self.layer)
        return replace(moved(report, self.start), wrong=None, where=None)
