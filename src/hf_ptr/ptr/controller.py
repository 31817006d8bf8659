"""The adaptive scale controller, the paper's "refiner" (PTR Sec. 7)."""

from __future__ import annotations

import torch

TEMPERATURE_RANGE = (0.03, 0.20)
BETA_RANGE = (0.5, 3.0)
HARD_RATIO_RANGE = (0.0, 0.5)
HARD_ACCURACY_RANGE = (0.10, 0.50)


class AdaptiveScaleController:
    """
    Adapts the score temperature τ, the weight scale β and the hard-negative ratio to the accuracy of the
    identification. It is updated on the host, every so many optimiser steps, so that no other step waits for it.

    Args:
        temperature: `τ_0`.
        beta: `β_0`.
        decay: decay of the moving averages (0.98).
        stride: number of published updates that one update stands for; the decay and the factors of τ and β are raised
            to this power.
        adaptive: False keeps τ and β constant and uses no hard negatives (the paper's "no controller" ablation).

    Attributes:
        temperature, beta, hard_negative_ratio: the current values.
    """

    def __init__(
        self,
        temperature: float = 0.12,
        beta: float = 1.5,
        decay: float = 0.98,
        adaptive: bool = True,
        stride: float = 1.0,
    ):
        self.temperature = temperature
        self.beta = beta
        self.hard_negative_ratio = HARD_RATIO_RANGE[0]
        self.decay = decay**stride
        self.stride = stride
        self.adaptive = adaptive
        self.averages: dict[str, float] = {}

    def update(self, *, accuracy: float, margin: float, score: float, valid_ratio: float) -> None:
        """
        One update (PTR Sec. 7) from the mean metrics since the last one.

        Args:
            accuracy: `nce_acc` in [0, 1], the share of samples whose matched target has the highest logit.
            margin: `nce_margin`, matched minus highest mismatched logit.
            score: `ptr_score`, the mean PTR score in nats.
            valid_ratio: share of samples with a valid target, in [0, 1].
        """
        seen = {"accuracy": accuracy, "margin": margin, "score": score, "valid_ratio": valid_ratio}
        for name, value in seen.items():
            # The first update initialises the average: from zero, 0.98 would hold the accuracy under 0.05 for long.
            previous = self.averages.get(name, value)
            self.averages[name] = self.decay * previous + (1.0 - self.decay) * value
        if not self.adaptive:
            return
        smoothed = self.averages["accuracy"]
        factor = 1.0
        if smoothed < 0.05:
            factor = 1.01
        elif smoothed > 0.35 and self.averages["margin"] > 0.10:
            factor = 0.995
        factor = factor**self.stride
        self.temperature = min(max(self.temperature * factor, TEMPERATURE_RANGE[0]), TEMPERATURE_RANGE[1])
        self.beta = min(max(self.beta * factor, BETA_RANGE[0]), BETA_RANGE[1])
        low, high = HARD_ACCURACY_RANGE
        share = min(max((smoothed - low) / (high - low), 0.0), 1.0)
        self.hard_negative_ratio = HARD_RATIO_RANGE[0] + share * (HARD_RATIO_RANGE[1] - HARD_RATIO_RANGE[0])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All state as float64 scalars."""
        values = {"temperature": self.temperature, "beta": self.beta, "hard_negative_ratio": self.hard_negative_ratio}
        values.update({f"average.{name}": value for name, value in self.averages.items()})
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores the result of [`~AdaptiveScaleController.state_dict`]."""
        self.temperature = state["temperature"].item()
        self.beta = state["beta"].item()
        self.hard_negative_ratio = state["hard_negative_ratio"].item()
        prefix = "average."
        self.averages = {
            name.removeprefix(prefix): value.item() for name, value in state.items() if name.startswith(prefix)
        }
