"""Values that show themselves: in a line, in a terminal, in a notebook."""

from __future__ import annotations

import io
import pickle
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import convmat as cm
from convmat.engine import prepare
from convmat.shown import Fact, Shown

X = np.arange(48.0).reshape(1, 4, 4, 3)
FILTERS = np.ones((2, 3, 3, 3))

VALUES: list[tuple[Any, str]] = [
    (cm.ConvGeometry(X.shape, 3, padding="same"), "same: (1, 1), (1, 1)"),
    (prepare(X, FILTERS).plan, "FLOPs"),
    (cm.verify(X, FILTERS), "equal"),
    (cm.verify(X, FILTERS, np.zeros((1, 9, 9, 2))), "different: shape 1 × 9 × 9 × 2, expected 1 × 2 × 2 × 2"),
    (cm.layer_matrix(FILTERS, X.shape), "8 × 48"),
    (cm.layer_matrix(FILTERS, X.shape).layer, "entries stored"),
]


class Reader(HTMLParser):
    """The text of the cells, and whether every tag was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.mark.parametrize(("value", "said"), VALUES)
def test_values_show_their_facts(value: Any, said: str) -> None:
    stream = io.StringIO()
    Console(file=stream, width=200).print(value)
    assert said in stream.getvalue()
    reader = Reader()
    reader.feed(value._repr_html_())
    assert reader.open == []
    assert reader.cells[0] == type(value).__name__
    assert said in " ".join(reader.cells)
    labels = [fact.label for fact in value.facts() if fact.label]
    assert reader.cells[1::2] == labels
    assert "\n" not in str(value)


def test_a_geometry_stays_a_plain_value() -> None:
    geometry = cm.ConvGeometry((1, 5, 5, 1), 3, padding=1)
    assert pickle.loads(pickle.dumps(geometry)) == geometry
    assert eval(repr(geometry), {"ConvGeometry": cm.ConvGeometry}) == geometry
    assert hash(geometry) == hash(cm.ConvGeometry([1, 5, 5, 1], (3, 3), padding=((1, 1), 1)))


class Odd(Shown):
    def facts(self) -> list[Fact]:
        return [Fact("a", "<b>", 1, "1 < 2 & 3"), Fact("hidden", "", 2, "")]


def test_html_is_escaped() -> None:
    assert Odd()._repr_html_() == (
        "<table><caption>Odd</caption><tr><th>&lt;b&gt;</th><td>1 &lt; 2 &amp; 3</td></tr></table>"
    )
