"""The whole layer as one matrix: vec(Y) = M · vec(X), as a map, as sparse entries, and what is known of it.

Written with the unroll matrix U of 0s and 1s, vec(X_col) = U · vec(X), the fully connected layer on patches
is W_colᵀ repeated once a patch: M = (I_P ⊗ W_colᵀ) · U. So M has P·K rows, H·W·C columns, and shares the
kh·kw·C·K weights of W_col among all of its entries. Its transpose is fold ∘ (· W_colᵀ).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import spectrum
from convmat.adjoint import convolve_transpose
from convmat.arithmetic import choose_arithmetic
from convmat.arrays import numbers
from convmat.axis import PADDING_MODES
from convmat.checks import STEP_LIMIT, choice, flag, got, several, whole
from convmat.engine import convolve
from convmat.entries import (
    BLOCK_ENTRIES,
    Run,
    check_padded,
    csr_arrays,
    fold_padding,
    frobenius_norm,
    pixels_met,
    runs_along,
    taps_inside,
)
from convmat.errors import GeometryError, ShapeError
from convmat.files.memory import check_memory
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.shown import Fact, Shown, bytes_text, percent, shape_fact
from convmat.spectrum import THOROUGH, Effort, Method, Spectrum, lanczos_spectrum
from convmat.symbol import norm_bound
from convmat.watching import Watch, unwatched

LAYOUTS = ("nhwc", "nchw")


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
            more padding than can be looked at. DTypeError: elements that are not numbers. IntegerRangeError:
            weights whose sums could pass 2^63.
    """
    layer = layer_map(
        filters, input_shape, stride, padding, dilation, groups, flip, padding_mode, layout=layout
    )
    check_memory("input_shape", layer.nbytes, "its facts, of layer_map, need no memory for it")
    return layer.matrix()


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
        check_padded(geometry)
    dtype = choose_arithmetic(geometry.terms, np.ones(1, bool), filters)
    kept = dtype.result if dtype.result.kind == "i" else dtype.accumulator
    if flip:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    weights = np.array(filters, kept, order="C")
    weights.setflags(write=False)
    return LayerMap(geometry, weights, padding_mode, layout)


