"""Draws the README's pictures: runs each command that it prints beside one.

`python docs/draw.py [FOLDER]` draws them into FOLDER/docs, by default this one; so that a picture
and its command cannot differ.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DRAWS = re.compile(r"`convmat ([^`]* docs/\w+\.(?:png|gif)[^`]*)`")


def main(folder: Path) -> None:
    """Draw them into `folder`/docs."""
    (folder / "docs").mkdir(exist_ok=True)
    if folder.resolve() != ROOT.resolve():
        shutil.copytree(ROOT / "sample_images", folder / "sample_images", dirs_exist_ok=True)
    for command in DRAWS.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        arguments = [*shlex.split(command), "-q"]
        subprocess.run([sys.executable, "-m", "convmat", *arguments], cwd=folder, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
