"""The picture of a layer as a product: the image becomes X_col, the filters W_col, their product Y the maps.

W_col stands above Y and X_col beside it, so that a number of Y is where its row and its column meet. One
patch is followed through: outlined in the image, a row of X_col, a row of Y, a pixel of each feature map (the
paper's Fig. 3 and 4). `plan_product` decides what is where; `convmat.figures.multiplying` paints it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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
    label,
    text_size,
)
from convmat.figures.cells import Span
from convmat.figures.outlines import PatchMark, coloured, outlines
from convmat.figures.panels import (
    OVERVIEW_SIDE,
    Panel,
    as_image,
    choose_window,
    middle_patch,
    padded_ranges,
    place_panel,
    positions_inside,
)
from convmat.geometry import ConvGeometry
from convmat.shown import sizes

FILTERS = 6
"""Filters, and feature maps, that are shown."""

_SIDE = 300  # pixels of the image's longer side, and of two feature maps one below the other
_FILTER_SIDE, _NAME_WIDTH = 84, 150  # of a filter, and of a feature map's name with its range
_LINES, _COLUMNS = 50, 12  # of a matrix, shown when there are no more
_MOVES = 25  # patches of an animation
_MATRIX_SIDE, _CELLS = 420, (8, 28)  # pixels of a matrix at most; of a cell of it, at least and at most
_BREAK = 14  # pixels of what is left out
_ARROW = 44
_SPELLED = 12  # products that are written out

Arrow = tuple[tuple[int, int], tuple[int, int]]


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

    @property
    def spans(self) -> tuple[list[Span], list[Span]]:
        """The pixels of its rows, and of its columns."""
        ys, xs = ([(at, at + self.cell) for _, at in places] for places in (self.rows, self.columns))
        return ys, xs

    def part(self, values: NDArray[Any]) -> NDArray[Any]:
        """The elements that are shown, of all values."""
        return values[np.ix_([n for n, _ in self.rows], [k for k, _ in self.columns])]

    def row_box(self, row: int) -> Box:
        """Where a row lies."""
        top = dict(self.rows)[row]
        return Box(self.box.left, top, self.box.right, top + self.cell)


class FilterMark(NamedTuple):
    """A filter drawn as the kernel it is, a channel below the other."""

    number: int
    boxes: tuple[Box, ...]


class MapMark(NamedTuple):
    """A feature map, and where its name is."""

    number: int
    panel: Panel
    name: tuple[int, int]


@dataclass(frozen=True)
class ProductPlan:
    """What is drawn, and where."""

    geometry: ConvGeometry
    """Of two spatial axes, and one image."""
    padding_mode: str
    size: tuple[int, int]
    row: int
    """Of X_col and Y, the patch that is followed."""
    overview: Panel | None
    image: Panel
    patches: tuple[PatchMark, ...]
    """The one that is followed, or those of an animation one after another."""
    filters: tuple[FilterMark, ...]
    maps: tuple[MapMark, ...]
    x_col: Matrix
    """Of the first group's channels where there are several; so is W_col."""
    w_col: Matrix
    y: Matrix
    labels: tuple[Label, ...]
    arrows: tuple[Arrow, ...]
    biased: bool
    note: tuple[int, int]
    """Where the product of the patch's row is written."""


