"""The pictures: what their plans say is held against the mapping, and what is painted against the plans."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import convmat as cm
from convmat.cli import run
from convmat.errors import FileError, GeometryError
from convmat.figures.canvas import ACCENTS, THEMES, Box, Rect, Sheet, Words, label, plain, text_size
from convmat.figures.cells import shades, x_col_faces
from convmat.figures.errors import draw_verdict
from convmat.figures.multiplying import animate_product, draw_product, extremes
from convmat.figures.painting import animate, draw_patches
from convmat.figures.panels import About, busiest
from convmat.figures.patches import PatchPlan, plan_patches
from convmat.figures.product import ProductPlan, plan_product
from convmat.figures.raster import frames, painted
from convmat.figures.vector import moving_svg, svg
from convmat.figures.writing import transposed_rows
from convmat.files.pictures import write_animation
from convmat.geometry import ConvGeometry
from tests.strategies import Layer, layers
from tests.tools import convmat, npy

DIGIT = "sample_images/digit.png"
ROOT = Path(__file__).parent.parent

# The pictures that were judged by eye: shape and geometry.
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "digit k7 s7": ((1, 28, 28, 1), {"kernel_size": 7, "stride": 7}),
    "digit k3 s1": ((1, 28, 28, 1), {"kernel_size": 3}),
    "photo": ((1, 256, 384, 3), {"kernel_size": 3, "stride": 2, "padding": "same"}),
    "5 x 5": ((1, 5, 5, 1), {"kernel_size": 3, "padding": 1, "stride": 2}),
    "7 x 7": ((1, 7, 7, 1), {"kernel_size": 3, "dilation": 2}),
    "batch": ((3, 28, 28, 1), {"kernel_size": 7, "stride": 7}),
    "large batch": ((9, 60, 50, 3), {"kernel_size": 5, "padding": "half"}),
    "large photo": ((1, 3000, 4000, 3), {"kernel_size": 3}),
    "large kernel": ((1, 1000, 900, 3), {"kernel_size": (200, 150), "stride": 40}),
    "signal": ((1, 400, 1), {"kernel_size": 40, "stride": 16}),
    "long signal": ((1, 16000, 1), {"kernel_size": 40, "stride": 16}),
    "one pixel": ((1, 1, 1, 1), {"kernel_size": 1}),
    "1 x 1": ((1, 56, 56, 64), {"kernel_size": 1}),
    "tall": ((1, 300, 2, 1), {"kernel_size": 2}),
    "wide steps": ((1, 5000, 5000, 1), {"kernel_size": 3, "stride": 190}),
    "wide padding": ((1, 20, 20, 1), {"kernel_size": 3, "stride": 90, "padding": 500}),
}


FLAT: st.SearchStrategy[Layer] = layers(modes=("zeros",), least_batch=1).filter(lambda a: len(a.shape) < 5)


def geometry_of(layer: Layer) -> ConvGeometry:
    return ConvGeometry(layer.shape, layer.kernel, **layer.where, groups=layer.groups)


def coded(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Pixels that say where they are: each has another number."""
    return np.arange(np.prod(shape)).reshape(shape)


def unrolled_row(geometry: ConvGeometry, row: int, order: str) -> NDArray[np.int64]:
    """A row of X_col of `coded`, padded with -1, by unrolling no more than its patch spans."""
    _, h, w, c = geometry.input_shape
    n, rest = divmod(row, geometry.patches)
    corner = divmod(rest, geometry.output_size[1])
    spans = zip(corner, geometry.stride, geometry.pads, geometry.extent, strict=True)
    (ys, xs) = (np.arange(y * s - before, y * s - before + reach) for y, s, (before, _), reach in spans)
    inside = ((ys >= 0) & (ys < h))[:, None] & ((xs >= 0) & (xs < w))
    codes = ((n * h + ys[:, None]) * w + xs)[..., None] * c + np.arange(c)
    patch = np.where(inside[..., None], codes, -1)[None]
    found: NDArray[np.int64] = cm.unroll(patch, geometry.kernel_size, dilation=geometry.dilation, order=order)
    return found[0]


