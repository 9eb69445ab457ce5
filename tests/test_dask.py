"""The functions on Dask arrays: random layers in random chunks, against the library on the whole array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convmat as cm
from tests.strategies import Layer, layers

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
cd = pytest.importorskip("convmat.dask")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with dask.config.set(scheduler="sync"):
        yield


@st.composite
def chunks(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """A shape cut anywhere along each axis."""
    cuts = [sorted(draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=2))) for size in shape]
    edges = [[0, *(c for c in some if c < size), size] for some, size in zip(cuts, shape, strict=True)]
    return tuple(tuple(np.diff(some).tolist()) for some in edges)


@st.composite
def cases(draw: st.DrawFn, **how: Any) -> tuple[Layer, tuple[tuple[int, ...], ...], np.random.Generator]:
    layer = draw(layers(**how))
    seed = draw(st.integers(0, 2**32 - 1))
    return layer, draw(chunks(layer.shape)), np.random.default_rng(seed)


def numbers(rng: np.random.Generator, dtype: str) -> Any:
    def make(shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(-9, 9, shape) if dtype == "i8" else rng.standard_normal(shape).astype(dtype)

    return make


def tasks(array: Any) -> int:
    return len(dict(array.__dask_graph__()))


@settings(max_examples=15)
@given(cases(), st.sampled_from(["i8", "f4"]))
def test_convolve(case: Any, dtype: str) -> None:
    layer, cut, rng = case
    x, filters, options = layer.arrays(numbers(rng, dtype))
    chunked = da.from_array(x, chunks=cut)
    y = cd.convolve(chunked, filters, **options)
    assert tasks(y) <= 3 * np.prod(chunked.numblocks)
    assert y.shape == layer.output_shape
    found = y.compute()
    assert found.dtype == y.dtype
    wanted = cm.convolve(x, filters, **options)
    assert found.dtype == wanted.dtype
    if dtype == "i8":
        np.testing.assert_array_equal(found, wanted)
    assert cm.verify(x, filters, expected=found, **options)
    report = cd.verify(chunked, filters, expected=da.from_array(found), **options)
    assert report
    assert report.elements == found.size
    if found.size:
        found.reshape(-1)[rng.integers(found.size)] += 100
        ours, theirs = (
            v(a, filters, expected=found, **options) for v, a in ((cd.verify, chunked), (cm.verify, x))
        )
        for name in ("outside", "worst", "worst_values", "outside_at", "shape", "axes", "elements"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.histogram == theirs.histogram or dtype == "f4"


@settings(max_examples=25)
@given(cases(), st.sampled_from(["hwc", "chw"]))
def test_unroll_and_back(case: Any, order: str) -> None:
    layer, cut, rng = case
    x = rng.integers(-9, 9, layer.shape)
    x_col = cd.unroll(da.from_array(x, chunks=cut), layer.kernel, **layer.patch, order=order)
    assert tasks(x_col) <= 3 * np.prod(list(map(len, cut)))
    wanted = cm.unroll(x, layer.kernel, **layer.patch, order=order)
    np.testing.assert_array_equal(x_col.compute(), wanted)
    for overlap in ("sum", "mean"):
        back = cd.fold(x_col, layer.shape, layer.kernel, **layer.where, overlap=overlap, order=order)
        found = back.compute()
        theirs = cm.fold(wanted, layer.shape, layer.kernel, **layer.where, overlap=overlap, order=order)
        assert found.dtype == back.dtype == theirs.dtype
        np.testing.assert_allclose(found, theirs, rtol=1e-14)
        if overlap == "sum":
            np.testing.assert_array_equal(found, theirs)


@settings(max_examples=20)
@given(st.data(), cases())
def test_fold_of_any_rows(data: st.DataObject, case: Any) -> None:
    layer, _, rng = case
    wanted = cm.unroll(rng.integers(-9, 9, layer.shape), layer.kernel, **layer.where)
    if data.draw(st.booleans()) and wanted.size:
        wanted = wanted.reshape(layer.shape[0], -1, wanted.shape[-1])
    x_col = da.from_array(wanted, chunks=data.draw(chunks(wanted.shape)))
    back = cd.fold(x_col, layer.shape, layer.kernel, **layer.where)
    assert tasks(back) <= 3 * x_col.npartitions
    np.testing.assert_array_equal(back.compute(), cm.fold(wanted, layer.shape, layer.kernel, **layer.where))


@settings(max_examples=25)
@given(st.data(), cases(), st.sampled_from(["i8", "f4"]))
def test_convolve_transpose(data: st.DataObject, case: Any, dtype: str) -> None:
    layer, _, rng = case
    make = numbers(rng, dtype)
    y, filters, bias = make(layer.output_shape), make(layer.filter_shape), make(layer.shape[-1:])
    options = layer.where | {"groups": layer.groups, "bias": bias, "input_shape": layer.shape}
    chunked = da.from_array(y, chunks=data.draw(chunks(y.shape)))
    x = cd.convolve_transpose(chunked, filters, **options)
    assert tasks(x) <= 3 * np.prod(chunked.numblocks)
    wanted = cm.convolve_transpose(y, filters, **options)
    found = x.compute()
    assert found.dtype == x.dtype == wanted.dtype
    if dtype == "i8":
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


# Chunks and tasks


def test_chunks_follow_the_input() -> None:
    x = da.zeros((4, 64, 48, 2), chunks=((3, 1), (20, 20, 24), (48,), (1, 1)))
    w = np.ones((3, 3, 5, 2))
    y = cd.convolve(x, w, padding="same")
    assert y.chunks == (*x.chunks[:-1], (3,))
    assert cd.convolve(x, w, padding="valid").chunks == ((3, 1), (20, 20, 22), (44,), (3,))
    assert cd.convolve(x, w, padding="same", stride=2).chunks == ((3, 1), (10, 10, 12), (24,), (3,))
    assert cd.convolve_transpose(y, w, padding="same").chunks == (*x.chunks[:-1], (2,))
    x_col = cd.unroll(x, 3, padding="same")
    # Of three images in three chunks each has one whole; the fourth is cut where its lines are.
    assert x_col.chunks == ((64 * 48,) * 3 + (20 * 48, 20 * 48, 24 * 48), (18,))
    assert cd.unroll(x[:, :20], 3).chunks == ((3 * 18 * 46, 18 * 46), (18,))


def test_neighbours_are_given_halos_alone() -> None:
    """Of 64 lines each neighbour is sent two, and of a corner four pixels."""
    x = da.zeros((1, 128, 128, 3), chunks=(1, 64, 64, 3))
    graph = dict(cd.convolve(x, np.ones((1, 5, 5, 3)), padding="same").__dask_graph__())
    cuts = [value[0] for key, value in graph.items() if key[0].startswith("cuts-")]
    assert len(cuts) == 4
    shapes = {part.shape for each in cuts for part in each(np.zeros((1, 64, 64, 3)))}
    assert shapes == {(1, 2, 64, 3), (1, 64, 2, 3), (1, 2, 2, 3)}


def test_tasks() -> None:
    """One for each chunk of Y, one for each of x of which others see some, and one for large filters."""
    x, filters = da.zeros((8, 9, 9, 64), chunks=(1, 9, 9, 64)), [np.ones((k, 3, 3, 64)) for k in (2, 200)]
    assert [tasks(cd.convolve(x, w)) for w in filters] == [8, 9]
    parted = x.rechunk((1, 3, 9, 64))
    assert [tasks(cd.convolve(parted, w)) - tasks(parted) for w in filters] == [40, 41]


def test_a_task_works_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler has the others; a library that took all cores in each task would crowd them."""
    asked = []

    def convolve(*arguments: Any, threads: Any, **options: Any) -> Any:
        asked.append(threads)
        return np.zeros((1, 9, 9, 1))

    monkeypatch.setattr("convmat.engine.convolve", convolve)
    for more in ({}, {"threads": 3}):
        cd.convolve(da.zeros((1, 9, 9, 1)), np.ones((1, 1, 1, 1)), **more).compute()
    assert asked == [1, 3]


