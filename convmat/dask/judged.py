"""`verify` of Dask arrays: each chunk of a result against the definition, on the worker that has it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike

from convmat.dask.arrays import convolve
from convmat.dask.definition import judging
from convmat.dask.operands import Operands, checked, images
from convmat.dask.schedulers import done
from convmat.geometry import Padding, Sizes
from convmat.plan import filter_geometry
from convmat.quantization import Quantization
from convmat.verification.layer import judge_layer
from convmat.verification.verdict import Report, joined
from convmat.watching import Watch, unwatched
from convmat.words import POSITION_NAMES


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
    quantization: Quantization | None = None,
    arithmetic: str | None = None,
    activation: Any = "none",
    watch: Watch = unwatched,
) -> Report:
    """Compare a convolution with the definition: `convolve`'s here, or yours; see `convmat.verify`.

    It computes, by the scheduler that Dask is set to. What the definition sees of x is found by NumPy's
    padding and lists of indices, so that a mistake in a halo is not on both sides.

    Args:
        x: (N, *spatial, C), chunked in any way. The other arguments are those of `convmat.verify`.
        expected: the result to judge, (N, *out, K) or (N·H_out·W_out, K), a Dask array or one in memory.

    Returns:
        The report on all chunks. It says nothing of where wrong elements lie together, and makes no
        diagnosis: both need the arrays whole. `convmat.verify` does so of a part where the result differs.
    """
    x = images("input", x)
    operands = Operands.of(filters, bias)
    geometry = filter_geometry(x.shape, operands.filters.shape, stride, padding, dilation, groups)
    layer: dict[str, Any] = {"stride": geometry.stride, "dilation": geometry.dilation}
    layer |= {"groups": geometry.groups, "flip": flip}
    how = layer | {"padding": geometry.pads, "padding_mode": padding_mode, "quantization": quantization}
    own = convolve(x, operands.filters, bias=operands.bias, **how)
    result = own
    if expected is not None:
        result = checked("expected", expected)
        if result.shape == (math.prod(own.shape[:-1]), own.shape[-1]):
            result = result.reshape(own.shape)
        if result.shape != own.shape:
            return Report.of_shapes(result, own.shape)
    rules: dict[str, Any] = {"exact": exact, "atol": atol, "rtol": rtol, "quantization": quantization}
    rules |= {"arithmetic": arithmetic, "activation": activation}
    window, place = (0, *geometry.extent, x.shape[-1]), (0, *(1,) * len(geometry.extent), own.shape[-1])
    none, of_none = np.empty(window, x.dtype), np.empty(place, result.dtype)
    judge_layer(none, operands.filters, of_none, bias=operands.bias, **layer, **rules)  # can it be judged so?
    judge = {"layer": layer | rules, "is_own": expected is None}
    graph, keys = judging(x, geometry, padding_mode, result.rechunk(own.chunks), operands, judge)
    report: Report | None = None
    for part in watch(done(graph, keys), len(keys)):
        report = part if report is None else joined(report, part)
    assert report is not None  # a result has a chunk
    axes = ("n", *POSITION_NAMES[len(geometry.stride)], "k")
    return replace(report, shape=own.shape, expected_shape=own.shape, axes=axes)
