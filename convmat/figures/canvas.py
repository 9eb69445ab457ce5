"""The base of every drawing: boxes, themes, text whose size is known before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convmat.errors import ConvmatError

Colour = tuple[int, int, int]

MARGIN, GAP = 24, 32  # around a drawing, and between its parts
SMALL, BODY, HEAD = 13, 15, 18  # sizes of text, in pixels

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

    def overlap(self, other: Box) -> int:
        """Pixels in both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0


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


THEMES = {
    "light": Theme(
        (255, 255, 255), (33, 37, 41), (95, 103, 112), (173, 181, 189), (233, 236, 239), (196, 30, 90)
    ),
    "dark": Theme(
        (22, 25, 29), (233, 236, 239), (160, 168, 176), (84, 92, 100), (44, 49, 55), (255, 105, 150)
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


def number_text(value: Any) -> str:
    """A number in a cell: integers exact, floats to three digits."""
    return str(int(value)) if np.asarray(value).dtype.kind in "biu" else f"{float(value):.3g}"


class Sheet:
    """A picture being drawn."""

    def __init__(self, size: tuple[int, int], theme: Theme) -> None:
        self.theme = theme
        self.image = Image.new("RGB", size, theme.paper)
        self._pen = ImageDraw.Draw(self.image)

    def copy(self) -> Sheet:
        """The same picture, to go on drawing on."""
        other = Sheet((1, 1), self.theme)
        other.image = self.image.copy()
        other._pen = ImageDraw.Draw(other.image)
        return other

    def write(self, line: Label) -> None:
        """Write a line of text where it lies."""
        colour = line.colour or self.theme.ink
        self._pen.text(line.box[:2], plain(line.text), fill=colour, font=font(line.size))

    def fill(self, box: Box, colour: Colour) -> None:
        """Fill a box."""
        self._pen.rectangle(_inner(box), fill=colour)

    def outline(self, box: Box, colour: Colour, width: int = 1, halo: bool = False) -> None:
        """Outline a box, within it; with a `halo` of paper on both sides it shows on any picture."""
        if halo:
            self._pen.rectangle(_inner(box.grown(1)), outline=self.theme.paper, width=width + 2)
        self._pen.rectangle(_inner(box), outline=colour, width=width)

    def tag(self, line: Label, colour: Colour) -> None:
        """Write text on a plate of colour, which is the label's box."""
        self.fill(line.box, colour)
        self.write(centred(line.box, line.text, line.size, contrast(colour)))

    def numbers(self, cells: Sequence[tuple[Box, str, Colour]], room: int) -> None:
        """Write a number into each cell, in its colour, if cells of so many pixels have room for all."""
        if max((text_size(text, SMALL)[0] for _, text, _ in cells), default=0) <= room - 4:
            for box, text, colour in cells:
                self.write(centred(box, text, SMALL, colour))

    def cells(self, box: Box, colours: NDArray[np.uint8]) -> None:
        """Colours, (h, w, 3), as cells that fill a box, all as large as each other."""
        picture = Image.fromarray(np.ascontiguousarray(colours))
        size = (box.right - box.left, box.bottom - box.top)
        self.image.paste(picture.resize(size, Image.Resampling.NEAREST), box[:2])

    def hatch(self, box: Box) -> None:
        """Show a box as padding."""
        self.fill(box, self.theme.padding)
        for start in range(box.left + box.top, box.right + box.bottom, 6):
            # The part of a rising diagonal that is in the box.
            first, last = max(box.left, start - box.bottom + 1), min(box.right - 1, start - box.top)
            if first <= last:
                self._pen.line([(first, start - first), (last, start - last)], fill=self.theme.line)

    def lines(self, xs: Sequence[int], ys: Sequence[int]) -> None:
        """The lines of a grid, in a gray that shows on black and on white and draws the eye on neither."""
        for x in xs:
            self._pen.line([(x, ys[0]), (x, ys[-1])], fill=_GRID)
        for y in ys:
            self._pen.line([(xs[0], y), (xs[-1], y)], fill=_GRID)

    def arrow(self, left: int, right: int, y: int) -> None:
        """An arrow from left to right."""
        colour = self.theme.dim
        self._pen.line([(left, y), (right - 8, y)], fill=colour, width=3)
        self._pen.polygon([(right - 12, y - 8), (right, y), (right - 12, y + 8)], fill=colour)

    def segment(self, left: int, right: int, y: int) -> None:
        """A thin level line."""
        self._pen.line([(left, y), (right - 1, y)], fill=self.theme.dim)

    def dots(self, box: Box, upright: bool) -> None:
        """Three dots in the middle of a box: something is left out here."""
        x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2
        for step in (-5, 0, 5):
            at = (x, y + step) if upright else (x + step, y)
            self.fill(Box(at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1), self.theme.dim)

    def pixels(self) -> NDArray[np.uint8]:
        """The picture, (height, width, 3)."""
        return np.asarray(self.image)


def _inner(box: Box) -> tuple[int, int, int, int]:
    """A box as Pillow takes it, right and bottom included."""
    return box.left, box.top, box.right - 1, box.bottom - 1
