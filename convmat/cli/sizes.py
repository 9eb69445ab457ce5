"""`convmat sizes`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options


@click.command("sizes", cls=options.Command)
@click.argument("size", metavar="SIZE", type=options.Sizes())
@options.k_option
@options.stride_option
@options.dilation_option
@click.option("--padding", "-p", type=options.Pads(), help="Pixels of your own, as a further line: 1 or 1,2.")
@options.dims_option
@options.report_options
def command(
    size: Any,
    kernel_size: Any,
    stride: Any,
    dilation: Any,
    padding: Any,
    dims: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Output sizes under every padding rule, with the formula filled in.

    \b
    Example:
      convmat sizes 224 --k 7 --stride 2
      convmat sizes 224,320 --k 3,5 --padding 1,2

    SIZE is one number, or one for each spatial axis.
    """
    from convmat.cli.output import report
    from convmat.errors import GeometryError
    from convmat.geometry import ConvGeometry, under_every_rule
    from convmat.report.results import sizes_facts, sizes_grid

    axes = options.axes_of(dims, size, kernel_size, stride, dilation, default=1)
    shape = (1, *(size if isinstance(size, tuple) else (size,) * axes), 1)
    if len(shape) - 2 != axes:
        raise GeometryError("input_shape", f"got {len(shape) - 2} sizes for {axes} spatial axes; give {axes}")
    rules = under_every_rule(shape, kernel_size, stride, dilation)
    full = ConvGeometry(shape, kernel_size, stride, "full", dilation)
    if padding is not None:
        pads = options.pads_of(padding, axes)
        rules["yours"] = ConvGeometry(shape, kernel_size, stride, pads, dilation)
    report(sizes_facts(full, rules), [sizes_grid(rules)], as_json=as_json, quiet=quiet)
