"""Diagnosis: planted mistakes are named, in any geometry; right and spoilt results never are.

What a mistake gives is computed here by the plain reference from changed inputs, not by the table under test.
"""

from __future__ import annotations

import ast
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convmat as cm
from convmat import reference
from convmat.cli import run
from convmat.layouts import from_batch
from convmat.verification import computed, diagnosis
from convmat.verification.diagnosis import Diagnosis, Findings, diagnose, diagnose_all
from convmat.verification.mistakes import Mistake, known_mistakes
from convmat.verification.probes import CASES
from tests.tools import mostly_slow

Options = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    x: np.ndarray
    filters: np.ndarray
    bias: np.ndarray | None
    options: Options = field(default_factory=dict)

    def result(self, **changed: Any) -> np.ndarray:
        """By the definition, with other inputs or options."""
        arguments = {"bias": self.bias} | self.options | changed
        x, filters = arguments.pop("x", self.x), arguments.pop("filters", self.filters)
        y = reference.convolve_by_taps(x, filters, **arguments)
        return y.astype(np.float32) if self.x.dtype.kind == "f" else y

    def diagnose(self, wrong: np.ndarray, **options: Any) -> Findings:
        return diagnose(self.x, self.filters, wrong, bias=self.bias, **self.options, **options)


def random_layers(count: int = 20) -> Iterator[Layer]:
    """Layers of two axes, no two sizes alike; every second one of integers."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        groups = (1, 1, 1, 2)[seed % 4]
        shape = (2, int(rng.integers(8, 10)), int(rng.integers(10, 13)), 4)
        kernel = [(3, 3), (2, 3), (3, 2), (3, 3)][seed // 4 % 4]
        x, filters = rng.standard_normal(shape), rng.standard_normal((6, *kernel, 4 // groups))
        bias: np.ndarray = rng.standard_normal(6)
        if seed % 2:
            x, filters, bias = (np.rint(a * 40).astype(np.int16) for a in (x, filters, bias))
        else:
            x, filters, bias = (a.astype(np.float32) for a in (x, filters, bias))
        padding: Any = ["valid", "same", ((1, 2), (0, 1)), "half", 1][seed % 5]
        options = {
            "stride": [(1, 1), (2, 1), (2, 2), (1, 3)][seed % 4],
            "padding": padding,
            "dilation": [(1, 1), (1, 2), (1, 1)][seed % 3],
            "groups": groups,
        }
        yield Layer(x, filters, bias, options)


def pads(layer: Layer) -> list[list[int]]:
    """As numbers, worked out by sliding, since names mean another padding for another kernel."""
    padding = layer.options["padding"]
    if isinstance(padding, tuple):
        return [list(pair) for pair in padding]
    if isinstance(padding, int):
        return [[padding, padding] for _ in range(2)]
    found = []
    for size, k, s, d in zip(
        layer.x.shape[1:-1],
        layer.filters.shape[1:-1],
        layer.options["stride"],
        layer.options["dilation"],
        strict=True,
    ):
        reach = d * (k - 1)
        total = max((-(-size // s) - 1) * s + reach + 1 - size, 0)
        before = {"valid": 0, "same": total // 2, "half": (reach + 1) // 2}[padding]
        found.append([before, {"valid": 0, "same": total - before, "half": before}[padding]])
    return found


def shifted(layer: Layer, axis: int) -> np.ndarray:
    """Every window one line later: the first line of the padded image is gone."""
    around = pads(layer)
    around[axis][1] += 1
    x = np.pad(layer.x, [(0, 0), *map(tuple, around), (0, 0)])
    return layer.result(x=np.delete(x, 0, axis + 1), padding="valid")


def ungrouped(layer: Layer) -> np.ndarray:
    """Every filter reads the first channels."""
    depth = layer.filters.shape[-1]
    return layer.result(x=layer.x[..., :depth], groups=1)


def wrapped(y: np.ndarray, dtype: str) -> np.ndarray:
    return y.astype(dtype).astype(np.int64)


def clipped(y: np.ndarray, dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.clip(y, info.min, info.max)


def half_sums(layer: Layer) -> np.ndarray:
    """Added up in float16, tap after tap, the bias last."""
    x, filters = layer.x.astype(np.float16), layer.filters.astype(np.float16)
    columns = reference.unroll(
        x, filters.shape[1:-1], **{k: v for k, v in layer.options.items() if k != "groups"}
    )
    rows = np.zeros((len(columns), len(filters)), np.float16)
    weights = reference.flatten_filters(filters)
    for column, weight in zip(columns.T, weights, strict=True):
        rows = (rows + (column[:, None] * weight).astype(np.float16)).astype(np.float16)
    assert layer.bias is not None
    return (rows + layer.bias.astype(np.float16)).reshape(layer.result().shape)


def is_int(layer: Layer) -> bool:
    return layer.x.dtype.kind == "i"


# Key, and what the mistake gives; None where it cannot be made.
PLANTED: list[tuple[str, Callable[[Layer], np.ndarray | None]]] = [
    ("flipped-both", lambda p: p.result(filters=p.filters[:, ::-1, ::-1])),
    ("flipped-left-right", lambda p: p.result(filters=p.filters[:, :, ::-1])),
    ("flipped-up-down", lambda p: p.result(filters=p.filters[:, ::-1])),
    ("kernel-transposed", lambda p: p.result(filters=p.filters.swapaxes(1, 2))),
    ("image-transposed", lambda p: p.result(x=p.x.swapaxes(1, 2))),
    ("bias-missing", lambda p: p.result(bias=None)),
    ("bias-doubled", lambda p: p.result(bias=2 * p.bias.astype(np.result_type(p.bias, np.int32)))),  # type: ignore[union-attr]
    ("padding-valid", lambda p: p.result(padding="valid")),
    ("padding-same", lambda p: p.result(padding="same")),
    ("padding-same-lower", lambda p: p.result(padding="same-lower")),
    ("padding-half", lambda p: p.result(padding="half")),
    ("padding-full", lambda p: p.result(padding="full")),
    ("padding-mode-replicate", lambda p: p.result(padding_mode="replicate")),
    ("padding-mode-reflect", lambda p: p.result(padding_mode="reflect")),
    ("padding-mode-circular", lambda p: p.result(padding_mode="circular")),
    ("shifted-one-row-later", lambda p: shifted(p, 0)),
    ("shifted-one-column-later", lambda p: shifted(p, 1)),
    (
        "stride-dilation-swapped",
        lambda p: p.result(stride=p.options["dilation"], dilation=p.options["stride"]),
    ),
    ("stride-ignored", lambda p: p.result(stride=1)),
    ("stride-axes-swapped", lambda p: p.result(stride=p.options["stride"][::-1])),
    ("stride-only-height", lambda p: p.result(stride=(p.options["stride"][0], 1))),
    ("stride-only-width", lambda p: p.result(stride=(1, p.options["stride"][1]))),
    ("dilation-ignored", lambda p: p.result(dilation=1)),
    ("dilation-axes-swapped", lambda p: p.result(dilation=p.options["dilation"][::-1])),
    ("channels-reversed", lambda p: p.result(x=p.x[..., ::-1])),
    ("image-read-as-chw", lambda p: p.result(x=np.moveaxis(p.x.reshape(2, 4, *p.x.shape[1:3]), 1, -1))),
    (
        "kernel-oihw-read-as-ohwi",
        lambda p: p.result(filters=np.moveaxis(p.filters, -1, 1).reshape(p.filters.shape)),
    ),
    (
        "kernel-hwio-read-as-ohwi",
        lambda p: p.result(filters=np.moveaxis(p.filters, 0, -1).reshape(p.filters.shape)),
    ),
    ("groups-ignored", lambda p: ungrouped(p) if p.options["groups"] > 1 else None),
    ("relu", lambda p: np.maximum(p.result(), 0)),
    ("wrap-int8", lambda p: wrapped(p.result(), "i1") if is_int(p) else None),
    ("wrap-uint8", lambda p: wrapped(p.result(), "u1") if is_int(p) else None),
    ("wrap-int16", lambda p: wrapped(p.result(), "i2") if is_int(p) else None),
    ("saturated-int8", lambda p: clipped(p.result(), "i1") if is_int(p) else None),
    ("saturated-uint8", lambda p: clipped(p.result(), "u1") if is_int(p) else None),
    ("saturated-int16", lambda p: clipped(p.result(), "i2") if is_int(p) else None),
    ("image-read-as-uint16", lambda p: p.result(x=p.x.view(np.uint16)) if is_int(p) else None),
    ("float16-result", lambda p: None if is_int(p) else p.result().astype("f2").astype("f4")),
    ("float16-accumulation", lambda p: None if is_int(p) or p.options["groups"] > 1 else half_sums(p)),
    ("output-transposed", lambda p: p.result().swapaxes(1, 2)),
    ("output-nchw", lambda p: np.moveaxis(p.result(), -1, 1)),
    ("last-row-missing", lambda p: p.result()[:, :-1]),
    ("first-column-missing", lambda p: p.result()[:, :, 1:]),
    ("extra-row", lambda p: np.pad(p.result(), [(0, 0), (0, 1), (0, 0), (0, 0)])),
    ("filters-reversed", lambda p: p.result()[..., ::-1]),
    ("batch-reversed", lambda p: p.result()[::-1]),
    ("batch-first-repeated", lambda p: np.stack([p.result()[0]] * 2)),
]


@pytest.mark.parametrize("key, plant", mostly_slow(PLANTED), ids=[key for key, _ in PLANTED])
def test_a_planted_mistake_is_named(key: str, plant: Callable[[Layer], np.ndarray | None]) -> None:
    """In each of 20 geometries where it can be made and changes the result."""
    tried = 0
    for number, layer in enumerate(random_layers()):
        try:
            wrong = plant(layer)
        except ValueError:  # a kernel larger than what is left of the image
            continue
        right = layer.result()
        if wrong is None or wrong.size == 0 or (wrong.shape == right.shape and np.array_equal(wrong, right)):
            continue
        tried += 1
        assert (key,) in [found.mistakes for found in layer.diagnose(wrong)], f"geometry {number}"
    assert tried >= 2


def left_right(p: Layer) -> np.ndarray:
    return p.filters[:, :, ::-1]


def up_down(p: Layer) -> np.ndarray:
    return p.filters[:, ::-1]


def both(p: Layer) -> np.ndarray:
    return p.filters[:, ::-1, ::-1]


def reversed_channels(p: Layer) -> np.ndarray:
    return p.x[..., ::-1]


PAIRS: dict[tuple[str, str], Callable[[Layer], np.ndarray]] = {
    ("flipped-left-right", "bias-missing"): lambda p: p.result(filters=left_right(p), bias=None),
    ("flipped-left-right", "batch-reversed"): lambda p: p.result(filters=left_right(p))[::-1],
    ("flipped-both", "channels-reversed"): lambda p: p.result(x=reversed_channels(p), filters=both(p)),
    ("flipped-both", "output-nchw"): lambda p: np.moveaxis(p.result(filters=both(p)), -1, 1),
    ("flipped-up-down", "padding-mode-replicate"): lambda p: p.result(
        filters=up_down(p), padding_mode="replicate"
    ),
    ("image-transposed", "flipped-up-down"): lambda p: p.result(x=p.x.swapaxes(1, 2), filters=up_down(p)),
    ("channels-reversed", "relu"): lambda p: np.maximum(p.result(x=reversed_channels(p)), 0),
    ("bias-doubled", "channels-reversed"): lambda p: p.result(x=reversed_channels(p), bias=p.bias * 2),
    ("bias-missing", "relu"): lambda p: np.maximum(p.result(bias=None), 0),
    ("bias-missing", "stride-ignored"): lambda p: p.result(bias=None, stride=1),
    ("bias-missing", "padding-valid"): lambda p: p.result(bias=None, padding="valid"),
    ("bias-missing", "filters-reversed"): lambda p: p.result(bias=None)[..., ::-1],
}


@pytest.mark.parametrize("keys, plant", mostly_slow(PAIRS.items()), ids=map("+".join, PAIRS))
def test_a_planted_pair_is_named(keys: tuple[str, str], plant: Callable[[Layer], np.ndarray]) -> None:
    layer = list(random_layers(12))[6]
    found = layer.diagnose(plant(layer))
    assert set(keys) in [set(one.mistakes) for one in found]
    assert all(len(one.mistakes) == 2 for one in found)


def spoilt(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A result that no known mistake explains."""
    y = layer.result().astype(np.float64)
    way = int(rng.integers(5))
    at = tuple(int(rng.integers(size)) for size in y.shape)
    if way == 0:
        y[at] += 3
    elif way == 1:
        y += rng.integers(1, 9, y.shape)
    elif way == 2:
        y *= 3
    elif way == 3:
        y = rng.permutation(y.ravel()).reshape(y.shape)
    else:
        y[at] = y[at] * 0.5 + 7
    return y.astype(np.float32) if layer.x.dtype.kind == "f" else np.rint(y).astype(np.int64)


