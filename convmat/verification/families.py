"""Families of the self-check: each compares what one command computes with the definition.

A family is a function with its name, `@family("fold")`, and the class of what it is run for: a layer of small
whole numbers, a dtype, and so on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.adjoint import convolve_transpose
from convmat.axis import PADDING_NAMES
from convmat.engine import convolve, execute, multiply, prepare, stream
from convmat.errors import DTypeError
from convmat.folding import fold, fold_stream
from convmat.geometry import ORDERS, ConvGeometry
from convmat.layouts import from_batch, product_shape, to_batch, to_filters
from convmat.matrix import layer_matrix
from convmat.patches import flatten_filters, unroll
from convmat.plan import kernels
from convmat.transposed import transpose_geometry
from convmat.verification.comparison import compare_exactly
from convmat.verification.gradients import bias_gradient, input_gradient, input_layer, weight_gradient
from convmat.verification.layer import verify
from convmat.verification.slopes import pixel_slopes, weight_slopes
from convmat.verification.verdict import Report

Array = NDArray[Any]
T = TypeVar("T", bound="Callable[..., Report | None]")
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of the input, (N, *spatial, C), and the filters, (K, *kernel, C/groups)."""


class Subject:
    """What is compared, and how a case of it is told; by itself all small sizes."""

    name = ""
    shapes: Shapes = ((), ())
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


class SmallLayer(Subject):
    """A layer of small whole numbers, whose sums are exact in float32 in any order."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        filter_shape: tuple[int, ...],
        options: dict[str, Any],
        rng: np.random.Generator,
    ) -> None:
        self.name, self.shapes, self.options, self.rng = name, (shape, filter_shape), options, rng
        self.shape, self.kernel = shape, filter_shape[1:-1]
        names = "stride", "padding", "dilation", "padding_mode"
        self.patch = {name: value for name, value in options.items() if name in names}
        self.window = {name: value for name, value in self.patch.items() if name != "padding_mode"}
        self.x, self.w = self.numbers(shape), self.numbers(filter_shape)
        self.linear = {key: value for key, value in options.items() if key != "bias"}
        self.layer = self.linear | ({"bias": self.numbers(len(self.w))} if options.get("bias") else {})
        self.groups, self.mode = options.get("groups", 1), options.get("padding_mode", "zeros")
        self.flip = bool(options.get("flip"))
        # Pixels that are numbered, so that each element of X_col says where it came from; 0 is padding.
        self.coded = np.arange(1, self.x.size + 1).reshape(shape)

    def numbers(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
        return self.rng.integers(-8, 9, shape).astype(dtype)

    def noise(self, shape: tuple[int, ...]) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)


class OneDtype(Subject):
    """One dtype, on numbers whose sums it holds exactly."""

    shapes = (2, 5, 6, 3), (4, 3, 2, 3)
    options: dict[str, Any] = {"stride": (1, 2), "padding": "same"}  # noqa: RUF012  # never changed

    def __init__(self, dtype: np.dtype[Any], rng: np.random.Generator) -> None:
        self.name = dtype.name + (", big-endian" if dtype.byteorder == ">" else "")
        self.dtype, self.rng = dtype, rng
        low = 0 if dtype.kind in "bu" else -2
        self.x, self.w = (rng.integers(low, 3, shape).astype(dtype) for shape in self.shapes)
        if dtype.kind == "c":
            self.x.imag, self.w.imag = self.x.real[..., ::-1, :], self.w.real[::-1]
        self.kept = dtype.newbyteorder("=") if dtype.kind in "fc" else np.dtype(np.int64)


class Arrays(Subject):
    """Arrays as they come: other layouts and strides, extreme integers, none at all."""

    shapes = (2, 6, 5, 3), (4, 3, 3, 3)

    def __init__(self, rng: np.random.Generator) -> None:
        self.x, self.w = (rng.integers(-8, 9, shape) for shape in self.shapes)
        self.wanted = reference.convolve(self.x, self.w)


class Blocks(Subject):
    """An X_col so long that it is cut in blocks, whose pixels overlap."""

    line, taps = 60_000, 9
    shapes = (1, line, 1), (1, taps, 1)

    def __init__(self, rng: np.random.Generator) -> None:
        self.p = rng.integers(-8, 9, (self.line - self.taps + 1, self.taps)).astype(np.float64)


class Family(NamedTuple):
    """A line of the table of families."""

    family: str
    of: type[Subject]
    case: str
    """The case's name, with the subject's in it."""
    shapes: Shapes | None
    """Where they are not the subject's."""
    compare: Callable[[Any], Report | None]
    """None where the family has nothing to compare."""


