"""What a command is given: images and arrays as one batch, kernels by file or name; headers before data."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from convmat.cli.options import axes_of, pads_of
from convmat.errors import GeometryError, ShapeError
from convmat.files.npy import NpyInput, is_npy
from convmat.kernels import NAMES, is_kernel_name, named_kernel
from convmat.layouts import to_batch, to_filters

if TYPE_CHECKING:
    from convmat.files.images import ImageInput


@dataclass(frozen=True)
class Batch:
    """INPUT arguments whose headers have been read: one batch, (N, *spatial, C)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sources: list[NpyInput | ImageInput]
    dims: int
    layout: str

    def read(self) -> NDArray[Any]:
        """The data."""
        parts = [to_batch(s.read(), self.dims, _layout(s, self.layout)) for s in self.sources]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def open_batch(names: tuple[str, ...], dims: int, layout: str) -> Batch:
    """Read the headers of all inputs and join them along N.

    Raises:
        FileError: one that cannot be read. ShapeError: one that does not fit `dims` or the others.
    """
    if names.count("-") > 1:
        raise ShapeError("standard input", "is named twice; it can be read once")
    sources = [_open(name) for name in names]
    shapes = []
    for source in sources:
        if not isinstance(source, NpyInput) and dims != 2:
            raise ShapeError(source.name, f"is an image, with 2 spatial axes; --dims {dims} is for arrays")
        try:
            # A view of nothing has the shape and no memory.
            seen = np.broadcast_to(np.zeros((), source.dtype), source.shape)
            shapes.append(to_batch(seen, dims, _layout(source, layout)).shape)
        except ShapeError as error:
            raise ShapeError(source.name, f"{error.problem}; see --dims and --layout") from None
    kinds = [(shape[1:], source.dtype) for shape, source in zip(shapes, sources, strict=True)]
    usual = Counter(kinds).most_common(1)[0][0]
    for source, kind in zip(sources, kinds, strict=True):
        if kind != usual:
            raise ShapeError(
                source.name,
                f"is {_said(kind)}, the others are {_said(usual)}; a batch has images of one size and dtype",
            )
    return Batch((sum(s[0] for s in shapes), *usual[0]), usual[1], sources, dims, layout)


def open_layer(
    inputs: tuple[str, ...],
    *,
    kernel: str | None,
    bias: str | None,
    stride: Any,
    padding: Any,
    padding_mode: str,
    dilation: Any,
    groups: int,
    depthwise: bool,
    flip: bool,
    layout: str,
    kernel_layout: str,
    dims: int | None,
    expected: str | None = None,
) -> tuple[Batch, dict[str, Any]]:
    """What the options of a layer mean: its input, and the other arguments of `convmat.convolve`."""
    if kernel is None:
        raise click.UsageError(f"Missing option '--kernel'; give an .npy file or one of {', '.join(NAMES)}")
    if (*inputs, kernel, bias, expected).count("-") > 1:
        raise ShapeError("standard input", "is named twice; it can be read once")
    axes = axes_of(dims, stride, dilation)
    batch = open_batch(inputs, axes, layout)
    filters = read_kernels(kernel, axes, kernel_layout)
    filters, groups = fit_to_channels(filters, batch.shape[-1], groups, depthwise)
    return batch, {
        "filters": filters,
        "stride": stride,
        "padding": pads_of(padding, axes),
        "dilation": dilation,
        "groups": groups,
        "bias": None if bias is None else NpyInput(bias).read(),
        "flip": flip,
        "padding_mode": padding_mode,
    }


def read_expected(name: str, rows: tuple[int, int], dims: int, layout: str) -> NDArray[Any]:
    """A result to judge: the rows of X_col · W_col, of shape `rows`, or Y in any form an input may have."""
    array = NpyInput(name).read()
    if array.shape == rows or not dims <= array.ndim <= dims + 2:
        return array
    return to_batch(array, dims, layout)


def _open(name: str) -> NpyInput | ImageInput:
    if is_npy(name):
        return NpyInput(name)
    from convmat.files.images import ImageInput  # Pillow, only where there is an image

    return ImageInput(name)


def _layout(source: NpyInput | ImageInput, layout: str) -> str:
    return layout if isinstance(source, NpyInput) else "nhwc"


def _said(kind: tuple[tuple[int, ...], np.dtype[Any]]) -> str:
    return f"{' × '.join(map(str, kind[0]))} {kind[1]}"


def read_kernels(name: str, dims: int, kernel_layout: str) -> NDArray[Any]:
    """Kernels from a file, or by name where there is no such file, as (K, *kernel, C/groups)."""
    if is_kernel_name(name) and not os.path.exists(name):
        return to_filters(named_kernel(name, dims), dims)
    return to_filters(NpyInput(name).read(), dims, kernel_layout)


def fit_to_channels(
    filters: NDArray[Any], channels: int, groups: int, depthwise: bool
) -> tuple[NDArray[Any], int]:
    """The filters and groups that `--depthwise`, or its absence, means for an input of `channels`.

    Raises:
        ShapeError: single-channel filters for more channels, without `depthwise`, or filters that cannot be
            shared out over the channels with it.
    """
    count, kernel, depth = len(filters), filters.shape[1:-1], filters.shape[-1]
    if not depthwise:
        if depth == 1 and channels > groups:
            raise ShapeError(
                "filters",
                f"a single-channel kernel of {' × '.join(map(str, kernel))} cannot filter {channels} "
                f"channels; add --depthwise to filter each alone, or give kernels of shape "
                f"({', '.join(map(str, ('K', *kernel, channels)))})",
            )
        return filters, groups
    if groups not in (1, channels):
        raise GeometryError("groups", f"--depthwise means {channels} groups here, got {groups}; leave it out")
    if depth != 1 or (count != 1 and count % channels):
        raise ShapeError(
            "filters",
            f"{count} filters of {depth} channels cannot filter {channels} channels each alone; "
            f"give one single-channel filter, or a multiple of {channels}",
        )
    return (filters.repeat(channels, axis=0) if count == 1 else filters), channels
