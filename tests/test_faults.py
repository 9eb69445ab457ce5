"""Faults: bad inputs and outputs, systems failing at the Nth call, a share of the fuzzing.

Whatever is wrong ends with exit status 2, one line that says what it was about, and no file changed.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
import shlex
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from convmat.cli import run
from tests import fuzz
from tests.tools import BIAS, DIGIT, EDGES, SCENE, Done, copy_samples, npy, shell

# Bad files


def crafted(header: str, data: bytes = bytes(8), major: int = 1, length: int | None = None) -> bytes:
    """An .npy file with any header text, and any claim of its length."""
    text = header.encode("latin-1")
    claimed = len(text) if length is None else length
    return b"\x93NUMPY" + bytes((major, 0)) + claimed.to_bytes(2 if major == 1 else 4, "little") + text + data


def shaped(shape: str, descr: str = "'<f8'") -> bytes:
    return crafted(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")


def npz(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """A picture of noise, as noise does not compress to nothing that could be cut off."""
    chance = np.random.default_rng(0)
    image = Image.fromarray(chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, lines: bytes) -> bytes:
    """A PNG with any header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def damaged_tiff() -> bytes:
    """One that libtiff, not Pillow, finds damaged."""
    content = bytearray(picture("TIFF", compression="tiff_adobe_deflate"))
    start = content.index(b"\x78\x9c")
    content[start + 2 : start + 40] = bytes(38)
    return bytes(content)


def pages(count: int) -> bytes:
    """A TIFF of a picture, and after it of pages without tags."""
    content = bytearray(picture("TIFF", "L"))
    first = int.from_bytes(content[4:8], "little")
    leads = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    places = range(len(content), len(content) + 6 * (count - 1), 6)
    content[leads : leads + 4] = places[0].to_bytes(4, "little")
    after = [*places[1:], 0]
    return bytes(content) + b"".join(struct.pack("<HI", 0, place) for place in after)


def sparse_file(name: str, start: bytes, size: int) -> None:
    Path(name).write_bytes(start)
    os.truncate(name, size)


