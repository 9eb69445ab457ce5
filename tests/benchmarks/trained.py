"""Does the bound reject what is right, or pass what is wrong? On the layers of real trained networks.

    pip download --no-deps rapidocr-onnxruntime
    python -m tests.benchmarks.trained rapidocr_onnxruntime-*.whl

Takes every convolution out of the ONNX models in the given files (`.onnx`, or wheels that carry some), with
its trained weights and with the activations that a sample image brings to its input. Each layer is computed
by torch and by onnxruntime, and `verify` has to find both equal. Then one product is left out of one output
element, chosen at random among those that are not 0: in the layer's own numbers, judged by the bound, and
in a probe, small integers of the layer's shape, of which `verify` demands equality. Prints, as Markdown,
how many of them it caught. Needs onnx, onnxruntime and torch.
"""

from __future__ import annotations

import argparse
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import convmat as cm

SAMPLE = Path(__file__).parents[2] / "sample_images" / "scene.png"
_EXACT = 1 << 24  # integers up to this are float32 numbers


@dataclass(frozen=True)
class Layer:
    """One convolution of a network; arrays in ONNX's layout."""

    name: str
    x: np.ndarray
    """(N, C, H, W), what the network feeds it."""
    weights: np.ndarray
    """(K, C/groups, kh, kw)."""
    bias: np.ndarray | None
    stride: list[int]
    pads: list[int]
    """Top, left, bottom, right."""
    dilation: list[int]
    groups: int

    def verify(self, y: np.ndarray, **judged: Any) -> cm.Report:
        """The report on a result, (N, K, H_out, W_out)."""
        x, weights, y = (a.transpose(0, 2, 3, 1) for a in (self.x, self.weights, y))
        return cm.verify(x, weights, y, bias=self.bias, **judged, **self.geometry)

    @property
    def geometry(self) -> dict[str, Any]:
        top, left, bottom, right = self.pads
        return {
            "stride": tuple(self.stride),
            "padding": ((top, bottom), (left, right)),
            "dilation": tuple(self.dilation),
            "groups": self.groups,
        }


def models(files: list[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    for file in files:
        if file.endswith(".onnx"):
            yield Path(file).name, onnx.load(file)
            continue
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".onnx"):
                    yield Path(name).name, onnx.load_from_string(archive.read(name))


def layers(model: onnx.ModelProto) -> Iterator[Layer]:
    """Every convolution with fixed weights, its input taken from a run on the sample image."""
    graph = model.graph
    fixed = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            fixed[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes = [n for n in graph.node if n.op_type == "Conv" and n.input[1] in fixed]
    feeds = activations(model, {n.input[0] for n in nodes})
    for index, node in enumerate(nodes):
        x = feeds[node.input[0]]
        if x.ndim != 4:
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise SystemExit(f"layer {node.name}: auto_pad {given['auto_pad']!r} is not read here")
        yield Layer(
            node.name or str(index),
            x,
            fixed[node.input[1]],
            fixed[node.input[2]] if len(node.input) > 2 else None,
            list(given.get("strides", [1, 1])),
            list(given.get("pads", [0, 0, 0, 0])),
            list(given.get("dilations", [1, 1])),
            int(given.get("group", 1)),
        )


def activations(model: onnx.ModelProto, names: set[str]) -> dict[str, np.ndarray]:
    """What these values of the graph are for the sample image, in the size the network wants."""
    wanted = model.graph.input[0]
    sizes = [d.dim_value for d in wanted.type.tensor_type.shape.dim]
    height, width = (given if given > 0 else usual for given, usual in zip(sizes[2:], (64, 96), strict=True))
    image = np.asarray(Image.open(SAMPLE).convert("RGB").resize((width, height)), np.float32)
    x = (image.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    inner = sorted(names - {wanted.name})
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inner)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip(inner, session.run(inner, {wanted.name: x}), strict=True))
    return found | {wanted.name: x}


def by_torch(layer: Layer) -> np.ndarray:
    top, left, bottom, right = layer.pads
    tensors = [None if a is None else torch.tensor(a) for a in (layer.x, layer.weights, layer.bias)]
    x = torch.nn.functional.pad(tensors[0], (left, right, top, bottom))
    where = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    with torch.no_grad():
        return torch.nn.functional.conv2d(x, tensors[1], tensors[2], **where).float().numpy()


def by_onnxruntime(layer: Layer) -> np.ndarray:
    arrays = {"x": layer.x, "w": layer.weights} | ({} if layer.bias is None else {"b": layer.bias})
    node = helper.make_node(
        "Conv",
        list(arrays),
        ["y"],
        strides=layer.stride,
        pads=layer.pads,
        dilations=layer.dilation,
        group=layer.groups,
    )
    inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, a.shape) for k, a in arrays.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, [y]), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, arrays)[0]


def product_left_out(layer: Layer, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The result without one product of one element."""
    while True:
        at = tuple(int(rng.integers(size)) for size in y.shape)
        c, i, j = (int(rng.integers(size)) for size in layer.weights.shape[1:])
        row = at[2] * layer.stride[0] + i * layer.dilation[0] - layer.pads[0]
        column = at[3] * layer.stride[1] + j * layer.dilation[1] - layer.pads[1]
        if not (0 <= row < layer.x.shape[2] and 0 <= column < layer.x.shape[3]):
            continue
        channel = at[1] // (len(layer.weights) // layer.groups) * layer.weights.shape[1] + c
        product = float(layer.x[at[0], channel, row, column]) * float(layer.weights[at[1], c, i, j])
        if product:
            wrong = y.copy()
            wrong[at] -= np.float32(product)
            return wrong


def probe(layer: Layer, rng: np.random.Generator) -> Layer:
    """The layer with integers, none 0, whose sums are exact in float32 in any order."""
    terms = math.prod(layer.weights.shape[1:])
    most = max(min(math.isqrt((_EXACT - 1) // terms), 127), 1)
    x, weights = (
        (rng.integers(1, most + 1, shape) * rng.choice((-1, 1), shape)).astype(np.float32)
        for shape in (layer.x.shape, layer.weights.shape)
    )
    return replace(layer, x=x, weights=weights, bias=None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help=".onnx files, or wheels that carry some")
    parser.add_argument("--seed", type=int, default=2017)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    print(
        "| model | layers | with subnormal weights | rejected: torch, onnxruntime | largest error / bound |",
        end="",
    )
    print(" product left out: caught by the bound | by a probe |")
    print("|---|---|---|---|---|---|---|")
    for name, model in models(chosen.files):
        count = subnormal = by_bound = by_probe = 0
        rejected, largest = [0, 0], 0.0
        for layer in layers(model):
            count += 1
            magnitudes = np.abs(layer.weights)
            subnormal += bool(((magnitudes > 0) & (magnitudes < np.finfo(np.float32).tiny)).any())
            results = [by_torch(layer), by_onnxruntime(layer)]
            for which, y in enumerate(results):
                report = layer.verify(y)
                rejected[which] += not report
                largest = max(largest, report.error_over_bound)
            by_bound += not layer.verify(product_left_out(layer, results[0], rng))
            exact = probe(layer, rng)
            y = by_torch(exact)
            if not exact.verify(y, exact=True):
                raise SystemExit(f"{name}, layer {layer.name}: torch's result on the probe is not exact")
            by_probe += not exact.verify(product_left_out(exact, y, rng), exact=True)
        print(f"| {name} | {count} | {subnormal} | {rejected[0]}, {rejected[1]} | {largest:.2g} |", end="")
        print(f" {by_bound} of {count} | {by_probe} of {count} |", flush=True)


if __name__ == "__main__":
    main()
