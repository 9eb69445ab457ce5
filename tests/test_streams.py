"""Streams: batches in parts, archives, frames, alpha, early refusals, and the memory of real processes."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convmat as cm
from convmat import engine
from convmat.cli import run
from convmat.files import streams

pytestmark = pytest.mark.usefixtures("folder")

PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images at a time."""
    monkeypatch.setattr("convmat.cli.inputs._CHUNK_BYTES", 2 * 6 * 5 * 2 * 4)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("memory", ["C", "F"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_batch_in_parts_is_the_batch(layout: str, memory: str) -> None:
    x = np.arange(5 * 6 * 5 * 2, dtype=np.float32).reshape(5, 6, 5, 2)
    given = x if layout == "nhwc" else x.transpose(0, 3, 1, 2)
    np.save("x.npy", np.asarray(given, order=memory))  # type: ignore[call-overload]
    filters = np.arange(3 * 3 * 2 * 2, dtype=np.float32).reshape(3, 3, 2, 2)
    np.save("w.npy", filters)
    options = ["--layout", layout, "-q", "-s", "2", "-p", "1"]
    assert run(["unroll", "x.npy", "-k", "3,2", *options, "-o", "x_col.npy"]) == 0
    assert run(["convolve", "x.npy", "--kernel", "w.npy", *options, "-o", "y.npy"]) == 0
    np.testing.assert_array_equal(np.load("x_col.npy"), cm.unroll(x, (3, 2), 2, 1))
    y = cm.convolve(x, filters, 2, 1)
    np.testing.assert_array_equal(np.load("y.npy"), y if layout == "nhwc" else y.transpose(0, 3, 1, 2))


@pytest.mark.usefixtures("_small_chunks")
def test_no_images_are_a_batch_too() -> None:
    np.save("x.npy", np.zeros((0, 6, 5, 2)))
    np.save("w.npy", np.zeros((3, 2, 2, 2)))
    assert run(["unroll", "x.npy", "-k", "2", "-q", "-o", "x_col.npy"]) == 0
    assert run(["convolve", "x.npy", "--kernel", "w.npy", "-q", "-o", "y.npy"]) == 0
    assert np.load("x_col.npy").shape == (0, 8)
    assert np.load("y.npy").shape == (0, 5, 4, 3)


def test_arrays_of_an_archive() -> None:
    x, w = np.arange(30).reshape(6, 5), np.arange(4).reshape(2, 2)
    for save, name in ((np.savez, "plain.npz"), (np.savez_compressed, "packed.npz")):
        save(name, x=x, w=w)
        assert run(["convolve", f"{name}:x", "--kernel", f"{name}:w", "-q", "-o", "y.npy"]) == 0
        y = cm.convolve(x[None, ..., None], w[None, ..., None])
        np.testing.assert_array_equal(np.load("y.npy"), y)


def test_a_damaged_archive(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez_compressed("x.npz", x=np.random.default_rng(0).random(4000))
    content = bytearray(Path("x.npz").read_bytes())
    content[len(content) // 2] ^= 255
    Path("x.npz").write_bytes(content)
    assert run(["unroll", "x.npz:x", "--dims", "1", "-k", "2", "-q", "-o", "y.npy"]) == 2
    assert re.fullmatch(r"convmat: x\.npz:x: is damaged: .*\n", capsys.readouterr().err)
    assert os.listdir() == ["x.npz"]


def test_a_frame_of_an_animation(capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.fromarray(np.full((4, 5), 50 * i + 10, np.uint8)) for i in range(3)]
    frames[0].save("a.tiff", save_all=True, append_images=frames[1:])
    for i in range(3):
        assert run(["unroll", "a.tiff", "--frame", str(i), "-k", "1", "-q", "-o", "x.npy"]) == 0
        np.testing.assert_array_equal(np.load("x.npy"), np.full((20, 1), 50 * i + 10))
    assert run(["unroll", "a.tiff", "-k", "1"]) == 2
    assert run(["unroll", "a.tiff", "-k", "1", "--frame", "3"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "convmat: a.tiff: has 3 frames; choose one with --frame, 0 to 2",
        "convmat: a.tiff: has no frame 3; it has 3, from 0",
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_alpha_means(channels: int) -> None:
    colours = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels) * 4
    alpha = np.linspace(0, 255, 20).astype(np.uint8).reshape(4, 5, 1)
    Image.fromarray(np.concatenate([colours, alpha], 2)).save("a.png")
    wanted = {
        "keep": np.concatenate([colours, alpha], 2),
        "drop": colours,
        "premultiply": np.rint(colours * (alpha / 255)).astype(np.uint8),
    }
    for choice, pixels in wanted.items():
        assert run(["unroll", "a.png", "--alpha", choice, "-k", "1", "-q", "-o", "x.npy"]) == 0
        np.testing.assert_array_equal(np.load("x.npy").reshape(pixels.shape), pixels)


def test_a_disk_with_too_little_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = namedtuple("disk", "f_blocks f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda _: disk(99, 10, 10))
    np.save("x.npy", np.zeros((6, 5), np.uint8))
    assert run(["unroll", "x.npy", "-k", "2", "-o", "y.npy"]) == 0  # 80 bytes
    assert run(["unroll", "x.npy", "-k", "3", "-o", "z.npy"]) == 2
    wanted = "convmat: z.npy: needs 108 bytes, its disk has 100 free; name another disk\n"
    assert capsys.readouterr().err == wanted
    assert sorted(os.listdir()) == ["x.npy", "y.npy"]
    monkeypatch.setattr(os, "statvfs", lambda _: disk(0, 0, 10))  # as ramfs, which does not know its size
    assert run(["unroll", "x.npy", "-k", "3", "-o", "z.npy"]) == 0


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            ["verify", "x.npy", "--kernel", "box:3"],
            r"x\.npy: needs \d+ bytes of memory, 99 are available; .*",
        ),
        (
            ["convolve", "x.npy", "--kernel", "box:3", "-o", "y.png"],
            r"x\.npy: needs \d+ bytes of memory, .*",
        ),
    ],
)
def test_memory_that_is_not_there(
    command: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("x.npy", np.zeros((6, 5)))
    available = 99 if "verify" in command else 95
    monkeypatch.setattr("convmat.files.memory._available_bytes", lambda: available)
    assert run(command) == 2
    assert re.fullmatch(f"convmat: {told}\n", capsys.readouterr().err)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
@pytest.mark.parametrize("pipe", [False, True])
def test_memory_stays_small_whatever_the_batch(pipe: bool) -> None:
    """64 MB of images, 1.6 GB of X_col; the process needs 46 MB for itself and a few images."""
    with open("x.npy", "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (256, 256, 256, 1)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + 256**3 * 4)
    name = "-" if pipe else "x.npy"
    code = (
        f"from convmat.cli import run; status = run('unroll {name} -k 5 -q -o /dev/null'.split());"
        "print(status, open('/proc/self/status').read())"
    )
    with open("x.npy", "rb") as stream:
        source: Any = subprocess.Popen(["cat"], stdin=stream, stdout=subprocess.PIPE) if pipe else None
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=source and source.stdout, capture_output=True, text=True
        )
        if source:
            source.stdout.close()
            source.wait()
    assert done.stdout.startswith("0 "), done.stderr
    assert int(PEAK.findall(done.stdout)[0]) < 100_000


@pytest.mark.slow
def test_runs_side_by_side_do_not_meet() -> None:
    """Many write the same name, and each its own, in one folder."""
    np.save("x.npy", np.arange(200 * 200.0).reshape(200, 200))
    command = "unroll x.npy -k 5 -q -o"
    names = ["same.npy"] * 3 + [f"own{i}.npy" for i in range(3)]
    running = [subprocess.Popen([sys.executable, "-m", "convmat", *command.split(), n]) for n in names]
    assert [process.wait(60) for process in running] == [0] * 6
    wanted = cm.unroll(np.load("x.npy")[None, ..., None], 5)
    for name in names:
        np.testing.assert_array_equal(np.load(name), wanted)
    assert sorted(os.listdir()) == sorted({*names, "x.npy"})


def plan_of(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """What `convolve --plan --json` says."""
    assert run(["convolve", "x.npy", "--kernel", "w.npy", "--plan", "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("dtype", "scale", "accumulators"),
    [
        ("f4", 1, ["float32"]),
        ("f2", 1, ["float32"]),
        ("c8", 1, ["complex64"]),
        ("u1", 1, ["float32"]),
        ("i8", 1, ["float32"]),
        ("i8", 2**20, ["float64"]),
        ("i8", 2**50, ["int64"]),
    ],
)
def test_the_plan_that_is_shown_is_made_from_what_is_there(
    dtype: str, scale: int, accumulators: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("x.npy", np.full((2, 6, 5, 4), scale, dtype))
    np.save("w.npy", np.full((3, 2, 2, 4), scale if scale < 2**50 else 1, dtype))
    found = plan_of(capsys)
    x, w = np.load("x.npy"), np.load("w.npy")
    plan = engine.prepare(x, w, band_bytes=1 << 22).plan
    assert found["accumulators"] == accumulators == [str(plan.arithmetic.accumulator)]
    assert (found["kernel"], found["level"]) == (plan.kernel, plan.level)
    assert (found["band_shape"], found["box_shape"]) == (list(plan.band), plan.box and list(plan.box[:4]))
    assert (found["scratch_bytes"], found["in_place"]) == (plan.scratch, plan.in_place)
    assert (found["flops"], found["bytes"]) == (plan.flops, plan.bytes)
    if accumulators == ["int64"]:
        assert (found["kernel"], found["level"], found["box_shape"]) == ("blocks", "NumPy", None)


@pytest.mark.usefixtures("_small_chunks")
def test_the_plan_of_a_batch_whose_parts_differ(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.ones((6, 6, 5, 2), np.int32)
    x[5] = 2**29
    np.save("x.npy", x)
    np.save("w.npy", np.full((3, 2, 2, 2), 2**30))
    found = plan_of(capsys, "-o", "y.npy")
    assert (found["accumulators"], found["level"]) == (["float64", "int64"], "NumPy")
    assert found["flops"] == 2 * 6 * 5 * 4 * 8 * 3
    np.testing.assert_array_equal(np.load("y.npy"), cm.convolve(x, np.load("w.npy")))


def test_the_plan_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.zeros((1, 6, 5, 4), np.float32))
    np.save("w.npy", np.zeros((3, 2, 2, 4), np.float32))
    assert run(["convolve", "x.npy", "--kernel", "w.npy", "--plan", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    plan = engine.prepare(np.load("x.npy"), np.load("w.npy"), threads=1, band_bytes=1 << 22).plan
    for row in (
        f"kernel  .* {plan.kernel}, {plan.level}",
        "summed in .* float32",
        "threads .* 1 ",
        "FLOPs .* 1920 ",
    ):
        assert re.search(row, out)
    assert run(["convolve", "x.npy", "--kernel", "w.npy", "--explain"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("pieces", [1, 5])
def test_standard_input_that_is_late(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes when it is waited for, through a pipe that does not block."""
    x = np.arange(30.0).reshape(6, 5)
    np.save("x.npy", x)
    data = Path("x.npy").read_bytes()
    size = -(-len(data) // pieces)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    end, other = os.pipe()
    os.set_blocking(end, False)
    wait = select.select

    def late(*arguments: Any) -> Any:
        if parts:
            os.write(other, parts.pop(0))
            if not parts:
                os.close(other)
        return wait(*arguments)

    monkeypatch.setattr(select, "select", late)
    with open(end) as stdin:
        monkeypatch.setattr("sys.stdin", streams.patient(stdin))
        assert run(["unroll", "-", "-k", "6,5", "-q", "-o", "y.npy"]) == 0
    np.testing.assert_array_equal(np.load("y.npy"), x.reshape(1, -1))


def test_standard_output_that_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds, read only when its writer waits."""
    end, other = os.pipe()
    os.set_blocking(other, False)
    wait, got = select.select, b""

    def slow(*arguments: Any) -> Any:
        nonlocal got
        if not wait([], [other], [], 0)[1]:
            got += os.read(end, 1 << 20)
        return wait(*arguments)

    monkeypatch.setattr(select, "select", slow)
    with open(other, "w") as stdout:
        patient = streams.patient(stdout)
        assert patient is not None
        patient.buffer.write(bytes(300_000))
        patient.flush()
        patient.detach()
    with open(end, "rb") as rest:
        assert got + rest.read() == bytes(300_000)


def test_a_tiff_needs_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/none")
    Image.new("L", (6, 5), 7).save("a.tif", compression="tiff_lzw")
    assert run(["unroll", "a.tif", "-k", "1", "-q", "-o", "x.npy"]) == 0
