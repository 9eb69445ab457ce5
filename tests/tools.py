"""What several test files need: samples, convmat in a shell, the bytes of .npy files, slower cases."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import convmat as cm

SAMPLES = Path(__file__).parent.parent / "sample_images"
DIGIT, SCENE, STROKES, EDGES, BIAS = (
    f"sample_images/{name}"
    for name in ("digit.png", "scene.png", "strokes_2x7x7x1.npy", "edges_8x3x3x3.npy", "bias_8.npy")
)
# Python that does not buffer, as in some containers, hides what a failed flush does.
HIDING = ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "NO_COLOR", "FORCE_COLOR", "COLUMNS")


def copy_samples(folder: Path) -> None:
    """The samples in a folder, as sample_images; without the script that draws them."""
    ignored = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(SAMPLES, folder / "sample_images", ignore=ignored)


def environment(**more: str) -> dict[str, str]:
    """A user's environment, with this convmat on the path."""
    usual = {key: value for key, value in os.environ.items() if key not in HIDING}
    return usual | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{usual['PATH']}"} | more


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    """In Latin-1, which has a letter for every byte."""
    err: str

    @classmethod
    def of(cls, status: int, out: bytes, err: bytes) -> Done:
        return cls(status, out.decode("latin-1"), err.decode(errors="surrogateescape"))


def shell(script: str, program: str = "bash", **env: str) -> Done:
    """Run a script in a real shell, as a user's."""
    done = subprocess.run([program, "-c", script], env=environment(**env), capture_output=True, timeout=60)
    return Done.of(done.returncode, done.stdout, done.stderr)


def convmat(*arguments: str, folder: Path | None = None, stdin: bytes = b"") -> Any:
    """The command as a process: its `subprocess.CompletedProcess[bytes]`."""
    command = [sys.executable, "-m", "convmat", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), input=stdin, capture_output=True)


def npy(array: Any) -> bytes:
    """A file of it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def requantize(sums: Any, scale: float, zero: int, rounding: str, dtype: str) -> Any:
    """What becomes of sums by one scale."""
    made = cm.Quantization(scale=scale, output_zero_point=zero, rounding=rounding, dtype=dtype)
    return made.apply(np.asarray(sums))


def mostly_slow(cases: Iterable[Any], every: int = 3) -> list[Any]:
    """Cases to parametrize by; but for the first of each few, only CI takes the time for them."""
    return [
        case
        if number % every == 0
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]
