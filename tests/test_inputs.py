"""Inputs as people give them: pictures in pipes, numbers typed, archives, files of other programs, doubts."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import convmat as cm
from convmat.cli import run
from convmat.doubts import likelier_kernel_layout, likelier_layout
from convmat.errors import FileError, ShapeError
from convmat.files import images
from convmat.files.npy import NpyInput
from convmat.files.numbers import is_typed, parse_numbers, read_numbers
from tests.tools import environment, npy

pytestmark = pytest.mark.usefixtures("folder")

RNG = np.random.default_rng(15)
PIXELS = RNG.integers(0, 256, (9, 7, 3), np.uint8)


class _Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time, cannot be sought, and may never end."""

    def __init__(self, content: bytes, step: int = 5, endless: bool = False) -> None:
        self._content, self._step, self._endless = content, step, endless
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._content[self.taken : self.taken + min(self._step, len(buffer))]
        if not data and self._endless:
            data = bytes(min(len(buffer), 1 << 20))
        buffer[: len(data)] = data
        self.taken += len(data)
        return len(data)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make these bytes standard input; the raw stream, which counts what is taken."""

    def give(content: bytes, **how: Any) -> _Trickle:
        raw = _Trickle(content, **how)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw, 16)))
        return raw

    return give


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; its status, and what it printed on both streams."""

    def call(*args: str) -> tuple[int, str, str]:
        status = run(list(args))
        return status, *capsys.readouterr()

    return call


def encoded(kind: str, pixels: Any = PIXELS, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


# Pictures in pipes


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_picture_on_standard_input(kind: str, stdin: Any, called: Any) -> None:
    content = encoded(kind)
    Path("in.img").write_bytes(content)
    assert called("unroll", "in.img", "--k", "3", "-q", "-o", "wanted.npy")[0] == 0
    stdin(content)
    assert called("unroll", "-", "--k", "3", "-q", "-o", "got.npy") == (0, "", "")
    assert Path("got.npy").read_bytes() == Path("wanted.npy").read_bytes()


@pytest.mark.parametrize(
    "args",
    [
        ("unroll", "--k", "3"),
        ("convolve", "--kernel", "box:3", "--depthwise"),
        ("verify", "--kernel", "box:3", "--depthwise"),
        ("locate", "--k", "3", "--pixel", "4,4,1"),
        ("matrix", "--kernel", "box:3", "--depthwise", "--no-spectrum"),
    ],
)
def test_every_command_reads_pictures_and_arrays_from_pipes(
    args: tuple[str, ...], stdin: Any, called: Any
) -> None:
    found = []
    for content in (encoded("PNG"), npy(PIXELS)):
        stdin(content)
        status, out, err = called(args[0], "-", *args[1:], "--json")
        assert (status, err) == (0, "")
        found.append(json.loads(out))
    assert found[0] == found[1]
    assert found[0]["input"] == ["standard input"]


@pytest.mark.parametrize("content", [encoded("PNG"), npy(PIXELS)])
def test_a_named_pipe(content: bytes, called: Any) -> None:
    os.mkfifo("pipe")
    thread = threading.Thread(target=lambda: Path("pipe").write_bytes(content), daemon=True)
    thread.start()
    assert called("unroll", "pipe", "--k", "3", "-q", "-o", "x.npy") == (0, "", "")
    thread.join(10)
    assert np.array_equal(np.load("x.npy"), cm.unroll(PIXELS[None], 3))


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_of_a_real_process(name: str) -> None:
    command = [sys.executable, "-m", "convmat", "unroll", name, "--k", "3", "-q", "-o", "-"]
    done = subprocess.run(
        command, input=encoded("PNG"), capture_output=True, env=environment(), timeout=60, check=True
    )
    assert done.stdout == npy(cm.unroll(PIXELS[None], 3))


def test_a_picture_that_never_ends_is_refused(
    stdin: Any, called: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PIPE_BYTES", 1 << 22)
    raw = stdin(encoded("PNG"), endless=True)
    assert called("unroll", "-", "--k", "3") == (
        2,
        "",
        "convmat: standard input: goes on after 4194304 bytes, more than an image has; save it to a file\n",
    )
    assert raw.taken <= 2 << 22


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty; expected an image or an .npy array"),
        (b"1 2 3\n" * 1000, "is neither an image nor an .npy array"),
        (bytes(1 << 16), "is neither an image nor an .npy array"),
        (encoded("PNG")[:60], "is a damaged image: "),
        (
            b"PK\3\4" + bytes(100),
            "is an .npz archive, which no pipe can carry; name it as a file: file.npz:name",
        ),
        (gzip.compress(npy(PIXELS)), "is compressed by gzip; unpack it first"),
    ],
)
def test_what_a_pipe_may_not_hold(content: bytes, problem: str, stdin: Any, called: Any) -> None:
    raw = stdin(content, step=512, endless=content[:1] == b"\0")
    status, out, err = called("unroll", "-", "--k", "3")
    assert (status, out) == (2, "")
    assert err.startswith(f"convmat: standard input: {problem}")
    assert raw.taken < 1 << 16  # what is no picture by its first bytes is not read on


