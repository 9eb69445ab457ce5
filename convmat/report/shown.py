"""The facts of the library's values, which show themselves: see `convmat.shown`."""

from __future__ import annotations

from html import escape
from typing import Any

from rich.table import Table

from convmat.engine import Plan
from convmat.geometry import ConvGeometry
from convmat.matrix import LayerMap, LayerMatrix
from convmat.report.facts import Fact, bytes_text, geometry_facts, percent, shape_fact
from convmat.report.results import layer_facts, plan_facts
from convmat.report.tables import facts_table
from convmat.verification import Report


def facts_of(value: Any) -> list[Fact]:
    """What is to be said of a value; the words are those of the command that shows the same.

    Raises:
        TypeError: a value of which nothing is known.
    """
    match value:
        case ConvGeometry():
            return [*geometry_facts(value), shape_fact("matrix_shape", "X_col", value.matrix_shape)]
        case Plan():
            return [*layer_facts(value, False, "nhwc"), *plan_facts([value])]
        case Report():
            return value.facts()
        case LayerMatrix():
            return facts_of(value.layer)
        case LayerMap():
            nnz, weights = value.nnz, value.filters.size
            return [
                *geometry_facts(value.geometry, value.padding_mode),
                shape_fact("matrix_shape", "M", value.shape, "vec Y × vec X"),
                Fact("nnz", "entries stored", nnz, f"{nnz}, {percent(value.density)}"),
                Fact("weights", "free weights", weights, str(weights)),
                Fact("dtype", "dtype", str(value.filters.dtype), str(value.filters.dtype)),
                Fact("bytes", "bytes, sparse", value.nbytes, bytes_text(value.nbytes)),
            ]
    raise TypeError(f"nothing is known of a {type(value).__name__}")


def as_table(value: Any) -> Table:
    """A value's facts as a table of rich."""
    return facts_table(facts_of(value))


def as_html(value: Any) -> str:
    """A value's facts as a table of HTML, with its class as caption and no colours of its own."""
    rows = "".join(
        f"<tr><th>{escape(fact.label)}</th><td>{escape(fact.text)}</td></tr>"
        for fact in facts_of(value)
        if fact.label
    )
    return f"<table><caption>{escape(type(value).__name__)}</caption>{rows}</table>"
