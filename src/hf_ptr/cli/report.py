"""`hf-ptr report`: what a run or a score file says of the data, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    place: Annotated[Path, typer.Argument(help="Folder of a run, or a score file.", metavar="RUN|SCORES")],
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Folder or Hub id of the dataset that was scored.", show_default="as the run or score file names it"
        ),
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another run or score file, to stand beside it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file to write.", show_default="beside the first")] = None,
) -> None:
    """What the weights say of the data: the worst and best episodes, and why, in one HTML file without network.

    Of a run with the published score, which keeps no weights, they are computed from its scorer.

    Examples:

        hf-ptr report scores.parquet --dataset data/g1_bottle

        hf-ptr report runs/ptr --compare runs/sft --out ptr-and-sft.html
    """
    from hf_ptr.errors import InputError
    from hf_ptr.report.inputs import load_scored_table, read_report_input, with_scores
    from hf_ptr.report.page import write_report

    evidence = read_report_input(place)
    compared = None if compare is None else read_report_input(compare)
    if out is None:
        out = place / "report.html" if place.is_dir() else place.with_suffix(".html")
    if out.is_dir() or out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out} is no name for a report; end it in .html")
    table = load_scored_table(evidence, dataset)
    if table is not None:
        try:
            evidence = with_scores(evidence, table, place)
            if compared is not None and compare is not None:
                compared = with_scores(compared, table, compare)
        except InputError as error:
            # What a run logged is worth a report, also where its scorer cannot be read any more.
            typer.echo(f"Without weights from the run's scorer: {error}", err=True)
    else:
        typer.echo(
            "Without the dataset there are no film strips and no task names; pass --dataset, a folder or Hub id.",
            err=True,
        )
    folder = str(dataset) if dataset is not None else evidence.dataset
    write_report(evidence, out, table=table, dataset=folder, compared=compared)
    typer.echo(f"{out} ({out.stat().st_size / 1e6:.1f} MB): open it in a browser")
