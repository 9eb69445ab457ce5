"""Fuzzing: `python -m tests.fuzz [COUNT] [SEED]` runs command lines with good and bad options and files.

Whatever they are, a line ends as it should: status 0, or 1 for a verdict, and nothing on standard error but
warnings of ours; or 2, one line that says why, and no file changed; in little time, and no more memory than
was there to ask for. Of all that end otherwise the command that repeats it is printed; exit status 1.

`python -m tests.fuzz SEED:NUMBER` repeats one, and keeps its folder.
"""

from __future__ import annotations

import faulthandler
import io
import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple
from unittest import mock

import click
import numpy as np
from numpy.typing import NDArray

from convmat.cli import run, types
from convmat.cli.manual import contexts
from convmat.encodings import READABLE
from convmat.files.records import packed
from tests.damaged import archive, arrays, damaged, idx, images, nasty, saved, swapped, tables, texts

SECONDS = 10  # of the processor, so that a busy machine makes no offence
STUCK = 300  # seconds by the clock in which nothing in Python was reached
AVAILABLE = 512 << 20  # bytes of memory that convmat finds; what asks for more is refused
MEMORY = 64 << 20  # above what is asked for: what buffers and libraries take
WORKERS = 2
PORTION = 2000  # inputs of one process
NO_UTF8 = os.fsdecode(b"in\xff")


class Offence(Exception):
    """An end that is none of those there should be."""


class _Overtime(BaseException):
    """Past what any handler of convmat or Pillow would take for an error of the file's."""


class Input(NamedTuple):
    """A command line, the files that it needs besides those of the `World`, and its standard input."""

    words: list[str]
    files: dict[str, bytes]
    stdin: bytes

    def __str__(self) -> str:
        return f"convmat {shlex.join(word if len(word) < 99 else word[:99] + '…' for word in self.words)}"


# Command lines

_TRAIN = "train --epochs 1 --filters 3 --train-size 20 --val-size 10 --batch-size 8"
LINES = f"""
unroll @5,5,2 --k 2 -o out.npy
unroll @2,6,5,1 --k 3 --padding-mode reflect --padding 1 -o -
unroll @5,6 --k 2 --figure out.png
unroll @5,6 --k 2 --at 1,2 --scale 2 --animate out.svg --fps 3
unroll @3,3 --k 2 --animate out.gif
unroll @5,6 --k 2 --preview
convolve @5,5 --kernel sobel-x -o out.npy
convolve @1,6,6,2 --kernel k.npy --padding same --padding-mode circular -o out.npy
convolve @6,6,3 --kernel box:3 --depthwise -o out.png
convolve @5,6 --kernel sobel-x --figure out.png
convolve @5,6 --kernel sobel-x --theme dark --animate out.gif
convolve @3,3 --kernel box:2 --transpose --stride 2 -o out.png
convolve x.npy --kernel @2,3,3 --bias b.npy -o out.npy
convolve x.npy --kernel k1.npy --bias @2 -o out.gif
convolve i.npy --kernel @3,3 -o out.png
verify @5,5 --kernel box:2
verify @5,5 --kernel sobel-x --explain
verify x.npy --kernel @2,3,3
verify x.npy --kernel k1.npy --bias @2
verify x.npy --kernel k1.npy --expected @1,3,3,2
verify x.npy --kernel k1.npy --expected @9,2 --explain
verify i.npy --kernel sobel-x --requantize 0.1,3,half-even --expected @1,3,3,1
verify i.npy --kernel k1.npy --quantize @toml --expected @1,3,3,2
convolve i.npy --kernel sobel-x --quantize @toml -o out.npy
compare @3,3 y.npy
compare @3,3 @3,3
verify x.npy --k 3 --stage unroll --expected @9,9
verify --stage flatten-filters --kernel @2,3,3 --expected w.npy
verify --stage flatten-filters --kernel k1.npy --expected @9,2
verify x_col.npy --k 3 --stage fold --input-shape 5,5 --expected @5,5
verify @9,9 --k 3 --stage fold --input-shape 5,5 --expected x.npy
verify --stage matrix --kernel sobel-x --input-shape 5,5 --expected @9,25
verify --stage matrix --kernel sobel-x --input-shape 5,5 --expected @sparse
probe judge @probe probe/integers/y.npy
probe judge @probe results
probe judge probe @1,10,12,4
probe write new --k 3
fold @9,9 --k 3 --input-shape 5,5 -o out.npy
fold @9,9 --k 3 --input-shape 5,5 --overlap mean --layout nchw -o out.png
matmul @9,9 w.npy -o out.npy
matmul @9,9 w.npy --output-shape 3,3 -o out.png
matmul x_col.npy @9,2 -o out.npy
flatten-filters @2,3,3 -o out.npy
flatten-filters @2,3,3,2 --kernel-layout oihw --order chw -o -
flatten-filters @text
convolve x.npy --kernel @text -o out.npy
convolve x.npy --kernel k1.npy --bias @text
locate @5,5 --k 3 --row 1 --col 2
locate @5,5 --k 3 --pixel 1,1,0 --figure out.png
matrix @5,5 --kernel box:2 -o out.npz --iterations 20
matrix --input-shape 5,5 --kernel @3,3 -o out.npy --dense
matrix --input-shape 6,5,2 --kernel @2,3,3,2 --padding same
sizes 28 --k 7 --stride 2
sizes 28,30 --layer k=3,s=2 --layer k=2
{_TRAIN} --data @40,6,6
{_TRAIN} --data @idx
{_TRAIN} --data @mnist
{_TRAIN} --data @images
{_TRAIN} --data data -o new
{_TRAIN} --optimizer adam --lr 1e30 --dtype float64 --probe-divergence
train --resume @record --epochs 2
train --resume @record -o new
""".strip().splitlines()

