"""The base of every drawing: boxes, themes, text whose size is known before it is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

from convmat.errors import ConvmatError

Colour = tuple[int, int, int]

MARGIN, GAP = 24, 32  # around a drawing, and between its parts
TAG, SMALL, BODY, HEAD = 11, 13, 15, 18  # sizes of text, in pixels

# Okabe and Ito's colours that show on white and on black, neighbours unlike each other, and a brown. In print
# without colour some come close to each other, so whatever has one has a number too.
ACCENTS: tuple[Colour, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (204, 121, 167),
    (140, 90, 60),
)

_GRID: Colour = (112, 116, 120)


class Box(NamedTuple):
    """Pixels of a drawing; right and bottom are the first outside."""

    left: int
    top: int
    right: int
    bottom: int

    def grown(self, by: int) -> Box:
        """The box with so many pixels more on every side, or fewer."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def moved(self, right: int, down: int) -> Box:
        """The box so many pixels further."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)

    def overlap(self, other: Box) -> int:
        """Pixels in both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0


def sheet_size(boxes: Iterable[Box]) -> tuple[int, int]:
    """Width and height of what holds all boxes, and a margin."""
    rights, bottoms = zip(*((box.right, box.bottom) for box in boxes), strict=True)
    return max(rights) + MARGIN, max(bottoms) + MARGIN


@dataclass(frozen=True)
class Theme:
    """The colours of a drawing."""

    paper: Colour
    ink: Colour
    dim: Colour
    """Of words that matter less, and of arrows."""
    line: Colour
    """Between cells."""
    padding: Colour
    """What is outside the image; no gray of an image looks like it, since it is hatched with `line`."""
    highlight: Colour
    name: str = "light"


THEMES = {
    "light": Theme(
        (255, 255, 255), (33, 37, 41), (95, 103, 112), (173, 181, 189), (233, 236, 239), (196, 30, 90)
    ),
    "dark": Theme(
        (22, 25, 29), (233, 236, 239), (160, 168, 176), (84, 92, 100), (44, 49, 55), (255, 105, 150), "dark"
    ),
}
"""The drawings' themes, by the names of `--theme`."""


class Label(NamedTuple):
    """A line of text, and where it lies."""

    box: Box
    text: str
    size: int
    colour: Colour | None = None
    """None for the theme's ink."""


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font.

    Raises:
        ConvmatError: a Pillow without FreeType has none.
    """
    own = ImageFont.load_default(size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise ConvmatError("figure", "needs a Pillow built with FreeType; install Pillow from its wheel")
    return own


# Signs the font has no glyph for, and what is written instead.
_PLAIN = str.maketrans({"×": "x", "−": "-", "→": "->"})


def plain(text: str) -> str:
    """Text without the signs that the font lacks."""
    return text.translate(_PLAIN)


def text_size(text: str, size: int) -> tuple[int, int]:
    """(width, height) of a line of text as it is written."""
    ascent, descent = font(size).getmetrics()
    return int(np.ceil(font(size).getlength(plain(text)))), ascent + descent


def label(left: int, top: int, text: str, size: int = BODY, colour: Colour | None = None) -> Label:
    """A line of text by its upper left corner."""
    width, height = text_size(text, size)
    return Label(Box(left, top, left + width, top + height), text, size, colour)


def centred(box: Box, text: str, size: int = BODY, colour: Colour | None = None) -> Label:
    """A line of text in the middle of a box."""
    width, height = text_size(text, size)
    left = (box.left + box.right - width) // 2
    return label(left, (box.top + box.bottom - height) // 2, text, size, colour)


def contrast(colour: Sequence[int] | NDArray[np.uint8]) -> Colour:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(part) for part in colour[:3])
    return (0, 0, 0) if 299 * red + 587 * green + 114 * blue > 125_000 else (255, 255, 255)


def as_colours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (h, w, C) as (h, w, 3): three or four channels as RGB, of others the first as gray."""
    if pixels.shape[-1] in (3, 4):
        return pixels[..., :3]
    return pixels[..., :1].repeat(3, -1)


