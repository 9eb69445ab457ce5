"""train: the experiment's numbers, its folder, going on, stopping, and what it refuses."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmat.cli import run
from convmat.cli.datasets import open_dataset
from convmat.cli.experiments import resume, save
from convmat.errors import FileError, GeometryError, SettingError, ShapeError
from convmat.experiment.digits import draw_digits
from convmat.experiment.divergence import SMALL
from convmat.experiment.networks import Convolution, Dense
from convmat.experiment.record import RECORD, array_kinds
from convmat.experiment.run import Experiment
from convmat.experiment.settings import Settings
from convmat.files.archives import write_archive
from convmat.files.members import archive_names
from convmat.files.outputs import together
from convmat.files.records import RecordFile, packed
from convmat.files.schema import Mismatch
from convmat.report.training import largest_differences, summary_facts
from tests.test_faults import CALLS, Faults
from tests.tools import mostly_slow

pytestmark = pytest.mark.usefixtures("folder")

# Every part of an experiment, in a second: odd last batches, strides that differ, padding.
SMALL_SETTINGS: dict[str, Any] = {
    "filters": 6,
    "kernel_size": (4, 3),
    "stride": (4, 3),
    "padding": "same",
    "train_size": 50,
    "val_size": 20,
    "batch_size": 16,
    "epochs": 3,
}
OPTIONS = [
    *("--filters", "6", "-k", "4,3", "-s", "4,3", "-p", "same"),
    *("--train-size", "50", "--val-size", "20", "--batch-size", "16", "--epochs", "3"),
]


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed: drawing takes longer than all else here."""
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "convmat.figures.curves", raising=False)


def experiment(**changes: Any) -> Experiment:
    settings = Settings(**SMALL_SETTINGS | changes)
    return Experiment(settings, draw_digits(120, settings.seed))


def trained(**changes: Any) -> Experiment:
    e = experiment(**changes)
    for _ in e.steps():
        pass
    return e


def train(*options: str, status: int = 0) -> None:
    assert run(["train", *OPTIONS, *options]) == status


# The experiment


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), mostly_slow([("float32", 1e-5), ("float64", 1e-12)]))
def test_sgd_losses_agree_over_50_epochs(dtype: str, bound: float) -> None:
    e = trained(dtype=dtype, epochs=50, filters=4, kernel_size=4, stride=2, padding="valid", lr=1.0)
    history = e.runs["sgd"].history
    assert [row.epoch for row in history] == list(range(51))
    assert max(largest_differences(history).values()) <= bound
    assert history[-1].cnn_validation < 0.8 * history[0].cnn_validation


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second, other = trained(), trained(), trained(seed=1)
    for key, values in first.arrays().items():
        assert values.tobytes() == second.arrays()[key].tobytes()
        assert (values != other.arrays()[key]).any()
    assert first.record() == second.record()


def test_both_networks_begin_with_the_same_weights_and_learn() -> None:
    e = experiment()
    networks = e.runs["sgd"].networks
    assert isinstance(networks["cnn"].first, Convolution)
    assert isinstance(networks["fc"].first, Dense)
    for layer, initial in e.initial.items():
        for network in networks.values():
            np.testing.assert_array_equal(network.layers[layer].weights, initial)
    for _ in e.steps():
        pass
    for layer, initial in e.initial.items():
        for network in networks.values():
            assert (network.layers[layer].weights != initial).any()


def test_an_epoch_sees_each_image_once() -> None:
    e = experiment()
    seen = []
    forward = e.runs["sgd"].networks["cnn"].forward

    def watch(x: np.ndarray) -> np.ndarray:
        seen.append(x.copy())
        return forward(x)

    steps = e.steps()
    next(steps)
    e.runs["sgd"].networks["cnn"].forward = watch  # type: ignore[method-assign]
    for _ in range(e.batches):
        next(steps)
    batches = [x for x in seen if len(x)][-e.batches :]
    assert [len(x) for x in seen[: e.batches - 1]] == [16, 16, 2]
    assert len(batches) == 4


def test_images_are_shared_out_once() -> None:
    """Training, validation and new images are different images; with none left, validation stands in."""
    settings = Settings(**SMALL_SETTINGS)
    images = np.zeros((120, 28, 28, 1), np.uint8)
    images[:, 0, 0, 0] = range(120)
    e = Experiment(settings, images)
    parts = [np.rint(p.pixels[:, 0, 0, 0] * 255) for p in (e.train, e.validation, e.new)]
    assert sorted(np.concatenate(parts)) == list(range(120))
    assert [len(p) for p in parts] == [50, 20, 50]
    assert parts[0].tolist() != sorted(parts[0])  # a sorted file is shuffled
    e = Experiment(settings, images[:70])
    assert e.new is e.validation


def test_comparison_is_as_defined() -> None:
    e = trained()
    found = e.compare(e.runs["sgd"])
    first = {name: network.first for name, network in e.runs["sgd"].networks.items()}
    ours, other = (layer.weights for layer in first.values())
    assert found.weights_difference == pytest.approx(np.sqrt(((ours - other) ** 2).sum()))
    cnn = first["cnn"].forward(e.new.pixels).reshape(len(e.new.pixels), -1)
    fc = first["fc"].forward(e.new.inputs("fc", slice(None))).reshape(cnn.shape)
    apart = np.sqrt(((cnn - fc) ** 2).sum(axis=1)).mean()
    assert found.outputs_difference == pytest.approx(apart, rel=1e-3)
    assert 0 < found.outputs_difference < 1e-4 * found.outputs_norm


