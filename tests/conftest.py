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

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")


@pytest.fixture(scope="module", params=levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """For modules that mark themselves with it: all their tests, every way there is to compute here."""
    with using(request.param):
        yield request.param
