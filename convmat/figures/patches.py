"""The picture of the index mapping: an image with its patches outlined, and the rows of X_col they become.

`plan_patches` decides what is shown and where each thing lies, as a frozen value that can be checked;
`convmat.figures.painting` paints what it says. A plan speaks of images of two axes: see `panels`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convmat.figures import captions
from convmat.figures.canvas import (
    GAP,
    HEAD,
    MARGIN,
    SMALL,
    Box,
    Colour,
    Label,
    centred,
    label,
    text_size,
)
from convmat.figures.outlines import PatchMark, coloured, outlines, reach
from convmat.figures.panels import (
    EXCERPT_SIDE,
    IMAGES,
    SIDES,
    Panel,
    as_image,
    choose_window,
    middle_patch,
    padded_ranges,
    place_panel,
    positions_inside,
)
from convmat.geometry import ConvGeometry, Place
from convmat.words import columns_text

_OVERVIEW_SIDE = 200
_OUTLINED = 20  # pixels from patch to patch, for all of them to be outlined
_ROWS = 48  # of X_col, shown when there are no more
_PLACES = 24  # rows that hold one pixel
_APART = 14  # pixels between the outlines of neighbours at least
_ARROW = 44
_MATRIX_WIDTH, _MATRIX_HEIGHT = 640, 560
_LARGEST_COLUMN = 34
_PITCHES = (16, 26)  # pixels from row to row of X_col, at least and at most
_BREAK = 20  # pixels of what is left out


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


class Rows(NamedTuple):
    """X_col as far as it is shown, and what is written around it."""

    marks: tuple[RowMark, ...]
    breaks: tuple[Box, ...]
    """Where rows are left out."""
    columns: tuple[tuple[int, int], ...]
    """(column of X_col, x in the drawing)."""
    column_width: int
    groups: tuple[Label, ...]
    """Over the columns: kernel row, or channel in the order chw; a line is drawn below each."""
    labels: tuple[Label, ...]
    bottom: int
    """Where a next row would begin."""

    @property
    def box(self) -> Box:
        """Where the rows lie."""
        left, right = self.columns[0][1], self.columns[-1][1] + self.column_width
        return Box(left, self.marks[0].top, right, self.marks[-1].bottom)

    @property
    def lines(self) -> list[Label]:
        """All that is written."""
        beside = [line for mark in self.marks for line in (mark.name, mark.patch) if line is not None]
        return [*self.labels, *self.groups, *beside]


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
    x_col: Rows
    labels: tuple[Label, ...]
    """Apart from those of X_col."""
    arrow: tuple[int, int, int]
    marked: tuple[Place, ...]
    """Elements to point at."""
    frames: tuple[PatchMark, ...]
    """Of an animation: the patches one after another."""
    note: tuple[int, int]
    """Where an animation writes how the row of its moment is found."""

    def cells(self, mark: RowMark) -> Iterator[Cell]:
        """The elements of a row that are shown."""
        for column, left in self.x_col.columns:
            place = self.geometry.place(mark.row, column, self.padding_mode, order=self.order)
            yield Cell(place, Box(left, mark.top, left + self.x_col.column_width, mark.bottom))


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
    flat = as_image(geometry)
    places = [flat.place(p.row, p.column, padding_mode, order=order) for p in places]
    window, scale = choose_window(flat, places, moving, focus)
    first = places[0].patch[0] if places else 0
    images = range(first, first + min(flat.batch, 1 if places or moving else IMAGES))
    labels = [label(MARGIN, MARGIN, captions.title(geometry, padding_mode), HEAD)]
    top = labels[0].box.bottom + 12
    overview, panels, notes = _stack(geometry, window, images, moving, top)
    rows, colours, frames = _choose(flat, panels, places, moving, scale)
    # To the right of the panels: an arrow, the rows' numbers, X_col, and the patches they are.
    start = max([*(panel.box.right for panel in panels), *(line.box.right for line in notes)]) + GAP
    x_col = _place_matrix(geometry, order, rows, colours, moving, (start + _ARROW + 16, top))
    bottom = max(panels[-1].box.bottom, x_col.bottom)
    example = frames[-1] if moving else sorted(colours)[(len(colours) - 1) // 2]
    texts = captions.formulas(geometry, places[0] if places else None, example, order)
    formulas = [label(MARGIN, bottom + 16 + 22 * index, text, SMALL) for index, text in enumerate(texts)]
    labels += notes
    patches = outlines(flat, panels, colours)
    boxes = [line.box for line in (*labels, *formulas, *x_col.lines)]
    boxes += [mark.tag.box for mark in patches] + [panel.box for panel in panels] + [x_col.box]
    width, height = max(box.right for box in boxes) + MARGIN, max(box.bottom for box in boxes) + MARGIN
    middle = (panels[0].box.top + panels[0].box.bottom) // 2
    return PatchPlan(
        geometry=flat,
        padding_mode=padding_mode,
        order=order,
        size=(width, height),
        overview=overview,
        panels=tuple(panels),
        patches=patches,
        x_col=x_col,
        labels=tuple(labels if moving else labels + formulas),
        arrow=(start, start + _ARROW, min(middle, height - MARGIN)),
        marked=tuple(places),
        frames=tuple(mark for row in frames for mark in outlines(flat, panels, coloured([row]))),
        note=formulas[0].box[:2],
    )


def _stack(
    geometry: ConvGeometry, window: tuple[range, range], images: Sequence[int], moving: bool, top: int
) -> tuple[Panel | None, list[Panel], list[Label]]:
    """One below the other: the whole of a single image, where only an excerpt is shown, and each image."""
    flat = as_image(geometry)
    whole, labels, overview = padded_ranges(flat), list[Label](), None
    excerpt = window != whole
    has_overview = excerpt and len(images) == 1 and flat is geometry
    if has_overview:
        labels.append(label(MARGIN, top, captions.image(geometry)))
        overview = place_panel(images[0], whole, _OVERVIEW_SIDE, (MARGIN, labels[-1].box.bottom + 4))
        top = overview.box.bottom + 16
    side = EXCERPT_SIDE if moving or has_overview else SIDES[len(images)]
    panels = []
    for n in images:
        text = captions.excerpt(geometry, n, window) if excerpt else captions.image(geometry, n)
        labels.append(label(MARGIN, top, text))
        panels.append(place_panel(n, window, side, (MARGIN, labels[-1].box.bottom + 4)))
        top = panels[-1].box.bottom + 16
    return overview, panels, labels


def _choose(
    geometry: ConvGeometry, panels: Sequence[Panel], places: Sequence[Place], moving: bool, scale: float
) -> tuple[list[int], dict[int, Colour], list[int]]:
    """Rows of X_col to show, the colours of those with an outline, and the moves of an animation."""
    if places:
        rows = sorted({place.row for place in places})[:_PLACES]
        # All that hold the pixel would hide each other, and it.
        few = rows if len(rows) <= 3 else [rows[0], rows[len(rows) // 2], rows[-1]]
        return rows, coloured(few), []
    if moving:
        inside = itertools.product([panels[0].image], *positions_inside(geometry, panels[0]))
        rows = [geometry.patch_row(position) for position in inside]
        return rows, {}, rows
    every = range(panels[0].image * geometry.patches, (panels[-1].image + 1) * geometry.patches)
    rows = list(every) if len(every) <= _ROWS else []
    # With dilation patches are outlined tap by tap, and few are enough.
    if rows and max(geometry.dilation) == 1 and min(s * scale for s in geometry.stride) >= _OUTLINED:
        return rows, coloured(rows), []
    picks = sorted(_examples(geometry, panels, scale))
    run = max(3, 15 // max(len(picks), 1))
    rows = rows or sorted({r for row in picks for r in range(row, min(row + run, every.stop))})
    return rows, coloured(picks), []


def _examples(geometry: ConvGeometry, panels: Sequence[Panel], scale: float) -> set[int]:
    """Rows of patches that stand for all: at corners, in the middle, and beside that; only what is shown."""
    panel = panels[0]
    last = [count - 1 for count in geometry.output_size]
    middle = [count // 2 for count in geometry.output_size]
    if (panel.ys, panel.xs) != padded_ranges(geometry):
        middle = middle_patch(geometry, panel)
    apart = [max(math.ceil(_APART / (s * scale)), 1) for s in geometry.stride]
    beside = [min(m + a, end) for m, a, end in zip(middle, apart, last, strict=True)]
    corner = [min(a, end) for a, end in zip(apart, last, strict=True)]
    about = [middle, [middle[0], beside[1]], [beside[0], middle[1]]]
    if max(geometry.dilation) > 1:
        wanted = [[0, 0], middle, last]
    else:
        wanted = about if len(panels) > 1 else [[0, 0], [0, corner[1]], [corner[0], 0], *about, last]
    rows = ((shown, geometry.patch_row((shown.image, *at))) for shown in panels for at in wanted)
    return {row for shown, row in rows if shown.shows(*reach(geometry, row))}


def _place_matrix(
    geometry: ConvGeometry,
    order: str,
    rows: Sequence[int],
    colours: dict[int, Colour],
    moving: bool,
    origin: tuple[int, int],
) -> Rows:
    """Rows of X_col to the right of `origin`, below their captions."""
    flat = as_image(geometry)
    number_width = max(text_size(str(row), SMALL)[0] for row in rows) + 10
    columns, width = _columns(flat, origin[0] + number_width + 6, moving)
    head = label(*origin, captions.matrix(flat, len(rows), len(columns)))
    text = f"columns over {columns_text(geometry, order)}"
    labels = [head, label(origin[0], head.box.bottom, text, SMALL)]
    top = labels[-1].box.bottom + 6
    groups = _groups(flat, order, columns, width, top)
    left, right = columns[0][1], columns[-1][1] + width
    body = top + text_size("0", SMALL)[1] + 8
    marks, breaks, bottom = _place_rows(geometry, rows, colours, Box(left, body, right, body), moving)
    if marks[0].patch is not None:
        labels.append(label(right + 10, top, f"patch ({captions.patch_names(geometry)})", SMALL))
    return Rows(tuple(marks), tuple(breaks), tuple(columns), width, tuple(groups), tuple(labels), bottom)


def _place_rows(
    geometry: ConvGeometry, rows: Sequence[int], colours: dict[int, Colour], start: Box, moving: bool
) -> tuple[list[RowMark], list[Box], int]:
    """The rows of X_col from `start` down, what is left out between them, and where they end."""
    left, top, right, _ = start
    flat = as_image(geometry)
    pitch = max(min(_MATRIX_HEIGHT // len(rows), _PITCHES[1]), 5 if moving else _PITCHES[0])
    gap = 2 if pitch >= 10 else 0
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
            text = captions.patch(geometry, flat.patch_position(row))
            patch = label(right + 10, top + (pitch - height) // 2, text, SMALL)
        marks.append(RowMark(row, top, top + pitch - gap, colours.get(row), name, patch))
        top += pitch
    return marks, breaks, top


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
    spans: list[tuple[int, int, int]] = []
    for key, group in itertools.groupby(columns, lambda c: geometry.kernel_tap(c[0], order)[axis]):
        lefts = [left for _, left in group]
        spans.append((key, lefts[0], lefts[-1] + width))
    if len({key for key, _, _ in spans}) == 1:
        return []
    room = min(right - left for _, left, right in spans)
    last = str(spans[-1][0])
    labels = []
    for key, left, right in spans:
        text = f"{name} = {key}" if text_size(f"{name} = {key}", SMALL)[0] <= room - 4 else str(key)
        if text_size(last, SMALL)[0] > room - 2:
            text = ""
        line = centred(Box(left, top, right, top + text_size("0", SMALL)[1]), text, SMALL)
        labels.append(Label(Box(left, line.box.top, right, line.box.bottom), text, SMALL))
    return labels
