"""The gradients that `verify` judges: dX, dW and db of a layer, from its dY."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import click
from numpy.typing import NDArray

from convmat.cli.command import refuse
from convmat.cli.inputs import check_one_pipe
from convmat.cli.judged import (
    Judged,
    Result,
    VerifyOptions,
    as_images,
    diagnosis,
    judged,
    may_be_told,
    results,
)
from convmat.cli.layer import (
    depthwise_groups,
    geometry_of,
    open_input,
    open_layer,
    open_linear_layer,
)
from convmat.cli.options import LayerOptions
from convmat.cli.output import watching
from convmat.errors import ShapeError
from convmat.files.memory import check_memory
from convmat.files.npy import NpyInput
from convmat.geometry import ConvGeometry
from convmat.layouts import from_batch_shape, output_layout, said_axes, to_batch, to_filters
from convmat.report.facts import geometry_facts, input_fact
from convmat.shown import Fact
from convmat.verification.backward import (
    diagnose_bias_gradient,
    diagnose_input_gradient,
    diagnose_weight_gradient,
)
from convmat.verification.comparison import working_bytes
from convmat.verification.gradients import (
    check_grad,
    gradient_bytes,
    verify_bias_gradient,
    verify_input_gradient,
    verify_weight_gradient,
)

_FEWER = "verify a few images of it at a time"


def judge_input_gradient(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    """dX, of an input of which only the shape matters."""
    layer, grad = asks.layer, _open_grad(inputs, asks)
    batch, arguments = open_linear_layer(inputs, layer, asks.input_shape, asks.expected)
    geometry, filters = geometry_of(batch.shape, arguments), arguments.pop("filters")
    if asks.input_shape is not None and not said_axes(asks.input_shape, layer.axes, layer.layout)[0]:
        geometry = geometry.for_batch(_images(grad.outline, geometry, layer))
    dy_as = _as_result(grad.outline, geometry, layer, len(filters))
    shape, mine = geometry.input_shape, Result(asks.expected)
    _check_room(grad.nbytes, mine.nbytes(8 * math.prod(shape)), geometry, dy_as, shape)

    def fits(array: NDArray[Any]) -> bool:
        known = as_images(array, layer.axes, layer.layout).shape == shape
        return known or may_be_told(asks, array, math.prod(shape))

    raw = mine.read(fits)
    dy = _as_result(grad.read(), geometry, layer, len(filters))
    result = None if raw is None else as_images(raw, layer.axes, layer.layout)
    how = {**arguments, **asks.tolerance}
    verdict = verify_input_gradient(dy, filters, shape, result, **how, watch=watching("part"))
    layout, watch = output_layout(layer.layout), watching("mistake")
    find = partial(diagnose_input_gradient, dy, filters, shape, **how, layout=layout, watch=watch)
    more = diagnosis(asks, verdict, raw, find)
    facts = [*batch.facts(), _grad_fact(asks), *geometry_facts(geometry, layer.padding_mode)]
    given = None if raw is None else raw.shape
    return judged(verdict, facts, more, stage="dx", given=given, layout=layer.layout)


def judge_weight_gradient(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    """dW, of a kernel of which only the shape matters."""
    layer, grad = asks.layer, _open_grad(inputs, asks)
    if layer.kernel is None and asks.expected is None:
        refuse(["kernel_layout"], "goes with --kernel or --expected")
    batch, geometry, count = _open_patches(inputs, layer)
    dy_as = _as_result(grad.outline, geometry, layer, count)
    shape = (dy_as.shape[-1], *geometry.kernel_size, geometry.channels // geometry.groups)
    mine = Result(asks.expected)
    _check_room(batch.nbytes + grad.nbytes, mine.nbytes(8 * math.prod(shape)), geometry, dy_as, shape)

    def as_filters(array: NDArray[Any]) -> NDArray[Any]:
        axes = layer.axes
        return to_filters(array, axes, layer.kernel_layout) if axes <= array.ndim <= axes + 2 else array

    raw = mine.read(lambda a: as_filters(a).shape == shape or may_be_told(asks, a, math.prod(shape)))
    operands = (batch.read(), _as_result(grad.read(), geometry, layer, count), geometry.kernel_size)
    how = {**layer.steps, "groups": geometry.groups, "flip": layer.flip, "padding_mode": layer.padding_mode}
    how |= asks.tolerance
    result = None if raw is None else as_filters(raw)
    verdict = verify_weight_gradient(*operands, result, **how, watch=watching("part"))
    layout, watch = layer.kernel_layout, watching("mistake")
    find = partial(diagnose_weight_gradient, *operands, **how, kernel_layout=layout, watch=watch)
    more = diagnosis(asks, verdict, raw, find)
    facts = [*batch.facts(), _grad_fact(asks), *geometry_facts(geometry, layer.padding_mode)]
    return judged(verdict, facts, more, stage="dw")


def judge_bias_gradient(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    """db, for which dY is enough; with an input and a kernel dY has to be of their layer."""
    layer, grad = asks.layer, _open_grad(inputs, asks)
    if inputs:
        batch, geometry, count = _open_patches(inputs, layer)
        facts = [*batch.facts(), _grad_fact(asks), *geometry_facts(geometry, layer.padding_mode)]

        def read(array: NDArray[Any]) -> NDArray[Any]:
            return _as_result(array, geometry, layer, count)
    else:
        refuse(
            ("kernel", "kernel_layout", "kernel_size", "stride", "padding", "padding_mode", "dilation"),
            "goes with INPUT; db alone needs no more than --grad",
        )
        refuse(("groups", "depthwise", "flip", "frame", "alpha"), "goes with INPUT")
        facts = [input_fact([]), _grad_fact(asks)]

        def read(array: NDArray[Any]) -> NDArray[Any]:
            try:
                return to_batch(array, layer.axes, layer.layout)
            except ShapeError as error:
                raise ShapeError("grad", error.problem) from None

    mine, dy_as = Result(asks.expected), read(grad.outline)
    check_memory("grad", grad.nbytes + mine.nbytes(0) + working_bytes(dy_as.size, dy_as.dtype), _FEWER)
    size = max(dy_as.shape)  # of a sum over the wrong axes
    result = mine.read(lambda a: a.shape == dy_as.shape[-1:] or may_be_told(asks, a, size))
    dy = read(grad.read())
    verdict = verify_bias_gradient(dy, result, watch=watching("part"), **asks.tolerance)
    find = partial(diagnose_bias_gradient, dy, watch=watching("mistake"), **asks.tolerance)
    return judged(verdict, facts, diagnosis(asks, verdict, result, find, size), stage="db")


def _open_grad(inputs: tuple[str, ...], asks: VerifyOptions) -> NpyInput:
    """The header of dY."""
    if asks.grad is None:
        raise click.UsageError("Missing option '--grad'; a gradient is that of a dY, (N, H_out, W_out, K)")
    check_one_pipe(*inputs, asks.layer.kernel, asks.expected, asks.grad)
    return NpyInput(asks.grad)


def _grad_fact(asks: VerifyOptions) -> Fact:
    return input_fact([asks.grad or ""])._replace(key="grad", label="dY")


def _open_patches(inputs: tuple[str, ...], layer: LayerOptions) -> tuple[Any, ConvGeometry, int | None]:
    """An input, and its geometry by the size of the kernel, and how many filters that has, if it is there."""
    if (layer.kernel is None) == (layer.kernel_size is None):
        raise click.UsageError("Give either --kernel or --k, to say how large the filters are")
    if layer.kernel is not None:
        batch, arguments = open_layer(inputs, layer)
        return batch, geometry_of(batch.shape, arguments), len(arguments["filters"])
    batch = open_input(inputs, layer)
    groups = depthwise_groups(layer.groups, batch.shape[-1]) if layer.depthwise else layer.groups
    return batch, ConvGeometry(batch.shape, layer.kernel_size, **layer.steps, groups=groups), None


def _images(dy: NDArray[Any], geometry: ConvGeometry, layer: LayerOptions) -> int:
    """N, as dY has it, which is Y or its rows."""
    said = as_images(dy, layer.axes, layer.layout)
    if said.shape[1:-1] == geometry.output_size:
        return len(said)
    return max(math.prod(dy.shape[:-1]) // geometry.patches, 1)


def _as_result(
    array: NDArray[Any], geometry: ConvGeometry, layer: LayerOptions, count: int | None
) -> NDArray[Any]:
    """dY as (N, *out, K), of an array in the layout of results, or of rows.

    Raises:
        ShapeError: one that is not of the layer's result.
    """
    said = as_images(array, layer.axes, layer.layout)
    depth = said.shape[-1] if said.shape[:-1] == geometry.positions else array.shape[-1]
    dy = next(iter(results(array, (*geometry.positions, depth), layer.layout).values()))
    try:
        check_grad(dy.shape, geometry, count)
    except ShapeError:
        wanted = from_batch_shape((*geometry.positions, count or depth), output_layout(layer.layout))
        raise ShapeError(
            "grad", f"has shape {array.shape}, the layer's result has {wanted}; give dY of that shape"
        ) from None
    return dy


def _check_room(
    given: int, result: int, geometry: ConvGeometry, dy: NDArray[Any], shape: tuple[int, ...]
) -> None:
    """Refuse a gradient that there is no memory to judge."""
    working = working_bytes(math.prod(shape), dy.dtype) + gradient_bytes(geometry, dy.shape[-1])
    check_memory("grad", given + result + working, _FEWER)
