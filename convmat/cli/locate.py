"""`convmat locate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options

if TYPE_CHECKING:
    from convmat.shown import Fact

_MOST_PLACES = 20_000


@click.command("locate", cls=options.Command)
@options.inputs_argument(required=False)
@options.input_shape_option
@options.k_option
@click.option("--row", type=options.NumberType(), help="Row of X_col, from 0.")
@click.option(
    "--col", type=options.NumberType(), help="Column of X_col, from 0, in the order that --order says."
)
@click.option("--pixel", type=options.Pixel(), help="Pixel and channel, from 0; n is 0 where it is left out.")
@options.patch_options
@options.order_option
@options.image_options
@options.layout_option
@options.dims_option
@options.figure_option("the pixel, and everywhere it went")
@options.theme_option
@options.report_options
def command(
    inputs: tuple[str, ...],
    input_shape: tuple[int, ...] | None,
    kernel_size: Any,
    row: int | None,
    col: int | None,
    pixel: tuple[int, ...] | None,
    stride: Any,
    padding: Any,
    padding_mode: str,
    dilation: Any,
    order: str,
    frame: int | None,
    alpha: str,
    layout: str,
    dims: int | None,
    figure: str | None,
    theme: str,
    as_json: bool,
    quiet: bool,
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
    import numpy as np

    from convmat.cli.inputs import Batch, input_batch_shape, open_batch, refuse_image_options
    from convmat.cli.output import drain, report
    from convmat.errors import MappingIndexError, ShapeError
    from convmat.files.memory import check_memory
    from convmat.files.streams import is_pipe
    from convmat.geometry import ConvGeometry
    from convmat.report.places import pixel_facts, place_facts, places_grid

    if (row is None or col is None) if pixel is None else (row is not None or col is not None):
        raise click.UsageError("Give --row and --col, or --pixel alone")
    if bool(inputs) == (input_shape is not None):
        raise click.UsageError("Give INPUT, or --input-shape alone")
    if not inputs:
        refuse_image_options()
    axes = options.axes_of(dims, kernel_size, stride, dilation)
    if input_shape is None:
        batch = open_batch(inputs, axes, layout, frame, alpha)
    else:
        shape = input_batch_shape(input_shape, axes, layout)
        batch = Batch(shape, np.dtype(np.uint8), [], axes, layout)
    geometry = ConvGeometry(batch.shape, kernel_size, stride, options.pads_of(padding, axes), dilation)
    facts = batch.facts()
    grids = []
    if pixel is None:
        places = [geometry.place(row or 0, col or 0, padding_mode, order=order)]
        element = places[0].element
    else:
        element = options.pixel_of(pixel, axes)
        indices = geometry.matrix_indices(element[0], element[1:-1], element[-1], padding_mode, order=order)
        if len(indices) > _MOST_PLACES:
            raise MappingIndexError(
                "pixel",
                f"is at {len(indices)} places of X_col, expected at most {_MOST_PLACES} to show; "
                "give a smaller kernel, or a larger stride",
            )
        places = [geometry.place(*pair, padding_mode, order=order) for pair in indices]
    drawn: list[Fact] = []
    if figure is None:
        value = batch.element(element)
    else:
        from convmat.cli.figures import Kept, check_drawable, kept_bytes, write_patches

        check_drawable(geometry, figure)
        if not places:
            raise ShapeError("figure", "shows the patches of a pixel, and none holds this one; leave it out")
        if inputs:
            check_memory("input", kept_bytes(batch, 1), "draw a smaller image")
        kept = Kept(batch.chunks(), 1, places[0].patch[0]) if inputs else None
        images = kept.all() if kept else None
        if kept and any(map(is_pipe, inputs)):
            drain(kept)  # whoever writes to us should not be cut off
        value = images[0][element[1:]] if images is not None and element else None
        drawn = write_patches(
            geometry, padding_mode, order, images, figure=figure, places=places, theme=theme
        )
    if pixel is None:
        facts += place_facts(geometry, places[0], padding_mode, order, value)
    elif element is not None:
        facts += pixel_facts(geometry, element, places, padding_mode, order, value)
        grids = [places_grid(geometry, places, order)] if places else []
    report([*facts, *drawn], grids, as_json=as_json, quiet=quiet)
