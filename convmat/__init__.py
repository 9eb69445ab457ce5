"""convmat: a convolutional layer as the fully connected layer it equals.

The public names load when first used, so that importing the package, or asking the command for help, does
not wait for NumPy.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from convmat.adjoint import convolve_transpose as convolve_transpose
    from convmat.engine import convolve as convolve
    from convmat.errors import ConvmatError as ConvmatError
    from convmat.folding import fold as fold
    from convmat.geometry import ConvGeometry as ConvGeometry
    from convmat.matrix import layer_matrix as layer_matrix
    from convmat.matrix import spectrum_of as spectrum_of
    from convmat.patches import flatten_filters as flatten_filters
    from convmat.patches import unroll as unroll
    from convmat.quantization import Quantization as Quantization
    from convmat.sizes import chain as chain
    from convmat.sizes import framework_pads as framework_pads
    from convmat.spectrum import chain_bound as chain_bound
    from convmat.verification.comparison import compare as compare
    from convmat.verification.edge import verify as verify
    from convmat.verification.verdict import Report as Report

__version__ = "0.1.0"

_HOMES = {
    "ConvGeometry": "geometry",
    "ConvmatError": "errors",
    "Quantization": "quantization",
    "Report": "verification",
    "chain": "sizes",
    "chain_bound": "spectrum",
    "compare": "verification",
    "convolve": "engine",
    "convolve_transpose": "adjoint",
    "flatten_filters": "patches",
    "fold": "folding",
    "framework_pads": "sizes",
    "layer_matrix": "matrix",
    "spectrum_of": "matrix",
    "unroll": "patches",
    "verify": "verification",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'convmat' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"convmat.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
