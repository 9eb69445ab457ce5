"""What a plan of patches says, painted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import Box, Colour, Sheet, Theme, centred, contrast, faded, number_text
from convmat.figures.outlines import draw_outline
from convmat.figures.panels import GRIDDED, NUMBERED, paint_panel
from convmat.figures.patches import PatchPlan, RowMark
from convmat.geometry import Place


def draw_patches(
    plan: PatchPlan, pixels: NDArray[np.uint8] | None, values: NDArray[Any] | None, theme: Theme
) -> Sheet:
    """Paint a plan.

    Args:
        plan: what lies where.
        pixels: the images as they are to be seen, (images shown, H, W, C) from the plan's first image on;
            None where there are only shapes.
        values: their numbers, of the same shape, for cells with room for one.
        theme: the colours.
    """
    sheet = draw_images(plan, pixels, values, theme)
    for mark in plan.x_col.marks:
        draw_row(sheet, plan, mark, pixels, values)
    for patch in plan.patches:
        draw_outline(sheet, patch)
    for patch in plan.patches:
        sheet.tag(patch.tag, patch.colour)
    for place in plan.marked:
        _point_at(sheet, plan, place)
    return sheet


def draw_images(
    plan: PatchPlan, pixels: NDArray[np.uint8] | None, values: NDArray[Any] | None, theme: Theme
) -> Sheet:
    """Paint all of a plan but the patches and the rows of X_col."""
    sheet = Sheet(plan.size, theme)
    for line in (*plan.labels, *plan.x_col.labels):
        sheet.write(line)
    for line in plan.x_col.groups:
        sheet.write(centred(line.box, line.text, line.size))
        sheet.segment(line.box.left + 1, line.box.right - 1, line.box.bottom + 2)
    for index, panel in enumerate(plan.panels):
        shown = None if pixels is None else pixels[index]
        numbers = None if values is None else values[index]
        paint_panel(sheet, plan.geometry, plan.padding_mode, panel, shown, numbers)
    if plan.overview is not None:
        first = None if pixels is None else pixels[0]
        paint_panel(sheet, plan.geometry, plan.padding_mode, plan.overview, first, None)
        window = plan.panels[0]
        frame = plan.overview.box_of(window.ys, window.xs)
        sheet.outline(frame.grown(2), theme.highlight, 2, halo=True)
        sheet.outline(window.box.grown(3), theme.highlight, 2)
    for gap in plan.x_col.breaks:
        sheet.dots(gap, upright=True)
    sheet.arrow(*plan.arrow)
    return sheet


def draw_row(
    sheet: Sheet,
    plan: PatchPlan,
    mark: RowMark,
    pixels: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
) -> None:
    """Paint a row of X_col: the elements it has of the image, each channel in its own colour."""
    x_col, first = plan.x_col, plan.panels[0].image
    numbers: list[tuple[Box, str, Colour]] = []
    for place, box in plan.cells(mark):
        if place.element is None:
            sheet.hatch(box)
            numbers.append((box, "0", sheet.theme.ink))
        elif pixels is None:
            sheet.fill(box, sheet.theme.paper)
        else:
            n, *at = place.element
            element = (n - first, *at)
            colour = _channel_colour(pixels[element], at[-1], pixels.shape[-1])
            if place.in_padding:
                colour = faded(colour, sheet.theme)
            sheet.fill(box, (int(colour[0]), int(colour[1]), int(colour[2])))
            numbers.append((box, "" if values is None else number_text(values[element]), contrast(colour)))
    if x_col.column_width >= NUMBERED and mark.bottom - mark.top >= 18:
        sheet.numbers(numbers, x_col.column_width)
    if x_col.column_width >= GRIDDED:
        sheet.lines([left for _, left in x_col.columns], [mark.top, mark.bottom - 1])
    for line in x_col.groups[1:]:
        sheet.fill(Box(line.box.left - 1, mark.top, line.box.left + 2, mark.bottom), sheet.theme.paper)
    if plan.geometry.matrix_shape[1] > len(x_col.columns):
        half = len(x_col.columns) // 2
        gap = Box(x_col.columns[half - 1][1] + 1, mark.top, x_col.columns[half][1], mark.bottom)
        sheet.dots(gap, upright=False)
    sheet.outline(Box(x_col.box.left, mark.top, x_col.box.right, mark.bottom), sheet.theme.line)
    if mark.name is not None and mark.colour is not None:
        sheet.tag(mark.name, mark.colour)
    elif mark.name is not None:
        sheet.write(centred(mark.name.box, mark.name.text, mark.name.size))
    if mark.patch is not None:
        sheet.write(mark.patch)


def _channel_colour(value: np.uint8, channel: int, channels: int) -> NDArray[np.uint8]:
    """A shade of red, green or blue for what is one of those, and of gray for all else."""
    colour = np.zeros(3, np.uint8)
    colour[channel if channels in (3, 4) and channel < 3 else slice(None)] = value
    return colour


def _point_at(sheet: Sheet, plan: PatchPlan, place: Place) -> None:
    colour = sheet.theme.highlight
    for panel in plan.panels:
        y, x = place.position
        if panel.image == place.patch[0] and panel.shows([y], [x]):
            sheet.outline(panel.pixel(y, x).grown(1), colour, 3, halo=True)
    left = dict(plan.x_col.columns).get(place.column)
    for mark in plan.x_col.marks:
        if mark.row == place.row and left is not None:
            box = Box(left, mark.top, left + plan.x_col.column_width, mark.bottom)
            sheet.outline(box, colour, 3, halo=True)
