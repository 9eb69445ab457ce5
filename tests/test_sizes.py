"""`convmat sizes`: frameworks, transposed convolutions, chains of layers; padding rules are in test_cli."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from convmat.cli import run


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `sizes` with a line of arguments; what it printed, as JSON where that was asked for."""

    def call(line: str) -> Any:
        assert run(["sizes", *line.split()]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out) if "--json" in line else out

    return call


def test_frameworks_in_words(said: Any) -> None:
    out = said("224 --k 7 --stride 2")
    for line in (
        r"│ TensorFlow, Keras +│ SAME +│ 2, 3 +│ +│",
        r"│ ONNX +│ SAME_UPPER +│ 2, 3 +│ +│",
        r"│ ONNX +│ SAME_LOWER +│ 3, 2 +│ differs +│",
        r"│ JAX +│ SAME_LOWER +│ 3, 2 +│ differs +│",
        r"│ PyTorch +│ same +│ +│ refused: for stride 1 only +│",
        r"│ PyTorch +│ SAME +│ F.pad\(x, \(2, 3\)\) +│",
        r"│ +│ SAME_LOWER +│ F.pad\(x, \(3, 2\)\) +│",
        r"│ ONNX +│ SAME +│ pads=\[2, 3\] +│",
    ):
        assert re.search(line, out), line


def test_frameworks_that_agree_are_written_once(said: Any) -> None:
    out = said("9,9 --k 3")
    assert "differs" not in out
    assert re.search(r"│ PyTorch +│ either +│ F.pad\(x, \(1, 1, 1, 1\)\) +│\n│ ONNX", out)


def test_frameworks_for_programs(said: Any) -> None:
    found = said("9,9 --k 4,3 --json")["frameworks"]
    assert [(f["framework"], f["pads"], f["differs"]) for f in found] == [
        ("TensorFlow, Keras", [[1, 2], [1, 1]], False),
        ("JAX", [[1, 2], [1, 1]], False),
        ("ONNX", [[1, 2], [1, 1]], False),
        ("PyTorch", [[1, 2], [1, 1]], False),
        ("JAX", [[2, 1], [1, 1]], True),
        ("ONNX", [[2, 1], [1, 1]], True),
    ]
    assert [f["explicit"] for f in found][2:4] == ["pads=[1, 1, 2, 1]", "F.pad(x, (1, 1, 1, 2))"]
    assert said("9 --k 3 -s 2 --json")["frameworks"][3]["explicit"] is None


def test_transpose(said: Any) -> None:
    line = "7,6 --k 3 --stride 3,2 --transpose --output-padding 1 --padding 1"
    out = said(line)
    assert re.search(r"│ yours +│ 1, 1 +│ \(7 - 1\)\*3 - \(1 \+ 1\) \+ 3 \+ 1 = 20 +│ 20 × 12 +│", out)
    assert re.search(r"│ same +│ +│ takes no output padding", out)
    found = said(f"{line} --json")
    assert (found["transpose"], found["input_size"], found["output_padding"]) == (True, [7, 6], [1, 1])
    assert found["rules"]["yours"] == {"pads": [[1, 1], [1, 1]], "output_size": [20, 12]}
    assert found["rules"]["same"] is None
    rules = said("3 --k 3 --stride 2 --transpose --json")["rules"]
    assert rules["same"] == {"pads": [[0, 1]], "output_size": [6]}
    assert rules["same-lower"] == {"pads": [[1, 0]], "output_size": [6]}
    assert re.search(r"│ full +│ +│ nothing comes out", said("1 --k 3 --transpose"))


def test_a_chain(said: Any) -> None:
    line = "224 --layer k=7,s=2,p=3 --layer k=3,s=2,p=1"
    out = said(line)
    assert re.search(r"│ 2 +│ 1, 1 +│ floor\(\(112 .* = 56 +│ 56 +│ 11 +│ 4 +│ -5 +│", out)
    found = said(f"{line} --json")
    assert [found[key] for key in ("output_size", "receptive_field", "total_stride")] == [[56], [11], [4]]
    assert found["layers"][0] == {
        "kernel_size": [7],
        "stride": [2],
        "dilation": [1],
        "padding": None,
        "pads": [[3, 3]],
        "output_size": [112],
        "receptive_field": [7],
        "total_stride": [2],
        "start": [-3],
    }


def test_a_chain_with_numbers_for_each_axis(said: Any) -> None:
    layers = said("9,10 --layer k=3x5,p=same,d=2x1 --layer p=1x2x0x1,k=2,s=1x3 --json")["layers"]
    assert [layer["kernel_size"] for layer in layers] == [[3, 5], [2, 2]]
    assert [layer["dilation"] for layer in layers] == [[2, 1], [1, 1]]
    assert [layer["padding"] for layer in layers] == ["same", None]
    assert layers[1]["pads"] == [[1, 2], [0, 1]]
    assert layers[1]["output_size"] == [11, 4]
    assert said("9 --layer k=3 --dims 3 --json")["output_size"] == [7, 7, 7]
    assert said("9 --layer k=3x1 --json")["receptive_field"] == [3, 1]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("9", "Missing option '--k'; or give a --layer or more"),
        ("9 -k 3 --layer k=3", "With --layer, give kernel, stride, padding and dilation within each layer"),
        ("9 --layer k=3 --transpose", "With --layer, give kernel"),
        ("9 --layer s=3", "'s=3' is no layer; write k=7,s=2,p=3,d=1, of which k is needed"),
        ("9 --layer k=3,k=3", "'k=3,k=3' is no layer"),
        ("9 --layer k=3,q=3", "'k=3,q=3' is no layer"),
        ("9 --layer 3", "'3' is no layer"),
        ("9 --layer k=3,p=some", "p=some in 'k=3,p=some' is not a rule, or pixels: 1 or 1x2"),
        ("9 --layer k=3,s=", "s= in 'k=3,s=' is not a size: 7 or 3x5"),
        (
            "9 --layer k=3 --layer k=9",
            "--layer: number 2: kernel_size: the kernel spans 9 pixels of width, .* 7;",
        ),
        ("9 --layer k=3,s=0", "--layer: number 1: stride: must be at least 1"),
        ("9,9 --layer k=3x3x3", r"SIZE|9,9: got 2 sizes for 3 spatial axes"),
        ("9 -k 3 --output-padding 1", "--output-padding goes with --transpose"),
        (
            "9 -k 3 -s 2 --transpose --output-padding 2",
            "--output-padding: 2 along width is not below the stride",
        ),
        ("9 -k 3 --transpose --padding 9", "--padding: leaves -7 pixels of width; use less padding"),
        ("0 -k 3 --transpose", r".*\(1, 0, 1\) is empty"),
    ],
)
def test_trouble(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sizes", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(f"convmat: .*({told})", err), err
