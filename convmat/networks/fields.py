"""What the values of a graph see of its input: receptive field and total stride, along each axis.

Along an axis, output y sees the input's pixels first + y·step to last + y·step. A window of extent e and
stride S widens that by (e − 1)·step and multiplies the step by S (Araujo, Norris & Sim, "Computing Receptive
Fields of Convolutional Neural Networks", Distill 2019). Where branches meet, all that any of them sees
counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import repeat
from typing import Any, NamedTuple

from convmat.axis import kernel_extent, named_pads
from convmat.networks.model import Model, Shape, attributes_of


class Span(NamedTuple):
    """What output 0 along an axis sees of an axis of the input, and how far it is to what output 1 sees."""

    first: Fraction
    last: Fraction
    step: Fraction

    @property
    def length(self) -> int:
        """The receptive field, in pixels."""
        return math.ceil(self.last - self.first) + 1


Field = tuple[Span | None, ...]
"""One for each axis of a value; None where each output sees all of the input, or it is not known how much."""

_WINDOWS = {
    "Conv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "AveragePool": None,
    "MaxPool": None,
    "LpPool": None,
}
"""Operators that look through a window, and which input is the kernel; None where attributes say."""

_NAMES = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization BitShift Cast CastLike Ceil Celu Clip
    Cos Cosh DequantizeLinear Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
    HardSwish Identity IsInf IsNaN LRN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not
    Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign
    Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
_IN_PLACE = frozenset(_NAMES.split())
"""Operators each output of which sees the inputs' elements at its own place."""

_MORE = {b"nearest": 0, b"linear": 1, b"cubic": 3}  # pixels more that Resize looks at


def fields_of(model: Model) -> dict[str, Field]:
    """What each value sees of the input that has axes to speak of; values that see none are left out."""
    fields: dict[str, Field] = {}
    for name in model.inputs:
        axes = len(model.shapes.get(name) or ())
        fields[name] = (None, *repeat(Span(Fraction(0), Fraction(0), Fraction(1)), max(axes - 1, 0)))
    for node in model.nodes:
        seen = [(fields[name], model.shapes.get(name)) for name in node.input if name in fields]
        if not seen:
            continue
        for name in filter(None, node.output):
            if (shape := model.shapes.get(name)) is not None:
                fields[name] = _through(model, node, seen, shape)
    return fields


def _through(model: Model, node: Any, seen: Sequence[tuple[Field, Shape | None]], out: Shape) -> Field:
    """What a node's output sees."""
    (field, shape), op, unknown = seen[0], node.op_type, (None,) * len(out)
    if shape is None or node.domain not in ("", "ai.onnx"):
        return unknown
    options = attributes_of(node)
    if op in _WINDOWS or op == "ConvTranspose":
        which = _WINDOWS.get(op, 1)
        kernel: Any = options.get("kernel_shape") or (
            which and (model.shapes.get(node.input[which]) or ())[2:]
        )
        kernel = kernel or ()
        if len(kernel) != len(out) - 2 or None in (*kernel, *shape[2:]) or len(field) != len(out):
            return unknown
        return (None, None, *_windowed(op, options, field[2:], shape[2:], kernel))
    if op in _IN_PLACE:
        return tuple(_merged(seen, len(out), axis, out[axis]) for axis in range(len(out)))
    if op in ("Concat", "Split", "Softmax", "LogSoftmax"):
        axis = options.get("axis", {"Concat": 1, "Split": 0}.get(op, -1)) % max(len(out), 1)
        merged = [_merged(seen, len(out), at, out[at]) for at in range(len(out))]
        return tuple(None if at == axis else span for at, span in enumerate(merged))
    if op == "Transpose" and len(field) == len(out):
        order = options.get("perm") or range(len(out))[::-1]
        return tuple(field[at] for at in order)
    if op in ("Reshape", "Unsqueeze", "Squeeze"):
        return _reshaped(field, shape, out)
    if op in ("Resize", "Upsample") and len(field) == len(out) == len(shape):
        more = _MORE.get(options.get("mode", b"nearest"), 3)
        return tuple(map(_resized, field, shape, out, repeat(more)))
    return _moved(model, node, options, field, shape, out) if op in ("Pad", "Slice") else unknown


