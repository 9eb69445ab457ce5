"""What commands tell: one line with --brief and beside data, the same keys of JSON whatever was found."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import run
from tests.tools import DIGIT, SCENE, STROKES, mostly_slow, shell

TRAIN = "train --epochs 1 --filters 2 --train-size 8 --val-size 4"


@pytest.fixture(autouse=True)
def _results(samples: None) -> None:
    """Results of a layer: right ones, wrong ones and those of another shape, of integers and of floats."""
    rng = np.random.default_rng(15)
    x, w = rng.integers(0, 9, (1, 6, 5, 2)), rng.integers(-3, 4, (3, 3, 3, 2))
    for kind in ("int64", "float32"):
        typed = x.astype(kind), w.astype(kind)
        y, x_col, w_col = cm.convolve(*typed), cm.unroll(typed[0], 3), cm.flatten_filters(typed[1])
        made = {"x": typed[0], "w": typed[1], "y": y, "x_col": x_col, "w_col": w_col}
        made["fold"] = cm.fold(x_col, x.shape, 3)
        made["m"] = cm.layer_matrix(typed[1], x.shape).toarray()
        for name, array in made.items():
            wrong = array.copy()
            wrong.flat[-1] += 1
            np.save(f"{name}-{kind}.npy", array)
            np.save(f"{name}-wrong-{kind}.npy", wrong)
            np.save(f"{name}-cut-{kind}.npy", array[..., :-1])


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a line; its status, standard output and standard error."""

    def call(line: str) -> tuple[int, str, str]:
        status = run(line.split())
        out, err = capsys.readouterr()
        return status, out, err

    return call


def judged(line: str, result: str) -> list[str]:
    """A line that judges a result, for each kind of it."""
    names = [f"{result}{how}-{kind}.npy" for how in ("", "-wrong", "-cut") for kind in ("int64", "float32")]
    return [f"{line} --expected {name}".replace("KIND", name.split("-")[-1][:-4]) for name in names]


LAYER = "verify x-KIND.npy --kernel w-KIND.npy"
OUTCOMES: dict[str, list[str]] = {
    "unroll": [
        f"unroll {DIGIT} --k 7 --stride 7",
        f"unroll {SCENE} --k 3 --dry-run",
        f"unroll {DIGIT} --k 7 --stride 9 --figure f.png --animate f.gif",
        "unroll x-float32.npy --k 2 --per-image --order chw",
        "unroll x-int64.npy --dims 3 --k 1,2,2",
        "unroll m-int64.npy --dims 1 --k 2 -o o.npy",
    ],
    "flatten-filters": [
        f"flatten-filters {STROKES}",
        "flatten-filters sobel-x -o o.npy",
        "flatten-filters w-float32.npy --groups 3",
    ],
    "matmul": [
        "matmul x_col-int64.npy w_col-int64.npy",
        "matmul x_col-float32.npy w_col-float32.npy -o o.npy --output-shape 4,3",
    ],
    "convolve": [
        "convolve x-int64.npy --kernel w-int64.npy",
        f"convolve {DIGIT} --kernel box:3 -o o.png --plan",
        f"convolve {DIGIT} --kernel {STROKES} --stride 7 --figure f.png",
        f"convolve {SCENE} --kernel box:3 --depthwise",
        f"convolve {DIGIT} --kernel box:3 --transpose -o o.npy",
        "convolve m-int64.npy --dims 1 --kernel box:3 --depthwise",
    ],
    "fold": [
        "fold x_col-int64.npy --input-shape 6,5,2 --k 3",
        "fold x_col-float32.npy --input-shape 6,5,2 --k 3 --overlap mean -o o.npy",
    ],
    "locate": [
        f"locate {DIGIT} --k 3 --row 3 --col 4",
        "locate --input-shape 28,28 --k 3 --row 0 --col 0 --padding 1 --order chw",
        f"locate {DIGIT} --k 3 --pixel 9,12,0 --figure f.png",
        "locate --input-shape 28,28 --k 3 --stride 5 --pixel 4,4,0",
        "locate --input-shape 9,9,9 --dims 3 --k 3 --row 0 --col 0",
    ],
    "matrix": [
        f"matrix {DIGIT} --kernel sobel-x",
        "matrix --input-shape 9,9 --kernel box:3 --no-spectrum -o o.npz --figure f.png",
        "matrix --input-shape 90,90 --kernel box:3 --iterations 1 --padding 1",
        "matrix --input-shape 9,9 --kernel box:3 --padding same --padding-mode circular",
    ],
    "sizes": [
        "sizes 224 --k 7 --stride 2",
        "sizes 5,9 --k 7,3 --padding 1",
        "sizes 5 --k 3 --transpose --output-padding 1 --stride 2",
        "sizes 224 --layer k=7,s=2 --layer k=3",
    ],
    "train": [TRAIN, f"{TRAIN} --optimizer both -o o", f"{TRAIN} --probe-divergence"],
    "verify": ["verify", "verify --seed 3"],
    "verify, two arrays": [
        "compare y-int64.npy y-int64.npy",
        "compare y-int64.npy y-wrong-int64.npy",
        "compare y-float32.npy y-cut-float32.npy",
        "compare y-float32.npy y-wrong-float32.npy --atol 2",
    ],
    "verify, convolve": [
        *(LAYER.replace("KIND", kind) for kind in ("int64", "float32")),
        f"verify {DIGIT} --kernel box:3 --explain",
        *judged(LAYER, "y"),
        *judged(f"{LAYER} --explain --no-diagnose --rtol 1e-3", "y"),
        *judged(f"{LAYER} --requantize 0.5,0,half-up,int8", "y")[::2],
    ],
    "verify, unroll": [
        "verify x-int64.npy --stage unroll --k 3",
        *judged("verify x-KIND.npy --stage unroll --k 3", "x_col"),
    ],
    "verify, flatten-filters": judged("verify --stage flatten-filters --kernel w-KIND.npy", "w_col"),
    "verify, fold": judged("verify --stage fold x_col-KIND.npy --k 3 --input-shape 6,5,2", "fold"),
    "verify, matrix": [
        *judged("verify --stage matrix --input-shape 6,5,2 --kernel w-KIND.npy", "m"),
        "verify --stage matrix x-int64.npy --kernel w-int64.npy --padding 1 --padding-mode reflect",
    ],
    "verify, a probe": [
        "probe judge p p/integers/y.npy",
        "probe judge p p/bias/y.npy",
        "probe judge p p/integers/x.npy",
        "probe judge p p/one-hot/x_col.npy --case one-hot --stage unroll",
    ],
    "verify, write a probe": [
        "probe write p1 --k 3",
        "probe write p2 --k 2 --dims 1 --dtype int8",
        "probe write p3 --k 2 --tile 2,2,3 --arithmetic tf32",
    ],
}  # fmt: skip


