"""What the options of `network` mean: its inputs, its run, and what is written of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.cli.command import refuse
from convmat.cli.inputs import Batch, check_one_pipe, open_batch
from convmat.cli.output import asked, report, wait, warn
from convmat.errors import FileError, SettingError, ShapeError
from convmat.files.folders import check_new_folder
from convmat.files.foreign import KNOWN_BYTES
from convmat.files.memory import check_memory
from convmat.files.npy import NpyInput, is_array
from convmat.files.outputs import check_apart, open_output
from convmat.files.streams import is_pipe, open_file
from convmat.files.tensors import is_safetensors
from convmat.networks.fc import MOST_ELEMENTS, rewrite
from convmat.networks.folder import write_layer
from convmat.networks.judging import Judged, compare_ends, run_and_judge
from convmat.networks.kernels import kernels_of
from convmat.networks.layers import Convolution, Layer, layers_of
from convmat.networks.lipschitz import Stop, lipschitz_bound
from convmat.networks.model import Model, Shape, shape_text
from convmat.networks.running import Dumped, Evaluator
from convmat.networks.spectra import Stretch, spectra_of, weights_of
from convmat.report.facts import input_fact
from convmat.report.networks import fc_facts, network_facts, network_grid, no_fc_facts
from convmat.report.spectra import lipschitz_facts, spectra_grid
from convmat.shown import Fact

Array = NDArray[Any]


@dataclass(frozen=True)
class NetworkOptions:
    """What the command line of `network` says beside its file and inputs."""

    input_shape: tuple[tuple[str, tuple[int, ...]], ...]
    formulas: bool
    normalize: tuple[float, ...] | None
    layout: str
    frame: int | None
    alpha: str
    provider: str | None
    reference: bool
    outputs: str | None
    spectrum: bool
    layer: str | None
    output: str | None
    to_fc: str | None
    max_elements: int | None


def show_network(name: str, inputs: tuple[str, ...], asks: NetworkOptions) -> None:
    """Read a network, run it where there is something to run it on, and tell of its layers."""
    if _is_safetensors(name):
        _show_kernels(name, inputs, asks)
        return
    if not inputs:
        refuse(["normalize", "frame", "alpha", "layout"], "goes with INPUT")
        if asks.outputs is None:
            refuse(["provider", "reference", "layer"], "goes with INPUT")
    elif asks.input_shape:
        raise click.UsageError("--input-shape goes without INPUT, which has a shape of its own")
    if asks.output is not None:
        check_new_folder(asks.output)
    model = Model(name)
    dumped = None if asks.outputs is None else Dumped(asks.outputs)
    feeds = _feeds(model, inputs, asks, dumped)
    _infer(model, asks, feeds)
    layers = layers_of(model)
    if not layers:
        raise FileError(name, "has no CONV and no FC layers; nothing is known of others")
    for text in model.unseen:
        warn(f"{name}: {text}; that is not looked into")
    if not feeds and dumped is None:
        judged, by = [Judged(layer) for layer in layers], None
        fc = _write_fc(model, layers, None, {}, asks)
    else:
        evaluator = Evaluator(model, asks.provider, asks.reference)
        by = asks.outputs or evaluator.name
        judged, fc = _run(model, layers, feeds, evaluator, dumped, asks)
    if not asks.spectrum or asked("quiet"):
        _tell(name, inputs, judged, by, asks, fc)
        return
    stretches = _stretches(judged, lambda layer: weights_of(model, layer))
    by_output = {one.layer.y: stretch for one, stretch in zip(judged, stretches, strict=True)}
    _tell(name, inputs, judged, by, asks, fc, stretches, lipschitz_bound(model, by_output))


def _stretches(judged: list[Judged], weights: Callable[[Layer], Array]) -> list[Stretch]:
    layers = [one.layer for one in judged]
    return wait(lambda watch: list(spectra_of(layers, weights, watch)), "singular values")


def _run(
    model: Model,
    layers: list[Layer],
    feeds: dict[str, Array],
    evaluator: Evaluator,
    dumped: Dumped | None,
    asks: NetworkOptions,
) -> tuple[list[Judged], list[Fact]]:
    """Judge all layers, and write what is asked for."""
    chosen = None if asks.layer is None else _chosen(model.name, layers, asks.layer)
    kept: list[tuple[Layer, Convolution | str, Array]] = []

    def see(layer: Layer, convolution: Convolution | str, y: Array) -> None:
        if chosen is not None and layer.number == chosen.number:
            kept.append((layer, convolution, y))

    needed = max((_bytes(layer) for layer in layers), default=0)
    check_memory(model.name, needed, "give a smaller input")
    judged, outputs = wait(
        lambda watch: run_and_judge(model, layers, feeds, evaluator, dumped, watch, see), "layers"
    )
    if dumped is not None and all(one.theirs is None for one in judged):
        raise FileError(dumped.folder, f"has the input and output of no layer; {judged[0].why}")
    if asks.output is not None and chosen is not None:
        if not kept:
            why = judged[chosen.number - 1].why
            raise FileError(model.name, f"layer {got(chosen.name)} cannot be written: {why}")
        write_layer(asks.output, model.name, *kept[0])
    return judged, _write_fc(model, [one.layer for one in judged], evaluator, {**feeds, **outputs}, asks)


def _bytes(layer: Layer) -> int:
    """Memory that judging a layer takes: its input, two outputs, and their judges' working space."""
    spread = layer.geometry.input_shape if layer.is_transposed and layer.geometry is not None else None
    shapes = (layer.input_shape, spread, layer.output_shape, layer.output_shape, layer.kernel_shape)
    held = sum(math.prod(size or 1 for size in shape) for shape in shapes if shape is not None)
    return 8 * held + (64 << 20)


