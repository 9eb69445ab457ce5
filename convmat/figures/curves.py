"""The paper's figures of the experiment, as PNG, in the colours of all drawings.

matplotlib, the extra `figures`, stays in here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convmat.experiment.divergence import Divergence
from convmat.experiment.run import Epoch, Experiment, Run
from convmat.figures.canvas import ACCENTS, THEMES, Colour


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


_CNN, _FC, _PLAIN = map(_hex, (ACCENTS[4], ACCENTS[0], THEMES["light"].dim))
_SHOWN = 8  # images in the figure of reconstructions


def figures(experiment: Experiment, table: Sequence[Sequence[str]]) -> dict[str, bytes]:
    """Every figure there is something to draw for, by file name, as PNG; the same bytes for the same run.

    `table` are the names of columns, and the rows, of the two networks.
    """
    drawn = {"networks.png": networks_figure(*table)}
    for name, run in experiment.runs.items():
        if run.history:
            drawn[f"loss_{name}.png"] = loss_figure(run.history, name)
            drawn[f"weights_{name}.png"] = weights_figure(run, experiment.initial["first"])
            drawn[f"reconstructions_{name}.png"] = reconstructions_figure(experiment, run)
        if run.divergence:
            drawn[f"divergence_{name}.png"] = divergence_figure(run.divergence, name)
    return drawn


def loss_figure(history: Sequence[Epoch], optimizer: str) -> bytes:
    """Training and validation losses over the epochs (Fig. 7 with SGD, Fig. 10 with Adam)."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [e.epoch for e in history]
    lines = {"training": "--", "validation": "-"}
    shown: list[float] = []
    for name, colour, width in (("cnn", _CNN, 3.2), ("fc", _FC, 1.0)):
        for what, style in lines.items():
            values = [getattr(e, f"{name}_{what}") for e in history]
            shown += values
            axes.plot(epochs, values, style, color=colour, lw=width, label=f"{name.upper()}, {what}")
    axes.set(xlabel="epoch", ylabel="mean squared error", title=f"Losses, {optimizer}")
    axes.set_yscale(_scale(shown))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return _png(figure)


def networks_figure(columns: Sequence[str], *rows: Sequence[str]) -> bytes:
    """The two networks as a table (Fig. 8)."""
    figure = Figure(figsize=(9, 0.35 * (len(rows) + 2)))
    axes = figure.subplots()
    axes.axis("off")
    table = axes.table([list(row) for row in rows], colLabels=list(columns), loc="center", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(columns))))
    table.scale(1, 1.3)
    return _png(figure)


def weights_figure(run: Run, initial: NDArray[Any]) -> bytes:
    """Histograms of the first layers' weights, before and after (Fig. 9)."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    trained = {name: network.first.weights for name, network in run.networks.items()}
    everything = np.concatenate([initial, *trained.values()])
    bins = np.linspace(float(everything.min()), float(everything.max()), 41)
    for axes, name, colour in zip(figure.subplots(1, 2, sharey=True), trained, (_CNN, _FC), strict=True):
        axes.hist(initial.ravel(), bins, histtype="step", color=_PLAIN, label="before")
        axes.hist(trained[name].ravel(), bins, color=colour, alpha=0.8, label="after")
        axes.set(xlabel="weight", title=f"{name.upper()}, first layer, {run.optimizer}")
        axes.legend()
    return _png(figure)


def reconstructions_figure(experiment: Experiment, run: Run) -> bytes:
    """The first validation images above what the CNN and the FC network make of them."""
    which = slice(0, _SHOWN)
    images = experiment.validation
    rows = {"image": images.pixels[which]}
    for name, network in run.networks.items():
        rows[name.upper()] = network.forward(images.inputs(name, which)).reshape(images.pixels[which].shape)
    columns = len(rows["image"])
    figure = Figure(figsize=(0.9 * columns + 0.6, 2.9), layout="constrained")
    grid = figure.subplots(3, columns, squeeze=False)
    for line, (title, shown) in zip(grid, rows.items(), strict=True):
        for axes, pixels in zip(line, shown, strict=True):
            # Three channels are a colour; any other number is shown by its mean.
            gray = pixels if pixels.shape[-1] == 3 else pixels.mean(axis=-1)
            axes.imshow(gray.clip(0, 1).astype(np.float64), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(title)
    return _png(figure)


def divergence_figure(rows: Sequence[Divergence], optimizer: str) -> bytes:
    """How far the dense layers are apart after each step: gradients, moves and weights, in units of u."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    dense = [d for d in rows if d.layer == "dense"]
    shown: list[float] = []
    for what, colour in (("gradients", _PLAIN), ("moves", _FC), ("weights", _CNN)):
        points = [(d.step, getattr(d, what)) for d in dense if getattr(d, what) > 0]
        shown += [value for _, value in points]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, lw=1.4, label=what)
    axes.set(
        xlabel="step", ylabel="‖CNN − FC‖ / ‖CNN‖, in units of u", title=f"Dense layers apart, {optimizer}"
    )
    axes.set_yscale(_scale(shown))
    axes.legend()
    return _png(figure)


def _scale(values: Sequence[float]) -> str:
    """Logarithmic, but where there is nothing above 0 to show."""
    return "log" if max(values, default=0) > 0 else "linear"


def _png(figure: Figure) -> bytes:
    encoded = io.BytesIO()
    # Without the library's version in it, so that the same run gives the same file.
    figure.savefig(encoded, format="png", dpi=100, metadata={"Software": None})
    return encoded.getvalue()
