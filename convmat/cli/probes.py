"""The folder of a probe: its record, and the arrays of each case, written whole and read with distrust."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.axis import PADDING_MODES, PADDING_NAMES
from convmat.checks import STEP_LIMIT
from convmat.errors import ConvmatError, FileError
from convmat.files.folders import new_folder
from convmat.files.npy import NpyInput, write_npy
from convmat.files.outputs import open_output, reading
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
    Then,
    Whole,
    from_json,
    record_of,
)
from convmat.files.sources import c_header, hex_lines
from convmat.geometry import KERNEL_LIMIT, ORDERS, ConvGeometry
from convmat.layouts import KERNEL_LAYOUTS, from_batch, to_batch, to_filters
from convmat.verification.operands import ARITHMETICS, PROBE_DTYPES
from convmat.verification.probes import ARRAYS, CASES, MOST_ELEMENTS, Bits, Inputs, Probe
from convmat.watching import Watch
from convmat.words import SIDE_NAMES

_RECORD = "probe.json"
_REMEDY = "write the probe again"
_IMAGES = ("x", "accumulators", "y")  # the arrays that are images
_LARGEST = ("x", "kernel", "bias", "y")  # those whose largest number is told
_MOST_BITS = 128


@dataclass(frozen=True)
class Layouts:
    """The axis orders of a probe's files."""

    images: str
    kernels: str

    def written(self, key: str, array: NDArray[Any]) -> NDArray[Any]:
        """An array of a case as its file has it."""
        if key in _IMAGES:
            array = from_batch(array, self.images)
        elif key == "kernel" and self.kernels != "ohwi":
            array = np.moveaxis(array, -1, 1) if self.kernels == "oihw" else np.moveaxis(array, 0, -1)
        return np.ascontiguousarray(array)

    def read(self, key: str, array: NDArray[Any], dims: int) -> NDArray[Any]:
        """The inverse of `written`."""
        if key in _IMAGES:
            return to_batch(array, dims, self.images)
        return to_filters(array, dims, self.kernels) if key == "kernel" else array


def write_probe(
    folder: str, probe: Probe, layouts: Layouts, seed: int, formats: Collection[str], watch: Watch
) -> list[dict[str, Any]]:
    """Write a folder with all that a probe is and gives; what its record says of each case."""
    cases, facts = {}, []
    for name, inputs in watch(probe.inputs(seed), len(CASES)):
        arrays = inputs._asdict() | probe.results(inputs)
        facts.append(_case(name, arrays, probe.bits(inputs)))
        cases[name] = {key: layouts.written(key, array) for key, array in arrays.items()}
    record = _record(probe, layouts, seed) | {"cases": facts}
    with new_folder(folder) as made:
        for name, arrays in cases.items():
            os.mkdir(os.path.join(made, name))
            for key, array in arrays.items():
                path = os.path.join(made, name, key)
                write_npy(f"{path}.npy", array.shape, array.dtype, [array])
                if "hex" in formats:
                    _write_lines(f"{path}.hex", hex_lines(f"{name}/{key}", array))
        if "c" in formats:
            named = {(name.replace("-", "_"), key): cases[name][key] for name in cases for key in cases[name]}
            flat = {"_".join(names): array for names, array in named.items()}
            _write_lines(os.path.join(made, "probe.h"), c_header("PROBE_H_", _macros(probe), flat))
        _write_lines(os.path.join(made, _RECORD), [json.dumps(record, indent=1)])
    return facts


def _write_lines(name: str, lines: Iterable[str]) -> None:
    with open_output(name) as stream:
        for line in lines:
            stream.write(f"{line}\n".encode())


