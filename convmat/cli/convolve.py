"""`convmat convolve`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from convmat.cli import options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convmat.geometry import ConvGeometry
    from convmat.shown import Fact


_BAND_BYTES = 1 << 22  # of Y, computed and written at a time


@click.command("convolve", cls=options.Command)
@options.inputs_argument()
@options.layer_options
@options.threads_option
@click.option(
    "--plan", is_flag=True, help="Print the plan that ran: kernel, boxes, scratch, threads, FLOPs, bytes."
)
@click.option("--transpose", is_flag=True, help="The transposed convolution, which takes Y back to X's size.")
@options.output_padding_option
@click.option(
    "--input-shape",
    type=options.InputShape(),
    help="With --transpose, the shape of X where several give this Y: 28,28 or 28,28,1 or N,28,28,1; "
    "1,28,28 with --layout nchw.",
)
@options.figure_option("the layer as the product X_col · W_col = Y, and Y as feature maps")
@options.theme_option
@options.picture_output_option
@options.report_options
def command(
    inputs: tuple[str, ...],
    layout: str,
    threads: int | None,
    plan: bool,
    transpose: bool,
    output_padding: Any,
    input_shape: tuple[int, ...] | None,
    figure: str | None,
    theme: str,
    output: str | None,
    as_json: bool,
    quiet: bool,
    **layer: Any,
) -> None:
    """Convolve image(s) with kernels as X_col · W_col, in blocks: X_col is never held whole.

    \b
    Example:
      convmat convolve sample_images/scene.png --kernel sobel-x --depthwise -o edges.png
      convmat convolve sample_images/digit.png --kernel sample_images/strokes_2x7x7x1.npy --stride 7
      convmat convolve sample_images/digit.png --kernel box:2 --stride 2 --transpose -o larger.png
      convmat convolve sample_images/scene.png --kernel sobel-x --depthwise --figure layer.png

    FILE ending in .png, .jpg, .bmp, .gif, .tif, .webp, .pgm or .ppm is a picture, of one filter (gray) or
    three (RGB): values within 0..255 from an 8-bit input are rounded and kept; all others are stretched,
    the smallest to 0, the largest to 255. Any other FILE is Y as .npy, (N, H_out, W_out, K), or with
    --layout nchw (N, K, H_out, W_out).

    With --transpose the options are those of the convolution that is transposed: INPUT is its Y, with K
    channels, and what comes out has the size and the C channels of its X, fold(Y · W_colᵀ). The bias has C
    numbers then. Kernels are those of PyTorch's ConvTranspose with --kernel-layout oihw.
    """
    from convmat.cli.output import progress, report, write_images
    from convmat.report.facts import Seen, absent, rows_grid

    if transpose:
        work = _transposed(inputs, output_padding, input_shape, threads, layout=layout, **layer)
    else:
        work = _convolved(inputs, threads, plan, figure, layout=layout, **layer)
    rows = math.prod(work.shape[:-1])
    seen = Seen(work.rows, (rows, work.shape[-1]))
    notes = write_images(
        output, progress(seen, rows, quiet), work.shape, work.dtype, layout=layout, keep=work.from_8_bit
    )
    facts = [*work.facts, *work.plan_facts(), seen.fact(), *notes, *absent("picture", "figure")]
    if figure is not None and work.draw is not None:
        facts += work.draw(figure, theme)
    facts += [seen.rows_fact(output)] if work.patches else absent("rows")
    small = seen.whole
    grids = [rows_grid(work.patches, "Y", small)] if work.patches and small is not None else []
    report(facts, grids, output=output, as_json=as_json, quiet=quiet)


class _Work(NamedTuple):
    """What is to be computed: nothing is, nor any data read, before its rows are asked for."""

    shape: tuple[int, ...]
    """(N, *out, K)."""
    dtype: np.dtype[Any]
    rows: Iterable[NDArray[Any]]
    facts: list[Fact]
    patches: ConvGeometry | None
    """Whose patches the rows are of."""
    from_8_bit: bool
    plan_facts: Callable[[], list[Fact]]
    """By what plan they were computed, if that was asked for, once they have been had."""
    draw: Callable[[str, str], list[Fact]] | None = None
    """Draw the layer to a file in a theme, once the rows have been had."""


def _convolved(
    inputs: tuple[str, ...],
    threads: int | None,
    shows_plan: bool,
    figure: str | None,
    *,
    layout: str,
    **layer: Any,
) -> _Work:
    from convmat.cli.layers import open_layer
    from convmat.cli.output import STREAM_BYTES
    from convmat.engine import Plan, prepare, stream
    from convmat.files.memory import check_memory
    from convmat.report.results import layer_facts, plan_facts

    batch, arguments = open_layer(inputs, layout=layout, **layer)
    # Of the whole batch, before its values are known; what runs are the plans of its parts.
    plan = prepare(batch.empty(), **arguments, threads=threads).plan.for_batch(batch.shape[0])
    check_memory("input", batch.chunk_bytes + STREAM_BYTES, "give smaller images")
    ran: dict[str, Plan] = {}  # the first of each accumulator, which integers choose by their values
    chunks: Iterable[Any] = batch.chunks()
    if figure is not None:
        from convmat.cli.figures import Kept, as_pixels, check_drawable, check_finite, kept_bytes, write_layer

        check_drawable(plan.geometry, figure)
        check_finite(arguments["filters"], arguments["bias"])
        needed = 2 * math.prod(plan.output_shape[1:]) * plan.arithmetic.result.itemsize
        needed += kept_bytes(batch, 1)
        check_memory("figure", needed, "draw a smaller image, or fewer filters")
        chunks = kept = Kept(chunks, 1)
        image = kept.all()
        shades = as_pixels(image, "figure")

    def computed() -> Iterator[NDArray[Any]]:
        for x in chunks:
            todo = prepare(x, **arguments, threads=threads, band_bytes=_BAND_BYTES)
            ran.setdefault(str(todo.plan.arithmetic.accumulator), todo.plan.for_batch(batch.shape[0]))
            yield from stream(todo)

    def ran_facts() -> list[Fact]:
        return plan_facts((list(ran.values()) or [plan]) if shows_plan else [])

    rows: Iterable[Any] = computed()
    draw = None
    if figure is not None:
        rows = y = Kept(rows, plan.geometry.patches)

        def draw(name: str, theme: str) -> list[Fact]:
            return write_layer(plan.geometry, image, shades, y.all(), arguments, figure=name, theme=theme)

    facts = batch.facts() + layer_facts(plan, arguments["flip"], layout)
    from_8_bit, dtype = batch.dtype == "uint8", plan.arithmetic.result
    return _Work(plan.output_shape, dtype, rows, facts, plan.geometry, from_8_bit, ran_facts, draw)


def _transposed(
    inputs: tuple[str, ...],
    output_padding: Any,
    input_shape: tuple[int, ...] | None,
    threads: int | None,
    *,
    layout: str,
    flip: bool,
    **layer: Any,
) -> _Work:
    from convmat.cli.layers import open_transposed_layer
    from convmat.cli.output import STREAM_BYTES
    from convmat.engine import convolve_transpose
    from convmat.files.memory import check_memory
    from convmat.report.results import plan_facts, transposed_facts

    batch, geometry, arguments = open_transposed_layer(
        inputs, output_padding, input_shape, layout=layout, flip=flip, **layer
    )

    def transposed(y: NDArray[Any]) -> NDArray[Any]:
        known = (len(y), *geometry.input_shape[1:]) if input_shape is not None else None
        return convolve_transpose(y, **arguments, input_shape=known, threads=threads)

    dtype = transposed(batch.empty()).dtype
    per_image = math.prod(geometry.input_shape[1:]) * dtype.itemsize
    images = max(batch.chunk_bytes * batch.shape[0] // max(batch.nbytes, 1), 1)
    needed = batch.chunk_bytes + images * per_image + STREAM_BYTES
    check_memory("input", needed, "give smaller images")
    rows = (transposed(y).reshape(-1, geometry.channels) for y in batch.chunks())
    facts = batch.facts() + transposed_facts(geometry, batch.shape, flip, layout, dtype)
    return _Work(
        geometry.input_shape, dtype, rows, facts, None, batch.dtype == "uint8", lambda: plan_facts([])
    )
