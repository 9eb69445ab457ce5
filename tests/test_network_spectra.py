"""`convmat network --spectrum`: layers' singular values, and Lipschitz constants, against measured ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg

import convmat as cm
from convmat import spectrum, symbol
from convmat.cli import run
from convmat.networks import lipschitz
from convmat.networks.lipschitz import Stop, lipschitz_bound
from convmat.networks.model import Model
from convmat.networks.spectra import Stretch, spectra_of, weights_of
from convmat.spectrum import Spectrum
from tests.test_network import LAYERS, LIGHT, TINY, helper, model, one, onnx, read, told, weights
from tests.tools import SAMPLES

ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
DOUBLE = onnx.TensorProto.DOUBLE
RNG = np.random.default_rng


def stretches(path: str, **shapes: tuple[int, ...]) -> tuple[Model, dict[str, Stretch]]:
    network, layers = read(path, **shapes)
    found = spectra_of(layers, lambda layer: weights_of(network, layer))
    return network, {layer.y: one for layer, one in zip(layers, found, strict=True)}


def bound_of(path: str, **shapes: tuple[int, ...]) -> float | Stop:
    return lipschitz_bound(*stretches(path, **shapes))


def known(stretch: Stretch) -> Spectrum:
    assert stretch.spectrum is not None, stretch.why
    return stretch.spectrum


# Layers


def dense(path: str) -> Any:
    """The matrix of a model's only layer: what the layer, as a convolution, makes of each column of I."""
    network, [layer] = read(path)
    shape = layer.input_shape
    assert shape is not None
    basis = np.eye(math.prod(shape[1:])).reshape(-1, *shape[1:])
    w = network.constant(layer.w).astype(np.float64)
    columns = layer.of_shapes(basis.shape, w.shape, None).convolution({"x": basis, "w": w}.__getitem__)
    assert not isinstance(columns, str)
    return cm.convolve(columns.x, columns.filters, **columns.arguments).reshape(len(basis), -1).T


