"""Convolutions by transforms, and what their rounding errors come to: Winograd's, tile by tile; Fourier's.

Both are bounded by γ_n·E, where E takes the place of the plain bound's A = |X_col|·|W_col|: what becomes of
it when magnitudes go through the transform. Neither is exact for whole numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.axis import padding_source
from convmat.errors import SettingError
from convmat.geometry import ConvGeometry
from convmat.verification.numbers import magnitude

Array = NDArray[Any]
Band = Sequence[slice]

# Where kernels evaluate, besides at ∞, by how many points they need.
_USUAL: dict[int, list[tuple[float, ...]]] = {
    2: [(0, 1), (0, -1)],
    3: [(0, 1, -1)],
    4: [(0, 1, -1, p) for p in (2, -2, 0.5, -0.5)],
    5: [(0, 1, -1, p, q) for p, q in ((2, -2), (0.5, -0.5), (2, -0.5), (-2, 0.5))],
    6: [(0, 1, -1, 2, -2, p) for p in (0.5, -0.5)] + [(0, 1, -1, 0.5, -0.5, p) for p in (2, -2)],
    7: [(0, 1, -1, 2, -2, 0.5, -0.5)],
}
_WEIGHTS = 1 << 20  # that are transformed at a time
_POINTS = max(_USUAL) + 1


class Layer(NamedTuple):
    """What is convolved."""

    x: Array
    filters: Array
    geometry: ConvGeometry
    groups: int
    padding_mode: str


class Tiles:
    """A transform."""

    @property
    def words(self) -> str:
        """What is done, to go on from "equal as"."""
        raise NotImplementedError

    def check(self, geometry: ConvGeometry) -> None:
        """Raise SettingError for a layer that it does not convolve."""

    def roundings(self, geometry: ConvGeometry) -> int:
        """n of γ_n, without the bias."""
        raise NotImplementedError

    def amplification(self, geometry: ConvGeometry) -> float:
        """How many times what is flushed to zero on the way may come to in the result, times an operand."""
        raise NotImplementedError

    def sizes(self, layer: Layer) -> Callable[[Band], Array]:
        """From a band, as `reference.convolve_by_taps` has it, to E of its outputs, without the bias."""
        raise NotImplementedError

    def squares(self, layer: Layer) -> list[Callable[[Band], Array]]:
        """As `sizes`, to how the squares of usual errors spread over outputs; one for each way to do it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Winograd(Tiles):
    """F(m×m, r×r) of Lavin & Gray, 2016: m outputs a tile along each axis, by m + r − 1 products.

    Barabasz et al. 2018 (arXiv 1803.10986) for two dimensions: the error of each output is at most
    γ_n·|Aᵀ|(|G||w||Gᵀ| ⊙ |Bᵀ||x||B|)|A|, summed over channels. Tiles are counted from the first output, and
    Toom and Cook's points are 0, ±1, ∞, and as many of ±2, ±1/2 as are needed: of the usual choices the
    largest E is taken. It does not change with the scaling of A, B and G. With t = m + r − 1, n has along
    each axis two sums of t terms and one of r, each with a constant that may be rounded, and then a sum
    over channels.
    """

    m: int

    @property
    def words(self) -> str:
        return f"Winograd's F({self.m}×{self.m})"

    def __str__(self) -> str:
        return (
            f"{self.words}, at 0, ±1, ±2, ±1/2 and ∞; accepts errors of up to "
            "γ_n·|Aᵀ|(|G||w||Gᵀ| ⊙ |Bᵀ||x||B|)|A|, more than those of sums: exact probes tell the rest"
        )

    def _along(self, geometry: ConvGeometry) -> list[tuple[int, int, int]]:
        """(m, r, t) of each axis; a kernel of 1 is no transform."""
        return [(self.m if r > 1 else 1, r, (self.m if r > 1 else 1) + r - 1) for r in geometry.kernel_size]

    def check(self, geometry: ConvGeometry) -> None:
        """Raise SettingError for strides, dilations and kernels that it is not for."""
        problem = ""
        if any(s != 1 for s in geometry.stride) or any(d != 1 for d in geometry.dilation):
            problem = "is for strides and dilations of 1"
        elif math.prod(geometry.kernel_size) == 1:
            problem = "is for kernels larger than 1"
        elif any(t > _POINTS for _, _, t in self._along(geometry)):
            most = _POINTS + 1 - self.m
            problem = f"is for kernels of at most {most}, where its usual points end"
        if problem:
            size = "×".join(map(str, geometry.kernel_size))
            raise SettingError(
                "arithmetic",
                f"winograd:{self.m} {problem}; got a kernel of {size}, stride {geometry.stride}, "
                f"dilation {geometry.dilation}",
            )

    def roundings(self, geometry: ConvGeometry) -> int:
        channels = geometry.terms // math.prod(geometry.kernel_size)
        return channels + sum(r + 1 + 2 * (t + 1) for _, r, t in self._along(geometry))

    def amplification(self, geometry: ConvGeometry) -> float:
        channels = geometry.terms // math.prod(geometry.kernel_size)
        return channels * math.prod(
            max(math.prod(float(np.abs(a).sum(1).max()) for a in one) for one in _at_usual_points(m, r))
            for m, r, _ in self._along(geometry)
        )

    def sizes(self, layer: Layer) -> Callable[[Band], Array]:
        each = [self._tiled(layer, choice, np.abs, np.positive) for choice in self._choices(layer.geometry)]
        return lambda band: reduce(np.maximum, (of_band(band) for of_band in each))

    def squares(self, layer: Layer) -> list[Callable[[Band], Array]]:
        return [
            self._tiled(layer, choice, np.positive, np.square) for choice in self._choices(layer.geometry)
        ]

    def _choices(self, geometry: ConvGeometry) -> list[list[_Matrices]]:
        """The matrices of each axis, in each way to choose points; axes that are alike have the same."""
        along = [(m, r) for m, r, _ in self._along(geometry)]
        kinds = list(dict.fromkeys(along))
        ways = itertools.product(*(_at_usual_points(*kind) for kind in kinds))
        return [[way[kinds.index(kind)] for kind in along] for way in ways]

    def _tiled(
        self,
        layer: Layer,
        choice: Sequence[_Matrices],
        before: Callable[[Array], Array],
        between: Callable[[Array], Array],
    ) -> Callable[[Band], Array]:
        """The transform with `before` made of all numbers first, and `between` of what meets and of Aᵀ."""
        x, filters, geometry, groups, padding_mode = layer
        along = self._along(geometry)
        axes, steps, widths = len(along), [m for m, _, _ in along], [t for _, _, t in along]
        pads = tuple(
            (first, last + -out % m)
            for (first, last), out, m in zip(geometry.pads, geometry.output_size, steps, strict=True)
        )
        weights = filters.reshape(groups, -1, *filters.shape[1:])
        weights = np.moveaxis(weights, (*range(2, 2 + axes), -1), (*range(axes), -2))  # (r…, groups, c, k)
        few = max(_WEIGHTS // (math.prod(widths) * x.shape[-1]), 1)
        parts = np.array_split(weights, range(few, weights.shape[-1], few), -1)

        def transformed(part: Array) -> Array:
            return between(_through(before(part.astype(np.float64)), [before(one.g) for one in choice]))

        def of_band(band: Band) -> Array:
            lines = _outputs(band, geometry)
            tiles = [slice(line.start // m, -(-line.stop // m)) for line, m in zip(lines, steps, strict=True)]
            patches = reference.unroll_by_taps(
                x, widths, steps, pads, padding_mode=padding_mode, band=(*band[:1], *tiles)
            )
            v = before(patches.astype(np.float64)).reshape(-1, *widths, groups, x.shape[-1] // groups)
            v = np.moveaxis(v, 0, -2)  # (t…, groups, tile, c)
            v = between(_through(v, [before(one.b) for one in choice]))
            a_t = [between(before(one.a)) for one in choice]
            e = np.concatenate([_through(v @ transformed(part), a_t) for part in parts], -1)
            counts = [tile.stop - tile.start for tile in tiles]
            e = e.reshape(*steps, groups, -1, *counts, e.shape[-1])  # (m…, groups, n, tile…, k)
            order = [i for axis in range(axes) for i in (axes + 2 + axis, axis)]
            e = e.transpose(axes + 1, *order, axes, e.ndim - 1)
            e = e.reshape(len(e), *(q * m for q, m in zip(counts, steps, strict=True)), len(filters))
            kept = (
                slice(line.start - tile.start * m, line.stop - tile.start * m)
                for line, tile, m in zip(lines, tiles, steps, strict=True)
            )
            return e[(slice(None), *kept)]

        return of_band


class _Matrices(NamedTuple):
    """The transforms of F(m, r): of outputs, filters and inputs."""

    a: Array
    """Aᵀ, m × t."""
    g: Array
    """G, t × r."""
    b: Array
    """Bᵀ, t × t."""

    @classmethod
    def at(cls, points: Sequence[float], m: int, r: int) -> _Matrices:
        """Toom-Cook's at these points and ∞: the transpose of evaluating, multiplying and interpolating."""
        t = m + r - 1

        def powers(count: int) -> Array:
            at_infinity = np.eye(count)[-1:]
            return np.vstack([np.vander(points, count, increasing=True), at_infinity])

        return cls(powers(m).T, powers(r), np.linalg.inv(powers(t)).T)


@lru_cache
def _at_usual_points(m: int, r: int) -> list[_Matrices]:
    """F(m, r) at each choice of the usual points."""
    finite = m + r - 2
    if finite == 0:
        return [_Matrices(*(np.ones((1, 1)),) * 3)]
    return [_Matrices.at(points, m, r) for points in _USUAL[finite]]


def _through(a: Array, matrices: Sequence[Array]) -> Array:
    """The first axes of an array, each multiplied by a matrix."""
    for axis, matrix in enumerate(matrices):
        a = np.moveaxis(np.tensordot(matrix, a, (1, axis)), 0, axis)
    return a


def _outputs(band: Band, geometry: ConvGeometry) -> list[slice]:
    """The outputs of a band along each spatial axis."""
    given = [*band[1:], *(slice(None),) * (1 + len(geometry.output_size) - max(len(band), 1))]
    return [slice(*line.indices(out)[:2]) for line, out in zip(given, geometry.output_size, strict=True)]


@dataclass(frozen=True)
class Fft(Tiles):
    """Fourier transforms of images and filters, multiplied, and transformed back.

    Higham, 2nd ed., Theorem 24.2: a transform of L numbers is off by at most ε = log₂L·η/(1 − log₂L·η) of
    its norm, η = μ + γ₄·(√2 + μ), below 7u with factors right to u. The product of two, summed over C
    channels and transformed back, is off by at most γ_n·Σ ‖x‖₂·‖w‖₁ over an image's channels, n = 21·log₂L
    + C + 8: three transforms, a complex product and sum. L is twice the padded size, up to a power of 2;
    tiles have less.
    """

    @property
    def words(self) -> str:
        return "products of Fourier transforms"

    def __str__(self) -> str:
        return (
            f"{self.words}; accepts errors of up to γ_n·Σ ‖x‖₂·‖w‖₁ of an image, more than those of sums: "
            "exact probes tell the rest"
        )

    @staticmethod
    def _doublings(geometry: ConvGeometry) -> int:
        """log₂L."""
        padded = (h + sum(pads) for h, pads in zip(geometry.input_size, geometry.pads, strict=True))
        return sum((2 * size - 1).bit_length() for size in padded)

    def roundings(self, geometry: ConvGeometry) -> int:
        channels = geometry.terms // math.prod(geometry.kernel_size)
        return 21 * self._doublings(geometry) + channels + 8

    def amplification(self, geometry: ConvGeometry) -> float:
        return float(geometry.terms * 2 ** self._doublings(geometry))

    def sizes(self, layer: Layer) -> Callable[[Band], Array]:
        x, filters, geometry, _, padding_mode = layer
        norms = np.sqrt(_squared_norms(x, geometry, padding_mode))
        return self._of_images(norms, magnitude(filters).sum(tuple(range(1, filters.ndim - 1))), layer)

    def squares(self, layer: Layer) -> list[Callable[[Band], Array]]:
        # Errors spread evenly over an image.
        x, filters, geometry, _, padding_mode = layer
        mean = _squared_norms(x, geometry, padding_mode) / math.prod(geometry.input_size)
        weights = (magnitude(filters) ** 2).sum(tuple(range(1, filters.ndim - 1)))
        return [self._of_images(mean * self._doublings(geometry), weights, layer)]

    def _of_images(self, pixels: Array, weights: Array, layer: Layer) -> Callable[[Band], Array]:
        """From a band to Σ pixels·weights, which are of images' and of filters' channels."""
        filters = len(layer.filters)
        pixels = pixels.reshape(len(pixels), layer.groups, 1, weights.shape[-1])
        each = (pixels * weights.reshape(layer.groups, -1, weights.shape[-1])).sum(-1)
        each = each.reshape(len(each), *(1 for _ in layer.geometry.output_size), filters)

        def of_band(band: Band) -> Array:
            lengths = [line.stop - line.start for line in _outputs(band, layer.geometry)]
            part = each[tuple(band[:1])]
            return np.broadcast_to(part, (len(part), *lengths, filters))

        return of_band


def _squared_norms(x: Array, geometry: ConvGeometry, padding_mode: str) -> Array:
    """Σ x² of each channel of each image once it is padded."""
    along = zip(geometry.input_size, geometry.pads, strict=True)
    seen = [_times_seen(size, pads, padding_mode) for size, pads in along]
    return np.array([_squares(image, seen) for image in x]).reshape(len(x), x.shape[-1])


def _times_seen(size: int, pads: tuple[int, int], padding_mode: str) -> Array:
    """How often each pixel along an axis is there once the image is padded."""
    if padding_mode == "zeros":
        return np.ones(size)
    return np.bincount(
        padding_source(np.arange(-pads[0], size + pads[1]), size, padding_mode), minlength=size
    )


def _squares(image: Array, seen: Sequence[Array]) -> Array:
    """The sum of squares of each channel, of pixels that are `seen` so often; a line at a time."""
    if len(seen) == 1:
        return np.asarray(seen[0] @ magnitude(image) ** 2)
    return np.asarray(
        sum(often * _squares(line, seen[1:]) for line, often in zip(image, seen[0], strict=True))
    )