TABLE: list[Family] = []


def family(
    name: str, of: type[Subject] = SmallLayer, case: str = "{}", shapes: Shapes | None = None
) -> Callable[[T], T]:
    """Enter a function that compares a subject into the table."""

    def enter(compare: T) -> T:
        TABLE.append(Family(name, of, case, shapes, compare))
        return compare

    return enter


def _same(results: Sequence[Array], wanted: Sequence[Array], dtype: Any = None) -> Report:
    """Compare several arrays of one shape at once."""
    sides = (np.stack(list(side)) for side in (results, wanted))
    return compare_exactly(*(side if dtype is None else side.astype(dtype) for side in sides))


@family("output sizes", Subject, "every size to 7, kernel to 3")
def _sizes(_: Subject) -> Report:
    """Under every padding rule, against sliding the kernel."""
    ranges = (range(1, 8), range(1, 4), range(1, 4), range(1, 3), PADDING_NAMES)
    wrong = 0
    for size, k, s, d, rule in itertools.product(*ranges):
        counted = reference.output_size((size,), (k,), s, rule, d)
        if counted != (0,):
            wrong += ConvGeometry((1, size, 1), k, s, rule, d).output_size != counted
    return compare_exactly(np.array([wrong]), np.array([0]))


@family("output sizes", Subject, "transposed, every size to 5")
def _transposed_sizes(_: Subject) -> Report:
    """Of transposed convolutions under every padding rule, against laying kernels side by side."""
    ranges = (range(1, 6), range(1, 4), range(1, 4), range(1, 3), (0, 1), PADDING_NAMES)
    wrong = 0
    for size, k, s, d, more, rule in itertools.product(*ranges):
        counted = reference.transposed_size((size,), (k,), s, rule, d, more)
        if counted[0] > 0 and more < max(s, d) and not (more and rule.startswith("same")):
            wrong += transpose_geometry((1, size, 1), 1, k, s, rule, d, 1, more).input_size != counted
    return compare_exactly(np.array([wrong]), np.array([0]))


@family("mapping, locate")
def _mapping(on: SmallLayer) -> Report:
    """Eq. 8 for every element of X_col, and its inverse for every pixel."""
    geometry = ConvGeometry(on.shape, on.kernel, **on.window)
    rows, cols = geometry.matrix_shape
    order = "hwc" if on.mode == "zeros" else "chw"  # both, without doubling the work
    x_col = reference.unroll(on.coded, on.kernel, **on.patch, order=order)
    there, back = np.zeros((2, rows, cols), on.coded.dtype)
    for row, col in itertools.product(range(rows), range(cols)):
        index = geometry.place(row, col, on.mode, order=order).element
        there[row, col] = 0 if index is None else on.coded[index]
    for element in np.ndindex(*on.shape):
        n, *pixel, c = element
        for row, col in geometry.matrix_indices(n, pixel, c, on.mode, order=order):
            back[row, col] = on.coded[element]
    return _same([there, back], [x_col, x_col])


@family("unroll")
def _unrolled(on: SmallLayer) -> Report:
    x_cols = [unroll(on.coded, on.kernel, **on.patch, order=order) for order in ORDERS]
    return _same(x_cols, [reference.unroll(on.coded, on.kernel, **on.patch, order=order) for order in ORDERS])


@family("flatten-filters")
def _flattened(on: SmallLayer) -> Report:
    w_cols = [flatten_filters(on.w, order=order) for order in ORDERS]
    return _same(w_cols, [reference.flatten_filters(on.w, order=order) for order in ORDERS])


@family("X_col · W_col")
def _multiplied(on: SmallLayer) -> Report | None:
    if on.groups > 1 or on.flip:
        return None
    wanted = reference.convolve(on.x, on.w, **on.patch)
    y = multiply(unroll(on.x, on.kernel, **on.patch), flatten_filters(on.w))
    y = y.reshape(product_shape(y.shape, wanted.shape[:-1], len(on.kernel)))
    return compare_exactly(y, wanted.astype(y.dtype))


