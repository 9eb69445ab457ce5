"""The program: `convmat`, or `python -m convmat`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line and exit."""
    # Until it is imported there is nothing to clean up, and nobody to keep a Ctrl-C from a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from convmat import cli

    cli.main()


if __name__ == "__main__":
    main()
