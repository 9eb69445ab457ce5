"""The geometry of a convolution: padding rules, output size, and the index mapping; pure integers.

Symbols are those of Ma & Lu (2017), "An Equivalence of Fully Connected Layer and Convolutional Layer":
H, W, C the input's size; kh, kw the kernel; S stride, D dilation, P padding; N images. Everything is a
tuple over the spatial axes, so one, two and three axes are the same code.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

from convmat.checks import (
    INT64,
    STEP_LIMIT,
    choice,
    countable,
    got,
    got_sizes,
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

PADDING_NAMES = ("valid", "same", "same-lower", "half", "full")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
ORDERS = ("hwc", "chw")
KERNEL_LIMIT = 1_000_000  # taps along one axis; what counts them one by one must come to an end
PLACES_LIMIT = 100_000  # places of one pixel in X_col that are listed
AXIS_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
POSITION_NAMES = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}
TAP_NAMES = {1: ("j",), 2: ("i", "j"), 3: ("h", "i", "j")}
LINE_NAMES = {"depth": "slices", "height": "rows", "width": "columns"}
SIDE_NAMES = {"depth": ("front", "back"), "height": ("top", "bottom"), "width": ("left", "right")}


def kernel_extent(k: int, dilation: int) -> int:
    """Input pixels from the first tap to the last, both included: D·(k − 1) + 1."""
    return dilation * (k - 1) + 1


def output_length(size: int, pads: tuple[int, int], extent: int, stride: int) -> int:
    """Positions of the kernel along one axis (Eq. 5-6), floor((H + P − extent) / S) + 1; 0 if none."""
    return max((size + sum(pads) - extent) // stride + 1, 0)


def transposed_length(
    size: int, pads: tuple[int, int], extent: int, stride: int, output_padding: int = 0
) -> int:
    """Size of a transposed convolution's output along one axis, (H − 1)·S − P + extent + output_padding."""
    return (size - 1) * stride - sum(pads) + extent + output_padding


