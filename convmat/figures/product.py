"""The picture of a layer as a product: the image becomes X_col, the filters W_col, their product Y the maps.

W_col stands above Y and X_col beside it, so that a number of Y is where its row and its column meet. One
patch is followed through: outlined in the image, a row of X_col, a row of Y, a pixel of each feature map (the
paper's Fig. 3 and 4). `plan_product` decides what is where; `convmat.figures.multiplying` paints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.figures import captions
from convmat.figures.canvas import (
    GAP,
    HEAD,
    MARGIN,
    SMALL,
    Box,
    Label,
    label,
    sheet_size,
    text_size,
)
from convmat.figures.cells import Span
from convmat.figures.outlines import PatchMark, coloured, outlines
from convmat.figures.panels import (
    MIDDLE,
    OVERVIEW_SIDE,
    About,
    Panel,
    as_image,
    choose_window,
    middle_patch,
    padded_ranges,
    place_panel,
    rows_inside,
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
    about: About = MIDDLE,
    biased: bool = False,
    moving: bool = False,
) -> ProductPlan:
    """Decide the picture of a layer applied to the first image of a batch.

    Args:
        geometry: of one or two spatial axes.
        filters: K.
        padding_mode: as in `unroll`.
        about: what the excerpt shows, and the patch that is followed.
        biased: whether Y has a bias added.
        moving: for an animation, of as many patches as are shown.

    Raises:
        GeometryError: three spatial axes.
    """
    flat = as_image(geometry.for_batch(1))
    equation = "Y = X_col · W_col" + (" + b" if biased else "")
    title = label(MARGIN, MARGIN, f"{equation}: {captions.title(geometry, padding_mode)}", HEAD)
    top = title.box.bottom + 12
    window, _ = choose_window(flat, (), _MOVES if moving else 0, about.focus, _SIDE)
    overview, image, heads = _place_image(geometry, window, top)
    rows = rows_inside(flat, image) if moving else [middle_patch(flat, image, about)]
    patches = tuple(mark for n in rows for mark in outlines(flat, [image], coloured([n])))

    fitting = max(_MATRIX_SIDE // _cell(1, min(flat.terms, _LINES)), 3)
    wanted = rows if moving else _ends(flat.matrix_shape[0], _LINES, rows[0], fitting)
    left = max(image.box.right, *(line.box.right for line in heads))
    (x_col, x_head), (w_col, w_head), (y, y_head) = _place_matrices(flat, filters, wanted, left, top)
    right = max(w_head.box.right, y_head.box.right, w_col.box.right) + _ARROW + GAP
    marks, names = _place_filters(geometry, filters, (right, top))
    below = max(image.box.bottom, w_col.box.bottom, *(m.boxes[-1].bottom for m in marks)) + _ARROW + 8
    (x_col, x_head), (y, y_head) = (_lowered(*pair, below - top) for pair in ((x_col, x_head), (y, y_head)))
    maps, results = _place_maps(geometry, filters, Box(right, below, right, x_col.box.bottom))
    bottom = max(x_col.box.bottom, *(mark.panel.box.bottom for mark in maps)) + 16
    caption = label(MARGIN, bottom, captions.formulas(geometry, None, rows[-1], "hwc")[0], SMALL)
    labels = [title, *heads, x_head, w_head, y_head, *names, results]
    # The caption's second line is the product.
    parts = [caption.box.moved(0, caption.box.bottom + 4 - bottom), *(line.box for line in labels)]
    parts += [Box(*mark.name, mark.name[0] + _NAME_WIDTH, bottom) for mark in maps]
    parts += [mark.panel.box for mark in maps] + [box for mark in marks for box in mark.boxes]
    parts += [image.box, x_col.box, w_col.box, *(mark.tag.box for mark in patches)]
    shown = overview, image, patches, marks, maps, x_col, w_col, y
    words = tuple(labels if moving else [*labels, caption]), _arrows(image, names[0], y, below)
    note = MARGIN, caption.box.bottom + 4
    size = sheet_size(parts)
    return ProductPlan(flat, padding_mode, size, rows[-1], *shown, words[0], words[1], biased, note)


def _place_image(
    geometry: ConvGeometry, window: tuple[range, range], top: int
) -> tuple[Panel | None, Panel, list[Label]]:
    """The image, or a part of it below the whole, and what is written above them."""
    flat, overview = as_image(geometry), None
    labels = [label(MARGIN, top, captions.image(geometry, 0))]
    if window != padded_ranges(flat):
        side = OVERVIEW_SIDE * 2 // 3
        overview = place_panel(0, padded_ranges(flat), side, (MARGIN, labels[0].box.bottom + 4))
        labels.append(label(MARGIN, overview.box.bottom + 10, captions.excerpt(geometry, 0, window)))
    # As high as W_col beside it, within reason.
    side = min(max(_cell(flat.terms, flat.terms) * min(flat.terms, _LINES), _SIDE), _MATRIX_SIDE)
    return overview, place_panel(0, window, side, (MARGIN, labels[-1].box.bottom + 4)), labels


def _arrows(image: Panel, kernels: Label, y: Matrix, below: int) -> tuple[Arrow, ...]:
    """From the image down to X_col, from the filters to W_col, and from Y to the feature maps."""
    x, right = image.box.left + 40, kernels.box.left - 8
    beside = kernels.box.bottom + 44, y.box.top + 20
    return (
        ((x, below - _ARROW), (x, below - 6)),
        ((right, beside[0]), (right - _ARROW, beside[0])),
        ((right - _ARROW, beside[1]), (right, beside[1])),
    )


def _lowered(matrix: Matrix, head: Label, down: int) -> tuple[Matrix, Label]:
    """A matrix and its name so many pixels further down."""
    rows = tuple((row, at + down) for row, at in matrix.rows)
    return matrix._replace(rows=rows), head._replace(box=head.box.moved(0, down))


def _place_filters(
    geometry: ConvGeometry, filters: int, origin: tuple[int, int]
) -> tuple[tuple[FilterMark, ...], list[Label]]:
    """Filters one below the other, and beside each other where that is too high; what they are, and names."""
    shape = (filters, *geometry.kernel_size, geometry.channels // geometry.groups)
    names = [label(*origin, f"filters: {sizes(shape)}{_of(filters)}")]
    geometry = as_image(geometry)
    across, at = _, top = origin[0], names[0].box.bottom + 4
    name_height = text_size("0", SMALL)[1]
    cell = max(min(_FILTER_SIDE // max(geometry.kernel_size), _CELLS[1]), 1)
    kh, kw = (size * cell for size in geometry.kernel_size)
    depth = min(geometry.channels // geometry.groups, 3)
    height = depth * (kh + 4) + name_height
    marks = list[FilterMark]()
    for k in range(min(filters, FILTERS)):
        if k and at + height > top + max(_SIDE, height):
            at, across = top, across + max(kw, 40) + 24
        names.append(label(across, at, f"k = {k}", SMALL))
        tops = [at + name_height + c * (kh + 4) for c in range(depth)]
        marks.append(FilterMark(k, tuple(Box(across, y, across + kw, y + kh) for y in tops)))
        at += height + 10
    return tuple(marks), names


def _place_maps(geometry: ConvGeometry, filters: int, room: Box) -> tuple[tuple[MapMark, ...], Label]:
    """Feature maps in one line or two, as high as there is room, with their names; what they are."""
    head = label(*room[:2], f"Y as feature maps: {sizes((*geometry.output_size, filters))}{_of(filters)}")
    geometry, count = as_image(geometry), min(filters, FILTERS)
    left, at = across, deepest = room.left, head.box.bottom + 4
    columns = -(-count // 2) if count > 2 else count
    lines = -(-count // columns)
    side = min(max((room.bottom - at) // lines - 28, _SIDE // 2 - 12), _SIDE)
    window = range(geometry.output_size[0]), range(geometry.output_size[1])
    marks = list[MapMark]()
    for k in range(count):
        if k and k % columns == 0:
            across, at = left, deepest + 8
        panel = place_panel(0, window, side, (across, at + text_size("0", SMALL)[1] + 2))
        marks.append(MapMark(k, panel, (across, at)))
        across, deepest = max(panel.box.right, across + _NAME_WIDTH) + 16, max(deepest, panel.box.bottom)
    return tuple(marks), head


def _of(filters: int) -> str:
    return f", {FILTERS} shown" if filters > FILTERS else ""


def _place_matrices(
    geometry: ConvGeometry, filters: int, rows: Sequence[int], left: int, top: int
) -> Iterator[tuple[Matrix, Label]]:
    """X_col, and to the right of it and of `left` W_col and Y, each from `top` on, with its name."""
    group = geometry.groups
    every, terms, outputs = geometry.matrix_shape[0], geometry.terms, filters // group
    shown_terms, shown_outputs = _ends(terms, _LINES, 0), _ends(outputs, _COLUMNS, 0)
    cell = _cell(len(rows), len(shown_terms))
    of = ", group 0" if group > 1 else ""
    across = MARGIN
    for name, shape, down, columns in (
        ("X_col", (every, terms), rows, shown_terms),
        ("W_col", (terms, outputs), shown_terms, shown_outputs),
        ("Y", (every, outputs), rows, shown_outputs),
    ):
        head = label(across, top, f"{name}, {sizes(shape)}{of}")
        places = _spread(down, head.box.bottom + 4, cell), _spread(columns, across, cell)
        matrix = Matrix(name, shape, *places, cell)
        yield matrix, head
        if name == "X_col":
            across = max(left, head.box.right, matrix.box.right) + GAP


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
