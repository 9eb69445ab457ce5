"""What is said of a file's bytes where they do not tell it themselves: dtype and shape of an array."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from convmat.checks import read_whole
from convmat.errors import FileError
from convmat.files.members import ZIP_MAGIC
from convmat.files.outputs import reading

RAW_ENDING = ".bin"
EXAMPLE = "float32:1x56x56x64"

_SHAPE = re.compile(r"\d+([x,]\d+)*")
_DTYPE = re.compile(r"[<>=|]?[A-Za-z]\w*")


class Said(NamedTuple):
    """What was said of an array."""

    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    is_own: bool = False
    """Whether it was said of this file, rather than of all that do not tell it themselves."""

    def is_raw(self, name: str, tells_itself: bool) -> bool:
        """Whether the bytes of a file are to be numbers alone; .npy bytes never are."""
        return self.shape is not None and (self.is_own or not tells_itself or is_raw_name(name))


class Described(str):
    """A file's name, with what was said of its bytes."""

    said: Said

    def __new__(cls, name: str, said: Said) -> Described:
        described = super().__new__(cls, name)
        described.said = said
        return described


def said_of(name: str) -> Said:
    """What was said of a file's bytes; of most nothing."""
    return name.said if isinstance(name, Described) else Said()


def is_raw_name(name: str) -> bool:
    """Whether a name is usual for numbers alone."""
    return name.lower().endswith(RAW_ENDING)


def described(text: str, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> str:
    """The file that a text names, FILE or FILE:DTYPE:SHAPE, either of the two, with what is said of it.

    Where the text does not say it, it is `dtype` and `shape`. Any other text stays as it is, file.npz:name
    among them.

    Raises:
        FileError: what follows the name of a file is neither dtype nor shape.
    """
    base = _named(text)
    if base is None:
        return Described(text, Said(dtype, shape)) if dtype or shape is not None else text
    rest = text[len(base) + 1 :]
    said = re.fullmatch(rf"(?P<dtype>{_DTYPE.pattern})?:?(?P<shape>{_SHAPE.pattern})?", rest)
    if said is None or rest[:1] in ("", ":") or rest[-1:] == ":":
        raise FileError(base, f"{rest[:40]!r} is no dtype and shape; write FILE:{EXAMPLE}")
    own = tuple(map(read_whole, re.split("[x,]", said["shape"]))) if said["shape"] else None
    return Described(base, Said(said["dtype"] or dtype, own or shape, own is not None))


def with_default(name: str, dtype: str, shape: tuple[int, ...]) -> Described:
    """A file's name, with what is said of its bytes, and with these where nothing is."""
    said = said_of(name)
    return Described(
        name, said._replace(dtype=said.dtype or dtype, shape=shape if said.shape is None else said.shape)
    )


def _named(text: str) -> str | None:
    """The file of which a text says more than the name; None where there is none, or it is an archive."""
    if os.path.exists(text):
        return None
    ends = (end for end in range(len(text) - 1, 0, -1) if text[end] == ":")
    base = next((text[:end] for end in ends if os.path.exists(text[:end])), None)
    if base is None or base.endswith((".npz", ".safetensors")) or os.path.isdir(base):
        return None
    return None if not is_raw_name(base) and _is_archive(base) else base


def _is_archive(name: str) -> bool:
    if not os.path.isfile(name):  # of a pipe nothing may be read yet
        return False
    from convmat.files.foreign import KNOWN_BYTES
    from convmat.files.tensors import is_safetensors  # NumPy, only where there is such a name

    with reading(name), open(name, "rb") as stream:
        start = stream.read(KNOWN_BYTES)
    return start.startswith(ZIP_MAGIC) or is_safetensors(start)
