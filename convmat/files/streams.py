"""Streams that can be read once: standard input, named pipes and devices; looked at before they are read."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO, cast

from convmat.errors import FileError
from convmat.files.outputs import reading

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


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
        self._seen = b""
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
            while len(self._seen) < count and (more := self._stream.read1(count - len(self._seen))):
                self._seen += more
        return self._seen[:count]

    def read(self, size: int | None = -1, /) -> bytes:
        """As any stream's; it waits for all that is asked for."""
        found, self._seen = self._split(-1 if size is None else size)
        rest = -1 if size is None or size < 0 else size - len(found)
        return found + self._stream.read(rest) if rest else found

    def read1(self, size: int = -1, /) -> bytes:
        """What there is, up to `size` bytes, after one system call at most."""
        if not self._seen:
            return self._stream.read1(size)
        found, self._seen = self._split(size)
        return found

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """`read1` into a buffer."""
        if not self._seen:
            return self._stream.readinto1(buffer)
        with memoryview(buffer) as room:
            found, self._seen = self._split(len(room))
            room[: len(found)] = found
        return len(found)

    def _split(self, size: int) -> tuple[bytes, bytes]:
        return (self._seen, b"") if size < 0 else (self._seen[:size], self._seen[size:])

    def close(self) -> None:
        """Close what is read from."""
        self._stream.close()
        super().close()


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
