"""`hf-ptr score`: score and weight of every chunk of a dataset."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_ptr.cli.episode_options import Episodes, SkipEpisodes, selected
from hf_ptr.cli.score_output import print_findings, print_next, print_summary

if TYPE_CHECKING:
    from hf_ptr.data.episodes import EpisodeTable
    from hf_ptr.detection.detect import Detection
    from hf_ptr.utils.shared_work import Share


class Method(StrEnum):
    """The score to compute."""

    CALIBRATED = "calibrated"
    PAPER = "paper"


class FailOn(StrEnum):
    """The least finding with which the command exits with code 1."""

    FAULT = "fault"
    NOTE = "note"
    NEVER = "never"


# Options of the calibrated score. A run defines its own features and chunks, and has no findings.
CALIBRATED_OPTIONS = (
    *("observation", "state", "action", "chunk_size", "target_offset"),
    *("vision_model", "cameras", "harm", "expected", "fail_on"),
)


def score(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Path or repo id of a LeRobotDataset.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Constants of the calibrated score as key=value, for example rounds=1; see ScoreConfig."),
    ] = None,
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
    method: Annotated[
        Method,
        typer.Option(
            help="calibrated: label-free score, fitted on the dataset itself, no policy needed. "
            "paper: PTR's score, from the scorer of a trained run (--run)."
        ),
    ] = Method.CALIBRATED,
    run: Annotated[
        Path | None, typer.Option(help="Path or repo id of the PTR run; required by --method paper.")
    ] = None,
    # Names the default method. Hidden, and kept because acceptance scripts outside this repository pass it.
    fit: Annotated[bool, typer.Option("--fit", hidden=True)] = False,
    observation: Annotated[
        str | None,
        typer.Option(help="Observed features, comma-separated (calibrated).", show_default="the state"),
    ] = None,
    state: Annotated[
        str, typer.Option(help="Feature(s) of the state, comma-separated (calibrated).")
    ] = "observation.state",
    action: Annotated[str, typer.Option(help="Feature(s) of the action, comma-separated (calibrated).")] = "action",
    chunk_size: Annotated[
        int | None,
        typer.Option(help="Actions per chunk (calibrated).", show_default="16; fewer below 30 fps, more above 80"),
    ] = None,
    target_offset: Annotated[
        int | None,
        typer.Option(
            help="Frames to the next observation (calibrated).", show_default="16; fewer below 30 fps, more above 80"
        ),
    ] = None,
    vision_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Encoder of observed cameras: folder or Hub id of a pretrained vision model, or efficientnet-lite0 "
            "(calibrated).",
            show_default="none: the pixels of small images",
        ),
    ] = None,
    cameras: Annotated[
        bool | None,
        typer.Option(
            "--cameras/--no-cameras",
            help="Check the images of all cameras, which are decoded once (calibrated).",
            show_default="checked; not for a repo id, whose videos would be downloaded",
        ),
    ] = None,
    harm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK=HARM",
            help="Harm of a check in [0, 1], for example action/noise=0.5: how far its findings lower weights. "
            "Repeatable (calibrated).",
        ),
    ] = None,
    expected: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of findings to accept (calibrated).",
            show_default="meta/hf_ptr_expected.yaml in the dataset",
        ),
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            help="Exit with code 1 after a finding: fault, note (a fault or a note), or never (calibrated). Accepted "
            "findings do not count."
        ),
    ] = FailOn.NEVER,
    corruption: Annotated[
        str, typer.Option(help="Add the faults of this corruption first, to see whether they are found.")
    ] = "clean",
    corruption_seed: Annotated[int, typer.Option(help="Random seed of the corruption.")] = 0,
    out: Annotated[Path, typer.Option(help="Score file to write, a parquet.")] = Path("scores.parquet"),
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device: cpu, cuda, cuda:1 or mps.",
            show_default="the best available; cpu for the heads of the calibrated score",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print findings, power card and a summary as JSON, and nothing else.")
    ] = False,
) -> None:
    """Find bad recordings: which episodes have a fault, where and why; and a training weight for every chunk.

    No policy and no label is needed. The checks compare each episode with the others of the dataset. Prints the
    verdict, the findings and the power card: which faults would be found in this dataset. Writes the score file, one
    row a frame, and next to it findings.parquet, findings.json and power.json; next to a score file NAME.parquet other
    than scores.parquet they are NAME.findings.parquet and so on.

    A weight is that of the calibrated score, lowered where a chunk covers a fault. The paper's score uses the scorer
    of a trained PTR run and has no findings; it removes the findings and the power card of the score file that it
    replaces. accelerate launch shares it between devices.

    Of a dataset of more than 500 episodes, the episodes are compared within groups, and the score is fitted to a
    sample. accelerate launch divides the groups between processes that see the same disk.

    Findings that meta/hf_ptr_expected.yaml in the dataset lists with a reason are accepted: they are not faults and
    do not lower weights. `hf-ptr export scores.parquet --to expected` writes this file from all present findings.

    Rerun an interrupted command to resume it. Scoring the same data again, with other accepted findings or other harm,
    takes seconds: the finished detection is kept in HF_HOME/hf-ptr, for the last eight datasets; so are images that
    --vision-model has encoded, up to 4 GB.

    Examples:

        hf-ptr score data/g1_bottle

        hf-ptr score data/mt10 --observation observation.environment_state --out scores.parquet

        hf-ptr score data/g1_bottle --corruption misaligned --out misaligned.parquet

        hf-ptr score data/g1_bottle --observation observation.images.cam_high --vision-model efficientnet-lite0

        hf-ptr score data/g1_bottle --no-cameras --json > found.json

        hf-ptr score data/g1_bottle --harm action/noise=0.5 --harm time/pause=1

        hf-ptr score data/g1_bottle --fail-on fault

        hf-ptr score data/mt10 --method paper --run runs/ptr

        accelerate launch --multi_gpu -m hf_ptr.score data/mt10 --method paper --run runs/ptr

        accelerate launch --multi_gpu --num_processes 2 -m hf_ptr.score data/mt10
    """
    import shutil
    import warnings
    from dataclasses import replace

    from hf_ptr.data.corruption import TRUTH_FILE, CorruptionTruth, corrupt
    from hf_ptr.data.expected_findings import read_expected
    from hf_ptr.data.score_file import scored_dataset, write_scores
    from hf_ptr.detection.findings_file import FindingsFiles, remove_findings
    from hf_ptr.detection.harm import lowered_episodes, parse_harm
    from hf_ptr.errors import DataWarning, InputError
    from hf_ptr.hub.datasets import load_dataset
    from hf_ptr.hub.repos import dataset_folder, model_folder, parse_hub_dataset
    from hf_ptr.report.summary import ScoreSummary, with_known_faults
    from hf_ptr.scoring.config import ScoreConfig, frames_at, parse_settings
    from hf_ptr.utils.atomic_files import require_folder_of
    from hf_ptr.utils.malloc import return_freed_memory
    from hf_ptr.utils.progress import without_bars

    paper = method is Method.PAPER
    if paper and fit:
        raise InputError("--fit is the calibrated score; leave it out, or leave out --method paper")
    if paper and run is None:
        raise InputError("--method paper needs --run RUN, the run whose scorer is used")
    if run is not None and not paper:
        raise InputError("--run is for the paper's score; add --method paper, or leave --run out")
    if paper and settings:
        raise InputError(f"{settings[0]!r} configures the calibrated score; leave it out with --method paper")
    # By the name of the enum's member: the enum itself is click's or typer's own copy, by the version of typer.
    sources = {name: context.get_parameter_source(name) for name in CALIBRATED_OPTIONS}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if paper and given:
        raise InputError(
            f"--{given[0].replace('_', '-')} configures the calibrated score; leave it out with --method paper"
        )
    if out.is_dir() or out.suffix != ".parquet":
        raise InputError(f"--out {out} is not the name of a score file; end it in .parquet")
    beside = FindingsFiles.beside(out)
    local = parse_hub_dataset(dataset) is None
    if local and not dataset.exists():
        # Before anything is said about the score file.
        raise InputError(f"{dataset} does not exist; pass the folder or repo id of a LeRobotDataset")
    require_folder_of(out)
    own_harm = parse_harm(harm or [], "--harm")
    accepted = None if expected is None else read_expected(expected)
    elsewhere = {"seed": "--seed", "vision_model": "--vision-model"}
    config = ScoreConfig(seed=seed, vision_model=vision_model, **parse_settings(settings or [], elsewhere))
    where = _checked_device(device)
    return_freed_memory()
    # Without --observation the state is observed, which may be made of several features.
    features = [state] if observation is None else [name.strip() for name in observation.split(",")]
    images = not paper and (local if cameras is None else cameras)
    folder = dataset_folder(dataset, None if images else features)
    keep = out.with_name(f".{out.stem}.parts")
    # The disk of the score file, whose folder may not exist yet.
    spill_dir = next(parent for parent in out.absolute().parents if parent.is_dir())
    chosen = selected(episodes, skip_episodes)
    # A run has features of its own, and faults are planted in any.
    read = None if paper or corruption != "clean" else [*features, state, action]
    table = load_dataset(folder, **chosen, features=read, spill_dir=None if paper else spill_dir)
    if not paper and (episodes or skip_episodes) and table.num_episodes < config.min_episodes:
        raise InputError(
            f"the options select {table.num_episodes} episodes, and episodes are compared with at least "
            f"{config.min_episodes - 1} others; {_enough_episodes(folder, table, chosen['skip'], config.min_episodes)}"
        )
    before = scored_dataset(out)
    if before is not None and _differs(before, str(dataset)):
        # Said when the dataset is read, and before the fit: there is time to interrupt.
        warnings.warn(
            f"{out} has the scores of another dataset, {before}, and will be replaced; --out names another file",
            DataWarning,
            stacklevel=2,
        )
    if accepted is not None:
        table = replace(table, expected=accepted)
    truth = CorruptionTruth.load(folder) if (folder / "meta" / TRUTH_FILE).is_file() else None
    if corruption != "clean":
        table, truth = corrupt(table, corruption, corruption_seed)
    # Absolute, so that the report finds the dataset from any folder.
    named = str(dataset.absolute() if local else dataset)
    resting: dict[str, list[int]] = {}
    fitted_to = table.num_episodes
    if run is not None:
        from accelerate import PartialState

        from hf_ptr.runs.score_dataset import score_dataset

        parts = iter([score_dataset(model_folder(run), table, seed=seed, device=where, keep=keep)])
        PartialState().wait_for_everyone()
        writes = PartialState().is_main_process
        if not writes:
            return
        found = None
    else:
        from hf_ptr.data.chunks import ChunkDataset
        from hf_ptr.training.detected_scores import detected_scores, power_values, write_detected_scores
        from hf_ptr.training.kept_parts import keep_parts, recall_parts

        share = _share_of_this_process()
        if share.is_main:
            recall_parts(named, keep)
        else:
            context.with_resource(without_bars(lines=False))
        share.wait()
        chunks = ChunkDataset(
            table,
            chunk_size=frames_at(table.fps, 16) if chunk_size is None else chunk_size,
            target_offset=frames_at(table.fps, 16) if target_offset is None else target_offset,
            observation_features=features,
            state_feature=state,
            action_feature=action,
        )
        checked = tuple(table.videos) if images else ()
        fitted, found = detected_scores(
            chunks, config, harm=own_harm, cameras=checked, power=True, device=where, keep=keep, share=share
        )
        share.wait()
        if not share.is_main:
            return
        parts, resting, fitted_to = fitted.blocks(), fitted.resting, fitted.fitted_to
    if truth is not None:
        parts = (with_known_faults(part, truth) for part in parts)
    summary = (
        ScoreSummary() if found is None else ScoreSummary(found.flagged, lowered_episodes(found.findings, own_harm))
    )
    # What a recipe for these scores needs too.
    shared = {"episodes": episodes, "skip_episodes": skip_episodes}
    shared |= {name: value for name, value in (("state", state), ("action", action)) if name in given}
    shared = {name: value for name, value in shared.items() if value is not None}
    meta = {"dataset": named, "corruption": corruption, "corruption_seed": corruption_seed, "seed": config.seed}
    meta |= shared
    if fitted_to < table.num_episodes:
        meta["fitted_episodes"] = fitted_to
    if found is None:
        write_scores(summary.collect(parts), out, **meta)
        # Those of the replaced score file do not describe these scores.
        remove_findings(out)
    else:
        write_detected_scores(summary.collect(parts), found, chunks, out, **meta, harm=own_harm)
    if paper:
        shutil.rmtree(keep, ignore_errors=True)
    else:
        keep_parts(named, keep)
    if as_json:
        import json
        from dataclasses import asdict

        content = summary.to_dict(out)
        if found is not None:
            content["fitted_episodes"] = fitted_to
            content |= {"findings": [asdict(one) for one in found.findings], "power": power_values(found)}
        typer.echo(json.dumps(content, indent=2, allow_nan=False))
        _exit(found, fail_on)
        return
    lengths = dict(zip(table.episode_index.tolist(), table.lengths.tolist(), strict=True))
    if found is not None:
        print_findings(found, lengths, beside, own_harm)
    print_summary(summary.to_dict(out), resting, None if paper else (config.w_min, config.w_max))
    if fitted_to < table.num_episodes:
        typer.echo(f"the heads of the score were fitted to a sample of {fitted_to} of {table.num_episodes} episodes")
    if found is not None and table.videos and not images:
        typer.echo(f"The images of {', '.join(table.videos)} were not checked; --cameras checks them")
    # Weights of planted faults do not belong to the dataset itself, and a run with the paper's score has been trained.
    trains = not paper and corruption == "clean"
    print_next(str(dataset) if trains else None, out, summary.flagged, summary.lowered, shared)
    _exit(found, fail_on)


def _enough_episodes(folder: Path, table: EpisodeTable, skip: Collection[int], number: int) -> str:
    """How to select enough episodes: from the first selected one on, where that many follow it in the dataset."""
    from hf_ptr.data.episode_ids import episode_ranges
    from hf_ptr.data.lerobot.metadata import read_metadata

    known = read_metadata(folder, lambda *_: None, lambda *_: None).episode_index.tolist()
    ids = sorted(set(known).difference(skip))
    if len(ids) < number:
        return "record more or skip fewer"
    first = min(ids.index(int(table.episode_index.min())), len(ids) - number)
    return f"write for example --episodes {episode_ranges(ids[first : first + number])}"


def _exit(found: Detection | None, fail_on: FailOn) -> None:
    """Exits with code 1 if a finding is one to fail on."""
    failing = {"fault": ("fault",), "note": ("fault", "note"), "never": ()}[fail_on.value]
    if found is not None and any(one.severity in failing for one in found.findings):
        raise typer.Exit(1)


def _checked_device(name: str | None) -> str | None:
    """The name of a device, if it can be used here."""
    if name is None:
        return None
    import torch

    from hf_ptr.errors import InputError

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    return name


def _differs(one: str, other: str) -> bool:
    """Whether two datasets, as they were named, are not the same."""
    folders = Path(one), Path(other)
    if all(folder.is_dir() for folder in folders):
        return not folders[0].samefile(folders[1])
    repos = [name.partition("@")[0] for name in (one, other)]
    if not any(folder.is_dir() for folder in folders):
        return repos[0] != repos[1]
    # A relative path may have been typed in another folder, or the dataset may have been moved.
    return Path(repos[0]).absolute().name != Path(repos[1]).absolute().name


def _share_of_this_process() -> Share:
    """The share of a process of accelerate launch; all of the work without it."""
    import os
    from datetime import timedelta

    from hf_ptr.utils.shared_work import ALONE, Share

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    # The others wait while one fits. A process that dies is noticed at once.
    state = PartialState(cpu=True, timeout=timedelta(days=30))
    return Share(state.process_index, state.num_processes, state.wait_for_everyone)
