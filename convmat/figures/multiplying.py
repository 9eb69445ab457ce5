"""What a plan of a layer as a product says, painted: one patch followed through it, or patch after patch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import MARGIN, SMALL, Box, Film, Moment, Sheet, Theme, label, number_text
from convmat.figures.cells import GRIDDED, Faces, Span, limits, number_faces, paint_cells, shades, x_col_faces
from convmat.figures.outlines import draw_outline, draw_tag
from convmat.figures.painting import frame_excerpt, rate
from convmat.figures.panels import paint_panel
from convmat.figures.product import MapMark, ProductPlan

_SPELLED = 12  # products that are written out


def draw_product(
    plan: ProductPlan,
    pixels: NDArray[np.uint8],
    image: NDArray[Any],
    filters: NDArray[Any],
    y: NDArray[Any],
    theme: Theme,
) -> Sheet:
    """Paint a plan.

    Args:
        plan: what lies where.
        pixels, image: the image as it is to be seen, and its numbers: (H, W, C).
        filters: (K, kh, kw, C/groups), as they are multiplied.
        y: the result, (H_out, W_out, K) with at least the filters shown.
        theme: the colours.
    """
    drawing = _Drawing(plan, pixels, image, filters, y, theme)
    sheet = drawing.inputs()
    for mark in plan.maps:
        drawing.paint_map(sheet, mark)
    for matrix, faces in ((plan.x_col, drawing.x_col), (plan.y, drawing.y)):
        paint_cells(sheet, *matrix.spans, faces)
    draw_outline(sheet, plan.patches[0])
    draw_tag(sheet, plan.patches[0])
    drawing.point_at(sheet, plan.row)
    drawing.write_product(sheet, plan.row)
    return sheet


def animate_product(
    plan: ProductPlan,
    pixels: NDArray[np.uint8],
    image: NDArray[Any],
    filters: NDArray[Any],
    y: NDArray[Any],
    theme: Theme,
    fps: float | None = None,
) -> Film:
    """Paint the moments of a plan made with `moving`, two a patch: its row of X_col, and the numbers of Y.

    Arguments are those of `draw_product`.
    """
    drawing = _Drawing(plan, pixels, image, filters, y, theme)
    start = drawing.inputs()
    for box in (plan.x_col.box, plan.y.box, *(mark.panel.box for mark in plan.maps)):
        start.outline(box.grown(1), theme.line)
    grows = min(plan.maps[0].panel.cell) >= GRIDDED  # else what is added would not be seen
    for mark in plan.maps:
        (drawing.name_map if grows else drawing.paint_map)(start, mark)
    moments = []
    for index, patch in enumerate(plan.patches):
        sheets = [start.layer() for _ in range(4)]
        for n, (matrix, faces) in enumerate(((plan.x_col, drawing.x_col), (plan.y, drawing.y))):
            ys, xs = matrix.spans
            paint_cells(sheets[2 * n], ys[index : index + 1], xs, _line(faces, index))
            draw_outline(sheets[2 * n + 1], patch)
            draw_tag(sheets[2 * n + 1], patch)
        sheets[1].outline(plan.x_col.row_box(patch.row).grown(1), drawing.colour, 3, halo=True)
        for mark in plan.maps if grows else ():
            drawing.paint_pixel(sheets[2], mark, patch.row)
        sheets[3].outline(plan.w_col.box.grown(2), drawing.colour, 2)
        drawing.point_at(sheets[3], patch.row)
        drawing.write_product(sheets[3], patch.row)
        moments += [Moment(*sheets[:2]), Moment(*sheets[2:])]
    return Film(start, tuple(moments), fps or rate(len(moments)))


def _line(faces: Faces, index: int) -> Faces:
    """A line of cells."""
    part = slice(index, index + 1)
    values = None if faces.values is None else faces.values[part]
    title = lambda _, j: faces.title(index, j)  # noqa: E731
    return Faces(faces.colours[part], values, faces.padding[part], title, faces.signed)


class _Drawing:
    """A layer's numbers, and how each part of a plan is painted with them."""

    def __init__(
        self,
        plan: ProductPlan,
        pixels: NDArray[np.uint8],
        image: NDArray[Any],
        filters: NDArray[Any],
        y: NDArray[Any],
        theme: Theme,
    ) -> None:
        self._plan, self._pixels, self._image, self._theme = plan, pixels, image, theme
        self._filters, self._y = filters, y
        shown = max(len(plan.maps), plan.y.columns[-1][0] + 1)
        low, high = extremes(y[..., :shown], *plan.maps[0].panel.reduce)
        ends = low.min((0, 1)).tolist(), high.max((0, 1)).tolist()
        self._ranges = list(zip(*ends, strict=True))
        # Where maps are reduced, by the numbers of largest magnitude.
        self._maps = np.where(high >= -low.astype(np.float64), high, low)
        self.colour = plan.patches[0].colour or theme.ink
        # Of the first group, flattened as W_col's columns are.
        self._w_col = filters[: plan.w_col.shape[1]].reshape(plan.w_col.shape[1], -1).T
        per_group = plan.geometry.channels // plan.geometry.groups
        columns = [t // per_group * plan.geometry.channels + t % per_group for t, _ in plan.x_col.columns]
        rows = [row for row, _ in plan.x_col.rows]
        sheet = Sheet((1, 1), theme)
        arrays = pixels[None], image[None]
        self.x_col = x_col_faces(sheet, plan.geometry, plan.padding_mode, "hwc", rows, columns, *arrays)
        self.y = self._y_faces()

    def _y_faces(self) -> Faces:
        """Y's columns in the shades of the maps that they are."""
        matrix = self._plan.y
        numbers = matrix.part(self._y.reshape(-1, self._y.shape[-1]))
        colours = [shades(numbers[:, [j]], *self._ranges[k]) for j, (k, _) in enumerate(matrix.columns)]
        faces = number_faces(
            numbers, (0, 0), lambda i, j: f"row {matrix.rows[i][0]}, column {matrix.columns[j][0]}"
        )
        return faces._replace(colours=np.concatenate(colours, 1))

    def inputs(self) -> Sheet:
        """The image, the filters and W_col, and all that is written."""
        plan, sheet = self._plan, Sheet(self._plan.size, self._theme)
        sheet.write(*plan.labels)
        for arrow in plan.arrows:
            sheet.arrow(*arrow)
        paint_panel(sheet, plan.geometry, plan.padding_mode, plan.image, self._pixels, self._image)
        if plan.overview is not None:
            paint_panel(sheet, plan.geometry, plan.padding_mode, plan.overview, self._pixels, None)
            frame_excerpt(sheet, plan.overview, plan.image)
        scale = limits(self._filters)
        for number, boxes in plan.filters:
            for channel, box in enumerate(boxes):
                weights = self._filters[number, ..., channel]
                text = f"filter {number}, channel {channel}: weight "
                faces = number_faces(weights, scale, partial("{}{},{}".format, text))
                paint_cells(sheet, *_spans(box, weights.shape), faces)
        matrix = plan.w_col
        faces = number_faces(
            matrix.part(self._w_col),
            scale,
            lambda i, j: f"row {matrix.rows[i][0]}, column {matrix.columns[j][0]}",
        )
        paint_cells(sheet, *matrix.spans, faces)
        return sheet

    def name_map(self, sheet: Sheet, mark: MapMark) -> None:
        """Write which map it is, and the range of its numbers."""
        low, high = (number_text(self._y.dtype.type(end)) for end in self._ranges[mark.number])
        sheet.write(label(*mark.name, f"k = {mark.number}: {low} .. {high}", SMALL))

    def paint_map(self, sheet: Sheet, mark: MapMark) -> None:
        """Paint a feature map; where it is reduced, by the numbers of largest magnitude."""
        self.name_map(sheet, mark)
        values = self._maps[..., mark.number]
        faces = number_faces(
            values, self._ranges[mark.number], lambda i, j: f"filter {mark.number}, pixel {i},{j}"
        )
        paint_cells(sheet, *_spans(mark.panel.box, values.shape), faces)

    def paint_pixel(self, sheet: Sheet, mark: MapMark, row: int) -> None:
        """Paint a pixel of a feature map."""
        _, y, x = self._plan.geometry.patch_position(row)
        box = mark.panel.pixel(y, x)
        text = f"filter {mark.number}, pixel {y},{x}"
        faces = number_faces(
            self._y[y : y + 1, x : x + 1, mark.number], self._ranges[mark.number], lambda *_: text
        )
        paint_cells(sheet, *_spans(box, (1, 1)), faces)

    def point_at(self, sheet: Sheet, row: int) -> None:
        """Outline a row of X_col, of Y, and its pixel in each feature map."""
        plan = self._plan
        boxes = [matrix.row_box(row).grown(1) for matrix in (plan.x_col, plan.y)]
        at = plan.geometry.patch_position(row)[1:]
        for box in boxes + [mark.panel.pixel(*at).grown(2) for mark in plan.maps]:
            sheet.outline(box, self.colour, 3, halo=True)

    def write_product(self, sheet: Sheet, row: int) -> None:
        """Write how a number of Y comes about, at length if there is room."""
        plan = self._plan
        index = [n for n, _ in plan.x_col.rows].index(row)
        result = number_text(self._y[(*plan.geometry.patch_position(row)[1:], 0)])
        text = f"row {row} of X_col · column 0 of W_col = {result}"
        if len(plan.x_col.columns) == plan.geometry.terms <= _SPELLED and self.x_col.values is not None:
            pairs = zip(self.x_col.values[index].tolist(), self._w_col[:, 0].tolist(), strict=True)
            text = f"row {row}: " + " + ".join(_times(a, b) for a, b in pairs) + f" = {result}"
        if plan.biased:
            text = text.replace(f" = {result}", f" + b = {result}")
        line = label(*plan.note, text, SMALL)
        if line.box.right > plan.size[0] - MARGIN:
            line = label(*plan.note, f"row {row} of X_col · column 0 of W_col = {result}", SMALL)
        sheet.write(line)


def _times(a: float, b: float) -> str:
    second = number_text(np.asarray(b)[()])
    return f"{number_text(np.asarray(a)[()])}*" + (f"({second})" if b < 0 else second)


def _spans(box: Box, shape: Sequence[int]) -> tuple[list[Span], list[Span]]:
    """The pixels of rows, and of columns, that fill a box."""

    def along(start: int, end: int, count: int) -> list[Span]:
        return list(itertools.pairwise([start + (end - start) * n // count for n in range(count + 1)]))

    return along(box.top, box.bottom, shape[0]), along(box.left, box.right, shape[1])


def extremes(values: NDArray[Any], down: int, across: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each block of maps (h, w, K), so high and so wide, the least number and the largest."""
    if down == across == 1:
        return values, values
    starts = [np.arange(0, size, step) for size, step in zip(values.shape, (down, across), strict=False)]
    low, high = (
        pick.reduceat(pick.reduceat(values, starts[0], 0), starts[1], 1) for pick in (np.minimum, np.maximum)
    )
    return low, high
