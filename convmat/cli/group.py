"""A group of commands: each found by its name, imported when it is called, and shown in a section."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from convmat.cli.command import unknown_option
from convmat.cli.output import shown_help
from convmat.trouble import say


class Group(click.Group):
    """Commands by section and name, each with its summary; a command waits for nothing it does not use.

    That of the name `flatten-filters` is `command` in the module `flatten_filters`; `prefix` is put before
    the module's name. The callback is to be, or to call, `show_help`.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, str]], prefix: str = "", **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.invoke_without_command, self.no_args_is_help = True, False
        self.subcommand_metavar = "COMMAND [ARGS]..."
        self._sections, self._prefix = sections, prefix
        self._summaries = {name: text for section in sections.values() for name, text in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._summaries:
            return None
        module = f"{self._prefix}{cmd_name.replace('-', '_')}"
        command: click.Command = import_module(f"convmat.cli.{module}").command
        return command

    def get_help(self, ctx: click.Context) -> str:
        return shown_help(super().get_help(ctx))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:  # as other programs have it: help, or help COMMAND
            args = [*args[1:], "--help"]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise unknown_option(ctx, error.option_name, "; options of a command come after it") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._summaries and not ctx.resilient_parsing:
            raise self._unknown_command(ctx, args[0])
        return super().resolve_command(ctx, args)

    def _unknown_command(self, ctx: click.Context, name: str) -> click.UsageError:
        """What to say of a command that there is not."""
        from convmat.cli.suggestions import COMMANDS, near_name

        near = near_name(name, self._summaries, COMMANDS)
        hint = f" (did you mean '{near}'?)" if near else ""
        if near is None and ctx.parent is None and os.path.exists(name):
            hint = f"; it is a file, and a command comes before it: 'convmat unroll {name}'"
        return click.UsageError(f"No such command {name!r}{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self._summaries))
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


def show_help() -> None:
    """Show the help of a group that is called without a command: exit status 2."""
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
        ctx.exit(2)
