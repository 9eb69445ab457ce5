"""How far a network takes two inputs apart at most: a Lipschitz constant L, ‖f(x) − f(y)‖₂ ≤ L·‖x − y‖₂.

L is followed from node to node, from 1 at the input: through layers by the proven bounds of their norms, in
sums added, where values are joined as the root of the sum of squares. Each rule below says why it holds. L is
that of the function in exact arithmetic; what float64 rounds off in L is accounted for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import ConvmatError
from convmat.networks.model import Model, attributes_of, is_lively, needs, node_name, subgraphs
from convmat.networks.spectra import Stretch
from convmat.spectrum import chain_bound

Array = NDArray[Any]

_UP = 1 + 2.0**-48  # more than some roundings of float64 take away


class Stop(NamedTuple):
    """Where L cannot be followed further."""

    node: str
    op: str
    why: str


def lipschitz_bound(model: Model, layers: Mapping[str, Stretch]) -> float | Stop:
    """A Lipschitz constant of a model whose shapes are inferred, from its inputs together to its outputs.

    Args:
        layers: what is known of the layers, by the name of what they make.

    Returns:
        The constant; or, where a node has none or none is known, the first such that an output depends on.
    """
    known: dict[str, float | Stop] = dict.fromkeys(model.inputs, 1.0)
    for node in model.nodes:
        name = node_name(node)
        taken = [known[need] for need in needs(node) if need in known]
        found: float | Stop | str
        if stops := [one for one in taken if isinstance(one, Stop)]:
            found = stops[0]
        elif taken and not any(taken) and not is_lively(node):
            found = 0.0  # all it takes follows from sizes alone
        else:
            found = _followed(_Node(model, node, known), layers)
        if isinstance(found, str):
            found = Stop(name, node.op_type, found)
        for at, output in enumerate(node.output):
            if not output:
                continue
            if at and node.op_type != "Split" and not isinstance(found, Stop) and found:
                known[output] = Stop(name, node.op_type, "only its first output is followed")
            else:
                known[output] = found
    return _joined([known.get(output, 0.0) for output in model.outputs])


def _joined(ends: Sequence[float | Stop]) -> float | Stop:
    """Of values side by side: ‖(a, b)‖² = ‖a‖² + ‖b‖²."""
    for end in ends:
        if isinstance(end, Stop):
            return end
    bounds = [end for end in ends if not isinstance(end, Stop)]
    return bounds[0] if len(bounds) == 1 else math.hypot(*bounds) * _UP


class _Node:
    """A node, and what is known of the values that it takes."""

    def __init__(self, model: Model, node: Any, known: Mapping[str, float | Stop]) -> None:
        self.model, self.node = model, node
        self.op, self.options = str(node.op_type), attributes_of(node)
        self.bounds = [
            float(bound) if not isinstance(bound := known.get(n, 0.0), Stop) else math.inf for n in node.input
        ]

    @property
    def moving(self) -> list[int]:
        """Which inputs depend on the network's input."""
        return [at for at, bound in enumerate(self.bounds) if bound]

    @property
    def is_real(self) -> bool:
        """Whether what it makes has fractions."""
        return self.model.types.get(self.node.output[0]) in _REAL

    def shape(self, at: int | None = None) -> tuple[int, ...] | None:
        """Of an input, or of the first output; None where it is not known."""
        name = self.node.output[0] if at is None else self.node.input[at]
        shape = self.model.shapes.get(name)
        return None if shape is None or None in shape else tuple(size or 0 for size in shape)

    def constant(self, at: int) -> Array | None:
        """An input that does not depend on what is fed; None where it does, or there is none."""
        name = self.node.input[at] if at < len(self.node.input) else ""
        return self.model.constant(name) if name and self.model.is_constant(name) else None

    def times_repeated(self, at: int) -> float | None:
        """How often each element of an input stands in the output, as broadcasting repeats them."""
        inner, outer = self.shape(at), self.shape()
        if inner is None or outer is None:
            same = self.model.shapes.get(self.node.input[at]) == self.model.shapes.get(self.node.output[0])
            return 1.0 if same and self.model.shapes.get(self.node.output[0]) else None
        return math.prod(outer) / max(math.prod(inner), 1)


