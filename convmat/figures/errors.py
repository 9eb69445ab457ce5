"""The picture of a verdict: how far from its definition the result is, at each position of the output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import (
    ACCENTS,
    BODY,
    GAP,
    MARGIN,
    Box,
    Sheet,
    Theme,
    label,
    mixed,
    sheet_size,
)
from convmat.figures.cells import GRIDDED, Faces, paint_cells
from convmat.verification.verdict import HISTOGRAM

_LONG_SIDE, _LARGEST_CELL = 768, 32  # pixels of the picture, and of one position, at most
_SWATCH = 22
_OUTLINED = 4  # pixels of a position from which on a line is drawn around those that are wrong


def draw_verdict(
    ratios: NDArray[np.float64], wrong: NDArray[np.bool_], title: str, exact: bool, theme: Theme
) -> Sheet:
    """Errors / bounds, or errors where the result must be `exact`, and the `wrong` positions outlined.

    `ratios` is (rows, columns): the largest of all that is at a position; of more positions than pixels the
    largest of those at one pixel. The legend has the buckets of the table of errors.
    """
    for axis, size in enumerate(ratios.shape):
        cells = min(size, _LONG_SIDE)
        starts = np.arange(cells) * size // cells
        ratios, wrong = (np.maximum.reduceat(values, starts, axis) for values in (ratios, wrong))
    cell = max(min(_LONG_SIDE // max(ratios.shape), _LARGEST_CELL), 1)
    buckets = np.searchsorted(HISTOGRAM, ratios)
    buckets[~np.isfinite(ratios)] = len(HISTOGRAM) + 1
    colours = _colours(theme)
    what = "error" if exact else "error / bound"
    heading = label(MARGIN, MARGIN, title)
    top = heading.box.bottom + BODY
    height, width = (n * cell for n in ratios.shape)
    frame = Box(MARGIN, top, MARGIN + width, top + height)
    left = frame.right + GAP
    names = [f"{what} 0", *(f"up to {edge:g}" for edge in HISTOGRAM[1:]), "more", "NaN or infinity"]
    legend = [label(left + _SWATCH + 8, top + i * (_SWATCH + 4), name) for i, name in enumerate(names)]
    sheet = Sheet(sheet_size([frame, heading.box, *(line.box for line in legend)]), theme)
    sheet.write(heading, *legend)
    faces = Faces(
        colours[buckets],
        None,
        np.zeros(ratios.shape, bool),
        lambda y, x: f"{y},{x}: {what} {ratios[y, x]:.3g}" + (", wrong" if wrong[y, x] else ""),
    )
    ys, xs = (
        [(a, a + cell) for a in range(start, start + n * cell, cell)]
        for start, n in ((frame.top, ratios.shape[0]), (frame.left, ratios.shape[1]))
    )
    paint_cells(sheet, ys, xs, faces, lined=cell >= GRIDDED)
    _outline(sheet, wrong, frame, cell)
    sheet.outline(frame.grown(1), theme.ink)
    for line, colour in zip(legend, colours.tolist(), strict=True):
        swatch = Box(left, line.box.top, left + _SWATCH, line.box.top + _SWATCH)
        sheet.fill(swatch, tuple(colour))
        sheet.outline(swatch, theme.line)
    return sheet


def _colours(theme: Theme) -> NDArray[np.uint8]:
    """Of the buckets: paper, for what is equal, blues within the bound, oranges beyond it; then ink."""
    steps = len(HISTOGRAM) - 2
    within = [mixed(ACCENTS[4], theme.paper, 0.7 * (step + 1) / steps) for step in range(steps)]
    return np.array([theme.paper, *within, ACCENTS[3], ACCENTS[0], theme.ink]).round().astype(np.uint8)


def _outline(sheet: Sheet, wrong: NDArray[np.bool_], frame: Box, cell: int) -> None:
    """A line around the positions that are wrong, or around all of them where they are too small for one."""
    if not wrong.any():
        return
    if cell < _OUTLINED:
        ys, xs = (np.flatnonzero(wrong.any(axis)) for axis in (1, 0))
        box = Box(
            *(frame.left + int(xs[0]) * cell, frame.top + int(ys[0]) * cell),
            *(frame.left + (int(xs[-1]) + 1) * cell, frame.top + (int(ys[-1]) + 1) * cell),
        )
        sheet.outline(box.grown(3), sheet.theme.highlight, 2, halo=True)
        return
    padded = np.pad(wrong, 1)
    for axis, (down, across) in enumerate(((0, 1), (1, 0))):
        # Between a position and the next one along the axis, if one of the two alone is wrong.
        edges = np.diff(padded, axis=axis)
        edges = edges[:, 1:-1] if axis == 0 else edges[1:-1]
        for y, x in np.argwhere(edges).tolist():
            left, top = frame.left + x * cell, frame.top + y * cell
            line = Box(left - 1, top - 1, left + 1 + across * cell, top + 1 + down * cell)
            sheet.fill(line, sheet.theme.highlight)
