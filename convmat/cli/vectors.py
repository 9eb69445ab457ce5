"""Golden vectors of a layer of one's own: their record, their macros, and what of both is read again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli.probe_folder import (
    Header,
    Layouts,
    Opened,
    check_derived,
    check_record,
    geometry_macros,
    geometry_record,
    said_geometry,
    write_folder,
)
from convmat.files.schema import Anything, Either, Fields, Items, Kind, OneOf
from convmat.files.sources import is_c_name
from convmat.quantization import Quantization
from convmat.verification.golden import STEPS, OwnLayer

_DTYPES = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
_FLOATS = ("float16", "float32", "float64")


class _Name(Kind):
    """What C can call something."""

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and is_c_name(value)

    def __str__(self) -> str:
        return "a name in C"


def write_vectors(
    folder: str,
    layer: OwnLayer,
    made: Mapping[str, NDArray[Any]],
    layouts: Layouts,
    exact: bool,
    name: str,
    formats: Collection[str],
    force: bool,
) -> dict[str, NDArray[Any]]:
    """Write a folder with all arrays that are made of a layer; these, as their files have them."""
    arrays = {key: layouts.written(key, made[key]) for key in layer.names}
    record = _record(layer, layouts, exact) | {"cases": [{"name": name}]}
    write_folder(folder, {name: arrays}, record, Header(name, _macros(layer, name)), formats, force)
    return arrays


def _record(layer: OwnLayer, layouts: Layouts, exact: bool) -> dict[str, Any]:
    """What probe.json says, but for the name."""
    x, kernel, bias = map(str, layer.dtypes)
    return {
        "convmat_vectors": 1,
        **geometry_record(layer, layouts, layer.order),
        "dtype": x,
        "kernel_dtype": kernel,
        "bias_dtype": bias,
        "exact": exact,
        "quantization": None if layer.quantization is None else layer.quantization.as_dict(),
    }


def _macros(layer: OwnLayer, name: str) -> dict[str, int | str]:
    macros, quantized, upper = geometry_macros(layer, name), layer.quantization, name.upper()
    if quantized is None:
        return macros
    low, high = quantized.ends
    return macros | {
        f"{upper}_INPUT_ZERO_POINT": quantized.input_zero_point,
        f"{upper}_OUTPUT_ZERO_POINT": quantized.output_zero_point,
        f"{upper}_ACTIVATION_MIN": low,
        f"{upper}_ACTIVATION_MAX": high,
        f"{upper}_ROUNDING": f'"{quantized.rounding}"',
    }


def is_own(said: dict[str, Any]) -> bool:
    """Whether a record is of a layer of one's own."""
    return "convmat_vectors" in said


def opened_own(said: dict[str, Any]) -> Opened:
    """The layer that a record tells of.

    Raises:
        Mismatch: a record that holds what it should not. The errors of `OwnLayer` and `Quantization`.
    """
    names = [field.name for field in fields(Quantization)]
    quantized: Kind = Fields(dict.fromkeys(names, Anything()))
    kinds: dict[str, Kind] = {
        "convmat_vectors": OneOf((1,)),
        **dict.fromkeys(("dtype", "kernel_dtype", "bias_dtype"), OneOf((*_DTYPES, *_FLOATS))),
        "exact": OneOf((False, True)),
        "quantization": Either((OneOf((None,)), quantized), f"None or {quantized}"),
        "cases": Items((Fields({"name": _Name()}),)),
    }
    check_record(said, kinds)
    quantization = said["quantization"]
    layer = OwnLayer(
        said_geometry(said),
        said["filters"],
        tuple(np.dtype(said[key]) for key in ("dtype", "kernel_dtype", "bias_dtype")),
        None if quantization is None else Quantization(**quantization),
        **{key: said[key] for key in ("flip", "padding_mode", "order")},
    )
    layouts = Layouts(said["layout"], said["kernel_layout"])
    check_derived(said, _record(layer, layouts, said["exact"]))
    return Opened(layer, layouts, (said["cases"][0]["name"],))


def array_rows(arrays: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """What is to be told of each array, as its file has it."""
    return [
        {
            "name": key,
            "about": STEPS[key],
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "least": array.min().item(),
            "greatest": array.max().item(),
        }
        for key, array in arrays.items()
    ]
