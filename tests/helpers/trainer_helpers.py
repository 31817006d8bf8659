"""Shared by the tests: trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import LoraConfig
from transformers import AutoModel, Trainer, TrainingArguments, set_seed

from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.policies import policy_from_dataset

OBSERVATION = ["observation.environment_state"]


# The setting's name; older versions of transformers have only the other.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)

SFT = {"alpha": 0.0, "belief_tokens": 0}


BELIEF = {"alpha": 0.0}


def make(
    dataset: Path,
    folder: Path,
    seed: int = 0,
    eval_dataset: bool = False,
    target_offset: int = 16,
    policy_settings: dict[str, Any] | None = None,
    episodes: list[int] | None = None,
    peft_config: LoraConfig | None = None,
    **settings: Any,
) -> PTRTrainer:
    """A trainer with a small fresh policy."""
    table = read_dataset(dataset)
    table = table if episodes is None else table.select(episodes)
    set_seed(seed)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "action_size": 8,
        "encoder_size": 16,
        "expert_size": 32,
        "num_expert_layers": 1,
    }
    size |= policy_settings or {}
    policy, processor = policy_from_dataset(table, observation_features=OBSERVATION, **size)
    given = {
        "max_steps": 6,
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "logging_steps": 1,
        "controller_steps": 1,
        "save_strategy": "no",
        "nce_warmup_steps": 2,
        "queue_size": 128,
        "disable_tqdm": True,
        "seed": seed,
    }
    args = PTRConfig(output_dir=str(folder), **{**given, **settings})
    chunks = ChunkDataset(table, observation_features=OBSERVATION, target_offset=target_offset)
    held_out = chunks if eval_dataset else None
    if peft_config is not None:
        # An adapter needs a saved policy; the main process saves it.
        base = folder.parent / "base"
        policy.save_pretrained(base)
        PartialState().wait_for_everyone()
        policy = AutoModel.from_pretrained(base)
    return PTRTrainer(
        policy,
        args,
        train_dataset=chunks,
        eval_dataset=held_out,
        processing_class=processor,
        peft_config=peft_config,
    )


def history(trainer: Trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]
