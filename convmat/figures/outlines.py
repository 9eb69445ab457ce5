"""Patches outlined in the panels that show them, each with its row's number where that hides least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from convmat.figures.canvas import ACCENTS, SMALL, Box, Colour, Label, Sheet, text_size
from convmat.figures.panels import NUMBERED, Panel
from convmat.geometry import ConvGeometry


class PatchMark(NamedTuple):
    """A patch outlined in a panel."""

    row: int
    """Of X_col: its number."""
    colour: Colour
    box: Box
    """All that its extent spans."""
    taps: tuple[Box, ...]
    """Where each of its taps reads, in the order i, j; left out where they fill the box, without dilation."""
    inset: int
    """Pixels that its lines are drawn within these boxes, so that they do not hide those of others."""
    tag: Label

    @property
    def line(self) -> Box:
        """Where the outline is drawn."""
        return self.box.grown(-self.inset)


def coloured(rows: Sequence[int]) -> dict[int, Colour]:
    """Rows, each with the colour of its outline."""
    return {row: ACCENTS[index % len(ACCENTS)] for index, row in enumerate(rows)}


def reach(geometry: ConvGeometry, row: int) -> tuple[range, range]:
    """The positions that a patch spans."""
    first = geometry.place(row, 0).position
    ys, xs = (range(p, p + extent) for p, extent in zip(first, geometry.extent, strict=True))
    return ys, xs


def outlines(
    geometry: ConvGeometry, panels: Sequence[Panel], colours: dict[int, Colour]
) -> tuple[PatchMark, ...]:
    """The outlines of patches in the panels that show them, each with a tag where it hides least."""
    marks: list[PatchMark] = []
    shown: list[Panel] = []
    for row, panel in itertools.product(colours, panels):
        spans = reach(geometry, row)
        if panel.image != geometry.patch_position(row)[0] or not panel.shows(*spans):
            continue
        box = panel.box_of(*spans)
        taps = tuple(_tap_boxes(geometry, panel, row)) if max(geometry.dilation) > 1 else ()
        inset = _inset(box, min(min(panel.cell) // 3, 9), [mark.line for mark in marks])
        marks.append(PatchMark(row, colours[row], box, taps, inset, Label(box, str(row), SMALL)))
        shown.append(panel)
    for index, (mark, panel) in enumerate(zip(marks, shown, strict=True)):
        width, height = text_size(mark.tag.text, SMALL)
        tags = [other.tag.box for other in marks[:index]]
        edges = [edge for other in marks if other is not mark for edge in _edges(other.line)]
        if min(panel.cell) >= NUMBERED:  # the lines of numbers in the cells
            middles = [(panel.at(0, y) + panel.at(0, y + 1)) // 2 for y in panel.ys]
            edges += [Box(panel.box.left, y - 6, panel.box.right, y + 6) for y in middles]
        tag = _tag_box(mark.box, (width + 8, height - 2), panel.box, tags, edges)
        marks[index] = mark._replace(tag=mark.tag._replace(box=tag))
    return tuple(marks)


def _inset(box: Box, most: int, others: Sequence[Box]) -> int:
    """How far within a box its outline hides the fewest pixels of other outlines."""
    edges = [edge for other in others for edge in _edges(other)]

    def hidden(inset: int) -> int:
        return sum(own.overlap(edge) for own in _edges(box.grown(-inset)) for edge in edges)

    return min(range(0, most + 1, 4), key=hidden)


def _tap_boxes(geometry: ConvGeometry, panel: Panel, row: int) -> Iterator[Box]:
    for column in range(0, geometry.matrix_shape[1], geometry.channels):
        y, x = geometry.place(row, column).position
        yield panel.pixel(y, x)


def _edges(box: Box) -> Iterator[Box]:
    """The strips of pixels that an outline takes."""
    yield Box(box.left, box.top, box.right, box.top + 3)
    yield Box(box.left, box.bottom - 3, box.right, box.bottom)
    yield Box(box.left, box.top, box.left + 3, box.bottom)
    yield Box(box.right - 3, box.top, box.right, box.bottom)


def _tag_box(box: Box, size: tuple[int, int], panel: Box, tags: Sequence[Box], edges: Sequence[Box]) -> Box:
    """Where the number of a patch hides least: within its corners, else beside them."""
    w, h = size
    lefts = (box.left, box.right - w, (box.left + box.right - w) // 2, box.left - w, box.right)
    middle = (box.top + box.bottom - h) // 2
    tops = (box.top, box.bottom - h, middle, box.top - h, box.bottom, box.top - h // 2, box.bottom - h // 2)
    best, least = box, math.inf
    for (i, top), (j, left) in itertools.product(enumerate(tops), enumerate(lefts)):
        tag = Box(left, top, left + w, top + h)
        hidden = 100 * sum(map(tag.overlap, tags)) + sum(map(tag.overlap, edges))
        hidden += 10 * (w * h - tag.overlap(panel)) + (i + j) + (20 if max(i, j) >= 3 else 0)
        if hidden < least:
            best, least = tag, hidden
    return best


def draw_outline(sheet: Sheet, patch: PatchMark) -> None:
    """Outline a patch; with dilation each of its taps."""
    sheet.outline(patch.line, patch.colour, 1 if patch.taps else 3, halo=not patch.taps)
    for tap in patch.taps:
        width = 3 if tap.right - tap.left >= 12 else 1
        sheet.outline(tap.grown(-patch.inset) if width > 1 else tap, patch.colour, width, halo=width > 1)
