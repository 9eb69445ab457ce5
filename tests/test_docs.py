"""The README's transcripts: each command is run, in order, and its output compared to the letter.

`python -m tests.test_readme` writes the outputs into the README.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from convmat.cli import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


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
    """The README with the output of every command as it is now."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("sample_images", "docs"):
            shutil.copytree(ROOT / name, folder / name)

        def replay(match: re.Match[str]) -> str:
            if "$ cc " in match[1] and shutil.which("cc") is None:
                return match[0]
            commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
            return "```console\n" + "".join(f"{c}\n{run(c[2:], folder)}" for c in commands) + "```"

        return BLOCK.sub(replay, text)


def test_transcripts_are_true() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) > 8
    assert rerun(text) == text


@pytest.mark.parametrize(
    "source", re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
)
def test_python_examples_run(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What an example prints is what its comments say."""
    exec(compile(source, str(README), "exec"), {})
    said = re.findall(r"^print\(.*?\)\s+# (.*?)(?:: X_col.*|: and that.*)?$", source, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in said]


def test_pictures_are_those_that_the_commands_draw(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("draw_docs", ROOT / "docs" / "draw.py")
    assert spec and spec.loader
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    draw.main(tmp_path)
    drawn = sorted(path.name for path in (tmp_path / "docs").iterdir())
    shown = re.findall(r"!\[[^]]+\]\(docs/(\w+\.\w+)\)", README.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted([*drawn, "divergence_adam.png"])  # which train draws, from its digits
    assert len(drawn) >= 6
    assert sum((ROOT / "docs" / name).stat().st_size for name in shown) < 400_000
    for name in drawn:
        with Image.open(tmp_path / "docs" / name) as new, Image.open(ROOT / "docs" / name) as kept:
            assert new.size == kept.size
            assert getattr(new, "n_frames", 1) == getattr(kept, "n_frames", 1)
            for frame in range(getattr(new, "n_frames", 1)):
                new.seek(frame)
                kept.seek(frame)
                pair = [np.asarray(picture.convert("RGB"), int) for picture in (new, kept)]
                # Versions of FreeType shade the edges of letters, and palettes, each in their own way.
                assert (np.abs(pair[0] - pair[1]).max(-1) > 48).mean() < 5e-5


# Prose


def prose(text: str) -> str:
    """A page without its blocks of code, whose lines stay empty."""
    return re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)


def debris(text: str) -> list[str]:
    """What is left over from editing: comments' ends, marks without their other half, words said twice."""
    found = ["a fence that is not closed"] if len(re.findall("^```", text, re.MULTILINE)) % 2 else []
    for paragraph in re.split(r"\n\s*\n", prose(text)):
        said = re.sub(r"`[^`]*`", "code", paragraph)
        found += [f"{mark!r} in {said!r}" for mark in ("-->", "<!--", "<<<<", ">>>>", "TODO") if mark in said]
        found += [f"an odd {mark} in {said!r}" for mark in ("`", '"', "**") if said.count(mark) % 2]
        found += [f"{a}{b} in {said!r}" for a, b in ("()", "[]", "{}") if said.count(a) != said.count(b)]
        words = "" if said.lstrip().startswith("|") else said
        found += re.findall(r"\b([^\W\d]+)\s+\1\b", words, re.IGNORECASE)
    return found


def dead_links(text: str) -> list[str]:
    """Links to files, pictures and headings that are not there."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        file, _, anchor = target.partition("#")
        if re.match(r"https?://", target):
            continue
        if (file and not (ROOT / file).exists()) or (not file and anchor not in anchors):
            found.append(target)
    return found


def helped() -> dict[str, set[str]]:
    """The options of each command, and those of the program."""
    ctx = click.Context(cli)
    commands = {"": cli, **{name: cli.get_command(ctx, name) for name in cli.list_commands(ctx)}}
    return {
        name: {option for p in command.get_params(ctx) for option in (*p.opts, *p.secondary_opts)}
        for name, command in commands.items()
        if command is not None
    }


def strange_options(text: str) -> set[str]:
    """Options named in prose that no help has; those of other programs, in code, are theirs."""
    said = re.sub(r"`(?:python|pip|cc|cat)\b[^`]*`", "", prose(text))
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) - set().union(*helped().values())


def test_prose_has_no_debris() -> None:
    text = README.read_text(encoding="utf-8")
    assert debris(text) == []
    assert dead_links(text) == []
    assert strange_options(text) == set()


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        ('Alone it checks itself …") -->', debris),
        ("It is is so.", debris),
        ("One `tick too many.", debris),
        ("It says (so.", debris),
        ("It says so].", debris),
        ('A "quote.', debris),
        ("**Bold.", debris),
        ("```console", debris),
        ("[a page](docs/none.md)", dead_links),
        ("![a picture](docs/none.png)", dead_links),
        ("[a heading](#none)", dead_links),
        ("Give `--kernel-height`.", strange_options),
    ],
)
def test_debris_would_be_found(planted: str, check: Callable[[str], object]) -> None:
    text = README.read_text(encoding="utf-8")
    assert check(f"{text}\n{planted}\n")
    assert not check(f'{text}\n[commands](#commands), [a folder](docs), `--kernel`, (so) "it" is\n')


def test_every_command_is_on_the_page() -> None:
    text = README.read_text(encoding="utf-8")
    for name in filter(None, helped()):
        assert re.search(rf"^### .*\b{name}\b", text, re.MULTILINE), name
        assert re.search(rf"^\$ .*convmat {name}\b", text, re.MULTILINE), name


def test_ci_runs_the_test_command() -> None:
    """.ci/run takes the command out of this page; here, that it can, and that there is only one."""
    text = README.read_text(encoding="utf-8")
    [command] = re.findall(r"^python3 -m venv .*pytest -n auto --dist loadfile$", text, re.MULTILINE)
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".[test]" in command


if __name__ == "__main__":
    README.write_text(rerun(README.read_text(encoding="utf-8")), encoding="utf-8")
