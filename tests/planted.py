"""Mistakes that authors of kernels make, planted in nine geometries and two layouts.

Each is a function from a case, which has its numbers, to the wrong result, or to None where it cannot be
made. They are made of loops, tiles, strides and buffers, as kernels have them, by plain NumPy; nothing here
knows what `diagnose` looks for. `python -m tests.planted` prints what is told of each.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from convmat import reference
from convmat.verification.computed import Computation
from convmat.verification.diagnosis import Findings, diagnose, made_by
from convmat.verification.evidence import Effect
from convmat.verification.layer import verify
from convmat.verification.mistakes import known_mistakes
from convmat.verification.where import Where, axis_names

Array = np.ndarray[Any, Any]
Plant = Callable[["Case"], "Array | None"]


@dataclass(frozen=True, eq=False)
class Case:
    """A layer with its numbers; images are (N, *spatial, C), filters (K, *kernel, C/groups)."""

    name: str
    x: Array
    filters: Array
    bias: Array
    options: dict[str, Any]
    layout: str = "nhwc"
    """In which the kernel lays its result."""

    @cached_property
    def right(self) -> Array:
        """By the definition: float64, or int64."""
        return reference.convolve_by_taps(self.x, self.filters, bias=self.bias, **self.options)

    @property
    def axes(self) -> int:
        return self.x.ndim - 2

    @property
    def out(self) -> tuple[int, ...]:
        return self.right.shape[1:-1]

    @cached_property
    def dense(self) -> Array:
        """The filters over all channels, zeros where another group's are: (K, *kernel, C), wide."""
        k, *kernel, depth = self.filters.shape
        groups = self.options["groups"]
        wide = np.zeros((k, *kernel, self.x.shape[-1]), self.right.dtype)
        for f in range(k):
            first = f // (k // groups) * depth
            wide[f, ..., first : first + depth] = self.filters[f]
        return wide

    def start(self, axis: int) -> int:
        """Pixels of padding before the image."""
        return int(self.options["padding"][axis][0])

    def steps(
        self, stride: Sequence[int] | None = None, dilation: Sequence[int] | None = None, shift: Any = 0
    ) -> list[Array]:
        """Along each axis the pixel that output y reads by tap i: (H_out, kh)."""
        stride, dilation = stride or self.options["stride"], dilation or self.options["dilation"]
        shifts = np.broadcast_to(shift, self.axes)
        return [
            np.arange(self.out[a])[:, None] * stride[a]
            + np.arange(self.filters.shape[1 + a]) * dilation[a]
            - self.start(a)
            + shifts[a]
            for a in range(self.axes)
        ]

    def patches(self, steps: list[Array] | None = None, x: Array | None = None, clamp: Any = ()) -> Array:
        """(N, *out, *kernel, C), zeros outside the image; along the axes of `clamp` its edge."""
        steps, x = steps or self.steps(), self.x if x is None else x
        places, inside = [], np.ones((1,) * (2 * self.axes), bool)
        for a, place in enumerate(steps):
            line = [1] * (2 * self.axes)
            line[a], line[self.axes + a] = place.shape
            size = x.shape[1 + a]
            if a not in clamp:
                inside = inside & ((place >= 0) & (place < size)).reshape(line)
            places.append(place.clip(0, size - 1).reshape(line))
        seen = x[(slice(None), *np.broadcast_arrays(*places))].astype(self.right.dtype)
        return np.asarray(seen * inside[None, ..., None])

    @cached_property
    def outside(self) -> Array:
        """Which taps of which outputs lie in the padding: (*out, *kernel)."""
        return self.patches(x=np.ones((1, *self.x.shape[1:-1], 1), self.x.dtype))[0, ..., 0] == 0

    def sums(self, patches: Array | None = None, dense: Array | None = None, bias: Any = None) -> Array:
        """What patches and filters come to, with this bias or the layer's own."""
        patches, dense = (
            self.patches() if patches is None else patches,
            self.dense if dense is None else dense,
        )
        over = list(range(1 + self.axes, patches.ndim))
        y = np.tensordot(patches, dense, (over, list(range(1, dense.ndim))))
        return np.asarray(y + (self.bias.astype(self.right.dtype) if bias is None else bias))

    def lines(self, axis: int, source: Any) -> Array:
        """The right result with line `source[i]` where line i belongs."""
        return np.take(self.right, np.asarray(source), axis)

    def unwritten(self, at: Any, value: float = 0) -> Array:
        """The right result, but for some elements."""
        y = self.right.copy()
        y[at] = value
        return y

    def memory(self, y: Array) -> Array:
        """As the kernel lays it, one after the other; a copy."""
        return (y if self.layout == "nhwc" else np.moveaxis(y, -1, 1)).flatten()

    def from_memory(self, flat: Array) -> Array:
        """(N, *out, K) of the kernel's memory, a view."""
        n, *out, k = self.right.shape
        return (
            flat.reshape(n, *out, k)
            if self.layout == "nhwc"
            else np.moveaxis(flat.reshape(n, k, *out), 1, -1)
        )

    def wrong(self, plant: Plant) -> Array | None:
        """A planted result as the kernel leaves it: its dtype, its layout; None where nothing is wrong."""
        y = plant(self)
        if y is None or y.shape != self.right.shape:
            return y
        dtype = np.float32 if self.x.dtype.kind == "f" else np.int32
        if dtype is np.int32 and not np.isfinite(y).all():
            return None
        off = np.abs(y.astype(float) - self.right) > 1e-4 * np.abs(self.right).max()
        if not (off | ~np.isfinite(y)).any():
            return None
        return self.from_memory(self.memory(y.astype(dtype)))


