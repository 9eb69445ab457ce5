"""Ctrl-C and its kin: the end of the process at once, or noted until the work is at a place to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from convmat.errors import FileError
from convmat.files.outputs import abandon_outputs
from convmat.trouble import tell

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that long work may put off."""


def stop(number: int, _: object) -> None:
    """A handler that ends the process where it is, with nothing half done left behind.

    It raises nothing, since what is raised in the middle of anything, say of an import, may be lost there.
    """
    # A second signal must not interrupt the cleaning up after the first.
    for other in (*SIGNALS, signal.SIGQUIT):
        signal.signal(other, signal.SIG_IGN)
    try:
        abandon_outputs()
        if "tqdm" in sys.modules and os.isatty(2):
            os.write(2, b"\r\x1b[K")  # a bar may be in this line
    except FileError as error:
        tell(error)
    finally:
        os._exit(128 + number)


_beside: list[Future[Any]] = []


def beside(work: Callable[[], T]) -> Future[T]:
    """Begin a work in a thread of its own, which a signal leaves behind; what will come of it."""
    from concurrent.futures import Future  # help does not wait for it

    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    _beside.append(done)
    Thread(target=run, daemon=True).start()
    return done


def end_beside(status: int) -> None:
    """End the process if there is work beside, which must not see its libraries being taken down."""
    if not all(done.done() for done in _beside):
        os._exit(status)


class Deferred:
    """Within its block a first signal is noted; a second one does at once what it did before."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came."""
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Deferred:
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self._handlers.items():
            # What a script has chosen to ignore stays ignored.
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: object) -> None:
        self.number = number
        self._restore()
        if os.isatty(2):  # past what stream may be in the middle of a line
            with suppress(OSError):
                os.write(2, b"\nconvmat: stopping after this step; once more stops at once\n")

    def __exit__(self, *_: object) -> None:
        if self.number is None:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