def shown_x_col(plan: ProductPlan, image: NDArray[Any]) -> NDArray[Any]:
    """The numbers of X_col in a picture of a layer."""
    per_group = plan.geometry.channels // plan.geometry.groups
    columns = [t // per_group * plan.geometry.channels + t % per_group for t, _ in plan.x_col.columns]
    rows = [row for row, _ in plan.x_col.rows]
    sheet = Sheet((1, 1), THEMES["light"])
    faces = x_col_faces(sheet, plan.geometry, plan.padding_mode, "hwc", rows, columns, None, image[None])
    assert faces.values is not None
    return faces.values


def within(outer: Box, inner: Box) -> bool:
    return outer.overlap(inner) == (inner.right - inner.left) * (inner.bottom - inner.top)


def boxes_of(plan: PatchPlan) -> list[Box]:
    """Everything written, apart from the tags, which lie on the image."""
    return [line.box for line in (*plan.labels, *plan.x_col.lines)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_plans_say_what_unroll_does(name: str, order: str) -> None:
    """Every element drawn of X_col, and every tap of a patch outlined, holds the pixel that unroll copies."""
    shape, arguments = CASES[name]
    geometry = ConvGeometry(shape, **arguments)
    plan = plan_patches(geometry, order=order)
    assert plan.patches
    flat = plan.geometry
    for mark in plan.x_col.marks:
        wanted = unrolled_row(flat, mark.row, order)
        for cell in itertools.islice(plan.cells(mark), 60):
            element = cell.place.element
            shown = -1 if element is None else np.ravel_multi_index(element, flat.input_shape)
            assert shown == wanted[cell.place.column]
            assert within(Box(0, 0, *plan.size), cell.box)
    for patch in plan.patches:
        panel = next(p for p in plan.panels if p.image == flat.patch_position(patch.row)[0])
        columns = range(0, flat.matrix_shape[1], flat.channels)
        assert (len(patch.taps) == len(columns)) == (max(flat.dilation) > 1)
        corners = [(patch.box.top, patch.box.left, 0)]
        corners += [(tap.top, tap.left, column) for tap, column in zip(patch.taps, columns, strict=False)]
        for top, left, column in corners:
            y, x = flat.place(patch.row, column).position
            # Back from the drawing to the pixel.
            down = (top - panel.origin[1]) * panel.reduce[0] / panel.cell[0] + panel.ys.start
            right = (left - panel.origin[0]) * panel.reduce[1] / panel.cell[1] + panel.xs.start
            assert abs(down - y) < panel.reduce[0]
            assert abs(right - x) < panel.reduce[1]
        width = (patch.box.right - patch.box.left) * panel.reduce[1] / panel.cell[1]
        assert abs(width - flat.extent[1]) < 2 * panel.reduce[1]
        assert patch.tag.text == str(patch.row)
        assert within(panel.box, patch.box)


@pytest.mark.slow
@settings(max_examples=60)
@given(FLAT)
def test_shown_rows_are_those_of_x_col(layer: Layer) -> None:
    geometry = geometry_of(layer)
    x = coded(geometry.input_shape)
    x_col = cm.unroll(x, layer.kernel, **layer.where)
    plan = plan_patches(geometry)
    flat = x.reshape(plan.geometry.input_shape)[: len(plan.panels)]  # no others are read
    for mark in plan.x_col.marks:
        for cell in plan.cells(mark):
            element = cell.place.element
            shown = 0 if element is None else flat[element]
            assert shown == x_col[mark.row, cell.place.column]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["still", "moving", "places"])
def test_nothing_overlaps_or_is_cut_off(name: str, kind: str) -> None:
    shape, arguments = CASES[name]
    geometry = ConvGeometry(shape, **arguments)
    places = [geometry.place(geometry.matrix_shape[0] // 2, 0)] if kind == "places" else []
    plan = plan_patches(geometry, places=places, moving=kind == "moving")
    boxes = boxes_of(plan)
    sheet = Box(0, 0, *plan.size)
    for box in [*boxes, *(mark.tag.box for mark in plan.patches), plan.x_col.box]:
        assert within(sheet, box)
    for a, b in itertools.combinations([*boxes, plan.x_col.box, *(p.box for p in plan.panels)], 2):
        assert a.overlap(b) == 0
    for a, b in itertools.combinations([mark.tag.box for mark in plan.patches], 2):
        assert a.overlap(b) == 0


@pytest.mark.parametrize("theme", THEMES)
def test_what_is_painted_is_what_was_planned(theme: str) -> None:
    """Without lines and numbers in the way: the middle of each cell has its pixel's gray."""
    x = (coded((1, 28, 28, 1)) % 251).astype(np.uint8)
    plan = plan_patches(ConvGeometry(x.shape, 7, 7))
    picture = np.asarray(painted(draw_patches(plan, x, None, THEMES[theme])))
    for mark in plan.x_col.marks:
        for cell in plan.cells(mark):
            middle = picture[(cell.box.top + cell.box.bottom) // 2, (cell.box.left + cell.box.right) // 2]
            assert (middle == x[cell.place.element]).all()
    for patch in plan.patches:
        colour = patch.colour or THEMES[theme].ink
        assert tuple(picture[patch.box.top, (patch.box.left + patch.box.right) // 2]) == colour
    again = np.asarray(painted(draw_patches(plan, x, None, THEMES[theme])))
    np.testing.assert_array_equal(picture, again)


@settings(max_examples=30)
@given(FLAT, st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
def test_every_layer_can_be_drawn(layer: Layer, mode: str) -> None:
    geometry = geometry_of(layer)
    for moving in (False, True):
        plan = plan_patches(geometry, mode, moving=moving)
        x = coded(plan.geometry.input_shape)[: len(plan.panels)]
        pixels = (x % 256).astype(np.uint8)
        if moving:
            assert len(animate(plan, pixels, x, THEMES["dark"]).moments) == len(plan.x_col.marks)
        else:
            assert painted(draw_patches(plan, pixels, x, THEMES["dark"])).size == plan.size


def test_thin_images_can_be_seen() -> None:
    plan = plan_patches(ConvGeometry((1, 2, 4000, 1), (1, 7), (1, 5)))
    for panel in (*plan.overviews, *plan.panels):
        assert min(panel.box.right - panel.box.left, panel.box.bottom - panel.box.top) >= 24
    assert max(plan.size) < 1500


def test_places_show_every_row_that_holds_the_pixel() -> None:
    geometry = ConvGeometry((1, 28, 28, 1), 3)
    places = [geometry.place(*at) for at in geometry.matrix_indices(0, (9, 12), 0)]
    plan = plan_patches(geometry, places=places)
    assert [(mark.row, p.column) for mark, p in zip(plan.x_col.marks, plan.marked, strict=True)] == [
        (p.row, p.column) for p in places
    ]
    assert len(places) == 9
    for panel in plan.panels:
        assert panel.shows([9], [12])


def test_a_padding_mode_shows_the_pixels_it_repeats() -> None:
    geometry = ConvGeometry((1, 5, 5, 1), 3, padding=1)
    plan = plan_patches(geometry, "reflect")
    assert {cell.place.element for cell in plan.cells(plan.x_col.marks[0])} == {
        (0, y, x, 0) for y in (0, 1) for x in (0, 1)
    }


def test_an_excerpt_shows_the_busiest_part() -> None:
    x = np.zeros((1, 400, 600, 1), np.uint8)
    x[0, 300:310, 500:510, 0] = np.arange(100).reshape(10, 10)
    y, right = busiest(x[0])
    assert 297 <= y < 313
    assert 497 <= right < 513
    plan = plan_patches(ConvGeometry(x.shape, 3), about=About((y, right)))
    assert len(plan.overviews) == 1
    assert plan.panels[0].shows([300], [500])
    assert busiest(np.zeros((2, 2, 1), np.uint8)) == (1, 1)


def test_three_axes_are_refused() -> None:
    geometry = ConvGeometry((1, 4, 4, 4, 1), 2)
    with pytest.raises(GeometryError, match="1 or 2 spatial axes, got 3"):
        plan_patches(geometry)


@settings(max_examples=40)
@given(FLAT)
def test_the_product_drawn_is_the_layer(layer: Layer) -> None:
    """X_col · W_col = Y holds of what is shown, wherever all columns are."""
    geometry = geometry_of(layer)
    random = np.random.default_rng(5)
    count = 2 * geometry.groups
    x = random.integers(-9, 9, geometry.input_shape)
    filters = random.integers(-9, 9, (count, *geometry.kernel_size, geometry.channels // geometry.groups))
    y = cm.convolve(x, filters, **layer.where, groups=geometry.groups)
    plan = plan_product(geometry, count)
    shape = plan.geometry.input_shape[1:]
    if len(plan.x_col.columns) == geometry.terms:
        x_col = shown_x_col(plan, x[0].reshape(shape))
        w_col = filters[:2].reshape(2, -1).T
        rows = [row for row, _ in plan.y.rows]
        np.testing.assert_array_equal(x_col @ w_col, y[0].reshape(-1, count)[rows, :2])
    sheet = Box(0, 0, *plan.size)
    for matrix in (plan.x_col, plan.w_col, plan.y):
        assert within(sheet, matrix.box)
    assert plan.x_col.cell == plan.w_col.cell == plan.y.cell
    for a, b in itertools.combinations([line.box for line in plan.labels], 2):
        assert a.overlap(b) == 0


@pytest.mark.parametrize("name", CASES)
def test_a_product_follows_a_patch_that_is_shown(name: str) -> None:
    shape, arguments = CASES[name]
    plan = plan_product(ConvGeometry(shape, **arguments), 2)
    assert within(plan.image.box, plan.patches[0].box)
    assert plan.row in dict(plan.y.rows)


def test_a_layer_is_painted() -> None:
    x = coded((1, 5, 5, 1))
    filters = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]).reshape(1, 3, 3, 1)
    y = cm.convolve(x, filters, 2, 1)
    plan = plan_product(ConvGeometry(x.shape, 3, 2, 1), 1)
    sheet = draw_product(plan, (x[0] * 10).astype(np.uint8), x[0], filters, y[0], THEMES["light"])
    picture = np.asarray(painted(sheet))
    colours = shades(y[0, ..., 0].reshape(-1, 1), float(y.min()), float(y.max()))
    for row, top in plan.y.rows:
        assert tuple(picture[top + 3, plan.y.box.left + 3]) == tuple(colours[row, 0])


def test_shades_tell_signs_apart() -> None:
    low, zero, high = shades(np.array([[-2.0, 0, 2]]), -2, 2)[0]
    assert low[2] > low[0]
    assert tuple(zero) == (255, 255, 255)
    assert high[0] > high[2]
    assert shades(np.array([[0, 5, 10]]), 0, 10)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_an_animation_has_a_frame_a_patch_and_one_of_the_whole(tmp_path: Path) -> None:
    x = (coded((1, 7, 7, 1)) * 5).astype(np.uint8)
    plan = plan_patches(ConvGeometry(x.shape, 3, dilation=2), moving=True)
    film = animate(plan, x, x, THEMES["light"])
    pictures = list(frames(film))
    assert [frame.row for frame in plan.frames] == [mark.row for mark in plan.x_col.marks] == list(range(9))
    assert len(pictures) == 10
    for name, kind in (("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.apng", "PNG")):
        count, nbytes = write_animation(str(tmp_path / name), pictures)
        with Image.open(tmp_path / name) as found:
            assert (found.format, found.n_frames, found.size) == (kind, 10, plan.size)
        assert (count, nbytes) == (10, (tmp_path / name).stat().st_size)
        if kind == "GIF":
            assert nbytes < 100_000
    # Rows not yet reached are empty; the last frame has them all, and nothing that passes.
    _, top, right, bottom = plan.x_col.box
    last_row = np.s_[plan.x_col.marks[-1].top + 2 : bottom - 4, right - 30 : right - 4]
    assert (pictures[0][0][last_row] == 255).all()
    assert (pictures[-1][0][last_row] != 255).any()
    assert top < bottom
    whole = film.start.layer()
    whole.marks = [*film.start.marks, *(mark for moment in film.moments for mark in moment.lasting.marks)]
    np.testing.assert_array_equal(pictures[-1][0], np.asarray(painted(whole)))


def test_an_animation_of_many_patches_shows_a_hundred() -> None:
    plan = plan_patches(ConvGeometry((1, 28, 28, 1), 3), moving=True)
    assert len(plan.frames) == 100
    assert {patch.box.right - patch.box.left for patch in plan.frames} == {99}


@pytest.mark.parametrize("text", ["X_col 9 × 9", "gjpqy|", "0", "9 × 4 → k = 3 − 1"])
def test_text_stays_inside_its_measured_size(text: str) -> None:
    width, height = text_size(text, 18)
    sheet = Sheet((width + 40, height + 40), THEMES["light"])
    sheet.write(label(20, 20, text, 18))
    ys, xs = np.nonzero((np.asarray(painted(sheet)) != 255).any(-1))
    assert 20 <= xs.min() <= xs.max() < 20 + width
    assert 20 <= ys.min() <= ys.max() < 20 + height
    assert "×" not in plain(text)


def test_themes_read_on_their_papers() -> None:
    for theme in THEMES.values():
        assert abs(sum(theme.paper) - sum(theme.ink)) > 450
    assert len(set(ACCENTS)) == len(ACCENTS)


# Small cases


SMALL_CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3 x 3": ((1, 3, 3, 1), {"kernel_size": 3, "padding": 1}),
    "5 x 5": ((1, 5, 5, 1), {"kernel_size": 3, "padding": 1, "stride": 2}),
    "4 x 4": ((1, 4, 4, 1), {"kernel_size": 2}),
    "7 x 7": ((1, 7, 7, 1), {"kernel_size": 3, "dilation": 2}),
    "signal": ((1, 12, 1), {"kernel_size": 3, "padding": 1}),
    "short signal": ((1, 4, 1), {"kernel_size": 3, "padding": 1}),
}


@pytest.mark.parametrize("name", SMALL_CASES)
def test_few_patches_are_outlined_all_alike_and_none_on_another(name: str) -> None:
    shape, arguments = SMALL_CASES[name]
    plan = plan_patches(ConvGeometry(shape, **arguments))
    assert 1 <= len(plan.patches) <= 3
    assert len({(box.right - box.left, box.bottom - box.top) for p in plan.patches for box in p.lines}) == 1
    for one, other in itertools.permutations(plan.patches, 2):
        # Neither the same pixels outlined twice, nor a side on another's.
        assert not set(one.lines) & set(other.lines)
        assert all(one.tag.box.overlap(line) == 0 for line in other.lines)
    assert all(within(patch.box, patch.tag.box) for patch in plan.patches)
    # All others are in small maps, where they are in the image.
    for mark in plan.x_col.marks:
        assert mark.map is not None
        whole, patch = mark.map
        assert within(whole, patch)
        (y, x), panel = plan.geometry.place(mark.row, 0).position, plan.panels[0]
        assert (
            abs((patch.left - whole.left) / (whole.right - whole.left) * len(panel.xs) - (x - panel.xs[0]))
            < 0.3
        )
        assert (
            abs((patch.top - whole.top) / (whole.bottom - whole.top) * len(panel.ys) - (y - panel.ys[0]))
            < 0.3
        )
    captions = " ".join(line.text for line in plan.labels)
    assert "*0" not in captions
    assert "*1 " not in captions
    assert "- 0" not in captions


def test_the_pages_patch_is_the_one_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch 5, in both pictures; one that is not blank, where another lies nearer to the middle."""
    monkeypatch.chdir(tmp_path)
    digit = str(ROOT / DIGIT)
    assert run(["unroll", digit, "-k", "7", "-s", "7", "--figure", "u.svg", "-q"]) == 0
    assert run(["convolve", digit, "--kernel", "box:7", "-s", "7", "--figure", "c.svg", "-q"]) == 0
    for name in ("u.svg", "c.svg"):
        assert "row 1*4 + 1 = 5: its patch begins at y = 1*7 = 7, x = 1*7 = 7" in Path(name).read_text(
            "utf-8"
        )
    x = np.zeros((6, 6), np.uint8)
    x[4:, 4:] = [[1, 2], [3, 4]]
    np.save("x.npy", x)
    assert run(["unroll", "x.npy", "-k", "2", "-s", "2", "--figure", "u.svg", "-q"]) == 0
    assert "row 2*3 + 2 = 8:" in Path("u.svg").read_text("utf-8")
    assert run(["unroll", "x.npy", "-k", "2", "-s", "2", "--figure", "u.svg", "-q", "--at", "0,3"]) == 0
    assert "row 1: its patch" in Path("u.svg").read_text("utf-8")


def test_a_pixel_is_as_gray_in_x_col_as_in_the_image() -> None:
    x = coded((1, 5, 5, 1)) - 9
    filters = np.ones((2, 3, 3, 1))
    y = cm.convolve(x, filters, 1, 1)
    plan = plan_product(ConvGeometry(x.shape, 3, 1, 1), 2)
    pixels = (x - x.min()).astype(np.uint8) * 10
    sheet = draw_product(plan, pixels[0], x[0], filters, y[0], THEMES["dark"])
    picture, ys, xs = np.asarray(painted(sheet)), *plan.x_col.spans
    padding = {THEMES["dark"].padding, THEMES["dark"].line, THEMES["dark"].ink}
    for (row, _), (_, bottom) in zip(plan.x_col.rows, ys, strict=True):
        for (column, _), (left, right) in zip(plan.x_col.columns, xs, strict=True):
            place, inside = plan.geometry.place(row, column), picture[bottom - 5, left + 4 : right - 3]
            if place.element is None:
                assert {tuple(colour) for colour in inside.tolist()} <= padding
            elif row != plan.row:
                assert (inside == pixels[place.element]).all()
    said = " ".join(mark.line.text for mark in sheet.marks if isinstance(mark, Words))
    for k in range(2):
        assert f"k = {k}: {y[..., k].min():g} .. {y[..., k].max():g}" in said


def test_large_maps_keep_the_number_of_largest_magnitude() -> None:
    values = np.zeros((7, 5, 2), np.int8)
    values[4, 3] = [-128, 3]
    values[5, 2] = [127, -2]
    low, high = extremes(values, 3, 2)
    assert low.shape == high.shape == (3, 3, 2)
    assert (low[1, 1].tolist(), high[1, 1].tolist()) == ([-128, -2], [127, 3])
    y = np.zeros((900, 700, 1))
    y[300, 198], y[301, 199], y[10, 20] = 5, -7, 2
    plan = plan_product(ConvGeometry((1, 902, 702, 1), 3), 1)
    sheet = draw_product(
        plan,
        np.zeros((902, 702, 1), np.uint8),
        np.zeros((902, 702, 1)),
        np.ones((1, 3, 3, 1)),
        y,
        THEMES["light"],
    )
    [mark] = plan.maps
    picture, dot = np.asarray(painted(sheet)), mark.panel.pixel(300, 198)
    assert picture[dot.top, dot.left].tolist() == shades(np.array([[-7.0]]), -7, 5)[0, 0].tolist()


@pytest.mark.parametrize("shape", [(1, 3000, 4000, 3), (1, 16000, 1), (2, 200, 300, 1)])
def test_an_excerpt_has_the_whole_beside_it(shape: tuple[int, ...]) -> None:
    geometry = ConvGeometry(shape, 3)
    plan = plan_patches(geometry, about=About((0, 60)))
    assert len(plan.overviews) == len(plan.panels) == shape[0] if len(shape) > 3 else 1
    for whole, panel in zip(plan.overviews, plan.panels, strict=True):
        assert whole.image == panel.image
        assert whole.shows(panel.ys, panel.xs)
        assert panel.shows([0], [60])
    assert plan_product(geometry, 1).overview is not None


@pytest.mark.parametrize("scale", [2, 4])
def test_a_larger_picture_is_the_same_one(scale: int) -> None:
    x = (coded((1, 5, 5, 1)) * 10).astype(np.uint8)
    plan = plan_patches(ConvGeometry(x.shape, 3, 2, 1))
    sheet = draw_patches(plan, x, None, THEMES["light"])
    large, small = np.asarray(painted(sheet, scale)), np.asarray(painted(sheet))
    assert large.shape == (small.shape[0] * scale, small.shape[1] * scale, 3)
    for mark in plan.x_col.marks:
        for cell in plan.cells(mark):
            y, x_ = cell.box.top + 4, cell.box.left + 5
            if cell.place.element is not None:
                assert (large[y * scale, x_ * scale] == small[y, x_]).all()


# Vector graphics


def test_svg_tells_of_each_cell_what_unroll_puts_there() -> None:
    x = coded((1, 5, 4, 1)) * 7
    plan = plan_patches(ConvGeometry(x.shape, 3, 1, 1))
    text = svg(draw_patches(plan, x.astype(np.uint8), x, THEMES["light"]))
    titles = [title.text for title in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}title")]
    told = dict(
        re.match(r"row (\d+, column \d+): .*?(\d+)$", title).groups() for title in titles if "row" in title
    )
    x_col = cm.unroll(x, 3, 1, 1)
    assert told == {f"{i}, column {j}": str(n) for (i, j), n in np.ndenumerate(x_col)}
    assert {f"pixel {y},{c} = {n}" for (_, y, c, _), n in np.ndenumerate(x)} <= set(titles)


@settings(max_examples=5)
@given(FLAT, st.sampled_from(["zeros", "reflect"]))
def test_svg_is_well_formed_without_scripts_and_always_the_same(layer: Layer, mode: str) -> None:
    geometry = geometry_of(layer)
    count = 2 * geometry.groups
    filters = np.ones((count, *geometry.kernel_size, geometry.channels // geometry.groups))
    x = coded(geometry.input_shape)
    y = cm.convolve(x, filters, **layer.where, groups=geometry.groups, padding_mode=mode)
    plan = plan_product(geometry, count, mode, moving=True)
    shape = plan.geometry.input_shape[1:]
    image, flat = x[0].reshape(shape), filters.reshape(count, *plan.geometry.kernel_size, -1)
    arrays = (image % 256).astype(np.uint8), image, flat, y[0].reshape(*plan.geometry.output_size, -1)
    texts = []
    for _ in range(2):
        texts.append(moving_svg(animate_product(plan, *arrays, THEMES["dark"])))
    assert texts[0] == texts[1]
    root = ET.fromstring(texts[0])
    names = {element.tag.split("}")[1] for element in root.iter()}
    shapes = {"path", "rect", "polygon", "text", "image"}
    assert names <= shapes | {"svg", "style", "defs", "pattern", "g", "title", "animate"}
    assert root.attrib["viewBox"] == f"0 0 {plan.size[0]} {plan.size[1]}"
    assert not re.search(r"script|javascript|onload|href=.http", texts[0])


def test_a_film_as_svg_is_the_whole_where_nothing_moves() -> None:
    x = coded((1, 4, 4, 1)).astype(np.uint8)
    plan = plan_patches(ConvGeometry(x.shape, 2), moving=True)
    film = animate(plan, x, x, THEMES["light"], fps=4)
    groups = ET.fromstring(moving_svg(film)).findall("{http://www.w3.org/2000/svg}g[@visibility]")
    assert [group.attrib["visibility"] for group in groups] == ["visible", "hidden"] * 9
    starts = []
    for group in groups:
        [moves] = [dict(e.attrib) for e in group if e.tag.endswith("animate")]
        times, values = moves["keyTimes"].split(";"), moves["values"].split(";")
        assert (moves["calcMode"], moves["repeatCount"]) == ("discrete", "indefinite")
        assert times[0] == "0" and times == sorted(times, key=float)
        assert moves["dur"] == "4.25s"  # nine at four a second, and two for the whole
        starts.append(float(times[values.index("visible")]) * 4.25)
    np.testing.assert_allclose(starts, np.arange(9).repeat(2) / 4, atol=1e-3)
    assert [milliseconds for _, milliseconds in frames(film)] == [250] * 9 + [2000]


def test_a_photo_as_svg_is_small() -> None:
    x = np.arange(3000 * 4000 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 3000, 4000, 3)
    plan = plan_patches(ConvGeometry(x.shape, 3))
    assert len(svg(draw_patches(plan, x, x, THEMES["light"]))) < 1_000_000


# Verdicts, the way back, and whole layers


def test_a_verdict_outlines_what_is_wrong_and_says_how_far() -> None:
    ratios = np.full((4, 6), 0.2)
    ratios[1, 2], ratios[1, 3], ratios[3, 5] = 3, 40, np.inf
    sheet = draw_verdict(ratios, ratios > 1, "3 of 24 elements differ", False, THEMES["light"])
    titles = [t.text or "" for t in ET.fromstring(svg(sheet)).iter("{http://www.w3.org/2000/svg}title")]
    wrong = ["1,2: error / bound 3, wrong", "1,3: error / bound 40, wrong", "3,5: error / bound inf, wrong"]
    assert len(titles) == 24
    assert [title for title in titles if "wrong" in title] == wrong
    lines = [m.box for m in sheet.marks if isinstance(m, Rect) and m.fill == THEMES["light"].highlight]
    assert len(lines) == 6 + 4  # around two together, and around one
    many = draw_verdict(
        np.full((2000, 3), 2.0), np.arange(6000).reshape(2000, 3) == 3000, "", True, THEMES["dark"]
    )
    [box] = [m.box for m in many.marks if isinstance(m, Rect) and m.edge == THEMES["dark"].highlight]
    assert box.bottom - box.top < 10


@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_fold_draws_the_copies_that_add_up(
    overlap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x_col = np.arange(36).reshape(9, 4)
    np.save("x.npy", x_col)
    options = ["-k", "2", "--overlap", overlap, "--at", "1,2", "-q"]
    assert run(["fold", "x.npy", "--input-shape", "4,4", *options, "--figure", "f.svg", "-o", "y.npy"]) == 0
    total = np.load("y.npy")[0, 1, 2, 0]
    indices = ConvGeometry((1, 4, 4, 1), 2).matrix_indices(0, (1, 2), 0)
    terms = " + ".join(str(x_col[pair]) for pair in indices)
    terms = f"({terms}) / 4" if overlap == "mean" else terms
    text = Path("f.svg").read_text("utf-8")
    assert f"pixel 1,2: {terms} = {total:g}, a copy" in text
    for row, column in indices:
        assert f"row {row}, column {column} = {x_col[row, column]}<" in text
    assert f"pixel 1,2 = {total:.3g}<" in text


@pytest.mark.parametrize(("groups", "bias"), [(1, None), (2, [5, 6])])
def test_a_transposed_layer_draws_the_rows_that_it_folds(groups: int, bias: list[int] | None) -> None:
    random = np.random.default_rng(3)
    y = random.integers(-9, 9, (1, 3, 3, 4))
    filters = random.integers(-9, 9, (4, 2, 2, 2 // groups))
    rows = transposed_rows(y, filters, groups, np.dtype(np.int64))
    x = cm.convolve_transpose(y, filters, groups=groups, bias=bias)
    np.testing.assert_array_equal(cm.fold(rows, x.shape, 2) + (0 if bias is None else np.array(bias)), x)


@pytest.mark.slow
def test_commands_draw(tmp_path: Path) -> None:
    digit = str(ROOT / DIGIT)
    done = convmat(
        *("unroll", digit, digit, "-k", "7", "-s", "7", "--figure", "f.png", "--animate", "a.gif"),
        *("--theme", "dark", "-o", "x.npy"),
        folder=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"all of X_col" in done.stdout
    assert b"16 patches, " in done.stdout
    assert np.load(tmp_path / "x.npy").shape == (32, 49)
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == THEMES["dark"].paper
    done = convmat("locate", digit, "-k", "3", "--pixel", "9,12,0", "--figure", "l.png", folder=tmp_path)
    assert done.returncode == 0
    assert b"9 of 676 rows" in done.stdout
    done = convmat(
        *("convolve", "-", "--kernel", "sobel-x", "--figure", "c.png", "-o", "-"),
        folder=tmp_path,
        stdin=npy(np.arange(300.0).reshape(3, 10, 10)),
    )
    assert done.returncode == 2  # three channels; nothing is drawn
    assert not (tmp_path / "c.png").exists()
    done = convmat(
        *("unroll", "-", "-k", "3", "--figure", "p.png", "-o", "-"),
        folder=tmp_path,
        stdin=npy(np.arange(200.0).reshape(2, 10, 10, 1)),
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"\x93NUMPY")
    assert (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unroll", "a.npy", "-k", "2", "--figure", "f.txt"), "f.txt: is no picture's name"),
        (("unroll", "a.npy", "-k", "2", "--animate", "f.jpg"), "f.jpg: is no animation's name"),
        (("unroll", "a.npy", "-k", "2", "--figure", "f.png", "--dry-run"), "--figure goes without --dry-run"),
        (
            ("unroll", "v.npy", "-k", "2", "--dims", "3", "--figure", "f.png"),
            "--figure: shows images, of 1 or 2",
        ),
        (("unroll", "n.npy", "-k", "2", "--animate", "f.gif"), "--animate: complex, NaN or infinite values"),
        (("unroll", "e.npy", "-k", "2", "--preview"), "--preview: shows images, and there are none"),
        (("unroll", "e.npy", "-k", "2", "--figure", "f.png"), "--figure: shows images, and there are none"),
        (("unroll", "n.npy", "-k", "2", "--figure", "f.png"), "--figure: complex, NaN or infinite values"),
        (("unroll", "a.npy", "-k", "2", "--figure", "f.png", "--theme", "blue"), "--theme"),
        (
            ("unroll", "a.npy", "-k", "2", "--figure", "f.png", "--scale", "5"),
            "--scale: must be 1 to 4, got 5",
        ),
        (
            ("unroll", "a.npy", "-k", "2", "--animate", "f.svg", "--fps", "0"),
            "--fps: must be 0.1 to 50, got 0",
        ),
        (("unroll", "a.npy", "-k", "2", "--figure", "f.svg", "--fps", "5"), "--fps goes with --animate"),
        (("unroll", "a.npy", "-k", "2", "--at", "1,1"), "--at goes with --figure or --animate or --preview"),
        (
            ("unroll", "a.npy", "-k", "2", "--figure", "f.svg", "--at", "1,5"),
            "--at: must be a pixel of the image, 0 to 4, 0 to 4, got 1,5",
        ),
        (("convolve", "a.npy", "--kernel", "box:2", "--figure", "f.svg", "--at", "1"), "0 to 4, got 1"),
        (
            (
                "fold",
                "f.npy",
                "--input-shape",
                "5,5",
                "-k",
                "2",
                "-s",
                "3",
                "--figure",
                "f.svg",
                "--at",
                "2,2",
            ),
            "--figure: shows copies of a pixel, and no patch holds 2,2",
        ),
        (("unroll", "a.npy", "-k", "2", "--figure", "f.pdf"), "f.pdf: is no picture's name; end it in"),
        (("unroll", "a.npy", "-k", "2", "--figure", "no/f.png"), "no/f.png: cannot be written"),
        (("convolve", "n.npy", "--kernel", "sobel-x", "--figure", "f.png"), "--figure: complex, NaN"),
        (
            ("convolve", "a.npy", "--kernel", "box:2", "--transpose", "--animate", "f.gif"),
            "goes without --transpose",
        ),
        (
            ("locate", "a.npy", "-k", "2", "-s", "3", "--pixel", "2,2,0", "--figure", "f.png"),
            "none holds this one",
        ),
    ],
)
def test_trouble_is_one_line(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(25).reshape(5, 5))
    np.save("f.npy", np.arange(16).reshape(4, 4))
    np.save("v.npy", np.zeros((4, 4, 4)))
    np.save("e.npy", np.zeros((0, 4, 4, 1)))
    np.save("n.npy", np.full((4, 4), np.nan))
    assert run(list(arguments)) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.glob("f.*")} == {"f.npy"}


def test_an_animation_needs_its_name() -> None:
    with pytest.raises(FileError, match=r"end it in one of \.apng, \.gif"):
        write_animation("a.txt", [])
