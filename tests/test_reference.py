"""The definition, on numbers worked out by hand, against NumPy, and its two forms against each other."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat import reference
from tests.strategies import DTYPES, Layer, layers, probes

LINE = [1, 2, 3, 4]
DIFFERENCE = [1, 0, -1]


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, [1 - 3, 2 - 4]),
        ({"flip": True}, [3 - 1, 4 - 2]),
        ({"stride": 2}, [1 - 3]),
        ({"bias": [10]}, [10 + 1 - 3, 10 + 2 - 4]),
        ({"padding": "same"}, [0 - 2, 1 - 3, 2 - 4, 3 - 0]),
        ({"padding": "half"}, [0 - 2, 1 - 3, 2 - 4, 3 - 0]),
        ({"padding": "full"}, [0 - 1, 0 - 2, 1 - 3, 2 - 4, 3 - 0, 4 - 0]),
        ({"padding": "same", "stride": 2}, [1 - 3, 3 - 0]),
        ({"padding": "same-lower", "stride": 2}, [0 - 2, 2 - 4]),
        ({"padding": ((0, 2),)}, [1 - 3, 2 - 4, 3 - 0, 4 - 0]),
        ({"padding": ((1, 0),), "stride": 3}, [0 - 2]),
        ({"padding": 1, "dilation": 2}, [0 - 4, 1 - 0]),
        ({"padding": 2, "padding_mode": "reflect"}, [3 - 1, 2 - 2, 1 - 3, 2 - 4, 3 - 3, 4 - 2]),
        ({"padding": 2, "padding_mode": "replicate"}, [1 - 1, 1 - 2, 1 - 3, 2 - 4, 3 - 4, 4 - 4]),
        ({"padding": 2, "padding_mode": "circular"}, [3 - 1, 4 - 2, 1 - 3, 2 - 4, 3 - 1, 4 - 2]),
    ],
    ids=str,
)
@pytest.mark.parametrize("convolve", [reference.convolve, reference.convolve_by_taps])
def test_a_line_by_hand(convolve: Any, options: dict[str, Any], wanted: list[int]) -> None:
    if "bias" in options:
        options = options | {"bias": np.array(options["bias"])}
    y = convolve(np.reshape(LINE, (1, 4, 1)), np.reshape(DIFFERENCE, (1, 3, 1)), **options)
    np.testing.assert_array_equal(y, np.reshape(wanted, (1, -1, 1)))


@pytest.mark.parametrize("convolve", [reference.convolve, reference.convolve_by_taps])
def test_groups_by_hand(convolve: Any) -> None:
    """Pixels 10·x + c of four channels; filters 0 and 1 see channels 0 and 1, filters 2 and 3 the others."""
    x = (10 * np.arange(2)[:, None] + np.arange(4))[None]
    filters = np.array([[1, 0], [0, 1], [1, 0], [1, 1]])[:, None]
    wanted = [[[0, 1, 2, 2 + 3], [10, 11, 12, 12 + 13]]]
    np.testing.assert_array_equal(convolve(x, filters, groups=2), wanted)


def test_an_image_by_hand() -> None:
    """Pixels 10·y + x under a 2 × 2 filter."""
    x = (10 * np.arange(3)[:, None] + np.arange(3))[None, ..., None]
    filters = np.reshape([1, 2, 3, 4], (1, 2, 2, 1))
    wanted = [[0 + 2 + 30 + 44, 1 + 4 + 33 + 48], [10 + 22 + 60 + 84, 11 + 24 + 63 + 88]]
    np.testing.assert_array_equal(reference.convolve(x, filters)[0, ..., 0], wanted)
    np.testing.assert_array_equal(reference.unroll(x, (2, 2))[:2], [[0, 1, 10, 11], [1, 2, 11, 12]])
    np.testing.assert_array_equal(reference.flatten_filters(filters)[:, 0], [1, 2, 3, 4])


@given(st.integers(1, 8), st.integers(1, 8))
def test_flipped_and_full_is_numpy_s_convolution(size: int, k: int) -> None:
    make = probes("i8", np.random.default_rng(size * k))
    x, w = make((size,)), make((k,))
    y = reference.convolve(x[None, :, None], w[None, :, None], padding="full", flip=True)
    np.testing.assert_array_equal(y[0, :, 0], np.convolve(x, w))


@given(layers(), st.sampled_from(DTYPES), st.data())
def test_loops_and_taps_agree(layer: Layer, dtype: str, data: st.DataObject) -> None:
    x, filters, options = layer.arrays(probes(dtype, np.random.default_rng(2017)))
    y = reference.convolve(x, filters, **options)
    assert y.shape == layer.output_shape
    assert y.dtype == {"f": np.float64, "c": np.complex128}.get(np.dtype(dtype).kind, np.int64)
    by_taps = reference.convolve_by_taps(x, filters, **options)
    assert by_taps.dtype == y.dtype
    np.testing.assert_array_equal(by_taps, y)

    axes = data.draw(st.integers(0, y.ndim - 1))
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in y.shape[:axes]]
    band = tuple(slice(*pair) for pair in ends)
    part = reference.convolve_by_taps(x, filters, **options, band=band, pixels=np.real, weights=np.real)
    np.testing.assert_array_equal(part, reference.convolve(x.real, filters.real, **options)[band])


@given(layers())
def test_sizes_are_those_of_the_padded_line(layer: Layer) -> None:
    where = layer.where
    found = reference.output_size(
        layer.shape[1:-1], layer.kernel, where["stride"], where["padding"], where["dilation"]
    )
    assert found == layer.output_shape[1:-1]


@pytest.mark.parametrize("peak", [2**31 + 1, 2**53 + 1, 2**62])
def test_integers_of_any_size_are_exact(peak: int) -> None:
    x, filters = np.full((1, 1, 1), peak), np.ones((1, 1, 1), int)
    assert reference.convolve(x, filters).item() == peak
    assert reference.convolve_by_taps(x, filters).item() == peak


def test_a_sum_past_int64_is_no_number() -> None:
    x = np.full((1, 1, 1), 2**62)
    with pytest.raises(OverflowError, match="too large"):
        reference.convolve(x, np.full((1, 1, 1), 2))


def test_it_shares_nothing_with_what_it_judges() -> None:
    names = set()
    for node in ast.walk(ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names} | {getattr(node, "module", None)}
    assert not any(name and name.startswith("convmat") for name in names)
    assert itertools.__name__ in names
