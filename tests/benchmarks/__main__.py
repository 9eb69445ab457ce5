"""Measure convmat beside every peer that is installed, and print Markdown.

Each implementation runs in a process of its own; they take turns, round after round. A turn's time is the
least of its calls. Of the rounds the quieter half counts, those in which other processes took least of the
cores' time; a ratio is the median of these rounds' ratios, so that what slows the machine slows both.
--write puts the tables on a page.
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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from convmat.native import status
from tests.benchmarks import layers
from tests.benchmarks.layers import Layer
from tests.benchmarks.machine import Peak, Watch, measure_peak
from tests.docs import fill

PEERS = ("torch", "onnxruntime", "openvino", "jax")
_PAUSE = 0.02  # seconds; a peer's threads go on spinning for a while after its turn


class Worker:
    """A process that is one implementation."""

    def __init__(self, name: str, threads: int) -> None:
        env = os.environ | {"CONVMAT_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        if name == "numpy":
            env |= {"CONVMAT_NATIVE": "0", "OPENBLAS_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def measure(self, do: str, layer: Layer, seconds: float) -> dict[str, Any]:
        """Seconds of a call of each variant, CPU seconds, and check sums."""
        ask, answer = self.process.stdin, self.process.stdout
        assert ask is not None
        assert answer is not None
        ask.write(json.dumps({"do": do, "layer": layer, "seconds": seconds}) + "\n")
        ask.flush()
        line = answer.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args!r} ended")
        result: dict[str, Any] = json.loads(line)
        time.sleep(_PAUSE)
        return result


class Table(NamedTuple):
    """What is measured on which layers, beside whom."""

    title: str
    do: str
    layers: list[Layer]
    peers: tuple[str, ...]


class Row(NamedTuple):
    """What was measured of a layer: seconds of a call, and each peer's time as a multiple of them."""

    layer: Layer
    seconds: float
    ratios: dict[str, float]


TABLES = {
    "convolve": Table("convolve", "convolve", [*layers.FIRST, *layers.FURTHER, *layers.MORE], PEERS),
    "tiny": Table("tiny calls", "convolve", layers.TINY, PEERS),
    "integers": Table("integers to exact int64, beside float32", "convolve", layers.INTEGERS, PEERS),
    "float64": Table("float64", "convolve", layers.DOUBLES, PEERS),
    "transpose": Table("convolve_transpose", "transpose", layers.TRANSPOSED, ("torch",)),
    "unroll": Table("unroll, the result allocated", "unroll", layers.UNROLLED, ("torch",)),
    "out": Table("unroll, into a reused `out`", "unroll into out", layers.UNROLLED, ("torch",)),
    "fold": Table("fold, by sum", "fold", layers.UNROLLED, ("torch",)),
    "numpy": Table("convolve without a compiler, beside with", "convolve", layers.FIRST, ("numpy",)),
}


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def work(do: str, layer: Layer) -> tuple[float, float]:
    """FLOPs of the definition, and bytes that have to be read and written once."""
    size = [
        (n + 2 * layer.padding - layer.dilation * (k - 1) - 1) // layer.stride + 1
        for n, k in zip(layer.shape[1:-1], layer.kernel, strict=True)
    ]
    outputs, terms = layer.shape[0] * math.prod(size), math.prod(layer.filter_shape[1:])
    itemsize, pixels = np.dtype(layer.dtype).itemsize, math.prod(layer.shape)
    if do in ("convolve", "transpose"):
        numbers = pixels + outputs * layer.filters + math.prod(layer.filter_shape)
        return 2.0 * outputs * terms * layer.filters, float(numbers * itemsize)
    return 0.0, float((pixels + outputs * math.prod(layer.kernel) * layer.shape[-1]) * itemsize)


