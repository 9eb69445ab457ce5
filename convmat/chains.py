"""Layers one after another: output sizes, receptive field and total stride; pure integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from convmat.checks import INT64, got, several, spatial_shape
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry

MOST_LAYERS = 1000
_KEYS = {"kernel_size", "stride", "padding", "dilation"}


@dataclass(frozen=True)
class ChainLayer:
    """One layer of a chain, and how its outputs see the chain's input; a number for each spatial axis.

    Along an axis, output y sees the input from pixel start + y·total_stride on, receptive_field pixels of it.
    """

    geometry: ConvGeometry
    """The layer itself, on what the layers before it give."""
    receptive_field: tuple[int, ...]
    """Input pixels an output spans, from the first that can reach it to the last:
    r_l = r_(l−1) + (extent_l − 1)·j_(l−1)."""
    total_stride: tuple[int, ...]
    """Input pixels from an output to the next, j_l = j_(l−1)·S_l."""
    start: tuple[int, ...]
    """First input pixel that output 0 sees, negative in the padding: start_l = start_(l−1) − P_l·j_(l−1)."""


def chain(input_shape: Sequence[SupportsIndex], layers: Sequence[Mapping[str, Any]]) -> list[ChainLayer]:
    """Convolutions or poolings one after another, from the first on.

    The formulas are those of Araujo, Norris & Sim (2019), "Computing Receptive Fields of Convolutional Neural
    Networks". With dilation a receptive field may have gaps.

    Args:
        input_shape: (N, *spatial, C) of the first layer's input; C plays no part.
        layers: `kernel_size`, and where they are not the default `stride`, `padding`, `dilation` of each, as
            `ConvGeometry` takes them.

    Raises:
        GeometryError: sizes that make no convolution, or strides of 2^63 pixels in all; it names the layer,
            from 1. Or more layers than `MOST_LAYERS`.
    """
    shape = spatial_shape("input_shape", input_shape)
    parts = several(layers)
    if parts is None:
        raise GeometryError("layers", f"expected mappings, one for each layer, got {got(layers)}")
    if len(parts) > MOST_LAYERS:
        raise GeometryError("layers", f"got {len(parts)}, expected at most {MOST_LAYERS}; give a part")
    axes = len(shape) - 2
    field, jump, start = (1,) * axes, (1,) * axes, (0,) * axes
    found = []
    for number, layer in enumerate(parts, 1):
        if not isinstance(layer, Mapping) or not {"kernel_size"} <= set(layer) <= _KEYS:
            keys = "kernel_size, and stride, padding, dilation where need be"
            raise GeometryError("layers", f"number {number} is {got(layer)}; expected a mapping with {keys}")
        try:
            g = ConvGeometry(shape, **layer)
        except GeometryError as error:
            raise GeometryError("layer", f"number {number}: {error}") from None
        field = tuple(r + (extent - 1) * j for r, extent, j in zip(field, g.extent, jump, strict=True))
        start = tuple(at - before * j for at, (before, _), j in zip(start, g.pads, jump, strict=True))
        jump = tuple(j * s for j, s in zip(jump, g.stride, strict=True))
        if max(*field, *jump, *map(abs, start)) > INT64:
            raise GeometryError("layer", f"number {number}: has outputs that see pixels beyond {INT64}")
        found.append(ChainLayer(g, field, jump, start))
        shape = (shape[0], *g.output_size, shape[-1])
    return found
