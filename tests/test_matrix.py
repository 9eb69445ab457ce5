"""The layer's matrix: against engine and adjoint, as SciPy reads it, its spectrum, picture and command."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import convmat as cm
from convmat import spectrum, symbol
from convmat.cli import run
from convmat.errors import FileError, GeometryError, IntegerRangeError
from convmat.figures.canvas import THEMES, Words
from convmat.figures.cells import shades
from convmat.figures.pattern import draw_matrix
from convmat.figures.raster import painted
from convmat.matrix import layer_map, layer_matrix
from tests.strategies import Layer, layers, noise, probes
from tests.tools import shell

pytestmark = pytest.mark.usefixtures("folder")

LAYOUTS = ("nhwc", "nchw")


def arranged(array: np.ndarray, layout: str) -> np.ndarray:
    """(N, *spatial, C) as one vector an image, in the layout's order."""
    array = np.moveaxis(array, -1, 1) if layout == "nchw" else array
    return array.reshape(len(array), -1)


def as_scipy(m: Any) -> Any:
    return scipy.sparse.csr_array((m.data, m.indices, m.indptr), m.shape)


def made(layer: Layer, dtype: Any, seed: int = 7) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    make = probes(dtype, np.random.default_rng(seed))
    x, filters, options = layer._replace(has_bias=False).arrays(make)
    del options["bias"]
    return x, filters, options


# The matrix is the layer


@settings(max_examples=100)
@given(layers(least_batch=1), st.sampled_from(LAYOUTS), st.sampled_from(["i1", "f4", "f8", "c16"]))
def test_product_is_the_convolution(layer: Layer, layout: str, dtype: str) -> None:
    x, filters, options = made(layer, dtype)
    m = cm.layer_matrix(filters, x.shape, **options, layout=layout)
    y = cm.convolve(x, filters, **options)
    expected = arranged(y, layout)
    as_scipy(m).check_format(full_check=True)
    assert as_scipy(m).has_canonical_format
    np.testing.assert_array_equal((as_scipy(m) @ arranged(x, layout).T).T, expected)
    np.testing.assert_array_equal((m @ arranged(x, layout).T).T, expected)
    np.testing.assert_array_equal(m.layer.apply(arranged(x, layout)[0]), expected[0])
    assert (m @ arranged(x, layout)[0]).dtype == y.dtype
    assert (m.nnz, m.shape) == (m.layer.nnz, (y[0].size, x[0].size))
    np.testing.assert_array_equal(m.toarray(), as_scipy(m).toarray())


@settings(max_examples=100)
@given(layers(least_batch=1), st.sampled_from(LAYOUTS))
def test_transpose_is_the_adjoint(layer: Layer, layout: str) -> None:
    """⟨Mx, y⟩ = ⟨x, Mᵀy⟩, to the last bit, by the stored entries and by the map."""
    x, filters, options = made(layer, "i4")
    m = cm.layer_matrix(filters, x.shape[1:], **options, layout=layout)
    v, p = arranged(x, layout)[0], np.random.default_rng(3).integers(-3, 4, m.shape[0])
    back = as_scipy(m).T @ p
    np.testing.assert_array_equal(p @ m, back)
    np.testing.assert_array_equal(m.layer.transpose(p), back)
    assert (m @ v) @ p == v @ back


