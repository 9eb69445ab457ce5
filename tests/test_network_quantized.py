"""`convmat network` on layers of integers: QLinearConv and its kin judged to the last bit, QDQ, products."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convmat.cli import run
from convmat.verification.computed import Computation

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

from convmat.networks.fc import rewrite  # noqa: E402
from convmat.networks.judging import run_and_judge  # noqa: E402
from convmat.networks.running import Evaluator  # noqa: E402
from tests.test_network import dump, model, read, told, weights  # noqa: E402

UINT8 = TensorProto.UINT8
NAMES = ("x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b")


def whole(*shape: int, dtype: Any = np.uint8, bits: int = 8, seed: int = 0) -> Any:
    low = 0 if np.dtype(dtype).kind == "u" else -(1 << bits - 1)
    return np.random.default_rng(seed).integers(low, low + (1 << bits), shape).astype(dtype)


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any, int, bool, dict[str, Any]]] = {
    "uint8": ((1, 3, 9, 8), (4, 3, 3, 3), (np.uint8, np.uint8), 8, False, {"pads": [1, 0, 2, 1]}),
    "int8": ((2, 4, 8, 8), (6, 2, 3, 2), (np.int8, np.int8), 8, True, {"group": 2, "strides": [2, 1]}),
    "of both": ((1, 3, 8, 9), (4, 3, 2, 3), (np.uint8, np.int8), 7, True, {"auto_pad": "SAME_LOWER"}),
    "depthwise": ((1, 4, 7, 7), (4, 1, 3, 3), (np.uint8, np.uint8), 8, False, {"group": 4}),
    "dilated": ((1, 2, 9, 9), (3, 2, 3, 3), (np.int8, np.int8), 8, False, {"dilations": [2, 3]}),
    "1-D": (
        (1, 2, 20),
        (3, 2, 5),
        (np.uint8, np.uint8),
        8,
        False,
        {"auto_pad": "SAME_UPPER", "strides": [2]},
    ),
}


def quantized(case: str, path: str = "m.onnx", **changed: Any) -> tuple[str, Any]:
    """A model of one QLinearConv, `layer`, and its input."""
    x, w, dtypes, bits, each, options = CASES[case]
    (x_type, w_type), count = dtypes, w[0]
    scale = np.full(count, 0.003, np.float32) * np.arange(1, count + 1, dtype=np.float32)
    held = {
        "xs": np.float32(0.02),
        "xz": x_type(7),
        "w": whole(*w, dtype=w_type, bits=bits),
        "ws": scale if each else np.float32(0.003),
        "wz": np.zeros(count, w_type) if each else w_type(100 if w_type == np.uint8 else 0),
        "ys": np.float32(0.37),
        "yz": x_type(5),
        "b": np.arange(count, dtype=np.int32) * 1000 - 700,
    }
    node = helper.make_node("QLinearConv", list(NAMES), ["y"], "layer", **options)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(x_type))
    made = model([node], {"x": x}, ["y"], held | changed, path, kind=kind)
    return made, whole(*x, dtype=x_type, seed=1)


def judged(path: str, x: Any, reference: bool, evaluator: Any = Evaluator) -> tuple[Any, Any]:
    network, [layer] = read(path)
    [one], made = run_and_judge(network, [layer], {"x": x}, evaluator(network, reference=reference))
    return one, made["y"]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_quantized_layers_are_judged_and_rewritten(case: str, reference: bool, folder: Path) -> None:
    """Each evaluator by its own rounding, convmat's engine, and the product, which rounds as onnxruntime."""
    if not reference:
        pytest.importorskip("onnxruntime")
    path, x = quantized(case)
    one, y = judged(path, x, reference)
    assert one.theirs.equal and one.ours.equal and one.theirs.elements == y.size
    assert len(np.unique(y)) > 12
    network, [layer] = read(path)
    done = rewrite(network, [layer])
    assert [node.op_type for node in done.proto.graph.node if "Mul" in node.op_type] == [
        "MatMulInteger",
        "Mul",
    ]
    onnx.shape_inference.infer_shapes(done.proto, check_type=True, strict_mode=True)
    fc = network.like(done.proto, "fc.onnx", {"x": x.shape})
    feeds, evaluator = {"x": x}, Evaluator(fc, reference=reference)
    [again], made = run_and_judge(fc, [layer], feeds, evaluator, weights=network.constant, ours=False)
    assert again.theirs.equal and made["y"].dtype == y.dtype
    np.testing.assert_allclose(made["y"].astype(int), y.astype(int), atol=1 if reference else 0)


