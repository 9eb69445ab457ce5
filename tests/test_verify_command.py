"""`convmat verify`: stages, two arrays, quantized results, and exit statuses as real shells see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import convmat as cm
from convmat.cli import run
from convmat.verification.quantization import requantize

SAMPLES = Path(__file__).parent.parent / "sample_images"
DIGIT, SCENE, STROKES, EDGES = (
    "sample_images/digit.png",
    "sample_images/scene.png",
    "sample_images/strokes_2x7x7x1.npy",
    "sample_images/edges_8x3x3x3.npy",
)
LAYER = [DIGIT, "--kernel", STROKES, "--stride", "7"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLES, tmp_path / "sample_images")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run verify with and without --json and with -q: the object, the tables; -q prints nothing."""

    def call(*args: str, status: int = 0) -> tuple[dict[str, Any], str]:
        assert run(["verify", *args]) == status
        text, err = capsys.readouterr()
        assert err == ""
        assert run(["verify", *args, "--json"]) == status
        found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
        assert found["equal"] == (status == 0)
        assert run(["verify", *args, "-q"]) == status
        assert capsys.readouterr() == ("", "")
        return found, text

    return call


def make(*args: str) -> None:
    assert run([*args, "-q"]) == 0


def changed(name: str, by: float = 1) -> str:
    """A file with its last element changed."""
    array = np.load(name)
    array.flat[-1] += by
    np.save("wrong.npy", array)
    return "wrong.npy"


# Your Y.


def test_all_that_is_told_of_a_difference(verify: Any) -> None:
    make("convolve", *LAYER, "-o", "y.npy")
    y = np.load("y.npy").astype("f8")
    place = tuple(int(i) for i in np.unravel_index(y.argmax(), y.shape))
    y[place] += 100
    y[0, 0, 0, 0] = np.nan
    np.save("mine.npy", y)
    found, text = verify(*LAYER, "--expected", "mine.npy", status=1)
    assert found["outside"] == 2
    assert found["outside_share"] == 2 / 32
    assert found["smallest_atol"] is None  # JSON has no infinity
    assert found["worst"] == [0, 0, 0, 0]
    assert found["worst_value"] is None
    assert {b["up_to"]: b["count"] for b in found["histogram"] if b["count"]} == {
        "0": 30,
        "more": 1,
        "NaN or infinity": 1,
    }
    assert "none: NaN or infinity differs" in text
    assert "2 of 32 (6.25 %)" in text
    assert re.search(r"NaN or infinity +│ 1 ", text)
    y[0, 0, 0, 0] = np.load("y.npy")[0, 0, 0, 0]
    np.save("mine.npy", y)
    found, text = verify(*LAYER, "--expected", "mine.npy", status=1)
    assert (found["worst"], found["smallest_atol"]) == (list(place), 100)
    assert found["ulps"] == 100 / np.spacing(float(found["worst_definition"]))
    assert "--atol 100" in text
    verify(*LAYER, "--expected", "mine.npy", "--atol", "100")
    verify(*LAYER, "--expected", "mine.npy", "--atol", "99", status=1)


def test_exactly(verify: Any) -> None:
    layer = [SCENE, "--kernel", EDGES, "-p", "same"]
    assert verify(*layer)[0]["exact"] is False
    assert verify(*layer, "--exact", status=1)[0]["exact"] is True


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_another_layout_of_yours(layout: str, verify: Any) -> None:
    layer = [SCENE, "--kernel", EDGES, "--layout", layout]
    make("convolve", *layer, "-o", "y.npy")
    verify(*layer, "--expected", "y.npy")
    np.save("y.npy", np.load("y.npy")[:, 1:])
    _, text = verify(*layer, "--expected", "y.npy", "--no-diagnose", status=1)
    assert f"read as {layout}" in text


