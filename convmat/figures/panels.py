"""Parts of padded images, drawn: which part is shown, how large, and with what numbers.

Geometries are of images of two axes here: one axis is an image one line high.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.axis import padding_source
from convmat.errors import GeometryError
from convmat.figures.canvas import Box, Sheet, as_colours, faded, number_text
from convmat.figures.cells import GRIDDED, Faces, paint_cells, position_of
from convmat.geometry import ConvGeometry, Place

IMAGES = 3
"""Images of a batch that are shown."""

SIDES = {1: 504, 2: 320, 3: 224}
"""Pixels of a panel's longer side, by how many panels there are."""

EXCERPT_SIDE, OVERVIEW_SIDE = 400, 200
"""Of an excerpt's longer side, and of the whole beside it."""

MOVES = 100
"""Patches of an animation."""

_LARGEST_CELL = 40
_THIN = 36  # pixels that the shorter side takes at least, even where that draws pixels oblong
_LEGIBLE = 30  # pixels that a kernel's extent takes at least
_TRIED = 40  # positions along an axis among which a patch that is not blank is looked for
_PIXELS = 24  # of an excerpt's side at least; three extents, where those are more


class About(NamedTuple):
    """What of an image a picture is about."""

    focus: tuple[int, int] | None = None
    """(y, x), what an excerpt shows; by default the middle."""
    at: tuple[int, int] | None = None
    """(y, x), near which a patch is explained; by default the middle of what is shown."""
    blank: Callable[[int], bool] | None = None
    """Whether a row's patch has nothing to see, and another is rather explained."""


MIDDLE = About()
"""Of a picture that is about nothing else."""


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
        return self.box_of(self.ys, self.xs)

    def box_of(self, ys: range, xs: range) -> Box:
        """Where these pixels lie."""
        x, y = self.at(1, xs.start), self.at(0, ys.start)
        # However much is reduced, a pixel can be pointed at.
        return Box(x, y, max(self.at(1, xs.stop), x + 1), max(self.at(0, ys.stop), y + 1))

    def pixel(self, y: int, x: int) -> Box:
        """Where a pixel lies."""
        return self.box_of(range(y, y + 1), range(x, x + 1))

    def at(self, axis: int, position: int) -> int:
        """Where in the drawing a line begins (axis 0), or a column."""
        start = (self.ys, self.xs)[axis].start
        return self.origin[1 - axis] + (position - start) * self.cell[axis] // self.reduce[axis]

    def shows(self, ys: Sequence[int], xs: Sequence[int]) -> bool:
        """Whether these positions are within."""
        return ys[0] in self.ys and ys[-1] in self.ys and xs[0] in self.xs and xs[-1] in self.xs


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
        geometry.groups,
    )


def padded_ranges(geometry: ConvGeometry) -> tuple[range, range]:
    """The padded image."""
    ys, xs = (
        range(-before, size + after)
        for size, (before, after) in zip(geometry.input_size, geometry.pads, strict=True)
    )
    return ys, xs


