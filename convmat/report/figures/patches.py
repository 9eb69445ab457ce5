"""The picture of the index mapping: an image with its patches outlined, and the rows of X_col they become.

`plan_patches` decides what is shown and where each thing lies, as a frozen value that can be checked;
`draw_patches` paints what it says. A plan speaks of images of two axes: one axis is an image one line high.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.axis import padding_source
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry, Place
from convmat.report.figures.canvas import (
    ACCENTS,
    BODY,
    GAP,
    HEAD,
    MARGIN,
    SMALL,
    Box,
    Colour,
    Label,
    Sheet,
    Theme,
    centred,
    contrast,
    label,
    number_text,
    text_size,
)
from convmat.shown import sizes
from convmat.words import (
    POSITION_NAMES,
    column_formula,
    columns_text,
    pads_text,
    pixel_formulas,
    row_formula,
)

IMAGES = 3
"""Images of a batch that are shown."""

_SIDES = {1: 504, 2: 320, 3: 224}  # pixels of a panel's longer side, by how many there are
_EXCERPT_SIDE, _OVERVIEW_SIDE = 400, 200
_LARGEST_CELL = 40
_THIN = 24  # pixels that the shorter side takes at least, even where that draws pixels oblong
_OUTLINED = 20  # pixels from patch to patch, for all of them to be outlined
_LEGIBLE = 30  # pixels that a kernel's extent takes at least
_PIXELS = 24  # of an excerpt's side at least; three extents, where those are more
_ROWS = 48  # of X_col, shown when there are no more
_PLACES = 24  # rows that hold one pixel
_APART = 14  # pixels between the outlines of neighbours at least
_MATRIX_WIDTH, _MATRIX_HEIGHT = 640, 560
_LARGEST_COLUMN, _NUMBERED = 34, 26  # pixels of a cell; from when on it has room for a number
_PITCHES = (16, 26)  # pixels from row to row of X_col, at least and at most
_GRIDDED = 10  # pixels of a cell from which on lines part it from the next
_BREAK = 20  # pixels of what is left out
_MOVES = 100  # patches of an animation


class Panel(NamedTuple):
    """A part of a padded image, drawn."""

    image: int
    ys: range
    """Lines, as input positions: below 0, or from H on, is padding."""
    xs: range
    cell: tuple[int, int]
    """Pixels of the drawing for each of the image, by axis."""
    reduce: tuple[int, int]
    """Pixels of the image in one of the drawing; one of the two is 1."""
    origin: tuple[int, int]
    """x and y in the drawing."""

    @property
    def box(self) -> Box:
        """The whole of it."""
        return self.box_of(self.ys.start, self.xs.start, self.ys.stop, self.xs.stop)

    def box_of(self, top: int, left: int, bottom: int, right: int) -> Box:
        """Where the pixels from (top, left) to before (bottom, right) lie."""

        def at(axis: int, position: int) -> int:
            start = (self.ys, self.xs)[axis].start
            return self.origin[1 - axis] + (position - start) * self.cell[axis] // self.reduce[axis]

        # However much is reduced, a pixel can be pointed at.
        x, y = at(1, left), at(0, top)
        return Box(x, y, max(at(1, right), x + 1), max(at(0, bottom), y + 1))

    def shows(self, ys: Sequence[int], xs: Sequence[int]) -> bool:
        """Whether these positions are within."""
        return ys[0] in self.ys and ys[-1] in self.ys and xs[0] in self.xs and xs[-1] in self.xs


class PatchMark(NamedTuple):
    """A patch outlined in a panel."""

    row: int
    """Of X_col: its number."""
    colour: Colour
    box: Box
    """All that its extent spans."""
    taps: tuple[Box, ...]
    """Where each of its taps reads, in the order i, j; left out where they fill the box, without dilation."""
    inset: int
    """Pixels that its lines are drawn within these boxes, so that they do not hide those of others."""
    tag: Label


class RowMark(NamedTuple):
    """A row of X_col that is shown."""

    row: int
    top: int
    bottom: int
    colour: Colour | None
    """That of its patch's outline."""
    name: Label | None
    patch: Label | None


class Cell(NamedTuple):
    """An element of X_col that is shown."""

    place: Place
    box: Box


