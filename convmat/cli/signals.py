"""Ctrl-C and its kin: as an exception on its way out, or noted until the work is at a place to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal, on its way out through whatever has to be cleaned up."""

    def __init__(self, status: int) -> None:
        self.status = status


def stop(number: int, _: object) -> None:
    """A handler that raises `Stopped`."""
    # A second signal must not interrupt the cleaning up after the first.
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(128 + number)


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


def leave(status: int) -> NoReturn:
    """End the program. What is left at work beside must not see its libraries being taken down."""
    if not all(done.done() for done in _beside):
        os._exit(status)
    sys.exit(status)


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
