"""Outputs that appear whole or not at all: a temporary file beside the target, renamed when complete."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from convmat.errors import FileError

PICTURE_FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The outputs that are pictures, by suffix, and Pillow's names of their formats."""

ANIMATION_FORMATS = {".apng": "PNG", ".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}
"""The outputs that can move, by suffix, and Pillow's names of their formats."""


def is_picture(name: str) -> bool:
    """Whether an output of this name is to be a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_FORMATS


@contextmanager
def open_output(name: str, nbytes: int = 0) -> Iterator[IO[bytes]]:
    """A stream to write to: standard output for "-", else the file of exactly that name.

    `nbytes`, of what is to be written, are refused where the disk has less.

    A regular file is replaced in one step when the block ends well, keeping its mode and what links point to
    it; when the block fails nothing has changed. Pipes and devices are written to directly.

    Raises:
        FileError: the output cannot be written. BrokenPipeError: its reader has gone.
    """
    if name == "-":
        with writing("standard output"):
            yield _standard_output()
            sys.stdout.flush()
        return
    with writing(name or "''"):
        if not name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            old = os.stat(name)
        except FileNotFoundError:
            old = None
        if name.endswith("/") or (old is not None and stat.S_ISDIR(old.st_mode)):
            raise FileError(name, "is a folder; name a file")
        if old is not None and not os.access(name, os.W_OK):
            raise FileError(name, "is write-protected; name another file")
        if old is not None and not stat.S_ISREG(old.st_mode):
            with open(name, "wb") as stream:
                if stream.isatty():
                    raise FileError(name, "is a terminal; name a file")
                yield stream
            return
        target = os.path.realpath(name)
        free = _free_bytes(os.path.dirname(target))
        if nbytes > free:
            raise FileError(name, f"needs {nbytes} bytes, its disk has {free} free; name another disk")
        # The default mode obeys the umask, where a mkstemp file would be private.
        partial = os.path.join(os.path.dirname(target), f".convmat-{os.urandom(8).hex()}.tmp")
        try:
            with open(partial, "xb") as stream:
                yield stream
                stream.flush()
                if old is not None:
                    os.fchmod(stream.fileno(), stat.S_IMODE(old.st_mode))
                os.fsync(stream.fileno())
            os.replace(partial, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise


def _free_bytes(folder: str) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _standard_output() -> IO[bytes]:
    if sys.stdout is None:
        raise FileError("standard output", "is closed; name a file with -o")
    if sys.stdout.isatty():
        raise FileError("standard output", "is a terminal; send .npy bytes to a pipe, or name a file with -o")
    return sys.stdout.buffer


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Errors of the system while reading, with the name of the file they are about."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(name, f"cannot be read: {error.strerror or error}") from error


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Errors of the system while writing, with the name of the file they are about."""
    try:
        yield
    except (FileError, BrokenPipeError):
        raise
    except OSError as error:
        raise FileError(name, f"cannot be written: {error.strerror or error}") from error
