"""Facts and grids of checks over many cases: the self-check's families, and probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from convmat.report.facts import Fact, Grid, sizes
from convmat.verification.selfcheck import Case, Check

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
    verdict = f"different: {different} of {cases} cases" if different else f"equal: {cases} of {cases} cases"
    return [
        Fact("families", "", families, ""),
        Fact("seed", "seed", seed, str(seed)),
        Fact("cases", "cases", cases, str(cases)),
        Fact("different", "different", different, str(different)),
        Fact("equal", "verdict", not different, verdict),
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