_GOOD = str.split("1 2 3 1,2 3x3 2,2,2 1,1,2,0")
_LONG = "9" * 5000  # more digits than Python takes
_BAD = ["", " 3", _LONG, *map(str, (2**31, 10**9, 10**18, 10**30))]
_BAD += str.split("0 -1 x 1.5 1e3 3, +2 ٣ 1_0 99 1,2,3,4,5,6,7 4,4,10000000")
_INTEGERS = ["0", "1", "2", "3", "1025", *_BAD]
_FLOATS = str.split("0 1 0.5 -1 1e-300 1e30 1e38 1e39 1e400 nan inf -inf x 1,5")
_READ = str.split(
    "x.npy i.npy y.npy k.npy k1.npy b.npy w.npy x_col.npy empty.npy s.npz n.npz:a n.npz:b n.npz n.npz: "
    "none.npy x.png frames.gif t.txt - probe results run data pictures sobel-x laplacian box:2 gaussian:3 "
    "gaussian:1000000000 box:0 /dev/null /dev/zero /proc/self/mem . x.npy/y \udcff [/x].npy 1e400"
)
_READ += ["1 0 -1; 2 0 -2", "1/0 2", "a\nb", _LONG, ""]
_WRITTEN = str.split(
    "out.npy out.npz out.png out.gif out.jpg out.tif out.webp out.ppm out.apng out.txt out new old.npy - "
    "x.npy none/out.npy probe run . /dev/null /dev/full data/out.npy \udcff.npy [/x].npy"
)
_WRITTEN += ["a" * 300, ""]
_VALUES: dict[str, list[str]] = {  # of parameters that need values of their own
    "cases": ["0", "1", "-1", "x"],  # as many more would take as long as they do
    "epochs": ["1", "2", "0", "-1", "x", str(10**30)],
    "layers": [
        "k=3",
        "k=3,s=2,p=same,d=2",
        "k=3x3x3",
        "k=0",
        "s=2",
        "k=3,k=2",
        "k=99",
        f"k={_LONG}",
        "x",
        "",
    ],
    "requantize": [
        f"{scale},{zero},{rounding}"
        for scale in ("0.1", "1e-300", "1e300", "nan", "-1", "x")
        for zero in ("0", "-3", str(10**30))
        for rounding in ("half-up", "half-even,int8", "gemmlowp", "half-away,uint8", "x", "half-up,float32")
    ],
    "formats": ["npy", "c,hex", "x", "", ",", "c,c"],
    "case": ["integers", "one-hot", "bias", "x", "", "../integers"],
}


def _values(parameter: click.Parameter) -> list[str]:
    """Values in and out of the range of an option or argument."""
    if (named := _VALUES.get(parameter.name or "")) is not None:
        return named
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return [*map(str, kind.choices)] * 3 + [str(kind.choices[0]).upper(), "x", ""]
    if isinstance(kind, types.OutputName):
        return _WRITTEN
    if isinstance(kind, types.File):
        return _READ
    if isinstance(kind, types.PaddingType):
        return ["valid", "same", "same-lower", "half", "full"] * 2 + _GOOD + _BAD
    if isinstance(kind, types.Sizes):
        return _GOOD * 3 + _BAD
    return _FLOATS if parameter.name in ("atol", "rtol", "lr") else _INTEGERS


