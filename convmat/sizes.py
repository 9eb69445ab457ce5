"""Sizes worked out beforehand: every padding rule, other frameworks' SAME, chains of layers, coverage.

Pure integers. What frameworks do is as their documentation has it (tf.nn, torch.nn.Conv2d, ONNX's Conv,
jax.lax.conv_general_dilated); the tests ask PyTorch and onnxruntime themselves, where they are installed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, SupportsIndex

from convmat.axis import PADDING_NAMES, named_pads
from convmat.checks import INT64, got, per_axis, several, spatial_shape
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry, Pads, Sizes
from convmat.transposed import transpose_geometry

MOST_LAYERS = 1000


# Every padding rule

Rules = dict[str, ConvGeometry | None]


def under_every_rule(
    input_shape: Iterable[SupportsIndex], kernel_size: Sizes, stride: Sizes = 1, dilation: Sizes = 1
) -> Rules:
    """The geometry under each rule of `PADDING_NAMES`; None where the kernel does not fit.

    Raises:
        GeometryError: sizes that are wrong under any padding.
    """
    # Under `full` every kernel fits, so what it refuses is wrong under each.
    full = ConvGeometry(input_shape, kernel_size, stride, "full", dilation)
    layer = (full.input_shape, full.kernel_size, full.stride)
    return _by_rule(lambda rule: ConvGeometry(*layer, rule, full.dilation), full)


def transpose_under_every_rule(
    output_shape: Iterable[SupportsIndex],
    kernel_size: Sizes,
    stride: Sizes = 1,
    dilation: Sizes = 1,
    output_padding: Sizes = 0,
) -> Rules:
    """`transpose_geometry` under each rule of `PADDING_NAMES`; None where it makes nothing.

    Raises:
        GeometryError: sizes that are wrong under any padding.
    """
    # Under `valid` there is always a result, so what it refuses is wrong under each.
    shape = spatial_shape("output_shape", output_shape)
    extra = per_axis("output_padding", output_padding, len(shape) - 2, least=0)
    valid = transpose_geometry(shape, 1, kernel_size, stride, "valid", dilation, 1, extra)
    layer = (shape, 1, valid.kernel_size, valid.stride)
    return _by_rule(lambda rule: transpose_geometry(*layer, rule, valid.dilation, 1, extra), valid)


def _by_rule(make: Callable[[str], ConvGeometry], sure: ConvGeometry) -> Rules:
    """What `make` makes of each rule; None where it raises GeometryError. One it has made already: `sure`."""
    made: Rules = {}
    for rule in PADDING_NAMES:
        try:
            made[rule] = sure if rule == sure.rule else make(rule)
        except GeometryError:
            made[rule] = None
    return made


# Other frameworks


class FrameworkPads(NamedTuple):
    """What a framework does under one of its names."""

    framework: str
    rule: str
    """The framework's name of it."""
    pads: Pads | None
    """(before, after) for each spatial axis; None where the framework refuses."""
    differs: bool
    """Whether that is something else than TensorFlow's SAME, which is the padding `same` here."""
    note: str
    """Why, or by whom, it is refused (onnxruntime: as of 1.32); empty where there is nothing to say."""


# Framework, its name of the rule, and the rule here.
_RULES = (
    ("TensorFlow, Keras", "SAME", "same"),
    ("JAX", "SAME", "same"),
    ("ONNX", "SAME_UPPER", "same"),
    ("PyTorch", "same", "same"),
    ("JAX", "SAME_LOWER", "same-lower"),
    ("ONNX", "SAME_LOWER", "same-lower"),
)


def framework_pads(geometry: ConvGeometry) -> list[FrameworkPads]:
    """What each framework's SAME comes to for this input, kernel, stride and dilation.

    Except for PyTorch, which knows it for stride 1 only, the output is ceil(H / S) everywhere; they differ in
    the side that an odd pixel goes to.

    Raises:
        GeometryError: what is no ConvGeometry.
    """
    if not isinstance(geometry, ConvGeometry):
        raise GeometryError(
            "geometry", f"expected ConvGeometry(input_shape, kernel_size, …), got {got(geometry)}"
        )
    axes = (geometry.input_size, geometry.extent, geometry.stride)
    by_rule = {rule: tuple(map(named_pads, repeat(rule), *axes)) for rule in ("same", "same-lower")}
    strided, dilated = max(geometry.stride) > 1, max(geometry.dilation) > 1
    notes = {
        "PyTorch": "refused: for stride 1 only" if strided else "",
        "TensorFlow, Keras": "Keras refuses stride and dilation at once" if strided and dilated else "",
        "ONNX": "onnxruntime refuses it with dilation" if dilated else "",
    }
    rows = []
    for framework, name, rule in _RULES:
        pads = None if framework == "PyTorch" and strided else by_rule[rule]
        differs = pads not in (None, by_rule["same"])
        rows.append(FrameworkPads(framework, name, pads, differs, notes.get(framework, "")))
    return rows


