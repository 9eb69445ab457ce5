"""Of mistakes as authors of kernels make them, the place or what was done instead is told, and is true."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import convmat as cm
from convmat.cli import run
from convmat.figures.canvas import ACCENTS, THEMES
from convmat.verification.diagnosis import diagnose
from convmat.verification.where import box_around, describe, map_text, wrong_map
from tests.planted import MISTAKES, Case, cases, check, told

NAMES = ("image", "row", "column", "filter")


def told_of(case: Case, mistakes: list[str]) -> list[str]:
    """How each of some mistakes is told; all that is said is true."""
    said = []
    for name in mistakes:
        if (wrong := case.wrong(MISTAKES[name])) is not None:
            one = told(case, wrong)
            check(case, wrong, one)
            said.append(one.how)
    return said


def test_enough_mistakes_are_planted() -> None:
    assert len(MISTAKES) >= 120
    assert len({case.name for case in cases()}) == 9
    assert {case.layout for case in cases()} == {"nhwc", "nchw"}


def share_told(each: int) -> float:
    """Of every so many of the planted mistakes, others in each layer and layout."""
    said = [
        how for n, case in enumerate(cases()) for how in told_of(case, sorted(MISTAKES)[7 * n % each :: each])
    ]
    return sum(map(bool, said)) / len(said)


@pytest.mark.slow
def test_planted_mistakes_are_told() -> None:
    assert share_told(110) >= 0.85


@pytest.mark.slow
def test_more_planted_mistakes_are_told() -> None:
    assert share_told(20) >= 0.85


SHAPE = (2, 13, 20, 6)


def masked(*index: Any) -> np.ndarray:
    wrong = np.zeros(SHAPE, bool)
    wrong[index] = True
    return wrong


def in_memory(part: slice) -> np.ndarray:
    wrong = np.zeros(SHAPE, bool)
    wrong.reshape(-1)[part] = True
    return wrong


def border() -> np.ndarray:
    wrong = np.ones(SHAPE, bool)
    wrong[:, 2:-2, 2:-2] = False
    return wrong


EVERY = slice(None)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (masked(1), "image 1 (the last)"),
        (masked(EVERY, slice(3, 8)), "rows 3..7"),
        (masked(EVERY, slice(12, None)), "row 12 (past the last multiple of 4)"),
        (masked(EVERY, EVERY, slice(16, None)), "columns 16..19 (past the last multiple of 16)"),
        (masked(..., [2, 5]), "filters 2, 5"),
        (masked(EVERY, EVERY, slice(1, None, 4)), "every 4th column from 1"),
        (masked(EVERY, EVERY, [2, 3, 6, 7, 10, 11, 14, 15, 18, 19]), "columns 2, 3 of every 4"),
        (masked(0, slice(4, 8), slice(4, 8), 3), "rows 4..7, columns 4..7 of filter 3 in image 0"),
        (masked(0, 1, 2, 3), "row 1, column 2 of filter 3 in image 0"),
        (masked(EVERY, [i for i in range(13) if i != 6]), "all rows but 6"),
        (border(), "the border, 2 wide"),
        (in_memory(slice(3, None, 7)), "every 7th element from 3 in memory"),
        (in_memory(slice(3120 - 48, None)), "row 12, columns 12..19 in image 1"),
        (in_memory(slice(5, None, 16)), "every 16th element from 5 in memory"),
        (np.ones(SHAPE, bool), "everywhere"),
    ],
)
def test_a_set_is_told_in_few_words(wrong: np.ndarray, words: str) -> None:
    where = describe(wrong, NAMES)
    assert where.words == words
    assert where.share == 1
    np.testing.assert_array_equal(where.mask(wrong), wrong)


def test_words_are_of_axes_and_memory_is_that_of_the_result() -> None:
    """The same words in any layout, but for places in memory."""
    first = np.zeros((2, 6, 13, 20), bool)
    first.reshape(-1)[3::7] = True
    where = describe(np.moveaxis(first, 1, -1), NAMES)
    assert where.words == "every 7th element from 3 in memory"
    np.testing.assert_array_equal(where.mask(np.moveaxis(first, 1, -1)), np.moveaxis(first, 1, -1))
    first[:] = False
    first[:, 2] = True
    assert describe(np.moveaxis(first, 1, -1), NAMES).words == "filter 2"


def test_right_elements_in_the_set_are_counted() -> None:
    """A value that is right by chance does not hide a row; what is scattered is told as such."""
    wrong = masked(EVERY, slice(3, 8))
    wrong[0, 4, 5, 0] = False
    where = describe(wrong, NAMES)
    assert (where.wrong, where.elements, where.told) == (1199, 1200, True)
    assert str(where) == "rows 3..7, but for 1 of 1200 elements"
    scattered = describe(np.random.default_rng(0).random(SHAPE) < 0.5, NAMES)
    assert str(scattered).startswith("everywhere, scattered, ")
    assert not scattered.told


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_all_wrong_elements_are_in_the_set(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * data.draw(st.integers(3, 5))))
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    wrong = np.zeros(shape, bool)
    wrong[np.ix_(*(random.random(n) < data.draw(st.sampled_from([0.2, 0.9, 1.0])) for n in shape))] = True
    wrong |= random.random(shape) < data.draw(st.sampled_from([0.0, 0.01, 0.3]))
    if not wrong.any():
        return
    names = ("image", "slice", "row", "column", "filter")[: len(shape) - 1]
    where = describe(wrong, (*names, "filter") if len(names) < 5 else names)
    meant = where.mask(wrong)
    assert meant[wrong].all()
    assert (where.wrong, where.elements) == (np.count_nonzero(wrong), np.count_nonzero(meant))


def test_a_map_has_the_shares() -> None:
    shares = wrong_map(masked(EVERY, slice(0, 6), slice(0, 10), slice(0, 3)))
    assert shares.shape == (13, 20)
    assert shares[0, 0] == 0.5
    assert map_text(shares).splitlines()[0] == "▒" * 10 + "∙" * 10
    assert wrong_map(np.ones((1, 100, 100, 2), bool)).shape == (16, 32)
    assert wrong_map(np.ones((1, 100, 2), bool)).shape == (2, 32)


@pytest.fixture
def layer(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    x = random.standard_normal((2, 12, 15, 4)).astype(np.float32)
    w = random.standard_normal((6, 3, 3, 4)).astype(np.float32)
    np.save("x.npy", np.moveaxis(x, -1, 1))
    np.save("w.npy", w)
    return x, w


def verify(y: np.ndarray, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    np.save("y.npy", np.moveaxis(y, -1, 1))
    line = ["verify", "x.npy", "--layout", "nchw", "--kernel", "w.npy", "--expected", "y.npy", *options]
    assert run(line) == 1
    return capsys.readouterr().out


def test_the_verdict_says_where(layer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x, w = layer
    y = cm.convolve(x, w)
    y[:, 3:8] = 0
    first = "different: 780 of 1560 elements, yours is 0 in rows 3..7\n"
    assert verify(y, capsys, "--brief") == first
    text = verify(y, capsys)
    assert text.startswith(first)
    for line in ("│ where ", "│ rows 3..7 ", "│ map of them ", "│ yours is 0 in rows 3..7 "):
        assert line in text
    told = json.loads(verify(y, capsys, "--json"))
    assert told["where"]["words"] == "rows 3..7"
    assert told["where"]["axes"][1] == {"axis": "row", "size": 10, "spans": [[3, 7, 1]]}
    assert told["wrong_map"][3] == [1.0] * 13
    assert [one["kind"] for one in told["instead"]] == ["constant"]
    assert json.loads(verify(y, capsys, "--json", "--no-diagnose"))["instead"] is None


def test_a_known_mistake_is_named_before_a_place(layer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x, w = layer
    y = cm.convolve(x, w[:, ::-1])
    out = verify(y, capsys, "--brief")
    assert out == "different: 1560 of 1560 elements, the filter flipped up-down\n"


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda w: w.__setitem__((slice(None), 2, 2), 0), "the weights of tap (2, 2) are 0"),
        (lambda w: w.__setitem__(3, w[2]), "filter 3 holds filter 2"),
        (
            lambda w: w.__setitem__((3, 0, 1, 2), 0.5),
            "tap (0, 1), channel 2 of filter 3 has weight 0.5, not ",
        ),
        (lambda w: w.__imul__(np.float32(1 / 255)), "yours is the right one × 1/255"),
        (lambda w: w.__setitem__((..., 1), 0), "the weights of channel 1 are 0"),
    ],
)
def test_the_filter_in_effect(layer: Any, change: Any, sentence: str) -> None:
    x, w = layer
    wrong = w.copy()
    change(wrong)
    (effect,) = diagnose(x, w, cm.convolve(x, wrong)).effects
    assert str(effect).startswith(sentence)
    if effect.filters is not None:
        np.testing.assert_allclose(effect.filters, wrong, atol=1e-5)


def test_rows_and_quantized_results_are_told_of_too(layer: Any) -> None:
    x, w = layer
    y = cm.convolve(x, w)
    assert [str(one) for one in diagnose(x, w, (y / 2).reshape(-1, 6)).effects] == [
        "yours is the right one × 0.5"
    ]
    x, w = (np.rint(a * 20).astype(np.int8) for a in (x, w))
    how = cm.Quantization(scale=0.01, output_zero_point=3, rounding="half-even", dtype="int8")
    y = cm.convolve(x, w, quantization=how)
    y[..., 3] = y[..., 2]
    (effect,) = diagnose(x, w, y, judged={"quantization": how}).effects
    assert str(effect) == "filter 3 holds filter 2"


def test_nothing_is_said_of_noise(layer: Any) -> None:
    x, w = layer
    y = cm.convolve(x, w)
    assert diagnose(x, w, y + np.random.default_rng(0).standard_normal(y.shape).astype("f4")).effects == ()
    assert diagnose(x, w, y).effects == ()
    assert diagnose(x, w, y[:, 1:]).effects == ()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_picture_of_errors(
    axes: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """White where all is equal, red where an integer is far off, the worst of all that is at a position."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    x, w = random.integers(-9, 9, (2, *(9,) * axes, 2)), random.integers(-9, 9, (3, *(2,) * axes, 2))
    y = cm.convolve(x, w)
    y[(1, *(5,) * axes, 2)] += 1000
    for name, a in {"x": x, "w": w, "y": y}.items():
        np.save(f"{name}.npy", a)
    line = ["verify", "x.npy", "--kernel", "w.npy", "--expected", "y.npy", "--dims", str(axes), "--json"]
    assert run([*line, "--figure", "e.png"]) == 1
    told = json.loads(capsys.readouterr().out)
    with Image.open("e.png") as picture:
        assert list(picture.size) == told["figure"]
        pixels = np.asarray(picture)
    red = np.argwhere((pixels == ACCENTS[0]).all(-1))
    cell = 32
    row, column = (2, 5) if axes == 1 else (5, 5)
    inside = [at for at in red.tolist() if at[1] < 24 + 8 * cell]
    assert (cell - 3) ** 2 <= len(inside) < cell**2  # within its outline
    frame = (pixels[:, 24 : 24 + 8 * cell] == THEMES["light"].ink).all((1, 2))
    left, top = 24, np.flatnonzero(frame)[0] + 1
    assert [int(middle) for middle in (np.median(inside, 0) - (top, left)) // cell] == [row, column]
    np.save("y.npy", y[:, 1:])
    assert run([*line, "--figure", "none.png"]) == 1
    assert "no elements to compare" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_a_box_is_around_all() -> None:
    wrong = np.zeros((3, 4), bool)
    wrong[0, 1] = wrong[2, 3] = True
    box = box_around(wrong, ("filter", "column of X_col"))
    assert box.words == "within columns 1, 3 of X_col of filters 0, 2"
    assert (box.wrong, box.elements) == (2, 4)
