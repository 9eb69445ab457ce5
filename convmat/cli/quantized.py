"""The options of a quantized layer, `--quantize` and `--requantize`, and the value that they make."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from convmat.cli.suggestions import near_name
from convmat.errors import FileError, SettingError
from convmat.files.schema import shown
from convmat.files.tables import read_table
from convmat.quantization import Quantization

# What other programs and papers call a field, for those that a file names so.
_KINDRED = {
    "input_zero_point": "input-offset x-zero-point zp-x zp-in",
    "weight_zero_point": "filter-offset filter-zero-point kernel-zero-point w-zero-point zp-w",
    "scale": "scales effective-scale requantize-scale output-scale m",
    "multiplier": "multipliers quantized-multiplier mult",
    "shift": "shifts",
    "output_zero_point": "output-offset y-zero-point zero-point zp-y zp-out",
    "activation": "clamp range relu min max activation-min activation-max",
    "rounding": "round rounding-mode",
    "accumulator": "acc accumulators accumulator-dtype",
    "dtype": "type output-dtype result-dtype",
}


def quantization_of(quantize: str | None, requantize: tuple[Any, ...] | None) -> Quantization | None:
    """What a file of `--quantize` says, or the numbers of `--requantize`; None where neither is given.

    Raises:
        FileError: the file cannot be read, or makes no quantization. SettingError: the numbers make none.
    """
    if requantize is not None:
        scale, zero_point, rounding, dtype = requantize
        return Quantization(scale=scale, output_zero_point=zero_point, rounding=rounding, dtype=dtype)
    if quantize is None:
        return None
    table, known = read_table(quantize), [field.name for field in fields(Quantization)]
    for key in table:
        if key not in known:
            near = near_name(key, known, _KINDRED)
            hint = f"did you mean {near}?" if near else f"it may have {', '.join(known)}"
            raise FileError(quantize, f"has the unknown key {shown(key)}; {hint}")
    try:
        return Quantization(**table)
    except SettingError as error:
        raise FileError(quantize, error.problem) from None
