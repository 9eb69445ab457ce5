"""Mistakes planted one at a time in geometry, mapping, folding, matrix and engine: `verify` must exit 1.

Each mutation replaces one piece of the source, in a copy; the self-check of the copy is run as a user would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import convmat

pytestmark = pytest.mark.slow

PACKAGE = Path(convmat.__file__).parent
MUTATIONS = [
    ("geometry.py", "return dilation * (k - 1) + 1", "return dilation * k"),
    ("geometry.py", "(size + sum(pads) - extent) // stride + 1", "(size + sum(pads) - extent) // stride"),
    ("geometry.py", "-(-size // stride) - 1", "size // stride - 1"),
    ("geometry.py", '(less, more) if rule == "same"', '(more, less) if rule == "same"'),
    ("geometry.py", "return extent // 2, extent // 2", "return extent // 2, (extent - 1) // 2"),
    ("geometry.py", "return extent - 1, extent - 1", "return extent, extent"),
    ("geometry.py", "y * s + i * d - before", "y * s + i * d + before"),
    ("geometry.py", "y * s + i * d - before", "y * d + i * s - before"),
    ("geometry.py", "(t := q + pads[0] - i * d) % s == 0", "(t := q + pads[0] - i * d) >= 0"),
    ("geometry.py", "index = index * size + digit", "index = index * size - digit"),
    ("geometry.py", "            room //= take\n", ""),
    ("geometry.py", "return position % size", "return (position + 1) % size"),
    ("geometry.py", "abs(position - last) + last) // 2", "abs(position - last) + last) // 2 + 1"),
    ("geometry.py", "position % max(2 * last, 1)", "position % max(2 * last + 1, 1)"),
    (
        "geometry.py",
        "(size - 1) * stride - sum(pads) + extent + output_padding",
        "(size - 1) * stride - sum(pads) + extent",
    ),
    (
        "geometry.py",
        "tuple(h * s for h, s in zip(shape[1:-1], axes.stride, strict=True))",
        "tuple((h - 1) * s + 1 for h, s in zip(shape[1:-1], axes.stride, strict=True))",
    ),
    (
        "geometry.py",
        "padding_source(q, size, padding_mode) == pixel)",
        "padding_source(q, size, padding_mode) == pixel - 1)",
    ),
    ("geometry.py", 'digits if order == "hwc" else (digits[-1], *digits[:-1])', "digits"),
    ("arithmetic.py", "(np.dtype(np.float32), 1 << 24)", "(np.dtype(np.float32), 1 << 54)"),
    ("arithmetic.py", "(np.dtype(np.float64), 1 << 53)", "(np.dtype(np.float64), 1 << 63)"),
    ("arithmetic.py", "return Arithmetic(dtype, np.dtype(np.int64))", "return Arithmetic(dtype, dtype)"),
    ("arithmetic.py", "result == np.float16 else result", "result in (np.float16, np.float64) else result"),
    ("patches.py", "filters.reshape(len(filters), -1).T", "filters[:, ::-1].reshape(len(filters), -1).T"),
    ("patches.py", "filters.reshape(len(filters), -1).T", "filters.reshape(-1, len(filters))"),
    ("patches.py", "[pads[0] - p.start * s for", "[pads[0] for"),
    ("patches.py", "[pads[0] - p.start * s for", "[pads[1] - p.start * s for"),
    ("patches.py", "size = [(len(p) - 1) * s + extent for", "size = [len(p) * s for"),
    ("patches.py", "p.start * stride - before, (len(p)", "p.start * stride, (len(p)"),
    ("patches.py", "memory[tuple(into)] = pixels", "memory[tuple(into)] = -pixels"),
    ("patches.py", "slice(first - start, max(last, first) - start)", "slice(0, max(last, first) - first)"),
    ("patches.py", "np.zeros((*shape, x.shape[-1])", "np.ones((*shape, x.shape[-1])"),
    ("patches.py", "[band.rows.start - first :]", "[band.rows.start - first + 1 :]"),
    ("patches.py", "self.lines.start - self.outputs.start *", "self.outputs.start *"),
    ("patches.py", "(stop - 1 + before) // stride + 1", "(stop - 1 + before) // stride"),
    ("engine.py", "np.flip(filters, tuple(range(1, filters.ndim - 1)))", "np.flip(filters, 1)"),
    ("engine.py", "np.multiply(filters.imag, -1,", "np.multiply(filters.imag, 1,"),
    ("engine.py", "real[:, 1, ..., 0] = filters.imag", "real[:, 1, ..., 0] = filters.real"),
    ("engine.py", "filters = filters.conj()", "filters = filters * 1"),
    ("engine.py", "todo.x[block.positions[0].start :]", "todo.x[:]"),
    ("engine.py", "        _compute(todo, block, rows)\n        yield rows", "        yield rows"),
    ("engine.py", "w[w_at:], bias", "w[w_at:], None"),
    ("engine.py", "w_col.T[:, None]", "w_col.T[::-1, None]"),
    ("entries.py", "np.arange(groups) * depth * channel_step", "np.arange(groups) * channel_step"),
    ("entries.py", "else np.moveaxis(weights, -1, 1)", "else weights"),
    ("layouts.py", "    return (*size, rows[-1])", "    return (*size[::-1], rows[-1])"),
    ("layouts.py", "array = np.moveaxis(array, -dims - 1, -1)", "array = np.swapaxes(array, -dims - 1, -1)"),
]
# What NumPy does where nothing is compiled: run so.
BY_NUMPY = [
    ("patches.py", "slice(max(b, 0), max(b, 0) + size)", "slice(b, b + size)"),
    ("patches.py", "np.copyto(total, np.clip(total, least, largest), where=least <= largest)", "pass"),
    (
        "patches.py",
        "slice(None, None, s) for s in geometry.stride",
        "slice(None, None, 1) for s in geometry.stride",
    ),
    (
        "patches.py",
        "slice(None, None, d) for d in geometry.dilation",
        "slice(None, d) for d in geometry.dilation",
    ),
    ("patches.py", "np.moveaxis(patches, len(geometry.kernel_size) + 1, -1)", "patches"),
    ("patches.py", "starts[a] + tap[a] * geometry.dilation[a] for", "starts[a] + tap[a] for"),
    ("patches.py", 'np.add if self.how == "sum" else None', "None"),
    (
        "patches.py",
        "np.moveaxis(rows.reshape(*where, g.channels, *g.kernel_size), len(where), -1)",
        "rows.reshape(*where, *g.kernel_size, g.channels)",
    ),
    ("engine.py", "else rows + todo.bias", "else rows - todo.bias"),
    ("engine.py", "sums += 0 if bias is None else bias", "pass"),
    ("engine.py", "np.split(filters, g.groups)", "np.split(filters, g.groups)[::-1]"),
    (
        "engine.py",
        "filters.reshape(g.groups, own, *g.kernel_size)",
        "filters.reshape(own, g.groups, *g.kernel_size).swapaxes(0, 1)",
    ),
    (
        "engine.py",
        "np.moveaxis(found.reshape(groups, *y.shape[:-1], *kernel, depth), 0, -2)",
        "found.reshape(*y.shape[:-1], *kernel, groups, depth)",
    ),
]


def verify_status(folder: Path, mutation: tuple[str, str, str] | None, by_numpy: bool) -> int:
    """Exit status of the self-check of a copy of the package, mutated."""
    shutil.copytree(PACKAGE, folder / "convmat", ignore=shutil.ignore_patterns("__pycache__"))
    if mutation:
        module = folder / "convmat" / mutation[0]
        source = module.read_text(encoding="utf-8")
        assert source.count(mutation[1]) == 1, f"{mutation[1]!r} is not once in {mutation[0]}"
        module.write_text(source.replace(*mutation[1:]), encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    env |= {"CONVMAT_NATIVE": "0"} if by_numpy else {}
    command = [sys.executable, "-m", "convmat", "verify", "-q"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode


RUNS = [(mutation, False) for mutation in (None, *MUTATIONS)] + [(m, True) for m in (None, *BY_NUMPY)]


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    folders = [tmp_path_factory.mktemp("copy") for _ in RUNS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(verify_status, folders, *zip(*RUNS, strict=True)))


@pytest.mark.parametrize(
    "number", range(len(RUNS)), ids=lambda n: "{}: {}".format(*RUNS[n][0][::2]) if RUNS[n][0] else "as it is"
)
def test_verify_finds_the_mistake_and_nothing_else(number: int, statuses: list[int]) -> None:
    assert statuses[number] == (1 if RUNS[number][0] else 0)
