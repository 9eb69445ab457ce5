"""Facts and grids of networks: every layer as the fully connected layer it equals, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from convmat.geometry import ConvGeometry
from convmat.networks.judging import End, Judged, Verdict
from convmat.networks.layers import Layer
from convmat.networks.model import Shape, shape_text
from convmat.networks.spectra import Stretch
from convmat.report.facts import Grid, absent
from convmat.report.spectra import spectrum_value
from convmat.shown import Fact
from convmat.words import output_formulas, transpose_formulas

_UNKNOWN = "?"


def network_facts(
    name: str, judged: Sequence[Judged], by: str | None, stretches: Sequence[Stretch] | None = None
) -> list[Fact]:
    """A network's layers, for programs, and what they come to together; the verdict, where there is one."""
    layers = [one.layer for one in judged]
    none = Stretch(None, None)
    values = [
        _value(one) | spectrum_value(stretch)
        for one, stretch in zip(judged, stretches or [none] * len(judged), strict=True)
    ]
    convs = sum(layer.is_conv for layer in layers)
    kinds = _counted(layer.op for layer in layers)
    weights, products = (
        _total(getattr(layer, key) for layer in layers) for key in ("weights", "multiply_adds")
    )
    return [
        Fact("network", "network", name, name),
        Fact("layers", "", values, ""),
        Fact(
            "convs", "CONV layers", convs, str(convs), brief=f"{convs} CONV layer{'s' if convs != 1 else ''}"
        ),
        Fact(
            "kinds", "operators", kinds, ", ".join(f"{count} {op}" for op, count in kinds.items()) or "none"
        ),
        Fact("weights", "weights", weights, _grouped(weights), brief=f"{_grouped(weights)} weights"),
        Fact(
            "multiply_adds",
            "multiply-adds",
            products,
            _grouped(products),
            brief=f"{_grouped(products)} multiply-adds",
        ),
        *_verdict_facts(judged, by),
    ]


def _verdict_facts(judged: Sequence[Judged], by: str | None) -> list[Fact]:
    """Of all results that were judged, theirs and ours."""
    verdicts = [v for one in judged for v in (one.theirs, one.ours) if v is not None]
    keys = ("run_by", "judged", "different", "error_over_bound", "engine_error_over_bound", "equal")
    if not verdicts:
        return absent(*keys)
    count = sum(one.theirs is not None for one in judged)
    different = [one for one in judged if _differs(one)]
    worst, ours = (
        max((v.error_over_bound for v in some if v is not None), default=0.0)
        for some in ([one.theirs for one in judged], [one.ours for one in judged])
    )
    text = (
        f"equal: {count} layer{'s' if count != 1 else ''}, largest error {max(worst, ours):.2g} of its bound"
    )
    if different:
        names = ", ".join(one.layer.name for one in different[:3]) + (", …" if len(different) > 3 else "")
        text = f"different: {len(different)} of {count} layer{'s' if count != 1 else ''}: {names}"
        instead = {one.instead for one in different}
        if len(instead) == 1 and (said := instead.pop()):
            text += f", {said}"
    return [
        Fact("run_by", "run by", by, by or ""),
        Fact("judged", "layers judged", count, f"{count} of {len(judged)}"),
        Fact("different", "", len(different), ""),
        Fact("error_over_bound", "largest error / bound", worst, f"{worst:.3g}"),
        Fact("engine_error_over_bound", "that of convmat's engine", ours, f"{ours:.3g}"),
        Fact("equal", "verdict", not different, text, brief=text),
    ]


def _differs(one: Judged) -> bool:
    return any(verdict is not None and not verdict.equal for verdict in (one.theirs, one.ours))


def _value(one: Judged) -> dict[str, Any]:
    layer, geometry = one.layer, one.layer.geometry
    theirs, ours = one.theirs, one.ours
    return {
        "name": layer.name,
        "op": layer.op,
        "input_shape": _list(layer.input_shape),
        "output_shape": _list(layer.output_shape),
        "kernel_shape": _list(layer.kernel_shape),
        "stride": geometry and list(geometry.stride),
        "pads": geometry and list(map(list, geometry.pads)),
        "dilation": geometry and list(geometry.dilation),
        "groups": geometry and geometry.groups,
        "matrix_shape": _list(layer.matrix_shape),
        "weight_shape": _list(layer.weight_shape),
        "weights": layer.weights,
        "weight_uses": layer.uses,
        "multiply_adds": layer.multiply_adds,
        "receptive_field": _list(layer.receptive_field),
        "total_stride": None if layer.total_stride is None else list(layer.total_stride),
        "error_over_bound": None if theirs is None else theirs.error_over_bound,
        "verdict": _word(theirs),
        "engine_error_over_bound": None if ours is None else ours.error_over_bound,
        "engine_verdict": _word(ours),
        "why_not_judged": one.why,
        "equal_instead": one.instead or None,
    }


