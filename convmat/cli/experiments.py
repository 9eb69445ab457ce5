"""An experiment's folder: what it is begun or gone on with, and everything that is written there."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convmat.cli.datasets import open_dataset
from convmat.errors import FileError, SettingError
from convmat.experiment.digits import SIZE, draw_digits
from convmat.experiment.divergence import Divergence
from convmat.experiment.record import RECORD, array_kinds
from convmat.experiment.run import Epoch, Experiment
from convmat.experiment.settings import OPTIMIZERS, Settings
from convmat.files.archives import write_archive
from convmat.files.memory import check_memory
from convmat.files.outputs import check_apart, open_output, remove_output
from convmat.files.records import RecordFile, packed
from convmat.files.schema import record_of
from convmat.report.tables import json_text
from convmat.watching import Watch, unwatched

if TYPE_CHECKING:
    from convmat.shown import Fact

_DRAWN = "digits drawn by the seed"
_WEIGHTS = "weights.npz"
_REMEDY = "begin a run anew with -o"
_LOSSES = tuple(f"{name}_loss" for name in Epoch._fields[1:])
_FIGURES = ("loss", "weights", "reconstructions", "divergence")
OWNED = (
    *("history.csv", "summary.json", _WEIGHTS, "divergence.csv", "networks.png"),
    *(f"{figure}_{optimizer}.png" for figure in _FIGURES for optimizer in OPTIMIZERS),
)
"""Every file that a run may write; those that it does not are of another run."""


def data_text(experiment: Experiment) -> str:
    """The data's name, for people."""
    return experiment.data or _DRAWN


def begin(
    settings: Settings, data: str | None, folder: str | None = None, watch: Watch = unwatched
) -> Experiment:
    """An experiment on the images of `data`, or on drawn ones, whose results are to be written in a folder.

    It is refused before they are read or drawn.

    Raises:
        FileError: the images cannot be read, or would be written over.
    """
    if folder is not None and data is not None:
        check_apart([folder, *(os.path.join(folder, name) for name in OWNED)], [data])
    if data is None:
        shape, nbytes = (settings.images, SIZE, SIZE, 1), settings.images * SIZE * SIZE
        _check_memory(settings, shape, nbytes)
        images = draw_digits(settings.images, settings.seed, watch)
    else:
        dataset = open_dataset(data)
        settings.check_images(dataset.shape)
        _check_memory(settings, dataset.shape, dataset.nbytes)
        images = dataset.read()
    return Experiment(settings, images, watch, data)


def _check_memory(settings: Settings, shape: tuple[int, ...], nbytes: int) -> None:
    asked = settings.memory(shape[1:])
    check_memory(max(asked, key=asked.__getitem__), sum(asked.values()) + nbytes, "give a smaller one")


def resume(
    folder: str,
    given: Mapping[str, Any],
    data: str | None,
    output: str | None = None,
    watch: Watch = unwatched,
) -> Experiment:
    """The experiment in a folder, as far as it had come; `given` are settings that were named anew.

    It goes on in the folder `output`, or in its own.

    Raises:
        FileError: the folder holds none, or a damaged one; nothing of it is used then. SettingError: another
            setting than the run was begun with, but for `epochs`, or other images.
    """
    name = os.path.join(folder, _WEIGHTS)
    with record_of(name, _REMEDY):
        kept = RecordFile(
            name, RECORD, lambda r: array_kinds(Settings(**r["settings"]), tuple(r["image_shape"]))
        )
    settings, began, digest = (kept.record[key] for key in ("settings", "data", "digest"))
    for key, value in json.loads(json.dumps(dict(given) | ({} if data is None else {"data": data}))).items():
        before = began if key == "data" else settings[key]
        if key != "epochs" and value != before:
            raise SettingError(key, f"{value} was {before} when the run in {folder} began; leave it out")
    epochs = {key: value for key, value in given.items() if key == "epochs"}
    experiment = begin(Settings(**settings | epochs), began, output or folder, watch)
    if experiment.digest != digest:
        raise FileError(began or name, f"has other images than when the run in {folder} began")
    with record_of(name, _REMEDY):
        experiment.resume(kept.record, kept.array)
    return experiment


def save(experiment: Experiment, folder: str, facts: Sequence[Fact]) -> bool:
    """Write all that there is of the runs: the record, history, summary, divergence and figures.

    They get there together, at the end of the block of `together` around it. Files of a run that this one
    does not write go. Returns whether there are figures, for which matplotlib is needed.

    Raises:
        FileError: one of them cannot be written; the folder is what it was. SettingError: a weight is no
            number.
    """
    record = packed(experiment.record(), experiment.arrays())
    drawn = _figures(experiment)
    texts = _texts(experiment, facts) | (drawn or {})
    write_archive(os.path.join(folder, _WEIGHTS), record)
    for name, data in texts.items():
        with open_output(os.path.join(folder, name), len(data)) as stream:
            stream.write(data)
    for name in OWNED:
        if name not in texts and name != _WEIGHTS:
            remove_output(os.path.join(folder, name))
    return drawn is not None


def _texts(experiment: Experiment, facts: Sequence[Fact]) -> dict[str, bytes]:
    """What is derived from the runs, by file name."""
    runs = experiment.runs
    rows = [(name, *epoch) for name, run in runs.items() for epoch in run.history]
    found = {
        "history.csv": _csv(("optimizer", "epoch", *_LOSSES), rows),
        "summary.json": json_text(facts).encode(),
    }
    if experiment.settings.probe_divergence:
        steps = [(name, *d) for name, run in runs.items() for d in run.divergence]
        found["divergence.csv"] = _csv(("optimizer", *Divergence._fields), steps)
    return found


def _figures(experiment: Experiment) -> dict[str, bytes] | None:
    """Figures by file name; None where there is no matplotlib, or it is broken."""
    # It logs that it does without a cache of its own where HOME cannot be written.
    logging.getLogger("matplotlib").addHandler(logging.NullHandler())
    try:
        from convmat.figures.curves import figures
        from convmat.report.training import networks_grid

        grid = networks_grid(experiment)
        return figures(experiment, [grid.columns, *grid.rows])
    except ImportError:
        return None


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
