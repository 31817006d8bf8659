"""What the adapters of all LeRobot policies share: the dataset in LeRobot's terms, loading, and saving for LeRobot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.utils.constants import ACTION, OBS_STATE

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import CONSTANT_BELOW, feature_statistics
from hf_ptr.errors import InputError
from hf_ptr.policies.fitted import INTERFACE_FILE, FittedActing
from hf_ptr.policies.lerobot.loading import load_policy
from hf_ptr.policies.lerobot.processor import LeRobotProcessor
from hf_ptr.policies.shapes import require_shapes
from hf_ptr.utils.atomic_files import write_json

# The statistics that LeRobot's modes of normalisation map to -1 and 1.
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
# Mean and standard deviation of colours in [0, 1]; LeRobot normalises pictures by ImageNet's unless told not to.
COLOURS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "IDENTITY": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "MIN_MAX": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "MEAN_STD": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class LeRobotAdapter(FittedActing):
    """
    The half of an adapter that is the same for every LeRobot policy.

    A saved run is a LeRobot checkpoint: its `config.json` and `model.safetensors`, and the pre- and postprocessor with
    the statistics that it was trained with.

    Args:
        model: the policy. Its weights, and what it computes without belief tokens, are left as they are.
    """

    load_model = staticmethod(load_policy)

    @property
    def title(self) -> str:
        """What messages call the policy."""
        return f"{self.model.config.type} of LeRobot"

    @staticmethod
    def load_processor(place: str) -> LeRobotProcessor:
        """As LeRobot makes it for the policy of a folder or Hub id."""
        return LeRobotProcessor.from_policy(place)

    def chunking(self) -> tuple[int, int]:
        """As LeRobot executes them."""
        return self.model.config.chunk_size, self.model.config.n_action_steps

    def image_resolution_for(self, height: int, width: int) -> tuple[int, int]:
        """As they were recorded: the policy itself scales them, as it does when LeRobot runs it."""
        return height, width

    def scale_of(self, table: EpisodeTable, feature: str, is_action: bool) -> tuple[np.ndarray, np.ndarray]:
        """As LeRobot's mode for the feature has it; a dimension that does not move keeps a scale of 1."""
        mode = self._mode("ACTION" if is_action else "STATE")
        if mode == "MEAN_STD":
            return super().scale_of(table, feature, is_action)
        found = feature_statistics(table.feature(feature))
        if mode == "IDENTITY":
            return np.zeros_like(found["mean"]), np.ones_like(found["mean"])
        low, high = (found[name] for name in RANGES[mode])
        centre, half = (low + high) / 2, (high - low) / 2
        return centre, np.where(half <= CONSTANT_BELOW * np.maximum(1.0, np.abs(centre)), 1.0, half)

    def fit_to(self, table: EpisodeTable, **features: Any) -> None:
        """As [`FittedActing.fit_to`]; the policy's features become those of the dataset, or must be already."""
        super().fit_to(table, **features)
        try:
            self._take_features(table)
        except InputError:
            self._interface = None
            raise

    def save_beside(self, folder: Path, adapted: bool) -> None:
        """
        The interface, for which LeRobot's `config.json` has no room, and LeRobot's processors. Beside a LoRA adapter
        also that `config.json`, as LeRobot itself writes it there.
        """
        if self._interface is None:
            return
        write_json(self._as_json(), folder / INTERFACE_FILE)
        if adapted:
            self.model.config.use_peft = True
            self.model.config.save_pretrained(folder)
        for processor in make_pre_post_processors(self.model.config, dataset_stats=self.statistics()):
            processor.save_pretrained(folder)

    def statistics(self) -> dict[str, dict[str, torch.Tensor]]:
        """Of state, action and pictures, under the names by which LeRobot's normaliser asks for them."""
        config, found = self.config, {}
        for key, kind, mean, std in (
            (OBS_STATE, "STATE", config.state_mean, config.state_std),
            (ACTION, "ACTION", config.action_mean, config.action_std),
            *((camera, "VISUAL", *COLOURS[self._mode("VISUAL")]) for camera in config.cameras),
        ):
            centre, scale = torch.tensor(mean), torch.tensor(std)
            if kind == "VISUAL":
                centre, scale = centre[:, None, None], scale[:, None, None]
            names = RANGES.get(self._mode(kind))
            found[key] = (
                {"mean": centre, "std": scale}
                if names is None
                else dict(zip(names, (centre - scale, centre + scale), strict=True))
            )
        return found

    def pictures(self, observation: torch.Tensor, state: torch.Tensor) -> list[torch.Tensor]:
        """What each camera saw, `(N, 3, height, width)` as LeRobot's normaliser hands it to the policy."""
        require_shapes(self.config, observation, state)
        return [coloured(seen, *COLOURS[self._mode("VISUAL")]) for seen in observation.unbind(dim=1)]

    def _take_features(self, table: EpisodeTable) -> None:
        raise NotImplementedError

    def _features_of(self, table: EpisodeTable) -> tuple[dict[str, PolicyFeature], dict[str, PolicyFeature]]:
        """What LeRobot calls the policy's input and output features."""
        inputs = {OBS_STATE: PolicyFeature(FeatureType.STATE, (self.config.state_dim,))}
        for camera in self.config.cameras:
            height, width = table.features[camera]["shape"][:2]
            inputs[camera] = PolicyFeature(FeatureType.VISUAL, (3, int(height), int(width)))
        return inputs, {ACTION: PolicyFeature(FeatureType.ACTION, (self.config.action_dim,))}

    def _mode(self, kind: str) -> str:
        """LeRobot's mode of normalisation for `STATE`, `ACTION` or `VISUAL`."""
        mode = self.model.config.normalization_mapping.get(kind, "IDENTITY")
        return str(getattr(mode, "value", mode))


def coloured(pictures: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """`(…, height, width, 3)` uint8 as `(…, 3, height, width)` float, normalised."""
    values = pictures.float() / 255.0
    return ((values - values.new_tensor(mean)) / values.new_tensor(std)).movedim(-1, -3)
