"""Draws the pages' pictures: runs each command that docs/gallery.md prints beneath one.

`python docs/pictures/draw.py [FOLDER]` draws them into FOLDER/docs/pictures, by default this one; so that a
picture and its command cannot differ.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GALLERY = ROOT / "docs" / "gallery.md"
DRAWS = re.compile(r"`convmat ([^`]* docs/pictures/\w+\.(?:png|svg)[^`]*)`")


def main(folder: Path) -> None:
    """Draw them into `folder`/docs/pictures."""
    (folder / "docs" / "pictures").mkdir(parents=True, exist_ok=True)
    if folder.resolve() != ROOT.resolve():
        shutil.copytree(ROOT / "sample_images", folder / "sample_images", dirs_exist_ok=True)
    for command in DRAWS.findall(GALLERY.read_text(encoding="utf-8")):
        arguments = [*shlex.split(command), "-q"]
        subprocess.run([sys.executable, "-m", "convmat", *arguments], cwd=folder, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