_SIZES = "its sizes are not known; give --input-shape"
_STEPS = ("Ceil", "DynamicQuantizeLinear", "Floor", "QuantizeLinear", "Round", "Sign")
_COUNTED = 1 << 24  # pixels that are counted one by one
_ROUNDS = "it rounds to whole numbers"
_REAL = (1, 10, 11, 16)  # ONNX's numbers of float, float16, double and bfloat16


def _followed(node: _Node, layers: Mapping[str, Stretch]) -> float | str:
    """As `_through`, of any node that a file may have."""
    try:
        return _through(node, layers)
    except ConvmatError as error:  # of a constant that cannot be had
        return error.problem
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return f"its attributes and sizes make no {node.op}"


def _through(node: _Node, layers: Mapping[str, Stretch]) -> float | str:
    """The bound of a node's output, or why there is none."""
    if node.node.domain not in ("", "ai.onnx"):
        return f"{node.node.domain} is no domain of ONNX"
    if subgraphs(node.node):
        return "its branches or its body are not looked into"
    if node.op in ("Shape", "Size"):
        return 0.0
    if not any(node.bounds):
        return "what it makes does not follow from the network's input"
    if node.op in _STEPS or (node.op in ("Div", "ReduceMean") and not node.is_real):
        return _ROUNDS
    if node.op in _JOINS:
        return _JOINS[node.op](node)
    stretch = layers.get(node.node.output[0])
    if stretch is not None:
        return _layer(node, stretch)
    if node.op not in _FACTORS:
        return "nothing is known of how far it takes values apart"
    if node.moving != [0]:
        return "more than one of its inputs depends on the network's input"
    factor = _FACTORS[node.op](node)
    return factor if isinstance(factor, str) else node.bounds[0] * factor * _UP


# Layers


def _layer(node: _Node, stretch: Stretch) -> float | str:
    """‖M·x + b − M·y − b‖ ≤ ‖M‖·‖x − y‖; β times C's own more where Gemm's C depends on the input, too."""
    if stretch.spectrum is None:
        return stretch.why or ""
    if node.op.startswith("QLinear"):
        return "it rounds to whole steps"
    norm = chain_bound([stretch.spectrum])
    added = [at for at in node.moving if at > 1]
    if added and node.op != "Gemm":
        return "its bias, or zero point, depends on the network's input"
    bound = sum(node.bounds[at] for at in node.moving if at < 2) * norm
    if added:
        times = node.times_repeated(2)
        if times is None:
            return _SIZES
        bound += abs(node.options.get("beta", 1.0)) * node.bounds[2] * math.sqrt(times)
    return bound * _UP


# Values that meet


def _sum(node: _Node) -> float | str:
    """‖Σ a_i‖ ≤ Σ‖a_i‖; one that is broadcast has each element `times` times, and √times its length."""
    total = 0.0
    for at in node.moving:
        times = node.times_repeated(at)
        if times is None:
            return _SIZES
        total += node.bounds[at] * math.sqrt(times)
    return total / (len(node.bounds) if node.op == "Mean" else 1) * _UP


def _largest(node: _Node) -> float | str:
    """|max(a, b) − max(a', b')|² ≤ max(|a − a'|, |b − b'|)² ≤ |a − a'|² + |b − b'|²."""
    squares = [(node.bounds[at], node.times_repeated(at)) for at in node.moving]
    if any(times is None for _, times in squares):
        return _SIZES
    return math.hypot(*(bound * math.sqrt(times or 0) for bound, times in squares)) * _UP


def _concat(node: _Node) -> float | str:
    """‖(a, b)‖² = ‖a‖² + ‖b‖²."""
    return math.hypot(*node.bounds) * _UP


def _product(node: _Node) -> float | str:
    """c·x goes no further apart than max |c| times as far, x repeated as in a sum; x / c as x · (1 / c)."""
    if len(node.moving) > 1:
        verb = "divides" if node.op == "Div" else "multiplies"
        return f"it {verb} values that both depend on the network's input: no constant holds for all inputs"
    [at] = node.moving
    factor, times = node.constant(1 - at), node.times_repeated(at)
    if times is None:
        return _SIZES
    if node.op == "Div" and at == 1:
        return "it divides by a value that depends on the network's input"
    if factor is None:
        return "its factor is known only as the network runs"
    sizes = np.abs(factor.astype(np.float64))
    if node.op == "Div":
        sizes = 1 / sizes if sizes.all() else np.array([math.inf])
    largest = float(sizes.max(initial=0.0))
    if not math.isfinite(largest):
        return "its factor is not finite" if node.op == "Mul" else "it divides by 0, or by what is not finite"
    return node.bounds[at] * largest * math.sqrt(times) * _UP


