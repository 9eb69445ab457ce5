"""Named arithmetics: no right result is rejected, a wrong one is, and the right name is found."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convmat as cm
from convmat.errors import DTypeError, SettingError
from convmat.verification.diagnosis import diagnose
from convmat.verification.layer import judge_layer
from convmat.verification.numerics import NAMES, Numerics
from convmat.verification.stages import verify_fold
from convmat.verification.tiles import Winograd
from tests import emulated as by
from tests.arithmetics import KERNELS, KINDS, drawn, one_left_out
from tests.tools import mostly_slow

BF16, TF32 = by.by_bits(16), by.by_bits(13)


@pytest.mark.parametrize("name, kind", mostly_slow(itertools.product(KERNELS, KINDS), 5))
def test_no_right_result_is_rejected(name: str, kind: str) -> None:
    """Each bound has two independent kernels inside, on numbers of every kind."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    x, filters = drawn(kind, rng, narrow="accumulate" in name)
    for kernel in KERNELS[name]:
        report = cm.verify(x, filters, kernel(x, filters), padding=1, arithmetic=name)
        assert report, f"{kernel}: {report}"
        assert report.arithmetic == name


@pytest.mark.parametrize("name", ["tf32", "bfloat16", "float16", "tf32-truncated", "winograd:4", "fft"])
def test_a_product_left_out_is_found(name: str) -> None:
    rng = np.random.default_rng(2)
    x, filters = drawn("random", rng)
    for kernel in KERNELS[name]:
        for _ in range(4):
            wrong = one_left_out(kernel(x, filters), x, filters, rng, least=0.5)
            assert not cm.verify(x, filters, wrong, padding=1, arithmetic=name)


QUANTIZED = cm.Quantization(scale=0.1)

NAMED = {name: (name,) for name in KERNELS if name not in ("fft", "bfloat16-accumulate")} | {
    "float16": ("float16", "tf32"),  # in float16's range they are the same
    "winograd:2": ("winograd:2", None),
}


@pytest.mark.parametrize(
    "name, kind", mostly_slow(itertools.product(NAMED, ["random", "trained", "sparse"]), 5)
)
def test_the_arithmetic_is_named_from_the_result(name: str, kind: str) -> None:
    named = NAMED[name]
    rng = np.random.default_rng(3)
    x, filters = drawn(kind, rng)
    for kernel in KERNELS[name]:
        report = cm.verify(x, filters, kernel(x, filters), padding=1)
        assert report.named_arithmetic in named
        assert report or report.named_arithmetic is not None
        assert report or f"equal as {Numerics.of(report.named_arithmetic).words}" in {
            fact.brief for fact in report.facts()
        }


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_float32_have_no_other_name(kind: str) -> None:
    rng = np.random.default_rng(4)
    x, filters = drawn(kind, rng)
    for kernel in (by.by_product, by.in_pairs):
        report = cm.verify(x, filters, kernel(x, filters, 1), padding=1)
        assert report
        assert report.named_arithmetic is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, w, y: y[:, ::-1],
        lambda x, w, y: by.by_product(x, w * (1 + 1e-3), 1),
        lambda x, w, y: by.by_product(x, w[:, ::-1], 1),
        lambda x, w, y: by.by_product(x, w + np.float32(1e-3), 1),
        lambda x, w, y: by.by_product(BF16(x), w, 1),
        lambda x, w, y: np.where(np.arange(y.size).reshape(y.shape) % 7, y, y * np.float32(1.0001)),
        lambda x, w, y: y.astype("f2").astype("f4") * np.float32(1.001),
    ],
)
def test_a_wrong_result_is_not_excused_by_a_wide_bound(wrong: Callable[..., Any]) -> None:
    for kind in ("random", "sparse"):
        x, filters = drawn(kind, np.random.default_rng(5))
        y = np.ascontiguousarray(wrong(x, filters, by.by_product(x, filters, 1)))
        report = cm.verify(x, filters, y, padding=1)
        assert not report
        assert report.named_arithmetic is None


