"""Images to learn from: handwritten-looking digits from strokes, and any images' pixels as 0..1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.errors import DTypeError, ShapeError
from convmat.watching import Watch, unwatched

SIZE = 28
"""Height and width of a drawn digit, in pixels; the digit itself is about 20 high, as in MNIST."""

_SEGMENTS = 28  # straight pieces that a digit's strokes are drawn with
_CHUNK = 16  # images rendered at a time: their distances fit in a core's cache
_WRITTEN = 4096  # images whose strokes are computed at a time

_Style = tuple[tuple[tuple[float, float], ...], ...]

# Ways to write each digit: strokes as points (x right, y down) in a box of height 1 that a smooth curve runs
# through. A point given twice is a corner.
_STYLES: tuple[tuple[_Style, ...], ...] = (
    (  # 0
        (((0.5, 0.0), (0.2, 0.16), (0.12, 0.5), (0.24, 0.88), (0.5, 1.0), (0.78, 0.84), (0.86, 0.48),
          (0.74, 0.12), (0.47, 0.01)),),
        (((0.6, 0.04), (0.34, 0.06), (0.16, 0.36), (0.16, 0.74), (0.4, 0.99), (0.7, 0.88), (0.84, 0.5),
          (0.74, 0.12), (0.5, 0.03)),),
    ),
    (  # 1
        (((0.52, 0.0), (0.5, 0.5), (0.48, 1.0)),),
        (((0.32, 0.2), (0.54, 0.0), (0.54, 0.0), (0.52, 0.5), (0.5, 1.0)),),
        (((0.32, 0.2), (0.54, 0.02), (0.54, 0.02), (0.52, 0.5), (0.5, 0.98)), ((0.28, 1.0), (0.74, 0.98))),
    ),
    (  # 2
        (((0.18, 0.24), (0.32, 0.04), (0.62, 0.02), (0.78, 0.24), (0.62, 0.54), (0.36, 0.8), (0.14, 0.98),
          (0.14, 0.98), (0.5, 0.95), (0.88, 0.96)),),
        (((0.2, 0.2), (0.44, 0.0), (0.74, 0.14), (0.7, 0.46), (0.44, 0.82), (0.2, 0.96), (0.12, 0.84),
          (0.3, 0.78), (0.56, 0.92), (0.9, 0.92)),),
    ),
    (  # 3
        (((0.2, 0.12), (0.46, 0.0), (0.74, 0.1), (0.72, 0.34), (0.42, 0.47), (0.42, 0.47), (0.72, 0.54),
          (0.82, 0.76), (0.6, 0.97), (0.3, 0.98), (0.14, 0.84)),),
        (((0.2, 0.03), (0.76, 0.02), (0.76, 0.02), (0.44, 0.4), (0.44, 0.4), (0.74, 0.5), (0.8, 0.76),
          (0.54, 0.99), (0.16, 0.88)),),
    ),
    (  # 4
        (((0.3, 0.02), (0.22, 0.3), (0.16, 0.54), (0.16, 0.54), (0.5, 0.54), (0.84, 0.5)),
         ((0.74, 0.0), (0.68, 0.5), (0.62, 1.0))),
        (((0.88, 0.64), (0.5, 0.67), (0.1, 0.68), (0.1, 0.68), (0.36, 0.36), (0.64, 0.0), (0.64, 0.0),
          (0.62, 0.5), (0.6, 1.0)),),
    ),
    (  # 5
        (((0.3, 0.04), (0.25, 0.24), (0.2, 0.44), (0.2, 0.44), (0.5, 0.38), (0.78, 0.56), (0.74, 0.86),
          (0.44, 1.0), (0.14, 0.9)), ((0.3, 0.04), (0.55, 0.03), (0.84, 0.0))),
        (((0.86, 0.02), (0.34, 0.04), (0.34, 0.04), (0.26, 0.42), (0.26, 0.42), (0.6, 0.42), (0.76, 0.66),
          (0.6, 0.94), (0.16, 0.96)),),
    ),
    (  # 6
        (((0.66, 0.0), (0.38, 0.2), (0.2, 0.54), (0.22, 0.86), (0.48, 1.0), (0.74, 0.86), (0.74, 0.62),
          (0.5, 0.52), (0.24, 0.68)),),
        (((0.58, 0.0), (0.3, 0.32), (0.18, 0.7), (0.34, 0.97), (0.66, 0.94), (0.76, 0.7), (0.54, 0.56),
          (0.3, 0.7), (0.28, 0.88)),),
    ),
    (  # 7
        (((0.12, 0.06), (0.46, 0.05), (0.84, 0.02), (0.84, 0.02), (0.6, 0.42), (0.42, 1.0)),),
        (((0.14, 0.16), (0.18, 0.04), (0.5, 0.06), (0.86, 0.04), (0.86, 0.04), (0.62, 0.5), (0.5, 1.0)),),
        (((0.12, 0.04), (0.46, 0.05), (0.84, 0.02), (0.84, 0.02), (0.6, 0.42), (0.42, 1.0)),
         ((0.3, 0.52), (0.78, 0.48))),
    ),
    (  # 8
        (((0.74, 0.14), (0.5, 0.0), (0.26, 0.14), (0.34, 0.38), (0.64, 0.58), (0.76, 0.82), (0.5, 1.0),
          (0.24, 0.84), (0.34, 0.6), (0.64, 0.38), (0.75, 0.16)),),
        (((0.5, 0.46), (0.26, 0.26), (0.42, 0.02), (0.7, 0.1), (0.68, 0.34), (0.46, 0.5), (0.22, 0.76),
          (0.42, 1.0), (0.72, 0.9), (0.72, 0.64), (0.5, 0.46)),),
    ),
    (  # 9
        (((0.74, 0.2), (0.5, 0.02), (0.24, 0.16), (0.28, 0.42), (0.54, 0.46), (0.74, 0.22), (0.74, 0.22),
          (0.72, 0.6), (0.62, 1.0)),),
        (((0.72, 0.1), (0.44, 0.02), (0.22, 0.24), (0.38, 0.46), (0.66, 0.34), (0.76, 0.12), (0.76, 0.12),
          (0.74, 0.56), (0.6, 0.9), (0.3, 0.98)),),
    ),
)  # fmt: skip


def draw_digits(count: int, seed: int | list[int], watch: Watch = unwatched) -> NDArray[np.uint8]:
    """Draw digits 0 to 9 in a hand that varies: slant, width, size, thickness, place and a bend of the page.

    Args:
        count: images. seed: what `numpy.random.default_rng` takes; the same seed gives the same images.
        watch: of the drawing, a few images at a time.

    Returns:
        (count, 28, 28, 1) uint8, ink 255 on 0, in random order.
    """
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, 10, count)
    lines = np.empty((count, _SEGMENTS, 2, 2), np.float32)
    for digit, styles in enumerate(_STYLES):
        chosen = rng.integers(0, len(styles), count)
        for number, style in enumerate(styles):
            which = np.flatnonzero((digits == digit) & (chosen == number))
            hand = _Hand(style, len(which), rng)
            for start in range(0, len(which), _WRITTEN):
                part = slice(start, start + _WRITTEN)
                lines[which[part]] = _write(style, hand, part)
    thickness = rng.normal(1.15, 0.28, count).clip(0.6, 1.9)
    images = np.empty((count, SIZE * SIZE), np.uint8)
    for start in watch(range(0, count, _CHUNK), -(-count // _CHUNK)):
        part = slice(start, start + _CHUNK)
        images[part] = _ink(lines[part], thickness[part])
    return images.reshape(count, SIZE, SIZE, 1)


class _Hand:
    """The random numbers that a style is written with `count` times, drawn before any is used."""

    def __init__(self, style: _Style, count: int, rng: np.random.Generator) -> None:
        self.moves = [rng.normal(0, 0.035, (count, len(stroke), 2)) for stroke in style]
        """By which each point of each stroke is moved, (count, points, 2)."""
        self.spreads = [rng.standard_normal(count).clip(-2, 2)[:, None] for _ in range(10)]
        """Of all else that varies, (count, 1), within two spreads of the mean."""


def _write(style: _Style, hand: _Hand, part: slice) -> NDArray[np.float32]:
    """Some of the style's images, as line segments (n, segments, 2 ends, (x, y)) in pixels."""
    spreads = iter(hand.spreads)

    def vary(mean: float, spread: float) -> NDArray[np.float64]:
        """One number for each image."""
        return mean + spread * next(spreads)[part]

    lengths = [float(np.hypot(*np.diff(stroke, axis=0).T).sum()) for stroke in style]
    pieces = [max(round(_SEGMENTS * length / sum(lengths)), 1) for length in lengths]
    pieces[0] += _SEGMENTS - sum(pieces)
    parts = []
    for stroke, segments, moves in zip(style, pieces, hand.moves, strict=True):
        points = np.array(stroke) - 0.5
        # Points that are one in the style stay one, or a corner would become a knot.
        _, same = np.unique(points, axis=0, return_inverse=True)
        moved = points + moves[part][:, same.reshape(-1)]
        curve = _curve(len(points), segments) @ moved
        parts.append(np.stack([curve[:, :-1], curve[:, 1:]], axis=2))
    lines = np.concatenate(parts, axis=1).reshape(-1, 2 * _SEGMENTS, 2)
    x, y = lines[..., 0], lines[..., 1]
    bend_x = vary(0, 0.04) * np.sin(np.pi * (y + vary(0, 0.5)))
    bend_y = vary(0, 0.04) * np.sin(np.pi * (x + vary(0, 0.5)))
    x, y = x + bend_x, y + bend_y
    height = vary(19.2, 1.1)
    x = (x - vary(0.12, 0.2) * y) * height * vary(0.86, 0.12)
    y = y * height
    turn = vary(0, 0.09)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    middle = (SIZE - 1) / 2
    x = x - x.mean(axis=1, keepdims=True) + middle + vary(0, 0.7)
    y = y - y.mean(axis=1, keepdims=True) * 0.3 + middle + vary(0, 0.6)
    return np.stack([x, y], axis=-1).reshape(-1, _SEGMENTS, 2, 2).astype(np.float32)


