"""`convmat flatten-filters`."""

from __future__ import annotations

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import File


class _Command(Command):
    """A command whose argument may be numbers that begin with a minus, and then is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from convmat.files.numbers import is_typed

        shown = [f" {arg}" if arg.startswith("-") and is_typed(arg) else arg for arg in args]
        return super().parse_args(ctx, shown)


@click.command("flatten-filters", cls=_Command)
@click.argument("kernels", metavar="KERNELS", type=File(kernels=True))
@options.layer_of(
    options.groups_option, options.kernel_layout_option, options.order_option, options.dims_option
)
@options.bytes_options
@options.output_option("npy")
@options.report_options
def command(kernels: str, layer: options.LayerOptions, output: str | None) -> None:
    """Flatten kernels into the weight matrix W_col: one column a filter.

    \b
    Example:
      convmat flatten-filters sample_images/edges_8x3x3x3.npy

    KERNELS is an .npy, .txt or .csv file, -, numbers as in '1 0 -1; 2 0 -2; 1 0 -1', or a name such as
    sobel-x. Two axes are one filter, three (K, kh, kw) are single-channel filters, four are K filters with
    channels in --kernel-layout.
    """
    from convmat.cli.layer import open_kernels
    from convmat.cli.output import report
    from convmat.files.memory import check_memory
    from convmat.files.npy import write_npy
    from convmat.patches import flatten_filters
    from convmat.report.results import filters_grid, kernel_facts

    source = open_kernels(kernels, layer.dims or 2, layer.kernel_layout)
    check_memory("filters", 2 * source.outline.nbytes, "flatten a few of them at a time")
    filters = source.read()
    w_col = flatten_filters(filters, layer.groups, order=layer.order)
    if output is not None:
        write_npy(output, w_col.shape, w_col.dtype, [w_col])
    facts = kernel_facts(kernels, filters, w_col, layer.groups)
    report(facts, [filters_grid(filters, w_col, layer.order)], output=output)
