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
    corruption: Annotated[
        str, typer.Option(help="Put these faults in first, by name, to see whether they are found.")
    ] = "clean",
    corruption_seed: Annotated[int, typer.Option(help="Which episodes the faults fall on.")] = 0,
    out: Annotated[Path, typer.Option(help="The score file to write, a parquet.")] = Path("scores.parquet"),
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where to compute: cpu, cuda, cuda:1, mps.", show_default="cpu with --fit, else the best there is"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Write the score and weight of every chunk of a dataset, one row a frame.

    With --fit the scorers are fitted on the dataset, each episode scored by one that has not seen it, and the worst
    episodes are shown. With --scorer, as the run scored the chunks while it trained; several devices share the work
    when it is started by accelerate launch. Interrupted and started again, it goes on where it was.

    Examples:

        hf-ptr score data/mt10 --fit --observation observation.environment_state

        hf-ptr score data/g1_bottle --fit --corruption misaligned --out misaligned.parquet

        hf-ptr score data/g1_bottle --fit --json > found.json

        hf-ptr score data/mt10 --scorer runs/ptr --out scores.parquet

        accelerate launch --multi_gpu -m hf_ptr.score data/mt10 --scorer runs/ptr
    """
    import shutil

    from hf_ptr.data.corruption import TRUTH_FILE, CorruptionTruth, corrupt
    from hf_ptr.data.score_file import write_scores
    from hf_ptr.errors import InputError
    from hf_ptr.hub.datasets import load_dataset
    from hf_ptr.hub.repos import dataset_folder, model_folder
    from hf_ptr.report.summary import ScoreSummary, with_known_faults, worst_episodes
    from hf_ptr.utils.malloc import return_freed_memory

    if fit == (scorer is not None):
        raise InputError("pass either --fit, or --scorer RUN for the scorer of a finished PTR run")
    if out.is_dir() or out.suffix != ".parquet":
        raise InputError(f"--out {out} is no name for a score file; end it in .parquet")
    where = _device(device)
    return_freed_memory()
    home = dataset_folder(dataset, (observation or state).split(","))
    keep = out.with_name(f".{out.stem}.parts")
    # The disk of the score file, whose folder may be still to be made.
    spill_dir = next(folder for folder in out.absolute().parents if folder.is_dir())
    table = load_dataset(home, spill_dir=spill_dir if fit else None)
    truth = CorruptionTruth.load(home) if (home / "meta" / TRUTH_FILE).is_file() else None
    if corruption != "clean":
        table, truth = corrupt(table, corruption, corruption_seed)
    first = True
    if scorer is not None:
        from accelerate import PartialState

        from hf_ptr.runs.score_dataset import score_dataset

        parts = iter([score_dataset(model_folder(scorer), table, seed=seed, device=where, keep=keep)])
        PartialState().wait_for_everyone()
        first = PartialState().is_main_process
    else:
        from hf_ptr.data.chunks import ChunkDataset
        from hf_ptr.scoring.fit import fit_scores

        _require_one_process()
        fitted = fit_scores(
            ChunkDataset(
                table,
                chunk_size=chunk_size,
                target_offset=target_offset,
                observation_features=[name.strip() for name in (observation or state).split(",")],
                state_feature=state,
                action_feature=action,
            ),
            seed=seed,
            device=where or "cpu",
            keep=keep,
        )
        parts = fitted.blocks()
    if not first:
        return
    if truth is not None:
        parts = (with_known_faults(part, truth) for part in parts)
    gathered = ScoreSummary()
    made = {"dataset": str(dataset), "corruption": corruption, "corruption_seed": corruption_seed, "seed": seed}
    write_scores(gathered.collect(parts), out, **made)
    shutil.rmtree(keep, ignore_errors=True)
    found = gathered.to_dict(out)
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    typer.echo(
        f"{out}: {found['frames']} frames, {found['with_target']} with a target; mean score "
        f"{_or_dash(found['mean_score'])}, mean weight {found['mean_weight']:.2f}"
    )
    if fit:
        from rich.console import Console

        Console().print(worst_episodes(found["episodes"], table.tasks))
    for fault in found["faults"]:
        typer.echo(f"known fault {fault['fault']}: {fault['episodes']} episodes, AUROC {_or_dash(fault['auroc'])}")
    typer.echo(f"Look at it: hf-ptr report {out}")
    if fit:
        typer.echo(f"Train with it: hf-ptr train RECIPE dataset={dataset} weights={out} alpha=0")


def _device(name: str | None) -> str | None:
    """The device of that name, if it is here."""
    if name is None:
        return None
    import torch

    from hf_ptr.errors import InputError

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    return name


def _require_one_process() -> None:
    import os

    from hf_ptr.errors import InputError

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--fit works in one process; start it with hf-ptr score, without accelerate launch")


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
