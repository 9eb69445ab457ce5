"""SGD and Adam, in place: a piece of each matrix at a time, and all of the formula on it.

17 million weights do not fit in a core's cache; a formula written over whole matrices would fetch them from
memory again for each of its operations, and its intermediates would be as large as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 1 << 15  # numbers of each matrix: Adam's four, and intermediates, fit in a core's cache

Matrices = Sequence[NDArray[Any]]


def pieces(*matrices: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Matrices of one shape, in C order, as matching pieces of them: views to read and to write."""
    flat = [matrix.reshape(-1) for matrix in matrices]
    for start in range(0, len(flat[0]), PIECE):
        yield tuple(values[start : start + PIECE] for values in flat)


class SGD:
    """Stochastic gradient descent: w ← w − lr·g."""

    def __init__(self, weights: Matrices, lr: float) -> None:
        self.weights = weights
        self.lr = lr

    def step(self, gradients: Matrices) -> None:
        """Move the weights against their gradients."""
        for number, (matrix, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            for (w,), (move, _) in zip(pieces(matrix), self.moves(number, gradient), strict=True):
                w -= move

    def moves(self, number: int, gradient: NDArray[Any]) -> Iterator[tuple[NDArray[Any], None]]:
        """What a step subtracts from matrix `number`, piece by piece."""
        for (g,) in pieces(gradient):
            yield self.lr * g, None


class Adam:
    """Adam (Kingma & Ba, 2015, Algorithm 1).

    m ← β1·m + (1 − β1)·g, v ← β2·v + (1 − β2)·g², w ← w − lr·m̂ / (√v̂ + ε) with m̂ = m / (1 − β1^t) and
    v̂ = v / (1 − β2^t).
    """

    def __init__(
        self, weights: Matrices, lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        self.weights = weights
        self.lr = lr
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.t = 0
        self.m = [np.zeros_like(w) for w in weights]
        self.v = [np.zeros_like(w) for w in weights]

    def step(self, gradients: Matrices) -> None:
        """Move the weights against their gradients' mean, each by its own gradient's size."""
        self.t += 1
        for matrices in zip(self.weights, gradients, self.m, self.v, strict=True):
            for w, g, m, v in pieces(*matrices):
                m *= self.beta1
                m += (1 - self.beta1) * g
                v *= self.beta2
                v += (1 - self.beta2) * np.square(g)
                w -= self._move(m, v)

    def moves(self, number: int, _: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """What the last step subtracted from matrix `number`, and its v, piece by piece."""
        for m, v in pieces(self.m[number], self.v[number]):
            yield self._move(m, v), v

    def _move(self, m: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        size = np.sqrt(v)
        size /= math.sqrt(1 - self.beta2**self.t)
        size += self.epsilon
        return np.asarray(np.divide(self.lr / (1 - self.beta1**self.t) * m, size, out=size))