def test_dead_units_are_counted() -> None:
    e = experiment()
    for network in e.runs["sgd"].networks.values():
        network.dense.weights[:, :300] = -1
    found = e.compare(e.runs["sgd"])
    lit = e.train.target[:, :300].any(axis=0).sum()
    assert all(count >= 300 for count in found.dead.values())
    assert all(count >= lit > 0 for count in found.dead_lit.values())


def test_divergence_is_in_units_of_rounding() -> None:
    e = trained(optimizer="both", probe_divergence=True, epochs=2)
    for name, done in e.runs.items():
        assert [d.step for d in done.divergence] == [s for s in range(1, 9) for _ in "fd"]
        assert {d.layer for d in done.divergence} == {"first", "dense"}
        last = done.divergence[-1]
        ours, other = (network.dense.weights.astype(float) for network in done.networks.values())
        apart = np.linalg.norm(ours - other) / np.linalg.norm(ours) / 2.0**-24
        assert last.weights == pytest.approx(apart, rel=1e-5)
        ours, other = (network.dense.gradient.astype(float) for network in done.networks.values())
        apart = np.linalg.norm(ours - other) / np.linalg.norm(ours) / 2.0**-24
        assert last.gradients == pytest.approx(apart, rel=1e-3)
        assert (last.small > 0) == (name == "adam")
    v = e.runs["adam"].updates["cnn"].v[1]
    small = (v > 0) & (v < SMALL**2 * v.mean(dtype=float))
    assert e.runs["adam"].divergence[-1].small == pytest.approx(small.sum() / (v > 0).sum())


@pytest.mark.slow
def test_rounding_shrinks_with_the_dtype_and_adam_amplifies_it() -> None:
    """In units of rounding the two dtypes are alike, at the first step; Adam's is several times SGD's."""
    first = {}
    for dtype in ("float32", "float64"):
        e = trained(optimizer="both", probe_divergence=True, epochs=1, dtype=dtype, filters=16)
        for name, done in e.runs.items():
            first[dtype, name] = next(d for d in done.divergence if d.layer == "dense")
    for dtype in ("float32", "float64"):
        assert 0.9 < first[dtype, "sgd"].amplification < 1.5
        assert first[dtype, "adam"].amplification > 4
    for name in ("sgd", "adam"):
        assert 0.2 < first["float64", name].moves / first["float32", name].moves < 5


def test_torch_agrees_for_20_epochs() -> None:
    """The same weights, batches and rate in torch: losses to 1e-4 in float32."""
    torch = pytest.importorskip("torch")
    e = experiment(epochs=20, kernel_size=4, stride=2, padding="valid")
    w = e.initial["first"].reshape(4, 4, 1, 6).transpose(3, 2, 0, 1).copy()
    w, dense = (torch.tensor(a, requires_grad=True) for a in (w, e.initial["dense"].copy()))
    pixels, target = (torch.tensor(a) for a in (e.train.pixels.transpose(0, 3, 1, 2).copy(), e.train.target))
    optimizer = torch.optim.SGD([w, dense], lr=0.3)
    for done in e.steps():
        if done.batch != 0:
            continue
        which = np.random.default_rng([0, 2, done.epoch - 1]).permutation(50)
        total = 0.0
        for start in range(0, 50, 16):
            batch = torch.tensor(which[start : start + 16])
            hidden = torch.relu(torch.nn.functional.conv2d(pixels[batch], w, stride=2))
            output = torch.relu(hidden.permute(0, 2, 3, 1).reshape(len(batch), -1) @ dense)
            loss = ((output - target[batch]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        row = done.history[-1]
        assert row.cnn_training == pytest.approx(total / 50, rel=1e-4)
        assert row.fc_training == pytest.approx(total / 50, rel=1e-4)
    assert done.epoch == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer: must be one of sgd, adam, both, got 'lbfgs'"),
        ({"dtype": "float16"}, "dtype: must be one of float32, float64, got 'float16'"),
        ({"epochs": 0}, "epochs: must be 1 to 1000000000, got 0"),
        ({"seed": -1}, "seed: must be 0 to 18446744073709551615, got -1"),
        ({"lr": 0.0}, "lr: must be above 0"),
        ({"lr": float("nan")}, r"lr: must be above 0, at most 1e\+38, got nan"),
    ],
)
def test_settings_refuse(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Settings(**changes)


def test_experiment_refuses() -> None:
    images = draw_digits(60, 0)
    with pytest.raises(ShapeError, match="has 60 images; 50 to train and 20 to validate on are 70"):
        Experiment(Settings(**SMALL_SETTINGS), images)
    with pytest.raises(ShapeError, match=r"expected \(N, H, W, C\)"):
        Experiment(Settings(**SMALL_SETTINGS), images[..., 0])
    with pytest.raises(GeometryError, match="kernel spans 40 pixels"):
        Experiment(Settings(**SMALL_SETTINGS | {"kernel_size": 40, "padding": "valid"}), draw_digits(99, 0))
    with pytest.raises(SettingError, match=r"lr: 1e\+30 makes the loss of sgd grow beyond all numbers"):
        trained(lr=1e30)


# The command


def summary(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "summary.json").read_text())
    return found


