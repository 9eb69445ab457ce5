"""The picture of a whole layer's matrix: where it has entries, and where there is room, which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convmat.figures.canvas import (
    ACCENTS,
    BODY,
    HEAD,
    MARGIN,
    SMALL,
    Box,
    Label,
    Sheet,
    Theme,
    centred,
    label,
    mixed,
    number_text,
    text_size,
)
from convmat.figures.cells import Faces, limits, paint_cells, shades
from convmat.shown import percent, sizes

if TYPE_CHECKING:
    from convmat.matrix import LayerMatrix

_LONG_SIDE, _SHORT_SIDE = 768, 96  # pixels of the pattern: the longer side at most, the shorter at least
_LARGEST_CELL, _LINED_CELL = 32, 8  # pixels of one element, and from when on lines part them


def draw_matrix(matrix: LayerMatrix, theme: Theme) -> Sheet:
    """A layer's matrix as it is written: row 0 at the top, column 0 at the left.

    Where an element has a cell of its own, it has the colour of its weight, as in the pictures of filters; a
    stored 0 has that of padding. In larger matrices a cell stands for a block of elements, and is the fuller
    the more of them are stored; no cell with an entry has the paper's colour.
    """
    rows, columns = _cells(matrix.shape)
    one_each = (rows, columns) == matrix.shape
    real = matrix.dtype.kind != "c" and bool(np.isfinite(matrix.data).all())
    captions = [f"{sizes(matrix.shape)}, {matrix.nnz} entries ({percent(matrix.layer.density)})"]
    if one_each and real:
        faces = _weights(matrix, theme)
    else:
        faces, fullest = _shares(matrix, rows, columns, theme)
        if not one_each:
            captions.append(f"fullest: {percent(fullest)} of a cell's elements are entries")
    cell = max(min(_LONG_SIDE // max(rows, columns), _LARGEST_CELL), 1) if one_each else 1
    # What has few rows, or few columns, should still be seen.
    height, width = (max(cell, _SHORT_SIDE // n) if not one_each else cell for n in (rows, columns))
    g, channels = matrix.layer.geometry, len(matrix.layer.filters)
    shapes = [(*g.output_size, channels), (*g.input_size, g.channels)]
    if matrix.layer.layout == "nchw":
        shapes = [(shape[-1], *shape[:-1]) for shape in shapes]
    lines = [f"rows: vec(Y), {sizes(shapes[0])}", f"columns: vec(X), {sizes(shapes[1])}"]
    names = [label(MARGIN, MARGIN + 24 * index, text, BODY) for index, text in enumerate(lines)]
    tick = text_size(str(max(matrix.shape)), SMALL)
    frame = Box(0, 0, columns * width, rows * height)
    left, top = MARGIN + tick[0] + 8, names[-1].box.bottom + tick[1] + 14
    frame = Box(left, top, left + frame.right, top + frame.bottom)
    ticks = [*_ticks(frame, matrix.shape, shapes, 0), *_ticks(frame, matrix.shape, shapes, 1)]
    words = [label(MARGIN, frame.bottom + 16 + 26 * index, text, HEAD) for index, text in enumerate(captions)]
    boxes = [frame, *(line.box for line in (*names, *ticks, *words))]
    sheet = Sheet((max(b.right for b in boxes) + MARGIN, max(b.bottom for b in boxes) + MARGIN), theme)
    sheet.write(*names, *ticks, *words)
    ys = [(frame.top + height * i, frame.top + height * (i + 1)) for i in range(rows)]
    xs = [(frame.left + width * j, frame.left + width * (j + 1)) for j in range(columns)]
    paint_cells(sheet, ys, xs, faces, lined=cell >= _LINED_CELL)
    sheet.outline(frame.grown(1), theme.ink)
    return sheet


def _weights(matrix: LayerMatrix, theme: Theme) -> Faces:
    """Each element in the colour of its weight, where one is stored."""
    values = matrix.toarray()
    stored = np.zeros(matrix.shape, bool)
    for entries, lines in matrix.blocks():
        stored[lines, matrix.indices[entries]] = True
    colours = shades(values, *limits(matrix.layer.filters))
    colours[stored & (values == 0)] = theme.padding
    colours[~stored] = theme.paper

    def title(i: int, j: int) -> str:
        return f"row {i}, column {j}: weight {number_text(values[i, j])}" if stored[i, j] else ""

    return Faces(colours, np.ma.array(values, mask=~stored), np.zeros(stored.shape, bool), title, True)


def _shares(matrix: LayerMatrix, rows: int, columns: int, theme: Theme) -> tuple[Faces, float]:
    """Each cell by the share of its elements that are stored, and the largest share."""
    filled = _entries_in_cells(matrix, rows, columns)
    share = filled / np.maximum(_elements_in_cells(matrix.shape, rows, columns), 1)
    fullest = float(share.max())
    # The root keeps apart the many shades of nearly empty cells.
    shade = np.sqrt(share / fullest)[..., None] if fullest else share[..., None]
    accent = ACCENTS[4]
    faint, full = (
        np.array(mixed(accent, other, part)) for other, part in ((theme.paper, 0.3), (theme.ink, 0.5))
    )
    colours = np.where(shade > 0, faint + (full - faint) * shade, theme.paper).round().astype(np.uint8)
    return Faces(colours, None, np.zeros(share.shape, bool), lambda i, j: ""), fullest


def _ticks(frame: Box, shape: tuple[int, int], shapes: list[tuple[int, ...]], axis: int) -> list[Label]:
    """Numbers of rows (axis 0), or of columns, where an image's lines begin; as many as there is room for."""
    count, line = shape[axis], int(np.prod(shapes[axis][1:]))
    start, length = ((frame.top, frame.bottom - frame.top), (frame.left, frame.right - frame.left))[axis]
    width, height = text_size(str(count), SMALL)
    step = line * max(-(-(height + 4, width + 10)[axis] * count // (length * line)), 1)
    labels = []
    for number in range(0, count, step):
        at = start + number * length // count
        after = start + min((number + 1) * length // count, length)
        if axis:
            box = Box(at, frame.top - height - 6, after, frame.top - 6)
        else:
            box = Box(frame.left - width - 8, at, frame.left - 8, after)
        text = centred(box, str(number), SMALL)
        labels.append(text if not axis else text._replace(box=text.box))
    return labels


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