def cases(layouts: Sequence[str] = ("nhwc", "nchw")) -> Iterator[Case]:
    """Nine layers; the fifth and the ninth of integers."""
    one, same = ((1, 1), (1, 1)), ((2, 2),)
    table: list[tuple[str, tuple[int, ...], tuple[int, ...], Any, Any, Any, int]] = [
        ("1-D", (2, 29, 4), (8, 5, 4), (1,), same, (1,), 1),
        ("2-D", (2, 15, 20, 3), (6, 3, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        ("padded", (2, 13, 18, 6), (10, 3, 3, 6), (1, 1), one, (1, 1), 1),
        ("strided", (3, 19, 22, 4), (6, 3, 3, 4), (2, 2), one, (1, 1), 1),
        ("dilated", (2, 14, 17, 4), (6, 3, 3, 4), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
        ("grouped", (2, 13, 15, 8), (12, 3, 3, 4), (1, 1), one, (1, 1), 2),
        ("depthwise", (2, 14, 18, 6), (6, 3, 3, 1), (1, 1), one, (1, 1), 6),
        ("uneven", (2, 18, 21, 4), (9, 5, 2, 4), (2, 1), ((2, 2), (0, 1)), (1, 3), 1),
        ("3-D", (2, 8, 9, 11, 3), (5, 3, 3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 1),
    ]
    for layout, (number, (name, shape, filters, stride, padding, dilation, groups)) in itertools.product(
        layouts, enumerate(table)
    ):
        random = np.random.default_rng(number)
        x, w = random.standard_normal(shape), random.standard_normal(filters)
        b = random.standard_normal(len(w)) + 2
        arrays = [a.astype(np.float32) for a in (x, w, b)]
        if name in ("dilated", "3-D"):
            arrays = [np.rint(x * 40).clip(-128, 127).astype(np.int8), np.rint(w * 40).clip(-127, 127)]
            arrays = [*arrays[:1], arrays[1].astype(np.int8), np.rint(b * 900).astype(np.int32)]
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        yield Case(name, *arrays, options, layout)


# Where a result is written


def flat_shift(case: Case, by: int) -> Array:
    """Every element so many places on in memory; what is before the first is 0."""
    flat, moved = case.memory(case.right), np.zeros(case.right.size, case.right.dtype)
    if by > 0:
        moved[by:] = flat[:-by]
    else:
        moved[:by] = flat[-by:]
    return case.from_memory(moved)


def flat_edit(case: Case, change: Callable[[Array], Any]) -> Array | None:
    flat = case.memory(case.right)
    change(flat)
    return case.from_memory(flat)


def at(case: Case, axis: int, where: Any) -> tuple[Any, ...]:
    """An index of some lines along an axis."""
    index: list[Any] = [slice(None)] * case.right.ndim
    index[axis] = where
    return tuple(index)


def tail(case: Case, axis: int, tile: int) -> Array | None:
    """The last partial tile never computed."""
    size = case.right.shape[axis]
    return case.unwritten(at(case, axis, slice(size - size % tile, None))) if size % tile else None


def rows_tail(case: Case, tile: int) -> Array | None:
    """The last partial tile of a GEMM's rows never computed."""
    rows = case.right.reshape(-1, case.right.shape[-1]).copy()
    if not len(rows) % tile:
        return None
    rows[len(rows) - len(rows) % tile :] = 0
    return rows.reshape(case.right.shape)


def stale(case: Case, tile: int) -> Array | None:
    """The last partial vector holds what the buffer held: the vector before."""

    def change(flat: Array) -> None:
        end = flat.size - flat.size % tile
        flat[end:] = flat[end - tile : end - tile + flat.size % tile]

    return flat_edit(case, change) if case.right.size % tile else None


def lanes(case: Case, lane: int, of: int, change: Callable[[Array], Any]) -> Array | None:
    def edit(flat: Array) -> None:
        flat[lane::of] = change(flat[lane::of])

    return flat_edit(case, edit)


def swapped_pairs(size: int) -> Array:
    pairs = np.arange(size) ^ 1
    pairs[pairs >= size] = size - 1
    return pairs


def interleaved(case: Case) -> Array | None:
    k = case.right.shape[-1]
    return None if k % 2 else case.lines(-1, np.arange(k).reshape(2, -1).T.ravel())


def spread(case: Case, mask: Array, value: float = 0) -> Array:
    """Positions never written, in every image and filter."""
    return case.unwritten((slice(None), mask), value)


def grid(case: Case) -> Sequence[Array]:
    return np.indices(case.out)


def blocked(case: Case) -> Array | None:
    """Channels in blocks of 2, as NCHWc has them, in memory that is read as if it were plain."""
    n, *out, k = case.right.shape
    if k % 2:
        return None
    blocks = np.moveaxis(case.right.reshape(n, *out, k // 2, 2), -2, 1)
    return case.from_memory(blocks.ravel())


def other_layout(case: Case) -> Array:
    """The bytes of the other layout."""
    y = case.right
    return case.from_memory((np.moveaxis(y, -1, 1) if case.layout == "nhwc" else y).ravel())


def overlapping_images(case: Case) -> Array:
    """Images written one row of memory too near each other, the later over the earlier."""
    n = len(case.right)
    flat = case.memory(case.right).reshape(n, -1)
    pitch = flat.shape[1] - (case.right.shape[-1] if case.layout == "nhwc" else case.out[-1])
    made = np.zeros(flat.size, flat.dtype)
    for number, image in enumerate(flat):
        made[number * pitch : number * pitch + image.size] = image
    return case.from_memory(made)


WRITING: dict[str, Plant] = {
    "every row one lower, the first 0": lambda c: np.concatenate(
        [0 * c.right[:, :1], c.right[:, :-1]], axis=1
    ),
    "every column one to the right, the first 0": lambda c: np.concatenate(
        [0 * c.right[..., :1, :], c.right[..., :-1, :]], axis=-2
    ),
    "rows rolled by one": lambda c: np.roll(c.right, 1, 1),
    "columns rolled by two": lambda c: np.roll(c.right, 2, -2),
    "memory one element later": partial(flat_shift, by=1),
    "memory one element earlier": partial(flat_shift, by=-1),
    "memory three elements later": partial(flat_shift, by=3),
    "every image is the first": lambda c: c.lines(0, [0] * len(c.x)),
    "only the first image written": lambda c: c.unwritten(at(c, 0, slice(1, None))),
    "the last image never written": lambda c: c.unwritten(at(c, 0, -1)),
    "images written over each other": overlapping_images,
    "images in another order": lambda c: c.lines(0, np.roll(np.arange(len(c.x)), 1)),
    "every filter the next": lambda c: np.roll(c.right, -1, -1),
    "every filter the one before, the first kept": lambda c: c.lines(
        -1, np.arange(c.right.shape[-1]) - (np.arange(c.right.shape[-1]) > 0)
    ),
    "filters in pairs swapped": lambda c: c.lines(-1, swapped_pairs(c.right.shape[-1])),
    "filters interleaved": interleaved,
    "filter 3 is filter 2": lambda c: c.lines(-1, [2 if k == 3 else k for k in range(c.right.shape[-1])]),
    "the last filter is the first": lambda c: c.lines(-1, [*range(c.right.shape[-1] - 1), 0]),
    "filters reversed in fours": lambda c: c.lines(
        -1, [min(k ^ 3, c.right.shape[-1] - 1) for k in range(c.right.shape[-1])]
    ),
    "the last row repeats the one before": lambda c: c.lines(1, [*range(c.out[0] - 1), c.out[0] - 2]),
    "the last column repeats the one before": lambda c: c.lines(-2, [*range(c.out[-1] - 1), c.out[-1] - 2]),
    "rows from the bottom up": lambda c: c.right[:, ::-1],
    "columns from right to left": lambda c: c.right[..., ::-1, :],
    "rows in pairs swapped": lambda c: c.lines(1, swapped_pairs(c.out[0])),
    "odd rows repeat the even ones": lambda c: c.lines(1, np.arange(c.out[0]) // 2 * 2),
    "spatial axes in the other order": lambda c: (
        c.right.swapaxes(1, 2).reshape(c.right.shape) if c.axes > 1 else None
    ),
    "bytes of the other layout": other_layout,
    "channels in blocks of two": blocked,
}

UNWRITTEN: dict[str, Plant] = {
    "last row 0": lambda c: c.unwritten(at(c, 1, -1)),
    "last column 0": lambda c: c.unwritten(at(c, -2, -1)),
    "first row 0": lambda c: c.unwritten(at(c, 1, 0)),
    "last row NaN": lambda c: c.unwritten(at(c, 1, -1), np.nan) if c.x.dtype.kind == "f" else None,
    "last filter of the last image 0": lambda c: c.unwritten((-1, ..., -1)),
    "tile of 4 rows, the tail": partial(tail, axis=1, tile=4),
    "tile of 8 columns, the tail": partial(tail, axis=-2, tile=8),
    "tile of 4 filters, the tail": partial(tail, axis=-1, tile=4),
    "tile of 32 GEMM rows, the tail": partial(rows_tail, tile=32),
    "vector of 16, the tail": lambda c: flat_edit(
        c, lambda f: f.__setitem__(slice(f.size - f.size % 16, None), 0)
    ),
    "vector of 64, the tail stale": partial(stale, tile=64),
    "lane 3 of 4 is 0": partial(lanes, lane=3, of=4, change=lambda v: 0 * v),
    "lane 7 of 8 doubled": partial(lanes, lane=7, of=8, change=lambda v: 2 * v),
    "lane 5 of 16 negative": partial(lanes, lane=5, of=16, change=lambda v: -v),
    "filter 3 of every 4 NaN": lambda c: (
        c.unwritten(at(c, -1, slice(3, None, 4)), np.nan) if c.x.dtype.kind == "f" else None
    ),
    "one tile of 4 × 4 0": lambda c: c.unwritten((slice(None), *(slice(4, 8),) * c.axes)),
    "one tile of 4 × 4 in one image and half the filters": lambda c: c.unwritten(
        (1, *(slice(0, 4),) * c.axes, slice(0, c.right.shape[-1] // 2))
    ),
    "one element": lambda c: c.unwritten((0, *(3,) * c.axes, 1), 77),
    "two elements": lambda c: c.unwritten(([0, 1], *([3, 5],) * c.axes, [1, 2]), 77),
    "odd columns 0": lambda c: c.unwritten(at(c, -2, slice(1, None, 2))),
    "a checkerboard 0": lambda c: spread(c, sum(grid(c)) % 2 == 1),
    "where two tiles of 4 meet, 0": lambda c: spread(c, np.any([g % 4 == 3 for g in grid(c)], axis=0)),
    "patches beyond a grid of 64": lambda c: (
        spread(c, np.ravel_multi_index(tuple(grid(c)), c.out) >= 64) if np.prod(c.out) > 64 else None
    ),
    "a warp of 32 GEMM rows": lambda c: flat_edit_rows(c, slice(32, 64)),
    "borders never written": lambda c: spread(
        c, np.any([(g == 0) | (g == n - 1) for g, n in zip(grid(c), c.out, strict=True)], axis=0)
    ),
    "corners 0": lambda c: spread(
        c, np.all([(g == 0) | (g == n - 1) for g, n in zip(grid(c), c.out, strict=True)], axis=0)
    ),
    "the second half of the filters 0": lambda c: c.unwritten(at(c, -1, slice(c.right.shape[-1] // 2, None))),
    "the main diagonal 0": lambda c: spread(c, grid(c)[0] == grid(c)[-1]) if c.axes > 1 else None,
}


def flat_edit_rows(case: Case, rows: slice) -> Array | None:
    y = case.right.reshape(-1, case.right.shape[-1]).copy()
    y[rows] = 0
    return y.reshape(case.right.shape)


# What is read


def neighbours(case: Case, axis: int) -> Array | None:
    """No bounds along an axis: what lies beyond the edge in memory, the next line's pixel, is read."""
    if not case.outside.any():
        return None
    index = np.zeros((1,) * (2 * case.axes), np.int64)
    inside = np.ones((1,) * (2 * case.axes), bool)
    for a, place in enumerate(case.steps()):
        line = [1] * (2 * case.axes)
        line[a], line[case.axes + a] = place.shape
        size = case.x.shape[1 + a]
        if a != axis % case.axes:
            inside = inside & ((place >= 0) & (place < size)).reshape(line)
        index = index * size + place.reshape(line)
    n, c = len(case.x), case.x.shape[-1]
    pixels = case.x.reshape(n, -1, c)
    count = pixels.shape[1]
    index, inside = np.broadcast_arrays(index, inside)
    inside = inside & (index >= 0) & (index < count)
    seen = pixels[:, index.clip(0, count - 1)].astype(case.right.dtype) * inside[..., None]
    return case.sums(seen)


def filled(case: Case, value: float) -> Array | None:
    """Padding filled with a number."""
    if not case.outside.any():
        return None
    return case.sums(case.patches() + case.outside[..., None] * np.asarray(value, case.right.dtype))


def bounded(case: Case, first: int = 0, last: int = 0, axis: int = -1) -> Array | None:
    """Pixels at an edge taken for padding."""
    x = case.x.copy()
    size = x.shape[1 + axis % case.axes]
    index: list[Any] = [slice(None)] * x.ndim
    for line in [*range(first), *range(size - last, size)]:
        index[1 + axis % case.axes] = line
        x[tuple(index)] = 0
    return case.sums(case.patches(x=x))


def one_bound_for_both(case: Case) -> Array | None:
    """Every axis bounded by the first one's length."""
    size = case.x.shape[1]
    if case.axes < 2 or case.x.shape[-2] <= size:
        return None
    x = case.x.copy()
    x[..., size:, :] = 0
    return case.sums(case.patches(x=x))


def seen_padding(case: Case) -> Array:
    """Positions whose patch touches the padding."""
    return case.outside.reshape(*case.out, -1).any(-1)


def with_mode(case: Case, mode: str) -> Array | None:
    if not case.outside.any():
        return None
    return reference.convolve_by_taps(case.x, case.filters, bias=case.bias, padding_mode=mode, **case.options)


def renormalized(case: Case) -> Array | None:
    """Partial sums at the border scaled up, as if the padding were no part of the mean."""
    if not case.outside.any():
        return None
    share = case.outside.reshape(*case.out, -1).mean(-1)
    bias = case.bias.astype(case.right.dtype)
    return (case.right - bias) / (1 - share)[..., None] + bias


def halo(case: Case, tile: int, axis: int, held: str) -> Array | None:
    """The last tap of the last output of each tile reads a shared memory that was loaded without its halo."""
    place = case.steps()
    a = axis % case.axes
    if case.out[a] <= tile:
        return None
    ends = np.arange(case.out[a]) % tile == tile - 1
    patches = case.patches()
    line = [slice(None)] * patches.ndim
    line[1 + a], line[1 + case.axes + a] = ends, -1  # type: ignore[call-overload]
    index: Any = tuple(line)
    if held == "zero":
        patches[index] = 0
    else:
        place[a] = place[a].copy()
        place[a][ends, -1] -= tile * case.options["stride"][a]
        patches = case.patches(place)
    return case.sums(patches)


def reread(case: Case, pitch: int) -> Array:
    """Lines of the image that are so many pixels apart than they are long, in a buffer of the same size."""
    n, *size, c = case.x.shape
    flat = np.zeros((n, size[0], int(np.prod(size[1:])) + pitch, c), case.x.dtype)
    line = int(np.prod(size[1:]))
    pixels = case.x.reshape(n, -1, c)
    for row in range(size[0]):
        part = pixels[:, row * (line + pitch) : row * (line + pitch) + line]
        flat[:, row, : part.shape[1]] = part
    return case.sums(case.patches(x=flat[:, :, :line].reshape(case.x.shape)))


def as_unsigned(a: Array) -> Array:
    return a.astype(np.int64) & 255


READING: dict[str, Plant] = {
    "stride 1 in place of the layer's": lambda c: c.sums(c.patches(c.steps(stride=(1,) * c.axes))),
    "stride one more": lambda c: c.sums(c.patches(c.steps(stride=[s + 1 for s in c.options["stride"]]))),
    "stride along the first axis alone": lambda c: c.sums(
        c.patches(c.steps(stride=(c.options["stride"][0], *(1,) * (c.axes - 1))))
    ),
    "windows one pixel late": lambda c: c.sums(c.patches(c.steps(shift=1))),
    "windows two pixels early": lambda c: c.sums(c.patches(c.steps(shift=-2))),
    "windows one column early": lambda c: c.sums(c.patches(c.steps(shift=(*(0,) * (c.axes - 1), -1)))),
    "windows two rows late": lambda c: c.sums(c.patches(c.steps(shift=(2, *(0,) * (c.axes - 1))))),
    "padding 1": partial(filled, value=1),
    "padding 3 times a half": partial(filled, value=1.5),
    "padding −128": partial(filled, value=-128),
    "padding replicate": partial(with_mode, mode="replicate"),
    "padding reflect": partial(with_mode, mode="reflect"),
    "padding circular": partial(with_mode, mode="circular"),
    "border sums scaled up": renormalized,
    "border skipped": lambda c: spread(c, seen_padding(c)) if c.outside.any() else None,
    "border without its bias": lambda c: (
        c.right - seen_padding(c)[..., None] * c.bias if c.outside.any() else None
    ),
    "columns without bounds": partial(neighbours, axis=-1),
    "rows without bounds, clamped": lambda c: c.sums(c.patches(clamp=(0,))) if c.outside.any() else None,
    "last column taken for padding": partial(bounded, last=1),
    "first row taken for padding": partial(bounded, first=1, axis=0),
    "one bound for both axes": one_bound_for_both,
    "dilation 1": lambda c: c.sums(c.patches(c.steps(dilation=(1,) * c.axes))),
    "dilation one more": lambda c: c.sums(
        c.patches(c.steps(dilation=[d + 1 for d in c.options["dilation"]]))
    ),
    "dilation along the first axis alone": lambda c: c.sums(
        c.patches(c.steps(dilation=(c.options["dilation"][0], *(1,) * (c.axes - 1))))
    ),
    "halo of tiles of 4 columns 0": partial(halo, tile=4, axis=-1, held="zero"),
    "halo of tiles of 8 rows stale": partial(halo, tile=8, axis=0, held="stale"),
    "image lines one pixel further apart": partial(reread, pitch=1),
    "pixels without a sign": lambda c: (
        c.sums(c.patches(x=as_unsigned(c.x))) if c.x.dtype.kind == "i" else None
    ),
    "image read in the other layout": lambda c: c.sums(
        c.patches(x=np.moveaxis(c.x, -1, 1).reshape(c.x.shape))
    ),
    "mean subtracted from the image": lambda c: c.sums(c.patches(x=c.x.astype(c.right.dtype) - 3)),
    "image upside down": lambda c: c.sums(c.patches(x=c.x[:, ::-1])),
}


# Filters and loops over taps


def changed(case: Case, change: Callable[[Array], Any]) -> Array:
    """With the filters, over all channels, changed in place."""
    dense = case.dense.copy()
    change(dense)
    return case.sums(dense=dense)


def zeroed(*where: Any) -> Callable[[Array], None]:
    return lambda w: w.__setitem__(where, 0)


def scaled(by: float, *where: Any) -> Callable[[Array], None]:
    return lambda w: w.__setitem__(where, by * w[where])


def of_filters(case: Case, filters: Array) -> Array:
    return reference.convolve_by_taps(case.x, filters, bias=case.bias, **case.options)


def column_part(case: Case, first: int, last: int | None, by: float) -> Array | None:
    """Some of the unrolled columns summed so many times."""
    flat = case.filters.reshape(len(case.filters), -1).astype(case.right.dtype)
    if not flat[:, first:last].size:
        return None
    flat[:, first:last] *= np.asarray(by, flat.dtype)
    return of_filters(case, flat.reshape(case.filters.shape))


def channels(case: Case, order: Any) -> Array:
    return of_filters(case, case.filters[..., np.asarray(order)])


def depth(case: Case) -> int:
    return int(case.filters.shape[-1])


def square(case: Case) -> bool:
    return case.axes > 1 and len(set(case.filters.shape[1:-1])) == 1


def extra_tap(case: Case) -> Array:
    """The loop over taps of the last axis runs once more; the weight beyond is the first of the next line."""
    steps = case.steps()
    steps[-1] = steps[-1][:, -1:] + case.options["dilation"][-1]
    extra = case.patches(steps)
    first = case.dense[..., :1, :]
    return case.right + case.sums(extra, first, 0)


def swap_taps(w: Array) -> None:
    taps = w.reshape(len(w), -1, w.shape[-1]) if w.flags.c_contiguous else None
    assert taps is not None
    taps[:, [0, 1]] = taps[:, [1, 0]]


def accumulated(case: Case, axis: int) -> Array:
    """An accumulator that is never cleared along an axis."""
    return np.add.accumulate(case.right, axis)


def reread_filters(case: Case, order: Sequence[int], back: bool = False) -> Array:
    """Filters whose bytes lie in another order of axes."""
    moved = case.filters.transpose(order)
    return of_filters(case, moved.reshape(case.filters.shape))


def reordered_groups(case: Case, order: Callable[[int], Sequence[int]]) -> Array | None:
    """Groups of channels read in another order."""
    groups = case.options["groups"]
    if groups == 1:
        return None
    parts = np.split(case.x, groups, -1)
    return case.sums(case.patches(x=np.concatenate([parts[g] for g in order(groups)], -1)))


def interleaved_groups(case: Case) -> Array | None:
    groups, c = case.options["groups"], case.x.shape[-1]
    if groups == 1:
        return None
    return case.sums(case.patches(x=case.x[..., np.arange(c).reshape(-1, groups).T.ravel()]))


FILTERS: dict[str, Plant] = {
    "last tap row left out": lambda c: changed(c, zeroed(slice(None), -1)),
    "last tap column left out": lambda c: changed(c, zeroed(..., -1, slice(None))),
    "first tap left out": lambda c: changed(c, zeroed(slice(None), *(0,) * c.axes)),
    "last tap left out": lambda c: changed(c, zeroed(slice(None), *(-1,) * c.axes)),
    "centre tap twice": lambda c: changed(
        c, scaled(2, slice(None), *(k // 2 for k in c.filters.shape[1:-1]))
    ),
    "one tap column too many": extra_tap,
    "filters flipped": lambda c: of_filters(c, np.flip(c.filters, tuple(range(1, 1 + c.axes)))),
    "filters flipped left-right": lambda c: of_filters(c, np.flip(c.filters, -2)),
    "kernel transposed": lambda c: of_filters(c, c.filters.swapaxes(1, 2)) if square(c) else None,
    "first two taps swapped": lambda c: changed(c, swap_taps),
    "every tap has the first weight": lambda c: of_filters(
        c, np.broadcast_to(c.filters[(slice(None), *(slice(0, 1),) * c.axes)], c.filters.shape)
    ),
    "taps one on": lambda c: of_filters(c, np.roll(c.filters, 1, -2)),
    "last channel left out": lambda c: (
        of_filters(c, c.filters * (np.arange(depth(c)) < depth(c) - 1)) if depth(c) > 1 else None
    ),
    "channels past a multiple of 4 left out": lambda c: (
        of_filters(c, c.filters * (np.arange(depth(c)) < depth(c) // 4 * 4))
        if depth(c) > 4 and depth(c) % 4
        else None
    ),
    "channels reversed": lambda c: channels(c, np.arange(depth(c))[::-1]) if depth(c) > 1 else None,
    "channels in pairs swapped": lambda c: channels(c, swapped_pairs(depth(c))) if depth(c) > 1 else None,
    "channel 0 for all": lambda c: (
        c.sums(c.patches(x=np.repeat(c.x[..., :1], c.x.shape[-1], -1))) if depth(c) > 1 else None
    ),
    "channels one on": lambda c: channels(c, np.roll(np.arange(depth(c)), 1)) if depth(c) > 1 else None,
    "even channels alone": lambda c: (
        of_filters(c, c.filters * (np.arange(depth(c)) % 2 == 0)) if depth(c) > 1 else None
    ),
    "one weight wrong": lambda c: changed(
        c, lambda w: w.__setitem__((1, *(0,) * c.axes, int(np.flatnonzero(w[(1, *(0,) * c.axes)])[0])), 3)
    ),
    "one weight of filter 3 is 0": lambda c: changed(c, zeroed(3, *(1,) * c.axes)),
    "one tap negative in every filter": lambda c: changed(c, scaled(-1, slice(None), *(1,) * c.axes)),
    "filter 2 twice as large": lambda c: changed(c, scaled(2, 2)),
    "weights without a sign": lambda c: (
        of_filters(c, as_unsigned(c.filters)) if c.x.dtype.kind == "i" else None
    ),
    "weights cut to whole numbers": lambda c: (
        of_filters(c, np.trunc(c.filters)) if c.x.dtype.kind == "f" else None
    ),
    "weights one zero point up": lambda c: of_filters(c, c.filters.astype(c.right.dtype) + 2),
    "OIHW read as OHWI": lambda c: (
        reread_filters(c, [0, c.axes + 1, *range(1, c.axes + 1)]) if depth(c) > 1 else None
    ),
    "HWIO read as OHWI": lambda c: reread_filters(c, [*range(1, c.axes + 2), 0]),
    "filters and channels swapped": lambda c: reread_filters(c, [c.axes + 1, *range(1, c.axes + 1), 0]),
    "second half of the columns lost": lambda c: column_part(c, c.filters[0].size // 2, None, 0),
    "second half of the columns twice": lambda c: column_part(c, c.filters[0].size // 2, None, 2),
    "last partial tile of 8 columns of X_col lost": lambda c: column_part(
        c, c.filters[0].size // 8 * 8, None, 0
    ),
    "first 4 columns of X_col twice": lambda c: column_part(c, 0, 4, 2),
    "accumulator kept from filter to filter": partial(accumulated, axis=-1),
    "accumulator kept from column to column": partial(accumulated, axis=-2),
    "accumulator kept from image to image": partial(accumulated, axis=0),
    "only the last channel counted": lambda c: (
        of_filters(c, c.filters * (np.arange(depth(c)) == depth(c) - 1)) if depth(c) > 1 else None
    ),
    "filter 1 everywhere": lambda c: c.lines(-1, [1] * c.right.shape[-1]),
    "groups ignored": lambda c: reordered_groups(c, lambda g: [0] * g),
    "groups reversed": lambda c: reordered_groups(c, lambda g: range(g)[::-1]),
    "groups interleaved": interleaved_groups,
    "second group has the first's weights": lambda c: (
        of_filters(
            c, np.concatenate([c.filters[: len(c.filters) // c.options["groups"]]] * c.options["groups"])
        )
        if c.options["groups"] > 1
        else None
    ),
    "last group never computed": lambda c: (
        c.unwritten(at(c, -1, slice(-(len(c.filters) // c.options["groups"]), None)))
        if c.options["groups"] > 1
        else None
    ),
    "groups one channel on": lambda c: (
        c.sums(c.patches(x=np.roll(c.x, -1, -1))) if c.options["groups"] > 1 else None
    ),
}


# Bias and values


def biased(case: Case, bias: Any) -> Array:
    return case.sums(bias=np.asarray(bias).astype(case.right.dtype))


def products(case: Case) -> Array:
    return case.sums(bias=0)


def whole(case: Case) -> bool:
    return case.x.dtype.kind == "i"


def bias_along_columns(case: Case) -> Array:
    """The bias laid along the last spatial axis, again and again."""
    along = np.resize(case.bias, case.out[-1]).astype(case.right.dtype)
    return products(case) + along[:, None]


VALUES: dict[str, Plant] = {
    "no bias": lambda c: biased(c, 0),
    "bias twice": lambda c: biased(c, 2 * c.bias.astype(float)),
    "bias subtracted": lambda c: biased(c, -c.bias),
    "bias of the next filter": lambda c: biased(c, np.roll(c.bias, -1)),
    "first bias for all": lambda c: biased(c, c.bias[0]),
    "no bias in the last filter": lambda c: biased(
        c, np.where(np.arange(len(c.bias)) == len(c.bias) - 1, 0, c.bias)
    ),
    "bias once a channel": lambda c: biased(c, depth(c) * c.bias.astype(float)),
    "bias once a tap": lambda c: biased(c, int(np.prod(c.filters.shape[1:-1])) * c.bias.astype(float)),
    "bias in the first image alone": lambda c: np.concatenate([c.right[:1], products(c)[1:]]),
    "bias along the columns": bias_along_columns,
    "bias cut to a whole number": lambda c: None if whole(c) else biased(c, np.trunc(c.bias)),
    "ReLU": lambda c: np.maximum(c.right, 0),
    "absolute": lambda c: np.abs(c.right),
    "negative": lambda c: -c.right,
    "ReLU6": lambda c: np.clip(c.right, 0, 6),
    "cut off above": lambda c: np.minimum(c.right, np.asarray(np.abs(c.right).max() / 4, c.right.dtype)),
    "ReLU before the bias": lambda c: np.maximum(products(c), 0) + c.bias,
    "divided by 255": lambda c: None if whole(c) else c.right / 255,
    "pixels divided by 255": lambda c: None if whole(c) else products(c) / 255 + c.bias,
    "doubled": lambda c: 2 * c.right,
    "mean of the taps": lambda c: None if whole(c) else products(c) / c.filters[0].size + c.bias,
    "scale wrong in one filter": lambda c: c.right * np.where(np.arange(len(c.bias)) == 1, 3, 1),
    "zero point added": lambda c: c.right + 3,
    "leaky": lambda c: None if whole(c) else np.where(c.right < 0, 0.1 * c.right, c.right),
    "cut to whole numbers": lambda c: None if whole(c) else np.trunc(c.right),
    "rounded to whole numbers": lambda c: None if whole(c) else np.rint(c.right),
    "saturated to int8": lambda c: np.clip(c.right, -128, 127) if whole(c) else None,
    "wrapped to int16": lambda c: c.right.astype(np.int16).astype(np.int64) if whole(c) else None,
    "wrapped to int8": lambda c: c.right.astype(np.int8).astype(np.int64) if whole(c) else None,
    "normalized": lambda c: None if whole(c) else 0.5 * c.right + 1,
    "scale of each filter its own": lambda c: (
        None if whole(c) else products(c) * np.linspace(0.5, 2, len(c.bias)) + c.bias
    ),
    "shifted right by 4 bits": lambda c: c.right >> 4 if whole(c) else None,
    "float16 result": lambda c: None if whole(c) else c.right.astype(np.float16).astype(np.float64),
    "float16 operands": lambda c: (
        None
        if whole(c)
        else reference.convolve_by_taps(
            c.x.astype(np.float16).astype(float),
            c.filters.astype(np.float16).astype(float),
            bias=c.bias,
            **c.options,
        )
    ),
    "last image alone doubled": lambda c: np.concatenate([c.right[:-1], 2 * c.right[-1:]]),
}

MISTAKES: dict[str, Plant] = {
    f"{kind}: {name}": plant
    for kind, table in {
        "write": WRITING,
        "skip": UNWRITTEN,
        "read": READING,
        "sum": FILTERS,
        "value": VALUES,
    }.items()
    for name, plant in table.items()
}


def planted(layouts: Sequence[str] = ("nhwc", "nchw")) -> Iterator[tuple[Case, str, Array]]:
    """Every case with every mistake that can be made in it and makes a difference, and what it leaves."""
    for case in cases(layouts):
        for name, plant in MISTAKES.items():
            if (wrong := case.wrong(plant)) is not None:
                yield case, name, wrong


# What is told of them, worked out again


@dataclass(frozen=True)
class Told:
    """What `verify` and `diagnose` say of a wrong result."""

    names: Findings
    where: Where | None
    outside: Array | None
    """The wrong elements."""

    @property
    def how(self) -> str:
        """name, effect or place; or nothing."""
        if self.names and not self.names[0].exceptions:
            return "name"
        if self.names.effects:
            return "effect"
        if self.where is not None and self.where.told:
            return "place"
        return "name" if self.names else ""

    def __str__(self) -> str:
        said = [str(one).removeprefix("your output equals the correct one ") for one in self.names]
        said += map(str, self.names.effects)
        return "; ".join(said) or (f"in {self.where.words}" if self.where is not None else "")


def told(case: Case, wrong: Array) -> Told:
    report = verify(case.x, case.filters, wrong, bias=case.bias, **case.options)
    findings = diagnose(case.x, case.filters, wrong, bias=case.bias, **case.options)
    return Told(findings, report.where, report.wrong)


def instead(case: Case, effect: Effect) -> Array:
    """What a sentence says that each element is, by plain NumPy; NaN of those that it does not speak of."""
    right, value = case.right.astype(float), effect.value
    bias = case.bias.astype(float)
    if effect.filters is not None:
        return reference.convolve_by_taps(case.x, effect.filters, bias=case.bias, **case.options)
    if effect.kind == "moved":
        axis, source = axis_names(case.axes).index(value["axis"]), np.array(value["source"])
        held = (source >= 0).reshape([-1 if a == axis else 1 for a in range(right.ndim)])
        return np.where(held, np.take(right, source, axis), np.nan)
    if effect.kind == "slipped":
        flat = np.roll(case.memory(right), value["by"])
        flat[: max(value["by"], 0)] = flat[len(flat) + min(value["by"], 0) :] = np.nan
        return case.from_memory(flat)
    if effect.kind == "offsets":
        axis = axis_names(case.axes).index(value["axis"])
        added = np.array(value["added"]).reshape([-1 if a == axis else 1 for a in range(right.ndim)])
        return right + added - (bias if value["without_bias"] else 0)
    if effect.kind == "accumulated":
        return np.cumsum(right, axis_names(case.axes).index(value["axis"]))
    if effect.kind == "window":
        return case.sums(case.patches(case.steps(value["stride"], value["dilation"], value["shift"])))
    made: dict[str, Callable[[], Array]] = {
        "constant": lambda: np.full(right.shape, value["value"]),
        "factor": lambda: (right - value["bias"] * bias) * value["factor"] + value["bias"] * bias,
        "factors": lambda: (right - value["bias"] * bias) * value["factors"] + value["bias"] * bias,
        "offset": lambda: right + value["offset"],
        "bias": lambda: right - bias + np.asarray(value.get("bias", value.get("bias_times", 0) * bias)),
        "bias-of": lambda: right - bias + bias[value["bias_of"]],
        "straight": lambda: right * value["factor"] + value["offset"],
        "absolute": lambda: np.abs(right),
        "cut": lambda: right.clip(value.get("low"), value.get("high")),
        "relu-before-bias": lambda: np.maximum(right - bias, 0) + bias,
        "leaky": lambda: np.where(right < 0, value["factor"] * right, right),
        "padding": lambda: case.sums(case.patches() + case.outside[..., None] * value["padding"]),
        "pixels": lambda: case.sums(case.patches(x=case.x.astype(float) + value["pixels"])),
    }
    return made[effect.kind]()


def named(case: Case, keys: Sequence[str]) -> Iterator[Array]:
    """What known mistakes make of a case, of the reference's sums."""
    table = {m.key: [] for m in known_mistakes(case.axes)}
    for mistake in known_mistakes(case.axes):
        table[mistake.key].append(mistake)
    padding = {"padding": case.options["padding"], "padding_mode": "zeros", "groups": case.options["groups"]}
    steps = case.options["stride"], padding["padding"], case.options["dilation"], padding["groups"]
    layers = [Computation(case.x, case.filters, *steps, case.bias, "zeros")]
    for key in keys:
        layers = [other for layer in layers for m in table[key] for other in made_by(m, layer)]
    for layer in layers:
        if min(layer.convolved_shape) < 1 or layer.half_sums is not None:
            continue
        y = layer.change(reference.convolve_by_taps(**layer.arguments))
        at, inside = layer.origins(np.arange(int(np.prod(layer.shapes[-1]))))
        yield np.where(inside, y[at], 0)


def check(case: Case, wrong: Array, told: Told) -> None:
    """Assert that all that is told is true, by what is worked out here."""
    scale = np.abs(case.right).max()
    got = wrong.astype(float)
    for one in told.names:
        if "float16-accumulation" in one.mistakes:
            continue
        close = [
            np.count_nonzero(~(np.abs(y - got.ravel()) <= 2e-3 * max(scale, np.abs(y).max())))
            for y in named(case, one.mistakes)
            if y.size == got.size
        ]
        assert close, str(one)
        assert min(close) <= len(one.exceptions), str(one)
    if told.where is None or told.outside is None:
        return
    off = ~(np.abs(got - case.right) <= 1e-3 * scale)
    meant = told.where.mask(told.outside)
    assert meant[off].all(), f"more than {told.where.words}"
    assert np.count_nonzero(meant) == told.where.elements
    right = np.count_nonzero(meant & (np.abs(got - case.right) <= 1e-9 * scale))
    assert right <= told.where.elements - told.where.wrong, f"not all of {told.where.words}"
    for effect in told.names.effects:
        of = off if effect.where is None else effect.where.mask(told.outside)
        of = np.ones(off.shape, bool) if effect.everywhere else of
        if effect.kind == "rounded":
            wanted = case.right * effect.value["factor"]
            assert (got[of] == np.rint(got[of])).all()
            assert (np.abs(got - wanted)[of] <= 1.001).all(), str(effect)
            continue
        wanted = np.broadcast_to(instead(case, effect), got.shape)
        if effect.kind in ("moved", "slipped") and (effect.where is None or not effect.where.told):
            of = of & ~np.isnan(wanted)
        near = np.abs(got - wanted) <= 1e-4 * np.maximum(scale, np.abs(wanted))
        near |= np.isnan(got) & np.isnan(wanted)
        assert near[of].all(), str(effect)


def main() -> None:
    """Print what is told of each planted mistake, and how many are told in which way."""
    counts: Counter[str] = Counter()
    for case, name, wrong in planted():
        one = told(case, wrong)
        check(case, wrong, one)
        counts[one.how or "nothing"] += 1
        print(f"{case.name:9} {case.layout}  {name:55} {one.how or 'NOTHING':8} {one}", flush=True)
    total = counts.total()
    print(
        f"{len(MISTAKES)} mistakes, {total} wrong results: "
        + ", ".join(f"{count} ({100 * count / total:.1f} %) by {how}" for how, count in counts.most_common())
    )


if __name__ == "__main__":
    main()
