"""A box of output positions, (n, *output position), cut into blocks of consecutive rows of X_col."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """Consecutive rows of X_col that form a box of output positions."""

    rows: range
    """Rows of X_col."""
    positions: tuple[range, ...]
    """The same rows as ranges over (n, *output position)."""


def block_shape(sizes: tuple[int, ...], max_rows: int, threads: int = 1) -> tuple[int, ...]:
    """The shape of blocks of at most `max_rows` consecutive rows to cut a box of `sizes` by.

    Threads that take block after block end together, as nearly as blocks of about that size allow.
    """
    shape: list[int] = []
    room = max(max_rows, 1)
    for axis, size in reversed(list(enumerate(sizes))):
        take = max(min(size, room), 1)
        # 1 from the first axis on that is cut, so that the rows stay consecutive.
        room //= take
        cut = take < size
        shape.append(_even_part(size, take, math.prod(sizes[:axis]), threads) if cut else take)
    return tuple(reversed(shape))


def boxes(sizes: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Block]:
    """Blocks of a shape that `block_shape` gave, in row order; last ones are smaller."""
    start = 0
    for positions in _cut(sizes, shape):
        stop = start + math.prod(map(len, positions))
        yield Block(range(start, stop), positions)
        start = stop


def _cut(sizes: tuple[int, ...], steps: tuple[int, ...]) -> Iterator[tuple[range, ...]]:
    """Boxes of `steps` that cover a box of `sizes`, in order, one at a time: there may be very many."""
    if not sizes:
        yield ()
        return
    for start in range(0, sizes[0], steps[0]):
        for rest in _cut(sizes[1:], steps[1:]):
            yield (range(start, min(start + steps[0], sizes[0])), *rest)


def _even_part(size: int, most: int, times: int, threads: int) -> int:
    """How much of `size`, at most `most`, to do at once, when `threads` share `times` such axes."""
    least = max(-(-size // most), 1)

    def longest_share(pieces: int) -> int:
        if threads == 1:
            return size
        return -(-times * pieces // threads) * -(-size // pieces)

    pieces = min(range(least, min(least + 2 * threads, max(size, 1)) + 1), key=longest_share)
    return max(-(-size // pieces), 1)
