"""Facts of verifications: one result judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convmat.geometry import ConvGeometry
from convmat.report.facts import Grid, absent, quantization_facts
from convmat.shown import Fact, percent, shape_fact, sizes
from convmat.verification.layer import Explanation
from convmat.verification.stages import STAGES
from convmat.verification.verdict import HISTOGRAM, Report, number_text, plain
from convmat.words import LINE_NAMES, POSITION_NAMES, TAP_NAMES

if TYPE_CHECKING:
    from convmat.quantization import Quantization
    from convmat.verification.diagnosis import Findings
    from convmat.verification.evidence import Effect
    from convmat.verification.moved import Holds

_SHOWN_TERMS = 8  # at either end of a long sum


def verification_facts(
    report: Report,
    given: Sequence[int] | None = None,
    layout: str = "nhwc",
    read_as: Sequence[str] = (),
    stage: str | None = "convolve",
    quantization: Quantization | None = None,
) -> list[Fact]:
    """What `verify` found, ending with the verdict.

    `given` is the shape of a result that was read from a file, in its own layout, and `read_as` how: as a
    layout or as "rows", and then how else it could have been. Without a `stage` two arrays were compared, of
    which the second stands for the definition.
    """
    facts = [_of_arrays(fact) if stage is None else _of_stage(fact, stage) for fact in report.facts()]
    read = _read_fact(read_as)
    if given and stage in _IMAGES and report.shape != report.expected_shape:
        read = read._replace(label="read as", text=f"{layout}: the file has {sizes(given)}")
    others = " or ".join(report.equal_as)
    same = f"equal as {others}; you asked for {report.rounding}" if others else ""
    return [
        Fact("stage", "", stage, ""),
        *facts[:2],
        read,
        *facts[2:5],
        *absent(*_OF_SOME),
        *quantization_facts(quantization),
        Fact("equal_as", "rounding" if same else "", list(report.equal_as) or None, same),
        *facts[5:],
    ]


def _of_stage(fact: Fact, stage: str) -> Fact:
    """A fact with what the axes of the stage's result are."""
    if fact.key in ("result_shape", "definition_shape"):
        return shape_fact(fact.key, fact.label, fact.value, STAGES[stage].axes)
    if fact.key != "worst":
        return fact
    names: Sequence[str] = ("row", "column")
    if stage in _IMAGES:
        names = ("n", *POSITION_NAMES[len(fact.value) - 2], "k" if stage == "convolve" else "c")
    elif stage in ("dw", "db"):
        names = ("k", *TAP_NAMES[len(fact.value) - 2], "c") if stage == "dw" else ("k",)
    return fact._replace(text=", ".join(f"{name} {i}" for name, i in zip(names, fact.value, strict=True)))


_OF_ARRAYS = {
    "result_shape": "first",
    "definition_shape": "second",
    "result_dtype": "dtype of the first",
    "worst_value": "in the first",
    "worst_definition": "in the second",
}


def _of_arrays(fact: Fact) -> Fact:
    """A fact in the words of two arrays."""
    return fact._replace(label=_OF_ARRAYS.get(fact.key, fact.label))


# Keys of JSON that some results have no value for, and some commands none that they could tell.
_OF_SOME = (
    *("input", "exact", "atol", "rtol", "max_abs_error", "max_rel_error", "bound", "ulps"),
    *("error_over_bound", "smallest_atol", "histogram", "worst", "worst_value", "worst_definition"),
    *("exact_sums", "diagnosis", "diagnosis_tried", "diagnosis_known", "explained", "explained_filter"),
    *("where", "wrong_map", "instead", "turned", "figure"),
    *("holds", "arithmetic", "activation", "named_arithmetic"),
)


def histogram_grid(report: Report) -> Grid:
    """How many elements have errors of which size; buckets of none are left out."""
    counts = report.buckets()
    rows = [
        (_bucket_text(bucket), str(bucket["count"]), percent(bucket["count"] / report.elements))
        for bucket in counts
        if bucket["count"]
    ]
    return Grid("", ("error" if report.exact else "error / bound", "elements", "share"), rows)


