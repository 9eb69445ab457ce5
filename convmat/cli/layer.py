"""What the options of a layer mean: its input, kernels by file or name, and the arguments of the library."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from convmat.arrays import bias_numbers
from convmat.checks import filter_groups, got
from convmat.cli.command import is_default
from convmat.cli.inputs import Batch, check_one_pipe, input_batch_shape, open_batch, shape_batch
from convmat.cli.options import LayerOptions
from convmat.cli.output import drain, warn
from convmat.doubts import likelier_kernel_layout
from convmat.errors import FileError, GeometryError, ShapeError
from convmat.files.npy import NpyInput
from convmat.files.numbers import is_text, is_typed, parse_numbers
from convmat.files.streams import is_pipe
from convmat.folding import check_x_col
from convmat.geometry import ConvGeometry
from convmat.kernels import NAMES, is_kernel_name, named_kernel
from convmat.layouts import KERNEL_LAYOUTS, said_axes, to_filters
from convmat.plan import filter_geometry
from convmat.transposed import transpose_geometry


def open_input(
    inputs: tuple[str, ...], layer: LayerOptions, input_shape: tuple[int, ...] | None = None
) -> Batch:
    """The headers of a layer's input, or what an array of `input_shape` would be, where that is given."""
    if input_shape is not None:
        return shape_batch(input_shape, layer.axes, layer.layout)
    return open_batch(inputs, layer.axes, layer.layout, layer.frame, layer.alpha)


def patch_geometry(shape: tuple[int, ...], layer: LayerOptions, kernel_size: Any = None) -> ConvGeometry:
    """The geometry of a layer of which only the patches are known."""
    size = layer.kernel_size if kernel_size is None else kernel_size
    return ConvGeometry(shape, size, **layer.steps)


def folded_geometry(
    x_shape: tuple[int, ...], input_shape: tuple[int, ...], layer: LayerOptions
) -> ConvGeometry:
    """The geometry that an X_col of this shape was unrolled with; N, where not said, is found from its rows.

    Raises:
        ShapeError: an X_col that is not of this geometry. GeometryError: as `ConvGeometry`.
    """
    shape = input_batch_shape(input_shape, layer.axes, layer.layout)
    geometry = ConvGeometry(shape, layer.kernel_size, **layer.steps)
    if not said_axes(input_shape, layer.axes, layer.layout)[0]:
        rows = math.prod(x_shape[:-1])
        images, rest = divmod(rows, geometry.patches)
        geometry = geometry if rest else geometry.for_batch(images)
    check_x_col(x_shape, geometry)
    return geometry


def geometry_of(shape: tuple[int, ...], arguments: dict[str, Any]) -> ConvGeometry:
    """The geometry of a convolution with these arguments."""
    steps = (arguments[key] for key in ("stride", "padding", "dilation", "groups"))
    return filter_geometry(shape, arguments["filters"].shape, *steps)


def open_layer(
    inputs: tuple[str, ...],
    layer: LayerOptions,
    input_shape: tuple[int, ...] | None = None,
    *,
    expected: str | None = None,
    transpose: bool = False,
    batch: Batch | None = None,
) -> tuple[Batch, dict[str, Any]]:
    """What the options of a layer mean: its input, and the other arguments of `convmat.convolve`.

    With `input_shape` there are no inputs, and the input is what an array of that shape would be. With
    `transpose` the input is the layer's Y. A `batch` is the input that was opened already.
    """
    if layer.kernel is None:
        names = ", ".join(NAMES)
        raise click.UsageError(
            f"Missing option '--kernel'; give an .npy file or one of {names}, or numbers: '1 0 -1; 2 0 -2'"
        )
    check_one_pipe(*inputs, layer.kernel, layer.bias, expected)
    batch = batch or open_input(inputs, layer, input_shape)
    kernels = _open_kernels(layer.kernel, layer.axes)
    if transpose:  # else the input's channels show what kernels are for it
        _warn_of_kernels(layer.kernel, kernels.outline.shape, layer.axes)
    filters, groups = _fitted(kernels.outline, batch, layer, transpose)
    if not transpose:
        _check_channels(filters, groups, batch, kernels.outline)
        filter_geometry(batch.shape, filters.shape, **layer.steps, groups=groups)
    bias = None if layer.bias is None else _open_bias(layer.bias)
    if bias is not None:
        count, what = (filters.shape[-1] * groups, "channels") if transpose else (len(filters), "filters")
        bias_numbers(bias.outline, count, what)
    return batch, {
        "filters": _fitted(kernels.read(), batch, layer, transpose)[0],
        **layer.steps,
        "groups": groups,
        "bias": None if bias is None else bias.read(),
        "flip": layer.flip,
        "padding_mode": layer.padding_mode,
    }


