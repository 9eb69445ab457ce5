"""`convmat probe write`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import Formats, OutputName
from convmat.files.schema import SEED

if TYPE_CHECKING:
    from convmat.geometry import ConvGeometry


@click.command("write", cls=Command)
@click.argument("folder", metavar="DIR", type=OutputName("folder"))
@options.layer_of(
    options.k_option(), options.linear_options, options.kernel_layout_option, options.order_option
)
@options.input_shape_option("Shape of the input: 8,10,3.  [default: room for a few patches]")
@options.number("--filters", help="Filters of the layer.  [default: 4, or to fit the groups]")
@options.choice(
    "--dtype",
    ("float32", "float64", "float16", "int8", "uint8", "int16"),
    "Of inputs and kernels; of integers the results are int32.",
)
@options.number("--seed", kind=SEED, default=2017, help="Of the random numbers.")
@click.option(
    "--format",
    "formats",
    type=Formats(),
    default="npy",
    show_default=True,
    help="What to write besides .npy: c, a header; hex, for $readmemh.",
)
@options.report_options
def command(
    folder: str,
    layer: options.LayerOptions,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    dtype: str,
    seed: int,
    formats: tuple[str, ...],
) -> None:
    """Write a probe: layers of small whole numbers, whose sums are exact in any order, and what they give.

    \b
    Example:
      convmat probe write probe --k 3 --stride 2 --format c,hex

    DIR is a new folder. In it are probe.json, which tells the geometry, and a folder for each of four cases:
    integers, one-hot, coordinates and bias. Each has x, kernel, bias, and what they give: x_col, w_col, the
    int32 accumulators and y.
    """
    import numpy as np

    from convmat.cli.output import report, watching
    from convmat.cli.probes import Layouts, write_probe
    from convmat.files.folders import check_new_folder
    from convmat.layouts import output_layout
    from convmat.report.checks import probe_facts, probe_grid
    from convmat.verification.probes import Probe

    check_new_folder(folder)
    geometry, count = _geometry(layer, input_shape, filters)
    probe = Probe(geometry, count, np.dtype(dtype), layer.flip, layer.padding_mode, layer.order)
    layouts = Layouts(output_layout(layer.layout), layer.kernel_layout)
    cases = write_probe(folder, probe, layouts, seed, formats, watching("case"))
    facts = probe_facts(probe, folder, layouts.images, layouts.kernels, formats, seed, cases)
    report(facts, [probe_grid(cases, probe)])


def _geometry(
    layer: options.LayerOptions, input_shape: tuple[int, ...] | None, filters: int | None
) -> tuple[ConvGeometry, int]:
    """The geometry and the number of filters that the options of a probe mean."""
    from convmat.checks import got, whole
    from convmat.cli.inputs import shape_batch
    from convmat.cli.layer import depthwise_groups
    from convmat.geometry import ConvGeometry
    from convmat.verification.probes import MOST_ELEMENTS

    groups = whole("groups", layer.groups, 1, MOST_ELEMENTS)
    if input_shape is None:
        channels = 3 if groups == 1 else 2 * groups
        # Under `full` every kernel fits, so only what is wrong for any input is refused.
        asked = ConvGeometry((1,) * (layer.axes + 2), layer.kernel_size, layer.stride, "full", layer.dilation)
        # Room for a few patches, and no two axes of one size: a transposed image must show.
        size = [
            max(8, extent + 2 * s) + 2 * axis
            for axis, (extent, s) in enumerate(zip(asked.extent, asked.stride, strict=True))
        ]
        shape = (1, *size, channels)
    else:
        shape = shape_batch(input_shape, layer.axes, layer.layout).shape
    if layer.depthwise:
        groups = depthwise_groups(groups, shape[-1])
    geometry = ConvGeometry(shape, layer.kernel_size, **layer.steps, groups=groups)
    if filters is None:
        filters = groups * -(-4 // groups)
    if filters % groups:
        raise click.UsageError(
            f"--filters {got(filters)} cannot be shared by {groups} groups; give a multiple"
        )
    return geometry, filters
