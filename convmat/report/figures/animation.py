"""The index mapping in motion: the kernel slides, and its row appears in X_col."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.report.figures.canvas import SMALL, Box, Sheet, Theme, label, text_size
from convmat.report.figures.patches import PatchPlan, draw_images, draw_outline, draw_row, formulas

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
    sheet.outline(plan.matrix.grown(1), theme.line)
    for index, (patch, mark) in enumerate(zip(plan.frames, plan.rows, strict=True)):
        draw_row(sheet, plan, mark, pixels, values)
        moment = sheet.copy()
        draw_outline(moment, plan.geometry, patch)
        moment.outline(
            Box(plan.matrix.left, mark.top, plan.matrix.right, mark.bottom).grown(1), patch.colour, 2
        )
        width, height = text_size(str(mark.row), SMALL)
        middle = (mark.top + mark.bottom) // 2
        left = plan.matrix.left - width - 14
        plate = Box(left, middle - height // 2, left + width + 8, middle - height // 2 + height)
        moment.tag(label(plate.left, plate.top, str(mark.row), SMALL)._replace(box=plate), patch.colour)
        _write_note(moment, plan, mark.row)
        last = index == len(plan.frames) - 1
        yield Frame(moment.pixels(), _REST if last else duration)


def _write_note(sheet: Sheet, plan: PatchPlan, row: int) -> None:
    line = formulas(plan.geometry, None, row, plan.order)[0]
    sheet.write(label(*plan.note, line, SMALL))
