"""The picture of a layer as a product: image, filters, feature maps; below them X_col · W_col = Y, to scale.

One patch is followed through it: outlined in the image, one row of X_col, one row of Y, one pixel of each
feature map (the paper's Fig. 3 and 4). `plan_product` decides what is shown and where, `draw_product` paints
what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import ConvGeometry
from convmat.report.figures.canvas import (
    ACCENTS,
    BODY,
    GAP,
    HEAD,
    MARGIN,
    SMALL,
    Box,
    Label,
    Sheet,
    Theme,
    centred,
    contrast,
    label,
    number_text,
    text_size,
)
from convmat.report.figures.patches import (
    Panel,
    PatchMark,
    as_image,
    choose_window,
    draw_outline,
    fits,
    outlines,
    padded_ranges,
    paint_panel,
    place_panel,
    title_text,
)
from convmat.shown import sizes

FILTERS = 6
"""Filters, and feature maps, that are shown."""

_SIDE = 300  # pixels of the image's longer side, and of two feature maps one below the other
_FILTER_SIDE = 84
_LINES, _COLUMNS = 50, 12  # of a matrix, shown when there are no more
_MATRIX_SIDE, _CELLS = 420, (8, 28)  # pixels of a matrix at most; of a cell of it, at least and at most
_BREAK = 14
_LOW, _HIGH = np.array([0, 90, 170.0]), np.array([200, 80, 0.0])  # of numbers below 0 and above


class Matrix(NamedTuple):
    """A matrix of which some rows and columns are shown."""

    name: str
    shape: tuple[int, int]
    rows: tuple[tuple[int, int], ...]
    """(row, y in the drawing)."""
    columns: tuple[tuple[int, int], ...]
    """(column, x in the drawing)."""
    cell: int

    @property
    def box(self) -> Box:
        """Where it lies."""
        (_, left), (_, right) = self.columns[0], self.columns[-1]
        return Box(left, self.rows[0][1], right + self.cell, self.rows[-1][1] + self.cell)


class FilterMark(NamedTuple):
    """A filter drawn as the kernel it is, a channel below the other."""

    number: int
    boxes: tuple[Box, ...]


class MapMark(NamedTuple):
    """A feature map."""

    number: int
    panel: Panel


@dataclass(frozen=True)
class ProductPlan:
    """What is drawn, and where."""

    geometry: ConvGeometry
    """Of two spatial axes, and one image."""
    padding_mode: str
    size: tuple[int, int]
    row: int
    """Of X_col and Y, the patch that is followed."""
    image: Panel
    patch: PatchMark
    filters: tuple[FilterMark, ...]
    maps: tuple[MapMark, ...]
    x_col: Matrix
    """Of the first group's channels where there are several; so is W_col."""
    w_col: Matrix
    y: Matrix
    labels: tuple[Label, ...]
    arrows: tuple[tuple[int, int, int], ...]


