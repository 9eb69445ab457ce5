"""One layer of a network as a folder: its arrays as .npy, and the lines of convmat that compute it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.encodings import printable
from convmat.errors import FileError
from convmat.files.folders import new_folder
from convmat.files.npy import write_npy
from convmat.files.outputs import open_output
from convmat.networks.layers import Convolution, Layer
from convmat.quantization import Quantization

Array = NDArray[Any]


def write_layer(
    folder: str, network: str, layer: Layer, convolution: Convolution | str, y: Array
) -> list[str]:
    """Write a new folder; the names of its files.

    The arrays are in the layout of ONNX, channels second. A transposed layer is written as the convolution
    that it equals, its input spread by zeros.

    Raises:
        FileError: no CONV layer, one that convmat does not compute, or a folder that cannot be written.
    """
    if isinstance(convolution, str):
        raise FileError(network, f"layer {layer.name!r} cannot be written: {convolution}")
    arrays = {
        "input": np.moveaxis(convolution.x, -1, 1),
        "kernel": np.moveaxis(convolution.filters, -1, 1),
        "output": y,
    }
    if convolution.bias is not None:
        arrays["bias"] = convolution.bias
    with new_folder(folder) as inside:
        for name, array in arrays.items():
            write_npy(
                os.path.join(inside, f"{name}.npy"), array.shape, array.dtype, [np.ascontiguousarray(array)]
            )
        texts = {"README": readme(network, layer, convolution, arrays)}
        if convolution.quantization is not None:
            texts["layer.toml"] = _toml(convolution.quantization)
        for name, lines in texts.items():
            with open_output(os.path.join(inside, name)) as stream:
                stream.write(("\n".join(lines) + "\n").encode())
    return [*(f"{name}.npy" for name in arrays), *texts]


def readme(
    network: str, layer: Layer, convolution: Convolution, arrays: Mapping[str, Array]
) -> Iterator[str]:
    """What the folder holds, and commands to run in it."""
    yield printable(f"Layer {layer.name} of {os.path.basename(network)}, a {layer.op}, as it was run.")
    if layer.is_transposed:
        yield "It is written as the convolution of stride 1 that it equals: its input is spread by zeros, and"
        yield "its kernel turned about, with channels exchanged."
    if layer.op == "ConvInteger":
        yield "Zero points are subtracted already; what is left in the padding is 0."
    yield ""
    for name, array in arrays.items():
        yield f"    {name}.npy  {'×'.join(map(str, array.shape))} {array.dtype}"
    quantized = convolution.quantization
    if quantized is not None:
        yield "    layer.toml  zero points, scales and rounding"
    if quantized is not None and quantized.input_zero_point:
        yield ""
        yield f"The padding of the layer holds {quantized.input_zero_point}, that of X_col 0."
    yield ""
    dims, size = convolution.x.ndim - 2, ",".join(map(str, convolution.filters.shape[1:-1]))
    shape = ",".join(map(str, (1, *arrays["input"].shape[1:])))
    kernel, where = (
        "--kernel kernel.npy --kernel-layout oihw",
        f"--layout nchw --dims {dims} {_steps(convolution)}",
    )
    groups = f" --groups {convolution.groups}" if convolution.groups > 1 else ""
    layer_line = f"{kernel}{groups}{' --bias bias.npy' if 'bias' in arrays else ''} {where}"
    layer_line += " --quantize layer.toml" if quantized is not None else ""
    lines = {
        "X_col, a row for each patch": f"unroll input.npy --k {size} {where} -o x_col.npy",
        "W_col, a column for each filter": f"flatten-filters {kernel[9:]} --dims {dims}{groups} -o w_col.npy",
        "the layer, by convmat": f"convolve input.npy {layer_line} -o y.npy",
        "is the output the convolution?": f"verify input.npy {layer_line} --expected output.npy",
        "the layer as one matrix": f"matrix --input-shape {shape} {kernel}{groups} {where}",
    }
    if quantized is not None:  # which is no linear map
        del lines["the layer as one matrix"]
    for what, line in lines.items():
        yield f"# {what}"
        yield f"convmat {line}"


def _toml(quantization: Quantization) -> Iterator[str]:
    """What `--quantize` reads, a line for each key that is said."""
    for key, value in quantization.as_dict().items():
        if value is not None:
            yield f"{key} = {json.dumps(value)}"


def _steps(convolution: Convolution) -> str:
    """Stride, padding and dilation as options."""
    parts = []
    axes = convolution.x.ndim - 2
    for name, sizes in (("stride", convolution.stride), ("dilation", convolution.dilation)):
        numbers = (sizes,) * axes if isinstance(sizes, int) else sizes
        parts.append(f"--{name} {','.join(map(str, numbers))}")
    padding = convolution.padding
    if not isinstance(padding, str):
        padding = ",".join(str(count) for pair in padding for count in pair)
    return " ".join([*parts, f"--padding {padding}"])
