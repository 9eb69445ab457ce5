"""The layers that are measured: the ten of the first table, and others of every kind."""

from __future__ import annotations

from typing import Any, NamedTuple


class Layer(NamedTuple):
    """One layer, channels last."""

    shape: tuple[int, ...]
    """(N, *spatial, C)."""
    filters: int
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    dtype: str = "float32"

    @property
    def filter_shape(self) -> tuple[int, ...]:
        """(K, *kernel, C/groups)."""
        return (self.filters, *self.kernel, self.shape[-1] // self.groups)

    @property
    def where(self) -> dict[str, Any]:
        """Stride, padding and dilation, as every implementation calls them."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape))
        text = f"{size} → {self.filters}, {'×'.join(map(str, self.kernel))}"
        text += f", stride {self.stride}" if self.stride > 1 else ""
        text += f", pad {self.padding}" if self.padding else ""
        text += f", dilation {self.dilation}" if self.dilation > 1 else ""
        if self.groups > 1:
            text += ", depthwise" if self.groups == self.shape[-1] else f", {self.groups} groups"
        return text + (f", {self.dtype}" if self.dtype != "float32" else "")


def square(n: int, size: int, c: int, filters: int, k: int, stride: int = 1, **more: Any) -> Layer:
    """A layer on square images with a square kernel."""
    return Layer((n, size, size, c), filters, (k, k), stride, **more)


FIRST = [
    square(1, 58, 64, 64, 3),
    square(1, 30, 128, 128, 3),
    square(1, 16, 256, 256, 3),
    square(8, 16, 256, 256, 3),
    square(1, 229, 3, 64, 7, 2),
    square(1, 1026, 3, 16, 3),
    square(1, 2052, 1, 1, 5),
    square(1000, 28, 1, 128, 4, 2),
    square(1000, 28, 1, 1, 7, 7),
    square(1, 522, 3, 3, 11),
]

FURTHER = [
    square(1, 56, 64, 256, 1),
    square(1, 28, 512, 128, 1),
    Layer((1, 57, 61, 32), 64, (5, 5), padding=2),
    square(1, 56, 64, 64, 3, padding=2, dilation=2),
    square(1, 512, 1, 8, 3, dilation=3),
    Layer((1, 331, 217, 3), 13, (3, 3), padding=1),
    square(1, 112, 32, 32, 3, padding=1, groups=32),
    square(1, 56, 128, 128, 3, padding=1, groups=128),
    square(1, 56, 144, 144, 3, 2, padding=1, groups=144),
    square(1, 14, 512, 512, 3, padding=1, groups=512),
    square(1, 56, 64, 64, 3, padding=1, groups=4),
    Layer((1, 160000, 1), 64, (400,), 160),
    Layer((1, 8000, 64), 64, (9,), padding=4),
    Layer((1, 64, 64, 64, 1), 16, (3, 3, 3)),
    Layer((1, 32, 32, 32, 16), 32, (3, 3, 3)),
    square(64, 32, 3, 32, 3, padding=1),
    square(1, 64, 16, 32, 3, dtype="float64"),
    Layer((1, 1080, 1920, 1), 1, (3, 3)),
    square(1, 512, 3, 8, 3, dtype="uint8"),
]

MORE = [
    square(1, 56, 64, 64, 3, padding=1),
    square(1, 28, 128, 128, 3, padding=1),
    square(1, 14, 256, 256, 3, padding=1),
    square(1, 7, 512, 512, 3, padding=1),
    square(1, 56, 64, 128, 3, 2, padding=1),
    square(1, 224, 3, 32, 3, 2, padding=1),
    Layer((1, 45, 83, 72), 96, (3, 3), padding=1),
    Layer((1, 40, 40, 220), 40, (3, 3), padding=1),
    square(1, 33, 24, 144, 1),
    square(1, 64, 96, 24, 1),
    square(1, 65, 64, 64, 3, padding=4, dilation=4),
    square(1, 128, 16, 16, 5, padding=4, dilation=2),
    square(1, 56, 96, 96, 3, padding=1, groups=3),
    square(1, 28, 256, 256, 3, padding=1, groups=32),
    square(1, 28, 240, 240, 5, padding=2, groups=240),
    square(4, 56, 64, 64, 3, 2, padding=1, groups=64),
    Layer((8, 4000, 32), 48, (25,), padding=12),
    Layer((1, 20000, 1), 8, (31,), 2),
    Layer((2, 16, 28, 28, 24), 24, (3, 3, 3), padding=1),
    square(1, 20, 17, 19, 3, padding=1),
]
"""Twenty more, that nothing was tuned to."""

TINY = [
    square(1, 8, 4, 4, 3),
    square(1, 5, 1, 1, 3),
    square(1, 14, 8, 8, 1),
    Layer((1, 64, 1), 1, (5,)),
    square(1, 12, 16, 16, 3, padding=1, groups=16),
]

INTEGERS = [
    square(1, 512, 3, 8, 3, dtype="uint8"),
    square(1, 58, 64, 64, 3, dtype="uint8"),
    square(1, 112, 32, 32, 3, padding=1, groups=32, dtype="uint8"),
    square(1, 58, 64, 64, 3, dtype="int16"),
    square(1, 58, 64, 64, 3, dtype="int32"),
    square(1, 58, 64, 64, 3, dtype="int64"),
]

DOUBLES = [
    layer._replace(dtype="float64") for layer in (FIRST[0], FIRST[2], FIRST[4], FIRST[9], MORE[6], MORE[14])
]

TRANSPOSED = [
    square(1, 28, 64, 64, 3),
    square(1, 28, 64, 128, 4, 2, padding=1),
    square(1, 56, 32, 64, 2, 2),
    square(4, 16, 16, 32, 5, 2, padding=2),
    Layer((1, 33, 47, 24), 40, (3, 3), padding=1),
    square(1, 56, 64, 64, 3, padding=1, groups=64),
    Layer((1, 2000, 32), 32, (16,), 8, padding=4),
]
"""Layers whose outputs are taken back to the shape of their inputs."""

UNROLLED = [
    *FIRST,
    square(1, 112, 32, 1, 3, padding=1),
    square(8, 56, 64, 1, 3, padding=1),
    Layer((1, 331, 217, 3), 1, (5, 5), 2),
    square(1, 512, 16, 1, 3, padding=2, dilation=2),
    square(64, 32, 3, 1, 3, padding=1),
]