@pytest.mark.slow
def test_folder_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    train("--optimizer", "both", "--probe-divergence", "-o", "out/run")
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("The two networks", "Validation loss, adam", "output units dead", "unit of rounding"):
        assert text in out
    figures = [
        f"{what}_{o}.png"
        for what in ("loss", "weights", "reconstructions", "divergence")
        for o in ("sgd", "adam")
    ]
    assert sorted(os.listdir("out/run")) == sorted(
        ["history.csv", "summary.json", "weights.npz", "divergence.csv", "networks.png", *figures]
    )
    for name in ("networks.png", *figures):
        with Image.open(f"out/run/{name}") as picture:
            assert min(picture.size) > 100
    with open("out/run/history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["optimizer"], r["epoch"]) for r in rows] == [
        (o, str(e)) for o in ("sgd", "adam") for e in range(4)
    ]
    found = summary("out/run")
    assert float(rows[3]["cnn_validation_loss"]) == found["runs"]["sgd"]["validation_loss"]["cnn"]
    assert found["parameters"] == 12 * 6 + 7 * 10 * 6 * 784
    assert set(found["runs"]["adam"]["dead_units"]) == {"cnn", "fc"}
    with np.load("out/run/weights.npz") as arrays:
        assert {"initial_first", "initial_dense", "sgd_cnn_first", "sgd_fc_dense", "adam_fc_first"} <= set(
            arrays
        )
        assert arrays["initial_first"].shape == (12, 6)
        assert arrays["sgd_cnn_dense"].shape == (420, 784)


def test_json_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    train("--json")
    found = json.loads(capsys.readouterr().out)
    assert found["runs"]["sgd"]["epochs_done"] == 3
    assert found["filters"] == 6
    assert found["output_size"] == [7, 10]
    train("-q")
    assert capsys.readouterr() == ("", "")


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("_no_figures")
def test_resume_gives_the_bytes_of_an_unbroken_run() -> None:
    """Every file; and so does a run of the same seed."""
    options = ("--optimizer", "both", "--probe-divergence", "-q")
    train(*options, "-o", "whole")
    train(*options, "-o", "again")
    assert contents("whole") == contents("again")
    train(*options, "--epochs", "1", "-o", "broken")
    assert run(["train", "--resume", "broken", "--epochs", "2", "-q"]) == 0
    train(*options, "--resume", "broken")
    assert contents("whole") == contents("broken")
    assert run(["train", "--resume", "broken", "-o", "elsewhere", "-q"]) == 0
    assert contents("whole") == contents("elsewhere")


@pytest.mark.parametrize("step", mostly_slow([4, 1, 3, 9, 6]))
def test_going_on_after_any_step(step: int) -> None:
    """In the middle of an epoch, between epochs, in the second optimizer's run."""
    changes = {"optimizer": "both", "epochs": 1}
    whole = trained(**changes)
    stopped = experiment(**changes)
    for count, _ in enumerate(stopped.steps(), 1):
        if count == step:
            break
    record = json.loads(json.dumps(stopped.record()))
    gone_on = experiment(**changes)
    gone_on.resume(record, stopped.arrays().__getitem__)
    for _ in gone_on.steps():
        pass
    assert json.dumps(gone_on.record()) == json.dumps(whole.record())
    for key, values in whole.arrays().items():
        assert values.tobytes() == gone_on.arrays()[key].tobytes()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("signal_number", mostly_slow([signal.SIGINT, signal.SIGTERM]))
def test_ctrl_c_keeps_what_was_done(signal_number: signal.Signals) -> None:
    command = [sys.executable, "-m", "convmat", "train", *OPTIONS, "--epochs", "4000", "-o", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        # The folder is made right before the training begins.
        while not Path("run").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal_number
    assert err.splitlines()[-1] == (
        "convmat: warning: stopped before the end; what was done is kept: convmat train --resume run goes on"
    )
    assert "validation loss" in out
    done = summary("run")["runs"]["sgd"]["epochs_done"]
    assert 0 <= done < 4000
    assert run(["train", "--resume", "run", "--epochs", str(done + 2), "-q"]) == 0
    train("--epochs", str(done + 2), "-o", "whole", "-q")
    assert contents("whole")["weights.npz"] == contents("run")["weights.npz"]


def test_paper_is_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    train("--paper", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["optimizer"], found["epochs"]) == ("both", 3)  # what is named stands


@pytest.mark.usefixtures("_no_figures")
def test_data_is_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.integers(0, 256, (75, 9, 8, 3), np.uint8))
    train("--data", "x.npy", "--json", "-o", "run")
    found = json.loads(capsys.readouterr().out)
    assert found["input_shape"] == [16, 9, 8, 3]
    assert found["images"] == {"training": 50, "validation": 20, "new": 5}
    assert run(["train", "--resume", "run", "--epochs", "4", "-q"]) == 0
    np.save("x.npy", rng.integers(0, 256, (75, 9, 8, 3), np.uint8))
    assert run(["train", "--resume", "run", "--epochs", "5", "-q"]) == 2
    assert "x.npy: has other images than when the run in run began" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_figures")