@dataclass(frozen=True)
class PatchPlan:
    """What is drawn, and where."""

    geometry: ConvGeometry
    """Of two spatial axes."""
    padding_mode: str
    order: str
    size: tuple[int, int]
    """Width and height, in pixels."""
    overview: Panel | None
    panels: tuple[Panel, ...]
    patches: tuple[PatchMark, ...]
    rows: tuple[RowMark, ...]
    breaks: tuple[Box, ...]
    """Where rows are left out."""
    columns: tuple[tuple[int, int], ...]
    """(column of X_col, x in the drawing)."""
    column_width: int
    groups: tuple[Label, ...]
    """Over the columns: kernel row, or channel in the order chw; a line is drawn below each."""
    labels: tuple[Label, ...]
    arrow: tuple[int, int, int]
    marked: tuple[Place, ...]
    """Elements to point at."""
    frames: tuple[PatchMark, ...] = ()
    """Of an animation: the patches one after another."""
    note: tuple[int, int] = (0, 0)
    """Where an animation writes how the row of its moment is found."""

    @property
    def matrix(self) -> Box:
        """Where X_col lies."""
        left, right = self.columns[0][1], self.columns[-1][1] + self.column_width
        return Box(left, self.rows[0].top, right, self.rows[-1].bottom)

    def cells(self, mark: RowMark) -> Iterator[Cell]:
        """The elements of a row that are shown."""
        for column, left in self.columns:
            place = self.geometry.place(mark.row, column, self.padding_mode, order=self.order)
            yield Cell(place, Box(left, mark.top, left + self.column_width, mark.bottom))


