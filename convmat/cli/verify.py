"""`convmat verify`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options
from convmat.cli.command import Command, given_options
from convmat.cli.types import ArithmeticType, File
from convmat.files.schema import SEED, Whole

_STAGES = ("unroll", "flatten-filters", "convolve", "fold", "matrix", "dx", "dw", "db")


@click.command(
    "verify",
    cls=Command,
    needs={"theme": "figure", "scale": "figure"},
    bars={
        "exact": "requantize quantize",
        "quantize": "requantize activation",
        "requantize": "activation",
        "arithmetic": "exact atol rtol requantize quantize",
    },
)
@options.inputs_argument(required=False)
@options.layer_of(
    options.kernel_options, options.bias_option, options.k_option(required=False), options.order_option
)
@click.option(
    "--expected",
    metavar="FILE",
    type=File(),
    help="Your own result as .npy, to judge in place of convmat's; - is standard input.",
)
@options.choice(
    "--stage", _STAGES, "Whose result is judged, against the definition of that stage.", "convolve"
)
@click.option(
    "--grad",
    metavar="FILE",
    type=File(),
    help="dY, the gradient by the layer's result, as .npy; with --stage dx, dw or db; - is standard input.",
)
@options.input_shape_option(
    "With --stage fold, what was unrolled; with --stage matrix or dx, an input that need not exist: 28,28,1."
)
@options.overlap_option
@options.tolerance_options
@click.option(
    "--arithmetic",
    type=ArithmeticType(),
    help="Judge by the bound of another arithmetic than the dtypes': tf32, float16 or bfloat16 operands, "
    "summed in float32, or with -accumulate in their own format, with -rounded the result in it, too; "
    "tf32-truncated, bfloat16-truncated; float16-result, bfloat16-result; flush; winograd:2, :4, :6; fft.",
)
@click.option(
    "--activation",
    metavar="relu|relu6|clamp:LO,HI|none",
    default="none",
    show_default=True,
    help="What is fused with your kernel: it is applied to the definition.",
)
@options.quantization_options
@click.option("--explain", is_flag=True, help="Show the sum of the worst element term by term.")
@options.diagnose_option
@options.figure_option("how far off each position of Y is")
@options.look_of()
@options.number("--seed", kind=SEED, default=2017, help="Seed of the self-check.")
@options.number(
    "--cases",
    kind=Whole(0, 1_000_000),
    default=0,
    help="Random geometries to add to the self-check, to soak it.",
)
@options.scheduler_option
@options.report_options
def command(inputs: tuple[str, ...], stage: str, **asks: Any) -> None:
    """Prove that the FC form equals the definition of convolution, or that your result does.

    \b
    Example:
      convmat verify sample_images/digit.png --kernel sample_images/strokes_2x7x7x1.npy --stride 7
      convmat verify sample_images/digit.png --kernel sobel-x --quantize sample_images/quantized.toml
      convmat verify

    Alone it checks itself, over geometries, dtypes and layouts. With INPUT and --kernel it compares the
    engine with the definition on them; with --expected it compares your Y instead, (N, H_out, W_out, K),
    (N, K, H_out, W_out) with --layout nchw, or the rows of X_col · W_col. Integers must be equal; floats must
    be within each element's error bound, unless --exact, --atol or --rtol say otherwise.

    With --stage the result is that of another command on the same layer: X_col of unroll (--kernel or --k),
    W_col of flatten-filters (no INPUT), images of fold (INPUT is X_col; --k and --input-shape), or the matrix
    of matrix, as .npz or dense as .npy. Or it is a gradient of the layer, from --grad dY: dx of the input
    (INPUT or --input-shape, and --kernel), dw of the filters (INPUT, and --kernel or --k), db of the bias.

    Exit status: 0 equal, 1 different, 2 trouble.
    """
    from convmat.cli.judged import VerifyOptions
    from convmat.cli.stages import stage_of

    judge = stage_of(stage, inputs, given_options())
    judge(inputs, VerifyOptions(**asks)).tell()
