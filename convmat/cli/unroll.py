"""`convmat unroll`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options
from convmat.cli.command import Command, refuse

if TYPE_CHECKING:
    from convmat.cli.inputs import Batch
    from convmat.cli.work import Work
    from convmat.figures.look import Look
    from convmat.geometry import ConvGeometry
    from convmat.shown import Fact


@click.command(
    "unroll",
    cls=Command,
    needs={
        "theme": "figure animate",
        "scale": "figure animate",
        "at": "figure animate preview",
        "fps": "animate",
    },
    bars={
        "preview": "as_json quiet dry_run",
        "figure": "dry_run",
        "animate": "dry_run",
        "scheduler": "figure animate preview",
    },
)
@options.inputs_argument()
@options.patches
@click.option("--per-image", is_flag=True, help="Write N × P × (kh·kw·C), a matrix for each image.")
@click.option("--dry-run", is_flag=True, help="Read headers only and write nothing; print what would be.")
@options.figure_option("the patches and the rows of X_col they become")
@options.animate_option("the kernel as it slides, and X_col as it grows")
@options.look_of(options.at_option, options.fps_option)
@click.option(
    "--preview", is_flag=True, help="Show the image and its patches in the terminal, after the table."
)
@options.threads_option
@options.scheduler_option
@options.resume_option
@options.output_option("npy", "zarr")
@options.report_options
def command(dry_run: bool, output: str | None, **asked: Any) -> None:
    """Unroll image(s) into the patch matrix X_col: one row a patch, one column a tap and channel.

    \b
    Example:
      convmat unroll sample_images/digit.png --k 7 --stride 7
      convmat unroll sample_images/scene.png --k 3 --padding same -o x_col.npy
      convmat unroll sample_images/digit.png --k 7 --stride 7 --figure patches.png --animate patches.gif

    Several images of one size make a batch. Without -o the table is the output.

    Of large images --figure shows an excerpt, where the image varies most or --at says, and of a batch three;
    --animate shows 100 patches at most. --preview has half blocks where the terminal has colours, and shades
    of characters where not.
    """
    from convmat.cli.inputs import is_chunked
    from convmat.cli.work import write

    make: Callable[..., Work] = _unrolled
    if is_chunked(asked["inputs"], asked["scheduler"], output, asked["go_on"]):
        refuse(("figure", "animate", "preview"), "needs arrays whole; leave out .zarr and folders")
        make = _chunked
    write(make(**asked), output, computed=not dry_run)


def _unrolled(
    inputs: tuple[str, ...],
    layer: options.LayerOptions,
    per_image: bool,
    figure: str | None,
    animate: str | None,
    look: Look,
    preview: bool,
    threads: int | None,
    **_: Any,
) -> Work:
    from convmat.cli.layer import open_input, patch_geometry
    from convmat.cli.output import drain
    from convmat.files.streams import is_pipe
    from convmat.patches import unroll_stream

    batch = open_input(inputs, layer)
    geometry = patch_geometry(batch.shape, layer)
    chunks: Iterable[Any] = batch.chunks()
    pictures: list[Fact] = []
    text = None
    if figure is not None or animate is not None or preview:
        from convmat.cli.drawing import draw_unrolling

        chunks, pictures, text = draw_unrolling(
            batch, geometry, layer, figure=figure, animation=animate, look=look, preview=preview
        )
    blocks = (
        block
        for x in chunks
        for block in unroll_stream(x, geometry.for_batch(len(x)), layer.padding_mode, layer.order, threads)
    )

    def skip() -> None:
        if any(map(is_pipe, inputs)):
            drain(chunks)  # whoever writes to us should not be cut off, and may have lied

    work = _work(batch, geometry, layer, per_image)
    work.blocks, work.skip, work.draw, work.text = blocks, skip, lambda: pictures, text
    return work


def _chunked(
    inputs: tuple[str, ...],
    layer: options.LayerOptions,
    per_image: bool,
    threads: int | None,
    scheduler: str | None,
    go_on: bool,
    **_: Any,
) -> Work:
    from convmat import dask as chunkwise
    from convmat.cli.cluster import chunkwise_fields, open_chunked, threads_of_task
    from convmat.cli.layer import patch_geometry

    batch = open_chunked(inputs, layer)
    geometry = patch_geometry(batch.shape, layer)
    work = _work(batch, geometry, layer, per_image)
    how: dict[str, Any] = {"padding_mode": layer.padding_mode, "order": layer.order}
    own = threads_of_task(scheduler, threads)
    x_col = chunkwise.unroll(batch.array, geometry.kernel_size, **layer.steps, **how, threads=own)
    fields = chunkwise_fields(x_col.reshape(work.shape), scheduler, threads, go_on)
    return replace(work, skip=lambda: None, **fields)


def _work(batch: Batch, geometry: ConvGeometry, layer: options.LayerOptions, per_image: bool) -> Work:
    """An unrolling, of which is known all that is to be told of it beforehand."""
    from convmat.cli.work import Work
    from convmat.report.facts import absent, geometry_facts, matrix_facts, rows_grid
    from convmat.sizes import coverage

    rows, columns = geometry.matrix_shape
    facts = [*batch.facts(), *geometry_facts(geometry, layer.padding_mode)]
    facts += [
        *matrix_facts(geometry, batch.dtype, per_image, layer.order),
        *absent("figure", "animation"),
    ]
    uncovered = coverage(geometry).uncovered
    missed = f"{uncovered} pixels of each image are in no patch; another --stride or --padding covers them"
    return Work(
        (geometry.batch, geometry.patches, columns) if per_image else (rows, columns),
        batch.dtype,
        [],
        facts,
        grid=lambda x_col: rows_grid(geometry, "X_col", x_col),
        rows_elsewhere="locate --row N shows one",
        warnings=[missed] if uncovered else [],
    )
