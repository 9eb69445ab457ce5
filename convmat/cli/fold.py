"""`convmat fold`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options

if TYPE_CHECKING:
    from numpy.typing import NDArray


@click.command("fold", cls=options.Command)
@click.argument("x_col", metavar="X", type=options.File())
@click.option(
    "--input-shape",
    type=options.InputShape(),
    required=True,
    help="Shape of what was unrolled: 28,28 or 28,28,1, N being found from the rows, or N,28,28,1; "
    "1,28,28 with --layout nchw.",
)
@options.k_option
@options.stride_option
@options.padding_option
@options.dilation_option
@options.overlap_option
@options.order_option
@options.dims_option
@options.layout_option
@options.threads_option
@options.picture_output_option
@options.report_options
def command(
    x_col: str,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    overlap: str,
    order: str,
    dims: int | None,
    layout: str,
    threads: int | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put the patches of X_col back into image(s) (col2im): the way back from unroll, or its gradient.

    \b
    Example:
      convmat unroll sample_images/digit.png --k 7 --stride 7 -q -o x.npy
      convmat fold x.npy --input-shape 28,28,1 --k 7 --stride 7 -o back.png

    X is an .npy file, or - for standard input, of rows as unroll writes them, with --per-image or without.
    Give the shape, kernel, stride, padding, dilation and order of the unrolling. What lies in the padding is
    dropped, so there is no --padding-mode; pixels that no patch covers are 0.

    FILE ending in .png or another picture's suffix is one, of one image: values of an 8-bit X within 0..255
    are rounded and kept; all others are stretched. Any other FILE is .npy, (N, H, W, C), or with --layout
    nchw (N, C, H, W).
    """
    from convmat.cli.inputs import folded_geometry
    from convmat.cli.output import progress, report, warn, write_images
    from convmat.files.npy import NpyInput
    from convmat.patches import fold_dtype, fold_stream
    from convmat.report.facts import Seen, absent, geometry_facts, input_fact
    from convmat.report.results import fold_facts, uncovered_text
    from convmat.sizes import coverage

    axes = options.axes_of(dims, kernel_size, stride, dilation)
    patches = NpyInput(x_col)
    pads = options.pads_of(padding, axes)
    geometry = folded_geometry(patches.shape, input_shape, axes, layout, kernel_size, stride, pads, dilation)
    shape, dtype = geometry.input_shape, fold_dtype(patches.dtype, geometry, overlap)
    rows = patches.rows(1 << 22)
    lines = chain(fold_stream(rows, patches.dtype, geometry, overlap, order, threads), _end_of(rows))
    seen = Seen((part.reshape(-1, shape[-1]) for part in lines), shape)
    pixels = geometry.batch * coverage(geometry).pixels
    notes = write_images(
        output, progress(seen, pixels, quiet), shape, dtype, layout=layout, keep=patches.dtype == "uint8"
    )
    facts = [input_fact([x_col]), *geometry_facts(geometry)]
    facts += fold_facts(geometry, patches.shape, overlap, order, layout, dtype)
    report([*facts, seen.fact(), *notes, *absent("picture")], output=output, as_json=as_json, quiet=quiet)
    if coverage(geometry).uncovered:
        warn(
            f"{coverage(geometry).uncovered} pixels of each image are in no patch and became 0: "
            f"{uncovered_text(geometry)}",
            quiet,
        )


def _end_of(rows: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """None at all; but a file that has more than it should is told of as its end is read."""
    from convmat.cli.output import drain

    drain(rows)
    yield from ()
