"""Facts: what a command found, each once, with the key that JSON gives it and the words of the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import LINE_NAMES, POSITION_NAMES, SIDE_NAMES, ConvGeometry

if TYPE_CHECKING:
    from convmat.engine import Convolution
    from convmat.verification import Check, Report

PREVIEW_ELEMENTS = 20_000
"""Matrices of at most so many elements have rows of theirs shown."""


class Fact(NamedTuple):
    """One finding."""

    key: str
    """In JSON; stable."""
    label: str
    """In the table."""
    value: Any
    """In JSON: numbers, strings, lists and dicts of them."""
    text: str
    """In the table."""


class Grid(NamedTuple):
    """A table with columns: the same for several things."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def sizes(numbers: Sequence[int]) -> str:
    """Numbers as a shape is spoken: 16 × 49."""
    return " × ".join(map(str, numbers))


def shape_fact(key: str, label: str, shape: Sequence[int], axes: str = "") -> Fact:
    """A shape, with what its axes are."""
    return Fact(key, label, list(shape), sizes(shape) + (axes and f"  ({axes})"))


def bytes_text(count: int) -> str:
    """A number of bytes, exact, and in the unit that is easiest to read."""
    unit = min(int(math.log2(count) / 10), 4) if count else 0
    if unit == 0:
        return f"{count}"
    return f"{count} ({count / 1024**unit:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[unit - 1]})"


def axes_text(geometry: ConvGeometry) -> str:
    """The axes of the input: N × H × W × C."""
    return " × ".join(["N", *(name[0].upper() for name in geometry.axis_names), "C"])


def pads_text(geometry: ConvGeometry, padding_mode: str = "zeros") -> str:
    """The padding resolved to numbers: same: top 1, bottom 1, left 1, right 1."""
    sides = ", ".join(
        f"{side} {count}"
        for name, pair in zip(geometry.axis_names, geometry.pads, strict=True)
        for side, count in zip(SIDE_NAMES[name], pair, strict=True)
    )
    rule = f"{geometry.padding}: " if geometry.padding else ""
    return rule + sides + (f", {padding_mode}" if padding_mode != "zeros" else "")


def geometry_facts(geometry: ConvGeometry, padding_mode: str = "zeros") -> list[Fact]:
    """Input, kernel and output, with the size formula filled in for each axis."""
    formulas = [geometry.output_formula(axis) for axis in range(len(geometry.axis_names))]
    return [
        shape_fact("input_shape", "input shape", geometry.input_shape, axes_text(geometry)),
        shape_fact("kernel_size", "kernel", geometry.kernel_size),
        shape_fact("stride", "stride", geometry.stride),
        shape_fact("dilation", "dilation", geometry.dilation),
        Fact("pads", "padding", [list(p) for p in geometry.pads], pads_text(geometry, padding_mode)),
        *(
            Fact(f"output_{name}", f"output {name}", size, formula)
            for name, size, formula in zip(geometry.axis_names, geometry.output_size, formulas, strict=True)
        ),
        shape_fact("output_size", "output size", geometry.output_size),
    ]


def matrix_facts(geometry: ConvGeometry, dtype: Any, per_image: bool = False) -> list[Fact]:
    """X_col: its shape and bytes, and how often it repeats the pixels."""
    rows, columns = geometry.matrix_shape
    shape = (geometry.batch, geometry.patches, columns) if per_image else (rows, columns)
    mean, uncovered, pixels = geometry.coverage()
    nbytes = rows * columns * dtype.itemsize
    return [
        Fact("patches", "patches", geometry.patches, f"{geometry.patches} an image, {rows} in all"),
        shape_fact("matrix_shape", "X_col", shape),
        Fact("dtype", "dtype", str(dtype), str(dtype)),
        Fact("bytes", "bytes", nbytes, bytes_text(nbytes)),
        Fact("repeats", "each pixel repeated", mean, f"{mean:.2f} times on average"),
        Fact("uncovered", "pixels never covered", uncovered, f"{uncovered} of {pixels}"),
    ]


def input_fact(names: Sequence[str]) -> Fact:
    """What was read."""
    shown = ["standard input" if name == "-" else name for name in names]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return Fact("input", "input", shown, ", ".join(shown[:3]) + more)


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


