"""Arrays of .npz archives as streams: which there are, and what name means which."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from typing import IO

from convmat.errors import FileError
from convmat.files.foreign import foreign_archive
from convmat.files.outputs import reading

ZIP_MAGIC = b"PK"
ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, EOFError, struct.error, ValueError, OverflowError),
    *(NotImplementedError, RuntimeError),
)
"""What an archive that is damaged, encrypted or of a later version may come to."""

_DIRECTORY_LIMIT = 1 << 22  # bytes: some 50,000 members, of which zipfile makes an object each
_LISTED = 12  # names in an error


class _Member(io.BufferedIOBase):
    """A member whose damage, found while unpacking, is told as a file's."""

    def __init__(self, stream: IO[bytes], shown: str) -> None:
        self._stream, self._shown = stream, shown

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return self._stream.read(-1 if size is None else size)
        except (*ZIP_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # bzip2's have none
                raise
            raise FileError(self._shown, f"is damaged: {error}") from None

    read1 = read

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_zip(name: str) -> zipfile.ZipFile:
    """A zip archive, to be closed, unless its list of members is too long to be read.

    The length is that of the end of central directory record, or of the zip64 one before it (APPNOTE, 4.3.14
    and 4.3.16).

    Raises:
        OSError, and those of `ZIP_DAMAGE`.
    """
    with open(name, "rb") as stream:
        stream.seek(max(stream.seek(0, os.SEEK_END) - (1 << 17), 0))
        tail = stream.read()
    before, mark, end = tail.rpartition(b"PK\5\6")
    wide = before[-76:]
    length = wide[40:48] if wide.startswith(b"PK\6\6") else end[8:12]
    listed = int.from_bytes(length, "little") if mark else 0
    if listed > _DIRECTORY_LIMIT:
        raise zipfile.BadZipFile(f"it lists members in {listed} bytes, expected at most {_DIRECTORY_LIMIT}")
    return zipfile.ZipFile(name)


def split_member(name: str) -> tuple[str, str] | None:
    """(archive, member) of "file.npz:member", either of which may hold colons; None for any other name."""
    if os.path.exists(name):
        return None
    ends = (end for end in range(len(name) - 1, 0, -1) if name[end] == ":")
    return next(((name[:end], name[end + 1 :]) for end in ends if os.path.isfile(name[:end])), None)


def archive_names(name: str) -> list[str]:
    """The names of an archive's arrays.

    Raises:
        FileError: it cannot be read, or is no archive.
    """
    with _opened(name, name) as archive:
        return _array_names(archive)


def open_member(archive: str, member: str, shown: str) -> io.BufferedIOBase:
    """One array of an .npz archive, as a stream of .npy bytes; `shown` is its name in errors."""
    with _opened(archive, shown) as opened:
        names = _array_names(opened)
        if member not in names:
            raise FileError(shown, f"has no such array; {archive} has {listed_names(names)}")
        if names.count(member) > 1:
            raise FileError(shown, f"is {names.count(member)} arrays of one name; write the archive again")
        return _Member(opened.open(f"{member}.npy"), shown)


def open_only_member(archive: str) -> io.BufferedIOBase:
    """The array of an archive that has one, whatever its name, as a stream of .npy bytes.

    Raises:
        FileError: it has none, or several to choose from, or is another kind of archive.
    """
    with _opened(archive, archive) as opened:
        names = _array_names(opened)
        if len(names) == 1:
            return _Member(opened.open(f"{names[0]}.npy"), archive)
        if names:
            problem = f"has {len(names)} arrays, {listed_names(names)}; name one, as in {archive}:{names[0]}"
        else:
            problem = foreign_archive(opened.namelist()) or "is a zip archive without arrays; write .npz"
        raise FileError(archive, problem)


def _array_names(archive: zipfile.ZipFile) -> list[str]:
    return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def listed_names(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


@contextmanager
def _opened(archive: str, shown: str) -> Iterator[zipfile.ZipFile]:
    try:
        with reading(shown), open_zip(archive) as opened:
            yield opened
    except ZIP_DAMAGE as error:
        said = "cannot be read: " if shown != archive else ""
        raise FileError(shown, f"{said}{archive} is no .npz archive: {error}") from None
