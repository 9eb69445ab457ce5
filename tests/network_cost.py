"""Measure what it takes to judge a network: python -m tests.network_cost [--layers N].

A network of 100 CONV layers on 224 × 224 × 3, shaped as residual networks are, is run by onnxruntime, and
each layer's result and convmat's own are judged. Beside it stands what the definition's own float64 products
take in NumPy, alone, and the largest memory of the process that judged. All of it is CPU time on one thread,
which a busy machine stretches least; of several rounds the quickest counts.
"""

from __future__ import annotations

import argparse
import json
import os
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
            x, filters = of(convolution.x), of(convolution.filters)
            start = time.process_time()
            convolve_by_taps(x, filters, *where)
            taken[which] += time.process_time() - start
    return taken[0], taken[1]


_JUDGE = """
import json, resource, sys, time
from convmat.cli import run
import onnx.reference, onnxruntime
start = time.process_time()
status = run(["network", sys.argv[1], sys.argv[2], "-q"])
seconds, most = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([status, seconds, most / 1024]))
"""


_PRODUCTS = """
import json, sys
import numpy as np
from pathlib import Path
from tests.network_cost import products
print(json.dumps(products(Path(sys.argv[1]), np.load(sys.argv[2]))))
"""
_ONE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CONVMAT_THREADS"), "1")


def measured(program: str, *args: str) -> Any:
    """What a program prints, in a process of its own."""
    line = [sys.executable, "-c", program, *args]
    done = subprocess.run(line, check=True, capture_output=True, text=True, env=os.environ | _ONE)
    return json.loads(done.stdout)


def main() -> None:
    """Make the network, judge it in a process of its own, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = str(Path(folder, "m.onnx")), str(Path(folder, "x.npy"))
        network(Path(files[0]), asked.layers)
        np.save(files[1], np.random.default_rng(1).random((1, 3, 224, 224), np.float32))
        rounds = [(measured(_JUDGE, *files), measured(_PRODUCTS, *files)) for _ in range(asked.rounds)]
    assert all(status == 0 for (status, _, _), _ in rounds)
    seconds, memory = min(judged[1] for judged, _ in rounds), max(judged[2] for judged, _ in rounds)
    values, magnitudes = (min(alone[which] for _, alone in rounds) for which in (0, 1))
    print(
        f"{asked.layers} layers of 224 × 224, run and judged: {seconds:.1f} s, {memory:.0f} MiB; the "
        f"definition's products of float64 take {values:.1f} s, those of magnitudes {magnitudes:.1f} s: "
        f"a ratio of {seconds / values:.2f} to the first, {seconds / (values + magnitudes):.2f} to both"
    )


if __name__ == "__main__":
    main()
