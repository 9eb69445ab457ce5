"""`convmat network` on what networks may also be: odd nodes, half precision, constants, names, opsets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convmat.cli import run

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.test_network import model, one, told, weights  # noqa: E402

X, W = (1, 3, 8, 8), (4, 3, 3, 3)
CONV = ("Conv", X, W)
TRANSPOSED = ("ConvTranspose", X, (3, 4, 3, 3))


@pytest.mark.parametrize(
    ("layer", "options", "problem"),
    [
        (TRANSPOSED, {"group": 5}, "groups: 5 does not divide the input's 3 channels"),
        (TRANSPOSED, {"group": 0}, "groups: 0 does not divide the input's 3 channels"),
        (CONV, {"auto_pad": "SAME"}, "auto_pad: is 'SAME'; ONNX has no such rule"),
        (TRANSPOSED, {"output_shape": [17]}, "output_shape: or output_padding has not 2 numbers"),
        (TRANSPOSED, {"output_padding": [0]}, "output_shape: or output_padding has not 2 numbers"),
    ],
)
def test_attributes_that_make_no_layer(
    layer: Any, options: Any, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    op, x, w = layer
    assert run(["network", one(op, x, weights(*w), **options)]) == 2
    err = capsys.readouterr().err
    assert re.search(f"layer 'layer': {problem}", err) and err.count("\n") == 1, err


def sparse(proto: Any) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [2], [0, 5])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(W)))
    proto.graph.ClearField("initializer")


def complex_weights(proto: Any) -> None:
    w = weights(*W).astype(np.complex64)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))


def scalar_bias(proto: Any) -> None:
    proto.graph.node[0].input.append("b")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "b"))


@pytest.mark.parametrize(
    ("change", "told_of", "status"),
    [
        (sparse, "m.onnx: has sparse weights 'w'; export them as dense ones", 2),
        (complex_weights, "complex64 is no dtype that convmat computes with", 0),
        (scalar_bias, r"bias: has shape \(\), 4 filters take \(4,\)", 0),
    ],
)
def test_weights_that_are_not_computed_with(
    change: Callable[[Any], None],
    told_of: str,
    status: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = one("Conv", X, weights(*W))
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)
    np.save("x.npy", weights(*X))
    assert run(["network", path, "x.npy", "--reference"]) == status
    captured = capsys.readouterr()
    assert re.search(told_of, captured.err if status else captured.out)
    assert captured.err.count("\n") == (status == 2)


def test_an_input_of_unknown_rank(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one("Conv", X, weights(*W))
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, path)
    np.save("x.npy", weights(*X))
    assert told(f"{path} x.npy --reference --to-fc fc.onnx", capsys)["equal"] is True


def test_sums_that_overflow_in_the_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a network itself overflows in says nothing of its products."""
    path = one("Conv", X, weights(*W))
    np.save("x.npy", np.full(X, 3e38, np.float32))
    assert told(f"{path} x.npy --reference --to-fc fc.onnx", capsys)["equal"] is True


def test_layers_of_other_domains_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("FusedConv", ["x", "w"], ["a"], "fused", domain="com.microsoft"),
        helper.make_node("Conv", ["a", "v"], ["y"], "layer"),
    ]
    path = model(nodes, {"x": X}, ["y"], {"w": weights(*W), "v": weights(2, 4, 2, 2)})
    proto = onnx.load(path)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, path)
    assert run(["network", path]) == 0
    told_of = "m.onnx: FusedConv 'fused' is an operator of com.microsoft; that is not looked into"
    assert told_of in capsys.readouterr().err


def test_old_opsets_are_not_rewritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before opset 7 Add broadcasts by an attribute, and no runtime has it; before 11 Pad has no integers."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    path = model([node], {"x": X}, ["y"], {"w": weights(*W)}, opset=6)
    assert run(["network", path, "--to-fc", "fc.onnx"]) == 2
    assert "it is of opset 6, and products are written from opset 7 on" in capsys.readouterr().err
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], "layer", pads=[1, 1, 1, 1])
    held = {"w": weights(*W, dtype=np.uint8)}
    path = model([node], {"x": X}, ["y"], held, opset=10, kind=TensorProto.UINT8)
    assert run(["network", path, "--to-fc", "fc.onnx"]) == 2
    assert "it is of integers, which Pad takes from opset 11 on" in capsys.readouterr().err


def test_names_of_inputs_with_an_equals_sign(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Add", ["p", "q=r"], ["x"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    path = model(nodes, {"p": X, "q=r": X}, ["y"], {"w": weights(*W)})
    np.save("a.npy", weights(*X))
    assert told(f"{path} p=a.npy q=r=a.npy --reference", capsys)["equal"] is True
    assert run(["network", path, "p=a.npy", "p=a.npy"]) == 2
    assert "'p=a.npy' is a second file for p; give one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("maker", "held"),
    [
        ([helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(*W)))], {}),
        ([helper.make_node("Identity", ["v"], ["w"])], {"v": weights(*W)}),
        ([helper.make_node("Transpose", ["v"], ["w"], perm=[3, 2, 0, 1])], {"v": weights(3, 3, 3, 4)}),
        (
            [
                helper.make_node("Cast", ["v"], ["u"], to=TensorProto.FLOAT),
                helper.make_node("Reshape", ["u", "s"], ["w"]),
            ],
            {"v": weights(108, dtype=np.float16), "s": np.array(W)},
        ),
    ],
)
def test_weights_that_nodes_make(
    maker: Any, held: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model([*maker, helper.make_node("Conv", ["x", "w"], ["y"], "layer")], {"x": X}, ["y"], held)
    np.save("x.npy", weights(*X))
    found = told(f"{path} x.npy --reference --to-fc fc.onnx", capsys)
    assert (found["layers"][0]["weight_shape"], found["layers"][0]["weights"]) == ([27, 4], 108)
    assert (found["equal"], found["rewritten"]) == (True, 1)


@pytest.mark.parametrize("code", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_inside(code: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sum goes into a Conv of half precision, rounded, as the graph has it, whatever a runtime fuses."""
    numbers = helper.tensor_dtype_to_np_dtype(code)
    if code == TensorProto.FLOAT16:
        pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=code),
        helper.make_node("Add", ["a", "c"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["h"], "layer"),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    held = {"w": weights(*W).astype(numbers), "c": np.array(0.1003, numbers)}
    path = model(nodes, {"x": X}, ["y"], held, opset=22)
    np.save("x.npy", weights(*X, seed=1))
    by = " --reference" if code == TensorProto.BFLOAT16 else ""
    found = told(f"{path} x.npy --to-fc fc.onnx{by}", capsys)
    assert (found["layers"][0]["verdict"], found["layers"][0]["engine_verdict"]) == ("equal", "equal")
    assert found["equal"] is True


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_inputs_of_other_floats(dtype: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    path = model([node], {"x": X}, ["y"], {"w": weights(*W, dtype=dtype)}, kind=kind)
    np.save("x.npy", weights(*X, seed=1))
    assert told(f"{path} x.npy --reference --to-fc fc.onnx", capsys)["equal"] is True
