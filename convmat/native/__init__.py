"""The index mapping, compiled: loads the library that the build hook made, or says why there is none.

`library()` loads it on first use, from this folder alone. Each of its methods is one call of C on arrays and on
`sizes`, the layer's numbers in the order that C's `Sizes` has. C checks nothing that the caller already has:
shapes, dtypes, and that products of sizes stay below 2^63.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVELS = ("baseline", "avx2", "avx512")
KERNELS = ("wide", "planes", "depthwise")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_FOLDER = Path(__file__).parent
_NOTE = "built.txt"


class Box(NamedTuple):
    """The outputs that a thread computes at a time, and what it needs for that."""

    images: int
    planes: int
    rows: int
    columns: int
    blocks: int
    """Of filters (wide) or groups (planes)."""
    scratch: int
    """Bytes for each thread."""


def sizes(
    batch: int,
    channels: int,
    filters: int,
    groups: int,
    input_size: Sequence[int],
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    before: Sequence[int],
    padding_mode: str = "zeros",
    x_steps: Sequence[int] | None = None,
    w_steps: Sequence[int] | None = None,
    y_steps: Sequence[int] | None = None,
) -> bytes:
    """A layer's numbers as C reads them; immutable, so that a plan may keep them.

    Args:
        input_size, output_size, kernel_size, stride, dilation: 1 to 3 axes.
        before: padding before each axis; negative where the first output begins inside. What is after follows
            from output_size.
        x_steps: (image, *axes), elements from one to the next of x, whose channels are neighbours; by default
            C-contiguous (N, *input_size, C). Any sign.
        w_steps: (group, filter, *axes, channel), by default C-contiguous (K, *kernel, C/groups).
        y_steps: (image, *axes), by default C-contiguous (N, *output_size, K).
    """
    more = 3 - len(input_size)
    ones, zeros = (1,) * more, (0,) * more
    x_steps = x_steps or _steps((batch, *input_size, channels))[:-1]
    if w_steps is None:
        per_filter, *rest = _steps((filters, *kernel_size, channels // groups))
        w_steps = (filters // groups * per_filter, per_filter, *rest)
    y_steps = y_steps or _steps((batch, *output_size, filters))[:-1]
    return struct.pack(
        "37q",
        *(batch, channels, filters, groups),
        *(*ones, *input_size, *ones, *output_size, *ones, *kernel_size, *ones, *stride, *ones, *dilation),
        *(*zeros, *before, PADDING_MODES.index(padding_mode)),
        *(x_steps[0], *zeros, *x_steps[1:]),
        *(*w_steps[:2], *zeros, *w_steps[2:]),
        *(y_steps[0], *zeros, *y_steps[1:]),
    )


def _steps(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each axis of a C-contiguous array."""
    steps = [1]
    for size in shape[:0:-1]:
        steps.append(steps[-1] * size)
    return steps[::-1]


class Native:
    """The compiled library, for the processor's best instructions."""

    def __init__(self, level: str) -> None:
        """Load this level's library. OSError where there is none."""
        self.level = level
        library = ctypes.CDLL(str(_file(level)))
        pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        for name, arguments in {
            "lanes": [size],
            "box": [pointer, number, number, number, pointer],
            "convolve": [pointer] * 6 + [number] * 3,
            "unroll": [pointer] * 3 + [size, number, size, size, number],
            "fold": [pointer] * 2 + [size, pointer] + [number] * 4 + [size, size, number],
        }.items():
            function = getattr(library, f"convmat_{name}")
            function.argtypes = arguments
            setattr(self, f"_{name}", function)
        library.convmat_lanes.restype = size
        self._library = library

    _lanes: Any
    _box: Any
    _convolve: Any
    _unroll: Any
    _fold: Any

    def lanes(self, dtype: Any) -> int:
        """Elements of a vector register."""
        return int(self._lanes(np.dtype(dtype).itemsize))

    def box(self, sizes: bytes, dtype: Any, kernel: str, threads: int) -> Box:
        """How `convolve` is to cut this layer's outputs: fit for the caches, and enough to share out."""
        found = (ctypes.c_int64 * 6)()
        self._box(sizes, KERNELS.index(kernel), np.dtype(dtype).itemsize, threads, found)
        return Box(*found)

    def convolve(
        self,
        sizes: bytes,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        kernel: str,
        box: Box,
        threads: int,
    ) -> None:
        """y = x * w (+ bias). All four float32, or all float64, native byte order, aligned.

        x, w and y have the steps that `sizes` names, from their first element on; bias is contiguous, (K,).
        y overlaps none of the others. `kernel` is one of KERNELS: "wide" and "planes" do any layer,
        "depthwise" those with groups = C, K = any multiple of C.

        Raises:
            MemoryError: no room for a thread's scratch.
        """
        _check(
            self._convolve(
                sizes,
                struct.pack("6q", *box),
                x.ctypes.data,
                w.ctypes.data,
                None if bias is None else bias.ctypes.data,
                y.ctypes.data,
                KERNELS.index(kernel),
                x.itemsize,
                threads,
            )
        )

    def unroll(
        self,
        sizes: bytes,
        x: NDArray[Any],
        x_col: NDArray[Any],
        order: str,
        start: int,
        stop: int,
        threads: int,
    ) -> None:
        """Rows start..stop of X_col, written to x_col's first ones, bit for bit: any dtype, C-contiguous.

        x has `sizes`' x_steps. `order` is "hwc" or "chw". groups and filters, w_steps and y_steps do not matter.
        """
        chw = order == "chw"
        _check(self._unroll(sizes, x.ctypes.data, x_col.ctypes.data, x.itemsize, chw, start, stop, threads))

    def fold(
        self,
        sizes: bytes,
        x_col: NDArray[Any],
        first: int,
        x: NDArray[Any],
        overlap: str,
        order: str,
        start: int,
        stop: int,
        threads: int,
    ) -> None:
        """Lines start..stop of the folded images, of N·D·H lines of W·C elements, to x's first ones.

        x_col holds X_col from row `first` on, C-contiguous, as far as those lines need. x is C-contiguous;
        where no element comes it gets 0. Padding is cut off. Each pixel's elements are added in one order,
        whatever the band and the threads. `overlap`:

        - "sum": float32 to float32, float64 to float64, integers of any size to int64 (bool as uint8).
        - "mean": of float32 or float64.
        - "move": where no two elements meet (stride >= extent, on each axis): any dtype, bits kept.
        """
        kind = "m" if overlap == "move" else "u" if x_col.dtype.kind == "b" else x_col.dtype.kind
        _check(
            self._fold(
                sizes,
                x_col.ctypes.data,
                first,
                x.ctypes.data,
                ord(kind),
                x_col.itemsize,
                overlap == "mean",
                order == "chw",
                start,
                stop,
                threads,
            )
        )

    def transpose(
        self,
        geometry: Sequence[Any],
        y: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        x: NDArray[Any],
        choose: Any,
        threads: int,
    ) -> None:
        """x = the transposed convolution of y: the gradient by its input. Padding of zeros.

        x (N, *in, C), y (N, *out, K) and w (K, *kernel, C/groups) are C-contiguous, of one dtype, float32 or
        float64; bias (C,). `geometry` is (stride, dilation, before, groups), per axis, of the convolution that
        is transposed. See `phases` for how it is done. `choose(sizes, lanes)` names the kernel of each.
        """
        for sizes_, w_at, x_at in phases(geometry, y.shape, w.shape, x.shape):
            kernel = choose(sizes_)
            box = self.box(sizes_, x.dtype, kernel, threads)
            self.convolve(sizes_, y, w.reshape(-1)[w_at:], bias, x.reshape(-1)[x_at:], kernel, box, threads)


