"""A PI0 of random weights with a LoRA adapter in a trainer, and batches of noise for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import PI0Config, PI0ForConditionalGeneration, set_seed

from benchmarks.tiny_pi0 import small_pi0_config
from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.policies.feature_binding import BINDING_KEY, FeatureBinding

ARMS: dict[str, dict[str, Any]] = {
    "sft": {"alpha": 0.0, "belief_tokens": 0},
    "ptr": {"alpha": 1.0, "belief_tokens": 4, "nce_warmup_steps": 0},
}
CAMERAS, STATE, PROMPT, TASKS = 3, 26, 16, 8
# Of recipes/pi0/g1/ptr_lora.yaml.
LORA = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": r".*(vlm\.language_model|dit)\.layers\.\d+\.self_attn\.(q|v)_proj",
}


@dataclass(frozen=True)
class Place:
    """Where to measure, and whether PI0 has its full size."""

    device: torch.device
    full: bool


def pi0_config(full: bool) -> PI0Config:
    """The configuration of transformers' PI0 (3.3 billion weights), or of one with some ten thousand."""
    return PI0Config(loss_reduction="none") if full else small_pi0_config(vocabulary=64, image_token=63)


def bound_pi0(config: PI0Config, device: torch.device, dtype: torch.dtype) -> PI0ForConditionalGeneration:
    """A PI0 of random weights that is fitted to a dataset with three cameras."""
    side = config.vlm_config.vision_config.image_size
    binding = FeatureBinding(
        observation_features=[f"observation.images.camera{number}" for number in range(CAMERAS)],
        state_feature="observation.state",
        action_feature="action",
        state_mean=[0.0] * STATE,
        state_std=[1.0] * STATE,
        action_mean=[0.0] * STATE,
        action_std=[1.0] * STATE,
        image_resolution=(side, side),
        chunk_size=config.chunk_size,
        n_action_steps=config.chunk_size,
        target_layer=-(-config.vlm_config.vision_config.num_hidden_layers // 2),
    )
    setattr(config, BINDING_KEY, dataclasses.asdict(binding))
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = PI0ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    # An adapter names its base model; this one is never saved.
    model.config.name_or_path = "random"
    return model


def trainer_of(arm: str, place: Place, folder: Path) -> PTRTrainer:
    """
    A trainer of an arm, with PI0's own weights in bfloat16. Nothing is downloaded: the weights are random, as their
    values do not change the cost.
    """
    set_seed(0)
    model = bound_pi0(pi0_config(place.full), place.device, torch.bfloat16)
    args = PTRConfig(
        output_dir=str(folder),
        bf16=True,
        use_cpu=place.device.type != "cuda",
        disable_tqdm=True,
        report_to="none",
        **ARMS[arm],
    )
    return PTRTrainer(model, args, data_collator=lambda chunks: chunks, peft_config=LoraConfig(**LORA))


def random_chunks(config: PI0Config, batch: int) -> dict[str, Any]:
    """A batch of noise for a PI0 of this configuration."""
    side = config.vlm_config.vision_config.image_size
    given: dict[str, Any] = {
        "index": torch.arange(batch),
        "previous_index": torch.full((batch,), -1),
        "state": torch.randn(batch, STATE),
        "actions": torch.randn(batch, config.chunk_size, STATE),
        "action_mask": torch.ones(batch, config.chunk_size, dtype=torch.bool),
        "instruction_ids": torch.randint(1, 60, (batch, PROMPT)),
        "instruction_mask": torch.ones(batch, PROMPT, dtype=torch.bool),
        "task_index": torch.randint(TASKS, (batch,)),
        "has_target": torch.ones(batch, dtype=torch.bool),
        "target_index": torch.arange(batch),
    }
    for name in ("observation", "next_observation"):
        given[name] = torch.randint(256, (batch, CAMERAS, side, side, 3), dtype=torch.uint8)
    return given


def stepper(trainer: PTRTrainer, batch: int, place: Place) -> Callable[[], None]:
    """A function that makes one training step: copy of the batch to the device, loss, gradients, AdamW, EMA target."""
    given = random_chunks(trainer.model.adapter.model.config, batch)
    if place.device.type == "cuda":
        given = {name: tensor.pin_memory() for name, tensor in given.items()}
    trained = [value for value in trainer.model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        inputs = {name: tensor.to(place.device, non_blocking=True) for name, tensor in given.items()}
        # Frames not seen before, so that the queue of candidates grows as in a run.
        inputs["target_index"] = inputs["target_index"] + batch * trainer.state.global_step
        # As accelerate wraps the model of a run with `bf16`.
        with torch.autocast(place.device.type, torch.bfloat16):
            loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.state.global_step += 1
        trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)

    return step
