"""The same on every run and machine: Hypothesis' examples, no timing that could fail a test, signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.levels import levels, using
from tests.tools import copy_samples

# Processes begun with nohup, or with & in a script, ignore these, and so would those that tests begin.
for ignored, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, usual)

# CI tries more: pytest -m 'slow or hypothesis' --hypothesis-profile=ci
for profile, examples in (("usual", 50), ("ci", 70)):
    settings.register_profile(
        profile,
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("usual")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def samples(folder: Path) -> None:
    """A folder to work in with the samples."""
    copy_samples(folder)


@pytest.fixture(
    scope="module",
    params=[pytest.param(at, marks=pytest.mark.slow) if at in levels()[:-2] else at for at in levels()],
)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """For modules that mark themselves with it: all their tests, every way there is to compute here.

    The usual run does without the lower levels of the compiled library, of the same source as the best.
    """
    with using(request.param):
        yield request.param
