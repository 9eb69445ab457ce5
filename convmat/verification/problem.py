"""A wrong result, held against what a mistaken layer gives: on a few elements first, then on all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from convmat.arrays import known_numbers, numbers
from convmat.errors import ConvmatError
from convmat.formats import FORMATS, Narrow, format_of, narrow
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.quantization import Quantization
from convmat.verification.activation import Activation
from convmat.verification.comparison import compare
from convmat.verification.computed import Array, Computation
from convmat.verification.layer import judge_layer
from convmat.verification.numbers import subnormal
from convmat.verification.numerics import PLAIN, Numerics, named
from convmat.verification.verdict import FEW, Report

Place = tuple[Any, ...]

_FIRST, _SECOND, _THIRD = 4, 64, 448  # elements that a mistake must explain before all are looked at
_BLOCK = 1 << 20  # elements that are looked at together, where all are
_AMPLIFIED = 1 << 10  # what errors of a transform may come to, in those of sums
_ATTEMPT = 1 << 13  # products that take as long as making an attempt


class Problem:
    """One result, to be held against what layers give."""

    def __init__(
        self,
        judged: dict[str, Any],
        x: ArrayLike,
        filters: ArrayLike,
        expected: ArrayLike,
        stride: Sizes,
        padding: Padding,
        dilation: Sizes,
        groups: int,
        bias: ArrayLike | None,
        flip: bool,
        padding_mode: str,
    ) -> None:
        x, filters = numbers("input", x), numbers("filters", filters)
        bias = None if bias is None else numbers("bias", bias)
        given = ConvGeometry(x.shape, filters.shape[1:-1], stride, padding, dilation, groups)
        if flip:
            filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
        window = given.stride, given.padding, given.dilation
        numerics = named(judged.get("arithmetic"))
        if numerics.operands is not None:  # which makes of rounded operands themselves
            x, filters = numerics.value(x), numerics.value(filters)
        result = known_numbers("expected", expected)
        self.form = format_of(result)
        self.narrow = self.form if isinstance(result, Narrow) else None
        result = np.asarray(result)
        self.quantized: Quantization | None = judged.get("quantization")
        if self.quantized is not None:
            self.quantized = self.quantized.of_layer(x, filters, bias, result.dtype)
        self.right = Computation(x, filters, *window, groups, bias, padding_mode, quantized=self.quantized)
        if result.dtype.kind == "u" and result.max(initial=0) > np.iinfo(np.int64).max:
            result = result.astype(np.float64)  # no sum is as large
        self.result, self.flat, self.judged = result, result.ravel(), judged
        activation = Activation.of(judged.get("activation"))
        self.activation = activation and activation.fitted(result.dtype)
        self.allowed = min(FEW, result.size // 100)
        self.cost = 0
        self._set_precision([x, filters] if bias is None else [x, filters, bias], numerics)
        with np.errstate(all="ignore"):
            self.wrong = self._wrong()
        self.samples = self._samples() if self.wrong.any() else []

    def finished(self, values: Array) -> Array:
        """What the result has of values, after an activation."""
        return values if self.activation is None else self.activation.apply(values)

    def _set_precision(self, inputs: list[Array], numerics: Numerics = PLAIN) -> None:
        """What rounding errors can come to, in sums and in the result; eps is 0 where all is exact."""
        dtypes = [a.dtype for a in inputs]
        formats = [*map(format_of, inputs), self.form]
        integers = all(dtype.kind in "biu" for dtype in dtypes)
        self.dtype = np.dtype(np.int64) if integers else np.result_type(np.float64, *dtypes)
        floats = [form for form in formats if form is not None]
        self.eps = max((2 * form.u for form in floats), default=0.0)
        if not self.eps:
            return
        summed = [max(form, FORMATS["float32"], key=lambda form: form.bits) for form in floats]
        self.eps_of_sums = max(2 * form.u for form in summed)
        if numerics.sums is not None:
            self.eps_of_sums = max(self.eps_of_sums, 2 * numerics.sums.u)
        if numerics.operands is not None:  # a tie, or a bias, may be rounded otherwise
            self.eps_of_sums += 2 * numerics.operands.u
        if numerics.result is not None:
            self.eps = max(self.eps, 2 * numerics.result.u)
        self.eps_of_sums *= _AMPLIFIED if numerics.tiles is not None else 1
        self.largest = min(form.largest for form in floats) / 4
        self.largest_sum = min(form.largest for form in summed) / 4
        tiny = max(form.tiny for form in summed)
        operand = max(float(np.abs(a).max(initial=0, where=np.isfinite(a))) for a in inputs)
        flushed = max(float(subnormal(a, tiny).max(initial=0)) for a in inputs)
        self.underflow = tiny + flushed * operand
        self.least = max(form.least for form in floats)

    def _wrong(self) -> Array:
        """The elements that the right layer does not explain; all, where the shape is another."""
        right, shape = self.right, self.right.convolved_shape
        self.outcome: Array | None = None
        if not self.result.size or not right.x.size:
            return np.zeros(self.result.size, bool)
        if not _merges(shape, self.result.shape):
            return np.ones(self.result.size, bool)
        self.sums = right.convolved().ravel()
        self.magnitude = np.broadcast_to(0.0, self.sums.shape)
        if self.eps and self.quantized is None:
            self.magnitude = right.positive().convolved().ravel()
        self.outcome = self.finished(right.outcome(self.sums.reshape(shape)).ravel())
        wrong = self._surely_wrong(self.flat)
        if not wrong.any() and not (report := self.verify(right, self.flat, self.outcome)):
            at = report.outside_at or (report.worst,)
            wrong[np.ravel_multi_index(tuple(zip(*at, strict=True)), shape)] = True
        return wrong

    def _surely_wrong(self, result: Array) -> Array:
        """Which elements of a result are surely not the right layer's."""
        parts = [slice(start, start + _BLOCK) for start in range(0, result.size, _BLOCK)]
        return np.concatenate(
            [
                self.misses(self.right, result[p], self.sums[p], self.magnitude[p], self._filters(p))
                for p in parts
            ]
        )

    def _filters(self, part: slice) -> Array | None:
        """The filter of each element of a part of the right layer's sums, where they have scales."""
        if self.quantized is None:
            return None
        return np.arange(part.start, min(part.stop, self.sums.size)) % len(self.right.filters)

    def _samples(self) -> list[tuple[Array, int]]:
        """Elements that a mistake must explain to be looked at more closely, and how many it may leave.

        No mistake that `exceptions` would name is lost: of the second sample, wrong elements, and of the
        third it may leave as many as of all; of the first, up to 2 of 4 elements where 1 % may be left.
        """
        random = np.random.default_rng(0)
        size, wrong = self.flat.size, np.flatnonzero(self.wrong)
        anywhere = random.choice(size, min(size, _FIRST + _THIRD), replace=False)
        return [
            (anywhere[:_FIRST], min(self.allowed, _FIRST // 2)),
            (random.choice(wrong, min(len(wrong), _SECOND), replace=False), self.allowed),
            (np.union1d(anywhere[_FIRST:], [0, size - 1]), self.allowed),
        ]

    def exceptions(self, layer: Computation) -> tuple[Place, ...] | None:
        """The elements of the result that a mistaken layer leaves unexplained; None if they are too many."""
        try:
            with np.errstate(all="ignore"):
                unexplained = self._unexplained(layer) if self._may_explain(layer) else None
        except ConvmatError:
            return None
        if unexplained is None:
            return None
        count = int(np.count_nonzero(unexplained))
        if count > self.allowed or np.count_nonzero(self.wrong & ~unexplained) <= count:
            return None
        return tuple(tuple(at) for at in np.argwhere(unexplained.reshape(self.result.shape)).tolist())

    def _may_explain(self, layer: Computation) -> bool:
        """Whether a layer's result has the shape, and agrees in samples of its elements."""
        shape = layer.convolved_shape
        if min(shape) < 1 or not _merges(layer.shapes[-1], self.result.shape):
            return False
        for sample, allowed in self.samples:
            missed = self._missed(layer, sample)
            if np.count_nonzero(missed) > allowed or (missed.size and missed.all()):
                return False
        return True

    def _missed(self, layer: Computation, positions: Array) -> Array:
        """Which elements of the result are surely not the layer's."""
        self.cost += len(positions) * math.prod(layer.filters.shape[1:]) + _ATTEMPT
        got = self.flat[positions]
        at, inside = layer.origins(positions)
        missed = self.misses(layer, got, *layer.sums(at, self.dtype), at[-1])
        return np.asarray(np.where(inside, missed, got != 0))

    def misses(
        self, layer: Computation, got: Array, sums: Array, magnitude: Array, k: Array | None = None
    ) -> Array:
        """Where `got` is not what the layer makes of `sums`, by more than `verify` allows.

        The tolerance is no bound, but larger than all that `verify` may judge by.
        """
        wanted = layer.outcome(sums, k)
        if self.quantized is not None:
            wanted = wanted.astype(np.int64)  # whose differences do not wrap
        if layer.half_sums is not None:
            return np.asarray((got != wanted) & ~(np.isnan(got) & np.isnan(wanted)))
        wanted = self.finished(wanted)
        size = np.abs(wanted)
        tolerance = 2 * (self.judged.get("atol", 0) + self.judged.get("rtol", 0) * size)
        if self.eps and self.quantized is None:
            n = math.prod(layer.filters.shape[1:]) + 4
            tolerance = tolerance + 4 * n * self.eps_of_sums * magnitude + n * self.underflow
            tolerance = tolerance + 2 * self.eps * size + self.least
            if any(change.name == "round" for change in layer.changes):
                tolerance = tolerance + size * 2.0**-10 + 1e-7
            finite = (size < self.largest) & (magnitude < self.largest_sum)
            tolerance = np.where(finite, tolerance, np.inf)
        return np.asarray(np.isfinite(wanted) & (got != wanted) & ~(np.abs(got - wanted) <= tolerance))

    def _unexplained(self, layer: Computation) -> Array | None:
        """All elements of the result that are not the layer's; None if the name would be wrong."""
        self.cost += self.flat.size * math.prod(layer.filters.shape[1:]) // 8  # they take less time together
        parts = np.array_split(
            np.arange(self.flat.size), -(-self.flat.size // (4096 if layer.by_element else _BLOCK))
        )
        if layer.by_element:
            return np.concatenate([self._missed(layer, part) for part in parts])
        shape, source, inside = layer.convolved_shape, [], []
        for part in parts:
            at, there = layer.origins(part)
            source.append(np.ravel_multi_index(at, shape)[there])
            inside.append(there)
        return self._judged(layer, np.concatenate(source), np.concatenate(inside))

    def _judged(self, layer: Computation, source: Array, inside: Array) -> Array | None:
        """As `_unexplained`, of a layer whose result is moved: the elements `inside` come from `source`.

        What became of the values is undone first: where an element is what a value became, `verify` judges
        the value; elsewhere the change must leave the element as it is.
        """
        sums = layer.convolved()
        values = changed = sums.ravel()
        for change in layer.changes:
            if not change.suits(changed):
                return None
            changed = change.apply(changed)
        if self.quantized is not None:
            values = changed = layer.outcome(sums).ravel()
        values, changed = self.finished(values), self.finished(changed)
        got, after = self.flat[inside], changed[source]
        unexplained = ~inside & (self.flat != 0)
        if layer.changes and self.quantized is None:
            explained = got == after
            unexplained[inside] = ~explained & ~self._stays(layer, got, values.dtype)
            got = np.where(explained | unexplained[inside], values[source], got)
        if np.count_nonzero(unexplained) > self.allowed:
            return None
        before = values.astype(self._judged_dtype(layer, values))
        before[source] = got
        report = self.verify(layer, before, values)
        if report.outside > self.allowed:
            return None
        if report.outside:
            off = np.ravel_multi_index(tuple(zip(*report.outside_at, strict=True)), layer.convolved_shape)
            unexplained[np.flatnonzero(inside)[np.isin(source, off)]] = True
        made = np.zeros(self.flat.size, changed.dtype)
        made[inside] = after
        return unexplained if self._differs(made, unexplained) else None

    def _stays(self, layer: Computation, got: Array, dtype: np.dtype[Any]) -> Array:
        """Where elements of the result are such that what became of the values leaves them as they are."""
        wide = got.astype(np.result_type(got, dtype))
        kept = layer.change(wide)
        return np.asarray((kept == wide) | (np.isnan(kept) & np.isnan(wide)))

    def _judged_dtype(self, layer: Computation, values: Array) -> np.dtype[Any]:
        """That of the result where it can hold the values, since `verify` judges by the dtype, too."""
        if any(change.name == "round" for change in layer.changes):
            return np.dtype(np.float16)
        kinds = self.flat.dtype.kind, values.dtype.kind
        if kinds[0] == "f" and kinds[1] != "c":
            return self.flat.dtype
        return np.result_type(self.flat, values)

    def _differs(self, made: Array, unexplained: Array) -> bool:
        """Whether what a mistake makes is itself no right result, which another bound may let it seem."""
        if self.outcome is None:
            return True
        made[unexplained] = self.outcome[unexplained]
        made = made.astype(self.flat.dtype)
        return bool(self._surely_wrong(made).any()) or not self.verify(self.right, made, self.outcome)

    def verify(self, layer: Computation, result: Array, outcome: Array) -> Report:
        """Whether the result of a layer's convolution, in order, is right: `outcome`, if it is quantized."""
        result = result.reshape(layer.convolved_shape)
        if layer.quantized is not None:
            rule = {key: self.judged.get(key) for key in ("atol", "rtol")}
            return compare(result, outcome.reshape(result.shape), exact="exact" in self.judged, **rule)
        if result.dtype == np.float32:
            result = narrow(result, self.narrow)
        return judge_layer(expected=result, **layer.arguments, **self.judged)


def _merges(shape: Sequence[int], given: Sequence[int]) -> bool:
    """Whether `given` is `shape` with neighbouring axes taken together."""
    rest = [h for h in shape if h != 1]
    for size in (h for h in given if h != 1):
        count = 1
        while count < size and rest:
            count *= rest.pop(0)
        if count != size:
            return False
    return not rest
