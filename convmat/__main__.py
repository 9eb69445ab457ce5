"""The program: `convmat`, or `python -m convmat`."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line and exit."""
    # Until it is imported there is nothing to clean up, and nobody to keep a Ctrl-C from a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A standard stream that is closed leaves its number to the next file, which would then be taken for it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from convmat import cli

    cli.main()


if __name__ == "__main__":
    main()
