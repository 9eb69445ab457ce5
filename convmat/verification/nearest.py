"""How near right results of a layer come to their bounds, at less cost than a whole comparison.

A is summed in float32 first, as Â. By Higham's bound |Â − A| ≤ g·A, g being γ_n of float32, so each
element's bound is known but for a few g of it. Where every element is surely within its bound, those alone
that may come nearest to it need A itself: one or two of a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.geometry import Padding, Sizes
from convmat.verification.comparison import Definition
from convmat.verification.judge import Rule, WithinBound, gamma

Array = NDArray[Any]

_MOST = 64  # elements for which A itself is summed
_SURE = 2.0**-7  # that g may be
_LARGEST = 2.0**126  # of A, so that no sum has overflowed


@np.errstate(all="ignore")
def nearest(
    wanted: Definition,
    results: Sequence[Array],
    x: Array,
    filters: Array,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: Array | None = None,
) -> list[float] | None:
    """The largest error / bound of each result, as `wanted.compare` has it; None where that has to be asked.

    That is where an element may be outside its bound, or has to be exact, or has another arithmetic than that
    of float32 inputs without subnormals.

    Args:
        wanted: what `layer.definition` makes of the other arguments.
        results: of its shape, (N, *out, K).
    """
    layer = _Floats(x, filters, (stride, padding, dilation), groups, bias)
    judges = {result.dtype: wanted.judge(result.dtype, Rule()) for result in results}
    g = gamma(wanted.terms, 2.0**-24)
    plain = all(isinstance(judge, WithinBound) and judge.is_plain for judge in judges.values())
    fits = all(result.shape == wanted.shape for result in results)
    if not (layer.are_single and plain and fits and g < _SURE):
        return None
    tops = [_Top(6 * g) for _ in results]
    for part in wanted.parts:
        values, sizes = layer.sums(part)
        if not sizes.max(initial=0.0) < _LARGEST:
            return None
        bounds = {dtype: _bound(judge, values, sizes) for dtype, judge in judges.items()}
        for result, top in zip(results, tops, strict=True):
            error = result[part] - values
            ratio = np.divide(np.abs(error, out=error), bounds[result.dtype])
            if not ratio.max(initial=0.0) <= 1 - 3 * g:  # NaN is not
                return None
            top.add(ratio, error, values, [s.start or 0 for s in part])
    if any(len(top.places) > _MOST for top in tops):
        return None
    return [
        max(
            (one.error / _bound(judges[y.dtype], one.value, layer.size(at)) for at, one in top.items()),
            default=0.0,
        )
        for y, top in zip(results, (top.places for top in tops), strict=True)
    ]


def _bound(judge: Any, values: Any, sizes: Any) -> Any:
    return judge.allowed(np.asarray(values), np.asarray(sizes), None)


class _Floats(NamedTuple):
    """A layer of floats."""

    x: Array
    filters: Array
    window: tuple[Sizes, Padding, Sizes]
    groups: int
    bias: Array | None

    @property
    def are_single(self) -> bool:
        """Whether float32 holds all its numbers."""
        arrays = [self.x, self.filters] if self.bias is None else [self.x, self.filters, self.bias]
        return all(a.dtype.kind == "f" and a.dtype.itemsize <= 4 for a in arrays)

    def sums(self, part: Any) -> tuple[Array, Array]:
        """The definition of a part, and Â."""
        shift = None if self.bias is None else np.abs(self.bias)
        of = [reference.Products(bias=self.bias), reference.Products(np.abs, np.abs, shift, np.float32)]
        made = reference.sums_by_taps(self.x, self.filters, of, *self.window, self.groups, band=part)
        return made[0], made[1].astype(np.float64)

    def size(self, at: tuple[int, ...]) -> float:
        """A of an element (n, *position, k)."""
        (n, *position, k), depth = at, self.filters.shape[-1]
        first = k * self.groups // len(self.filters) * depth
        x, filters = self.x[..., first : first + depth], self.filters[k : k + 1]
        band = [slice(p, p + 1) for p in (n, *position)]
        shift = None if self.bias is None else np.abs(self.bias[k : k + 1])
        of = [reference.Products(np.abs, np.abs, shift)]
        return float(reference.sums_by_taps(x, filters, of, *self.window, band=band)[0].item())


class _Near(NamedTuple):
    """An element that may be the nearest to its bound."""

    ratio: float
    """error / bound, by Â."""
    error: float
    value: float
    """By definition."""


class _Top:
    """The elements of a result that may be nearest to their bound: within a share of the nearest."""

    def __init__(self, share: float) -> None:
        self.share, self.ratio = share, 0.0
        self.places: dict[tuple[int, ...], _Near] = {}

    def add(self, ratio: Array, error: Array, values: Array, origin: Sequence[int]) -> None:
        """Take in the elements of a part that begins at an index."""
        most = float(ratio.max(initial=0.0))
        if most <= self.ratio * (1 - self.share) or not most:
            return
        self.ratio = max(self.ratio, most)
        least = self.ratio * (1 - self.share)
        self.places = {at: one for at, one in self.places.items() if one.ratio >= least}
        first = [*origin, *[0] * (ratio.ndim - len(origin))]
        for at in np.argwhere(ratio >= least)[: _MOST + 1]:
            place = tuple(int(i) + start for i, start in zip(at, first, strict=True))
            inner = tuple(at)
            self.places[place] = _Near(float(ratio[inner]), float(error[inner]), float(values[inner]))
