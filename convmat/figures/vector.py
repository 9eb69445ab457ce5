"""Sheets written as SVG: text for browsers, without scripts, the same for the same sheet.

Words are as wide as they were planned, whatever font the reader has. Cells that have titles are shapes, which
a reader can point at; those without lie open among them, and where none has one all are a picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from convmat.figures.canvas import (
    SMALL,
    THEMES,
    Box,
    Cells,
    Film,
    Hatch,
    Lines,
    Mark,
    Rect,
    Shape,
    Sheet,
    Words,
    font,
    text_size,
)

_SHORT = 2  # signs of words whose width need not be said
_REST = 2.0  # seconds that an animation's end is seen, at least


def svg(sheet: Sheet, scale: int = 1) -> str:
    """A sheet as SVG; `scale` is how large it is shown where nothing else says."""
    return _document(sheet, scale, _elements(sheet.marks))


def moving_svg(film: Film, scale: int = 1) -> str:
    """A film as SVG that moves by itself, again and again; where nothing moves it is the whole."""
    seconds = len(film.moments) / film.fps
    whole = seconds + max(_REST, 1 / film.fps)

    def parts() -> Iterator[str]:
        yield from _elements(film.start.marks)
        for index, (lasting, passing) in enumerate(film.moments):
            start, end = ((index + more) / film.fps / whole for more in (0, 1))
            yield _timed(lasting, "visible", [("hidden", 0.0), ("visible", start)], whole)
            yield _timed(passing, "hidden", [("hidden", 0.0), ("visible", start), ("hidden", end)], whole)

    return _document(film.start, scale, parts())


def _timed(sheet: Sheet, otherwise: str, states: list[tuple[str, float]], seconds: float) -> str:
    """What is drawn on a sheet, seen as its states say, each from its share of the time on."""
    states = states if states[1][1] else states[1:]
    values = ";".join(value for value, _ in states)
    times = ";".join(f"{start:.5g}" for _, start in states)
    return (
        f'<g visibility="{otherwise}"><animate attributeName="visibility" calcMode="discrete" '
        f'values="{values}" keyTimes="{times}" dur="{seconds:g}s" repeatCount="indefinite"/>\n'
        + "".join(_elements(sheet.marks))
        + "</g>\n"
    )


def _document(sheet: Sheet, scale: int, elements: Iterable[str]) -> str:
    width, height = sheet.size
    size = f'width="{width * scale}" height="{height * scale}" viewBox="0 0 {width} {height}"'
    words = f'font-size="{SMALL}" font-family="Aileron, Helvetica, Arial, sans-serif"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {words} pointer-events="none">'
        "<style>.c{pointer-events:all;shape-rendering:crispEdges}</style>\n"
        f"<defs>{_hatching(sheet.theme.name)}</defs>\n" + "".join(elements) + "</svg>\n"
    )


def _hatching(theme: str) -> str:
    padding, line = (_colour(c) for c in (THEMES[theme].padding, THEMES[theme].line))
    return (
        f'<pattern id="hatch-{theme}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path d="M0 0h6v6h-6z" fill="{padding}"/><path d="M-1 1 1-1M0 6 6 0M5 7 7 5" stroke="{line}"/>'
        "</pattern>"
    )


def _elements(marks: Iterable[Mark]) -> Iterator[str]:
    for mark in marks:
        yield _WRITERS[type(mark)](mark)


def _colour(colour: Sequence[int]) -> str:
    digits = "".join(f"{part:02x}" for part in colour)
    return "#" + (digits[::2] if digits[::2] == digits[1::2] else digits)


def _area(box: Box, fill: str, title: str = "") -> str:
    """A filled box; with a title readers can point at it."""
    width, height = box.right - box.left, box.bottom - box.top
    text = f'd="M{box.left} {box.top}h{width}v{height}h-{width}z" fill="{fill}"'
    return f"<path {text}><title>{escape(title)}</title></path>\n" if title else f"<path {text}/>\n"


def _rect(mark: Rect) -> str:
    text = "" if mark.fill is None else _area(mark.box, _colour(mark.fill))
    if mark.edge is None:
        return text
    (left, top, right, bottom), half = mark.box, mark.width / 2
    return (
        f'{text}<rect x="{left + half:g}" y="{top + half:g}" width="{max(right - left - mark.width, 0)}" '
        f'height="{max(bottom - top - mark.width, 0)}" fill="none" stroke="{_colour(mark.edge)}"'
        + (f' stroke-width="{mark.width}"/>\n' if mark.width > 1 else "/>\n")
    )


def _words(mark: Words) -> str:
    """What is said of all words at the top is left out; the shortest are as wide in any font."""
    line = mark.line
    text = f'<text x="{line.box.left}" y="{line.box.top + font(line.size).getmetrics()[0]}"'
    text += f' font-size="{line.size}"' if line.size != SMALL else ""
    text += f' fill="{_colour(mark.colour)}"' if mark.colour != (0, 0, 0) else ""
    if len(line.text) > _SHORT:
        text += f' textLength="{text_size(line.text, line.size)[0]}" lengthAdjust="spacingAndGlyphs"'
    return f"{text}>{escape(line.text)}</text>\n"


def _cells(mark: Cells) -> str:
    (left, top, right, bottom), (h, w) = mark.box, mark.colours.shape[:2]
    if any(mark.titles):
        ys = [top + (bottom - top) * i // h for i in range(h + 1)]
        xs = [left + (right - left) * j // w for j in range(w + 1)]
        boxes = (Box(xs[j], ys[i], xs[j + 1], ys[i + 1]) for i in range(h) for j in range(w))
        cells = zip(boxes, mark.colours.reshape(-1, 3).tolist(), mark.titles, strict=True)
        areas = (_area(box, _colour(colour), title) for box, colour, title in cells if title)
        return '<g class="c">\n' + "".join(areas) + "</g>\n"
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mark.colours)).save(encoded, "PNG", optimize=True)
    return (
        f'<image x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"/>\n'
    )


def _hatch(mark: Hatch) -> str:
    area = _area(mark.box, f"url(#hatch-{mark.theme.name})", mark.title)
    return f'<g class="c">{area}</g>\n' if mark.title else area


def _lines(mark: Lines) -> str:
    """In the middle of the pixels that they take."""
    (left, right), (top, bottom) = (mark.xs[0], mark.xs[-1]), (mark.ys[0], mark.ys[-1])
    path = "".join(f"M{x + 0.5} {top}V{bottom + 1}" for x in mark.xs)
    path += "".join(f"M{left} {y + 0.5}H{right + 1}" for y in mark.ys)
    return f'<path d="{path}" stroke="{_colour(mark.colour)}"/>\n'


def _shape(mark: Shape) -> str:
    points = " ".join(f"{x},{y}" for x, y in mark.points)
    return f'<polygon points="{points}" fill="{_colour(mark.colour)}"/>\n'


_WRITERS: dict[type, Callable[[Any], str]] = {
    Rect: _rect,
    Words: _words,
    Cells: _cells,
    Hatch: _hatch,
    Lines: _lines,
    Shape: _shape,
}