def test_explain_shows_the_sum_of_the_worst_element(verify: Any) -> None:
    np.save("bias.npy", np.array([7, -9]))
    layer = [*LAYER, "--bias", "bias.npy", "--padding", "3"]
    make("convolve", *layer, "-o", "y.npy")
    y = np.load("y.npy")
    y[0, 1, 2, 1] -= 5
    np.save("mine.npy", y)
    found, text = verify(*layer, "--expected", "mine.npy", "--explain", "--no-diagnose", status=1)
    explained = found["explained"]
    assert (explained["filter"], explained["patch"], explained["bias"]) == (1, [[4, 10], [11, 17]], -9)
    terms = explained["terms"]
    assert len(terms) == 49
    assert sum(term["value"] * term["weight"] for term in terms) == terms[-1]["sum"]
    assert explained["sum"] == terms[-1]["sum"] - 9 == found["worst_definition"]
    assert "rows 4..10, columns 11..17 of image 0" in text
    assert "…" in text
    assert re.search(rf"bias +│ +│ +│ +│ -9 +│ {found['worst_definition']} ", text)
    assert found["diagnosis"] is None


def test_explain_tells_padding(verify: Any) -> None:
    np.save("x.npy", np.array([[1.0, 2.0, 4.0]]))
    np.save("k.npy", np.array([[1.0, 10.0, 100.0]]))
    np.save("mine.npy", np.array([[0.0, 421.0, 42.0]]))
    layer = ["x.npy", "--kernel", "k.npy", "--padding", "same", "--expected", "mine.npy"]
    found, text = verify(*layer, "--explain", "--no-diagnose", status=1)
    assert [term["pixel"] for term in found["explained"]["terms"]] == [None, [0, 0, 0, 0], [0, 0, 1, 0]]
    assert re.search(r"0, 0, 0 +│ padding +│ 0 +│ 1 +│ 0 +│ 0 ", text)
    found, text = verify(*layer, "--padding-mode", "replicate", "--explain", "--no-diagnose", status=1)
    assert "0, 0, 0 (padding)" in text


def test_explain_where_nothing_is_off(verify: Any) -> None:
    found, text = verify(*LAYER, "--explain")
    assert found["explained"] is None
    assert re.search(r"│ 0 +│ 32 +│ 100 %", text)  # the histogram


class Named(NamedTuple):
    """A diagnosis."""

    mistakes: tuple[str, ...]

    def __str__(self) -> str:
        return f"your output has {' and '.join(self.mistakes)}"


