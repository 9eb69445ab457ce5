"""The folder of a probe: a record and the arrays of each case, written whole and read with distrust."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.axis import PADDING_MODES, PADDING_NAMES
from convmat.checks import STEP_LIMIT
from convmat.errors import ConvmatError, FileError
from convmat.files.folders import new_folder
from convmat.files.npy import NpyInput, write_npy
from convmat.files.outputs import open_output, reading
from convmat.files.schema import (
    Anything,
    Fields,
    Items,
    Kind,
    Mismatch,
    OneOf,
    Rows,
    Then,
    Whole,
    from_json,
    shown,
)
from convmat.files.sources import c_header, hex_lines, raw_bytes
from convmat.geometry import KERNEL_LIMIT, ORDERS, ConvGeometry
from convmat.layouts import KERNEL_LAYOUTS, from_batch, to_batch, to_filters
from convmat.verification.golden import MOST_ELEMENTS, STEPS, OwnLayer
from convmat.verification.probes import Inputs, Layered, Probe
from convmat.words import SIDE_NAMES

RECORD = "probe.json"
REMEDY = "write the probe again"
FORMATS = ("npy", "c", "hex", "bin")

_RECORD_BYTES = 1 << 20
_IMAGES = ("x", "accumulators", "biased", "scaled", "unclamped", "y")  # the arrays that are images


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


class Opened(NamedTuple):
    """A folder whose record has been read."""

    layer: Probe | OwnLayer
    layouts: Layouts
    cases: tuple[str, ...]


class Header(NamedTuple):
    """A C header: what its file and its macros are called after, and the macros."""

    name: str
    macros: Mapping[str, int | str]


# Writing


def write_folder(
    folder: str,
    cases: Mapping[str, Mapping[str, NDArray[Any]]],
    record: Mapping[str, Any],
    header: Header,
    formats: Collection[str],
    force: bool,
) -> None:
    """Write the arrays of all cases, as their files have them, a record of them, and a header if so asked.

    Raises:
        FileError: it cannot be written, or there is a folder that is not to be replaced.
    """
    text = json.dumps(record, indent=1)
    if len(text) > _RECORD_BYTES:
        problem = (
            f"has more than {_RECORD_BYTES} bytes in its record; give fewer filters, or one scale for all"
        )
        raise FileError(folder, problem)
    with new_folder(folder, check_made if force else None) as made:
        for name, arrays in cases.items():
            os.mkdir(os.path.join(made, name))
            for key, array in arrays.items():
                _write_array(os.path.join(made, name, key), f"{name}/{key}", array, formats)
        if "c" in formats:
            flat = {
                c_name(name, key): array for name, arrays in cases.items() for key, array in arrays.items()
            }
            lines = c_header(f"{header.name.upper()}_H", header.macros, flat)
            _write_lines(os.path.join(made, f"{header.name}.h"), lines)
        _write_lines(os.path.join(made, RECORD), [text])


def c_name(case: str, key: str) -> str:
    """What C calls the array of the file case/key."""
    return f"{case}_{key}".replace("-", "_")


def _write_array(path: str, name: str, array: NDArray[Any], formats: Collection[str]) -> None:
    write_npy(f"{path}.npy", array.shape, array.dtype, [array])
    if "hex" in formats:
        _write_lines(f"{path}.hex", hex_lines(name, array))
    if "bin" in formats:
        with open_output(f"{path}.bin") as stream:
            stream.write(raw_bytes(array))


def _write_lines(name: str, lines: Iterable[str]) -> None:
    with open_output(name) as stream:
        for line in lines:
            stream.write(f"{line}\n".encode())


def check_made(folder: str) -> None:
    """Raise FileError where a folder holds anything but what a probe's does, which alone may be replaced."""
    try:
        said = read_record(folder)
        cases = [case["name"] for case in said["cases"]]
        files = {RECORD, *(f"{name.split('/')[0]}.h" for name in ("probe", *cases))}
        arrays = {f"{key}.{form}" for key in STEPS for form in FORMATS}
        files |= {*cases, *(os.path.join(case, file) for case in cases for file in arrays)}
    except (FileError, Mismatch, AttributeError, KeyError, TypeError):
        raise FileError(folder, f"holds no {RECORD} of a probe, so it stays; name another folder") from None
    with reading(folder):
        for path, folders, names in os.walk(folder):
            for name in (*folders, *names):
                file = os.path.relpath(os.path.join(path, name), folder)
                if file not in files:
                    problem = f"holds {file}, which probe write did not make, so it stays; move that"
                    raise FileError(folder, problem)


def check_inputs_stay(folder: str, names: Iterable[str | None]) -> None:
    """Raise FileError for an input that lies in a folder that is to be replaced."""
    home = os.path.join(os.path.realpath(folder), "")
    for name in names:
        if name and os.path.realpath(name).startswith(home):
            raise FileError(name, f"is an input in {folder}, which would be replaced; copy it elsewhere")


def geometry_record(layer: Layered, layouts: Layouts, order: str) -> dict[str, Any]:
    """What every record says of the layer; sizes are of channels last, whatever the layout."""
    geometry = layer.geometry
    return {
        "input_shape": list(geometry.input_shape),
        "kernel_size": list(geometry.kernel_size),
        "filters": layer.filters,
        "stride": list(geometry.stride),
        "padding": geometry.rule,
        "pads": [list(pair) for pair in geometry.pads],
        "padding_mode": layer.padding_mode,
        "dilation": list(geometry.dilation),
        "groups": geometry.groups,
        "flip": layer.flip,
        "output_size": list(geometry.output_size),
        "matrix_shape": list(geometry.matrix_shape),
        "layout": layouts.images,
        "kernel_layout": layouts.kernels,
        "order": order,
    }


