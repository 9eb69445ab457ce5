"""The record of an experiment: the schema of what `Experiment.record` and `Experiment.arrays` tell, as data.

Nothing of it is trusted before it is checked whole: names, shapes, dtypes and ranges, finite numbers, and
that settings, place, histories and optimizers' states fit each other. The state of random numbers is no part
of it: every draw has a generator of its own, from the seed and the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convmat.errors import GeometryError
from convmat.experiment.networks import NETWORKS
from convmat.experiment.settings import COUNT, RANGES, Settings
from convmat.files.schema import (
    Anything,
    Array,
    Either,
    Fields,
    Items,
    Kind,
    Mismatch,
    Number,
    OneOf,
    Rows,
    Text,
    Then,
    Whole,
)

LAYERS = ("first", "dense")
"""The layers that have weights, by the names that files give them."""

_EPOCH = Whole(0, COUNT.high)
_POSITIVE = Number(0)


def _experiment(said: dict[str, Any]) -> Fields:
    """What an experiment of the settings that it tells holds."""
    settings = Settings(**said["settings"])
    try:
        settings.geometry(said["image_shape"])
    except GeometryError as error:
        raise Mismatch("settings", f"must make a convolution of {said['image_shape']}: {error}") from None
    runs = Fields({name: _run(settings) for name in settings.optimizers})
    return Fields(_SETTINGS | {"runs": runs})


def _run(settings: Settings) -> Kind:
    """One optimizer's run: its place, and the numbers that are then to be there."""
    place: dict[str, Kind] = {"epoch": _EPOCH, "batch": Whole(0, settings.batches)}
    rest = dict.fromkeys(("sums", "history", "divergence"), Anything())
    return Then(Fields(place | rest), lambda run: Fields(place | _numbers(settings, **run)))


def _numbers(settings: Settings, epoch: int, batch: int, **_: object) -> dict[str, Kind]:
    """Sums over the batches done, a row for each epoch from 0 on, and, if asked for, two for each step."""
    steps = epoch * settings.batches + batch if settings.probe_divergence else 0
    sums = _POSITIVE if batch else Number(0, 0)
    return {
        "sums": Fields(dict.fromkeys(NETWORKS, sums)),
        "history": Rows((epoch + 1,) if epoch or batch else (0, 1), _history_row),
        "divergence": Rows((steps * len(LAYERS),), _divergence_row),
    }


def _history_row(number: int) -> Kind:
    """An `Epoch`."""
    return Items((Whole(number, number), *[_POSITIVE] * (2 * len(NETWORKS))))


def _divergence_row(number: int) -> Kind:
    """A `Divergence`."""
    step, layer = divmod(number, len(LAYERS))
    return Items((Whole(step + 1, step + 1), OneOf((LAYERS[layer],)), *[_POSITIVE] * 5))


_SETTINGS: dict[str, Kind] = {
    "settings": Fields(RANGES),
    "data": Either((OneOf((None,)), Text()), "a name, or nothing where digits were drawn"),
    "image_shape": Items((COUNT, COUNT, COUNT)),
    "digest": Whole(0, 2**32 - 1),
}
RECORD = Then(Fields(_SETTINGS | {"runs": Anything()}), _experiment)
"""What `Experiment.record` tells."""


def array_kinds(settings: Settings, image_shape: Sequence[int]) -> dict[str, Array]:
    """What `Experiment.arrays` tells of images (H, W, C): weights, and Adam's moments, v of squares."""
    shapes = dict(
        zip(LAYERS, (settings.first_shape(image_shape), settings.dense_shape(image_shape)), strict=True)
    )
    kinds = {f"initial_{layer}": Array(shape, settings.dtype) for layer, shape in shapes.items()}
    for optimizer in settings.optimizers:
        for network in NETWORKS:
            for layer, shape in shapes.items():
                key = f"{optimizer}_{network}_{layer}"
                kinds[key] = Array(shape, settings.dtype)
                if optimizer == "adam":
                    kinds[f"{key}_m"] = Array(shape, settings.dtype)
                    kinds[f"{key}_v"] = Array(shape, settings.dtype, low=0)
    return kinds
