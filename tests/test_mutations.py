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
    ("patches.py", "positions.start * self.stride - self.before", "positions.start * self.stride"),
    ("patches.py", "(axis.stride, axis.dilation) for", "(1, axis.dilation) for"),
    ("patches.py", "(self.stride, self.dilation) if", "(self.stride, 1) if"),
    ("patches.py", "(1, self.most)", "(1, self.k)"),
    ("geometry.py", "return position % size", "return (position + 1) % size"),
    ("geometry.py", "abs(position - last) + last) // 2", "abs(position - last) + last) // 2 + 1"),
    ("geometry.py", "position % max(2 * last, 1)", "position % max(2 * last + 1, 1)"),
    ("patches.py", "slab[...] = 0", "slab[...] = 1"),
    ("patches.py", "(wanted >= axis.size)", "(wanted > axis.size)"),
    ("patches.py", "filters.reshape(len(filters), -1).T", "filters[:, ::-1].reshape(len(filters), -1).T"),
    ("patches.py", "filters.reshape(len(filters), -1).T", "filters.reshape(-1, len(filters))"),
    ("patches.py", "np.moveaxis(plain, -1, 2 + len(starts))", "plain"),
    ("engine.py", "np.flip(filters, tuple(range(1, filters.ndim - 1)))", "np.flip(filters, 1)"),
    ("engine.py", "                y += todo.bias", "                y -= todo.bias"),
    ("engine.py", "found += todo.bias", "found -= todo.bias"),
    ("engine.py", "total += todo.bias", "total -= todo.bias"),
    ("engine.py", "np.moveaxis(split, 0, -2).reshape(", "split.reshape("),
    ("engine.py", "start = u * geometry.stride[-1]", "start = u"),
    ("engine.py", "banded[..., taps, g, :, u, g, :]", "banded[..., taps, g, :, u, 0, :]"),
    ("engine.py", "and not patches.are_finite()", "and False"),
    (
        "engine.py",
        "last = -(-geometry.output_size[-1] // outputs)",
        "last = (geometry.output_size[-1] // outputs)",
    ),
    (
        "engine.py",
        "np.float64 if peak < 1 << 53 else np.int64",
        "np.float32 if peak < 1 << 53 else np.float64",
    ),
    ("engine.py", "result = np.dtype(np.int64)", "result = np.dtype(np.uint8)"),
    ("engine.py", "result == np.float16 else result", "result == np.float64 else result"),
    (
        "patches.py",
        "np.moveaxis(rows.reshape(*where, geometry.channels, *kernel), len(where), -1)",
        "rows.reshape(*where, *kernel, geometry.channels)",
    ),
    ("patches.py", "held = rows[len(block.rows) :]", "held = rows[:0]"),
    ("patches.py", "merge(both, theirs, out=both)", "merge(theirs, theirs, out=both)"),
    ("patches.py", "np.maximum(along, 1)", "np.maximum(along, 2)"),
    ("patches.py", "f * s + j * d) for", "f * s + j) for"),
    ("patches.py", "f * s + j * d) for", "f + j * d) for"),
    ("patches.py", "np.copyto(self._near, patches,", "np.copyto(self._near, patches[::-1],"),
    ("patches.py", "lines += rest[0, : len(lines)]", "lines -= rest[0, : len(lines)]"),
    (
        "engine.py",
        "np.moveaxis(found.reshape(groups, *patches, depth), 0, -2)",
        "found.reshape(*patches, groups, depth)",
    ),
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
    ("matrix.py", "np.arange(groups) * depth * channel_step", "np.arange(groups) * channel_step"),
    ("matrix.py", "else np.moveaxis(weights, -1, 1)", "else weights"),
    ("engine.py", "return np.asarray(y, arithmetic.result)", "return np.asarray(-y, arithmetic.result)"),
    (
        "engine.py",
        "part.reshape(-1, groups, per_group).transpose(1, 0, 2)",
        "part.reshape(-1, per_group, groups).transpose(2, 0, 1)",
    ),
    ("layouts.py", "    return (*size, rows[-1])", "    return (*size[::-1], rows[-1])"),
    ("layouts.py", "array = np.moveaxis(array, -dims - 1, -1)", "array = np.swapaxes(array, -dims - 1, -1)"),
]


def verify_status(folder: Path, mutation: tuple[str, str, str] | None) -> int:
    """Exit status of the self-check of a copy of the package, mutated."""
    shutil.copytree(PACKAGE, folder / "convmat", ignore=shutil.ignore_patterns("__pycache__"))
    if mutation:
        module = folder / "convmat" / mutation[0]
        source = module.read_text(encoding="utf-8")
        assert source.count(mutation[1]) == 1, f"{mutation[1]!r} is not once in {mutation[0]}"
        module.write_text(source.replace(*mutation[1:]), encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "convmat", "verify", "-q"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    folders = [tmp_path_factory.mktemp("copy") for _ in (None, *MUTATIONS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(verify_status, folders, (None, *MUTATIONS)))


def test_the_copy_itself_is_right(statuses: list[int]) -> None:
    assert statuses[0] == 0


@pytest.mark.parametrize(
    "number", range(len(MUTATIONS)), ids=lambda n: f"{MUTATIONS[n][0]}: {MUTATIONS[n][2]}"
)
def test_verify_finds_the_mistake(number: int, statuses: list[int]) -> None:
    assert statuses[number + 1] == 1
