"""--data: images of one size from wherever they may be, as one batch; headers before data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.inputs import Batch, joined, open_batch
from convmat.errors import FileError, ShapeError
from convmat.files.idx import IdxInput
from convmat.files.members import archive_names
from convmat.files.names import PICTURE_FORMATS
from convmat.files.npy import NpyInput
from convmat.files.outputs import reading

# The names under which MNIST is offered; in a folder, either spelling, plain or .gz.
_IDX = tuple(
    f"{part}-images{dot}idx3-ubyte{packed}"
    for part in ("train", "t10k")
    for dot in "-."
    for packed in ("", ".gz")
)
_KERAS = ("x_train", "x_test")
_MOST_PICTURES = 100_000  # whose headers are read in half a minute
_BLOCK_BYTES = 1 << 24


class Dataset:
    """Images (N, H, W, C) whose headers have been read and whose data has not.

    Args:
        name: of the whole.
        parts: arrays (N, H, W) or (N, H, W, C), to be joined along N.

    Raises:
        ShapeError: they are not of one size, or are no images.
    """

    def __init__(self, name: str, parts: Sequence[NpyInput | IdxInput | Batch]) -> None:
        self._parts = parts
        shapes = [part.shape for part in parts]
        if any(len(s) not in (3, 4) or 0 in s or s[1:] != shapes[0][1:] for s in shapes):
            said = " and ".join(map(str, shapes))
            raise ShapeError(
                name, f"has shape {said}; expected images of one size, (N, H, W) or (N, H, W, C)"
            )
        n = sum(shape[0] for shape in shapes)
        self.shape = (n, *shapes[0][1:]) if len(shapes[0]) == 4 else (n, *shapes[0][1:], 1)
        self.dtype = np.result_type(*(part.dtype for part in parts))

    @property
    def nbytes(self) -> int:
        """Memory that `read` takes."""
        mapped = len(self._parts) == 1 and isinstance(self._parts[0], NpyInput) and self._parts[0].is_mapped
        return 0 if mapped else math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """The images.

        Raises:
            FileError: a part cannot be read.
        """
        if len(self._parts) == 1 and isinstance(self._parts[0], NpyInput):
            return self._parts[0].read().reshape(self.shape)
        blocks = (block.reshape(-1, *self.shape[1:]) for part in self._parts for block in _blocks(part))
        return joined(blocks, self.shape, self.dtype)


def _blocks(part: NpyInput | IdxInput | Batch) -> Iterator[NDArray[Any]]:
    return part.chunks() if isinstance(part, Batch) else part.blocks(_BLOCK_BYTES)


def open_dataset(name: str) -> Dataset:
    """Read the headers of the images in `name`.

    It is a folder with MNIST's IDX files, a folder of images (in order of their names), an .npz with
    x_train and x_test as Keras' mnist.npz, or with one array, or an .npy array (N, H, W) or (N, H, W, C).
    Labels are not read.

    Raises:
        FileError: it cannot be read, or is none of these. ShapeError: images that are not of one size.
    """
    if os.path.isdir(name):
        return _open_folder(name)
    if name.endswith(".npz"):
        names = archive_names(name)
        keys = names if len(names) == 1 else [key for key in _KERAS if key in names]
        if not keys:
            raise FileError(name, f"has neither {' nor '.join(_KERAS)}; name one array, as in {name}:images")
        return Dataset(name, [NpyInput(f"{name}:{key}") for key in keys])
    return Dataset(name, [NpyInput(name)])


def _open_folder(folder: str) -> Dataset:
    idx = [path for name in _IDX if os.path.exists(path := os.path.join(folder, name))]
    if idx:
        # Of a file that is there both plain and packed, one is enough.
        plain = {path.removesuffix(".gz"): path for path in reversed(idx)}
        return Dataset(folder, [IdxInput(path) for path in reversed(plain.values())])
    pictures = _pictures(folder)
    if not pictures:
        raise FileError(folder, f"has no images and no IDX files such as {_IDX[0]}; name a folder that has")
    return Dataset(folder, [open_batch(pictures, 2, "nhwc")])


def _pictures(folder: str) -> tuple[str, ...]:
    """The paths of a folder's images, in order of their names."""
    found = []
    with reading(folder), os.scandir(folder) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in PICTURE_FORMATS:
                found.append(entry.name)
            if len(found) > _MOST_PICTURES:
                raise FileError(
                    folder, f"has more than {_MOST_PICTURES} images; save them as one .npy array (N, H, W, C)"
                )
    return tuple(os.path.join(folder, name) for name in sorted(found))