def test_without_matplotlib_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    train("-o", "run")
    err = capsys.readouterr().err
    assert "pip install 'convmat[figures]', then convmat train --resume run" in err
    assert sorted(os.listdir("run")) == ["history.csv", "summary.json", "weights.npz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0"], "convmat: --lr: must be above 0, at most 1e+38, got 0.0"),
        (["--lr", "1e30"], "convmat: --lr: 1e+30 makes the loss of sgd grow beyond all numbers in epoch 1"),
        (["-k", "40", "-p", "valid"], "convmat: --k: the kernel spans 40 pixels"),
        (["--epochs", "0"], "convmat: --epochs: must be 1 to 1000000000, got 0"),
        (["--data", "absent"], "convmat: absent: cannot be read: No such file or directory"),
        (["--data", "few.npy"], "convmat: --data: has 9 images; 50 to train and 20 to validate on are 70"),
        (["--data", "wild.npy"], "convmat: --data: has values 0 .. 2; scale floats"),
        (["--resume", "nowhere"], "convmat: nowhere/weights.npz: cannot be read: No such file"),
        (
            ["-o", "few.npy"],
            "convmat: few.npy: is an .npy array's name, and this is written as a folder",
        ),
        (["-o", "-"], "convmat: standard output: holds no folder of files; name one with -o"),
        (["--filters", "999999999"], "convmat: --filters: needs"),
    ],
)
def test_refusals_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("few.npy", np.zeros((9, 8, 8), np.uint8))
    np.save("wild.npy", np.full((99, 8, 8), 2.0) * (np.arange(99) > 3)[:, None, None])
    train(*options, status=2)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


@pytest.mark.usefixtures("_no_figures")
def test_resume_refuses_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    train("-o", "run", "-q")
    train("--seed", "1", "--resume", "run", status=2)
    assert "--seed: 1 was 0 when the run in run began; leave it out" in capsys.readouterr().err
    train("--data", "x.npy", "--resume", "run", status=2)
    assert "--data: x.npy was None when" in capsys.readouterr().err
    np.savez("run/weights.npz", record=np.frombuffer(b"{}", np.uint8))
    train("--resume", "run", status=2)
    assert (
        "run/weights.npz: is damaged: the record must have settings, got nothing; begin"
        in capsys.readouterr().err
    )


@pytest.mark.usefixtures("_no_figures")
def test_weights_are_whole_or_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    train("-o", "run", "-q")
    before = contents("run")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    train("--epochs", "5", "--resume", "run", status=2)
    assert contents("run") == before


@pytest.mark.usefixtures("_no_figures")
def test_archive_names_are_numpys() -> None:
    train("-o", "run", "-q")
    with np.load("run/weights.npz") as arrays:
        assert archive_names("run/weights.npz") == arrays.files
        record = json.loads(io.BytesIO(arrays["record"].tobytes()).read())
    assert record["settings"]["filters"] == 6


# Records that are damaged


def _rewritten(folder: str, change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> None:
    """The run's record changed and saved again, as who can write numbers, but not checksums, would."""
    with np.load(f"{folder}/weights.npz") as found:
        arrays = dict(found)
    record = json.loads(arrays.pop("record").tobytes())
    change(record, arrays)
    text = json.dumps(record).encode()
    np.savez(f"{folder}/weights.npz", record=np.frombuffer(text, np.uint8), **arrays)


# What any value may have become.
VALUES: list[Any] = [
    *(None, True, "", "3", -1, 0.5, 10**9, 10**30, -(10**400), float("nan"), float("inf"), -1e-300, 1e308),
    *([], {}, [0], [[0, 0, 0, 0, 0]], {"cnn": 1.0}, "\0", "x" * 10**6, [None] * 1000),
]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values in a record are, from the outermost on."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


def at(record: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        record = record[key]
    return record


def put(record: Any, place: tuple[Any, ...], value: Any) -> None:
    at(record, place[:-1])[place[-1]] = value


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "gone": lambda a: None,
    "a scalar": lambda a: a.flat[0],
    "(1, 1)": lambda a: a[:1, :1],
    "a row": lambda a: a[:1],
    "a row less": lambda a: a[1:],
    "transposed": lambda a: a.T.copy(),
    "flat": lambda a: a.ravel(),
    "an axis more": lambda a: a[None],
    "empty": lambda a: a[:0],
    "float16": lambda a: a.astype("f2"),
    "float64": lambda a: a.astype("f8"),
    "another byte order": lambda a: a.astype(">f4"),
    "int32": lambda a: a.astype("i4"),
    "complex64": lambda a: a.astype("c8"),
    "text": lambda a: a.astype("U8"),
    "objects": lambda a: a.astype(object),
    "a NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size - 1, np.nan, a).astype("f4"),
    "infinite": lambda a: a / np.float32(0),
    "negative": lambda a: -np.abs(a) - 1,
    "another number": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, 0.1, a).astype("f4"),
}


@pytest.fixture(scope="module")
def run_of_both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with all that a record may hold, stopped between two steps."""
    folder = tmp_path_factory.mktemp("both")
    data, changes = str(folder / "x.npy"), {"filters": 2, "optimizer": "both", "epochs": 1}
    np.save(data, np.random.default_rng(0).integers(0, 256, (75, 8, 8), np.uint8))
    settings = Settings(**SMALL_SETTINGS | changes, probe_divergence=True)
    e = Experiment(settings, open_dataset(data).read(), data=data)
    for count, _ in enumerate(e.steps(), 1):
        if count == 6:
            break
    (folder / "run").mkdir()
    write_archive(str(folder / "run/weights.npz"), packed(e.record(), e.arrays()))
    return folder / "run"


@pytest.fixture
def damaged(run_of_both: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Damages a copy of the run, and demands a refusal in one line that leaves everything as it is."""

    def refusal(change: Callable[[], object], *options: str) -> str:
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(run_of_both, "run")
        change()
        before = contents("run")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run(["train", "--resume", "run", "-q", *options]) == 2
        out, err = capsys.readouterr()
        assert contents("run") == before
        assert re.fullmatch(r"convmat: run/weights\.npz: [^\n]+\n", err), err
        assert "internal error" not in err
        assert len(err) < 600
        assert out == ""
        return err

    return refusal


