"""The earlier observations that a policy with features `NAME@-K` reads, kept while it acts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from hf_ptr.errors import InputError


class ObservationHistory:
    """
    Completes present observations with values from earlier frames. In the first frames of an episode, an earlier value
    is that of the first frame, as in training (`EpisodeTable.feature`).

    Args:
        features: the features of the complete observation, in order, such as `NAME` and `NAME@-4`.
        sizes: their widths.
    """

    def __init__(self, features: Sequence[str], sizes: Sequence[int]) -> None:
        parts = [(name.partition("@-")[0], int(name.partition("@-")[2] or 0)) for name in features]
        # Present values in the order in which their features first occur.
        self._slices: dict[str, slice] = {}
        for (name, _), size in zip(parts, sizes, strict=True):
            start = self.width
            self._slices.setdefault(name, slice(start, start + size))
        self._parts = [(self._slices[name], lag) for name, lag in parts]
        self._frames: deque[torch.Tensor] = deque(maxlen=1 + max(lag for _, lag in parts))

    @classmethod
    def of(cls, config: Any) -> ObservationHistory | None:
        """The history that a policy's configuration needs; None if it reads the present alone."""
        sizes = getattr(config, "observation_sizes", None)
        if not sizes or not any("@-" in name for name in config.observation_features):
            return None
        return cls(config.observation_features, sizes)

    @property
    def width(self) -> int:
        """Number of present values."""
        return max((part.stop for part in self._slices.values()), default=0)

    @property
    def present(self) -> list[str]:
        """The features of which present values are passed, in order."""
        return list(self._slices)

    def complete(self, observation: torch.Tensor) -> torch.Tensor:
        """
        The complete observation of this frame; `remember` the present values once they have been used.

        Args:
            observation: `(B, width)`, the present values.

        Raises:
            InputError: the number of rows has changed within an episode.
        """
        if self._frames and len(self._frames[0]) != len(observation):
            raise InputError(
                f"the episode began with {len(self._frames[0])} rows, and now there are {len(observation)}; call "
                "reset() at the start of every episode"
            )
        frames = deque([*self._frames, observation], maxlen=self._frames.maxlen)
        newest = len(frames) - 1
        values = [frames[max(newest - lag, 0)][:, part] for part, lag in self._parts]
        return torch.cat(values, dim=1)

    def remember(self, observation: torch.Tensor) -> None:
        """Adds the present values `(B, width)` of this frame to the history; call it once per frame."""
        self._frames.append(observation)
