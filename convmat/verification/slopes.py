"""Slopes of a loss of the definition by central differences, which gradients are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat import reference

Array = NDArray[Any]


def weight_slopes(x: Array, w: Array, dy: Array, linear: dict[str, Any]) -> Array:
    """The slope of ⟨Y, dY⟩ along each weight, by central differences of the definition."""
    groups = linear.get("groups", 1)
    nudges = np.eye(w.size).reshape(w.size, *w.shape)
    # All nudged filters at once, as so many more filters in each group.
    nudged = np.concatenate([w + nudges, w - nudges]).reshape(2 * w.size, groups, -1, *w.shape[1:])
    filters = np.moveaxis(nudged, 0, 1).reshape(-1, *w.shape[1:])
    y = reference.convolve_by_taps(x, filters, **linear)
    by_bank = y.reshape(*dy.shape[:-1], groups, 2 * w.size, -1)
    losses = np.einsum(
        "pgbk,pgk->b", by_bank.reshape(-1, *by_bank.shape[-3:]), dy.reshape(-1, groups, len(w) // groups)
    )
    slopes = (losses[: w.size] - losses[w.size :]) / 2
    return np.reshape(slopes, w.shape)


def pixel_slopes(x: Array, w: Array, dy: Array, linear: dict[str, Any]) -> Array:
    """The slope of ⟨Y, dY⟩ along each pixel of each channel, by central differences of the definition."""
    slopes = []
    for image, towards in zip(x, dy, strict=True):  # an image's pixels matter to its outputs alone
        nudges = np.eye(image.size).reshape(image.size, *image.shape)
        y = reference.convolve_by_taps(np.concatenate([image + nudges, image - nudges]), w, **linear)
        losses = y.reshape(2 * image.size, -1) @ towards.reshape(-1)
        slopes.append(((losses[: image.size] - losses[image.size :]) / 2).reshape(image.shape))
    return np.stack(slopes)
