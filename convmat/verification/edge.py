"""`verify` as the library has it: what differs is diagnosed when somebody looks at the report."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import ParamSpec

from convmat.verification import layer
from convmat.verification.diagnosis import diagnose
from convmat.verification.verdict import Report

P = ParamSpec("P")


def _diagnosed(verify: Callable[P, Report]) -> Callable[P, Report]:
    """`verify`, whose report of a result that differs can say what mistake explains it."""
    of_layer = inspect.signature(diagnose).parameters.keys() - {"watch"}

    @wraps(verify)
    def told(*args: P.args, **how: P.kwargs) -> Report:
        report = verify(*args, **how)
        asked = inspect.signature(verify).bind(*args, **how).arguments
        if report or asked.get("expected") is None:
            return report
        judged = {name: value for name, value in asked.items() if name not in (*of_layer, "watch")}
        arguments = {name: value for name, value in asked.items() if name in of_layer}
        return replace(report, diagnose=partial(diagnose, judged=judged, **arguments))

    return told


verify = _diagnosed(layer.verify)
