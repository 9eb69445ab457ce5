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


def transpose_formula(geometry: ConvGeometry, axis: int, size: int) -> str:
    """The transposed convolution's output along one axis, (H − 1)·S − P + …; `size` is H, of its input."""
    s, extent, pads = geometry.stride[axis], geometry.extent[axis], geometry.pads[axis]
    made = geometry.input_size[axis]
    return (
        f"({size} - 1)*{s} - ({pads[0]} + {pads[1]}) + {_extent_text(geometry, axis)}"
        f" + {made - transposed_length(size, pads, extent, s)} = {made}"
    )


def row_formula(geometry: ConvGeometry, row: int) -> str:
    """A row of X_col from its patch, (n·H_out + y)·W_out + x."""
    return f"{_ravel_text(geometry.patch_position(row), geometry.output_size)} = {row}"


def column_formula(geometry: ConvGeometry, column: int, order: str = "hwc") -> str:
    """A column of X_col from its tap, (i·kw + j)·C + c, or with "chw" (c·kh + i)·kw + j."""
    *tap, channel = geometry.kernel_tap(column, order)
    digits = (*tap, channel) if order == "hwc" else (channel, *tap)
    return f"{_ravel_text(digits, geometry.column_sizes(order)[1:])} = {column}"


def pixel_formula(geometry: ConvGeometry, place: Place, axis: int) -> str:
    """Eq. 8 along one spatial axis, y·S + i·D − P."""
    return (
        f"{place.patch[1 + axis]}*{geometry.stride[axis]} + {place.tap[axis]}*{geometry.dilation[axis]}"
        f" - {geometry.pads[axis][0]} = {place.position[axis]}"
    )


def _extent_text(geometry: ConvGeometry, axis: int) -> str:
    k, d = geometry.kernel_size[axis], geometry.dilation[axis]
    return f"{k}" if d == 1 else f"({d}*({k} - 1) + 1)"


def _ravel_text(digits: Sequence[int], sizes: Sequence[int]) -> str:
    """A number by its digits, `sizes` being those of all digits but the first: (0*4 + 3)*4 + 2."""
    text = str(digits[0])
    for number, (digit, size) in enumerate(zip(digits[1:], sizes, strict=True)):
        text = f"({text})*{size} + {digit}" if number else f"{text}*{size} + {digit}"
    return text
