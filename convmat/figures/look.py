"""How a picture is to look: what a command line says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmat.errors import GeometryError

if TYPE_CHECKING:
    from convmat.geometry import ConvGeometry


@dataclass(frozen=True)
class Look:
    """Colours, size, place and speed of what is drawn."""

    theme: str = "light"
    scale: int = 1
    """Pixels of the file for one of the plan, along each axis."""
    at: Any = None
    """The pixel that it is about, an int or one for each axis; by default where the image varies most."""
    fps: float | None = None
    """Of an animation, frames a second."""

    def focus(self, geometry: ConvGeometry) -> tuple[int, int] | None:
        """The pixel as (y, x), of one axis (0, x).

        Raises:
            GeometryError: a pixel outside the image, or another number of axes.
        """
        if self.at is None:
            return None
        size = geometry.input_size
        at = self.at if isinstance(self.at, tuple) else (self.at,)
        if len(at) != len(size) or not all(0 <= p < s for p, s in zip(at, size, strict=True)):
            bounds = ", ".join(f"0 to {s - 1}" for s in size)
            raise GeometryError("at", f"must be a pixel of the image, {bounds}, got {','.join(map(str, at))}")
        return (0, *at)[-2:]
