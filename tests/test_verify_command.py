"""`convmat verify`: stages, two arrays, quantized results, and exit statuses as real shells see them."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convmat as cm
from convmat.cli import run
from convmat.files.npy import NpyInput
from convmat.layouts import from_batch
from convmat.verification.diagnosis import Diagnosis, Findings
from tests.strategies import Layer, layers
from tests.tools import DIGIT, EDGES, SCENE, STROKES, mostly_slow, requantize, shell

pytestmark = pytest.mark.usefixtures("samples")

LAYER = [DIGIT, "--kernel", STROKES, "--stride", "7"]


@pytest.fixture
def verdict(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command with and without --json and with -q: the object, the tables; -q prints nothing."""

    def call(*line: str, status: int = 0) -> tuple[dict[str, Any], str]:
        assert run([*line]) == status
        text, err = capsys.readouterr()
        assert err == ""
        assert run([*line, "--json"]) == status
        found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
        assert found["equal"] == (status == 0)
        assert run([*line, "-q"]) == status
        assert capsys.readouterr() == ("", "")
        return found, text

    return call


@pytest.fixture
def verify(verdict: Any) -> Any:
    return partial(verdict, "verify")


@pytest.fixture
def compare(verdict: Any) -> Any:
    return partial(verdict, "compare")


def make(*args: str) -> None:
    assert run([*args, "-q"]) == 0


def changed(name: str, by: float = 1) -> str:
    """A file with its last element changed."""
    array = np.load(name)
    array.flat[-1] += by
    np.save("wrong.npy", array)
    return "wrong.npy"


# Your Y.


@pytest.mark.slow
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
    assert re.search(rf"read as +│ {layout}: the file has ", text)


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
    assert "0, 2, 0 (padding)" in text


def test_explain_where_nothing_is_off(verify: Any) -> None:
    found, text = verify(*LAYER, "--explain")
    assert found["explained"] is None
    assert re.search(r"│ 0 +│ 32 +│ 100 %", text)  # the histogram


