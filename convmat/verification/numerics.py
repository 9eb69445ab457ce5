"""Arithmetics by name: what kernels make of operands, products, sums and results, and what their bounds are.

Operands are rounded to a format, and the definition is computed of the rounded ones, so that the bound of
the sums is as tight as ever. A bias is as given, or rounded as operands are. Sources: Higham, "Accuracy and
Stability of Numerical Algorithms", 2nd ed., Section 3.1, for sums of any unit roundoff; IEEE 754-2019 for
float16; for TF32 NVIDIA's PTX ISA, where `cvt.rna` rounds ties away from zero, and `mma` leaves out the
last 13 bits of a float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.errors import DTypeError, SettingError
from convmat.formats import FORMATS, Format
from convmat.verification.numbers import magnitude, subnormal
from convmat.verification.tiles import Fft, Tiles, Winograd

Array = NDArray[Any]

_FLOAT32 = FORMATS["float32"]


@dataclass(frozen=True)
class Numerics:
    """An arithmetic; where it says nothing the dtypes decide."""

    name: str = ""
    operands: Format | None = None
    """To which x and w are rounded, to the nearest; a tie may go to either side, and a subnormal to zero."""
    cut: bool = False
    """Operands are not rounded, but lose the bits that they have too many."""
    sums: Format | None = None
    result: Format | None = None
    """To which a result is rounded, whatever its dtype can hold."""
    flush: bool = False
    """A result that is subnormal in its dtype may be zero."""
    tiles: Tiles | None = None
    """A transform, in place of sums of products."""
    bias: bool = False
    """The definition's bias is rounded as operands are; either is accepted."""

    @classmethod
    def of(cls, name: Any) -> Numerics:
        """By one of `NAMES`.

        Raises:
            SettingError: none of them.
        """
        if not isinstance(name, str) or name.lower() not in _TABLE:
            raise SettingError("arithmetic", f"got {got(name)}; give one of {', '.join(NAMES)}")
        return _TABLE[name.lower()]

    def value(self, a: Array) -> Array:
        """What the definition is computed of in place of x or w: as it is, or rounded, float32."""
        if self.operands is None:
            return a
        # Through float32, as kernels take them; where float64 would round otherwise, float32 has a tie.
        single = np.asarray(a, np.float32)
        if self.operands.bits + 13 == _FLOAT32.bits and self.operands.tiny > _FLOAT32.tiny:
            return np.asarray(single.astype(np.float16), np.float32)
        dropped = _FLOAT32.bits - self.operands.bits
        bits = np.ascontiguousarray(single).view(np.uint32)
        if not self.cut:
            bits = bits + np.uint32((1 << dropped - 1) - 1) + (bits >> dropped & 1)
        kept = (bits >> dropped << dropped).view(np.float32)
        return np.where(np.isfinite(single), kept, single)

    def _other(self, a: Array, value: Array) -> Array:
        """On the other side of a tie what it may be rounded to, too; elsewhere the value."""
        if self.operands is None or self.cut:
            return value
        with np.errstate(all="ignore"):
            other = 2 * np.asarray(a, np.float32) - value
            return np.where(self.value(other) == other, other, value)

    def bias_value(self, b: Array) -> Array:
        """What the definition has as bias."""
        return self.value(b) if self.bias else b

    def size(self, a: Array) -> Array:
        """The largest magnitudes that x or w may have in the kernel."""
        if self.operands is None:
            return magnitude(a)
        value = self.value(a)
        return np.maximum(np.abs(value), np.abs(self._other(a, value)))

    def doubt(self, a: Array, tiny: float) -> Array:
        """How far x or w may be from `value`: kernels may flush what is subnormal, less than `tiny`."""
        if self.operands is None:
            return subnormal(a, tiny)
        value = self.value(a)
        flushed = np.where(np.abs(value) < self.operands.tiny, np.abs(value), np.float32(0))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.fmax(np.abs(self._other(a, value) - value), flushed))

    def bias_size(self, b: Array) -> NDArray[np.float64]:
        """The largest magnitudes of the bias, which is as given, or rounded as operands are."""
        return magnitude(b) if self.operands is None else np.maximum(self.size(b), magnitude(b))

    def bias_doubt(self, b: Array, tiny: float) -> NDArray[np.float64]:
        """How far the bias may be from the given one."""
        lost = subnormal(b, tiny)
        return lost if self.operands is None else np.fmax(lost, magnitude(b - self.value(b)))

    def check(self, *dtypes: np.dtype[Any]) -> None:
        """Of the inputs, and of the result if there is one.

        Raises:
            DTypeError: complex numbers, or integers that give integers, which have no arithmetic but one.
        """
        for dtype in dtypes:
            if dtype.kind == "c":
                raise DTypeError("arithmetic", f"{self.name} is of real numbers; got {dtype}")
        if all(dtype.kind in "biu" for dtype in dtypes):
            raise DTypeError(
                "arithmetic",
                f"{self.name} is of floats; integers are exact, and need no arithmetic",
            )

    @property
    def wide(self) -> bool:
        """Whether its bound allows much more than right sums of products need."""
        return self.tiles is not None or (self.sums is not None and self.sums.bits < _FLOAT32.bits)

    def __str__(self) -> str:
        """What is done, and what is accepted that the plain bound is not for."""
        if self.tiles is not None:
            return str(self.tiles)
        if self.flush:
            return (
                "results that are subnormal may be 0, too; as operands and sums they may be in any arithmetic"
            )
        return f"{self.words}; accepts {self._accepts()}"

    @property
    def words(self) -> str:
        """What is done, to go on from "equal as"."""
        if self.tiles is not None:
            return self.tiles.words
        if self.flush:
            return "float arithmetic that flushes subnormals to zero"
        base, *how = self.name.replace("tf32", "TF32").split("-")
        sums = base if "accumulate" in how else "float32"
        operands = "" if self.operands is None else f"{base} operands{', cut off,' if self.cut else ''} with "
        return f"{operands}{sums} sums" + ("" if self.result is None else f", the result rounded to {base}")

    def _accepts(self) -> str:
        errors = []
        if self.operands is not None:
            errors.append(f"2^{self.cut - self.operands.bits} of each operand")
        if self.sums is not None and self.sums.bits < _FLOAT32.bits:
            errors.append(f"γ_n of the sums, with u = 2^{-self.sums.bits}")
        if self.result is not None:
            errors.append(f"2^{-self.result.bits} of the result")
        return f"errors of up to {', and of '.join(errors)}"


PLAIN = Numerics()
"""The dtypes decide."""


def _table() -> dict[str, Numerics]:
    formats = {name: FORMATS[name] for name in ("tf32", "float16", "bfloat16")}
    named = [Numerics(name, f, sums=_FLOAT32) for name, f in formats.items()]
    named += [Numerics(f"{n}-truncated", formats[n], True, _FLOAT32) for n in ("tf32", "bfloat16")]
    named += [Numerics(f"{n}-accumulate", formats[n], sums=formats[n]) for n in ("float16", "bfloat16")]
    rounded = [replace(one, name=f"{one.name}-rounded", result=one.operands) for one in named if not one.cut]
    results = [Numerics(f"{n}-result", result=formats[n]) for n in ("float16", "bfloat16")]
    named += [*rounded, *results, Numerics("flush", flush=True)]
    named += [Numerics(f"winograd:{m}", tiles=Winograd(m)) for m in (2, 4, 6)]
    return {one.name: one for one in [*named, Numerics("fft", tiles=Fft())]}


_TABLE = _table()
NAMES = tuple(_TABLE)
"""Of arithmetics."""


def named(name: Any) -> Numerics:
    """That of a name; of None the plain one."""
    return PLAIN if name is None else Numerics.of(name)
