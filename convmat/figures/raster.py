"""Sheets painted with Pillow, at any scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convmat.figures.canvas import (
    Box,
    Cells,
    Film,
    Hatch,
    Lines,
    Mark,
    Rect,
    Shape,
    Sheet,
    Words,
    font,
    plain,
)

_REST = 2000  # milliseconds of an animation's last frame, at least


def painted(sheet: Sheet, scale: int = 1) -> Image.Image:
    """A sheet, each of whose pixels is `scale` × `scale` of the picture."""
    image = Image.new("RGB", (sheet.size[0] * scale, sheet.size[1] * scale))
    _paint(image, sheet.marks, scale)
    return image


def frames(film: Film, scale: int = 1) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """The pictures of a film, (height, width, 3), each with its milliseconds; the last is the whole."""
    image, milliseconds = painted(film.start, scale), round(1000 / film.fps)
    for lasting, passing in film.moments:
        _paint(image, lasting.marks, scale)
        moment = image.copy()
        _paint(moment, passing.marks, scale)
        yield np.asarray(moment), milliseconds
    yield np.asarray(image), max(_REST, milliseconds)


def _paint(image: Image.Image, marks: Iterable[Mark], scale: int) -> None:
    pen = ImageDraw.Draw(image)
    painters: dict[type, Callable[[Any], None]] = {
        Rect: partial(_rect, pen, scale),
        Words: partial(_words, pen, scale),
        Cells: partial(_cells, image, scale),
        Hatch: partial(_hatch, image, scale),
        Lines: partial(_lines, pen, scale),
        Shape: lambda mark: pen.polygon([(x * scale, y * scale) for x, y in mark.points], mark.colour),
    }
    for mark in marks:
        painters[type(mark)](mark)


def _inner(box: Box, scale: int) -> tuple[int, int, int, int]:
    """A box as Pillow takes it, right and bottom included."""
    return box.left * scale, box.top * scale, box.right * scale - 1, box.bottom * scale - 1


def _rect(pen: ImageDraw.ImageDraw, scale: int, mark: Rect) -> None:
    pen.rectangle(_inner(mark.box, scale), fill=mark.fill, outline=mark.edge, width=mark.width * scale)


def _words(pen: ImageDraw.ImageDraw, scale: int, mark: Words) -> None:
    at = (mark.line.box.left * scale, mark.line.box.top * scale)
    pen.text(at, plain(mark.line.text), fill=mark.colour, font=font(mark.line.size * scale))


def _cells(image: Image.Image, scale: int, mark: Cells) -> None:
    left, top, right, bottom = (side * scale for side in mark.box)
    picture = Image.fromarray(np.ascontiguousarray(mark.colours))
    image.paste(picture.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))


def _hatch(image: Image.Image, scale: int, mark: Hatch) -> None:
    left, top, right, bottom = (side * scale for side in mark.box)
    tile = Image.new("RGB", (right - left, bottom - top), mark.theme.padding)
    pen = ImageDraw.Draw(tile)
    for start in range(0, sum(tile.size), 6 * scale):
        pen.line([(start, 0), (0, start)], mark.theme.line, scale)
    image.paste(tile, (left, top))


def _lines(pen: ImageDraw.ImageDraw, scale: int, mark: Lines) -> None:
    (left, right), (top, bottom) = (mark.xs[0], mark.xs[-1]), (mark.ys[0], mark.ys[-1])
    boxes = [Box(x, top, x + 1, bottom + 1) for x in mark.xs]
    for box in boxes + [Box(left, y, right + 1, y + 1) for y in mark.ys]:
        pen.rectangle(_inner(box, scale), mark.colour)
