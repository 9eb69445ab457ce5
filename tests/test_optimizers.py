"""SGD and Adam: against their formulas written plainly, and against torch where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convmat.experiment.optimizers import PIECE, SGD, Adam

SHAPES = (3, 4), (5, 13_111)  # a piece alone, and several with an odd end
assert 2 * PIECE < 5 * 13_111


def gradients(steps: int, dtype: Any) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(s).astype(dtype) * 0.1 for s in SHAPES] for _ in range(steps)]


def weights(dtype: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(s).astype(dtype) for s in SHAPES]


def test_sgd_is_its_formula() -> None:
    w = weights(float)
    kept = w[1].copy()
    optimizer = SGD(w, 0.3)
    for g in gradients(4, float):
        optimizer.step(g)
        kept = kept - 0.3 * g[1]
        np.testing.assert_array_equal(w[1], kept)


def test_adam_is_its_algorithm() -> None:
    """Algorithm 1 of Kingma & Ba, line by line."""
    w = weights(float)
    theta, m, v = w[1].copy(), np.zeros(SHAPES[1]), np.zeros(SHAPES[1])
    optimizer = Adam(w, 0.01)
    for t, g in enumerate(gradients(6, float), 1):
        optimizer.step(g)
        m = 0.9 * m + 0.1 * g[1]
        v = 0.999 * v + 0.001 * g[1] ** 2
        theta = theta - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(w[1], theta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_moves_are_what_a_step_subtracts(kind: Callable[..., SGD | Adam]) -> None:
    w = weights(float)
    optimizer = kind(w, 0.01)
    for g in gradients(3, float):
        before = [a.copy() for a in w]
        optimizer.step(g)
        for number, (old, new) in enumerate(zip(before, w, strict=True)):
            moved = np.concatenate([move for move, _ in optimizer.moves(number, g[number])])
            np.testing.assert_array_equal(new.ravel(), old.ravel() - moved)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_dtype_is_kept(kind: Callable[..., SGD | Adam]) -> None:
    w = weights(np.float32)
    optimizer = kind(w, 0.01)
    for g in gradients(2, np.float32):
        optimizer.step(g)
    assert all(a.dtype == np.float32 for a in w)
    assert all(move.dtype == np.float32 for move, _ in optimizer.moves(0, g[0]))


@pytest.mark.parametrize(("kind", "name"), [(SGD, "SGD"), (Adam, "Adam")])
def test_torch_agrees(kind: Callable[..., SGD | Adam], name: str) -> None:
    torch = pytest.importorskip("torch")
    w = weights(float)
    theirs = [torch.tensor(a.copy(), requires_grad=True) for a in w]
    optimizer, other = kind(w, 0.01), getattr(torch.optim, name)(theirs, lr=0.01)
    for g in gradients(10, float):
        optimizer.step(g)
        for tensor, gradient in zip(theirs, g, strict=True):
            tensor.grad = torch.tensor(gradient)
        other.step()
    for ours, tensor in zip(w, theirs, strict=True):
        np.testing.assert_allclose(ours, tensor.detach(), rtol=1e-10)
