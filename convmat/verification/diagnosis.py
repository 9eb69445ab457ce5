"""Diagnosis: which known mistakes explain a wrong result, in every element and within the bound.

A mistake turns the layer that was meant into the layer that was computed, or moves and changes the elements
of a result. What each would have given is tried on a few elements first; what is left must pass `verify`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.engine import convolve
from convmat.errors import ConvmatError
from convmat.geometry import (
    AXIS_NAMES,
    PADDING_MODES,
    PADDING_NAMES,
    ConvGeometry,
    Padding,
    Sizes,
    kernel_extent,
    output_length,
    padding_source,
)
from convmat.layouts import KERNEL_LAYOUTS
from convmat.patches import as_numbers
from convmat.verification.judging import verify
from convmat.watching import Watch, unwatched

Array = NDArray[Any]
Pads = tuple[tuple[int, int], ...]
Move = Callable[[Array], Array]
"""Elements of the right result to where the wrong one has them; -1 stands for a zero."""

_FEW, _MANY = 8, 512  # elements that a mistake must explain before all are looked at
_LINES = {"depth": "slice", "height": "row", "width": "column"}
_TURNS = {"depth": "front-back", "height": "up-down", "width": "left-right"}


@dataclass(frozen=True)
class Diagnosis:
    """One mistake, or two made together, that explain a result."""

    mistakes: tuple[str, ...]
    """Stable keys, one or two."""
    phrases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "your output equals the correct one " + " and ".join(self.phrases or self.mistakes)


@dataclass(frozen=True, eq=False)
class _Layer:
    """What was computed: a convolution, and what became of its result."""

    x: Array
    filters: Array
    stride: tuple[int, ...]
    padding: str | Pads
    """Pads below 0 cut off lines."""
    dilation: tuple[int, ...]
    groups: int
    bias: Array | None
    padding_mode: str
    moves: tuple[tuple[str, Move], ...] = ()
    change: tuple[str, str] | None = None
    """What became of each value: ("relu", ""), ("saturate" or "wrap" or "round", a dtype)."""
    added_in_float16: tuple[str, bool] | None = None
    """The order of the sum, and whether products are rounded, too."""

    @property
    def size(self) -> tuple[int, ...]:
        return self.x.shape[1:-1]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.filters.shape[1:-1]

    @property
    def pads(self) -> Pads:
        if not isinstance(self.padding, str):
            return self.padding
        return ConvGeometry(self.x.shape, self.kernel, self.stride, self.padding, self.dilation).pads

    @property
    def output_shape(self) -> tuple[int, ...]:
        extent = map(kernel_extent, self.kernel, self.dilation)
        out = map(output_length, self.size, self.pads, extent, self.stride)
        return (len(self.x), *out, len(self.filters))


class _Mistake(NamedTuple):
    key: str
    phrase: str
    part: str
    """Of the layer; mistakes of one part are tried in both orders."""
    made: Callable[[_Layer], Iterator[_Layer]]


def diagnose(
    x: ArrayLike,
    filters: ArrayLike,
    expected: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    judged: Mapping[str, Any] | None = None,
    seconds: float = 4.0,
    watch: Watch = unwatched,
) -> list[Diagnosis]:
    """The known mistakes that explain a wrong result, within the bound of `verify` in every element.

    Args:
        x, filters and the geometry: as `convolve` takes them.
        expected: the wrong result, (N, *out, K) or of any other shape.
        judged: how `verify` is to judge.
        seconds: after which no more is tried.
        watch: hands on the mistakes, and then the pairs of them, that are tried.

    Returns:
        All single mistakes that explain it, common ones first; where there is none, pairs. Empty for a right
        result, and for one that nothing explains.

    Raises:
        The errors of `convolve`.
    """
    end = time.monotonic() + seconds
    x, filters = as_numbers("input", x), as_numbers("filters", filters)
    result = as_numbers("expected", expected)
    given = ConvGeometry(x.shape, filters.shape[1:-1], stride, padding, dilation, groups)
    axes = tuple(range(1, filters.ndim - 1))
    if flip:
        filters = np.flip(filters, axes)
    right = _Layer(
        x,
        filters,
        given.stride,
        given.padding if given.padding is not None else given.pads,
        given.dilation,
        groups,
        None if bias is None else as_numbers("bias", bias),
        padding_mode,
    )
    search = _Search(right, result, dict(judged or {}))
    if not x.size or not result.size or search.explains(right, whole=True):
        return []
    singles: list[tuple[_Mistake, _Layer]] = []
    found: list[Diagnosis] = []
    known_mistakes = list(_mistakes(right))
    for mistake in watch(known_mistakes, len(known_mistakes)):
        for layer in _attempts(mistake, right):
            singles.append((mistake, layer))
            one = Diagnosis((mistake.key,), (mistake.phrase,))
            if one not in found and time.monotonic() < end and search.explains(layer):
                found.append(one)
    if found or "requantize" in search.judged:
        return found
    mistakes = list(dict.fromkeys(m for m, _ in singles))
    order = sorted(itertools.product(range(len(mistakes)), repeat=2), key=lambda p: (sum(p), p))
    variants: dict[_Mistake, list[_Layer]] = {}
    for mistake, layer in singles:
        variants.setdefault(mistake, []).append(layer)
    for i, j in watch(order, len(order)):
        first, second = mistakes[i], mistakes[j]
        if (
            i == j
            or first.key == second.key
            or (i > j and (first.part != second.part or first.part == "value"))
        ):
            continue
        pair = Diagnosis((first.key, second.key), (first.phrase, second.phrase))
        for start in variants[first]:
            for layer in _attempts(second, start):
                if time.monotonic() > end:
                    return found
                known = any(set(pair.mistakes) == set(d.mistakes) for d in found)
                if not known and search.explains(layer):
                    found.append(pair)
    return found


def _attempts(mistake: _Mistake, layer: _Layer) -> Iterator[_Layer]:
    """What the mistake makes of a layer, where it can be made."""
    try:
        yield from mistake.made(layer)
    except (ConvmatError, ValueError, IndexError):
        return


class _Search:
    """One wrong result, to be explained."""

    def __init__(self, right: _Layer, result: Array, judged: dict[str, Any]) -> None:
        self.right, self.result, self.judged = right, result, judged
        self.flat = result.ravel()
        random = np.random.default_rng(0)
        many = random.permutation(min(result.size, 1 << 20))[:_MANY] * max(result.size >> 20, 1)
        self.samples = [many[:_FEW], np.concatenate([many, [0, result.size - 1]])]
        self.sources: dict[tuple[Any, ...], Array | None] = {}
        kinds = [right.x.dtype, right.filters.dtype, *([] if right.bias is None else [right.bias.dtype])]
        self.dtype = np.result_type(np.int64 if all(k.kind in "biu" for k in kinds) else np.float64, *kinds)
        if self.dtype.kind in "biu" or (self.dtype == np.float64 and all(k.kind in "biu" for k in kinds)):
            self.dtype = np.dtype(np.int64)
        floats = [k for k in (*kinds, result.dtype) if k.kind in "fc"]
        self.eps = max((float(np.finfo(k).eps) for k in floats), default=0.0)

    def explains(self, layer: _Layer, whole: bool = False) -> bool:
        """Whether the result is this layer's; `whole` asks for the right one, and looks at all at once."""
        try:
            shape = layer.output_shape
            if min(shape) < 1:
                return False
            source = self.source(layer, shape)
            if source is None:
                return False
            if not whole and "requantize" not in self.judged:
                with np.errstate(all="ignore"):
                    if not all(self.agrees(layer, shape, source, sample) for sample in self.samples):
                        return False
            with np.errstate(all="ignore"):
                return self.passes(layer, shape, source, whole)
        except (ConvmatError, ValueError, IndexError, MemoryError):
            if whole:
                raise
            return False

    def source(self, layer: _Layer, shape: tuple[int, ...]) -> Array | None:
        """For each element of the result which of the convolution's it is; None where shapes differ."""
        key = (shape, *(name for name, _ in layer.moves))
        if key not in self.sources:
            index = np.arange(math.prod(shape)).reshape(shape)
            for _, move in layer.moves:
                index = move(index)
            fits = index.size == self.result.size and _merges(index.shape, self.result.shape)
            self.sources[key] = index.ravel() if fits else None
        return self.sources[key]

    def agrees(self, layer: _Layer, shape: tuple[int, ...], source: Array, sample: Array) -> bool:
        """Whether elements agree by and large: nothing that is within the bound is lost."""
        got, at = self.flat[sample], source[sample]
        if np.any(got[at < 0] != 0):
            return False
        got, at = got[at >= 0], at[at >= 0]
        if not at.size:
            return True
        wanted, magnitude = self.sums(layer, np.unravel_index(at, shape))
        n = math.prod(layer.filters.shape[1:]) + 2
        tolerance = 4 * n * self.eps * magnitude + self.eps * np.abs(wanted) + n * (1e-37 if self.eps else 0)
        if layer.added_in_float16:
            return bool(np.array_equal(got, wanted, equal_nan=True))
        wanted = _changed(wanted, layer.change)
        if layer.change and layer.change[0] == "round":
            tolerance = tolerance + np.abs(wanted) * 2.0**-10 + 1e-7
        tolerance = tolerance + (self.judged.get("atol") or 0)
        tolerance = tolerance + (self.judged.get("rtol") or 0) * np.abs(wanted)
        return not bool(np.any(np.abs(got.astype(self.dtype) - wanted) > tolerance)) and not bool(
            np.any(np.isnan(got) & np.isfinite(wanted))
        )

    def sums(self, layer: _Layer, at: tuple[Array, ...]) -> tuple[Array, Array]:
        """Elements (n, *position, k) of a layer's result, with the sums of their magnitudes."""
        n, *positions, k = at
        axes = len(positions)
        inside = np.ones((1,) * (axes + 1), bool)
        pixels: list[Array] = []
        for axis, (y, size) in enumerate(zip(positions, layer.size, strict=True)):
            taps = np.arange(layer.kernel[axis]) * layer.dilation[axis]
            p = (y * layer.stride[axis] - layer.pads[axis][0])[:, None] + taps
            line = [len(n), *(1,) * axes]
            line[axis + 1] = len(taps)
            if layer.padding_mode == "zeros":
                inside = inside & ((p >= 0) & (p < size)).reshape(line)
                p = p.clip(0, size - 1)
            else:
                p = padding_source(p, size, layer.padding_mode)
            pixels.append(p.reshape(*line, 1))
        depth = layer.filters.shape[-1]
        channels = (k // (len(layer.filters) // layer.groups) * depth)[:, None] + np.arange(depth)
        column = (len(n), *(1,) * axes)
        seen = layer.x[(n.reshape(*column, 1), *pixels, channels.reshape(*column, depth))]
        seen = np.where(inside[..., None], seen, seen.dtype.type(0))
        weights = layer.filters[k]
        if layer.added_in_float16:
            return self.added(layer, seen, weights, k), np.zeros(1)
        products = (seen.astype(self.dtype) * weights.astype(self.dtype)).reshape(len(n), -1)
        total, magnitude = products.sum(1), np.abs(products).sum(1)
        if layer.bias is not None:
            b = layer.bias[k].astype(self.dtype)
            total, magnitude = total + b, magnitude + np.abs(b)
        return total, magnitude

    def added(self, layer: _Layer, seen: Array, weights: Array, k: Array) -> Array:
        """Sums rounded to float16 after each addition."""
        order, rounded = layer.added_in_float16 or ("", True)
        half, single = np.dtype(np.float16), np.dtype(np.float32)
        products = seen.astype(half).astype(single) * weights.astype(half).astype(single)
        if order == "chw":
            products = np.moveaxis(products, -1, 1)
        products = products.reshape(len(seen), -1)
        if rounded:
            total = np.add.accumulate(products.astype(half), axis=1, dtype=half)[:, -1]
        else:
            total = np.zeros(len(seen), half)
            for term in products.T:
                total = (total.astype(single) + term).astype(half)
        return total if layer.bias is None else total + layer.bias[k].astype(half)

    def passes(self, layer: _Layer, shape: tuple[int, ...], source: Array, whole: bool) -> bool:
        """Whether every element is explained, and the mistake changes the result."""
        real = source >= 0
        if np.any(self.flat[~real] != 0):
            return False
        if layer.added_in_float16:
            return all(
                np.array_equal(
                    self.flat[start : start + 4096],
                    self.sums(layer, np.unravel_index(source[start : start + 4096], shape))[0],
                    equal_nan=True,
                )
                for start in range(0, self.flat.size, 4096)
            )
        x, pads = _cut(layer)
        arguments: dict[str, Any] = {
            "stride": layer.stride,
            "padding": pads,
            "dilation": layer.dilation,
            "groups": layer.groups,
            "bias": layer.bias,
            "padding_mode": layer.padding_mode,
        }
        before: Array
        if whole:
            before = self.flat.reshape(shape)
        else:
            computed = convolve(x, layer.filters, **arguments)
            values = computed.ravel()
            full = values.astype(self.result.dtype) if "requantize" in self.judged else values.copy()
            kind = layer.change[0] if layer.change else ""
            if kind == "wrap" and np.any(values != np.rint(values)):
                return False
            got = self.flat[real]
            if kind == "round":
                if np.any(got != got.astype(np.float16)):
                    return False
                full, got = full.astype(np.float16), got.astype(np.float16)
            else:
                full = full.astype(np.result_type(full, got)) if full.dtype.kind != got.dtype.kind else full
                if full.dtype.kind == "f" and got.dtype.kind == "f":
                    full = full.astype(got.dtype)
            if kind in ("relu", "saturate", "wrap"):
                after = _changed(values, layer.change)[source[real]]
                if kind == "saturate" and not np.any(
                    values > np.iinfo(str(layer.change and layer.change[1])).max
                ):
                    return False  # that is ReLU, or nothing
                same = (got == after) & (after != values[source[real]])
                got = np.where(same, full[source[real]], got)
            full[source[real]] = got
            before = full.reshape(shape)
        report = verify(x, layer.filters, before, **arguments, **self.judged)
        if whole or not report or report.exact:
            return bool(report)
        # Judged by another bound: the mistake by itself must give what the right layer does not.
        made = np.zeros(self.result.size, values.dtype)
        made[real] = _changed(values, layer.change)[source[real]]
        if layer.change and layer.change[0] == "round":
            made = made.astype(np.float16)
        return not self.explains_right(made.astype(self.result.dtype))

    def explains_right(self, made: Array) -> bool:
        """Whether a result is right, too."""
        right = self.right
        x, pads = _cut(right)
        return bool(
            verify(
                x,
                right.filters,
                made.reshape(self.result.shape),
                stride=right.stride,
                padding=pads,
                dilation=right.dilation,
                groups=right.groups,
                bias=right.bias,
                padding_mode=right.padding_mode,
                **self.judged,
            )
        )


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


def _cut(layer: _Layer) -> tuple[Array, Any]:
    """The input and padding of a layer, the padding none below 0."""
    if isinstance(layer.padding, str) or min(map(min, layer.padding)) >= 0:
        return layer.x, layer.padding
    modes = {"zeros": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
    wide = [(0, 0), *((max(b, 0), max(a, 0)) for b, a in layer.padding), (0, 0)]
    x = np.pad(layer.x, wide, mode=modes[layer.padding_mode])  # type: ignore[call-overload]
    cut = tuple(
        slice(max(-b, 0), h - max(-a, 0)) for (b, a), h in zip(layer.padding, x.shape[1:-1], strict=True)
    )
    return x[(slice(None), *cut)], "valid"


def _changed(values: Array, change: tuple[str, str] | None) -> Array:
    """What became of a result's values."""
    if change is None or change[0] == "round":
        return values
    if change[0] == "relu":
        return np.maximum(values, 0)
    info = np.iinfo(change[1])
    if change[0] == "saturate":
        return np.clip(values, info.min, info.max)
    return (values - info.min) % (int(info.max) - int(info.min) + 1) + info.min


def _mistakes(right: _Layer) -> Iterator[_Mistake]:
    """All that is known, common ones first."""
    axes = len(right.size)
    names = AXIS_NAMES[axes]
    spatial = tuple(range(1, axes + 1))

    def filters(key: str, phrase: str, *turns: Move) -> _Mistake:
        def made(p: _Layer) -> Iterator[_Layer]:
            for turn in turns:
                wrong = turn(p.filters)
                yield replace(p, filters=wrong)
                if wrong.shape != p.filters.shape and isinstance(p.padding, str):
                    yield replace(p, filters=wrong, padding=p.pads)

        return _Mistake(key, phrase, "filters", made)

    def image(key: str, phrase: str, *turns: Move) -> _Mistake:
        def made(p: _Layer) -> Iterator[_Layer]:
            for turn in turns:
                yield replace(p, x=turn(p.x))

        return _Mistake(key, phrase, "image", made)

    def result(key: str, phrase: str, *moves: Move) -> _Mistake:
        def made(p: _Layer) -> Iterator[_Layer]:
            for number, move in enumerate(moves):
                yield replace(p, moves=(*p.moves, (f"{key}/{number}", move)))

        return _Mistake(key, phrase, "result", made)

    def layer(
        key: str, phrase: str, made: Callable[[_Layer], Iterator[_Layer]], part: str = "layer"
    ) -> _Mistake:
        return _Mistake(key, phrase, part, made)

    def steps(key: str, phrase: str, change: Callable[[_Layer], dict[str, Any]]) -> _Mistake:
        def made(p: _Layer) -> Iterator[_Layer]:
            wrong = replace(p, **change(p))
            if (wrong.stride, wrong.dilation) != (p.stride, p.dilation):
                yield wrong
                if isinstance(p.padding, str) and wrong.pads != p.pads:
                    yield replace(wrong, padding=p.pads)

        return layer(key, phrase, made)

    if axes > 1:
        yield filters(
            "flipped-both", "with the filter flipped in every direction", lambda f: np.flip(f, spatial)
        )
    for axis, name in reversed(list(enumerate(names))):
        turn = _TURNS[name]
        yield filters(
            f"flipped-{turn}",
            f"with the filter flipped {turn}",
            lambda f, a=axis + 1: np.flip(f, a),  # type: ignore[misc]
        )
    for a, b in itertools.combinations(spatial, 2):
        yield filters(
            "kernel-transposed",
            "with kh and kw swapped",
            lambda f, a=a, b=b: f.swapaxes(a, b),  # type: ignore[misc]
            lambda f, a=a, b=b: f.reshape(f.swapaxes(a, b).shape),  # type: ignore[misc]
            lambda f, a=a, b=b: f.reshape(f.swapaxes(a, b).shape).swapaxes(a, b),  # type: ignore[misc]
        )
        yield image(
            "image-transposed",
            "with the image transposed",
            lambda x, a=a, b=b: x.swapaxes(a, b),  # type: ignore[misc]
            lambda x, a=a, b=b: x.reshape(x.swapaxes(a, b).shape),  # type: ignore[misc]
            lambda x, a=a, b=b: x.reshape(x.swapaxes(a, b).shape).swapaxes(a, b),  # type: ignore[misc]
        )
    if right.bias is not None:
        for key, phrase, times in (
            ("bias-missing", "without the bias", 0),
            ("bias-doubled", "with the bias added twice", 2),
            ("bias-subtracted", "with the bias subtracted", -1),
        ):
            yield layer(key, phrase, lambda p, t=times: iter([replace(p, bias=_times(p.bias, t))]), "bias")  # type: ignore[misc]

    def padded(padding: Callable[[_Layer], Any]) -> Callable[[_Layer], Iterator[_Layer]]:
        def made(p: _Layer) -> Iterator[_Layer]:
            wrong = replace(p, padding=padding(p))
            if wrong.pads != p.pads:
                yield wrong

        return made

    for rule in PADDING_NAMES:
        phrase = "without padding" if rule == "valid" else f"with padding {rule!r}"
        yield layer(f"padding-{rule}", phrase, padded(lambda p, r=rule: r), "padding")  # type: ignore[misc]
    for mode in ("replicate", *(m for m in PADDING_MODES if m != "replicate")):
        if mode != right.padding_mode:
            yield layer(
                f"padding-mode-{mode}",
                f"with the padding filled by {mode!r}" if mode != "zeros" else "with zeros in the padding",
                lambda p, m=mode: iter([replace(p, padding_mode=m)] if np.any(p.pads) else []),  # type: ignore[misc]
                "padding-mode",
            )
    for which, shift in itertools.product((*range(axes), None), (-1, 1)):
        if which is None and axes == 1:
            continue
        line = "pixel" if which is None else _LINES[names[which]]
        word = "later" if shift < 0 else "earlier"

        def shifted(p: _Layer, which: int | None = which, shift: int = shift) -> Iterator[_Layer]:
            for after in (-shift, 0):
                moved = tuple(
                    (b + shift, a + after) if which in (axis, None) else (b, a)
                    for axis, (b, a) in enumerate(p.pads)
                )
                yield replace(p, padding=moved)

        key = f"shifted-one-{line}-{word}"
        yield layer(key, f"with every window one {line} {word} (padding shifted by one)", shifted, "padding")
    yield layer(
        "padding-sides-swapped",
        "with the padding before and after swapped",
        padded(lambda p: tuple((a, b) for b, a in p.pads)),
        "padding",
    )
    yield steps(
        "stride-dilation-swapped",
        "with stride and dilation swapped",
        lambda p: {"stride": p.dilation, "dilation": p.stride},
    )
    for what in ("stride", "dilation"):
        yield steps(f"{what}-ignored", f"with the {what} ignored", lambda p, w=what: {w: (1,) * axes})  # type: ignore[misc]
        if axes > 1:
            yield steps(
                f"{what}-axes-swapped",
                f"with the {what} of the axes swapped",
                lambda p, w=what: {w: getattr(p, w)[::-1]},  # type: ignore[misc]
            )
            for axis, name in enumerate(names):
                yield steps(
                    f"{what}-only-{name}",
                    f"with the {what} applied to the {name} only",
                    lambda p, w=what, a=axis: {
                        w: tuple(s if i == a else 1 for i, s in enumerate(getattr(p, w)))
                    },  # type: ignore[misc]
                )
    if right.x.shape[-1] > 1:
        yield image("channels-reversed", "with the channels reversed (RGB for BGR)", lambda x: x[..., ::-1])
        yield image(
            "image-read-as-chw",
            "with the hwc image read as chw",
            lambda x: np.moveaxis(x.reshape(len(x), x.shape[-1], *x.shape[1:-1]), 1, -1),
        )
        yield image(
            "image-read-as-hwc",
            "with the chw image read as hwc",
            lambda x: np.moveaxis(x, -1, 1).reshape(x.shape),
        )
    for stored, read in itertools.permutations(KERNEL_LAYOUTS, 2):
        yield filters(
            f"kernel-{stored}-read-as-{read}",
            f"with the {stored.upper()} kernel read as {read.upper()}",
            lambda f, s=stored, r=read: _reread(f, s, r),  # type: ignore[misc]
        )
    if right.groups > 1:

        def ungrouped(p: _Layer) -> Iterator[_Layer]:
            depth = p.filters.shape[-1]
            yield replace(p, x=np.concatenate([p.x[..., :depth]] * p.groups, -1))
            yield replace(p, filters=np.concatenate([p.filters] * p.groups, -1), groups=1)

        def interleaved(p: _Layer) -> Iterator[_Layer]:
            depth = p.filters.shape[-1]
            c = np.arange(depth * p.groups)
            yield replace(p, x=p.x[..., c.reshape(depth, p.groups).T.ravel()])
            order = np.argsort(np.arange(len(p.filters)) % p.groups, kind="stable")
            back = np.argsort(order)
            yield replace(
                p,
                filters=p.filters[order],
                bias=None if p.bias is None else p.bias[order],
                moves=(*p.moves, ("interleaved", lambda y: y[..., back])),
            )

        yield layer("groups-ignored", "with the groups ignored", ungrouped, "groups")
        yield layer("groups-interleaved", "with the groups interleaved", interleaved, "groups")
    yield layer(
        "relu",
        "with ReLU applied, all below 0 cut off",
        lambda p: iter([replace(p, change=("relu", ""))]),
        "value",
    )
    kinds = ("uint8", "int8", "int16", "uint16", "int32", "uint32")
    for kind in kinds:
        yield layer(
            f"wrap-{kind}",
            f"wrapped around in {kind}",
            lambda p, k=kind: iter([replace(p, change=("wrap", k))]),  # type: ignore[misc]
            "value",
        )
    for kind in kinds[:5]:
        yield layer(
            f"saturated-{kind}",
            f"saturated to {kind}",
            lambda p, k=kind: iter([replace(p, change=("saturate", k))]),  # type: ignore[misc]
            "value",
        )
    for what, array in (("image", right.x), ("filters", right.filters)):
        if array.dtype.kind in "iu" and array.dtype.itemsize < 8:
            other = np.dtype(f"{'i' if array.dtype.kind == 'u' else 'u'}{array.dtype.itemsize}")
            make = image if what == "image" else filters
            yield make(
                f"{what}-read-as-{other}",
                f"with the {what} read as {other}",
                lambda a, o=other: a.astype(a.dtype.newbyteorder("=")).view(o),  # type: ignore[misc]
            )
    if right.x.dtype.kind == "f" or right.filters.dtype.kind == "f":
        yield layer(
            "float16-result",
            "rounded to float16",
            lambda p: iter([replace(p, change=("round", "float16"))]),
            "value",
        )
        yield layer(
            "float16-accumulation",
            "with the sums rounded to float16 after each addition",
            lambda p: (
                replace(p, added_in_float16=way) for way in itertools.product(("hwc", "chw"), (True, False))
            ),
            "value",
        )
    for a, b in itertools.combinations(spatial, 2):
        yield result(
            "output-transposed",
            "transposed",
            lambda y, a=a, b=b: y.swapaxes(a, b),  # type: ignore[misc]
            lambda y, a=a, b=b: y.swapaxes(a, b).reshape(y.shape),  # type: ignore[misc]
        )
    yield result(
        "output-nchw",
        "in NCHW",
        lambda y: np.moveaxis(y, -1, 1),
        lambda y: np.moveaxis(y, -1, 1).reshape(y.shape),
    )
    for axis, name in reversed(list(enumerate(names))):
        line, a = _LINES[name], axis + 1
        yield result(f"last-{line}-missing", f"without the last {line}", lambda y, a=a: np.delete(y, -1, a))  # type: ignore[misc]
        yield result(f"first-{line}-missing", f"without the first {line}", lambda y, a=a: np.delete(y, 0, a))  # type: ignore[misc]
        yield result(
            f"extra-{line}",
            f"with a {line} of zeros more",
            lambda y, a=a: np.insert(y, y.shape[a], -1, a),  # type: ignore[misc]
        )
    yield result("filters-reversed", "with the filters in reverse order", lambda y: y[..., ::-1])
    if len(right.x) > 1:
        yield result("batch-reversed", "with the images in reverse order", lambda y: y[::-1])
        yield image(
            "batch-first-repeated",
            "with the first image in place of all",
            lambda x: np.repeat(x[:1], len(x), 0),
        )


def _times(bias: Array | None, times: int) -> Array | None:
    if bias is None or not times:
        return None
    return times * (bias.astype(np.int64) if bias.dtype.kind in "biu" else bias)


def _reread(filters: Array, stored: str, read: str) -> Array:
    """Filters whose bytes lie in one layout, read as if they lay in the other."""
    k, *kernel, c = filters.shape
    lying = {"ohwi": filters, "oihw": np.moveaxis(filters, -1, 1), "hwio": np.moveaxis(filters, 0, -1)}[
        stored
    ]
    if read == "ohwi":
        return lying.reshape(filters.shape)
    if read == "oihw":
        return np.moveaxis(lying.reshape(k, c, *kernel), 1, -1)
    return np.moveaxis(lying.reshape(*kernel, c, k), -1, 0)
