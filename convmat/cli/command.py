"""The class of every command: its options in sections, errors in the words of its own options, its outputs
together or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from convmat.cli.output import outputs_together, shown_help
from convmat.cli.types import File, OutputName, Sizes
from convmat.errors import ConvmatError, FileError
from convmat.files.names import is_zarr_name
from convmat.files.outputs import check_apart, check_output

# What the library calls its parameters, and what a command may call them, the first that it has.
_OPTION_OF = {
    "kernel_size": ("--k", "--kernel"),
    "filters": ("--kernel", "KERNELS", "--filters"),
    "input": ("INPUT...", "[INPUT]...", "[INPUT]", "--input-shape", "SIZE"),
    "input_shape": ("--input-shape", "INPUT...", "[INPUT]...", "[INPUT]", "SIZE"),
    "output_shape": ("--output-shape", "INPUT...", "[INPUT]...", "SIZE"),
    "output": ("--output",),
    "quantization": ("--quantize", "--requantize"),
    "column": ("--col",),
    "layers": ("--layer",),
    "x_col": ("X", "[INPUT]..."),
    "w_col": ("W",),
}

_NAMES_WIDTH = 24  # of options in a help text, at most; longer ones have a line of their own

# The sections of a command's help, after "Options", with the parameters that each shows, in order.
_SECTIONS = {
    "The layer": "kernel bias kernel_size stride padding padding_mode dilation groups depthwise flip "
    "transpose output_padding filters tile layers quantize requantize",
    "Arrays and images": "input_shape output_shape layout kernel_layout order overlap dims dtype shape "
    "kernel_dtype arithmetic frame alpha per_image",
    "Output": "output formats name force dense values figure animate theme scale at fps preview dry_run plan "
    "threads scheduler go_on as_json brief quiet help _click_default_help",
}


def given_options() -> dict[str, str]:
    """The options that the command line sets of the command that runs, by parameter, as they are written."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return {}
    return {
        parameter.name or "": parameter.opts[0]
        for parameter in ctx.command.params
        if isinstance(parameter, click.Option)
        and ctx.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
    }


def refuse(names: Iterable[str], why: str) -> None:
    """Raise UsageError, "--option why", if the command line sets one of these."""
    for name, option in given_options().items():
        if name in names:
            raise click.UsageError(f"{option} {why}")


def is_default(name: str) -> bool:
    """Whether an option of the command that runs was left at its default; what was said is not doubted."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and ctx.get_parameter_source(name) is ParameterSource.DEFAULT


class Command(click.Command):
    """A command whose outputs appear together or not at all, and never over an input.

    Errors about parameters are told in the words of its own options and arguments.

    Args:
        needs: parameters with those, separated by blanks, of which one must be beside them.
        bars: parameters with those that must not be beside them.
    """

    def __init__(
        self,
        *args: Any,
        needs: Mapping[str, str] | None = None,
        bars: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self._needs, self._bars = needs or {}, {"brief": "as_json quiet", **(bars or {})}

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

    def get_help(self, ctx: click.Context) -> str:
        return shown_help(super().get_help(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {
            parameter.name: record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx))
        }
        sections = {title: [n for n in names.split() if n in records] for title, names in _SECTIONS.items()}
        elsewhere = {name for names in sections.values() for name in names}
        sections = {"Options": [name for name in records if name not in elsewhere], **sections}
        for title, names in sections.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([records[name] for name in names], col_max=_NAMES_WIDTH)

    def invoke(self, ctx: click.Context) -> Any:
        self._check_company(ctx)
        self._check_outputs(ctx)
        with outputs_together():
            return self._invoke(ctx)

    def _check_company(self, ctx: click.Context) -> None:
        """Refuse options beside which another is missing, or which another makes mean nothing."""
        option_of = {parameter.name: parameter.opts[0] for parameter in self.params}
        given = given_options()
        for name, option in given.items():
            partners = self._needs.get(name, "").split()
            if partners and not given.keys() & set(partners):
                ways = " or ".join(option_of[partner] for partner in partners)
                raise click.UsageError(f"{option} goes with {ways}", ctx)
            for other in self._bars.get(name, "").split():
                if other in given:
                    raise click.UsageError(f"{option} goes without {given[other]}", ctx)

    def _check_outputs(self, ctx: click.Context) -> None:
        """Refuse, before anything is read, outputs that cannot be written, or that overwrite one another."""
        inputs: list[str] = []
        outputs: list[tuple[str, OutputName]] = []
        for parameter in self.params:
            kind, given = parameter.type, ctx.params.get(parameter.name or "")
            if isinstance(kind, OutputName):
                outputs += [] if given is None else [(given, kind)]
            elif isinstance(kind, File) and not kind.is_folder:
                inputs += [given] if isinstance(given, str) else given or ()
        check_apart([name for name, _ in outputs], inputs)
        for name, kind in outputs:
            if not kind.is_folder and not is_zarr_name(name):
                check_output(name)

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
