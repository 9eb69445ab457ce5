"""The pictures: what their plans say is held against the mapping, and what is painted against the plans."""

from __future__ import annotations

import itertools
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
from convmat.figures.canvas import ACCENTS, THEMES, Box, Film, Sheet, label, plain, text_size
from convmat.figures.cells import shades, x_col_faces
from convmat.figures.multiplying import animate_product, draw_product, strongest
from convmat.figures.painting import animate, draw_patches
from convmat.figures.panels import busiest
from convmat.figures.patches import PatchPlan, plan_patches
from convmat.figures.product import ProductPlan, plan_product
from convmat.figures.raster import frames, painted
from convmat.figures.vector import moving_svg, svg
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
    picture = draw_patches(plan, x, None, THEMES[theme]).pixels()
    for mark in plan.x_col.marks:
        for cell in plan.cells(mark):
            middle = picture[(cell.box.top + cell.box.bottom) // 2, (cell.box.left + cell.box.right) // 2]
            assert (middle == x[cell.place.element]).all()
    for patch in plan.patches:
        colour = patch.colour or THEMES[theme].ink
        assert tuple(picture[patch.box.top, (patch.box.left + patch.box.right) // 2]) == colour
    again = draw_patches(plan, x, None, THEMES[theme]).pixels()
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
    plan = plan_patches(ConvGeometry(x.shape, 3), focus=(y, right))
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
    painted = sheet.pixels()
    colours = shades(y[0, ..., 0].reshape(-1, 1), float(y.min()), float(y.max()))
    for row, top in plan.y.rows:
        assert tuple(painted[top + 3, plan.y.box.left + 3]) == tuple(colours[row, 0])


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
    np.testing.assert_array_equal(pictures[-1][0], whole.pixels())


def test_an_animation_of_many_patches_shows_a_hundred() -> None:
    plan = plan_patches(ConvGeometry((1, 28, 28, 1), 3), moving=True)
    assert len(plan.frames) == 100
    assert {patch.box.right - patch.box.left for patch in plan.frames} == {99}


@pytest.mark.parametrize("text", ["X_col 9 × 9", "gjpqy|", "0", "9 × 4 → k = 3 − 1"])
def test_text_stays_inside_its_measured_size(text: str) -> None:
    width, height = text_size(text, 18)
    sheet = Sheet((width + 40, height + 40), THEMES["light"])
    sheet.write(label(20, 20, text, 18))
    ys, xs = np.nonzero((sheet.pixels() != 255).any(-1))
    assert 20 <= xs.min() <= xs.max() < 20 + width
    assert 20 <= ys.min() <= ys.max() < 20 + height
    assert "×" not in plain(text)


def test_themes_read_on_their_papers() -> None:
    for theme in THEMES.values():
        assert abs(sum(theme.paper) - sum(theme.ink)) > 450
    assert len(set(ACCENTS)) == len(ACCENTS)


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
        (("unroll", "a.npy", "-k", "2", "--figure", "no/f.png"), "no/f.png: cannot be written"),
        (("convolve", "n.npy", "--kernel", "sobel-x", "--figure", "f.png"), "--figure: complex, NaN"),
        (
            ("convolve", "a.npy", "--kernel", "box:2", "--transpose", "--figure", "f.png"),
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
    np.save("v.npy", np.zeros((4, 4, 4)))
    np.save("e.npy", np.zeros((0, 4, 4, 1)))
    np.save("n.npy", np.full((4, 4), np.nan))
    assert run(list(arguments)) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("f.*"))


def test_an_animation_needs_its_name() -> None:
    with pytest.raises(FileError, match=r"end it in one of \.apng, \.gif"):
        write_animation("a.txt", [])
