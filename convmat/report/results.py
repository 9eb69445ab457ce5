"""Facts and grids of filters, products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import LINE_NAMES, TAP_NAMES, ConvGeometry
from convmat.layouts import from_batch_shape, output_layout
from convmat.report.facts import (
    AXIS_KEYS,
    Fact,
    Grid,
    absent,
    axes_text,
    bytes_text,
    columns_text,
    ends,
    geometry_facts,
    pads_text,
    percent,
    result_facts,
    shape_fact,
    sizes,
    values_text,
)

if TYPE_CHECKING:
    from convmat.engine import Plan
    from convmat.matrix import LayerMap, MatrixFacts
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
    lines = [("…", "") if r is None else (str(r), values_text(matrix[r])) for r in ends(len(matrix))]
    return Grid(title, ("row", "values"), lines)


def layer_facts(plan: Plan, flip: bool, layout: str) -> list[Fact]:
    """A convolution: its geometry and its matrices."""
    geometry = plan.geometry
    depth = geometry.channels // geometry.groups
    return [
        Fact("transpose", "", False, ""),
        *geometry_facts(geometry, plan.padding_mode),
        Fact(
            "filters", "filters", plan.filters, f"{plan.filters} of {sizes((*geometry.kernel_size, depth))}"
        ),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact("flip", "filters flipped", flip, "yes" if flip else "no"),
        shape_fact("matrix_shape", "X_col", geometry.matrix_shape),
        shape_fact("weights_shape", "W_col", (geometry.terms, plan.filters)),
        Fact("layout", "", layout, ""),
        *result_facts(
            "output_shape",
            "Y",
            from_batch_shape(plan.output_shape, layout),
            plan.arithmetic.result,
            output_layout(layout),
        ),
    ]


def transposed_facts(
    geometry: ConvGeometry, y_shape: Sequence[int], flip: bool, layout: str, dtype: np.dtype[Any]
) -> list[Fact]:
    """A transposed convolution of Y, (N, *out, K): the layer it transposes, and sizes with their formula.

    "Input" and "output" are those of the transposed convolution.
    """
    filters, depth = y_shape[-1], geometry.channels // geometry.groups
    return [
        Fact("transpose", "transposed", True, "yes"),
        shape_fact("input_shape", "input shape", y_shape, axes_text(geometry).replace("C", "K")),
        shape_fact("kernel_size", "kernel", geometry.kernel_size),
        shape_fact("stride", "stride", geometry.stride),
        shape_fact("dilation", "dilation", geometry.dilation),
        Fact("padding", "", geometry.padding, ""),
        Fact("padding_mode", "", "zeros", ""),
        Fact("pads", "padding", [list(p) for p in geometry.pads], pads_text(geometry)),
        *(
            Fact(
                f"output_{name}", f"output {name}", size, geometry.transpose_formula(axis, y_shape[1 + axis])
            )
            for axis, (name, size) in enumerate(zip(geometry.axis_names, geometry.input_size, strict=True))
        ),
        *absent(*AXIS_KEYS),
        shape_fact("output_size", "output size", geometry.input_size),
        Fact("filters", "filters", filters, f"{filters} of {sizes((*geometry.kernel_size, depth))}"),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact("flip", "filters flipped", flip, "yes" if flip else "no"),
        Fact("matrix_shape", "", list(geometry.matrix_shape), ""),
        shape_fact("weights_shape", "W_col", (geometry.terms, filters)),
        Fact("layout", "", layout, ""),
        *result_facts(
            "output_shape",
            "folded",
            from_batch_shape(geometry.input_shape, layout),
            dtype,
            output_layout(layout),
        ),
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
    mean, uncovered, pixels = geometry.coverage()
    runs = [[[r.start, r.stop - 1] for r in lines] for lines in geometry.uncovered_lines()]
    which = f": {uncovered_text(geometry)}" if uncovered else ""
    return [
        shape_fact("matrix_shape", "X_col", x_shape),
        Fact("order", "columns over", order, columns_text(geometry, order)),
        Fact("overlap", "overlap", overlap, f"{overlap}, {_OVERLAPS[overlap]}"),
        Fact("repeats", "elements in a pixel", mean, f"{mean:.2f} on average"),
        Fact("uncovered", "pixels never covered", uncovered, f"{uncovered} of {pixels}{which}"),
        Fact("uncovered_lines", "", runs, ""),
        Fact("layout", "", layout, ""),
        *result_facts(
            "output_shape",
            "folded",
            from_batch_shape(geometry.input_shape, layout),
            dtype,
            output_layout(layout),
        ),
    ]


_OVERLAPS = {"sum": "the adjoint of unroll", "mean": "the inverse of unroll"}
_MOST_RUNS = 4  # along an axis, that a line of text can name


def uncovered_text(geometry: ConvGeometry) -> str:
    """The lines that no patch reaches: rows 27, columns 13..14 and 27."""
    parts = []
    for name, runs in zip(geometry.axis_names, geometry.uncovered_lines(), strict=True):
        shown = [f"{r.start}" if len(r) == 1 else f"{r.start}..{r.stop - 1}" for r in runs]
        if len(shown) > _MOST_RUNS:
            shown = [*shown[: _MOST_RUNS - 1], f"… {shown[-1]}"]
        if shown:
            parts.append(f"{LINE_NAMES[name]} {', '.join(shown)}")
    return "; ".join(parts)


def layer_matrix_facts(layer: LayerMap, known: MatrixFacts) -> list[Fact]:
    """A layer's matrix: its size and entries, what they share, its norms and singular values."""
    geometry, filters = layer.geometry, len(layer.filters)
    rows, columns = known.shape
    outputs, inputs = ((*geometry.output_size, filters), (*geometry.input_size, geometry.channels))
    if layer.layout == "nchw":
        outputs, inputs = ((n[-1], *n[:-1]) for n in (outputs, inputs))
    patches, weights = f"I_{geometry.patches}", "W_colᵀ"
    repeated = f"{patches} ⊗ {weights}" if layer.layout == "nhwc" else f"{weights} ⊗ {patches}"
    unrolled = geometry.patches * geometry.matrix_shape[1]
    shared = f"{known.weights}, each {known.nnz / known.weights:.6g} times on average"
    text = f"{known.nnz}, {percent(known.density)} of {rows * columns}"
    matrix, kind = result_facts("matrix_shape", "M", known.shape, layer.filters.dtype, "vec Y × vec X")
    return [
        Fact("filters", "filters", filters, f"{filters} of {sizes(layer.filters.shape[1:])}"),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact("layout", "", layer.layout, ""),
        matrix,
        shape_fact("row_axes", "rows over", outputs, layer.layout),
        shape_fact("column_axes", "columns over", inputs, layer.layout),
        Fact("nnz", "entries stored", known.nnz, text, brief=f"{known.nnz} entries"),
        Fact("density", "", known.density, ""),
        Fact("weights", "free weights", known.weights, shared),
        Fact(
            "unroll_shape",
            "as FC on patches",
            [unrolled, columns],
            f"M = ({repeated}) · U, U {sizes((unrolled, columns))}",
        ),
        kind,
        Fact("bytes", "bytes, sparse", layer.nbytes, bytes_text(layer.nbytes)),
        Fact("dense_bytes", "bytes, dense", layer.dense_bytes, bytes_text(layer.dense_bytes)),
        Fact("frobenius_norm", "Frobenius norm", known.frobenius_norm, f"{known.frobenius_norm:.10g}"),
        *_spectrum_facts(known.spectrum),
    ]


