"""The integers of a quantized layer: zero points, scales, rounding, and the range that it cuts off at.

    acc = Σ (x − zero point of x) · (w − zero point of w) + bias
    y = clamp(round(acc · scale) + zero point of y)

The padding holds the input's zero point, so that it adds nothing. Kernels differ in the rounding, and with it
in the last bit: so it is named, one of `roundings.ROUNDINGS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.checks import finite, got, several
from convmat.errors import DTypeError, IntegerRangeError, SettingError
from convmat.roundings import FIXED, ROUNDINGS, Scales, canonical, truncated

Array = NDArray[Any]

DTYPES = ("int8", "uint8", "int16")
ACCUMULATORS = ("int32", "int32-wrapping", "int64")
STEPS = ("round", "zero-point", "clamp", "saturate")
"""What becomes of an accumulator, in order."""

_INT32 = np.iinfo(np.int32)
_OF_FILTERS = ("weight_zero_point", "scale", "multiplier", "shift")
_RANGES = {  # of whole numbers
    "input_zero_point": (_INT32.min, _INT32.max),
    "weight_zero_point": (_INT32.min, _INT32.max),
    "output_zero_point": (_INT32.min, _INT32.max),
    "multiplier": (1, _INT32.max),
    "shift": (-31, 30),
}


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a layer of integers becomes a layer of integers: all that is not its geometry.

    A field that may be one number for each filter is a number or a tuple; any sequence or array will do.

    Raises:
        SettingError: what makes no quantization.
    """

    input_zero_point: int = 0
    weight_zero_point: ArrayLike = 0
    """One, or one for each filter."""
    scale: ArrayLike | None = None
    """Of the input times that of the weights, by that of the output: above 0; one, or one for each filter."""
    multiplier: ArrayLike | None = None
    """In place of the scale, with `shift`: multiplier · 2^(shift − 31); one, or one for each filter."""
    shift: ArrayLike | None = None
    """To the left where above 0, −31 to 30; one, or one for each filter."""
    output_zero_point: int = 0
    activation: tuple[int, int] | None = None
    """The least and the greatest result; None is all of the dtype."""
    rounding: str = "half-even"
    """One of `ROUNDINGS`."""
    accumulator: str = "int32"
    """"int32": sums beyond it are refused; "int32-wrapping": they wrap around; "int64"."""
    dtype: str | None = None
    """One of `DTYPES`; None is that of the result that is judged, or int8."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("rounding", tuple(ROUNDINGS)),
            ("accumulator", ACCUMULATORS),
            ("dtype", DTYPES),
        ):
            value = getattr(self, name)
            if value is None and name == "dtype":
                continue
            if not isinstance(value, str) or value not in choices:
                raise _error(name, f"got {got(value)}; expected one of {', '.join(choices)}")
        for name in ("scale", *_RANGES):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        for name, (low, high) in _RANGES.items():
            for value in _each(getattr(self, name)):
                if type(value) is not int or not low <= value <= high:
                    raise _error(name, f"got {got(value)}; give a whole number from {low} to {high}")
        self._check_scale()
        if self.activation is not None:
            ends = several(self.activation)
            if ends is None or len(ends) != 2 or not all(isinstance(e, (int, np.integer)) for e in ends):
                raise _error("activation", f"got {got(self.activation)}; give [min, max], two whole numbers")
            if ends[0] > ends[1]:
                raise _error("activation", f"got {got(ends)}; give the least first")
            object.__setattr__(self, "activation", (int(ends[0]), int(ends[1])))

    def _check_scale(self) -> None:
        pair = self.multiplier, self.shift
        if (self.scale is None) == (None in pair) or (self.scale is not None and pair != (None, None)):
            given = [name for name in ("scale", "multiplier", "shift") if getattr(self, name) is not None]
            raise _error("scale", f"got {' and '.join(given) or 'none'}; give scale, or multiplier and shift")
        for value in _each(self.scale):
            if type(value) not in (int, float) or not finite(value) or value <= 0:
                raise _error("scale", f"got {got(value)}; give finite numbers above 0")

    @classmethod
    def from_onnx(
        cls, node: Any, initializers: Mapping[str, Any] | Iterable[Any], nodes: Iterable[Any] = ()
    ) -> Quantization:
        """That of an ONNX node, with the rounding and the float32 scales of onnxruntime.

        Reading the tensors of a graph needs onnx, of the extra `networks`.

        Args:
            node: a QLinearConv or QLinearMatMul; or a Conv, whose input and weights come from
                DequantizeLinear, and whose output goes to QuantizeLinear, if need be by way of Relu.
            initializers: `graph.initializer`, or arrays or TensorProto by name.
            nodes: `graph.node`, in which the neighbours of a Conv are looked up.

        Raises:
            SettingError: another node, or scales and zero points that are no initializers.
        """
        from convmat.onnx_nodes import quantization_of

        return cls(**quantization_of(node, initializers, nodes), rounding="float32")

    @staticmethod
    def checked(value: Any) -> Quantization:
        """The value, if it is a quantization.

        Raises:
            SettingError: it is none.
        """
        if not isinstance(value, Quantization):
            raise SettingError("quantization", f"got {got(value)}; give a convmat.Quantization")
        return value

    def of_layer(
        self, x: Array, filters: Array, bias: Array | None = None, result: np.dtype[Any] | None = None
    ) -> Quantization:
        """Itself, for a layer of these arrays, with its dtype: as said, or that of `result`, or int8.

        Raises:
            DTypeError: arrays of no integers. SettingError: more or fewer numbers than filters, or a zero
                point or an activation that the dtype has not.
        """
        for array in (x, filters, bias):
            if array is not None and array.dtype.kind not in "biu":
                raise DTypeError(
                    "quantization",
                    f"takes integer inputs, kernels and bias, for exact sums; got {array.dtype}",
                )
        name = "" if result is None else result.newbyteorder("=").name
        made = replace(self, dtype=self.dtype or (name if name in DTYPES else DTYPES[0]))
        for field in ("input_zero_point", "output_zero_point"):
            if isinstance(value := getattr(self, field), tuple):
                raise _error(field, f"got {len(value)} numbers; give one, for all filters")
        for field in _OF_FILTERS:
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != len(filters):
                raise _error(
                    field, f"has {len(value)} numbers for {len(filters)} filters; give one, or one for each"
                )
        for field, of in (
            ("input_zero_point", x.dtype),
            ("weight_zero_point", filters.dtype),
            ("output_zero_point", np.dtype(made.dtype)),
            ("activation", np.dtype(made.dtype)),
        ):
            low, high = (0, 1) if of.kind == "b" else (int(np.iinfo(of).min), int(np.iinfo(of).max))
            for value in _each(getattr(self, field)):
                if not low <= value <= high:
                    raise _error(field, f"got {got(value)}, which is no {of}; give one of {low}..{high}")
        return made

    def pixels(self, x: Array) -> Array:
        """x less its zero point; where that is 0, itself."""
        return _less(x, self.input_zero_point)

    def pixel_bytes(self, nbytes: int, dtype: np.dtype[Any]) -> int:
        """Memory that `pixels` takes for an x of so many bytes."""
        return nbytes // dtype.itemsize * _wider(dtype).itemsize if self.input_zero_point else 0

    def weights(self, filters: Array, k: Array | None = None) -> Array:
        """Filters, (K, …), less their zero points; where all are 0, themselves.

        With `k` they are those of the filters `k`.
        """
        zero = np.asarray(self.weight_zero_point)
        if not zero.any():
            return filters
        zero = zero if zero.ndim == 0 or k is None else zero[k]
        return _less(filters, zero.reshape(zero.shape + (1,) * (filters.ndim - 1) * zero.ndim))

    @cached_property
    def scales(self) -> Scales:
        """The scales, as every rounding takes them."""
        if self.scale is None:
            return Scales.of_fixed(self.multiplier, self.shift)
        return Scales.of_reals(self.scale)

    def apply(self, sums: Array, k: Array | None = None, steps: Sequence[str] = STEPS) -> Array:
        """The result of accumulators (…, K), or of those of the filters `k`: of their shape, of the dtype.

        Args:
            sums: integers.
            steps: other than `STEPS` for a mistaken kernel; "truncate" is for "round", and without "saturate"
                the result wraps around.

        Raises:
            DTypeError: no integers. IntegerRangeError: accumulators beyond int32, where that is checked, or
                beyond what the rounding takes.
        """
        # What is beyond the dtype wraps around.
        return self.after(sums, steps, k).astype(self.dtype or DTYPES[0])

    def after(self, sums: Array, steps: Sequence[str], k: Array | None = None) -> Array:
        """What accumulators are after some of the steps, as `apply` takes them, int64; errors likewise."""
        values = self.accumulated(sums)
        scales = self.scales if k is None else self.scales.of_filters(k)
        info = np.iinfo(self.dtype or DTYPES[0])
        for step in steps:
            if step == "round":
                values = ROUNDINGS[self.canonical_rounding](values, scales)
            elif step == "truncate":
                values = truncated(values, scales)
            elif step == "zero-point":
                zero = np.asarray(self.output_zero_point)
                values = values + (zero if zero.ndim == 0 or k is None else zero[k])
            elif step == "saturate":
                values = np.clip(values, int(info.min), int(info.max))
            elif step == "clamp" and self.activation is not None:
                values = np.clip(values, *self.activation)
        return np.asarray(values)

    def accumulated(self, sums: Array) -> Array:
        """Sums as the accumulators hold them, int64; errors as of `apply`."""
        if sums.dtype.kind not in "biu":
            raise DTypeError("quantization", f"has accumulators of {sums.dtype}; they are integers")
        if self.accumulator == "int32-wrapping":
            return sums.astype(np.int32).astype(np.int64)
        for extreme in (sums.min(initial=0), sums.max(initial=0)):
            if self.accumulator == "int32" and not _INT32.min <= extreme <= _INT32.max:
                raise IntegerRangeError(
                    "quantization",
                    f"an accumulator is {extreme}, beyond int32, {_INT32.min}..{_INT32.max}; "
                    "give smaller inputs or weights, or an accumulator of int64 or int32-wrapping",
                )
        return sums.astype(np.int64)

    @property
    def canonical_rounding(self) -> str:
        """The rounding, under the first of its names."""
        return canonical(self.rounding, self.accumulator == "int64")

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the greatest result: those of the activation, or of the dtype."""
        info = np.iinfo(self.dtype or DTYPES[0])
        return self.activation or (int(info.min), int(info.max))

    def of_each(self, filters: int) -> dict[str, Array]:
        """What each of so many filters is quantized with, by field, (K,): zero points, and its scale.

        The scale is as the rounding takes it: float32 or float64, or multiplier and shift, int32.
        """
        given: dict[str, Array] = {"weight_zero_point": np.asarray(self.weight_zero_point, np.int32)}
        if self.canonical_rounding == "float32":
            given["scale"] = np.minimum(self.scales.real, np.finfo(np.float32).max).astype(np.float32)
        elif self.multiplier is not None or self.canonical_rounding in FIXED:
            given |= {name: getattr(self.scales, name).astype(np.int32) for name in ("multiplier", "shift")}
        else:
            given["scale"] = self.scales.real
        return {name: np.broadcast_to(values, (filters,)) for name, values in given.items()}

    def as_dict(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def __str__(self) -> str:
        """What is other than it would be if nothing were said of it, in one line."""
        zeros = [
            f"{name} zero point {_span(value)}"
            for name, value in (
                ("input", self.input_zero_point),
                ("weight", self.weight_zero_point),
                ("output", self.output_zero_point),
            )
            if value != 0
        ]
        names = ("scale",) if self.multiplier is None else ("multiplier", "shift")
        scales = [f"{name} {_span(getattr(self, name))}" for name in names]
        sums = [] if self.accumulator == "int32" else [f"{self.accumulator} sums"]
        ends = [] if self.activation is None else ["cut off at {}..{}".format(*self.activation)]
        return ", ".join([*scales, *zeros, self.rounding, *sums, self.dtype or DTYPES[0], *ends])


def _error(field: str, problem: str) -> SettingError:
    return SettingError("quantization", f"{field}: {problem}")


def _each(value: Any) -> tuple[Any, ...]:
    """The numbers of a field, of which there may be none."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _plain(name: str, value: Any) -> Any:
    """A number, or one for each filter, as Python's."""
    if isinstance(value, (np.generic, np.ndarray)):
        if value.ndim > 1:
            raise _error(name, f"has shape {value.shape}; give one number, or a list of one a filter")
        value = value.tolist()
    parts = several(value)
    if parts is None:
        return value
    return tuple(part.item() if isinstance(part, np.generic) else part for part in parts)


def _less(a: Array, zero: Any) -> Array:
    """a − zero, in a dtype that holds it.

    Raises:
        IntegerRangeError: a difference beyond int64.
    """
    zero = np.asarray(zero)
    if not zero.any():
        return a
    if a.dtype.itemsize > 2:
        low, high = int(a.min(initial=0)) - int(zero.max()), int(a.max(initial=0)) - int(zero.min())
        if low < -1 << 63 or high >= 1 << 63:
            raise IntegerRangeError("quantization", f"{a.dtype} less its zero point leaves int64")
    return np.asarray(np.subtract(a, zero, dtype=_wider(a.dtype), casting="unsafe"))


def _wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """For integers of a dtype less their zero point."""
    return np.dtype(np.int64 if dtype.itemsize > 2 else np.int32)


def _span(value: Any) -> str:
    """A number, or from where to where those of the filters go."""
    if not isinstance(value, tuple):
        return str(value)
    return f"per filter {min(value):.6g}..{max(value):.6g}" if value else "of no filter"
