"""Measure convmat beside every peer that is installed, and print Markdown.

Each implementation runs in a process of its own; they take turns, round after round. A time is the median
over the rounds, a ratio the median of each round's ratio, so that what slows the machine slows both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from statistics import median
from typing import IO, Any

from tests.benchmarks import layers
from tests.benchmarks.layers import Layer

PEERS = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "scipy": "scipy",
    "opencv": "cv2",
    "skimage": "skimage",
}


_PAUSE = 0.02  # seconds; a peer's threads go on spinning for a while after its turn


class Worker:
    """A process that is one implementation."""

    def __init__(self, name: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"CONVMAT_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)},
        )

    def measure(self, do: str, layer: Layer, seconds: float) -> dict[str, Any]:
        """Seconds of a call of each variant, and check sums."""
        ask, answer = self.process.stdin, self.process.stdout
        assert isinstance(ask, IO) or ask is not None
        assert answer is not None
        ask.write(json.dumps({"do": do, "layer": layer, "seconds": seconds}) + "\n")
        ask.flush()
        line = answer.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args!r} ended")
        result: dict[str, Any] = json.loads(line)
        time.sleep(_PAUSE)
        return result


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def compare(title: str, do: str, tested: list[Layer], names: list[str], options: argparse.Namespace) -> None:
    """One table: a line a layer, a column an implementation, and its time as a multiple of convmat's."""
    workers = {name: Worker(name, options.threads) for name in ["convmat", *names]}
    ours = "out" if options.out else ""
    print(f"\n### {title}\n")
    print(f"| layer | convmat, ms | {' | '.join(f'{name}, ms | ratio' for name in names)} |")
    print(f"|---|---|{'---|---|' * len(names)}")
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for layer in tested:
        rounds: list[dict[str, float]] = []
        sums: dict[str, Any] = {}
        for _ in range(options.rounds):
            taken = {}
            for name, worker in workers.items():
                result = worker.measure(do, layer, options.seconds)
                if result["times"]:
                    variants = result["times"]
                    taken[name] = variants[ours] if name == "convmat" else min(variants.values())
                    sums[name] = next(iter(result["sums"].values()))
            rounds.append(taken)
        cells = []
        for name in names:
            if name not in rounds[0]:
                cells.append(" | ")
                continue
            wrong = [abs(a - b) / (abs(b) or 1) for a, b in zip(sums[name], sums["convmat"], strict=True)]
            if name != "copy" and max(wrong) > 1e-3:
                raise SystemExit(f"{name} gives another result for {layer}")
            ratio = median(taken[name] / taken["convmat"] for taken in rounds)
            ratios[name].append(ratio)
            cells.append(f"{1e3 * median(t[name] for t in rounds):.2f} | {ratio:.2f}")
        print(
            f"| {layer} | {1e3 * median(t['convmat'] for t in rounds):.2f} | {' | '.join(cells)} |",
            flush=True,
        )
    means = " | ".join(f" | {geometric_mean(ratios[name]):.2f}" for name in names)
    print(f"| geometric mean | | {means} |")
    for worker in workers.values():
        worker.process.terminate()


def peers(*wanted: str) -> list[str]:
    return [name for name in wanted if name in PEERS and importlib.util.find_spec(PEERS[name])]


def convolve(options: argparse.Namespace) -> None:
    names = peers("torch", "onnxruntime", "scipy", "opencv")
    compare("convolve", "convolve", layers.FIRST, names, options)
    compare("convolve, further layers", "convolve", layers.FURTHER, names, options)


def unroll(options: argparse.Namespace) -> None:
    names = [*peers("torch", "skimage"), "copy"]
    compare("unroll, the result allocated", "unroll", layers.UNROLLED, names, options)
    options.out = True
    compare("unroll, into a reused `out`", "unroll", layers.UNROLLED, names, options)


def fold(options: argparse.Namespace) -> None:
    options.out = False
    compare("fold, by sum", "fold", layers.UNROLLED, [*peers("torch"), "copy"], options)


GROWTH = """
import sys, time, numpy as np, convmat as cm
shape, filter_shape = eval(sys.argv[1])
x, w = np.ones(shape, np.float32), np.ones(filter_shape, np.float32)
out = cm.convolve(x, w)
times = []
while sum(times) < 0.5 or len(times) < 5:
    start = time.perf_counter(); cm.convolve(x, w, out=out); times.append(time.perf_counter() - start)
print(np.median(times))
"""

