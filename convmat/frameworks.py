"""What other frameworks pad under the name SAME, and how the pads are said in each; pure integers.

Each rule is as its documentation has it (tf.nn, torch.nn.Conv2d, ONNX's Conv, jax.lax.conv_general_dilated);
the tests ask PyTorch and onnxruntime themselves, where they are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from convmat.checks import got
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry, named_pads

Pads = tuple[tuple[int, int], ...]


class FrameworkPads(NamedTuple):
    """What a framework does under one of its names."""

    framework: str
    rule: str
    """The framework's name of it."""
    pads: Pads | None
    """(before, after) for each spatial axis; None where the framework refuses."""
    differs: bool
    """Whether that is something else than TensorFlow's SAME, which is the padding `same` here."""
    note: str
    """Why, or by whom, it is refused (onnxruntime: as of 1.32); empty where there is nothing to say."""


# Framework, its name of the rule, and the rule here.
_RULES = (
    ("TensorFlow, Keras", "SAME", "same"),
    ("JAX", "SAME", "same"),
    ("ONNX", "SAME_UPPER", "same"),
    ("PyTorch", "same", "same"),
    ("JAX", "SAME_LOWER", "same-lower"),
    ("ONNX", "SAME_LOWER", "same-lower"),
)


def framework_pads(geometry: ConvGeometry) -> list[FrameworkPads]:
    """What each framework's SAME comes to for this input, kernel, stride and dilation.

    Except for PyTorch, which knows it for stride 1 only, the output is ceil(H / S) everywhere; they differ in
    the side that an odd pixel goes to.

    Raises:
        GeometryError: what is no ConvGeometry.
    """
    if not isinstance(geometry, ConvGeometry):
        raise GeometryError(
            "geometry", f"expected ConvGeometry(input_shape, kernel_size, …), got {got(geometry)}"
        )
    by_rule = {rule: _pads_under(rule, geometry) for rule in ("same", "same-lower")}
    strided, dilated = max(geometry.stride) > 1, max(geometry.dilation) > 1
    notes = {
        "PyTorch": "refused: for stride 1 only" if strided else "",
        "TensorFlow, Keras": "Keras refuses stride and dilation at once" if strided and dilated else "",
        "ONNX": "onnxruntime refuses it with dilation" if dilated else "",
    }
    found = []
    for framework, name, rule in _RULES:
        pads = None if framework == "PyTorch" and strided else by_rule[rule]
        differs = pads not in (None, by_rule["same"])
        found.append(FrameworkPads(framework, name, pads, differs, notes.get(framework, "")))
    return found


def _pads_under(rule: str, geometry: ConvGeometry) -> Pads:
    return tuple(
        named_pads(rule, size, extent, stride)
        for size, extent, stride in zip(geometry.input_size, geometry.extent, geometry.stride, strict=True)
    )


def _tensorflow(pads: Pads) -> str:
    return f"tf.pad(x, {[[0, 0], *map(list, pads), [0, 0]]}), padding='VALID'"


def _pytorch(pads: Pads) -> str:
    # From the last axis to the first.
    return f"F.pad(x, {tuple(count for pair in reversed(pads) for count in pair)})"


def _onnx(pads: Pads) -> str:
    return f"pads={[before for before, _ in pads] + [after for _, after in pads]}"


def _jax(pads: Pads) -> str:
    return f"padding={list(pads)}"


EXPLICIT_PADS: dict[str, Callable[[Pads], str]] = {
    "TensorFlow, Keras": _tensorflow,
    "PyTorch": _pytorch,
    "ONNX": _onnx,
    "JAX": _jax,
}
"""How pads, (before, after) for each spatial axis, are written out in each framework.

TensorFlow's for channels last, PyTorch's for channels first; ONNX's is an attribute of Conv, JAX's an
argument of jax.lax.conv_general_dilated.
"""