# Numbers as text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 0 -1; 2 0 -2; 1 0 -1", np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])),
        ("1,0,-1;2,0,-2", np.array([[1, 0, -1], [2, 0, -2]])),
        ("  -1 ,\t+2  ", np.array([[-1, 2]])),
        ("3;", np.array([[3]])),
        ("0.5 1", np.array([[0.5, 1.0]])),
        ("1e3 .5; -2. 1", np.array([[1e3, 0.5], [-2.0, 1.0]])),
        ("1/9 2/3", np.array([[1 / 9, 2 / 3]])),
        ("9223372036854775807 -9223372036854775807", np.array([[2**63 - 1, 1 - 2**63]])),
    ],
)
def test_typed_numbers(text: str, wanted: Any) -> None:
    got = parse_numbers(text, "filters")
    assert got.dtype == wanted.dtype
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 0; 2", "row 1 has 2 numbers, row 2 has 1"),
        ("1 0; ; 1 2", "row 2 has no numbers"),
        ("1 x", "row 1: 'x' is no number"),
        ("1 2; nan 1", "row 2: 'nan' is no number"),
        ("1,,2", "row 1 has a comma without a number"),
        ("1 2,", "row 1 has a comma without a number"),
        ("1_0", "row 1: '1_0' is no number"),
        ("1e999", "has numbers that float64 cannot hold"),
        ("1/0 1", "has numbers that float64 cannot hold"),
        ("9223372036854775808", "has integers beyond int64"),
        ("9" * 5000, "has integers beyond int64"),
        ("1e99999999999", "has numbers that float64 cannot hold"),
    ],
)
def test_text_that_is_no_table(text: str, problem: str) -> None:
    with pytest.raises(ShapeError, match=f"^filters: {problem}.*; write rows of numbers, as in"):
        parse_numbers(text, "filters")


