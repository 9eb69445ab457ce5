"""Mistakes: each by its function's name on a layer that is easy to follow, and the table that lists them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest

from convmat import reference
from convmat.verification import mistakes
from convmat.verification.computed import Change, Computation
from convmat.verification.mistakes import known_mistakes


def layer(**changed: Any) -> Computation:
    """One image of two channels, whose pixels and taps count on; 3 filters of 2 × 3."""
    given: dict[str, Any] = {
        "x": np.arange(40).reshape(1, 4, 5, 2),
        "filters": np.arange(36).reshape(3, 2, 3, 2),
        "stride": (1, 2),
        "padding": ((0, 1), (2, 0)),
        "dilation": (2, 1),
        "groups": 1,
        "bias": np.array([1, 2, 3]),
        "padding_mode": "zeros",
    }
    return Computation(**given | changed)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_table(axes: int) -> None:
    """Each entry names a function of the module; keys of two axes each are one mistake's."""
    table = known_mistakes(axes)
    for key, phrase, part, made in table:
        function = made.func if isinstance(made, partial) else made
        assert getattr(mistakes, function.__name__) is function
        assert key
        assert phrase
        assert part
    assert len({m.phrase for m in table}) == len(table)
    several = {key for key, count in Counter(m.key for m in table).items() if count > 1}
    assert several == ({"kernel-transposed", "image-transposed", "output-transposed"} if axes == 3 else set())
    assert known_mistakes(axes) is table


@pytest.mark.parametrize(
    "made, wanted",
    [
        (partial(mistakes.padded, rule="valid"), ["valid"]),
        (partial(mistakes.windows_shifted, axes=(1,), shift=-1), [((0, 1), (1, 1)), ((0, 1), (1, 0))]),
        (mistakes.padding_sides_swapped, [((1, 0), (0, 2))]),
    ],
)
def test_padding(made: Any, wanted: list[Any]) -> None:
    assert [wrong.padding for wrong in made(layer())] == wanted


@pytest.mark.parametrize(
    "made, wanted",
    [
        (mistakes.stride_dilation_swapped, ((2, 1), (1, 2))),
        (partial(mistakes.steps_kept, what="stride", axes=()), ((1, 1), (2, 1))),
        (partial(mistakes.steps_kept, what="dilation", axes=(1,)), ((1, 2), (1, 1))),
        (partial(mistakes.steps_swapped, what="dilation"), ((1, 2), (1, 2))),
    ],
)
def test_steps(made: Any, wanted: tuple[tuple[int, int], ...]) -> None:
    [wrong] = made(layer())
    assert (wrong.stride, wrong.dilation) == wanted


@pytest.mark.parametrize("times, wanted", [(0, None), (2, [2, 4, 6]), (-1, [-1, -2, -3])])
def test_bias(times: int, wanted: list[int] | None) -> None:
    [wrong] = mistakes.bias_times(layer(), times)
    assert wanted == (None if wrong.bias is None else wrong.bias.tolist())
    assert list(mistakes.bias_times(layer(bias=None), times)) == []


def test_what_cannot_be_made() -> None:
    one = layer(x=np.ones((1, 4, 5, 1)), filters=np.ones((3, 2, 3, 1)), padding=((0, 0), (0, 0)))
    for made in (
        mistakes.groups_ignored,
        mistakes.groups_interleaved,
        mistakes.channels_reversed,
        mistakes.image_read_as_chw,
        mistakes.image_read_as_hwc,
        mistakes.batch_reversed,
        mistakes.batch_first_repeated,
        mistakes.padding_sides_swapped,
        partial(mistakes.padding_filled, mode="replicate"),
        partial(mistakes.padded, rule="valid"),
        partial(mistakes.bytes_reread, what="x", dtype="uint8"),
    ):
        assert list(made(one)) == []
    whole = layer()
    assert list(mistakes.summed_in_float16(whole)) == []
    assert list(mistakes.changed(whole, Change("round", "float16"))) == []
    assert list(mistakes.changed(layer(x=whole.x * 1j), Change("relu"))) == []


def test_filters_reread() -> None:
    """Written out: OIHW bytes of one filter, two channels, read as OHWI."""
    one = layer(filters=np.arange(12).reshape(1, 2, 3, 2), bias=None)
    [wrong] = mistakes.filters_reread(one, "oihw", "ohwi")
    assert wrong.filters.ravel().tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]


def test_bytes_reread() -> None:
    one = layer(x=np.full((1, 4, 5, 2), -1, ">i2"))
    [wrong] = mistakes.bytes_reread(one, "x", "uint16")
    assert (wrong.x.dtype, wrong.x.max()) == (np.uint16, 65535)
    assert (
        list(mistakes.bytes_reread(one, "x", "int16")) == list(mistakes.bytes_reread(one, "x", "uint8")) == []
    )


Y = np.arange(24).reshape(1, 2, 4, 3)


@pytest.mark.parametrize(
    "move, wanted",
    [
        (mistakes.permuted([0, 2, 1, 3]), Y.swapaxes(1, 2)),
        (mistakes.permuted([0, 3, 1, 2]), np.moveaxis(Y, -1, 1)),
        (mistakes.permuted([0, 3, 1, 2], keeps_shape=True), np.moveaxis(Y, -1, 1).reshape(Y.shape)),
        (mistakes.lines_moved(1, -1), Y[:, :-1]),
        (mistakes.lines_moved(2, -1, by=1), Y[:, :, 1:]),
        (mistakes.lines_moved(2, 1), np.pad(Y, [(0, 0), (0, 0), (0, 1), (0, 0)])),
        (mistakes.turned(3), Y[..., ::-1]),
    ],
)
def test_moves(move: mistakes.Move, wanted: np.ndarray) -> None:
    one = layer(x=np.zeros((1, 2, 4, 1)), filters=np.zeros((3, 1, 1, 1)), stride=(1, 1), padding="valid")
    [moved] = mistakes.moved(one, [move])
    assert moved.shapes == [Y.shape, wanted.shape]
    at, inside = moved.origins(np.arange(wanted.size))
    assert np.array_equal(np.where(inside, Y[at], 0).reshape(wanted.shape), wanted)


def test_single_sums_are_those_of_the_definition() -> None:
    """Also where the padding cuts lines off."""
    for mode in ("zeros", "reflect", "replicate", "circular"):
        for padding in (((0, 1), (2, 0)), ((-1, 2), (1, -1))):
            one = layer(padding=padding, padding_mode=mode)
            arguments = one.arguments
            y = reference.convolve_by_taps(arguments.pop("x"), arguments.pop("filters"), **arguments)
            assert one.convolved_shape == y.shape
            sums, magnitudes = one.sums(np.unravel_index(np.arange(y.size), y.shape), np.dtype(np.int64))
            assert np.array_equal(sums, y.ravel())
            assert np.array_equal(magnitudes, y.ravel())  # there is nothing below 0


@pytest.mark.parametrize(
    "change, wanted",
    [
        (Change("relu"), [0, 0, 7, 300]),
        (Change("wrap", "uint8"), [56, 255, 7, 44]),
        (Change("wrap", "int8"), [56, -1, 7, 44]),
        (Change("saturate", "int8"), [-128, -1, 7, 127]),
        (Change("round", "float16"), [-200, -1, 7, 300]),
    ],
)
def test_changes(change: Change, wanted: list[int]) -> None:
    values = np.array([-200, -1, 7, 300])
    assert change.apply(values).tolist() == wanted
    assert change.suits(values)
    assert not Change("wrap", "int8").suits(values + 0.5)
    assert not Change("saturate", "uint16").suits(values)
