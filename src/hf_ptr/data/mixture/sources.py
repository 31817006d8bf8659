"""The sources of a mixture: a dataset each, with its robot, converted to the mixture's common format."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.corruption import CorruptionTruth, corrupt
from hf_ptr.data.episode_ids import episode_text
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.videos import CameraClips
from hf_ptr.data.mixture.resampling import ACTION_KINDS
from hf_ptr.data.mixture.robots import Robot
from hf_ptr.data.score_file import read_weights
from hf_ptr.data.statistics import normalization
from hf_ptr.data.video.decoding import Clip
from hf_ptr.embodiment import load_embodiment
from hf_ptr.errors import DataWarning, InputError, nearest
from hf_ptr.utils.frame_rates import same_rate

STATISTICS = ("own", "joint")


@dataclass(frozen=True)
class SourceSpec:
    """
    A source as listed in a recipe.

    Attributes:
        dataset: path or repo id of a LeRobotDataset.
        embodiment: name of the robot, or a YAML file with the slots of its dimensions.
        weight: the share of the source's chunks is its weight divided by the sum of all weights.
        name: name of the source; by default the folder's.
        episodes, skip_episodes, eval_episodes: ids, as in a recipe.
        corruption, corruption_severity, corruption_seed: faults to plant in the training episodes.
        weights: path or repo id of a score file with the weights of the chunks; without one, chunks have weight 1.
        features: dataset's name by mixture's name, for features with different names.
        fps: frames per second to resample to; by default the dataset's own.
        actions: `"positions"` or `"displacements"`, see [`resampled`].
        statistics: `"own"` normalises state and action by mean and standard deviation of this source, `"joint"` keeps
            raw units.
        min_std: with `"own"`, lower bound on the standard deviation of the state, in its units, see [`normalization`].
        target_offset: `Δ` in frames (at `fps`); by default the recipe's.
    """

    dataset: str
    embodiment: str
    weight: float = 1.0
    name: str | None = None
    episodes: str | None = None
    skip_episodes: str | None = None
    eval_episodes: str | None = None
    corruption: str = "clean"
    corruption_severity: float = 1.0
    corruption_seed: int = 0
    weights: str | None = None
    features: dict[str, str] = field(default_factory=dict)
    fps: float | None = None
    actions: str = "positions"
    statistics: str = "own"
    min_std: float = 0.0
    target_offset: int | None = None

    @classmethod
    def parse(cls, content: Any, number: int) -> SourceSpec:
        """
        Parse a mapping from a recipe.

        Args:
            content: the mapping.
            number: position in the recipe, for messages.

        Raises:
            InputError: an unknown key (the nearest is suggested), a missing key, or a value of the wrong type.
        """
        where = f"source {number}"
        if not isinstance(content, Mapping):
            raise InputError(f"{where} is {content!r}; it must be a mapping with dataset and embodiment")
        known = {item.name: item for item in dataclasses.fields(cls)}
        for key in content:
            if key not in known:
                raise InputError(f"{where} has an unknown key {key!r}.{nearest(str(key), known)}")
        for key in ("dataset", "embodiment"):
            if not isinstance(content.get(key), str):
                raise InputError(f"{where} has no {key}; add '{key}: …'")
        values = {key: value for key, value in content.items() if value is not None}
        wholes, numbers = ("corruption_seed", "target_offset"), ("weight", "fps", "corruption_severity", "min_std")
        for key, kind in {**dict.fromkeys(numbers, float), **dict.fromkeys(wholes, int)}.items():
            if key in values and (isinstance(values[key], bool) or not isinstance(values[key], int | kind)):
                raise InputError(f"{where}: {key} is {values[key]!r}, not a number")
        if not 0 < values.get("weight", 1.0) < float("inf"):
            raise InputError(f"{where}: weight is {values['weight']}; it must be positive")
        for key, choices in (("statistics", STATISTICS), ("actions", ACTION_KINDS)):
            if values.get(key, choices[0]) not in choices:
                raise InputError(f"{where}: {key} is {values[key]!r}; it must be one of {', '.join(choices)}")
        features = values.get("features", {})
        if not isinstance(features, Mapping) or not all(isinstance(name, str) for name in features.values()):
            raise InputError(f"{where}: features is {features!r}; it must map names to the dataset's names")
        for key in ("name", "corruption", "weights"):
            if key in values:
                values[key] = str(values[key])
        for key in ("episodes", "skip_episodes", "eval_episodes"):
            if key in values:
                values[key] = episode_text(values[key], f"{where}: {key}")
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Source:
    """
    A source with its data, converted to the mixture's common format.

    Attributes:
        spec: the entry of the recipe.
        robot: the robot: slots, units and frame rate.
        table: the training episodes, including planted faults, under the mixture's feature names, at the robot's frame
            rate and in its units.
        truth: the ground truth of the planted faults.
        weights: `(F,)`, weight of each chunk; None if all weights are 1.
        held_out: evaluation episodes without planted faults, in the same format; None without evaluation.
    """

    spec: SourceSpec
    robot: Robot
    table: EpisodeTable
    truth: CorruptionTruth
    weights: np.ndarray | None = None
    held_out: EpisodeTable | None = None

    @property
    def name(self) -> str:
        """Name of the source, unique in the mixture."""
        return self.robot.name

    def to_dict(self) -> dict[str, Any]:
        """The entry of `mixture.json`: all that is needed to run a policy of the mixture on this robot."""
        return {**self.robot.to_dict(), "weight": self.spec.weight}


def make_source(
    spec: SourceSpec,
    table: EpisodeTable,
    name: str,
    *,
    state_feature: str = "observation.state",
    action_feature: str = "action",
    held_out: EpisodeTable | None = None,
    weight_file: Path | None = None,
    known: Robot | None = None,
) -> Source:
    """
    Convert a dataset's episodes to the mixture's common format.

    Args:
        spec: the entry of the recipe.
        table: the training episodes.
        name: name of the source.
        state_feature, action_feature: features under the mixture's names.
        held_out: evaluation episodes.
        weight_file: local path of the score file `spec.weights`.
        known: the robot as known to the policy that training continues from; its units are kept.

    Raises:
        InputError: a feature is missing, the embodiment or the faults are unknown, widths or parts of the robot's
            vectors differ from those known to the policy, or the score file belongs to another dataset.
    """
    table, truth = corrupt(
        _renamed(table, spec.features), spec.corruption, spec.corruption_seed, spec.corruption_severity
    )
    embodiment = load_embodiment(spec.embodiment)
    named = {"state": state_feature, "action": action_feature}
    for kind, feature in named.items():
        width = table.feature(feature).shape[1]
        if width != embodiment.width(kind):
            raise InputError(
                f"source {name}: {feature!r} has {width} dimensions, but the {kind} of {embodiment.name} has "
                f"{embodiment.width(kind)}; choose another embodiment"
            )
    table.require_finite([state_feature, action_feature])
    weights = None if weight_file is None else read_weights(weight_file, table)
    recorded = table.frame_id
    raw = {
        kind: {
            "mean": np.zeros(embodiment.width(kind), np.float32),
            "std": np.ones(embodiment.width(kind), np.float32),
        }
        for kind in named
    }
    robot = Robot(name, embodiment, table.fps if spec.fps is None else spec.fps, spec.features, spec.actions, raw)
    table = robot.resample(table, action_feature)
    if weights is not None:
        # Dropped frames lose their weights, and repeated frames keep theirs.
        order = np.argsort(recorded, kind="stable")
        weights = weights[order][np.searchsorted(recorded[order], table.observed_id)]
    if known is not None:
        if any(known.embodiment.parts(kind) != embodiment.parts(kind) for kind in named):
            raise InputError(f"source {name}: the policy knows it as a {known.embodiment.name}; choose another name")
        robot = dataclasses.replace(robot, scale=known.scale)
        if not same_rate(known.fps, robot.fps):
            warnings.warn(
                f"source {name}: the policy knows its robot at {known.fps:g} fps, and it has {robot.fps:g} fps; set "
                f"fps to {known.fps:g} in the source to resample it",
                DataWarning,
                stacklevel=2,
            )
    elif spec.statistics == "own":
        min_std = {"state": spec.min_std, "action": 0.0}
        own = {kind: normalization(table, [feature], min_std=min_std[kind]) for kind, feature in named.items()}
        robot = dataclasses.replace(robot, scale=own)
    if held_out is not None:
        held_out = robot.resample(_renamed(held_out, spec.features), action_feature)
        held_out = _scaled(held_out, robot, named)
    return Source(spec, robot, _scaled(table, robot, named), truth, weights, held_out)


def _scaled(table: EpisodeTable, robot: Robot, named: Mapping[str, str]) -> EpisodeTable:
    """The table with state and action in the robot's units."""
    columns = dict(table.columns)
    for kind, feature in named.items():
        scale = robot.scale[kind]
        columns[feature] = (table.feature(feature) - scale["mean"]) / scale["std"]
    return dataclasses.replace(table, columns=columns)


def _renamed(table: EpisodeTable, features: Mapping[str, str]) -> EpisodeTable:
    """The table with features renamed by `{new: old}`; other features keep their names."""
    known = (*table.columns, *table.videos)
    for old in features.values():
        if old not in known:
            raise InputError(
                f"dataset {table.source!r} has no feature {old!r} (it has: {', '.join(known)}).{nearest(old, known)}"
            )
    if not features:
        return table
    taken = {*features, *features.values()}
    names = {**{name: name for name in known if name not in taken}, **features}
    return dataclasses.replace(
        table,
        columns={new: table.columns[old] for new, old in names.items() if old in table.columns},
        features={new: table.features[old] for new, old in names.items() if old in table.features},
        # Read on first access, like those of the table.
        videos=CameraClips([new for new, old in names.items() if old in table.videos], partial(_clips, table, names)),
    )


def _clips(table: EpisodeTable, names: Mapping[str, str], camera: str) -> Mapping[int, Clip]:
    return table.videos[names[camera]]