MEMORY = """
import sys, numpy as np, convmat as cm
shape, filter_shape, where = eval(sys.argv[1])
def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
small = np.zeros((1, 64, 64, filter_shape[-1]), np.float32)
cm.convolve(small, np.zeros((1, 3, 3, filter_shape[-1]), np.float32))  # libraries are loaded by now
x, w = np.ones(shape, np.float32), np.ones(filter_shape, np.float32)
todo = cm.engine.prepare(x, w, **where)
y = np.ones(todo.plan.output_shape, np.float32)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
cm.engine.execute(todo, y)
print(status("VmHWM") - before, todo.plan.threads)
"""


def run(code: str, argument: Any, threads: int) -> list[float]:
    """A program of ours in a process of its own; the numbers it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, repr(argument)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"CONVMAT_THREADS": str(threads)},
    )
    return [float(number) for number in done.stdout.split()]


def growth(options: argparse.Namespace) -> None:
    print("\n### Time per unit of size, relative to the first of its line\n")
    print("| | ×1 | ×3 | ×10 | ×30 | ×100 |\n|---|---|---|---|---|---|")
    cases = {
        "N, from 2 × 64×64×16 → 32, 3×3": lambda n: ((2 * n, 64, 64, 16), (32, 3, 3, 16)),
        "H·W, from 64×64×16 → 32, 3×3": lambda n: ((1, 64, 64 * n, 16), (32, 3, 3, 16)),
        "K, from 64×64×16 → 16, 3×3": lambda n: ((1, 64, 64, 16), (16 * n, 3, 3, 16)),
    }
    for name, case in cases.items():
        times = {n: run(GROWTH, case(n), options.threads)[0] for n in (1, 3, 10, 30, 100)}
        print(f"| {name} | {' | '.join(f'{t / n / times[1]:.2f}' for n, t in times.items())} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    print("\n### Peak memory of `convolve` above input and output\n")
    print("| layer | threads | MiB | MiB a thread |\n|---|---|---|---|")
    cases = [
        square := Layer((1, 8000, 8000, 1), 1, (11, 11)),
        square._replace(padding=5),
        Layer((1, 2000, 2000, 3), 16, (3, 3), padding=1),
        Layer((1, 512, 512, 64), 64, (3, 3), padding=1),
        Layer((64, 56, 56, 64), 64, (3, 3), padding=1),
        Layer((1, 1000, 1000, 64), 64, (3, 3), padding=1, groups=64),
        Layer((1, 700, 700, 8), 8, (3, 3), padding=100, dilation=100),
        Layer((1, 160000, 1), 512, (400,), 16),
    ]
    for layer in cases:
        where = layer.where | {"groups": layer.groups}
        peak, threads = run(MEMORY, (layer.shape, layer.filter_shape, where), options.threads)
        print(f"| {layer} | {threads:.0f} | {peak:.1f} | {peak / threads:.1f} |", flush=True)


def commands(options: argparse.Namespace) -> None:
    print("\n### Whole commands\n\n| command | ms |\n|---|---|")
    cases = [
        [sys.executable, "-c", "import numpy"],
        [sys.executable, "-m", "convmat", "--help"],
        [sys.executable, "-m", "convmat", "unroll", "sample_images/digit.png", "-k", "7", "-s", "7", "-q"],
        [
            sys.executable,
            "-m",
            "convmat",
            "convolve",
            "sample_images/scene.png",
            "--kernel",
            "sobel-x",
            "--depthwise",
            "-q",
        ],
        [sys.executable, "-m", "convmat", "verify", "-q"],
    ]
    taken: dict[int, list[float]] = {n: [] for n in range(len(cases))}
    for _ in range(options.rounds):
        for n, case in enumerate(cases):
            start = time.perf_counter()
            subprocess.run(case, check=True, capture_output=True)
            taken[n].append(time.perf_counter() - start)
    for n, case in enumerate(cases):
        words = " ".join(case[1:]).removeprefix("-m ")
        print(f"| `{'python ' * (case[1] == '-c')}{words}` | {1e3 * median(taken[n]):.0f} |")


TABLES = {
    "convolve": convolve,
    "unroll": unroll,
    "fold": fold,
    "growth": growth,
    "memory": memory,
    "commands": commands,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; by default all")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each takes (default 7)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of calls in a turn (default 0.05)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for everyone (default all)")
    parser.add_argument("--out", action="store_true", help="let convmat write to a reused output")
    options = parser.parse_args()
    unknown = [table for table in options.tables if table not in TABLES]
    if unknown:
        parser.error(f"no table {unknown[0]!r}")
    import numpy as np

    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"{platform.machine()}, {options.threads} threads, {versions}")
    for name in options.tables or TABLES:
        TABLES[name](options)


if __name__ == "__main__":
    main()
