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
    sheet_size,
    text_size,
)
from convmat.figures.outlines import PatchMark, coloured, outlines, reach, told_apart
from convmat.figures.panels import (
    EXCERPT_SIDE,
    IMAGES,
    MIDDLE,
    MOVES,
    OVERVIEW_SIDE,
    SIDES,
    About,
    Panel,
    as_image,
    choose_window,
    middle_patch,
    padded_ranges,
    place_panel,
    positions_inside,
    rows_inside,
)
from convmat.geometry import ConvGeometry, Place
from convmat.words import columns_text

_OUTLINED = 20  # pixels from patch to patch, for all of them to be outlined
_ROWS = 48  # of X_col, shown when there are no more
_PLACES = 24  # rows that hold one pixel
_APART = 14  # pixels between the outlines of neighbours at least
_ARROW = 44
_MATRIX_WIDTH, _MATRIX_HEIGHT = 640, 560
_LARGEST_COLUMN = 34
_PITCHES = (16, 26)  # pixels from row to row of X_col, at least and at most
_MAPPED, _MAP_WIDTH = 18, 60  # pixels from row to row for maps of their patches; of a map's width at most
_SEEN = 3  # pixels of a patch in a map at least
_FLAT = 100  # pixels of a panel's height up to which the maps of the patches are below it
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
    map: tuple[Box, Box] | None
    """The padded image, small, and the patch in it."""


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
    def spans(self) -> list[tuple[int, int]]:
        """The pixels of each column."""
        return [(left, left + self.column_width) for _, left in self.columns]

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
    overviews: tuple[Panel, ...]
    """The whole of each image of which an excerpt is shown."""
    panels: tuple[Panel, ...]
    patches: tuple[PatchMark, ...]
    x_col: Rows
    labels: tuple[Label, ...]
    """Apart from those of X_col."""
    arrow: tuple[tuple[int, int], tuple[int, int]]
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
    about: About = MIDDLE,
    folding: Sequence[str] = (),
    name: str = "X_col",
) -> PatchPlan:
    """Decide the picture of some patches and their rows of X_col.

    Args:
        geometry: of one or two spatial axes.
        padding_mode, order: as in `unroll`.
        places: elements to point at, instead of patches of the plan's own choice.
        moving: for an animation, whose patches are in `frames`.
        about: what the excerpt and the caption are about.
        folding: for the way back, from X_col to the image: what is written instead of Eq. 8.
        name: of the matrix.

    Raises:
        GeometryError: three spatial axes, no image.
    """
    flat = as_image(geometry)
    places = [flat.place(p.row, p.column, padding_mode, order=order) for p in places]
    window, scale = choose_window(flat, places, MOVES if moving else 0, about.focus)
    first = places[0].patch[0] if places else 0
    images = range(first, first + min(flat.batch, 1 if places or moving else IMAGES))
    labels = [label(MARGIN, MARGIN, captions.title(geometry, padding_mode), HEAD)]
    top = labels[0].box.bottom + 12
    overviews, panels, notes = _stack(geometry, window, images, moving, top)
    room = max((panels[-1].box.bottom - top) // _PITCHES[1], 12)
    example = middle_patch(flat, panels[0], about)
    rows, colours, plain, frames = _choose(flat, panels, places, moving, scale, example, room, bool(folding))
    # To the right of the panels: an arrow, the rows' numbers, X_col, and the patches they are.
    start = max(box.right for box in (*(p.box for p in panels), *(line.box for line in notes))) + GAP
    at = start + _ARROW + 16, top
    x_col = _place_matrix(geometry, name, order, rows, colours, moving, at, panels)
    if len(overviews) == 1 and not moving:
        overviews, panels, notes = _beside(overviews, panels, notes, x_col, top)
    if not places:
        example = frames[-1] if moving else next(iter(colours), example)
    texts = folding or captions.formulas(geometry, places[0] if places else None, example, order)
    drawn = [x_col.box, *(panel.box for panel in (*panels, *overviews))]
    bottom = max(x_col.bottom, *(box.bottom for box in drawn)) + 16
    formulas = [label(MARGIN, bottom + 22 * index, text, SMALL) for index, text in enumerate(texts)]
    patches = outlines(flat, panels, colours, plain)
    drawn += [line.box for line in (*labels, *notes, *formulas, *x_col.lines)]
    drawn += [mark.map[0] for mark in x_col.marks if mark.map] + [mark.tag.box for mark in patches]
    arrow = start, min((panels[0].box.top + panels[0].box.bottom) // 2, x_col.box.bottom)
    what = flat, padding_mode, order, sheet_size(drawn)
    shown = tuple(overviews), tuple(panels), patches, x_col
    written = (*labels, *notes, *(() if moving else formulas))
    moves = tuple(mark for row in frames for mark in outlines(flat, panels, coloured([row])))
    way = _arrow(*arrow, bool(folding))
    return PatchPlan(*what, *shown, written, way, tuple(places), moves, formulas[0].box[:2])


def _arrow(left: int, y: int, back: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """From the image to X_col, or back."""
    ends = (left, y), (left + _ARROW, y)
    return ends[::-1] if back else ends


def _stack(
    geometry: ConvGeometry, window: tuple[range, range], images: Sequence[int], moving: bool, top: int
) -> tuple[list[Panel], list[Panel], list[Label]]:
    """One below the other, each image: where only an excerpt is shown, below the whole of it."""
    flat = as_image(geometry)
    whole, labels = padded_ranges(flat), list[Label]()
    excerpt = window != whole
    overviews, panels = list[Panel](), list[Panel]()
    side = EXCERPT_SIDE if len(images) == 1 and (moving or excerpt) else SIDES[len(images)]
    for n in images:
        if excerpt:
            labels.append(label(MARGIN, top, captions.image(geometry, n)))
            at = (MARGIN, labels[-1].box.bottom + 4)
            overviews.append(place_panel(n, whole, OVERVIEW_SIDE // len(images), at))
            top = overviews[-1].box.bottom + 12
        text = captions.excerpt(geometry, n, window) if excerpt else captions.image(geometry, n)
        labels.append(label(MARGIN, top, text))
        panels.append(place_panel(n, window, side, (MARGIN, labels[-1].box.bottom + 4)))
        top = panels[-1].box.bottom + 16
    return overviews, panels, labels


def _beside(
    overviews: list[Panel], panels: list[Panel], notes: list[Label], x_col: Rows, top: int
) -> tuple[list[Panel], list[Panel], list[Label]]:
    """The whole of an image below X_col, and its excerpt where that was, if the drawing is less high then."""
    [overview], [panel], [of_whole, of_part] = overviews, panels, notes
    up, height = of_part.box.top - top, overview.box.bottom - of_whole.box.top
    if max(panel.box.bottom - up, x_col.bottom + 16 + height) >= max(panel.box.bottom, x_col.bottom):
        return overviews, panels, notes
    left, down = x_col.box.left, x_col.bottom + 16 - of_whole.box.top
    whole = of_whole._replace(box=of_whole.box.moved(left - MARGIN, down))
    part = of_part._replace(box=of_part.box.moved(0, -up))
    x, y = overview.origin
    overview = overview._replace(origin=(x + left - MARGIN, y + down))
    panel = panel._replace(origin=(panel.origin[0], panel.origin[1] - up))
    return [overview], [panel], [whole, part]


def _choose(
    geometry: ConvGeometry,
    panels: Sequence[Panel],
    places: Sequence[Place],
    moving: bool,
    scale: float,
    example: int,
    room: int,
    folding: bool,
) -> tuple[list[int], dict[int, Colour], list[int], list[int]]:
    """Rows of X_col to show, the colours of those with an outline, thin ones, and an animation's moves."""
    every = range(panels[0].image * geometry.patches, (panels[-1].image + 1) * geometry.patches)
    if places:
        rows = sorted({place.row for place in places})
        colours = coloured(told_apart(geometry, panels, [rows[0], rows[-1], rows[len(rows) // 2], *rows]))
        return (list(every) if folding and len(every) <= _PLACES else rows[:_PLACES]), colours, [], []
    if moving:
        rows = rows_inside(geometry, panels[0])
        return rows, {}, [], rows
    rows = list(every) if len(every) <= _ROWS else []
    steps = zip(geometry.stride, geometry.extent, strict=True)
    plain = rows if all(s >= extent and s * scale >= _OUTLINED for s, extent in steps) else []
    chosen = told_apart(geometry, panels, _wanted(geometry, panels[0], example, scale, bool(plain)))
    run = max(3, room // max(len(chosen), 1))
    rows = rows or sorted({r for row in chosen for r in range(row, min(row + run, every.stop))})
    return rows, coloured(chosen), plain, []


def _wanted(geometry: ConvGeometry, panel: Panel, example: int, scale: float, parted: bool) -> Iterator[int]:
    """Rows of patches that stand for all: the example, those at the corners, and those beside it.

    The last come first in an excerpt, and where patches are `parted` and hide nothing of each other.
    """
    yield example
    _, y, x = geometry.patch_position(example)
    down, across = (max(math.ceil(_APART / (s * scale)), 1) for s in geometry.stride)
    inside = positions_inside(geometry, panel)
    beside = [(y, x + across), (y + down, x + across), (y - down, x - across), (y + down, x)]
    corners = [
        (ends[0], ends[1]) for ends in zip(*((places[0], places[-1]) for places in inside), strict=True)
    ]
    near = parted or (panel.ys, panel.xs) != padded_ranges(geometry)
    for at in (*beside, *corners) if near else (*corners, *beside):
        if all(position in places for position, places in zip(at, inside, strict=True)):
            yield geometry.patch_row((panel.image, *at))


def _place_matrix(
    geometry: ConvGeometry,
    name: str,
    order: str,
    rows: Sequence[int],
    colours: dict[int, Colour],
    moving: bool,
    origin: tuple[int, int],
    panels: Sequence[Panel],
) -> Rows:
    """Rows of X_col to the right of `origin`, below its captions; maps of patches below a flat one."""
    beside = panels[0].box if len(panels) == 1 and panels[0].box.bottom - origin[1] < _FLAT else None
    flat = as_image(geometry)
    number_width = max(text_size(str(row), SMALL)[0] for row in rows) + 10
    columns, width = _columns(flat, origin[0] + number_width + 6, moving)
    head = label(*origin, captions.matrix(flat, name, len(rows), len(columns)))
    text = f"columns over {columns_text(geometry, order)}"
    labels = [head, label(origin[0], head.box.bottom, text, SMALL)]
    top = labels[-1].box.bottom + 6
    groups = _groups(flat, order, columns, width, top)
    left, right = columns[0][1], columns[-1][1] + width
    body = max(top + text_size("0", SMALL)[1] + 8, beside.bottom + 12 if beside else 0)
    start = Box(left, body, right, body)
    marks, breaks, bottom = _place_rows(geometry, rows, colours, start, moving, beside)
    if marks[0].patch is not None:
        labels.append(label(right + 10, body - text_size("0", SMALL)[1] - 8, _patches_head(geometry), SMALL))
    return Rows(tuple(marks), tuple(breaks), tuple(columns), width, tuple(groups), tuple(labels), bottom)


def _place_rows(
    geometry: ConvGeometry,
    rows: Sequence[int],
    colours: dict[int, Colour],
    start: Box,
    moving: bool,
    beside: Box | None,
) -> tuple[list[RowMark], list[Box], int]:
    """The rows of X_col from `start` down, what is left out between them, and where they end."""
    left, top, right, _ = start
    flat = as_image(geometry)
    pitch = max(min(_MATRIX_HEIGHT // len(rows), _PITCHES[1]), 5 if moving else _PITCHES[0])
    gap = 2 if pitch >= 10 else 0
    marks, breaks = list[RowMark](), list[Box]()
    texts = [captions.patch(geometry, flat.patch_position(row)) for row in rows]
    after = right + 10 + max(text_size(text, SMALL)[0] for text in texts) + 12
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if index and row != rows[index - 1] + 1 and not moving:
            breaks.append(Box(left, top, right, top + _BREAK))
            top += _BREAK
        name = patch = small = None
        if pitch >= _PITCHES[0]:
            width, height = text_size(str(row), SMALL)
            # A plate no higher than the row, so that neighbours' plates stay apart.
            plate = Box(left - width - 14, top + 1, left - 6, top + pitch - 1)
            name = Label(plate, str(row), SMALL)
            patch = label(right + 10, top + (pitch - height) // 2, text, SMALL)
        if not moving and pitch >= _MAPPED:
            small = _map(flat, row, beside, Box(after, top, after, top + pitch - gap))
        marks.append(RowMark(row, top, top + pitch - gap, colours.get(row), name, patch, small))
        top += pitch
    return marks, breaks, top


def _patches_head(geometry: ConvGeometry) -> str:
    return f"patch ({captions.patch_names(geometry)})"


def _map(geometry: ConvGeometry, row: int, beside: Box | None, start: Box) -> tuple[Box, Box] | None:
    """A padded image as high as `start`, or as wide as `beside`, and a patch of it; None if too small."""
    whole = padded_ranges(geometry)
    h, w = map(len, whole)
    height = start.bottom - start.top
    frame = Box(
        start.left, start.top, start.left + min(max(round(height * w / h), 8), _MAP_WIDTH), start.bottom
    )
    if beside is not None:
        frame = Box(beside.left, start.top + 4, beside.right, start.bottom - 4)
    sides = []
    spans = zip(
        reach(geometry, row), whole, ((frame.top, frame.bottom), (frame.left, frame.right)), strict=True
    )
    for span, positions, (first, last) in spans:
        size = (last - first) / len(positions)
        if len(span) * size < _SEEN:
            return None
        begin = first + round((span.start - positions.start) * size)
        sides.append((begin, first + round((span.stop - positions.start) * size)))
    (top, bottom), (left, right) = sides
    return frame, Box(left, top, right, bottom)


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
