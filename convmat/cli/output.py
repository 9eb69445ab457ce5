"""Where a command's findings go: tables and JSON to the right stream, bars only where someone watches."""

from __future__ import annotations

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
    from convmat.report.facts import Grid
    from convmat.shown import Fact
    from convmat.watching import Watch

T = TypeVar("T")

STREAM_BYTES = 3 << 22
"""Memory that a stream works in: a block of what it reads, as it computes with it, and of its result."""


def note(ctx: click.Context, parameter: click.Parameter, said: Any) -> None:
    """Note, for the command that runs, what was said by an option."""
    ctx.meta[f"convmat.{parameter.name}"] = said


def asked(name: str) -> bool:
    """Whether the command that runs was asked for `as_json`, `brief` or `quiet`."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(f"convmat.{name}"))


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
    facts_last: bool = False,
    written: bool = True,
) -> None:
    """Print findings, facts before grids or after: on standard output, unless that carries the data.

    Beside data, and with --brief, that is one line: what came out, and the `output`, if it was written.
    """
    if asked("quiet"):
        return
    from convmat.report.facts import brief_text
    from convmat.report.tables import json_text, tables_text

    parts = [*grids, facts] if facts_last else [facts, *grids]

    def text_for(stream: TextIO) -> str:
        if asked("as_json"):
            return json_text(facts)
        if output == "-" or asked("brief"):
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


def warn(text: str) -> None:
    """Print a warning on standard error, unless the command that runs is to be quiet."""
    if not asked("quiet"):
        say(f"convmat: warning: {text}")


def shown_help(text: str) -> str:
    """A help text as standard output can show it; click writes UTF-8 where the encoding is ASCII."""
    return readable(text, sys.stdout.encoding) if sys.stdout is not None else text


def progress(
    blocks: Iterable[T],
    total: int,
    *,
    unit: str = "row",
    size: Callable[[T], int] = len,  # type: ignore[assignment]  # of what has a length, which most have
    note: Callable[[T], str] | None = None,
) -> Iterator[T]:
    """`blocks`, with a bar on a terminal once they take longer than a second.

    `total` of their sizes, in `unit`; `note` says what the bar is to tell of a block.
    """
    if asked("quiet") or sys.stderr is None or not sys.stderr.isatty():
        yield from blocks
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, unit_scale=True, delay=1, leave=False) as bar:
        for block in blocks:
            yield block
            if note is not None:
                bar.set_postfix_str(note(block), refresh=False)
            bar.update(size(block))


def watching(unit: str = "step") -> Watch:
    """A bar for the steps of a work that the library hands on."""
    return lambda steps, total: progress(steps, total, unit=unit, size=lambda _: 1)


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


def _stop_if_unread() -> None:
    """A reader that has seen enough is the end of the work, also where all of it fitted in the pipe."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError(os.strerror(32))
