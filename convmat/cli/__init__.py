"""The command line: the group of commands, and the one place where trouble becomes a line and a status.

Exit status: 0 done; 1 `verify` found a difference, and nothing else; 2 any trouble; 130 after Ctrl-C; 143
after SIGTERM; 141 when the reader of standard output has gone.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

import click

from convmat import __version__
from convmat.errors import ConvmatError

# Each command's module, imported when it is called: a command waits for nothing it does not use.
_COMMANDS = {
    "unroll": ("unroll", "image(s) → X_col, the patch matrix"),
    "flatten-filters": ("flatten_filters", "kernels → W_col, the weight matrix"),
    "matmul": ("matmul", "X_col · W_col → Y"),
    "convolve": ("convolve", "all of it at once, in blocks"),
    "verify": ("verify", "does the FC form equal the definition? does your result?"),
    "sizes": ("sizes", "output sizes under every padding rule"),
}


class _Stopped(Exception):
    """The end of a command from outside, kept from click, which exits 1 for it."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Commands(click.Group):
    """The commands, found by name and imported one at a time."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Stopped(141) from None
        except KeyboardInterrupt:
            raise _Stopped(130) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = import_module(f"convmat.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.command(
    cls=_Commands,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="convmat", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Turn a convolutional layer into the fully connected layer it equals.

    \b
    Example:
      convmat unroll sample_images/digit.png --k 7 --stride 7

    Inputs are images, .npy files, or - for .npy bytes on standard input. COMMAND --help opens with an
    example that works in a checkout of the repository.
    """
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command line; its exit status."""
    # Before the command or after it: who asks for a traceback should not have to ask twice.
    debug = "--debug" in args
    try:
        status = cli.main(
            [arg for arg in args if arg != "--debug"], prog_name="convmat", standalone_mode=False
        )
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except _Stopped as stopped:
        _end_stdout()
        return stopped.status
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        _end_stdout()
        return 141
    except Exception as error:
        _end_stdout()
        if debug:
            raise
        return _trouble(error)


def _trouble(error: Exception) -> int:
    """Tell an error in one line."""
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "convmat"
        text = f"{error.format_message().rstrip('.')}; see '{command} --help'"
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, ConvmatError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = f"not enough memory{f': {error}' if str(error) else ''}"
    elif isinstance(error, OSError):
        text = f"{error.filename or 'standard output'}: {error.strerror or error}"
    else:
        text = f"internal error: {type(error).__name__}: {error}; convmat --debug … shows where"
    from convmat.report.facts import printable

    click.echo(f"convmat: {printable(' '.join(text.split()))}", err=True)
    return 2


def _end_stdout() -> None:
    """Write what is left; where that cannot be, keep Python from trying once more as it exits."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