@pytest.mark.parametrize("outcomes", mostly_slow(OUTCOMES.values()), ids=OUTCOMES)
def test_keys_of_json_do_not_depend_on_the_outcome(outcomes: list[str], said: Any) -> None:
    said("probe write p --k 3 --input-shape 6,5,2")
    found = {}
    for line in outcomes:
        status, out, err = said(f"{line} --json")
        assert status in (0, 1), (line, err)
        [found[line]] = map(json.loads, out.splitlines())
    for first, other in itertools.pairwise(found.items()):
        assert keys(first[1]) == keys(other[1]), (first[0], other[0])
    assert "" not in found[outcomes[0]]


def keys(found: dict[str, Any]) -> set[str]:
    """The keys of an object; and those of each of the runs in it."""
    runs = {f"runs.{key}" for run in (found.get("runs") or {}).values() for key in run}
    return set(found) | runs


def test_a_verdict_of_json_carries_what_the_table_says(said: Any) -> None:
    line = "verify x-int64.npy --kernel w-int64.npy --expected y-wrong-int64.npy"
    found = json.loads(said(f"{line} --json")[1])
    table = said(line)[1]
    assert (found["equal"], found["outside"], found["elements"]) == (False, 1, 36)
    assert re.search(r"elements outside +│ 1 of 36 ", table)
    other = json.loads(said(line.replace("wrong", "cut") + " --json")[1])
    assert (other["equal"], other["outside"], other["max_abs_error"], other["worst"]) == (
        False,
        36,
        None,
        None,
    )


# --brief


@pytest.mark.parametrize(
    ("line", "told", "status"),
    [
        (f"unroll {DIGIT} --k 7 --stride 7", "X_col 16 × 49, uint8", 0),
        (f"unroll {DIGIT} --k 7 --stride 7 -o o.npy", "X_col 16 × 49, uint8, in o.npy", 0),
        (f"unroll {DIGIT} --k 7 --stride 7 -o o.npy --dry-run", "X_col 16 × 49, uint8", 0),
        (f"flatten-filters {STROKES} -o w.npy", "W_col 49 × 2, int16, in w.npy", 0),
        ("matmul x_col-int64.npy w_col-int64.npy", "Y 12 × 3, int64", 0),
        (f"convolve {DIGIT} --kernel box:3 -o o.png", "Y 1 × 26 × 26 × 1, float64, in o.png", 0),
        (f"convolve {DIGIT} --kernel box:3 --transpose", "folded 1 × 30 × 30 × 1, float64", 0),
        ("fold x_col-int64.npy --input-shape 6,5,2 --k 3", "folded 1 × 6 × 5 × 2, int64", 0),
        (f"locate {DIGIT} --k 7 --row 1 --col 24", "row 1, column 24: pixel 0, 3, 4, 0, value 0", 0),
        (f"locate {DIGIT} --k 3 --pixel 9,12,0", "pixel 0, 9, 12, 0, value 64, 9 times in X_col", 0),
        ("matrix --input-shape 8,8 --kernel box:3 --no-spectrum", "M 36 × 64, 324 entries, float64", 0),
        ("sizes 5 --k 7", "valid none, same 5, same-lower 5, half 5, full 11", 0),
        ("sizes 224 --layer k=7,s=2", "output size 109, receptive field 7, total stride 2", 0),
        ("probe write p --k 3", "probe of X_col 96 × 27, float32, in p", 0),
        ("compare y-int64.npy y-int64.npy", "equal: 36 elements, exactly", 0),
        (
            "verify x-int64.npy --kernel w-int64.npy --expected y-wrong-int64.npy",
            "different: 1 of 36 elements, at row 3, column 2 of filter 2",
            1,
        ),
        (
            "verify x-int64.npy --kernel w-int64.npy --expected y-cut-int64.npy",
            "different: shape 1 × 4 × 3 × 2, expected 1 × 4 × 3 × 3",
            1,
        ),
    ],
)  # fmt: skip
def test_brief_is_one_line(line: str, told: str, status: int, said: Any) -> None:
    assert said(f"{line} --brief") == (status, f"{told}\n", "")


