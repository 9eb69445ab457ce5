"""The self-check, `convmat verify` alone: every stage against the definition, over a grid of cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmat import reference
from convmat.engine import (
    Tactic,
    convolve,
    convolve_transpose,
    execute,
    prepare,
    replan,
    stream,
    tactics,
)
from convmat.errors import ShapeError
from convmat.geometry import PADDING_NAMES, ConvGeometry, transpose_geometry
from convmat.layouts import from_batch, to_batch, to_filters
from convmat.matrix import layer_matrix
from convmat.patches import flatten_filters, fold, fold_stream, unroll
from convmat.verification.judging import Report, compare_exactly, verify


@dataclass(frozen=True)
class Check:
    """One line of the self-check; true when the two sides agree."""

    family: str
    name: str
    input_shape: tuple[int, ...]
    filter_shape: tuple[int, ...]
    matrix_shape: tuple[int, ...]
    """Of X_col."""
    dtype: str
    max_abs_error: float
    bound: float
    """Of the element with that error; 0 where only the exact result will do."""
    trouble: str = ""
    """Which stages differ or raise, and how; empty when all agree."""

    def __bool__(self) -> bool:
        return not self.trouble


def self_check() -> Iterator[Check]:
    """Check every stage against the definition over a fixed grid of cases, one `Check` each.

    A stage that raises is a difference like any other: the definition has a result there.
    """
    rng = np.random.default_rng(2017)
    yield _check_sizes()
    yield _check_transposed_sizes()
    for name, shape, filter_shape, options in _GRID:
        yield _check_geometry(name, shape, filter_shape, options, rng)
    for dtype in _DTYPES:
        yield _check_dtype(np.dtype(dtype), rng)
    yield from _check_arrays(rng)


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

_GEOMETRY_DEFAULTS = {"stride": 1, "padding": "valid", "dilation": 1}
_INTEGERS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i2"]
_DTYPES = [*_INTEGERS, "f2", "f4", "f8", "c8", "c16", ">f4", ">c16"]


def _check_sizes() -> Check:
    """Output sizes under every padding rule for all small sizes, against sliding the kernel."""
    ranges = (range(1, 8), range(1, 4), range(1, 4), range(1, 3), PADDING_NAMES)
    wrong = 0

    def run() -> Report:
        nonlocal wrong
        for size, k, s, d, rule in itertools.product(*ranges):
            counted = reference.output_size((size,), (k,), s, rule, d)
            if counted != (0,):
                wrong += ConvGeometry((1, size, 1), k, s, rule, d).output_size != counted
        return compare_exactly(np.array([wrong]), np.array([0]))

    return _checked("output size", "every size to 7, kernel to 3", (), (), {"geometry": run})


def _check_transposed_sizes() -> Check:
    """Sizes of transposed convolutions under every padding rule, against laying kernels side by side."""
    ranges = (range(1, 6), range(1, 4), range(1, 4), range(1, 3), (0, 1), PADDING_NAMES)
    wrong = 0

    def run() -> Report:
        nonlocal wrong
        for size, k, s, d, more, rule in itertools.product(*ranges):
            counted = reference.transposed_size((size,), (k,), s, rule, d, more)
            if counted[0] > 0 and more < max(s, d) and not (more and rule.startswith("same")):
                geometry = transpose_geometry((1, size, 1), 1, k, s, rule, d, 1, more)
                wrong += geometry.input_size != counted
        return compare_exactly(np.array([wrong]), np.array([0]))

    return _checked("output size", "transposed, every size to 5", (), (), {"geometry": run})


def _check_geometry(
    name: str,
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> Check:
    """Every stage for one geometry: mapping, X_col, W_col, product and the engine's blocks."""
    kernel = filter_shape[1:-1]
    where = {k: options[k] for k in _GEOMETRY_DEFAULTS if k in options}
    patch = {k: options[k] for k in (*where, "padding_mode") if k in options}
    # Small integers, whose sums are exact in float32 in any order: right is right to the last bit.
    x = rng.integers(-8, 9, shape).astype(np.float32)
    w = rng.integers(-8, 9, filter_shape).astype(np.float32)
    layer = dict(options)
    if layer.pop("bias", False):
        layer["bias"] = rng.integers(-8, 9, len(w)).astype(np.float32)

    # An image of its own coordinates, so that each element of X_col says where it came from; 0 is padding.
    coded = np.arange(1, x.size + 1).reshape(shape)

    mode = options.get("padding_mode", "zeros")
    order = "hwc" if mode == "zeros" else "chw"  # both, without doubling the work

    def mapping() -> Report:
        geometry = ConvGeometry(shape, kernel, **where)
        rows, cols = geometry.matrix_shape
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
        y = unroll(x, kernel, **patch) @ flatten_filters(w)
        return compare_exactly(y.reshape(wanted.shape), wanted.astype(y.dtype))

    def convolved() -> Report:
        wanted = reference.convolve(x, w, **layer).astype(np.float32)
        by_taps = reference.convolve_by_taps(x, w, **layer).astype(np.float32)
        todo = prepare(x, w, **layer, threads=1)
        # The plan that is chosen, and others: rows one by one, a few rows, every way to cut the product.
        plans: list[dict[str, Any]] = [
            {"block_bytes": 1, "tactic": Tactic()},
            {"block_bytes": 600, "threads": 2},
        ]
        plans += [{"tactic": tactic} for tactic in tactics(todo.plan.geometry, len(w))]
        ys = [execute(todo), *(execute(replan(todo, **choices)) for choices in plans)]
        ys.append(np.concatenate(list(stream(replan(todo, block_bytes=200)))).reshape(wanted.shape))
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
        """Sums and means, and ⟨unroll x, p⟩ = ⟨x, fold p⟩."""
        unrolled = unroll(x, kernel, **where)
        p = rng.integers(-8, 9, unrolled.shape).astype(np.float32)
        found = [
            fold(p, shape, kernel, **where),
            fold(p, shape, kernel, **where, order="chw"),
            fold(unrolled, shape, kernel, **where, overlap="mean"),
        ]
        wanted = [
            reference.fold(p, shape, kernel, **where),
            reference.fold(p, shape, kernel, **where, order="chw"),
            reference.fold(unrolled, shape, kernel, **where, overlap="mean"),
        ]
        inner = [np.full(shape, float(np.vdot(a, b))) for a, b in ((unrolled, p), (x, found[0]))]
        return compare_exactly(np.stack([*found, inner[0]]), np.stack([*wanted, inner[1]]).astype(np.float32))

    linear = {key: value for key, value in layer.items() if key != "bias"}
    transpose = where | {key: layer[key] for key in ("groups",) if key in layer}

    def transposed() -> Report:
        """Against the definition, sized by itself and by the input."""
        y = rng.integers(-8, 9, (shape[0], *ConvGeometry(shape, kernel, **where).output_size, len(w)))
        bias = rng.integers(-8, 9, shape[-1])
        reports = [
            compare_exactly(
                convolve_transpose(y.astype(np.float32), w, **transpose, input_shape=known, bias=added),
                reference.convolve_transpose(y, w, **transpose, input_shape=known, bias=added).astype(
                    np.float32
                ),
            )
            for known, added in ((shape, None), (None, bias.astype(np.float32)))
        ]
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

    stages = {
        "index mapping": mapping,
        "unroll": unrolled,
        "fold": folded,
        "convolve transposed": transposed,
        "matrix": as_matrix,
        "flatten-filters": flattened,
        "convolve": convolved,
        "convolve within bound": bounded,
        "convolve with infinities": strewn,
    }
    if "groups" not in options and "flip" not in options:
        stages["X_col · W_col"] = multiplied
    return _checked("every stage", name, shape, filter_shape, stages, where)