def _curve(points: int, segments: int) -> NDArray[np.float64]:
    """The matrix (segments + 1, points) that makes a smooth curve of points: a Catmull-Rom spline.

    Between the points p1 and p2, with p0 before and p3 after, at 0 <= t <= 1, it is
    ½·(2·p1 + (p2 − p0)·t + (2·p0 − 5·p1 + 4·p2 − p3)·t² + (3·p1 − p0 − 3·p2 + p3)·t³).
    """
    at = np.linspace(0, points - 1, segments + 1)
    span = np.minimum(at.astype(int), points - 2)
    t = (at - span)[:, None]
    p0, p1, p2, p3 = (np.eye(points)[(span + k).clip(0, points - 1)] for k in (-1, 0, 1, 2))
    curve: NDArray[np.float64] = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return curve


def _ink(lines: NDArray[np.float32], thickness: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Pixels (count, 28·28) of line segments (count, segments, 2, 2): dark where a line is near.

    Of the segment from a to b, a + t·(b − a) is nearest to the pixel p, t being (p − a)·(b − a) / |b − a|²
    held within 0..1; its squared distance is |p − a|² + t·(t·|b − a|² − 2·(p − a)·(b − a)).
    """
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 1, 2)
    nearest = np.full((len(lines), SIZE * SIZE), np.inf, np.float32)
    a, along = lines[:, :, 0], lines[:, :, 1] - lines[:, :, 0]
    squared = (along**2).sum(-1) + np.float32(1e-6)
    p = pixels[None, :, 0].astype(np.float32)
    for s in range(lines.shape[1]):
        dx, dy = p[..., 0] - a[:, s, 0, None], p[..., 1] - a[:, s, 1, None]
        projection = dx * along[:, s, 0, None] + dy * along[:, s, 1, None]
        t = (projection / squared[:, s, None]).clip(0, 1)
        np.minimum(nearest, dx * dx + dy * dy + t * (t * squared[:, s, None] - 2 * projection), out=nearest)
    distance = np.sqrt(nearest.clip(0))
    ink = (thickness[:, None].astype(np.float32) + 0.5 - distance).clip(0, 1)
    return np.asarray(np.rint(255 * ink), np.uint8)


def unit_range(images: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Images of any number dtype as floats in 0..1.

    Args:
        images: (N, H, W, C). Unsigned integers are divided by the largest number of their dtype, 255 or
            65535; other integers by 255; booleans and floats are 0..1 already.
        dtype: float32 or float64.

    Raises:
        DTypeError: complex numbers, or integers wider than 16 bits outside 0..255.
        ShapeError: floats outside 0..1, NaN or infinite.
    """
    kind = images.dtype.kind
    if kind == "c":
        raise DTypeError("data", f"has dtype {images.dtype}; expected real numbers")
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    largest = int(np.iinfo(images.dtype).max) if images.dtype in (np.uint8, np.uint16) else 255
    if kind in "iu" and not 0 <= low <= high <= largest:
        raise DTypeError("data", f"has {images.dtype} values {low} .. {high}; expected 0 .. 255, or uint16")
    if kind == "f" and not 0 <= low <= high <= 1:
        raise ShapeError("data", f"has values {low:.6g} .. {high:.6g}; scale floats to 0 .. 1, or save uint8")
    # Divided in float64 and rounded once, so that every dtype sees the same images.
    return np.asarray(images / largest if kind in "iu" else images, dtype)
