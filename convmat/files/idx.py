"""IDX files, in which MNIST comes: bytes of images behind a short header, plain or compressed by gzip.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a code for the element type (8: uint8), the
number of axes, the size of each as four bytes, big-endian; then the elements in C order.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files.outputs import reading
from convmat.files.streams import take

_HEADER = 16  # bytes
_BLOCK = 1 << 24  # bytes
_ROOM = 1 << 20  # bytes that are made room for, whatever a header says


class IdxInput:
    """The images of an IDX file, whose header has been read and whose data has not; .gz is unpacked.

    Raises:
        FileError: it cannot be read, is damaged, or holds something else.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, name: str) -> None:
        self.name = name
        with self._open() as stream:
            header = stream.read(_HEADER)
        if len(header) < _HEADER or header[:4] != b"\0\0\x08\x03":
            raise FileError(
                name, "is no IDX file of images; expected 00 00 08 03, three axes of bytes, first"
            )
        n, h, w = (int.from_bytes(header[start : start + 4], "big") for start in (4, 8, 12))
        self.shape = (n, h, w)

    @property
    def nbytes(self) -> int:
        """Bytes of data the header promises."""
        return math.prod(self.shape)

    def blocks(self, block_bytes: int) -> Iterator[NDArray[np.uint8]]:
        """The images in order, (n, H, W), at least one at a time; no more is unpacked than the header says.

        Raises:
            FileError: there is less, or more.
        """
        n, h, w = self.shape
        step = max(block_bytes // max(h * w, 1), 1)
        with self._open() as stream:
            stream.read(_HEADER)
            got = 0
            for start in range(0, n, step):
                data = take(stream, min(step, n - start) * h * w, self.name, _ROOM)
                got += len(data)
                if got < min(start + step, n) * h * w:
                    raise self._another_size("truncated", got)
                yield np.frombuffer(data, self.dtype).reshape(-1, h, w)
            if stream.read(1):
                raise self._another_size("too long", got + 1)

    def _another_size(self, state: str, got: int) -> FileError:
        more = " or more" if state == "too long" else ""
        return FileError(
            self.name,
            f"{state}: {self.shape} uint8 images are {self.nbytes} bytes, got {got}{more}; download it again",
        )

    @contextmanager
    def _open(self) -> Iterator[io.BufferedIOBase]:
        try:
            with (
                reading(self.name),
                gzip.open(self.name) if self.name.endswith(".gz") else open(self.name, "rb") as stream,
            ):
                yield stream
        except FileError as error:
            if isinstance(error.__cause__, gzip.BadGzipFile):
                raise FileError(self.name, f"is a damaged .gz file: {error.__cause__}") from None
            raise
        except (EOFError, zlib.error) as error:
            raise FileError(self.name, f"is a damaged .gz file: {error}") from None


def read_idx_images(name: str) -> NDArray[np.uint8]:
    """The images (N, H, W) of an IDX file; one whose name ends in .gz is unpacked.

    Raises:
        FileError: as `IdxInput` and its `blocks`.
    """
    source = IdxInput(name)
    blocks = list(source.blocks(_BLOCK))
    return np.concatenate(blocks) if blocks else np.empty(source.shape, np.uint8)
