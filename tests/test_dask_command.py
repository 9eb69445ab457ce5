"""`--scheduler` and .zarr: commands on Dask, here, in processes and on a cluster of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convmat as cm
from convmat.cli import run
from tests.tools import convmat, environment

da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr")
cd = pytest.importorskip("convmat.dask")
stores = pytest.importorskip("convmat.dask.stores")
done = pytest.importorskip("convmat.dask.schedulers").done


@pytest.fixture
def frames(folder: Path) -> np.ndarray:
    """Seven pictures in frames/, of 8 × 9 pixels, and kernels in k.npy."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 8, 9, 3), np.uint8)
    Path("frames").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(f"frames/{i}.png")
    np.save("k.npy", rng.integers(-3, 4, (2, 3, 3, 3)))
    return pixels


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures a chunk."""
    monkeypatch.setattr("convmat.dask.sources._PART_BYTES", 2 * 8 * 9 * 3)


CONVOLVE = ["convolve", "--kernel", "k.npy", "-p", "same"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("inputs", ["frames", "frames/*.png", "x.zarr", "x.npy"])
def test_every_input_to_every_output(frames: np.ndarray, inputs: str) -> None:
    zarr.create_array("x.zarr", data=frames, chunks=(3, 5, 9, 3))
    np.save("x.npy", frames)
    wanted = cm.convolve(frames, np.load("k.npy"), padding="same")
    assert run([*CONVOLVE, inputs, "-o", "y.zarr", "-q"]) == 0
    np.testing.assert_array_equal(zarr.open_array("y.zarr")[:], wanted)
    assert run([*CONVOLVE, inputs, "-o", "y.npy", "--scheduler", "threads", "-q"]) == 0
    np.testing.assert_array_equal(np.load("y.npy"), wanted)
    assert run(["unroll", inputs, "--k", "3", "-o", "x_col.zarr", "-q"]) == 0
    np.testing.assert_array_equal(zarr.open_array("x_col.zarr")[:], cm.unroll(frames, 3))
    for expected in ("y.zarr", "y.npy"):
        line = ["verify", inputs, "--kernel", "k.npy", "-p", "same", "--expected", expected, "-q"]
        assert run([*line, "--scheduler", "threads"]) == 0


def test_a_difference_is_told_with_its_place(frames: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array("x.zarr", data=frames, chunks=(3, 5, 9, 3))
    wrong = cm.convolve(frames, np.load("k.npy"))
    wrong[5, 4, 3, 1] += 7
    zarr.create_array("y.zarr", data=wrong, chunks=(2, 6, 7, 2))
    assert run(["verify", "x.zarr", "--kernel", "k.npy", "--expected", "y.zarr", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["outside"], told["worst"], told["max_abs_error"]) == (1, [5, 4, 3, 1], 7)
    assert told["chunks"] == [3, 5, 9, 3]


def test_layouts(frames: np.ndarray) -> None:
    zarr.create_array("x.zarr", data=np.moveaxis(frames, -1, 1), chunks=(3, 3, 5, 9))
    assert run([*CONVOLVE, "x.zarr", "--layout", "nchw", "-o", "y.zarr", "-q"]) == 0
    wanted = cm.convolve(frames, np.load("k.npy"), padding="same")
    np.testing.assert_array_equal(zarr.open_array("y.zarr")[:], np.moveaxis(wanted, -1, 1))


def test_layers_of_integers(frames: np.ndarray) -> None:
    """A chunk's padding is the input's zero point, as the whole array's is."""
    Path("q.toml").write_text("scale = 0.01\ninput_zero_point = 100\noutput_zero_point = -3\n")
    zarr.create_array("x.zarr", data=frames, chunks=(3, 5, 4, 3))
    line = ["x.zarr", "--kernel", "k.npy", "-p", "2", "--quantize", "q.toml", "-q"]
    assert run(["convolve", *line, "-o", "y.zarr"]) == 0
    quantization = cm.Quantization(scale=0.01, input_zero_point=100, output_zero_point=-3)
    wanted = cm.convolve(frames, np.load("k.npy"), padding=2, quantization=quantization)
    np.testing.assert_array_equal(zarr.open_array("y.zarr")[:], wanted)
    assert run(["verify", *line, "--expected", "y.zarr"]) == 0


