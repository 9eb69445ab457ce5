"""Known mistakes of what is moved: X_col, W_col, and the images that fold makes of X_col."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat import reference
from convmat.arrays import numbers
from convmat.geometry import AXIS_NAMES, ConvGeometry, Padding, Sizes
from convmat.verification.attempts import (
    Layers,
    Reading,
    Slip,
    fitted,
    in_growing_parts,
    of_layer,
    readings,
    search,
)
from convmat.verification.comparison import Definition
from convmat.verification.computed import Computation
from convmat.verification.diagnosis import Findings
from convmat.verification.judge import Rule
from convmat.verification.numbers import magnitude, subnormal
from convmat.watching import Watch, unwatched
from convmat.words import POSITION_NAMES, TAP_NAMES

Array = NDArray[Any]

_TURNS = {"depth": "front-back", "height": "up-down", "width": "left-right"}


def diagnose_unroll(
    x: Array,
    kernel_size: Sizes,
    expected: Array,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    padding_mode: str = "zeros",
    order: str = "hwc",
    watch: Watch = unwatched,
    **judged: Any,
) -> Findings:
    """The known mistakes that explain a wrong X_col; arguments as `verify_unroll` takes them, but that
    `expected` may have any shape.
    """
    x, expected = numbers("input", x), numbers("expected", expected)
    geometry = ConvGeometry(x.shape, kernel_size, stride, padding, dilation)
    meant = _layer(x, geometry, padding_mode)
    right = _x_col(meant, order)
    parts = ("image", "padding", "padding-mode", "layer")
    slips = [
        Slip(key, phrase, partial(_x_col, layer, order))
        for key, phrase, layer in of_layer(meant, parts, _off_by_one(meant))
    ]
    if padding_mode == "zeros" and np.any(geometry.pads):
        slips += _other_padding(meant, right, order, expected)
    shapes = [geometry.matrix_shape, (geometry.batch, geometry.patches, geometry.matrix_shape[1])]
    known = _readings_of_x_col(right.shape, order)
    return search(expected, right, slips, known, Rule.of(**judged), shapes, watch)


def diagnose_flatten_filters(
    filters: Array, expected: Array, order: str = "hwc", watch: Watch = unwatched, **judged: Any
) -> Findings:
    """The known mistakes that explain a wrong W_col, of any shape; filters as `verify_flatten_filters`."""
    filters, expected = numbers("filters", filters), numbers("expected", expected)
    axes = filters.ndim - 2
    nothing = np.broadcast_to(np.zeros(1), (1, *filters.shape[1:]))
    meant = Computation(nothing, filters, (1,) * axes, ((0, 0),) * axes, (1,) * axes, 1, None, "zeros")
    right, letters = _w_col(filters, order), [*_columns(axes, order), "k"]
    slips = [
        Slip(key, phrase, partial(_w_col, layer.filters, order))
        for key, phrase, layer in of_layer(meant, ("filters",))
    ]
    turned = [
        ("channels-reversed", "with the channels reversed", (letters.index("c"),)),
        ("filters-reversed", "with the filters in reverse order", (axes + 1,)),
    ]
    known = readings(right.shape, orders(letters, letters), turned)
    shape = (math.prod(filters.shape[1:]), len(filters))
    return search(expected, right, slips, known, Rule.of(**judged), [shape], watch)


def diagnose_fold(
    x_col: Array,
    input_shape: Sequence[int],
    kernel_size: Sizes,
    expected: Array,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    overlap: str = "sum",
    order: str = "hwc",
    layout: str = "nhwc",
    watch: Watch = unwatched,
    **judged: Any,
) -> Findings:
    """The known mistakes that explain wrong images; arguments as `verify_fold` takes them, but that
    `expected` may have any shape, and is in `layout`.
    """
    x_col, expected = numbers("x_col", x_col), numbers("expected", expected)
    geometry = ConvGeometry(tuple(input_shape), kernel_size, stride, padding, dilation)
    meant = _layer(np.broadcast_to(np.zeros(1), geometry.input_shape), geometry, "zeros")
    shape = _shape_of_x_col(meant, order)
    patches = np.ascontiguousarray(x_col).reshape(shape)
    right = _folded(patches, order, overlap, meant)
    other = {"sum": "mean", "mean": "sum"}[overlap]
    changed = [(f"overlap-{other}", f"with the {other} for the {overlap}", patches, other)]
    changed += [(f"overlap-{key}", _OF_THOSE_THAT_MEET[key], patches, key) for key in _OF_THOSE_THAT_MEET]
    for reading in _readings_of_x_col(shape, order)[1:]:
        if len(reading.keys) == 1:
            phrase = f"with X_col read {reading.phrases[0]}"
            changed.append((f"x-col-{reading.keys[0]}", phrase, reading.of(patches, shape), overlap))
    slips = [
        Slip(key, phrase, partial(_folded, array, order, how, meant)) for key, phrase, array, how in changed
    ]
    slips += [
        Slip(key, phrase, partial(_folded, patches, order, overlap, layer))
        for key, phrase, layer in of_layer(meant, ("padding", "layer"), _off_by_one(meant))
    ]
    known = readings_of_images(geometry.input_shape, layout)
    shapes = [tuple(geometry.input_shape[axis] for axis in known[0].order)]
    return search(expected, right, slips, known, Rule.of(**judged), shapes, watch)


# What is right, and what else could be.


def _layer(x: Array, geometry: ConvGeometry, padding_mode: str) -> Computation:
    """A layer of one filter of zeros, of which the patches matter."""
    nothing = np.broadcast_to(np.zeros(1), (1, *geometry.kernel_size, geometry.channels))
    window = (geometry.stride, geometry.padding, geometry.dilation)
    return Computation(x, nothing, *window, 1, None, padding_mode)


def _shape_of_x_col(layer: Computation, order: str) -> tuple[int, ...]:
    """(N, *out, *kernel, C), or with C before the kernel."""
    *kernel, channels = layer.filters.shape[1:]
    columns = (channels, *kernel) if order == "chw" else (*kernel, channels)
    return (*layer.convolved_shape[:-1], *columns)


def _x_col(layer: Computation, order: str) -> Definition:
    """X_col with an axis for each of its indices."""
    shape = _shape_of_x_col(layer, order)
    lead = layer.convolved_shape[:-1]
    window = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.padding_mode)

    def values(band: Sequence[slice]) -> Array:
        rows = reference.unroll_by_taps(layer.x, *window, order, band)
        kept = [len(range(h)[part]) for h, part in zip(lead, band, strict=False)]
        return rows.reshape(*kept, *shape[len(kept) :])

    return in_growing_parts(Definition(shape, [], values), lead, math.prod(shape[len(lead) :]))


def _w_col(filters: Array, order: str) -> Definition:
    """W_col with an axis for each of its indices."""
    w_col = np.moveaxis(filters, 0, -1)
    w_col = np.moveaxis(w_col, -2, 0) if order == "chw" else w_col
    return in_growing_parts(
        Definition(w_col.shape, [], lambda band: w_col[band]), w_col.shape[:-1], len(filters)
    )


_OF_THOSE_THAT_MEET = {
    "last": "with only the last of what meets in a pixel, as x[i] += c leaves it",
    "first": "with only the first of what meets in a pixel, which is the last tap after tap",
}


def _folded(patches: Array, order: str, overlap: str, layer: Computation) -> Definition:
    """Images of X_col, (N, *out, …), some lines at a time; `overlap` may be one of `_OF_THOSE_THAT_MEET`."""
    lines, *others = layer.x.shape[1:]
    line, out = math.prod(others), layer.convolved_shape[1:-1]
    window = (layer.kernel, layer.stride, layer.padding, layer.dilation, "zeros", order)
    reach, before = (layer.kernel[0] - 1) * layer.dilation[0], layer.pads[0][0]
    wide = np.result_type(patches.dtype, np.int64 if patches.dtype.kind in "biu" else np.float64)
    mean = overlap == "mean"

    def folded(part: Sequence[slice], change: Callable[[Array], Array]) -> Array:
        kept = range(lines)[part[1]] if len(part) > 1 else range(lines)
        starts = np.arange(out[0]) * layer.stride[0] - before
        near = np.flatnonzero((starts < kept.stop) & (starts + reach >= kept.start))
        some = slice(near[0], near[-1] + 1) if len(near) else slice(0, 0)  # outputs that reach the lines
        numbered = np.arange(lines * line).reshape(1, lines, *others) + 1  # 0 is the padding
        places = reference.unroll_by_taps(numbered, *window, (slice(None), some)).ravel()
        count, low = len(kept) * line, kept.start * line + 1
        places = np.where((places < low) | (places >= low + count), count, places - low)
        images = []
        for rows in patches[part[0]]:
            numbers = change(fitted(rows[None, some], (len(near), *out[1:])).astype(wide)).ravel()
            put = np.zeros(count + 1, np.float64 if mean and wide.kind == "i" else numbers.dtype)
            if overlap in _OF_THOSE_THAT_MEET:
                step = -1 if overlap == "first" else 1
                put[places[::step]] = numbers[::step]
            else:
                np.add.at(put, places, numbers)
            if mean:
                put /= np.maximum(np.bincount(places, minlength=len(put)), 1)
            images.append(put[:-1].reshape(len(kept), *others))
        return np.stack(images)

    definition = Definition(
        layer.x.shape,
        [],
        lambda part: folded(part, np.asarray),
        lambda part: folded(part, magnitude),
        lambda part, tiny: folded(part, partial(subnormal, tiny=tiny)),
        [patches],
        math.prod(layer.kernel) + mean,
        mean,
    )
    return in_growing_parts(definition, layer.x.shape[:2], line)


def _off_by_one(layer: Computation) -> Layers:
    """Stride, dilation and padding one larger and smaller, along all axes and along each."""
    names = AXIS_NAMES[len(layer.kernel)]
    along: list[tuple[str, tuple[int, ...]]] = [("", tuple(range(len(names))))]
    along += [(f" along the {name}", (axis,)) for axis, name in enumerate(names)] if len(names) > 1 else []
    for (where, axes), (by, word) in itertools.product(along, ((1, "larger"), (-1, "smaller"))):
        for what in ("stride", "dilation"):
            steps = tuple(s + by * (i in axes) for i, s in enumerate(getattr(layer, what)))
            if min(steps) > 0:
                changed = replace(layer, **{what: steps})  # type: ignore[arg-type]
                yield f"{what}-off-by-one", f"with a {what} one {word}{where}", changed
        pads = tuple((b + by * (i in axes), a + by * (i in axes)) for i, (b, a) in enumerate(layer.pads))
        phrase = f"with the padding one {word} on both sides{where}"
        yield "padding-off-by-one", phrase, replace(layer, padding=pads)


def _other_padding(meant: Computation, right: Definition, order: str, expected: Array) -> Iterator[Slip]:
    """Another number than 0 in the padding: the one that stands in its first element."""
    if expected.size != math.prod(right.shape):
        return
    seen = _x_col(replace(meant, x=np.ones(meant.x.shape, bool)), order)
    start, flat = 0, expected.reshape(-1)
    for part in seen.parts:
        inside = seen.values(part)
        if not inside.all():
            number = flat[start + int(inside.argmin())]
            break
        start += inside.size
    else:
        return
    if number == 0:
        return

    def values(band: Any) -> Array:
        return np.where(seen.values(band), right.values(band), number)

    yield Slip("padding-value", f"with {number} in the padding", lambda: replace(right, values=values))


# Orders of axes, and their words.


def _columns(axes: int, order: str) -> list[str]:
    return ["c", *TAP_NAMES[axes]] if order == "chw" else [*TAP_NAMES[axes], "c"]


_LAYOUTS = {"nyxc": "NHWC", "ncyx": "NCHW", "kijc": "OHWI", "kcij": "OIHW", "ijck": "HWIO"}


def orders(
    letters: Sequence[str], right: Sequence[str], first: int = 0
) -> Iterator[tuple[list[int], list[tuple[str, str]]]]:
    """All orders of axes, the first `first` of which stay; the words of each, but of the right one."""
    for rest in itertools.permutations(letters[first:]):
        order = [*letters[:first], *rest]
        words = []
        if order != list(right):
            name, joined = _LAYOUTS.get("".join(order)), ", ".join(order)
            phrase = f"with the axes in the order {joined}" + (f" ({name})" if name else "")
            words = [(f"axes-{''.join(order)}", phrase)]
        yield [letters.index(letter) for letter in order], words


def readings_of_images(shape: Sequence[int], layout: str) -> list[Reading]:
    """Of (N, *spatial, C), which is right in `layout`."""
    names = POSITION_NAMES[len(shape) - 2]
    letters = ["n", *names, "c"]
    right = ["n", "c", *names] if layout == "nchw" else letters
    turned = [
        ("channels-reversed", "with the channels reversed", (len(shape) - 1,)),
        ("batch-reversed", "with the images in reverse order", (0,)),
    ]
    return readings(shape, orders(letters, right, 1), turned)


def turned_taps(axes: int, first: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Kernel axes that run backwards, of which the first is axis `first`."""
    spatial = range(first, first + axes)
    turned: list[tuple[str, str, tuple[int, ...]]] = []
    if axes > 1:
        turned.append(("flipped-both", "with the taps flipped in every direction", tuple(spatial)))
    for name, axis in zip(AXIS_NAMES[axes], spatial, strict=True):
        turned.append((f"flipped-{_TURNS[name]}", f"with the taps flipped {_TURNS[name]}", (axis,)))
    return turned