@given(
    st.lists(
        st.lists(st.integers(-99, 99) | st.floats(-1e300, 1e300), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([" ", ",", " , ", "\t"]),
)
def test_numbers_come_back_from_text(rows: list[list[Any]], between: str) -> None:
    typed = ";".join(between.join(map(repr, row)) for row in rows)
    assert is_typed(typed)
    assert np.array_equal(parse_numbers(typed, "filters"), np.array(rows))
    Path("n.csv").write_text(typed.replace(";", " # a comment\n\n"), encoding="utf-8")
    assert np.array_equal(read_numbers("n.csv"), np.array(rows))


@pytest.mark.parametrize(
    "text", ["sobel-x", "box:5", "x.npy", "3x3.npy", "5.txt", "a.npz:1 2", "-", "/1/2", ""]
)
def test_what_is_not_typed(text: str) -> None:
    assert not is_typed(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no numbers; write lines of numbers"),
        (b"# nothing\n", "has no numbers"),
        (b"1 2\n3\n", "line 1 has 2 numbers, line 2 has 1"),
        (b"a,b\n1,2\n", "line 1: 'a' is no number"),
        (b"1;2\n", "line 1: '1;2' is no number"),
        (b"\xff\xfe1", "is no text in UTF-8"),
        (b"1 " * (1 << 23) + b"1", "is more than 16777216 bytes of text; write it as .npy"),
    ],
)
def test_text_files_that_are_refused(content: bytes, problem: str) -> None:
    Path("k.txt").write_bytes(content)
    with pytest.raises(FileError, match=f"^k.txt: {problem}"):
        NpyInput("k.txt")


def test_text_files_may_come_from_elsewhere() -> None:
    Path("k.csv").write_bytes(b"\xef\xbb\xbf1, 2\r\n3, 4\r\n")
    assert NpyInput("k.csv").read().tolist() == [[1, 2], [3, 4]]


SOBEL = "-1 0 1; -2 0 2; -1 0 1"


@pytest.mark.parametrize("how", ["typed", "k.txt", "k.csv"])
def test_kernels_of_text_in_every_command(how: str, called: Any) -> None:
    Path("x.png").write_bytes(encoded("PNG", PIXELS[..., 0]))
    Path("k.txt").write_text(SOBEL.replace("; ", "\n"), encoding="utf-8")
    Path("k.csv").write_text(SOBEL.replace("; ", "\n").replace(" ", ","), encoding="utf-8")
    kernel = SOBEL if how == "typed" else how
    for args in (
        ("convolve", "x.png", "--kernel"),
        ("verify", "x.png", "--kernel"),
        ("matrix", "x.png", "--no-spectrum", "--kernel"),
        ("flatten-filters",),
    ):
        found = []
        for given_kernel in ("sobel-x", kernel):
            status, out, err = called(*args, given_kernel, "--json")
            assert (status, err) == (0, "")
            found.append({k: v for k, v in json.loads(out).items() if k != "kernels"})
        assert found[0] == found[1]


def test_typed_kernels_of_one_axis(called: Any) -> None:
    np.save("x.npy", np.arange(6))
    assert called("convolve", "x.npy", "--kernel", "1 -1", "--dims", "1", "-q", "-o", "y.npy")[0] == 0
    assert np.load("y.npy").ravel().tolist() == [-1] * 5


@pytest.mark.parametrize("bias", ["0.5 -1", "-1 0.5;", "b.txt", "b.csv"])
def test_bias_of_text(bias: str, called: Any) -> None:
    np.save("x.npy", np.zeros((4, 4)))
    np.save("k.npy", np.zeros((2, 3, 3)))
    Path("b.txt").write_text("0.5\n-1\n", encoding="utf-8")
    Path("b.csv").write_text("0.5,-1\n", encoding="utf-8")
    args = ("x.npy", "--kernel", "k.npy", "--bias", bias, "-q")
    assert called("convolve", *args, "-o", "y.npy") == (0, "", "")
    assert sorted(np.load("y.npy")[0, 0, 0]) == [-1, 0.5]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--kernel", "1 0; 2"), "--kernel: row 1 has 2 numbers, row 2 has 1; write rows of numbers"),
        (("--kernel", "3"), "--kernel: '3' is one number; write a kernel of 1 × 1 as '3;'"),
        (
            ("--kernel", "none"),
            "none: is neither a file nor one of sobel-x",
        ),
        (("--kernel", "no.csv"), "no.csv: cannot be read: No such file"),
        (("--kernel", "box:3", "--bias", "1 x"), "--bias: row 1: 'x' is no number"),
        (("--kernel", "box:3", "--bias", "1 2;3 4"), "--bias: has shape (2, 2), 1 filters take (1,)"),
        (("--kernel", "1 2;3 4", "--dims", "3"), "x.npy: has 2 axes (4, 4)"),
    ],
)
def test_text_that_makes_no_layer(args: tuple[str, ...], problem: str, called: Any) -> None:
    np.save("x.npy", np.zeros((4, 4)))
    status, out, err = called("convolve", "x.npy", *args)
    assert (status, out) == (2, "")
    assert err.startswith(f"convmat: {problem}")


# Arrays of archives


ODD_NAMES = ["layer:1/weight", "a/b", "conv1.weight:0", "arr_0", " ", "ü"]


@pytest.mark.parametrize("archive", ["w.npz", "w:1.npz", "a:b:c.npz"])
@pytest.mark.parametrize("member", ODD_NAMES)
def test_names_with_colons_and_slashes(archive: str, member: str) -> None:
    np.savez(archive, **{member: np.arange(3), "other": np.zeros(1)})
    assert NpyInput(f"{archive}:{member}").read().tolist() == [0, 1, 2]
    # The same where nothing but the archive's own name has colons.
    assert NpyInput(f"{archive}:other").read().tolist() == [0]


