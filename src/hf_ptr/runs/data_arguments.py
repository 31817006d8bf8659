"""The data keys of a recipe. This module does not import torch, so that `hf-ptr report` can read them without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Keys whose values are lists of episode ids, see `hf_ptr.data.episode_ids`.
EPISODE_KEYS = ("episodes", "skip_episodes", "eval_episodes")
# Keys whose values are a feature or a list of features, see `hf_ptr.data.features.feature_text`.
FEATURE_KEYS = ("state_feature", "action_feature")


@dataclass
class DataArguments:
    """The episodes to train on, and how they are divided into segments of chunks."""

    dataset: str | None = field(default=None, metadata={"help": "LeRobotDataset (v2.1 or v3.0): path or repo id."})
    sources: list[Any] | None = field(
        default=None, metadata={"help": "Several datasets instead of dataset: a list of mappings, see docs/data.md."}
    )
    episodes: str | None = field(
        default=None, metadata={"help": "Ids of the training episodes, such as 0:16,20 or [0, 1, 2]; default: all."}
    )
    skip_episodes: str | None = field(
        default=None, metadata={"help": "Ids of episodes to leave out, in the same form."}
    )
    eval_episodes: str | None = field(
        default=None, metadata={"help": "Ids of the held-out episodes for eval_loss, in the same form; default: none."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Download videos from the Hub during training, when they are first needed."}
    )
    video_decoder: str = field(
        default="pyav", metadata={"help": "Video decoder: pyav, or torchcodec if it is installed."}
    )
    corruption: str = field(
        default="clean", metadata={"help": "Synthetic faults in the training episodes: name of a corruption recipe."}
    )
    corruption_severity: float = field(
        default=1.0, metadata={"help": "Factor on the severity of the synthetic faults."}
    )
    corruption_seed: int = field(
        default=0, metadata={"help": "Random seed of the synthetic faults and their episodes."}
    )
    observation_features: list[str] = field(
        default_factory=lambda: ["observation.state"],
        metadata={"help": "Features of the observation: cameras, or vectors; NAME@-4: 4 frames earlier."},
    )
    state_feature: str = field(
        default="observation.state",
        metadata={"help": "Feature of the proprioceptive state, or a list of features to concatenate."},
    )
    action_feature: str = field(
        default="action", metadata={"help": "Feature of the action, or a list of features to concatenate."}
    )
    weights: str | None = field(
        default=None,
        metadata={
            "help": "Score file with the weight of each chunk: path or repo id; scoring paper needs alpha 0 too."
        },
    )
    segment_chunks: int = field(default=4, metadata={"help": "Consecutive chunks in a segment."})
    target_offset: int = field(
        default=16, metadata={"help": "Frames from the start of a chunk to its next observation, Δ."}
    )
