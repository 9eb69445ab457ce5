"""`convmat unroll`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options

if TYPE_CHECKING:
    from convmat.shown import Fact


@click.command("unroll", cls=options.Command)
@options.inputs_argument()
@options.k_option
@options.patch_options
@options.order_option
@options.image_options
@options.layout_option
@options.dims_option
@click.option("--per-image", is_flag=True, help="Write N × P × (kh·kw·C), a matrix for each image.")
@click.option("--dry-run", is_flag=True, help="Read headers only and write nothing; print what would be.")
@options.figure_option("the patches and the rows of X_col they become")
@click.option(
    "--animate",
    metavar="FILE",
    type=options.OutputName("animation"),
    help="Draw the kernel as it slides, and X_col as it grows, as .gif, .webp or .apng.",
)
@options.theme_option
@click.option(
    "--preview", is_flag=True, help="Show the image and its patches in the terminal, after the table."
)
@options.threads_option
@options.output_option
@options.report_options
def command(
    inputs: tuple[str, ...],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    padding_mode: str,
    dilation: Any,
    order: str,
    frame: int | None,
    alpha: str,
    layout: str,
    dims: int | None,
    per_image: bool,
    dry_run: bool,
    figure: str | None,
    animate: str | None,
    theme: str,
    preview: bool,
    threads: int | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Unroll image(s) into the patch matrix X_col: one row a patch, one column a tap and channel.

    \b
    Example:
      convmat unroll sample_images/digit.png --k 7 --stride 7
      convmat unroll sample_images/scene.png --k 3 --padding same -o x_col.npy
      convmat unroll sample_images/digit.png --k 7 --stride 7 --figure patches.png --animate patches.gif

    Several images of one size make a batch. Without -o the table is the output.

    Of large images --figure shows an excerpt, where the image varies most, and of a batch three images;
    --animate shows 100 patches at most. --preview has half blocks where the terminal has colours, and shades
    of characters where not.
    """
    from convmat.cli.inputs import open_batch
    from convmat.cli.output import drain, progress, report, show, warn, watching
    from convmat.files.memory import check_memory
    from convmat.files.npy import write_npy
    from convmat.files.streams import is_pipe
    from convmat.geometry import ConvGeometry
    from convmat.patches import unroll_stream
    from convmat.report.facts import Seen, absent, geometry_facts, matrix_facts, rows_grid
    from convmat.sizes import coverage

    axes = options.axes_of(dims, kernel_size, stride)
    batch = open_batch(inputs, axes, layout, frame, alpha)
    pads = options.pads_of(padding, axes)
    geometry = ConvGeometry(batch.shape, kernel_size, stride, pads, dilation)
    if preview and (as_json or quiet):
        raise click.UsageError("--preview goes without --json and --quiet")
    drawn = figure is not None or animate is not None
    chunks: Iterable[Any] = batch.chunks()
    pictures: list[Fact] = []
    if drawn or preview:
        from convmat.cli.figures import Kept, as_pixels, check_drawable, kept_bytes, write_patches
        from convmat.report.figures.patches import IMAGES
        from convmat.report.preview import check_preview, preview_text

        if dry_run:
            raise click.UsageError("--figure, --animate and --preview go without --dry-run")
        check_drawable(geometry, figure, animate)
        if preview:
            check_preview(geometry)
        count = min(IMAGES, batch.shape[0])
        check_memory("input", kept_bytes(batch, count), "draw smaller images")
        chunks = kept = Kept(chunks, count)
        # All that has no shade is refused before the first byte is out.
        if preview:
            pixels, _ = as_pixels(kept.all(), "preview")
        if drawn:
            pictures = write_patches(
                geometry,
                padding_mode,
                order,
                kept.all(),
                figure=figure,
                animation=animate,
                theme=theme,
                watch=watching(quiet, "frame"),
            )
    rows, columns = geometry.matrix_shape
    shape = (geometry.batch, geometry.patches, columns) if per_image else (rows, columns)
    seen = Seen(
        (
            block
            for x in chunks
            for block in unroll_stream(x, geometry.for_batch(len(x)), padding_mode, order, threads)
        ),
        shape,
        extremes=False,
    )
    blocks = progress(seen, rows, quiet)
    if output is not None and not dry_run:
        write_npy(output, shape, batch.dtype, blocks)
    elif seen.kept and not dry_run:
        drain(blocks)
    elif not dry_run and any(map(is_pipe, inputs)):
        drain(chunks)  # whoever writes to us should not be cut off, and may have lied
    grids = [] if seen.whole is None else [rows_grid(geometry, "X_col", seen.whole)]
    facts = [*batch.facts(), *geometry_facts(geometry, padding_mode)]
    facts += [*matrix_facts(geometry, batch.dtype, per_image, order), *absent("figure", "animation")]
    facts += [seen.rows_fact(output, "locate --row N shows one", computed=not dry_run), *pictures]
    report(facts, grids, output=output, as_json=as_json, quiet=quiet, written=not dry_run)
    if preview:
        show(lambda stream: preview_text(geometry, padding_mode, pixels, stream), output)
    uncovered = coverage(geometry).uncovered
    if uncovered:
        warn(
            f"{uncovered} pixels of each image are in no patch; another --stride or --padding covers them",
            quiet,
        )
