"""`convmat probe write`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import Formats, OutputName, Tile
from convmat.files.schema import SEED

if TYPE_CHECKING:
    from convmat.geometry import ConvGeometry

_DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16")
_ARITHMETICS = ("tf32", "bfloat16", "float16", "float16-accumulate", "bfloat16-accumulate")


@click.command("write", cls=Command)
@click.argument("folder", metavar="DIR", type=OutputName("folder"))
@options.layer_of(
    options.k_option(), options.linear_options, options.kernel_layout_option, options.order_option
)
@options.input_shape_option("Shape of the input: 8,10,3.  [default: room for a few patches]")
@options.number("--filters", help="Filters of the layer.  [default: 4, or to fit the groups]")
@options.choice(
    "--dtype",
    _DTYPES,
    "Of inputs and kernels; of integers the results are int32.",
)
@click.option(
    "--kernel-dtype",
    type=click.Choice(_DTYPES, case_sensitive=False),
    help="Of kernels where it is another: int8 with --dtype uint8.  [default: as --dtype]",
)
@click.option(
    "--arithmetic",
    type=click.Choice(_ARITHMETICS, case_sensitive=False),
    help="Of your kernel: operands fit it, and sums are exact in it.  [default: the dtype's own]",
)
@click.option(
    "--tile",
    type=Tile(),
    help="What your kernel computes at a time, output pixels along each axis, and filters: 16,16,32 is rows, "
    "columns, filters. The layer then has whole tiles, seams, and part of a tile.",
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
    kernel_dtype: str | None,
    arithmetic: str | None,
    tile: tuple[int, ...] | int | None,
    seed: int,
    formats: tuple[str, ...],
) -> None:
    """Write a probe: layers whose sums are exact in any order, and what they give.

    \b
    Example:
      convmat probe write probe --k 3 --stride 2 --format c,hex

    DIR is a new folder. In it are probe.json, which tells the geometry, and a folder for each case: integers,
    one-hot, coordinates, bias, wide-x, wide-kernel and extremes. Each has x, kernel, bias, and what they
    give: x_col, w_col, the accumulators and y.
    """
    import numpy as np

    from convmat.cli.output import report, watching
    from convmat.cli.probes import Layouts, write_probe
    from convmat.files.folders import check_new_folder
    from convmat.layouts import output_layout
    from convmat.report.checks import probe_facts, probe_grid
    from convmat.verification.probes import Probe

    check_new_folder(folder)
    if isinstance(tile, int):
        tile = (tile,) * (layer.axes + 1)
    geometry, count = _geometry(layer, input_shape, filters, tile or ())
    probe = Probe(
        geometry,
        count,
        np.dtype(dtype),
        layer.flip,
        layer.padding_mode,
        layer.order,
        np.dtype(kernel_dtype or dtype),
        arithmetic,
        tile or (),
    )
    layouts = Layouts(output_layout(layer.layout), layer.kernel_layout)
    cases = write_probe(folder, probe, layouts, seed, formats, watching("case"))
    facts = probe_facts(probe, folder, layouts.images, layouts.kernels, formats, seed, cases)
    report(facts, [probe_grid(cases)])


def _geometry(
    layer: options.LayerOptions,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    tile: tuple[int, ...],
) -> tuple[ConvGeometry, int]:
    """The geometry and the number of filters that the options of a probe mean.

    Raises:
        GeometryError: tiles too large for the arrays of a probe, with some that are not.
    """
    from convmat.errors import GeometryError
    from convmat.shown import sizes
    from convmat.verification.probes import MOST_ELEMENTS, check_tile

    if tile:
        check_tile(tile, layer.axes)
    fitting = _fitting(layer, input_shape, filters, tile)
    smaller = () if fitting or input_shape else tile
    while max(smaller, default=1) > 1:
        largest = smaller.index(max(smaller))
        smaller = (*smaller[:largest], smaller[largest] // 2, *smaller[largest + 1 :])
        if _fitting(layer, input_shape, filters, smaller):
            told = f"of {sizes(tile)} makes arrays of more than {MOST_ELEMENTS} elements, the most of a probe"
            raise GeometryError("tile", f"{told}; give {','.join(map(str, smaller))}, say")
    return fitting or _in_tiles(layer, input_shape, filters, tile, 1)


def _fitting(
    layer: options.LayerOptions,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    tile: tuple[int, ...],
) -> tuple[ConvGeometry, int] | None:
    """The first that a probe's arrays have room for: of two whole tiles along each axis, or of one."""
    from convmat.verification.probes import fits

    layers = (_in_tiles(layer, input_shape, filters, tile, count) for count in (2, 1))
    return next((one for one in layers if fits(*one)), None)


def _in_tiles(
    layer: options.LayerOptions,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    tile: tuple[int, ...],
    count: int,
) -> tuple[ConvGeometry, int]:
    """The geometry and the number of filters: what is not said is of so many tiles and a part of one."""
    from convmat.checks import got, whole
    from convmat.cli.inputs import shape_batch
    from convmat.cli.layer import depthwise_groups
    from convmat.geometry import ConvGeometry
    from convmat.verification.probes import MOST_ELEMENTS, in_tiles

    groups = whole("groups", layer.groups, 1, MOST_ELEMENTS)
    least = in_tiles(tile[-1:], (1,), count)[0] if tile else 4
    if input_shape is None:
        channels = least if layer.depthwise and tile else 3 if groups == 1 else 2 * groups
        shape = _default_shape(layer, channels, groups, tile[:-1], count)
    else:
        shape = shape_batch(input_shape, layer.axes, layer.layout).shape
    if layer.depthwise:
        groups = depthwise_groups(groups, shape[-1])
    geometry = ConvGeometry(shape, layer.kernel_size, **layer.steps, groups=groups)
    if filters is None:
        filters = groups * -(-least // groups)
        if tile and filters % tile[-1] == 0 and groups % tile[-1]:
            filters += groups  # else there would be no part of a tile
    if filters % groups:
        raise click.UsageError(
            f"--filters {got(filters)} cannot be shared by {groups} groups; give a multiple"
        )
    return geometry, filters


def _default_shape(
    layer: options.LayerOptions, channels: int, groups: int, tile: tuple[int, ...], count: int
) -> tuple[int, ...]:
    """Two images with room for a few patches, or for so many tiles of the output and a part of one."""
    from convmat.geometry import ConvGeometry
    from convmat.transposed import transpose_geometry
    from convmat.verification.probes import default_size, in_tiles

    # Under `full` every kernel fits, so only what is wrong for any input is refused.
    asked = ConvGeometry((1,) * (layer.axes + 2), layer.kernel_size, layer.stride, "full", layer.dilation)
    if not tile:
        return (2, *default_size(asked), channels)
    outputs = (2, *in_tiles(tile, asked.extent, count), 1)
    return transpose_geometry(outputs, channels, layer.kernel_size, **layer.steps, groups=groups).input_shape
