"""The engine against the definition: every dtype, memory, block and option, and relations between layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat as cm
from convmat import engine, folding, native, reference
from convmat.errors import ConvmatError, DTypeError, GeometryError, IntegerRangeError, ShapeError
from convmat.plan import NUMPY_KERNELS, choose_kernel, kernels
from tests.levels import NUMPY, at_each_level
from tests.strategies import (
    DISGUISES,
    DTYPES,
    INTEGERS,
    MODES,
    Layer,
    assert_same_bits,
    disguises,
    layers,
    noise,
    probes,
)

pytestmark = pytest.mark.usefixtures("level")

Disguise = Callable[[np.ndarray], np.ndarray]


def result_of(dtype: str) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    return kind.newbyteorder("=") if kind.kind in "fc" else np.dtype(np.int64)


def rng() -> np.random.Generator:
    return np.random.default_rng(2017)


@at_each_level
@given(layers(), st.sampled_from(DTYPES), disguises, st.sampled_from([None, 1, 64, 600, 1 << 20]))
def test_every_way_gives_the_same_bits(
    layer: Layer, dtype: str, disguise: Disguise, band: int | None
) -> None:
    x, filters, options = layer.arrays(probes(dtype, rng()))
    result = result_of(dtype)
    wanted = reference.convolve(x, filters, **options).astype(result)

    y = cm.convolve(disguise(x), disguise(filters), **options)
    assert (y.dtype, y.shape) == (result, layer.output_shape)
    np.testing.assert_array_equal(y, wanted)

    plan = engine.prepare(x, filters, **options).plan
    for kernel in kernels(plan.geometry, plan.arithmetic.accumulator):
        for memory in (x, disguise(x)):
            other = engine.prepare(memory, filters, **options, kernel=kernel, band_bytes=band, threads=2)
            assert other.plan.kernel == kernel
            np.testing.assert_array_equal(engine.execute(other), wanted)
            parts = [part.copy() for part in engine.stream(other)]
            assert all(len(part) <= math.prod(other.plan.band) for part in parts)
            joined = np.concatenate([wanted[:0].reshape(-1, len(filters)), *parts])
            np.testing.assert_array_equal(joined, wanted.reshape(-1, len(filters)))


@at_each_level
@given(layers(), st.sampled_from(DTYPES))
def test_x_col_times_w_col(layer: Layer, dtype: str) -> None:
    """The equivalence itself; with groups, each one's columns of X_col with its own columns of W_col."""
    layer = layer._replace(flip=False, has_bias=False)
    x, filters, options = layer.arrays(probes(dtype, rng()))
    wanted = reference.convolve(x, filters, **options)
    groups, per_group = layer.groups, len(filters) // layer.groups
    x_col, w_col = cm.unroll(x, layer.kernel, **layer.patch), cm.flatten_filters(filters, groups)
    taps, channels = math.prod(layer.kernel), filters.shape[-1]
    split = x_col.reshape(len(x_col), taps, groups, channels)
    columns = [
        engine.multiply(
            split[:, :, g].reshape(len(x_col), taps * channels),
            w_col[:, g * per_group : (g + 1) * per_group],
        )
        for g in range(groups)
    ]
    product = np.concatenate(columns, axis=1)
    assert product.dtype == result_of(dtype)
    np.testing.assert_array_equal(product.reshape(wanted.shape), wanted)


@at_each_level
@given(layers(), st.sampled_from([d for d in DTYPES if d not in INTEGERS]), disguises)
def test_floats_stay_within_the_bound(layer: Layer, dtype: str, disguise: Disguise) -> None:
    x, filters, options = layer.arrays(noise(dtype, rng()))
    results = {
        "convolve": cm.convolve(disguise(x), disguise(filters), **options),
        "bands": engine.execute(engine.prepare(x, filters, **options, band_bytes=100)),
        "blocks": engine.execute(engine.prepare(x, filters, **options, kernel="blocks")),
        "loops": reference.convolve(x, filters, **options),
    }
    for name, result in results.items():
        report = cm.verify(x, filters, expected=result, **options)
        assert report, f"{name}: {report}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_every_dtype(mode: str, dtype: str) -> None:
    make = probes(dtype, rng())
    x, filters, bias = make((2, 5, 4, 4)), make((6, 3, 2, 2)), make((6,))
    options = {"groups": 2, "bias": bias, "flip": True, "padding": 2, "padding_mode": mode}
    y = cm.convolve(x, filters, **options)
    assert y.dtype == result_of(dtype)
    np.testing.assert_array_equal(y, reference.convolve(x, filters, **options))


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
@pytest.mark.parametrize("dtype", ["u1", "f2", ">f4", "c16"])
def test_any_memory(dtype: str, disguise: Disguise) -> None:
    make = probes(dtype, rng())
    x, filters, bias = make((2, 5, 4, 3)), make((4, 3, 2, 3)), make((4,))
    y = cm.convolve(disguise(x), disguise(filters), padding="same", bias=disguise(bias))
    np.testing.assert_array_equal(y, cm.convolve(x, filters, padding="same", bias=bias))
    assert y.flags.c_contiguous


