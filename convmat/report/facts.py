"""Facts: what a command found, each once, with the key that JSON gives it and the words of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.encodings import printable
from convmat.geometry import AXIS_NAMES, ConvGeometry
from convmat.shown import Fact, bytes_text, shape_fact, sizes
from convmat.sizes import coverage
from convmat.words import (
    LINE_NAMES,
    POSITION_NAMES,
    axes_text,
    columns_text,
    output_formulas,
    pads_text,
)

if TYPE_CHECKING:
    from convmat.quantization import Quantization

AXIS_KEYS = tuple(f"output_{name}" for name in AXIS_NAMES[3])

_CAUSES = ("diagnosis", "instead", "where")

PREVIEW_ELEMENTS = 20_000
"""Matrices of at most so many elements have rows of theirs shown."""


class Grid(NamedTuple):
    """A table with columns: the same for several things."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def result_facts(key: str, label: str, shape: Sequence[int], dtype: Any, axes: str = "") -> list[Fact]:
    """The shape and the dtype of what a command is for, which are its brief line, too."""
    shaped = shape_fact(key, label, shape, axes)._replace(brief=f"{label} {sizes(shape)}")
    return [shaped, Fact("dtype", "dtype", str(dtype), str(dtype), brief=str(dtype))]


def absent(*keys: str) -> list[Fact]:
    """Keys that JSON has whatever was found: null, unless another fact has the key and a value."""
    return [Fact(key, "", None, "") for key in keys]


def quantization_facts(quantization: Quantization | None) -> list[Fact]:
    """What became of a layer's sums; the key is there for layers of which nothing did, too."""
    if quantization is None:
        return absent("quantization")
    return [Fact("quantization", "quantized", quantization.as_dict(), str(quantization))]


def brief_text(facts: Sequence[Fact], output: str | None = None) -> str:
    """The facts in one line, with the file that they were written to."""
    file = {None: "", "-": ", on standard output"}.get(output, f", in {output}")
    return printable(headline(facts) + file) + "\n"


def headline(facts: Sequence[Fact]) -> str:
    """The facts in one line, a verdict first, and of what is known of a difference what says most."""
    causes = sorted(
        (fact for fact in facts if fact.brief and fact.key in _CAUSES), key=lambda f: _CAUSES.index(f.key)
    )
    told = [fact for fact in facts if fact.brief and fact.key not in _CAUSES]
    briefs = sorted([*told, *causes[:1]], key=lambda fact: fact.key != "equal")
    return ", ".join(fact.brief for fact in briefs)


def geometry_facts(geometry: ConvGeometry, padding_mode: str = "zeros") -> list[Fact]:
    """Input, kernel and output, with the size formula filled in for each axis."""
    plain = {fact.key: fact for fact in geometry.facts()}
    axes = zip(geometry.axis_names, geometry.output_size, output_formulas(geometry), strict=True)
    return [
        shape_fact("input_shape", "input shape", geometry.input_shape, axes_text(geometry)),
        *kernel_size_facts(geometry),
        plain["padding"],
        Fact("padding_mode", "", padding_mode, ""),
        plain["pads"]._replace(text=pads_text(geometry, padding_mode)),
        *(Fact(f"output_{name}", f"output {name}", size, formula) for name, size, formula in axes),
        *absent(*AXIS_KEYS),
        plain["output_size"],
    ]


def kernel_size_facts(geometry: ConvGeometry) -> list[Fact]:
    """How the kernel lies on the input."""
    return [fact for fact in geometry.facts() if fact.key in ("kernel_size", "stride", "dilation")]


def matrix_facts(
    geometry: ConvGeometry, dtype: Any, per_image: bool = False, order: str = "hwc"
) -> list[Fact]:
    """X_col: its shape and bytes, and how often it repeats the pixels."""
    rows, columns = geometry.matrix_shape
    shape = (geometry.batch, geometry.patches, columns) if per_image else (rows, columns)
    mean, uncovered, pixels = coverage(geometry)
    nbytes = rows * columns * dtype.itemsize
    matrix, kind = result_facts("matrix_shape", "X_col", shape, dtype)
    return [
        Fact("patches", "patches", geometry.patches, f"{geometry.patches} an image, {rows} in all"),
        matrix,
        Fact("order", "columns over", order, columns_text(geometry, order)),
        kind,
        Fact("bytes", "bytes", nbytes, bytes_text(nbytes)),
        Fact("repeats", "each pixel repeated", mean, f"{mean:.2f} times on average"),
        Fact("uncovered", "pixels never covered", uncovered, f"{uncovered} of {pixels}"),
    ]