EXPLICIT_PADS: dict[str, Callable[[Pads], str]] = {
    "TensorFlow, Keras": lambda pads: f"tf.pad(x, {[[0, 0], *map(list, pads), [0, 0]]}), padding='VALID'",
    # From the last axis to the first.
    "PyTorch": lambda pads: f"F.pad(x, {tuple(count for pair in reversed(pads) for count in pair)})",
    "ONNX": lambda pads: f"pads={[before for before, _ in pads] + [after for _, after in pads]}",
    "JAX": lambda pads: f"padding={list(pads)}",
}
"""How pads, (before, after) for each spatial axis, are written out in each framework.

TensorFlow's for channels last, PyTorch's for channels first; ONNX's is an attribute of Conv, JAX's an
argument of jax.lax.conv_general_dilated.
"""


# Layers one after another


@dataclass(frozen=True)
class ChainLayer:
    """One layer of a chain, and how its outputs see the chain's input; a number for each spatial axis.

    Along an axis, output y sees the input from pixel start + y·total_stride on, receptive_field pixels of it.
    """

    geometry: ConvGeometry
    """The layer itself, on what the layers before it give."""
    receptive_field: tuple[int, ...]
    """Input pixels an output spans, from the first that can reach it to the last:
    r_l = r_(l−1) + (extent_l − 1)·j_(l−1)."""
    total_stride: tuple[int, ...]
    """Input pixels from an output to the next, j_l = j_(l−1)·S_l."""
    start: tuple[int, ...]
    """First input pixel that output 0 sees, negative in the padding: start_l = start_(l−1) − P_l·j_(l−1)."""


def chain(input_shape: Sequence[SupportsIndex], layers: Sequence[Mapping[str, Any]]) -> list[ChainLayer]:
    """Convolutions or poolings one after another, from the first on.

    The formulas are those of Araujo, Norris & Sim (2019), "Computing Receptive Fields of Convolutional Neural
    Networks". With dilation a receptive field may have gaps.

    Args:
        input_shape: (N, *spatial, C) of the first layer's input; C plays no part.
        layers: `kernel_size`, and where they are not the default `stride`, `padding`, `dilation` of each, as
            `ConvGeometry` takes them.

    Raises:
        GeometryError: sizes that make no convolution, or strides of 2^63 pixels in all; it names the layer,
            from 1. Or more layers than `MOST_LAYERS`.
    """
    shape = spatial_shape("input_shape", input_shape)
    parts = several(layers)
    if parts is None:
        raise GeometryError("layers", f"expected mappings, one for each layer, got {got(layers)}")
    if len(parts) > MOST_LAYERS:
        raise GeometryError("layers", f"got {len(parts)}, expected at most {MOST_LAYERS}; give a part")
    axes = len(shape) - 2
    field, jump, start = (1,) * axes, (1,) * axes, (0,) * axes
    chained = []
    for number, layer in enumerate(parts, 1):
        g = _chain_geometry(number, shape, layer)
        field = tuple(r + (extent - 1) * j for r, extent, j in zip(field, g.extent, jump, strict=True))
        start = tuple(at - before * j for at, (before, _), j in zip(start, g.pads, jump, strict=True))
        jump = tuple(j * s for j, s in zip(jump, g.stride, strict=True))
        if max(*field, *jump, *map(abs, start)) > INT64:
            raise GeometryError("layer", f"number {number}: has outputs that see pixels beyond {INT64}")
        chained.append(ChainLayer(g, field, jump, start))
        shape = (*g.positions, shape[-1])
    return chained


