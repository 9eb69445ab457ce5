"""Singular values of the layers of a network, each as one matrix: exact where cheap, else between bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import ConvmatError
from convmat.files.memory import check_memory
from convmat.matrix import LayerMap, layer_map
from convmat.networks.layers import Layer
from convmat.networks.model import Model, attributes_of, shape_text
from convmat.spectrum import QUICK, Spectrum
from convmat.watching import Watch, unwatched

Array = NDArray[Any]


class Stretch(NamedTuple):
    """What a layer does to lengths."""

    spectrum: Spectrum | None
    """Without the values themselves."""
    shape: tuple[int, int] | None
    """Of the matrix M, for one image, or for one line of what an FC layer takes."""
    why: str | None = None
    """Why there is no spectrum."""


def spectra_of(
    layers: Iterable[Layer], weights: Callable[[Layer], Array], watch: Watch = unwatched
) -> Iterator[Stretch]:
    """The singular values of each layer, one after another; nothing of it is kept, nor all of the values.

    Args:
        weights: has a layer's weights; what it raises is told of the layer.
    """
    every = list(layers)
    for layer in watch(every, len(every)):
        try:
            m = map_of(layer, weights(layer))
            check_memory(layer.name, m.spectrum_bytes(QUICK), "give a smaller input")
            found = m.spectrum(effort=QUICK)
        except ConvmatError as error:
            yield Stretch(None, None, error.problem)
            continue
        if found is None:
            yield Stretch(None, m.shape, "its weights are not finite")
        else:
            yield Stretch(replace(found, values=None), m.shape)


class _Unknown(ConvmatError):
    """A layer that is no one matrix."""


def map_of(layer: Layer, weights: Array) -> LayerMap:
    """A layer as a linear map, a ConvTranspose as its adjoint, which has the same singular values.

    Args:
        weights: as `weights_of` has them; of FC layers the factor (n, K), or (groups, n, K).

    Raises:
        ConvmatError: its sizes are not known, or it is no one matrix.
    """
    if not layer.is_conv:
        w = weights if weights.ndim > 2 else weights[None]
        groups, n, k = w.shape
        return layer_map(w.swapaxes(1, 2).reshape(groups * k, 1, n), (1, groups * n), groups=groups)
    g = layer.geometry
    if g is None:
        why = "its sizes are not known; give --input-shape"
        raise _Unknown(
            layer.name, why if layer.node is not None else "an input of that shape does not fit it"
        )
    if layer.is_transposed and g.output_size != (layer.input_shape or ())[2:]:
        raise _Unknown(layer.name, "its output padding is not below its stride, so that it is no adjoint")
    return layer_map(np.moveaxis(weights, 1, -1), g.input_shape, g.stride, g.pads, g.dilation, g.groups)


def weights_of(model: Model, layer: Layer) -> Array:
    """What a layer's input is multiplied by, in float64: zero points subtracted, scales multiplied in.

    Raises:
        ConvmatError: it depends on the input, or is no one matrix.
    """
    w, x = factors(model, layer)
    if not model.is_constant(w):
        both = "its factors both depend" if layer.op == "MatMul" else "its weights depend"
        raise _Unknown(layer.name, f"{both} on the network's input")
    try:
        weights = model.constant(w).astype(np.float64)
    except (TypeError, ValueError):  # strings, and the like
        raise _Unknown(layer.name, "its weights are no numbers") from None
    if not weights.size or not weights.ndim:
        raise _Unknown(layer.name, f"its weights are {shape_text(weights.shape)}, no matrix")
    if layer.op in _WHOLE:
        weights = _dequantized(model, layer, weights)
    if layer.is_conv:
        return weights
    options = attributes_of(layer.node)
    if layer.op == "Gemm":
        turned = bool(options.get("transA" if w == layer.x else "transB"))
        weights = weights.T if turned else weights
        weights = weights * options.get("alpha", 1.0)
    if weights.ndim == 1:
        weights = weights[:, None]
    elif w == layer.x:
        weights = weights.swapaxes(-1, -2)
    return _batched(layer, weights, model.shapes.get(x))


def factors(model: Model, layer: Layer) -> tuple[str, str]:
    """The names of a layer's weights, and of what they are multiplied with."""
    if layer.op in ("Gemm", "MatMul") and model.is_constant(layer.x):
        return layer.x, layer.w
    return layer.w, layer.x


_WHOLE = {
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), (None, 3)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), (4, 5)),
}
"""Operators on whole numbers, and which inputs are the scale and the zero point of their weights."""


def _dequantized(model: Model, layer: Layer, weights: Array) -> Array:
    """What whole numbers stand for: one scale and zero point, or one for each filter."""
    scale, zero = _WHOLE[layer.op]
    count = weights.shape[0 if layer.is_conv else -1]
    each = (count, *[1] * (weights.ndim - 1)) if layer.is_conv else (count,)
    for at, combine in ((zero, np.subtract), (scale, np.multiply)):
        name = None if at is None else layer.other(at)
        if name is None:
            continue
        if not model.is_constant(name):
            raise _Unknown(layer.name, "the scale of its weights depends on the network's input")
        number = model.constant(name).astype(np.float64)
        if number.size not in (1, count):
            why = f"it has {count} filters, and {number.size} scales or zero points"
            raise _Unknown(layer.name, why)
        weights = combine(weights, number.reshape(each if number.size == count else ()))
    return weights


def _batched(layer: Layer, weights: Array, shape: tuple[int | None, ...] | None) -> Array:
    """A batch of factors, each met by a factor of its own, is block diagonal: (groups, n, K)."""
    batch = weights.shape[:-2]
    if math.prod(batch) == 1:
        return weights.reshape(weights.shape[-2:])
    if shape is None or shape[:-2][-len(batch) :] != batch:
        raise _Unknown(layer.name, "several matrices meet the same numbers in it")
    return weights.reshape(-1, *weights.shape[-2:])
