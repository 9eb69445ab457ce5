"""The self-check: it finds nothing in what is right, and whatever is broken, in the family it belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.axis import PADDING_NAMES
from convmat.verification import families, layer, selfcheck
from convmat.verification.slopes import pixel_slopes, weight_slopes
from tests.tools import mostly_slow


def failures() -> set[str]:
    """Families of the self-check that found something; none may raise."""
    checks = list(selfcheck.self_check())
    assert [check.family for check in checks] == list(families.FAMILIES)
    assert all(bool(check) == (not check.differences) for check in checks)
    assert all(case.trouble for check in checks for case in check.differences)
    return {check.family for check in checks if not check}


@pytest.fixture(scope="module")
def usual() -> dict[str, selfcheck.Check]:
    return {check.family: check for check in selfcheck.self_check()}


def test_the_self_check_finds_nothing_in_some_hundred_cases(usual: dict[str, selfcheck.Check]) -> None:
    checks = list(usual.values())
    assert list(usual) == list(families.FAMILIES)
    assert [case for check in checks for case in check.differences] == []
    assert all(check.cases for check in checks)
    assert 300 < sum(check.cases for check in checks) < 1000
    for check in checks:
        assert check.exact == (check.family not in BOUND)
        if check.exact:
            assert (check.max_abs_error, check.error_over_bound) == (0, 0)
        else:
            assert check.max_abs_error > 0
            assert 0 < check.error_over_bound <= 1


BOUND = {"convolve, bound", "convolve, infinities", "dtypes, bound"}


def test_cases_are_told_apart() -> None:
    names = []

    def watch(groups: Iterable[list[selfcheck.Case]], total: int) -> Iterator[list[selfcheck.Case]]:
        count = 0
        for group in groups:
            names.extend((case.family, case.name) for case in group)
            yield group
            count += 1
        assert count == total

    checks = list(selfcheck.self_check(5, 4, watch=watch))
    assert len(set(names)) == len(names) == sum(check.cases for check in checks)
    assert ("gradients", "random 3 of seed 5") in names


@pytest.mark.slow
@pytest.mark.parametrize("seed", mostly_slow([2**40, 0, 1]))
def test_other_numbers_and_random_geometries(seed: int, usual: dict[str, selfcheck.Check]) -> None:
    for check in selfcheck.self_check(seed, 25):
        assert check, str(check.differences[:1])
        assert (check.cases > usual[check.family].cases) == (usual[check.family].cases in range(19, 27))
        if not check.exact:
            assert check.error_over_bound != usual[check.family].error_over_bound


def test_random_geometries_use_every_option() -> None:
    drawn = [selfcheck._random_layer(np.random.default_rng([4, i])) for i in range(200)]
    assert {len(shape) - 2 for shape, _, _ in drawn} == {1, 2, 3}
    for name, count in {"padding_mode": 4, "groups": 3, "flip": 2, "bias": 2}.items():
        assert len({options[name] for *_, options in drawn}) == count
    paddings = [options["padding"] for *_, options in drawn]
    assert {p for p in paddings if isinstance(p, str)} == set(PADDING_NAMES)
    assert {type(p) for p in paddings} == {str, int, tuple}
    for shape, filters, options in drawn:
        where = {key: options[key] for key in ("stride", "padding", "dilation", "groups")}
        assert min(cm.ConvGeometry(shape, filters[1:-1], **where).output_size) > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers() -> None:
    assert list(selfcheck.self_check(3, 2)) == list(selfcheck.self_check(3, 2))


def rows_swapped(unroll: Any) -> Any:
    return lambda *args, **options: unroll(*args, **options)[::-1]


def channels_swapped(flatten: Any) -> Any:
    return lambda filters, *args, **options: flatten(filters[..., ::-1], *args, **options)


def one_off(execute: Any) -> Any:
    def broken(todo: Any) -> np.ndarray:
        y = execute(todo).copy()
        y.flat[-1:] += 1
        return y

    return broken


def odd_pixel_at_the_start(geometry: Any) -> Any:
    def broken(shape: Any, kernel: Any, stride: Any = 1, padding: Any = "valid", dilation: Any = 1) -> Any:
        return geometry(shape, kernel, stride, "same-lower" if padding == "same" else padding, dilation)

    return broken


def padding_forgotten(geometry: Any) -> Any:
    return lambda shape, kernel, stride=1, padding=0, dilation=1: geometry(shape, kernel, stride, 0, dilation)


def stride_forgotten(geometry: Any) -> Any:
    return lambda shape, kernel, stride, *others: geometry(shape, kernel, 1, *others)


def raising(_: Any) -> Any:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("broken")

    return broken


def sign_lost(fold: Any) -> Any:
    return lambda *args, **options: -fold(*args, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, breaking, found",
    mostly_slow(
        [
            ("unroll", rows_swapped, {"unroll", "X_col · W_col", "adjoint", "gradients", "dtypes"}),
            ("unroll", raising, {"unroll", "X_col · W_col", "fold", "adjoint", "gradients", "dtypes"}),
            ("flatten_filters", channels_swapped, {"flatten-filters", "X_col · W_col", "gradients"}),
            ("flatten_filters", raising, {"flatten-filters", "X_col · W_col", "gradients"}),
            ("multiply", sign_lost, {"X_col · W_col"}),
            ("execute", one_off, {"convolve", *BOUND}),
            ("execute", raising, {"convolve", *BOUND}),
            ("stream", raising, {"convolve"}),
            ("convolve", lambda convolve: lambda *a, **o: -convolve(*a, **o), {"dtypes", "layouts, arrays"}),
            (
                "convolve",
                lambda convolve: lambda *a, **o: convolve(*a, **o).astype("f4"),
                {"dtypes", "layouts, arrays"},
            ),
            ("convolve", raising, {"dtypes", "layouts, arrays"}),
            ("fold", sign_lost, {"fold", "adjoint", "gradients", "dtypes"}),
            ("fold_stream", raising, {"fold"}),
            ("convolve_transpose", sign_lost, {"transpose", "gradients", "dtypes"}),
            ("layer_matrix", raising, {"matrix"}),
            ("transpose_geometry", raising, {"output sizes"}),
            ("ConvGeometry", odd_pixel_at_the_start, {"mapping, locate", "gradients"}),
            ("ConvGeometry", padding_forgotten, {"output sizes", "mapping, locate", "fold", "gradients"}),
            ("ConvGeometry", raising, {"output sizes", "mapping, locate", "fold", "gradients"}),
            (
                "to_batch",
                raising,
                {"matrix", "layouts, arrays", "convolve, bound", "convolve, infinities", "dtypes, bound"},
            ),
        ]
    ),
)
def test_the_self_check_finds(
    monkeypatch: pytest.MonkeyPatch, name: str, breaking: Callable[[Any], Any], found: set[str]
) -> None:
    for module in (families, layer):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, breaking(getattr(module, name)))
    assert failures() == found


def test_the_gradients_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: Y = [w0·x0 + w1·x1, w0·x1 + w1·x2], dY = [1, 10]."""
    x, w = np.array([[[2.0], [3.0], [5.0]]]), np.array([[[7.0], [11.0]]])
    dy = np.array([[[1.0], [10.0]]])
    slopes = weight_slopes(x, w, dy, {})
    np.testing.assert_array_equal(slopes.ravel(), [2 * 1 + 3 * 10, 3 * 1 + 5 * 10])
    slopes = pixel_slopes(x, w, dy, {})
    np.testing.assert_array_equal(slopes.ravel(), [7 * 1, 11 * 1 + 7 * 10, 11 * 10])


