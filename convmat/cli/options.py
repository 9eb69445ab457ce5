"""Every option that commands share, once, and the value that those of a layer are gathered in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar

import click

from convmat.checks import got, read_whole
from convmat.cli.output import note
from convmat.cli.types import (
    ArrayShape,
    At,
    DType,
    File,
    InputShape,
    NumberType,
    OutputName,
    PaddingType,
    RequantizeType,
    Sizes,
)
from convmat.errors import MappingIndexError
from convmat.figures.look import Look
from convmat.files.schema import Kind, Number, Whole
from convmat.words import POSITION_NAMES

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]


def together(*options: Option[Any]) -> Option[Any]:
    """Several options as one decorator, in the order of the help."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def choice(name: str, choices: Sequence[str], help: str, default: str | None = None) -> Option[Any]:
    """An option that is one of several words, by default the first."""
    kind = click.Choice(choices, case_sensitive=False)
    return click.option(name, type=kind, default=default or choices[0], show_default=True, help=help)


def number(
    *names: str,
    help: str,
    kind: Kind | None = None,
    default: int | None = None,
    read: Callable[[str], float] = read_whole,
) -> Option[Any]:
    """An option that is a number, whole where `read` does not say otherwise."""
    return click.option(*names, type=NumberType(kind, read), help=help, **_by_default(default))


def sizes(*names: str, help: str, default: int | None = None, required: bool = False) -> Option[Any]:
    """An option that is a size, or one for each axis."""
    return click.option(*names, type=Sizes(), required=required, help=help, **_by_default(default))


def _by_default(default: int | None) -> dict[str, Any]:
    return {} if default is None else {"default": default, "show_default": True}


# Of a layer


@dataclass(frozen=True)
class LayerOptions:
    """What the command line says of a layer and its arrays; what a command does not ask is at its default."""

    kernel: str | None = None
    bias: str | None = None
    kernel_size: Any = None
    stride: Any = 1
    padding: Any = "valid"
    padding_mode: str = "zeros"
    dilation: Any = 1
    groups: int = 1
    depthwise: bool = False
    flip: bool = False
    layout: str = "nhwc"
    kernel_layout: str = "ohwi"
    order: str = "hwc"
    dims: int | None = None
    frame: int | None = None
    alpha: str = "keep"

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return axes_of(self.dims, self.kernel_size, self.stride, self.dilation)

    @property
    def pads(self) -> Any:
        """The padding, (before, after) for each axis where it has a number for each side."""
        return pads_of(self.padding, self.axes)

    @property
    def steps(self) -> dict[str, Any]:
        """Stride, padding and dilation, as the library has them."""
        return {"stride": self.stride, "padding": self.pads, "dilation": self.dilation}


def _gathered(kind: Any, into: str, options: Sequence[Option[Any]]) -> Option[Any]:
    """Options that the command gets as one value of a `kind` whose fields they are."""
    names = [field.name for field in fields(kind)]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            said = {name: given.pop(name) for name in names if name in given}
            return function(*args, **{into: kind(**said)}, **given)

        decorated: Callable[..., Any] = together(*options)(gathered)
        return decorated

    return decorate


def layer_of(*options: Option[Any]) -> Option[Any]:
    """Some options of a layer, which the command gets as `layer`, a `LayerOptions`."""
    return _gathered(LayerOptions, "layer", options)


def axes_of(dims: int | None, *sizes: Any, default: int = 2) -> int:
    """The number of spatial axes: as said, as many as a size has numbers, or `default`."""
    return dims or max((len(s) for s in sizes if isinstance(s, tuple)), default=default)


def pads_of(padding: Any, dims: int) -> Any:
    """`1,2,0,1` as (before, after) for each of `dims` axes; any other padding as it is."""
    if isinstance(padding, tuple) and len(padding) == 2 * dims:
        return tuple(zip(padding[::2], padding[1::2], strict=True))
    return padding


def pixel_of(pixel: tuple[int, ...], dims: int) -> tuple[int, ...]:
    """y,x,c or n,y,x,c as (n, *pixel, c) for `dims` axes.

    Raises:
        MappingIndexError: another number of numbers.
    """
    if len(pixel) not in (dims + 1, dims + 2):
        names = ",".join((*POSITION_NAMES[dims], "c"))
        raise MappingIndexError("pixel", f"got {len(pixel)} numbers {got(pixel)}; give {names} or n,{names}")
    return pixel if len(pixel) == dims + 2 else (0, *pixel)


