"""verify: right results pass, one step past the bound does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat as cm
from convmat import reference, verification
from convmat.errors import (
    DTypeError,
    GeometryError,
    IntegerRangeError,
    MemoryLimitError,
    SettingError,
    ShapeError,
)
from convmat.roundings import ROUNDINGS
from convmat.verification import judge, stages
from convmat.verification import layer as layer_module
from tests.strategies import DTYPES, INTEGERS, Layer, layers, noise, probes

SHAPE, FILTERS = (2, 5, 6, 4), (4, 3, 2, 2)
OPTIONS: dict[str, Any] = {"stride": (2, 1), "padding": "same", "groups": 2, "flip": True}
OUTPUT = (2, 3, 6, 4)
TERMS = 3 * 2 * 2
PLACE = (1, 2, 4, 3)

FLOATS = [dtype for dtype in DTYPES if dtype not in INTEGERS]


def probe_layer(dtype: Any, bias: bool = False) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """A layer whose sums are whole numbers, exact in every dtype, so that the definition's value is exact."""
    make = probes(dtype, np.random.default_rng(2017))
    return make(SHAPE), make(FILTERS), OPTIONS | {"bias": make(FILTERS[:1]) if bias else None}


def fractions(dtype: Any, bias: bool = False) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The same in quarters, with sums as exact, which is more than the bound can know of them."""
    x, filters, options = probe_layer(dtype, bias)
    return x / x.dtype.type(4), filters, options


# Right results.


@given(layers(), st.sampled_from(DTYPES))
def test_what_the_engine_computes_is_right(layer: Layer, dtype: str) -> None:
    x, filters, options = layer.arrays(noise(dtype, np.random.default_rng(2017)))
    report = cm.verify(x, filters, **options)
    assert report, str(report)
    assert (report.outside, report.elements) == (0, math.prod(layer.output_shape))
    assert report.shape == report.expected_shape == layer.output_shape
    assert report.exact == (dtype in INTEGERS)
    assert report.max_abs_error <= report.bound
    assert report.error_over_bound <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_results_of_every_dtype(dtype: str) -> None:
    x, filters, options = probe_layer(dtype, bias=True)
    wanted = reference.convolve(x, filters, **options)
    results = {wanted.dtype: wanted, x.dtype: wanted.astype(x.dtype)} if dtype != "bool" else {"": wanted}
    for result in (*results.values(), cm.convolve(x, filters, **options)):
        for shape in (OUTPUT, (math.prod(OUTPUT[:-1]), OUTPUT[-1])):
            report = cm.verify(x, filters, expected=result.reshape(shape), **options)
            assert report, str(report)
            assert report.shape == report.expected_shape == OUTPUT
            assert report.dtype == str(result.dtype)
            assert (report.max_abs_error, report.error_over_bound, report.worst) == (0, 0, None)


def test_few_elements_outside_are_listed() -> None:
    """Where they are, by image; none of them, where they are more than a report lists."""
    x, filters = np.ones((2, 9, 9, 1), np.int64), np.ones((1, 3, 3, 1), np.int64)
    y = cm.convolve(x, filters)
    places = [(n, row, 3, 0) for n in range(2) for row in range(7)]
    for at in places:
        y[at] += 1
    assert cm.verify(x, filters, y).outside_at == tuple(places)
    assert verification.compare(y, cm.convolve(x, filters)).outside_at == tuple(places)
    y[0, :3, 0, 0] += 1
    assert cm.verify(x, filters, y).outside_at == ()
    assert cm.verify(x, filters).outside_at == ()


def test_an_empty_batch_is_equal() -> None:
    report = cm.verify(np.zeros((0, 5, 2)), np.zeros((3, 2, 2)), expected=np.zeros((0, 4, 3)))
    assert report
    assert (report.elements, report.max_abs_error, report.worst) == (0, 0, None)


def test_lists_are_arrays() -> None:
    assert cm.verify([[[1], [2], [3]]], [[[1], [1]]], expected=[[[3], [5]]])
    assert not cm.verify([[[1], [2], [3]]], [[[1], [1]]], expected=[[[3], [6]]])


@pytest.mark.parametrize("argument", ["stride", "dilation"])
def test_sizes_may_be_arrays_as_in_convolve(argument: str) -> None:
    x, filters = np.ones((1, 5, 5, 1)), np.ones((1, 2, 2, 1))
    assert cm.verify(x, filters, **{argument: np.array([1, 2])})


# One wrong element.


def gamma(terms: int, u: float) -> float:
    return terms * u / (1 - terms * u)


def bound_at_place(x: np.ndarray, filters: np.ndarray, options: dict[str, Any], result: str) -> float:
    """Higham's bound, γ_n·A·(1 + u_out) + u_out·|R|, and the γ_n of R's own float64 sums.

    A result narrower than what it was summed in may also be rounded to its smallest subnormal; inputs wider
    than it are two roundings more.
    """
    given, kind = np.finfo(x.dtype), np.finfo(result)
    summed = np.finfo(np.result_type(np.float32, max(given, kind, key=lambda info: float(info.eps)).dtype))
    terms = (TERMS + (options["bias"] is not None)) * (2 if x.dtype.kind == "c" else 1)
    terms += 2 if given.eps < summed.eps else 0
    u, u_out = float(summed.eps) / 2, float(kind.eps) / 2
    magnitudes = options | {"bias": None if options["bias"] is None else np.abs(options["bias"])}
    a = abs(reference.convolve(np.abs(x), np.abs(filters), **magnitudes)[PLACE])
    r = abs(reference.convolve(x, filters, **options)[PLACE])
    bound = (gamma(terms, u) + gamma(terms, 2.0**-53)) * a
    if u_out > u:
        bound += u_out * bound + u_out * r + float(kind.smallest_subnormal)
    return float(bound)


def step(value: np.ndarray, towards: float) -> np.ndarray:
    """The next number of the dtype; along the real axis where it is complex."""
    if value.dtype.kind != "c":
        return np.nextafter(value, value.dtype.type(towards))
    real = np.nextafter(value.real, value.real.dtype.type(towards))
    return value.dtype.type(complex(real, value.imag))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(
    "inputs, result",
    [
        ("f2", "f2"),
        ("f2", "f8"),
        ("f4", "f4"),
        ("f4", "f2"),
        ("f4", "f8"),
        ("f8", "f8"),
        ("f8", "f4"),
        ("c8", "c8"),
        ("c16", "c16"),
        (">f4", "f4"),
    ],
)
def test_the_bound_is_where_the_theory_puts_it(inputs: str, result: str, up: bool, bias: bool) -> None:
    """The last number of the dtype inside the bound is equal, the next one is different."""
    x, filters, options = fractions(inputs, bias)
    expected = reference.convolve(x, filters, **options)
    exact, bound = complex(expected[PLACE]), bound_at_place(x, filters, options, result)
    expected = expected.astype(result)
    outwards = math.inf if up else -math.inf

    def error(value: np.ndarray) -> float:
        return abs(float(value.real) - exact.real)

    start = exact + math.copysign(bound, outwards)
    value = expected.dtype.type(start if expected.dtype.kind == "c" else start.real)
    while error(value) <= bound:
        value = step(value, outwards)
    expected[PLACE] = value
    report = cm.verify(x, filters, expected=expected, **options)
    assert not report
    assert not report.exact
    assert (report.outside, report.worst) == (1, PLACE)
    assert report.max_abs_error == pytest.approx(error(value))
    assert report.bound == pytest.approx(bound)
    assert report.error_over_bound == pytest.approx(error(value) / bound)
    assert (
        str(report) == f"different: 1 of {expected.size} elements, at row 2, column 4 of filter 3 in image 1"
    )

    while error(value) > bound:
        value = step(value, -outwards)
    expected[PLACE] = value
    report = cm.verify(x, filters, expected=expected, **options)
    assert report, str(report)
    assert report.worst == (PLACE if error(value) else None)
    assert report.error_over_bound == pytest.approx(error(value) / bound)


@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_the_worst_element_is_the_one_furthest_past_its_bound(dtype: str) -> None:
    x, filters, options = probe_layer(dtype)
    expected = reference.convolve(x, filters, **options)
    bound = bound_at_place(x, filters, options, "c16" if dtype == "c8" else "f8")
    expected[0, 0, 0, 0] += 1.5 * bound
    expected[PLACE] += 100 * bound
    report = cm.verify(x, filters, expected=expected, **options)
    assert (report.outside, report.worst) == (2, PLACE)


def test_floats_of_large_integer_inputs_are_judged_by_the_bound() -> None:
    x, filters, options = probe_layer("i4")
    x = x * 2**24
    expected = reference.convolve(x, filters, **options).astype("f4")
    expected[PLACE] = np.nextafter(expected[PLACE], np.float32(np.inf))
    report = cm.verify(x, filters, expected=expected, **options)
    assert report
    assert (report.exact, report.worst) == (False, PLACE)
    expected[PLACE] += 2**24
    assert not cm.verify(x, filters, expected=expected, **options)


def test_the_worst_of_many_is_named() -> None:
    x, filters, options = probe_layer("i4")
    expected = reference.convolve(x, filters, **options)
    expected += 1
    expected[PLACE] += 6
    report = cm.verify(x, filters, expected=expected, **options)
    assert (report.outside, report.worst, report.max_abs_error) == (expected.size, PLACE, 7)
    assert report.worst_values == (expected[PLACE], expected[PLACE] - 7)


@pytest.mark.parametrize("change", [1, -1])
@pytest.mark.parametrize(
    "peak, result", [(1, "i8"), (1, "i1"), (1, ">i4"), (2**26, "i8"), (2**55, "i8"), (2**55, "u8")]
)
def test_an_integer_off_by_one(peak: int, result: str, change: int) -> None:
    x, filters, options = probe_layer("u1" if result == "u8" else "i8")
    x = x.astype(np.int64) * peak
    expected = reference.convolve(x, filters, **options).astype(result)
    assert cm.verify(x, filters, expected=expected, **options)
    # The element farthest from zero, so that even unsigned ones can be changed both ways.
    place = np.unravel_index(int(np.argmax(expected)), expected.shape)
    right = int(expected[place])
    expected[place] = right + change
    report = cm.verify(x, filters, expected=expected, **options)
    assert not report
    assert report == cm.Report(
        equal=False,
        shape=OUTPUT,
        expected_shape=OUTPUT,
        dtype=str(expected.dtype),
        exact=True,
        elements=expected.size,
        outside=1,
        max_abs_error=1,
        bound=0,
        error_over_bound=math.inf,
        worst=place,
        worst_values=(right + change, right),
        max_rel_error=pytest.approx(1 / right),
        histogram=(expected.size - 1, 0, 0, 0, 0, 1, 0, 0, 0),
        outside_at=(tuple(map(int, place)),),
    )
    n, y, x, k = map(int, place)
    at = f"row {y}, column {x} of filter {k} in image {n}"
    assert str(report) == f"different: 1 of {expected.size} elements, at {at}"


@pytest.mark.parametrize("bands", [1, 200])
def test_the_worst_index_counts_from_the_start_of_the_result(
    monkeypatch: pytest.MonkeyPatch, bands: int
) -> None:
    """However small the parts are in which the definition is computed."""
    monkeypatch.setattr(judge, "BAND", bands)
    for dtype, change in (("i4", 1), ("f4", 0.1)):
        x, filters, options = probe_layer(dtype)
        expected = reference.convolve(x, filters, **options)
        assert cm.verify(x, filters, expected=expected, **options)
        expected[PLACE] += change
        report = cm.verify(x, filters, expected=expected, **options)
        assert (report.outside, report.worst, report.elements) == (1, PLACE, expected.size)


# Infinities and NaN.


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    "pixel, right, wrong",
    [
        (1.0, 1.0, [np.nan, np.inf, -np.inf]),
        (np.inf, np.inf, [np.nan, -np.inf, 1.0]),
        (-np.inf, -np.inf, [np.nan, np.inf, -1.0]),
        (np.nan, np.nan, [1.0, np.inf, -np.inf]),
    ],
)
def test_infinity_and_nan_stand_where_the_definition_has_them(
    pixel: float, right: float, wrong: list[float], dtype: str
) -> None:
    x = np.array([2.0, pixel, 2.0], dtype).reshape(1, 3, 1)
    filters = np.ones((1, 1, 1), dtype)
    expected = x.copy()
    expected[0, 1, 0] = right
    assert cm.verify(x, filters, expected=expected)
    assert cm.verify(x, filters)
    for value in wrong:
        expected[0, 1, 0] = value
        report = cm.verify(x, filters, expected=expected)
        assert not report, f"{value} in place of {right}"
        assert (report.outside, report.worst, report.max_abs_error) == (1, (0, 1, 0), math.inf)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_in_place_of_an_integer(value: float) -> None:
    x, filters, options = probe_layer("i4")
    expected = reference.convolve(x, filters, **options).astype(float)
    expected[PLACE] = value
    report = cm.verify(x, filters, expected=expected, **options)
    assert (bool(report), report.outside, report.worst) == (False, 1, PLACE)


@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_of_float16_where_the_exact_value_overflows(sign: int) -> None:
    x, filters = np.full((1, 2, 1), 300, "f2"), np.full((1, 2, 1), sign * 200, "f2")  # 120000
    assert np.isinf(cm.convolve(x, filters)).all()
    assert cm.verify(x, filters)
    assert cm.verify(x, filters, expected=np.full((1, 1, 1), sign * np.inf, "f2"))


@pytest.mark.parametrize(
    "weights, value",
    [
        ([250, -250], np.inf),  # 0 exactly: the products overflow float16, but are summed in float32
        ([250, -250], -np.inf),
        ([250, -250], np.nan),
        ([200, 200], -np.inf),
        ([200, 200], np.nan),
        ([200, 200], 65504),
    ],
)
def test_no_other_overflow_of_float16(weights: list[float], value: float) -> None:
    x, filters = np.full((1, 2, 1), 300, "f2"), np.array(weights, "f2").reshape(1, 2, 1)
    assert cm.verify(x, filters)
    assert not cm.verify(x, filters, expected=np.full((1, 1, 1), value, "f2"))


@pytest.mark.parametrize("dtype, large", [("f4", 3e38), ("f8", 1.5e308)])
def test_a_sum_may_overflow_on_the_way(dtype: str, large: float) -> None:
    """L + L − L is infinite in this order and finite in another."""
    x, filters = np.array([large, large, -large], dtype).reshape(1, 3, 1), np.ones((1, 3, 1), dtype)
    assert cm.verify(x, filters)
    for value in (large, np.inf):
        assert cm.verify(x, filters, expected=np.full((1, 1, 1), value, dtype)), value


@pytest.mark.parametrize(
    "value", [complex(np.nan, 0), complex(0, np.nan), complex(np.inf, 0), complex(1, -np.inf)]
)
def test_no_wild_component_in_place_of_a_complex_number(value: complex) -> None:
    x, filters, options = probe_layer("c8")
    expected = reference.convolve(x, filters, **options).astype("c8")
    expected[PLACE] = value
    report = cm.verify(x, filters, expected=expected, **options)
    assert (bool(report), report.outside, report.worst) == (False, 1, PLACE)


# Another shape, and what is no convolution.


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 6, 5), (2, 6, 3, 4), (1, 3, 6, 4), (36, 5), (4, 36), (144,), (2, 3, 6), (0, 3, 6, 4), ()],
    ids=str,
)
def test_another_shape_is_different(shape: tuple[int, ...]) -> None:
    x, filters, options = probe_layer("f4")
    report = cm.verify(x, filters, expected=np.zeros(shape), **options)
    assert not report
    assert (report.shape, report.expected_shape, report.worst) == (shape, OUTPUT, None)
    assert report.outside == report.elements == math.prod(OUTPUT)
    spoken = " × ".join(map(str, shape)) or "()"
    assert str(report).startswith(f"different: shape {spoken}, expected 2 × 3 × 6 × 4")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"expected": np.full(OUTPUT, None)}, DTypeError, r"^expected: has dtype object;"),
        ({"x": np.full(SHAPE, None)}, DTypeError, r"^input: has dtype object;"),
        ({"bias": [1, 2]}, ShapeError, r"^bias: has shape \(2,\), 4 filters take \(4,\)"),
        ({"stride": 0}, GeometryError, r"^stride: must be at least 1 along every axis, got 0;"),
        ({"padding": "some"}, GeometryError, r"^padding: unknown name 'some';"),
    ],
)
def test_what_makes_no_convolution(change: dict[str, Any], error: type[Exception], message: str) -> None:
    x, filters, options = probe_layer("f4")
    with pytest.raises(error, match=message):
        cm.verify(**{"x": x, "filters": filters} | options | change)


def test_a_broken_engine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x, filters, options = probe_layer("f4")
    monkeypatch.setattr(layer_module, "execute", lambda todo: np.ones(todo.plan.output_shape, "f4"))
    assert not cm.verify(x, filters, **options)


# compare_exactly


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4)], ids=str)
def test_compare_exactly(shape: tuple[int, ...]) -> None:
    wanted = np.arange(math.prod(shape)).reshape(shape)
    assert verification.compare_exactly(wanted, wanted.astype(float))
    result = wanted.copy()
    result[(1,) * len(shape)] += 5
    report = verification.compare_exactly(result, wanted)
    assert not report
    assert (report.outside, report.worst, report.max_abs_error) == (1, (1,) * len(shape), 5)
    assert not verification.compare_exactly(wanted[1:], wanted)


def test_exactly_equal_nan_and_infinity() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -0.0]])
    report = verification.compare_exactly(values, values + 0.0)
    assert report
    assert (report.max_abs_error, report.worst) == (0, None)


@pytest.mark.parametrize(
    "result, wanted, distance",
    [
        (np.array([[2**63 - 1]]), np.array([[2**63 - 2]]), 1),
        (np.array([[2**63 - 1]]), np.array([[-(2**63)]]), 2.0**64),
        (np.array([[2**64 - 1]], "u8"), np.array([[-1]]), 2.0**64),
        (np.array([[2**63]], "u8"), np.array([[2**63 - 1]]), 1),
        (np.array([[np.nan]]), np.array([[1.0]]), math.inf),
        (np.array([[np.inf]]), np.array([[-np.inf]]), math.inf),
    ],
)
def test_distances_do_not_wrap(result: np.ndarray, wanted: np.ndarray, distance: float) -> None:
    report = verification.compare_exactly(result, wanted)
    assert not report
    assert report.max_abs_error == distance


# What a report tells beside its verdict.


def test_a_report_counts_errors_by_size() -> None:
    """One element for each bucket, as multiples of the bound."""
    x, filters = np.ones((1, 12, 1)), np.ones((1, 1, 1))
    bound = 1e-9
    multiples = [0, 0, 5, 20, 0.9, 100, np.inf, np.nan, 0.9]
    expected = np.ones((1, 12, 1))
    for i, multiple in enumerate(multiples):
        expected[0, i, 0] = 1 + multiple * bound
    report = cm.verify(x, filters, expected=expected, rtol=0, atol=bound)
    assert sum(report.histogram) == report.elements == 12
    assert report.histogram[0] == 5
    assert report.histogram[-2:] == (2, 2)
    assert report.histogram[6] == 1
    assert report.outside == 5
    assert report.outside_share == 5 / 12
    assert report.smallest_atol == report.max_rel_error == math.inf


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_errors_in_units_in_the_last_place(dtype: str) -> None:
    x, filters, options = probe_layer(dtype)
    expected = reference.convolve(x, filters, **options).astype(dtype)
    part = expected.real if expected.dtype.kind == "c" else expected
    expected[PLACE] = expected[PLACE].real or 1
    off = part[PLACE]
    for _ in range(5):
        off = np.nextafter(off, off.dtype.type(2 * off))
    wanted, expected = expected, expected.copy()
    expected[PLACE] = off
    report = verification.compare(expected, wanted)
    assert report.worst == PLACE
    assert report.ulps == 5
    assert report.max_rel_error == pytest.approx(report.max_abs_error / abs(wanted[PLACE]))
    assert verification.compare(wanted, wanted).ulps == 0
    assert verification.compare(np.arange(3), np.arange(3)).ulps is None


def test_the_relative_error_leaves_out_what_is_0() -> None:
    report = verification.compare(np.array([1.0, 0.5, 4.0]), np.array([0.0, 1.0, 4.0]))
    assert (report.max_abs_error, report.max_rel_error) == (1, 0.5)


@pytest.mark.slow
@given(layers(least_batch=1), st.sampled_from(["f2", "f4", "f8", "c8", "i2"]), st.integers(0, 2**32))
def test_the_smallest_tolerance_passes_and_a_smaller_does_not(layer: Layer, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, filters, options = layer.arrays(noise(dtype, rng))
    expected = cm.convolve(x, filters, **options)
    expected = expected + rng.integers(0, 3, expected.shape).astype(expected.dtype)
    report = cm.verify(x, filters, expected=expected, **options)
    atol = report.smallest_atol
    assert cm.verify(x, filters, expected=expected, **options, atol=atol)
    if atol:
        smaller = float(np.nextafter(atol, 0))
        found = cm.verify(x, filters, expected=expected, **options, atol=smaller)
        assert not found
        assert found.tolerances == (smaller, 0)


def test_tolerances_take_the_place_of_the_bound() -> None:
    x, filters = np.array([[[1.0], [100.0]]]), np.ones((1, 1, 1))
    expected = np.array([[[1.5], [101.0]]])
    for options, right in [
        ({"atol": 1}, True),
        ({"atol": 0.9}, False),
        ({"rtol": 0.5}, True),
        ({"rtol": 0.01}, False),
        ({"atol": 0.5, "rtol": 0.01}, True),
        ({"atol": 0, "rtol": 0}, False),
    ]:
        assert bool(cm.verify(x, filters, expected=expected, **options)) == right, options
        assert bool(verification.compare(expected, cm.convolve(x, filters), **options)) == right, options
    integers = x.astype(int), filters.astype(int), expected.astype(int)
    assert cm.verify(*integers, atol=1)
    assert not cm.verify(*integers, atol=0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_tolerance_lets_nan_and_infinity_pass(value: float) -> None:
    x, filters = np.ones((1, 3, 1)), np.ones((1, 1, 1))
    expected = x.copy()
    expected[0, 1, 0] = value
    assert not cm.verify(x, filters, expected=expected, atol=1e300, rtol=1e300)
    assert not verification.compare(expected, x, atol=1e300, rtol=1e300)
    assert not verification.compare(x, expected, atol=1e300, rtol=1e300)
    assert verification.compare(expected, expected)
    assert not verification.compare(expected, -expected) or np.isnan(value)


def test_exactly_means_equal_in_value() -> None:
    x, filters, options = fractions("f4")
    expected = reference.convolve(x, filters, **options).astype("f4")
    assert cm.verify(x, filters, expected=expected, **options, exact=True).exact
    expected[PLACE] = np.nextafter(expected[PLACE], np.float32(np.inf))
    assert cm.verify(x, filters, expected=expected, **options)
    report = cm.verify(x, filters, expected=expected, **options, exact=True)
    assert (bool(report), report.worst, report.outside) == (False, PLACE, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"exact": True, "atol": 1}, r"^atol: got 1, and exact leaves no tolerance"),
        ({"exact": True, "rtol": 0}, r"^rtol: got 0, and exact leaves no tolerance"),
        ({"atol": -1}, r"^atol: got -1; give a finite number, at least 0"),
        ({"rtol": math.nan}, r"^rtol: got nan;"),
        ({"atol": math.inf}, r"^atol: got inf;"),
    ],
)
def test_what_is_no_tolerance(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        cm.verify(np.ones((1, 3, 1)), np.ones((1, 1, 1)), **arguments)
    with pytest.raises(SettingError, match=message):
        verification.compare(np.ones(3), np.ones(3), **arguments)


@pytest.mark.parametrize(
    "first, second, equal",
    [
        (np.array(3), np.array(3.0), True),
        (np.array([2**53 + 1]), np.array([2.0**53]), False),
        (np.array([60000, 1], "f2"), np.array([-60000, 1], "f2"), False),
        (np.zeros((0, 3)), np.zeros((0, 3)), True),
        (np.zeros((0, 3)), np.zeros((3, 0)), False),
        (np.array([True, False]), np.array([1, 0]), True),
        (np.array([1 + 1j]), np.array([1 + 2j]), False),
        (np.arange(3, dtype=">i4"), np.arange(3), True),
    ],
)
def test_two_arrays(first: np.ndarray, second: np.ndarray, equal: bool) -> None:
    report = verification.compare(first, second)
    assert bool(report) == equal
    assert report.exact or first.shape != second.shape
    assert math.isfinite(report.smallest_atol) or first.shape != second.shape
    assert bool(verification.compare(second, first)) == equal


def test_arrays_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "BAND", 7)
    a = np.arange(600.0).reshape(60, 10)
    b = a.copy()
    b[37, 4] += 1
    report = verification.compare(a, b)
    assert (report.worst, report.outside, report.elements) == ((37, 4), 1, 600)


# Quantized results.


@given(layers(), st.sampled_from(list(ROUNDINGS)), st.sampled_from(["int8", "uint8", "int16"]))
def test_quantized_results_are_judged_exactly(layer: Layer, rounding: str, dtype: str) -> None:
    rng = np.random.default_rng(2017)
    x, filters, options = layer.arrays(lambda shape: rng.integers(-100, 100, shape).astype("i1"))
    said = cm.Quantization(scale=0.0037, output_zero_point=5, rounding=rounding)
    expected = replace(said, dtype=dtype).apply(reference.convolve(x, filters, **options))
    report = cm.verify(x, filters, expected=expected, **options, quantization=said)
    assert report, str(report)
    assert report.exact
    assert cm.verify(x, filters, **options, quantization=replace(said, dtype=dtype))
    if expected.size:
        wrong = expected.copy()
        wrong.flat[-1] ^= 1
        report = cm.verify(x, filters, expected=wrong, **options, quantization=said)
        assert (bool(report), report.outside, report.max_abs_error) == (False, 1, 1)
        assert cm.verify(x, filters, expected=wrong, **options, quantization=said, atol=1)


def test_what_cannot_be_requantized() -> None:
    x, filters = np.full((1, 3, 1), 2**20), np.full((1, 1, 1), 2**12)
    half = cm.Quantization(scale=0.5)
    with pytest.raises(IntegerRangeError, match=r"^quantization: an accumulator is 4294967296, beyond int32"):
        cm.verify(x, filters, quantization=half)
    with pytest.raises(DTypeError, match=r"^quantization: takes integer inputs, .*; got float64$"):
        cm.verify(x.astype(float), filters, quantization=half)


# The worst element, term by term.


@given(layers(least_batch=1), st.sampled_from(["i4", "f8", "c16"]), st.data())
def test_the_terms_add_up_to_the_element(layer: Layer, dtype: str, data: st.DataObject) -> None:
    x, filters, options = layer.arrays(probes(dtype, np.random.default_rng(2017)))
    at = tuple(data.draw(st.integers(0, size - 1)) for size in layer.output_shape)
    found = layer_module.explain(x, filters, at, **options)
    assert found.total == reference.convolve(x, filters, **options)[at]
    assert len(found.terms) == math.prod(filters.shape[1:])
    assert found.sums[-1] == sum(found.products)
    for term in found.terms:
        assert term.pixel is None or x[term.pixel] == term.value
        assert term.pixel is not None or term.value == 0


# Stages.


@given(layers(), st.sampled_from(["u1", "f4", "c8"]), st.sampled_from(["hwc", "chw"]))
def test_every_stage_is_judged_by_its_own_definition(layer: Layer, dtype: str, order: str) -> None:
    x, filters, _ = layer.arrays(noise(dtype, np.random.default_rng(2017)))
    x_col = cm.unroll(x, layer.kernel, **layer.patch, order=order)
    slow = reference.unroll(
        x,
        layer.kernel,
        layer.where["stride"],
        layer.where["padding"],
        layer.where["dilation"],
        layer.padding_mode,
        order,
    )
    judged: list[tuple[Callable[..., verification.Report], np.ndarray]] = [
        (
            lambda y=None: stages.verify_unroll(x, layer.kernel, y, **layer.patch, order=order),
            slow,
        ),
        (
            lambda y=None: stages.verify_flatten_filters(filters, y, layer.groups, order),
            cm.flatten_filters(filters, layer.groups, order=order),
        ),
        (
            lambda y=None: stages.verify_fold(x_col, x.shape, layer.kernel, y, **layer.where, order=order),
            cm.fold(x_col, x.shape, layer.kernel, **layer.where, order=order),
        ),
    ]
    if len(x):
        matrix = cm.layer_matrix(filters, x.shape[1:], **layer.patch, groups=layer.groups, flip=layer.flip)
        shape, options = (1, *x.shape[1:]), layer.patch | {"groups": layer.groups, "flip": layer.flip}
        judged.append((lambda y=None: stages.verify_matrix(filters, shape, y, **options), matrix.toarray()))
    for verify, right in judged:
        assert verify(), str(verify())
        assert verify(right), str(verify(right))
        if right.size:
            assert not verify(right[1:])
            wrong = right.copy()
            wrong.flat[-1] = wrong.flat[-1] + 1
            report = verify(wrong)
            assert (bool(report), report.outside) == (False, 1)
            assert report.worst == tuple(size - 1 for size in right.shape)


def test_a_matrix_too_large_to_define_is_refused() -> None:
    with pytest.raises(
        MemoryLimitError, match=r"^matrix: of 62500 × 62500 is more than the 16777216 elements"
    ):
        stages.verify_matrix(np.ones((1, 1, 1, 1)), (1, 250, 250, 1))


def test_a_matrix_with_channels_first_and_infinite_weights() -> None:
    filters = np.random.default_rng(2017).standard_normal((3, 2, 2, 2))
    filters[1, 0, 1, 1] = np.inf
    for mode in ("zeros", "reflect"):
        for layout in ("nhwc", "nchw"):
            assert stages.verify_matrix(filters, (1, 4, 3, 2), padding=1, padding_mode=mode, layout=layout)


# What a right kernel may do, and what none may.

BITS = {"f2": 11, "f4": 24, "f8": 53, "c8": 24, "c16": 53}


def off_by_the_least(value: Any, up: bool) -> Any:
    """The next number of the dtype; of a complex one in its imaginary part."""
    if value.dtype.kind != "c":
        return np.nextafter(value, value.dtype.type(math.inf if up else -math.inf))
    part = np.nextafter(value.imag, value.imag.dtype.type(math.inf if up else -math.inf))
    return value.dtype.type(complex(value.real, part))


@given(
    layers(least_batch=1),
    st.sampled_from(["i1", "u1", "f2", "f4", "f8", "c8", "c16"]),
    st.sampled_from(list(BITS)),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_sum_of_whole_numbers_is_met_exactly(
    layer: Layer, inputs: str, result: str, up: bool, seed: int
) -> None:
    """In any order it is the same: one element off by the least possible is different."""
    result = {"f2": "c8", "f4": "c8", "f8": "c16"}.get(result, result) if inputs[0] == "c" else result
    x, filters, options = layer.arrays(probes(inputs, np.random.default_rng(seed)))
    right = reference.convolve(x, filters, **options).astype(result)
    report = cm.verify(x, filters, expected=right, **options)
    assert report, str(report)
    assert report.exact
    assert report.exact_sums == right.size
    place = tuple(np.random.default_rng(seed).integers(0, right.shape))
    right[place] = off_by_the_least(right[place], up)
    report = cm.verify(x, filters, expected=right, **options)
    assert not report
    assert (report.outside, report.worst, report.error_over_bound) == (1, place, math.inf)


@pytest.mark.parametrize("inputs", ["i8", "f8"])
@pytest.mark.parametrize("result", ["f2", "f4", "f8"])
def test_sums_are_exact_up_to_the_bits_of_a_mantissa(result: str, inputs: str) -> None:
    """Each element by itself: the first is just below the limit, the second is at it."""
    limit = 2 ** BITS[result]
    x = np.array([limit - 2, limit - 1], inputs).reshape(1, 2, 1)
    filters, bias = np.ones((1, 1, 1), inputs), np.ones(1, inputs)
    right = (np.array([limit - 1, limit], "f8").astype(result)).reshape(1, 2, 1)
    report = cm.verify(x, filters, expected=right, bias=bias)
    assert report
    assert (report.exact, report.exact_sums) == (False, 1)
    for element, equal in ((0, False), (1, True)):
        wrong = right.copy()
        wrong[0, element] = np.nextafter(wrong[0, element], wrong.dtype.type(0))
        assert bool(cm.verify(x, filters, expected=wrong, bias=bias)) == equal


def test_3_by_3_by_64_of_int8_with_one_element_off() -> None:
    rng = np.random.default_rng(2017)
    x, w = rng.integers(-128, 128, (1, 5, 5, 64), "i1"), rng.integers(-128, 128, (4, 3, 3, 64), "i1")
    y = cm.convolve(x, w).astype("f4")
    assert cm.verify(x, w, expected=y)
    for change in (50, 1):
        wrong = y.copy()
        wrong[0, 1, 2, 3] += change
        assert not cm.verify(x, w, expected=wrong)


def test_a_fraction_is_judged_by_the_bound_and_so_is_a_mean() -> None:
    x, filters = np.full((1, 3, 1), 0.1, "f4"), np.full((1, 3, 1), 3, "f4")
    y = cm.convolve(x, filters)
    assert cm.verify(x, filters, expected=np.nextafter(y, np.float32(1)))
    x_col = np.arange(9, dtype="f4").reshape(3, 3)
    mean = cm.fold(x_col, (1, 5, 1), 3, overlap="mean")
    assert stages.verify_fold(x_col, (1, 5, 1), 3, np.nextafter(mean, np.float32(9)), overlap="mean")
    total = cm.fold(x_col, (1, 5, 1), 3)
    assert stages.verify_fold(x_col, (1, 5, 1), 3, total)
    assert not stages.verify_fold(x_col, (1, 5, 1), 3, np.nextafter(total, np.float32(99)))


def test_infinity_beside_whole_numbers() -> None:
    x = np.array([np.inf, 1, 2, np.nan], "f4").reshape(1, 4, 1)
    filters = np.ones((1, 1, 1), "f4")
    report = cm.verify(x, filters, expected=x)
    assert report
    assert report.exact_sums == 2
    wrong = np.nextafter(x, np.float32(9))
    assert cm.verify(x, filters, expected=wrong).outside == 3


def flushed(a: np.ndarray, tiny: float) -> np.ndarray:
    """What a kernel that knows no subnormal numbers makes of it."""
    if a.dtype.kind == "c":
        parts = [np.where(np.abs(part) < tiny, 0, part) for part in (a.real, a.imag)]
        return (parts[0] + 1j * parts[1]).astype(a.dtype)
    return np.where(np.abs(a) < tiny, a.dtype.type(0), a)


@given(
    layers(least_batch=1),
    st.sampled_from(["f2", "f4", "f8", "c8", "c16", ">f4"]),
    st.sampled_from(["x", "filters", "both", "result"]),
    st.integers(0, 2**32),
)
def test_a_kernel_that_flushes_subnormals_is_not_rejected(
    layer: Layer, dtype: str, which: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tiny = float(np.finfo(dtype).tiny)

    def make(shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape) * np.where(rng.random(shape) < 0.5, tiny / 8, 1e3)
        return (values * (1 + 1j) if np.dtype(dtype).kind == "c" else values).astype(dtype)

    x, filters, options = layer.arrays(make)
    if dtype == "f2":
        x, filters = x / x.dtype.type(64), filters / filters.dtype.type(64)
    loaded = [
        flushed(a, tiny) if which in (name, "both") else a for name, a in (("x", x), ("filters", filters))
    ]
    y = cm.convolve(*loaded, **options)
    y = flushed(y, tiny) if which == "result" and dtype != "f2" else y
    report = cm.verify(x, filters, expected=y, **options)
    assert report, str(report)


def test_what_may_be_flushed_is_no_more_than_it_is() -> None:
    tiny, one = np.full((1, 3, 3, 1), 1e-39, "f4"), np.full((1, 3, 3, 1), 1e3, "f4")
    zeros = np.zeros((1, 1, 1, 1), "f4")
    assert cm.verify(tiny, one, zeros)
    assert cm.verify(one, tiny, zeros)
    assert not cm.verify(tiny, one, zeros + np.float32(1e-34))
    assert not cm.verify(one, one, zeros)
    # A part that may be flushed lets the other go nowhere.
    x = np.full((1, 1, 1), 1 + 1e-39j, "c8")
    unit = np.full((1, 1, 1), 0.3, "c8")
    assert cm.verify(x, unit, np.full((1, 1, 1), 0.3, "c8"))
    assert not cm.verify(x, unit, np.zeros((1, 1, 1), "c8"))
    # And so do other elements than those it is in.
    x = np.array([1e-39, 0.3], "f4").reshape(1, 2, 1)
    assert cm.verify(x, np.ones((1, 1, 1), "f4"), np.array([0, 0.3], "f4").reshape(1, 2, 1))
    assert not cm.verify(x, np.ones((1, 1, 1), "f4"), np.array([0, 0.29], "f4").reshape(1, 2, 1))


@given(
    layers(least_batch=1),
    st.sampled_from([("f8", "f4"), ("c16", "c8"), ("i4", "f4"), ("i8", "f8"), ("f8", "f2")]),
    st.integers(0, 2**32),
)
def test_a_kernel_that_rounds_its_inputs_is_not_rejected(
    layer: Layer, dtypes: tuple[str, str], seed: int
) -> None:
    """Inputs wider than the accumulator are rounded as they are loaded."""
    inputs, result = dtypes
    rng = np.random.default_rng(seed)

    def make(shape: tuple[int, ...]) -> np.ndarray:
        if inputs[0] == "i":
            return rng.integers(-(2**28), 2**28, shape).astype(inputs)
        return (rng.standard_normal(shape) * (1 + 0.7j if inputs[0] == "c" else 1)).astype(inputs)

    x, filters, options = layer.arrays(make)
    loaded = "f4" if result == "f2" else result
    y = cm.convolve(x.astype(loaded), filters.astype(loaded), **options).astype(result)
    report = cm.verify(x, filters, expected=y, **options)
    assert report, str(report)


def test_1_by_1_with_one_channel_of_rounded_inputs() -> None:
    """Three roundings of one product, of which n = 1 knows one."""
    rng = np.random.default_rng(2017)
    x, w = rng.standard_normal((1, 50, 50, 1)), rng.standard_normal((4, 1, 1, 1))
    y = cm.convolve(x.astype("f4"), w.astype("f4"))
    report = cm.verify(x, w, expected=y)
    assert report
    assert report.error_over_bound > 1 / 3  # more than n = 1 allows
    assert not cm.verify(x, w, expected=y * np.float32(1 + 2**-21))


# A tolerance means one thing.


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_tolerances_of_complex_numbers_are_of_their_moduli(dtype: str) -> None:
    x, filters = np.array([3 + 4j, 1 - 1j], dtype).reshape(1, 2, 1), np.full((1, 1, 1), 1, dtype)
    off = x + np.array(3e-3 + 4e-3j, dtype)
    for atol, rtol in ((5.1e-3, 0), (4.9e-3, 0), (0, 3.6e-3), (0, 3.5e-3), (1e-3, 2.9e-3), (1e-3, 2.8e-3)):
        wanted = bool(np.isclose(off, x, rtol, atol).all())
        assert bool(cm.verify(x, filters, expected=off, atol=atol, rtol=rtol)) == wanted
        assert bool(verification.compare(off, x, atol=atol, rtol=rtol)) == wanted
        rows = stages.verify_unroll(x, 1, off.reshape(2, 1), atol=atol, rtol=rtol)
        folded = stages.verify_fold(x.reshape(2, 1), (1, 2, 1), 1, off, atol=atol, rtol=rtol)
        matrix = stages.verify_matrix(
            x.reshape(2, 1, 1), (1, 1, 1), off.reshape(2, 1), padding_mode="circular", atol=atol, rtol=rtol
        )
        kernels = stages.verify_flatten_filters(x.reshape(2, 1, 1), off.reshape(1, 2), atol=atol, rtol=rtol)
        assert {bool(found) for found in (rows, folded, matrix, kernels)} == {wanted}
    report = cm.verify(x, filters, expected=off)
    assert report.max_abs_error == pytest.approx(5e-3, rel=1e-3)
    assert cm.verify(x, filters, expected=off, atol=report.smallest_atol)
    assert not cm.verify(x, filters, expected=off, atol=report.smallest_atol * 0.999)


# The three judges.


@pytest.mark.parametrize(
    "judging, outside",
    [
        (judge.Exactly(), [False, True, True, False]),
        (judge.WithinTolerance(0.1, 0, None), [False, False, True, False]),
        (judge.WithinTolerance(0, 0.3, None), [False, False, False, False]),
    ],
)
def test_a_judge_says_which_elements_are_outside(judging: Any, outside: list[bool]) -> None:
    result, wanted = np.array([1, 2.0625, 4.25, np.nan]), np.array([1, 2, 4, np.nan])
    judged = judging(result, wanted, None, None)
    assert judged.error.tolist() == [0, 0.0625, 0.25, 0]
    assert judged.outside.tolist() == outside
    assert judged.exactly.all() == isinstance(judging, judge.Exactly)


def test_the_bound_is_of_each_element() -> None:
    """γ_1·A of float32, with the γ_1 of the float64 definition; 0 where a sum is exact."""
    x = np.array([1.5, 3.0], np.float32)
    bound = judge.WithinBound(np.dtype(np.float32), [x], 1, False)
    sizes = np.array([1.5, 3.0])
    judged = bound(x, sizes, sizes, None)
    gammas = sum(u / (1 - u) for u in (2.0**-24, 2.0**-53))
    assert judged.allowed == pytest.approx(gammas * sizes, rel=1e-12)
    whole = judge.WithinBound(np.dtype(np.float32), [np.float32([1, 3])], 1, False)
    judged = whole(x, sizes, sizes, None)
    assert judged.exactly.all()
    assert judged.allowed.tolist() == [0, 0]


def test_a_report_tells_its_facts() -> None:
    facts = {fact.key: fact for fact in cm.verify(np.ones((1, 3, 3, 1)), np.ones((1, 2, 2, 1))).facts()}
    assert facts["equal"].text == "equal: 4 elements, exactly"
    assert facts["result_shape"].value == [1, 2, 2, 1]
    assert facts["elements"].label == ""
