"""`hf-ptr demo`: record, corrupt, train three arms, evaluate, and show what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("runs/demo"),
    episodes: Annotated[int, typer.Option(help="Demonstrations per task.")] = 40,
    rollouts: Annotated[int, typer.Option(help="Evaluation episodes per task.")] = 20,
    max_steps: Annotated[int | None, typer.Option(help="Training steps per arm.", show_default="the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="Of recording, faults, training and evaluation.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that simulate.")] = 2,
) -> None:
    """Ten simulated tasks, a corrupted copy of their demonstrations; SFT, PTR as published, and calibrated weights.

    Interrupted and started again, it goes on where it was.

    Example:

        hf-ptr demo --out runs/demo
    """
    from hf_ptr.cli.demo_pipeline import run_demo

    run_demo(out, episodes=episodes, rollouts=rollouts, max_steps=max_steps, seed=seed, workers=workers)
