"""Known mistakes of quantized kernels: what each makes of a layer, in a table beside that of `mistakes`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from convmat.quantization import STEPS, Quantization
from convmat.roundings import ROUNDINGS, canonical
from convmat.verification.computed import Change, Computation
from convmat.verification.mistakes import Made, Mistake, changed

Others = Callable[[Quantization], Iterator[Quantization]]


def quantized(layer: Computation, others: Others) -> Iterator[Computation]:
    """The layer with each other quantization that a mistake makes of its own."""
    if layer.quantized is not None:
        for other in others(layer.quantized):
            yield replace(layer, quantized=other)


def with_field(q: Quantization, name: str, change: Callable[[Any], Any]) -> Iterator[Quantization]:
    """A field changed, where that makes a difference; of several numbers, each."""
    value = getattr(q, name)
    other = tuple(map(change, value)) if isinstance(value, tuple) else change(value)
    if other != value:
        yield replace(q, **{name: other})  # type: ignore[arg-type]


def of_filter(q: Quantization, names: tuple[str, ...], which: Callable[[int], list[int]]) -> Iterator[Any]:
    """Fields that have a number for each filter, with those of other filters, of which there are so many."""
    given = [(name, getattr(q, name)) for name in names]
    others = {name: tuple(v[k] for k in which(len(v))) for name, v in given if isinstance(v, tuple)}
    if others and any(getattr(q, name) != other for name, other in others.items()):
        yield replace(q, **others)  # type: ignore[arg-type]


def previous(count: int) -> list[int]:
    """The filter before each; before the first the last."""
    return [(k - 1) % count for k in range(count)]


def following(count: int) -> list[int]:
    """The filter after each; after the last the first."""
    return [(k + 1) % count for k in range(count)]


def first(count: int) -> list[int]:
    """The first filter in place of each."""
    return [0] * count


# Zero points.


def input_zero_point(layer: Computation, change: Callable[[Any], Any]) -> Iterator[Computation]:
    """Another zero point of the input, where the padding adds nothing, or holds the right one, or 0."""
    if layer.quantized is None:
        return
    right = layer.quantized.input_zero_point
    for wrong in quantized(layer, partial(with_field, name="input_zero_point", change=change)):
        yield wrong
        for held in (right, 0):
            yield from padding_holds(wrong, held)


def padding_holds(layer: Computation, value: int) -> Iterator[Computation]:
    """Padding that holds a value, from which the zero point is subtracted as from every pixel."""
    pads = layer.pads
    if layer.quantized is None or layer.padding_mode != "zeros" or not np.any(pads) or np.min(pads) < 0:
        return
    if layer.quantized.input_zero_point != value == np.asarray(value).astype(layer.x.dtype):
        x = np.pad(layer.x, [(0, 0), *pads, (0, 0)], constant_values=value)
        yield replace(layer, x=x, padding=((0, 0),) * len(pads))


# Scales.


def doubled(q: Quantization, by: int) -> Iterator[Quantization]:
    """Scales times 2^by."""
    if q.scale is None:
        yield from with_field(q, "shift", lambda shift: min(max(shift + by, -31), 30))
    else:
        yield from with_field(q, "scale", lambda scale: scale * 2.0**by)


def shift_negated(q: Quantization) -> Iterator[Quantization]:
    """Shifts to the left for shifts to the right, and the reverse."""
    pairs = q.scales
    shift = np.clip(-pairs.shift, -31, 30)
    if (shift != pairs.shift).any() and pairs.multiplier.all():
        yield replace(q, scale=None, multiplier=pairs.multiplier, shift=shift)


def rounded(q: Quantization, rounding: str) -> Iterator[Quantization]:
    """Another rounding."""
    if canonical(rounding, q.accumulator == "int64") != q.canonical_rounding:
        yield replace(q, rounding=rounding)


# Steps, and what is added.


def with_ways(layer: Computation, ways: Iterable[tuple[str, ...]]) -> Iterator[Computation]:
    """The quantization's steps in another order, or others, in several ways."""
    if layer.quantized is not None and layer.steps == STEPS:
        for steps in ways:
            yield replace(layer, steps=steps)


def relu_at_zero(q: Quantization) -> Iterator[Quantization]:
    """Cut off below 0, where 0 is no zero point, in place of below the activation's least."""
    high = np.iinfo(q.dtype or "int8").max if q.activation is None else q.activation[1]
    if q.output_zero_point and high >= 0:
        yield replace(q, activation=(0, int(high)))


def bias_scaled(layer: Computation) -> Iterator[Computation]:
    """The bias times the scale, rounded, before it is added to what will be scaled once more."""
    if layer.quantized is not None and layer.bias is not None:
        scaled = layer.bias * layer.quantized.scales.real
        for bias in (np.rint(scaled), np.trunc(scaled), np.floor(scaled)):
            if bias.any():  # else it is missing
                yield replace(layer, bias=bias.astype(np.int64))


def bias_unscaled(layer: Computation) -> Iterator[Computation]:
    """The bias added after the scale, as it is."""
    if layer.quantized is not None and layer.bias is not None:
        bias = layer.bias.astype(np.int64) + layer.quantized.output_zero_point
        made = replace(layer.quantized, output_zero_point=bias)  # type: ignore[arg-type]
        yield replace(layer, bias=None, quantized=made)


def bias_of_filter(layer: Computation, which: Callable[[int], list[int]]) -> Iterator[Computation]:
    """The bias of another filter."""
    if layer.bias is not None:
        yield replace(layer, bias=layer.bias[which(len(layer.bias))])


