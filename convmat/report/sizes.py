"""Facts and grids of output sizes: padding rules, frameworks, transposed convolutions, chains of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convmat.geometry import ConvGeometry
from convmat.report.facts import Grid, absent, kernel_size_facts
from convmat.shown import Fact, shape_fact, sizes
from convmat.sizes import EXPLICIT_PADS, ChainLayer, FrameworkPads, Rules
from convmat.words import output_formulas, transpose_formula


def sizes_facts(full: ConvGeometry, rules: Rules) -> list[Fact]:
    """Output sizes under each padding rule, for programs; None where the kernel does not fit."""
    values = {
        rule: g and {"pads": _lists(g.pads), "output_size": list(g.output_size)} for rule, g in rules.items()
    }
    return [
        shape_fact("input_size", "input size", full.input_size),
        *kernel_size_facts(full),
        Fact("transpose", "", False, ""),
        *absent("output_padding", *_OF_CHAINS),
        Fact("rules", "paddings", values, str(len(values)), brief=_rules_text(values)),
    ]


def sizes_grid(rules: Rules) -> Grid:
    """Output sizes under each padding rule, with the formula filled in, a line an axis."""
    rows: list[tuple[str, ...]] = []
    for rule, geometry in rules.items():
        if geometry is None:
            rows.append((rule, "", "the kernel does not fit", ""))
            continue
        formulas = output_formulas(geometry)
        rows.append((rule, _pairs(geometry), "\n".join(formulas), sizes(geometry.output_size)))
    return Grid("", ("padding", "before, after", "output size", "output"), rows)


def transpose_facts(size: Sequence[int], output_padding: Sequence[int], rules: Rules) -> list[Fact]:
    """Sizes of transposed convolutions under each padding rule; None where nothing comes out."""
    values = {
        rule: g and {"pads": _lists(g.pads), "output_size": list(g.input_size)} for rule, g in rules.items()
    }
    return [
        Fact("transpose", "transposed", True, "yes"),
        shape_fact("input_size", "input size", size),
        *kernel_size_facts(next(g for g in rules.values() if g)),
        shape_fact("output_padding", "output padding", output_padding),
        *absent("frameworks", *_OF_CHAINS),
        Fact("rules", "paddings", values, str(len(values)), brief=_rules_text(values)),
    ]


def transpose_grid(size: Sequence[int], rules: Rules) -> Grid:
    """Sizes of transposed convolutions under each rule, with the formula filled in, a line an axis."""
    rows: list[tuple[str, ...]] = []
    for rule, geometry in rules.items():
        if geometry is None:
            why = "takes no output padding" if rule.startswith("same") else "nothing comes out"
            rows.append((rule, "", why, ""))
            continue
        formulas = [transpose_formula(geometry, axis, h) for axis, h in enumerate(size)]
        rows.append((rule, _pairs(geometry), "\n".join(formulas), sizes(geometry.input_size)))
    return Grid("", ("padding", "before, after", "output size", "output"), rows)


def frameworks_fact(found: Sequence[FrameworkPads]) -> Fact:
    """What each framework's SAME comes to, for programs."""
    values = [
        {
            "framework": f.framework,
            "rule": f.rule,
            "pads": None if f.pads is None else _lists(f.pads),
            "differs": f.differs,
            "note": f.note,
            "explicit": None if f.pads is None else EXPLICIT_PADS[f.framework](f.pads),
        }
        for f in found
    ]
    return Fact("frameworks", "", values, "")


def frameworks_grids(found: Sequence[FrameworkPads]) -> list[Grid]:
    """What each framework's SAME comes to, and how to have any of these pads in each of them."""
    rows = []
    for f in found:
        pads = "" if f.pads is None else "\n".join(", ".join(map(str, pair)) for pair in f.pads)
        differs = "differs" if f.differs else ""
        rows.append((f.framework, f.rule, pads, "; ".join(filter(None, (differs, f.note)))))
    variants = list(dict.fromkeys(f.pads for f in found if f.pads))
    names = "SAME\nSAME_LOWER" if len(variants) > 1 else "either"
    explicit = [
        (framework, names, "\n".join(map(write, variants))) for framework, write in EXPLICIT_PADS.items()
    ]
    return [
        Grid("SAME in other frameworks", ("framework", "rule", "before, after", ""), rows),
        Grid("To have these pads in each of them", ("framework", "as in", "pads in numbers"), explicit),
    ]


def chain_facts(input_size: Sequence[int], layers: Sequence[ChainLayer]) -> list[Fact]:
    """A chain of layers as a whole, and each for programs."""
    last = layers[-1]
    values = [
        {
            "kernel_size": list(layer.geometry.kernel_size),
            "stride": list(layer.geometry.stride),
            "dilation": list(layer.geometry.dilation),
            "padding": layer.geometry.rule,
            "pads": _lists(layer.geometry.pads),
            "output_size": list(layer.geometry.output_size),
            "receptive_field": list(layer.receptive_field),
            "total_stride": list(layer.total_stride),
            "start": list(layer.start),
        }
        for layer in layers
    ]
    found = [
        shape_fact("output_size", "output size", last.geometry.output_size),
        shape_fact("receptive_field", "receptive field", last.receptive_field),
        shape_fact("total_stride", "total stride", last.total_stride),
    ]
    return [
        shape_fact("input_size", "input size", input_size),
        Fact("transpose", "", False, ""),
        Fact("layers", "layers", values, str(len(layers))),
        *absent("kernel_size", "stride", "dilation", "output_padding", "rules", "frameworks"),
        *(fact._replace(brief=f"{fact.label} {fact.text}") for fact in found),
    ]


_OF_CHAINS = ("layers", "output_size", "receptive_field", "total_stride")


def _rules_text(rules: dict[str, Any]) -> str:
    """The output sizes under the rules in one line."""
    return ", ".join(
        f"{rule} {sizes(found['output_size']) if found else 'none'}" for rule, found in rules.items()
    )


def chain_grid(layers: Sequence[ChainLayer]) -> Grid:
    """A chain of layers, one a line, a line an axis."""
    rows = []
    for number, layer in enumerate(layers, 1):
        g = layer.geometry
        formulas = output_formulas(g)
        rows.append(
            (
                str(number),
                _pairs(g),
                "\n".join(formulas),
                sizes(g.output_size),
                sizes(layer.receptive_field),
                sizes(layer.total_stride),
                ", ".join(map(str, layer.start)),
            )
        )
    return Grid(
        "",
        ("layer", "before, after", "output size", "output", "receptive field", "total stride", "first pixel"),
        rows,
    )


def _lists(pads: Sequence[tuple[int, int]]) -> list[list[int]]:
    return [list(pair) for pair in pads]


def _pairs(geometry: ConvGeometry) -> str:
    return "\n".join(", ".join(map(str, pair)) for pair in geometry.pads)
