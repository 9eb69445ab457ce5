"""The way back: the adjoint of `convolve`, a band of lines at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.arithmetic import choose_arithmetic
from convmat.arrays import bias_numbers, numbers
from convmat.checks import filter_groups, spatial_shape
from convmat.engine import as_floats, tidy, weights_of
from convmat.errors import ShapeError
from convmat.folding import Band, bands_of, lay_down
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.patches import allocate, settled, settled_where
from convmat.plan import BLOCK_BYTES, WORTH_THREADS, choose_kernel, parts_of
from convmat.threads import thread_count
from convmat.transposed import transpose_geometry


def convolve_transpose(
    y: ArrayLike,
    filters: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    output_padding: Sizes = 0,
    input_shape: Sequence[SupportsIndex] | None = None,
    *,
    bias: ArrayLike | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Transposed convolution: fold(Y · W_colᵀ), the adjoint of `convolve`, ⟨convolve x, y⟩ = ⟨x, this y⟩.

    So it is the gradient of a convolution by its input, and the layer called deconvolution or
    ConvTranspose. Compiled, Y · W_colᵀ is never in memory.

    Args:
        y: (N, *out, K), what a convolution with these filters gives.
        filters: (K, *kernel, C/groups), those of the convolution that is transposed.
        stride, padding, dilation, groups: of that convolution.
        output_padding: lines more at the end of each axis; 0 to max(stride, dilation) − 1.
        input_shape: (N, *spatial, C) of that convolution's input, where many would give this y: the result
            is then the exact adjoint, under any padding name. Without it the output has
            (H − 1)·S − P + D·(k − 1) + 1 + output_padding lines, or H·S for "same" and "same-lower".
        bias: (C,), added to each pixel.
        threads: as `convolve` takes them; the same bits for any number.

    Returns:
        (N, *spatial, C), in the dtype that `convolve` has.

    Raises:
        As `convolve`; GeometryError for an `input_shape` whose convolution does not give this y.
    """
    y, filters = numbers("input", y), numbers("filters", filters)
    where = (*settled_where(stride, padding, dilation, groups), settled("output_padding", output_padding))
    shape = None if input_shape is None else spatial_shape("input_shape", input_shape)
    geometry = checked_geometry(y.shape, filters.shape, *where, shape)
    if bias is not None:
        bias = bias_numbers(bias, geometry.channels, "channels")
    return _by_bands(y, filters, bias, geometry, threads)


@lru_cache(maxsize=256)
def checked_geometry(
    y_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    output_padding: Sizes,
    input_shape: tuple[int, ...] | None,
) -> ConvGeometry:
    """The geometry of the convolution that is transposed, of filters and outputs checked to fit it.

    Remembered, as layers come again and again; `settled` arguments may be remembered by.
    """
    if len(filter_shape) != len(y_shape) or 0 in filter_shape:
        raise ShapeError(
            "filters",
            f"have shape {filter_shape}, expected (K, *kernel, C/groups) with {len(y_shape)} axes, none 0",
        )
    if y_shape[-1] != filter_shape[0]:
        raise ShapeError(
            "input",
            f"has {y_shape[-1]} channels, {filter_shape[0]} filters give as many; what is transposed takes "
            "the outputs of a convolution with these filters",
        )
    filter_groups(filter_shape[0], groups)
    return transpose_geometry(
        y_shape,
        filter_shape[-1] * groups,
        filter_shape[1:-1],
        stride,
        padding,
        dilation,
        groups,
        output_padding,
        input_shape,
    )


