"""Arrays in files and pipes: .npy, whose headers NumPy's own format code reads, or numbers alone.

Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from convmat.checks import got
from convmat.errors import DTypeError, FileError
from convmat.files.described import EXAMPLE, Said, is_raw_name, said_of
from convmat.files.foreign import KNOWN_BYTES, foreign
from convmat.files.members import ZIP_MAGIC, open_member, open_only_member, split_member
from convmat.files.names import check_ending
from convmat.files.numbers import is_text, read_numbers
from convmat.files.outputs import open_output, reading
from convmat.files.streams import CHUNK, Pipe, is_pipe, open_file, shown_name, take
from convmat.files.tensors import is_safetensors, open_tensor
from convmat.formats import Format, Stored, stored

MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 10_000  # NumPy's own limit on what it parses
MAPPED_FROM = 1 << 28  # bytes; a file that shrinks under its map ends the process, so not without need
_PIECES: Any = ["external_loop", "buffered", "zerosize_ok"]
_PIECE = 1 << 18  # elements that are written at a time, and brought in order where they are not


class NpyInput:
    """An array whose shape and dtype are known, and whose data has not been read.

    Args:
        name: a path, "-" for standard input, "file.npz:member" for an array of an archive, "file.npz" where
            it has one alone; "file.safetensors:name" likewise; a .txt or .csv file is its numbers, (lines,
            columns). What is said of a `Described` one is the dtype of an .npy array that NumPy has none for,
            or all of raw numbers.
        stream: the bytes, where they have been opened already; to be read once.
        mapped_from: bytes of data above which a file is mapped.

    Raises:
        FileError: no such file, not an array of numbers, one of which nothing was said that had to be, or a
            file whose size is not what its header, or what was said, promises.
    """

    def __init__(
        self, name: str, stream: io.BufferedIOBase | None = None, mapped_from: int = MAPPED_FROM
    ) -> None:
        self.name, self._mapped_from = shown_name(name), mapped_from
        # A file is opened again for its data; from a pipe or an archive the rest is still to come.
        self._pipe: io.BufferedIOBase | None = None
        stream = stream or _open(name)
        self._said = said_of(name)
        try:
            self._is_raw = _is_raw(stream, name, self._said)
            head = _said_header if self._is_raw else _read_header
            self.shape, self.is_fortran, self._stored = head(stream, self.name, self._said)
            self.dtype = self._stored.read_as
            self.form: Format | None = self._stored.form or getattr(stream, "form", None)
            if isinstance(stream, io.BufferedReader):
                self._offset = stream.tell()
                self._check_size(os.fstat(stream.fileno()).st_size - self._offset)
            else:
                self._pipe = stream
        finally:
            if self._pipe is None:
                stream.close()

    @property
    def is_pipe(self) -> bool:
        """Whether the data can be read once only, and should be, to its end."""
        return self._pipe is not None

    @property
    def is_plain(self) -> bool:
        """Whether it is an .npy file in C order, of which its name alone says all."""
        return self._pipe is None and not (self._is_raw or self.form or self.is_fortran)

    @property
    def nbytes(self) -> int:
        """Memory that `read` takes."""
        return self._data_bytes + (math.prod(self.shape) * self.dtype.itemsize if self.form else 0)

    @property
    def _data_bytes(self) -> int:
        """Bytes of data the header promises."""
        return math.prod(self.shape) * self._stored.dtype.itemsize

    @property
    def outline(self) -> NDArray[Any]:
        """An array of this shape and dtype that takes no memory, for what the shape alone decides."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def skip(self) -> None:
        """Do without the data; what a pipe still brings is taken in, so that who writes it is not cut off."""
        if isinstance(self._pipe, Pipe):
            got = 0
            while more := len(take(self._pipe, min(CHUNK, self._data_bytes - got), self.name)):
                got += more
            self._check_end(self._pipe, got)
        elif self._pipe is not None:
            self._pipe.close()

    @property
    def is_mapped(self) -> bool:
        """Whether `read` maps the file, and takes no memory for it."""
        return self._pipe is None and not self._stored.is_foreign and self.nbytes > self._mapped_from

    def read(self) -> NDArray[Any]:
        """The whole array: read, or mapped where it is a file too large to be read lightly."""
        order: Literal["C", "F"] = "F" if self.is_fortran else "C"
        with self._data() as stream:
            if self.is_mapped:
                with reading(self.name):
                    # Checked once more, since a map of a file that shrank would end the process.
                    self._check_size(os.fstat(stream.fileno()).st_size - self._offset)
                    return np.asarray(np.memmap(stream, self.dtype, "r", self._offset, self.shape, order))
            data = take(stream, self._data_bytes, self.name)
            self._check_end(stream, len(data))
        return self._numbers(data).reshape(self.shape, order=order)

    def blocks(self, block_bytes: int) -> Iterator[NDArray[Any]]:
        """The array in blocks of whole steps along its first axis, at least one, in order.

        In C order it is never held whole.
        """
        return self._blocks(block_bytes, self.shape)

    def rows(self, block_bytes: int) -> Iterator[NDArray[Any]]:
        """The array as one matrix, all its axes but the last joined, in blocks of whole rows, in order."""
        return self._blocks(block_bytes, (math.prod(self.shape[:-1]), *self.shape[-1:]))

    def _blocks(self, block_bytes: int, shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
        row_bytes = self._data_bytes // max(shape[0], 1)
        step = max(block_bytes // max(row_bytes, 1), 1)
        if self.is_fortran:
            array = self.read().reshape(shape)
            for start in range(0, len(array), step):
                yield array[start : start + step]
            return
        with self._data() as stream:
            got = 0
            for start in range(0, shape[0], step):
                rows = min(step, shape[0] - start)
                data = take(stream, rows * row_bytes, self.name)
                got += len(data)
                if len(data) != rows * row_bytes:
                    self._check_size(got)
                yield self._numbers(data).reshape(rows, *shape[1:])
            self._check_end(stream, got)

    def _numbers(self, data: bytearray) -> NDArray[Any]:
        return self._stored.widened(np.frombuffer(data, self._stored.dtype))

    def _data(self) -> io.BufferedIOBase:
        """The stream at the beginning of the data."""
        if self._pipe is not None:
            return self._pipe
        stream = open_file(self.name)
        stream.seek(self._offset)
        return stream

    def _check_end(self, stream: io.BufferedIOBase, got: int) -> None:
        with reading(self.name):
            more = len(stream.read(1)) if got == self._data_bytes else 0
        self._check_size(got + more)

    def _check_size(self, there: int) -> None:
        """Refuse data that is shorter or longer than its header says."""
        if there == self._data_bytes:
            return
        kind, promised = self._stored.name, got(self._data_bytes)
        more = "" if there < self._data_bytes else " or more"
        if self._is_raw:
            raise FileError(
                self.name,
                f"has {there} bytes{more}, {kind} of shape {got(self.shape)} has {promised}; "
                f"give its dtype and shape, for it alone as FILE:{EXAMPLE}",
            )
        raise FileError(
            self.name,
            f"{'too long' if more else 'truncated'}: a {kind} array of shape {self.shape} has {promised} "
            f"bytes of data, got {there}{more}; write the file again",
        )


def write_npy(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
) -> None:
    """Write an .npy array in C order from consecutive blocks of it, to a file or, with "-", standard output.

    Raises:
        FileError: the output cannot be written, or is named like another format; nothing is left of it.
    """
    check_ending(name, "npy")
    rest = iter(blocks)
    # Work that fails at once fails before there is any output.
    first = next(rest, None)
    header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with open_output(name, math.prod(shape) * dtype.itemsize) as stream:
        npy_format.write_array_header_1_0(stream, header)
        stream.flush()
        while first is not None:
            for piece in np.nditer(first, _PIECES, order="C", buffersize=_PIECE):
                stream.write(np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8).data)
            first = next(rest, None)


def _open(name: str) -> io.BufferedIOBase:
    """The bytes of an array: a BufferedReader where it is a regular .npy file, which can be read again."""
    if is_pipe(name):
        return Pipe(name)
    if (member := split_member(name)) is not None:
        with open_file(member[0]) as file:
            of_tensors = is_safetensors(file.peek(KNOWN_BYTES))
        return (open_tensor if of_tensors else open_member)(*member, name)
    said = said_of(name)
    if is_text(name) and not said.is_own:
        return _as_npy(read_numbers(name))
    stream = open_file(name)
    if stream.peek(len(ZIP_MAGIC)).startswith(ZIP_MAGIC) and not said.is_raw(name, True):
        stream.close()
        return open_only_member(name)
    if is_safetensors(stream.peek(KNOWN_BYTES)):
        stream.close()
        return open_tensor(name, None, name)
    return stream


def _as_npy(array: NDArray[Any]) -> io.BytesIO:
    stream = io.BytesIO()
    npy_format.write_array(stream, array, allow_pickle=False)
    stream.seek(0)
    return stream


def _is_raw(stream: io.BufferedIOBase, name: str, said: Said) -> bool:
    """Whether the bytes that a stream begins with are numbers."""
    if said.shape is None or not isinstance(stream, io.BufferedReader | Pipe):
        return False
    with reading(name):
        start = stream.peek(KNOWN_BYTES)
    return not start.startswith(MAGIC) and said.is_raw(name, foreign(start) is not None)


def _said_header(_: io.BufferedIOBase, name: str, said: Said) -> tuple[tuple[int, ...], bool, Stored]:
    """The same of raw numbers, which have no header."""
    shape = said.shape or ()
    if said.dtype is None:
        raise FileError(name, f"is numbers of a dtype that it does not tell; give --dtype, or FILE:{EXAMPLE}")
    kind = _stored(said.dtype, name)
    if not _is_possible(shape, kind.dtype):
        raise FileError(name, f"cannot have the shape {got(shape)}, more than any array holds; give its own")
    return shape, False, kind


def _stored(dtype: str, name: str) -> Stored:
    try:
        return stored(dtype)
    except DTypeError as error:
        raise FileError(name, error.problem) from None


def _read_header(stream: io.BufferedIOBase, name: str, said: Said) -> tuple[tuple[int, ...], bool, Stored]:
    """Shape, Fortran order and dtype, of any format version, with everything checked that may lie."""
    with reading(name):
        start = stream.read(len(MAGIC) + 2)
    if not start:
        raise FileError(name, "is empty; expected an .npy array")
    if start.startswith(ZIP_MAGIC):
        raise FileError(name, "is an .npz archive, which no pipe can carry; name it as a file: file.npz:name")
    if not start.startswith(MAGIC):
        with reading(name):
            start += stream.read(KNOWN_BYTES)
        raw = f"of numbers alone say what they are: FILE:{EXAMPLE}" if is_raw_name(name) else ""
        raise FileError(name, foreign(start) or f"is not an .npy array; {raw or 'write it with numpy.save'}")
    version = tuple(start[len(MAGIC) :])
    if len(version) < 2:
        raise FileError(name, "truncated: the header ends after its first bytes; write the file again")
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise FileError(name, f"has .npy format version {version}; expected 1.0, 2.0 or 3.0")
    with reading(name):
        width = 2 if version == (1, 0) else 4
        prefix = stream.read(width)
        length = int.from_bytes(prefix, "little")
        if length > _HEADER_LIMIT:
            raise FileError(name, f"claims a header of {length} bytes; expected at most {_HEADER_LIMIT}")
        text = stream.read(length)
    if len(prefix) != width or len(text) != length:
        raise FileError(name, f"truncated: the header has {length} bytes, got {len(text)}")
    # As ml_dtypes' float8_e5m2 is saved, and nothing else.
    text, is_e5m2 = re.subn(rb"('descr': )'[<>|=]f1'", rb"\1'|V1'", text)
    said = said._replace(dtype="float8_e5m2") if is_e5m2 else said
    # The versions differ in the width of the length, and in an encoding that matters to field names only.
    header = io.BytesIO(length.to_bytes(4, "little") + text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = npy_format.read_array_header_2_0(header)
    except Exception:  # nonsense may upset the parser in any way
        raise FileError(name, "has a damaged .npy header; write the file again") from None
    if dtype.hasobject:
        raise FileError(name, "holds pickled Python objects, which are never loaded; save numbers")
    kind = _known(dtype, said, name) if dtype.str in ("|V1", "|V2") else Stored(str(dtype), dtype)
    if kind.dtype.kind not in "biufc" and not kind.is_foreign:
        raise FileError(name, f"holds {dtype} values; expected booleans, integers, floats or complex numbers")
    if not _is_possible(shape, dtype):
        raise FileError(name, "claims an impossible shape; write the file again")
    return shape, fortran_order, kind


def _known(dtype: np.dtype[Any], said: Said, name: str) -> Stored:
    """What values are that NumPy has no dtype for; of such dtypes .npy keeps only the size."""
    if said.dtype is None:
        like, example = (
            ("bfloat16 is", "bfloat16") if dtype.itemsize == 2 else ("float8 and int4 are", "float8_e4m3fn")
        )
        raise FileError(
            name,
            f"holds values of dtype '{dtype.str}', as ml_dtypes' {like} saved, which NumPy does not know; "
            f"say which they are, as in --dtype {example}",
        )
    kind = _stored(said.dtype, name)
    if kind.dtype.itemsize != dtype.itemsize:
        each = f"{dtype.itemsize} byte{'s' * (dtype.itemsize > 1)}"
        problem = f"holds values of {each}, {kind.name} has {kind.dtype.itemsize}; give another --dtype"
        raise FileError(name, problem)
    return kind


def _is_possible(shape: tuple[Any, ...], dtype: np.dtype[Any]) -> bool:
    if any(type(d) is not int or d < 0 for d in shape):
        return False
    try:
        np.empty((0, *shape[1:]), dtype)  # no memory, but NumPy's own word on the shape
    except ValueError:
        return False
    size: int = math.prod(max(d, 1) for d in shape)
    return size * dtype.itemsize < 1 << 63


def is_array(name: str, pipe: Pipe | None = None) -> bool:
    """Whether an input is an array: .npy, an archive or a member of one, text, or numbers alone."""
    if pipe is not None:
        start = pipe.peek(len(MAGIC))
    elif not os.path.isfile(name):
        return split_member(name) is not None
    else:
        start = b""
        with suppress(OSError), open(name, "rb") as stream:
            start = stream.read(KNOWN_BYTES)
    said = said_of(name)
    if (
        start.startswith((MAGIC, ZIP_MAGIC))
        or (pipe is None and is_text(name))
        or said.is_own
        or is_safetensors(start)
    ):
        return True
    if said.shape is None and not is_raw_name(name):
        return False
    from convmat.files.images import MAGICS  # Pillow, only where there may be an image

    return said.is_raw(name, start.startswith(MAGICS)) or not start.startswith(MAGICS)