def test_same_work_has_the_same_name() -> None:
    x, w = da.zeros((2, 9, 9, 1), chunks=(1, 5, 9, 1)), np.ones((1, 3, 3, 1))
    names = [cd.convolve(x, w, **how).name for how in ({}, {}, {"padding": 1}, {"flip": True})]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert cd.convolve(x, w + 1).name not in names
    assert cd.convolve(x, w, threads=2).name == names[0]
    other = [cd.convolve_transpose(x, w).name, cd.fold(cd.unroll(x, 3), x.shape, 3).name]
    assert other == [cd.convolve_transpose(x, w).name, cd.fold(cd.unroll(x, 3), x.shape, 3).name]


@pytest.mark.slow
def test_fifty_gigabytes_are_planned_and_their_ends_are_right() -> None:
    """One image of 128 K × 128 K float32: what is computed of it are its first and its last chunk."""
    side, each = 1 << 17, 2048

    def made(block_info: Any = None) -> Any:
        _, y, x, _ = block_info[None]["array-location"]
        lines, columns = (np.arange(*each, dtype="f4") for each in (y, x))
        return (np.add.outer(3 * lines, 5 * columns) % 251)[None, ..., None]

    x = da.map_blocks(
        made, chunks=((1,), (each,) * (side // each), (each,) * (side // each), (1,)), dtype="f4"
    )
    assert x.nbytes > 50e9
    w = np.random.default_rng(1).standard_normal((1, 3, 3, 1)).astype("f4")
    y = cd.convolve(x, w, padding="same")
    assert tasks(y) <= 3 * x.npartitions
    last = side - each
    for place, box, pads in (
        ((0, 0, 0), np.s_[:, : each + 1, : each + 1], ((1, 0), (1, 0))),
        ((0, -1, -1), np.s_[:, last - 1 :, last - 1 :], ((0, 1), (0, 1))),
    ):
        assert cm.verify(x[box].compute(), w, expected=y.blocks[place].compute(), padding=pads)


# What is told


@pytest.mark.parametrize("name", ["unroll", "convolve", "convolve_transpose", "fold", "verify", "compare"])
def test_the_library_knows_a_dask_array(name: str) -> None:
    x, w = da.zeros((1, 9, 9, 1)), np.ones((1, 3, 3, 1))
    more = {"unroll": (3,), "fold": ((1, 9, 9, 1), 3)}.get(name, (w,))
    with pytest.raises(cm.ConvmatError, match=r"is a Dask array, .* convmat.dask has the same functions"):
        getattr(cm, name)(x, *more)
    with pytest.raises(cm.ConvmatError, match=r"^filters: is a Dask array"):
        cd.convolve(x, da.from_array(w))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (da.zeros((1, 9, 9, 1))[da.zeros(1) == 0], "^input: has chunks of unknown size; find them"),
        (da.from_array(np.array([[["a"]]])), "^input: has dtype <U1; expected booleans"),
        (da.zeros((9, 9)), r"^input_shape: \(9, 9\) has 2 axes; expected \(N, \*spatial, C\)"),
        (da.zeros((1, 2, 2, 1)), "^kernel_size: the kernel spans 3 pixels of height"),
        (da.zeros((1, 9, 9, 2)), "^filters: made for 1 channels in each of 1 groups, the input has 2"),
    ],
)
def test_wrong_inputs(x: Any, message: str) -> None:
    with pytest.raises(cm.ConvmatError, match=message):
        cd.convolve(x, np.ones((1, 3, 3, 1)))


