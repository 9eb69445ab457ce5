"""Convolutions in arithmetics of other machines, emulated: two of each, that share no code.

All take x (N, H, W, C), filters (K, kh, kw, C) and padding in pixels, the same on all sides, and give
(N, H_out, W_out, K) in float32. Strides are 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Rounding = Callable[[Array], Array]


# Operands


def by_bits(dropped: int) -> Rounding:
    """Float32 without its last bits, rounded to nearest, ties to even, in integers."""

    def rounding(a: Array) -> Array:
        bits = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
        half = np.uint64((1 << dropped - 1) - 1)
        bits = (bits + half + ((bits >> np.uint64(dropped)) & np.uint64(1))) >> np.uint64(dropped)
        return (bits << np.uint64(dropped)).astype(np.uint32).view(np.float32)

    return rounding


def by_half_up(dropped: int) -> Rounding:
    """The same, but ties away from zero, as cvt.rna and many adders do."""

    def rounding(a: Array) -> Array:
        bits = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + np.uint64(1 << dropped - 1)) >> np.uint64(dropped)
        return (bits << np.uint64(dropped)).astype(np.uint32).view(np.float32)

    return rounding


def by_cutting(dropped: int) -> Rounding:
    return lambda a: (np.ascontiguousarray(a, np.float32).view(np.uint32) >> dropped << dropped).view(
        np.float32
    )


def by_halves(a: Array) -> Array:
    with np.errstate(over="ignore"):
        return a.astype(np.float16).astype(np.float32)


def by_splitting(bits: int) -> Rounding:
    """To so many bits by Veltkamp's splitting, in float64."""

    def rounding(a: Array) -> Array:
        wide = a.astype(np.float64)
        scaled = wide * (2.0 ** (53 - bits) + 1)
        return (scaled - (scaled - wide)).astype(np.float32)

    return rounding


# Sums


