"""Fuzzing of the readers: `python -m tests.fuzz [COUNT] [SEED]` feeds damaged arrays and images to convmat.

Every input must be read or refused: exit status 0 and silence, or 2 and one line. Of what does otherwise, or
takes too long or too much memory, the first of each kind is saved in the current folder; exit status 1.
"""

from __future__ import annotations

import faulthandler
import io
import os
import random
import re
import signal
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from PIL import Image

from convmat.cli import run

SECONDS = 5  # of the processor, so that a busy machine makes no offence
MEMORY = 64 << 20  # and 20 times the input
MEASURED = 50  # one input in so many: tracemalloc makes it several times slower
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
TEXTS = (
    *(str(n) for n in (*NUMBERS, 2**63 - 1, 2**63, 10**30, -1, -(2**63))),
    *(
        "True",
        "None",
        "()",
        "1.5",
        "1e9",
        "1+1",
        "-" * 3000 + "1",
        "(" * 300,
        "'|O'",
        "'<U9'",
        "'<M8[s]'",
        "[]",
    ),
)


class Seed(NamedTuple):
    """A good file, from which damaged ones are made."""

    suffix: str
    content: bytes


class Offence(Exception):
    """An input that was neither read nor refused as it should be."""


class _Overtime(BaseException):
    """Past what any handler of convmat or Pillow would take for an error of the file's."""


# Seeds


def _saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    npy_format.write_array(stream, array, version=version)
    return stream.getvalue()


@cache
def npy_seeds() -> tuple[Seed, ...]:
    """Arrays of several dtypes, orders, axes and format versions, and an archive."""
    counted = np.arange(480)
    arrays = [counted.reshape(20, 24).astype(t) for t in ("u1", "<i2", ">i4", "<f8", "f4", "c16", "?", "f2")]
    arrays += [counted.reshape(8, 10, 6), np.asfortranarray(counted.reshape(4, 10, 6, 2)), np.zeros((0, 3))]
    seeds = [_saved(a) for a in arrays] + [_saved(arrays[0], (2, 0)), _saved(arrays[1], (3, 0))]
    found = [Seed(".npy", content) for content in seeds]
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            # The time of now would make each run another.
            archive.writestr(zipfile.ZipInfo("a.npy"), seeds[0], compression)
        found.append(Seed(".npz", stream.getvalue()))
    return tuple(found)


