"""Known mistakes: what each makes of a layer, in a table.

A mistake is a function from the layer that was meant to the layers that were computed in its place; there are
none where the mistake cannot be made, and several where it can be made in several ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from convmat.axis import PADDING_MODES, PADDING_NAMES
from convmat.geometry import AXIS_NAMES
from convmat.layouts import KERNEL_LAYOUTS
from convmat.verification.computed import Array, Change, Computation, Index, Move, Shape

_LINES = {"depth": "slice", "height": "row", "width": "column"}
_TURNS = {"depth": "front-back", "height": "up-down", "width": "left-right"}
_TAPS = {"depth": "kd", "height": "kh", "width": "kw"}


Made = Callable[[Computation], Iterator[Computation]]


class Mistake(NamedTuple):
    """One entry of the table."""

    key: str
    """Stable."""
    phrase: str
    """Goes on from "your output equals the correct one"."""
    part: str
    """Of the layer; two mistakes of one part are tried in both orders."""
    made: Made
    """The layers that the mistake makes of one."""


# Filters.


def with_filters(layer: Computation, filters: Array) -> Iterator[Computation]:
    """Other filters; where they have another size, with the padding that its name means for either."""
    yield replace(layer, filters=filters)
    if filters.shape != layer.filters.shape and isinstance(layer.padding, str):
        yield replace(layer, filters=filters, padding=layer.pads)


def filters_flipped(layer: Computation, axes: tuple[int, ...]) -> Iterator[Computation]:
    """Each filter reversed along `axes`."""
    yield from with_filters(layer, np.flip(layer.filters, axes))


def transposed(array: Array, a: int, b: int) -> Iterator[Array]:
    """Two axes swapped, in their lengths and their elements, in the lengths alone, in the elements alone."""
    swapped = array.swapaxes(a, b)
    yield swapped
    yield array.reshape(swapped.shape)
    yield array.reshape(swapped.shape).swapaxes(a, b)


def filters_transposed(layer: Computation, a: int, b: int) -> Iterator[Computation]:
    """Two axes of each filter swapped."""
    for filters in transposed(layer.filters, a, b):
        yield from with_filters(layer, filters)


def filters_reread(layer: Computation, stored: str, read: str) -> Iterator[Computation]:
    """Filters whose bytes lie in one layout, read as if they lay in the other."""
    filters = layer.filters
    k, *kernel, c = filters.shape
    lying = {"ohwi": filters, "oihw": np.moveaxis(filters, -1, 1), "hwio": np.moveaxis(filters, 0, -1)}[
        stored
    ]
    if read == "ohwi":
        filters = lying.reshape(filters.shape)
    elif read == "oihw":
        filters = np.moveaxis(lying.reshape(k, c, *kernel), 1, -1)
    else:
        filters = np.moveaxis(lying.reshape(*kernel, c, k), -1, 0)
    yield replace(layer, filters=filters)


def bytes_reread(layer: Computation, what: str, dtype: str) -> Iterator[Computation]:
    """The image or the filters read as integers with the other kind of sign."""
    array: Array = getattr(layer, what)
    if array.dtype.kind + dtype[0] in ("iu", "ui") and array.dtype.itemsize == np.dtype(dtype).itemsize:
        read = array.astype(array.dtype.newbyteorder("=")).view(dtype)
        yield replace(layer, x=read) if what == "x" else replace(layer, filters=read)


# Image.


def image_transposed(layer: Computation, a: int, b: int) -> Iterator[Computation]:
    """Two axes of each image swapped."""
    for x in transposed(layer.x, a, b):
        yield replace(layer, x=x)


def channels_reversed(layer: Computation) -> Iterator[Computation]:
    """BGR for RGB."""
    if layer.x.shape[-1] > 1:
        yield replace(layer, x=layer.x[..., ::-1])


def image_read_as_chw(layer: Computation) -> Iterator[Computation]:
    """Images whose bytes lie in NHWC, read as NCHW."""
    n, *size, c = layer.x.shape
    if c > 1:
        yield replace(layer, x=np.moveaxis(layer.x.reshape(n, c, *size), 1, -1))


def image_read_as_hwc(layer: Computation) -> Iterator[Computation]:
    """Images whose bytes lie in NCHW, read as NHWC."""
    if layer.x.shape[-1] > 1:
        yield replace(layer, x=np.moveaxis(layer.x, -1, 1).reshape(layer.x.shape))


def batch_first_repeated(layer: Computation) -> Iterator[Computation]:
    """The first image in place of all."""
    if len(layer.x) > 1:
        yield replace(layer, x=np.repeat(layer.x[:1], len(layer.x), 0))


# Bias.


def bias_times(layer: Computation, times: int) -> Iterator[Computation]:
    """The bias added so many times."""
    if layer.bias is None:
        return
    wide = layer.bias.astype(np.int64) if layer.bias.dtype.kind in "biu" else layer.bias
    yield replace(layer, bias=times * wide if times else None)


# Padding.


def padded(layer: Computation, rule: str) -> Iterator[Computation]:
    """The padding of another rule."""
    wrong = replace(layer, padding=rule)
    if wrong.pads != layer.pads:
        yield wrong


def padding_filled(layer: Computation, mode: str) -> Iterator[Computation]:
    """The padding filled in another way."""
    if mode != layer.padding_mode and np.any(layer.pads):
        yield replace(layer, padding_mode=mode)


def windows_shifted(layer: Computation, axes: Sequence[int], shift: int) -> Iterator[Computation]:
    """Every window so many pixels earlier along `axes`, with as much padding in all, or with more."""
    for after in (-shift, 0):
        pads = tuple((b + shift, a + after) if i in axes else (b, a) for i, (b, a) in enumerate(layer.pads))
        yield replace(layer, padding=pads)


def padding_sides_swapped(layer: Computation) -> Iterator[Computation]:
    """What belongs before the image stands after it."""
    pads = tuple((a, b) for b, a in layer.pads)
    if pads != layer.pads:
        yield replace(layer, padding=pads)


# Stride and dilation.


def with_steps(layer: Computation, **steps: tuple[int, ...]) -> Iterator[Computation]:
    """Another stride or dilation, with the padding that its name means for either."""
    wrong = replace(layer, **steps)  # type: ignore[arg-type]
    if (wrong.stride, wrong.dilation) == (layer.stride, layer.dilation):
        return
    yield wrong
    if isinstance(layer.padding, str) and wrong.pads != layer.pads:
        yield replace(wrong, padding=layer.pads)


def stride_dilation_swapped(layer: Computation) -> Iterator[Computation]:
    """The one for the other."""
    yield from with_steps(layer, stride=layer.dilation, dilation=layer.stride)


def steps_kept(layer: Computation, what: str, axes: Sequence[int]) -> Iterator[Computation]:
    """The stride, or the dilation, along `axes` alone; 1 along others."""
    steps = getattr(layer, what)
    yield from with_steps(layer, **{what: tuple(s if i in axes else 1 for i, s in enumerate(steps))})


def steps_swapped(layer: Computation, what: str) -> Iterator[Computation]:
    """The stride, or the dilation, of two axes swapped."""
    steps = getattr(layer, what)
    for a, b in itertools.combinations(range(len(steps)), 2):
        order = [{a: b, b: a}.get(axis, axis) for axis in range(len(steps))]
        yield from with_steps(layer, **{what: tuple(steps[axis] for axis in order)})


# Groups.


def groups_ignored(layer: Computation) -> Iterator[Computation]:
    """Every filter sees the first group's channels, or all channels, one group after the other."""
    if layer.groups == 1:
        return
    depth = layer.filters.shape[-1]
    yield replace(layer, x=np.concatenate([layer.x[..., :depth]] * layer.groups, -1))
    yield replace(layer, filters=np.concatenate([layer.filters] * layer.groups, -1), groups=1)