@settings(max_examples=40)
@given(layers(modes=("zeros",), least_batch=1))
def test_transpose_is_fold_of_the_product_with_w_col(layer: Layer) -> None:
    """Mᵀ · vec(Y) = fold(Y · W_colᵀ), folded pixel by pixel through the index mapping."""
    x, filters, options = made(layer._replace(groups=1, flip=False), "i4")
    if filters.shape[-1] != x.shape[-1]:
        filters = np.repeat(filters, x.shape[-1] // filters.shape[-1], axis=-1)
    g = cm.ConvGeometry((1, *x.shape[1:]), filters.shape[1:-1], *(options[k] for k in layer.where))
    y = np.random.default_rng(5).integers(-3, 4, (g.patches, len(filters)))
    gradient = y @ cm.flatten_filters(filters).T
    folded = np.zeros(g.input_shape, int)
    for element in np.ndindex(*g.input_shape):
        for place in g.matrix_indices(element[0], element[1:-1], element[-1]):
            np.add.at(folded, element, gradient[place])
    m = cm.layer_matrix(filters, x.shape, **options)
    np.testing.assert_array_equal(y.reshape(-1) @ m, folded.reshape(-1))


@settings(max_examples=40)
@given(layers(least_batch=1), st.sampled_from(LAYOUTS))
def test_block_form(layer: Layer, layout: str) -> None:
    """M = (I_P ⊗ W_colᵀ) · U, or (W_colᵀ ⊗ I_P) · U by channels; with groups W_col is zero-filled."""
    x, filters, options = made(layer, "i4")
    if options["flip"]:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    options["flip"] = False
    size, channels = x.shape[1:-1], x.shape[-1]
    pixels = math.prod(size) * channels
    full = np.zeros((*filters.shape[:-1], channels), int)
    depth, per_group = filters.shape[-1], len(filters) // layer.groups
    for k in range(len(filters)):
        first = k // per_group * depth
        full[k, ..., first : first + depth] = filters[k]
    basis = np.eye(pixels, dtype=int)
    images = basis.reshape(pixels, *size, channels)
    if layout == "nchw":
        images = np.moveaxis(basis.reshape(pixels, channels, *size), 1, -1)
    x_cols = cm.unroll(images, filters.shape[1:-1], **layer.patch)
    patches = len(x_cols) // pixels
    w_col, one = cm.flatten_filters(full), np.eye(patches, dtype=int)
    per_image = x_cols.reshape(pixels, patches, -1)
    if layout == "nchw":
        unroll_matrix = np.moveaxis(per_image, 0, -1).swapaxes(0, 1).reshape(-1, pixels)
        expected = np.kron(w_col.T, one) @ unroll_matrix
    else:
        unroll_matrix = per_image.reshape(pixels, -1).T
        expected = np.kron(one, w_col.T) @ unroll_matrix
    assert set(np.unique(unroll_matrix)) <= {0, 1}
    m = cm.layer_matrix(filters, x.shape, **options, layout=layout)
    np.testing.assert_array_equal(m.toarray(), expected)


def test_entries_are_geometry_and_shared_pixels_are_one_entry() -> None:
    m = cm.layer_matrix(np.zeros((1, 3, 1)), (4, 1))
    assert (m.nnz, np.count_nonzero(m.data)) == (6, 0)
    m = cm.layer_matrix(np.array([1, 2, 4]).reshape(1, 3, 1), (2, 1), padding=1, padding_mode="replicate")
    np.testing.assert_array_equal(m.toarray(), [[3, 4], [1, 6]])
    assert m.nnz == 4


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("bool", "i8"), ("u1", "i8"), (">i2", "i8"), ("f2", "f4"), (">f4", "f4"), ("f8", "f8"), ("c8", "c8")],
)
def test_dtypes(dtype: str, kept: str) -> None:
    m = cm.layer_matrix(np.ones((2, 3, 3, 1), dtype), (5, 5, 1))
    assert (m.dtype, m.indices.dtype, m.indptr.dtype) == (np.dtype(kept), np.int32, np.int32)
    assert not (m.data.flags.writeable or m.indices.flags.writeable or m.indptr.flags.writeable)


