"""Manual pages, written from the commands' own help when a wheel is built; no wheel has this module.

`python -m convmat.cli.manual FOLDER` writes one for the program and one for each command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from convmat import __version__
from convmat.cli import cli


def contexts(command: click.Command = cli, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context of the program and of each command, those of groups within it included."""
    name = command.name if parent else "convmat"
    ctx = click.Context(command, parent, name, **command.context_settings)
    yield ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            if inner is not None:
                yield from contexts(inner, ctx)


class Roff(click.HelpFormatter):
    """Writes what a command tells of itself as a manual page, in the man macros of roff."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f".SH SYNOPSIS\n.B {roff(prog)}\n{roff(args)}\n.SH DESCRIPTION\n")

    def write_heading(self, heading: str) -> None:
        self.write(f".SH {roff(heading.upper())}\n")

    def write_paragraph(self) -> None:
        pass  # headings and items part what they begin

    def write_text(self, text: str) -> None:
        for paragraph in re.split(r"\n\n+", text.strip()):
            literal = paragraph.startswith("\b\n")  # click's mark of lines that stay as they are
            body = "\n".join(map(roff, paragraph.removeprefix("\b\n").splitlines()))
            self.write(f".PP\n.nf\n{body}\n.fi\n" if literal else f".PP\n{body}\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        for term, text in rows:
            self.write(f".TP\n.B {roff(term)}\n{roff(text)}\n")


def roff(line: str) -> str:
    """A line whose characters all stand for themselves."""
    return re.sub(r"^(?=[.'])", r"\\&", line.replace("\\", r"\e").replace("-", r"\-"))


def page(ctx: click.Context) -> str:
    """The manual page of a command."""
    name = ctx.command_path.replace(" ", "-")
    summary = ctx.command.get_short_help_str(200).removesuffix(".")
    formatter = Roff()
    ctx.command.format_help(ctx, formatter)
    return (
        f'.TH {name.upper()} 1 "" "convmat {__version__}"\n'
        f".SH NAME\n{roff(name)} \\- {roff(summary)}\n{formatter.getvalue()}"
    )


def main(folder: Path) -> None:
    """Write all of them into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for ctx in contexts():
        (folder / f"{ctx.command_path.replace(' ', '-')}.1").write_text(page(ctx), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