def _fitted(
    kernels: NDArray[Any], batch: Batch, layer: LayerOptions, transpose: bool
) -> tuple[NDArray[Any], int]:
    """The filters and the groups that kernels, as their file has them, are for this input.

    Raises:
        ShapeError: filters for other channels, or, with `transpose`, another number of filters than Y has.
    """
    filters, channels, groups = (
        to_filters(kernels, layer.axes, layer.kernel_layout),
        batch.shape[-1],
        layer.groups,
    )
    if layer.depthwise:
        groups = depthwise_groups(groups, channels)
    try:
        (_check_outputs if transpose else _check_inputs)(filters, channels, groups, layer.depthwise)
    except ShapeError as error:
        if not (batch.alpha and filters.shape[-1] * layer.groups == channels - 1):
            raise
        raise ShapeError("filters", f"{error.problem}; or leave transparency out by --alpha drop") from None
    if layer.depthwise and len(filters) == 1:
        filters = np.broadcast_to(filters, (channels, *filters.shape[1:]))
    return filters, groups


def _check_channels(filters: NDArray[Any], groups: int, batch: Batch, kernels: NDArray[Any]) -> None:
    """Refuse filters for other channels than the input's, and say what would fit."""
    depth, channels = filters.shape[-1], batch.shape[-1]
    if depth * groups != channels and groups > 0 and channels % groups == 0:
        raise ShapeError(
            "filters",
            f"made for {depth} channels in each of {groups} groups, the input has "
            f"{channels} in all{_what_would_fit(kernels, batch, groups)}",
        )


def open_linear_layer(
    inputs: tuple[str, ...],
    layer: LayerOptions,
    input_shape: tuple[int, ...] | None,
    expected: str | None = None,
) -> tuple[Batch, dict[str, Any]]:
    """The input, of which only the shape matters, and the arguments of a layer without bias.

    It is an array of `input_shape`, or the one of `inputs`, of which a pipe is read to its end.
    """
    if bool(inputs) == (input_shape is not None):
        raise click.UsageError("Give either INPUT or --input-shape, to say how large the layer's input is")
    batch, arguments = open_layer(inputs, layer, input_shape, expected=expected)
    if any(map(is_pipe, inputs)):
        drain(batch.chunks())  # whoever writes to us should not be cut off
    del arguments["bias"]
    return batch, arguments


def open_transposed_layer(
    inputs: tuple[str, ...], layer: LayerOptions, output_padding: Any, input_shape: tuple[int, ...] | None
) -> tuple[Batch, ConvGeometry, dict[str, Any]]:
    """What the options of a transposed layer mean: its input, which is the layer's Y, the layer's geometry,
    and the other arguments of `convmat.convolve_transpose`, of which there is no `input_shape`.
    """
    if layer.padding_mode != "zeros":
        raise GeometryError(
            "padding_mode",
            f"got {layer.padding_mode}; a transposed convolution drops what falls into the padding, so it "
            "has zeros alone: leave it out",
        )
    batch, arguments = open_layer(inputs, layer, transpose=True)
    del arguments["padding_mode"]
    filters, groups = arguments["filters"], arguments["groups"]
    filter_groups(len(filters), groups)
    if arguments.pop("flip"):
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    arguments |= {"filters": filters, "output_padding": output_padding}
    channels = filters.shape[-1] * groups
    if input_shape is not None:
        n, *size, c = input_batch_shape(input_shape, batch.dims, layer.layout)
        said_n, said_c = said_axes(input_shape, batch.dims, layer.layout)
        input_shape = (n if said_n else batch.shape[0], *size, c if said_c else channels)
    geometry = transpose_geometry(
        batch.shape,
        channels,
        filters.shape[1:-1],
        **layer.steps,
        groups=groups,
        output_padding=output_padding,
        input_shape=input_shape,
    )
    return batch, geometry, arguments


def _what_would_fit(kernels: NDArray[Any], batch: Batch, groups: int) -> str:
    """Other layouts or groups in which these kernels would fit this input, for an error."""
    dims, channels = batch.dims, batch.shape[-1]
    ways = []
    if kernels.ndim == dims + 2:
        for layout in KERNEL_LAYOUTS:
            if to_filters(kernels, dims, layout).shape[-1] * groups == channels:
                ways.append(f"--kernel-layout {layout}")
    filters, depth = len(kernels), kernels.shape[-1]
    share = channels // max(depth, 1)
    if share and share * depth == channels and filters % share == 0 and groups == 1:
        ways.append(f"--groups {share}")
    if batch.alpha and depth * groups == channels - 1:
        ways.append("--alpha drop")
    other = "nchw" if batch.layout != "nchw" else "nhwc"
    if batch.channels_as(other) == depth * groups:
        ways.append(f"--layout {other}")
    if ways:
        return f"; {' or '.join(ways)} would fit"
    return f"; give filters of {channels // groups} channels"


class _Source(NamedTuple):
    """Numbers whose shape is known before they are read."""

    outline: NDArray[Any]
    """An array of that shape and dtype, for what the shape decides."""
    read: Callable[[], NDArray[Any]]

    def as_read(self, view: Callable[[NDArray[Any]], NDArray[Any]]) -> _Source:
        """The same numbers in the form that `view` gives them."""
        return _Source(view(self.outline), lambda: view(self.read()))