def plan_product(
    geometry: ConvGeometry,
    filters: int,
    padding_mode: str = "zeros",
    focus: tuple[int, int] | None = None,
    at: tuple[int, int] | None = None,
    blank: Callable[[int], bool] | None = None,
    biased: bool = False,
    moving: bool = False,
) -> ProductPlan:
    """Decide the picture of a layer applied to the first image of a batch.

    Args:
        geometry: of one or two spatial axes.
        filters: K.
        padding_mode: as in `unroll`.
        focus: (y, x), what an excerpt should show; by default the middle.
        at: (y, x), the pixel near which a patch is followed; by default the middle of what is shown.
        blank: whether a row's patch has nothing to see, and another is rather followed.
        biased: whether Y has a bias added.
        moving: for an animation, of as many patches as are shown.

    Raises:
        GeometryError: three spatial axes.
    """
    flat = as_image(geometry.for_batch(1))
    equation = "Y = X_col · W_col" + (" + b" if biased else "")
    labels = [label(MARGIN, MARGIN, f"{equation}: {captions.title(geometry, padding_mode)}", HEAD)]
    top = labels[0].box.bottom + 12
    window, _ = choose_window(flat, (), _MOVES if moving else 0, focus, _SIDE)
    overview = None
    body = top + text_size("0", BODY)[1] + 4
    labels.append(label(MARGIN, top, captions.image(geometry, 0)))
    if window != padded_ranges(flat):
        overview = place_panel(0, padded_ranges(flat), OVERVIEW_SIDE * 2 // 3, (MARGIN, body))
        labels.append(label(MARGIN, overview.box.bottom + 10, captions.excerpt(geometry, 0, window)))
    side = min(max(_cell(flat.terms, flat.terms) * min(flat.terms, _LINES), _SIDE), _MATRIX_SIDE)
    image = place_panel(0, window, side, (MARGIN, labels[-1].box.bottom + 4))
    row = middle_patch(flat, image, at, blank)
    rows = [row]
    if moving:
        rows = [flat.patch_row((0, *at)) for at in itertools.product(*positions_inside(flat, image))]
        row = rows[-1]
    patches = tuple(mark for n in rows for mark in outlines(flat, [image], coloured([n])))

    fitting = max(_MATRIX_SIDE // _cell(1, min(flat.terms, _LINES)), 3)
    wanted = rows if moving else _ends(flat.matrix_shape[0], _LINES, row, fitting)
    left = max(line.box.right for line in labels[1:])
    x_col, w_col, y, words = _place_matrices(flat, filters, wanted, max(image.box.right, left), body)
    labels += words
    right = max(line.box.right for line in words[1:]) + _ARROW + GAP
    shown = min(filters, FILTERS)
    of = f", {shown} shown" if shown < filters else ""
    shape = (filters, *geometry.kernel_size, flat.channels // flat.groups)
    labels.append(label(right, top, f"filters: {sizes(shape)}{of}"))
    marks, names = _place_filters(flat, shown, (right, body))
    labels += names
    below = max([image.box.bottom, w_col.box.bottom, *(m.boxes[-1].bottom for m in marks)]) + _ARROW + 8
    x_col, y = (_lowered(matrix, below + text_size("0", BODY)[1] + 4) for matrix in (x_col, y))
    labels = [
        line._replace(box=line.box.moved(0, below - top)) if line in words[::2] else line for line in labels
    ]
    shape = (*geometry.output_size, filters)
    labels.append(label(right, below, f"Y as feature maps: {sizes(shape)}{of}"))
    maps = _place_maps(flat, shown, Box(right, labels[-1].box.bottom + 4, right, x_col.box.bottom))
    arrows = (
        ((image.box.left + 40, below - _ARROW), (image.box.left + 40, below - 6)),
        ((right - 8, body + 40), (right - 8 - _ARROW, body + 40)),
        ((right - 8 - _ARROW, y.box.top + 20), (right - 8, y.box.top + 20)),
    )
    parts = [x_col.box, y.box, *(mark.panel.box for mark in maps)]
    text = captions.formulas(geometry, None, row, "hwc")[0]
    caption = label(MARGIN, max(box.bottom for box in parts) + 16, text, SMALL)
    parts += [image.box, w_col.box, caption.box, *(box for mark in marks for box in mark.boxes)]
    parts += [line.box for line in labels] + [mark.tag.box for mark in patches]
    parts += [Box(*mark.name, mark.name[0] + _NAME_WIDTH, mark.name[1] + 1) for mark in maps]
    note = MARGIN, caption.box.bottom + 4
    size = max(box.right for box in parts) + MARGIN, note[1] + text_size("0", SMALL)[1] + MARGIN
    if not moving:
        labels.append(caption)
    return ProductPlan(
        flat,
        padding_mode,
        size,
        row,
        overview,
        image,
        patches,
        marks,
        maps,
        x_col,
        w_col,
        y,
        tuple(labels),
        arrows,
        biased,
        note,
    )


def _lowered(matrix: Matrix, top: int) -> Matrix:
    """A matrix that begins further down."""
    down = top - matrix.box.top
    return matrix._replace(rows=tuple((row, at + down) for row, at in matrix.rows))


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
            at, across = top, across + max(kw, 40) + 24
        names.append(label(across, at, f"k = {k}", SMALL))
        tops = [at + name_height + c * (kh + 4) for c in range(depth)]
        marks.append(FilterMark(k, tuple(Box(across, y, across + kw, y + kh) for y in tops)))
        at += height + 10
    return tuple(marks), names


def _place_maps(geometry: ConvGeometry, count: int, room: Box) -> tuple[MapMark, ...]:
    """Feature maps in one line or two, as high as there is room, with their names."""
    left, at = across, deepest = room[:2]
    columns = -(-count // 2) if count > 2 else count
    lines = -(-count // columns)
    side = min(max((room.bottom - room.top) // lines - 28, _SIDE // 2 - 12), _SIDE)
    window = range(geometry.output_size[0]), range(geometry.output_size[1])
    marks = list[MapMark]()
    for k in range(count):
        if k and k % columns == 0:
            across, at = left, deepest + 8
        panel = place_panel(0, window, side, (across, at + text_size("0", SMALL)[1] + 2))
        marks.append(MapMark(k, panel, (across, at)))
        across, deepest = max(panel.box.right, across + _NAME_WIDTH) + 16, max(deepest, panel.box.bottom)
    return tuple(marks)


def _place_matrices(
    geometry: ConvGeometry, filters: int, rows: Sequence[int], left: int, top: int
) -> tuple[Matrix, Matrix, Matrix, list[Label]]:
    """X_col, and right of it and of `left` W_col and Y, all from `top` on; their names, in this order."""
    group = geometry.groups
    every, terms, outputs = geometry.matrix_shape[0], geometry.terms, filters // group
    shown_terms, shown_outputs = _ends(terms, _LINES, 0), _ends(outputs, _COLUMNS, 0)
    cell = _cell(len(rows), len(shown_terms))
    of = ", group 0" if group > 1 else ""
    head = top - text_size("0", BODY)[1] - 4

    def named(
        at: int, name: str, shape: tuple[int, int], down: Sequence[int], across: Sequence[int]
    ) -> tuple[Label, Matrix]:
        matrix = Matrix(name, shape, _spread(down, top, cell), _spread(across, at, cell), cell)
        return label(at, head, f"{name}, {sizes(shape)}{of}"), matrix

    x_label, x_col = named(MARGIN, "X_col", (every, terms), rows, shown_terms)
    left = max(left, x_label.box.right, x_col.box.right) + GAP
    w_label, w_col = named(left, "W_col", (terms, outputs), shown_terms, shown_outputs)
    y_label, y = named(left, "Y", (every, outputs), rows, shown_outputs)
    # What stands beside the two is to the right of both.
    right = max(w_col.box.right, w_label.box.right)
    w_label = w_label._replace(box=w_label.box._replace(right=right))
    return x_col, w_col, y, [x_label, w_label, y_label]


def _cell(rows: int, columns: int) -> int:
    """Pixels of a cell of matrices of so many rows and columns."""
    return min(max(_MATRIX_SIDE // max(rows, columns), _CELLS[0]), _CELLS[1])


def _ends(count: int, most: int, middle: int, fitting: int = 0) -> list[int]:
    """All numbers below `count`, or the first, those about `middle`, and the last, `fitting` in all."""
    if count <= most:
        return list(range(count))
    third = (fitting or most) // 3
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
