"""The index mapping in motion: the kernel slides, and its row appears in X_col."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import SMALL, Box, Label, Theme, label, text_size
from convmat.figures.captions import formulas
from convmat.figures.outlines import draw_outline
from convmat.figures.painting import draw_images, draw_row
from convmat.figures.patches import PatchPlan

_WHOLE = 8000  # milliseconds that an animation takes, about
_FASTEST, _SLOWEST, _REST = 120, 700, 2000  # of a frame, and of the last


class Frame(NamedTuple):
    """One moment."""

    picture: NDArray[np.uint8]
    """(height, width, 3)."""
    milliseconds: int


def animate(
    plan: PatchPlan, pixels: NDArray[np.uint8], values: NDArray[Any] | None, theme: Theme
) -> Iterator[Frame]:
    """Paint the moments of a plan made with `moving`: a patch each, whose row joins those before it.

    Arguments are those of `draw_patches`.
    """
    sheet = draw_images(plan, pixels, values, theme)
    duration = min(max(_WHOLE // len(plan.frames), _FASTEST), _SLOWEST)
    matrix = plan.x_col.box
    sheet.outline(matrix.grown(1), theme.line)
    for index, (patch, mark) in enumerate(zip(plan.frames, plan.x_col.marks, strict=True)):
        draw_row(sheet, plan, mark, pixels, values)
        moment = sheet.copy()
        draw_outline(moment, patch)
        moment.outline(Box(matrix.left, mark.top, matrix.right, mark.bottom).grown(1), patch.colour, 2)
        width, height = text_size(str(mark.row), SMALL)
        top, left = (mark.top + mark.bottom - height) // 2, matrix.left - width - 14
        plate = Box(left, top, left + width + 8, top + height)
        moment.tag(Label(plate, str(mark.row), SMALL), patch.colour)
        note = formulas(plan.geometry, None, mark.row, plan.order)[0]
        moment.write(label(*plan.note, note, SMALL))
        last = index == len(plan.frames) - 1
        yield Frame(moment.pixels(), _REST if last else duration)