def groups_interleaved(layer: Computation) -> Iterator[Computation]:
    """Channel c, or filter k, in group c mod groups."""
    if layer.groups == 1:
        return
    channels = np.arange(layer.x.shape[-1]).reshape(-1, layer.groups).T.ravel()
    yield replace(layer, x=layer.x[..., channels])
    order = np.argsort(np.arange(len(layer.filters)) % layer.groups, kind="stable")
    back = Move(lambda s: s, lambda at, s: (*at[:-1], np.argsort(order)[at[-1]]))
    bias = None if layer.bias is None else layer.bias[order]
    yield replace(layer, filters=layer.filters[order], bias=bias, moves=(*layer.moves, back))


# Values.


def changed(layer: Computation, change: Change) -> Iterator[Computation]:
    """Each value changed; complex values have no order, and are not."""
    kinds = layer.x.dtype.kind + layer.filters.dtype.kind
    if "c" not in kinds and (change.name != "round" or "f" in kinds):
        yield replace(layer, changes=(*layer.changes, change))


def summed_in_float16(layer: Computation) -> Iterator[Computation]:
    """Sums rounded after each addition, in either order of X_col's columns."""
    kinds = layer.x.dtype.kind + layer.filters.dtype.kind
    if "c" not in kinds and "f" in kinds and all(change.name == "relu" for change in layer.changes):
        for way in itertools.product(("hwc", "chw"), (True, False)):
            yield replace(layer, half_sums=way)


# Result.


