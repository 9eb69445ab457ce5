"""A layer's symbol: the small matrices, one a frequency, that a convolution is in the Fourier domain.

On a torus, or on an endless plane, a convolution of stride S is block diagonal in the Fourier domain. With
the taps i = j·S' + r parted by their rest r by S' = S / gcd(S, D), its block at frequency ψ is, by one axis,

    B(ψ)[k, (r, c)] = Σ_j w[k, j·S' + r, c] · exp(−i·j·ψ)

since taps of different rests never meet the same pixel, and a shift of all taps changes no singular value.
Its singular values are the layer's (Sedghi, Gupta & Long, ICLR 2019, for stride 1), each block's as often as
the frequency occurs. A layer that is padded or cut off is a part of such an operator: its norm is at most
that of the largest block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.entries import taps_inside
from convmat.geometry import ConvGeometry

BLOCK_BYTES = 1 << 24
"""Of Fourier blocks held at a time; a single block may be larger."""

BOUND_PRODUCTS = 10**11
"""Multiplications that a bound may take, about a minute's work; where it would take more it is coarser."""

DENSITIES = (64, 32, 16, 8, 4)  # frequencies for each step between taps, the finest first
SQUARINGS = 18  # then the bound is at most side^(2^-19) of the norm, 1 + 2e-5 for a side of 10^4
_ROUGH = 3  # after so many it shows whether more would be worth it
_PIECE = 1 << 12  # elements of blocks that are tested together
_OF_A_WAVE = 100  # multiplications that take as long as one exp(−iψ)
_UNIT = 2.0**-53


class Line(NamedTuple):
    """One axis of a layer as one of a torus or of the endless plane: how its symbol is sampled."""

    rests: int
    """Taps parted by their rest by this number have different pixels."""
    points: int
    """Frequencies, evenly spaced."""
    times: int
    """How often a frequency's block occurs in M; 0 where M is only a part of the operator."""
    factor: float
    """‖M‖² is at most this times ‖B‖² of the largest block at these points."""


class Bound(NamedTuple):
    """What a norm is at most, rounding included."""

    value: float
    method: str
    """"gram", by Gram iteration on the symbol, or "taps", the sum of the taps' norms."""


def layer_lines(geometry: ConvGeometry, padding_mode: str, density: int | None = None) -> list[Line]:
    """How the symbol is sampled along each axis; by at most `density` points for each degree in exp(−iψ)."""
    return [_line(geometry, axis, padding_mode, density) for axis in range(len(geometry.stride))]