def spectrum_of(
    filters: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    iterations: int | None = None,
    watch: Watch = unwatched,
) -> Spectrum | None:
    """Singular values of a layer's matrix, or bounds; as `layer_matrix` and `LayerMap.spectrum`."""
    layer = layer_map(filters, input_shape, stride, padding, dilation, groups, flip, padding_mode)
    check_memory("input_shape", layer.spectrum_bytes(), "use a smaller input")
    return layer.spectrum(iterations, watch=watch)


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
            met = [int(times.sum()) for times in taps_inside(self.geometry)]
        else:
            met = [pixels_met(runs) for runs in self._runs]
        return int(self.filters.shape[-1] * len(self.filters) * math.prod(met))

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
        """The sparse matrix."""
        check_padded(self.geometry)
        arrays = csr_arrays(
            self.geometry, self.filters, self._runs, self.padding_mode, self.layout, self.index_dtype
        )
        for array in arrays:
            array.setflags(write=False)
        return LayerMatrix(self, *arrays)

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
        """Mᵀ · vec(Y), (H·W·C,), by the engine, without the matrix: fold ∘ (· W_colᵀ)."""
        g, pads, size = self.geometry, self.geometry.pads, self.geometry.input_size
        if self.padding_mode != "zeros":  # the padding is part of the image, and is folded into it below
            size = tuple(h + sum(pair) for h, pair in zip(size, pads, strict=True))
            pads = ((0, 0),) * len(size)
        image = convolve_transpose(
            self._as_image(y, g.output_size, len(self.filters))[None],
            self.filters,
            g.stride,
            pads,
            g.dilation,
            g.groups,
            input_shape=(1, *size, g.channels),
        )[0]
        if self.padding_mode != "zeros":
            image = fold_padding(image, g, self.padding_mode)
        return self._as_vector(image)

    def frobenius_norm(self) -> float:
        """√(Σ|entry|²), from how often each tap meets a pixel; NaN or infinite where weights are."""
        weights, scale = self._scaled()
        if not math.isfinite(scale) or scale == 0:
            return scale
        zeros = self.padding_mode == "zeros"
        return scale * frobenius_norm(self.geometry, weights, None if zeros else self._runs)

    def spectrum_bytes(self, effort: Effort = THOROUGH) -> int:
        """Memory that `spectrum` takes, at most about."""
        return self.method(effort).nbytes(self.shape)

    def spectrum(
        self,
        iterations: int | None = None,
        effort: Effort = THOROUGH,
        watch: Watch = unwatched,
    ) -> Spectrum | None:
        """The singular values, by the first method that serves; None where weights are not finite.

        All of them by Fourier transform where the layer is circular, with an output at each step of its
        stride around, or where no two patches overlap; all from dense copies of the groups, over which M is
        block diagonal, where these are small; else bounds of the largest: from below by Lanczos' method, to
        the effort's tolerance in at most `iterations` products with MᴴM, by default 500 and fewer where they
        would take more; from above by `symbol.norm_bound`. All compute in float64.
        """
        if iterations is not None:
            iterations = whole("iterations", iterations, 1, spectrum.MOST_ITERATIONS)
        weights, scale = self._scaled()
        if not math.isfinite(scale):
            return None
        scaled = LayerMap(self.geometry, weights, self.padding_mode, self.layout)
        method = scaled.method(effort)
        if method.name == "fourier":
            found = spectrum.fourier_spectrum(method, self.shape)
        elif method.name == "dense":
            found = scaled._dense_spectrum(method)
        else:
            iterations = iterations or spectrum.affordable_iterations(self.nnz, effort)
            size = min(self.shape)
            found = lanczos_spectrum(scaled._gram, size, weights.dtype, effort.tolerance, iterations, watch)
            guess = found.largest + max(found.error, effort.tolerance * found.largest)
            bound = norm_bound(self.geometry, weights, self.padding_mode, effort.bound, guess)
            found = found.bounded(bound, scaled.frobenius_norm(), size)
        return found.scaled(scale or 1.0)

    def facts(self) -> list[Fact]:
        """The layer, and what of its matrix costs nothing to know."""
        weights, dtype = self.filters.size, str(self.filters.dtype)
        return [
            *(fact for fact in self.geometry.facts() if fact.key != "matrix_shape"),
            shape_fact("matrix_shape", "M", self.shape, "vec Y × vec X"),
            Fact("nnz", "entries stored", self.nnz, f"{self.nnz}, {percent(self.density)}"),
            Fact("weights", "free weights", weights, str(weights)),
            Fact("dtype", "dtype", dtype, dtype),
            Fact("bytes", "bytes, sparse", self.nbytes, bytes_text(self.nbytes)),
        ]

    @cached_property
    def _runs(self) -> list[list[Run]]:
        """The outputs along each axis."""
        return [runs_along(self.geometry, a, self.padding_mode) for a in range(len(self.geometry.stride))]

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

    def method(self, effort: Effort = THOROUGH) -> Method:
        """How the singular values are found."""
        return spectrum.choose_method(self.geometry, self.filters, self.padding_mode, self.shape, effort)

    def _dense_spectrum(self, method: Method) -> Spectrum:
        """All singular values of the groups, that M is made up of, from dense copies, one after another."""
        g, values = self.geometry, []
        shape = (*g.input_size, g.channels // g.groups)
        for part, count in zip(method.parts, method.counts, strict=True):
            group = layer_map(part, shape, g.stride, g.pads, g.dilation, padding_mode=self.padding_mode)
            values.append(np.tile(spectrum.singular_values(group.matrix().toarray()), count))
        return spectrum.of_all(np.concatenate(values), "dense", self.shape)


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
        from convmat.files.archives import write_sparse

        write_sparse(os.fspath(path), self.shape, self.data, self.indices, self.indptr)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.intp]]]:
        """All entries in order, some at a time: which they are, and the row of each."""
        lengths = np.diff(self.indptr)
        start = 0
        while start < self.shape[0]:
            end = int(np.searchsorted(self.indptr, self.indptr[start] + BLOCK_ENTRIES, "right")) - 1
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
