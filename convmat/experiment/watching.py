"""Work in blocks that somebody may watch: a bar, or a stop between two of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Watch(Protocol):
    """Hands on the blocks of some work as they are done; it is told their number.

    To raise an exception between two blocks ends the work, and nothing that was there before has changed.
    """

    def __call__(self, blocks: Iterable[T], total: int, /) -> Iterable[T]: ...


def unwatched(blocks: Iterable[T], total: int, /) -> Iterable[T]:
    """The blocks as they are."""
    return blocks
