"""`convmat convolve`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options


@click.command("convolve", cls=options.Command)
@options.inputs_argument()
@options.layer_options
@options.threads_option
@click.option(
    "--explain", is_flag=True, help="Print the plan: how the product is cut, blocks, threads, FLOPs."
)
@options.output_option
@options.report_options
def command(
    inputs: tuple[str, ...],
    layout: str,
    threads: int | None,
    explain: bool,
    output: str | None,
    as_json: bool,
    quiet: bool,
    **layer: Any,
) -> None:
    """Convolve image(s) with kernels as X_col · W_col, in blocks: X_col is never held whole.

    \b
    Example:
      convmat convolve sample_images/scene.png --kernel sobel-x --depthwise -o edges.png
      convmat convolve sample_images/digit.png --kernel sample_images/strokes_2x7x7x1.npy --stride 7

    FILE ending in .png, .jpg, .bmp, .gif, .tif, .webp, .pgm or .ppm is a picture, of one filter (gray) or
    three (RGB): values within 0..255 from an 8-bit input are rounded and kept; all others are stretched,
    the smallest to 0, the largest to 255. Any other FILE is Y as .npy, (N, H_out, W_out, K), or with
    --layout nchw (N, K, H_out, W_out).
    """
    from convmat.cli.layers import open_layer
    from convmat.cli.output import collect, drain, progress, report
    from convmat.engine import prepare, stream
    from convmat.files.npy import write_npy
    from convmat.files.outputs import is_picture
    from convmat.layouts import from_batch
    from convmat.report.facts import Fact, Seen, input_fact, rows_grid
    from convmat.report.results import layer_facts, plan_facts

    batch, arguments = open_layer(inputs, layout=layout, **layer)
    # What is wrong with the options shows before any data is read.
    todo = prepare(batch.empty(), **arguments)
    plan, dtype = todo.plan.for_batch(batch.shape[0], threads), todo.plan.arithmetic.result
    picture = output is not None and is_picture(output)
    if picture:
        from convmat.files.images import check_picture, write_picture

        check_picture(plan.output_shape)
    rows = plan.geometry.matrix_shape[0]
    results = (block for x in batch.chunks() for block in stream(prepare(x, **arguments, threads=threads)))
    seen = Seen(results, (rows, plan.filters))
    blocks = progress(seen, rows, quiet)
    notes = []
    if output is None:
        drain(blocks)
    elif picture:
        note = write_picture(output, collect(blocks, plan.output_shape, dtype), batch.dtype == "uint8")
        notes.append(Fact("picture", "picture", note, note))
    elif layout == "nhwc":
        write_npy(output, plan.output_shape, dtype, blocks)
    else:
        y = from_batch(collect(blocks, plan.output_shape, dtype), layout)
        write_npy(output, y.shape, dtype, y)
    facts = [input_fact(inputs), *layer_facts(plan, arguments["flip"], layout), seen.fact(), *notes]
    facts += plan_facts(plan) if explain else []
    grids = [rows_grid(plan.geometry, "Y", seen.whole)] if seen.whole is not None else []
    report(facts, grids, output=output, as_json=as_json, quiet=quiet)
