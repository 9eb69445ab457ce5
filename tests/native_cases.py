"""Random layers through the compiled library, beside the definition; and arrays with guard pages around them.

As a script it runs them until time is up: `python -m tests.native_cases [--guard] [--seconds S] [LEVEL...]`.
Tests run it so where a crash may be the answer: on guarded memory, under sanitizers, on a mistaken source.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from convmat import native, reference

Place = Callable[[np.ndarray], np.ndarray]
FLOATS = ("f4", "f8")
MOVED = ("u1", "i2", "f2", "f4", "f8", "i8", "c8", "c16")


class Case(NamedTuple):
    """A layer."""

    batch: int
    size: tuple[int, ...]
    groups: int
    channels: int
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    mode: str

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.size, self.groups * self.channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.groups * self.filters, *self.kernel, self.channels)

    @property
    def y_shape(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.pads, self.dilation, strict=True)
        out = [(h + sum(p) - d * (k - 1) - 1) // s + 1 for h, k, s, p, d in axes]
        return (self.batch, *out, self.groups * self.filters)

    @property
    def before(self) -> list[int]:
        return [before for before, _ in self.pads]

    @property
    def where(self) -> tuple[Any, ...]:
        """Stride, padding, dilation."""
        return self.stride, self.pads, self.dilation

    def sizes(self, **steps: Any) -> bytes:
        return native.sizes(
            self.batch,
            self.groups * self.channels,
            self.groups * self.filters,
            self.groups,
            self.size,
            self.y_shape[1:-1],
            self.kernel,
            self.stride,
            self.dilation,
            self.before,
            self.mode,
            **steps,
        )

    def kernels(self, lanes: int) -> list[str]:
        """Those that do this layer."""
        deep = self.channels == 1 and self.groups >= lanes
        return ["wide", "planes", *(["depthwise"] if deep else [])]


def a_case(rnd: random.Random) -> Case:
    """A layer of 1 to 3 axes that uses every option; some of a size that fills tiles and boxes, and more."""
    axes = rnd.choice([1, 2, 2, 2, 3])
    groups, channels = rnd.choice([1, 1, 1, 2, 3, 8]), rnd.choice([1, 1, 2, 3, 4, 8, 33, 70])
    filters = rnd.choice([1, 1, 2, 3, 4, 5, 8, 9, 17, 40])
    if rnd.random() < 0.3:
        groups, channels, filters = rnd.choice([1, 3, 8, 9, 16, 20]), 1, rnd.choice([1, 1, 2, 3])

    def each(*choices: int) -> tuple[int, ...]:
        return tuple(rnd.choice(choices) for _ in range(axes))

    kernel, stride, dilation = each(1, 2, 3, 3), each(1, 1, 2, 3), each(1, 1, 2, 3)
    pads = tuple((rnd.choice([0, 0, 1, 2, 5]), rnd.choice([0, 0, 1, 2, 5])) for _ in range(axes))
    if rnd.random() < 0.4:
        pads = ((0, 0),) * axes
    if rnd.random() < 0.1:
        kernel, stride, pads = (1,) * axes, (1,) * axes, ((0, 0),) * axes
    more = {1: (0, 1, 5, 70, 300), 2: (0, 1, 5, 9, 20), 3: (0, 1, 2)}[axes]
    size = tuple(
        max((k - 1) * d + 1 - sum(p), 2) + rnd.choice(more)
        for k, d, p in zip(kernel, dilation, pads, strict=True)
    )
    mode = rnd.choice(native.PADDING_MODES)
    return Case(
        rnd.choice([1, 1, 2, 0]), size, groups, channels, filters, kernel, stride, pads, dilation, mode
    )


def whole_numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Whose sums of products are exact in any order."""
    return rng.integers(-3, 4, shape).astype(dtype)