def test_broadcast_arrays_and_lists() -> None:
    x, filters = np.broadcast_to(np.arange(5)[:, None], (2, 4, 5, 3)), np.broadcast_to(2, (2, 2, 2, 3))
    wanted = reference.convolve(x, filters)
    np.testing.assert_array_equal(cm.convolve(x, filters), wanted)
    np.testing.assert_array_equal(cm.convolve(x.tolist(), filters.tolist(), bias=[0, 0]), wanted)


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "c8"])
def test_out(dtype: str, disguise: Disguise) -> None:
    make = probes(dtype, rng())
    x, filters = make((2, 5, 4, 3)), make((4, 3, 2, 3))
    wanted = cm.convolve(x, filters, padding=1)
    out = disguise(np.full(wanted.shape, 7, wanted.dtype))
    assert cm.convolve(x, filters, padding=1, out=out) is out
    np.testing.assert_array_equal(out, wanted)


def test_out_that_does_not_fit() -> None:
    memory = np.zeros(400, np.float32)
    x, filters, bias = memory[:60].reshape(1, 5, 4, 3), memory[100:112].reshape(4, 1, 1, 3), memory[200:204]
    for out, error, message in (
        (np.zeros((1, 5, 4, 3), "f4"), ShapeError, r"^out: has shape \(1, 5, 4, 3\), Y has \(1, 5, 4, 4\)"),
        (np.zeros((1, 5, 4, 4)), DTypeError, r"^out: has dtype float64, Y has float32"),
        (np.zeros((1, 5, 4, 4), ">f4"), DTypeError, r"^out: has dtype >f4, Y has float32"),
        *(
            (memory[at : at + 80].reshape(1, 5, 4, 4), ShapeError, r"^out: overlaps the input in memory;")
            for at in (50, 105, 200)
        ),
    ):
        with pytest.raises(error, match=message):
            cm.convolve(x, filters, bias=bias, out=out)


@at_each_level
@given(layers(), st.sampled_from(["u2", "f4", "c16"]), st.sampled_from([1, 50, None]))
def test_threads_do_not_show(layer: Layer, dtype: str, band: int | None) -> None:
    """The same bits for any number, of every kernel, in any bands; a plan is a value that can be changed."""
    x, filters, options = layer.arrays(noise(dtype, rng()))
    plan = engine.prepare(x, filters, **options).plan
    for kernel in kernels(plan.geometry, plan.arithmetic.accumulator):
        one = engine.prepare(x, filters, **options, threads=1, kernel=kernel, band_bytes=band)
        many = one._replace(plan=dataclasses.replace(one.plan, threads=5))
        assert_same_bits(engine.execute(many), engine.execute(one))


def test_threads_of_a_larger_layer_do_not_show() -> None:
    """Boxes are cut for so many threads, too."""
    make = noise("f4", rng())
    for filters, groups in ((make((24, 3, 3, 16)), 1), (make((16, 3, 3, 1)), 16), (make((4, 5, 5, 16)), 1)):
        x = make((2, 48, 51, 16))
        plan = engine.prepare(x, filters, groups=groups).plan
        for kernel in kernels(plan.geometry, np.dtype("f4")):
            todo = [
                engine.prepare(x, filters, padding=1, groups=groups, threads=threads, kernel=kernel)
                for threads in (1, 2, 5)
            ]
            assert [t.plan.threads for t in todo] == [1, 1, 1] if kernel in NUMPY_KERNELS else [1, 2, 5]
            one, *others = map(engine.execute, todo)
            for other in others:
                assert_same_bits(other, one)


# Numbers: which dtype comes out, and how exact it is.


