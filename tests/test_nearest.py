"""`nearest` says of right results what a whole comparison says, and of others that it has to be asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.verification.layer import definition
from convmat.verification.nearest import nearest
from tests.test_network import weights

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 9, 8, 3), (4, 3, 2, 3), {}),
    "biased": ((1, 7, 9, 2), (5, 3, 3, 2), {"bias": weights(5), "padding": "same"}),
    "grouped": ((1, 9, 9, 6), (4, 3, 3, 3), {"groups": 2, "stride": (2, 1), "padding": ((1, 0), (2, 1))}),
    "depthwise": ((2, 9, 9, 4), (8, 3, 3, 1), {"groups": 4, "dilation": (2, 1), "padding": "same-lower"}),
    "1-D": ((2, 30, 3), (4, 5, 3), {"stride": 3}),
    "3-D": ((1, 5, 6, 4, 2), (3, 2, 3, 2, 2), {"padding": 1}),
    "of rows": ((1, 700, 64), (40, 1, 64), {"bias": weights(40)}),
}
every_case = pytest.mark.parametrize("case", CASES)


def layer(case: str, dtype: Any = np.float32) -> tuple[Any, Any, dict[str, Any]]:
    x, filters, options = CASES[case]
    arrays = (weights(*x, dtype=dtype), weights(*filters, seed=1, dtype=dtype))
    for array in arrays:
        array[np.abs(array) < 1e-3] = 1e-3  # of float16, too, none is subnormal
    return *arrays, options


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_nearest_is_that_of_verify(case: str, dtype: Any) -> None:
    """Of several results at once, one of which is right to the last but one element's bound."""
    x, filters, options = layer(case, dtype)
    y, far = (cm.convolve(x.astype(kind), filters, **options) for kind in (dtype, np.float64))
    at = np.unravel_index(far.size // 3, far.shape)
    far[at] += 0.9 * _bound_at(x, filters, far, at, options)
    results = [y, far]
    found = nearest(definition(x, filters, **options), results, x, filters, **options)
    assert found is not None
    wanted = [cm.verify(x, filters, result, **options).error_over_bound for result in results]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert 0.8 < found[1] < 1


def _bound_at(x: Any, filters: Any, result: Any, at: Any, options: Any) -> float:
    """The bound of an element: what `verify` says of it once it is far off."""
    wrong = result.copy()
    wrong[at] += 1e3
    return float(cm.verify(x, filters, wrong, **options).bound)


@pytest.mark.parametrize("times", [1 - 1e-6, 1 + 1e-6])
def test_what_is_outside_is_left_to_verify(times: float) -> None:
    """Also what is so near to its bound that float32's magnitudes cannot tell."""
    x, filters, options = layer("plain")
    y = cm.convolve(x.astype(np.float64), filters.astype(np.float64))
    y[1, 2, 3, 1] += times * _bound_at(x, filters, y, (1, 2, 3, 1), options)
    assert nearest(definition(x, filters), [y], x, filters) is None
    assert cm.verify(x, filters, y).equal == (times < 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (np.rint(x), np.rint(w)),  # sums that are exact
        lambda x, w: (x.astype(np.float64), w),
        lambda x, w: (x.astype(np.int32), w.astype(np.int32)),
        lambda x, w: (x * np.float32(1e-42), w),  # subnormal
        lambda x, w: (np.where(x > 2, np.nan, x), w),
        lambda x, w: (x * np.float32(1e30), w * np.float32(1e8)),
    ],
)
def test_other_layers_are_left_to_verify(change: Any) -> None:
    x, filters, _ = layer("plain")
    x, filters = change(x, filters)
    with np.errstate(all="ignore"):
        y = cm.convolve(x, filters)
    assert nearest(definition(x, filters), [y], x, filters) is None
    assert cm.verify(x, filters, y)


def test_results_of_another_shape_or_of_nothing() -> None:
    x, filters, _ = layer("plain")
    assert nearest(definition(x, filters), [np.zeros((2, 7, 7, 3), np.float32)], x, filters) is None
    zeros = np.zeros_like(filters) + np.float32(0.5)
    assert nearest(definition(x * 0 + np.float32(0.1), zeros), [], x, filters) == []
    assert nearest(definition(x[:0], filters), [np.zeros((0, 7, 7, 4), np.float32)], x[:0], filters) == [0.0]