def named_pads(rule: str, size: int, extent: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis under a padding rule.

    - `valid`: none.
    - `same`: as few as give ceil(H / S) outputs, the odd one at the end; `same-lower`: at the start.
    - `half`: floor(extent / 2) on both sides (keeps the size for odd kernels at stride 1).
    - `full`: extent − 1 on both sides, every overlap of kernel and input (Eq. 7 of a full convolution).
    """
    if rule == "valid":
        return 0, 0
    if rule == "half":
        return extent // 2, extent // 2
    if rule == "full":
        return extent - 1, extent - 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if rule == "same" else (more, less)


def padding_source(position: Any, size: int, padding_mode: str) -> Any:
    """The pixel of 0..size−1 that stands at `position` of an axis, which may lie in the padding.

    `reflect` mirrors about the edge pixels, `replicate` repeats them, `circular` begins the axis again. A
    position inside stands for itself. For an int, or an integer array element by element.
    """
    last = size - 1
    if padding_mode == "circular":
        return position % size
    if padding_mode == "replicate":
        # Clipping by arithmetic alone, the same for numbers and arrays.
        return (abs(position) - abs(position - last) + last) // 2
    # Mirroring about both edge pixels repeats after 2·last steps.
    return last - abs(last - position % max(2 * last, 1))


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


class Coverage(NamedTuple):
    """How often an input's pixels appear in X_col."""

    mean: float
    """Times each pixel is repeated, on average over all pixels (pixels never covered count as 0)."""
    uncovered: int
    """Pixels of one image that no patch holds."""
    pixels: int
    """Pixels of one image, H·W."""


class Block(NamedTuple):
    """Consecutive rows of X_col that form a box of output positions."""

    rows: range
    """Rows of X_col."""
    positions: tuple[range, ...]
    """The same rows as ranges over (n, *output position)."""


@dataclass(frozen=True, init=False)
class ConvGeometry(Shown):
    """Shapes and index mapping of one convolution; immutable, comparable, printable.

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
    padding: str | None = field(compare=False)
    """The padding rule's name where it was given by name; what it came to is in `pads`."""
    pads: tuple[tuple[int, int], ...]
    """Zeros (before, after) each spatial axis: ((P_top, P_bottom), (P_left, P_right)) for images."""
    dilation: tuple[int, ...]
    groups: int
    extent: tuple[int, ...]
    """Input pixels that the kernel spans along each spatial axis."""
    output_size: tuple[int, ...]
    """(H_out, W_out), Eq. 5-6."""

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
        size, axes = shape[1:-1], len(shape) - 2
        kernel = per_axis("kernel_size", kernel_size, axes, most=KERNEL_LIMIT)
        strides = per_axis("stride", stride, axes)
        dilations = per_axis("dilation", dilation, axes)
        extent = tuple(map(kernel_extent, kernel, dilations))
        pads = _resolve_pads(padding, size, extent, strides)
        for name, h, (before, after), reach in zip(AXIS_NAMES[axes], size, pads, extent, strict=True):
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
        divisor = group_count(groups, shape[-1], "the input's {} channels")
        values: dict[str, Any] = {
            "input_shape": shape,
            "kernel_size": kernel,
            "stride": strides,
            "padding": padding if isinstance(padding, str) else None,
            "pads": pads,
            "dilation": dilations,
            "groups": divisor,
            "extent": extent,
            "output_size": tuple(map(output_length, size, pads, extent, strides)),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        countable("input_shape", self.matrix_shape, f"the X_col of {got(shape)}")

    def __repr__(self) -> str:
        return (
            f"ConvGeometry({self.input_shape}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding or self.pads!r}, dilation={self.dilation}, groups={self.groups})"
        )

    def facts(self) -> list[Fact]:
        """Input, kernel and output; see `convmat.shown`."""
        rule = f"{self.padding}: " if self.padding else ""
        return [
            shape_fact("input_shape", "input shape", self.input_shape),
            shape_fact("kernel_size", "kernel", self.kernel_size),
            shape_fact("stride", "stride", self.stride),
            shape_fact("dilation", "dilation", self.dilation),
            Fact("pads", "padding", list(map(list, self.pads)), rule + ", ".join(map(str, self.pads))),
            shape_fact("output_size", "output size", self.output_size),
            shape_fact("matrix_shape", "X_col", self.matrix_shape),
        ]

    @property
    def batch(self) -> int:
        """N, images."""
        return self.input_shape[0]

    def for_batch(self, batch: int) -> ConvGeometry:
        """The same geometry for another number of images."""
        return ConvGeometry(
            (batch, *self.input_shape[1:]),
            self.kernel_size,
            self.stride,
            self.padding or self.pads,
            self.dilation,
            self.groups,
        )

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

    def output_formula(self, axis: int) -> str:
        """Eq. 5-6 with this geometry's numbers filled in, for one spatial axis."""
        axis = self._axis(axis)
        before, after = self.pads[axis]
        return (
            f"floor(({self.input_size[axis]} + {before} + {after} - {self._extent_text(axis)})"
            f" / {self.stride[axis]}) + 1"
            f" = {self.output_size[axis]}"
        )

    def patch_position(self, row: SupportsIndex) -> tuple[int, ...]:
        """The patch that is row `row` of X_col: (n, y, x).

        Raises:
            MappingIndexError: no such row.
        """
        return _unravel("row", row, (self.batch, *self.output_size))

    def patch_row(self, position: Iterable[SupportsIndex]) -> int:
        """The row of X_col that holds the patch at `position`, (n, y, x).

        Raises:
            MappingIndexError: no such patch.
        """
        sizes = (self.batch, *self.output_size)
        return _ravel(indices("position", position, sizes, "images and output positions,"), sizes)

    def kernel_tap(self, col: SupportsIndex, order: str = "hwc") -> tuple[int, ...]:
        """The tap and channel that are column `col` of X_col: (i, j, c), whatever the `order` of columns.

        Raises:
            MappingIndexError: no such column. GeometryError: an unknown order.
        """
        digits = _unravel("column", col, self._column_sizes(order))
        return digits if order == "hwc" else (*digits[1:], digits[0])

    def column_of(self, tap: Iterable[SupportsIndex], c: SupportsIndex, order: str = "hwc") -> int:
        """The column of X_col of a tap and a channel, the inverse of `kernel_tap`.

        Raises:
            MappingIndexError: no such tap or channel. GeometryError: an unknown order.
        """
        sizes = (*self.kernel_size, self.channels)
        digits = indices("tap", (*listed("tap", tap), c), sizes, "the kernel and channels,")
        return _ravel(digits if order == "hwc" else (digits[-1], *digits[:-1]), self._column_sizes(order))

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
        inside = all(0 <= p < h for p, h in zip(position, self.input_size, strict=True))
        element = None
        if inside:
            element = (patch[0], *position, c)
        elif padding_mode != "zeros":
            pixel = (
                padding_source(p, h, padding_mode) for p, h in zip(position, self.input_size, strict=True)
            )
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
        patch, tap = (0,) * len(per_axis), (0,) * len(per_axis)
        found = [(self.patch_row((element[0], *patch)), self.column_of(tap, element[-1], order))]
        depth = self.channels if order == "hwc" else 1
        for axis, hits in enumerate(per_axis):
            row_step = math.prod(self.output_size[axis + 1 :])
            column_step = math.prod(self.kernel_size[axis + 1 :]) * depth
            found = [(row + y * row_step, column + i * column_step) for row, column in found for y, i in hits]
        return sorted(found)

    def _taps_at(self, axis: int, pixel: int, padding_mode: str) -> list[tuple[int, int]]:
        """Along one axis, (output, tap) of each that holds a pixel."""
        k, s, d, out = (of[axis] for of in (self.kernel_size, self.stride, self.dilation, self.output_size))
        pads = self.pads[axis]
        positions = _standing_for(pixel, self.input_size[axis], pads, padding_mode)
        _check_places(sum(map(len, positions)) * k, KERNEL_LIMIT)
        return [
            (t // s, i)
            for q in itertools.chain(*positions)
            for i in range(k)
            if (t := q + pads[0] - i * d) % s == 0 and 0 <= t // s < out
        ]

    def row_formula(self, row: SupportsIndex) -> str:
        """A row of X_col from its patch, (n·H_out + y)·W_out + x, with the numbers filled in."""
        return f"{_ravel_text(self.patch_position(row), self.output_size)} = {whole('row', row)}"

    def column_formula(self, col: SupportsIndex, order: str = "hwc") -> str:
        """A column of X_col from its tap, (i·kw + j)·C + c, or with "chw" (c·kh + i)·kw + j, filled in."""
        sizes = self._column_sizes(order)
        return f"{_ravel_text(_unravel('column', col, sizes), sizes[1:])} = {whole('column', col)}"

    def pixel_formula(self, place: Place, axis: int) -> str:
        """Eq. 8 along one spatial axis, y·S + i·D − P, with the numbers of a place filled in."""
        axis = self._axis(axis)
        return (
            f"{place.patch[1 + axis]}*{self.stride[axis]} + {place.tap[axis]}*{self.dilation[axis]}"
            f" - {self.pads[axis][0]} = {place.position[axis]}"
        )

    def transpose_formula(self, axis: int, size: int | None = None) -> str:
        """The size of the transposed convolution's output along one axis, (H − 1)·S − P + …, filled in.

        `size` is H where it is not `output_size[axis]`, see `transpose_geometry`.
        """
        axis = self._axis(axis)
        size = self.output_size[axis] if size is None else whole("size", size, 1, INT64)
        s, extent, pads = self.stride[axis], self.extent[axis], self.pads[axis]
        extra = self.input_size[axis] - transposed_length(size, pads, extent, s)
        return (
            f"({size} - 1)*{s} - ({pads[0]} + {pads[1]}) + {self._extent_text(axis)} + {extra}"
            f" = {self.input_size[axis]}"
        )

    def _axis(self, axis: SupportsIndex) -> int:
        """The number of a spatial axis, checked."""
        return indices("axis", (axis,), (len(self.kernel_size),), "the spatial axes, whose count is")[0]

    def _extent_text(self, axis: int) -> str:
        k, d = self.kernel_size[axis], self.dilation[axis]
        return f"{k}" if d == 1 else f"({d}*({k} - 1) + 1)"

    def _column_sizes(self, order: str) -> tuple[int, ...]:
        """What the digits of a column number run over."""
        choice("order", order, ORDERS)
        return (*self.kernel_size, self.channels) if order == "hwc" else (self.channels, *self.kernel_size)

    def block_shape(self, max_rows: int, threads: int = 1) -> tuple[int, ...]:
        """The box over (n, *output position), of at most `max_rows` consecutive rows, to cut X_col by.

        Threads that take box after box end together, as nearly as boxes of about that size allow.
        """
        shape: list[int] = []
        sizes, room = (self.batch, *self.output_size), max(max_rows, 1)
        for axis, size in reversed(list(enumerate(sizes))):
            take = max(min(size, room), 1)
            # 1 from the first axis on that is cut, so that the rows stay consecutive.
            room //= take
            cut = take < size
            shape.append(_even_part(size, take, math.prod(sizes[:axis]), threads) if cut else take)
        return tuple(reversed(shape))

    def blocks(self, max_rows: int) -> Iterator[Block]:
        """Boxes of at most `max_rows` rows that cover X_col once, in row order."""
        return self.boxes(self.block_shape(max_rows))

    def boxes(self, block_shape: tuple[int, ...]) -> Iterator[Block]:
        """Boxes of a shape that `block_shape` gave that cover X_col once, in row order; last ones smaller."""
        start = 0
        for positions in _cut((self.batch, *self.output_size), block_shape):
            stop = start + math.prod(map(len, positions))
            yield Block(range(start, stop), positions)
            start = stop

    def coverage(self) -> Coverage:
        """How often pixels appear in X_col; counted per axis, since patches are boxes."""
        axes, pixels = range(len(self.stride)), math.prod(self.input_size)
        elements = math.prod(map(self._elements_inside, axes))
        covered = math.prod(self._covered(axis).count(1) for axis in axes)
        return Coverage(elements / pixels, pixels - covered, pixels)

    def uncovered_lines(self) -> tuple[list[range], ...]:
        """Along each axis the lines, runs of neighbours as ranges, that no patch reaches.

        A pixel that no patch holds lies in one of them, and all pixels of them are such.
        """
        axes = range(len(self.stride))
        return tuple(
            [range(*run.span()) for run in re.finditer(rb"\0+", self._covered(axis))] for axis in axes
        )

    def _elements_inside(self, axis: int) -> int:
        """Elements of patches along one axis that fall inside the input."""
        before, size = self.pads[axis][0], self.input_size[axis]
        of_axis = (self.output_size[axis], self.stride[axis], self.kernel_size[axis], self.dilation[axis])
        return _pairs_below(before + size, *of_axis) - _pairs_below(before, *of_axis)

    def _covered(self, axis: int) -> bytearray:
        """For each line along one axis, 1 if any patch reaches it, else 0."""
        size, s, d, out = (of[axis] for of in (self.input_size, self.stride, self.dilation, self.output_size))
        k, before, common = self.kernel_size[axis], self.pads[axis][0], math.gcd(s, d)
        if min(out, d // common) < min(k, s // common):  # y·S + i·D: outputs and taps may change places
            s, out, d, k = d, k, s, out
        # Tap i + cycle of output y stands where tap i of output y + leap does.
        cycle, leap = s // common, d // common
        seen = bytearray(size)
        for i in range(min(k, cycle)):
            offset = i * d - before
            first, end = max(-(offset // s), 0), (size - 1 - offset) // s + 1
            times = -(-(k - i) // cycle)
            # Where these taps stand, as outputs of tap i: one run, or several with gaps between.
            runs = [(0, out + (times - 1) * leap)]
            if leap > out:
                within = range(max((first - out) // leap + 1, 0), min((end - 1) // leap + 1, times))
                runs = [(time * leap, time * leap + out) for time in within]
            for start, stop in runs:
                start, stop = max(start, first), min(stop, end)
                if stop > start:
                    line = start * s + offset
                    seen[line : (stop - 1) * s + offset + 1 : s] = b"\1" * (stop - start)
        return seen


def transpose_geometry(
    output_shape: Iterable[SupportsIndex],
    channels: SupportsIndex,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: SupportsIndex = 1,
    output_padding: Sizes = 0,
    input_shape: Iterable[SupportsIndex] | None = None,
) -> ConvGeometry:
    """The convolution that a transposed convolution is the adjoint of.

    A convolution maps x, (N, *spatial, C), to y, (N, *out, K); its transpose takes y back to the shape of x.
    Going that way several sizes H of x have the same H_out, and this says which is meant. Along each axis

        H = (H_out − 1)·S − (P_before + P_after) + D·(k − 1) + 1 + output_padding,

    except under `same` and `same-lower`: there H = H_out·S, and the pads are those that the rule gives for
    that H (as in TensorFlow, Keras and ONNX).

    Args:
        output_shape: (N, *out, K), the shape of y, what the transposed convolution is given; K is not used.
        channels: C of x, what the transposed convolution makes.
        kernel_size, stride, padding, dilation, groups: of the convolution, as `ConvGeometry` takes them.
        output_padding: pixels more at the end of x, an int or one for each axis, from 0 to below the larger
            of stride and dilation, as in PyTorch.
        input_shape: (N, *spatial, C), the shape of x where it is known. It then decides, under any padding;
            output_padding may be left at 0.

    Returns:
        The geometry of the convolution from x to y: `input_shape` is the shape of x. `output_size` is that
        of y, or, where output_padding >= stride, output_padding // stride more at the end of the axis: the
        kernel then fits beyond what y covers, and the transpose takes y as 0 there.

    Raises:
        GeometryError: sizes that make no convolution, an output_padding out of its range or with a rule that
            leaves no choice, pads that leave nothing of x, an `input_shape` that does not lead to y.
    """
    shape = spatial_shape("output_shape", output_shape)
    if input_shape is not None:
        known = ConvGeometry(input_shape, kernel_size, stride, padding, dilation, groups)
        if known.channels != whole("channels", channels):
            raise GeometryError(
                "input_shape",
                f"{known.input_shape} has {known.channels} channels, the filters make {channels}; give the "
                "shape of what they were made for",
            )
        return _known_transpose(shape, known, output_padding)
    # Under `full` every kernel fits, so this refuses what is wrong under each padding.
    axes = ConvGeometry((*shape[:-1], channels), kernel_size, stride, "full", dilation, groups)
    extra = per_axis("output_padding", output_padding, len(axes.stride), least=0)
    enlarged = tuple(h * s for h, s in zip(shape[1:-1], axes.stride, strict=True))
    pads = _resolve_pads(padding, enlarged, axes.extent, axes.stride)
    if isinstance(padding, str) and padding.startswith("same"):
        if any(extra):
            raise GeometryError(
                "output_padding",
                f"got {got_sizes(extra)}, and padding {padding}, which makes the size stride times as large; "
                "leave one of them out",
            )
        size = enlarged
    else:
        for name, more, s, d in zip(axes.axis_names, extra, axes.stride, axes.dilation, strict=True):
            if more >= max(s, d):
                raise GeometryError(
                    "output_padding",
                    f"{more} along {name} is not below the stride {s} or the dilation {d}; "
                    f"give 0 to {max(s, d) - 1}",
                )
        size = tuple(map(transposed_length, shape[1:-1], pads, axes.extent, axes.stride, extra))
        for name, length in zip(axes.axis_names, size, strict=True):
            if length < 1:
                raise GeometryError("padding", f"leaves {length} pixels of {name}; use less padding")
    return ConvGeometry(
        (shape[0], *size, axes.channels),
        axes.kernel_size,
        axes.stride,
        padding if isinstance(padding, str) else pads,
        axes.dilation,
        axes.groups,
    )


def _known_transpose(shape: tuple[int, ...], geometry: ConvGeometry, output_padding: Sizes) -> ConvGeometry:
    """`geometry`, if its outputs are of `shape` and its size is what `output_padding`, unless 0, implies."""
    if (geometry.batch, *geometry.output_size) != shape[:-1]:
        raise GeometryError(
            "input_shape",
            f"{geometry.input_shape} gives {geometry.batch} outputs of {geometry.output_size}, the input of "
            f"the transposed convolution has {shape[0]} of {shape[1:-1]}; give the shape they came from",
        )
    extra = per_axis("output_padding", output_padding, len(geometry.stride), least=0)
    least = map(transposed_length, shape[1:-1], geometry.pads, geometry.extent, geometry.stride)
    implied = tuple(h - length for h, length in zip(geometry.input_size, least, strict=True))
    if any(extra) and extra != implied:
        raise GeometryError(
            "output_padding", f"got {extra}, input_shape {geometry.input_shape} means {implied}; leave it out"
        )
    return geometry


def under_every_rule(
    input_shape: Iterable[SupportsIndex], kernel_size: Sizes, stride: Sizes = 1, dilation: Sizes = 1
) -> dict[str, ConvGeometry | None]:
    """The geometry under each rule of `PADDING_NAMES`; None where the kernel does not fit.

    Raises:
        GeometryError: sizes that are wrong under any padding.
    """
    # Under `full` every kernel fits, so what it refuses is wrong under each.
    full = ConvGeometry(input_shape, kernel_size, stride, "full", dilation)
    found: dict[str, ConvGeometry | None] = {}
    for rule in PADDING_NAMES:
        try:
            found[rule] = ConvGeometry(full.input_shape, full.kernel_size, full.stride, rule, full.dilation)
        except GeometryError:
            found[rule] = None
    return found | {"full": full}


def transpose_under_every_rule(
    output_shape: Iterable[SupportsIndex],
    kernel_size: Sizes,
    stride: Sizes = 1,
    dilation: Sizes = 1,
    output_padding: Sizes = 0,
) -> dict[str, ConvGeometry | None]:
    """`transpose_geometry` under each rule of `PADDING_NAMES`; None where it makes nothing.

    Raises:
        GeometryError: sizes that are wrong under any padding.
    """
    # Under `valid` there is always a result, so what it refuses is wrong under each.
    shape = spatial_shape("output_shape", output_shape)
    extra = per_axis("output_padding", output_padding, len(shape) - 2, least=0)
    valid = transpose_geometry(shape, 1, kernel_size, stride, "valid", dilation, 1, extra)
    layer = (valid.kernel_size, valid.stride)
    found: dict[str, ConvGeometry | None] = {"valid": valid}
    for rule in PADDING_NAMES[1:]:
        try:
            found[rule] = transpose_geometry(shape, 1, *layer, rule, valid.dilation, 1, extra)
        except GeometryError:
            found[rule] = None
    return found


def _cut(sizes: tuple[int, ...], steps: tuple[int, ...]) -> Iterator[tuple[range, ...]]:
    """Boxes of `steps` that cover a box of `sizes`, in order, one at a time: there may be very many."""
    if not sizes:
        yield ()
        return
    for start in range(0, sizes[0], steps[0]):
        for rest in _cut(sizes[1:], steps[1:]):
            yield (range(start, min(start + steps[0], sizes[0])), *rest)


def _even_part(size: int, most: int, times: int, threads: int) -> int:
    """How much of `size`, at most `most`, to do at once, when `threads` share `times` such axes."""
    least = max(-(-size // most), 1)

    def longest_share(pieces: int) -> int:
        if threads == 1:
            return size
        return -(-times * pieces // threads) * -(-size // pieces)

    pieces = min(range(least, min(least + 2 * threads, max(size, 1)) + 1), key=longest_share)
    return max(-(-size // pieces), 1)


def _resolve_pads(
    padding: Any, size: tuple[int, ...], extent: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Padding in any form as (before, after) for each axis."""
    if not isinstance(padding, str):
        return side_pads(padding, len(size))
    if padding not in PADDING_NAMES:
        names = ", ".join(PADDING_NAMES)
        raise GeometryError("padding", f"unknown name {got(padding)}; give one of {names}")
    return tuple(map(named_pads, (padding,) * len(size), size, extent, stride))


def _standing_for(pixel: int, size: int, pads: tuple[int, int], padding_mode: str) -> list[range]:
    """The positions of an axis that hold a pixel of it, see `padding_source`: its own, and in the padding."""
    first, end = -pads[0], size + pads[1]
    if padding_mode == "zeros":
        return [range(pixel, pixel + 1)]
    if padding_mode == "replicate":
        return [range(first if pixel == 0 else pixel, end if pixel == size - 1 else pixel + 1)]
    period = size if padding_mode == "circular" else max(2 * (size - 1), 1)
    rests = {pixel % period} if padding_mode == "circular" else {pixel % period, -pixel % period}
    return [range(first + (rest - first) % period, end, period) for rest in rests]


def _check_places(count: int, most: int) -> None:
    if count > most:
        raise MappingIndexError(
            "pixel",
            f"may be at {count} places, expected at most {most}; use less padding or a smaller kernel",
        )


def _pairs_below(end: int, outputs: int, stride: int, taps: int, dilation: int) -> int:
    """Pairs (y, i) of outputs and taps with y·S + i·D < end, by formula."""
    # Of taps below `full` all outputs count, of those from `some` on none, and between ceil((end − i·D) / S).
    full = min(max(end - (outputs - 1) * stride + dilation - 1, 0) // dilation, taps)
    some = min(max(end + dilation - 1, 0) // dilation, taps)
    return full * outputs + _floor_sum(
        some - full, stride, dilation, end - (some - 1) * dilation + stride - 1
    )


def _floor_sum(count: int, m: int, a: int, b: int) -> int:
    """Σ floor((a·j + b) / m) over j below `count`, for b >= 0; in steps as few as Euclid's."""
    total = 0
    while count:
        total += count * (count - 1) // 2 * (a // m) + count * (b // m)
        a, b = a % m, b % m
        # What is left are the points under a line of slope below 1: counted along the other axis.
        count, b = divmod(a * count + b, m)
        m, a = a, m
    return total


def _unravel(what: str, index: SupportsIndex, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The digits of `index` in the mixed radix `sizes`, most significant first."""
    rest, end = whole(what, index), math.prod(sizes)
    if not 0 <= rest < end:
        raise MappingIndexError(
            what,
            f"{got(rest)} is outside X_col, which has {end}" + (f"; give 0 to {end - 1}" if end else ""),
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


def _ravel_text(digits: tuple[int, ...], sizes: tuple[int, ...]) -> str:
    """`_ravel` written out, `sizes` being those of all digits but the first: (0*4 + 3)*4 + 2."""
    text = str(digits[0])
    for number, (digit, size) in enumerate(zip(digits[1:], sizes, strict=True)):
        text = f"({text})*{size} + {digit}" if number else f"{text}*{size} + {digit}"
    return text
