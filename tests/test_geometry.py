"""ConvGeometry against brute force: the kernel laid on a padded line of pixels, and slid."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import convmat as cm
from convmat.checks import STEP_LIMIT
from convmat.errors import ConvmatError, GeometryError, MappingIndexError
from convmat.geometry import ConvGeometry
from convmat.sizes import coverage, transpose_under_every_rule, uncovered_lines, under_every_rule
from convmat.transposed import transpose_geometry
from convmat.verification import stages
from tests.strategies import RULES, Layer, Rule, find_pads, layers, slide

SYMMETRIC = [(p, p) for p in range(4)]
ASYMMETRIC = [(0, 1), (1, 0), (2, 1), (0, 3)]

Element = tuple[int, ...]


def geometry_of(layer: Layer) -> ConvGeometry:
    return ConvGeometry(layer.shape, layer.kernel, **layer.where, groups=layer.groups)


def unrolled(layer: Layer) -> list[list[Element | None]]:
    """X_col as the elements (n, *pixel, c) it holds, None for padding."""
    rows = []
    for n, *position in itertools.product(range(layer.shape[0]), *layer.lines):
        pixels = itertools.product(*position)
        row = itertools.product(pixels, range(layer.shape[-1]))
        rows.append([None if None in pixel else (n, *pixel, c) for pixel, c in row])
    return rows


def places(rows: list[list[Element | None]]) -> dict[Element | None, list[tuple[int, int]]]:
    """The inverse: where each element is, in row order."""
    found: dict[Element | None, list[tuple[int, int]]] = {}
    for row, elements in enumerate(rows):
        for col, element in enumerate(elements):
            found.setdefault(element, []).append((row, col))
    return found


def assert_mapping(geometry: ConvGeometry, rows: list[list[Element | None]]) -> None:
    """input_index, matrix_indices and coverage agree with the unrolled rows."""
    count, columns = geometry.matrix_shape
    assert count == len(rows)
    assert all(columns == len(row) for row in rows)
    found = [[geometry.input_index(row, col) for col in range(columns)] for row in range(count)]
    assert found == rows
    where = places(rows)
    for element in itertools.product(*map(range, geometry.input_shape)):
        n, *pixel, c = element
        assert geometry.matrix_indices(n, pixel, c) == where.get(element, [])


@pytest.mark.parametrize("rule", [*RULES, *SYMMETRIC, *ASYMMETRIC], ids=str)
def test_every_small_line(rule: Rule) -> None:
    for size, k, s, d in itertools.product(range(1, 10), range(1, 6), range(1, 5), range(1, 4)):
        pads = find_pads(rule, size, k, s, d)
        patches = slide(size, k, s, d, *pads)
        padding = rule if isinstance(rule, str) else (rule,)
        if not patches:
            with pytest.raises(GeometryError, match=rf"the kernel spans \d+ .* = {size + sum(pads)};"):
                ConvGeometry((1, size, 1), k, s, padding, d)
            continue
        geometry = ConvGeometry((1, size, 1), k, s, padding, d)
        assert geometry.rule == (rule if isinstance(rule, str) else None)
        assert geometry.pads == (pads,)
        assert geometry.output_size == (len(patches),)
        rows = [[None if pixel is None else (0, pixel, 0) for pixel in patch] for patch in patches]
        assert_mapping(geometry, rows)
        seen = Counter(pixel for patch in patches for pixel in patch if pixel is not None)
        assert coverage(geometry) == (seen.total() / size, size - len(seen), size)


@given(layers(), st.integers(1, 40))
def test_axes_multiply(layer: Layer, max_rows: int) -> None:
    geometry, rows = geometry_of(layer), unrolled(layer)
    assert geometry.pads == tuple(layer.pads)
    assert (geometry.batch, *geometry.output_size) == layer.output_shape[:-1]
    assert geometry.patches * geometry.batch == len(rows)
    assert geometry.terms == math.prod(layer.filter_shape[1:])
    assert_mapping(geometry, rows)

    images = {element[1:-1] for element in places(rows) if element}
    pixels = list(itertools.product(*map(range, geometry.input_size)))
    mean, uncovered, count = coverage(geometry)
    assert count == len(pixels)
    if geometry.batch:
        held = sum(element is not None for row in rows for element in row)
        assert mean == pytest.approx(held / math.prod(layer.shape))
        assert uncovered == len(set(pixels) - images)

    covered: list[int] = []
    for block in geometry.boxes(geometry.block_shape(max_rows)):
        assert 1 <= len(block.rows) <= max_rows
        positions = list(itertools.product(*block.positions))
        assert positions == [geometry.patch_position(row) for row in block.rows]
        covered += block.rows
    assert covered == list(range(len(rows)))


def test_the_paper_s_example() -> None:
    """28 × 28 digits, 7 × 7 patches side by side: 16 rows of 49 pixels, each pixel once."""
    geometry = ConvGeometry((1, 28, 28, 1), 7, stride=7)
    assert geometry.matrix_shape == (16, 49)
    assert geometry.input_index(5, 10) == (0, 7 + 1, 7 + 3, 0)
    assert geometry.matrix_indices(0, (8, 10), 0) == [(5, 10)]
    assert coverage(geometry) == (1.0, 0, 784)


def test_under_every_rule() -> None:
    found = under_every_rule((2, 5, 6, 3), (3, 2), stride=2, dilation=(2, 1))
    assert list(found) == list(RULES)
    assert found == {rule: ConvGeometry((2, 5, 6, 3), (3, 2), 2, rule, (2, 1)) for rule in RULES}


def test_under_every_rule_where_some_do_not_fit() -> None:
    found = under_every_rule((1, 2, 1), 5)
    sizes = {rule: geometry and geometry.output_size for rule, geometry in found.items()}
    assert sizes == {"valid": None, "same": (2,), "same-lower": (2,), "half": (2,), "full": (6,)}


def test_under_every_rule_refuses_what_no_padding_mends() -> None:
    with pytest.raises(GeometryError, match=r"stride: must be at least 1 .*, got 0"):
        under_every_rule((1, 5, 1), 3, stride=0)


@pytest.mark.parametrize("size, stride", [(2**60 + 1, 2), (2**53 + 1, 1), (2**61 + 1, 10**7)])
def test_large_sizes_are_exact(size: int, stride: int) -> None:
    geometry = ConvGeometry((1, size, 1), 3, stride, "same")
    assert geometry.output_size == ((size + stride - 1) // stride,)


EXAMPLE: dict[str, Any] = {"input_shape": (1, 5, 6, 4), "kernel_size": 3}


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"kernel_size": 0}, r"^kernel_size: must be at least 1 along every axis, got 0; give 1 or more$"),
        ({"kernel_size": (3, -2)}, r"^kernel_size: must be at least 1 .*, got \(3, -2\);"),
        ({"kernel_size": 2.0}, r"^kernel_size: expected a whole number, got 2\.0; give an int$"),
        ({"kernel_size": (3, 3, 3)}, r"^kernel_size: got 3 numbers \(3, 3, 3\) for 2 spatial axes;"),
        ({"kernel_size": ()}, r"^kernel_size: got 0 numbers \(\) for 2 spatial axes;"),
        ({"kernel_size": (6, 3)}, r"^kernel_size: the kernel spans 6 pixels of height, .*5 \+ 0 \+ 0 = 5;"),
        ({"kernel_size": (3, 7)}, r"^kernel_size: the kernel spans 7 pixels of width, .*6 \+ 0 \+ 0 = 6;"),
        ({"kernel_size": 8, "padding": 1}, r"spans 8 pixels of height, .* 5 \+ 1 \+ 1 = 7; use a smaller"),
        ({"dilation": 3}, r"spans 7 pixels of height, the padded input has 5 \+ 0 \+ 0 = 5; use a smaller"),
        ({"stride": 0}, r"^stride: must be at least 1 along every axis, got 0;"),
        ({"stride": (1, -1)}, r"^stride: must be at least 1 along every axis, got \(1, -1\);"),
        ({"stride": (2,)}, r"^stride: got 1 numbers \(2,\) for 2 spatial axes;"),
        ({"stride": "2"}, r"^stride: expected a whole number, got '2';"),
        ({"dilation": 0}, r"^dilation: must be at least 1 along every axis, got 0;"),
        ({"dilation": None}, r"^dilation: expected a whole number, got None;"),
        ({"padding": -1}, r"^padding: must be at least 0 along every axis, got -1; give 0 or more$"),
        ({"padding": ((0, 0), (0, -2))}, r"^padding: must be at least 0 along every axis, got \(0, -2\);"),
        ({"padding": 0.5}, r"^padding: expected a whole number, got 0\.5;"),
        ({"padding": (1, 1, 1)}, r"^padding: got 3 numbers \(1, 1, 1\) for 2 spatial axes;"),
        ({"padding": ((1, 1),)}, r"^padding: got \(\(1, 1\),\); give a \(before, after\) pair for each of 2"),
        (
            {"padding": ((1, 1), (1, 1, 1))},
            r"^padding: got \(\(1, 1\), \(1, 1, 1\)\); give a",
        ),
        ({"padding": ("same", "same")}, r"^padding: got \('same', 'same'\); give a \(before, after\) pair"),
        (
            {"padding": "sane"},
            r"^padding: unknown name 'sane'; give one of valid, .*, full$",
        ),
        ({"groups": 3}, r"^groups: 3 does not divide the input's 4 channels; give a divisor of 4$"),
        ({"groups": 0}, r"^groups: 0 does not divide the input's 4 channels;"),
        ({"groups": -2}, r"^groups: -2 does not divide the input's 4 channels;"),
        ({"groups": 1.5}, r"^groups: expected a whole number, got 1\.5;"),
        (
            {"input_shape": (5, 6)},
            r"^input_shape: \(5, 6\) has 2 axes; expected \(N, \*spatial, C\) with",
        ),
        ({"input_shape": (1, 5, 5, 5, 5, 1)}, r"^input_shape: \(1, 5, 5, 5, 5, 1\) has 6 axes;"),
        ({"input_shape": (1, 0, 6, 4)}, r"^input_shape: \(1, 0, 6, 4\) is empty; .* at least 1 \(only N may"),
        ({"input_shape": (1, 5, 6, 0)}, r"^input_shape: \(1, 5, 6, 0\) is empty;"),
        ({"input_shape": (-1, 5, 6, 4)}, r"^input_shape: \(-1, 5, 6, 4\) is empty;"),
        ({"input_shape": (1, 5.5, 6, 4)}, r"^input_shape: expected a whole number, got 5\.5;"),
    ],
    ids=str,
)
def test_what_makes_no_convolution(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(GeometryError, match=message) as caught:
        ConvGeometry(**EXAMPLE | fault)
    assert isinstance(caught.value, ConvmatError)
    assert isinstance(caught.value, ValueError)


def test_the_example_itself_is_right() -> None:
    assert ConvGeometry(**EXAMPLE).matrix_shape == (12, 36)


@pytest.mark.parametrize(
    "method, index, message",
    [
        ("patch_position", (24,), r"^row: 24 is outside X_col, which has 24; give 0 to 23$"),
        ("patch_position", (-1,), r"^row: -1 is outside X_col, which has 24;"),
        ("input_index", (24, 0), r"^row: 24 is outside X_col, which has 24;"),
        ("input_index", (0, 36), r"^column: 36 is outside X_col, which has 36; give 0 to 35$"),
        ("input_index", (0, -1), r"^column: -1 is outside X_col, which has 36;"),
        ("matrix_indices", (2, (0, 0), 0), r"^pixel: \(2, 0, 0, 0\) is not in the input, .* \(2, 5, 6, 4\)$"),
        ("matrix_indices", (0, (5, 0), 0), r"^pixel: \(0, 5, 0, 0\) is not in the input"),
        ("matrix_indices", (0, (0, -1), 0), r"^pixel: \(0, 0, -1, 0\) is not in the input"),
        ("matrix_indices", (0, (0, 0), 4), r"^pixel: \(0, 0, 0, 4\) is not in the input"),
        ("matrix_indices", (0, (0,), 0), r"^pixel: \(0, 0, 0\) is not in the input"),
    ],
)
def test_what_the_mapping_does_not_have(method: str, index: tuple[Any, ...], message: str) -> None:
    with pytest.raises(MappingIndexError, match=message) as caught:
        getattr(ConvGeometry((2, 5, 6, 4), 3), method)(*index)
    assert isinstance(caught.value, IndexError)


def test_forms_of_the_same_arguments_are_equal() -> None:
    given = [
        ConvGeometry((1, 5, 6, 4), 3, 2, 1, 1, 2),
        ConvGeometry([1, 5, 6, 4], (3, 3), (2, 2), (1, 1), (1, 1), 2),
        ConvGeometry(np.array([1, 5, 6, 4]), np.int64(3), np.array([2, 2]), ((1, 1), (1, 1)), [1, 1], 2),
        ConvGeometry((1, 5, 6, 4), 3, stride=2, padding=(1, (1, 1)), groups=np.uint8(2)),
    ]
    assert len(set(given)) == 1
    assert all(isinstance(n, int) for n in (*given[2].input_shape, *given[2].stride, given[2].groups))


def test_other_arguments_are_not_equal() -> None:
    others = [{}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}, {"kernel_size": 2}]
    assert len({ConvGeometry(**EXAMPLE | other) for other in others}) == len(others)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ConvGeometry)])
def test_a_geometry_does_not_change(field: str) -> None:
    geometry = ConvGeometry(**EXAMPLE)
    with pytest.raises(dataclasses.FrozenInstanceError, match=field):
        setattr(geometry, field, 1)


@pytest.mark.parametrize("padding", ["same", 1, ((0, 1), (2, 0))])
def test_a_geometry_prints_as_it_is_made(padding: Any) -> None:
    geometry = ConvGeometry(**EXAMPLE | {"padding": padding})
    assert eval(repr(geometry)) == geometry


def test_a_geometry_keeps_what_it_was_given() -> None:
    """Two that come to the same pads are two, unless they were given the same."""
    named, numbered = (ConvGeometry(**EXAMPLE | {"padding": padding}) for padding in ("half", 1))
    assert named != numbered
    assert (named.padding, named.rule) == ("half", "half")
    assert (numbered.padding, numbered.rule) == (((1, 1), (1, 1)), None)
    assert (named.pads, named.extent, named.output_size) == (
        numbered.pads,
        numbered.extent,
        numbered.output_size,
    )
    assert len({named, ConvGeometry(**EXAMPLE | {"padding": "half"})}) == 1


def test_a_geometry_survives_pickling() -> None:
    geometry = ConvGeometry((0, 5, 6, 4), (3, 2), padding="same", groups=4)
    assert pickle.loads(pickle.dumps(geometry)) == geometry


# transposed


@pytest.mark.parametrize("rule", ["valid", "half", "full", *SYMMETRIC, *ASYMMETRIC], ids=str)
def test_transposed_lines(rule: Rule) -> None:
    """The smallest line with so many outputs, and output_padding pixels more."""
    for outputs, k, s, d in itertools.product(range(1, 6), range(1, 5), range(1, 5), range(1, 4)):
        pads = find_pads(rule, 1, k, s, d)
        padding = rule if isinstance(rule, str) else (rule,)
        least = next(n for n in itertools.count(1) if len(slide(n, k, s, d, 0, 0)) == outputs)
        for extra in range(max(s, d)):
            size = least - sum(pads) + extra
            if size < 1:
                with pytest.raises(GeometryError, match=rf"padding: leaves {size} pixels of width; use less"):
                    transpose_geometry((1, outputs, 1), 1, k, s, padding, d, output_padding=extra)
                continue
            geometry = transpose_geometry((1, outputs, 1), 1, k, s, padding, d, output_padding=extra)
            assert geometry == ConvGeometry((1, size, 1), k, s, padding, d)
            assert geometry.pads == (pads,)
            assert geometry.output_size == (outputs + extra // s,)


@pytest.mark.parametrize("rule", ["same", "same-lower"])
def test_transposed_same_is_stride_times_as_large(rule: str) -> None:
    for outputs, k, s, d in itertools.product(range(1, 6), range(1, 6), range(1, 5), range(1, 4)):
        geometry = transpose_geometry((1, outputs, 1), 1, k, s, rule, d)
        assert geometry == ConvGeometry((1, outputs * s, 1), k, s, rule, d)
        assert geometry.output_size == (outputs,)


@given(layers())
def test_a_known_input_shape_decides(layer: Layer) -> None:
    geometry = geometry_of(layer)
    arguments = (layer.output_shape, layer.shape[-1], layer.kernel)
    known = {**layer.where, "groups": layer.groups, "input_shape": layer.shape}
    assert transpose_geometry(*arguments, **known) == geometry
    # Said by the pads and output_padding, as PyTorch has it, it is the same shape.
    implied = tuple(
        next(
            extra for extra in range(s) if len(slide(size + sum(pads) - extra - 1, k, s, d, 0, 0)) < len(line)
        )
        for (size, k, s, d, _), pads, line in zip(layer.axes, layer.pads, layer.lines, strict=True)
    )
    assert transpose_geometry(*arguments, **known, output_padding=implied) == geometry
    del known["input_shape"]
    known["padding"] = layer.pads
    found = transpose_geometry(*arguments, **known, output_padding=implied)
    assert (found.input_shape, found.pads) == (geometry.input_shape, geometry.pads)


# Each case's input, channels made and attributes, in our words; then the size that ONNX gives.
ONNX_CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "test_convtranspose": ((1, 3, 3, 1), {}, (5, 5)),
    "test_convtranspose_1d": ((1, 3, 1), {}, (5,)),
    "test_convtranspose_3d": ((1, 3, 4, 5, 1), {}, (5, 6, 7)),
    "test_convtranspose_output_shape": (
        (1, 3, 3, 1),
        {"stride": (3, 2), "input_shape": (1, 10, 8, 2)},
        (10, 8),
    ),
    "test_convtranspose_pad": ((1, 3, 3, 1), {"stride": (3, 2), "output_padding": 1}, (10, 8)),
    "test_convtranspose_kernel_shape": (
        (1, 3, 3, 1),
        {"stride": (3, 2), "output_padding": (1, 1), "input_shape": (1, 10, 8, 2)},
        (10, 8),
    ),
    "test_convtranspose_pads": ((1, 3, 3, 1), {"stride": (3, 2), "padding": (1, 2)}, (7, 3)),
    "test_convtranspose_dilations": ((1, 3, 3, 1), {"kernel_size": 2, "dilation": 2}, (5, 5)),
    "test_convtranspose_autopad_same": ((1, 3, 3, 1), {"stride": 2, "padding": "same"}, (6, 6)),
    "test_convtranspose_group_2": ((1, 3, 3, 2), {"groups": 2}, (5, 5)),
    "test_convtranspose_group_2_image_3": ((3, 3, 3, 2), {"groups": 2}, (5, 5)),
    "test_operator_convtranspose": (
        (2, 4, 5, 3),
        {"stride": 3, "padding": 1, "output_padding": 2},
        (12, 15),
    ),
    "test_ConvTranspose2d_no_bias": (
        (1, 6, 7, 3),
        {"stride": (2, 3), "padding": 1, "output_padding": 1},
        (12, 20),
    ),
    "test_ConvTranspose2d": ((1, 7, 6, 3), {"stride": (3, 2), "padding": 1, "output_padding": 1}, (20, 12)),
}


@pytest.mark.parametrize("name", ONNX_CASES)
def test_onnx_transposes_can_be_said(name: str) -> None:
    """The ConvTranspose cases of ONNX's backend tests: sizes only, the arithmetic is tested elsewhere."""
    shape, arguments, size = ONNX_CASES[name]
    geometry = transpose_geometry(shape, **{"channels": 2, "kernel_size": 3} | arguments)
    assert geometry.input_shape == (shape[0], *size, 2)
    assert geometry.output_size == shape[1:-1]
    if arguments.get("padding") == "same":
        assert geometry.pads == ((0, 1), (0, 1))  # the case's first row and column are not cut


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"output_shape": (1, 3, 0, 1)}, r"^output_shape: \(1, 3, 0, 1\) is empty;"),
        ({"output_shape": 3}, r"^output_shape: expected \(N, \*spatial, C\), got 3"),
        ({"channels": 0}, r"^input_shape: \(1, 3, 4, 0\) is empty;"),
        ({"groups": 3}, r"^groups: 3 does not divide the input's 2 channels"),
        ({"kernel_size": 0}, r"^kernel_size: must be at least 1"),
        ({"padding": "sane"}, r"^padding: unknown name 'sane'"),
        ({"padding": 4}, r"^padding: leaves -1 pixels of height; use less padding"),
        (
            {"output_padding": 2},
            r"^output_padding: 2 along height is not below the stride 2 or the dilation 1; ",
        ),
        ({"output_padding": -1}, r"^output_padding: must be at least 0 along every axis, got -1"),
        ({"output_padding": (0, 0, 1)}, r"^output_padding: got 3 numbers \(0, 0, 1\) for 2 spatial axes"),
        ({"output_padding": 1, "padding": "same"}, r"^output_padding: got 1, and padding same, which makes"),
        (
            {"input_shape": (1, 9, 9, 2)},
            r"^input_shape: \(1, 9, 9, 2\) gives 1 outputs of \(4, 4\), .* has 1 of \(3, 4\);",
        ),
        ({"input_shape": (2, 7, 9, 2)}, r"^input_shape: \(2, 7, 9, 2\) gives 2 outputs of"),
        (
            {"input_shape": (1, 7, 10, 2), "output_padding": 1},
            r"^output_padding: got \(1, 1\), input_shape \(1, 7, 10, 2\) means \(0, 1\); leave it out",
        ),
    ],
    ids=str,
)
def test_what_makes_no_transpose(fault: dict[str, Any], message: str) -> None:
    example = {"output_shape": (1, 3, 4, 5), "channels": 2, "kernel_size": 3, "stride": 2}
    with pytest.raises(GeometryError, match=message):
        transpose_geometry(**example | fault)


