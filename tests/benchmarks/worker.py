"""One implementation in a process of its own: takes a task as a line of JSON, answers with times.

A task is {"do": "convolve", "layer": [...], "seconds": s}; the answer has the least seconds of a call for
each variant, the CPU seconds that it took, and check sums of the result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.layers import Layer

Call = Callable[[], Any]
THREADS = int(os.environ.get("CONVMAT_THREADS", 1))


def arrays(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """The same input and filters for everyone."""
    rng, dtype = np.random.default_rng(1712), np.dtype(layer.dtype)
    if dtype.kind in "iu":
        x = rng.integers(0, 256, layer.shape).astype(dtype)
        return x, rng.integers(-4, 5, layer.filter_shape).astype("i1" if dtype == "u1" else dtype)
    return rng.standard_normal(layer.shape, layer.dtype), rng.standard_normal(layer.filter_shape, layer.dtype)


def floats(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """The same channels first, as peers take them, which convolve no integers."""
    dtype = layer.dtype if layer.dtype == "float64" else "float32"
    x, filters = (np.ascontiguousarray(np.moveaxis(a, -1, 1), dtype) for a in arrays(layer))
    return x, filters


def convmat(do: str, layer: Layer) -> dict[str, Call]:
    import convmat as cm

    x, filters = arrays(layer)
    where, grouped = layer.where, layer.where | {"groups": layer.groups}
    if do == "convolve":
        return {"": lambda: cm.convolve(x, filters, **grouped)}
    if do == "transpose":
        y = cm.convolve(x, filters, **grouped)
        return {"": lambda: cm.convolve_transpose(y, filters, **grouped, input_shape=x.shape)}
    x_col = cm.unroll(x, layer.kernel, **where)
    return {
        "unroll": {"": lambda: cm.unroll(x, layer.kernel, **where)},
        "unroll into out": {"": lambda: cm.unroll(x, layer.kernel, **where, out=x_col)},
        "fold": {"": lambda: cm.fold(x_col, layer.shape, layer.kernel, **where)},
    }[do]


def numpy(do: str, layer: Layer) -> dict[str, Call]:
    """Convmat without a compiler; its process has CONVMAT_NATIVE=0."""
    return convmat(do, layer)


def torch(do: str, layer: Layer) -> dict[str, Call]:
    import torch

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    x, filters = map(torch.from_numpy, floats(layer))
    axes, where = len(layer.kernel), layer.where
    if do.startswith("unroll") or do == "fold":
        if axes != 2:
            return {}
        unfolded = torch.nn.functional.unfold(x, layer.kernel, **where)
        if do == "fold":
            size = layer.shape[1:-1]
            return {"": lambda: torch.nn.functional.fold(unfolded, size, layer.kernel, **where)}
        return {"": lambda: torch.nn.functional.unfold(x, layer.kernel, **where)}
    more: dict[str, Any] = where | {"groups": layer.groups}
    name, given = f"conv{axes}d", x
    if do == "transpose":
        given = getattr(torch, name)(x, filters, **more)
        least = [
            (n - 1) * layer.stride - 2 * layer.padding + layer.dilation * (k - 1) + 1
            for n, k in zip(given.shape[2:], layer.kernel, strict=True)
        ]
        more["output_padding"] = [size - n for size, n in zip(layer.shape[1:-1], least, strict=True)]
        name = f"conv_transpose{axes}d"
    conv = getattr(torch, name)
    calls: dict[str, Call] = {"": lambda: conv(given, filters, **more)}
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.ndim in formats:
        last, last_filters = (a.contiguous(memory_format=formats[a.ndim]) for a in (given, filters))
        calls["channels last"] = lambda: conv(last, last_filters, **more)
    return calls


def onnx_model(layer: Layer) -> bytes:
    import onnx

    x, filters = floats(layer)
    axes = len(layer.kernel)
    node = onnx.helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=[layer.stride] * axes,
        pads=[layer.padding] * 2 * axes,
        dilations=[layer.dilation] * axes,
        group=layer.groups,
    )
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [onnx.helper.make_tensor_value_info("x", kind, x.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(filters, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def onnxruntime(do: str, layer: Layer) -> dict[str, Call]:
    if do != "convolve" or layer.dtype == "float64":  # it has no convolution in float64
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx_model(layer), options, providers=["CPUExecutionProvider"])
    x, _ = floats(layer)
    return {"": lambda: session.run(None, {"x": x})[0]}


def openvino(do: str, layer: Layer) -> dict[str, Call]:
    if do != "convolve" or layer.dtype == "float64":
        return {}
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(onnx_model(layer)), "CPU", options)
    x, _ = floats(layer)
    return {"": lambda: compiled(x, share_inputs=True)[0]}


def jax(do: str, layer: Layer) -> dict[str, Call]:
    if do != "convolve":
        return {}
    import jax

    jax.config.update("jax_enable_x64", True)
    x, filters = map(jax.numpy.asarray, floats(layer))
    axes, pads = len(layer.kernel), [(layer.padding, layer.padding)] * len(layer.kernel)
    conv = jax.jit(
        lambda x, w: jax.lax.conv_general_dilated(
            x,
            w,
            [layer.stride] * axes,
            pads,
            rhs_dilation=[layer.dilation] * axes,
            feature_group_count=layer.groups,
        )
    )
    return {"": lambda: conv(x, filters).block_until_ready()}


IMPLEMENTATIONS = {f.__name__: f for f in (convmat, numpy, torch, onnxruntime, openvino, jax)}


def check_sum(result: Any) -> list[float]:
    """The sum of the absolute values and of the squares, the same in every layout."""
    values = np.abs(np.asarray(result, np.float64))
    return [float(values.sum()), float((values**2).sum())]


def timed(call: Call, seconds: float) -> float:
    """The least time of a call, of as many as fit, at least 3; of one thread its CPU time."""
    clock = time.perf_counter if THREADS > 1 else time.process_time
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def main() -> None:
    implementation = IMPLEMENTATIONS[sys.argv[1]]
    held: tuple[Any, dict[str, Call]] = (None, {})
    sums: dict[str, list[float]] = {}
    for line in sys.stdin:
        task = json.loads(line)
        what = (task["do"], Layer(*(tuple(v) if isinstance(v, list) else v for v in task["layer"])))
        if what != held[0]:
            held = (None, {})  # the old arrays go before the new ones come
            held = (what, implementation(*what))
            sums = {name: check_sum(call()) for name, call in held[1].items()}
        used = time.process_time()
        times = {name: timed(call, task["seconds"]) for name, call in held[1].items()}
        print(json.dumps({"times": times, "cpu": time.process_time() - used, "sums": sums}), flush=True)


if __name__ == "__main__":
    main()