def test_the_diagnosis_is_told(verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for where something differs and someone reads, of the array in the layout that was said."""
    asked: list[dict[str, Any]] = []
    found = Findings((Diagnosis(("flip",)), Diagnosis(("swap", "bias"), exceptions=((0, 1, 2, 1),))), 3, 3)

    def diagnose(x: Any, filters: Any, expected: Any, **others: Any) -> Findings:
        asked.append({"x": x, "expected": expected, **others})
        return found

    monkeypatch.setattr("convmat.cli.stages.diagnosed", diagnose)
    make("convolve", *LAYER, "-o", "y.npy")
    told, text = verify(*LAYER, "--expected", changed("y.npy"), "--atol", "0.5", status=1)
    assert told["diagnosis_tried"] == told["diagnosis_known"] == 3
    sentence = "your output equals the correct one"
    assert told["diagnosis"] == [
        {"sentence": f"{sentence} flip", "mistakes": ["flip"], "exceptions": []},
        {
            "sentence": f"{sentence} swap and bias, except 1 element: (0, 1, 2, 1)",
            "mistakes": ["swap", "bias"],
            "exceptions": [[0, 1, 2, 1]],
        },
    ]
    assert text.startswith("different: 1 of 32 elements, flip\n")
    assert re.search(rf"diagnosis +│ {sentence} flip +│\n│ +│ {sentence} swap and bias, except 1", text)
    assert len(asked) == 2  # not with -q
    rules = {"exact": False, "atol": 0.5, "rtol": None, "quantization": None, "arithmetic": None}
    assert asked[0]["judged"] == rules | {"activation": "none"}
    assert (asked[0]["x"].shape, asked[0]["expected"].shape, asked[0]["stride"]) == (
        (1, 28, 28, 1),
        (1, 4, 4, 2),
        7,
    )
    found = Findings((), 5, 9)
    np.save("other.npy", np.load("y.npy")[0].transpose(2, 0, 1))
    told, text = verify(*LAYER, "--expected", "other.npy", status=1)
    assert told["diagnosis"] == []
    assert "no known mistake explains it" in text
    assert "tried 5 of 9 known mistakes, alone and in pairs" in text
    assert asked[-1]["expected"].shape == (1, 2, 4, 4)
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
def test_gradients(layout: str, verify: Any) -> None:
    """As PyTorch has them, and channels last; of a batch, in groups; each named where it is wrong."""
    rng = np.random.default_rng(2017)
    x, w = rng.standard_normal((2, 5, 6, 4)), rng.standard_normal((6, 3, 2, 2))
    window: dict[str, Any] = {"stride": (2, 1), "padding": 1, "groups": 2}
    y = cm.convolve(x, w, **window)
    dy = rng.standard_normal(y.shape)
    dx, dw = cm.convolve_transpose(dy, w, **window, input_shape=x.shape), np.zeros(w.shape)
    for at in np.ndindex(w.shape):  # Y is linear in each weight
        one = np.zeros(w.shape)
        one[at] = 1
        dw[at] = np.vdot(cm.convolve(x, one, **window), dy)
    kernel_layout = "oihw" if layout == "nchw" else "ohwi"
    arrays = {"x": x, "dy": dy, "w": w, "dx": dx, "dw": dw, "dw_mean": dw / 2}
    for name, array in arrays.items():
        np.save(f"{name}.npy", from_batch(array, layout))
    np.save("rows.npy", dy.reshape(-1, 6))
    np.save("db.npy", dy.sum((0, 1, 2)))
    np.save("db_mean.npy", dy.mean((0, 1, 2)))
    layer = ["--kernel", "w.npy", "--kernel-layout", kernel_layout, "--layout", layout, "--grad", "dy.npy"]
    layer += ["--stride", "2,1", "--padding", "1", "--groups", "2"]
    size = "4,5,6" if layout == "nchw" else "5,6,4"
    for stage in ("dx", "dw", "db"):
        verify("x.npy", *layer, "--stage", stage)
        found, _ = verify("x.npy", *layer, "--stage", stage, "--expected", f"{stage}.npy")
        assert found["holds"] is found["diagnosis"] is None
    if layout == "nhwc":
        verify("--input-shape", size, *layer, "--stage", "dx", "--expected", "dx.npy")
    else:
        verify("--input-shape", f"2,{size}", *layer, "--stage", "dx", "--expected", "dx.npy")
    verify("x.npy", *layer, "--stage", "dw", "--grad", "rows.npy", "--expected", "dw.npy")
    verify("--stage", "db", "--grad", "dy.npy", "--layout", layout, "--expected", "db.npy")
    for name, key in (("dw_mean", "averaged-over-the-batch"), ("db_mean", "averaged")):
        line = ["x.npy", *layer, "--stage", name[:2], "--expected", f"{name}.npy"]
        found, text = verify(*line, status=1)
        assert [one["mistakes"] for one in found["diagnosis"]] == [[key]]
        assert "divided by the number of" in text
        assert verify(*line, "--no-diagnose", status=1)[0]["diagnosis"] is None
    found, text = verify("x.npy", *layer, "--stage", "dx", "--expected", changed("dx.npy", 1e-3), status=1)
    assert (found["worst"], found["stage"]) == ([1, 4, 5, 3], "dx")
    assert "n 1, y 4, x 5, c 3" in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x.npy --kernel box:3 --stage dx", "Missing option '--grad'"),
        ("x.npy --kernel box:3 --stage dx --grad - --expected -", "standard input: is named twice"),
        ("x.npy --stage dx --grad dy.npy", "Missing option '--kernel'"),
        ("x.npy --stage dw --grad dy.npy", "Give either --kernel or --k"),
        ("x.npy --kernel box:3 --stage dw --grad x.npy", "--grad: has shape .9, 9., the layer's result has"),
        ("x.npy --kernel box:3 --stage dx --grad x.npy", "has .1, 7, 7, 1.; give dY of that shape"),
        ("x.npy --input-shape 9,9 --kernel box:3 --stage dx --grad dy.npy", "Give either INPUT or --input-s"),
        ("--stage db --grad dy.npy --stride 2", "--stride goes with INPUT; db alone"),
        ("--stage db --grad dy.npy --groups 2", "--groups goes with INPUT"),
        ("--stage db --grad nothing.npy", "nothing.npy: "),
        ("x.npy --kernel box:3 --grad dy.npy", "--grad goes with --stage dx or dw or db"),
        ("x.npy --kernel box:3 --stage dx --grad dy.npy --diagnose", "--diagnose goes with --expected"),
        ("x.npy --k 3 --stage dw --grad dy.npy --kernel-layout oihw", "goes with --kernel or --expected"),
    ],
)
def test_gradients_of_what_is_none(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.zeros((9, 9)))
    np.save("dy.npy", np.zeros((7, 7)))
    assert run(["verify", *line.split()]) == 2
    err = capsys.readouterr().err
    assert re.search(told, err), err


def test_what_an_element_of_x_col_holds(verify: Any) -> None:
    """Where no mistake is known: the pixel that is there, and the one that belongs there."""
    np.save("x.npy", np.arange(1, 31.0).reshape(5, 6))
    line = ["x.npy", "--k", "3", "--padding", "1", "--stage", "unroll"]
    make("unroll", *line[:5], "-o", "x_col.npy")
    x_col = np.load("x_col.npy")
    x_col[7] = x_col[7][[1, 0, 2, 3, 4, 5, 6, 7, 8]]
    x_col[7, 0] = 30
    np.save("wrong.npy", x_col)
    found, text = verify(*line, "--expected", "wrong.npy", status=1)
    assert found["holds"] == {
        "at": [7, 0],
        "value": 30.0,
        "pixels": 1,
        "pixel": [0, 4, 5, 0],
        "wanted": [0, 0, 0, 0],
    }
    assert "row 7, column 0 holds pixel (0, 4, 5, 0); it should hold pixel (0, 0, 0, 0)" in text
    x_col[7, 0] = 99
    np.save("wrong.npy", x_col)
    assert "holds 99.0, which no pixel is" in verify(*line, "--expected", "wrong.npy", status=1)[1]
    x_col[7] = np.load("x_col.npy")[7]
    x_col[0, 0] = 5
    np.save("wrong.npy", x_col)
    assert "it should hold a zero of the padding" in verify(*line, "--expected", "wrong.npy", status=1)[1]


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


def test_two_arrays(compare: Any) -> None:
    a = np.arange(12.0).reshape(3, 4)
    np.save("a.npy", a)
    np.save("b.npy", a.astype("f4"))
    found, _ = compare("a.npy", "b.npy")
    assert (found["stage"], found["exact"]) == (None, True)
    found, text = compare("a.npy", changed("a.npy", 0.5), status=1)
    assert (found["worst"], found["smallest_atol"]) == ([2, 3], 0.5)
    assert "--atol 0.5" in text
    compare("a.npy", "wrong.npy", "--atol", "0.5")
    compare("a.npy", "wrong.npy", "--rtol", "0.05")
    compare("a.npy", "wrong.npy", "--rtol", "0.01", status=1)
    np.save("b.npy", a.T)
    assert compare("a.npy", "b.npy", status=1)[1].startswith("different: shape ")
    np.save("complex.npy", a + 1j)
    assert compare("a.npy", "complex.npy", status=1)[0]["worst_definition"] == "1j"


# Quantized results.


@pytest.mark.slow
@pytest.mark.parametrize("rounding", mostly_slow(["half-up", "half-even", "half-away", "gemmlowp"]))
def test_quantized(rounding: str, verify: Any) -> None:
    make("convolve", *LAYER, "-o", "sums.npy")
    y = requantize(np.load("sums.npy"), 0.0037, -3, rounding, "int8")
    np.save("q.npy", y)
    stage = [*LAYER, "--requantize", f"0.0037,-3,{rounding}"]
    verify(*stage)
    found, text = verify(*stage, "--expected", "q.npy")
    applied = {"scale": 0.0037, "output_zero_point": -3, "rounding": rounding, "dtype": "int8"}
    assert applied.items() <= found["quantization"].items()
    assert found["exact"] is True
    assert f"scale 0.0037, output zero point -3, {rounding}, int8" in text
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
        ("verify a.npy a.npy", "Missing option '--kernel'; two arrays are compared by 'convmat compare A B'"),
        ("verify a.npy a.npy --expected a.npy", "Missing option '--kernel'"),
        ("verify a.npy a.npy a.npy", "Missing option '--kernel'; give an .npy file"),
        ("compare a.npy a.npy --stride 2", "No such option '--stride'"),
        ("compare a.npy", "Missing argument 'B'"),
        ("verify --write-probe p", "No such option '--write-probe'"),
        ("compare - -", "standard input: is named twice"),
        ("compare a.npy a.npy --exact --atol 1", "--atol: got 1.0, and exact leaves no tolerance"),
        ("compare a.npy a.npy --atol -1", "--atol: got -1.0; give a finite number"),
        ("compare a.npy a.npy --rtol nan", "--rtol: got nan; give a finite number"),
        (f"compare a.npy {DIGIT}", "is not an .npy array"),
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
        (
            f"verify {DIGIT} --kernel sobel-x --requantize 0.1,2,up",
            "rounding: got 'up'; expected one of",
        ),
        (
            f"verify {DIGIT} --kernel sobel-x --requantize 0.1,200,half-up",
            "--requantize: output_zero_point: got",
        ),
        (f"verify {DIGIT} --kernel sobel-x --requantize -1,0,half-up", "--requantize: scale: got -1.0; give"),
        (
            f"verify {DIGIT} --kernel sobel-x --requantize 1,0,half-up,i9",
            "--requantize: dtype: got 'i9';",
        ),
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


@pytest.fixture
def _results(samples: None) -> None:
    make("convolve", *LAYER, "-o", "right.npy")
    changed("right.npy")


LINE = f"convmat verify {' '.join(LAYER)}"


@pytest.mark.slow
@pytest.mark.usefixtures("_results")
def test_and_and_or() -> None:
    script = f"""
    for mine in right.npy wrong.npy none.npy; do
        {LINE} --expected $mine -q --no-diagnose 2>/dev/null && echo equal || echo "different or trouble: $?"
    done
    if {LINE} --expected wrong.npy -q --no-diagnose; then echo bad; else echo different $?; fi
    """
    status, out, err = shell(script, "sh")
    assert (status, err) == (0, "")
    assert out == "equal\ndifferent or trouble: 1\ndifferent or trouble: 2\ndifferent 1\n"


@pytest.mark.slow
@pytest.mark.usefixtures("_results")
def test_set_e() -> None:
    status, out, err = shell(
        f"set -e; {LINE} --expected right.npy -q; {LINE} --expected wrong.npy -q; echo no"
    )
    assert (status, out, err) == (1, "", "")
    status, out, err = shell(f"set -e; {LINE} --expected none.npy -q; echo no")
    assert (status, out) == (2, "")
    assert err.startswith("convmat: none.npy: ")


@pytest.mark.slow
@pytest.mark.usefixtures("_results")
def test_standard_input() -> None:
    script = f"""
    {LINE} --expected - -q < right.npy && echo equal
    cat wrong.npy | {LINE} --expected - -q || echo different $?
    convmat compare right.npy - -q < wrong.npy || echo different $?
    cat right.npy | convmat compare - right.npy -q && echo equal
    head -c 200 right.npy | {LINE} --expected - -q 2>/dev/null || echo trouble $?
    {LINE} --expected - -q < /dev/null 2>/dev/null || echo trouble $?
    convmat unroll {DIGIT} -k 7 -s 7 -q -o - | {LINE} --stage unroll --expected - -q && echo equal
    """
    status, out, err = shell(script, "sh")
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


# The layout that was said comes before what can be guessed.


@settings(max_examples=25)
@given(layers(least_batch=1), st.sampled_from(["nhwc", "nchw"]), st.data())
def test_a_right_result_is_equal_in_each_form_that_it_has(layer: Layer, layout: str, data: Any) -> None:
    """In both layouts, with N and without, as rows, and as rows of each image; of 1 to 3 axes."""
    rng = np.random.default_rng(2017)
    x, filters, options = layer.arrays(lambda shape: rng.integers(-4, 5, shape))
    axes, options["bias"] = x.ndim - 2, None
    if data.draw(st.booleans()):  # K = L_out, K = W_out: the shapes of which one could guess wrong
        count = layer.output_shape[-2]
        options["groups"] = layer.groups if count % layer.groups == 0 else 1
        depth = x.shape[-1] // options["groups"]
        filters = rng.integers(-4, 5, (count, *filters.shape[1:-1], depth))
    y = cm.convolve(x, filters, **options)
    np.save("x.npy", from_batch(x, layout))
    np.save("k.npy", filters)
    line = ["x.npy", "--kernel", "k.npy", "--dims", str(axes), "--layout", layout, "--no-diagnose", "-q"]
    line += words(options, axes)
    said = from_batch(y, layout)
    forms = [said, y.reshape(-1, y.shape[-1]), y.reshape(len(y), -1, y.shape[-1])]
    forms += [said[0]] if len(y) == 1 else []
    forms += [y[0, ..., 0]] if len(y) == y.shape[-1] == 1 else []
    for form in forms:
        np.save("y.npy", form)
        assert run(["verify", *line, "--expected", "y.npy"]) == 0, form.shape
        form = form.copy()
        form.flat[-1] += 1
        np.save("y.npy", form)
        assert run(["verify", *line, "--expected", "y.npy"]) == 1


def words(options: dict[str, Any], axes: int) -> list[str]:
    """A layer's options as the command line has them."""
    found = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(option)
        elif value is False or value is None:
            continue
        elif isinstance(value, tuple):
            flat = [n for part in value for n in (part if isinstance(part, tuple) else (part,))]
            found += [option, ",".join(map(str, flat))]
        else:
            found += [option, str(value)]
    return found


def test_it_is_told_which_form_was_read(verify: Any) -> None:
    np.save("x.npy", np.arange(18.0).reshape(3, 6))
    np.save("k.npy", np.arange(36.0).reshape(4, 3, 3) - 7)
    line = ["x.npy", "--kernel", "k.npy", "--dims", "1", "--layout", "nchw", "--no-diagnose"]
    y = cm.convolve(np.arange(18.0).reshape(3, 6).T[None], np.arange(36.0).reshape(4, 3, 3) - 7)[0]
    np.save("said.npy", y.T)
    np.save("rows.npy", y)
    found, text = verify(*line, "--expected", "said.npy")
    assert found["read_as"] == "nchw"
    assert "read as" not in text
    found, text = verify(*line, "--expected", "rows.npy")
    assert found["read_as"] == "rows"
    assert re.search(r"read as +│ rows of X_col · W_col; as nchw it is not equal", text)
    np.save("wrong.npy", y + 1)
    found, text = verify(*line, "--expected", "wrong.npy", status=1)
    assert found["read_as"] == "nchw"
    found, text = verify(*line)
    assert found["read_as"] is None


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_fold_and_matrix_in_the_layout_that_was_said(axes: int, layout: str, verify: Any) -> None:
    """As many channels and filters as there are pixels along each axis."""
    x = np.random.default_rng(2017).integers(0, 9, (1, *(3,) * axes, 3))
    filters = np.random.default_rng(7).integers(0, 9, (3, *(1,) * axes, 3))
    np.save("x_col.npy", cm.unroll(x, 1))
    np.save("k.npy", filters)
    shape = ",".join(map(str, from_batch(x, layout).shape[1:]))
    shared = ["--dims", str(axes), "--layout", layout, "--input-shape", shape]
    for form in (from_batch(x, layout), from_batch(x, layout)[0]):
        np.save("image.npy", form)
        verify("x_col.npy", "--stage", "fold", "--k", "1", *shared, "--expected", "image.npy")
    m = cm.layer_matrix(filters, x.shape, layout=layout).toarray()
    np.save("m.npy", m)
    verify("--stage", "matrix", "--kernel", "k.npy", *shared, "--expected", "m.npy")
    other = {"nhwc": "nchw", "nchw": "nhwc"}[layout]
    np.save("m.npy", cm.layer_matrix(filters, x.shape, layout=other).toarray())
    verify("--stage", "matrix", "--kernel", "k.npy", *shared, "--expected", "m.npy", status=1)


# An option that means nothing to what is done is refused.

STAGES = {
    "unroll": "sample_images/digit.png --k 3",
    "flatten-filters": "--kernel sample_images/edges_8x3x3x3.npy",
    "convolve": "sample_images/digit.png --kernel sobel-x",
    "fold": "x_col.npy --k 1 --input-shape 2,2",
    "matrix": "--input-shape 4,4 --kernel sobel-x",
    "dx": "--input-shape 4,4 --kernel sobel-x --grad dy.npy",
    "dw": "sample_images/digit.png --k 3 --grad digit_dy.npy",
    "db": "--grad dy.npy",
    "alone": "",
}
VALUES = {
    "--kernel": "box:3",
    "--kernel-layout": "oihw",
    "--bias": "no_such_file.npy",
    "--grad": "no_such_file.npy",
    "--groups": "1",
    "--depthwise": "",
    "--flip": "",
    "--stride": "1",
    "--padding": "0",
    "--padding-mode": "zeros",
    "--dilation": "1",
    "--dims": "2",
    "--layout": "nhwc",
    "--order": "hwc",
    "--overlap": "sum",
    "--frame": "0",
    "--alpha": "keep",
    "--quantize": "no_such_file.toml",
    "--requantize": "1,0,half-up",
    "--explain": "",
    "--diagnose": "",
    "--no-diagnose": "",
    "--seed": "1",
    "--cases": "0",
    "--exact": "",
    "--atol": "0",
    "--rtol": "0",
}
_PATCHES = {"--stride", "--padding", "--dilation", "--dims", "--layout"}
_JUDGED = {"--exact", "--atol", "--rtol"}
_TOLD = {*_JUDGED, "--no-diagnose"}
_LAYER = {"--padding-mode", "--kernel", "--kernel-layout", "--groups", "--depthwise", "--flip", *_PATCHES}
MEANT = {
    "unroll": {*_PATCHES, *_TOLD, "--padding-mode", "--order", "--frame", "--alpha"},
    "flatten-filters": {*_TOLD, "--kernel", "--kernel-layout", "--dims", "--order"},
    "convolve": {
        *_LAYER,
        *_JUDGED,
        "--bias",
        "--frame",
        "--alpha",
        "--quantize",
        "--requantize",
        "--explain",
        "--no-diagnose",
    },
    "fold": {*_PATCHES, *_TOLD, "--order", "--overlap"},
    "matrix": {*_LAYER, *_JUDGED},
    "dx": {*_LAYER, *_TOLD, "--grad"},
    "dw": {*_LAYER, *_TOLD, "--grad", "--frame", "--alpha"} - {"--kernel", "--kernel-layout"},
    "db": {*_TOLD, "--grad", "--dims", "--layout"},
    "alone": {"--seed", "--cases"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_options_that_mean_nothing_to_a_stage_are_refused(
    stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option that there is: an error of its own, or a verdict that it could have changed."""
    np.save("x_col.npy", np.ones((4, 1)))
    np.save("dy.npy", np.ones((1, 2, 2, 1)))
    np.save("digit_dy.npy", np.ones((1, 26, 26, 2)))
    named = [] if stage == "alone" else ["--stage", stage]
    monkeypatch.setattr("convmat.cli.stages.self_check", lambda *_, **__: [])
    for option, value in VALUES.items():
        capsys.readouterr()
        status = run(["verify", *STAGES[stage].split(), *named, option, *value.split()])
        err = capsys.readouterr().err
        if option in MEANT[stage]:
            refused = re.search("goes with|goes without|is for images", err)
            assert not refused, (stage, option, err)
            assert status == (2 if "no_such_file" in value else 0), (stage, option, err)
        else:
            assert status == 2, (stage, option)
            assert err.startswith("convmat: "), (stage, option)
            option = option.replace("--no-", "--")
            assert option in err, (stage, option, err)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{DIGIT} --kernel sobel-x --requantize 1,0,half-up --exact", "--exact goes without --requantize"),
        (f"{DIGIT} --kernel sobel-x --diagnose", "--diagnose goes with --expected"),
        (f"{DIGIT} --stage unroll --k 3 --kernel-layout oihw", "--kernel-layout goes with --kernel"),
        (f"{DIGIT} --stage unroll --kernel box:3 --bias b.npy", "--bias goes with --stage convolve"),
        (
            f"{DIGIT} --stage unroll --kernel box:3 --groups 5",
            "--groups goes with --stage convolve or matrix",
        ),
        (
            f"{DIGIT} --stage unroll --kernel box:3 --depthwise",
            "--depthwise goes with --stage convolve or mat",
        ),
        ("--stage matrix --input-shape 9,9 --kernel box:3 --bias b.npy", "--bias goes with --stage convolve"),
        (f"--stage flatten-filters --kernel {EDGES} --groups 2", "--groups goes with --stage convolve or"),
        (f"--stage flatten-filters --kernel {EDGES} --stride 2", "--stride goes with --stage unroll or"),
        (f"no.png --stage flatten-filters --kernel {EDGES}", "--stage flatten-filters takes no INPUT"),
        ("a.npy --kernel box:3 --alpha drop", "--alpha is for images, and there is none"),
        ("a.npy --stage unroll --k 3 --frame 0", "--frame is for images, and there is none"),
        ("--stage matrix --input-shape 9,9 --kernel box:3 --alpha keep", "--alpha is for images"),
    ],
)
def test_what_goes_with_what(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("a.npy", np.zeros((9, 9)))
    assert run(["verify", *line.split()]) == 2
    assert told in capsys.readouterr().err


def test_unroll_needs_no_more_of_a_kernel_than_its_size(verify: Any) -> None:
    make("unroll", SCENE, "--k", "3", "-o", "x_col.npy")
    verify(SCENE, "--kernel", "sobel-x", "--stage", "unroll", "--expected", "x_col.npy")


# Sparse matrices that are none.


@pytest.mark.parametrize(
    "change",
    [
        {"indices": np.array([2**64 - 1], "u8")},
        {"indices": np.array([25])},
        {"indices": np.array([-1])},
        {"indices": np.array([0, 1])},
        {"indices": np.array([0.0])},
        {"indices": np.array([2**63], "u8")},
        {"indptr": np.array([0, 2**64 - 1] + [1] * 8, "u8")},
        {"indptr": np.array([0, 2, 1] + [1] * 7, "u8")},
        {"data": np.ones(3), "indptr": np.array([0, 3] + [3] * 8)},
        {"data": np.array(["a"])},
        {"shape": np.array([9, -25])},
        {"shape": np.array([9, 25, 1])},
        {"shape": np.array([9, 2**63], "u8")},
        {"shape": np.array([9.0, 25.0])},
        {"indptr": np.array([0, 1] + [1] * 7)},
        {"indptr": np.array([0, 1] + [2] * 8)},
        {"indices": np.array([[24]])},
        {"data": np.ones((1, 1, 1))},
        {"format": np.array(b"bsr")},
        {"format": np.array(b"coo")},
        {"format": np.zeros(10**6)},
    ],
    ids=lambda change: ", ".join(f"{key} {str(value)[:30]}" for key, value in change.items()),
)
def test_a_damaged_sparse_matrix_is_refused(
    change: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {
        "data": np.ones(1),
        "indices": np.array([24]),
        "indptr": np.array([0, 1] + [1] * 8),
        "shape": np.array([9, 25]),
    }
    line = ["verify", "--input-shape", "5,5", "--kernel", "box:3", "--stage", "matrix", "--expected", "m.npz"]
    np.savez("m.npz", **arrays)
    assert run(line) == 1
    np.savez("m.npz", **arrays | change)
    capsys.readouterr()
    assert run(line) == 2
    assert re.match(
        r"convmat: m.npz(:\w+)?: (is a damaged sparse matrix|holds <U1 values)", capsys.readouterr().err
    )


@pytest.mark.parametrize("key", ["row", "col"])
def test_coordinates_beyond_int64_are_refused(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    index = {"row": np.array([8]), "col": np.array([24])}
    line = ["verify", "--input-shape", "5,5", "--kernel", "box:3", "--stage", "matrix", "--expected", "m.npz"]
    np.savez("m.npz", data=np.ones(1), shape=np.array([9, 25]), **index)
    assert run(line) == 1
    for wrong in (2**64 - 1, 2**63, 25):
        np.savez("m.npz", data=np.ones(1), shape=np.array([9, 25]), **index | {key: np.array([wrong], "u8")})
        assert run(line) == 2
    assert "damaged sparse matrix" in capsys.readouterr().err


def test_nothing_of_a_sparse_matrix_is_read_before_its_shape(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of arrays that are too long not one is."""
    read: list[str] = []
    real = NpyInput.read
    monkeypatch.setattr(NpyInput, "read", lambda self: read.append(self.name) or real(self))
    line = ["verify", "--input-shape", "5,5", "--kernel", "box:3", "--stage", "matrix", "--expected", "m.npz"]
    good = {"data": np.ones(1), "indices": np.array([24]), "indptr": np.array([0, 1] + [1] * 8)}
    for shape, change, told in (
        ([9, 10**9], {}, "of 9 × 1000000000 is more than the 16777216 elements that are judged"),
        ([9, 25], {"indices": np.zeros(10**6, int)}, "indices must be 1 whole numbers, got int64 of shape"),
        ([9, 25], {"indptr": np.zeros(10**6, int)}, "indptr must be 10 whole numbers, got int64 of shape"),
    ):
        np.savez_compressed("m.npz", shape=np.array(shape), **good | change)
        assert run(line) == 2
        assert told in capsys.readouterr().err
        assert read == ["m.npz:shape"]
        read.clear()


@pytest.mark.parametrize("form", [b"csr", b"csc", b"coo", "csr", None])
def test_entries_at_one_place_are_added(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As in SciPy, whatever the format is written as."""
    line = ["verify", "--input-shape", "3,3", "--kernel", "box:3", "--stage", "matrix", "--expected", "m.npz"]
    twice = np.repeat(np.arange(9), 2)
    arrays: dict[str, Any] = {"data": np.full(18, 1 / 18), "shape": np.array([1, 9])}
    if form == b"coo":
        arrays |= {"row": np.zeros(18, np.uint8), "col": twice}
    elif form == b"csc":
        arrays |= {"indices": np.zeros(18, np.uint64), "indptr": np.arange(0, 20, 2)}
    else:
        arrays |= {"indices": twice, "indptr": np.array([0, 18], np.int16)}
    np.savez("m.npz", **arrays, **{} if form is None else {"format": np.array(form)})
    assert run(line) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda y, turned: y, "equal: 48 elements, exactly"),
        (lambda y, turned: turned, r"different: \d+ of 48 elements, the filter flipped left-right"),
        (
            lambda y, turned: turned[:, 1:],
            "different: shape 1 × 3 × 4 × 3, expected 1 × 4 × 4 × 3.+",
        ),
        (lambda y, turned: y + np.arange(48).reshape(y.shape) % 7, r"different: \d+ of 48 elements"),
        (lambda y, turned: y[..., 0], "different: shape 1 × 1 × 4 × 4, expected 1 × 4 × 4 × 3"),
    ],
)
def test_the_first_line_is_the_verdict_which_brief_prints_alone(
    wrong: Any, line: str, verify: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    x, w = random.integers(-99, 100, (1, 6, 6, 2)), random.integers(-9, 10, (3, 3, 3, 2))
    np.save("x.npy", x)
    np.save("w.npy", w)
    np.save("y.npy", wrong(cm.convolve(x, w), cm.convolve(x, w[:, :, ::-1])))
    status = 0 if line.startswith("equal") else 1
    told, text = verify("x.npy", "--kernel", "w.npy", "--expected", "y.npy", status=status)
    assert re.fullmatch(line, text.splitlines()[0])
    assert text.splitlines()[1].startswith("╭")
    assert "verdict" not in told
    assert run(["verify", "x.npy", "--kernel", "w.npy", "--expected", "y.npy", "--brief"]) == status
    assert capsys.readouterr().out == f"{text.splitlines()[0]}\n"
