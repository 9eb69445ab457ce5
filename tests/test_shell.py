"""The first five minutes at a shell: names that were meant, sizes as people write them, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmat.cli import cli, run, types
from convmat.cli.manual import contexts
from convmat.cli.suggestions import COMMANDS, OPTIONS, near_name
from tests import tools
from tests.tools import mostly_slow

NAMES = cli.list_commands(click.Context(cli))
ALL = [ctx for ctx in contexts() if not isinstance(ctx.command, click.Group)]


@pytest.fixture(autouse=True)
def _image(folder: Path) -> None:
    np.save("a.npy", np.arange(30.0).reshape(6, 5))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a line that is trouble; what is told of it, which is one line."""

    def call(*args: str) -> str:
        assert run(list(args)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return str(err)

    return call


# Names that were meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *{"unrol": "unroll", "im2col": "unroll", "unfold": "unroll", "im2row": "unroll"}.items(),
        *{"verfy": "verify", "check": "verify", "verify_": "verify", "self_check": "verify"}.items(),
        *{"diff": "compare", "cmp": "compare", "compaer": "compare", "allclose": "compare"}.items(),
        *{"probes": "probe", "write-probe": "probe write", "judge": "probe judge"}.items(),
        *{"col2im": "fold", "fould": "fold", "FOLD": "fold", "col2imm": "fold"}.items(),
        *{"conv": "convolve", "conv2d": "convolve", "Conv2D": "convolve", "convolution": "convolve"}.items(),
        *{"deconv": "convolve --transpose", "conv_transpose2d": "convolve --transpose"}.items(),
        *{"gemm": "matmul", "mat-mul": "matmul", "matmult": "matmul"}.items(),
        *{"flatten_filters": "flatten-filters", "flat": "flatten-filters"}.items(),
        *{"size": "sizes", "output-size": "sizes", "toeplitz": "matrix", "loc": "locate"}.items(),
    ],
)
def test_a_command_that_there_is_not_is_answered_with_the_one_meant(said: str, meant: str, told: Any) -> None:
    for args in ((said,), (said, "a.npy", "--k", "3"), (said, "--help"), ("help", said)):
        assert told(*args) == (
            f"convmat: No such command '{said}' (did you mean '{meant}'?); see 'convmat --help'\n"
        )


def test_a_command_that_is_near_to_none(told: Any) -> None:
    assert told("banana") == "convmat: No such command 'banana'; see 'convmat --help'\n"
    assert "a command comes before it: 'convmat unroll a.npy'" in told("a.npy", "--k", "3")
    assert "options of a command come after it" in told("--k", "3", "unroll", "a.npy")
    assert "did you mean '--version'?" in told("--verison")


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    for said, same in ((["help"], ["--help"]), (["help", "unroll"], ["unroll", "--help"])):
        assert run(said) == 0
        helped = capsys.readouterr().out
        assert run(same) == 0
        assert helped == capsys.readouterr().out != ""


@pytest.mark.parametrize(
    ("command", "said", "meant"),
    [
        ("unroll", "--kernel-size", "--k"),
        ("unroll", "--ksize", "--k"),
        ("unroll", "-K", "-k"),
        ("unroll", "--strides", "--stride"),
        ("unroll", "--pad", "--padding"),
        ("unroll", "--pads", "--padding"),
        ("unroll", "--padding_mode", "--padding-mode"),
        ("unroll", "--out", "--output"),
        ("unroll", "--format", "--layout"),
        ("probe write", "--formt", "--format"),
        ("probe judge", "--cas", "--case"),
        ("compare", "--abs-tol", "--atol"),
        ("convolve", "--weights", "--kernel"),
        ("convolve", "--dilatoin", "--dilation"),
        ("convolve", "--filters", "--kernel"),
        ("verify", "--tolerance", "--atol"),
        ("train", "--learning-rate", "--lr"),
        ("locate", "--column", "--col"),
        ("matmul", "--outptu-shape", "--output-shape"),
    ],
)
def test_an_option_that_there_is_not_is_answered_with_the_one_meant(
    command: str, said: str, meant: str, told: Any
) -> None:
    for value in (f"{said}=3", said) if said.startswith("--") else (said,):
        line = told(*command.split(), "a.npy", value)
        assert line == (
            f"convmat: No such option '{said}' (did you mean '{meant}'?); see 'convmat {command} --help'\n"
        )