@pytest.mark.parametrize(("reference", "y"), [(False, 172), (True, 173)])
def test_whose_rounding_it_is(reference: bool, y: int, folder: Path) -> None:
    """45884 · 0.0037594805… is 172.500000…, above a half; in float32, as the product has it, it is 172.5."""
    if not reference:
        pytest.importorskip("onnxruntime")
    held = {"xs": np.float32(0.00375948054715991), "ws": np.float32(1), "ys": np.float32(1)}
    held |= {"xz": np.uint8(0), "wz": np.uint8(0), "yz": np.uint8(0)}
    held |= {"w": np.ones((1, 1, 1), np.uint8), "b": np.array([45883], np.int32)}
    node = helper.make_node("QLinearConv", list(NAMES), ["y"], "layer")
    network, [layer] = read(model([node], {"x": (1, 1, 1)}, ["y"], held, kind=UINT8))
    feeds, evaluator = {"x": np.ones((1, 1, 1), np.uint8)}, Evaluator(network, reference=reference)
    [one], made = run_and_judge(network, [layer], feeds, evaluator)
    assert made["y"].item() == y and one.theirs.equal and one.ours.equal
    fc = network.like(rewrite(network, [layer]).proto, "fc.onnx", {"x": (1, 1, 1)})
    [again], made = run_and_judge(fc, [layer], feeds, evaluator.on(fc), weights=network.constant, ours=False)
    assert made["y"].item() == 172 and again.theirs.equal


def test_what_a_different_result_is_equal_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another rounding, products that saturate in pairs, or nothing that is known."""
    path, x = quantized("of both", w=127 * (2 * whole(4, 3, 2, 3, dtype=np.int8, bits=1) + 1))
    network, [layer] = read(path)
    held = {"x": x, "y": np.zeros(layer.output_shape, np.uint8)}
    convolution = layer.convolution(lambda name: held[name] if name in held else network.constant(name))
    x_last, filters, options = convolution.x, convolution.filters, dict(convolution.arguments)
    asked = options.pop("quantization")
    right = Computation(x_last, filters, **options, padding_mode="zeros", quantized=asked)
    results = {
        "floor": replace(right, quantized=replace(asked, rounding="floor")),
        "pairs": replace(right, pair_sums="hwc"),
    }
    everywhere = tuple(np.indices(right.convolved_shape).reshape(4, -1))
    for name, wrong in results.items():
        os.mkdir(name)
        np.save(f"{name}/x.npy", x)
        sums = wrong.sums(everywhere, np.dtype(np.int64))[0].reshape(right.convolved_shape)
        np.save(f"{name}/y.npy", np.moveaxis(wrong.outcome(sums).astype(np.uint8), -1, 1))
    for name, said in (("floor", r"equal as floor"), ("pairs", r"right but for products added in pairs")):
        [found] = told(f"{path} --outputs {name}", capsys, status=1)["layers"]
        assert (found["verdict"], found["engine_verdict"]) == ("different", "equal")
        assert found["equal_instead"].startswith(said)
    assert run(["network", path, "--outputs", "floor", "--brief"]) == 1
    assert capsys.readouterr().out.startswith("different: 1 of 1 layer: layer, equal as floor, ")
    np.save("pairs/y.npy", whole(*held["y"].shape, seed=9))
    [found] = told(f"{path} --outputs pairs", capsys, status=1)["layers"]
    assert found["equal_instead"] is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"xs": np.float32(0)}, "scale: got 0.0; give finite numbers above 0"),
        ({"ys": np.float32(np.nan)}, "scale: got nan"),
        ({"ws": np.ones(3, np.float32)}, "scale: has 3 numbers for 4 filters"),
        ({"xz": np.array([7, 7, 7], np.uint8)}, "has several scales or zero points of its input or output"),
        ({"b": np.full(4, 2**31 - 1, np.int32)}, "an accumulator is .* beyond int32"),
    ],
)
def test_why_a_layer_is_not_judged(
    changed: Any, why: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, x = quantized("uint8", **changed)
    os.mkdir("out")
    np.save("out/x.npy", x)
    network, [layer] = read(path)
    np.save("out/y.npy", np.zeros(layer.output_shape, np.uint8))
    from convmat.networks.running import Dumped

    [one], _ = run_and_judge(network, [layer], {"x": x}, Evaluator(network), Dumped("out"))
    assert one.theirs is None and one.why
    import re

    assert re.search(why, one.why), one.why


def test_scales_that_are_computed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a run are known then; what another runtime did not dump is not."""
    path, x = quantized("uint8")
    proto = onnx.load(path)
    proto.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, ()))
    proto.graph.node.insert(0, helper.make_node("Sqrt", ["given"], ["computed"]))
    proto.graph.node[1].input[1] = "computed"
    onnx.save(proto, path)
    np.save("x.npy", x)
    np.save("given.npy", np.float32(0.0004))
    found = told(f"{path} x=x.npy given=given.npy --reference", capsys)
    assert found["layers"][0]["verdict"] == "equal"
    os.mkdir("out")
    for name in ("x", "given"):
        os.rename(f"{name}.npy", f"out/{name}.npy")
    np.save("out/y.npy", np.zeros(found["layers"][0]["output_shape"], np.uint8))
    assert run(["network", path, "--outputs", "out", "--reference"]) == 2
    assert "is not among the outputs that were given" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["uint8", "int8"])
