"""Output positions cut into blocks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat.blocks import block_shape, boxes


@pytest.mark.parametrize(
    "max_rows, shape",
    [
        (1, (1, 1, 1)),
        (3, (1, 1, 2)),  # two pieces of a line either way, as equal as can be
        (4, (1, 1, 4)),
        (11, (1, 2, 4)),
        (12, (1, 3, 4)),
        (47, (3, 3, 4)),
    ],
)
def test_a_block_is_cut_evenly(max_rows: int, shape: tuple[int, ...]) -> None:
    assert block_shape((5, 3, 4), max_rows) == shape


def test_threads_get_equal_shares() -> None:
    """14 lines in blocks of at most 3: five blocks would leave one of two threads with 9 lines."""
    assert block_shape((1, 14, 14), 3 * 14) == (1, 3, 14)
    assert block_shape((1, 14, 14), 3 * 14, threads=2) == (1, 2, 14)
    assert block_shape((1, 14, 14), 7 * 14, threads=2) == (1, 7, 14)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple), st.integers(0, 40), st.integers(1, 4))
def test_blocks_cover_all_rows_once_in_order(sizes: tuple[int, ...], max_rows: int, threads: int) -> None:
    rows = 0
    for block in boxes(sizes, block_shape(sizes, max_rows, threads)):
        assert block.rows.start == rows
        assert len(block.rows) <= max(max_rows, 1)
        rows = block.rows.stop
    assert rows == math.prod(sizes)