@pytest.mark.parametrize("said", ["--zebra", "--fast", "--gpu", "--colour", "--verbose", "--x", "-z", "--in"])
def test_an_option_that_is_near_to_none_has_no_hint(said: str, told: Any) -> None:
    for ctx in ALL:
        line = told(*ctx.command_path.split()[1:], said)
        assert line == f"convmat: No such option '{said}'; see '{ctx.command_path} --help'\n"


def test_kindred_names_are_of_what_there_is_and_hide_nothing() -> None:
    names = {*NAMES, "write", "judge"}
    assert {word for name in COMMANDS for word in name.split() if word != "--transpose"} <= names
    assert {word for words in COMMANDS.values() for word in words.split()}.isdisjoint(NAMES)
    every = {name for ctx in ALL for parameter in ctx.command.get_params(ctx) for name in parameter.opts}
    assert set(OPTIONS) <= every | {"--version"}


@given(st.sampled_from(NAMES), st.integers(0, 20), st.sampled_from("abcxyz"))
@settings(max_examples=60)
def test_one_slip_of_the_finger_is_near(name: str, place: int, letter: str) -> None:
    place %= len(name)
    for slip in (name[:place] + name[place + 1 :], name[:place] + letter + name[place:]):
        near = near_name(slip, NAMES, {})
        assert near == name or slip in NAMES or len(slip) < 4


# Sizes as people write them


@pytest.mark.parametrize(
    ("kind", "said", "meant"),
    [
        (types.Sizes, "7", 7),
        (types.Sizes, "3,5", (3, 5)),
        (types.Sizes, "3x5", (3, 5)),
        (types.Sizes, "3X5", (3, 5)),
        (types.Sizes, "3×5×7", (3, 5, 7)),
        (types.Sizes, " 3 x 5 ", (3, 5)),
        (types.InputShape, "28x28", (28, 28)),
        (types.InputShape, "2x28x28x3", (2, 28, 28, 3)),
        (types.OutputShape, "4×4", (4, 4)),
        (types.Pixel, "9x12x0", (9, 12, 0)),
        (types.Pads, "1x2x0x1", (1, 2, 0, 1)),
        (types.PaddingType, "1x2", (1, 2)),
        (types.PaddingType, "SAME", "same"),
        (types.LayerType, "k=3x5,p=1×2", {"kernel_size": (3, 5), "padding": (1, 2)}),
    ],
)
def test_sizes_as_people_write_them(kind: Any, said: str, meant: Any) -> None:
    assert kind().convert(said, None, None) == meant


@pytest.mark.parametrize(
    "said", ["", "x", "7x", "x7", "7xx7", "7,", "3,5x7", "3x5,7", "7*7", "7 7", "a", "2.5"]
)
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (types.Sizes, "is no size; write 7, or one for each axis: 3,5 or 3x5"),
        (types.InputShape, "is no size; write 28,28 or 28x28"),
        (types.OutputShape, "is no size; write 4,4 or 4x4"),
        (types.Pixel, "is no size; write y,x,c or n,y,x,c"),
        (types.Pads, "is no size; write 1, or 1,2 or 1x2"),
        (types.PaddingType, "is no padding; give valid, same, .* or numbers"),
    ],
)
def test_what_is_no_size(kind: Any, problem: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(repr(said)) + " " + problem):
        kind().convert(said, None, None)


def test_a_command_takes_sizes_in_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [
        "unroll a.npy --k 3,2 --stride 2,1 --padding 1,2",
        "locate --input-shape 6,5 --k 3 --pixel 2,3,0",
        "sizes 6,5 --k 3,2 --padding 1,2",
        "matrix --input-shape 6,5 --kernel box:3 --padding 0,1",
    ]
    for line in pairs:
        found = []
        for way in (line, re.sub(r"(\d),(?=\d)", r"\1x", line)):
            assert run([*way.split(), "--json"]) == 0
            found.append(json.loads(capsys.readouterr().out))
        assert found[0] == found[1]


