"""How many threads: what was asked for, what the environment says, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import run
from convmat.errors import GeometryError
from convmat.threads import thread_count


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVMAT_THREADS", raising=False)
    assert 1 <= thread_count() <= 1024
    monkeypatch.setenv("CONVMAT_THREADS", " 3 ")
    assert (thread_count(), thread_count(2), thread_count(np.int8(1024 // 16))) == (3, 2, 64)


@pytest.mark.parametrize("text", ["many", "", "0", "-1", "1025", "2.0", "٣٣٣٣", "9" * 100_000])
def test_what_the_environment_must_not_say(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVMAT_THREADS", text)
    shown = re.escape(repr(text[:20]))
    told = f"^CONVMAT_THREADS: is {shown}, expected a number from 1 to 1024; set it anew or unset it$"
    with pytest.raises(GeometryError, match=told):
        thread_count()
    assert thread_count(2) == 2


@pytest.mark.parametrize(
    "given, told",
    [
        (0, r"must be 1 to 1024, got 0; give a number between"),
        (-1, r"must be 1 to 1024, got -1;"),
        (1025, r"must be 1 to 1024, got 1025;"),
        (10**4000, r"must be 1 to 1024, got a number of 4001 digits;"),
        (2.0, r"expected a whole number, got 2\.0;"),
        ("2", r"expected a whole number, got '2';"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_what_is_refused(given: Any, told: str) -> None:
    x = np.zeros((1, 4, 1))
    for call in (
        lambda: cm.convolve(x, x, threads=given),
        lambda: cm.convolve_transpose(x, x, threads=given),
        lambda: cm.unroll(x, 2, threads=given),
        lambda: cm.fold(np.zeros((3, 2)), (1, 4, 1), 2, threads=given),
    ):
        with pytest.raises(GeometryError, match=f"^threads: {told}"):
            call()


@pytest.mark.parametrize("given", ["0", "1025", "9" * 4000])
@pytest.mark.parametrize(
    "command", ["unroll x.npy -k 2", "convolve x.npy --kernel box:2", "fold x.npy -k 1 --input-shape 4,4"]
)
def test_the_option(
    command: str,
    given: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((16, 1)) if "fold" in command else np.zeros((4, 4)))
    assert run([*command.split(), "--threads", given]) == 2
    assert re.fullmatch(
        r"convmat: --threads: (must be 1 to 1024, )?got .{1,40}; .*\n", capsys.readouterr().err
    )