@pytest.mark.parametrize(
    "x, filters, bias, result",
    [
        ("u1", "i1", None, "i8"),
        ("bool", "bool", "bool", "i8"),
        ("u8", "i8", "u2", "i8"),
        (">i2", "u4", ">i8", "i8"),
        ("f2", "f2", "f2", "f2"),
        (">f2", "f2", None, "f2"),
        ("f2", "f4", None, "f4"),
        ("f4", "f2", "f4", "f4"),
        ("f4", "f4", "f8", "f8"),
        ("f8", "f4", None, "f8"),
        ("f4", "c8", None, "c8"),
        ("c8", "f8", None, "c16"),
        ("c8", "c16", "f2", "c16"),
        ("u1", "f2", None, "f2"),
        ("i2", "f4", "u1", "f4"),
        ("i8", "f4", None, "f8"),
        ("i1", "i1", "f4", "f4"),
    ],
)
def test_the_widest_dtype_comes_out(x: str, filters: str, bias: str | None, result: str) -> None:
    given = [probes(x, rng())((2, 5, 3)), probes(filters, rng())((4, 2, 3))]
    given_bias = None if bias is None else probes(bias, rng())((4,))
    y = cm.convolve(*given, bias=given_bias)
    assert y.dtype == np.dtype(result)
    np.testing.assert_array_equal(y, reference.convolve(*given, bias=given_bias))
    dtypes = [np.dtype(d) for d in (x, filters, bias) if d is not None]
    assert engine.result_dtype(*dtypes) == np.dtype(result)


@pytest.mark.parametrize(
    "dtype, terms", [("u1", 9), ("i1", 9), ("u2", 9), ("i2", 9), ("i4", 1), (">i4", 1), ("bool", 300)]
)
def test_integers_do_not_wrap(dtype: str, terms: int) -> None:
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x, filters = np.full((1, terms, 1), high, dtype), np.full((1, terms, 1), low or high, dtype)
    y = cm.convolve(x, filters)
    assert (y.dtype, y.item()) == (np.int64, terms * high * (low or high))


