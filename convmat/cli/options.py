"""Every option that commands share, once; and the command class that names options in errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click
from click.core import ParameterSource

from convmat.checks import read_whole
from convmat.cli.output import BRIEF, is_brief, outputs_together, shown_help
from convmat.errors import ConvmatError, FileError, MappingIndexError, SettingError
from convmat.files.outputs import check_apart, check_ending, check_output
from convmat.files.schema import Kind, Mismatch, Whole, shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

# What the library calls its parameters, and what a command may call them, the first that it has.
_OPTION_OF = {
    "kernel_size": ("--k", "--kernel"),
    "filters": ("--kernel", "KERNELS", "--filters"),
    "input": ("INPUT...", "[INPUT]...", "[INPUT]", "--input-shape", "SIZE"),
    "input_shape": ("--input-shape", "INPUT...", "[INPUT]...", "[INPUT]", "SIZE"),
    "output_shape": ("--output-shape", "INPUT...", "[INPUT]...", "SIZE"),
    "output": ("--output",),
    "column": ("--col",),
    "layers": ("--layer",),
    "x_col": ("X", "[INPUT]..."),
    "w_col": ("W",),
}

INPUT_NAMES = ("inputs", "source", "kernel", "kernels", "bias", "expected", "x_col", "w_col", "data", "probe")
"""The parameters, of any command, that name what is read; those of what is written are `OutputName`s."""


# Options that mean something only beside one of others, or not beside them, in commands that have these.
_GOES_WITH = {
    "theme": ("figure", "animate"),
    "output_padding": ("transpose",),
    "input_shape": ("transpose",),
    "dense": ("output",),
    "layout": ("output_shape",),
    "dims": ("output_shape",),
}
_GOES_WITHOUT = {
    "plan": ("transpose",),
    "figure": ("transpose",),
    "iterations": ("no_spectrum",),
    "exact": ("requantize",),
}


def given_options(ctx: click.Context) -> dict[str, str]:
    """The options that the command line sets, by parameter, as they are written."""
    return {
        parameter.name or "": parameter.opts[0]
        for parameter in ctx.command.params
        if isinstance(parameter, click.Option)
        and ctx.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
    }


def refuse(names: Iterable[str], why: str) -> None:
    """Raise UsageError, "--option why", if the command line sets one of these."""
    ctx = click.get_current_context(silent=True)
    for name, option in (given_options(ctx) if ctx else {}).items():
        if name in names:
            raise click.UsageError(f"{option} {why}", ctx)


def _check_company(ctx: click.Context) -> None:
    """Refuse options beside which another is missing, or which another makes mean nothing."""
    known = {parameter.name or "": parameter.opts[0] for parameter in ctx.command.params}
    given = given_options(ctx)
    for name, option in given.items():
        partners = [other for other in _GOES_WITH.get(name, ()) if other in known]
        if partners and not given.keys() & set(partners):
            raise click.UsageError(
                f"{option} goes with {' or '.join(known[other] for other in partners)}", ctx
            )
        for other in _GOES_WITHOUT.get(name, ()):
            if other in given:
                raise click.UsageError(f"{option} goes without {given[other]}", ctx)


class Command(click.Command):
    """A command whose outputs appear together or not at all, and never over an input.

    It refuses options that mean nothing to what is done. Errors about parameters are told in the words of its
    own options and arguments.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `--k 7 7`: the second number would be taken for an INPUT, or for an argument too many.
        split = self._split_sizes(args)
        if split is not None and not self._takes_numbers():
            raise click.UsageError(split, ctx)
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            raise unknown_option(ctx, error.option_name) from None
        except click.UsageError:
            if split is not None:
                raise click.UsageError(split, ctx) from None
            raise

    def _split_sizes(self, args: list[str]) -> str | None:
        """What to say of an option's sizes that are parted by a space, if any are."""
        options = {name for p in self.params if isinstance(p.type, Sizes) for name in p.opts}
        for option, size, more in zip(args, args[1:], args[2:], strict=False):
            if option in options and size.isdecimal() and more.isdecimal() and not os.path.exists(more):
                return f"{option} {size} {more}: sizes are joined by commas, {option} {size},{more}"
        return None

    def _takes_numbers(self) -> bool:
        return any(isinstance(p, click.Argument) and isinstance(p.type, Sizes) for p in self.params)

    def invoke(self, ctx: click.Context) -> Any:
        if is_brief():
            for name, option in (("as_json", "--json"), ("quiet", "--quiet")):
                if ctx.params.get(name):
                    raise click.UsageError(f"--brief goes without {option}; give one of the two", ctx)
        _check_company(ctx)
        self._check_outputs(ctx)
        with outputs_together():
            return self._invoke(ctx)

    def get_help(self, ctx: click.Context) -> str:
        return shown_help(super().get_help(ctx))

    def _check_outputs(self, ctx: click.Context) -> None:
        """Refuse, before anything is read, outputs that cannot be written, or that overwrite one another."""
        written = {p.name: p.type for p in self.params if isinstance(p.type, OutputName)}
        outputs = {name: ctx.params[name] for name in written if ctx.params[name] is not None}
        inputs: list[str] = []
        for name in INPUT_NAMES:
            given = ctx.params.get(name) or ()
            inputs += [given] if isinstance(given, str) else given
        check_apart(outputs.values(), inputs)
        for name, file in outputs.items():
            if written[name].kinds != ("folder",):
                check_output(file)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FileError:
            raise
        except ConvmatError as error:
            subject = self._subject(ctx, error.subject)
            if subject is None:
                raise
            raise type(error)(subject, error.problem) from error

    def _subject(self, ctx: click.Context, subject: str) -> str | None:
        otherwise = None
        for wanted in _OPTION_OF.get(subject, (f"--{subject.replace('_', '-')}",)):
            for parameter in self.params:
                given = ctx.params.get(parameter.name or "")
                if wanted in parameter.opts:
                    if given is not None:
                        return wanted
                    otherwise = otherwise or wanted  # what would say it, where it was said in another way
                elif isinstance(parameter, click.Argument) and wanted == parameter.human_readable_name:
                    if given in ((), None):
                        continue
                    names = list(given) if isinstance(given, tuple) else [given]
                    named = len(names) == 1 and isinstance(names[0], str) and names[0] != "-"
                    return names[0] if named else wanted
        return otherwise


