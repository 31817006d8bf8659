"""What a recipe says of its data. Nothing heavy is loaded here: who only reads a run's data needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_ptr.errors import InputError


@dataclass
class DataArguments:
    """Which episodes are trained on, and how they are cut into segments of chunks."""

    dataset: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a LeRobotDataset (v2.1 or v3.0)."}
    )
    sources: list[str] | None = field(
        default=None, metadata={"help": "Instead of dataset: a list of mappings, see docs/data.md."}
    )
    episodes: str | None = field(default=None, metadata={"help": "Episode ids, as in 0:16,20; all by default."})
    skip_episodes: str | None = field(default=None, metadata={"help": "Ids of unusable episodes to leave out."})
    eval_episodes: str | None = field(default=None, metadata={"help": "Held-out episode ids for the eval loss."})
    streaming: bool = field(
        default=False, metadata={"help": "Pull videos from the Hub as they are needed, and not all before training."}
    )
    video_decoder: str = field(
        default="pyav", metadata={"help": "What decodes videos: pyav, or torchcodec where it is installed."}
    )
    corruption: str = field(default="clean", metadata={"help": "Faults put into the training data, by name."})
    corruption_severity: float = field(default=1.0, metadata={"help": "So many times as severe as the name says."})
    corruption_seed: int = field(default=0, metadata={"help": "Which episodes the faults fall on."})
    observation_features: list[str] = field(
        default_factory=lambda: ["observation.state"], metadata={"help": "Features that make up the observation."}
    )
    state_feature: str = field(default="observation.state", metadata={"help": "The proprioceptive state."})
    action_feature: str = field(default="action", metadata={"help": "The action."})
    weights: str | None = field(
        default=None,
        metadata={"help": "Score file, or Hub id of one, whose weights chunks count with; needs alpha 0."},
    )
    segment_chunks: int = field(default=4, metadata={"help": "Consecutive chunks of a segment."})
    target_offset: int = field(default=16, metadata={"help": "Frames from a chunk's start to the observation after."})


def parse_episodes(text: str | None) -> list[int] | None:
    """`"0:16,20"` to episode ids, end-exclusive as in Python; None for all.

    Raises:
        InputError: for anything else.
    """
    if text is None:
        return None
    ids: list[int] = []
    for part in str(text).split(","):
        start, colon, end = part.strip().partition(":")
        if not start.isdigit() or (colon and not end.isdigit()):
            raise InputError(f"episodes {text!r} cannot be read at {part!r}; write ids and ranges, as in 0:16,20")
        ids.extend(range(int(start), int(end)) if colon else [int(start)])
    if not ids:
        raise InputError(f"episodes {text!r} is an empty range; the end is exclusive, as in 0:16")
    return ids
