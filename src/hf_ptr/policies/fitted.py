"""Policies that are not ours, fitted to a dataset: its cameras, names and units, kept in their configuration."""

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
from hf_ptr.policies.acting import ChunkActing
from hf_ptr.utils.atomic_files import write_json

# Where in the configuration of such a policy its interface lies, and the file beside one whose own format has no room.
INTERFACE_KEY = "hf_ptr"
INTERFACE_FILE = "policy_interface.json"


@dataclass
class Interface:
    """
    What a policy is given and gives, in the names and units of a dataset.

    Attributes:
        observation_features: cameras, in the policy's order.
        state_feature, action_feature: of the dataset.
        state_mean, state_std, action_mean, action_std: centre and scale that normalise them, `(ds,)` and `(da,)`.
        image_resolution: height and width that the policy is handed pictures in.
        chunk_size, n_action_steps: actions of a chunk, and how many of them are executed.
        target_layer: the vision layer that the target encoder reads (PTR Sec. 4).
        belief_tokens: that the policy was trained with.
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

    def __post_init__(self) -> None:
        self.image_resolution = (int(self.image_resolution[0]), int(self.image_resolution[1]))

    @property
    def cameras(self) -> tuple[str, ...]:
        """All that it observes."""
        return tuple(self.observation_features)

    @property
    def state_dim(self) -> int:
        """`ds`."""
        return len(self.state_mean)

    @property
    def action_dim(self) -> int:
        """`da`."""
        return len(self.action_mean)


class FittedActing(ChunkActing):
    """
    The half of an adapter that knows the dataset, and acts in its units.

    Args:
        model: the policy. Its weights, and what it computes without belief tokens, are left as they are.
    """

    # What messages call the policy.
    title: str

    def __init__(self, model: Any):
        self.model = model
        kept = getattr(model.config, INTERFACE_KEY, None)
        self._interface = None if kept is None else _checked(kept, self.title, *self.most_dimensions())
        if self._interface is not None:
            self.reset()

    # ---- what differs from policy to policy ----

    def most_dimensions(self) -> tuple[int, int]:
        """How many dimensions of state and action the model has room for."""
        raise NotImplementedError

    def chunking(self) -> tuple[int, int]:
        """Actions of a chunk, and how many of them are executed unless `fit_to` is told otherwise."""
        raise NotImplementedError

    def image_resolution_for(self, height: int, width: int) -> tuple[int, int]:
        """The size that a dataset's pictures are handed over in."""
        raise NotImplementedError

    def vision_layers(self) -> int:
        """Layers of the vision tower, of which the target encoder reads the middle one."""
        raise NotImplementedError

    def scale_of(self, table: EpisodeTable, feature: str, is_action: bool) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale, both `(d,)`, that a feature is normalised with: mean and standard deviation."""
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
        Takes cameras (all of them by default), features and statistics of a dataset, and keeps them in the model's
        configuration.

        Raises:
            InputError: a camera or feature that is not there, or vectors wider than the model's.
        """
        cameras, size = _cameras(table, observation_features, self.title)
        state, action = self.scale_of(table, state_feature, False), self.scale_of(table, action_feature, True)
        most = self.most_dimensions()
        for name, (mean, _), room in ((state_feature, state, most[0]), (action_feature, action, most[1])):
            if len(mean) > room:
                raise InputError(
                    f"{name!r} of {table.source!r} has {len(mean)} dimensions, this {self.title} at most {room}"
                )
        chunk_size, executed = self.chunking()
        self._interface = Interface(
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
        )
        self._keep()
        self.reset()

    @property
    def config(self) -> Interface:
        """
        What it is given and gives.

        Raises:
            InputError: it has not been fitted to a dataset yet.
        """
        if self._interface is None:
            raise InputError(
                f"this {self.title} knows no dataset yet: call fit_to(table, …), or name observation_features"
            )
        return self._interface

    @property
    def needs_dataset(self) -> bool:
        """Whether it has not been fitted to a dataset yet, as a pretrained policy has not."""
        return self._interface is None

    def attach_belief(self, belief: Any) -> None:
        """As [`ChunkActing.attach_belief`]; the number of tokens is kept in the model's configuration."""
        super().attach_belief(belief)
        self._keep()

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioception `(N, ds)` in units of the policy."""
        return (state - state.new_tensor(self.config.state_mean)) / state.new_tensor(self.config.state_std)

    def normalized_actions(
        self, actions: torch.Tensor, action_mask: torch.Tensor, action_dim_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions `(N, L, da)` in units of the policy, 0 where nothing counts, and where they count."""
        clean = (actions - actions.new_tensor(self.config.action_mean)) / actions.new_tensor(self.config.action_std)
        mask = action_mask[..., None].expand_as(clean)
        if action_dim_mask is not None:
            mask = mask & action_dim_mask[:, None]
        return clean.masked_fill(~mask, 0.0), mask

    def raw_actions(self, chunk: torch.Tensor, action_dim_mask: torch.Tensor | None) -> torch.Tensor:
        """What the policy gives as actions `(B, L, da)` of the dataset; 0 in dimensions that are not there."""
        actions = chunk.float()
        actions = actions * actions.new_tensor(self.config.action_std) + actions.new_tensor(self.config.action_mean)
        return actions if action_dim_mask is None else actions.masked_fill(~action_dim_mask[:, None], 0.0)

    def save_beside(self, folder: Path, adapted: bool) -> None:
        """
        Writes what the model's own files do not hold. With a LoRA adapter peft saves no configuration, and so not the
        interface in it.
        """
        if adapted and self._interface is not None:
            write_json(self._as_json(), folder / INTERFACE_FILE)

    def _keep(self) -> None:
        setattr(self.model.config, INTERFACE_KEY, self._as_json())

    def _as_json(self) -> dict[str, Any]:
        return {**asdict(self.config), "image_resolution": list(self.config.image_resolution)}


def _cameras(table: EpisodeTable, names: Sequence[str], title: str) -> tuple[list[str], tuple[int, int]]:
    """
    The cameras that a policy is fitted to, all by default, and the size of their pictures.

    Raises:
        InputError: there is none, or none of a name, or they differ in their proportions.
    """
    names = list(names) or sorted(table.videos)
    if not names:
        raise InputError(f"{title} sees through cameras, and {table.source!r} has none; record with cameras")
    for name in names:
        if name not in table.videos:
            known = ", ".join(table.videos) or "none"
            raise InputError(
                f"{title} sees through cameras, and {table.source!r} has no camera {name!r} (it has: {known})."
                f"{nearest(name, table.videos)}"
            )
    height, width = table.features[names[0]]["shape"][:2]
    for name in names:
        if table.features[name]["shape"][0] * width != height * table.features[name]["shape"][1]:
            raise InputError(
                f"cameras {names[0]!r} and {name!r} give pictures of different proportions, and one would be "
                "squeezed; name cameras of one proportion in observation_features"
            )
    return names, (int(height), int(width))


def _checked(kept: Any, title: str, most_state: int, most_action: int) -> Interface:
    """What was kept, checked: a configuration may come from anywhere."""
    try:
        found = Interface(**kept)
        widths = [(found.state_mean, found.state_std, most_state), (found.action_mean, found.action_std, most_action)]
        whole = all(len(mean) == len(std) <= most and min(std) > 0 for mean, std, most in widths)
        if not (whole and found.observation_features and 1 <= found.n_action_steps <= found.chunk_size):
            raise ValueError("lengths or values that cannot be")
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{INTERFACE_KEY!r} in the configuration of this {title} is damaged ({error}); remove it and fit it again"
        ) from error
    return found
