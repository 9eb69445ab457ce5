"""Facts of verifications: one result judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convmat.geometry import ConvGeometry
from convmat.report.facts import Grid, absent
from convmat.shown import Fact, percent, shape_fact, sizes
from convmat.verification import Report
from convmat.verification.judging import HISTOGRAM, Explanation
from convmat.verification.quantization import Requantize
from convmat.words import LINE_NAMES, POSITION_NAMES, TAP_NAMES

if TYPE_CHECKING:
    from convmat.verification.diagnosis import Findings

_STAGES = {
    "convolve": "N × … × K",
    "fold": "N × … × C",
    "unroll": "rows × columns",
    "flatten-filters": "rows × filters",
    "matrix": "outputs × inputs",
}
_SHOWN_TERMS = 8  # at either end of a long sum


def _but_for_ones(found: Report) -> str:
    """What to do where two shapes are the same but for axes of 1, to end the verdict; else nothing."""
    first, second = ([size for size in shape if size != 1] for shape in (found.shape, found.expected_shape))
    if first != second:
        return ""
    return f", but for axes of 1 the same: reshape the first to {tuple(found.expected_shape)}"


def verification_facts(
    found: Report,
    given: Sequence[int] | None = None,
    layout: str = "nhwc",
    read_as: Sequence[str] = (),
    stage: str | None = "convolve",
    requantized: Requantize | None = None,
) -> list[Fact]:
    """What `verify` found, ending with the verdict.

    `given` is the shape of a result that was read from a file, in its own layout, and `read_as` how: as a
    layout or as "rows", and then how else it could have been. Without a `stage` two arrays were compared, of
    which the second stands for the definition.
    """
    axes = _STAGES.get(stage or "", "")
    facts = [
        Fact("stage", "", stage, ""),
        shape_fact("result_shape", "result" if stage else "first", found.shape, axes),
        shape_fact("definition_shape", "definition" if stage else "second", found.expected_shape, axes),
        _read_fact(read_as),
        Fact("result_dtype", "result dtype" if stage else "dtype of the first", found.dtype, found.dtype),
        Fact("elements", "", found.elements, ""),
        Fact("outside_share", "", found.outside_share, ""),
        *absent(*_OF_SOME),
    ]
    if requantized is not None:
        facts.append(Fact("requantize", "requantized", requantized._asdict(), str(requantized)))
    if found.shape != found.expected_shape:
        return [*facts, Fact("outside", "", found.outside, ""), _shapes_fact(found, given, layout, stage)]
    share = f"{found.outside} of {found.elements}"
    share += f" ({percent(found.outside_share)})" if found.outside else ""
    atol, rtol = found.tolerances or (None, None)
    facts += [
        Fact("exact", "judged", found.exact, _judged_text(found)),
        Fact("exact_sums", "", found.exact_sums, ""),
        Fact("atol", "", atol, ""),
        Fact("rtol", "", rtol, ""),
        Fact("outside", "elements outside", found.outside, share),
        Fact("max_abs_error", "max abs error", found.max_abs_error, _error_text(found)),
        Fact("max_rel_error", "max relative error", found.max_rel_error, f"{found.max_rel_error:.3g}"),
    ]
    if not found.exact:
        ratio = found.error_over_bound
        facts += [
            Fact("bound", "its bound", found.bound, f"{found.bound:.3g}"),
            Fact("error_over_bound", "largest error / bound", ratio, f"{ratio:.3g}"),
        ]
    atol = found.smallest_atol
    text = "none: NaN or infinity differs" if math.isinf(atol) else f"--atol {_number(atol)}"
    facts.append(Fact("smallest_atol", "" if found else "smallest that would pass", atol, text))
    facts.append(Fact("histogram", "", _histogram(found), ""))
    if found.worst is not None and found.worst_values is not None:
        got, wanted = found.worst_values
        labels = ("its value", "by definition") if stage else ("in the first", "in the second")
        facts += [
            Fact("worst", "worst element", list(found.worst), _place_text(found.worst, stage)),
            Fact("worst_value", labels[0], _plain(got), f"{got}"),
            Fact("worst_definition", labels[1], _plain(wanted), f"{wanted}"),
        ]
    if found.ulps is not None:
        facts.append(Fact("ulps", "its error in ULP" if found.ulps else "", found.ulps, f"{found.ulps:.3g}"))
    verdict = "equal" if found else "different"
    brief = f"{verdict}: {share} elements outside, max abs error {_error_text(found)}"
    if not found.exact and found.tolerances is None:
        brief += f", largest error / bound {found.error_over_bound:.3g}"
    return [*facts, Fact("equal", "verdict", found.equal, verdict, brief=brief)]


# Keys of JSON that some results have no value for, and some commands none that they could tell.
_OF_SOME = (
    *("input", "requantize", "exact", "atol", "rtol", "max_abs_error", "max_rel_error", "bound", "ulps"),
    *("error_over_bound", "smallest_atol", "histogram", "worst", "worst_value", "worst_definition"),
    *("exact_sums", "diagnosis", "diagnosis_tried", "diagnosis_known", "explained", "explained_filter"),
    "turned",
)


def _shapes_fact(found: Report, given: Sequence[int] | None, layout: str, stage: str | None) -> Fact:
    """The verdict on a result of another shape."""
    file = f": the file has {sizes(given)}, read as {layout}" if given and stage in _IMAGES else ""
    brief = f"different shapes: {sizes(found.shape)}, not {sizes(found.expected_shape)}"
    return Fact("equal", "verdict", False, f"different shapes{file}{_but_for_ones(found)}", brief=brief)


def _error_text(found: Report) -> str:
    return f"{found.max_abs_error:{'.15g' if found.exact else '.3g'}}"


def histogram_grid(found: Report) -> Grid:
    """How many elements have errors of which size; buckets of none are left out."""
    counts = _histogram(found)
    rows = [
        (_bucket_text(bucket), str(bucket["count"]), percent(bucket["count"] / found.elements))
        for bucket in counts
        if bucket["count"]
    ]
    return Grid("", ("error" if found.exact else "error / bound", "elements", "share"), rows)


def explained_facts(geometry: ConvGeometry, found: Explanation) -> list[Fact]:
    """The worst element's patch, filter and sum, of which the table is a grid of its own."""
    n, *position = found.at[:-1]
    lines = [
        (y * s - before, y * s - before + reach - 1)
        for y, s, (before, _), reach in zip(
            position, geometry.stride, geometry.pads, geometry.extent, strict=True
        )
    ]
    seen = ", ".join(
        f"{LINE_NAMES[name]} {first}..{last}"
        for name, (first, last) in zip(geometry.axis_names, lines, strict=True)
    )
    terms = [
        {
            "tap": [*term.tap, term.channel],
            "position": list(term.position),
            "pixel": None if term.pixel is None else list(term.pixel),
            "value": _plain(term.value),
            "weight": _plain(term.weight),
            "product": _plain(product),
            "sum": _plain(total),
        }
        for term, product, total in zip(found.terms, found.products, found.sums, strict=True)
    ]
    value = {"patch": [list(line) for line in lines], "image": n, "filter": found.at[-1], "terms": terms}
    value |= {"bias": _plain(found.bias), "sum": _plain(found.total)}
    return [
        Fact("explained", "its patch", value, f"{seen} of image {n}"),
        Fact("explained_filter", "its filter", found.at[-1], f"{found.at[-1]}"),
    ]