def choose_window(
    geometry: ConvGeometry,
    places: Sequence[Place],
    moves: int,
    focus: tuple[int, int] | None,
    side: int | None = None,
) -> tuple[tuple[range, range], float]:
    """What of the padded image is shown: the whole, or else what lies about its middle, or about a place.

    Of an animation as much as its `moves` need. Also how many pixels of the drawing one of the image has.
    """
    whole = padded_ranges(geometry)
    side = side or SIDES[1 if places or moves else min(geometry.batch, IMAGES)]
    excerpt_side = min(EXCERPT_SIDE, side)
    scale = min(side / max(map(len, whole)), _LARGEST_CELL)
    closer = min(excerpt_side / max(_PIXELS, 3 * max(geometry.extent)), _LARGEST_CELL)
    # One axis of a kernel may be a single pixel; the other has to be seen then.
    legible = max(geometry.extent) * scale >= _LEGIBLE or closer <= scale
    if legible and not places and (not moves or geometry.patches <= moves):
        return whole, scale
    centre = focus or tuple(size // 2 for size in geometry.input_size)
    middle = places[0].position if places else centre
    ranges = []
    for at, (padded, reach, before, s, count) in zip(middle, _axes(geometry, whole), strict=True):
        length = max(_PIXELS // 2 if places else _PIXELS, 3 * reach)
        if moves:  # as many patches on each axis as make their number
            length = reach + s * (min(count, math.isqrt(moves)) - 1)
        length = min(length, len(padded))
        start = min(max(at - length // 2, padded.start), padded.stop - length)
        if moves:
            start -= (start - padded.start) % s
        elif not places:  # of strides longer than the window a patch has to be in it, too
            corner = _nearest(range(start, start + length), reach, before, s, count) * s - before
            start = min(max(start, corner + reach - length), corner)
        ranges.append(range(start, start + length))
    return (ranges[0], ranges[1]), min(excerpt_side / max(map(len, ranges)), _LARGEST_CELL)


def _axes(geometry: ConvGeometry, window: tuple[range, range]) -> Iterator[tuple[range, int, int, int, int]]:
    """Of each axis: what is shown of it, the kernel's extent, the padding before, the stride, the output."""
    before = (pair[0] for pair in geometry.pads)
    return zip(window, geometry.extent, before, geometry.stride, geometry.output_size, strict=True)


def _nearest(shown: range, reach: int, before: int, stride: int, count: int) -> int:
    """The output position whose patch is nearest to the middle of what is shown, along an axis."""
    return min(max(((shown.start + shown.stop - reach) // 2 + before) // stride, 0), count - 1)


def middle_patch(
    geometry: ConvGeometry,
    panel: Panel,
    about: About,
) -> int:
    """The row of the patch nearest to what a picture is about, blank only if all near it are."""
    axes = zip(_axes(geometry, (panel.ys, panel.xs)), positions_inside(geometry, panel), (0, 1), strict=True)
    near = []
    for (shown, reach, before, s, _), places, axis in axes:
        at = (shown.start + shown.stop - reach) / 2 if about.at is None else about.at[axis] - (reach - 1) / 2
        near.append(sorted((abs(y * s - before - at), y) for y in places)[:_TRIED])
    pairs = sorted(itertools.product(*near), key=lambda pair: sum(distance for distance, _ in pair))
    rows = [geometry.patch_row((panel.image, *(y for _, y in pair))) for pair in pairs]
    return next((row for row in rows if about.blank is not None and not about.blank(row)), rows[0])


def positions_inside(geometry: ConvGeometry, panel: Panel) -> list[list[int]]:
    """The output positions, along each axis, whose patches a panel shows whole."""
    return [
        [y for y in range(count) if y * s - before >= shown.start and y * s - before + reach <= shown.stop]
        for shown, reach, before, s, count in _axes(geometry, (panel.ys, panel.xs))
    ]


def rows_inside(geometry: ConvGeometry, panel: Panel) -> list[int]:
    """The rows of the patches that a panel shows whole."""
    places = itertools.product([panel.image], *positions_inside(geometry, panel))
    return [geometry.patch_row(position) for position in places]


def place_panel(image: int, window: tuple[range, range], side: int, origin: tuple[int, int]) -> Panel:
    """A window drawn so that its longer side takes at most `side` pixels, and its shorter can be seen."""
    longest = max(map(len, window))
    cell, reduce = max(min(side // longest, _LARGEST_CELL), 1), max(-(-longest // side), 1)
    thin = [len(positions) * cell // reduce < _THIN for positions in window]
    cells = [-(-_THIN // len(w)) if few else cell for w, few in zip(window, thin, strict=True)]
    reduces = [1 if few else reduce for few in thin]
    return Panel(image, *window, (cells[0], cells[1]), (reduces[0], reduces[1]), origin)


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


def paint_panel(
    sheet: Sheet,
    geometry: ConvGeometry,
    padding_mode: str,
    panel: Panel,
    image: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
) -> None:
    """Paint what a panel shows of an image, (H, W, C), padding hatched or, where it holds pixels, faded.

    Reduced by picking: a mean would show colours that are in no pixel.
    """
    sheet.hatch(panel.box, "padding: 0" if padding_mode == "zeros" else "padding")
    whole = padding_mode != "zeros" and image is not None
    ys, xs = (
        positions if whole else range(max(positions.start, 0), min(positions.stop, size))
        for positions, size in zip((panel.ys, panel.xs), geometry.input_size, strict=True)
    )
    lined = min(panel.cell) >= GRIDDED
    if ys and xs:
        spans = [
            [(panel.at(axis, p), panel.at(axis, p + step)) for p in positions[::step]]
            for axis, (positions, step) in enumerate(zip((ys, xs), panel.reduce, strict=True))
        ]
        picked = ys[:: panel.reduce[0]], xs[:: panel.reduce[1]]
        faces = _panel_faces(sheet, geometry, padding_mode, picked, image, values)
        spans = [[(a, max(b, a + 1)) for a, b in axis] for axis in spans]
        paint_cells(sheet, spans[0], spans[1], faces, lined=False)
    if lined:
        sheet.lines(
            [panel.at(1, x) for x in range(panel.xs.start, panel.xs.stop + 1)],
            [panel.at(0, y) for y in range(panel.ys.start, panel.ys.stop + 1)],
        )
    else:
        sheet.outline(panel.box.grown(1), sheet.theme.line)


def _panel_faces(
    sheet: Sheet,
    geometry: ConvGeometry,
    padding_mode: str,
    picked: tuple[range, range],
    image: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
) -> Faces:
    """What the picked pixels show, padding among them where it holds some."""
    lines, columns = (
        padding_source(np.array(p), size, padding_mode) if padding_mode != "zeros" else np.array(p)
        for p, size in zip(picked, geometry.input_size, strict=True)
    )
    outside = (lines != picked[0])[:, None] | (columns != picked[1])
    colours = np.full((*outside.shape, 3), sheet.theme.paper, np.uint8)
    if image is not None:
        colours = as_colours(image[np.ix_(lines, columns)])
        colours = np.where(outside[..., None], faded(colours, sheet.theme), colours)

    def title(i: int, j: int) -> str:
        y, x = int(lines[i]), int(columns[j])
        text = "pixel " + ",".join(map(str, position_of(geometry, (y, x))))
        text = f"padding, {text}" if outside[i, j] else text
        return text if values is None else f"{text} = " + ", ".join(map(number_text, values[y, x]))

    numbers = None
    if values is not None and image is not None and geometry.channels == 1:
        numbers = values[np.ix_(lines, columns)][..., 0]
    return Faces(colours, numbers, np.zeros(outside.shape, bool), title)
