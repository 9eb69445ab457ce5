"""Values that show themselves as tables, in a terminal by rich and in a notebook; else they cost nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """One finding."""

    key: str
    """In JSON; stable."""
    label: str
    """In the table."""
    value: Any
    """In JSON: numbers, strings, lists and dicts of them."""
    text: str
    """In the table, which leaves out facts without a label: other facts' texts hold them."""
    brief: str = ""
    """In the one line of `--brief`, which leaves out facts without it."""


class Shown:
    """A value whose facts `convmat.report` knows; what draws them is loaded when somebody looks."""

    __slots__ = ()

    def __rich__(self) -> Any:
        """The facts as a table of rich."""
        from convmat.report.shown import as_table

        return as_table(self)

    def _repr_html_(self) -> str:
        """The facts as a table of HTML."""
        from convmat.report.shown import as_html

        return as_html(self)


def sizes(numbers: Iterable[int]) -> str:
    """Numbers as a shape is spoken: 16 × 49."""
    return " × ".join(map(str, numbers))


def shape_fact(key: str, label: str, shape: Sequence[int], axes: str = "") -> Fact:
    """A shape, with what its axes are."""
    return Fact(key, label, list(shape), sizes(shape) + (axes and f"  ({axes})"))


def percent(share: float) -> str:
    """A share of 1 in percent, to three digits."""
    return f"{100 * share:.3g} %"
