"""Facts and grids of filters, products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import TAP_NAMES
from convmat.layouts import from_batch_shape
from convmat.report.facts import (
    Fact,
    Grid,
    Seen,
    bytes_text,
    ends,
    geometry_facts,
    shape_fact,
    sizes,
    values_text,
)

if TYPE_CHECKING:
    from convmat.engine import BlockPlan


def kernel_facts(name: str, filters: NDArray[Any], w_col: NDArray[Any], groups: int) -> list[Fact]:
    """Filters and the matrix they become."""
    *kernel, channels = filters.shape[1:]
    return [
        Fact("kernels", "kernels", name, name),
        Fact("filters", "filters", len(filters), f"{len(filters)} of {sizes((*kernel, channels))}"),
        shape_fact("kernel_size", "kernel", kernel),
        Fact("channels", "input channels", channels * groups, f"{channels * groups}{_in_groups(groups)}"),
        shape_fact("matrix_shape", "W_col", w_col.shape),
        Fact("dtype", "dtype", str(w_col.dtype), str(w_col.dtype)),
        Fact("bytes", "bytes", w_col.nbytes, bytes_text(w_col.nbytes)),
    ]


def filters_grid(filters: NDArray[Any], w_col: NDArray[Any], order: str) -> Grid:
    """The first and last rows of W_col, each with the tap it comes from."""
    *kernel, channels = filters.shape[1:]
    names = TAP_NAMES[len(kernel)]
    digits = (*kernel, channels) if order == "hwc" else (channels, *kernel)
    columns = [*names, "c"] if order == "hwc" else ["c", *names]
    lines = []
    for row in ends(len(w_col)):
        if row is None:
            lines.append(("…", "", ""))
            continue
        tap = ", ".join(map(str, np.unravel_index(row, digits)))
        lines.append((str(row), tap, values_text(w_col[row])))
    return Grid("W_col", ("row", f"tap ({', '.join(columns)})", "values"), lines)


def product_facts(
    x_shape: Sequence[int], w_shape: Sequence[int], shape: Sequence[int], dtype: Any, seen: Seen
) -> list[Fact]:
    """The three matrices of a product, and Y's values."""
    return [
        shape_fact("x_shape", "X_col", x_shape),
        shape_fact("w_shape", "W_col", w_shape),
        shape_fact("output_shape", "Y", shape),
        Fact("dtype", "dtype", str(dtype), str(dtype)),
        seen.fact(),
    ]


def values_grid(title: str, matrix: NDArray[Any]) -> Grid:
    """The first and last rows of a matrix."""
    lines = [("…", "") if r is None else (str(r), values_text(matrix[r])) for r in ends(len(matrix))]
    return Grid(title, ("row", "values"), lines)


def layer_facts(plan: BlockPlan, flip: bool, layout: str) -> list[Fact]:
    """A convolution: its geometry, its matrices, and the blocks that X_col is made in."""
    geometry = plan.geometry
    rows, columns = geometry.matrix_shape
    depth = geometry.channels // geometry.groups
    return [
        *geometry_facts(geometry, plan.padding_mode),
        Fact(
            "filters", "filters", plan.filters, f"{plan.filters} of {sizes((*geometry.kernel_size, depth))}"
        ),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact("flip", "filters flipped", flip, "yes" if flip else "no"),
        Fact(
            "matrix_shape",
            "X_col",
            [rows, columns],
            f"{sizes((rows, columns))}, in blocks of at most {plan.block_rows} rows",
        ),
        shape_fact("weights_shape", "W_col", (geometry.terms, plan.filters)),
        Fact("layout", "", layout, ""),
        shape_fact("output_shape", "Y", from_batch_shape(plan.output_shape, layout), layout),
        Fact("dtype", "dtype", str(plan.arithmetic.result), str(plan.arithmetic.result)),
    ]


def _in_groups(groups: int) -> str:
    return f", in {groups} groups" if groups > 1 else ""
