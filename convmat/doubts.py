"""Doubts about how an array's axes were read, where its shape speaks for another layout.

A shape alone decides nothing, so these are guesses, told as warnings and never acted upon. They look for what
hardly ever is: images 3 pixels high with hundreds of channels, kernels of 3 × 7 for 7 channels.
"""

from __future__ import annotations

import math

_CHANNELS = (1, 3, 4)  # of pictures
_IMAGE = 8  # pixels; what is smaller may be anything
_SIGNAL = 64  # the same of one axis, where sequences with many channels are common
_LONG = 16  # a side is hardly so many times as long as the other
_DEEP = 256  # channels, more than cameras have; layers have more, on images that are not
_LARGE = 1 << 16  # pixels


def likelier_layout(shape: tuple[int, ...], dims: int) -> str | None:
    """The layout, "nchw" or "nhw", in which an array of `shape` is likelier meant than in "nhwc", if any."""
    batch = len(shape) == dims + 2
    if len(shape) not in (dims + 1, dims + 2) or 0 in shape:
        return None
    # Read as (first, ..., C), where `others` would be the spatial axes if the first were N or C.
    first, others = shape[-dims - 1], shape[-dims:]
    likelier = "nchw" if batch or first in _CHANNELS else "nhw"
    least = _IMAGE if dims > 1 else _SIGNAL
    if first in _CHANNELS and min(others) >= least:
        return likelier
    if dims == 1:
        return None
    equal = len(set(others)) == 1 and first != others[0]
    if equal and (others[0] >= _IMAGE or (others[0] > 1 and first >= _IMAGE * others[0])):
        return likelier
    long = first >= _LONG * others[0] and min(others) >= _IMAGE
    deep = shape[-1] > _DEEP and math.prod(shape[-dims - 1 : -1]) >= _LARGE
    return likelier if long or deep else None


def likelier_kernel_layout(shape: tuple[int, ...], dims: int) -> str | None:
    """The layout, "oihw" or "hwio", in which kernels of `shape` are likelier meant than in "ohwi", if any.

    It is told by kernels being as wide as high in the other reading, and not in this one. "hwc" stands for
    one filter whose channels were taken for its last spatial axis, which no layout reads.
    """
    if dims == 1 or len(shape) not in (dims + 1, dims + 2):
        return None
    if len(shape) == dims + 1:
        # Read as K single-channel filters: 3 × 3 × 3 is as well one filter of three channels.
        three = shape == (3,) * (dims + 1)
        return "hwc" if three or (_is_kernel(shape[:-1]) and not _is_kernel(shape[1:])) else None
    if len(set(shape[1:-1])) == 1:
        return None
    if _is_kernel(shape[2:], shape[1]):
        return "oihw"
    return "hwio" if _is_kernel(shape[:dims], shape[dims]) else None


def _is_kernel(size: tuple[int, ...], depth: int = 0) -> bool:
    """Whether kernels of this size are usual: as wide as high, or of 1 × 1 with many channels."""
    return len(set(size)) == 1 and (size[0] > 1 or depth >= _IMAGE)
