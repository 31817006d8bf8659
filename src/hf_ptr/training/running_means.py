"""The method's metrics between two logs: summed on the device, read when a step is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

STEPS = "steps"


class RunningMeans:
    """
    Means of metrics over the optimiser steps since the last log. The host waits for the device in
    [`~RunningMeans.take`] alone.

    Attributes:
        steps: how many there were.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, torch.Tensor] = {}

    def begin_step(self) -> None:
        """Counts an optimiser step."""
        self.steps += 1

    def add(self, shares: Mapping[str, torch.Tensor]) -> None:
        """
        Args:
            shares: of a micro-batch in the metrics of its step, scalars.
        """
        for name, value in shares.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self, over_ranks: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """The means over the steps and, by what `over_ranks` makes of a tensor, over the ranks; they begin anew."""
        names = sorted(self._sums)
        stacked = over_ranks(torch.stack([self._sums[name].float() for name in names]) / self.steps)
        self._sums, self.steps = {}, 0
        return dict(zip(names, stacked.tolist(), strict=True))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        return {**self._sums, STEPS: torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores what [`~RunningMeans.state_dict`] gave."""
        self.steps = int(state[STEPS])
        self._sums = {name: value for name, value in state.items() if name != STEPS}
