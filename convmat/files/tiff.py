"""What a TIFF's tags say of its pages and samples (TIFF 6.0), and what libtiff complains of.

Pillow reads all tags, page by page, to count them; and some samples it would read as other numbers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Literal

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from convmat.errors import FileError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin."""

_PAGES_COUNTED = 100_000
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 262, 274, 277, 339
_FORMATS = {1: "unsigned", 2: "signed", 3: "float"}
# Bits and sample formats that Pillow reads as what they are.
_READ_RIGHT = {(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (32, 2), (32, 3), (64, 3)}
_BY_TIFFFILE = (
    'which would be misread; save it as .npy, in Python: numpy.save("x.npy", tifffile.imread("x.tif"))'
)


def count_pages(stream: IO[bytes]) -> int:
    """Pages of a TIFF, by the offsets that lead from each image file directory to the next (TIFF 6.0, 2).

    An offset that leads back to a page is the end, and `_PAGES_COUNTED` is far enough.
    """
    header = stream.read(16)
    order: Literal["little", "big"] = "little" if header.startswith(b"II") else "big"
    # In BigTIFF all is wider: offsets, the number of tags, and each tag.
    offset, count, tag = (8, 8, 20) if b"+" in header[2:4] else (4, 2, 12)
    page, pages = int.from_bytes(header[8:16] if offset == 8 else header[4:8], order), set[int]()
    while page and page not in pages and len(pages) < _PAGES_COUNTED:
        pages.add(page)
        stream.seek(page)
        stream.seek(page + count + tag * int.from_bytes(stream.read(count), order))
        page = int.from_bytes(stream.read(offset), order)
    return len(pages)


def misread(tags: Any) -> str | None:
    """Why Pillow would misread an image with these tags, as the rest of a sentence; None if it would not."""
    if tags.get(_ORIENTATION) in range(5, 9):  # Pillow 13 mixes up the rows of these
        return "is a TIFF turned by a quarter, which may be misread; save it upright"
    bits, kind = _samples(tags)
    white = tags.get(_PHOTOMETRIC) == 0
    if (bits, kind) not in _READ_RIGHT or (bits > 8 and white):
        of_white = " of which 0 is white" if white else ""
        return f"has {bits}-bit {_FORMATS.get(kind, 'other')} samples{of_white}, {_BY_TIFFFILE}"
    return None


def unread(stream: IO[bytes]) -> str | None:
    """What a TIFF holds that Pillow does not know, as the rest of a sentence; None if there is more to it."""
    with suppress(Exception), warnings.catch_warnings():  # a damaged one may raise anything
        warnings.simplefilter("ignore")
        tags = ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        bits, kind = _samples(tags)
        colours = "gray" if tags.get(_SAMPLES_PER_PIXEL, 1) == 1 else "colour"
        if bits > 8:
            return f"has {bits}-bit {_FORMATS.get(kind, 'other')} samples in {colours}, {_BY_TIFFFILE}"
    return None


def _samples(tags: Any) -> tuple[int, int]:
    """Bits and SampleFormat."""
    return max(tags.get(_BITS, (1,))), max(tags.get(_SAMPLE_FORMAT, (1,)))


@contextmanager
def complaints(name: str) -> Iterator[None]:
    """Refuse what libtiff complains of: it writes to standard error itself, and may then carry on."""
    # A pipe needs no disk; more than it takes is not needed.
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    stderr = os.dup(2)
    try:
        os.dup2(sink, 2)
        os.close(sink)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
    finally:
        os.close(stderr)
        with open(source, "rb") as stream:
            said = stream.read(200).decode("utf-8", "replace").strip()
    if said:
        raise FileError(name, f"is a damaged image: {said.splitlines()[0]}")
