"""Measure what it takes to judge a network: python -m tests.network_cost [--layers N].

A network of 100 CONV layers on 224 × 224 × 3, shaped as residual networks are, is run by onnxruntime, and
each layer's result and convmat's own are judged. Beside it stands what the definition's own float64 products
take in NumPy, alone, and the largest memory of the process that judged.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def network(path: Path, layers: int) -> None:
    """Convolutions of 3 × 3 with residual sums; of four sizes, with 32 to 256 channels."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2017)
    nodes, held, value, channels = [], [], "x", 3
    for number in range(layers):
        stage = 4 * number // layers
        count, first = 32 << stage, number == 0 or 4 * (number - 1) // layers < stage
        w = rng.standard_normal((count, channels, 3, 3)) * (2 / (9 * channels)) ** 0.5
        held.append(numpy_helper.from_array(w.astype(np.float32), f"w{number}"))
        made, options = [f"c{number}"], {"pads": [1] * 4, "strides": [2 if first else 1] * 2}
        nodes.append(helper.make_node("Conv", [value, f"w{number}"], made, f"layer{number}", **options))
        last = f"c{number}"
        if number % 2 and not first and count == channels:
            nodes.append(helper.make_node("Add", [last, value], [f"s{number}"]))
            last = f"s{number}"
        nodes.append(helper.make_node("Relu", [last], [f"r{number}"]))
        value, channels = f"r{number}", count
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 224, 224))
    graph = helper.make_graph(nodes, "g", [x], [helper.make_empty_tensor_value_info(value)], held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(proto.SerializeToString())


def products(path: Path, x: Any) -> tuple[float, float]:
    """Seconds that the definition's products of all layers take, in float64: of values, and of magnitudes."""
    from convmat.networks.layers import layers_of
    from convmat.networks.model import Model
    from convmat.networks.running import Evaluator, walk
    from convmat.reference import convolve_by_taps

    model = Model(str(path))
    model.infer({"x": x.shape})
    layers = {layer.y: layer for layer in layers_of(model)}
    taken = [0.0, 0.0]
    for step in walk(model, {"x": x}, Evaluator(model), {y: [layer.x] for y, layer in layers.items()}):
        if step.node is None:
            continue
        layer, values = layers[step.node.output[0]], step.values

        def value(name: str, values: Any = values) -> Any:
            return values[name] if name in values else model.constant(name)

        convolution = layer.convolution(value)
        assert not isinstance(convolution, str)
        where = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
        for which, of in enumerate((np.asarray, np.abs)):
            start = time.perf_counter()
            convolve_by_taps(of(convolution.x), of(convolution.filters), *where)
            taken[which] += time.perf_counter() - start
    return taken[0], taken[1]


_JUDGE = """
import json, resource, sys, time
from convmat.cli import run
start = time.perf_counter()
status = run(["network", sys.argv[1], sys.argv[2], "-q"])
seconds, most = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([status, seconds, most / 1024]))
"""


def main() -> None:
    """Make the network, judge it in a process of its own, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=100)
    layers = parser.parse_args().layers
    with tempfile.TemporaryDirectory() as folder:
        path, x = Path(folder, "m.onnx"), np.random.default_rng(1).random((1, 3, 224, 224), np.float32)
        network(path, layers)
        np.save(Path(folder, "x.npy"), x)
        done = subprocess.run(
            [sys.executable, "-c", _JUDGE, str(path), str(Path(folder, "x.npy"))],
            check=True,
            capture_output=True,
            text=True,
        )
        status, seconds, memory = json.loads(done.stdout)
        values, magnitudes = products(path, x)
    both = values + magnitudes
    print(
        f"{layers} layers of 224 × 224, run and judged: {seconds:.1f} s, {memory:.0f} MiB; the definition's "
        f"float64 products in NumPy take {values:.1f} s, those of magnitudes {magnitudes:.1f} s: a ratio of "
        f"{seconds / both:.2f} to both, {seconds / values:.2f} to the first"
    )
    assert status == 0


if __name__ == "__main__":
    main()
