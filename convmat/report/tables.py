"""Facts and grids as tables on a terminal, in a pipe or as JSON; rich stays in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from convmat.report.facts import Fact, Grid, printable

# What tables say beyond ASCII, for the terminals that cannot.
_PLAIN = str.maketrans(
    {"×": "x", "·": "*", "…": "...", "−": "-", "σ": "sigma", "≤": "<=", "⊗": "(x)", "ᵀ": "^T", "±": "+-"}
)
_PIPE_WIDTH = 100_000  # a pipe has no edge to wrap at


def tables_text(parts: Sequence[Sequence[Fact] | Grid], stream: TextIO) -> str:
    """A table for each part, as it is to be on `stream`: whole at any width, coloured on terminals."""
    terminal = stream.isatty()
    console = Console(
        file=stream, width=None if terminal else _PIPE_WIDTH, highlight=False, markup=False, emoji=False
    )
    tables: list[Table | Text] = []
    for part in parts:
        if isinstance(part, Grid):
            tables += [Text(part.title), _grid_table(part)] if part.title else [_grid_table(part)]
        else:
            tables.append(facts_table(part))
    with console.capture() as captured:
        console.print(Group(*tables))
    return captured.get()


def json_text(facts: Sequence[Fact]) -> str:
    """The facts as one JSON object; one that is absent yields to one of its key that is not."""
    import json

    found: dict[str, Any] = {}
    for fact in facts:
        if found.get(fact.key) is None:
            found[fact.key] = _plain(fact.value)
    return json.dumps(found) + "\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def write_text(text: str, stream: TextIO) -> None:
    """Write text in the stream's encoding, whatever it is, losing no more than it must."""
    encoding = stream.encoding or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text)


def facts_table(facts: Sequence[Fact]) -> Table:
    """Facts that have a label, one a line."""
    table = Table(box=box.ROUNDED, show_header=False)
    table.add_column(style="cyan", overflow="fold")
    table.add_column(overflow="fold")
    for fact in (f for f in facts if f.label):
        table.add_row(Text(fact.label), _cell(fact.text))
    return table


def _grid_table(grid: Grid) -> Table:
    table = Table(box=box.ROUNDED)
    for column in grid.columns:
        table.add_column(Text(column), overflow="fold")
    for row in grid.rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: str) -> Text:
    lines = [printable(line) for line in value.split("\n")]
    style = {"equal": "green", "different": "bold red"}.get(value.split(":")[0], "")
    return Text("\n".join(lines), style=style)
