"""Facts and grids of filters, products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import ConvGeometry
from convmat.layouts import from_batch_shape, output_layout
from convmat.report.facts import (
    Grid,
    absent,
    ends_grid,
    geometry_facts,
    quantization_facts,
    result_facts,
    values_text,
)
from convmat.shown import Fact, bytes_text, percent, shape_fact, sizes
from convmat.sizes import coverage, uncovered_lines
from convmat.words import LINE_NAMES, TAP_NAMES, axes_text, columns_text, transpose_formulas

if TYPE_CHECKING:
    from convmat.matrix import LayerMap
    from convmat.plan import Plan
    from convmat.quantization import Quantization
    from convmat.spectrum import Spectrum


def kernel_facts(name: str, filters: NDArray[Any], w_col: NDArray[Any], groups: int) -> list[Fact]:
    """Filters and the matrix they become."""
    *kernel, channels = filters.shape[1:]
    return [
        Fact("kernels", "kernels", name, name),
        Fact("filters", "filters", len(filters), f"{len(filters)} of {sizes((*kernel, channels))}"),
        shape_fact("kernel_size", "kernel", kernel),
        Fact("channels", "input channels", channels * groups, f"{channels * groups}{_in_groups(groups)}"),
        *result_facts("matrix_shape", "W_col", w_col.shape, w_col.dtype),
        Fact("bytes", "bytes", w_col.nbytes, bytes_text(w_col.nbytes)),
    ]


def filters_grid(filters: NDArray[Any], w_col: NDArray[Any], order: str) -> Grid:
    """The first and last rows of W_col, each with the tap it comes from."""
    *kernel, channels = filters.shape[1:]
    names = TAP_NAMES[len(kernel)]
    digits, columns = (*kernel, channels), (*names, "c")
    if order == "chw":
        digits, columns = (channels, *kernel), ("c", *names)

    def line(row: int) -> tuple[str, ...]:
        return str(row), ", ".join(map(str, np.unravel_index(row, digits))), values_text(w_col[row])

    return ends_grid("W_col", ("row", f"tap ({', '.join(columns)})", "values"), len(w_col), line)


def product_facts(
    x_shape: Sequence[int], w_shape: Sequence[int], shape: Sequence[int], dtype: Any
) -> list[Fact]:
    """The three matrices of a product."""
    return [
        shape_fact("x_shape", "X_col", x_shape),
        shape_fact("w_shape", "W_col", w_shape),
        *result_facts("output_shape", "Y", shape, dtype),
    ]


def values_grid(title: str, matrix: NDArray[Any]) -> Grid:
    """The first and last rows of a matrix."""
    return ends_grid(title, ("row", "values"), len(matrix), lambda row: (str(row), values_text(matrix[row])))


def layer_facts(plan: Plan, flip: bool, layout: str, quantization: Quantization | None) -> list[Fact]:
    """A convolution: its geometry and its matrices."""
    geometry = plan.geometry
    dtype = plan.arithmetic.result if quantization is None else np.dtype(quantization.dtype)
    return [
        Fact("transpose", "", False, ""),
        *geometry_facts(geometry, plan.padding_mode),
        *_filter_facts(geometry, plan.filters, flip),
        shape_fact("matrix_shape", "X_col", geometry.matrix_shape),
        shape_fact("weights_shape", "W_col", (geometry.terms, plan.filters)),
        *quantization_facts(quantization),
        *_image_facts("Y", plan.output_shape, layout, dtype),
    ]


def transposed_facts(
    geometry: ConvGeometry, y_shape: Sequence[int], flip: bool, layout: str, dtype: np.dtype[Any]
) -> list[Fact]:
    """A transposed convolution of Y, (N, *out, K): the layer it transposes, and sizes with their formula.

    "Input" and "output" are those of the transposed convolution.
    """
    formulas = transpose_formulas(geometry, y_shape[1:-1])
    changed = {
        "input_shape": shape_fact("", "", y_shape, axes_text(geometry).replace("C", "K")),
        "output_size": shape_fact("", "", geometry.input_size),
    }
    for name, size, formula in zip(geometry.axis_names, geometry.input_size, formulas, strict=True):
        changed[f"output_{name}"] = Fact("", "", size, formula)
    return [
        Fact("transpose", "transposed", True, "yes"),
        *(
            fact._replace(value=changed[fact.key].value, text=changed[fact.key].text)
            if fact.key in changed and fact.label
            else fact
            for fact in geometry_facts(geometry)
        ),
        *_filter_facts(geometry, y_shape[-1], flip),
        Fact("matrix_shape", "", list(geometry.matrix_shape), ""),
        shape_fact("weights_shape", "W_col", (geometry.terms, y_shape[-1])),
        *_image_facts("folded", geometry.input_shape, layout, dtype),
    ]


def _filter_facts(geometry: ConvGeometry, filters: int, flip: bool) -> list[Fact]:
    size = (*geometry.kernel_size, geometry.channels // geometry.groups)
    return [
        Fact("filters", "filters", filters, f"{filters} of {sizes(size)}"),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact("flip", "filters flipped", flip, "yes" if flip else "no"),
    ]


def _image_facts(label: str, shape: tuple[int, ...], layout: str, dtype: np.dtype[Any]) -> list[Fact]:
    """A result, (N, *out, K), in the layout that it is written in."""
    written = from_batch_shape(shape, layout)
    return [
        Fact("layout", "", layout, ""),
        *result_facts("output_shape", label, written, dtype, output_layout(layout)),
    ]


def fold_facts(
    geometry: ConvGeometry,
    x_shape: Sequence[int],
    overlap: str,
    order: str,
    layout: str,
    dtype: np.dtype[Any],
) -> list[Fact]:
    """X_col and the images it is folded into: how often elements meet, and which pixels none reaches."""
    mean, uncovered, pixels = coverage(geometry)
    runs = [[[r.start, r.stop - 1] for r in lines] for lines in uncovered_lines(geometry)]
    which = f": {uncovered_text(geometry)}" if uncovered else ""
    return [
        shape_fact("matrix_shape", "X_col", x_shape),
        Fact("order", "columns over", order, columns_text(geometry, order)),
        Fact("overlap", "overlap", overlap, f"{overlap}, {_OVERLAPS[overlap]}"),
        Fact("repeats", "elements in a pixel", mean, f"{mean:.2f} on average"),
        Fact("uncovered", "pixels never covered", uncovered, f"{uncovered} of {pixels}{which}"),
        Fact("uncovered_lines", "", runs, ""),
        *_image_facts("folded", geometry.input_shape, layout, dtype),
    ]


_OVERLAPS = {"sum": "the adjoint of unroll", "mean": "the inverse of unroll"}
_MOST_RUNS = 4  # along an axis, that a line of text can name


def uncovered_text(geometry: ConvGeometry) -> str:
    """The lines that no patch reaches: rows 27, columns 13..14 and 27."""
    parts = []
    for name, runs in zip(geometry.axis_names, uncovered_lines(geometry), strict=True):
        shown = [f"{r.start}" if len(r) == 1 else f"{r.start}..{r.stop - 1}" for r in runs]
        if len(shown) > _MOST_RUNS:
            shown = [*shown[: _MOST_RUNS - 1], f"… {shown[-1]}"]
        if shown:
            parts.append(f"{LINE_NAMES[name]} {', '.join(shown)}")
    return "; ".join(parts)


def layer_matrix_facts(layer: LayerMap, spectrum: Spectrum | None) -> list[Fact]:
    """A layer's matrix: its size and entries, what they share, its norms and singular values."""
    geometry, filters = layer.geometry, len(layer.filters)
    rows, columns = layer.shape
    nnz, density, weights = layer.nnz, layer.density, layer.filters.size
    norm = layer.frobenius_norm()
    outputs, inputs = ((*geometry.output_size, filters), (*geometry.input_size, geometry.channels))
    if layer.layout == "nchw":
        outputs, inputs = ((n[-1], *n[:-1]) for n in (outputs, inputs))
    factors = (f"I_{geometry.patches}", "W_colᵀ")
    repeated = " ⊗ ".join(factors if layer.layout == "nhwc" else factors[::-1])
    unrolled = geometry.patches * geometry.matrix_shape[1]
    shared = f"{weights}, each {nnz / weights:.6g} times on average"
    text = f"{nnz}, {percent(density)} of {rows * columns}"
    matrix, kind = result_facts("matrix_shape", "M", layer.shape, layer.filters.dtype, "vec Y × vec X")
    return [
        Fact("filters", "filters", filters, f"{filters} of {sizes(layer.filters.shape[1:])}"),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact("layout", "", layer.layout, ""),
        matrix,
        shape_fact("row_axes", "rows over", outputs, layer.layout),
        shape_fact("column_axes", "columns over", inputs, layer.layout),
        Fact("nnz", "entries stored", nnz, text, brief=f"{nnz} entries"),
        Fact("density", "", density, ""),
        Fact("weights", "free weights", weights, shared),
        Fact(
            "unroll_shape",
            "as FC on patches",
            [unrolled, columns],
            f"M = ({repeated}) · U, U {sizes((unrolled, columns))}",
        ),
        kind,
        Fact("bytes", "bytes, sparse", layer.nbytes, bytes_text(layer.nbytes)),
        Fact("dense_bytes", "bytes, dense", layer.dense_bytes, bytes_text(layer.dense_bytes)),
        Fact("frobenius_norm", "Frobenius norm", norm, f"{norm:.10g}"),
        *(absent(*_OF_A_SPECTRUM) if spectrum is None else spectrum.facts()),
    ]


_OF_A_SPECTRUM = (
    *("spectral_norm", "spectral_error", "method", "iterations", "converged", "spectral_norm_upper"),
    *("upper_method", "smallest_singular_value", "smallest_singular_value_upper", "rank", "condition"),
)
_OF_A_PLAN = (
    *("kernel", "level", "accumulators", "in_place", "band_shape", "box_shape", "scratch_bytes", "threads"),
    *("flops", "bytes"),
)


def plan_facts(plans: Sequence[Plan]) -> list[Fact]:
    """How the engine went about a batch, by the plans of parts that are summed in different dtypes.

    Without plans, where nobody asks, the keys alone.
    """
    if not plans:
        return absent(*_OF_A_PLAN)
    summed = [str(plan.arithmetic.accumulator) for plan in plans]
    plain = {fact.key: fact for fact in plans[-1].facts()}
    plain["accumulators"] = Fact("accumulators", "summed in", summed, ", then ".join(summed))
    return [plain[key] for key in _OF_A_PLAN]


def _in_groups(groups: int) -> str:
    return f", in {groups} groups" if groups > 1 else ""
