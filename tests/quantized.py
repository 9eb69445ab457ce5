"""Quantized layers of onnxruntime and PyTorch, random ones, judged to the last bit under their own rounding.

`python -m tests.quantized [LAYERS]` tells how many of each kind are equal, how many saturate in pairs, as
x86 without VNNI makes sums of uint8 × int8, and how many are neither.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import convmat as cm
from convmat.verification.diagnosis import diagnose

Array = np.ndarray


class Made(NamedTuple):
    """A layer, and the result that a framework made of it."""

    kind: str
    x: Array
    """(N, H, W, C)."""
    filters: Array
    """(K, kh, kw, C/groups)."""
    y: Array
    quantization: cm.Quantization
    layer: dict[str, Any]

    def verdict(self) -> str:
        """equal, the names of what explains the result, or different."""
        if cm.verify(self.x, self.filters, self.y, **self.layer, quantization=self.quantization):
            return "equal"
        judged = {"quantization": self.quantization}
        found = diagnose(self.x, self.filters, self.y, **self.layer, judged=judged, budget=0)
        return "saturated in pairs" if any("pairs" in d.mistakes[0] for d in found) else "different"


class Layer(NamedTuple):
    """What a framework is to compute; channels first."""

    x: Array
    w: Array
    bias: Array | None
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: int
    groups: int
    per_filter: bool

    def seen(self) -> tuple[Array, Array]:
        """x and the filters with channels last."""
        return np.moveaxis(self.x, 1, -1), np.moveaxis(self.w, 1, -1)

    def arguments(self, padding: Any = None) -> dict[str, Any]:
        """Those of `convolve` but for arrays."""
        return {
            "stride": self.stride,
            "padding": self.pads if padding is None else padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias,
        }


def layer_of(rng: np.random.Generator, x_type: str, w_type: str, bits: int) -> Layer:
    """A random layer of such integers, of weights of so many bits."""
    groups, per_group = int(rng.choice([1, 1, 2, 4])), int(rng.integers(1, 9))
    count = groups * int(rng.integers(1, 9))
    low = -(1 << bits - 1) if w_type == "int8" else 0
    span = np.iinfo(x_type)
    return Layer(
        rng.integers(span.min, span.max + 1, (2, groups * per_group, 9, 11)).astype(x_type),
        rng.integers(low, low + (1 << bits), (count, per_group, *rng.integers(1, 4, 2))).astype(w_type),
        rng.integers(-5000, 5000, count).astype(np.int32) if rng.integers(2) else None,
        (int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        (int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        int(rng.integers(2)),
        groups,
        bool(rng.integers(2)),
    )


def scales_of(rng: np.random.Generator, layer: Layer) -> tuple[np.float32, Array, np.float32]:
    """Of x, the weights and y, such that y fills its dtype."""
    x, w = rng.uniform(0.001, 0.1), rng.uniform(0.001, 0.01, len(layer.w) if layer.per_filter else ())
    y = x * w.mean() * 60 * np.sqrt(layer.w[0].size)
    return np.float32(x), np.asarray(w, np.float32), np.float32(y)


def by_onnxruntime(count: int, seed: int = 2017) -> Iterator[Made]:
    """QLinearConv, and Conv among QDQ nodes: per tensor and per filter, groups, SAME, dilation, ReLU."""
    import onnxruntime
    from onnx import helper, numpy_helper

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    rng = np.random.default_rng(seed)
    kinds = [("uint8", "uint8", 8), ("int8", "int8", 8), ("uint8", "int8", 7), ("uint8", "int8", 8)]
    for number in range(count):
        x_type, w_type, bits = kinds[number % len(kinds)]
        layer = layer_of(rng, x_type, w_type, bits)
        where: dict[str, Any] = {"pads": [layer.pads] * 4, "dilations": layer.dilation}
        padding: Any = None
        if same := str(rng.choice(["", "SAME_UPPER", "SAME_LOWER"])):
            layer = layer._replace(dilation=(1, 1))  # onnxruntime refuses SAME with another
            where, padding = {"auto_pad": same}, "same" if same == "SAME_UPPER" else "same-lower"
        where |= {"strides": layer.stride, "group": layer.groups}
        arrays = arrays_of(rng, layer)
        qdq = number % 8 > 3 and (x_type, w_type) == ("uint8", "int8")  # what it joins on x86
        if qdq:
            relu = bool(rng.integers(2))
            if relu:  # whose least is that of the dtype; with another onnxruntime computes in floats
                arrays["yz"] = np.array(np.iinfo(x_type).min, x_type)
            nodes = qdq_nodes(layer, where, relu)
        else:
            arrays = {name: a for name, a in arrays.items() if name not in ("bs", "bz")}
            nodes = [helper.make_node("QLinearConv", ["x", *arrays], ["y"], **where)]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(x_type))
        x = helper.make_tensor_value_info("x", kind, layer.x.shape)
        y = helper.make_tensor_value_info("y", kind, None)
        tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
        graph = helper.make_graph(nodes, "layer", [x], [y], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        result = np.moveaxis(session.run(None, {"x": layer.x})[0], 1, -1)
        [conv] = [node for node in nodes if "Conv" in node.op_type]
        made = cm.Quantization.from_onnx(conv, graph.initializer, graph.node)
        name = f"onnxruntime, {x_type} × {w_type}{f' of {bits} bits' if w_type == 'int8' else ''}"
        yield Made(name, *layer.seen(), result, made, layer.arguments(padding))


def arrays_of(rng: np.random.Generator, layer: Layer) -> dict[str, Any]:
    """Weights, bias, scales and zero points in the order of QLinearConv's inputs.

    onnxruntime wants one zero point for all filters, 0 if they have scales of their own.
    """
    span, scales = np.iinfo(layer.x.dtype), scales_of(rng, layer)
    zeros = rng.integers(span.min, span.max + 1, 2).astype(layer.x.dtype)
    w_zero = np.full(scales[1].shape, rng.integers(100, 150) if layer.w.dtype == np.uint8 else 0)
    arrays = {"xs": scales[0], "xz": zeros[0], "w": layer.w, "ws": scales[1]}
    arrays |= {"wz": w_zero.astype(layer.w.dtype), "ys": scales[2], "yz": zeros[1]}
    if layer.bias is not None:
        sums = np.asarray(scales[0] * scales[1], np.float32)
        arrays |= {"b": layer.bias, "bs": sums, "bz": np.zeros(sums.shape, np.int32)}
    return arrays


def qdq_nodes(layer: Layer, where: dict[str, Any], relu: bool) -> list[Any]:
    """A Conv whose inputs are dequantized, and whose output is quantized."""
    from onnx import helper

    parts = ["w"] if layer.bias is None else ["w", "b"]
    nodes = [helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["dx"])]
    for part in parts:
        nodes += [helper.make_node("DequantizeLinear", [part, f"{part}s", f"{part}z"], [f"d{part}"], axis=0)]
    nodes += [helper.make_node("Conv", ["dx", *(f"d{part}" for part in parts)], ["sums"], **where)]
    nodes += [helper.make_node("Relu", ["sums"], ["kept"])] * relu
    nodes += [helper.make_node("QuantizeLinear", ["kept" if relu else "sums", "ys", "yz"], ["y"])]
    return nodes


def by_torch(count: int, seed: int = 2017) -> Iterator[Made]:
    """quantized.functional.conv2d of FBGEMM and QNNPACK, uint8 × int8 of 7 bits.

    oneDNN's is left out: it multiplies by the scale of the sums first and divides by that of y then.
    PyTorch's bias is real, and FBGEMM adds it unrounded, divided by the scale of the sums: layers with a bias
    have scales of powers of two here. QNNPACK multiplies by the inverse of y's scale.
    """
    import torch

    rng = np.random.default_rng(seed)
    engines = [name for name in ("fbgemm", "qnnpack") if name in torch.backends.quantized.supported_engines]
    for number in range(count):
        torch.backends.quantized.engine = engine = engines[number % len(engines)]
        layer = layer_of(rng, "uint8", "int8", 7)
        x_scale, w_scale, y_scale = scales_of(rng, layer)
        x_zero, y_zero = (int(z) for z in rng.integers(0, 256, 2))
        real = None
        if layer.bias is not None:
            x_scale, w_scale = (np.exp2(np.rint(np.log2(scale))) for scale in (x_scale, w_scale))
            real = (layer.bias * x_scale * w_scale).astype(np.float32)
        sums = np.asarray(x_scale * w_scale, np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors are to go, one day
            x = torch._make_per_tensor_quantized_tensor(torch.from_numpy(layer.x), float(x_scale), x_zero)
            w = _weights(torch, layer, w_scale)
            y = torch.ao.nn.quantized.functional.conv2d(
                x,
                w,
                None if real is None else torch.from_numpy(real),
                layer.stride,
                layer.pads,
                layer.dilation,
                layer.groups,
                scale=float(y_scale),
                zero_point=y_zero,
            )
        made = cm.Quantization(
            input_zero_point=x_zero,
            scale=sums / y_scale if engine == "fbgemm" else sums * (1 / y_scale),
            output_zero_point=y_zero,
            rounding="float32",
            dtype="uint8",
        )
        y_last = np.moveaxis(y.int_repr().numpy(), 1, -1)
        yield Made(f"torch, {engine}", *layer.seen(), y_last, made, layer.arguments())


def _weights(torch: Any, layer: Layer, scale: Array) -> Any:
    w = torch.from_numpy(layer.w)
    if not layer.per_filter:
        return torch._make_per_tensor_quantized_tensor(w, float(scale), 0)
    scales = torch.from_numpy(scale.astype(np.float64))
    return torch._make_per_channel_quantized_tensor(w, scales, torch.zeros(len(scale), dtype=torch.int64), 0)


def main(count: int) -> int:
    """Print how many layers of each kind are what; 1 if any is different."""
    tally: dict[str, dict[str, int]] = {}
    makers: list[Callable[[int], Iterator[Made]]] = [by_onnxruntime, by_torch]
    for maker in makers:
        for made in maker(count):
            found = tally.setdefault(
                made.kind, dict.fromkeys(("equal", "saturated in pairs", "different"), 0)
            )
            found[made.verdict()] += 1
    for kind, found in tally.items():
        print(f"{kind:38}", *(f"{count:4} {verdict}" for verdict, count in found.items()))
    return int(any(found["different"] for found in tally.values()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 400))