def terms_grid(found: Explanation) -> Grid:
    """The sum, term by term."""
    axes = len(found.at) - 2
    taps, pixels = ", ".join((*TAP_NAMES[axes], "c")), ", ".join((*POSITION_NAMES[axes], "c"))
    rows = []
    for term, product, total in zip(found.terms, found.products, found.sums, strict=True):
        tap = ", ".join(map(str, (*term.tap, term.channel)))
        pixel = "padding" if term.pixel is None else ", ".join(map(str, term.pixel[1:]))
        if term.pixel is not None and term.pixel[1:-1] != term.position:
            pixel += " (padding)"
        rows.append((tap, pixel, *(_number(v) for v in (term.value, term.weight, product, total))))
    if len(rows) > 2 * _SHOWN_TERMS + 1:
        rows = [*rows[:_SHOWN_TERMS], ("…",) + ("",) * 5, *rows[-_SHOWN_TERMS:]]
    if found.bias is not None:
        rows.append(("bias", "", "", "", _number(found.bias), _number(found.total)))
    columns = (f"tap ({taps})", f"pixel ({pixels})", "value", "weight", "product", "running sum")
    return Grid("the sum of the worst element, by definition", columns, rows)


def diagnosis_facts(found: Findings) -> list[Fact]:
    """The mistakes that explain a result, or that none does, and how many were tried of those known."""
    value = [
        {
            "sentence": str(one),
            "mistakes": list(one.mistakes),
            "exceptions": [list(place) for place in one.exceptions],
        }
        for one in found
    ]
    lines = [str(one) for one in found] or ["no known mistake explains it"]
    if found.tried < found.known:
        lines.append(f"tried {found.tried} of {found.known} known mistakes, alone and in pairs")
    return [
        Fact("diagnosis", "diagnosis", value, "\n".join(lines)),
        Fact("diagnosis_tried", "", found.tried, ""),
        Fact("diagnosis_known", "", found.known, ""),
    ]


