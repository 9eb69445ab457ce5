"""ONNX's own backend cases for Conv, ConvInteger, ConvTranspose and Col2Im.

The expected values are not ours: the onnx package writes them out by hand (group "node") or
recorded them from PyTorch ("pytorch-converted" and "pytorch-operator").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

# Importing a module of `case.node` makes its cases. The loader would import them all: 1,900 cases,
# four seconds, and NumPy warnings that count as errors here. It, too, reads this private list.
from onnx.backend.test.case.node import (  # noqa: F401
    _NodeTestCases,
    col2im,
    conv,
    convinteger,
    convtranspose,
)
from onnx.backend.test.loader import load_model_tests

import convmat as cm

COUNTS = {
    ("node", "Conv"): 6,
    ("pytorch-converted", "Conv"): 26,
    ("pytorch-operator", "Conv"): 1,
    ("node", "ConvInteger"): 2,
    ("node", "ConvTranspose"): 11,
    ("pytorch-converted", "ConvTranspose"): 2,
    ("pytorch-operator", "ConvTranspose"): 1,
    ("node", "Col2Im"): 5,
}
OPERATORS = {operator for _, operator in COUNTS}
AUTO_PAD = {b"VALID": "valid", b"SAME_UPPER": "same", b"SAME_LOWER": "same-lower"}


class Case(NamedTuple):
    """A model of one node, with its data."""

    name: str
    group: str
    node: onnx.NodeProto
    inputs: dict[str, np.ndarray]  # by the node's names for them, stored weights included
    expected: np.ndarray


def find_cases() -> Iterator[Case]:
    """The models made of one such node and nothing else."""
    stored = load_model_tests(kind="pytorch-converted") + load_model_tests(kind="pytorch-operator")
    for case in (*_NodeTestCases, *sorted(stored, key=lambda case: case.name)):
        model = case.model or onnx.load(Path(case.model_dir, "model.onnx"))
        operators = [node.op_type for node in model.graph.node]
        if len(operators) != 1 or operators[0] not in OPERATORS:
            continue
        values = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
        # Old models list their weights among the inputs too, but no data come for those.
        fed = [i.name for i in model.graph.input if i.name not in values]
        # Unpacked, so that a second data set or output could not go untested.
        ((inputs, (expected,)),) = case.data_sets or read_data_sets(Path(case.model_dir))
        values |= zip(fed, map(np.asarray, inputs), strict=True)
        yield Case(case.name, case.kind, model.graph.node[0], values, expected)


def read_data_sets(folder: Path) -> list[list[list[np.ndarray]]]:
    """[inputs, outputs] of each data set stored beside a model."""

    def read(files: Iterator[Path]) -> list[np.ndarray]:
        return [numpy_helper.to_array(onnx.load_tensor(file)) for file in sorted(files)]

    data_sets = folder.glob("test_data_set_*")
    return [[read(data.glob(f"{role}_*.pb")) for role in ("input", "output")] for data in data_sets]


CASES = list(find_cases())


def run(node: onnx.NodeProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The node's result, channels first as ONNX has it."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    # An optional input that is left out is missing at the end, or named "" before others.
    x, second, *optional = (inputs[name] if name else None for name in node.input)
    if node.op_type == "Col2Im":
        result = fold(x, second, *optional, attributes)
    else:
        result = convolve(node.op_type, x, second, optional, attributes)
    assert not attributes, f"not handled: {attributes}"
    return np.moveaxis(result, -1, 1)


def convolve(
    operator: str, x: np.ndarray, filters: np.ndarray, optional: list[Any], attributes: dict[str, Any]
) -> np.ndarray:
    bias = None
    if operator == "ConvInteger":
        # Before padding: a padded pixel is to count as the zero point.
        x_zero, filters_zero = [*optional, None, None][:2]
        x, filters = subtract_zero(x, x_zero), subtract_zero(filters, filters_zero)
    else:
        (bias,) = optional or [None]
    kernel, groups = filters.shape[2:], attributes.pop("group", 1)
    assert tuple(attributes.pop("kernel_shape", kernel)) == kernel
    more = {}
    if operator == "ConvTranspose":
        more["output_padding"] = attributes.pop("output_padding", 0)
        if size := attributes.pop("output_shape", None):
            more["input_shape"] = (len(x), *size, filters.shape[1] * groups)
    run = cm.convolve_transpose if operator == "ConvTranspose" else cm.convolve
    return run(
        np.moveaxis(x, 1, -1),
        np.moveaxis(filters, 1, -1),
        **take_steps(attributes, len(kernel)),
        groups=groups,
        bias=bias,
        **more,
    )


def fold(
    x: np.ndarray, image_shape: np.ndarray, block_shape: np.ndarray, attributes: dict[str, Any]
) -> np.ndarray:
    """Col2Im's matrices have patches as columns, whose elements run over channels first."""
    shape = (len(x), *image_shape.tolist(), x.shape[1] // int(block_shape.prod()))
    steps = take_steps(attributes, len(block_shape))
    return cm.fold(x.transpose(0, 2, 1), shape, tuple(block_shape.tolist()), **steps, order="chw")


def take_steps(attributes: dict[str, Any], axes: int) -> dict[str, Any]:
    """Stride, padding and dilation, taken out."""
    return {
        "stride": tuple(attributes.pop("strides", [1] * axes)),
        "padding": take_padding(attributes, axes),
        "dilation": tuple(attributes.pop("dilations", [1] * axes)),
    }


def subtract_zero(values: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """Exact `values - zero`; `zero` is one number, or one for each filter."""
    exact = values.astype(np.int64)
    return exact if zero is None else exact - zero.reshape(-1, *[1] * (values.ndim - 1))


def take_padding(attributes: dict[str, Any], axes: int) -> str | tuple[tuple[int, int], ...]:
    """`auto_pad` and `pads` (the befores of all axes, then the afters), taken out."""
    rule = attributes.pop("auto_pad", b"NOTSET")
    pads = attributes.pop("pads", [0] * 2 * axes)
    pairs = tuple(zip(pads[:axes], pads[axes:], strict=True))
    return pairs if rule == b"NOTSET" else AUTO_PAD[rule]


def test_no_case_is_missing() -> None:
    assert Counter((case.group, case.node.op_type) for case in CASES) == COUNTS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    result = run(case.node, case.inputs)
    assert result.shape == case.expected.shape
    if case.node.op_type == "ConvInteger":
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, case.expected)
    else:
        assert result.dtype == case.expected.dtype
        atol = 1e-6 * np.abs(case.expected).max()
        np.testing.assert_allclose(result, case.expected, rtol=1e-5, atol=atol)
