"""Files as Dask arrays, of which each task reads its part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from convmat.dask.windows import Array, bounds_of
from convmat.errors import FileError
from convmat.files.images import ImageInput
from convmat.files.npy import NpyInput

_PART_BYTES = 1 << 23
"""Of images that a task reads at a time, or one image."""


def of_pictures(names: Sequence[str], frame: int | None, alpha: str) -> da.Array:
    """Pictures as (N, H, W, C). The header of the first is read now; the others must have its size and dtype,
    which is found out by who reads them.
    """
    first = ImageInput(names[0], frame, alpha)
    paths = [os.path.abspath(name) for name in names]
    read = _Pictures(frame, alpha, first.shape, first.dtype)
    said = (paths, [_state(path) for path in paths], frame, alpha)
    return _of_parts(read, (len(paths), *first.shape), first.dtype, said, paths)


def of_array(source: NpyInput) -> da.Array:
    """An .npy array, cut along its first axis; what is no plain file is read whole."""
    if not source.is_plain or not source.shape:
        return da.from_array(source.read())
    path = os.path.abspath(source.name)
    return _of_parts(_Rows(path), source.shape, source.dtype, (path, _state(path)))


def _of_parts(
    read: Any, shape: tuple[int, ...], dtype: np.dtype[Any], said: Any, items: Sequence[str] | None = None
) -> da.Array:
    """An array whose parts along the first axis `read` reads, of their items or their range."""
    count, each = shape[0], int(np.prod(shape[1:])) * dtype.itemsize
    step = max(_PART_BYTES // max(each, 1), 1)
    sizes = [min(step, count - start) for start in range(0, count, step)] or [0]
    name = f"read-{tokenize(said)}"
    graph = {}
    for i, start in enumerate(bounds_of(sizes)[:-1]):
        part = slice(start, start + sizes[i])
        graph[(name, i, *(0,) * (len(shape) - 1))] = (_Part(read, part if items is None else items[part]),)
    return da.Array(graph, name, (tuple(sizes), *((size,) for size in shape[1:])), dtype)


def _state(path: str) -> tuple[int, int]:
    """What changes with a file's bytes."""
    try:
        found = os.stat(path)
    except OSError:  # told where it is read
        return 0, 0
    return found.st_size, found.st_mtime_ns


# What tasks do


@dataclass(frozen=True)
class _Part:
    """A part that is read by a task, without arguments of its own."""

    read: Any
    what: Any

    def __call__(self) -> Array:
        part: Array = self.read(self.what)
        return part


@dataclass(frozen=True)
class _Rows:
    """Reads a part of an .npy file along its first axis."""

    path: str

    def __call__(self, part: slice) -> Array:
        return np.array(NpyInput(self.path, mapped_from=0).read()[part])


@dataclass(frozen=True)
class _Pictures:
    """Reads pictures of one size and dtype."""

    frame: int | None
    alpha: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __call__(self, paths: Sequence[str]) -> Array:
        batch = np.empty((len(paths), *self.shape), self.dtype)
        for image, path in zip(batch, paths, strict=True):
            source = ImageInput(path, self.frame, self.alpha)
            if (source.shape, source.dtype) != (self.shape, self.dtype):
                is_, first = (
                    f"{' × '.join(map(str, shape))} {dtype}"
                    for shape, dtype in ((source.shape, source.dtype), (self.shape, self.dtype))
                )
                raise FileError(
                    path, f"is {is_}, the first picture is {first}; a batch has images of one size and dtype"
                )
            image[...] = source.read()
        return batch