def plan_patches(
    geometry: ConvGeometry,
    padding_mode: str = "zeros",
    order: str = "hwc",
    places: Sequence[Place] = (),
    moving: bool = False,
    focus: tuple[int, int] | None = None,
) -> PatchPlan:
    """Decide the picture of some patches and their rows of X_col.

    Args:
        geometry: of one or two spatial axes.
        padding_mode, order: as in `unroll`.
        places: elements to point at, instead of patches of the plan's own choice.
        moving: for an animation, whose patches are in `frames`.
        focus: (y, x), what an excerpt should show; by default the middle.

    Raises:
        GeometryError: three spatial axes, no image.
    """
    axes = len(geometry.kernel_size)
    flat = as_image(geometry)
    if places:
        places = [flat.place(p.row, p.column, padding_mode, order=order) for p in places]
    window, scale = choose_window(flat, places, moving, focus)
    count = min(flat.batch, 1 if places or moving else IMAGES)
    first = places[0].patch[0] if places else 0
    images = range(first, first + count)
    excerpt = window != padded_ranges(flat)
    side = _EXCERPT_SIDE if moving or (excerpt and count == 1 and axes == 2) else _SIDES[count]
    labels: list[Label] = [label(MARGIN, MARGIN, title_text(geometry, padding_mode), HEAD)]
    top = labels[0].box.bottom + 12
    overview, panels, notes = _stack(geometry, window, images, side, top)
    labels += notes

    rows, coloured, frames = _choose(flat, panels, places, moving, scale)
    # To the right of the panels: an arrow, the rows' numbers, X_col, and the patches they are.
    left_edge = max([*(p.box.right for p in panels), *(line.box.right for line in labels[1:])])
    number_width = max(text_size(str(row), SMALL)[0] for row in rows) + 10
    arrow_left = left_edge + GAP
    arrow = (arrow_left, arrow_left + 44, 0)
    matrix_left = arrow[1] + 16 + number_width + 6
    columns, column_width = _columns(flat, matrix_left, moving)
    matrix_right = columns[-1][1] + column_width
    head = label(arrow[1] + 16, labels[0].box.bottom + 12, _matrix_note(flat, rows), BODY)
    order_note = label(head.box.left, head.box.bottom, f"columns over {columns_text(geometry, order)}", SMALL)
    labels += [head, order_note]
    groups = _groups(flat, order, columns, column_width, order_note.box.bottom + 6)
    row_top = order_note.box.bottom + 6 + text_size("0", SMALL)[1] + 8
    across = matrix_left, matrix_right
    marks, breaks, row_bottom = _place_rows(geometry, flat, rows, coloured, across, row_top, moving)
    if marks[0].patch is not None:
        names = ("n", *POSITION_NAMES[axes])
        shown = names if flat.batch > 1 else names[1:]
        labels.append(
            label(matrix_right + 10, order_note.box.bottom + 6, f"patch ({', '.join(shown)})", SMALL)
        )
    bottom = max(panels[-1].box.bottom, row_bottom)
    example = sorted(coloured)[(len(coloured) - 1) // 2] if coloured else rows[len(rows) // 2]
    found = formulas(geometry, places[0] if places else None, frames[-1] if moving else example, order)
    formula = [label(MARGIN, bottom + 16 + 22 * index, line, SMALL) for index, line in enumerate(found)]
    if not moving:
        labels += formula
    patches = outlines(flat, panels, coloured)
    moves = tuple(mark for row in frames for mark in outlines(flat, panels, {row: ACCENTS[0]}))
    ends = [line.box for line in (*labels, *formula, *groups)]
    ends += [line.box for mark in marks for line in (mark.name, mark.patch) if line is not None]
    ends += [mark.tag.box for mark in patches] + [panel.box for panel in panels]
    width = max(*(box.right for box in ends), matrix_right) + MARGIN
    height = max(*(box.bottom for box in ends), bottom) + MARGIN
    arrow = (arrow[0], arrow[1], min((panels[0].box.top + panels[0].box.bottom) // 2, height - MARGIN))
    return PatchPlan(
        flat,
        padding_mode,
        order,
        (width, height),
        overview,
        tuple(panels),
        patches,
        tuple(marks),
        tuple(breaks),
        tuple(columns),
        column_width,
        tuple(groups),
        tuple(labels),
        arrow,
        tuple(places),
        moves,
        formula[0].box[:2],
    )


def _stack(
    geometry: ConvGeometry, window: tuple[range, range], images: Sequence[int], side: int, top: int
) -> tuple[Panel | None, list[Panel], list[Label]]:
    """One below the other: the whole of a single image, where only an excerpt is shown, and each image."""
    flat = as_image(geometry)
    whole, labels, overview = padded_ranges(flat), [], None
    if window != whole and len(images) == 1 and len(geometry.kernel_size) == 2:
        note = label(MARGIN, top, f"image {sizes(geometry.input_size)}", BODY)
        labels.append(note)
        overview = place_panel(images[0], whole, _OVERVIEW_SIDE, (MARGIN, note.box.bottom + 4))
        top = overview.box.bottom + 16
    panels = []
    for n in images:
        note = label(MARGIN, top, _panel_note(geometry, window, n, window != whole), BODY)
        labels.append(note)
        panels.append(place_panel(n, window, side, (MARGIN, note.box.bottom + 4)))
        top = panels[-1].box.bottom + 16
    return overview, panels, labels


def _place_rows(
    geometry: ConvGeometry,
    flat: ConvGeometry,
    rows: Sequence[int],
    coloured: dict[int, Colour],
    across: tuple[int, int],
    top: int,
    moving: bool,
) -> tuple[list[RowMark], list[Box], int]:
    """The rows of X_col from `top` down, what is left out between them, and where they end."""
    left, right = across
    pitch = max(min(_MATRIX_HEIGHT // len(rows), _PITCHES[1]), 5 if moving else _PITCHES[0])
    marks: list[RowMark] = []
    breaks: list[Box] = []
    for index, row in enumerate(rows):
        if index and row != rows[index - 1] + 1 and not moving:
            breaks.append(Box(left, top, right, top + _BREAK))
            top += _BREAK
        name = patch = None
        if pitch >= _PITCHES[0]:
            width, height = text_size(str(row), SMALL)
            # A plate no higher than the row, so that neighbours' plates stay apart.
            plate = Box(left - width - 14, top + 1, left - 6, top + pitch - 1)
            name = Label(plate, str(row), SMALL)
            position = ", ".join(map(str, _patch_name(geometry, flat.patch_position(row))))
            patch = label(right + 10, top + (pitch - height) // 2, position, SMALL)
        gap = 2 if pitch >= 10 else 0
        marks.append(RowMark(row, top, top + pitch - gap, coloured.get(row), name, patch))
        top += pitch
    return marks, breaks, top


def as_image(geometry: ConvGeometry, option: str = "figure") -> ConvGeometry:
    """The geometry as one of two axes, in which rows and columns of X_col are the same.

    Raises:
        GeometryError: three axes, which `option` does not show.
    """
    axes = len(geometry.kernel_size)
    if axes == 2:
        return geometry
    if axes != 1:
        raise GeometryError(option, f"shows images, of 1 or 2 spatial axes, got {axes}; leave it out")
    n, length, c = geometry.input_shape
    return ConvGeometry(
        (n, 1, length, c),
        (1, *geometry.kernel_size),
        (1, *geometry.stride),
        ((0, 0), *geometry.pads),
        (1, *geometry.dilation),
    )


def padded_ranges(geometry: ConvGeometry) -> tuple[range, range]:
    """The padded image."""
    ys, xs = (
        range(-before, size + after)
        for size, (before, after) in zip(geometry.input_size, geometry.pads, strict=True)
    )
    return ys, xs


def choose_window(
    geometry: ConvGeometry, places: Sequence[Place], moving: bool, focus: tuple[int, int] | None
) -> tuple[tuple[range, range], float]:
    """What of the padded image is shown: the whole, or else what lies about its middle, or about a place.

    Also how many pixels of the drawing one of the image has, about.
    """
    whole = padded_ranges(geometry)
    side = _SIDES[1 if places or moving else min(geometry.batch, IMAGES)]
    excerpt_side = min(_EXCERPT_SIDE, side)
    scale = min(side / max(map(len, whole)), _LARGEST_CELL)
    closer = min(excerpt_side / max(_PIXELS, 3 * max(geometry.extent)), _LARGEST_CELL)
    # One axis of a kernel may be a single pixel; the other has to be seen then.
    legible = max(geometry.extent) * scale >= _LEGIBLE or closer <= scale
    if legible and not places and (not moving or geometry.patches <= _MOVES):
        return whole, scale
    centre = focus or tuple(size // 2 for size in geometry.input_size)
    middle = places[0].position if places else centre
    ranges = []
    for all_of_it, at, reach, s, count in zip(
        whole, middle, geometry.extent, geometry.stride, geometry.output_size, strict=True
    ):
        length = max(_PIXELS // 2 if places else _PIXELS, 3 * reach)
        if moving:  # as many patches on each axis as make their number
            length = reach + s * (min(count, math.isqrt(_MOVES)) - 1)
        length = min(length, len(all_of_it))
        start = min(max(at - length // 2, all_of_it.start), all_of_it.stop - length)
        if moving:
            start -= (start - all_of_it.start) % s
        ranges.append(range(start, start + length))
    return (ranges[0], ranges[1]), min(excerpt_side / max(map(len, ranges)), _LARGEST_CELL)


def place_panel(image: int, window: tuple[range, range], side: int, origin: tuple[int, int]) -> Panel:
    """A window drawn so that its longer side takes at most `side` pixels, and its shorter can be seen."""
    longest = max(map(len, window))
    cell, reduce = max(min(side // longest, _LARGEST_CELL), 1), max(-(-longest // side), 1)
    thin = [len(positions) * cell // reduce < _THIN for positions in window]
    cells = [-(-_THIN // len(w)) if few else cell for w, few in zip(window, thin, strict=True)]
    reduces = [1 if few else reduce for few in thin]
    return Panel(image, *window, (cells[0], cells[1]), (reduces[0], reduces[1]), origin)


def _choose(
    geometry: ConvGeometry,
    panels: Sequence[Panel],
    places: Sequence[Place],
    moving: bool,
    scale: float,
) -> tuple[list[int], dict[int, Colour], list[int]]:
    """Rows of X_col to show, the colours of those with an outline, and the moves of an animation."""
    images = [panel.image for panel in panels]
    if places:
        rows = sorted({place.row for place in places})[:_PLACES]
        # All that hold the pixel would hide each other, and it.
        few = rows if len(rows) <= 3 else [rows[0], rows[len(rows) // 2], rows[-1]]
        return rows, _coloured(few), []
    if moving:
        inside = _rows_inside(geometry, panels[0])
        return inside, {}, inside
    apart = [max(math.ceil(_APART / (s * scale)), 1) for s in geometry.stride]
    stop = (images[-1] + 1) * geometry.patches
    every = range(images[0] * geometry.patches, stop)
    rows = list(every) if len(every) <= _ROWS else []
    dilated = max(geometry.dilation) > 1  # then patches are outlined tap by tap, and few are enough
    if rows and not dilated and min(s * scale for s in geometry.stride) >= _OUTLINED:
        return rows, _coloured(rows), []
    last = [count - 1 for count in geometry.output_size]
    middle = [count // 2 for count in geometry.output_size]
    if len(panels[0].ys) < geometry.input_size[0] or len(panels[0].xs) < geometry.input_size[1]:
        window = panels[0].ys, panels[0].xs
        middle = [
            min(max(((w.start + w.stop - reach) // 2 + before) // s, 0), end)
            for w, reach, (before, _), s, end in zip(
                window, geometry.extent, geometry.pads, geometry.stride, last, strict=True
            )
        ]
    beside = [min(m + a, end) for m, a, end in zip(middle, apart, last, strict=True)]
    corner = [min(a, end) for a, end in zip(apart, last, strict=True)]
    about = [middle, [middle[0], beside[1]], [beside[0], middle[1]]]
    if dilated:
        wanted = [[0, 0], middle, last]
    else:
        wanted = about if len(images) > 1 else [[0, 0], [0, corner[1]], [corner[0], 0], *about, last]
    found = [(n, geometry.patch_row((n, *position))) for n in images for position in wanted]
    picks = sorted({row for n, row in found if panels[images.index(n)].shows(*_reach(geometry, row))})
    run = max(3, 15 // max(len(picks), 1))
    rows = rows or sorted({r for row in picks for r in range(row, min(row + run, stop))})
    return rows, _coloured(picks), []


def _rows_inside(geometry: ConvGeometry, panel: Panel) -> list[int]:
    """Rows of an image whose patches a panel shows whole, in order."""
    positions = [
        [y for y in range(count) if y * s - before >= w.start and y * s - before + reach <= w.stop]
        for count, s, (before, _), reach, w in zip(
            geometry.output_size,
            geometry.stride,
            geometry.pads,
            geometry.extent,
            (panel.ys, panel.xs),
            strict=True,
        )
    ]
    return [geometry.patch_row((panel.image, *position)) for position in itertools.product(*positions)]


def _coloured(rows: Sequence[int]) -> dict[int, Colour]:
    return {row: ACCENTS[index % len(ACCENTS)] for index, row in enumerate(rows)}


def _reach(geometry: ConvGeometry, row: int) -> tuple[range, range]:
    """The positions that a patch spans."""
    first = geometry.place(row, 0).position
    ys, xs = (range(p, p + reach) for p, reach in zip(first, geometry.extent, strict=True))
    return ys, xs


def _columns(geometry: ConvGeometry, left: int, moving: bool) -> tuple[list[tuple[int, int]], int]:
    """The columns of X_col that are shown, with where they begin, and their width: all, or the ends."""
    count = geometry.matrix_shape[1]
    room = _MATRIX_WIDTH * 3 // 4 if moving else _MATRIX_WIDTH  # a picture that moves should be small
    width = max(min(room // count, _LARGEST_COLUMN), 1)
    if count <= _MATRIX_WIDTH:
        return [(column, left + column * width) for column in range(count)], width
    half = (_MATRIX_WIDTH - _BREAK) // 2
    ends = [*range(half), *range(count - half, count)]
    return [(c, left + i + (_BREAK if i >= half else 0)) for i, c in enumerate(ends)], width


def _groups(
    geometry: ConvGeometry, order: str, columns: Sequence[tuple[int, int]], width: int, top: int
) -> list[Label]:
    """Names of neighbouring columns: their kernel row i, or in the order chw their channel c."""
    axis, name = (0, "i") if order == "hwc" else (2, "c")
    if len({geometry.kernel_tap(column, order)[axis] for column, _ in columns}) == 1:
        return []
    spans: list[tuple[int, int, int]] = []
    for key, group in itertools.groupby(columns, lambda c: geometry.kernel_tap(c[0], order)[axis]):
        found = list(group)
        spans.append((key, found[0][1], found[-1][1] + width))
    named = []
    shortest = min(right - left for _, left, right in spans)
    for key, left, right in spans:
        text = f"{name} = {key}"
        if text_size(text, SMALL)[0] > shortest - 4:
            text = str(key)
        if text_size(str(spans[-1][0]), SMALL)[0] > shortest - 2:
            text = ""
        height = text_size("0", SMALL)[1]
        box = Box(left, top, right, top + height)
        line = centred(box, text, SMALL)
        named.append(Label(Box(left, line.box.top, right, line.box.bottom), text, SMALL))
    return named


def outlines(
    geometry: ConvGeometry, panels: Sequence[Panel], coloured: dict[int, Colour]
) -> tuple[PatchMark, ...]:
    """The outlines of patches in the panels that show them, each with a tag where it hides least."""
    marks: list[PatchMark] = []
    boxes = []
    for row, colour in coloured.items():
        n = geometry.patch_position(row)[0]
        for panel in panels:
            ys, xs = _reach(geometry, row)
            if panel.image == n and panel.shows(ys, xs):
                boxes.append((row, colour, panel, panel.box_of(ys[0], xs[0], ys[-1] + 1, xs[-1] + 1)))
    for row, colour, panel, box in boxes:
        taps = tuple(_tap_boxes(geometry, panel, row)) if max(geometry.dilation) > 1 else ()
        inset = _inset(box, min(min(panel.cell) // 3, 9), [m.box.grown(-m.inset) for m in marks])
        text = Label(box, str(row), SMALL)
        marks.append(PatchMark(row, colour, box, taps, inset, text))
    for index, (mark, (_, _, panel, _)) in enumerate(zip(marks, boxes, strict=True)):
        width, height = text_size(mark.tag.text, SMALL)
        tags = [m.tag.box for m in marks[:index]]
        edges = [e for m in marks if m is not mark for e in _edges(m.box.grown(-m.inset))]
        if min(panel.cell) >= _NUMBERED:  # the lines of numbers in the cells
            middles = [
                (panel.box_of(y, 0, y, 0).top + panel.box_of(y + 1, 0, y, 0).top) // 2 for y in panel.ys
            ]
            edges += [Box(panel.box.left, y - 6, panel.box.right, y + 6) for y in middles]
        tag = _tag_box(mark.box, (width + 8, height - 2), panel.box, tags, edges)
        marks[index] = mark._replace(tag=mark.tag._replace(box=tag))
    return tuple(marks)


def _inset(box: Box, most: int, others: Sequence[Box]) -> int:
    """How far within a box its outline hides the fewest pixels of other outlines."""

    def hidden(inset: int) -> int:
        return sum(
            mine.overlap(edge) for mine in _edges(box.grown(-inset)) for o in others for edge in _edges(o)
        )

    return min(range(0, most + 1, 4), key=hidden)


def _tap_boxes(geometry: ConvGeometry, panel: Panel, row: int) -> Iterator[Box]:
    for column in range(0, geometry.matrix_shape[1], geometry.channels):
        y, x = geometry.place(row, column).position
        yield panel.box_of(y, x, y + 1, x + 1)


def _edges(box: Box) -> Iterator[Box]:
    """The strips of pixels that an outline takes."""
    yield Box(box.left, box.top, box.right, box.top + 3)
    yield Box(box.left, box.bottom - 3, box.right, box.bottom)
    yield Box(box.left, box.top, box.left + 3, box.bottom)
    yield Box(box.right - 3, box.top, box.right, box.bottom)


def _tag_box(box: Box, size: tuple[int, int], panel: Box, tags: Sequence[Box], edges: Sequence[Box]) -> Box:
    """Where the number of a patch hides least: within its corners, else beside them."""
    w, h = size
    lefts = (box.left, box.right - w, (box.left + box.right - w) // 2, box.left - w, box.right)
    middle = (box.top + box.bottom - h) // 2
    tops = (box.top, box.bottom - h, middle, box.top - h, box.bottom, box.top - h // 2, box.bottom - h // 2)
    best, least = box, math.inf
    for (i, top), (j, left) in itertools.product(enumerate(tops), enumerate(lefts)):
        found = Box(left, top, left + w, top + h)
        hidden = 100 * sum(found.overlap(tag) for tag in tags) + sum(found.overlap(edge) for edge in edges)
        hidden += 10 * (w * h - found.overlap(panel)) + (i + j) + (20 if max(i, j) >= 3 else 0)
        if hidden < least:
            best, least = found, hidden
    return best


def title_text(geometry: ConvGeometry, padding_mode: str) -> str:
    """Kernel and stride, and what else is not as usual."""
    parts = [f"kernel {sizes(geometry.kernel_size)}", f"stride {sizes(geometry.stride)}"]
    if max(geometry.dilation) > 1:
        parts.append(f"dilation {sizes(geometry.dilation)}")
    if any(map(any, geometry.pads)):
        parts.append("padding " + pads_text(geometry, padding_mode))
    return ", ".join(parts)


def _panel_note(geometry: ConvGeometry, window: tuple[range, range], n: int, excerpt: bool) -> str:
    ys, xs = window
    of = f"{n} of {geometry.batch}, " if geometry.batch > 1 else ""
    if excerpt:
        return f"{of}excerpt: lines {ys[0]}..{ys[-1]}, columns {xs[0]}..{xs[-1]}"
    return f"image {of}{sizes(geometry.input_size)}"


def _matrix_note(geometry: ConvGeometry, rows: Sequence[int]) -> str:
    total, columns = geometry.matrix_shape
    part = f": {len(rows)} of the {total} rows" if len(rows) < total else ""
    if columns > _MATRIX_WIDTH:
        part += (" and" if part else ":") + f" {_MATRIX_WIDTH - _BREAK} of the columns"
    return f"X_col, {total} × {columns}{part}"


def _patch_name(geometry: ConvGeometry, patch: Sequence[int]) -> Sequence[int]:
    """A patch as a reader of the geometry knows it: without the axis that was added, and n where it says."""
    position = patch[-len(geometry.kernel_size) :]
    return (patch[0], *position) if geometry.batch > 1 else position


def formulas(geometry: ConvGeometry, place: Place | None, row: int, order: str) -> list[str]:
    """Eq. 8 with the numbers of a place filled in, or of the first element of a row."""
    shown = geometry.place(row, 0) if place is None else geometry.place(place.row, place.column, order=order)
    lines = [f"row {row_formula(geometry, shown.row)}"]
    pixel = ", ".join(pixel_formulas(geometry, shown))
    if place is None:
        return [f"{lines[0]}: its patch begins at pixel {pixel}"]
    return [f"{lines[0]},  column {column_formula(geometry, shown.column, order)}", f"pixel {pixel}"]


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
    for mark in plan.rows:
        draw_row(sheet, plan, mark, pixels, values)
    for patch in plan.patches:
        draw_outline(sheet, plan.geometry, patch)
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
    for line in plan.labels:
        sheet.write(line)
    for line in plan.groups:
        sheet.write(centred(line.box, line.text, line.size))
        sheet.segment(line.box.left + 1, line.box.right - 1, line.box.bottom + 2)
    for index, panel in enumerate(plan.panels):
        shown = None if pixels is None else pixels[index]
        paint_panel(
            sheet,
            plan.geometry,
            plan.padding_mode,
            panel,
            shown,
            None if values is None else values[index],
        )
    if plan.overview is not None:
        first = None if pixels is None else pixels[0]
        paint_panel(sheet, plan.geometry, plan.padding_mode, plan.overview, first, None)
        window = plan.panels[0]
        frame = plan.overview.box_of(window.ys.start, window.xs.start, window.ys.stop, window.xs.stop)
        sheet.outline(frame.grown(2), theme.highlight, 2, halo=True)
        sheet.outline(window.box.grown(3), theme.highlight, 2)
    for gap in plan.breaks:
        sheet.dots(gap, upright=True)
    sheet.arrow(*plan.arrow)
    return sheet


def paint_panel(
    sheet: Sheet,
    geometry: ConvGeometry,
    padding_mode: str,
    panel: Panel,
    image: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
) -> None:
    """Paint what a panel shows of an image, (H, W, C), padding hatched or, where it holds pixels, faded."""
    h, w = geometry.input_size
    ys = range(max(panel.ys.start, 0), min(panel.ys.stop, h))
    xs = range(max(panel.xs.start, 0), min(panel.xs.stop, w))
    sheet.hatch(panel.box)
    if padding_mode != "zeros" and image is not None and max(panel.reduce) == 1:
        lines = padding_source(np.arange(panel.ys.start, panel.ys.stop), h, padding_mode)
        across = padding_source(np.arange(panel.xs.start, panel.xs.stop), w, padding_mode)
        sheet.cells(panel.box, faded(as_colours(image[np.ix_(lines, across)]), sheet.theme))
    if ys and xs:
        box = panel.box_of(ys.start, xs.start, ys.stop, xs.stop)
        if image is None:
            sheet.fill(box, sheet.theme.paper)
        else:
            # Reduced by picking: a mean would show colours that are in no pixel.
            steps = panel.reduce
            part = image[ys.start : ys.stop : steps[0], xs.start : xs.stop : steps[1]]
            sheet.cells(box, as_colours(part))
    if min(panel.cell) >= _GRIDDED:
        sheet.lines(
            [panel.box_of(0, x, 0, x).left for x in range(panel.xs.start, panel.xs.stop + 1)],
            [panel.box_of(y, 0, y, 0).top for y in range(panel.ys.start, panel.ys.stop + 1)],
        )
    else:
        sheet.outline(panel.box.grown(1), sheet.theme.line)
    if values is not None and image is not None and min(panel.cell) >= _NUMBERED:
        found = [(y, x, number_text(values[y, x, 0])) for y in ys for x in xs]
        if geometry.channels == 1 and fits([t for *_, t in found], panel.cell[1]):
            for y, x, text in found:
                colour = contrast(as_colours(image[y : y + 1, x : x + 1])[0, 0])
                sheet.write(centred(panel.box_of(y, x, y + 1, x + 1), text, SMALL, colour))


def fits(texts: Sequence[str], width: int) -> bool:
    """Whether each text has room in a cell."""
    return max((text_size(text, SMALL)[0] for text in texts), default=0) <= width - 4


def as_colours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (h, w, C) as (h, w, 3): three or four channels as RGB, of others the first as gray."""
    if pixels.shape[-1] in (3, 4):
        return pixels[..., :3]
    return pixels[..., :1].repeat(3, -1)


def faded(colours: NDArray[np.uint8], theme: Theme) -> NDArray[np.uint8]:
    """Colours half way to those of padding."""
    return ((colours.astype(np.uint16) + np.array(theme.padding, np.uint16)) // 2).astype(np.uint8)


def draw_row(
    sheet: Sheet,
    plan: PatchPlan,
    mark: RowMark,
    pixels: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
) -> None:
    """Paint a row of X_col: the elements it has of the image, each channel in its own colour."""
    first = plan.panels[0].image
    channels = plan.geometry.channels
    texts = []
    for place, box in plan.cells(mark):
        if place.element is None:
            sheet.hatch(box)
            text, colour = "0", sheet.theme.ink
        elif pixels is None:
            sheet.fill(box, sheet.theme.paper)
            continue
        else:
            n, y, x, c = place.element
            found = np.zeros((1, 1, 3), np.uint8)
            if channels in (3, 4) and c < 3:
                found[..., c] = pixels[n - first, y, x, c]
            else:
                found[...] = pixels[n - first, y, x, c]
            shade = faded(found, sheet.theme) if place.in_padding else found
            sheet.fill(box, (int(shade[0, 0, 0]), int(shade[0, 0, 1]), int(shade[0, 0, 2])))
            text, colour = "", contrast(shade[0, 0])
            if values is not None:
                text = number_text(values[n - first, y, x, c])
        texts.append((box, text, colour))
    roomy = plan.column_width >= _NUMBERED and mark.bottom - mark.top >= 18
    if roomy and fits([text for _, text, _ in texts], plan.column_width):
        for box, text, colour in texts:
            sheet.write(centred(box, text, SMALL, colour))
    if plan.column_width >= _GRIDDED:
        sheet.lines([left for _, left in plan.columns], [mark.top, mark.bottom - 1])
    for line in plan.groups[1:]:
        sheet.fill(Box(line.box.left - 1, mark.top, line.box.left + 2, mark.bottom), sheet.theme.paper)
    if plan.geometry.matrix_shape[1] > len(plan.columns):
        half = len(plan.columns) // 2
        gap = Box(plan.columns[half - 1][1] + 1, mark.top, plan.columns[half][1], mark.bottom)
        sheet.dots(gap, upright=False)
    sheet.outline(Box(plan.matrix.left, mark.top, plan.matrix.right, mark.bottom), sheet.theme.line)
    if mark.name is not None:
        if mark.colour is None:
            sheet.write(centred(mark.name.box, mark.name.text, mark.name.size))
        else:
            sheet.tag(mark.name, mark.colour)
    if mark.patch is not None:
        sheet.write(mark.patch)


def draw_outline(sheet: Sheet, geometry: ConvGeometry, patch: PatchMark) -> None:
    """Outline a patch; with dilation each of its taps."""
    if max(geometry.dilation) == 1:
        sheet.outline(patch.box.grown(-patch.inset), patch.colour, 3, halo=True)
        return
    sheet.outline(patch.box.grown(-patch.inset), patch.colour, 1)
    for tap in patch.taps:
        width = 3 if tap.right - tap.left >= 12 else 1
        sheet.outline(tap.grown(-patch.inset) if width > 1 else tap, patch.colour, width, halo=width > 1)


def busiest(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """The middle of the part of an image, (H, W, C), where its pixels differ most: (y, x)."""
    gray = pixels[::2, ::2].mean(-1, dtype=np.float32)
    side = _PIXELS // 8
    h, w = gray.shape[0] // side, gray.shape[1] // side
    if not h or not w:
        return pixels.shape[0] // 2, pixels.shape[1] // 2
    parts = gray[: h * side, : w * side].reshape(h, side, w, side)
    y, x = divmod(int(parts.var((1, 3)).argmax()), w)
    return (2 * y + 1) * side, (2 * x + 1) * side


def _point_at(sheet: Sheet, plan: PatchPlan, place: Place) -> None:
    colour = sheet.theme.highlight
    for panel in plan.panels:
        y, x = place.position
        if panel.image == place.patch[0] and panel.shows([y], [x]):
            sheet.outline(panel.box_of(y, x, y + 1, x + 1).grown(1), colour, 3, halo=True)
    left = dict(plan.columns).get(place.column)
    for mark in plan.rows:
        if mark.row == place.row and left is not None:
            sheet.outline(Box(left, mark.top, left + plan.column_width, mark.bottom), colour, 3, halo=True)
