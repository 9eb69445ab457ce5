"""Where the tasks run: threads or processes of this machine, or a cluster."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import dask
import dask.array as da
from dask.base import get_scheduler
from dask.optimization import cull
from dask.system import CPU_COUNT

from convmat.errors import FileError, MemoryLimitError, SettingError
from convmat.files.outputs import undone_by
from convmat.threads import thread_count

_PATIENCE = 10
"""Seconds that a scheduler has to answer."""
_TOGETHER = 16
_TIMES = 20
"""Threads and processes are handed so many tasks for each of them at a time, or all in so many times: among
tasks that are handed together each chunk is cut once; between the times it is told how far the work is."""


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
    # Where a signal ends the work, Python's tracker removes the pool's semaphores, and would warn of them.
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
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


def done(graph: Mapping[Any, Any], keys: Sequence[Any]) -> Iterator[Any]:
    """What the tasks of these keys give, as they are done; where the work is stopped they are cancelled."""
    get = get_scheduler(cls=da.Array)
    client = getattr(get, "__self__", None)  # of a cluster
    if client is not None:
        yield from _done_by(client, graph, keys)
        return
    some = max(_TOGETHER * dask.config.get("num_workers", CPU_COUNT), len(keys) // _TIMES)
    for start in range(0, len(keys), some):
        asked = list(keys[start : start + some])
        needed, _ = cull(graph, asked)  # of the others nothing is looked at
        yield from get(needed, asked)


def _done_by(client: Any, graph: Mapping[Any, Any], keys: Sequence[Any]) -> Iterator[Any]:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = client.get(dict(graph), list(keys), sync=False)

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