# Completion


def program(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`convmat` as a shell runs it."""
    base = {k: v for k, v in os.environ.items() if not k.startswith("COMP_")}
    return subprocess.run(
        [sys.executable, "-m", "convmat", *args], capture_output=True, text=True, env=base | env, timeout=60
    )


def completed(shell: str, *words: str) -> list[str]:
    """What is offered for the last of the words, asked as the shell's script asks; files as `file:`."""
    line = " ".join(("convmat", *words))
    here = words[-1] if shell == "fish" else str(len(words))
    done = program(COMP_WORDS=line, COMP_CWORD=here, _CONVMAT_COMPLETE=f"{shell}_complete")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")
    if shell == "zsh":
        found = [tuple(lines[place : place + 2]) for place in range(0, len(lines) - 2, 3)]
    else:
        found = [tuple(entry.split("\t")[0].split(",", 1)) for entry in lines if entry]
    return [value if kind == "plain" else f"{kind}:" for kind, value in found]


@pytest.mark.slow
@pytest.mark.parametrize("shell", mostly_slow(["bash", "zsh", "fish"]))
def test_completion_of_each_shell(shell: str) -> None:
    np.savez("b.npz", apple=1, apricot=2, beet=3)
    assert completed(shell, "un") == ["unroll"]
    assert completed(shell, "") == NAMES
    assert completed(shell, "unroll", "--pad") == ["--padding", "--padding-mode"]
    assert completed(shell, "unroll", "a.npy", "--layout", "nch") == ["nchw"]
    assert completed(shell, "unroll", "--padding", "same") == ["same", "same-lower"]
    assert completed(shell, "unroll", "a") == ["file:"]
    assert completed(shell, "matmul", "a.npy", "b") == ["file:"]
    assert completed(shell, "unroll", "a.npy", "-o", "x") == ["file:"]
    assert completed(shell, "train", "--resume", "r") == ["dir:"]
    assert completed(shell, "convolve", "a.npy", "--kernel", "so") == ["file:", "sobel-x", "sobel-y"]
    if shell == "bash":  # which cuts the word in three
        assert completed(shell, "unroll", "b.npz", ":", "ap") == ["apple", "apricot"]
        assert completed(shell, "unroll", "b.npz", ":") == ["apple", "apricot", "beet"]
        assert completed(shell, "verify", "--stage", "=", "f") == ["flatten-filters", "fold"]
    else:
        assert completed(shell, "unroll", "b.npz:ap") == ["b.npz:apple", "b.npz:apricot"]
    assert completed(shell, "unroll", "none.npz:ap") == []
    assert completed(shell, "nonsense", "x") == []


def test_completion_in_a_real_bash() -> None:
    script = """
        eval "$(_CONVMAT_COMPLETE=bash_source convmat)"
        complete -p convmat
        COMP_WORDS=(convmat unroll --lay) COMP_CWORD=2
        _convmat_completion convmat
        echo "${COMPREPLY[@]}"
    """
    done = tools.shell(script)
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(r"complete .*_convmat_completion convmat\n--layout\n", done.out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_comes_before_anything_else(shell: str) -> None:
    for args in ([], ["unroll", "none.png"], ["nonsense"]):
        done = program(*args, _CONVMAT_COMPLETE=f"{shell}_source")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"_CONVMAT_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("instruction", "problem"),
    [
        ("nonsense", "is 'nonsense'; give bash_source, zsh_source or fish_source"),
        ("bash_nonsense", "is 'bash_nonsense'; give bash_source, zsh_source or fish_source"),
        ("zsh_complete", "is 'zsh_complete', and COMP_WORDS and COMP_CWORD are not set"),
    ],
)
def test_completion_that_is_asked_for_wrongly(instruction: str, problem: str) -> None:
    done = program(_CONVMAT_COMPLETE=instruction)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"convmat: _CONVMAT_COMPLETE: {problem}\n"