def k_option(required: bool = True) -> Option[Any]:
    """`--k`."""
    return sizes("--k", "-k", "kernel_size", required=required, help="Kernel size: 7, 3,5 or 3x5.")


kernel_option = click.option(
    "--kernel",
    metavar="FILE|NUMBERS|NAME",
    type=File(kernels=True),
    help="Kernels as .npy, .txt or .csv; typed, as in '1 0 -1; 2 0 -2; 1 0 -1'; or sobel-x, sobel-y, "
    "laplacian, sharpen, box:5, gaussian:5.",
)
bias_option = click.option(
    "--bias",
    metavar="FILE|NUMBERS",
    type=File(),
    help="Bias, one number for each filter, as .npy, .txt or .csv, or typed: '0.5 -1'.",
)
stride_option = sizes("--stride", "-s", default=1, help="Pixels from patch to patch.")
padding_option = click.option(
    "--padding",
    "-p",
    type=PaddingType(),
    default="valid",
    show_default=True,
    help="valid, same, same-lower, half, full; or pixels: 1; 1,2 or 1x2 for height, width; 1,2,0,1 for top, "
    "bottom, left, right.",
)
padding_mode_option = choice(
    "--padding-mode", ("zeros", "reflect", "replicate", "circular"), "What the padding is filled with."
)
dilation_option = sizes("--dilation", "-d", default=1, help="Pixels from tap to tap.")
output_padding_option = sizes(
    "--output-padding", default=0, help="Pixels more at the end of a transposed convolution's output."
)
groups_option = number("--groups", "-g", default=1, help="Groups of channels filtered apart.")
depthwise_option = click.option(
    "--depthwise", is_flag=True, help="Filter each channel alone, by its own filters or by one for all."
)
flip_option = click.option(
    "--flip", is_flag=True, help="Reverse the filters along each axis: true convolution."
)
layout_option = choice(
    "--layout",
    ("nhwc", "nchw", "nhw"),
    "Axis order of arrays in and out: nhw reads three axes as N images of one channel, not as H, W, C, "
    "and writes as nhwc does. Pictures have their channels last.",
)
kernel_layout_option = choice(
    "--kernel-layout",
    ("ohwi", "oihw", "hwio"),
    "Axis order of kernels with channels: ohwi is (K, kh, kw, C), oihw PyTorch's, hwio TensorFlow's.",
)
order_option = choice(
    "--order",
    ("hwc", "chw"),
    "Order within a patch: kernel row, column, channel; or chw as in PyTorch's unfold.",
)
dims_option = number("--dims", kind=Whole(1, 3), help="Spatial axes.  [default: as the sizes given, or 2]")
frame_option = number("--frame", help="Frame of an animation or page of an image, from 0.")
alpha_option = choice(
    "--alpha",
    ("keep", "drop", "premultiply"),
    "What to do with an image's transparency: a channel, nothing, or colours over black.",
)


def _of_bytes(name: str, kind: click.ParamType, help: str) -> Option[Any]:  # type: ignore[type-arg]
    """An option that says what a file does not: names of files are read after it, and know it."""
    return click.option(name, type=kind, is_eager=True, expose_value=False, callback=note, help=help)


bytes_options = together(
    _of_bytes(
        "--dtype",
        DType(),
        "Of arrays that lack it: bfloat16, float8_e4m3fn…; of one file, FILE:DTYPE:SHAPE.",
    ),
    _of_bytes("--shape", ArrayShape(), "Of raw arrays, .bin: 1,56,56,64."),
)


step_options = together(stride_option, padding_option, dilation_option)
array_options = together(layout_option, dims_option)
image_options = together(frame_option, alpha_option)
patch_options = together(
    step_options, padding_mode_option, order_option, image_options, bytes_options, array_options
)
linear_options = together(
    step_options, padding_mode_option, groups_option, depthwise_option, flip_option, array_options
)
kernel_options = together(kernel_option, kernel_layout_option, linear_options, image_options, bytes_options)

patches = layer_of(k_option(), patch_options)
linear_layer = layer_of(kernel_options)
layer = layer_of(kernel_options, bias_option)


