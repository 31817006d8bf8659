"""
Records what `lerobot-train` trains on, and makes π0 small.

Tests name this plug-in with `--policy.discover_packages_path`; LeRobot itself stays as it is.

Each step adds a line to the file that `LEROBOT_SPY` names: frame indices of the batch, losses as the policy returned
them, and the loss whose gradient was taken.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from accelerate import Accelerator
from lerobot.scripts import lerobot_train
from lerobot_helpers import shrink_pi

released_update, released_backward = lerobot_train.update_policy, Accelerator.backward
step: dict[str, Any] = {}


def backward(self: Accelerator, loss: Any, **keywords: Any) -> None:
    step["loss"] = loss.item()
    released_backward(self, loss, **keywords)


def update_policy(metrics: Any, policy: Any, batch: Any, *arguments: Any, **keywords: Any) -> Any:
    released_forward = policy.forward

    def forward(*given: Any, **named: Any) -> Any:
        losses, logged = released_forward(*given, **named)
        step["losses"] = losses.detach().tolist()
        return losses, logged

    step["index"] = batch["index"].tolist()
    policy.forward = forward
    try:
        return released_update(metrics, policy, batch, *arguments, **keywords)
    finally:
        policy.forward = released_forward
        with open(os.environ["LEROBOT_SPY"], "a", encoding="utf-8") as file:
            file.write(json.dumps(step) + "\n")
        step.clear()


lerobot_train.update_policy, Accelerator.backward = update_policy, backward
shrink_pi(pytest.MonkeyPatch())
