"""The command line: the group of commands, and the one place where trouble becomes a line and a status.

Exit status: 0 done; 1 a difference was found, and nothing else; 2 any trouble; 130 after Ctrl-C; 143
after SIGTERM, and so on for other signals; 141 when the reader of standard output has gone.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

import click

from convmat import __version__
from convmat.cli.group import Group, show_help
from convmat.cli.signals import end_beside
from convmat.encodings import READABLE
from convmat.files.streams import patient
from convmat.trouble import tell

_SECTIONS = {
    "The equivalence": {
        "unroll": "image(s) → X_col, the patch matrix",
        "flatten-filters": "kernels → W_col, the weight matrix",
        "matmul": "X_col · W_col → Y",
        "convolve": "all of it at once, in blocks",
        "fold": "X_col or its gradient → image(s), summed or averaged",
    },
    "Check": {
        "verify": "does the FC form equal the definition? does your result?",
        "compare": "are two arrays equal?",
        "probe": "layers whose right answer is exact; the verdict on yours",
        "network": "every layer of a trained network as the FC layer it equals, verified",
    },
    "Look": {
        "locate": "which pixel is at a row and column, and where a pixel went",
        "sizes": "output sizes under every padding rule",
        "matrix": "the whole layer as one sparse matrix, with its facts",
    },
    "Learn": {"train": "a CNN and its FC network, trained side by side"},
}


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from convmat.native import status

        click.echo(f"convmat {__version__} ({status()})")
        ctx.exit()


@click.command(cls=Group, sections=_SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
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
    show_help()


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
