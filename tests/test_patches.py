"""unroll and flatten_filters: every bit in its place, whatever the dtype and the memory it lies in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat as cm
from convmat import patches, reference
from convmat.errors import ConvmatError, DTypeError, GeometryError, ShapeError
from tests.levels import at_each_level
from tests.strategies import DISGUISES, DTYPES, MODES, Layer, assert_same_bits, disguises, frozen, layers

pytestmark = pytest.mark.usefixtures("level")

ORDERS = ("hwc", "chw")
NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
SHAPES = [(2, 9, 3), (2, 5, 6, 3), (2, 4, 3, 5, 2)]

Disguise = Callable[[np.ndarray], np.ndarray]


def any_bits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Every bit at random, so NaN of all kinds, infinities, -0.0 and subnormals among the numbers."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng(2017)
    data = rng.integers(0, 2 if kind.kind == "b" else 256, math.prod(shape) * kind.itemsize, np.uint8)
    return data.view(kind).reshape(shape)


def pick(array: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The elements numbered `codes`, from 1 on, as bytes in the array's dtype; zero for 0."""
    raw = np.dtype((np.void, array.itemsize))
    table = np.concatenate([np.zeros(1, raw), np.frombuffer(array.tobytes(), raw)])
    return np.frombuffer(table[codes].tobytes(), array.dtype).reshape(codes.shape)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, math.prod(shape) + 1).reshape(shape)


def named(*shape: int) -> np.ndarray:
    """Each element is its own index, as decimal digits: element [1, 2, 0, 3] is 1203."""
    return sum(10**place * index for place, index in enumerate(reversed(np.indices(shape))))


def test_by_hand() -> None:
    """Pixels 100·n + 10·y + x of two 3 × 4 images, as 2 × 2 patches two columns apart."""
    x = named(2, 3, 4)[..., None]
    first = [[0, 1, 10, 11], [2, 3, 12, 13], [10, 11, 20, 21], [12, 13, 22, 23]]
    wanted = np.concatenate([np.array(first), np.array(first) + 100])
    np.testing.assert_array_equal(cm.unroll(x, 2, stride=(1, 2)), wanted)


def test_channels_by_hand() -> None:
    """Elements 10·x + c: each pixel's channels side by side, or each channel's pixels."""
    x = 10 * np.arange(4)[:, None] + np.arange(2)
    np.testing.assert_array_equal(cm.unroll(x[None], 2)[1], [10, 11, 20, 21])
    np.testing.assert_array_equal(cm.unroll(x[None], 2, order="chw")[1], [10, 20, 11, 21])


