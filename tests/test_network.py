"""`convmat network`: layers of ONNX models and their sizes, verdicts, rewritten networks, hostile files."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.cli import run
from tests.tools import SAMPLES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from convmat.errors import FileError  # noqa: E402
from convmat.networks.fc import rewrite  # noqa: E402
from convmat.networks.judging import run_and_judge  # noqa: E402
from convmat.networks.layers import layers_of  # noqa: E402
from convmat.networks.model import Model  # noqa: E402
from convmat.networks.running import Evaluator, file_name  # noqa: E402

TINY = str(SAMPLES / "tiny.onnx")
DIGIT = str(SAMPLES / "digit.png")
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
FLOAT = TensorProto.FLOAT


def weights(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 9, shape).astype(dtype)


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[Any, ...]],
    outputs: list[str],
    constants: dict[str, Any] | None = None,
    path: str = "m.onnx",
    opset: int = 13,
    kind: int = FLOAT,
) -> str:
    """A model of a graph, written; its name."""
    fed = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    made = [helper.make_empty_tensor_value_info(name) for name in outputs]
    held = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", fed, made, held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    Path(path).write_bytes(proto.SerializeToString())
    return path


def one(
    op: str, x: tuple[int, ...], w: Any, path: str = "m.onnx", kind: int = FLOAT, **attributes: Any
) -> str:
    """A model of one layer, `layer`, from x to y."""
    node = helper.make_node(op, ["x", "w"], ["y"], "layer", **attributes)
    return model([node], {"x": x}, ["y"], {"w": w}, path)


def read(path: str, **shapes: tuple[int, ...]) -> tuple[Model, Any]:
    network = Model(path)
    network.infer(shapes)
    return network, layers_of(network)


def told(args: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> Any:
    """What the command prints with --json."""
    assert run(["network", *args.split(), "--json"]) == status, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# Sizes

LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "2-D": ("Conv", (2, 3, 9, 8), (4, 3, 3, 2), {}),
    "strided": ("Conv", (1, 3, 9, 8), (4, 3, 3, 3), {"strides": [2, 3], "pads": [1, 0, 2, 1]}),
    "dilated": ("Conv", (1, 2, 9, 9), (4, 2, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "grouped": ("Conv", (1, 6, 7, 7), (4, 3, 3, 3), {"group": 2}),
    "depthwise": (
        "Conv",
        (1, 4, 7, 7),
        (8, 1, 3, 3),
        {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "same lower": ("Conv", (1, 2, 6, 6), (3, 2, 4, 4), {"auto_pad": "SAME_LOWER"}),
    "1-D": ("Conv", (1, 2, 20), (3, 2, 5), {"strides": [2]}),
    "3-D": ("Conv", (1, 2, 5, 6, 7), (3, 2, 2, 3, 3), {"pads": [1, 0, 0, 0, 1, 1]}),
    "transposed": ("ConvTranspose", (1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 3]}),
    "transposed, padded": (
        "ConvTranspose",
        (2, 4, 4, 5),
        (4, 3, 3, 3),
        {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 1], "group": 2, "dilations": [1, 2]},
    ),
    "transposed, cropped": ("ConvTranspose", (1, 2, 5, 5), (2, 3, 2, 2), {"pads": [2, 1, 1, 2]}),
    "transposed, same": (
        "ConvTranspose",
        (1, 2, 3, 3),
        (2, 3, 3, 3),
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "transposed, sized": (
        "ConvTranspose",
        (1, 2, 3, 3),
        (2, 3, 3, 3),
        {"strides": [3, 2], "output_shape": [8, 6]},
    ),
    "transposed, larger": (
        "ConvTranspose",
        (1, 2, 3, 3),
        (2, 3, 3, 3),
        {"strides": [3, 2], "output_shape": [10, 8]},
    ),
    "transposed, 1-D": ("ConvTranspose", (1, 2, 7), (2, 3, 4), {"strides": [3]}),
}
every_layer = pytest.mark.parametrize("case", LAYERS)
# For these onnx's evaluator has another size, or none.
UNKNOWN = ("transposed, padded", "transposed, sized", "transposed, larger")
plain_layers = pytest.mark.parametrize("case", [case for case in LAYERS if case not in UNKNOWN])


@plain_layers
def test_layer_is_judged_and_rewritten(case: str, folder: Path) -> None:
    """Sizes are ONNX's own, onnx's evaluator and convmat are within the bound, and so is the product."""
    op, x, w, options = LAYERS[case]
    network, [layer] = read(one(op, x, weights(*w), **options))
    inferred = onnx.shape_inference.infer_shapes(network.proto).graph.output[0].type.tensor_type.shape
    assert layer.output_shape == tuple(dim.dim_value for dim in inferred.dim)
    assert (layer.input_shape, layer.kernel_shape) == (x, w)
    feeds = {"x": weights(*x, seed=1)}
    evaluator = Evaluator(network, reference=True)
    [judged], outputs = run_and_judge(network, [layer], feeds, evaluator)
    assert outputs["y"].shape == layer.output_shape
    assert judged.theirs and judged.theirs.equal and judged.ours and judged.ours.equal
    assert 0 < judged.theirs.error_over_bound < 1
    assert judged.theirs.elements == outputs["y"].size
    done = rewrite(network, [layer])
    assert {node.op_type for node in done.proto.graph.node} <= {
        "Reshape",
        "Transpose",
        "Pad",
        "Gather",
        "MatMul",
    }
    [product] = [node for node in done.proto.graph.node if node.op_type == "MatMul"]
    fc = network.like(done.proto, "fc.onnx", {"x": x})
    [again], made = run_and_judge(fc, [layer], feeds, evaluator.on(fc), weights=network.constant, ours=False)
    assert again.theirs and again.theirs.equal
    np.testing.assert_allclose(made["y"], outputs["y"], rtol=1e-4, atol=1e-4)
    groups = options.get("group", 1)
    assert len(fc.constant(product.input[1]).shape) == (2 if groups == 1 else 3)


@plain_layers
def test_a_wrong_result_is_found(case: str, folder: Path) -> None:
    """One element that is not what the layer gives."""
    op, x, w, options = LAYERS[case]
    network, [layer] = read(one(op, x, weights(*w), **options))
    evaluator = Evaluator(network, reference=True)

    class Wrong(Evaluator):
        def run(self, *args: Any) -> Any:
            [y] = evaluator.run(*args)
            y.flat[y.size // 2] *= 1 + 1e-4
            return [y]

    [judged], _ = run_and_judge(network, [layer], {"x": weights(*x, seed=1)}, Wrong(network, reference=True))
    assert judged.theirs is not None and judged.theirs.outside == 1
    assert judged.theirs.error_over_bound > 1
    assert judged.ours and judged.ours.equal


def test_integers_are_exact(folder: Path) -> None:
    """ConvInteger with zero points, which stand in its padding, and its product."""
    node = helper.make_node("ConvInteger", ["x", "w", "zx", "zw"], ["y"], "layer", pads=[1, 1, 1, 1])
    held = {"w": weights(3, 2, 3, 3, dtype=np.uint8), "zx": np.uint8(3), "zw": np.uint8(4)}
    path = model([node], {"x": (1, 2, 6, 6)}, ["y"], held, kind=TensorProto.UINT8)
    network, [layer] = read(path)
    feeds = {"x": weights(1, 2, 6, 6, seed=1, dtype=np.uint8)}
    evaluator = Evaluator(network, reference=True)
    [judged], outputs = run_and_judge(network, [layer], feeds, evaluator)
    assert judged.theirs and judged.theirs.equal and judged.ours and judged.ours.equal
    assert judged.theirs.error_over_bound == 0
    done = rewrite(network, [layer])
    assert "MatMulInteger" in {node.op_type for node in done.proto.graph.node}
    fc = network.like(done.proto, "fc.onnx", {"x": (1, 2, 6, 6)})
    _, made = run_and_judge(fc, [layer], feeds, evaluator.on(fc), weights=network.constant)
    np.testing.assert_array_equal(made["y"], outputs["y"])


@pytest.mark.parametrize("opset", [7, 10, 13, 18])
def test_products_of_every_opset(opset: int, folder: Path) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "layer", pads=[1, 1, 1, 1], group=2)
    held = {"w": weights(4, 1, 3, 3), "b": weights(4)}
    network, layers = read(model([node], {"x": (2, 2, 5, 5)}, ["y"], held, opset=opset))
    evaluator, feeds = Evaluator(network, reference=True), {"x": weights(2, 2, 5, 5, seed=3)}
    _, outputs = run_and_judge(network, layers, feeds, evaluator)
    fc = network.like(rewrite(network, layers).proto, "fc.onnx", {"x": (2, 2, 5, 5)})
    _, made = run_and_judge(fc, [], feeds, evaluator.on(fc))
    np.testing.assert_allclose(made["y"], outputs["y"], rtol=1e-5, atol=1e-5)


def test_the_row_of_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(TINY, capsys)
    assert [layer["name"] for layer in found["layers"]] == ["first", "grouped", "shortcut", "digits"]
    assert found["layers"][1] == {
        "name": "grouped",
        "op": "Conv",
        "input_shape": [1, 8, 28, 28],
        "output_shape": [1, 8, 14, 14],
        "kernel_shape": [8, 4, 3, 3],
        "stride": [2, 2],
        "pads": [[1, 1], [1, 1]],
        "dilation": [1, 1],
        "groups": 2,
        "matrix_shape": [196, 72],
        "weight_shape": [36, 8],
        "weights": 288,
        "weight_uses": 196,
        "multiply_adds": 196 * 36 * 8,
        "receptive_field": [7, 7],
        "total_stride": [2, 2],
        "error_over_bound": None,
        "verdict": None,
        "engine_error_over_bound": None,
        "engine_verdict": None,
        "why_not_judged": None,
        "spectrum": None,
        "why_no_spectrum": None,
        "equal_instead": None,
    }
    assert (found["layers"][3]["op"], found["layers"][3]["weight_shape"]) == ("Gemm", [8, 10])
    assert (found["weights"], found["convs"], found["equal"]) == (632, 3, None)
    run_on = told(f"{TINY} {DIGIT} --reference", capsys)
    assert run_on.keys() == found.keys()
    assert [layer["verdict"] for layer in run_on["layers"]] == ["equal"] * 4
    assert all(layer["error_over_bound"] <= 1 for layer in run_on["layers"])
    assert run_on["equal"] is True


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", TINY, "--formulas"]) == 0
    out = capsys.readouterr().out
    assert "floor((28 + 1 + 1 - 3) / 2) + 1 = 14" in out
    for word in ("│ grouped  │ Conv", "1×8×28×28", "196×72", "36×8", "7×7", "│ digits   │ Gemm", "225,872"):
        assert word in out
    assert run(["network", TINY, DIGIT, "--reference", "--brief"]) == 0
    assert re.match(
        r"equal: 4 layers, largest error 0\.\d+ of its bound, 3 CONV layers", capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_models(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_light(LIGHT / f"light_{name}.onnx", told(str(LIGHT / f"light_{name}.onnx"), capsys))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_all_light_models(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_light(path, told(str(path), capsys))


def check_light(path: Path, found: Any) -> None:
    """Every CONV is there, with the shapes that ONNX's own inference finds."""
    proto = onnx.load(path)
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.value_info, *graph.output, *graph.input)
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in values}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    rows = [layer for layer in found["layers"] if layer["op"] == "Conv"]
    assert len(rows) == len(convs) > 4
    for row, node in zip(rows, convs, strict=True):
        assert (row["input_shape"], row["output_shape"]) == (shapes[node.input[0]], shapes[node.output[0]])
        kernel, out = row["kernel_shape"], row["output_shape"]
        assert row["multiply_adds"] == np.prod(out) * np.prod(kernel[1:])
        assert row["weights"] == np.prod(kernel)


