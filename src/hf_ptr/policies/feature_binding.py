"""Binding of pretrained policies to a dataset: its cameras, feature names and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import normalization
from hf_ptr.errors import InputError, nearest
from hf_ptr.policies.action_queue import ActionQueueMixin
from hf_ptr.utils.atomic_files import write_json

# The key of the binding in the model's configuration, and the file for models whose saved configuration has no room.
BINDING_KEY = "hf_ptr"
BINDING_FILE = "feature_binding.json"


@dataclass
class FeatureBinding:
    """
    The inputs and outputs of a policy in the names and units of a dataset.

    Attributes:
        observation_features: cameras, in the policy's order.
        state_feature, action_feature: feature names in the dataset.
        state_mean, state_std, action_mean, action_std: centre and scale of the normalisation, `(ds,)` and `(da,)`.
        image_resolution: height and width of the images passed to the policy.
        chunk_size, n_action_steps: actions per chunk, and how many of them are executed.
        target_layer: the vision layer that the target encoder reads (PTR Sec. 4).
        belief_tokens: number of belief tokens that the policy was trained with.
        fps: frames per second of the data that the policy is trained on; None where it is unknown.
    """

    observation_features: list[str]
    state_feature: str
    action_feature: str
    state_mean: list[float]
    state_std: list[float]
    action_mean: list[float]
    action_std: list[float]
    image_resolution: tuple[int, int]
    chunk_size: int
    n_action_steps: int
    target_layer: int
    belief_tokens: int = 0
    fps: float | None = None

    def __post_init__(self) -> None:
        self.image_resolution = (int(self.image_resolution[0]), int(self.image_resolution[1]))

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras: all observation features."""
        return tuple(self.observation_features)

    @property
    def state_dim(self) -> int:
        """`ds`."""
        return len(self.state_mean)

    @property
    def action_dim(self) -> int:
        """`da`."""
        return len(self.action_mean)


