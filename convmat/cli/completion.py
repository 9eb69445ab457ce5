"""Shell completion: what click's scripts for bash, zsh and fish ask for by environment variables."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    shell_complete,
    split_arg_string,
)

from convmat.errors import SettingError

VARIABLE = "_CONVMAT_COMPLETE"


@add_completion_class
class _Bash(BashComplete):
    """Completion for bash, which cuts `file.npz:name` and `--option=value` into three words each, and
    replaces the last one alone.
    """

    _before = ""
    """Of the word, what stands before what bash replaces."""

    @staticmethod
    def _check_version() -> None:
        """An old bash is none of our business: click would start one to ask, at each new shell."""

    def get_completion_args(self) -> tuple[list[str], str]:
        count = int(os.environ["COMP_CWORD"])
        said = split_arg_string(os.environ["COMP_WORDS"])[: count + 1]
        words: list[str] = []
        for word in said:
            if word == "=":
                word = ""  # the value is the next word, or none is begun
            elif words and words[-1] == "":
                words.pop()
            if words and (word.startswith(":") or words[-1].endswith(":")):
                words[-1] += word
            else:
                words.append(word)
        incomplete = words.pop() if len(said) > count else ""
        self._before = incomplete[: incomplete.rfind(":") + 1]
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{str(item.value).removeprefix(self._before)}"


def complete(cli: click.Command, instruction: str) -> None:
    """Answer a shell: its script, or the words that may follow.

    Raises:
        SettingError: an instruction that is none, or without the words that it is about.
    """
    try:
        status = shell_complete(cli, {}, "convmat", VARIABLE, instruction)
    except (KeyError, ValueError):
        problem = f"is {instruction!r}, and COMP_WORDS and COMP_CWORD are not set"
        raise SettingError(VARIABLE, problem) from None
    if status:
        raise SettingError(VARIABLE, f"is {instruction!r}; give bash_source, zsh_source or fish_source")
