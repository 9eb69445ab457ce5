"""What the tests share: random small layers, the brute force for geometry, and arrays in every disguise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

RULES = ("valid", "same", "same-lower", "half", "full")
MODES = ("zeros", "reflect", "replicate", "circular")
INTEGERS = ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">u2", ">i8")
REALS = ("f2", "f4", "f8", ">f2", ">f4", ">f8")
COMPLEX = ("c8", "c16", ">c8", ">c16")
DTYPES = (*INTEGERS, *REALS, *COMPLEX)

Rule = str | tuple[int, int]


def taps_of(k: int, dilation: int) -> list[int]:
    """The kernel's pixels along one axis, found by stepping."""
    return list(itertools.islice(itertools.count(0, dilation), k))


def slide(size: int, k: int, stride: int, dilation: int, before: int, after: int) -> list[list[int | None]]:
    """Each patch along one axis as pixels, None in the padding: lay the kernel on the line, and slide."""
    line = [None] * before + list(range(size)) + [None] * after
    taps = taps_of(k, dilation)
    patches, start = [], 0
    while start + taps[-1] < len(line):
        patches.append([line[start + tap] for tap in taps])
        start += stride
    return patches


def find_pads(rule: Rule, size: int, k: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) along one axis, by trying until what the rule promises holds."""
    if not isinstance(rule, str):
        return rule
    span = len(range(taps_of(k, dilation)[0], taps_of(k, dilation)[-1] + 1))
    if rule == "valid":
        return 0, 0
    if rule == "half":
        return span // 2, span // 2
    if rule == "full":  # as long as the first patch, gaps included, still sees the first pixel

        def first_patch(pad: int) -> list[int | None]:
            return slide(1, span, 1, 1, pad, span)[0]

        pad = next(p for p in itertools.count() if first_patch(p + 1) == [None] * span)
        return pad, pad
    wanted = len([pixel for pixel in range(size) if pixel % stride == 0])  # ceil(H / S)
    total = next(t for t in itertools.count() if len(slide(size, k, stride, dilation, 0, t)) >= wanted)
    half = total // 2
    return (half, total - half) if rule == "same" else (total - half, half)


class Layer(NamedTuple):
    """Shapes and arguments of one layer that is a convolution."""

    shape: tuple[int, ...]
    filter_shape: tuple[int, ...]
    where: dict[str, Any]  # stride, padding, dilation
    padding_mode: str = "zeros"
    groups: int = 1
    flip: bool = False
    has_bias: bool = False

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.filter_shape[1:-1]

    @property
    def patch(self) -> dict[str, Any]:
        """The arguments that unroll takes, too."""
        return self.where | {"padding_mode": self.padding_mode}

    def arrays(self, make: Callable[[tuple[int, ...]], np.ndarray]) -> tuple[Any, Any, dict[str, Any]]:
        """x, filters, and all other arguments of convolve."""
        bias = make(self.filter_shape[:1]) if self.has_bias else None
        options = {"groups": self.groups, "flip": self.flip, "bias": bias}
        return make(self.shape), make(self.filter_shape), self.patch | options

    @property
    def axes(self) -> list[tuple[int, int, int, int, Rule]]:
        """(size, k, stride, dilation, rule) along each axis."""
        count = len(self.kernel)
        stride, padding, dilation = (
            value if isinstance(value, tuple) else (value,) * count
            for value in (self.where["stride"], self.where["padding"], self.where["dilation"])
        )
        rules = [(p, p) if isinstance(p, int) else p for p in padding]
        return list(zip(self.shape[1:-1], self.kernel, stride, dilation, rules, strict=True))

    @property
    def pads(self) -> list[tuple[int, int]]:
        return [find_pads(rule, size, *line) for size, *line, rule in self.axes]

    @property
    def lines(self) -> list[list[list[int | None]]]:
        """The patches along each axis."""
        return [slide(*axis[:-1], *pads) for axis, pads in zip(self.axes, self.pads, strict=True)]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, *out, K)."""
        return (self.shape[0], *map(len, self.lines), self.filter_shape[0])


@st.composite
def layers(draw: st.DrawFn, modes: tuple[str, ...] = MODES, least_batch: int = 0) -> Layer:
    """Layers of 1 to 3 axes that use every option, small enough for loops in Python."""
    axes = draw(st.integers(1, 3))
    largest, widest = {1: (9, 4), 2: (5, 3), 3: (3, 2)}[axes]

    def each(low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
        return st.tuples(*[st.integers(low, high)] * axes)

    def one_or_each(low: int, high: int) -> st.SearchStrategy[Any]:
        return st.integers(low, high) | each(low, high)

    pairs = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * axes)
    where = {
        "stride": draw(one_or_each(1, 3)),
        "padding": draw(st.sampled_from(RULES) | one_or_each(0, 2) | pairs),
        "dilation": draw(one_or_each(1, 2)),
    }
    size, kernel = list(draw(each(1, largest))), draw(each(1, widest))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, batch = draw(st.integers(1, 2)), draw(st.integers(least_batch, 2))
    filters = groups * draw(st.integers(1, 2))

    def layer() -> Layer:
        return Layer(
            (batch, *size, groups * per_group),
            (filters, *kernel, per_group),
            where,
            draw(st.sampled_from(modes)),
            groups,
            draw(st.booleans()),
            draw(st.booleans()),
        )

    made = layer()
    # Grown until the kernel fits, rather than thrown away.
    while short := [axis for axis, line in enumerate(made.lines) if not line]:
        for axis in short:
            size[axis] += 1
        made = made._replace(shape=(batch, *size, groups * per_group))
    return made


def probes(dtype: Any, rng: np.random.Generator) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Makes small whole numbers, whose sums of products every dtype holds exactly, in any order."""
    dtype = np.dtype(dtype)

    def make(shape: tuple[int, ...]) -> np.ndarray:
        low = 0 if dtype.kind in "bu" else -2
        values = rng.integers(low, 3, shape).astype(dtype)
        if dtype.kind == "c":
            values.imag = rng.integers(low, 3, shape)
        return frozen(values)

    return make


def noise(dtype: Any, rng: np.random.Generator) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Makes numbers that need rounding; whole numbers where the dtype has no others."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fc":
        return probes(dtype, rng)

    def make(shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape).astype(dtype)
        if dtype.kind == "c":
            values.imag = rng.standard_normal(shape)
        return frozen(values)

    return make


def frozen(array: np.ndarray) -> np.ndarray:
    """Made read-only, so that whoever writes to an input fails."""
    array.setflags(write=False)
    return array


def _reversed(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]


def _with_gaps(a: np.ndarray) -> np.ndarray:
    wide = np.ones([2 * size + 1 for size in a.shape], a.dtype)
    view = wide[(slice(1, None, 2),) * a.ndim]
    view[...] = a
    return view


def _channels_first(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1)


def _unaligned(a: np.ndarray) -> np.ndarray:
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    moved = memory.view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


DISGUISES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C order": np.array,
    "Fortran order": np.asfortranarray,
    "negative strides": _reversed,
    "gaps": _with_gaps,
    "channels first": _channels_first,
    "unaligned": _unaligned,
}
disguises = st.sampled_from(list(DISGUISES.values()))
"""The same numbers in other memory."""


def assert_same_bits(result: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the last bit, byte order included."""
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.tobytes() == expected.tobytes()