class DatasetBoundAdapter(ActionQueueMixin):
    """
    Base class of adapters for pretrained policies: knows the dataset's features and acts in its units.

    Args:
        model: the policy. Its weights, and its outputs without belief tokens, are unchanged.
    """

    # The policy's name in messages.
    title: str

    def __init__(self, model: Any):
        self.model = model
        saved = getattr(model.config, BINDING_KEY, None)
        self._binding = None if saved is None else _checked(saved, self.title, *self.max_dimensions())
        if self._binding is not None:
            self.reset()

    # ---- defined by each policy ----

    def max_dimensions(self) -> tuple[int, int]:
        """The largest state and action dimensions that the model accepts."""
        raise NotImplementedError

    def chunking(self) -> tuple[int, int]:
        """Actions per chunk, and the default number of executed actions."""
        raise NotImplementedError

    def image_resolution_for(self, height: int, width: int) -> tuple[int, int]:
        """The height and width to which images of a dataset are scaled for the policy."""
        raise NotImplementedError

    def vision_layers(self) -> int:
        """Number of layers of the vision tower; the target encoder reads the middle one."""
        raise NotImplementedError

    def scale_of(self, table: EpisodeTable, feature: str, is_action: bool) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale, both `(d,)`, that normalise a feature: mean and standard deviation by default."""
        found = normalization(table, [feature])
        return found["mean"], found["std"]

    # ---- the dataset ----

    def fit_to(
        self,
        table: EpisodeTable,
        *,
        observation_features: Sequence[str] = (),
        state_feature: str = "observation.state",
        action_feature: str = "action",
        n_action_steps: int | None = None,
    ) -> None:
        """
        Binds the policy to a dataset. The binding is stored in the model's configuration; no weight changes.

        Args:
            table: the dataset.
            observation_features: cameras; all of them by default.
            state_feature, action_feature: feature names.
            n_action_steps: executed actions per chunk; the policy's own number by default.

        Raises:
            InputError: a camera or feature is missing, or a vector is wider than the model accepts.
        """
        cameras, size = _cameras(table, observation_features, self.title)
        state, action = self.scale_of(table, state_feature, False), self.scale_of(table, action_feature, True)
        limits = self.max_dimensions()
        for name, (mean, _), limit in ((state_feature, state, limits[0]), (action_feature, action, limits[1])):
            if len(mean) > limit:
                raise InputError(
                    f"{name!r} of {table.source!r} has {len(mean)} dimensions, this {self.title} at most {limit}"
                )
        chunk_size, executed = self.chunking()
        self._binding = FeatureBinding(
            observation_features=cameras,
            state_feature=state_feature,
            action_feature=action_feature,
            state_mean=state[0].tolist(),
            state_std=state[1].tolist(),
            action_mean=action[0].tolist(),
            action_std=action[1].tolist(),
            image_resolution=self.image_resolution_for(*size),
            chunk_size=chunk_size,
            n_action_steps=n_action_steps or executed,
            target_layer=-(-self.vision_layers() // 2),
            fps=float(table.fps),
        )
        self._store_binding()
        self.reset()

    @property
    def config(self) -> FeatureBinding:
        """
        The binding.

        Raises:
            InputError: the policy is not bound to a dataset yet.
        """
        if self._binding is None:
            raise InputError(
                f"this {self.title} is not bound to a dataset yet: call fit_to(table, …), or name observation_features"
            )
        return self._binding

    @property
    def needs_dataset(self) -> bool:
        """Whether `fit_to` has not been called yet, as for a pretrained policy."""
        return self._binding is None

    def attach_belief(self, belief: Any) -> None:
        """As [`ActionQueueMixin.attach_belief`]; the number of tokens is stored in the model's configuration."""
        super().attach_belief(belief)
        self._store_binding()

    def set_rate(self, fps: float) -> None:
        """Records the frames per second of the data that the policy is trained on from now on."""
        self.config.fps = fps
        self._store_binding()

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioceptive state `(N, ds)` in normalised units."""
        return (state - state.new_tensor(self.config.state_mean)) / state.new_tensor(self.config.state_std)

    def normalized_actions(
        self, actions: torch.Tensor, action_mask: torch.Tensor, action_dim_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised actions `(N, L, da)`, 0 at padded steps and absent dimensions, and the mask of all others."""
        clean = (actions - actions.new_tensor(self.config.action_mean)) / actions.new_tensor(self.config.action_std)
        mask = action_mask[..., None].expand_as(clean)
        if action_dim_mask is not None:
            mask = mask & action_dim_mask[:, None]
        return clean.masked_fill(~mask, 0.0), mask

    def raw_actions(self, chunk: torch.Tensor, action_dim_mask: torch.Tensor | None) -> torch.Tensor:
        """Normalised actions `(B, L, da)` in raw units; 0 in absent dimensions."""
        actions = chunk.float()
        actions = actions * actions.new_tensor(self.config.action_std) + actions.new_tensor(self.config.action_mean)
        return actions if action_dim_mask is None else actions.masked_fill(~action_dim_mask[:, None], 0.0)

    def save_extra_files(self, folder: Path, adapted: bool) -> None:
        """
        Writes what the model's own `save_pretrained` does not.

        Args:
            folder: the folder of the saved model.
            adapted: whether the model is saved as a LoRA adapter. peft saves no model configuration, and so no
                binding.
        """
        if adapted and self._binding is not None:
            write_json(self._as_json(), folder / BINDING_FILE)

    def _store_binding(self) -> None:
        setattr(self.model.config, BINDING_KEY, self._as_json())

    def _as_json(self) -> dict[str, Any]:
        return {**asdict(self.config), "image_resolution": list(self.config.image_resolution)}


def _cameras(table: EpisodeTable, names: Sequence[str], title: str) -> tuple[list[str], tuple[int, int]]:
    """
    The cameras that a policy is bound to, all by default, and the height and width of the first one's images.

    Raises:
        InputError: the dataset has no cameras, lacks a named one, or their aspect ratios differ.
    """
    names = list(names) or sorted(table.videos)
    if not names:
        raise InputError(f"{title} needs camera images, and {table.source!r} has no cameras; record with cameras")
    for name in names:
        if name not in table.videos:
            known = ", ".join(table.videos) or "none"
            raise InputError(
                f"{title} needs camera images, and {table.source!r} has no camera {name!r} (it has: {known})."
                f"{nearest(name, table.videos)}"
            )
    height, width = table.features[names[0]]["shape"][:2]
    for name in names:
        if table.features[name]["shape"][0] * width != height * table.features[name]["shape"][1]:
            raise InputError(
                f"cameras {names[0]!r} and {name!r} have images of different aspect ratios, and one would be "
                "distorted; name cameras of one aspect ratio in observation_features"
            )
    return names, (int(height), int(width))


def _checked(saved: Any, title: str, max_state: int, max_action: int) -> FeatureBinding:
    """A saved binding, validated: a configuration may come from anywhere."""
    try:
        found = FeatureBinding(**saved)
        widths = [(found.state_mean, found.state_std, max_state), (found.action_mean, found.action_std, max_action)]
        whole = all(len(mean) == len(std) <= limit and min(std) > 0 for mean, std, limit in widths)
        if not (whole and found.observation_features and 1 <= found.n_action_steps <= found.chunk_size):
            raise ValueError("invalid lengths or values")
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{BINDING_KEY!r} in the configuration of this {title} is damaged ({error}); remove it and fit it again"
        ) from error
    return found
