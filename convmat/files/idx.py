"""IDX files, in which MNIST comes: bytes of images behind a short header, plain or compressed by gzip.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a code for the element type (8: uint8), the
number of axes, the size of each as four bytes, big-endian; then the elements in C order.
"""

from __future__ import annotations

import gzip
import math
import zlib

import numpy as np
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files.outputs import reading

_LIMIT = 1 << 31  # bytes that are unpacked at most; MNIST's largest file has 47 million


def read_idx_images(name: str) -> NDArray[np.uint8]:
    """The images (N, H, W) of an IDX file; one whose name ends in .gz is unpacked.

    Raises:
        FileError: it cannot be read, is damaged, or holds something else.
    """
    try:
        with reading(name), gzip.open(name) if name.endswith(".gz") else open(name, "rb") as stream:
            data = stream.read(_LIMIT)
    except FileError as error:
        if isinstance(error.__cause__, gzip.BadGzipFile):
            raise FileError(name, f"is a damaged .gz file: {error.__cause__}") from None
        raise
    except (EOFError, zlib.error) as error:
        raise FileError(name, f"is a damaged .gz file: {error}") from None
    if len(data) < 16 or data[:4] != b"\0\0\x08\x03":
        raise FileError(name, "is no IDX file of images; expected 00 00 08 03, three axes of bytes, first")
    shape = tuple(int.from_bytes(data[start : start + 4], "big") for start in (4, 8, 12))
    if len(data) - 16 != math.prod(shape):
        raise FileError(
            name,
            f"{'truncated' if len(data) - 16 < math.prod(shape) else 'too long'}: {shape} uint8 images are "
            f"{math.prod(shape)} bytes, got {len(data) - 16}; download it again",
        )
    return np.frombuffer(data, np.uint8, offset=16).reshape(shape)
