"""The same on every run and machine: Hypothesis' examples, no timing that could fail a test, signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.levels import levels, using

# Processes begun with nohup, or with & in a script, ignore these, and so would those that tests begin.
for ignored, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, usual)

# CI tries more: pytest -m hypothesis --hypothesis-profile=ci
for profile, examples in (("usual", 50), ("ci", 200)):
    settings.register_profile(
        profile,
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("usual")


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
