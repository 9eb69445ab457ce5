"""Time per epoch of both networks at the paper's sizes against torch, and peak memory, as Markdown.

    python -m tests.benchmarks.train --epochs 3 --rounds 3

Each measurement is a process of its own, and torch's and convmat's take turns. An epoch is 8 steps of SGD
over 1,000 images and the loss of 1,000 validation images; both get the same images, weights and batches, and
as many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from convmat.experiment.digits import draw_digits
from convmat.experiment.run import Experiment
from convmat.experiment.settings import Settings

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def batches(e: Experiment, epoch: int) -> list[np.ndarray]:
    """The same batches for everybody."""
    order = np.random.default_rng(epoch).permutation(e.settings.train_size)
    return np.array_split(order, range(e.settings.batch_size, len(order), e.settings.batch_size))


def ours(e: Experiment, name: str) -> Callable[[int], float]:
    """convmat's epoch; it returns the validation loss."""
    run = e.runs["sgd"]
    network, update = run.networks[name], run.updates[name]

    def epoch(number: int) -> float:
        for which in batches(e, number):
            network.forward(e.train.inputs(name, which))
            network.backward(e.train.target[which])
            update.step([layer.gradient for layer in network.layers.values()])
        return e.loss(run, name, e.validation)

    return epoch


def theirs(e: Experiment, name: str) -> Callable[[int], float]:
    """torch's epoch, as its users write it: conv2d for the CNN."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    k, pixels = e.settings.filters, e.train.pixels
    first, dense = e.initial["first"], torch.nn.Linear(*e.initial["dense"].shape, bias=False)
    layer: Any
    if name == "cnn":
        layer = torch.nn.Conv2d(pixels.shape[-1], k, e.geometry.kernel_size, e.geometry.stride, bias=False)
        kernels = first.reshape(*e.geometry.kernel_size, -1, k).transpose(3, 2, 0, 1)
        # torch flattens (K, H_out, W_out): the rows of the dense weights in that order.
        rows = e.initial["dense"].reshape(-1, k, e.initial["dense"].shape[1]).swapaxes(0, 1).reshape(-1, 784)
        inputs = {"train": e.train.pixels, "validation": e.validation.pixels}
        inputs = {key: x.transpose(0, 3, 1, 2) for key, x in inputs.items()}
    else:
        layer = torch.nn.Linear(*first.shape, bias=False)
        kernels, rows = first.T, e.initial["dense"]
        inputs = {"train": e.train.x_col, "validation": e.validation.x_col}
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(kernels.copy()))
        dense.weight.copy_(torch.tensor(rows.T.copy()))
    network = torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Flatten(), dense, torch.nn.ReLU())
    x = {key: torch.tensor(values.copy()) for key, values in inputs.items()}
    target = {"train": torch.tensor(e.train.target), "validation": torch.tensor(e.validation.target)}
    optimizer = torch.optim.SGD(network.parameters(), lr=e.settings.learning_rate("sgd"))
    loss_of = torch.nn.MSELoss()

    def epoch(number: int) -> float:
        for which in batches(e, number):
            some = torch.from_numpy(which)
            optimizer.zero_grad()
            loss_of(network(x["train"][some]), target["train"][some]).backward()
            optimizer.step()
        with torch.no_grad():
            parts = zip(x["validation"].split(128), target["validation"].split(128), strict=True)
            total = sum(loss_of(network(part), wanted).item() * len(part) for part, wanted in parts)
        return total / len(target["validation"])

    return epoch


def child(who: str, name: str, epochs: int) -> None:
    """One process's measurement: seconds of each epoch after the first, and the last loss."""
    settings = Settings()
    e = Experiment(settings, draw_digits(settings.images, settings.seed))
    epoch = {"convmat": ours, "torch": theirs}[who](e, name)
    seconds = []
    for number in range(epochs):
        began = time.perf_counter()
        loss = epoch(number)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds[1:] or seconds, "loss": loss}))


def measure(who: str, name: str, epochs: int, threads: int) -> dict[str, Any]:
    """Run `child` in a process of its own."""
    env = os.environ | dict.fromkeys(_THREADS, str(threads))
    command = [sys.executable, "-m", "tests.benchmarks.train", "--child", who, name, "--epochs", str(epochs)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command_cost(*options: str) -> tuple[float, float]:
    """Seconds, and peak memory in MB, of `convmat train` with these options, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "convmat", "train", "-q", "-o", folder, *options])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.epochs)
        return
    print("| network | convmat, s an epoch | torch, s an epoch | torch / convmat | losses apart |")
    print("|---|---|---|---|---|")
    for name in ("cnn", "fc"):
        times: dict[str, list[float]] = {"convmat": [], "torch": []}
        losses: dict[str, float] = {}
        ratios = []
        for _ in range(options.rounds):
            for who in times:
                found = measure(who, name, options.epochs, options.threads)
                times[who].append(statistics.median(found["seconds"]))
                losses[who] = found["loss"]
            ratios.append(times["torch"][-1] / times["convmat"][-1])
        middle = {who: statistics.median(values) for who, values in times.items()}
        apart = abs(losses["convmat"] / losses["torch"] - 1)
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"| {name} | {middle['convmat']:.2f} | {middle['torch']:.2f} | {ratio} | {apart:.1e} |",
            flush=True,
        )
    print("\n| `convmat train` | seconds | peak memory, MB |\n|---|---|---|")
    for arguments in (["--optimizer", "adam", "--epochs", "2"], ["--optimizer", "both", "--epochs", "2"]):
        seconds, peak = command_cost(*arguments)
        print(f"| `{' '.join(arguments)}` | {seconds:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