@pytest.mark.usefixtures("_no_figures")
def test_the_run_that_is_damaged_is_good(run_of_both: Path) -> None:
    """Read, gone on with, and saved by another writer of .npz."""
    shutil.copytree(run_of_both, "run")
    _rewritten("run", lambda record, arrays: None)
    assert run(["train", "--resume", "run", "-q"]) == 0


@pytest.mark.parametrize("kind", ARRAYS)
def test_damaged_arrays_are_refused(kind: str, damaged: Callable[..., str]) -> None:
    for key in ("initial_first", "sgd_cnn_dense", "adam_fc_first_m", "adam_fc_first_v"):

        def change(record: dict[str, Any], arrays: dict[str, np.ndarray], key: str = key) -> None:
            with np.errstate(all="ignore"):
                made = ARRAYS[kind](arrays.pop(key))
            if made is not None:
                arrays[key] = made

        err = damaged(lambda change=change: _rewritten("run", change))
        assert f"is damaged: {'the archive must have' if kind == 'gone' else key}" in err
        assert err.endswith("; begin a run anew with -o\n")


@pytest.mark.slow
def test_damaged_numbers_are_refused(run_of_both: Path, damaged: Callable[..., str]) -> None:
    """Each value of the record by others, and each name gone, or one more; each wherever it may be."""
    with np.load(run_of_both / "weights.npz") as arrays:
        whole = json.loads(arrays["record"].tobytes())
    chance = random.Random(0)
    seen = set()
    for place in list(places(whole))[1:]:
        # Of the rows of a list, those of its ends stand for all.
        if any(isinstance(key, int) and key > 1 for key in place[:-1]):
            continue
        for value in chance.sample(VALUES, 2):
            if type(value) is type(got := at(whole, place)) and value == got:
                continue
            err = damaged(
                lambda place=place, value=value: _rewritten("run", lambda r, _: put(r, place, value))
            )
            seen.add(place[0])
            assert "begin a run anew with -o" in err
    assert seen == set(whole)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("runs.sgd.batch", 10**9, "runs.sgd.batch must be 0 to 4, got 1000000000"),
        ("runs.sgd.epoch", -1, "runs.sgd.epoch must be 0 to 1000000000, got -1"),
        ("runs.sgd.epoch", 10**9, "runs.sgd.history must be a list of 1000000001, got [a list"),
        ("runs.sgd.history", [], "runs.sgd.history must be a list of 2, got []"),
        ("runs.sgd.history.0.1", "0.1", "runs.sgd.history[0][1] must be 0 to 1.79769e+308, got '0.1'"),
        ("runs.sgd.history.1.0", 0, "runs.sgd.history[1][0] must be 1, got 0"),
        ("runs.sgd.sums.cnn", 1.5, "runs.sgd.sums.cnn must be 0, got 1.5"),
        ("runs.adam.divergence", [], "runs.adam.divergence must be a list of 4, got []"),
        ("runs.adam.divergence.0.1", "dense", "runs.adam.divergence[0][1] must be first, got 'dense'"),
        (
            "runs.adam",
            None,
            "runs.adam must be an object of epoch, batch, sums, history, divergence, got None",
        ),
        ("runs.lbfgs", {}, "runs must have sgd, adam alone, got 'lbfgs'"),
        ("settings.filters", 10**9, "initial_first must be float32 of shape (12, 1000000000), got float32"),
        ("settings.filters", 2.0, "settings.filters must be 1 to 1000000000, got 2.0"),
        ("settings.dtype", "float64", "initial_first must be float64 of shape (12, 2), got float32 of"),
        ("settings.optimizer", "sgd", "runs must have sgd alone, got 'adam'"),
        ("settings.kernel_size", [40, 3], "initial_first must be float32 of shape (120, 2), got float32 of"),
        ("settings.padding", "valid", "initial_dense must be float32 of shape"),
        ("settings.lr", 0.5, "the record must have its own checksum, got"),
        ("image_shape", [28, 28], "image_shape must be a list of 3, got [28, 28]"),
        ("digest", 1, "the record must have its own checksum, got"),
        ("arrays.sgd_cnn_first", -1, "arrays.sgd_cnn_first must be 0 to 4294967295, got -1"),
        ("checksum", None, "the record must have its own checksum, got None"),
    ],
)
def test_damage_says_where(place: str, value: Any, message: str, damaged: Callable[..., str]) -> None:
    keys = tuple(int(key) if key.isdigit() else key for key in place.split("."))
    err = damaged(lambda: _rewritten("run", lambda record, _: put(record, keys, value)))
    assert f"convmat: run/weights.npz: is damaged: {message}" in err


