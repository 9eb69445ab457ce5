"""Commands on Dask: inputs as Dask arrays, results in zarr, the scheduler that computes them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat import dask as chunkwise
from convmat.cli.command import refuse
from convmat.cli.inputs import Batch, check_one_pipe, open_batch, refuse_image_options, warn_of_layout
from convmat.cli.output import asked, progress, watching
from convmat.cli.quantized import quantization_of
from convmat.dask.schedulers import done, scheduling
from convmat.dask.sources import of_array, of_pictures
from convmat.dask.stores import of_zarr, storing
from convmat.errors import FileError, ShapeError
from convmat.files.names import is_pattern, is_picture, is_zarr
from convmat.files.npy import NpyInput
from convmat.layouts import to_batch
from convmat.report.facts import geometry_facts, input_fact, turned_fact
from convmat.shown import Fact, sizes
from convmat.trouble import say

if TYPE_CHECKING:
    from convmat.cli.judged import Judged, VerifyOptions
    from convmat.cli.options import LayerOptions

_ROWS_BYTES = 1 << 27
"""Of a result that are brought here at a time, or one chunk of images."""


@dataclass(frozen=True)
class Chunked(Batch):
    """A batch that is a Dask array."""

    array: Any = None
    names: tuple[str, ...] = field(default=())
    """As they were given."""

    def facts(self) -> list[Fact]:
        """What is read, as it was named, and in how many chunks; whether pictures are turned is not known."""
        return [input_fact(self.names), turned_fact([], len(self.names)), chunks_fact(self.array)]


def chunks_fact(array: Any) -> Fact:
    """The chunks of a Dask array: how many, and the largest."""
    largest = [max(each) for each in array.chunks]
    return Fact("chunks", "chunks", largest, f"{array.npartitions} of {sizes(largest)}")


@contextmanager
def on(scheduler: str | None, threads: int | None = None) -> Iterator[None]:
    """A block that is computed there; of a cluster the dashboard is told."""
    with scheduling(scheduler or "threads", threads) as dashboard:
        if dashboard and not asked("quiet"):
            say(f"convmat: dashboard: {dashboard}")
        yield


def threads_of_task(scheduler: str | None, threads: int | None) -> int:
    """Threads that each task works with: here the tasks themselves are on as many as were asked for."""
    return threads if threads is not None and scheduler is not None and "://" in scheduler else 1


# Inputs


def open_chunked(inputs: Sequence[str], layer: LayerOptions) -> Chunked:
    """Zarr arrays, folders, patterns and files as one batch, of which nothing but headers is read.

    Raises:
        FileError, ShapeError: as `open_batch`; a pattern or folder in which there is nothing.
    """
    check_one_pipe(*inputs)
    names = [name for given in inputs for name in _expanded(given)]
    if all(map(is_picture, names)):
        if layer.axes != 2:
            raise ShapeError(names[0], f"is an image and has 2 spatial axes, not {layer.axes}")
        array = of_pictures(names, layer.frame, layer.alpha)
        sources = open_batch((names[0],), 2, layer.layout, layer.frame, layer.alpha).sources
    elif any(map(is_zarr, names)):
        refuse_image_options()
        array, sources = _joined([_batch_of_zarr(name, layer) for name in names], names), []
    else:
        batch = open_batch(tuple(names), layer.axes, layer.layout, layer.frame, layer.alpha)
        array, sources = _joined([_part(source, batch) for source in batch.sources], names), batch.sources
    return Chunked(
        array.shape, array.dtype, sources, layer.axes, layer.layout, array=array, names=tuple(inputs)
    )


def _expanded(name: str) -> list[str]:
    """The files that a folder or a pattern names, in order of their names; any other name as it is."""
    if os.path.isdir(name) and not is_zarr(name):
        found = sorted(entry.path for entry in os.scandir(name) if entry.name[0] != "." and entry.is_file())
    elif is_pattern(name):
        found = sorted(glob.glob(name, recursive=True))
    else:
        return [name]
    if not found:
        raise FileError(name, "names no file; give a folder or a pattern with some in it")
    return found


def _batch_of_zarr(name: str, layer: LayerOptions) -> Any:
    if not is_zarr(name):
        raise FileError(name, "is no zarr array, and another input is; give inputs of one kind")
    array = of_zarr(name)
    warn_of_layout(name, array.shape, layer.axes)
    try:
        return to_batch(array, layer.axes, layer.layout)
    except ShapeError as error:
        raise ShapeError(name, f"{error.problem}; see --dims and --layout") from None


def _part(source: Any, batch: Batch) -> Any:
    if isinstance(source, NpyInput):
        return to_batch(of_array(source), batch.dims, batch.layout)
    return to_batch(of_pictures([source.name], None, "keep"), batch.dims)


def _joined(parts: list[Any], names: Sequence[str]) -> Any:
    """Batches one after another along N."""
    import dask.array as da

    for part, name in zip(parts, names, strict=True):
        if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
            raise ShapeError(
                name, f"has images of {part.shape[1:]} {part.dtype}, the first {parts[0].shape[1:]}"
            )
    return parts[0] if len(parts) == 1 else da.concatenate(parts)


# Results


def chunkwise_fields(array: Any, scheduler: str | None, threads: int | None, go_on: bool) -> dict[str, Any]:
    """The fields of a `Work` whose result is this Dask array."""
    place = partial(on, scheduler, threads)
    return {"blocks": rows_of(array), "array": array, "go_on": go_on, "place": place}


def rows_of(array: Any) -> Iterator[NDArray[Any]]:
    """The rows of a result, (rows, C), in order, some chunks along its first axis at a time."""
    each = max(array.dtype.itemsize * int(np.prod(array.shape[1:])), 1)
    starts = [0]
    for size in array.chunks[0]:
        starts.append(starts[-1] + size)
    begin = 0
    for end in starts[1:]:
        following = next((s for s in starts if s > end), None)
        if following is None or (following - begin) * each > _ROWS_BYTES:
            yield np.asarray(array[begin:end].compute()).reshape(-1, array.shape[-1])
            begin = end


def write_zarr(array: Any, output: str, go_on: bool) -> list[Fact]:
    """Write a result as zarr, chunk by chunk; what is to be told of it."""
    work = storing(array, output, go_on)
    there = work.total - len(work.keys)
    for _ in progress(done(work.graph, work.keys), len(work.keys), unit="chunk", size=lambda _: 1):
        pass
    work.finish()
    text = f"{work.total} of {sizes(work.chunks)}" + (f", {there} of them there already" if there else "")
    return [Fact("written_chunks", "written in chunks", [work.total, there], text)]


# Verdicts


def judge_chunked(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    """The verdict on a convolution, chunk by chunk."""
    from convmat.cli.judged import as_images, judged
    from convmat.cli.layer import geometry_of, open_layer

    whole = ("explain", "figure", *(["diagnose"] if asks.diagnose else []))
    refuse(whole, "needs the arrays whole; leave out --scheduler, and give a part of them")
    layer, expected = asks.layer, asks.expected
    quantization = quantization_of(asks.quantize, asks.requantize)
    batch = open_chunked(inputs, layer)
    _, arguments = open_layer(inputs, layer, expected=expected, batch=batch)
    raw = result = None
    if expected is not None:
        raw = of_zarr(expected) if is_zarr(expected) else of_array(NpyInput(expected))
        result = as_images(raw, batch.dims, layer.layout)
    rules = asks.rules | {"quantization": quantization}
    with on(asks.scheduler):
        watch = watching("chunk")
        verdict = chunkwise.verify(batch.array, expected=result, **arguments, **rules, watch=watch)
    if quantization is not None:
        dtype = None if raw is None else raw.dtype
        quantization = quantization.of_layer(batch.empty(), arguments["filters"], None, dtype)
    return judged(
        verdict,
        [*batch.facts(), *geometry_facts(geometry_of(batch.shape, arguments), layer.padding_mode)],
        given=None if raw is None else raw.shape,
        layout=layer.layout,
        quantization=quantization,
    )
