"""`hf-ptr apply`: an edited copy of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_ptr.cli.episode_options import Episodes, SkipEpisodes, selected

if TYPE_CHECKING:
    from hf_ptr.data.lerobot.rewriting import VideoCounts
    from hf_ptr.detection.findings import Finding
    from hf_ptr.edits.choices import Choices
    from hf_ptr.edits.plan import Plan


def apply(
    dataset: Annotated[Path, typer.Argument(help="Path or repo id of a LeRobotDataset, v2.x or v3.0.")],
    findings: Annotated[Path, typer.Option(help="Findings of this dataset, as hf-ptr score writes them.")] = Path(
        "findings.parquet"
    ),
    out: Annotated[
        Path | None,
        typer.Option(help="New folder. It must not exist or must be empty.", show_default="none; needed to write"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the edits of every episode. Write nothing.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Use the findings of this check only. Repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Ignore the findings of this check. Repeatable.")
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK=EDIT",
            help="Edit for the findings of a check: cut, split, shift, relabel, drop or keep. Repeatable.",
        ),
    ] = None,
    relabel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EPISODES=TEXT", help='Correct instruction of episodes: 4,7:9="open the door". Repeatable.'
        ),
    ] = None,
    least_seconds: Annotated[
        float, typer.Option(help="Leave out what remains of an edited episode if it is shorter.")
    ] = 1.0,
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
) -> None:
    """Write a copy of a dataset with its faults removed: episodes dropped, trimmed, split, shifted or relabelled.

    The frames of a fault are cut out: the episode is dropped if they are all of it, trimmed if they are at an end, and
    split in two otherwise. Late or early actions of a whole episode are shifted. Failed grasps that are repeated are
    cut out. Other notes are kept. --edit changes the edit of a check; docs/apply.md lists them.

    The copy is a LeRobotDataset v3.0. Values of kept frames keep their bits, and videos are copied without
    re-encoding where possible. meta/hf_ptr_edits.json states the source of every episode and the reasons.

    Examples:

        hf-ptr apply data/g1_bottle --dry-run

        hf-ptr apply data/g1_bottle --findings findings.parquet --out data/g1_bottle_clean

        hf-ptr apply data/g1_bottle --out data/g1_bottle_clean --edit time/idle_start=cut --skip progress/retry

        hf-ptr apply data/g1_bottle --out data/g1_bottle_clean --only language/wrong --relabel '4="close the door"'
    """
    import shlex

    from hf_ptr.data.lerobot.validation import validate_dataset
    from hf_ptr.data.lerobot.versions import conversion_command
    from hf_ptr.detection.findings_file import read_findings
    from hf_ptr.edits.apply import apply_plan, new_folder, prepare
    from hf_ptr.edits.choices import parse_choices
    from hf_ptr.errors import InputError
    from hf_ptr.hub.repos import dataset_folder, parse_hub_dataset
    from hf_ptr.utils.atomic_files import StagedFolder
    from hf_ptr.utils.progress import progress_bar

    if out is None and not dry_run:
        raise InputError("--out is missing; give a new folder, or --dry-run to see the plan")
    if out is not None:
        StagedFolder(out)  # Refuses a folder in use before anything is downloaded.
    found = read_findings(findings)
    choices = parse_choices(
        edits=edit or (),
        only=only or (),
        skip=skip or (),
        relabel=relabel or (),
        least_seconds=least_seconds,
        found={finding.check for finding in found},
    )
    chosen = selected(episodes, skip_episodes)
    # The plan needs no video, and those of a folder can be checked for nothing.
    cameras = () if dry_run and parse_hub_dataset(dataset) is not None else None
    home = dataset_folder(dataset, cameras=cameras)
    if out is not None:
        new_folder(out, home)
    with progress_bar() as progress:
        prepared = prepare(
            home,
            findings,
            choices,
            **chosen,
            cameras=cameras,
            progress=lambda what, jobs: progress.track(jobs, description=what),
        )
    if not prepared.changes:
        typer.echo(f"{findings} asks for no edit of {dataset}; nothing was written")
        for line in kept_lines(found, prepared.plan, choices):
            typer.echo(line)
        if prepared.metadata.info["codebase_version"] == "v2.1":
            typer.echo(
                "LeRobot 0.6 reads v3.0 only; this writes a copy that it reads:\n"
                f"  {shlex.join(conversion_command(str(dataset), '_v30', '--even-times'))}"
            )
        return
    if dry_run:
        for line in plan_lines(prepared.plan):
            typer.echo(line)
        for line in kept_lines(found, prepared.plan, choices):
            typer.echo(line)
        prepared.require_parts()
    else:
        assert out is not None
        with progress_bar() as progress:
            written = apply_plan(prepared, out, lambda what, jobs: progress.track(jobs, description=what))
            checked = validate_dataset(
                out, decode=False, progress=lambda what, jobs: progress.track(jobs, description=what)
            )
    for line in summary_lines(prepared.plan, len(prepared.left_out)):
        typer.echo(line)
    if dry_run:
        typer.echo("Nothing was written: this is a dry run")
        words = ["hf-ptr", "apply", str(dataset), "--findings", str(findings)]
        words += ["--out", str(out or f"{home.resolve().name}_edited")]
        for name, values in (("only", only), ("skip", skip), ("edit", edit), ("relabel", relabel)):
            words += [word for value in values or () for word in (f"--{name}", value)]
        words += [] if least_seconds == 1.0 else ["--least-seconds", f"{least_seconds:g}"]
        words += [] if episodes is None else ["--episodes", episodes]
        words += [] if skip_episodes is None else ["--skip-episodes", skip_episodes]
        typer.echo(f"Next:\n  {shlex.join(words)}")
        return
    if written.copied or written.encoded:
        typer.echo(video_line(written))
    name, scores = str(out), f"{Path(str(out)).name}.parquet"
    typer.echo("Next:")
    typer.echo(f"  {shlex.join(['hf-ptr', 'validate', name])}   # check the copy")
    typer.echo(f"  {shlex.join(['hf-ptr', 'score', name, '--out', scores])}   # find what is left")
    if checked.refused_by_lerobot:
        convert = conversion_command(name, "_v30", "--even-times")
        typer.echo(f"  {shlex.join(convert)}   # for LeRobot, a copy with the time stamps frame / fps")


def plan_lines(plan: Plan) -> list[str]:
    """The edits as lines: episode, frames, edit, check and reason."""
    rows = [("episode", "frames", "edit", "check", "reason")]
    rows += [
        (str(step.episode), f"{step.first}-{step.last}", step.edit, step.check or "-", step.reason)
        for step in plan.steps
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]) for row in rows
    ]


def kept_lines(findings: Sequence[Finding], plan: Plan, choices: Choices) -> list[str]:
    """The notes that no choice concerns, a line for each kind, with the option that edits them."""
    from hf_ptr.edits.choices import EDIT_OF_KEPT
    from hf_ptr.report.note_words import note_kinds

    kept = [
        finding
        for finding in findings
        if finding.episode_index in plan.lengths
        and choices.edit_of(finding) == "keep"
        and choices.concerns(finding.check)
        and finding.check not in choices.edits
    ]
    lines = []
    for kind in note_kinds(kept, len(plan.lengths)):
        edit = EDIT_OF_KEPT.get(kind.check)
        option = "" if edit is None else f" (--edit {kind.check}={edit})"
        lines.append(f"kept: {kind.name} in {kind.where()}; {kind.findings[0].action}{option}")
    return lines


def summary_lines(plan: Plan, left_out: int) -> list[str]:
    """What becomes of the episodes, in numbers."""
    from collections import Counter

    from hf_ptr.data.episode_ids import episode_ranges
    from hf_ptr.utils.listing import counted

    edited, dropped, before = plan.edited, plan.dropped, sum(plan.lengths.values())
    counts = {
        name: sum(step.edit == name for step in plan.steps) for name in ("cut", "trim", "split", "shift", "relabel")
    }
    done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    lines = [
        f"{counted(len(plan.lengths) - len(edited) - len(dropped), 'episode')} unchanged, {len(edited)} edited"
        f"{f' ({done})' if edited and done else ''}, {len(dropped)} dropped"
        f"{f' ({episode_ranges(dropped)})' if dropped else ''}"
        f"{f', {left_out} left out' if left_out else ''}"
    ]
    lines.append(
        f"{counted(len(plan.lengths), 'episode')} {'becomes' if len(plan.lengths) == 1 else 'become'} "
        f"{len(plan.parts)}; {plan.frames} of {before} frames are kept ({plan.frames / max(before, 1):.1%})"
    )
    parts = Counter(part.episode for part in plan.parts)
    divided = sum(number > 1 for number in parts.values())
    if divided:
        lines.append(
            f"{counted(divided, 'episode')} {'is' if divided == 1 else 'are'} divided: after a cut or split in the "
            "middle, the frames before it and those after it are episodes of their own"
        )
    return lines


def video_line(written: VideoCounts) -> str:
    """How the videos were written."""
    from hf_ptr.utils.listing import counted

    line = f"video: {counted(written.copied, 'frame')} copied without re-encoding, {written.encoded} encoded again"
    if written.unshown:
        were = "was" if written.unshown == 1 else "were"
        line += (
            f"; {counted(written.unshown, 'frame')} that no episode shows {were} copied with them, as videos are "
            "cut at key frames"
        )
    return line
