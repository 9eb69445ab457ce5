"""ONNX models read: nothing in them is executed, and nothing is believed that can be checked.

The graph must be sorted, so that it has no cycle; weights must have the bytes that their shapes claim; data
outside the file must lie beside it. Shapes are those of ONNX's own inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.errors import FileError, ShapeError
from convmat.files.memory import check_memory
from convmat.networks.extra import first_line, package, reference
from convmat.networks.reading import parsed
from convmat.networks.weights import array_of, check_tensor, is_external

Shape = tuple[int | None, ...]
"""Sizes; None for one that is not known."""

_SMALL = 1 << 10  # bytes of a constant that shapes may follow from
_STANDARD = ("", "ai.onnx")


class Model:
    """An ONNX model, its graph checked, its weights where they are until they are asked for.

    Args:
        name: a file.

    Raises:
        FileError: it cannot be read, is no ONNX model, or one that is damaged or not supported.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.proto = parsed(name)
        self.graph = self.proto.graph
        self.opset = self._opset()
        self._tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self._makers: dict[str, Any] = {}  # nodes whose outputs are constants
        self._check_graph()
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}

    def like(self, proto: Any, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        """Another model, made from this one, its shapes inferred."""
        other = copy(self)
        other.name, other.proto, other.graph = name, proto, proto.graph
        other._tensors = {tensor.name: tensor for tensor in other.graph.initializer}
        other._makers, other.shapes, other.types = {}, {}, {}
        other._check_graph()
        other.infer(shapes)
        return other

    # The graph

    @property
    def inputs(self) -> list[str]:
        """What has to be fed: inputs of the graph that no weights stand for."""
        return [value.name for value in self.graph.input if value.name not in self._tensors]

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.graph.output]

    @property
    def nodes(self) -> list[Any]:
        """The nodes that have something to do with what is fed, in order."""
        return [node for node in self.graph.node if not self._is_constant(node)]

    @property
    def unseen(self) -> list[str]:
        """What is not looked into: branches and bodies of nodes, functions, operators of others than ONNX."""
        inside = []
        for node in self.graph.node:
            count = sum(_count(graph) for graph in subgraphs(node))
            if count:
                inside.append(f"{node.op_type} {node_name(node)!r} has {count} CONV layers inside")
        inside += [
            f"the function {function.name!r} has {count} CONV layers inside"
            for function in self.proto.functions
            if (count := _count(function))
        ]
        return inside + [
            f"{node.op_type} {node_name(node)!r} is an operator of {node.domain}"
            for node in self.graph.node
            if node.domain not in _STANDARD and any(op in node.op_type for op in ("Conv", "MatMul", "Gemm"))
        ]

    def _opset(self) -> int:
        latest = package("onnx.defs").onnx_opset_version()
        versions = [o.version for o in self.proto.opset_import if o.domain in _STANDARD] or [1]
        if not 1 <= versions[0] <= latest:
            raise FileError(
                self.name,
                f"is of opset {versions[0]}, the onnx package that is installed knows 1 to {latest}; "
                "install a later one, or export the network again",
            )
        return int(versions[0])

    def _check_graph(self) -> None:
        """Refuse what is not sorted, and find the constants."""
        for tensor in (*self.graph.initializer, *_attribute_tensors(self.graph.node)):
            check_tensor(self.name, tensor)
        if self.graph.sparse_initializer:
            name = self.graph.sparse_initializer[0].values.name
            raise FileError(self.name, f"has sparse weights {got(name)}; export them as dense ones")
        known = {"", *self._tensors, *(value.name for value in self.graph.input)}
        fed = {value.name for value in self.graph.input} - self._tensors.keys()
        for node in self.graph.node:
            missing = [name for name in needs(node) if name not in known]
            if missing:
                raise FileError(
                    self.name,
                    f"node {node_name(node)!r} takes {got(missing[0])}, which nothing before it makes; the "
                    "graph has a cycle, is not sorted, or is damaged: export it again",
                )
            again = [name for name in node.output if name and name in known]
            if again:
                raise FileError(self.name, f"makes {got(again[0])} twice; export it again")
            self._check_attributes(node)
            known.update(node.output)
            if fed.isdisjoint(needs(node)) and not is_lively(node):
                self._makers |= dict.fromkeys(filter(None, node.output), node)
            else:
                fed.update(filter(None, node.output))
        missing = [name for name in self.outputs if name not in known]
        if missing or not self.graph.node:
            problem = f"has no {got(missing[0])}, an output of it" if missing else "has no nodes"
            raise FileError(self.name, f"{problem}; export it again")

    def _check_attributes(self, node: Any) -> None:
        """Refuse attributes of other types than ONNX's operators have."""
        if node.domain not in _STANDARD:
            return
        defs = package("onnx.defs")
        try:
            known = defs.get_schema(node.op_type, self.opset).attributes
        except defs.SchemaError:  # no operator of ONNX
            return
        for attribute in node.attribute:
            wanted = known.get(attribute.name)
            if wanted is not None and wanted.type.value != attribute.type:
                raise FileError(
                    self.name,
                    f"node {node_name(node)!r} has {got(attribute.name)} of another type than {node.op_type} "
                    "takes; export it again",
                )

    def _is_constant(self, node: Any) -> bool:
        return any(name in self._makers for name in node.output)

    # Weights

    def is_constant(self, name: str) -> bool:
        """Whether a value does not depend on what is fed."""
        return name in self._tensors or name in self._makers

    def constant(self, name: str) -> NDArray[Any]:
        """A value that does not depend on what is fed; nothing of it is kept.

        Raises:
            FileError: it cannot be had.
        """
        if name in self._tensors:
            return array_of(self.name, self._tensors[name])
        node = self._makers[name]
        shape = self.shapes.get(name, ())
        check_memory(
            self.name, 8 * math.prod(size or 1 for size in shape), "leave this network to a larger machine"
        )
        feeds = {need: self.constant(need) for need in needs(node) if need}
        try:
            return np.asarray(reference(self.part([node], feeds, {}, [name])).run(None, feeds)[0])
        except FileError:
            raise
        except Exception as error:  # what the evaluator cannot do it may say in any way
            raise FileError(
                self.name, f"node {node_name(node)!r} cannot be evaluated: {first_line(error)}"
            ) from None

    # Shapes

    def infer(self, given: Mapping[str, tuple[int, ...]]) -> None:
        """Find all shapes, from those of the inputs, of which some may be given.

        Raises:
            ShapeError: a shape that an input cannot have. FileError: shapes that contradict each other.
        """
        onnx = package("onnx")
        light = onnx.ModelProto(ir_version=self.proto.ir_version)
        light.opset_import.extend(self.proto.opset_import)
        light.functions.extend(self.proto.functions)
        light.graph.name = self.graph.name or "graph"
        light.graph.node.extend(self.graph.node)
        light.graph.input.extend(self.graph.input)
        for value in light.graph.input:
            if value.name in given:
                self._give(value, given[value.name])
        for value in self.graph.output:  # without shapes, which may be those of other inputs
            plain = light.graph.output.add(name=value.name)
            if value.type.HasField("tensor_type"):
                plain.type.tensor_type.elem_type = value.type.tensor_type.elem_type
        own = {name for node in self.graph.node if node.domain not in _STANDARD for name in node.output}
        light.graph.value_info.extend(value for value in self.graph.value_info if value.name in own)
        for tensor in self.graph.initializer:
            outline = light.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims
            )
            if math.prod(tensor.dims) * 8 <= _SMALL and not is_external(tensor):
                outline.CopyFrom(tensor)
        try:
            inferred = package("onnx.shape_inference").infer_shapes(light, data_prop=True).graph
        except Exception as error:  # of its own kinds, and others
            raise FileError(self.name, f"has shapes that cannot be inferred: {first_line(error)}") from None
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            if value.type.HasField("tensor_type"):
                self.types[value.name] = kind.elem_type
                if kind.HasField("shape"):
                    self.shapes[value.name] = _sizes(kind.shape)
        for name, tensor in self._tensors.items():
            self.shapes[name], self.types[name] = tuple(tensor.dims), tensor.data_type

    def declared(self, name: str) -> Shape | None:
        """The shape that the model says an input has; None where it does not say."""
        [value] = [value for value in self.graph.input if value.name == name]
        kind = value.type.tensor_type
        return _sizes(kind.shape) if kind.HasField("shape") else None

    def input_dtype(self, name: str) -> np.dtype[Any] | None:
        """NumPy's dtype of what an input takes; None for what is no tensor, or has no such dtype."""
        [value] = [value for value in self.graph.input if value.name == name]
        try:
            kind = package("onnx.helper").tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        except Exception:  # it knows no such type
            return None
        return None if kind is None else np.dtype(kind)

    def _give(self, value: Any, shape: tuple[int, ...]) -> None:
        declared = self.declared(value.name)
        if declared is not None and (
            len(declared) != len(shape)
            or any(want not in (None, size) for want, size in zip(declared, shape, strict=True))
        ):
            raise ShapeError(
                "input_shape",
                f"{got(shape)} is not that of {value.name!r}, {shape_text(declared)}; give that",
            )
        kind = value.type.tensor_type
        kind.shape.ClearField("dim")
        for size in shape:
            kind.shape.dim.add(dim_value=size)

    # Parts

    def part(
        self,
        nodes: Iterable[Any],
        feeds: Mapping[str, NDArray[Any]],
        held: Mapping[str, NDArray[Any]],
        made: Iterable[str],
    ) -> Any:
        """A model of some nodes alone, that is fed some values, holds others, and makes the rest."""
        onnx, helper = package("onnx"), package("onnx.helper")
        model = onnx.ModelProto(ir_version=max(self.proto.ir_version, 8))
        model.opset_import.extend(self.proto.opset_import or [helper.make_opsetid("", self.opset)])
        model.functions.extend(self.proto.functions)
        model.graph.name = "part"
        model.graph.node.extend(nodes)
        for name, array in feeds.items():
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        to_tensor = package("onnx.numpy_helper").from_array
        model.graph.initializer.extend(to_tensor(array, name) for name, array in held.items())
        model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made)
        return model


