"""Mistakes planted one at a time in geometry, mapping, folding, matrix and engine: `verify` must exit 1.

Each is a change of a function's syntax tree, in a copy of the package; the self-check of the copy is run as a
user would. `python -m tests.test_mutations` prints each mistake as the expression before and after.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import convmat

pytestmark = pytest.mark.slow

PACKAGE = Path(convmat.__file__).parent

Mistake = tuple[str, str, int]

# A function by its qualified name, in whichever module it is, or a constant; what is done to it; and to which
# of the places where that can be done, counted from the first, the outer before the inner.
MISTAKES = [
    # Sizes
    ("kernel_extent", "term lost", 2),
    ("output_length", "term lost", 1),
    ("transposed_length", "term lost", 1),
    ("_transposed_size", "factor lost", 1),
    ("named_pads", "number + 1", 4),
    ("named_pads", "sign", 6),
    ("named_pads", "term lost", 1),
    ("named_pads", "branches swapped", 1),
    # The mapping
    ("ConvGeometry.place", "sign", 1),
    ("ConvGeometry.place", "factors crossed", 1),
    ("ConvGeometry._taps_at", "sign", 1),
    ("ConvGeometry.column_of", "branches swapped", 1),
    ("block_shape", "statement lost", 1),
    ("_ravel", "sign", 1),
    ("padding_source", "one later", 1),
    ("padding_source", "number + 1", 2),
    ("padding_source", "number + 1", 3),
    ("positions_of", "sign", 1),
    # Arithmetic
    ("_HOLDS", "number doubled", 2),
    ("_HOLDS", "number doubled", 4),
    ("_exact", "arguments swapped", 1),
    ("arithmetic_of", "comparison loosened", 2),
    # Unrolling, folding, flattening
    ("flatten_filters", "comparison loosened", 1),
    ("flatten_filters", "arguments swapped", 1),
    ("pack_block", "term lost", 2),
    ("pack_block", "term lost", 3),
    ("pack_block", "number + 1", 3),
    ("pack", "factor lost", 1),
    ("window", "term lost", 1),
    ("window", "sign", 2),
    ("ConvGeometry.lines_seen", "sign", 2),
    ("window", "twin", 1),
    ("window", "statement lost", 5),
    ("_regrouped", "term lost", 2),
    ("Band.before", "sign", 2),
    ("ConvGeometry.outputs_reaching", "sign", 3),
    ("ConvGeometry.outputs_reaching", "term lost", 4),
    # The engine
    ("prepare", "number + 1", 3),
    ("as_real", "sign", 1),
    ("as_real", "twin", 1),
    ("stream", "statement lost", 1),
    ("multiply", "backwards", 2),
    ("_compute", "index lost", 1),
    ("_by_bands", "index lost", 3),
    ("_by_bands", "method lost", 2),
    # The layer's matrix, and layouts
    ("csr_arrays", "factor lost", 4),
    ("csr_arrays", "axes not moved", 1),
    ("product_shape", "backwards", 2),
    ("to_batch", "twin", 1),
]
# What NumPy does where nothing is compiled: run so.
BY_NUMPY = [
    ("patches_of", "argument None", 1),
    ("patches_of", "argument None", 2),
    ("lay_down", "limit lost", 2),
    ("lay_down", "factor lost", 2),
    ("_unroll_block", "axes not moved", 1),
    ("_Folding._patches", "axes not moved", 1),
    ("_Folding._by_numpy", "branches swapped", 1),
    ("_Folding._by_numpy", "statement lost", 2),
    ("_by_numpy", "sign", 6),
    ("_by_numpy", "groups backwards", 2),
    ("_by_numpy", "arguments swapped", 1),
    ("_products", "axes not moved", 1),
    ("_by_bands", "statement lost", 3),
]
TWINS = {"zeros": "ones", "imag": "real", "moveaxis": "swapaxes"}


def mistaken(what: str, node: ast.AST) -> ast.AST | None:
    """The node with such a mistake in it; None where it cannot be made."""
    match what, node:
        case "sign", ast.UnaryOp(ast.USub(), value):
            return value
        case "sign", ast.BinOp(a, ast.Add() | ast.Sub() as op, b):
            return ast.BinOp(a, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), b)
        case "term lost", ast.BinOp(a, ast.Add() | ast.Sub(), _):
            return a
        case "factor lost", ast.BinOp(a, ast.Mult() | ast.FloorDiv() | ast.Mod(), _):
            return a
        case "factors crossed", ast.BinOp(ast.BinOp(a, ast.Mult(), b), op, ast.BinOp(c, ast.Mult(), d)):
            return ast.BinOp(ast.BinOp(a, ast.Mult(), d), op, ast.BinOp(c, ast.Mult(), b))
        case "one later", ast.BinOp(a, ast.FloorDiv() | ast.Mod() as op, b):
            return ast.BinOp(ast.BinOp(a, ast.Add(), ast.Constant(1)), op, b)
        case "number + 1", ast.Constant(int(number)) if not isinstance(number, bool):
            return ast.Constant(number + 1)
        case "number doubled", ast.Constant(int(number)) if not isinstance(number, bool):
            return ast.Constant(2 * number)
        case "branches swapped", ast.IfExp(test, a, b):
            return ast.IfExp(test, b, a)
        case "comparison loosened", ast.Compare(a, [ast.Eq()], rest):
            return ast.Compare(a, [ast.GtE()], rest)
        case "limit lost", ast.Call(ast.Name("max" | "min"), [value, _]):
            return value
        case "axes not moved", ast.Call(ast.Attribute(attr="moveaxis"), [value, *_]):
            return value
        case "method lost", ast.Call(ast.Attribute(value), [], []):
            return value
        case "arguments swapped", ast.Call(
            ast.Attribute(attr="reshape") | ast.Name("Arithmetic") as function, [a, b, *rest]
        ):
            return ast.Call(function, [b, a, *rest], [])
        case "argument None", ast.Call(function, [*first, ast.Name()], keywords):
            return ast.Call(function, [*first, ast.Constant(None)], keywords)
        case "index lost", ast.Subscript(value, _, ast.Load()):
            return value
        case "backwards", ast.Slice(lower=None, upper=None, step=None):
            return ast.Slice(step=ast.Constant(-1))
        case "groups backwards", ast.Call(ast.Attribute(attr="split")):
            return ast.Subscript(node, ast.Slice(step=ast.Constant(-1)), ast.Load())
        case "backwards", ast.Tuple([*_, ast.Starred()] | [ast.Starred(), *_] as values):
            return ast.Tuple(values[::-1], ast.Load())
        case "twin", ast.Attribute(value, name, context) if name in TWINS:
            return ast.Attribute(value, TWINS[name], context)
        case "statement lost", ast.Expr(ast.Call()) | ast.Assign([ast.Subscript()]) | ast.AugAssign():
            return ast.Pass()
    return None


class Plant(ast.NodeTransformer):
    """Makes one mistake in a definition."""

    def __init__(self, what: str, nth: int) -> None:
        self.what, self.left = what, nth
        self.change = ""

    def visit(self, node: ast.AST) -> ast.AST:
        if (changed := mistaken(self.what, node)) is not None:
            self.left -= 1
            if self.left == 0:
                self.change = f"{ast.unparse(node)}  →  {ast.unparse(changed)}"
                return changed
        return self.generic_visit(node)


def definitions(module: ast.Module) -> dict[str, ast.stmt]:
    """A module's functions, methods and constants."""
    found: dict[str, ast.stmt] = {}
    for node in module.body:
        match node:
            case ast.Assign([ast.Name(name)]) | ast.FunctionDef(name):
                found[name] = node
            case ast.ClassDef(name, body=body):
                found |= {f"{name}.{f.name}": f for f in body if isinstance(f, ast.FunctionDef)}
    return found


