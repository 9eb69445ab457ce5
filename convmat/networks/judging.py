"""Layers of a network judged: a runtime's output, and convmat's own, against the definition of convolution.

The definition is computed once for all results of a layer, a band of outputs at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.engine import convolve
from convmat.errors import ConvmatError
from convmat.formats import as_array
from convmat.networks.layers import Convolution, Layer
from convmat.networks.model import Model
from convmat.networks.running import Dumped, Evaluator, walk
from convmat.verification.diagnosis import diagnose
from convmat.verification.judge import Rule
from convmat.verification.layer import definition, verify
from convmat.verification.nearest import nearest
from convmat.watching import Watch, unwatched

Array = NDArray[Any]


class Verdict(NamedTuple):
    """What was found of one result of a layer."""

    equal: bool
    elements: int
    outside: int
    """Elements further from the definition than their bound, or than 0 where they must be exact."""
    error_over_bound: float
    """The largest."""


class Judged(NamedTuple):
    """A layer, and the verdicts on its results."""

    layer: Layer
    theirs: Verdict | None = None
    """On the runtime's."""
    ours: Verdict | None = None
    """On that of convmat's engine, from the input that the runtime had."""
    why: str | None = None
    """Why it was not judged."""
    instead: str = ""
    """What a quantized result of the runtime's that differs is equal to, in a few words."""


def run_and_judge(
    model: Model,
    layers: Iterable[Layer],
    feeds: Mapping[str, Array],
    evaluator: Evaluator,
    dumped: Dumped | None = None,
    watch: Watch = unwatched,
    see: Callable[[Layer, Convolution | str, Array], None] | None = None,
    ours: bool = True,
    weights: Callable[[str], Array] | None = None,
) -> tuple[list[Judged], dict[str, Array]]:
    """Run a model, and judge its layers one by one; what it makes in the end.

    Args:
        see: is shown each layer that is judged, what computes it, and what the runtime made of it.
        ours: whether convmat's engine computes each layer, too.
        weights: where the layers' weights are, if not in the model.
        For others see `running.walk`.
    """
    by_output = {layer.y: layer for layer in layers}
    judged: list[Judged] = []
    outputs: dict[str, Array] = {}
    steps = walk(model, feeds, evaluator, {y: layer.node.input for y, layer in by_output.items()}, dumped)
    for step in watch(steps, len(by_output) + 1):
        if step.node is None:
            outputs = step.values
            continue
        layer, constant, values = by_output[step.node.output[0]], weights or model.constant, step.values
        if not step.known:
            judged.append(Judged(layer, why=_UNKNOWN))
            continue
        own = dumped is None and step.node.op_type == layer.op  # no product, which says how it rounds
        rounding = evaluator.rounding if own else "float32"
        layer, convolution = _convolution(layer, values, constant, rounding)
        if see is not None:
            see(layer, convolution, values[layer.y])
        judged.append(_judged(layer, convolution, values[layer.y], ours))
    return judged, outputs


_UNKNOWN = "what it took, or what it made, is not among the outputs that were given"

_NUDGE, _TIMES = 2.0**-10, 4


class End(NamedTuple):
    """How far the outputs of two networks are apart, as shares of the largest number of an output."""

    apart: float
    allowed: float
    equal: bool


def compare_ends(
    model: Model,
    feeds: Mapping[str, Array],
    evaluator: Evaluator,
    wanted: Mapping[str, Array],
    made: Mapping[str, Array],
) -> End:
    """Whether a network whose layers are right gives in the end what another gives, but for rounding.

    Outputs in the end are no sums of products, and have no bound of their own. They may be 4 times as far
    apart as those of the network itself on an input changed by 2^-10, up or down in each element, which is
    measured; and, of floats, 8 units in the last place of the largest more, for the operators at the end.
    """
    signs = np.random.default_rng(2017)
    nudged = {
        name: (x * (1 + _NUDGE * signs.choice((-1, 1), x.shape))).astype(x.dtype)
        if x.dtype.kind == "f"
        else x
        for name, x in feeds.items()
    }
    _, moved = run_and_judge(model, [], nudged, evaluator)
    found = [
        (_apart(made[name], y), _TIMES * _apart(moved[name], y) + _last_places(y))
        for name, y in wanted.items()
    ]
    equal = all(apart <= allowed for apart, allowed in found)
    return End(max(apart for apart, _ in found), max(allowed for _, allowed in found), equal)


def _last_places(y: Array) -> float:
    """8 units in the last place, as a share."""
    return 8 * float(np.finfo(y.dtype).eps) if y.dtype.kind == "f" else 0.0


@np.errstate(all="ignore")
def _apart(a: Array, b: Array) -> float:
    """The largest |a − b|, as a share of the largest |b|; where b has overflowed, anything is as near."""
    if a.shape != b.shape:
        return math.inf
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    off = np.where((a == b) | ~np.isfinite(b), 0.0, np.abs(a - b))
    off[np.isnan(off)] = math.inf
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(off.max(initial=0.0) / (largest or 1.0))


def _convolution(
    layer: Layer, values: Mapping[str, Array], constant: Callable[[str], Array], rounding: str
) -> tuple[Layer, Convolution | str]:
    """A layer of the shapes that its arrays have, and what computes it."""

    def value(name: str) -> Array:
        return as_array(values[name] if name in values else constant(name))

    layer = layer.of_shapes(value(layer.x).shape, value(layer.w).shape, value(layer.y).shape)
    return layer, layer.convolution(value, rounding)


def _judged(layer: Layer, convolution: Convolution | str, y: Array, ours: bool) -> Judged:
    if isinstance(convolution, str):
        return Judged(layer, why=convolution)
    results = [layer.result(as_array(y))]
    try:
        if ours:
            results.append(convolve(convolution.x, convolution.filters, **convolution.arguments))
        verdicts = judge(convolution, results)
    except ConvmatError as error:  # a bias of another length, sums beyond int32
        return Judged(layer, why=str(error))
    instead = "" if verdicts[0].equal else _instead(convolution, results[0])
    return Judged(layer, verdicts[0], verdicts[1] if ours else None, instead=instead)


def judge(convolution: Convolution, results: Sequence[Array]) -> list[Verdict]:
    """The verdicts on results (N, *out, K) of a layer, the same as `verify` has them."""
    x, filters, arguments = convolution.x, convolution.filters, convolution.arguments
    wanted = definition(x, filters, **arguments)
    if arguments.pop("quantization") is None:
        ratios = nearest(wanted, results, x, filters, **arguments)
        if ratios is not None:
            return [Verdict(True, y.size, 0, ratio) for y, ratio in zip(results, ratios, strict=True)]
    reports = wanted.compare_all(results, Rule())
    return [Verdict(one.equal, one.elements, one.outside, one.error_over_bound) for one in reports]


def _instead(convolution: Convolution, result: Array) -> str:
    """Other roundings that a quantized result that differs is equal by, or mistakes."""
    if convolution.quantization is None:
        return ""
    x, filters, arguments = convolution.x, convolution.filters, convolution.arguments
    report = verify(x, filters, result, **arguments)
    if report.equal_as or report.shape != report.expected_shape:
        return "equal as " + ", ".join(report.equal_as) if report.equal_as else ""
    judged = {"quantization": arguments.pop("quantization")}
    found = diagnose(x, filters, result, **arguments, judged=judged, budget=0)
    return f"right but for {found[0].brief}" if found else ""