def input_fact(names: Sequence[str]) -> Fact:
    """What was read."""
    shown = ["standard input" if name == "-" else name for name in names]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return Fact("input", "input" if shown else "", shown or None, ", ".join(shown[:3]) + more)


def turned_fact(turned: Sequence[tuple[str, str]], count: int) -> Fact:
    """Which of `count` inputs are pictures that were turned as their EXIF says, and how; null if none was."""
    value = [{"input": name, "turn": turn} for name, turn in turned] or None
    shown = [turn if count == 1 else f"{name} {turn}" for name, turn in turned]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return Fact("turned", "turned, by EXIF" if turned else "", value, ", ".join(shown[:3]) + more)


def rows_grid(geometry: ConvGeometry, title: str, matrix: NDArray[Any]) -> Grid:
    """The first and last rows of X_col or Y, each with the patch and the pixels it comes from."""

    def line(row: int) -> tuple[str, ...]:
        n, *position = geometry.patch_position(row)
        spans = ", ".join(f"{span.start}..{span.stop - 1}" for span in geometry.patch_spans(position))
        return str(row), ", ".join(map(str, (n, *position))), spans, values_text(matrix[row])

    position_names = ", ".join(("n", *POSITION_NAMES[len(geometry.axis_names)]))
    line_names = ", ".join(LINE_NAMES[name] for name in geometry.axis_names)
    return ends_grid(title, ("row", f"patch ({position_names})", line_names, "values"), len(matrix), line)


def ends_grid(
    title: str, columns: tuple[str, ...], count: int, line: Callable[[int], tuple[str, ...]], most: int = 9
) -> Grid:
    """`count` lines, given by their numbers; where they are more than `most`, the first and the last."""
    gap = ("…", *[""] * (len(columns) - 1))
    numbers = range(count) if count <= most else ends(count)
    return Grid(title, columns, [gap if number is None else line(number) for number in numbers])


def ends(rows: int) -> list[int | None]:
    """All row numbers where they are few, else the first and the last, with None between."""
    if rows <= 9:
        return list(range(rows))
    return [*range(4), None, *range(rows - 3, rows)]


def values_text(values: Any) -> str:
    """A row's values, the middle left out where there are many."""
    shown = [f"{v:.4g}" if values.dtype.kind in "fc" else str(int(v)) for v in values]
    if len(shown) > 14:
        shown = [*shown[:7], "…", *shown[-6:]]
    return " ".join(shown)


class Seen:
    """Blocks of a result on their way to the output, their extremes noted; small results are kept whole."""

    def __init__(self, blocks: Iterable[NDArray[Any]], shape: Sequence[int], extremes: bool = True) -> None:
        self._blocks = blocks
        self._extremes = extremes
        self.shape = tuple(shape)
        self.kept = 0 < math.prod(shape) <= PREVIEW_ELEMENTS
        self._rows: list[NDArray[Any]] = []
        self.low: Any = None
        self.high: Any = None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for block in self._blocks:
            if self._extremes and block.size and block.dtype.kind != "c":
                low, high = block.min(), block.max()
                self.low = low if self.low is None else np.minimum(low, self.low)
                self.high = high if self.high is None else np.maximum(high, self.high)
            if self.kept:
                self._rows.append(block.copy())
            yield block

    @property
    def whole(self) -> NDArray[Any] | None:
        """The result's rows, (rows, K), where there are few."""
        if not self._rows:
            return None
        rows = np.concatenate(self._rows)
        return rows.reshape(-1, rows.shape[-1])

    def rows_fact(self, output: str | None, how: str = "", computed: bool = True) -> Fact:
        """How many rows there are; where no grid shows any of them, why not, and how to see them.

        `output` is where they were written; `how` is another way to see some.
        """
        count, columns = math.prod(self.shape[:-1]), self.shape[-1]
        if self.whole is not None:
            return Fact("rows", "", count, "")
        if not count:
            return Fact("rows", "rows", count, "none")
        if not computed:
            return Fact("rows", "rows", count, f"{count:,}, not computed in a dry run")
        ways = ", ".join(filter(None, ("" if output else "-o FILE.npy writes them", how)))
        why = f"{count:,} of {columns:,} elements each, too many to print"
        return Fact("rows", "rows", count, why + (ways and f"; {ways}"))

    def fact(self) -> Fact:
        """The range of the values."""
        if self.low is None:
            return Fact("range", "values", None, "none")
        value = [self.low.item(), self.high.item()]
        return Fact("range", "values", value, f"{value[0]:.6g} .. {value[1]:.6g}")
