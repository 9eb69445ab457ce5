"""The picture of a layer as a product: image, filters, feature maps; below them X_col · W_col = Y, to scale.

One patch is followed through it: outlined in the image, one row of X_col, one row of Y, one pixel of each
feature map (the paper's Fig. 3 and 4). `plan_product` decides what is shown and where, `draw_product` paints
what it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.figures import captions
from convmat.figures.canvas import (
    BODY,
    GAP,
    HEAD,
    MARGIN,
    SMALL,
    Box,
    Label,
    Sheet,
    Theme,
    contrast,
    label,
    number_text,
    text_size,
)
from convmat.figures.outlines import PatchMark, coloured, draw_outline, outlines
from convmat.figures.panels import (
    GRIDDED,
    Panel,
    as_image,
    choose_window,
    middle_patch,
    padded_ranges,
    paint_panel,
    place_panel,
)
from convmat.geometry import ConvGeometry
from convmat.shown import sizes

FILTERS = 6
"""Filters, and feature maps, that are shown."""

_SIDE = 300  # pixels of the image's longer side, and of two feature maps one below the other
_FILTER_SIDE = 84
_LINES, _COLUMNS = 50, 12  # of a matrix, shown when there are no more
_MATRIX_SIDE, _CELLS = 420, (8, 28)  # pixels of a matrix at most; of a cell of it, at least and at most
_NUMBERED, _BREAK = 20, 14  # pixels of a cell from which on it has room for a number; of what is left out
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

    def part(self, values: NDArray[Any]) -> NDArray[Any]:
        """The elements that are shown, of all values."""
        return values[np.ix_([n for n, _ in self.rows], [k for k, _ in self.columns])]


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
    title = label(MARGIN, MARGIN, captions.title(geometry, padding_mode), HEAD)
    window, _ = choose_window(flat, (), False, focus)
    part = "" if window == padded_ranges(flat) else ", excerpt"
    head = label(MARGIN, title.box.bottom + 12, captions.image(geometry, 0) + part)
    body = head.box.bottom + 4
    image = place_panel(0, window, _SIDE, (MARGIN, body))
    row = flat.patch_row((0, *middle_patch(flat, image)))
    patch = outlines(flat, [image], coloured([row]))[0]

    shown = min(filters, FILTERS)
    of = f", {shown} shown" if shown < filters else ""
    arrows = [_arrow(max(image.box.right, head.box.right), body)]
    shape = (filters, *geometry.kernel_size, flat.channels // flat.groups)
    kind = label(arrows[0][1] + 16, head.box.top, f"filters: {sizes(shape)}{of}")
    marks, names = _place_filters(flat, shown, (kind.box.left, body))
    arrows.append(_arrow(max([kind.box.right, *(mark.boxes[0].right + 8 for mark in marks)]), body))
    shape = (*geometry.output_size, filters)
    maps_head = label(arrows[1][1] + 16, head.box.top, f"Y as feature maps: {sizes(shape)}{of}")
    maps, map_names = _place_maps(flat, shown, (maps_head.box.left, body))

    parts = [image.box, *(box for mark in marks for box in mark.boxes), *(mark.panel.box for mark in maps)]
    below = max(box.bottom for box in parts) + 28
    matrices, words = _place_matrices(flat, filters, row, below, biased)
    labels = [title, head, kind, maps_head, *names, *map_names, *words]
    parts += [line.box for line in labels] + [matrix.box for matrix in matrices] + [patch.tag.box]
    size = max(box.right for box in parts) + MARGIN, max(box.bottom for box in parts) + MARGIN
    drawn = (image, patch, marks, maps, *matrices)
    return ProductPlan(flat, padding_mode, size, row, *drawn, tuple(labels), tuple(arrows))


def _arrow(left: int, top: int) -> tuple[int, int, int]:
    """An arrow to the right of what ends at `left`."""
    return left + 12, left + 52, top + 60


def _place_filters(
    geometry: ConvGeometry, count: int, origin: tuple[int, int]
) -> tuple[tuple[FilterMark, ...], list[Label]]:
    """Filters one below the other, and beside each other where that is too high, and their names."""
    across, at = _, top = origin
    name_height = text_size("0", SMALL)[1]
    cell = max(min(_FILTER_SIDE // max(geometry.kernel_size), _CELLS[1]), 1)
    kh, kw = (size * cell for size in geometry.kernel_size)
    depth = min(geometry.channels // geometry.groups, 3)
    height = depth * (kh + 4) + name_height
    marks, names = list[FilterMark](), list[Label]()
    for k in range(count):
        if k and at + height > top + max(_SIDE, height):
            at, across = top, across + kw + 24
        names.append(label(across, at, f"k = {k}", SMALL))
        tops = [at + name_height + c * (kh + 4) for c in range(depth)]
        marks.append(FilterMark(k, tuple(Box(across, y, across + kw, y + kh) for y in tops)))
        at += height + 10
    return tuple(marks), names


def _place_maps(
    geometry: ConvGeometry, count: int, origin: tuple[int, int]
) -> tuple[tuple[MapMark, ...], list[Label]]:
    """Feature maps in one line or two, and their names."""
    left, at = across, deepest = origin
    columns = min(count, 3)
    side = _SIDE if count == 1 else (_SIDE - 24) // (1 if count <= 2 else 2)
    window = range(geometry.output_size[0]), range(geometry.output_size[1])
    marks, names = list[MapMark](), list[Label]()
    for k in range(count):
        if k and k % columns == 0:
            across, at = left, deepest + 8
        names.append(label(across, at, f"k = {k}", SMALL))
        panel = place_panel(0, window, side, (across, names[-1].box.bottom))
        marks.append(MapMark(k, panel))
        across, deepest = max(panel.box.right, across + 40) + 16, max(deepest, panel.box.bottom)
    return tuple(marks), names


def _place_matrices(
    geometry: ConvGeometry, filters: int, row: int, top: int, biased: bool
) -> tuple[tuple[Matrix, Matrix, Matrix], list[Label]]:
    """X_col, W_col and Y side by side, all cells of one size, with the signs between them."""
    group = geometry.groups
    rows, terms, outputs = geometry.matrix_shape[0], geometry.terms, filters // group
    shown_rows, shown_terms = _ends(rows, _LINES, row), _ends(terms, _LINES, 0)
    shown_outputs = _ends(outputs, _COLUMNS, 0)
    cell = min(max(_MATRIX_SIDE // max(len(shown_rows), len(shown_terms)), _CELLS[0]), _CELLS[1])
    of = f", group 0 of {group}" if group > 1 else ""
    labels, matrices = list[Label](), list[Matrix]()
    left, body = MARGIN, top + text_size("0", BODY)[1] + 6
    for sign, name, shape, down, across in (
        ("", "X_col", (rows, terms), shown_rows, shown_terms),
        ("·", "W_col", (terms, outputs), shown_terms, shown_outputs),
        ("+ b =" if biased else "=", "Y", (rows, outputs), shown_rows, shown_outputs),
    ):
        if sign:
            labels.append(label(left, body + 60, sign, 2 * HEAD))
            left = labels[-1].box.right + GAP // 2
        parts = "" if len(down) == shape[0] else " (parts)"
        labels.append(label(left, top, f"{name}, {sizes(shape)}{of}{parts}"))
        matrices.append(Matrix(name, shape, _spread(down, body, cell), _spread(across, left, cell), cell))
        left = max(labels[-1].box.right, matrices[-1].box.right) + GAP // 2
    x_col, w_col, y = matrices
    return (x_col, w_col, y), labels


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
    draw_outline(sheet, plan.patch)
    sheet.tag(plan.patch.tag, plan.patch.colour)
    for mark in plan.filters:
        for channel, box in enumerate(mark.boxes):
            _paint_cells(sheet, box, filters[mark.number, ..., channel], _range(filters))
    at = plan.geometry.patch_position(plan.row)[1:]
    for number, panel in plan.maps:
        down, across = panel.reduce
        _paint_cells(sheet, panel.box, y[::down, ::across, number], _range(y))
        sheet.outline(panel.pixel(*at).grown(2), plan.patch.colour, 3, halo=True)
    # Of the first group, flattened as W_col's columns are.
    w_col = filters[: plan.w_col.shape[1]].reshape(plan.w_col.shape[1], -1).T
    _paint_matrix(sheet, plan.x_col, x_col_values(plan, image), _range(image))
    _paint_matrix(sheet, plan.w_col, plan.w_col.part(w_col), _range(filters))
    _paint_matrix(sheet, plan.y, plan.y.part(y.reshape(-1, y.shape[-1])), _range(y))
    for matrix in (plan.x_col, plan.y):
        top = dict(matrix.rows)[plan.row]
        row = Box(matrix.box.left, top, matrix.box.right, top + matrix.cell)
        sheet.outline(row.grown(1), plan.patch.colour, 3, halo=True)
    return sheet


def _range(values: NDArray[Any]) -> tuple[float, float]:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def shades(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers (h, w) as colours: black to white, or where some are below 0 blue, white at 0, orange."""
    wide = values.astype(np.float64)
    if low >= 0:
        gray = np.clip((wide - low) / ((high - low) or 1), 0, 1)[..., None] * 255
        return gray.repeat(3, -1).round().astype(np.uint8)
    share = np.clip(wide / max(-low, high), -1, 1)[..., None]
    end = np.where(share < 0, _LOW, _HIGH)
    return (255 + (end - 255) * np.abs(share)).round().astype(np.uint8)


