"""An image and its patches in a terminal: half blocks where it has colour, shades of characters where not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from convmat.encodings import can_show
from convmat.errors import ShapeError
from convmat.figures.canvas import as_colours
from convmat.figures.captions import excerpt, patch, patch_names
from convmat.figures.captions import image as image_text
from convmat.geometry import ConvGeometry

_SHADES, _ASCII_SHADES = " ░▒▓█", " .:*#"
_HALF_BLOCK = "▀"
_PADDING = (104, 60, 104)  # a colour that no gray has
_ALL, _FIRST, _LAST = 16, 4, 3  # patches that are all shown; else the first and the last of them
_PATCH_PIXELS = 16  # of a patch's longer side, shown one by one


class Tile(NamedTuple):
    """A picture of few pixels, with its name."""

    name: str
    colours: NDArray[np.uint8]
    """(h, w, 3)."""
    padding: NDArray[np.bool_]
    """(h, w): what is outside the image and holds zeros."""


def check_preview(geometry: ConvGeometry) -> None:
    """Raise ShapeError for more channels than colours have, and alpha."""
    if geometry.channels > 4:
        raise ShapeError(
            "preview", f"shows gray and RGB images, got {geometry.channels} channels; leave it out"
        )


def image_tiles(
    geometry: ConvGeometry, pixels: NDArray[np.uint8], columns: int, focus: tuple[int, int] | None = None
) -> list[Tile]:
    """The images, (n, H, W, C) or (n, L, C), as many pixels of each as `columns` have room for.

    They are picked from all of it, or are those about a `focus`, (y, x).
    """
    tiles = []
    for n, image in enumerate(pixels):
        colours = as_colours(image if image.ndim == 3 else image[None])
        if focus is not None and max(colours.shape[:2]) > columns:
            window = [
                range(size)[(start := max(min(at - columns // 2, size - columns), 0)) : start + columns]
                for at, size in zip(focus, colours.shape, strict=False)
            ]
            colours = colours[np.ix_(*window)]
            name = excerpt(geometry, n, (window[0], window[1]))
            tiles.append(Tile(name, colours, np.zeros(colours.shape[:2], bool)))
            continue
        step = max(-(-colours.shape[1] // columns), -(-colours.shape[0] // columns))
        colours = colours[::step, ::step]
        reduced = f", every {step}th pixel" if step > 1 else ""
        tiles.append(Tile(image_text(geometry, n) + reduced, colours, np.zeros(colours.shape[:2], bool)))
    return tiles


def patch_tiles(
    geometry: ConvGeometry,
    padding_mode: str,
    pixels: NDArray[np.uint8],
    focus: tuple[int, int] | None = None,
) -> list[Tile | None]:
    """The first and last patches of the images shown, or those from `focus` on; None for those left out.

    Taps alone are shown.
    """
    kernel = (1, *geometry.kernel_size)[-2:]
    step = max(-(-max(kernel) // _PATCH_PIXELS), 1)
    tiles: list[Tile | None] = []
    total = len(pixels) * geometry.patches
    chosen = range(total) if total <= _ALL else (*range(_FIRST), None, *range(total - _LAST, total))
    if focus is not None and total > _ALL:
        start = _row_at(geometry, focus)
        chosen = range(start, min(start + _FIRST + _LAST, total))
    for row in chosen:
        if row is None:
            tiles.append(None)
            continue
        colours = np.zeros((*kernel, 3), np.uint8)
        padding = np.zeros(kernel, bool)
        for tap in range(math.prod(kernel)):
            at = divmod(tap, kernel[1])
            if at[0] % step or at[1] % step:
                continue
            element = geometry.input_index(row, tap * geometry.channels, padding_mode)
            if element is None:
                padding[at] = True
            else:
                colours[at] = as_colours(pixels[element[:-1]][None, None])[0, 0]
        n, *position = geometry.patch_position(row)
        name = f"{row} ({patch(geometry, (n, *position))})"
        tiles.append(Tile(name, colours[::step, ::step], padding[::step, ::step]))
    return tiles


def _row_at(geometry: ConvGeometry, focus: tuple[int, int]) -> int:
    """The row of the first image's patch whose middle is nearest to a pixel."""
    axes = zip(
        focus[-len(geometry.input_size) :],
        geometry.extent,
        geometry.pads,
        geometry.stride,
        geometry.output_size,
        strict=True,
    )
    position = (
        min(max(round((at - (reach - 1) / 2 + before) / s), 0), count - 1)
        for at, reach, (before, _), s, count in axes
    )
    return geometry.patch_row((0, *position))