def test_verify_finds_a_halo_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the definition sees is cut out by Dask, not by the code that is judged."""
    x = da.from_array(np.arange(400).reshape(1, 20, 20, 1), chunks=(1, 7, 20, 1))
    w = np.ones((1, 3, 3, 1), int)
    assert cd.verify(x, w, padding="same")
    seen = cm.ConvGeometry.lines_seen

    def shifted(self: Any, axis: int, outputs: range) -> range:
        lines = seen(self, axis, outputs)
        return range(lines.start + 1, lines.stop + 1)

    monkeypatch.setattr(cm.ConvGeometry, "lines_seen", shifted)
    report = cd.verify(x, w, padding="same")
    assert not report
    assert report.outside > 100


def test_verify_what_x_is_made_of() -> None:
    """A result on which x depends, and x itself, are still there for x."""
    one = np.ones((1, 1, 1, 1), int)
    y = da.from_array(np.arange(40).reshape(1, 5, 8, 1), chunks=(1, 2, 3, 1)).rechunk((1, 3, 3, 1)) + 1
    for x in (y, y.rechunk((1, 2, 2, 1)), y[:, ::-1]):
        assert bool(cd.verify(x, one, expected=y)) == bool((x == y).all())


def test_verify_quantized_results_and_shapes() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (2, 8, 8, 2), "i1"), rng.integers(-9, 9, (3, 3, 3, 2), "i1")
    rule = cm.Quantization(scale=0.05, input_zero_point=2, output_zero_point=3)
    chunked, how = da.from_array(x, chunks=(1, 3, 8, 2)), {"quantization": rule, "padding": 1}
    y, wanted = cd.convolve(chunked, w, **how), cm.convolve(x, w, **how)
    assert y.dtype == "i1"
    np.testing.assert_array_equal(y.compute(), wanted)
    assert cd.verify(chunked, w, **how)
    assert cd.verify(chunked, w, expected=wanted, **how)
    wrong, right = (v(a, w, expected=0 * wanted, **how) for v, a in ((cd.verify, chunked), (cm.verify, x)))
    assert (wrong.outside, wrong.worst) == (right.outside, right.worst)
    assert str(cd.verify(chunked, w, expected=np.zeros((2, 6, 6, 2)))) == (
        "different: shape 2 × 6 × 6 × 2, expected 2 × 6 × 6 × 3"
    )
    with pytest.raises(cm.ConvmatError, match=r"^atol: got -1; give a finite number"):
        cd.verify(chunked, w, atol=-1)
    with pytest.raises(cm.ConvmatError, match=r"^arithmetic: is of floats"):
        cd.verify(chunked, w, **how, arithmetic="tf32")


def test_verify_by_named_arithmetics_and_with_activations() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 8, 8, 2), "f4"), rng.standard_normal((3, 3, 3, 2), "f4")
    chunked = da.from_array(x, chunks=(1, 3, 5, 2))
    coarse = {"arithmetic": "float16-accumulate", "expected": cm.convolve(x, w) * np.float32(1.001)}
    for how in ({"activation": "relu"}, {"arithmetic": "tf32"}, {"activation": (0, 1), "atol": 1e-5}, coarse):
        ours, theirs = cd.verify(chunked, w, **how), cm.verify(x, w, **how)
        for name in ("equal", "outside", "arithmetic", "activation", "exact", "tolerances"):
            assert getattr(ours, name) == getattr(theirs, name), name
