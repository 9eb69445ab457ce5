"""Chains of layers: sizes, receptive field, total stride, against the pixels that outputs depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat as cm
from convmat.errors import GeometryError

Layer = dict[str, Any]

layers = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "padding": st.sampled_from(["valid", "same", "same-lower", "half", "full"])
        | st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "dilation": st.integers(1, 3),
    }
)
chains = st.lists(layers, min_size=1, max_size=4)


def fitting(size: int, wanted: list[Layer]) -> list[Layer]:
    """As many of the first layers as fit an input of `size`."""
    for count in range(len(wanted), 0, -1):
        try:
            cm.chain((1, size, 1), wanted[:count])
            return wanted[:count]
        except GeometryError:
            continue
    return []


def seen_from(found: list[Any], output: int) -> set[int]:
    """The positions of the first layer's padded line that an output is made of, layer by layer backwards."""
    seen = {output}
    for layer in reversed(found):
        g = layer.geometry
        (k,), (s,), (d,), ((before, _),) = g.kernel_size, g.stride, g.dilation, g.pads
        seen = {y * s + i * d - before for y in seen for i in range(k)}
    return seen


@given(st.integers(1, 60), chains)
def test_an_output_sees_its_receptive_field(size: int, wanted: list[Layer]) -> None:
    found = cm.chain((1, size, 1), fitting(size, wanted))
    for count in range(1, len(found) + 1):
        last = found[count - 1]
        (r,), (j,), (start,) = last.receptive_field, last.total_stride, last.start
        for output in (0, last.geometry.output_size[0] - 1):
            seen = seen_from(found[:count], output)
            assert (min(seen), max(seen)) == (start + output * j, start + output * j + r - 1)


@given(st.integers(1, 40), chains)
def test_outputs_depend_on_no_other_pixels(size: int, wanted: list[Layer]) -> None:
    """Each pixel in turn is 1, all others 0, through convolutions of ones: positive where there is a path."""
    wanted = fitting(size, wanted)
    found = cm.chain((1, size, 1), wanted)
    if not found:
        return
    x = np.eye(size)[:, :, None]
    for layer in wanted:
        rest = {name: value for name, value in layer.items() if name != "kernel_size"}
        x = cm.convolve(x, np.ones((1, layer["kernel_size"], 1)), **rest)
    assert x.shape[1:-1] == found[-1].geometry.output_size
    (r,), (j,), (start,) = found[-1].receptive_field, found[-1].total_stride, found[-1].start
    unpadded = all(layer.geometry.pads == ((0, 0),) for layer in found)
    for output, sees in enumerate(x[:, :, 0].T > 0):
        pixels = np.flatnonzero(sees)
        first, last = start + output * j, start + output * j + r - 1
        assert all(first <= pixel <= last for pixel in pixels)
        if unpadded:
            assert (pixels[0], pixels[-1]) == (first, last)


@given(chains, chains)
def test_axes_are_apart(rows: list[Layer], columns: list[Layer]) -> None:
    rows, columns = fitting(30, rows), fitting(40, columns)
    count = min(len(rows), len(columns))
    down, across = cm.chain((1, 30, 1), rows[:count]), cm.chain((1, 40, 1), columns[:count])

    def joined(y: Any, x: Any) -> dict[str, Any]:
        names = ("kernel_size", "stride", "pads", "dilation")
        both = {name: getattr(y.geometry, name) + getattr(x.geometry, name) for name in names}
        return {name if name != "pads" else "padding": value for name, value in both.items()}

    both = cm.chain((1, 30, 40, 1), [joined(y, x) for y, x in zip(down, across, strict=True)])
    for layer, y, x in zip(both, down, across, strict=True):
        assert layer.geometry.output_size == y.geometry.output_size + x.geometry.output_size
        for name in ("receptive_field", "total_stride", "start"):
            assert getattr(layer, name) == getattr(y, name) + getattr(x, name)


def test_the_beginning_of_a_resnet() -> None:
    """7 × 7 of stride 2, a pooling of 3 × 3 and stride 2, four 3 × 3: fields 7, 11, 19, 27, 35, 43."""
    three = {"kernel_size": 3, "padding": 1}
    wanted = [{"kernel_size": 7, "stride": 2, "padding": 3}, three | {"stride": 2}, *[three] * 4]
    found = cm.chain((1, 224, 224, 3), wanted)
    assert [layer.receptive_field for layer in found] == [(n, n) for n in (7, 11, 19, 27, 35, 43)]
    assert [layer.total_stride[0] for layer in found] == [2, 4, 4, 4, 4, 4]
    assert [layer.start[0] for layer in found] == [-3, -5, -9, -13, -17, -21]
    assert [layer.geometry.output_size[0] for layer in found] == [112, 56, 56, 56, 56, 56]


def test_no_layers_are_a_chain() -> None:
    assert cm.chain((1, 5, 1), []) == []


def test_a_layer_that_does_not_fit_is_named() -> None:
    with pytest.raises(
        GeometryError, match=r"^layer: number 2: kernel_size: the kernel spans 9 pixels of w.* 7;"
    ):
        cm.chain((1, 9, 1), [{"kernel_size": 3}, {"kernel_size": 9}])
