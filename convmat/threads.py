"""How many threads to work with."""

from __future__ import annotations

import os

from convmat.checks import whole
from convmat.errors import GeometryError

VARIABLE = "CONVMAT_THREADS"
MOST_THREADS = 1024


def thread_count(threads: int | None = None) -> int:
    """Threads to work with: as asked, else as the variable CONVMAT_THREADS says, else the cores there are.

    Raises:
        GeometryError: no whole number from 1 to `MOST_THREADS`.
    """
    if threads is not None:
        return whole("threads", threads, 1, MOST_THREADS)
    text = os.environ.get(VARIABLE)
    if text is None:
        return min(_cores(), MOST_THREADS)
    digits = text.strip()
    # So many digits and no more: to read a number of a million digits takes minutes.
    count = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 4 else 0
    if not 1 <= count <= MOST_THREADS:
        raise GeometryError(
            VARIABLE, f"is {text[:20]!r}, expected a number from 1 to {MOST_THREADS}; set it anew or unset it"
        )
    return count


def _cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
