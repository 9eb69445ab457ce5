"""A network run a layer at a time, so that each layer's input and output are had, and little else is kept.

A layer is run in one part with what lies between it and the last. Values that are done with are forgotten.
"""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.errors import ConvmatError, FileError, SettingError, ShapeError
from convmat.files.npy import NpyInput
from convmat.networks.extra import first_line, package, reference
from convmat.networks.model import Model, needs, node_name

Array = NDArray[Any]

_HELD = 1 << 26  # bytes of weights that a part holds; more are fed, which copies nothing

_HALVES = (10, 16)  # TensorProto's FLOAT16 and BFLOAT16

_NAMES = """
    Abs Clip Concat DepthToSpace Dropout Expand Flatten Gather GlobalMaxPool Identity Max MaxPool Min Neg Pad
    Relu Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze
"""
_MOVES = frozenset(_NAMES.split())
"""Operators that move elements, or choose among them: what comes out is what went in, bit for bit."""


class Evaluator:
    """What computes the nodes of a model: onnxruntime, or onnx's own reference in NumPy.

    Args:
        provider: of onnxruntime, as it lists them, with or without "ExecutionProvider".
        reference: whether onnx's own is to compute.

    Nothing is imported before there is something to compute. Then may be raised:
        SettingError: onnxruntime has no such provider. FileError: a package is not installed.
    """

    def __init__(self, model: Model, provider: str | None = None, reference: bool = False) -> None:
        self.model, self._reference, self._wanted = model, reference, provider or "CPU"

    @property
    def name(self) -> str:
        """Who computes."""
        if self._reference:
            return "onnx's reference evaluator"
        return f"onnxruntime {package('onnxruntime').__version__}, {self._provider}"

    @cached_property
    def _provider(self) -> str:
        there: list[str] = package("onnxruntime").get_available_providers()
        suffix = "executionprovider"
        wanted = self._wanted.lower().removesuffix(suffix)
        for name in there:
            if name.lower().removesuffix(suffix) == wanted:
                return name
        problem = f"onnxruntime has no {got(self._wanted)} here; it has {', '.join(there)}"
        raise SettingError("provider", problem)

    @property
    def rounding(self) -> str:
        """How it rounds the sums of quantized layers."""
        return "half-even" if self._reference else "float32"

    def on(self, model: Model) -> Evaluator:
        """The same for another model."""
        other = copy(self)
        other.model = model
        return other

    def run(self, nodes: Sequence[Any], values: Mapping[str, Array], made: Sequence[str]) -> list[Array]:
        """What some nodes make of values.

        Raises:
            FileError: they cannot be run, or make what is no array.
        """
        inside = {name for node in nodes for name in node.output}
        wanted = {name: None for node in nodes for name in needs(node) if name and name not in inside}
        held: dict[str, Array] = {}
        feeds: dict[str, Array] = {}
        for name in wanted:
            if self.model.is_constant(name):
                array = self.model.constant(name)
                (held if array.nbytes <= _HELD else feeds)[name] = array
            else:
                feeds[name] = values[name]
        what = (
            f"node {node_name(nodes[0])!r}"
            if len(nodes) == 1
            else f"what begins with {node_name(nodes[0])!r}"
        )
        part = self.model.part(nodes, feeds, held, made)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = self._session(part).run(list(made), feeds)
        except (MemoryError, ConvmatError):
            raise
        except Exception as error:  # each runtime has kinds of its own
            raise FileError(
                self.model.name, f"{what} cannot be run by {self.name}: {first_line(error)}"
            ) from None
        for name, result in zip(made, results, strict=True):
            if not isinstance(result, (np.ndarray, np.generic)):
                raise FileError(
                    self.model.name, f"{what} makes {name!r}, which is no array; that is not supported"
                )
        return [np.asarray(result) for result in results]

    def _session(self, part: Any) -> Any:
        if self._reference:
            return reference(part)
        runtime = package("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it runs once
        return runtime.InferenceSession(part.SerializeToString(), options, providers=[self._provider])


class Dumped:
    """Values that another runtime wrote: a folder of .npy files, each named like its value.

    Letters, digits, - and _ stand for themselves in a file's name, and a dot within it; any other sign is _.

    Raises:
        FileError: no such folder, or one without .npy files.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        try:
            self._files = {name for name in os.listdir(folder) if name.endswith(".npy")}
        except OSError as error:
            raise FileError(folder, f"{error.strerror}; name a folder of .npy files") from None
        if not self._files:
            raise FileError(
                folder, "has no .npy files; write each CONV's input and output there, named like them"
            )

    def __contains__(self, value: str) -> bool:
        return file_name(value) in self._files

    def read(self, value: str) -> Array:
        return NpyInput(os.path.join(self.folder, file_name(value))).read()


def file_name(value: str) -> str:
    """The .npy file that a value is dumped in."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", value).lstrip(".") + ".npy"