def _check_dtype(dtype: np.dtype[Any], rng: np.random.Generator) -> Check:
    """One dtype, on numbers whose sums it holds exactly."""
    shape, filter_shape = (2, 5, 6, 3), (4, 3, 2, 3)
    low = 0 if dtype.kind in "bu" else -2
    x = rng.integers(low, 3, shape).astype(dtype)
    w = rng.integers(low, 3, filter_shape).astype(dtype)

    where: dict[str, Any] = {"stride": (1, 2), "padding": "same"}

    def exact() -> Report:
        if dtype.kind == "c":
            x.imag, w.imag = x.real[..., ::-1, :], w.real[::-1]
        y = convolve(x, w, **where)
        wanted = reference.convolve(x, w, **where)
        kept = dtype.newbyteorder("=") if dtype.kind in "fc" else np.dtype(np.int64)
        if y.dtype != kept:
            raise ShapeError("result", f"has dtype {y.dtype}, expected {kept}")
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
        wanted = np.stack([x.astype(wide), x.astype(wide) * times])
        return compare_exactly(np.stack([mean.astype(wide), total.astype(wide)]), wanted)

    name = dtype.name + (", big-endian" if dtype.byteorder == ">" else "")
    stages = {"convolve": exact, "fold": folded}
    stages |= {"convolve within bound": bounded} if dtype.kind in "fc" else {}
    return _checked("dtype", name, shape, filter_shape, stages, where)


