"""Known mistakes of gradients: of the layer, of dY, and of what is summed; see `attempts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.arrays import numbers
from convmat.errors import ShapeError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.plan import filter_geometry
from convmat.verification.attempts import Slip, fitted, in_growing_parts, of_layer, readings, search
from convmat.verification.comparison import Definition
from convmat.verification.computed import Computation
from convmat.verification.diagnosis import Findings
from convmat.verification.gradients import (
    bias_definition,
    input_definition,
    input_layer,
    weight_definition,
    weight_layer,
)
from convmat.verification.judge import Rule
from convmat.verification.moved import orders, readings_of_images, turned_taps
from convmat.watching import Watch, unwatched
from convmat.words import TAP_NAMES

Array = NDArray[Any]


def diagnose_input_gradient(
    grad: Array,
    filters: Array,
    input_shape: Sequence[int],
    expected: Array,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    layout: str = "nhwc",
    watch: Watch = unwatched,
    **judged: Any,
) -> Findings:
    """The known mistakes that explain a wrong dX; arguments as `verify_input_gradient` takes them, but that
    `expected` may have any shape, and is in `layout`.
    """
    grad, filters, expected = (
        numbers("grad", grad),
        numbers("filters", filters),
        numbers("expected", expected),
    )
    geometry = filter_geometry(tuple(input_shape), filters.shape, stride, padding, dilation, groups)
    meant = input_layer(filters, geometry, flip, padding_mode)

    def defined(layer: Computation, towards: Array = grad) -> Definition:
        towards = fitted(towards, layer.convolved_shape[1:-1])
        if towards.shape != layer.convolved_shape or layer.x.shape[0] != meant.x.shape[0]:
            raise ShapeError("grad", "is not of this layer")
        return in_growing_parts(input_definition(towards, layer), layer.x.shape[:-1], layer.x.shape[-1])

    parts = ("filters", "padding", "padding-mode", "layer")
    slips = [Slip(key, phrase, partial(defined, layer)) for key, phrase, layer in of_layer(meant, parts)]
    if geometry.groups == 1 and len(filters) == geometry.channels:
        swapped = replace(meant, filters=meant.filters.swapaxes(0, -1))
        phrase = "with the filters and the channels of the kernel swapped"
        slips.append(Slip("kernel-filters-channels-swapped", phrase, partial(defined, swapped)))
    slips += _of_grad(meant, grad, partial(defined, meant)) + _scaled(partial(defined, meant), grad)
    known = readings_of_images(meant.x.shape, layout)
    shapes = [tuple(meant.x.shape[axis] for axis in known[0].order)]
    return search(expected, defined(meant), slips, known, Rule.of(**judged), shapes, watch)


def diagnose_weight_gradient(
    x: Array,
    grad: Array,
    kernel_size: Sizes,
    expected: Array,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    flip: bool = False,
    padding_mode: str = "zeros",
    kernel_layout: str = "ohwi",
    watch: Watch = unwatched,
    **judged: Any,
) -> Findings:
    """The known mistakes that explain a wrong dW; arguments as `verify_weight_gradient` takes them, but that
    `expected` may have any shape, and is in `kernel_layout`.
    """
    x, grad, expected = numbers("input", x), numbers("grad", grad), numbers("expected", expected)
    geometry = ConvGeometry(x.shape, kernel_size, stride, padding, dilation, groups)
    meant = weight_layer(x, grad.shape[-1], geometry, padding_mode)

    def defined(layer: Computation, towards: Array = grad) -> Definition:
        towards = fitted(towards, layer.convolved_shape[1:-1])
        if towards.shape != layer.convolved_shape:
            raise ShapeError("grad", "is not of this layer")
        shape = layer.filters.shape
        return in_growing_parts(weight_definition(towards, layer, flip), shape[:-1], shape[-1])

    parts = ("image", "padding", "padding-mode", "layer", "groups")
    slips = [Slip(key, phrase, partial(defined, layer)) for key, phrase, layer in of_layer(meant, parts)]

    def of_images(some: slice) -> Definition:
        return defined(replace(meant, x=x[some]), grad[some])

    slips += _of_grad(meant, grad, partial(defined, meant)) + _scaled(partial(defined, meant), grad)
    slips += _of_one_image(of_images, len(x))
    axes = len(geometry.kernel_size)
    letters = ["k", *TAP_NAMES[axes], "c"]
    right = {"ohwi": letters, "oihw": ["k", "c", *TAP_NAMES[axes]], "hwio": [*letters[1:], "k"]}[
        kernel_layout
    ]
    turned = [
        *turned_taps(axes, 1),
        ("channels-reversed", "with the channels reversed", (axes + 1,)),
        ("filters-reversed", "with the filters in reverse order", (0,)),
    ]
    shape = meant.filters.shape
    known = readings(shape, orders(letters, right), turned)
    shapes = [tuple(shape[axis] for axis in known[0].order)]
    return search(expected, defined(meant), slips, known, Rule.of(**judged), shapes, watch)


def diagnose_bias_gradient(grad: Array, expected: Array, watch: Watch = unwatched, **judged: Any) -> Findings:
    """The known mistakes that explain a wrong db, of any shape; dY is (N, *out, K)."""
    grad, expected = numbers("grad", grad), numbers("expected", expected)
    nothing = np.broadcast_to(np.zeros(1), (*grad.shape[:-1], 1))
    one = (1,) * (grad.ndim - 2)
    meant = Computation(
        nothing, np.broadcast_to(np.zeros(1), (grad.shape[-1], *one, 1)), one, "valid", one, 1, None, "zeros"
    )
    slips = _scaled(partial(bias_definition, grad), grad)
    slips += _of_grad(meant, grad, bias_definition)
    slips += _of_one_image(lambda some: bias_definition(grad[some]), len(grad))
    names = ["n", *("zyx"[-len(one) :] if one else ""), "k"]
    for axis, name in enumerate(names[:-1]):
        phrase = f"summed over all axes of dY but {name}"
        slips.append(
            Slip(f"summed-but-{name}", phrase, partial(bias_definition, np.moveaxis(grad, axis, -1)))
        )
    turned = [("filters-reversed", "with the filters in reverse order", (0,))]
    known = readings(grad.shape[-1:], [((0,), [])], turned)
    right = bias_definition(grad)
    return search(expected, right, slips, known, Rule.of(**judged), [grad.shape[-1:]], watch)


def _of_grad(layer: Computation, grad: Array, defined: Callable[[Array], Definition]) -> list[Slip]:
    """dY taken for another: transposed, in the other layout, the first image in place of all."""
    as_image = replace(
        layer, x=grad, filters=np.broadcast_to(np.zeros(1), (1, *layer.kernel, grad.shape[-1]))
    )
    slips = []
    for key, phrase, changed in of_layer(as_image, ("image",)):
        if changed.x.dtype == grad.dtype:
            named = phrase.replace("with the image", "with dY").replace("the hwc image", "dY in hwc")
            named = named.replace("the chw image", "dY in chw").replace(
                "the channels reversed (RGB for BGR)", "the channels of dY reversed"
            )
            slips.append(Slip(f"grad-{key.removeprefix('image-')}", named, partial(defined, changed.x)))
    return slips


def _scaled(defined: Callable[[], Definition], grad: Array) -> list[Slip]:
    """Means in place of sums, and what is added twice."""
    images, outputs = len(grad), math.prod(grad.shape[1:-1])
    factors = [
        ("averaged-over-the-batch", "divided by the number of images", images),
        ("averaged-over-the-outputs", "divided by the number of outputs of an image", outputs),
        ("averaged", "divided by the number of all outputs, a mean in place of the sum", images * outputs),
        ("negative", "with the other sign", -1),
        ("doubled", "added twice", 0.5),
        ("batch-counted-again", "multiplied by the number of images", 1 / max(images, 1)),
    ]  # fmt: skip
    return [
        Slip(key, phrase, partial(_divided, defined, divisor))
        for key, phrase, divisor in factors
        if divisor not in (0, 1)
    ]


def _divided(defined: Callable[[], Definition], divisor: float) -> Definition:
    """A definition divided by a number, which takes two roundings more."""
    right = defined()
    sizes, flushed = right.sizes, right.flushed
    assert sizes is not None and flushed is not None  # gradients are sums
    return replace(
        right,
        values=lambda part: right.values(part) / divisor,
        sizes=lambda part: sizes(part) / abs(divisor),
        flushed=lambda part, subnormal: flushed(part, subnormal) / abs(divisor),
        terms=right.terms + 2,
        divided=True,
    )


def _of_one_image(of_images: Callable[[slice], Definition], count: int) -> list[Slip]:
    """What is not summed over the batch."""
    if count < 2:
        return []
    ends = (("first", slice(0, 1)), ("last", slice(count - 1, count)))
    return [
        Slip(
            f"{name}-image-alone",
            f"of the {name} image alone, not summed over the batch",
            partial(of_images, some),
        )
        for name, some in ends
    ]
