"""Nothing lost: outputs together or not at all, never over an input; every command on any kind of stream."""

from __future__ import annotations

import builtins
import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
import pytest
from PIL import Image

from convmat.cli import run
from convmat.cli.manual import contexts
from convmat.cli.types import File
from convmat.encodings import READABLE, readable
from tests.tools import mostly_slow, shell

pytestmark = pytest.mark.usefixtures("folder")

X = np.arange(98.0).reshape(2, 7, 7, 1)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a command line that is refused in one line, with nothing printed; the line."""

    def refuse(line: str) -> str:
        before = everything()
        assert run(line.split()) == 2, line
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert everything() == before
        return err.removeprefix("convmat: ").removesuffix("\n")

    return refuse


def write_inputs() -> None:
    np.save("x.npy", X)
    np.save("one.npy", X[0])
    np.save("nan.npy", np.where(X == 9, np.nan, X))
    np.save("complex.npy", X * 1j)
    np.save("k.npy", np.arange(9.0).reshape(3, 3))
    np.save("b.npy", np.arange(1.0))
    np.save("x_col.npy", np.arange(25 * 9.0).reshape(25, 9))
    np.save("w.npy", np.arange(9.0).reshape(9, 1))
    np.savez("all.npz", x=X, k=np.arange(9.0).reshape(3, 3))
    os.rename("all.npz", "all")


def everything() -> dict[str, bytes | str | None]:
    """All there is in the folder and below."""
    found: dict[str, bytes | str | None] = {}
    for path in Path().rglob("*"):
        found[str(path)] = (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
    return found


# Over an input, and over each other

WRITERS = [
    ("unroll x.npy --k 3 -o {}.npy", "x"),
    ("unroll one.npy x.npy --k 3 --dims 2 -o {}.npy", "x"),
    ("unroll all:x --k 3 -o {}", "all"),
    ("unroll x.npy --k 3 --dry-run -o {}.npy", "x"),
    ("unroll p.png --k 3 --figure {}.png", "p"),
    ("unroll p.png --k 3 --animate {}.png", "p"),
    ("flatten-filters k.npy -o {}.npy", "k"),
    ("matmul x_col.npy w.npy -o {}.npy", "x_col"),
    ("matmul x_col.npy w.npy -o {}.npy", "w"),
    ("convolve x.npy --kernel k.npy -o {}.npy", "x"),
    ("convolve x.npy --kernel k.npy -o {}.npy", "k"),
    ("convolve x.npy --kernel k.npy --bias b.npy -o {}.npy", "b"),
    ("convolve x.npy --kernel all:k -o {}", "all"),
    ("convolve p.png --kernel k.npy --figure {}.png", "p"),
    ("convolve one.npy --kernel k.npy --transpose -o {}.npy", "one"),
    ("fold x_col.npy --input-shape 7,7 --k 3 -o {}.npy", "x_col"),
    ("locate p.png --k 3 --row 0 --col 0 --figure {}.png", "p"),
    ("matrix one.npy --kernel k.npy --dense -o {}.npy", "one"),
    ("matrix p.png --kernel k.npy --figure {}.png", "p"),
    ("matrix one.npy --kernel all:k -o {}", "all"),
]
NAMES: dict[str, Callable[[str], str]] = {
    "itself": lambda name: name,
    "from here": lambda name: os.path.join(".", name),
    "absolute": os.path.abspath,
    "link": lambda name: (os.symlink(name, f"link-{name}"), f"link-{name}")[1],
    "hard link": lambda name: (os.link(name, f"hard-{name}"), f"hard-{name}")[1],
    "linked folder": lambda name: f"folder/{name}",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_input_is_never_written_over(name: str, told: Callable[[str], str]) -> None:
    write_inputs()
    Image.fromarray(np.arange(49, dtype=np.uint8).reshape(7, 7)).save("p.png")
    os.symlink(".", "folder")
    others = {file: NAMES[name](file) for file in os.listdir() if file != "folder"}
    for line, file in WRITERS:
        suffix = line.rpartition("{}")[2]
        other = others[file + suffix]
        assert told(line.format(other.removesuffix(suffix))) == (
            f"{other}: is an input, and those are never written over; name another"
        )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("convmat unroll - --k 3 -o x.npy < x.npy", "x.npy"),
        ("convmat unroll - --k 3 -o hard.npy < x.npy", "hard.npy"),
        ("convmat unroll x.npy --k 3 -o - >> x.npy", "standard output"),
        ("convmat matmul x_col.npy - -o w.npy < w.npy", "w.npy"),
        ("convmat train --data d -o d -q", "d"),
        ("convmat train --data d.npy -o run -q", "run/weights.npz"),
    ],
)
def test_an_input_by_a_name_of_the_shell(line: str, shown: str) -> None:
    write_inputs()
    os.link("x.npy", "hard.npy")
    os.mkdir("d")
    os.mkdir("run")
    np.save("d.npy", X)
    os.symlink("../d.npy", "run/weights.npz")
    before = everything()
    done = shell(line)
    told = f"convmat: {shown}: is an input, and those are never written over; name another\n"
    assert (done.status, done.out, done.err) == (2, "", told)
    assert everything() == before


@pytest.mark.parametrize(
    ("line", "second", "first"),
    [
        ("unroll x.npy --k 3 --figure a.png --animate a.png", "a.png", "a.png"),
        ("unroll x.npy --k 3 --figure a.png --animate ./a.png", "./a.png", "a.png"),
        ("unroll x.npy --k 3 -o a --figure to-a.png", "a", "to-a.png"),
        ("unroll x.npy --k 3 --figure here/a.png --animate a.png", "a.png", "here/a.png"),
        ("convolve x.npy --kernel k.npy -o a.png --figure here/a.png", "a.png", "here/a.png"),
        ("matrix one.npy --kernel k.npy -o a --figure to-a.png", "a", "to-a.png"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_no_two_outputs_to_one_file(
    line: str, second: str, first: str, there: bool, told: Callable[[str], str]
) -> None:
    write_inputs()
    os.symlink("a", "to-a.png")
    os.symlink(".", "here")
    if there:
        for name in ("a", "a.png"):
            Path(name).write_bytes(b"old")
    found = told(line)
    wanted = "{}: is the same file as {}, an output, too; name another"
    assert found in (wanted.format(second, first), wanted.format(first, second))


@pytest.mark.parametrize("redirection", ["> out", "| cat"])
def test_standard_output_by_two_names(redirection: str) -> None:
    write_inputs()
    os.symlink("/dev/stdout", "f.png")
    done = shell(f"convmat unroll x.npy --k 3 -q -o - --figure f.png {redirection}; exit ${{PIPESTATUS[0]}}")
    assert done.status == 2
    assert "is the same file as" in done.err


def test_devices_and_pipes_may_be_shared() -> None:
    write_inputs()
    os.symlink("/dev/null", "f.png")
    assert shell("convmat unroll x.npy --k 3 -q -o /dev/null --figure f.png").status == 0
    done = shell("cat x.npy | convmat unroll - --k 3 -q -o - | cat | wc -c")
    assert (done.out.strip(), done.err) == (str(128 + 50 * 9 * 8), "")


def test_every_parameter_that_names_a_file_is_known() -> None:
    """As an input or an output: what is neither is not kept apart from the others."""
    names = set()
    for ctx in contexts():
        for parameter in ctx.command.params:
            if isinstance(parameter, click.Argument):
                file = isinstance(parameter.type, (click.types.StringParamType, File))
            else:
                file = any(word in (parameter.metavar or "") for word in ("FILE", "DIR", "PATH"))
            if file:
                names.add(parameter.name)
                assert isinstance(parameter.type, File), f"{ctx.command_path} {parameter.name}"
    assert {"inputs", "output", "figure", "kernel"} <= names


# Names that say another format

ENDINGS = ["csv", "txt", "mat", "npz", "pdf", "apng", "svg", "json", "gz", "zip", "h5", "pt", "onnx", "CSV"]


@pytest.mark.parametrize("ending", [*ENDINGS, "safetensors", "tar.gz", "png", "tif"])
def test_an_array_is_not_named_like_another_format(ending: str, told: Callable[[str], str]) -> None:
    write_inputs()
    picture = ending in ("png", "tif")
    for line in (
        "unroll x.npy --k 3",
        "unroll x.npy --k 3 --dry-run",
        "flatten-filters k.npy",
        "matmul x_col.npy w.npy",
        *([] if picture else ["convolve x.npy --kernel k.npy"]),
        *([] if picture else ["fold x_col.npy --input-shape 7,7 --k 3"]),
        "matrix one.npy --kernel k.npy --dense",
    ):
        found = told(f"{line} -o out.{ending}")
        assert found.startswith(f"out.{ending}: is a"), found
        assert "'s name, and this is written as .np" in found
        assert "; name it .np" in found


@pytest.mark.parametrize("ending", [*(e for e in ENDINGS if e != "npz"), "npy", "png"])
def test_archives_and_folders_neither(ending: str, told: Callable[[str], str]) -> None:
    write_inputs()
    assert "; name it .npz" in told(f"matrix one.npy --kernel k.npy -o out.{ending}")
    for line in ("train -o", "probe write --k 3"):
        assert "written as a folder; leave the ending out" in told(f"{line} out.{ending}")
    if ending not in ("png", "apng", "svg"):
        assert "is no picture's name; end it in one of .bmp" in told(
            f"unroll x.npy --k 3 --figure out.{ending}"
        )


@pytest.mark.parametrize("name", ["out", "out.npy", "out.bin", "out.v2", "x.csv.npy", ".npz", "OUT.NPY"])
def test_any_other_ending_will_do(name: str) -> None:
    write_inputs()
    assert run(["unroll", "x.npy", "--k", "3", "-q", "-o", name]) == 0
    assert np.load(name).shape == (50, 9)


# Together or not at all


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("unroll x.npy --k 3 -o old.npy --figure no/f.png", "no/f.png: cannot be written: No such file"),
        ("unroll x.npy --k 3 -o old.npy --animate no/f.gif", "no/f.gif: cannot be written: No such file"),
        ("unroll nan.npy --k 3 -o old.npy --figure f.png", "--figure: complex, NaN or infinite values"),
        ("unroll nan.npy --k 3 -o old.npy --animate f.gif", "--animate: complex, NaN or infinite values"),
        ("unroll nan.npy --k 3 -o old.npy --preview", "--preview: complex, NaN or infinite values"),
        ("unroll complex.npy --k 3 -o old.npy --preview", "--preview: complex, NaN or infinite values"),
        ("unroll complex.npy --k 3 --preview", "--preview: complex, NaN or infinite values"),
        ("convolve nan.npy --kernel k.npy -o old.npy --figure f.png", "--figure: complex, NaN"),
        ("convolve complex.npy --kernel k.npy -o old.npy --figure f.png", "--figure: complex, NaN"),
        ("convolve x.npy --kernel nan.npy -o old.npy --figure f.png", "--"),
        ("convolve huge.npy --kernel huge.npy -o old.npy --figure f.png", "--figure: complex, NaN"),
        ("convolve nan.npy --kernel k.npy -o old.png", "--output: has shape"),
        ("matrix one.npy --kernel k.npy -o old.npz --figure no/f.png", "no/f.png: cannot be written"),
        ("locate nan.npy --k 3 --row 0 --col 0 --figure old.png", "--figure: complex, NaN or infinite"),
        ("train --data x.npy -o new/run --epochs 1", "--data: has 2 images"),
        ("train --lr 1e30 --epochs 2 --filters 2 --train-size 8 --val-size 8 -o new/run", "--lr: "),
    ],
)
def test_what_is_refused_changes_nothing(line: str, said: str, told: Callable[[str], str]) -> None:
    write_inputs()
    np.save("huge.npy", np.full((3, 3), 1e300))
    for name in ("old.npy", "old.npz", "old.png"):
        Path(name).write_bytes(b"old")
    assert said in told(line)


@pytest.mark.parametrize("command", ["unroll nan.npy --k 3", "convolve nan.npy --kernel k.npy"])
def test_no_byte_is_sent_before_a_figure_is_refused(command: str) -> None:
    write_inputs()
    done = shell(f"convmat {command} -o - --figure f.png")
    assert (done.status, done.out) == (2, "")
    assert not Path("f.png").exists()


def test_what_was_sent_takes_no_figure_with_it() -> None:
    """A reader that leaves, and an input that breaks off behind the image that is drawn."""
    np.save("many.npy", np.zeros((40, 100, 100, 1)))
    done = shell(
        "convmat unroll many.npy --k 3 -q -o - --figure f.png | head -c 10 > h; exit ${PIPESTATUS[0]}"
    )
    assert (done.status, done.err) == (141, "")
    done = shell("head -c 3000000 many.npy | convmat unroll - --k 3 -q -o - --figure f.png | wc -c")
    assert "truncated" in done.err
    assert sorted(os.listdir()) == ["h", "many.npy"]


def test_files_are_wanted_where_the_table_is_not() -> None:
    write_inputs()
    done = shell("convmat unroll x.npy --k 3 -o y.npy --figure f.png > /dev/full")
    assert (done.status, Path("y.npy").exists(), Path("f.png").exists()) == (2, False, False)
    assert ran("unroll x.npy --k 3 -o y.npy --figure f.png", stdout="gone")[0] == 141
    assert Path("y.npy").exists() and Path("f.png").exists()


def test_an_experiment_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    settings = [*["train", "--filters", "2", "--train-size", "8", "--val-size", "8", "--epochs", "1"]]
    assert run([*settings, "-q", "-o", "run"]) == 0
    before = everything()
    assert {"run/weights.npz", "run/history.csv", "run/summary.json"} < set(before)

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convmat.cli.experiments.json_text", fail)
    assert run([*settings, "-q", "--seed", "3", "-o", "run"]) == 2
    assert run([*settings, "-q", "-o", "new/folder"]) == 2
    assert everything() == before


SEVERAL = {
    "unroll": ("unroll x.npy --k 3 -q -o old.npy --figure old.png --animate a.gif", "old.npy old.png a.gif"),
    "convolve": ("convolve x.npy --kernel k.npy -q -o there/old.npy --figure n.png", "there/old.npy n.png"),
    "matrix": ("matrix one.npy --kernel k.npy -q -o new.npz --figure old.png", "new.npz old.png"),
    "picture": ("convolve one.npy --kernel k.npy -q -o old.png --figure new.png", "old.png new.png"),
    "probe": ("probe write new --k 3 -q", "new"),
    "train": ("train --filters 2 --train-size 8 --val-size 8 --epochs 1 -q -o old", "old/weights.npz"),
}  # fmt: skip
CALLS = ["open", "write", "link", "rename", "replace", "fsync", "fchmod", "mkdir"]
_OPEN = builtins.open


class Failing:
    """Fails the Nth call of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind, self.at, self.count = kind, 0, 0

    def call(self, kind: str) -> None:
        if kind == self.kind:
            self.count += 1
            if self.count == self.at:
                raise OSError(5, "Input/output error")

    def wrapped(self, kind: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.call(kind)
            return function(*arguments, **options)

        return call

    def open(self, file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        """Like the builtin, for what is written."""
        if "x" not in mode:
            return _OPEN(file, mode, *rest, **more)
        self.call("open")
        failing = self

        class Raw(io.FileIO):
            def write(self, data: Any, /) -> Any:
                failing.call("write")
                return super().write(data)

        return io.BufferedWriter(Raw(file, "x"))


SLOWER = ("train", "unroll")  # those that make more calls; the others show the same of each kind


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOWER)) for name in SEVERAL]
)
def test_the_nth_call_fails(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing has changed: neither what was there, nor is anything left. SQLite's way of testing."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_inputs()
    for folder in ("there", "old"):
        os.mkdir(folder)
    for file in ("old.npy", "old.png", "there/old.npy", "old/weights.npz"):
        Path(file).write_bytes(b"old")
    line, files = SEVERAL[name]
    before, failing = everything(), Failing(kind)
    monkeypatch.setattr(builtins, "open", failing.open)
    for call in CALLS[2:]:
        monkeypatch.setattr(os, call, failing.wrapped(call, getattr(os, call)))
    at = 0
    while True:
        at += 1 + at // 4
        failing.at, failing.count = at, 0
        status = run(line.split())
        err = capsys.readouterr().err
        if status == 0:
            break
        assert (status, err.count("\n")) == (2, 1), err
        assert "cannot be written: Input/output error" in err
        assert everything() == before, f"{kind} {at}"
    assert failing.count < at or kind in ("link", "mkdir")  # which need not be had
    after = everything()
    assert all(after[file] != b"old" for file in files.split())
    assert not [path for path in after if ".convmat" in path]
    if kind in ("open", "write", "fsync", "replace"):
        assert at > len(files.split()), "nothing was tested"


def test_a_signal_between_two_names_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs()
    Path("old.npy").write_bytes(b"old")
    before, replace, calls = everything(), os.replace, []

    def stopped(*arguments: Any) -> None:
        replace(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    assert run(["unroll", "x.npy", "--k", "3", "-q", "-o", "old.npy", "--figure", "f.png"]) == 130
    assert everything() == before


def test_what_cannot_be_put_back_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs()
    Path("old.npy").write_bytes(b"old")
    replace, calls = os.replace, []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", fail)
    assert run(["unroll", "x.npy", "--k", "3", "-q", "-o", "old.npy", "--figure", "f.png"]) == 2
    err = capsys.readouterr().err
    assert "old.npy: could not be put back: Input/output error; what was there is kept as" in err
    kept = err.split("kept as ")[1].strip()
    assert Path(kept).read_bytes() == b"old"


# Every command, on streams that are closed, full, gone, of other encodings


def opened(state: str) -> TextIO:
    """A standard output or error as the command line has it when a shell has left it so."""
    if state == "gone":
        end, number = os.pipe()
        os.close(end)
    elif state in ("closed", "read-only"):  # `main` makes the one of the other
        number = os.open(os.devnull, os.O_RDONLY)
    else:
        number = os.open({"full": "/dev/full"}.get(state, state), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    return open(number, "w", encoding="utf-8", errors=READABLE)


def ran(
    line: str, stdin: str | None = "x.npy", stdout: str = "../out", stderr: str = "../err"
) -> tuple[int, str, str]:
    """Status, standard output and error of a command line whose streams are in these states."""
    out, err = opened(stdout), opened(stderr)
    source = None if stdin is None else open(stdin, encoding="latin-1")  # noqa: SIM115  # closed below
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in (("stdin", source), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        status = run(line.split())
    texts = []
    for stream in (out, err, source):
        with suppress(OSError):
            if stream is not None:
                stream.close()
    for name in ("../out", "../err"):
        path = Path(name)
        texts.append(path.read_bytes().decode("utf-8", "replace") if path.exists() else "")
        path.unlink(missing_ok=True)
    return status, texts[0], texts[1]


# With what they leave behind.
LINES = {
    "": "",
    "--help": "",
    "--version": "",
    "unroll --help": "",
    "unroll x.npy --k 3": "",
    "unroll x.npy --k 3 --preview": "",
    "unroll x.npy --k 3 --json": "",
    "unroll x.npy --k 3 -o y.npy --figure f.png": "y.npy f.png",
    "unroll x.npy --k 3 --dry-run": "",
    "unroll x.npy --k 3 --dry-run -o -": "",
    "unroll - --k 3 -o -": "",
    "unroll - --k 3 -q -o y.npy": "y.npy",
    "flatten-filters k.npy": "",
    "flatten-filters k.npy -o -": "",
    "matmul x_col.npy w.npy": "",
    "matmul x_col.npy w.npy -q -o -": "",
    "matmul - b.npy -o y.npy": "y.npy",
    "convolve x.npy --kernel k.npy --plan": "",
    "convolve x.npy --kernel k.npy -o - --figure f.png": "f.png",
    "convolve one.npy --kernel k.npy -o y.png": "y.png",
    "convolve one.npy --kernel k.npy --transpose": "",
    "fold x_col.npy --input-shape 7,7 --k 3": "",
    "fold x_col.npy --input-shape 7,7 --k 3 -o -": "",
    "locate x.npy --k 3 --row 2 --col 1": "",
    "locate - --k 3 --pixel 2,2,0 --figure f.png": "f.png",
    "matrix one.npy --kernel k.npy": "",
    "matrix one.npy --kernel k.npy -o m.npz --figure f.png": "m.npz f.png",
    "matrix one.npy --kernel k.npy --dense -o -": "",
    "verify x.npy --kernel k.npy": "",
    "compare x.npy one.npy": "",
    "verify x.npy --kernel k.npy --explain --expected -": "",
    "probe write p --k 3": "p",
    "sizes 9 --k 3": "",
    "train --filters 2 --train-size 8 --val-size 8 --epochs 1 -o run": "run",
    "unroll none.npy --k 3": "",
    "unroll --k": "",
}


TRAIN = "train --filters 2 --train-size 8 --val-size 8 --epochs 1"
STATES = [
    {"stdin": None},
    *(
        {"stdout": state}
        for state in ("read-only", "gone", "/dev/full")
        if state[0] != "/" or os.path.exists(state)
    ),
    *(
        {"stderr": state}
        for state in ("read-only", "gone", "/dev/full")
        if state[0] != "/" or os.path.exists(state)
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("line", mostly_slow(LINES))
def test_every_command_on_every_kind_of_stream(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    os.mkdir("folder")
    os.chdir("folder")
    write_inputs()
    inputs = everything()
    usual, printed, _ = ran(line)
    assert made(inputs) == (set(LINES[line].split()) if usual < 2 else set())
    for state in STATES:
        status, _, err = ran(line, **state)  # type: ignore[arg-type]
        told = f"{state}: {status}, {err}"
        assert "internal error" not in err and "Traceback" not in err, told
        assert status == wanted_status(line, state, usual, bool(printed)), told
        lines = [text for text in err.splitlines() if "warning" not in text]
        if status == 2 and "stderr" not in state and line:
            assert len(lines) == 1 and lines[0].startswith("convmat: "), told
        kept = status < 2 or (status == 141 and " -o - " not in f"{line} ")
        assert made(inputs) == (set(LINES[line].split()) if kept else set()), told


def wanted_status(line: str, state: dict[str, Any], usual: int, prints: bool) -> int:
    """What a command line ends with on streams in a state, where it usually ends so."""
    sends = " -o - " in f"{line} "
    if "stdin" in state and (" - --" in line.split("-o")[0] or "- b.npy" in line or "--expected -" in line):
        return 2
    if usual == 2 or "stdout" not in state or not (prints or sends):
        return usual
    if "--dry-run" in line and sends and "full" in state["stdout"]:
        return 0  # nothing is sent
    return 141 if state["stdout"] == "gone" else 2


def made(inputs: dict[str, bytes | str | None]) -> set[str]:
    """What there is besides the inputs, which are as they were; it is removed."""
    found = everything()
    assert {name: found.get(name) for name in inputs} == inputs
    names = {name.split("/")[0] for name in found} - set(inputs)
    for name in names:
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
    return names


@pytest.mark.slow
def test_streams_that_a_shell_has_closed() -> None:
    """In real processes, which begin in another way than any test can."""
    write_inputs()
    cases = {
        "convmat --help >&-": (2, "standard output: Bad file descriptor"),
        "convmat unroll x.npy --k 3 >&-": (2, "standard output: Bad file descriptor"),
        "convmat unroll x.npy --k 3 -o y.npy >&-": (2, "standard output: Bad file descriptor"),
        "convmat unroll x.npy --k 3 -o - >&-": (2, "standard output: is closed; name a file with -o"),
        "convmat unroll x.npy --k 3 --dry-run -o - >&-": (2, "standard output: is closed; name a file with"),
        "convmat unroll x.npy --k 3 -o - 1</dev/null": (2, "standard output: is closed; name a file with -o"),
        "convmat unroll - --k 3 <&-": (2, "standard input: is closed"),
        "convmat unroll none.npy --k 3 2>&-": (2, ""),
        "convmat unroll x.npy --k 3 -q -o - 2>&- | wc -c; exit ${PIPESTATUS[0]}": (0, ""),
    }
    before = everything()
    for line, (status, said) in cases.items():
        done = shell(line)
        assert done.status == status, (line, done)
        assert done.err.startswith(f"convmat: {said}" if said else ""), (line, done)
        assert done.err.count("\n") == bool(said), (line, done)
    assert everything() == before


@pytest.mark.parametrize("encoding", mostly_slow(["ascii", "cp1252", "latin-1"]))
def test_help_in_a_file_of_another_encoding(encoding: str) -> None:
    done = shell(
        "convmat --help > help; convmat matmul --help > matmul; convmat none 2> error; "
        "convmat unroll é.npy --k 3 2>> error",
        PYTHONIOENCODING=encoding,
    )
    assert (done.out, done.err) == ("", "")
    text = Path("help").read_bytes().decode(encoding)
    assert "unroll           image(s) -> X_col, the patch matrix" in text
    assert ("X_col · W_col -> Y" if encoding != "ascii" else "X_col * W_col -> Y") in text
    assert "Multiply X_col by W_col" in Path("matmul").read_bytes().decode(encoding)
    errors = Path("error").read_bytes().decode(encoding).splitlines()
    assert errors[1].startswith("convmat: " + ("\\xe9.npy" if encoding == "ascii" else "é.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_every_command_in_every_encoding(encoding: str) -> None:
    """All that is said is there, in letters where the encoding lacks signs, and none as a number."""
    write_inputs()
    lines = [line for line in LINES if "-o" not in line and "p --k" not in line and " - " not in line]
    lines += [" ".join([*ctx.command_path.split()[1:], "--help"]) for ctx in contexts()]
    lines.append(f"{TRAIN} --epochs 2 --probe-divergence")
    lines.append("verify x.npy --kernel k.npy --expected nan.npy --explain")
    for line in lines:
        said, shown = ({}, {})
        for found, kind in ((said, "utf-8"), (shown, encoding)):
            with pytest.MonkeyPatch.context() as patch:
                for name in ("stdout", "stderr"):
                    stream = io.TextIOWrapper(io.BytesIO(), encoding=kind, errors=READABLE)
                    patch.setattr(sys, name, stream)
                    found[name] = stream
                found["status"] = run(line.split())
            for name in ("stdout", "stderr"):
                found[name] = found[name].buffer.getvalue().decode(kind)  # type: ignore[attr-defined]
        assert shown["status"] == said["status"]
        for name in ("stdout", "stderr"):
            text = str(shown[name])
            assert "\\u" not in text and "\\x" not in text, (line, text)
            assert text.count("\n") == str(said[name]).count("\n"), (line, text)
            if "train" not in line:  # which tells the time
                assert letters(text) == letters(str(said[name])), line


def letters(text: str) -> str:
    """What every encoding has, and what stands for other signs."""
    return "".join(c for c in readable(text, "ascii") if c.isalnum())


def test_tables_stay_tables_where_signs_are_spelt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders are as long as what they enclose."""
    np.save("large.npy", np.zeros((1, 60, 60, 1)))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=READABLE)
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(["convolve", "large.npy", "--kernel", "box:3"]) == 0
    shown = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "..." in shown
    width = 0
    for line in shown.splitlines():
        width = (width or len(line)) if line[0] in "+|" else 0
        assert line[0] not in "+|" or len(line) == width, shown


class Terminal(io.StringIO):
    """A terminal."""

    encoding = "utf-8"  # type: ignore[assignment]  # of what would be one

    def isatty(self) -> bool:
        return True


NARROW = [line for line in LINES if line and " - " not in f"{line} " and "-o run" not in line]


@pytest.mark.parametrize(("columns", "no_color"), [("60", False), ("60", True), ("0", True), ("1", False)])
@pytest.mark.parametrize("line", NARROW)
def test_every_command_on_a_narrow_terminal(
    line: str, columns: str, no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs()
    for name, value in (("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("COLUMNS", columns)):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    out, err = Terminal(), Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr("convmat.cli._end", lambda _: None)
        status = run(line.split())
    assert status in (0, 1) or "none" in line or line in ("", "unroll --k"), err.getvalue()
    assert "internal error" not in err.getvalue()
    if no_color:
        assert "\x1b[3" not in out.getvalue() and "\x1b[48" not in out.getvalue()
    shown = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    if columns == "60" and "json" not in line and "help" not in line:
        assert all(len(text) <= 60 for text in shown.splitlines() if text[:1] in ("│", "╭")), shown
