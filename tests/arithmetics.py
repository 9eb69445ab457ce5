"""Does each arithmetic's bound hold, does it bite, and is the arithmetic named from the result?

    python -m tests.arithmetics                       two kernels of each arithmetic on drawn numbers
    python -m tests.arithmetics FILE.onnx FILE.whl    layers of trained networks, by torch and onnxruntime

The first prints, for each arithmetic and kind of numbers, how many elements were judged, how many right
results were rejected, and how many results without one product were not. The second computes each layer in
float32, in float16 and bfloat16 by autocast, with TF32 operands and by Winograd's F(2) and F(4) where it has
a 3 × 3 kernel of stride 1, judges it under its name, and asks for the name. It needs torch, onnx, ml_dtypes
and onnxruntime. What is measured here is named in docs/checking-a-kernel.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import convmat as cm
from tests import emulated as by

Array = np.ndarray
Kernel = Callable[[Array, Array], Array]

KINDS = ("random", "trained", "sparse", "hostile")
_BF16, _TF32 = by.by_bits(16), by.by_bits(13)


def _of_operands(
    rounding: by.Rounding, convolve: Callable[..., Array], result: by.Rounding | None = None
) -> Kernel:
    def kernel(x: Array, filters: Array) -> Array:
        y = convolve(rounding(x), rounding(filters), 1)
        return y if result is None else result(y)

    return kernel


def _kernels() -> dict[str, tuple[Kernel, Kernel]]:
    """Two of each arithmetic that share no code, for a padding of 1."""
    roundings = {
        "tf32": (_TF32, by.by_half_up(13)),
        "bfloat16": (_BF16, by.by_splitting(8)),
        "float16": (by.by_halves, by.by_halves),
        "tf32-truncated": (by.by_cutting(13), by.by_cutting(13)),
        "bfloat16-truncated": (by.by_cutting(16), by.by_cutting(16)),
    }
    sums = by.by_product, by.one_by_one
    made = {
        name: tuple(_of_operands(r, s) for r, s in zip(pair, sums, strict=True))
        for name, pair in roundings.items()
    }
    for name, rounding in (("float16", by.by_halves), ("bfloat16", _BF16)):
        pair = roundings[name]
        made[f"{name}-rounded"] = tuple(_of_operands(r, s, rounding) for r, s in zip(pair, sums, strict=True))
        made[f"{name}-result"] = tuple(_of_operands(np.asarray, s, rounding) for s in sums)
        made[f"{name}-accumulate"] = tuple(
            _of_operands(rounding, partial(s, rounding=rounding)) for s in (by.one_by_one, by.in_pairs)
        )
    for m, points in ((2, (0, 1, -1)), (4, (0, 1, -1, 0.5, -0.5)), (6, (0, 1, -1, 2, -2, 0.5, -0.5))):
        second = partial(by.by_toom_cook, padding=1, m=m, points=points)
        made[f"winograd:{m}"] = partial(by.by_winograd, padding=1, m=m), second
    made["fft"] = partial(by.by_numpy_fft, padding=1), partial(by.by_own_fft, padding=1)
    return made


KERNELS = _kernels()


def drawn(kind: str, rng: np.random.Generator, narrow: bool = False) -> tuple[Array, Array]:
    """x and filters of a 3 × 3 layer; few channels for sums in a narrow format."""
    channels = int(rng.integers(2, 6)) if narrow else int(rng.integers(8, 24))
    shape = (1, int(rng.integers(14, 19)), int(rng.integers(14, 19)), channels)
    weights = "trained" if kind == "sparse" else kind
    return by.data(kind, shape, rng), by.data(weights, (8, 3, 3, channels), rng)


def one_left_out(y: Array, x: Array, filters: Array, rng: np.random.Generator, least: float = 0) -> Array:
    """The result without one product of one element, which is more than `least`; of a padding of 1."""
    rows, columns = filters.shape[1:3]
    while True:
        n, i, j, k = (int(rng.integers(size)) for size in y.shape)
        a, b, c = int(rng.integers(rows)), int(rng.integers(columns)), int(rng.integers(x.shape[-1]))
        if not (0 < i + a <= x.shape[1] and 0 < j + b <= x.shape[2]):
            continue
        product = x[n, i + a - 1, j + b - 1, c] * filters[k, a, b, c]
        if abs(product) > least:
            wrong = y.copy()
            wrong[n, i, j, k] -= product
            return wrong


def on_drawn_numbers(layers: int, seed: int) -> None:
    print("| arithmetic | elements | rejected | largest error / bound |", end="")
    print("".join(f" one product missed, {kind} |" for kind in KINDS))
    print("|---|---|---|---|" + "---|" * len(KINDS))
    for name, kernels in KERNELS.items():
        rng = np.random.default_rng(seed)
        elements, rejected, largest, missed = 0, 0, 0.0, Counter[str]()
        for kind in KINDS:
            for _ in range(layers):
                x, filters = drawn(kind, rng, narrow="accumulate" in name)
                for kernel in kernels:
                    y = kernel(x, filters)
                    report = cm.verify(x, filters, y, padding=1, arithmetic=name)
                    elements += report.elements
                    rejected += not report
                    largest = max(largest, report.error_over_bound)
                    wrong = one_left_out(y, x, filters, rng)
                    missed[kind] += bool(cm.verify(x, filters, wrong, padding=1, arithmetic=name))
        print(f"| `{name}` | {elements} | {rejected} | {largest:.2g} |", end="")
        print("".join(f" {missed[kind]} of {2 * layers} |" for kind in KINDS), flush=True)


def _networks(layer: Any) -> Iterator[tuple[str, Array]]:
    """Arithmetics, "" for the dtypes' own, and a layer's result in each, (N, K, H_out, W_out)."""
    from dataclasses import replace

    import ml_dtypes
    import torch

    from tests.benchmarks import trained

    def rounded(rounding: by.Rounding) -> Any:
        bias = None if layer.bias is None else rounding(layer.bias)
        return replace(layer, x=rounding(layer.x), weights=rounding(layer.weights), bias=bias)

    def through(dtype: Any) -> by.Rounding:
        return lambda a: a.astype(dtype).astype(np.float32)

    for convolve in (trained.by_torch, trained.by_onnxruntime):
        yield "", convolve(layer)
        yield "tf32", convolve(replace(rounded(_TF32), bias=layer.bias))
    for name, half, dtype in (
        ("float16", torch.float16, np.float16),
        ("bfloat16", torch.bfloat16, ml_dtypes.bfloat16),
    ):
        with torch.autocast("cpu", dtype=half):
            yield f"{name}-rounded", trained.by_torch(layer)
        yield f"{name}-rounded", through(dtype)(trained.by_onnxruntime(rounded(through(dtype))))
    if layer.weights.shape[2:] == (3, 3) and layer.stride == layer.dilation == [1, 1]:
        for m, points in ((2, (0, 1, -1)), (4, (0, 1, -1, 0.5, -0.5))):
            yield f"winograd:{m}", _in_groups(layer, partial(by.by_winograd, m=m))
            yield f"winograd:{m}", _in_groups(layer, partial(by.by_toom_cook, m=m, points=points))


def _in_groups(layer: Any, convolve: Kernel) -> Array:
    """A layer's result by a kernel without padding, groups and bias, channels last."""
    top, left, bottom, right = layer.pads
    x = np.pad(layer.x.transpose(0, 2, 3, 1), ((0, 0), (top, bottom), (left, right), (0, 0)))
    parts = zip(
        np.split(x, layer.groups, -1),
        np.split(layer.weights.transpose(0, 2, 3, 1), layer.groups),
        strict=True,
    )
    y = np.concatenate([convolve(*part) for part in parts], -1)
    return (y if layer.bias is None else y + layer.bias).transpose(0, 3, 1, 2)


