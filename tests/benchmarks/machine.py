"""The machine that measures: what it can multiply and copy at most, and how busy others keep it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_PROBE = """
import threading, time, numpy as np
from sys import argv
a = np.ones((1024, 1024), np.float32); b = a.copy(); c = a.copy()
source = np.ones(1 << 24, np.float32); target = source.copy()
threads = int(argv[1])
clock = time.perf_counter if threads > 1 else time.process_time  # as the worker's
def best(call, rounds):
    times = []
    for _ in range(rounds):
        start = clock(); call(); times.append(clock() - start)
    return min(times)
def copy():
    if threads == 1:
        return np.copyto(target, source)
    step = len(source) // threads
    parts = [slice(i * step, (i + 1) * step) for i in range(threads)]
    work = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in parts]
    [w.start() for w in work]; [w.join() for w in work]
print(2 * 1024**3 / best(lambda: np.matmul(a, b, out=c), 100), source.nbytes / best(copy, 100))
"""


class Peak(NamedTuple):
    """The best that was measured, by all threads together."""

    flops: float
    """A second, of float32: BLAS's product of 1024 × 1024 matrices."""
    copied: float
    """Bytes a second, copied from memory to memory."""


def measure_peak(threads: int) -> Peak:
    """Measure in a process of its own."""
    env = os.environ | {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", _PROBE, str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return Peak(*map(float, done.stdout.split()))


class Watch:
    """How much of the cores' time others took, since it was made."""

    def __init__(self) -> None:
        self._start, self._others = time.perf_counter(), _busy_seconds()

    def others(self, ours: float) -> float:
        """The share of the cores' time that was neither idle nor `ours`, in seconds; 0 where unknown."""
        taken = _busy_seconds() - self._others - ours
        return max(taken, 0.0) / (time.perf_counter() - self._start) / (os.cpu_count() or 1)


def _busy_seconds() -> float:
    """Seconds of all cores that were not idle: user, nice, system, irq, softirq and steal of /proc/stat."""
    try:
        numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    return float(sum(numbers[:3]) + sum(numbers[5:8])) / os.sysconf("SC_CLK_TCK")
