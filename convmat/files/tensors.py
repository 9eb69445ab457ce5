"""Tensors of .safetensors files: which there are, and each as a stream of .npy bytes.

The file is 8 bytes with the length of a header, the header in JSON, and the data: https://huggingface.co/docs/
safetensors. All that the header says is checked before any data is read. bfloat16 and float8, which NumPy has
not, are widened to float32, which has all of their values.
"""

from __future__ import annotations

import io
import math
import os
import re
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from convmat.checks import INT64
from convmat.errors import FileError
from convmat.files.members import listed_names
from convmat.files.outputs import reading
from convmat.files.schema import Fields, Items, Mismatch, OneOf, Whole, from_json
from convmat.files.streams import CHUNK, open_file, take
from convmat.formats import stored

_HEADER_LIMIT = 100_000_000  # bytes, the format's own
_DTYPES = {
    "BOOL": "bool",
    **{f"{kind[0].upper()}{size}": f"{kind}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)},
    **{f"F{size}": f"float{size}" for size in (16, 32, 64)},
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Of the format, and what `formats` calls them."""
_UNREAD = {"F4": 1 / 2, "F6_E2M3": 3 / 4, "F6_E3M2": 3 / 4, "F8_E8M0": 1}  # bytes; listed, but not read
_START = re.compile(rb".{4}[\0-\x0f]\0\0\0\{\s*\"", re.DOTALL)


class Tensor(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    """The format's name of it."""
    shape: tuple[int, ...]
    start: int
    """Where in the file its data begin."""
    nbytes: int


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so is one."""
    return _START.match(start) is not None


def read_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a file by name, in its own order.

    Raises:
        FileError: it cannot be read, or is damaged.
    """
    with open_file(name) as stream, reading(name):
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, _HEADER_LIMIT):
            raise FileError(name, f"has a header of {length} bytes in {size}; it is damaged: write it again")
        header = bytes(take(stream, length, name))
    begin, room = 8 + length, size - 8 - length
    tensors = {}
    try:
        said = from_json(header)
        if not isinstance(said, dict):
            raise Mismatch("", "must be names of tensors")
        for key, value in said.items():
            if key != "__metadata__":
                tensors[key] = _tensor(key, value, begin, room)
    except Mismatch as mismatch:
        raise FileError(name, f"has a damaged header: {mismatch}; write it again") from None
    return tensors


def _tensor(key: str, value: object, begin: int, room: int) -> Tensor:
    end, size = Whole(0, room), Whole(0, INT64)
    kinds = {"dtype": OneOf((*_DTYPES, *_UNREAD)), "data_offsets": Items((end, end))}
    axes = len(value["shape"]) if isinstance(value, dict) and isinstance(value.get("shape"), list) else 0
    Fields(kinds | {"shape": Items((size,) * axes)}).check(value, key)
    assert isinstance(value, dict)
    dtype, shape, (first, last) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    takes = math.ceil(math.prod(shape) * _itemsize(dtype))
    if last - first != takes:
        raise Mismatch(key, f"is {dtype} of shape {shape}, {takes} bytes, and has {last - first}")
    return Tensor(dtype, shape, begin + first, takes)


def _itemsize(dtype: str) -> float:
    return _UNREAD.get(dtype) or stored(_DTYPES[dtype]).dtype.itemsize


def open_tensor(file: str, tensor: str | None, shown: str) -> io.BufferedIOBase:
    """A tensor, or the only one there is, as a stream of .npy bytes; `shown` is its name in errors.

    Raises:
        FileError: there is no such tensor, or several to choose from, or one of a dtype that is not read.
    """
    tensors = read_tensors(file)
    if tensor is None and len(tensors) == 1:
        [tensor] = tensors
    if tensor is None:
        names = list(tensors)
        example = f"; name one, as in {file}:{names[0]}" if names else ""
        raise FileError(file, f"has {len(names)} tensors, {listed_names(names)}{example}")
    if tensor not in tensors:
        raise FileError(shown, f"has no such tensor; {file} has {listed_names(list(tensors))}")
    found = tensors[tensor]
    if found.dtype in _UNREAD:
        raise FileError(
            shown, f"is of {found.dtype}, which is not read; save it as float32, bfloat16 or float8"
        )
    return _Stream(file, shown, found)


class _Stream(io.BufferedIOBase):
    """The .npy bytes of a tensor: a header, and its data as they come."""

    def __init__(self, file: str, shown: str, tensor: Tensor) -> None:
        self._shown, self._stored = shown, stored(_DTYPES[tensor.dtype])
        self.form = self._stored.form
        """That of numbers which were widened."""
        head = io.BytesIO()
        descr = npy_format.dtype_to_descr(self._stored.read_as.newbyteorder("<"))
        header = {"descr": descr, "fortran_order": False, "shape": tensor.shape}
        npy_format.write_array_header_1_0(head, header)
        self._ready, self._left = head.getvalue(), tensor.nbytes
        self._file = open_file(file)
        self._file.seek(tensor.start)

    def read1(self, size: int = -1, /) -> bytes:
        if not self._ready and self._left:
            wanted = min(self._left, CHUNK if size < 0 else -(-size // 8) * 8)
            with reading(self._shown):
                data = self._file.read(wanted)
            if len(data) < wanted:
                raise FileError(self._shown, "is cut off as it is read; write the file again")
            self._left -= wanted
            self._ready = self._widened(data)
        size = len(self._ready) if size < 0 else size
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        parts, left = [], -1 if size is None else size
        while left and (data := self.read1(left)):
            parts.append(data)
            left = left - len(data) if left > 0 else left
        return b"".join(parts)

    def _widened(self, data: bytes) -> bytes:
        """What NumPy has no dtype for as float32; the rest as it is."""
        if not self._stored.is_foreign:
            return data
        codes = np.frombuffer(data, self._stored.dtype.newbyteorder("<")).astype(self._stored.dtype)
        return self._stored.widened(codes).astype("<f4").tobytes()

    def close(self) -> None:
        self._file.close()
        super().close()
