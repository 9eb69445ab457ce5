"""The self-check, `convmat verify` alone: every command's mathematics against the definition, in families."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.axis import PADDING_MODES, PADDING_NAMES
from convmat.checks import SEED_LIMIT, whole
from convmat.engine import convolve, convolve_transpose, execute, kernels, multiply, prepare, stream
from convmat.errors import DTypeError
from convmat.geometry import ConvGeometry
from convmat.layouts import from_batch, product_shape, to_batch, to_filters
from convmat.matrix import layer_matrix
from convmat.patches import flatten_filters, fold, fold_stream, unroll
from convmat.transposed import transpose_geometry
from convmat.verification.judging import Report, compare_exactly, verify

MOST_CASES = 1_000_000  # of random geometries

FAMILIES = (
    "output sizes",
    "mapping, locate",
    "unroll",
    "flatten-filters",
    "X_col · W_col",
    "convolve",
    "convolve, bound",
    "convolve, infinities",
    "fold",
    "transpose",
    "matrix",
    "adjoint",
    "gradients",
    "dtypes",
    "dtypes, bound",
    "layouts, arrays",
)
"""In the order in which one stands on another."""


@dataclass(frozen=True)
class Case:
    """One comparison of a family; true when the two sides agree."""

    family: str
    name: str
    input_shape: tuple[int, ...]
    """(N, *spatial, C); empty where the case runs over many."""
    filter_shape: tuple[int, ...]
    """(K, *kernel, C/groups)."""
    options: dict[str, Any]
    """Those of `convolve` that the case sets."""
    report: Report | None
    """None where the computation raised."""
    trouble: str
    """How it differs, or what was raised; empty when equal."""

    def __bool__(self) -> bool:
        return not self.trouble


@dataclass(frozen=True)
class Check:
    """One family of the self-check; true when all its cases agree with the definition."""

    family: str
    cases: int
    exact: bool
    """Judged by equality rather than by the bound."""
    max_abs_error: float
    """The largest of all cases; infinite where one raised."""
    error_over_bound: float
    """The largest of all cases: at most 1 when equal, and 0 when equal exactly."""
    differences: tuple[Case, ...]
    """The cases that differ."""

    def __bool__(self) -> bool:
        return not self.differences


Watch = Callable[[Iterable[list[Case]], int], Iterable[list[Case]]]
Stages = dict[str, Callable[[], Report]]
"""Comparisons still to be made, by family."""


def self_check(seed: int = 2017, cases: int = 0, watch: Watch | None = None) -> Iterator[Check]:
    """Check every command's mathematics against the definition; one `Check` for each of `FAMILIES`.

    A computation that raises is a difference like any other: the definition has a result there.

    Args:
        seed: of all random numbers, and of the random geometries; 0 to 2^64 - 1.
        cases: random geometries to check besides the fixed grid; 0 to `MOST_CASES`.
        watch: hands on the groups of cases as they are done; it is told how many groups there will be.
    """
    seed, cases = whole("seed", seed, 0, SEED_LIMIT), whole("cases", cases, 0, MOST_CASES)
    groups: Iterable[list[Case]] = _groups(seed, cases)
    if watch is not None:
        groups = watch(groups, len(_GRID) + cases + len(_DTYPES) + _REST)
    # Of cases that agree only the numbers are kept: a long soak must not fill the memory.
    checks = {family: Check(family, 0, True, 0.0, 0.0, ()) for family in FAMILIES}
    for group in groups:
        for case in group:
            checks[case.family] = _with_case(checks[case.family], case)
    yield from checks.values()


def _with_case(check: Check, case: Case) -> Check:
    error, ratio = math.inf, math.inf
    if case.report is not None:
        error, ratio = case.report.max_abs_error, case.report.error_over_bound
    return Check(
        check.family,
        check.cases + 1,
        check.exact and (case.report is None or case.report.exact),
        max(check.max_abs_error, error),
        max(check.error_over_bound, ratio),
        check.differences if case else (*check.differences, case),
    )


def _groups(seed: int, cases: int) -> Iterator[list[Case]]:
    """All cases, in groups that are quick: a geometry with its stages, or a dtype, or the like."""

    def rng(*place: int) -> np.random.Generator:
        return np.random.default_rng([seed, *place])  # each group's numbers are its own

    yield [_check_sizes(), _check_transposed_sizes()]
    for number, layer in enumerate(_GRID):
        yield _check_geometry(*layer, rng(0, number))
    for number, dtype in enumerate(_DTYPES):
        yield _check_dtype(np.dtype(dtype), rng(1, number))
    yield _check_arrays(rng(2))
    yield [_check_blocks(rng(3))]
    for number in range(cases):
        drawn = rng(4, number)
        yield _check_geometry(f"random {number} of seed {seed}", *_random_layer(drawn), drawn)


_REST = 3  # groups that are neither a geometry nor a dtype


# (name, input (N, *spatial, C), filters (K, *kernel, C/groups), options of convolve). Small enough for plain
# loops; together they use every option, alone and with others, along 1 to 3 axes.
_GRID: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("the paper's 28 × 28", (1, 28, 28, 1), (2, 7, 7, 1), {"stride": 7}),
    ("1 × 1 kernel", (2, 3, 4, 3), (4, 1, 1, 3), {}),
    ("kernel as large as the input", (2, 4, 3, 2), (3, 4, 3, 2), {}),
    ("kernel 2 × 4", (1, 5, 7, 2), (3, 2, 4, 2), {"stride": (2, 1)}),
    ("stride skips pixels", (1, 9, 8, 1), (1, 2, 2, 1), {"stride": (3, 4)}),
    ("same", (1, 6, 5, 3), (2, 3, 3, 3), {"padding": "same"}),
    ("same, stride 2", (1, 6, 7, 2), (2, 3, 3, 2), {"padding": "same", "stride": 2}),
    ("same-lower, kernel 2", (1, 5, 4, 2), (2, 2, 2, 2), {"padding": "same-lower"}),
    ("half, kernel 4 × 3", (1, 6, 5, 1), (2, 4, 3, 1), {"padding": "half"}),
    ("full, flipped", (1, 4, 5, 1), (2, 3, 2, 1), {"padding": "full", "flip": True}),
    ("padding per axis", (1, 5, 4, 2), (2, 3, 3, 2), {"padding": (2, 1), "stride": 2}),
    ("padding per side", (2, 4, 5, 1), (2, 3, 3, 1), {"padding": ((1, 2), (0, 3))}),
    ("dilation 2", (1, 7, 8, 2), (2, 3, 3, 2), {"dilation": 2}),
    ("dilation 3 × 1, same", (1, 7, 5, 1), (2, 3, 2, 1), {"dilation": (3, 1), "padding": "same"}),
    ("groups 2, bias", (2, 5, 4, 4), (6, 3, 2, 2), {"groups": 2, "bias": True}),
    ("depthwise, stride 2", (1, 6, 5, 3), (6, 3, 3, 1), {"groups": 3, "stride": 2, "padding": 1}),
    ("depthwise, bias", (2, 5, 6, 3), (3, 3, 2, 1), {"groups": 3, "bias": True, "padding": "same"}),
    ("flipped, bias", (1, 5, 6, 2), (3, 2, 3, 2), {"flip": True, "bias": True}),
    ("reflect", (1, 4, 5, 2), (2, 3, 3, 2), {"padding": 2, "padding_mode": "reflect"}),
    ("replicate", (1, 3, 4, 1), (2, 3, 3, 1), {"padding": (1, 3), "padding_mode": "replicate"}),
    ("circular", (1, 4, 3, 2), (2, 3, 3, 2), {"padding": "same", "padding_mode": "circular"}),
    ("1 axis", (2, 12, 2), (3, 4, 2), {"stride": 3, "padding": ((1, 2),)}),
    ("1 axis, dilated, groups", (1, 11, 4), (4, 3, 2), {"dilation": 2, "groups": 2}),
    ("3 axes", (1, 4, 3, 5, 2), (2, 2, 2, 3, 2), {"stride": (1, 2, 2), "padding": "same"}),
    ("3 axes, dilated", (1, 5, 4, 3, 1), (2, 2, 3, 2, 1), {"dilation": (2, 1, 1), "padding": 1}),
]

_INTEGERS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i2"]
_DTYPES = [*_INTEGERS, "f2", "f4", "f8", "c8", "c16", ">f4", ">c16"]


def _random_layer(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """A small layer of 1 to 3 axes, with any option: shapes and options as those of the grid."""
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    widest = {1: 12, 2: 7, 3: 4}[axes]

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(low, high + 1, axes)))

    kernel, size = each(1, {1: 5, 2: 3, 3: 2}[axes]), list(each(1, widest))
    pairs = tuple(zip(each(0, 3), each(0, 3), strict=True))
    where = {
        "stride": each(1, 3),
        "padding": (*PADDING_NAMES, int(rng.integers(0, 3)), pairs)[rng.integers(len(PADDING_NAMES) + 2)],
        "dilation": each(1, 2),
    }
    # Grown until the kernel fits.
    while 0 in (counts := reference.output_size(size, kernel, **where)):
        size = [h + (not count) for h, count in zip(size, counts, strict=True)]
    groups, per_group, filters = (int(rng.integers(1, 4)) for _ in range(3))
    options = where | {
        "padding_mode": str(rng.choice(PADDING_MODES)),
        "groups": groups,
        "flip": bool(rng.integers(2)),
        "bias": bool(rng.integers(2)),
    }
    shape = (int(rng.integers(1, 3)), *size, groups * per_group)
    return shape, (groups * filters, *kernel, per_group), options


def _check_sizes() -> Case:
    """Output sizes under every padding rule for all small sizes, against sliding the kernel."""
    ranges = (range(1, 8), range(1, 4), range(1, 4), range(1, 3), PADDING_NAMES)

    def run() -> Report:
        wrong = 0
        for size, k, s, d, rule in itertools.product(*ranges):
            counted = reference.output_size((size,), (k,), s, rule, d)
            if counted != (0,):
                wrong += ConvGeometry((1, size, 1), k, s, rule, d).output_size != counted
        return compare_exactly(np.array([wrong]), np.array([0]))

    return _compare("output sizes", "every size to 7, kernel to 3", run)


def _check_transposed_sizes() -> Case:
    """Sizes of transposed convolutions under every padding rule, against laying kernels side by side."""
    ranges = (range(1, 6), range(1, 4), range(1, 4), range(1, 3), (0, 1), PADDING_NAMES)

    def run() -> Report:
        wrong = 0
        for size, k, s, d, more, rule in itertools.product(*ranges):
            counted = reference.transposed_size((size,), (k,), s, rule, d, more)
            if counted[0] > 0 and more < max(s, d) and not (more and rule.startswith("same")):
                geometry = transpose_geometry((1, size, 1), 1, k, s, rule, d, 1, more)
                wrong += geometry.input_size != counted
        return compare_exactly(np.array([wrong]), np.array([0]))

    return _compare("output sizes", "transposed, every size to 5", run)


def _check_geometry(
    name: str,
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> list[Case]:
    """Every stage for one geometry: mapping, X_col, W_col, product, the engine's blocks, and the way back."""
    kernel = filter_shape[1:-1]
    where: dict[str, Any] = {k: options[k] for k in ("stride", "padding", "dilation") if k in options}
    patch = {k: options[k] for k in (*where, "padding_mode") if k in options}
    # Small integers, whose sums are exact in float32 in any order: right is right to the last bit.
    x = rng.integers(-8, 9, shape).astype(np.float32)
    w = rng.integers(-8, 9, filter_shape).astype(np.float32)
    layer = dict(options)
    if layer.pop("bias", False):
        layer["bias"] = rng.integers(-8, 9, len(w)).astype(np.float32)
    linear = {key: value for key, value in layer.items() if key != "bias"}
    groups, mode = options.get("groups", 1), options.get("padding_mode", "zeros")

    # An image of its own coordinates, so that each element of X_col says where it came from; 0 is padding.
    coded = np.arange(1, x.size + 1).reshape(shape)

    def mapping() -> Report:
        geometry = ConvGeometry(shape, kernel, **where)
        rows, cols = geometry.matrix_shape
        order = "hwc" if mode == "zeros" else "chw"  # both, without doubling the work
        x_col = reference.unroll(coded, kernel, **patch, order=order)
        found = np.zeros((rows, cols), coded.dtype)
        for row, col in itertools.product(range(rows), range(cols)):
            index = geometry.place(row, col, mode, order=order).element
            found[row, col] = 0 if index is None else coded[index]
        back = np.zeros((rows, cols), coded.dtype)
        for element in np.ndindex(*shape):
            n, *pixel, c = element
            for row, col in geometry.matrix_indices(n, pixel, c, mode, order=order):
                back[row, col] = coded[element]
        return compare_exactly(np.stack([found, back]), np.stack([x_col, x_col]))

    def unrolled() -> Report:
        x_cols = [unroll(coded, kernel, **patch, order=order) for order in ("hwc", "chw")]
        wanted = [reference.unroll(coded, kernel, **patch, order=order) for order in ("hwc", "chw")]
        return compare_exactly(np.stack(x_cols), np.stack(wanted))

    def flattened() -> Report:
        w_cols = [flatten_filters(w, order=order) for order in ("hwc", "chw")]
        wanted = [reference.flatten_filters(w, order=order) for order in ("hwc", "chw")]
        return compare_exactly(np.stack(w_cols), np.stack(wanted))

    def multiplied() -> Report:
        wanted = reference.convolve(x, w, **patch)
        y = multiply(unroll(x, kernel, **patch), flatten_filters(w))
        y = y.reshape(product_shape(y.shape, wanted.shape[:-1], len(kernel)))
        return compare_exactly(y, wanted.astype(y.dtype))

    def convolved() -> Report:
        wanted = reference.convolve(x, w, **layer).astype(np.float32)
        by_taps = reference.convolve_by_taps(x, w, **layer).astype(np.float32)
        todo = prepare(x, w, **layer, threads=1)
        # The plan that is chosen, and others: every kernel there is, rows one by one, a few rows, a stream.
        choices: list[dict[str, Any]] = [{"kernel": k} for k in kernels(todo.plan.geometry, w.dtype)]
        choices += [{"band_bytes": 1}, {"band_bytes": 600, "threads": 2}]
        ys = [execute(todo), *(execute(prepare(x, w, **layer, **choice)) for choice in choices)]
        parts = [rows.copy() for rows in stream(prepare(x, w, **layer, band_bytes=200))]
        ys.append(np.concatenate(parts).reshape(wanted.shape))
        return compare_exactly(np.stack([by_taps, *ys]), np.stack([wanted] * (len(ys) + 1)))

    def bounded() -> Report:
        noise = rng.standard_normal(shape).astype(np.float32)
        weights = rng.standard_normal(filter_shape).astype(np.float32)
        return verify(noise, weights, **layer)

    def strewn() -> Report:
        """Infinities reach the outputs whose kernels see them, and no others."""
        noise = rng.standard_normal(shape).astype(np.float32)
        noise.flat[:: max(noise.size // 3, 1)] = np.inf
        return verify(noise, w, **layer)

    def folded() -> Report:
        """Sums, of floats and of integers in the other order of columns, and means."""
        x_col = unroll(x, kernel, **where)
        p = rng.integers(-8, 9, x_col.shape).astype(np.float32)
        choices: list[tuple[NDArray[Any], dict[str, Any]]] = [
            (p, {}),
            (p.astype(np.int32), {"order": "chw"}),
            (x_col, {"overlap": "mean"}),
        ]
        found = [fold(a, shape, kernel, **where, **choice) for a, choice in choices]
        wanted = [reference.fold(a, shape, kernel, **where, **choice) for a, choice in choices]
        return compare_exactly(*(np.stack(side).astype(np.float32) for side in (found, wanted)))

    def transposed() -> Report:
        """Against the definition, sized by itself where that leaves anything, and by the input."""
        size = reference.output_size(shape[1:-1], kernel, **_with_defaults(where))
        y = rng.integers(-8, 9, (shape[0], *size, len(w)))
        bias = rng.integers(-8, 9, shape[-1]).astype(np.float32)
        known: list[dict[str, Any]] = [{"input_shape": shape}]
        if min(reference.transposed_size(size, kernel, **where)) > 0:
            known.append({"bias": bias})
        found, wanted = [], []
        for choice in known:
            found.append(convolve_transpose(y.astype(np.float32), w, **where, groups=groups, **choice))
            wanted.append(reference.convolve_transpose(y, w, **where, groups=groups, **choice))
        reports = [compare_exactly(a, b.astype(np.float32)) for a, b in zip(found, wanted, strict=True)]
        return max(reports, key=lambda report: report.outside)

    def as_matrix() -> Report:
        """M · vec(X) in the order of either layout."""
        wanted = reference.convolve_by_taps(x[:1], w, **linear)
        found = []
        for order in ("nhwc", "nchw"):
            m = layer_matrix(w, shape, **linear, layout=order)
            columns = m @ from_batch(x[:1], order).reshape(-1)
            found.append(to_batch(columns.reshape(from_batch(wanted, order).shape), len(kernel), order))
        return compare_exactly(np.stack(found), np.stack([wanted] * 2).astype(np.float32))

    def adjoint() -> Report:
        """⟨unroll x, p⟩ = ⟨x, fold p⟩, with an image and patches of whole numbers."""
        image = x.astype(np.float64)
        x_col = unroll(image, kernel, **where)
        p = rng.integers(-8, 9, x_col.shape).astype(np.float64)
        sums = [np.vdot(x_col, p), np.vdot(image, fold(p, shape, kernel, **where))]
        return compare_exactly(np.array(sums[:1]), np.array(sums[1:]))

    def gradients() -> Report:
        """dW = X_colᵀ · dY and dX = fold(dY · W_colᵀ), in each group, against differences of the definition.

        The loss is ⟨Y, dY⟩, which is linear in each weight and each pixel: its central differences over a
        step of 1 are the derivatives, and with whole numbers they are exact.
        """
        pixels, weights = x.astype(np.float64), w.astype(np.float64)
        dy = reference.convolve_by_taps(pixels, weights, **linear)
        dy = rng.integers(-8, 9, dy.shape).astype(np.float64)
        found, wanted = [], [_weight_slopes(pixels, weights, dy, linear)]
        turned = np.flip(weights, tuple(range(1, weights.ndim - 1))) if linear.get("flip") else weights
        parts = zip(
            np.split(pixels, groups, -1), np.split(turned, groups), np.split(dy, groups, -1), strict=True
        )
        by_weight, by_pixel = [], []
        for part, filters, slopes in parts:
            rows = slopes.reshape(-1, len(filters))
            dw = (unroll(part, kernel, **patch).T @ rows).T.reshape(filters.shape)
            by_weight.append(np.flip(dw, tuple(range(1, dw.ndim - 1))) if linear.get("flip") else dw)
            by_pixel.append(fold(rows @ flatten_filters(filters).T, part.shape, kernel, **where))
        found.append(np.concatenate(by_weight))
        if mode == "zeros":  # what other modes pad with has slopes of its own, which fold drops
            slopes = _pixel_slopes(pixels, weights, dy, linear)
            found += [
                np.concatenate(by_pixel, -1),
                convolve_transpose(dy, turned, **where, groups=groups, input_shape=shape),
            ]
            wanted += [slopes, slopes]
        return compare_exactly(*(np.concatenate([a.reshape(-1) for a in side]) for side in (found, wanted)))

    stages: Stages = {
        "mapping, locate": mapping,
        "unroll": unrolled,
        "flatten-filters": flattened,
        "convolve": convolved,
        "convolve, bound": bounded,
        "convolve, infinities": strewn,
        "fold": folded,
        "transpose": transposed,
        "matrix": as_matrix,
        "adjoint": adjoint,
        "gradients": gradients,
    }
    if groups == 1 and not options.get("flip"):
        stages["X_col · W_col"] = multiplied
    return [_compare(family, name, run, shape, filter_shape, options) for family, run in stages.items()]


def _weight_slopes(
    x: NDArray[Any], w: NDArray[Any], dy: NDArray[Any], linear: dict[str, Any]
) -> NDArray[Any]:
    """The slope of ⟨Y, dY⟩ along each weight, by central differences of the definition."""
    groups = linear.get("groups", 1)
    nudges = np.eye(w.size).reshape(w.size, *w.shape)
    # All nudged filters at once, as so many more filters in each group.
    nudged = np.concatenate([w + nudges, w - nudges]).reshape(2 * w.size, groups, -1, *w.shape[1:])
    filters = np.moveaxis(nudged, 0, 1).reshape(-1, *w.shape[1:])
    y = reference.convolve_by_taps(x, filters, **linear)
    by_bank = y.reshape(*dy.shape[:-1], groups, 2 * w.size, -1)
    losses = np.einsum(
        "pgbk,pgk->b", by_bank.reshape(-1, *by_bank.shape[-3:]), dy.reshape(-1, groups, len(w) // groups)
    )
    slopes = (losses[: w.size] - losses[w.size :]) / 2
    return np.reshape(slopes, w.shape)


def _pixel_slopes(x: NDArray[Any], w: NDArray[Any], dy: NDArray[Any], linear: dict[str, Any]) -> NDArray[Any]:
    """The slope of ⟨Y, dY⟩ along each pixel of each channel, by central differences of the definition."""
    slopes = []
    for image, towards in zip(x, dy, strict=True):  # an image's pixels matter to its outputs alone
        nudges = np.eye(image.size).reshape(image.size, *image.shape)
        y = reference.convolve_by_taps(np.concatenate([image + nudges, image - nudges]), w, **linear)
        losses = y.reshape(2 * image.size, -1) @ towards.reshape(-1)
        slopes.append(((losses[: image.size] - losses[image.size :]) / 2).reshape(image.shape))
    return np.stack(slopes)


def _with_defaults(where: dict[str, Any]) -> dict[str, Any]:
    return {"stride": 1, "padding": "valid", "dilation": 1} | where


def _check_dtype(dtype: np.dtype[Any], rng: np.random.Generator) -> list[Case]:
    """One dtype, on numbers whose sums it holds exactly, and on others if it has any."""
    shape, filter_shape = (2, 5, 6, 3), (4, 3, 2, 3)
    low = 0 if dtype.kind in "bu" else -2
    x = rng.integers(low, 3, shape).astype(dtype)
    w = rng.integers(low, 3, filter_shape).astype(dtype)
    if dtype.kind == "c":
        x.imag, w.imag = x.real[..., ::-1, :], w.real[::-1]
    where: dict[str, Any] = {"stride": (1, 2), "padding": "same"}

    def exact() -> Report:
        y = convolve(x, w, **where)
        wanted = reference.convolve(x, w, **where)
        kept = dtype.newbyteorder("=") if dtype.kind in "fc" else np.dtype(np.int64)
        if y.dtype != kept:
            raise DTypeError("result", f"has dtype {y.dtype}, expected {kept}")
        return compare_exactly(y, wanted.astype(kept))

    def bounded() -> Report:
        noise, weights = rng.standard_normal((2, math.prod(shape)))
        if dtype.kind == "c":
            noise, weights = noise + 1j * weights, weights - 1j * noise
        count = math.prod(filter_shape)
        noise, weights = noise.reshape(shape), weights[:count].reshape(filter_shape)
        return verify(noise.astype(dtype), weights.astype(dtype), **where)

    def folded() -> Report:
        """The mean is the inverse of unroll, and sums do not wrap."""
        x_col = unroll(x, filter_shape[1:-1], **where)
        mean = fold(x_col, shape, filter_shape[1:-1], **where, overlap="mean")
        total = fold(x_col, shape, filter_shape[1:-1], **where)
        times = reference.fold(np.ones(x_col.shape, int), shape, filter_shape[1:-1], **where)
        wide = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
        tenths = (x / 10).astype(dtype)  # whose sums are rounded, and whose means must not be
        equal = fold(
            unroll(tenths, filter_shape[1:-1], **where), shape, filter_shape[1:-1], **where, overlap="mean"
        )
        found, wanted = [mean, total, equal], [x, x.astype(wide) * times, tenths]
        return compare_exactly(*(np.stack([a.astype(wide) for a in side]) for side in (found, wanted)))

    def transposed() -> Report:
        """By the input's size, which `x` has here as the layer's output."""
        kernels = np.moveaxis(w, 0, -1)  # as many filters as x has channels
        options: dict[str, Any] = {"stride": (1, 2), "padding": 1}
        back = convolve_transpose(x, kernels, **options)
        kept = dtype.newbyteorder("=") if dtype.kind in "fc" else np.dtype(np.int64)
        return compare_exactly(back, reference.convolve_transpose(x, kernels, **options).astype(kept))

    name = dtype.name + (", big-endian" if dtype.byteorder == ">" else "")
    runs = [("dtypes", name, exact), ("dtypes", f"{name}, folded", folded)]
    runs += [("dtypes", f"{name}, transposed", transposed)]
    runs += [("dtypes, bound", name, bounded)] if dtype.kind in "fc" else []
    return [_compare(*run, shape, filter_shape, where) for run in runs]


def _check_arrays(rng: np.random.Generator) -> list[Case]:
    """Arrays as they come: other layouts and strides, extreme integers, none at all."""
    shape, filter_shape = (2, 6, 5, 3), (4, 3, 3, 3)
    x, w = rng.integers(-8, 9, shape), rng.integers(-8, 9, filter_shape)
    wanted = reference.convolve(x, w)
    big = np.full((1, 3, 3, 1), 2**29 + 1)

    def nchw() -> Report:
        given = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        y = convolve(to_batch(given, 2, "nchw"), w)
        return compare_exactly(from_batch(y, "nchw"), np.moveaxis(wanted, -1, 1))

    def kernel_layouts() -> Report:
        oihw, hwio = np.moveaxis(w, -1, 1), np.moveaxis(w, 0, -1)
        ys = [convolve(x, to_filters(a, 2, b)) for a, b in ((oihw, "oihw"), (hwio, "hwio"))]
        return compare_exactly(np.stack(ys), np.stack([wanted] * 2))

    def strides() -> Report:
        wide = np.zeros((4, 6, 10, 3), x.dtype)
        wide[::-2, :, ::2] = x
        ys = [convolve(np.asfortranarray(x), w), convolve(wide[::-2, :, ::2], np.asfortranarray(w))]
        return compare_exactly(np.stack(ys), np.stack([wanted] * 2))

    def middling() -> Report:
        """Odd sums beyond float32's 24 bits."""
        odd = np.full((1, 3, 3, 1), 4097)
        return compare_exactly(convolve(odd, odd), reference.convolve(odd, odd))

    def large() -> Report:
        return compare_exactly(convolve(big, big), reference.convolve(big, big))

    def narrow() -> Report:
        ones = np.full((1, 3, 3, 1), 255, np.uint8)
        return compare_exactly(convolve(ones, ones), np.full((1, 1, 1, 1), 9 * 255 * 255))

    def empty() -> Report:
        return compare_exactly(convolve(x[:0], w), np.zeros((0, *wanted.shape[1:]), np.int64))

    small = ((1, 3, 3, 1), (1, 3, 3, 1))
    return [
        _compare("layouts, arrays", name, run, *shapes)
        for name, run, shapes in (
            ("channels first", nchw, (shape, filter_shape)),
            ("kernels OIHW and HWIO", kernel_layouts, (shape, filter_shape)),
            ("Fortran order, negative strides", strides, (shape, filter_shape)),
            ("sums beyond 2^24", middling, small),
            ("sums beyond 2^53", large, small),
            ("uint8 does not wrap", narrow, small),
            ("empty batch", empty, ((0, *shape[1:]), filter_shape)),
        )
    ]


def _check_blocks(rng: np.random.Generator) -> Case:
    """Folding an X_col so long that it is cut in blocks, whose pixels overlap; as a stream, too."""
    line, taps = 60_000, 9
    shape = (1, line, 1)
    p = rng.integers(-8, 9, (line - taps + 1, taps)).astype(np.float64)

    def run() -> Report:
        wanted = np.zeros(line)
        for tap in range(taps):
            wanted[tap : tap + len(p)] += p[:, tap]
        parts = np.split(p, [7, 45_000])
        streamed = [lines.copy() for lines in fold_stream(parts, p.dtype, ConvGeometry(shape, taps))]
        # And apart, so that blocks begin before an output does; the first lies in the padding.
        bare = ConvGeometry(shape, 7, 12, ((8, 0),))
        gaps = p[: bare.patches, :7]
        pieces = [lines.copy() for lines in fold_stream([gaps], p.dtype, bare, block_bytes=999)]
        spread = np.pad(gaps, ((0, 0), (0, 5))).reshape(-1)[8 : line + 8].reshape(shape)
        found = [fold(p, shape, taps), np.concatenate(streamed)[None], np.concatenate(pieces)[None]]
        return compare_exactly(np.stack(found), np.stack([*[wanted.reshape(shape)] * 2, spread]))

    return _compare("fold", "blocks that overlap", run, shape, (1, taps, 1))


def _compare(
    family: str,
    name: str,
    run: Callable[[], Report],
    shape: tuple[int, ...] = (),
    filter_shape: tuple[int, ...] = (),
    options: dict[str, Any] | None = None,
) -> Case:
    """Run one comparison."""
    report = None
    try:
        report = run()
        trouble = "" if report else str(report)
    except Exception as error:
        trouble = f"{type(error).__name__}: {error}"
    return Case(family, name, shape, filter_shape, options or {}, report, trouble)