def _word(parameter: click.Parameter, chance: random.Random) -> list[str]:
    """An option with its value, or an argument, of which there may be several."""
    if isinstance(parameter, click.Option):
        name = chance.choice([*parameter.opts, *parameter.secondary_opts])
        return [name] if parameter.is_flag else [name, chance.choice(_values(parameter))]
    return chance.choices(_values(parameter), k=chance.choice((0, 1, 1, 2)) if parameter.nargs < 0 else 1)


_COMMANDS = {
    ctx.command_path.partition(" ")[2]: ctx.command
    for ctx in contexts()
    if not isinstance(ctx.command, click.Group)
}


def made(seed: int, number: int) -> Input:
    """The input of this number: always the same."""
    chance = random.Random(f"{seed}:{number}")
    files: dict[str, bytes] = {}
    stdin = chance.choice((b"", b"x", arrays()[0][1]))
    if chance.random() < 0.1:
        words = chance.choice([*_COMMANDS]).split()  # with all else by chance
        if words == ["train"]:
            words = _TRAIN.split()  # by itself it takes a minute
        more = 3
    else:
        words, more = chance.choice(LINES).split(), chance.choice((0, 0, 1, 1, 2, 3))
    command = _COMMANDS[words[0] if words[0] in _COMMANDS else " ".join(words[:2])]
    for place, word in enumerate(words):
        if word.startswith("@"):
            name = _file(word[1:], files, chance)
            if name in files and "-" not in words and chance.random() < 0.15:
                name, stdin = "-", files.pop(name)
            words[place] = name
    for _ in range(more):
        words += _word(chance.choice(command.params), chance)
    return Input([*words, *["--json"] * (chance.random() < 0.2)], files, stdin)


def _file(kind: str, files: dict[str, bytes], chance: random.Random) -> str:
    """Add a file of this kind, or shape, or a whole folder of them; the word for it on a command line."""
    if kind[0].isdigit():
        shape = tuple(map(int, kind.split(",")))
        kind = chance.choice(("nasty", "nasty", "nasty", "npy", "npy", "image", "image", "text"))
        kind = "npy" if kind == "image" and len(shape) == 1 else kind
    if kind == "nasty":
        suffix, content = ".npy", saved(nasty(shape, chance), chance.choice(((1, 0), (1, 0), (2, 0))))
    elif kind == "npy":
        suffix, content = damaged(arrays(), chance, arrays=True)
    elif kind == "text":
        suffix, content = damaged(texts(), chance)
    elif kind == "toml":
        suffix, content = damaged(tables(), chance)
    elif kind == "mnist":
        suffix, content = damaged([(".npz", world()["mnist.npz"])], chance)
    elif kind == "sparse":
        suffix, content = ".npz", _sparse(chance)
    elif kind == "idx":
        dot, content = damaged(idx(), chance)
        files[f"in-data/{chance.choice(('train', 't10k'))}-images-idx3-ubyte{dot}"] = content
        return "in-data"
    elif kind == "images":
        for number in range(40):
            files[f"in-pictures/{number:02}.png"] = world()["x.png"]
        suffix, content = damaged(images(), chance)
        files[f"in-pictures/20{suffix}"] = content
        return "in-pictures"
    elif kind == "record":
        files["in-run/weights.npz"] = _record(chance)
        return "in-run"
    elif kind == "probe":
        found = {f"in-{name}": content for name, content in world().items() if name.startswith("probe/")}
        name = "in-probe/probe.json" if chance.random() < 0.6 else chance.choice(list(found))
        swaps = name.endswith(".json") and chance.random() < 0.8
        how = json.dumps(swapped(json.loads(found[name]), chance)).encode() if swaps else None
        files |= found | {name: how or damaged([("", found[name])], chance, arrays=True)[1]}
        return "in-probe"
    else:
        suffix, content = damaged(images(), chance)
    name = f"{chance.choice(('in',) * 20 + ('in [red][/x]', 'in:put', NO_UTF8))}{suffix}"
    files[name] = content
    return f"{name}:a" if suffix == ".npz" and kind not in ("sparse", "mnist") else name


def _members(content: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(content)) as archive:
        return dict(archive)


