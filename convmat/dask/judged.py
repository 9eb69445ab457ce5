"""`verify` of Dask arrays: each chunk of a result against the definition, on the worker that has it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import ArrayLike

from convmat.dask.arrays import convolve
from convmat.dask.operands import Operands, checked, images
from convmat.dask.windows import Array, bounds_of, ranges
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.verification import layer
from convmat.verification.judge import Rule
from convmat.verification.quantization import Requantize
from convmat.verification.verdict import Report, joined
from convmat.words import POSITION_NAMES

_NUMPY_MODES: dict[str, Any] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def verify(
    x: da.Array,
    filters: ArrayLike,
    expected: da.Array | ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    exact: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    requantize: tuple[Any, ...] | None = None,
) -> Report:
    """Compare a convolution with the definition: `convolve`'s here, or yours; see `convmat.verify`.

    It computes, by the scheduler that Dask is set to. What the definition sees of x is cut out by Dask's own
    indexing, so that a mistake in a halo is not on both sides.

    Args:
        x: (N, *spatial, C), chunked in any way. The other arguments are those of `convmat.verify`.
        expected: the result to judge, (N, *out, K) or (N·H_out·W_out, K), a Dask array or one in memory.

    Returns:
        The report on all chunks. It makes no diagnosis, which needs the arrays whole: `convmat.verify` does
        of a part where the result differs.
    """
    x = images("input", x)
    operands = Operands.of(filters, bias)
    geometry = filter_geometry(x.shape, operands.filters.shape, stride, padding, dilation, groups)
    where: dict[str, Any] = {
        "stride": geometry.stride,
        "dilation": geometry.dilation,
        "groups": geometry.groups,
        "flip": flip,
    }
    own = convolve(x, filters, padding=geometry.pads, bias=bias, padding_mode=padding_mode, **where)
    result = own
    if expected is not None:
        result = checked("expected", expected)
        if result.shape == (math.prod(own.shape[:-1]), own.shape[-1]):
            result = result.reshape(own.shape)
        if result.shape != own.shape:
            return Report.of_shapes(result, own.shape)
    Rule.of(exact, atol, rtol)
    if requantize is not None:
        Requantize.of(requantize)
    rules = {"exact": exact, "atol": atol, "rtol": rtol, "requantize": requantize}
    judge = dask.delayed(_Judge(where | rules, operands, expected is None), pure=True)
    lines = [_lines(geometry, axis, padding_mode) for axis in range(len(geometry.stride))]
    boxes = list(itertools.product(*(ranges(bounds_of(chunks)) for chunks in own.chunks)))
    reports = dask.compute(*(judge(*_seen(x, geometry, lines, box), result[_slices(box)]) for box in boxes))
    starts = (tuple(r.start for r in box) for box in boxes)
    report = joined(list(zip(starts, reports, strict=True)), own.shape)
    return replace(report, axes=("n", *POSITION_NAMES[len(geometry.stride)], "k"))


def _slices(box: tuple[range, ...]) -> tuple[slice, ...]:
    return tuple(slice(r.start, r.stop) for r in box)


def _lines(geometry: ConvGeometry, axis: int, mode: str) -> Array:
    """Which pixel each line of the padded input is along an axis, as NumPy pads; −1 where it is none."""
    how: dict[str, Any] = {"constant_values": -1} if mode == "zeros" else {}
    line = np.pad(np.arange(geometry.input_size[axis]), geometry.pads[axis], _NUMPY_MODES[mode], **how)
    return np.asarray(line)


def _seen(
    x: da.Array, geometry: ConvGeometry, lines: list[Array], box: tuple[range, ...]
) -> tuple[da.Array, list[Array]]:
    """The pixels that a box of the result sees, and where along each axis they are in its window."""
    images, *along, _ = box
    part, inside = x[images.start : images.stop], []
    for axis, (outputs, line) in enumerate(zip(along, lines, strict=True)):
        stride, extent = geometry.stride[axis], geometry.extent[axis]
        pixels = line[outputs.start * stride : (outputs.stop - 1) * stride + extent]
        inside.append(pixels >= 0)
        pixels = pixels[pixels >= 0]
        chosen: Any = pixels
        if len(pixels) and (np.diff(pixels) == 1).all():
            chosen = slice(int(pixels[0]), int(pixels[-1]) + 1)
        part = part[(slice(None),) * (axis + 1) + (chosen,)]
    return part, inside


@dataclass(frozen=True, eq=False)
class _Judge:
    """The verdict on a box of a result, in a task."""

    how: dict[str, Any]
    operands: Operands
    is_own: bool
    """Whether the result is convmat's, which is requantized before it is judged."""

    def __call__(self, pixels: Array, inside: list[Array], result: Array) -> Report:
        window = pixels
        if not all(each.all() for each in inside):
            window = np.zeros((len(pixels), *map(len, inside), pixels.shape[-1]), pixels.dtype)
            places = np.ix_(*inside)
            for image, seen in zip(window, pixels, strict=True):
                image[places] = seen
        requantize = self.how["requantize"]
        if self.is_own and requantize is not None:
            result = Requantize.of(requantize).resolved().apply(result)
        bias = self.operands.bias
        return layer.verify(window, self.operands.filters, result, bias=bias, **self.how)
