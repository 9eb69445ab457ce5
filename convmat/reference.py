"""The definition of convolution, its transpose and gradients, unrolling, folding and flattening in loops.

It is NumPy, and nothing of convmat.

It finds output sizes by sliding the kernel until it leaves the input, padding by trying, and padded pixels
by walking, and never by a formula, so that a mistake in the geometry cannot hide in both sides of a
comparison. Names and layouts are those of the public functions; arguments are taken as right. It is
long because it imports nothing: all that a definition stands on is here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Hands on the steps of long work, of which there are so many."""


def _unwatched(steps: Iterable[Any], _: int) -> Iterable[Any]:
    return steps


_WEIGHTS = 1 << 22  # of a tap that are widened at a time

Values = Callable[[NDArray[Any]], NDArray[Any]]
"""From numbers to what is computed with in their place."""


def _themselves(a: NDArray[Any]) -> NDArray[Any]:
    return a


Axis = tuple[list[int], list[int]]
"""Along one axis: where the kernel starts, one position for each output, and the offsets of its taps."""


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Any = 1, padding: Any = "valid", dilation: Any = 1
) -> tuple[int, ...]:
    """(H_out, W_out), counted."""
    return tuple(len(starts) for starts, _ in _axes(size, kernel, stride, padding, dilation))