_JOINS: dict[str, Callable[[_Node], float | str]] = {
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), _sum),
    **dict.fromkeys(("Max", "Min"), _largest),
    **dict.fromkeys(("Mul", "Div"), _product),
    "Concat": _concat,
}


# One value: by what factor it goes apart at most

_SLOPES: dict[str, Callable[[dict[str, Any]], float]] = {
    # Of x, |x|, max(x, 0), tanh, log(1 + eˣ), x / (1 + |x|), …: 1.
    **dict.fromkeys(
        ("Abs", "Neg", "Relu", "Clip", "Tanh", "Sin", "Cos", "Atan", "Asinh", "Softplus", "Softsign"),
        lambda _: 1.0,
    ),
    "Sigmoid": lambda _: 0.25,
    "HardSigmoid": lambda said: abs(said.get("alpha", 0.2)),
    "LeakyRelu": lambda said: max(1.0, abs(said.get("alpha", 0.01))),
    "Elu": lambda said: max(1.0, abs(said.get("alpha", 1.0))),
    "Celu": lambda said: 1.0 if said.get("alpha", 1.0) > 0 else math.inf,
    "Selu": lambda said: said.get("gamma", 1.0507010221) * max(1.0, said.get("alpha", 1.6732632423)),
    "Erf": lambda _: 2 / math.sqrt(math.pi),
    "HardSwish": lambda _: 1.5,  # x/3 + 1/2 at x = 3
    # The largest slopes, rounded up, of x·Φ(x), at √2; of x·σ(x), at 2.4; of x·tanh(softplus(x)), at 1.5.
    "Gelu": lambda _: 1.13,
    "Swish": lambda _: 1.1,
    "Mish": lambda _: 1.09,
}
"""Largest slopes of functions of each element: by the mean value theorem |f(a) − f(b)| ≤ slope·|a − b|."""

_MOVES = (
    *(
        "DepthToSpace",
        "Dropout",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
    ),
    *("Transpose", "Unsqueeze"),
)


def _same(node: _Node) -> float | str:
    """Elements moved or left out, each there once at most: no longer than they were."""
    if node.op == "Dropout" and (training := node.constant(2)) is not None and training.any():
        return "it drops elements at random"
    return 1.0


def _cast(node: _Node) -> float | str:
    """Of real numbers as such, a type that keeps fractions holds each as it is, but for rounding."""
    return 1.0 if node.is_real else _ROUNDS


def _repeated(node: _Node) -> float | str:
    """Each element as often as the output is larger: √times as long."""
    times = node.times_repeated(0)
    return _SIZES if times is None else math.sqrt(times)


def _normalization(node: _Node) -> float | str:
    """(x − mean)·scale / √(var + ε) + b, a number for each channel: the largest of |scale| / √(var + ε)."""
    scale, var = node.constant(1), node.constant(4)
    if node.options.get("training_mode", 0) or scale is None or var is None:
        return "it normalizes by what it is given"
    with np.errstate(all="ignore"):
        shifted = var.astype(np.float64) + node.options.get("epsilon", 1e-5)
        factor = float(np.abs(scale.astype(np.float64) / np.sqrt(shifted)).max(initial=0.0))
    return factor if math.isfinite(factor) else "its factor is not finite"


def _max_pool(node: _Node) -> float | str:
    """|max a − max b|² ≤ Σ_window |a − b|², where a pixel counts for each of the windows that it lies in."""
    return math.sqrt(math.prod(_copies(node)))