def test_large_matrices_take_wide_indices_and_are_described_without_being_made() -> None:
    big = layer_map(np.ones((64, 3, 3, 64)), (1, 400, 400, 64), padding="same")
    assert (big.index_dtype, big.nnz) == (np.int64, (3 * 400 - 2) ** 2 * 64 * 64)
    assert big.frobenius_norm() == pytest.approx(math.sqrt(big.nnz))
    assert f"{big.nnz} entries from 36864 weights" in repr(big)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((5, 5), {}, r"input_shape: \(5, 5\) has 2 axes; filters .* take \(\*spatial, C\) with 3"),
        ((5, 5, 2), {}, "filters: made for 1 channels"),
        ((5, 5, 1), {"layout": "chwn"}, "layout: unknown 'chwn'; give one of nhwc, nchw"),
        ((5, 5, 1), {"padding_mode": "wrap"}, "padding_mode: unknown 'wrap'"),
        ((2, 2, 1), {}, "kernel_size: the kernel spans 3 pixels"),
        ((5, 5.5, 1), {}, "input_shape: expected a whole number, got 5.5"),
    ],
)
def test_refuses(shape: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(cm.ConvmatError, match=message):
        cm.layer_matrix(np.ones((1, 3, 3, 1)), shape, **options)


def test_refuses_products_that_do_not_fit() -> None:
    m = cm.layer_matrix(np.ones((1, 3, 3, 1)), (5, 5, 1))
    with pytest.raises(cm.ConvmatError, match=r"vectors: have shape \(24,\), .* expected 25 numbers each"):
        m @ np.ones(24)
    with pytest.raises(cm.ConvmatError, match="expected 9 numbers each"):
        np.ones(25) @ m
    with pytest.raises(IntegerRangeError, match="int64 ends at"):
        cm.layer_matrix(np.full((1, 3, 3, 1), 2**62), (5, 5, 1))


# The file


@pytest.mark.parametrize("dtype", ["i8", "f4", "c16"])
def test_scipy_reads_what_is_saved(dtype: str, tmp_path: Path) -> None:
    w = noise(dtype, np.random.default_rng(1))((4, 3, 3, 2))
    m = cm.layer_matrix(w, (6, 5, 2), padding="same", stride=2)
    m.save(tmp_path / "m.npz")
    read = scipy.sparse.load_npz(tmp_path / "m.npz")
    assert (read.format, read.dtype, read.shape, read.nnz) == ("csr", m.dtype, m.shape, m.nnz)
    assert read.has_canonical_format
    np.testing.assert_array_equal(read.toarray(), m.toarray())
    scipy.sparse.save_npz(tmp_path / "theirs.npz", scipy.sparse.csr_matrix(as_scipy(m)))
    with np.load(tmp_path / "m.npz") as ours, np.load(tmp_path / "theirs.npz") as theirs:
        assert set(ours) == set(theirs)
        for key in ours:
            assert ours[key].dtype == theirs[key].dtype
            np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize("name", ["-", "m.npy", "m.png"])
def test_refuses_names_of_other_formats(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"is an [.]npz archive; name a|is written as [.]npz; name it"):
        cm.layer_matrix(np.ones((1, 3, 3, 1)), (5, 5, 1)).save(name)
    assert not list(tmp_path.iterdir())


# Norms and singular values


@settings(max_examples=80)
@given(layers(least_batch=1), st.sampled_from(["f8", "c16"]))
def test_facts_are_those_of_the_dense_matrix(layer: Layer, dtype: str) -> None:
    make = noise(dtype, np.random.default_rng(2))
    filters = make(layer.filter_shape)
    options = layer.patch | {"groups": layer.groups, "flip": layer.flip}
    m = cm.layer_matrix(filters, layer.shape, **options)
    dense = m.toarray()
    values = np.linalg.svd(dense, compute_uv=False)
    found = m.layer.spectrum()
    assert found is not None
    np.testing.assert_allclose(found.values, values, rtol=1e-10, atol=1e-12 * values.max())
    assert values.max() <= found.upper <= found.largest * (1 + 1e-12)
    assert m.layer.frobenius_norm() == pytest.approx(np.linalg.norm(dense), rel=1e-12)
    assert found.largest == pytest.approx(values.max(), rel=1e-10)
    assert found.smallest == pytest.approx(values.min(), rel=1e-10, abs=1e-12 * values.max())
    assert found.rank == np.linalg.matrix_rank(dense)
    if found.rank < min(m.shape):
        assert found.condition == math.inf
    lanczos = spectrum.lanczos_spectrum(m.layer._gram, min(m.shape), m.dtype)
    assert lanczos.converged
    assert lanczos.largest == pytest.approx(values.max(), rel=1e-6)


@settings(max_examples=40)
@given(st.data())
def test_fourier_agrees_with_dense_for_circular_layers(data: st.DataObject) -> None:
    """Sedghi, Gupta & Long (2019), also strided, dilated, grouped, padded unevenly, and in 1 to 3 axes."""
    axes = data.draw(st.integers(1, 3))
    each, few = (st.tuples(*[st.integers(1, most)] * axes) for most in (4, 2))
    outputs, kernel, dilation = data.draw(few if axes == 3 else each), data.draw(each), data.draw(few)
    stride = data.draw(few if axes == 3 else st.tuples(*[st.integers(1, 4)] * axes))
    size = [n * s for n, s in zip(outputs, stride, strict=True)]
    groups, per_group, depth = (data.draw(st.integers(1, 3)) for _ in range(3))
    dtype = data.draw(st.sampled_from(["f8", "c16"]))
    reach = [max(d * (k - 1) + 1 - s, 0) for k, d, s in zip(kernel, dilation, stride, strict=True)]
    before = [data.draw(st.integers(0, r)) for r in reach]
    pads = [(b, r - b) for b, r in zip(before, reach, strict=True)]
    filters = noise(dtype, np.random.default_rng(4))((groups * per_group, *kernel, depth))
    where: dict[str, Any] = {
        "stride": stride,
        "padding": pads,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": "circular",
    }
    layer = layer_map(filters, (*size, groups * depth), **where)
    found = layer.spectrum()
    assert found is not None
    assert found.method == "fourier"
    dense = spectrum.dense_spectrum(layer.matrix().toarray())
    assert found.largest == pytest.approx(dense.largest, rel=1e-10)
    assert found.smallest == pytest.approx(dense.smallest, rel=1e-10, abs=1e-12 * dense.largest)
    assert found.rank == dense.rank


def test_fourier_agrees_with_the_papers_own_code() -> None:
    """np.linalg.svd(np.fft.fft2(kernel, size)), as in the paper, of a layer of real size."""
    w = np.random.default_rng(5).standard_normal((8, 3, 3, 6))
    layer = layer_map(w, (32, 32, 6), padding="same", padding_mode="circular")
    transformed = np.fft.fft2(w, (32, 32), axes=(1, 2))
    values = np.linalg.svd(np.moveaxis(transformed, 0, -1), compute_uv=False)
    found = layer.spectrum()
    assert found is not None
    assert found.largest == pytest.approx(values.max(), rel=1e-10)
    assert found.smallest == pytest.approx(values.min(), rel=1e-10)
    lanczos = spectrum.lanczos_spectrum(layer._gram, min(layer.shape), iterations=1000)
    assert lanczos.largest == pytest.approx(values.max(), rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "filter_shape", "options"),
    [
        ((24, 24, 8), (6, 3, 3, 8), {"padding": "same"}),
        (
            (32, 30, 6),
            (16, 5, 3, 3),
            {"stride": (2, 1), "padding": 2, "groups": 2, "padding_mode": "reflect"},
        ),
    ],
)
def test_lanczos_agrees_with_scipy(shape: Any, filter_shape: Any, options: dict[str, Any]) -> None:
    layer = layer_map(np.random.default_rng(6).standard_normal(filter_shape), shape, **options)
    found = layer.spectrum()
    assert found is not None
    assert (found.method, found.converged) == ("lanczos", True)
    assert found.error <= spectrum.THOROUGH.tolerance * found.largest
    start = np.ones(min(layer.shape))
    [expected] = scipy.sparse.linalg.svds(
        as_scipy(layer.matrix()), k=1, return_singular_vectors=False, v0=start
    )
    assert found.largest == pytest.approx(expected, rel=1e-6)
    assert found.values is None
    assert expected <= found.upper < 1.01 * found.largest * (2 if "groups" in options else 1)
    assert found.upper_method == "gram"


