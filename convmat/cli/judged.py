"""Results of one's own: how they are read, and what is told of the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click
import numpy as np
from numpy.typing import NDArray

from convmat.cli.command import refuse
from convmat.cli.output import asked, report
from convmat.files.memory import check_memory
from convmat.files.npy import NpyInput
from convmat.formats import narrow
from convmat.layouts import output_layout, to_batch
from convmat.report.verdicts import diagnosis_facts, histogram_grid, verification_facts

if TYPE_CHECKING:
    from convmat.cli.options import LayerOptions
    from convmat.figures.look import Look
    from convmat.report.facts import Grid
    from convmat.shown import Fact
    from convmat.verification.diagnosis import Findings
    from convmat.verification.verdict import Report


@dataclass(frozen=True)
class VerifyOptions:
    """What the command line of `verify` says beside its inputs and the stage."""

    layer: LayerOptions
    input_shape: tuple[int, ...] | None
    expected: str | None
    grad: str | None
    overlap: str
    exact: bool
    atol: float | None
    rtol: float | None
    quantize: str | None
    requantize: tuple[Any, ...] | None
    arithmetic: str | None
    activation: str
    explain: bool
    diagnose: bool
    figure: str | None
    look: Look
    seed: int
    cases: int
    scheduler: str | None

    def __post_init__(self) -> None:
        if self.diagnose and self.expected is None:
            refuse(["diagnose"], "goes with --expected")

    @property
    def rules(self) -> dict[str, Any]:
        """How the library is to judge sums of floats."""
        return self.tolerance | {"arithmetic": self.arithmetic, "activation": self.activation}

    @property
    def tolerance(self) -> dict[str, Any]:
        """How the library is to judge."""
        return {"exact": self.exact, "atol": self.atol, "rtol": self.rtol}


class Judged(NamedTuple):
    """A verdict, and what is to be told of it."""

    verdict: bool
    facts: list[Fact]
    grids: list[Grid]

    def tell(self) -> NoReturn:
        """Print it, and end with its status: 0 equal, 1 different."""
        report(self.facts, self.grids, facts_last=True)
        click.get_current_context().exit(0 if self.verdict else 1)


def judged(
    verdict: Report,
    facts: list[Fact],
    more: list[Fact] | None = None,
    grids: list[Grid] | None = None,
    *,
    always: bool = False,
    **how: Any,
) -> Judged:
    """A verdict, which ends its facts; with errors by size where something is different, or `always`."""
    *verdicts, last = verification_facts(verdict, **how)
    shown = (always or not verdict) and verdict.histogram and verdict.elements
    sizes = [histogram_grid(verdict)] if shown else []
    return Judged(bool(verdict), [*facts, *verdicts, *(more or []), last], [*sizes, *(grids or [])])


class Result:
    """A result of one's own, an .npy file whose header has been read; or none, where convmat's is judged."""

    def __init__(self, name: str | None) -> None:
        self.source = None if name is None else NpyInput(name)

    def nbytes(self, otherwise: int) -> int:
        """Memory that it takes, or that convmat's own takes `otherwise`."""
        return otherwise if self.source is None else self.source.nbytes

    def read(self, fits: Callable[[NDArray[Any]], bool]) -> NDArray[Any] | None:
        """The array, if there is one; where it does not fit, one of its shape, of which nothing is held."""
        return None if self.source is None else read_if(self.source, fits(self.source.outline))


def read_if(source: NpyInput, matters: bool) -> NDArray[Any]:
    """An array that knows its format; where its shape alone decides, one of which nothing is held."""
    if matters:
        return narrow(source.read(), source.form)
    source.skip()
    return narrow(source.outline, source.form)


def results(array: NDArray[Any], shape: tuple[int, ...], layout: str) -> dict[str, NDArray[Any]]:
    """A result to judge, (N, *out, K), of an array as its file has it: each reading that fits, by name.

    What was said comes first: Y in `layout`, in any form that an input has. "rows" is X_col · W_col,
    (N·P, K), or (N, P, K) as matmul makes it of unroll --per-image; with one axis, channels first and
    K = L_out both may fit. Where neither does there is Y as it was said, as far as it can be read so.
    """
    said = as_images(array, len(shape) - 2, layout)
    readings = {layout: said} if said.shape == shape else {}
    rows = math.prod(shape[1:-1])
    same = readings and output_layout(layout) == "nhwc"  # whose elements are in the order of the rows
    if array.shape in ((shape[0] * rows, shape[-1]), (shape[0], rows, shape[-1])) and not same:
        readings["rows"] = array.reshape(shape)
    return readings or {layout: said}


def may_be_told(asks: VerifyOptions, array: NDArray[Any], size: int) -> bool:
    """Whether mistakes are to be looked for in a result, if it differs from one of so many elements."""
    return asks.diagnose and not asked("quiet") and array.size <= 2 * size


def diagnosis(
    asks: VerifyOptions,
    verdict: Report,
    array: NDArray[Any] | None,
    find: Callable[[NDArray[Any]], Findings],
    size: int = 0,
) -> list[Fact]:
    """The mistakes that `find` finds in a result that differs; nothing where none are looked for.

    `size` is of elements that a wrong result may have, where those are more than the right one has.
    """
    from convmat.verification.attempts import SEARCH_BYTES
    from convmat.verification.comparison import working_bytes

    size = max(size, math.prod(verdict.expected_shape))
    if array is None or verdict or not may_be_told(asks, array, size):
        return []
    needed = 3 * array.nbytes + SEARCH_BYTES + working_bytes(array.size, array.dtype)
    check_memory("expected", needed, "add --no-diagnose")
    return diagnosis_facts(find(array))


def first_equal(
    readings: dict[str, NDArray[Any]], judge: Callable[[NDArray[Any]], Report]
) -> tuple[str, Report]:
    """The name and the verdict of the first reading that is equal, else of the first."""
    verdicts = {}
    for name, result in readings.items():
        verdicts[name] = judge(result)
        if verdicts[name]:
            return name, verdicts[name]
    return next(iter(verdicts.items()))


def as_images(array: NDArray[Any], dims: int, layout: str) -> NDArray[Any]:
    """Images, (N, *spatial, C), of an array in `layout`; one that cannot be read so is left as it is."""
    return to_batch(array, dims, layout) if dims <= array.ndim <= dims + 2 else array


def places_in(
    array: NDArray[Any], read: Callable[[NDArray[Any]], NDArray[Any]]
) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """From an index of what `read` makes of an array, a view, to that of the same element in the array."""

    def place(at: tuple[int, ...]) -> tuple[int, ...]:
        number = read(np.arange(array.size).reshape(array.shape))[at]
        return tuple(int(i) for i in np.unravel_index(number, array.shape))

    return place