def _readings_of_x_col(shape: Sequence[int], order: str) -> list[Reading]:
    axes = (len(shape) - 2) // 2
    rows, columns = ["n", *POSITION_NAMES[axes]], _columns(axes, order)
    letters = rows + columns
    named: list[tuple[list[str], list[tuple[str, str]]]] = []
    for own, patch in itertools.product(itertools.permutations(rows), itertools.permutations(columns)):
        words = []
        if list(own) != rows:
            phrase = f"with the patches in the order {', '.join(own)}"
            words.append((f"rows-{''.join(own)}", phrase + (" (the image last)" if own[-1] == "n" else "")))
        if list(patch) != columns:
            name = {("c", *TAP_NAMES[axes]): " (chw)", (*TAP_NAMES[axes], "c"): " (hwc)"}.get(patch, "")
            words.append(
                (f"columns-{''.join(patch)}", f"with each patch in the order {', '.join(patch)}{name}")
            )
        columns_of = [("patches-as-columns", "with the patches as columns")]
        named.append(([*own, *patch], words))
        named.append(([*patch, *own], columns_of + words))
        if own[0] == "n":
            columns_of = [("patches-as-columns-by-image", "with the patches of each image as columns")]
            named.append((["n", *patch, *own[1:]], columns_of + words))
    numbered = [([letters.index(letter) for letter in lying], words) for lying, words in named]
    at = letters.index("c")
    turned = turned_taps(axes, axes + 1 + (order == "chw"))
    turned.append(("channels-reversed", "with the channels reversed", (at,)))
    turned.append(("batch-reversed", "with the images in reverse order", (0,)))
    return readings(shape, numbered, turned)