@cache
def homes() -> dict[str, list[Path]]:
    """The modules, below the package, that define each name; without the reference, which is not tested."""
    found: dict[str, list[Path]] = {}
    for path in set(PACKAGE.rglob("*.py")) - set(PACKAGE.rglob("reference.py")):
        for name in definitions(ast.parse(path.read_bytes())):
            found.setdefault(name, []).append(path.relative_to(PACKAGE))
    return found


def planted(mistake: Mistake) -> tuple[Path, str, str]:
    """The module that has the function, its source with the mistake, and what was changed."""
    function, what, nth = mistake
    modules = homes().get(function, [])
    assert len(modules) == 1, f"{function} is in {modules or 'no module'}"
    module, plant = ast.parse((PACKAGE / modules[0]).read_bytes()), Plant(what, nth)
    definition = definitions(module)[function]
    if isinstance(definition, ast.FunctionDef):
        definition.body = [plant.visit(statement) for statement in definition.body]  # no annotations
    else:
        plant.visit(definition)
    assert plant.change, f"{function} has {nth - plant.left} places for: {what}"
    return modules[0], ast.unparse(ast.fix_missing_locations(module)), plant.change


def verify_status(folder: Path, mistake: Mistake | None, by_numpy: bool) -> int:
    """Exit status of the self-check of a copy of the package with a mistake in it."""
    shutil.copytree(PACKAGE, folder / "convmat", ignore=shutil.ignore_patterns("__pycache__"))
    if mistake:
        path, source, _ = planted(mistake)
        (folder / "convmat" / path).write_text(source, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    env |= {"CONVMAT_NATIVE": "0"} if by_numpy else {}
    command = [sys.executable, "-m", "convmat", "verify", "-q"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True)
    assert b"Traceback" not in done.stderr  # Python's own status is 1, too
    return done.returncode


@pytest.mark.parametrize("by_numpy", [False, True])
def test_verify_finds_nothing_in_what_is_right(by_numpy: bool, tmp_path: Path) -> None:
    assert verify_status(tmp_path, None, by_numpy) == 0


@pytest.mark.parametrize(
    ("mistake", "by_numpy"),
    [*((mistake, False) for mistake in MISTAKES), *((mistake, True) for mistake in BY_NUMPY)],
    ids=lambda value: "{}: {} {}".format(*value) if isinstance(value, tuple) else None,
)
def test_verify_finds_the_mistake(mistake: Mistake, by_numpy: bool, tmp_path: Path) -> None:
    assert verify_status(tmp_path, mistake, by_numpy) == 1, planted(mistake)[2]


if __name__ == "__main__":
    for mistake in (*MISTAKES, *BY_NUMPY):
        print("{}: {} {}:".format(*mistake), planted(mistake)[2])