def _file(name: str) -> _Source:
    source = NpyInput(name)
    return _Source(source.outline, source.read)


def _held(array: NDArray[Any]) -> _Source:
    return _Source(array, lambda: array)


def open_kernels(name: str, dims: int, kernel_layout: str) -> _Source:
    """Kernels from a file, typed, or by name, as (K, *kernel, C/groups), for an input that is not known."""
    kernels = _open_kernels(name, dims)
    _warn_of_kernels(name, kernels.outline.shape, dims)
    return kernels.as_read(lambda array: to_filters(array, dims, kernel_layout))


def _open_kernels(name: str, dims: int) -> _Source:
    """Kernels as they are given; typed ones, and those of text, are one filter, or K of one axis."""
    if is_kernel_name(name) and not os.path.exists(name):
        return _held(named_kernel(name, dims))
    if is_typed(name):
        kernels = _held(parse_numbers(name, "filters"))
        if kernels.outline.size == 1 and ";" not in name:
            raise ShapeError("filters", f"{name!r} is one number; write a kernel of 1 × 1 as '{name};'")
    elif is_pipe(name) or os.path.exists(name) or _is_array_name(name):
        kernels = _file(name)
    else:
        names = ", ".join(NAMES)
        raise FileError(name, f"is neither a file nor one of {names}, nor numbers as in '1 0 -1; 2 0 -2'")
    of_text = is_typed(name) or is_text(name)
    single = of_text and dims == len(kernels.outline) == 1
    return kernels.as_read(lambda array: array[0]) if single else kernels


def _is_array_name(name: str) -> bool:
    named = name.endswith((".npy", ".npz", ".safetensors")) or ".npz:" in name or ".safetensors:" in name
    return is_text(name) or named


def _warn_of_kernels(name: str, shape: tuple[int, ...], dims: int) -> None:
    """Warn of kernels that are hardly meant as `--kernel-layout`, where that was not said, has them read."""
    likelier = likelier_kernel_layout(shape, dims) if is_default("kernel_layout") else None
    if likelier is None:
        return
    size = " × ".join(map(str, shape[1 : dims + 1]))
    read = f"{name}: {shape} is read as {shape[0]} filters of {size}"
    if likelier == "hwc":
        warn(
            f"{read} with 1 channel; for one filter of several channels save it as (1, *kernel, C), as "
            "array[None] is if they come last, or else give --kernel-layout ohwi"
        )
    else:
        warn(
            f"{read} with {shape[-1]} channel{'s' if shape[-1] != 1 else ''}; did you mean --kernel-layout "
            f"{likelier}? Else give --kernel-layout ohwi"
        )


def _open_bias(name: str) -> _Source:
    """A bias, (K,), of a file or typed; as text it is a line or a column."""
    if not is_typed(name) and not is_text(name):
        return _file(name)
    bias = _held(parse_numbers(name, "bias")) if is_typed(name) else _file(name)
    return bias.as_read(lambda array: array.reshape(-1)) if 1 in bias.outline.shape else bias


def depthwise_groups(groups: int, channels: int) -> int:
    """The groups that `--depthwise` means, which --groups may say, too."""
    if groups not in (1, channels):
        raise GeometryError(
            "groups", f"--depthwise means {channels} groups here, got {got(groups)}; leave it out"
        )
    return channels


def _check_inputs(filters: NDArray[Any], channels: int, groups: int, depthwise: bool) -> None:
    """Refuse single-channel filters for more channels, and those that they cannot share, each alone."""
    count, kernel, depth = len(filters), filters.shape[1:-1], filters.shape[-1]
    if depthwise and (depth != 1 or (count != 1 and count % channels)):
        raise ShapeError(
            "filters",
            f"{count} filters of {depth} channels cannot filter {channels} channels each alone; "
            f"give one single-channel filter, or a multiple of {channels}",
        )
    if not depthwise and depth == 1 and channels > 1 and (groups == 1 or (count == 1 and groups > 1)):
        raise ShapeError(
            "filters",
            f"a single-channel kernel of {' × '.join(map(str, kernel))} cannot filter {channels} channels; "
            "add --depthwise to filter each alone, or give kernels of shape "
            f"({', '.join(map(str, ('K', *kernel, channels)))})",
        )


def _check_outputs(filters: NDArray[Any], outputs: int, _: int, depthwise: bool) -> None:
    """Refuse another number of filters than Y has channels; with `depthwise` one will do for all."""
    count = len(filters)
    if count != outputs and not (depthwise and count == 1):
        hint = "; or add --depthwise for this one on each" if count == 1 else ""
        shape = ", ".join(map(str, ("K", *filters.shape[1:-1], "C/groups")))
        raise ShapeError(
            "filters",
            f"are {count}, so the Y that is transposed has {count} channels, and the input has {outputs}; "
            f"give {outputs} filters, of shape ({shape}){hint}",
        )