def _by_bands(
    y: NDArray[Any],
    filters: NDArray[Any],
    bias: NDArray[Any] | None,
    geometry: ConvGeometry,
    threads: int | None,
) -> NDArray[Any]:
    """The transposed convolution of checked arrays, (N, *spatial, C), a band of lines at a time."""
    terms = math.prod(geometry.kernel_size) * len(filters) // geometry.groups
    accumulator, result, _ = choose_arithmetic(terms, y, filters, bias)
    compiled = native.library() if accumulator.kind != "i" else None
    if compiled is not None:
        filters = filters.conj()  # for `as_real`: its transpose is that of the filters themselves
    weights, bias = weights_of(filters, bias, accumulator, compiled)
    x = allocate(geometry.input_shape, result)
    direct = accumulator == result or (compiled is not None and result.kind == "i")
    layer = (geometry, y.shape, weights.shape, accumulator, direct and result.kind == "i", compiled)
    used = thread_count(threads) if threads is not None or _worth_threads(geometry, len(filters)) else 1
    for band, phases in _decided(*layer, used):
        part = y[band.images.start : band.images.stop, band.outputs.start : band.outputs.stop]
        lines = x[band.box]
        with np.errstate(all="ignore"):
            part = tidy(part.astype(accumulator, copy=False))
            sums = lines if direct else np.empty(lines.shape, accumulator)
            if compiled is not None:
                source, target, w = as_floats(part), as_floats(sums).reshape(-1), weights.reshape(-1)
                for packed, w_at, x_at in phases:
                    compiled.convolve(packed, source, w[w_at:], bias, target[x_at:], used)
            else:
                sums[...] = lay_down(_products(part, weights, geometry), geometry, band)
                sums += 0 if bias is None else bias
            if sums is not lines:
                np.copyto(lines, sums, casting="unsafe")
    return x


def _worth_threads(geometry: ConvGeometry, filters: int) -> bool:
    """Whether to wake another thread takes less than it saves; as many operations as the convolution has."""
    work = geometry.matrix_shape[0] * geometry.terms * filters // 4 + math.prod(geometry.input_shape)
    return work >= WORTH_THREADS


def _products(y: NDArray[Any], filters: NDArray[Any], geometry: ConvGeometry) -> NDArray[Any]:
    """Y · W_colᵀ of each group as patches, (n, *positions, *kernel, C)."""
    groups, kernel, depth = geometry.groups, geometry.kernel_size, filters.shape[-1]
    own = len(filters) // groups
    rows = y.reshape(-1, groups, own).swapaxes(0, 1)
    found = np.matmul(rows, filters.reshape(groups, own, -1))  # (groups, rows, kh·kw·C/groups)
    split: NDArray[Any] = np.moveaxis(found.reshape(groups, *y.shape[:-1], *kernel, depth), 0, -2)
    return split.reshape(*y.shape[:-1], *kernel, geometry.channels)


Phase = tuple[bytes, int, int]
"""A convolution that is part of a transposed one, and where it begins in W and in X."""


@lru_cache(maxsize=64)
def _decided(
    geometry: ConvGeometry,
    y_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    accumulator: np.dtype[Any],
    integers: bool,
    compiled: native.Native | None,
    threads: int,
) -> list[tuple[Band, list[Phase]]]:
    """The bands of lines, and what the compiled library does for each; remembered.

    Args:
        w_shape: of the weights, `as_real` where they are complex. integers: whether it writes int64.
    """
    parts = 1 if compiled is None else parts_of(accumulator)
    line = math.prod(y_shape[2:-1]) * accumulator.itemsize
    line *= y_shape[-1] if compiled is not None else math.prod(geometry.kernel_size) * geometry.channels
    decided: list[tuple[Band, list[Phase]]] = []
    for band in bands_of(geometry, y_shape[1:-1], line, BLOCK_BYTES):
        y_part = (len(band.images), len(band.outputs), *y_shape[2:-1], parts * y_shape[-1])
        x_part = (len(band.images), len(band.lines), *geometry.input_shape[2:-1], parts * geometry.channels)
        phases = []
        if compiled is not None:
            real = np.empty(0, accumulator).real.dtype
            where = (geometry.stride, geometry.dilation, tuple(band.before(geometry)), geometry.groups)
            phases = _phases(where, y_part, w_shape, x_part, real, integers, threads, compiled)
        decided.append((band, phases))
    return decided


@lru_cache(maxsize=64)
def _phases(
    where: tuple[Any, ...],
    y_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    integers: bool,
    threads: int,
    compiled: native.Native,
) -> list[Phase]:
    """Each place of a pixel in a stride is a convolution of its own over y; `where` as in `native.phases`.

    Remembered apart, as most bands are alike.
    """
    phases, lanes = [], compiled.lanes(dtype)
    for packed, w_at, x_at in native.phases(where, y_shape, w_shape, x_shape):
        taps = math.prod(struct.unpack_from("3q", packed, 8 * 10))
        kernel = choose_kernel(taps, 1, y_shape[-1], x_shape[-1], where[-1], lanes)
        phases.append((compiled.layer(packed, dtype, kernel, threads, integers), w_at, x_at))
    return phases