@pytest.mark.parametrize("peak", [2**53 - 1, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_on_both_sides_of_2_to_53_are_exact(peak: int, sign: int) -> None:
    """An odd sum past 2^53 is in int64 and in no float64."""
    x, filters = np.array([peak - 1]).reshape(1, 1, 1), np.full((1, 1, 1), sign)
    assert cm.convolve(x, filters, bias=[sign]).item() == sign * peak
    x, filters = np.array([peak // 2, peak // 2]).reshape(1, 2, 1), np.full((1, 2, 1), sign)
    assert cm.convolve(x, filters, bias=[sign * (peak % 2)]).item() == sign * peak


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "shape, kernel", [((1, 700, 3), (5,)), ((2, 41, 67, 5), (3, 3)), ((1, 9, 21, 20, 2), (2, 3, 3))]
)
def test_layers_of_several_boxes_have_their_borders(
    shape: tuple[int, ...], kernel: tuple[int, ...], mode: str
) -> None:
    """Of few channels, where a box with its padding is copied whole."""
    make = np.random.default_rng(17)
    x, filters = make.integers(-9, 10, shape), make.integers(-9, 10, (9, *kernel, shape[-1]))
    options: dict[str, Any] = {"stride": 2, "padding": 2, "padding_mode": mode}
    wanted = reference.convolve_by_taps(
        x, filters, (2,) * len(kernel), ((2, 2),) * len(kernel), padding_mode=mode
    )
    for dtype in (np.float32, np.float64):
        y = cm.convolve(x.astype(dtype), filters.astype(dtype), **options, threads=2)
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize(
    "least, largest, bias, depth, summed",
    [
        (0, 2**15 - 1, 2**17 - 3, 2, "int32"),  # to 2^31 - 1
        (0, 2**15 - 1, 2**17 - 2, 2, "float64"),  # to 2^31
        (-(2**15), 1, 0, 2, "float32"),  # two squares of it would be beyond int32
        (0, 2**15, 0, 2, "float64"),
        (-255, 255, 0, 4, "int32"),
        (-255, 255, 0, 3, "float32"),  # no pairs
    ],
)
def test_integers_are_multiplied_in_pairs_where_int16_and_int32_hold_them(
    least: int, largest: int, bias: int, depth: int, summed: str
) -> None:
    x = np.full((1, 5, depth), largest, "i4")
    x[0, 2] = least
    filters, b = np.full((9, 1, depth), largest), np.full(9, bias)
    compiled = native.library()
    todo = engine.prepare(x, filters, bias=b, kernel="wide" if compiled else "blocks")
    if compiled and compiled.lanes(np.dtype(np.int16)):
        assert str(todo.plan.arithmetic.accumulator) == summed
    expected = np.where(np.arange(5) == 2, least, largest) * largest * depth + bias
    np.testing.assert_array_equal(engine.execute(todo)[0], np.repeat(expected[:, None], 9, 1))


def test_a_dtype_s_least_counts_too() -> None:
    """128·(−2^15)·(−2^31) + 1 is past 2^53; with the dtypes' largest in their place it would not be."""
    x, filters = np.full((1, 128, 1), -(2**15), "i2"), np.full((1, 128, 1), -(2**31), "i4")
    assert cm.convolve(x, filters, bias=np.ones(1, "i1")).item() == 2**53 + 1


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "u8", ">i8"])
def test_what_is_wide_in_dtype_alone_is_exact(dtype: str) -> None:
    x, filters = np.full((1, 9, 3), 7, dtype), np.full((2, 4, 3), 5, dtype)
    np.testing.assert_array_equal(cm.convolve(x, filters), np.full((1, 6, 2), 12 * 35))


@pytest.mark.parametrize(
    "x, w, bias, message",
    [
        ([2**62], [2], None, r"^input: sums of 1 products could reach 9\.22e\+18, int64 ends at 9\.22e\+18;"),
        ([2**62] * 3, [1] * 3, None, r"^input: sums of 3 products could reach 1\.38e\+19, .* use smaller"),
        ([-(2**63)], [1], None, r"sums of 1 products could reach 9\.22e\+18"),
        ([2**63 - 1], [1], [1], r"sums of 1 products could reach 9\.22e\+18"),
        (np.array([2**63], "u8"), [1], None, r"sums of 1 products could reach 9\.22e\+18"),
    ],
)
def test_sums_that_could_pass_2_to_63_are_refused(x: Any, w: Any, bias: Any, message: str) -> None:
    x, w = np.asarray(x).reshape(1, -1, 1), np.asarray(w).reshape(1, -1, 1)
    with pytest.raises(IntegerRangeError, match=message) as caught:
        cm.convolve(x, w, bias=bias)
    assert isinstance(caught.value, OverflowError)


def test_integers_too_large_for_int64_with_nothing_to_add() -> None:
    x = np.full((1, 3, 1), 2**64 - 1, np.uint64)
    np.testing.assert_array_equal(cm.convolve(x, np.zeros((1, 2, 1), int)), np.zeros((1, 2, 1)))


@pytest.mark.parametrize(
    "x, total",
    [
        ([1.0] * 4096, 4096.0),  # a float16 sum of ones ends at 2048
        ([60000.0, 60000.0, -60000.0], 60000.0),  # on the way past 65504, float16's largest
        ([2048.0, 1.0, 1.0], 2050.0),  # rounded at each step: 2048
        ([65504.0, 65504.0], math.inf),
    ],
    ids=["long", "past 65504", "rounded once", "overflow"],
)
def test_float16_is_summed_in_float32(x: list[float], total: float) -> None:
    given = np.array(x, np.float16).reshape(1, -1, 1)
    y = cm.convolve(given, np.ones_like(given))
    assert (y.dtype, y.item()) == (np.float16, total)


@pytest.mark.parametrize("wide", [np.longdouble, np.clongdouble])
@pytest.mark.parametrize("which", ["x", "filters", "bias"])
def test_more_than_float64_is_refused(which: str, wide: type) -> None:
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is float64 here")
    arrays = {"x": np.ones((1, 3, 1)), "filters": np.ones((1, 2, 1)), "bias": np.ones(1)}
    arrays[which] = arrays[which].astype(wide)
    with pytest.raises(
        DTypeError, match=f"^input: computing in {np.dtype(wide)} is not supported; use float64"
    ):
        cm.convolve(**arrays)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, 1.0, -2.0]


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("padding", ["valid", "full"])
def test_infinities_and_nan_follow_the_definition(padding: str, dtype: str) -> None:
    """∞·0 = NaN also in the padding; and no warning, which would be an error here."""
    rng = np.random.default_rng(2017)
    x = rng.choice(SPECIAL, (2, 5, 6, 2), p=[0.05, 0.05, 0.05, 0.15, 0.35, 0.35]).astype(dtype)
    filters = rng.choice(SPECIAL, (3, 2, 2, 2), p=[0, 0.05, 0.05, 0.2, 0.35, 0.35]).astype(dtype)
    bias = np.array([1, np.nan, np.inf], dtype)
    options = {"padding": padding, "bias": bias}
    y = cm.convolve(x, filters, **options)
    wanted = reference.convolve(x, filters, **options)
    assert np.isnan(wanted).any()
    np.testing.assert_array_equal(y, wanted)
    assert cm.verify(x, filters, **options)


