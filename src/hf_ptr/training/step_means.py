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
        # Metrics that come together share a vector, which takes two operations however many they are.
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, torch.Tensor], factor: float = 1.0) -> None:
        """Adds scalars of a step, or of one of its micro-batches, times a factor. The caller counts the steps."""
        if not values:
            return
        names, vector = tuple(values), torch.stack(list(values.values()))
        before = self._sums[names] if names in self._sums else torch.zeros_like(vector)
        self._sums[names] = torch.add(before, vector, alpha=factor)

    def take(self, reduce: Reduce) -> dict[str, float]:
        """
        The means; resets the sums. The host waits for the device.

        Args:
            reduce: reduction of a tensor over the processes, see `Accelerator.reduce`.
        """
        if not self.steps or not self._sums:
            return {}
        groups = sorted(self._sums)
        joined = torch.cat([self._sums[group].float() for group in groups]) / self.steps
        values = reduce(joined, reduction="mean").tolist()
        self._sums, self.steps = {}, 0
        means: dict[str, float] = {}
        for name, value in sorted(zip((name for group in groups for name in group), values, strict=True)):
            means[name] = means.get(name, 0.0) + value
        return means

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state that a resumed run needs."""
        means = {f"means.{','.join(names)}": value for names, value in self._sums.items()}
        return {**means, STEPS: torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores the result of [`~StepMeans.state_dict`]."""
        self.steps = int(state[STEPS])
        # A checkpoint of an earlier version has a scalar for each name.
        self._sums = {
            tuple(key.removeprefix("means.").split(",")): value.reshape(-1)
            for key, value in state.items()
            if key.startswith("means.")
        }