def _record(probe: Probe, layouts: Layouts, seed: int) -> dict[str, Any]:
    """What probe.json says, but for the cases; sizes are of channels last, whatever the layout."""
    geometry = probe.geometry
    return {
        "convmat_probe": 1,
        "input_shape": list(geometry.input_shape),
        "kernel_size": list(geometry.kernel_size),
        "filters": probe.filters,
        "stride": list(geometry.stride),
        "padding": geometry.rule,
        "pads": [list(pair) for pair in geometry.pads],
        "padding_mode": probe.padding_mode,
        "dilation": list(geometry.dilation),
        "groups": geometry.groups,
        "flip": probe.flip,
        "output_size": list(geometry.output_size),
        "matrix_shape": list(geometry.matrix_shape),
        "layout": layouts.images,
        "kernel_layout": layouts.kernels,
        "order": probe.order,
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


def _macros(probe: Probe) -> dict[str, int | str]:
    """The sizes of a probe as a C header names them, and a macro that does something for each case."""
    geometry = probe.geometry
    macros: dict[str, int | str] = {"PROBE_N": geometry.batch}
    for axis, name in enumerate(geometry.axis_names):
        for what in ("input_size", "kernel_size", "stride", "dilation", "output_size"):
            upper = f"PROBE_{what.removesuffix('_size').upper()}_{name.upper()}"
            macros[upper] = getattr(geometry, what)[axis]
        for side, count in zip(SIDE_NAMES[name], geometry.pads[axis], strict=True):
            macros[f"PROBE_PAD_{side.upper()}"] = count
    rows, columns = geometry.matrix_shape
    return macros | {
        "PROBE_CHANNELS": geometry.channels,
        "PROBE_FILTERS": probe.filters,
        "PROBE_GROUPS": geometry.groups,
        "PROBE_X_COL_ROWS": rows,
        "PROBE_X_COL_COLUMNS": columns,
        "PROBE_CASES": len(CASES),
        "PROBE_EACH(CASE)": " ".join(f"CASE({name.replace('-', '_')})" for name in CASES),
    }


def open_probe(folder: str) -> tuple[Probe, Layouts]:
    """The probe that the record in a folder tells of, checked whole.

    Raises:
        FileError: there is none, or it is damaged.
    """
    name = os.path.join(folder, _RECORD)
    with reading(name):
        if not os.path.isdir(folder):
            raise FileError(folder, "is no folder; name one that probe write made")
        with open(name, "rb") as stream:
            text = stream.read(1 << 20)
    with record_of(name, _REMEDY):
        said: dict[str, Any] = from_json(text)
        _record_kind().check(said)
        sizes = {key: said[key] for key in ("input_shape", "kernel_size", "stride", "dilation", "groups")}
        try:
            geometry = ConvGeometry(**sizes, padding=said["padding"] or said["pads"])
            dtypes = {key: np.dtype(said[key]) for key in ("dtype", "kernel_dtype")}
            same = {key: said[key] for key in ("filters", "flip", "padding_mode", "order", "arithmetic")}
            probe = Probe(geometry, **dtypes, **same, tile=tuple(said["tile"] or ()))
        except ConvmatError as error:
            raise _damaged(name, str(error)) from None
        layouts = Layouts(said["layout"], said["kernel_layout"])
        derived = _record(probe, layouts, said["seed"])
        kinds: dict[str, Kind] = {key: OneOf((value,)) for key, value in derived.items()}
        Fields(kinds | {"cases": Anything()}).check(said)
    return probe, layouts


def _damaged(name: str, problem: str) -> FileError:
    return FileError(name, f"is damaged: {problem}; {_REMEDY}")


def _record_kind() -> Kind:
    """What probe.json must be, but for what follows from its geometry."""
    count, step, pixels = Whole(1, MOST_ELEMENTS), Whole(1, STEP_LIMIT), Whole(0, STEP_LIMIT)
    numbers: dict[str, Kind] = dict.fromkeys((f"largest_{key}" for key in _LARGEST), Number(0))
    numbers |= dict.fromkeys((f"bits_{key}" for key in Bits._fields), Whole(0, _MOST_BITS))
    names = dict.fromkeys(("output_size", "matrix_shape", "terms", "exact_below"), Anything())
    kinds: dict[str, Kind] = {
        **names,
        "convmat_probe": OneOf((1,)),
        "input_shape": Rows((3, 4, 5), lambda _: count),
        "filters": count,
        "padding": OneOf((None, *PADDING_NAMES)),
        "padding_mode": OneOf(PADDING_MODES),
        "groups": count,
        "flip": OneOf((False, True)),
        "layout": OneOf(("nhwc", "nchw")),
        "kernel_layout": OneOf(KERNEL_LAYOUTS),
        "order": OneOf(ORDERS),
        "dtype": OneOf(PROBE_DTYPES),
        "kernel_dtype": OneOf(PROBE_DTYPES),
        "arithmetic": OneOf((None, *ARITHMETICS)),
        "tile": Either((OneOf((None,)), Rows((2, 3, 4), lambda _: count)), "None or a size of each axis"),
        "seed": SEED,
        "cases": Items(tuple(Fields({"name": OneOf((name,)), "about": Text(), **numbers}) for name in CASES)),
    }
    sizes: dict[str, Kind] = {"kernel_size": Whole(1, KERNEL_LIMIT), "stride": step, "dilation": step}
    sizes["pads"] = Items((pixels, pixels))

    def sized(said: dict[str, Any]) -> Kind:
        axes = len(said["input_shape"]) - 2
        return Fields(kinds | {key: Items((kind,) * axes) for key, kind in sizes.items()})

    return Then(Fields(kinds | dict.fromkeys(sizes, Anything())), sized)


def read_case(
    folder: str, case: str, probe: Probe, layouts: Layouts
) -> tuple[Inputs, dict[str, NDArray[Any]]]:
    """A case's inputs, and its results, (N, *out, K), by the definition; the files must say the same.

    Raises:
        FileError: one that cannot be read, or is damaged.
    """
    paths = {key: os.path.join(folder, case, f"{key}.npy") for key in ARRAYS}
    dims, stored = len(probe.geometry.kernel_size), {}
    for key, path in paths.items():
        array = NpyInput(path).read()
        try:
            stored[key] = layouts.read(key, array, dims)
        except ConvmatError as error:
            raise _damaged(path, error.problem) from None
    try:
        inputs = Inputs(*(stored[key] for key in Inputs._fields))
        results = probe.results(inputs)
    except ConvmatError as error:
        raise _damaged(paths[error.subject], error.problem) from None
    for key, wanted in results.items():
        if not np.array_equal(stored[key], wanted):
            raise _damaged(paths[key], "it is not what x.npy and kernel.npy give")
    return inputs, results
