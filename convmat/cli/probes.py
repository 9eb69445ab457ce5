"""Probes that are made up: their record, their macros, and what of both is read again."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.probe_folder import (
    RECORD,
    REMEDY,
    Header,
    Layouts,
    Opened,
    check_derived,
    check_record,
    damaged,
    geometry_macros,
    geometry_record,
    read_record,
    said_geometry,
    write_folder,
)
from convmat.cli.vectors import is_own, opened_own
from convmat.errors import ConvmatError
from convmat.files.schema import (
    SEED,
    Anything,
    Either,
    Fields,
    Items,
    Kind,
    Number,
    OneOf,
    Rows,
    Text,
    Whole,
    record_of,
)
from convmat.verification.operands import ARITHMETICS, PROBE_DTYPES
from convmat.verification.probes import CASES, MOST_ELEMENTS, Bits, Probe
from convmat.watching import Watch

_LARGEST = ("x", "kernel", "bias", "y")  # those whose largest number is told
_MOST_BITS = 128


def write_probe(
    folder: str,
    probe: Probe,
    layouts: Layouts,
    seed: int,
    formats: Collection[str],
    force: bool,
    watch: Watch,
) -> list[dict[str, Any]]:
    """Write a folder with all that a probe is and gives; what its record says of each case."""
    cases, facts = {}, []
    for name, inputs in watch(probe.inputs(seed), len(CASES)):
        arrays = inputs._asdict() | probe.results(inputs)
        facts.append(_case(name, arrays, probe.bits(inputs)))
        cases[name] = {key: layouts.written(key, array) for key, array in arrays.items()}
    record = _record(probe, layouts, seed) | {"cases": facts}
    each = " ".join(f"CASE({name.replace('-', '_')})" for name in CASES)
    macros = geometry_macros(probe, "probe") | {"PROBE_CASES": len(CASES), "PROBE_EACH(CASE)": each}
    write_folder(folder, cases, record, Header("probe", macros), formats, force)
    return facts


def _record(probe: Probe, layouts: Layouts, seed: int) -> dict[str, Any]:
    """What probe.json says, but for the cases."""
    return {
        "convmat_probe": 1,
        **geometry_record(probe, layouts, probe.order),
        "dtype": str(probe.operands.x),
        "kernel_dtype": str(probe.operands.kernel),
        "arithmetic": probe.arithmetic,
        "tile": list(probe.tile) or None,
        "seed": seed,
        "terms": probe.terms,
        "exact_below": probe.operands.limit,
    }


def _case(name: str, arrays: dict[str, NDArray[Any]], bits: Bits) -> dict[str, Any]:
    largest = {key: float(np.abs(arrays[key].astype(float)).max()) for key in _LARGEST}
    whole = {f"largest_{key}": int(most) if most.is_integer() else most for key, most in largest.items()}
    needs = {f"bits_{key}": count for key, count in bits._asdict().items()}
    return {"name": name, "about": CASES[name], **whole, **needs}


def open_probe(folder: str) -> Opened:
    """The layer that the record in a folder tells of, made up or one's own, checked whole.

    Raises:
        FileError: there is none, or it is damaged.
    """
    name = os.path.join(folder, RECORD)
    with record_of(name, REMEDY):
        said = read_record(folder)
        try:
            return opened_own(said) if is_own(said) else _opened(said)
        except ConvmatError as error:
            raise damaged(name, str(error)) from None


def _opened(said: dict[str, Any]) -> Opened:
    check_record(said, _kinds())
    dtypes = {key: np.dtype(said[key]) for key in ("dtype", "kernel_dtype")}
    same = {key: said[key] for key in ("filters", "flip", "padding_mode", "order", "arithmetic")}
    probe = Probe(said_geometry(said), **dtypes, **same, tile=tuple(said["tile"] or ()))
    layouts = Layouts(said["layout"], said["kernel_layout"])
    check_derived(said, _record(probe, layouts, said["seed"]))
    return Opened(probe, layouts, tuple(CASES))


def _kinds() -> dict[str, Kind]:
    """What probe.json must have beside the geometry, but for what follows from it."""
    count = Whole(1, MOST_ELEMENTS)
    numbers: dict[str, Kind] = dict.fromkeys((f"largest_{key}" for key in _LARGEST), Number(0))
    numbers |= dict.fromkeys((f"bits_{key}" for key in Bits._fields), Whole(0, _MOST_BITS))
    return {
        "convmat_probe": OneOf((1,)),
        "input_shape": Rows((3, 4, 5), lambda _: count),
        "filters": count,
        "groups": count,
        "dtype": OneOf(PROBE_DTYPES),
        "kernel_dtype": OneOf(PROBE_DTYPES),
        "arithmetic": OneOf((None, *ARITHMETICS)),
        "tile": Either((OneOf((None,)), Rows((2, 3, 4), lambda _: count)), "None or a size of each axis"),
        "seed": SEED,
        "terms": Anything(),
        "exact_below": Anything(),
        "cases": Items(tuple(Fields({"name": OneOf((name,)), "about": Text(), **numbers}) for name in CASES)),
    }
