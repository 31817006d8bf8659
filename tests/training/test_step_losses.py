"""
Losses of the first steps equal recorded ones: a step may become cheaper, and must stay the same step.

`step_losses.json` was recorded before the operations of a step were joined. After an intended change of the losses:

    PYTHONPATH=.:tests/helpers python tests/training/test_step_losses.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from trainer_helpers import BELIEF, SFT, history, make

from benchmarks.robustness.behaviour import synthetic_table
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.utils.atomic_files import write_json

RECORDED = Path(__file__).with_name("step_losses.json")
METRICS = ("loss", "grad_norm", "loss_action", "loss_id", "loss_rank", "loss_tok", "ess", "nce_margin", "weight_mean")
CASES: dict[str, dict[str, Any]] = {
    "sft": SFT,
    "belief": BELIEF,
    "ptr": {},
    "ptr, two micro-batches": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 16},
    # Logits reach their bound, and hard negatives are the nearest states.
    "ptr, all options": {
        "scorer_temperature": 0.04,
        "hard_negatives": "state",
        "discount": 0.9,
        "missing_target_weight": "mean",
        "policy_settings": {"dropout": 0.1, "pooled_actions": "noised"},
    },
}


def losses(case: str, folder: Path) -> dict[str, list[float]]:
    """The metrics of four steps, of which the first is in the warm-up of the weights."""
    data = folder / "data"
    if not data.exists():
        write_table(synthetic_table(), data)
    settings = {"max_steps": 4, "nce_warmup_steps": 1, "warmup_steps": 1, "queue_size": 48, "use_cpu": True}
    trainer = make(data, folder / "run", **settings, **CASES[case])
    # The value at which hard negatives are the most.
    trainer.identification.controller.hard_negative_ratio = 0.5
    trainer.train()
    logged = trainer.state.log_history[0]
    return {name: history(trainer, name) for name in METRICS if name in logged}


@pytest.mark.parametrize("case", CASES)
def test_the_losses_of_the_first_steps_are_the_recorded_ones(case: str, tmp_path: Path) -> None:
    expected = json.loads(RECORDED.read_text(encoding="utf-8"))[case]
    found = losses(case, tmp_path)
    assert found.keys() == expected.keys() and len(found["loss"]) == 4
    for name, values in expected.items():
        # Other processors round otherwise in the last digits.
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        write_json({case: losses(case, Path(scratch)) for case in CASES}, RECORDED)
