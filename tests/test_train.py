"""train: the experiment's numbers, its folder, going on, stopping, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmat.cli import run
from convmat.errors import GeometryError, SettingError, ShapeError
from convmat.experiment.digits import draw_digits
from convmat.experiment.divergence import SMALL
from convmat.experiment.networks import Convolution, Dense
from convmat.experiment.run import Experiment
from convmat.experiment.settings import Settings
from convmat.files.archives import archive_names
from convmat.report.training import largest_differences

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


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed: drawing takes longer than all else here."""
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "convmat.report.curves", raising=False)


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


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
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


@pytest.mark.parametrize("step", [1, 3, 4, 6, 9])
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


@pytest.mark.usefixtures("_no_figures")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_done(signal_number: signal.Signals) -> None:
    command = [sys.executable, "-m", "convmat", "train", *OPTIONS, "--epochs", "4000", "-o", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        # The folder is made right before the training begins.
        while not Path("run").exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(1)
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
        (["-o", "few.npy"], "convmat: few.npy: cannot be written: File exists"),
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
    assert "run/weights.npz: is damaged: the record must have settings, got nothing; begin" in capsys.readouterr().err


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