@pytest.mark.parametrize("part", mostly_slow([slice(0, 9, 3), slice(1, 9, 3), slice(2, 9, 3)]), ids=str)
def test_no_result_is_named_wrongly(part: slice) -> None:
    """Two spoilt at random, and the right one of each geometry."""
    rng = np.random.default_rng(2017)
    for layer in list(random_layers(9))[part]:
        assert list(layer.diagnose(layer.result())) == []
        for _ in range(2):
            assert list(layer.diagnose(spoilt(layer, rng), budget=1 << 22)) == []


def test_a_mistake_that_changes_nothing_is_not_named() -> None:
    """Filters alike when flipped, padding of zeros by another name; one wrong element beside."""
    x = np.random.default_rng(1).standard_normal((1, 6, 7, 2)).astype(np.float32)
    layer = Layer(x, np.ones((2, 3, 3, 2), np.float32), None, {"padding": "same"})
    wrong = layer.result()
    wrong[0, 2, 3, 1] += 1
    assert not layer.diagnose(wrong)


@pytest.mark.parametrize("shape, kernel", [((2, 9, 3), (3,)), ((1, 4, 5, 6, 2), (2, 2, 3))])
def test_one_and_three_axes(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x, filters = rng.integers(-9, 9, shape), rng.integers(-9, 9, (4, *kernel, shape[-1]))
    layer = Layer(x, filters, None, {"padding": 1})
    for wrong, key in (
        (layer.result(filters=np.flip(filters, -2)), "flipped-left-right"),
        (layer.result(padding=0), "padding-valid"),
        (layer.result(x=x[..., ::-1]), "channels-reversed"),
    ):
        assert (key,) in [found.mistakes for found in layer.diagnose(wrong)]


@pytest.mark.parametrize(
    "a, b, over", [(1, 2, "depth and height"), (1, 3, "depth and width"), (2, 3, "height and width")]
)
@pytest.mark.parametrize("keeps_shape", [False, True])
def test_three_axes_are_transposed_over_any_two(a: int, b: int, over: str, keeps_shape: bool) -> None:
    """The result, the image and the kernel; and the strides of two axes swapped."""
    rng = np.random.default_rng(a + b)
    x, filters = rng.integers(-9, 9, (2, 6, 7, 8, 2)), rng.integers(-9, 9, (3, 2, 3, 4, 2))
    layer = Layer(x, filters, None, {"padding": 0, "stride": (1, 2, 3)})
    y = layer.result()
    wrong = y.swapaxes(a, b)
    [found] = layer.diagnose(wrong.reshape(y.shape) if keeps_shape else wrong)
    assert (found.mistakes, str(found).split("one ")[1]) == (
        ("output-transposed",),
        f"transposed over {over}",
    )
    stride = [1, 2, 3]
    stride[a - 1], stride[b - 1] = stride[b - 1], stride[a - 1]
    for wrong, key in (
        (layer.result(x=x.swapaxes(a, b)), "image-transposed"),
        (layer.result(filters=filters.swapaxes(a, b)), "kernel-transposed"),
        (layer.result(stride=tuple(stride)), "stride-axes-swapped"),
    ):
        assert [one.mistakes for one in layer.diagnose(wrong)] == [(key,)]


def test_sentences() -> None:
    layer = next(random_layers(1))
    [found] = layer.diagnose(layer.result(filters=layer.filters[:, :, ::-1]))
    assert str(found) == "your output equals the correct one with the filter flipped left-right"


# Every element.

VALUES = [m for m in known_mistakes(2) if m.part == "value"]


def value_layers() -> Iterator[computed.Computation]:
    """Of integers of two sizes, and of floats."""
    rng = np.random.default_rng(15)
    for scale, dtype in ((40, "i2"), (40000, "i4"), (1, "f4")):
        x, filters, bias = (
            (rng.standard_normal(shape) * scale).astype(dtype) for shape in ((1, 8, 9, 3), (6, 3, 3, 3), (6,))
        )
        yield computed.Computation(x, filters, (1, 1), "same", (1, 1), 1, bias, "zeros")


def plain_result(layer: computed.Computation) -> np.ndarray:
    """What was computed, by the plain reference; sums in float16 by the search's own."""
    arguments = layer.arguments
    if layer.half_sums is None:
        y = reference.convolve_by_taps(arguments.pop("x"), arguments.pop("filters"), **arguments)
    else:
        every = np.unravel_index(np.arange(np.prod(layer.convolved_shape)), layer.convolved_shape)
        y = layer.sums(every, np.dtype(np.float64))[0].reshape(layer.convolved_shape)
    y = layer.change(y.astype(np.float32) if layer.x.dtype.kind == "f" else y)
    shape = layer.shapes[-1]
    at, inside = layer.origins(np.arange(np.prod(shape)))
    return np.where(inside, y[at], y.dtype.type(0)).reshape(shape)


def diagnosed(right: computed.Computation, wrong: np.ndarray, **options: Any) -> Findings:
    named = ("x", "filters", "stride", "padding", "dilation", "groups", "bias", "padding_mode")
    return diagnose(expected=wrong, **{name: getattr(right, name) for name in named}, **options)


@pytest.mark.parametrize("mistake", VALUES, ids=[m.key for m in VALUES])
def test_a_name_tells_its_exceptions(mistake: Mistake) -> None:
    """The right values in the last few elements that a value mistake changes: no name without them."""
    tried = 0
    for right in value_layers():
        y = plain_result(right)
        for layer in itertools.islice(mistake.made(right), 1):
            wrong = plain_result(layer)
            places = [tuple(at) for at in np.argwhere(wrong != y)[-4:].tolist()]
            if len(places) < 4 or not all(change.suits(y) for change in layer.changes):
                continue
            tried += 1
            assert (mistake.key,) in [d.mistakes for d in diagnosed(right, wrong) if not d.exceptions]
            for at in places:
                wrong[at] = y[at]
            assert wrong.size // 100 == 4  # as many as may be left
            [found] = diagnosed(right, wrong, budget=0)
            assert (found.mistakes, found.exceptions) == ((mistake.key,), tuple(places))
            assert str(found).endswith(f", except 4 elements: {', '.join(map(str, places))}")
            wrong.flat[0] += 3 if wrong.flat[0] < 9 else -3  # one more is too many
            assert list(diagnosed(right, wrong, budget=0)) == []
    assert tried >= 1


def test_a_value_too_large_is_no_saturation() -> None:
    """ReLU with one value above 255, and ReLU everywhere but at the end."""
    rng = np.random.default_rng(4)
    x, filters = rng.integers(-9, 9, (1, 20, 20, 3)), rng.integers(-3, 4, (2, 3, 3, 3))
    layer = Layer(x, filters, None)
    wrong = np.maximum(layer.result(), 0)
    top = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
    wrong[wrong > 255] = 255
    wrong[top] = 300
    assert "saturated-uint8" not in [
        key for d in layer.diagnose(wrong) if not d.exceptions for key in d.mistakes
    ]
    wrong = np.maximum(layer.result(), 0)
    wrong[:, -3:] = layer.result()[:, -3:]
    assert list(layer.diagnose(wrong)) == []


def test_one_exception_is_an_element() -> None:
    layer = next(random_layers(1))
    wrong = layer.result(filters=layer.filters[:, :, ::-1])
    wrong[1, 2, 3, 4] = 99
    [found] = layer.diagnose(wrong)
    assert str(found).endswith("flipped left-right, except 1 element: (1, 2, 3, 4)")
    wrong[0, 2, 3, 4] = np.nan
    [found] = layer.diagnose(wrong)
    assert found.exceptions == ((0, 2, 3, 4), (1, 2, 3, 4))
    pair = layer.result(filters=layer.filters[:, :, ::-1], bias=None)
    pair[1, 2, 3, 4] = 99
    assert [(d.mistakes, d.exceptions) for d in layer.diagnose(pair)] == [
        (("flipped-left-right", "bias-missing"), ((1, 2, 3, 4),))
    ]


def test_a_mistake_explains_more_than_it_leaves() -> None:
    """One element of 16 is right by chance of the mistake's value: that names nothing."""
    layer = Layer(np.arange(-60, 60).reshape(1, 120, 1), np.ones((1, 1, 1), int), None)
    wrong = layer.result()
    wrong[0, 59] = 0
    assert list(layer.diagnose(wrong)) == []


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_a_name_says_is_so(data: st.DataObject) -> None:
    """A mistake's result, spoilt in elements, rows and channels: what is named gives it again."""
    right = data.draw(st.sampled_from(list(value_layers())))
    mistake = data.draw(st.sampled_from(known_mistakes(2)))
    wrong = plain_result(next((p for p in mistake.made(right) if min(p.shapes[-1]) > 0), right)).copy()
    for _ in range(data.draw(st.integers(0, 3))):
        axes = data.draw(st.sampled_from([(), (1,), (2,), (1, 2), (3,)]))
        at = tuple(
            slice(None) if axis in axes else data.draw(st.integers(0, size - 1))
            for axis, size in enumerate(wrong.shape)
        )
        wrong[at] = data.draw(st.sampled_from([0, 1, 255, 300, -1, -129]))
    for found in diagnosed(right, wrong, budget=1 << 20):
        given_by = [p for m in known_mistakes(2) if m.phrase == found.phrases[0] for p in m.made(right)]
        for phrase in found.phrases[1:]:
            given_by = [
                p for q in given_by for m in known_mistakes(2) if m.phrase == phrase for p in m.made(q)
            ]
        spoken_of = np.ones(wrong.shape, bool)
        for at in found.exceptions:
            spoken_of[at] = False
        assert any(gives(plain_result(p), wrong, spoken_of) for p in given_by), found


def gives(y: np.ndarray, wrong: np.ndarray, spoken_of: np.ndarray) -> bool:
    """Whether a result is the wrong one where the name speaks of it, and is not in its exceptions."""
    if y.size != wrong.size:
        return False
    y = y.reshape(wrong.shape)
    same = y == wrong if y.dtype.kind == "i" else np.isclose(y, wrong, rtol=1e-3, atol=1e-4)
    return bool(same[spoken_of].all() and not same[~spoken_of].any())


# The search.


def test_no_clock_is_looked_at() -> None:
    """The same is found again; where the budget ends the search, it says how far it came."""
    for module in (diagnosis, computed):
        names = {
            node.names[0].name
            for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
            if isinstance(node, ast.Import)
        }
        assert "time" not in names
    layer = next(random_layers(1))
    wrong = layer.result() ** 3
    whole = layer.diagnose(wrong)
    assert whole == layer.diagnose(wrong)
    assert (whole.tried, list(whole)) == (whole.known, [])
    early = layer.diagnose(wrong, budget=1 << 20)
    assert (early.known, list(early)) == (whole.known, [])
    singles = layer.diagnose(layer.result(bias=None)).tried
    assert singles < early.tried < early.known
    assert layer.diagnose(wrong, budget=0).tried == singles
    assert (layer.diagnose(layer.result()).tried, layer.diagnose(layer.result()).known) == (0, 0)


@pytest.mark.slow
def test_every_mistake_is_tried_on_a_large_layer() -> None:
    rng = np.random.default_rng(6)
    x, filters = (rng.standard_normal(s).astype("f4") for s in ((4, 224, 224, 3), (4, 7, 7, 3)))
    layer = Layer(x, filters, None, {"padding": "same", "stride": 4})
    wrong = cm.convolve(x, filters[:, ::-1], padding="same", stride=4)
    assert [d.mistakes for d in layer.diagnose(wrong)] == [("flipped-up-down",)]
    wrong[rng.random(wrong.shape) < 0.01] += 1
    found = layer.diagnose(wrong)
    assert (list(found), found.tried) == ([], found.known)


def test_findings_are_a_sequence() -> None:
    one, two = Diagnosis(("relu",)), Diagnosis(("wrap-int8",), exceptions=((0, 1),))
    found = Findings((one, two), 3, 7)
    assert (len(found), found[1], found[:1], list(found)) == (2, two, (one,), [one, two])
    assert not Findings()
    assert found.with_places(lambda at: at[::-1])[1].exceptions == ((1, 0),)


def test_several_results_at_once() -> None:
    """Named is what explains each; a case that one half of a pair leaves as it is does not hide the pair."""
    first, second = itertools.islice(random_layers(), 2)
    cases = [
        {"x": p.x, "filters": p.filters, "bias": bias, **p.options}
        | {"expected": p.result(filters=left_right(p), bias=None), "flip": False, "padding_mode": "zeros"}
        for p, bias in ((first, first.bias), (second, np.zeros_like(second.bias)))
    ]
    assert [d.mistakes for d in diagnose_all(cases)] == [("flipped-left-right", "bias-missing")]
    cases[0]["expected"][0, 1, 2, 3] = 50
    assert [d.exceptions for d in diagnose_all(cases)] == [((0, 0, 1, 2, 3),)]


@pytest.mark.slow
def test_none_is_nothing_said() -> None:
    """How a result is judged need not be said; quantized results have pairs, too."""
    layer = list(random_layers(12))[7]
    pair = layer.result(filters=left_right(layer), bias=None)
    plain = [d.mistakes for d in layer.diagnose(pair)]
    nothing = {"exact": False, "atol": None, "rtol": None, "quantization": None}
    assert (
        plain
        == [d.mistakes for d in layer.diagnose(pair, judged=nothing)]
        == [("flipped-left-right", "bias-missing")]
    )
    rule = cm.Quantization(scale=0.003, output_zero_point=5, rounding="half-up", dtype="int8")
    assert plain == [d.mistakes for d in layer.diagnose(rule.apply(pair), judged={"quantization": rule})]
    relu = rule.apply(np.maximum(layer.result(), 0))
    alone = layer.diagnose(relu, judged=nothing | {"quantization": rule})
    assert [d.mistakes for d in alone] == [("relu",)]
    relu[0, 0, 0, 0] ^= 1
    [found] = layer.diagnose(relu, judged={"quantization": rule})
    assert found.exceptions == ((0, 0, 0, 0),)


# The command.

SHAPES = {1: ((2, 12, 4), (5, 3, 4)), 2: ((2, 7, 8, 4), (5, 3, 2, 4)), 3: ((2, 4, 5, 6, 4), (5, 3, 2, 2, 4))}


@pytest.mark.slow
@pytest.mark.parametrize("axes", mostly_slow([1, 2, 3]))
def test_the_command_says_the_same(
    axes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every known mistake in either layout; and of a pair, whatever is said of how to judge."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(axes)
    x, filters, bias = (np.rint(rng.standard_normal(s) * 30).astype("i2") for s in (*SHAPES[axes], 5))
    stride = tuple([1, 2, 1][:axes])
    right = computed.Computation(x, filters, stride, "same", (1,) * axes, 1, bias, "zeros")
    y = plain_result(right)
    for name, array in (("nhwc", x), ("nchw", from_batch(x, "nchw")), ("k", filters), ("b", bias)):
        np.save(f"{name}.npy", array)

    def told(wrong: np.ndarray, layout: str, *more: str) -> list[dict[str, Any]]:
        np.save("wrong.npy", from_batch(wrong, layout))
        command = ["verify", f"{layout}.npy", "--kernel", "k.npy", "--bias", "b.npy", "-p", "same"]
        command += ["--stride", ",".join(map(str, stride)), "--dims", str(axes), "--layout", layout]
        assert run([*command, "--expected", "wrong.npy", "--json", *more]) == 1
        return list(json.loads(capsys.readouterr().out)["diagnosis"])

    tried = 0
    for mistake in known_mistakes(axes):
        layer = next((p for p in mistake.made(right) if min(p.convolved_shape) > 0), right)
        wrong = plain_result(layer)
        if wrong.shape == y.shape and np.array_equal(wrong, y):
            continue
        if mistake.key.startswith("wrap-"):
            wrong = wrong.astype(mistake.key.removeprefix("wrap-"))
        tried += 1
        wanted = [list(d.mistakes) for d in diagnosed(right, wrong)]
        assert [mistake.key] in wanted or mistake.key == "saturated-uint16"  # that is ReLU here
        for layout in ("nhwc", "nchw"):
            if axes == 1 and layout == "nchw" and mistake.key == "output-nchw":
                continue  # (N, W_out, K) are also the rows of X_col · W_col for each image, and so right
            if axes == 2 or layout == "nchw" or mistake.part in ("value", "result"):
                assert [one["mistakes"] for one in told(wrong, layout)] == wanted, (mistake.key, layout)
    assert tried > 25
    turned = np.flip(filters, axes)
    wrong = plain_result(computed.Computation(x, turned, stride, "same", (1,) * axes, 1, None, "zeros"))
    for more, judged in (((), {}), (("--exact",), {"exact": True}), (("--atol", "0.5"), {"atol": 0.5})):
        wanted = [list(d.mistakes) for d in diagnosed(right, wrong, judged=judged)]
        assert ["flipped-left-right", "bias-missing"] in wanted
        assert [one["mistakes"] for one in told(wrong, "nchw", *more)] == wanted


@pytest.mark.parametrize("axes", mostly_slow([2, 1, 3]))
def test_exceptions_are_told_as_the_file_has_them(
    axes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In either layout, and in the rows of X_col · W_col."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(axes)
    x, filters = (rng.integers(-9, 9, s) for s in SHAPES[axes])
    wrong = reference.convolve_by_taps(x, np.flip(filters, axes))
    at = (1, *range(1, axes + 1), 3)
    wrong[at] = 9999
    row = int(np.ravel_multi_index(at[:-1], wrong.shape[:-1]))
    np.save("k.npy", filters)
    for layout, array, place in (
        ("nhwc", wrong, at),
        ("nchw", from_batch(wrong, "nchw"), (1, 3, *at[1:-1])),
        ("nhwc", wrong.reshape(-1, wrong.shape[-1]), (row, 3)),
    ):
        np.save("x.npy", from_batch(x, layout))
        np.save("wrong.npy", array)
        command = ["verify", "x.npy", "--kernel", "k.npy", "--dims", str(axes), "--layout", layout]
        assert run([*command, "--expected", "wrong.npy", "--json"]) == 1
        [found] = json.loads(capsys.readouterr().out)["diagnosis"]
        assert (found["mistakes"], found["exceptions"]) == (["flipped-left-right"], [list(place)])
        assert found["sentence"].endswith(f", except 1 element: ({', '.join(map(str, place))})")
        assert array[place] == 9999


@pytest.mark.parametrize("layout, other", [("nhwc", "nchw"), ("nchw", "nhwc")])
def test_a_file_in_the_other_layout(
    layout: str,
    other: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Read in the layout that was said; with its right shape, or with that of the layout that was said."""
    monkeypatch.chdir(tmp_path)
    layer = list(random_layers(2))[1]
    for name, array in (("x", from_batch(layer.x, layout)), ("k", layer.filters)):
        np.save(f"{name}.npy", array)
    y = reference.convolve_by_taps(layer.x, layer.filters)
    for shape in (None, from_batch(y, layout).shape):
        wrong = from_batch(y, other)
        np.save("wrong.npy", wrong if shape is None else wrong.reshape(shape))
        command = ["verify", "x.npy", "--kernel", "k.npy", "--layout", layout, "--expected", "wrong.npy"]
        assert run([*command, "--json"]) == 1
        found = json.loads(capsys.readouterr().out)["diagnosis"]
        assert [one["mistakes"] for one in found] == [["output-nchw"]]


def test_the_command_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diagnosis, "_BUDGET", 0)
    monkeypatch.setitem(diagnosis.diagnose.__kwdefaults__, "budget", 0)
    layer = next(random_layers(1))
    for name, array in (("x", layer.x), ("k", layer.filters), ("wrong", layer.result(bias=None) ** 3)):
        np.save(f"{name}.npy", array)
    command = ["verify", "x.npy", "--kernel", "k.npy", "--expected", "wrong.npy"]
    assert run([*command, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["diagnosis_tried"] < told["diagnosis_known"]
    assert run(command) == 1
    text = f"tried {told['diagnosis_tried']} of {told['diagnosis_known']} known mistakes, alone and in pairs"
    out = capsys.readouterr().out
    assert "no known mistake explains it" in out
    assert text in out


@pytest.mark.slow
@pytest.mark.parametrize("layout", mostly_slow(["nchw", "nhwc"]))
def test_a_probe_names_pairs_and_exceptions(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bias is missing in the one case that has any: still both mistakes are named."""
    monkeypatch.chdir(tmp_path)
    assert run(["probe", "write", "p", "--k", "3", "--layout", layout, "-q"]) == 0
    Path("mine").mkdir()
    for case in CASES:
        x, kernel = np.load(f"p/{case}/x.npy"), np.load(f"p/{case}/kernel.npy")
        y = cm.convolve(np.moveaxis(x, 1, -1) if layout == "nchw" else x, kernel[:, :, ::-1])
        np.save(f"mine/{case}.npy", from_batch(y, layout))
    assert run(["probe", "judge", "p", "mine", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["diagnosis"]
    assert [one["mistakes"] for one in found] == [["flipped-left-right", "bias-missing"]]
    shutil.copy("mine/bias.npy", "bias.npy")
    array = np.load("mine/bias.npy")
    array[0, 1, 2, 3] += 1
    np.save("mine/bias.npy", array)
    for expected, place in (("mine", ["bias", 0, 1, 2, 3]), ("mine/bias.npy", [0, 1, 2, 3])):
        command = ["probe", "judge", "p", expected, "--json"]
        assert run([*command, "--case", "bias"] if len(place) == 4 else command) == 1
        found = json.loads(capsys.readouterr().out)["diagnosis"]
        assert [one["exceptions"] for one in found] == [[place]]


def test_a_diagnosis_in_a_few_words() -> None:
    assert Diagnosis(("kernel-transposed",), ("with kh and kw swapped",)).brief == "kh and kw swapped"
    two = Diagnosis(("a", "b"), ("without the bias", "with the stride ignored"), ((0, 1), (2, 3)))
    assert two.brief == "without the bias and the stride ignored, except 2"
