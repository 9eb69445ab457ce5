"""Facts and grids of checks over many cases: the self-check's families, and probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convmat.report.facts import Grid, absent, geometry_facts, quantization_facts
from convmat.shown import Fact, shape_fact, sizes
from convmat.words import POSITION_NAMES

if TYPE_CHECKING:
    from convmat.geometry import ConvGeometry
    from convmat.verification.golden import OwnLayer
    from convmat.verification.probes import Layered, Probe
    from convmat.verification.selfcheck import Case, Check
    from convmat.verification.verdict import Report

_SHOWN = 20  # cases that differ in the table; JSON has all


def checks_grids(checks: Sequence[Check]) -> list[Grid]:
    """The self-check, a line a family; and the first cases that differ, a line each."""
    families = [_family_line(check) for check in checks]
    grids = [Grid("", ("family", "cases", "judged", "worst error", "verdict"), families)]
    differences = [case for check in checks for case in check.differences]
    if differences:
        more = f", the first {_SHOWN} of {len(differences)}" if len(differences) > _SHOWN else ""
        columns = ("family", "case", "input", "filters", "options", "how")
        grids.append(
            Grid(f"What differs{more}", columns, [_case_line(case) for case in differences[:_SHOWN]])
        )
    return grids


def _family_line(check: Check) -> tuple[str, ...]:
    if check.exact:
        judged, worst = "exactly", f"{check.max_abs_error:.3g}"
    else:
        judged, worst = "by the bound", f"{check.error_over_bound:.3g} of the bound"
    verdict = "equal" if check else f"different: {len(check.differences)}"
    return check.family, str(check.cases), judged, worst, verdict


def _case_line(case: Case) -> tuple[str, ...]:
    options = ", ".join(f"{key} {value}" for key, value in case.options.items())
    return case.family, case.name, sizes(case.input_shape), sizes(case.filter_shape), options, case.trouble


def checks_facts(checks: Sequence[Check], seed: int) -> list[Fact]:
    """The self-check in one verdict."""
    cases = sum(check.cases for check in checks)
    different = sum(len(check.differences) for check in checks)
    families = [
        {
            "family": check.family,
            "cases": check.cases,
            "exact": check.exact,
            "max_abs_error": check.max_abs_error,
            "error_over_bound": check.error_over_bound,
            "equal": bool(check),
            "differences": [_case_value(case) for case in check.differences],
        }
        for check in checks
    ]
    largest = max((check.error_over_bound for check in checks), default=0.0)
    verdict = f"equal: {cases} cases, largest error {largest:.2g} of its bound"
    if different:
        verdict = f"different: {different} of {cases} cases"
    return [
        Fact("families", "", families, ""),
        Fact("seed", "seed", seed, str(seed)),
        Fact("cases", "cases", cases, str(cases)),
        Fact("different", "different", different, str(different)),
        Fact("equal", "verdict", not different, verdict, brief=verdict),
    ]


def _case_value(case: Case) -> dict[str, Any]:
    error = math.inf if case.report is None else case.report.max_abs_error
    return {
        "name": case.name,
        "input_shape": list(case.input_shape),
        "filter_shape": list(case.filter_shape),
        "options": case.options,
        "max_abs_error": error,
        "trouble": case.trouble,
    }


def probe_facts(
    probe: Probe,
    folder: str,
    layout: str,
    kernel_layout: str,
    formats: Sequence[str],
    seed: int,
    cases: Sequence[dict[str, Any]],
) -> list[Fact]:
    """A probe that was written."""
    operands = probe.operands
    given = str(operands.x) if operands.x == operands.kernel else f"{operands.x}, kernels {operands.kernel}"
    dtypes = f"{given}; bias and Y {operands.summed}, accumulators {operands.accumulator}"
    arithmetic = f"{probe.arithmetic or operands.x}: sums of {operands.sum_bits} bits"
    return [
        *_written_facts(probe, folder, f"probe of X_col {sizes(probe.geometry.matrix_shape)}, {given}"),
        *_layout_facts(layout, kernel_layout, probe.order),
        Fact("dtype", "dtype", str(operands.x), dtypes),
        Fact("kernel_dtype", "", str(operands.kernel), ""),
        Fact("arithmetic", "arithmetic", probe.arithmetic, arithmetic),
        Fact("tile", "tile" if probe.tile else "", list(probe.tile) or None, sizes(probe.tile)),
        _formats_fact(formats),
        Fact("seed", "seed", seed, str(seed)),
        Fact("cases", "", cases, ""),
        *absent("input", "turned", "quantization", "name", "exact", "arrays"),
    ]


def vectors_facts(
    layer: OwnLayer,
    folder: str,
    layouts: tuple[str, str],
    formats: Sequence[str],
    name: str,
    arrays: Sequence[dict[str, Any]],
    exact: bool,
) -> list[Fact]:
    """Golden vectors of one's own layer that were written."""
    x, kernel, _ = map(str, layer.dtypes)
    what = "quantized" if layer.quantization is not None else f"{x}, kernels {kernel}"
    summed = "exact in any order" if exact else f"in float64, rounded once to {arrays[-1]['dtype']}"
    return [
        *_written_facts(
            layer, folder, f"golden vectors of X_col {sizes(layer.geometry.matrix_shape)}, {what}"
        ),
        *_layout_facts(*layouts, layer.order),
        Fact("dtype", "dtype", x, f"{x}, kernels {kernel}"),
        Fact("kernel_dtype", "", kernel, ""),
        *quantization_facts(layer.quantization),
        Fact("exact", "sums", exact, summed),
        _formats_fact(formats),
        Fact("name", "name", name, name),
        Fact("arrays", "", arrays, ""),
        *absent("arithmetic", "tile", "seed", "cases"),
    ]


