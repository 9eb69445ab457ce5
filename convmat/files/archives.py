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
from convmat.files.outputs import is_picture, open_output, reading

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can tell: numpy.savez notes the present


def write_archive(name: str, arrays: Mapping[str, NDArray[Any]], compressed: bool = False) -> None:
    """Write arrays as numpy.load reads them, to a file of exactly that name, whole or not at all.

    Raises:
        FileError: the output cannot be written, or is standard output; what was there before is still there.
    """
    check_archive_name(name)
    nbytes = 0 if compressed else sum(array.nbytes for array in arrays.values())
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with open_output(name, nbytes) as stream, zipfile.ZipFile(stream, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
            entry.compress_type = kind
            with archive.open(entry, "w", force_zip64=True) as member:
                npy_format.write_array(member, np.asarray(array), allow_pickle=False)


def check_archive_name(name: str) -> None:
    """Raise FileError for standard output, and for names that say another format."""
    if name == "-":
        raise FileError("standard output", "carries .npy bytes, and this is an .npz archive; name a file")
    if is_picture(name) or name.endswith(".npy"):
        kind = "an .npy array" if name.endswith(".npy") else "a picture"
        raise FileError(name, f"is named like {kind}, and this is written as .npz; name it .npz")


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
