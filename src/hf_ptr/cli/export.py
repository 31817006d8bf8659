"""`hf-ptr export`: weights and findings in the formats that trainers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from hf_ptr.detection.findings import Finding


class Format(StrEnum):
    """The format to write."""

    LEROBOT_STATIC = "lerobot-static"
    LEROBOT_RABC = "lerobot-rabc"
    EPISODES = "episodes"
    EXCLUDE_EPISODES = "exclude-episodes"
    KEEP_RANGES = "keep-ranges"
    CSV = "csv"
    EXPECTED = "expected"


ENDINGS: Mapping[str, str] = {
    "lerobot-static": ".lerobot-static.parquet",
    "lerobot-rabc": ".lerobot-rabc.parquet",
    "episodes": ".episodes.json",
    "exclude-episodes": ".exclude-episodes.json",
    "keep-ranges": ".keep-ranges.json",
    "csv": ".csv",
    "expected": ".expected.yaml",
}
# Options that only some formats read.
ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "chunk_size": ("lerobot-rabc",),
    "min_weight": ("episodes", "exclude-episodes", "keep-ranges"),
    "keys": ("keep-ranges",),
    "reason": ("expected",),
    "only": ("expected",),
}
# Frames are kept down to this share of the largest weight.
SHARE = 0.5
# Actions of a chunk of SmolVLA and π0.
CHUNK_SIZE = 50
# Ids that fit a command line; more are read from the file.
MOST_IDS = 60


def export(
    context: typer.Context,
    scores: Annotated[
        Path,
        typer.Argument(
            help="Score file, or repo id of one. A findings file serves exclude-episodes, csv and expected.",
            metavar="SCORES",
        ),
    ],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="NAME.FORMAT in the working folder")
    ] = None,
    min_weight: Annotated[
        float | None,
        typer.Option(
            help="Share of the largest weight, in (0, 1]. Episodes with a lower mean weight are left out; keep-ranges "
            "leaves out frames below.",
            show_default="episodes with a fault are left out; keep-ranges: 0.5",
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            help="Actions per chunk of the policy (lerobot-rabc). SmolVLA and π0: 50, ACT: 100.",
            show_default=f"{CHUNK_SIZE}",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="JSON list with the key of each episode of the dataset (keep-ranges). openpi's keys of DROID are "
            "RECORDING_FOLDER--FILE.",
            show_default="the ids",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why the findings are accepted (expected).")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="List the findings of this check only. Repeatable (expected)."),
    ] = None,
) -> None:
    """Write weights or findings in the format of another trainer, and print the option that reads the file.

    lerobot-static: weights by frame, scaled to mean 1, for LeRobot's proposed `static` sample weighting.

    lerobot-rabc: a progress file for the RA-BC weighting of LeRobot 0.6, whose weights come as near to ours as its
    rule allows; the remaining error is printed.

    episodes, exclude-episodes: ids of the episodes to train on, or to leave out, as a JSON list.

    keep-ranges: the frames to train on, for openpi's filter.

    csv: weight and findings of every frame; of a findings file, its rows.

    expected: faults and notes as accepted findings. Delete those that nobody has watched, and copy the file into the
    dataset as meta/hf_ptr_expected.yaml or pass it to hf-ptr score --expected.

    Examples:

        hf-ptr export scores.parquet --to lerobot-static --out weights.parquet

        hf-ptr export scores.parquet --to lerobot-rabc --chunk-size 50

        hf-ptr export scores.parquet --to exclude-episodes

        hf-ptr export scores.parquet --to episodes --min-weight 0.7 --out episodes.json

        hf-ptr export scores.parquet --to keep-ranges

        hf-ptr export scores.parquet --to expected --only time/pause --reason "watched on 3 May: harmless"
    """
    from hf_ptr.data.score_file import read_scores
    from hf_ptr.detection.findings_file import files_of_scoring, holds_findings, read_findings
    from hf_ptr.errors import InputError
    from hf_ptr.hub.datasets import score_file_path

    kind = str(to.value)
    for name, formats in ONLY_FOR.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and kind not in formats:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is for {', '.join(formats)}; leave it out with --to {kind}")
    if min_weight is not None and not 0 < min_weight <= 1:
        raise InputError(f"--min-weight {min_weight:g} is not a share of the largest weight; give a number in (0, 1]")
    if kind == Format.EXPECTED and not (reason or "").strip():
        raise InputError("--to expected needs a reason; add --reason TEXT")
    file = score_file_path(scores)
    # A file of the Hub lies in the cache; what belongs to it is written here.
    local = file if scores.exists() else Path(file.name)
    path = out or Path(file.name).with_suffix(ENDINGS[kind])
    used = [file, *files_of_scoring(file), *(() if keys is None else (keys,))]
    if path.resolve() in {one.resolve() for one in used}:
        raise InputError(f"--out {path} is a file to export, or one that belongs to it; name another file")
    if file.is_file() and holds_findings(file):
        _export_findings(read_findings(file), kind, path, file, min_weight, reason or "", only or ())
        return
    rows = read_scores(file)
    if kind == Format.LEROBOT_STATIC:
        _export_static(rows, path, file)
    elif kind == Format.LEROBOT_RABC:
        _export_progress(rows, path, file, chunk_size)
    elif kind == Format.KEEP_RANGES:
        _export_ranges(rows, path, min_weight or SHARE, keys)
    elif kind == Format.CSV:
        _export_csv(rows, path, file)
    elif kind == Format.EXPECTED:
        lengths = (rows.groupby("episode_index")["frame_index"].max() + 1).to_dict()
        chosen = _of_checks(_findings(rows, file) or (), only or (), file)
        _export_expected(chosen, path, reason or "", lengths, rows.attrs.get("dataset"), local)
    else:
        _export_lists(rows, path, file, kind, min_weight)


def _export_static(rows: pd.DataFrame, path: Path, file: Path) -> None:
    from hf_ptr.exports.parquet_weights import static_weights, write_parquet

    table = static_weights(rows)
    write_parquet(table, path, dataset=rows.attrs.get("dataset"), scores=file.name)
    typer.echo(f"{path}: weights of {len(table)} frames, scaled to mean 1")
    _train_next(rows, f"--sample_weighting.path={_quoted(path)}")
    typer.echo(
        "LeRobot 0.6.1 reads it with a plug-in. In LeRobot's environment, from a checkout of hf-ptr:\n"
        "  pip install ./packages/lerobot_policy_hf_ptr"
    )


def _export_progress(rows: pd.DataFrame, path: Path, file: Path, chosen: int | None) -> None:
    from hf_ptr.exports.parquet_weights import write_parquet
    from hf_ptr.exports.rabc import progress_table, rabc_weights, weight_error

    chunk_size = CHUNK_SIZE if chosen is None else chosen
    table = progress_table(rows, chunk_size)
    error = weight_error(rows["weight"].to_numpy(), rabc_weights(table, chunk_size))
    write_parquet(table, path, dataset=rows.attrs.get("dataset"), scores=file.name, chunk_size=chunk_size)
    typer.echo(f"{path}: progress of {len(table)} frames, for policies with chunk_size {chunk_size}")
    if chosen is None:
        typer.echo("SmolVLA and π0 have this chunk_size; for ACT, which has 100, add --chunk-size 100")
    typer.echo(
        f"RA-BC's weights against ours, both scaled to mean 1: mean absolute error {error['mean']:.4f}, largest "
        f"{error['max']:.2f}, correlation {error['correlation']:.3f}"
    )
    # ACT has no loss per sample without the plug-in.
    _train_next(rows, f"--sample_weighting.type=rabc --sample_weighting.progress_path={_quoted(path)}", "smolvla")


def _export_ranges(rows: pd.DataFrame, path: Path, min_weight: float, keys: Path | None) -> None:
    from hf_ptr.exports.selections import kept_ranges, openpi_filter
    from hf_ptr.utils.atomic_files import write_json

    ranges = kept_ranges(rows, min_weight)
    selected = bool(rows.attrs.get("episodes") or rows.attrs.get("skip_episodes"))
    write_json(openpi_filter(ranges, None if keys is None else _key_list(keys), selected=selected), path)
    kept = sum(end - first for spans in ranges.values() for first, end in spans)
    typer.echo(
        f"{path}: {kept} of {len(rows)} frames in {sum(map(len, ranges.values()))} ranges, in "
        f"{sum(map(bool, ranges.values()))} of {len(ranges)} episodes"
    )
    typer.echo(f"Next: filter_dict_path={_quoted(path)} in the data config of openpi")


def _export_csv(rows: pd.DataFrame, path: Path, file: Path) -> None:
    from hf_ptr.exports.frame_table import frame_table, write_csv

    table = frame_table(rows, _findings(rows, file) or ())
    write_csv(table, path)
    typer.echo(f"{path}: {', '.join(table)} of {len(table)} frames")


def _export_lists(rows: pd.DataFrame, path: Path, file: Path, kind: str, min_weight: float | None) -> None:
    from hf_ptr.detection.findings import flagged_episodes
    from hf_ptr.errors import InputError
    from hf_ptr.exports.selections import kept_episodes, light_episodes

    if min_weight is None:
        findings = _findings(rows, file)
        if findings is None:
            raise InputError(f"{file} has no findings to choose episodes by; add --min-weight 0.5")
        excluded, why = flagged_episodes(findings), "with a fault"
        otherwise = "choose them by weight with --min-weight 0.5"
    else:
        excluded = light_episodes(rows, min_weight)
        why = f"with a mean weight below {min_weight:g} of the largest"
        otherwise = "lower --min-weight"
    kept = kept_episodes(rows, excluded, otherwise)
    _write_list(kept if kind == Format.EPISODES else excluded, path, kind, f"{len(excluded)} {why}")
    if kind == Format.EPISODES:
        _train_next(rows, f"--dataset.episodes={_list_value(kept, path)}")
    elif excluded and len(kept) <= MOST_IDS:
        typer.echo("LeRobot 0.6 has --dataset.episodes only, with the episodes to keep:")
        _train_next(rows, f"--dataset.episodes={_list_value(kept, path)}")
        typer.echo(f"Later versions: --dataset.exclude_episodes={_list_value(excluded, path)} instead")
    elif excluded:
        typer.echo("LeRobot 0.6 has --dataset.episodes only: --to episodes writes that list. Later versions:")
        _train_next(rows, f"--dataset.exclude_episodes={_list_value(excluded, path)}")


def _export_findings(
    findings: tuple[Finding, ...],
    kind: str,
    path: Path,
    file: Path,
    min_weight: float | None,
    reason: str,
    only: Sequence[str],
) -> None:
    """Exports of a findings file without its score file."""
    from hf_ptr.detection.findings import flagged_episodes
    from hf_ptr.errors import InputError
    from hf_ptr.exports.frame_table import findings_frame, write_csv
    from hf_ptr.report.verdict import severities
    from hf_ptr.utils.listing import counted

    if kind == Format.CSV:
        write_csv(findings_frame(findings), path)
        typer.echo(f"{path}: {counted(len(findings), 'row')}: {severities(findings)}")
    elif kind == Format.EXPECTED:
        # Without scores the lengths of the episodes are unknown.
        _export_expected(_of_checks(findings, only, file), path, reason, {}, None, file)
    elif kind == Format.EXCLUDE_EPISODES and min_weight is None:
        flagged = flagged_episodes(findings)
        _write_list(flagged, path, kind, f"{len(flagged)} with a fault")
        if flagged:
            option = f"--dataset.exclude_episodes={_list_value(flagged, path)}"
            typer.echo(f"Option of lerobot-train after LeRobot 0.6: {option}")
            typer.echo("For LeRobot 0.6: hf-ptr export --to episodes with the score file")
    else:
        raise InputError(f"{file} has findings and no weights, which --to {kind} needs; pass the score file")


def _of_checks(findings: tuple[Finding, ...], only: Sequence[str], file: Path) -> tuple[Finding, ...]:
    """The findings of the chosen checks; all without a choice."""
    from hf_ptr.detection.registry import require_checks
    from hf_ptr.errors import InputError

    found = sorted({finding.check for finding in findings})
    require_checks(only, "--only", found)
    chosen = tuple(finding for finding in findings if not only or finding.check in only)
    if only and not chosen:
        raise InputError(f"{file} has no finding of {' or '.join(only)}; it has {', '.join(found) or 'none at all'}")
    return chosen


def _export_expected(
    findings: tuple[Finding, ...], path: Path, reason: str, lengths: Mapping[int, int], dataset: str | None, file: Path
) -> None:
    import shlex

    from hf_ptr.data.expected_findings import EXPECTED_FILE, dump_expected
    from hf_ptr.detection.findings_file import files_of_scoring
    from hf_ptr.exports.accepted_entries import accepted_entries
    from hf_ptr.report.verdict import severities
    from hf_ptr.utils.atomic_files import write_text
    from hf_ptr.utils.listing import counted

    entries = accepted_entries(findings, reason, lengths)
    write_text(dump_expected(entries), path)
    number = len(findings)
    typer.echo(
        f"{path}: {counted(number, 'finding')} ({severities(findings)}) in "
        f"{f'{len(entries)} entries' if len(entries) != 1 else '1 entry'}; all would be accepted"
    )
    # Next to the score file, which stays as it is: the two are compared.
    baseline = files_of_scoring(file)[0]
    accepted = baseline.with_name(f"{baseline.stem}_accepted.parquet")
    again = ["hf-ptr", "score", dataset or "DATASET", "--expected", str(path), "--out", str(accepted)]
    typer.echo(
        "Next: delete the entries that nobody has watched and give each of the others its reason; then score again "
        f"with the same options, which takes seconds:\n  {shlex.join(again)}\n"
        f"  {shlex.join(['hf-ptr', 'diff', str(baseline), str(accepted)])}"
    )
    typer.echo(f"Without --expected, the file is read from {dataset or 'DATASET'}/meta/{EXPECTED_FILE}")


def _write_list(ids: list[int], path: Path, kind: str, why: str) -> None:
    import json

    from hf_ptr.utils.atomic_files import write_text

    write_text(f"{json.dumps(ids)}\n", path)
    named = "episodes to train on" if kind == Format.EPISODES else "episodes to leave out"
    typer.echo(f"{path}: {len(ids)} {named if len(ids) != 1 else named.replace('episodes', 'episode', 1)}; {why}")


def _list_value(ids: list[int], path: Path) -> str:
    """Ids as an option of LeRobot in the shell; a long list is read from the file that has it."""
    return f"'[{','.join(map(str, ids))}]'" if len(ids) <= MOST_IDS else f'"$(cat {_quoted(path)})"'


def _findings(rows: pd.DataFrame, file: Path) -> tuple[Finding, ...] | None:
    from hf_ptr.detection.findings_file import read_beside

    found = read_beside(file, rows.attrs)
    return None if found is None else found.findings


def _key_list(path: Path) -> list[str]:
    import json

    from hf_ptr.errors import InputError, first_line

    try:
        keys: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--keys {path} cannot be read ({first_line(error)}); give a JSON list of texts") from error
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys)):
        raise InputError(f"--keys {path} is not a JSON list of different texts; give the key of each episode in order")
    return keys


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _train_next(rows: pd.DataFrame, options: str, policy: str = "act") -> None:
    """Prints the command that trains in LeRobot on the scored dataset; LeRobot reads format v3.0 only."""
    import shlex

    from hf_ptr.data.lerobot.versions import conversion_command, copy_of, has_v21_files

    dataset = str(rows.attrs.get("dataset") or "DATASET")
    folder, where = Path(dataset), f"--dataset.repo_id={shlex.quote(dataset)}"
    if (folder / "meta" / "info.json").is_file():
        if has_v21_files(folder):
            # LeRobot reads even times with any decoder; where they are even already, the option changes nothing.
            convert = conversion_command(dataset, "_v30", "--even-times")
            folder = copy_of(dataset, "_v30")
            typer.echo(f"LeRobot reads format v3.0; first: {shlex.join(convert)}")
        where = shlex.join([f"--dataset.repo_id=local/{folder.name}", f"--dataset.root={folder}"])
    train = f"lerobot-train --policy.type={policy} --policy.push_to_hub=false"
    typer.echo(f"Next:\n  {train} {where} {options}")
