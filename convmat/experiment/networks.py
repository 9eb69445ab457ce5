"""The two networks: the same but for the first layer, a convolution by its definition or dense on X_col.

Arrays are float32 or float64 and keep their dtype. Weights are two matrices in both networks: W_col
(kh·kw·C, K) of the first layer and W (P·K, H·W·C) of the second, so that they can be compared entry by entry.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import ConvGeometry
from convmat.threads import thread_count

_CHUNK_BYTES = 1 << 19  # of a convolution's output, worked on at one time: within a core's cache
_DRAWN = 1 << 20  # numbers drawn at a time

NETWORKS = ("cnn", "fc")


class Layer(Protocol):
    """A linear layer: its weights, and after `backward` their gradient."""

    weights: NDArray[Any]
    gradient: NDArray[Any]

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """The layer's output; its input is kept for `backward`."""

    def backward(self, dy: NDArray[Any]) -> None:
        """Write the gradient of the weights, where `dy` is the loss's gradient by the output."""


class Convolution:
    """The first layer of the CNN, tap by tap from the definition; no matrix of patches is made.

    Y[n, y, x, k] = Σ_ijc X[n, y·S_h + i·D_h − P_top, x·S_w + j·D_w − P_left, c] · W[i, j, c, k]
    and ∂L/∂W[i, j, c, k] is the sum over n, y, x of the same pixel times ∂L/∂Y[n, y, x, k].

    Args:
        geometry: of the images, whatever its N.
        weights: (kh·kw·C, K), rows over (i, j, c); updated in place.
    """

    def __init__(self, geometry: ConvGeometry, weights: NDArray[Any]) -> None:
        self.geometry = geometry
        self.weights = weights
        self.gradient = np.empty_like(weights)
        self._x = np.empty(0)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """Images (N, H, W, C) to (N, H_out, W_out, K)."""
        self._x = np.pad(x, ((0, 0), *self.geometry.pads, (0, 0)))
        y = np.empty((len(x), *self.geometry.output_size, self.weights.shape[1]), x.dtype)
        with ThreadPoolExecutor(thread_count()) as pool:  # chunk by chunk, so that threads do not show
            list(pool.map(lambda images: self._sum_of_taps(images, y[images]), self._chunks(y)))
        return y

    def _sum_of_taps(self, images: slice, y: NDArray[Any]) -> None:
        filters = self._by_tap(self.weights)
        product = np.empty_like(y)
        y.fill(0)
        with np.errstate(all="ignore"):  # a thread does not inherit it
            for i, j in np.ndindex(self.geometry.kernel_size):
                pixels = self._pixels(images, i, j)
                for c in range(self.geometry.channels):
                    np.multiply(pixels[..., c, None], filters[i, j, c], out=product)
                    y += product

    def backward(self, dy: NDArray[Any]) -> None:
        """Write the gradient of the weights; `dy` is (N, H_out, W_out, K)."""
        self.gradient.fill(0)
        gradient = self._by_tap(self.gradient)
        for images in self._chunks(dy):
            by_position = dy[images].reshape(-1, dy.shape[-1])
            for i, j in np.ndindex(self.geometry.kernel_size):
                pixels = self._pixels(images, i, j).reshape(-1, self.geometry.channels)
                gradient[i, j] += pixels.T @ by_position

    def _by_tap(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return matrix.reshape(*self.geometry.kernel_size, self.geometry.channels, -1)

    def _pixels(self, images: slice, i: int, j: int) -> NDArray[Any]:
        """The pixel (n, H_out, W_out, C) that tap (i, j) sees from each position."""
        rows, columns = (
            slice(tap * d, tap * d + (out - 1) * s + 1, s)
            for tap, d, s, out in zip(
                (i, j), self.geometry.dilation, self.geometry.stride, self.geometry.output_size, strict=True
            )
        )
        return self._x[images, rows, columns]

    def _chunks(self, y: NDArray[Any]) -> list[slice]:
        step = max(_CHUNK_BYTES * len(y) // max(y.nbytes, 1), 1)
        return [slice(start, start + step) for start in range(0, len(y), step)]


class Dense:
    """A dense layer without bias, Y = X · W; ∂L/∂W = Xᵀ · ∂L/∂Y and ∂L/∂X = ∂L/∂Y · Wᵀ.

    Args:
        weights: (inputs, outputs); updated in place.
    """

    def __init__(self, weights: NDArray[Any]) -> None:
        self.weights = weights
        self.gradient = np.empty_like(weights)
        self._x = np.empty(0)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """(rows, inputs) to (rows, outputs)."""
        self._x = x
        return np.asarray(x @ self.weights)

    def backward(self, dy: NDArray[Any]) -> None:
        """Write the gradient of the weights; `dy` is (rows, outputs)."""
        np.matmul(self._x.T, dy, out=self.gradient)

    def input_gradient(self, dy: NDArray[Any]) -> NDArray[Any]:
        """The loss's gradient by the input, (rows, inputs)."""
        return np.asarray(dy @ self.weights.T)


class Network:
    """First layer → ReLU → flatten → Dense → ReLU, which learns to give the image back.

    Args:
        first: `Convolution` on images (N, H, W, C), or `Dense` on their rows of X_col, (N·P, kh·kw·C).
        dense: (P·K, H·W·C) → the image, (N, H·W·C).
    """

    def __init__(self, first: Layer, dense: Dense) -> None:
        self.first = first
        self.dense = dense

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers that have weights, by the names that files give them."""
        return {"first": self.first, "dense": self.dense}

    @np.errstate(all="ignore")  # what overflows is seen in the loss
    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """The input of the first layer to images (N, H·W·C)."""
        self._hidden = _relu(self.first.forward(x))
        flat = self._hidden.reshape(-1, len(self.dense.weights))
        self._output = _relu(self.dense.forward(flat))
        return self._output

    def backward(self, target: NDArray[Any]) -> float:
        """The loss of the last `forward`, whose gradients go to the layers; `target` is (N, H·W·C)."""
        loss, dy = mean_squared_error(self._output, target)
        dy = _through_relu(dy, self._output)
        self.dense.backward(dy)
        hidden = self.dense.input_gradient(dy).reshape(self._hidden.shape)
        self.first.backward(_through_relu(hidden, self._hidden))
        return loss


def mean_squared_error(output: NDArray[Any], target: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """L = Σ(output − target)² / size, summed in float64, and its gradient 2·(output − target) / size."""
    difference = output - target
    loss = float(np.square(difference).sum(dtype=np.float64)) / max(difference.size, 1)
    difference *= 2 / max(difference.size, 1)
    return loss, difference


def _relu(x: NDArray[Any]) -> NDArray[Any]:
    """max(x, 0), in the same memory."""
    return np.asarray(np.maximum(x, 0, out=x))


def _through_relu(dy: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """The gradient before a ReLU whose output was `y`: none where it gave 0; in the memory of `dy`."""
    np.copyto(dy, 0, where=y == 0)
    return dy


def he_uniform(shape: tuple[int, int], rng: np.random.Generator, dtype: Any) -> NDArray[Any]:
    """Initial weights, uniform in ±sqrt(6 / inputs) (He et al., 2015).

    Drawn in float32 whatever the dtype, so that runs in float32 and float64 begin with the same numbers; some
    rows at a time, which are the numbers of one draw.
    """
    limit = np.float32(np.sqrt(6 / shape[0]))
    weights = np.empty(shape, dtype)
    step = max(_DRAWN // shape[1], 1)
    for start in range(0, shape[0], step):
        rows = weights[start : start + step]
        rows[...] = (2 * rng.random(rows.shape, np.float32) - 1) * limit
    return weights
