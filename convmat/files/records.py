"""Records: an .npz archive of JSON and arrays, checked whole by their kinds: headers first, then bytes."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files.members import ZIP_DAMAGE, open_zip
from convmat.files.npy import NpyInput
from convmat.files.outputs import reading
from convmat.files.schema import Array, Fields, Kind, Mismatch, Whole, check_names, from_json, shown

_RECORD = "record"
_SUM = Whole(0, 2**32 - 1)


def packed(record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What `RecordFile` reads as an archive's arrays: the record with checksums of all, and the arrays."""
    said = dict(record) | {"arrays": {key: _checksum(array) for key, array in arrays.items()}}
    text = json.dumps(said | {"checksum": _text_checksum(said)}, allow_nan=False)
    return {_RECORD: np.frombuffer(text.encode(), np.uint8)} | dict(arrays)


class RecordFile:
    """An archive of a record and arrays, of which the record and all headers have been checked.

    Args:
        name: of the file.
        kind: what the record must be.
        arrays: gives the arrays that go with a record of this kind.

    Raises:
        Mismatch: it holds anything else. FileError: it cannot be read.
    """

    def __init__(
        self, name: str, kind: Kind, arrays: Callable[[dict[str, Any]], Mapping[str, Array]]
    ) -> None:
        self._name = name
        names = _stored_names(name)
        if _RECORD not in names:
            check_names(names, [_RECORD], "the archive")
        said = from_json(self._read(_RECORD, None).tobytes())
        if not isinstance(said, dict):
            raise Mismatch("", f"must be an object, got {shown(said)}")
        self._sums, checksum = (said.pop(key, None) for key in ("arrays", "checksum"))
        self.record: dict[str, Any] = said
        kind.check(said)
        self._kinds = arrays(said)
        check_names(names, (_RECORD, *self._kinds), "the archive")
        Fields(dict.fromkeys(self._kinds, _SUM)).check(self._sums, "arrays")
        for key, expected in self._kinds.items():
            self._open(key, expected)
        if checksum != _text_checksum(said | {"arrays": self._sums}):
            raise Mismatch("", f"must have its own checksum, got {shown(checksum)}")

    def array(self, key: str) -> NDArray[Any]:
        """One of the arrays, checked whole.

        Raises:
            Mismatch: it is not of its kind, or not what was written.
        """
        values = self._read(key, self._kinds[key])
        self._kinds[key].check(values, key)
        if _checksum(values) != self._sums[key]:
            raise Mismatch(key, "must have the numbers that were written, got others")
        return values

    def _open(self, key: str, kind: Array | None) -> NpyInput:
        try:
            source = NpyInput(f"{self._name}:{key}")
        except FileError as error:
            raise _damage(key, error) from None
        if kind is not None:
            kind.check_header(source.shape, source.dtype, key)
        return source

    def _read(self, key: str, kind: Array | None) -> NDArray[Any]:
        source = self._open(key, kind)
        try:
            return source.read()
        except FileError as error:
            raise _damage(key, error) from None


def _damage(key: str, error: FileError) -> Mismatch:
    return Mismatch(key, f"is unreadable: {error.problem.partition(';')[0]}")


def _stored_names(name: str) -> list[str]:
    """The names of an archive's arrays; stored as they are, so that a small file is a small read."""
    try:
        with reading(name), open_zip(name) as archive:
            members = archive.infolist()
    except ZIP_DAMAGE:
        raise Mismatch("", "must be an .npz archive, got another file or a damaged one") from None
    for file, times in Counter(m.filename for m in members).items():
        if times > 1 or not file.endswith(".npy"):
            what = f"{times} times" if times > 1 else "which is no array"
            raise Mismatch("the archive", f"must have arrays, each once; got {shown(file)}, {what}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            key = member.filename.removesuffix(".npy")
            raise Mismatch(key, "must be stored as it is, got compressed bytes")
    return [m.filename.removesuffix(".npy") for m in members]


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _text_checksum(said: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())