def _chain_geometry(number: int, shape: tuple[int, ...], layer: Any) -> ConvGeometry:
    keys = {"kernel_size", "stride", "padding", "dilation"}
    if not isinstance(layer, Mapping) or not {"kernel_size"} <= set(layer) <= keys:
        wanted = "kernel_size, and stride, padding, dilation where need be"
        raise GeometryError("layers", f"number {number} is {got(layer)}; expected a mapping with {wanted}")
    try:
        return ConvGeometry(shape, **layer)
    except GeometryError as error:
        raise GeometryError("layer", f"number {number}: {error}") from None


# Coverage


class Coverage(NamedTuple):
    """How often an input's pixels appear in X_col."""

    mean: float
    """Times each pixel is repeated, on average over all pixels (pixels never covered count as 0)."""
    uncovered: int
    """Pixels of one image that no patch holds."""
    pixels: int
    """Pixels of one image, H·W."""


def coverage(geometry: ConvGeometry) -> Coverage:
    """How often pixels appear in X_col; counted per axis, since patches are boxes."""
    axes, pixels = range(len(geometry.stride)), math.prod(geometry.input_size)
    elements = math.prod(_elements_inside(geometry, axis) for axis in axes)
    covered = math.prod(_covered(geometry, axis).count(1) for axis in axes)
    return Coverage(elements / pixels, pixels - covered, pixels)


def uncovered_lines(geometry: ConvGeometry) -> tuple[list[range], ...]:
    """Along each axis the lines, runs of neighbours as ranges, that no patch reaches.

    A pixel that no patch holds lies in one of them, and all pixels of them are such.
    """
    return tuple(
        [range(*run.span()) for run in re.finditer(rb"\0+", _covered(geometry, axis))]
        for axis in range(len(geometry.stride))
    )


def _covered(geometry: ConvGeometry, axis: int) -> bytearray:
    """For each line along one axis, 1 if any patch reaches it, else 0."""
    g = geometry
    size, s, d, out = (of[axis] for of in (g.input_size, g.stride, g.dilation, g.output_size))
    k, before, common = g.kernel_size[axis], g.pads[axis][0], math.gcd(s, d)
    if min(out, d // common) < min(k, s // common):  # y·S + i·D: outputs and taps may change places
        s, out, d, k = d, k, s, out
    # Tap i + cycle of output y stands where tap i of output y + leap does.
    cycle, leap = s // common, d // common
    lines = bytearray(size)
    for i in range(min(k, cycle)):
        offset = i * d - before
        first, end = max(-(offset // s), 0), (size - 1 - offset) // s + 1
        times = -(-(k - i) // cycle)
        # Where these taps stand, as outputs of tap i: one run, or several with gaps between.
        runs = [(0, out + (times - 1) * leap)]
        if leap > out:
            within = range(max((first - out) // leap + 1, 0), min((end - 1) // leap + 1, times))
            runs = [(time * leap, time * leap + out) for time in within]
        for start, stop in runs:
            start, stop = max(start, first), min(stop, end)
            if stop > start:
                line = start * s + offset
                lines[line : (stop - 1) * s + offset + 1 : s] = b"\1" * (stop - start)
    return lines


def _elements_inside(geometry: ConvGeometry, axis: int) -> int:
    """Elements of patches along one axis that fall inside the input."""
    g = geometry
    before, size = g.pads[axis][0], g.input_size[axis]
    of_axis = (g.output_size[axis], g.stride[axis], g.kernel_size[axis], g.dilation[axis])
    return _pairs_below(before + size, *of_axis) - _pairs_below(before, *of_axis)


def _pairs_below(end: int, outputs: int, stride: int, taps: int, dilation: int) -> int:
    """Pairs (y, i) of outputs and taps with y·S + i·D < end, by formula."""
    # Of taps below `full` all outputs count, of those from `some` on none, and between ceil((end − i·D) / S).
    full = min(max(end - (outputs - 1) * stride + dilation - 1, 0) // dilation, taps)
    some = min(max(end + dilation - 1, 0) // dilation, taps)
    return full * outputs + _floor_sum(
        some - full, stride, dilation, end - (some - 1) * dilation + stride - 1
    )


def _floor_sum(count: int, m: int, a: int, b: int) -> int:
    """Σ floor((a·j + b) / m) over j below `count`, for b >= 0; in steps as few as Euclid's."""
    total = 0
    while count:
        total += count * (count - 1) // 2 * (a // m) + count * (b // m)
        a, b = a % m, b % m
        # What is left are the points under a line of slope below 1: counted along the other axis.
        count, b = divmod(a * count + b, m)
        m, a = a, m
    return total
