"""What was computed: a convolution, what became of its result, and single elements of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.axis import kernel_extent, output_length, padding_source
from convmat.engine import convolve
from convmat.geometry import ConvGeometry
from convmat.quantization import STEPS, Quantization

Array = NDArray[Any]
Shape = tuple[int, ...]
Index = tuple[Array, ...]
"""Of elements of an array: for each axis, where they are along it."""
Pads = tuple[tuple[int, int], ...]


class Move(NamedTuple):
    """How the elements of a result lie in a wrong one."""

    shape: Callable[[Shape], Shape]
    """From the shape of the result to that of the wrong one."""
    origin: Callable[[Index, Shape], Index]
    """From an index of the wrong one, and the shape of the result, to an index of the result; an index
    outside that shape stands for a zero."""


class Change(NamedTuple):
    """What became of each value of a result."""

    name: str
    """One of relu, wrap, saturate and round."""
    dtype: str = ""
    """In which a value wrapped, saturated or was rounded."""

    def apply(self, values: Array) -> Array:
        """The values after the change, of the dtype that they had."""
        if self.name == "relu":
            return np.asarray(np.maximum(values, values.dtype.type(0)))
        if self.name == "round":
            return values.astype(self.dtype).astype(values.dtype)
        low, high = int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)
        if self.name == "saturate":
            return np.clip(values, low, high)
        return np.asarray((values - low) % (high - low + 1) + low)

    def suits(self, values: Array) -> bool:
        """Whether the change has a meaning for these values that no other name has.

        Only whole numbers wrap; what saturates in an unsigned dtype without a value too large is ReLU.
        """
        if self.name == "wrap":
            return bool(np.all(values == np.rint(values)))
        if self.name == "saturate" and self.dtype.startswith("u"):
            return bool(np.any(values > np.iinfo(self.dtype).max))
        return True


@dataclass(frozen=True, eq=False)
class Computation:
    """What was computed: a convolution, as `convolve` takes it, and what became of its result."""

    x: Array
    filters: Array
    stride: tuple[int, ...]
    padding: str | Pads
    """Pads below 0 cut off lines."""
    dilation: tuple[int, ...]
    groups: int
    bias: Array | None
    padding_mode: str
    changes: tuple[Change, ...] = ()
    """Of the values, one after the other."""
    moves: tuple[Move, ...] = ()
    """Of the elements, one after the other."""
    half_sums: tuple[str, bool] | None = None
    """The order of a sum that is rounded to float16 after each addition, and whether products are, too."""
    pair_sums: str | None = None
    """The order of a sum of integers whose products are added in pairs, each of which saturates in int16."""
    quantized: Quantization | None = None
    """What becomes of sums of integers, after the changes; x and the filters are as they are stored."""
    steps: tuple[str, ...] = STEPS
    """Of the quantization."""

    @property
    def size(self) -> Shape:
        """(H, W) of the input."""
        return self.x.shape[1:-1]

    @property
    def kernel(self) -> Shape:
        """(kh, kw)."""
        return self.filters.shape[1:-1]

    @cached_property
    def pads(self) -> Pads:
        """The padding in numbers."""
        if not isinstance(self.padding, str):
            return self.padding
        return ConvGeometry(self.x.shape, self.kernel, self.stride, self.padding, self.dilation).pads

    @cached_property
    def convolved_shape(self) -> Shape:
        """(N, *out, K), before anything is moved."""
        extent = map(kernel_extent, self.kernel, self.dilation)
        out = map(output_length, self.size, self.pads, extent, self.stride)
        return (len(self.x), *out, len(self.filters))

    @cached_property
    def shapes(self) -> list[Shape]:
        """Of the convolution's result, and after each move."""
        return list(
            itertools.accumulate(self.moves, lambda s, move: move.shape(s), initial=self.convolved_shape)
        )

    def change(self, values: Array) -> Array:
        """What became of the convolution's values."""
        for change in self.changes:
            values = change.apply(values)
        return values

    def outcome(self, sums: Array, k: Array | None = None) -> Array:
        """What became of the convolution's sums, (…, K), or those of the filters `k`."""
        values = self.change(sums)
        return values if self.quantized is None else self.quantized.apply(values, k, self.steps)

    @property
    def by_element(self) -> bool:
        """Whether sums are added in a way that no convolution knows, but `sums` does."""
        return self.half_sums is not None or self.pair_sums is not None

    def origins(self, positions: Array) -> tuple[Index, Array]:
        """Where elements come from, and which of them come from anywhere.

        `positions` are those of the moved result, as one runs through it; the index is that of the
        convolution's result, and of any element where there is none, which is a zero.
        """
        *before, last = self.shapes
        at: Index = np.unravel_index(positions, last)
        inside = np.ones(len(positions), bool)
        for move, shape in zip(reversed(self.moves), reversed(before), strict=True):
            at = move.origin(at, shape)
            inside = inside & np.all([(i >= 0) & (i < h) for i, h in zip(at, shape, strict=True)], axis=0)
            at = tuple(i.clip(0, h - 1) for i, h in zip(at, shape, strict=True))
        return at, inside

    @property
    def arguments(self) -> dict[str, Any]:
        """What `convolve` takes, less the zero points of a quantization; where padding is below 0, the image
        is padded and cut first.
        """
        x, filters, padding = self.x, self.filters, self.padding
        if self.quantized is not None:
            x, filters = self.quantized.pixels(x), self.quantized.weights(filters)
        if not isinstance(padding, str) and min(map(min, padding)) < 0:
            modes: dict[str, Any] = {
                "zeros": "constant",
                "replicate": "edge",
                "reflect": "reflect",
                "circular": "wrap",
            }
            wide = [(0, 0), *((max(b, 0), max(a, 0)) for b, a in padding), (0, 0)]
            x = np.pad(x, wide, mode=modes[self.padding_mode])
            kept = (
                slice(max(-b, 0), h - max(-a, 0)) for (b, a), h in zip(padding, x.shape[1:-1], strict=True)
            )
            x, padding = x[(slice(None), *kept)], "valid"
        return {
            "x": x,
            "filters": filters,
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias,
            "padding_mode": self.padding_mode,
        }

    def convolved(self) -> Array:
        """The convolution's result, before anything became of it, by the engine."""
        return convolve(**self.arguments)

    def positive(self) -> Computation:
        """Of the magnitudes of all numbers, whose sums say how far rounding errors go."""

        def size(a: Array) -> Array:
            wide = np.float32 if a.dtype == np.float16 else a.dtype if a.dtype.kind in "fc" else np.int64
            return np.asarray(np.abs(a.astype(wide)))

        bias = None if self.bias is None else size(self.bias)
        return replace(self, x=size(self.x), filters=size(self.filters), bias=bias)

    def sums(self, at: Index, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Elements (n, *position, k) of the convolution, each added up in `dtype`, and of all magnitudes.

        With `half_sums` of float16; the magnitudes, of no use then, are 0.
        """
        n, *_, k = at
        patches, weights = self.patches(at), self.filters[k]
        lost = 0 if self.pair_sums is None else self._lost_in_pairs(at)
        if self.quantized is not None:
            weights = self.quantized.weights(weights, k)
        if self.half_sums is not None:
            return self._added_in_float16(patches, weights, k), np.zeros(1)
        products = (patches.astype(dtype) * weights.astype(dtype)).reshape(len(n), -1)
        total, magnitude = products.sum(1) + lost, np.abs(products).sum(1)
        if self.bias is not None:
            b = self.bias[k].astype(dtype)
            total, magnitude = total + b, magnitude + np.abs(b)
        return total, magnitude

    def patches(self, at: Index) -> Array:
        """What elements (n, *position, k) are summed of, weight by weight: (elements, *kernel, C/groups)."""
        patches, inside = self._pixels(at)
        if self.quantized is not None:
            patches = self.quantized.pixels(patches)
        return np.asarray(np.where(inside, patches, patches.dtype.type(0)))

    def _pixels(self, at: Index) -> tuple[Array, Array]:
        """The pixels of these patches, and which of them are in the image, (elements, *kernel, 1)."""
        n, *positions, k = at
        axes = len(positions)
        inside = np.ones((1,) * (axes + 1), bool)
        pixels: list[Array] = []
        for axis, (y, size) in enumerate(zip(positions, self.size, strict=True)):
            taps = np.arange(self.kernel[axis]) * self.dilation[axis]
            p = (y * self.stride[axis] - self.pads[axis][0])[:, None] + taps
            line = [len(n), *(1,) * axes]
            line[axis + 1] = len(taps)
            if self.padding_mode == "zeros":
                inside = inside & ((p >= 0) & (p < size)).reshape(line)
                p = p.clip(0, size - 1)
            else:
                p = padding_source(p, size, self.padding_mode)
            pixels.append(p.reshape(*line, 1))
        depth = self.filters.shape[-1]
        channels = (k // (len(self.filters) // self.groups) * depth)[:, None] + np.arange(depth)
        column = (len(n), *(1,) * axes)
        patches = self.x[(n.reshape(*column, 1), *pixels, channels.reshape(*column, depth))]
        return patches, inside[..., None]

    def _lost_in_pairs(self, at: Index) -> Array:
        """What sums of stored pixels times weights lose where pairs saturate in int16.

        Pairs are neighbours in a row of X_col, of unsigned pixels and signed weights, both of 8 bits; those
        of the other kind are stored with their highest bit turned. So x86's vpmaddubsw adds them.
        """
        pixels, inside = self._pixels(at)
        outside = 0 if self.quantized is None else self.quantized.input_zero_point
        patches, weights = np.where(inside, pixels, np.int32(outside)), self.filters[at[-1]]
        unsigned = patches + (128 if self.x.dtype.kind == "i" else 0)
        signed = weights.astype(np.int32) - (128 if weights.dtype.kind == "u" else 0)
        products = unsigned * signed
        if self.pair_sums == "chw":
            products = np.moveaxis(products, -1, 1)
        products = products.reshape(len(products), -1)
        if products.shape[1] % 2:
            products = np.pad(products, ((0, 0), (0, 1)))
        pairs = products[:, ::2] + products[:, 1::2]
        return np.asarray((np.clip(pairs, -(1 << 15), (1 << 15) - 1) - pairs).sum(1, dtype=np.int64))

    def _added_in_float16(self, patches: Array, weights: Array, k: Array) -> Array:
        """Sums of patches (…, *kernel, C/groups) times weights, rounded to float16 after each addition."""
        order, rounded = self.half_sums or ("hwc", True)
        half, single = np.dtype(np.float16), np.dtype(np.float32)
        products = patches.astype(half).astype(single) * weights.astype(half).astype(single)
        if order == "chw":
            products = np.moveaxis(products, -1, 1)
        products = products.reshape(len(patches), -1)
        if rounded:
            total = np.add.accumulate(products.astype(half), axis=1, dtype=half)[:, -1]
        else:
            total = np.zeros(len(patches), half)
            for term in products.T:
                total = (total.astype(single) + term).astype(half)
        return total if self.bias is None else total + self.bias[k].astype(half)
