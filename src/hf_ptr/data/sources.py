"""A source of a mixture: a dataset, whose robot it is, and how it is brought to what all sources have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot_videos import CameraClips
from hf_ptr.data.resampling import KINDS, resampled
from hf_ptr.data.statistics import normalization
from hf_ptr.data.video import VideoClip
from hf_ptr.embodiment import Embodiment, UnifiedActionSpace, load_embodiment
from hf_ptr.errors import InputError, nearest

STATISTICS = ("own", "joint")
# Ends of the names of parts whose action is an effort, a grip or a mode, and no displacement that adds up.
HELD = ("gripper", "hand", "control_mode")


@dataclass(frozen=True)
class SourceSpec:
    """
    A source as a recipe lists it.

    Attributes:
        dataset: folder or Hub id of a LeRobotDataset.
        embodiment: name of the robot, or a YAML file; says which slots its dimensions fill.
        weight: its share of the chunks is its part in the sum of all weights.
        name: of the source; by default the folder's.
        episodes, skip_episodes: ids, as in a recipe.
        features: what the mixture calls a feature, to what the dataset calls it.
        fps: frames per second to resample to; by default the dataset's own.
        actions: `"positions"` or `"displacements"`, see [`resampled`].
        statistics: `"own"` gives state and action in units of this source's mean and standard deviation, `"joint"`
            leaves them in raw units.
        target_offset: `Δ` in frames (at `fps`); by default the recipe's.
    """

    dataset: str
    embodiment: str
    weight: float = 1.0
    name: str | None = None
    episodes: str | None = None
    skip_episodes: str | None = None
    features: dict[str, str] = field(default_factory=dict)
    fps: float | None = None
    actions: str = "positions"
    statistics: str = "own"
    target_offset: int | None = None

    @classmethod
    def parse(cls, content: Any, number: int) -> SourceSpec:
        """
        The source of a mapping.

        Raises:
            InputError: an unknown key (the nearest is suggested), a missing one, or a value of another type.
        """
        where = f"source {number}"
        if not isinstance(content, Mapping):
            raise InputError(f"{where} is {content!r}; write a mapping with dataset and embodiment")
        known = {item.name: item for item in dataclasses.fields(cls)}
        for key in content:
            if key not in known:
                raise InputError(f"{where} has an unknown key {key!r}.{nearest(str(key), known)}")
        for key in ("dataset", "embodiment"):
            if not isinstance(content.get(key), str):
                raise InputError(f"{where} names no {key}; add '{key}: …'")
        values = {key: value for key, value in content.items() if value is not None}
        for key, kind in (("weight", float), ("fps", float), ("target_offset", int)):
            if key in values and (isinstance(values[key], bool) or not isinstance(values[key], int | kind)):
                raise InputError(f"{where}: {key} is {values[key]!r}, not a number")
        if not 0 < values.get("weight", 1.0) < float("inf"):
            raise InputError(f"{where}: weight is {values['weight']}; it must be positive")
        for key, choices in (("statistics", STATISTICS), ("actions", KINDS)):
            if values.get(key, choices[0]) not in choices:
                raise InputError(f"{where}: {key} is {values[key]!r}; it must be one of {', '.join(choices)}")
        features = values.get("features", {})
        if not isinstance(features, Mapping) or not all(isinstance(name, str) for name in features.values()):
            raise InputError(f"{where}: features is {features!r}; write a mapping of names to the dataset's names")
        for key in ("name", "episodes", "skip_episodes"):
            if key in values:
                values[key] = str(values[key])
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Source:
    """
    A source that is read.

    Attributes:
        spec: what the recipe says.
        name: its name, unlike that of any other source.
        table: its episodes under the mixture's names and at its frame rate; state and action in the units that the
            spec asks for.
        embodiment: the robot.
        scale: for `"state"` and `"action"`, `mean` and `std` of the raw values, each `(d,)`; 0 and 1 where the values
            are left raw.
    """

    spec: SourceSpec
    name: str
    table: EpisodeTable
    embodiment: Embodiment
    scale: dict[str, dict[str, np.ndarray]]

    def unified(self, vector: torch.Tensor, kind: str) -> torch.Tensor:
        """The robot's raw `"state"` or `"action"` `(…, d)` as a policy of the mixture knows it, `(…, 200)`."""
        scale = {name: torch.from_numpy(value) for name, value in self.scale[kind].items()}
        return UnifiedActionSpace().unify((vector - scale["mean"]) / scale["std"], self.embodiment, kind)

    def separate(self, vector: torch.Tensor, kind: str = "action") -> torch.Tensor:
        """The inverse of `unified`: what the robot is given of a policy's `(…, 200)`, `(…, d)` in raw units."""
        scale = {name: torch.from_numpy(value) for name, value in self.scale[kind].items()}
        return UnifiedActionSpace().separate(vector, self.embodiment, kind) * scale["std"] + scale["mean"]

    def to_dict(self) -> dict[str, Any]:
        """What is needed to act with a policy of the mixture on this robot, as JSON holds it."""
        return {
            "name": self.name,
            "embodiment": self.embodiment.name,
            "fps": self.table.fps,
            "features": self.spec.features,
            "weight": self.spec.weight,
            **{kind: {key: value.tolist() for key, value in scale.items()} for kind, scale in self.scale.items()},
        }


def make_source(
    spec: SourceSpec, table: EpisodeTable, name: str, *, state_feature: str, action_feature: str
) -> Source:
    """
    Brings a table to what a mixture's sources have in common.

    Raises:
        InputError: a feature is missing, the embodiment is unknown, or the robot's vectors have another width.
    """
    table = _renamed(table, spec.features)
    embodiment = load_embodiment(spec.embodiment)
    for kind, feature in (("state", state_feature), ("action", action_feature)):
        width = table.feature(feature).shape[1]
        if width != embodiment.width(kind):
            raise InputError(
                f"source {name}: {feature!r} has {width} dimensions, the {kind} of {embodiment.name} "
                f"{embodiment.width(kind)}; choose another embodiment"
            )
    table.require_finite([state_feature, action_feature])
    if spec.fps is not None:
        summed = np.zeros(embodiment.width("action"), dtype=bool)
        for part, columns_of_part in embodiment.parts("action").items():
            summed[columns_of_part.start : columns_of_part.stop] = not part.endswith(HELD)
        table = resampled(table, spec.fps, actions=spec.actions, action_feature=action_feature, summed=summed)
    scale = {}
    columns = dict(table.columns)
    for kind, feature in (("state", state_feature), ("action", action_feature)):
        values = columns[feature]
        if spec.statistics == "own":
            scale[kind] = normalization(table, [feature])
            columns[feature] = (values - scale[kind]["mean"]) / scale[kind]["std"]
        else:
            scale[kind] = {"mean": np.zeros(values.shape[1], np.float32), "std": np.ones(values.shape[1], np.float32)}
    return Source(spec, name, dataclasses.replace(table, columns=columns), embodiment, scale)


def _renamed(table: EpisodeTable, features: Mapping[str, str]) -> EpisodeTable:
    """The table with features under other names, `{new: old}`; the others keep theirs."""
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
        # Read when they are asked for, as those of the table.
        videos=CameraClips([new for new, old in names.items() if old in table.videos], partial(_clips, table, names)),
    )


def _clips(table: EpisodeTable, names: Mapping[str, str], camera: str) -> Mapping[int, VideoClip]:
    return table.videos[names[camera]]