@pytest.mark.slow
def test_the_self_check_says_which_case_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def cases() -> dict[tuple[str, str], selfcheck.Case]:
        found = {check.family: check for check in selfcheck.self_check()}
        return {(case.family, case.name): case for check in found.values() for case in check.differences}

    monkeypatch.setattr(families, "unroll", rows_swapped(cm.unroll))
    differing = cases()
    case = differing["unroll", "same, stride 2"]
    assert case.trouble.startswith("different: ")
    assert (case.input_shape, case.filter_shape) == ((1, 6, 7, 2), (2, 3, 3, 2))
    assert case.options == {"padding": "same", "stride": 2}
    assert ("X_col · W_col", "same, stride 2") in differing
    assert ("mapping, locate", "same, stride 2") not in differing
    monkeypatch.setattr(families, "unroll", raising(None))
    assert cases()["unroll", "same, stride 2"].trouble == "RuntimeError: broken"
    check = next(check for check in selfcheck.self_check() if check.family == "unroll")
    assert (len(check.differences), check.max_abs_error) == (check.cases, math.inf)


def test_each_family_is_in_the_table_by_the_name_of_its_functions() -> None:
    assert len(families.FAMILIES) == 16
    for entry in families.TABLE:
        assert entry.family in families.FAMILIES
        assert issubclass(entry.of, families.Subject)
    layer = families.SmallLayer("small", (1, 4, 3, 2), (2, 2, 2, 2), {}, np.random.default_rng(0))
    by_name = {entry.compare.__name__: entry for entry in families.TABLE}
    assert by_name["_folded"].family == "fold"
    assert families._folded(layer)
    assert families._multiplied(layer)
    layer.flip = True
    assert families._multiplied(layer) is None


def test_wrong_sizes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "ConvGeometry", stride_forgotten(cm.ConvGeometry))
    sizes = next(selfcheck.self_check())
    assert sizes.family == "output sizes"
    assert "different: " in sizes.differences[0].trouble
    assert sizes.max_abs_error > 0
