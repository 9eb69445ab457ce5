"""`convmat network`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import File, NamedShape, Numbers, OutputName
from convmat.files.schema import Whole


@click.command(
    "network",
    cls=Command,
    needs={"layer": "output", "output": "layer", "max_elements": "to_fc"},
    bars={"provider": "reference"},
)
@click.argument("network", metavar="FILE", type=File())
@click.argument("inputs", metavar="[INPUT]...", nargs=-1, type=File())
@click.option(
    "--input-shape",
    type=NamedShape(),
    multiple=True,
    help="Shape of the network's input, as the network has it: 1,3,224,224; of one of several x=1,3,224,224.",
)
@click.option("--formulas", is_flag=True, help="Show the formula of each output size, filled in.")
@click.option(
    "--normalize",
    metavar="MEAN,STD",
    type=Numbers(),
    help="Bring pixels to (x - mean) / std, in the units they are in: 127.5,127.5 brings bytes to -1..1. "
    "For each channel its own: all means, then all deviations.",
)
@options.choice("--layout", ("nchw", "nhwc"), "Axis order of .npy INPUTs; images fit in any case.")
@options.image_options
@click.option(
    "--provider", metavar="NAME", help="Who computes in onnxruntime: CPU, CUDA, OpenVINO, …  [default: CPU]"
)
@click.option("--reference", is_flag=True, help="Let onnx's own evaluator compute, in NumPy.")
@click.option(
    "--outputs",
    metavar="DIR",
    type=File(is_folder=True),
    help="Judge what another runtime made: DIR has each layer's input and output as .npy, named like them.",
)
@click.option(
    "--spectrum",
    is_flag=True,
    help="Tell the singular values of each layer, or bounds of the largest, and a Lipschitz constant of the "
    "network.",
)
@click.option("--layer", metavar="NAME", help="Write the arrays of this layer, by its name or number, to -o.")
@options.output_option("folder", metavar="DIR", help="The new folder for --layer, with a README of commands.")
@click.option(
    "--to-fc",
    metavar="FILE",
    type=OutputName("onnx"),
    help="Write the network with each CONV as Gather and one MatMul; with INPUT, verified on it.",
)
@options.number(
    "--max-elements",
    kind=Whole(1, 1 << 62),
    help="Elements of X_col up to which a CONV is rewritten.  [default: 67108864]",
)
@options.report_options
def command(network: str, inputs: tuple[str, ...], **asks: Any) -> None:
    """Every layer of a trained network as the fully connected layer it equals, and the proof.

    \b
    Example:
      convmat network sample_images/tiny.onnx
      convmat network sample_images/tiny.onnx sample_images/digit.png --normalize 0,255

    FILE is an ONNX model, or .safetensors weights, whose kernels are listed. INPUT is an image or .npy array
    for each input of the network, as NAME=FILE where there are several. With it the network runs in
    onnxruntime, and each layer's output is judged against the definition of convolution, within the error
    bound of each element; so is convmat's own, from the same input. --spectrum has the singular values of
    each layer as one matrix, exact or between proven bounds, and of the network a Lipschitz constant.

    Exit status: 0 equal, or nothing to judge, 1 different, 2 trouble.
    """
    from convmat.cli.networks import NetworkOptions, show_network

    show_network(network, inputs, NetworkOptions(**asks))
