"""Facts and grids of the paper's experiment: the two networks, their losses, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convmat.experiment.divergence import SMALL
from convmat.experiment.run import Epoch, Experiment, Run
from convmat.report.facts import Grid, absent, ends, geometry_facts
from convmat.shown import Fact, shape_fact, sizes

_PLOT_ROWS, _PLOT_COLUMNS = 12, 56


def experiment_facts(experiment: Experiment, data: str) -> list[Fact]:
    """What was trained on what."""
    s, g = experiment.settings, experiment.geometry
    counts = [len(images.pixels) for images in (experiment.train, experiment.validation, experiment.new)]
    seen = "" if experiment.new is not experiment.validation else " (those of validation)"
    text = f"{counts[0]} to train on, {counts[1]} to validate on, {counts[2]} new{seen}"
    rates = {name: s.learning_rate(name) for name in s.optimizers}
    named = ", ".join(f"{name} with learning rate {rate:g}" for name, rate in rates.items())
    return [
        Fact("data", "data", data, data),
        Fact("images", "images", dict(zip(("training", "validation", "new"), counts, strict=True)), text),
        *(fact for fact in geometry_facts(g) if not fact.key.startswith(("dilation", "padding_mode"))),
        Fact("filters", "filters", s.filters, str(s.filters)),
        Fact(
            "batch_size", "batch", s.batch_size, f"{s.batch_size} images, {experiment.batches} steps an epoch"
        ),
        Fact("optimizer", "optimizer", s.optimizer, named),
        Fact("learning_rates", "", rates, ""),
        Fact("epochs", "epochs", s.epochs, str(s.epochs)),
        Fact("seed", "seed", s.seed, str(s.seed)),
        Fact("dtype", "dtype", s.dtype, s.dtype),
    ]


def networks_grid(experiment: Experiment) -> Grid:
    """The two networks, layer by layer, with output shapes and parameters (Fig. 8)."""
    s, g = experiment.settings, experiment.geometry
    image, patches = g.input_shape[1:], (g.patches, g.terms)
    flat, pixels = experiment.initial["dense"].shape
    pads = g.rule or ", ".join(f"{before}+{after}" for before, after in g.pads)
    conv = f"Conv {s.filters} of {sizes(g.kernel_size)}, stride {sizes(g.stride)}, {pads}"
    first, dense = f"{g.terms * s.filters:,}", f"{flat * pixels:,}"
    total = f"{g.terms * s.filters + flat * pixels:,}"
    rows = [
        ("image", sizes(image), "", "rows of X_col", sizes(patches), ""),
        (
            conv,
            sizes((*g.output_size, s.filters)),
            first,
            f"Dense {s.filters}",
            f"{g.patches} × {s.filters}",
            first,
        ),
        ("ReLU, flatten", f"{flat}", "0", "ReLU, flatten", f"{flat}", "0"),
        (f"Dense {pixels}", f"{pixels}", dense, f"Dense {pixels}", f"{pixels}", dense),
        ("ReLU, reshape", sizes(image), "0", "ReLU, reshape", sizes(image), "0"),
        ("all, without bias", "", total, "", "", total),
    ]
    return Grid("The two networks", ("CNN", "output", "weights", "FC network", "output", "weights"), rows)


def run_facts(experiment: Experiment, run: Run) -> list[Fact]:
    """What came of one optimizer's run."""
    found = experiment.compare(run)
    first, last = run.history[0], run.history[-1]
    apart = largest_differences(run.history)
    best = {name: getattr(last, f"{name}_validation") for name in run.networks}
    change = f"{first.cnn_validation:.5g} → {last.cnn_validation:.5g}"
    units = len(experiment.train.target[0])
    dead = ", ".join(f"{found.dead[name]} of {units} in the {name.upper()}" for name in run.networks)
    ours = f"{found.weights_difference:.3g} of {found.weights_norm:.4g}"
    outputs = f"{found.outputs_difference:.3g} of {found.outputs_norm:.4g}"
    facts = [
        Fact("optimizer", "optimizer", run.optimizer, run.optimizer),
        Fact("epochs_done", "epochs done", last.epoch, f"{last.epoch}"),
        Fact("initial_validation_loss", "", first.cnn_validation, ""),
        Fact("validation_loss", "validation loss, CNN", best, change),
        Fact("", "validation loss, FC", None, f"{first.fc_validation:.5g} → {last.fc_validation:.5g}"),
        Fact(
            "largest_loss_difference",
            "losses apart by at most",
            apart,
            f"{apart['training']:.2g} (training), {apart['validation']:.2g} (validation), relative",
        ),
        Fact("weights_difference", "first weights apart by", found.weights_difference, ours),
        Fact("weights_norm", "", found.weights_norm, ""),
        Fact("outputs_difference", "first outputs apart by", found.outputs_difference, outputs),
        Fact("outputs_norm", "", found.outputs_norm, ""),
        Fact("dead_units", "output units dead", found.dead, dead),
        Fact("dead_lit_units", "", found.dead_lit, ""),
    ]
    if sum(found.dead_lit.values()):
        lit = ", ".join(f"{found.dead_lit[name]} in the {name.upper()}" for name in run.networks)
        facts.append(Fact("", "dead where digits are", None, f"{lit}: these pixels can no longer be learned"))
    return facts + divergence_facts(run)


def _run_text(facts: Sequence[Fact]) -> str:
    """What came of a run in one line."""
    found = {fact.key: fact.value for fact in facts}
    losses = ", ".join(f"{name.upper()} {loss:.5g}" for name, loss in found["validation_loss"].items())
    epochs = f"{found['epochs_done']} epoch{'s' if found['epochs_done'] != 1 else ''}"
    apart = max(found["largest_loss_difference"].values())
    return f"{found['optimizer']}, {epochs}: validation loss {losses}, losses apart by at most {apart:.2g}"