def test_errors_within_the_plain_bound_are_told_from_its_own() -> None:
    """With many terms the bound of float32 holds for TF32 operands, too."""
    rng = np.random.default_rng(6)
    x, filters = by.data("sparse", (1, 6, 6, 700), rng), by.data("trained", (8, 3, 3, 700), rng)
    report = cm.verify(x, filters, by.by_product(TF32(x), TF32(filters)), stride=1)
    assert report
    assert report.named_arithmetic == "tf32"
    fact = next(fact for fact in report.facts() if fact.key == "named_arithmetic")
    assert fact.brief == "but the errors are those of TF32 operands with float32 sums"


def test_only_results_of_others_that_the_dtypes_judge_are_named() -> None:
    x, filters = drawn("random", np.random.default_rng(7))
    y = by.by_product(BF16(x), BF16(filters), 1)
    assert cm.verify(x, filters, padding=1).named_arithmetic is None
    assert cm.verify(x, filters, y, padding=1, atol=1e-9).named_arithmetic is None
    assert cm.verify(x, filters, y, padding=1, arithmetic="tf32").named_arithmetic is None
    assert judge_layer(x, filters, y, padding=1).named_arithmetic is None


@given(st.sampled_from(["tf32", "float16", "bfloat16"]), st.floats(width=32))
def test_operands_are_rounded_to_the_nearest(name: str, value: float) -> None:
    rounded = {"tf32": TF32, "float16": by.by_halves, "bfloat16": BF16}[name]
    a = np.float32([value])
    with np.errstate(over="ignore"):
        got, wanted = Numerics.of(name).value(a), rounded(a)
    assert np.array_equal(got, wanted, equal_nan=True) or np.isnan(value)
    assert np.isnan(got[0]) == np.isnan(value)


@pytest.mark.parametrize("name, tie, other", [("tf32", 1 + 2.0**-11, 1 + 2.0**-10), ("bfloat16", 257, 258)])
def test_a_tie_may_go_either_way(name: str, tie: float, other: float) -> None:
    """And nothing else: the sum has one term, which is exact."""
    x, filters = np.full((1, 4, 4, 1), tie, np.float32), np.full((1, 1, 1, 1), 3, np.float32)
    for value, equal in ((other, True), (2 * tie - other, True), (2 * other - tie, False)):
        y = np.full((1, 4, 4, 1), 3 * value, np.float32)
        assert bool(cm.verify(x, filters, y, arithmetic=name)) is equal


def test_a_bias_is_as_given_or_rounded() -> None:
    x, filters = drawn("random", np.random.default_rng(8))
    bias = by.data("random", (len(filters),), np.random.default_rng(9))
    y = by.by_product(BF16(x), BF16(filters), 1)
    for shift in (bias, BF16(bias)):
        assert cm.verify(x, filters, y + shift, padding=1, bias=bias, arithmetic="bfloat16")
    assert not cm.verify(x, filters, y + np.float32(1.02) * bias, padding=1, bias=bias, arithmetic="bfloat16")


def test_float16_operands_overflow_as_they_do() -> None:
    x, filters = np.full((1, 2, 2, 1), 7e4, np.float32), np.ones((1, 1, 1, 1), np.float32)
    assert cm.verify(x, filters, np.full((1, 2, 2, 1), np.inf, np.float32), arithmetic="float16")
    assert not cm.verify(x, filters, x, arithmetic="float16")
    assert cm.verify(x, filters, np.full((1, 2, 2, 1), np.inf, np.float32), arithmetic="float16-accumulate")


def test_flush_accepts_results_that_are_subnormal_in_their_dtype() -> None:
    x, filters = np.full((1, 2, 2, 1), 2.0**-15, np.float32), np.ones((1, 1, 1, 1), np.float32) / 3
    y = np.zeros((1, 2, 2, 1), np.float16)
    assert not cm.verify(x, filters, y)
    assert cm.verify(x, filters, y, arithmetic="flush")


