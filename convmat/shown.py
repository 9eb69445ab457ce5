"""How a value that has facts shows itself: as a table, in a terminal by rich and in a notebook by HTML.

It imports nothing of ours, so that every value may use it; rich is loaded when somebody looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


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
    """A value that shows its facts."""

    __slots__ = ()

    def facts(self) -> list[Fact]:
        """What is to be said of the value."""
        raise NotImplementedError

    def __rich__(self) -> Table:
        """The facts as a table of rich."""
        return facts_table(self.facts())

    def _repr_html_(self) -> str:
        """The facts as a table of HTML, with the class as caption and no colours of its own."""
        from html import escape

        rows = "".join(
            f"<tr><th>{escape(fact.label)}</th><td>{escape(fact.text)}</td></tr>"
            for fact in self.facts()
            if fact.label
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"


def facts_table(facts: Iterable[Fact]) -> Table:
    """Facts that have a label, one a line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, show_header=False)
    table.add_column(style="cyan", overflow="fold")
    table.add_column(overflow="fold")
    for fact in facts:
        if fact.label:
            table.add_row(Text(fact.label), cell(fact.text))
    return table


def cell(text: str) -> Text:
    """The text of a table's cell, coloured where it is a verdict."""
    from rich.text import Text

    return Text(text, style={"equal": "green", "different": "bold red"}.get(text.split(":")[0], ""))


def sizes(numbers: Iterable[int]) -> str:
    """Numbers as a shape is spoken: 16 × 49."""
    return " × ".join(map(str, numbers))


def shape_fact(key: str, label: str, shape: Sequence[int], axes: str = "") -> Fact:
    """A shape, with what its axes are."""
    return Fact(key, label, list(shape), sizes(shape) + (axes and f"  ({axes})"))


def bytes_text(count: int) -> str:
    """A number of bytes, exact, and in the unit that is easiest to read."""
    unit = min(int(math.log2(count) / 10), 4) if count else 0
    if unit == 0:
        return f"{count}"
    return f"{count} ({count / 1024**unit:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[unit - 1]})"


def percent(share: float) -> str:
    """A share of 1 in percent, to three digits."""
    return f"{100 * share:.3g} %"
