"""The geometry of a convolution: sizes and the index mapping; pure integers.

Symbols are those of Ma & Lu (2017), "An Equivalence of Fully Connected Layer and Convolutional Layer":
H, W, C the input's size; kh, kw the kernel; S stride, D dilation, P padding; N images. Everything is a
tuple over the spatial axes, so one, two and three axes are the same code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, SupportsIndex

from convmat import blocks
from convmat.axis import (
    PADDING_MODES,
    PADDING_NAMES,
    kernel_extent,
    named_pads,
    output_length,
    padding_source,
    positions_of,
)
from convmat.checks import (
    STEP_LIMIT,
    choice,
    countable,
    got,
    group_count,
    indices,
    listed,
    per_axis,
    side_pads,
    spatial_shape,
    whole,
)
from convmat.errors import GeometryError, MappingIndexError
from convmat.shown import Fact, Shown, shape_fact

Sizes = SupportsIndex | Iterable[SupportsIndex]
"""One number for every spatial axis, or one for each."""

Padding = str | SupportsIndex | Iterable[SupportsIndex | Iterable[SupportsIndex]]
"""A name of `PADDING_NAMES`, one number, a number for each axis, or (before, after) for each axis."""

Pads = tuple[tuple[int, int], ...]
"""(before, after) for each spatial axis."""

ORDERS = ("hwc", "chw")
KERNEL_LIMIT = 1_000_000  # taps along one axis; what counts them one by one must come to an end
PLACES_LIMIT = 100_000  # places of one pixel in X_col that are listed
AXIS_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


class Place(NamedTuple):
    """One element of X_col, and where in the input it comes from (Eq. 8)."""

    row: int
    column: int
    """In the order asked for."""
    patch: tuple[int, ...]
    """(n, *output position), what the row stands for."""
    tap: tuple[int, ...]
    """The kernel's pixel, (i, j), and with the channel what the column stands for."""
    channel: int
    position: tuple[int, ...]
    """(y·S_h + i·D_h − P_top, x·S_w + j·D_w − P_left), which may lie in the padding."""
    element: tuple[int, ...] | None
    """(n, *pixel, c) of the input; None where the padding holds zeros."""

    @property
    def in_padding(self) -> bool:
        """Whether the position lies outside the input, whatever stands there."""
        return self.element is None or self.element[1:-1] != self.position