def _line(geometry: ConvGeometry, axis: int, padding_mode: str, density: int | None) -> Line:
    """One axis, whose outputs are y ↦ Σ_i w[i]·x[y·S + i·D − P].

    Circular padding makes it a part of the torus of H pixels: its outputs are those at multiples of
    gcd(S, H), each once if there are as many, else at most ⌈out / their number⌉ times. Zeros make it a part
    of any torus so large that no output meets both ends, here of a multiple of S and D. Otherwise the padded
    input is laid on such a torus, on which a pixel stands at most `_copies` times: the map that pads has the
    square root of that as its norm, since each of its rows holds a single 1.

    v ↦ ‖B(ψ)ᴴv‖² is a trigonometric polynomial, of degree n = ⌊(k − 1) / S'⌋ along the axis. Sampled at
    M > 2n points it is nowhere above max / cos(πn/M), by a theorem of M. Riesz: about its maximum it falls no
    faster than cos(nψ), and a point is at most π/M away.
    """
    g = geometry
    k, stride, dilation, size, out = (
        of[axis] for of in (g.kernel_size, g.stride, g.dilation, g.input_size, g.output_size)
    )
    reach, (before, _) = g.extent[axis] - 1, g.pads[axis]
    span = (out - 1) * stride + reach + 1
    after = max(span - before - size, 0)
    padded = before > 0 or after > 0
    factor, times = 1.0, 0
    if padded and padding_mode == "circular":
        step = math.gcd(stride, size)
        outputs, rests = size // step, step // math.gcd(step, dilation)
        points = outputs // math.gcd(outputs, dilation // math.gcd(step, dilation))
        times, factor = (outputs if outputs == out else 0), float(-(-out // outputs))
    else:
        rests = stride // math.gcd(stride, dilation) if out > 1 else k
        if padding_mode == "zeros" or not padded:
            length = size + min(max(before, after), reach)
        else:
            length, factor = span, float(_copies(size, before, after, padding_mode))
        points = -(-length // math.lcm(stride, dilation))
        times = 0 if padded or rests < k else out
    degree = (k - 1) // rests
    if degree == 0:
        points = 1
    elif density is not None and points > density * degree:
        # The points no longer are those of a torus, but of the endless line.
        points, times = density * degree, 0
        factor /= math.cos(math.pi / density)
    return Line(min(rests, k), points, times // points, factor)


def _copies(size: int, before: int, after: int, padding_mode: str) -> int:
    """How often a pixel stands in an axis that is padded by "reflect" or "replicate", at most."""
    everywhere = before + size + after
    if size == 1:
        return everywhere
    if padding_mode == "replicate":
        return 1 + max(before, after)
    return 2 * -(-everywhere // (2 * size - 2))


def tap_copies(geometry: ConvGeometry, axis: int, padding_mode: str) -> NDArray[np.int64]:
    """For each tap along an axis, how many outputs have the same pixel at it, at most."""
    g = geometry
    k, stride, dilation, size, out = (
        of[axis] for of in (g.kernel_size, g.stride, g.dilation, g.input_size, g.output_size)
    )
    if padding_mode == "zeros":
        return np.minimum(taps_inside(g)[axis], 1)
    first = np.arange(k) * dilation - g.pads[axis][0]
    last = first + (out - 1) * stride
    inside = (first >= 0) & (last < size)
    if padding_mode == "replicate":
        low = (-first // stride + 1).clip(0, out)  # outputs at or before the first pixel, and so on
        high = out - (-((first - size + 1) // stride)).clip(0, out)
        several = np.maximum(low, high) if size > 1 else np.full(k, out)
        return np.where(inside, 1, several.clip(1))
    period = size if padding_mode == "circular" else max(2 * size - 2, 1)
    turns = -(-out // (period // math.gcd(stride, period)))
    return np.where(inside, 1, turns if padding_mode == "circular" else 2 * turns)


def distinct_groups(filters: NDArray[Any], groups: int) -> tuple[NDArray[Any], list[int]]:
    """The groups' filters, (different, K/groups, *kernel, C/groups), and how many groups have them."""
    found: dict[bytes, list[int]] = {}
    parts = filters.reshape(groups, -1, *filters.shape[1:])
    for group, part in enumerate(parts):
        found.setdefault(part.tobytes(), []).append(group)
    return parts[[members[0] for members in found.values()]], list(map(len, found.values()))


def polyphase(parts: NDArray[Any], lines: Sequence[Line]) -> NDArray[Any]:
    """(groups, K/groups, *kernel, C/groups) parted by rests: (*steps, groups, K/groups, rests·C/groups)."""
    groups, filters, *kernel, depth = parts.shape
    steps = [-(-k // line.rests) for k, line in zip(kernel, lines, strict=True)]
    whole = [n * line.rests for n, line in zip(steps, lines, strict=True)]
    grown = [(0, 0), (0, 0), *((0, n - k) for n, k in zip(whole, kernel, strict=True)), (0, 0)]
    split = [n for step, line in zip(steps, lines, strict=True) for n in (step, line.rests)]
    taps = np.pad(parts, grown).reshape(groups, filters, *split, depth)
    axes = len(kernel)
    order = [*range(2, 2 + 2 * axes, 2), 0, 1, *range(3, 3 + 2 * axes, 2), 2 + 2 * axes]
    return taps.transpose(order).reshape(*steps, groups, filters, -1)


def symbol_shape(parts: NDArray[Any], lines: Sequence[Line]) -> tuple[int, int]:
    """Rows and columns of B: (K/groups, rests·C/groups)."""
    return parts.shape[1], math.prod(line.rests for line in lines) * int(parts.shape[-1])


def symbol_products(parts: NDArray[Any], lines: Sequence[Line]) -> int:
    """Multiplications that the symbol takes: its waves, its sampling, and a Gram matrix of each block.

    Of real weights half of the blocks stand for all, so that their Cholesky decompositions are paid, too.
    """
    rows, columns = symbol_shape(parts, lines)
    steps: list[int] = [-(-k // line.rests) for k, line in zip(parts.shape[2:-1], lines, strict=True)]
    waves = sum(n * line.points for n, line in zip(steps, lines, strict=True))
    points: int = math.prod(line.points for line in lines)
    each = rows * columns * (min(rows, columns) + max(steps))
    if points == 1 and parts.dtype.kind != "c":
        each //= 4  # it is real
    return _OF_A_WAVE * waves + len(parts) * points * each


def blocks(weights: NDArray[Any], points: Sequence[int]) -> Iterator[tuple[NDArray[Any], int]]:
    """B at all frequencies, (frequencies, groups, rows, columns), some at a time, and how often each counts.

    Args:
        weights: of `polyphase`. points: frequencies along each axis.
    """
    if math.prod(points) == 1:  # the sum of all taps
        yield weights.sum(tuple(range(len(points))))[None], 1
        return
    if weights.dtype.kind == "c":
        halves = [(np.arange(points[0]), 1)]
    else:  # the blocks at ψ and −ψ are conjugate, and have the same singular values
        own_mirror = np.array([0] if points[0] % 2 else [0, points[0] // 2])
        halves = [(own_mirror, 1), (np.arange(1, (points[0] + 1) // 2), 2)]
    for frequencies, count in halves:
        for part in _sampled(weights, points, frequencies):
            yield part, count


def _sampled(
    weights: NDArray[Any], points: Sequence[int], frequencies: NDArray[Any]
) -> Iterator[NDArray[Any]]:
    """B at these frequencies of the first axis, and all of the others."""
    item = 16 * math.prod(weights.shape[-3:])
    each = item * math.prod(max(n, m) for n, m in zip(weights.shape[1:], points[1:], strict=False))
    step = max(BLOCK_BYTES // max(each, 16 * len(weights)), 1)
    for start in range(0, len(frequencies), step):
        chosen = frequencies[start : start + step]
        part = np.tensordot(_waves(chosen, len(weights), points[0]), weights, 1)
        if len(points) > 1 and len(chosen) == 1:
            yield from _sampled(part[0], points[1:], np.arange(points[1]))
            continue
        for axis, count in enumerate(points[1:], 1):
            waves = _waves(np.arange(count), part.shape[axis], count)
            part = np.moveaxis(np.tensordot(waves, part, (1, axis)), 0, axis)
        yield part.reshape(-1, *weights.shape[-3:])


def _waves(frequencies: NDArray[Any], steps: int, points: int) -> NDArray[Any]:
    """exp(−2πi·f·j / points), (frequencies, steps)."""
    # Reduced as whole numbers first: the angle then has no more error than its own rounding.
    return np.exp(-2j * np.pi / points * (np.outer(frequencies, np.arange(steps)) % points))


def gram_bounds(matrices: NDArray[Any], squarings: int = SQUARINGS) -> NDArray[np.float64]:
    """What the norms of matrices (…, m, n) are at most, by Gram iteration (Delattre et al., ICML 2023).

    ‖A·Aᴴ‖₂ = ‖A‖₂², so that after t Gram matrices ‖A‖₂ ≤ ‖A_t‖_F^(2^-t), and that is at most
    min(m, n)^(2^-(t+1)) times too much. They are divided by their Frobenius norm on the way.

    Returns:
        The bounds, but for rounding (see `_rounding`).
    """
    part = matrices.reshape(-1, *matrices.shape[-2:])
    if part.shape[-2] > part.shape[-1]:
        part = part.swapaxes(-1, -2)
    logs = np.zeros(len(part))
    for t in range(squarings + 1):
        if t:
            part = part @ part.conj().swapaxes(-1, -2)
        norms = np.maximum(np.linalg.norm(part, axis=(-2, -1)), np.finfo(np.float64).tiny)
        part = part / norms[:, None, None]
        logs += np.log(norms) / 2**t
    bounds: NDArray[np.float64] = np.exp(logs)
    return bounds


def all_within(matrices: NDArray[Any], limit: float) -> bool:
    """Whether the norms of matrices (n, rows, columns) are proven to be at most `limit`, but for rounding.

    They are where limit²·I − A·Aᴴ has a Cholesky decomposition, which costs no more than a Gram matrix. As
    computed that is the one of a matrix off by 4(m + 2)u of its trace at most, which `_rounding` covers.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.swapaxes(-1, -2)
    left = -(matrices @ matrices.conj().swapaxes(-1, -2))
    side = np.arange(left.shape[-1])
    left[:, side, side] += limit**2
    try:
        np.linalg.cholesky(left)
    except np.linalg.LinAlgError:
        return False
    return True


def _rounding(rows: int, columns: int) -> float:
    """What a bound of Gram iteration is multiplied by, since it is computed in float64.

    Of m ≤ n sides, the first Gram matrix errs in Frobenius norm by 4(n + 4)u·‖A‖_F² at most in any order of
    summation, complex numbers included, which is m times as much of its spectral norm; each later one by
    4(m + 4)·m·u, its Frobenius norm by m²·u, and what comes t squarings later counts for 2^-t. Of a Cholesky
    decomposition (Demmel, 1989) the trace is at most m·limit², and half of all of it is the norm's.
    """
    return 1 + 16 * min(rows, columns) * (max(rows, columns) + 8) * _UNIT


def norm_bound(
    geometry: ConvGeometry,
    filters: NDArray[Any],
    padding_mode: str,
    products: int = BOUND_PRODUCTS,
    guess: float = 0.0,
) -> Bound:
    """What ‖M‖₂ is at most: the smaller of two proven bounds, with what float64 rounds off in them.

    "gram": ‖M‖ ≤ √(Π factors) · max ‖B(ψ)‖, as `Line` has them. "taps": ‖M‖ ≤ Σ_taps ‖w_tap‖ · √copies, since
    what one tap does is w_tap at a selection of pixels, each `tap_copies` times at most.

    Args:
        filters: (K, *kernel, C/groups), float64 or complex128, the largest of them not far from 1.
        products: multiplications that each may take, about.
        guess: what the norm is thought to be at most; of a symbol of one block this is tested first.
    """
    parts, _ = distinct_groups(filters, geometry.groups)
    bound = symbol_bound(geometry, parts, padding_mode, products, guess)
    rough = taps_bound(geometry, parts, padding_mode, products, _ROUGH)
    # By so much the rough one may be too large.
    if rough.value * min(parts.shape[1], parts.shape[-1]) ** -(0.5 ** (_ROUGH + 1)) > bound.value:
        return bound
    return min(bound, taps_bound(geometry, parts, padding_mode, products))


def symbol_bound(
    geometry: ConvGeometry,
    parts: NDArray[Any],
    padding_mode: str,
    products: int = BOUND_PRODUCTS,
    guess: float = 0.0,
) -> Bound:
    """That of `norm_bound` by the symbol, of different groups' filters.

    Gram iteration bounds a block. Each other is tested first, whether it is below that bound, which most are;
    one that is not has its own.
    """
    for density in DENSITIES:
        lines = layer_lines(geometry, padding_mode, density)
        rows, columns = symbol_shape(parts, lines)
        work = symbol_products(parts, lines)
        if work <= products:
            break
    if work > products and max(parts.shape[2:-1]) > min(rows, columns):  # in the sampling alone
        return Bound(math.inf, "gram")
    squarings = SQUARINGS if work <= products else 0
    weights = polyphase(parts, lines)
    # Of many blocks a guess would be met by most, and coarser than the largest.
    largest = guess if math.prod(line.points for line in lines) == 1 else 0.0
    step = max(_PIECE // (rows * columns), 1)
    for part, _ in blocks(weights, [line.points for line in lines]):
        part = part.reshape(-1, rows, columns)
        for some in (part[start : start + step] for start in range(0, len(part), step)):
            if not (largest and squarings and all_within(some, largest)):
                largest = max(largest, float(gram_bounds(some, squarings).max()))
    largest *= _rounding(rows, columns)
    steps = weights.shape[: len(lines)]
    taps = np.abs(weights).sum(tuple(range(len(lines))))  # (groups, rows, columns)
    # Each wave errs by 48 units at most, and each sum of n terms by 4n; each weight by one.
    largest += 4 * _UNIT * sum(n + 13 for n in steps) * float(np.linalg.norm(taps, axis=(1, 2)).max())
    factor = math.sqrt(math.prod(line.factor for line in lines))
    return Bound(largest * factor * (1 + 32 * _UNIT), "gram")


def taps_bound(
    geometry: ConvGeometry,
    parts: NDArray[Any],
    padding_mode: str,
    products: int = BOUND_PRODUCTS,
    squarings: int = SQUARINGS,
) -> Bound:
    """That of `norm_bound` by the taps, of different groups' filters."""
    groups, rows, *kernel, columns = parts.shape
    taps = math.prod(kernel)
    each = parts.reshape(groups, rows, taps, columns).swapaxes(1, 2)
    squarings = min(squarings, _affordable(groups * taps * _block_products(rows, columns), products))
    step = max(BLOCK_BYTES // (16 * rows * columns), 1)
    flat = each.reshape(-1, rows, columns)
    found = [gram_bounds(flat[start : start + step], squarings) for start in range(0, len(flat), step)]
    copies = np.ones(())
    for axis in range(len(kernel)):
        copies = np.multiply.outer(copies, tap_copies(geometry, axis, padding_mode).astype(np.float64))
    sums = np.concatenate(found).reshape(groups, taps) @ np.sqrt(copies.reshape(-1))
    rounding = _rounding(rows, columns) * (1 + (2 * taps + 32) * _UNIT)
    return Bound(float(sums.max()) * rounding, "taps")


def _block_products(rows: int, columns: int) -> int:
    """Multiplications of a Gram matrix, of the smaller side."""
    return min(rows, columns) ** 2 * max(rows, columns)


def _affordable(work: int, products: int) -> int:
    """Squarings, each of so many multiplications; without any the bound is the Frobenius norm."""
    return min(SQUARINGS, products // max(work, 1))