def phases(
    geometry: Sequence[Any], y_shape: Sequence[int], w_shape: Sequence[int], x_shape: Sequence[int]
) -> list[tuple[bytes, int, int]]:
    """The convolutions of stride 1 that a transposed convolution is: one for each place of a pixel in a stride.

    Pixel q gets y[o]·w[i] where q = o·S + i·D − P. So pixels with the same r = (q + P) mod S meet the same
    taps, those with i·D ≡ r (mod S): every S/gcd(S, D)-th one, and with each next tap o is D/gcd(S, D) less.
    Read backwards these taps are the kernel of a convolution over y.

    Returns:
        (sizes, element of w where its first tap is, element of x where the phase begins); sizes with 0 taps
        along an axis for pixels that no tap reaches: they get the bias.
    """
    import itertools
    import math

    stride, dilation, before, groups = geometry
    axes = len(stride)
    batch, *out, filters = y_shape
    *_, channels = x_shape
    x_steps, w_steps = _steps(x_shape), _steps(w_shape)
    along = []
    for a in range(axes):
        s, d, p, k = stride[a], dilation[a], before[a], w_shape[1 + a]
        found = []
        for q0 in range(min(s, x_shape[1 + a])):  # the phase's first pixel
            r = (q0 + p) % s
            g = math.gcd(s, d)
            taps = [i for i in range(k) if (i * d - r) % s == 0][::-1]
            count = -(-(x_shape[1 + a] - q0) // s)
            first = (q0 + p - taps[0] * d) // s if taps else 0
            found.append((q0, count, taps, first, d // g, s // g))
        along.append(found)
    result = []
    for chosen in itertools.product(*along):
        q0s, counts, taps, firsts, dilations, every = zip(*chosen, strict=True)
        w_at = sum(t[0] * step for t, step in zip(taps, w_steps[1:-1], strict=True) if t)
        x_at = sum(q0 * step for q0, step in zip(q0s, x_steps[1:-1], strict=True))
        packed = sizes(
            batch,
            filters,
            channels,
            groups,
            out,
            counts,
            [len(t) for t in taps],
            (1,) * axes,
            dilations,
            [-f for f in firsts],
            w_steps=(
                filters // groups * w_steps[0],
                1,
                *(-e * step for e, step in zip(every, w_steps[1:-1], strict=True)),
                w_steps[0],
            ),
            y_steps=(x_steps[0], *(s * step for s, step in zip(stride, x_steps[1:-1], strict=True))),
        )
        result.append((packed, w_at, x_at))
    return result


def _check(code: int) -> None:
    if code == 1:
        raise MemoryError("no memory for the scratch of a convolution; use fewer threads")
    assert code == 0, code


def _file(level: str) -> Path:
    return _FOLDER / f"_{level}.so"


@cache
def library() -> Native | None:
    """The library, loaded once; None where there is none, or where CONVMAT_NATIVE is 0."""
    return _load()[0]


def status() -> str:
    """What computes, and why: "native, avx2", or "NumPy: no C compiler when installed"."""
    return _load()[1]


@cache
def _load() -> tuple[Native | None, str]:
    if os.environ.get("CONVMAT_NATIVE") == "0":
        return None, "NumPy: CONVMAT_NATIVE=0"
    if not _file("baseline").exists():
        note = _FOLDER / _NOTE
        return None, f"NumPy: {note.read_text().strip() if note.exists() else 'not compiled; pip install it'}"
    try:
        best = ctypes.CDLL(str(_file("baseline"))).convmat_level()
        wanted = os.environ.get("CONVMAT_LEVEL", LEVELS[best])
        level = LEVELS[min(best, LEVELS.index(wanted) if wanted in LEVELS else best)]
        return Native(level), f"native, {level}"
    except OSError as error:
        return None, f"NumPy: {error}"