def on_networks(files: list[str], most: int) -> None:
    from tests.benchmarks import trained

    results, rejected, equal, found, wrong = (Counter[str]() for _ in range(5))
    count = 0
    for model_name, model in trained.models(files):
        layers = [layer for layer in trained.layers(model) if layer.weights.ndim == 4]
        for layer in layers[:: -(-len(layers) // most)]:
            count += 1
            for name, y in _networks(layer):
                results[name] += 1
                named = layer.verify(y, arithmetic=name or None)
                report = layer.verify(y)
                rejected[name] += not named
                equal[name] += report.equal
                seen = report.named_arithmetic
                found[name] += seen == (name or None)
                wrong[name] += seen is not None and seen != name
                if not named or seen not in (name or None, None) or (not report and not seen):
                    print(f"{model_name} {layer.name} {name or 'float32'}: {named}; named {seen}", flush=True)
    print(f"\n{count} layers\n")
    heads = "arithmetic", "results", "rejected under its name", "equal by the plain bound", "named right"
    print(f"| {' | '.join(heads)} | named wrong |")
    print("|---|---|---|---|---|---|")
    for name, total in results.items():
        cells = (total, rejected[name], equal[name], found[name], wrong[name])
        print(f"| {name or 'float32'} |" + "".join(f" {cell} |" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help=".onnx files, or wheels that carry some")
    parser.add_argument("--layers", type=int, default=25, help="of each kind, or of each network at most")
    parser.add_argument("--seed", type=int, default=2017)
    chosen = parser.parse_args()
    if chosen.files:
        on_networks(chosen.files, chosen.layers)
    else:
        on_drawn_numbers(chosen.layers, chosen.seed)


if __name__ == "__main__":
    main()
