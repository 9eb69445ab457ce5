"""A geometry in words, as tables and pictures have them."""

from __future__ import annotations

from convmat.geometry import SIDE_NAMES, TAP_NAMES, ConvGeometry


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
    rule = f"{geometry.padding}: " if geometry.padding else ""
    return rule + sides + (f", {padding_mode}" if padding_mode != "zeros" else "")