@pytest.mark.parametrize("case", LAYERS)
def test_singular_values_are_those_of_the_dense_layer(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact as scipy has them, and, as of layers too large for that, between two bounds."""
    op, x, w, options = LAYERS[case]
    path = one(op, (1, *x[1:]), weights(*w, dtype=np.float64), **options)
    m = dense(path)
    values = scipy.linalg.svdvals(m)
    _, found = stretches(path)
    exact = known(found["y"])
    assert sorted(found["y"].shape or ()) == sorted(m.shape)
    assert (exact.method in ("dense", "fourier"), exact.values) == (True, None)
    assert exact.largest == pytest.approx(values[0], rel=1e-10)
    assert exact.smallest == pytest.approx(values[-1], rel=1e-10, abs=1e-12 * values[0])
    assert values[0] <= exact.upper
    monkeypatch.setattr(spectrum, "DENSE_ELEMENTS", 0)
    large = known(stretches(path)[1]["y"])
    assert large.largest <= values[0] * (1 + 1e-9)
    assert values[0] <= large.upper


def product(op: str, x: tuple[int, ...], w: Any, left: bool = False, **attributes: Any) -> str:
    names = ["w", "x"] if left else ["x", "w"]
    node = helper.make_node(op, names, ["y"], "layer", **attributes)
    return model([node], {"x": x}, ["y"], {"w": w}, kind=DOUBLE)


PRODUCTS: dict[str, Callable[[], str]] = {
    "Gemm": lambda: product("Gemm", (2, 5), RNG(1).standard_normal((5, 4))),
    "Gemm, scaled": lambda: product("Gemm", (2, 5), RNG(1).standard_normal((4, 5)), transB=1, alpha=3.0),
    "Gemm, weights first": lambda: product("Gemm", (5, 2), RNG(1).standard_normal((5, 4)), True, transA=1),
    "MatMul": lambda: product("MatMul", (3, 2, 5), RNG(1).standard_normal((5, 4))),
    "MatMul, weights first": lambda: product("MatMul", (5, 2), RNG(1).standard_normal((4, 5)), True),
    "MatMul of a line": lambda: product("MatMul", (3, 5), RNG(1).standard_normal(5)),
    "MatMul of a line first": lambda: product("MatMul", (5, 3), RNG(1).standard_normal(5), True),
    "MatMul in batches": lambda: product("MatMul", (3, 2, 5), RNG(1).standard_normal((3, 5, 4))),
    "MatMul in batches, first": lambda: product("MatMul", (3, 5, 2), RNG(1).standard_normal((3, 4, 5)), True),
}


def jacobian(path: str, x: Any) -> Any:
    """The derivative of a model of float64 at x, by central differences."""
    session = ReferenceEvaluator(path)
    step, columns = 2.0**-20, []
    for at in range(x.size):
        moved = np.zeros(x.size)
        moved[at] = step
        moved = moved.reshape(x.shape)
        ends = [
            np.concatenate([np.ravel(y) for y in session.run(None, {"x": z})]) for z in (x + moved, x - moved)
        ]
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.array(columns).T


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_have_the_norm_of_their_weights(case: str, folder: Path) -> None:
    path = PRODUCTS[case]()
    network, found = stretches(path)
    values = np.linalg.svd(jacobian(path, np.zeros(network.shapes["x"])), compute_uv=False)
    assert known(found["y"]).largest == pytest.approx(values[0], rel=1e-8)
    assert lipschitz_bound(network, found) == pytest.approx(values[0], rel=1e-8)


def test_quantized_weights_are_those_that_they_stand_for(folder: Path) -> None:
    w, zero = weights(3, 2, 3, 3, dtype=np.int8), np.array([1, -2, 3], np.int8)
    scale = np.array([0.5, 2, 0.25], np.float32)
    wanted = (w.astype(float) - zero.reshape(-1, 1, 1, 1)) * scale.reshape(-1, 1, 1, 1)
    names = ["x", "s", "z", "w", "ws", "wz", "s", "z"]
    held = {"s": np.float32(1), "z": np.uint8(0), "w": w, "ws": scale, "wz": zero}
    node = helper.make_node("QLinearConv", names, ["y"], "layer")
    path = model([node], {"x": (1, 2, 5, 5)}, ["y"], held, kind=onnx.TensorProto.UINT8)
    network, found = stretches(path)
    expected = cm.spectrum_of(np.moveaxis(wanted, 1, -1), (5, 5, 2))
    assert expected is not None
    assert known(found["y"]).largest == pytest.approx(expected.largest)
    assert lipschitz_bound(network, found) == Stop("layer", "QLinearConv", "it rounds to whole steps")
    node = helper.make_node("ConvInteger", ["x", "w", "", "wz"], ["y"], "layer")
    path = model([node], {"x": (1, 2, 5, 5)}, ["y"], held, kind=onnx.TensorProto.UINT8)
    expected = cm.spectrum_of(np.moveaxis(wanted / scale.reshape(-1, 1, 1, 1), 1, -1), (5, 5, 2))
    assert expected is not None
    assert known(stretches(path)[1]["y"]).largest == pytest.approx(expected.largest)


def test_wide_layers_are_tested_not_iterated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few blocks of the symbol are above the largest before them; the bound is the same."""
    filters = RNG(1).standard_normal((64, 3, 3, 64))
    layer = cm.layer_matrix(filters[:1], (14, 14, 64), padding="same").layer
    iterated: list[int] = []
    gram_bounds = symbol.gram_bounds

    def counted(matrices: Any, squarings: int = symbol.SQUARINGS) -> Any:
        iterated.append(len(matrices))
        return gram_bounds(matrices, squarings)

    monkeypatch.setattr(symbol, "gram_bounds", counted)
    parts = filters[None]
    bound = symbol.symbol_bound(layer.geometry, parts, "zeros").value
    assert sum(iterated) < 20 < 15 * 15 // 2
    monkeypatch.setattr(symbol, "all_within", lambda *_: False)
    assert symbol.symbol_bound(layer.geometry, parts, "zeros").value == bound
    coarse = symbol.symbol_bound(layer.geometry, parts, "zeros", products=3 * 10**7).value
    assert bound < coarse < 1.5 * bound


def test_one_wide_matrix_is_tested_against_what_lanczos_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = RNG(1).standard_normal((60, 1, 80))
    effort = spectrum.QUICK._replace(decomposed=0)
    monkeypatch.setattr(spectrum, "DENSE_ELEMENTS", 0)
    layer = cm.layer_matrix(filters, (1, 80)).layer
    norm, calls = np.linalg.norm(filters[:, 0], 2), []
    monkeypatch.setattr(
        symbol, "gram_bounds", lambda m, squarings: calls.append(squarings) or np.array([1e9])
    )
    found = layer.spectrum(effort=effort)
    assert found is not None
    assert (found.method, found.upper_method, calls) == ("lanczos", "gram", [symbol._ROUGH])
    assert found.largest <= norm * (1 + 1e-12)
    assert norm <= found.upper <= 1.0101 * found.largest
    # A guess that is too low is not believed.
    parts = filters[None] / 4
    assert symbol.symbol_bound(layer.geometry, parts, "zeros", guess=norm / 4 * 0.999).value > 1e8


# One node


def node_of(op: str, shape: tuple[int, ...], *held: Any, opset: int = 20, **attributes: Any) -> str:
    """A model of float64, of one node, whose first input is x."""
    names = [f"c{at}" for at in range(len(held))]
    node = helper.make_node(op, ["x", *names], ["y"], "node", **attributes)
    constants = dict(zip(names, map(np.asarray, held), strict=True))
    return model([node], {"x": shape}, ["y"], constants, opset=opset, kind=DOUBLE)


def peak(*shape: int) -> Any:
    """One pixel above all others, which lie apart, too."""
    x = RNG(4).permutation(math.prod(shape)).reshape(shape) / math.prod(shape)
    x[(0, 0, *(n // 2 for n in shape[2:]))] = 9
    return x


LINE = np.array([[1.5, -2.5, 2.9, -0.5]])
FLAT = np.zeros((1, 1, 5, 5))
NODES: dict[str, tuple[Callable[[], str], Any, float]] = {
    # What makes the model, a point at which it takes values apart most, and how far there.
    "Relu": (lambda: node_of("Relu", (1, 4)), LINE, 1),
    "Sigmoid": (lambda: node_of("Sigmoid", (1, 4)), 0 * LINE, 0.25),
    "Tanh": (lambda: node_of("Tanh", (1, 4)), 0 * LINE, 1),
    "Erf": (lambda: node_of("Erf", (1, 4)), 0 * LINE, 2 / math.sqrt(math.pi)),
    "HardSigmoid": (lambda: node_of("HardSigmoid", (1, 4), alpha=0.5), 0 * LINE, 0.5),
    **{
        op: (lambda op=op: node_of(op, (1, 4)), LINE / 1e4, 1)
        for op in ("Abs", "Neg", "Sin", "Atan", "Asinh", "Softsign", "Celu", "Identity", "Flatten")
    },
    "HardSwish": (lambda: node_of("HardSwish", (1, 4)), LINE, 1.5),
    "Gelu": (lambda: node_of("Gelu", (1, 4)), LINE, 1.13),
    "Mish": (lambda: node_of("Mish", (1, 4)), LINE, 1.09),
    "LeakyRelu": (lambda: node_of("LeakyRelu", (1, 4), alpha=-3.0), LINE, 3),
    "Elu": (lambda: node_of("Elu", (1, 4), alpha=2.0), LINE / 1e5, 2),
    "Selu": (lambda: node_of("Selu", (1, 4)), LINE / 1e5, 1.0507 * 1.67326),
    "Softplus": (lambda: node_of("Softplus", (1, 4)), 9 + LINE, 1),
    "PRelu": (lambda: node_of("PRelu", (1, 4), [0.5, -4, 3, 1]), LINE, 4),
    "Clip": (lambda: node_of("Clip", (1, 4), -1.0, 2.0), LINE, 1),
    "Softmax": (lambda: node_of("Softmax", (1, 4)), np.array([[9.0, 9.0, -30, -30]]), 0.5),
    "Mul": (lambda: node_of("Mul", (1, 4), [[3.0], [-3.0]]), LINE, 3 * math.sqrt(2)),
    "Div": (lambda: node_of("Div", (1, 4), [2.0, -0.25, 1, 1]), LINE, 4),
    "Sub, broadcast": (lambda: node_of("Sub", (1, 4), np.zeros((3, 1))), LINE, math.sqrt(3)),
    "Max": (lambda: node_of("Max", (1, 4), [1.0, 1, 1, 1]), LINE, 1),
    "MaxPool": (lambda: node_of("MaxPool", (1, 1, 7, 7), kernel_shape=[3, 3]), peak(1, 1, 7, 7), 3),
    "MaxPool, strided": (
        lambda: node_of("MaxPool", (1, 1, 5, 5), kernel_shape=[3, 3], strides=[2, 2]),
        peak(1, 1, 5, 5),
        2,
    ),
    "MaxPool, dilated": (
        lambda: node_of("MaxPool", (1, 1, 9), kernel_shape=[3], strides=[2], dilations=[2]),
        peak(1, 1, 9),
        math.sqrt(3),
    ),
    "AveragePool": (
        lambda: node_of("AveragePool", (1, 1, 6, 6), kernel_shape=[2, 2], strides=[2, 2]),
        np.zeros((1, 1, 6, 6)),
        0.5,
    ),
    "AveragePool, overlapping": (
        lambda: node_of("AveragePool", (1, 1, 24), kernel_shape=[3]),
        np.zeros((1, 1, 24)),
        1,
    ),
    "AveragePool, padded": (
        lambda: node_of("AveragePool", (1, 1, 4), kernel_shape=[3], strides=[3], pads=[2, 0]),
        np.zeros((1, 1, 4)),
        1,
    ),
    "AveragePool, pads counted": (
        lambda: node_of(
            "AveragePool", (1, 1, 4), kernel_shape=[3], strides=[3], pads=[2, 0], count_include_pad=1
        ),
        np.zeros((1, 1, 4)),
        math.sqrt(1 / 3),
    ),
    "GlobalAveragePool": (lambda: node_of("GlobalAveragePool", (1, 1, 5, 5)), FLAT, 0.2),
    "GlobalMaxPool": (lambda: node_of("GlobalMaxPool", (1, 1, 5, 5)), peak(1, 1, 5, 5), 1),
    "ReduceMean": (lambda: node_of("ReduceMean", (2, 9), np.array([1])), np.zeros((2, 9)), 1 / 3),
    "ReduceSum": (lambda: node_of("ReduceSum", (2, 9), np.array([1])), np.zeros((2, 9)), 3),
    "ReduceL2": (lambda: node_of("ReduceL2", (1, 4), np.array([1])), LINE, 1),
    "BatchNormalization": (
        lambda: node_of(
            "BatchNormalization", (1, 2, 2), [1.0, -3], [0.0, 1], [5.0, 1], [4.0, 0.25], epsilon=0.0
        ),
        np.zeros((1, 2, 2)),
        6,
    ),
    "Transpose": (lambda: node_of("Transpose", (2, 3)), np.zeros((2, 3)), 1),
    "Reshape": (lambda: node_of("Reshape", (2, 3), np.array([6])), np.zeros((2, 3)), 1),
    "Expand": (lambda: node_of("Expand", (1, 4), np.array([5, 4])), LINE, math.sqrt(5)),
    "Gather": (lambda: node_of("Gather", (3, 2), np.array([0, 2, -1, 2])), np.zeros((3, 2)), math.sqrt(3)),
    "Pad": (lambda: node_of("Pad", (1, 4), np.array([0, 1, 0, 2])), LINE, 1),
    "Pad, reflected": (
        lambda: node_of("Pad", (1, 3), np.array([0, 2, 0, 2]), mode="reflect"),
        np.zeros((1, 3)),
        math.sqrt(3),
    ),
    "Pad, edge": (lambda: node_of("Pad", (1, 4), np.array([0, 1, 0, 2]), mode="edge"), LINE, math.sqrt(3)),
    "Split": (
        lambda: model(
            [helper.make_node("Split", ["x", "s"], ["a", "b"], "node")],
            {"x": (1, 4)},
            ["a"],
            {"s": np.array([1, 3])},
            kind=DOUBLE,
        ),
        LINE,
        1,
    ),
    "Sum": (lambda: node_of("Sum", (1, 4), LINE), LINE, 1),
    "Cast": (lambda: node_of("Cast", (1, 4), to=DOUBLE), LINE, 1),
}


def is_above(path: str, x: Any) -> bool:
    """Whether the bound of a model is at least its derivative's norm at x."""
    bound = bound_of(path)
    assert not isinstance(bound, Stop), bound
    return float(np.linalg.norm(jacobian(path, x), 2)) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("case", NODES)
def test_factors_are_those_of_the_derivative(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds, is met but for some percent, and one less by a tenth would be found."""
    make, x, factor = NODES[case]
    path = make()
    bound = bound_of(path)
    assert isinstance(bound, float), bound
    assert bound == pytest.approx(factor, rel=1e-5)
    assert is_above(path, x)
    monkeypatch.setattr(lipschitz, "_UP", 0.9)
    assert not is_above(path, x)


# Networks


def chain(folder: Path) -> tuple[str, list[Any]]:
    """A sequential network of float64, and the weights of its layers."""
    rng = RNG(7)
    w = [rng.standard_normal((4, 2, 3, 3)), rng.standard_normal((3, 4, 3, 3)), rng.standard_normal((27, 5))]
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w0", "b"], ["a"], "first", pads=[1] * 4),
        make("Relu", ["a"], ["r"]),
        make("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        make("Conv", ["p", "w1"], ["c"], "second", pads=[1] * 4, strides=[2, 2]),
        make("BatchNormalization", ["c", "s", "z", "z", "v"], ["n"], epsilon=0.0),
        make("Sigmoid", ["n"], ["g"]),
        make("Flatten", ["g"], ["f"]),
        make("Gemm", ["f", "w2"], ["y"], "last"),
    ]
    held = {f"w{at}": array for at, array in enumerate(w)} | {
        "b": rng.standard_normal(4),
        "s": np.array([1.0, 2, -3]),
        "z": np.zeros(3),
        "v": np.array([4.0, 1, 1]),
    }
    return model(nodes, {"x": (1, 2, 12, 12)}, ["y"], held, kind=DOUBLE), w


def quotients(path: str, shape: tuple[int, ...], pairs: int = 12) -> Any:
    """‖f(a) − f(b)‖ / ‖a − b‖ of pairs near and far."""
    rng, session = RNG(3), ReferenceEvaluator(path)

    def made(x: Any) -> Any:
        return np.concatenate([np.ravel(y) for y in session.run(None, {"x": x})])

    found = []
    for at in range(pairs):
        a, move = rng.standard_normal((2, *shape))
        b = a + 10.0 ** (at % 4 - 3) * move
        found.append(np.linalg.norm(made(a) - made(b)) / np.linalg.norm(a - b))
    return np.array(found)


def test_a_chain_is_the_product_of_its_factors(folder: Path) -> None:
    path, w = chain(folder)
    spectra = [
        cm.spectrum_of(np.moveaxis(w[0], 1, -1), (12, 12, 2), padding=1),
        cm.spectrum_of(np.moveaxis(w[1], 1, -1), (6, 6, 4), stride=2, padding=1),
        cm.spectrum_of(w[2].T[:, None], (1, 27)),
    ]
    pool, normalization, sigmoid = 2, 3, 0.25
    bound = bound_of(path)
    assert bound == pytest.approx(cm.chain_bound(spectra) * pool * normalization * sigmoid)
    measured = quotients(path, (1, 2, 12, 12))
    assert (measured > 0).all()
    assert (measured <= bound).all()


def test_branches_add_up(folder: Path) -> None:
    """Sums, and values side by side, of linear layers: no more than the norm of all, and no less."""
    rng, make = RNG(9), helper.make_node
    held = {"a": rng.standard_normal((4, 4)), "b": rng.standard_normal((4, 3)), "k": np.array([2.0])}
    nodes = [
        make("MatMul", ["x", "a"], ["xa"], "a"),
        make("Add", ["xa", "x"], ["sum"]),
        make("MatMul", ["sum", "b"], ["xb"], "b"),
        make("Mul", ["x", "k"], ["twice"]),
        make("Concat", ["xb", "twice"], ["y"], axis=1),
    ]
    path = model(nodes, {"x": (1, 4)}, ["y", "twice"], held, kind=DOUBLE)
    a, b = (np.linalg.norm(held[name], 2) for name in "ab")
    side = math.hypot((a + 1) * b, 2)
    assert bound_of(path) == pytest.approx(math.hypot(side, 2))
    assert np.linalg.norm(jacobian(path, np.zeros((1, 4))), 2) <= math.hypot(side, 2)


def test_sizes_that_the_graph_works_out_are_no_obstacle(folder: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["s"]),
        make("Gather", ["s", "zero"], ["n"]),
        make("Concat", ["n", "minus"], ["to"], axis=0),
        make("Reshape", ["x", "to"], ["y"]),
    ]
    held = {"zero": np.array([0]), "minus": np.array([-1])}
    assert bound_of(model(nodes, {"x": (2, 3, 4)}, ["y"], held)) == pytest.approx(1)


STOPS: dict[str, tuple[list[Any], str, str]] = {
    "gate": ([("Sigmoid", "x", "g"), ("Mul", "x g", "y")], "Mul", "both depend"),
    "quotient": ([("Exp", "c", "e"), ("Div", "c x", "y")], "Div", "divides by a value"),
    "unknown": ([("Exp", "x", "y")], "Exp", "nothing is known"),
    "first of two": ([("Exp", "x", "e"), ("Relu", "e", "r"), ("Mul", "r x", "y")], "Exp", "nothing is known"),
    "products": ([("MatMul", "x x", "y")], "MatMul", "both depend on"),
    "rounded": ([("Round", "x", "y")], "Round", "rounds"),
    "noise": ([("RandomNormalLike", "x", "n"), ("Add", "x n", "y")], "RandomNormalLike", "nothing is known"),
    "indices": ([("MaxPool", "p", "m y")], "MaxPool", "first output"),
    "by zero": ([("Div", "x none", "y")], "Div", "by 0"),
}


@pytest.mark.parametrize("case", STOPS)
def test_where_the_bound_ends_is_told(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, op, why = STOPS[case]
    nodes = [
        helper.make_node(kind, names.split(), made.split(), f"node {at}", **_OPTIONS.get(kind, {}))
        for at, (kind, names, made) in enumerate(lines)
    ]
    nodes.insert(0, helper.make_node("Unsqueeze", ["x", "axes"], ["p"]))
    held = {"c": np.ones((4, 4), np.float32), "axes": np.array([0, 1]), "none": np.zeros(4, np.float32)}
    path = model(nodes, {"x": (4, 4)}, ["y"], held)
    stop = bound_of(path)
    assert isinstance(stop, Stop), stop
    assert (stop.op, why in stop.why) == (op, True), stop
    if case == "products":
        assert run(["network", path, "--spectrum"]) == 0
        out = capsys.readouterr().out
        assert f"unknown: at {op} 'node 0' its factors both depend on the network's input" in out


_OPTIONS: dict[str, dict[str, Any]] = {"MaxPool": {"kernel_shape": [2, 2]}}


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "stride 0": ("MaxPool", {"kernel_shape": [2, 2], "strides": [0, 1]}),
    "too few strides": ("AveragePool", {"kernel_shape": [2, 2], "strides": [1]}),
    "no kernel": ("MaxPool", {}),
    "no such axis": ("Gather", {"axis": 9}),
    "no such padding": ("Pad", {"mode": "cubic"}),
    "much padding": ("Pad", {"mode": "edge"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nodes_that_make_no_sense_are_told(case: str, folder: Path) -> None:
    op, options = HOSTILE[case]
    held = {"Gather": [np.array([0])], "Pad": [np.array([0] * 7 + [1 << 60])]}.get(op, [])
    stop = bound_of(node_of(op, (1, 1, 4, 4), *held, **options))
    assert isinstance(stop, Stop)
    assert re.search(r"^its (attributes and sizes make no|sizes are not known|pads are too wide)", stop.why)


def test_weights_that_make_no_sense_are_told(folder: Path) -> None:
    scales = helper.make_node("ConvInteger", ["x", "w", "", "z"], ["y"], "layer")
    held = {"w": weights(3, 2, 3, 3, dtype=np.int8), "z": np.array([1, 2], np.int8)}
    path = model([scales], {"x": (1, 2, 5, 5)}, ["y"], held, kind=onnx.TensorProto.UINT8)
    assert stretches(path)[1]["y"].why == "it has 3 filters, and 2 scales or zero points"
    for w in (np.float32(1), np.zeros((4, 0), np.float32), np.array([["a"]])):
        why = stretches(product("MatMul", (2, 4), np.asarray(w)))[1]["y"].why
        assert re.search("no matrix|no numbers", why or ""), why


def test_parts_that_no_output_needs_do_not_matter(folder: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Relu", ["x"], ["y"])]
    assert bound_of(model(nodes, {"x": (4,)}, ["y"])) == pytest.approx(1)


def test_layers_without_a_spectrum_say_why(folder: Path) -> None:
    conv = helper.make_node("Conv", ["x", "v"], ["y"], "layer")
    network, found = stretches(model([conv], {"x": (1, 2, 4, 4), "v": (3, 2, 3, 3)}, ["y"]))
    assert found["y"].why == "its weights depend on the network's input"
    assert lipschitz_bound(network, found) == Stop("layer", "Conv", found["y"].why or "")
    bad = weights(3, 2, 3, 3)
    bad[0, 0, 0, 0] = np.inf
    assert stretches(one("Conv", (1, 2, 4, 4), bad))[1]["y"].why == "its weights are not finite"
    _, found = stretches(one("Conv", ("n", 2, "h", "w"), weights(3, 2, 3, 3)))  # type: ignore[arg-type]
    assert found["y"].why == "its sizes are not known; give --input-shape"
    shared = one("MatMul", (1, 2, 4), weights(3, 4, 5))
    assert stretches(shared)[1]["y"].why == "several matrices meet the same numbers in it"


# The command


def test_the_row_and_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    plain, found = told(TINY, capsys), told(f"{TINY} --spectrum", capsys)
    assert plain.keys() == found.keys()
    assert (plain["lipschitz_bound"], plain["lipschitz_stop"]) == (None, None)
    for bare, layer in zip(plain["layers"], found["layers"], strict=True):
        assert bare.keys() == layer.keys()
        assert (bare["spectrum"], bare["why_no_spectrum"]) == (None, None)
        assert layer["spectrum"]["spectral_norm"] <= layer["spectrum"]["spectral_norm_upper"]
    of = {layer["name"]: layer["spectrum"]["spectral_norm_upper"] for layer in found["layers"]}
    mean = 1 / 14
    whole = of["first"] * (of["grouped"] + of["shortcut"]) * mean * of["digits"]
    assert found["lipschitz_bound"] == pytest.approx(whole)
    assert found["lipschitz_stop"] is None

    assert found["layers"][0]["spectrum"]["matrix_shape"] == [6272, 784]


def test_the_table_of_spectra_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", TINY, "--spectrum"]) == 0
    out = capsys.readouterr().out
    lines = out[out.index("singular values") :].splitlines()
    assert max(map(len, lines)) <= 80
    assert "│ Lipschitz constant │ at most 18.5" in out
    assert run(["network", TINY, "--spectrum", "--brief"]) == 0
    assert capsys.readouterr().out.startswith("3 CONV layers, 632 weights, 225,872 multiply-adds, Lipschitz")


def test_weights_alone_need_a_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = weights(4, 2, 3, 3)
    header = json.dumps({"w": {"dtype": "F32", "shape": list(w.shape), "data_offsets": [0, w.nbytes]}})
    Path("w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + w.tobytes())
    assert run(["network", "w.safetensors", "--spectrum"]) == 2
    assert "--spectrum of .safetensors goes with --input-shape" in capsys.readouterr().err
    [row] = told("w.safetensors --spectrum --input-shape 1,2,8,8", capsys)["layers"]
    expected = cm.spectrum_of(np.moveaxis(w, 1, -1), (8, 8, 2))
    assert expected is not None
    assert row["spectrum"]["spectral_norm"] == pytest.approx(expected.largest)
    [row] = told("w.safetensors --spectrum --input-shape 1,3,8,8", capsys)["layers"]
    assert row["why_no_spectrum"] == "an input of that shape does not fit it"


@pytest.mark.slow
def test_the_pretrained_network_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The singular values that docs/networks.md shows, where the package with the network is installed."""
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        pytest.skip("rapidocr_onnxruntime is not installed")
    name = str(Path(spec.origin).parent / "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    assert run(["network", name, "--input-shape", "1,3,48,192", "--spectrum"]) == 0
    out = capsys.readouterr().out
    page = (SAMPLES.parent / "docs/networks.md").read_text()
    shown = re.findall(r"^│ Conv@.*$", page, re.MULTILINE)
    assert len(shown) == 6
    assert all(line in out for line in shown)
    assert "unknown: at Mul 'Mul@0' it multiplies values that both depend on the network's input" in out


@pytest.mark.parametrize(("name", "ends_in"), [("squeezenet", None), ("bvlc_alexnet", "LRN")])
def test_light_models_are_bounded(name: str, ends_in: str | None, folder: Path) -> None:
    """A network of branches that are joined has a constant; of normalization over channels none is known."""
    path = LIGHT / f"light_{name}.onnx"
    network = Model(str(path))
    network.infer({})
    nothing = Stretch(spectrum.dense_spectrum(np.ones((1, 1))), (1, 1))
    found = lipschitz_bound(
        network, {node.output[0]: nothing for node in network.nodes if node.op_type in FULL}
    )
    assert (found.op if isinstance(found, Stop) else None) == ends_in


FULL = ("Conv", "Gemm")
