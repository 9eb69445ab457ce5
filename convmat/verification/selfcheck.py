"""The self-check, `convmat verify` alone: every command's mathematics against the definition, in families."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmat import reference
from convmat.axis import PADDING_MODES, PADDING_NAMES
from convmat.checks import SEED_LIMIT, whole
from convmat.verification.families import (
    FAMILIES,
    TABLE,
    Arrays,
    Blocks,
    OneDtype,
    SmallLayer,
    Subject,
)
from convmat.verification.verdict import Report

MOST_CASES = 1_000_000  # of random geometries


@dataclass(frozen=True)
class Case:
    """One comparison of a family; true when the two sides agree."""

    family: str
    name: str
    input_shape: tuple[int, ...]
    """(N, *spatial, C); empty where the case runs over many."""
    filter_shape: tuple[int, ...]
    """(K, *kernel, C/groups)."""
    options: dict[str, Any]
    """Those of `convolve` that the case sets."""
    report: Report | None
    """None where the computation raised."""
    trouble: str
    """How it differs, or what was raised; empty when equal."""

    def __bool__(self) -> bool:
        return not self.trouble


@dataclass(frozen=True)
class Check:
    """One family of the self-check; true when all its cases agree with the definition."""

    family: str
    cases: int
    exact: bool
    """Judged by equality rather than by the bound."""
    max_abs_error: float
    """The largest of all cases; infinite where one raised."""
    error_over_bound: float
    """The largest of all cases: at most 1 when equal, and 0 when equal exactly."""
    differences: tuple[Case, ...]
    """The cases that differ."""

    def __bool__(self) -> bool:
        return not self.differences


Watch = Callable[[Iterable[list[Case]], int], Iterable[list[Case]]]


def self_check(seed: int = 2017, cases: int = 0, watch: Watch | None = None) -> Iterator[Check]:
    """Check every command's mathematics against the definition; one `Check` for each of `FAMILIES`.

    A computation that raises is a difference like any other: the definition has a result there.

    Args:
        seed: of all random numbers, and of the random geometries; 0 to 2^64 - 1.
        cases: random geometries to check besides the fixed grid; 0 to `MOST_CASES`.
        watch: hands on the groups of cases as they are done; it is told how many groups there will be.
    """
    seed, cases = whole("seed", seed, 0, SEED_LIMIT), whole("cases", cases, 0, MOST_CASES)
    groups: Iterable[list[Case]] = map(_cases_of, _subjects(seed, cases))
    if watch is not None:
        groups = watch(groups, len(_GRID) + cases + len(_DTYPES) + _REST)
    # Of cases that agree only the numbers are kept: a long soak must not fill the memory.
    checks = {name: Check(name, 0, True, 0.0, 0.0, ()) for name in FAMILIES}
    for group in groups:
        for case in group:
            checks[case.family] = _with_case(checks[case.family], case)
    yield from checks.values()


def _with_case(check: Check, case: Case) -> Check:
    error, ratio = math.inf, math.inf
    if case.report is not None:
        error, ratio = case.report.max_abs_error, case.report.error_over_bound
    return Check(
        check.family,
        check.cases + 1,
        check.exact and (case.report is None or case.report.exact),
        max(check.max_abs_error, error),
        max(check.error_over_bound, ratio),
        check.differences if case else (*check.differences, case),
    )


def _subjects(seed: int, cases: int) -> Iterator[Subject]:
    """All that is compared, in pieces that are quick; each has random numbers of its own."""

    def rng(*place: int) -> np.random.Generator:
        return np.random.default_rng([seed, *place])

    yield Subject()
    for number, layer in enumerate(_GRID):
        yield SmallLayer(*layer, rng(0, number))
    for number, dtype in enumerate(_DTYPES):
        yield OneDtype(np.dtype(dtype), rng(1, number))
    yield Arrays(rng(2))
    yield Blocks(rng(3))
    for number in range(cases):
        drawn = rng(4, number)
        yield SmallLayer(f"random {number} of seed {seed}", *_random_layer(drawn), drawn)


_REST = 3  # subjects that are neither a layer nor a dtype


def _cases_of(subject: Subject) -> list[Case]:
    """What each family that is for the subject finds."""
    cases = []
    for entry in TABLE:
        if type(subject) is not entry.of:
            continue
        report, trouble = None, ""
        try:
            report = entry.compare(subject)
            if report is None:
                continue
            trouble = "" if report else str(report)
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
        name, shapes = entry.case.format(subject.name), entry.shapes or subject.shapes
        cases.append(Case(entry.family, name, *shapes, subject.options, report, trouble))
    return cases


# (name, input (N, *spatial, C), filters (K, *kernel, C/groups), options of convolve). Small enough for plain
# loops; together they use every option, alone and with others, along 1 to 3 axes.
_GRID: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("the paper's 28 × 28", (1, 28, 28, 1), (2, 7, 7, 1), {"stride": 7}),
    ("1 × 1 kernel", (2, 3, 4, 3), (4, 1, 1, 3), {}),
    ("kernel as large as the input", (2, 4, 3, 2), (3, 4, 3, 2), {}),
    ("kernel 2 × 4", (1, 5, 7, 2), (3, 2, 4, 2), {"stride": (2, 1)}),
    ("stride skips pixels", (1, 9, 8, 1), (1, 2, 2, 1), {"stride": (3, 4)}),
    ("same", (1, 6, 5, 3), (2, 3, 3, 3), {"padding": "same"}),
    ("same, stride 2", (1, 6, 7, 2), (2, 3, 3, 2), {"padding": "same", "stride": 2}),
    ("same-lower, kernel 2", (1, 5, 4, 2), (2, 2, 2, 2), {"padding": "same-lower"}),
    ("half, kernel 4 × 3", (1, 6, 5, 1), (2, 4, 3, 1), {"padding": "half"}),
    ("full, flipped", (1, 4, 5, 1), (2, 3, 2, 1), {"padding": "full", "flip": True}),
    ("padding per axis", (1, 5, 4, 2), (2, 3, 3, 2), {"padding": (2, 1), "stride": 2}),
    ("padding per side", (2, 4, 5, 1), (2, 3, 3, 1), {"padding": ((1, 2), (0, 3))}),
    ("dilation 2", (1, 7, 8, 2), (2, 3, 3, 2), {"dilation": 2}),
    ("dilation 3 × 1, same", (1, 7, 5, 1), (2, 3, 2, 1), {"dilation": (3, 1), "padding": "same"}),
    ("groups 2, bias", (2, 5, 4, 4), (6, 3, 2, 2), {"groups": 2, "bias": True}),
    ("depthwise, stride 2", (1, 6, 5, 3), (6, 3, 3, 1), {"groups": 3, "stride": 2, "padding": 1}),
    ("depthwise, bias", (2, 5, 6, 3), (3, 3, 2, 1), {"groups": 3, "bias": True, "padding": "same"}),
    ("flipped, bias", (1, 5, 6, 2), (3, 2, 3, 2), {"flip": True, "bias": True}),
    ("reflect", (1, 4, 5, 2), (2, 3, 3, 2), {"padding": 2, "padding_mode": "reflect"}),
    ("replicate", (1, 3, 4, 1), (2, 3, 3, 1), {"padding": (1, 3), "padding_mode": "replicate"}),
    ("circular", (1, 4, 3, 2), (2, 3, 3, 2), {"padding": "same", "padding_mode": "circular"}),
    ("1 axis", (2, 12, 2), (3, 4, 2), {"stride": 3, "padding": ((1, 2),)}),
    ("1 axis, dilated, groups", (1, 11, 4), (4, 3, 2), {"dilation": 2, "groups": 2}),
    ("3 axes", (1, 4, 3, 5, 2), (2, 2, 2, 3, 2), {"stride": (1, 2, 2), "padding": "same"}),
    ("3 axes, dilated", (1, 5, 4, 3, 1), (2, 2, 3, 2, 1), {"dilation": (2, 1, 1), "padding": 1}),
]

_INTEGERS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i2"]
_DTYPES = [*_INTEGERS, "f2", "f4", "f8", "c8", "c16", ">f4", ">c16"]


def _random_layer(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """A small layer of 1 to 3 axes, with any option: shapes and options as those of the grid."""
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    widest = {1: 12, 2: 7, 3: 4}[axes]

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(low, high + 1, axes)))

    kernel, size = each(1, {1: 5, 2: 3, 3: 2}[axes]), list(each(1, widest))
    pairs = tuple(zip(each(0, 3), each(0, 3), strict=True))
    window = {
        "stride": each(1, 3),
        "padding": (*PADDING_NAMES, int(rng.integers(0, 3)), pairs)[rng.integers(len(PADDING_NAMES) + 2)],
        "dilation": each(1, 2),
    }
    # Grown until the kernel fits.
    while 0 in (counts := reference.output_size(size, kernel, **window)):
        size = [h + (not count) for h, count in zip(size, counts, strict=True)]
    groups, per_group, filters = (int(rng.integers(1, 4)) for _ in range(3))
    options = window | {
        "padding_mode": str(rng.choice(PADDING_MODES)),
        "groups": groups,
        "flip": bool(rng.integers(2)),
        "bias": bool(rng.integers(2)),
    }
    shape = (int(rng.integers(1, 3)), *size, groups * per_group)
    return shape, (groups * filters, *kernel, per_group), options
