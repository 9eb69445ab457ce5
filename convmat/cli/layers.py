"""What the options of a layer mean: kernels by file or name, groups, and the arguments of `convolve`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from convmat.checks import bias_numbers, filter_groups
from convmat.cli.inputs import Batch, input_batch_shape, is_default, open_batch, shape_batch, warn_of_doubt
from convmat.cli.options import axes_of, pads_of
from convmat.cli.output import drain
from convmat.doubts import likelier_kernel_layout
from convmat.engine import filter_geometry
from convmat.errors import FileError, GeometryError, ShapeError
from convmat.files.npy import NpyInput
from convmat.files.numbers import is_text, is_typed, parse_numbers
from convmat.files.streams import is_pipe
from convmat.geometry import ConvGeometry
from convmat.kernels import NAMES, is_kernel_name, named_kernel
from convmat.layouts import KERNEL_LAYOUTS, output_layout, said_axes, to_batch, to_filters
from convmat.transposed import transpose_geometry

if TYPE_CHECKING:
    from convmat.verification import Report


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
    input_shape: tuple[int, ...] | None = None,
    transpose: bool = False,
) -> tuple[Batch, dict[str, Any]]:
    """What the options of a layer mean: its input, and the other arguments of `convmat.convolve`.

    With `input_shape` there are no inputs, and the input is what an array of that shape would be. With
    `transpose` the input is the layer's Y.
    """
    if kernel is None:
        names = ", ".join(NAMES)
        raise click.UsageError(
            f"Missing option '--kernel'; give an .npy file or one of {names}, or numbers: '1 0 -1; 2 0 -2'"
        )
    if (*inputs, kernel, bias, expected).count("-") > 1:
        raise ShapeError("standard input", "is named twice; it can be read once")
    axes = axes_of(dims, stride, dilation)
    if input_shape is None:
        batch = open_batch(inputs, axes, layout, frame, alpha)
    else:
        batch = shape_batch(input_shape, axes, layout)
    kernels = _open_kernels(kernel, axes)
    if transpose:  # else the input's channels show what kernels are for it
        _warn_of_kernels(kernel, kernels.outline.shape, axes)
    fit = fit_to_outputs if transpose else fit_to_channels
    asked = groups

    def fitted(array: NDArray[Any]) -> tuple[NDArray[Any], int]:
        return fit(to_filters(array, axes, kernel_layout), batch.shape[-1], asked, depthwise)

    filters = to_filters(kernels.outline, axes, kernel_layout)
    try:
        filters, groups = fitted(kernels.outline)
    except ShapeError as error:
        if not (batch.alpha and filters.shape[-1] * groups == batch.shape[-1] - 1):
            raise
        raise ShapeError("filters", f"{error.problem}; or leave transparency out by --alpha drop") from None
    if (
        not transpose
        and filters.shape[-1] * groups != batch.shape[-1]
        and groups > 0
        and batch.shape[-1] % groups == 0
    ):
        raise ShapeError(
            "filters",
            f"made for {filters.shape[-1]} channels in each of {groups} groups, the input has "
            f"{batch.shape[-1]} in all{_what_would_fit(kernels.outline, batch, groups)}",
        )
    pads = pads_of(padding, axes)
    if not transpose:
        filter_geometry(batch.shape, filters.shape, stride, pads, dilation, groups)
    if bias is not None:
        of_bias = _open_bias(bias)
        count, what = (filters.shape[-1] * groups, "channels") if transpose else (len(filters), "filters")
        bias_numbers(of_bias.outline, count, what)
    return batch, {
        "filters": fitted(kernels.read())[0],
        "stride": stride,
        "padding": pads,
        "dilation": dilation,
        "groups": groups,
        "bias": None if bias is None else of_bias.read(),
        "flip": flip,
        "padding_mode": padding_mode,
    }


def open_linear_layer(
    source: str | None, input_shape: tuple[int, ...] | None, *, layout: str, **layer: Any
) -> tuple[Batch, dict[str, Any]]:
    """The input, of which only the shape matters, and the arguments of a layer without bias.

    It is an array of `input_shape`, or the input `source`, of which a pipe is read to its end.
    """
    if (source is None) == (input_shape is None):
        raise click.UsageError("Give either INPUT or --input-shape, to say how large the layer's input is")
    inputs = () if source is None else (source,)
    batch, arguments = open_layer(inputs, bias=None, layout=layout, input_shape=input_shape, **layer)
    if source is not None and is_pipe(source):
        drain(batch.chunks())  # whoever writes to us should not be cut off
    del arguments["bias"]
    return batch, arguments


def open_transposed_layer(
    inputs: tuple[str, ...],
    output_padding: Any,
    input_shape: tuple[int, ...] | None,
    *,
    padding_mode: str,
    layout: str,
    **layer: Any,
) -> tuple[Batch, ConvGeometry, dict[str, Any]]:
    """What the options of a transposed layer mean: its input, which is the layer's Y, the layer's geometry,
    and the other arguments of `convmat.convolve_transpose`, of which there is no `input_shape`.
    """
    if padding_mode != "zeros":
        raise GeometryError(
            "padding_mode",
            f"got {padding_mode}; a transposed convolution drops what falls into the padding, so it has "
            "zeros alone: leave it out",
        )
    batch, arguments = open_layer(inputs, padding_mode=padding_mode, layout=layout, transpose=True, **layer)
    del arguments["padding_mode"]
    filters, groups = arguments["filters"], arguments["groups"]
    filter_groups(len(filters), groups)
    if arguments.pop("flip"):
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    arguments |= {"filters": filters, "output_padding": output_padding}
    channels = filters.shape[-1] * groups
    if input_shape is not None:
        n, *size, c = input_batch_shape(input_shape, batch.dims, layout)
        said_n, said_c = said_axes(input_shape, batch.dims, layout)
        input_shape = (n if said_n else batch.shape[0], *size, c if said_c else channels)
    geometry = transpose_geometry(
        batch.shape,
        channels,
        filters.shape[1:-1],
        arguments["stride"],
        arguments["padding"],
        arguments["dilation"],
        groups,
        output_padding,
        input_shape,
    )
    return batch, geometry, arguments


def results(array: NDArray[Any], shape: tuple[int, ...], layout: str) -> dict[str, NDArray[Any]]:
    """A result to judge, (N, *out, K), of an array as its file has it: each reading that fits, by name.

    What was said comes first: Y in `layout`, in any form that an input has. "rows" is X_col · W_col,
    (N·P, K), or (N, P, K) as matmul makes it of unroll --per-image; with one axis, channels first and
    K = L_out both may fit. Where neither does there is Y as it was said, as far as it can be read so.
    """
    said = as_images(array, len(shape) - 2, layout)
    found = {layout: said} if said.shape == shape else {}
    rows = math.prod(shape[1:-1])
    same = found and output_layout(layout) == "nhwc"  # whose elements are in the order of the rows
    if array.shape in ((shape[0] * rows, shape[-1]), (shape[0], rows, shape[-1])) and not same:
        found["rows"] = array.reshape(shape)
    return found or {layout: said}


def first_equal(
    readings: dict[str, NDArray[Any]], judge: Callable[[NDArray[Any]], Report]
) -> tuple[str, Report]:
    """The name and the verdict of the first reading that is equal, else of the first."""
    found = {}
    for name, result in readings.items():
        found[name] = judge(result)
        if found[name]:
            return name, found[name]
    return next(iter(found.items()))


def as_images(array: NDArray[Any], dims: int, layout: str) -> NDArray[Any]:
    """Images, (N, *spatial, C), of an array in `layout`; one that cannot be read so is left as it is."""
    return to_batch(array, dims, layout) if dims <= array.ndim <= dims + 2 else array


def places_in(
    array: NDArray[Any], read: Callable[[NDArray[Any]], NDArray[Any]]
) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """From an index of what `read` makes of an array, a view, to that of the same element in the array."""

    def place(at: tuple[int, ...]) -> tuple[int, ...]:
        number = read(np.arange(array.size).reshape(array.shape))[at]
        return tuple(int(i) for i in np.unravel_index(number, array.shape))

    return place


def _what_would_fit(kernels: NDArray[Any], batch: Batch, groups: int) -> str:
    """Other layouts or groups in which these kernels would fit this input, for an error."""
    dims, channels = batch.dims, batch.shape[-1]
    found = []
    if kernels.ndim == dims + 2:
        for layout in KERNEL_LAYOUTS:
            if to_filters(kernels, dims, layout).shape[-1] * groups == channels:
                found.append(f"--kernel-layout {layout}")
    filters, depth = len(kernels), kernels.shape[-1]
    share = channels // max(depth, 1)
    if share and share * depth == channels and filters % share == 0 and groups == 1:
        found.append(f"--groups {share}")
    if batch.alpha and depth * groups == channels - 1:
        found.append("--alpha drop")
    other = "nchw" if batch.layout != "nchw" else "nhwc"
    if batch.channels_as(other) == depth * groups:
        found.append(f"--layout {other}")
    if found:
        return f"; {' or '.join(found)} would fit"
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
    return is_text(name) or name.endswith((".npy", ".npz")) or ".npz:" in name


def _warn_of_kernels(name: str, shape: tuple[int, ...], dims: int) -> None:
    """Warn of kernels that are hardly meant as `--kernel-layout`, where that was not said, has them read."""
    likelier = likelier_kernel_layout(shape, dims) if is_default("kernel_layout") else None
    if likelier is None:
        return
    size = " × ".join(map(str, shape[1 : dims + 1]))
    read = f"{name}: {shape} is read as {shape[0]} filters of {size}"
    if likelier == "hwc":
        warn_of_doubt(
            f"{read} with 1 channel; for one filter of several channels save it as (1, *kernel, C), as "
            "array[None] is if they come last, or else give --kernel-layout ohwi"
        )
    else:
        warn_of_doubt(
            f"{read} with {shape[-1]} channel{'s' if shape[-1] != 1 else ''}; did you mean --kernel-layout "
            f"{likelier}? Else give --kernel-layout ohwi"
        )


def _open_bias(name: str) -> _Source:
    """A bias, (K,), of a file or typed; as text it is a line or a column."""
    if not is_typed(name) and not is_text(name):
        return _file(name)
    bias = _held(parse_numbers(name, "bias")) if is_typed(name) else _file(name)
    return bias.as_read(lambda array: array.reshape(-1)) if 1 in bias.outline.shape else bias


def _repeated(filters: NDArray[Any], count: int) -> NDArray[Any]:
    """One filter as so many; a view."""
    return np.broadcast_to(filters, (count, *filters.shape[1:]))


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
        if depth == 1 and channels > 1 and (groups == 1 or (count == 1 and groups > 1)):
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
    return _repeated(filters, channels) if count == 1 else filters, channels


def fit_to_outputs(
    filters: NDArray[Any], outputs: int, groups: int, depthwise: bool
) -> tuple[NDArray[Any], int]:
    """The filters and groups that `--depthwise`, or its absence, means for a layer with these `outputs`.

    Raises:
        ShapeError: another number of filters than outputs; with `depthwise` one will do for all.
    """
    count = len(filters)
    if depthwise and groups not in (1, outputs):
        raise GeometryError("groups", f"--depthwise means {outputs} groups here, got {groups}; leave it out")
    if depthwise and count == 1:
        filters = _repeated(filters, outputs)
    elif count != outputs:
        hint = "; or add --depthwise for this one on each" if count == 1 and not depthwise else ""
        raise ShapeError(
            "filters",
            f"are {count}, so the Y that is transposed has {count} channels, and the input has {outputs}; "
            f"give {outputs} filters, of shape {('K', *filters.shape[1:-1], 'C/groups')}".replace("'", "")
            + hint,
        )
    return filters, outputs if depthwise else groups