def _windowed(op: str, options: dict[str, Any], field: Field, shape: Shape, kernel: Sequence[int]) -> Field:
    axes = len(kernel)
    pads, rule = list(options.get("pads", [0] * 2 * axes)), options.get("auto_pad", b"NOTSET")
    strides, dilations = (options.get(key) or [1] * axes for key in ("strides", "dilations"))
    spans: list[Span | None] = []
    for axis, span in enumerate(field):
        s, extent = strides[axis], kernel_extent(kernel[axis], dilations[axis])
        before = pads[axis] if rule in (b"NOTSET", b"") else 0
        if span is None:
            spans.append(None)
        elif op == "ConvTranspose":
            # Output y meets the inputs t with y + P − e < t·S ≤ y + P.
            first = span.first + Fraction(-((extent - 1 - before) // s)) * span.step
            last = first + (extent - 1) // s * span.step + span.last - span.first
            spans.append(Span(first, last, span.step / s))
        else:
            if rule.startswith(b"SAME"):
                before = named_pads(
                    "same" if rule == b"SAME_UPPER" else "same-lower", shape[axis] or 1, extent, s
                )[0]
            first = span.first - before * span.step
            spans.append(
                Span(first, first + span.last - span.first + (extent - 1) * span.step, span.step * s)
            )
    return tuple(spans)


def _merged(
    seen: Sequence[tuple[Field, Shape | None]], axes: int, axis: int, size: int | None
) -> Span | None:
    """What all inputs see together at one place along an axis, counted from the last as NumPy broadcasts."""
    spans: list[Span | None] = []
    for field, shape in seen:
        at = axis - axes + len(field)
        if shape is None or at < 0 or (shape[at] == 1 and size != 1):
            spans.append(None)  # one element stands beside all
        else:
            spans.append(field[at])
    known = [span for span in spans if span is not None]
    if len(known) < len(spans) or len({span.step for span in known}) != 1:
        return None
    return Span(min(s.first for s in known), max(s.last for s in known), known[0].step)


def _reshaped(field: Field, shape: Shape, out: Shape) -> Field:
    """Axes that stay as they are, counted from the last or from the first, see what they saw."""
    spans: list[Span | None] = [None] * len(out)
    for sign in (1, -1):
        for at in range(min(len(shape), len(out))):
            at = at if sign == 1 else -at - 1
            if shape[at] != out[at] or shape[at] is None:
                break
            spans[at] = field[at]
    return tuple(spans)


def _resized(span: Span | None, size: int | None, out: int | None, more: int) -> Span | None:
    if span is None or not size or not out or size == out:
        return span if size == out else None
    return Span(span.first, span.last + more * span.step, span.step * size / out)


def _moved(model: Model, node: Any, options: dict[str, Any], field: Field, shape: Shape, out: Shape) -> Field:
    """Pad and Slice: the same pixels at other places."""
    if len(out) != len(field):
        return (None,) * len(out)

    def numbers(index: int, key: str) -> list[int] | None:
        name = node.input[index] if len(node.input) > index else ""
        if name and not model.is_constant(name):
            return None
        return [int(n) for n in model.constant(name).reshape(-1)] if name else options.get(key)

    if node.op_type == "Pad":
        befores = numbers(1, "pads")
        if befores is None or len(befores) != 2 * len(out):
            return tuple(span if a == b else None for span, a, b in zip(field, shape, out, strict=True))
        moves = [(-before, 1) for before in befores[: len(out)]]
    else:
        starts, ends = numbers(1, "starts"), numbers(2, "ends")
        axes, steps = numbers(3, "axes"), numbers(4, "steps")
        if starts is None or ends is None:
            return tuple(span if a == b else None for span, a, b in zip(field, shape, out, strict=True))
        moves = [(0, 1)] * len(out)
        for at, start, step in zip(axes or range(len(starts)), starts, steps or repeat(1)):  # noqa: B905
            size = shape[at]
            moves[at] = (max(start + size, 0) if start < 0 and size is not None else start, step)
    return tuple(
        span and Span(span.first + move * span.step, span.last + move * span.step, span.step * abs(step))
        for span, (move, step) in zip(field, moves, strict=True)
    )
