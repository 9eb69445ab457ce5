"""INPUT arguments, images and arrays, as one batch; headers before data."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.cli.command import is_default, refuse
from convmat.cli.output import warn
from convmat.doubts import likelier_layout
from convmat.errors import GeometryError, ShapeError
from convmat.files.names import is_pattern, is_zarr_name
from convmat.files.npy import NpyInput, is_array
from convmat.files.streams import Pipe, is_pipe
from convmat.layouts import to_batch, to_batch_shape
from convmat.patches import allocate
from convmat.report.facts import input_fact, turned_fact
from convmat.shown import Fact

if TYPE_CHECKING:
    from convmat.files.images import ImageInput


_CHUNK_BYTES = 1 << 23  # of images read at a time


@dataclass(frozen=True)
class Batch:
    """INPUT arguments whose headers have been read: one batch, (N, *spatial, C)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sources: list[NpyInput | ImageInput]
    dims: int
    layout: str

    @property
    def nbytes(self) -> int:
        """Memory that `read` takes."""
        if len(self.sources) == 1:
            return self.sources[0].nbytes
        each = max((source.nbytes for source in self.sources), default=0)
        return math.prod(self.shape) * self.dtype.itemsize + each

    @property
    def chunk_bytes(self) -> int:
        """Memory that a chunk takes, at most."""
        return max(map(self._chunk_bytes_of, self.sources), default=0)

    def _chunk_bytes_of(self, source: NpyInput | ImageInput) -> int:
        if isinstance(source, NpyInput) and len(source.shape) == self.dims + 2 and not source.is_fortran:
            return min(max(source.nbytes // max(source.shape[0], 1), _CHUNK_BYTES), source.nbytes)
        return source.nbytes

    def read(self) -> NDArray[Any]:
        """The data, whole."""
        if len(self.sources) == 1:
            return self._whole(self.sources[0])
        return joined(self.chunks(), self.shape, self.dtype)

    def channels_as(self, layout: str) -> int | None:
        """C if the array were in another layout; None for images, whose layout is their own."""
        source = self.sources[0] if self.sources else None
        if not isinstance(source, NpyInput) or len(source.shape) == self.dims:
            return None
        return source.shape[-1] if layout == "nhwc" else source.shape[-self.dims - 1]

    @property
    def alpha(self) -> bool:
        """Whether the last channel is an image's transparency."""
        return any(not isinstance(source, NpyInput) and source.has_alpha for source in self.sources)

    def facts(self) -> list[Fact]:
        """What was read, and which pictures were turned as their EXIF says; their keys are always there."""
        images = [source for source in self.sources if not isinstance(source, NpyInput)]
        turned = [(image.name, image.turned) for image in images if image.turned is not None]
        names = [source.name for source in self.sources]
        return [input_fact(names), turned_fact(turned, len(names))]

    def empty(self) -> NDArray[Any]:
        """A batch of none of these images: all that their headers say."""
        return np.empty((0, *self.shape[1:]), self.dtype)

    def chunks(self) -> Iterator[NDArray[Any]]:
        """The data a few images at a time, at least one, in order."""
        for source in self.sources:
            yield from self._chunks_of(source)

    def _chunks_of(self, source: NpyInput | ImageInput) -> Iterator[NDArray[Any]]:
        if isinstance(source, NpyInput) and len(source.shape) == self.dims + 2:
            for block in source.blocks(_CHUNK_BYTES):
                yield to_batch(block, self.dims, self.layout)
        else:
            yield self._whole(source)

    def element(self, index: tuple[int, ...] | None) -> Any:
        """The value at (n, *pixel, c), or None; a pipe is read to its end, of files only the one it is in."""
        value, stop = None, 0
        for source in self.sources:
            start, stop = (
                stop,
                stop + to_batch_shape(source.shape, self.dims, _layout(source, self.layout))[0],
            )
            if isinstance(source, NpyInput) and source.is_pipe:
                chunks = self._chunks_of(source)
            elif index is not None and start <= index[0] < stop:
                chunks = iter([self._whole(source)])
            else:
                continue
            for x in chunks:
                if index is not None and start <= index[0] < start + len(x):
                    value = x[index[0] - start, *index[1:]]
                start += len(x)
        return value

    def _whole(self, source: NpyInput | ImageInput) -> NDArray[Any]:
        return to_batch(source.read(), self.dims, _layout(source, self.layout))


def joined(blocks: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Blocks, one after another along their first axis, as one array."""
    array, start = allocate(shape, dtype), 0
    for block in blocks:
        array[start : start + len(block)] = block
        start += len(block)
    return array


def open_batch(
    names: tuple[str, ...], dims: int, layout: str, frame: int | None = None, alpha: str = "keep"
) -> Batch:
    """Read the headers of all inputs and join them along N; `frame` and `alpha` are for images.

    Raises:
        FileError: one that cannot be read. ShapeError: one that does not fit `dims` or the others.
    """
    check_one_pipe(*names)
    sources = [_open(name, frame, alpha) for name in names]
    shapes = []
    for source in sources:
        if not isinstance(source, NpyInput) and dims != 2:
            raise ShapeError(
                source.name, f"is an image and has 2 spatial axes, not {dims}; give 2 sizes, or an array"
            )
        try:
            shapes.append(to_batch_shape(source.shape, dims, _layout(source, layout)))
        except ShapeError as error:
            fit = f"--dims {len(source.shape)} would fit" if 0 < len(source.shape) < dims else ""
            raise ShapeError(source.name, f"{error.problem}; {fit or 'see --dims and --layout'}") from None
        if isinstance(source, NpyInput):
            warn_of_layout(source.name, source.shape, dims)
    kinds = [(shape[1:], source.dtype) for shape, source in zip(shapes, sources, strict=True)]
    usual = Counter(kinds).most_common(1)[0][0]
    for source, kind in zip(sources, kinds, strict=True):
        if kind != usual:
            transparent = {kind[0][-1], usual[0][-1]} in ({1, 2}, {3, 4}) and kind[0][:-1] == usual[0][:-1]
            raise ShapeError(
                source.name,
                f"is {_said(kind)}, the others are {_said(usual)}; a batch has images of one size and dtype"
                + (": --alpha drop leaves out transparency" if transparent else ""),
            )
    if all(isinstance(source, NpyInput) for source in sources):
        refuse_image_options()
    return Batch((sum(s[0] for s in shapes), *usual[0]), usual[1], sources, dims, layout)


def is_chunked(
    inputs: tuple[str, ...], scheduler: str | None, output: str | None = None, go_on: bool = False
) -> bool:
    """Whether Dask is to compute, as --scheduler, .zarr, a folder or a pattern says; --resume goes with
    -o FILE.zarr alone.
    """
    to_zarr = output is not None and is_zarr_name(output)
    if go_on and not to_zarr:
        raise click.UsageError("--resume goes with -o FILE.zarr")
    several = (os.path.isdir(name) or is_pattern(name) for name in inputs)
    return to_zarr or scheduler is not None or any(several)


def check_one_pipe(*names: str | None) -> None:
    """Refuse more than one input that is standard input."""
    if names.count("-") > 1:
        raise ShapeError("standard input", "is named twice; it can be read once")


def refuse_image_options() -> None:
    """Refuse what is asked of images, where none is read."""
    refuse(("frame", "alpha"), "is for images, and there is none")


def shape_batch(shape: tuple[int, ...], dims: int, layout: str) -> Batch:
    """The batch that an array of this shape would be; there is none, so nothing can be read of it.

    Raises:
        ShapeError: a shape that does not fit `dims`. GeometryError: sizes below 1.
    """
    refuse_image_options()
    if min(shape) < 1:
        raise GeometryError("input_shape", f"got {got(shape)}; sizes and channels must be at least 1")
    if math.prod(shape) * 8 > np.iinfo(np.intp).max:
        raise GeometryError("input_shape", f"{got(shape)} is more than any array can hold; give less")
    return Batch(input_batch_shape(shape, dims, layout), np.dtype(float), [], dims, layout)


def input_batch_shape(shape: tuple[int, ...], dims: int, layout: str) -> tuple[int, ...]:
    """What `--input-shape` says as (N, *spatial, C); where it leaves them out N and C are 1."""
    try:
        batch_shape = to_batch_shape(shape, dims, layout)
    except ShapeError as error:
        raise ShapeError("input_shape", f"{error.problem}; see --dims and --layout") from None
    warn_of_layout("--input-shape", shape, dims)
    return batch_shape


def warn_of_layout(subject: str, shape: tuple[int, ...], dims: int) -> None:
    """Warn of an array that is hardly meant as `--layout`, where that was not said, has it read."""
    likelier = likelier_layout(shape, dims) if is_default("layout") else None
    if likelier is None:
        return
    n, *size, c = to_batch_shape(shape, dims)
    other_n, *other_size, other_c = to_batch_shape(shape, dims, likelier)
    read_as, other = _images(n, size, c), _images(other_n, other_size, other_c)
    warn(
        f"{subject}: {got(shape)} is read as {read_as}; for {other} "
        f"give --layout {likelier}, or else --layout nhwc"
    )


def _images(count: int, size: list[int], channels: int) -> str:
    pixels = " × ".join(map(got, size)) if len(size) > 1 else f"{got(size[0])} pixels"
    return (
        f"{got(count)} image{'s' if count != 1 else ''} of {pixels} with {got(channels)} "
        f"channel{'s' if channels != 1 else ''}"
    )


def _open(name: str, frame: int | None, alpha: str) -> NpyInput | ImageInput:
    pipe = Pipe(name) if is_pipe(name) else None
    if is_array(name, pipe):
        return NpyInput(name, pipe)
    from convmat.files.images import ImageInput  # Pillow, only where there is an image

    return ImageInput(name, frame, alpha, pipe)


def _layout(source: NpyInput | ImageInput, layout: str) -> str:
    return layout if isinstance(source, NpyInput) else "nhwc"


def _said(kind: tuple[tuple[int, ...], np.dtype[Any]]) -> str:
    return f"{' × '.join(map(str, kind[0]))} {kind[1]}"
