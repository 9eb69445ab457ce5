"""The whole layer as one matrix: vec(Y) = M · vec(X), as a map, as sparse entries, and what is known of it.

Written with the unroll matrix U of 0s and 1s, vec(X_col) = U · vec(X), the fully connected layer on patches
is W_colᵀ repeated once a patch: M = (I_P ⊗ W_colᵀ) · U. So M has P·K rows, H·W·C columns, and shares the
kh·kw·C·K weights of W_col among all of its entries. Its transpose is fold ∘ (· W_colᵀ).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike, NDArray

from convmat import spectrum
from convmat.arithmetic import choose_arithmetic
from convmat.axis import PADDING_MODES, padding_source
from convmat.checks import STEP_LIMIT, choice, flag, got, numbers, several, whole
from convmat.engine import convolve, filter_geometry
from convmat.errors import GeometryError, ShapeError
from convmat.files.memory import check_memory
from convmat.geometry import KERNEL_LIMIT, ConvGeometry, Padding, Sizes
from convmat.shown import Fact, Shown, bytes_text, percent, shape_fact
from convmat.spectrum import Spectrum
from convmat.watching import Watch, unwatched

LAYOUTS = ("nhwc", "nchw")

# Entries handled at a time where a temporary array is needed: within a core's cache.
_BLOCK_ENTRIES = 1 << 17
# Outputs times taps along an axis that are looked at one by one, about a second's work.
_MOST_LOOKED_AT = 20 * KERNEL_LIMIT
_TAPS_OF_A_LOOK = 200  # that take as long as all that is done besides
MOST_ITERATIONS = 1_000_000
# Entries times weights in all of Lanczos' iterations, about a minute's work, unless more are asked for.
_AFFORDABLE_PRODUCTS = 10**11


def layer_matrix(
    filters: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    layout: str = "nhwc",
) -> LayerMatrix:
    """The sparse matrix M of a convolutional layer as one fully connected layer, vec(Y) = M · vec(X).

    It is made for one image; in a batch each image meets the same M. Its entries come from the index mapping
    (Eq. 8): M[(y·W_out + x)·K + k, (h·W + w)·C + c] is filters[k, i, j, c] where tap (i, j) of the patch at
    (y, x) is pixel (h, w). An entry is stored for each such tap, also where its weight is 0; where padding by
    "reflect", "replicate" or "circular" leads several taps to one pixel, they are one entry, their sum.

    Args:
        filters: (K, *kernel, C/groups), as `convolve` takes them; there is no bias in M.
        input_shape: (*spatial, C), or (N, *spatial, C) of which N makes no difference.
        stride, padding, dilation, groups, flip, padding_mode: as `convolve` takes them.
        layout: the order of both vectors: "nhwc" is vec of (*spatial, C), "nchw" of (C, *spatial).

    Returns:
        A `LayerMatrix`: CSR arrays as SciPy has them. Its dtype is the one that `convolve` sums in: integers
        are int64, float16 becomes float32, all others are kept.

    Raises:
        GeometryError, ShapeError: sizes or filters that do not fit, or 2^31 pixels or more along an axis, or
            more padding than can be looked at. DTypeError: elements that are not
            numbers. IntegerRangeError: weights whose sums could pass 2^63.
    """
    found = layer_map(
        filters, input_shape, stride, padding, dilation, groups, flip, padding_mode, layout=layout
    )
    check_memory("input_shape", found.nbytes, "its facts, of layer_map, need no memory for it")
    return found.matrix()


def layer_map(
    filters: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    layout: str = "nhwc",
) -> LayerMap:
    """The layer as a linear map, all facts of which can be had without its matrix; as `layer_matrix`."""
    filters = numbers("filters", filters)
    choice("padding_mode", padding_mode, PADDING_MODES)
    choice("layout", layout, LAYOUTS)
    flag("flip", flip)
    if filters.ndim not in (3, 4, 5):
        raise ShapeError(
            "filters",
            f"have shape {filters.shape}, expected (K, *kernel, C/groups) with 1 to 3 spatial axes",
        )
    shape = tuple(whole("input_shape", size) for size in several(input_shape) or ())
    if len(shape) not in (filters.ndim - 1, filters.ndim):
        raise ShapeError(
            "input_shape",
            f"{got(input_shape)} has {len(shape)} axes; filters of shape {filters.shape} take (*spatial, C) "
            f"with {filters.ndim - 1}",
        )
    if max(shape) > STEP_LIMIT:
        raise GeometryError("input_shape", f"must be at most {STEP_LIMIT} along every axis, got {got(shape)}")
    geometry = filter_geometry(
        (1, *shape[1 - filters.ndim :]), filters.shape, stride, padding, dilation, groups
    )
    if padding_mode != "zeros":  # of zeros all is known by formula
        _check_padded(geometry)
    dtype = choose_arithmetic(geometry.terms, np.ones(1, bool), filters)
    kept = dtype.result if dtype.result.kind == "i" else dtype.accumulator
    if flip:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    weights = np.array(filters, kept, order="C")
    weights.setflags(write=False)
    return LayerMap(geometry, weights, padding_mode, layout)


@dataclass(frozen=True)
class MatrixFacts:
    """What is known of a layer's matrix."""

    shape: tuple[int, int]
    nnz: int
    """Entries stored: one for each pixel that a patch holds and each filter that sees it."""
    density: float
    """nnz / (rows · columns)."""
    weights: int
    """Free weights, shared by all entries: kh·kw·C/groups·K."""
    frobenius_norm: float
    """√(Σ|entry|²); NaN or infinite where weights are."""
    spectrum: Spectrum | None
    """None where it was not asked for, or weights are not finite."""


