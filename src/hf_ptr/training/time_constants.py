"""The constants of the method that are counted in optimiser steps, for a run of any length."""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = ("published", "scaled")
# The published run (PTR Table 6), for which the published constants are made.
PUBLISHED_STEPS = 60_000


@dataclass(frozen=True)
class TimeConstants:
    """
    Constants in optimiser steps.

    Attributes:
        target_decay: μ per step of the target encoder.
        nce_warmup_steps: steps during which every weight is 1.
        controller_steps: steps between two updates of the controller.
        controller_stride: published updates that one update stands for.
    """

    target_decay: float
    nce_warmup_steps: int
    controller_steps: int
    controller_stride: float

    @classmethod
    def of(
        cls, schedule: str, max_steps: int, *, target_decay: float, nce_warmup_steps: int, controller_steps: int
    ) -> TimeConstants:
        """
        The constants of a run of `max_steps` steps.

        With `"scaled"` the run passes through the regime of a run of `PUBLISHED_STEPS` steps: the target encoder
        forgets its initial weights by the same share, the weights begin to count after the same share of the steps,
        and the controller makes as many updates; where that would be more than one a step, each stands for several.
        The queue is not scaled: its size is a number of candidates, and it is full after a few steps of either run.

        Args:
            schedule: one of `SCHEDULES`.
            max_steps: optimiser steps of the run, at least 1 with `"scaled"`.
            target_decay, nce_warmup_steps, controller_steps: of the published run.
        """
        if schedule == "published":
            return cls(target_decay, nce_warmup_steps, controller_steps, 1.0)
        share = max_steps / PUBLISHED_STEPS
        interval = max(1, round(controller_steps * share))
        return cls(
            target_decay=target_decay ** (1.0 / share),
            nce_warmup_steps=scaled_steps(nce_warmup_steps, max_steps),
            controller_steps=interval,
            controller_stride=interval / (controller_steps * share),
        )


def scaled_steps(steps: float, max_steps: int) -> int:
    """Steps of the published run as steps of a run of `max_steps`, rounded up."""
    return -(-int(steps) * max_steps // PUBLISHED_STEPS)
