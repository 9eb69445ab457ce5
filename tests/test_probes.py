"""Probes: exact in any order, written whole or not at all, read by compilers, merciless to what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat as cm
from convmat import reference
from convmat.cli import run
from convmat.errors import DTypeError, GeometryError
from convmat.files.sources import hex_lines
from convmat.verification.operands import PROBE_DTYPES, whole_numbers
from convmat.verification.probes import ARRAYS, CASES, Inputs, Probe
from tests.strategies import Layer, layers
from tests.tools import mostly_slow

pytestmark = pytest.mark.usefixtures("folder")

COMPILER = shutil.which("cc")


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run probe; its JSON where it found anything out, else the line of trouble."""

    def call(line: str, status: int = 0) -> Any:
        capsys.readouterr()
        assert run(["probe", *line.split(), "--json"]) == status
        out, err = capsys.readouterr()
        if status == 2:
            assert out == ""
            assert err.count("\n") == 1
            return err
        assert err == ""
        return json.loads(out)

    return call


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe, to copy and change."""
    folder = tmp_path_factory.mktemp("written") / "p"
    assert run(["probe", "write", str(folder), "--k", "3", "--stride", "2", "-q"]) == 0
    return folder


def load(folder: str, case: str) -> dict[str, np.ndarray]:
    return {key: np.load(f"{folder}/{case}/{key}.npy") for key in ARRAYS}


# What a probe holds.


@pytest.mark.slow
@given(layers(least_batch=1), st.sampled_from(PROBE_DTYPES), st.sampled_from(["hwc", "chw"]))
def test_sums_are_exact_in_any_order(layer: Layer, dtype: str, order: str) -> None:
    geometry = cm.ConvGeometry(layer.shape, layer.kernel, **layer.where, groups=layer.groups)
    probe = Probe(geometry, layer.filter_shape[0], np.dtype(dtype), layer.flip, layer.padding_mode, order)
    options = layer.patch | {"groups": layer.groups, "flip": layer.flip}
    limit = 2.0 ** {"float16": 24, "float32": 24, "float64": 53}.get(dtype, 31)
    kind = float if dtype.startswith("float") else int
    names = []
    for name, inputs in probe.inputs(7):
        names.append(name)
        x, kernel, bias = inputs
        assert (x.shape, kernel.shape, bias.shape) == (layer.shape, layer.filter_shape, (len(kernel),))
        assert x.dtype == kernel.dtype == dtype
        (pixels, unit), (weights, other) = whole_numbers(x), whole_numbers(kernel)
        for k in range(len(kernel)):
            most = pixels.max() * weights[k].sum() + abs(float(bias[k])) / 2.0 ** (unit + other)
            assert most < limit or (
                name == "extremes" and kind is float and np.count_nonzero(weights[k]) == 1
            )
        assert (name == "bias") or not bias.any()
        found = probe.results(inputs)
        sums = reference.convolve(x.astype(kind), kernel.astype(kind), **options)
        np.testing.assert_array_equal(found["accumulators"], sums.astype(found["accumulators"].dtype))
        np.testing.assert_array_equal(found["y"], (sums + bias.astype(kind)).astype(bias.dtype))
        assert found["y"].dtype == bias.dtype == (dtype if kind is float else "int32")
        assert found["accumulators"].dtype == ("float32" if dtype == "float16" else bias.dtype)
        assert cm.verify(x, kernel, expected=found["y"], bias=bias, **options)
        if layer.groups == 1:
            product = found["x_col"].astype(kind) @ found["w_col"].astype(kind)
            np.testing.assert_array_equal(product, sums.reshape(product.shape))
        np.testing.assert_array_equal(found["x_col"], cm.unroll(x, layer.kernel, **layer.patch, order=order))
    assert names == list(CASES)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_hot_shows_one_output_of_each_filter(groups: int, flip: bool) -> None:
    geometry = cm.ConvGeometry((2, 7, 9, 4), 3, 2, "same", groups=groups)
    probe = Probe(geometry, 4, np.dtype("float32"), flip)
    inputs = dict(probe.inputs(1))["one-hot"]
    assert (inputs.x.sum(), inputs.kernel.sum(axis=(1, 2, 3)).tolist()) == (groups, [1] * 4)
    y = probe.results(inputs)["y"]
    assert y[0].sum() == 0  # the last image alone
    assert y.sum(axis=(0, 1, 2)).tolist() == [1] * 4
    places = {tuple(np.argwhere(y[..., k])[0]) for k in range(4 // groups)}
    assert len(places) == min(4 // groups, 4)  # each filter sends the pixel to another place


def test_coordinates_count_on_from_one() -> None:
    probe = Probe(cm.ConvGeometry((1, 8, 10, 3), 3, 2), 4, np.dtype("float32"))
    inputs = dict(probe.inputs(1))["coordinates"]
    np.testing.assert_array_equal(inputs.x.ravel(), np.arange(1, 241))
    np.testing.assert_array_equal(inputs.kernel.ravel(), np.arange(1, 109))
    small = dict(Probe(probe.geometry, 4, np.dtype("int8")).inputs(1))["coordinates"]
    assert small.x.max() == 127  # 240 have no room, and 127 has no factor in common with them
    assert len(np.unique(small.x[0, :, 0, 0])) == 8
    assert len(np.unique(small.x[0, 0])) == 30


def test_the_seed_makes_the_numbers() -> None:
    probe = Probe(cm.ConvGeometry((1, 8, 10, 3), 3, 2), 4, np.dtype("float32"))
    first, again, other = (dict(probe.inputs(seed))["integers"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x, again.x)
    assert (first.x != other.x).any()
    assert (dict(probe.inputs(1))["bias"].x != first.x).any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"dtype": np.dtype("int64")}, DTypeError, r"^dtype: got int64; give one of float32, "),
        ({"filters": 3}, GeometryError, r"^groups: "),
        ({"filters": 0}, GeometryError, r"^filters: must be at least 1, got 0"),
        ({"geometry": cm.ConvGeometry((0, 8, 8, 2), 3)}, ValueError, r"^input_shape: has no images"),
        (
            {"geometry": cm.ConvGeometry((1, 900, 900, 2), 3)},
            GeometryError,
            r"elements, a probe has at most 1048576; give a smaller one: .*, 8 × 10 pixels say$",
        ),
        (
            {"geometry": cm.ConvGeometry((1, 50, 50, 2), 32), "dtype": np.dtype("float16")},
            DTypeError,
            r"^dtype: float16 holds whole numbers to 2048, too few for 2048 products; give float32",
        ),
    ],
)
def test_what_makes_no_probe(change: dict[str, Any], error: type[Exception], message: str) -> None:
    usual = {"geometry": cm.ConvGeometry((1, 8, 8, 2), 3, groups=2), "filters": 4, "dtype": np.dtype("f4")}
    with pytest.raises(error, match=message):
        Probe(**usual | change)


def test_inputs_that_are_not_of_the_probe() -> None:
    probe = Probe(cm.ConvGeometry((1, 4, 5, 1), 3), 2, np.dtype("float32"))
    inputs = dict(probe.inputs(1))["bias"]
    for change, message in (
        ({"x": inputs.x + np.float32(1e-6)}, "x: and kernel have sums beyond 16777216"),
        ({"x": inputs.x * np.float32(1e-38)}, "x: and kernel have sums beyond 16777216"),
        ({"x": inputs.x * np.float32(np.nan)}, "x: holds numbers that are not finite"),
        ({"bias": inputs.bias * np.float32(np.inf)}, "bias: holds numbers that are not finite"),
        ({"bias": 0 * inputs.bias + np.float32(2.0**-30)}, "x: and kernel have sums beyond 16777216"),
        ({"kernel": inputs.kernel.astype("f8")}, "kernel: has dtype float64, expected float32"),
        ({"bias": inputs.bias[:1]}, r"bias: has shape \(1,\), expected \(2,\)"),
        ({"bias": inputs.bias + np.float32(2**24)}, "x: and kernel have sums beyond 16777216"),
    ):
        with pytest.raises((DTypeError, ValueError), match=message):
            probe.results(Inputs(**inputs._asdict() | change))


# Writing.

LINES = [
    "--k 3 --stride 2",
    "--k 3,2 --stride 2,1 --padding same --dilation 1,2 --groups 2 --input-shape 2,9,7,4 --filters 6",
    "--k 3 --padding 1,2,0,1 --padding-mode reflect --flip --layout nchw --kernel-layout oihw --dtype int8",
    "--k 5 --dims 1 --padding half --kernel-layout hwio --dtype float16",
    "--k 2 --dims 3 --input-shape 2,4,5,3 --layout nchw --dtype uint8 --seed 3",
    "--k 3 --depthwise --padding full --dtype int16",
    "--k 2 --padding same-lower --groups 3 --dtype float64",
    "--k 3 --dtype uint8 --kernel-dtype int8",
    "--k 2 --arithmetic tf32 --tile 4,3,6",
]


@pytest.mark.parametrize("line", LINES)
def test_a_probe_is_written_and_the_engine_passes_it(line: str, probe: Any) -> None:
    said = probe(f"write p {line} --format c,hex")
    assert said["formats"] == ["npy", "c", "hex"]
    manifest = json.loads(Path("p/probe.json").read_text())
    assert manifest["convmat_probe"] == 1
    for key in (
        "input_shape",
        "kernel_size",
        "stride",
        "padding",
        "pads",
        "padding_mode",
        "dilation",
        "groups",
    ):
        assert said[key] == manifest[key]
    assert [case["name"] for case in manifest["cases"]] == list(CASES)
    assert said["cases"] == manifest["cases"]
    for key in ("dtype", "kernel_dtype", "arithmetic", "tile"):
        assert said[key] == manifest[key]
    assert sorted(os.listdir("p")) == sorted([*CASES, "probe.h", "probe.json"])
    words = re.sub(
        r"--(k|input-shape|filters|dtype|kernel-dtype|arithmetic|tile|seed) \S+", "", line
    )  # which convolve has not
    os.mkdir("mine")
    for case in CASES:
        assert sorted(os.listdir(f"p/{case}")) == sorted(f"{k}.{e}" for k in ARRAYS for e in ("npy", "hex"))
        files = f"p/{case}/x.npy --kernel p/{case}/kernel.npy --bias p/{case}/bias.npy"
        assert run(["convolve", *files.split(), *words.split(), "-q", "-o", f"mine/{case}.npy"]) == 0
        assert probe(f"judge p mine/{case}.npy --case {case}")["equal"] is True
    found = probe("judge p mine")
    assert [case["name"] for case in found["cases"]] == list(CASES)


def test_formats_and_defaults(probe: Any) -> None:
    said = probe("write p --k 3")
    assert (said["formats"], said["dtype"], said["filters"], said["seed"]) == (["npy"], "float32", 4, 2017)
    assert said["input_shape"] == [2, 8, 10, 3]
    assert (said["kernel_dtype"], said["arithmetic"], said["tile"]) == ("float32", None, None)
    assert sorted(os.listdir("p")) == sorted([*CASES, "probe.json"])
    os.mkdir("empty")
    os.chmod("empty", 0o750)
    assert probe("write empty/ --k 3,5,1 --groups 3 --format hex")["filters"] == 6
    assert os.stat("empty").st_mode & 0o777 == 0o750
    assert "probe.h" not in os.listdir("empty")
    assert probe("judge empty empty/integers/y.npy")["equal"] is True


def test_hex_files_hold_the_same_bits(probe: Any) -> None:
    for dtype in PROBE_DTYPES:
        probe(f"write {dtype} --k 2 --dtype {dtype} --format hex")
        for key in ARRAYS:
            array = np.load(f"{dtype}/bias/{key}.npy")
            lines = Path(f"{dtype}/bias/{key}.hex").read_text().splitlines()
            assert lines[0].startswith(f"// bias/{key}: {' x '.join(map(str, array.shape))}, {array.dtype}, ")
            assert {len(line) for line in lines[1:]} == {2 * array.dtype.itemsize}
            assert b"".join(bytes.fromhex(line)[::-1] for line in lines[1:]) == array.tobytes()


def test_hex_is_twos_complement_or_ieee_bits() -> None:
    assert list(hex_lines("a", np.array([-1, 127, -128], "i1"))) == [
        "// a: 3, int8, 8 bits, two's complement, C order",
        "ff",
        "7f",
        "80",
    ]
    assert list(hex_lines("a", np.array([[-2]], "i4")))[1:] == ["fffffffe"]
    assert list(hex_lines("a", np.array([1.0, -2.0], "f4")))[1:] == ["3f800000", "c0000000"]
    assert list(hex_lines("a", np.array([1.0], "f2")))[1:] == ["3c00"]


CONVOLVE = """
#include <stdio.h>
#include "p/probe.h"

