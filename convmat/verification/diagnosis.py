"""Diagnosis: which known mistakes explain a wrong result."""

from __future__ import annotations

from typing import Any, NamedTuple


class Diagnosis(NamedTuple):
    """Mistakes that together explain every element."""

    mistakes: tuple[str, ...]
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def diagnose(
    x: Any, filters: Any, expected: Any, *, seconds: float = 4.0, judged: Any = None, **layer: Any
) -> list[Diagnosis]:
    """None so far."""
    return []
