"""A build hook of hatchling: compiles conv.c where there is a C compiler, and does without else.

The result is plain shared libraries for ctypes, one for each level of vector instructions, so that a wheel
fits any Python. A wheel is given the manual pages, too. hatchling runs this file by itself: it imports
nothing of ours.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = "-std=gnu11 -O2 -ftree-vectorize -ffp-contract=fast -fPIC -shared -pthread"
LEVELS = {
    "baseline": "",
    "avx2": "-mavx2 -mfma",
    "avx512": "-mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma",
}
NOTE = "built.txt"


class NativeBuildHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Adds the compiled libraries to a wheel, or a note that says why there are none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the wheel; for an editable install, beside the source."""
        if self.target_name != "wheel":
            return
        home = Path(self.root, "convmat", "native")
        made = build(home / "conv.c", Path(self.root, "build"))
        libraries = [file for file in made.iterdir() if file.suffix == ".so"]
        if not libraries:
            self.app.display_warning(f"convmat: {(made / NOTE).read_text().strip()}; NumPy will compute")
        if version == "editable":
            for old in (*home.glob("_*.so"), home / NOTE):
                old.unlink(missing_ok=True)
            for file in made.iterdir():
                # Renamed into place: a process that has the old library loaded keeps it.
                shutil.copy(file, home / f"{file.name}.new")
                os.replace(home / f"{file.name}.new", home / file.name)
        else:
            build_data["force_include"].update({str(f): f"convmat/native/{f.name}" for f in made.iterdir()})
            self.add_manual(build_data["shared_data"])
        if libraries:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"

    def add_manual(self, shared: dict[str, str]) -> None:
        """Write a manual page for each command, from its help; without click there are none."""
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the wheel is written later
        command = [sys.executable, "-B", "-m", "convmat.cli.manual", folder]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().rpartition("\n")[2]
            self.app.display_warning(f"convmat: no manual pages: {why}")
        else:
            shared[folder] = "share/man/man1"


def build(source: Path, near: Path) -> Path:
    """A folder with a library for each level that the compiler knows, or with a note.

    pip may build a wheel twice, first for its metadata: the folder's name is a hash of all that matters, so
    that the second time finds it.
    """
    compiler = find_compiler()
    key = hashlib.sha256(repr((source.read_bytes(), compiler, FLAGS, LEVELS, platform.machine())).encode())
    folder = near / f"native-{key.hexdigest()[:16]}"
    if folder.exists() and compiler:
        return folder
    made = Path(tempfile.mkdtemp())
    said = compile_levels(compiler, source, made) if compiler else "no C compiler when installed"
    (made / NOTE).write_text(said + "\n")
    try:
        near.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(made, folder)
    except OSError:  # a source tree that cannot be written to
        return made
    return folder


def find_compiler() -> list[str]:
    """$CC, else what there is on the PATH; nothing where there is none, or where $CC is not one."""
    asked = shlex.split(os.environ.get("CC", ""))
    if asked:
        return asked
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), [])


def compile_levels(compiler: list[str], source: Path, folder: Path) -> str:
    """Compile all levels at the same time; returns what there is to say about it."""
    running = []
    for level, flags in LEVELS.items():
        command = [*compiler, *FLAGS.split(), *flags.split(), str(source), "-o", str(folder / f"_{level}.so")]
        try:
            running.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            )
        except OSError as error:
            return f"no C compiler when installed: {compiler[0]}: {error.strerror}"
    said = [process.communicate()[1].strip() for process in running]
    for level, process in zip(LEVELS, running, strict=True):
        if process.returncode:
            (folder / f"_{level}.so").unlink(missing_ok=True)
    if running[0].returncode:
        for file in folder.iterdir():
            file.unlink()
        first = said[0].splitlines()[0] if said[0] else f"it ended with status {running[0].returncode}"
        return f"{' '.join(compiler)} could not compile when installed: {first}"
    return f"compiled by {' '.join(compiler)}"


def _platform() -> str:
    """The wheel's platform: this machine's alone, where Python's is for several (macOS)."""
    name = sysconfig.get_platform().replace("universal2", platform.machine())
    return name.replace("-", "_").replace(".", "_")
