"""Small TOML files of options, and the arrays that they name beside themselves."""

from __future__ import annotations

import os
import tomllib
from typing import Any

from convmat.errors import FileError
from convmat.files.npy import NpyInput
from convmat.files.outputs import reading
from convmat.files.streams import open_file

_BYTES = 1 << 20  # of the largest table that is read
_ELEMENTS = 1 << 20  # of the largest array beside it


def read_table(name: str) -> dict[str, Any]:
    """The keys of a TOML file; texts that name .npy files beside it as their arrays.

    Raises:
        FileError: it cannot be read, is larger than 1 MiB, or no TOML; or an array beside it cannot be had.
    """
    with open_file(name) as stream, reading(name):
        data = stream.read(_BYTES + 1)
    if len(data) > _BYTES:
        raise FileError(name, f"is larger than {_BYTES} bytes; expected a few lines of TOML")
    try:
        table = tomllib.loads(data.decode())
    except RecursionError:
        raise FileError(name, "is no TOML: lists within lists without an end") from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError are
        raise FileError(
            name, f"is no TOML: {' '.join(str(error).split())[:120]}; write scale = 0.02, say"
        ) from None
    return {key: _array(name, key, value) if _is_array(value) else value for key, value in table.items()}


def _is_array(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".npy")


def _array(table: str, key: str, value: str) -> Any:
    if os.path.basename(value) != value:
        raise FileError(table, f"{key}: {value!r} is not beside it; give the name of an .npy in its folder")
    source = NpyInput(os.path.join(os.path.dirname(table), value))
    if source.outline.size > _ELEMENTS:
        raise FileError(source.name, f"has {source.outline.size} numbers; expected one for each filter")
    return source.read()