# Where nothing explains it.


class Holds(NamedTuple):
    """What an element of X_col holds, and what it should hold."""

    at: tuple[int, int]
    value: Any
    pixel: tuple[int, ...] | None
    """The first of the input's pixels that have this value; None where none has."""
    of: int
    """How many have it."""
    wanted: tuple[int, ...] | None
    """The pixel that belongs there; None for a zero of the padding."""

    def __str__(self) -> str:
        place = f"row {self.at[0]}, column {self.at[1]} holds "
        if self.pixel is None:
            place += f"{self.value}, which no pixel is"
        elif self.of == 1:
            place += f"pixel {self.pixel}"
        else:
            place += f"{self.value}, which {self.of} pixels are, {self.pixel} the first"
        return f"{place}; it should hold {f'pixel {self.wanted}' if self.wanted else 'a zero of the padding'}"


def what_it_holds(
    x: Array, geometry: ConvGeometry, expected: Array, at: Sequence[int], padding_mode: str, order: str
) -> Holds:
    """The pixel that X_col, (N·P, kh·kw·C), has at a row and a column, and the one that belongs there."""
    row, column = at
    value = expected.reshape(geometry.matrix_shape)[row, column]
    same = np.flatnonzero((x == value).ravel())
    pixel = tuple(int(i) for i in np.unravel_index(same[0], x.shape)) if len(same) else None
    wanted = geometry.place(row, column, padding_mode, order=order).element
    return Holds((row, column), value.item(), pixel, len(same), wanted and tuple(map(int, wanted)))
