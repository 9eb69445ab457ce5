"""Stages beside the convolution, each against its definition: unroll, flatten-filters, fold, matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.errors import MemoryLimitError, SettingError
from convmat.folding import check_sums, check_x_col, fold
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.matrix import layer_map
from convmat.patches import flatten_filters, unroll
from convmat.verification.comparison import Definition, compare, working_bytes
from convmat.verification.gradients import (
    verify_bias_gradient,
    verify_input_gradient,
    verify_weight_gradient,
)
from convmat.verification.judge import Rule, bands
from convmat.verification.layer import verify
from convmat.verification.numerics import PLAIN, Numerics, named
from convmat.verification.verdict import Report
from convmat.watching import Watch, unwatched

_PYTHONS = 110  # bytes of a number in a list of its own, at most about
_DENSE_ELEMENTS = 1 << 24  # of a matrix that is held whole, and defined entry by entry


def verify_unroll(
    x: NDArray[Any],
    kernel_size: Sizes,
    expected: NDArray[Any] | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    padding_mode: str = "zeros",
    order: str = "hwc",
    watch: Watch = unwatched,
    **judged: Any,
) -> Report:
    """Compare X_col with Algorithm 1: `unroll`'s, or yours; it moves values, so it must be equal exactly.

    Args:
        x and the geometry: as `unroll` takes them.
        expected: (N·H_out·W_out, kh·kw·C), or (N, H_out·W_out, kh·kw·C).
        judged: the `exact`, `atol` and `rtol` of `verify`.
    """
    geometry = ConvGeometry(x.shape, kernel_size, stride, padding, dilation)
    options: dict[str, Any] = {"dilation": geometry.dilation, "padding_mode": padding_mode, "order": order}
    result = expected
    if result is None:
        result = unroll(x, geometry.kernel_size, geometry.stride, geometry.pads, **options)
    options |= {"stride": geometry.stride, "padding": geometry.padding}
    parts = bands((geometry.batch, *geometry.output_size), geometry.matrix_shape[1])
    definition = Definition(
        geometry.matrix_shape,
        watch(parts, len(parts)),
        lambda band: reference.unroll_by_taps(x, geometry.kernel_size, **options, band=band),
    )
    return definition.compare(_rows(result), Rule.of(**judged))


def verify_flatten_filters(
    filters: NDArray[Any],
    expected: NDArray[Any] | None = None,
    groups: int = 1,
    order: str = "hwc",
    watch: Watch = unwatched,
    **judged: Any,
) -> Report:
    """Compare W_col, (kh·kw·C/groups, K), with its definition: `flatten_filters`'s, or yours; exactly."""
    own = flatten_filters(filters, groups, order=order)
    wanted = reference.flatten_filters(filters, order, watch)
    return compare(own if expected is None else expected, wanted, **judged)


def verify_fold(
    x_col: NDArray[Any],
    input_shape: Sequence[int],
    kernel_size: Sizes,
    expected: NDArray[Any] | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    overlap: str = "sum",
    order: str = "hwc",
    arithmetic: str | None = None,
    watch: Watch = unwatched,
    **judged: Any,
) -> Report:
    """Compare images with X_col's elements put back one by one: `fold`'s, or yours.

    What meets in a pixel is a sum, so integers must be equal, and floats within Higham's bound of as many
    terms as the kernel has taps; the division of a mean is one more.

    Args:
        x_col and the geometry: as `fold` takes them.
        expected: (N, *spatial, C).
        arithmetic: one of `numerics.NAMES` that sums without products have.
        judged: the `exact`, `atol` and `rtol` of `verify`.

    Raises:
        IntegerRangeError: integers whose sums could pass 2^63. SettingError: an arithmetic of products.
    """
    rule, numerics = Rule.of(**judged, arithmetic=arithmetic), named(arithmetic)
    if numerics.tiles is not None:
        raise SettingError("arithmetic", f"{arithmetic} convolves; fold is sums of numbers, without products")
    shape = tuple(input_shape)
    geometry = ConvGeometry(shape, kernel_size, stride, padding, dilation)
    check_x_col(np.shape(x_col), geometry)
    rows = _rows(x_col)
    options: dict[str, Any] = {"dilation": geometry.dilation, "overlap": overlap, "order": order}
    mean = overlap == "mean"
    if not mean:
        check_sums(rows, geometry)
    result = expected
    if result is None:
        result = fold(rows, shape, geometry.kernel_size, geometry.stride, geometry.pads, **options)
    arguments = ((1, *shape[1:]), geometry.kernel_size, geometry.stride, geometry.padding)
    definition = _sums(
        lambda part: reference.fold(part, *arguments, **options, watch=watch),
        rows,
        geometry.batch,
        shape,
        math.prod(geometry.kernel_size) + mean,
        divided=mean,
        numerics=numerics,
    )
    result = np.asarray(result)
    if arithmetic is not None:
        numerics.check(rows.dtype, result.dtype)
    return definition.compare(result, rule)


def fold_bytes(geometry: ConvGeometry) -> int:
    """Memory that `verify_fold` takes beside X_col and the result: one image's numbers as Python's."""
    elements = geometry.patches * geometry.matrix_shape[1]
    return _PYTHONS * elements + working_bytes(elements)