def faded(colours: NDArray[np.uint8], theme: Theme) -> NDArray[np.uint8]:
    """Colours half way to those of padding."""
    return ((colours.astype(np.uint16) + np.array(theme.padding, np.uint16)) // 2).astype(np.uint8)


def mixed(colour: Colour, other: Colour, part: float) -> list[float]:
    """A part of one colour, and the rest of another."""
    return [part * a + (1 - part) * b for a, b in zip(colour, other, strict=True)]


def number_text(value: Any) -> str:
    """A number in a cell: integers exact, floats to three digits."""
    return str(int(value)) if np.asarray(value).dtype.kind in "biu" else f"{float(value):.3g}"


class Rect(NamedTuple):
    """A box, filled, outlined within itself, or both."""

    box: Box
    fill: Colour | None = None
    edge: Colour | None = None
    width: int = 1


class Words(NamedTuple):
    """A line of text."""

    line: Label
    colour: Colour


class Cells(NamedTuple):
    """Colours, (h, w, 3), that fill a box as cells as large as each other."""

    box: Box
    colours: NDArray[np.uint8]
    titles: Sequence[str]
    """What each cell is, (h·w), for a reader who points at it; none, for a picture."""


class Hatch(NamedTuple):
    """A box shown as padding."""

    box: Box
    theme: Theme
    title: str = ""


class Lines(NamedTuple):
    """The lines of a grid, a pixel wide."""

    xs: Sequence[int]
    ys: Sequence[int]
    colour: Colour


class Shape(NamedTuple):
    """A filled polygon."""

    points: tuple[tuple[int, int], ...]
    colour: Colour


Mark = Rect | Words | Cells | Hatch | Lines | Shape


class Sheet:
    """A picture as the list of its marks, in the order in which they are painted: by `raster` or `vector`."""

    def __init__(self, size: tuple[int, int], theme: Theme) -> None:
        self.size = size
        self.theme = theme
        self.marks: list[Mark] = [Rect(Box(0, 0, *size), theme.paper)]

    def layer(self) -> Sheet:
        """A sheet of this size without paper, to be laid over it."""
        other = Sheet(self.size, self.theme)
        other.marks.clear()
        return other

    def write(self, *lines: Label) -> None:
        """Write lines of text where they lie."""
        self.marks += (Words(line, line.colour or self.theme.ink) for line in lines if line.text)

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a box."""
        self.marks.append(Rect(box, colour))

    def outline(self, box: Box, colour: Colour, width: int = 1, halo: bool = False) -> None:
        """Outline a box, within it; with a `halo` of paper around and in it it shows on any picture."""
        if halo:
            self.marks.append(Rect(box.grown(1), None, self.theme.paper, width + 2))
        self.marks.append(Rect(box, None, colour, width))

    def tag(self, line: Label, colour: Colour) -> None:
        """Write text on a plate of colour, which is the label's box."""
        self.fill(line.box, colour)
        self.write(centred(line.box, line.text, line.size, contrast(colour)))

    def numbers(self, cells: Sequence[tuple[Box, str, Colour]], room: int) -> bool:
        """Write a number into each cell, in its colour, if cells of so many pixels have room for all."""
        for size in (SMALL, TAG):
            if max((text_size(text, size)[0] for _, text, _ in cells), default=0) <= room - 2:
                self.write(*(centred(box, text, size, colour) for box, text, colour in cells))
                return True
        return False

    def cells(self, box: Box, colours: NDArray[np.uint8], titles: Sequence[str] = ()) -> None:
        """Colours, (h, w, 3), as cells that fill a box, each with what it is."""
        self.marks.append(Cells(box, colours, titles))

    def hatch(self, box: Box, title: str = "") -> None:
        """Show a box as padding."""
        self.marks.append(Hatch(box, self.theme, title))

    def lines(self, xs: Sequence[int], ys: Sequence[int]) -> None:
        """The lines of a grid, in a gray that shows on black and on white and draws the eye on neither."""
        self.marks.append(Lines(xs, ys, _GRID))

    def arrow(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """A level or an upright arrow."""
        (x, y), (to_x, to_y) = start, end
        dx, dy = int(np.sign(to_x - x)), int(np.sign(to_y - y))

        def at(along: int, beside: int) -> tuple[int, int]:
            return to_x - along * dx + beside * dy, to_y - along * dy + beside * dx

        tail = (abs(to_x - x) or abs(to_y - y), 1)
        points = (at(*tail), at(12, 1), at(12, 8), at(0, 0), at(12, -8), at(12, -1), at(tail[0], -1))
        self.marks.append(Shape(points, self.theme.dim))

    def dots(self, box: Box, upright: bool) -> None:
        """Three dots in the middle of a box: something is left out here."""
        x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2
        for step in (-5, 0, 5):
            at = (x, y + step) if upright else (x + step, y)
            self.fill(Box(at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1), self.theme.dim)


class Moment(NamedTuple):
    """A moment of an animation."""

    lasting: Sheet
    """What joins the picture, and stays."""
    passing: Sheet
    """What is seen in this moment alone."""


class Film(NamedTuple):
    """A picture that moves; the whole of it, after the last moment, is what a printer gets."""

    start: Sheet
    moments: tuple[Moment, ...]
    fps: float