@pytest.mark.parametrize("member", ODD_NAMES)
def test_a_single_array_needs_no_name(member: str, called: Any) -> None:
    np.savez("w.npz", **{member: np.ones((3, 3))})
    np.save("x.npy", np.ones((4, 4)))
    args = ("--kernel", "w.npz", "--bias", "b.npz", "--expected", "y.npz", "--json")
    np.savez("b.npz", np.ones(1))
    np.savez("y.npz", np.full((1, 2, 2, 1), 10.0))
    assert called("verify", "x.npy", *args)[0] == 0
    assert called("flatten-filters", "w.npz", "-q", "-o", "w.npy")[0] == 0
    np.savez("x.npz", np.ones((4, 9)))
    assert called("matmul", "x.npz", "w.npy", "-q", "-o", "y.npy") == (0, "", "")


@pytest.mark.parametrize("args", [("unroll", "w.npz", "--k", "3"), ("flatten-filters", "w.npz")])
def test_several_arrays_are_listed(args: tuple[str, ...], called: Any) -> None:
    np.savez("w.npz", **dict.fromkeys(ODD_NAMES[:3], np.zeros(1)))
    assert called(*args) == (
        2,
        "",
        "convmat: w.npz: has 3 arrays, layer:1/weight, a/b, conv1.weight:0; "
        "name one, as in w.npz:layer:1/weight\n",
    )
    np.savez("w.npz", *[np.zeros(1)] * 40)
    assert "arr_11 and 28 more; name one" in called(*args)[2]


# Files of other programs


