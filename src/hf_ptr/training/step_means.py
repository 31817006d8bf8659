"""Means of metrics over optimiser steps, added up on the device and read by the host when they are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

STEPS = "steps"
Reduce = Callable[..., torch.Tensor]


class StepMeans:
    """
    Means of metrics over the steps since they were last taken, and over the processes.

    Attributes:
        steps: optimiser steps so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Adds scalars of a step, or of one of its micro-batches. The caller counts the steps."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self, reduce: Reduce) -> dict[str, float]:
        """
        The means; resets the sums. The host waits for the device.

        Args:
            reduce: reduction of a tensor over the processes, see `Accelerator.reduce`.
        """
        if not self.steps or not self._sums:
            return {}
        names = sorted(self._sums)
        stacked = torch.stack([self._sums[name].float() for name in names]) / self.steps
        means = reduce(stacked, reduction="mean").tolist()
        self._sums, self.steps = {}, 0
        return dict(zip(names, means, strict=True))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state that a resumed run needs."""
        means = {f"means.{name}": value for name, value in self._sums.items()}
        return {**means, STEPS: torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores the result of [`~StepMeans.state_dict`]."""
        self.steps = int(state[STEPS])
        self._sums = {n.removeprefix("means."): value for n, value in state.items() if n.startswith("means.")}
