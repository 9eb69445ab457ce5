"""Folders that appear whole or not at all: filled beside the target, renamed when complete."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from convmat.errors import FileError
from convmat.files.names import check_ending
from convmat.files.outputs import new_output, together, undone_by, writing

Check = Callable[[str], None]


@contextmanager
def new_folder(name: str, may_go: Check | None = None) -> Iterator[str]:
    """A folder to fill, which takes the name given when the block ends well, or that of `together` around it;
    else nothing is left of it.

    A folder of that name that is not empty is replaced whole if `may_go` lets it pass.

    Raises:
        FileError: there is a file of that name, or a folder that is not to be replaced; or it cannot be
            written.
    """
    with writing(name or "''"):
        check_new_folder(name, may_go)
        with new_output(name) as partial:
            os.mkdir(partial)
            try:
                with together():  # what is in it has its name before it has its own
                    yield partial
            except FileError as error:
                raise FileError(error.subject.replace(partial, name, 1), error.problem) from error.__cause__
            with suppress(FileNotFoundError):
                os.chmod(partial, stat.S_IMODE(os.stat(name).st_mode))


@contextmanager
def made_folder(name: str) -> Iterator[None]:
    """A block during which there is a folder of this name: where it fails, one that was made is gone again.

    Raises:
        FileError: the folder cannot be made, or written in; or it is a file.
    """
    if name == "-":
        raise FileError("standard output", "holds no folder of files; name one with -o")
    with writing(name or "''"):
        missing = _missing(name)
    with undone_by(lambda: _remove_empty(missing)):
        with writing(name or "''"):
            os.makedirs(name, exist_ok=True)
            if not os.access(name, os.W_OK):
                raise FileError(name, "is write-protected; name another folder")
        yield


def _remove_empty(folders: list[str]) -> None:
    for folder in folders:
        with suppress(OSError):  # it may hold what is meant to stay
            os.rmdir(folder)


def _missing(name: str) -> list[str]:
    """The folder, and those it is in, that are not there yet, the innermost first."""
    missing, folder = [], os.path.realpath(name)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def check_new_folder(name: str, may_go: Check | None = None) -> None:
    """Raise FileError where there is anything that a new folder would replace, or for the name of a file.

    A folder that is not empty is let pass by `may_go`, which raises FileError for one that has to stay.
    """
    check_ending(name, "folder")
    with writing(name or "''"):
        if not name or name == "-":
            raise FileError(name or "''", "is no folder's name; name a folder to make")
        try:
            if os.listdir(name):
                if may_go is None:
                    raise FileError(name, "is there and not empty; name a new folder")
                may_go(name)
        except NotADirectoryError:
            raise FileError(name, "is there and no folder; name a new folder") from None
        except FileNotFoundError:
            if os.path.islink(name):
                raise FileError(name, "is a link to nothing; name a new folder") from None
