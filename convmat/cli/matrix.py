"""`convmat matrix`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from convmat.cli import options
from convmat.cli.command import Command
from convmat.cli.types import File, OutputName
from convmat.files.schema import Whole

if TYPE_CHECKING:
    from convmat.figures.look import Look
    from convmat.matrix import LayerMap
    from convmat.spectrum import Spectrum

_WRITTEN = 1 << 24  # bytes of an archive that are written at a time


@click.command(
    "matrix",
    cls=Command,
    needs={"dense": "output", "theme": "figure", "scale": "figure"},
    bars={"iterations": "no_spectrum", "values": "no_spectrum"},
)
@click.argument("source", metavar="[INPUT]", required=False, type=File())
@options.absent_input_option
@options.linear_layer
@click.option("--no-spectrum", is_flag=True, help="Leave out singular values, rank and condition.")
@options.number(
    "--iterations",
    kind=Whole(1, 1_000_000),
    help="Iterations that the norm of a large matrix may take.  [default: 500, or fewer where they take "
    "minutes]",
)
@click.option(
    "--values",
    metavar="FILE",
    type=OutputName("npy"),
    help="Write all singular values, as .npy, largest first.",
)
@click.option("--dense", is_flag=True, help="Write the dense matrix, as .npy.")
@options.figure_option("where the matrix has entries, and their weights")
@options.look_of()
@options.output_option(
    "npz", "npy", help="Write here, as .npz; with --dense - is .npy bytes on standard output."
)
@options.report_options
def command(
    source: str | None,
    input_shape: tuple[int, ...] | None,
    layer: options.LayerOptions,
    no_spectrum: bool,
    iterations: int | None,
    values: str | None,
    dense: bool,
    figure: str | None,
    look: Look,
    output: str | None,
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
    M in memory, so they can be had of layers too large to write. Of a layer too large for all of its singular
    values the largest is told, between two bounds.
    """
    from convmat.cli.layer import open_linear_layer
    from convmat.cli.output import asked, report, wait, warn
    from convmat.files.names import check_ending
    from convmat.layouts import output_layout
    from convmat.matrix import layer_map
    from convmat.report.facts import geometry_facts
    from convmat.report.results import layer_matrix_facts

    if output is not None:
        check_ending(output, "npy" if dense else "npz")
    batch, arguments = open_linear_layer(() if source is None else (source,), layer, input_shape)
    fc = layer_map(input_shape=batch.shape, layout=output_layout(layer.layout), **arguments)
    wanted = values is not None or not (no_spectrum or asked("quiet"))
    if wanted:
        _check_spectrum(fc, values)
    if output is not None or figure is not None:
        _write(fc, dense, output, figure, look)
    spectrum = None
    if wanted:
        spectrum = wait(lambda watch: fc.spectrum(iterations=iterations, watch=watch), "singular values")
    if values is not None:
        _write_values(values, spectrum)
    if asked("quiet"):
        return
    facts = [*batch.facts(), *geometry_facts(fc.geometry, fc.padding_mode), *layer_matrix_facts(fc, spectrum)]
    report(facts, output="-" if values == "-" else output)
    if spectrum is not None and not spectrum.converged:
        warn(f"the norm had not converged after {spectrum.iterations} iterations; give more --iterations")


def _check_spectrum(fc: LayerMap, values: str | None) -> None:
    """Refuse singular values that there is no memory for, or all of them of too large a layer."""
    from convmat.errors import GeometryError
    from convmat.files.memory import check_memory

    check_memory("input_shape", fc.spectrum_bytes(), "add --no-spectrum")
    if values is not None and fc.method().name == "lanczos":
        raise GeometryError(
            "values", "M is too large for all singular values; leave it out, and the largest is told"
        )


def _write(fc: LayerMap, dense: bool, output: str | None, figure: str | None, look: Look) -> None:
    """Write the matrix, and the picture of where it has entries."""
    from convmat.files.memory import check_memory
    from convmat.files.npy import write_npy

    needed = fc.nbytes + (fc.dense_bytes if dense else _WRITTEN)
    remedy = "leave out --dense" if dense else "without -o and --figure the facts need no memory for it"
    if figure is not None:  # before the matrix is made: it may lack what it needs
        from convmat.figures.writing import write_matrix
    check_memory("output", needed, remedy)
    matrix = fc.matrix()
    if output is not None and dense:
        write_npy(output, matrix.shape, matrix.dtype, [matrix.toarray()])
    elif output is not None:
        matrix.save(output)
    if figure is not None:
        write_matrix(matrix, look, figure)


def _write_values(name: str, spectrum: Spectrum | None) -> None:
    """Write all singular values."""
    from convmat.errors import DTypeError
    from convmat.files.npy import write_npy

    if spectrum is None or spectrum.values is None:
        raise DTypeError("values", "weights that are not finite have no singular values; leave it out")
    write_npy(name, spectrum.values.shape, spectrum.values.dtype, [spectrum.values])
