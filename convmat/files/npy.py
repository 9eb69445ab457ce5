"""Arrays in .npy files and pipes: headers by NumPy's own format code, nothing ever unpickled."""

from __future__ import annotations

import io
import math
import os
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files.outputs import open_output, reading

MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 10_000  # NumPy's own limit on what it parses
_CHUNK = 1 << 24  # a pipe's data is taken in as it comes, so that a header's lies allocate nothing


class NpyInput:
    """An .npy array whose header has been read and whose data has not.

    Args:
        name: a path, or "-" for standard input.

    Raises:
        FileError: no such file, not an .npy array of numbers, or a file whose size is not what its header
            promises.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == "-" else name
        # A file is opened again for its data; from a pipe the rest is still to come.
        self._pipe: IO[bytes] | None = None
        stream = _open(name, self.name)
        try:
            self.shape, self._fortran_order, self.dtype = _read_header(stream, self.name)
            status = os.fstat(stream.fileno())
            if name != "-" and stat.S_ISREG(status.st_mode):
                self._offset = stream.tell()
                self._check_size(status.st_size - self._offset)
            else:
                self._pipe = stream
        finally:
            if self._pipe is None:
                stream.close()

    @property
    def nbytes(self) -> int:
        """Bytes of data the header promises."""
        return math.prod(self.shape) * self.dtype.itemsize

    def _check_size(self, there: int) -> None:
        """Refuse data that is shorter or longer than its header says."""
        if there != self.nbytes:
            state = "truncated" if there < self.nbytes else "too long"
            raise FileError(
                self.name,
                f"{state}: a {self.dtype} array of shape {self.shape} has {self.nbytes} bytes of data, "
                f"got {there}{'' if there < self.nbytes else ' or more'}; write the file again",
            )

    def read(self) -> NDArray[Any]:
        """The whole array; mapped from a file, not read, where that can be."""
        order: Literal["C", "F"] = "F" if self._fortran_order else "C"
        if self._pipe is None:
            with reading(self.name), open(self.name, "rb") as stream:
                self._check_size(os.fstat(stream.fileno()).st_size - self._offset)
                if not self.nbytes:
                    return np.empty(self.shape, self.dtype)
                return np.asarray(np.memmap(stream, self.dtype, "r", self._offset, self.shape, order))
        with self._pipe as stream:
            data = bytearray()
            while chunk := self._take(min(self.nbytes - len(data), _CHUNK)):
                data += chunk
            self._check_size(len(data) + (len(data) == self.nbytes and len(self._take(1))))
            return np.frombuffer(data, self.dtype).reshape(self.shape, order=order)

    def blocks(self, block_bytes: int) -> Iterator[NDArray[Any]]:
        """The array in blocks of whole steps along its first axis, at least one, in order.

        A pipe in C order is never held whole.
        """
        row_bytes = self.nbytes // max(self.shape[0], 1)
        step = max(block_bytes // max(row_bytes, 1), 1)
        if self._pipe is None or self._fortran_order:
            array = self.read()
            for start in range(0, len(array), step):
                yield array[start : start + step]
            return
        with self._pipe:
            got = 0
            for start in range(0, self.shape[0], step):
                rows = min(step, self.shape[0] - start)
                data = self._take(rows * row_bytes)
                got += len(data)
                if len(data) != rows * row_bytes:
                    self._check_size(got)
                yield np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
            self._check_size(got + len(self._take(1)))

    def _take(self, count: int) -> bytes:
        assert self._pipe is not None
        with reading(self.name):
            return self._pipe.read(count)


def write_npy(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
) -> None:
    """Write an .npy array in C order from consecutive blocks of it, to a file or, with "-", standard output.

    Raises:
        FileError: the output cannot be written; nothing is left of it.
    """
    with open_output(name) as stream:
        header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(stream, header)
        stream.flush()
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data)


def _open(name: str, shown: str) -> IO[bytes]:
    if name != "-":
        with reading(shown):
            return open(name, "rb")
    if sys.stdin is None:
        raise FileError(shown, "is closed; pipe .npy bytes into it, or name a file")
    if sys.stdin.isatty():
        raise FileError(shown, "is a terminal; pipe .npy bytes into it, or name a file")
    return sys.stdin.buffer


def _read_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype, of any format version, with everything checked that may lie."""
    with reading(name):
        start = stream.read(len(MAGIC) + 2)
    if not start:
        raise FileError(name, "is empty; expected an .npy array")
    if not start.startswith(MAGIC):
        kind = "an .npz archive" if start.startswith(b"PK") else "not an .npy array"
        raise FileError(name, f"is {kind}; write it with numpy.save")
    version = tuple(start[len(MAGIC) :])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise FileError(name, f"has .npy format version {version}; expected 1.0, 2.0 or 3.0")
    with reading(name):
        width = 2 if version == (1, 0) else 4
        length = int.from_bytes(stream.read(width), "little")
        if length > _HEADER_LIMIT:
            raise FileError(name, f"claims a header of {length} bytes; expected at most {_HEADER_LIMIT}")
        text = stream.read(length)
    if len(text) != length:
        raise FileError(name, f"truncated: the header has {length} bytes, got {len(text)}")
    # The versions differ in the width of the length, and in an encoding that matters to field names only.
    header = io.BytesIO(length.to_bytes(4, "little") + text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = npy_format.read_array_header_2_0(header)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
        raise FileError(name, "has a damaged .npy header; write the file again") from None
    if any(type(d) is not int or not 0 <= d < 1 << 63 for d in shape):
        raise FileError(name, "claims an impossible shape; write the file again")
    if dtype.hasobject:
        raise FileError(name, "holds pickled Python objects, which are never loaded; save numbers")
    if dtype.kind not in "biufc":
        raise FileError(name, f"holds {dtype} values; expected booleans, integers, floats or complex numbers")
    return shape, fortran_order, dtype


def is_npy(name: str) -> bool:
    """Whether a file begins like an .npy array; pipes, which cannot be asked twice, are to be one."""
    if name == "-" or (os.path.exists(name) and not os.path.isfile(name) and not os.path.isdir(name)):
        return True
    with suppress(OSError), open(name, "rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC
    return False
