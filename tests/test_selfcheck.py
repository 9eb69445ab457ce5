"""The self-check: it finds nothing in what is right, and whatever is broken, in the family it belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.verification import judging, selfcheck


def failures() -> set[str]:
    """Families of the self-check that found something; none may raise."""
    checks = list(selfcheck.self_check())
    assert len({(check.family, check.name) for check in checks}) == len(checks)
    assert all(bool(check) == (not check.trouble) for check in checks)
    return {check.family for check in checks if not check}


def test_the_self_check_finds_nothing_and_is_quick() -> None:
    start = time.perf_counter()
    checks = list(selfcheck.self_check())
    assert time.perf_counter() - start < 5
    assert [str(check) for check in checks if not check] == []
    assert len(checks) > 40
    assert {check.family for check in checks} == {"output size", "every stage", "dtype", "arrays"}


def rows_swapped(unroll: Any) -> Any:
    return lambda *args, **options: unroll(*args, **options)[::-1]


def channels_swapped(flatten: Any) -> Any:
    return lambda filters, *args, **options: flatten(filters[..., ::-1], *args, **options)


def one_off(execute: Any) -> Any:
    def broken(todo: Any) -> np.ndarray:
        y = execute(todo).copy()
        y.flat[-1:] += 1
        return y

    return broken


def odd_pixel_at_the_start(geometry: Any) -> Any:
    def broken(shape: Any, kernel: Any, stride: Any = 1, padding: Any = "valid", dilation: Any = 1) -> Any:
        return geometry(shape, kernel, stride, "same-lower" if padding == "same" else padding, dilation)

    return broken


def padding_forgotten(geometry: Any) -> Any:
    return lambda shape, kernel, stride=1, padding=0, dilation=1: geometry(shape, kernel, stride, 0, dilation)


def stride_forgotten(geometry: Any) -> Any:
    return lambda shape, kernel, stride, *others: geometry(shape, kernel, 1, *others)


def raising(_: Any) -> Any:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("broken")

    return broken


@pytest.mark.parametrize(
    "name, breaking, found",
    [
        ("unroll", rows_swapped, {"every stage"}),
        ("unroll", raising, {"every stage"}),
        ("flatten_filters", channels_swapped, {"every stage"}),
        ("flatten_filters", raising, {"every stage"}),
        ("execute", one_off, {"every stage", "dtype"}),
        ("execute", raising, {"every stage", "dtype"}),
        ("convolve", lambda convolve: lambda *a, **o: -convolve(*a, **o), {"dtype", "arrays"}),
        ("convolve", lambda convolve: lambda *a, **o: convolve(*a, **o).astype("f4"), {"dtype"}),
        ("convolve", raising, {"dtype", "arrays"}),
        ("ConvGeometry", odd_pixel_at_the_start, {"every stage"}),
        ("ConvGeometry", padding_forgotten, {"output size", "every stage"}),
        ("ConvGeometry", raising, {"output size", "every stage"}),
        ("to_batch", raising, {"arrays"}),
    ],
)
def test_the_self_check_finds(
    monkeypatch: pytest.MonkeyPatch, name: str, breaking: Callable[[Any], Any], found: set[str]
) -> None:
    for module in (selfcheck, judging):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, breaking(getattr(module, name)))
    assert failures() >= found


def test_the_self_check_says_which_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "unroll", rows_swapped(cm.unroll))
    checks = {check.name: check for check in selfcheck.self_check()}
    trouble = checks["same, stride 2"].trouble
    assert trouble.startswith("unroll: different: ")
    assert "; X_col · W_col: different: " in trouble
    assert "mapping" not in trouble
    monkeypatch.setattr(selfcheck, "unroll", raising(None))
    checks = {check.name: check for check in selfcheck.self_check()}
    assert checks["same, stride 2"].trouble.startswith("unroll: RuntimeError: broken; ")


def test_wrong_sizes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "ConvGeometry", stride_forgotten(cm.ConvGeometry))
    sizes = next(selfcheck.self_check())
    assert sizes.family == "output size"
    assert "different: " in sizes.trouble
    assert sizes.max_abs_error > 0