def _zip(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return stream.getvalue()


def _box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(100)


FOREIGN = {
    "w.pt": (
        _zip("w/data.pkl", "w/version"),
        r"is a PyTorch file.*numpy\.save\(\"w\.npy\", torch\.load\(\"w\.pt",
    ),
    "w.pth": (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "is a PyTorch file.*numpy.save.*--kernel-layout oihw$",
    ),
    "w.pkl": (pickle.dumps([1, 2]), "is a Python pickle, which may run programs.*numpy.save$"),
    "w.zip": (_zip("readme.txt"), "is a zip archive without arrays; write .npz$"),
    "w.keras": (_zip("model.weights.h5"), "is a Keras model; .*numpy.save"),
    "w.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file; .*numpy.save"),
    "w.mat": (b"MATLAB 5.0 MAT-file" + bytes(200), "is a MATLAB file; .*scipy.io.loadmat"),
    "w.safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"w":{}}', "has a header of 64 bytes in 16; it is damaged"),
    "w.npy.gz": (gzip.compress(npy(PIXELS)), "is compressed by gzip; unpack it first"),
    "x.heic": (_box(b"heic"), "is in HEIC format, which is not read; save it as .png"),
    "x.svg": (b"<svg xmlns='x'></svg>", "is in SVG format, which is not read; save it as .png"),
    "x.pdf": (b"%PDF-1.7\n", "is in PDF format, which is not read; save it as .png"),
    "x.mp4": (_box(b"isom"), "is a film; save a frame of it as .png"),
    "x.jxl": (b"\xff\x0a" + bytes(50), "is in JPEG XL format, which is not read"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("command", [("unroll", "--k", "3"), ("flatten-filters",)])
def test_what_other_programs_write(name: str, command: tuple[str, ...], called: Any) -> None:
    content, problem = FOREIGN[name]
    Path(name).write_bytes(content)
    status, out, err = called(command[0], name, *command[1:])
    assert (status, out) == (2, "")
    with pytest.raises(FileError, match=problem):
        raise FileError(*err.removeprefix("convmat: ").strip().split(": ", 1))


def test_avif_is_told_as_such(called: Any) -> None:
    Path("x.avif").write_bytes(_box(b"avif"))
    assert "x.avif: is in AVIF format" in called("unroll", "x.avif", "--k", "3")[2]


# Doubts about layouts


@pytest.mark.parametrize(
    ("shape", "dims", "layout"),
    [
        ((10_000, 28, 28), 2, "nhw"),
        ((1797, 8, 8), 2, "nhw"),
        ((100, 5, 5), 2, "nhw"),
        ((64, 56, 56), 2, "nhw"),
        ((1000, 32, 40), 2, "nhw"),
        ((1000, 480, 640), 2, "nhw"),
        ((3, 224, 224), 2, "nchw"),
        ((3, 480, 640), 2, "nchw"),
        ((1, 28, 28), 2, "nchw"),
        ((4, 32, 40), 2, "nchw"),
        ((1, 3, 32, 40), 2, "nchw"),
        ((8, 1, 28, 28), 2, "nchw"),
        ((8, 64, 56, 56), 2, "nchw"),
        ((1, 512, 7, 7), 2, "nchw"),
        ((1, 1000), 1, "nchw"),
        ((16, 3, 128), 1, "nchw"),
        ((3, 16, 16, 16), 3, "nchw"),
        ((100, 16, 16, 16), 3, "nhw"),
        ((2, 1, 16, 16, 16), 3, "nchw"),
        # Ordinary arrays, and what tells nothing.
        ((28, 28), 2, None),
        ((28, 28, 1), 2, None),
        ((480, 640, 3), 2, None),
        ((480, 640, 4), 2, None),
        ((3000, 200, 3), 2, None),
        ((28, 28, 28), 2, None),
        ((16, 16, 16), 2, None),
        ((6, 5, 5), 2, None),
        ((7, 7, 512), 2, None),
        ((14, 14, 1024), 2, None),
        ((1, 1, 2048), 2, None),
        ((512, 512, 200), 2, None),
        ((4, 4, 512), 2, None),
        ((3, 5, 4), 2, None),
        ((10_000, 28, 28, 1), 2, None),
        ((1, 224, 224, 3), 2, None),
        ((8, 56, 56, 64), 2, None),
        ((1, 3, 3, 64), 2, None),
        ((2, 7, 9, 3), 2, None),
        ((0, 3, 32, 40), 2, None),
        ((1000,), 1, None),
        ((1000, 2), 1, None),
        ((7, 512), 1, None),
        ((16, 128, 3), 1, None),
        ((16, 32, 32, 1), 3, None),
        ((5,), 2, None),
    ],
)
def test_the_layout_that_is_likelier(shape: tuple[int, ...], dims: int, layout: str | None) -> None:
    assert likelier_layout(shape, dims) == layout


@pytest.mark.parametrize(
    ("shape", "dims", "layout"),
    [
        ((64, 3, 7, 7), 2, "oihw"),
        ((8, 1, 5, 5), 2, "oihw"),
        ((64, 32, 1, 1), 2, "oihw"),
        ((7, 7, 3, 64), 2, "hwio"),
        ((1, 1, 64, 128), 2, "hwio"),
        ((16, 4, 3, 3, 3), 3, "oihw"),
        ((3, 3, 3), 2, "hwc"),
        ((5, 5, 3), 2, "hwc"),
        ((3, 3, 3, 3), 3, "hwc"),
        ((3, 3), 2, None),
        ((8, 3, 3), 2, None),
        ((3, 5, 5), 2, None),
        ((2, 1, 5), 2, None),
        ((8, 3, 3, 3), 2, None),
        ((8, 5, 5, 1), 2, None),
        ((64, 7, 7, 3), 2, None),
        ((64, 1, 1, 32), 2, None),
        ((8, 1, 7, 3), 2, None),
        ((8, 3, 1, 1), 2, None),
        ((2, 7, 7, 1), 2, None),
        ((8, 3, 5), 1, None),
        ((4, 3, 3, 3, 2), 3, None),
    ],
)
def test_the_kernel_layout_that_is_likelier(shape: tuple[int, ...], dims: int, layout: str | None) -> None:
    assert likelier_kernel_layout(shape, dims) == layout


def test_a_doubtful_array_is_told_with_the_right_option(called: Any) -> None:
    np.save("x.npy", np.zeros((100, 28, 28), np.uint8))
    args = ("unroll", "x.npy", "--k", "3", "--dry-run")
    status, out, err = called(*args)
    assert status == 0
    assert err == (
        "convmat: warning: x.npy: (100, 28, 28) is read as 1 image of 100 × 28 with 28 channels; for "
        "100 images of 28 × 28 with 1 channel give --layout nhw, or else --layout nhwc\n"
    )
    assert called(*args, "--layout", "nhwc") == (0, out, "")
    assert called(*args, "-q") == (0, "", "")
    told = json.loads(called(*args, "--layout", "nhw", "--json")[1])
    assert told["input_shape"] == [100, 28, 28, 1]


@pytest.mark.parametrize(
    "args",
    [
        ("locate", "--input-shape", "3,32,40", "--k", "3", "--row", "0", "--col", "0"),
        ("matrix", "--input-shape", "3,32,40", "--kernel", "box:3", "--depthwise", "--no-spectrum"),
        ("fold", "x.npy", "--input-shape", "3,32,40", "--k", "1"),
        ("locate", "x.npy", "--k", "3", "--row", "0", "--col", "0"),
        ("convolve", "x.npy", "--kernel", "box:3", "--depthwise", "-o", "y.npy"),
        ("verify", "x.npy", "--kernel", "box:3", "--depthwise"),
    ],
)
def test_doubts_are_told_by_every_command(args: tuple[str, ...], called: Any) -> None:
    np.save("x.npy", np.zeros((96, 40) if args[0] == "fold" else (3, 32, 40)))
    status, _, err = called(*args)
    subject = "--input-shape" if "--input-shape" in args else "x.npy"
    assert status == 0
    assert err.startswith(
        f"convmat: warning: {subject}: (3, 32, 40) is read as 1 image of 3 × 32 with 40 channels; "
    )
    assert "give --layout nchw" in err
    assert "warning" not in called(*args, "--layout", "nhwc")[2]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((64, 3, 7, 7), "is read as 64 filters of 3 × 7 with 7 channels; did you mean --kernel-layout oihw?"),
        (
            (3, 3, 3),
            "is read as 3 filters of 3 × 3 with 1 channel; for one filter of several channels save it as",
        ),
    ],
)
def test_doubtful_kernels(shape: tuple[int, ...], said: str, called: Any) -> None:
    np.save("w.npy", np.zeros(shape))
    status, out, err = called("flatten-filters", "w.npy")
    assert status == 0
    assert err.startswith(f"convmat: warning: w.npy: {shape} {said}")
    assert called("flatten-filters", "w.npy", "--kernel-layout", "ohwi") == (0, out, "")
    assert called("flatten-filters", "w.npy", "-q") == (0, "", "")
    assert called("verify", "--stage", "flatten-filters", "--kernel", "w.npy")[2] == err