def layer_facts(todo: Convolution) -> list[Fact]:
    """A convolution: its geometry, its matrices, and the blocks that X_col is made in."""
    plan, geometry = todo.plan, todo.plan.geometry
    rows, columns = geometry.matrix_shape
    depth = geometry.channels // geometry.groups
    return [
        *geometry_facts(geometry, plan.padding_mode),
        Fact(
            "filters", "filters", plan.filters, f"{plan.filters} of {sizes((*geometry.kernel_size, depth))}"
        ),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        Fact(
            "matrix_shape",
            "X_col",
            [rows, columns],
            f"{sizes((rows, columns))}, in blocks of at most {plan.block_rows} rows",
        ),
        shape_fact("weights_shape", "W_col", (geometry.terms, plan.filters)),
        shape_fact("output_shape", "Y", plan.output_shape),
        Fact("dtype", "dtype", str(plan.arithmetic.result), str(plan.arithmetic.result)),
    ]


def verification_facts(found: Report) -> list[Fact]:
    """What `verify` found, ending with the verdict."""
    share = f"{found.outside} of {found.elements}"
    facts = [
        shape_fact("shape", "result", found.shape),
        shape_fact("expected_shape", "definition", found.expected_shape),
        Fact("result_dtype", "result dtype", found.dtype, found.dtype),
        Fact("exact", "judged", found.exact, "exactly" if found.exact else "by each element's error bound"),
    ]
    if found.shape == found.expected_shape:
        facts += [
            Fact("outside", "elements outside", found.outside, share),
            Fact("max_abs_error", "max abs error", found.max_abs_error, f"{found.max_abs_error:.3g}"),
            Fact("bound", "bound there", found.bound, f"{found.bound:.3g}"),
            Fact(
                "error_over_bound", "error / bound", found.error_over_bound, f"{found.error_over_bound:.3g}"
            ),
        ]
        if found.worst is not None:
            facts.append(Fact("worst", "worst at", list(found.worst), ", ".join(map(str, found.worst))))
    verdict = "equal" if found else "different"
    return [*facts, Fact("equal", "verdict", found.equal, verdict)]


def checks_grid(checks: Sequence[Check]) -> Grid:
    """The self-check, a line a case."""
    rows = [
        (
            check.name,
            sizes(check.input_shape),
            sizes(check.filter_shape),
            sizes(check.matrix_shape),
            check.dtype,
            f"{check.max_abs_error:.3g}",
            f"{check.bound:.3g}" if check.bound else "0, exact",
            "equal" if check else f"different: {check.trouble}",
        )
        for check in checks
    ]
    columns = ("case", "input", "filters", "X_col", "dtype", "max abs error", "bound", "verdict")
    return Grid("", columns, rows)


def checks_facts(checks: Sequence[Check]) -> list[Fact]:
    """The self-check in one verdict."""
    failed = sum(not check for check in checks)
    cases = [
        {
            "family": check.family,
            "name": check.name,
            "input_shape": list(check.input_shape),
            "filter_shape": list(check.filter_shape),
            "matrix_shape": list(check.matrix_shape),
            "dtype": check.dtype,
            "max_abs_error": check.max_abs_error,
            "bound": check.bound,
            "equal": bool(check),
            "trouble": check.trouble,
        }
        for check in checks
    ]
    equal = f"equal: {len(checks)} of {len(checks)} cases"
    different = f"different: {failed} of {len(checks)} cases"
    return [
        Fact("cases", "cases", cases, str(len(checks))),
        Fact("different", "different", failed, str(failed)),
        Fact("equal", "verdict", not failed, different if failed else equal),
    ]


def sizes_facts(full: ConvGeometry, rules: dict[str, ConvGeometry | None]) -> list[Fact]:
    """Output sizes under each padding rule, for programs; None where the kernel does not fit."""
    values = {
        rule: g and {"pads": [list(p) for p in g.pads], "output_size": list(g.output_size)}
        for rule, g in rules.items()
    }
    return [
        shape_fact("input_size", "input size", full.input_size),
        shape_fact("kernel_size", "kernel", full.kernel_size),
        shape_fact("stride", "stride", full.stride),
        shape_fact("dilation", "dilation", full.dilation),
        Fact("rules", "paddings", values, str(len(values))),
    ]


def sizes_grid(rules: dict[str, ConvGeometry | None]) -> Grid:
    """Output sizes under each padding rule, with the formula filled in, a line an axis."""
    rows: list[tuple[str, ...]] = []
    for rule, geometry in rules.items():
        if geometry is None:
            rows.append((rule, "", "the kernel does not fit", ""))
            continue
        axes = range(len(geometry.axis_names))
        rows.append(
            (
                rule,
                "\n".join(", ".join(map(str, pair)) for pair in geometry.pads),
                "\n".join(geometry.output_formula(axis) for axis in axes),
                sizes(geometry.output_size),
            )
        )
    return Grid("", ("padding", "before, after", "output size", "output"), rows)