def _archive(**members: bytes) -> None:
    with zipfile.ZipFile("run/weights.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _said(text: bytes) -> None:
    _archive(record=_npy(np.frombuffer(text, np.uint8)))


def _twice() -> None:
    with warnings.catch_warnings(), zipfile.ZipFile("run/weights.npz", "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("record.npy", archive.read("record.npy"))


def _added(name: str) -> None:
    with zipfile.ZipFile("run/weights.npz", "a") as archive:
        archive.writestr(name, _npy(np.zeros(3)))


def _cut(share: float) -> None:
    path = Path("run/weights.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _torn(share: float) -> None:
    content = bytearray(Path("run/weights.npz").read_bytes())
    start = int(len(content) * share)
    content[start : start + 30] = bytes(30)
    Path("run/weights.npz").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: _said(b"[" * 100_000), "must be JSON, got lists within lists without an end"),
        (lambda: _said(b"[" * 500 + b"]" * 500), "must be an object, got"),
        (lambda: _said(b'{"settings": ' * 100_000), "must be JSON, got lists within lists"),
        (lambda: _said(b'{"runs": ' + b"9" * 5000 + b"}"), "must have settings, got 'runs'"),
        (lambda: _said(b'{"runs": 1, "runs": 2}'), "must be JSON, got: a name twice"),
        (lambda: _said(b'{"runs": NaN}'), "must be JSON, got: NaN for a number"),
        (lambda: _said(b"\xff"), "must be JSON, got: 'utf-8' codec"),
        (lambda: _said(b""), "must be JSON, got: Expecting value"),
        (lambda: _said(b"5"), "must be an object, got 5"),
        (lambda: _archive(record=b"nonsense"), "record is unreadable: is not an .npy array"),
        (
            lambda: _archive(record=_npy(np.full(3, None))),
            "record is unreadable: holds pickled Python objects",
        ),
        (lambda: _archive(record=_npy(np.zeros((2, 2)))), "must be JSON, got"),
        (lambda: _archive(), "the archive must have record, got nothing"),
        (_twice, "the archive must have arrays, each once; got 'record.npy', 2 times"),
        (lambda: _added("more.npy"), "the archive must have record, initial_first"),
        (lambda: _added("more.txt"), "the archive must have arrays, each once; got 'more.txt', which is no"),
        (lambda: _cut(0), "must be an .npz archive, got another file or a damaged one"),
        (lambda: _cut(0.5), "must be an .npz archive, got another file or a damaged one"),
        (lambda: _torn(0.4), "is unreadable: is damaged: Bad CRC-32"),
        (lambda: _torn(0.985), "is damaged: "),
        (lambda: Path("run/weights.npz").unlink(), "cannot be read: No such file or directory"),
    ],
)
def test_damaged_archives_are_refused(
    change: Callable[[], object], message: str, damaged: Callable[..., str]
) -> None:
    assert message in damaged(change)


def test_a_zip_bomb_is_not_unpacked(damaged: Callable[..., str]) -> None:
    """1 GB of zeros that are called weights, in 1 MB; and shapes that only lie."""

    def bomb(shape: tuple[int, int], kind: int) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile("run/weights.npz") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members.pop("sgd_cnn_dense.npy")
        with zipfile.ZipFile("run/weights.npz", "w", kind) as archive:
            for name, content in members.items():
                archive.writestr(name, content, zipfile.ZIP_STORED)
            with archive.open("sgd_cnn_dense.npy", "w", force_zip64=True) as member:
                member.write(header.getvalue())
                for _ in range(64 if kind == zipfile.ZIP_DEFLATED else 1):
                    member.write(bytes(1 << 20))

    tracemalloc.start()
    try:
        err = damaged(lambda: bomb((1 << 14, 1 << 10), zipfile.ZIP_DEFLATED))
        assert "sgd_cnn_dense must be stored as it is, got compressed bytes" in err
        tracemalloc.reset_peak()
        err = damaged(lambda: bomb((1 << 30, 1 << 10), zipfile.ZIP_STORED))
        assert "sgd_cnn_dense must be float32 of shape (12, 64), got float32 of shape (1073741824" in err
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_damage_by_bytes_is_refused_or_harmless(run_of_both: Path) -> None:
    """Bytes anywhere in the file: in numbers, names and headers, and in the archive's directory."""

    def read(name: str) -> tuple[Any, dict[str, bytes]]:
        kept = RecordFile(name, RECORD, lambda r: array_kinds(Settings(**r["settings"]), r["image_shape"]))
        return kept.record, {key: kept.array(key).tobytes() for key in archive_names(name) if key != "record"}

    whole, right = (run_of_both / "weights.npz").read_bytes(), read(str(run_of_both / "weights.npz"))
    chance, refused = random.Random(1), 0
    for number in range(100):
        content = bytearray(whole)
        start = chance.randrange(len(whole)) if number % 2 else len(whole) - chance.randrange(1, 1500)
        for _ in range(chance.choice((1, 8))):
            content[(start + chance.randrange(16)) % len(whole)] ^= 1 << chance.randrange(8)
        Path("x.npz").write_bytes(content)
        try:
            assert read("x.npz") == right
        except (Mismatch, FileError):
            refused += 1
    assert refused > 60


# Folders


