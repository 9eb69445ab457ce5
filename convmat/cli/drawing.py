"""Pictures of images on their way through a command: those to be drawn are kept, and the rest passes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from convmat.cli.figures import Kept, kept_bytes
from convmat.cli.inputs import Batch
from convmat.cli.options import LayerOptions
from convmat.cli.output import warn, watching
from convmat.figures.panels import IMAGES
from convmat.figures.preview import check_preview, preview_text
from convmat.figures.writing import (
    as_pixels,
    check_drawable,
    check_finite,
    picture_fact,
    write_layer,
    write_patches,
)
from convmat.files.memory import check_memory
from convmat.geometry import ConvGeometry
from convmat.plan import Plan
from convmat.report.tables import console_on
from convmat.shown import Fact

if TYPE_CHECKING:
    from convmat.verification.comparison import Note
    from convmat.verification.judge import Judged
    from convmat.verification.verdict import Report

_PIPED_WIDTH = 80  # of a preview, where there is no terminal


def draw_unrolling(
    batch: Batch,
    geometry: ConvGeometry,
    layer: LayerOptions,
    *,
    figure: str | None,
    animation: str | None,
    theme: str,
    preview: bool,
) -> tuple[Kept, list[Fact], Callable[[TextIO], str] | None]:
    """Draw patches of the first images of a batch: its chunks, what was drawn, and the preview, if any.

    All that has no shade is refused before the first byte is out.
    """
    check_drawable(geometry, figure, animation)
    if preview:
        check_preview(geometry)
    count = min(IMAGES, batch.shape[0])
    check_memory("input", kept_bytes(batch, count), "draw smaller images")
    kept, pictures = Kept(batch.chunks(), count), list[Fact]()
    text = None
    if preview:
        pixels, _ = as_pixels(kept.all(), "preview")
        text = partial(_previewed, geometry, layer.padding_mode, pixels)
    if figure is not None or animation is not None:
        pictures = write_patches(
            geometry,
            layer.padding_mode,
            layer.order,
            kept.all(),
            figure=figure,
            animation=animation,
            theme=theme,
            watch=watching("frame"),
        )
    return kept, pictures, text


def _previewed(geometry: ConvGeometry, padding_mode: str, pixels: NDArray[np.uint8], stream: TextIO) -> str:
    return preview_text(geometry, padding_mode, pixels, console_on(stream, _PIPED_WIDTH))


def draw_layer(
    batch: Batch,
    plan: Plan,
    arguments: dict[str, Any],
    computed: Callable[[Iterable[NDArray[Any]]], Iterator[NDArray[Any]]],
    *,
    figure: str,
    theme: str,
) -> tuple[Kept, Callable[[], list[Fact]]]:
    """The rows of Y that are `computed` of a batch, and what draws the layer of its first image with them."""
    check_drawable(plan.geometry, figure)
    check_finite(arguments["filters"], arguments["bias"])
    y_bytes = 2 * math.prod(plan.output_shape[1:]) * plan.arithmetic.result.itemsize
    check_memory("figure", y_bytes + kept_bytes(batch, 1), "draw a smaller image, or fewer filters")
    chunks = Kept(batch.chunks(), 1)
    image = chunks.all()
    shades = as_pixels(image, "figure")
    rows = Kept(computed(chunks), plan.geometry.patches)

    def draw() -> list[Fact]:
        return write_layer(plan.geometry, image, shades, rows.all(), arguments, figure=figure, theme=theme)

    return rows, draw


def draw_errors(figure: str, verdict: Report, judge: Callable[[Note], Report]) -> list[Fact]:
    """Draw the errors of a result, which is judged once more for them; what was drawn.

    A result of another shape has none, and of none nothing is drawn: a warning says so.
    """
    from convmat.figures.errors import error_picture
    from convmat.files.pictures import write_picture

    if verdict.shape != verdict.expected_shape or not verdict.elements:
        warn("--figure: there are no elements to compare; nothing is drawn")
        return []
    axes = len(verdict.shape) - 2
    kept = (1, 2) if axes == 1 else (axes - 1, axes)
    over = tuple(a for a in range(axes + 2) if a not in kept)
    largest = np.zeros([verdict.shape[a] for a in kept])

    def note(band: tuple[slice, ...], _: NDArray[Any], says: Judged) -> None:
        far = np.where(np.isinf(says.error), np.inf, np.where(says.exactly, says.error, says.ratio))
        part = largest[tuple(band[a] for a in kept)]
        np.maximum(part, far.max(over), out=part)

    judge(note)
    title = f"{verdict.outside} of {verdict.elements} elements differ"
    picture = error_picture(largest.T if axes == 1 else largest, title, verdict.exact)
    write_picture(figure, picture, keep=True)
    size = picture.shape[2], picture.shape[1]
    what = (
        "filters and columns, the worst of all images" if axes == 1 else "the worst of all images and filters"
    )
    return [picture_fact("figure", size, what)]