_IMAGES = ("convolve", "fold")
_FORMS = {"rows": "rows of X_col · W_col"}


def _read_fact(read_as: Sequence[str]) -> Fact:
    """How the result's axes were read; shown where it was not as --layout says, or could be otherwise."""
    names = [_FORMS.get(name, name) for name in read_as]
    if not names:
        return Fact("read_as", "", None, "")
    text = names[0] + (f"; as {names[1]} it is not equal" if len(names) > 1 else "")
    shown = len(names) > 1 or read_as[0] in _FORMS
    return Fact("read_as", "read as" if shown else "", read_as[0], text)


def _judged_text(found: Report) -> str:
    if found.exact:
        return "exactly" + (": sums of whole numbers, exact in any order" if found.exact_sums else "")
    if found.tolerances is None:
        some = f"; {found.exact_sums} exactly, sums of whole numbers" if found.exact_sums else ""
        return f"by each element's error bound{some}"
    atol, rtol = found.tolerances
    return f"within {_number(atol)}" + (f" + {_number(rtol)}·|definition|" if rtol else "")


def _place_text(place: Sequence[int], stage: str | None) -> str:
    if stage in _IMAGES:
        names = ["n", *POSITION_NAMES[len(place) - 2], "k" if stage == "convolve" else "c"]
    elif stage is not None:
        names = ["row", "column"]
    else:
        return ", ".join(map(str, place)) or "the only one"
    return ", ".join(f"{name} {i}" for name, i in zip(names, place, strict=True))


def _histogram(found: Report) -> list[dict[str, Any]]:
    """Each bucket with its upper edge, or what else it is for."""
    names = [*(f"{edge:g}" for edge in HISTOGRAM), "more", "NaN or infinity"]
    return [{"up_to": name, "count": count} for name, count in zip(names, found.histogram, strict=True)]


def _bucket_text(bucket: dict[str, Any]) -> str:
    name = str(bucket["up_to"])
    if name in ("0", "NaN or infinity"):
        return name
    return f"> {HISTOGRAM[-1]:g}" if name == "more" else f"≤ {name}"


def _number(value: Any) -> str:
    """A number in full, and a whole one without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return str(int(value))
    return str(value)


def _plain(value: Any) -> Any:
    """For JSON, which has no complex numbers."""
    return str(value) if isinstance(value, complex | np.clongdouble) else value
