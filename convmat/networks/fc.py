"""A network rewritten as the paper has it: each CONV gathers its patches and multiplies them by W_col.

An input (N, C, *spatial) is flattened, transposed to (N, pixels, C), and padded by one pixel of zeros at the
end, which stands for all of the padding. Gather takes the pixel of each patch and tap (Eq. 8): that is X_col,
(N, P, kh·kw·C). One MatMul with W_col, (kh·kw·C, K), is the layer; with groups it is a batch of products.
Of integers that is MatMulInteger; a quantized layer's sums are scaled and rounded as onnxruntime does it.
What comes out is brought to (N, K, *out).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.networks.extra import package
from convmat.networks.layers import Layer
from convmat.networks.model import Model, needs, subgraphs
from convmat.networks.weights import is_external
from convmat.patches import unroll

Array = NDArray[Any]

MOST_ELEMENTS = 1 << 26
"""Elements of X_col that a layer may have by default: 256 MiB of float32."""


class Rewritten(NamedTuple):
    """A network whose CONV layers are matrix products."""

    proto: Any
    layers: list[Layer]
    """Those that were rewritten."""
    left: dict[str, str]
    """Those that were left as they are, and why."""


def rewrite(model: Model, layers: Iterable[Layer], most_elements: int = MOST_ELEMENTS) -> Rewritten:
    """The model with each CONV as a product; what cannot be, or would be too large, is left as it is.

    The weights of the model are in it, those from other files, too. Its inputs have the sizes that shapes
    were inferred for, since the index mapping is that of one size.

    Raises:
        FileError: weights that cannot be read.
    """
    by_output = {layer.y: layer for layer in layers if layer.is_conv}
    left = {layer.name: why for layer in by_output.values() if (why := _why_not(model, layer, most_elements))}
    proto = package("onnx").ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    for name in ("node", "initializer", "value_info"):
        graph.ClearField(name)
    done: list[Layer] = []
    builder = _Builder(model, graph)
    for node in model.graph.node:
        layer = by_output.get(node.output[0]) if node.output else None
        if layer is None or layer.name in left:
            graph.node.append(node)
            continue
        builder.add(layer)
        done.append(layer)
    used = {name for node in graph.node for name in node.input} | set(model.outputs)
    for tensor in model.graph.initializer:
        if tensor.name in used or _is_in_branch(tensor.name, graph.node):
            kept = graph.initializer.add()
            if is_external(tensor):
                kept.CopyFrom(
                    package("onnx.numpy_helper").from_array(model.constant(tensor.name), tensor.name)
                )
            else:
                kept.CopyFrom(tensor)
    _keep_inputs(model, graph)
    return Rewritten(proto, done, left)


def _why_not(model: Model, layer: Layer, most_elements: int) -> str | None:
    """Why a layer is left as it is, or None."""
    if model.opset < 7:
        return f"it is of opset {model.opset}, and products are written from opset 7 on"
    if layer.geometry is None:
        return "its shapes are not known"
    if not all(model.is_constant(name) for name in list(layer.node.input)[1:] if name):
        return "its weights depend on the input"
    if layer.is_integer and model.opset < 11:
        return "it is of integers, which Pad takes from opset 11 on"
    zero = _weight_zero(model, layer)
    if zero is not None and layer.geometry.groups > 1 and zero.size > 1:
        return "it has groups, and a zero point for each filter"
    if layer.is_quantized and isinstance(made := layer.quantization(model.constant), str):
        return made
    elements = x_col_elements(layer)
    if elements > most_elements:
        return f"its X_col would have {elements} elements, more than {most_elements} (--max-elements)"
    return None


def _weight_zero(model: Model, layer: Layer) -> Array | None:
    """The zero point of the weights, or one for each filter where they are not the same."""
    name = layer.zero_points[1]
    if name is None:
        return None
    zero = model.constant(name).reshape(-1)
    return zero[0] if (zero == zero[0]).all() else zero


def x_col_elements(layer: Layer) -> int:
    """Elements of the X_col that a layer gathers; of a transposed one, that of the convolution it is."""
    geometry = layer.geometry
    if geometry is None:
        return 0
    if not layer.is_transposed:
        return math.prod(geometry.matrix_shape)
    channels = (layer.input_shape or (0, 0))[1] or 0
    return geometry.batch * math.prod((*geometry.input_size, *geometry.kernel_size)) * channels


def pixel_table(layer: Layer) -> Array:
    """The pixel that each patch and tap sees, (P, kh·kw) int64; H·W, one past the last, is padding.

    It is the index mapping (Eq. 8) itself: an image whose pixels are their own numbers, unrolled.
    """
    geometry = layer.geometry
    assert geometry is not None
    size = [n or 1 for n in (layer.input_shape or ())[2:]]
    pixels = math.prod(size)
    image = np.arange(1, pixels + 1).reshape(1, *size, 1)  # so that 0 is the padding
    if layer.is_transposed:
        table = unroll(layer.spread(image), geometry.kernel_size, dilation=geometry.dilation)
    else:
        table = unroll(image, geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    return np.asarray((table - 1) % (pixels + 1), np.int64)


class _Builder:
    """Adds the products to a graph, with names that nothing else there has."""

    def __init__(self, model: Model, graph: Any) -> None:
        self.model, self.graph = model, graph
        self._taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._prefix = self._last = ""

    def add(self, layer: Layer) -> None:
        """The nodes of one layer, whose output has the name that it had."""
        geometry, (_, channels, *size) = layer.geometry, layer.input_shape or (1, 1)
        assert geometry is not None
        self._prefix, self._last = f"{layer.y}_fc", layer.x
        table, groups = pixel_table(layer), geometry.groups
        patches, taps = table.shape
        pixels = math.prod(h or 1 for h in size)
        self._reshape((0, channels or 0, pixels))
        self._node("Transpose", perm=[0, 2, 1])
        if (table == pixels).any():
            self._pad_one(layer)
        self._node("Gather", self._constant(table.reshape(-1)), axis=1)
        depth = (channels or 0) // groups
        if groups == 1:
            self._reshape((0, patches, taps * depth))
        else:
            self._reshape((0, patches, taps, groups, depth))
            self._node("Transpose", perm=[0, 3, 1, 2, 4])
            self._reshape((0, groups, patches, taps * depth))
        self._multiply(layer, groups)
        out = (layer.output_shape or ())[2:]
        axes = [0, 2, 1] if groups == 1 else [0, 1, 3, 2]
        filters = self._count
        self._node("Transpose", perm=axes)
        self._reshape((0, filters, *(h or 0 for h in out)), layer.y)

    def _multiply(self, layer: Layer, groups: int) -> None:
        """X_col · W_col (+ b)."""
        w = np.moveaxis(self.model.constant(layer.w), 1, -1)
        if layer.is_transposed:
            _, w = layer.as_convolution(
                np.zeros((1, *(1,) * (w.ndim - 2), 1), w.dtype), self.model.constant(layer.w)
            )
        self._count = len(w)
        w_col = w.reshape(groups, len(w) // groups, -1).swapaxes(1, 2)
        w_col = np.ascontiguousarray(w_col[0] if groups == 1 else w_col)
        if layer.is_integer:
            zero = _weight_zero(self.model, layer)
            zeros = [layer.zero_points[0] or "", "" if zero is None else self._constant(zero)]
            while zeros and not zeros[-1]:
                zeros.pop()
            self._node("MatMulInteger", self._constant(w_col), *zeros)
        else:
            self._node("MatMul", self._constant(w_col))
        if layer.bias is not None:
            self._node("Add", self._each(self.model.constant(layer.bias), groups))
        if layer.is_quantized:
            self._requantize(layer, groups)

    def _requantize(self, layer: Layer, groups: int) -> None:
        """Sums as `roundings.float32` has them: float32(acc) · scale, to the nearest, plus the zero point."""
        made = layer.quantization(self.model.constant)
        assert not isinstance(made, str)
        scale = np.asarray(made.scale, np.float32)
        self._node("Cast", to=package("onnx").TensorProto.FLOAT)
        self._node("Mul", self._each(scale, groups) if scale.ndim else self._constant(scale))
        self._node("QuantizeLinear", self._constant(np.float32(1)), layer.node.input[7])

    def _each(self, numbers: Array, groups: int) -> str:
        """A number for each filter, as they lie in the product."""
        return self._constant(numbers if groups == 1 else numbers.reshape(groups, 1, -1))

    def _pad_one(self, layer: Layer) -> None:
        """One pixel more, of zeros, or of what stands for zero."""
        pads = [0, 0, 0, 0, 1, 0]
        if self.model.opset < 11:
            self._node("Pad", pads=pads)
            return
        zero = layer.zero_points[0]
        self._node("Pad", self._constant(np.array(pads)), *([zero] if zero else []))

    def _reshape(self, shape: tuple[int, ...], output: str | None = None) -> None:
        self._node("Reshape", self._constant(np.array(shape)), output=output)

    def _node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        output = output or self._name(op.lower())
        node = package("onnx.helper").make_node(
            op, [self._last, *inputs], [output], f"{output}_{op}", **attributes
        )
        self.graph.node.append(node)
        self._last = output

    def _constant(self, array: Any) -> str:
        name = self._name("constant")
        self.graph.initializer.append(package("onnx.numpy_helper").from_array(np.asarray(array), name))
        return name

    def _name(self, what: str) -> str:
        number = 0
        while (name := f"{self._prefix}_{what}{number or ''}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _is_in_branch(name: str, nodes: Iterable[Any]) -> bool:
    return any(subgraphs(node) and name in needs(node) for node in nodes)


def _keep_inputs(model: Model, graph: Any) -> None:
    """The inputs with the sizes of now; weights that old models list among them only where they still are."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name in weights or value.name in model.inputs]
    graph.ClearField("input")
    for value in kept:
        graph.input.append(value)
        shape = model.shapes.get(value.name)
        if value.name in model.inputs and shape is not None and value.type.HasField("tensor_type"):
            dims = graph.input[-1].type.tensor_type.shape.dim
            while len(dims) < len(shape):  # where the model has said nothing
                dims.add()
            for dim, size in zip(dims, shape, strict=True):
                if size is not None:
                    dim.dim_value = size