def patches(x: Array, kernel: Sequence[int], padding: int) -> Array:
    """(N, H_out, W_out, kh, kw, C)."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(x, tuple(kernel), (1, 2))
    return np.moveaxis(seen, 3, -1)


def by_product(x: Array, filters: Array, padding: int = 0) -> Array:
    """Unrolled, and multiplied in float32."""
    rows = patches(x, filters.shape[1:3], padding).astype(np.float32)
    columns = filters.reshape(len(filters), -1).T.astype(np.float32)
    return (rows.reshape(-1, len(columns)) @ columns).reshape(*rows.shape[:3], -1)


@np.errstate(over="ignore", invalid="ignore")
def one_by_one(x: Array, filters: Array, padding: int = 0, rounding: Rounding = lambda a: a) -> Array:
    """One product after the other, products and sums rounded."""
    rows = patches(x, filters.shape[1:3], padding).astype(np.float32)
    rows, columns = rows.reshape(*rows.shape[:3], -1), filters.reshape(len(filters), -1).astype(np.float32)
    total = np.zeros((*rows.shape[:3], len(filters)), np.float32)
    for i in range(columns.shape[1]):
        total = rounding(total + rounding(rows[..., i, None] * columns[:, i]))
    return total


@np.errstate(over="ignore", invalid="ignore")
def in_pairs(x: Array, filters: Array, padding: int = 0, rounding: Rounding = lambda a: a) -> Array:
    """Products added two by two, each sum rounded, products not."""
    rows = patches(x, filters.shape[1:3], padding).astype(np.float32)
    rows, columns = rows.reshape(*rows.shape[:3], -1), filters.reshape(len(filters), -1).astype(np.float32)
    terms = rows[..., None, :] * columns
    while terms.shape[-1] > 1:
        if terms.shape[-1] % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[..., :1])], -1)
        terms = rounding(terms[..., ::2] + terms[..., 1::2])
    return rounding(terms[..., 0])


# Winograd


_LAVIN = {
    2: (
        [[1, 1, 1, 0], [0, 1, -1, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    ),
    4: (
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
    ),
    6: (
        [[1, 1, 1, 1, 1, 1, 1, 0]]
        + [[0, 1, (-1) ** i, 2**i, (-2) ** i, 0.5**i, (-0.5) ** i, i == 5] for i in range(1, 6)],
        [
            [1, 0, 0],
            [-2 / 9, -2 / 9, -2 / 9],
            [-2 / 9, 2 / 9, -2 / 9],
            [1 / 90, 1 / 45, 2 / 45],
            [1 / 90, -1 / 45, 2 / 45],
            [32 / 45, 16 / 45, 8 / 45],
            [32 / 45, -16 / 45, 8 / 45],
            [0, 0, 1],
        ],
        [
            [1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0],
            [0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0],
            [0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0],
            [0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0],
            [0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0],
            [0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0],
            [0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0],
            [0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1],
        ],
    ),
}
"""Aᵀ, G and Bᵀ for 3 taps."""


def by_winograd(x: Array, filters: Array, padding: int = 0, m: int = 2) -> Array:
    """F(m×m, 3×3) with Lavin and Gray's matrices, all in float32, tile by tile."""
    a, g, b = (np.array(matrix, np.float32) for matrix in _LAVIN[m])
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(np.float32)
    n, height, width, _ = x.shape
    out = height - 2, width - 2
    x = np.pad(x, ((0, 0), (0, -out[0] % m), (0, -out[1] % m), (0, 0)))
    u = np.stack([np.stack([g @ f[..., c] @ g.T for c in range(f.shape[-1])], -1) for f in filters])
    y = np.zeros((n, -(-out[0] // m) * m, -(-out[1] // m) * m, len(filters)), np.float32)
    for i, j in itertools.product(range(0, out[0], m), range(0, out[1], m)):
        tile = x[:, i : i + m + 2, j : j + m + 2]
        v = np.einsum("pi,nijc->npjc", b, tile)
        v = np.einsum("qj,npjc->npqc", b, v)
        met = np.einsum("npqc,kpqc->npqk", v, u)
        half = np.einsum("ip,npqk->niqk", a, met)
        y[:, i : i + m, j : j + m] = np.einsum("jq,niqk->nijk", a, half)
    return y[:, : out[0], : out[1]]


def by_toom_cook(
    x: Array, filters: Array, padding: int = 0, m: int = 4, points: Sequence[float] = (0, 1, -1, 0.5, -0.5)
) -> Array:
    """The same from points, scaled so that Aᵀ and Bᵀ share what is large; all tiles at once."""
    r = filters.shape[1]
    t = m + r - 1

    def powers(count: int) -> Array:
        return np.array([[p**i for i in range(count)] for p in points] + [[0] * (count - 1) + [1]], float)

    scale = np.abs(np.linalg.inv(powers(t)).T).max(1)
    a = powers(m).T.astype(np.float32)
    g = (powers(r) * scale[:, None]).astype(np.float32)
    b = (np.linalg.inv(powers(t)).T / scale[:, None]).astype(np.float32)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(np.float32)
    out = x.shape[1] - r + 1, x.shape[2] - r + 1
    x = np.pad(x, ((0, 0), (0, -out[0] % m), (0, -out[1] % m), (0, 0)))
    tiles = np.lib.stride_tricks.sliding_window_view(x, (t, t), (1, 2))[:, ::m, ::m]  # (n, i, j, c, t, t)
    v = b @ tiles @ b.T
    u = g @ np.moveaxis(filters.astype(np.float32), -1, 1) @ g.T  # (k, c, t, t)
    met = np.einsum("nijcpq,kcpq->nijkpq", v, u, optimize=True)
    y = a @ met @ a.T  # (n, i, j, k, m, m)
    y = y.transpose(0, 1, 4, 2, 5, 3)
    n, rows, _, columns, _, k = y.shape
    return y.reshape(n, rows * m, columns * m, k)[:, : out[0], : out[1]]


# Fourier


def by_numpy_fft(x: Array, filters: Array, padding: int = 0) -> Array:
    """Whole images by NumPy's transforms, in complex64."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(np.float32)
    size, (kh, kw) = x.shape[1:3], filters.shape[1:3]
    f = np.fft.rfft2(x, size, (1, 2)).astype(np.complex64)
    w = np.fft.rfft2(filters.astype(np.float32), size, (1, 2)).astype(np.complex64)
    y = np.einsum("nhwc,khwc->nhwk", f, w.conj())
    y = np.fft.irfft2(y, size, (1, 2)).astype(np.float32)
    return y[:, : size[0] - kh + 1, : size[1] - kw + 1]


def by_own_fft(x: Array, filters: Array, padding: int = 0) -> Array:
    """Images of the next power of 2, by a radix-2 transform that rounds to complex64 after each step."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(np.float32)
    size, (kh, kw) = x.shape[1:3], filters.shape[1:3]
    lengths = [1 << (h - 1).bit_length() for h in size]

    def both(a: Array, inverse: bool = False) -> Array:
        for axis, length in zip((1, 2), lengths, strict=True):
            wide = [(0, length - h if i == axis else 0) for i, h in enumerate(a.shape)]
            a = np.moveaxis(_radix_2(np.moveaxis(np.pad(a, wide), axis, -1), inverse), -1, axis)
        return a

    y = np.einsum("nhwc,khwc->nhwk", both(x.astype(np.complex64)), both(filters.astype(np.complex64)).conj())
    y = both(y, True).real / np.float32(lengths[0] * lengths[1])
    return y[:, : size[0] - kh + 1, : size[1] - kw + 1]


def _radix_2(a: Array, inverse: bool) -> Array:
    n = a.shape[-1]
    if n == 1:
        return a
    even, odd = _radix_2(a[..., ::2], inverse), _radix_2(a[..., 1::2], inverse)
    turn = np.exp((2j if inverse else -2j) * np.pi * np.arange(n // 2) / n).astype(np.complex64)
    return np.concatenate([even + turn * odd, even - turn * odd], -1)


# Numbers


def data(kind: str, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """float32: "random", "trained" (heavy tails), "sparse" (after ReLU), or "hostile" (all magnitudes)."""
    values = rng.standard_normal(shape)
    if kind == "trained":
        values = rng.standard_t(3, shape) * 0.05
    elif kind == "sparse":
        values = np.maximum(values - 0.5, 0)
    elif kind == "hostile":
        values = (
            np.sign(values) * 2.0 ** rng.integers(-14, 14, shape) * (1 + 2.0**-11 * rng.integers(0, 2, shape))
        )
    return values.astype(np.float32)
