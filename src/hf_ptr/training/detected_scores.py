"""Scores and weights of a dataset with the faults that the checks find: for `hf-ptr score` and for training runs."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episode_groups import episode_groups
from hf_ptr.data.score_file import write_scores
from hf_ptr.detection.accepted import with_accepted
from hf_ptr.detection.chunk_faults import chunk_harm, chunks_next_to_faults, least_harm
from hf_ptr.detection.detect import Detection, detect_together, merged
from hf_ptr.detection.findings_file import findings_written
from hf_ptr.detection.source_dataset import source_attributes
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores, frame_encoder, require_fittable
from hf_ptr.scoring.fitted_scores import FittedScores
from hf_ptr.training.detection_cache import cached_detection
from hf_ptr.utils.shared_work import ALONE, Share


def detected_scores(
    chunks: ChunkDataset,
    config: ScoreConfig = ScoreConfig(),
    *,
    harm: Mapping[str, float] = MappingProxyType({}),
    cameras: Sequence[str] = (),
    power: bool = False,
    device: str | torch.device | None = None,
    keep: Path | None = None,
    progress: bool = True,
    share: Share = ALONE,
) -> tuple[FittedScores, Detection]:
    """
    The findings in a dataset, and its calibrated scores and weights, lowered where a chunk covers a fault.

    Where a fault of state or action has a place, the other chunks of its episode get the weight of a sound one.

    Args:
        chunks: chunks of the episodes.
        config: settings of the calibrated score; its seed is also that of the detection.
        harm: the user's choice of harm by name of the check; see `hf_ptr.detection.harm`.
        cameras: cameras whose images are checked.
        power: also learn which faults would be found.
        device, keep, progress, share: as for [`fit_scores`][hf_ptr.scoring.fit.fit_scores].

    Raises:
        InputError: as `fit_scores` and [`detect`][hf_ptr.detection.detect.detect].
    """
    # A refusal comes before the checks, which may decode videos for minutes.
    require_fittable(chunks, config)
    frame_encoder(chunks, config, device)
    found = detected(chunks, cameras=cameras, power=power, seed=config.seed, keep=keep, share=share)
    expected, least = (
        of(found.findings, chunks.table, chunk_size=chunks.chunk_size, harm=harm) for of in (chunk_harm, least_harm)
    )
    fitted = fit_scores(chunks, config, device=device, keep=keep, progress=progress, share=share)
    explained = chunks_next_to_faults(found.findings, chunks.table, expected)
    return fitted.with_faults(expected, explained, least), found


def detected(
    chunks: ChunkDataset,
    *,
    cameras: Sequence[str] = (),
    power: bool = False,
    seed: int = 0,
    keep: Path | None = None,
    share: Share = ALONE,
) -> Detection:
    """
    The findings in the episodes of chunks, those that their dataset expects as accepted ones.

    Groups of episodes are judged one by one, so that memory does not grow with the dataset; see
    [`detect`][hf_ptr.detection.detect.detect].

    Args:
        chunks: chunks of the episodes; their state, action and observed vectors are checked.
        cameras: cameras whose images are checked.
        power: also learn which faults would be found.
        seed: random seed.
        keep: a folder for finished groups, from which the same detection is read again; None to keep nothing.
        share: the share of this process, if several with the same `keep` divide the groups.

    Returns:
        The findings, with the power card if asked for.

    Raises:
        InputError: as [`detect`][hf_ptr.detection.detect.detect].
    """
    settings: dict[str, Any] = {
        "state_feature": checked_state(chunks),
        "action_feature": chunks.action_feature,
        "power": power,
        "seed": seed,
    }
    table = chunks.table
    groups = episode_groups(table, (settings["state_feature"], settings["action_feature"]), seed)

    def judged(number: int) -> Detection:
        single = len(groups) == 1
        group = table if single else table.select(groups[number].tolist())
        # The groups are alike: what would be found in the first would be found in all.
        own = {**settings, "power": power and number == 0}
        new = partial(detect_together, group, cameras=cameras, **own)
        return cached_detection(keep, group, cameras, own, new, "detection" if single else f"detection-{number}")

    own = {}
    for number in range(len(groups)):
        if share.has(number):
            own[number] = judged(number)
            # The views of the episodes refer to each other: several groups would be in memory at once.
            gc.collect()
    share.wait()
    parts = [own[number] if share.has(number) else judged(number) for number in range(len(groups))]
    found = merged(table.episode_index, groups, parts)
    return replace(found, findings=with_accepted(found.findings, table.expected, table.episode_index.tolist()))


def checked_state(chunks: ChunkDataset) -> str:
    """The vectors that the checks compare with the action: the state and what else is observed, joined by commas."""
    observed = () if chunks.cameras else chunks.observation_features
    names = [part.strip() for name in (chunks.state_feature, *observed) for part in name.split(",")]
    return ",".join(dict.fromkeys(names))


def write_detected_scores(
    scores: pd.DataFrame | Iterable[pd.DataFrame], found: Detection, chunks: ChunkDataset, path: Path, **meta: Any
) -> None:
    """
    Writes a score file and the files of its findings: all of them, or none.

    Args:
        scores: the rows of the score file, or consecutive parts of them.
        found: the findings.
        chunks: the chunks that were scored.
        path: the score file.
        meta: JSON values that describe how the scores were made.
    """
    table = chunks.table
    made = {**meta, "state_feature": checked_state(chunks), "action_feature": chunks.action_feature}
    made |= source_attributes(table.episode_index, table.lengths, table.fps)
    with findings_written(path, found.findings, power_values(found), **made) as detection:
        size = {"chunk_size": chunks.chunk_size, "target_offset": chunks.target_offset}
        write_scores(scores, path, **{**meta, **size}, detection=detection)


def power_values(found: Detection) -> dict[str, Any]:
    """
    The power card and the unavailable checks as JSON values; the checks alone without a card. `groups` has the number
    of episodes of each group of a dataset that was not compared as a whole.
    """
    card = {} if found.power is None else found.power.as_json()
    groups = {"groups": list(found.groups)} if len(found.groups) > 1 else {}
    return {**card, "unavailable": dict(found.unavailable), **groups}
