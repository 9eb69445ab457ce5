"""Singular values of a layer's matrix: dense, by Fourier transform, or bounds of the largest from both sides.

Each method says what it found and how sure it is of it. None needs the sparse matrix: the layer as a map, its
filters, or dense copies of small blocks are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.checks import got, several
from convmat.errors import SettingError
from convmat.geometry import ConvGeometry
from convmat.shown import Fact, Shown
from convmat.symbol import (
    BLOCK_BYTES,
    BOUND_PRODUCTS,
    Bound,
    Line,
    blocks,
    distinct_groups,
    layer_lines,
    polyphase,
    symbol_products,
    symbol_shape,
)
from convmat.watching import Watch, unwatched

DENSE_ELEMENTS = 4_000_000
"""Blocks of at most so many elements have all of their singular values computed from a dense copy."""

ITERATIONS = 500
"""Products with MᴴM that Lanczos' method may take."""

LEAST_ITERATIONS = 8
"""So many it takes in any case; they come within some percent of the norm."""

MOST_ITERATIONS = 1_000_000
"""So many may be asked for."""


class Effort(NamedTuple):
    """What finding a layer's singular values may take, in multiplications: no clock ends it."""

    decomposed: int
    """Of all decompositions, rows · columns · the smaller of them: where all singular values would take more,
    the largest alone is bounded."""
    bound: int
    """Of each of the bounds from above, as `symbol.norm_bound` takes them."""
    iterated: int
    """Entries times weights in all of Lanczos' iterations, unless so many iterations are asked for."""
    tolerance: float
    """Relative error bound at which Lanczos' method stops."""


THOROUGH = Effort(5 * 10**10, BOUND_PRODUCTS, 10**11, 1e-6)
"""Of one layer: minutes."""
QUICK = Effort(3 * 10**9, 4 * 10**10, 2 * 10**9, 1e-2)
"""Of each of many: seconds."""

BASIS, KEPT = 48, 16  # vectors held by Lanczos' method, and those that a restart keeps
_EPSILON = 2.0**-52


@dataclass(frozen=True)
class Spectrum(Shown):
    """What is known of the singular values of a matrix, min(rows, columns) of them."""

    method: str
    """"dense", "fourier" (both give all values, to rounding) or "lanczos" (bounds of the largest)."""
    largest: float
    """The spectral norm ‖M‖₂; by "lanczos" a lower bound of it, up to rounding."""
    error: float
    """A singular value lies within this of `largest`: a bound from the residual, 0 for the other methods."""
    iterations: int
    """Products with MᴴM that were taken; 0 for the other methods."""
    converged: bool
    """Whether `error` is at most the tolerance asked for, times `largest`."""
    smallest: float | None = None
    """The smallest of the min(rows, columns) singular values; None where only the largest is known."""
    rank: int | None = None
    """Singular values above largest · max(rows, columns) · 2^-52, as `numpy.linalg.matrix_rank` counts."""
    condition: float | None = None
    """largest / smallest; infinite where the rank is not full."""
    upper: float = math.inf
    """The spectral norm is at most this, rounding included; `largest` and its own where that is known."""
    upper_method: str | None = None
    """Whence `upper` is: `method` where all values are known, else "gram" or "taps", as `Bound` has them."""
    smallest_upper: float = math.inf
    """The smallest is at most this, up to rounding."""
    values: NDArray[Any] | None = field(default=None, repr=False, compare=False)
    """All singular values, float64, the largest first, (min(rows, columns),); None where unknown."""

    @property
    def exact(self) -> bool:
        """Whether all singular values are known, to rounding."""
        return self.rank is not None

    def bounded(self, bound: Bound, frobenius: float, count: int) -> Spectrum:
        """With a bound of the norm; and of the smallest of `count`, since their squares sum to ‖M‖_F²."""
        rest = max(frobenius**2 - self.largest**2, 0.0)
        smallest = math.sqrt(rest / (count - 1)) if count > 1 else bound.value
        smallest = min(smallest, bound.value)
        return replace(self, upper=bound.value, upper_method=bound.method, smallest_upper=smallest)

    @np.errstate(over="ignore")  # what is beyond float64 is infinite
    def scaled(self, factor: float) -> Spectrum:
        """Of the matrix times a number above 0."""
        return replace(
            self,
            largest=self.largest * factor,
            error=self.error * factor,
            smallest=None if self.smallest is None else self.smallest * factor,
            upper=math.nextafter(self.upper * factor, math.inf) if self.upper else 0.0,
            smallest_upper=self.smallest_upper * factor,
            values=None if self.values is None else self.values * factor,
        )

    def facts(self) -> list[Fact]:
        """The largest with its bounds, the smallest, rank and condition; None for what is not known."""
        how = {
            "dense": "of a dense copy",
            "fourier": "exact, by Fourier transform",
            "lanczos": f"{'' if self.converged else 'not converged '}to ±{self.error:.2g}, "
            f"{self.iterations} Lanczos iterations",
        }[self.method]
        unknown = "unknown: M is too large for all singular values"
        smallest, rank, condition = (
            unknown if value is None else f"{value:.{digits}g}"
            for value, digits in ((self.smallest, 10), (self.rank, 15), (self.condition, 6))
        )
        if self.smallest is None:
            smallest = f"at most {self.smallest_upper:.4g}: M is too large for all singular values"
        label, largest = "largest singular value", f"{self.largest:.10g}"
        proof = {"gram": "by Gram iteration on the symbol", "taps": "the sum of the taps' norms"}
        # Seven digits, the last of them rounded up.
        most = f"{self.upper * (1 + 5e-7):.7g}  (guaranteed: {proof.get(self.upper_method or '')})"
        return [
            Fact("spectral_norm", label, self.largest, f"{largest}  ({how})", brief=f"{label} {largest}"),
            Fact("spectral_error", "", self.error, ""),
            Fact("method", "", self.method, ""),
            Fact("iterations", "", self.iterations, ""),
            Fact("converged", "", self.converged, ""),
            Fact("spectral_norm_upper", "" if self.exact else "and at most", self.upper, most),
            Fact("upper_method", "", self.upper_method, ""),
            Fact("smallest_singular_value", "smallest singular value", self.smallest, smallest),
            Fact("smallest_singular_value_upper", "", self.smallest_upper, ""),
            Fact("rank", "rank", self.rank, rank),
            Fact("condition", "condition", self.condition, condition),
        ]


