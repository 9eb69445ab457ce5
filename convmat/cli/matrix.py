"""`convmat matrix`."""

from __future__ import annotations

from typing import Any

import click

from convmat.cli import options
from convmat.files.schema import Whole

_WRITTEN = 1 << 24  # bytes of an archive that are written at a time


@click.command("matrix", cls=options.Command)
@click.argument("source", metavar="[INPUT]", required=False, type=options.File())
@options.input_shape_option
@options.linear_layer_options
@click.option("--no-spectrum", is_flag=True, help="Leave out singular values, rank and condition.")
@click.option(
    "--iterations",
    type=options.NumberType(Whole(1, 1_000_000)),
    help="Iterations that the norm of a large matrix may take.  [default: 500, or fewer where they take "
    "minutes]",
)
@click.option("--dense", is_flag=True, help="Write the dense matrix, as .npy.")
@options.figure_option("where the matrix has entries")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=options.OutputName("npz", "npy"),
    help="Write here, as .npz; with --dense - is .npy bytes on standard output.",
)
@options.report_options
def command(
    source: str | None,
    input_shape: tuple[int, ...] | None,
    layout: str,
    no_spectrum: bool,
    iterations: int | None,
    dense: bool,
    figure: str | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
    **layer: Any,
) -> None:
    """The sparse matrix M of a whole layer, vec(Y) = M · vec(X), and what is known of it.

    \b
    Example:
      convmat matrix --input-shape 28,28 --kernel box:3 --padding same -o m.npz
      convmat matrix sample_images/digit.png --kernel sobel-x --figure pattern.png

    INPUT, of which only the shape matters, or --input-shape says how large the layer is. M is for one image;
    scipy.sparse.load_npz reads it. With --layout nchw both vectors run over channels first.

    The FC layer on patches is W_col repeated: M = (I_P ⊗ W_colᵀ) · U, where U is the 0/1 matrix that
    unrolls, vec(X_col) = U · vec(X). An entry is stored also where its weight is 0. The facts do not need
    M in memory, so they can be had of layers too large to write.
    """
    from convmat.cli.layers import open_linear_layer
    from convmat.cli.output import report, wait, warn
    from convmat.files.memory import check_memory
    from convmat.files.npy import write_npy
    from convmat.files.outputs import check_ending
    from convmat.layouts import output_layout
    from convmat.matrix import layer_map
    from convmat.report.facts import geometry_facts
    from convmat.report.results import layer_matrix_facts

    if output is not None:
        check_ending(output, "npy" if dense else "npz")
    batch, arguments = open_linear_layer(source, input_shape, layout=layout, **layer)
    found = layer_map(input_shape=batch.shape, layout=output_layout(layout), **arguments)
    if not (no_spectrum or quiet):
        check_memory("input_shape", found.spectrum_bytes, "add --no-spectrum")
    if figure is not None:
        from convmat.files.images import write_picture
        from convmat.report.figures.pattern import sparsity_picture

    if output is not None or figure is not None:
        needed = found.nbytes + (found.dense_bytes if dense else _WRITTEN)
        remedy = "leave out --dense" if dense else "without -o and --figure the facts need no memory for it"
        check_memory("output", needed, remedy)
        matrix = found.matrix()
        if output is not None and dense:
            write_npy(output, matrix.shape, matrix.dtype, [matrix.toarray()])
        elif output is not None:
            matrix.save(output)
        if figure is not None:
            write_picture(figure, sparsity_picture(matrix), keep=True)
    if quiet:
        return
    known = wait(
        lambda watch: found.analyse(not no_spectrum, iterations=iterations, watch=watch), "singular values"
    )
    facts = [*batch.facts(), *geometry_facts(found.geometry, found.padding_mode)]
    report([*facts, *layer_matrix_facts(found, known)], output=output, as_json=as_json)
    if known.spectrum is not None and not known.spectrum.converged:
        warn(
            f"the norm had not converged after {known.spectrum.iterations} iterations; give more --iterations"
        )