def verify_matrix(
    filters: NDArray[Any],
    input_shape: Sequence[int],
    expected: NDArray[Any] | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    layout: str = "nhwc",
    watch: Watch = unwatched,
    **judged: Any,
) -> Report:
    """Compare the dense matrix of a layer with its definition: `layer_matrix`'s, or yours.

    The definition unrolls an image of pixel numbers, and puts each weight where its pixel is. An entry is a
    weight, to be met exactly; where the padding shows pixels again it is a sum, within the bound.

    Args:
        filters and the geometry: as `layer_matrix` takes them, `input_shape` (N, *spatial, C).
        expected: (K·H_out·W_out, C·H·W), both sides in the order of `layout`.
        judged: the `exact`, `atol` and `rtol` of `verify`.

    Raises:
        MemoryLimitError: a matrix of more than 2^24 elements.
    """
    shape = (1, *input_shape[1:])
    window: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = layer_map(
        filters, shape, groups=groups, flip=flip, padding_mode=padding_mode, layout=layout, **window
    )
    check_dense(layer.shape)
    result = np.asarray(layer.matrix().toarray() if expected is None else expected)
    weights = np.flip(filters, tuple(range(1, filters.ndim - 1))) if flip else filters

    def dense(weights: NDArray[Any]) -> NDArray[Any]:
        return _dense(weights, shape, layer.geometry, groups, padding_mode, layout, watch)

    if padding_mode == "zeros":
        return compare(result, dense(weights), **judged)
    terms = math.prod(layer.geometry.kernel_size)
    return _sums(dense, weights, 1, layer.shape, terms).compare(result, Rule.of(**judged))


def check_dense(shape: Sequence[int]) -> None:
    """Raise MemoryLimitError for a matrix too large to be judged."""
    if math.prod(shape) > _DENSE_ELEMENTS:
        raise MemoryLimitError(
            "matrix",
            f"of {shape[0]} × {shape[1]} is more than the {_DENSE_ELEMENTS} elements that are judged; "
            "give a smaller input of the same layer",
        )


def matrix_bytes(shape: Sequence[int], dtype: np.dtype[Any], padding_mode: str) -> int:
    """Memory that `verify_matrix` takes for a matrix of this shape, of filters of this dtype."""
    count = 5 if padding_mode != "zeros" and dtype.kind in "fc" else 3  # with magnitudes and their sums
    return count * math.prod(shape) * (16 if dtype.kind == "c" else 8) + working_bytes(
        math.prod(shape), dtype
    )


def _dense(
    filters: NDArray[Any],
    shape: tuple[int, ...],
    geometry: ConvGeometry,
    groups: int,
    padding_mode: str,
    layout: str,
    watch: Watch,
) -> NDArray[Any]:
    pixels = math.prod(shape)
    numbers = np.arange(1, pixels + 1).reshape(shape)  # 0 is the padding
    depth, per_group = filters.shape[-1], len(filters) // groups
    kind = np.result_type(filters.dtype, np.int64 if filters.dtype.kind in "biu" else np.float64)
    w_col = reference.flatten_filters(filters).astype(kind)
    dense = np.zeros((geometry.patches, len(filters), pixels + 1), kind)
    for group in range(groups):
        pixels_of = reference.unroll_by_taps(
            numbers[..., group * depth : (group + 1) * depth],
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            padding_mode,
        )
        columns, taps = range(group * per_group, (group + 1) * per_group), range(pixels_of.shape[1])
        for k, column in watch(itertools.product(columns, taps), per_group * len(taps)):
            dense[np.arange(len(pixels_of)), k, pixels_of[:, column]] += w_col[column, k]
    dense = dense[..., 1:].reshape(*geometry.output_size, len(filters), *shape[1:])
    if layout == "nchw":
        axes = len(geometry.kernel_size)
        dense = np.moveaxis(dense, (axes, -1), (0, axes + 1))
    return dense.reshape(-1, pixels)


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """X_col as one matrix, also where it is one for each image."""
    return array.reshape(math.prod(array.shape[:2]), array.shape[2]) if array.ndim == 3 else array


def _sums(
    sums: Callable[[NDArray[Any]], NDArray[Any]],
    source: NDArray[Any],
    parts: int,
    shape: tuple[int, ...],
    terms: int,
    divided: bool = False,
    numerics: Numerics = PLAIN,
) -> Definition:
    """What `sums` makes of so many parts of the source, each element of at most `terms` numbers."""
    return Definition(
        shape,
        np.split(source, parts) if parts else [],
        lambda part: sums(numerics.value(part)),
        lambda part: sums(numerics.size(part)),
        lambda part, tiny: sums(numerics.doubt(part, tiny)),
        [source],
        terms,
        divided,
        numerics,
    )


class Stage(NamedTuple):
    """A command whose result is judged against a definition of its own."""

    verify: Callable[..., Report]
    axes: str
    """Of the result."""


STAGES = {
    "convolve": Stage(verify, "N × … × K"),
    "fold": Stage(verify_fold, "N × … × C"),
    "unroll": Stage(verify_unroll, "rows × columns"),
    "flatten-filters": Stage(verify_flatten_filters, "rows × filters"),
    "matrix": Stage(verify_matrix, "outputs × inputs"),
    "dx": Stage(verify_input_gradient, "N × … × C"),
    "dw": Stage(verify_weight_gradient, "K × … × C/groups"),
    "db": Stage(verify_bias_gradient, "K"),
}
