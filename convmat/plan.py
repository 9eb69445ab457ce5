"""The plan of a convolution: its geometry, arithmetic, kernel, boxes and threads, decided before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, SupportsIndex

import numpy as np

from convmat import native
from convmat.arithmetic import Arithmetic
from convmat.blocks import Block
from convmat.checks import filter_groups
from convmat.errors import ShapeError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.patches import geometry_of, pack_block
from convmat.shown import Fact, Shown, bytes_text, shape_fact, sizes

BLOCK_BYTES = 1 << 21
"""Of NumPy's X_col, or of what is converted of X or Y, that are held at a time."""

_CALL_FLOPS = 20_000_000_000
"""Done by one call of the compiled library, at most about: between two calls Ctrl-C is answered."""

WORTH_THREADS = 1_000_000
"""Operations and bytes, about, from which on another thread is woken."""

NUMPY_KERNELS = ("blocks", "taps")

PAIRS = np.dtype(np.int32)
"""The accumulator where x and weights are read as int16, two channels at a time."""


@dataclass(frozen=True)
class Plan(Shown):
    """One convolution, decided: its arithmetic, its kernel, what is computed at a time, how many threads."""

    geometry: ConvGeometry
    filters: int
    """K."""
    arithmetic: Arithmetic
    padding_mode: str
    kernel: str
    """Compiled: "wide" (vectors of filters), "planes" (of outputs) or "depthwise" (of channels). NumPy's:
    "blocks" (of X_col, times W_col) or "taps" (added one after another)."""
    level: str
    """The instructions that the compiled kernel uses, or "NumPy"."""
    in_place: bool
    """Whether x is read where it lies. Else each band's part is first copied, in the accumulator's dtype."""
    band: tuple[int, ...]
    """Outputs, over (n, *position), computed by one call; consecutive rows of Y."""
    box: native.Box | None
    """Outputs that a thread of a compiled kernel computes at a time; None for NumPy."""
    threads: int
    layer: bytes | None = field(repr=False, compare=False)
    """What the compiled library is given, where one call does it all."""

    def for_batch(self, batch: int) -> Plan:
        """The same plan for another number of images: as a batch is run that comes in parts."""
        return replace(self, geometry=self.geometry.for_batch(batch))

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """(N, *out, K)."""
        return (self.geometry.batch, *self.geometry.output_size, self.filters)

    @property
    def scratch(self) -> int:
        """Bytes that a thread works in: of a compiled box, or of NumPy's block of X_col and its product."""
        if self.box is not None:
            return self.box.scratch
        columns = self.geometry.matrix_shape[1] if self.kernel == "blocks" else self.geometry.channels
        return math.prod(self.band) * (columns + self.filters) * self.arithmetic.accumulator.itemsize

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition; of a complex product there are four, and four."""
        each = 8 if self.arithmetic.accumulator.kind == "c" else 2
        return each * self.geometry.matrix_shape[0] * self.geometry.terms * self.filters

    @property
    def bytes(self) -> int:
        """Bytes of X and W, in the accumulator's dtype, and of Y: what has to be read and written once."""
        weights = self.filters * self.geometry.terms
        read = (math.prod(self.geometry.input_shape) + weights) * self.arithmetic.accumulator.itemsize
        return read + math.prod(self.output_shape) * self.arithmetic.result.itemsize

    @cached_property
    def worth_threads(self) -> bool:
        """Whether there is so much to do that to wake another thread takes less than it saves."""
        return self.box is not None and self.flops // 8 + self.bytes >= WORTH_THREADS

    def facts(self) -> list[Fact]:
        """The layer, and how it is computed."""
        geometry, summed = self.geometry, str(self.arithmetic.accumulator)
        weights = (*geometry.kernel_size, geometry.channels // geometry.groups)
        box = None if self.box is None else list(self.box[:4])
        band = f"{sizes(self.band)} of (n, *positions)" + (f", in boxes of {sizes(box)}" if box else "")
        read = "read where it lies" if self.in_place else "copied, a band at a time"
        return [
            *geometry.facts(),
            Fact("filters", "filters", self.filters, f"{self.filters} of {sizes(weights)}"),
            Fact("groups", "groups", geometry.groups, str(geometry.groups)),
            shape_fact("output_shape", "Y", self.output_shape),
            Fact("kernel", "kernel", self.kernel, f"{self.kernel}, {self.level}"),
            Fact("level", "", self.level, ""),
            Fact("accumulators", "summed in", [summed], summed),
            Fact("in_place", "X", self.in_place, read),
            Fact("band_shape", "outputs at a time", list(self.band), band),
            Fact("box_shape", "", box, ""),
            Fact("scratch_bytes", "scratch of a thread", self.scratch, bytes_text(self.scratch)),
            Fact("threads", "threads", self.threads, str(self.threads)),
            Fact("flops", "FLOPs", self.flops, str(self.flops)),
            Fact("bytes", "bytes of X, W, Y", self.bytes, bytes_text(self.bytes)),
        ]

    def __str__(self) -> str:
        return (
            f"{self.kernel}, {self.level}, {sizes(self.band)} outputs at a time"
            + ("" if self.box is None else f" in boxes of {sizes(self.box[:4])}")
            + (", x read in place" if self.in_place else ", x copied")
            + f"; {self.scratch} bytes of scratch, {self.threads} thread{'s' if self.threads > 1 else ''}; "
            f"{self.flops} FLOPs in {self.arithmetic.accumulator}, {self.bytes} bytes, "
            f"result {self.arithmetic.result}"
        )


def filter_geometry(
    input_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: SupportsIndex = 1,
) -> ConvGeometry:
    """The geometry of filters (K, *kernel, C/groups) on an input (N, *spatial, C), checked to fit.

    Raises:
        ShapeError: another number of axes or channels. GeometryError: as `ConvGeometry`.
    """
    if len(filter_shape) != len(input_shape) or 0 in filter_shape:
        raise ShapeError(
            "filters",
            f"have shape {filter_shape}, expected (K, *kernel, C/groups) with "
            f"{len(input_shape)} axes, none 0, as for the input {input_shape}",
        )
    geometry = geometry_of(input_shape, filter_shape[1:-1], stride, padding, dilation, groups)
    filter_groups(filter_shape[0], geometry.groups)
    if filter_shape[-1] * geometry.groups != geometry.channels:
        raise ShapeError(
            "filters",
            f"made for {filter_shape[-1]} channels in each of {geometry.groups} groups, the input has "
            f"{geometry.channels} in all; give filters of shape "
            f"{('K', *filter_shape[1:-1], geometry.channels // geometry.groups)}".replace("'", ""),
        )
    return geometry


def choose_kernel(taps: int, planes: int, channels: int, filters: int, groups: int, lanes: int) -> str:
    """The compiled kernel that suits a layer.

    Args:
        taps: of a kernel, kd·kh·kw. planes: that the kernel of that name makes of a channel, kd·S_h·S_w.
        lanes: of a vector.
    """
    depth, own = channels // groups, filters // groups
    if depth == 1 and channels >= lanes:
        return "depthwise"
    # Cycles for an output, about: vectors of filters; or the planes, and a vector of outputs for each tap.
    wide = 24 + depth * 0.6 * taps * -(-own // lanes)
    split = 4 + 1.75 * own + depth * (planes * (1 if groups == 1 else 2.5) + 0.75 * taps * own / lanes)
    return "planes" if split < wide else "wide"


def suited_kernel(
    geometry: ConvGeometry, filters: int, accumulator: np.dtype[Any], compiled: native.Native
) -> str:
    """`choose_kernel` of a convolution by `filters` filters."""
    taps, planes = math.prod(geometry.kernel_size), math.prod(geometry.stride[-2:])
    planes *= math.prod(geometry.kernel_size[:-2])
    layer = (parts_of(accumulator) * geometry.channels, parts_of(accumulator) * filters, geometry.groups)
    return choose_kernel(taps, planes, *layer, compiled.lanes(np.empty(0, accumulator).real.dtype))


def kernels(geometry: ConvGeometry, accumulator: np.dtype[Any]) -> tuple[str, ...]:
    """Every kernel that can compute such a layer here."""
    alone, compiled = geometry.channels == geometry.groups, native.library()
    found = ["blocks", *(["taps"] if alone else [])]
    if compiled is not None and accumulator.kind in "fc":
        found += ["wide", "planes"]
        if alone and accumulator.kind == "f" and geometry.channels >= compiled.lanes(accumulator):
            found.append("depthwise")
    return tuple(found)


@lru_cache(maxsize=256)
def make_plan(
    input_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    arithmetic: Arithmetic,
    padding_mode: str,
    steps: tuple[int, ...] | None,
    compiled: native.Native | None,
    kernel: str | None,
    band_bytes: int | None,
    threads: int,
) -> Plan:
    """Decide how to convolve; remembered, since the same layer comes again and again.

    Args:
        stride, padding, dilation, groups: as `settled_where` makes them.
        steps: `steps_of` an x that has the accumulator's dtype, and can be read where it lies.
        compiled: the library that is to compute; None for NumPy.
        kernel: one of `kernels`; by default the one that suits.
        band_bytes: of Y, or of what is copied for it, that are held at a time, at most, or one row; by
            default `BLOCK_BYTES` where something is copied, else all.
        threads: to use at most; small work is done on one.
    """
    where = (stride, padding, dilation, groups)
    geometry, filters = filter_geometry(input_shape, filter_shape, *where), filter_shape[0]
    if compiled is not None:
        kernel = kernel or suited_kernel(geometry, filters, arithmetic.accumulator, compiled)
        pairs = arithmetic.pairs and kernel == "wide" and filter_shape[-1] % 2 == 0
        if pairs and compiled.lanes(np.dtype(np.int16)):
            arithmetic, steps = arithmetic._replace(accumulator=PAIRS), None
    accumulator, result, _ = arithmetic
    itemsize, parts = accumulator.itemsize, parts_of(accumulator)
    plan = Plan(geometry, filters, arithmetic, padding_mode, kernel or "", "NumPy", False, (), None, 1, None)
    if compiled is None:
        kernel = kernel or ("taps" if geometry.channels == geometry.groups else "blocks")
        row = itemsize * max(filters, geometry.row_footprint)
        # No more than by default: BLAS rounds by the size of a block, and a stream has the bits of the whole.
        fit = min(band_bytes or BLOCK_BYTES, BLOCK_BYTES) // row
        return replace(plan, kernel=kernel, band=geometry.block_shape(fit))
    whole = band_bytes is None and (accumulator == result or result.kind == "i")
    if whole and steps is not None:
        rows = _CALL_FLOPS // (2 * geometry.terms * filters)
    else:
        row = itemsize * max(0 if whole else filters, math.prod(geometry.stride) * geometry.channels)
        rows = (band_bytes or BLOCK_BYTES) // row
    band = geometry.block_shape(rows)
    first = Block(range(math.prod(band)), tuple(map(range, band)))
    sizes = pack_block(geometry, first, steps, padding_mode, filters, parts, accumulator == PAIRS)
    real = np.empty(0, accumulator).real.dtype
    unboxed = native.Box(0, 0, 0, 0, 0, 0)
    plan = replace(plan, level=compiled.level, in_place=steps is not None, band=band, box=unboxed)
    all_at_once = steps is not None and band == (geometry.batch, *geometry.output_size)
    threads = threads if plan.worth_threads else 1
    packed = compiled.layer(sizes, real, plan.kernel, threads, result.kind == "i")
    return replace(plan, box=native.box_of(packed), threads=threads, layer=packed if all_at_once else None)


def parts_of(dtype: np.dtype[Any]) -> int:
    """Real numbers in one of the dtype's."""
    return 2 if dtype.kind == "c" else 1