def _chosen(network: str, layers: list[Layer], name: str) -> Layer:
    named = [layer for layer in layers if name in (layer.name, layer.y)]
    named = named or [layer for layer in layers if str(layer.number) == name]
    if not named:
        names = ", ".join(layer.name for layer in layers[:8]) + (", …" if len(layers) > 8 else "")
        raise FileError(network, f"has no layer {got(name)}; it has {names}")
    if not named[0].is_conv:
        raise FileError(network, f"layer {got(name)} is a {named[0].op}, an FC layer already; name a CONV")
    return named[0]


# The inputs


def _infer(model: Model, asks: NetworkOptions, feeds: Mapping[str, Array]) -> None:
    """Find shapes: of what is fed, or of what was said, a batch that nothing is said of being 1."""
    given = {name: array.shape for name, array in feeds.items()}
    for name, shape in asks.input_shape:
        if not name and len(model.inputs) > 1:
            raise ShapeError("input_shape", f"is of which input? give {model.inputs[0]}={_typed(shape)}")
        if (name or model.inputs[0]) not in model.inputs:
            raise ShapeError(
                "input_shape", f"{model.name} has no input {got(name)}; it has {', '.join(model.inputs)}"
            )
        if min(shape) < 1:
            raise ShapeError("input_shape", f"got {got(shape)}; sizes must be at least 1")
        given[name or model.inputs[0]] = shape
    for name in model.inputs:
        declared = model.declared(name)
        if name in given or not declared or None not in declared:
            continue
        if declared[0] is None and None not in declared[1:]:
            given[name] = (1, *(size or 0 for size in declared[1:]))
        else:
            example = _typed(tuple(size or (1 if at == 0 else 224) for at, size in enumerate(declared)))
            named = f"{name}=" if len(model.inputs) > 1 else ""
            said = f"{name} is of {shape_text(declared)}, so sizes are not known"
            warn(f"{said}; give --input-shape {named}{example}")
    model.infer(given)


