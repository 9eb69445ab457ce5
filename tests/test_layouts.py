"""Axis orders: each form of input, filters and product, there and back, on data that names its axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convmat.errors import GeometryError, ShapeError
from convmat.layouts import from_batch, product_shape, to_batch, to_batch_shape, to_filters

SIZES = {1: (5,), 2: (4, 5), 3: (3, 4, 5)}


def named(*shape: int) -> np.ndarray:
    """Each element is its own index, as decimal digits: element [2, 0, 3] is 203."""
    return sum(10**place * index for place, index in enumerate(reversed(np.indices(shape))))


@pytest.mark.parametrize("dims", SIZES)
class TestToBatch:
    def test_image(self, dims: int) -> None:
        image = named(*SIZES[dims])
        for layout in ("nhwc", "nchw"):
            batch = to_batch(image, dims, layout)
            assert batch.shape == (1, *SIZES[dims], 1)
            np.testing.assert_array_equal(batch[0, ..., 0], image)

    def test_channels_last(self, dims: int) -> None:
        batch = named(2, *SIZES[dims], 3)
        assert to_batch(batch, dims) is batch
        np.testing.assert_array_equal(to_batch(batch[1], dims), batch[1:])

    def test_channels_first(self, dims: int) -> None:
        given = named(2, 3, *SIZES[dims])
        batch = to_batch(given, dims, "nchw")
        assert batch.shape == (2, *SIZES[dims], 3)
        for c in range(3):
            np.testing.assert_array_equal(batch[..., c], given[:, c])
        np.testing.assert_array_equal(to_batch(given[1], dims, "nchw"), batch[1:])

    def test_there_and_back_is_the_same_memory(self, dims: int) -> None:
        for layout, given in (("nhwc", named(2, *SIZES[dims], 3)), ("nchw", named(2, 3, *SIZES[dims]))):
            back = from_batch(to_batch(given, dims, layout), layout)
            np.testing.assert_array_equal(back, given)
            assert np.shares_memory(back, given)

    def test_shape_alone(self, dims: int) -> None:
        for layout in ("nhwc", "nchw"):
            for array in (named(*SIZES[dims]), named(3, *SIZES[dims]), named(2, 3, *SIZES[dims])):
                assert to_batch_shape(array.shape, dims, layout) == to_batch(array, dims, layout).shape

    @pytest.mark.parametrize("extra", [-1, 3])
    @pytest.mark.parametrize("layout, form", [("nhwc", r"\(\*spatial, C\)"), ("nchw", r"\(C, \*spatial\)")])
    def test_wrong_number_of_axes(self, dims: int, extra: int, layout: str, form: str) -> None:
        axes = dims + extra
        message = rf"^input: has {axes} axes \(.*\); with {dims} spatial axes it is .*{form}"
        with pytest.raises(ShapeError, match=message):
            to_batch(np.zeros((2,) * axes), dims, layout)
        with pytest.raises(ShapeError, match=message):
            to_batch_shape((2,) * axes, dims, layout)


@pytest.mark.parametrize("dims", SIZES)
class TestToFilters:
    @pytest.mark.parametrize("layout", ["ohwi", "oihw", "hwio"])
    def test_without_channels(self, dims: int, layout: str) -> None:
        filters = named(2, *SIZES[dims])
        np.testing.assert_array_equal(to_filters(filters[0], dims, layout), filters[:1, ..., None])
        np.testing.assert_array_equal(to_filters(filters, dims, layout), filters[..., None])

    @pytest.mark.parametrize(
        "layout, rearrange",
        [
            ("ohwi", lambda w: w),
            ("oihw", lambda w: np.stack([w[..., c] for c in range(w.shape[-1])], axis=1)),
            ("hwio", lambda w: np.stack(list(w), axis=-1)),
        ],
    )
    def test_with_channels(self, dims: int, layout: str, rearrange: Callable[[Any], Any]) -> None:
        filters = named(2, *SIZES[dims], 3)
        given = rearrange(filters)
        np.testing.assert_array_equal(to_filters(given, dims, layout), filters)
        assert np.shares_memory(to_filters(given, dims, layout), given)

    @pytest.mark.parametrize("extra", [-1, 3])
    def test_wrong_number_of_axes(self, dims: int, extra: int) -> None:
        axes = dims + extra
        with pytest.raises(ShapeError, match=rf"^filters: have {axes} axes \(.*\); with {dims} spatial axes"):
            to_filters(np.zeros((2,) * axes), dims)


@pytest.mark.parametrize(
    "rows, size, dims, shape",
    [
        ((24, 7), (3, 4), None, (2, 3, 4, 7)),
        ((24, 7), (2, 3, 4), None, (2, 3, 4, 7)),
        ((24, 7), (2, 3, 4), 3, (1, 2, 3, 4, 7)),
        ((24, 7), (1, 2, 3, 4), None, (1, 2, 3, 4, 7)),
        ((24, 7), 12, None, (2, 12, 7)),
        ((24, 7), (12,), 1, (2, 12, 7)),
        ((24, 7), (2, 12), 1, (2, 12, 7)),
        ((2, 12, 7), (3, 4), None, (2, 3, 4, 7)),
        ((0, 7), (3, 4), None, (0, 3, 4, 7)),
        ((0, 7), (0, 3, 4), None, (0, 3, 4, 7)),
    ],
)
def test_product_shape(
    rows: tuple[int, ...], size: int | tuple[int, ...], dims: int | None, shape: tuple[int, ...]
) -> None:
    assert product_shape(rows, size, dims) == shape


@pytest.mark.parametrize(
    "size, dims, message",
    [
        ((5, 5), None, r"^output_shape: .*5 × 5 is 25 rows, Y has 24; give the output size"),
        ((3, 3, 4), None, r"^output_shape: 3 × 3 × 4 is 36 rows, Y has 24;"),
        (7, None, r"^output_shape: .*7 is 7 rows, Y has 24;"),
        ((0, 4), None, r"^output_shape: .*0 × 4 is 0 rows, Y has 24;"),
        ((-3, -8), None, r"^output_shape: got \(-3, -8\); give 2 output sizes"),
        ((24,), 2, r"^output_shape: got \(24,\); give 2 output sizes, and before them N"),
        ((2, 3, 4), 1, r"^output_shape: got \(2, 3, 4\); give 1 output sizes"),
    ],
)
def test_product_shape_that_does_not_share_out_the_rows(
    size: int | tuple[int, ...], dims: int | None, message: str
) -> None:
    with pytest.raises(GeometryError, match=message):
        product_shape((24, 7), size, dims)
