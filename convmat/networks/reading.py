"""Files of networks: ONNX models parsed, and others known for what they are."""

from __future__ import annotations

import os
from typing import Any

from convmat.errors import FileError
from convmat.files.foreign import KNOWN_BYTES, foreign, foreign_archive
from convmat.files.members import ZIP_DAMAGE, ZIP_MAGIC, open_zip
from convmat.files.memory import check_memory
from convmat.files.outputs import reading
from convmat.files.streams import is_pipe, open_file
from convmat.networks.extra import package

_EXPORT = (
    "is a PyTorch file, which may run programs as it is loaded; export the network in Python: "
    'torch.onnx.export(model, torch.zeros(1, 3, 224, 224), "model.onnx"), or its weights: '
    'safetensors.torch.save_file(torch.load("w.pt", weights_only=True), "w.safetensors")'
)


def parsed(name: str) -> Any:
    """The ModelProto of a file.

    Raises:
        FileError: it cannot be read, or is no ONNX model.
    """
    if is_pipe(name):
        raise FileError(name, "is a pipe; name a file, since weights may lie beside it")
    with open_file(name) as stream, reading(name):
        start = stream.peek(KNOWN_BYTES)
        if start.startswith(ZIP_MAGIC):
            raise FileError(name, _of_zip(name))
        other = foreign(start)
        if other is not None:
            raise FileError(name, _EXPORT if "PyTorch" in other or "pickle" in other else other)
        size = os.fstat(stream.fileno()).st_size
        check_memory(
            name, 3 * size, "keep its weights outside the model: onnx.save(…, save_as_external_data=True)"
        )
        data = stream.read()
    model = package("onnx").ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's DecodeError, whose module is its own affair
        model.Clear()
    if not model.HasField("graph"):
        raise FileError(
            name, f"is {'no ONNX model' if data else 'empty'}; expected one, or a .safetensors file"
        )
    return model


def _of_zip(name: str) -> str:
    try:
        with open_zip(name) as archive:
            other = foreign_archive(archive.namelist())
    except ZIP_DAMAGE:
        other = None
    if other is not None and "PyTorch" in other:
        return _EXPORT
    return other or "is a zip archive and no ONNX model; unpack it"
