"""The command line: the group of commands, and the one place where trouble becomes a line and a status.

Exit status: 0 done; 1 `verify` found a difference, and nothing else; 2 any trouble; 130 after Ctrl-C; 143
after SIGTERM, and so on for other signals; 141 when the reader of standard output has gone.
"""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, TextIO

import click

from convmat import __version__
from convmat.cli.options import unknown_option
from convmat.cli.output import shown_help
from convmat.cli.signals import end_beside
from convmat.encodings import READABLE
from convmat.files.streams import patient
from convmat.trouble import say, tell

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Each command's module, imported when it is called: a command waits for nothing it does not use.
_COMMANDS = {
    "unroll": ("unroll", "image(s) → X_col, the patch matrix"),
    "flatten-filters": ("flatten_filters", "kernels → W_col, the weight matrix"),
    "matmul": ("matmul", "X_col · W_col → Y"),
    "convolve": ("convolve", "all of it at once, in blocks"),
    "verify": ("verify", "does the FC form equal the definition? does your result?"),
    "fold": ("fold", "X_col or its gradient → image(s), summed or averaged"),
    "locate": ("locate", "which pixel is at a row and column, and where a pixel went"),
    "matrix": ("matrix", "the whole layer as one sparse matrix, with its facts"),
    "train": ("train", "a CNN and its FC network, trained side by side"),
    "sizes": ("sizes", "output sizes under every padding rule"),
}


class _Commands(click.Group):
    """The commands, found by name and imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = import_module(f"convmat.cli.{module}").command
        return command

    def get_help(self, ctx: click.Context) -> str:
        return shown_help(super().get_help(ctx))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:  # as other programs have it: help, or help COMMAND
            args = [*args[1:2], "--help"]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise unknown_option(ctx, error.option_name, "; options of a command come after it") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not ctx.resilient_parsing:
            raise unknown_command(ctx, args[0])
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from convmat.native import status

        click.echo(f"convmat {__version__} ({status()})")
        ctx.exit()


@click.command(
    cls=_Commands,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show it, and what computes.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Turn a convolutional layer into the fully connected layer it equals.

    \b
    Example:
      convmat unroll sample_images/digit.png --k 7 --stride 7

    Inputs are images, .npy files, file.npz:name, or - for an image or .npy bytes on standard input.
    COMMAND --help opens with an example that works in a checkout of the repository.
    """
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
        ctx.exit(2)


def unknown_command(ctx: click.Context, name: str) -> click.UsageError:
    """What to say of a command that there is not."""
    from convmat.cli.suggestions import COMMANDS, near_name

    near = near_name(name, _COMMANDS, COMMANDS)
    if near is not None:
        hint = f" (did you mean '{near}'?)"
    elif os.path.exists(name):
        hint = f"; it is a file, and a command comes before it: 'convmat unroll {name}'"
    else:
        hint = ""
    return click.UsageError(f"No such command {name!r}{hint}", ctx)


def main(args: list[str]) -> int:
    """Run one command line on the standard streams of this process; its exit status."""
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, patient(getattr(sys, name)))
    if sys.stdout is None:
        # What would be printed to a closed stream is lost; one that refuses it tells so.
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115  # as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    status = run(args)
    end_beside(status)
    return status


def run(args: list[str]) -> int:
    """Run one command line; its exit status."""
    # Before the command or after it: who asks for a traceback should not have to ask twice.
    end = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:end]
    status = 2
    try:
        status = _invoke([arg for arg in args[:end] if arg != "--debug"] + args[end:])
    except (KeyboardInterrupt, click.Abort):
        _discard(sys.stdout)  # its reader may not be reading, and would keep us waiting
        return 130
    except BrokenPipeError:
        _discard(sys.stdout)
        return 141
    except click.ClickException as error:
        tell(error, debug, _usage(error))
    except (Exception, SystemExit) as error:
        tell(error, debug)
    finally:
        _end(sys.stdout)
        _end(sys.stderr)
    return status


def _invoke(args: list[str]) -> int:
    # Not click's own main, which exits 1 for a closed pipe.
    try:
        if instruction := os.environ.get("_CONVMAT_COMPLETE"):
            from convmat.cli.completion import complete

            complete(cli, instruction)
            return 0
        with cli.make_context("convmat", args) as ctx:
            cli.invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        return 0
    except click.exceptions.Exit as end:
        if sys.stdout is not None:
            sys.stdout.flush()
        return end.exit_code


def _usage(error: click.ClickException) -> str:
    """What click has to say of a command line, and where there is more."""
    if not isinstance(error, click.UsageError):
        return error.format_message()
    command = error.ctx.command_path if error.ctx else "convmat"
    return f"{error.format_message().rstrip('.')}; see '{command} --help'"


def _end(stream: TextIO | None) -> None:
    """Write what is left; where that cannot be, keep Python from trying once more as it exits."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere."""
    if stream is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