def moved(layer: Computation, moves: Sequence[Move]) -> Iterator[Computation]:
    """The result moved in one of several ways."""
    for move in moves:
        yield replace(layer, moves=(*layer.moves, move))


def permuted(order: Sequence[int], keeps_shape: bool = False) -> Move:
    """The axes in another order; the elements alone, if the result keeps its shape."""

    def lengths(shape: Shape) -> Shape:
        return tuple(shape[axis] for axis in order)

    def origin(at: Index, shape: Shape) -> Index:
        if keeps_shape:
            at = np.unravel_index(np.ravel_multi_index(at, shape), lengths(shape))
        return tuple(at[order.index(axis)] for axis in range(len(shape)))

    return Move((lambda shape: shape) if keeps_shape else lengths, origin)


def swapped(axes: int, a: int, b: int) -> list[Move]:
    """Two axes of a result with so many spatial ones swapped, with their lengths and without."""
    order = [{a: b, b: a}.get(axis, axis) for axis in range(axes + 2)]
    return [permuted(order), permuted(order, keeps_shape=True)]


def other_layout(axes: int) -> list[Move]:
    """Channels first where they belong last, and the reverse, with the axes' lengths and without."""
    first = [0, axes + 1, *range(1, axes + 1)]
    last = [0, *range(2, axes + 2), 1]
    orders = [first] if axes == 1 else [first, last]
    return [permuted(order, kept) for order in orders for kept in (False, True)]


def lines_moved(axis: int, more: int, by: int = 0) -> Move:
    """So many lines more along an axis, the first of which was line `by`; those beyond the end are zeros."""
    return Move(
        lambda s: (*s[:axis], s[axis] + more, *s[axis + 1 :]),
        lambda at, s: (*at[:axis], at[axis] + by, *at[axis + 1 :]),
    )


def turned(axis: int) -> Move:
    """An axis in reverse order."""
    return Move(lambda s: s, lambda at, s: tuple(s[i] - 1 - a if i == axis else a for i, a in enumerate(at)))


def batch_reversed(layer: Computation) -> Iterator[Computation]:
    """The images in reverse order."""
    if len(layer.x) > 1:
        yield from moved(layer, [turned(0)])


# The table.

_INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "uint32")


@cache
def known_mistakes(axes: int) -> tuple[Mistake, ...]:
    """All that is known of layers with so many spatial axes, common ones first."""
    return tuple(
        Mistake(*entry)
        for entry in (
            *_of_filters(axes),
            *_of_bias(),
            *_of_padding(axes),
            *_of_steps(axes),
            *_of_layouts(),
            *_of_values(),
            *_of_results(axes),
        )
    )


_Entries = Iterator[tuple[str, str, str, Made]]


def _of_filters(axes: int) -> _Entries:
    """Filters and images turned and transposed."""
    names, spatial = AXIS_NAMES[axes], tuple(range(1, axes + 1))
    if axes > 1:
        phrase = "with the filter flipped in every direction"
        yield "flipped-both", phrase, "filters", partial(filters_flipped, axes=spatial)
    for axis in reversed(spatial):
        turn = _TURNS[names[axis - 1]]
        made = partial(filters_flipped, axes=(axis,))
        yield f"flipped-{turn}", f"with the filter flipped {turn}", "filters", made
    for a, b in itertools.combinations(spatial, 2):
        lengths = f"{_TAPS[names[a - 1]]} and {_TAPS[names[b - 1]]}"
        made = partial(filters_transposed, a=a, b=b)
        yield "kernel-transposed", f"with {lengths} swapped", "filters", made
        phrase = f"with the image transposed{_over(names, a, b)}"
        yield "image-transposed", phrase, "image", partial(image_transposed, a=a, b=b)


def _over(names: Sequence[str], a: int, b: int) -> str:
    """Which two of three spatial axes are swapped; of two nothing need be said."""
    return f" over {names[a - 1]} and {names[b - 1]}" if len(names) > 2 else ""


def _of_bias() -> _Entries:
    for key, phrase, times in (
        ("missing", "without the bias", 0),
        ("doubled", "with the bias added twice", 2),
        ("subtracted", "with the bias subtracted", -1),
    ):
        yield f"bias-{key}", phrase, "bias", partial(bias_times, times=times)