def _written_facts(layer: Layered, folder: str, about: str) -> list[Fact]:
    geometry = layer.geometry
    return [
        Fact("probe", "probe", folder, folder, brief=f"{about}, in {folder}"),
        *geometry_facts(geometry, layer.padding_mode),
        Fact("filters", "filters", layer.filters, f"{layer.filters}{', flipped' if layer.flip else ''}"),
        Fact("flip", "", layer.flip, ""),
        Fact("groups", "groups", geometry.groups, str(geometry.groups)),
        shape_fact("matrix_shape", "X_col", geometry.matrix_shape),
    ]


def _layout_facts(layout: str, kernel_layout: str, order: str) -> list[Fact]:
    return [
        Fact("layout", "layouts", layout, f"{layout}, kernels {kernel_layout}, columns {order}"),
        Fact("kernel_layout", "", kernel_layout, ""),
        Fact("order", "", order, ""),
    ]


def _formats_fact(formats: Sequence[str]) -> Fact:
    written = [name for name in ("npy", "c", "hex", "bin") if name in {"npy", *formats}]
    return Fact("formats", "formats", written, ", ".join(written))


def arrays_grid(arrays: Sequence[dict[str, Any]]) -> Grid:
    """The arrays of a layer, a line each."""
    lines = [
        (
            one["name"],
            one["about"],
            sizes(one["shape"]),
            one["dtype"],
            *(_short(one[end]) for end in ("least", "greatest")),
        )
        for one in arrays
    ]
    return Grid("", ("array", "what it is", "shape", "dtype", "least", "greatest"), lines)


def probe_grid(cases: Sequence[dict[str, Any]]) -> Grid:
    """The cases of a probe, a line each."""
    columns = ("case", "what it is", "max |x|", "max |w|", "bits of x", "of w", "of sums")
    keys = ("largest_x", "largest_kernel", "bits_x", "bits_kernel", "bits_sums")
    return Grid(
        "",
        columns,
        [(case["name"], case["about"], *(f"{case[key]:.6g}" for key in keys)) for case in cases],
    )


def judged_facts(folder: str, stage: str, reports: Mapping[str, Report], others: Sequence[str]) -> list[Fact]:
    """Results judged against a probe, in one verdict; `others` are the cases of which there was none."""
    different = sum(not report for report in reports.values())
    cases = [
        {
            "name": name,
            "result_shape": list(report.shape),
            "definition_shape": list(report.expected_shape),
            "elements": report.elements,
            "outside": report.outside,
            "max_abs_error": report.max_abs_error,
            "worst": None if report.worst is None else list(report.worst),
            "worst_value": None if report.worst_values is None else _number(report.worst_values[0]),
            "worst_definition": None if report.worst_values is None else _number(report.worst_values[1]),
            "equal_as": list(report.equal_as) or None,
            "equal": bool(report),
        }
        for name, report in reports.items()
    ]
    count = len(reports)
    verdict = f"different: {different} of " if different else "equal: "
    verdict += f"{count} case{'s' if count != 1 else ''}"
    roundings = [
        f"; equal as {r.equal_as[0]}; you asked for {r.rounding}" for r in reports.values() if r.equal_as
    ]
    verdict += "".join(roundings)
    return [
        *absent("diagnosis", "diagnosis_tried", "diagnosis_known"),
        Fact("probe", "probe", folder, folder),
        Fact("stage", "stage", stage, stage),
        Fact("cases", "", cases, ""),
        Fact("different", "", different, ""),
        Fact("not_judged", "not judged" if others else "", list(others), ", ".join(others)),
        Fact("equal", "verdict", not different, verdict, brief=verdict),
    ]


def judged_grid(reports: Mapping[str, Report], geometry: ConvGeometry, stage: str) -> Grid:
    """Results judged against a probe, a line a case."""
    names = (
        ("n", *POSITION_NAMES[len(geometry.kernel_size)], "k") if stage == "convolve" else ("row", "column")
    )
    columns = ("case", "elements that differ", "worst element", "its value", "by definition", "verdict")
    lines = []
    for name, report in reports.items():
        if report.shape != report.expected_shape:
            lines.append((name, "", "", "", "", str(report)))
            continue
        place = value = wanted = ""
        if report.worst is not None and report.worst_values is not None:
            place = ", ".join(f"{axis} {i}" for axis, i in zip(names, report.worst, strict=True))
            value, wanted = (f"{number:.15g}" for number in report.worst_values)
        share = f"{report.outside} of {report.elements}"
        lines.append((name, share, place, value, wanted, "equal" if report else "different"))
    return Grid("", columns, lines)


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, complex) else value