# Bounds from above


@settings(max_examples=60)
@given(layers(least_batch=1), st.sampled_from(["i1", "f4", "f8", "c8", "c16"]), st.booleans())
def test_bounds_hold_for_every_layer(layer: Layer, dtype: str, one_tap: bool) -> None:
    """Of norms by LAPACK, without a tolerance; also where a single tap of each filter is not 0."""
    filters = noise(dtype, np.random.default_rng(2))(layer.filter_shape)
    if one_tap:
        last = np.arange(math.prod(layer.kernel)) == math.prod(layer.kernel) - 1
        filters = filters * last.reshape(*layer.kernel, 1)
    m = layer_map(filters, layer.shape, **layer.patch, groups=layer.groups)
    weights, _ = m._scaled()
    dense = layer_map(weights, layer.shape, **layer.patch, groups=layer.groups).matrix().toarray()
    values = np.linalg.svd(dense, compute_uv=False)
    parts, counts = symbol.distinct_groups(weights, layer.groups)
    assert sum(counts) == layer.groups
    for bound in (symbol.symbol_bound, symbol.taps_bound):
        assert values[0] <= bound(m.geometry, parts, layer.padding_mode).value
    found = spectrum.lanczos_spectrum(lambda v: dense.T @ (dense.conj() @ v), len(dense.T), dense.dtype)
    found = found.bounded(symbol.norm_bound(m.geometry, weights, layer.padding_mode), 0.0, 1)
    assert found.largest <= found.upper * (1 + 1e-14)
    found = found.bounded(symbol.Bound(values[0], "gram"), float(np.linalg.norm(dense)), len(values))
    assert found.smallest_upper >= values[-1] * (1 - 1e-7)


@settings(max_examples=20)
@given(layers(modes=("zeros",), least_batch=1), st.sampled_from(["f8", "c16"]))
def test_the_bound_is_the_norm_on_an_endless_plane(layer: Layer, dtype: str) -> None:
    """On ever larger inputs norms without padding come up to it, and never past it."""
    filters = noise(dtype, np.random.default_rng(2))(layer.filter_shape)
    axes = len(layer.kernel)
    stride, dilation = layer.where["stride"], layer.where["dilation"]
    large = layer_map(
        filters,
        (*[{1: 60, 2: 21, 3: 10}[axes]] * axes, layer.shape[-1]),
        stride,
        "valid",
        dilation,
        layer.groups,
    )
    norm = spectrum.lanczos_spectrum(large._gram, min(large.shape), filters.dtype).largest
    parts, _ = symbol.distinct_groups(filters, layer.groups)
    bound = symbol.symbol_bound(large.geometry, parts, "zeros").value
    assert norm <= bound <= norm * {1: 1.1, 2: 1.35, 3: 1.8}[axes]


def test_gram_iteration_agrees_with_lapack() -> None:
    rng = np.random.default_rng(3)
    for shape in ((5, 1, 1), (7, 3, 8), (9, 20, 6)):
        for matrices in (rng.standard_normal(shape), noise("c16", rng)(shape), np.zeros(shape)):
            norms = np.linalg.svd(matrices, compute_uv=False)[:, 0]
            bounds = symbol.gram_bounds(matrices)
            assert (norms <= bounds * (1 + 1e-14)).all()
            np.testing.assert_allclose(bounds, norms, rtol=2e-5, atol=1e-300)
            for limit in norms.max() * np.array([1 - 1e-10, 1 + 1e-10]):
                assert symbol.all_within(matrices, limit) == (limit > norms.max())
            frobenius = symbol.gram_bounds(matrices, squarings=0)
            np.testing.assert_allclose(frobenius, np.linalg.norm(matrices, axis=(1, 2)), atol=1e-300)


