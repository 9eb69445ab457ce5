"""How near right results of a layer come to their bounds, at less cost than a whole comparison.

A is summed in float32 first, as Â. By Higham's bound |Â − A| ≤ g·A, g being γ_n of float32, so each
element's bound is known but for a few g of it. Where every element is surely within its bound, those alone
that may come nearest to it need A itself: one or two of a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    inputs = [x, filters] if bias is None else [x, filters, bias]
    judges = {result.dtype: wanted.judge(result.dtype, Rule()) for result in results}
    g = gamma(wanted.terms, 2.0**-24)
    single = all(a.dtype.kind == "f" and a.dtype.itemsize <= 4 for a in inputs)
    plain = all(isinstance(judge, WithinBound) and judge.is_plain for judge in judges.values())
    if not (single and plain and g < _SURE and all(result.shape == wanted.shape for result in results)):
        return None
    window = (stride, padding, dilation, groups)
    shift = None if bias is None else np.abs(bias)
    products = [reference.Products(bias=bias), reference.Products(np.abs, np.abs, shift, np.float32)]
    tops = [_Top(6 * g) for _ in results]
    for part in wanted.parts:
        values, single_sizes = reference.sums_by_taps(x, filters, products, *window, band=part)
        sizes = single_sizes.astype(np.float64)
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

    def size(at: tuple[int, ...]) -> float:
        """A of an element (n, *position, k)."""
        (n, *position, k), depth = at, filters.shape[-1]
        first = k * groups // len(filters) * depth
        of = (x[..., first : first + depth], filters[k : k + 1], *window[:3])
        band = [slice(p, p + 1) for p in (n, *position)]
        above = None if shift is None else shift[k : k + 1]
        return float(
            reference.convolve_by_taps(*of, bias=above, band=band, pixels=np.abs, weights=np.abs).item()
        )

    return [
        max(
            (
                float(error / _bound(judges[result.dtype], np.array(value), np.array(size(at))))
                for at, (_, error, value) in top.places.items()
            ),
            default=0.0,
        )
        for result, top in zip(results, tops, strict=True)
    ]


def _bound(judge: Any, values: Array, sizes: Array) -> Array:
    return np.asarray(judge.allowed(values, sizes, None))


class _Top:
    """The elements of a result that may be nearest to their bound: within a share of the nearest."""

    def __init__(self, share: float) -> None:
        self.share, self.ratio = share, 0.0
        self.places: dict[tuple[int, ...], tuple[float, float, float]] = {}
        """Ratio, error and definition."""

    def add(self, ratio: Array, error: Array, values: Array, origin: Sequence[int]) -> None:
        """Take in the elements of a part that begins at an index."""
        most = float(ratio.max(initial=0.0))
        if most <= self.ratio * (1 - self.share) or not most:
            return
        self.ratio = max(self.ratio, most)
        least = self.ratio * (1 - self.share)
        self.places = {at: one for at, one in self.places.items() if one[0] >= least}
        first = [*origin, *[0] * (ratio.ndim - len(origin))]
        for at in np.argwhere(ratio >= least)[: _MOST + 1]:
            place = tuple(int(i) + start for i, start in zip(at, first, strict=True))
            inner = tuple(at)
            self.places[place] = float(ratio[inner]), float(error[inner]), float(values[inner])
