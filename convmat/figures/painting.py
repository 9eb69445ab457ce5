"""What a plan of patches says, painted: still, or as the kernel slides and its row appears in X_col."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import (
    SMALL,
    Box,
    Film,
    Label,
    Moment,
    Sheet,
    Theme,
    centred,
    label,
    number_text,
    text_size,
)
from convmat.figures.captions import formulas
from convmat.figures.cells import Faces, paint_cells, x_col_faces
from convmat.figures.outlines import draw_outline, draw_tag
from convmat.figures.panels import Panel, paint_panel
from convmat.figures.patches import PatchPlan, RowMark
from convmat.geometry import Place

WHOLE, RATES = 8, (1.5, 8.0)  # seconds that an animation takes, about; frames a second, at least and at most


def draw_patches(
    plan: PatchPlan,
    pixels: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
    theme: Theme,
    folded: tuple[NDArray[np.uint8], NDArray[Any]] | None = None,
) -> Sheet:
    """Paint a plan.

    Args:
        plan: what lies where.
        pixels: the images as they are to be seen, (images shown, H, W, C) from the plan's first image on;
            None where there are only shapes.
        values: their numbers, of the same shape, for cells with room for one.
        theme: the colours.
        folded: the rows of X_col that are shown, as pixels and numbers, where they are not the images' own.
    """
    sheet = draw_images(plan, pixels, values, theme)
    for index, mark in enumerate(plan.x_col.marks):
        own = None if folded is None else (folded[0][index], folded[1][index])
        draw_row(sheet, plan, mark, pixels, values, own)
    for patch in plan.patches:
        draw_outline(sheet, patch)
    for patch in plan.patches:
        draw_tag(sheet, patch)
    for place in plan.marked:
        _point_at(sheet, plan, place)
    return sheet


def draw_images(
    plan: PatchPlan, pixels: NDArray[np.uint8] | None, values: NDArray[Any] | None, theme: Theme
) -> Sheet:
    """Paint all of a plan but the patches and the rows of X_col."""
    sheet = Sheet(plan.size, theme)
    sheet.write(*plan.labels, *plan.x_col.labels)
    for line in plan.x_col.groups:
        sheet.write(centred(line.box, line.text, line.size))
        sheet.fill(
            Box(line.box.left + 1, line.box.bottom + 2, line.box.right - 1, line.box.bottom + 3), theme.dim
        )
    for index, panel in enumerate(plan.panels):
        shown = None if pixels is None else pixels[index]
        numbers = None if values is None else values[index]
        paint_panel(sheet, plan.geometry, plan.padding_mode, panel, shown, numbers)
    for index, overview in enumerate(plan.overviews):
        shown = None if pixels is None else pixels[index]
        paint_panel(sheet, plan.geometry, plan.padding_mode, overview, shown, None)
        frame_excerpt(sheet, overview, plan.panels[index])
    for gap in plan.x_col.breaks:
        sheet.dots(gap, upright=True)
    sheet.arrow(*plan.arrow)
    return sheet


def frame_excerpt(sheet: Sheet, overview: Panel, window: Panel) -> None:
    """Frame an excerpt, and where it is in the whole."""
    frame = overview.box_of(window.ys, window.xs)
    sheet.outline(frame.grown(2), sheet.theme.highlight, 2, halo=True)
    sheet.outline(window.box.grown(3), sheet.theme.highlight, 2)


def draw_row(
    sheet: Sheet,
    plan: PatchPlan,
    mark: RowMark,
    pixels: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
    own: tuple[NDArray[np.uint8], NDArray[Any]] | None = None,
) -> None:
    """Paint a row of X_col: what it holds of the image, or what it has of its own."""
    x_col, first = plan.x_col, plan.panels[0].image
    columns = [column for column, _ in x_col.columns]
    faces = x_col_faces(
        sheet, plan.geometry, plan.padding_mode, plan.order, [mark.row], columns, pixels, values, first
    )
    if own is not None:
        shown, numbers = own[0][None, columns], own[1][None, columns]
        text = f"row {mark.row}, column "
        faces = Faces(
            shown[..., None].repeat(3, -1),
            numbers,
            faces.padding,
            lambda i, j: f"{text}{columns[j]} = {number_text(numbers[i, j])}",
        )
    paint_cells(sheet, [(mark.top, mark.bottom)], x_col.spans, faces, lined=x_col.column_width >= 10)
    for line in x_col.groups[1:]:
        sheet.fill(Box(line.box.left - 1, mark.top, line.box.left + 2, mark.bottom), sheet.theme.paper)
    sheet.outline(Box(x_col.box.left, mark.top, x_col.box.right, mark.bottom), sheet.theme.line)
    if mark.name is not None and mark.colour is not None:
        sheet.tag(mark.name, mark.colour)
    elif mark.name is not None:
        sheet.write(centred(mark.name.box, mark.name.text, mark.name.size))
    if mark.patch is not None:
        sheet.write(mark.patch)
    if mark.map is not None:
        sheet.fill(mark.map[0], sheet.theme.padding)
        sheet.fill(mark.map[1], mark.colour or sheet.theme.dim)
        sheet.outline(mark.map[0], sheet.theme.line)


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


def animate(
    plan: PatchPlan,
    pixels: NDArray[np.uint8],
    values: NDArray[Any] | None,
    theme: Theme,
    fps: float | None = None,
) -> Film:
    """Paint the moments of a plan made with `moving`: a patch each, whose row joins those before it.

    Arguments are those of `draw_patches`; without `fps` all of it takes some eight seconds.
    """
    sheet = draw_images(plan, pixels, values, theme)
    matrix = plan.x_col.box
    sheet.outline(matrix.grown(1), theme.line)
    moments = []
    for patch, mark in zip(plan.frames, plan.x_col.marks, strict=True):
        lasting, passing = sheet.layer(), sheet.layer()
        draw_row(lasting, plan, mark, pixels, values)
        draw_outline(passing, patch)
        colour = patch.colour or theme.ink
        passing.outline(Box(matrix.left, mark.top, matrix.right, mark.bottom).grown(1), colour, 2)
        width, height = text_size(str(mark.row), SMALL)
        top, left = (mark.top + mark.bottom - height) // 2, matrix.left - width - 14
        passing.tag(Label(Box(left, top, left + width + 8, top + height), str(mark.row), SMALL), colour)
        note = formulas(plan.geometry, None, mark.row, plan.order)[0]
        passing.write(label(*plan.note, note, SMALL))
        moments.append(Moment(lasting, passing))
    return Film(sheet, tuple(moments), fps or rate(len(moments)))


def rate(count: int) -> float:
    """Frames a second that so many are shown at, unless another is asked for."""
    return min(max(count / WHOLE, RATES[0]), RATES[1])
