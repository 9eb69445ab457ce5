"""What of the inputs is drawn: images, and rows of a result, kept on their way to the output."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.output import STREAM_BYTES

if TYPE_CHECKING:
    from convmat.cli.inputs import Batch
    from convmat.figures.look import Look
    from convmat.geometry import ConvGeometry


class Kept:
    """Chunks of images, or of rows, on their way; of those from number `first` on, `count` are kept."""

    def __init__(self, chunks: Iterable[NDArray[Any]], count: int, first: int = 0) -> None:
        self._chunks, self._kept = self._noted(chunks), np.empty(0)
        self._ahead = deque[NDArray[Any]]()
        self._wanted = range(first, first + count)
        self._passed = 0

    def __iter__(self) -> Iterator[NDArray[Any]]:
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._chunks

    def all(self) -> NDArray[Any]:
        """Those kept, in one array; what has not passed yet is read ahead, only as far as it is needed."""
        while self._passed < self._wanted.stop and (x := next(self._chunks, None)) is not None:
            self._ahead.append(x)
        return self._kept[: self._passed - self._wanted.start]

    def _noted(self, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for x in chunks:
            start = self._passed
            self._passed += len(x)
            part = x[max(self._wanted.start - start, 0) : max(self._wanted.stop - start, 0)]
            if len(part):
                if not self._kept.size:
                    self._kept = np.empty((len(self._wanted), *x.shape[1:]), x.dtype)
                at = max(start - self._wanted.start, 0)
                self._kept[at : at + len(part)] = part
            yield x


def kept_bytes(batch: Batch, count: int) -> int:
    """Memory that `count` images of a batch take that are drawn: as they come, kept, as pixels, and drawn."""
    elements = count * math.prod(batch.shape[1:])
    return batch.chunk_bytes + elements * (batch.dtype.itemsize + 1) + STREAM_BYTES


def check_figure(geometry: ConvGeometry, figure: str, look: Look, dtype: np.dtype[Any]) -> None:
    """Refuse, before any work, a picture of how X_col becomes an image that cannot be drawn."""
    from convmat.figures.writing import check_drawable
    from convmat.files.memory import check_memory

    check_drawable(geometry, figure)
    look.focus(geometry)
    elements = geometry.patches * geometry.matrix_shape[1] + math.prod(geometry.input_shape[1:])
    check_memory("figure", elements * 2 * (dtype.itemsize + 1), "draw a smaller image")