def test_kernels_of_a_transposed_layer_are_doubted_too(called: Any) -> None:
    np.save("y.npy", np.zeros((9, 9, 16)))
    np.save("w.npy", np.zeros((16, 3, 5, 5)))
    args = ("convolve", "y.npy", "--kernel", "w.npy", "--transpose", "-o", "x.npy")
    assert "warning: w.npy: (16, 3, 5, 5) is read as 16 filters of 3 × 5 with 5 channels" in called(*args)[2]
    assert "warning" not in called(*args, "--kernel-layout", "oihw")[2]


def test_kernels_that_the_input_fits_are_not_doubted(called: Any) -> None:
    np.save("x.npy", np.zeros((9, 9)))
    np.save("w.npy", np.zeros((3, 3, 3)))
    assert called("convolve", "x.npy", "--kernel", "w.npy")[2] == ""


# nhw


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_nhw_is_images_of_one_channel(dims: int, called: Any) -> None:
    x = RNG.integers(0, 9, (4, *(6, 5, 7)[:dims]))
    w = RNG.integers(0, 9, (2, *(2,) * dims))
    np.save("x.npy", x)
    np.save("w.npy", w)
    layer = ("x.npy", "--kernel", "w.npy", "--layout", "nhw", "--dims", str(dims))
    wanted = cm.convolve(x[..., None], w[..., None])
    assert called("convolve", *layer, "-q", "-o", "y.npy") == (0, "", "")
    assert np.array_equal(np.load("y.npy"), wanted)
    assert called("verify", *layer, "--expected", "y.npy")[0] == 0
    np.save("y.npy", wanted[..., 1:])
    assert called("verify", *layer, "--expected", "y.npy")[0] == 1
    geometry = ("--k", "2", "--stride", "1", "--layout", "nhw", "--dims", str(dims), "-q", "-o")
    assert called("unroll", "x.npy", *geometry, "x_col.npy") == (0, "", "")
    assert np.array_equal(np.load("x_col.npy"), cm.unroll(x[..., None], 2))
    shape = ",".join(map(str, x.shape))
    assert (
        called("fold", "x_col.npy", "--input-shape", shape, "--overlap", "mean", *geometry, "back.npy")[0]
        == 0
    )
    assert np.array_equal(np.load("back.npy")[..., 0], x)