@at_each_level
@given(layers(), st.sampled_from(DTYPES), disguises, st.sampled_from(ORDERS))
def test_unroll_moves_every_bit(layer: Layer, dtype: str, disguise: Disguise, order: str) -> None:
    bits = any_bits(layer.shape, dtype)
    x = frozen(disguise(bits))
    x_col = cm.unroll(x, layer.kernel, **layer.patch, order=order)
    codes = reference.unroll(numbered(layer.shape), layer.kernel, **layer.patch, order=order)
    assert_same_bits(x_col, pick(bits, codes))
    assert_same_bits(np.ascontiguousarray(x), bits)
    assert not np.shares_memory(x_col, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_dtype(shape: tuple[int, ...], dtype: str) -> None:
    x, kernel = any_bits(shape, dtype), (2,) * (len(shape) - 2)
    codes = reference.unroll(numbered(shape), kernel, padding="same")
    assert_same_bits(cm.unroll(x, kernel, padding="same"), pick(x, codes))


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_memory(shape: tuple[int, ...], mode: str, disguise: Disguise) -> None:
    x, arguments = numbered(shape), {"kernel_size": 2, "padding": 1, "padding_mode": mode}
    np.testing.assert_array_equal(cm.unroll(frozen(disguise(x)), **arguments), cm.unroll(x, **arguments))


def test_broadcast_input() -> None:
    x = np.broadcast_to(np.arange(4.0)[:, None], (3, 5, 4, 2))
    np.testing.assert_array_equal(cm.unroll(x, 3, padding=1), cm.unroll(x.copy(), 3, padding=1))


@pytest.mark.parametrize("given", [[[[1], [2], [3]]], [[[True], [False]]], [[[1.5], [2]]]])
def test_lists_are_arrays(given: Any) -> None:
    assert_same_bits(cm.unroll(given, 2), cm.unroll(np.array(given), 2))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_images(shape: tuple[int, ...], mode: str, order: str) -> None:
    kernel = (2,) * (len(shape) - 2)
    x_col = cm.unroll(np.empty((0, *shape[1:]), ">f4"), kernel, padding=1, padding_mode=mode, order=order)
    assert (x_col.shape, x_col.dtype) == ((0, math.prod(kernel) * shape[-1]), np.dtype(">f4"))


# Relations that hold whatever the reference says.


@at_each_level
@given(layers(modes=("zeros",)))
def test_stride_is_slicing(layer: Layer) -> None:
    x = numbered(layer.shape)
    pads = tuple(layer.pads)
    dilation = layer.where["dilation"]
    dense = cm.unroll(x, layer.kernel, padding=pads, dilation=dilation)
    size = cm.ConvGeometry(x.shape, layer.kernel, 1, pads, dilation).output_size
    steps = tuple(slice(None, None, stride) for _, _, stride, _, _ in layer.axes)
    columns = dense.shape[1]
    kept = dense.reshape(len(x), *size, columns)[:, *steps].reshape(-1, columns)
    strided = cm.unroll(x, layer.kernel, layer.where["stride"], pads, dilation)
    np.testing.assert_array_equal(strided, kept)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_kernel_of_one_pixel_is_the_image(shape: tuple[int, ...]) -> None:
    x = numbered(shape)
    x_col = cm.unroll(x, 1)
    np.testing.assert_array_equal(x_col, x.reshape(-1, shape[-1]))
    assert not np.shares_memory(x_col, x)


@at_each_level
@given(layers(modes=("zeros",)))
def test_a_column_is_the_image_shifted(layer: Layer) -> None:
    """Column (i, j, c) is a one-hot filter's view: the padded channel c from pixel (i·D, j·D) on."""
    x = numbered(layer.shape)
    padded = np.pad(x, [(0, 0), *layer.pads, (0, 0)])
    x_col = cm.unroll(x, layer.kernel, **layer.where)
    columns = itertools.product(*map(range, layer.kernel), range(layer.shape[-1]))
    for col, (*tap, c) in enumerate(columns):
        view = padded[..., c]
        for axis, (i, line, (_, _, s, d, _)) in enumerate(zip(tap, layer.lines, layer.axes, strict=True)):
            view = np.take(view, i * d + s * np.arange(len(line)), axis + 1)
        np.testing.assert_array_equal(x_col[:, col], view.ravel())


@at_each_level
@given(layers())
def test_orders_hold_the_same_columns(layer: Layer) -> None:
    """ "hwc" has columns (i, j, c), "chw" has (c, i, j)."""
    x, taps, channels = numbered(layer.shape), math.prod(layer.kernel), layer.shape[-1]
    hwc, chw = (cm.unroll(x, layer.kernel, **layer.patch, order=order) for order in ORDERS)
    where = np.arange(taps * channels).reshape(taps, channels).T.ravel()
    np.testing.assert_array_equal(chw, hwc[:, where])


@pytest.mark.parametrize("mode", NUMPY_MODES)
@at_each_level
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * 2),
)
def test_padding_modes_are_those_of_numpy(mode: str, size: tuple[int, ...], pads: Any) -> None:
    x = numbered((2, *size, 2))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], NUMPY_MODES[mode])
    np.testing.assert_array_equal(cm.unroll(x, 1, padding=pads, padding_mode=mode), padded.reshape(-1, 2))


# Where the result goes.


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_out_is_written_whatever_its_memory(disguise: Disguise, order: str) -> None:
    x = named(2, 5, 6, 3).astype(">f4")
    wanted = cm.unroll(x, 3, padding=1, order=order)
    out = disguise(np.full(wanted.shape, -1, x.dtype))
    result = cm.unroll(x, 3, padding=1, order=order, out=out)
    assert result is out
    assert_same_bits(np.ascontiguousarray(out), wanted)


def test_out_between_other_numbers() -> None:
    x = named(2, 5, 3)
    canvas = np.full((12, 13), -1)
    cm.unroll(x, 2, out=canvas[1:9, 1::2])
    np.testing.assert_array_equal(canvas[1:9, 1::2], cm.unroll(x, 2))
    canvas[1:9, 1::2] = -1
    assert (canvas == -1).all()


SHARED = np.zeros(100)


@pytest.mark.parametrize(
    "out, error, message",
    [
        (np.empty((4, 7)), ShapeError, r"^out: has shape \(4, 7\), X_col has \(4, 6\)"),
        (np.empty((6, 4)).T[:2], ShapeError, r"^out: has shape \(2, 6\), X_col has \(4, 6\)"),
        (np.empty(24), ShapeError, r"^out: has shape \(24,\), X_col has \(4, 6\)"),
        (np.empty((4, 6), "f4"), DTypeError, r"^out: has dtype float32, .* float64$"),
        (np.empty((4, 6), ">f8"), DTypeError, r"^out: has dtype >f8, .* float64$"),
        (SHARED[10:34].reshape(4, 6), ShapeError, r"^out: overlaps the input in memory;"),
    ],
)
def test_out_that_does_not_fit(out: np.ndarray, error: type[Exception], message: str) -> None:
    x = SHARED[:15].reshape(1, 5, 3)
    before = out.tobytes()
    with pytest.raises(error, match=message):
        cm.unroll(x, 2, out=out)
    assert out.tobytes() == before


