"""Applying findings to a dataset: an edited copy with the provenance of every episode."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_ptr._version import __version__
from hf_ptr.data.episode_ids import episode_ranges
from hf_ptr.data.expected_findings import EXPECTED_FILE, dump_expected, expected_of_dataset
from hf_ptr.data.features import ACTION, derived_roles, vector_widths
from hf_ptr.data.lerobot.accepted_parts import accepted_in_parts
from hf_ptr.data.lerobot.metadata import Metadata, read_metadata
from hf_ptr.data.lerobot.metadata_files import EDITS_FILE, read_json
from hf_ptr.data.lerobot.paths import within
from hf_ptr.data.lerobot.rewriting import VideoCounts, write_parts
from hf_ptr.data.lerobot.usable import require_usable
from hf_ptr.data.lerobot.validation import Progress, no_progress, validate_dataset
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import DETECTION, attributes, read_findings
from hf_ptr.detection.source_dataset import require_source
from hf_ptr.edits.choices import Choices
from hf_ptr.edits.plan import Plan, Step, plan_edits
from hf_ptr.errors import InputError, UnknownEpisodeError
from hf_ptr.utils.atomic_files import StagedFolder


@dataclass(frozen=True)
class Prepared:
    """
    A dataset with the plan of its edits.

    Attributes:
        root: the dataset's folder.
        metadata: its metadata.
        findings: the findings file.
        plan: the plan.
        left_out: ids of the episodes that the user left out.
        made: metadata of the findings file.
        accepted: entries of `meta/hf_ptr_expected.yaml` for the new dataset.
    """

    root: Path
    metadata: Metadata
    findings: Path
    plan: Plan
    left_out: Sequence[int]
    made: Mapping[str, Any]
    accepted: Sequence[dict[str, Any]]

    @property
    def changes(self) -> bool:
        """Whether the plan changes anything."""
        return bool(self.plan.steps or self.left_out)

    def require_parts(self) -> None:
        """
        Check that something is left.

        Raises:
            InputError: no episode is.
        """
        if not self.plan.parts:
            raise InputError(
                f"no episode of {self.root} is left after the edits; choose fewer, for example by --only CHECK"
            )


def prepare(
    root: Path,
    findings: Path,
    choices: Choices,
    *,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
    cameras: Collection[str] | None = None,
    progress: Progress = no_progress,
) -> Prepared:
    """
    Plan the edits that findings ask for, and check that the kept episodes can be written. Nothing is written.

    Args:
        root: folder of a LeRobotDataset, v3.0 or v2.x.
        findings: a findings file of this dataset.
        choices: the user's choices.
        episodes: ids of the episodes to keep; all by default.
        skip: ids of episodes to leave out, even if they are damaged.
        cameras: the cameras whose files are checked; all by default.
        progress: called with a description and a list, returns an iterable over the list.

    Raises:
        InputError: a file cannot be read, an id is unknown, the findings are not of this dataset, or the kept episodes
            are not usable.
    """
    found, made = read_findings(findings), attributes(findings)

    def report(message: str, episode: int | None) -> None:
        if episode is None or episode not in skip:
            raise InputError(message, skip=() if episode is None else (episode,))
        damaged.add(episode)

    damaged: set[int] = set()
    metadata = read_metadata(root, report)
    lengths = dict(zip(metadata.episode_index.tolist(), metadata.lengths.tolist(), strict=True))
    known = {*lengths, *metadata.empty, *damaged}
    unknown = sorted({*(episodes or ()), *skip, *choices.instructions} - known)
    if unknown:
        raise UnknownEpisodeError(root, unknown[0], known)
    fps = float(metadata.info["fps"])
    try:
        require_source(made, lengths, fps, damaged)
    except InputError as error:
        raise InputError(f"{findings} is not of this dataset: {error}; run hf-ptr score {root}") from error
    _require_same_dataset(found, lengths, known, findings, root)
    selected = {
        episode: length
        for episode, length in lengths.items()
        if episode not in skip and (episodes is None or episode in episodes)
    }
    plan = plan_edits(found, selected, fps, metadata.tasks, choices)
    prepared = Prepared(
        root,
        metadata,
        findings,
        plan,
        sorted(known - set(selected) - metadata.empty),
        made,
        accepted_in_parts(expected_of_dataset(root), plan.parts),
    )
    if prepared.changes and plan.parts:
        kept = {part.episode for part in plan.parts}
        checked = validate_dataset(root, episodes=kept, skip=skip, cameras=cameras, decode=False, progress=progress)
        require_usable(checked, skip)
    return prepared


def apply_plan(prepared: Prepared, out: Path, progress: Progress = no_progress) -> VideoCounts:
    """
    Write the edited dataset as a LeRobotDataset v3.0, atomically.

    `meta/hf_ptr_edits.json` states the source episode, its frames and the reasons of every episode. The accepted
    findings of `meta/hf_ptr_expected.yaml` are those of the new episodes.

    Args:
        prepared: the dataset and the plan.
        out: the new folder; must be missing or empty, and outside of the dataset.
        progress: called with a description and a list, returns an iterable over the list.

    Raises:
        InputError: no episode is left, or `out` cannot be written.
    """
    root, metadata, plan = prepared.root, prepared.metadata, prepared.plan
    staged = new_folder(out, root)
    prepared.require_parts()
    extra = {EDITS_FILE: json.dumps(_provenance(prepared), indent=4, ensure_ascii=False, allow_nan=False) + "\n"}
    if prepared.accepted:
        extra[EXPECTED_FILE] = dump_expected(list(prepared.accepted))
    return write_parts(
        root,
        metadata,
        plan.parts,
        staged,
        shifted=action_columns(metadata.info, str(prepared.made.get("action_feature", ACTION))),
        extra=extra,
        progress=progress,
    )


def new_folder(out: Path, root: Path) -> StagedFolder:
    """
    The folder of an edited copy, which is written when the copy is complete.

    Raises:
        InputError: it is in use, or in the folder of the dataset.
    """
    staged = StagedFolder(out)
    if staged.out.is_relative_to(root.resolve()):
        raise InputError(f"{out} is in the dataset {root}, which stays as it is; choose a folder outside of it")
    return staged


def _require_same_dataset(
    findings: Sequence[Finding], lengths: dict[int, int], known: Collection[int], path: Path, root: Path
) -> None:
    for finding in findings:
        episode = finding.episode_index
        if episode not in known:
            problem = f"episode {episode} of a finding is not in {root}"
        elif finding.last_frame >= lengths.get(episode, finding.last_frame + 1):
            problem = (
                f"a finding of episode {episode} ends at frame {finding.last_frame}, and this episode of {root} has "
                f"{lengths[episode]} frames"
            )
        else:
            continue
        raise InputError(f"{path} is not of this dataset: {problem}; run hf-ptr score {root}")


def action_columns(info: Mapping[str, Any], action: str) -> list[str]:
    """
    The columns that hold actions.

    Args:
        info: content of `meta/info.json`.
        action: the feature of the action that was scored; several are joined by commas.
    """
    vectors = vector_widths(info)
    scored = [name.strip() for name in action.split(",")]
    others = [name for name in vectors if name == ACTION or name.startswith((f"{ACTION}.", f"{ACTION}s."))]
    named = dict.fromkeys([*scored, *others, *derived_roles(info).get(ACTION, [])])
    return [name for name in named if name in vectors]


def _provenance(prepared: Prepared) -> dict[str, Any]:
    plan, root = prepared.plan, prepared.root
    content = {
        "hf_ptr": __version__,
        "source": root.resolve().name,
        "source_version": prepared.metadata.info["codebase_version"],
        "findings": prepared.findings.name,
        DETECTION: prepared.made.get(DETECTION),
        "episodes": [
            {
                "episode_index": number,
                "source_episode": part.episode,
                "source_first_frame": part.first,
                "source_last_frame": part.stop - 1,
                "source_frames": plan.lengths[part.episode],
                "action_shift": part.shift,
                "instruction": part.task,
                "edits": _as_json(plan.reasons(part.episode)),
            }
            for number, part in enumerate(plan.parts)
        ],
        "dropped": [{"source_episode": episode, "edits": _as_json(plan.reasons(episode))} for episode in plan.dropped],
        "left_out": episode_ranges(prepared.left_out),
    }
    try:
        content["earlier"] = read_json(root / within(root, f"meta/{EDITS_FILE}"))
    except InputError:
        return content
    return content


def _as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [
        {("first_frame" if key == "first" else "last_frame" if key == "last" else key): value
         for key, value in asdict(step).items() if key != "episode"}
        for step in steps
    ]  # fmt: skip