def unknown_option(ctx: click.Context, name: str, otherwise: str = "") -> click.UsageError:
    """What to say of an option that a command does not have: which of its own is meant, or `otherwise`."""
    from convmat.cli.suggestions import OPTIONS, near_name

    names = [name for parameter in ctx.command.get_params(ctx) for name in parameter.opts]
    near = near_name(name, [option for option in names if option.startswith("-")], OPTIONS)
    hint = f" (did you mean '{near}'?)" if near else otherwise
    return click.UsageError(f"No such option '{name}'{hint}", ctx)


class File(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A file's name, or a folder's. Shells complete it; after `file.npz:` by the names of its arrays."""

    name = "file"

    def __init__(self, kind: str = "file", kernels: bool = False) -> None:
        self._kind, self._kernels = kind, kernels

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        archive, colon, _ = incomplete.partition(".npz:")
        if colon:
            return [CompletionItem(name) for name in _arrays(f"{archive}.npz") if name.startswith(incomplete)]
        names = [name for name in _kernel_names() if name.startswith(incomplete)] if self._kernels else []
        return [CompletionItem(incomplete, type=self._kind), *map(CompletionItem, names)]


def _arrays(archive: str) -> list[str]:
    from convmat.files.members import archive_names

    with suppress(FileError):
        return [f"{archive}:{name}" for name in archive_names(archive)]
    return []


def _kernel_names() -> list[str]:
    from convmat.kernels import NAMES

    return [name.replace("SIZE", "") for name in NAMES]


class NumberType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A number, however long, refused where it is read if it is not of its kind.

    Where no kind is given, what takes the number knows its range.
    """

    name = "number"

    def __init__(self, kind: Kind | None = None, read: Callable[[str], float] = read_whole) -> None:
        self._kind, self._read = kind, read

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            number = self._read(value)
        except ValueError:
            self.fail(f"{shown(value)} is no number; give {self._kind or 'a whole one'}", param, ctx)
        try:
            if self._kind:
                self._kind.check(number)
        except Mismatch as mismatch:
            raise SettingError(param.opts[0] if param else "", mismatch.problem) from None
        return number


class Sizes(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`7`, or one number for each axis: `3,5` or `3x5`."""

    name = "sizes"
    example = "7, or one for each axis: 3,5 or 3x5"
    most = 3  # spatial axes

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N[,N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            plain = value.lower().replace("×", "x")
            numbers = tuple(read_whole(part) for part in plain.split("," if "," in plain else "x"))
        except ValueError:
            self.fail(f"{shown(value)} is no size; write {self.example}", param, ctx)
        if len(numbers) > self.most:
            self.fail(f"{shown(value)} has {len(numbers)} numbers; give at most {self.most}", param, ctx)
        return numbers[0] if len(numbers) == 1 else numbers


class OutputShape(Sizes):
    """The output's size, and N before it if need be."""

    name = "output shape"
    example = "4,4 or 4x4; or with N before: 2,4,4"
    most = 4


class InputShape(Sizes):
    """The shape of an array of images."""

    name = "input shape"
    example = "28,28 or 28x28; or with channels and N: N,28,28,1"
    most = 5  # N, spatial axes, C

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        shape = super().convert(value, param, ctx)
        return (shape,) if isinstance(shape, int) else shape


class Pixel(InputShape):
    """A pixel and a channel: y,x,c, and n before them if need be."""

    name = "pixel"
    example = "y,x,c or n,y,x,c: 9,12,0"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "[n,]y,x,c"


class Pads(Sizes):
    """Padding in pixels."""

    name = "pixels"
    example = "1, or 1,2 or 1x2 for the axes, or 1,2,0,1 for the sides"
    most = 6  # sides


class PaddingType(Pads):
    """A rule's name, or numbers."""

    name = "padding"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "RULE|N[,N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from convmat.axis import PADDING_NAMES

        if not isinstance(value, str):
            return value
        if value.lower() in PADDING_NAMES:
            return value.lower()
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            rules = ", ".join(PADDING_NAMES)
            self.fail(
                f"{shown(value)} is no padding; give {rules}, or numbers: 1 or 1,2 or 1,2,1,2", param, ctx
            )

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from convmat.axis import PADDING_NAMES

        return [CompletionItem(name) for name in PADDING_NAMES if name.startswith(incomplete)]


class LayerType(click.ParamType):  # type: ignore[type-arg]
    """One layer of a chain, as in k=7,s=2,p=3; numbers for each axis are joined by x."""

    name = "layer"
    keys: ClassVar = {"k": "kernel_size", "s": "stride", "p": "padding", "d": "dilation"}

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "k=N[,s=N][,p=RULE|N][,d=N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = [part.partition("=") for part in value.split(",")]
        keys = [key for key, _, _ in parts]
        if "k" not in keys or len(set(keys)) != len(keys) or not set(keys) <= set(self.keys):
            self.fail(f"{shown(value)} is no layer; write k=7,s=2,p=3,d=1, of which k is needed", param, ctx)
        layer: dict[str, Any] = {"padding": "valid"}
        for key, _, number in parts:
            kind = PaddingType() if key == "p" else Sizes()
            try:
                layer[self.keys[key]] = kind.convert(number, param, ctx)
            except click.BadParameter:
                form = "a rule, or pixels: 1 or 1x2" if key == "p" else "a size: 7 or 3x5"
                self.fail(f"{key}={number[:40]} in {shown(value)} is not {form}", param, ctx)
        return layer


class RequantizeType(click.ParamType):  # type: ignore[type-arg]
    """Scale, zero point, rounding, and a dtype if need be: 0.0037,-3,half-even,int8."""

    name = "requantization"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "SCALE,ZERO,ROUNDING[,DTYPE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            scale, zero_point, rounding, *dtype = (part.strip() for part in value.split(","))
            if len(dtype) > 1:
                raise ValueError
            return (float(scale), read_whole(zero_point), rounding.lower(), dtype[0] if dtype else None)
        except ValueError:
            form = "write scale, zero point and rounding, as in 0.0037,-3,half-even"
            self.fail(f"{shown(value)} is no requantization; {form}", param, ctx)


class OutputName(File):
    """The name of what is to be written, one of these kinds: see `check_ending`."""

    name = "output"

    def __init__(self, *kinds: str) -> None:
        super().__init__("dir" if "folder" in kinds else "file")
        self.kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        check_ending(value, *self.kinds)
        return value


def inputs_argument(required: bool = True) -> Callable[[F], F]:
    metavar = "INPUT..." if required else "[INPUT]..."
    return click.argument("inputs", metavar=metavar, nargs=-1, required=required, type=File())


def kernel_size_option(required: bool = True) -> Callable[[F], F]:
    return click.option(
        "--k", "-k", "kernel_size", type=Sizes(), required=required, help="Kernel size: 7, 3,5 or 3x5."
    )


k_option = kernel_size_option()
stride_option = click.option(
    "--stride", "-s", type=Sizes(), default=1, show_default=True, help="Pixels from patch to patch."
)
padding_option = click.option(
    "--padding",
    "-p",
    type=PaddingType(),
    default="valid",
    show_default=True,
    help="valid, same, same-lower, half, full; or pixels: 1; 1,2 or 1x2 for height, width; 1,2,0,1 for top, "
    "bottom, left, right.",
)
padding_mode_option = click.option(
    "--padding-mode",
    type=click.Choice(["zeros", "reflect", "replicate", "circular"], case_sensitive=False),
    default="zeros",
    show_default=True,
    help="What the padding is filled with.",
)
dilation_option = click.option(
    "--dilation", "-d", type=Sizes(), default=1, show_default=True, help="Pixels from tap to tap."
)
output_padding_option = click.option(
    "--output-padding",
    type=Sizes(),
    default=0,
    show_default=True,
    help="Pixels more at the end of a transposed convolution's output.",
)
groups_option = click.option(
    "--groups",
    "-g",
    type=NumberType(),
    default=1,
    show_default=True,
    help="Groups of channels filtered apart.",
)
layout_option = click.option(
    "--layout",
    type=click.Choice(["nhwc", "nchw", "nhw"], case_sensitive=False),
    default="nhwc",
    show_default=True,
    help="Axis order of arrays in and out: nhw reads three axes as N images of one channel, not as H, W, C, "
    "and writes as nhwc does. Pictures have their channels last.",
)
kernel_layout_option = click.option(
    "--kernel-layout",
    type=click.Choice(["ohwi", "oihw", "hwio"], case_sensitive=False),
    default="ohwi",
    show_default=True,
    help="Axis order of kernels with channels: ohwi is (K, kh, kw, C), oihw PyTorch's, hwio TensorFlow's.",
)
order_option = click.option(
    "--order",
    type=click.Choice(["hwc", "chw"], case_sensitive=False),
    default="hwc",
    show_default=True,
    help="Order within a patch: kernel row, column, channel; or chw as in PyTorch's unfold.",
)
overlap_option = click.option(
    "--overlap",
    type=click.Choice(["sum", "mean"], case_sensitive=False),
    default="sum",
    show_default=True,
    help="What becomes of elements that fold brings to one pixel: sum is the adjoint of unroll, mean its "
    "inverse.",
)
dims_option = click.option(
    "--dims",
    type=NumberType(Whole(1, 3)),
    help="Spatial axes of arrays.  [default: as many as the sizes given, or 2]",
)
input_shape_option = click.option(
    "--input-shape",
    type=InputShape(),
    help="Shape of an input that need not exist: 28,28 or 28x28, 28,28,1 or N,28,28,1; 1,28,28 with "
    "--layout nchw.",
)


def written_option(*kinds: str) -> Callable[[F], F]:
    """`-o FILE`, which is one of `kinds`."""
    help_text = "Write here; - is .npy bytes on standard output."
    return click.option("--output", "-o", metavar="FILE", type=OutputName(*kinds), help=help_text)


output_option = written_option("npy")
picture_output_option = written_option("npy", "picture")
threads_option = click.option(
    "--threads",
    type=NumberType(),
    help="Threads to work with, 1 to 1024.  [default: CONVMAT_THREADS, or all cores]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not a table.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")


def _note_brief(ctx: click.Context, _: click.Parameter, brief: bool) -> None:
    ctx.meta[BRIEF] = brief


brief_option = click.option(
    "--brief",
    is_flag=True,
    expose_value=False,
    callback=_note_brief,
    help="Print one line: what came out, or the verdict.",
)


def figure_option(what: str) -> Callable[[F], F]:
    """`--figure FILE`, that draws `what`."""
    help_text = f"Draw {what}, as .png or another picture."
    return click.option("--figure", metavar="FILE", type=OutputName("picture"), help=help_text)


theme_option = click.option(
    "--theme",
    type=click.Choice(["light", "dark"], case_sensitive=False),
    default="light",
    show_default=True,
    help="Colours of what is drawn: of paper, or of a screen at night.",
)

frame_option = click.option(
    "--frame", type=NumberType(), help="Frame of an animation or page of an image, from 0."
)
alpha_option = click.option(
    "--alpha",
    type=click.Choice(["keep", "drop", "premultiply"], case_sensitive=False),
    default="keep",
    show_default=True,
    help="What to do with an image's transparency: a channel, nothing, or colours over black.",
)

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
flip_option = click.option(
    "--flip", is_flag=True, help="Reverse the filters along each axis: true convolution."
)
depthwise_option = click.option(
    "--depthwise", is_flag=True, help="Filter each channel alone, by its own filters or by one for all."
)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


patch_options = together(stride_option, padding_option, padding_mode_option, dilation_option)
image_options = together(frame_option, alpha_option)
_linear_options = together(
    patch_options,
    groups_option,
    depthwise_option,
    flip_option,
    image_options,
    layout_option,
    kernel_layout_option,
    dims_option,
)
linear_layer_options = together(kernel_option, _linear_options)
layer_options = together(kernel_option, bias_option, _linear_options)
report_options = together(json_option, brief_option, quiet_option)


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
        from convmat.checks import got
        from convmat.words import POSITION_NAMES

        names = ",".join((*POSITION_NAMES[dims], "c"))
        raise MappingIndexError("pixel", f"got {len(pixel)} numbers {got(pixel)}; give {names} or n,{names}")
    return pixel if len(pixel) == dims + 2 else (0, *pixel)
