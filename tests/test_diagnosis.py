"""Diagnosis: planted mistakes are named, and noise is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convmat import reference
from convmat.verification.diagnosis import diagnose

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 7, 8, 3)).astype(np.float32)
F = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)


def result(x: Any = X, f: Any = F, b: Any = B, padding: Any = "same", mode: str = "zeros") -> Any:
    return reference.convolve_by_taps(x, f, padding=padding, bias=b, padding_mode=mode).astype(np.float32)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        (result(f=F[:, ::-1, ::-1]), "flipped-both"),
        (result(f=F[:, :, ::-1]), "flipped-left-right"),
        (result(f=F.swapaxes(1, 2)), "kernel-transposed"),
        (result(b=None), "bias-missing"),
        (result(b=2 * B), "bias-doubled"),
        (result(padding="valid"), "padding-valid"),
        (result(mode="replicate"), "padding-mode-replicate"),
        (result(x=X[..., ::-1]), "channels-reversed"),
        (np.maximum(result(), 0), "relu"),
        (result().swapaxes(1, 2), "output-transposed"),
        (np.moveaxis(result(), -1, 1), "output-nchw"),
        (result()[::-1], "batch-reversed"),
    ],
)
def test_planted_mistakes_are_named(wrong: Any, key: str) -> None:
    assert (key,) in [d.mistakes for d in diagnose(X, F, wrong, padding="same", bias=B)]


def test_pairs_are_named() -> None:
    found = diagnose(X, F, result(f=F[:, :, ::-1], b=None), padding="same", bias=B)
    assert [set(d.mistakes) for d in found] == [{"flipped-left-right", "bias-missing"}]


def test_right_and_random_results_have_no_name() -> None:
    assert diagnose(X, F, result(), padding="same", bias=B) == []
    for seed in range(5):
        noise = np.random.default_rng(seed).standard_normal(result().shape).astype(np.float32)
        assert diagnose(X, F, result() + noise, padding="same", bias=B) == []
