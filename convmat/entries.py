"""The entries of a layer's matrix: which taps meet which pixels, axis by axis, and the CSR arrays they make.

Along an axis most outputs meet the input in the same way: with all taps, none in the padding. So outputs are
taken in runs of the same taps, and the matrix is written box by box of runs, by equal steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from convmat.axis import padding_source
from convmat.errors import GeometryError
from convmat.geometry import KERNEL_LIMIT, ConvGeometry

BLOCK_ENTRIES = 1 << 17
"""Entries handled at a time where a temporary array is needed: within a core's cache."""

# Outputs times taps along an axis that are looked at one by one, about a second's work.
_MOST_LOOKED_AT = 20 * KERNEL_LIMIT
_TAPS_OF_A_LOOK = 200  # that take as long as all that is done besides


@dataclass(frozen=True)
class Run:
    """Consecutive outputs along one axis whose taps meet the input in the same way."""

    outputs: range
    taps: NDArray[np.intp]
    """The taps that meet the input, ordered by pixel."""
    starts: NDArray[np.intp]
    """Where in `taps` each new pixel begins."""


def taps_inside(geometry: ConvGeometry) -> list[NDArray[np.int64]]:
    """For each tap along each axis, the outputs of which it is inside the input, by Eq. 8."""
    g, times = geometry, []
    for k, s, d, (before, _), h, out in zip(
        g.kernel_size, g.stride, g.dilation, g.pads, g.input_size, g.output_size, strict=True
    ):
        at = np.arange(k) * d - before
        first, end = np.maximum(-(at // s), 0), np.minimum((h - 1 - at) // s + 1, out)
        times.append((end - first).clip(0))
    return times


def _positions(
    geometry: ConvGeometry, axis: int, outputs: NDArray[np.intp], taps: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Where outputs' taps lie along one axis (Eq. 8), below 0 and beyond the end in the padding."""
    return np.asarray(
        outputs * geometry.stride[axis] + taps * geometry.dilation[axis] - geometry.pads[axis][0], np.intp
    )


def _inside(geometry: ConvGeometry, axis: int) -> tuple[int, int]:
    """The outputs along one axis that do not reach into the padding: the first, and the first after them."""
    out, stride, before = geometry.output_size[axis], geometry.stride[axis], geometry.pads[axis][0]
    first = min(-(-before // stride), out)
    end = (geometry.input_size[axis] + before - geometry.extent[axis]) // stride + 1
    return first, max(min(end, out), first)


def check_padded(geometry: ConvGeometry) -> None:
    """Raise GeometryError where too many outputs reach into the padding: they are looked at one by one."""
    for axis, name in enumerate(geometry.axis_names):
        first, end = _inside(geometry, axis)
        padded = first + geometry.output_size[axis] - end
        most = _MOST_LOOKED_AT // (geometry.kernel_size[axis] + _TAPS_OF_A_LOOK)
        if padded > most:
            raise GeometryError(
                "padding",
                f"is met by {padded} outputs along {name}, which are looked at one by one; expected at most "
                f"{most} under a kernel of {geometry.kernel_size[axis]}: give less padding",
            )


def runs_along(geometry: ConvGeometry, axis: int, padding_mode: str) -> list[Run]:
    """The outputs along one axis as runs; one run holds all that do not reach into the padding."""
    out, size = geometry.output_size[axis], geometry.input_size[axis]
    every_tap = np.arange(geometry.kernel_size[axis])
    first, end = _inside(geometry, axis)
    runs: list[Run] = []
    for y in itertools.chain(range(first), [first] if end > first else [], range(end, out)):
        outputs = range(first, end) if first <= y < end else range(y, y + 1)
        positions = _positions(geometry, axis, np.array(y), every_tap)
        if padding_mode == "zeros":
            taps = np.flatnonzero((positions >= 0) & (positions < size))
            starts = np.arange(len(taps))
        else:
            pixels = padding_source(positions, size, padding_mode)
            taps = np.argsort(pixels, kind="stable")
            starts = np.flatnonzero(np.diff(pixels[taps], prepend=-1))
        if runs and np.array_equal(runs[-1].taps, taps) and np.array_equal(runs[-1].starts, starts):
            runs[-1] = Run(range(runs[-1].outputs.start, outputs.stop), taps, starts)
        else:
            runs.append(Run(outputs, taps, starts))
    return runs


def pixels_met(runs: Sequence[Run]) -> int:
    """Pixels that all outputs along one axis meet, each counted as often as it is met."""
    return sum(len(run.outputs) * len(run.starts) for run in runs)


def _met_together(weights: NDArray[Any], axis: int, runs: list[Run]) -> NDArray[Any]:
    """For each tap along one axis, the weights of all taps that meet its pixel, summed over the outputs."""
    total = np.zeros_like(weights)
    lines, sums = np.moveaxis(weights, axis, 0), np.moveaxis(total, axis, 0)
    for run in runs:
        if len(run.starts):
            merged = np.add.reduceat(lines[run.taps], run.starts, 0)
            shared = np.diff(run.starts, append=len(run.taps))
            sums[run.taps] += len(run.outputs) * merged.repeat(shared, axis=0)
    return total


def fold_padding(image: NDArray[Any], geometry: ConvGeometry, padding_mode: str) -> NDArray[Any]:
    """A padded image, (*size, channels), with its padding added to the pixels that it repeats."""
    for axis, (h, (before, _)) in enumerate(zip(geometry.input_size, geometry.pads, strict=True)):
        lines = np.moveaxis(image, axis, 0)
        inside = np.zeros((h, *lines.shape[1:]), image.dtype)
        np.add.at(inside, padding_source(np.arange(len(lines)) - before, h, padding_mode), lines)
        image = np.moveaxis(inside, 0, axis)
    return image


def frobenius_norm(geometry: ConvGeometry, weights: NDArray[Any], runs: Sequence[list[Run]] | None) -> float:
    """√(Σ|entry|²) of weights (K, *kernel, C/groups), from how often each tap meets a pixel.

    Args:
        runs: the outputs along each axis; None where zeros are padded, so that no tap shares its pixel.
    """
    counted = weights
    if runs is None:
        for axis, times in enumerate(taps_inside(geometry), 1):
            counted = np.moveaxis(np.moveaxis(counted, axis, -1) * times, -1, axis)
    else:
        for axis, along in enumerate(runs, 1):
            counted = _met_together(counted, axis, along)
    # Weighted by the taps that share their pixel, each product is counted as often as it occurs.
    return math.sqrt(max(float(np.vdot(weights, counted).real), 0.0))


def csr_arrays(
    geometry: ConvGeometry,
    filters: NDArray[Any],
    runs: Sequence[Sequence[Run]],
    padding_mode: str,
    layout: str,
    index: np.dtype[Any],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Data, columns and row starts of a layer's matrix, written box by box.

    `filters` are (K, *kernel, C/groups), `runs` the outputs along each axis, `index` the dtype of columns and
    row starts.
    """
    last, count, depth, groups = layout == "nhwc", len(filters), filters.shape[-1], geometry.groups
    indptr = np.zeros(geometry.patches * count + 1, index)
    np.cumsum(_row_lengths(runs, count, depth, last), out=indptr[1:])
    data = np.empty(int(indptr[-1]), filters.dtype)
    indices = np.empty(len(data), index)
    met = [pixels_met(along) for along in runs]
    # A step to the next channel, and along each axis to the next pixel, in the input's vector.
    size = geometry.input_size
    channel_step, unit = (1, geometry.channels) if last else (math.prod(size), 1)
    pixel_steps = [math.prod(size[a + 1 :]) * unit for a in range(len(size))]
    group_columns = (np.arange(groups) * depth * channel_step).astype(index)
    for box in itertools.product(*runs):
        lengths = [len(run.starts) for run in box]
        entries = math.prod(lengths) * depth
        if not entries:
            continue
        weights = _by_pixel(filters, box)
        weights = weights if last else np.moveaxis(weights, -1, 1)
        # Within a box all rows are equally long, so the entries lie at equal steps along every axis.
        step = depth * (count if last else 1)
        steps = [step * math.prod(lengths[: a + 1]) * math.prod(met[a + 1 :]) for a in range(len(box))]
        filter_step = entries if last else depth * math.prod(met)
        steps += [filter_step * (count // groups), filter_step, 1]
        shape = (*(len(run.outputs) for run in box), groups, count // groups, entries)
        first = int(np.ravel_multi_index([run.outputs[0] for run in box], geometry.output_size))
        begin = int(indptr[first * count if last else first])
        _strided(data, begin, shape, steps)[...] = weights.reshape(shape[-3:])
        target = _strided(indices, begin, shape, steps)
        pixels = [_pixels(geometry, axis, run, padding_mode) for axis, run in enumerate(box)]
        rows = max(BLOCK_ENTRIES // (math.prod(shape[1:-3]) * entries), 1)
        for start in range(0, shape[0], rows):
            part = [pixels[0][start : start + rows], *pixels[1:]]
            columns = _columns(part, pixel_steps, depth, channel_step, last).astype(index)
            out = target[start : start + rows]
            np.add(columns[..., None, None, :], group_columns[:, None, None], out=out)
    return data, indices, indptr


def _row_lengths(
    runs: Sequence[Sequence[Run]], count: int, depth: int, channels_last: bool
) -> NDArray[np.int64]:
    """Entries in each row of M."""
    lengths = np.array(depth)
    for along in runs:
        line = [np.full(len(run.outputs), len(run.starts)) for run in along]
        lengths = np.multiply.outer(lengths, np.concatenate(line))
    flat = lengths.reshape(-1)
    return flat.repeat(count) if channels_last else np.tile(flat, count)


def _pixels(geometry: ConvGeometry, axis: int, run: Run, padding_mode: str) -> NDArray[np.intp]:
    """The pixels that a run's outputs meet along one axis, (outputs, pixels), ascending."""
    met = _positions(geometry, axis, np.asarray(run.outputs)[:, None], run.taps[run.starts])
    if padding_mode == "zeros":
        return met
    pixels: NDArray[np.intp] = padding_source(met, geometry.input_size[axis], padding_mode)
    return pixels


def _by_pixel(filters: NDArray[Any], box: Sequence[Run]) -> NDArray[Any]:
    """The weights (K, *kernel, C/groups) as a box's outputs see them, (K, *pixels, C/groups)."""
    for axis, run in enumerate(box, 1):
        filters = filters.take(run.taps, axis)
        if len(run.starts) < len(run.taps):
            with np.errstate(all="ignore"):
                filters = np.add.reduceat(filters, run.starts, axis, dtype=filters.dtype)
    return filters


def _columns(
    pixels: list[NDArray[np.intp]], steps: list[int], depth: int, channel_step: int, channels_last: bool
) -> NDArray[np.intp]:
    """The columns of M that a box's outputs meet in their first group, (*outputs, entries), ascending."""
    axes = len(pixels)
    columns = np.arange(depth) * channel_step
    columns = columns.reshape(-1 if channels_last else (-1, *(1,) * axes))
    for axis, (met, step) in enumerate(zip(pixels, steps, strict=True)):
        shape = [1] * (2 * axes + 1)
        shape[axis] = met.shape[0]
        shape[axes + axis + (0 if channels_last else 1)] = met.shape[1]
        columns = columns + met.reshape(shape) * step
    return columns.reshape(*columns.shape[:axes], -1)


def _strided(array: NDArray[Any], begin: int, shape: tuple[int, ...], steps: list[int]) -> NDArray[Any]:
    """A writable view of elements at equal steps along each axis, checked to lie within the array."""
    last = begin + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if not 0 <= last < len(array):
        raise GeometryError("input_shape", f"entry {last} of {len(array)} does not exist; this is a bug")
    return as_strided(array[begin:], shape, [step * array.itemsize for step in steps])