def convolve(
    compiled: native.Native,
    case: Case,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    kernel: str,
    threads: int,
    place: Place = np.array,
    integers: bool = False,
) -> np.ndarray:
    """By one kernel, into memory that was NaN, or -1."""
    y = place(np.full(case.y_shape, -1, "i8") if integers else np.full(case.y_shape, np.nan, x.dtype))
    compiled.convolve(
        compiled.layer(case.sizes(), x.dtype, kernel, threads, integers), x, w, bias, y, threads
    )
    return y


def check_convolve(compiled: native.Native, seed: int, place: Place = np.array) -> None:
    """Exactly the definition's, by each kernel, on 1, 2 and 5 threads; the transpose, too."""
    rnd, rng = random.Random(seed), np.random.default_rng(seed)
    case, dtype = a_case(rnd), rnd.choice(FLOATS)
    x, w = (place(whole_numbers(rng, shape, dtype)) for shape in (case.x_shape, case.w_shape))
    bias = place(whole_numbers(rng, case.w_shape[:1], dtype)) if rnd.random() < 0.5 else None
    expected = reference.convolve_by_taps(x, w, *case.where, case.groups, bias, padding_mode=case.mode)
    for kernel in case.kernels(compiled.lanes(x.dtype)):
        for threads in (1, 2, 5):
            y = convolve(compiled, case, x, w, bias, kernel, threads, place)
            assert np.array_equal(y, expected), (seed, kernel, threads, case)
        y = convolve(compiled, case, x, w, bias, kernel, 2, place, integers=True)
        assert np.array_equal(y, expected), (seed, kernel, "integers", case)
    if case.channels % 2 == 0 and compiled.lanes(np.dtype(np.int16)):
        pairs, whole = (
            case._replace(channels=case.channels // 2),
            None if bias is None else place(bias.astype("i4")),
        )
        halves = [place(a.astype("i2")).view("i4") for a in (x, w)]
        for threads in (1, 2):
            y = convolve(compiled, pairs, *halves, whole, "wide", threads, place, integers=True)
            assert np.array_equal(y, expected), (seed, "pairs", threads, case)
    y = place(whole_numbers(rng, case.y_shape, dtype))
    if y.size * w.size < 100_000:
        back = place(np.full(case.x_shape, np.nan, dtype))
        bias = place(whole_numbers(rng, case.x_shape[-1:], dtype)) if rnd.random() < 0.5 else None
        transpose(compiled, case, y, w, bias, back, rnd.choice(["wide", "planes"]))
        expected = reference.convolve_transpose(
            y, w, *case.where, case.groups, input_shape=case.x_shape, bias=bias
        )
        assert np.array_equal(back, expected), (seed, "transpose", case)


def transpose(
    compiled: native.Native,
    case: Case,
    y: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    x: np.ndarray,
    kernel: str,
    threads: int = 2,
) -> None:
    """Phase by phase."""
    geometry = (case.stride, case.dilation, case.before, case.groups)
    for sizes, w_at, x_at in native.phases(geometry, y.shape, w.shape, x.shape):
        layer = compiled.layer(sizes, x.dtype, kernel, threads)
        compiled.convolve(layer, y, w.reshape(-1)[w_at:], bias, x.reshape(-1)[x_at:], threads)


def check_unroll(compiled: native.Native, seed: int, place: Place = np.array) -> None:
    """To the bit, in both orders, whole and in bands; and folded again."""
    rnd, rng = random.Random(seed), np.random.default_rng(seed)
    case, dtype = a_case(rnd), rnd.choice(MOVED)
    case = case._replace(groups=1)
    x, sizes = place(rng.integers(0, 100, case.x_shape).astype(dtype)), case.sizes()
    for order in ("hwc", "chw"):
        expected = reference.unroll_by_taps(x, case.kernel, *case.where, case.mode, order)
        start, stop = sorted(rnd.choices(range(len(expected) + 1), k=2))
        for first, last, threads in ((0, len(expected), 1), (0, len(expected), 3), (start, stop, 2)):
            x_col = place(np.full((last - first, expected.shape[1]), 77, dtype))
            compiled.unroll(sizes, x, x_col, order, first, last, threads)
            assert np.array_equal(x_col, expected[first:last]), (seed, order, first, last, case)
        if case.batch and expected.size < 20_000:
            check_fold(compiled, case, rng, rnd, order, expected.shape, place)


def check_fold(
    compiled: native.Native,
    case: Case,
    rng: np.random.Generator,
    rnd: random.Random,
    order: str,
    shape: tuple[int, ...],
    place: Place,
) -> None:
    """Sums exactly, means to rounding, and what only moves to the bit; whole and in bands."""
    lines = case.batch * int(np.prod(case.size[:-1]))
    meet = reference.fold(np.ones(shape), case.x_shape, case.kernel, *case.where).max() > 1
    dtype = rnd.choice(["i8", "f4", "f8"])
    overlaps = ["sum", *(["mean"] if dtype in FLOATS else []), *([] if meet else ["move"])]
    for overlap in overlaps:
        moved = rnd.choice(MOVED) if overlap == "move" else dtype
        x_col = place(rng.integers(0, 100, shape).astype(moved))
        how = "sum" if overlap == "move" else overlap
        expected = reference.fold(x_col, case.x_shape, case.kernel, *case.where, how, order)
        result = moved
        start, stop = sorted(rnd.choices(range(lines + 1), k=2))
        for first, last, threads in ((0, lines, 1), (0, lines, 3), (start, stop, 2)):
            x = place(np.full((last - first, *case.x_shape[-2:]), 77, result))
            compiled.fold(case.sizes(), x_col, 0, x, overlap, order, first, last, threads)
            right = expected.reshape(lines, *case.x_shape[-2:])[first:last]
            if overlap == "mean":
                np.testing.assert_allclose(x, right, 1e-6)
                same = place(np.full(shape, 0.1, dtype))
                compiled.fold(case.sizes(), same, 0, x, overlap, order, first, last, threads)
                assert np.isin(x, (0, same.flat[0])).all(), (dtype, order, case)
            else:
                assert np.array_equal(x, right), (dtype, overlap, order, first, last, case)


def check_race(compiled: native.Native) -> None:
    """Threads at the edges of each other's rows: nobody writes, or reads too early, what is not its own."""
    x = np.arange(1 << 16, dtype=np.float32).reshape(1, 256, 256, 1)
    case = Case(1, (256, 256), 1, 1, 1, (3, 3), (1, 1), ((0, 0),) * 2, (1, 1), "zeros")
    w = np.ones(case.w_shape, np.float32)
    x_col = reference.unroll_by_taps(x, case.kernel)
    for _ in range(20):
        found = np.zeros_like(x_col)
        compiled.unroll(case.sizes(), x, found, "hwc", 0, len(x_col), 5)
        assert np.array_equal(found, x_col)
        y = convolve(compiled, case, x / 256, w, None, "planes", 5)
        assert np.array_equal(y.ravel(), x_col.sum(1) / 256)


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy with a page behind it, and one before it, that nobody may touch; close to one of the two."""
    page = mmap.PAGESIZE
    room = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None)
    for edge in (address, address + page + room):
        assert libc.mprotect(ctypes.c_void_p(edge), ctypes.c_size_t(page), 0) == 0  # PROT_NONE
    start = page + (room - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("levels", nargs="*", help="all that the processor has, by default")
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=1 << 30)
    asked = parser.parse_args()
    levels = asked.levels or native.LEVELS[: native.Native("baseline").best + 1]
    for level in levels:
        compiled, end = native.Native(level), time.monotonic() + asked.seconds
        seed = 0
        while seed < asked.cases and time.monotonic() < end:
            place = (lambda a, at_end=bool(seed % 2): guarded(a, at_end)) if asked.guard else np.array
            check_convolve(compiled, seed, place)
            check_unroll(compiled, seed, place)
            seed += 1
        check_race(compiled)
        print(f"{level}: {seed} layers")


if __name__ == "__main__":
    main()