@pytest.mark.usefixtures("small_parts")
def test_a_half_written_array_is_marked_and_gone_on_with(
    frames: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = stores._write, []

    def failing(path: str, region: Any, block: np.ndarray) -> bool:
        written.append(region)
        if len(written) == 3:
            raise OSError(28, "No space left on device", path)
        return write(path, region, block)

    monkeypatch.setattr(stores, "_write", failing)
    monkeypatch.setenv("CONVMAT_THREADS", "1")
    assert run([*CONVOLVE, "frames", "-o", "y.zarr"]) == 2
    assert "y.zarr: No space left on device" in capsys.readouterr().err
    assert zarr.open_array("y.zarr").attrs["convmat"]["complete"] is False
    for line, problem in {
        "verify y.zarr --kernel box:3 --depthwise": "is half-written; finish it: give the command",
        "convolve frames --kernel k.npy -p same -o y.zarr": "is there already; remove it, or go on",
        "convolve frames --kernel k.npy -p 2 -o y.zarr --resume": "is not what this command began",
    }.items():
        assert run(line.split()) == 2
        assert f"convmat: y.zarr: {problem}" in capsys.readouterr().err
    before = len(written)
    assert run([*CONVOLVE, "frames", "-o", "y.zarr", "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written_chunks"] == [4, 2]
    assert len(written) == before + 2
    array = zarr.open_array("y.zarr")
    assert array.attrs["convmat"]["complete"] is True
    np.testing.assert_array_equal(array[:], cm.convolve(frames, np.load("k.npy"), padding="same"))
    assert run([*CONVOLVE, "frames", "-o", "y.zarr", "--resume"]) == 0
    assert "4 of them there already" in capsys.readouterr().out


def test_chunks_of_zeros_are_known_to_be_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array("x.zarr", shape=(4, 8, 8, 1), chunks=(1, 8, 8, 1), dtype="u1")
    line = ["convolve", "x.zarr", "--kernel", "box:3", "-o", "y.zarr", "--json"]
    for more, there in (([], 0), (["--resume"], 4)):
        assert run([*line, *more]) == 0
        assert json.loads(capsys.readouterr().out)["written_chunks"] == [4, there]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("convolve frames --kernel k.npy --resume", r"--resume goes with -o FILE\.zarr"),
        (
            "convolve frames --kernel k.npy --scheduler slurm",
            "--scheduler: unknown 'slurm'; give threads, proc",
        ),
        (
            "convolve frames --kernel k.npy --scheduler tcp://127.0.0.1:9",
            "tcp://127.0.0.1:9: is no scheduler that",
        ),
        ("convolve frames --kernel k.npy --plan -o y.zarr", r"--plan needs arrays whole; leave out \.zarr"),
        ("convolve frames --kernel k.npy --plan --scheduler threads", "--scheduler goes without --plan"),
        (
            "convolve none --kernel k.npy --scheduler threads",
            "none: names no file; give a folder or a pattern",
        ),
        ("convolve *.gif --kernel k.npy --scheduler threads", r"\*\.gif: names no file"),
        (
            "convolve two --kernel k.npy -o y.zarr",
            r"two/b\.png: is 4 × 4 × 3 uint8, the first picture is 5 × 5 × 3",
        ),
        ("convolve group.zarr --kernel k.npy", r"group\.zarr: is no zarr array"),
        ("unroll frames --k 3 -o no/y.zarr", r"no/y\.zarr: No such file or directory"),
        ("unroll bad.zarr --k 3", r"bad\.zarr: is no zarr array"),
        (
            "unroll frames frames/0.png x.zarr --k 3 -o y.zarr",
            r"frames/0\.png: is no zarr array, and another in",
        ),
        ("verify frames --kernel k.npy --explain --scheduler threads", "--explain needs the arrays whole"),
        (
            "verify --scheduler threads",
            "Missing argument 'INPUT'; name the image or array --scheduler is for",
        ),
        ("flatten-filters k.npy -o y.zarr", r"y\.zarr: is a data file's name, and this is written as \.npy"),
    ],
)
def test_trouble(
    frames: np.ndarray,
    line: str,
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("convmat.dask.schedulers._PATIENCE", 0.2)
    Path("none").mkdir()
    Path("two").mkdir()
    for name, size in (("a", 5), ("b", 4)):
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(f"two/{name}.png")
    zarr.create_group("group.zarr")
    zarr.create_array("x.zarr", data=frames)
    Path("bad.zarr").mkdir()
    Path("bad.zarr/zarr.json").write_text("{")
    assert run(line.split()) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("convmat: ")
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(told[0])


@pytest.mark.parametrize("name", ["dask", "zarr"])
def test_without_dask_it_says_what_to_install(
    frames: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in list(sys.modules):
        if module.startswith(("convmat.dask", "convmat.cli.cluster")) or module.partition(".")[0] == name:
            monkeypatch.delitem(sys.modules, module)

    class Without:
        @staticmethod
        def find_spec(module: str, *_: Any) -> None:
            if module == name:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    assert run([*CONVOLVE, "frames", "-o", "y.zarr"]) == 2
    told = f"convmat: {name}: is not installed; pip install 'convmat[dask]' brings it\n"
    assert capsys.readouterr().err == told
    assert not Path("y.zarr").exists()


# Other processes


def stopped(*more: str) -> tuple[int, bytes]:
    """Exit status and standard error of a convolution of 400 chunks that is stopped once some are written."""
    zarr.create_array("x.zarr", shape=(1600, 64, 64, 3), chunks=(4, 64, 64, 3), dtype="u1")
    command = [sys.executable, "-m", "convmat", *CONVOLVE, "x.zarr", "-o", "y.zarr", "-q", *more]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE)
    while process.poll() is None and not any(Path("y.zarr").glob("c/*/*/*/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert 0 < len(list(Path("y.zarr").glob("c/*/*/*/*"))) < 400
    assert zarr.open_array("y.zarr").attrs["convmat"]["complete"] is False
    return process.returncode, told


@pytest.mark.slow
@pytest.mark.usefixtures("frames")
def test_ctrl_c_ends_processes_and_others_go_on() -> None:
    how = ["--scheduler", "processes", "--threads", "1"]
    assert stopped(*how) == (130, b"")
    done = convmat(*CONVOLVE, "x.zarr", "-o", "y.zarr", "--resume", "--brief", *how)
    assert (done.returncode, done.stderr) == (0, b"")
    assert zarr.open_array("y.zarr").attrs["convmat"]["complete"] is True


@contextmanager
def same_environment() -> Iterator[None]:
    """A block whose changes of the environment end with it: who starts workers sets their threads there."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    with same_environment():
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and three workers, each a process, on loopback."""
    distributed = pytest.importorskip("distributed")
    with same_environment():
        made = distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0")
    with made, distributed.Client(made) as client:
        yield client


def _made(block_info: Any = None) -> np.ndarray:
    info = block_info[None]
    return np.random.default_rng(info["chunk-location"]).integers(-9, 9, info["chunk-shape"], "i4")


def _forget_peak() -> int:
    """Begin to measure the most memory that this process has had; what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(of: str = "VmHWM") -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(of)]
    return 1024 * int(line.split()[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("chunks", "padding"), [((1, 1024, 1024, 4), "same"), ((1, 2048, 512, 4), "valid")])
def test_a_worker_takes_less_than_four_chunks(cluster: Any, chunks: tuple[int, ...], padding: Any) -> None:
    """Until its part of Y is in zarr; this process, which hands out the work, takes less than one."""
    x = da.map_blocks(_made, chunks=da.core.normalize_chunks(chunks, (2, 2048, 2048, 4)), dtype="i4")
    x, w = x.astype("f4"), np.ones((4, 3, 3, 4), "f4")

    def written(part: Any, name: str) -> None:
        work = stores.storing(cd.convolve(part, w, padding=padding), name, False)
        assert all(done(work.graph, work.keys))

    written(x[:1, :64, :64], "small.zarr")  # what is imported is not counted
    before, here = cluster.run(_forget_peak), _forget_peak()
    written(x, "y.zarr")
    after, chunk = cluster.run(_memory), x.nbytes // x.npartitions
    assert max(after[worker] - before[worker] for worker in before) < 4 * chunk
    assert _memory() - here < chunk


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_worker_that_is_killed_changes_nothing(cluster: Any) -> None:
    x = da.map_blocks(_made, chunks=da.core.normalize_chunks((1, 64, 64, 3), (2, 512, 256, 3)), dtype="i4")
    w = np.random.default_rng(0).integers(-9, 9, (4, 3, 3, 3))
    y = cd.convolve(x, w, padding="same")
    from distributed import wait

    futures = cluster.compute(list(y.to_delayed().ravel()))
    wait(futures, return_when="FIRST_COMPLETED")
    victim = sorted(cluster.run(os.getpid).values())[0]
    os.kill(victim, signal.SIGKILL)
    parts = cluster.gather(futures)
    assert victim not in cluster.run(os.getpid).values()
    wanted = cm.convolve(x.compute(), w, padding="same")
    grid = iter(parts)
    found = np.block([[[[next(grid)] for _ in y.chunks[2]] for _ in y.chunks[1]] for _ in y.chunks[0]])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("samples")
def test_what_the_page_shows_of_a_cluster(cluster: Any) -> None:
    Path("frames").mkdir()
    for i in range(6):
        shutil.copy("sample_images/scene.png", f"frames/{i}.png")
    page = (Path(__file__).parent.parent / "docs" / "clusters.md").read_text(encoding="utf-8")
    [shown] = [part for part in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "dask scheduler" in part]
    shown = shown.replace("tcp://127.0.0.1:8790", cluster.scheduler.address)
    shown = re.sub(r"http://\S+", cluster.dashboard_link, shown)
    commands = re.findall(r"^\$ convmat (.*)\n((?:[^$].*\n)*)", shown, re.MULTILINE)
    assert len(commands) == 2
    for line, told in commands:
        done = convmat(*shlex.split(line))
        assert (done.stderr + done.stdout).decode() == told
    frames = np.stack([np.asarray(Image.open("sample_images/scene.png"))] * 6)
    wanted = cm.convolve(frames, np.load("sample_images/edges_8x3x3x3.npy"), padding="same")
    np.testing.assert_array_equal(zarr.open_array("y.zarr")[:], wanted)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_error_of_a_worker_is_one_line(cluster: Any, frames: np.ndarray) -> None:
    Path("frames/3.png").write_bytes(b"no picture")
    done = convmat(*CONVOLVE, "frames", "-o", "y.zarr", "-q", "--scheduler", cluster.scheduler.address)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        f"convmat: {Path('frames/3.png').resolve()}: is neither an image nor an .npy array"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("frames")
def test_ctrl_c_cancels_on_the_cluster(cluster: Any) -> None:
    """Once the command has ended the scheduler has none of its tasks."""
    assert stopped("--scheduler", cluster.scheduler.address) == (130, b"")

    def left(dask_scheduler: Any) -> int:
        return len([key for key in dask_scheduler.tasks if "write-" in str(key)])

    while cluster.run_on_scheduler(left):
        pass
