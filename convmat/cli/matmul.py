"""`convmat matmul`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options


@click.command("matmul", cls=options.Command)
@click.argument("x_col", metavar="X", type=options.File())
@click.argument("w_col", metavar="W", type=options.File())
@click.option(
    "--output-shape",
    type=options.OutputShape(),
    help="Reshape Y to (N, H_out, W_out, K): 4,4, or with N before: 2,4,4.",
)
@options.dims_option
@options.layout_option
@options.output_option
@options.report_options
def command(
    x_col: str,
    w_col: str,
    output_shape: Any,
    dims: int | None,
    layout: str,
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Multiply X_col by W_col: Y, one row a patch, one column a filter.

    \b
    Example:
      convmat unroll sample_images/digit.png -k 7 -s 7 -q -o x.npy
      convmat flatten-filters sample_images/strokes_2x7x7x1.npy -q -o w.npy
      convmat matmul x.npy w.npy --output-shape 4,4

    X and W are .npy files; one may be - for standard input. X is multiplied in blocks as it comes.
    Integers give the exact int64 product. With --output-shape, --layout nchw writes (N, K, H_out, W_out).
    """
    from convmat.cli.output import collect, drain, progress, report
    from convmat.engine import check_product, multiply, result_dtype
    from convmat.files.npy import NpyInput, write_npy
    from convmat.layouts import from_batch, from_batch_shape, product_shape
    from convmat.report.facts import Seen
    from convmat.report.results import product_facts, values_grid

    if x_col == w_col == "-":
        raise click.UsageError("X and W cannot both be standard input; name a file for one")
    source, patches = NpyInput(w_col), NpyInput(x_col)
    check_product(patches.shape, source.shape)
    weights = source.read()
    rows = (*patches.shape[:-1], weights.shape[-1])
    shape = product_shape(rows, output_shape, dims) if output_shape is not None else rows
    dtype = result_dtype(patches.dtype, weights.dtype)
    seen = Seen((multiply(block, weights) for block in patches.blocks(1 << 22)), rows)
    blocks = progress(seen, patches.shape[0], quiet)
    if output is not None and layout == "nchw":
        y = from_batch(collect(blocks, shape, dtype), layout)
        write_npy(output, y.shape, dtype, y)
    elif output is not None:
        write_npy(output, shape, dtype, blocks)
    else:
        drain(blocks)
    facts = product_facts(patches.shape, weights.shape, from_batch_shape(shape, layout), dtype, seen)
    facts.append(seen.rows_fact(output))
    grids = [values_grid("Y", seen.whole)] if seen.whole is not None else []
    report(facts, grids, output=output, as_json=as_json, quiet=quiet)
