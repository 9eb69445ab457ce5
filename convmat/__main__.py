"""The program: `convmat`, or `python -m convmat`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main() -> NoReturn:
    """Run the command line and exit, whatever happens, with a status that it has chosen."""
    # Until the commands are imported there is nothing to clean up.
    _answer(lambda number, _: os._exit(128 + number))
    # A standard stream that is closed leaves its number to the next file, which would then be taken for it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from convmat.trouble import tell

    status = 2
    try:
        from convmat import cli
        from convmat.cli.signals import stop

        _answer(stop)
        status = cli.main(sys.argv[1:])
    except BaseException as error:
        tell(error)
    # All is done; what Python still does to leave is not to be disturbed.
    _answer(signal.SIG_IGN)
    sys.exit(status)


def _answer(handler: signal._HANDLER) -> None:
    """Let a handler answer all signals but those that a script has chosen to ignore."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
