"""`convmat compare`."""

from __future__ import annotations

import math
from typing import Any

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import File


@click.command("compare", cls=Command)
@click.argument("first", metavar="A", type=File())
@click.argument("second", metavar="B", type=File())
@options.tolerance_options
@options.bytes_options
@options.report_options
def command(first: str, second: str, **tolerance: Any) -> None:
    """Compare two arrays with each other, element by element, without a layer.

    \b
    Example:
      convmat compare sample_images/strokes_2x7x7x1.npy sample_images/strokes_2x7x7x1.npy

    A and B are .npy files or file.npz:name; one may be - for standard input. No error bound is known of them,
    so they must be equal in every value, or within --atol + --rtol·|B|.

    Exit status: 0 equal, 1 different, 2 trouble.
    """
    from convmat.cli.inputs import check_one_pipe
    from convmat.cli.judged import judged, read_if
    from convmat.files.memory import check_memory
    from convmat.files.npy import NpyInput
    from convmat.report.facts import input_fact
    from convmat.verification.comparison import compare, working_bytes

    check_one_pipe(first, second)
    a, b = NpyInput(first), NpyInput(second)
    same = a.shape == b.shape
    if same:
        working = working_bytes(math.prod(a.shape), a.dtype, b.dtype)
        check_memory("arrays", a.nbytes + b.nbytes + working, "compare a part at a time")
    verdict = compare(read_if(a, same), read_if(b, same), **tolerance)
    judged(verdict, [input_fact([first, second])], stage=None).tell()