def _paint_cells(sheet: Sheet, box: Box, values: NDArray[Any], limits: tuple[float, float]) -> None:
    """Numbers as cells that fill a box, written where there is room."""
    sheet.cells(box, shades(values, *limits))
    h, w = values.shape
    down, across = (box.bottom - box.top) // h, (box.right - box.left) // w
    ys, xs = [box.top + down * i for i in range(h + 1)], [box.left + across * j for j in range(w + 1)]
    if min(down, across) >= GRIDDED:
        sheet.lines(xs, ys)
    else:
        sheet.outline(box.grown(1), sheet.theme.line)
    _write_numbers(sheet, values, limits, ys[:-1], xs[:-1], (down, across))


def _write_numbers(
    sheet: Sheet,
    values: NDArray[Any],
    limits: tuple[float, float],
    ys: Sequence[int],
    xs: Sequence[int],
    cell: tuple[int, int],
) -> None:
    """Numbers in cells that begin at `ys` and `xs`, if these have room for all of them."""
    if min(cell) >= _NUMBERED:
        colours = shades(values, *limits)
        numbers = [
            (Box(x, y, x + cell[1], y + cell[0]), number_text(values[i, j]), contrast(colours[i, j]))
            for i, y in enumerate(ys)
            for j, x in enumerate(xs)
        ]
        sheet.numbers(numbers, cell[1])


