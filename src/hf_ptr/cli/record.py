"""`hf-ptr record`: demonstrations from simulated environments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.envs.metaworld import tasks as metaworld_tasks

app = typer.Typer(no_args_is_help=True)

DEFAULT_TASKS = ",".join(task.removesuffix("-v3") for task in metaworld_tasks.DEFAULT_TASKS)


@app.callback()
def record() -> None:
    """Record demonstrations as a LeRobotDataset v3.0.

    Example:

        hf-ptr record metaworld --out data/mt10
    """


@app.command()
def metaworld(
    out: Annotated[Path, typer.Option(help="The dataset's folder; must not exist, or be empty.")],
    tasks: Annotated[
        str, typer.Option(help="Tasks of Meta-World, comma-separated, '-v3' may be left out.")
    ] = DEFAULT_TASKS,
    episodes: Annotated[int, typer.Option(help="Successful demonstrations per task.")] = 40,
    seed: Annotated[int, typer.Option(help="Initial states are drawn from it.")] = 0,
    pixels: Annotated[
        int | None, typer.Option(help="Also record a video of this width and height.", show_default="no video")
    ] = None,
    operators: Annotated[
        str, typer.Option(help="Who demonstrates, in turn, comma-separated: expert, slow, hesitant, clumsy.")
    ] = "expert",
    control: Annotated[
        str, typer.Option(help="What the robot is told: hand (4 dimensions) or joints (8 dimensions).")
    ] = "hand",
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="one a core")] = None,
) -> None:
    """Record the scripted experts of Meta-World's tabletop tasks (39-d observations, 80 Hz).

    The same options give the same files, however many workers there are.

    Examples:

        hf-ptr record metaworld --out data/mt10

        hf-ptr record metaworld --tasks reach,push --episodes 100 --out data/two --seed 1

        hf-ptr record metaworld --operators expert,expert,slow,clumsy --out data/mixed

        hf-ptr record metaworld --tasks door-open --episodes 20 --pixels 96 --out data/door
    """
    import json

    from hf_ptr.envs.recording import record_metaworld

    names, people = ([name.strip() for name in text.split(",") if name.strip()] for text in (tasks, operators))
    folder = record_metaworld(
        names, episodes, out, seed=seed, pixels=pixels, workers=workers, operators=people, control=control
    )
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    typer.echo(
        f"{folder}: {info['total_episodes']} episodes, {info['total_frames']} frames, {info['total_tasks']} tasks"
    )
