"""Every way there is to compute here: the compiled library's levels, and NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from hypothesis import settings

from convmat import native

NUMPY = "NumPy"


def at_each_level(test: Any) -> Any:
    """For a test of Hypothesis that runs several times over: a third of the examples."""
    return settings(max_examples=settings.default.max_examples // 3)(test)


@cache
def _library(level: str) -> native.Native | None:
    return None if level == NUMPY else native.Native(level)


def levels() -> list[str]:
    """The levels up to the one in use, and NumPy; NumPy alone where nothing is compiled."""
    best = native.library()
    return [*([] if best is None else native.LEVELS[: native.LEVELS.index(best.level) + 1]), NUMPY]


@contextmanager
def using(level: str) -> Iterator[None]:
    """Compute at this level, here and in processes that are begun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVMAT_NATIVE", "0" if level == NUMPY else "1")
        patch.setenv("CONVMAT_LEVEL", level)
        patch.setattr(native, "library", lambda: _library(level))
        yield