def _paint_matrix(sheet: Sheet, matrix: Matrix, values: NDArray[Any], limits: tuple[float, float]) -> None:
    colours, cell, whole = shades(values, *limits), matrix.cell, matrix.box
    for i, (_, top) in enumerate(matrix.rows):
        for j, (_, left) in enumerate(matrix.columns):
            red, green, blue = (int(part) for part in colours[i, j])
            sheet.fill(Box(left, top, left + cell, top + cell), (red, green, blue))
            if cell >= GRIDDED:
                sheet.outline(Box(left, top, left + cell + 1, top + cell + 1), sheet.theme.line)
    ys, xs = [y for _, y in matrix.rows], [x for _, x in matrix.columns]
    _write_numbers(sheet, values, limits, ys, xs, (cell, cell))
    sheet.outline(whole.grown(1), sheet.theme.line)
    for top, bottom in _breaks(matrix.rows, cell):
        sheet.fill(Box(whole.left - 1, top, whole.right + 1, bottom), sheet.theme.paper)
        sheet.dots(Box(whole.left, top, whole.right, bottom), upright=True)
    for left, right in _breaks(matrix.columns, cell):
        sheet.fill(Box(left, whole.top - 1, right, whole.bottom + 1), sheet.theme.paper)
        sheet.dots(Box(left, whole.top, right, whole.bottom), upright=False)


def _breaks(places: Sequence[tuple[int, int]], cell: int) -> list[tuple[int, int]]:
    """Where numbers are left out: from the end of a cell to the beginning of the next."""
    pairs = itertools.pairwise(places)
    return [(at + cell, then) for (number, at), (after, then) in pairs if after != number + 1]
