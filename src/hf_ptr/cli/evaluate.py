"""`hf-ptr evaluate`: success rate in a simulator, or action error on held-out episodes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_ptr.cli.episode_options import SkipEpisodes, selected

if TYPE_CHECKING:
    from hf_ptr.data.episodes import EpisodeTable

# Columns of the tables where the output is not a terminal.
WIDTH = 110
ONE_RUN = "The intervals are over episodes. Runs with other seeds differ as well: train each arm with several."


class Belief(StrEnum):
    """The belief tokens that a chunk reads."""

    TRAINED = "trained"
    CARRIED = "carried"
    RESET = "reset"


def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="Paths or repo ids of saved policies.")],
    env: Annotated[str | None, typer.Option(help="Simulator for rollouts: metaworld, libero or robocasa.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Path or repo id of a LeRobotDataset to measure the action error on.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Suite of LIBERO or RoboCasa, such as libero_spatial.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks of the simulator, comma-separated.", show_default="MT10, or all of the suite"),
    ] = None,
    episodes: Annotated[
        str | None,
        typer.Option(
            help="With --env: rollouts per task. With --dataset: held-out episode ids, such as 16:20 or 5,15.",
            show_default="20 rollouts, or all episodes",
        ),
    ] = None,
    skip_episodes: SkipEpisodes = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Source of the mixture whose robot the policy controls.",
            show_default="the source with the dataset's name",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Steps after which a rollout counts as failed.", show_default="300, or the suite's limit"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of worker processes.")] = 2,
    belief: Annotated[
        Belief,
        typer.Option(help="Belief tokens of a chunk: as trained, carried from an earlier one, or reset."),
    ] = Belief.TRAINED,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure success rates in a simulator, or action errors on held-out episodes.

    With --env, policies are rolled out, and success rates are reported with 95 % Wilson intervals. With --dataset,
    predicted actions are compared with recorded ones, and with baselines: the mean action of the training episodes,
    zero, and the held position where actions are positions; by episode and by dimension, in the dataset's units.

    With several policies, each is also compared with the first one, episode by episode: the difference of the success
    rates or the ratio of the errors, and its 95 % interval.

    Examples:

        hf-ptr evaluate runs/ptr --env metaworld --episodes 20

        hf-ptr evaluate runs/ptr --env libero --suite libero_spatial --episodes 10

        hf-ptr evaluate runs/sft runs/ptr --dataset data/g1_bottle --episodes 16:20 --json results.json

        hf-ptr evaluate runs/mixture/ptr --env metaworld --source mt10-pixels
    """

    from hf_ptr.errors import InputError
    from hf_ptr.hub.repos import model_folder
    from hf_ptr.runs.run import require_policy
    from hf_ptr.utils.atomic_files import require_folder_of, write_json

    # A run that does not exist is named before options that are missing.
    folders = {name: model_folder(path) for name, path in checkpoint_names(checkpoints).items()}
    if (env is None) == (dataset is None):
        raise InputError("pass one of --env NAME and --dataset FOLDER, to choose where to evaluate")
    for folder in folders.values():
        require_policy(folder)
    if json_file is not None:
        require_folder_of(json_file)
    if dataset is not None:
        results = _on_dataset(
            folders, dataset, selected(episodes, skip_episodes), source=source, seed=seed, belief=belief
        )
    else:
        assert env is not None
        if skip_episodes is not None:
            raise InputError("--skip-episodes is for --dataset; leave it out with --env")
        number = episodes or "20"
        if not number.isdigit():
            raise InputError(f"--episodes {number!r} is not a number; with --env it counts rollouts per task")
        named = None if tasks is None else [task.strip() for task in tasks.split(",") if task.strip()]
        results = _in_simulator(
            folders,
            env,
            suite,
            named,
            int(number),
            seed=seed,
            max_steps=max_steps,
            workers=workers,
            source=source,
            belief=belief,
        )
    if json_file is not None:
        write_json(results, json_file)
        typer.echo(f"written to {json_file}")
    _print_next(
        checkpoints, list(folders.values()), _options(env, suite, dataset, episodes, skip_episodes, source, belief)
    )


def _in_simulator(
    folders: dict[str, Path],
    env: str,
    suite: str | None,
    tasks: list[str] | None,
    episodes: int,
    *,
    seed: int,
    max_steps: int | None,
    workers: int,
    source: str | None,
    belief: str,
) -> dict[str, Any]:
    """Print success rates; returns the content of the JSON file."""
    from hf_ptr.envs.registry import get_simulator
    from hf_ptr.evaluation.rollouts import evaluate_in
    from hf_ptr.metrics.success import comparison_table, success_difference

    simulator, console = get_simulator(env, suite), _console()
    tables = {}
    for name, folder in folders.items():
        result = evaluate_in(
            simulator,
            folder,
            tasks,
            episodes,
            seed=seed,
            max_steps=max_steps,
            workers=workers,
            source=source,
            belief=belief,
        )
        console.print(result.to_rich(title=name))
        tables[name] = result
    if len(tables) > 1:
        console.print(comparison_table(tables))
        typer.echo(ONE_RUN)
    limits = {task: max_steps or simulator.steps(task) for task in simulator.tasks(tasks)}
    same = len(set(limits.values())) == 1
    settings = {"environment": env, "seed": seed, "max_steps": next(iter(limits.values())) if same else limits}
    if suite is not None:
        settings["suite"] = suite
    settings |= _belief(belief)
    first = next(iter(tables.values()))
    compared = {name: success_difference(table, first) for name, table in list(tables.items())[1:]}
    return _results({name: table.to_dict() for name, table in tables.items()}, compared, settings)