def network_grid(judged: Sequence[Judged], formulas: bool = False) -> Grid:
    """The layers, one a line."""
    columns = ["layer", "operator", "input", "kernel", "stride", "pads", "dilation", "groups", "output"]
    columns += [
        "X_col",
        "W_col",
        "weights",
        "multiply-adds",
        "each weight used",
        "receptive field",
        "total stride",
    ]
    runs = any(one.theirs is not None or one.why for one in judged)
    columns += ["error / bound", "verdict", "convmat's", "verdict"] if runs else []
    return Grid("", tuple(columns), [_line(one, formulas, runs) for one in judged])


def _line(one: Judged, formulas: bool, runs: bool) -> tuple[str, ...]:
    layer, geometry = one.layer, one.layer.geometry
    steps: list[str] = [""] * 4
    output = shape_text(layer.output_shape)
    if geometry is not None:
        pads = [f"{before},{after}" for before, after in geometry.pads]
        same = pads[0] if len(set(pads)) == 1 else " ".join(pads)
        steps = [_sizes(geometry.stride), same, _sizes(geometry.dilation), str(geometry.groups)]
        if formulas:
            output = "\n".join([output, *_formulas(layer, geometry)])
    kernel = shape_text(
        layer.kernel_shape[2:] if layer.is_conv and layer.kernel_shape else layer.kernel_shape
    )
    line = (
        layer.name,
        layer.op,
        shape_text(layer.input_shape),
        kernel,
        *steps,
        output,
        _matrix(layer.matrix_shape),
        _matrix(layer.weight_shape),
        _grouped(layer.weights),
        _grouped(layer.multiply_adds),
        _grouped(layer.uses) if layer.has_weights else "",
        _seen_text(layer.receptive_field, layer.total_stride),
        _matrix(layer.total_stride) if layer.total_stride and None not in layer.total_stride else "",
    )
    cells = (*_verdict_cells(one.theirs, one.why, one.instead), *_verdict_cells(one.ours))
    return (*line, *cells) if runs else line


def _formulas(layer: Layer, geometry: ConvGeometry) -> list[str]:
    if not layer.is_transposed:
        return output_formulas(geometry)
    size = [size or 0 for size in (layer.input_shape or ())[2:]]
    return transpose_formulas(geometry, size)


def _verdict_cells(verdict: Verdict | None, why: str | None = None, instead: str = "") -> tuple[str, str]:
    if verdict is None:
        return "", f"not judged: {why}" if why else ""
    word = "equal" if verdict.equal else f"different: {verdict.outside} of {verdict.elements}"
    word += f"; {instead}" if instead else ""
    return f"{verdict.error_over_bound:.3g}", word


def _word(verdict: Verdict | None) -> str | None:
    return None if verdict is None else "equal" if verdict.equal else "different"


def _seen_text(field: Sequence[int | None] | None, stride: Sequence[float | None] | None) -> str:
    """A receptive field; all, where an output sees all of the input."""
    if field is None or stride is None:
        return "all"
    return shape_text(tuple(field)) + (", all" if None in stride else "")


_OF_FC = ("to_fc", "rewritten", "left", "fc_error_over_bound", "fc_end", "fc_end_allowed", "fc_equal")


def no_fc_facts() -> list[Fact]:
    """Of a network that was not rewritten, the keys alone."""
    return absent(*_OF_FC)


def fc_facts(
    written: str, done: int, left: dict[str, str], judged: Sequence[Judged], end: End | None
) -> list[Fact]:
    """A network that was rewritten, and what became of its layers."""
    values = [{"name": name, "why": why} for name, why in left.items()]
    shown = "\n".join(f"{name}: {why}" for name, why in left.items())
    facts = [
        Fact("to_fc", "as products, in", written, written),
        Fact("rewritten", "layers rewritten", done, str(done)),
        Fact("left", "left as they are" if left else "", values, shown),
    ]
    if end is None:
        return [*facts, *no_fc_facts()]
    worst = max((one.theirs.error_over_bound for one in judged if one.theirs is not None), default=0.0)
    equal = end.equal and not any(map(_differs, judged))
    apart = f"{end.apart:.2g} of the largest apart, of {end.allowed:.2g} allowed"
    return [
        *facts,
        Fact("fc_error_over_bound", "their largest error / bound", worst, f"{worst:.3g}"),
        Fact("fc_end", "outputs in the end", end.apart, apart if end.apart else "the same, bit for bit"),
        Fact("fc_end_allowed", "", end.allowed, ""),
        Fact("fc_equal", "", equal, ""),
    ]


def _total(numbers: Iterable[int | None]) -> int | None:
    """The sum; None where a part of it is not known."""
    known = list(numbers)
    return None if None in known else sum(n or 0 for n in known)


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts


def _list(shape: Shape | None) -> list[int | None] | None:
    return None if shape is None else list(shape)


def _sizes(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else "×".join(map(str, numbers))


def _matrix(shape: Sequence[float | None] | None) -> str:
    return _UNKNOWN if shape is None else "×".join(map(str, shape))


def _grouped(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"
