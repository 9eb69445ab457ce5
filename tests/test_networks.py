"""The two networks: against the engine, finite differences, each other, and torch's autograd where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convmat as cm
from convmat.experiment.networks import Convolution, Dense, Network, he_uniform, mean_squared_error
from tests.strategies import RULES

Case = tuple[cm.ConvGeometry, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A geometry over small images, and a number of filters."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    rule = draw(st.sampled_from(RULES) | st.tuples(pair, pair))
    kernel, stride, dilation = draw(pair), draw(pair), draw(st.integers(1, 2))
    size = [draw(st.integers(dilation * (k - 1) + 1, 7)) for k in kernel]
    shape = (draw(st.integers(1, 3)), *size, draw(st.integers(1, 3)))
    return cm.ConvGeometry(shape, kernel, stride, rule, dilation), draw(st.integers(1, 4))


def networks(
    case: Case, dtype: Any = np.float64, seed: int = 0
) -> tuple[dict[str, Network], dict[str, Any], Any]:
    """Both networks with the same weights, the input of each, and targets."""
    geometry, filters = case
    rng = np.random.default_rng(0)
    w_col = he_uniform((geometry.terms, filters), rng, dtype)
    pixels = int(np.prod(geometry.input_shape[1:]))
    dense = he_uniform((geometry.patches * filters, pixels), rng, dtype)
    x = rng.random(geometry.input_shape).astype(dtype)
    x_col = cm.unroll(x, geometry.kernel_size, geometry.stride, geometry.pads, geometry.dilation)
    both = {
        "cnn": Network(Convolution(geometry, w_col.copy()), Dense(dense.copy())),
        "fc": Network(Dense(w_col.copy()), Dense(dense.copy())),
    }
    return both, {"cnn": x, "fc": x_col}, rng.random((len(x), pixels)).astype(dtype)


@settings(max_examples=60)
@given(cases())
def test_convolution_is_the_engines(case: Case) -> None:
    geometry, filters = case
    rng = np.random.default_rng(1)
    kernels = rng.integers(-3, 4, (filters, *geometry.kernel_size, geometry.channels)).astype(float)
    x = rng.integers(-3, 4, geometry.input_shape).astype(float)
    layer = Convolution(geometry, cm.flatten_filters(kernels))
    where = (geometry.stride, geometry.pads, geometry.dilation)
    np.testing.assert_array_equal(layer.forward(x), cm.convolve(x, kernels, *where))
    # Its gradient is X_colᵀ · ∂L/∂Y: whole numbers, so exactly.
    dy = rng.integers(-3, 4, (geometry.batch, *geometry.output_size, filters)).astype(float)
    layer.backward(dy)
    x_col = cm.unroll(x, geometry.kernel_size, *where)
    np.testing.assert_array_equal(layer.gradient, x_col.T @ dy.reshape(-1, filters))


@settings(max_examples=60)
@given(cases())
def test_the_networks_agree(case: Case) -> None:
    both, inputs, target = networks(case)
    outputs = {name: network.forward(inputs[name]) for name, network in both.items()}
    np.testing.assert_allclose(outputs["cnn"], outputs["fc"], rtol=1e-12, atol=1e-14)
    losses = [both[name].backward(target) for name in both]
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)
    for layer in ("first", "dense"):
        ours, others = (network.layers[layer].gradient for network in both.values())
        np.testing.assert_allclose(ours, others, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["cnn", "fc"])
@pytest.mark.parametrize("padding", ["valid", "same", ((2, 0), (1, 3))])
def test_gradients_are_differences(name: str, padding: Any) -> None:
    """Central differences of the loss, for every weight of the first layer and some of the second."""
    both, inputs, target = networks((cm.ConvGeometry((3, 6, 5, 2), (3, 2), 2, padding), 3))
    network, x, h = both[name], inputs[name], 1e-6

    def loss() -> float:
        return mean_squared_error(network.forward(x), target)[0]

    network.forward(x)
    network.backward(target)
    for layer in network.layers.values():
        gradient = layer.gradient.copy()
        assert np.abs(gradient).max() > 1e-3
        for index in list(np.ndindex(*gradient.shape))[:: max(gradient.size // 60, 1)]:
            kept = layer.weights[index]
            layer.weights[index] = kept + h
            above = loss()
            layer.weights[index] = kept - h
            below = loss()
            layer.weights[index] = kept
            assert gradient[index] == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_agrees(dtype: str) -> None:
    """Outputs, loss and gradients of torch's conv2d network from the same weights."""
    torch = pytest.importorskip("torch")
    geometry = cm.ConvGeometry((4, 12, 10, 3), (3, 2), 2, ((1, 1), (2, 2)))
    both, inputs, target = networks((geometry, 5), dtype)
    cnn = both["cnn"]
    kernels = cnn.first.weights.reshape(3, 2, 3, 5).transpose(3, 2, 0, 1).copy()
    w, dense = (torch.tensor(a, requires_grad=True) for a in (kernels, cnn.dense.weights))
    image = torch.tensor(inputs["cnn"].transpose(0, 3, 1, 2).copy())
    hidden = torch.relu(torch.nn.functional.conv2d(image, w, stride=2, padding=(1, 2)))
    output = torch.relu(hidden.permute(0, 2, 3, 1).reshape(4, -1) @ dense)
    loss = ((output - torch.tensor(target)) ** 2).mean()
    loss.backward()
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for name, network in both.items():
        np.testing.assert_allclose(network.forward(inputs[name]), output.detach(), rtol=tolerance, atol=1e-6)
        assert network.backward(target) == pytest.approx(loss.item(), rel=tolerance)
        first = w.grad.permute(2, 3, 1, 0).reshape(-1, 5)
        for layer, theirs in ((network.first, first), (network.dense, dense.grad)):
            scale = float(theirs.abs().max())
            np.testing.assert_allclose(layer.gradient, theirs, rtol=0, atol=tolerance * scale)


def test_initial_weights() -> None:
    """Uniform in ±sqrt(6 / inputs), and the same numbers in both dtypes."""
    w = he_uniform((24, 4000), np.random.default_rng(0), np.float32)
    assert w.dtype == np.float32
    assert np.abs(w).max() <= np.float32(0.5)
    assert w.std() == pytest.approx(0.5 / np.sqrt(3), rel=0.01)
    np.testing.assert_array_equal(w, he_uniform((24, 4000), np.random.default_rng(0), np.float64))