def test_the_diagnosis_is_told(verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for where something differs and someone reads; an array that does not fit goes as it is."""
    asked: list[dict[str, Any]] = []
    found = [Named(("flip",)), Named(("swap", "bias"))]

    def diagnose(x: Any, filters: Any, expected: Any, **others: Any) -> list[Named]:
        asked.append({"x": x, "expected": expected, **others})
        return found

    monkeypatch.setattr("convmat.verification.diagnosis.diagnose", diagnose)
    make("convolve", *LAYER, "-o", "y.npy")
    told, text = verify(*LAYER, "--expected", changed("y.npy"), "--atol", "0.5", status=1)
    assert told["diagnosis"] == [
        {"sentence": "your output has flip", "mistakes": ["flip"]},
        {"sentence": "your output has swap and bias", "mistakes": ["swap", "bias"]},
    ]
    assert re.search(r"diagnosis +│ your output has flip +│\n│ +│ your output has swap and bias", text)
    assert len(asked) == 2  # not with -q
    assert asked[0]["judged"] == {"exact": False, "atol": 0.5, "rtol": None, "requantize": None}
    assert (asked[0]["x"].shape, asked[0]["expected"].shape, asked[0]["stride"]) == (
        (1, 28, 28, 1),
        (1, 4, 4, 2),
        7,
    )
    found.clear()
    np.save("other.npy", np.load("y.npy")[0].transpose(2, 0, 1))
    told, text = verify(*LAYER, "--expected", "other.npy", status=1)
    assert told["diagnosis"] == []
    assert "no known mistake explains it" in text
    assert asked[-1]["expected"].shape == (2, 4, 4)
    count = len(asked)
    verify(*LAYER, "--expected", "y.npy")
    verify(*LAYER, "--expected", "wrong.npy", "--no-diagnose", status=1)
    assert len(asked) == count


# Stages.


@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_unroll(order: str, layout: str, verify: Any) -> None:
    np.save("x.npy", np.random.default_rng(2017).standard_normal((2, 5, 6, 3)))
    options = ["--k", "2,3", "--stride", "2", "--padding", "1", "--order", order, "--layout", layout]
    make("unroll", "x.npy", *options, "-o", "x_col.npy")
    make("unroll", "x.npy", *options, "--per-image", "-o", "images.npy")
    stage = ["x.npy", *options, "--stage", "unroll"]
    verify(*stage)
    for name in ("x_col.npy", "images.npy"):
        assert verify(*stage, "--expected", name)[0]["exact"] is True
    found, text = verify(*stage, "--expected", changed("x_col.npy", 1e-9), status=1)
    assert found["worst"] == [size - 1 for size in np.load("x_col.npy").shape]
    assert "worst element" in text
    other = {"hwc": "chw", "chw": "hwc"}[order]
    verify(*stage, "--order", other, "--expected", "x_col.npy", status=1)


def test_unroll_takes_the_size_of_the_layers_kernel(verify: Any) -> None:
    make("unroll", DIGIT, "--k", "7", "--stride", "7", "-o", "x_col.npy")
    verify(*LAYER, "--stage", "unroll", "--expected", "x_col.npy")


@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_flatten_filters(order: str, verify: Any) -> None:
    make("flatten-filters", EDGES, "--order", order, "-o", "w_col.npy")
    stage = ["--kernel", EDGES, "--stage", "flatten-filters", "--order", order]
    verify(*stage)
    verify(*stage, "--expected", "w_col.npy")
    verify(SCENE, *stage, "--expected", "w_col.npy")
    found, text = verify(*stage, "--expected", changed("w_col.npy"), status=1)
    assert found["worst"] == [26, 7]
    assert "row 26, column 7" in text


@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_fold(overlap: str, layout: str, verify: Any) -> None:
    x = np.random.default_rng(2017).standard_normal((2, 5, 6, 3)).astype("f4")
    np.save("x.npy", x)
    np.save("x_col.npy", cm.unroll(x, 3, padding=1))
    shape = "5,6,3" if layout == "nhwc" else "3,5,6"
    options = ["--input-shape", shape, "--k", "3", "-p", "1", "--overlap", overlap, "--layout", layout]
    make("fold", "x_col.npy", *options, "-o", "image.npy")
    stage = ["x_col.npy", *options, "--stage", "fold"]
    verify(*stage)
    found, _ = verify(*stage, "--expected", "image.npy")
    assert found["exact"] is False
    found, text = verify(*stage, "--expected", changed("image.npy", 1e-3), status=1)
    assert found["worst"] == [1, 4, 5, 2]
    assert "n 1, y 4, x 5, c 2" in text


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_matrix(layout: str, verify: Any) -> None:
    shape = "7,6,3" if layout == "nhwc" else "3,7,6"
    options = [
        "--input-shape",
        shape,
        "--kernel",
        EDGES,
        "--padding",
        "1",
        "--stride",
        "2",
        "--layout",
        layout,
    ]
    make("matrix", *options, "-o", "m.npz")
    make("matrix", *options, "--dense", "-o", "m.npy")
    stage = [*options, "--stage", "matrix"]
    verify(*stage)
    verify(*stage, "--expected", "m.npz")
    verify(*stage, "--expected", "m.npy")
    found, text = verify(*stage, "--expected", changed("m.npy"), status=1)
    assert found["worst"] == [size - 1 for size in np.load("m.npy").shape]
    assert "row " in text
    verify(*stage, "--padding-mode", "circular")
    verify(*stage, "--padding-mode", "circular", "--expected", "m.npz", status=1)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_matrices_of_others(form: str, verify: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    m = cm.layer_matrix(np.load(EDGES), (5, 5, 3)).toarray()
    sparse.save_npz("m.npz", sparse.coo_array(m).asformat(form))
    stage = ["--input-shape", "5,5,3", "--kernel", EDGES, "--stage", "matrix", "--expected", "m.npz"]
    verify(*stage)
    m[3, 4] += 1
    sparse.save_npz("m.npz", sparse.coo_array(m).asformat(form))
    assert verify(*stage, status=1)[0]["worst"] == [3, 4]


# Two arrays.


def test_two_arrays(verify: Any) -> None:
    a = np.arange(12.0).reshape(3, 4)
    np.save("a.npy", a)
    np.save("b.npy", a.astype("f4"))
    found, _ = verify("a.npy", "b.npy")
    assert (found["stage"], found["exact"]) == (None, True)
    found, text = verify("a.npy", changed("a.npy", 0.5), status=1)
    assert (found["worst"], found["smallest_atol"]) == ([2, 3], 0.5)
    assert "--atol 0.5" in text
    verify("a.npy", "wrong.npy", "--atol", "0.5")
    verify("a.npy", "wrong.npy", "--rtol", "0.05")
    verify("a.npy", "wrong.npy", "--rtol", "0.01", status=1)
    np.save("b.npy", a.T)
    assert "different shapes" in verify("a.npy", "b.npy", status=1)[1]
    np.save("complex.npy", a + 1j)
    assert verify("a.npy", "complex.npy", status=1)[0]["worst_definition"] == "1j"


# Quantized results.


@pytest.mark.parametrize("rounding", ["half-up", "half-even", "half-away", "gemmlowp"])
def test_quantized(rounding: str, verify: Any) -> None:
    make("convolve", *LAYER, "-o", "sums.npy")
    y = requantize(np.load("sums.npy"), 0.0037, -3, rounding, "int8")
    np.save("q.npy", y)
    stage = [*LAYER, "--requantize", f"0.0037,-3,{rounding}"]
    verify(*stage)
    found, text = verify(*stage, "--expected", "q.npy")
    assert found["requantize"] == {"scale": 0.0037, "zero_point": -3, "rounding": rounding, "dtype": "int8"}
    assert found["exact"] is True
    assert f"scale 0.0037, zero point -3, {rounding}, int8" in text
    y[0, 1, 1, 0] ^= 1
    np.save("q.npy", y)
    assert verify(*stage, "--expected", "q.npy", status=1)[0]["worst"] == [0, 1, 1, 0]
    np.save("q.npy", requantize(np.load("sums.npy"), 0.0037, 3, rounding, "uint8"))
    verify(*LAYER, "--requantize", f"0.0037,3,{rounding}", "--expected", "q.npy")
    verify(*LAYER, "--requantize", f"0.0037,3,{rounding},uint8", "--expected", "q.npy")


# Trouble.


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("verify --stage fold", "Missing argument 'INPUT'; name the image or array --stage is for"),
        ("verify --atol 1", "Missing argument 'INPUT'; name the image or array --atol is for"),
        ("verify a.npy a.npy --stride 2", "--stride is for a layer, whose --kernel is missing"),
        ("verify a.npy a.npy --expected a.npy", "Missing option '--kernel'"),
        ("verify a.npy a.npy a.npy", "Missing option '--kernel'"),
        ("verify - -", "standard input: is named twice"),
        ("verify a.npy a.npy --exact --atol 1", "--atol: got 1.0, and exact leaves no tolerance"),
        ("verify a.npy a.npy --atol -1", "--atol: got -1.0; give a finite number"),
        ("verify a.npy a.npy --rtol nan", "--rtol: got nan; give a finite number"),
        (f"verify a.npy {DIGIT}", "is not an .npy array"),
        (
            f"verify {DIGIT} --kernel sobel-x --order chw",
            "--order goes with --stage unroll or flatten-filters",
        ),
        (f"verify {DIGIT} --kernel sobel-x --k 3", "--k goes with --stage unroll or fold"),
        (f"verify {DIGIT} --k 3 --stage unroll --flip", "--flip goes with --stage convolve or matrix"),
        (f"verify {DIGIT} --stage unroll", "Give either --kernel or --k"),
        (f"verify {DIGIT} --stage unroll --k 3 --kernel sobel-x", "Give either --kernel or --k"),
        (f"verify {DIGIT} --stage matrix --kernel sobel-x --explain", "--explain goes with --stage convolve"),
        (f"verify {DIGIT} --stage flatten-filters", "Missing option '--kernel'"),
        ("verify --stage flatten-filters --kernel - --expected -", "standard input: is named twice"),
        (
            "verify a.npy --stage fold",
            "--stage fold takes one INPUT, which is X_col, and --k and --input-shape",
        ),
        ("verify a.npy --stage fold --k 3 --kernel sobel-x", "--kernel goes with --stage unroll or .*matrix"),
        ("verify a.npy --stage fold --k 3 --input-shape 5,5", "a.npy: has shape"),
        (
            f"verify {SCENE} --kernel box:3 --depthwise --stage matrix",
            "matrix: of .* elements that are judged",
        ),
        (
            "verify --input-shape 5,5 --kernel box:3 --stage matrix --expected bad.npz",
            "bad.npz: is no sparse matrix, it has a;",
        ),
        (
            "verify --input-shape 5,5 --kernel box:3 --stage matrix --expected damaged.npz",
            "damaged.npz: is a damaged sparse matrix",
        ),
        (f"verify {DIGIT} --kernel sobel-x --requantize 0.1", "'0.1' is no requantization; write scale"),
        (f"verify {DIGIT} --kernel sobel-x --requantize 0.1,2,up", "--requantize: got 'up'; expected one of"),
        (f"verify {DIGIT} --kernel sobel-x --requantize 0.1,200,half-up", "--requantize: the zero point 200"),
        (f"verify {DIGIT} --kernel sobel-x --requantize -1,0,half-up", "--requantize: the scale is -1.0"),
        (f"verify {DIGIT} --kernel sobel-x --requantize 1,0,half-up,i9", "--requantize: got 'i9'; expected"),
        (f"verify {DIGIT} --kernel box:3 --requantize 1,0,half-up", "--requantize: takes integer inputs"),
        (f"verify {DIGIT} --kernel huge.npy --requantize 1,0,half-up", "--requantize: an accumulator is "),
        (f"verify {DIGIT} --kernel sobel-x --expected {DIGIT}", "is not an .npy array"),
    ],
)
def test_trouble_is_one_line_and_status_2(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("a.npy", np.zeros((4, 4)))
    np.save("huge.npy", np.full((3, 3), 1 << 30))
    np.savez("bad.npz", a=np.zeros(3))
    np.savez(
        "damaged.npz",
        data=np.ones(1),
        indices=np.array([900]),
        indptr=np.array([0, 1] + [1] * 8),
        shape=np.array([9, 25]),
    )
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(f"convmat: .*({told})", err), err


# Exit statuses, as real shells see them.


def shell(script: str) -> tuple[int, str, str]:
    """Run a script in sh, where `verify` is the command: status, standard output, standard error."""
    package = Path(cm.__file__).parent.parent
    env = os.environ | {"PYTHONPATH": str(package), "PYTHON": sys.executable}
    script = f'convmat() {{ "$PYTHON" -m convmat "$@"; }}\n{script}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, env=env, timeout=60, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def _results() -> None:
    make("convolve", *LAYER, "-o", "right.npy")
    changed("right.npy")


LINE = f"convmat verify {' '.join(LAYER)}"


@pytest.mark.usefixtures("_results")
def test_and_and_or() -> None:
    script = f"""
    for mine in right.npy wrong.npy none.npy; do
        {LINE} --expected $mine -q --no-diagnose 2>/dev/null && echo equal || echo "different or trouble: $?"
    done
    if {LINE} --expected wrong.npy -q --no-diagnose; then echo bad; else echo different $?; fi
    """
    status, out, err = shell(script)
    assert (status, err) == (0, "")
    assert out == "equal\ndifferent or trouble: 1\ndifferent or trouble: 2\ndifferent 1\n"


@pytest.mark.usefixtures("_results")
def test_set_e() -> None:
    status, out, err = shell(
        f"set -e; {LINE} --expected right.npy -q; {LINE} --expected wrong.npy -q; echo no"
    )
    assert (status, out, err) == (1, "", "")
    status, out, err = shell(f"set -e; {LINE} --expected none.npy -q; echo no")
    assert (status, out) == (2, "")
    assert err.startswith("convmat: none.npy: ")


@pytest.mark.usefixtures("_results")
def test_standard_input() -> None:
    script = f"""
    {LINE} --expected - -q < right.npy && echo equal
    cat wrong.npy | {LINE} --expected - -q || echo different $?
    convmat verify right.npy - -q < wrong.npy || echo different $?
    cat right.npy | convmat verify - right.npy -q && echo equal
    head -c 200 right.npy | {LINE} --expected - -q 2>/dev/null || echo trouble $?
    {LINE} --expected - -q < /dev/null 2>/dev/null || echo trouble $?
    convmat unroll {DIGIT} -k 7 -s 7 -q -o - | {LINE} --stage unroll --expected - -q && echo equal
    """
    status, out, err = shell(script)
    assert (status, err) == (0, "")
    assert out.split("\n")[:-1] == [
        "equal",
        "different 1",
        "different 1",
        "equal",
        "trouble 2",
        "trouble 2",
        "equal",
    ]
