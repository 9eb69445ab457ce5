"""`convmat convolve`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from convmat.cli import options
from convmat.cli.command import Command, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convmat.cli.work import Work
    from convmat.figures.look import Look
    from convmat.quantization import Quantization
    from convmat.shown import Fact

_BAND_BYTES = 1 << 22  # of Y, computed and written at a time


@click.command(
    "convolve",
    cls=Command,
    needs={
        "theme": "figure animate",
        "scale": "figure animate",
        "at": "figure animate",
        "fps": "animate",
        "output_padding": "transpose",
        "input_shape": "transpose",
    },
    bars={
        "plan": "transpose",
        "figure": "quantize requantize",
        "animate": "transpose quantize requantize",
        "quantize": "transpose requantize",
        "requantize": "transpose",
        "scheduler": "transpose plan figure animate",
    },
)
@options.inputs_argument()
@options.layer
@options.threads_option
@click.option(
    "--plan", is_flag=True, help="Print the plan that ran: kernel, boxes, scratch, threads, FLOPs, bytes."
)
@click.option("--transpose", is_flag=True, help="The transposed convolution, which takes Y back to X's size.")
@options.output_padding_option
@options.input_shape_option(
    "With --transpose, the shape of X where several give this Y: 28,28 or 28,28,1 or N,28,28,1; "
    "1,28,28 with --layout nchw."
)
@options.quantization_options
@options.figure_option("the layer as the product X_col · W_col = Y, and Y as feature maps")
@options.animate_option("the layer patch by patch")
@options.look_of(options.at_option, options.fps_option)
@options.scheduler_option
@options.resume_option
@options.output_option("npy", "zarr", "picture")
@options.report_options
def command(
    transpose: bool,
    output_padding: Any,
    input_shape: tuple[int, ...] | None,
    plan: bool,
    quantize: str | None,
    requantize: tuple[Any, ...] | None,
    figure: str | None,
    animate: str | None,
    look: Look,
    scheduler: str | None,
    go_on: bool,
    output: str | None,
    **asked: Any,
) -> None:
    """Convolve image(s) with kernels as X_col · W_col, in blocks: X_col is never held whole.

    \b
    Example:
      convmat convolve sample_images/scene.png --kernel sobel-x --depthwise -o edges.png
      convmat convolve sample_images/digit.png --kernel sample_images/strokes_2x7x7x1.npy --stride 7
      convmat convolve sample_images/digit.png --kernel box:2 --stride 2 --transpose -o larger.png
      convmat convolve sample_images/scene.png --kernel sobel-x --depthwise --figure layer.png
      convmat convolve sample_images/digit.png --kernel sobel-x --quantize sample_images/quantized.toml

    FILE ending in .png, .jpg, .bmp, .gif, .tif, .webp, .pgm or .ppm is a picture, of one filter (gray) or
    three (RGB): values within 0..255 from an 8-bit input are rounded and kept; all others are stretched,
    the smallest to 0, the largest to 255. Any other FILE is Y as .npy, (N, H_out, W_out, K), or with
    --layout nchw (N, K, H_out, W_out).

    With --quantize Y is what a layer of integers makes of them: FILE has, as TOML, input_zero_point,
    weight_zero_point, scale (or multiplier and shift), output_zero_point, activation = [min, max], rounding,
    accumulator and dtype; numbers, lists of one a filter, or names of .npy files beside it. The rounding is
    tflite, tflite-single, tflite-16x8, cmsis-nn, float32, floor, half-up, half-even or half-away.

    With --transpose the options are those of the convolution that is transposed: INPUT is its Y, with K
    channels, and what comes out has the size and the C channels of its X, fold(Y · W_colᵀ). The bias has C
    numbers then. Kernels are those of PyTorch's ConvTranspose with --kernel-layout oihw.
    """
    from convmat.cli.inputs import is_chunked
    from convmat.cli.quantized import quantization_of
    from convmat.cli.work import write

    quantization = quantization_of(quantize, requantize)
    if is_chunked(asked["inputs"], scheduler, output, go_on):
        refuse(("transpose", "plan", "figure", "animate"), "needs arrays whole; leave out .zarr and folders")
        work = _chunked(**asked, scheduler=scheduler, go_on=go_on, quantization=quantization)
    elif transpose:
        work = _transposed(
            **asked, output_padding=output_padding, input_shape=input_shape, figure=figure, look=look
        )
    else:
        asked |= {"figure": figure, "animate": animate, "look": look}
        work = _convolved(**asked, shows_plan=plan, quantization=quantization)
    write(work, output)


def _convolved(
    inputs: tuple[str, ...],
    layer: options.LayerOptions,
    threads: int | None,
    shows_plan: bool,
    figure: str | None,
    animate: str | None,
    look: Look,
    quantization: Quantization | None,
) -> Work:
    from convmat.cli.layer import open_layer
    from convmat.cli.output import STREAM_BYTES
    from convmat.cli.work import Work
    from convmat.engine import prepare, stream
    from convmat.files.memory import check_memory
    from convmat.plan import Plan
    from convmat.report.facts import absent, rows_grid
    from convmat.report.results import layer_facts, plan_facts

    batch, arguments = open_layer(inputs, layer)
    asked = arguments | {"quantization": quantization, "threads": threads}
    # Of the whole batch, before its values are known; what runs are the plans of its parts.
    whole = prepare(batch.empty(), **asked)
    plan = whole.plan.for_batch(batch.shape[0])
    held = batch.chunk_bytes
    if quantization is not None:
        held += quantization.pixel_bytes(held, batch.dtype)
    check_memory("input", held + STREAM_BYTES, "give smaller images")
    ran: dict[str, Plan] = {}  # the first of each accumulator, which integers choose by their values

    def computed(chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for x in chunks:
            todo = prepare(x, **asked, band_bytes=_BAND_BYTES)
            ran.setdefault(str(todo.plan.arithmetic.accumulator), todo.plan.for_batch(batch.shape[0]))
            yield from stream(todo)

    def later_facts() -> list[Fact]:
        return plan_facts((list(ran.values()) or [plan]) if shows_plan else [])

    work = Work(
        plan.output_shape,
        whole.result,
        [],
        [
            *batch.facts(),
            *layer_facts(plan, layer.flip, layer.layout, whole.quantized),
            *absent("picture", "figure", "animation"),
        ],
        grid=lambda y: rows_grid(plan.geometry, "Y", y),
        layout=layer.layout,
        from_8_bit=batch.dtype == "uint8",
        later_facts=later_facts,
    )
    work.blocks = computed(batch.chunks())
    if figure is not None or animate is not None:
        from convmat.cli.drawing import draw_layer

        files = {"figure": figure, "animation": animate}
        work.blocks, work.draw = draw_layer(batch, plan, arguments, computed, look, **files)
    return work


def _chunked(
    inputs: tuple[str, ...],
    layer: options.LayerOptions,
    threads: int | None,
    scheduler: str | None,
    go_on: bool,
    quantization: Quantization | None,
) -> Work:
    from convmat import dask as chunkwise
    from convmat.cli.cluster import chunkwise_fields, open_chunked, threads_of_task
    from convmat.cli.layer import open_layer
    from convmat.cli.work import Work
    from convmat.engine import prepare
    from convmat.report.facts import absent, rows_grid
    from convmat.report.results import layer_facts, plan_facts

    batch = open_chunked(inputs, layer)
    arguments = open_layer(inputs, layer, batch=batch)[1] | {"quantization": quantization}
    y = chunkwise.convolve(batch.array, **arguments, threads=threads_of_task(scheduler, threads))
    whole = prepare(batch.empty(), **arguments, threads=threads)
    plan = whole.plan.for_batch(batch.shape[0])
    facts = [*batch.facts(), *layer_facts(plan, layer.flip, layer.layout, whole.quantized), *plan_facts([])]
    return Work(
        y.shape,
        y.dtype,
        facts=[*facts, *absent("picture", "figure", "animation")],
        grid=lambda rows: rows_grid(plan.geometry, "Y", rows),
        layout=layer.layout,
        from_8_bit=batch.dtype == "uint8",
        **chunkwise_fields(y, scheduler, threads, go_on),
    )


def _transposed(
    inputs: tuple[str, ...],
    layer: options.LayerOptions,
    threads: int | None,
    output_padding: Any,
    input_shape: tuple[int, ...] | None,
    figure: str | None,
    look: Look,
) -> Work:
    from convmat.adjoint import convolve_transpose
    from convmat.cli.figures import Kept, check_figure
    from convmat.cli.layer import open_transposed_layer
    from convmat.cli.output import STREAM_BYTES
    from convmat.cli.work import Work
    from convmat.files.memory import check_memory
    from convmat.report.facts import absent
    from convmat.report.results import plan_facts, transposed_facts

    batch, geometry, arguments = open_transposed_layer(inputs, layer, output_padding, input_shape)

    def transposed(y: NDArray[Any]) -> NDArray[Any]:
        known = (len(y), *geometry.input_shape[1:]) if input_shape is not None else None
        return convolve_transpose(y, **arguments, input_shape=known, threads=threads)

    dtype = transposed(batch.empty()).dtype
    per_image = math.prod(geometry.input_shape[1:]) * dtype.itemsize
    images = max(batch.chunk_bytes * batch.shape[0] // max(batch.nbytes, 1), 1)
    check_memory("input", batch.chunk_bytes + images * per_image + STREAM_BYTES, "give smaller images")
    facts = [*batch.facts(), *transposed_facts(geometry, batch.shape, layer.flip, layer.layout, dtype)]
    drawn = int(figure is not None)
    if figure is not None:
        check_figure(geometry, figure, look, dtype)
    chunks = Kept(batch.chunks(), drawn)
    parts = (transposed(y).reshape(-1, geometry.channels) for y in chunks)
    blocks = Kept(parts, drawn * math.prod(geometry.input_size))

    def draw() -> list[Fact]:
        if figure is None:
            return []
        from convmat.figures.writing import transposed_rows, write_folding

        x_col = transposed_rows(chunks.all(), arguments["filters"], arguments["groups"], dtype)
        words = {"name": "X_col = Y · W_col transposed", "bias": arguments["bias"]}
        return write_folding(
            geometry, "hwc", x_col, blocks.all(), batch.dtype == "uint8", look, figure, **words
        )

    return Work(
        geometry.input_shape,
        dtype,
        blocks,
        [*facts, *plan_facts([]), *absent("picture", "figure", "animation", "rows", "quantization")],
        draw=draw,
        layout=layer.layout,
        from_8_bit=batch.dtype == "uint8",
    )
