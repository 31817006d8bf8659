"""`hf-ptr validate`: what is wrong with a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validate(
    dataset: Annotated[Path, typer.Argument(help="Path or repo id of a LeRobotDataset, v2.1 or v3.0.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Decode all pictures, and not only the first and last of an episode.")
    ] = False,
) -> None:
    """List everything that is wrong with a dataset, each with its episode and frame, and write nothing.

    Looks for missing and damaged files, lengths that disagree, NaN, timestamps out of order or of another frame rate,
    videos shorter than the table, unknown tasks, and (a warning) dimensions that never change. Ends with exit code 2
    if the dataset cannot be trained on, and says which episodes to skip so that the rest can.

    Examples:

        hf-ptr validate data/g1_bottle

        hf-ptr validate data/g1_bottle --json > problems.json

        hf-ptr validate data/g1_bottle --every-frame
    """
    import json

    from hf_ptr.data.lerobot.validation import validate_dataset
    from hf_ptr.hub.repos import dataset_folder
    from hf_ptr.utils.progress import progress_bar

    home = dataset_folder(dataset, cameras=None)
    with progress_bar() as progress:
        found = validate_dataset(
            home, every_frame=every_frame, progress=lambda what, jobs: progress.track(jobs, description=what)
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        for problem in found.problems:
            typer.echo(str(problem))
        errors = len(found.errors)
        typer.echo(
            f"{dataset}: {found.episodes} episodes, {found.frames} frames, {len(found.cameras)} cameras; "
            f"{errors} errors, {len(found.problems) - errors} warnings"
        )
        if not found.usable and found.skippable is not None:
            episodes = ",".join(map(str, found.skippable))
            typer.echo(f'The rest can be trained on with skip_episodes: "{episodes}" in the recipe.')
    if not found.usable:
        raise typer.Exit(2)
