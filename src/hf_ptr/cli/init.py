"""`hf-ptr init`: a recipe for a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.cli.episode_options import Episodes, SkipEpisodes, selected


def init(
    dataset: Annotated[str, typer.Argument(help="Path or repo id of a LeRobotDataset.")],
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
    state: Annotated[
        str, typer.Option(help="Feature of the robot's state; several are joined by commas.")
    ] = "observation.state",
    action: Annotated[str, typer.Option(help="Feature of the action; several are joined by commas.")] = "action",
    state_only: Annotated[
        bool, typer.Option("--state-only", help="Observe the state alone, without the cameras.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Recipe to write; must not exist yet.", show_default="standard output")
    ] = None,
) -> None:
    """Write a recipe that trains a new policy on a dataset, with the reason of each value as a comment.

    Features, sizes, steps and held-out episodes follow from the data: chunk length from the frame rate, relative
    actions where actions are target positions of the state, and episodes that validate refuses are left out.

    Examples:

        hf-ptr init data/g1_bottle > mine.yaml

        hf-ptr init data/g1_bottle --state-only --out mine.yaml

        hf-ptr init data/g1_bottle --episodes 0:10 --skip-episodes 3 --out few.yaml
    """
    from hf_ptr.errors import InputError
    from hf_ptr.report.next_steps import recipe_command
    from hf_ptr.runs.init_recipe import Choice, init_recipe
    from hf_ptr.utils.atomic_files import write_text

    if out is not None and out.exists():
        raise InputError(f"--out {out} exists already; choose another name, or delete it")
    text = init_recipe(dataset, Choice(state, action, state_only, **selected(episodes, skip_episodes)))
    if out is None:
        typer.echo(text, nl=False)
        given = {"episodes": episodes, "skip_episodes": skip_episodes, "state": state, "action": action}
        usual = {"state": "observation.state", "action": "action"}
        options = {name: value for name, value in given.items() if value != usual.get(name)}
        command = recipe_command(dataset, options, state_only=state_only)
        typer.echo(f"To write this recipe to a file: {command}", err=True)
        return
    write_text(text, out)
    typer.echo(f"{out}: look at it, then run hf-ptr train {out} --dry-run")
