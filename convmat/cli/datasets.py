"""--data: images of one size from wherever they may be, as one batch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.inputs import open_batch
from convmat.errors import FileError, ShapeError
from convmat.files.archives import read_array
from convmat.files.idx import read_idx_images
from convmat.files.members import archive_names
from convmat.files.npy import NpyInput
from convmat.files.outputs import PICTURE_FORMATS, reading

# The names under which MNIST is offered; in a folder, either spelling, plain or .gz.
_IDX = tuple(
    f"{part}-images{dot}idx3-ubyte{packed}"
    for part in ("train", "t10k")
    for dot in "-."
    for packed in ("", ".gz")
)
_KERAS = ("x_train", "x_test")


def read_dataset(name: str) -> NDArray[Any]:
    """Images (N, H, W, C).

    `name` is a folder with MNIST's IDX files, a folder of images (in order of their names), an .npz with
    x_train and x_test as Keras' mnist.npz, or with one array, or an .npy array (N, H, W) or (N, H, W, C).
    Labels are not read.

    Raises:
        FileError: it cannot be read, or is none of these. ShapeError: images that are not of one size.
    """
    if os.path.isdir(name):
        return _read_folder(name)
    if name.endswith(".npz"):
        names = archive_names(name)
        keys = names if len(names) == 1 else [key for key in _KERAS if key in names]
        if not keys:
            raise FileError(name, f"has neither {' nor '.join(_KERAS)}; name one array, as in {name}:images")
        return _joined(name, [read_array(name, key) for key in keys])
    return _joined(name, [NpyInput(name).read()])


def _read_folder(folder: str) -> NDArray[Any]:
    with reading(folder):
        names = sorted(os.listdir(folder))
    idx = [os.path.join(folder, name) for name in _IDX if name in names]
    if idx:
        # Of a file that is there both plain and packed, one is enough.
        plain = {path.removesuffix(".gz"): path for path in reversed(idx)}
        return _joined(folder, [read_idx_images(path) for path in reversed(plain.values())])
    pictures = [name for name in names if os.path.splitext(name)[1].lower() in PICTURE_FORMATS]
    if not pictures:
        raise FileError(folder, f"has no images and no IDX files such as {_IDX[0]}; name a folder that has")
    return open_batch(tuple(os.path.join(folder, name) for name in pictures), 2, "nhwc").read()


def _joined(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    for part in parts:
        if part.ndim not in (3, 4) or 0 in part.shape or part.shape[1:] != parts[0].shape[1:]:
            shapes = " and ".join(str(p.shape) for p in parts)
            raise ShapeError(
                name, f"has shape {shapes}; expected images of one size, (N, H, W) or (N, H, W, C)"
            )
    images = np.concatenate(parts)
    return images if images.ndim == 4 else images[..., None]
