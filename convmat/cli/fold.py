"""`convmat fold`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import File

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convmat.cli.work import Work


@click.command("fold", cls=Command)
@click.argument("x_col", metavar="X", type=File())
@options.input_shape_option(
    "Shape of what was unrolled: 28,28 or 28,28,1, N being found from the rows, or N,28,28,1; 1,28,28 with "
    "--layout nchw.",
    required=True,
)
@options.layer_of(options.k_option(), options.step_options, options.order_option, options.array_options)
@options.bytes_options
@options.overlap_option
@options.threads_option
@options.output_option("npy", "picture")
@options.report_options
def command(output: str | None, **asked: Any) -> None:
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
    from convmat.cli.work import write

    write(_folded(**asked), output)


def _folded(
    x_col: str, input_shape: tuple[int, ...], layer: options.LayerOptions, overlap: str, threads: int | None
) -> Work:
    from convmat.cli.layer import folded_geometry
    from convmat.cli.work import Work
    from convmat.files.npy import NpyInput
    from convmat.folding import fold_dtype, fold_stream
    from convmat.patches import BLOCK_BYTES
    from convmat.report.facts import absent, geometry_facts, input_fact
    from convmat.report.results import fold_facts, uncovered_text
    from convmat.sizes import coverage

    patches = NpyInput(x_col)
    geometry = folded_geometry(patches.shape, input_shape, layer)
    dtype, rows = fold_dtype(patches.dtype, geometry, overlap), patches.rows(BLOCK_BYTES)
    folded = fold_stream(rows, patches.dtype, geometry, overlap, layer.order, threads)
    facts = [input_fact([x_col]), *geometry_facts(geometry)]
    facts += fold_facts(geometry, patches.shape, overlap, layer.order, layer.layout, dtype)
    uncovered = coverage(geometry).uncovered
    zeros = f"{uncovered} pixels of each image are in no patch and became 0: "
    return Work(
        geometry.input_shape,
        dtype,
        (part.reshape(-1, geometry.channels) for part in chain(folded, _end_of(rows))),
        [*facts, *absent("picture")],
        layout=layer.layout,
        from_8_bit=patches.dtype == "uint8",
        warnings=[zeros + uncovered_text(geometry)] if uncovered else [],
    )


def _end_of(rows: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Read what is left, so that a file with more rows than it should have is refused; no images."""
    from convmat.cli.output import drain

    drain(rows)
    yield from ()
