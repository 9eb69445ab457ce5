"""The picture of a verdict: how far from its definition the result is, at each position of the output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import BODY, GAP, MARGIN, THEMES, Box, Colour, Sheet, label
from convmat.verification.verdict import HISTOGRAM

# From white, for what is equal, over blues within the bound to reds beyond it; black where no number stands.
_COLOURS: tuple[Colour, ...] = (
    (255, 255, 255),
    (233, 240, 250),
    (206, 221, 242),
    (166, 193, 229),
    (116, 156, 212),
    (66, 112, 186),
    (253, 174, 97),
    (200, 30, 30),
    (0, 0, 0),
)
_LONG_SIDE, _LARGEST_CELL = 768, 32  # pixels of the picture, and of one position, at most
_SWATCH = 22


def error_picture(ratios: NDArray[np.float64], title: str, exact: bool) -> NDArray[np.uint8]:
    """Errors / bounds, or errors where the result must be `exact`, as one RGB image (1, height, width, 3).

    `ratios` is (rows, columns): the largest of all that is at a position; of more positions than pixels the
    largest of those at one pixel. The legend has the buckets of the table of errors.
    """
    for axis in (0, 1):
        size = ratios.shape[axis]
        cells = min(size, _LONG_SIDE)
        ratios = np.maximum.reduceat(ratios, np.arange(cells) * size // cells, axis)
    cell = max(min(_LONG_SIDE // max(ratios.shape), _LARGEST_CELL), 1)
    buckets = np.searchsorted(HISTOGRAM, ratios)
    buckets[~np.isfinite(ratios)] = len(HISTOGRAM) + 1
    colours = np.array(_COLOURS, np.uint8)[buckets]
    height, width = (n * cell for n in ratios.shape)
    frame = Box(MARGIN, 2 * MARGIN + BODY, MARGIN + width, 2 * MARGIN + BODY + height)
    heading = label(MARGIN, MARGIN, title)
    names = _names(exact)
    legend = [
        label(frame.right + GAP + _SWATCH + 8, frame.top + i * (_SWATCH + 4), name)
        for i, name in enumerate(names)
    ]
    right = max(heading.box.right, *(line.box.right for line in legend))
    sheet = Sheet((right + MARGIN, max(frame.bottom, legend[-1].box.bottom) + MARGIN), THEMES["light"])
    sheet.write(heading)
    sheet.cells(frame, colours)
    sheet.outline(frame.grown(1), sheet.theme.ink)
    for line, colour in zip(legend, _COLOURS, strict=True):
        swatch = Box(frame.right + GAP, line.box.top, frame.right + GAP + _SWATCH, line.box.top + _SWATCH)
        sheet.fill(swatch, colour)
        sheet.outline(swatch, sheet.theme.line)
        sheet.write(line)
    return sheet.pixels()[None]


def _names(exact: bool) -> Sequence[str]:
    """Of the legend's colours."""
    edges = [f"up to {edge:g}" for edge in HISTOGRAM[1:]]
    what = "error" if exact else "error / bound"
    return [f"{what} 0", *edges, "more", "NaN or infinity"]
