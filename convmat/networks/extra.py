"""The packages of the extra `networks`, imported where they are used, and one line where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from convmat.errors import FileError


def package(name: str) -> Any:
    """A package of the extra, or a module of one.

    Raises:
        FileError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        whole = name.partition(".")[0]
        raise FileError(
            whole, "is not installed, and reads networks; pip install 'convmat[networks]' brings it"
        ) from None


def reference(model: Any) -> Any:
    """onnx's own evaluator of a model, with DequantizeLinear of the opsets that it leaves out, 10 to 18."""
    load = package("onnx.reference.ops").load_op
    latest = load("", "DequantizeLinear", package("onnx.defs").onnx_opset_version())
    later = type("DequantizeLinear", (latest,), {"op_domain": ""})  # its schema is that of the latest
    version = next((o.version for o in model.opset_import if not o.domain), 1)
    return package("onnx.reference").ReferenceEvaluator(model, new_ops=[later] if version < 19 else [])


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return " ".join(str(error).strip().partition("\n")[0].split())[:200] or type(error).__name__
