"""Where a command's findings go: tables and JSON to the right stream, bars only where someone watches."""

from __future__ import annotations

import math
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from convmat.cli.signals import beside
from convmat.encodings import readable
from convmat.files.outputs import together
from convmat.trouble import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convmat.report.facts import Grid
    from convmat.shown import Fact
    from convmat.watching import Watch

T = TypeVar("T")

STREAM_BYTES = 3 << 22
"""Memory that a stream works in: a block of what it reads, as it computes with it, and of its result."""

BRIEF = "convmat.brief"
"""Under this key a context's meta says whether one line is asked for: no command has to hand it on."""


def is_brief() -> bool:
    """Whether the command that runs was asked for one line."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(BRIEF))


class Unread(BrokenPipeError):
    """The reader of a table has gone: the end of the work, though the files are still wanted."""


@contextmanager
def outputs_together() -> Iterator[None]:
    """`together`, where an exit status, and a table that nobody reads, end work that was done."""
    ended = None
    with together():
        try:
            yield
        except (click.exceptions.Exit, Unread) as end:
            ended = end
    if ended is not None:
        raise ended


def report(
    facts: Sequence[Fact],
    grids: Sequence[Grid | Sequence[Fact]] = (),
    *,
    output: str | None = None,
    as_json: bool = False,
    quiet: bool = False,
    facts_last: bool = False,
    written: bool = True,
) -> None:
    """Print findings, facts before grids or after: on standard output, unless that carries the data.

    Beside data, and with --brief, that is one line: what came out, and the `output`, if it was written.
    """
    if quiet:
        return
    from convmat.report.facts import brief_text
    from convmat.report.tables import json_text, tables_text

    parts = [*grids, facts] if facts_last else [facts, *grids]

    def text_for(stream: TextIO) -> str:
        if as_json:
            return json_text(facts)
        if output == "-" or is_brief():
            return brief_text(facts, output if written else None)
        return tables_text(parts, stream)

    show(text_for, output)


def show(text_for: Callable[[TextIO], str], output: str | None = None) -> None:
    """Print what `text_for` makes for a stream: standard output, or standard error where that has the data.

    Raises:
        Unread: the reader of standard output has gone. OSError: it cannot be written.
    """
    if output == "-":
        _stop_if_unread()
        # The data is out; a table that cannot be shown is no trouble.
        if sys.stderr is not None:
            with suppress(OSError):
                _print(text_for(sys.stderr), sys.stderr)
    elif sys.stdout is not None:
        try:
            _print(text_for(sys.stdout), sys.stdout)
        except BrokenPipeError as gone:
            raise Unread(*gone.args) from gone


def _print(text: str, stream: TextIO) -> None:
    stream.write(readable(text, stream.encoding))
    stream.flush()


def warn(text: str, quiet: bool = False) -> None:
    """Print a warning on standard error."""
    if not quiet:
        say(f"convmat: warning: {text}")


def shown_help(text: str) -> str:
    """A help text as standard output can show it; click writes UTF-8 where the encoding is ASCII."""
    return readable(text, sys.stdout.encoding) if sys.stdout is not None else text


def progress(
    blocks: Iterable[T],
    total: int,
    quiet: bool = False,
    *,
    unit: str = "row",
    size: Callable[[T], int] = len,  # type: ignore[assignment]  # of what has a length, which most have
    note: Callable[[T], str] | None = None,
) -> Iterator[T]:
    """`blocks`, with a bar on a terminal once they take longer than a second.

    `total` of their sizes, in `unit`; `note` says what the bar is to tell of a block.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield from blocks
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, unit_scale=True, delay=1, leave=False) as bar:
        for block in blocks:
            yield block
            if note is not None:
                bar.set_postfix_str(note(block), refresh=False)
            bar.update(size(block))


def watching(quiet: bool, unit: str = "step") -> Watch:
    """A bar for the steps of a work that the library hands on."""
    return lambda steps, total: progress(steps, total, quiet, unit=unit, size=lambda _: 1)


def wait(work: Callable[[Watch], T], what: str) -> T:
    """The result of a work that may be inside one call of LAPACK for long, where no signal is answered.

    So it is done in a thread beside: this one is free to be stopped, and to show, on a terminal and past a
    second, how far its steps are, or for how long it has been at work on `what`.
    """
    steps = _Steps()
    done = beside(lambda: work(steps))
    if sys.stderr is None or not sys.stderr.isatty():
        return done.result()
    from tqdm import tqdm

    with tqdm(desc=what, unit="step", delay=1, miniters=0, leave=False) as bar:
        while True:
            with suppress(TimeoutError):
                return done.result(_LOOK)
            bar.total, bar.bar_format = steps.total, None if steps.total else "{desc}: {elapsed}"
            bar.update(steps.count - bar.n)


_LOOK = 0.2  # seconds between two looks at a work


class _Steps:
    """A `Watch` that counts."""

    total: int | None = None
    count = 0

    def __call__(self, steps: Iterable[T], total: int) -> Iterator[T]:
        self.total = total
        for self.count, step in enumerate(steps):
            yield step


def drain(blocks: Iterable[object]) -> None:
    """Do the work of a stream whose data nobody asked for."""
    deque(blocks, maxlen=0)


def collect(
    blocks: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any], more: int = 0
) -> NDArray[Any]:
    """A stream's rows, (..., C) at a time, as one array; `more` bytes will be needed with it afterwards."""
    import numpy as np

    from convmat.files.memory import check_memory

    needed = math.prod(shape) * dtype.itemsize + max(more, STREAM_BYTES)
    check_memory("output", needed, "write .npy with --layout nhwc, in blocks")
    whole = np.empty((math.prod(shape[:-1]), shape[-1]), dtype)
    start = 0
    for block in blocks:
        rows = block.reshape(-1, shape[-1])
        whole[start : start + len(rows)] = rows
        start += len(rows)
    return whole.reshape(shape)


def write_images(
    output: str | None,
    rows: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    layout: str,
    keep: bool,
) -> list[Fact]:
    """Write images, (N, *spatial, C), that come as rows of channels: .npy, a picture, or nothing.

    Returns what is to be told of a picture; `keep` is that of `write_picture`. What makes no picture is
    refused before any of the rows is computed.
    """
    from convmat.files.npy import write_npy
    from convmat.files.outputs import is_picture
    from convmat.layouts import from_batch, output_layout
    from convmat.shown import Fact

    if output is None:
        drain(rows)
    elif is_picture(output):
        from convmat.files.images import check_picture, picture_bytes, write_picture

        check_picture(shape)
        note = write_picture(output, collect(rows, shape, dtype, picture_bytes(shape)), keep)
        return [Fact("picture", "picture", note, note)]
    elif output_layout(layout) == "nhwc":
        write_npy(output, shape, dtype, rows)
    else:
        images = from_batch(collect(rows, shape, dtype), layout)
        write_npy(output, images.shape, dtype, images)
    return []


def _stop_if_unread() -> None:
    """A reader that has seen enough is the end of the work, also where all of it fitted in the pipe."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError(os.strerror(32))
