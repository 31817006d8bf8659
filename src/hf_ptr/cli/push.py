"""`hf-ptr push`: a run, one of its components, or a score file to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    what: Annotated[
        list[str], typer.Argument(help="Folder of a run or component, or the word scores and a score file.")
    ],
    repo_id: Annotated[str, typer.Option(help="Where to push to: user/name; made where it is not there yet.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository.", show_default="your own default")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; made where it is not there yet.", show_default="main")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.", show_default="what is pushed")] = None,
    license: Annotated[str | None, typer.Option(help="Licence for the card, as apache-2.0.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="What evaluate --json wrote, for the card.", show_default="evaluation.json of the run"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Of scores: Hub id of the dataset that was scored, for the card.")
    ] = None,
) -> None:
    """Push a trained policy with its parts and its card, or a score file as a dataset, in one commit.

    Interrupted and started again, it sends only what is not there yet; nothing half sent can be seen. Log in with
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
        raise InputError(f"{' '.join(what)}: pass one folder, or the word scores and one score file")
    path = Path(what[-1])
    if scores or path.suffix == ".parquet":
        from hf_ptr.report.hub_scores import push_scores, read_for_push

        frame = read_for_push(path)
        full = ensure_repository(repo_id, "dataset", private=private, revision=revision)
        commit = push_scores(
            path, frame, full, dataset=dataset, message=message or "Scores", revision=revision, license=license
        )
        typer.echo(f"{full} holds the scores (commit {commit}). Train with them: weights={full} alpha=0")
        return
    from hf_ptr.training.publishing import push_run, require_pushable

    if dataset is not None:
        raise InputError("--dataset goes with scores; a run says itself what it was trained on")
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
    typer.echo(f'{full} holds {path} (commit {commit}). Load it: AutoModel.from_pretrained("{full}")')