@family("convolve")
def _convolved(on: SmallLayer) -> Report:
    """By the plan that is chosen, and others: every kernel, rows one by one, a few rows, a stream."""
    x, w, layer = on.x, on.w, on.layer
    wanted = reference.convolve(x, w, **layer).astype(np.float32)
    by_taps = reference.convolve_by_taps(x, w, **layer).astype(np.float32)
    todo = prepare(x, w, **layer, threads=1)
    choices: list[dict[str, Any]] = [{"kernel": k} for k in kernels(todo.plan.geometry, w.dtype)]
    choices += [{"band_bytes": 1}, {"band_bytes": 600, "threads": 2}]
    ys = [execute(todo), *(execute(prepare(x, w, **layer, **choice)) for choice in choices)]
    parts = [rows.copy() for rows in stream(prepare(x, w, **layer, band_bytes=200))]
    ys += [np.concatenate(parts).reshape(wanted.shape), by_taps]
    return _same(ys, [wanted] * len(ys))


@family("convolve, bound")
def _bounded(on: SmallLayer) -> Report:
    return verify(on.noise(on.shape), on.noise(on.w.shape), **on.layer)


@family("convolve, infinities")
def _strewn(on: SmallLayer) -> Report:
    """Infinities reach the outputs whose kernels see them, and no others."""
    noise = on.noise(on.shape)
    noise.flat[:: max(noise.size // 3, 1)] = np.inf
    return verify(noise, on.w, **on.layer)


@family("fold")
def _folded(on: SmallLayer) -> Report:
    """Sums, of floats and of integers in the other order of columns, and means."""
    x_col = unroll(on.x, on.kernel, **on.window)
    p = on.numbers(x_col.shape)
    choices: list[tuple[Array, dict[str, Any]]] = [
        (p, {}),
        (p.astype(np.int32), {"order": "chw"}),
        (x_col, {"overlap": "mean"}),
    ]
    results, wanted = (
        [by(a, on.shape, on.kernel, **on.window, **choice) for a, choice in choices]
        for by in (fold, reference.fold)
    )
    return _same(results, wanted, np.float32)


@family("fold", Blocks, "blocks that overlap")
def _folded_blocks(on: Blocks) -> Report:
    """As a whole, as a stream, and apart, so that blocks begin before an output does."""
    shape, wanted = on.shapes[0], np.zeros(on.line)
    for tap in range(on.taps):
        wanted[tap : tap + len(on.p)] += on.p[:, tap]
    streamed = fold_stream(np.split(on.p, [7, 45_000]), on.p.dtype, ConvGeometry(shape, on.taps))
    bare = ConvGeometry(shape, 7, 12, ((8, 0),))  # the first block lies in the padding
    gaps = on.p[: bare.patches, :7]
    apart = fold_stream([gaps], on.p.dtype, bare, block_bytes=999)
    spread = np.pad(gaps, ((0, 0), (0, 5))).reshape(-1)[8 : on.line + 8].reshape(shape)
    images = [np.concatenate([lines.copy() for lines in blocks])[None] for blocks in (streamed, apart)]
    return _same([fold(on.p, shape, on.taps), *images], [*[wanted.reshape(shape)] * 2, spread])


@family("transpose")
def _transposed(on: SmallLayer) -> Report:
    """Against the definition, sized by itself where that leaves anything, and by the input."""
    size = reference.output_size(on.shape[1:-1], on.kernel, **on.window)
    y = on.rng.integers(-8, 9, (on.shape[0], *size, len(on.w)))
    bias = on.numbers(on.shape[-1])
    known: list[dict[str, Any]] = [{"input_shape": on.shape}]
    if min(reference.transposed_size(size, on.kernel, **on.window)) > 0:
        known.append({"bias": bias})
    reports = []
    for choice in known:
        options = on.window | choice | {"groups": on.groups}
        wanted = reference.convolve_transpose(y, on.w, **options).astype(np.float32)
        reports.append(compare_exactly(convolve_transpose(y.astype(np.float32), on.w, **options), wanted))
    return max(reports, key=lambda report: report.outside)


@family("matrix")
def _as_matrix(on: SmallLayer) -> Report:
    """M · vec(X) in the order of either layout."""
    wanted = reference.convolve_by_taps(on.x[:1], on.w, **on.linear)
    results = []
    for layout in ("nhwc", "nchw"):
        m = layer_matrix(on.w, on.shape, **on.linear, layout=layout)
        columns = m @ from_batch(on.x[:1], layout).reshape(-1)
        results.append(to_batch(columns.reshape(from_batch(wanted, layout).shape), len(on.kernel), layout))
    return _same(results, [wanted.astype(np.float32)] * 2)


@family("adjoint")
def _adjoint(on: SmallLayer) -> Report:
    """⟨unroll x, p⟩ = ⟨x, fold p⟩, with an image and patches of whole numbers."""
    image = on.x.astype(np.float64)
    x_col = unroll(image, on.kernel, **on.window)
    p = on.numbers(x_col.shape, np.float64)
    sums = [np.vdot(x_col, p), np.vdot(image, fold(p, on.shape, on.kernel, **on.window))]
    return compare_exactly(np.array(sums[:1]), np.array(sums[1:]))


@family("gradients")
def _gradients(on: SmallLayer) -> Report:
    """dW = X_colᵀ · dY and dX = fold(dY · W_colᵀ), in each group, against differences of the definition; what
    `verify --stage` has of them, too.

    The loss is ⟨Y, dY⟩, which is linear in each weight and each pixel: its central differences over a
    step of 1 are the derivatives, and with whole numbers they are exact.
    """
    pixels, weights = on.x.astype(np.float64), on.w.astype(np.float64)
    dy = on.numbers(reference.convolve_by_taps(pixels, weights, **on.linear).shape, np.float64)
    turned = _turned(weights) if on.flip else weights
    parts = (np.split(pixels, on.groups, -1), np.split(turned, on.groups), np.split(dy, on.groups, -1))
    by_weight, by_pixel = [], []
    for part, filters, slopes in zip(*parts, strict=True):
        rows = slopes.reshape(-1, len(filters))
        dw = (unroll(part, on.kernel, **on.patch).T @ rows).T.reshape(filters.shape)
        by_weight.append(_turned(dw) if on.flip else dw)
        by_pixel.append(fold(rows @ flatten_filters(filters).T, part.shape, on.kernel, **on.window))
    geometry = ConvGeometry(on.shape, on.kernel, **on.window, groups=on.groups)
    results = [np.concatenate(by_weight), weight_gradient(pixels, dy, geometry, on.flip, on.mode)]
    results.append(reference.weight_gradient(pixels, dy, on.kernel, **on.linear))
    wanted = [weight_slopes(pixels, weights, dy, on.linear)] * 3
    results.append(input_gradient(dy, input_layer(weights, geometry, on.flip, on.mode), geometry))
    results.append(reference.input_gradient(dy, weights, on.shape, **on.linear))
    wanted += [pixel_slopes(pixels, weights, dy, on.linear)] * 2
    results.append(bias_gradient(dy))
    wanted.append(dy.sum(tuple(range(dy.ndim - 1))))
    if on.mode == "zeros":  # what other modes pad with has slopes of its own, which fold drops
        back = convolve_transpose(dy, turned, **on.window, groups=on.groups, input_shape=on.shape)
        results += [np.concatenate(by_pixel, -1), back]
        wanted += [wanted[3]] * 2
    return compare_exactly(*(np.concatenate([a.reshape(-1) for a in side]) for side in (results, wanted)))


def _turned(filters: Array) -> Array:
    return np.flip(filters, tuple(range(1, filters.ndim - 1)))


@family("dtypes", OneDtype)
def _of_dtype(on: OneDtype) -> Report:
    y = convolve(on.x, on.w, **on.options)
    if y.dtype != on.kept:
        raise DTypeError("result", f"has dtype {y.dtype}, expected {on.kept}")
    return compare_exactly(y, reference.convolve(on.x, on.w, **on.options).astype(on.kept))


@family("dtypes", OneDtype, "{}, folded")
def _folded_dtype(on: OneDtype) -> Report:
    """The mean is the inverse of unroll, and sums do not wrap."""
    shape, kernel = on.x.shape, on.w.shape[1:-1]
    x_col = unroll(on.x, kernel, **on.options)
    tenths = (on.x / 10).astype(on.dtype)  # whose sums are rounded, and whose means must not be
    results = [
        fold(x_col, shape, kernel, **on.options, overlap="mean"),
        fold(x_col, shape, kernel, **on.options),
        fold(unroll(tenths, kernel, **on.options), shape, kernel, **on.options, overlap="mean"),
    ]
    times = reference.fold(np.ones(x_col.shape, int), shape, kernel, **on.options)
    wide = np.dtype(np.complex128 if on.dtype.kind == "c" else np.float64)
    return _same([a.astype(wide) for a in results], [on.x, on.x.astype(wide) * times, tenths], wide)


@family("dtypes", OneDtype, "{}, transposed")
def _transposed_dtype(on: OneDtype) -> Report:
    """By the input's size, which `x` has here as the layer's output."""
    filters = np.moveaxis(on.w, 0, -1)  # as many as x has channels
    options: dict[str, Any] = {"stride": (1, 2), "padding": 1}
    wanted = reference.convolve_transpose(on.x, filters, **options).astype(on.kept)
    return compare_exactly(convolve_transpose(on.x, filters, **options), wanted)


@family("dtypes, bound", OneDtype)
def _bounded_dtype(on: OneDtype) -> Report | None:
    """Numbers that are not whole, of the dtypes that have any."""
    if on.dtype.kind not in "fc":
        return None
    noise, weights = on.rng.standard_normal((2, on.x.size))
    if on.dtype.kind == "c":
        noise, weights = noise + 1j * weights, weights - 1j * noise
    noise, weights = noise.reshape(on.x.shape), weights[: on.w.size].reshape(on.w.shape)
    return verify(noise.astype(on.dtype), weights.astype(on.dtype), **on.options)


_SMALL = (1, 3, 3, 1), (1, 3, 3, 1)


@family("layouts, arrays", Arrays, "channels first")
def _nchw(on: Arrays) -> Report:
    y = convolve(to_batch(np.ascontiguousarray(np.moveaxis(on.x, -1, 1)), 2, "nchw"), on.w)
    return compare_exactly(from_batch(y, "nchw"), np.moveaxis(on.wanted, -1, 1))


@family("layouts, arrays", Arrays, "kernels OIHW and HWIO")
def _kernel_layouts(on: Arrays) -> Report:
    oihw, hwio = np.moveaxis(on.w, -1, 1), np.moveaxis(on.w, 0, -1)
    ys = [convolve(on.x, to_filters(a, 2, layout)) for a, layout in ((oihw, "oihw"), (hwio, "hwio"))]
    return _same(ys, [on.wanted] * 2)


@family("layouts, arrays", Arrays, "Fortran order, negative strides")
def _strides(on: Arrays) -> Report:
    wide = np.zeros((4, 6, 10, 3), on.x.dtype)
    wide[::-2, :, ::2] = on.x
    ys = [convolve(np.asfortranarray(on.x), on.w), convolve(wide[::-2, :, ::2], np.asfortranarray(on.w))]
    return _same(ys, [on.wanted] * 2)


def _full(of: Array) -> Callable[[Arrays], Report]:
    return lambda _: compare_exactly(convolve(of, of), reference.convolve(of, of))


for _case, _number in (
    ("sums beyond 2^24", np.int64(4097)),  # odd ones, which float32 does not hold
    ("sums beyond 2^53", np.int64(2**29 + 1)),
    ("uint8 does not wrap", np.uint8(255)),
):
    family("layouts, arrays", Arrays, _case, _SMALL)(_full(np.full(_SMALL[0], _number)))


_EVEN = (1, 5, 4, 6), (17, 3, 3, 6)  # channels; and filters that are worth a vector of them


@family("layouts, arrays", Arrays, "int16, two channels at a time", _EVEN)
def _pairs(_: Arrays) -> Report:
    x, w = (np.arange(math.prod(shape), dtype=np.int16).reshape(shape) - 60 for shape in _EVEN)
    return compare_exactly(convolve(x, w), reference.convolve(x.astype(np.int64), w.astype(np.int64)))


@family("layouts, arrays", Arrays, "empty batch", ((0, 6, 5, 3), (4, 3, 3, 3)))
def _empty(on: Arrays) -> Report:
    return compare_exactly(convolve(on.x[:0], on.w), np.zeros((0, *on.wanted.shape[1:]), np.int64))


FAMILIES = tuple(dict.fromkeys(entry.family for entry in TABLE))
"""In the order in which one stands on another."""