def test_symbolic_sizes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one("Conv", ("N", 3, "H", "W"), weights(4, 3, 3, 3))
    assert run(["network", path]) == 0
    captured = capsys.readouterr()
    assert "sizes are not known; give --input-shape 1,3,224,224" in captured.err
    assert "?×3×?×?" in captured.out
    found = told(f"{path} --input-shape 2,3,8,9", capsys)
    assert found["layers"][0]["output_shape"] == [2, 4, 6, 7]
    assert told(f"{path} --input-shape x=2,3,8,9", capsys) == found
    for wrong, problem in (
        ("2,4,8,9", r"--input-shape: \(2, 4, 8, 9\) is not that of 'x', \?×3×\?×\?"),
        ("z=2,3,8,9", r"has no input 'z'; it has x"),
        ("0,3,8,9", r"sizes must be at least 1"),
        ("1,3,2,9", r"m.onnx: layer 'layer': .*the kernel spans 3 pixels of height"),
    ):
        assert run(["network", path, "--input-shape", wrong]) == 2
        assert re.search(problem, capsys.readouterr().err)


# Receptive fields


def brute_force(path: str, shape: tuple[int, ...]) -> Any:
    """How many lines along each axis, from the first to the last, the middle output depends on."""
    network, _ = read(path)
    evaluator = Evaluator(network, reference=True)

    def output(x: Any) -> Any:
        return run_and_judge(network, [], {"x": x}, evaluator)[1]["y"]

    x = np.ones(shape, np.float32)
    usual = output(x)
    middle = (0, 0, *(size // 2 for size in usual.shape[2:]))
    lengths = []
    for axis in range(2, x.ndim):
        seen = []
        for line in range(shape[axis]):
            changed = x.copy()
            changed.swapaxes(0, axis)[line] += 1
            if output(changed)[middle] != usual[middle]:
                seen.append(line)
        lengths.append(max(seen) - min(seen) + 1)
    return lengths


FIELDS: dict[str, list[Any]] = {
    "chain": [("Conv", "x", "a", 3, {"strides": [2, 2]}), ("Conv", "a", "y", 3, {"dilations": [2, 2]})],
    "pooling": [
        ("AveragePool", "x", "a", 0, {"kernel_shape": [3, 2], "strides": [2, 2]}),
        ("Conv", "a", "y", 3, {}),
    ],
    "residual": [
        ("Conv", "x", "a", 3, {"pads": [1] * 4}),
        ("Conv", "a", "b", 5, {"pads": [2] * 4}),
        ("Add", "a b", "c", 0, {}),
        ("Conv", "c", "y", 1, {}),
    ],
    "branches": [
        ("Conv", "x", "a", 1, {}),
        ("Conv", "x", "b", 5, {"pads": [2] * 4}),
        ("Concat", "a b", "c", 0, {"axis": 1}),
        ("Conv", "c", "y", 3, {"strides": [2, 2]}),
    ],
    "apart": [
        ("Conv", "x", "a", 3, {"pads": [0, 0, 2, 2]}),
        ("Conv", "x", "b", 3, {"pads": [2, 2, 0, 0]}),
        ("Add", "a b", "c", 0, {}),
        ("Conv", "c", "y", 1, {}),
    ],
    "shuffled": [
        ("Conv", "x", "a", 3, {}),
        ("Transpose", "a", "b", 0, {"perm": [0, 2, 3, 1]}),
        ("Transpose", "b", "c", 0, {"perm": [0, 3, 1, 2]}),
        ("Relu", "c", "d", 0, {}),
        ("Conv", "d", "y", 3, {}),
    ],
    "transposed": [
        ("Conv", "x", "a", 3, {"strides": [2, 2]}),
        ("ConvTranspose", "a", "y", 5, {"strides": [2, 2]}),
    ],
}


@pytest.mark.parametrize("case", FIELDS)
def test_receptive_fields_are_what_outputs_depend_on(case: str, folder: Path) -> None:
    nodes, held = [], {}
    for number, (op, inputs, output, size, options) in enumerate(FIELDS[case]):
        names = inputs.split()
        if size:
            depth = 2 if names == ["c"] and case == "branches" else 1
            held[f"w{number}"] = np.abs(weights(1, depth, size, size)) + 1
            names.append(f"w{number}")
        nodes.append(helper.make_node(op, names, [output], f"n{number}", **options))
    path = model(nodes, {"x": (1, 1, 15, 15)}, ["y"], held)
    assert list(read(path)[1][-1].receptive_field) == brute_force(path, (1, 1, 15, 15))


def test_everything_is_seen_through_a_mean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in squeeze and excitation: the receptive field is the size of the input."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Mul", ["x", "mean"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w"], ["y"], "layer"),
    ]
    path = model(nodes, {"x": (1, 2, 9, 8)}, ["y"], {"w": weights(3, 2, 3, 3)})
    [layer] = told(path, capsys)["layers"]
    assert (layer["receptive_field"], layer["total_stride"]) == ([9, 8], [None, None])


# Planted mistakes


def dump(path: str, to: str, x: Any) -> None:
    """The values of a model, as another runtime would write them."""
    network, _ = read(path)
    os.makedirs(to, exist_ok=True)
    stops = {name: [] for node in network.nodes for name in node.output}
    from convmat.networks.running import walk

    np.save(Path(to, file_name("image")), x)
    for step in walk(network, {"image": x}, Evaluator(network, reference=True), stops):
        for name, value in step.values.items():
            np.save(Path(to, file_name(name)), value)


def tampered(change: Callable[[Any], None]) -> str:
    proto = onnx.load(TINY)
    change(proto.graph)
    Path("tampered.onnx").write_bytes(proto.SerializeToString())
    return "tampered.onnx"


def wrong_weight(graph: Any) -> None:
    w = numpy_helper.to_array(graph.initializer[2]).copy()
    assert graph.initializer[2].name == "grouped.weight"
    w[5, 1, 2, 2] += np.float32(1e-2)
    graph.initializer[2].CopyFrom(numpy_helper.from_array(w, "grouped.weight"))


def wrong_pad(graph: Any) -> None:
    pads = next(a for a in graph.node[2].attribute if a.name == "pads")
    pads.ints[:] = [0, 0, 2, 2]


@pytest.mark.parametrize("change", [wrong_weight, wrong_pad])
def test_a_mistake_is_found_in_its_layer(
    change: Callable[[Any], None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = 255 * np.random.default_rng(1).random((1, 1, 28, 28), np.float32)
    dump(TINY, "right", x)
    dump(tampered(change), "wrong", x)
    assert told(f"{TINY} --outputs right", capsys)["equal"] is True
    found = told(f"{TINY} --outputs wrong", capsys, status=1)
    verdicts = {layer["name"]: layer["verdict"] for layer in found["layers"]}
    assert verdicts == {"first": "equal", "grouped": "different", "shortcut": "equal", "digits": "equal"}
    assert found["layers"][1]["engine_verdict"] == "equal"
    assert run(["network", TINY, "--outputs", "wrong", "--brief"]) == 1
    assert capsys.readouterr().out.startswith("different: 1 of 4 layers: grouped")


def test_outputs_that_are_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layer's input follows from what was dumped where nothing but moves lies between."""
    dump(TINY, "some", weights(1, 1, 28, 28))
    for name in ("bright", "mean", "flat"):
        os.remove(f"some/{name}.npy")
    verdicts = [
        (one["verdict"], one["why_not_judged"])
        for one in told(f"{TINY} --outputs some --reference", capsys)["layers"]
    ]
    assert [verdict for verdict, _ in verdicts] == ["equal", "equal", "equal", None]
    assert "is not among the outputs" in verdicts[3][1]
    os.remove("some/image.npy")
    assert run(["network", TINY, "--outputs", "some"]) == 2
    assert "input 'image' is missing" in capsys.readouterr().err
    np.save("some/a.npy", np.zeros((1, 8, 3, 3), np.float32))
    assert run(["network", TINY, DIGIT, "--outputs", "some", "--reference"]) == 2
    assert "some/a.npy: has shape (1, 8, 3, 3), 'a' has 1×8×14×14" in capsys.readouterr().err


# What is written


def test_a_layer_as_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its README's commands run, and say that the output is the convolution."""
    assert run(["network", TINY, DIGIT, "--reference", "--layer", "grouped", "-o", "layer", "-q"]) == 0
    assert sorted(os.listdir("layer")) == ["README", "input.npy", "kernel.npy", "output.npy"]
    lines = [line for line in Path("layer/README").read_text().splitlines() if line.startswith("convmat ")]
    assert [line.split()[1] for line in lines] == [
        "unroll",
        "flatten-filters",
        "convolve",
        "verify",
        "matrix",
    ]
    os.chdir("layer")
    for line in lines:
        assert run([*line.split()[1:], "--json"]) == 0, line
        assert capsys.readouterr().err == ""
    np.testing.assert_allclose(np.load("y.npy"), np.load("output.npy"), rtol=1e-4, atol=1e-2)
    assert np.load("x_col.npy").shape == (196, 72)
    assert np.load("w_col.npy").shape == (36, 8)


@pytest.mark.parametrize("case", ["1-D", "3-D", "transposed, cropped", "depthwise"])
def test_other_layers_as_folders(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    op, x, w, options = LAYERS[case]
    np.save("x.npy", weights(*x, seed=1))
    path = one(op, x, weights(*w), **options)
    assert run(["network", path, "x.npy", "--reference", "--layer", "1", "-o", "layer", "-q"]) == 0
    os.chdir("layer")
    for line in Path("README").read_text().splitlines():
        if line.startswith("convmat "):
            assert run([*line.split()[1:], "-q"]) == 0, line


def test_the_network_as_products(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(f"{TINY} {DIGIT} --reference --to-fc fc.onnx", capsys)
    assert (found["rewritten"], found["left"], found["equal"]) == (3, [], True)
    assert found["fc_error_over_bound"] <= 1
    assert found["fc_end"] < 1e-5
    operators = [node.op_type for node in onnx.load("fc.onnx").graph.node]
    assert "Conv" not in operators and operators.count("MatMul") == 3 and operators.count("Gather") == 3
    onnx.checker.check_model("fc.onnx", full_check=True)
    again = told(f"fc.onnx {DIGIT} --reference", capsys)
    assert again["equal"] is True
    some = told(f"{TINY} --to-fc some.onnx --max-elements 15000", capsys)
    assert [one["name"] for one in some["left"]] == ["first"]
    assert "would have 19600 elements, more than 15000" in some["left"][0]["why"]
    assert run(["network", TINY, "--to-fc", "none.onnx", "--max-elements", "10"]) == 2
    assert "has no CONV that can be rewritten" in capsys.readouterr().err
    assert not os.path.exists("none.onnx")


def test_a_wrong_product_would_be_found(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convmat.networks import fc

    right = fc.pixel_table
    monkeypatch.setattr(fc, "pixel_table", lambda layer: right(layer)[:, ::-1])
    assert told(f"{TINY} {DIGIT} --reference --to-fc fc.onnx", capsys, status=1)["equal"] is False


def test_the_gather_is_the_index_mapping(folder: Path) -> None:
    _, [layer] = read(one("Conv", (1, 1, 5, 6), weights(1, 1, 3, 2), strides=[2, 1], pads=[1, 0, 1, 1]))
    from convmat.networks.fc import pixel_table

    table, geometry = pixel_table(layer), layer.geometry
    for row, column in np.ndindex(*table.shape):
        element = geometry.input_index(row, column)
        assert table[row, column] == (30 if element is None else element[1] * 6 + element[2])


# Inputs


def test_inputs_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Add", ["p", "q"], ["x"]),
        helper.make_node("Conv", ["x", "w"], ["y"], "layer"),
    ]
    path = model(nodes, {"p": (1, 1, 6, 6), "q": (1, 1, 6, 6)}, ["y"], {"w": weights(2, 1, 3, 3)})
    np.save("a.npy", weights(1, 1, 6, 6))
    assert told(f"{path} p=a.npy q=a.npy --reference", capsys)["equal"] is True
    for args, problem in (
        ("a.npy a.npy", "'a.npy' is for which input? m.onnx has p, q: give NAME=FILE"),
        ("p=a.npy", "the network's input 'q' is missing"),
    ):
        assert run(["network", path, *args.split()]) == 2
        assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (f"{TINY} {SAMPLES}/scene.png", r"scene.png: is 1×3×256×384, the network's 'image' takes \?×1×28×28"),
        (
            f"{TINY} {DIGIT} --normalize 1,2,3",
            r"--normalize: got 3 numbers; give a mean and a dev.*, or 1 of each",
        ),
        (f"{TINY} {DIGIT} --normalize 1,0", r"--normalize: has a deviation of 0"),
        (f"{TINY} {DIGIT} --normalize a", r"'a' is not numbers; write 127.5,127.5"),
        (f"{TINY} --normalize 1,2", r"--normalize goes with INPUT"),
        (f"{TINY} --layer first -o d", r"--layer goes with INPUT"),
        (f"{TINY} {DIGIT} --layer first", r"--layer goes with --output"),
        (
            f"{TINY} {DIGIT} --reference --layer nothing -o d",
            r"has no layer 'nothing'; it has first, grouped",
        ),
        (f"{TINY} {DIGIT} --reference --layer digits -o d", r"layer 'digits' is a Gemm, an FC layer already"),
        (f"{TINY} {DIGIT} --reference --provider CPU", r"--provider goes without --reference"),
        (f"{TINY} {DIGIT} --to-fc fc.npz", r"fc.npz: is an .npz archive's name.* name it .onnx"),
        (f"{TINY} {DIGIT} --to-fc -", r"standard output: carries .npy bytes, and this is an ONNX model"),
        (f"{TINY} {DIGIT} --input-shape 1,1,28,28", r"--input-shape goes without INPUT"),
        (f"{TINY} --outputs nowhere", r"nowhere: No such file or directory; name a folder of .npy files"),
        (f"{TINY} --max-elements 7", r"--max-elements goes with --to-fc"),
        (DIGIT, r"digit.png: is no ONNX model; expected one, or a .safetensors file"),
        (f"{SAMPLES}/bias_8.npy", r"bias_8.npy: is no ONNX model"),
        ("nothing.onnx", r"nothing.onnx: cannot be read: No such file"),
    ],
)
def test_trouble_is_one_line(
    args: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", *args.split()]) == 2
    captured = capsys.readouterr()
    assert re.match(rf"convmat: .*{problem}", captured.err), captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_pixels_are_normalized_and_laid_out(folder: Path) -> None:
    """An image, an array with channels last, and one as the network has it: the same input."""
    from convmat.cli.networks import NetworkOptions, _feeds

    path = one("Conv", (1, 3, 256, 384), weights(1, 3, 3, 3))
    usual: dict[str, Any] = dict.fromkeys(NetworkOptions.__dataclass_fields__)
    usual |= {"layout": "nchw", "alpha": "keep", "normalize": (1.0, 2.0, 3.0, 10.0, 20.0, 30.0)}
    from PIL import Image

    pixels = np.asarray(Image.open(SAMPLES / "scene.png"))
    np.save("last.npy", pixels)
    np.save("second.npy", pixels.transpose(2, 0, 1)[None])
    scene = str(SAMPLES / "scene.png")
    for name, layout in ((scene, "nchw"), ("last.npy", "nhwc"), ("second.npy", "nchw")):
        [x] = _feeds(Model(path), (name,), NetworkOptions(**usual | {"layout": layout}), None).values()
        wanted = ((pixels - np.array([1, 2, 3])) / [10, 20, 30]).transpose(2, 0, 1)[None]
        np.testing.assert_array_equal(x, wanted.astype(np.float32))


# Hostile files


def damaged(change: Callable[[Any], Any]) -> Callable[[], None]:
    def write() -> None:
        proto = onnx.load(TINY)
        made = change(proto)
        Path("bad.onnx").write_bytes(made if isinstance(made, bytes) else proto.SerializeToString())

    return write


def external(location: str, offset: int = 0, length: int | None = None) -> Callable[[], None]:
    def change(proto: Any) -> None:
        tensor = proto.graph.initializer[0]
        data = tensor.raw_data
        os.makedirs("inside", exist_ok=True)
        for name in ("weights.bin", "inside/weights.bin"):
            Path(name).write_bytes(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", location),
            ("offset", str(offset)),
            ("length", str(length or len(data))),
        ):
            tensor.external_data.add(key=key, value=value)

    return damaged(change)


def cycle(proto: Any) -> None:
    proto.graph.node[1].input[0] = "sum"


def negative(proto: Any) -> None:
    proto.graph.initializer[0].dims[0] = -8


def huge(proto: Any) -> None:
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40, 5, 5]


def later(proto: Any) -> None:
    proto.opset_import[0].version = 999


def linked() -> None:
    external("link/weights.bin")()
    os.symlink("/etc", "link")


BAD: dict[str, tuple[Callable[[], None], str]] = {
    "empty": (lambda: Path("bad.onnx").write_bytes(b""), "is empty"),
    "noise": (lambda: Path("bad.onnx").write_bytes(bytes(range(256)) * 4), "is no ONNX model"),
    "cut off": (damaged(lambda p: p.SerializeToString()[:-700]), "is no ONNX model"),
    "a cycle": (damaged(cycle), "node 'relu' takes 'sum', which nothing before it makes"),
    "made twice": (damaged(lambda p: p.graph.node.append(p.graph.node[0])), "makes 'edges' twice"),
    "a later opset": (damaged(later), "is of opset 999, .* knows 1 to"),
    "an attribute of another type": (
        damaged(lambda p: p.graph.node[0].attribute.append(helper.make_attribute("auto_pad", 3))),
        "node 'first' has 'auto_pad' of another type than Conv takes",
    ),
    "no nodes": (damaged(lambda p: p.graph.ClearField("node")), "has no 'scores', an output of it"),
    "huge": (damaged(huge), "has 800 bytes of weights 'first.weight', whose shape"),
    "a negative size": (damaged(negative), "of an impossible shape"),
    "another kernel": (
        damaged(lambda p: p.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [3, 3]))),
        r"layer 'first': kernel: is said to be of \(3, 3\), its weights .* \(5, 5\)|cannot be inferred",
    ),
    "other channels": (
        damaged(lambda p: p.graph.initializer[2].dims.__setitem__(slice(0, 2), [4, 8])),
        "layer 'grouped': .*channels in 2 groups|cannot be inferred",
    ),
    "weights outside": (
        external("../weights.bin"),
        "has its weights in '../weights.bin', which is not beside it",
    ),
    "weights anywhere": (external("/etc/passwd"), "has its weights in '/etc/passwd', which is not beside it"),
    "a link out": (linked, "has its weights in 'link/weights.bin', a link that leads elsewhere"),
    "no such weights": (external("gone.bin"), "gone.bin: cannot be read"),
    "weights beyond the end": (
        external("weights.bin", 8),
        "weights.bin: has 800 bytes, and .* beyond its end",
    ),
    "a folder for weights": (external("inside"), "inside: is no regular file"),
    "a Python pickle": (lambda: Path("bad.onnx").write_bytes(b"\x80\x02}q\x00."), "torch.onnx.export"),
    "JSON": (lambda: Path("bad.onnx").write_bytes(b'{"graph": {}}'), "is no ONNX model"),
}


@pytest.mark.parametrize("case", BAD)
def test_hostile_files_are_refused(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, problem = BAD[case]
    make()
    assert run(["network", "bad.onnx", DIGIT, "--reference"]) == 2
    err = capsys.readouterr().err
    assert re.search(problem, err), err
    assert err.count("\n") == 1 and "internal" not in err


def test_weights_beside_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    external("inside/weights.bin")()
    found = told(f"bad.onnx {DIGIT} --reference --to-fc fc.onnx", capsys)
    assert found["equal"] is True
    os.rename("inside", "away")  # what is written holds all it needs
    assert told(f"fc.onnx {DIGIT} --reference", capsys)["equal"] is True


def test_pytorch_files_get_the_line_that_exports_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import zipfile

    with zipfile.ZipFile("w.pt", "w") as archive:
        archive.writestr("w/data.pkl", b"")
    assert run(["network", "w.pt"]) == 2
    err = capsys.readouterr().err
    assert 'torch.onnx.export(model, torch.zeros(1, 3, 224, 224), "model.onnx")' in err
    assert "safetensors.torch.save_file" in err


def test_names_with_control_characters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "\x1b[31mred\n[bold]")
    path = model([node], {"x": (1, 1, 5, 5)}, ["y"], {"w": weights(1, 1, 3, 3)})
    assert run(["network", path]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert told(path, capsys)["layers"][0]["name"] == "\x1b[31mred\n[bold]"


def test_branches_are_not_looked_into(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"])], "then", [], [helper.make_empty_tensor_value_info("z")]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], "if", then_branch=inside, else_branch=inside),
        helper.make_node("Conv", ["x", "w"], ["v"], "layer"),
    ]
    held = {"w": weights(1, 1, 3, 3), "c": np.array(True)}
    path = model(nodes, {"x": (1, 1, 5, 5)}, ["y", "v"], held)
    np.save("x.npy", weights(1, 1, 5, 5))
    assert run(["network", path, "x.npy", "--reference"]) == 0
    assert "If 'if' has 2 CONV layers inside; that is not looked into" in capsys.readouterr().err


def test_products_of_two_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in attention: listed, and not judged; what is made right before is there all the same."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "b"], ["scores"], "scores"),
        helper.make_node("MatMul", ["scores", "w"], ["y"], "layer"),
    ]
    path = model(nodes, {"x": (1, 3, 4)}, ["y"], {"w": weights(3, 5)})
    np.save("x.npy", weights(1, 3, 4))
    first, second = told(f"{path} x.npy --reference", capsys)["layers"]
    assert (first["weights"], first["weight_uses"], first["verdict"]) == (0, None, None)
    assert "both depend on the input" in first["why_not_judged"]
    assert (second["matrix_shape"], second["weight_shape"], second["verdict"]) == ([3, 3], [3, 5], "equal")


def test_zero_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one("Conv", ("N", 1, 5, 5), weights(2, 1, 3, 3))
    np.save("x.npy", np.zeros((0, 1, 5, 5), np.float32))
    found = told(f"{path} x.npy --reference", capsys)
    assert (found["layers"][0]["output_shape"], found["equal"]) == ([0, 2, 3, 3], True)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra(
    missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(["network", TINY, DIGIT]) == 2
    remedy = "pip install 'convmat[networks]' brings it"
    assert capsys.readouterr().err == f"convmat: {missing}: is not installed, and reads networks; {remedy}\n"


# Safetensors


def tensors(path: str, **arrays: Any) -> None:
    """A file as the format has it; bfloat16 is given as its bits, uint16."""
    header, data = {}, b""
    for name, array in arrays.items():
        code = {"float32": "F32", "float64": "F64", "int8": "I8", "uint16": "BF16"}[str(array.dtype)]
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_safetensors_kernels_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = weights(4, 1, 3, 3)
    half = (w.view(np.uint32) >> 16).astype(np.uint16)
    tensors("w.safetensors", **{"conv.weight": w, "half": half, "bias": w[:, 0, 0, 0]})
    x = weights(1, 9, 9, 1)
    np.save("x.npy", x)
    for name, filters in (("conv.weight", w), ("half", (half.astype(np.uint32) << 16).view(np.float32))):
        line = f"convolve x.npy --kernel w.safetensors:{name} --kernel-layout oihw -o y.npy -q"
        assert run(line.split()) == 0
        np.testing.assert_array_equal(np.load("y.npy"), cm.convolve(x, np.moveaxis(filters, 1, -1)))
    for args, problem in (
        ("w.safetensors:none", "has no such tensor; w.safetensors has conv.weight, half, bias"),
        (
            "w.safetensors",
            "has 3 tensors, conv.weight, half, bias; name one, as in w.safetensors:conv.weight",
        ),
    ):
        assert run(["convolve", "x.npy", "--kernel", args]) == 2
        assert problem in capsys.readouterr().err
    tensors("one.safetensors", k=w)
    assert run(["convolve", "x.npy", "--kernel", "one.safetensors", "--kernel-layout", "oihw", "-q"]) == 0


def test_safetensors_kernels_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors("w.safetensors", a=weights(4, 2, 3, 3), b=weights(7), c=weights(6, 1, 1, 5), d=weights(2, 2))
    found = told("w.safetensors", capsys)
    assert [(one["name"], one["kernel_shape"]) for one in found["layers"]] == [
        ("a", [4, 2, 3, 3]),
        ("c", [6, 1, 1, 5]),
    ]
    assert found["layers"][0]["matrix_shape"] is None
    sized = told("w.safetensors --input-shape 1,2,8,9", capsys)
    assert sized.keys() == told(TINY, capsys).keys()
    assert (sized["layers"][0]["matrix_shape"], sized["layers"][0]["weight_shape"]) == ([42, 18], [18, 4])
    assert (sized["layers"][1]["groups"], sized["layers"][1]["output_shape"]) == (2, [1, 6, 8, 5])
    assert run(["network", "w.safetensors", DIGIT]) == 2
    assert "INPUT goes with a network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("F16", "float16"),
        ("F64", "float64"),
        ("BF16", "bfloat16"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
        ("I16", "int16"),
        ("U8", "uint8"),
        ("BOOL", "bool"),
        ("C64", "complex64"),
    ],
)
def test_every_dtype_of_safetensors_is_a_kernel(
    code: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a kernel, in the list of kernels, and as a result that is judged in the format it was rounded to."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    w = (4 * weights(4, 1, 3, 3)).astype(dtype)
    x = weights(1, 7, 7, 1)
    np.save("x.npy", x)
    wide = w.astype(np.float32 if dtype.isbuiltin == 2 else dtype)
    y = cm.convolve(x, np.moveaxis(wide, 1, -1))
    rounded = y.astype(dtype) if dtype.isbuiltin == 2 else y
    data = w.tobytes() + rounded.tobytes()
    of_y = code if dtype.isbuiltin == 2 else {"complex64": "C64", "float64": "F64"}.get(name, "F32")
    header = {
        "w": {"dtype": code, "shape": w.shape, "data_offsets": [0, w.nbytes]},
        "y": {"dtype": of_y, "shape": y.shape, "data_offsets": [w.nbytes, len(data)]},
    }
    text = json.dumps(header).encode()
    Path("w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    kernel = "x.npy --kernel w.safetensors:w --kernel-layout oihw"
    assert run(f"convolve {kernel} -o y.npy -q".split()) == 0
    np.testing.assert_array_equal(np.load("y.npy"), y)
    assert run(f"verify {kernel} --expected w.safetensors:y".split()) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert [one["name"] for one in told("w.safetensors", capsys)["layers"]] == ["w", "y"]


def test_tensors_of_other_dtypes_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = {"w": {"dtype": "F4", "shape": [1, 1, 3, 3], "data_offsets": [0, 5]}}
    text = json.dumps(header).encode()
    Path("w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(5))
    assert told("w.safetensors", capsys)["layers"][0]["kernel_shape"] == [1, 1, 3, 3]
    assert run(["convolve", DIGIT, "--kernel", "w.safetensors:w"]) == 2
    assert "w.safetensors:w: is of F4, which is not read; save it as float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (
            {"k": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}},
            "k is F32 of shape \\(2, 2\\), 16 bytes, and has 8",
        ),
        ({"k": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}}, "must be 0 to 8"),
        ({"k": {"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 8]}}, "k.shape"),
        ({"k": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, "k.dtype must be one of"),
        ({"k": []}, "damaged header"),
        ({"k": {"dtype": "F32", "shape": [2]}}, "damaged header"),
    ],
)
def test_damaged_safetensors(
    header: Any, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(header).encode()
    Path("w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    for args in (["network", "w.safetensors"], ["convolve", DIGIT, "--kernel", "w.safetensors:k"]):
        assert run(args) == 2
        err = capsys.readouterr().err
        assert re.search(problem, err) and err.count("\n") == 1, err
    Path("w.safetensors").write_bytes(struct.pack("<Q", 1 << 50) + b'{"k":')
    assert run(["network", "w.safetensors"]) == 2


def test_files_of_the_safetensors_package(folder: Path) -> None:
    package = pytest.importorskip("safetensors.numpy")
    from convmat.files.npy import NpyInput

    arrays = {"a": weights(3, 2), "b": weights(2, 1, 4, dtype=np.int16), "c": np.ones((2, 2), bool)}
    package.save_file(arrays, "w.safetensors")
    for name, array in arrays.items():
        read_back = NpyInput(f"w.safetensors:{name}").read()
        assert read_back.dtype == array.dtype
        np.testing.assert_array_equal(read_back, array)


# onnxruntime


def test_onnxruntime_is_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    found = told(f"{TINY} {DIGIT} --to-fc fc.onnx", capsys)
    assert (found["equal"], found["rewritten"]) == (True, 3)
    assert found["run_by"].startswith("onnxruntime ")
    assert told(f"fc.onnx {DIGIT} --provider cpu", capsys)["equal"] is True
    assert run(["network", TINY, DIGIT, "--provider", "Abacus"]) == 2
    assert "--provider: onnxruntime has no 'Abacus' here; it has CPU" in capsys.readouterr().err.replace(
        "Azure", "CPU"
    )


@every_layer
def test_onnxruntime_layers(case: str, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    op, x, w, options = LAYERS[case]
    network, [layer] = read(one(op, x, weights(*w), **options))
    feeds, evaluator = {"x": weights(*x, seed=1)}, Evaluator(network)
    [judged], _ = run_and_judge(network, [layer], feeds, evaluator)
    assert judged.theirs and judged.theirs.equal
    fc = network.like(rewrite(network, [layer]).proto, "fc.onnx", {"x": x})
    [again], _ = run_and_judge(fc, [layer], feeds, evaluator.on(fc), weights=network.constant, ours=False)
    assert again.theirs and again.theirs.equal


def test_what_cannot_be_run_is_told(folder: Path) -> None:
    node = helper.make_node("Nothing", ["x"], ["a"], domain="no.such")
    last = helper.make_node("Conv", ["a", "w"], ["y"], "layer")
    path = model([node, last], {"x": (1, 1, 5, 5)}, ["y"], {"w": weights(1, 1, 3, 3)})
    proto = onnx.load(path)
    proto.opset_import.append(helper.make_opsetid("no.such", 1))
    Path(path).write_bytes(proto.SerializeToString())
    network, layers = read(path)
    with pytest.raises(
        FileError, match=r"what begins with|node 'a' cannot be run by onnx's reference evaluator"
    ):
        run_and_judge(network, layers, {"x": weights(1, 1, 5, 5)}, Evaluator(network, reference=True))
