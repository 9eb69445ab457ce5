"""Activations that are fused with a kernel, applied to the definition of its sums."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.checks import finite, got, several
from convmat.errors import SettingError

Array = NDArray[Any]


class Activation(NamedTuple):
    """What is fused with a kernel: values below `low` and above `high` are cut off.

    It brings two values no further apart than they are, so the bound of the sums holds for its results, too.
    """

    low: float
    high: float

    @classmethod
    def of(cls, given: Any) -> Activation | None:
        """From "none", "relu", "relu6", "clamp:LO,HI", or (LO, HI).

        Raises:
            SettingError: something else.
        """
        if given is None or (isinstance(given, str) and given == "none"):
            return None
        if isinstance(given, str) and given in _ACTIVATIONS:
            return _ACTIVATIONS[given]
        ends = several(given)
        if isinstance(given, str) and given.startswith("clamp:"):
            ends = tuple(map(_number, given.removeprefix("clamp:").split(",")))
        if ends is None or len(ends) != 2 or not all(_is_end(end) for end in ends):
            raise SettingError(
                "activation", f"got {got(given)}; give none, relu, relu6 or clamp:LO,HI, as in clamp:-1,1"
            )
        low, high = map(float, ends)
        if low > high:
            raise SettingError(
                "activation", f"clamps to {low:g}..{high:g}, where nothing is; give LO below HI"
            )
        return cls(low, high)

    def fitted(self, dtype: np.dtype[Any]) -> Activation:
        """With ends that the result's dtype holds.

        Raises:
            SettingError: integers are cut off at fractions.
        """
        if dtype.kind == "f":
            return Activation(*(float(dtype.type(end)) for end in self))
        if dtype.kind == "c":
            raise SettingError("activation", f"has no meaning for {dtype}: complex numbers have no order")
        if any(np.isfinite(end) and not float(end).is_integer() for end in self):
            raise SettingError("activation", f"cuts {dtype} off at {self}; give whole numbers")
        return self

    def apply(self, values: Array) -> Array:
        """The values that are left; NaN stays."""
        if values.dtype.kind in "biu":
            low, high = (int(end) if np.isfinite(end) else None for end in self)
            return values if low is high is None else np.asarray(np.clip(values, low, high))
        return np.clip(values, self.low, self.high)

    def settled(self, result: Array, wanted: Array) -> Array:
        """The definition, but where it is NaN either end, if the result has it: max(NaN, 0) may be 0."""
        if wanted.dtype.kind != "f":
            return wanted
        ends = [end for end in self if np.isfinite(end)]
        return np.where(np.isnan(wanted) & np.isin(result, ends), result, wanted)

    def __str__(self) -> str:
        names = {ends: name for name, ends in _ACTIVATIONS.items()}
        return names.get(self, f"clamp:{self.low:g},{self.high:g}")


_ACTIVATIONS = {"relu": Activation(0.0, np.inf), "relu6": Activation(0.0, 6.0)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _is_end(value: Any) -> bool:
    """Whether a range may end there: a finite number, or infinity."""
    return finite(value) or (isinstance(value, float) and math.isinf(value))
