"""How a policy of a mixture is spoken to for one of its robots: names, slots, units and frame rate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.mixture.resampling import KINDS, resampled
from hf_ptr.embodiment import Embodiment, UnifiedActionSpace
from hf_ptr.errors import InputError, nearest

# In a run's folder, beside the policy.
MIXTURE_FILE = "mixture.json"
# Ends of the names of parts whose action is an effort, a grip or a mode, and no displacement that adds up.
NOT_SUMMED = ("gripper", "hand", "control_mode")


@dataclass(frozen=True, eq=False)
class Robot:
    """
    One robot of a mixture.

    Attributes:
        name: of its source.
        embodiment: which slots its dimensions fill.
        fps: frames per second at which it is observed and acts.
        features: what the mixture calls a feature, to what its dataset calls it; the others keep their names.
        actions: `"positions"` or `"displacements"`, see [`resampled`].
        scale: for `"state"` and `"action"`, `mean` and `std` of the raw values, each `(d,)` float32; 0 and 1 where the
            values are left raw.
    """

    name: str
    embodiment: Embodiment
    fps: float
    features: Mapping[str, str]
    actions: str
    scale: Mapping[str, Mapping[str, np.ndarray]]

    def unified(self, vector: torch.Tensor, kind: str) -> torch.Tensor:
        """The robot's raw `"state"` or `"action"` `(…, d)` as a policy of the mixture knows it, `(…, 200)`."""
        mean, std = self._scale(kind)
        return UnifiedActionSpace().unify((vector - mean) / std, self.embodiment, kind)

    def separate(self, vector: torch.Tensor, kind: str = "action") -> torch.Tensor:
        """The inverse of `unified`: what the robot is given of a policy's `(…, 200)`, `(…, d)` in raw units."""
        mean, std = self._scale(kind)
        return UnifiedActionSpace().separate(vector, self.embodiment, kind) * std + mean

    def mask(self, kind: str) -> torch.Tensor:
        """`(200,)` bool, the slots that its `"state"` or `"action"` fills."""
        return UnifiedActionSpace().mask(self.embodiment, kind)

    def at_its_rate(self, table: EpisodeTable, action_feature: str) -> EpisodeTable:
        """Episodes of the robot, in raw units, at its frame rate; `action_feature` is what the table calls it."""
        summed = np.zeros(self.embodiment.width("action"), dtype=bool)
        for part, columns in self.embodiment.parts("action").items():
            summed[columns.start : columns.stop] = not part.endswith(NOT_SUMMED)
        return resampled(table, self.fps, actions=self.actions, action_feature=action_feature, summed=summed)

    def to_dict(self) -> dict[str, Any]:
        """As `mixture.json` holds it."""
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
            ValueError, KeyError, TypeError: something else was given.
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
                raise ValueError(f"{kind} has no mean and standard deviation of its parts")
        features, actions = dict(content["features"]), content["actions"]
        if actions not in KINDS or not all(isinstance(name, str) for name in features.values()):
            raise ValueError("actions or features are none")
        return cls(str(content["name"]), embodiment, float(content["fps"]), features, actions, scale)

    def _scale(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.scale[kind]
        return torch.from_numpy(scale["mean"]), torch.from_numpy(scale["std"])


def observes_state(observation_features: Sequence[str], state_feature: str) -> bool:
    """Whether what a mixture observes is the state, which every robot has in its own dimensions."""
    return list(observation_features) == [state_feature]


def robot_of(folder: Path, name: str | None, hints: tuple[str, ...] = ()) -> Robot | None:
    """
    The robot of a mixture's run that is meant.

    Args:
        folder: of the run, or of a checkpoint in it.
        name: of its source; by default the only one, or the one that is called as one of the `hints`.

    Returns:
        The robot; None where the run is of no mixture.

    Raises:
        InputError: the name is unknown (the nearest is suggested) or needed, or `mixture.json` is damaged.
    """
    robots = robots_of(folder)
    if not robots:
        if name is not None:
            raise InputError(f"{folder} is no run of a mixture, and has no source {name!r}; leave --source out")
        return None
    if name is None:
        name = next((hint for hint in hints if hint in robots), next(iter(robots)) if len(robots) == 1 else None)
        if name is None:
            raise InputError(f"{folder} acts for several robots; name one with --source: {', '.join(robots)}")
    if name not in robots:
        raise InputError(f"{folder} has no source {name!r}.{nearest(name, robots)} It has: {', '.join(robots)}")
    return robots[name]


def robots_of(folder: Path) -> dict[str, Robot]:
    """
    The robots of a mixture's run by the names of their sources; none where the run is of no mixture.

    Args:
        folder: of the run, or of a checkpoint in it.

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