static int wrong(const TYPE *x, const WEIGHT *kernel, const SUM *bias, const SUM *y, const SUM *acc)
{
    int count = 0;
    for (int n = 0; n < PROBE_N; n++)
        for (int h = 0; h < PROBE_OUTPUT_HEIGHT; h++)
            for (int w = 0; w < PROBE_OUTPUT_WIDTH; w++)
                for (int k = 0; k < PROBE_FILTERS; k++, y++, acc++) {
                    SUM sum = 0;
                    for (int i = 0; i < PROBE_KERNEL_HEIGHT; i++)
                        for (int j = 0; j < PROBE_KERNEL_WIDTH; j++)
                            for (int c = 0; c < PROBE_CHANNELS; c++) {
                                int a = h * PROBE_STRIDE_HEIGHT + i * PROBE_DILATION_HEIGHT - PROBE_PAD_TOP;
                                int b = w * PROBE_STRIDE_WIDTH + j * PROBE_DILATION_WIDTH - PROBE_PAD_LEFT;
                                if (a < 0 || b < 0 || a >= PROBE_INPUT_HEIGHT || b >= PROBE_INPUT_WIDTH)
                                    continue;
                                sum += x[((n * PROBE_INPUT_HEIGHT + a) * PROBE_INPUT_WIDTH + b)
                                         * PROBE_CHANNELS + c]
                                     * kernel[((k * PROBE_KERNEL_HEIGHT + i) * PROBE_KERNEL_WIDTH + j)
                                              * PROBE_CHANNELS + c];
                            }
                    count += sum != *acc || sum + bias[k] != *y;
                }
    return count;
}

