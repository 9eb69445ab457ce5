"""Tensors of .safetensors files: which there are, and each as a stream of .npy bytes.

The file is 8 bytes with the length of a header, the header in JSON, and the data: https://huggingface.co/docs/
safetensors. All that the header says is checked before any data is read. bfloat16, which NumPy has not, is
widened to float32, which has all of its values.
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

_HEADER_LIMIT = 100_000_000  # bytes, the format's own
_WIDENED = {"BF16": 2}
_UNREAD = {"F8_E4M3": 1, "F8_E5M2": 1}  # listed, but not read
_DTYPES = {
    "BOOL": "|b1",
    "I8": "|i1",
    "U8": "|u1",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "BF16": "<f4",
}
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
    takes = math.prod(shape) * _itemsize(dtype)
    if last - first != takes:
        raise Mismatch(key, f"is {dtype} of shape {shape}, {takes} bytes, and has {last - first}")
    return Tensor(dtype, shape, begin + first, takes)


def _itemsize(dtype: str) -> int:
    return {**_WIDENED, **_UNREAD}.get(dtype) or np.dtype(_DTYPES[dtype]).itemsize


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
        raise FileError(shown, f"is of {found.dtype}, which is not read; save it as float32 or bfloat16")
    return _Stream(file, shown, found)


class _Stream(io.BufferedIOBase):
    """The .npy bytes of a tensor: a header, and its data as they come."""

    def __init__(self, file: str, shown: str, tensor: Tensor) -> None:
        self._shown, self._widen = shown, tensor.dtype in _WIDENED
        head = io.BytesIO()
        descr = {"descr": _DTYPES[tensor.dtype], "fortran_order": False, "shape": tensor.shape}
        npy_format.write_array_header_1_0(head, descr)
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
            self._ready = _widened(data) if self._widen else data
        size = len(self._ready) if size < 0 else size
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        parts, left = [], -1 if size is None else size
        while left and (data := self.read1(left)):
            parts.append(data)
            left = left - len(data) if left > 0 else left
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        super().close()


def _widened(data: bytes) -> bytes:
    """bfloat16 as float32, of which it is the upper half."""
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes()