def test_a_layer_of_32_pixels_has_a_narrow_interval() -> None:
    filters = np.random.default_rng(1).standard_normal((64, 3, 3, 3))
    found = cm.spectrum_of(filters, (32, 32, 3), padding="same", iterations=80)
    assert found is not None
    assert (found.method, found.exact, found.values) == ("lanczos", False, None)
    assert found.largest < found.upper < 1.003 * found.largest
    coarse = layer_map(filters, (10**4, 10**4, 3), padding="same")
    assert found.upper < symbol.norm_bound(coarse.geometry, filters, "zeros").value < 1.01 * found.upper


def test_layers_without_overlap_are_known_whole() -> None:
    """A patch embedding, and a fully connected layer: copies of W_col, however large."""
    filters = np.random.default_rng(1).standard_normal((20, 16, 16, 3))
    values = np.linalg.svd(filters.reshape(20, -1), compute_uv=False)
    for size, patches in ((224, 196), (230, 196), (16, 1)):
        found = cm.spectrum_of(filters, (size, size, 3), stride=16)
        assert found is not None
        assert found.method == "fourier"
        np.testing.assert_allclose(found.values, values.repeat(patches), rtol=1e-12)


def test_groups_are_decomposed_one_by_one() -> None:
    """A depthwise layer whose matrix of 9216 × 9216 is too large for a dense copy."""
    filters = np.random.default_rng(1).standard_normal((64, 3, 3, 1))
    filters[1::2] = filters[0]
    layer = layer_map(filters, (12, 12, 64), padding="same", groups=64)
    found = layer.spectrum()
    assert found is not None
    assert (found.method, len(layer.method().parts), layer.spectrum_bytes() < 10**6) == ("dense", 32, True)
    each = [
        np.linalg.svd(layer_matrix(f[None], (12, 12, 1), padding="same").toarray(), compute_uv=False)
        for f in filters
    ]
    np.testing.assert_allclose(found.values, np.sort(np.concatenate(each))[::-1], rtol=1e-9, atol=1e-12)


def test_bounds_of_kernels_with_too_many_taps_for_their_symbol() -> None:
    layer = layer_map(np.ones((1, 200_000, 1)), (10, 1), padding="full")
    bound = symbol.norm_bound(layer.geometry, layer.filters, "zeros")
    assert bound == (pytest.approx(200_000), "taps")


def test_layers_that_meet_nothing_have_a_norm_of_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "DENSE_ELEMENTS", 0)
    found = cm.spectrum_of(np.ones((2, 1, 3)), (3, 3), stride=5, padding=1)
    assert found is not None
    assert (found.method, found.largest, found.upper_method) == ("lanczos", 0, "taps")
    assert found.upper == pytest.approx(0, abs=1e-300)


def test_bounds_that_would_take_long_are_coarser() -> None:
    filters = np.random.default_rng(1).standard_normal((8, 5, 5, 4))
    layer = layer_map(filters, (60, 60, 4), padding="same")
    norms = []
    for products in (10**11, 10**6, 10**5, 1):
        norms.append(symbol.norm_bound(layer.geometry, filters, "zeros", products).value)
    assert norms == sorted(norms)
    assert norms[0] < norms[1] < norms[3]


def test_a_chain_is_bounded_by_its_layers() -> None:
    """Of f(x) = M₂·relu(M₁·x + b), the distance of no two images grows by more."""
    rng = np.random.default_rng(1)
    w, v = rng.standard_normal((4, 3, 3, 2)), rng.standard_normal((3, 3, 3, 4))
    first, second = cm.spectrum_of(w, (8, 8, 2), padding="same"), cm.spectrum_of(v, (8, 8, 4), stride=2)
    assert first is not None
    assert second is not None
    bound = cm.chain_bound([first, second])
    assert bound == pytest.approx(first.largest * second.largest)
    x = rng.standard_normal((2, 8, 8, 2))
    x[1] = x[0] + 1e-3 * x[1]
    hidden = np.maximum(cm.convolve(x, w, padding="same", bias=rng.standard_normal(4)), 0)
    y = cm.convolve(hidden, v, stride=2)
    assert 0 < np.linalg.norm(y[1] - y[0]) <= bound * np.linalg.norm(x[1] - x[0])
    assert cm.chain_bound([first, None]) == math.inf
    assert cm.chain_bound([]) >= 1


