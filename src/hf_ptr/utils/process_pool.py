"""Worker processes that return results in order and never outlive their parent or an interrupt."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def available_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Generator[Result, None, None]:
    """`map(function, jobs)` in `workers` spawned processes, or in this one when `workers` is 1.

    At most `2 * workers` jobs are running or have unread results, so memory does not grow with the number of jobs. If
    the iteration ends early (an error, an interrupt, `close()`), the processes exit at once. Exceptions raised by
    `function` propagate to the caller.

    Args:
        function: importable by name, like the classes of jobs and results.
        workers: number of processes, at least 1.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    begun: deque[Future[Result]] = deque()
    with process_pool(workers) as executor:
        for job in jobs:
            if len(begun) == 2 * workers:
                yield begun.popleft().result()
            with _interrupts_deferred():
                begun.append(executor.submit(function, job))
        while begun:
            yield begun.popleft().result()


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes that exit when this one does, and at once if the block raises an exception."""
    context = multiprocessing.get_context("spawn")
    read_end, write_end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_exit_with_parent, initargs=(read_end,))
    try:
        yield executor
    except BaseException:
        write_end.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        write_end.close()
        read_end.close()


def _exit_with_parent(read_end: Connection) -> None:
    """Make this process exit as soon as the parent closes the write end of the pipe, or dies."""

    def watch() -> None:
        read_end.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Start processes with SIGINT blocked. Ctrl-C reaches the whole group, but only the parent may end workers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
