"""Processes that step environments: results come in order, and none outlives its parent or an interrupt."""

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
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Generator[Result, None, None]:
    """`map(function, jobs)` in `workers` spawned processes, or in this one when `workers` is 1.

    At most `2 * workers` jobs are begun or waiting to be fetched, so memory does not grow with their number. When the
    iteration ends early (an error, an interrupt, `close()`), the processes end at once. An exception of `function` is
    raised here.

    Args:
        function: importable by name, as are the jobs' and results' classes.
        workers: processes, at least 1.
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
    """Spawned processes that end with this one, whatever ends it, and at once when the block ends by an exception."""
    context = multiprocessing.get_context("spawn")
    leash, holder = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with, initargs=(leash,))
    try:
        yield executor
    except BaseException:
        holder.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        holder.close()
        leash.close()


def _end_with(leash: Connection) -> None:
    """Have this process exit as soon as nobody holds the other end of `leash`, whatever it is doing."""

    def watch() -> None:
        leash.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Start processes deaf to Ctrl-C, which reaches the whole group: the parent alone ends them, by the leash."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
