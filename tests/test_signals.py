"""Signals at moments by chance: they end the process, or its result is whole; nothing is left half done."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

SAMPLES = Path(__file__).parent.parent / "sample_images"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# A process that sends itself a signal at its Nth call of any function, counted from the first one of a name:
# moments that do not depend on how fast the machine is.
CHILD = """
import atexit, os, sys
from convmat.__main__ import main
number, at, since = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
calls = {"_find_and_load": -1, "_hidden": -1}
names = [since] if since else list(calls)
def look(frame, event, _):
    if event == "return" or event == "c_return":
        return
    for name in names:
        if calls[name] >= 0 or frame.f_code.co_name == name:
            calls[name] += 1
            if calls[name] == at:
                os.kill(os.getpid(), number)
if number == 0:
    atexit.register(lambda: (sys.setprofile(None), print(*calls.values(), file=open("calls", "w"))))
sys.setprofile(look)
main()
"""
MOMENTS = int(os.environ.get("SIGNAL_MOMENTS", "50"))  # 500 take a dozen minutes of a processor
FROM_START, FROM_OUTPUT = "_find_and_load", "_hidden"  # when signals have handlers; an output's hidden name
LINES = {
    "unroll": "unroll digit.png --k 7 --stride 7 -o out.npy --figure out.png",
    "unroll in a pipe": "unroll digit.png --k 3 -q -o -",
    "flatten-filters": "flatten-filters edges_8x3x3x3.npy -o out.npy",
    "matmul": "matmul x_col.npy w.npy -q -o out.npy",
    "convolve": "convolve digit.png --kernel sobel-x -o out.png --figure out.gif",
    "transpose": "convolve digit.png --kernel box:3 --transpose --stride 2 -o out.npy",
    "fold": "fold x_col.npy --input-shape 20,20 --k 3 -o out.npy",
    "locate": "locate digit.png --k 7 --row 3 --col 4 --figure out.png",
    "matrix": "matrix --input-shape 9,9 --kernel box:3 -o out.npz --figure out.png",
    "sizes": "sizes 224 --k 7 --stride 2 --json",
    "verify": "verify digit.png --kernel box:3",
    "verify, different": "compare x_col.npy w.npy",
    "write a probe": "probe write probe --k 3",
    "a mistake": "unrol digit.png --k 7",
    "train": "train --epochs 2 --filters 2 --train-size 16 --val-size 8 -q -o run",
}


class Moment(NamedTuple):
    """What is run, which signal comes, and when: after so many calls, of the first of this name."""

    line: str
    signal: int
    at: int
    since: str


class Right(NamedTuple):
    """What a line comes to when it is left alone."""

    status: int
    stdout: bytes
    stderr: bytes
    files: dict[str, bytes | None]
    from_start: int
    from_output: int


def everything(folder: Path) -> dict[str, bytes | None]:
    """All there is in a folder and below: files with what they hold, folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder with inputs, and with old files in the places of outputs."""
    folder = tmp_path / "before"
    (folder / "tmp").mkdir(parents=True)
    for name in ("digit.png", "edges_8x3x3x3.npy"):
        shutil.copy(SAMPLES / name, folder / name)
    np.save(folder / "x_col.npy", np.arange(18.0 * 18 * 9).reshape(-1, 9))
    np.save(folder / "w.npy", np.arange(18.0).reshape(9, 2))
    for ending in ("npy", "npz", "png", "gif"):
        (folder / f"out.{ending}").write_bytes(b"old")
    return folder


def child(folder: Path, moment: Moment) -> subprocess.CompletedProcess[bytes]:
    words = [str(int(moment.signal)), str(moment.at), moment.since, *LINES[moment.line].split()]
    env = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    env.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        cwd=folder,
        env=env,
        capture_output=True,
        timeout=300,
        check=False,
    )


def right(before: Path, line: str) -> Right:
    """A line left alone, and how many calls it makes from its start and from its first output."""
    folder = before.parent / line
    shutil.copytree(before, folder)
    done = child(folder, Moment(line, 0, -1, ""))
    assert done.stderr.count(b"convmat: ") == (done.returncode == 2)
    calls = map(int, (folder / "calls").read_text().split())
    (folder / "calls").unlink()
    return Right(done.returncode, done.stdout, done.stderr, everything(folder), *calls)


def check(before: Path, number: int, moment: Moment, wanted: Right) -> int:
    """Run a moment; complain of anything but an end by the signal, or the right result; its status."""
    folder = before.parent / str(number)
    shutil.copytree(before, folder)
    done, after = child(folder, moment), everything(folder)
    if moment.line == "train":  # which stops between two steps, keeps what was done, and says so
        told = rb"(convmat: warning: stopped before the end; .* goes on\n)?"
        assert re.fullmatch(told, done.stderr), (moment, done.stderr)
        assert after.keys() in (everything(before).keys(), wanted.files.keys()), moment
    else:
        assert done.stderr in (b"", wanted.stderr), (moment, done.stderr)
        assert after in (everything(before), wanted.files), (moment, after.keys())
        assert wanted.stdout.startswith(done.stdout), moment
    if done.returncode == 128 + moment.signal:
        return done.returncode
    assert (done.returncode, done.stdout, after.keys()) == (
        wanted.status,
        wanted.stdout,
        wanted.files.keys(),
    ), moment
    return done.returncode


def ends_of(before: Path, lines: Sequence[str], moments: int) -> list[int]:
    """How as many moments by chance end, of these lines in turn, half of them after an output is begun."""
    chance = random.Random(16)
    wanted = {line: right(before, line) for line in lines}
    chosen = []
    for number, line in zip(range(moments), itertools.cycle(lines)):
        since = FROM_OUTPUT if wanted[line].from_output > 0 and chance.random() < 0.5 else FROM_START
        calls = wanted[line].from_output if since == FROM_OUTPUT else wanted[line].from_start
        chosen.append((number, Moment(line, chance.choice(SIGNALS), chance.randrange(1, calls), since)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda item: check(before, *item, wanted[item[1].line]), chosen))


@pytest.mark.slow
def test_signals_at_many_moments_of_all_commands(before: Path) -> None:
    ends = ends_of(before, list(LINES), MOMENTS)
    assert {130, 143, 129, 131} <= set(ends)


def test_signals_at_a_few_moments(before: Path) -> None:
    ends = ends_of(before, ["matmul", "a mistake"], 10)
    assert len({130, 143, 129, 131} & set(ends)) > 2
