"""The geometries of CONV nodes: what their attributes make of the shapes of their input and weights."""

from __future__ import annotations

from typing import Any

from convmat.checks import got
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry
from convmat.networks.model import Shape, attributes_of
from convmat.transposed import transpose_geometry

_RULES = {b"VALID": "valid", b"SAME_UPPER": "same", b"SAME_LOWER": "same-lower"}


def geometry_of(node: Any, x: Shape | None, w: Shape | None) -> ConvGeometry | None:
    """The geometry of a CONV layer; None where its shapes are not known.

    Raises:
        GeometryError: shapes or attributes that make no convolution.
    """
    if x is None or w is None or None in x[1:] or None in w:
        return None
    shape, kernel = tuple(size or 0 for size in x), tuple(size or 0 for size in w)
    if x[0] is None:  # a batch of any size, of which one image
        shape = (1, *shape[1:])
    axes, options = len(shape) - 2, attributes_of(node)
    if len(kernel) != len(shape):
        raise GeometryError(
            "kernel", f"has shape {got(kernel)}, the input {got(shape)}; expected as many axes"
        )
    said = tuple(options.get("kernel_shape", kernel[2:]))
    if said != kernel[2:]:
        raise GeometryError("kernel", f"is said to be of {got(said)}, its weights are of {got(kernel[2:])}")
    groups = options.get("group", 1)
    if groups < 1 or shape[1] % groups:
        raise GeometryError("groups", f"{groups} does not divide the input's {shape[1]} channels")
    stride, dilation = (tuple(options.get(key, [1] * axes)) for key in ("strides", "dilations"))
    x_shape = (shape[0], *shape[2:], shape[1])
    if node.op_type == "ConvTranspose":
        if shape[1] != kernel[0]:
            raise GeometryError("kernel", f"takes {kernel[0]} channels, the input has {shape[1]}")
        return _transposed(options, x_shape, kernel[1] * groups, kernel[2:], stride, dilation, groups)
    padding = _padding(options, axes)
    geometry = ConvGeometry(x_shape, kernel[2:], stride, padding, dilation, groups)
    if kernel[1] * groups != shape[1] or kernel[0] % groups:
        raise GeometryError(
            "kernel",
            f"is {kernel[0]} filters of {kernel[1]} channels in {groups} groups, the input has {shape[1]}",
        )
    return geometry


def _padding(options: dict[str, Any], axes: int) -> Any:
    """`auto_pad` and `pads` (the befores of all axes, then the afters) as convmat has them."""
    rule = options.get("auto_pad", b"NOTSET")
    if rule in _RULES:
        return _RULES[rule]
    if rule not in (b"NOTSET", b""):
        raise GeometryError("auto_pad", f"is {got(rule.decode(errors='replace'))}; ONNX has no such rule")
    pads = list(options.get("pads", [0] * 2 * axes))
    if len(pads) != 2 * axes:
        raise GeometryError("pads", f"are {len(pads)} numbers, expected {2 * axes}")
    return tuple(zip(pads[:axes], pads[axes:], strict=True))


def _transposed(
    options: dict[str, Any],
    shape: tuple[int, ...],
    channels: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> ConvGeometry:
    """That of ConvTranspose, whose padding may follow from the size it is to have."""
    axes = len(kernel)
    extra = list(options.get("output_padding", [0] * axes))
    size, rule = options.get("output_shape"), options.get("auto_pad", b"NOTSET")
    if len(extra) != axes or (size and len(size) < axes):
        raise GeometryError("output_shape", f"or output_padding has not {axes} numbers, one for each axis")
    padding = _padding(options, axes)
    if size or rule.startswith(b"SAME"):
        size = list(size or (h * s for h, s in zip(shape[1:-1], stride, strict=True)))[-axes:]
        pads = []
        for axis, (h, s, d, k, out) in enumerate(
            zip(shape[1:-1], stride, dilation, kernel, size, strict=True)
        ):
            total = (h - 1) * s + extra[axis] + d * (k - 1) + 1 - out
            extra[axis] += max(-total, 0)  # which makes it larger
            total = max(total, 0)
            less = total // 2
            pads.append((less, total - less) if rule == b"SAME_UPPER" else (total - less, less))
        padding = tuple(pads)
    return transpose_geometry(shape, channels, kernel, stride, padding, dilation, groups, extra)
