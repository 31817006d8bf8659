"""Processes wait for each other without a time limit, but not for a process that has failed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from hf_ptr.errors import InputError
from hf_ptr.training.distributed import ProcessGroup

WATCHDOG_SECONDS = 60


def results_of_two_processes(work: Callable[[], object], folder: Path) -> list[str]:
    """Results or errors of `run_on_main` in two processes, with a timeout of two seconds for exchanges."""
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            signal.alarm(WATCHDOG_SECONDS)
            try:
                store = dist.FileStore(str(folder / "store"), 2)
                dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=2))
                group = ProcessGroup(rank, 2)
                # Both have joined before either fails: a peer lost while joining is the launcher's matter.
                dist.barrier(group=group._patient_group)
                try:
                    result = repr(group.run_on_main(work))
                    result += f", then {group.all_reduce_max(rank)}"
                except Exception as error:
                    result = f"{type(error).__name__}: {error}"
                (folder / str(rank)).write_text(result)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [(folder / str(rank)).read_text() if (folder / str(rank)).is_file() else "died" for rank in range(2)]


def test_the_others_wait_longer_than_the_timeout_of_an_exchange(tmp_path: Path) -> None:
    def long() -> int:
        time.sleep(5)
        return 7

    assert results_of_two_processes(long, tmp_path) == ["7, then 1", "None, then 1"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("é" * 300), ["InputError: " + "é" * 300] * 2),
        (
            OSError(28, "No space left"),
            ["OSError: [Errno 28] No space left", "RuntimeError: the main process failed: "],
        ),
        (ValueError(), ["ValueError: ", "RuntimeError: the main process failed: ValueError"]),
    ],
    ids=["input", "other", "silent"],
)
def test_an_error_of_the_main_process_ends_all_processes(
    error: Exception, expected: list[str], tmp_path: Path
) -> None:
    def fails() -> None:
        raise error

    for found, begins in zip(results_of_two_processes(fails, tmp_path), expected, strict=True):
        assert found.startswith(begins)


def test_the_others_do_not_wait_for_a_killed_main_process(tmp_path: Path) -> None:
    started = time.monotonic()
    first, other = results_of_two_processes(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path)
    assert first == "died" and other.startswith(("RuntimeError", "DistBackendError", "DistNetworkError"))
    assert time.monotonic() - started < WATCHDOG_SECONDS


def test_a_single_process_exchanges_nothing() -> None:
    assert ProcessGroup().run_on_main(lambda: 3) == 3
    with pytest.raises(InputError, match="wrong"):
        ProcessGroup().run_on_main(lambda: (_ for _ in ()).throw(InputError("wrong")))