def compare(table: Table, peak: Peak, options: argparse.Namespace) -> list[Row]:
    """Measure one table, and print a line a layer, with each peer's time as a multiple of convmat's."""
    names = [name for name in table.peers if name == "numpy" or importlib.util.find_spec(name)]
    workers = {name: Worker(name, options.threads) for name in ["convmat", *names]}
    print(f"\n### {table.title}\n")
    print(f"| layer | convmat, ms | of peak, of copy | {' | '.join(names)} | others |")
    print(f"|---|---|---|{'---|' * (len(names) + 1)}", flush=True)
    measured = []
    for layer in table.layers:
        rounds = quiet_rounds(workers, table.do, layer, options)
        ours = median(times["convmat"] for times, _ in rounds)
        flops, moved = work(table.do, layer)
        cells = [
            f"{1e3 * ours:.3g}",
            f"{flops / ours / peak.flops:.0%}, {moved / 2 / ours / peak.copied:.0%}",
        ]
        ratios = {}
        for name in names:
            if name in rounds[0][0]:
                ratios[name] = median(times[name] / times["convmat"] for times, _ in rounds)
            cells.append(f"{ratios[name]:.2f}" if name in ratios else "")
        if ratios:
            ratios["the faster"] = median(
                min(times[n] for n in ratios) / times["convmat"] for times, _ in rounds
            )
        measured.append(Row(layer, ours, ratios))
        busy = sum(share for _, share in rounds) / len(rounds)
        print(f"| {layer} | {' | '.join(cells)} | {busy:.0%} |", flush=True)
    for worker in workers.values():
        worker.process.terminate()
    return measured


def quiet_rounds(
    workers: dict[str, Worker], do: str, layer: Layer, options: argparse.Namespace
) -> list[tuple[dict[str, float], float]]:
    """Each implementation's time and the others' share of the cores, of the quieter half of the rounds."""
    rounds = []
    sums: dict[str, Any] = {}
    for _ in range(options.rounds):
        taken, used, watch = {}, 0.0, Watch()
        for name, worker in workers.items():
            result = worker.measure(do, layer, options.seconds)
            used += result["cpu"]
            if result["times"]:
                taken[name] = min(result["times"].values())
                sums[name] = next(iter(result["sums"].values()))
        rounds.append((taken, watch.others(used)))
    for name, found in sums.items():
        if any(abs(a - b) > 1e-3 * abs(b) for a, b in zip(found, sums["convmat"], strict=True)):
            raise SystemExit(f"{name} gives another result for {layer}")
    return sorted(rounds, key=lambda pair: pair[1])[: -(-len(rounds) // 2)]


def summary(measured: dict[str, list[Row]]) -> None:
    """Geometric means, and where it is behind."""
    print("\n### Geometric means, and the worst layers\n")
    print("| | peer | layers | geometric mean | worst |\n|---|---|---|---|---|")
    for table, rows in measured.items():
        for name in [*TABLES[table].peers, "the faster"]:
            ratios = sorted((row.ratios[name], row.layer) for row in rows if name in row.ratios)
            if ratios and not (name == "the faster" and len(TABLES[table].peers) == 1):
                worst = "; ".join(f"{ratio:.2f} {layer}" for ratio, layer in ratios[:3])
                mean = geometric_mean([ratio for ratio, _ in ratios])
                print(f"| {TABLES[table].title} | {name} | {len(ratios)} | {mean:.2f} | {worst} |")


def page(measured: dict[str, list[Row]], told: str) -> str:
    """What a page has between its marks: each layer of `convolve`, and the other tables' means."""
    rows = measured["convolve"]
    peers = [name for name in PEERS if any(name in row.ratios for row in rows)]
    lines = [told, "", f"| layer | convmat, ms | {' | '.join(peers)} |", f"|---|---|{'---|' * len(peers)}"]
    for row in rows:
        ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in peers]
        lines.append(f"| {row.layer} | {1e3 * row.seconds:.3g} | {' | '.join(ratios)} |")
    means = [geometric_mean([row.ratios[name] for row in rows if name in row.ratios]) for name in peers]
    lines.append(f"| geometric mean | | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    lines += ["", "| | beside | layers | geometric mean | worst |", "|---|---|---|---|---|"]
    for name, (title, _, _, (peer, *_)) in TABLES.items():
        behind = sorted((row.ratios[peer], row.layer) for row in measured[name] if peer in row.ratios)
        if behind and name != "convolve":
            mean = geometric_mean([ratio for ratio, _ in behind])
            worst = f"{behind[0][0]:.2f}, {behind[0][1]}"
            lines.append(f"| {title} | {peer} | {len(behind)} | {mean:.2f} | {worst} |")
    return "\n" + "\n".join(lines) + "\n\n"


_MEMORY = """
import sys, numpy as np, convmat as cm
shape, filter_shape, where, dtype = eval(sys.argv[1])
def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
x, w = np.ones(shape, dtype), np.ones(filter_shape, dtype)
cm.convolve(np.ones((1, 64, 64, 8), dtype), np.ones((8, 3, 3, 8), dtype))  # libraries are there by now
todo = cm.engine.prepare(x, w, **where)
y = np.ones(todo.plan.output_shape, todo.plan.arithmetic.result)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
cm.engine.execute(todo, y)
print(status("VmHWM") - before, todo.plan.threads)
"""


def memory(options: argparse.Namespace) -> None:
    print("\n### Peak memory of `convolve` above input and output\n")
    print("| layer | threads | MiB | MiB a thread |\n|---|---|---|---|")
    for layer in (
        *layers.FIRST,
        Layer((1, 4000, 4000, 1), 1, (11, 11)),
        Layer((1, 4000, 4000, 1), 1, (11, 11), padding=5),
        Layer((1, 2000, 2000, 3), 16, (3, 3), padding=1),
        Layer((1, 512, 512, 64), 64, (3, 3), padding=1),
        Layer((1, 512, 512, 64), 64, (3, 3), padding=1, dtype="uint8"),
        Layer((1, 512, 512, 64), 64, (3, 3), padding=1, dtype="float16"),
        Layer((1, 512, 512, 64), 64, (3, 3), padding=1, dtype="complex64"),
        Layer((1, 1000, 1000, 64), 64, (3, 3), padding=1, groups=64),
        Layer((1, 160000, 1), 512, (400,), 16),
    ):
        argument = repr(
            (layer.shape, layer.filter_shape, layer.where | {"groups": layer.groups}, layer.dtype)
        )
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, argument],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"CONVMAT_THREADS": str(options.threads)},
        )
        peak, threads = map(float, done.stdout.split())
        print(f"| {layer} | {threads:.0f} | {peak:.1f} | {peak / threads:.1f} |", flush=True)


