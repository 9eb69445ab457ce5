"""Folders that appear whole or not at all: filled beside the target, renamed when complete."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from convmat.errors import FileError
from convmat.files.outputs import writing


@contextmanager
def new_folder(name: str) -> Iterator[str]:
    """A folder to fill, which takes the name given when the block ends well; else nothing is left of it.

    Raises:
        FileError: there is a file of that name, or a folder that is not empty; or it cannot be written.
    """
    with writing(name or "''"):
        check_new_folder(name)
        target = os.path.realpath(name)
        partial = os.path.join(os.path.dirname(target), f".convmat-{os.urandom(8).hex()}.tmp")
        try:
            os.mkdir(partial)
            yield partial
            with suppress(FileNotFoundError):
                os.chmod(partial, stat.S_IMODE(os.stat(target).st_mode))
            os.rename(partial, target)  # in place of an empty folder, and of nothing else
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def check_new_folder(name: str) -> None:
    """Raise FileError where there is anything that a new folder would replace."""
    with writing(name or "''"):
        if not name or name == "-":
            raise FileError(name or "''", "is no folder's name; name a folder to make")
        try:
            if os.listdir(name):
                raise FileError(name, "is there and not empty; name a new folder")
        except NotADirectoryError:
            raise FileError(name, "is there and no folder; name a new folder") from None
        except FileNotFoundError:
            if os.path.islink(name):
                raise FileError(name, "is a link to nothing; name a new folder") from None


@contextmanager
def kept_folder(name: str) -> Iterator[None]:
    """A folder that can be written to, made where there is none; when the block fails, none is left empty.

    Raises:
        FileError: it cannot be made or written to, or is a file.
    """
    made: list[str] = []
    try:
        with writing(name):
            _make_folders(name, made)
            os.rmdir(_partial_folder(name))  # only a try shows whether it can be written to
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)
        raise


def _make_folders(name: str, made: list[str]) -> None:
    """Make a folder, after all above it; `made` is told of each."""
    if not os.path.isdir(name):
        above = os.path.dirname(name.rstrip(os.sep))
        if above:
            _make_folders(above, made)
        os.mkdir(name)
        made.append(name)


def _partial_folder(folder: str) -> str:
    """A new folder for what is not yet complete, in another."""
    partial = os.path.join(folder, f".convmat-{os.urandom(8).hex()}.tmp")
    os.mkdir(partial)
    return partial


@contextmanager
def replaced_files(folder: str, owned: Iterable[str]) -> Iterator[str]:
    """A folder to fill with new files for `folder`, which get there together when the block ends well.

    Of the `owned` files that are there, those not written anew go. When the block fails, or a file cannot get
    to its place, all are what they were before.

    Raises:
        FileError: a file cannot be written, told by its name in `folder`.
    """
    with writing(folder):
        partial = _partial_folder(folder)
        try:
            try:
                yield partial
            except FileError as error:
                if os.path.dirname(error.subject) != partial:
                    raise
                raise FileError(
                    os.path.join(folder, os.path.basename(error.subject)), error.problem
                ) from error
            _exchange(partial, folder, owned)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _exchange(partial: str, folder: str, owned: Iterable[str]) -> None:
    """Put the files of `partial` in place of those in `folder`, all or none."""
    new = set(os.listdir(partial))
    old = os.path.join(partial, "old")
    os.mkdir(old)
    targets = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(new | set(owned))}
    for name, target in targets.items():
        with writing(os.path.join(folder, name)):
            _keep(target, os.path.join(old, name))
    touched = []
    try:
        for name, target in targets.items():
            touched.append(name)
            with writing(os.path.join(folder, name)):
                if name in new:
                    with suppress(FileNotFoundError):
                        os.chmod(os.path.join(partial, name), stat.S_IMODE(os.stat(target).st_mode))
                    os.replace(os.path.join(partial, name), target)
                elif os.path.exists(target):
                    os.unlink(target)
    except BaseException:
        for name in touched:
            _put_back(os.path.join(old, name), targets[name])
        raise


def _keep(target: str, kept: str) -> None:
    """Another name for a file, if there is one, under which it stays when its own is taken away."""
    if not os.path.exists(target):
        return
    if not os.access(target, os.W_OK):
        raise FileError(target, "is write-protected; name another folder")
    try:
        os.link(target, kept)
    except OSError:  # a disk without links
        shutil.copy2(target, kept)


def _put_back(kept: str, target: str) -> None:
    with suppress(OSError):
        if os.path.exists(kept):
            os.replace(kept, target)
        else:
            os.unlink(target)