def _check_arrays(rng: np.random.Generator) -> Iterator[Check]:
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

    def large() -> Report:
        return compare_exactly(convolve(big, big), reference.convolve(big, big))

    def narrow() -> Report:
        ones = np.full((1, 3, 3, 1), 255, np.uint8)
        return compare_exactly(convolve(ones, ones), np.full((1, 1, 1, 1), 9 * 255 * 255))

    def empty() -> Report:
        return compare_exactly(convolve(x[:0], w), np.zeros((0, *wanted.shape[1:]), np.int64))

    small = ((1, 3, 3, 1), (1, 3, 3, 1))
    for name, run, shapes in (
        ("channels first", nchw, (shape, filter_shape)),
        ("kernels OIHW and HWIO", kernel_layouts, (shape, filter_shape)),
        ("Fortran order, negative strides", strides, (shape, filter_shape)),
        ("sums beyond 2^53", large, small),
        ("uint8 does not wrap", narrow, small),
        ("empty batch", empty, ((0, *shape[1:]), filter_shape)),
    ):
        yield _checked("arrays", name, *shapes, {"convolve": run})
    yield _check_blocks(rng)


def _check_blocks(rng: np.random.Generator) -> Check:
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
        found = [fold(p, shape, taps), np.concatenate(streamed)[None]]
        return compare_exactly(np.stack(found), np.stack([wanted.reshape(shape)] * 2))

    return _checked("arrays", "blocks that overlap", shape, (1, taps, 1), {"fold": run})


def _checked(
    family: str,
    name: str,
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stages: dict[str, Callable[[], Report]],
    where: dict[str, Any] | None = None,
) -> Check:
    """Run all stages of a case; its error and bound are those of the stage with the largest error."""
    trouble, reports = [], []
    matrix: tuple[int, ...] = ()
    for stage, run in stages.items():
        try:
            reports.append(run())
            if not reports[-1]:
                trouble.append(f"{stage}: {reports[-1]}")
        except Exception as error:
            trouble.append(f"{stage}: {type(error).__name__}: {error}")
    if shape:
        size = reference.output_size(
            shape[1:-1],
            filter_shape[1:-1],
            *((where or {}).get(key, usual) for key, usual in _GEOMETRY_DEFAULTS.items()),
        )
        matrix = (shape[0] * math.prod(size), math.prod(filter_shape[1:-1]) * shape[-1])
    worst = max(reports, key=lambda report: report.max_abs_error, default=None)
    return Check(
        family,
        name,
        shape,
        filter_shape,
        matrix,
        "" if worst is None else worst.dtype,
        math.inf if worst is None else worst.max_abs_error,
        0.0 if worst is None else worst.bound,
        "; ".join(trouble),
    )
