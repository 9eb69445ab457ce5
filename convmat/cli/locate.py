"""`convmat locate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import Pixel

if TYPE_CHECKING:
    from convmat.cli.inputs import Batch
    from convmat.figures.look import Look
    from convmat.geometry import ConvGeometry, Place
    from convmat.shown import Fact

_MOST_PLACES = 20_000


@click.command("locate", cls=Command, needs={"theme": "figure", "scale": "figure"})
@options.inputs_argument(required=False)
@options.absent_input_option
@options.patches
@options.number("--row", help="Row of X_col, from 0.")
@options.number("--col", help="Column of X_col, from 0, in the order that --order says.")
@click.option("--pixel", type=Pixel(), help="Pixel and channel, from 0; n is 0 where it is left out.")
@options.figure_option("the pixel, and everywhere it went")
@options.look_of()
@options.report_options
def command(
    inputs: tuple[str, ...],
    input_shape: tuple[int, ...] | None,
    layer: options.LayerOptions,
    row: int | None,
    col: int | None,
    pixel: tuple[int, ...] | None,
    figure: str | None,
    look: Look,
) -> None:
    """Which pixel is at a row and column of X_col, and where in X_col a pixel went, by Eq. 8.

    \b
    Example:
      convmat locate sample_images/digit.png --k 7 --stride 7 --row 12 --col 40
      convmat locate --input-shape 28,28,1 --k 3 --pixel 9,12,0
      convmat locate sample_images/digit.png --k 3 --pixel 9,12,0 --figure places.png

    Give images, or --input-shape alone, which needs no files and shows no values. --pixel is y,x,c or n,y,x,c
    (x,c with --dims 1; z,y,x,c with --dims 3), whatever the --layout. With --order chw, columns are those of
    unroll --order chw, the rows of PyTorch's unfold, and the column of the hwc order is shown beside.
    """
    from convmat.cli.layer import open_input, patch_geometry
    from convmat.cli.output import report
    from convmat.report.places import pixel_facts, place_facts, places_grid

    if bool(inputs) == (input_shape is not None):
        raise click.UsageError("Give INPUT, or --input-shape alone")
    batch = open_input(inputs, layer, input_shape)
    geometry = patch_geometry(batch.shape, layer)
    element, places = _places(geometry, layer, row, col, pixel)
    value, drawn = _value(batch, geometry, layer, element, places, figure, look)
    facts, grids = batch.facts(), []
    if pixel is None:
        facts += place_facts(geometry, places[0], layer.padding_mode, layer.order, value)
    elif element is not None:
        facts += pixel_facts(geometry, element, places, layer.padding_mode, layer.order, value)
        grids = [places_grid(geometry, places, layer.order)] if places else []
    report([*facts, *drawn], grids)


def _places(
    geometry: ConvGeometry,
    layer: options.LayerOptions,
    row: int | None,
    col: int | None,
    pixel: tuple[int, ...] | None,
) -> tuple[tuple[int, ...] | None, list[Place]]:
    """The element of the input that is asked about, if it is no padding, and its places in X_col."""
    from convmat.errors import MappingIndexError

    if (row is None or col is None) if pixel is None else (row is not None or col is not None):
        raise click.UsageError("Give --row and --col, or --pixel alone")
    mode: dict[str, Any] = {"padding_mode": layer.padding_mode, "order": layer.order}
    if pixel is None:
        place = geometry.place(row or 0, col or 0, **mode)
        return place.element, [place]
    element = options.pixel_of(pixel, layer.axes)
    indices = geometry.matrix_indices(element[0], element[1:-1], element[-1], **mode)
    if len(indices) > _MOST_PLACES:
        raise MappingIndexError(
            "pixel",
            f"is at {len(indices)} places of X_col, expected at most {_MOST_PLACES} to show; "
            "give a smaller kernel, or a larger stride",
        )
    return element, [geometry.place(*pair, **mode) for pair in indices]


def _value(
    batch: Batch,
    geometry: ConvGeometry,
    layer: options.LayerOptions,
    element: tuple[int, ...] | None,
    places: list[Place],
    figure: str | None,
    look: Look,
) -> tuple[Any, list[Fact]]:
    """The value of an element, None where there is none, and what was drawn of it."""
    if figure is None:
        return batch.element(element), []
    from convmat.cli.figures import Kept, kept_bytes
    from convmat.cli.output import drain
    from convmat.errors import ShapeError
    from convmat.figures.writing import check_drawable, write_patches
    from convmat.files.memory import check_memory
    from convmat.files.streams import is_pipe

    check_drawable(geometry, figure)
    if not places:
        raise ShapeError("figure", "shows the patches of a pixel, and none holds this one; leave it out")
    images = None
    if batch.sources:
        check_memory("input", kept_bytes(batch, 1), "draw a smaller image")
        kept = Kept(batch.chunks(), 1, places[0].patch[0])
        images = kept.all()
        if any(is_pipe(source.name) for source in batch.sources):
            drain(kept)  # whoever writes to us should not be cut off
    drawn = write_patches(
        geometry, layer.padding_mode, layer.order, images, look, figure=figure, places=places
    )
    return images[0][element[1:]] if images is not None and element else None, drawn
