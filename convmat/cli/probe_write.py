"""`convmat probe write`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convmat.cli import options
from convmat.cli.command import Command, refuse
from convmat.cli.types import CName, Formats, OutputName, Tile
from convmat.files.schema import SEED

if TYPE_CHECKING:
    from convmat.geometry import ConvGeometry
    from convmat.report.facts import Grid
    from convmat.shown import Fact

_DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16")
_ARITHMETICS = ("tf32", "bfloat16", "float16", "float16-accumulate", "bfloat16-accumulate")
_OWN = ("kernel", "bias", "quantize", "name", "frame", "alpha")
_MADE_UP = ("kernel_size", "input_shape", "filters", "dtype", "kernel_dtype", "arithmetic", "tile", "seed")


@click.command("write", cls=Command)
@click.argument("folder", metavar="DIR", type=OutputName("folder"))
@options.inputs_argument(required=False)
@options.layer_of(
    options.kernel_option,
    options.bias_option,
    options.k_option(required=False),
    options.linear_options,
    options.kernel_layout_option,
    options.order_option,
    options.image_options,
)
@options.quantize_option
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
    help="What to write besides .npy: c, a header; hex, for $readmemh; bin, bytes alone.",
)
@click.option(
    "--name",
    type=CName(),
    default="layer",
    show_default=True,
    help="Of your layer, in C and of its files: NAME_x in NAME.h is NAME/x.npy.",
)
@click.option("--force", is_flag=True, help="Replace DIR whole, if probe write made all that is in it.")
@options.report_options
def command(
    folder: str,
    inputs: tuple[str, ...],
    layer: options.LayerOptions,
    quantize: str | None,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    dtype: str,
    kernel_dtype: str | None,
    arithmetic: str | None,
    tile: tuple[int, ...] | int | None,
    seed: int,
    formats: tuple[str, ...],
    name: str,
    force: bool,
) -> None:
    """Write a probe: layers whose sums are exact in any order, or your own layer, and what they give.

    \b
    Example:
      convmat probe write probe --k 3 --stride 2 --format c,hex
      convmat probe write v sample_images/digit.png --kernel 1,2 --quantize sample_images/quantized.toml

    DIR is a new folder. In it are probe.json, which tells the geometry, and a folder for each case: integers,
    one-hot, coordinates, bias, wide-x, wide-kernel and extremes. Each has x, kernel, bias, and what they
    give: x_col, w_col, the accumulators and y.

    With INPUT and --kernel there is one case: your layer, on your input. A quantized one has every step: the
    accumulators, those with the bias, scaled and rounded, with the zero point, and y, which is cut off; and
    what each filter is quantized with. Sums of integers are exact; of floats they are the definition's, in
    float64, each rounded once.
    """
    from convmat.cli.output import report
    from convmat.cli.probe_folder import check_inputs_stay, check_made
    from convmat.files.folders import check_new_folder

    check_new_folder(folder, check_made if force else None)
    if inputs:
        refuse(_MADE_UP, "goes without INPUT, which is the layer's own")
        check_inputs_stay(folder, (*inputs, layer.kernel, layer.bias, quantize))
        report(*_own(folder, inputs, layer, quantize, name, formats, force))
        return
    refuse(_OWN, "goes with INPUT")
    if layer.kernel_size is None:
        raise click.UsageError("Missing option '--k'; or give INPUT and --kernel, of a layer of your own")
    report(
        *_made_up(
            folder,
            layer,
            input_shape,
            filters,
            (dtype, kernel_dtype or dtype, arithmetic),
            tile,
            seed,
            formats,
            force,
        )
    )


def _own(
    folder: str,
    names: tuple[str, ...],
    options: options.LayerOptions,
    quantize: str | None,
    name: str,
    formats: tuple[str, ...],
    force: bool,
) -> tuple[list[Fact], list[Grid]]:
    """Write a layer of one's own; what is to be told of it."""
    from convmat.cli.layer import geometry_of, open_layer
    from convmat.cli.probe_folder import Layouts
    from convmat.cli.quantized import quantization_of
    from convmat.cli.vectors import array_rows, write_vectors
    from convmat.files.memory import check_memory
    from convmat.layouts import output_layout
    from convmat.report.checks import arrays_grid, vectors_facts
    from convmat.verification.golden import OwnLayer, vectors_bytes

    batch, arguments = open_layer(names, options)
    quantization = quantization_of(quantize, None)
    needed = vectors_bytes(geometry_of(batch.shape, arguments), arguments["filters"], batch.dtype)
    check_memory("input", needed, "give fewer images")
    layer, inputs = OwnLayer.of(batch.read(), quantization=quantization, order=options.order, **arguments)
    layouts, results = Layouts(output_layout(options.layout), options.kernel_layout), layer.results(inputs)
    made, exact = inputs._asdict() | results, layer.is_exact(inputs, results["y"])
    rows = array_rows(write_vectors(folder, layer, made, layouts, exact, name, formats, force))
    facts = vectors_facts(layer, folder, (layouts.images, layouts.kernels), formats, name, rows, exact)
    return [*batch.facts(), *facts], [arrays_grid(rows)]


def _made_up(
    folder: str,
    layer: options.LayerOptions,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    operands: tuple[str, str, str | None],
    tile: tuple[int, ...] | int | None,
    seed: int,
    formats: tuple[str, ...],
    force: bool,
) -> tuple[list[Fact], list[Grid]]:
    """Write a probe that is made up; what is to be told of it."""
    import numpy as np

    from convmat.cli.output import watching
    from convmat.cli.probe_folder import Layouts
    from convmat.cli.probes import write_probe
    from convmat.layouts import output_layout
    from convmat.report.checks import probe_facts, probe_grid
    from convmat.verification.probes import Probe

    if isinstance(tile, int):
        tile = (tile,) * (layer.axes + 1)
    geometry, count = _geometry(layer, input_shape, filters, tile or ())
    dtype, kernel_dtype, arithmetic = operands
    probe = Probe(
        geometry,
        count,
        np.dtype(dtype),
        layer.flip,
        layer.padding_mode,
        layer.order,
        np.dtype(kernel_dtype),
        arithmetic,
        tile or (),
    )
    layouts = Layouts(output_layout(layer.layout), layer.kernel_layout)
    cases = write_probe(folder, probe, layouts, seed, formats, force, watching("case"))
    facts = probe_facts(probe, folder, layouts.images, layouts.kernels, formats, seed, cases)
    return facts, [probe_grid(cases)]


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
