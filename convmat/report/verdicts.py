"""Facts and grids of verifications: one result judged, or the self-check."""

from __future__ import annotations

from collections.abc import Sequence

from convmat.report.facts import Fact, Grid, shape_fact, sizes
from convmat.verification import Check, Report


def verification_facts(found: Report) -> list[Fact]:
    """What `verify` found, ending with the verdict."""
    share = f"{found.outside} of {found.elements}"
    facts = [
        shape_fact("shape", "result", found.shape),
        shape_fact("expected_shape", "definition", found.expected_shape),
        Fact("result_dtype", "result dtype", found.dtype, found.dtype),
        Fact("exact", "judged", found.exact, "exactly" if found.exact else "by each element's error bound"),
    ]
    if found.shape == found.expected_shape:
        facts += [
            Fact("outside", "elements outside", found.outside, share),
            Fact("max_abs_error", "max abs error", found.max_abs_error, f"{found.max_abs_error:.3g}"),
            Fact("bound", "bound there", found.bound, "0, exact" if found.exact else f"{found.bound:.3g}"),
            Fact(
                "error_over_bound", "error / bound", found.error_over_bound, f"{found.error_over_bound:.3g}"
            ),
        ]
        if found.worst is not None:
            facts.append(Fact("worst", "worst at", list(found.worst), ", ".join(map(str, found.worst))))
    verdict = "equal" if found else "different"
    return [*facts, Fact("equal", "verdict", found.equal, verdict)]


def checks_grid(checks: Sequence[Check]) -> Grid:
    """The self-check, a line a case."""
    rows = [
        (
            check.name,
            sizes(check.input_shape),
            sizes(check.filter_shape),
            sizes(check.matrix_shape),
            check.dtype,
            f"{check.max_abs_error:.3g}",
            f"{check.bound:.3g}" if check.bound else "0, exact",
            "equal" if check else f"different: {check.trouble}",
        )
        for check in checks
    ]
    columns = ("case", "input", "filters", "X_col", "dtype", "max abs error", "bound", "verdict")
    return Grid("", columns, rows)


def checks_facts(checks: Sequence[Check]) -> list[Fact]:
    """The self-check in one verdict."""
    failed = sum(not check for check in checks)
    cases = [
        {
            "family": check.family,
            "name": check.name,
            "input_shape": list(check.input_shape),
            "filter_shape": list(check.filter_shape),
            "matrix_shape": list(check.matrix_shape),
            "dtype": check.dtype,
            "max_abs_error": check.max_abs_error,
            "bound": check.bound,
            "equal": bool(check),
            "trouble": check.trouble,
        }
        for check in checks
    ]
    equal = f"equal: {len(checks)} of {len(checks)} cases"
    different = f"different: {failed} of {len(checks)} cases"
    return [
        Fact("cases", "cases", cases, str(len(checks))),
        Fact("different", "different", failed, str(failed)),
        Fact("equal", "verdict", not failed, different if failed else equal),
    ]