@pytest.mark.slow
def test_brief_of_floats_tells_the_largest_error_in_its_bound(said: Any) -> None:
    status, out, err = said(f"verify {DIGIT} --kernel box:3 --brief")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"equal: 676 elements, largest error 0\.\d+ of its bound\n", out)
    assert re.fullmatch(r"equal: \d+ cases, largest error 0\.\d+ of its bound\n", said("verify --brief")[1])
    assert re.fullmatch(
        r"sgd, 1 epoch: validation loss CNN \S+, FC \S+, losses apart by at most \S+, in o\n",
        said(f"{TRAIN} -o o --brief")[1],
    )


@pytest.mark.parametrize("outcomes", mostly_slow(OUTCOMES.values()), ids=OUTCOMES)
def test_every_command_has_a_brief_line_and_refuses_two_ways_at_once(outcomes: list[str], said: Any) -> None:
    said("probe write p --k 3 --input-shape 6,5,2")
    for option in ("--json", "--quiet"):
        status, out, err = said(f"{outcomes[0]} --brief {option}")
        assert (status, out) == (2, "")
        assert f"--brief goes without {option}" in err
    _, out, _ = said(f"{outcomes[0]} --brief")
    assert out.count("\n") == 1
    assert "│" not in out


def test_a_step_of_a_pipe_tells_one_line() -> None:
    """Real processes: data on standard output, one line and the warnings on standard error."""
    script = (
        f"convmat unroll {DIGIT} --k 7 --stride 6 -o - 2> unroll.txt"
        f" | convmat matmul - w.npy -o - 2> matmul.txt | cat > y.npy"
    )
    np.save("w.npy", np.ones((49, 2), np.int16))
    assert shell(f"set -o pipefail; {script}", PYTHONUTF8="1").status == 0
    assert Path("unroll.txt").read_text(encoding="utf-8") == (
        "X_col 16 × 49, uint8, on standard output\n"
        "convmat: warning: 159 pixels of each image are in no patch; another --stride or --padding covers "
        "them\n"
    )
    assert Path("matmul.txt").read_text(encoding="utf-8") == "Y 16 × 2, int64, on standard output\n"
    assert np.load("y.npy").shape == (16, 2)
    quiet = script.replace("-o -", "-q -o -")
    assert shell(quiet).status == 0
    assert Path("unroll.txt").read_bytes() == Path("matmul.txt").read_bytes() == b""


# Rows that are not shown


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            f"unroll {SCENE} --k 3",
            "97,028 of 27 elements each, too many to print; -o FILE.npy writes them, locate --row N shows "
            "one",
        ),
        (
            f"unroll {SCENE} --k 3 -o o.npy",
            "97,028 of 27 elements each, too many to print; locate --row N shows one",
        ),
        (f"unroll {DIGIT} --k 3 --dry-run", "676, not computed in a dry run"),
        ("unroll none.npy --k 3", "none"),
        (
            f"convolve {SCENE} --kernel box:3 --depthwise",
            "97,028 of 3 elements each, too many to print; -o FILE.npy writes them",
        ),
        ("matmul large.npy w.npy", "30,000 of 1 elements each, too many to print; -o FILE.npy writes them"),
    ],
)
def test_the_table_says_why_no_rows_are_printed(line: str, told: str, said: Any) -> None:
    np.save("none.npy", np.zeros((0, 5, 5, 1)))
    np.save("large.npy", np.ones((30_000, 2)))
    np.save("w.npy", np.ones((2, 1)))
    status, out, _ = said(line)
    assert status == 0
    assert re.search(rf"│ rows +│ {re.escape(told)} +│", out)
    assert "values  " not in out.replace("│ values", "")


def test_rows_that_are_printed_need_no_word(said: Any) -> None:
    assert "│ rows " not in said(f"unroll {DIGIT} --k 7 --stride 7")[1]