@pytest.mark.parametrize("m", [2, 4, 6])
@pytest.mark.parametrize(
    "shape, kernel, options",
    [
        ((2, 9, 7, 4), (6, 3, 3, 4), {"padding": ((0, 2), (1, 0))}),
        ((1, 8, 8, 4), (4, 3, 3, 2), {"groups": 2, "padding": "same"}),
        ((1, 9, 3), (2, 3, 3), {"padding": "full", "flip": True}),
        ((1, 6, 9, 2), (3, 1, 3, 2), {"padding": 1, "padding_mode": "reflect"}),
        ((1, 5, 6, 7, 1), (2, 3, 3, 2, 1), {}),
        ((0, 5, 5, 2), (2, 3, 3, 2), {}),
    ],
)
def test_a_transform_is_bounded_on_any_layer(
    m: int, shape: Any, kernel: Any, options: dict[str, Any]
) -> None:
    """E is at least A, so that what is right as a sum is right as a transform; and of magnitudes alone."""
    rng = np.random.default_rng(10)
    x, filters = by.data("random", shape, rng), by.data("random", kernel, rng)
    for name in (f"winograd:{m}", "fft"):
        report = cm.verify(x, filters, arithmetic=name, **options)
        plain = cm.verify(x, filters, **options)
        assert report
        assert report.elements == plain.elements
        assert report.bound >= plain.bound


