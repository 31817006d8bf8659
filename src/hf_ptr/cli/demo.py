"""`hf-ptr demo`: record, corrupt, train three arms, evaluate and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/demo"),
    episodes: Annotated[int, typer.Option(help="Demonstrations per task.")] = 40,
    rollouts: Annotated[int, typer.Option(help="Evaluation episodes per task.")] = 20,
    max_steps: Annotated[int | None, typer.Option(help="Training steps per arm.", show_default="the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    workers: Annotated[int, typer.Option(help="Number of worker processes.")] = 2,
) -> None:
    """Compare calibrated weights with plain SFT and with PTR as published, on faulty demonstrations.

    Records demonstrations of ten simulated tasks, adds faults to a copy, trains the three arms on the copy, evaluates
    them and writes a report on the calibrated weights. Takes about ten minutes on two cores. Rerun an interrupted demo
    to resume it.

    Example:

        hf-ptr demo --out runs/demo
    """
    from hf_ptr.cli.demo_pipeline import run_demo

    run_demo(out, episodes=episodes, rollouts=rollouts, max_steps=max_steps, seed=seed, workers=workers)
