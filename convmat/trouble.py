"""Trouble in one line. Nothing is imported here that can fail: NumPy, click or rich may be the trouble."""

from __future__ import annotations

import os
import re
import sys
import traceback
from contextlib import suppress

from convmat.encodings import printable, readable
from convmat.errors import ConvmatError

_IMPORT = re.compile(r"(?:from|import) (\w+)")
_PROJECTS = {"PIL": "pillow"}
"""What pip calls packages that it has under another name."""
_CHUNKWISE = ("dask", "distributed", "zarr")
"""The packages of the extra `dask`."""


def say(line: str) -> None:
    """Print a line on standard error, where that can be."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(readable(f"{line}\n", sys.stderr.encoding))
            sys.stderr.flush()


def tell(error: BaseException, debug: bool = False, text: str | None = None) -> None:
    """Tell an error in one line, by this text or its own, after its traceback where that is asked for.

    It raises nothing.
    """
    try:
        if debug:
            with suppress(OSError):
                traceback.print_exception(error)
        say(f"convmat: {printable(' '.join((text or _text(error)).split()))}")
    except Exception:  # a line takes some memory, too
        with suppress(OSError):
            os.write(2, b"convmat: not enough memory to say what is wrong; give it more\n")


def _text(error: BaseException) -> str:
    if isinstance(error, ConvmatError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {error}' if str(error) else ''}"
    if isinstance(error, ModuleNotFoundError) and error.name in _CHUNKWISE:
        return f"{error.name}: is not installed; pip install 'convmat[dask]' brings it"
    if (package := _not_imported(error)) is not None:
        why = str(error.__cause__ or error).strip().partition("\n")[0]
        remedy = f"pip install --force-reinstall {_PROJECTS.get(package, package)}"
        return f"{package}: cannot be imported: {why or type(error).__name__}; install it anew: {remedy}"
    if isinstance(error, OSError):
        return f"{error.filename or 'standard output'}: {error.strerror or error}"
    return f"internal error: {type(error).__name__}: {error}; convmat --debug … shows where"


def _not_imported(error: BaseException) -> str | None:
    """The package whose import, by a statement in convmat, an error ended; None for any other error."""
    for entry in traceback.extract_tb(error.__traceback__):
        statement = _IMPORT.match(entry.line or "")
        if statement and statement[1] != "convmat":
            return statement[1]
    return None
