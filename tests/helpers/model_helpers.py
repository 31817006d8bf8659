"""A policy of a few hundred weights, and batches of chunks for it, as the collator would make them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.utils.data import default_collate
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from hf_ptr import PTRConfig, PTRModel, PTRTrainer, VLAPolicy, VLAPolicyConfig, VLAProcessor
from hf_ptr.training.micro_batches import model_inputs
from hf_ptr.training.ptr_model import PTROutput, build_ptr_model

OBSERVATION, STATE, ACTION, LENGTH = 5, 3, 2, 4
INSTRUCTIONS = ("push the cube", "open the drawer", "close the drawer")

Batch = dict[str, Any]
# Trainers make the folder that they are given.
FOLDER = tempfile.TemporaryDirectory(prefix="hf-ptr-tests-")


def tiny_config(**changes: Any) -> VLAPolicyConfig:
    settings: dict[str, Any] = {
        "observation_dim": OBSERVATION,
        "state_dim": STATE,
        "action_dim": ACTION,
        "chunk_size": LENGTH,
        "n_action_steps": LENGTH,
        "num_instructions": len(INSTRUCTIONS),
        "hidden_size": 8,
        "action_size": 6,
        "encoder_size": 8,
        "num_attention_heads": 2,
        "expert_size": 8,
        "num_expert_layers": 1,
    }
    return VLAPolicyConfig(**{**settings, **changes})


def tiny_policy(seed: int = 0, **changes: Any) -> VLAPolicy:
    """With statistics of the data that are not 0 and 1, so that raw and normalised units cannot be mixed up."""
    torch.manual_seed(seed)
    policy = VLAPolicy(tiny_config(**changes))
    for normalizer in (policy.tower.normalizer, policy.state_normalizer, policy.action_normalizer):
        size = len(normalizer.mean)
        normalizer.set(torch.linspace(-1.0, 1.0, size) + 0.3, torch.linspace(0.5, 2.0, size))
    return policy


def tiny_model(
    *, with_scorer: bool = True, belief_tokens: int = 2, detach_scorer: bool = False, **changes: Any
) -> PTRModel:
    """Weights of the belief losses far above the paper's, so that their gradients stand out from rounding."""
    return build_ptr_model(
        tiny_policy(**changes),
        with_scorer=with_scorer,
        belief_tokens=belief_tokens,
        belief_entropy_weight=0.7,
        belief_diversity_weight=0.4,
        detach_scorer=detach_scorer,
    )


def tiny_batch(rows: int = 6, seed: int = 0, first_index: int = 0) -> Batch:
    """Chunks of one row of frames; the last step of the last chunk is padded and the last chunk has no target."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(first_index, first_index + rows)
    last = torch.arange(rows) == rows - 1
    mask = torch.ones(rows, LENGTH, dtype=torch.bool)
    mask[-1, -1] = False
    return {
        "observation": torch.randn(rows, OBSERVATION, generator=generator),
        "state": torch.randn(rows, STATE, generator=generator),
        "actions": torch.randn(rows, LENGTH, ACTION, generator=generator) * mask[..., None],
        "action_mask": mask,
        "next_observation": torch.randn(rows, OBSERVATION, generator=generator) * ~last[:, None],
        "has_target": ~last,
        "target_offset": torch.full((rows,), LENGTH),
        "task_index": index % len(INSTRUCTIONS),
        "index": index,
        "target_index": (index + LENGTH).masked_fill(last, -1),
        "previous_index": index - 1,
        "instruction_ids": (index % len(INSTRUCTIONS) + 1)[:, None],
        "instruction_mask": torch.ones(rows, 1, dtype=torch.bool),
    }


def policy_inputs(batch: Batch) -> Batch:
    """Policy inputs for acting."""
    return {name: batch[name] for name in ("observation", "state", "instruction_ids", "instruction_mask")}


def training_inputs(batch: Batch) -> Batch:
    """The batch of a training pass without PTR components."""
    return {**policy_inputs(batch), "actions": batch["actions"], "action_mask": batch["action_mask"]}


def trainer_of(model: PTRModel, **changes: Any) -> PTRTrainer:
    """A trainer past its warm-up, whose queue one batch nearly fills: all of it is drawn."""
    settings = {"output_dir": FOLDER.name, "use_cpu": True, "nce_warmup_steps": 0, "queue_size": 8}
    settings |= {"report_to": "none", "disable_tqdm": True, "detach_scorer": model.config.detach_scorer}
    belief = 0 if model.belief_tokenizer is None else model.belief_tokenizer.config.num_tokens
    if model.scorer is None:
        settings["alpha"] = 0.0
    args = PTRConfig(**{**settings, "belief_tokens": belief, **changes})
    return PTRTrainer(model, args, data_collator=default_collate)


def run(model: PTRModel, batch: Batch, seed: int = 0, **carried: torch.Tensor) -> PTROutput:
    """One pass; the seed is that of the flow's noise and times."""
    torch.manual_seed(seed)
    return model(**model_inputs(batch), **carried)


class Losses(NamedTuple):
    """The parts of the loss of one batch."""

    total: torch.Tensor
    action: torch.Tensor
    auxiliary: dict[str, torch.Tensor]
    weight: torch.Tensor
    output: PTROutput
    metrics: dict[str, float]


def losses_of(model: PTRModel, batch: Batch, trainer: PTRTrainer | None = None, seed: int = 0) -> Losses:
    """All parts of the loss of one batch that is a step, by the way that the trainer takes; nothing is carried."""
    trainer = trainer_of(model) if trainer is None else trainer
    trainer.carry.clear()
    torch.manual_seed(seed)
    total, output = trainer.compute_loss(model, dict(batch), return_outputs=True)
    auxiliary = {name: loss for name, loss in output.losses.items() if name != "action"}
    metrics = trainer.metrics.logged.take(lambda values, reduction: values)
    return Losses(total, output.losses["action"], auxiliary, output.weight, output, metrics)


# ---- the variant with a text encoder

WORDS = ("push", "open", "close", "the", "cube", "drawer", "slowly")


def text_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS) + 2,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def text_processor() -> VLAProcessor:
    """One id a word; `[PAD]` is 0 and `[UNK]` is 1."""
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return VLAProcessor(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"))


def saved_text_encoder(folder: Path) -> Path:
    """A small text encoder with its tokenizer, whose activations can be recomputed."""
    config = text_config()
    config.max_position_embeddings = 64
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    text_processor().tokenizer.save_pretrained(folder)
    return folder
