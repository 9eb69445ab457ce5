"""Floating-point formats: how fine, how large, how they round; and arrays of those that NumPy lacks."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import DTypeError

Array = NDArray[Any]


class Format(NamedTuple):
    """A binary floating-point format, as IEEE 754 describes them."""

    name: str
    bits: int
    """Of the significand, the hidden one included."""
    largest: float
    tiny: float
    """The least normal number."""
    overflow: float = math.inf
    """What is rounded beyond the largest number becomes: infinity, or NaN where there is none."""

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> Format:
        """That of a dtype of floats, or of complex numbers' parts."""
        info = np.finfo(dtype)
        return cls(str(info.dtype), int(info.nmant) + 1, float(info.max), float(info.tiny))

    @property
    def least(self) -> float:
        """The least subnormal number."""
        return math.ldexp(self.tiny, 1 - self.bits)

    @property
    def u(self) -> float:
        """The unit roundoff: rounding moves a normal number by at most its u-fold."""
        return 2.0**-self.bits

    def round(self, values: Array) -> Array:
        """The nearest numbers of the format, ties to even, in float32 or float64 as `values` are."""
        rounded = self._rounded(values, np.rint)
        over = np.abs(rounded) > self.largest
        over &= np.isfinite(values)
        np.copyto(rounded, np.copysign(rounded.dtype.type(self.overflow), rounded), where=over)
        if math.isnan(self.overflow):
            rounded[np.isinf(rounded)] = math.nan
        return rounded

    def truncate(self, values: Array) -> Array:
        """The nearest numbers of the format on the side of zero, in float32 or float64 as `values` are."""
        cut = self._rounded(values, np.trunc)
        return np.where(np.isinf(values), cut, np.clip(cut, -self.largest, self.largest))

    def spacing(self, value: Any) -> Any:
        """How far numbers of the format lie apart where `value` is, which is rounded to it first.

        The dtype of `value` is as fine as the format, or finer.
        """
        own = np.finfo(value.dtype).nmant + 1
        near = value if own == self.bits else self.round(value)
        return np.maximum(np.ldexp(np.spacing(near), int(own) - self.bits), near.dtype.type(self.least))

    @np.errstate(over="ignore", invalid="ignore")
    def _rounded(self, values: Array, to_whole: Any) -> Array:
        """Multiples of the last place that the values have in the format, as `to_whole` chooses them."""
        values = np.asarray(values)
        _, exponent = np.frexp(values)  # values = m·2^exponent, 1/2 <= |m| < 1
        least_exponent = math.frexp(self.tiny)[1]
        place = np.maximum(exponent, least_exponent, dtype=np.int32) - np.int32(self.bits)
        quantum = np.ldexp(values.dtype.type(1), place)
        rounded = np.asarray(to_whole(values / quantum) * quantum)
        return np.where(np.isfinite(values), rounded, values)


def _format(name: str, bits: int, largest: float, exponent: int, overflow: float = math.inf) -> Format:
    """The format whose least normal number is 2^exponent."""
    return Format(name, bits, largest, 2.0**exponent, overflow)


FORMATS = {
    form.name: form
    for form in (
        _format("float64", 53, (2 - 2.0**-52) * 2.0**1023, -1022),
        _format("float32", 24, (2 - 2.0**-23) * 2.0**127, -126),
        _format("tf32", 11, (2 - 2.0**-10) * 2.0**127, -126),
        _format("bfloat16", 8, (2 - 2.0**-7) * 2.0**127, -126),
        _format("float16", 11, 65504.0, -14),
        # OCP OFP8 1.0, and the variants of ml_dtypes: "fn" without infinity, "uz" without negative zero.
        _format("float8_e5m2", 3, 57344.0, -14),
        _format("float8_e5m2fnuz", 3, 57344.0, -15, math.nan),
        _format("float8_e4m3", 4, 240.0, -6),
        _format("float8_e4m3fn", 4, 448.0, -6, math.nan),
        _format("float8_e4m3fnuz", 4, 240.0, -7, math.nan),
        _format("float8_e4m3b11fnuz", 4, 30.0, -10, math.nan),
        _format("float8_e3m4", 5, 15.5, -2),
    )
}
"""The formats by their names, which are those of NumPy and ml_dtypes, and NVIDIA's of TF32."""


# Arrays of numbers that NumPy has no dtype for

CODED = tuple(name for name in FORMATS if name.startswith(("bfloat16", "float8")))
"""The formats that lie in files and tensors, and that NumPy lacks."""

_OF_ML_DTYPES = (
    *("int1", "int2", "int4", "uint1", "uint2", "uint4"),
    *("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e8m0fnu"),
)


_PART = 1 << 18  # numbers that are widened at a time


class Narrow(np.ndarray[Any, np.dtype[Any]]):
    """float32 values that are all of a narrower format, as its views are."""

    format: Format | None = None

    def __array_finalize__(self, base: Any) -> None:
        self.format = getattr(base, "format", None)


def narrow(values: Array, form: Format | None) -> Array:
    """Values of a format as float32 that knows it; as they are, where there is none."""
    if form is None:
        return values
    known = np.asarray(values, np.float32).view(Narrow)
    known.format = form
    return known


