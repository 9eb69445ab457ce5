"""Where the tasks run: threads or processes of this machine, or a cluster."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import dask
from dask.delayed import Delayed

from convmat.errors import FileError, MemoryLimitError, SettingError
from convmat.files.outputs import undone_by
from convmat.threads import thread_count

_PATIENCE = 10
"""Seconds that a scheduler has to answer."""
_TOGETHER = 16
"""Parts for each worker that are handed to threads and processes at a time."""


@contextmanager
def scheduling(name: str, threads: int | None = None) -> Iterator[str | None]:
    """A block whose Dask arrays are computed by "threads" or "processes", or on the cluster at an address.

    Yields the address of the cluster's dashboard, if it has one.

    Raises:
        SettingError: no such scheduler. FileError: none answers at that address.
    """
    if name == "threads":
        with dask.config.set(scheduler="threads", num_workers=thread_count(threads)):
            yield None
    elif name == "processes":
        with _processes(thread_count(threads)):
            yield None
    elif "://" in name:
        with _client(name) as client:
            yield str(client.dashboard_link) or None
    else:
        raise SettingError(
            "scheduler", f"unknown {name!r}; give threads, processes or an address as tcp://HOST:PORT"
        )


@contextmanager
def _processes(count: int) -> Iterator[None]:
    pool = multiprocessing.get_context("spawn").Pool(count, _leave_signals_alone)

    def end() -> None:
        for process in multiprocessing.active_children():
            process.terminate()

    with undone_by(end), dask.config.set(scheduler="processes", pool=pool, num_workers=count):
        yield
    pool.terminate()


def _leave_signals_alone() -> None:
    """Ctrl-C comes to all processes of a terminal, and the first of them ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client

    for logger in ("distributed", "tornado"):  # what they have to say is raised, too
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split()) or "no answer"
        raise FileError(address, f"is no scheduler that answers: {why}; start one: dask scheduler") from None
    try:
        yield client
    finally:
        client.close(timeout=_PATIENCE)


def done(parts: Sequence[Delayed]) -> Iterator[Any]:
    """What comes of parts, as they are done; where the work is stopped they are cancelled."""
    client = _current_client()
    if client is not None:
        yield from _done_by(client, parts)
        return
    step = _TOGETHER * dask.config.get("num_workers", 1)
    for start in range(0, len(parts), step):
        yield from dask.compute(*parts[start : start + step])


def _current_client() -> Any:
    """The client of the cluster that Dask computes on; None where it computes here."""
    distributed: Any = sys.modules.get("distributed")
    try:
        return distributed and distributed.default_client()
    except ValueError:
        return None


def _done_by(client: Any, parts: Sequence[Delayed]) -> Iterator[Any]:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = client.compute(list(parts))

    def cancel() -> None:
        asking = Thread(target=client.cancel, args=(futures,), daemon=True)
        asking.start()
        asking.join(_PATIENCE)

    with undone_by(cancel):
        try:
            for future in as_completed(futures):
                yield future.result()
                future.release()
        except KilledWorker as error:
            raise MemoryLimitError(
                "scheduler",
                f"workers died, one after another, of a chunk ({error.task}); give smaller chunks",
            ) from None
