"""`convmat verify`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from convmat.cli import options
from convmat.cli.probes import probe_options, without_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convmat.files.npy import NpyInput
    from convmat.report.facts import Grid
    from convmat.shown import Fact
    from convmat.verification import Report

# What each stage takes; any other option means nothing to it, and is refused.
_PATCHES = ("stride", "padding", "dilation", "dims", "layout")
_IMAGES = ("padding_mode", "frame", "alpha")
_KERNELS = ("kernel", "kernel_layout")
_LINEAR = (*_PATCHES, *_IMAGES, *_KERNELS, "groups", "depthwise", "flip")
_TAKES = {
    "unroll": (*_PATCHES, *_IMAGES, *_KERNELS, "kernel_size", "order", "expected"),
    "flatten-filters": (*_KERNELS, "dims", "order", "expected"),
    "convolve": (*_LINEAR, "bias", "requantize", "explain", "diagnose", "expected"),
    "fold": (*_PATCHES, "kernel_size", "input_shape", "order", "overlap", "expected"),
    "matrix": (*_LINEAR, "input_shape", "expected"),
}
_STAGES = tuple(_TAKES)
_FEWER = "verify a few images of it at a time"
_ALWAYS = ("exact", "atol", "rtol", "stage", "as_json", "brief", "quiet")


@click.command("verify", cls=options.Command)
@options.inputs_argument(required=False)
@options.layer_options
@click.option(
    "--expected",
    metavar="FILE",
    type=options.File(),
    help="Your own result as .npy, to judge in place of convmat's; - is standard input.",
)
@click.option(
    "--stage",
    type=click.Choice(_STAGES, case_sensitive=False),
    default="convolve",
    show_default=True,
    help="Whose result is judged, against the definition of that stage.",
)
@options.kernel_size_option(required=False)
@click.option(
    "--input-shape",
    type=options.InputShape(),
    help="With --stage fold, what was unrolled; with --stage matrix, an input that need not exist: 28,28,1; "
    "of the probe with --write-probe, by default a few patches.",
)
@options.order_option
@options.overlap_option
@click.option("--exact", is_flag=True, help="Floats, too, must be equal in value.")
@click.option("--atol", type=float, help="Allow this error, and no more, in place of the bound.")
@click.option("--rtol", type=float, help="Allow this share of the right value, too, or alone.")
@click.option(
    "--requantize",
    type=options.RequantizeType(),
    help="Judge a quantized result: int32 sums times the scale, rounded half-up, half-even, half-away or as "
    "gemmlowp does, plus the zero point, cut off at the ends of the dtype: int8, uint8 or int16.",
)
@click.option("--explain", is_flag=True, help="Show the sum of the worst element term by term.")
@click.option(
    "--diagnose/--no-diagnose",
    default=True,
    show_default=True,
    help="Try known mistakes on a result that differs, and name those that explain all of it.",
)
@probe_options
@options.report_options
def command(
    inputs: tuple[str, ...],
    stage: str,
    exact: bool,
    atol: float | None,
    rtol: float | None,
    as_json: bool,
    quiet: bool,
    **named: Any,
) -> None:
    """Prove that the FC form equals the definition of convolution, or that your result does.

    \b
    Example:
      convmat verify sample_images/digit.png --kernel sample_images/strokes_2x7x7x1.npy --stride 7
      convmat verify
      convmat verify --write-probe probe --k 3 --stride 2 --format c,hex

    Alone it checks itself, over geometries, dtypes and layouts. With INPUT and --kernel it compares the
    engine with the definition on them; with --expected it compares your Y instead, (N, H_out, W_out, K),
    (N, K, H_out, W_out) with --layout nchw, or the rows of X_col · W_col. Integers must be equal; floats must
    be within each element's error bound, unless --exact, --atol or --rtol say otherwise.

    With --stage the result is that of another command on the same layer: X_col of unroll (--kernel or --k),
    W_col of flatten-filters (no INPUT), images of fold (INPUT is X_col; --k and --input-shape), or the matrix
    of matrix, as .npz or dense as .npy.

    Two arrays without --kernel are compared with each other: no bound is known of them, so they must be
    equal in every value, or within --atol + --rtol·|second|.

    --write-probe makes layers of small whole numbers, whose sums are exact in any order, with all that they
    give; --probe then demands that your --expected, a file or a folder of integers.npy, one-hot.npy and so
    on, is equal to them.

    Exit status: 0 equal, 1 different, 2 trouble.
    """
    from convmat.cli.output import report

    ctx = click.get_current_context()
    needs_input = stage != "flatten-filters" and (stage != "matrix" or named["input_shape"] is None)
    if (status := without_input(ctx, needs_input)) is not None:
        ctx.exit(status)
    judged = {"exact": exact, "atol": atol, "rtol": rtol}
    given = options.given_options(ctx)
    if stage == "convolve" and len(inputs) == 2 and named["kernel"] is None and named["expected"] is None:
        options.refuse(given.keys() - set(_ALWAYS), "is for a layer, whose --kernel is missing")
        found = _two_arrays(inputs, judged)
    else:
        for name, option in given.items():
            if name not in (*_TAKES[stage], *_ALWAYS):
                stages = " or ".join(other for other in _STAGES if name in _TAKES[other])
                raise click.UsageError(f"{option} goes with --stage {stages}")
        found = _JUDGES[stage](inputs, judged, quiet, **{name: named[name] for name in _TAKES[stage]})
    report(found.facts, found.grids, as_json=as_json, quiet=quiet, facts_last=True)
    ctx.exit(0 if found.report else 1)


class _Found(NamedTuple):
    """A verdict, and what is to be told of it."""

    report: Report
    facts: list[Fact]
    grids: list[Grid]


def _two_arrays(names: tuple[str, ...], judged: dict[str, Any]) -> _Found:
    from convmat.files.memory import check_memory
    from convmat.report.facts import input_fact
    from convmat.verification import compare
    from convmat.verification.judge import working_bytes

    _check_one_pipe(*names)
    first, second = (_open(name) for name in names)
    same = first.shape == second.shape
    if same:
        elements = math.prod(first.shape)
        needed = first.nbytes + second.nbytes + working_bytes(elements, first.dtype, second.dtype)
        check_memory("input", needed, "compare a part at a time")
    found = compare(_read(first, same), _read(second, same), **judged)
    return _told(found, [input_fact(names)], stage=None)


def _convolution(
    inputs: tuple[str, ...],
    judged: dict[str, Any],
    quiet: bool,
    *,
    expected: str | None,
    layout: str,
    requantize: tuple[Any, ...] | None,
    explain: bool,
    diagnose: bool,
    **layer: Any,
) -> _Found:
    from convmat.arithmetic import arithmetic_of
    from convmat.cli.layers import first_equal, open_layer, places_in, results
    from convmat.cli.output import watching
    from convmat.engine import filter_geometry
    from convmat.files.memory import check_memory
    from convmat.patches import BLOCK_BYTES
    from convmat.report.facts import geometry_facts
    from convmat.report.verdicts import diagnosis_facts, explained_facts, terms_grid
    from convmat.verification import verify
    from convmat.verification.diagnosis import diagnosis_bytes, may_be_explained
    from convmat.verification.judge import working_bytes
    from convmat.verification.layer import explain as explained
    from convmat.verification.quantization import Requantize

    batch, arguments = open_layer(inputs, layout=layout, expected=expected, **layer)
    filters = arguments["filters"]
    geometry = filter_geometry(
        batch.shape, filters.shape, *(arguments[key] for key in ("stride", "padding", "dilation", "groups"))
    )
    if expected is None and diagnose:
        options.refuse(["diagnose"], "goes with --expected")
    judged = judged | {"requantize": requantize}
    shape = (batch.shape[0], *geometry.output_size, len(filters))
    source = None if expected is None else _open(expected)
    dtype = arithmetic_of(geometry.terms, (batch.dtype, filters.dtype))
    itemsize = dtype.result.itemsize if dtype else 8
    result_bytes = itemsize * math.prod(shape) + BLOCK_BYTES if source is None else source.nbytes
    needed = batch.nbytes + result_bytes + working_bytes(math.prod(shape), batch.dtype, filters.dtype)
    check_memory("input", needed, _FEWER)
    raw = None
    diagnosable = False
    if source is not None:
        diagnosable = diagnose and not quiet and may_be_explained(source.shape, geometry, len(filters))
        fits = any(reading.shape == shape for reading in results(source.outline, shape, layout).values())
        raw = _read(source, fits or diagnosable)
    x = batch.read()
    readings: dict[str, Any] = {layout: None} if raw is None else results(raw, shape, layout)
    watch = watching(quiet, "part")
    read_as, found = first_equal(
        readings, lambda y: verify(x, expected=y, **arguments, **judged, watch=watch)
    )
    result = readings.pop(read_as)
    quantized = None
    if requantize is not None:
        quantized = Requantize(*requantize).resolved(None if result is None else result.dtype)
    more, grids = [], []
    if explain and found.worst is not None and not quiet:
        terms = explained(x, at=found.worst, **arguments)
        more += explained_facts(geometry, terms)
        grids.append(terms_grid(terms))
    if diagnosable and raw is not None and result is not None and not found:
        from convmat.verification.diagnosis import diagnose as diagnosed

        check_memory("expected", diagnosis_bytes(geometry, len(filters), raw), "add --no-diagnose")
        watch = watching(quiet, "mistake")
        mistakes = diagnosed(x, expected=result, judged=judged, **arguments, watch=watch)
        places = places_in(raw, lambda array: results(array, shape, layout)[read_as])
        more += diagnosis_facts(mistakes.with_places(places))
    facts = [*batch.facts(), *geometry_facts(geometry, arguments["padding_mode"])]
    told = _told(
        found,
        facts,
        more,
        always=explain,
        given=None if raw is None else raw.shape,
        layout=layout,
        read_as=[] if raw is None else [read_as, *([] if read_as == layout else readings)],
        requantized=quantized,
    )
    return told._replace(grids=[*told.grids, *grids])


def _unrolled(
    inputs: tuple[str, ...],
    judged: dict[str, Any],
    quiet: bool,
    *,
    kernel_size: Any,
    kernel: str | None,
    kernel_layout: str,
    expected: str | None,
    stride: Any,
    padding: Any,
    padding_mode: str,
    dilation: Any,
    dims: int | None,
    layout: str,
    order: str,
    frame: int | None,
    alpha: str,
) -> _Found:
    from convmat.cli.inputs import open_batch
    from convmat.cli.layers import open_kernels
    from convmat.cli.output import watching
    from convmat.files.memory import check_memory
    from convmat.geometry import ConvGeometry
    from convmat.report.facts import geometry_facts
    from convmat.verification.judge import working_bytes
    from convmat.verification.stages import verify_unroll

    if (kernel is None) == (kernel_size is None):
        raise click.UsageError("Give either --kernel or --k, to say how large the patches are")
    _check_one_pipe(*inputs, kernel, expected)
    axes = options.axes_of(dims, kernel_size, stride, dilation)
    if kernel is None:
        options.refuse(["kernel_layout"], "goes with --kernel")
    else:
        kernel_size = open_kernels(kernel, axes, kernel_layout).outline.shape[1:-1]
    batch = open_batch(inputs, axes, layout, frame, alpha)
    pads = options.pads_of(padding, axes)
    geometry = ConvGeometry(batch.shape, kernel_size, stride, pads, dilation)
    rows, columns = geometry.matrix_shape
    source = None if expected is None else _open(expected)
    x_col_bytes = rows * columns * batch.dtype.itemsize if source is None else source.nbytes
    needed = batch.nbytes + x_col_bytes + working_bytes(rows * columns, batch.dtype)
    check_memory("input", needed, _FEWER)
    shapes = ((rows, columns), (geometry.batch, geometry.patches, columns))
    result = None if source is None else _read(source, source.shape in shapes)
    where = {"dilation": dilation, "padding_mode": padding_mode, "order": order}
    watch = watching(quiet, "tap")
    found = verify_unroll(batch.read(), kernel_size, result, stride, pads, **where, watch=watch, **judged)
    facts = [*batch.facts(), *geometry_facts(geometry, padding_mode)]
    return _told(found, facts, stage="unroll")


def _flattened(
    inputs: tuple[str, ...],
    judged: dict[str, Any],
    quiet: bool,
    *,
    kernel: str | None,
    expected: str | None,
    order: str,
    kernel_layout: str,
    dims: int | None,
) -> _Found:
    from convmat.cli.layers import open_kernels
    from convmat.cli.output import watching
    from convmat.files.memory import check_memory
    from convmat.report.facts import input_fact
    from convmat.shown import Fact, shape_fact
    from convmat.verification.judge import working_bytes
    from convmat.verification.stages import verify_flatten_filters

    if kernel is None:
        raise click.UsageError("Missing option '--kernel'; --stage flatten-filters judges the W_col of one")
    if inputs:
        raise click.UsageError("--stage flatten-filters takes no INPUT: W_col is of the kernels alone")
    _check_one_pipe(kernel, expected)
    kernels = open_kernels(kernel, dims or 2, kernel_layout)
    shape, nbytes = kernels.outline.shape, kernels.outline.nbytes
    source = None if expected is None else _open(expected)
    w_col_bytes = 0 if source is None else source.nbytes
    needed = 3 * nbytes + w_col_bytes + working_bytes(kernels.outline.size, kernels.outline.dtype)
    check_memory("filters", needed, "verify a few of them at a time")
    w_col_shape = (math.prod(shape[1:]), shape[0])
    result = None if source is None else _read(source, source.shape == w_col_shape)
    filters = kernels.read()
    found = verify_flatten_filters(filters, result, order=order, watch=watching(quiet, "row"), **judged)
    facts = [
        input_fact([kernel])._replace(key="kernels", label="kernels"),
        shape_fact("filters_shape", "filters", filters.shape, "K × kernel × C/groups"),
        Fact("order", "order", order, order),
    ]
    return _told(found, facts, stage="flatten-filters")


def _folded(
    inputs: tuple[str, ...],
    judged: dict[str, Any],
    quiet: bool,
    *,
    kernel_size: Any,
    input_shape: tuple[int, ...] | None,
    expected: str | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    dims: int | None,
    layout: str,
    order: str,
    overlap: str,
) -> _Found:
    from convmat.cli.inputs import folded_geometry
    from convmat.cli.layers import as_images
    from convmat.cli.output import watching
    from convmat.files.memory import check_memory
    from convmat.report.facts import geometry_facts, input_fact
    from convmat.verification.stages import fold_bytes, verify_fold

    if len(inputs) != 1 or kernel_size is None or input_shape is None:
        raise click.UsageError("--stage fold takes one INPUT, which is X_col, and --k and --input-shape")
    _check_one_pipe(*inputs, expected)
    axes = options.axes_of(dims, kernel_size, stride, dilation)
    pads = options.pads_of(padding, axes)
    x_col = _open(inputs[0])
    geometry = folded_geometry(x_col.shape, input_shape, axes, layout, kernel_size, stride, pads, dilation)
    source = None if expected is None else _open(expected)
    result_bytes = 8 * math.prod(geometry.input_shape) if source is None else source.nbytes
    check_memory("input", x_col.nbytes + result_bytes + fold_bytes(geometry), _FEWER)
    result = raw = None
    if source is not None:
        fits = as_images(source.outline, axes, layout).shape == geometry.input_shape
        raw = _read(source, fits)
        result = as_images(raw, axes, layout)
    found = verify_fold(
        x_col.read(),
        geometry.input_shape,
        kernel_size,
        result,
        stride,
        pads,
        dilation,
        overlap,
        order,
        watch=watching(quiet, "patch"),
        **judged,
    )
    facts = [input_fact(inputs), *geometry_facts(geometry)]
    return _told(found, facts, stage="fold", given=None if raw is None else raw.shape, layout=layout)


def _as_matrix(
    inputs: tuple[str, ...],
    judged: dict[str, Any],
    quiet: bool,
    *,
    input_shape: tuple[int, ...] | None,
    expected: str | None,
    layout: str,
    **layer: Any,
) -> _Found:
    from convmat.cli.layers import open_linear_layer
    from convmat.cli.output import watching
    from convmat.engine import filter_geometry
    from convmat.files.archives import read_sparse
    from convmat.files.memory import check_memory
    from convmat.layouts import output_layout
    from convmat.report.facts import geometry_facts
    from convmat.verification.stages import check_dense, matrix_bytes, verify_matrix

    if len(inputs) > 1:
        raise click.UsageError("--stage matrix takes one INPUT: the matrix is that of one image")
    source = inputs[0] if inputs else None
    _check_one_pipe(source, layer["kernel"], expected)
    batch, arguments = open_linear_layer(source, input_shape, layout=layout, **layer)
    shape = batch.shape
    geometry = filter_geometry(
        (1, *shape[1:]),
        arguments["filters"].shape,
        *(arguments[key] for key in ("stride", "padding", "dilation", "groups")),
    )
    filters = arguments["filters"]
    matrix = geometry.patches * len(filters), math.prod(shape[1:])
    check_dense(matrix)
    check_memory(
        "matrix",
        matrix_bytes(matrix, filters.dtype, arguments["padding_mode"]),
        "give a smaller input of the same layer",
    )
    result = None
    if expected is not None and expected.endswith(".npz"):
        result = read_sparse(expected, check_dense)
    elif expected is not None:
        dense = _open(expected)
        result = _read(dense, dense.shape == matrix)
    watch = watching(quiet, "column")
    layout = output_layout(layout)
    found = verify_matrix(
        input_shape=shape, expected=result, layout=layout, **arguments, watch=watch, **judged
    )
    facts = [*batch.facts(), *geometry_facts(geometry, arguments["padding_mode"])]
    return _told(found, facts, stage="matrix")


_JUDGES: dict[str, Callable[..., _Found]] = {
    "unroll": _unrolled,
    "flatten-filters": _flattened,
    "convolve": _convolution,
    "fold": _folded,
    "matrix": _as_matrix,
}


def _told(
    found: Report, facts: list[Fact], more: list[Fact] | None = None, *, always: bool = False, **told: Any
) -> _Found:
    """The verdict last; errors by size where something is different, or `always`."""
    from convmat.report.verdicts import histogram_grid, verification_facts

    *verdicts, verdict = verification_facts(found, **told)
    shown = (always or not found) and found.histogram and found.elements
    return _Found(
        found, [*facts, *verdicts, *(more or []), verdict], [histogram_grid(found)] if shown else []
    )


def _open(name: str) -> NpyInput:
    from convmat.files.npy import NpyInput

    return NpyInput(name)


def _read(source: NpyInput, matters: bool) -> NDArray[Any]:
    """An array; where its shape alone decides, one of that shape, of which nothing is held."""
    if matters:
        return source.read()
    source.skip()
    return source.outline


def _check_one_pipe(*names: str | None) -> None:
    from convmat.errors import ShapeError

    if names.count("-") > 1:
        raise ShapeError("standard input", "is named twice; it can be read once")