def convolve(
    x: NDArray[Any],
    filters: NDArray[Any],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    bias: NDArray[Any] | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
) -> NDArray[Any]:
    """Eq. 2 (Eq. 3 with `flip`) in loops: Python's own numbers, so integers of any size are exact.

    Returns (N, *out, K): int64, float64 or complex128. Slow: for small inputs.
    """
    size, kernel = x.shape[1:-1], filters.shape[1:-1]
    along = _axes(size, kernel, stride, padding, dilation)
    outputs = [range(len(starts)) for starts, _ in along]
    per_group, channels = len(filters) // groups, filters.shape[-1]
    pixels, weights = x.tolist(), filters.tolist()
    y = np.empty((len(x), *map(len, outputs), len(filters)), object)
    for n, k in itertools.product(range(len(x)), range(len(filters))):
        first = (k // per_group) * channels
        for position in itertools.product(*outputs):
            total = 0 if bias is None else bias[k].item()
            for tap in itertools.product(*map(range, kernel)):
                place = _place(along, position, tap)
                inside = [_walk(p, h, padding_mode) for p, h in zip(place, size, strict=True)]
                weight_at = _turned(tap, kernel) if flip else tap
                for c in range(channels):
                    value = 0 if None in inside else _at(pixels, (n, *inside, first + c))
                    total += value * _at(weights, (k, *weight_at, c))
            y[(n, *position, k)] = total
    kinds = x.dtype.kind + filters.dtype.kind + ("" if bias is None else bias.dtype.kind)
    return y.astype(_exact_dtype(kinds))


class Products(NamedTuple):
    """What is multiplied in place of each pixel and weight, and added up, in which dtype."""

    pixels: Values = _themselves
    weights: Values = _themselves
    bias: NDArray[Any] | None = None
    sums: Any = None
    """None is int64, float64 or complex128, as the factors are; who names another knows that it will do."""


def convolve_by_taps(
    x: NDArray[Any],
    filters: NDArray[Any],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    bias: NDArray[Any] | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    band: Sequence[slice] = (),
    pixels: Values = _themselves,
    weights: Values = _themselves,
    outside: int = 0,
    sums: Any = None,
) -> NDArray[Any]:
    """The same sum, one kernel tap at a time over whole images, for images of real size.

    `band` keeps only those images, and those outputs along each spatial axis, so that a large result can be
    had in parts. `pixels` and `weights` give what is multiplied in place of each, their magnitudes, say;
    `outside` is what padding with zeros holds before; `sums` is the dtype to add in, see `Products`.
    Integers must have sums within int64; others are summed in float64 or complex128.
    """
    products = [Products(pixels, weights, bias, sums)]
    window = (stride, padding, dilation, groups, flip, padding_mode)
    return sums_by_taps(x, filters, products, *window, band=band, outside=outside)[0]


def sums_by_taps(
    x: NDArray[Any],
    filters: NDArray[Any],
    products: Sequence[Products],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    band: Sequence[slice] = (),
    outside: int = 0,
) -> list[NDArray[Any]]:
    """Several sums of one layer, as `convolve_by_taps` has each; what a tap sees is looked up once."""
    size, kernel = x.shape[1:-1], filters.shape[1:-1]
    x, along = _banded(x, _axes(size, kernel, stride, padding, dilation), band)
    outputs = tuple(len(starts) for starts, _ in along)
    shape = (groups, len(x), *outputs, len(filters) // groups)
    results = [np.zeros(shape, _dtype_of(of, x, filters)) for of in products]
    places = _places(along, x, padding_mode)
    for tap in itertools.product(*map(range, kernel)):
        seen = _seen_by(tap, places, x, outside)
        weight_at: tuple[Any, ...] = (slice(None), *(_turned(tap, kernel) if flip else tap))
        for y, of in zip(results, products, strict=True):
            _add_tap(y, of.pixels(seen), filters[weight_at], of.weights)
    whole = [np.moveaxis(y, 0, -2).reshape(len(x), *outputs, len(filters)) for y in results]
    return [
        y if of.bias is None else y + of.bias.astype(y.dtype) for y, of in zip(whole, products, strict=True)
    ]


def _dtype_of(of: Products, x: NDArray[Any], filters: NDArray[Any]) -> np.dtype[Any]:
    kinds = of.pixels(x[:0]).dtype.kind + of.weights(filters[:0]).dtype.kind
    return np.dtype(of.sums or _exact_dtype(kinds + ("" if of.bias is None else of.bias.dtype.kind)))


def _add_tap(y: NDArray[Any], seen: NDArray[Any], filters: NDArray[Any], weights: Values) -> None:
    """Add what a tap sees times its weights, (K, C/groups), to the sums of each group.

    y is (groups, N, *out, K/groups); some filters are taken at a time.
    """
    seen = seen.astype(y.dtype, copy=False)
    own, channels = y.shape[-1], filters.shape[-1]
    step = max(_WEIGHTS // max(channels, 1), 1)
    for g, start in itertools.product(range(len(y)), range(0, own, step)):
        stop = min(start + step, own)
        w = weights(filters[g * own + start : g * own + stop]).astype(y.dtype)
        sums = y[g, ..., start:stop]
        sums += seen[..., g * channels : (g + 1) * channels] @ w.T


def unroll(
    x: NDArray[Any],
    kernel_size: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    padding_mode: str = "zeros",
    order: str = "hwc",
) -> NDArray[Any]:
    """Algorithm 1: each patch of each image, flattened, is the next row."""
    size, channels = x.shape[1:-1], x.shape[-1]
    along = _axes(size, kernel_size, stride, padding, dilation)
    columns = _columns(kernel_size, channels, order)
    rows = []
    for n in range(len(x)):
        for position in itertools.product(*(range(len(starts)) for starts, _ in along)):
            row = np.zeros(len(columns), x.dtype)
            for col, (tap, c) in enumerate(columns):
                place = _place(along, position, tap)
                inside = [_walk(p, h, padding_mode) for p, h in zip(place, size, strict=True)]
                if None not in inside:
                    row[col] = x[(n, *inside, c)]
            rows.append(row)
    return np.array(rows, x.dtype).reshape(len(rows), len(columns))


def unroll_by_taps(
    x: NDArray[Any],
    kernel_size: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    padding_mode: str = "zeros",
    order: str = "hwc",
    band: Sequence[slice] = (),
    outside: int = 0,
) -> NDArray[Any]:
    """The same matrix by the pixels that taps see along each axis, for images of real size.

    `band` keeps only those images, and those outputs along each spatial axis; `outside` is what padding with
    zeros holds.
    """
    x, along = _banded(x, _axes(x.shape[1:-1], kernel_size, stride, padding, dilation), band)
    places = _places(along, x, padding_mode)
    seen = _seen([[p for of_tap in of_axis for p in of_tap] for of_axis in places], x, outside)
    counts = [count for starts, taps in along for count in (len(taps), len(starts))]
    seen = seen.reshape(len(x), *counts, x.shape[-1])
    tap_axes, last = [*range(1, 2 * len(along), 2)], 2 * len(along) + 1
    columns = [last, *tap_axes] if order == "chw" else [*tap_axes, last]
    patches = seen.transpose(0, *range(2, last, 2), *columns)
    rows = len(x) * math.prod(len(starts) for starts, _ in along)
    return patches.reshape(rows, math.prod(len(taps) for _, taps in along) * x.shape[-1])


class Term(NamedTuple):
    """One product of a sum."""

    tap: tuple[int, ...]
    channel: int
    """Of the filter: within the group."""
    position: tuple[int, ...]
    """Where the tap lies, inside the input or beyond its edge."""
    pixel: tuple[int, ...] | None
    """(n, *pixel, c) in the input; None for a zero of the padding."""
    value: Any
    weight: Any


def terms(
    x: NDArray[Any],
    filters: NDArray[Any],
    at: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
) -> list[Term]:
    """What is summed for the output at (n, *position, k), in the order of a row of X_col."""
    size, kernel = x.shape[1:-1], filters.shape[1:-1]
    n, *position, k = at
    along = _axes(size, kernel, stride, padding, dilation)
    first = (k // (len(filters) // groups)) * filters.shape[-1]
    summed = []
    for tap in itertools.product(*map(range, kernel)):
        place = tuple(_place(along, position, tap))
        inside = [_walk(p, h, padding_mode) for p, h in zip(place, size, strict=True)]
        weights = filters[(k, *(_turned(tap, kernel) if flip else tap))]
        for c, weight in enumerate(weights.tolist()):
            pixel = None if None in inside else (n, *(p or 0 for p in inside), first + c)
            value = 0 if pixel is None else x[pixel].item()
            summed.append(Term(tap, c, place, pixel, value, weight))
    return summed


def fold(
    x_col: NDArray[Any],
    input_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    overlap: str = "sum",
    order: str = "hwc",
    watch: Watch = _unwatched,
) -> NDArray[Any]:
    """Each element goes back to its pixel, where all that meet are added, or averaged; 0 where none comes.

    Returns (N, *spatial, C): int64, float64 or complex128; a mean of integers is float64.
    """
    size, channels = input_shape[1:-1], input_shape[-1]
    along = _axes(size, kernel_size, stride, padding, dilation)
    columns = _columns(kernel_size, channels, order)
    met: dict[tuple[int, ...], list[Any]] = {}
    patches = itertools.product(range(input_shape[0]), *(range(len(starts)) for starts, _ in along))
    for row, (n, *position) in zip(x_col, watch(patches, len(x_col)), strict=True):
        for (tap, c), value in zip(columns, row.tolist(), strict=True):
            place = tuple(_place(along, position, tap))
            if all(0 <= p < h for p, h in zip(place, size, strict=True)):
                met.setdefault((n, *place, c), []).append(value)
    mean = overlap == "mean"
    image = np.zeros(tuple(input_shape), _exact_dtype(x_col.dtype.kind + ("f" if mean else "")))
    for pixel, values in met.items():
        image[pixel] = sum(values) / len(values) if mean else sum(values)
    return image


def convolve_transpose(
    y: NDArray[Any],
    filters: NDArray[Any],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = 0,
    input_shape: Sequence[int] | None = None,
    bias: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Each number of Y lays its filter, times itself, on the output; what lies in the padding is cut off.

    Returns (N, *spatial, C): int64, float64 or complex128.
    """
    kernel, channels = filters.shape[1:-1], filters.shape[-1]
    per_group = len(filters) // groups
    if input_shape is not None:
        along = _axes(input_shape[1:-1], kernel, stride, padding, dilation)
        size = list(input_shape[1:-1])
    else:
        along, size = _lay(y.shape[1:-1], kernel, stride, padding, dilation, output_padding)
    numbers, weights = y.tolist(), filters.tolist()
    x = np.zeros((len(y), *size, channels * groups), object)
    taps = list(itertools.product(*map(range, kernel)))
    for position, tap in itertools.product(itertools.product(*map(range, y.shape[1:-1])), taps):
        place = tuple(_place(along, position, tap))
        if not all(0 <= p < h for p, h in zip(place, size, strict=True)):
            continue
        for n, k in itertools.product(range(len(y)), range(len(filters))):
            number, first = _at(numbers, (n, *position, k)), (k // per_group) * channels
            for c, weight in enumerate(_at(weights, (k, *tap))):
                x[(n, *place, first + c)] += number * weight
    if bias is not None:
        for c in range(channels * groups):
            x[..., c] += bias[c].item()
    kinds = y.dtype.kind + filters.dtype.kind + ("" if bias is None else bias.dtype.kind)
    return x.astype(_exact_dtype(kinds))


def transposed_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    output_padding: Any = 0,
) -> tuple[int, ...]:
    """The size of a transposed convolution's output, counted; 0 or less where nothing is left."""
    return tuple(_lay(size, kernel, stride, padding, dilation, output_padding)[1])


def input_gradient(
    dy: NDArray[Any],
    filters: NDArray[Any],
    input_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    band: Sequence[slice] = (),
    slopes: Values = _themselves,
    weights: Values = _themselves,
) -> NDArray[Any]:
    """dX: each number of dY, times a weight, is added to the pixel that the weight was multiplied with.

    dX[n, p, c] = Σ dY[n, y, k]·W[k, tap, c] over the outputs y, taps and filters k that see the pixel p,
    in the padding, too, where a `padding_mode` shows it again. `band` keeps only those images, and those
    pixels along each spatial axis. `slopes` and `weights` give what is multiplied in place of dY and W.
    """
    size, kernel, channels = input_shape[1:-1], filters.shape[1:-1], filters.shape[-1]
    along = _axes(size, kernel, stride, padding, dilation)
    images, *lines = _kept((len(dy), *size), band)
    dtype = _exact_dtype(slopes(dy[:0]).dtype.kind + weights(filters[:0]).dtype.kind)
    per_group = len(filters) // groups
    dx = np.zeros((len(images), *map(len, lines), channels * groups), dtype)
    for tap in itertools.product(*map(range, kernel)):
        weight_at: tuple[Any, ...] = (slice(None), *(_turned(tap, kernel) if flip else tap))
        w = weights(filters[weight_at]).astype(dtype)
        rounds = [
            _rounds([start + taps[i] for start in starts], h, padding_mode, line)
            for (starts, taps), i, h, line in zip(along, tap, size, lines, strict=True)
        ]
        for met in itertools.product(*rounds):
            outputs, pixels = zip(*met, strict=True)
            part = slopes(dy[np.ix_(images, *outputs)]).astype(dtype, copy=False)
            seen = [
                part[..., g * per_group : (g + 1) * per_group] @ w[g * per_group : (g + 1) * per_group]
                for g in range(groups)
            ]
            dx[np.ix_(np.arange(len(images)), *pixels)] += np.concatenate(seen, -1)
    return dx


def weight_gradient(
    x: NDArray[Any],
    dy: NDArray[Any],
    kernel_size: Sequence[int],
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    band: Sequence[slice] = (),
    part: Sequence[slice] = (),
    pixels: Values = _themselves,
    slopes: Values = _themselves,
) -> NDArray[Any]:
    """dW: each pixel that a weight was multiplied with, times what dY is there, is added to the weight.

    dW[k, tap, c] = Σ x[n, seen by tap from y, c]·dY[n, y, k] over all images n and outputs y; over those of
    `part` alone, if it is given. `band` keeps only those filters, and those taps along each spatial axis.
    """
    x, along = _banded(x, _axes(x.shape[1:-1], kernel_size, stride, padding, dilation), part)
    filters, *taps = _kept((dy.shape[-1], *kernel_size), band)
    dtype = _exact_dtype(pixels(x[:0]).dtype.kind + slopes(dy[:0]).dtype.kind)
    channels, per_group = x.shape[-1] // groups, dy.shape[-1] // groups
    towards = slopes(dy[tuple(part)][..., filters.start : filters.stop]).astype(dtype, copy=False)
    towards = towards.reshape(-1, len(filters))
    dw = np.zeros((len(filters), *map(len, taps), channels), dtype)
    places = _places(along, x, padding_mode)
    for at in itertools.product(*map(range, map(len, taps))):
        tap = tuple(line[i] for line, i in zip(taps, at, strict=True))
        tap = _turned(tap, kernel_size) if flip else tap
        seen = pixels(_seen_by(tap, places, x)).astype(dtype, copy=False)
        seen = seen.reshape(-1, channels * groups)
        for g in range(filters.start // per_group, -(-filters.stop // per_group)):
            own = slice(max(g * per_group - filters.start, 0), (g + 1) * per_group - filters.start)
            where: tuple[Any, ...] = (own, *at)
            dw[where] = towards[:, own].T @ seen[:, g * channels : (g + 1) * channels]
    return dw


def bias_gradient(dy: NDArray[Any], part: Sequence[slice] = (), slopes: Values = _themselves) -> NDArray[Any]:
    """db: what dY is at all outputs of all images, added up for each filter; of those of `part` alone."""
    towards = slopes(dy[tuple(part)]).reshape(-1, dy.shape[-1])
    return np.asarray(towards.sum(0, _exact_dtype(towards.dtype.kind)))


def flatten_filters(filters: NDArray[Any], order: str = "hwc", watch: Watch = _unwatched) -> NDArray[Any]:
    """Each filter, flattened, is the next column."""
    *kernel, channels = filters.shape[1:]
    columns = _columns(kernel, channels, order)
    w_col = np.zeros((len(columns), len(filters)), filters.dtype)
    for row, (tap, c) in enumerate(watch(columns, len(columns))):
        for k in range(len(filters)):
            w_col[row, k] = filters[(k, *tap, c)]
    return w_col


def _columns(kernel: Sequence[int], channels: int, order: str) -> list[tuple[tuple[int, ...], int]]:
    """The tap and the channel of each column of X_col."""
    taps = list(itertools.product(*map(range, kernel)))
    if order == "chw":
        return [(tap, c) for c in range(channels) for tap in taps]
    return [(tap, c) for tap in taps for c in range(channels)]


def _places(along: list[Axis], x: NDArray[Any], padding_mode: str) -> list[list[list[int | None]]]:
    """The pixel that each tap sees from each position, along each axis; None for a zero."""
    return [
        [[_walk(start + tap, h, padding_mode) for start in starts] for tap in taps]
        for (starts, taps), h in zip(along, x.shape[1:-1], strict=True)
    ]


def _seen_by(
    tap: Sequence[int], places: list[list[list[int | None]]], x: NDArray[Any], zero: int = 0
) -> NDArray[Any]:
    """The pixels that one tap sees from every position, (N, *out, C)."""
    return _seen([of_axis[i] for of_axis, i in zip(places, tap, strict=True)], x, zero)


def _seen(lines: Sequence[Sequence[int | None]], x: NDArray[Any], zero: int = 0) -> NDArray[Any]:
    """Pixels by their indices along each spatial axis, (N, *lines, C); `zero` where an index is None."""
    pixels = [np.array([p or 0 for p in line], np.intp) for line in lines]
    seen = x[np.ix_(np.arange(len(x)), *pixels)]
    for axis, line in enumerate(lines):
        outside = [y_at for y_at, p in enumerate(line) if p is None]
        seen[(slice(None),) * (axis + 1) + (outside,)] = zero
    return seen


def _kept(shape: Sequence[int], band: Sequence[slice]) -> list[range]:
    """What a band keeps along each axis."""
    parts = [*band, *(slice(None) for _ in shape[len(band) :])]
    return [range(h)[part] for h, part in zip(shape, parts, strict=True)]


def _rounds(
    places: Sequence[int], size: int, padding_mode: str, kept: range
) -> list[tuple[list[int], list[int]]]:
    """Along one axis, which outputs see which pixels of those kept, in rounds where no pixel comes twice."""
    rounds: list[tuple[list[int], list[int]]] = []
    times: dict[int, int] = {}
    for output, place in enumerate(places):
        pixel = _walk(place, size, padding_mode)
        if pixel is None or pixel not in kept:
            continue
        turn = times.get(pixel, 0)
        times[pixel] = turn + 1
        if turn == len(rounds):
            rounds.append(([], []))
        rounds[turn][0].append(output)
        rounds[turn][1].append(pixel - kept.start)
    return rounds


def _banded(x: NDArray[Any], along: list[Axis], band: Sequence[slice]) -> tuple[NDArray[Any], list[Axis]]:
    """The images, and where the kernel starts along each axis, that a band keeps."""
    kept = [*band[1:], *(slice(None) for _ in along)]
    return x[tuple(band[:1])], [
        (starts[part], taps) for (starts, taps), part in zip(along, kept, strict=False)
    ]


def _axes(size: Sequence[int], kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> list[Axis]:
    steps = (_each(value, len(size)) for value in (stride, padding, dilation))
    return [_slide(*of_axis) for of_axis in zip(size, kernel, *steps, strict=True)]


def _lay(
    size: Sequence[int], kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, output_padding: Any
) -> tuple[list[Axis], list[int]]:
    """Where a transposed convolution lays its kernels, and how far they reach once the padding is cut off."""
    along, reached = [], []
    steps = (_each(value, len(size)) for value in (stride, padding, dilation, output_padding))
    for count, k, s, rule, d, more in zip(size, kernel, *steps, strict=True):
        taps, starts = [i * d for i in range(k)], [i * s for i in range(count)]
        if rule in ("same", "same-lower"):  # promises stride pixels for each of Y's
            enlarged = sum(s for _ in starts)
            first = _slide(enlarged, k, s, rule, d)[0][0]
            along.append(([first + start for start in starts], taps))
            reached.append(enlarged)
            continue
        before, after = _pads(rule, 0, taps, s, lambda *_: [])
        along.append(([start - before for start in starts], taps))
        reached.append(starts[-1] + taps[-1] + 1 - before - after + more)
    return along, reached


def _each(value: Any, axes: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * axes


def _slide(size: int, k: int, stride: int, padding: Any, dilation: int) -> Axis:
    taps = [i * dilation for i in range(k)]

    def starts(before: int, after: int) -> list[int]:
        passed, start = [], -before
        while start + taps[-1] < size + after:
            passed.append(start)
            start += stride
        return passed

    return starts(*_pads(padding, size, taps, stride, starts)), taps


def _pads(
    padding: Any,
    size: int,
    taps: list[int],
    stride: int,
    starts: Callable[[int, int], list[int]],
) -> tuple[int, int]:
    """(before, after), from what each rule's name promises."""
    if padding == "valid":
        return 0, 0
    if padding == "half":
        return (taps[-1] + 1) // 2, (taps[-1] + 1) // 2
    if padding == "full":  # the first tap, then the last, alone in the input
        return taps[-1], taps[-1]
    if padding in ("same", "same-lower"):
        wanted = len(range(0, size, stride))
        total = next(t for t in itertools.count() if len(starts(0, t)) >= wanted)
        less = total // 2
        return (less, total - less) if padding == "same" else (total - less, less)
    before, after = padding if isinstance(padding, list | tuple) else (padding, padding)
    return before, after


def _place(along: list[Axis], position: Sequence[int], tap: Sequence[int]) -> Iterator[int]:
    return (starts[y] + taps[i] for (starts, taps), y, i in zip(along, position, tap, strict=True))


def _walk(p: int, size: int, padding_mode: str) -> int | None:
    """The pixel that is seen at `p`, inside the input or beyond its edge; None for a zero."""
    while not 0 <= p < size:
        if padding_mode == "zeros":
            return None
        if padding_mode == "replicate":
            p += 1 if p < 0 else -1
        elif padding_mode == "circular":
            p += size if p < 0 else -size
        elif size == 1:
            p = 0
        else:  # bounce off the edge pixel
            p = -p if p < 0 else (size - 1) - (p - (size - 1))
    return p


def _turned(tap: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    return tuple(k - 1 - i for i, k in zip(tap, kernel, strict=True))


def _at(nested: Any, index: Sequence[Any]) -> Any:
    for i in index:
        nested = nested[i]
    return nested


def _exact_dtype(kinds: str) -> np.dtype[Any]:
    if "c" in kinds:
        return np.dtype(np.complex128)
    return np.dtype(np.float64 if "f" in kinds else np.int64)
