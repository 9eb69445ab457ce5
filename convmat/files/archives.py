"""Arrays by name in one .npz file, the same bytes for the same arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files.npy import NpyInput
from convmat.files.outputs import open_output, reading

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can tell: numpy.savez notes the present


def write_archive(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as numpy.load reads them, whole or not at all.

    Raises:
        FileError: the output cannot be written; what was there before is still there.
    """
    nbytes = sum(array.nbytes for array in arrays.values())
    with open_output(name, nbytes) as stream, zipfile.ZipFile(stream, "w") as archive:
        for key, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy", _EPOCH), "w", force_zip64=True) as member:
                npy_format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def archive_names(name: str) -> list[str]:
    """The names of an archive's arrays.

    Raises:
        FileError: it cannot be read, or is no archive.
    """
    try:
        with reading(name), zipfile.ZipFile(name) as archive:
            return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    except zipfile.BadZipFile as error:
        raise FileError(name, f"is no .npz archive: {error}") from None


def read_array(name: str, key: str) -> NDArray[Any]:
    """One of its arrays.

    Raises:
        FileError: it cannot be read, has no such array, or is damaged.
    """
    return NpyInput(f"{name}:{key}").read()
