"""The index mapping, compiled: loads the library that the build hook made, or says why there is none.

`library()` loads it on first use, from this folder alone. Each of its methods is one call of C on arrays and
on `sizes`, the layer's numbers in the order that C's `Sizes` has. C checks nothing: shapes, dtypes, and that
products of sizes stay below 2^63, the caller has checked.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # whoever asks for the status need not wait for NumPy
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
            "box": [pointer, number],
            "convolve": None,  # pointers, which say so themselves, and an int: not to check them is quicker
            "unroll": [pointer] * 3 + [size, number, size, size, number],
            "convert": [pointer, number, number, pointer, number, size, number],
            "fold": [pointer] * 2 + [size, pointer] + [number] * 4 + [size, size, number],
        }.items():
            function = getattr(library, f"convmat_{name}")
            function.argtypes = arguments
            setattr(self, f"_{name}", function)
        library.convmat_lanes.restype = size
        self.best: int = library.convmat_level()
        """The best of LEVELS that the processor has."""
        self._library = library

    _lanes: Any
    _box: Any
    _convolve: Any
    _unroll: Any
    _fold: Any
    _convert: Any

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Elements of a vector register; 0 for int16 where no instruction multiplies pairs of them."""
        return int(self._lanes(dtype.itemsize))

    def layer(
        self, sizes: bytes, dtype: np.dtype[Any], kernel: str, threads: int, integers: bool = False
    ) -> bytes:
        """A convolution, decided: what `convolve` is given, and `box_of` reads.

        Outputs are cut so that they fit the caches, and are enough to share out.

        Args:
            dtype: float32 or float64, of x, w and bias; or int32: each of x and w is two channels in int16,
                whose products int32 adds, and y is int64. Only "wide" does this.
            kernel: "wide" or "planes", which do any layer, or "depthwise", for groups = C >= lanes.
            integers: y is int64; all sums are whole numbers below 2^24 (float32) or 2^53 (float64).
        """
        decided = (KERNELS.index(kernel), dtype.itemsize, 2 if dtype.kind == "i" else integers)
        layer = ctypes.create_string_buffer(sizes + struct.pack("9q", *decided, *(0,) * 6), len(sizes) + 72)
        self._box(layer, threads)
        return layer.raw

    def convolve(
        self,
        layer: bytes,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        threads: int,
    ) -> None:
        """y = x * w (+ bias), as `layer` says; native byte order, aligned.

        x, w and y have the steps that its sizes name, from their first element on; bias is contiguous, (K,).
        y overlaps none of the others.

        Raises:
            MemoryError: no room for a thread's scratch. ValueError: "depthwise" with fewer channels.
        """
        given = None if bias is None else _address(bias)
        if code := self._convolve(layer, _address(x), _address(w), given, _address(y), threads):
            _check(code)

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

        x has `sizes`' x_steps. `order` is "hwc" or "chw". Of `sizes` groups, filters, w_steps and y_steps do
        not matter. Elements have 1, 2, 4, 8 or 16 bytes.
        """
        chw = order == "chw"
        size = x.itemsize
        _check(self._unroll(sizes, _address(x), _address(x_col), size, chw, start, stop, threads))

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

        - "sum": of float32, float64 or int64. "mean": of float32 or float64.
        - "move": where no two elements meet: any dtype, bits kept.
        """
        kind = "m" if overlap == "move" else x_col.dtype.kind
        _check(
            self._fold(
                sizes,
                _address(x_col),
                first,
                _address(x),
                ord(kind),
                x_col.itemsize,
                overlap == "mean",
                order == "chw",
                start,
                stop,
                threads,
            )
        )

    def convert(self, source: NDArray[Any], target: NDArray[Any], threads: int) -> None:
        """Copy bool and integers of up to 32 bits (but uint32) to float32 or float64, both C-contiguous."""
        kind, size = "u" if source.dtype.kind == "b" else source.dtype.kind, source.itemsize
        to = (_address(target), target.itemsize, source.size)
        _check(self._convert(_address(source), ord(kind), size, *to, threads))


def box_of(layer: bytes) -> Box:
    """The box that `Native.layer` decided on."""
    return Box(*struct.unpack_from("6q", layer, len(layer) - 48))


