"""The picture of a whole layer's matrix: where it has entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convmat.report.figures.canvas import HEAD, MARGIN, THEMES, Box, Label, Sheet, label
from convmat.shown import percent, sizes

if TYPE_CHECKING:
    from convmat.matrix import LayerMatrix

_THEME, _LINE = THEMES["light"], (214, 218, 224)
_FAINT, _FULL = np.array([187, 207, 235.0]), np.array([12, 44, 107.0])  # of cells that are not empty
_LONG_SIDE, _SHORT_SIDE = 768, 96  # pixels of the pattern: the longer side at most, the shorter at least
_LARGEST_CELL, _LINED_CELL = 32, 8  # pixels of one element, and from when on lines part them


def sparsity_picture(matrix: LayerMatrix) -> NDArray[np.uint8]:
    """Where a layer's matrix has entries, as one RGB image (1, height, width, 3), with a caption.

    The matrix lies as it is written: row 0 at the top, column 0 at the left. Where an element has a cell of
    its own, it is dark if it is stored. In larger matrices a cell stands for a block of elements, and is the
    darker the more of them are stored, the fullest cell darkest; no cell with an entry is white.
    """
    rows, columns = _cells(matrix.shape)
    filled = _entries_in_cells(matrix, rows, columns)
    share = filled / np.maximum(_elements_in_cells(matrix.shape, rows, columns), 1)
    fullest = float(share.max())
    # The root keeps apart the many shades of nearly empty cells.
    shade = np.sqrt(share / fullest)[..., None] if fullest else share[..., None]
    colours = np.where(shade > 0, _FAINT + (_FULL - _FAINT) * shade, _THEME.paper).round().astype(np.uint8)
    one_each = (rows, columns) == matrix.shape
    cell = max(min(_LONG_SIDE // max(rows, columns), _LARGEST_CELL), 1) if one_each else 1
    # What has few rows, or few columns, should still be seen.
    height, width = (max(cell, _SHORT_SIDE // n) if not one_each else cell for n in (rows, columns))
    pattern = colours.repeat(height, 0).repeat(width, 1)
    if cell >= _LINED_CELL:
        pattern[::cell], pattern[:, ::cell] = _LINE, _LINE
    caption = [f"{sizes(matrix.shape)}, {matrix.nnz} entries ({percent(matrix.layer.density)})"]
    if not one_each:
        caption.append(f"darkest: {percent(fullest)} of a cell's elements are entries")
    return _with_caption(pattern, caption)[None]


def _cells(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells: one for each element where they fit, else in the matrix's proportions."""
    if max(shape) <= _LONG_SIDE:
        return shape
    scale = _LONG_SIDE / max(shape)
    rows, columns = (min(n, max(round(n * scale), _SHORT_SIDE)) for n in shape)
    return rows, columns


def _entries_in_cells(matrix: LayerMatrix, rows: int, columns: int) -> NDArray[np.int64]:
    """Stored entries in each cell."""
    counts = np.zeros(rows * columns, np.int64)
    for entries, lines in matrix.blocks():
        down = lines.astype(np.int64) * rows // matrix.shape[0]
        across = matrix.indices[entries].astype(np.int64) * columns // matrix.shape[1]
        counts += np.bincount(down * columns + across, minlength=len(counts))
    return counts.reshape(rows, columns)


def _elements_in_cells(shape: tuple[int, int], rows: int, columns: int) -> NDArray[np.int64]:
    """Elements of the matrix that each cell stands for: not all cells are equally large."""
    edges = (-(-np.arange(cells + 1) * n // cells) for n, cells in zip(shape, (rows, columns), strict=True))
    return np.multiply.outer(*map(np.diff, edges))


def _with_caption(pattern: NDArray[np.uint8], lines: list[str]) -> NDArray[np.uint8]:
    """A framed pattern on paper, lines of text below it."""
    height, width = pattern.shape[:2]
    frame = Box(MARGIN, MARGIN, MARGIN + width, MARGIN + height)
    caption: list[Label] = []
    for text in lines:
        top = caption[-1].box.bottom if caption else frame.bottom + MARGIN
        caption.append(label(MARGIN, top, text, HEAD))
    right = max(frame.right, *(line.box.right for line in caption))
    sheet = Sheet((right + MARGIN, caption[-1].box.bottom + MARGIN), _THEME)
    sheet.cells(frame, pattern)
    sheet.outline(frame.grown(1), _THEME.ink)
    for line in caption:
        sheet.write(line)
    return sheet.pixels()