def _other_array(members: dict[str, NDArray[Any]], chance: random.Random) -> None:
    """Put another array in place of one of an archive."""
    key = chance.choice(list(members))
    members[key] = nasty(members[key].shape or (1,), chance)
    if chance.random() < 0.2:
        del members[key]


def _sparse(chance: random.Random) -> bytes:
    """A matrix in scipy's format, with numbers of it, an array, or bytes damaged."""
    content = world()["s.npz"]
    if chance.random() < 0.3:
        return damaged([("", content)], chance)[1]
    members = _members(content)
    for _ in range(chance.choice((1, 1, 2))):
        key = chance.choice(list(members))
        if members[key].dtype.kind in "iu" and members[key].size and chance.random() < 0.7:
            members[key].reshape(-1)[chance.randrange(members[key].size)] = chance.choice(
                (-1, 0, 1, 99, 2**31 - 1)
            )
        elif chance.random() < 0.1:
            members[key] = np.array(chance.choice((b"coo", b"", b"csr" * 1000, "csc", "\0")))
        else:
            _other_array(members, chance)
            break
    return archive({f"{key}.npy": saved(array) for key, array in members.items()})


def _record(chance: random.Random) -> bytes:
    """A run's record, damaged as bytes, or as what has the right checksums of the wrong things."""
    content = world()[f"{chance.choice(('run', 'adam'))}/weights.npz"]
    if chance.random() < 0.2:
        return damaged([("", content)], chance)[1]
    members = _members(content)
    record = json.loads(members.pop("record").tobytes())
    if chance.random() < 0.7:
        record = swapped({key: record[key] for key in record if key not in ("arrays", "checksum")}, chance)
    else:
        _other_array(members, chance)
    if isinstance(record, dict):
        with suppress(ValueError, TypeError):
            members = packed(record, members)
    return archive({f"{key}.npy": saved(array) for key, array in members.items()})


# Runs


@cache
def world() -> dict[str, bytes]:
    """Good files of every kind, by name: what there is in the folder of every run."""
    home, x = os.getcwd(), np.arange(25.0).reshape(5, 5)
    taps = np.arange(18).reshape(2, 3, 3)
    found = {"old.npy": b"old", "t.txt": texts()[0][1], "frames.gif": images()[17][1]}
    for name, array in {
        "x": x, "i": x.astype("u1"), "y": x[:3, :3], "k": np.stack([taps] * 2, -1) % 5, "k1": taps,
        "b": x[0, :2], "w": taps.reshape(2, 9).T.copy(), "x_col": np.outer(x, x)[:9, :9], "empty": x[:0],
    }.items():  # fmt: skip
        found[f"{name}.npy"] = saved(array)
    found["n.npz"] = archive({"a.npy": found["x.npy"], "b.npy": found["k1.npy"]})
    found["mnist.npz"] = archive(
        {f"x_{part}.npy": saved(np.zeros((20, 6, 6), "u1")) for part in ("train", "test")}
    )
    found["x.png"] = found["pictures/1.png"] = found["pictures/2.png"] = images()[1][1]
    found["data/train-images-idx3-ubyte"] = idx()[0][1]
    with tempfile.TemporaryDirectory() as folder, _NO_FIGURES:
        try:
            os.chdir(folder)
            World.put(found)
            for line in (
                "matrix --input-shape 5,5 --kernel sobel-x -o s.npz -q",
                "probe write probe --k 3 -q",
                f"{_TRAIN} --data data -o run -q",
                f"{_TRAIN} --data data --optimizer both --probe-divergence -o adam -q",
            ):
                if run(line.split()):
                    raise AssertionError(line)
            found |= {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        finally:
            os.chdir(home)
    results = {
        n.split("/")[1]: content for n, content in found.items() if re.fullmatch("probe/[^/]+/y.npy", n)
    }
    return found | {f"results/{case}.npy": content for case, content in results.items()}


class World:
    """The folder of every run, the current one: the files of `world`, as they were after each run."""

    def __init__(self) -> None:
        self.put(world())
        self._good = _listed()

    @staticmethod
    def put(files: dict[str, bytes]) -> None:
        for name, content in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)

    def outcome(self, given: Input) -> str:
        """Run an input: "done", "verdict", or the refusal without its names and numbers.

        Raises:
            Offence: another end.
        """
        self.put(given.files)
        before = _listed()
        try:
            end = _ended(given)
            _judge(given, end, {name for name, _ in before.items() ^ _listed().items()})
        finally:
            self._restore()
        return {0: "done", 1: "verdict"}.get(end.status) or _without_numbers(end.err.splitlines()[-1])

    def _restore(self) -> None:
        now = _listed()
        for name in sorted(now.keys() - self._good.keys(), reverse=True):  # what is in a folder before it
            Path(name).rmdir() if os.path.isdir(name) and not os.path.islink(name) else Path(name).unlink()
        if any(now.get(name) != facts for name, facts in self._good.items()):
            self.put(world())
            self._good = _listed()