def _copies(node: _Node) -> list[int]:
    """Along each axis, in how many windows a pixel lies at most.

    Taps i and i' meet it in two windows only if (i − i')·D is a multiple of S, so that i and i' have the same
    rest by S' = S / gcd(S, D): ⌈k / S'⌉ at most.
    """
    kernel = node.options["kernel_shape"]
    strides, dilations = (node.options.get(key) or [1] * len(kernel) for key in ("strides", "dilations"))
    return [-(-k // (s // math.gcd(s, d))) for k, s, d in zip(kernel, strides, dilations, strict=True)]


def _average_pool(node: _Node) -> float | str:
    """‖M‖² ≤ its largest sum of a row times that of a column: 1 · copies / the fewest pixels averaged."""
    shape, out, options = node.shape(0), node.shape(), node.options
    if shape is None or out is None:
        return _SIZES
    kernel = options["kernel_shape"]
    strides, dilations = (options.get(key) or [1] * len(kernel) for key in ("strides", "dilations"))
    fewest = 1
    if options.get("count_include_pad", 0) and not options.get("ceil_mode", 0):
        fewest = math.prod(kernel)
    elif options.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"):
        pads = options.get("pads") or [0] * 2 * len(kernel)
        if max(out, default=0) * max(kernel) > _COUNTED:
            return "its windows are too many to count their pixels"
        for h, outputs, k, s, d, before in zip(
            shape[2:], out[2:], kernel, strides, dilations, pads, strict=False
        ):
            at = np.arange(outputs)[:, None] * s + np.arange(k) * d - before
            fewest *= max(int(((at >= 0) & (at < h)).sum(axis=1).min(initial=k)), 1)
    return math.sqrt(math.prod(_copies(node)) / fewest)


def _reduction(power: float) -> Callable[[_Node], float | str]:
    """n^power, of n elements each; their mean is that of a row of 1/n, of length 1/√n, their sum of 1, √n.

    The largest, and the root of the sum of squares, of a line go no further apart than the line.
    """

    def factor(node: _Node) -> float | str:
        inner, outer = node.shape(0), node.shape()
        if not power:
            return 1.0
        if inner is None or outer is None:
            return _SIZES
        return float((math.prod(inner) / max(math.prod(outer), 1)) ** power)

    return factor


def _slope(node: _Node) -> float | str:
    slope = _SLOPES[node.op](node.options)
    return slope if math.isfinite(slope) else "it is no continuous function"


def _leak(node: _Node) -> float | str:
    """PRelu: of slope 1 above 0, and one of its own below."""
    slope = node.constant(1)
    if slope is None:
        return "its slope is known only as the network runs"
    largest = max(1.0, float(np.abs(slope.astype(np.float64)).max(initial=0.0)))
    return largest if math.isfinite(largest) else "its slope is not finite"


def _softmax(node: _Node) -> float | str:
    """Its derivative J = diag(p) − p·pᵀ is symmetric, and vᵀJv the variance of v's elements under p.

    Those of a v of length 1 lie within √2, and numbers within d have a variance of d²/4 at most: 1/2.
    """
    return 0.5


def _gathered(node: _Node) -> float | str:
    """Each line as often as it is chosen: √times as long."""
    chosen, shape = node.constant(1), node.shape(0)
    if chosen is None or shape is None:
        return "what it chooses is known only as the network runs"
    size = shape[node.options.get("axis", 0)]
    lines = np.where(chosen < 0, chosen + size, chosen).reshape(-1)
    return math.sqrt(int(np.unique(lines, return_counts=True)[1].max(initial=0)))


def _padded(node: _Node) -> float | str:
    """A constant makes no difference longer; a pixel that is repeated does, √times for each axis."""
    mode = node.options.get("mode", b"constant").decode()
    if mode == "constant":
        return 1.0
    pads, shape = node.constant(1), node.shape(0)
    if pads is None or shape is None or len(pads) != 2 * len(shape) or node.constant(3) is not None:
        return "how often it repeats a pixel is not known"
    if pads.min() < 0:
        return "it pads and crops at once"
    if max(shape) + int(pads.max()) > _COUNTED:
        return "its pads are too wide to count what they repeat"
    numpys = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]
    ends = zip(shape, pads[: len(shape)], pads[len(shape) :], strict=True)
    times = [
        np.bincount(np.pad(np.arange(h), (int(a), int(b)), numpys)).max()  # type: ignore[call-overload]
        for h, a, b in ends
    ]
    return math.sqrt(math.prod(map(int, times)))


_FACTORS: dict[str, Callable[[_Node], float | str]] = {
    **dict.fromkeys(_SLOPES, _slope),
    **dict.fromkeys(_MOVES, _same),
    **dict.fromkeys(("Expand", "Tile"), _repeated),
    **dict.fromkeys(("ReduceMean", "GlobalAveragePool"), _reduction(-0.5)),
    **dict.fromkeys(("ReduceSum", "ReduceL1"), _reduction(0.5)),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceL2"), _reduction(0.0)),
    "Cast": _cast,
    "CastLike": _cast,
    "BatchNormalization": _normalization,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "PRelu": _leak,
    "Softmax": _softmax,
    "Gather": _gathered,
    "Pad": _padded,
}
