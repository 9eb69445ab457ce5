"""Singular values of a layer's matrix: dense, by Fourier transform, or its largest by Lanczos' method.

Each method says what it found and how sure it is of it. None needs the sparse matrix: the layer as a map, its
filters, or a dense copy of a small one is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.watching import Watch, unwatched

DENSE_ELEMENTS = 4_000_000
"""Matrices of at most so many elements have all of their singular values computed from a dense copy."""

TOLERANCE = 1e-6
"""Relative error bound at which Lanczos' method stops."""

ITERATIONS = 500
"""Products with MᴴM that Lanczos' method may take."""

MOST_ITERATIONS = 1_000_000
"""So many may be asked for."""

AFFORDABLE_PRODUCTS = 10**11
"""Entries times weights in all of Lanczos' iterations, about a minute's work, unless more are asked for."""

BASIS, KEPT = 48, 16  # vectors held by Lanczos' method, and those that a restart keeps
BLOCK_BYTES = 1 << 24  # of Fourier blocks held at a time


@dataclass(frozen=True)
class Spectrum:
    """What is known of the singular values of a matrix, min(rows, columns) of them."""

    method: str
    """"dense", "fourier" (both give all values, to rounding) or "lanczos" (the largest alone)."""
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

    def scaled(self, factor: float) -> Spectrum:
        """Of the matrix times a number above 0."""
        smallest = None if self.smallest is None else self.smallest * factor
        return replace(self, largest=self.largest * factor, error=self.error * factor, smallest=smallest)


def dense_spectrum(matrix: NDArray[Any]) -> Spectrum:
    """All singular values of a small dense matrix of finite numbers, in float64 (LAPACK)."""
    wide = np.complex128 if matrix.dtype.kind == "c" else np.float64
    return _of_all(np.linalg.svd(matrix.astype(wide), compute_uv=False), "dense", max(matrix.shape))


def fourier_spectrum(
    filters: NDArray[Any], size: Sequence[int], dilation: Sequence[int], groups: int
) -> Spectrum:
    """All singular values of a circular layer of stride 1 whose output has the input's size.

    Its matrix is made block diagonal by the Fourier transform: for each frequency f the block is the
    (K, C) matrix Σ_i w[:, i, :]·exp(−2πi f·i·D / size), and the matrix's singular values are those of the
    blocks (Sedghi, Gupta & Long, "The Singular Values of Convolutional Layers", ICLR 2019). Where the padding
    is before or after only shifts the output, which changes none of them.

    Args:
        filters: (K, *kernel, C/groups), finite.
        size: the spatial axes of input and output. dilation: one for each. groups: blocks of channels.
    """
    values, times = [], []
    for blocks, count in _fourier_blocks(filters, size, dilation):
        grouped = blocks.reshape(len(blocks), groups, -1, filters.shape[-1])
        values.append(np.linalg.svd(grouped, compute_uv=False).reshape(len(blocks), -1))
        times.append(np.full(len(blocks), count))
    singular = np.concatenate(values)
    largest_side = math.prod(size) * max(len(filters), filters.shape[-1] * groups)
    return _of_all(np.repeat(singular, np.concatenate(times), axis=0).reshape(-1), "fourier", largest_side)


def _fourier_blocks(
    filters: NDArray[Any], size: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[NDArray[Any], int]]:
    """The blocks (frequencies, K, C/groups), a few at a time, and how often each of them counts."""
    waves = [
        # Reduced as whole numbers first: the angle then has no more error than its own rounding.
        np.exp(-2j * np.pi * (np.outer(np.arange(h), d * np.arange(k)) % h) / h)
        for h, d, k in zip(size, dilation, filters.shape[1:-1], strict=True)
    ]
    real = filters.dtype.kind != "c"
    partial = filters.astype(np.float64 if real else np.complex128)
    for axis, wave in reversed(list(enumerate(waves[1:], 1))):
        partial = np.moveaxis(np.tensordot(wave, partial, (1, axis + 1)), 0, axis + 1)
    rest = math.prod(size[1:]) * len(filters) * filters.shape[-1] * 16
    step = max(BLOCK_BYTES // rest, 1)
    # The blocks of f and −f are conjugate for real filters, and have the same singular values.
    halves = _runs_of_frequencies(size[0]) if real else [(range(size[0]), 1)]
    for frequencies, count in halves:
        for start in range(0, len(frequencies), step):
            chosen = waves[0][list(frequencies[start : start + step])]
            blocks = np.moveaxis(np.tensordot(chosen, partial, (1, 1)), 1, -2)
            yield blocks.reshape(-1, len(filters), filters.shape[-1]), count


def _runs_of_frequencies(size: int) -> list[tuple[range, int]]:
    """Frequencies along the first axis that stand for all, with how often each counts."""
    own_mirror = [0] if size % 2 else [0, size // 2]
    return [(range(f, f + 1), 1) for f in own_mirror] + [(range(1, (size + 1) // 2), 2)]


def _of_all(values: NDArray[Any], method: str, largest_side: int) -> Spectrum:
    largest, smallest = float(values.max()), float(values.min())
    rank = int(np.count_nonzero(values > largest * largest_side * np.finfo(np.float64).eps))
    condition = largest / smallest if rank == values.size else math.inf
    return Spectrum(method, largest, 0.0, 0, True, smallest, rank, condition)


def lanczos_spectrum(
    gram: Callable[[NDArray[Any]], NDArray[Any]],
    size: int,
    dtype: Any = np.float64,
    tolerance: float = TOLERANCE,
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
