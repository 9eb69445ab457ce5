"""Cells of numbers, painted: pixels of images, rows of X_col, weights, results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import Box, Sheet, contrast, faded, number_text
from convmat.geometry import ConvGeometry, Place

GRIDDED = 10
"""Pixels of a cell from which on lines part it from the next, and a reader can point at it."""

_NUMBERED = 20, 18  # pixels of a cell's width and height from which on it may have room for a number
_LOW, _HIGH = np.array([0, 90, 170.0]), np.array([200, 80, 0.0])  # of numbers below 0 and above

Span = tuple[int, int]
"""The first pixel of a cell along an axis, and the first after it."""


class Faces(NamedTuple):
    """What cells show, (h, w)."""

    colours: NDArray[np.uint8]
    """(h, w, 3)."""
    values: NDArray[Any] | None
    """The numbers to be written, where there are any; masked where there is none."""
    padding: NDArray[np.bool_]
    """Which are padding that holds zeros."""
    title: Callable[[int, int], str]
    """What the cell at (i, j) is."""
    signed: bool = False
    """Whether the colours tell signs apart, which print without colour does not."""


def paint_cells(
    sheet: Sheet, ys: Sequence[Span], xs: Sequence[Span], faces: Faces, lined: bool = True
) -> None:
    """Paint cells at these spans; dots stand between those that are no neighbours."""
    height, width = (min(end - start for start, end in spans) for spans in (ys, xs))
    pointed = min(height, width) >= GRIDDED
    for rows in _runs(ys):
        for columns in _runs(xs):
            box = Box(xs[columns[0]][0], ys[rows[0]][0], xs[columns[-1]][1], ys[rows[-1]][1])
            titles = [
                "" if faces.padding[i, j] else faces.title(i, j) for i in rows for j in columns if pointed
            ]
            sheet.cells(box, faces.colours[rows.start : rows.stop, columns.start : columns.stop], titles)
    for i, j in np.argwhere(faces.padding).tolist():
        sheet.hatch(Box(xs[j][0], ys[i][0], xs[j][1], ys[i][1]), faces.title(i, j) if pointed else "")
    for rows in _runs(ys) if lined else ():
        for columns in _runs(xs):
            at_x, at_y = [xs[j][0] for j in columns], [ys[i][0] for i in rows]
            if min(height, width) < GRIDDED:
                at_x, at_y = at_x[:1], at_y[:1]
            sheet.lines([*at_x, xs[columns[-1]][1]], [*at_y, ys[rows[-1]][1]])
    _leave_out(sheet, ys, xs)
    roomy = width >= _NUMBERED[0] and height >= _NUMBERED[1]
    numbered = roomy and sheet.numbers(list(_numbers(sheet, ys, xs, faces)), width)
    if pointed and not numbered and faces.signed and faces.values is not None:
        for i, j in np.argwhere(np.ma.filled(faces.values < 0, False)).tolist():
            middle, (left, right) = sum(ys[i]) // 2, xs[j]
            sheet.fill(Box(left + 3, middle, right - 2, middle + 1), contrast(faces.colours[i, j]))


def _runs(spans: Sequence[Span]) -> Iterator[range]:
    """Indices of neighbours."""
    start = 0
    for index in range(1, len(spans) + 1):
        if index == len(spans) or spans[index][0] != spans[index - 1][1]:
            yield range(start, index)
            start = index


def _leave_out(sheet: Sheet, ys: Sequence[Span], xs: Sequence[Span]) -> None:
    """Dots where rows or columns are left out."""
    for (_, top), (bottom, _) in itertools.pairwise(ys):
        if top != bottom:
            sheet.dots(Box(xs[0][0], top, xs[-1][1], bottom), upright=True)
    for (_, left), (right, _) in itertools.pairwise(xs):
        if left != right:
            sheet.dots(Box(left, ys[0][0], right, ys[-1][1]), upright=False)


def _numbers(sheet: Sheet, ys: Sequence[Span], xs: Sequence[Span], faces: Faces) -> Iterator[Any]:
    for i, (top, bottom) in enumerate(ys):
        for j, (left, right) in enumerate(xs):
            box = Box(left, top, right, bottom)
            value = 0 if faces.values is None else faces.values[i, j]
            if faces.padding[i, j]:
                yield box, number_text(value), sheet.theme.ink
            elif faces.values is not None and value is not np.ma.masked:
                yield box, number_text(value), contrast(faces.colours[i, j])


def x_col_faces(
    sheet: Sheet,
    geometry: ConvGeometry,
    padding_mode: str,
    order: str,
    rows: Sequence[int],
    columns: Sequence[int],
    pixels: NDArray[np.uint8] | None,
    values: NDArray[Any] | None,
    first: int = 0,
) -> Faces:
    """Elements of X_col, by Eq. 8: each channel of a pixel in its own colour.

    `pixels` and `values` are those of the images from number `first` on, (n, H, W, C), or None.
    """
    shape = len(rows), len(columns)
    colours = np.full((*shape, 3), sheet.theme.paper, np.uint8)
    numbers = None if values is None else np.zeros(shape, values.dtype)
    padding = np.zeros(shape, bool)
    places = [[geometry.place(r, c, padding_mode, order=order) for c in columns] for r in rows]
    for i, line in enumerate(places):
        for j, place in enumerate(line):
            if place.element is None:
                padding[i, j] = True
                continue
            element = (place.element[0] - first, *place.element[1:])
            if pixels is not None:
                colours[i, j] = _channel_colour(pixels[element], element[-1], pixels.shape[-1])
                if place.in_padding:
                    colours[i, j] = faded(colours[i, j], sheet.theme)
            if numbers is not None and values is not None:
                numbers[i, j] = values[element]
    return Faces(colours, numbers, padding, lambda i, j: _element_text(geometry, places[i][j], numbers, i, j))


def _element_text(geometry: ConvGeometry, place: Place, numbers: NDArray[Any] | None, i: int, j: int) -> str:
    text = f"row {place.row}, column {place.column}: "
    if place.element is None:
        return f"{text}padding, 0"
    pixel = ",".join(map(str, position_of(geometry, place.element[1:-1])))
    text += f"pixel {pixel}" + (f", channel {place.channel}" if geometry.channels > 1 else "")
    if geometry.batch > 1:
        text += f", image {place.element[0]}"
    return text if numbers is None else f"{text} = {number_text(numbers[i, j])}"


def position_of(geometry: ConvGeometry, position: Sequence[int]) -> Sequence[int]:
    """A position without the line of an image one line high."""
    return position[1:] if geometry.input_size[0] == geometry.kernel_size[0] == 1 else position


def _channel_colour(value: np.uint8, channel: int, channels: int) -> NDArray[np.uint8]:
    """A shade of red, green or blue for what is one of those, and of gray for all else."""
    colour = np.zeros(3, np.uint8)
    colour[channel if channels in (3, 4) and channel < 3 else slice(None)] = value
    return colour


def number_faces(
    values: NDArray[Any], limits: tuple[float, float], title: Callable[[int, int], str]
) -> Faces:
    """Numbers, (h, w), as shades between their limits."""

    def text(i: int, j: int) -> str:
        return f"{title(i, j)} = {number_text(values[i, j])}"

    return Faces(shades(values, *limits), values, np.zeros(values.shape, bool), text, True)


def limits(values: NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest of values."""
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def shades(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers (h, w) as colours: black to white, or where some are below 0 blue, white at 0, orange."""
    wide = values.astype(np.float64)
    if low >= 0:
        gray = np.clip((wide - low) / ((high - low) or 1), 0, 1)[..., None] * 255
        return gray.repeat(3, -1).round().astype(np.uint8)
    share = np.clip(wide / max(-low, high), -1, 1)[..., None]
    end = np.where(share < 0, _LOW, _HIGH)
    return (255 + (end - 255) * np.abs(share)).round().astype(np.uint8)
