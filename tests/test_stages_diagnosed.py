"""Diagnosis of the stages beside the convolution: planted mistakes are named, spoilt results never are.

What a mistake gives is computed here in plain NumPy, not by the tables under test.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from convmat import reference
from convmat.verification.backward import (
    diagnose_bias_gradient,
    diagnose_input_gradient,
    diagnose_weight_gradient,
)
from convmat.verification.moved import (
    diagnose_flatten_filters,
    diagnose_fold,
    diagnose_unroll,
)
from tests.tools import mostly_slow

RNG = np.random.default_rng(2017)
X = RNG.standard_normal((3, 7, 8, 4)).astype(np.float32)
KERNEL = (3, 2)
WINDOW: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 2)}
OUT = reference.output_size(X.shape[1:-1], KERNEL, **WINDOW)
X_COL = reference.unroll(X, KERNEL, **WINDOW)
BOX = X_COL.reshape(3, *OUT, *KERNEL, 4)  # n, y, x, i, j, c


def shuffled(order: str, shape: tuple[int, ...] | None = None, box: np.ndarray = BOX) -> np.ndarray:
    axes = ["nyxijc".index(letter) for letter in order]
    moved = box.transpose(axes)
    return np.ascontiguousarray(moved).reshape(shape or (-1, box[0, 0, 0].size))


def unrolled(**changed: Any) -> np.ndarray:
    return reference.unroll(X, KERNEL, **WINDOW | changed)


def padded_with(number: float) -> np.ndarray:
    x = np.pad(X, [(0, 0), *WINDOW["padding"], (0, 0)], constant_values=number)
    return reference.unroll(x, KERNEL, **WINDOW | {"padding": "valid"})


UNROLLED: list[tuple[str, np.ndarray]] = [
    ("patches-as-columns", X_COL.T),
    ("patches-as-columns", np.ascontiguousarray(X_COL.T).reshape(X_COL.shape)),
    ("patches-as-columns-by-image", shuffled("nijcyx", (3, 24, -1))),
    ("columns-cij", shuffled("nyxcij")),
    ("columns-jic", shuffled("nyxjic")),
    ("rows-yxn", shuffled("yxnijc")),
    ("rows-yxn", shuffled("yxnijc", (OUT[0] * OUT[1], -1))),  # images side by side
    ("rows-nxy", shuffled("nxyijc")),
    ("patches-as-columns columns-cij", shuffled("cijnyx", (24, -1))),
    ("patches-as-columns rows-yxn columns-cij", shuffled("cijyxn", (24, -1))),  # as of CS231n
    ("patches-as-columns-by-image columns-cij", shuffled("ncijyx", (3, 24, -1))),  # as PyTorch's unfold
    ("flipped-both", shuffled("nyxijc", box=BOX[:, :, :, ::-1, ::-1])),
    ("flipped-up-down", shuffled("nyxijc", box=BOX[:, :, :, ::-1])),
    ("flipped-left-right columns-cij", shuffled("nyxcij", box=BOX[:, :, :, :, ::-1])),
    ("channels-reversed", shuffled("nyxijc", box=BOX[..., ::-1])),
    ("batch-reversed", shuffled("nyxijc", box=BOX[::-1])),
    ("batch-first-repeated", reference.unroll(X[[0, 0, 0]], KERNEL, **WINDOW)),
    ("padding-value", padded_with(-7)),
    ("padding-mode-reflect", unrolled(padding_mode="reflect")),
    ("padding-sides-swapped", unrolled(padding=((1, 1), (1, 0)))),
    ("stride-axes-swapped", unrolled(stride=(1, 2))),
    ("stride-off-by-one", unrolled(stride=(3, 1))),
    ("dilation-ignored", unrolled(dilation=1)),
    ("dilation-off-by-one", unrolled(dilation=(1, 3))),
    ("padding-off-by-one", unrolled(padding=((2, 2), (1, 2)))),
    ("padding-valid", unrolled(padding="valid")),
    ("reshaped", X_COL.reshape(-1)),
]


@pytest.mark.parametrize(("keys", "wrong"), mostly_slow(UNROLLED))
def test_unroll(keys: str, wrong: np.ndarray) -> None:
    found = diagnose_unroll(X, KERNEL, wrong, **WINDOW)
    assert set(keys.split()) in [set(one.mistakes) for one in found], found
    assert not any(one.exceptions for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_fold(overlap: str) -> None:
    p = RNG.standard_normal(X_COL.shape).astype(np.float32)
    right = {"input_shape": X.shape, "kernel_size": KERNEL, **WINDOW, "overlap": overlap}

    def folded(x_col: np.ndarray = p, **changed: Any) -> np.ndarray:
        return reference.fold(x_col, **right | changed).astype(np.float32)

    pixels = reference.unroll(np.arange(1, X.size + 1).reshape(X.shape), KERNEL, **WINDOW)
    last, by_tap = np.zeros((2, X.size + 1), np.float32)
    for row, col in itertools.product(*map(range, p.shape)):
        last[pixels[row, col]] = p[row, col]
    for col, row in itertools.product(*map(range, p.T.shape)):
        by_tap[pixels[row, col]] = p[row, col]
    box = p.reshape(BOX.shape)
    other = {"sum": "mean", "mean": "sum"}[overlap]
    for key, wrong in (
        ("overlap-last", last[1:].reshape(X.shape)),
        ("overlap-first", by_tap[1:].reshape(X.shape)),
        (f"overlap-{other}", folded(overlap=other)),
        ("x-col-columns-cij", folded(order="chw")),
        ("x-col-flipped-both", folded(box[:, :, :, ::-1, ::-1].reshape(p.shape))),
        ("axes-ncyx", np.moveaxis(folded(), -1, 1)),
        ("axes-nxyc", folded().swapaxes(1, 2)),
        ("channels-reversed", folded()[..., ::-1]),
        ("batch-reversed", folded()[::-1]),
        ("padding-sides-swapped", folded(padding=((1, 1), (1, 0)))),
    ):
        found = diagnose_fold(p, expected=wrong, **right)
        assert (key,) in [one.mistakes for one in found], (key, found)
    assert not diagnose_fold(p, expected=folded(), **right)


def test_fold_of_the_last_copy() -> None:
    """As `x[i] += c` leaves it; what is left by chance has no name."""
    p, wrong = RNG.standard_normal(X_COL.shape).astype(np.float32), np.zeros(X.size + 1, np.float32)
    wrong[reference.unroll(np.arange(1, X.size + 1).reshape(X.shape), KERNEL, **WINDOW).ravel()] += p.ravel()
    [found] = diagnose_fold(p, X.shape, KERNEL, wrong[1:].reshape(X.shape), **WINDOW)
    assert found.mistakes == ("overlap-last",)
    assert "as x[i] += c leaves it" in str(found)


FILTERS = RNG.standard_normal((5, *KERNEL, 4)).astype(np.float32)
W_COL = reference.flatten_filters(FILTERS)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("axes-kijc", W_COL.T),
        ("axes-cijk", reference.flatten_filters(FILTERS, "chw")),
        ("axes-jick", reference.flatten_filters(np.ascontiguousarray(FILTERS.swapaxes(1, 2)))),
        ("axes-kcij", np.moveaxis(FILTERS, -1, 1).reshape(5, -1)),
        ("flipped-both", reference.flatten_filters(FILTERS[:, ::-1, ::-1])),
        ("flipped-up-down", reference.flatten_filters(FILTERS[:, ::-1])),
        ("filters-reversed", W_COL[:, ::-1]),
        ("channels-reversed", reference.flatten_filters(FILTERS[..., ::-1])),
        (
            "kernel-oihw-read-as-ohwi",
            reference.flatten_filters(
                np.ascontiguousarray(np.moveaxis(FILTERS, -1, 1)).reshape(FILTERS.shape)
            ),
        ),
    ],
)
def test_flatten_filters(key: str, wrong: np.ndarray) -> None:
    found = diagnose_flatten_filters(FILTERS, wrong)
    assert (key,) in [one.mistakes for one in found], found


# Gradients.

LAYER: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 2)}
SQUARE = RNG.standard_normal((4, 3, 3, 4)).astype(np.float32)  # as many filters as channels
DY = RNG.standard_normal((3, *reference.output_size(X.shape[1:-1], (3, 3), **LAYER), 4)).astype(np.float32)


def dx(dy: np.ndarray = DY, filters: np.ndarray = SQUARE, **changed: Any) -> np.ndarray:
    return reference.input_gradient(dy, filters, X.shape, **LAYER | changed).astype(np.float32)


def dw(x: np.ndarray = X, dy: np.ndarray = DY, **changed: Any) -> np.ndarray:
    return reference.weight_gradient(x, dy, (3, 3), **LAYER | changed).astype(np.float32)


def fits(dy: np.ndarray, **changed: Any) -> np.ndarray:
    """dY where a mistaken layer has other outputs: zeros more, or cut."""
    size = reference.output_size(X.shape[1:-1], (3, 3), **LAYER | changed)
    wide = np.zeros((3, *(max(a, b) for a, b in zip(size, dy.shape[1:-1], strict=True)), 4), np.float32)
    wide[:, : dy.shape[1], : dy.shape[2]] = dy
    return wide[:, : size[0], : size[1]]


@pytest.mark.parametrize(
    ("key", "wrong"),
    mostly_slow(
        [
            ("flipped-both", dx(filters=SQUARE[:, ::-1, ::-1])),
            ("flipped-left-right", dx(filters=SQUARE[:, :, ::-1])),
            ("kernel-transposed", dx(filters=SQUARE.swapaxes(1, 2))),
            ("kernel-filters-channels-swapped", dx(filters=SQUARE.swapaxes(0, -1))),
            ("stride-ignored", dx(fits(DY, stride=1), stride=1)),
            ("dilation-ignored", dx(fits(DY, dilation=1), dilation=1)),
            ("padding-valid", dx(fits(DY, padding="valid"), padding="valid")),
            ("shifted-one-row-earlier", dx(padding=((2, 0), (0, 1)))),
            ("padding-mode-circular", dx(padding_mode="circular")),
            ("grad-batch-first-repeated", dx(DY[[0, 0, 0]])),
            ("averaged-over-the-batch", dx() / 3),
            ("doubled", dx() * 2),
            ("negative", -dx()),
            ("axes-ncyx", np.moveaxis(dx(), -1, 1)),
            ("axes-nxyc", dx().swapaxes(1, 2)),
            ("channels-reversed", dx()[..., ::-1]),
        ]
    ),
)
def test_input_gradient(key: str, wrong: np.ndarray) -> None:
    found = diagnose_input_gradient(DY, SQUARE, X.shape, wrong, **LAYER)
    assert (key,) in [one.mistakes for one in found], found


@pytest.mark.parametrize(
    ("key", "wrong"),
    mostly_slow(
        [
            ("first-image-alone", dw(X[:1], DY[:1])),
            ("last-image-alone", dw(X[-1:], DY[-1:])),
            ("averaged-over-the-batch", dw() / 3),
            ("averaged", dw() / (DY.size // 4)),
            ("flipped-both", dw()[:, ::-1, ::-1]),
            ("flipped-up-down", dw()[:, ::-1]),
            ("axes-kjic", dw().swapaxes(1, 2)),
            ("axes-kcij", np.moveaxis(dw(), -1, 1)),
            ("axes-ijck", np.moveaxis(dw(), 0, -1)),
            ("channels-reversed", dw(X[..., ::-1])),
            ("stride-ignored", dw(dy=fits(DY, stride=1), stride=1)),
            ("padding-valid", dw(dy=fits(DY, padding="valid"), padding="valid")),
            ("padding-mode-replicate", dw(padding_mode="replicate")),
            ("image-read-as-chw", dw(np.moveaxis(X.reshape(3, 4, 7, 8), 1, -1))),
            ("doubled", dw() * 2),
        ]
    ),
)
def test_weight_gradient(key: str, wrong: np.ndarray) -> None:
    found = diagnose_weight_gradient(X, DY, 3, wrong, **LAYER)
    assert (key,) in [one.mistakes for one in found], found


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("averaged", DY.mean((0, 1, 2))),
        ("averaged-over-the-batch", DY.sum((0, 1, 2)) / 3),
        ("first-image-alone", DY[0].sum((0, 1))),
        ("summed-but-y", DY.sum((0, 2, 3))),
        ("summed-but-n", DY.sum((1, 2, 3))),
        ("grad-read-as-chw", DY.reshape(3, 4, -1).sum((0, 2))),
        ("filters-reversed", DY.sum((0, 1, 2))[::-1]),
    ],
)
def test_bias_gradient(key: str, wrong: np.ndarray) -> None:
    found = diagnose_bias_gradient(DY, wrong)
    assert (key,) in [one.mistakes for one in found], found


@pytest.mark.slow
def test_what_is_right_or_spoilt_has_no_name() -> None:
    spoil = RNG.standard_normal
    for found, right in (
        (lambda mine: diagnose_input_gradient(DY, SQUARE, X.shape, mine, **LAYER), dx()),
        (lambda mine: diagnose_weight_gradient(X, DY, 3, mine, **LAYER), dw()),
        (lambda mine: diagnose_bias_gradient(DY, mine), DY.sum((0, 1, 2), np.float64)),
        (lambda mine: diagnose_unroll(X, KERNEL, mine, **WINDOW), X_COL),
        (lambda mine: diagnose_flatten_filters(FILTERS, mine), W_COL),
    ):
        assert not found(right)
        half = right.copy()
        half[len(right) // 2 :] += spoil(half[len(right) // 2 :].shape)
        assert not found(half), found(half)


def test_exceptions_are_named() -> None:
    """A mistake that explains all but few: these are told, by their place in the file."""
    wrong = np.ascontiguousarray(X_COL.T)
    wrong[5, 17] += 1
    [found] = diagnose_unroll(X, KERNEL, wrong, **WINDOW)
    assert (found.mistakes, found.exceptions) == (("patches-as-columns",), ((5, 17),))
    assert "except 1 element: (5, 17)" in str(found)
