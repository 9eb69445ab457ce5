"""What the options of a layer mean: kernels by file or name, groups, and the arguments of `convolve`."""

from __future__ import annotations

import os
from typing import Any

import click
from numpy.typing import NDArray

from convmat.cli.inputs import Batch, open_batch
from convmat.cli.options import axes_of, pads_of
from convmat.errors import FileError, GeometryError, ShapeError
from convmat.files.npy import NpyInput
from convmat.kernels import NAMES, is_kernel_name, named_kernel
from convmat.layouts import to_batch, to_filters


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
    frame: int | None,
    alpha: str,
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
    batch = open_batch(inputs, axes, layout, frame, alpha)
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


def read_kernels(name: str, dims: int, kernel_layout: str) -> NDArray[Any]:
    """Kernels from a file, or by name where there is no such file, as (K, *kernel, C/groups)."""
    if is_kernel_name(name) and not os.path.exists(name):
        return to_filters(named_kernel(name, dims), dims)
    if name != "-" and not os.path.exists(name) and not name.endswith(".npy"):
        raise FileError(name, f"is neither a file nor one of {', '.join(NAMES)}")
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