def test_a_quantized_layer_as_a_folder(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its README's commands run, and say that the output is the layer's to the last bit."""
    path, x = quantized(case)
    np.save("x.npy", x)
    assert run(["network", path, "x.npy", "--reference", "--layer", "layer", "-o", "layer", "-q"]) == 0
    files = ["README", "bias.npy", "input.npy", "kernel.npy", "layer.toml", "output.npy"]
    assert sorted(os.listdir("layer")) == files
    os.chdir("layer")
    assert "The padding of the layer holds 7, that of X_col 0." in Path("README").read_text()
    lines = [line for line in Path("README").read_text().splitlines() if line.startswith("convmat ")]
    assert [line.split()[1] for line in lines] == ["unroll", "flatten-filters", "convolve", "verify"]
    assert "--quantize layer.toml" in lines[3]
    for line in lines:
        assert run([*line.split()[1:], "-q"]) == 0, line
    y = (
        np.moveaxis(np.load("y.npy"), -1, 1)
        if np.load("y.npy").shape != np.load("output.npy").shape
        else None
    )
    np.testing.assert_array_equal(np.load("y.npy") if y is None else y, np.load("output.npy"))


def test_quantized_outputs_are_dumped_and_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, x = quantized("depthwise")
    proto = onnx.load(path)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "image"
    onnx.save(proto, path)
    dump(path, "right", x)
    assert told(f"{path} --outputs right", capsys)["equal"] is True


# QDQ: a Conv of floats between nodes that quantize


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(("opset", "dtype"), [(10, np.uint8), (13, np.int8), (21, np.int8)])
def test_conv_among_qdq_nodes(opset: int, dtype: Any, reference: bool, folder: Path) -> None:
    """Its weights are what DequantizeLinear makes of constants, whatever the opset."""
    if not reference:
        pytest.importorskip("onnxruntime")
    axis = {} if opset < 13 else {"axis": 0}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], **axis),
        helper.make_node("Conv", ["dx", "dw"], ["sums"], "layer", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["sums", "ys", "xz"], ["y"]),
    ]
    scale = np.float32(0.01) if opset < 13 else np.array([0.01, 0.03, 0.02], np.float32)
    zero = np.zeros(scale.shape, dtype)
    held = {"xs": np.float32(0.05), "xz": np.uint8(9), "ys": np.float32(0.3)}
    held |= {"w": whole(3, 2, 3, 3, dtype=dtype), "ws": scale, "wz": zero}
    path = model(nodes, {"x": (1, 2, 6, 7)}, ["y"], held, opset=opset, kind=UINT8)
    network, [layer] = read(path)
    assert (layer.kernel_shape, layer.weight_shape, layer.has_weights) == ((3, 2, 3, 3), (18, 3), True)
    feeds, evaluator = {"x": whole(1, 2, 6, 7, seed=2)}, Evaluator(network, reference=reference)
    [one], made = run_and_judge(network, [layer], feeds, evaluator)
    assert one.theirs.equal and one.ours.equal and one.theirs.error_over_bound > 0
    done = rewrite(network, [layer])
    fc = network.like(done.proto, "fc.onnx", {"x": (1, 2, 6, 7)})
    [again], products = run_and_judge(
        fc, [layer], feeds, evaluator.on(fc), weights=network.constant, ours=False
    )
    assert again.theirs.equal
    np.testing.assert_allclose(products["y"].astype(int), made["y"].astype(int), atol=1)


def test_weights_of_four_bits(folder: Path) -> None:
    """In blocks with scales of their own, as opset 21 has them."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws"], ["dw"], axis=1, block_size=2),
        helper.make_node("Conv", ["x", "dw"], ["y"], "layer"),
    ]
    path = model(nodes, {"x": (1, 4, 5, 5)}, ["y"], {"ws": weights(3, 2, 2, 2) ** 2}, opset=21)
    proto = onnx.load(path)
    codes = whole(3, 4, 2, 2, dtype=np.int8, bits=4)
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, codes.shape, codes.ravel()))
    onnx.save(proto, path)
    network, [layer] = read(path)
    wanted = codes * np.repeat(weights(3, 2, 2, 2) ** 2, 2, 1)
    np.testing.assert_array_equal(network.constant(layer.w), wanted)
    [one], _ = run_and_judge(network, [layer], {"x": weights(1, 4, 5, 5)}, Evaluator(network, reference=True))
    assert one.theirs.equal and one.ours.equal