def largest_differences(history: Sequence[Epoch]) -> dict[str, float]:
    """The largest relative difference between the networks' losses, over the epochs."""
    pairs = {
        "training": [(e.cnn_training, e.fc_training) for e in history],
        "validation": [(e.cnn_validation, e.fc_validation) for e in history],
    }
    return {name: max(abs(a - b) / max(a, b, 1e-300) for a, b in both) for name, both in pairs.items()}


def divergence_facts(run: Run) -> list[Fact]:
    """What `--probe-divergence` found in the dense layer, in numbers; nothing where it did not look."""
    rows = [d for d in run.divergence if d.layer == "dense"]
    if not rows:
        return absent("unit_roundoff", "first_step", "last_step")
    first, last, most = rows[0], rows[-1], max(rows, key=lambda d: d.weights)
    u = float(np.finfo(run.networks["cnn"].dense.weights.dtype).eps) / 2
    return [
        Fact("unit_roundoff", "unit of rounding", u, f"u = {u:.3g}"),
        Fact(
            "first_step",
            "step 1",
            first._asdict() | {"amplification": first.amplification},
            f"gradients {first.gradients:.3g} u apart, moves {first.moves:.3g} u: ×{first.amplification:.3g}",
        ),
        Fact(
            "",
            "of that" if first.small_moves else "",
            None,
            f"{first.small_moves:.0%} (squared) in the {first.small:.2%} of weights of √v̂ < {SMALL:g} rms √v̂",
        ),
        Fact(
            "last_step",
            "then",
            last._asdict() | {"amplification": last.amplification},
            f"weights {first.weights:.3g} u apart after step 1, {last.weights:.3g} u after step {last.step}, "
            f"{most.weights:.3g} u at most",
        ),
    ]


def divergence_grid(run: Run) -> Grid:
    """How far the networks are apart after the steps 1, 2, 4, 8 and so on, and after the last."""
    last = max((d.step for d in run.divergence), default=0)
    rows = []
    for d in run.divergence:
        if d.step == last or d.step & (d.step - 1) == 0:
            apart = (f"{v:.3g} u" for v in (d.gradients, d.moves, d.weights))
            share = f"{d.small_moves:.1%} in {d.small:.2%}" if d.small else ""
            rows.append((str(d.step), d.layer, *apart, share))
    columns = ("step", "layer", "gradients", "moves", "weights", "moves' share of small √v̂")
    return Grid(f"‖CNN − FC‖ / ‖CNN‖, {run.optimizer}", columns, rows)


def losses_grid(run: Run) -> Grid:
    """The losses of the first and last epochs."""
    rows: list[tuple[str, ...]] = []
    for number in ends(len(run.history)):
        if number is None:
            rows.append(("…", "", "", "", "", ""))
            continue
        e = run.history[number]
        values = (f"{v:.7f}" for v in e[1:])
        apart = abs(e.cnn_validation - e.fc_validation) / max(e.cnn_validation, e.fc_validation, 1e-300)
        rows.append((str(e.epoch), *values, f"{apart:.1e}"))
    columns = ("epoch", "CNN training", "CNN validation", "FC training", "FC validation", "apart")
    return Grid(f"Mean squared error, {run.optimizer}", columns, rows)


def losses_plot(run: Run) -> Grid:
    """Validation losses over the epochs, drawn with letters; on a logarithmic scale."""
    history = [e for e in run.history if min(e.cnn_validation, e.fc_validation) > 0]
    if len(history) < 2:
        return Grid("", (), [])
    heights = [math.log(v) for e in history for v in (e.cnn_validation, e.fc_validation)]
    low, span = min(heights), max(max(heights) - min(heights), 1e-9)

    def row(value: float) -> int:
        return round((_PLOT_ROWS - 1) * (1 - (math.log(value) - low) / span))

    canvas = [[" "] * _PLOT_COLUMNS for _ in range(_PLOT_ROWS)]
    for column in range(_PLOT_COLUMNS):
        e = history[round(column * (len(history) - 1) / (_PLOT_COLUMNS - 1))]
        cnn, fc = row(e.cnn_validation), row(e.fc_validation)
        canvas[cnn][column], canvas[fc][column] = ("*", "*") if cnn == fc else ("c", "f")
    labels = (f"{math.exp(low + span * (1 - k / (_PLOT_ROWS - 1))):.4f}" for k in range(_PLOT_ROWS))
    rows = [(label, "".join(line)) for label, line in zip(labels, canvas, strict=True)]
    title = f"Validation loss, {run.optimizer}: c CNN, f FC network, * both"
    return Grid(title, ("loss", f"epochs {history[0].epoch} to {history[-1].epoch}"), rows)


def summary_facts(experiment: Experiment, data: str) -> tuple[list[Fact], dict[str, list[Fact]]]:
    """All facts for programs, `runs` among them; and those of each run, for its table."""
    runs = {name: run_facts(experiment, run) for name, run in experiment.runs.items() if run.history}
    values: dict[str, Any] = {
        name: {fact.key: fact.value for fact in facts if fact.key} for name, facts in runs.items()
    }
    weights = {layer: list(w.shape) for layer, w in experiment.initial.items()}
    parameters = sum(math.prod(shape) for shape in weights.values())
    facts = [
        *experiment_facts(experiment, data),
        Fact("weights", "", weights, ""),
        shape_fact("parameters", "", [parameters])._replace(value=parameters),
        Fact("runs", "", values, "", brief="; ".join(map(_run_text, runs.values()))),
    ]
    return facts, runs
