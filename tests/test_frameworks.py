"""Other frameworks' SAME: claims on PyTorch and ONNX, asked of PyTorch and onnxruntime by impulses."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat as cm
from convmat.sizes import EXPLICIT_PADS

LINES = list(itertools.product((1, 2, 5, 6), (1, 2, 3, 4), (1, 2, 3), (1, 2)))  # size, k, stride, dilation


def claims(size: tuple[int, ...], k: Any, stride: Any = 1, dilation: Any = 1) -> dict[tuple[str, str], Any]:
    geometry = cm.ConvGeometry((1, *size, 1), k, stride, "full", dilation)
    return {(f.framework, f.rule): f for f in cm.framework_pads(geometry)}


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_each_gives_the_size_and_pads_as_little_as_it_can(size: int, k: int, s: int, d: int) -> None:
    found = claims((size,), k, s, d)
    assert len(found) == 6
    for f in found.values():
        if f.pads is None:
            assert f.framework == "PyTorch" and s > 1
            continue
        [(before, after)] = f.pads
        geometry = cm.ConvGeometry((1, size, 1), k, s, f.pads, d)
        assert geometry.output_size == (-(-size // s),)
        assert 0 <= (before - after if "LOWER" in f.rule else after - before) <= 1
        assert f.differs == (f.pads != found["TensorFlow, Keras", "SAME"].pads)
        if before + after:
            fewer = size + before + after - 1 - (d * (k - 1) + 1)
            assert fewer // s + 1 < -(-size // s)


@pytest.mark.parametrize(
    ("size", "k", "stride", "dilation", "notes"),
    [
        (9, 3, 1, 1, {}),
        (9, 3, 2, 1, {"PyTorch": "refused: for stride 1 only"}),
        (9, 3, 1, 2, {"ONNX": "onnxruntime refuses it with dilation"}),
        (
            9,
            3,
            2,
            2,
            {
                "PyTorch": "refused: for stride 1 only",
                "ONNX": "onnxruntime refuses it with dilation",
                "TensorFlow, Keras": "Keras refuses stride and dilation at once",
            },
        ),
    ],
)
def test_who_refuses(size: int, k: int, stride: int, dilation: int, notes: dict[str, str]) -> None:
    for f in claims((size,), k, stride, dilation).values():
        assert f.note == notes.get(f.framework, "")


def test_one_strided_axis_is_enough_for_pytorch() -> None:
    assert claims((9, 9), 3, (1, 2))["PyTorch", "same"].pads is None


@pytest.mark.parametrize(
    ("pads", "told"),
    [
        (
            ((1, 2),),
            {
                "TensorFlow, Keras": "tf.pad(x, [[0, 0], [1, 2], [0, 0]]), padding='VALID'",
                "PyTorch": "F.pad(x, (1, 2))",
                "ONNX": "pads=[1, 2]",
                "JAX": "padding=[(1, 2)]",
            },
        ),
        (
            ((1, 2), (3, 4), (5, 6)),
            {
                "TensorFlow, Keras": "tf.pad(x, [[0, 0], [1, 2], [3, 4], [5, 6], [0, 0]]), padding='VALID'",
                "PyTorch": "F.pad(x, (5, 6, 3, 4, 1, 2))",
                "ONNX": "pads=[1, 3, 5, 2, 4, 6]",
                "JAX": "padding=[(1, 2), (3, 4), (5, 6)]",
            },
        ),
    ],
)
def test_pads_as_each_says_them(pads: Any, told: dict[str, str]) -> None:
    assert {framework: write(pads) for framework, write in EXPLICIT_PADS.items()} == told


def impulses(size: int) -> np.ndarray:
    """Every line with a single 1, channels first."""
    return np.eye(size, dtype=np.float32)[:, None]


def expected(size: int, k: int, stride: int, dilation: int, pads: Any) -> np.ndarray:
    """What pads would make of the impulses under a kernel that numbers its taps from 1."""
    taps = np.arange(1, k + 1, dtype=np.float32)[None, :, None]
    return cm.convolve(np.moveaxis(impulses(size), 1, -1), taps, stride, pads, dilation)[..., 0]


def test_pytorch_pads_so() -> None:
    torch = pytest.importorskip("torch")
    for size, k, s, d in LINES:
        x, taps = torch.from_numpy(impulses(size)), torch.arange(1.0, k + 1)[None, None]
        claim = claims((size,), k, s, d)["PyTorch", "same"]

        def same(x: Any = x, taps: Any = taps, s: int = s, d: int = d) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a copy that uneven padding makes
                return torch.nn.functional.conv1d(x, taps, stride=s, padding="same", dilation=d)

        if claim.pads is None:
            with pytest.raises(RuntimeError, match="not supported for strided"):
                same()
            continue
        np.testing.assert_array_equal(same()[:, 0], expected(size, k, s, d, claim.pads))
        F = torch.nn.functional  # as it is called where the explicit pads are pasted
        padded = eval(EXPLICIT_PADS["PyTorch"](claim.pads), {"F": F, "x": x})
        assert (F.conv1d(padded, taps, dilation=d) == same()).all()


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
def test_onnxruntime_pads_so(rule: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    for size, k, s, d in LINES:
        claim = claims((size,), k, s, d)["ONNX", rule]
        where = {"strides": [s], "dilations": [d]}
        explicit = eval(f"dict({EXPLICIT_PADS['ONNX'](claim.pads)})")
        wanted = expected(size, k, s, d, claim.pads)
        np.testing.assert_array_equal(onnx_conv(runtime, size, k, where | explicit), wanted)
        if claim.note:
            with pytest.raises(Exception, match="Dilation not supported for AutoPadType"):
                onnx_conv(runtime, size, k, where | {"auto_pad": rule})
        else:
            np.testing.assert_array_equal(onnx_conv(runtime, size, k, where | {"auto_pad": rule}), wanted)


def onnx_conv(runtime: Any, size: int, k: int, attributes: dict[str, Any]) -> np.ndarray:
    """The impulses through a Conv node."""
    from onnx import TensorProto, helper

    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, k], np.arange(1.0, k + 1))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 4
    session = runtime.InferenceSession(model.SerializeToString(), quiet)
    return session.run(None, {"x": impulses(size)})[0][:, 0]
