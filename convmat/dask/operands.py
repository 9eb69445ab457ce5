"""What is checked of Dask arrays, and of the arrays in memory that go with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike

from convmat import engine
from convmat.arrays import numbers
from convmat.checks import spatial_shape
from convmat.dask.windows import Array
from convmat.errors import DTypeError, ShapeError


@dataclass(frozen=True, eq=False)
class Operands:
    """What all tasks of a layer share."""

    filters: Array
    bias: Array | None

    @classmethod
    def of(cls, filters: ArrayLike, bias: ArrayLike | None) -> Operands:
        """Filters and bias as arrays in memory."""
        return cls(numbers("filters", filters), None if bias is None else numbers("bias", bias))

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.filters.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def convolved(self, x: da.Array, **layer: Any) -> np.dtype[Any]:
        """The dtype of a convolution of x, whose arguments are checked by planning that of no images."""
        none = np.empty((0, *x.shape[1:]), x.dtype)
        return engine.prepare(none, self.filters, bias=self.bias, **layer).result

    def transposed(self, y: da.Array) -> np.dtype[Any]:
        """The dtype of a transposed convolution of y."""
        dtypes = [array.dtype for array in (y, self.filters, self.bias) if array is not None]
        return engine.result_dtype(*dtypes)


def images(name: str, x: Any) -> da.Array:
    """A Dask array of numbers, (N, *spatial, C), of whose axes the last is one chunk."""
    x = checked(name, x)
    spatial_shape(f"{name}_shape", x.shape)
    return x.rechunk({x.ndim - 1: -1})


def checked(name: str, x: Any) -> da.Array:
    """A Dask array of numbers whose chunks are known, of what is one, or can be."""
    array = da.asarray(x if hasattr(x, "__dask_graph__") or hasattr(x, "chunks") else numbers(name, x))
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            name, f"has dtype {array.dtype}; expected booleans, integers, floats or complex numbers"
        )
    if any(math.isnan(size) for size in array.shape):
        raise ShapeError(name, "has chunks of unknown size; find them: x.compute_chunk_sizes()")
    return array