def _of_padding(axes: int) -> _Entries:
    names = AXIS_NAMES[axes]
    for rule in PADDING_NAMES:
        phrase = "without padding" if rule == "valid" else f"with padding {rule!r}"
        yield f"padding-{rule}", phrase, "padding", partial(padded, rule=rule)
    for mode in ("replicate", *(mode for mode in PADDING_MODES if mode != "replicate")):
        phrase = "with zeros in the padding" if mode == "zeros" else f"with the padding filled by {mode!r}"
        yield f"padding-mode-{mode}", phrase, "padding-mode", partial(padding_filled, mode=mode)
    shifts: list[tuple[tuple[int, ...], str]] = [((axis,), _LINES[name]) for axis, name in enumerate(names)]
    if axes > 1:
        shifts.append((tuple(range(axes)), "pixel"))
    for (along, line), (shift, word) in itertools.product(shifts, ((-1, "later"), (1, "earlier"))):
        phrase = f"with every window one {line} {word} (padding shifted by one)"
        made = partial(windows_shifted, axes=along, shift=shift)
        yield f"shifted-one-{line}-{word}", phrase, "padding", made
    phrase = "with the padding before and after swapped"
    yield "padding-sides-swapped", phrase, "padding", padding_sides_swapped


def _of_steps(axes: int) -> _Entries:
    phrase = "with stride and dilation swapped"
    yield "stride-dilation-swapped", phrase, "layer", stride_dilation_swapped
    for what in ("stride", "dilation"):
        ignored = partial(steps_kept, what=what, axes=())
        yield f"{what}-ignored", f"with the {what} ignored", "layer", ignored
        if axes == 1:
            continue
        phrase = f"with the {what} of the axes swapped"
        yield f"{what}-axes-swapped", phrase, "layer", partial(steps_swapped, what=what)
        for axis, name in enumerate(AXIS_NAMES[axes]):
            made = partial(steps_kept, what=what, axes=(axis,))
            yield f"{what}-only-{name}", f"with the {what} applied to the {name} only", "layer", made


def _of_layouts() -> _Entries:
    """Channels, bytes and groups taken for others."""
    phrase = "with the channels reversed (RGB for BGR)"
    yield "channels-reversed", phrase, "image", channels_reversed
    yield "image-read-as-chw", "with the hwc image read as chw", "image", image_read_as_chw
    yield "image-read-as-hwc", "with the chw image read as hwc", "image", image_read_as_hwc
    for stored, read in itertools.permutations(KERNEL_LAYOUTS, 2):
        phrase = f"with the {stored.upper()} kernel read as {read.upper()}"
        made = partial(filters_reread, stored=stored, read=read)
        yield f"kernel-{stored}-read-as-{read}", phrase, "filters", made
    yield "groups-ignored", "with the groups ignored", "groups", groups_ignored
    yield "groups-interleaved", "with the groups interleaved", "groups", groups_interleaved
    for (name, what), dtype in itertools.product((("image", "x"), ("filters", "filters")), _INTEGERS):
        made = partial(bytes_reread, what=what, dtype=dtype)
        yield f"{name}-read-as-{dtype}", f"with the {name} read as {dtype}", name, made


def _of_values() -> _Entries:
    relu = partial(changed, change=Change("relu"))
    yield "relu", "with ReLU applied, all below 0 cut off", "value", relu
    for dtype in _INTEGERS:
        wrapped = partial(changed, change=Change("wrap", dtype))
        yield f"wrap-{dtype}", f"wrapped around in {dtype}", "value", wrapped
    for dtype in _INTEGERS[:5]:
        cut_off = partial(changed, change=Change("saturate", dtype))
        yield f"saturated-{dtype}", f"saturated to {dtype}", "value", cut_off
    rounded = partial(changed, change=Change("round", "float16"))
    yield "float16-result", "rounded to float16", "value", rounded
    phrase = "with the sums rounded to float16 after each addition"
    yield "float16-accumulation", phrase, "value", summed_in_float16


def _of_results(axes: int) -> _Entries:
    names = AXIS_NAMES[axes]

    def result(key: str, phrase: str, *moves: Move) -> tuple[str, str, str, Made]:
        return key, phrase, "result", partial(moved, moves=moves)

    for a, b in itertools.combinations(range(1, axes + 1), 2):
        yield result("output-transposed", f"transposed{_over(names, a, b)}", *swapped(axes, a, b))
    phrase = "in the other layout (NCHW for NHWC, or the reverse)"
    yield result("output-nchw", phrase, *other_layout(axes))
    for axis in range(axes, 0, -1):
        line = _LINES[names[axis - 1]]
        yield result(f"last-{line}-missing", f"without the last {line}", lines_moved(axis, -1))
        yield result(f"first-{line}-missing", f"without the first {line}", lines_moved(axis, -1, by=1))
        yield result(f"extra-{line}", f"with a {line} of zeros more", lines_moved(axis, 1))
    yield result("filters-reversed", "with the filters in reverse order", turned(axes + 1))
    yield "batch-reversed", "with the images in reverse order", "result", batch_reversed
    phrase = "with the first image in place of all"
    yield "batch-first-repeated", phrase, "image", batch_first_repeated