def _listed(folder: str = ".") -> dict[str, object]:
    """All there is in a folder: what changes with the content of files, and with their modes."""
    found: dict[str, object] = {}
    for entry in os.scandir(folder):
        facts, name = entry.stat(follow_symlinks=False), os.path.normpath(entry.path)
        if entry.is_dir(follow_symlinks=False):
            found |= {name: facts.st_mode} | _listed(entry.path)
        else:
            found[name] = (facts.st_mode, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


class _Available:
    """The memory there is, for `check_memory` to compare with, and all that is asked for."""

    asked = 0

    def __lt__(self, needed: int) -> bool:
        self.asked += needed
        return needed > AVAILABLE

    def __str__(self) -> str:
        return str(AVAILABLE)


_NO_FIGURES = mock.patch("convmat.cli.experiments._figures", lambda _: None)  # matplotlib's take seconds


class End(NamedTuple):
    """How a run ended."""

    status: int
    out: bytes
    err: str
    seconds: float
    peak: int
    """Bytes of memory beyond what there was before."""
    asked: int


def _ended(given: Input) -> End:
    with _streams(given.stdin) as (out, err), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _show_warning  # pytest would keep it to itself
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # Pillow's, of files whose first bytes it cannot read
        available = _Available()
        before, began = _reset_peak(), time.process_time()
        before_signal = signal.signal(signal.SIGPROF, _overtime)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            with mock.patch("convmat.files.memory._available_bytes", lambda: available), _NO_FIGURES:
                status = run(given.words)
            sys.stdout.flush(), sys.stderr.flush()
        except _Overtime:
            raise Offence(f"took more than {SECONDS} s") from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before_signal)
        seconds, peak = time.process_time() - began, _memory("VmHWM") - before
        err.seek(0), out.seek(0)
        return End(status, out.read(), err.read().decode(errors="replace"), seconds, peak, available.asked)


