"""`convmat sizes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options
from convmat.errors import GeometryError

if TYPE_CHECKING:
    from convmat.report.facts import Grid
    from convmat.shown import Fact


@click.command("sizes", cls=options.Command)
@click.argument("size", metavar="SIZE", type=options.Sizes())
@options.kernel_size_option(required=False)
@options.stride_option
@options.dilation_option
@click.option("--padding", "-p", type=options.Pads(), help="Pixels of your own, as a further line: 1 or 1,2.")
@click.option("--transpose", is_flag=True, help="Of the transposed convolution, whose input has this SIZE.")
@options.output_padding_option
@click.option(
    "--layer", "layers", type=options.LayerType(), multiple=True, help="A layer of a chain, in order."
)
@options.dims_option
@options.report_options
@click.pass_context
def command(
    ctx: click.Context,
    size: Any,
    kernel_size: Any,
    stride: Any,
    dilation: Any,
    padding: Any,
    transpose: bool,
    output_padding: Any,
    layers: tuple[dict[str, Any], ...],
    dims: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Output sizes under every padding rule, with the formula filled in, and under other frameworks' SAME.

    \b
    Example:
      convmat sizes 224 --k 7 --stride 2
      convmat sizes 224,320 --k 3,5 --padding 1,2
      convmat sizes 112 --k 3 --stride 2 --transpose --output-padding 1
      convmat sizes 224 --layer k=7,s=2,p=3 --layer k=3,s=2,p=1

    SIZE is one number, or one for each spatial axis. A chain of layers is shown with the receptive field and
    the total stride after each. In a layer k is the kernel, s the stride, p the padding (a rule or pixels), d
    the dilation; numbers for each axis are joined by x, as in k=3x5.
    """
    from convmat.cli.output import report

    kernel = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    alone = {*kernel, "padding", "transpose", "output_padding"}
    if layers and alone & options.given_options(ctx).keys():
        raise click.UsageError("With --layer, give kernel, stride, padding and dilation within each layer")
    if not layers and kernel_size is None:
        raise click.UsageError("Missing option '--k'; or give a --layer or more")
    parts = [part for layer in layers for name, part in layer.items() if name != "padding"]
    axes = options.axes_of(dims, size, *kernel.values(), output_padding, *parts, default=1)
    shape = (1, *(size if isinstance(size, tuple) else (size,) * axes), 1)
    if len(shape) - 2 != axes:
        raise GeometryError("input_shape", f"got {len(shape) - 2} sizes for {axes} spatial axes; give {axes}")
    if layers:
        facts, grids = _chain(shape, layers)
    elif transpose:
        facts, grids = _transposed(shape, kernel, options.pads_of(padding, axes), output_padding)
    else:
        facts, grids = _under_every_rule(shape, kernel, options.pads_of(padding, axes))
    report(facts, grids, as_json=as_json, quiet=quiet)


def _under_every_rule(
    shape: tuple[int, ...], kernel: dict[str, Any], pads: Any
) -> tuple[list[Fact], list[Grid]]:
    from convmat.geometry import ConvGeometry
    from convmat.report import sizes
    from convmat.sizes import framework_pads, under_every_rule

    rules = under_every_rule(shape, **kernel)
    full = ConvGeometry(shape, **kernel, padding="full")
    if pads is not None:
        rules["yours"] = ConvGeometry(shape, **kernel, padding=pads)
    frameworks = framework_pads(full)
    facts = [*sizes.sizes_facts(full, rules), sizes.frameworks_fact(frameworks)]
    return facts, [sizes.sizes_grid(rules), *sizes.frameworks_grids(frameworks)]


def _transposed(
    shape: tuple[int, ...], kernel: dict[str, Any], pads: Any, output_padding: Any
) -> tuple[list[Fact], list[Grid]]:
    from convmat.report import sizes
    from convmat.sizes import transpose_under_every_rule
    from convmat.transposed import transpose_geometry

    kernel |= {"output_padding": output_padding}
    rules = transpose_under_every_rule(shape, **kernel)
    if pads is not None:
        rules["yours"] = transpose_geometry(shape, 1, **kernel, padding=pads)
    size = shape[1:-1]
    extra = output_padding if isinstance(output_padding, tuple) else (output_padding,) * len(size)
    return sizes.transpose_facts(size, extra, rules), [sizes.transpose_grid(size, rules)]


def _chain(shape: tuple[int, ...], layers: tuple[dict[str, Any], ...]) -> tuple[list[Fact], list[Grid]]:
    from convmat.report import sizes
    from convmat.sizes import chain

    axes = len(shape) - 2
    found = chain(shape, [layer | {"padding": options.pads_of(layer["padding"], axes)} for layer in layers])
    return sizes.chain_facts(shape[1:-1], found), [sizes.chain_grid(found)]
