"""`hf-ptr record`: record demonstrations in a simulator."""

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
    out: Annotated[Path, typer.Option(help="Dataset folder to write; must be missing or empty.")],
    tasks: Annotated[
        str, typer.Option(help="Meta-World tasks, comma-separated, with or without -v3.")
    ] = DEFAULT_TASKS,
    episodes: Annotated[int, typer.Option(help="Successful demonstrations per task.")] = 40,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    pixels: Annotated[
        int | None,
        typer.Option(help="Also record a video of this width and height.", show_default="no video"),
    ] = None,
    operators: Annotated[
        str, typer.Option(help="Simulated operators, in turn, comma-separated: expert, slow, hesitant, clumsy.")
    ] = "expert",
    control: Annotated[str, typer.Option(help="Control mode: hand (4 dimensions) or joints (8 dimensions).")] = "hand",
    workers: Annotated[
        int | None, typer.Option(help="Number of worker processes.", show_default="one per core")
    ] = None,
) -> None:
    """Record Meta-World's scripted experts (39-dimensional observations, 80 Hz).

    The same options produce the same files for any number of workers.

    Examples:

        hf-ptr record metaworld --out data/mt10

        hf-ptr record metaworld --tasks reach,push --episodes 100 --out data/two --seed 1

        hf-ptr record metaworld --operators expert,expert,slow,clumsy --out data/mixed

        hf-ptr record metaworld --tasks door-open --episodes 20 --pixels 96 --out data/door
    """
    import json

    from hf_ptr.envs.recording import record_metaworld
    from hf_ptr.utils.listing import counted

    folder = record_metaworld(
        _names(tasks),
        episodes,
        out,
        seed=seed,
        pixels=pixels,
        workers=workers,
        operators=_names(operators),
        control=control,
    )
    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    typer.echo(
        f"{folder}: {counted(info['total_episodes'], 'episode')}, {counted(info['total_frames'], 'frame')}, "
        f"{counted(info['total_tasks'], 'task')}"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
