"""How far the two networks are apart after a step, in units of rounding, and which weights drifted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from convmat.experiment.networks import Network
from convmat.experiment.optimizers import SGD, Adam, pieces

SMALL = 1e-4
"""A weight's gradients count as small below this part of their layer's root mean square."""


class Divergence(NamedTuple):
    """One layer of both networks after one step.

    Differences are ‖CNN's − FC network's‖ / ‖CNN's‖ in units of u, the unit roundoff of the dtype: 1 is what
    rounding every number once may cost.
    """

    step: int
    layer: str
    gradients: float
    moves: float
    """Of what the optimizer subtracted from the weights."""
    weights: float
    small: float
    """Part of the weights that move whose size √v̂ is below `SMALL` of the layer's; 0 for SGD."""
    small_moves: float
    """Part of the moves' squared difference that is theirs."""

    @property
    def amplification(self) -> float:
        """How many times larger the moves' relative difference is than the gradients'; 1 for SGD."""
        return self.moves / self.gradients if self.gradients else math.nan


def measure(
    step: int, networks: Mapping[str, Network], updates: Mapping[str, SGD | Adam]
) -> Iterator[Divergence]:
    """Each layer after an optimizer's step, piece by piece, without copies of 17 million weights."""
    cnn, fc = networks["cnn"].layers, networks["fc"].layers
    for number, layer in enumerate(cnn):
        a, b = cnn[layer], fc[layer]
        sums: dict[str, float] = dict.fromkeys(("gradients", "moves", "weights", "small_moves"), 0.0)
        norms = dict(sums)
        moved, small = 0, 0
        optimizer = updates["cnn"]
        limit = (
            SMALL**2 * float(np.mean(optimizer.v[number], dtype=float)) if isinstance(optimizer, Adam) else 0
        )
        moves = zip(
            updates["cnn"].moves(number, a.gradient), updates["fc"].moves(number, b.gradient), strict=True
        )
        values = pieces(a.gradient, b.gradient, a.weights, b.weights)
        for (g, other_g, w, other_w), ((move, v), (other_move, _)) in zip(values, moves, strict=True):
            pairs = {"gradients": (g, other_g), "moves": (move, other_move), "weights": (w, other_w)}
            for key, (ours, other) in pairs.items():
                sums[key] += _squares(ours - other)
                norms[key] += _squares(ours)
            if v is not None:
                few = (v < limit) & (v > 0)
                moved += int(np.count_nonzero(v))
                small += int(np.count_nonzero(few))
                sums["small_moves"] += _squares((move - other_move)[few])
        u = float(np.finfo(a.weights.dtype).eps) / 2
        apart = {key: math.sqrt(sums[key] / norms[key]) / u if norms[key] else 0.0 for key in pairs}
        share = sums["small_moves"] / sums["moves"] if sums["moves"] else 0.0
        yield Divergence(step, layer, **apart, small=small / max(moved, 1), small_moves=share)


def _squares(values: Any) -> float:
    return float(np.square(values, dtype=np.float64).sum())
