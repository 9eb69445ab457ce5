"""Pictures written to files, and what is told of them: patches, their animation, a layer as a product."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.errors import ShapeError
from convmat.figures.canvas import THEMES, number_text
from convmat.figures.cells import position_of
from convmat.figures.outlines import reach
from convmat.figures.painting import animate, draw_patches
from convmat.figures.panels import About, as_image, busiest
from convmat.figures.patches import plan_patches
from convmat.files.memory import check_memory
from convmat.files.names import VECTOR, ending
from convmat.files.outputs import open_output
from convmat.files.pictures import animation_bytes, to_pixels, write_animation, write_picture
from convmat.shown import Fact, bytes_text
from convmat.watching import Watch, unwatched

if TYPE_CHECKING:
    from convmat.figures.canvas import Film, Sheet
    from convmat.figures.look import Look
    from convmat.figures.patches import PatchPlan
    from convmat.geometry import ConvGeometry, Place
    from convmat.matrix import LayerMatrix

_TRIED = 2500  # patches, or pixels, among which one to explain is looked for
_SPELLED = 12  # numbers that are written out
_NO_SHADE = "complex, NaN or infinite results have no shade; leave it out"


def check_drawable(geometry: ConvGeometry, figure: str | None, animation: str | None = None) -> None:
    """Refuse, before any work, what can be no picture; a preview is one without a name.

    Raises:
        GeometryError, ShapeError: three spatial axes, no images.
    """
    option = _option(figure, animation)
    as_image(geometry, option)
    if not geometry.batch:
        raise ShapeError(option, "shows images, and there are none; leave it out")


def _option(figure: str | None, animation: str | None) -> str:
    """Which option trouble is about."""
    if figure is not None:
        return "figure"
    return "preview" if animation is None else "animate"


def as_pixels(values: NDArray[Any], option: str) -> tuple[NDArray[np.uint8], str]:
    """Numbers as 8-bit pixels, and a sentence that says how: those of 8-bit images as they are.

    Raises:
        ShapeError: complex, NaN or infinite values.
    """
    if values.dtype != np.uint8:
        check_memory(option, values.size, "draw a smaller image")
    try:
        return to_pixels(values, values.dtype == np.uint8)
    except ShapeError:
        raise ShapeError(option, "complex, NaN or infinite values have no shade; leave it out") from None


def write_patches(
    geometry: ConvGeometry,
    padding_mode: str,
    order: str,
    images: NDArray[Any] | None,
    look: Look,
    *,
    figure: str | None = None,
    animation: str | None = None,
    places: list[Place] | None = None,
    watch: Watch = unwatched,
) -> list[Fact]:
    """Draw patches and their rows of X_col; the images are those that `plan_patches` shows, or None.

    Returns facts: what was drawn. `watch` hands on the pictures of an animation.
    """
    pixels, how = (None, "") if images is None else as_pixels(images, _option(figure, animation))
    if images is not None and images.ndim == 3:  # one axis
        images, pixels = images[:, None], pixels[:, None] if pixels is not None else None
    facts = []
    theme, about = THEMES[look.theme], _about(geometry, look, pixels)
    if figure is not None:
        plan = plan_patches(geometry, padding_mode, order, places or [], about=about)
        sheet = draw_patches(plan, pixels, images, theme)
        facts.append(write_sheet(figure, sheet, look, f"{_what(plan)}{how and ', ' + how}"))
    if animation is not None and pixels is not None:
        plan = plan_patches(geometry, padding_mode, order, moving=True, about=about)
        film = animate(plan, pixels, images, theme, look.fps)
        facts.append(write_film(animation, film, look, len(plan.frames), geometry.patches, watch))
    return facts


def _about(geometry: ConvGeometry, look: Look, pixels: NDArray[np.uint8] | None) -> About:
    """What of an image a plan is about: the pixel that was asked for, or else where it varies most."""
    at = look.focus(geometry)
    if pixels is None:
        return About(at, at)
    flat = as_image(geometry)

    def blank(row: int) -> bool:
        n, *_ = flat.patch_position(row)
        lines, columns = (
            range(max(span.start, 0), min(span.stop, size))
            for span, size in zip(reach(flat, row), flat.input_size, strict=True)
        )
        part = (
            pixels[n, lines.start : lines.stop, columns.start : columns.stop]
            if n < len(pixels)
            else pixels[:0]
        )
        return bool((part == part[:1, :1]).all())

    return About(at or busiest(pixels[0]), at, None if at else blank)


def write_sheet(name: str, sheet: Sheet, look: Look, note: str) -> Fact:
    """Write a picture as its name says, and say what was drawn."""
    if ending(name) == VECTOR:
        from convmat.figures.vector import svg

        write_text(name, svg(sheet, look.scale))
    else:
        from convmat.figures.raster import painted

        width, height = (side * look.scale for side in sheet.size)
        check_memory("figure", 8 * width * height, "give a smaller --scale")
        write_picture(name, np.asarray(painted(sheet, look.scale))[None], keep=True)
    return _picture_fact("figure", sheet, look, note)


def write_film(name: str, film: Film, look: Look, count: int, patches: int, watch: Watch) -> Fact:
    """Write an animation of so many of all patches as its name says, and say what was drawn."""
    if ending(name) == VECTOR:
        from convmat.figures.vector import moving_svg

        nbytes = write_text(name, moving_svg(film, look.scale))
    else:
        from convmat.figures.raster import frames

        size, total = [side * look.scale for side in film.start.size], len(film.moments) + 1
        needed = animation_bytes(name, (size[0], size[1]), total)
        check_memory("animate", needed, "take a larger --stride, a smaller image, or a smaller --scale")
        _, nbytes = write_animation(name, watch(frames(film, look.scale), total))
    part = f" of the {patches}" if count < patches else ""
    note = f"{count}{part} patches, {bytes_text(nbytes)} bytes"
    if part:
        note += "; a larger --stride, or a smaller image, shows all"
    return _picture_fact("animation", film.start, look, note)


def check_finite(filters: NDArray[Any], bias: NDArray[Any] | None) -> None:
    """Raise ShapeError, before any work, for a layer whose results have no shade."""
    for values in (filters, bias):
        if values is not None and (values.dtype.kind == "c" or not np.isfinite(values).all()):
            raise ShapeError("figure", _NO_SHADE)


def write_layer(
    geometry: ConvGeometry,
    images: NDArray[Any],
    shades: tuple[NDArray[np.uint8], str],
    rows: NDArray[Any],
    layer: dict[str, Any],
    look: Look,
    *,
    figure: str | None = None,
    animation: str | None = None,
    watch: Watch = unwatched,
) -> list[Fact]:
    """Draw a layer, whose arguments are those of `convolve`, as a product.

    `images` is the first image, (1, *spatial, C), `shades` what `as_pixels` makes of it, and `rows` its Y,
    (P, K). Returns facts: what was drawn. `watch` hands on the pictures of an animation.
    """
    from convmat.figures.multiplying import animate_product, draw_product
    from convmat.figures.product import plan_product

    filters, (pixels, how) = layer["filters"], shades
    if rows.dtype.kind == "c" or (rows.dtype.kind == "f" and not np.isfinite(rows).all()):
        raise ShapeError(_option(figure, animation), _NO_SHADE)
    if layer["flip"]:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    image, shown, y = images[0], pixels[0], rows.reshape(*geometry.output_size, -1)
    if image.ndim == 2:  # one axis
        image, shown, filters, y = image[None], shown[None], filters[:, None], y[None]
    theme, mode = THEMES[look.theme], layer["padding_mode"]
    about, biased = _about(geometry, look, shown[None]), layer["bias"] is not None
    facts = []
    if figure is not None:
        plan = plan_product(geometry, len(filters), mode, about, biased)
        sheet = draw_product(plan, shown, image, filters, y, theme)
        facts.append(write_sheet(figure, sheet, look, f"patch {plan.row} followed through the layer, {how}"))
    if animation is not None:
        plan = plan_product(geometry, len(filters), mode, about, biased, moving=True)
        film = animate_product(plan, shown, image, filters, y, theme, look.fps)
        facts.append(write_film(animation, film, look, len(plan.patches), geometry.patches, watch))
    return facts


def write_folding(
    geometry: ConvGeometry,
    order: str,
    x_col: NDArray[Any],
    image: NDArray[Any],
    from_8_bit: bool,
    look: Look,
    figure: str,
    *,
    mean: bool = False,
    name: str = "X_col",
    bias: Any = None,
) -> list[Fact]:
    """Draw how rows of X_col become the first image: the copies of a pixel, which add up.

    `x_col` are the rows of that image, (P, kh·kw·C), which `name` says, and `image` is what they become,
    (1, *spatial, C), their `mean`, or with a `bias` added. Returns facts: what was drawn.
    """
    if any(a.dtype.kind == "c" or not np.isfinite(a).all() for a in (x_col, image)):
        raise ShapeError("figure", _NO_SHADE)
    flat = as_image(geometry.for_batch(1))
    image = image.reshape(flat.input_shape)
    together, how = to_pixels(np.concatenate([image.ravel(), x_col.ravel()]), from_8_bit)
    shown, pixels = together[: image.size].reshape(image.shape), together[image.size :].reshape(x_col.shape)
    y, x = look.focus(geometry) or _most_copied(flat)
    indices = flat.matrix_indices(0, (y, x), 0, order=order)
    pixel = ",".join(map(str, position_of(flat, (y, x))))
    if not indices:
        raise ShapeError("figure", f"shows copies of a pixel, and no patch holds {pixel}; give another --at")
    parts = [
        f"({text})" if text[0] == "-" else text for text in (number_text(x_col[pair]) for pair in indices)
    ]
    terms = " + ".join(parts if len(parts) <= _SPELLED else [*parts[: _SPELLED - 1], "...", parts[-1]])
    terms = f"({terms}) / {len(parts)}" if mean else terms
    terms += "" if bias is None else f" + {number_text(bias[0])}"
    says = [
        f"pixel {pixel}: {terms} = {number_text(image[0, y, x, 0])}, a copy from each patch that holds it"
    ]
    places = [flat.place(*pair, order=order) for pair in indices]
    plan = plan_patches(geometry.for_batch(1), "zeros", order, places, folding=says, name=name)
    rows = [mark.row for mark in plan.x_col.marks]
    sheet = draw_patches(plan, shown, image, THEMES[look.theme], (pixels[rows], x_col[rows]))
    return [write_sheet(figure, sheet, look, f"{len(parts)} copies of pixel {pixel}, {how}")]


def write_matrix(matrix: LayerMatrix, look: Look, figure: str) -> None:
    """Draw a layer's matrix."""
    from convmat.figures.pattern import draw_matrix

    write_sheet(figure, draw_matrix(matrix, THEMES[look.theme]), look, "")