@pytest.mark.parametrize("which", ["x", "filters", "bias"])
def test_a_signalling_nan_is_no_accident_either(which: str) -> None:
    arrays = {"x": np.ones((1, 1, 1)), "filters": np.ones((1, 1, 1)), "bias": np.ones(1)}
    signalling = np.array(0x7FA00000, np.uint32).view(np.float32)
    arrays[which] = np.broadcast_to(signalling, arrays[which].shape)
    assert np.isnan(cm.convolve(**arrays)).all()


# Relations between layers, on integers, where equal is equal.

KERNELS = [(4,), (2, 3), (2, 1, 2)]


def example(kernel: tuple[int, ...], channels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two images of four channels and six filters of this size."""
    size = {1: (9,), 2: (6, 7), 3: (4, 5, 3)}[len(kernel)]
    make = np.random.default_rng(2017)
    return make.integers(-9, 10, (2, *size, 4)), make.integers(-9, 10, (6, *kernel, channels))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_stride_is_slicing(kernel: tuple[int, ...], stride: int) -> None:
    x, filters = example(kernel)
    kept = cm.convolve(x, filters)[:, *[slice(None, None, stride)] * len(kernel)]
    np.testing.assert_array_equal(cm.convolve(x, filters, stride), kept)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("rule", ["valid", "same", "same-lower", 0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_is_cropping_the_full_result(kernel: tuple[int, ...], rule: Any, dilation: int) -> None:
    x, filters = example(kernel)
    if rule == 1 and 1 in kernel:
        rule = tuple(min(k - 1, 1) for k in kernel)  # more than full is nothing to crop
    full = cm.convolve(x, filters, padding="full", dilation=dilation)
    geometry = cm.ConvGeometry(x.shape, kernel, 1, rule, dilation)
    cut = [
        slice(extent - 1 - before, size - (extent - 1 - after))
        for extent, (before, after), size in zip(
            geometry.extent, geometry.pads, full.shape[1:-1], strict=True
        )
    ]
    np.testing.assert_array_equal(cm.convolve(x, filters, 1, rule, dilation), full[:, *cut])


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_dilation_is_a_filter_with_gaps(kernel: tuple[int, ...]) -> None:
    x, filters = example(kernel)
    spread = np.zeros((6, *[2 * k - 1 for k in kernel], 4), int)
    spread[:, *[slice(None, None, 2)] * len(kernel)] = filters
    wanted = cm.convolve(x, spread, padding="full")
    np.testing.assert_array_equal(cm.convolve(x, filters, padding="full", dilation=2), wanted)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_groups_are_full_filters_filled_with_zeros(kernel: tuple[int, ...]) -> None:
    x, filters = example(kernel, channels=2)
    filled = np.zeros((6, *kernel, 4), int)
    filled[:3, ..., :2], filled[3:, ..., 2:] = filters[:3], filters[3:]
    np.testing.assert_array_equal(cm.convolve(x, filters, groups=2), cm.convolve(x, filled))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_is_each_channel_alone(kernel: tuple[int, ...], multiplier: int) -> None:
    x, _ = example(kernel)
    filters = np.random.default_rng(7).integers(-9, 10, (4 * multiplier, *kernel, 1))
    alone = [cm.convolve(x[..., c : c + 1], filters[c * multiplier : (c + 1) * multiplier]) for c in range(4)]
    np.testing.assert_array_equal(cm.convolve(x, filters, groups=4), np.concatenate(alone, axis=-1))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_one_hot_filter_shifts(kernel: tuple[int, ...]) -> None:
    x, _ = example(kernel)
    for *tap, c in itertools.product(*map(range, kernel), range(4)):
        one_hot = np.zeros((1, *kernel, 4), int)
        one_hot[(0, *tap, c)] = 1
        cut = [slice(i, h - k + 1 + i) for i, h, k in zip(tap, x.shape[1:-1], kernel, strict=True)]
        np.testing.assert_array_equal(cm.convolve(x, one_hot)[..., 0], x[:, *cut, c])


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_linear_in_images_filters_and_bias(kernel: tuple[int, ...]) -> None:
    (x1, w1), bias = example(kernel), np.arange(6)
    x2, w2 = np.flip(x1), np.flip(w1)
    each = cm.convolve(x1, w1) + 3 * cm.convolve(x2, w1)
    np.testing.assert_array_equal(cm.convolve(x1 + 3 * x2, w1), each)
    each = cm.convolve(x1, w1) - 2 * cm.convolve(x1, w2)
    np.testing.assert_array_equal(cm.convolve(x1, w1 - 2 * w2), each)
    np.testing.assert_array_equal(cm.convolve(x1, w1, bias=bias), cm.convolve(x1, w1) + bias)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_flip_is_the_filter_reversed(kernel: tuple[int, ...]) -> None:
    x, filters = example(kernel)
    turned = filters[:, *[slice(None, None, -1)] * len(kernel)]
    np.testing.assert_array_equal(cm.convolve(x, filters, flip=True), cm.convolve(x, turned))


def test_flipped_and_full_is_numpy_s_convolution() -> None:
    x, filters = np.arange(1, 8), np.array([3, 1, -4, 1])
    y = cm.convolve(x[None, :, None], filters[None, :, None], padding="full", flip=True)
    np.testing.assert_array_equal(y[0, :, 0], np.convolve(x, filters))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_images_and_filters_do_not_meet(kernel: tuple[int, ...]) -> None:
    x, filters = example(kernel)
    y = cm.convolve(x, filters, padding="same")
    for n, k in itertools.product(range(len(x)), range(len(filters))):
        alone = cm.convolve(x[n : n + 1], filters[k : k + 1], padding="same")
        np.testing.assert_array_equal(y[n, ..., k], alone[0, ..., 0])


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_an_axis_of_one_pixel_changes_nothing(axis: int) -> None:
    x, filters = example((2, 3))
    y = cm.convolve(np.expand_dims(x, axis), np.expand_dims(filters, axis), padding="same")
    np.testing.assert_array_equal(y.squeeze(axis), cm.convolve(x, filters, padding="same"))


# The plan.


def test_a_plan_says_what_it_will_do() -> None:
    x, filters = np.zeros((2, 6, 7, 4), np.float32), np.zeros((6, 2, 3, 2), np.float32)
    plan = engine.prepare(x, filters, groups=2, kernel="blocks", band_bytes=1000).plan
    assert (plan.kernel, plan.level, plan.in_place, plan.box) == ("blocks", "NumPy", False, None)
    assert (plan.band, plan.scratch) == ((1, 2, 5), 10 * (24 + 6) * 4)
    assert plan.output_shape == (2, 5, 5, 6)
    assert plan.flops == 2 * (2 * 5 * 5) * (2 * 3 * 2) * 6
    assert plan.bytes == 4 * (2 * 6 * 7 * 4 + 6 * 2 * 3 * 2 + 2 * 5 * 5 * 6)
    assert str(plan) == (
        "blocks, NumPy, 1 × 2 × 5 outputs at a time, x copied; 1200 bytes of scratch, 1 thread; "
        "7200 FLOPs in float32, 2832 bytes, result float32"
    )
    with pytest.raises(dataclasses.FrozenInstanceError, match="filters"):
        plan.filters = 7


def test_the_plan_of_compiled_work(level: str) -> None:
    if level == NUMPY:
        pytest.skip("nothing is compiled")
    x, filters = np.zeros((2, 58, 58, 64), np.float32), np.zeros((64, 3, 3, 64), np.float32)
    plan = engine.prepare(x, filters, threads=2).plan
    assert (plan.kernel, plan.level, plan.in_place, plan.threads) == ("wide", level, True, 2)
    assert plan.band == (2, 56, 56)
    assert str(plan).startswith(f"wide, {level}, 2 × 56 × 56 outputs at a time in boxes of ")
    assert engine.prepare(x.astype("u1"), filters).plan.in_place is False
    assert engine.prepare(x[:1, :4, :4], filters, threads=2).plan.threads == 1


@pytest.mark.parametrize(
    "x, filters, accumulator",
    [
        (255, 255, "f4"),
        (2**11, 2**11, "f4"),
        (2**12, 2**11, "f8"),
        (2**20, 2**20, "f8"),
        (2**26, 2**26, "i8"),
        (1.5, 1, "f8"),
        (np.float16(1), 1, "f4"),
        (1j, np.float32(1), "c16"),
    ],
)
def test_the_plan_s_accumulator(x: Any, filters: Any, accumulator: str) -> None:
    """The narrowest that holds every sum of the two products: float32 below 2^24, float64 below 2^53."""
    given = [np.full(shape, v) for shape, v in (((1, 2, 1), x), ((1, 2, 1), filters))]
    if isinstance(x, np.float16):
        given[1] = given[1].astype(np.int8)
    plan = engine.prepare(*given).plan
    assert plan.arithmetic.accumulator == np.dtype(accumulator)
    assert (plan.level == NUMPY) >= (accumulator == "i8")


@pytest.mark.parametrize(
    "taps, planes, channels, filters, groups, kernel",
    [
        (9, 1, 64, 64, 1, "wide"),
        (1, 1, 64, 256, 1, "wide"),
        (49, 4, 3, 64, 1, "wide"),
        (9, 1, 3, 16, 1, "wide"),
        (9, 1, 3, 8, 1, "wide"),
        (9, 1, 3, 6, 1, "planes"),
        (9, 1, 1, 8, 1, "planes"),
        (9, 4, 8, 8, 1, "wide"),
        (25, 1, 1, 1, 1, "planes"),
        (121, 1, 3, 3, 1, "planes"),
        (9, 1, 1, 1, 1, "planes"),
        (1, 1, 64, 1, 1, "wide"),
        (9, 1, 32, 32, 32, "depthwise"),
        (9, 1, 32, 64, 32, "depthwise"),
        (9, 1, 4, 4, 4, "planes"),
        (9, 1, 64, 64, 4, "wide"),
        (9, 1, 64, 8, 8, "planes"),
    ],
)
def test_which_kernel_suits(
    taps: int, planes: int, channels: int, filters: int, groups: int, kernel: str
) -> None:
    """With 8 lanes, float32's of AVX2."""
    assert choose_kernel(taps, planes, channels, filters, groups, 8) == kernel


def test_what_is_remembered_is_the_same_layer() -> None:
    """1.0 and True equal 1, and an iterator has no second reading."""
    x, filters = example((2, 3))
    wanted = cm.convolve(x, filters, 1, 1)
    with pytest.raises(GeometryError, match=r"^stride: expected a whole number, got 1\.0;"):
        cm.convolve(x, filters, 1.0, 1)
    with pytest.raises(GeometryError, match=r"^dilation: expected a whole number, got 1\.0;"):
        cm.convolve(x, filters, 1, 1, (1, 1.0))
    np.testing.assert_array_equal(cm.convolve(x, filters, True, (np.int8(1), 1)), wanted)
    for size in (1, 2, 1):
        each = [size, size]
        found = cm.convolve(x, filters, map(int, each), zip([size] * 2, each, strict=True), iter(each))
        np.testing.assert_array_equal(found, cm.convolve(x, filters, size, size, size))
    # Each plan has the padding that was named for it, though the pads are the same.
    arrays = [np.zeros(s, np.float32) for s in ((2, 6, 7, 4), (6, 3, 3, 4))]
    for _ in range(2):
        plans = [engine.prepare(*arrays, padding=p).plan for p in ("same", 1, "half")]
        assert [plan.geometry.rule for plan in plans] == ["same", None, "half"]


def test_a_plan_is_equal_to_its_like() -> None:
    x, filters = example((2, 3))
    assert engine.prepare(x, filters).plan == engine.prepare(x + 1, filters + 1).plan
    assert engine.prepare(x, filters).plan != engine.prepare(x, filters, stride=2).plan


# multiply


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(5,), (2, 3), (2, 1, 3), (0,), (2, 0)], ids=str)
def test_multiply(rows: tuple[int, ...], dtype: str) -> None:
    make = probes(dtype, rng())
    x_col, w_col = make((*rows, 6)), make((6, 4))
    y = engine.multiply(x_col, w_col)
    assert (y.dtype, y.shape) == (result_of(dtype), (*rows, 4))
    wide = np.complex128 if y.dtype.kind == "c" else np.float64
    np.testing.assert_array_equal(y, x_col.astype(wide) @ w_col.astype(wide))


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_multiply_any_memory(disguise: Disguise) -> None:
    x_col, w_col = np.arange(12.0).reshape(2, 6), np.arange(24.0).reshape(6, 4)
    np.testing.assert_array_equal(engine.multiply(disguise(x_col), disguise(w_col)), x_col @ w_col)


