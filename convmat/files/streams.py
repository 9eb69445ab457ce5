"""Streams that can be read once: standard input, named pipes and devices; looked at before they are read."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO, cast

from convmat.errors import FileError
from convmat.files.memory import check_memory
from convmat.files.outputs import reading

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


CHUNK = 1 << 24
"""Bytes that are taken in at a time, where there are many."""


def shown_name(name: str) -> str:
    """What an input is called in errors and tables."""
    return "standard input" if name == "-" else name


def is_pipe(name: str) -> bool:
    """Whether an input can be read once only: standard input, or neither a regular file nor a folder."""
    return name == "-" or (os.path.exists(name) and not os.path.isfile(name) and not os.path.isdir(name))


def open_file(name: str) -> io.BufferedReader:
    """A file's bytes, for the caller to close.

    Raises:
        FileError: it cannot be opened.
    """
    with reading(name):
        return open(name, "rb")


class Pipe(io.BufferedIOBase):
    """A stream that can be read once, whose first bytes can be looked at before.

    Args:
        name: "-" for standard input, or the path of a named pipe or a device.

    Raises:
        FileError: it is closed, a terminal, or cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self.name = shown_name(name)
        self._peeked = b""
        if name == "-":
            if sys.stdin is None:
                raise FileError(self.name, "is closed; pipe an image or .npy bytes into it, or name a file")
            self._stream = cast("io.BufferedIOBase", sys.stdin.buffer)
        else:
            self._stream = open_file(name)
        if self._stream.isatty():
            raise FileError(self.name, "is a terminal; pipe an image or .npy bytes into it, or name a file")

    def peek(self, count: int) -> bytes:
        """The first `count` bytes that are still to be read, or all where there are fewer."""
        with reading(self.name):
            while len(self._peeked) < count and (more := self._stream.read1(count - len(self._peeked))):
                self._peeked += more
        return self._peeked[:count]

    def read(self, size: int | None = -1, /) -> bytes:
        """As any stream's; it waits for all that is asked for."""
        start = self._from_peeked(-1 if size is None else size)
        rest = -1 if size is None or size < 0 else size - len(start)
        return start + self._stream.read(rest) if rest else start

    def read1(self, size: int = -1, /) -> bytes:
        """What there is, up to `size` bytes, after one system call at most."""
        return self._from_peeked(size) if self._peeked else self._stream.read1(size)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """`read1` into a buffer."""
        if not self._peeked:
            return self._stream.readinto1(buffer)
        with memoryview(buffer) as room:
            data = self._from_peeked(len(room))
            room[: len(data)] = data
        return len(data)

    def _from_peeked(self, size: int) -> bytes:
        """The first of the bytes that were looked at, which count as read then; all where `size` < 0."""
        end = len(self._peeked) if size < 0 else size
        data, self._peeked = self._peeked[:end], self._peeked[end:]
        return data

    def close(self) -> None:
        """Close what is read from."""
        self._stream.close()
        super().close()


def take(stream: io.BufferedIOBase, count: int, name: str, room: int = CHUNK) -> bytearray:
    """Up to `count` bytes, taken in as they come, so that what a header promises allocates nothing.

    `room` is made for so many at first.

    Raises:
        FileError: they cannot be read. MemoryLimitError: there are more than memory has room for.
    """
    data, got = bytearray(min(count, room)), 0
    with reading(name):
        while got < count:
            if got == len(data):
                check_memory(name, count - got, "give a smaller array")
                data += bytes(min(count - got, got))
            # One system call at a time: between two that wait for data, a signal would go unheard.
            with memoryview(data) as view:
                more = stream.readinto1(view[got:])
            if not more:
                break
            got += more
    del data[got:]
    return data


def patient(stream: TextIO | None) -> TextIO | None:
    """A standard stream; one that does not block, as another program may have left it, made to wait."""
    if not isinstance(stream, io.TextIOWrapper) or os.get_blocking(stream.fileno()):
        return stream
    raw = _Patient(stream.fileno())
    buffer = io.BufferedReader(raw) if stream.readable() else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering)


class _Patient(io.RawIOBase):
    """An open file that waits until it can be read or written."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, room: WriteableBuffer, /) -> int:
        select.select([self], [], [])
        return os.readv(self._number, [room])

    def write(self, data: ReadableBuffer, /) -> int:
        select.select([], [self], [])
        return os.write(self._number, data)
