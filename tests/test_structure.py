"""The architecture's rules: who may import whom, what a start-up costs, names, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import convmat
from convmat import errors

PACKAGE = Path(convmat.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The parts of the package by floors: a part imports from floors below it, and from itself.
FLOORS = (
    ("errors", "shown", "encodings", "watching", "doubts", "axis", "blocks", "native", "reference"),
    ("formats", "trouble", "roundings", "onnx_nodes"),
    ("checks",),
    ("arrays",),
    ("quantization",),
    ("geometry", "layouts", "kernels", "arithmetic", "threads", "files"),
    ("transposed", "words", "entries"),
    ("sizes", "patches", "symbol"),
    ("folding", "plan", "spectrum"),
    ("engine",),
    ("adjoint",),
    ("matrix",),
    ("verification", "experiment"),
    ("networks", "dask"),
    ("report", "figures"),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts} | {"__version__": -1}
# Parts that may import no more than these, whatever is below them.
ALONE = {"files": {"errors", "formats", "checks", "files"}}
# Third-party packages with the modules that may import them.
HOMES: dict[str, str | tuple[str, ...]] = {
    "click": "cli",
    "tqdm": "cli",
    "rich": ("shown", "report", "cli", "figures/preview"),
    "PIL": ("files", "figures"),
    "matplotlib": "figures/curves",
    "onnx": ("networks", "onnx_nodes"),
    "onnxruntime": "networks",
    "dask": ("dask", "cli/cluster"),
    "distributed": ("dask", "cli/cluster"),
    "zarr": "dask",
}


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> set[str]:
    """Dotted names of everything a module imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


each_module = pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))


@each_module
def test_imports_go_down(module: Path) -> None:
    part = part_of(module)
    for name in imports(module):
        if name.startswith("convmat."):
            other = name.split(".")[1]
            assert other == part or FLOOR_OF[other] < FLOOR_OF[part], f"{part} imports {name}"
            assert other in ALONE.get(part, FLOOR_OF), f"{part} imports {name}"
        home = HOMES.get(name.split(".")[0])
        if home:
            assert str(module.relative_to(PACKAGE)).startswith(home), f"imports {name}"


def test_no_modules_import_each_other() -> None:
    names = {
        ".".join(m.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): m
        for m in MODULES
    }
    graph = {
        name: {dotted if dotted in names else dotted.rpartition(".")[0] for dotted in imports(m)}
        & names.keys()
        for name, m in names.items()
    }
    assert list(TopologicalSorter(graph).static_order())  # or CycleError


MOST_LINES = {ast.Module: 450, ast.FunctionDef: 60}


@each_module
def test_nothing_is_long_without_a_reason(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    for node in ast.walk(tree := ast.parse(text)):
        if not isinstance(node, ast.Module | ast.FunctionDef):
            continue
        lines = len(text.splitlines()) if node is tree else node.end_lineno - node.lineno + 1
        name = f"{module.relative_to(PACKAGE)}:{getattr(node, 'name', '')}".rstrip(":")
        if lines > MOST_LINES[type(node)]:
            assert "long because" in (ast.get_docstring(node) or ""), f"{name} has {lines} lines"


@each_module
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
        ("import convmat; convmat.convolve, convmat.verify", ("dask", "zarr", "distributed")),
        (
            "from convmat.cli import run; run(['convolve', 'k.npy', '--kernel', 'box:3', '-q'])",
            ("dask", "zarr"),
        ),
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


def test_the_top_of_the_repository_is_as_it_was_laid_down() -> None:
    """What a command leaves in the current folder is easily committed with the rest."""
    listed = subprocess.run(["git", "ls-files"], cwd=PACKAGE.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout of git")
    tops = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    folders = {"convmat", "docs", "sample_images", "tests"}
    assert {top for top in tops if not top.startswith(".")} == folders | {
        *("CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml")
    }