@pytest.mark.parametrize(
    "x, w, total",
    [
        (np.full(9, 255, np.uint8), np.full(9, 255, np.uint8), 9 * 255 * 255),
        (np.full(3, 2**30 + 1), np.full(3, 2**30 + 1), 3 * (2**30 + 1) ** 2),
        (np.ones(4096, np.float16), np.ones(4096, np.float16), 4096),
        (np.full(2, np.inf), np.array([1.0, -1.0]), math.nan),
    ],
)
def test_multiply_has_the_arithmetic_of_convolve(x: np.ndarray, w: np.ndarray, total: float) -> None:
    np.testing.assert_array_equal(engine.multiply(x[None], w[:, None]), [[total]])
    np.testing.assert_array_equal(cm.convolve(x[None, :, None], w[None, :, None]), [[[total]]])


# What is refused.


X, W = np.zeros((2, 5, 6, 4), int), np.zeros((6, 3, 2, 4), int)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"filters": W[..., :3]}, ShapeError, r"^filters: .* 3 channels .*input has 4.*\(K, 3, 2, 4\)$"),
        ({"groups": 2}, ShapeError, r"^filters: .* 4 channels .* 2 groups.*input has 4.*\(K, 3, 2, 2\)$"),
        ({"filters": W[0]}, ShapeError, r"^filters: have shape \(3, 2, 4\), expected .* with 4 axes"),
        ({"filters": W[None]}, ShapeError, r"^filters: have shape \(1, 6, 3, 2, 4\), .* \(2, 5, 6, 4\)$"),
        ({"filters": W[:0]}, ShapeError, r"^filters: have shape \(0, 3, 2, 4\), .* none 0"),
        ({"filters": W[:, :0]}, ShapeError, r"^filters: have shape \(6, 0, 2, 4\), .* none 0"),
        (
            {"filters": W[:5, ..., :2], "groups": 2},
            GeometryError,
            r"^groups: 2 does not divide the 5 filters;",
        ),
        ({"groups": 3}, GeometryError, r"^groups: 3 does not divide the input's 4 channels;"),
        ({"groups": 0}, GeometryError, r"^groups: 0 does not divide the input's 4 channels;"),
        ({"bias": np.zeros(4)}, ShapeError, r"^bias: has shape \(4,\), 6 filters take \(6,\)"),
        ({"bias": np.zeros((6, 1))}, ShapeError, r"^bias: has shape \(6, 1\), 6 filters take \(6,\)"),
        ({"bias": 0}, ShapeError, r"^bias: has shape \(\), 6 filters take \(6,\)"),
        ({"x": X.astype(object)}, DTypeError, r"^input: has dtype object; expected booleans, integers"),
        ({"filters": W.astype(object)}, DTypeError, r"^filters: has dtype object;"),
        ({"bias": ["a"] * 6}, DTypeError, r"^bias: has dtype <U1;"),
        ({"padding_mode": "wrap"}, GeometryError, r"^padding_mode: unknown 'wrap'; give one of zeros, refl"),
        ({"x": X[:, :2]}, GeometryError, r"^kernel_size: the kernel spans 3 pixels of height, .* = 2;"),
        ({"stride": (1, 0)}, GeometryError, r"^stride: must be at least 1 .*, got \(1, 0\);"),
        ({"padding": "some"}, GeometryError, r"^padding: unknown name 'some';"),
        ({"x": X[0, 0, 0], "filters": W[0, 0, 0]}, GeometryError, r"^input_shape: \(4,\) has 1 axes;"),
    ],
)
def test_convolve_refuses(arguments: dict[str, Any], error: type[ConvmatError], message: str) -> None:
    with pytest.raises(error, match=message):
        cm.convolve(**{"x": X, "filters": W} | arguments)


@pytest.mark.parametrize(
    "x_shape, w_shape, message",
    [
        ((5, 3), (4, 2), r"^x_col: has shape \(5, 3\), W_col has \(4, 2\): expected 4 columns;"),
        ((4,), (4, 2), r"^x_col: has shape \(4,\), W_col has \(4, 2\)"),
        ((5, 4), (4,), r"^w_col: has shape \(4,\), expected \(n, K\)"),
        ((5, 4), (4, 2, 1), r"^w_col: has shape \(4, 2, 1\), expected \(n, K\)"),
        ((5, 4), (4, 0), r"^w_col: has shape \(4, 0\), expected \(n, K\), neither 0"),
    ],
)
def test_multiply_refuses(x_shape: tuple[int, ...], w_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        engine.multiply(np.zeros(x_shape), np.zeros(w_shape))


# What is remembered from call to call.


def test_what_is_remembered_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        folding._counts(cm.ConvGeometry((1, 5, 5, 1), 3))[0][0] = 7