def _address(a: NDArray[Any]) -> Any:
    """Where an array's first element is, as ctypes passes it."""
    try:
        return _at(a)  # the quicker way, of what is writable and C-contiguous
    except (TypeError, ValueError):
        return ctypes.c_void_p(a.ctypes.data)


_at: Any = (ctypes.c_char * 0).from_buffer


def phases(
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int], int],
    y_shape: Sequence[int],
    w_shape: Sequence[int],
    x_shape: Sequence[int],
) -> list[tuple[bytes, int, int]]:
    """The convolutions of stride 1 that a transposed one is: one for each place of a pixel in a stride.

    Pixel q gets y[o]·w[i] where q = o·S + i·D − P. So pixels with the same r = (q + P) mod S meet the same
    taps, those with i·D ≡ r (mod S): every S/gcd(S, D)-th one, and with each next tap o is D/gcd(S, D) less.
    Read backwards these taps are the kernel of a convolution over y.

    Args:
        geometry: (stride, dilation, before, groups) of the convolution that is transposed.
        y_shape, w_shape, x_shape: (N, *out, K), (K, *kernel, C/groups), (N, *in, C), all C-contiguous.

    Returns:
        For each phase (sizes, element of w where its first tap is, element of x where it begins): what
        `convolve` takes, with y as its x, w from that element on, a bias (C,), and x from its element on as
        its y. Where no tap reaches, sizes have 0 taps along an axis: every kernel then sets the bias.
    """
    stride, dilation, before, groups = geometry
    x_steps, w_steps = _steps(x_shape), _steps(w_shape)
    along = [
        [_phase(q0, *axis) for q0 in range(min(axis[0], axis[-1]))]
        for axis in zip(stride, dilation, before, w_shape[1:-1], x_shape[1:-1], strict=True)
    ]
    found = []
    for chosen in itertools.product(*along):
        packed = sizes(
            y_shape[0],
            y_shape[-1],
            x_shape[-1],
            groups,
            y_shape[1:-1],
            [phase.pixels for phase in chosen],
            [phase.taps for phase in chosen],
            (1,) * len(chosen),
            [phase.dilation for phase in chosen],
            [-phase.output for phase in chosen],
            w_steps=(
                w_shape[0] // groups * w_steps[0],
                1,
                *(-phase.every * step for phase, step in zip(chosen, w_steps[1:-1], strict=True)),
                w_steps[0],
            ),
            y_steps=(x_steps[0], *(s * step for s, step in zip(stride, x_steps[1:-1], strict=True))),
        )
        w_at = sum(phase.last * step for phase, step in zip(chosen, w_steps[1:-1], strict=True))
        x_at = sum(phase.first * step for phase, step in zip(chosen, x_steps[1:-1], strict=True))
        found.append((packed, w_at, x_at))
    return found


class _Phase(NamedTuple):
    """Pixels a stride apart along an axis, and the taps that they meet."""

    first: int
    """The first of the pixels."""
    pixels: int
    taps: int
    last: int
    """The last of the taps: the first of the convolution's kernel, which steps back by `every`."""
    every: int
    output: int
    """Where that tap finds the first pixel in y."""
    dilation: int


def _phase(first: int, stride: int, dilation: int, before: int, kernel: int, size: int) -> _Phase:
    common = math.gcd(stride, dilation)
    taps = [i for i in range(kernel) if (first + before - i * dilation) % stride == 0]
    last = taps[-1] if taps else 0
    return _Phase(
        first,
        -(-(size - first) // stride),
        len(taps),
        last,
        stride // common,
        (first + before - last * dilation) // stride,
        dilation // common,
    )


def _check(code: int) -> None:
    if code == 1:
        raise MemoryError("no memory for a thread's part of the work; use fewer threads")
    if code:
        raise ValueError("the compiled library does not do this")  # a mistake of ours


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
        return None, f"NumPy: {note.read_text('utf-8').strip() if note.exists() else 'not compiled'}"
    try:
        native = Native("baseline")
        levels = [level for level in LEVELS[: native.best + 1] if _file(level).exists()]
        wanted = os.environ.get("CONVMAT_LEVEL")
        level = wanted if wanted in levels else levels[-1]
        return (native if level == "baseline" else Native(level)), f"native, {level}"
    except (OSError, AttributeError) as error:  # built for another machine, or cut short
        return None, f"NumPy: {' '.join(str(error).split())}"
