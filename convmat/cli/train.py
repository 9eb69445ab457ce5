"""`convmat train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convmat.checks import read_whole
from convmat.cli import options
from convmat.cli.command import Command, given_options
from convmat.cli.types import File
from convmat.errors import FileError
from convmat.experiment.settings import RANGES

if TYPE_CHECKING:
    from convmat.cli.signals import Deferred
    from convmat.experiment.run import Experiment, Run
    from convmat.shown import Fact


_SAVE_EVERY = 300  # seconds of work that a failure of the machine may cost
_SAVE_SHARE = 20  # times as long as saving takes, at least

T = TypeVar("T")


def _ranged(
    name: str, help: str, default: int | None = None, read: Callable[[str], float] = read_whole
) -> options.Option[Any]:
    """The option of a setting that is a number."""
    kind = RANGES[name.removeprefix("--").replace("-", "_")]
    return options.number(name, kind=kind, default=default, read=read, help=help)


class _Enough(Exception):
    """A signal came; the work ends between two blocks."""


def _losses_text(run: Run) -> str:
    """What the bar tells of a run."""
    if not run.history:
        return f"{run.optimizer}: before the first step"
    last = run.history[-1]
    return f"{run.optimizer}: CNN {last.cnn_validation:.5f}, FC {last.fc_validation:.5f}"


@click.command("train", cls=Command)
@options.choice("--optimizer", ("sgd", "adam", "both"), "What trains the networks; both, in turn.")
@_ranged("--epochs", "Times each image is seen.", 12)
@click.option("--paper", is_flag=True, help="The paper's full settings: 400 epochs, with both optimizers.")
@_ranged("--filters", "Filters of the first layer.", 128)
@options.sizes("--k", "-k", "kernel_size", default=4, help="Kernel size.")
@options.sizes("--stride", "-s", default=2, help="Pixels from patch to patch.")
@options.padding_option
@_ranged("--train-size", "Images to train on.", 1000)
@_ranged("--val-size", "Images to validate on.", 1000)
@_ranged("--batch-size", "Images of a step.", 128)
@_ranged("--lr", "Learning rate.  [default: 0.3 for sgd, 0.001 for adam]", read=float)
@_ranged("--seed", "Of all that is random.", 0)
@options.choice("--dtype", ("float32", "float64"), "Of weights, images and arithmetic.")
@click.option(
    "--data",
    metavar="PATH",
    type=File(),
    help="Images to learn: a folder of MNIST's IDX files or of images, Keras' mnist.npz, or an .npy array "
    "(N, H, W) or (N, H, W, C).  [default: drawn digits]",
)
@click.option(
    "--probe-divergence", is_flag=True, help="Measure at each step how far the networks are apart, and tell."
)
@options.output_option("folder", metavar="DIR", help="Write history, summary, weights and figures here.")
@click.option(
    "--resume",
    metavar="DIR",
    type=File(is_folder=True),
    help="Go on with the run in DIR, to --epochs in all.",
)
@options.report_options
def command(paper: bool, data: str | None, output: str | None, resume: str | None, **chosen: Any) -> None:
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
    from convmat.cli.output import warn
    from convmat.cli.signals import Deferred
    from convmat.files.folders import made_folder

    for name in (output, resume):
        if name == "-":
            raise FileError("standard output", "holds no folder of files; name one with -o")
        if name == "":
            raise FileError("''", "is no folder's name; name a folder")
    folder = resume if output is None else output
    experiment = _experiment(chosen, paper, data, output, resume)
    with nullcontext() if folder is None else made_folder(folder), Deferred() as signals:
        _tell(experiment, folder, _train(experiment, folder, signals))
    if signals.number is not None:
        kept = f"kept: convmat train --resume {folder} goes on" if folder else "not kept without -o"
        if experiment.steps_left:
            warn(f"stopped before the end; what was done is {kept}")
        click.get_current_context().exit(128 + signals.number)


def _experiment(
    chosen: dict[str, Any], paper: bool, data: str | None, output: str | None, resume: str | None
) -> Experiment:
    """The experiment that is begun with the settings that were chosen, or gone on with those named anew."""
    from convmat.cli import experiments
    from convmat.cli.output import watching
    from convmat.experiment.settings import PAPER, Settings

    named = chosen.keys() & given_options().keys()
    chosen["padding"] = options.pads_of(chosen["padding"], 2)
    if paper:
        if named >= PAPER.keys():
            raise click.UsageError("--paper says --optimizer and --epochs, which are given; leave it out")
        chosen |= {key: value for key, value in PAPER.items() if key not in named}
        named |= set(PAPER)
    watch = watching("chunk of images")
    if resume is None:
        return experiments.begin(Settings(**chosen), data, output, watch)
    return experiments.resume(resume, {key: chosen[key] for key in named}, data, output, watch)


def _tell(experiment: Experiment, folder: str | None, seconds: float) -> None:
    """Write what came of an experiment, and tell it."""
    from convmat.cli.experiments import data_text, save
    from convmat.cli.output import outputs_together, report, warn
    from convmat.report.training import summary_facts
    from convmat.shown import Fact

    facts, runs = summary_facts(experiment, data_text(experiment))
    with outputs_together():
        if folder is not None and not save(experiment, folder, facts):
            again = f"convmat train --resume {folder}"
            warn(f"no figures without matplotlib: pip install 'convmat[figures]', then {again}")
        facts.append(Fact("seconds", "time", round(seconds, 3), f"{seconds:.1f} s"))
        report(facts, _grids(experiment, runs), output=folder)


def _train(experiment: Experiment, folder: str | None, signals: Deferred) -> float:
    """Train until the end, or until a signal between two blocks of work; the seconds that it took."""
    from convmat.cli.experiments import data_text, save
    from convmat.cli.output import progress, watching
    from convmat.files.outputs import together
    from convmat.report.training import summary_facts
    from convmat.watching import unwatched

    def watched(blocks: Iterable[T], total: int) -> Iterator[T]:
        for block in watching("block of images")(blocks, total):
            if signals.number is not None:
                raise _Enough
            yield block

    steps = progress(
        experiment.steps(), experiment.steps_left, unit="batch", size=lambda _: 1, note=_losses_text
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
    for name, facts in runs.items():
        run = experiment.runs[name]
        grids += [grid for grid in (losses_grid(run), losses_plot(run), divergence_grid(run)) if grid.rows]
        grids.append(facts)
    return grids
