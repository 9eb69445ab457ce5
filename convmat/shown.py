"""Values that show themselves as tables, in a terminal by rich and in a notebook; else they cost nothing."""

from __future__ import annotations

from typing import Any


class Shown:
    """A value whose facts `convmat.report` knows; what draws them is loaded when somebody looks."""

    __slots__ = ()

    def __rich__(self) -> Any:
        """The facts as a table of rich."""
        from convmat.report.shown import as_table

        return as_table(self)

    def _repr_html_(self) -> str:
        """The facts as a table of HTML."""
        from convmat.report.shown import as_html

        return as_html(self)
