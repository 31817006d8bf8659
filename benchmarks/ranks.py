"""
Processes of one run on this machine, forked from this one: they exchange by Gloo, with the variables that `accelerate
launch` sets. A fork has everything imported already.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState


def start_ranks(work: Callable[[int], None], count: int, log: Path) -> list[int]:
    """
    Starts the processes; their output goes to a file.

    Args:
        work: called with the rank in each process.
        count: number of processes; one is no distributed run.
        log: the file.

    Returns:
        Their process ids.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with log.open("a") as output:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    _join(rank, count, port)
                    work(rank)
                    code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return children


def results_of_ranks(work: Callable[[], Any], count: int, folder: Path) -> list[Any]:
    """
    What `work` returns in each of `count` processes, as JSON.

    Args:
        work: called in each process.
        count: number of processes.
        folder: for the output and the results of the processes.
    """

    def written(rank: int) -> None:
        (folder / f"{rank}.json").write_text(json.dumps(work()))
        if dist.is_initialized():
            dist.destroy_process_group()

    log = folder / "ranks.log"
    for child in start_ranks(written, count, log):
        if os.waitpid(child, 0)[1]:
            sys.exit(f"a process of a run failed; {log}:\n{log.read_text()[-3000:]}")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def _join(rank: int, count: int, port: int) -> None:
    """Makes this process one of a run."""
    torch.set_num_threads(1)
    # What accelerate found out about the parent.
    AcceleratorState._reset_state(reset_partial_state=True)
    if count == 1:
        return
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in {**variables, "WORLD_SIZE": count}.items()}