def test_e_of_one_tile_is_that_of_the_matrices() -> None:
    """|Aᵀ|(|G||w||Gᵀ| ⊙ |Bᵀ||x||B|)|A|, with Lavin and Gray's F(2×2, 3×3), by hand."""
    rng = np.random.default_rng(11)
    x, filters = by.data("random", (1, 4, 4, 1), rng), by.data("random", (1, 3, 3, 1), rng)
    a, g, b = (np.abs(np.array(matrix, float)) for matrix in by._LAVIN[2])
    size = a @ (g @ np.abs(filters[0, ..., 0]) @ g.T * (b @ np.abs(x[0, ..., 0]) @ b.T)) @ a.T
    y = cm.convolve(x.astype("f8"), filters.astype("f8")).astype("f4")
    y[0, 0, 0, 0] += 1
    report = cm.verify(x, filters, y, arithmetic="winograd:2")
    geometry = cm.ConvGeometry(x.shape, (3, 3))
    n = Winograd(2).roundings(geometry)
    assert n == 2 * (4 + 2 * 5) + 1
    assert report.bound == pytest.approx(n * 2.0**-24 * size[0, 0], rel=1e-4)


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"arithmetic": "float8"}, SettingError, "arithmetic: got 'float8'; give one of tf32, float16"),
        ({"arithmetic": 3}, SettingError, "arithmetic: got 3; give one of"),
        ({"arithmetic": "tf32", "exact": True}, SettingError, "brings a bound of its own; leave out exact"),
        ({"arithmetic": "tf32", "rtol": 0.1}, SettingError, "brings a bound of its own; leave out rtol"),
        ({"arithmetic": "winograd:2", "stride": 2}, SettingError, "is for strides and dilations of 1"),
        ({"arithmetic": "activation"}, SettingError, "give one of"),
        ({"activation": "gelu"}, SettingError, "activation: got 'gelu'; give none, relu, relu6 or clamp"),
        ({"activation": "clamp:1,0"}, SettingError, "clamps to 1..0, where nothing is"),
        ({"activation": (float("nan"), 1)}, SettingError, "activation: got"),
        ({"activation": "clamp:0"}, SettingError, "activation: got 'clamp:0'"),
    ],
)
def test_what_is_no_arithmetic_and_no_activation(
    change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    x, filters = drawn("random", np.random.default_rng(12))
    with pytest.raises(kind, match=message):
        cm.verify(x, filters, **change)


@pytest.mark.parametrize(
    "x, filters, change, message",
    [
        ("i1", "i1", {"arithmetic": "tf32"}, "tf32 is of floats; integers are exact"),
        ("c8", "f4", {"arithmetic": "tf32"}, "tf32 is of real numbers; got complex64"),
        ("c8", "f4", {"activation": "relu"}, "complex numbers have no order"),
        ("i1", "i1", {"activation": "clamp:0.5,3"}, "give whole numbers"),
        (
            "i1",
            "i1",
            {"arithmetic": "tf32", "quantization": cm.Quantization(scale=0.1)},
            "a quantized result is met exactly",
        ),
    ],
)
def test_dtypes_that_have_none(x: str, filters: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises((SettingError, DTypeError), match=message):
        cm.verify(np.ones((1, 4, 4, 1), x), np.ones((1, 3, 3, 1), filters), **change)


def test_kernels_that_winograd_has_no_points_for() -> None:
    x = np.ones((1, 9, 9, 1), np.float32)
    with pytest.raises(SettingError, match=r"winograd:6 is for kernels of at most 3.*got a kernel of 5×5"):
        cm.verify(x, np.ones((1, 5, 5, 1), np.float32), arithmetic="winograd:6")
    with pytest.raises(SettingError, match="winograd:2 is for kernels larger than 1"):
        cm.verify(x, np.ones((1, 1, 1, 1), np.float32), arithmetic="winograd:2")


@settings(max_examples=10)
@given(
    st.sampled_from(["relu", "relu6", "clamp:-0.3,0.1", (-1, 1)]), st.sampled_from(["f2", "f4", "f8", "i2"])
)
def test_an_activation_is_applied_to_the_definition(activation: Any, dtype: str) -> None:
    rng = np.random.default_rng(13)
    x, filters = (rng.integers(-9, 9, shape) for shape in ((1, 6, 6, 2), (3, 3, 3, 2)))
    scale = 1 if dtype == "i2" else 7
    if dtype == "i2" and isinstance(activation, str) and activation.startswith("clamp"):
        activation = "clamp:-3,5"
    x, filters = (x / scale).astype(dtype), (filters / scale).astype(dtype)
    low, high = {"relu": (0, np.inf), "relu6": (0, 6), "clamp:-0.3,0.1": (-0.3, 0.1)}.get(activation, (-1, 1))
    if activation == "clamp:-3,5":
        low, high = -3, 5
    y = np.clip(cm.convolve(x, filters), low, high)
    assert cm.verify(x, filters, y, activation=activation)
    assert cm.verify(x, filters, activation=activation)  # the engine's own
    assert not cm.verify(x, filters, y)
    y.flat[np.abs(y).argmin()] += 1
    report = cm.verify(x, filters, y, activation=activation)
    assert report.outside == 1
    assert {fact.key: fact.value for fact in report.facts()}["activation"] == report.activation


def test_what_relu_makes_of_nan() -> None:
    x, filters = np.full((1, 2, 2, 1), np.nan, np.float32), np.ones((1, 1, 1, 1), np.float32)
    for value, equal in ((np.nan, True), (0, True), (1, False), (np.inf, False)):
        assert bool(cm.verify(x, filters, np.full_like(x, value), activation="relu")) is equal


def test_mistakes_are_found_in_another_arithmetic_and_after_an_activation() -> None:
    x, filters = drawn("random", np.random.default_rng(14))
    turned = by.by_product(BF16(x), BF16(filters[:, :, ::-1]), 1)
    for judged, y in (
        ({"arithmetic": "bfloat16"}, turned),
        ({"activation": "relu"}, np.maximum(by.by_product(x, filters[:, :, ::-1], 1), 0)),
        ({"arithmetic": "bfloat16", "activation": "relu"}, np.maximum(turned, 0)),
    ):
        found = diagnose(x, filters, y, padding=1, judged=judged)
        assert "flipped left-right" in str(found[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_name_says_what_it_accepts(name: str) -> None:
    one = Numerics.of(name.upper())
    assert one.name == name
    assert "accepts" in str(one) or "may be" in str(one)
    assert one.words


def test_fold_sums_in_a_narrow_format() -> None:
    rng = np.random.default_rng(15)
    x_col = by.by_halves(by.data("random", (16, 9), rng))
    summed = np.zeros((1, 6, 6, 1), np.float16)
    for row, (y, x) in enumerate(np.ndindex(4, 4)):
        summed[0, y : y + 3, x : x + 3, 0] += x_col[row].reshape(3, 3).astype(np.float16)
    arguments: Any = (x_col, (1, 6, 6, 1), 3, summed.astype(np.float32))
    assert not verify_fold(*arguments)
    assert verify_fold(*arguments, arithmetic="float16-accumulate")
    with pytest.raises(SettingError, match="fold is sums of numbers, without products"):
        verify_fold(*arguments, arithmetic="fft")
