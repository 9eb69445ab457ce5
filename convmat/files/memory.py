"""Memory: whether a step that has to hold its result whole will find room for it."""

from __future__ import annotations

import os

from convmat.errors import MemoryLimitError


def check_memory(subject: str, nbytes: int, remedy: str) -> None:
    """Refuse work that needs more memory than is available, before the system starts to kill for it.

    Raises:
        MemoryLimitError: with both numbers.
    """
    available = _available_bytes()
    if available is not None and nbytes > available:
        raise MemoryLimitError(
            subject, f"needs {nbytes} bytes of memory, {available} are available; {remedy}"
        )


def _available_bytes() -> int | None:
    """What the system can give without swapping; None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return None
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
