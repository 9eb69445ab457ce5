"""`convmat train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convmat.checks import read_whole
from convmat.cli import options
from convmat.errors import FileError
from convmat.experiment.settings import RANGES

if TYPE_CHECKING:
    from convmat.cli.signals import Deferred
    from convmat.experiment.run import Experiment
    from convmat.shown import Fact

if TYPE_CHECKING:
    from convmat.experiment.run import Run

_SAVE_EVERY = 300  # seconds of work that a failure of the machine may cost
_SAVE_SHARE = 20  # times as long as saving takes, at least

T = TypeVar("T")


def _ranged(
    option: str, read: Callable[[str], float] = read_whole, default: int | None = None, help: str = ""
) -> Callable[[options.F], options.F]:
    """The option of a setting that is a number."""
    number = options.NumberType(RANGES[option.removeprefix("--").replace("-", "_")], read)
    return click.option(option, type=number, default=default, show_default=default is not None, help=help)


class _Enough(Exception):
    """A signal came; the work ends between two blocks."""


def _losses_text(run: Run) -> str:
    """What the bar tells of a run."""
    if not run.history:
        return f"{run.optimizer}: before the first step"
    last = run.history[-1]
    return f"{run.optimizer}: CNN {last.cnn_validation:.5f}, FC {last.fc_validation:.5f}"


@click.command("train", cls=options.Command)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adam", "both"], case_sensitive=False),
    default="sgd",
    show_default=True,
    help="What trains the networks; both, one after the other.",
)
@_ranged("--epochs", default=12, help="Times each image is seen.")
@click.option("--paper", is_flag=True, help="The paper's full settings: 400 epochs, with both optimizers.")
@_ranged("--filters", default=128, help="Filters of the first layer.")
@click.option(
    "--k", "-k", "kernel_size", type=options.Sizes(), default=4, show_default=True, help="Kernel size."
)
@click.option(
    "--stride", "-s", type=options.Sizes(), default=2, show_default=True, help="Pixels from patch to patch."
)
@options.padding_option
@_ranged("--train-size", default=1000, help="Images to train on.")
@_ranged("--val-size", default=1000, help="Images to validate on.")
@_ranged("--batch-size", default=128, help="Images of a step.")
@_ranged("--lr", float, help="Learning rate.  [default: 0.3 for sgd, 0.001 for adam]")
@_ranged("--seed", default=0, help="Of all that is random.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"], case_sensitive=False),
    default="float32",
    show_default=True,
    help="Of weights, images and arithmetic.",
)
@click.option(
    "--data",
    metavar="PATH",
    type=options.File(),
    help="Images to learn: a folder of MNIST's IDX files or of images, Keras' mnist.npz, or an .npy array "
    "(N, H, W) or (N, H, W, C).  [default: drawn digits]",
)
@click.option(
    "--probe-divergence", is_flag=True, help="Measure at each step how far the networks are apart, and tell."
)
@click.option(
    "--output",
    "-o",
    metavar="DIR",
    type=options.OutputName("folder"),
    help="Write history, summary, weights and figures here.",
)
@click.option(
    "--resume", metavar="DIR", type=options.File("dir"), help="Go on with the run in DIR, to --epochs in all."
)
@options.report_options
def command(
    paper: bool,
    data: str | None,
    output: str | None,
    resume: str | None,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Train a CNN and the FC network it equals side by side, as in Section 5 of the paper.

    \b
    Example:
      convmat train --epochs 3 --filters 16 -o run
      convmat train --resume run --epochs 5

    CNN: Conv → ReLU → Dense → ReLU. FC network: Dense on the rows of X_col → ReLU → Dense → ReLU. Both are
    without bias, begin with the same weights, see the same batches and learn to give back the image, by mean
    squared error. The CNN's convolution is computed tap by tap from the definition.

    DIR gets history.csv, summary.json, weights.npz (initial and final of both, and what --resume needs) and,
    with matplotlib, figures as PNG. Ctrl-C stops between two steps and keeps what was done.
    """
    from convmat.cli.experiments import begin, data_text, save
    from convmat.cli.experiments import resume as resume_run
    from convmat.cli.output import outputs_together, report, warn, watching
    from convmat.cli.signals import Deferred
    from convmat.experiment.settings import PAPER, Settings
    from convmat.files.folders import made_folder
    from convmat.report.training import summary_facts
    from convmat.shown import Fact

    chosen["padding"] = options.pads_of(chosen["padding"], 2)
    ctx = click.get_current_context()
    named = chosen.keys() & options.given_options(ctx).keys()
    if paper:
        if named >= PAPER.keys():
            raise click.UsageError("--paper says --optimizer and --epochs, which are given; leave it out")
        chosen |= {key: value for key, value in PAPER.items() if key not in named}
        named |= set(PAPER)
    folder = resume if output is None else output
    for name in (output, resume):
        if name == "-":
            raise FileError("standard output", "holds no folder of files; name one with -o")
        if name == "":
            raise FileError("''", "is no folder's name; name a folder")
    watch = watching(quiet, "chunk of images")
    if resume is not None:
        experiment = resume_run(resume, {key: chosen[key] for key in named}, data, output, watch)
    else:
        experiment = begin(Settings(**chosen), data, output, watch)
    with nullcontext() if folder is None else made_folder(folder), Deferred() as signals:
        seconds = _train(experiment, folder, signals, quiet)
        facts, runs = summary_facts(experiment, data_text(experiment))
        with outputs_together():
            if folder is not None and not save(experiment, folder, facts):
                again = f"convmat train --resume {folder}"
                warn(f"no figures without matplotlib: pip install 'convmat[figures]', then {again}", quiet)
            facts.append(Fact("seconds", "time", round(seconds, 3), f"{seconds:.1f} s"))
            report(facts, _grids(experiment, runs), output=folder, as_json=as_json, quiet=quiet)
    if signals.number is not None:
        kept = f"kept: convmat train --resume {folder} goes on" if folder else "not kept without -o"
        if experiment.steps_left:
            warn(f"stopped before the end; what was done is {kept}", quiet)
        ctx.exit(128 + signals.number)


