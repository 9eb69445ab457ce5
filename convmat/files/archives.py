"""Arrays by name in one .npz file, the same bytes for the same arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files.members import archive_names, open_member
from convmat.files.npy import NpyInput
from convmat.files.outputs import check_ending, open_output, reading

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can tell: numpy.savez notes the present


def write_archive(name: str, arrays: Mapping[str, NDArray[Any]], compressed: bool = False) -> None:
    """Write arrays as numpy.load reads them, to a file of exactly that name, whole or not at all.

    Raises:
        FileError: the output cannot be written, is named like another format, or is standard output; what was
            there before is still there.
    """
    check_ending(name, "npz")
    nbytes = 0 if compressed else sum(array.nbytes for array in arrays.values())
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with open_output(name, nbytes) as stream, zipfile.ZipFile(stream, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
            entry.compress_type = kind
            with archive.open(entry, "w", force_zip64=True) as member:
                npy_format.write_array(member, np.asarray(array), allow_pickle=False)


def read_array(name: str, key: str) -> NDArray[Any]:
    """One of its arrays.

    Raises:
        FileError: it cannot be read, has no such array, or is damaged.
    """
    shown = f"{name}:{key}"
    return NpyInput(shown, open_member(name, key, shown)).read()


def read_sparse(name: str, check_shape: Callable[[tuple[int, ...]], None]) -> NDArray[Any]:
    """The dense matrix of an archive as `convmat matrix` and scipy.sparse.save_npz write it: CSR, CSC or COO.

    `check_shape` is given the shape that the archive claims, before anything of it is made.

    Raises:
        FileError: it cannot be read, or is no such archive.
    """
    names = archive_names(name)
    compressed, pairs = ("data", "indices", "indptr", "shape"), ("data", "row", "col", "shape")
    keys = next((keys for keys in (compressed, pairs) if set(keys) <= set(names)), None)
    if keys is None:
        raise FileError(
            name, f"is no sparse matrix, it has {', '.join(names) or 'nothing'}; write CSR or COO"
        )
    data, first, second, size = (read_array(name, key) for key in keys)
    shape = tuple(size.ravel().tolist())
    damaged = FileError(name, "is a damaged sparse matrix; write it again")
    indices = (first, second, size)
    if len(shape) != 2 or any(a.ndim != 1 or a.dtype.kind not in "iu" for a in indices) or min(shape) < 0:
        raise damaged
    if data.ndim != 1 or len(first) != len(data) or data.dtype.kind not in "biufc":
        raise damaged
    check_shape(shape)
    by_column = False
    if keys is compressed:
        with reading(name), zipfile.ZipFile(name) as archive:
            by_column = "format.npy" in archive.namelist() and archive.read("format.npy").endswith(b"csc")
        lines = shape[1] if by_column else shape[0]
        if (
            len(second) != lines + 1
            or (second[1:] < second[:-1]).any()
            or second[0]
            or second[-1] != len(data)
        ):
            raise damaged
        first, second = np.arange(lines).repeat(np.diff(second)), first
    rows, columns = (second, first) if by_column else (first, second)
    for index, count in ((rows, shape[0]), (columns, shape[1])):
        # As Python's numbers: NumPy takes an index of 2^64 − 1 for −1.
        if len(index) != len(data) or any(not 0 <= int(end) < count for end in _ends(index)):
            raise damaged
    dense = np.zeros(shape, data.dtype)
    np.add.at(dense, (rows.astype(np.intp), columns.astype(np.intp)), data)
    return dense


def _ends(index: NDArray[Any]) -> tuple[Any, ...]:
    """The least and the greatest, of none nothing."""
    return (index.min(), index.max()) if index.size else ()
