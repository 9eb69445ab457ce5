"""Patches outlined in the panels that show them, few enough to be told apart, each with its row's number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from convmat.figures.canvas import ACCENTS, TAG, Box, Colour, Label, Sheet, text_size
from convmat.figures.panels import Panel
from convmat.geometry import ConvGeometry

OUTLINES = 3
"""Patches that are outlined in a picture at most: more hide each other."""


class PatchMark(NamedTuple):
    """A patch outlined in a panel."""

    row: int
    """Of X_col: its number."""
    colour: Colour | None
    """None for a thin line, where patches lie beside each other."""
    box: Box
    """All that its extent spans."""
    taps: tuple[Box, ...]
    """Where each of its taps reads, in the order i, j; left out where they fill the box, without dilation."""
    tag: Label

    @property
    def lines(self) -> tuple[Box, ...]:
        """What is outlined, each as large as in any other patch."""
        return self.taps or (self.box,)


def coloured(rows: Iterable[int]) -> dict[int, Colour]:
    """Rows, each with the colour of its outline."""
    return {row: ACCENTS[index % len(ACCENTS)] for index, row in enumerate(rows)}


def reach(geometry: ConvGeometry, row: int) -> tuple[range, range]:
    """The positions that a patch spans."""
    first = geometry.place(row, 0).position
    ys, xs = (range(p, p + extent) for p, extent in zip(first, geometry.extent, strict=True))
    return ys, xs


def told_apart(geometry: ConvGeometry, panels: Sequence[Panel], wanted: Iterable[int]) -> list[int]:
    """The first of the wanted rows whose outlines do not lie on each other's, as many as are outlined."""
    chosen: list[int] = []
    strips: list[tuple[Box, ...]] = []
    for row in dict.fromkeys(wanted):
        own = [
            strip
            for panel in panels
            if _is_in(geometry, panel, row)
            for box in _boxes(geometry, panel, row)
            for strip in _edges(box)
        ]
        pairs = itertools.product(own, (strip for other in strips for strip in other))
        if own and all(a.overlap(b) <= 16 for a, b in pairs):  # where they cross
            chosen.append(row)
            strips.append(tuple(own))
        if len(chosen) == OUTLINES:
            break
    return chosen


def outlines(
    geometry: ConvGeometry, panels: Sequence[Panel], colours: dict[int, Colour], plain: Sequence[int] = ()
) -> tuple[PatchMark, ...]:
    """Outlines in the panels that show them, thin where `plain`, each with a tag in its own pixels."""
    marks, shown = list[PatchMark](), list[Panel]()
    every = {**dict.fromkeys(plain), **colours}
    for row, panel in itertools.product(every, panels):
        if not _is_in(geometry, panel, row):
            continue
        boxes = tuple(_boxes(geometry, panel, row))
        taps = boxes if max(geometry.dilation) > 1 else ()
        box = panel.box_of(*reach(geometry, row))
        marks.append(PatchMark(row, every[row], box, taps, Label(box, str(row), TAG)))
        shown.append(panel)
    for index, (mark, panel) in enumerate(zip(marks, shown, strict=True)):
        others = [line for other in marks if other is not mark for line in other.lines]
        tags = [other.tag.box for other in marks[:index]]
        tag = _tag_box(mark, panel.box, others, tags)
        marks[index] = mark._replace(tag=mark.tag._replace(box=tag))
    return tuple(marks)


def _is_in(geometry: ConvGeometry, panel: Panel, row: int) -> bool:
    return panel.image == geometry.patch_position(row)[0] and panel.shows(*reach(geometry, row))


def _boxes(geometry: ConvGeometry, panel: Panel, row: int) -> Iterator[Box]:
    """What is outlined of a patch: its extent, or with dilation each tap."""
    if max(geometry.dilation) == 1:
        yield panel.box_of(*reach(geometry, row))
        return
    for column in range(0, geometry.matrix_shape[1], geometry.channels):
        yield panel.pixel(*geometry.place(row, column).position)


def _edges(box: Box) -> Iterator[Box]:
    """The strips of pixels that an outline takes."""
    yield Box(box.left, box.top, box.right, box.top + 3)
    yield Box(box.left, box.bottom - 3, box.right, box.bottom)
    yield Box(box.left, box.top, box.left + 3, box.bottom)
    yield Box(box.right - 3, box.top, box.right, box.bottom)


def _tag_box(mark: PatchMark, panel: Box, others: Sequence[Box], tags: Sequence[Box]) -> Box:
    """Where the number of a patch hides least: within a corner of its own, else beside it."""
    width, height = text_size(mark.tag.text, TAG)
    w, h = width + 6, height - 3
    best, least = mark.box, math.inf
    for order, box in enumerate((mark.lines[0], *mark.lines[-1:])):
        lefts = (box.left, box.right - w, (box.left + box.right - w) // 2, box.left - w, box.right)
        middle = (box.top + box.bottom - h) // 2
        tops = (box.top, box.bottom - h, box.top - h, box.bottom, middle)
        for (i, top), (j, left) in itertools.product(enumerate(tops), enumerate(lefts)):
            tag = Box(left, top, left + w, top + h)
            hidden = 100 * sum(map(tag.overlap, tags)) + 4 * sum(map(tag.overlap, others))
            hidden += 10 * (w * h - tag.overlap(panel)) + i + j + 2 * order
            hidden += w * h - tag.overlap(mark.box)  # others' pixels, or one's own
            if 3 * w * h > mark.box.overlap(mark.box):  # too small to be written into
                hidden += 2 * tag.overlap(mark.box)
            if hidden < least:
                best, least = tag, hidden
    return best


def draw_outline(sheet: Sheet, patch: PatchMark) -> None:
    """Outline a patch; with dilation each of its taps."""
    for box in patch.lines:
        if patch.colour is None:
            sheet.outline(box, sheet.theme.ink, 1, halo=True)
        else:
            width = 3 if box.right - box.left >= 12 else 1
            sheet.outline(box, patch.colour, width, halo=width > 1)


def draw_tag(sheet: Sheet, patch: PatchMark) -> None:
    """Write the number of a patch where it lies."""
    colour = sheet.theme.ink if patch.colour is None else patch.colour
    sheet.tag(patch.tag, colour)
