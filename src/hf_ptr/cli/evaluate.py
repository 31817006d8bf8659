"""`hf-ptr evaluate`: success in an environment, or action error on held-out episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.cli.record import DEFAULT_TASKS


def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="Folders or Hub ids of saved policies.")],
    env: Annotated[str | None, typer.Option(help="Environment to roll out in: metaworld.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Folder or Hub id of a LeRobotDataset to measure the action error on.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Tasks of the environment, comma-separated.")] = DEFAULT_TASKS,
    episodes: Annotated[
        str | None, typer.Option(help="Rollouts per task, or held-out episode ids of the dataset, as in 16:20.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Of a policy of a mixture: the source that it is to act for.", show_default="by its name"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial states and of the policy's noise.")] = 0,
    max_steps: Annotated[int, typer.Option(help="Steps after which a rollout has failed.")] = 300,
    workers: Annotated[int, typer.Option(help="Processes that roll out.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results here.")] = None,
) -> None:
    """Success rates with 95 % Wilson intervals in an environment, or held-out action error on a dataset.

    Examples:

        hf-ptr evaluate runs/ptr --env metaworld --episodes 20

        hf-ptr evaluate runs/sft runs/ptr --dataset data/g1_bottle --episodes 16:20 --json results.json

        hf-ptr evaluate runs/mixture/ptr --env metaworld --source mt10-pixels
    """
    from rich.console import Console

    from hf_ptr.errors import InputError, nearest
    from hf_ptr.files import write_json
    from hf_ptr.hub.places import model_folder

    console = Console()
    if (env is None) == (dataset is None):
        raise InputError("pass one of --env metaworld and --dataset FOLDER, to say where to evaluate")
    names = {name: model_folder(place) for name, place in checkpoint_names(checkpoints).items()}
    if env is not None:
        if env != "metaworld":
            raise InputError(f"unknown environment {env!r}.{nearest(env, ['metaworld'])} Known: metaworld")
        from hf_ptr.evaluation.rollouts import evaluate_metaworld

        number = episodes or "20"
        if not number.isdigit():
            raise InputError(f"--episodes {number!r} is no number; in an environment it is the rollouts per task")
        wanted = [task.strip() for task in tasks.split(",") if task.strip()]
        arms = {}
        for name, folder in names.items():
            result = evaluate_metaworld(
                folder, wanted, int(number), seed=seed, max_steps=max_steps, workers=workers, source=source
            )
            console.print(result.to_rich(title=name))
            arms[name] = result.to_dict()
        how = {"environment": env, "seed": seed, "max_steps": max_steps}
    else:
        from hf_ptr.evaluation.offline import compare, evaluate_dataset
        from hf_ptr.hub.datasets import load_table
        from hf_ptr.training.data_arguments import parse_episodes
        from hf_ptr.training.run import trained_episodes

        assert dataset is not None
        table = load_table(str(dataset), parse_episodes(episodes))
        how = {"dataset": table.source, "revision": table.revision, "episode_ids": episodes, "seed": seed}
        for name, folder in names.items():
            seen = sorted(set(table.episode_index.tolist()) & trained_episodes(folder, table.source))
            if seen:
                console.print(
                    f"{name} was trained on {len(seen)} of these episodes, such as {seen[0]}", style="yellow"
                )
        errors = {name: evaluate_dataset(folder, table, seed=seed, source=source) for name, folder in names.items()}
        for name, measured in errors.items():
            console.print(measured.to_rich(title=name))
        if len(errors) > 1:
            console.print(compare(errors))
        arms = {name: measured.to_dict() for name, measured in errors.items()}
    if json_file is not None:
        write_json({"arms": arms, "evaluation": how}, json_file)
        console.print(f"written to {json_file}")


def checkpoint_names(checkpoints: list[Path]) -> dict[str, Path]:
    """A short name for each checkpoint: its folder's, or its path where two folders are called the same."""
    short = [folder.name for folder in checkpoints]
    return {(folder.name if short.count(folder.name) == 1 else str(folder)): folder for folder in checkpoints}