class Step(NamedTuple):
    """A node that was run: all values that it took and made are there."""

    node: Any
    values: dict[str, Array]
    known: bool
    """Whether what it took is what the runtime had, and its output the runtime's."""


def walk(
    model: Model,
    feeds: Mapping[str, Array],
    evaluator: Evaluator,
    stops: Mapping[str, Sequence[str]],
    dumped: Dumped | None = None,
) -> Iterator[Step]:
    """Run a model up to each of its stops, and to its end; the last step has the outputs of the model alone.

    Args:
        feeds: values of the model's inputs.
        stops: the values to stop at, each with others that are to be there then, too.
        dumped: what another runtime made, which takes the place of what is made here.

    Raises:
        FileError: a part cannot be run. ShapeError: what was dumped has another shape.
    """
    if len(set(map(file_name, stops))) < len(stops) and dumped is not None:
        raise FileError(dumped.folder, "cannot name the outputs of this network apart; rename its nodes")
    values, exact = dict(feeds), set(feeds)
    if dumped is not None:
        _replace(values, exact, [name for name in feeds if name in dumped], dumped)
    parts = list(_parts(model, stops, dumped is not None))
    last = {
        name: at for at, part in enumerate(parts) for node in part for name in (*needs(node), *node.output)
    }
    last |= dict.fromkeys(model.outputs, len(parts))
    made_at = {name: at for at, part in enumerate(parts) for node in part for name in node.output}
    for name, others in stops.items():  # in a rewritten network they may have been used long before
        last |= {other: max(last.get(other, 0), made_at.get(name, 0)) for other in others}
    wanted = {*stops, *itertools.chain(*stops.values())}
    for at, part in enumerate(parts):
        inside = [name for node in part for name in node.output if name]
        made = [name for name in inside if last[name] > at or name in wanted]
        if made and not (dumped is not None and all(name in dumped for name in made)):
            values |= zip(made, evaluator.run(part, values, made), strict=True)
        known = dumped is None or all(
            name in exact or model.is_constant(name) for node in part for name in needs(node) if name
        )
        if dumped is not None:
            if known and all(node.op_type in _MOVES for node in part):
                exact.update(made)
            _replace(values, exact, [name for name in made if name in dumped], dumped, model)
        if part[-1].output and part[-1].output[0] in stops:
            yield Step(part[-1], values, known and (dumped is None or part[-1].output[0] in exact))
        for name in [name for name in values if last.get(name, -1) <= at]:
            del values[name]
    ends = (name for name in model.outputs if name)
    yield Step(None, {n: model.constant(n) if model.is_constant(n) else values[n] for n in ends}, True)


def _replace(
    values: dict[str, Array],
    exact: set[str],
    names: Iterable[str],
    dumped: Dumped,
    model: Model | None = None,
) -> None:
    for name in names:
        array = dumped.read(name)
        want = values[name].shape if name in values else (model.shapes.get(name) if model else None)
        if want is not None and (
            len(want) != array.ndim or any(w not in (None, s) for w, s in zip(want, array.shape, strict=True))
        ):
            shown = "×".join("?" if size is None else str(size) for size in want)
            raise ShapeError(
                os.path.join(dumped.folder, file_name(name)),
                f"has shape {array.shape}, {name!r} has {shown}; dump it again",
            )
        values[name] = array
        exact.add(name)


def _parts(model: Model, stops: Mapping[str, Any], singly: bool) -> Iterator[list[Any]]:
    """The nodes, in order: those up to one that makes a stop together, or each alone.

    What makes a stop of half precision is alone, too: onnxruntime computes it in float32, and within a part
    does not round what it takes, so that it would not be computed from what it seems to take.
    """
    part: list[Any] = []
    for node in model.nodes:
        stop = any(name in stops for name in node.output)
        if stop and part and model.types.get(node.input[0]) in _HALVES:
            yield part
            part = []
        part.append(node)
        if singly or stop:
            yield part
            part = []
    if part:
        yield part
