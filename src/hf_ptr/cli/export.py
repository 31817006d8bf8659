"""`hf-ptr export`: weights and findings in the formats that trainers read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """The format to write."""

    LEROBOT_STATIC = "lerobot-static"
    LEROBOT_RABC = "lerobot-rabc"


def export(
    scores: Annotated[Path, typer.Argument(help="Score file, or repo id of one.", metavar="SCORES")],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="next to the score file, named by the format")
    ] = None,
    chunk_size: Annotated[
        int, typer.Option(help="Actions per chunk of the policy (lerobot-rabc). 50: SmolVLA, π0; 100: ACT.")
    ] = 50,
) -> None:
    """Write the weights of a score file in the format of another trainer.

    lerobot-static: weights by frame, which LeRobot's proposed `static` sample weighting reads. lerobot-rabc: a
    progress file for the RA-BC weighting of LeRobot 0.6, whose weights come as near to ours as its rule allows; the
    remaining error is printed.

    Examples:

        hf-ptr export scores.parquet --to lerobot-static --out weights.parquet

        hf-ptr export scores.parquet --to lerobot-rabc --chunk-size 50
    """
    import shlex

    from hf_ptr.data.score_file import read_scores
    from hf_ptr.errors import InputError
    from hf_ptr.exports.parquet_weights import static_weights, write_parquet
    from hf_ptr.exports.rabc import progress_table, rabc_weights, weight_error
    from hf_ptr.hub.datasets import score_file_path

    file = score_file_path(scores)
    rows = read_scores(file)
    path = out or Path(file.name).with_suffix(f".{to.value}.parquet")
    if path.resolve() == file.resolve():
        raise InputError(f"--out {path} is the score file itself; name another file")
    made = {"dataset": rows.attrs.get("dataset"), "scores": file.name, "format": to.value}
    if to.value == Format.LEROBOT_STATIC:
        table = static_weights(rows)
        write_parquet(table, path, **made)
        typer.echo(f"{path}: weights of {len(table)} frames, scaled to mean 1")
        return
    table = progress_table(rows, chunk_size)
    error = weight_error(rows["weight"].to_numpy(), rabc_weights(table, chunk_size))
    write_parquet(table, path, **made, chunk_size=chunk_size)
    typer.echo(f"{path}: progress of {len(table)} frames, for policies with chunk_size {chunk_size}")
    typer.echo(
        f"RA-BC's weights against ours, both scaled to mean 1: mean absolute error {error['mean']:.4f}, largest "
        f"{error['max']:.2f}, correlation {error['correlation']:.3f}"
    )
    typer.echo(
        "Next:\n  lerobot-train … --sample_weighting.type=rabc "
        f"--sample_weighting.progress_path={shlex.quote(str(path))}"
    )
