"""Base of the LeRobot adapters: loading, dataset features and statistics in LeRobot's terms, saving for LeRobot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.constants import ACTION, OBS_STATE
from safetensors.torch import load_file, load_model
from transformers.utils import cached_file

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import CONSTANT_BELOW, feature_statistics
from hf_ptr.errors import InputError
from hf_ptr.policies.contract import require_input_shapes
from hf_ptr.policies.feature_binding import BINDING_FILE, DatasetBoundAdapter
from hf_ptr.policies.lerobot.processor import LeRobotProcessor
from hf_ptr.utils.atomic_files import write_json

WEIGHTS = "model.safetensors"
# Configuration fields that make a policy download pretrained weights, only to overwrite them with its own.
PRETRAINED_WEIGHTS = {"load_vlm_weights": False, "pretrained_backbone_weights": None}
# The statistics that each of LeRobot's normalisation modes maps to -1 and 1.
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
# Mean and standard deviation of colours in [0, 1] for each mode; ImageNet's are LeRobot's default.
COLOURS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "IDENTITY": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "MIN_MAX": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "MEAN_STD": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def load_policy(source: str, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    """
    The LeRobot policy in a folder or Hub repo, on the CPU and in evaluation mode.

    LeRobot's own `from_pretrained` continues with random weights for some policies when a file is damaged.

    Raises:
        InputError: there are no weights, or they do not match the configuration.
    """
    config = PreTrainedConfig.from_pretrained(source)
    changed = {"device": "cpu", **PRETRAINED_WEIGHTS}
    original = {name: getattr(config, name) for name in changed if hasattr(config, name)}
    for name in original:
        setattr(config, name, changed[name])
    policy: Any = get_policy_class(config.type)(config)
    for name, value in original.items():
        setattr(config, name, value)
    file = cached_file(source, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if file is None:
        raise InputError(f"{source} has no {WEIGHTS}; pass the folder of a LeRobot checkpoint (…/pretrained_model)")
    try:
        if hasattr(policy, "_fix_pytorch_state_dict_keys"):
            # Checkpoints converted from openpi use other names.
            state = policy._fix_pytorch_state_dict_keys(load_file(file), config)
            policy.load_state_dict({f"model.{name.removeprefix('model.')}": state[name] for name in state})
        else:
            load_model(policy, file)
    except RuntimeError as error:
        raise InputError(
            f"{source} is damaged or does not match its config.json ({str(error)[:200]}); save the policy again"
        ) from error
    # A LoRA adapter records this as the source of its base model.
    config.name_or_path = source
    return policy.to(dtype).eval()


class LeRobotAdapter(DatasetBoundAdapter):
    """
    Base class of the adapters for LeRobot policies.

    A saved run is a LeRobot checkpoint: `config.json`, `model.safetensors`, and the pre- and postprocessor with the
    statistics that the policy was trained with.

    Args:
        model: the policy. Its weights, and its outputs without belief tokens, are unchanged.
    """

    load_model = staticmethod(load_policy)

    @property
    def title(self) -> str:
        """The policy's name in messages."""
        return f"{self.model.config.type} of LeRobot"

    @staticmethod
    def load_processor(source: str) -> LeRobotProcessor:
        """LeRobot's processor for a policy in a folder or Hub repo."""
        return LeRobotProcessor.from_policy(source)

    def chunking(self) -> tuple[int, int]:
        """LeRobot's chunk size and executed steps."""
        return self.model.config.chunk_size, self.model.config.n_action_steps

    def image_resolution_for(self, height: int, width: int) -> tuple[int, int]:
        """The recorded size: the policy itself resizes images, as when LeRobot runs it."""
        return height, width

    def scale_of(self, table: EpisodeTable, feature: str, is_action: bool) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale by LeRobot's normalisation mode for the feature; a constant dimension has scale 1."""
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
        """As [`DatasetBoundAdapter.fit_to`]; the policy's input and output features become those of the dataset."""
        super().fit_to(table, **features)
        try:
            self._take_features(table)
        except InputError:
            self._binding = None
            raise

    def save_extra_files(self, folder: Path, adapted: bool) -> None:
        """
        Writes the binding, for which LeRobot's `config.json` has no field, and LeRobot's processors; for a LoRA
        adapter also `config.json`, as LeRobot itself does.
        """
        if self._binding is None:
            return
        write_json(self._as_json(), folder / BINDING_FILE)
        if adapted:
            self.model.config.use_peft = True
            self.model.config.save_pretrained(folder)
        for processor in make_pre_post_processors(self.model.config, dataset_stats=self.statistics()):
            processor.save_pretrained(folder)

    def statistics(self) -> dict[str, dict[str, torch.Tensor]]:
        """Statistics of state, action and images, by the names that LeRobot's normaliser uses."""
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

    def images(self, observation: torch.Tensor, state: torch.Tensor) -> list[torch.Tensor]:
        """The images of each camera, `(N, 3, height, width)`, normalised as by LeRobot's preprocessor."""
        require_input_shapes(self.config, observation, state)
        return [normalized_images(camera, *COLOURS[self._mode("VISUAL")]) for camera in observation.unbind(dim=1)]

    def _take_features(self, table: EpisodeTable) -> None:
        """Sets or checks the policy's input and output features."""
        raise NotImplementedError

    def _features_of(self, table: EpisodeTable) -> tuple[dict[str, PolicyFeature], dict[str, PolicyFeature]]:
        """The dataset's features as LeRobot's input and output features."""
        inputs = {OBS_STATE: PolicyFeature(FeatureType.STATE, (self.config.state_dim,))}
        for camera in self.config.cameras:
            height, width = table.features[camera]["shape"][:2]
            inputs[camera] = PolicyFeature(FeatureType.VISUAL, (3, int(height), int(width)))
        return inputs, {ACTION: PolicyFeature(FeatureType.ACTION, (self.config.action_dim,))}

    def _mode(self, kind: str) -> str:
        """LeRobot's normalisation mode for `STATE`, `ACTION` or `VISUAL`."""
        mode = self.model.config.normalization_mapping.get(kind, "IDENTITY")
        return str(getattr(mode, "value", mode))


def normalized_images(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """`(…, height, width, 3)` uint8 as `(…, 3, height, width)` float, normalised by colour."""
    values = images.float() / 255.0
    return ((values - values.new_tensor(mean)) / values.new_tensor(std)).movedim(-1, -3)