@dataclass(frozen=True)
class _Run:
    """Consecutive outputs along one axis whose taps meet the input in the same way."""

    outputs: range
    taps: NDArray[np.intp]
    """The taps that meet the input, ordered by pixel."""
    starts: NDArray[np.intp]
    """Where in `taps` each new pixel begins."""


@dataclass(frozen=True, eq=False)
class LayerMap(Shown):
    """A convolutional layer without bias as a linear map; what `layer_map` returns."""

    geometry: ConvGeometry
    """Of one image."""
    filters: NDArray[Any]
    """(K, *kernel, C/groups), already flipped, in the dtype of M."""
    padding_mode: str
    layout: str

    def __repr__(self) -> str:
        rows, columns = self.shape
        return (
            f"<{type(self).__name__} {rows} × {columns}, {self.nnz} entries from {self.filters.size} "
            f"weights, {self.filters.dtype}, {self.layout}>"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Of M: (P·K, H·W·C)."""
        g = self.geometry
        return g.patches * len(self.filters), math.prod(g.input_shape)

    @property
    def nnz(self) -> int:
        """Entries of M; counted per axis, since patches are boxes."""
        if self.padding_mode == "zeros":
            met = math.prod(int(times.sum()) for times in self._taps_inside)
        else:
            met = math.prod(map(_pixels_met, self._runs))
        return int(self.filters.shape[-1] * len(self.filters) * met)

    @property
    def density(self) -> float:
        """nnz / (rows · columns)."""
        return self.nnz / math.prod(self.shape)

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """Of the CSR arrays' indices: int32 where all numbers fit, as SciPy chooses."""
        return np.dtype(np.int32 if max(self.nnz, *self.shape) < 1 << 31 else np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the CSR arrays."""
        index = self.index_dtype.itemsize
        return self.nnz * (self.filters.itemsize + index) + (self.shape[0] + 1) * index

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense matrix."""
        return math.prod(self.shape) * self.filters.itemsize

    def matrix(self) -> LayerMatrix:
        """The sparse matrix, written box by box of outputs that meet the input in the same way."""
        _check_padded(self.geometry)
        index, count = self.index_dtype, len(self.filters)
        indptr = np.zeros(self.shape[0] + 1, index)
        np.cumsum(self._row_lengths(), out=indptr[1:])
        data = np.empty(int(indptr[-1]), self.filters.dtype)
        indices = np.empty(len(data), index)
        met = [_pixels_met(runs) for runs in self._runs]
        groups, depth = self.geometry.groups, self.filters.shape[-1]
        last = self.layout == "nhwc"
        # A step to the next channel, and along each axis to the next pixel, in the input's vector.
        size = self.geometry.input_size
        channel_step = 1 if last else math.prod(size)
        pixel_steps = [
            math.prod(size[a + 1 :]) * (self.geometry.channels if last else 1) for a in range(len(size))
        ]
        group_columns = (np.arange(groups) * depth * channel_step).astype(index)
        for box in self._boxes():
            lengths = [len(run.starts) for run in box]
            entries = math.prod(lengths) * depth
            weights = _by_pixel(self.filters, box)
            weights = weights if last else np.moveaxis(weights, -1, 1)
            # Within a box all rows are equally long, so the entries lie at equal steps along every axis.
            unit = depth * (count if last else 1)
            steps = [unit * math.prod(lengths[: a + 1]) * math.prod(met[a + 1 :]) for a in range(len(box))]
            filter_step = entries if last else depth * math.prod(met)
            steps += [filter_step * (count // groups), filter_step, 1]
            shape = (*(len(run.outputs) for run in box), groups, count // groups, entries)
            first = self._row(tuple(run.outputs[0] for run in box))
            begin = int(indptr[first])
            _strided(data, begin, shape, steps)[...] = weights.reshape(shape[-3:])
            target = _strided(indices, begin, shape, steps)
            pixels = [self._pixels(axis, run) for axis, run in enumerate(box)]
            rows = max(_BLOCK_ENTRIES // (math.prod(shape[1:-3]) * entries), 1)
            for start in range(0, shape[0], rows):
                part = [pixels[0][start : start + rows], *pixels[1:]]
                columns = _columns(part, pixel_steps, depth, channel_step, last).astype(index)
                np.add(
                    columns[..., None, None, :],
                    group_columns[:, None, None],
                    out=target[start : start + rows],
                )
        for array in (data, indices, indptr):
            array.setflags(write=False)
        return LayerMatrix(self, data, indices, indptr)

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """M · vec(X), (P·K,), by the engine: for vectors (H·W·C,) in the map's layout, without the matrix."""
        g = self.geometry
        y = convolve(
            self._as_image(x, g.input_size, g.channels)[None],
            self.filters,
            g.stride,
            g.pads,
            g.dilation,
            g.groups,
            padding_mode=self.padding_mode,
        )[0]
        return self._as_vector(y)

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """Mᵀ · vec(Y), (H·W·C,), without the matrix: fold ∘ (· W_colᵀ), one kernel tap at a time."""
        g, count = self.geometry, len(self.filters)
        per_group = (g.groups, count // g.groups)
        dtype = np.result_type(self.filters, y)
        weights = self.filters.reshape(*per_group, *self.filters.shape[1:])
        image = self._as_image(y, g.output_size, count).reshape(g.patches, *per_group)
        rows = np.moveaxis(image, 1, 0).astype(dtype)
        padded = [h + sum(pads) for h, pads in zip(g.input_size, g.pads, strict=True)]
        slab = np.zeros((*padded, g.channels), dtype)
        for tap in itertools.product(*map(range, g.kernel_size)):
            target = [
                slice(i * d, i * d + (out - 1) * s + 1, s)
                for i, d, s, out in zip(tap, g.dilation, g.stride, g.output_size, strict=True)
            ]
            at_tap: tuple[Any, ...] = (..., *tap, slice(None))
            share = np.matmul(rows, weights[at_tap])  # (groups, P, C/groups)
            slab[*target] += np.moveaxis(share, 0, 1).reshape(*g.output_size, g.channels)
        for axis, (h, (before, _)) in enumerate(zip(g.input_size, g.pads, strict=True)):
            lines = np.moveaxis(slab, axis, 0)
            if self.padding_mode == "zeros":
                inside = lines[before : before + h]
            else:
                inside = np.zeros((h, *lines.shape[1:]), dtype)
                positions = np.arange(len(lines)) - before
                np.add.at(inside, padding_source(positions, h, self.padding_mode), lines)
            slab = np.moveaxis(inside, 0, axis)
        return self._as_vector(slab)

    def frobenius_norm(self) -> float:
        """√(Σ|entry|²), from how often each tap meets a pixel; NaN or infinite where weights are."""
        weights, scale = self._scaled()
        if not math.isfinite(scale) or scale == 0:
            return scale
        counted = weights
        if self.padding_mode == "zeros":
            for axis, times in enumerate(self._taps_inside, 1):
                counted = np.moveaxis(np.moveaxis(counted, axis, -1) * times, -1, axis)
        else:
            for axis, runs in enumerate(self._runs, 1):
                counted = _met_together(counted, axis, runs)
        # Weighted by the taps that share their pixel, each product is counted as often as it occurs.
        return scale * math.sqrt(max(float(np.vdot(weights, counted).real), 0.0))

    @property
    def spectrum_bytes(self) -> int:
        """Memory that `spectrum` takes, at most about."""
        item: int = 16 if self.filters.dtype.kind == "c" else 8
        if self._is_circular():
            lines = math.prod(self.geometry.input_size[1:]) * self.geometry.kernel_size[0]
            depth = int(self.filters.shape[-1]) * len(self.filters)
            return 24 * min(self.shape) + 32 * lines * depth + 4 * spectrum.BLOCK_BYTES
        if math.prod(self.shape) <= spectrum.DENSE_ELEMENTS:
            return 3 * item * math.prod(self.shape)
        vectors = spectrum.BASIS * min(self.shape) + 6 * max(self.shape)
        return item * vectors + 4 * spectrum.BLOCK_BYTES

    def spectrum(
        self,
        tolerance: float = spectrum.TOLERANCE,
        iterations: int | None = None,
        watch: Watch = unwatched,
    ) -> Spectrum | None:
        """The singular values, by the first method that serves; None where weights are not finite.

        All of them by Fourier transform where the layer is circular, of stride 1, and its output has the
        input's size; all from a dense copy where M is small; else the largest by Lanczos' method, to the
        relative `tolerance`, in at most `iterations` products with MᴴM: by default 500, and fewer where they
        would take minutes. All compute in float64. `watch` is handed the iterations.
        """
        if iterations is not None:
            iterations = whole("iterations", iterations, 1, MOST_ITERATIONS)
        weights, scale = self._scaled()
        if not math.isfinite(scale):
            return None
        scale = scale or 1.0
        scaled = LayerMap(self.geometry, weights, self.padding_mode, self.layout)
        if self._is_circular():
            g = self.geometry
            found = spectrum.fourier_spectrum(weights, g.input_size, g.dilation, g.groups)
        elif math.prod(self.shape) <= spectrum.DENSE_ELEMENTS:
            found = spectrum.dense_spectrum(scaled.matrix().toarray())
        else:
            affordable = max(_AFFORDABLE_PRODUCTS // self.nnz, 1)
            if iterations is None:
                iterations = min(spectrum.ITERATIONS, affordable)
            found = spectrum.lanczos_spectrum(
                scaled._gram, min(self.shape), weights.dtype, tolerance, iterations, watch
            )
        return found.scaled(scale)

    def facts(self) -> list[Fact]:
        """The layer, and what of its matrix costs nothing to know; `analyse` tells more."""
        weights, dtype = self.filters.size, str(self.filters.dtype)
        return [
            *(fact for fact in self.geometry.facts() if fact.key != "matrix_shape"),
            shape_fact("matrix_shape", "M", self.shape, "vec Y × vec X"),
            Fact("nnz", "entries stored", self.nnz, f"{self.nnz}, {percent(self.density)}"),
            Fact("weights", "free weights", weights, str(weights)),
            Fact("dtype", "dtype", dtype, dtype),
            Fact("bytes", "bytes, sparse", self.nbytes, bytes_text(self.nbytes)),
        ]

    def analyse(self, with_spectrum: bool = True, **limits: Any) -> MatrixFacts:
        """All that is known of M, without making it; `limits` are those of `spectrum`."""
        return MatrixFacts(
            shape=self.shape,
            nnz=self.nnz,
            density=self.density,
            weights=self.filters.size,
            frobenius_norm=self.frobenius_norm(),
            spectrum=self.spectrum(**limits) if with_spectrum else None,
        )

    @property
    def _taps_inside(self) -> list[NDArray[np.int64]]:
        """For each tap along each axis, the outputs of which it is inside the input, by Eq. 8."""
        g, found = self.geometry, []
        for k, s, d, (before, _), h, out in zip(
            g.kernel_size, g.stride, g.dilation, g.pads, g.input_size, g.output_size, strict=True
        ):
            at = np.arange(k) * d - before
            first, end = np.maximum(-(at // s), 0), np.minimum((h - 1 - at) // s + 1, out)
            found.append((end - first).clip(0))
        return found

    @cached_property
    def _runs(self) -> list[list[_Run]]:
        """The outputs along each axis."""
        return [
            _runs_along(self.geometry, axis, self.padding_mode) for axis in range(len(self.geometry.stride))
        ]

    def _boxes(self) -> Iterator[tuple[_Run, ...]]:
        """Boxes of outputs that meet the input in the same way, and meet it at all."""
        for box in itertools.product(*self._runs):
            if all(len(run.starts) for run in box):
                yield box

    def _row_lengths(self) -> NDArray[np.int64]:
        """Entries in each row of M."""
        lengths = np.array(self.filters.shape[-1])
        for runs in self._runs:
            line = [np.full(len(run.outputs), len(run.starts)) for run in runs]
            lengths = np.multiply.outer(lengths, np.concatenate(line))
        count = len(self.filters)
        flat = lengths.reshape(-1)
        return flat.repeat(count) if self.layout == "nhwc" else np.tile(flat, count)

    def _row(self, position: tuple[int, ...]) -> int:
        """The row of M that is an output position's first."""
        number = int(np.ravel_multi_index(position, self.geometry.output_size))
        return number * len(self.filters) if self.layout == "nhwc" else number

    def _pixels(self, axis: int, run: _Run) -> NDArray[np.intp]:
        """The pixels that a run's outputs meet along one axis, (outputs, pixels), ascending."""
        met = _positions(self.geometry, axis, np.asarray(run.outputs)[:, None], run.taps[run.starts])
        if self.padding_mode == "zeros":
            return met
        pixels: NDArray[np.intp] = padding_source(met, self.geometry.input_size[axis], self.padding_mode)
        return pixels

    def _as_image(self, vector: NDArray[Any], size: tuple[int, ...], channels: int) -> NDArray[Any]:
        """A vector in the map's layout as (*size, channels)."""
        if self.layout == "nhwc":
            return vector.reshape(*size, channels)
        return np.moveaxis(vector.reshape(channels, *size), 0, -1)

    def _as_vector(self, image: NDArray[Any]) -> NDArray[Any]:
        return (image if self.layout == "nhwc" else np.moveaxis(image, -1, 0)).reshape(-1)

    def _scaled(self) -> tuple[NDArray[Any], float]:
        """The weights in float64 (complex128), over the largest, so that no square over- or underflows."""
        with np.errstate(all="ignore"):
            weights = self.filters.astype(np.complex128 if self.filters.dtype.kind == "c" else np.float64)
            scale = float(np.abs(weights).max())
            return (weights / scale if scale else weights), scale

    def _gram(self, v: NDArray[Any]) -> NDArray[Any]:
        """MᴴM·v, or MMᴴ·v where M has fewer rows than columns."""
        rows, columns = self.shape
        if columns <= rows:
            return self.transpose(self.apply(v).conj()).conj()
        return self.apply(self.transpose(v.conj()).conj())

    def _is_circular(self) -> bool:
        """Whether M is circulant along every axis: stride 1, output as large as input, circular padding."""
        g = self.geometry
        wraps = self.padding_mode == "circular" or set(g.extent) == {1}
        return wraps and set(g.stride) == {1} and g.output_size == g.input_size


@dataclass(frozen=True, eq=False)
class LayerMatrix(Shown):
    """The sparse matrix M of a layer, (P·K, H·W·C), in compressed rows (CSR); what `layer_matrix` returns.

    `scipy.sparse.csr_array((m.data, m.indices, m.indptr), m.shape)` is the same matrix, without a copy. In
    each row columns ascend and none is there twice. The arrays are read-only.
    """

    layer: LayerMap
    data: NDArray[Any]
    indices: NDArray[Any]
    """The column of each entry."""
    indptr: NDArray[Any]
    """Where in `data` and `indices` each row begins; one more for the end."""

    # So that NumPy leaves `y @ m` to us.
    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.layer.shape

    @property
    def nnz(self) -> int:
        """Entries stored; those of weight 0 are among them."""
        return len(self.data)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the entries."""
        return self.data.dtype

    def __repr__(self) -> str:
        return repr(self.layer).replace(type(self.layer).__name__, type(self).__name__)

    def __matmul__(self, x: ArrayLike) -> NDArray[Any]:
        """M · x from the stored entries, x of shape (columns,) or (columns, vectors).

        Integers are exact, as in `convolve`. Raises ShapeError for other shapes.
        """
        return self._product(x, 1)

    def __rmatmul__(self, y: ArrayLike) -> NDArray[Any]:
        """y · M = Mᵀ · y from the stored entries, y of shape (rows,) or (vectors, rows)."""
        product = self._product(np.asarray(y).T, 0)
        return product.T

    def facts(self) -> list[Fact]:
        """Those of the layer."""
        return self.layer.facts()

    def analyse(self, with_spectrum: bool = True, **limits: Any) -> MatrixFacts:
        """All that is known of M; `limits` are the `tolerance` and `iterations` of `LayerMap.spectrum`."""
        return self.layer.analyse(with_spectrum, **limits)

    def toarray(self) -> NDArray[Any]:
        """The dense matrix."""
        dense = np.zeros(self.shape, self.dtype)
        for entries, rows in self.blocks():
            dense[rows, self.indices[entries]] = self.data[entries]
        return dense

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz archive that `scipy.sparse.load_npz` reads, whole or not at all, to that very name.

        Raises:
            FileError: it cannot be written; nothing is left of it.
        """
        from convmat.files.archives import write_archive

        arrays = {"indices": self.indices, "indptr": self.indptr, "format": np.array(b"csr")}
        arrays |= {"shape": np.array(self.shape), "data": self.data}
        write_archive(os.fspath(path), arrays, compressed=True)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.intp]]]:
        """All entries in order, some at a time: which they are, and the row of each."""
        lengths = np.diff(self.indptr)
        start = 0
        while start < self.shape[0]:
            end = int(np.searchsorted(self.indptr, self.indptr[start] + _BLOCK_ENTRIES, "right")) - 1
            end = max(end, start + 1)
            entries = slice(int(self.indptr[start]), int(self.indptr[end]))
            yield entries, np.arange(start, end).repeat(lengths[start:end])
            start = end

    def _product(self, vectors: ArrayLike, axis: int) -> NDArray[Any]:
        """M (axis 1) or Mᵀ (axis 0) times vectors, (n,) or (n, vectors)."""
        x = numbers("vectors", vectors)
        if x.ndim not in (1, 2) or len(x) != self.shape[axis]:
            raise ShapeError(
                "vectors",
                f"have shape {x.shape}, the matrix {self.shape}; expected {self.shape[axis]} numbers each, "
                f"one image in {self.layer.layout} order",
            )
        terms = self.layer.geometry.terms if axis else min(self.nnz, self.shape[0])
        dtypes = choose_arithmetic(terms, x, self.data)
        total = np.zeros((self.shape[1 - axis], *x.shape[1:]), dtypes.accumulator)
        with np.errstate(all="ignore"):
            for entries, rows in self.blocks():
                source, target = (self.indices[entries], rows) if axis else (rows, self.indices[entries])
                data = self.data[entries].reshape(-1, *(1 for _ in x.shape[1:]))
                products = data.astype(dtypes.accumulator) * x[source].astype(dtypes.accumulator)
                np.add.at(total, target, products)
            return total.astype(dtypes.result, copy=False)


def _positions(
    geometry: ConvGeometry, axis: int, outputs: NDArray[np.intp], taps: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Where outputs' taps lie along one axis (Eq. 8), below 0 and beyond the end in the padding."""
    return np.asarray(
        outputs * geometry.stride[axis] + taps * geometry.dilation[axis] - geometry.pads[axis][0], np.intp
    )


def _inside(geometry: ConvGeometry, axis: int) -> tuple[int, int]:
    """The outputs along one axis that do not reach into the padding: the first, and the first after them."""
    out, stride, before = geometry.output_size[axis], geometry.stride[axis], geometry.pads[axis][0]
    first = min(-(-before // stride), out)
    end = (geometry.input_size[axis] + before - geometry.extent[axis]) // stride + 1
    return first, max(min(end, out), first)


def _check_padded(geometry: ConvGeometry) -> None:
    """Raise GeometryError where outputs that reach into the padding are too many to be looked at."""
    for axis, name in enumerate(geometry.axis_names):
        first, end = _inside(geometry, axis)
        padded = first + geometry.output_size[axis] - end
        most = _MOST_LOOKED_AT // (geometry.kernel_size[axis] + _TAPS_OF_A_LOOK)
        if padded > most:
            raise GeometryError(
                "padding",
                f"is met by {padded} outputs along {name}, which are looked at one by one; expected at most "
                f"{most} under a kernel of {geometry.kernel_size[axis]}: give less padding",
            )


def _runs_along(geometry: ConvGeometry, axis: int, padding_mode: str) -> list[_Run]:
    """The outputs along one axis as runs; one run holds all that do not reach into the padding."""
    out, size = geometry.output_size[axis], geometry.input_size[axis]
    every_tap = np.arange(geometry.kernel_size[axis])
    first, end = _inside(geometry, axis)
    runs: list[_Run] = []
    for y in itertools.chain(range(first), [first] if end > first else [], range(end, out)):
        outputs = range(first, end) if first <= y < end else range(y, y + 1)
        positions = _positions(geometry, axis, np.array(y), every_tap)
        if padding_mode == "zeros":
            taps = np.flatnonzero((positions >= 0) & (positions < size))
            starts = np.arange(len(taps))
        else:
            pixels = padding_source(positions, size, padding_mode)
            taps = np.argsort(pixels, kind="stable")
            starts = np.flatnonzero(np.diff(pixels[taps], prepend=-1))
        if runs and np.array_equal(runs[-1].taps, taps) and np.array_equal(runs[-1].starts, starts):
            runs[-1] = _Run(range(runs[-1].outputs.start, outputs.stop), taps, starts)
        else:
            runs.append(_Run(outputs, taps, starts))
    return runs


def _pixels_met(runs: list[_Run]) -> int:
    """Pixels that all outputs along one axis meet, each counted as often as it is met."""
    return sum(len(run.outputs) * len(run.starts) for run in runs)


def _by_pixel(filters: NDArray[Any], box: tuple[_Run, ...]) -> NDArray[Any]:
    """The weights (K, *kernel, C/groups) as a box's outputs see them, (K, *pixels, C/groups)."""
    for axis, run in enumerate(box, 1):
        filters = filters.take(run.taps, axis)
        if len(run.starts) < len(run.taps):
            with np.errstate(all="ignore"):
                filters = np.add.reduceat(filters, run.starts, axis, dtype=filters.dtype)
    return filters


def _met_together(weights: NDArray[Any], axis: int, runs: list[_Run]) -> NDArray[Any]:
    """For each tap along one axis, the weights of all taps that meet its pixel, summed over the outputs."""
    total = np.zeros_like(weights)
    lines, sums = np.moveaxis(weights, axis, 0), np.moveaxis(total, axis, 0)
    for run in runs:
        if len(run.starts):
            merged = np.add.reduceat(lines[run.taps], run.starts, 0)
            shared = np.diff(run.starts, append=len(run.taps))
            sums[run.taps] += len(run.outputs) * merged.repeat(shared, axis=0)
    return total


def _columns(
    pixels: list[NDArray[np.intp]], steps: list[int], depth: int, channel_step: int, channels_last: bool
) -> NDArray[np.intp]:
    """The columns of M that a box's outputs meet in their first group, (*outputs, entries), ascending."""
    axes = len(pixels)
    found = np.arange(depth) * channel_step
    found = found.reshape(-1 if channels_last else (-1, *(1,) * axes))
    for axis, (met, step) in enumerate(zip(pixels, steps, strict=True)):
        shape = [1] * (2 * axes + 1)
        shape[axis] = met.shape[0]
        shape[axes + axis + (0 if channels_last else 1)] = met.shape[1]
        found = found + met.reshape(shape) * step
    return found.reshape(*found.shape[:axes], -1)


def _strided(array: NDArray[Any], begin: int, shape: tuple[int, ...], steps: list[int]) -> NDArray[Any]:
    """A writable view of elements at equal steps along each axis, checked to lie within the array."""
    last = begin + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if not 0 <= last < len(array):
        raise GeometryError("input_shape", f"entry {last} of {len(array)} does not exist; this is a bug")
    return as_strided(array[begin:], shape, [step * array.itemsize for step in steps])
