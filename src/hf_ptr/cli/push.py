"""`hf-ptr push`: push a run, one of its components, a score file or a report to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Folder of a run or component; scores and a file; or report and a run, a score file or an HTML file.",
            metavar="FOLDER | scores FILE | report SOURCE",
        ),
    ],
    repo_id: Annotated[str, typer.Option(help="Repository to push to, user/name. Created if it does not exist.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository.", show_default="your Hub setting"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to. Created if it does not exist.", show_default="main")
    ] = None,
    message: Annotated[
        str | None, typer.Option(help="Commit message.", show_default="Push NAME, Scores or Report")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Licence for the card, for example apache-2.0.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results for the card, from evaluate --json FILE.", show_default="evaluation.json in the run"
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="For scores: repo id of the scored dataset, for the card. For a report: its path or repo id.",
            show_default="recorded in the scores",
        ),
    ] = None,
) -> None:
    """Push a trained policy with its components and card, a score file as a dataset, or a report as a static Space.

    A push is one commit. A Space opens the report in the browser, with images of the dataset, for all who may see it.

    Rerun an interrupted push to send only the missing files. No part of an unfinished push is visible. Log in with
    `hf auth login`, or set HF_TOKEN.

    Examples:

        hf-ptr push runs/ptr --repo-id me/reach-ptr --private --license apache-2.0

        hf-ptr push runs/ptr/scorer --repo-id me/reach-scorer

        hf-ptr push scores scores.parquet --repo-id me/reach-scores --dataset me/reach

        hf-ptr push report scores.parquet --repo-id me/reach-report --private
    """
    from hf_ptr.errors import InputError
    from hf_ptr.hub.push import ensure_repository

    kind = what[0] if len(what) == 2 and what[0] in ("scores", "report") else None
    if len(what) > 1 and kind is None:
        raise InputError(f"{' '.join(what)}: too many arguments; pass one folder, scores FILE, or report SOURCE")
    path = Path(what[-1])
    if results is not None and (kind is not None or path.suffix == ".parquet"):
        raise InputError("--results is only for a run or component; remove it")
    if kind == "report":
        _push_report(path, repo_id, private, revision, message, license, dataset)
        return
    if kind == "scores" or path.suffix == ".parquet":
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
        raise InputError("--dataset is only for scores and reports; remove it, a run records its own training data")
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


def _push_report(
    source: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    message: str | None,
    license: str | None,
    dataset: str | None,
) -> None:
    import tempfile

    from hf_ptr.hub.push import ensure_repository, require_writable
    from hf_ptr.report.hub_report import push_report, report_page

    # Before the page, whose pictures take a while.
    require_writable(repo_id, "space", private=private)
    with tempfile.TemporaryDirectory() as made:
        page = report_page(source, Path(made), dataset)
        full = ensure_repository(repo_id, "space", private=private, revision=revision)
        title = f"{source.stem}: hf-ptr report"
        commit = push_report(page, full, title=title, message=message or "Report", revision=revision, license=license)
    typer.echo(
        f"Pushed the report to the Space {full} (commit {commit}). Open it: https://huggingface.co/spaces/{full}"
    )
