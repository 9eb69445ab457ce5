"""The experiment's settings: their ranges, each once, and the memory that they ask for; no arrays in here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from convmat.axis import PADDING_NAMES
from convmat.errors import SettingError, ShapeError
from convmat.files.schema import SEED, Either, Items, Kind, Mismatch, Number, OneOf, Whole
from convmat.geometry import ConvGeometry, Padding, Sizes

OPTIMIZERS = ("sgd", "adam")

LEARNING_RATES = {"sgd": 0.3, "adam": 0.001}
"""The defaults. Adam's is its paper's; of SGD's, docs/experiment.md tells how it was chosen."""

PAPER = {"optimizer": "both", "epochs": 400}
"""What the paper did that `Settings` does not do by default."""

NEW_IMAGES = 1000
"""Images that neither network has seen, on which the outputs of the first layers are compared; at most."""

EVALUATED = 128
"""Images that are evaluated at a time, at most: a signal waits for no more."""

COUNT = Whole(1, 1_000_000_000)
_PIXELS = Whole(0, COUNT.high)
_RATE = Number(0, 1e38, above=True)  # float32 holds it
_SIZES = Either((COUNT, Items((COUNT, COUNT))), f"{COUNT}, for both axes or for each")

RANGES: dict[str, Kind] = {
    "optimizer": OneOf((*OPTIMIZERS, "both")),
    "epochs": COUNT,
    "filters": COUNT,
    "kernel_size": _SIZES,
    "stride": _SIZES,
    "padding": Either(
        (
            OneOf(PADDING_NAMES),
            _PIXELS,
            Items((_PIXELS, _PIXELS)),
            Items((Items((_PIXELS, _PIXELS)), Items((_PIXELS, _PIXELS)))),
        ),
        f"{', '.join(PADDING_NAMES)}, or {_PIXELS}, for both axes, for each, or for each side",
    ),
    "train_size": COUNT,
    "val_size": COUNT,
    "batch_size": COUNT,
    "lr": Either((OneOf((None,)), _RATE), str(_RATE)),
    "seed": SEED,
    "dtype": OneOf(("float32", "float64")),
    "probe_divergence": OneOf((False, True)),
}
"""What each setting may be: for `Settings`, the command line and the record of a run."""


@dataclass(frozen=True)
class Settings:
    """All that decides a run's numbers; the defaults are the paper's but for `epochs`, 400 there.

    Raises:
        SettingError: a value outside its range of `RANGES`.
    """

    optimizer: str = "sgd"
    """"sgd", "adam", or "both", one after the other."""
    epochs: int = 12
    filters: int = 128
    kernel_size: Sizes = 4
    stride: Sizes = 2
    padding: Padding = "valid"
    train_size: int = 1000
    val_size: int = 1000
    batch_size: int = 128
    lr: float | None = None
    """None for each optimizer's own of `LEARNING_RATES`."""
    seed: int = 0
    dtype: str = "float32"
    probe_divergence: bool = False
    """Measure at each step how far the networks' gradients and weights are apart."""

    def __post_init__(self) -> None:
        for name, kind in RANGES.items():
            value = _plain(getattr(self, name))
            try:
                kind.check(value)
            except Mismatch as mismatch:
                raise SettingError(name, mismatch.problem) from None
            object.__setattr__(self, name, value)

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers, in the order of their runs."""
        return OPTIMIZERS if self.optimizer == "both" else (self.optimizer,)

    def learning_rate(self, optimizer: str) -> float:
        """The learning rate of an optimizer's run."""
        return LEARNING_RATES[optimizer] if self.lr is None else self.lr

    @property
    def batches(self) -> int:
        """Steps of an epoch; the last may have fewer images."""
        return -(-self.train_size // self.batch_size)

    @property
    def images(self) -> int:
        """Images that a run wants: to train on, to validate on, and new ones."""
        return self.train_size + self.val_size + NEW_IMAGES

    def check_images(self, shape: Sequence[int]) -> None:
        """Raise ShapeError unless an array of this shape, (N, H, W, C), has images enough."""
        needed = self.train_size + self.val_size
        if len(shape) != 4:
            raise ShapeError("data", f"has shape {tuple(shape)}; expected (N, H, W, C)")
        if shape[0] < needed:
            raise ShapeError(
                "data",
                f"has {shape[0]} images; {self.train_size} to train and {self.val_size} to "
                f"validate on are {needed}: give smaller --train-size and --val-size, or more images",
            )

    def geometry(self, image_shape: Sequence[int]) -> ConvGeometry:
        """The first layer's, for a batch of images (H, W, C).

        Raises:
            GeometryError: a kernel, stride or padding that makes no convolution of them.
        """
        return ConvGeometry((self.batch_size, *image_shape), self.kernel_size, self.stride, self.padding)

    def first_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """(kh·kw·C, K), of the first layer's weights."""
        return self.geometry(image_shape).terms, self.filters

    def dense_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """(P·K, H·W·C), of the second layer's weights."""
        return self.geometry(image_shape).patches * self.filters, math.prod(image_shape)

    def memory(self, image_shape: Sequence[int]) -> dict[str, int]:
        """Bytes that an experiment on images (H, W, C) takes, by the setting that they grow with."""
        g = self.geometry(image_shape)
        pixels, x_col, hidden = math.prod(image_shape), g.patches * g.terms, g.patches * self.filters
        padded = math.prod(h + sum(pads) for h, pads in zip(image_shape[:2], g.pads, strict=True))
        weights = math.prod(self.dense_shape(image_shape)) + math.prod(self.first_shape(image_shape))
        # Of each network: weights and gradients, and with Adam two moments; and its last batch.
        matrices = 1 + sum(2 * {"sgd": 2, "adam": 4}[name] for name in self.optimizers)
        kept = len(self.optimizers) * (2 * hidden + 2 * pixels + padded * g.channels + x_col)
        at_once = max(min(self.batch_size, self.train_size), min(EVALUATED, self.val_size))
        numbers = {
            "train_size": (self.train_size + NEW_IMAGES) * (pixels + x_col),
            "val_size": self.val_size * (pixels + x_col),
            "filters": matrices * weights,
            "batch_size": at_once * (kept + hidden + 2 * pixels),
        }
        itemsize = {"float32": 4, "float64": 8}[self.dtype]
        return {name: number * itemsize for name, number in numbers.items()}

    def nbytes(self, image_shape: Sequence[int]) -> int:
        """Memory that an experiment on images (H, W, C) takes."""
        return sum(self.memory(image_shape).values())


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, lists as tuples: what JSON keeps, and a frozen value can hold."""
    if isinstance(value, str | bool | int | float | None):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return tuple(map(_plain, value)) if isinstance(value, Iterable) else value
