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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_ci_runs_the_test_command() -> None:
    """.ci/run takes the command out of this page; here, that it can, and that there is only one."""
    [command] = re.findall(r"^python3 -m venv .*pytest$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".[test]" in command


if __name__ == "__main__":
    README.write_text(rerun(README.read_text(encoding="utf-8")), encoding="utf-8")
