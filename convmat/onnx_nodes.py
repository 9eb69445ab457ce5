"""Quantized convolutions of ONNX graphs: the fields of their `Quantization`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from convmat.errors import SettingError


def quantization_of(
    node: Any, initializers: Mapping[str, Any] | Iterable[Any], nodes: Iterable[Any] = ()
) -> dict[str, Any]:
    """The zero points, scale, activation and dtype of a QLinearConv or QLinearMatMul, or of a Conv among QDQ
    `nodes`.

    The scale is float32(float32(x_scale · w_scale) / y_scale), as onnxruntime computes it. Arguments and
    errors are those of `Quantization.from_onnx`.
    """
    values = _Values(initializers)
    if node.op_type in ("QLinearConv", "QLinearMatMul"):
        names = [*node.input, *[""] * 9]
        x, w, y, relu = names[1:3], names[4:6], names[6:8], False
    elif node.op_type == "Conv":
        x, w, y, relu = _neighbours(node, list(nodes))
    else:
        raise SettingError("node", f"is {node.op_type}; give a QLinearConv, or a Conv between QDQ nodes")
    numbers = [values.real(x[0]), values.real(y[0]), values.whole(x[1]), values.whole(y[1])]
    if any(one.size != 1 for one in numbers):
        raise SettingError("node", "has several scales or zero points of its input or output; one is known")
    x_scale, y_scale, x_zero, zero = (one.reshape(()) for one in numbers)
    if zero.dtype.name not in ("int8", "uint8", "int16"):
        raise SettingError("node", f"gives {zero.dtype}; int8, uint8 and int16 are known")
    with np.errstate(all="ignore"):
        scale = x_scale * values.real(w[0]) / y_scale
    zero_point = int(zero.item())
    return {
        "input_zero_point": int(x_zero.item()),
        "weight_zero_point": _one_or_each(values.whole(w[1])),
        "scale": _one_or_each(scale),
        "output_zero_point": zero_point,
        "activation": (zero_point, int(np.iinfo(zero.dtype).max)) if relu else None,
        "dtype": zero.dtype.name,
    }


class _Values:
    """Initializers as arrays."""

    def __init__(self, initializers: Mapping[str, Any] | Iterable[Any]) -> None:
        named: Any = initializers
        if not isinstance(initializers, Mapping):
            named = {one.name: one for one in named}
        self._by_name: Mapping[str, Any] = named

    def real(self, name: str) -> Any:
        """A scale, or one for each filter, as float32."""
        return self._read(name).astype(np.float32)

    def whole(self, name: str) -> Any:
        """A zero point, or one for each filter; where there is none, 0 as ONNX has it, in uint8."""
        return self._read(name) if name else np.zeros((), np.uint8)

    def _read(self, name: str) -> Any:
        if name not in self._by_name:
            raise SettingError("initializers", f"have no {name!r}, a scale or a zero point of the node")
        value = self._by_name[name]
        if not hasattr(value, "data_type"):  # no TensorProto
            return np.asarray(value)
        from onnx import numpy_helper

        return numpy_helper.to_array(value)


def _neighbours(conv: Any, nodes: list[Any]) -> tuple[list[str], list[str], list[str], bool]:
    """Names of scale and zero point of a Conv's input, weights and output, and whether Relu comes between."""
    made_by = {output: node for node in nodes for output in node.output}

    def read(name: str) -> list[str]:
        source = made_by.get(name)
        if source is None or source.op_type != "DequantizeLinear":
            found = "nothing among the nodes" if source is None else source.op_type
            raise SettingError("node", f"gets {name!r} from {found}; expected DequantizeLinear")
        return [*source.input, ""][1:3]

    [output], relu = conv.output, False
    while True:
        users = [node for node in nodes if output in node.input]
        kinds = [user.op_type for user in users]
        if kinds == ["Relu"] and not relu:
            [output], relu = users[0].output, True
        elif kinds == ["QuantizeLinear"]:
            return read(conv.input[0]), read(conv.input[1]), [*users[0].input, ""][1:3], relu
        else:
            found = ", ".join(kinds) or "nothing among the nodes"
            raise SettingError("node", f"gives {output!r} to {found}; expected one QuantizeLinear")


def _one_or_each(array: Any) -> Any:
    return array.reshape(-1)[0].item() if array.size == 1 else array
