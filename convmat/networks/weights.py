"""Weights of ONNX models: their bytes checked before any array is made, and read where they lie."""

from __future__ import annotations

import math
import os
import stat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.errors import FileError
from convmat.files.memory import check_memory
from convmat.files.outputs import reading
from convmat.networks.extra import first_line, package


def array_of(name: str, tensor: Any) -> NDArray[Any]:
    numpy_helper = package("onnx.numpy_helper")
    if is_external(tensor):
        loaded = type(tensor)()
        loaded.CopyFrom(tensor)
        loaded.raw_data = _external(name, tensor)
        loaded.ClearField("external_data")
        loaded.ClearField("data_location")
        tensor = loaded
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        raise FileError(
            name, f"has weights {got(tensor.name)} that are damaged: {first_line(error)}"
        ) from None


def check_tensor(name: str, tensor: Any) -> None:
    """Refuse weights that have other bytes than their shape claims, before any array is made."""
    count = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims):
        raise FileError(
            name, f"has weights {got(tensor.name)} of an impossible shape {got(tuple(tensor.dims))}"
        )
    each = _bits(tensor.data_type) / 8
    if is_external(tensor):
        there, each = _external_place(name, tensor)[2], max(each, 1 / 2)
    elif tensor.HasField("raw_data"):
        there = len(tensor.raw_data)
    else:
        return  # numbers in fields of their own; the count of them is checked as they are read
    if there != math.ceil(count * each):
        raise FileError(
            name,
            f"has {there} bytes of weights {got(tensor.name)}, whose shape {got(tuple(tensor.dims))} "
            f"takes {got(math.ceil(count * each))}; export it again",
        )


def _external_place(name: str, tensor: Any) -> tuple[str, int, int]:
    """The file of weights outside the model, checked to be beside it; where they begin, and bytes."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location, folder = said.get("location", ""), os.path.dirname(os.path.abspath(name))
    path = os.path.join(folder, location)
    parts = location.replace("\\", "/").split("/")
    if not location or os.path.isabs(location) or ".." in parts or "\0" in location:
        raise FileError(name, f"has its weights in {got(location)}, which is not beside it; refused")
    inside = os.path.realpath(folder)
    if os.path.commonpath([os.path.realpath(path), inside]) != inside:
        raise FileError(name, f"has its weights in {got(location)}, a link that leads elsewhere; refused")
    with reading(path):
        there = os.stat(path)
    if not stat.S_ISREG(there.st_mode):
        raise FileError(path, f"is no regular file, and {name} has its weights there; refused")
    try:
        offset = int(said.get("offset", 0))
        length = int(said.get("length", there.st_size - offset))
    except ValueError:
        raise FileError(name, f"has weights {got(tensor.name)} at no place; export it again") from None
    if not 0 <= offset <= offset + length <= there.st_size:
        raise FileError(
            path, f"has {there.st_size} bytes, and {name} has weights beyond its end; copy it again"
        )
    return path, offset, length


def _external(name: str, tensor: Any) -> bytes:
    path, offset, length = _external_place(name, tensor)
    check_memory(path, 2 * length, "leave this network to a larger machine")
    with reading(path), open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _bits(kind: int) -> int:
    """Bits of an element, 4 or more."""
    helper = package("onnx.helper")
    names = package("onnx").TensorProto.DataType
    name = names.Name(kind) if kind in names.values() else ""
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    if name.startswith("FLOAT8"):
        return 8
    try:
        return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) * 8
    except Exception:  # strings, and what is no type
        return 0


def is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL) if tensor.HasField("data_location") else False
