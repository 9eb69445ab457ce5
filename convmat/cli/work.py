"""What a command computes, and the one place that writes it: .npy or picture, table or JSON, warnings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from convmat.cli.inputs import joined
from convmat.cli.output import STREAM_BYTES, drain, progress, report, show, warn
from convmat.files.memory import check_memory
from convmat.files.names import is_picture, is_zarr_name
from convmat.files.npy import write_npy
from convmat.layouts import from_batch, output_layout
from convmat.report.facts import Grid, Seen, absent
from convmat.shown import Fact


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
    array: Any = None
    """The result as a Dask array, where it is one."""
    go_on: bool = False
    """Whether to go on with a zarr array that is half-written."""
    place: Callable[[], AbstractContextManager[None]] = nullcontext
    """A block in which the work is done."""


def write(work: Work, output: str | None, *, computed: bool = True) -> None:
    """Compute a work and write it, unless it is not to be `computed`; then tell of it."""
    with work.place():
        _write(work, output, computed)


def _write(work: Work, output: str | None, computed: bool) -> None:
    shown = Seen(work.blocks, (math.prod(work.shape[:-1]), work.shape[-1]), extremes=work.skip is None)
    notes: list[Fact] = []
    if computed and work.skip is not None and output is None and not shown.kept:
        work.skip()
    elif computed:
        notes = _write_rows(progress(shown, math.prod(work.shape[:-1])), work, output)
    facts = [*work.facts, *work.later_facts()]
    stored = computed and output is not None and is_zarr_name(output)
    facts += absent("range") if stored else [shown.fact()] if work.skip is None else []
    facts += notes
    if work.array is not None and not stored:
        facts += absent("written_chunks")
    if stored:
        facts.append(Fact("rows", "", math.prod(work.shape[:-1]), ""))
    elif work.grid is not None:
        facts.append(shown.rows_fact(output, work.rows_elsewhere, computed))
    grids = [work.grid(shown.whole)] if work.grid is not None and shown.whole is not None else []
    report([*facts, *work.draw()], grids, output=output, written=computed)
    if work.text is not None:
        show(work.text, output)
    for text in work.warnings:
        warn(text)


def _write_rows(rows: Iterable[NDArray[Any]], work: Work, output: str | None) -> list[Fact]:
    """Write the rows of a work, as they come: .npy, a picture, or nothing; what is to be told of a picture.

    What makes no picture is refused before any of the rows is computed.
    """
    if output is None:
        drain(rows)
    elif is_zarr_name(output):
        from convmat.cli.cluster import write_zarr

        return write_zarr(from_batch(work.array, work.layout), output, work.go_on)
    elif is_picture(output):
        from convmat.files.pictures import check_picture, picture_bytes, write_picture

        check_picture(work.shape)
        note = write_picture(output, _collected(rows, work, picture_bytes(work.shape)), work.from_8_bit)
        return [Fact("picture", "picture", note, note)]
    elif output_layout(work.layout) == "nhwc":
        write_npy(output, work.shape, work.dtype, rows)
    else:
        images = from_batch(_collected(rows, work), work.layout)
        write_npy(output, images.shape, work.dtype, images)
    return []


def _collected(rows: Iterable[NDArray[Any]], work: Work, more: int = 0) -> NDArray[Any]:
    """The rows of a work as one array; `more` bytes will be needed with it afterwards."""
    needed = math.prod(work.shape) * work.dtype.itemsize + max(more, STREAM_BYTES)
    check_memory("output", needed, "write .npy with --layout nhwc, in blocks")
    return joined(rows, (math.prod(work.shape[:-1]), work.shape[-1]), work.dtype).reshape(work.shape)
