"""Probes: layers whose results are the same in any order of summing, so that only equality will do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.checks import SEED_LIMIT, filter_groups, got, whole
from convmat.errors import DTypeError, GeometryError, ShapeError
from convmat.geometry import AXIS_NAMES, ConvGeometry
from convmat.shown import sizes
from convmat.verification.comparison import compare_exactly
from convmat.verification.operands import Operands, whole_numbers
from convmat.verification.verdict import Report
from convmat.words import LINE_NAMES

MOST_ELEMENTS = 1 << 20
"""Of each array."""

CASES = {
    "integers": "small random whole numbers",
    "one-hot": "one pixel and one tap are 1 in each group and filter: where each pixel goes",
    "coordinates": "pixels and taps number themselves, counting on from 1",
    "bias": "small random numbers, and biases of both signs, large and small",
    "wide-x": "pixels of as many bits as sums leave, by small weights",
    "wide-kernel": "weights of as many bits as sums leave, by small pixels",
    "extremes": "the largest numbers by one another, in as many taps as sums leave",
}
ARRAYS = ("x", "kernel", "bias", "x_col", "w_col", "accumulators", "y")
"""Of each case."""

Judge = Callable[[NDArray[Any]], Report]
"""Judges a result, (N, *out, K) or a matrix."""

_LINES = {**{axis: f"output {lines}" for axis, lines in LINE_NAMES.items()}, "filters": "filters"}


class Inputs(NamedTuple):
    """What a layer is given: x (N, *spatial, C), kernel (K, *kernel, C/groups) and bias (K)."""

    x: NDArray[Any]
    kernel: NDArray[Any]
    bias: NDArray[Any]


class Bits(NamedTuple):
    """How many bits a case needs."""

    x: int
    kernel: int
    sums: int
    """At most."""


class Layered:
    """What layers whose steps are written out have in common."""

    geometry: ConvGeometry
    filters: int
    flip: bool
    padding_mode: str

    @property
    def filter_shape(self) -> tuple[int, ...]:
        """(K, *kernel, C/groups)."""
        geometry = self.geometry
        return (self.filters, *geometry.kernel_size, geometry.channels // geometry.groups)

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

    @property
    def how(self) -> dict[str, Any]:
        """All that the reference takes beside the arrays."""
        return {**self.where, "groups": self.geometry.groups, "flip": self.flip}

    def confirms(self, key: str, values: NDArray[Any], inputs: Inputs) -> bool:
        """Whether values that are not equal to a result by the definition are right, too."""
        return False

    def turned(self, kernel: NDArray[Any]) -> NDArray[Any]:
        """The kernel as it lies on the input."""
        return np.flip(kernel, tuple(range(1, kernel.ndim - 1))) if self.flip else kernel


@dataclass(frozen=True)
class Probe(Layered):
    """A layer to be probed: its geometry and what it computes with.

    Its results are the same in any order of summing, with or without fused multiply-add. Let x, kernel and
    bias be whole numbers times powers of two, all products and biases be whole multiples of u = 2^e, and
    A = max|x|·Σ|w| + |b| of a filter. Every partial sum, in any order, is a whole multiple of u of magnitude
    at most A, and where A < 2^p·u a float of p bits holds each of them, so no addition rounds. A sum of one
    product, all others being 0, is that product rounded once. Where Y is narrower than the sums it is a sum
    rounded once, to nearest even, and exact where there is a bias. See Higham, "Accuracy and Stability of
    Numerical Algorithms", 2nd ed., Section 2.1.

    Raises:
        DTypeError: dtypes or an arithmetic that make no probe, or too narrow for sums of so many products.
        GeometryError: filters that the groups cannot share, arrays of more than `MOST_ELEMENTS`, or tiles
            that the layer does not fill so that there is a seam and a partial one.
        ShapeError: an empty batch.
    """

    geometry: ConvGeometry
    filters: int
    dtype: np.dtype[Any]
    """Of x and, if nothing else is said, of the kernel; bias and Y are int32 where it is one of integers."""
    flip: bool = False
    padding_mode: str = "zeros"
    order: str = "hwc"
    """Of the columns of X_col."""
    kernel_dtype: np.dtype[Any] | None = None
    arithmetic: str | None = None
    """One of `ARITHMETICS`, whose operands the numbers fit; None stands for that of the dtype."""
    tile: tuple[int, ...] = ()
    """What a kernel computes at a time: outputs along each spatial axis, and filters."""

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise GeometryError("filters", f"must be at least 1, got {got(self.filters)}")
        filter_groups(self.filters, self.geometry.groups)
        self.operands.check()
        self._check_sizes()
        self._check_tile()
        if self.geometry.batch == 0:
            raise ShapeError("input_shape", "has no images; give at least one")
        if self.terms + 1 >= (limit := self.operands.limit):
            few = f"holds whole numbers to {limit}, too few for {self.terms} products"
            if self.arithmetic:
                raise DTypeError(
                    "arithmetic", f"{self.arithmetic} {few}; leave it out, or give fewer channels"
                )
            raise DTypeError("dtype", f"{self.dtype} {few}; give float32, or fewer channels")

    def _check_sizes(self) -> None:
        geometry = self.geometry
        for has, shape in (("makes an X_col of", geometry.matrix_shape), ("has", geometry.input_shape)):
            if math.prod(shape) > MOST_ELEMENTS:
                raise GeometryError(
                    "input_shape",
                    f"{has} {math.prod(shape)} elements, a probe has at most {MOST_ELEMENTS}; give a smaller "
                    f"one: a few pixels more than the kernel will show every mistake{self._fitting()}",
                )
        if not fits(geometry, self.filters):
            most = MOST_ELEMENTS // max(geometry.matrix_shape[0], math.prod(self.filter_shape[1:]))
            raise GeometryError(
                "filters",
                f"must be 1 to {most} in a probe, got {got(self.filters)}: "
                f"its Y and W_col have at most {MOST_ELEMENTS} elements",
            )

    def _fitting(self) -> str:
        """An input that would do, if fewer pixels are enough."""
        geometry = self.geometry
        size = tuple(map(min, geometry.input_size, default_size(geometry)))
        shape = (min(geometry.batch, 2), *size, geometry.channels)
        smaller = replace(geometry, input_shape=shape)
        return f", {sizes(size)} pixels say" if fits(smaller, self.filters) else ", of fewer channels too"

    def _check_tile(self) -> None:
        if not self.tile:
            return
        names, counts = (*self.geometry.axis_names, "filters"), (*self.geometry.output_size, self.filters)
        check_tile(self.tile, len(names) - 1)
        for name, size, tile in zip(names, counts, self.tile, strict=True):
            # Filters in groups may come in whole tiles only.
            whole_only = tile == 1 or (name == "filters" and self.geometry.groups % tile == 0)
            if size <= tile or not (size % tile or whole_only):
                raise GeometryError(
                    "tile",
                    f"of {tile} has no seam and partial tile in {size} {_LINES[name]}; "
                    f"give a layer of more than {tile}, and no multiple",
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays of each case."""
        return ARRAYS

    @property
    def rules(self) -> dict[str, Any]:
        """How its results are to be diagnosed."""
        # By the bound, for the definition of what is rounded is not: where sums are exact it leaves nothing.
        return {}

    @property
    def operands(self) -> Operands:
        """What it computes with."""
        kernel = self.dtype if self.kernel_dtype is None else self.kernel_dtype
        return Operands(self.dtype, kernel, self.arithmetic)

    @property
    def terms(self) -> int:
        """Products in each sum."""
        return self.geometry.terms

    @property
    def _peak(self) -> int:
        """The largest magnitude of small numbers: at most 8, less where their sums would not be exact."""
        limit = self.operands.limit
        peaks = (a for a in range(8, 1, -1) if self.terms * a * a + max(a, self.filters) < limit)
        return next(peaks, 1)

    def inputs(self, seed: int) -> Iterator[tuple[str, Inputs]]:
        """The inputs of each of `CASES`, by name."""
        rng = np.random.default_rng(whole("seed", seed, 0, SEED_LIMIT))
        none = np.zeros(self.filters, self.operands.summed)

        def small(case: str) -> tuple[NDArray[Any], NDArray[Any]]:
            ends = self.operands.within(self._peak, self._peak)
            shaped = zip(ends, self._shapes, strict=True)
            numbers = [rng.integers(*end, shape, endpoint=True) for end, shape in shaped]
            return self._cast(numbers, self.operands.units(case))

        yield "integers", Inputs(*small("integers"), none)
        yield "one-hot", Inputs(*self._one_hot(), none)
        yield "coordinates", Inputs(*self._coordinates(), none)
        yield "bias", Inputs(*small("bias"), self._biases(rng))
        for name in ("wide-x", "wide-kernel", "extremes"):
            yield name, Inputs(*self._large(name, rng), none)

    def _one_hot(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pixels in one channel of each group, and taps that see them, one in each filter.

        The pixel is the one that is seen most often, in the last image. Of a layer in tiles it is the middle
        of the last window, and in the image before it that of the first window beyond the first tile.
        """
        geometry, size, depth = self.geometry, self.geometry.input_size, self.filter_shape[-1]
        hot = self._hot_pixels()
        x, kernel = (np.zeros(shape, np.int64) for shape in self._shapes)
        for back, (pixel, _) in enumerate(hot):
            x[(-1 - back % geometry.batch, *np.unravel_index(pixel, size))][depth // 2 :: depth] = 1
        for k in range(self.filters):
            taps = hot[k % len(hot)][1]
            tap = np.unravel_index(taps[k // len(hot) % len(taps)], geometry.kernel_size)
            kernel[(k, *tap, depth // 2)] = 1
        return self._cast([x, self.turned(kernel)])

    def _hot_pixels(self) -> list[tuple[int, NDArray[Any]]]:
        """Pixels and the taps that see them, as numbers, first that by which a window sees its middle."""
        geometry = self.geometry
        numbered = np.arange(1, math.prod(geometry.input_size) + 1).reshape(1, *geometry.input_size, 1)
        x_col = reference.unroll_by_taps(numbered, geometry.kernel_size, **self.where)
        seen = np.bincount(x_col.reshape(-1), minlength=numbered.size + 1)[1:]
        if not seen.any():  # all is padding
            return [(0, np.array([0]))]
        if not self.tile:
            pixel = int(seen.argmax())
            return [(pixel, np.unique(np.nonzero(x_col == pixel + 1)[1]))]
        hot = []
        for window in (tuple(h - 1 for h in geometry.output_size), self.tile[:-1]):
            row = x_col[np.ravel_multi_index(window, geometry.output_size)]
            if len(own := np.flatnonzero(row)):
                tap = own[len(own) // 2]
                others = np.unique(np.nonzero(x_col == row[tap])[1])
                hot.append((int(row[tap]) - 1, np.append(tap, others[others != tap])))
        return hot or [(0, np.array([0]))]

    def _coordinates(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pixels and taps that count on from 1, and again from 1 where the dtype has no room for more."""
        room = (self.operands.limit - 1) // self.terms
        (_, largest), (_, largest_weight) = self.operands.ranges
        pixels, weights = map(math.prod, self._shapes)
        most_weights = _period(weights, min(largest_weight, math.isqrt(room)))
        most_pixels = _period(pixels, min(largest, room // most_weights))
        return self._cast([np.arange(pixels) % most_pixels + 1, np.arange(weights) % most_weights + 1])

    def _biases(self, rng: np.random.Generator) -> NDArray[Any]:
        """From the least to all that small sums leave, of both signs; no two the same if there are enough."""
        room = self.operands.limit - 1 - self.terms * self._peak**2
        steps = np.linspace(0, room, min(self.filters, room) + 1).astype(np.int64)
        sizes = rng.integers(steps[:-1], steps[1:]) + 1
        signed = np.resize(np.where(np.arange(len(sizes)) % 2, sizes, -sizes), self.filters)
        biases: NDArray[Any] = np.ldexp(signed.astype(float), sum(self.operands.units("bias")))
        return biases.astype(self.operands.summed)

    def _large(self, name: str, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """x and kernel of the cases that need many bits, of which the operands say how many."""
        most, taps = self.operands.most(name, self.terms)
        ranges = self.operands.within(*most)
        x, kernel = (_up_to_ends(rng, shape, *ends) for shape, ends in zip(self._shapes, ranges, strict=True))
        if name == "extremes":  # neighbours of one sign, whose sums are the largest
            x_far, far = (max(ends, key=abs) for ends in ranges)
            x = np.where(rng.random((*x.shape[:-1], 1)) < 0.5, x_far, x)
            kernel[0] = far
        kept = np.tile(np.arange(self.terms) < taps, (self.filters, 1))
        kernel = np.where(rng.permuted(kept, axis=1).reshape(kernel.shape), kernel, 0)
        return self._cast([x, kernel], self.operands.units(name))

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.geometry.input_shape, self.filter_shape

    def _cast(
        self, numbers: Iterable[NDArray[Any]], units: tuple[int, int] = (0, 0)
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """x and kernel of whole numbers of at most 53 bits, times 2^units."""
        parts = zip(numbers, units, self.operands[:2], self._shapes, strict=True)
        x, kernel = (np.ldexp(a.astype(float), e).astype(kind).reshape(shape) for a, e, kind, shape in parts)
        return x, kernel

    def results(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """What the definition makes of the inputs.

        Returns x_col and w_col, whose product (in each group) are the accumulators, int32 or floats of shape
        (N, *out, K), and y, which are the accumulators and the bias.

        Raises:
            ShapeError: inputs that are not of this layer.
            DTypeError: inputs of another dtype or arithmetic, or whose sums are not exact in any order.
        """
        sums = self.sums(inputs)
        return {
            "x_col": reference.unroll_by_taps(
                inputs.x, self.geometry.kernel_size, **self.where, order=self.order
            ),
            "w_col": reference.flatten_filters(self.turned(inputs.kernel), self.order),
            "accumulators": sums.astype(self.operands.accumulator),
            "y": (sums + inputs.bias).astype(self.operands.summed),
        }

    def sums(self, inputs: Inputs) -> NDArray[Any]:
        """The accumulators before they are rounded to their dtype, exact in float64 and int64.

        Raises:
            The errors of `results`.
        """
        self._check(inputs)
        return reference.convolve_by_taps(inputs.x, inputs.kernel, **self.how)

    def judges(self, key: str, inputs: Inputs, results: Mapping[str, NDArray[Any]]) -> list[Judge]:
        """What judges a result that is to be one of `results`; one of these will do."""
        wanted = [results[key]]
        if key == "y":  # a result wider than Y need not be rounded
            wanted.append(self.sums(inputs) + inputs.bias)
        return [partial(compare_exactly, wanted=right) for right in wanted]

    def bits(self, inputs: Inputs) -> Bits:
        """How many bits the numbers of a case need, and its sums."""
        x, kernel, _ = (whole_numbers(array)[0] for array in inputs)
        sums, _ = self._sums(inputs)
        return Bits(*(int(a.max()).bit_length() for a in (x, kernel, sums)))

    def _sums(self, inputs: Inputs) -> tuple[NDArray[Any], int]:
        """The largest sum of each filter, A / u, and the exponent of u = 2^e."""
        (x, x_unit), (kernel, kernel_unit), (bias, bias_unit) = map(whole_numbers, inputs)
        unit = min(x_unit + kernel_unit, bias_unit) if bias.any() else x_unit + kernel_unit
        sums = x.max() * kernel.reshape(self.filters, -1).sum(axis=1)
        return np.ldexp(sums, x_unit + kernel_unit - unit) + np.ldexp(bias, bias_unit - unit), unit

    @np.errstate(all="ignore")
    def _check(self, inputs: Inputs) -> None:
        operands = self.operands
        dtypes = (*operands[:2], operands.summed)
        for name, array, shape, dtype in zip(
            Inputs._fields, inputs, (*self._shapes, (self.filters,)), dtypes, strict=True
        ):
            if array.shape != shape:
                raise ShapeError(name, f"has shape {array.shape}, expected {shape}")
            if array.dtype != dtype:
                raise DTypeError(name, f"has dtype {array.dtype}, expected {dtype}")
            if operands.floats:
                operands.check_numbers(name, array)
        sums, unit = self._sums(inputs)
        exact, biased = sums < 2.0**operands.sum_bits, inputs.bias != 0
        if operands.floats and operands.arithmetic is None:
            exact |= (np.count_nonzero(inputs.kernel.reshape(self.filters, -1), axis=1) <= 1) & ~biased
        exact &= ~biased | (sums < operands.limit)
        if operands.floats:
            info = np.finfo(self.dtype)
            exact &= (np.ldexp(1.0, unit) >= info.tiny) & (np.ldexp(sums, unit) <= info.max)
        if not exact.all():
            beyond = f"sums beyond {1 << operands.sum_bits} times their unit"
            raise DTypeError("x", f"and kernel have {beyond}, which are not exact in any order")


def check_tile(tile: tuple[int, ...], axes: int) -> None:
    """Raise GeometryError where a tile is not of so many spatial axes, and filters."""
    lines = [*(LINE_NAMES[name] for name in AXIS_NAMES[axes]), "filters"]
    if len(tile) != len(lines) or min(tile) < 1:
        raise GeometryError("tile", f"got {got(tile)}; give {', '.join(lines)} of one, each at least 1")


def fits(geometry: ConvGeometry, filters: int) -> bool:
    """Whether none of a probe's arrays has more than `MOST_ELEMENTS`."""
    rows, columns = geometry.matrix_shape
    most = max(rows * columns, math.prod(geometry.input_shape), rows * filters)
    return max(most, filters * geometry.terms) <= MOST_ELEMENTS


def default_size(geometry: ConvGeometry) -> tuple[int, ...]:
    """Room for a few patches, and no two axes of one size: a transposed image must show."""
    return tuple(
        max(8, extent + 2 * s) + 2 * axis
        for axis, (extent, s) in enumerate(zip(geometry.extent, geometry.stride, strict=True))
    )


def in_tiles(tile: Sequence[int], least: Sequence[int], count: int = 2) -> tuple[int, ...]:
    """Sizes of at least so many tiles and a part of one, none below `least` and no two the same."""
    sizes: list[int] = []
    for each, low in zip(tile, least, strict=True):
        size = max(count, -(-low // each)) * each + each // 2
        while size in sizes or (each > 1 and size % each == 0):
            size += 1
        sizes.append(size)
    return tuple(sizes)


def _period(count: int, most: int) -> int:
    """How far `count` elements can count, to at most `most`; less so that no axis is a multiple of it."""
    if count <= most:
        return count
    return next(period for period in range(most, 0, -1) if math.gcd(period, count) == 1)


def _up_to_ends(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> NDArray[np.int64]:
    """Whole numbers from `low` to `high`, about half of which are one of the two."""
    numbers, ends = rng.integers(low, high, shape, endpoint=True), rng.choice([low, high], shape)
    return np.where(rng.random(shape) < 0.5, ends, numbers)
