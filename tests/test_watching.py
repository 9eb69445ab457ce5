"""Work that can pass a second: its steps are handed on, bars show them, Ctrl-C ends it at once."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import output, signals
from convmat.experiment.digits import draw_digits
from convmat.matrix import layer_map
from convmat.verification import stages
from convmat.verification.diagnosis import diagnose
from convmat.verification.layer import verify

pytestmark = pytest.mark.usefixtures("folder")

X = np.arange(2 * 6 * 5 * 2).reshape(2, 6, 5, 2) % 7
W = np.arange(3 * 3 * 3 * 2).reshape(3, 3, 3, 2) % 5 - 2
X_COL = cm.unroll(X, 3)


class Ended(Exception):
    """Raised where a bar is, as a signal would be."""


class Spy:
    """A watch that counts the steps of each work, and may end one."""

    def __init__(self, end_at: int | None = None) -> None:
        self.works: list[tuple[int, int]] = []
        self.end_at = end_at

    def __call__(self, steps: Iterable[Any], total: int) -> Iterator[Any]:
        self.works.append((0, total))
        for count, step in enumerate(steps, 1):
            if count == self.end_at:
                raise Ended
            self.works[-1] = (count, total)
            yield step


WORKS: dict[str, Callable[[Any], Any]] = {
    "verify": lambda watch: verify(X, W, watch=watch),
    "unroll": lambda watch: stages.verify_unroll(X, 3, watch=watch),
    "flatten-filters": lambda watch: stages.verify_flatten_filters(W, watch=watch),
    "fold": lambda watch: stages.verify_fold(X_COL, X.shape, 3, watch=watch),
    "matrix": lambda watch: stages.verify_matrix(W, X.shape, watch=watch),
    "diagnosis": lambda watch: diagnose(X, W, cm.convolve(X, W) + 1, watch=watch),
    "digits": lambda watch: draw_digits(40, 0, watch),
}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_all_steps_of_a_work_are_handed_on(
    work: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmat.verification.judge.BAND", 1)
    spy = Spy()
    found = work(spy)
    assert str(found) == str(work(lambda steps, total: steps))
    assert max(count for count, _ in spy.works) > 1
    for count, total in spy.works:
        assert count == total
    with pytest.raises(Ended):
        work(Spy(end_at=2))


def test_iterations_of_a_spectrum_are_handed_on() -> None:
    """To the one that converges, of those allowed."""
    layer = layer_map(W, (1, 60, 50, 2))
    spy = Spy()
    found = layer.spectrum(iterations=9, watch=spy)
    assert found is not None
    assert (found.method, spy.works) == ("lanczos", [(found.iterations, 9)])
    assert found == layer.spectrum(iterations=9)
    with pytest.raises(Ended):
        layer.spectrum(watch=Spy(end_at=3))


def test_waiting_for_a_work_gives_its_result_or_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.wait(lambda watch: sum(watch(range(4), 4)), "numbers") == 6
    with pytest.raises(ZeroDivisionError):
        output.wait(lambda _: 1 / 0, "numbers")


def test_a_terminal_is_told_at_once_that_the_work_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "write", lambda _, data: told.append(data))
    with signals.Deferred() as deferred:
        os.kill(os.getpid(), signal.SIGTERM)
        assert deferred.number == signal.SIGTERM
    assert told == [b"\nconvmat: stopping after this step; once more stops at once\n"]


# Real processes on a terminal


def stopped_at(shown: bytes, *args: str) -> tuple[int, bytes]:
    """Ctrl-C as soon as a terminal shows these bytes; exit status, and all that was shown."""
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "convmat", *args]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
    ) as done:
        os.close(stderr)
        seen, sent = b"", False
        while part := _read(terminal):
            seen += part
            if shown in seen and not sent:
                done.send_signal(signal.SIGINT)
                sent = True
        os.close(terminal)
        assert sent, seen
        return done.wait(60), seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_train_stops_before_its_first_epoch() -> None:
    """While digits are drawn: at once, and nothing is left."""
    sizes = ("--train-size", "5000", "--val-size", "5000", "--filters", "24")
    status, shown = stopped_at(b"chunk of images", "train", *sizes, "-o", "run")
    assert (status, shown.count(b"convmat:")) == (130, 0)
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_spectrum_of_a_dense_copy_stops() -> None:
    """Inside one call of LAPACK, of many seconds."""
    status, shown = stopped_at(
        b"singular values: 00:0", "matrix", "--input-shape", "45,45", "--kernel", "box:3"
    )
    assert (status, shown.count(b"convmat:")) == (130, 0)


@pytest.mark.slow
def test_verify_of_a_large_batch_stops() -> None:
    np.save("x.npy", np.ones((1500, 28, 28, 4), np.float32))
    np.save("w.npy", np.ones((32, 5, 5, 4), np.float32))
    status, shown = stopped_at(b"part", "verify", "x.npy", "--kernel", "w.npy")
    assert (status, shown.count(b"convmat:")) == (130, 0)


@pytest.mark.slow
def test_verify_of_a_stage_in_plain_loops_stops() -> None:
    np.save("x.npy", np.ones((40_000, 49), np.float32))
    line = "verify x.npy --stage fold --k 7 --input-shape 200,200 --padding same"
    status, shown = stopped_at(b"patch", *line.split())
    assert (status, shown.count(b"convmat:")) == (130, 0)
