"""Numbers without an end: read and told however long, and refused by the range of what takes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import convmat as cm
from convmat.checks import STEP_LIMIT, got, read_whole, whole
from convmat.cli import run
from convmat.errors import ConvmatError, GeometryError, MappingIndexError
from convmat.sizes import MOST_LAYERS, chain
from convmat.verification.probes import Probe
from convmat.verification.selfcheck import self_check

DIGIT = str(Path(__file__).parent.parent / "sample_images" / "digit.png")


@given(st.integers())
def test_what_python_reads_is_read_alike(number: int) -> None:
    assert read_whole(f" {number} ") == number
    assert got(number) == (str(number) if number.bit_length() <= 128 else got(-number))


@given(st.integers(700, 9000), st.sampled_from(["", "-", "+"]), st.integers(1, 9))
@example(700, "", 1)
@example(9000, "-", 9)
def test_a_longer_number_keeps_its_sign_and_its_digits(digits: int, sign: str, digit: int) -> None:
    number = read_whole(f"{sign}000{str(digit) * digits}")
    assert (number < 0) == (sign == "-")
    assert got(number) == f"a number of {digits} digits"
    assert got((1, number)) == f"(1, a number of {digits} digits)"


@pytest.mark.parametrize("digits", [39, 40, 160, 4299, 4300, 4301, 5000])
def test_digits_are_counted_to_the_last(digits: int) -> None:
    for number in (10**digits - 1, 10 ** (digits - 1)):
        short = number.bit_length() <= 128
        assert got(number) == (str(number) if short else f"a number of {digits} digits")


def test_zeros_before_a_number_are_none_of_its_digits() -> None:
    assert read_whole("0" * 9000) == 0
    assert read_whole("-" + "0" * 9000 + "17") == -17


@pytest.mark.parametrize("text", ["", "x", "1" * 700 + "x", "1" * 700 + ".5", "--" + "1" * 700, "²" * 700])
def test_what_is_no_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|no whole number"):
        read_whole(text)


def test_python_may_be_told_to_read_less() -> None:
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)
        assert got(read_whole("7" * 641)) == "a number of 641 digits"
        assert read_whole("7" * 640) == int("7" * 640)
    finally:
        sys.set_int_max_str_digits(limit)


LONG = (10**18, 10**160, 10**3999, 10**5000 - 1)
UP_TO_STEP = rf"must be at most {STEP_LIMIT} along every axis, got .*; give \d to {STEP_LIMIT}$"


@pytest.mark.parametrize("number", LONG, ids=["10^18", "10^160", "4000 digits", "5000 digits"])
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kernel_size": 10**18}, r"^kernel_size: must be at most 1000000 along every axis, got "),
        ({"stride": 10**18}, f"^stride: {UP_TO_STEP}"),
        ({"stride": (1, 10**18)}, f"^stride: {UP_TO_STEP}"),
        ({"dilation": 10**18}, f"^dilation: {UP_TO_STEP}"),
        ({"padding": 10**18}, f"^padding: {UP_TO_STEP}"),
        ({"padding": ((0, 10**18), (0, 0))}, f"^padding: {UP_TO_STEP}"),
        ({"groups": 10**18}, r"^groups: .* does not divide the input's 2 channels; give a divisor of 2$"),
        (
            {"input_shape": (10**18, 8, 9, 2)},
            r"^input_shape: \(.*\) has more elements than 9223372036854775807",
        ),
        (
            {"input_shape": (1, 8, 10**18, 9)},
            r"^input_shape: \(.*\) has more elements than 9223372036854775807",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_the_geometry_names_the_range(arguments: dict[str, Any], problem: str, number: int) -> None:
    def longer(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(longer, value))
        return number if value == 10**18 else value

    layer = {"input_shape": (1, 8, 9, 2), "kernel_size": 3} | arguments
    with pytest.raises(GeometryError, match=problem) as caught:
        cm.ConvGeometry(**{name: longer(value) for name, value in layer.items()})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (
            ((1, 9, 1), 3, 1, "full", STEP_LIMIT),
            r"^kernel_size: the kernel spans 4294967295 pixels of width, expe",
        ),
        (
            ((1, 9, 9, 1), 3, 1, STEP_LIMIT),
            r"^input_shape: the X_col of \(1, 9, 9, 1\) has more elements than 92",
        ),
        (
            ((2**40, 9, 1), 3, 1, STEP_LIMIT),
            r"^input_shape: the X_col of .* has more elements than 92233720368547",
        ),
    ],
)
def test_numbers_that_are_too_large_together(layer: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(GeometryError, match=problem):
        cm.ConvGeometry(*layer)


G = cm.ConvGeometry((1, 5, 6, 1), 3)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            lambda n: whole("x", n, 1, 5),
            r"^x: must be 1 to 5, got a number of 5000 digits; give a number betw",
        ),
        (
            lambda n: G.place(n, 0),
            r"^row: a number of 5000 digits is outside X_col, which has 12; give 0 to 11$",
        ),
        (
            lambda n: G.place(0, -n),
            r"^column: a number of 5000 digits is outside X_col, which has 9; give 0 to ",
        ),
        (
            lambda n: G.matrix_indices(0, (n, 0), 0),
            r"^pixel: \(0, a number of 5000 digits, 0, 0\) is not in the",
        ),
        (
            lambda n: next(Probe(G, 4, np.dtype("f4")).inputs(n)),
            r"^seed: must be 0 to 18446744073709551615, got",
        ),
        (
            lambda n: Probe(G, n, np.dtype("f4")),
            r"^filters: must be 1 to 87381 in a probe, got a number of 5000",
        ),
        (
            lambda n: next(self_check(n)),
            r"^seed: must be 0 to 18446744073709551615, got a number of 5000 digits",
        ),
        (lambda n: next(self_check(1, n)), r"^cases: must be 0 to 1000000, got a number of 5000 digits"),
        (
            lambda n: cm.layer_matrix(np.ones((1, 3, 3, 1)), (9, 9, 1)).layer.spectrum(iterations=n),
            r"^iterations: must be 1 to 1000000, got a number of 5000 digits",
        ),
        (
            lambda n: chain((1, 9, 1), [{"kernel_size": n}]),
            r"^layer: number 1: kernel_size: must be at most 100",
        ),
    ],
)
def test_the_library_names_the_range(call: Callable[[int], Any], problem: str) -> None:
    with pytest.raises(ConvmatError, match=problem):
        call(10**5000 - 1)


def test_chains_have_an_end() -> None:
    with pytest.raises(
        GeometryError, match=rf"^layers: got {MOST_LAYERS + 1}, expected at most {MOST_LAYERS};"
    ):
        chain((1, 9, 1), [{"kernel_size": 1}] * (MOST_LAYERS + 1))
    wide = {"kernel_size": 1, "stride": STEP_LIMIT, "padding": STEP_LIMIT}
    with pytest.raises(
        GeometryError, match=r"^layer: number 3: has outputs that see pixels beyond 9223372036854"
    ):
        chain((1, 9, 1), [wide] * 3)


NUMBERS = [
    ("unroll IN --k #", r"--k: must be at most 1000000 along every axis, got #; give 1 to 1000000"),
    ("unroll IN --k 3,#", r"--k: must be at most 1000000 along every axis, got \(3, #\); give 1 to 1000000"),
    ("unroll IN --k 3 --stride #", rf"--stride: must be at most {STEP_LIMIT} along every axis, got #; .*"),
    (
        "unroll IN --k 3 --dilation #",
        rf"--dilation: must be at most {STEP_LIMIT} along every axis, got #; .*",
    ),
    ("unroll IN --k 3 -p #", rf"--padding: must be at most {STEP_LIMIT} along every axis, got #; .*"),
    ("unroll IN --k 3 --threads #", r"--threads: must be 1 to 1024, got #; give a number between"),
    ("unroll IN --k 3 --dims #", r"--dims: must be 1 to 3, got #"),
    ("unroll IN --k 3 --frame #", r".*digit\.png: has no frame #; it has 1, from 0"),
    (
        "convolve IN --kernel box:3 -g #",
        r"--groups: # does not divide the input's 1 channels; give a divisor of 1",
    ),
    (
        "convolve IN --kernel box:3 --transpose --output-padding #",
        rf"--output-padding: .* {STEP_LIMIT} .*got #; .*",
    ),
    ("locate IN --k 3 --row # --col 0", r"--row: # is outside X_col, which has 676; give 0 to 675"),
    ("locate IN --k 3 --row 0 --col #", r"--col: # is outside X_col, which has 9; give 0 to 8"),
    ("locate IN --k 3 --pixel #,0,0", r"--pixel: \(0, #, 0, 0\) is not in the input, whose shape is .*"),
    ("locate IN --k 3 --pixel 0,0,0,0,#", r"--pixel: got 5 numbers \(0, 0, 0, 0, #\); give .*"),
    (
        "sizes #,9,9 --k 3",
        r"SIZE: \(1, #, 9, 9, 1\) has more elements than 9223372036854775807, which is the .*",
    ),
    ("sizes 9 --layer k=#", r"--layer: number 1: kernel_size: must be at most 1000000 .*got #; .*"),
    ("sizes 9 --layer k=3,p=#", rf"--layer: number 1: padding: must be at most {STEP_LIMIT} .*got #; .*"),
    (
        "matrix --input-shape #,5 --kernel box:3",
        r"--input-shape: \(#, 5\) is more than any array can hold; .*",
    ),
    ("matrix --input-shape 5,5 --kernel box:3 --iterations #", r"--iterations: must be 1 to 1000000, got #"),
    ("verify --seed #", r"--seed: must be 0 to 18446744073709551615, got #"),
    ("verify --cases #", r"--cases: must be 0 to 1000000, got #"),
    (
        "verify IN --kernel box:3 --requantize 1,#,half-up",
        r"--requantize: output_zero_point: got #; give a whole number from .*",
    ),
    (
        "probe write p --k 3 --filters #",
        r"--filters: must be 1 to 10922 in a probe, got #: its Y and W_col have .*",
    ),
    (
        "probe write p --k 3 --groups #",
        r"--groups: must be 1 to 1048576, got #; give a number between",
    ),
    (
        "probe write p --k 3 --input-shape #,8",
        r"--input-shape: \(#, 8\) is more than any array can .*",
    ),
    ("probe write p --k 3 --seed #", r"--seed: must be 0 to 18446744073709551615, got #"),
]


@pytest.mark.parametrize("number", ["9" * 40, "1" + "0" * 4000, "9" * 5000], ids=["40", "4001", "5000"])
@pytest.mark.parametrize(("line", "problem"), NUMBERS, ids=[line for line, _ in NUMBERS])
def test_the_command_line_names_the_range(
    line: str,
    problem: str,
    number: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [DIGIT if word == "IN" else word.replace("#", number) for word in line.split()]
    assert run(arguments) == 2
    told = f"a number of {len(number)} digits"
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"convmat: {problem.replace('#', told)}\n", err), err
    assert (out, list(tmp_path.iterdir())) == ("", [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("unroll IN --k x#", r"Invalid value for '--k' / '-k': 'x9{39}'…, 5001 characters is no size; .*"),
        (
            "unroll IN --k 3 -p x#",
            r"Invalid value for '--padding' / '-p': 'x9{39}'…, 5001 characters is no pad.*",
        ),
        (
            "unroll IN --k 3 --threads #x",
            r"Invalid value for '--threads': '9{40}'…, 5001 characters is no numb.*",
        ),
        (
            "verify --seed #x",
            r"Invalid value for '--seed': '9{40}'…, 5001 characters is no number; give 0 to 18.*",
        ),
        ("sizes 9 --layer #", r"Invalid value for '--layer': '9{40}'…, 5000 characters is no layer; .*"),
        (
            "verify IN --kernel box:3 --requantize #",
            r"Invalid .*: '9{40}'…, 5000 characters is no requantization; .*",
        ),
    ],
)
def test_what_is_no_number_is_told_in_short(
    line: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [DIGIT if word == "IN" else word.replace("#", "9" * 5000) for word in line.split()]
    assert run(arguments) == 2
    assert re.fullmatch(rf"convmat: {problem}\n", capsys.readouterr().err)


@pytest.mark.parametrize("option", ["--atol", "--rtol"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "9" * 5000])
def test_tolerances_are_finite(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", DIGIT, "--kernel", "box:3", option, value]) == 2
    got = r"convmat: --[ar]tol: got (nan|-?inf); give a finite number, at least 0\n"
    assert re.fullmatch(got, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("layer", "mode", "count"),
    [
        (((1, 1000, 1000, 1), 1000, 1, "full"), "zeros", 1_000_000),
        (((1, 28, 28, 1), 3, 1, 10_000), "circular", 4_592_449),
        (((1, 28, 1), 3, 1, STEP_LIMIT), "circular", 3 * (STEP_LIMIT // 14)),
        (((1, 28, 1), 3, 1, STEP_LIMIT), "replicate", 3 * (STEP_LIMIT + 1)),
    ],
)
def test_places_have_an_end(layer: tuple[Any, ...], mode: str, count: int) -> None:
    """Counted before any is listed."""
    geometry = cm.ConvGeometry(*layer)
    with pytest.raises(
        MappingIndexError, match=r"^pixel: may be at \d+ places, expected at most 100?0000?0?;"
    ) as e:
        geometry.matrix_indices(0, (0,) * len(geometry.stride), 0, mode)
    assert abs(int(str(e.value).split()[4]) / count - 1) < 0.01