def format_of(array: Array) -> Format | None:
    """The format of an array's numbers, of complex ones that of their parts; None for integers."""
    if isinstance(array, Narrow) and array.format is not None:
        return array.format
    return Format.of(array.dtype) if array.dtype.kind in "fc" else None


def dtype_name(array: Array) -> str:
    """The name of an array's dtype, or of the format that NumPy has none for."""
    form = array.format if isinstance(array, Narrow) else None
    return str(array.dtype) if form is None else form.name


class Stored(NamedTuple):
    """How numbers lie in bytes, and what they are read as."""

    name: str
    dtype: np.dtype[Any]
    """Of NumPy, or one that ml_dtypes added to it; unsigned integers where the numbers are codes."""
    form: Format | None = None
    """Of codes, or of numbers of ml_dtypes."""

    @property
    def is_foreign(self) -> bool:
        """Whether NumPy has no such numbers itself."""
        return self.name in (*CODED, *_OF_ML_DTYPES)

    @property
    def read_as(self) -> np.dtype[Any]:
        """The dtype that `widened` gives."""
        if not self.is_foreign:
            return self.dtype
        return np.dtype(np.int8 if self.form is None else np.float32)

    def widened(self, stored: Array) -> Array:
        """The numbers, exactly, in a dtype of NumPy's own; `stored` is of as many bytes an element."""
        if self.name == "bfloat16":  # the upper half of a float32
            return np.left_shift(stored.view(np.uint16), 16, dtype=np.uint32).view(np.float32)
        if self.name in CODED:
            wide, codes = np.empty(stored.shape, np.float32), stored.view(np.uint8).reshape(-1)
            for start in range(0, codes.size, _PART):  # each code becomes an index of 8 bytes
                wide.reshape(-1)[start : start + _PART] = _values(self.name)[codes[start : start + _PART]]
            return wide
        return stored.view(self.dtype).astype(self.read_as, copy=False)


@lru_cache
def _values(name: str) -> Array:
    """The 256 numbers of a format of 8 bits: a sign, an exponent of which 0 is subnormal, a fraction."""
    form, codes = FORMATS[name], np.arange(128)
    hidden = 1 << (form.bits - 1)
    exponent, fraction = codes // hidden, codes % hidden
    sizes = np.ldexp(
        form.least * np.where(exponent, hidden + fraction, fraction), np.maximum(exponent, 1) - 1
    )
    beyond = np.flatnonzero(sizes > form.largest)
    sizes[beyond[1:]] = math.nan
    sizes[beyond[:1]] = form.overflow
    values = np.concatenate([sizes, -sizes]).astype(np.float32)
    if name.endswith("uz"):
        values[128] = math.nan
    return values


def stored(name: str) -> Stored:
    """What a dtype's name stands for: one of NumPy's numbers, of `CODED`, or of ml_dtypes.

    Raises:
        DTypeError: no such dtype, one whose elements are no numbers, or one that needs ml_dtypes, which is
            not installed.
    """
    if name in CODED:
        return Stored(name, np.dtype(np.uint16 if name == "bfloat16" else np.uint8), FORMATS[name])
    if name in _OF_ML_DTYPES:
        return _of_ml_dtypes(name)
    try:
        dtype = np.dtype(name)
    except Exception:  # of what is no name NumPy may raise anything
        dtype = np.dtype(object)
    if dtype.kind not in "biufc" or dtype.isbuiltin == 2:
        said = " ".join(name.split())[:40]
        raise DTypeError(
            "dtype", f"{said!r} is no dtype of numbers; give one of NumPy's, or of {', '.join(CODED)}"
        )
    return Stored(name, dtype)


def _of_ml_dtypes(name: str) -> Stored:
    try:
        import ml_dtypes
    except ImportError:
        problem = f"{name} is read with ml_dtypes, which is not installed; pip install ml_dtypes"
        raise DTypeError("dtype", problem) from None
    library: Any = ml_dtypes
    dtype, form = np.dtype(getattr(library, name)), None
    if name.startswith("float"):
        info = library.finfo(dtype)
        form = Format(name, info.nmant + 1, float(info.max), float(info.tiny))
    return Stored(name, dtype, form)


def as_array(values: Any) -> Array:
    """An array of whatever holds numbers in this machine's memory: lists, arrays, tensors.

    What has `__array__` or `__dlpack__` is taken by it, a tensor of PyTorch without its gradient. Numbers
    that NumPy has no dtype for are widened, and known by their format.

    Raises:
        What the values' own methods do.
    """
    if not isinstance(values, np.ndarray):
        values = values.detach() if hasattr(values, "detach") else values
        name = str(getattr(values, "dtype", "")).rpartition(".")[2]  # torch.bfloat16
        if name in CODED and hasattr(values, "float"):
            return narrow(np.asarray(values.float()), FORMATS[name])
        by_dlpack = hasattr(values, "__dlpack__") and not hasattr(values, "__array__")
        values = np.from_dlpack(values) if by_dlpack else np.asarray(values)
    array: Array = values
    if array.dtype.isbuiltin == 2:  # added by ml_dtypes
        kind = stored(array.dtype.name)
        return narrow(kind.widened(array), kind.form)
    return array