def _spectrum_facts(found: Spectrum | None) -> list[Fact]:
    """Singular values; None for those that are not known, with the reason."""
    if found is None:
        keys = (
            "spectral_norm spectral_error method iterations converged smallest_singular_value rank condition"
        )
        return absent(*keys.split())
    how = {
        "dense": "of a dense copy",
        "fourier": "exact, by Fourier transform: circular, stride 1",
        "lanczos": f"{'' if found.converged else 'not converged '}to ±{found.error:.2g}, "
        f"{found.iterations} Lanczos iterations",
    }[found.method]
    unknown = "unknown: M is too large for all singular values"
    smallest, rank, condition = (
        unknown if value is None else f"{value:.{digits}g}"
        for value, digits in ((found.smallest, 10), (found.rank, 15), (found.condition, 6))
    )
    largest = f"{found.largest:.10g}"
    return [
        Fact(
            "spectral_norm",
            "largest singular value",
            found.largest,
            f"{largest}  ({how})",
            brief=f"largest singular value {largest}",
        ),
        Fact("spectral_error", "", found.error, ""),
        Fact("method", "", found.method, ""),
        Fact("iterations", "", found.iterations, ""),
        Fact("converged", "", found.converged, ""),
        Fact("smallest_singular_value", "smallest singular value", found.smallest, smallest),
        Fact("rank", "rank", found.rank, rank),
        Fact("condition", "condition", found.condition, condition),
    ]


def _laid_out(label: str, shape: tuple[int, ...], dtype: np.dtype[Any], layout: str) -> list[Fact]:
    """A result, (N, *out, K), in the layout that it is written in."""
    return result_facts("output_shape", label, from_batch_shape(shape, layout), dtype, output_layout(layout))


def plan_facts(plans: Sequence[Plan]) -> list[Fact]:
    """How the engine went about a batch, by the plans of parts that are summed in different dtypes.

    Without plans, where nobody asks, the keys alone.
    """
    if not plans:
        keys = "kernel level accumulators in_place band_shape box_shape scratch_bytes threads flops bytes"
        return absent(*keys.split())
    plan = plans[-1]
    box = None if plan.box is None else list(plan.box[:4])
    summed = [str(part.arithmetic.accumulator) for part in plans]
    in_box = "" if box is None else f", in boxes of {sizes(box)}"
    return [
        Fact("kernel", "kernel", plan.kernel, f"{plan.kernel}, {plan.level}"),
        Fact("level", "", plan.level, ""),
        Fact("accumulators", "summed in", summed, ", then ".join(summed)),
        Fact(
            "in_place",
            "X",
            plan.in_place,
            "read where it lies" if plan.in_place else "copied, a band at a time",
        ),
        Fact(
            "band_shape",
            "outputs at a time",
            list(plan.band),
            f"{sizes(plan.band)} of (n, *positions){in_box}",
        ),
        Fact("box_shape", "", box, ""),
        Fact("scratch_bytes", "scratch of a thread", plan.scratch, bytes_text(plan.scratch)),
        Fact("threads", "threads", plan.threads, str(plan.threads)),
        Fact("flops", "FLOPs", plan.flops, str(plan.flops)),
        Fact("bytes", "bytes of X, W, Y", plan.bytes, bytes_text(plan.bytes)),
    ]


def _in_groups(groups: int) -> str:
    return f", in {groups} groups" if groups > 1 else ""