def _typed(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def _feeds(
    model: Model, inputs: tuple[str, ...], asks: NetworkOptions, dumped: Dumped | None
) -> dict[str, Array]:
    """The arrays of the network's inputs, by name."""
    files: dict[str, str] = {}
    for text in inputs:
        named = [name for name in model.inputs if text.startswith(f"{name}=")]
        name = max(named, key=len, default="")  # a name may have = in it
        file = text[len(name) + 1 :]
        if name in files:
            raise click.UsageError(f"{text!r} is a second file for {name}; give one")
        if not name or os.path.exists(text):
            free = [name for name in model.inputs if name not in files]
            if len(inputs) > 1 or not free:
                raise click.UsageError(
                    f"{text!r} is for which input? {model.name} has {', '.join(model.inputs)}: give NAME=FILE"
                )
            name, file = free[0], text
        files[name] = file
    check_one_pipe(*files.values())
    check_apart([name for name in (asks.to_fc, asks.output) if name], [*files.values(), model.name])
    feeds = {name: _array(model, name, file, asks) for name, file in files.items()}
    if dumped is not None:
        feeds |= {name: dumped.read(name) for name in model.inputs if name not in feeds and name in dumped}
    missing = [name for name in model.inputs if name not in feeds]
    if missing and (inputs or dumped is not None):
        more = f", or {asks.outputs}" if dumped is not None else ""
        raise click.UsageError(f"the network's input {missing[0]!r} is missing; give {missing[0]}=FILE{more}")
    return feeds


def _array(model: Model, name: str, file: str, asks: NetworkOptions) -> Array:
    """A file as an input of the network: normalized, in its layout and dtype."""
    declared = model.declared(name)
    if not is_pipe(file) and is_array(file):
        array = NpyInput(file).read()
        last = asks.layout == "nhwc" and array.ndim > 2
        if declared is not None and array.ndim == len(declared) - 1:
            array = array[None]
    else:
        batch: Batch = open_batch((file,), 2, "nhwc", asks.frame, asks.alpha)
        array, last = batch.read(), True
        if declared is None or len(declared) != 4:
            raise ShapeError(
                file, f"is an image, and {name!r} takes {shape_text(declared)}; give an .npy array"
            )
    channels = array.shape[-1] if last else array.shape[1] if array.ndim > 1 else 1
    if asks.normalize is not None:
        array = _normalized(array, channels, -1 if last else 1, asks.normalize)
    if last and not _is_channels_last(declared, array.shape):
        array = np.moveaxis(array, -1, 1)
    _check_fits(file, name, array.shape, declared)
    return np.asarray(_cast(model, name, file, array), order="C")


def _is_channels_last(declared: Shape | None, shape: tuple[int, ...]) -> bool:
    """Whether the network itself takes channels last, as those exported from TensorFlow do."""
    return declared is not None and len(declared) > 2 and declared[-1] == shape[-1] != declared[1] is not None


def _normalized(array: Array, channels: int, axis: int, numbers: tuple[float, ...]) -> Array:
    if len(numbers) not in (2, 2 * channels) or any(not math.isfinite(n) for n in numbers):
        raise SettingError(
            "normalize", f"got {len(numbers)} numbers; give a mean and a deviation, or {channels} of each"
        )
    half = len(numbers) // 2
    shape = [1] * array.ndim
    shape[axis] = half
    mean, deviation = (np.array(part).reshape(shape) for part in (numbers[:half], numbers[half:]))
    if not deviation.all():
        raise SettingError("normalize", "has a deviation of 0; give another")
    return np.asarray((array - mean) / deviation)


def _check_fits(file: str, name: str, shape: tuple[int, ...], declared: Shape | None) -> None:
    if declared is None:
        return
    if len(shape) == len(declared) and all(
        want in (None, size) for want, size in zip(declared, shape, strict=True)
    ):
        return
    problem = f"is {shape_text(shape)}, the network's {name!r} takes {shape_text(declared)}"
    remedy = "resize it, see --layout, or --alpha drop"
    raise ShapeError(file, f"{problem}; {remedy}")


def _cast(model: Model, name: str, file: str, array: Array) -> Array:
    """In the dtype that the network takes; real numbers do not become whole ones."""
    dtype = model.input_dtype(name)
    if dtype is None or dtype == array.dtype:
        return array
    if (
        dtype.kind not in "fiub"
        or (array.dtype.kind in "fc" and dtype.kind != "f")
        or array.dtype.kind == "c"
    ):
        raise ShapeError(
            file, f"holds {array.dtype}, the network's {name!r} takes {dtype}; convert it before"
        )
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ShapeError(file, f"holds numbers beyond {dtype}, which the network's {name!r} takes")
    return array.astype(dtype)


# What is written


def _write_fc(
    model: Model,
    layers: list[Layer],
    evaluator: Evaluator | None,
    values: Mapping[str, Array],
    asks: NetworkOptions,
) -> list[Fact]:
    """Write the network as products, verified where there are values to verify it on."""
    if asks.to_fc is None:
        return no_fc_facts()
    done = rewrite(model, layers, MOST_ELEMENTS if asks.max_elements is None else asks.max_elements)
    if not done.layers:
        why = next(iter(done.left.values()), "it has none")
        raise FileError(model.name, f"has no CONV that can be rewritten: {why}")
    data = done.proto.SerializeToString()
    with open_output(asks.to_fc, len(data)) as stream:
        stream.write(data)
    if evaluator is None:
        return fc_facts(asks.to_fc, len(done.layers), done.left, [], None)
    feeds = {name: values[name] for name in model.inputs}
    fc = model.like(done.proto, asks.to_fc, {name: array.shape for name, array in feeds.items()})
    judged, outputs = wait(
        lambda watch: run_and_judge(
            fc, done.layers, feeds, evaluator.on(fc), watch=watch, ours=False, weights=model.constant
        ),
        "layers as products",
    )
    wanted = {name: values[name] for name in outputs}
    end = wait(lambda _: compare_ends(model, feeds, evaluator, wanted, outputs), "outputs")
    return fc_facts(asks.to_fc, len(done.layers), done.left, judged, end)


# Kernels of .safetensors


def _is_safetensors(name: str) -> bool:
    if is_pipe(name):
        return False
    with open_file(name) as stream:
        return is_safetensors(stream.peek(KNOWN_BYTES))


def _show_kernels(name: str, inputs: tuple[str, ...], asks: NetworkOptions) -> None:
    if inputs:
        raise click.UsageError("INPUT goes with a network; .safetensors holds weights alone")
    others = [
        "normalize",
        "layout",
        "frame",
        "alpha",
        "provider",
        "reference",
        "outputs",
        "layer",
        "to_fc",
        "output",
    ]
    refuse(others, "goes with a network; .safetensors holds weights alone")
    if asks.spectrum and not asks.input_shape:
        raise click.UsageError("--spectrum of .safetensors goes with --input-shape, from which sizes follow")
    if len(asks.input_shape) > 1 or any(key for key, _ in asks.input_shape):
        raise ShapeError("input_shape", "is one for all kernels; give one, without a name")
    layers = kernels_of(name, asks.input_shape[0][1] if asks.input_shape else None)
    if not layers:
        raise FileError(name, "has no tensor of 3 to 5 axes, as kernels are")
    judged = [Judged(layer) for layer in layers]
    stretches = None
    if asks.spectrum:
        stretches = _stretches(judged, lambda layer: NpyInput(f"{name}:{layer.name}").read())
    _tell(name, (), judged, None, asks, no_fc_facts(), stretches)


# What is told


def _tell(
    name: str,
    inputs: tuple[str, ...],
    judged: list[Judged],
    by: str | None,
    asks: NetworkOptions,
    fc: list[Fact],
    stretches: list[Stretch] | None = None,
    bound: float | Stop | None = None,
) -> None:
    *facts, last = network_facts(name, judged, by, stretches)
    written = Fact("written", "layer written to" if asks.output else "", asks.output, asks.output or "")
    as_products = next(fact for fact in fc if fact.key == "fc_equal")
    if as_products.value is False and last.value is not False:
        text = "different: as products the network gives something else"
        last = last._replace(value=False, text=text, brief=text)
    facts = [facts[0], input_fact(inputs), *facts[1:], *lipschitz_facts(bound), *fc, written, last]
    grids = [network_grid(judged, asks.formulas)]
    if stretches is not None:
        grids.append(spectra_grid([one.layer.name for one in judged], stretches))
    report(facts, grids, facts_last=True)
    if last.value is False:
        click.get_current_context().exit(1)
