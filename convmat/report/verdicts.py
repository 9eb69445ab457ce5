"""Facts of verifications: one result judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convmat.geometry import POSITION_NAMES
from convmat.report.facts import Fact, shape_fact, sizes
from convmat.verification import Report


def verification_facts(found: Report, given: Sequence[int] | None = None, layout: str = "nhwc") -> list[Fact]:
    """What `verify` found, ending with the verdict.

    `given` is the shape of a result that was read from a file, in its own layout.
    """
    facts = [
        shape_fact("result_shape", "result", found.shape, "N × … × K"),
        shape_fact("definition_shape", "definition", found.expected_shape, "N × … × K"),
        Fact("result_dtype", "result dtype", found.dtype, found.dtype),
    ]
    verdict, ratio = "equal" if found else "different", found.error_over_bound
    if found.shape != found.expected_shape:
        file = "" if given is None else f": the file has {sizes(given)}, read as {layout}"
        return [*facts, Fact("equal", "verdict", False, f"{verdict} shapes{file}")]
    digits = ".15g" if found.exact else ".3g"
    share = f"{found.outside} of {found.elements}"
    facts += [
        Fact("exact", "judged", found.exact, "exactly" if found.exact else "by each element's error bound"),
        Fact("outside", "elements outside", found.outside, share),
        Fact("max_abs_error", "max abs error", found.max_abs_error, f"{found.max_abs_error:{digits}}"),
    ]
    if not found.exact:
        facts += [
            Fact("bound", "its bound", found.bound, f"{found.bound:.3g}"),
            Fact("error_over_bound", "largest error / bound", ratio, f"{ratio:.3g}"),
        ]
    if found.worst is not None and found.worst_values is not None:
        names = ["n", *POSITION_NAMES[len(found.worst) - 2], "k"]
        place = ", ".join(f"{name} {i}" for name, i in zip(names, found.worst, strict=True))
        got, wanted = found.worst_values
        facts.append(Fact("worst", "worst element", list(found.worst), place))
        facts.append(Fact("worst_value", "its value", _plain(got), f"{got}"))
        facts.append(Fact("worst_definition", "by definition", _plain(wanted), f"{wanted}"))
    return [*facts, Fact("equal", "verdict", found.equal, verdict)]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, complex) else value