def test_lanczos_says_when_it_has_not_converged() -> None:
    layer = layer_map(np.random.default_rng(6).standard_normal((6, 3, 3, 8)), (24, 24, 8), padding="same")
    full, short = layer.spectrum(), layer.spectrum(iterations=5)
    assert full is not None
    assert short is not None
    assert (short.converged, short.iterations, short.rank) == (False, 5, None)
    assert short.error > spectrum.THOROUGH.tolerance * short.largest
    assert short.largest < full.largest


def test_lanczos_on_matrices_it_might_trip_over() -> None:
    nothing = spectrum.lanczos_spectrum(np.zeros_like, 30)
    assert (nothing.largest, nothing.error, nothing.converged) == (0, 0, True)
    one = spectrum.lanczos_spectrum(lambda v: 4 * v, 30)
    assert (one.largest, one.iterations, one.converged) == (pytest.approx(2), 1, True)
    tiny = spectrum.lanczos_spectrum(lambda v: 9 * v, 1)
    assert (tiny.largest, tiny.converged) == (3, True)
    steps = np.linspace(1, 2, 60) ** 2
    assert spectrum.lanczos_spectrum(lambda v: steps * v, 60).largest == pytest.approx(2, rel=1e-8)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_neither_overflow_nor_vanish(scale: float) -> None:
    w = np.random.default_rng(8).standard_normal((2, 3, 3, 1))
    small, scaled = (layer_map(f, (6, 6, 1)) for f in (w, w * scale))
    before, after = small.spectrum(), scaled.spectrum()
    assert before is not None
    assert after is not None
    assert scaled.frobenius_norm() == pytest.approx(small.frobenius_norm() * scale)
    assert after.largest == pytest.approx(before.largest * scale)


def test_weights_that_are_zero_or_not_finite() -> None:
    zero = layer_map(np.zeros((1, 3, 3, 1)), (5, 5, 1))
    found = zero.spectrum()
    assert found is not None
    assert (zero.frobenius_norm(), found.largest, found.rank) == (0, 0, 0)
    assert found.condition == math.inf
    w = np.ones((1, 3, 3, 1))
    for bad, holds in ((np.nan, math.isnan), (np.inf, math.isinf)):
        w[0, 0, 0, 0] = bad
        layer = layer_map(w, (5, 5, 1))
        assert layer.spectrum() is None
        assert holds(layer.frobenius_norm())


# The picture


def frame_of(picture: NDArray[np.uint8], theme: str = "light") -> NDArray[np.uint8]:
    """What is within the frame of a matrix's picture: the first full lines in ink."""
    ink = (picture == THEMES[theme].ink).all(-1)
    rows, columns = (np.flatnonzero(ink.mean(axis) > 0.5) for axis in (1, 0))
    return picture[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]


@pytest.mark.parametrize("theme", THEMES)
def test_picture_of_a_small_matrix_has_each_weight_in_its_colour(theme: str) -> None:
    filters = np.arange(-4, 5).reshape(1, 3, 3, 1)
    m = cm.layer_matrix(filters, (5, 5, 1), padding=1)
    picture = frame_of(np.asarray(painted(draw_matrix(m, THEMES[theme]))), theme)
    cell = 768 // 25
    assert picture.shape == (25 * cell, 25 * cell, 3)
    corners = picture[4::cell, 4::cell]
    weights = m.toarray()
    wanted = shades(weights, -4, 4)
    np.testing.assert_array_equal(corners[weights != 0], wanted[weights != 0])
    stored = m.layer.nnz - np.count_nonzero(weights)
    assert (corners[weights == 0] == THEMES[theme].padding).all(-1).sum() == stored
    assert (corners[weights == 0] == THEMES[theme].paper).all(-1).sum() == 625 - m.layer.nnz


def test_picture_of_a_matrix_has_axes() -> None:
    m = cm.layer_matrix(np.ones((2, 3, 3, 1)), (6, 5, 1))
    said = [mark.line.text for mark in draw_matrix(m, THEMES["light"]).marks if isinstance(mark, Words)]
    assert said[:2] == ["rows: vec(Y), 4 × 3 × 2", "columns: vec(X), 6 × 5 × 1"]
    assert " ".join(said[2:12]) == "0 6 12 18 0 5 10 15 20 25"


def test_picture_of_a_large_matrix_shows_every_block_with_entries() -> None:
    m = cm.layer_matrix(np.ones((1, 3, 1)), (3000, 1), padding="same")
    pattern = frame_of(np.asarray(painted(draw_matrix(m, THEMES["light"]))))
    assert pattern.shape == (768, 768, 3)
    rows, columns = np.nonzero((pattern < 250).any(-1))
    assert set(np.abs(rows - columns)) == {0, 1}
    assert len(set(rows)) == 768


# The command