@contextmanager
def _streams(stdin: bytes) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Standard input, a pipe, and files of all that reaches the other two, also from decoders in C."""
    kept, old = [os.dup(number) for number in range(3)], (sys.stdin, sys.stdout, sys.stderr)
    read, write = os.pipe()
    os.write(write, stdin[: 1 << 16])  # what a pipe holds
    os.close(write)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            for number, file in enumerate((read, out.fileno(), err.fileno())):
                os.dup2(file, number)
            os.close(read)
            sys.stdin, sys.stdout, sys.stderr = (
                open(number, mode, encoding="utf-8", errors=READABLE, closefd=False)  # noqa: SIM115
                for number, mode in enumerate("rww")
            )
            yield out, err
        finally:
            sys.stdin, sys.stdout, sys.stderr = old
            for number, file in enumerate(kept):
                os.dup2(file, number)
                os.close(file)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    print(f"{category.__name__}: {message}", file=sys.stderr)


def _overtime(number: int, frame: FrameType | None) -> None:
    raise _Overtime


def _memory(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def _reset_peak() -> int:
    """Let the peak of memory begin anew; what is in use now."""
    with suppress(OSError):  # where the system measures none
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmHWM")


_OUTPUTS = ("-o", "--figure", "--animate", "write")
_WARNING, _REFUSAL = r"convmat: warning: [^\n]+", r"convmat: (?!warning: |internal error)[^\n]+"


def _judge(given: Input, end: End, changed: set[str]) -> None:
    """Raise Offence for an end that is none of those there should be."""
    # Of an option given twice the last counts, under either of its names.
    given_last = {option.replace("--output", "-o"): word for option, word in pairwise(given.words)}
    outputs = [given_last[option] for option in _OUTPUTS if option in given_last]
    if "--resume" in given_last and "-o" not in given_last:
        outputs.append(given_last["--resume"])
    if "not enough memory" in end.err:
        raise Offence(f"ran out of memory: {end.err}")
    if end.seconds > SECONDS:
        raise Offence(f"took {end.seconds:.1f} s")
    if end.peak > MEMORY + 1.2 * end.asked:
        raise Offence(f"took {end.peak >> 20} MiB, asked for {end.asked >> 20}")
    lines = end.err.splitlines()
    if end.status not in ((0, 1, 2) if given.words[0] in ("verify", "compare", "probe") else (0, 2)):
        raise Offence(f"exit status {end.status}: {end.err}")
    if end.status == 2:
        if end.out and "-" not in outputs:
            raise Offence(f"refused, yet printed {end.out[:80]!r}")
        if not lines or not re.fullmatch(_REFUSAL, lines.pop()):
            raise Offence(f"refused in other than one line: {end.err}")
    elif "-" in outputs and end.status == 0:
        lines = [line for line in lines if "Warning: " in line or "Traceback" in line]  # beside the table
    if not all(re.fullmatch(_WARNING, line) for line in lines):
        raise Offence(f"said: {end.err}")
    wanted = [os.path.normpath(name) for name in outputs if name] if end.status == 0 else []
    left = [n for n in changed if not any(name in (n, ".") or n.startswith(f"{name}/") for name in wanted)]
    if left:
        raise Offence(f"changed or left behind: {', '.join(sorted(left))}")
    for name in wanted if "--dry-run" not in given.words else ():
        if not os.path.exists(name) and name != "-":
            raise Offence(f"wrote no {name}")
        if name in changed and name.endswith((".npy", ".npz")):
            np.load(name)
    if "--json" in given.words and "-" not in outputs and end.status != 2 and end.out:
        json.loads(end.out, parse_constant=_no_json)


def _no_json(text: str) -> None:
    raise Offence(f"{text} is no JSON")


def _without_numbers(text: str) -> str:
    """A line by its kind."""
    subject = text.partition(": ")[2]
    return re.sub(r"'[^']*'|\d+", "#", re.split("[;,]", subject.partition(": ")[2] or subject)[0])[:70]


# Many runs


def _work(seed: int, numbers: range, results: Connection) -> None:
    """Run inputs in a folder of this process; tell of each its number, its end, and whether it offends."""
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        here = World()
        for number in numbers:
            faulthandler.dump_traceback_later(STUCK, exit=True)
            given = None
            try:
                given = made(seed, number)
                results.send((number, here.outcome(given), False))
            except Exception as offence:
                results.send((number, f"{given}\n    {type(offence).__name__}: {offence}", True))
            faulthandler.cancel_dump_traceback_later()
        os.chdir("/")


def _watched(seed: int, numbers: range) -> Iterator[tuple[int, str, bool]]:
    """What `_work` tells, in processes that may crash: then another goes on after the input that did it."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(seed, numbers[:PORTION], send))
        worker.start()
        send.close()
        ends = 0
        with receive, suppress(EOFError):
            while True:
                yield receive.recv()
                ends += 1
        worker.join()
        numbers = numbers[ends:]
        if worker.exitcode and numbers:
            yield numbers[0], f"the process ended with status {worker.exitcode}", True
            numbers = numbers[1:]


def fuzz(count: int, seed: int) -> int:
    """Run `count` inputs in some processes; the number of offences."""

    def follow(first: int) -> Counter[str]:
        found = Counter[str]()
        for number, text, offends in _watched(seed, range(first, count, WORKERS)):
            found["OFFENCE" if offends else text] += 1
            if offends:
                print(f"python -m tests.fuzz {seed}:{number}  # {text}", flush=True)
        return found

    with ThreadPoolExecutor(WORKERS) as pool:
        counts = sum(pool.map(follow, range(WORKERS)), Counter[str]())
    for end, times in counts.most_common():
        print(f"{times:7} {end}")
    return counts["OFFENCE"]


def again(seed: int, number: int) -> int:
    """Run one input in a new folder, and keep its files there."""
    given, folder = made(seed, number), tempfile.mkdtemp(prefix=f"fuzz-{seed}-{number}-")
    os.chdir(folder)
    here = World()
    print(f"{folder}: {given}")
    try:
        print(here.outcome(given))
        return 0
    except Offence as offence:
        print(f"Offence: {offence}")
        return 1
    finally:
        here.put(given.files)
        Path("stdin").write_bytes(given.stdin)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    first, _, one = (sys.argv[1:2] or ["20000"])[0].partition(":")
    if one:
        sys.exit(again(int(first), int(one)))
    sys.exit(1 if fuzz(int(first), int((sys.argv[2:] or ["0"])[0])) else 0)
