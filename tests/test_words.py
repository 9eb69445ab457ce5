"""A geometry in words: what is left of each equality sign, computed, is what is right of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

import convmat as cm
from convmat.geometry import ConvGeometry
from convmat.transposed import transpose_geometry
from convmat.words import (
    column_formula,
    output_formulas,
    pads_text,
    pixel_formulas,
    row_formula,
    transpose_formulas,
)
from tests.strategies import Layer, layers


@pytest.mark.parametrize(
    "size, arguments, text",
    [
        (28, {"kernel_size": 7, "stride": 7}, "floor((28 + 0 + 0 - 7) / 7) + 1 = 4"),
        (5, {"kernel_size": 3, "padding": ((1, 2),)}, "floor((5 + 1 + 2 - 3) / 1) + 1 = 6"),
        (
            9,
            {"kernel_size": 3, "dilation": 2, "stride": 2},
            "floor((9 + 0 + 0 - (2*(3 - 1) + 1)) / 2) + 1 = 3",
        ),
        (6, {"kernel_size": 4, "padding": "same"}, "floor((6 + 1 + 2 - 4) / 1) + 1 = 6"),
    ],
)
def test_output_formula(size: int, arguments: dict[str, Any], text: str) -> None:
    assert output_formulas(ConvGeometry((1, size, 1), **arguments)) == [text]


def test_output_formula_of_each_axis() -> None:
    geometry = ConvGeometry((1, 6, 9, 1), (2, 3), stride=(1, 2), padding=(0, 1))
    assert output_formulas(geometry) == [
        "floor((6 + 0 + 0 - 2) / 1) + 1 = 5",
        "floor((9 + 1 + 1 - 3) / 2) + 1 = 5",
    ]


@pytest.mark.parametrize(
    "size, arguments, text",
    [
        (112, {"stride": 2, "padding": 1, "output_padding": 1}, "(112 - 1)*2 - (1 + 1) + 3 + 1 = 224"),
        (3, {"padding": ((0, 1),)}, "(3 - 1)*1 - (0 + 1) + 3 + 0 = 4"),
        (3, {"stride": 2, "padding": "same"}, "(3 - 1)*2 - (0 + 1) + 3 + 0 = 6"),
        (3, {"stride": 4, "padding": "same"}, "(3 - 1)*4 - (0 + 0) + 3 + 1 = 12"),
        (3, {"dilation": 3, "output_padding": 2}, "(3 - 1)*1 - (0 + 0) + (3*(3 - 1) + 1) + 2 = 11"),
    ],
)
def test_transpose_formula(size: int, arguments: dict[str, Any], text: str) -> None:
    geometry = transpose_geometry((1, size, 1), 1, 3, **arguments)
    assert transpose_formulas(geometry, [size]) == [text]
    left, right = text.split(" = ")
    assert eval(left) == int(right) == geometry.input_size[0]


@given(layers(least_batch=1))
def test_the_formulas_are_true(layer: Layer) -> None:
    """What stands left of each equality sign, computed, is what stands right of it."""
    g = cm.ConvGeometry(layer.shape, layer.kernel, **layer.where)
    rows, cols = g.matrix_shape
    for row, col in ((0, 0), (rows - 1, cols - 1), (rows // 2, cols // 3)):
        for order in ("hwc", "chw"):
            place = g.place(row, col, order=order)
            formulas = [row_formula(g, row), column_formula(g, col, order)]
            formulas += pixel_formulas(g, place)
            results = [row, col, *place.position]
            for formula, result in zip(formulas, results, strict=True):
                left, right = formula.split(" = ")
                assert eval(left) == int(right) == result


def test_the_formulas_of_the_paper_s_example() -> None:
    g = cm.ConvGeometry((2, 28, 28, 3), 7, stride=7, padding=(0, 1))
    place = g.place(21, 40)
    assert row_formula(g, 21) == "(1*4 + 1)*4 + 1 = 21"
    assert column_formula(g, 40) == "(1*7 + 6)*3 + 1 = 40"
    assert column_formula(g, 40, "chw") == "(0*7 + 5)*7 + 5 = 40"
    assert pixel_formulas(g, place) == ["1*7 + 1*1 - 0 = 8", "1*7 + 6*1 - 1 = 12"]
    assert place == (21, 40, (1, 1, 1), (1, 6), 1, (8, 12), (1, 8, 12, 1))


@pytest.mark.parametrize(
    ("shape", "padding", "mode", "text"),
    [
        ((1, 9, 9, 1), "same", "zeros", "same: top 1, bottom 1, left 1, right 1"),
        ((1, 9, 9, 1), ((0, 1), (2, 3)), "reflect", "top 0, bottom 1, left 2, right 3, reflect"),
        ((1, 9, 1), 1, "zeros", "left 1, right 1"),
        ((1, 9, 9, 9, 1), 0, "zeros", "front 0, back 0, top 0, bottom 0, left 0, right 0"),
    ],
)
def test_pads_by_their_sides(shape: tuple[int, ...], padding: Any, mode: str, text: str) -> None:
    assert pads_text(ConvGeometry(shape, 3, padding=padding), mode) == text