def transposed_rows(
    y: NDArray[Any], filters: NDArray[Any], groups: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """X_col of a transposed convolution, Y · W_colᵀ, of the first image of y, (1, *out, K): (P, kh·kw·C)."""
    outputs, terms = len(filters) // groups, filters.shape[-1]
    by_group = y[0].reshape(-1, groups, outputs).astype(dtype)
    weights = filters.reshape(groups, outputs, -1, terms).astype(dtype)
    x_col: NDArray[Any] = np.einsum("pgk,gktc->ptgc", by_group, weights)
    return x_col.reshape(len(by_group), -1)


def _most_copied(geometry: ConvGeometry) -> tuple[int, int]:
    """The pixel nearest to the middle that most patches hold."""
    h, w = geometry.input_size
    at = sorted(
        itertools.product(range(h), range(w)), key=lambda p: abs(2 * p[0] - h + 1) + abs(2 * p[1] - w + 1)
    )
    return max(at[:_TRIED], key=lambda p: len(geometry.matrix_indices(0, p, 0)))


def write_text(name: str, text: str) -> int:
    """Write a picture that is text: so many bytes."""
    data = text.encode()
    with open_output(name, len(data)) as stream:
        stream.write(data)
    return len(data)


def _picture_fact(key: str, sheet: Sheet, look: Look, note: str) -> Fact:
    """A picture that was drawn."""
    width, height = (side * look.scale for side in sheet.size)
    return Fact(key, key, [width, height], f"{width} × {height} pixels: {note}")


def _what(plan: PatchPlan) -> str:
    rows = plan.geometry.matrix_shape[0]
    if len(plan.x_col.marks) == rows:
        return "all of X_col"
    return f"an excerpt, {len(plan.x_col.marks)} of {rows} rows of X_col"
