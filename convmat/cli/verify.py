"""`convmat verify`."""

from __future__ import annotations

import math
from typing import Any

import click

from convmat.cli import options
from convmat.cli.probes import WITHOUT_INPUT, probe_options, without_input


@click.command("verify", cls=options.Command)
@options.inputs_argument(required=False)
@options.layer_options
@click.option("--expected", metavar="FILE", help="Your own result as .npy, to judge in place of convmat's.")
@probe_options
@options.report_options
def command(
    inputs: tuple[str, ...],
    expected: str | None,
    layout: str,
    as_json: bool,
    quiet: bool,
    **layer: Any,
) -> None:
    """Prove that the FC form equals the definition of convolution, or that your result does.

    \b
    Example:
      convmat verify sample_images/digit.png --kernel sample_images/strokes_2x7x7x1.npy --stride 7
      convmat verify
      convmat verify --write-probe probe --k 3 --stride 2 --format c,hex

    Alone it checks itself, over geometries, dtypes and layouts. With INPUT and --kernel it compares the
    engine with the definition on them; with --expected it compares your Y instead, (N, H_out, W_out, K),
    (N, K, H_out, W_out) with --layout nchw, or the rows of X_col · W_col. Integers must be equal; floats must
    be within each element's error bound.

    --write-probe makes layers of small whole numbers, whose sums are exact in any order, with all that they
    give; --probe then demands that your --expected, a file or a folder of integers.npy, one-hot.npy and so
    on, is equal to them.

    Exit status: 0 equal, 1 different, 2 trouble.
    """
    from convmat.cli.output import report

    ctx = click.get_current_context()
    if (status := without_input(ctx)) is not None:
        ctx.exit(status)
    layer = {name: value for name, value in layer.items() if name not in WITHOUT_INPUT}

    from convmat.cli.layers import open_layer, read_expected
    from convmat.engine import filter_geometry
    from convmat.files.memory import check_memory
    from convmat.report.facts import geometry_facts, input_fact
    from convmat.report.verdicts import verification_facts
    from convmat.verification import verify

    batch, arguments = open_layer(inputs, layout=layout, expected=expected, **layer)
    filters = arguments["filters"]
    geometry = filter_geometry(
        batch.shape, filters.shape, *(arguments[key] for key in ("stride", "padding", "dilation", "groups"))
    )
    outputs = geometry.matrix_shape[0] * len(filters)
    # X, the result, and its definition and bound in parts.
    needed = math.prod(batch.shape) * batch.dtype.itemsize + 8 * outputs + (1 << 28)
    check_memory("input", needed, "verify a few images of it at a time")
    result, given = None, None
    if expected is not None:
        rows = (geometry.matrix_shape[0], len(filters))
        result, given = read_expected(expected, rows, batch.dims, layout)
    found = verify(batch.read(), expected=result, **arguments)
    facts = [input_fact(inputs), *geometry_facts(geometry, arguments["padding_mode"])]
    report([*facts, *verification_facts(found, given, layout)], as_json=as_json, quiet=quiet)
    ctx.exit(0 if found else 1)
