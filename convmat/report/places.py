"""Facts and grids of the index mapping: what one element of X_col is, and where one pixel went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convmat.geometry import AXIS_NAMES, ConvGeometry, Place
from convmat.report.facts import Grid, absent, ends_grid, geometry_facts
from convmat.shown import Fact, shape_fact
from convmat.words import (
    POSITION_NAMES,
    TAP_NAMES,
    column_formula,
    columns_text,
    pixel_formulas,
    row_formula,
)

_MOST_LINES = 500  # of places; all of them are in the JSON
_PADDED_WITH = {
    "reflect": "the input mirrored",
    "replicate": "the edge repeated",
    "circular": "the input again",
}


def place_facts(
    geometry: ConvGeometry, place: Place, padding_mode: str, order: str, value: Any = None
) -> list[Fact]:
    """One element of X_col: patch, tap and pixel, with Eq. 8 filled in; `value` is that of the pixel."""
    pixel_names, tap_names = _names(geometry)
    n = place.patch[0]
    columns = {key: geometry.column_of(place.tap, place.channel, key) for key in ("hwc", "chw")}
    unfold = [n, columns["chw"], place.row - n * geometry.patches]
    held = _pixel_text(place, padding_mode)
    brief = f"row {place.row}, column {place.column}: pixel {held}"
    pixel_label, beside = f"pixel ({_listed(pixel_names)})", order == "chw"
    positions = zip(
        geometry.axis_names,
        pixel_names[1:-1],
        place.position,
        geometry.input_size,
        pixel_formulas(geometry, place),
        strict=True,
    )
    return [
        *_mapping_facts(geometry, padding_mode, order),
        Fact("row", "row", place.row, row_formula(geometry, place.row)),
        Fact("patch", f"patch ({_listed(pixel_names[:-1])})", list(place.patch), _listed(place.patch)),
        Fact("column", "column", place.column, column_formula(geometry, place.column, order)),
        Fact(
            "column_hwc",
            "column in hwc order" if beside else "",
            columns["hwc"],
            column_formula(geometry, columns["hwc"]),
        ),
        Fact("column_chw", "", columns["chw"], ""),
        Fact("unfold", "in PyTorch's unfold" if beside else "", unfold, f"[{_listed(unfold)}]"),
        Fact("tap", f"tap ({_listed(tap_names[:-1])})", list(place.tap), _listed(place.tap)),
        Fact("channel", "channel", place.channel, str(place.channel)),
        *(
            Fact(f"position_{name}", f"pixel {letter}", at, formula + _outside(at, size))
            for name, letter, at, size, formula in positions
        ),
        Fact("in_padding", "", place.in_padding, ""),
        Fact("pixel", pixel_label, _plain(place.element), held, brief=brief),
        *absent(*_OF_A_PLACE, "count", "places"),
        _value_fact(place.element, value),
    ]


def pixel_facts(
    geometry: ConvGeometry,
    element: tuple[int, ...],
    places: Sequence[Place],
    padding_mode: str,
    order: str,
    value: Any = None,
) -> list[Fact]:
    """One pixel, and how often X_col holds it."""
    pixel_names, _ = _names(geometry)
    values = [
        {
            "row": place.row,
            "column": place.column,
            "patch": list(place.patch),
            "tap": list(place.tap),
            "in_padding": place.in_padding,
        }
        for place in places
    ]
    listed, padded = _listed(element), sum(place.in_padding for place in places)
    label = f"pixel ({_listed(pixel_names)})"
    pixel = Fact("pixel", label, list(element), listed, brief=f"pixel {listed}")
    times = f"{len(places)}" + (f", {padded} of them in the padding" if padded else "")
    return [
        *_mapping_facts(geometry, padding_mode, order),
        pixel,
        *absent(*_OF_A_PLACE),
        _value_fact(element, value),
        Fact(
            "count",
            "times in X_col",
            len(places),
            times if places else "0: no patch covers this pixel",
            brief=f"{times} times in X_col",
        ),
        Fact("places", "", values, ""),
    ]


_OF_A_PLACE = (
    *("input", "figure", "row", "patch", "column", "column_hwc", "column_chw", "unfold", "tap", "channel"),
    *("in_padding", *(f"position_{name}" for name in AXIS_NAMES[3])),
)


def places_grid(geometry: ConvGeometry, places: Sequence[Place], order: str) -> Grid:
    """Every row and column that a pixel went to, with the patch and the tap."""
    pixel_names, tap_names = _names(geometry)
    beside, padded = order == "chw", any(place.in_padding for place in places)

    def line(number: int) -> tuple[str, ...]:
        place = places[number]
        hwc = [str(geometry.column_of(place.tap, place.channel))] if beside else []
        inside = [f"padding, at {_listed(place.position)}" if place.in_padding else ""] if padded else []
        return str(place.row), str(place.column), *hwc, _listed(place.patch), _listed(place.tap), *inside

    columns = (
        *("row", "column", *(["column in hwc order"] if beside else [])),
        *(f"patch ({_listed(pixel_names[:-1])})", f"tap ({_listed(tap_names[:-1])})"),
        *(["in"] if padded else []),
    )
    return ends_grid("", columns, len(places), line, _MOST_LINES)


def _mapping_facts(geometry: ConvGeometry, padding_mode: str, order: str) -> list[Fact]:
    keys = ("input_shape", "padding", "padding_mode", "pads", "output_size")
    return [
        *(fact for fact in geometry_facts(geometry, padding_mode) if fact.key in keys),
        shape_fact("matrix_shape", "X_col", geometry.matrix_shape),
        Fact("order", "columns over", order, columns_text(geometry, order)),
    ]


def _names(geometry: ConvGeometry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    axes = len(geometry.axis_names)
    return ("n", *POSITION_NAMES[axes], "c"), (*TAP_NAMES[axes], "c")


def _outside(position: int, size: int) -> str:
    return "" if 0 <= position < size else f", outside 0..{size - 1}"


def _pixel_text(place: Place, padding_mode: str) -> str:
    if place.element is None:
        return "none: padding, which is zero"
    held = _listed(place.element)
    return f"{held}, in the padding: {_PADDED_WITH[padding_mode]}" if place.in_padding else held


def _value_fact(element: tuple[int, ...] | None, value: Any) -> Fact:
    """The value, where an input was given; of a padding of zeros there is no element to have one."""
    if value is None:
        return Fact("value", "", 0 if element is None else None, "")
    plain = [float(value.real), float(value.imag)] if value.dtype.kind == "c" else value.item()
    return Fact("value", "value", plain, str(value), brief=f"value {value}")


def _plain(element: tuple[int, ...] | None) -> list[int] | None:
    return None if element is None else list(element)


def _listed(numbers: Sequence[object]) -> str:
    return ", ".join(map(str, numbers))