def chain_bound(spectra: Iterable[Spectrum | None]) -> float:
    """A Lipschitz constant of layers one after another: the product of what their norms are at most.

    ‖f(x) − f(y)‖₂ ≤ Π ‖M_i‖₂ · ‖x − y‖₂, also with biases and with activations of slope at most 1 between the
    layers (ReLU, tanh). Infinite where one of them, None, has weights that are not finite.

    Raises:
        SettingError: no spectra.
    """
    layers = several(spectra)
    if layers is None or not all(isinstance(layer, Spectrum | None) for layer in layers):
        raise SettingError("spectra", f"got {got(spectra)}; give what spectrum_of makes of each layer")
    bound = 1.0
    for spectrum in layers:
        bound = math.nextafter(bound * (math.inf if spectrum is None else spectrum.upper), math.inf)
    return bound


@dataclass(frozen=True)
class Method:
    """How a layer's singular values are found."""

    name: str
    """As `Spectrum.method`."""
    lines: list[Line]
    """How its symbol is sampled for all of them."""
    parts: NDArray[Any]
    """Different groups' filters, (different, K/groups, *kernel, C/groups)."""
    counts: list[int]
    """How many groups have each."""

    def nbytes(self, shape: tuple[int, int]) -> int:
        """Memory that it takes for a matrix of this shape, at most about."""
        item: int = 16 if self.parts.dtype.kind == "c" else 8
        if self.name == "dense":
            groups = sum(self.counts)
            return 3 * item * (shape[0] // groups) * (shape[1] // groups) + 24 * min(shape)
        block = 16 * len(self.parts) * math.prod(symbol_shape(self.parts, self.lines))
        held = 4 * max(BLOCK_BYTES, block) + 2 * item * self.parts.size
        if self.name == "fourier":
            return held + 24 * min(shape)
        return held + item * (BASIS * min(shape) + 6 * max(shape))


def choose_method(
    geometry: ConvGeometry,
    filters: NDArray[Any],
    padding_mode: str,
    shape: tuple[int, int],
    effort: Effort = THOROUGH,
) -> Method:
    """The first that serves for filters (K, *kernel, C/groups), whose matrix has this shape."""
    lines = layer_lines(geometry, padding_mode)
    parts, counts = distinct_groups(filters, geometry.groups)
    rows, columns = (side // geometry.groups for side in shape)
    decomposed = len(parts) * rows * columns * min(rows, columns)
    if all(line.times for line in lines) and symbol_products(parts, lines) <= effort.decomposed:
        name = "fourier"
    elif rows * columns <= DENSE_ELEMENTS and decomposed <= effort.decomposed:
        name = "dense"
    else:
        name = "lanczos"
    return Method(name, lines, parts, counts)


def dense_spectrum(matrix: NDArray[Any]) -> Spectrum:
    """All singular values of a small dense matrix of finite numbers, in float64 (LAPACK)."""
    return of_all(singular_values(matrix), "dense", matrix.shape)


def singular_values(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """All of a matrix of finite numbers, the largest first, in float64 (LAPACK)."""
    wide = np.complex128 if matrix.dtype.kind == "c" else np.float64
    values: NDArray[np.float64] = np.linalg.svd(matrix.astype(wide, copy=False), compute_uv=False)
    return values


def fourier_spectrum(method: Method, shape: tuple[int, int]) -> Spectrum:
    """All singular values of a layer of this shape that is a whole torus of its own: its symbol's blocks'."""
    lines, found = method.lines, []
    times = math.prod(line.times for line in lines) * np.array(method.counts)
    for part, count in blocks(polyphase(method.parts, lines), [line.points for line in lines]):
        values = singular_values(part)  # (frequencies, groups, values)
        found.append(values.repeat(times * count, axis=1).reshape(-1))
    return of_all(np.concatenate(found), "fourier", shape)


def of_all(values: NDArray[Any], method: str, shape: tuple[int, int]) -> Spectrum:
    """What is known when all singular values are, those of a matrix of this shape; 0 those that lack."""
    values = np.append(values, np.zeros(min(shape) - len(values)))
    values[::-1].sort()
    largest, smallest = float(values[0]), float(values[-1])
    rank = int(np.count_nonzero(values > largest * max(shape) * _EPSILON))
    condition = largest / smallest if rank == values.size else math.inf
    upper = largest * (1 + max(shape) * _EPSILON)
    return Spectrum(method, largest, 0.0, 0, True, smallest, rank, condition, upper, method, smallest, values)


def affordable_iterations(nnz: int, effort: Effort) -> int:
    """How many of Lanczos' method are taken unless more are asked for, of a matrix with so many entries."""
    return min(ITERATIONS, max(effort.iterated // max(nnz, 1), LEAST_ITERATIONS))


def lanczos_spectrum(
    gram: Callable[[NDArray[Any]], NDArray[Any]],
    size: int,
    dtype: Any = np.float64,
    tolerance: float = THOROUGH.tolerance,
    iterations: int = ITERATIONS,
    watch: Watch = unwatched,
) -> Spectrum:
    """The largest singular value of M by Lanczos' method on MᴴM (or MMᴴ), from a fixed random start.

    Thick restarts (Wu & Simon, 2000) keep 48 vectors at most, all orthogonalised against each other twice.
    With θ the largest Ritz value and r its residual, MᴴM has an eigenvalue within ‖r‖ of θ; so M has a
    singular value within ‖r‖/√θ of √θ. The value itself is never above the norm, but for rounding.

    Args:
        gram: v ↦ MᴴM·v, for vectors (size,) of `dtype`; its values should not be far from 1 in scale.
        tolerance: stop where that error is at most `tolerance`·√θ.
        iterations: products with MᴴM at most; `converged` says whether they sufficed.
        watch: hands on the numbers of the iterations.
    """
    rng = np.random.default_rng(2019)
    width = min(BASIS, size)
    basis = np.zeros((width, size), dtype)
    projected = np.zeros((width, width), dtype)
    start = rng.standard_normal(size)
    basis[0], count, step, theta, residual = start / np.linalg.norm(start), 0, 0, 0.0, math.inf
    for step in watch(range(1, iterations + 1), iterations):  # noqa: B007  # told below
        image = gram(basis[count])
        scale = np.linalg.norm(image)
        held = basis[: count + 1]
        column = held.conj() @ image
        image = image - column @ held
        # What is left of the projections would grow with every step; twice is enough (Kahan, Parlett).
        again = held.conj() @ image
        image -= again @ held
        column += again
        projected[: count + 1, count], projected[count, : count + 1] = column, column.conj()
        count += 1
        values, vectors = np.linalg.eigh(projected[:count, :count])
        theta, rest = max(float(values[-1]), 0.0), float(np.linalg.norm(image))
        residual = rest * abs(vectors[-1, -1])
        # A rest that is rounding means that the basis holds all that can be reached from the start.
        exhausted = rest <= 64 * np.finfo(np.float64).eps * scale or count == size
        if residual <= tolerance * theta or exhausted:
            break
        if count == width:
            basis[:KEPT] = vectors[:, -KEPT:].T @ basis
            projected[:] = 0
            np.fill_diagonal(projected[:KEPT, :KEPT], values[-KEPT:])
            count = KEPT
        basis[count] = image / rest
    largest = math.sqrt(theta)
    error = float(residual / largest if largest else residual)
    return Spectrum("lanczos", largest, error, step, bool(residual <= tolerance * theta))
