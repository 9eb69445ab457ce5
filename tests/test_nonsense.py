"""Nonsense at every argument of every public name: an error of convmat that names the argument, or sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convmat as cm
from convmat.errors import ConvmatError
from convmat.watching import unwatched

NONSENSE: dict[str, Any] = {
    "None": None,
    "text": "abc",
    "no text": "",
    "bytes": b"abc",
    "nested": [[1, [2]], [3]],
    "ragged": [[1, 2], [3]],
    "nothing": [],
    "texts": ["a", "b"],
    "nones": (None, None),
    "bools of text": ["True"],
    "float": 1.5,
    "floats": (1.5, 2.5),
    "NaN": float("nan"),
    "NaNs": [float("nan")] * 2,
    "infinity": float("inf"),
    "2^40": 1 << 40,
    "-2^40": -(1 << 40),
    "2^64": 1 << 64,
    "10^30": 10**30,
    "10^4000": 10**4000,
    "pair of 10^30": (10**30, 10**30),
    "pairs of 10^30": ((10**30, 10**30), (10**30, 10**30)),
    "quintuple of 10^30": (1, 10**30, 10**30, 2),
    "-1": -1,
    "0": 0,
    "complex": 1j,
    "dict": {"a": 1},
    "set": {1, 2},
    "object": object(),
    "type": int,
    "function": len,
    "strings as an array": np.array(["a"]),
    "objects as an array": np.array([None, 1], dtype=object),
    "no axes": np.float32(2.5),
    "seven axes": np.zeros((1,) * 7),
    "no elements": np.zeros((0, 0, 0, 0)),
}

X = np.arange(50.0).reshape(1, 5, 5, 2)
W = np.arange(36.0).reshape(2, 3, 3, 2)
LAYER: dict[str, Any] = {"stride": 1, "padding": "valid", "dilation": 1, "groups": 1}
GEOMETRY = cm.ConvGeometry((1, 5, 5, 2), 3)
MAPPED = {"padding_mode": "zeros", "order": "hwc"}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "ConvGeometry": (cm.ConvGeometry, {"input_shape": (1, 5, 5, 2), "kernel_size": 3, **LAYER}),
    "ConvGeometry.input_index": (GEOMETRY.input_index, {"row": 0, "col": 0, **MAPPED}),
    "ConvGeometry.place": (GEOMETRY.place, {"row": 0, "col": 0, **MAPPED}),
    "ConvGeometry.for_batch": (GEOMETRY.for_batch, {"batch": 2}),
    "chain": (cm.chain, {"input_shape": (1, 9, 9, 2), "layers": [{"kernel_size": 3}]}),
    "compare": (
        cm.compare,
        {"result": X, "wanted": X, "exact": False, "atol": None, "rtol": None},
    ),
    "convolve": (
        cm.convolve,
        {
            "x": X,
            "filters": W,
            **LAYER,
            "bias": np.zeros(2),
            "flip": False,
            "padding_mode": "zeros",
            "quantization": None,
            "out": None,
            "threads": 1,
        },
    ),
    "convolve_transpose": (
        cm.convolve_transpose,
        {
            "y": X,
            "filters": W,
            **LAYER,
            "output_padding": 0,
            "input_shape": None,
            "bias": None,
            "threads": 1,
        },
    ),
    "flatten_filters": (cm.flatten_filters, {"filters": W, "groups": 1, "order": "hwc"}),
    "fold": (
        cm.fold,
        {
            "x_col": np.zeros((9, 18)),
            "input_shape": (1, 5, 5, 2),
            "kernel_size": 3,
            "stride": 1,
            "padding": "valid",
            "dilation": 1,
            "overlap": "sum",
            "order": "hwc",
            "threads": 1,
        },
    ),
    "framework_pads": (cm.framework_pads, {"geometry": GEOMETRY}),
    "layer_matrix": (
        cm.layer_matrix,
        {
            "filters": W,
            "input_shape": (5, 5, 2),
            **LAYER,
            "flip": False,
            "padding_mode": "zeros",
            "layout": "nhwc",
        },
    ),
    "spectrum_of": (
        cm.spectrum_of,
        {
            "filters": W,
            "input_shape": (1, 5, 5, 2),
            **LAYER,
            "flip": False,
            "padding_mode": "zeros",
            "iterations": None,
            "watch": unwatched,
        },
    ),
    "chain_bound": (cm.chain_bound, {"spectra": ()}),
    "unroll": (
        cm.unroll,
        {
            "x": X,
            "kernel_size": 3,
            "stride": 1,
            "padding": "valid",
            "dilation": 1,
            "padding_mode": "zeros",
            "out": None,
            "order": "hwc",
            "threads": 1,
        },
    ),
    "verify": (
        cm.verify,
        {
            "x": X,
            "filters": W,
            "expected": None,
            **LAYER,
            "bias": None,
            "flip": False,
            "padding_mode": "zeros",
            "layout": "nhwc",
            "kernel_layout": "ohwi",
            "exact": False,
            "atol": None,
            "rtol": None,
            "quantization": None,
            "arithmetic": None,
            "activation": "none",
            "watch": unwatched,
            "note": None,
        },
    ),
}
CALLS["Quantization"] = (
    cm.Quantization,
    {
        "input_zero_point": 1,
        "weight_zero_point": 2,
        "scale": 0.5,
        "multiplier": None,
        "shift": None,
        "output_zero_point": 3,
        "activation": (0, 9),
        "rounding": "floor",
        "accumulator": "int64",
        "dtype": "int8",
    },
)
NOT_CALLED = {"ConvmatError", "Report", "__version__"}  # made by convmat, not by those who use it

# What errors call arguments that bear other names, and those whose mistake shows in another.
SUBJECTS = {
    **dict.fromkeys(CALLS["Quantization"][1], ("quantization",)),
    "x": ("input", "input_shape", "filters"),
    "y": ("input", "input_shape", "output_shape", "filters"),
    "filters": ("input", "kernel_size"),
    "kernel_size": ("x_col",),
    "stride": ("x_col",),
    "padding": ("x_col",),
    "dilation": ("x_col", "kernel_size"),
    "groups": ("filters",),
    "input_shape": ("kernel_size", "x_col"),
    "batch": ("input_shape",),
    "col": ("column",),
}


def test_every_public_name_is_tried() -> None:
    assert {name.split(".")[0] for name in CALLS} | NOT_CALLED == set(cm.__all__)
    for name, (function, arguments) in CALLS.items():
        assert list(arguments) == list(inspect.signature(function).parameters), name
        function(**arguments)


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, (_, given) in CALLS.items() for argument in given]
)
def test_nonsense_is_refused_by_name_or_makes_sense(name: str, argument: str) -> None:
    function, arguments = CALLS[name]
    for what, value in NONSENSE.items():
        if argument in ("watch", "note") and callable(value):
            continue  # whatever can be called may be one
        try:
            function(**arguments | {argument: value})
        except ConvmatError as error:
            assert error.subject in (argument, *SUBJECTS.get(argument, ())), f"{what}: {error}"
            assert "\n" not in str(error), what
            assert len(str(error)) < 400, what
        except Exception as error:
            pytest.fail(f"{name}({argument}={what}): {type(error).__name__}: {error}"[:300])