def plan_product(
    geometry: ConvGeometry,
    filters: int,
    padding_mode: str = "zeros",
    focus: tuple[int, int] | None = None,
    biased: bool = False,
) -> ProductPlan:
    """Decide the picture of a layer applied to the first image of a batch.

    Args:
        geometry: of one or two spatial axes.
        filters: K.
        padding_mode: as in `unroll`.
        focus: (y, x), what an excerpt should show; by default the middle.
        biased: whether Y has a bias added.

    Raises:
        GeometryError: three spatial axes.
    """
    flat = as_image(geometry.for_batch(1))
    labels = [label(MARGIN, MARGIN, title_text(geometry, padding_mode), HEAD)]
    top = labels[0].box.bottom + 12

    window, _ = choose_window(flat, (), False, focus)
    of_batch = f"0 of {geometry.batch}, " if geometry.batch > 1 else ""
    part = "" if window == padded_ranges(flat) else ", excerpt"
    head = label(MARGIN, top, f"image {of_batch}{sizes(geometry.input_size)}{part}", BODY)
    body = head.box.bottom + 4
    image = place_panel(0, window, _SIDE, (MARGIN, body))
    row = _followed(flat, image)
    patch = outlines(flat, [image], {row: ACCENTS[0]})[0]

    shown = min(filters, FILTERS)
    depth = min(flat.channels // flat.groups, 3)
    cell = max(min(_FILTER_SIDE // max(flat.kernel_size), _CELLS[1]), 1)
    arrows = [
        (max(image.box.right, head.box.right) + 12, max(image.box.right, head.box.right) + 52, body + 60)
    ]
    left = arrows[0][1] + 16
    of = f", {shown} shown" if shown < filters else ""
    kind = label(
        left, top, f"filters: {sizes((filters, *geometry.kernel_size, flat.channels // flat.groups))}{of}"
    )
    marks, at = [], body
    across = left
    for k in range(shown):
        kh, kw = (size * cell for size in flat.kernel_size)
        tall = depth * (kh + 4) + text_size("0", SMALL)[1]
        if at + tall > body + max(_SIDE, tall) and k:
            at, across = body, across + kw + 24
        labels.append(label(across, at, f"k = {k}", SMALL))
        tops = [at + text_size("0", SMALL)[1] + c * (kh + 4) for c in range(depth)]
        marks.append(FilterMark(k, tuple(Box(across, y, across + kw, y + kh) for y in tops)))
        at += tall + 10
    right = max([kind.box.right, *(mark.boxes[0].right + 8 for mark in marks)])
    arrows.append((right + 12, right + 52, body + 60))

    left = right + 68
    maps_head = label(left, top, f"Y as feature maps: {sizes((*geometry.output_size, filters))}{of}")
    columns = min(shown, 3)
    side = _SIDE if shown == 1 else (_SIDE - 24) // (1 if shown <= 2 else 2)
    maps = []
    y_at, x_at, deepest = body, left, body
    ranges = (range(flat.output_size[0]), range(flat.output_size[1]))
    for k in range(shown):
        if k and k % columns == 0:
            x_at, y_at = left, deepest + 8
        labels.append(label(x_at, y_at, f"k = {k}", SMALL))
        panel = place_panel(0, ranges, side, (x_at, y_at + text_size("0", SMALL)[1]))
        maps.append(MapMark(k, panel))
        x_at, deepest = max(panel.box.right, x_at + 40) + 16, max(deepest, panel.box.bottom)
    labels += [head, kind, maps_head]
    ends = [box for mark in marks for box in mark.boxes]
    bottom = max(image.box.bottom, deepest, *(box.bottom for box in ends))

    x_col, w_col, y, words = _matrices(flat, filters, row, bottom + 28, biased)
    labels += words
    boxes = [line.box for line in labels] + [m.box for m in (x_col, w_col, y)] + ends
    boxes += [patch.tag.box, *(mark.panel.box for mark in maps)]
    size = max(box.right for box in boxes) + MARGIN, max(box.bottom for box in boxes) + MARGIN
    return ProductPlan(
        flat,
        padding_mode,
        size,
        row,
        image,
        patch,
        tuple(marks),
        tuple(maps),
        x_col,
        w_col,
        y,
        tuple(labels),
        tuple(arrows),
    )


def _followed(geometry: ConvGeometry, image: Panel) -> int:
    """The row of the patch nearest to the middle of what is shown."""
    position = [
        min(max(((w.start + w.stop - reach) // 2 + before) // s, 0), count - 1)
        for w, reach, (before, _), s, count in zip(
            (image.ys, image.xs),
            geometry.extent,
            geometry.pads,
            geometry.stride,
            geometry.output_size,
            strict=True,
        )
    ]
    return geometry.patch_row((0, *position))


def _matrices(
    geometry: ConvGeometry, filters: int, row: int, top: int, biased: bool
) -> tuple[Matrix, Matrix, Matrix, list[Label]]:
    """X_col, W_col and Y side by side, all cells of one size, with the signs between them."""
    group = geometry.groups
    rows, terms, outputs = geometry.matrix_shape[0], geometry.terms, filters // group
    shown_rows, shown_terms = _ends(rows, _LINES, row), _ends(terms, _LINES, 0)
    shown_outputs = _ends(outputs, _COLUMNS, 0)
    cell = min(max(_MATRIX_SIDE // max(len(shown_rows), len(shown_terms)), _CELLS[0]), _CELLS[1])
    of = f", group 0 of {group}" if group > 1 else ""
    labels: list[Label] = []
    found = []
    left = MARGIN
    parts = (
        ("X_col", (rows, terms), shown_rows, shown_terms),
        ("W_col", (terms, outputs), shown_terms, shown_outputs),
        ("Y", (rows, outputs), shown_rows, shown_outputs),
    )
    body = top + text_size("0", BODY)[1] + 6
    for (name, shape, down, across), sign in zip(parts, ("", "·", "+ b =" if biased else "="), strict=True):
        if sign:
            labels.append(label(left, body + 60, sign, 2 * HEAD))
            left = labels[-1].box.right + GAP // 2
        note = label(
            left, top, f"{name}, {sizes(shape)}{of}{'' if len(down) == shape[0] else ' (parts)'}", BODY
        )
        labels.append(note)
        matrix = Matrix(name, shape, _spread(down, body, cell), _spread(across, left, cell), cell)
        found.append(matrix)
        left = max(note.box.right, matrix.box.right) + GAP // 2
    x_col, w_col, y = found
    return x_col, w_col, y, labels


def _ends(count: int, most: int, middle: int) -> list[int]:
    """All numbers below `count`, or the first, those about `middle`, and the last of them."""
    if count <= most:
        return list(range(count))
    third = most // 3
    start = min(max(middle - third // 2, 0), count - third)
    return sorted({*range(third), *range(start, start + third), *range(count - third, count)})


def _spread(numbers: Sequence[int], start: int, cell: int) -> tuple[tuple[int, int], ...]:
    """Where cells begin, with a break wherever numbers are left out."""
    places, at = [], start
    for index, number in enumerate(numbers):
        if index and number != numbers[index - 1] + 1:
            at += _BREAK
        places.append((number, at))
        at += cell
    return tuple(places)


def x_col_values(plan: ProductPlan, image: NDArray[Any]) -> NDArray[Any]:
    """The elements of X_col that are shown, of the image's values, (H, W, C)."""
    values = np.zeros((len(plan.x_col.rows), len(plan.x_col.columns)), image.dtype)
    per_group = plan.geometry.channels // plan.geometry.groups
    for i, (row, _) in enumerate(plan.x_col.rows):
        for j, (term, _) in enumerate(plan.x_col.columns):
            # A group's terms run over its own channels.
            column = term // per_group * plan.geometry.channels + term % per_group
            element = plan.geometry.place(row, column, plan.padding_mode).element
            if element is not None:
                values[i, j] = image[element[1:]]
    return values


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
    sheet = Sheet(plan.size, theme)
    for line in plan.labels:
        sheet.write(line)
    for arrow in plan.arrows:
        sheet.arrow(*arrow)
    paint_panel(sheet, plan.geometry, plan.padding_mode, plan.image, pixels, image)
    draw_outline(sheet, plan.geometry, plan.patch)
    sheet.tag(plan.patch.tag, plan.patch.colour)
    low, high = _range(filters)
    for mark in plan.filters:
        for channel, box in enumerate(mark.boxes):
            _paint_cells(sheet, box, filters[mark.number, ..., channel], low, high)
    low, high = _range(y)
    at = plan.geometry.patch_position(plan.row)[1:]
    for found in plan.maps:
        panel = found.panel
        steps = panel.reduce
        _paint_cells(sheet, panel.box, y[:: steps[0], :: steps[1], found.number], low, high)
        one = panel.box_of(at[0], at[1], at[0] + 1, at[1] + 1)
        sheet.outline(one.grown(2), plan.patch.colour, 3, halo=True)
    x_col = x_col_values(plan, image)
    _paint_matrix(sheet, plan.x_col, x_col, *_range(image))
    # (K/groups, n) of the first group: flattened as W_col's columns are.
    w_col = filters[: plan.w_col.shape[1]].reshape(plan.w_col.shape[1], -1).T
    chosen = np.ix_([n for n, _ in plan.w_col.rows], [k for k, _ in plan.w_col.columns])
    _paint_matrix(sheet, plan.w_col, w_col[chosen], *_range(filters))
    flat_y = y.reshape(-1, y.shape[-1])
    chosen = np.ix_([n for n, _ in plan.y.rows], [k for k, _ in plan.y.columns])
    _paint_matrix(sheet, plan.y, flat_y[chosen], low, high)
    for matrix in (plan.x_col, plan.y):
        top = dict(matrix.rows)[plan.row]
        sheet.outline(
            Box(matrix.box.left, top, matrix.box.right, top + matrix.cell).grown(1),
            plan.patch.colour,
            3,
            halo=True,
        )
    return sheet


def _range(values: NDArray[Any]) -> tuple[float, float]:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def shades(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers (h, w) as colours: black to white, or where some are below 0 blue, white at 0, orange."""
    found = values.astype(np.float64)
    if low >= 0:
        gray = np.clip((found - low) / ((high - low) or 1), 0, 1)[..., None] * 255
        return gray.repeat(3, -1).round().astype(np.uint8)
    share = np.clip(found / max(-low, high), -1, 1)[..., None]
    end = np.where(share < 0, _LOW, _HIGH)
    return (255 + (end - 255) * np.abs(share)).round().astype(np.uint8)


def _paint_cells(sheet: Sheet, box: Box, values: NDArray[Any], low: float, high: float) -> None:
    """Numbers as cells that fill a box, written where there is room."""
    colours = shades(values, low, high)
    sheet.cells(box, colours)
    h, w = values.shape
    down, across = (box.bottom - box.top) // h, (box.right - box.left) // w
    if min(down, across) >= 10:
        sheet.lines([box.left + across * j for j in range(w + 1)], [box.top + down * i for i in range(h + 1)])
    else:
        sheet.outline(box.grown(1), sheet.theme.line)
    texts = [[number_text(v) for v in line] for line in values] if min(down, across) >= 20 else []
    if texts and fits([t for line in texts for t in line], across):
        for i, line in enumerate(texts):
            for j, text in enumerate(line):
                left, top = box.left + j * across, box.top + i * down
                cell = Box(left, top, left + across, top + down)
                sheet.write(centred(cell, text, SMALL, contrast(colours[i, j])))


def _paint_matrix(sheet: Sheet, matrix: Matrix, values: NDArray[Any], low: float, high: float) -> None:
    colours = shades(values, low, high)
    texts = [[number_text(v) for v in line] for line in values] if matrix.cell >= 20 else []
    numbered = bool(texts) and fits([t for line in texts for t in line], matrix.cell)
    for i, (_, top) in enumerate(matrix.rows):
        for j, (_, left) in enumerate(matrix.columns):
            box = Box(left, top, left + matrix.cell, top + matrix.cell)
            red, green, blue = (int(c) for c in colours[i, j])
            sheet.fill(box, (red, green, blue))
            if matrix.cell >= 10:
                sheet.outline(Box(left, top, left + matrix.cell + 1, top + matrix.cell + 1), sheet.theme.line)
            if numbered:
                sheet.write(centred(box, texts[i][j], SMALL, contrast((red, green, blue))))
    sheet.outline(matrix.box.grown(1), sheet.theme.line)
    for (number, at), (after, then) in zip(matrix.rows, matrix.rows[1:], strict=False):
        if after != number + 1:
            sheet.fill(
                Box(matrix.box.left - 1, at + matrix.cell, matrix.box.right + 1, then), sheet.theme.paper
            )
            sheet.dots(Box(matrix.box.left, at + matrix.cell, matrix.box.right, then), upright=True)
    for (number, at), (after, then) in zip(matrix.columns, matrix.columns[1:], strict=False):
        if after != number + 1:
            sheet.fill(
                Box(at + matrix.cell, matrix.box.top - 1, then, matrix.box.bottom + 1), sheet.theme.paper
            )
            sheet.dots(Box(at + matrix.cell, matrix.box.top, then, matrix.box.bottom), upright=False)
