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
from convmat.figures.canvas import THEMES
from convmat.figures.look import Look
from convmat.figures.panels import IMAGES
from convmat.figures.preview import check_preview, preview_text
from convmat.figures.writing import (
    as_pixels,
    check_drawable,
    check_finite,
    write_layer,
    write_patches,
    write_sheet,
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
    look: Look,
    preview: bool,
) -> tuple[Kept, list[Fact], Callable[[TextIO], str] | None]:
    """Draw patches of the first images of a batch: its chunks, what was drawn, and the preview, if any.

    All that has no shade is refused before the first byte is out.
    """
    check_drawable(geometry, figure, animation)
    focus = look.focus(geometry)
    if preview:
        check_preview(geometry)
    count = min(IMAGES, batch.shape[0])
    check_memory("input", kept_bytes(batch, count), "draw smaller images")
    kept, pictures = Kept(batch.chunks(), count), list[Fact]()
    text = None
    if preview:
        pixels, _ = as_pixels(kept.all(), "preview")
        text = partial(_previewed, geometry, layer.padding_mode, pixels, focus)
    if figure is not None or animation is not None:
        pictures = write_patches(
            geometry,
            layer.padding_mode,
            layer.order,
            kept.all(),
            look,
            figure=figure,
            animation=animation,
            watch=watching("frame"),
        )
    return kept, pictures, text


def _previewed(
    geometry: ConvGeometry,
    padding_mode: str,
    pixels: NDArray[np.uint8],
    focus: tuple[int, int] | None,
    stream: TextIO,
) -> str:
    return preview_text(geometry, padding_mode, pixels, console_on(stream, _PIPED_WIDTH), focus)


def draw_layer(
    batch: Batch,
    plan: Plan,
    arguments: dict[str, Any],
    computed: Callable[[Iterable[NDArray[Any]]], Iterator[NDArray[Any]]],
    look: Look,
    *,
    figure: str | None,
    animation: str | None,
) -> tuple[Kept, Callable[[], list[Fact]]]:
    """The rows of Y that are `computed` of a batch, and what draws the layer of its first image with them."""
    check_drawable(plan.geometry, figure, animation)
    look.focus(plan.geometry)
    check_finite(arguments["filters"], arguments["bias"])
    y_bytes = math.prod(plan.output_shape[1:]) * (plan.arithmetic.result.itemsize + 1)
    check_memory("figure", y_bytes + kept_bytes(batch, 1), "draw a smaller image, or fewer filters")
    chunks = Kept(batch.chunks(), 1)
    image = chunks.all()
    shades = as_pixels(image, "figure")
    rows = Kept(computed(chunks), plan.geometry.patches)

    def draw() -> list[Fact]:
        files = {"figure": figure, "animation": animation}
        return write_layer(
            plan.geometry, image, shades, rows.all(), arguments, look, **files, watch=watching("frame")
        )

    return rows, draw


def draw_errors(figure: str, look: Look, verdict: Report, judge: Callable[[Note], Report]) -> list[Fact]:
    """Draw the errors of a result, which is judged once more for them; what was drawn.

    A result of another shape has none, and of none nothing is drawn: a warning says so.
    """
    from convmat.figures.errors import draw_verdict

    if verdict.shape != verdict.expected_shape or not verdict.elements:
        warn("--figure: there are no elements to compare; nothing is drawn")
        return []
    axes = len(verdict.shape) - 2
    kept = (1, 2) if axes == 1 else (axes - 1, axes)
    over = tuple(a for a in range(axes + 2) if a not in kept)
    largest = np.zeros([verdict.shape[a] for a in kept])
    wrong = np.zeros(largest.shape, bool)

    def note(band: tuple[slice, ...], _: NDArray[Any], says: Judged) -> None:
        far = np.where(np.isinf(says.error), np.inf, np.where(says.exactly, says.error, says.ratio))
        at = tuple(band[a] for a in kept)
        np.maximum(largest[at], far.max(over), out=largest[at])
        wrong[at] |= says.outside.any(over)

    judge(note)
    title = f"{verdict.outside} of {verdict.elements} elements differ"
    if axes == 1:
        largest, wrong = largest.T, wrong.T
    sheet = draw_verdict(largest, wrong, title, verdict.exact, THEMES[look.theme])
    what = (
        "filters and columns, the worst of all images" if axes == 1 else "the worst of all images and filters"
    )
    return [write_sheet(figure, sheet, look, what)]
