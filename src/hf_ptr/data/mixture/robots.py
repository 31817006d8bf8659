"""The robots of a mixture: feature names, slots, units and frame rate of each, and their storage with a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.mixture.resampling import ACTION_KINDS, resampled
from hf_ptr.embodiment import Embodiment, UnifiedActionSpace
from hf_ptr.errors import InputError, nearest

# File in a run's folder, next to the policy.
MIXTURE_FILE = "mixture.json"
# Ends of the names of action parts that are an effort, a grip or a mode; summing them as displacements is wrong.
NOT_SUMMED = ("gripper", "hand", "control_mode")


@dataclass(frozen=True, eq=False)
class Robot:
    """
    One robot of a mixture.

    Attributes:
        name: name of its source.
        embodiment: the slots of its state and action dimensions.
        fps: frames per second of observations and actions.
        features: dataset's name by mixture's name, for features with different names.
        actions: `"positions"` or `"displacements"`, see [`resampled`].
        scale: for `"state"` and `"action"`, `mean` and `std` of the raw values, each `(d,)` float32; 0 and 1 if the
            values are not normalised.
    """

    name: str
    embodiment: Embodiment
    fps: float
    features: Mapping[str, str]
    actions: str
    scale: Mapping[str, Mapping[str, np.ndarray]]

    def unified(self, vector: torch.Tensor, kind: str) -> torch.Tensor:
        """Convert a raw `"state"` or `"action"` `(…, d)` to the mixture's normalised, unified vector `(…, 200)`."""
        mean, std = self._scale(kind)
        return UnifiedActionSpace().unify((vector - mean) / std, self.embodiment, kind)

    def separate(self, vector: torch.Tensor, kind: str = "action") -> torch.Tensor:
        """The inverse of `unified`: a policy's `(…, 200)` to the robot's vector `(…, d)` in raw units."""
        mean, std = self._scale(kind)
        return UnifiedActionSpace().separate(vector, self.embodiment, kind) * std + mean

    def mask(self, kind: str) -> torch.Tensor:
        """`(200,)` bool, the slots of its `"state"` or `"action"`."""
        return UnifiedActionSpace().mask(self.embodiment, kind)

    def resample(self, table: EpisodeTable, action_feature: str) -> EpisodeTable:
        """Resample episodes in raw units to the robot's frame rate; `action_feature` is the name in the table."""
        summed = np.zeros(self.embodiment.width("action"), dtype=bool)
        for part, columns in self.embodiment.parts("action").items():
            summed[columns.start : columns.stop] = not part.endswith(NOT_SUMMED)
        return resampled(table, self.fps, actions=self.actions, action_feature=action_feature, summed=summed)

    def to_dict(self) -> dict[str, Any]:
        """The robot as stored in `mixture.json`."""
        return {
            "name": self.name,
            "embodiment": self.embodiment.name,
            "parts": {kind: list(self.embodiment.parts(kind)) for kind in ("state", "action")},
            "fps": self.fps,
            "features": dict(self.features),
            "actions": self.actions,
            **{kind: {key: value.tolist() for key, value in scale.items()} for kind, scale in self.scale.items()},
        }

    @classmethod
    def from_dict(cls, content: Any) -> Robot:
        """
        The inverse of `to_dict`.

        Raises:
            ValueError, KeyError, TypeError: the content is invalid.
        """
        parts = content["parts"]
        embodiment = Embodiment.of_parts(str(content["embodiment"]), parts["state"], parts["action"])
        scale = {
            kind: {key: np.array(content[kind][key], dtype=np.float32) for key in ("mean", "std")}
            for kind in ("state", "action")
        }
        for kind, values in scale.items():
            shaped = all(value.shape == (embodiment.width(kind),) for value in values.values())
            if not shaped or not (values["std"] > 0).all():
                raise ValueError(f"{kind} has no mean and standard deviation for its parts")
        features, actions = dict(content["features"]), content["actions"]
        if actions not in ACTION_KINDS or not all(isinstance(name, str) for name in features.values()):
            raise ValueError("actions or features are invalid")
        return cls(str(content["name"]), embodiment, float(content["fps"]), features, actions, scale)

    def _scale(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.scale[kind]
        return torch.from_numpy(scale["mean"]), torch.from_numpy(scale["std"])


def observes_state(observation_features: Sequence[str], state_feature: str) -> bool:
    """Whether the observation of a mixture is the state, whose dimensions differ between robots."""
    return list(observation_features) == [state_feature]


def robot_of(folder: Path, name: str | None, hints: tuple[str, ...] = ()) -> Robot | None:
    """
    Select a robot of a mixture's run.

    Args:
        folder: folder of the run, or of a checkpoint in it.
        name: name of its source; by default the only source, or the first of `hints` that is a source.
        hints: candidates for the name, in order of preference.

    Returns:
        The robot; None if the run was not trained on a mixture.

    Raises:
        InputError: the name is unknown (the nearest is suggested) or ambiguous, or `mixture.json` is damaged.
    """
    robots = robots_of(folder)
    if not robots:
        if name is not None:
            raise InputError(f"{folder} was not trained on a mixture and has no source {name!r}; remove --source")
        return None
    if name is None:
        name = next((hint for hint in hints if hint in robots), next(iter(robots)) if len(robots) == 1 else None)
        if name is None:
            raise InputError(f"{folder} was trained for several robots; choose one with --source: {', '.join(robots)}")
    if name not in robots:
        raise InputError(f"{folder} has no source {name!r}.{nearest(name, robots)} It has: {', '.join(robots)}")
    return robots[name]


def robots_of(folder: Path) -> dict[str, Robot]:
    """
    The robots of a mixture's run by source name; empty if the run was not trained on a mixture.

    Args:
        folder: folder of the run, or of a checkpoint in it.

    Raises:
        InputError: `mixture.json` is damaged.
    """
    file = next((home / MIXTURE_FILE for home in (folder, folder.parent) if (home / MIXTURE_FILE).is_file()), None)
    if file is None:
        return {}
    try:
        return {robot.name: robot for robot in map(Robot.from_dict, json.loads(file.read_text(encoding="utf-8")))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged ({type(error).__name__}); train again") from error