def test_transpose_under_every_rule() -> None:
    found = transpose_under_every_rule((1, 4, 5, 1), 3, 2)
    assert found == {rule: transpose_geometry((1, 4, 5, 1), 1, 3, 2, rule) for rule in RULES}
    found = transpose_under_every_rule((1, 4, 1), 3, 2, output_padding=1)
    assert [rule for rule, geometry in found.items() if geometry is None] == ["same", "same-lower"]
    assert transpose_under_every_rule((1, 1, 1), 3)["full"] is None
    with pytest.raises(GeometryError, match=r"^output_padding: 2 along width is not below the stride 2"):
        transpose_under_every_rule((1, 4, 1), 3, 2, output_padding=2)


def test_pytorch_s_transposes_are_these() -> None:
    """Shape and numbers, output_padding past the stride included: what lies beyond y is 0."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for size, k, s, d, p in itertools.product((1, 4), (1, 2, 3), (1, 2, 3), (1, 3), (0, 1)):
        for extra in range(max(s, d)):
            y, w = rng.integers(-5, 6, size), rng.integers(-5, 6, k)
            if (size - 1) * s - 2 * p + d * (k - 1) + 1 + extra < 1:
                continue
            g = transpose_geometry((1, size, 1), 1, k, s, p, d, output_padding=extra)
            ours = [
                sum(y[row] * w[col] for row, col in g.matrix_indices(0, (pixel,), 0) if row < size)
                for pixel in range(g.input_size[0])
            ]
            theirs = torch.nn.functional.conv_transpose1d(
                torch.tensor(y[None, None]).double(),
                torch.tensor(w[None, None]).double(),
                stride=s,
                padding=p,
                output_padding=extra,
                dilation=d,
            )
            assert theirs.flatten().tolist() == ours


# One-shot iterables are read once, and mean what a tuple of the same numbers means.

ONCE: list[Callable[[Any], Any]] = [
    iter,
    lambda sizes: map(int, "".join(map(str, sizes))),
    lambda sizes: (size for size in sizes),
    np.array,
]
X, X_T, W = np.arange(98.0).reshape(1, 7, 7, 2), np.ones((1, 3, 4, 4)), np.ones((4, 3, 2, 2))
SIZES: dict[str, tuple[int, ...]] = {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}
CALLS: dict[str, Callable[..., Any]] = {
    "geometry": lambda **sizes: cm.ConvGeometry(X.shape, (3, 2), **sizes),
    "convolve": lambda **sizes: cm.convolve(X, W, **sizes),
    "convolve_transpose": lambda **sizes: cm.convolve_transpose(X_T, W, **sizes),
    "unroll": lambda **sizes: cm.unroll(X, (3, 2), **sizes),
    "layer_matrix": lambda **sizes: cm.layer_matrix(W, X.shape, **sizes).toarray(),
    "fold": lambda **sizes: cm.fold(cm.unroll(X, (3, 2), **SIZES), X.shape, (3, 2), **(SIZES | sizes)),
    "verify": lambda **sizes: cm.verify(X, W, **sizes),
    "verify_unroll": lambda **sizes: stages.verify_unroll(X, (3, 2), **sizes),
    "verify_fold": lambda **sizes: stages.verify_fold(
        cm.unroll(X, (3, 2), **SIZES), X.shape, (3, 2), **(SIZES | sizes)
    ),
    "verify_matrix": lambda **sizes: stages.verify_matrix(W, X.shape, **sizes),
    "transpose": lambda **sizes: transpose_geometry((1, 3, 4, 1), 1, (3, 2), **sizes),
    "chain": lambda **sizes: cm.chain(X.shape, [{"kernel_size": (3, 2)} | sizes]),
}


@pytest.mark.parametrize("once", ONCE)
@pytest.mark.parametrize("call", CALLS)
def test_iterables_that_can_be_read_once(call: str, once: Callable[[Any], Any]) -> None:
    for name, size in SIZES.items():
        # An X_col is of one size; others are given twice, for no answer is to be remembered by its name.
        for other in (size,) if "fold" in call else ((2, 2), size):
            found, wanted = (CALLS[call](**{name: make(other)}) for make in (once, tuple))
            np.testing.assert_equal(found, wanted)


@pytest.mark.parametrize("once", ONCE)
def test_kernel_sizes_and_shapes_that_can_be_read_once(once: Callable[[Any], Any]) -> None:
    x_col = cm.unroll(X, (3, 2))
    np.testing.assert_array_equal(cm.unroll(X, once((3, 2))), x_col)
    image = cm.fold(x_col, X.shape, (3, 2))
    np.testing.assert_array_equal(cm.fold(x_col, once(X.shape), once((3, 2))), image)
    assert stages.verify_unroll(X, once((3, 2)), x_col)
    assert stages.verify_fold(x_col, once(X.shape), once((3, 2)), image)
    assert cm.ConvGeometry(once(X.shape), once((3, 2))) == cm.ConvGeometry(X.shape, (3, 2))
    pads = [once((0, 1)), once((1, 0))]
    assert cm.ConvGeometry(X.shape, 3, padding=iter(pads)).pads == ((0, 1), (1, 0))
    wanted = under_every_rule((1, 9, 8, 1), (3, 2), (2, 1), (1, 2))
    assert under_every_rule(once((1, 9, 8, 1)), once((3, 2)), once((2, 1)), once((1, 2))) == wanted
    back = transpose_under_every_rule((1, 9, 8, 1), (3, 2), (2, 1), (1, 2), (1, 0))
    sizes = (once((3, 2)), once((2, 1)), once((1, 2)), once((1, 0)))
    assert transpose_under_every_rule(once((1, 9, 8, 1)), *sizes) == back


def test_no_call_gives_the_geometry_of_another() -> None:
    """7 × 7 with a kernel of 3 × 3: two objects that are written the same are not the same."""
    x, w = np.zeros((1, 7, 7, 1)), np.zeros((1, 3, 3, 1))
    for sizes, shape in (("21", (1, 3, 5, 1)), ("12", (1, 5, 3, 1)), ("11", (1, 5, 5, 1))):
        assert cm.convolve(x, w, stride=map(int, sizes)).shape == shape
        assert cm.verify(x, w, expected=np.zeros(shape), stride=map(int, sizes))


def test_true_is_written_as_the_number_that_it_is() -> None:
    geometry = cm.ConvGeometry((True, 7, 7, True), 3, True, padding=False)
    assert "True" not in repr(geometry)
    assert "False" not in repr(geometry)


@pytest.mark.parametrize(
    "method, arguments, error, message",
    [
        ("patch_row", ((0, 3, 0),), MappingIndexError, r"^position: \(0, 3, 0\) is not in .* \(1, 3, 2\)$"),
        ("patch_row", ((0, 0),), MappingIndexError, r"^position: \(0, 0\) is not in images and output"),
        ("patch_row", ((0, 0, -1),), MappingIndexError, r"^position: \(0, 0, -1\) is not in"),
        ("patch_row", (4,), MappingIndexError, "^position: expected one number for each axis, got 4$"),
        ("patch_row", ((0, 0, 0.5),), GeometryError, "^position: expected a whole number, got 0.5"),
        ("patch_row", (("0", 0, 0),), GeometryError, "^position: expected a whole number, got '0'"),
        ("matrix_indices", (0, (0, 0.5), 0), GeometryError, "^pixel: expected a whole number, got 0.5"),
        ("matrix_indices", (0, 5, 0), MappingIndexError, "^pixel: expected one number for each axis, got 5"),
        ("matrix_indices", (0, None, 0), MappingIndexError, "^pixel: expected one number .* got None"),
        ("matrix_indices", ("n", (0, 0), 0), GeometryError, "^pixel: expected a whole number, got 'n'"),
        ("column_of", (3, 0), MappingIndexError, "^tap: expected one number for each axis, got 3"),
        ("column_of", ((0, 0), 0.5), GeometryError, "^tap: expected a whole number, got 0.5"),
        ("place", (0.5, 0), GeometryError, "^row: expected a whole number, got 0.5"),
        ("place", (0, "3"), GeometryError, "^column: expected a whole number, got '3'"),
        ("patch_position", (None,), GeometryError, "^row: expected a whole number, got None"),
        ("kernel_tap", (1.0,), GeometryError, "^column: expected a whole number, got 1.0"),
    ],
)
def test_the_mapping_checks_its_arguments(
    method: str, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    geometry = cm.ConvGeometry((1, 5, 4, 2), 3)
    with pytest.raises(error, match=message):
        getattr(geometry, method)(*arguments)


def test_patch_row_takes_any_iterable() -> None:
    geometry = cm.ConvGeometry((2, 5, 4, 2), 3)
    for row in range(geometry.matrix_shape[0]):
        assert geometry.patch_row(iter(geometry.patch_position(row))) == row


@given(
    st.tuples(st.integers(1, 14), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
@example((14, 9, 2, 12), (20, 20))  # gaps between the taps of a class
@example((14, 2, 12, 1), (20, 20))
def test_coverage_by_arithmetic_is_the_count(layer: tuple[int, ...], pads: tuple[int, int]) -> None:
    size, k, stride, dilation = layer
    assume(dilation * (k - 1) < size + sum(pads))
    geometry = ConvGeometry((1, size, 1), k, stride, (pads,), dilation)
    count = [0] * size
    for y, i in itertools.product(range(geometry.output_size[0]), range(k)):
        at = y * stride + i * dilation - pads[0]
        if 0 <= at < size:
            count[at] += 1
    assert coverage(geometry) == (sum(count) / size, count.count(0), size)
    lines = [line for run in uncovered_lines(geometry)[0] for line in run]
    assert lines == [line for line in range(size) if not count[line]]


@pytest.mark.parametrize(
    ("layer", "mean", "uncovered"),
    [
        (((1, 10**6, 1), 10**6, 1, "full"), 10**6, 0),  # 10^12 elements
        (((1, 10**6, 1), 10**6, 1, "full", 2000), 10**6, 0),
        (((1, 28, 28, 1), 10**6, 10**6 + 3, "full"), (25 / 28) ** 2, 28**2 - 25**2),
        (((1, 28, 1), 3, 1, STEP_LIMIT), 3, 0),
        (((1, 28, 1), 1, STEP_LIMIT, STEP_LIMIT), 1 / 28, 27),
    ],
)
def test_coverage_of_many_taps_is_no_loop(layer: tuple[Any, ...], mean: float, uncovered: int) -> None:
    geometry = ConvGeometry(*layer)
    found = coverage(geometry)
    assert found == (pytest.approx(mean), uncovered, math.prod(geometry.input_size))
    assert bool(uncovered) == any(uncovered_lines(geometry))
