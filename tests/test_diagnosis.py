"""Diagnosis: planted mistakes are named, in any geometry; right and spoilt results never are.

What a mistake gives is computed here by the plain reference from changed inputs, not by the table under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from convmat import reference
from convmat.verification.diagnosis import Diagnosis, diagnose

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

    def diagnose(self, wrong: np.ndarray, **options: Any) -> list[Diagnosis]:
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


@pytest.mark.parametrize("key, plant", PLANTED, ids=[key for key, _ in PLANTED])
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


@pytest.mark.parametrize("keys, plant", PAIRS.items(), ids=map("+".join, PAIRS))
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


def test_no_result_is_named_wrongly() -> None:
    """200 spoilt at random, and the right one of each geometry."""
    rng = np.random.default_rng(2017)
    for layer in random_layers(10):
        assert not layer.diagnose(layer.result())
        for _ in range(20):
            assert not layer.diagnose(spoilt(layer, rng))


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


def test_sentences() -> None:
    layer = next(random_layers(1))
    [found] = layer.diagnose(layer.result(filters=layer.filters[:, :, ::-1]))
    assert str(found) == "your output equals the correct one with the filter flipped left-right"