@dataclass(frozen=True, init=False, repr=False)
class ConvGeometry(Shown):
    """Shapes and index mapping of one convolution; immutable, comparable, printable.

    It keeps what it was given, in tuples of ints; two geometries are equal if that is equal. All else is
    derived.

    Args:
        input_shape: (N, *spatial, C), channels last, with 1 to 3 spatial axes; N may be 0.
        kernel_size: an int, or one for each spatial axis, 1 to `KERNEL_LIMIT`.
        stride, dilation: an int, or one for each spatial axis, 1 to `STEP_LIMIT`.
        padding: a name of `PADDING_NAMES`, an int, one for each spatial axis, or (before, after) for each;
            0 to `STEP_LIMIT`.
        groups: divides C.

    Raises:
        GeometryError: a number out of its range, a wrong number of axes, a kernel that spans more than the
            padded input or more than `STEP_LIMIT` pixels, groups that do not divide C, an input or an X_col
            of 2^63 elements or more.
    """

    input_shape: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | Pads
    dilation: tuple[int, ...]
    groups: int

    def __init__(
        self,
        input_shape: Iterable[SupportsIndex],
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = "valid",
        dilation: Sizes = 1,
        groups: SupportsIndex = 1,
    ) -> None:
        shape = spatial_shape("input_shape", input_shape)
        axes = len(shape) - 2
        keep = self.__dict__  # frozen, to all others
        keep["input_shape"] = shape
        keep["kernel_size"] = per_axis("kernel_size", kernel_size, axes, most=KERNEL_LIMIT)
        keep["stride"] = per_axis("stride", stride, axes)
        keep["dilation"] = per_axis("dilation", dilation, axes)
        keep["padding"] = settled_padding(padding, axes)
        self._check_kernel()
        keep["groups"] = group_count(groups, shape[-1], "the input's {} channels")
        countable("input_shape", self.matrix_shape, f"the X_col of {got(shape)}")

    def _check_kernel(self) -> None:
        for name, h, (before, after), reach in zip(
            self.axis_names, self.input_size, self.pads, self.extent, strict=True
        ):
            if reach > STEP_LIMIT:
                raise GeometryError(
                    "kernel_size",
                    f"the kernel spans {reach} pixels of {name}, expected at most {STEP_LIMIT}; "
                    "use a smaller kernel or dilation",
                )
            if reach > h + before + after:
                raise GeometryError(
                    "kernel_size",
                    f"the kernel spans {reach} pixels of {name}, the padded input has "
                    f"{h} + {before} + {after} = {h + before + after}; "
                    "use a smaller kernel or dilation, or more padding",
                )

    def __repr__(self) -> str:
        return (
            f"ConvGeometry({self.input_shape}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups})"
        )

    def facts(self) -> list[Fact]:
        """Input, kernel and output; see `convmat.shown`."""
        rule = f"{self.rule}: " if self.rule else ""
        return [
            shape_fact("input_shape", "input shape", self.input_shape),
            shape_fact("kernel_size", "kernel", self.kernel_size),
            shape_fact("stride", "stride", self.stride),
            shape_fact("dilation", "dilation", self.dilation),
            Fact("padding", "", self.rule, ""),
            Fact("pads", "padding", list(map(list, self.pads)), rule + ", ".join(map(str, self.pads))),
            shape_fact("output_size", "output size", self.output_size),
            shape_fact("matrix_shape", "X_col", self.matrix_shape),
        ]

    def for_batch(self, batch: int) -> ConvGeometry:
        """The same geometry for another number of images."""
        shape = (batch, *self.input_shape[1:])
        return ConvGeometry(shape, self.kernel_size, self.stride, self.padding, self.dilation, self.groups)

    # Derived sizes

    @property
    def rule(self) -> str | None:
        """The padding rule's name; None where padding was given in numbers."""
        return self.padding if isinstance(self.padding, str) else None

    @cached_property
    def extent(self) -> tuple[int, ...]:
        """Input pixels that the kernel spans along each spatial axis."""
        return tuple(map(kernel_extent, self.kernel_size, self.dilation))

    @cached_property
    def pads(self) -> Pads:
        """Zeros (before, after) each spatial axis: ((P_top, P_bottom), (P_left, P_right)) for images."""
        return pads_of(self.padding, self.input_size, self.extent, self.stride)

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """(H_out, W_out), Eq. 5-6."""
        return tuple(map(output_length, self.input_size, self.pads, self.extent, self.stride))

    @property
    def batch(self) -> int:
        """N, images."""
        return self.input_shape[0]

    @property
    def input_size(self) -> tuple[int, ...]:
        """(H, W), the spatial axes of the input."""
        return self.input_shape[1:-1]

    @property
    def channels(self) -> int:
        """C."""
        return self.input_shape[-1]

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the spatial axes, for people: ("height", "width")."""
        return AXIS_NAMES[len(self.kernel_size)]

    @property
    def positions(self) -> tuple[int, ...]:
        """(N, H_out, W_out), what the rows of X_col run over."""
        return (self.batch, *self.output_size)

    @property
    def patches(self) -> int:
        """P = H_out·W_out, patches of one image."""
        return math.prod(self.output_size)

    @property
    def terms(self) -> int:
        """n = kh·kw·C/groups, products summed for one output value."""
        return math.prod(self.kernel_size) * self.channels // self.groups

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Shape of X_col, (N·H_out·W_out, kh·kw·C)."""
        return self.batch * self.patches, math.prod(self.kernel_size) * self.channels

    @property
    def row_footprint(self) -> int:
        """Elements that a row of a block takes, at most about: of X_col, or of the input it spans."""
        return max(math.prod(self.kernel_size), math.prod(self.stride)) * self.channels

    def block_shape(self, max_rows: int, threads: int = 1) -> tuple[int, ...]:
        """The shape of blocks of `positions`, of at most `max_rows` rows; see `blocks.block_shape`."""
        return blocks.block_shape(self.positions, max_rows, threads)

    def boxes(self, block_shape: tuple[int, ...]) -> Iterator[blocks.Block]:
        """Blocks of that shape that cover X_col once, in row order."""
        return blocks.boxes(self.positions, block_shape)

    # The index mapping

    def patch_position(self, row: SupportsIndex) -> tuple[int, ...]:
        """The patch that is row `row` of X_col: (n, y, x).

        Raises:
            MappingIndexError: no such row.
        """
        return _unravel("row", row, self.positions)

    def patch_spans(self, position: Iterable[int]) -> list[range]:
        """The lines that the patch at (y, x) spans along each spatial axis; some may lie in the padding."""
        starts = (y * s - before for y, s, (before, _) in zip(position, self.stride, self.pads, strict=True))
        return [range(start, start + reach) for start, reach in zip(starts, self.extent, strict=True)]

    def lines_seen(self, axis: int, outputs: range) -> range:
        """The lines along a spatial axis that neighbouring outputs see; some may lie in the padding."""
        start = outputs.start * self.stride[axis] - self.pads[axis][0]
        return range(start, start + (len(outputs) - 1) * self.stride[axis] + self.extent[axis])

    def outputs_reaching(self, axis: int, lines: range, count: int) -> range:
        """Of `count` outputs along a spatial axis those that reach lines: o·S − P + tap is one of them."""
        stride, begin = self.stride[axis], lines.start + self.pads[axis][0]
        first = min(max(-(-(begin - self.extent[axis] + 1) // stride), 0), count)
        return range(first, max(min((begin + len(lines) - 1) // stride + 1, count), first))

    def patch_row(self, position: Iterable[SupportsIndex]) -> int:
        """The row of X_col that holds the patch at `position`, (n, y, x).

        Raises:
            MappingIndexError: no such patch.
        """
        digits = indices("position", position, self.positions, "images and output positions,")
        return _ravel(digits, self.positions)

    def kernel_tap(self, col: SupportsIndex, order: str = "hwc") -> tuple[int, ...]:
        """The tap and channel that are column `col` of X_col: (i, j, c), whatever the `order` of columns.

        Raises:
            MappingIndexError: no such column. GeometryError: an unknown order.
        """
        digits = _unravel("column", col, self.column_sizes(order))
        return digits if order == "hwc" else (*digits[1:], digits[0])

    def column_of(self, tap: Iterable[SupportsIndex], c: SupportsIndex, order: str = "hwc") -> int:
        """The column of X_col of a tap and a channel, the inverse of `kernel_tap`.

        Raises:
            MappingIndexError: no such tap or channel. GeometryError: an unknown order.
        """
        sizes = self.column_sizes("hwc")
        digits = indices("tap", (*listed("tap", tap), c), sizes, "the kernel and channels,")
        return _ravel(digits if order == "hwc" else (digits[-1], *digits[:-1]), self.column_sizes(order))

    def column_sizes(self, order: str) -> tuple[int, ...]:
        """What the columns of X_col run over: (kh, kw, C), or (C, kh, kw)."""
        choice("order", order, ORDERS)
        return (*self.kernel_size, self.channels) if order == "hwc" else (self.channels, *self.kernel_size)

    def place(
        self, row: SupportsIndex, col: SupportsIndex, padding_mode: str = "zeros", *, order: str = "hwc"
    ) -> Place:
        """What X_col[row, col] is: patch, tap, and the input element it holds (Eq. 8).

        row = (n·H_out + y)·W_out + x and column = (i·kw + j)·C + c; the element is
        input[n, y·S_h + i·D_h − P_top, x·S_w + j·D_w − P_left, c].

        Args:
            row, col: indices of X_col.
            padding_mode: what `unroll` filled the padding with; other than "zeros" it too holds pixels.
            order: of the columns, as in `unroll`.

        Raises:
            MappingIndexError: `row` or `col` outside `matrix_shape`.
            GeometryError: an unknown padding mode or order.
        """
        choice("padding_mode", padding_mode, PADDING_MODES)
        patch = self.patch_position(row)
        *tap, c = self.kernel_tap(col, order)
        position = tuple(
            y * s + i * d - before
            for y, s, i, d, (before, _) in zip(
                patch[1:], self.stride, tap, self.dilation, self.pads, strict=True
            )
        )
        element = None
        if all(0 <= p < h for p, h in zip(position, self.input_size, strict=True)):
            element = (patch[0], *position, c)
        elif padding_mode != "zeros":
            pixel = map(padding_source, position, self.input_size, itertools.repeat(padding_mode))
            element = (patch[0], *pixel, c)
        return Place(whole("row", row), whole("column", col), patch, tuple(tap), c, position, element)

    def input_index(
        self, row: SupportsIndex, col: SupportsIndex, padding_mode: str = "zeros", *, order: str = "hwc"
    ) -> tuple[int, ...] | None:
        """The input element that X_col[row, col] holds (Eq. 8), as (n, *pixel, c); None for a padding of 0.

        Arguments and errors are those of `place`, which tells more.
        """
        return self.place(row, col, padding_mode, order=order).element

    def matrix_indices(
        self,
        n: SupportsIndex,
        pixel: Iterable[SupportsIndex],
        c: SupportsIndex,
        padding_mode: str = "zeros",
        *,
        order: str = "hwc",
    ) -> list[tuple[int, int]]:
        """Every (row, column) of X_col that holds input[n, *pixel, c]: the inverse of Eq. 8, in row order.

        One-to-many: a pixel appears once for each patch that covers it, or never; and with a `padding_mode`
        other than "zeros" also where it stands in the padding. `order` is that of the columns.

        Raises:
            MappingIndexError: an element outside the input, or one with more than `PLACES_LIMIT` places.
            GeometryError: an unknown padding mode or order.
        """
        choice("padding_mode", padding_mode, PADDING_MODES)
        choice("order", order, ORDERS)
        digits = (n, *listed("pixel", pixel), c)
        element = indices("pixel", digits, self.input_shape, "the input, whose shape is")
        per_axis = [self._taps_at(axis, pixel, padding_mode) for axis, pixel in enumerate(element[1:-1])]
        _check_places(math.prod(map(len, per_axis)), PLACES_LIMIT)
        first = (0,) * len(per_axis)
        places = [(self.patch_row((element[0], *first)), self.column_of(first, element[-1], order))]
        depth = self.channels if order == "hwc" else 1
        for axis, hits in enumerate(per_axis):
            row_step = math.prod(self.output_size[axis + 1 :])
            column_step = math.prod(self.kernel_size[axis + 1 :]) * depth
            places = [
                (row + y * row_step, column + i * column_step) for row, column in places for y, i in hits
            ]
        return sorted(places)

    def _taps_at(self, axis: int, pixel: int, padding_mode: str) -> list[tuple[int, int]]:
        """Along one axis, (output, tap) of each that holds a pixel."""
        k, s, d, out = (of[axis] for of in (self.kernel_size, self.stride, self.dilation, self.output_size))
        pads = self.pads[axis]
        positions = positions_of(pixel, self.input_size[axis], pads, padding_mode)
        _check_places(sum(map(len, positions)) * k, KERNEL_LIMIT)
        return [
            (t // s, i)
            for q in itertools.chain(*positions)
            for i in range(k)
            if (t := q + pads[0] - i * d) % s == 0 and 0 <= t // s < out
        ]


def settled_padding(padding: Padding, axes: int) -> str | Pads:
    """Padding in any form as the name of a rule, or as (before, after) for each axis."""
    if not isinstance(padding, str):
        return side_pads(padding, axes)
    if padding not in PADDING_NAMES:
        raise GeometryError("padding", f"unknown name {got(padding)}; give one of {', '.join(PADDING_NAMES)}")
    return str(padding)


def pads_of(
    padding: str | Pads, size: tuple[int, ...], extent: tuple[int, ...], stride: tuple[int, ...]
) -> Pads:
    """Zeros (before, after) each axis, by a rule's name or as they are."""
    if isinstance(padding, str):
        return tuple(map(named_pads, itertools.repeat(padding), size, extent, stride))
    return padding


def _check_places(count: int, most: int) -> None:
    if count > most:
        raise MappingIndexError(
            "pixel",
            f"may be at {count} places, expected at most {most}; use less padding or a smaller kernel",
        )


def _unravel(what: str, index: SupportsIndex, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The digits of `index` in the mixed radix `sizes`, most significant first."""
    rest, end = whole(what, index), math.prod(sizes)
    if not 0 <= rest < end:
        raise MappingIndexError(
            what, f"{got(rest)} is outside X_col, which has {end}" + (f"; give 0 to {end - 1}" if end else "")
        )
    digits = []
    for size in reversed(sizes):
        rest, digit = divmod(rest, size)
        digits.append(digit)
    return tuple(reversed(digits))


def _ravel(digits: tuple[int, ...], sizes: tuple[int, ...]) -> int:
    index = 0
    for digit, size in zip(digits, sizes, strict=True):
        index = index * size + digit
    return index
