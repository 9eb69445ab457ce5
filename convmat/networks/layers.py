"""The layers of a network that are matrix products, CONV and FC, and what each is as X_col · W_col."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import DTypeError, FileError, GeometryError, SettingError
from convmat.geometry import ConvGeometry
from convmat.networks.fields import Field, fields_of
from convmat.networks.geometries import geometry_of
from convmat.networks.model import CONVS, Model, Shape, attributes_of, node_name
from convmat.quantization import Quantization

Array = NDArray[Any]

_FULL = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
_QUANTIZED = ("QLinearConv", "QLinearMatMul")


class Convolution(NamedTuple):
    """The arguments of `convmat.convolve` that compute a layer, whatever operator it is."""

    x: Array
    """(N, *spatial, C)."""
    filters: Array
    bias: Array | None = None
    stride: tuple[int, ...] | int = 1
    padding: Any = "valid"
    dilation: tuple[int, ...] | int = 1
    groups: int = 1
    quantization: Quantization | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """All but x and the filters, by name."""
        return dict(zip(self._fields[2:], self[2:], strict=True))


@dataclass(frozen=True)
class Layer:
    """A layer, as far as shapes are known."""

    number: int
    """From 1, in the order of the graph."""
    name: str
    op: str
    node: Any
    input_shape: Shape | None
    """As ONNX has it, channels second."""
    output_shape: Shape | None
    kernel_shape: Shape | None
    """Of the weights, as ONNX has them: (K, C/groups, *kernel), of ConvTranspose (C, K/groups, *kernel)."""
    has_weights: bool
    """Whether one factor belongs to the network; a MatMul may have two that depend on its input."""
    geometry: ConvGeometry | None
    """Of a CONV layer; of ConvTranspose that of the convolution it is the adjoint of. None where shapes are
    not known, and of FC layers."""
    receptive_field: tuple[int | None, ...] | None
    """Pixels of the network's input that an output sees, along each spatial axis."""
    total_stride: tuple[int | float | None, ...] | None
    """Pixels of the network's input from an output to the next; None where each sees all of it."""

    # What it takes and makes

    @property
    def is_conv(self) -> bool:
        return self.op in CONVS

    @property
    def is_transposed(self) -> bool:
        return self.op == "ConvTranspose"

    @property
    def x(self) -> str:
        """The name of its input."""
        return str(self.node.input[0])

    @property
    def w(self) -> str:
        """The name of its weights."""
        return str(self.node.input[_weights_at(self.op)])

    @property
    def y(self) -> str:
        """The name of its output."""
        return str(self.node.output[0])

    @property
    def is_quantized(self) -> bool:
        return self.op in _QUANTIZED

    @property
    def is_integer(self) -> bool:
        """Whether its sums are of whole numbers, less zero points."""
        return self.is_quantized or self.op in ("ConvInteger", "MatMulInteger")

    @property
    def zero_points(self) -> tuple[str | None, str | None]:
        """The names of those of its input and weights, if it has any."""
        if not self.is_integer:
            return None, None
        x, w = (2, 5) if self.is_quantized else (2, 3)
        return self.other(x), self.other(w)

    @property
    def bias(self) -> str | None:
        """The name of its bias, if it has one."""
        at = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8}.get(self.op)
        return None if at is None else self.other(at)

    def other(self, index: int) -> str | None:
        """The name of an optional input, if it is there."""
        return (
            str(self.node.input[index]) if len(self.node.input) > index and self.node.input[index] else None
        )

    # What it is as a product

    @property
    def filters(self) -> int | None:
        """K, of ConvTranspose as of the convolution that is transposed."""
        return self.kernel_shape[0] if self.is_conv and self.kernel_shape else None

    @property
    def matrix_shape(self) -> tuple[int, ...] | None:
        """Of X_col, or of an FC layer's input with its leading axes joined."""
        if self.geometry is not None:
            return self.geometry.matrix_shape
        shape = self._input_of_fc()
        if self.is_conv or shape is None or None in shape or not shape:
            return None
        return math.prod(size for size in shape[:-1] if size is not None), shape[-1] or 0

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """Of W_col, (kh·kw·C/groups, K), or of an FC layer's weights, (n, K)."""
        if self.geometry is not None and self.filters is not None:
            return self.geometry.terms, self.filters
        shape = self.kernel_shape
        if self.is_conv or shape is None or None in shape or len(shape) < 2:
            return None
        n, k = shape[-2:]
        return (k or 0, n or 0) if self._is_turned(1) else (n or 0, k or 0)

    def _input_of_fc(self) -> Shape | None:
        shape = self.input_shape
        return shape[::-1] if self._is_turned(0) and shape is not None else shape

    def _is_turned(self, which: int) -> bool:
        """Whether a Gemm takes its input, or its weights, transposed."""
        return self.op == "Gemm" and bool(attributes_of(self.node).get(("transA", "transB")[which], 0))

    @property
    def weights(self) -> int | None:
        """How many numbers its weights are; without the bias."""
        if not self.has_weights:
            return 0
        shape = self.kernel_shape
        return None if shape is None or None in shape else math.prod(size or 0 for size in shape)

    @property
    def multiply_adds(self) -> int | None:
        """Products that are summed: rows of X_col times weights of each, of one run."""
        if self.matrix_shape is None or self.weight_shape is None:
            return None
        return self.matrix_shape[0] * math.prod(self.weight_shape)

    @property
    def uses(self) -> int | None:
        """How often each weight is used: once a row of X_col, padding among them."""
        return self.multiply_adds // self.weights if self.multiply_adds and self.weights else None

    # The layer on arrays

    def of_shapes(self, x: Shape, w: Shape, y: Shape) -> Layer:
        """The same layer where inference did not find its shapes, and arrays have them.

        Raises:
            GeometryError: they make no convolution.
        """
        geometry = self.geometry or (geometry_of(self.node, x, w) if self.is_conv else None)
        return replace(self, input_shape=x, kernel_shape=w, output_shape=y, geometry=geometry)

    def convolution(self, value: Callable[[str], Array], rounding: str = "float32") -> Convolution | str:
        """What computes the layer, its arrays had by name; or why nothing here does.

        A quantized one has the rounding of onnxruntime, or another.
        """
        x, w = value(self.x), value(self.w)
        made = self._product(x, w, value) if not self.is_conv else self._conv(x, w, value)
        if isinstance(made, str) or not self.is_quantized:
            return made
        quantization = self.quantization(value)
        if isinstance(quantization, str):
            return quantization
        try:
            quantization = replace(quantization, rounding=rounding).of_layer(made.x, made.filters, made.bias)
        except (SettingError, DTypeError) as error:
            return error.problem
        return made._replace(quantization=quantization)

    def quantization(self, value: Callable[[str], Array]) -> Quantization | str:
        """That of a quantized layer, or why there is none."""
        numbers = {name: value(name) for at, name in enumerate(self.node.input) if at not in (0, 3, 8)}
        try:
            return Quantization.from_onnx(self.node, numbers)
        except SettingError as error:
            return error.problem

    def _conv(self, x: Array, w: Array, value: Callable[[str], Array]) -> Convolution | str:
        """A CONV layer, without its quantization."""
        if (other := _unknown_dtype(x, w)) is not None:
            return other
        bias = None
        if self.op == "ConvInteger":
            x, w = (_shifted(a, zero, value) for a, zero in zip((x, w), self.zero_points, strict=True))
        elif (name := self.bias) is not None:
            bias = value(name)
        geometry = self.geometry
        if geometry is None:
            raise FileError(self.name, "has no shapes; give --input-shape")
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        if self.is_transposed:
            return Convolution(
                *self.as_convolution(x, w), bias=bias, dilation=geometry.dilation, groups=geometry.groups
            )
        steps = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        return Convolution(x, np.ascontiguousarray(np.moveaxis(w, 1, -1)), bias, *steps)

    def as_convolution(self, x: Array, w: Array) -> tuple[Array, Array]:
        """A transposed convolution's input and weights as those of a convolution of stride 1 without padding.

        The input has S − 1 zeros between its pixels and as many around as the kernel reaches; the filters are
        turned about, and their channels change places.
        """
        geometry = self.geometry
        assert geometry is not None
        g, (channels, depth, *kernel) = geometry.groups, w.shape
        filters = np.moveaxis(w.reshape(g, channels // g, depth, *kernel), 1, -1)
        filters = np.flip(filters, tuple(range(2, 2 + len(kernel)))).reshape(
            g * depth, *kernel, channels // g
        )
        return self.spread(x), filters

    def spread(self, x: Array, fill: Any = 0) -> Array:
        """A transposed convolution's input, (N, *spatial, C), with `fill` between its pixels and around."""
        geometry = self.geometry
        assert geometry is not None
        size = [out + extent - 1 for out, extent in zip(geometry.input_size, geometry.extent, strict=True)]
        wide = np.full((x.shape[0], *size, x.shape[-1]), fill, x.dtype)
        to: list[slice] = []
        of: list[slice] = []
        for h, s, extent, (before, _), end in zip(
            x.shape[1:-1], geometry.stride, geometry.extent, geometry.pads, size, strict=True
        ):
            first = extent - 1 - before  # where pixel 0 comes to lie; what lies outside is cropped
            skipped = max(-(first // s), 0)
            kept = max(min(h, (end - 1 - first) // s + 1), skipped)
            start = first + skipped * s
            of.append(slice(skipped, kept))
            to.append(slice(start, start + (kept - skipped - 1) * s + 1 if kept > skipped else start, s))
        wide[(slice(None), *to)] = x[(slice(None), *of)]
        return wide

    def _product(self, x: Array, w: Array, value: Callable[[str], Array]) -> Convolution | str:
        """An FC layer as a convolution of one pixel along one axis."""
        options = attributes_of(self.node) if self.op == "Gemm" else {}
        if w.ndim != 2 or x.ndim < 1 or not self.has_weights:
            return "its factors are more than a matrix, or both depend on the input"
        if options.get("alpha", 1.0) != 1 or (options.get("beta", 1.0) != 1 and self.bias):
            return "it scales its terms"
        if (other := _unknown_dtype(x, w)) is not None:
            return other
        if self.op == "MatMulInteger":
            of_x, of_w = self.zero_points
            if of_x is not None and value(of_x).size != 1:
                return "its input has a zero point for each row"
            x, w = _shifted(x, of_x, value), _shifted(w.T, of_w, value).T
        x, w = (x.T if options.get("transA") else x), (w.T if options.get("transB") else w)
        bias = None
        if (name := self.bias) is not None:
            bias = value(name)
            if bias.size not in (1, w.shape[1]) or (bias.ndim and bias.shape[-1] not in (1, w.shape[1])):
                return "its bias is no line of numbers"
            bias = np.broadcast_to(bias.reshape(-1), (w.shape[1],))
        return Convolution(x.reshape(1, -1, x.shape[-1]), np.ascontiguousarray(w.T)[:, None], bias)

    def result(self, y: Array) -> Array:
        """The layer's output as its convolution gives it, (N, *out, K)."""
        return np.moveaxis(y, 1, -1) if self.is_conv else y.reshape(1, -1, y.shape[-1])


def _unknown_dtype(*arrays: Array) -> str | None:
    """What is said of numbers that are not computed with."""
    others = [a.dtype for a in arrays if a.dtype.kind not in "biuf"]
    return f"{others[0]} is no dtype that convmat computes with" if others else None


def _shifted(values: Array, name: str | None, value: Callable[[str], Array]) -> Array:
    """Exact `values` less their zero point, which is one number, or one for each filter."""
    exact = values.astype(np.int32)
    if name is None:
        return exact
    return exact - value(name).astype(np.int32).reshape(-1, *[1] * (values.ndim - 1))


def _weights_at(op: str) -> int:
    """Which input of an operator its weights are."""
    return 3 if op in _QUANTIZED else 1


def layers_of(model: Model) -> list[Layer]:
    """The layers of a model whose shapes have been inferred, in the order of its graph.

    Raises:
        FileError: one that makes no convolution.
    """
    fields = fields_of(model)
    nodes = [
        node for node in model.nodes if node.domain in ("", "ai.onnx") and node.op_type in (*CONVS, *_FULL)
    ]
    names = _names(nodes)
    return [
        _layer(model, number, name, node, fields)
        for number, (name, node) in enumerate(zip(names, nodes, strict=True), 1)
    ]


def _names(nodes: list[Any]) -> list[str]:
    """A name for each, no two the same: its own, or that of what it makes."""
    own = [node_name(node) for node in nodes]
    return [
        name if own.count(name) == 1 else str(node.output[0]) for name, node in zip(own, nodes, strict=True)
    ]


def _layer(model: Model, number: int, name: str, node: Any, fields: Mapping[str, Field]) -> Layer:
    op, shapes = node.op_type, model.shapes
    least = 8 if op in _QUANTIZED else 2
    if len(node.input) < least or not all(node.input[:least]):
        raise FileError(model.name, f"layer {name!r}, a {op}, lacks an input; export it again")
    weights = node.input[_weights_at(op)]
    input_shape, kernel_shape = shapes.get(node.input[0]), shapes.get(weights)
    try:
        geometry = geometry_of(node, input_shape, kernel_shape) if op in CONVS else None
    except GeometryError as error:
        raise FileError(model.name, f"layer {name!r}: {error}") from None
    return Layer(
        number,
        name,
        op,
        node,
        input_shape,
        shapes.get(node.output[0]),
        kernel_shape,
        model.is_constant(weights) or op in CONVS,
        geometry,
        *_seen(model, fields.get(node.output[0]) if op in CONVS else None),
    )


def _seen(model: Model, field: Field | None) -> tuple[Any, Any]:
    """Receptive field and total stride of a CONV; where an output sees all of the input, that is its size."""
    if field is None:
        return None, None
    whole = next(
        (shape for name in model.inputs if len(shape := model.shapes.get(name) or ()) == len(field)), None
    )
    sizes = zip(field, whole or (None,) * len(field), strict=True)
    seen = tuple(size if span is None else span.length for span, size in sizes)[2:]
    steps = [None if span is None else span.step for span in field[2:]]
    return seen, tuple(s if s is None else int(s) if s.denominator == 1 else float(s) for s in steps)
