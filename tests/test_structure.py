"""The architecture's rules: who may import whom, what a start-up costs, names, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convmat
from convmat import errors

PACKAGE = Path(convmat.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each part with the parts it may import; everything below it, and no more.
_LIBRARY = (
    "errors",
    "wholes",
    "watching",
    "geometry",
    "threads",
    "layouts",
    "native",
    "arithmetic",
    "patches",
    "engine",
    "spectrum",
    "matrix",
)
MAY_IMPORT = {
    "__init__": (*_LIBRARY, "frameworks", "chains", "verification"),
    "__main__": ("cli", "trouble"),
    "errors": (),
    "wholes": (),
    "watching": (),
    "trouble": ("errors", "report"),  # of which it takes what imports nothing
    "shown": ("report",),  # only once somebody looks at a value
    "geometry": ("errors", "wholes", "shown"),
    "frameworks": ("errors", "geometry"),
    "chains": ("errors", "wholes", "geometry"),
    "layouts": ("errors",),
    "doubts": (),
    "kernels": ("errors",),
    "threads": ("errors", "geometry"),
    "native": (),
    "arithmetic": ("errors",),
    "patches": ("errors", "geometry", "threads", "native"),
    "engine": ("errors", "geometry", "threads", "native", "arithmetic", "patches", "shown"),
    "spectrum": ("watching",),
    # matrix: files for its arrays, saved
    "matrix": (
        *("errors", "watching", "geometry", "arithmetic", "patches", "engine", "spectrum", "shown", "files"),
    ),
    "reference": (),
    "verification": (*_LIBRARY, "shown", "reference", "verification"),
    "experiment": (*_LIBRARY, "experiment", "files"),
    "files": ("errors", "wholes", "files"),
    "report": (*_LIBRARY, "shown", "frameworks", "chains", "verification", "experiment", "report"),
    "cli": (
        *_LIBRARY,
        "frameworks",
        "chains",
        "kernels",
        "doubts",
        "verification",
        "experiment",
        "files",
        "report",
        "trouble",
        "cli",
        "__version__",
    ),
}
# Third-party packages with the modules that may import them.
HOMES: dict[str, str | tuple[str, ...]] = {
    "click": "cli",
    "tqdm": "cli",
    "rich": "report",
    "PIL": ("files/images", "report/figures"),
    "matplotlib": "report/curves",
}


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> set[str]:
    """Dotted names of everything a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_go_one_way(module: Path) -> None:
    allowed = MAY_IMPORT[part_of(module)]
    for name in imports(module):
        if name.startswith("convmat."):
            assert name.split(".")[1] in allowed, f"imports {name}"
        home = HOMES.get(name.split(".")[0])
        if home:
            assert str(module.relative_to(PACKAGE)).startswith(home), f"imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_module_says_what_lives_there(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))


def test_public_names() -> None:
    """Each is there and documented, and none is hidden by a module of its name."""
    assert "convolve" in convmat.__all__
    for name in convmat.__all__:
        if not name.startswith("__"):
            assert getattr(convmat, name).__doc__
            assert not (PACKAGE / f"{name}.py").exists()
            assert name in dir(convmat)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = convmat.nothing


def test_errors_refine_builtins() -> None:
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and e is not errors.ConvmatError]
    assert len(kinds) > 4
    for kind in kinds:
        assert issubclass(kind, errors.ConvmatError)
        assert any(base.__module__ == "builtins" for base in kind.__bases__)
        assert str(kind("stride", "got 0")) == "stride: got 0"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import convmat", ("numpy", "click", "rich", "PIL", "tqdm")),
        ("from convmat.cli import run; run(['--help'])", ("numpy", "rich", "PIL", "tqdm")),
        ("from convmat.cli import run; run(['--version'])", ("numpy", "rich", "PIL", "tqdm")),
        ("from convmat.cli import run; run(['unroll', '--help'])", ("numpy", "rich", "PIL", "tqdm")),
        ("from convmat.cli import run; run(['unroll', '-k', '3', 'k.npy', '-q'])", ("rich", "PIL", "tqdm")),
        ("from convmat.cli import run; run(['sizes', '9', '-k', '3'])", ("PIL", "tqdm")),
    ],
)
def test_nothing_is_imported_that_is_not_used(code: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "k.npy", np.zeros((5, 5)))
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(sorted(sys.modules), file=sys.stderr)"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    loaded = ast.literal_eval(done.stderr)
    assert "convmat" in loaded
    assert [name for name in absent if name in loaded] == []
