"""`unroll`, `convolve`, `convolve_transpose` and `fold` of Dask arrays, a chunk at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, SupportsIndex

import dask.array as da
import numpy as np
from dask._task_spec import Task, convert_legacy_graph
from dask.base import tokenize
from dask.blockwise import optimize_blockwise
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import ArrayLike

from convmat import adjoint, engine, folding, patches
from convmat.arrays import bias_numbers
from convmat.axis import PADDING_MODES, kernel_extent
from convmat.checks import choice, spatial_shape
from convmat.dask.operands import Operands, checked, images
from convmat.dask.windows import (
    Array,
    Bounds,
    Index,
    Line,
    Reached,
    Result,
    Window,
    bounds_of,
    graph_of,
    lines_of,
    outputs_of,
    ranges,
    reached_along,
    seen_along,
)
from convmat.geometry import ORDERS, ConvGeometry, Padding, Sizes
from convmat.patches import geometry_of, settled, settled_where
from convmat.plan import filter_geometry
from convmat.quantization import Quantization
from convmat.threads import thread_count

_BAND_BYTES = 1 << 22
"""Of a window that is put together at a time."""

_ALONG = 1 << 16
"""Bytes of operands that each task has with it; larger ones are a task of their own, and sent once."""


def unroll(
    x: da.Array,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    padding_mode: str = "zeros",
    *,
    order: str = "hwc",
    threads: int = 1,
) -> da.Array:
    """Unroll images into X_col, (N·H_out·W_out, kh·kw·C), lazily; see `convmat.unroll`.

    Its rows run over (n, y, x), so a chunk of it has whole images or, where spatial axes are chunked, some
    whole lines of one; it sees all chunks of x along the later axes. Chunk x along N alone, or one image
    along its first spatial axis, where that matters: halos are all that is moved then.

    Args:
        x: (N, *spatial, C). threads: that each task works with; the tasks beside it have the other cores.
    """
    x = images("input", x)
    geometry = geometry_of(x.shape, kernel_size, stride, padding, dilation)
    choice("padding_mode", padding_mode, PADDING_MODES)
    choice("order", order, ORDERS)
    bounds = list(map(bounds_of, x.chunks))
    boxes = [box for some in ranges(bounds[0]) for box in _boxes(geometry, some, bounds[1:-1])]
    how = _layer(geometry) | {"kernel_size": geometry.kernel_size}
    how |= {"padding_mode": padding_mode, "order": order, "threads": thread_count(threads)}
    results, counts = [], []
    batches, channels = _ends([some for some, _ in boxes], bounds)
    for i, (some, first) in enumerate(boxes):
        outputs = [first, *map(range, geometry.output_size[1:])]
        seen = [seen_along(geometry, a, bounds[a + 1], padding_mode, o) for a, o in enumerate(outputs)]
        counts.append(len(some) * math.prod(map(len, outputs)))
        work = partial(_unrolled, padding=tuple(s.pads for s in seen), **how)
        results.append(Result((i, 0), (batches[i], *(s.line for s in seen), channels), work))
    chunks = (tuple(counts), geometry.matrix_shape[1:])
    return _array("unroll", x, results, chunks, x.dtype, how | {"padding": geometry.pads})


def convolve(
    x: da.Array,
    filters: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    quantization: Quantization | None = None,
    threads: int = 1,
) -> da.Array:
    """Convolve images with filters, lazily; see `convmat.convolve`.

    Args:
        x: (N, *spatial, C), chunked in any way; chunks along C are joined. The other arguments are those of
            `convmat.convolve`, filters and bias in memory.
        threads: that each task works with; the tasks beside it have the other cores. Here, as in the other
            functions, it is 1 if not said.

    Returns:
        Y, (N, *out, K): in each chunk of it are the outputs whose windows' middles lie in a chunk of x.

    Raises:
        As `convmat.convolve`; of integers whose sums could pass 2^63, when it is computed.
    """
    x = images("input", x)
    operands = Operands.of(filters, bias)
    geometry = filter_geometry(x.shape, operands.filters.shape, stride, padding, dilation, groups)
    how = _layer(geometry) | {"groups": geometry.groups, "flip": flip, "padding_mode": padding_mode}
    how |= {"quantization": quantization}
    dtype = operands.convolved(x, padding=geometry.pads, **how)
    bounds = list(map(bounds_of, x.chunks))
    along = [
        [seen_along(geometry, a, b, padding_mode, outputs) for outputs in outputs_of(geometry, a, b)]
        for a, b in enumerate(bounds[1:-1])
    ]
    some = ranges(bounds[0])
    batches, channels = _ends(some, bounds)
    chunked = next((a for a, b in enumerate(bounds[1:-1]) if len(b) > 2), None)
    how["threads"] = thread_count(threads)
    results = [
        Result(
            (*index, 0),
            (batches[index[0]], *(s.line for s in seen), channels),
            partial(_convolved, padding=tuple(s.pads for s in seen), chunked=chunked, **how),
        )
        for index, seen in _grid(len(some), along)
    ]
    chunks = _chunks(some, [[s.outputs for s in seen] for seen in along], len(operands.filters))
    how["padding"] = geometry.pads
    fill = 0 if quantization is None else quantization.input_zero_point
    return _array("convolve", x, results, chunks, dtype, how, operands, fill)


def convolve_transpose(
    y: da.Array,
    filters: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    output_padding: Sizes = 0,
    input_shape: Sequence[SupportsIndex] | None = None,
    *,
    bias: ArrayLike | None = None,
    threads: int = 1,
) -> da.Array:
    """Transposed convolution, fold(Y · W_colᵀ), lazily; see `convmat.convolve_transpose`.

    Args:
        y: (N, *out, K), chunked in any way; chunks along K are joined. threads: as `convolve` takes them.

    Returns:
        (N, *spatial, C), cut where `convolve` would have made the chunks of y of its.
    """
    y = images("input", y)
    operands = Operands.of(filters, bias)
    where = (*settled_where(stride, padding, dilation, groups), settled("output_padding", output_padding))
    shape = None if input_shape is None else spatial_shape("input_shape", input_shape)
    geometry = adjoint.checked_geometry(y.shape, operands.filters.shape, *where, shape)
    if operands.bias is not None:
        bias_numbers(operands.bias, geometry.channels, "channels")
    dtype = operands.transposed(y)
    bounds = list(map(bounds_of, y.chunks))
    along = [
        [reached_along(geometry, a, lines, b[-1]) for lines in lines_of(geometry, a, b)]
        for a, b in enumerate(bounds[1:-1])
    ]
    some = ranges(bounds[0])
    batches, channels = _ends(some, bounds)
    how: dict[str, Any] = {"geometry": geometry, "dtype": dtype, "threads": thread_count(threads)}
    results = []
    for index, reached in _grid(len(some), along):
        spatial = [Line.of_range(r.outputs, b) for r, b in zip(reached, bounds[1:-1], strict=True)]
        lines = (batches[index[0]], *spatial, channels)
        results.append(Result((*index, 0), lines, partial(_transposed, reached=reached, **how)))
    chunks = _chunks(some, [[r.lines for r in reached] for reached in along], geometry.channels)
    return _array("convolve-transpose", y, results, chunks, dtype, how, operands)


def fold(
    x_col: da.Array,
    input_shape: Sequence[SupportsIndex],
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    overlap: str = "sum",
    *,
    order: str = "hwc",
    threads: int = 1,
) -> da.Array:
    """Put the patches of X_col back where `unroll` took them from, lazily; see `convmat.fold`.

    Args:
        x_col: (N·P, kh·kw·C), or (N, P, kh·kw·C); chunks along its columns are joined. threads: as
            `convolve` takes them.

    Returns:
        (N, *spatial, C): where each chunk of X_col has whole images, chunks of these; else as many chunks, or
        fewer, each of some images or of some lines of one.
    """
    x_col = checked("x_col", x_col)
    geometry = geometry_of(input_shape, kernel_size, stride, padding, dilation)
    folding.check_x_col(x_col.shape, geometry)
    dtype = folding.fold_dtype(x_col.dtype, geometry, overlap)
    choice("order", order, ORDERS)
    x_col = x_col.rechunk({x_col.ndim - 1: -1})
    some, bands = _folds_of(x_col.chunks[:-1], geometry)
    bounds = list(map(bounds_of, x_col.chunks))
    count, line = geometry.output_size[0], math.prod(geometry.output_size[1:])
    how: dict[str, Any] = {"geometry": geometry, "overlap": overlap, "order": order, "dtype": dtype}
    how["threads"] = thread_count(threads)
    results, (_, columns) = [], _ends([], bounds)
    for (i, n), (j, lines) in itertools.product(enumerate(some), enumerate(bands)):
        reached = reached_along(geometry, 0, lines, count)
        outputs = range(count) if len(bands) == 1 else reached.outputs
        seen = [n, range(outputs.start * line, outputs.stop * line)]
        if x_col.ndim == 2:
            seen = [folding.rows_of(n, outputs, count, line) if n else range(0)]
        rows = [Line.of_range(some_rows, b) for some_rows, b in zip(seen, bounds[:-1], strict=True)]
        work = partial(_folded, images=len(n), band=reached, **how)
        index = (i, j, *(0,) * len(geometry.output_size[1:]), 0)
        results.append(Result(index, (*rows, columns), work))
    chunks = (tuple(map(len, some)), tuple(map(len, bands)), *((s,) for s in geometry.input_shape[2:]))
    return _array("fold", x_col, results, chunks, dtype, how)


# Plan.


def _array(
    kind: str,
    x: da.Array,
    results: Sequence[Result],
    chunks: Any,
    dtype: np.dtype[Any],
    how: dict[str, Any],
    operands: Any = None,
    fill: int = 0,
) -> da.Array:
    """The Dask array that these results are the chunks of; `how` is what their name tells, beside x."""
    said = sorted((key, value) for key, value in how.items() if key != "threads")  # which change no bit
    name = f"{kind}-{tokenize(x.name, operands, chunks, said)}"
    shared: dict[Any, Any] = {}
    if operands is not None and operands.nbytes > _ALONG:
        shared, operands = {f"operands-{name}": operands}, f"operands-{name}"
    reads = reads_of(x)
    graph = graph_of(name, x.name, reads, x.dtype, results, operands, fill) | shared
    layers = HighLevelGraph.from_collections(name, graph, [] if reads else [x])
    return da.Array(layers, name, chunks, dtype)


def reads_of(x: da.Array) -> dict[Index, Any]:
    """What reads, or makes, the chunks of x, where that needs nothing that is computed before it; or none.

    Chunks that wait for their neighbours' halos would fill the memory; that they are read twice does not.
    """
    # A chain of steps, each of one chunk, becomes one.
    layers = optimize_blockwise(x.dask, [x.name])
    if layers.dependencies.get(x.name, True):
        return {}
    graph = convert_legacy_graph(dict(layers.layers[x.name]))
    nodes = {key[1:]: node for key, node in graph.items() if isinstance(key, tuple) and key[0] == x.name}
    if any(node.dependencies or not isinstance(node, Task) for node in nodes.values()):
        return {}
    return nodes


def _layer(geometry: ConvGeometry) -> dict[str, Any]:
    return {"stride": geometry.stride, "dilation": geometry.dilation}


def _grid(images: int, along: Sequence[Sequence[Any]]) -> Iterator[tuple[Index, tuple[Any, ...]]]:
    """Each place in a grid of chunks, over images and spatial axes, with what there is along the axes."""
    for n, *places in itertools.product(range(images), *map(enumerate, along)):
        yield (n, *(i for i, _ in places)), tuple(one for _, one in places)


def _ends(some: Sequence[range], bounds: Sequence[Bounds]) -> tuple[list[Line], Line]:
    """What is seen of the images of each chunk, and of the channels, which are all seen."""
    return [Line.of_range(s, bounds[0]) for s in some], Line.of_range(range(bounds[-1][-1]), bounds[-1])


def _chunks(some: Sequence[range], along: Sequence[Sequence[range]], last: int) -> tuple[Index, ...]:
    """Those of a Dask array, over images, spatial axes and channels."""
    return (*(tuple(map(len, each)) for each in (some, *along)), (last,))


def _split(whole: range, parts: int) -> list[range]:
    """A range in so many parts of about one size, or as many as it has numbers."""
    parts = max(min(parts, len(whole)), 1)
    cuts = [whole.start + len(whole) * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(cuts)]


def _boxes(geometry: ConvGeometry, images: range, spatial: Sequence[Bounds]) -> list[tuple[range, range]]:
    """The images, and the lines of outputs, that a chunk of X_col has each, of some images chunked so.

    They are no more than the chunks of these images. One image is cut where its lines are.
    """
    pieces, height = math.prod(len(b) - 1 for b in spatial), geometry.output_size[0]
    if len(images) == 1:
        lines = outputs_of(geometry, 0, spatial[0])
        each = pieces // len(lines)
        return [(images, part) for some in lines for part in _split(some, each)]
    some, lines = _shares(images, height, pieces)
    return list(itertools.product(some, lines))


def _shares(images: range, height: int, parts: int) -> tuple[list[range], list[range]]:
    """Images of so many lines in parts, at most so many: some whole images each, or some lines of one."""
    return _split(images, parts), _split(range(height), parts // max(len(images), 1))


def _folds_of(chunks: tuple[Index, ...], geometry: ConvGeometry) -> tuple[list[range], list[range]]:
    """The images, and the lines along their first axis, that chunks of X_col's rows are folded into.

    Args:
        chunks: along N·P, or along N and P.
    """
    whole, first = [range(geometry.input_size[0])], chunks[0]
    if len(chunks) == 2 and len(chunks[1]) == 1:
        return ranges(bounds_of(first)), whole
    if len(chunks) == 1 and all(count % geometry.patches == 0 for count in first):
        return ranges(bounds_of([count // geometry.patches for count in first])), whole
    return _shares(range(geometry.batch), len(whole[0]), math.prod(map(len, chunks)))


# Run: what tasks do.


def _unrolled(x: Window, _: None, **how: Any) -> Array:
    return patches.unroll(x.lines(), **how)


def _convolved(
    x: Window,
    operands: Operands,
    *,
    chunked: int | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    **how: Any,
) -> Array:
    """A box of Y; where its window is put together of several chunks, some lines of that at a time.

    `chunked` is the first spatial axis along which it is.
    """
    filters, layer = operands.filters, {"stride": stride, "dilation": dilation, "bias": operands.bias, **how}
    if chunked is None:
        return engine.convolve(x.lines(), filters, **layer)
    axis, step = chunked + 1, stride[chunked]
    extent = kernel_extent(filters.shape[axis], dilation[chunked])
    count = (x.shape[axis] - extent) // step + 1
    line = math.prod(x.shape) // x.shape[axis] * x.dtype.itemsize
    each, y = max(_BAND_BYTES // max(line * step, 1), 1), None
    for first in range(0, count, each):
        last = min(first + each, count)
        part = engine.convolve(
            x.lines(axis, range(first * step, (last - 1) * step + extent)), filters, **layer
        )
        if y is None:
            y = np.empty((*part.shape[:axis], count, *part.shape[axis + 1 :]), part.dtype)
        y[(slice(None),) * axis + (slice(first, last),)] = part
    assert y is not None  # a chunk has an output
    return y


def _transposed(
    window: Window,
    operands: Operands,
    *,
    geometry: ConvGeometry,
    reached: Sequence[Reached],
    dtype: np.dtype[Any],
    threads: int,
) -> Array:
    """A box of the transposed convolution, from the outputs that reach it."""
    y = window.lines()
    shape, made = (len(y), *(len(r.lines) for r in reached), geometry.channels), None
    if y.size:
        pads = tuple(r.pads for r in reached)
        layer = (geometry.stride, pads, geometry.dilation, geometry.groups)
        made = adjoint.convolve_transpose(y, operands.filters, *layer, bias=operands.bias, threads=threads)
        if made.shape == shape:
            return made
    x = np.zeros(shape, dtype)  # where nothing reaches there is the bias
    if operands.bias is not None:
        with np.errstate(all="ignore"):
            x[...] = operands.bias.astype(dtype)
    if made is not None:
        x[(slice(None), *(r.covered for r in reached))] = made
    return x


def _folded(
    window: Window,
    _: None,
    *,
    geometry: ConvGeometry,
    images: int,
    band: Reached,
    dtype: np.dtype[Any],
    **how: Any,
) -> Array:
    """A band of lines of some images, from the rows of X_col that reach it."""
    rows = window.lines()
    rows = rows.reshape(-1, rows.shape[-1])
    x = np.zeros((images, len(band.lines), *geometry.input_shape[2:]), dtype)
    if rows.size:
        whole = len(band.lines) == geometry.input_size[0]
        first, covered = (geometry.pads[0], slice(None)) if whole else (band.pads, band.covered)
        shape, pads = x[:, covered].shape, (first, *geometry.pads[1:])
        layer = (geometry.kernel_size, geometry.stride, pads, geometry.dilation)
        x[:, covered] = folding.fold(rows, shape, *layer, **how)
    return x
