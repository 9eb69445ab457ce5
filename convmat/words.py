"""Words for people: what axes, positions and taps are called, and the formulas with numbers filled in."""

from __future__ import annotations

from collections.abc import Sequence

from convmat.axis import transposed_length
from convmat.geometry import ConvGeometry, Place

POSITION_NAMES = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}
TAP_NAMES = {1: ("j",), 2: ("i", "j"), 3: ("h", "i", "j")}
LINE_NAMES = {"depth": "slices", "height": "rows", "width": "columns"}
SIDE_NAMES = {"depth": ("front", "back"), "height": ("top", "bottom"), "width": ("left", "right")}


def axes_text(geometry: ConvGeometry) -> str:
    """The axes of the input: N × H × W × C."""
    return " × ".join(["N", *(name[0].upper() for name in geometry.axis_names), "C"])


def columns_text(geometry: ConvGeometry, order: str) -> str:
    """What columns of X_col, and rows of W_col, run over."""
    taps = TAP_NAMES[len(geometry.axis_names)]
    return ", ".join((*taps, "c") if order == "hwc" else ("c", *taps))


def pads_text(geometry: ConvGeometry, padding_mode: str = "zeros") -> str:
    """The padding resolved to numbers: same: top 1, bottom 1, left 1, right 1."""
    sides = ", ".join(
        f"{side} {count}"
        for name, pair in zip(geometry.axis_names, geometry.pads, strict=True)
        for side, count in zip(SIDE_NAMES[name], pair, strict=True)
    )
    rule = f"{geometry.rule}: " if geometry.rule else ""
    return rule + sides + (f", {padding_mode}" if padding_mode != "zeros" else "")


def output_formulas(geometry: ConvGeometry) -> list[str]:
    """Eq. 5-6 along each spatial axis."""
    return [
        f"floor(({geometry.input_size[axis]} + {before} + {after} - {_extent_text(geometry, axis)})"
        f" / {geometry.stride[axis]}) + 1 = {geometry.output_size[axis]}"
        for axis, (before, after) in enumerate(geometry.pads)
    ]


def transpose_formulas(geometry: ConvGeometry, size: Sequence[int]) -> list[str]:
    """The transposed convolution's output along each axis, (H − 1)·S − P + …; `size` is that of its input."""
    formulas = []
    for axis, (h, made, pads) in enumerate(zip(size, geometry.input_size, geometry.pads, strict=True)):
        stride, extent = geometry.stride[axis], geometry.extent[axis]
        formulas.append(
            f"({h} - 1)*{stride} - ({pads[0]} + {pads[1]}) + {_extent_text(geometry, axis)}"
            f" + {made - transposed_length(h, pads, extent, stride)} = {made}"
        )
    return formulas


def row_formula(geometry: ConvGeometry, row: int) -> str:
    """A row of X_col from its patch, (n·H_out + y)·W_out + x."""
    return f"{_ravel_text(geometry.patch_position(row), geometry.output_size)} = {row}"


def column_formula(geometry: ConvGeometry, column: int, order: str = "hwc") -> str:
    """A column of X_col from its tap, (i·kw + j)·C + c, or with "chw" (c·kh + i)·kw + j."""
    *tap, channel = geometry.kernel_tap(column, order)
    digits = (*tap, channel) if order == "hwc" else (channel, *tap)
    return f"{_ravel_text(digits, geometry.column_sizes(order)[1:])} = {column}"


def pixel_formulas(geometry: ConvGeometry, place: Place) -> list[str]:
    """Eq. 8 along each spatial axis, y·S + i·D − P."""
    axes = zip(
        place.patch[1:],
        geometry.stride,
        place.tap,
        geometry.dilation,
        geometry.pads,
        place.position,
        strict=True,
    )
    return [f"{y}*{s} + {i}*{d} - {before} = {position}" for y, s, i, d, (before, _), position in axes]


def _extent_text(geometry: ConvGeometry, axis: int) -> str:
    k, d = geometry.kernel_size[axis], geometry.dilation[axis]
    return f"{k}" if d == 1 else f"({d}*({k} - 1) + 1)"


def _ravel_text(digits: Sequence[int], sizes: Sequence[int]) -> str:
    """A number by its digits, `sizes` being those of all digits but the first: (0*4 + 3)*4 + 2."""
    text = str(digits[0])
    for number, (digit, size) in enumerate(zip(digits[1:], sizes, strict=True)):
        text = f"({text})*{size} + {digit}" if number else f"{text}*{size} + {digit}"
    return text