def _attribute_tensors(nodes: Iterable[Any]) -> Iterator[Any]:
    """Tensors that nodes have, as Constant does, their branches' and bodies' among them."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
        for graph in subgraphs(node):
            yield from graph.initializer
            yield from _attribute_tensors(graph.node)


def _sizes(shape: Any) -> Shape:
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in shape.dim)


def _count(graph: Any) -> int:
    return sum((node.op_type in CONVS) + sum(map(_count, subgraphs(node))) for node in graph.node)


def is_lively(node: Any) -> bool:
    """Whether a node may give another result each time, or is not known to give the same."""
    return node.domain not in _STANDARD or node.op_type in _RANDOM or bool(subgraphs(node))


CONVS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv")
"""Operators that are CONV layers."""

_RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)


def subgraphs(node: Any) -> list[Any]:
    """The graphs in a node: branches of If, bodies of Loop and Scan."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else list(a.graphs))]


def needs(node: Any) -> list[str]:
    """The values that a node takes, those that its branches or body take from outside among them."""
    names = list(node.input)
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            names += [name for name in needs(inner) if name and name not in own]
            own.update(inner.output)
        names += [value.name for value in graph.output if value.name not in own]
    return list(dict.fromkeys(names))


def node_name(node: Any) -> str:
    """What a node is called: by its name, or by what it makes."""
    return str(node.name or next(filter(None, node.output), node.op_type))


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a node, as Python's values."""
    value = package("onnx.helper").get_attribute_value
    return {attribute.name: value(attribute) for attribute in node.attribute}


def shape_text(shape: Shape | None) -> str:
    """A shape as it is spoken; ? where it is not known."""
    return "?" if shape is None else "×".join("?" if size is None else str(size) for size in shape) or "()"