def facts_of(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert run(["matrix", *args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("samples")
def test_command_writes_what_the_library_gives(capsys: pytest.CaptureFixture[str]) -> None:
    w = np.load("sample_images/strokes_2x7x7x1.npy")
    options = ["--kernel", "sample_images/strokes_2x7x7x1.npy", "--stride", "7", "--layout", "nchw"]
    outputs = ["-o", "m.npz", "--figure", "m.png"]
    found = facts_of(capsys, "sample_images/digit.png", *options, *outputs)
    m = cm.layer_matrix(w, (28, 28, 1), stride=7, layout="nchw")
    np.testing.assert_array_equal(scipy.sparse.load_npz("m.npz").toarray(), m.toarray())
    assert (found["matrix_shape"], found["nnz"], found["weights"]) == ([32, 784], 1568, 98)
    assert (found["unroll_shape"], found["rank"], found["converged"]) == ([784, 784], 32, True)
    assert (found["row_axes"], found["column_axes"]) == ([2, 4, 4], [1, 28, 28])
    with Image.open("m.png") as picture:
        assert picture.mode == "RGB"
    again = facts_of(capsys, "--input-shape", "1,28,28", *options, "--dense", "-o", "m.npy")
    np.testing.assert_array_equal(np.load("m.npy"), m.toarray())
    assert again == found | {"input": None}
    bare = facts_of(capsys, "--input-shape", "1,28,28", *options, "--no-spectrum")
    assert (bare.keys(), bare["spectral_norm"]) == (found.keys(), None)


@pytest.mark.parametrize("padding", [[], ["--padding", "same", "--padding-mode", "circular"]])
def test_command_writes_all_singular_values(padding: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--input-shape", "8,9", "--kernel", "sobel-x", *padding]
    found = facts_of(capsys, *line, "--values", "v.npy")
    values = np.load("v.npy")
    sobel = np.outer([1, 2, 1], [1, 0, -1]).reshape(1, 3, 3, 1)
    where: Any = {"padding": "same", "padding_mode": "circular"} if padding else {}
    m = cm.layer_matrix(sobel, (8, 9, 1), **where)
    np.testing.assert_allclose(values, np.linalg.svd(m.toarray(), compute_uv=False), atol=1e-12)
    assert (values.dtype, values[0], values[-1]) == (
        np.float64,
        found["spectral_norm"],
        found["smallest_singular_value"],
    )
    assert found["spectral_norm_upper"] >= values[0]
    os.remove("v.npy")
    assert run(["matrix", *line, "--values", "v.npy", "--quiet"]) == 0
    np.testing.assert_array_equal(np.load("v.npy"), values)


def test_command_tells_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("w.npy", np.random.default_rng(1).standard_normal((8, 3, 3, 3)))
    line = ["--input-shape", "32,32,3", "--kernel", "w.npy", "-p", "same"]
    found = facts_of(capsys, *line)
    bare = facts_of(capsys, *line, "--no-spectrum")
    assert (found.keys(), bare["spectral_norm_upper"]) == (bare.keys(), None)
    assert found["spectral_norm"] < found["spectral_norm_upper"] < 1.01 * found["spectral_norm"]
    assert (found["method"], found["upper_method"], found["smallest_singular_value"]) == (
        "lanczos",
        "gram",
        None,
    )
    assert found["smallest_singular_value_upper"] < found["spectral_norm"]
    assert run(["matrix", *line]) == 0
    told = capsys.readouterr().out
    upper = re.search(r"and at most +│ ([0-9.]+)  \(guaranteed: by Gram iteration on the symbol\)", told)
    assert upper is not None
    assert float(upper[1]) >= found["spectral_norm_upper"]


def test_command_warns_where_the_norm_has_not_converged(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["matrix", "--input-shape", "60,60", "--kernel", "gaussian:5", "--iterations", "3"]) == 0
    out, err = capsys.readouterr()
    assert "not converged to ±" in out
    assert "too large for all singular values" in out
    assert err == (
        "convmat: warning: the norm had not converged after 3 iterations; give more --iterations\n"
    )


def test_command_describes_what_no_memory_holds(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts_of(capsys, "--input-shape", "1000000,1000000", "--kernel", "box:3", "--no-spectrum")
    assert found["nnz"] == (10**6 - 2) ** 2 * 9


@pytest.mark.parametrize(
    ("shape", "kernel", "pads", "nnz", "norm"),
    [
        ("28,28", "box:3", "1000000", 28 * 28 * 9, 28 / 3),
        ("28", "box:1000000", "full", 28 * 10**6, (28 / 10**6) ** 0.5),
        ("1000000", "box:1000000", "full", 10**12, 1.0),
    ],
)
def test_command_counts_no_padding_one_by_one(
    shape: str, kernel: str, pads: str, nnz: int, norm: float, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--input-shape", shape, "--kernel", kernel, "-p", pads, "--no-spectrum"]
    found = facts_of(capsys, *line, "--dims", str(shape.count(",") + 1))
    assert found["nnz"] == nnz
    assert found["frobenius_norm"] == pytest.approx(norm)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_command_refuses_padding_that_it_would_look_at_for_minutes(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--input-shape", "28,28", "--kernel", "box:3", "-p", "1000000", "--padding-mode", mode]
    assert run(["matrix", "--no-spectrum", *line]) == 2
    assert capsys.readouterr().err == (
        "convmat: --padding: is met by 2000000 outputs along height, which are looked at one by one; "
        "expected at most 98522 under a kernel of 3: give less padding\n"
    )


def test_the_matrix_itself_is_refused_where_padding_is_looked_at() -> None:
    with pytest.raises(
        GeometryError, match=r"^padding: is met by 1000000 outputs along width, .* at most 98522 "
    ):
        layer_matrix(np.ones((1, 3, 1)), (9, 1), padding=500_000)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--kernel box:3", "Give either INPUT or --input-shape"),
        ("x.npy --input-shape 5,5 --kernel box:3", "Give either INPUT or --input-shape"),
        ("--input-shape 5,5", "Missing option '--kernel'"),
        ("--input-shape 5 --kernel box:3", "--input-shape: has 1 axes .* with 2 spatial axes"),
        ("--input-shape 5,0 --kernel box:3", r"--input-shape: got \(5, 0\); sizes .* at least 1"),
        ("--input-shape 5,x --kernel box:3", "'5,x' is no size"),
        ("--input-shape 5,5,3 --kernel box:3", "--kernel: a single-channel kernel"),
        (
            "--input-shape 5,5,3 --kernel k.npy",
            "--kernel: made for 2 channels .* has 3 in all; --kernel-layout oihw",
        ),
        (
            "--input-shape 5,5 --kernel box:3 -o m.npy",
            "m.npy: is an .npy array's name, and",
        ),
        ("--input-shape 5,5 --kernel box:3 -o -", "standard output: carries .npy bytes"),
        ("--input-shape 5,5 --kernel box:3 --dense -o m.png", "m.png: is a picture's name"),
        ("--input-shape 5,5 --kernel box:3 --figure m.npz", "m.npz: is no picture's name; end it in"),
        ("--input-shape 5,5 --kernel box:3 -o none/m.npz", "none/m.npz: cannot be written"),
        ("--input-shape 5,5 --kernel box:3 --values v.png", "v.png: is a picture's name"),
        (
            "--input-shape 5,5 --kernel box:3 --values v.npy --no-spectrum",
            "--values goes without --no-spectrum",
        ),
        (
            "--input-shape 60,60 --kernel box:3 --values v.npy -o m.npz",
            "--values: M is too large for all singular",
        ),
        (
            "--input-shape 5,5 --kernel n.npy --values v.npy -o m.npz",
            "--values: weights that are not finite have no",
        ),
        ("--input-shape 5,5 --kernel box:3 --iterations 0", "--iterations: must be 1 to 1000000, got 0"),
        (
            "--input-shape 1000000,1000000 --kernel box:3 --no-spectrum -o m.npz",
            "--output: needs [0-9]+ bytes of memory, .* without -o and --figure",
        ),
        (
            "--input-shape 9999,9999 --kernel box:3 --no-spectrum --dense -o m.npy",
            "--output: needs [0-9]+ bytes of memory, .* leave out --dense",
        ),
        ("--input-shape 1000000,1000000 --kernel box:3", "--input-shape: needs .* add --no-spectrum"),
    ],
)
def test_trouble_is_one_line_and_status_2(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.ones((5, 5)))
    np.save("k.npy", np.ones((2, 3, 3, 2)))
    np.save("n.npy", np.full((3, 3), np.nan))
    before = sorted(os.listdir())
    assert run(["matrix", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.match(f"convmat: .*({told})", err), err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("script", "status", "told"),
    [
        ("matrix --input-shape 9,9 --kernel box:3 -q --dense -o - | python -c 'import sys, io, numpy as np; "
         "assert np.load(io.BytesIO(sys.stdin.buffer.read())).shape == (49, 81)'", 0, ""),
        ("matrix --input-shape 9,9 --kernel box:3 -o - | cat", 2, "standard output: carries .npy bytes"),
        ("matrix --input-shape 9,9 --kernel box:3 -o /dev/full", 2, "/dev/full: cannot be written: No space"),
        ("matrix --input-shape 9,9 --kernel box:3 --figure none/m.png", 2, "none/m.png: cannot be written"),
        ("matrix --input-shape 9,9 --kernel none.npy", 2, "none.npy: cannot be read"),
        ("matrix - --kernel box:3 -q < x.npy", 0, ""),
    ],
)  # fmt: skip
def test_real_processes(script: str, status: int, told: str) -> None:
    np.save("x.npy", np.ones((9, 9)))
    done = shell(f"set -o pipefail; convmat {script}")
    assert (done.status, done.err.count("\n")) == (status, 1 if told else 0)
    assert told in done.err
    assert os.listdir() == ["x.npy"]