def _train(experiment: Experiment, folder: str | None, signals: Deferred, quiet: bool) -> float:
    """Train until the end, or until a signal between two blocks of work; the seconds that it took."""
    from convmat.cli.experiments import data_text, save
    from convmat.cli.output import progress, watching
    from convmat.files.outputs import together
    from convmat.report.training import summary_facts
    from convmat.watching import unwatched

    def watched(blocks: Iterable[T], total: int) -> Iterator[T]:
        for block in watching(quiet, "block of images")(blocks, total):
            if signals.number is not None:
                raise _Enough
            yield block

    steps = progress(
        experiment.steps(),
        experiment.steps_left,
        quiet,
        unit="batch",
        size=lambda _: 1,
        note=_losses_text,
    )
    began = saved = time.monotonic()
    pause: float = _SAVE_EVERY
    experiment.watch = watched
    with suppress(_Enough):
        for _ in steps:
            if signals.number is not None:
                break
            if folder is not None and (now := time.monotonic()) - saved > pause:
                with together():  # at once, whatever becomes of the rest
                    save(experiment, folder, summary_facts(experiment, data_text(experiment))[0])
                saved = time.monotonic()
                pause = max(_SAVE_EVERY, _SAVE_SHARE * (saved - now))
    experiment.watch = unwatched
    return time.monotonic() - began


def _grids(experiment: Experiment, runs: dict[str, list[Fact]]) -> list[Any]:
    """The two networks, and of each run its losses, how far they are apart, and what came of it."""
    from convmat.report.training import divergence_grid, losses_grid, losses_plot, networks_grid

    grids: list[Any] = [networks_grid(experiment)]
    for name, found in runs.items():
        run = experiment.runs[name]
        grids += [grid for grid in (losses_grid(run), losses_plot(run), divergence_grid(run)) if grid.rows]
        grids.append(found)
    return grids
