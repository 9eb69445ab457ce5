"""conv.c under AddressSanitizer and UBSan: `python -m tests.sanitize [SECONDS]` runs random layers on it.

The package is copied, its C source compiled with the sanitizers, and run at each level there is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import convmat

PACKAGE = Path(convmat.__file__).parent
SANITIZED = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"],
}


def compiler() -> list[str]:
    """$CC, or cc."""
    return shlex.split(os.environ.get("CC", "cc"))


def copy_compiled(
    folder: Path,
    flags: Sequence[str],
    mutation: tuple[str, str] = ("", ""),
    levels: Sequence[str] = ("baseline",),
) -> None:
    """A copy of the package in `folder`, its C source changed and compiled with these flags."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(PACKAGE, folder / "convmat", ignore=ignored)
    home = folder / "convmat" / "native"
    source = (home / "conv.c").read_text(encoding="utf-8")
    if mutation[0]:
        assert source.count(mutation[0]) == 1, f"{mutation[0]!r} is not once in conv.c"
    (home / "conv.c").write_text(source.replace(*mutation) if mutation[0] else source, encoding="utf-8")
    always = ["-std=gnu11", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread"]
    running = [
        subprocess.Popen(
            [
                *compiler(),
                *always,
                *flags,
                *FLAGS[level],
                str(home / "conv.c"),
                "-o",
                str(home / f"_{level}.so"),
            ]
        )
        for level in levels
    ]
    assert [process.wait() for process in running] == [0] * len(levels)


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    runtime = subprocess.check_output([*compiler(), "-print-file-name=libasan.so"], text=True).strip()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_compiled(folder, SANITIZED, levels=[*FLAGS])
        # Python itself leaks at its end, and is no business of ours.
        env = os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[1]}",
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        command = [sys.executable, "-m", "tests.native_cases", "--seconds", str(seconds / 2)]
        return subprocess.run(command, cwd=folder, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