def added_in_pairs(layer: Computation, order: str) -> Iterator[Computation]:
    """Products of 8 bits added in pairs that saturate in int16."""
    if layer.quantized is not None and {layer.x.dtype.itemsize, layer.filters.dtype.itemsize} == {1}:
        yield replace(layer, pair_sums=order)


# The table.

_SUMS = ("int16", "int32")
_SAID = {"input": "input", "weight": "weights'", "output": "output"}


@cache
def quantized_mistakes(known: tuple[Mistake, ...]) -> tuple[Mistake, ...]:
    """All that is known of quantized layers, before what is `known` of layers but for changed values."""
    own = itertools.chain(
        _of_zero_points(), _of_scales(), _of_roundings(), _of_steps(), _of_bias(), _of_sums()
    )
    return (*(Mistake(*entry) for entry in own), *(mistake for mistake in known if mistake.part != "value"))


_Entries = Iterator[tuple[str, str, str, Made]]


def _of_zero_points() -> _Entries:
    changes: Iterable[tuple[str, str, Callable[[Any], Any]]] = (
        ("ignored", "ignored", lambda zero: 0),
        ("negated", "negated", lambda zero: -zero),
        ("128-more", "128 too large", lambda zero: zero + 128),
        ("128-less", "128 too small", lambda zero: zero - 128),
    )
    for (which, name), (key, phrase, change) in itertools.product(_SAID.items(), changes):
        made: Made
        if which == "input":
            made = partial(input_zero_point, change=change)
        else:
            made = partial(quantized, others=partial(with_field, name=f"{which}_zero_point", change=change))
        yield f"{which}-zero-point-{key}", f"with the {name} zero point {phrase}", f"{which} zero point", made
    phrase = "with 0 in the padding, where the input's zero point belongs"
    yield "padding-without-zero-point", phrase, "padding", partial(padding_holds, value=0)
    for key, phrase, which_of in _FILTERS:
        made = partial(quantized, others=partial(of_filter, names=("weight_zero_point",), which=which_of))
        yield (
            f"weight-zero-point-of-{key}",
            f"with the weights' zero point of {phrase}",
            "weight zero point",
            made,
        )


_FILTERS = (
    ("previous-filter", "the filter before", previous),
    ("next-filter", "the filter after", following),
    ("first-filter", "the first filter for all", first),
)


def _of_scales() -> _Entries:
    for key, phrase, by in (
        ("large", "too large, the scale doubled", 1),
        ("small", "too small, the scale halved", -1),
    ):
        made = partial(quantized, others=partial(doubled, by=by))
        yield f"shift-one-too-{key}", f"with the shift one {phrase}", "scale", made
    yield "shift-negated", "with the shift negated", "scale", partial(quantized, others=shift_negated)
    for (key, phrase, which), (name, names) in itertools.product(
        _FILTERS,
        (("scale", ("scale", "multiplier", "shift")), ("multiplier", ("multiplier",)), ("shift", ("shift",))),
    ):
        made = partial(quantized, others=partial(of_filter, names=names, which=which))
        yield f"{name}-of-{key}", f"with the {name} of {phrase}", "scale", made


def _of_roundings() -> _Entries:
    for name in ROUNDINGS:
        if name in (canonical(name, False), canonical(name, True)):
            made = partial(quantized, others=partial(rounded, rounding=name))
            yield f"rounded-{name}", f"rounded as {name}", "rounding", made
    cut = tuple("truncate" if step == "round" else step for step in STEPS)
    yield "rounding-towards-zero", "rounded towards zero", "rounding", partial(with_ways, ways=(cut,))


def _of_steps() -> _Entries:
    before = ("round", "clamp", "zero-point")
    for key, phrase, ways in (
        (
            "clamp-before-zero-point",
            "cut off before the output zero point is added",
            ((*before, "saturate"), before, ("round", "clamp", "saturate", "zero-point")),
        ),
        ("activation-ignored", "with the activation's range ignored", (("round", "zero-point", "saturate"),)),
        (
            "result-wrapped",
            "wrapped around in the result's dtype, not saturated",
            (("round", "zero-point"), ("round", "zero-point", "clamp")),
        ),
        (
            "zero-point-before-scale",
            "with the output zero point added before the scale",
            (("zero-point", "round", "clamp", "saturate"),),
        ),
    ):
        yield key, phrase, "steps", partial(with_ways, ways=ways)
    phrase = "cut off below 0, not below the output zero point"
    yield "relu-at-zero", phrase, "activation", partial(quantized, others=relu_at_zero)


def _of_bias() -> _Entries:
    yield "bias-scaled", "with the bias scaled once too often", "bias", bias_scaled
    yield "bias-unscaled", "with the bias added after the scale, as it is", "bias", bias_unscaled
    for key, phrase, which in _FILTERS:
        yield f"bias-of-{key}", f"with the bias of {phrase}", "bias", partial(bias_of_filter, which=which)


def _of_sums() -> _Entries:
    yield (
        "relu",
        "with ReLU applied to the sums, all below 0 cut off",
        "value",
        partial(changed, change=Change("relu")),
    )
    for (name, phrase), dtype in itertools.product(
        (("wrap", "wrap around"), ("saturate", "saturate")), _SUMS
    ):
        made = partial(changed, change=Change(name, dtype))
        yield f"accumulator-{name}-{dtype}", f"with sums that {phrase} in {dtype}", "value", made
    for order in ("hwc", "chw"):
        phrase = f"with products added in pairs that saturate in int16, in the order {order}"
        yield f"pairs-saturated-{order}", phrase, "pairs", partial(added_in_pairs, order=order)
