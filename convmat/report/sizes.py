"""Facts and grids of output sizes: padding rules, frameworks, transposed convolutions, chains of layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convmat.geometry import ConvGeometry, Pads
from convmat.report.facts import Grid, absent, kernel_size_facts
from convmat.shown import Fact, shape_fact, sizes
from convmat.sizes import EXPLICIT_PADS, ChainLayer, FrameworkPads, Rules
from convmat.words import output_formulas, transpose_formulas


def sizes_facts(full: ConvGeometry, rules: Rules) -> list[Fact]:
    """Output sizes under each padding rule, for programs; None where the kernel does not fit."""
    return [
        shape_fact("input_size", "input size", full.input_size),
        *kernel_size_facts(full),
        Fact("transpose", "", False, ""),
        *absent("output_padding", *_OF_CHAINS),
        _rules_fact({rule: (g.pads, g.output_size) if g else None for rule, g in rules.items()}),
    ]


def transpose_facts(size: Sequence[int], output_padding: Sequence[int], rules: Rules) -> list[Fact]:
    """Sizes of transposed convolutions under each padding rule; None where nothing comes out."""
    return [
        Fact("transpose", "transposed", True, "yes"),
        shape_fact("input_size", "input size", size),
        *kernel_size_facts(next(g for g in rules.values() if g)),
        shape_fact("output_padding", "output padding", output_padding),
        *absent("frameworks", *_OF_CHAINS),
        _rules_fact({rule: (g.pads, g.input_size) if g else None for rule, g in rules.items()}),
    ]


def _rules_fact(results: dict[str, tuple[Pads, tuple[int, ...]] | None]) -> Fact:
    """Pads and output size under each rule."""
    values = {
        rule: result and {"pads": _lists(result[0]), "output_size": list(result[1])}
        for rule, result in results.items()
    }
    brief = ", ".join(f"{rule} {sizes(result[1]) if result else 'none'}" for rule, result in results.items())
    return Fact("rules", "paddings", values, str(len(values)), brief=brief)


def sizes_grid(rules: Rules) -> Grid:
    """Output sizes under each padding rule, with the formula filled in, a line an axis."""
    return _rules_grid(
        (rule, *_size_cells(g, output_formulas(g), g.output_size))
        if g
        else (rule, "", "the kernel does not fit", "")
        for rule, g in rules.items()
    )


def transpose_grid(size: Sequence[int], rules: Rules) -> Grid:
    """Sizes of transposed convolutions under each rule, with the formula filled in, a line an axis."""
    return _rules_grid(
        (rule, *_size_cells(g, transpose_formulas(g, size), g.input_size))
        if g
        else (rule, "", "takes no output padding" if rule.startswith("same") else "nothing comes out", "")
        for rule, g in rules.items()
    )


def _rules_grid(rows: Iterable[tuple[str, ...]]) -> Grid:
    return Grid("", ("padding", "before, after", "output size", "output"), list(rows))


def _size_cells(geometry: ConvGeometry, formulas: Iterable[str], size: Sequence[int]) -> tuple[str, ...]:
    """Pads, formulas and what they come to, a line an axis."""
    return _lines(geometry.pads), "\n".join(formulas), sizes(size)


def frameworks_fact(frameworks: Sequence[FrameworkPads]) -> Fact:
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
        for f in frameworks
    ]
    return Fact("frameworks", "", values, "")


def frameworks_grids(frameworks: Sequence[FrameworkPads]) -> list[Grid]:
    """What each framework's SAME comes to, and how to have any of these pads in each of them."""
    rows = []
    for f in frameworks:
        differs = "differs" if f.differs else ""
        rows.append((f.framework, f.rule, _lines(f.pads or ()), "; ".join(filter(None, (differs, f.note)))))
    variants = list(dict.fromkeys(f.pads for f in frameworks if f.pads))
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
    totals = [
        shape_fact("output_size", "output size", last.geometry.output_size),
        shape_fact("receptive_field", "receptive field", last.receptive_field),
        shape_fact("total_stride", "total stride", last.total_stride),
    ]
    return [
        shape_fact("input_size", "input size", input_size),
        Fact("transpose", "", False, ""),
        Fact("layers", "layers", values, str(len(layers))),
        *absent("kernel_size", "stride", "dilation", "output_padding", "rules", "frameworks"),
        *(fact._replace(brief=f"{fact.label} {fact.text}") for fact in totals),
    ]


_OF_CHAINS = ("layers", "output_size", "receptive_field", "total_stride")


def chain_grid(layers: Sequence[ChainLayer]) -> Grid:
    """A chain of layers, one a line, a line an axis."""
    rows = [
        (
            str(number),
            *_size_cells(layer.geometry, output_formulas(layer.geometry), layer.geometry.output_size),
            sizes(layer.receptive_field),
            sizes(layer.total_stride),
            ", ".join(map(str, layer.start)),
        )
        for number, layer in enumerate(layers, 1)
    ]
    columns = ("layer", "before, after", "output size", "output")
    return Grid("", (*columns, "receptive field", "total stride", "first pixel"), rows)


def _lists(pads: Pads) -> list[list[int]]:
    return [list(pair) for pair in pads]


def _lines(pads: Pads) -> str:
    return "\n".join(f"{before}, {after}" for before, after in pads)
