"""`hf-ptr report`: the scores of a dataset or a training run, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.cli.episode_options import Episodes, SkipEpisodes, selected


def report(
    source: Annotated[Path, typer.Argument(help="Folder of a run, or score file.", metavar="RUN|SCORES")],
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Path or repo id of the dataset that was scored.", show_default="recorded in the run or score file"
        ),
    ] = None,
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
    compare: Annotated[Path | None, typer.Option(help="Second run or score file, to compare with.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write.", show_default="next to the score file, or in the run")
    ] = None,
) -> None:
    """Write a report as one HTML file: findings, the episodes to inspect first and why, and the episodes to drop.

    The file loads nothing from the network. The weights of a run with the PTR score are computed with its scorer.

    Examples:

        hf-ptr report scores.parquet --dataset data/g1_bottle

        hf-ptr report scores.parquet --episodes 0:16 --skip-episodes 3

        hf-ptr report runs/ptr --compare runs/sft --out ptr-and-sft.html
    """
    from hf_ptr.report.page import write_report

    written = write_report(source, out, dataset=dataset, compare=compare, **selected(episodes, skip_episodes))
    typer.echo(f"{written} ({written.stat().st_size / 1e6:.1f} MB): open it in a browser")
