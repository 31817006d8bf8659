"""`hf-ptr score`: the weight of every chunk of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    dataset: Annotated[Path, typer.Argument(help="Folder of a LeRobotDataset.")],
    scorer: Annotated[Path, typer.Option(help="Folder of a finished PTR run.")],
    out: Annotated[Path, typer.Option(help="The score file to write, a parquet.")] = Path("scores.parquet"),
    seed: Annotated[int, typer.Option(help="Of the order in which negatives are drawn.")] = 0,
) -> None:
    """Write the score and weight of every chunk of a dataset, one row a frame.

    Example:

        hf-ptr score data/mt10 --scorer runs/ptr --out scores.parquet
    """
    from hf_ptr.curation.scores import score_dataset, write_scores
    from hf_ptr.data.lerobot_reader import read_dataset

    scores = score_dataset(scorer, read_dataset(dataset), seed=seed)
    write_scores(scores, out)
    counted = scores[scores.valid]
    typer.echo(
        f"{out}: {len(scores)} frames, {len(counted)} with a target; mean score {counted.score.mean():.2f} nats, "
        f"mean weight {counted.weight.mean():.2f}"
    )
