"""One implementation in a process of its own: takes a task as a line of JSON, answers with times.

Run by `python -m tests.benchmarks`. A task is {"do": "unroll", "layer": [...], "seconds": s} or
the like; the answer has the median seconds of a call for each variant, and check sums of the result.
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
    rng = np.random.default_rng(1712)
    if layer.dtype == "uint8":
        return rng.integers(0, 256, layer.shape, np.uint8), rng.integers(-4, 5, layer.filter_shape, np.int8)
    return rng.standard_normal(layer.shape, layer.dtype), rng.standard_normal(layer.filter_shape, layer.dtype)


def channels_first(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def convmat(do: str, layer: Layer) -> dict[str, Call]:
    import convmat as cm

    x, filters = arrays(layer)
    if do == "convolve":
        out = cm.convolve(x, filters, **layer.where, groups=layer.groups)
        return {
            "": lambda: cm.convolve(x, filters, **layer.where, groups=layer.groups),
            "out": lambda: cm.convolve(x, filters, **layer.where, groups=layer.groups, out=out),
        }
    x_col = cm.unroll(x, layer.kernel, **layer.where)
    if do == "fold":
        return {"": lambda: cm.fold(x_col, layer.shape, layer.kernel, **layer.where)}
    return {
        "": lambda: cm.unroll(x, layer.kernel, **layer.where),
        "out": lambda: cm.unroll(x, layer.kernel, **layer.where, out=x_col),
    }


def torch(do: str, layer: Layer) -> dict[str, Call]:
    import torch

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    x, filters = (torch.from_numpy(channels_first(a)) for a in arrays(layer))
    if do == "unroll":
        if x.ndim != 4:
            return {}
        return {"": lambda: torch.nn.functional.unfold(x, layer.kernel, **layer.where)}
    if do == "fold":
        if x.ndim != 4:
            return {}
        unfolded = torch.nn.functional.unfold(x, layer.kernel, **layer.where)
        size = layer.shape[1:-1]
        return {"": lambda: torch.nn.functional.fold(unfolded, size, layer.kernel, **layer.where)}
    if layer.dtype == "uint8":
        x, filters = x.float(), filters.float()  # it convolves no integers on CPU
    conv = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[x.ndim]
    calls: dict[str, Call] = {"": lambda: conv(x, filters, **layer.where, groups=layer.groups)}
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.ndim in formats:
        last, last_filters = (a.contiguous(memory_format=formats[a.ndim]) for a in (x, filters))
        calls["channels last"] = lambda: conv(last, last_filters, **layer.where, groups=layer.groups)
    return calls


def onnxruntime(do: str, layer: Layer) -> dict[str, Call]:
    if do != "convolve" or layer.dtype == "float64":  # it has no convolution in float64
        return {}
    import onnx
    import onnxruntime

    x, filters = map(channels_first, arrays(layer))
    if layer.dtype == "uint8":
        x, filters = x.astype(np.float32), filters.astype(np.float32)
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {"": lambda: session.run(None, {"x": x})[0]}


def plain_image(layer: Layer) -> bool:
    """Whether a library of image filters can do it: one channel, one filter, no stride, no padding."""
    same = layer.stride == layer.dilation == layer.filters == layer.shape[0] == layer.shape[-1] == 1
    return same and layer.padding == 0 and len(layer.kernel) == 2


def scipy(do: str, layer: Layer) -> dict[str, Call]:
    if do != "convolve" or not plain_image(layer):
        return {}
    from scipy.signal import correlate

    x, filters = arrays(layer)
    return {"": lambda: correlate(x[0, ..., 0], filters[0, ..., 0], mode="valid")}


def opencv(do: str, layer: Layer) -> dict[str, Call]:
    if do != "convolve" or not plain_image(layer):
        return {}
    import cv2

    cv2.setNumThreads(THREADS)
    x, filters = arrays(layer)
    edge = [
        slice(k // 2, size - (k - 1) // 2) for k, size in zip(layer.kernel, layer.shape[1:], strict=False)
    ]
    return {"": lambda: cv2.filter2D(x[0, ..., 0], -1, filters[0, ..., 0])[*edge]}


def skimage(do: str, layer: Layer) -> dict[str, Call]:
    if do != "unroll" or layer.dilation > 1 or len(layer.kernel) != 2 or layer.padding:
        return {}
    from skimage.util import view_as_windows

    x, _ = arrays(layer)
    window, step = (1, *layer.kernel, x.shape[-1]), (1, layer.stride, layer.stride, 1)
    columns = int(np.prod(window))
    return {"": lambda: view_as_windows(x, window, step).reshape(-1, columns)}


def copy(do: str, layer: Layer) -> dict[str, Call]:
    """Not a peer but the measure: as many bytes as X_col has, copied by as many threads."""
    from convmat.parallel import share_out

    from convmat import ConvGeometry

    if do == "convolve":
        return {}
    geometry = ConvGeometry(layer.shape, layer.kernel, layer.stride, layer.padding, layer.dilation)
    source = np.ones(geometry.matrix_shape, layer.dtype)
    target = np.ones_like(source)
    parts = np.array_split(np.arange(len(source)), THREADS)
    halves = [slice(part[0], part[-1] + 1) for part in parts if len(part)]

    def run() -> np.ndarray:
        share_out(halves, lambda: lambda part: np.copyto(target[part], source[part]), THREADS, blas=False)
        return target

    return {"": run}


IMPLEMENTATIONS = {f.__name__: f for f in (convmat, torch, onnxruntime, scipy, opencv, skimage, copy)}


def check_sum(result: Any) -> list[float]:
    """The sum of the absolute values and of the squares, the same in every layout."""
    values = np.abs(np.asarray(result, np.float64))
    return [float(values.sum()), float((values**2).sum())]


def timed(call: Call, seconds: float) -> float:
    """The median time of a call, of as many as fit, at least 3."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    implementation = IMPLEMENTATIONS[sys.argv[1]]
    held: tuple[Any, dict[str, Call]] = (None, {})
    for line in sys.stdin:
        task = json.loads(line)
        what = (task["do"], Layer(*(tuple(v) if isinstance(v, list) else v for v in task["layer"])))
        if what != held[0]:
            held = (None, {})  # the old arrays go before the new ones come
            held = (what, implementation(*what))
            sums = {name: check_sum(call()) for name, call in held[1].items()}
        times = {name: timed(call, task["seconds"]) for name, call in held[1].items()}
        print(json.dumps({"times": times, "sums": sums}), flush=True)


if __name__ == "__main__":
    main()
