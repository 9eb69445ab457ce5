"""Blocks of work shared out over the cores, with BLAS held to one thread inside each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from convmat.errors import GeometryError
from convmat.geometry import whole

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

VARIABLE = "CONVMAT_THREADS"


def thread_count(threads: int | None = None) -> int:
    """Threads to work with: as asked, else as the variable CONVMAT_THREADS says, else the cores there are.

    Raises:
        GeometryError: less than one, or no number.
    """
    subject, given = "threads", threads
    if given is None and VARIABLE in os.environ:
        subject, text = VARIABLE, os.environ[VARIABLE]
        given = int(text) if text.strip().isdecimal() else 0
        if given < 1:
            raise GeometryError(subject, f"is {text!r}, expected a number from 1 on; set it anew or unset it")
    if given is None:
        return _cores()
    if whole(subject, given) < 1:
        raise GeometryError(subject, f"must be at least 1, got {given}; give 1 or more")
    return whole(subject, given)


def _cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def share_out(
    tasks: Iterable[T], worker: Callable[[], Callable[[T], None]], threads: int, blas: bool = True
) -> None:
    """Do every task, in whatever order, on `threads` threads, the caller's own among them.

    Args:
        worker: called once in each thread; makes what does a task there, with memory of its own.
        blas: whether tasks multiply matrices. BLAS would start threads of its own inside each of ours.

    Raises:
        Whatever a task raises, once no thread works any more.
    """
    left, turn, over = iter(tasks), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            do = worker()
            while not over.is_set():
                with turn:
                    task = next(left, _NOTHING)
                if task is _NOTHING:
                    return
                do(task)
        except BaseException:
            over.set()
            raise

    with _one_blas_thread() if blas else _nothing_held():
        others = [_pool().submit(work) for _ in range(threads - 1)]
        try:
            work()
        finally:
            # Those that never began had nothing left to do.
            begun = [other for other in others if not other.cancel()]
            failed = [error for other in begun if (error := other.exception())]
        for error in failed:
            raise error


_NOTHING: Any = object()
_workers: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    """Threads kept from call to call: starting one takes as long as a small convolution."""
    global _workers
    if _workers is None:
        from concurrent.futures import ThreadPoolExecutor

        _workers = ThreadPoolExecutor(max(_cores() - 1, 1), thread_name_prefix="convmat")
    return _workers


@contextmanager
def _nothing_held() -> Iterator[None]:
    yield


_libraries: list[Any] | None = None
_held = 0
_before: list[int] = []
_holding = threading.Lock()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """BLAS on one thread, for the whole process; as it was, when the last who asked for it is done."""
    global _held, _before
    with _holding:
        if _held == 0:
            _before = [library.get_num_threads() for library in _blas()]
        _held += 1  # before BLAS is held and until it is let go, for a fork may come at any time
        if _held == 1:
            _set_threads([1] * len(_before))
    try:
        yield
    finally:
        with _holding:
            if _held == 1:
                _set_threads(_before)
            _held = max(_held - 1, 0)


def _set_threads(counts: list[int]) -> None:
    for library, count in zip(_blas(), counts, strict=True):
        library.set_num_threads(count)


def _blas() -> list[Any]:
    global _libraries
    if _libraries is None:
        from threadpoolctl import ThreadpoolController

        _libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return _libraries


def _begin_anew() -> None:
    """In a forked process, which has none of the other threads: a pool of its own, and BLAS let go."""
    global _workers, _holding, _held
    _workers, _holding = None, threading.Lock()
    if _held:
        _set_threads(_before)
    _held = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
