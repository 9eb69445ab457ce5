"""zarr arrays: read as Dask arrays; written chunk by chunk, marked until they are whole, and gone on with."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import zarr
from dask.base import tokenize

from convmat.dask.windows import Array, bounds_of, taken
from convmat.errors import FileError

_MARK = "convmat"  # among a zarr array's attributes


def of_zarr(name: str) -> da.Array:
    """A zarr array in its own chunks.

    Raises:
        FileError: no zarr array, or one that was not written to its end.
    """
    array = _opened(name)
    mark = array.attrs.get(_MARK)
    if isinstance(mark, dict) and not mark.get("complete", True):
        raise FileError(name, "is half-written; finish it: give the command that began it, and --resume")
    return da.from_array(array, chunks=array.chunks, inline_array=True, name=f"zarr-{_token(array, name)}")


def _token(array: Any, name: str) -> str:
    path = os.path.abspath(name)
    return str(tokenize(path, array.shape, str(array.dtype), os.stat(path).st_mtime_ns))


def _opened(name: str, mode: Any = "r") -> Any:
    with _told(name):
        return zarr.open_array(os.path.abspath(name), mode=mode)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """A block in which zarr's complaints are told of a file."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(name, error.strerror or f"is no zarr array: {error}") from None
    except Exception as error:  # zarr has many kinds, and damaged metadata raises any
        raise FileError(name, f"is no zarr array: {error}") from None


@dataclass(frozen=True)
class Storing:
    """A zarr array that is begun, and the tasks that write the chunks of it that are not there yet."""

    name: str
    graph: dict[Any, Any]
    keys: list[Any]
    total: int
    """Chunks in all."""
    chunks: tuple[int, ...]
    mark: dict[str, Any]

    def finish(self) -> None:
        """Mark it as whole."""
        _opened(self.name, "r+").attrs[_MARK] = self.mark | {"complete": True}


def storing(y: da.Array, name: str, resume: bool) -> Storing:
    """Begin to write an array as zarr, or go on with one that the same work began; nothing is computed yet.

    Its chunks are of one size, as zarr's are: along each axis that of most chunks. A chunk that is there is
    whole, for zarr writes it under another name first.

    Raises:
        FileError: it is there already; with `resume`, if it is another work's.
    """
    chunks = tuple(max(1, _commonest(sizes)) for sizes in y.chunks)
    mark = {"work": str(y.name), "complete": False}
    y = y.rechunk(chunks)
    if not os.path.lexists(name):
        with _told(name):
            os.stat(os.path.dirname(os.path.abspath(name)))  # zarr would make all folders that are not there
            zarr.create_array(
                store=os.path.abspath(name),
                shape=y.shape,
                chunks=chunks,
                dtype=y.dtype,
                attributes={_MARK: mark},
            )
    elif not resume:
        raise FileError(name, "is there already; remove it, or go on with it by --resume")
    array = _opened(name)
    there = array.attrs.get(_MARK)
    if not isinstance(there, dict) or there.get("work") != mark["work"] or array.shape != y.shape:
        raise FileError(name, "is not what this command began: other inputs, or another layer; name another")
    grid = list(itertools.product(*(range(count) for count in y.numblocks))) if y.size else []
    parts = [] if there.get("complete") else [place for place in grid if not _is_there(array, name, place)]
    return Storing(name, *_writing(y, name, parts), len(grid), chunks, mark)


def _commonest(sizes: Sequence[int]) -> int:
    """The size that most have; of several the largest."""
    counts = Counter(sizes)
    return max(counts, key=lambda size: (counts[size], size))


def _is_there(array: Any, name: str, place: tuple[int, ...]) -> bool:
    return os.path.exists(os.path.join(name, array.metadata.encode_chunk_key(place)))


def _writing(y: da.Array, name: str, places: list[tuple[int, ...]]) -> tuple[dict[Any, Any], list[Any]]:
    """The tasks that write these chunks, and their keys."""
    bounds, path, task = list(map(bounds_of, y.chunks)), os.path.abspath(name), f"write-{y.name}"
    graph = dict(y.__dask_graph__())
    for place in places:
        region = tuple(slice(int(b[i]), int(b[i + 1])) for b, i in zip(bounds, place, strict=True))
        graph[(task, *place)] = (partial(_write, path, region), taken(graph, (y.name, *place)))
    return graph, [(task, *place) for place in places]


def _write(path: str, region: tuple[slice, ...], block: Array) -> bool:
    """Write a chunk, in a task."""
    # A chunk of zeros, too, has a file, by which it is known to be there.
    array: Any = zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})
    array[region] = np.ascontiguousarray(block)
    return True
