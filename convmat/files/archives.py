"""Arrays by name in one .npz file, the same bytes for the same arrays."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from convmat.checks import INT64
from convmat.errors import FileError
from convmat.files.members import archive_names, listed_names, open_member
from convmat.files.memory import check_memory
from convmat.files.npy import NpyInput
from convmat.files.outputs import check_ending, open_output
from convmat.files.schema import Items, Mismatch, OneOf, Whole

_FORMAT_BYTES = 4096  # of the member that says "csr"; a longer one says something else
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
            name, f"is no sparse matrix, it has {listed_names(names) or 'nothing'}; write CSR or COO"
        )
    try:
        form = _format(name) if "format" in names else "csr" if keys is compressed else "coo"
        OneOf(("csr", "csc") if keys is compressed else ("coo",)).check(form, "format")
        with ExitStack() as closing:
            # All that headers say is looked at before any data is, and the shape before all other data.
            data, first, second, size = sources = [_opened(name, key) for key in keys]
            for source in sources:
                closing.callback(source.skip)
            _check_line(size, 2, "shape")
            shape = tuple(size.read().tolist())
            Items((Whole(0, INT64), Whole(0, INT64))).check(shape, "shape")
            check_shape(shape)
            lines = shape[1] if form == "csc" else shape[0]
            entries = data.shape[0] if len(data.shape) == 1 else 0
            _check_line(data, entries, "data", "biufc")
            _check_line(first, entries, keys[1])
            _check_line(second, lines + 1 if keys is compressed else entries, keys[2])
            needed = math.prod(shape) * data.dtype.itemsize + 8 * sum(s.nbytes for s in (data, first, second))
            check_memory(name, needed, "give the matrix of a smaller layer")
            rows, columns = first.read(), second.read()
            if keys is compressed:
                starts = columns
                if starts[0] or starts[-1] != entries or (starts[1:] < starts[:-1]).any():
                    raise Mismatch("indptr", f"must rise from 0 to {entries}, the entries of data")
                rows, columns = np.arange(lines).repeat(np.diff(starts)), rows
                rows, columns = (columns, rows) if form == "csc" else (rows, columns)
            for key, index, count in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
                # As Python's numbers: NumPy takes an index of 2^64 − 1 for −1.
                for end in (index.min(), index.max()) if index.size else ():
                    Whole(0, count - 1).check(int(end), key)
            dense = np.zeros(shape, data.dtype)
            with np.errstate(all="ignore"):  # of a signalling NaN, too
                np.add.at(dense, (rows.astype(np.intp), columns.astype(np.intp)), data.read())
            return dense
    except Mismatch as mismatch:
        raise FileError(name, f"is a damaged sparse matrix: {mismatch}; write it again") from None


def _opened(name: str, key: str) -> NpyInput:
    """One of an archive's arrays, of which the header has been read."""
    shown = f"{name}:{key}"
    return NpyInput(shown, open_member(name, key, shown))


def _format(name: str) -> str:
    """What a sparse matrix says of itself; longer ones than there are are cut off."""
    with open_member(name, "format", f"{name}:format") as stream:
        return stream.read(_FORMAT_BYTES).replace(b"\0", b"")[-3:].decode("latin-1")


def _check_line(source: NpyInput, length: int, key: str, kinds: str = "iu") -> None:
    """Raise Mismatch unless an array, still unread, is a line of numbers of these kinds."""
    if source.shape != (length,) or source.dtype.kind not in kinds:
        numbers = "numbers" if "f" in kinds else "whole numbers"
        raise Mismatch(key, f"must be {length} {numbers}, got {source.dtype} of shape {source.shape}")