def preview_text(
    geometry: ConvGeometry,
    padding_mode: str,
    pixels: NDArray[np.uint8],
    console: Console,
    focus: tuple[int, int] | None = None,
) -> str:
    """Images and their patches, as they are to be on a console.

    Args:
        geometry: of one or two spatial axes, one that `check_preview` lets pass.
        padding_mode: as in `unroll`.
        pixels: (n, *spatial, C), the first n images.
        console: its colours, width and encoding decide how.
        focus: (y, x), the pixel that it is about, if there is not room for all.
    """
    # Half blocks without their colours would be one solid rectangle.
    coloured = console.color_system is not None and not console.no_color
    plain = not (coloured and can_show(_HALF_BLOCK, console.encoding))
    shades = _SHADES if can_show(_SHADES + "·", console.encoding) else _ASCII_SHADES
    wide = 2 if plain else 1  # characters of a pixel, so that it is about a square

    def drawn(tile: Tile) -> list[Text]:
        lines = _shaded(tile, shades) if plain else _half_blocks(tile)
        return [Text(tile.name, style="dim"), *lines]

    lines: list[Text] = []
    for tile in image_tiles(geometry, pixels, max(console.width // wide, 1), focus):
        lines += [*drawn(tile), Text()]
    total = geometry.matrix_shape[0]
    patches = patch_tiles(geometry, padding_mode, pixels, focus)
    shown = sum(tile is not None for tile in patches)
    padded = any(tile is not None and tile.padding.any() for tile in patches)
    mark = ("dots" if shades == _SHADES else "dashes") if plain else "violet"
    note = f"; {mark}: padding" if padded else ""
    lines.append(Text(f"{shown} of {total} patches: row of X_col ({patch_names(geometry)}){note}"))
    lines += _in_rows([None if tile is None else drawn(tile) for tile in patches], console.width)
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    return captured.get()


def _shaded(tile: Tile, shades: str) -> list[Text]:
    """A character twice for each pixel, the fuller the brighter."""
    gray = tile.colours @ np.array([0.299, 0.587, 0.114])
    level = np.minimum(gray / 256 * len(shades), len(shades) - 1).astype(int)
    dot = "·" if shades == _SHADES else "-"
    return [
        Text("".join((dot if outside else shades[s]) * 2 for s, outside in zip(line, edge, strict=True)))
        for line, edge in zip(level, tile.padding, strict=True)
    ]


def _half_blocks(tile: Tile) -> list[Text]:
    """A character for two pixels, one above the other."""
    colours = tile.colours.copy()
    colours[tile.padding] = _PADDING
    lines = []
    for top in range(0, len(colours), 2):
        line = Text()
        for x in range(colours.shape[1]):
            above = Color.from_rgb(*colours[top, x].tolist())
            below = Color.from_rgb(*colours[top + 1, x].tolist()) if top + 1 < len(colours) else None
            line.append(_HALF_BLOCK, Style(color=above, bgcolor=below))
        lines.append(line)
    return lines


def _in_rows(tiles: Sequence[list[Text] | None], width: int) -> Iterator[Text]:
    """Tiles beside each other, as many as fit in a line."""
    row: list[list[Text]] = []
    used = 0
    for tile in [[Text("…")] if tile is None else tile for tile in tiles]:
        size = max(line.cell_len for line in tile) + 2
        if row and used + size > width:
            yield from _beside(row)
            row, used = [], 0
        row.append(tile)
        used += size
    yield from _beside(row)


def _beside(tiles: Sequence[list[Text]]) -> Iterator[Text]:
    widths = [max(line.cell_len for line in tile) + 2 for tile in tiles]
    for index in range(max(map(len, tiles), default=0)):
        line = Text()
        for tile, width in zip(tiles, widths, strict=True):
            part: Any = tile[index] if index < len(tile) else Text()
            line.append_text(part)
            line.append(" " * (width - part.cell_len))
        line.rstrip()
        yield line
    yield Text()
