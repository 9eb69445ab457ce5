"""Folders that appear whole or not at all: filled beside the target, renamed when complete."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
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