# Of arrays and images


def inputs_argument(required: bool = True) -> Option[Any]:
    """Any number of images and arrays."""
    metavar = "INPUT..." if required else "[INPUT]..."
    return click.argument("inputs", metavar=metavar, nargs=-1, required=required, type=File())


def input_shape_option(help: str, required: bool = False) -> Option[Any]:
    """`--input-shape`, which is a shape of many things."""
    return click.option("--input-shape", type=InputShape(), required=required, help=help)


absent_input_option = input_shape_option(
    "Shape of an input that need not exist: 28,28 or 28x28, 28,28,1 or N,28,28,1; 1,28,28 with --layout nchw."
)
overlap_option = choice(
    "--overlap",
    ("sum", "mean"),
    "What becomes of elements that fold brings to one pixel: sum is the adjoint of unroll, mean its inverse.",
)
threads_option = number(
    "--threads", help="Threads to work with, 1 to 1024.  [default: CONVMAT_THREADS, or all cores]"
)
quantize_option = click.option(
    "--quantize",
    metavar="FILE.toml",
    type=File(),
    help="A layer of integers, whose zero points, scales, rounding, activation and dtype FILE has.",
)
quantization_options = together(
    quantize_option,
    click.option(
        "--requantize",
        type=RequantizeType(),
        help="The same in short, as in 0.004,-3,tflite.",
    ),
)
scheduler_option = click.option(
    "--scheduler",
    metavar="WHERE",
    help="Compute by Dask, chunk by chunk, on threads, processes or tcp://HOST:PORT; .zarr, folders and "
    "'patterns' are so anyhow, on threads.",
)
resume_option = click.option(
    "--resume", "go_on", is_flag=True, help="Go on with a .zarr that is half-written."
)


# Of judging

tolerance_options = together(
    click.option("--exact", is_flag=True, help="Floats, too, must be equal in value."),
    click.option("--atol", type=float, help="Allow this error in place of the bound."),
    click.option("--rtol", type=float, help="Allow this share of the right value, too."),
)
diagnose_option = click.option(
    "--diagnose/--no-diagnose",
    default=True,
    show_default=True,
    help="Name known mistakes that explain all of a result that differs.",
)


# Of what comes out


def output_option(
    *kinds: str, metavar: str = "FILE", help: str = "Write here; - is .npy bytes on standard output."
) -> Option[Any]:
    """`-o FILE`, which is one of `kinds`."""
    return click.option("--output", "-o", metavar=metavar, type=OutputName(*kinds), help=help)


def figure_option(what: str) -> Option[Any]:
    """`--figure FILE`, that draws `what`."""
    help_text = f"Draw {what}, as .svg, .png or another picture."
    return click.option("--figure", metavar="FILE", type=OutputName("figure"), help=help_text)


def animate_option(what: str) -> Option[Any]:
    """`--animate FILE`, that draws `what` step by step."""
    help_text = f"Draw {what}, as .svg, .gif, .webp or .apng."
    return click.option("--animate", metavar="FILE", type=OutputName("animation"), help=help_text)


def look_of(*options: Option[Any]) -> Option[Any]:
    """How what is drawn is to look, which the command gets as `look`, a `Look`."""
    return _gathered(Look, "look", (theme_option, scale_option, *options))


theme_option = choice("--theme", ("light", "dark"), "For paper, or a dark screen.")
scale_option = number(
    "--scale",
    kind=Whole(1, 4),
    default=1,
    help="Times larger, 1 to 4.",
)
at_option = click.option(
    "--at",
    type=At(),
    help="Pixel that is shown, with what lies about it: y,x.  [default: where the image varies most]",
)
fps_option = number(
    "--fps",
    kind=Number(0.1, 50),
    read=float,
    help="Frames a second of an animation, 0.1 to 50.  [default: for 8 seconds in all]",
)


def _noted(*names: str, help: str) -> Option[Any]:
    """A flag that is the command's in `asked` alone, so that none has to hand it on."""
    return click.option(*names, is_flag=True, expose_value=False, callback=note, help=help)


report_options = together(
    _noted("--json", "as_json", help="Print one JSON object, not a table."),
    _noted("--brief", help="Print one line: what came out, or the verdict."),
    _noted("--quiet", "-q", help="Print nothing but errors."),
)