@pytest.mark.parametrize("limit", [1, 300, 2000, 1 << 20])
@pytest.mark.parametrize("mode", MODES)
def test_blocks_do_not_show(mode: str, limit: int) -> None:
    x, arguments = named(2, 5, 6, 3), {"stride": (1, 2), "padding": ((1, 3), (0, 4)), "dilation": (2, 1)}
    wanted = reference.unroll(x, (3, 2), **arguments, padding_mode=mode)
    np.testing.assert_array_equal(cm.unroll(x, (3, 2), **arguments, padding_mode=mode), wanted)
    for order in ORDERS:
        geometry = cm.ConvGeometry(x.shape, (3, 2), **arguments)
        rows = [block.copy() for block in patches.unroll_stream(x, geometry, mode, order, 2, limit)]
        assert all(block.nbytes <= limit or len(block) == 1 for block in rows)
        streamed = cm.unroll(x, (3, 2), **arguments, padding_mode=mode, order=order)
        np.testing.assert_array_equal(np.concatenate(rows), streamed)


def test_a_stream_of_no_images_is_empty() -> None:
    x = np.empty((0, 5, 3))
    assert list(patches.unroll_stream(x, cm.ConvGeometry(x.shape, 2))) == []


# Filters.


@at_each_level
@given(layers(), st.sampled_from(DTYPES), disguises, st.sampled_from(ORDERS))
def test_flatten_filters_moves_every_bit(layer: Layer, dtype: str, disguise: Disguise, order: str) -> None:
    bits = any_bits(layer.filter_shape, dtype)
    filters = frozen(disguise(bits))
    w_col = cm.flatten_filters(filters, layer.groups, order=order)
    codes = reference.flatten_filters(numbered(layer.filter_shape), order)
    assert_same_bits(w_col, pick(bits, codes))
    assert not np.shares_memory(w_col, filters)
    assert w_col.flags.writeable


@pytest.mark.parametrize("order, column", [("hwc", [100, 101, 110, 111]), ("chw", [100, 110, 101, 111])])
def test_flatten_filters_by_hand(order: str, column: list[int]) -> None:
    """Elements 100·k + 10·i + c: filter k is column k."""
    np.testing.assert_array_equal(cm.flatten_filters(named(3, 2, 2), order=order)[:, 1], column)


@pytest.mark.parametrize("shape", [(1, 3, 1), (3, 1, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_flat_filters_are_a_copy_even_where_a_view_would_do(shape: tuple[int, ...], order: str) -> None:
    filters = np.zeros(shape)
    cm.flatten_filters(filters, order=order)[:] = 1
    assert not filters.any()


# What is refused.


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: cm.unroll(x.astype(object), 2), DTypeError, r"^input: has dtype object; expected bool"),
        (lambda x: cm.unroll(x.astype(str), 2), DTypeError, r"^input: has dtype <U\d+; expected bool"),
        (lambda x: cm.unroll(x.astype("M8[s]"), 2), DTypeError, r"^input: has dtype datetime64\[s\];"),
        (lambda x: cm.unroll(x, 6), GeometryError, r"^kernel_size: the kernel spans 6 pixels"),
        (lambda x: cm.unroll(x[0, 0], 2), GeometryError, r"^input_shape: \(3,\) has 1 axes; expected"),
        (lambda x: cm.unroll(x, 2, padding_mode="edge"), GeometryError, r"^padding_mode: unknown 'edge';"),
        (lambda x: cm.unroll(x, 2, order="cwh"), GeometryError, r"^order: unknown 'cwh'; .* hwc, chw$"),
        (lambda x: cm.unroll(x[:0], 2, order="cwh"), GeometryError, r"^order: unknown 'cwh'; .* hwc, chw$"),
        (lambda x: cm.flatten_filters(x.astype(object)), DTypeError, r"^filters: has dtype object;"),
        (lambda x: cm.flatten_filters(x, order="whc"), GeometryError, r"^order: unknown 'whc';"),
        (lambda x: cm.flatten_filters(x[0]), ShapeError, r"^filters: have shape \(5, 3\); expected \(K,"),
        (lambda x: cm.flatten_filters(x[:0]), ShapeError, r"^filters: have shape \(0, 5, 3\); .* none 0"),
        (lambda x: cm.flatten_filters(x, 3), GeometryError, r"^groups: 3 does not divide the 2 filters;"),
        (lambda x: cm.flatten_filters(x, 0), GeometryError, r"^groups: 0 does not divide the 2 filters;"),
    ],
)
def test_refused(call: Callable[[np.ndarray], Any], error: type[ConvmatError], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.zeros((2, 5, 3), int))
