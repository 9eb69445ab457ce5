"""Threads: who does what, what goes wrong in one, how many there are; results do not depend on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from convmat import engine, parallel, patches
from convmat.errors import GeometryError
from convmat.geometry import ConvGeometry
from convmat.patches import unroll, unroll_stream


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_is_done_once(threads: int) -> None:
    done: list[int] = []
    parallel.share_out(range(100), lambda: done.append, threads)
    assert sorted(done) == list(range(100))


def test_a_failure_in_any_thread_comes_out_and_ends_the_work() -> None:
    done: list[int] = []

    def worker() -> Callable[[int], None]:
        def do(task: int) -> None:
            if task == 3:
                raise ValueError("task 3")
            done.append(task)

        return do

    for threads in (1, 2):
        with pytest.raises(ValueError, match="task 3"):
            parallel.share_out(range(10**9), worker, threads)
    assert len(done) < 10**6


def test_blas_gets_its_threads_back() -> None:
    before = [library.get_num_threads() for library in parallel._blas()]
    seen: list[list[int]] = []
    parallel.share_out(
        [0], lambda: lambda _: seen.append([b.get_num_threads() for b in parallel._blas()]), 1, blas=True
    )
    assert seen == [[1] * len(before)]
    assert [library.get_num_threads() for library in parallel._blas()] == before


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVMAT_THREADS", "3")
    assert (parallel.thread_count(), parallel.thread_count(2)) == (3, 2)
    monkeypatch.setenv("CONVMAT_THREADS", "many")
    with pytest.raises(GeometryError, match="CONVMAT_THREADS: is 'many', expected a number from 1 on"):
        parallel.thread_count()
    with pytest.raises(GeometryError, match="threads: must be at least 1, got 0"):
        parallel.thread_count(0)


def test_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that several threads really compute, by every tactic, whole and as a stream."""
    monkeypatch.setattr(engine, "_WORTH_THREADS", 0)
    engine._decide.cache_clear()
    rng = np.random.default_rng(1712)
    x = rng.integers(-4, 5, (3, 9, 11, 4)).astype(np.float32)
    filters = rng.integers(-4, 5, (4, 3, 3, 1)).astype(np.float32)
    todo = engine.prepare(x, filters, padding=1, groups=4, threads=1)
    wanted = engine.execute(todo)
    used: set[int] = set()
    for tactic in engine.tactics(todo.plan.geometry, 4):
        other = engine.replan(todo, tactic=tactic, threads=3, block_bytes=300)
        assert other.plan.threads == 3
        np.testing.assert_array_equal(engine.execute(other), wanted)
        np.testing.assert_array_equal(np.concatenate(list(engine.stream(other))), wanted.reshape(-1, 4))
        used.add(threading.active_count())
    engine._decide.cache_clear()
    assert max(used) > 1


@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_threads_that_unroll_do_not_show(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    """X_col in blocks of few rows that are shared out to three threads: whole, and wave by wave."""
    x = np.arange(3 * 9 * 11 * 2).reshape(3, 9, 11, 2)
    layer: dict[str, Any] = {"kernel_size": (3, 2), "stride": (1, 2), "padding": 1}
    geometry = ConvGeometry(x.shape, **layer)
    wanted = unroll(x, **layer, order=order, threads=1)
    monkeypatch.setattr(patches, "_WORTH_THREADS", 0)
    monkeypatch.setattr(patches, "_BLOCK_BYTES", 300)
    at_work: list[int] = []

    def share_out(tasks: Any, worker: Any, threads: int, blas: bool) -> None:
        at_work.append(threads)
        parallel.share_out(tasks, worker, threads, blas)

    monkeypatch.setattr(patches, "share_out", share_out)
    for _ in range(5):
        np.testing.assert_array_equal(unroll(x, **layer, order=order, threads=3), wanted)
        waves = [wave.copy() for wave in unroll_stream(x, geometry, order=order, threads=3)]
        assert len(waves) > 3
        np.testing.assert_array_equal(np.concatenate(waves), wanted)
    assert at_work.count(3) > len(at_work) / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_gets_its_blas_threads_back() -> None:
    """Another thread multiplies while the process is forked; the child has its hold, and not the thread."""
    holding, over = threading.Event(), threading.Event()

    def hold() -> None:
        with parallel._one_blas_thread():
            holding.set()
            over.wait(60)

    with threadpool_limits(2, "blas"):
        before = [library.get_num_threads() for library in parallel._blas()]
        other = threading.Thread(target=hold)
        other.start()
        holding.wait(60)
        parallel._holding.acquire()  # at the worst of times
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(BaseException):
                found = [library.get_num_threads() for library in parallel._blas()]
                with parallel._one_blas_thread():
                    held = {library.get_num_threads() for library in parallel._blas()}
                again = [library.get_num_threads() for library in parallel._blas()]
                status = 0 if found == again == before and held <= {1} else 3
            os._exit(status)
        parallel._holding.release()
        _, status = os.waitpid(child, 0)
        over.set()
        other.join()
        assert os.waitstatus_to_exitcode(status) == 0
        assert [library.get_num_threads() for library in parallel._blas()] == before
