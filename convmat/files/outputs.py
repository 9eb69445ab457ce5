"""Outputs that appear whole or not at all, and those of one command together.

Each is written beside its target, under a hidden name, and gets its own once all are complete. The name tells
who writes, so that what a process left that was killed is removed by the next that writes in that folder.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import IO

from convmat.errors import FileError


def check_apart(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Refuse outputs that would be written over an input, or two to one file, under whatever names.

    Files are told apart by device and number, those that are not there yet by their folder's; links are
    followed. "-" is standard output, among inputs standard input. Terminals, devices and sockets can be
    shared.

    Raises:
        FileError: an output that is also an input, or another output.
    """
    read = {_identity(_archive(name), 0) for name in inputs} - {None}
    written: dict[tuple[object, ...], str] = {}
    for name in outputs:
        file, shown = _identity(name, 1), "standard output" if name == "-" else name
        if file is None:
            continue
        if file in read:
            raise FileError(shown, "is an input, and those are never written over; name another")
        if file in written:
            raise FileError(shown, f"is the same file as {written[file]}, an output, too; name another")
        written[file] = shown


def _identity(name: str, standard: int) -> tuple[object, ...] | None:
    """What all names of a file have in common; None for what can be shared, or cannot be found."""
    try:
        there = os.fstat(standard) if name == "-" else os.stat(name)
    except FileNotFoundError:
        with suppress(OSError):  # the current folder may be gone
            folder, base = os.path.split(os.path.realpath(name))
            inside = os.stat(folder)
            return inside.st_dev, inside.st_ino, base
        return None
    except OSError:  # told where it is opened
        return None
    shared = stat.S_ISCHR(there.st_mode) or stat.S_ISSOCK(there.st_mode)
    return None if shared else (there.st_dev, there.st_ino)


def _archive(name: str) -> str:
    """The file of file.npz:name; any other name as it is."""
    while not os.path.exists(name) and ":" in name:
        name = name.rpartition(":")[0]
    return name


_unfinished: list[Callable[[], None]] = []
"""What undoes, from the last to the first, all that has been begun and is not done."""


def abandon_outputs() -> None:
    """Undo all that is not done: for a signal's handler, which ends the process at any place.

    Raises:
        FileError: what was in place of an output could not be put back.
    """
    failed = None
    while _unfinished:
        try:
            _unfinished.pop()()
        except FileError as error:
            failed = error
    if failed is not None:
        raise failed


@contextmanager
def undone_by(undo: Callable[[], None]) -> Iterator[None]:
    """A block that is undone where it fails, and where a signal ends the process in it; twice is as once."""
    _unfinished.append(undo)
    try:
        yield
    except BaseException:
        undo()
        raise
    finally:
        _forget(undo)


def _forget(undo: Callable[[], None]) -> None:
    with suppress(ValueError):
        _unfinished.remove(undo)


class _New:
    """A file or folder under a hidden name, and the name it is to get; or nothing, in place of a file."""

    def __init__(self, name: str, target: str, removes: bool = False) -> None:
        self.name = name
        self.target, self.partial = target, _hidden(target)
        self._aside: str | None = None
        self._removes = removes
        _unfinished.append(self.clean)

    @property
    def waits(self) -> bool:
        """Whether it has not got its name."""
        return os.path.lexists(self.target if self._removes else self.partial)

    def place(self, keep: bool) -> None:
        """Put it in place of what is there, which is kept aside if need be."""
        if self._removes:
            self._aside = _hidden(self.target, "old")
            os.rename(self.target, self._aside)
            return
        full = os.path.isdir(self.target) and os.listdir(self.target)  # which nothing takes the place of
        if (keep or full) and os.path.lexists(self.target):
            self._aside = _hidden(self.target, "old")
            try:
                os.link(self.target, self._aside)
            except OSError:  # a folder, or a disk without links: for a moment nothing has the name
                os.rename(self.target, self._aside)
        os.replace(self.partial, self.target)

    def undo(self) -> None:
        """Put back what was there."""
        if not self.waits and not self._removes:
            os.rename(self.target, self.partial)
        if self._aside is not None and os.path.lexists(self._aside):
            try:
                os.replace(self._aside, self.target)
            except OSError as error:
                kept, self._aside = self._aside, None
                problem = f"could not be put back: {error.strerror}; what was there is kept as {kept}"
                raise FileError(self.name, problem) from error

    def clean(self) -> None:
        """Remove what has no name of its own."""
        for path in (self.partial, self._aside):
            if path is not None:
                _remove(path)
        _forget(self.clean)


def _hidden(target: str, ending: str = "tmp") -> str:
    """A new name beside a target, since nothing can be renamed from one disk to another."""
    name = f".convmat-{_processes()}-{os.getpid()}-{os.urandom(8).hex()}.{ending}"
    return os.path.join(os.path.dirname(target), name)


@cache
def _processes() -> str:
    """What tells apart the systems, from one start to the next, and their parts that number processes."""
    system = os.uname().nodename
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as stream:
        system += stream.read() + os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(system.encode()):08x}"


