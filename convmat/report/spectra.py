"""Facts and a grid of what layers do to lengths, and of how far a network takes two inputs apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from convmat.networks.lipschitz import Stop
from convmat.networks.spectra import Stretch
from convmat.report.facts import Grid, absent
from convmat.shown import Fact
from convmat.spectrum import Spectrum

_HALF = 5e-5  # of the last of five digits


def spectrum_value(stretch: Stretch) -> dict[str, Any]:
    """Of a layer in JSON: what `matrix` tells of its singular values, or why there is nothing."""
    found = stretch.spectrum
    if found is None:
        return {"spectrum": None, "why_no_spectrum": stretch.why}
    facts = {fact.key: fact.value for fact in found.facts()}
    shape = None if stretch.shape is None else list(stretch.shape)
    return {"spectrum": {"matrix_shape": shape, **facts}, "why_no_spectrum": None}


def spectra_grid(names: Sequence[str], stretches: Sequence[Stretch]) -> Grid:
    """The layers' singular values, one a line."""
    columns = ("layer", "M", "largest", "smallest", "by")
    return Grid("singular values", columns, [_line(*pair) for pair in zip(names, stretches, strict=True)])


def _line(name: str, stretch: Stretch) -> tuple[str, ...]:
    shape = "" if stretch.shape is None else "×".join(map(str, stretch.shape))
    found = stretch.spectrum
    if found is None:
        return name, shape, f"unknown: {stretch.why}", "", ""
    if found.smallest is not None:
        smallest = "0" if found.condition == math.inf else f"{found.smallest:.5g}"  # but for rounding
        return name, shape, f"{found.largest:.5g}", smallest, found.method
    by = f"{found.method}, {found.upper_method}"
    return name, shape, _between(found), f"at most {_above(found.smallest_upper)}", by


def _between(found: Spectrum) -> str:
    return f"{found.largest * (1 - _HALF):.5g} to {_above(found.upper)}"


def _above(value: float) -> str:
    """Five digits, the last of them rounded up."""
    return f"{value * (1 + _HALF):.5g}"


def lipschitz_facts(bound: float | Stop | None) -> list[Fact]:
    """How far the network takes two inputs apart at most, or the node that says why this is not known."""
    label = "Lipschitz constant"
    if bound is None:
        return absent("lipschitz_bound", "lipschitz_stop")
    if isinstance(bound, Stop):
        text = f"unknown: at {bound.op} {bound.node!r} {bound.why}"
        return [
            Fact("lipschitz_bound", label, None, text, brief=f"{label} unknown"),
            Fact("lipschitz_stop", "", bound._asdict(), ""),
        ]
    text = f"at most {_above(bound)}"
    return [
        Fact("lipschitz_bound", label, bound, text, brief=f"{label} {text}"),
        Fact("lipschitz_stop", "", None, ""),
    ]