# FC layers


@pytest.mark.parametrize("reference", [False, True])
def test_products_of_integers(reference: bool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """QLinearMatMul and MatMulInteger, as ConvInteger and QLinearConv become, are judged as layers too."""
    if not reference:
        pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "ys", "z"], ["q"], "first"),
        helper.make_node("MatMulInteger", ["q", "w2", "z", "z2"], ["y"], "second"),
    ]
    held = {"s": np.float32(0.03), "ys": np.float32(0.9), "z": np.uint8(130)}
    held |= {"w": whole(12, 6), "w2": whole(6, 5, seed=3), "z2": whole(5, seed=4)}
    if not reference:
        held["z2"] = np.full(5, 3, np.uint8)
    path = model(nodes, {"x": (7, 12)}, ["y"], held, kind=UINT8)
    np.save("x.npy", whole(7, 12, seed=5))
    found = told(f"{path} x.npy" + " --reference" * reference, capsys)
    assert [(one["op"], one["matrix_shape"], one["weight_shape"]) for one in found["layers"]] == [
        ("QLinearMatMul", [7, 12], [12, 6]),
        ("MatMulInteger", [7, 6], [6, 5]),
    ]
    assert [one["verdict"] for one in found["layers"]] == ["equal"] * 2
    assert [one["engine_verdict"] for one in found["layers"]] == ["equal"] * 2


def test_zero_points_of_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"], "layer")
    path = model([node], {"x": (3, 4)}, ["y"], {"w": whole(4, 2), "z": whole(3)}, kind=UINT8)
    np.save("x.npy", whole(3, 4))
    os.mkdir("out")
    os.rename("x.npy", "out/x.npy")
    np.save("out/y.npy", np.zeros((3, 2), np.int32))
    assert run(["network", path, "--outputs", "out"]) == 2
    assert "its input has a zero point for each row" in capsys.readouterr().err
