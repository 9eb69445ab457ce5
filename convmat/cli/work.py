"""What a command computes, and the one place that writes it: .npy or picture, table or JSON, warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from convmat.cli.output import progress, report, show, warn, write_images
from convmat.report.facts import Fact, Grid, Seen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class Work:
    """A result to be computed: nothing is, nor any data read, before its blocks are asked for."""

    shape: tuple[int, ...]
    """(N, *out, C), or (rows, columns)."""
    dtype: np.dtype[Any]
    blocks: Iterable[NDArray[Any]]
    """Rows of the last axis, in order."""
    facts: list[Fact]
    """What is known beforehand."""
    grid: Callable[[NDArray[Any]], Grid] | None = None
    """A table of a small result's rows."""
    layout: str = "nhwc"
    """In which images are written."""
    from_8_bit: bool = False
    """Whether a picture of it may keep its values."""
    skip: Callable[[], None] | None = None
    """What is to be done instead where nobody sees the result; without it the range of its values is told."""
    rows_elsewhere: str = ""
    """Another way to see some rows of a large result."""
    later_facts: Callable[[], list[Fact]] = list
    """What is known once all blocks have been had."""
    draw: Callable[[], list[Fact]] = list
    """Draw what the blocks left to draw; what was drawn."""
    text: Callable[[TextIO], str] | None = None
    """What is shown below the table."""
    warnings: list[str] = field(default_factory=list)


def write(work: Work, output: str | None, *, computed: bool = True) -> None:
    """Compute a work and write it, unless it is not to be `computed`; then tell of it."""
    rows, columns = math.prod(work.shape[:-1]), work.shape[-1]
    shown = Seen(work.blocks, (rows, columns), extremes=work.skip is None)
    notes: list[Fact] = []
    if computed and work.skip is not None and output is None and not shown.kept:
        work.skip()
    elif computed:
        blocks = progress(shown, rows)
        notes = write_images(output, blocks, work.shape, work.dtype, layout=work.layout, keep=work.from_8_bit)
    facts = [*work.facts, *work.later_facts()]
    facts += [shown.fact()] if work.skip is None else []
    facts += notes
    if work.grid is not None:
        facts.append(shown.rows_fact(output, work.rows_elsewhere, computed))
    grids = [work.grid(shown.whole)] if work.grid is not None and shown.whole is not None else []
    report([*facts, *work.draw()], grids, output=output, written=computed)
    if work.text is not None:
        show(work.text, output)
    for text in work.warnings:
        warn(text)
