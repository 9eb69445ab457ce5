"""The geometry of a transposed convolution: that of the convolution it is the adjoint of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

from convmat.axis import transposed_length
from convmat.checks import got, got_sizes, per_axis, spatial_shape, whole
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry, Padding, Pads, Sizes, pads_of, settled_padding


def transpose_geometry(
    output_shape: Iterable[SupportsIndex],
    channels: SupportsIndex,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: SupportsIndex = 1,
    output_padding: Sizes = 0,
    input_shape: Iterable[SupportsIndex] | None = None,
) -> ConvGeometry:
    """The convolution that a transposed convolution is the adjoint of.

    A convolution maps x, (N, *spatial, C), to y, (N, *out, K); its transpose takes y back to the shape of x.
    Several sizes H of x have the same H_out; this says which is meant. Along each axis it is

        H = (H_out − 1)·S − (P_before + P_after) + D·(k − 1) + 1 + output_padding,

    but H_out·S under `same` and `same-lower`, whose pads are those for that H (as in TensorFlow and ONNX).

    Args:
        output_shape: (N, *out, K), the shape of y, what the transposed convolution is given; K is not used.
        channels: C of x, what the transposed convolution makes.
        kernel_size, stride, padding, dilation, groups: of the convolution, as `ConvGeometry` takes them.
        output_padding: pixels more at the end of x, an int or one for each axis, from 0 to below the larger
            of stride and dilation, as in PyTorch.
        input_shape: (N, *spatial, C), the shape of x where it is known. It then decides, under any padding;
            output_padding may be left at 0.

    Returns:
        The geometry of the convolution from x to y: `input_shape` is the shape of x. `output_size` is that
        of y, or, where output_padding >= stride, output_padding // stride more at the end of the axis: the
        kernel then fits beyond what y covers, and the transpose takes y as 0 there.

    Raises:
        GeometryError: sizes that make no convolution, an output_padding out of its range or with a rule that
            leaves no choice, pads that leave nothing of x, an `input_shape` that does not lead to y.
    """
    shape = spatial_shape("output_shape", output_shape)
    if input_shape is not None:
        known = ConvGeometry(input_shape, kernel_size, stride, padding, dilation, groups)
        return _known_transpose(shape, known, whole("channels", channels), output_padding)
    # Under `full` every kernel fits, so this refuses what is wrong under each padding.
    full = ConvGeometry((*shape[:-1], channels), kernel_size, stride, "full", dilation, groups)
    extra = per_axis("output_padding", output_padding, len(full.stride), least=0)
    rule = settled_padding(padding, len(full.stride))
    size = _transposed_size(full, rule, extra)
    layer = (full.kernel_size, full.stride, rule, full.dilation, full.groups)
    return ConvGeometry((shape[0], *size, full.channels), *layer)


def _transposed_size(full: ConvGeometry, padding: str | Pads, extra: tuple[int, ...]) -> tuple[int, ...]:
    """The spatial size of x; `full` has y in place of its input, `extra` is the output_padding."""
    enlarged = tuple(h * s for h, s in zip(full.input_size, full.stride, strict=True))
    if isinstance(padding, str) and padding.startswith("same"):
        if any(extra):
            raise GeometryError(
                "output_padding",
                f"got {got_sizes(extra)}, and padding {padding}, which makes the size stride times as large; "
                "leave one of them out",
            )
        return enlarged
    for name, more, s, d in zip(full.axis_names, extra, full.stride, full.dilation, strict=True):
        if more >= max(s, d):
            raise GeometryError(
                "output_padding",
                f"{more} along {name} is not below the stride {s} or the dilation {d}; "
                f"give 0 to {max(s, d) - 1}",
            )
    pads = pads_of(padding, enlarged, full.extent, full.stride)
    size = tuple(map(transposed_length, full.input_size, pads, full.extent, full.stride, extra))
    for name, length in zip(full.axis_names, size, strict=True):
        if length < 1:
            raise GeometryError("padding", f"leaves {length} pixels of {name}; use less padding")
    return size


def _known_transpose(
    shape: tuple[int, ...], geometry: ConvGeometry, channels: int, output_padding: Sizes
) -> ConvGeometry:
    """`geometry`, if its outputs are of `shape` and its size is what `output_padding`, unless 0, implies."""
    if geometry.channels != channels:
        raise GeometryError(
            "input_shape",
            f"{geometry.input_shape} has {geometry.channels} channels, the filters make {got(channels)}; "
            "give the shape of what they were made for",
        )
    if geometry.positions != shape[:-1]:
        raise GeometryError(
            "input_shape",
            f"{geometry.input_shape} gives {geometry.batch} outputs of {geometry.output_size}, the input of "
            f"the transposed convolution has {shape[0]} of {shape[1:-1]}; give the shape they came from",
        )
    extra = per_axis("output_padding", output_padding, len(geometry.stride), least=0)
    least = map(transposed_length, shape[1:-1], geometry.pads, geometry.extent, geometry.stride)
    implied = tuple(h - length for h, length in zip(geometry.input_size, least, strict=True))
    if any(extra) and extra != implied:
        raise GeometryError(
            "output_padding", f"got {extra}, input_shape {geometry.input_shape} means {implied}; leave it out"
        )
    return geometry