def empty_members(count: int) -> bytes:
    """An archive that lists so many members, all of them the same empty one."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    listed = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, 47 * count, 31, 0)
    return local + listed * count + end


IMAGE = npy(np.arange(30.0).reshape(5, 6))
RGB = npy(np.arange(90.0).reshape(5, 6, 3))
TAPS = npy(np.ones((3, 3)))
VOLUME = npy(np.zeros((1, 300, 300, 1)))
PIXELS = npy(np.zeros((300 * 300, 1)))  # X_col of a kernel of one pixel
CUT, LONG = IMAGE[:-8], IMAGE + b"\0"
FRAMES = picture("GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))])
ARCHIVE = npz(a=IMAGE, b=TAPS)
TORN = ARCHIVE[:100] + bytes(40) + ARCHIVE[140:]
PAGES, MANY = pages(50_000), empty_members(1_000_000)
NO_NUMBERS = r"expected booleans, integers, floats or complex numbers"
DAMAGED = r"in\.npy: has a damaged \.npy header; write the file again"
IMPOSSIBLE = r"in\.npy: claims an impossible shape; write the file again"
USAGE = r"; see 'convmat( [a-z-]+)? --help'"

Files = dict[str | bytes, bytes]


class Case(NamedTuple):
    """Something wrong: what there is in the folder besides the samples, the command line, the complaint."""

    name: str
    files: Files | Callable[[], object]
    line: str
    stderr: str
    """The whole line after `convmat: `, as a regular expression."""


def unroll(name: str, content: bytes, stderr: str, options: str = "--k 3") -> Case:
    """A bad file, in.npy or what `name` ends in, unrolled into a file."""
    file = f"in.{name.split('/')[1]}"
    return Case(
        name.replace("/", " "), {file: content}, f"convmat unroll {file} {options} -o out.npy", stderr
    )


def option(name: str, options: str, stderr: str) -> Case:
    return Case(name, {"in.npy": RGB}, f"convmat {options}", stderr)


def output(name: str, target: str, stderr: str, files: Files | None = None) -> Case:
    """A good input with a bad -o."""
    return Case(name, files or {}, f"convmat unroll {DIGIT} --k 3 -o {target}", stderr)


CASES = [
    # What is named
    Case("missing image", {}, "convmat unroll no.png --k 3", r"no\.png: cannot be read: No such file or d.*"),
    Case("missing array", {}, "convmat matmul no.npy no.npy", r"no\.npy: cannot be read: No such file or .*"),
    Case(
        "missing kernel", {}, f"convmat convolve {DIGIT} --kernel no.npy", r"no\.npy: cannot be read: No .*"
    ),
    Case("folder", lambda: os.mkdir("f"), "convmat unroll f --k 3", r"f: names no file; give a folder or .*"),
    Case(
        "folder as X", {}, f"convmat matmul sample_images {EDGES}", r"sample_images: cannot be read: Is a .*"
    ),
    Case(
        "file as folder", {"f": b""}, "convmat unroll f/x.png --k 3", r"f/x\.png: cannot be read: Not a dir.*"
    ),
    Case(
        "too long a name",
        {},
        f"convmat unroll {'n' * 300}.png --k 3",
        r"n+\.png: cannot be read: File name.*",
    ),
    Case(
        "link to itself",
        lambda: os.symlink("l", "l"),
        "convmat unroll l --k 3",
        r"l: cannot be read: Too many.*",
    ),
    Case(
        "link to nothing",
        lambda: os.symlink("x", "l"),
        "convmat unroll l --k 3",
        r"l: cannot be read: No such.*",
    ),
    Case("no name", {}, "convmat unroll '' --k 3", r".*cannot be read: No such file or directory"),
    Case(
        "no such kernel",
        {},
        f"convmat convolve {DIGIT} --kernel blur",
        r"blur: is neither a file nor one of .*",
    ),
    Case(
        "blank", {"a b": b"x"}, "convmat unroll 'a b' --k 3", r"a b: is neither an image nor an \.npy array"
    ),
    Case(
        "brackets", {"img[0].npy": CUT}, "convmat unroll 'img[0].npy' --k 3", r"img\[0\]\.npy: truncated: .*"
    ),
    Case("markup", {"[red]x.npy": CUT}, "convmat unroll '[red]x.npy' --k 3", r"\[red\]x\.npy: truncated: .*"),
    Case(
        "markup's end",
        {},
        "convmat unroll 'img[/x].npy' --k 3",
        r"img\[/x\]\.npy: names no file; give a folder or a pattern with some in it",
    ),
    Case("newline", {"a\nb.npy": CUT}, "convmat unroll $'a\\nb.npy' --k 3", r"a.{0,4}b\.npy: truncated: .*"),
    Case(
        "escape",
        {"\x1b[1m.npy": CUT},
        "convmat unroll $'\\e[1m.npy' --k 3",
        r"[^\x1b]+\[1m\.npy: truncated: .*",
    ),
    Case("leading dash", {"-x": CUT}, "convmat unroll ./-x --k 3", r"\./-x: truncated: .*"),
    Case("after --", {"-x": CUT}, "convmat unroll --k 3 -- -x", r"-x: truncated: .*"),
    Case("not UTF-8", {b"\xff.npy": CUT}, "convmat unroll $'\\xff.npy' --k 3", r".+\.npy: truncated: .*"),
    Case(
        "not UTF-8, missing",
        {},
        "convmat unroll $'\\xfe\\xff.png' --k 3",
        r".+\.png: cannot be read: No such .*",
    ),
    Case(
        "not UTF-8 out",
        {},
        f"convmat unroll {DIGIT} --k 3 -o $'no/\\xff'",
        r"no/.+: cannot be written: No such .*",
    ),
    # Arrays
    unroll("empty/npy", b"", r"in\.npy: is empty; expected an image or an \.npy array"),
    unroll("text/npy", b"1 2 3\n", r"in\.npy: is neither an image nor an \.npy array"),
    unroll("text with a picture's name/png", b"1 2 3\n", r"in\.png: is neither an image nor an \.npy array"),
    unroll("empty with a picture's name/png", b"", r"in\.png: is empty; expected an image or an \.npy array"),
    unroll(
        "magic only/npy",
        IMAGE[:6],
        r"in\.npy: truncated: the header ends after its first bytes; write the file again",
    ),
    unroll(
        "another version/npy", b"\x93NUMPY\x09\0" + IMAGE[8:], r"in\.npy: has \.npy format version \(9, 0\).*"
    ),
    unroll("cut header/npy", IMAGE[:50], r"in\.npy: truncated: the header has 118 bytes, got 40"),
    unroll(
        "cut data/npy", CUT, r"in\.npy: truncated: .* has 240 bytes of data, got 232; write the file again"
    ),
    unroll(
        "long/npy",
        LONG,
        r"in\.npy: too long: .* has 240 bytes of data, got 241 or more; write the file again",
    ),
    unroll(
        "objects/npy",
        npy(np.full((2, 2), None)),
        r"in\.npy: holds pickled Python objects, which are never .*",
    ),
    unroll(
        "a pickle/npy",
        b"\x80\x04\x95\x05\0\0\0\0\0\0\0]\x94K\x01a.",
        r"in\.npy: is a Python pickle, which may run programs as it is loaded; save its .*",
    ),
    unroll("fields/npy", npy(np.zeros((4, 4), "f4,i2")), rf"in\.npy: holds .* values; {NO_NUMBERS}"),
    unroll("strings/npy", npy(np.full((4, 4), "a")), rf"in\.npy: holds <U1 values; {NO_NUMBERS}"),
    unroll("bytes/npy", npy(np.full((4, 4), b"a")), rf"in\.npy: holds \|S1 values; {NO_NUMBERS}"),
    unroll(
        "dates/npy", npy(np.zeros((4, 4), "M8[s]")), rf"in\.npy: holds datetime64\[s\] values; {NO_NUMBERS}"
    ),
    unroll(
        "spans/npy", npy(np.zeros((4, 4), "m8[s]")), rf"in\.npy: holds timedelta64\[s\] values; {NO_NUMBERS}"
    ),
    unroll("a number/npy", npy(np.array(5.0)), r"in\.npy: .*; see --dims and --layout"),
    unroll("a line/npy", npy(np.zeros(9)), r"in\.npy: .*; --dims 1 would fit"),
    unroll("six axes/npy", npy(np.zeros((1,) * 6)), r"in\.npy: .*; see --dims and --layout"),
    unroll("no pixels/npy", npy(np.zeros((0, 5))), r"in\.npy: .*"),
    unroll("no channels/npy", npy(np.zeros((5, 5, 0))), r"in\.npy: .*"),
    # Headers that lie
    unroll(
        "huge/npy",
        shaped("(1000000, 1000000)"),
        r"in\.npy: truncated: .* 8000000000000 bytes of data, got 8; .*",
    ),
    unroll("10^30/npy", shaped(f"({10**30}, 1)"), IMPOSSIBLE),
    unroll("beyond 2^63/npy", shaped(f"({2**62}, {2**62})"), IMPOSSIBLE),
    unroll("none of 10^30/npy", shaped(f"(0, {10**30})"), IMPOSSIBLE),
    unroll("negative/npy", shaped("(-1, 1)"), IMPOSSIBLE),
    unroll("True/npy", shaped("(True, 1)"), IMPOSSIBLE),
    unroll("a fraction/npy", shaped("(1.0, 1)"), DAMAGED),
    unroll("no tuple/npy", shaped("5"), DAMAGED),
    unroll("no dtype/npy", shaped("(1, 1)", "'nonsense'"), DAMAGED),
    unroll("1+1+…/npy", crafted("1" + "+1" * 4900), DAMAGED),
    unroll("nested/npy", crafted("(" * 150 + ")" * 150), DAMAGED),
    unroll("minus minus/npy", crafted("-" * 9000 + "1"), DAMAGED),
    unroll("code/npy", crafted("__import__('os').mkdir('owned')"), DAMAGED),
    unroll(
        "4 GB of header/npy",
        crafted("{}", major=2, length=2**32 - 1),
        r"in\.npy: claims a header of 4294967295.*",
    ),
    unroll(
        "64 KB of header/npy", crafted("{}" + " " * 60000), r"in\.npy: claims a header of 60002 bytes; .*"
    ),
    # Archives
    unroll(
        "archive without member/npz",
        ARCHIVE,
        r"in\.npz: has 2 arrays, a, b; name one, as in in\.npz:a",
    ),
    Case(
        "wrong member",
        {"in.npz": ARCHIVE},
        "convmat unroll in.npz:c --k 3",
        r"in\.npz:c: has no such array; .*a, b",
    ),
    Case(
        "no member",
        {"in.npz": npz()},
        "convmat unroll in.npz:a --k 3",
        r"in\.npz:a: has no such array; .* has none",
    ),
    Case(
        "cut archive",
        {"in.npz": ARCHIVE[:-9]},
        "convmat unroll in.npz:a --k 3",
        r"in\.npz:a: cannot be read: .*",
    ),
    Case("torn archive", {"in.npz": TORN}, "convmat unroll in.npz:a --k 3", r"in\.npz:a: .*"),
    Case(
        "no archive",
        {"in.npz": b"text"},
        "convmat unroll in.npz:a --k 3",
        r"in\.npz:a: cannot be read: in\.npz is .*",
    ),
    Case("cut member", {"in.npz": npz(a=CUT)}, "convmat unroll in.npz:a --k 3", r"in\.npz:a: truncated: .*"),
    # Images
    unroll("cut PNG/png", picture("PNG")[:-2000], r"in\.png: is a damaged image: .*"),
    unroll("PNG of a header/png", picture("PNG")[:33], r"in\.png: is .*"),
    unroll(
        "PNG with a bad sum/png",
        picture("PNG")[:50] + b"\xff" + picture("PNG")[51:],
        r"in\.png: is a damaged .*",
    ),
    unroll("cut JPEG/jpg", picture("JPEG")[:-400], r"in\.jpg: is a damaged image: .*"),
    unroll("cut BMP/bmp", picture("BMP")[:-400], r"in\.bmp: is a damaged image: .*"),
    unroll("cut WEBP/webp", picture("WEBP")[:-400], r"in\.webp: is .*"),
    unroll("damaged TIFF/tif", damaged_tiff(), r"in\.tif: is a damaged image: .*"),
    unroll("frames unchosen/gif", FRAMES, r"in\.gif: has 2 frames; choose one with --frame, 0 to 1"),
    unroll("frame beyond/gif", FRAMES, r"in\.gif: has no frame 2; it has 2, from 0", "--k 3 --frame 2"),
    unroll("frame below/gif", FRAMES, r"in\.gif: has no frame -1; it has 2, from 0", "--k 3 --frame -1"),
    unroll(
        "frame of one/png", picture("PNG"), r"in\.png: has no frame 1; it has 1, from 0", "--k 3 --frame 1"
    ),
    unroll("CMYK/jpg", picture("JPEG", "CMYK"), r"in\.jpg: is a CMYK image; convert it to RGB or gray first"),
    unroll("LAB/tif", picture("TIFF", "LAB"), r"in\.tif: is a LAB image; .*"),
    unroll(
        "a bomb/png",
        png(20000, 20000, 8, 0, bytes(100)),
        r"in\.png: is too large.*; expected at most \d+ pixels.*",
    ),
    unroll(
        "half a bomb/png",
        png(10000, 10000, 8, 0, bytes(100)),
        r"in\.png: is too large: 10000 × 10000 pixels; .*",
    ),
    unroll(
        "16-bit RGB/png",
        png(5, 3, 16, 2, bytes(93)),
        r"in\.png: has 16 bits a colour, of which only 8 would .*",
    ),
    unroll(
        "values to 100/pgm",
        b"P5 3 1 100 abc",
        r"in\.pgm: has values up to 100, .*; expected up to 255 or 65535 .*",
    ),
    unroll(
        "another format/ico",
        picture("ICO"),
        r"in\.ico: is in ICO format; expected one of PNG, .*|in\.ico: is n.*",
    ),
    unroll("a program for Ghostscript/eps", picture("EPS"), r"in\.eps: is .*"),
    # Batches and channels
    Case(
        "two sizes",
        {},
        f"convmat unroll {DIGIT} {SCENE} --k 3",
        r"sample_images/.*; a batch has images of one size .*",
    ),
    Case(
        "two dtypes",
        {"a.npy": IMAGE, "b.npy": npy(np.ones((5, 6), "f4"))},
        "convmat unroll a.npy b.npy --k 3",
        r"b\.npy: is 5 × 6 × 1 float32, the others are 5 × 6 × 1 float64; a batch has images of one size .*",
    ),
    option(
        "kernel of one channel",
        "convolve in.npy --kernel sobel-x",
        r"--kernel: a single-channel kernel .*--depth.*",
    ),
    option("channels amiss", f"convolve {DIGIT} --kernel {EDGES}", r"--kernel: made for 3 channels .*"),
    option(
        "depthwise amiss",
        f"convolve in.npy --kernel {EDGES} --depthwise",
        r"--kernel: 8 filters of 3 channels .*",
    ),
    option(
        "groups with depthwise",
        "convolve in.npy --kernel box:3 --depthwise -g 2",
        r"--groups: --depthwise means .*",
    ),
    option("groups amiss", f"convolve in.npy --kernel {EDGES} --groups 2", r"--groups: .*"),
    option("no groups", f"convolve in.npy --kernel {EDGES} --groups 0", r"--groups: .*"),
    option("groups of filters", f"flatten-filters {EDGES} --groups 3", r"--groups: .*"),
    option("bias amiss", f"convolve in.npy --kernel sobel-x --depthwise --bias {BIAS}", r"--bias: .*"),
    option(
        "bias missing",
        f"convolve in.npy --kernel {EDGES} --bias no.npy",
        r"no\.npy: cannot be read: No such .*",
    ),
    option(
        "bias an image",
        f"convolve in.npy --kernel {EDGES} --bias {DIGIT}",
        r"sample_images/digit\.png: is not an .*",
    ),
    option(
        "kernel an image",
        f"convolve in.npy --kernel {DIGIT}",
        r"sample_images/digit\.png: is not an \.npy array.*",
    ),
    option("X and W amiss", f"matmul in.npy {BIAS}", r".*"),
    option(
        "expected amiss", f"verify in.npy --kernel {EDGES} --expected no.npy", r"no\.npy: cannot be read: .*"
    ),
    Case(
        "integers too large",
        {"a.npy": npy(np.full((2, 2), 2**62)), "b.npy": npy(np.full((2, 2), 4))},
        "convmat matmul a.npy b.npy -o out.npy",
        r".*int64.*",
    ),
    Case(
        "NaN as a pixel",
        {"a.npy": npy(np.full((4, 4), np.nan))},
        "convmat convolve a.npy --kernel box:3 -o out.png",
        r"--output: complex, NaN or infinite values have no pixels; write \.npy instead",
    ),
    # Parameters
    option("no command", "nonsense", rf"No such command 'nonsense'{USAGE}"),
    option("no such option", "unroll in.npy --k 3 --strides 2", rf"No such option.*--strides.*{USAGE}"),
    option("no input", "unroll --k 3", rf"Missing argument 'INPUT\.\.\.'{USAGE}"),
    option("no k", "unroll in.npy", rf"Missing option .*--k.*{USAGE}"),
    option("no kernel", "convolve in.npy", rf"Missing option '--kernel'; .*{USAGE}"),
    option("k of 0", "unroll in.npy --k 0", r"--k: .*0.*"),
    option("k below 0", "unroll in.npy --k -3", r"--k: .*-3.*"),
    option(
        "k a word", "unroll in.npy --k three", rf"Invalid value for '--k'.*: 'three' is no size; .*{USAGE}"
    ),
    option("k of four", "unroll in.npy --k 1,1,1,1", rf".*'1,1,1,1' has 4 numbers; give at most 3{USAGE}"),
    option("k too large", "unroll in.npy --k 9", r"--k: .*9.*"),
    option("k of 10^30", f"unroll in.npy --k {10**30}", r"--k: .*"),
    option("k of 5000 digits", f"unroll in.npy --k {'9' * 5000}", r".*--k.*"),
    option("stride of 0", "unroll in.npy --k 3 --stride 0", r"--stride: .*0.*"),
    option("dilation of 0", "unroll in.npy --k 3 --dilation 0", r"--dilation: .*0.*"),
    option("padding below 0", "unroll in.npy --k 3 --padding -1", r"--padding: .*-1.*"),
    option(
        "padding a word",
        "unroll in.npy --k 3 --padding some",
        rf".*'--padding'.*'some' is no padding; .*{USAGE}",
    ),
    option(
        "padding too far",
        "unroll in.npy --k 3 -p 1 --padding-mode mirror",
        r"Invalid value for '--padding-mode'.*",
    ),
    option("dims of 4", "unroll in.npy --k 3 --dims 4", r"--dims: must be 1 to 3, got 4"),
    option(
        "dims of an image",
        f"unroll {DIGIT} --k 3 --dims 3",
        r"sample_images/digit\.png: is an image and has 2 .*",
    ),
    option("a wrong choice", "unroll in.npy --k 3 --layout hwcn", rf"Invalid value for '--layout'.*{USAGE}"),
    option(
        "output shape amiss",
        f"matmul in.npy {EDGES} --output-shape 4,x",
        rf"Invalid value for '--output-shape'.*{USAGE}",
    ),
    option("sizes of 0", "sizes 0 --k 3", r".*0.*"),
    # Numbers without an end: of most of them see test_checks.py
    option(
        "stride of 10^18",
        f"unroll in.npy --k 3 --stride {10**18}",
        rf"--stride: must be at most {2**31 - 1} along every axis, got {10**18}; give 1 to {2**31 - 1}",
    ),
    option(
        "padding of 10^160",
        f"convolve in.npy --kernel {EDGES} --padding {10**160}",
        rf"--padding: must be at most {2**31 - 1} along every axis, got a number of 161 digits; .*",
    ),
    option(
        "size of 4000 digits",
        f"sizes {'7' * 4000} --k 3",
        r"SIZE: \(1, a number of 4000 digits, 1\) has more elements than 9223372036854775807, .*",
    ),
    option(
        "seed of 5000 digits",
        f"verify --seed {'9' * 5000}",
        r"--seed: must be 0 to 18446744073709551615, got a number of 5000 digits",
    ),
    option(
        "dilation and padding too large together",
        f"convolve in.npy --kernel {EDGES} --dilation {2**31 - 1} --padding full",
        r"--kernel: the kernel spans 4294967295 pixels of height, expected at most 2147483647; .*",
    ),
    # Time without an end
    option(
        "locate 10^6 places",
        "locate --input-shape 1000,1000 --k 1000 -p full --pixel 500,500,0",
        r"--pixel: may be at 1000000 places, expected at most 100000; use less padding or a smaller kernel",
    ),
    option(
        "matrix of circular padding",
        "matrix --no-spectrum --input-shape 28,28 --kernel box:3 -p 1000000 --padding-mode circular",
        r"--padding: is met by 2000000 outputs along height, .* expected at most 98522 .*",
    ),
    option(
        "sizes of 3000 layers",
        f"sizes 100000 {' '.join(['--layer k=1'] * 3000)}",
        r"--layer: got 3000, expected at most 1000; give a part",
    ),
    unroll(
        "pages without an end/tif", PAGES, r"in\.tif: has 50000 frames; choose one with --frame, 0 to 4095"
    ),
    unroll(
        "page far away/tif", PAGES, r"in\.tif: is read to frame 4095, got 49999; .*", "--k 3 --frame 49999"
    ),
    Case(
        "much that is no image",
        lambda: sparse_file("in.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", 300_000_000),
        "convmat unroll in.eps --k 3",
        r"in\.eps: is .*",
    ),
    Case(
        "10^6 members",
        {"in.npz": MANY},
        "convmat unroll in.npz:a --k 3",
        r"in\.npz:a: cannot be read: in\.npz is no \.npz archive: it lists members in 47000000 bytes, .*",
    ),
    option("matrix of 10^21", f"unroll in.npy --k 3 -p {10**10} -o out.npy", r".*"),
    # Standard input and output
    Case(
        "- twice",
        {"in.npy": IMAGE},
        "convmat unroll - - --k 3 <in.npy",
        r"standard input: is named twice; .*",
    ),
    Case(
        "- twice as layer",
        {"in.npy": IMAGE},
        "convmat convolve - --kernel - <in.npy",
        r"standard input: is named .*",
    ),
    Case(
        "- twice as X and W",
        {"in.npy": IMAGE},
        "convmat matmul - - <in.npy",
        rf"X and W cannot both be .*{USAGE}",
    ),
    Case("closed input", {}, "convmat unroll - --k 3 <&-", r"standard input: is closed; pipe .*"),
    Case(
        "empty input",
        {},
        "convmat unroll - --k 3 </dev/null",
        r"standard input: is empty; expected an image or an \.npy array",
    ),
    Case("empty pipe", {}, ": | convmat unroll - --k 3", r"standard input: is empty; expected an image .*"),
    Case(
        "image piped",
        {},
        f"cat {DIGIT} | convmat matmul - {EDGES}",
        r"standard input: is not an \.npy array; .*",
    ),
    Case(
        "cut pipe",
        {"a": CUT},
        "cat a | convmat unroll - --k 3 -o out.npy",
        r"standard input: truncated: .*got 232.*",
    ),
    Case(
        "long pipe", {"a": LONG}, "cat a | convmat unroll - --k 3 -o out.npy", r"standard input: too long: .*"
    ),
    Case(
        "huge pipe",
        {"a": shaped("(1000000, 1000000)")},
        "cat a | convmat unroll - --k 3 -o o",
        r"standard input: tr.*",
    ),
    Case(
        "closed output",
        {},
        f"convmat unroll {DIGIT} --k 3 -q -o - >&-",
        r"standard output: is closed; name a .*",
    ),
    Case(
        "full output",
        {},
        f"convmat unroll {DIGIT} --k 3 -q -o - >/dev/full",
        r"standard output: .*No space left .*",
    ),
    Case(
        "full table",
        {},
        f"convmat unroll {DIGIT} --k 3 >/dev/full",
        r"standard output: .*No space left on device",
    ),
    Case(
        "full JSON",
        {},
        "convmat sizes 9 --k 3 --json >/dev/full",
        r"standard output: .*No space left on device",
    ),
    Case("full help", {}, "convmat unroll --help >/dev/full", r"standard output: .*No space left on device"),
    Case("full version", {}, "convmat --version >/dev/full", r"standard output: .*No space left on device"),
    Case(
        "full verdict",
        {},
        f"convmat verify {DIGIT} --kernel box:3 >/dev/full",
        r"standard output: .*No space left .*",
    ),
    Case(
        "closed reader",
        {},
        f"convmat unroll {DIGIT} --k 3 -q -o - 1</dev/null",
        r"standard output: is closed; name a file with -o",
    ),
    Case(
        "ASCII",
        {},
        f"PYTHONIOENCODING=ascii convmat convolve {SCENE} --kernel box:3",
        r"--kernel: a single.*3 .* 3.*",
    ),
    # Outputs
    output("in a missing folder", "no/out.npy", r"no/out\.npy: cannot be written: No such file or directory"),
    output("in a file", "f/out.npy", r"f/out\.npy: cannot be written: Not a directory", {"f": b"old"}),
    output("a folder", "sample_images", r"sample_images: is a folder; name a file"),
    output("a slash", "out.npy/", r"out\.npy/: is a folder; name a file"),
    output("the folder", ".", r"\.: is a folder; name a file"),
    output("of no name", "''", r".*cannot be written: No such file or directory"),
    output(
        "X_col as picture",
        "out.png",
        r"out\.png: is a picture's name, and this is written as \.npy or \.zarr; name it \.npy",
    ),
    output("a long name", "n" * 300, r"n+: cannot be written: File name too long"),
    output("a full device", "/dev/full", r"/dev/full: cannot be written: No space left on device"),
    output(
        "brackets in a missing folder",
        "'[/x]/[red]'",
        r"\[/x\]/\[red\]: cannot be written: No such file or .*",
    ),
    Case(
        "a loop",
        lambda: os.symlink("l", "l"),
        f"convmat unroll {DIGIT} --k 3 -o l",
        r"l: cannot be written: Too many .*",
    ),
    Case(
        "W_col as picture",
        {},
        f"convmat flatten-filters {EDGES} -o w.jpg",
        r"w\.jpg: is a picture's name, and .*",
    ),
    Case(
        "Y as picture of 8",
        {},
        f"convmat convolve {SCENE} --kernel {EDGES} -o y.png",
        r"--output: has shape .*",
    ),
    Case(
        "picture in a missing folder",
        {},
        f"convmat convolve {DIGIT} --kernel box:3 -o no/y.png",
        r"no/y\.png: cannot be written: No such file or directory",
    ),
    output("not open", "/dev/fd/999", r"/dev/fd/999: cannot be written: Bad file descriptor"),
    output("open to read", "/dev/fd/9 9</dev/null", r"/dev/fd/9: cannot be written: Bad file descriptor"),
    Case(
        "a folder that is gone",
        {},
        f"mkdir d; cd d; rmdir ../d; convmat unroll $OLDPWD/{DIGIT} --k 3 -o out.npy",
        r"out\.npy: cannot be written: No such file or directory",
    ),
    Case(
        "a probe in a folder that is gone",
        {},
        "mkdir d; cd d; rmdir ../d; convmat probe write p --k 3",
        r"p: cannot be written: No such file or directory",
    ),
    Case(
        "full disk, probe",
        {},
        "ulimit -f 2; convmat probe write p --k 5",
        r"p/integers/x_col\.npy: cannot be written: File too large",
    ),
    # Trouble while telling trouble
    *(
        Case(
            f"{what} {package}",
            {f"{package}.py": content},
            f"PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=. python -m convmat unroll {DIGIT} --k 3",
            rf"{package}: cannot be imported: {told}; install it anew: pip install --force-reinstall "
            rf"{project}",
        )
        for what, package, project, content, told in (
            ("broken", "numpy", "numpy", b"raise RuntimeError('broken')", "broken"),
            ("damaged", "numpy", "numpy", b"\0", "source code string cannot contain null bytes.*"),
            ("leaving", "numpy", "numpy", b"raise SystemExit(1)", "1"),
            ("incomplete", "click", "click", b"import nothing", "No module named 'nothing'"),
            ("broken", "rich", "rich", b"raise SystemError", "SystemError"),
            (
                "explained",
                "PIL",
                "pillow",
                b"raise ImportError('\\n\\none\\ntwo') from OSError('why')",
                "why",
            ),
        )
    ),
    Case("--debug after --", {}, "convmat unroll --k 3 -- --debug", r"--debug: cannot be read: No such .*"),
    # The shell limits what may be written, which a full disk does less neatly; the old file must stay.
    *(
        Case(
            f"full disk, {name}",
            {target: b"old", "in.npy": VOLUME, "x.npy": PIXELS},
            f"ulimit -f 2; convmat {command} -o {target}",
            rf"{re.escape(target)}: cannot be written: File too large",
        )
        for name, command, target in (
            ("unroll", "unroll in.npy --k 3", "out.npy"),
            ("convolve", "convolve in.npy --kernel box:3", "out.npy"),
            ("fold", "fold x.npy --input-shape 300,300 --k 1", "out.npy"),
            ("transpose", "convolve in.npy --kernel box:3 --transpose", "out.npy"),
            ("picture", f"convolve {SCENE} --kernel box:3 --depthwise", "out.png"),
            ("JPEG", f"convolve {SCENE} --kernel box:3 --depthwise", "out.jpg"),
            ("TIFF", f"convolve {SCENE} --kernel box:3 --depthwise", "out.tif"),
        )
    ),
]


# Bad inputs


def listing(folder: bytes) -> dict[bytes, object]:
    """Every name in a folder and below, with its mode and content."""
    found: dict[bytes, object] = {}
    for entry in os.scandir(folder):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            found[entry.path] = os.readlink(entry.path)
        elif stat.S_ISDIR(mode):
            found |= {entry.path: mode} | listing(entry.path)
        else:
            with open(entry.path, "rb") as stream:
                found[entry.path] = mode, stream.read()
    return found


def begun(folder: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, object]:
    """What a case finds in its folder."""
    copy_samples(folder)
    monkeypatch.chdir(folder)
    if callable(case.files):
        case.files()
    else:
        for name, content in case.files.items():
            Path(os.fsdecode(name)).write_bytes(content)
    return listing(os.fsencode(folder))


def check(case: Case, folder: Path, before: dict[bytes, object], done: Done) -> None:
    assert re.fullmatch(rf"convmat: (?:{case.stderr})\n", done.err), done.err
    assert (done.status, done.out) == (2, "")
    assert listing(os.fsencode(folder)) == before


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def needs_a_shell(case: Case) -> bool:
    return not re.fullmatch(r"convmat [^|<>;&$]*", case.line)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if needs_a_shell(case) and number % 3 == 0 else pytest.mark.slow)
        for number, case in enumerate(CASES)
    ],
    ids=lambda case: case.name,
)
def test_is_refused_in_one_line_and_changes_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = begun(tmp_path, case, monkeypatch)
    check(case, tmp_path, before, shell(case.line))


# Pillow forgets to close an image whose first bytes it cannot read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "case", [case for case in CASES if not needs_a_shell(case)], ids=lambda case: case.name
)
def test_is_refused_without_a_process(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    before = begun(tmp_path, case, monkeypatch)
    status = run(shlex.split(case.line)[1:])
    check(case, tmp_path, before, Done.of(status, *capfdbinary.readouterr()))


# Trouble while telling trouble


def test_telling_that_needs_more_memory_than_there_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(text: str) -> str:
        raise MemoryError

    monkeypatch.setattr("convmat.trouble.printable", fail)
    assert run(["unroll", "none.npy", "--k", "3"]) == 2
    assert capfd.readouterr() == ("", "convmat: not enough memory to say what is wrong; give it more\n")


def test_what_tells_trouble_imports_nothing_that_can_fail() -> None:
    code = "import sys; import convmat.trouble; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=True, text=True)
    assert set(done.stdout.split()) - {"convmat", "__main__"} <= sys.stdlib_module_names


@pytest.mark.slow
@pytest.mark.parametrize(
    "home", [{}, {"HOME": "/proc", "XDG_CACHE_HOME": "/proc", "XDG_CONFIG_HOME": "/proc"}]
)
def test_no_home_that_could_be_written_in(home: dict[str, str], tmp_path: Path) -> None:
    """Matplotlib has words for that, of which none is ours."""
    usual = {k: v for k, v in os.environ.items() if k not in ("HOME", "MPLCONFIGDIR")}
    line = "train --epochs 1 --filters 2 --train-size 8 --val-size 4 -q -o run"
    command = [sys.executable, "-m", "convmat", *line.split()]
    done = subprocess.run(command, cwd=tmp_path, env=usual | home, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "run" / "networks.png").exists()


# A system that fails at the Nth call


class Faults:
    """Counts the calls of one kind on files in a folder, and fails the Nth, or all from there on."""

    def __init__(self, folder: Path, kind: str, last: bool) -> None:
        self._folder, self._kind, self._last = os.path.realpath(folder), kind, last
        self._at = self.count = 0

    @property
    def hit(self) -> bool:
        return self.count >= self._at

    def arm(self, at: int) -> None:
        self._at, self.count = at, 0

    def call(self, kind: str, number: int) -> None:
        if kind != self._kind:
            return
        self.count += 1
        if self.count == self._at or (self._last and self.count > self._at):
            raise OSError(number, os.strerror(number))

    def meant(self, file: Any) -> bool:
        return isinstance(file, str | os.PathLike) and os.path.realpath(file).startswith(
            self._folder + os.sep
        )

    def open(self, file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        """Like the builtin, for files in the folder with all calls counted."""
        if not self.meant(file) or "b" not in mode:
            return _OPEN(file, mode, *rest, **more)
        self.call("open", errno.EMFILE)
        faults = self

        class Raw(io.FileIO):
            def readinto(self, room: Any, /) -> Any:
                faults.call("read", errno.EIO)
                return super().readinto(room)

            def readall(self) -> bytes:
                faults.call("read", errno.EIO)
                return super().readall()

            def write(self, data: Any, /) -> Any:
                faults.call("write", errno.ENOSPC)
                return super().write(data)

        class Writer(io.BufferedWriter):
            def write(self, data: Any, /) -> int:
                faults.call("buffered write", errno.ENOSPC)
                return super().write(data)

            def flush(self) -> None:
                faults.call("flush", errno.ENOSPC)
                super().flush()

        raw = Raw(file, mode.replace("b", ""))
        return io.BufferedReader(raw) if mode == "rb" else Writer(raw)


_OPEN = builtins.open
COMMANDS = {
    "unroll": (["unroll", DIGIT, DIGIT, DIGIT, "--k", "3"], "out.npy"),
    "matmul": (["matmul", "x.npy", "w.npy"], "out.npy"),
    "convolve": (["convolve", DIGIT, DIGIT, "--kernel", "k.npy", "--padding", "same"], "out.npy"),
    "picture": (["convolve", "small.png", "--kernel", "k.npy", "--depthwise"], "out.png"),
    "flatten-filters": (["flatten-filters", EDGES], "out.npy"),
    "matrix": (["matrix", DIGIT, "--kernel", "k.npy"], "out.npz"),
    "fold": (["fold", "x_col.npy", "--input-shape", "100,100", "--k", "3"], "out.npy"),
    "transpose": (["convolve", DIGIT, DIGIT, "--kernel", "k.npy", "--transpose", "--stride", "2"], "out.npy"),
}
CALLS = ("open", "read", "write", "buffered write", "flush", "fsync", "fchmod", "replace")
# Calls that each command makes at least: a loop that ends sooner has tested nothing.
LEAST = {
    "open": 3, "read": 1, "write": 1, "buffered write": 1, "flush": 2, "fsync": 1, "fchmod": 1, "replace": 1,
}  # fmt: skip


# Pillow forgets to close an image whose first bytes it cannot read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("last", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_nth_call_fails(
    command: str,
    kind: str,
    last: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    copy_samples(tmp_path)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(120_000.0).reshape(-1, 2))
    np.save("w.npy", np.arange(6.0).reshape(2, 3))
    np.save("x_col.npy", np.arange(98 * 98 * 9.0).reshape(-1, 9))
    np.save("k.npy", np.arange(9.0).reshape(3, 3))
    Image.open(SCENE).crop((0, 0, 200, 100)).save("small.png")
    arguments, target = COMMANDS[command]
    assert run([*arguments, "-q", "-o", f"right-{target}"]) == 0
    right = Path(f"right-{target}").read_bytes()
    Path(target).write_bytes(b"old")
    before = sorted(os.listdir())

    faults = Faults(tmp_path, kind, last)
    fsync, fchmod, replace = os.fsync, os.fchmod, os.replace
    monkeypatch.setattr(builtins, "open", faults.open)
    monkeypatch.setattr(os, "fsync", lambda fd: (faults.call("fsync", errno.EIO), fsync(fd)))
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: (faults.call("fchmod", errno.EPERM), fchmod(fd, mode)))
    monkeypatch.setattr(os, "replace", lambda a, b: (faults.call("replace", errno.EXDEV), replace(a, b)))
    for at in range(1, 200):
        faults.arm(at)
        status = run([*arguments, "-q", "-o", target])
        out, err = capfd.readouterr()
        assert (sorted(os.listdir()), out) == (before, "")
        if not faults.hit:
            break
        # A failed look at how a file begins may be made good by reading it.
        if kind in ("open", "read") and status == 0:
            assert (Path(target).read_bytes(), err) == (right, "")
            Path(target).write_bytes(b"old")
            continue
        assert status == 2, f"call {at}: {err}"
        assert re.fullmatch(r"convmat: (?!internal error)[^\n]+\n", err), f"call {at}: {err}"
        assert Path(target).read_bytes() == b"old", f"call {at}"
    assert (status, err) == (0, "")
    assert Path(target).read_bytes() == right
    assert at > LEAST[kind]


# Warnings that are Python's: one line of ours, or nothing


def _with(number: float, dtype: str = "<f8") -> bytes:
    """An image of 5 × 5 whole numbers and one other."""
    image = (np.arange(25) % 7).astype(dtype).reshape(5, 5)
    image[2, 3] = number
    return npy(image)


def _signalling(dtype: str, bits: int) -> bytes:
    image = (np.arange(25) % 7).astype(dtype).reshape(5, 5)
    image.view(f"u{image.itemsize}")[2, 3] = bits
    return npy(image)


def _torn_tiff() -> bytes:
    """A TIFF whose first tag claims to be of another type than it has room for."""
    content = bytearray(picture("TIFF"))
    return bytes(content[: int.from_bytes(content[4:8], "little") + 20])


LONG = np.arange(25, dtype=np.longdouble).reshape(5, 5)
NASTY: Files = {
    "f2.npy": _signalling("<f2", 0x7D01),
    "f4.npy": _signalling("<f4", 0x7FA00001),
    "f8.npy": _signalling("<f8", 0x7FF4000000000001),
    "huge.npy": npy(np.full((5, 5), 1.7e308)),
    "tiny.npy": _with(5e-324),
    "real.npy": IMAGE,
    "complex.npy": npy(np.full((3, 3), 1j)),
    "long.npy": npy(LONG),
    "longer.npy": npy(LONG * np.longdouble("1e4000")),
    "least.npy": npy(LONG * np.finfo(np.longdouble).smallest_subnormal),
    "int64.npy": npy(np.full((9, 9), 2**62)),
    "torn.tif": _torn_tiff(),
}
NO_SHADE = "complex, NaN or infinite values have no shade; leave it out"
ENDS = {
    "verify f2.npy --kernel box:2": "",
    "verify f4.npy --kernel box:2 --explain": "",
    "verify f8.npy --kernel box:2 --json": "",
    "matrix --kernel f2.npy --input-shape 6,6": "",
    "matrix --kernel huge.npy --input-shape 6,6 --json": "",
    "convolve huge.npy --kernel box:2 -o out.png": "",
    "convolve tiny.npy --kernel tiny.npy --padding 2 -o out.npy": "",
    "convolve real.npy --kernel complex.npy -o out.png": "complex, NaN or infinite values have no pixels",
    "convolve real.npy --kernel complex.npy --figure out.png": "complex, NaN or infinite results have no",
    "locate long.npy --k 2 --row 1 --col 1 --json": "",
    "fold long.npy --k 1 --input-shape 5,1,5 --json": "",
    "unroll long.npy --k 2 --figure out.png": "",
    "unroll longer.npy --k 2 --preview": NO_SHADE,
    "locate longer.npy --k 2 --row 1 --col 1 --figure out.png": NO_SHADE,
    "unroll longer.npy --k 2 --animate out.gif": NO_SHADE,
    "compare long.npy long.npy --json": "",
    "compare least.npy long.npy": "different",
    "compare long.npy least.npy --json": "different",
    "verify int64.npy --stage fold --k 3 --input-shape 5,5 --expected long.npy": "int64 ends at",
    "unroll torn.tif --k 1": "is neither an image nor an .npy array|is a damaged image",
}


@pytest.mark.parametrize("line", ENDS)
def test_no_warning_of_pythons(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in NASTY.items():
        Path(os.fsdecode(name)).write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # Pillow forgets to close what it cannot read
        status = run(line.split())
    out, err = capsys.readouterr()
    assert not warned, warned[0].message
    expected = ENDS[line]
    if expected == "different":
        assert (status, err) == (1, "")
    elif expected:
        assert status == 2 and re.fullmatch(rf"convmat: [^\n]*({expected})[^\n]*\n", err), err
    else:
        assert (status, err) == (0, "")
    if "--json" in line:
        json.loads(out, parse_constant=pytest.fail)


def test_an_animation_asks_for_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convmat.files.memory._available_bytes", lambda: 1 << 24)
    np.save("x.npy", np.arange(30).reshape(5, 6))
    assert run(["unroll", "x.npy", "--k", "2", "--animate", "out.gif"]) == 2
    assert re.fullmatch(
        r"convmat: --animate: needs \d+ bytes of memory, 16777216 are available; .*\n",
        capsys.readouterr().err,
    )


# A share of the fuzzing, and what it must not let pass


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.World]:
    home = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("fuzzed"))
    yield fuzz.World()
    os.chdir(home)


@pytest.mark.parametrize(
    "numbers", [range(50), range(50, 100), pytest.param(range(100, 600), marks=pytest.mark.slow)]
)
def test_any_input_ends_as_it_should(numbers: range, fuzzed: fuzz.World) -> None:
    for number in numbers:
        given = fuzz.made(2017, number)
        try:
            fuzzed.outcome(given)
        except fuzz.Offence as offence:
            pytest.fail(f"python -m tests.fuzz 2017:{number}  # {given}: {offence}")


def _leave_temporary() -> int:
    Path(".convmat-1.tmp").write_text("")
    return 0


def _take_memory() -> int:
    bytearray(fuzz.MEMORY + (32 << 20))[:: 1 << 12].count(1)
    return 0


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("ends", "offence"),
    [
        (lambda: 1, "exit status 1"),
        (lambda: 130, "exit status 130"),
        (lambda: 2, "refused in other than one line"),
        (lambda: _refuse("convmat: internal error: no"), "refused in other than one line"),
        (lambda: _refuse("Traceback\nconvmat: x: no"), "said: Traceback"),
        (lambda: print("convmat: x: no", file=sys.stderr) or 0, "said: convmat: x: no"),
        (lambda: print("table") or _refuse("convmat: x: no"), "refused, yet printed"),
        (lambda: warnings.warn("of Python's", stacklevel=1) or 0, "said: .*UserWarning"),
        (lambda: os.write(2, b"libtiff\n") and 0, "said: libtiff"),
        (_leave_temporary, r"left behind: \.convmat-1\.tmp"),
        (lambda: Path("x.npy").write_text("") or 0, "changed or left behind: x.npy"),
        (_take_memory, "took [0-9]+ MiB, asked for 0"),
        (lambda: 0, "wrote no out.npy"),
    ],
)
def test_the_fuzzing_sees(
    ends: Callable[[], int], offence: str, fuzzed: fuzz.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "run", lambda _: ends())
    with pytest.raises(fuzz.Offence, match=offence):
        fuzzed.outcome(fuzz.Input(["unroll", "x.npy", "--k", "1", "-o", "out.npy"], {}, b""))


def test_the_fuzzing_sees_work_without_an_end(fuzzed: fuzz.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    monkeypatch.setattr(fuzz, "run", lambda _: _endless())
    with pytest.raises(fuzz.Offence, match=r"took more than 0\.05 s"):
        fuzzed.outcome(fuzz.Input(["sizes", "28"], {}, b""))


def _endless() -> int:
    while True:
        pass
