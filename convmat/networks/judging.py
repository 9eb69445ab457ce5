"""Layers of a network judged: a runtime's output, and convmat's own, against the definition of convolution.

The definition is computed once for all results of a layer, a band of outputs at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.engine import convolve
from convmat.networks.layers import Convolution, Layer
from convmat.networks.model import Model
from convmat.networks.running import Dumped, Evaluator, walk
from convmat.verification.comparison import Definition
from convmat.verification.judge import Judge, Rule
from convmat.verification.layer import definition
from convmat.watching import Watch, unwatched

Array = NDArray[Any]

_WEIGHTS = 1 << 22  # elements of filters whose definition is computed at one time


@dataclass
class Verdict:
    """What was found of one result of a layer."""

    elements: int = 0
    outside: int = 0
    """Elements further from the definition than their bound, or than 0 where they must be exact."""
    error_over_bound: float = 0.0
    """The largest."""

    @property
    def equal(self) -> bool:
        return self.outside == 0

    def add(self, elements: int, outside: int, error_over_bound: float) -> None:
        """Take in what was found of more elements."""
        self.elements += elements
        self.outside += outside
        self.error_over_bound = max(self.error_over_bound, error_over_bound)


class Judged(NamedTuple):
    """A layer, and the verdicts on its results."""

    layer: Layer
    theirs: Verdict | None = None
    """On the runtime's."""
    ours: Verdict | None = None
    """On that of convmat's engine, from the input that the runtime had."""
    why: str | None = None
    """Why it was not judged."""


def judge(layer: Convolution, results: Mapping[str, Array]) -> dict[str, Verdict]:
    """The verdicts on results (N, *out, K) of a layer, by name."""
    verdicts = {name: Verdict() for name in results}
    count = len(layer.filters)
    step = count if layer.groups > 1 else max(_WEIGHTS // max(layer.filters[0].size, 1), 1)
    for start in range(0, count, step):
        some = slice(start, start + step)
        bias = None if layer.bias is None else layer.bias[some]
        part = layer._replace(filters=layer.filters[some], bias=bias)
        _judge_some(part, {name: result[..., some] for name, result in results.items()}, verdicts)
    return verdicts


def _judge_some(layer: Convolution, results: Mapping[str, Array], verdicts: Mapping[str, Verdict]) -> None:
    wanted = definition(layer.x, layer.filters, **layer.arguments)
    for name in [name for name, result in results.items() if result.shape != wanted.shape]:
        size = math.prod(wanted.shape)
        verdicts[name].add(size, max(size, 1), math.inf)
    fitting = {name: result for name, result in results.items() if result.shape == wanted.shape}
    judges = {name: wanted.judge(result.dtype, Rule()) for name, result in fitting.items()}
    magnitudes = _magnitudes(layer, wanted)
    for band in wanted.parts if judges else ():
        for name, found in _judge_band(wanted, magnitudes, judges, fitting, band).items():
            verdicts[name].add(*found)


def _magnitudes(layer: Convolution, wanted: Definition) -> Callable[[Any], Array] | None:
    """What computes A = Σ|x|·|w| (+ |b|) of a band; None where it is not needed.

    Of real floats these are the sums of a layer of magnitudes, each taken once and not tap by tap.
    """
    arrays = [a for a in (layer.x, layer.filters, layer.bias) if a is not None]
    if wanted.sizes is None or any(a.dtype.kind != "f" for a in arrays):
        return wanted.sizes
    bias = None if layer.bias is None else np.abs(layer.bias)
    positive = layer._replace(x=np.abs(layer.x), filters=np.abs(layer.filters), bias=bias)
    return definition(positive.x, positive.filters, **positive.arguments).values


@np.errstate(all="ignore")  # infinities and NaN are compared, not warned of
def _judge_band(
    wanted: Definition,
    magnitudes: Callable[[Any], Array] | None,
    judges: Mapping[str, Judge],
    results: Mapping[str, Array],
    band: Any,
) -> dict[str, tuple[int, int, float]]:
    """Elements, those outside, and the largest error / bound, of each result."""
    values = wanted.values(band)
    bounds = [judge.bound for judge in judges.values() if judge.bound is not None]
    sizes = magnitudes(band) if bounds and magnitudes is not None else None
    found: dict[str, tuple[int, int, float]] = {}
    allowed: dict[Any, Array] = {}
    for name, judge_of in judges.items():
        result = results[name][band]
        worst = _within(result, values, allowed.get(result.dtype))
        if worst is not None:
            found[name] = values.size, 0, worst
            continue
        flushed = None
        if judge_of.bound is not None and judge_of.bound.has_doubt and wanted.flushed is not None:
            flushed = wanted.flushed(band, judge_of.bound.tiny)
        says = judge_of(result, values, sizes, flushed)
        allowed[result.dtype] = says.allowed
        outside = int(np.count_nonzero(says.outside))
        worst = float(np.fmax.reduce(says.ratio, axis=None, initial=0.0))
        found[name] = values.size, outside, worst if not outside or worst > 1 else math.inf
    return found


def _within(result: Array, values: Array, allowed: Array | None) -> float | None:
    """The largest error / bound of a result all of which is within bounds that are known; else None."""
    if allowed is None:
        return None
    error = np.abs(result.astype(np.float64) - values)
    if not (error <= allowed).all():
        return None
    ratio = np.divide(error, allowed, out=np.zeros(error.shape), where=allowed > 0)
    return float(ratio.max(initial=0.0))


def run_and_judge(
    model: Model,
    layers: Iterable[Layer],
    feeds: Mapping[str, Array],
    evaluator: Evaluator,
    dumped: Dumped | None = None,
    watch: Watch = unwatched,
    see: Callable[[Layer, dict[str, Array]], None] | None = None,
    ours: bool = True,
    weights: Callable[[str], Array] | None = None,
) -> tuple[list[Judged], dict[str, Array]]:
    """Run a model, and judge its layers one by one; what it makes in the end.

    Args:
        see: is shown the values of each layer as it is judged.
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
        layer = by_output[step.node.output[0]]
        if see is not None:
            see(layer, step.values)
        judged.append(_judged(weights or model.constant, layer, step.values, step.known, ours))
    return judged, outputs


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
    """The largest |a − b|, as a share of the largest |b|."""
    if a.shape != b.shape:
        return math.inf
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    off[np.isnan(off)] = math.inf
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(off.max(initial=0.0) / (largest or 1.0))


def _judged(
    weights: Callable[[str], Array], layer: Layer, values: Mapping[str, Array], known: bool, ours: bool
) -> Judged:
    if not known:
        return Judged(layer, why="what it took, or what it made, is not among the outputs that were given")

    def value(name: str) -> Array:
        return values[name] if name in values else weights(name)

    layer = layer.of_shapes(value(layer.x).shape, value(layer.w).shape, value(layer.y).shape)
    convolution = layer.convolution(value)
    if isinstance(convolution, str):
        return Judged(layer, why=convolution)
    results = {"theirs": layer.result(values[layer.y])}
    if ours:
        results["ours"] = convolve(convolution.x, convolution.filters, **convolution.arguments)
    verdicts = judge(convolution, results)
    return Judged(layer, verdicts["theirs"], verdicts.get("ours"))