def test_nhw_elsewhere(called: Any) -> None:
    layer = ("--input-shape", "5,28,28", "--layout", "nhw", "--json")
    found = json.loads(called("matrix", *layer, "--kernel", "box:3", "--no-spectrum")[1])
    assert (found["input_shape"][1:], found["layout"]) == ([28, 28, 1], "nhwc")
    found = json.loads(called("locate", *layer, "--k", "3", "--pixel", "4,3,2,0")[1])
    assert found["input_shape"] == [5, 28, 28, 1]
    np.save("y.npy", np.zeros((2, 4, 4)))
    args = (
        "convolve",
        "y.npy",
        "--transpose",
        "--kernel",
        "box:3",
        "--input-shape",
        "2,6,6",
        "--layout",
        "nhw",
    )
    assert json.loads(called(*args, "--json")[1])["output_shape"] == [2, 6, 6, 1]
    probe = ("write", "p", "--k", "3", "--input-shape", "2,8,8", "--layout", "nhw", "-q")
    assert called("probe", *probe) == (0, "", "")
    assert np.load("p/integers/x.npy").shape == (2, 8, 8, 1)
    assert called("probe", "judge", "p", "p/integers/y.npy", "-q")[0] == 0


def test_nhw_of_other_numbers_of_axes_is_told(called: Any) -> None:
    np.save("x.npy", np.zeros((1,) * 5))
    err = called("unroll", "x.npy", "--k", "1", "--layout", "nhw")[2]
    assert (
        "x.npy: has 5 axes (1, 1, 1, 1, 1); with 2 spatial axes it is (*spatial), (N, *spatial) or (N, "
        in err
    )


# Messages that say what to do


def _rgba(name: str, mode: str = "RGBA") -> None:
    Image.new(mode, (8, 8), 1).save(name)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_transparency_that_a_kernel_has_no_weights_for(mode: str, channels: int, called: Any) -> None:
    _rgba("x.png", mode)
    np.save("w.npy", np.ones((2, 3, 3, channels)))
    args = ("convolve", "x.png", "--kernel", "w.npy")
    status, out, err = called(*args)
    assert (status, out) == (2, "")
    assert "--alpha drop" in err
    assert called(*args, "--alpha", "drop", "-q") == (0, "", "")
    np.save("x.npy", np.ones((8, 8, channels + 1)))
    assert "--alpha" not in called("convolve", "x.npy", "--kernel", "w.npy")[2]


def test_a_batch_of_which_some_have_transparency(called: Any) -> None:
    _rgba("a.png")
    _rgba("b.png", "RGB")
    assert (
        ": --alpha drop leaves out transparency" in called("unroll", "b.png", "b.png", "a.png", "--k", "3")[2]
    )


@pytest.mark.parametrize(
    "args",
    [
        ("unroll", "x.png", "--k", "7", "7"),
        ("unroll", "--k", "7", "7", "x.png"),
        ("unroll", "x.png", "--k", "3", "--stride", "2", "2"),
        ("locate", "--input-shape", "28,28", "-k", "7", "7", "--row", "0", "--col", "0"),
        ("matrix", "--input-shape", "28,28", "--kernel", "box:3", "--stride", "2", "2"),
        ("fold", "x.npy", "--input-shape", "28,28", "--k", "7", "7"),
        ("sizes", "28,28", "--k", "7", "7"),
    ],
)
def test_sizes_parted_by_a_space(args: tuple[str, ...], called: Any) -> None:
    status, out, err = called(*args)
    assert (status, out) == (2, "")
    number = "2" if "2" in args else "7"
    assert f" {number} {number}: sizes are joined by commas, -" in err
    assert f" {number},{number}; see 'convmat {args[0]} --help'" in err