def _on_dataset(
    folders: dict[str, Path], dataset: Path, chosen: dict[str, Any], *, source: str | None, seed: int, belief: str
) -> dict[str, Any]:
    """Print action errors; returns the content of the JSON file."""
    from hf_ptr.data.episode_ids import episode_ranges
    from hf_ptr.data.lerobot.metadata import read_metadata
    from hf_ptr.errors import InputError
    from hf_ptr.evaluation import error_text
    from hf_ptr.evaluation.offline import evaluate_dataset
    from hf_ptr.hub.datasets import load_dataset
    from hf_ptr.hub.repos import dataset_folder
    from hf_ptr.runs.run import trained_episodes

    console = _console()
    table = load_dataset(dataset, **chosen, cameras=())
    ids = table.episode_index.tolist()
    known = read_metadata(dataset_folder(dataset), lambda _, __: None).episode_index.tolist()
    errors, warnings = {}, []
    for name, folder in folders.items():
        trained = trained_episodes(folder, table.source, known)
        seen = sorted(trained.intersection(ids))
        reference = _reference(dataset, trained or set(known).difference(ids))
        try:
            error = evaluate_dataset(folder, table, reference=reference, seed=seed, source=source, belief=belief)
        except InputError as unusable:
            # The option that the message ends with replaces the one that was given.
            skip = {*unusable.skip, *chosen["skip"]} if unusable.skip else ()
            raise InputError(str(unusable), skip=sorted(skip)) from unusable
        errors[name] = error
        if seen:
            warnings.append(
                f"{name} was trained on {len(seen)} of these episodes ({episode_ranges(seen)}), so its error is too "
                "small; evaluate it on others"
            )
    # The verdicts first, then the tables behind them.
    for line in [*(error_text.verdict(name, error) for name, error in errors.items()), *warnings]:
        typer.echo(line)
    typer.echo()
    if len(errors) > 1:
        console.print(error_text.comparison_table(errors))
        typer.echo(f"{ONE_RUN}\n")
    for name, error in errors.items():
        for each in (error_text.summary_table, error_text.dimensions_table, error_text.episodes_table):
            console.print(each(name, error))
            typer.echo()
    typer.echo(error_text.legend(errors))
    settings = {
        "dataset": table.source,
        "revision": table.revision,
        "episode_ids": episode_ranges(ids),
        "seed": seed,
        **_belief(belief),
    }
    return _results({name: one.to_dict() for name, one in errors.items()}, error_text.differences(errors), settings)


def _belief(belief: str) -> dict[str, str]:
    """The setting of a results file where the belief tokens are not those of training."""
    return {} if belief == Belief.TRAINED else {"belief": belief}


def _results(
    arms: dict[str, dict[str, Any]], compared: dict[str, dict[str, Any]], settings: dict[str, Any]
) -> dict[str, Any]:
    """The content of the JSON file: results by checkpoint, differences to the first one, and the settings."""
    differences = {"differences": {"to": next(iter(arms)), **compared}} if compared else {}
    return {"arms": arms, **differences, "evaluation": settings}


def _options(
    env: str | None,
    suite: str | None,
    dataset: Path | None,
    episodes: str | None,
    skip_episodes: str | None,
    source: str | None,
    belief: str,
) -> list[str]:
    """The given options again, for a command that evaluates another policy in the same way."""
    given = {
        "env": env,
        "suite": suite,
        "dataset": dataset,
        "episodes": episodes,
        "skip-episodes": skip_episodes,
        "source": source,
        "belief": None if belief == Belief.TRAINED else belief,
    }
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def _print_next(checkpoints: list[Path], folders: list[Path], options: list[str]) -> None:
    """Print what to type next: a comparison with another run, and the report of a run that has a log."""
    import shlex

    steps = []
    if len(checkpoints) == 1:
        command = shlex.join(["hf-ptr", "evaluate", str(checkpoints[0])])
        steps.append((f"{command} OTHER_RUN {shlex.join(options)}", "compare with another run"))
    if all((folder / "trainer_state.json").is_file() for folder in folders):
        words = ["hf-ptr", "report", str(checkpoints[0])]
        words += ["--compare", str(checkpoints[1])] if len(checkpoints) > 1 else []
        steps.append((shlex.join(words), "see the weights and the training"))
    for line in ["Next:" if steps else "", *(f"  {command}   # {purpose}" for command, purpose in steps)]:
        typer.echo(line)


def _console() -> Any:
    """A console that is wide enough for the tables where the output is not a terminal."""
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def _reference(dataset: Path, episodes: set[int]) -> EpisodeTable | None:
    """The episodes whose mean action is a baseline; those that cannot be read are left out, and None without any."""
    from hf_ptr.errors import InputError
    from hf_ptr.hub.datasets import load_dataset

    try:
        return load_dataset(dataset, sorted(episodes), cameras=()) if episodes else None
    except InputError as error:
        return _reference(dataset, episodes.difference(error.skip)) if episodes.intersection(error.skip) else None


def checkpoint_names(checkpoints: list[Path]) -> dict[str, Path]:
    """Short name of each checkpoint: its folder name, or its full path if folder names coincide."""
    short = [folder.name for folder in checkpoints]
    return {(folder.name if short.count(folder.name) == 1 else str(folder)): folder for folder in checkpoints}