@pytest.mark.parametrize("last", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", CALLS)
def test_the_nth_call_of_a_save_fails(
    kind: str, last: bool, run_of_both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old run is as it was, or the new one is there whole; and nothing else."""
    if (kind, last) == ("replace", True):
        last = False  # a disk on which nothing can be renamed any more gives nothing back
    monkeypatch.setitem(sys.modules, "convmat.figures.curves", None)
    e = resume(str(run_of_both), {}, None)
    facts, _ = summary_facts(e, "x.npy")
    old = {
        "history.csv": b"old",
        "weights.npz": b"old",
        "loss_sgd.png": b"another run's",
        "mine.txt": b"kept",
    }

    def restore() -> None:
        shutil.rmtree("run", ignore_errors=True)
        Path("run").mkdir()
        for name, content in old.items():
            Path("run", name).write_bytes(content)

    restore()
    with together():
        save(e, "run", facts)
    new = contents("run")
    assert sorted(new) == ["divergence.csv", "history.csv", "mine.txt", "summary.json", "weights.npz"]
    faults = Faults(Path("run"), kind, last)
    fsync, fchmod, replace = os.fsync, os.fchmod, os.replace
    monkeypatch.setattr("builtins.open", faults.open)
    monkeypatch.setattr(os, "fsync", lambda fd: (faults.call("fsync", errno.EIO), fsync(fd)))
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: (faults.call("fchmod", errno.EPERM), fchmod(fd, mode)))
    monkeypatch.setattr(os, "replace", lambda a, b: (faults.call("replace", errno.EXDEV), replace(a, b)))
    for at_call in range(1, 400):
        restore()
        faults.arm(at_call)
        try:
            with together():
                save(e, "run", facts)
        except FileError as error:
            assert re.fullmatch(r"run/\w+\.\w+: cannot be written: .*", str(error))
            faults.arm(0)
            assert contents("run") == old
        else:
            break
    assert not faults.hit
    assert contents("run") == new
    assert at_call > {"read": 0, "fchmod": 0}.get(kind, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "new/a/b", "--lr", "1e30"], "convmat: --lr: 1e+30 makes the loss of sgd grow beyond all"),
        (["-o", ""], "convmat: '': is no folder's name; name a folder"),
        (["--resume", ""], "convmat: '': is no folder's name; name a folder"),
        (["-o", "file/x"], "convmat: file/x: cannot be written: Not a directory"),
        (["-o", "/proc/x"], "convmat: /proc/x: cannot be written: "),
        (["-o", "taken"], "convmat: taken/history.csv: is a folder; name a file"),
        (["-o", "new", "-k", "40", "-p", "valid"], "convmat: --k: the kernel spans 40 pixels"),
    ],
)
@pytest.mark.usefixtures("_no_figures")
def test_a_failed_run_leaves_no_folder(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_bytes(b"")
    Path("taken/history.csv").mkdir(parents=True)
    train(*options, status=2)
    assert capsys.readouterr().err.startswith(message)
    assert sorted(str(p) for p in Path().rglob("*")) == ["file", "taken", "taken/history.csv"]


# Numbers


@pytest.mark.parametrize(
    "option",
    ["epochs", "filters", "train-size", "val-size", "batch-size", "seed", "lr", "k", "stride", "padding"],
)
@pytest.mark.parametrize("number", ["1" + "0" * 20, "-1", "9" * 4000, "nan", "1e400"])
def test_numbers_out_of_range(option: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Named with the range, by the command line and the library."""
    if option == "lr" and number == "1" + "0" * 20:
        number = "1e39"
    train(f"--{option}", number, "-o", "new", status=2)
    err = capsys.readouterr().err
    whole = option != "lr" and not re.fullmatch(r"-?\d+", number)
    assert re.fullmatch(rf"convmat: (--{option}: must be|Invalid value for '--{option}').*\n", err)
    if not whole:
        assert re.search(r"must be .*(0|1) to 1\d{9,}|must be above 0, at most 1e\+38", err)
        assert len(err) < 250
        setting = {"k": "kernel_size"}.get(option, option.replace("-", "_"))
        with pytest.raises(SettingError, match=f"^{setting}: must be "):
            Settings(**{setting: float(number) if option == "lr" else int(number)})
    assert os.listdir() == []


@pytest.mark.parametrize("option", ["epochs", "seed"])
def test_numbers_that_python_refuses(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """More than 4,300 digits."""
    train(f"--{option}", "9" * 5000, status=2)
    assert re.search(rf"--{option}: must be . to \d+, got a number of 5000 digits\n", capsys.readouterr().err)
    with pytest.raises(SettingError, match=f"{option}: must be . to .*, got a number of 5000 digits"):
        Settings(**{option: 10**5000 - 1})  # type: ignore[arg-type]


def test_settings_take_numpys_numbers() -> None:
    s = Settings(kernel_size=np.array([4, 3]), filters=np.int64(6), lr=np.float32(0.5))  # type: ignore[arg-type]
    assert (s.kernel_size, s.filters, s.lr) == ((4, 3), 6, 0.5)
    assert json.loads(json.dumps(asdict(s)))["filters"] == 6
    with pytest.raises(
        SettingError, match="kernel_size: must be 1 to 1000000000, for both axes or for each, got"
    ):
        Settings(kernel_size=(1, 2, 3))
    with pytest.raises(SettingError, match="probe_divergence: must be one of False, True, got 1"):
        Settings(probe_divergence=1)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("lr", ["1e10", "1e38"])
@pytest.mark.parametrize("batch", mostly_slow(["16", "50"]))
@pytest.mark.usefixtures("_no_figures")
def test_a_rate_too_large_ends_in_one_line_or_in_numbers(
    optimizer: str, lr: str, batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never in a warning of Python's, nor in a record that could not go on."""
    options = ["--optimizer", optimizer, "--lr", lr, "--batch-size", batch, "--filters", "2", "-o", "new"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status = run(["train", *OPTIONS, *options, "--probe-divergence", "-q"])
    err = capsys.readouterr().err
    if status == 2:
        assert re.fullmatch(
            rf"convmat: --lr: [\d.e+]+ makes the (loss|weights) of {optimizer} grow beyond all numbers "
            r"in epoch \d, step \d; give a smaller one\n",
            err,
        )
        assert os.listdir() == []
    else:
        assert (status, err) == (0, "")
        assert run(["train", "--resume", "new", "--epochs", "4", "-q"]) in (0, 2)
    assert status == 2 or (optimizer, lr) != ("adam", "1e38")  # SGD may end where all units are dead


@pytest.mark.slow
@pytest.mark.parametrize("pixel", mostly_slow([0, 255]))
def test_images_of_one_colour_make_no_warning(pixel: int) -> None:
    """A loss of 0 has no logarithm."""
    pytest.importorskip("matplotlib")
    np.save("x.npy", np.full((75, 8, 8), pixel, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train("--data", "x.npy", "--epochs", "1", "--probe-divergence", "-o", "run", "-q")


# Memory, and work that can be stopped


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        (["--train-size", "3000000"], "--train-size"),
        (["--val-size", "1000000000"], "--val-size"),
        (["--filters", "999999999"], "--filters"),
        (["--train-size", "100000", "--batch-size", "100000", "--filters", "4000"], "--batch-size"),
    ],
)
def test_memory_is_asked_for_before_anything_is_drawn(
    options: list[str], subject: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("convmat.files.memory._available_bytes", lambda: 1 << 30)
    monkeypatch.setattr("convmat.cli.experiments.draw_digits", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr("convmat.cli.datasets.Dataset.read", lambda _: pytest.fail("read"))
    assert run(["train", *options]) == 2
    assert re.fullmatch(
        rf"convmat: {subject}: needs \d+ bytes of memory, 1073741824 are available; give a smaller one\n",
        capsys.readouterr().err,
    )
    np.save("x.npy", np.broadcast_to(np.uint8(0), (200_000, 8, 8)))
    assert run(["train", *OPTIONS, "--data", "x.npy", "--train-size", "190000", "--filters", "199999"]) == 2
    assert "--filters: needs" in capsys.readouterr().err


MEASURED = """
import sys
from convmat.cli import experiments, run, train
import convmat.report.training, convmat.report.tables, rich.table
asked = []
experiments.check_memory = lambda subject, nbytes, remedy: asked.append(nbytes)
def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
assert run(["train", *sys.argv[1:], "-q"]) == 0
print(asked[0], status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "options",
    [
        ("--filters", "1", "--batch-size", "2000", "--train-size", "7000", "--val-size", "900"),
        ("--filters", "24", "--train-size", "9", "--val-size", "9", "--optimizer", "adam"),
    ],
    ids=["images", "weights"],
)
def test_memory_taken_is_what_is_asked_for(options: tuple[str, ...]) -> None:
    """Within a fifth, and the library of linear algebra's own buffers."""
    np.save("x.npy", np.zeros((9000, 28, 28), np.uint8))
    command = [sys.executable, "-c", MEASURED, "--data", "x.npy", "--epochs", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    asked, taken = map(int, done.stdout.split())
    assert asked / 1.2 < taken < 1.2 * asked + (48 << 20)


class _Stop(Exception):
    pass


@pytest.mark.slow
def test_whatever_evaluation_is_stopped_nothing_is_lost() -> None:
    """A stop between any two blocks of work: saved there and gone on with, a run comes to the same bits."""
    changes: dict[str, Any] = {"epochs": 1, "val_size": 40, "filters": 2}
    whole, blocks = trained(**changes), 0
    for at_block in range(100):
        e, seen = experiment(**changes), 0

        def watch(work: Iterable[Any], total: int) -> Iterator[Any]:
            nonlocal seen
            work = list(work)
            assert len(work) == total
            for block in work:
                seen += 1
                if seen > at_block:  # noqa: B023
                    raise _Stop
                yield block

        e.watch = watch
        try:
            for _ in e.steps():
                pass
        except _Stop:
            gone_on = experiment(**changes)
            gone_on.resume(json.loads(json.dumps(e.record())), e.arrays().__getitem__)
            for _ in gone_on.steps():
                pass
            assert gone_on.record() == whole.record()
            blocks += 1
        else:
            break
    # Of two networks: before the first step 4 blocks of training images and 3 of validation, then these.
    assert blocks == 2 * (4 + 3 + 3)


def test_preparing_and_drawing_can_be_watched() -> None:
    seen = []

    def watch(work: Iterable[Any], total: int) -> Iterator[Any]:
        for number, block in enumerate(work, 1):
            yield block
            seen.append((number, total))

    images = draw_digits(100, 0, watch)
    assert seen == [(n, 7) for n in range(1, 8)]
    np.testing.assert_array_equal(images, draw_digits(100, 0))
    seen.clear()
    Experiment(Settings(**SMALL_SETTINGS), images, watch)
    assert seen == [(1, 1)] * 3