@cache  # once for each folder is enough
def _sweep(folder: str) -> None:
    """Remove what processes that are no more have left in a folder under hidden names."""
    left = re.compile(rf"\.convmat-{_processes()}-(\d+)-[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for name in os.listdir(folder):
            match = left.fullmatch(name)
            if match and not _is_running(int(match[1])):
                _remove(os.path.join(folder, name))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    return True


def _remove(path: str) -> None:
    """Remove a file, a link or a whole folder, where that can be."""
    with suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


# What waits for the end of the innermost block of `together`.
_waiting: ContextVar[list[_New] | None] = ContextVar("waiting", default=None)


@contextmanager
def together() -> Iterator[None]:
    """A block whose outputs get their names when it ends well, all of them; else none, and nothing changes.

    What goes to standard output, pipes and devices is on its way at once.

    Raises:
        FileError: one could not get its name; all that was in place of others is as before.
    """
    waiting: list[_New] = []
    token = _waiting.set(waiting)
    try:
        yield
        _place(waiting)
    finally:
        _waiting.reset(token)
        for new in waiting:
            new.clean()


def _place(waiting: list[_New]) -> None:
    placed: list[_New] = []
    with undone_by(lambda: _take_back(waiting, placed)):
        for new in waiting:
            placed.append(new)
            with writing(new.name):
                # Of one alone nothing has ever to be undone.
                new.place(keep=len(waiting) > 1)


def _take_back(waiting: list[_New], placed: list[_New]) -> None:
    if any(new.waits for new in waiting):  # else it was a signal that came when all was done
        for new in reversed(placed):
            new.undo()


@contextmanager
def new_output(name: str) -> Iterator[str]:
    """A hidden name for what gets the name given when the block, and one of `together` around it, end well.

    Raises:
        FileError: it could not get its name; what was there is still there.
    """
    new, waiting = _New(name, os.path.realpath(name)), _waiting.get()
    try:
        _sweep(os.path.dirname(new.target))
        yield new.partial
        if waiting is None:
            _place([new])
    except BaseException:
        new.clean()
        raise
    if waiting is None:
        new.clean()
    else:
        waiting.append(new)


def remove_output(name: str) -> None:
    """Remove a file, if there is one, when the block of `together` around it ends well.

    Raises:
        FileError: it cannot be removed; it is still there.
    """
    target = os.path.realpath(name)
    if not os.path.lexists(target):
        return
    if not os.access(target, os.W_OK):
        raise FileError(name, "is write-protected; name another folder")
    gone, waiting = _New(name, target, removes=True), _waiting.get()
    if waiting is None:
        _place([gone])
        gone.clean()
    else:
        waiting.append(gone)


@contextmanager
def open_output(name: str, nbytes: int = 0) -> Iterator[IO[bytes]]:
    """A stream to write to: standard output for "-", else the file of exactly that name.

    `nbytes`, of what is to be written, are refused where the disk has less.

    A regular file is replaced in one step when the block ends well, or that of `together` around it, keeping
    its mode and what links point to it; when the block fails nothing has changed. Pipes, devices and what the
    process has open already, as /dev/fd/3, are written to directly.

    Raises:
        FileError: the output cannot be written. BrokenPipeError: its reader has gone.
    """
    check_output(name)
    if name == "-":
        with writing("standard output"):
            yield sys.stdout.buffer
            sys.stdout.flush()
        return
    with writing(name):
        if (number := _descriptor(name)) is not None:
            with open(os.dup(number), "wb") as stream:
                yield stream
            return
        old = os.stat(name) if os.path.exists(name) else None
        if old is not None and not stat.S_ISREG(old.st_mode):
            with open(name, "wb") as stream:
                if stream.isatty():
                    raise FileError(name, "is a terminal; name a file")
                yield stream
            return
        free = _free_bytes(os.path.dirname(os.path.realpath(name)))
        if nbytes > free:
            raise FileError(name, f"needs {nbytes} bytes, its disk has {free} free; name another disk")
        # The default mode obeys the umask, where a mkstemp file would be private.
        with new_output(name) as partial, open(partial, "xb") as stream:
            yield stream
            stream.flush()
            if old is not None:
                os.fchmod(stream.fileno(), stat.S_IMODE(old.st_mode))
            os.fsync(stream.fileno())


def check_output(name: str) -> None:
    """Refuse what can be seen to be no file that could be written, before there is anything to write.

    Raises:
        FileError: a folder, a name in none, a file or folder that is write-protected; standard output that is
            closed or a terminal.
    """
    if name == "-":
        _check_standard_output()
        return
    with writing(name or "''"):
        if not name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if (number := _descriptor(name)) is not None:
            os.fstat(number)  # where it is not open this says so
            if os.isatty(number):
                raise FileError(name, "is a terminal; name a file")
            return
        try:
            old = os.stat(name)
        except FileNotFoundError:
            old = None
        if name.endswith("/") or (old is not None and stat.S_ISDIR(old.st_mode)):
            raise FileError(name, "is a folder; name a file")
        if old is not None and not os.access(name, os.W_OK):
            raise FileError(name, "is write-protected; name another file")
        if old is None or stat.S_ISREG(old.st_mode):
            folder = os.path.dirname(os.path.realpath(name))
            os.stat(os.path.join(folder, ""))  # where there is none this says why
            if not os.access(folder, os.W_OK | os.X_OK):
                raise FileError(name, "is in a folder that is write-protected; name another")


def _check_standard_output() -> None:
    closed = FileError("standard output", "is closed; name a file with -o")
    if sys.stdout is None:
        raise closed
    try:
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # no file of the system's
        pass
    except OSError as error:
        if error.errno == errno.EBADF:
            raise closed from None
    if sys.stdout.isatty():
        raise FileError("standard output", "is a terminal; send .npy bytes to a pipe, or name a file with -o")


def _descriptor(name: str) -> int | None:
    """N, where a name leads to what this process has open as N: /dev/fd/N, /proc/self/fd/N, /dev/stdout."""
    for _ in range(40):  # links, of which Linux follows as many
        folder, base = os.path.split(name)
        if base.isdecimal() and os.path.realpath(folder) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(base)
        try:
            name = os.path.join(folder, os.readlink(name))
        except OSError:
            break
    return None


def _free_bytes(folder: str) -> int:
    """Bytes free on a folder's disk; no end of them where it does not know its size."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else sys.maxsize


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