def _in_groups(groups: int) -> str:
    return f", in {groups} groups" if groups > 1 else ""


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


class Seen:
    """Blocks of a result on their way to the output, their extremes noted; small results are kept whole."""

    def __init__(self, blocks: Iterable[NDArray[Any]], shape: Sequence[int]) -> None:
        self._blocks = blocks
        self._kept: list[NDArray[Any]] | None = [] if 0 < math.prod(shape) <= PREVIEW_ELEMENTS else None
        self.low: Any = None
        self.high: Any = None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for block in self._blocks:
            if block.size and block.dtype.kind != "c":
                low, high = block.min(), block.max()
                self.low = low if self.low is None else np.minimum(low, self.low)
                self.high = high if self.high is None else np.maximum(high, self.high)
            if self._kept is not None:
                self._kept.append(block)
            yield block

    @property
    def whole(self) -> NDArray[Any] | None:
        """The result's rows, (rows, K), where there are few."""
        if not self._kept:
            return None
        rows = np.concatenate(self._kept)
        return rows.reshape(-1, rows.shape[-1])

    def fact(self) -> Fact:
        """The range of the values."""
        if self.low is None:
            return Fact("range", "values", None, "none")
        value = [self.low.item(), self.high.item()]
        return Fact("range", "values", value, f"{value[0]:.6g} .. {value[1]:.6g}")


def rows_grid(geometry: ConvGeometry, title: str, matrix: NDArray[Any]) -> Grid:
    """The first and last rows of X_col or Y, each with the patch and the pixels it comes from."""
    lines = []
    for row in _ends(len(matrix)):
        if row is None:
            lines.append(("…", "", "", ""))
            continue
        n, *position = geometry.patch_position(row)
        seen = ", ".join(
            f"{y * s - before}..{y * s - before + reach - 1}"
            for y, s, (before, _), reach in zip(
                position, geometry.stride, geometry.pads, geometry.extent, strict=True
            )
        )
        patch = ", ".join(map(str, (n, *position)))
        lines.append((str(row), patch, seen, values_text(matrix[row])))
    position_names = ", ".join(("n", *POSITION_NAMES[len(geometry.axis_names)]))
    line_names = ", ".join(LINE_NAMES[name] for name in geometry.axis_names)
    return Grid(title, ("row", f"patch ({position_names})", line_names, "values"), lines)


def filters_grid(filters: NDArray[Any], w_col: NDArray[Any], order: str) -> Grid:
    """The first and last rows of W_col, each with the tap it comes from."""
    *kernel, channels = filters.shape[1:]
    names = ["i", "j"] if len(kernel) == 2 else ["h", "i", "j"][-len(kernel) :]
    digits = (*kernel, channels) if order == "hwc" else (channels, *kernel)
    columns = [*names, "c"] if order == "hwc" else ["c", *names]
    lines = []
    for row in _ends(len(w_col)):
        if row is None:
            lines.append(("…", "", ""))
            continue
        tap = ", ".join(map(str, np.unravel_index(row, digits)))
        lines.append((str(row), tap, values_text(w_col[row])))
    return Grid("W_col", ("row", f"tap ({', '.join(columns)})", "values"), lines)


def values_grid(title: str, matrix: NDArray[Any]) -> Grid:
    """The first and last rows of a matrix."""
    lines = [("…", "") if r is None else (str(r), values_text(matrix[r])) for r in _ends(len(matrix))]
    return Grid(title, ("row", "values"), lines)


def _ends(rows: int) -> list[int | None]:
    """All row numbers where they are few, else the first and the last, with None between."""
    if rows <= 8:
        return list(range(rows))
    return [*range(4), None, *range(rows - 3, rows)]


def values_text(values: Any) -> str:
    """A row's values, the middle left out where there are many."""
    shown = [f"{v:.4g}" if values.dtype.kind in "fc" else str(int(v)) for v in values]
    if len(shown) > 14:
        shown = [*shown[:7], "…", *shown[-6:]]
    return " ".join(shown)


def printable(text: str) -> str:
    """`text` on one line and without control characters, which file names may have."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
