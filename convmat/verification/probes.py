"""Probes: layers of whole numbers whose sums are exact in any order, so that only equality will do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.checks import SEED_LIMIT, filter_groups, got, whole
from convmat.errors import DTypeError, GeometryError, ShapeError
from convmat.geometry import ConvGeometry

PROBE_DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16")
MOST_ELEMENTS = 1 << 20
"""Of each array: the definition is computed in plain loops."""

CASES = {
    "integers": "small random whole numbers",
    "one-hot": "one pixel and one tap are 1 in each group and filter: where each pixel goes",
    "coordinates": "pixels and taps number themselves, counting on from 1",
    "bias": "small random whole numbers and a bias",
}
ARRAYS = ("x", "kernel", "bias", "x_col", "w_col", "accumulators", "y")
"""Of each case."""


class Inputs(NamedTuple):
    """What a layer is given: x (N, *spatial, C), kernel (K, *kernel, C/groups) and bias (K)."""

    x: NDArray[Any]
    kernel: NDArray[Any]
    bias: NDArray[Any]


@dataclass(frozen=True)
class Probe:
    """A layer to be probed: its geometry and what it computes with.

    Raises:
        DTypeError: another dtype than `PROBE_DTYPES`, or one too narrow for sums of so many products.
        GeometryError: filters that the groups cannot share, or arrays of more than `MOST_ELEMENTS`.
        ShapeError: an empty batch.
    """

    geometry: ConvGeometry
    filters: int
    dtype: np.dtype[Any]
    """Of x and kernel; bias and Y are int32 where it is one of integers."""
    flip: bool = False
    padding_mode: str = "zeros"
    order: str = "hwc"
    """Of the columns of X_col."""

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise GeometryError("filters", f"must be at least 1, got {got(self.filters)}")
        filter_groups(self.filters, self.geometry.groups)
        if str(self.dtype) not in PROBE_DTYPES:
            raise DTypeError("dtype", f"got {self.dtype}; give one of {', '.join(PROBE_DTYPES)}")
        for has, shape in (
            ("makes an X_col of", self.geometry.matrix_shape),
            ("has", self.geometry.input_shape),
        ):
            if math.prod(shape) > MOST_ELEMENTS:
                raise GeometryError(
                    "input_shape",
                    f"{has} {math.prod(shape)} elements, a probe has at most {MOST_ELEMENTS}; "
                    "give a smaller one: a few pixels more than the kernel will show every mistake",
                )
        most = MOST_ELEMENTS // max(self.geometry.matrix_shape[0], math.prod(self.filter_shape[1:]))
        if self.filters > most:
            raise GeometryError("filters", f"must be 1 to {most} in a probe, got {got(self.filters)}")
        if self.geometry.batch == 0:
            raise ShapeError("input_shape", "has no images; give at least one")
        if self._peak < 1:
            raise DTypeError(
                "dtype",
                f"{self.dtype} holds whole numbers to {self.limit}, too few for {self.terms} products; "
                "give float32",
            )

    @property
    def terms(self) -> int:
        """Products in each sum."""
        return self.geometry.terms

    @property
    def limit(self) -> int:
        """Sums of magnitudes below it are exact in any order: in the dtype, and in int32 accumulators."""
        return min(1 << (np.finfo(self.dtype).nmant + 1 if self.dtype.kind == "f" else 31), 1 << 31)

    @property
    def summed(self) -> np.dtype[Any]:
        """The dtype of bias and Y."""
        return self.dtype if self.dtype.kind == "f" else np.dtype(np.int32)

    @property
    def filter_shape(self) -> tuple[int, ...]:
        """(K, *kernel, C/groups)."""
        geometry = self.geometry
        return (self.filters, *geometry.kernel_size, geometry.channels // geometry.groups)

    @property
    def _peak(self) -> int:
        """The largest magnitude of random numbers: at most 8, less where their sums would not be exact."""
        return max((a for a in range(1, 9) if self.terms * a * a + a < self.limit), default=0)

    def inputs(self, seed: int) -> Iterator[tuple[str, Inputs]]:
        """The inputs of each of `CASES`, by name."""
        rng = np.random.default_rng(whole("seed", seed, 0, SEED_LIMIT))
        shape, kernel, peak = self.geometry.input_shape, self.filter_shape, self._peak
        low = 0 if self.dtype.kind == "u" else -peak
        none = np.zeros(self.filters, self.summed)

        def numbers(size: tuple[int, ...]) -> NDArray[Any]:
            return rng.integers(low, peak + 1, size).astype(self.dtype)

        yield "integers", Inputs(numbers(shape), numbers(kernel), none)
        yield "one-hot", Inputs(*self._one_hot(), none)
        yield "coordinates", Inputs(*self._coordinates(), none)
        bias = rng.integers(-peak, peak + 1, self.filters).astype(self.summed)
        yield "bias", Inputs(numbers(shape), numbers(kernel), bias)

    def _one_hot(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The pixel that is seen most often, in the last image and in one channel of each group, and taps
        that see it, one in each filter.
        """
        geometry, size = self.geometry, self.geometry.input_size
        numbered = np.arange(1, math.prod(size) + 1).reshape(1, *size, 1)
        x_col = reference.unroll(numbered, geometry.kernel_size, **self.where)
        hot = int(np.bincount(x_col.reshape(-1), minlength=numbered.size + 1)[1:].argmax())
        taps = np.unique(np.nonzero(x_col == hot + 1)[1])
        if not len(taps):  # none is seen: all is padding
            taps = np.array([0])
        depth = self.filter_shape[-1]
        x = np.zeros(geometry.input_shape, self.dtype)
        x[(-1, *np.unravel_index(hot, size))][depth // 2 :: depth] = 1
        kernel = np.zeros(self.filter_shape, self.dtype)
        for k in range(self.filters):
            tap = np.unravel_index(taps[k % len(taps)], geometry.kernel_size)
            kernel[(k, *tap, depth // 2)] = 1
        return x, self._turned(kernel)

    def _coordinates(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pixels and taps that count on from 1, and again from 1 where the dtype has no room for more."""
        largest = int(np.iinfo(self.dtype).max) if self.dtype.kind in "iu" else self.limit
        room = (self.limit - 1) // self.terms
        pixels, weights = math.prod(self.geometry.input_shape), math.prod(self.filter_shape)
        most_weights = _period(weights, min(largest, math.isqrt(room)))
        most_pixels = _period(pixels, min(largest, room // most_weights))
        x = np.arange(pixels) % most_pixels + 1
        kernel = np.arange(weights) % most_weights + 1
        return (
            x.reshape(self.geometry.input_shape).astype(self.dtype),
            kernel.reshape(self.filter_shape).astype(self.dtype),
        )

    def results(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """What the definition makes of the inputs.

        Returns x_col and w_col, whose product (in each group) are the accumulators, int32 of shape
        (N, *out, K), and y, which are the accumulators and the bias.

        Raises:
            ShapeError: inputs that are not of this layer.
            DTypeError: inputs of another dtype, or whose sums are not exact in any order.
        """
        self._check(inputs)
        x, kernel, bias = (a.astype(np.int64) for a in inputs)
        sums = reference.convolve_by_taps(
            x, kernel, **self.where, groups=self.geometry.groups, flip=self.flip
        )
        return {
            "x_col": reference.unroll(inputs.x, self.geometry.kernel_size, **self.where, order=self.order),
            "w_col": reference.flatten_filters(self._turned(inputs.kernel), self.order),
            "accumulators": sums.astype(np.int32),
            "y": (sums + bias).astype(self.summed),
        }

    def _check(self, inputs: Inputs) -> None:
        shapes = (self.geometry.input_shape, self.filter_shape, (self.filters,))
        dtypes = (self.dtype, self.dtype, self.summed)
        for name, array, shape, dtype in zip(Inputs._fields, inputs, shapes, dtypes, strict=True):
            if array.shape != shape:
                raise ShapeError(name, f"has shape {array.shape}, expected {shape}")
            if array.dtype != dtype:
                raise DTypeError(name, f"has dtype {array.dtype}, expected {dtype}")
            if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.trunc(array))).all():
                raise DTypeError(name, "holds numbers that are not whole")
        largest = [int(np.abs(array.astype(np.float64)).max()) for array in inputs]
        if self.terms * largest[0] * largest[1] + largest[2] >= self.limit:
            raise DTypeError(
                "x", f"and kernel have sums beyond {self.limit}, which are not exact in any order"
            )

    def _turned(self, kernel: NDArray[Any]) -> NDArray[Any]:
        return np.flip(kernel, tuple(range(1, kernel.ndim - 1))) if self.flip else kernel

    @property
    def where(self) -> dict[str, Any]:
        """As the reference takes it, which works out a padding's name by itself."""
        geometry = self.geometry
        return {
            "stride": geometry.stride,
            "padding": geometry.padding,
            "dilation": geometry.dilation,
            "padding_mode": self.padding_mode,
        }


def _period(count: int, most: int) -> int:
    """How far `count` elements can count, to at most `most`; less so that no axis is a multiple of it."""
    if count <= most:
        return count
    return next(period for period in range(most, 0, -1) if math.gcd(period, count) == 1)
