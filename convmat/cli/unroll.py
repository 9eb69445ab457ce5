"""`convmat unroll`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options


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

    Several images of one size make a batch. Without -o the table is the output.
    """
    from convmat.cli.inputs import open_batch
    from convmat.cli.output import drain, progress, report, warn
    from convmat.files.npy import write_npy
    from convmat.geometry import ConvGeometry
    from convmat.patches import unroll_stream
    from convmat.report.facts import Seen, geometry_facts, input_fact, matrix_facts, rows_grid

    axes = options.axes_of(dims, kernel_size, stride)
    batch = open_batch(inputs, axes, layout, frame, alpha)
    pads = options.pads_of(padding, axes)
    geometry = ConvGeometry(batch.shape, kernel_size, stride, pads, dilation)
    rows, columns = geometry.matrix_shape
    shape = (geometry.batch, geometry.patches, columns) if per_image else (rows, columns)
    seen = Seen(
        (
            block
            for x in batch.chunks()
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
    elif not dry_run and "-" in inputs:
        drain(batch.chunks())  # whoever writes to us should not be cut off, and may have lied
    grids = [] if seen.whole is None else [rows_grid(geometry, "X_col", seen.whole)]
    facts = [input_fact(inputs), *geometry_facts(geometry, padding_mode)]
    facts += matrix_facts(geometry, batch.dtype, per_image, order)
    report(facts, grids, output=output, as_json=as_json, quiet=quiet)
    uncovered = geometry.coverage().uncovered
    if uncovered:
        warn(
            f"{uncovered} pixels of each image are in no patch; another --stride or --padding covers them",
            quiet,
        )