@cache
def image_seeds() -> tuple[Seed, ...]:
    """Pictures in every format and mode that Pillow writes and convmat reads, some of several frames."""
    y, x, c = np.ogrid[:12, :10, :4]
    pixels = ((100 * y + 10 * x + c) % 256).astype(np.uint8)
    rgba = Image.fromarray(pixels)
    plain = {mode: rgba.convert("RGB").convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "CMYK")}
    plain["RGBA"] = rgba
    plain["I;16"] = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    written: list[tuple[str, str, str, dict[str, object]]] = [
        *((".png", "PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        (".png", "PNG", "RGB", {"exif": exif}),
        (".png", "PNG", "P", {"transparency": 3}),
        (".png", "PNG", "RGB", {"save_all": True, "append_images": [plain["RGB"].rotate(90)]}),
        *((".jpg", "JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        (".jpg", "JPEG", "RGB", {"exif": exif, "progressive": True}),
        *((".gif", "GIF", mode, {}) for mode in ("L", "P")),
        (".gif", "GIF", "P", {"save_all": True, "append_images": [plain["P"].rotate(90)]}),
        *((".tif", "TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "I;16", "CMYK")),
        *(
            (".tif", "TIFF", "RGB", {"compression": how})
            for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
        ),
        (".tif", "TIFF", "1", {"compression": "group4"}),
        (".tif", "TIFF", "L", {"save_all": True, "append_images": [plain["L"]]}),
        *((".bmp", "BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *((".ppm", "PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
        *(
            (".webp", "WEBP", mode, options)
            for mode in ("RGB", "RGBA")
            for options in ({}, {"lossless": True})
        ),
    ]
    seeds = []
    for suffix, kind, mode, options in written:
        stream = io.BytesIO()
        plain[mode].save(stream, kind, **options)  # type: ignore[arg-type]
        seeds.append(Seed(suffix, stream.getvalue()))
    return tuple(seeds)


# Mutations: each takes the content, another seed's, and the source of chance


def _flip(data: bytearray, other: bytes, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _truncate(data: bytearray, other: bytes, chance: random.Random) -> None:
    del data[chance.randint(0, len(data)) :]


def _extend(data: bytearray, other: bytes, chance: random.Random) -> None:
    data += chance.randbytes(chance.randint(1, 100))


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    start, source = chance.randint(0, len(data)), chance.randint(0, len(other))
    data[start : start + chance.randint(0, 40)] = other[source : source + chance.randint(0, 40)]


def _cross(data: bytearray, other: bytes, chance: random.Random) -> None:
    data[chance.randint(0, len(data)) :] = other[chance.randint(0, len(other)) :]


def _number(data: bytearray, other: bytes, chance: random.Random) -> None:
    width = chance.choice((1, 2, 4))
    start = chance.randint(0, min(len(data), 64))
    value = chance.choice(NUMBERS) % (1 << 8 * width)
    data[start : start + width] = value.to_bytes(width, chance.choice(("little", "big")))


def _text(data: bytearray, other: bytes, chance: random.Random) -> None:
    """Another word or number in an .npy header, or in what stands in its place."""
    words = list(re.finditer(rb"'[^']*'|\w+|[(){}]", bytes(data[10:128])))
    if not words:
        return
    word = chance.choice(words)
    data[10 + word.start() : 10 + word.end()] = chance.choice(TEXTS).encode()
    # With the length mended, the parser gets to see it.
    end = data.find(b"\n", 10)
    if chance.random() < 0.8 and data[6:7] == b"\x01" and end > 0:
        data[8:10] = min(end - 9, 65535).to_bytes(2, "little")


Mutation = Callable[[bytearray, bytes, random.Random], None]
_ANY: tuple[Mutation, ...] = (_flip, _flip, _truncate, _extend, _splice, _cross, _number, _number)
_OF_NPY: tuple[Mutation, ...] = (*_ANY, _text, _text, _text, _text, _text, _text)


def mutated_npy(chance: random.Random) -> Seed:
    """A damaged array or archive."""
    return _mutated(npy_seeds(), _OF_NPY, chance)


def mutated_image(chance: random.Random) -> Seed:
    """A damaged image."""
    return _mutated(image_seeds(), _ANY, chance)


def _mutated(seeds: tuple[Seed, ...], mutations: tuple[Mutation, ...], chance: random.Random) -> Seed:
    seed = chance.choice(seeds)
    data = bytearray(seed.content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(mutations)(data, chance.choice(seeds).content, chance)
    return Seed(seed.suffix, bytes(data))


# Runs


def outcome(folder: Path, seed: Seed, options: tuple[str, ...] = (), measured: bool = False) -> str:
    """Unroll one input; "read", or the refusal without its names and numbers.

    Raises:
        Offence: neither of the two in one line, or more time or memory than an input may take.
    """
    path, output = folder / f"in{seed.suffix}", folder / "out.npy"
    path.write_bytes(seed.content)
    name = f"{path}:a" if seed.suffix == ".npz" else str(path)
    if measured:
        tracemalloc.start()
    start = time.process_time()
    try:
        with _caught() as noise:
            # Every pixel once, and written, as data that nobody asks for is not read.
            status = run(["unroll", name, "--k", "1", "-q", "-o", str(output), *options])
    except _Overtime:
        raise Offence(f"took more than {SECONDS} s") from None
    finally:
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    text = noise()
    left = sorted(p.name for p in folder.iterdir() if p not in (path, output))
    if status not in (0, 2):
        raise Offence(f"exit status {status}: {text}")
    if "internal error" in text or "Traceback" in text:
        raise Offence(text)
    if status == 0 and text:
        raise Offence(f"read, yet said: {text}")
    if status == 2 and not re.fullmatch(r"convmat: [^\n]+\n", text):
        raise Offence(f"refused in other than one line: {text}")
    if left or (status == 2 and output.exists()):
        raise Offence(f"left behind: {left or output.name}")
    if seconds > SECONDS:
        raise Offence(f"took {seconds:.1f} s")
    if peak > MEMORY + 20 * len(seed.content):
        raise Offence(f"took {peak >> 20} MiB for a file of {len(seed.content)} bytes")
    output.unlink(missing_ok=True)
    path.unlink()
    if status == 0:
        return "read"
    return _without_numbers(text.replace(name, "").split(":", 2)[2])


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "#", re.split("[:;,]", text)[0].strip())


@contextmanager
def _caught() -> Iterator[Callable[[], str]]:
    """All that reaches standard error, from Python and from the C code of decoders."""
    said = io.StringIO()
    with tempfile.TemporaryFile() as raw:
        kept = os.dup(2)
        os.dup2(raw.fileno(), 2)
        before = signal.signal(signal.SIGPROF, _overtime)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            with redirect_stderr(said):
                yield lambda: said.getvalue() + heard
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            os.dup2(kept, 2)
            os.close(kept)
            raw.seek(0)
            heard = raw.read().decode(errors="replace")


def _overtime(number: int, frame: FrameType | None) -> None:
    raise _Overtime


def options_for(seed: Seed, chance: random.Random) -> tuple[str, ...]:
    """Options that lead through the other branches of the readers."""
    if seed.suffix in (".npy", ".npz"):
        return chance.choice(((), ("--layout", "nchw"), ("--dims", "1"), ("--dims", "3")))
    return chance.choice(((), ("--frame", "0"), ("--frame", "1"), ("--alpha", "premultiply")))


def fuzz(count: int, seed: int) -> int:
    """Run `count` inputs, half arrays and half images; the number of offences."""
    chance, counts, offences = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(count):
            made = (mutated_npy, mutated_image)[number % 2](chance)
            options = options_for(made, chance)
            try:
                found = outcome(Path(name), made, options, number % MEASURED in (0, 1))
            except Offence as offence:
                found, offences = f"OFFENCE {_without_numbers(str(offence))}", offences + 1
                if not any(key.endswith(found) for key in counts):
                    saved = f"fuzz-{seed}-{number}{made.suffix}"
                    Path(saved).write_bytes(made.content)
                    print(f"{saved} {' '.join(options)}: {offence}")
                for path in Path(name).iterdir():
                    path.unlink()
            counts[f"{'arrays' if made.suffix in ('.npy', '.npz') else 'images'}: {found}"] += 1
    for found, times in sorted(counts.items(), key=lambda item: (item[0][:6], -item[1])):
        print(f"{times:7} {found}")
    return offences


if __name__ == "__main__":
    # A decoder that crashes takes Python with it; this says at least where.
    faulthandler.enable()
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(1 if fuzz(*(numbers + [20_000, 0][len(numbers) :])) else 0)
