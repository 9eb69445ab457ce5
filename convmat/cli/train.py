"""`convmat train`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from convmat.cli import options

if TYPE_CHECKING:
    from convmat.experiment.run import Run

_SAVE_EVERY = 300  # seconds of work that a failure of the machine may cost

_COUNT = click.IntRange(min=1)


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
@click.option("--epochs", type=_COUNT, default=12, show_default=True, help="Times each image is seen.")
@click.option("--paper", is_flag=True, help="The paper's full settings: 400 epochs, with both optimizers.")
@click.option("--filters", type=_COUNT, default=128, show_default=True, help="Filters of the first layer.")
@click.option(
    "--k", "-k", "kernel_size", type=options.Sizes(), default=4, show_default=True, help="Kernel size."
)
@click.option(
    "--stride", "-s", type=options.Sizes(), default=2, show_default=True, help="Pixels from patch to patch."
)
@options.padding_option
@click.option("--train-size", type=_COUNT, default=1000, show_default=True, help="Images to train on.")
@click.option("--val-size", type=_COUNT, default=1000, show_default=True, help="Images to validate on.")
@click.option("--batch-size", type=_COUNT, default=128, show_default=True, help="Images of a step.")
@click.option("--lr", type=float, help="Learning rate.  [default: 0.3 for sgd, 0.001 for adam]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random."
)
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
    type=options.File("dir"),
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
    from convmat.cli.experiments import begin, make_folder, save, write_results
    from convmat.cli.experiments import resume as resume_run
    from convmat.cli.output import progress, report, warn, watching
    from convmat.cli.signals import Deferred, Stopped
    from convmat.experiment.run import PAPER, Settings
    from convmat.report.facts import Fact
    from convmat.report.training import (
        divergence_grid,
        losses_grid,
        losses_plot,
        networks_grid,
        summary_facts,
    )

    chosen["padding"] = options.pads_of(chosen["padding"], 2)
    ctx = click.get_current_context()
    named = {key for key in chosen if ctx.get_parameter_source(key) is not ParameterSource.DEFAULT}
    if paper:
        chosen |= {key: value for key, value in PAPER.items() if key not in named}
        named |= set(PAPER)
    watch = watching(quiet, "chunk of digits")
    if resume is not None:
        opened = resume_run(resume, {key: chosen[key] for key in named}, data, watch)
    else:
        opened = begin(Settings(**chosen), data, watch)
    folder = output or resume
    if folder is not None:
        make_folder(folder)
    experiment = opened.experiment
    began = saved = time.monotonic()
    steps = progress(
        experiment.steps(),
        experiment.steps_left,
        quiet,
        unit="batch",
        size=lambda _: 1,
        note=_losses_text,
    )
    with Deferred() as signals:
        for _ in steps:
            if signals.number is not None:
                break
            if folder is not None and time.monotonic() - saved > _SAVE_EVERY:
                save(opened, folder)
                saved = time.monotonic()
        seconds = time.monotonic() - began
        if folder is not None:
            save(opened, folder)
    facts, runs = summary_facts(experiment, opened.data_text)
    if folder is not None:
        try:
            write_results(opened, folder, facts)
        except ModuleNotFoundError:
            again = f"convmat train --resume {folder}"
            warn(f"no figures without matplotlib: pip install 'convmat[figures]', then {again}", quiet)
    facts.append(Fact("seconds", "time", round(seconds, 3), f"{seconds:.1f} s"))
    grids: list[Any] = [networks_grid(experiment)]
    for name, found in runs.items():
        run = experiment.runs[name]
        grids += [grid for grid in (losses_grid(run), losses_plot(run), divergence_grid(run)) if grid.rows]
        grids.append(found)
    report(facts, grids, output=folder, as_json=as_json, quiet=quiet)
    if signals.number is not None:
        kept = f"kept: convmat train --resume {folder} goes on" if folder else "not kept without -o"
        warn(f"stopped before the end; what was done is {kept}", quiet)
        raise Stopped(128 + signals.number)
