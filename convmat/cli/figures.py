"""What the options of pictures do: which images they need, and the pictures written."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.output import STREAM_BYTES
from convmat.errors import ShapeError
from convmat.files.images import animation_bytes, to_pixels, write_animation, write_picture
from convmat.files.memory import check_memory
from convmat.report.figures.canvas import THEMES
from convmat.report.figures.patches import as_image, busiest, draw_patches, plan_patches
from convmat.shown import Fact, bytes_text
from convmat.watching import Watch, unwatched

if TYPE_CHECKING:
    from convmat.cli.inputs import Batch
    from convmat.geometry import ConvGeometry, Place
    from convmat.report.figures.patches import PatchPlan


_NO_SHADE = "complex, NaN or infinite results have no shade; leave it out"


class Kept:
    """Chunks of images, or of rows, on their way; of those from number `first` on, `count` are kept."""

    def __init__(self, chunks: Iterable[NDArray[Any]], count: int, first: int = 0) -> None:
        self._chunks, self._kept = self._noted(chunks), list[NDArray[Any]]()
        self._ahead = deque[NDArray[Any]]()
        self._wanted = range(first, first + count)
        self._passed = 0

    def __iter__(self) -> Iterator[NDArray[Any]]:
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._chunks

    def all(self) -> NDArray[Any]:
        """Those kept, in one array; what has not passed yet is read ahead, only as far as it is needed."""
        while self._passed < self._wanted.stop and (x := next(self._chunks, None)) is not None:
            self._ahead.append(x)
        if len(self._kept) > 1:
            self._kept = [np.concatenate(self._kept)]
        return self._kept[0]

    def _noted(self, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for x in chunks:
            start = self._passed
            self._passed += len(x)
            part = x[max(self._wanted.start - start, 0) : max(self._wanted.stop - start, 0)]
            if len(part):
                self._kept.append(part.copy())
            yield x


def kept_bytes(batch: Batch, count: int) -> int:
    """Memory that `count` images of a batch take that are drawn: as they come, kept, as pixels, and drawn."""
    elements = count * math.prod(batch.shape[1:])
    return batch.chunk_bytes + elements * (batch.dtype.itemsize + 1) + STREAM_BYTES


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
    *,
    figure: str | None = None,
    animation: str | None = None,
    places: list[Place] | None = None,
    theme: str,
    watch: Watch = unwatched,
) -> list[Fact]:
    """Draw patches and their rows of X_col; the images are those that `plan_patches` shows, or None.

    Returns facts: what was drawn. `watch` hands on the pictures of an animation.
    """
    pixels, how = (None, "") if images is None else as_pixels(images, _option(figure, animation))
    if images is not None and images.ndim == 3:  # one axis
        images, pixels = images[:, None], pixels[:, None] if pixels is not None else None
    facts = []
    focus = None if pixels is None else busiest(pixels[0])
    if figure is not None:
        plan = plan_patches(geometry, padding_mode, order, places or [], focus=focus)
        sheet = draw_patches(plan, pixels, images, THEMES[theme])
        write_picture(figure, sheet.pixels()[None], keep=True)
        facts.append(picture_fact("figure", plan.size, f"{_what(plan)}{how and ', ' + how}"))
    if animation is not None and pixels is not None:
        from convmat.report.figures.animation import animate

        plan = plan_patches(geometry, padding_mode, order, moving=True, focus=focus)
        needed = animation_bytes(animation, plan.size, len(plan.frames))
        check_memory("animate", needed, "take a larger --stride, or a smaller image")
        frames = watch(animate(plan, pixels, images, THEMES[theme]), len(plan.frames))
        count, nbytes = write_animation(animation, frames)
        part = f" of the {geometry.patches}" if count < geometry.patches else ""
        note = f"{count}{part} patches, {bytes_text(nbytes)} bytes"
        if part:
            note += "; a larger --stride, or a smaller image, shows all"
        facts.append(picture_fact("animation", plan.size, note))
    return facts


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
    *,
    figure: str,
    theme: str,
) -> list[Fact]:
    """Draw a layer, whose arguments are those of `convolve`, as a product.

    `images` is the first image, (1, *spatial, C), `shades` what `as_pixels` makes of it, and `rows` its Y,
    (P, K). Returns facts: what was drawn.
    """
    from convmat.report.figures.product import draw_product, plan_product

    filters, (pixels, how) = layer["filters"], shades
    if rows.dtype.kind == "c" or not np.isfinite(rows).all():
        raise ShapeError("figure", _NO_SHADE)
    if layer["flip"]:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    image, shown, y = images[0], pixels[0], rows.reshape(*geometry.output_size, -1)
    if image.ndim == 2:  # one axis
        image, shown, filters, y = image[None], shown[None], filters[:, None], y[None]
    biased = layer["bias"] is not None
    plan = plan_product(geometry, len(filters), layer["padding_mode"], busiest(shown), biased)
    sheet = draw_product(plan, shown, image, filters, y, THEMES[theme])
    write_picture(figure, sheet.pixels()[None], keep=True)
    return [picture_fact("figure", plan.size, f"patch {plan.row} followed through the layer, {how}")]


def picture_fact(key: str, size: tuple[int, int], note: str) -> Fact:
    """A picture that was drawn."""
    return Fact(key, key, list(size), f"{size[0]} × {size[1]} pixels: {note}")


def _what(plan: PatchPlan) -> str:
    rows = plan.geometry.matrix_shape[0]
    if len(plan.rows) == rows:
        return "all of X_col"
    return f"an excerpt, {len(plan.rows)} of {rows} rows of X_col"