def explained_facts(geometry: ConvGeometry, explained: Explanation) -> list[Fact]:
    """The worst element's patch, filter and sum, of which the table is a grid of its own."""
    n, *position = explained.at[:-1]
    lines = [
        (y * s - before, y * s - before + reach - 1)
        for y, s, (before, _), reach in zip(
            position, geometry.stride, geometry.pads, geometry.extent, strict=True
        )
    ]
    lines_text = ", ".join(
        f"{LINE_NAMES[name]} {first}..{last}"
        for name, (first, last) in zip(geometry.axis_names, lines, strict=True)
    )
    terms = [
        {
            "tap": [*term.tap, term.channel],
            "position": list(term.position),
            "pixel": None if term.pixel is None else list(term.pixel),
            "value": plain(term.value),
            "weight": plain(term.weight),
            "product": plain(product),
            "sum": plain(total),
        }
        for term, product, total in zip(explained.terms, explained.products, explained.sums, strict=True)
    ]
    value = {
        "patch": [list(line) for line in lines],
        "image": n,
        "filter": explained.at[-1],
        "terms": terms,
    }
    value |= {"bias": plain(explained.bias), "sum": plain(explained.total)}
    return [
        Fact("explained", "its patch", value, f"{lines_text} of image {n}"),
        Fact("explained_filter", "its filter", explained.at[-1], f"{explained.at[-1]}"),
    ]


def terms_grid(explained: Explanation) -> Grid:
    """The sum, term by term."""
    axes = len(explained.at) - 2
    taps, pixels = ", ".join((*TAP_NAMES[axes], "c")), ", ".join((*POSITION_NAMES[axes], "c"))
    rows = []
    for term, product, total in zip(explained.terms, explained.products, explained.sums, strict=True):
        tap = ", ".join(map(str, (*term.tap, term.channel)))
        pixel = "padding" if term.pixel is None else ", ".join(map(str, term.pixel[1:]))
        if term.pixel is not None and term.pixel[1:-1] != term.position:
            pixel += " (padding)"
        rows.append((tap, pixel, *(number_text(v) for v in (term.value, term.weight, product, total))))
    if len(rows) > 2 * _SHOWN_TERMS + 1:
        rows = [*rows[:_SHOWN_TERMS], ("…",) + ("",) * 5, *rows[-_SHOWN_TERMS:]]
    if explained.bias is not None:
        rows.append(("bias", "", "", "", number_text(explained.bias), number_text(explained.total)))
    columns = (f"tap ({taps})", f"pixel ({pixels})", "value", "weight", "product", "running sum")
    return Grid("the sum of the worst element, by definition", columns, rows)


def diagnosis_facts(findings: Findings) -> list[Fact]:
    """The mistakes that explain a result, or that none does, and how many were tried of those known."""
    value = [
        {
            "sentence": str(one),
            "mistakes": list(one.mistakes),
            "exceptions": [list(place) for place in one.exceptions],
        }
        for one in findings
    ]
    return [
        Fact("diagnosis", "diagnosis", value, str(findings), brief=findings.brief),
        Fact("diagnosis_tried", "", findings.tried, ""),
        Fact("diagnosis_known", "", findings.known, ""),
        *_instead_facts(findings.effects),
    ]


def holds_fact(holds: Holds) -> Fact:
    """What the worst element of X_col holds, and what it should hold."""
    value = {"at": list(holds.at), "value": plain(holds.value), "pixels": holds.of}
    value |= {key: at and list(at) for key, at in (("pixel", holds.pixel), ("wanted", holds.wanted))}
    return Fact("holds", "what it holds", value, str(holds))


def _instead_facts(effects: Sequence[Effect]) -> list[Fact]:
    """What was done instead, where something can be said of it."""
    if not effects:
        return []
    value, text = [effect.as_json() for effect in effects], "\n".join(map(str, effects))
    return [Fact("instead", "instead", value, text, brief=str(effects[0]))]


_IMAGES = ("convolve", "fold", "dx")
_FORMS = {"rows": "rows of X_col · W_col"}


def _read_fact(read_as: Sequence[str]) -> Fact:
    """How the result's axes were read; shown where it was not as --layout says, or could be otherwise."""
    names = [_FORMS.get(name, name) for name in read_as]
    if not names:
        return Fact("read_as", "", None, "")
    text = names[0] + (f"; as {names[1]} it is not equal" if len(names) > 1 else "")
    shown = len(names) > 1 or read_as[0] in _FORMS
    return Fact("read_as", "read as" if shown else "", read_as[0], text)


def _bucket_text(bucket: dict[str, Any]) -> str:
    name = str(bucket["up_to"])
    if name in ("0", "NaN or infinity"):
        return name
    return f"> {HISTOGRAM[-1]:g}" if name == "more" else f"≤ {name}"
