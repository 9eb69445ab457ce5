"""Each check of an array, once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.checks import got
from convmat.errors import DTypeError, ShapeError
from convmat.formats import as_array


def numbers(name: str, values: Any) -> NDArray[Any]:
    """`values` as an array of booleans, integers, floats or complex numbers; see `formats.as_array`.

    Raises:
        DTypeError: any other dtype. ShapeError: what is no array, such as lists of several lengths, or is
            none in this machine's memory.
    """
    if type(values) is np.ndarray and values.dtype.isbuiltin == 1 and values.dtype.kind in "biufc":
        return values  # to learn it of anything else takes as long as a small layer
    return np.asarray(known_numbers(name, values))


def known_numbers(name: str, values: Any) -> NDArray[Any]:
    """The same, of which `formats.format_of` knows the format also where NumPy has no dtype for it."""
    if hasattr(values, "__dask_graph__"):
        raise ShapeError(
            name,
            "is a Dask array, which would be gathered whole; convmat.dask has the same functions, chunk by "
            "chunk, or else compute it first: x.compute()",
        )
    try:
        array = as_array(values)
    except Exception as error:  # what nests in any way, or only claims to be an array, may raise anything
        if isinstance(error, DTypeError):
            raise DTypeError(name, error.problem) from None
        raise ShapeError(name, _no_array(values, " ".join(str(error).split())[:80])) from None
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            name, f"has dtype {array.dtype}; expected booleans, integers, floats or complex numbers"
        )
    return array


_IN_MEMORY = (1, 3, 11)  # of DLPack's devices, the CPU, and memory that CUDA and ROCm share with it


def _no_array(values: Any, problem: str) -> str:
    """Why values are no array, and what makes one of them."""
    if not hasattr(values, "__dlpack_device__"):
        return f"is no array: {problem}; give one"
    try:
        device, _ = values.__dlpack_device__()
    except Exception:  # of a device that shares nothing
        device = 0
    if device not in _IN_MEMORY:
        return f"is on {getattr(values, 'device', 'a device')}; copy it to the CPU: y.cpu()"
    return f"is not read: {problem}; convert it before, as y.float() does"


def bias_numbers(bias: ArrayLike, count: int, what: str) -> NDArray[Any]:
    """A bias as an array, or ShapeError unless it is one number for each of `count` filters or channels."""
    array = numbers("bias", bias)
    if array.shape != (count,):
        raise ShapeError("bias", f"has shape {array.shape}, {count} {what} take ({count},), one number each")
    return array


def out_array(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], what: str, *inputs: NDArray[Any] | None
) -> None:
    """Raise ShapeError or DTypeError unless `out` can take a result, and overlaps none of the inputs."""
    if not isinstance(out, np.ndarray):
        raise ShapeError("out", f"expected an array of shape {shape}, got {got(out)}")
    if out.shape != shape:
        raise ShapeError("out", f"has shape {out.shape}, {what} has {shape}")
    if out.dtype != dtype:
        raise DTypeError("out", f"has dtype {out.dtype}, {what} has {dtype}")
    if any(a is not None and np.may_share_memory(out, a) for a in inputs):
        raise ShapeError("out", "overlaps the input in memory; give an array of its own")
