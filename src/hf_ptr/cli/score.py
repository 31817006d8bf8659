"""`hf-ptr score`: the weight of every chunk of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    dataset: Annotated[Path, typer.Argument(help="Folder or Hub id of a LeRobotDataset.")],
    scorer: Annotated[Path | None, typer.Option(help="Folder or Hub id of a PTR run, whose scorer is used.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit light scorers on the dataset itself; no policy needed.")
    ] = False,
    observation: Annotated[
        str | None,
        typer.Option(
            help="With --fit: what is observed, comma-separated features.",
            show_default="the state",
        ),
    ] = None,
    state: Annotated[str, typer.Option(help="With --fit: the proprioceptive state.")] = "observation.state",
    action: Annotated[str, typer.Option(help="With --fit: the action.")] = "action",
    chunk_size: Annotated[int, typer.Option(help="With --fit: actions of a chunk.")] = 16,
    target_offset: Annotated[int, typer.Option(help="With --fit: frames to the observation that followed.")] = 16,
    out: Annotated[Path, typer.Option(help="The score file to write, a parquet.")] = Path("scores.parquet"),
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
) -> None:
    """Write the score and weight of every chunk of a dataset, one row a frame.

    With --fit the scorers are fitted on the dataset, each episode scored by one that has not seen it, and the worst
    episodes are shown. With --scorer, as the run scored the chunks while it trained.

    Examples:

        hf-ptr score data/mt10 --fit --observation observation.environment_state

        hf-ptr score data/mt10 --scorer runs/ptr --out scores.parquet
    """
    from rich.console import Console

    from hf_ptr.curation.scores import score_dataset, worst_episodes
    from hf_ptr.data.chunks import ChunkDataset
    from hf_ptr.data.lerobot_reader import read_dataset
    from hf_ptr.data.weights import write_scores
    from hf_ptr.errors import InputError
    from hf_ptr.hub.places import dataset_folder, model_folder, named

    if fit == (scorer is not None):
        raise InputError("pass either --fit, or --scorer RUN for the scorer of a finished PTR run")
    if out.is_dir() or out.suffix != ".parquet":
        raise InputError(f"--out {out} is no name for a score file; end it in .parquet")
    home = dataset_folder(dataset, (observation or state).split(","))
    table = named(read_dataset(home), home)
    if scorer is not None:
        scores = score_dataset(model_folder(scorer), table, seed=seed)
    else:
        from hf_ptr.scoring.fitting import fit_scores

        chunks = ChunkDataset(
            table,
            chunk_size=chunk_size,
            target_offset=target_offset,
            observation_features=[name.strip() for name in (observation or state).split(",")],
            state_feature=state,
            action_feature=action,
        )
        scores = fit_scores(chunks, seed=seed)
    write_scores(scores, out)
    counted = scores[scores.valid]
    typer.echo(
        f"{out}: {len(scores)} frames, {len(counted)} with a target; mean score {counted.score.mean():.2f}, "
        f"mean weight {counted.weight.mean():.2f}"
    )
    if fit:
        Console().print(worst_episodes(scores, table.tasks))
        typer.echo(f"Train with it: hf-ptr train RECIPE dataset={dataset} weights={out} alpha=0")
