"""Golden vectors of a layer of one's own: every step, in every format, replaced whole, judged, mistrusted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import run
from convmat.files.sources import c_header
from convmat.quantization import Quantization
from convmat.roundings import ROUNDINGS, Scales
from tests.docs import ROOT
from tests.tools import mostly_slow

pytestmark = pytest.mark.usefixtures("folder")

C, CXX, MAKE = (shutil.which(name) for name in ("cc", "c++", "make"))
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion")
RANDOM = np.random.default_rng(20)
X = RANDOM.integers(-128, 128, (2, 6, 7, 4), np.int8)
KERNEL = RANDOM.integers(-127, 128, (6, 3, 3, 4), np.int8)
BIAS = RANDOM.integers(-20000, 20000, 6, np.int32)
SCALES = RANDOM.uniform(2e-4, 1e-3, 6)
LAYER = "x.npy --kernel kernel.npy --bias bias.npy --quantize q.toml --stride 2 --padding same"
Q: dict[str, Any] = {
    "input_zero_point": -5,
    "scale": SCALES.tolist(),
    "output_zero_point": 3,
    "activation": [3, 127],
    "rounding": "tflite",
}


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run probe; its JSON where it found anything out, else the line of trouble."""

    def call(line: str, status: int = 0) -> Any:
        capsys.readouterr()
        assert run(["probe", *line.split(), "--json"]) == status
        out, err = capsys.readouterr()
        if status == 2:
            assert (out, err.count("\n")) == ("", 1)
            return err
        assert err == ""
        return json.loads(out)

    return call


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors, to copy and change."""
    home = tmp_path_factory.mktemp("written")
    with contextlib.chdir(home):
        save()
        assert run(["probe", "write", "v", *LAYER.split(), "-q"]) == 0
    return home / "v"


def save(x: Any = X, kernel: Any = KERNEL, bias: Any = BIAS, **fields: Any) -> None:
    """The files that the lines of `LAYER` name."""
    for name, array in (("x", x), ("kernel", kernel), ("bias", bias)):
        np.save(name, array)
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in (Q | fields).items() if value is not None]
    Path("q.toml").write_text("".join(lines))


def load(name: str = "layer") -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in Path("v", name).glob("*.npy")}


# Every step.

PAIRS = {"scale": None, "multiplier": [2**30 + k for k in range(6)], "shift": [-9, -10, -8, -11, -9, -10]}
QUANTIZED: dict[str, dict[str, Any]] = {
    "tflite": {"weight_zero_point": [0, 1, -2, 3, 0, 7]},
    "pairs": {**PAIRS, "rounding": "floor", "dtype": "int16", "activation": None},
    "pairs by a scale": {**PAIRS, "rounding": "float32", "dtype": "uint8", "activation": [3, 250]},
    "exact": {"rounding": "half-even", "scale": 0.0009},
    "16x8": {"accumulator": "int64", "rounding": "tflite-16x8", "dtype": "int16"},
    "wraps": {"accumulator": "int32-wrapping", "rounding": "tflite-single", "weight_zero_point": 9},
}
WHERE = {
    "--stride 2 --padding same": {"stride": 2, "padding": "same"},
    "--groups 2 --flip --padding 1,2 --layout nchw --kernel-layout oihw": {
        "groups": 2,
        "flip": True,
        "padding": (1, 2),
    },
    "--padding-mode reflect --padding 1,0,2,1 --dilation 1,2 --order chw --kernel-layout hwio": {
        "padding_mode": "reflect",
        "padding": ((1, 0), (2, 1)),
        "dilation": (1, 2),
    },
}


@pytest.mark.parametrize("where", mostly_slow(WHERE))
@pytest.mark.parametrize("name", QUANTIZED)
def test_every_step_follows_from_the_one_before(name: str, where: str, probe: Any) -> None:
    steps, nchw = WHERE[where], "nchw" in where
    kernel = KERNEL[..., : 4 // steps.get("groups", 1)]
    layout = "oihw" if "oihw" in where else "hwio" if "hwio" in where else "ohwi"
    axes = {"ohwi": (0, 1, 2, 3), "oihw": (0, 3, 1, 2), "hwio": (1, 2, 3, 0)}[layout]
    bias = BIAS if name != "wraps" else BIAS + (2**31 - 60000)
    save(np.moveaxis(X, -1, 1) if nchw else X, kernel.transpose(axes), bias, **QUANTIZED[name])
    line = LAYER.replace("--stride 2 --padding same", where)
    said = probe(f"write v {line}")
    assert (said["exact"], said["dtype"], said["name"]) == (True, "int8", "layer")
    made = load()
    assert list(made) and {one["name"] for one in said["arrays"]} == set(made)
    fields = {key: value for key, value in (Q | QUANTIZED[name]).items() if value is not None}
    q = Quantization(**fields)
    images = ("x", "accumulators", "biased", "scaled", "unclamped", "y")
    arrays = {k: np.moveaxis(a, 1, -1) if nchw and k in images else a for k, a in made.items()}
    x, w = X.astype(np.int64), kernel.astype(np.int64)
    np.testing.assert_array_equal(arrays["x"], X)
    np.testing.assert_array_equal(made["kernel"].transpose(np.argsort(axes)), kernel)
    y = cm.convolve(X, kernel, bias=BIAS if name != "wraps" else bias, **steps, quantization=q)
    np.testing.assert_array_equal(arrays["y"], y)
    assert made["y"].dtype == (q.dtype or "int8")
    # Σ (x − zero) · (w − zero), of X_col and W_col; of groups, of what each holds.
    zeros = np.broadcast_to(q.weight_zero_point, 6)
    if steps.get("groups", 1) == 1:
        product = (made["x_col"].astype(np.int64) - q.input_zero_point) @ (made["w_col"] - zeros)
        np.testing.assert_array_equal(arrays["accumulators"].reshape(product.shape), product)
    less = w - zeros.reshape(6, 1, 1, 1)
    sums = cm.convolve(x - q.input_zero_point, less, **steps)
    np.testing.assert_array_equal(arrays["accumulators"], sums)
    biased = sums + bias.astype(np.int64)
    biased = biased.astype(np.int32) if name == "wraps" else biased
    np.testing.assert_array_equal(arrays["biased"], biased)
    wide = np.int64 if name == "16x8" else np.int32
    assert {made[key].dtype for key in ("bias", *images[1:3])} == {np.dtype(wide)}
    if "scale" in made:
        scales = Scales.of_reals(made["scale"])
        assert made["scale"].dtype == ("float32" if q.rounding == "float32" else "float64")
    else:
        scales = Scales.of_fixed(made["multiplier"], made["shift"])
    scaled = ROUNDINGS[q.canonical_rounding](biased.astype(np.int64), scales)
    np.testing.assert_array_equal(arrays["scaled"], scaled)
    np.testing.assert_array_equal(arrays["unclamped"], scaled + q.output_zero_point)
    low, high = q.activation or (np.iinfo(y.dtype).min, np.iinfo(y.dtype).max)
    np.testing.assert_array_equal(arrays["y"], np.clip(scaled + q.output_zero_point, low, high))
    assert probe("judge v v/layer/y.npy")["equal"]
    for stage, key in (("unroll", "x_col"), ("flatten-filters", "w_col")):
        assert probe(f"judge v v/layer/{key}.npy --stage {stage}")["equal"]


def test_the_padding_of_x_col_holds_the_zero_point(probe: Any) -> None:
    save(np.full_like(X, 100))
    probe(f"write v {LAYER}")
    assert set(np.unique(load()["x_col"])) == {-5, 100}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sums_of_floats_are_rounded_once(dtype: str, probe: Any) -> None:
    x, w = (
        RANDOM.standard_normal((1, 9, 8, 4)).astype(dtype),
        RANDOM.standard_normal((6, 3, 3, 4)).astype(dtype),
    )
    bias = RANDOM.standard_normal(6).astype(dtype)
    save(x, w, bias)
    line = "x.npy --kernel kernel.npy --bias bias.npy --padding same"
    said = probe(f"write v {line} --format c,bin")
    assert (said["exact"], json.loads(Path("v/probe.json").read_text())["exact"]) == (False, False)
    sums = cm.convolve(*(a.astype(np.float64) for a in (x, w)), padding="same", bias=bias.astype(np.float64))
    y = np.load("v/layer/y.npy")
    assert y.dtype == dtype
    if dtype != "float64":
        np.testing.assert_array_equal(y, sums.astype(dtype))
    np.save("mine", cm.convolve(x, w, padding="same", bias=bias))
    assert probe("judge v mine.npy")["equal"]
    assert probe("judge v v/layer/y.bin")["equal"]
    far = y.copy()
    far[0, 1, 2, 3] += 0.5
    np.save("mine", far)
    assert probe("judge v mine.npy --no-diagnose", 1)["cases"][0]["worst"] == [0, 1, 2, 3]
    # Another machine adds in another order: what its last bits are is no damage.
    np.save("v/layer/y", y if dtype == "float16" else np.nextafter(y, np.asarray(9, dtype)))
    assert probe("judge v v/layer/y.npy")["equal"]
    np.save("v/layer/y", far)
    assert "y.npy: is damaged: it is not what" in probe("judge v mine.npy", 2)


def test_layers_without_quantization(probe: Any) -> None:
    save()
    said = probe("write v x.npy --kernel kernel.npy --padding 1")
    assert (said["exact"], said["quantization"]) == (True, None)
    made = load()
    assert sorted(made) == sorted(["x", "kernel", "bias", "x_col", "w_col", "accumulators", "y"])
    assert (made["y"].dtype, made["bias"].any()) == ("int32", False)
    np.testing.assert_array_equal(made["y"], cm.convolve(X, KERNEL, padding=1))
    probe("write large x.npy --kernel kernel.npy --bias 3000000000,0,0,0,0,0")
    assert {np.load(f"large/layer/{key}.npy").dtype for key in ("bias", "y")} == {np.dtype(np.int64)}
    save(X.astype(np.float32), np.sign(KERNEL).astype(np.float32), np.arange(6, dtype=np.float32))
    assert probe("write whole x.npy --kernel kernel.npy --bias bias.npy")["exact"] is True
    save(X.astype(np.int32) * 2**20, KERNEL)
    probe("write wide x.npy --kernel kernel.npy")
    assert np.load("wide/layer/y.npy").dtype == "int64"


# Formats.


def test_all_formats_hold_the_same_numbers(probe: Any) -> None:
    save()
    said = probe(f"write v {LAYER} --format hex,bin,c --name conv1")
    assert said["formats"] == ["npy", "c", "hex", "bin"]
    header = Path("v/conv1.h").read_text()
    arrays = load("conv1")
    assert set(re.findall(r"\bconv1_(\w+)\[", header)) == set(arrays)
    for key, array in arrays.items():
        little = array.astype(array.dtype.newbyteorder("<"))
        assert Path(f"v/conv1/{key}.bin").read_bytes() == little.tobytes()
        lines = Path(f"v/conv1/{key}.hex").read_text().splitlines()[1:]
        assert b"".join(bytes.fromhex(line)[::-1] for line in lines) == little.tobytes()
        (numbers,) = re.findall(
            rf"static const {array.dtype}_t conv1_{key}\[{array.size}\] = {{(.*?)}};", header, re.S
        )
        assert [int(word) for word in numbers.replace(",", " ").split()] == array.ravel().tolist()
    macros = dict(re.findall(r"#define CONV1_(\w+) (\S+)", header))
    assert (macros["FILTERS"], macros["STRIDE_WIDTH"], macros["PAD_RIGHT"], macros["PAD_TOP"]) == (
        "6",
        "2",
        "1",
        "0",
    )
    assert (macros["INPUT_ZERO_POINT"], macros["OUTPUT_ZERO_POINT"]) == ("(-5)", "3")
    assert (macros["ACTIVATION_MIN"], macros["ACTIVATION_MAX"], macros["ROUNDING"]) == (
        "3",
        "127",
        '"tflite"',
    )
    assert probe("judge v v/conv1/y.bin --case conv1")["equal"]
    assert probe("judge v v/conv1/x_col.bin --stage unroll")["equal"]


EXTREMES = {
    kind: np.array([np.iinfo(kind).min, np.iinfo(kind).max, 1], kind)
    for kind in (*(f"int{n}" for n in (8, 16, 32, 64)), *(f"uint{n}" for n in (8, 16, 32, 64)))
} | {
    kind: np.array([np.finfo(kind).max, np.finfo(kind).smallest_subnormal, -np.pi, 1e-3, 0, -3, 1 / 3], kind)
    for kind in ("float16", "float32", "float64")
}


@pytest.mark.parametrize(
    "compiler, standard",
    [
        pytest.param(C, "c99", marks=pytest.mark.skipif(C is None, reason="there is no C compiler")),
        *(
            pytest.param(CXX, std, marks=pytest.mark.skipif(CXX is None, reason="there is no C++ compiler"))
            for std in ("c++98", "c++17")
        ),
    ],
)
def test_a_header_is_c_and_cxx_and_loses_no_bit(compiler: str, standard: str) -> None:
    arrays = {f"of_{kind}": array for kind, array in EXTREMES.items()}
    Path("all.h").write_text("\n".join(c_header("ALL_H", {"ALL_N": -3}, arrays)) + "\n")
    puts = "".join(f"    fwrite({name}, sizeof {name}, 1, stdout);\n" for name in arrays)
    twice = '#include "all.h"\n' * 2
    source = f"#include <stdio.h>\n{twice}int main(void)\n{{\n{puts}    return ALL_N != -3;\n}}\n"
    suffix = "c" if standard == "c99" else "cc"
    Path(f"own.{suffix}").write_text(source)
    subprocess.run([compiler, f"-std={standard}", *STRICT, f"own.{suffix}", "-o", "own"], check=True)
    done = subprocess.run(["./own"], capture_output=True, check=True)
    assert done.stdout == b"".join(array.tobytes() for array in arrays.values())


@pytest.mark.slow
@pytest.mark.skipif(None in (C, MAKE), reason="there is no C compiler, or no make")
def test_the_kernel_of_the_docs_passes_make_check(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "firmware", "firmware")

    def make(*goals: str) -> str:
        tools = (f"CONVMAT={sys.executable} -m convmat", f"PYTHON={sys.executable}", f"PYTHONPATH={ROOT}")
        done = subprocess.run(["make", "-s", *tools, *goals], cwd="firmware", capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert make("check") == "equal: 1 case\n"
    assert make("check-wrong") == (
        "different: 1 of 1 case, 0 in the padding, where the input's zero point belongs\n"
    )
    before = Path("firmware/vectors/probe.json").stat()
    os.utime("firmware/layer.toml")  # the vectors are written anew, in their place
    assert make("check") == "equal: 1 case\n"
    assert Path("firmware/vectors/probe.json").stat().st_ino != before.st_ino


# Replaced whole, or not at all.


def test_force_replaces_what_probe_write_made(probe: Any) -> None:
    save()
    probe(f"write v {LAYER} --format hex,bin,c --name old --force")
    assert probe(f"write v {LAYER}", 2) == "convmat: v: is there and not empty; name a new folder\n"
    os.chmod("v", 0o750)
    os.symlink("v", "link")
    probe(f"write link {LAYER} --force")
    assert sorted(os.listdir("v")) == ["layer", "probe.json"]
    assert (os.stat("v").st_mode & 0o777, os.path.islink("link")) == (0o750, True)
    probe("write v --k 2 --input-shape 4,4 --format c --force")
    probe("write v --k 3 --input-shape 4,4 --force")
    assert probe("judge v v/bias/y.npy")["equal"]
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.parametrize(
    "spoil, told",
    [
        (
            lambda: Path("v/mine.txt").write_text(""),
            "v: holds mine.txt, which probe write did not make, so it st",
        ),
        (
            lambda: Path("v/layer/mine.npy").write_text(""),
            "v: holds layer/mine.npy, which probe write did not m",
        ),
        (lambda: os.mkdir("v/mine"), "v: holds mine, which probe write did not make, so it stays; move that"),
        (lambda: os.symlink("..", "v/up"), "v: holds up, which probe write did not make"),
        (
            lambda: os.unlink("v/probe.json"),
            "v: holds no probe.json of a probe, so it stays; name another fold",
        ),
        (lambda: Path("v/probe.json").write_text('{"cases": [3]}'), "v: holds no probe.json of a probe"),
        (lambda: Path("v/probe.json").write_text('{"cases": [{"name": ".."}]}'), "v: holds layer, which"),
    ],
)
def test_force_leaves_what_is_somebody_elses(spoil: Callable[[], Any], told: str, probe: Any) -> None:
    save()
    probe(f"write v {LAYER}")
    spoil()
    before = sorted(Path("v").rglob("*"))
    assert told in probe(f"write v {LAYER} --force", 2)
    assert sorted(Path("v").rglob("*")) == before


def test_no_input_is_replaced(probe: Any) -> None:
    save()
    probe(f"write v {LAYER}")
    for line in (
        "v/layer/x.npy --kernel kernel.npy",
        "x.npy --kernel v/layer/kernel.npy",
        "x.npy --kernel kernel.npy --bias v/layer/bias.npy",
    ):
        told = r"v/layer/\w+.npy: is an input in v, which would be replaced; copy it elsewhere"
        assert re.search(told, probe(f"write v {line} --force", 2))
    assert len(load()) == 13


@pytest.mark.parametrize("kind, status", [(KeyboardInterrupt, 130), (OSError, 2)])
@pytest.mark.parametrize("at", ["layer.h", "place"])
def test_a_write_that_ends_early_leaves_the_old(
    kind: type[BaseException], status: int, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["probe", "write", "v", *LAYER.split(), "--format", "c", "--force", "-q"]
    save()
    assert run(line) == 0
    before = {path: path.read_bytes() for path in Path("v").rglob("*") if path.is_file()}
    replace, failed = os.replace, []

    def broken(source: str, target: str) -> None:
        new = os.path.basename(target) == ("v" if at == "place" else at)
        if new and not failed:
            failed.append(target)
            raise kind(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    save(X[:1])
    assert run(line) == status
    assert failed
    assert {path: path.read_bytes() for path in Path("v").rglob("*") if path.is_file()} == before
    assert sorted(os.listdir()) == ["bias.npy", "kernel.npy", "q.toml", "v", "x.npy"]


# Judging.

MISTAKES: dict[str, Callable[[], Any]] = {
    "padding-without-zero-point": lambda: cm.convolve(
        np.pad(X, [(0, 0), (0, 1), (1, 1), (0, 0)]), KERNEL, 2, bias=BIAS, quantization=Quantization(**Q)
    ),
    "scale-of-next-filter": lambda: whole(scale=np.roll(SCALES, -1)),
    "shift-one-too-small": lambda: whole(scale=SCALES / 2),
    "output-zero-point-ignored": lambda: whole(output_zero_point=0),
    "input-zero-point-negated": lambda: whole(input_zero_point=5),
    "activation-ignored": lambda: whole(activation=None),
    "flipped-left-right": lambda: whole(kernel=KERNEL[:, :, ::-1]),
}


def whole(kernel: Any = KERNEL, **fields: Any) -> Any:
    return cm.convolve(X, kernel, 2, "same", bias=BIAS, quantization=Quantization(**Q | fields))


@pytest.mark.parametrize("name", mostly_slow(MISTAKES, 4))
def test_mistakes_are_named(name: str, probe: Any) -> None:
    save()
    probe(f"write v {LAYER}")
    np.save("mine", MISTAKES[name]())
    found = probe("judge v mine.npy", 1)
    assert name in [key for one in found["diagnosis"] for key in one["mistakes"]]
    assert found["cases"][0]["definition_shape"] == [2, 3, 4, 6]


def test_another_rounding_is_told(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    save()
    probe(f"write v {LAYER}")
    sums = np.load("v/layer/biased.npy")
    floor = Quantization(**Q | {"rounding": "floor"}).apply(sums)
    np.save("mine", floor)
    (case,) = probe("judge v mine.npy --no-diagnose", 1)["cases"]
    assert case["equal_as"] == ["floor"]
    assert run(["probe", "judge", "v", "mine.npy", "--brief"]) == 1
    told = "different: 1 of 1 case; equal as floor; you asked for tflite\n"
    assert capsys.readouterr().out == told
    os.mkdir("folder")
    np.save("folder/layer", np.load("v/layer/y.npy"))
    assert probe("judge v folder")["equal"]
    np.save("mine", np.zeros((9, 9)))
    assert probe("judge v mine.npy --no-diagnose", 1)["cases"][0]["result_shape"] == [1, 9, 9, 1]
    Path("short.bin").write_bytes(b"1234")
    assert "short.bin: has 4 bytes, int8 of shape (2, 3, 4, 6) has 144;" in probe("judge v short.bin", 2)
    assert "--case 'integers' is not in v; give one of layer" in probe("judge v mine.npy --case integers", 2)


# What is refused.


@pytest.mark.parametrize(
    "line, told",
    [
        (f"{LAYER} --k 3", "--k goes without INPUT, which is the layer's own"),
        (f"{LAYER} --tile 2,2,2", "--tile goes without INPUT"),
        (f"{LAYER} --dtype int8", "--dtype goes without INPUT"),
        (f"{LAYER} --seed 1", "--seed goes without INPUT"),
        ("--k 3 --quantize q.toml", "--quantize goes with INPUT"),
        ("--k 3 --name conv1", "--name goes with INPUT"),
        ("", "Missing option '--k'; or give INPUT and --kernel, of a layer of your own"),
        ("x.npy", "Missing option '--kernel'"),
        (
            f"{LAYER} --name 3x3",
            "'3x3' is no name in C; give a letter, and then letters, digits and _, 64 at most",
        ),
        (f"{LAYER} --name ../v", "'../v' is no name in C"),
        (f"{LAYER} --format vhdl", "'vhdl' is none of npy, c, hex, bin"),
        ("float.npy --kernel kernel.npy --quantize q.toml", "takes integer inputs, kernels and bias"),
        ("nan.npy --kernel box:3 --depthwise", "nan.npy: holds NaN or infinity, which golden vectors do not"),
        (
            "complex.npy --kernel box:3 --depthwise",
            "complex.npy: is complex128; golden vectors are of integers",
        ),
        ("bool.npy --kernel kernel.npy", "bool.npy: is bool; golden vectors are of integers, or of floats"),
        ("none.npy --kernel kernel.npy", "none.npy: makes a layer whose x is empty"),
        (
            "huge.npy --kernel kernel.npy --padding 900",
            "golden vectors have at most 16777216; give fewer images",
        ),
        (
            "far.npy --kernel kernel.npy",
            "far.npy: has sums beyond float16; give smaller numbers, or a wid",
        ),
        ("x.npy --kernel kernel.npy --quantize few.toml", "scale: has 2 numbers for 6 filters"),
        ("x.npy --kernel kernel.npy --bias 1,2", "--bias: has shape (2,), 6 filters take (6,)"),
        ("x.npy --kernel kernel.npy --groups 4", "filters"),
    ],
)
def test_what_makes_no_vectors_is_refused(line: str, told: str, probe: Any) -> None:
    save()
    np.save("float", X.astype(float))
    np.save("nan", np.full((5, 5), np.nan))
    np.save("complex", np.full((5, 5), 1j))
    np.save("bool", X > 0)
    np.save("none", X[:0])
    np.save("huge", X)
    np.save("far", np.full((5, 5, 4), 60000, np.float16))
    Path("few.toml").write_text("scale = [0.5, 0.25]\n")
    before = sorted(Path().rglob("*"))
    assert told in probe(f"write v {line}", 2)
    assert sorted(Path().rglob("*")) == before


def edit(**change: Any) -> None:
    path = Path("v/probe.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def requantize(**change: Any) -> None:
    edit(quantization=json.loads(Path("v/probe.json").read_text())["quantization"] | change)


def changed(name: str) -> None:
    array = np.load(f"v/layer/{name}.npy")
    array.flat[3] += 1
    np.save(f"v/layer/{name}.npy", array)


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda: changed("x"), "is damaged: it is not what x.npy and kernel.npy give; write the probe again"),
        (lambda: changed("bias"), "is damaged: it is not what x.npy and kernel.npy give"),
        (lambda: changed("unclamped"), "v/layer/unclamped.npy: is damaged: it is not what"),
        (lambda: changed("multiplier"), "v/layer/multiplier.npy: is damaged: it is not what"),
        (lambda: os.unlink("v/layer/shift.npy"), "v/layer/shift.npy: cannot be read"),
        (
            lambda: np.save("v/layer/x.npy", X.astype(np.int16)),
            "v/layer/x.npy: is damaged: has dtype int16, exp",
        ),
        (lambda: np.save("v/layer/kernel.npy", KERNEL[:5]), "v/layer/kernel.npy: is damaged: has shape"),
        (lambda: edit(convmat_vectors=2), "probe.json: is damaged: convmat_vectors must be 1, got 2"),
        (
            lambda: edit(cases=[{"name": "../../x"}]),
            r"is damaged: cases\[0\].name must be a name in C, got '../..",
        ),
        (lambda: edit(cases=[]), "is damaged: cases must be a list of 1, got"),
        (lambda: edit(dtype="object"), "is damaged: dtype must be one of int8, .*, got 'object'"),
        (lambda: edit(dtype="float32"), "x.npy: is damaged: has dtype int8, expected float32"),
        (lambda: edit(exact=None), "is damaged: exact must be one of False, True, got None"),
        (lambda: edit(filters=10**9), "is damaged: filters must be 1 to 16777216"),
        (lambda: edit(filters=10**7), "is damaged: input: makes W_col of 360000000 elements"),
        (lambda: edit(input_shape=[2, 5000, 5000, 4]), "is damaged: input: makes x of 200000000 elements"),
        (lambda: edit(stride=[1, 2]), r"is damaged: pads must be \[\[1, 1\], \[1, 1\]\], got"),
        (lambda: edit(more=1), "is damaged: the record must have .* alone, got 'more'"),
        (
            lambda: edit(quantization=3),
            "is damaged: quantization must be None or an object of input_zero_point",
        ),
        (lambda: edit(quantization={"scale": 1}), "is damaged: quantization must be None or an object of"),
        (lambda: requantize(scale=[0.5]), "v/probe.json: is damaged: scale: has 1 numbers for 6 filters"),
        (lambda: requantize(scale="0.5"), "v/probe.json: is damaged: quantization: scale: got '0.5'"),
        (lambda: requantize(scale=[[0.5]] * 6), r"is damaged: quantization: scale: got \[0.5\]"),
        (lambda: requantize(input_zero_point=999), "is damaged: input_zero_point: got 999, which is no int8"),
        (lambda: requantize(input_zero_point=[1, 2]), "input_zero_point: got 2 numbers; give one, for all"),
        (lambda: requantize(activation=[5, 3]), r"is damaged: quantization: activation: got \(5, 3\)"),
        (lambda: requantize(rounding=["tflite"]), "is damaged: quantization: rounding: got"),
        (lambda: requantize(dtype="int64"), "is damaged: quantization: dtype: got 'int64'"),
        (lambda: requantize(rounding="floor"), r"v/layer/scale.npy: cannot be read"),
        (
            lambda: Path("v/probe.json").write_text("[]"),
            r"is damaged: the record must be an object, got \[\]",
        ),
    ],
)
def test_a_damaged_folder_is_trouble(damage: Callable[[], Any], told: str, written: Path, probe: Any) -> None:
    shutil.copytree(written, "v")
    shutil.copy("v/layer/y.npy", "mine.npy")
    damage()
    trouble = probe("judge v mine.npy", 2)
    assert re.search(told, trouble), trouble


@pytest.mark.slow
def test_the_record_has_a_limit(probe: Any) -> None:
    save(np.ones((1, 1, 1, 1), np.int8), np.ones((60000, 1, 1, 1), np.int8), scale=None)
    with Path("q.toml").open("a") as lines:
        lines.write('scale = "scales.npy"\n')
    np.save("scales", np.linspace(0.1, 0.9, 60000))
    told = probe("write v x.npy --kernel kernel.npy --quantize q.toml", 2)
    assert "v: has more than 1048576 bytes in its record; give fewer filters, or one scale for all" in told
    assert not os.path.exists("v")
