"""An experiment's folder: what it is begun or gone on with, and everything that is written there."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convmat.cli.datasets import read_dataset
from convmat.errors import FileError, SettingError
from convmat.experiment.digits import draw_digits
from convmat.experiment.divergence import Divergence
from convmat.experiment.run import Epoch, Experiment, Settings
from convmat.files.archives import read_array, write_archive
from convmat.files.memory import check_memory
from convmat.files.outputs import open_output, writing
from convmat.report.facts import Fact
from convmat.report.tables import json_text
from convmat.watching import Watch, unwatched

_DRAWN = "digits drawn by the seed"
_LOSSES = tuple(f"{name}_loss" for name in Epoch._fields[1:])


class Opened(NamedTuple):
    """An experiment, and what its data is called."""

    experiment: Experiment
    data: str | None
    digest: int
    """Of the images: those of a resumed run have to be the same."""

    @property
    def data_text(self) -> str:
        """The data's name, for people."""
        return self.data or _DRAWN


def begin(settings: Settings, data: str | None, watch: Watch = unwatched) -> Opened:
    """An experiment on the images of `data`, or on drawn ones."""
    images = draw_digits(settings.images, settings.seed, watch) if data is None else read_dataset(data)
    check_memory("filters", settings.nbytes(images.shape[1:]), "give fewer filters or images")
    return Opened(Experiment(settings, images), data, zlib.crc32(images.tobytes()))


def resume(folder: str, given: dict[str, Any], data: str | None, watch: Watch = unwatched) -> Opened:
    """The experiment in a folder, as far as it had come; `given` are settings that were named anew.

    Raises:
        FileError: the folder holds none. SettingError: another setting than the run was begun with, but for
            `epochs`, or other images.
    """
    name = _weights_file(folder)
    try:
        record = json.loads(read_array(name, "record").tobytes())
        kept, began, digest = record["settings"], record["data"], record["digest"]
        settings = Settings(**kept | {key: given[key] for key in ("epochs",) if key in given})
    except (ValueError, TypeError, KeyError):
        raise FileError(name, "holds no run that could go on; begin one with -o") from None
    for key, value in json.loads(json.dumps(given | ({} if data is None else {"data": data}))).items():
        before = began if key == "data" else kept[key]
        if key != "epochs" and value != before:
            raise SettingError(key, f"{value} was {before} when the run in {folder} began; leave it out")
    opened = begin(settings, began, watch)
    if opened.digest != digest:
        raise FileError(began or name, f"has other images than when the run in {folder} began")
    opened.experiment.resume(record, lambda key: read_array(name, key))
    return opened


def make_folder(folder: str) -> None:
    """Make the folder where there is none, so that what is wrong with it shows before the work.

    Raises:
        FileError: it cannot be made, or is a file.
    """
    if folder == "-":
        raise FileError("standard output", "holds no folder of files; name one with -o")
    with writing(folder or "''"):
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise FileError(folder, "is write-protected; name another folder")


def save(opened: Opened, folder: str) -> None:
    """Write weights.npz, all that a run needs to go on, in one step."""
    record = opened.experiment.record() | {"data": opened.data, "digest": opened.digest}
    packed = np.frombuffer(json.dumps(record).encode(), np.uint8)
    write_archive(_weights_file(folder), {"record": packed} | opened.experiment.arrays())


def write_results(opened: Opened, folder: str, facts: Sequence[Fact]) -> None:
    """Write what is derived from the runs: history.csv, summary.json of the facts, divergence.csv, figures.

    Raises:
        FileError: one of them cannot be written. ModuleNotFoundError: there is no matplotlib; all but the
            figures are written.
    """
    runs = opened.experiment.runs
    rows = [(name, *epoch) for name, run in runs.items() for epoch in run.history]
    _write(folder, "history.csv", _csv(("optimizer", "epoch", *_LOSSES), rows))
    _write(folder, "summary.json", json_text(facts).encode())
    if opened.experiment.settings.probe_divergence:
        steps = [(name, *d) for name, run in runs.items() for d in run.divergence]
        _write(folder, "divergence.csv", _csv(("optimizer", *Divergence._fields), steps))
    from convmat.report.curves import figures

    for name, picture in figures(opened.experiment).items():
        _write(folder, name, picture)


def _weights_file(folder: str) -> str:
    return os.path.join(folder, "weights.npz")


def _write(folder: str, name: str, data: bytes) -> None:
    with open_output(os.path.join(folder, name), len(data)) as stream:
        stream.write(data)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
