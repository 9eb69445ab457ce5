"""Ctrl-C and its kin: as an exception on its way out, or noted until the work is at a place to stop."""

from __future__ import annotations

import signal
from typing import Any

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

    def __exit__(self, *_: object) -> None:
        if self.number is None:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