def startup(options: argparse.Namespace) -> None:
    print("\n### Whole commands\n\n| command | ms |\n|---|---|")
    for line in (
        "-c pass",
        "-c import\tnumpy",
        "-m convmat --help",
        "-m convmat --version",
        "-m convmat unroll sample_images/digit.png -k 7 -s 7 -q",
        "-m convmat convolve sample_images/scene.png --kernel sobel-x --depthwise -q",
        "-m convmat verify -q",
    ):
        command, taken = [sys.executable, *(word.replace("\t", " ") for word in line.split(" "))], []
        for _ in range(2 * options.rounds):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            taken.append(time.perf_counter() - start)
        print(f"| `python {' '.join(command[1:])}` | {1e3 * min(taken):.0f} |", flush=True)


OTHERS: dict[str, Callable[[argparse.Namespace], None]] = {"memory": memory, "startup": startup}


def main() -> None:
    every = [*TABLES, *OTHERS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="the tables; by default all")
    parser.add_argument("--rounds", type=int, default=8, help="turns that each takes (default 8)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of calls in a turn (default 0.05)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for everyone (default all)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the page's marks")
    options = parser.parse_args()
    if options.write and not TABLES.keys() <= set(options.only):
        parser.error("--write needs all tables; leave --only out")
    peak = measure_peak(options.threads)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, convmat {status()}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    print(f"{platform.machine()}, {options.threads} threads, {versions}; {load}.")
    rates = f"{peak.flops / 1e9:.0f} GFLOP/s, memory is copied at {peak.copied / 1e9:.1f} GB/s"
    print(f"BLAS multiplies at {rates}.")
    measured = {}
    for name in options.only:
        if name in TABLES:
            measured[name] = compare(TABLES[name], peak, options)
        else:
            OTHERS[name](options)
    summary(measured)
    if options.write:
        asked = f"--rounds {options.rounds} --seconds {options.seconds} --threads {options.threads}"
        beside = ", ".join(f"{name} {version(name)}" for name in PEERS if importlib.util.find_spec(name))
        told = f"`python -m tests.benchmarks {asked}` on {platform.machine()}, beside {beside}:"
        text = options.write.read_text(encoding="utf-8")
        options.write.write_text(fill(text, "measured", page(measured, told)), encoding="utf-8")


if __name__ == "__main__":
    main()