int main(void)
{
    int count = 0;
#define JUDGE(name) \\
    printf("%d ", wrong(name##_x, name##_kernel, name##_bias, name##_y, name##_accumulators)), count++;
    PROBE_EACH(JUDGE)
    return count != PROBE_CASES;
}
"""
STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    "dtype, types",
    [
        ("float32", ("float", "float", "float")),
        ("float32 --arithmetic bfloat16", ("float", "float", "float")),
        ("float64", ("double", "double", "double")),
        ("uint8 --kernel-dtype int8", ("uint8_t", "int8_t", "int32_t")),
    ],
)
def test_a_c_program_passes_the_probe(dtype: str, types: tuple[str, str, str], probe: Any) -> None:
    probe(f"write p --k 3,2 --stride 2,1 --padding same --dilation 1,2 --dtype {dtype} --format c")
    Path("own.c").write_text(CONVOLVE)
    defined = [f"-D{name}={kind}" for name, kind in zip(("TYPE", "WEIGHT", "SUM"), types, strict=True)]
    subprocess.run([str(COMPILER), *STRICT, *defined, "own.c", "-o", "own"], check=True)
    done = subprocess.run(["./own"], capture_output=True, check=True, text=True)
    assert done.stdout == "0 " * len(CASES)


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize("line", LINES)
def test_headers_compile_without_a_warning(line: str, probe: Any) -> None:
    probe(f"write p {line} --format c,npy")
    Path("own.c").write_text('#include "p/probe.h"\n#include "p/probe.h"\nint main(void) { return 0; }\n')
    subprocess.run([str(COMPILER), *STRICT, "-fsyntax-only", "own.c"], check=True)


@pytest.mark.parametrize(
    "line, told",
    [
        ("write full --k 3", "full: is there and not empty; name a new folder"),
        ("write file --k 3", "file: is there and no folder; name a new folder"),
        ("write link --k 3", "link: is a link to nothing; name a new folder"),
        ("write - --k 3", "-: is no folder's name; name a folder to make"),
        ("write none/p --k 3", "none/p: cannot be written: No such file or directory"),
        ("write p", "Missing option '--k'"),
        ("write p --k 9 --input-shape 5,5", "--k: the kernel spans 9 pixels of height"),
        ("write p --k 3 --input-shape 5", "--input-shape: has 1 axes"),
        ("write p --k 3 --groups 2 --filters 3", "--filters 3 cannot be shared by 2 groups"),
        ("write p --k 3 --groups 2 --input-shape 5,5,3", "groups"),
        ("write p --k 3 --depthwise --groups 2", "--depthwise means 4 groups here, got 2"),
        (
            "write p --k 3 --input-shape 2000,2000",
            "--input-shape: makes an X_col of 35928036 elements",
        ),
        (
            "write p --k 3 --input-shape 2000,2000",
            "a few pixels more than the kernel will show every mistake, 8 × 10 pixels say",
        ),
        (
            "write p --k 3 --filters 20000",
            "--filters: must be 1 to 10922 in a probe, got 20000: its Y and W_col have at most 1048576 elem",
        ),
        (
            "write p --k 3 --tile 64,64,64",
            "--tile: of 64 × 64 × 64 makes arrays of more than 1048576 elements",
        ),
        ("write p --k 3 --tile 64,64,64", "the most of a probe; give 32,64,64, say"),
        ("write p --k 3 --tile 4,4", "--tile: got (4, 4); give rows, columns, filters of one"),
        ("write p --k 3 --tile 4,4,2 --filters 4", "--tile: of 2 has no seam and partial tile in 4 filters"),
        (
            "write p --k 3 --tile 8,8,2 --input-shape 10,12,3",
            "--tile: of 8 has no seam and partial tile in 8 output rows; give a layer of more than 8",
        ),
        (
            "write p --k 3 --tile x",
            "'x' is no size; write a size of each spatial axis, then filters: 16,16,32",
        ),
        ("write p --k 3 --arithmetic fp8", "'fp8' is not one of 'tf32', 'bfloat16', 'float16', "),
        ("write p --k 3 --arithmetic tf32 --dtype int8", "--arithmetic: tf32 is of floats, not of int8"),
        (
            "write p --k 3 --kernel-dtype int8",
            "--kernel-dtype: got int8 for an input of float32; give the same",
        ),
        (
            "write p --k 17 --arithmetic bfloat16-accumulate --input-shape 20,20",
            "--arithmetic: bfloat16-accumulate holds whole numbers to 256, too few for 289 products",
        ),
        ("write p --k 30 --dtype float16", "--dtype: float16 holds whole numbers to 2048"),
        ("write p --k 3 --format c,vhdl", "'vhdl' is none of npy, c, hex"),
        ("write p --k 3 --kernel box:3", "--kernel goes with INPUT"),
        ("write p --k 3 --cases 3", "No such option '--cases'"),
        ("write p full --k 3", "--k goes without INPUT, which is the layer's own"),
        ("write --k 3", "Missing argument 'DIR'"),
        ("judge p", "Missing argument 'RESULT'"),
        ("wite p --k 3", "No such command 'wite' (did you mean 'write'?); see 'convmat probe --help'"),
    ],
)
def test_trouble_leaves_nothing(line: str, told: str, probe: Any) -> None:
    os.mkdir("full")
    np.save("full/x.npy", np.zeros((5, 5)))
    Path("file").write_text("here before")
    os.symlink("nowhere", "link")
    before = sorted(Path().rglob("*"))
    assert told in probe(line, 2)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("kind, status", [(KeyboardInterrupt, 130), (OSError, 2)])
@pytest.mark.parametrize("existing", mostly_slow([True, False]))
def test_a_write_that_ends_early_leaves_nothing(
    kind: type[BaseException], status: int, existing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one file in seven, from the first to the folder itself."""
    if existing:
        os.mkdir("p")
    replace, left = os.replace, 0

    def broken(*args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise kind(28, "No space left on device")
        replace(*args)

    monkeypatch.setattr(os, "replace", broken)
    files = len(ARRAYS) * len(CASES) + 2  # probe.json, and the folder
    assert files % 7 == 2
    line = ["probe", "write", "p", "--k", "2", "--input-shape", "3,3", "-q"]
    for written in range(0, files, 7):
        left = written
        assert run(line) == status
        assert sorted(os.listdir()) == ["p"] * existing
        assert not existing or os.listdir("p") == []
    left = files
    assert run(line) == 0


# Judging.


@pytest.mark.parametrize("dtype", PROBE_DTYPES)
def test_one_wrong_element_is_found_and_named(dtype: str, probe: Any) -> None:
    probe(f"write p --k 3 --stride 2 --dtype {dtype}")
    for case in CASES:
        right = np.load(f"p/{case}/y.npy")
        for place in ((0, 0, 0, 0), (0, 2, 3, 1), (0, 1, 2, 3)):
            y = right.copy()
            y[place] = np.nextafter(y[place], 0 * y[place] + 99) if y.dtype.kind == "f" else y[place] + 1
            np.save("mine.npy", y)
            found = probe(f"judge p mine.npy --case {case} --no-diagnose", 1)
            (line,) = found["cases"]
            assert (line["name"], line["outside"], line["worst"]) == (case, 1, list(place))
            assert (line["worst_value"], line["worst_definition"]) == (y[place], right[place])
            assert (found["different"], found["equal"]) == (1, False)


def test_every_case_finds_a_dropped_tap(probe: Any) -> None:
    """Of the probes but one-hot, which has a tap in each filter and no other."""
    probe("write p --k 3 --stride 2")
    for case in ("integers", "coordinates", "bias"):
        x, kernel, bias = (np.load(f"p/{case}/{key}.npy") for key in ("x", "kernel", "bias"))
        for tap in np.ndindex(3, 3):
            less = kernel.copy()
            less[(slice(None), *tap)] = 0
            np.save("mine.npy", cm.convolve(x, less, stride=2, bias=bias))
            probe(f"judge p mine.npy --case {case} --no-diagnose", 1)


def test_forms_of_a_result(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe("write p --k 3 --layout nchw --input-shape 2,3,6,7")
    y = np.load("p/integers/y.npy")
    assert y.shape == (2, 4, 4, 5)
    rows = np.moveaxis(y, 1, -1).reshape(-1, 4)
    for form in (y, y.astype(int), y.astype("f8"), np.asfortranarray(y), y.astype(complex), rows):
        np.save("mine.npy", form)
        assert probe("judge p mine.npy")["equal"] is True
    for form in (np.moveaxis(y, 1, -1), y[:1], rows[:, :3], y[0, 0, 0], np.array(3)):
        np.save("mine.npy", form)
        (line,) = probe("judge p mine.npy --no-diagnose", 1)["cases"]
        assert line["definition_shape"] == [2, 4, 5, 4]
    np.save("mine.npy", np.where(y == y.max(), np.nan, y))
    assert probe("judge p mine.npy --no-diagnose", 1)["cases"][0]["outside"] == np.sum(y == y.max())
    assert run(["probe", "judge", "p", "mine.npy", "-q"]) == 1
    assert capsys.readouterr() == ("", "")
    assert run(["probe", "judge", "p", "mine.npy", "--no-diagnose"]) == 1
    assert capsys.readouterr().out.startswith("different: 1 of 1 case")
    np.save("mine.npy", np.zeros(5))
    assert run(["probe", "judge", "p", "mine.npy", "--no-diagnose"]) == 1
    assert "different: shape " in capsys.readouterr().out


@pytest.mark.parametrize("dtype, wider", [("float16", "f4"), ("float16", "f8"), ("float32", "f8")])
def test_a_wider_result_may_be_rounded_or_not(dtype: str, wider: str, probe: Any) -> None:
    probe(f"write p --k 3 --stride 2 --dtype {dtype}")
    rounded = 0
    for case in CASES:
        x, kernel, bias = (np.load(f"p/{case}/{key}.npy").astype("f8") for key in ("x", "kernel", "bias"))
        y = np.load(f"p/{case}/y.npy").astype(wider)
        sums = cm.convolve(x, kernel, stride=2, bias=bias).astype(wider)
        rounded += int((sums != y).any())
        for right in (y, sums):
            np.save("mine.npy", right)
            assert probe(f"judge p mine.npy --case {case}")["equal"]
        np.save("mine.npy", np.nextafter(sums, np.asarray(np.inf, wider)))
        probe(f"judge p mine.npy --case {case} --no-diagnose", 1)
    assert rounded


TILES = {
    "--k 3 --tile 16,16,32": ((2, 42, 43, 3), (40, 41), 80),
    "--k 3 --stride 2 --padding same --tile 4,4,2 --groups 2": ((2, 20, 22, 4), (10, 11), 6),
    "--k 3 --dims 1 --tile 8,4": ((2, 22, 3), (20,), 10),
    "--k 3 --dims 3 --padding full --tile 2,3,4,5": ((2, 3, 5, 8, 3), (5, 7, 10), 12),
    "--k 3 --depthwise --tile 4,4,4": ((2, 12, 13, 10), (10, 11), 10),
    "--k 5 --padding half --tile 1,2,1": ((2, 5, 7, 3), (5, 7), 2),
    "--k 3 --tile 32,64,64": ((2, 50, 98, 3), (48, 96), 96),
    "--k 3 --tile 4": ((2, 12, 13, 3), (10, 11), 10),
    "--k 3 --groups 4 --tile 2,2,2": ((2, 7, 9, 8), (5, 7), 8),
}


@pytest.mark.parametrize("line", TILES)
def test_a_layer_in_tiles_has_seams_and_a_part(line: str, probe: Any) -> None:
    said = probe(f"write p {line}")
    shape, size, filters = TILES[line]
    assert (said["input_shape"], said["output_size"], said["filters"]) == (list(shape), list(size), filters)
    tile = said["tile"]
    assert probe("judge p p/one-hot/y.npy --case one-hot")["equal"]
    x, y = np.load("p/one-hot/x.npy"), np.load("p/one-hot/y.npy")
    assert x.sum() == 2 * said["groups"]
    last, first = (np.argwhere(y[image].any(axis=-1)) for image in (-1, 0))
    assert (last.max(axis=0) == np.array(size) - 1).all()  # the part at the end
    assert (first.max(axis=0) >= tile[:-1]).all()  # beyond the seam


@pytest.mark.parametrize("case", ["integers", "one-hot", "coordinates"])
def test_mistakes_at_seams_and_ends_of_tiles_are_seen(case: str) -> None:
    probe = Probe(cm.ConvGeometry((2, 12, 13, 3), 3), 10, np.dtype("float32"), tile=(4, 4, 4))
    inputs = dict(probe.inputs(1))[case]
    y = probe.results(inputs)["y"]
    for axis, tile in ((1, 4), (2, 4), (3, 4)):
        size = y.shape[axis]
        for source in (
            np.where(np.arange(size) < 2 * tile, np.arange(size), np.arange(size) - tile),  # the tile before
            np.where(np.arange(size) == tile, tile - 1, np.arange(size)),  # the pixel before the seam
            np.minimum(np.arange(size), 2 * tile - 1),  # no part
        ):
            wrong = np.take(y, source, axis)
            assert (wrong != y).any() or (case == "one-hot" and axis == 3), (axis, source)


def test_tiles_that_the_layer_does_not_fill() -> None:
    geometry = cm.ConvGeometry((2, 10, 11, 3), 3)
    for tile, filters, message in (
        (
            (8, 4, 3),
            4,
            "tile: of 8 has no seam and partial tile in 8 output rows; give a layer of more than 8,",
        ),
        (
            (3, 3, 3),
            4,
            "tile: of 3 has no seam and partial tile in 9 output columns; give a layer of more than",
        ),
        ((3, 4, 4), 4, "tile: of 4 has no seam and partial tile in 4 filters"),
        ((3, 4), 4, r"tile: got \(3, 4\); give rows, columns, filters of one, each at least 1"),
        ((3, 4, 0), 4, r"tile: got \(3, 4, 0\); give rows, columns, filters of one, each at least 1"),
    ):
        with pytest.raises(GeometryError, match=message):
            Probe(geometry, filters, np.dtype("float32"), tile=tile)


@pytest.mark.parametrize("stage, key", [("unroll", "x_col"), ("flatten-filters", "w_col"), ("convolve", "y")])
def test_stages(stage: str, key: str, probe: Any) -> None:
    probe("write p --k 3 --stride 2 --groups 2 --flip --layout nchw --kernel-layout oihw")
    for case in CASES:
        probe(f"judge p p/{case}/{key}.npy --case {case} --stage {stage}")
    array = np.load(f"p/coordinates/{key}.npy")
    array.flat[5] += 1
    np.save("mine.npy", array)
    probe(f"judge p mine.npy --case coordinates --stage {stage} --no-diagnose", 1)


def test_diagnosis_explains_every_case(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe("write p --k 3 --stride 2 --padding same")
    Path("mine").mkdir()
    for case in CASES:
        x, kernel, bias = (np.load(f"p/{case}/{key}.npy") for key in ("x", "kernel", "bias"))
        y = cm.convolve(x, kernel[:, :, ::-1], stride=2, padding="same", bias=bias)
        np.save(f"mine/{case}.npy", y)
    assert run(["probe", "judge", "p", "mine", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["diagnosis"]
    assert [one["mistakes"] for one in found] == [["flipped-left-right"]]
    np.save("mine/bias.npy", np.zeros_like(y))
    assert run(["probe", "judge", "p", "mine"]) == 1
    assert "no known mistake explains it" in capsys.readouterr().out
    assert run(["probe", "judge", "p", "mine", "--no-diagnose"]) == 1
    assert "diagnosis" not in capsys.readouterr().out


def edit(change: dict[str, Any]) -> None:
    path = Path("p/probe.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def number_of_digits(key: str, digits: int) -> None:
    """Python itself writes no such number."""
    path = Path("p/probe.json")
    path.write_text(re.sub(rf'"{key}": \d+', f'"{key}": {"9" * digits}', path.read_text()))


def older() -> None:
    """A record of before dtypes of kernels, arithmetics and tiles."""
    path = Path("p/probe.json")
    record = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: record[key] for key in record if key not in ("kernel_dtype", "arithmetic", "tile")})
    )


def add_one(name: str, amount: Any = 1) -> None:
    array = np.load(f"p/integers/{name}.npy")
    array.flat[3] += amount
    np.save(f"p/integers/{name}.npy", array)


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda: add_one("x"), r"p/integers/\w+.npy: is damaged: it is not what x.npy and kernel.npy give"),
        (lambda: add_one("x", 1e-3), "p/integers/x.npy: is damaged: and kernel have sums beyond"),
        (lambda: add_one("x", np.inf), "p/integers/x.npy: is damaged: holds numbers that are not finite"),
        (lambda: add_one("kernel"), "is damaged: it is not what"),
        (lambda: add_one("bias"), "p/integers/y.npy: is damaged: it is not what"),
        (lambda: add_one("x_col"), "p/integers/x_col.npy: is damaged"),
        (lambda: add_one("w_col"), "p/integers/w_col.npy: is damaged"),
        (lambda: add_one("accumulators"), "p/integers/accumulators.npy: is damaged"),
        (lambda: add_one("y"), "p/integers/y.npy: is damaged"),
        (lambda: np.save("p/integers/x.npy", np.zeros((2, 2))), "p/integers/x.npy: is damaged: has shape"),
        (
            lambda: np.save("p/integers/kernel.npy", np.zeros(2)),
            "p/integers/kernel.npy: is damaged: have 1 axes",
        ),
        (lambda: os.truncate("p/integers/y.npy", 200), "p/integers/y.npy: truncated"),
        (lambda: os.unlink("p/integers/y.npy"), "p/integers/y.npy: cannot be read"),
        (lambda: os.unlink("p/probe.json"), "p/probe.json: cannot be read: No such file"),
        (
            lambda: Path("p/probe.json").write_text("{"),
            "p/probe.json: is damaged: the record must be JSON, got: .*; write the probe again",
        ),
        (lambda: Path("p/probe.json").write_text("[" * 10**5), "p/probe.json: is damaged"),
        (lambda: Path("p/probe.json").write_bytes(b"\xff"), "p/probe.json: is damaged"),
        (lambda: Path("p/probe.json").write_text("[]"), "p/probe.json: is damaged"),
        (
            lambda: edit({"stride": [0, 1]}),
            r"p/probe.json: is damaged: stride\[0\] must be 1 to 2147483647, got 0;",
        ),
        (lambda: edit({"stride": [1, 1]}), r"is damaged: output_size must be \[6, 8\], got \[3, 4\];"),
        (lambda: edit({"filters": "4"}), r"p/probe.json: is damaged: filters must be 1 to 1048576, got '4';"),
        (lambda: edit({"filters": 0}), "p/probe.json: is damaged: filters must be 1 to 1048576, got 0;"),
        (
            lambda: edit({"dtype": "complex64"}),
            "p/probe.json: is damaged: dtype must be one of float32, .*, got 'complex64'",
        ),
        (lambda: edit({"dtype": "no such"}), "p/probe.json: is damaged"),
        (
            lambda: edit({"layout": "chwn"}),
            "p/probe.json: is damaged: layout must be one of nhwc, nchw, got 'chwn'",
        ),
        (lambda: edit({"cases": []}), "p/probe.json: is damaged"),
        (lambda: edit({"cases": [{"name": ".."}]}), "p/probe.json: is damaged"),
        (
            lambda: edit({"pads": None, "padding": None}),
            "p/probe.json: is damaged: pads must be a list of 2, ",
        ),
        (lambda: edit({"flip": 1}), "p/probe.json: is damaged: flip must be one of False, True, got 1"),
        (lambda: edit({"padding": ""}), "p/probe.json: is damaged: padding must be one of None, valid, .*''"),
        (
            lambda: edit({"pads": [[0, 0], [0, 1]]}),
            r"is damaged: pads must be \[\[0, 0\], \[0, 0\]\], got \[\[",
        ),
        (lambda: edit({"groups": 2}), "p/probe.json: is damaged: groups: 2 does not divide the input's 3 ch"),
        (lambda: edit({"groups": True}), "p/probe.json: is damaged: groups must be 1 to 1048576, got True"),
        (lambda: edit({"kernel_size": [3]}), r"is damaged: kernel_size must be a list of 2, got \[3\]"),
        (lambda: edit({"kernel_size": 3}), "is damaged: kernel_size must be a list of 2, got 3"),
        (lambda: edit({"stride": [2.0, 2]}), r"is damaged: stride\[0\] must be 1 to 2147483647, got 2\.0"),
        (
            lambda: edit({"dilation": [10**18, 1]}),
            r"is damaged: dilation\[0\] must be 1 to 2147483647, got 10",
        ),
        (
            lambda: edit({"input_shape": [10**9, 8, 10, 3]}),
            r"is damaged: input_shape\[0\] must be 1 to 10485",
        ),
        (
            lambda: edit({"input_shape": [1, 1] * 4}),
            "is damaged: input_shape must be a list of 3 or 4 or 5, g",
        ),
        (lambda: edit({"filters": 10**6}), "is damaged: filters: must be 1 to 38836 in a probe, got 1000000"),
        (lambda: edit({"seed": -1}), "is damaged: seed must be 0 to 18446744073709551615, got -1"),
        (lambda: edit({"terms": 28}), "is damaged: terms must be 27, got 28"),
        (lambda: edit({"exact_below": None}), "is damaged: exact_below must be 16777216, got None"),
        (lambda: edit({"convmat_probe": 2}), "is damaged: convmat_probe must be 1, got 2"),
        (
            lambda: edit({"kernel_dtype": "int8"}),
            "is damaged: kernel_dtype: got int8 for an input of float32; give the same",
        ),
        (
            lambda: edit({"arithmetic": "tf16"}),
            "is damaged: arithmetic must be one of None, tf32, .*, got 'tf1",
        ),
        (lambda: edit({"arithmetic": "tf32"}), "x.npy: is damaged: holds numbers that tf32 does not"),
        (lambda: edit({"tile": 3}), "is damaged: tile must be None or a size of each axis, got 3"),
        (
            lambda: edit({"tile": [1, 1, 0]}),
            "is damaged: tile must be None or a size of each axis, got .1, 1, 0",
        ),
        (lambda: edit({"tile": [1, 1]}), "is damaged: tile: got .1, 1.; give rows, columns, filters"),
        (
            lambda: edit({"tile": [9, 9, 9]}),
            "is damaged: tile: of 9 has no seam and partial tile in 3 output",
        ),
        (older, r"is damaged: the record must have kernel_dtype, got .*; write the probe again"),
        (lambda: edit({"more": 1}), "is damaged: the record must have .* alone, got 'more'"),
        (
            lambda: edit({"cases": [{"name": "integers"}] * len(CASES)}),
            r"is damaged: cases\[0\] must have about, got 'n",
        ),
        (lambda: number_of_digits("seed", 5000), "is damaged: seed must be .*, got a number of 5000 digits"),
    ],
)
def test_a_damaged_probe_is_trouble(damage: Callable[[], Any], told: str, written: Path, probe: Any) -> None:
    shutil.copytree(written, "p")
    shutil.copy("p/integers/y.npy", "mine.npy")
    damage()
    trouble = probe("judge p mine.npy", 2)
    assert re.search(told, trouble), trouble


@pytest.mark.parametrize(
    "line, told",
    [
        ("judge q mine.npy", "q: is no folder; name one that probe write made"),
        ("judge p none.npy", "none.npy: cannot be read"),
        ("judge p p/probe.json", "p/probe.json: is not an .npy array"),
        ("judge p mine", "mine/one-hot.npy: is not there; write your result of one-hot to it"),
        (
            "judge p mine.npy --case none",
            "--case 'none' is not in p; give one of integers, one-hot",
        ),
        ("judge p mine.npy --stride 2", "No such option '--stride'"),
        ("judge p mine.npy --stage fold", "'fold' is not one of 'convolve', 'unroll', 'flatten-filters'"),
        ("judge p mine.npy --stage unroll --diagnose", "--diagnose goes with --stage convolve"),
    ],
)
def test_trouble_while_judging(line: str, told: str, written: Path, probe: Any) -> None:
    shutil.copytree(written, "p")
    os.mkdir("mine")
    for name in ("mine.npy", "mine/integers.npy"):
        shutil.copy("p/integers/y.npy", name)
    assert told in probe(line, 2)
    assert probe("judge p mine --case integers")["equal"] is True


# One file, whose case it does not say.


@pytest.mark.parametrize("layout", mostly_slow(["nchw", "nhwc"]))
def test_a_file_is_judged_as_the_case_that_it_is(layout: str, probe: Any) -> None:
    probe(f"write p --k 3 --layout {layout}")
    for case in CASES:
        found = probe(f"judge p p/{case}/y.npy")
        assert [judged["name"] for judged in found["cases"]] == [case]
        assert found["not_judged"] == [other for other in CASES if other != case]
        y = np.load(f"p/{case}/y.npy")
        y[0, 1, 2, 3] += 1
        np.save("mine.npy", y)
        found = probe("judge p mine.npy --no-diagnose", 1)
        assert [(judged["name"], judged["outside"]) for judged in found["cases"]] == [(case, 1)]
        assert len(found["not_judged"]) == len(CASES) - 1
        (judged,) = probe(f"judge p p/{case}/y.npy --case {case}")["cases"]
        assert judged["equal"]


@pytest.mark.parametrize("stage, key", [("convolve", "y"), ("unroll", "x_col"), ("flatten-filters", "w_col")])
@pytest.mark.parametrize("size", ["8,10,3", "2,8,10,3"])
def test_an_array_of_all_cases_is_judged_as_all(stage: str, key: str, size: str, probe: Any) -> None:
    probe(f"write p --k 3 --input-shape {size}")
    stacked = np.stack([np.load(f"p/{case}/{key}.npy") for case in CASES])
    np.save("mine.npy", stacked)
    found = probe(f"judge p mine.npy --stage {stage}")
    assert [judged["name"] for judged in found["cases"]] == list(CASES)
    assert found["not_judged"] == []
    stacked[2].flat[5] += 1
    np.save("mine.npy", stacked)
    found = probe(f"judge p mine.npy --stage {stage} --no-diagnose", 1)
    assert [judged["equal"] for judged in found["cases"]] == [case != "coordinates" for case in CASES]


def test_it_is_said_what_was_not_judged(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe("write p --k 3")
    assert run(["probe", "judge", "p", "p/bias/y.npy"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"not judged +│ integers, one-hot, coordinates, wide-x, wide-kernel, extremes ", out)
    assert out.startswith("equal: 1 case\n")


def test_x_col_of_each_image(probe: Any) -> None:
    probe("write p --k 3 --input-shape 2,6,7,3")
    np.save("mine.npy", np.load("p/bias/x_col.npy").reshape(2, 20, 27))
    assert probe("judge p mine.npy --stage unroll")["cases"][0]["name"] == "bias"


def test_the_probe_of_the_issue_passes_its_own_y(probe: Any) -> None:
    """K = L_out, one axis, channels first: read by the layout that was said."""
    probe("write p --k 3 --dims 1 --layout nchw --input-shape 3,6")
    for case in CASES:
        y = np.load(f"p/{case}/y.npy")
        assert y.shape == (1, 4, 4)
        for form in (y, y[0], np.moveaxis(y, 1, -1), np.moveaxis(y, 1, -1)[0]):  # Y, or its rows
            np.save("mine.npy", form)
            probe(f"judge p mine.npy --case {case}")
        y[0, 1, 2] += 1
        np.save("mine.npy", y)
        probe(f"judge p mine.npy --case {case} --no-diagnose", 1)


@pytest.mark.parametrize(
    "line, told",
    [
        ("--k 3,3 --stride 1,1,1", "--k: got 2 numbers (3, 3) for 3 spatial axes"),
        ("--k 3,3,3 --stride 1,1", "--stride: got 2 numbers (1, 1) for 3 spatial axes"),
        ("--k 3,3 --dims 1", "--k: got 2 numbers (3, 3) for 1 spatial axis"),
        ("--k 0", "--k: must be at least 1 along every axis, got 0"),
        ("--k 3 --dilation 0", "--dilation: must be at least 1"),
        ("--k 3 --stride 0 --input-shape 9,9", "--stride: must be at least 1"),
    ],
)
def test_sizes_of_other_axes_are_no_internal_error(line: str, told: str, probe: Any) -> None:
    assert told in probe(f"write p {line}", 2)
    assert not Path("p").exists()
