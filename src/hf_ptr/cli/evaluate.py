"""`hf-ptr evaluate`: success in an environment, or action error on held-out episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="Folders or Hub ids of saved policies.")],
    env: Annotated[str | None, typer.Option(help="Environment to roll out in: metaworld, libero or robocasa.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Folder or Hub id of a LeRobotDataset to measure the action error on.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Tasks of libero or robocasa that go together, such as libero_spatial.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks of the environment, comma-separated.", show_default="MT10, or all of the suite"),
    ] = None,
    episodes: Annotated[
        str | None, typer.Option(help="Rollouts per task, or held-out episode ids of the dataset, as in 16:20.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Of a policy of a mixture: the source that it is to act for.", show_default="by its name"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial states and of the policy's noise.")] = 0,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Steps after which a rollout has failed.", show_default="300, or as the suite says"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that roll out.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results here.")] = None,
) -> None:
    """Success rates with 95 % Wilson intervals in an environment, or held-out action error on a dataset.

    Examples:

        hf-ptr evaluate runs/ptr --env metaworld --episodes 20

        hf-ptr evaluate runs/ptr --env libero --suite libero_spatial --episodes 10

        hf-ptr evaluate runs/sft runs/ptr --dataset data/g1_bottle --episodes 16:20 --json results.json

        hf-ptr evaluate runs/mixture/ptr --env metaworld --source mt10-pixels
    """
    from rich.console import Console

    from hf_ptr.errors import InputError
    from hf_ptr.hub.repos import model_folder
    from hf_ptr.utils.atomic_files import write_json

    console = Console()
    if (env is None) == (dataset is None):
        raise InputError("pass one of --env NAME and --dataset FOLDER, to say where to evaluate")
    names = {name: model_folder(place) for name, place in checkpoint_names(checkpoints).items()}
    if env is not None:
        from hf_ptr.envs.registry import get_simulator
        from hf_ptr.evaluation.rollouts import evaluate_in

        simulator = get_simulator(env, suite)
        number = episodes or "20"
        if not number.isdigit():
            raise InputError(f"--episodes {number!r} is no number; in an environment it is the rollouts per task")
        wanted = None if tasks is None else [task.strip() for task in tasks.split(",") if task.strip()]
        arms = {}
        for name, folder in names.items():
            result = evaluate_in(
                simulator, folder, wanted, int(number), seed=seed, max_steps=max_steps, workers=workers, source=source
            )
            console.print(result.to_rich(title=name))
            arms[name] = result.to_dict()
        limits = {task: max_steps or simulator.steps(task) for task in simulator.tasks(wanted)}
        same = len(set(limits.values())) == 1
        how = {"environment": env, "seed": seed, "max_steps": next(iter(limits.values())) if same else limits}
        if suite is not None:
            how["suite"] = suite
    else:
        from hf_ptr.evaluation.offline import compare, evaluate_dataset
        from hf_ptr.hub.datasets import load_dataset
        from hf_ptr.runs.data_arguments import parse_episodes
        from hf_ptr.runs.run import trained_episodes

        assert dataset is not None
        table = load_dataset(str(dataset), parse_episodes(episodes))
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
