"""Measure what memory each command asks for, and what it takes: python -m tests.memory [side …].

A command runs in a process of its own, first on small inputs, so that all it imports is there, then on inputs
of the given side. What it takes is its peak beyond what it held before; what it asks for is what it held when
it asked, and what it asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import convmat as cm

_ROOT = Path(__file__).parents[1]
_MB = 1 << 20
_SMALL = 48  # pixels of the inputs that a command runs on first

_RUN = """
import ctypes, json, os, sys
from convmat.files import memory
asked, check = [], memory.check_memory

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

def check_memory(subject, nbytes, remedy):
    asked.append(status("VmRSS") + nbytes)
    check(subject, nbytes, remedy)

memory.check_memory = check_memory
from convmat.cli import run
first, second = json.loads(sys.argv[1])
os.chdir(first.pop(0))
assert run(first) < 2
asked.clear()
os.chdir("../" + second.pop(0))
if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
    libc.malloc_trim(0)  # else what was freed would be taken a second time, and not be seen
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = status("VmRSS")
assert run(second) < 2
print(max(asked, default=before) - before, status("VmHWM") - before, file=sys.stderr)
"""

COMMANDS = {
    "verify, a few of many pixels": "verify gray.npy --kernel box:3 --stride 20",
    "verify": "verify x.npy --kernel w.npy",
    "verify --expected": "verify x.npy --kernel w.npy --expected y.npy --no-diagnose",
    "verify --expected, diagnosed": "verify x.npy --kernel w.npy --expected wrong.npy",
    "verify of a photo": "verify photo.png --kernel box:3 --depthwise",
    "verify --stage unroll": "verify x.npy --k 3 --stage unroll",
    "verify --stage flatten-filters": "verify --kernel many.npy --stage flatten-filters",
    "verify --stage fold": "verify --stage fold few.npy --k 2 --input-shape {third},{third}",
    "verify --stage matrix": "verify --stage matrix --input-shape {root},{root} --kernel box:3",
    "two arrays": "compare y.npy wrong.npy",
    "flatten-filters": "flatten-filters many.npy -o flat.npy",
    "matmul --layout nchw": "matmul rows.npy w_col.npy --output-shape {side},{side} --layout nchw -o p.npy",
    "convolve -o y.png": "convolve x.npy --kernel w3.npy -o y.png",
    "convolve of a photo": "convolve photo.png --kernel box:3 --depthwise -o y.png",
    "convolve of a JPEG": "convolve photo.jpg --kernel box:3 --depthwise -o p.npy",
    "convolve --layout nchw": "convolve image.npy --kernel w.npy --layout nchw -o p.npy",
    "convolve --transpose": "convolve x.npy --kernel wt.npy --transpose -o p.npy",
    "convolve --figure": "convolve photo.png --kernel box:3 --depthwise --figure f.png",
    "unroll --figure": "unroll photo.png --k 3 --figure f.png",
    "unroll --animate": "unroll photo.png --k 3 --animate f.gif",
    "unroll --preview": "unroll photo.png --k 3 --preview",
    "locate --figure": "locate photo.png --k 3 --row 1 --col 1 --figure f.png",
    "fold -o y.png": "fold patches.npy --k 1 --input-shape {side},{side},3 -o y.png",
    "matrix -o": "matrix --input-shape {half},{half} --kernel box:5 --padding same --no-spectrum -o m.npz",
    "matrix --dense": "matrix --input-shape {root},{root} --kernel box:3 --no-spectrum --dense -o m.npy",
    "matrix, singular values": "matrix --input-shape {third},{third} --kernel box:3",
    "train": "train --epochs 1 --train-size {side} --val-size 100 --optimizer sgd --batch-size 50",
}
"""By what holds something whole."""


class Memory(NamedTuple):
    """Bytes."""

    asked: int
    taken: int

    @property
    def ratio(self) -> float:
        """Of what is taken to what is asked for."""
        return self.taken / self.asked if self.asked else float("inf")


def make(folder: Path, side: int) -> None:
    """Inputs of every kind, of so many pixels a side."""
    rng = np.random.default_rng(2017)
    photo = rng.integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(photo).save(folder / "photo.png", compress_level=1)
    Image.fromarray(photo).save(folder / "photo.jpg")
    x, w = rng.random((1, side, side, 2), np.float32), rng.random((4, 3, 3, 2), np.float32)
    arrays = {
        "gray": photo[..., 0].repeat(2, 0).repeat(2, 1),
        "x": x,
        "image": np.ascontiguousarray(x.transpose(0, 3, 1, 2)),
        "w": w,
        "w3": w[:3],
        "wt": rng.random((2, 3, 3, 4), np.float32),
        "y": cm.convolve(x, w),
        "wrong": cm.convolve(x, w, flip=True),
        "many": rng.random((side, 3, 3, side // 6), np.float32),
        "w_col": np.ones((2, 3), np.float32),
        "rows": x.reshape(-1, 2),
        "patches": photo.reshape(-1, 3),
        "few": rng.random(((side // 3 - 1) ** 2, 4), np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def measure(command: str, side: int, folder: Path) -> Memory:
    """Run a command on inputs that are there, small ones and those of this side."""
    words = []
    for size in (_SMALL, side):
        sizes = {"side": size, "half": size // 2, "third": size // 3, "root": min(size, 62)}
        words.append([str(size), *command.format(**sizes).split()])
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(words)],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )
    return Memory(*map(int, done.stderr.split()[-2:]))


@contextlib.contextmanager
def inputs(*sides: int) -> Iterator[Path]:
    """A folder with the inputs of these sides."""
    with tempfile.TemporaryDirectory() as name:
        for side in (_SMALL, *sides):
            (Path(name) / str(side)).mkdir()
            make(Path(name) / str(side), side)
        yield Path(name)


def main() -> None:
    sides = [int(word) for word in sys.argv[1:]] or [1000, 2000]
    print("| command | " + " | ".join(f"{side}² asked, taken, MB | ratio" for side in sides) + " |")
    print("|---|" + "---|---|" * len(sides))
    with inputs(*sides) as folder:
        for name, command in COMMANDS.items():
            cells = []
            for side in sides:
                found = measure(command, side, folder)
                cells += [f"{found.asked / _MB:.0f}, {found.taken / _MB:.0f}", f"{found.ratio:.2f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
