"""`convmat matmul`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import File, OutputShape

if TYPE_CHECKING:
    from convmat.cli.work import Work


@click.command("matmul", cls=Command, needs={"layout": "output_shape", "dims": "output_shape"})
@click.argument("x_col", metavar="X", type=File())
@click.argument("w_col", metavar="W", type=File())
@click.option(
    "--output-shape",
    type=OutputShape(),
    help="Reshape Y to (N, H_out, W_out, K): 4,4, or with N before: 2,4,4.",
)
@options.layer_of(options.array_options)
@options.bytes_options
@options.output_option("npy")
@options.report_options
def command(output: str | None, **asked: Any) -> None:
    """Multiply X_col by W_col: Y, one row a patch, one column a filter.

    \b
    Example:
      convmat unroll sample_images/digit.png -k 7 -s 7 -q -o x.npy
      convmat flatten-filters sample_images/strokes_2x7x7x1.npy -q -o w.npy
      convmat matmul x.npy w.npy --output-shape 4,4

    X and W are .npy files; one may be - for standard input. X is multiplied in blocks as it comes.
    Integers give the exact int64 product. With --output-shape, --layout nchw writes (N, K, H_out, W_out).
    """
    from convmat.cli.work import write

    write(_product(**asked), output)


def _product(x_col: str, w_col: str, output_shape: Any, layer: options.LayerOptions) -> Work:
    from convmat.cli.work import Work
    from convmat.engine import check_product, multiply, result_dtype
    from convmat.files.npy import NpyInput
    from convmat.layouts import from_batch_shape, product_shape
    from convmat.report.results import product_facts, values_grid

    if x_col == w_col == "-":
        raise click.UsageError("X and W cannot both be standard input; name a file for one")
    source, patches = NpyInput(w_col), NpyInput(x_col)
    check_product(patches.shape, source.shape)
    weights = source.read()
    shape = (*patches.shape[:-1], weights.shape[-1])
    if output_shape is not None:
        shape = product_shape(shape, output_shape, layer.dims)
    dtype = result_dtype(patches.dtype, weights.dtype)
    shown = from_batch_shape(shape, layer.layout)
    return Work(
        shape,
        dtype,
        (multiply(block, weights).reshape(-1, shape[-1]) for block in patches.blocks(1 << 22)),
        product_facts(patches.shape, weights.shape, shown, dtype),
        grid=lambda y: values_grid("Y", y),
        layout=layer.layout,
    )
