"""What a probe computes with: right in any order, and wrong in any arithmetic but its own."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import probe_write
from convmat.errors import DTypeError
from convmat.verification.operands import ARITHMETICS, PROBE_DTYPES, Operands, whole_numbers
from convmat.verification.probes import Inputs, Probe
from tests.tools import mostly_slow

Array = np.ndarray[Any, Any]
Change = Callable[[Array], Array]

GEOMETRIES = {
    "the usual": (cm.ConvGeometry((2, 5, 6, 3), 3), 4),
    "a point": (cm.ConvGeometry((2, 8, 10, 3), 1), 4),
    "many channels": (cm.ConvGeometry((2, 5, 6, 20), 3, 2, "same"), 4),
    "one axis, one channel": (cm.ConvGeometry((1, 12, 1), 5), 2),
}
# The dtypes of x and kernel, and the arithmetic.
PLAIN = list(PROBE_DTYPES)
NAMED = [f"float32:{name}" for name in ARITHMETICS]
MIXED = ["uint8*int8", "float16:bfloat16", "float16:float16-accumulate", "float64:tf32"]


@lru_cache
def probe_of(kinds: str, name: str = "the usual") -> Probe:
    dtypes, _, arithmetic = kinds.partition(":")
    dtype, _, kernel = dtypes.partition("*")
    geometry, filters = GEOMETRIES[name]
    return Probe(
        geometry,
        filters,
        np.dtype(dtype),
        kernel_dtype=np.dtype(kernel or dtype),
        arithmetic=arithmetic or None,
    )


@lru_cache
def cases_of(probe: Probe) -> list[tuple[str, Inputs, Array]]:
    """Each case, its inputs, and Y, (N·P, K)."""
    return [
        (case, inputs, probe.results(inputs)["y"].reshape(-1, probe.filters))
        for case, inputs in probe.inputs(2017)
    ]


def rounded(bits: int, how: Callable[[Any], Any] = np.rint) -> Change:
    """To so many bits, to nearest even, or by `how`."""

    def change(a: Array) -> Array:
        mantissas, exponents = np.frexp(np.asarray(a, float))
        return np.asarray(np.ldexp(how(np.ldexp(mantissas, bits)), exponents - bits))

    return change


def as_float16(a: Array) -> Array:
    return np.asarray(a, float).astype(np.float16).astype(float)


def same(a: Array) -> Array:
    return a


def computed(
    probe: Probe, inputs: Inputs, operand: Change = same, total: Change = same, order: Any = None
) -> Array:
    """Y, (N·P, K), summed one product after another; what becomes of operands and of sums can be changed."""
    found = probe.results(inputs)
    x_col, w_col = (operand(found[key].astype(float)) for key in ("x_col", "w_col"))
    sums = np.zeros((len(x_col), w_col.shape[1]))
    for t in range(len(w_col)) if order is None else order:
        sums = total(sums + x_col[:, t, None] * w_col[t])
    return total(sums + inputs.bias.astype(float))


def exact(probe: Probe, inputs: Inputs) -> Array:
    """Y, (N·P, K), of fractions."""
    found = probe.results(inputs)
    to_fractions = np.vectorize(Fraction, otypes=[object])
    x_col, w_col = (to_fractions(found[key].astype(float)) for key in ("x_col", "w_col"))
    return np.asarray(x_col @ w_col + to_fractions(inputs.bias.astype(float)))


# Right, whatever the order.


@pytest.mark.parametrize("name", mostly_slow(GEOMETRIES))
@pytest.mark.parametrize("kinds", PLAIN + NAMED + MIXED)
def test_any_order_gives_the_same_bits(kinds: str, name: str) -> None:
    """In accumulators of no more bits than are claimed; a product alone is rounded once."""
    probe = probe_of(kinds, name)
    bits = probe.operands.sum_bits
    total = rounded(bits) if probe.operands.floats and bits < 53 else same
    rng = np.random.default_rng(7)
    for case, inputs, y in cases_of(probe):
        for order in (None, rng.permutation(probe.terms)):
            found = computed(probe, inputs, total=total, order=order)
            np.testing.assert_array_equal(found.astype(y.dtype), y, err_msg=case)


@pytest.mark.parametrize("kinds", mostly_slow(PLAIN + NAMED + MIXED))
def test_y_is_the_exact_sum_rounded_once(kinds: str) -> None:
    probe = probe_of(kinds)
    for case, inputs, y in cases_of(probe):
        wanted = exact(probe, inputs)
        found = np.vectorize(Fraction, otypes=[object])(y.astype(float))
        if y.dtype.kind == "i":
            assert (found == wanted).all(), case
            continue
        info = np.finfo(y.dtype)
        half = np.vectorize(Fraction, otypes=[object])(np.spacing(np.abs(y)).astype(float)) / 2
        assert (abs(found - wanted) <= half).all(), case
        if inputs.bias.any() or case in ("integers", "one-hot", "coordinates"):
            assert (found == wanted).all(), case
        assert np.abs(y).max() <= info.max
        assert np.abs(y[y != 0]).min() >= info.tiny


# Wrong in any arithmetic but its own.

FLOATS = {"float32", "float64"}
WIDE = FLOATS | {"int16"}
ANY = set(PROBE_DTYPES)
ARITHMETIC_PLANTS: dict[str, tuple[set[str], dict[str, Change]]] = {
    "TF32 operands": (WIDE, {"operand": rounded(11)}),
    "TF32 operands, truncated": (WIDE, {"operand": rounded(11, np.trunc)}),
    "two TF32 operands for one": (FLOATS, {"operand": rounded(22)}),
    "two bfloat16 operands for one": (FLOATS, {"operand": rounded(16)}),
    "float16 operands": (WIDE, {"operand": as_float16}),
    "bfloat16 operands": (WIDE | {"float16"}, {"operand": rounded(8)}),
    "bfloat16 operands, truncated": (WIDE | {"float16"}, {"operand": rounded(8, np.trunc)}),
    "float32 operands": ({"float64"}, {"operand": rounded(24)}),
    "operands a bit short": (FLOATS | {"float16"}, {}),
    "whole operands": (FLOATS | {"float16"}, {"operand": np.trunc}),
    "float16 sums": (ANY, {"total": as_float16}),
    "bfloat16 sums": (ANY, {"total": rounded(8)}),
    "float32 sums": ({"float64", "int16"}, {"total": rounded(24)}),
}


def failed(probe: Probe, change: Callable[[str, Inputs, Array], Array]) -> set[str]:
    """The cases that a change of their results, made of case, inputs and Y, fails."""
    cases = {}
    for case, inputs, y in cases_of(probe):
        with np.errstate(all="ignore"):
            cases[case] = (np.asarray(change(case, inputs, y)) != y).any()
    return {case for case, fails in cases.items() if fails}


@pytest.mark.parametrize("name", mostly_slow(GEOMETRIES))
@pytest.mark.parametrize("plant", ARITHMETIC_PLANTS)
def test_another_arithmetic_fails(plant: str, name: str) -> None:
    dtypes, change = ARITHMETIC_PLANTS[plant]
    for dtype in sorted(dtypes):
        probe = probe_of(dtype, name)
        changes = change or {"operand": rounded(np.finfo(dtype).nmant)}

        def planted(_: str, inputs: Inputs, y: Array, probe: Probe = probe, how: Any = changes) -> Array:
            return computed(probe, inputs, **how).astype(y.dtype)

        assert failed(probe, planted), (plant, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("toward", mostly_slow([0, -np.inf, np.inf]))
def test_a_result_that_is_not_rounded_to_nearest_fails(dtype: str, toward: float) -> None:
    probe = probe_of(dtype)

    def planted(_: str, inputs: Inputs, y: Array) -> Array:
        """Y rounded to the other neighbour where that lies in this direction."""
        wanted = exact(probe, inputs)
        off = np.vectorize(lambda y, w: float(Fraction(float(y)) - w))(y, wanted)
        away = off * np.sign(y) > 0 if toward == 0 else off * toward < 0
        return np.where(away, np.nextafter(y, np.asarray(toward, y.dtype)), y)

    assert "extremes" in failed(probe, planted)


@pytest.mark.parametrize("name", mostly_slow(GEOMETRIES))
@pytest.mark.parametrize("kinds", PLAIN + NAMED + MIXED)
def test_relu_and_magnitudes_fail(kinds: str, name: str) -> None:
    probe = probe_of(kinds, name)
    assert failed(probe, lambda _, __, y: np.maximum(y, 0))
    assert failed(probe, lambda _, __, y: np.abs(y))
    assert failed(probe, lambda _, inputs, y: y - inputs.bias) == {"bias"}
    assert failed(probe, lambda _, inputs, y: y - inputs.bias + np.roll(inputs.bias, 1)) == {"bias"}


@pytest.mark.parametrize("kinds", NAMED)
def test_a_named_arithmetic_needs_its_bits_and_its_exponents(kinds: str) -> None:
    probe = probe_of(kinds)
    name = kinds.partition(":")[2]
    operand, sums = ARITHMETICS[name]

    def planted(_: str, inputs: Inputs, y: Array, **how: Change) -> Array:
        return computed(probe, inputs, **how).astype(y.dtype)

    assert not failed(probe, lambda *given: planted(*given, operand=rounded(operand), total=rounded(sums)))
    assert failed(probe, lambda *given: planted(*given, operand=rounded(operand - 1)))
    assert failed(probe, lambda *given: planted(*given, total=rounded(sums - 1)))
    fails = failed(probe, lambda *given: planted(*given, operand=as_float16))
    assert bool(fails) != name.startswith("float16")


# Integers.

INTEGERS = ["int8", "uint8", "uint8*int8"]


@pytest.mark.parametrize("name", mostly_slow(GEOMETRIES))
@pytest.mark.parametrize("kinds", [*INTEGERS, "int16"])
def test_sums_of_int16_fail(kinds: str, name: str) -> None:
    probe = probe_of(kinds, name)
    assert failed(probe, lambda _, __, y: y.astype(np.int16))
    assert failed(probe, lambda _, __, y: np.clip(y, -(2**15), 2**15 - 1))


@pytest.mark.parametrize("name", mostly_slow(GEOMETRIES))
@pytest.mark.parametrize("kinds", INTEGERS)
def test_bytes_of_another_sign_fail(kinds: str, name: str) -> None:
    probe = probe_of(kinds, name)

    def planted(inputs: Inputs, key: str) -> Array:
        other = {"int8": "uint8", "uint8": "int8"}
        array = getattr(inputs, key)
        mixed = inputs._replace(**{key: array.view(other[str(array.dtype)])})
        geometry = probe.geometry
        y = cm.convolve(
            mixed.x, mixed.kernel, geometry.stride, geometry.padding, geometry.dilation, bias=mixed.bias
        )
        return y.reshape(-1, probe.filters)

    for key in ("x", "kernel"):
        assert failed(probe, lambda _, inputs, __, key=key: planted(inputs, key))


@pytest.mark.parametrize("name", mostly_slow([name for name in GEOMETRIES if name != "a point"]))
@pytest.mark.parametrize("kinds", INTEGERS)
def test_pairs_saturated_to_int16_fail(kinds: str, name: str) -> None:
    """As vpmaddubsw adds the products of two neighbours."""
    probe = probe_of(kinds, name)

    def planted(_: str, inputs: Inputs, __: Array) -> Array:
        found = probe.results(inputs)
        products = found["x_col"].astype(int)[:, :, None] * found["w_col"].astype(int)
        if products.shape[1] % 2:
            products = np.pad(products, ((0, 0), (0, 1), (0, 0)))
        pairs = np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1)
        return np.asarray(pairs.sum(axis=1) + inputs.bias)

    assert "extremes" in failed(probe, planted)


@pytest.mark.parametrize("kinds", PLAIN + MIXED[:1])
def test_the_extremes_are_there(kinds: str) -> None:
    inputs = dict(probe_of(kinds).inputs(2017))["extremes"]
    for array in inputs[:2]:
        if array.dtype.kind in "iu":
            info = np.iinfo(array.dtype)
            assert (array.min(), array.max()) in ((info.min, info.max), (info.min, 0))
    if "8" in kinds:
        assert inputs.kernel.max() == np.iinfo(inputs.kernel.dtype).max


def test_biases_are_distinct_and_none_is_zero() -> None:
    for kinds in PLAIN:
        bias = dict(probe_of(kinds).inputs(5))["bias"].bias
        assert len(set(np.abs(bias).tolist())) == 4
        assert (bias != 0).all()
        assert {-1, 1} == set(np.sign(bias).tolist())


# The parts.


def test_whole_numbers_of_an_array() -> None:
    for array, numbers, unit in (
        ([0.75, -2, 0], [3, 8, 0], -2),
        ([0, 0], [0, 0], 0),
        ([96, 32], [3, 1], 5),
        ([-(2.0**-40)], [1], -40),
        ([2.0**53 - 1], [2.0**53 - 1], 0),
    ):
        found, exponent = whole_numbers(np.array(array))
        assert (found.tolist(), exponent) == (numbers, unit)


def test_the_words_of_the_command_are_the_librarys() -> None:
    options = {option.name: option for option in probe_write.command.params}
    for name, words in (("dtype", PROBE_DTYPES), ("kernel_dtype", PROBE_DTYPES), ("arithmetic", ARITHMETICS)):
        assert list(options[name].type.choices) == list(words)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kinds, message",
    [
        (
            ("float32", "int8", None),
            r"^kernel_dtype: got int8 for an input of float32; give the same",
        ),
        (("int8", "float16", None), r"^kernel_dtype: got float16 for an input of int8; give"),
        (("uint8", "int64", None), r"^kernel_dtype: got int64; give one of float32, "),
        (("int8", "int8", "tf32"), r"^arithmetic: tf32 is of floats, not of int8; leave it out"),
        (("float32", "float32", "tf16"), r"^arithmetic: got 'tf16'; give one of tf32, bfloat16, "),
    ],
)
def test_what_goes_together(kinds: Any, message: str) -> None:
    dtype, kernel, arithmetic = kinds
    with pytest.raises(DTypeError, match=message):
        Operands(np.dtype(dtype), np.dtype(kernel), arithmetic).check()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(9))
def test_no_planted_mistake_passes_a_probe(number: int) -> None:
    """Of those that are wrong in a layer, in a probe of the same geometry and dtype."""
    from tests import planted

    layer = list(planted.cases(["nhwc"]))[number]
    options = {key: layer.options[key] for key in ("stride", "padding", "dilation", "groups")}
    geometry = cm.ConvGeometry(layer.x.shape, layer.filters.shape[1:-1], **options)
    probe = Probe(geometry, len(layer.filters), layer.x.dtype)
    cases = [(planted.Case(case, *inputs, layer.options), y) for case, inputs, y in cases_of(probe)]
    passed = []
    for name, plant in planted.MISTAKES.items():
        if layer.wrong(plant) is None:
            continue
        with np.errstate(all="ignore"):
            if all((made := plant(case)) is None or _equal(made, y) for case, y in cases):
                passed.append(name)
    assert passed == []


def _equal(result: Array, y: Array) -> bool:
    """Whether a kernel's result is Y, in the dtype of Y."""
    return result.size == y.size and np.array_equal(result.astype(y.dtype).reshape(y.shape), y)