def test_numbers_that_are_files_or_sizes_are_no_such_slip(called: Any) -> None:
    Path("7").write_bytes(encoded("PNG"))
    assert called("unroll", "--k", "7", "7", "-q") == (0, "", "")
    assert called("sizes", "--k", "3", "28", "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((4, 4, 1), (4, 4), ", but for axes of 1 the same: reshape the first to (4, 4)"),
        ((1, 4, 4, 1), (4, 1, 4), ", but for axes of 1 the same: reshape the first to (4, 1, 4)"),
        ((2, 3), (3, 2), ""),
    ],
)
def test_shapes_that_differ_by_axes_of_1(
    first: tuple[int, ...], second: tuple[int, ...], said: str, called: Any
) -> None:
    np.save("a.npy", np.ones(first))
    np.save("b.npy", np.ones(second))
    status, out, _ = called("compare", "a.npy", "b.npy")
    assert status == 1
    verdict = out.splitlines()[0]
    assert verdict.startswith("different: shape ")
    assert verdict.partition(", but")[1:] == said.partition(", but")[1:]


# Pictures that are turned


@pytest.mark.parametrize(
    "command", [("unroll", "--k", "3"), ("convolve", "--kernel", "box:3", "--depthwise")]
)
def test_a_turned_picture_says_so(command: tuple[str, ...], called: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Path("t.jpg").write_bytes(encoded("JPEG", exif=exif))
    Path("u.png").write_bytes(encoded("PNG", np.ascontiguousarray(PIXELS.swapaxes(0, 1))))
    out = called(command[0], "t.jpg", *command[1:])[1]
    assert "│ turned, by EXIF " in out
    assert "│ 90° clockwise " in out
    found = [
        json.loads(called(command[0], *names, *command[1:], "--json")[1])["turned"]
        for names in (["t.jpg"], ["u.png"], ["t.jpg", "u.png"])
    ]
    turned = [{"input": "t.jpg", "turn": "90° clockwise"}]
    assert found == [turned, None, turned]
    assert "t.jpg 90° clockwise" in called(command[0], "t.jpg", "u.png", *command[1:])[1]


@pytest.mark.parametrize(
    "args",
    [
        ("locate", "t.jpg", "--k", "3", "--row", "0", "--col", "0"),
        ("locate", "--input-shape", "9,9", "--k", "3", "--row", "0", "--col", "0"),
        ("matrix", "t.jpg", "--kernel", "box:3", "--depthwise", "--no-spectrum"),
        ("matrix", "--input-shape", "9,9", "--kernel", "box:3", "--no-spectrum"),
        ("verify", "t.jpg", "--kernel", "box:3", "--depthwise"),
        ("verify", "t.jpg", "--stage", "unroll", "--k", "3"),
        ("verify", "t.jpg", "--stage", "matrix", "--kernel", "box:3", "--depthwise"),
        ("unroll", "x.npy", "--k", "3"),
        ("convolve", "x.npy", "--kernel", "box:3", "--transpose"),
    ],
)
def test_the_key_is_always_there(args: tuple[str, ...], called: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Path("t.jpg").write_bytes(encoded("JPEG", exif=exif))
    np.save("x.npy", np.ones((9, 9)))
    found = json.loads(called(*args, "--json")[1])
    assert (found["turned"] is None) == ("t.jpg" not in args)
    assert "input" in found


def test_each_orientation_has_its_words() -> None:
    told = {
        2: "mirrored",
        3: "180°",
        4: "flipped top to bottom",
        5: "mirrored, 90° counterclockwise",
        6: "90° clockwise",
        7: "mirrored, 90° clockwise",
        8: "90° counterclockwise",
    }
    turns = {"mirrored": np.fliplr, "flipped top to bottom": np.flipud, "180°": lambda a: np.rot90(a, 2)}
    turns |= {"90° clockwise": lambda a: np.rot90(a, -1), "90° counterclockwise": np.rot90}
    for orientation, words in told.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Path("t.png").write_bytes(encoded("PNG", exif=exif))
        source = images.ImageInput("t.png")
        assert source.turned == words
        wanted = PIXELS
        for word in words.split(", "):
            wanted = turns[word](wanted)
        assert np.array_equal(source.read(), wanted), orientation


def test_a_pipe_that_nobody_fills_is_no_input(called: Any) -> None:
    """A terminal by its own name is refused as standard input is, and waited for by nobody."""
    master, slave = os.openpty()
    try:
        status, _, err = called("unroll", os.ttyname(slave), "--k", "3")
    finally:
        for end in (master, slave):
            with suppress(OSError):
                os.close(end)
    assert status == 2
    assert "is a terminal; pipe an image or .npy bytes into it, or name a file" in err