def geometry_macros(layer: Layered, name: str) -> dict[str, int | str]:
    """The sizes of a layer as a C header names them."""
    geometry, upper = layer.geometry, name.upper()
    macros: dict[str, int | str] = {f"{upper}_N": geometry.batch}
    for axis, along in enumerate(geometry.axis_names):
        for what in ("input_size", "kernel_size", "stride", "dilation", "output_size"):
            macro = f"{upper}_{what.removesuffix('_size').upper()}_{along.upper()}"
            macros[macro] = getattr(geometry, what)[axis]
        for side, count in zip(SIDE_NAMES[along], geometry.pads[axis], strict=True):
            macros[f"{upper}_PAD_{side.upper()}"] = count
    rows, columns = geometry.matrix_shape
    return macros | {
        f"{upper}_CHANNELS": geometry.channels,
        f"{upper}_FILTERS": layer.filters,
        f"{upper}_GROUPS": geometry.groups,
        f"{upper}_X_COL_ROWS": rows,
        f"{upper}_X_COL_COLUMNS": columns,
    }


# Reading


def read_record(folder: str) -> dict[str, Any]:
    """What the record in a folder says, of which nothing has been checked.

    Raises:
        FileError: there is none. Mismatch: it is no JSON, or no object.
    """
    name = os.path.join(folder, RECORD)
    with reading(name):
        if not os.path.isdir(folder):
            raise FileError(folder, "is no folder; name one that probe write made")
        with open(name, "rb") as stream:
            text = stream.read(_RECORD_BYTES + 2)
    said = from_json(text)
    if not isinstance(said, dict):
        raise Mismatch("", f"must be an object, got {shown(said)}")
    return said


def check_record(said: Any, kinds: dict[str, Kind]) -> None:
    """Raise Mismatch unless a record has a geometry, and beside it what is of these kinds."""
    count, step, pixels = Whole(1, MOST_ELEMENTS), Whole(1, STEP_LIMIT), Whole(0, STEP_LIMIT)
    all_kinds: dict[str, Kind] = {
        "input_shape": Rows((3, 4, 5), lambda _: count),
        "filters": count,
        "padding": OneOf((None, *PADDING_NAMES)),
        "padding_mode": OneOf(PADDING_MODES),
        "groups": count,
        "flip": OneOf((False, True)),
        "output_size": Anything(),
        "matrix_shape": Anything(),
        "layout": OneOf(("nhwc", "nchw")),
        "kernel_layout": OneOf(KERNEL_LAYOUTS),
        "order": OneOf(ORDERS),
        **kinds,
    }
    sizes: dict[str, Kind] = {"kernel_size": Whole(1, KERNEL_LIMIT), "stride": step, "dilation": step}
    sizes["pads"] = Items((pixels, pixels))

    def sized(said: dict[str, Any]) -> Kind:
        axes = len(said["input_shape"]) - 2
        return Fields(all_kinds | {key: Items((kind,) * axes) for key, kind in sizes.items()})

    Then(Fields(all_kinds | dict.fromkeys(sizes, Anything())), sized).check(said)


def check_derived(said: Any, derived: Mapping[str, Any]) -> None:
    """Raise Mismatch unless a record says what follows from what else it says; cases are let pass."""
    kinds: dict[str, Kind] = {key: OneOf((value,)) for key, value in derived.items()}
    Fields(kinds | {"cases": Anything()}).check(said)


def said_geometry(said: dict[str, Any]) -> ConvGeometry:
    """The geometry that a checked record tells of.

    Raises:
        GeometryError: it tells of none.
    """
    sizes = {key: said[key] for key in ("input_shape", "kernel_size", "stride", "dilation", "groups")}
    return ConvGeometry(**sizes, padding=said["padding"] or said["pads"])


def damaged(name: str, problem: str) -> FileError:
    """What is to be said of a file of a folder that is not as it was written."""
    return FileError(name, f"is damaged: {problem}; {REMEDY}")


def read_case(folder: str, case: str, opened: Opened) -> tuple[Inputs, dict[str, NDArray[Any]]]:
    """A case's inputs, and its results, (N, *out, K), by the definition; the files must say the same.

    Raises:
        FileError: one that cannot be read, or is damaged.
    """
    layer, layouts, _ = opened
    paths = {key: os.path.join(folder, case, f"{key}.npy") for key in layer.names}
    dims, stored = len(layer.geometry.kernel_size), {}
    for key, path in paths.items():
        source = NpyInput(path)
        if source.outline.size > MOST_ELEMENTS:
            raise damaged(path, f"it has more than {MOST_ELEMENTS} elements")
        try:
            stored[key] = layouts.read(key, source.read(), dims)
        except ConvmatError as error:
            raise damaged(path, error.problem) from None
    try:
        inputs = Inputs(*(stored[key] for key in Inputs._fields))
        results = layer.results(inputs)
    except ConvmatError as error:
        subject = {"input": "x", "filters": "kernel"}.get(error.subject, error.subject)
        raise damaged(paths.get(subject, os.path.join(folder, RECORD)), error.problem) from None
    for key, wanted in results.items():
        same = stored[key].dtype == wanted.dtype and np.array_equal(stored[key], wanted)
        if not same and not layer.confirms(key, stored[key], inputs):
            raise damaged(paths[key], "it is not what x.npy and kernel.npy give")
    return inputs, results
