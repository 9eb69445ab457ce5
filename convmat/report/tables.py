"""Facts and grids as tables on a terminal, in a pipe or as JSON; rich stays in here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from convmat.encodings import printable, readable
from convmat.report.facts import Grid
from convmat.shown import Fact, cell, facts_table

_PIPE_WIDTH = 100_000  # a pipe has no edge to wrap at
_UNKNOWN_WIDTH = 80


def tables_text(parts: Sequence[Sequence[Fact] | Grid], stream: TextIO) -> str:
    """A table for each part, as it is to be on `stream`: whole at any width, coloured on terminals."""
    console = console_on(stream, _PIPE_WIDTH)
    tables: list[Table | Text] = []
    for part in _shown_on(stream, parts):
        if isinstance(part, Grid):
            tables += [Text(part.title), _grid_table(part)] if part.title else [_grid_table(part)]
        else:
            tables.append(facts_table(part))
    with console.capture() as captured:
        console.print(Group(*tables))
    return captured.get()


def console_on(stream: TextIO, piped_width: int) -> Console:
    """What lays out text for a stream, as wide as its terminal; a pipe's width is to be said."""
    width = None if stream.isatty() else piped_width
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    if not console.width:  # COLUMNS=0: not known
        console.width = _UNKNOWN_WIDTH
    return console


def _shown_on(stream: TextIO, parts: Sequence[Sequence[Fact] | Grid]) -> Iterator[Sequence[Fact] | Grid]:
    """The parts in the signs that the stream has, so that what is measured is what is shown."""

    def shown(text: str) -> str:
        return "\n".join(printable(line) for line in readable(text, stream.encoding).split("\n"))

    for part in parts:
        if isinstance(part, Grid):
            rows = [tuple(map(shown, row)) for row in part.rows]
            yield Grid(shown(part.title), tuple(map(shown, part.columns)), rows)
            continue
        facts: Sequence[Fact] = part
        yield [fact._replace(label=shown(fact.label), text=shown(fact.text)) for fact in facts]


def json_text(facts: Sequence[Fact]) -> str:
    """The facts as one JSON object; one that is absent yields to one of its key that is not."""
    import json

    values: dict[str, Any] = {}
    for fact in facts:
        if values.get(fact.key) is None:
            values[fact.key] = _plain(fact.value)
    return json.dumps(values) + "\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: None; and nothing wider than a double, as NumPy's long double is."""
    if isinstance(value, Real) and not isinstance(value, int):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _grid_table(grid: Grid) -> Table:
    table = Table(box=box.ROUNDED)
    for column in grid.columns:
        table.add_column(Text(column), overflow="fold")
    for row in grid.rows:
        table.add_row(*(cell(value) for value in row))
    return table
