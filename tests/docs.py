"""The parts of the pages that are not written by hand: transcripts, options of commands, the import graph.

`python -m tests.docs [PAGE...]` writes them anew, by default on all pages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import click

from convmat.cli.manual import contexts

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRANSCRIPT = re.compile(r"```console\n(.*?)```", re.DOTALL)
MARKED = re.compile(r"(<!-- (?!end )([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


# Transcripts


def run(command: str, folder: Path) -> str:
    """What a terminal shows for a command, standard error among it."""
    # The install line needs the network; .ci/run runs it whole. Here its last command stands for it.
    command = command.split("&& .venv/bin/")[-1] if "venv .venv" in command else command
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "NO_COLOR", "FORCE_COLOR")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "PYTHONUTF8": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout.decode()


def rerun(text: str) -> str:
    """A page with the output of each command as it is now, run in order in a folder of the page's own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("sample_images", "docs"):
            shutil.copytree(ROOT / name, folder / name)

        def replay(match: re.Match[str]) -> str:
            if not all(map(shutil.which, re.findall(r"(?:\$|&&) (cc|make) ", match[1]))):
                return match[0]
            commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
            return "```console\n" + "".join(f"{c}\n{run(c[2:], folder)}" for c in commands) + "```"

        return TRANSCRIPT.sub(replay, text)


# Between marks


class Markdown(click.HelpFormatter):
    """Writes the options of a command as tables, each section of them under its name."""

    def write_heading(self, heading: str) -> None:
        self.write("\n" if heading == "Options" else f"\n**{heading}**\n\n")  # the page's own heading

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        self.write("| | |\n|---|---|\n")
        for name, text in rows:
            cells = name.replace("|", "\\|"), re.sub(r"([|*_<])", r"\\\1", text)
            self.write(f"| `{cells[0]}` | {cells[1]} |\n")

    def write_paragraph(self) -> None:
        pass


def options_of(command_path: str) -> str:
    """The options of a command, or the commands of a group, in the sections of its help."""
    [ctx] = [ctx for ctx in contexts() if ctx.command_path == command_path]
    formatter = Markdown()
    ctx.command.format_options(ctx, formatter)
    return f"{formatter.getvalue()}\n"


def import_graph() -> str:
    """The parts of the package by floors: a part stands one floor above the highest that it imports.

    An arrow that follows from others is left out: where a imports b, and b imports c, a → c is not drawn.

    Raises:
        CycleError: parts import each other.
    """
    from tests.test_structure import MODULES, imports, part_of  # needs pytest, which benchmarks do without

    names = {part_of(module) for module in MODULES} - {"__init__", "__main__"}
    below: dict[str, set[str]] = {name: set() for name in names}
    for module in MODULES:
        part = part_of(module)
        if part in names:
            named = {dotted.split(".")[1] for dotted in imports(module) if dotted.startswith("convmat.")}
            below[part] |= named & names - {part}
    floor: dict[str, int] = {}
    reached: dict[str, set[str]] = {}
    for part in TopologicalSorter(below).static_order():
        floor[part] = 1 + max((floor[name] for name in below[part]), default=-1)
        reached[part] = below[part].union(*(reached[name] for name in below[part]))
    lines = []
    for part in sorted(names, key=lambda name: (-floor[name], name)):
        implied = set().union(*(reached[name] for name in below[part]))
        arrows = ", ".join(sorted(below[part] - implied, key=lambda name: (-floor[name], name)))
        lines.append(f"{floor[part]:2}  {part:<13} {f'→ {arrows}' if arrows else ''}".rstrip())
    return "\n```text\n" + "\n".join(lines) + "\n```\n\n"


def fill(text: str, mark: str, content: str) -> str:
    """A page with `content` between `<!-- mark -->` and the next `<!-- end -->`."""
    if mark not in [found[2] for found in MARKED.finditer(text)]:
        raise ValueError(f"no <!-- {mark} --> … <!-- end --> on the page")
    return MARKED.sub(lambda found: found[1] + content + found[3] if found[2] == mark else found[0], text)


def generated(text: str) -> str:
    """A page with what stands between its marks as the code has it now."""
    for found in MARKED.finditer(text):
        mark = found[2]
        if mark.startswith("options of "):
            text = fill(text, mark, options_of(mark.removeprefix("options of ")))
        elif mark == "import graph":
            text = fill(text, mark, import_graph())
    return text


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:] or PAGES):
        page.write_text(rerun(generated(page.read_text(encoding="utf-8"))), encoding="utf-8")
