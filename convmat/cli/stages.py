"""The stages that `verify` judges: what each takes, and the verdict on its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import click
from numpy.typing import NDArray

from convmat.arithmetic import arithmetic_of
from convmat.cli.command import refuse
from convmat.cli.drawing import draw_errors
from convmat.cli.gradients import judge_bias_gradient, judge_input_gradient, judge_weight_gradient
from convmat.cli.inputs import Batch, check_one_pipe, is_chunked
from convmat.cli.judged import (
    Judged,
    Result,
    VerifyOptions,
    as_images,
    diagnosis,
    first_equal,
    judged,
    may_be_told,
    places_in,
    results,
)
from convmat.cli.layer import (
    folded_geometry,
    geometry_of,
    open_input,
    open_kernels,
    open_layer,
    open_linear_layer,
    patch_geometry,
)
from convmat.cli.output import asked, progress, watching
from convmat.cli.quantized import quantization_of
from convmat.files.archives import read_sparse
from convmat.files.memory import check_memory
from convmat.files.npy import NpyInput
from convmat.geometry import ConvGeometry
from convmat.layouts import output_layout
from convmat.patches import BLOCK_BYTES
from convmat.quantization import Quantization
from convmat.report.checks import checks_facts, checks_grids
from convmat.report.facts import Grid, geometry_facts, input_fact
from convmat.report.verdicts import diagnosis_facts, explained_facts, holds_fact, terms_grid
from convmat.shown import Fact, shape_fact
from convmat.verification.comparison import working_bytes
from convmat.verification.diagnosis import diagnose as diagnosed
from convmat.verification.diagnosis import diagnosis_bytes, may_be_explained
from convmat.verification.layer import Explanation, judge_layer
from convmat.verification.layer import explain as explained
from convmat.verification.moved import (
    diagnose_flatten_filters,
    diagnose_fold,
    diagnose_unroll,
    what_it_holds,
)
from convmat.verification.selfcheck import self_check
from convmat.verification.stages import (
    check_dense,
    fold_bytes,
    matrix_bytes,
    verify_flatten_filters,
    verify_fold,
    verify_matrix,
    verify_unroll,
)

_FEWER = "verify a few images of it at a time"


def stage_of(name: str, inputs: tuple[str, ...], given: Mapping[str, str]) -> Callable[..., Judged]:
    """What judges a stage; without inputs, where it needs some, the self-check.

    Raises:
        UsageError: an option of those `given` means nothing to it.
    """
    needs_none = name in ("flatten-filters", "db") or (name in ("matrix", "dx") and "input_shape" in given)
    stage = _STAGES[name] if inputs or needs_none else _SELF_CHECK
    for parameter, option in given.items():
        if parameter in stage.takes or parameter in ("as_json", "brief", "quiet"):
            continue
        if stage is _SELF_CHECK:
            raise click.UsageError(f"Missing argument 'INPUT'; name the image or array {option} is for")
        names = " or ".join(other for other, one in _STAGES.items() if parameter in one.takes)
        raise click.UsageError(f"{option} goes {f'with --stage {names}' if names else 'without INPUT'}")
    return stage.judge


def _check_itself(_: tuple[str, ...], asks: VerifyOptions) -> Judged:
    def watch(groups: Any, total: int) -> Any:
        return progress(groups, total, unit="group", size=lambda _: 1)

    checks = list(self_check(asks.seed, asks.cases, watch=watch))
    return Judged(all(checks), checks_facts(checks, asks.seed), checks_grids(checks))


def _convolve(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    if len(inputs) == 2 and asks.layer.kernel is None:
        raise click.UsageError("Missing option '--kernel'; two arrays are compared by 'convmat compare A B'")
    if is_chunked((*inputs, *([asks.expected] if asks.expected else [])), asks.scheduler):
        from convmat.cli.cluster import judge_chunked

        return judge_chunked(inputs, asks)
    return _convolve_whole(inputs, asks)


def _convolve_whole(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    layer = asks.layer
    quantization = quantization_of(asks.quantize, asks.requantize)
    batch, arguments = open_layer(inputs, layer, expected=asks.expected)
    geometry, count = geometry_of(batch.shape, arguments), len(arguments["filters"])
    shape = (batch.shape[0], *geometry.output_size, count)
    mine = Result(asks.expected)
    more_bytes = 0
    if quantization is not None and asks.expected is None:
        more_bytes = quantization.pixel_bytes(batch.nbytes, batch.dtype)
    _check_room(batch, arguments["filters"], shape, mine, geometry, more_bytes)

    def diagnosable(array: NDArray[Any]) -> bool:
        return asks.diagnose and not asked("quiet") and may_be_explained(array.shape, geometry, count)

    def fits(array: NDArray[Any]) -> bool:
        readings = results(array, shape, layer.layout).values()
        return diagnosable(array) or any(reading.shape == shape for reading in readings)

    raw = mine.read(fits)
    x, filters = batch.read(), arguments["filters"]
    rules = asks.rules | {"quantization": quantization}
    naming = asks.diagnose and not asked("quiet")
    forms: dict[str, Any] = {layer.layout: None} if raw is None else results(raw, shape, layer.layout)
    read_as, verdict = first_equal(
        forms,
        lambda y: judge_layer(x, expected=y, **arguments, **rules, watch=watching("part"), naming=naming),
    )
    result = forms.pop(read_as)
    if quantization is not None:
        quantization = quantization.of_layer(x, filters, None, None if result is None else result.dtype)
    more: list[Fact] = []
    grids: list[Grid] = []
    if asks.figure is not None:
        check_memory("figure", 16 * math.prod(shape[1:-1]), "leave it out")
        how = {"expected": result, **arguments, **rules}
        more += draw_errors(asks.figure, asks.look, verdict, lambda note: judge_layer(x, **how, note=note))
    if asks.explain and verdict.worst is not None and not asked("quiet"):
        terms = _terms(x, verdict.worst, arguments, quantization)
        more, grids = [*more, *explained_facts(geometry, terms)], [terms_grid(terms)]
    if raw is not None and not verdict.explained and diagnosable(raw):
        check_memory("expected", diagnosis_bytes(geometry, count, raw), "add --no-diagnose")
        mistakes = diagnosed(x, expected=result, judged=rules, **arguments, watch=watching("mistake"))
        places = places_in(raw, lambda array: results(array, shape, layer.layout)[read_as])
        told = diagnosis_facts(mistakes.with_places(places))
        # The verdict says already which rounding it is.
        more += [fact._replace(brief="") for fact in told] if verdict.equal_as else told
    return judged(
        verdict,
        [*batch.facts(), *geometry_facts(geometry, layer.padding_mode)],
        more,
        grids,
        always=asks.explain,
        given=None if raw is None else raw.shape,
        layout=layer.layout,
        read_as=[] if raw is None else [read_as, *([] if read_as == layer.layout else forms)],
        quantization=quantization,
    )


def _terms(
    x: NDArray[Any], at: tuple[int, ...], arguments: dict[str, Any], quantization: Quantization | None
) -> Explanation:
    """The sum that is one element, of a quantized layer without the zero points."""
    if quantization is None:
        return explained(x, at=at, **arguments)
    filters = quantization.weights(arguments["filters"])
    return explained(quantization.pixels(x), at=at, **arguments | {"filters": filters})


def _check_room(
    batch: Batch,
    filters: NDArray[Any],
    shape: tuple[int, ...],
    mine: Result,
    geometry: ConvGeometry,
    more: int,
) -> None:
    """Refuse a convolution that there is no memory to judge."""
    dtype = arithmetic_of(geometry.terms, (batch.dtype, filters.dtype))
    result_bytes = mine.nbytes((dtype.result.itemsize if dtype else 8) * math.prod(shape) + BLOCK_BYTES)
    working = working_bytes(math.prod(shape), batch.dtype, filters.dtype)
    check_memory("input", batch.nbytes + result_bytes + working + more, _FEWER)


def _unroll(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    layer = asks.layer
    if (layer.kernel is None) == (layer.kernel_size is None):
        raise click.UsageError("Give either --kernel or --k, to say how large the patches are")
    check_one_pipe(*inputs, layer.kernel, asks.expected)
    kernel_size = layer.kernel_size
    if layer.kernel is None:
        refuse(["kernel_layout"], "goes with --kernel")
    else:
        kernel_size = open_kernels(layer.kernel, layer.axes, layer.kernel_layout).outline.shape[1:-1]
    batch = open_input(inputs, layer)
    geometry = patch_geometry(batch.shape, layer, kernel_size)
    rows, columns = geometry.matrix_shape
    mine = Result(asks.expected)
    result_bytes = mine.nbytes(rows * columns * batch.dtype.itemsize)
    working = working_bytes(rows * columns, batch.dtype)
    check_memory("input", batch.nbytes + result_bytes + working, _FEWER)
    shapes = ((rows, columns), (geometry.batch, geometry.patches, columns))
    raw = mine.read(lambda array: array.shape in shapes or may_be_told(asks, array, rows * columns))
    x, how = batch.read(), {**layer.steps, "padding_mode": layer.padding_mode, "order": layer.order}
    how |= asks.tolerance
    verdict = verify_unroll(x, kernel_size, raw, **how, watch=watching("tap"))
    find = partial(diagnose_unroll, x, kernel_size, **how, watch=watching("mistake"))
    more = diagnosis(asks, verdict, raw, find)
    if more and not more[0].value and verdict.worst is not None and raw is not None:
        held = what_it_holds(x, geometry, raw, verdict.worst, layer.padding_mode, layer.order)
        more.append(holds_fact(held))
    facts = [*batch.facts(), *geometry_facts(geometry, layer.padding_mode)]
    return judged(verdict, facts, more, stage="unroll")


def _flatten_filters(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    layer = asks.layer
    if layer.kernel is None:
        raise click.UsageError("Missing option '--kernel'; --stage flatten-filters judges the W_col of one")
    if inputs:
        raise click.UsageError("--stage flatten-filters takes no INPUT: W_col is of the kernels alone")
    check_one_pipe(layer.kernel, asks.expected)
    kernels = open_kernels(layer.kernel, layer.dims or 2, layer.kernel_layout)
    outline = kernels.outline
    mine = Result(asks.expected)
    needed = 3 * outline.nbytes + mine.nbytes(0) + working_bytes(outline.size, outline.dtype)
    check_memory("filters", needed, "verify a few of them at a time")
    shape = (math.prod(outline.shape[1:]), len(outline))
    result = mine.read(lambda array: array.shape == shape or may_be_told(asks, array, outline.size))
    filters, how = kernels.read(), {"order": layer.order, **asks.tolerance}
    verdict = verify_flatten_filters(filters, result, **how, watch=watching("row"))
    find = partial(diagnose_flatten_filters, filters, **how, watch=watching("mistake"))
    facts = [
        input_fact([layer.kernel])._replace(key="kernels", label="kernels"),
        shape_fact("filters_shape", "filters", outline.shape, "K × kernel × C/groups"),
        Fact("order", "order", layer.order, layer.order),
    ]
    return judged(verdict, facts, diagnosis(asks, verdict, result, find), stage="flatten-filters")


def _fold(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    layer = asks.layer
    if len(inputs) != 1 or layer.kernel_size is None or asks.input_shape is None:
        raise click.UsageError("--stage fold takes one INPUT, which is X_col, and --k and --input-shape")
    check_one_pipe(*inputs, asks.expected)
    x_col = NpyInput(inputs[0])
    geometry = folded_geometry(x_col.shape, asks.input_shape, layer)
    mine, shape = Result(asks.expected), geometry.input_shape
    result_bytes = mine.nbytes(8 * math.prod(shape))
    check_memory("input", x_col.nbytes + result_bytes + fold_bytes(geometry), _FEWER)

    def fits(array: NDArray[Any]) -> bool:
        known = as_images(array, layer.axes, layer.layout).shape == shape
        return known or may_be_told(asks, array, math.prod(shape))

    raw, operands = mine.read(fits), (x_col.read(), shape, layer.kernel_size)
    how = {**layer.steps, "overlap": asks.overlap, "order": layer.order, **asks.tolerance}
    result = None if raw is None else as_images(raw, layer.axes, layer.layout)
    verdict = verify_fold(*operands, result, **how, arithmetic=asks.arithmetic, watch=watching("patch"))
    layout, watch = output_layout(layer.layout), watching("mistake")
    find = partial(diagnose_fold, *operands, **how, layout=layout, watch=watch)
    facts, given = [input_fact(inputs), *geometry_facts(geometry)], None if raw is None else raw.shape
    more = diagnosis(asks, verdict, raw, find)
    return judged(verdict, facts, more, stage="fold", given=given, layout=layer.layout)


def _matrix(inputs: tuple[str, ...], asks: VerifyOptions) -> Judged:
    layer = asks.layer
    if len(inputs) > 1:
        raise click.UsageError("--stage matrix takes one INPUT: the matrix is that of one image")
    batch, arguments = open_linear_layer(inputs, layer, asks.input_shape, asks.expected)
    geometry = geometry_of((1, *batch.shape[1:]), arguments)
    filters = arguments["filters"]
    shape = geometry.patches * len(filters), math.prod(batch.shape[1:])
    check_dense(shape)
    needed = matrix_bytes(shape, filters.dtype, layer.padding_mode)
    check_memory("matrix", needed, "give a smaller input of the same layer")
    result: Any = None
    if asks.expected is not None and asks.expected.endswith(".npz"):
        result = read_sparse(asks.expected, check_dense)
    else:
        result = Result(asks.expected).read(lambda array: array.shape == shape)
    layout, watch = output_layout(layer.layout), watching("column")
    verdict = verify_matrix(
        input_shape=batch.shape, expected=result, layout=layout, **arguments, watch=watch, **asks.tolerance
    )
    facts = [*batch.facts(), *geometry_facts(geometry, layer.padding_mode)]
    return judged(verdict, facts, stage="matrix")


class _Stage(NamedTuple):
    """What judges the result of a stage, and the options that mean something to it."""

    judge: Callable[..., Judged]
    takes: Collection[str]


_JUDGED = ("stage", "expected", "dtype", "shape", "exact", "atol", "rtol")
_PATCHES = (*_JUDGED, "stride", "padding", "dilation", "dims", "layout")
_KERNELS = ("kernel", "kernel_layout")
_IMAGES = (*_PATCHES, *_KERNELS, "padding_mode", "frame", "alpha")
_LINEAR = (*_IMAGES, "groups", "depthwise", "flip")
_OF_RESULTS = ("quantize", "requantize", "arithmetic", "activation")
_GRADIENT = (*_LINEAR, "grad", "diagnose")
_STAGES = {
    "unroll": _Stage(_unroll, (*_IMAGES, "kernel_size", "order", "diagnose")),
    "flatten-filters": _Stage(_flatten_filters, (*_JUDGED, *_KERNELS, "dims", "order", "diagnose")),
    "convolve": _Stage(
        _convolve,
        (*_LINEAR, *_OF_RESULTS, "bias", "explain", "diagnose", "figure", "theme", "scale", "scheduler"),
    ),
    "fold": _Stage(
        _fold, (*_PATCHES, "kernel_size", "input_shape", "order", "overlap", "arithmetic", "diagnose")
    ),
    "matrix": _Stage(_matrix, (*_LINEAR, "input_shape")),
    "dx": _Stage(judge_input_gradient, (*_GRADIENT, "input_shape")),
    "dw": _Stage(judge_weight_gradient, (*_GRADIENT, "kernel_size")),
    "db": _Stage(judge_bias_gradient, (*_GRADIENT, "kernel_size")),
}
_SELF_CHECK = _Stage(_check_itself, ("seed", "cases"))
