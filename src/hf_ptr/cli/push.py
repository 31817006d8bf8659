"""`hf-ptr push`: push a run, one of its components, or a score file to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    what: Annotated[
        list[str],
        typer.Argument(help="Folder of a run or component, or: scores FILE.", metavar="FOLDER | scores FILE"),
    ],
    repo_id: Annotated[str, typer.Option(help="Repository to push to, user/name. Created if it does not exist.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository.", show_default="your Hub setting"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to. Created if it does not exist.", show_default="main")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Commit message.", show_default="Push NAME, or Scores")] = None,
    license: Annotated[str | None, typer.Option(help="Licence for the card, for example apache-2.0.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results for the card, from evaluate --json FILE.", show_default="evaluation.json in the run"
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="For scores: repo id of the dataset that was scored, for the card.")
    ] = None,
) -> None:
    """Push a trained policy with its components and card, or a score file as a dataset, in one commit.

    Rerun an interrupted push to send only the missing files. No part of an unfinished push is visible. Log in with
    `hf auth login`, or set HF_TOKEN.

    Examples:

        hf-ptr push runs/ptr --repo-id me/reach-ptr --private --license apache-2.0

        hf-ptr push runs/ptr/scorer --repo-id me/reach-scorer

        hf-ptr push scores scores.parquet --repo-id me/reach-scores --dataset me/reach
    """
    from hf_ptr.errors import InputError
    from hf_ptr.hub.push import ensure_repository

    scores = what[0] == "scores" and len(what) == 2
    if len(what) > 1 and not scores:
        raise InputError(f"{' '.join(what)}: too many arguments; pass one folder, or scores FILE")
    path = Path(what[-1])
    if scores or path.suffix == ".parquet":
        from hf_ptr.report.hub_scores import push_scores, read_for_push

        frame = read_for_push(path)
        full = ensure_repository(repo_id, "dataset", private=private, revision=revision)
        commit = push_scores(
            path, frame, full, dataset=dataset, message=message or "Scores", revision=revision, license=license
        )
        typer.echo(f"Pushed the scores to {full} (commit {commit}). Train with them: weights={full} alpha=0")
        return
    from hf_ptr.training.publishing import push_run, require_pushable

    if dataset is not None:
        raise InputError("--dataset is only for scores; remove it, a run records its own training data")
    require_pushable(path, results)
    full = ensure_repository(repo_id, private=private, revision=revision)
    commit = push_run(
        path,
        full,
        message=message or f"Push {path.name}",
        revision=revision,
        metadata={"license": license},
        results=results,
    )
    typer.echo(f'Pushed {path} to {full} (commit {commit}). Load it: AutoModel.from_pretrained("{full}")')
