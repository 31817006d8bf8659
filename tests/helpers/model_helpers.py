"""A policy of a few hundred weights, and batches of chunks for it, as the collator would make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from hf_ptr import PTRConfig, PTRModel, VLAPolicy, VLAPolicyConfig, VLAProcessor
from hf_ptr.ptr import Candidates
from hf_ptr.training.batch import candidates_of, model_inputs
from hf_ptr.training.objective import Losses, PTRObjective
from hf_ptr.training.ptr_model import PTROutput, build_ptr_model

OBSERVATION, STATE, ACTION, LENGTH = 5, 3, 2, 4
INSTRUCTIONS = ("push the cube", "open the drawer", "close the drawer")

Batch = dict[str, Any]


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


def objective(**changes: Any) -> PTRObjective:
    """An objective past its warm-up, whose queue one batch nearly fills: all of it is drawn."""
    settings = {"output_dir": "unused", "use_cpu": True, "nce_warmup_steps": 0, "queue_size": 8}
    return PTRObjective(PTRConfig(**{**settings, **changes}))


def run(model: PTRModel, batch: Batch, seed: int = 0, **carried: torch.Tensor) -> PTROutput:
    """One pass; the seed is that of the flow's noise and times."""
    torch.manual_seed(seed)
    return model(**model_inputs(batch, None), **carried)


def candidates(model: PTRModel, batch: Batch, output: PTROutput) -> Candidates | None:
    return None if output.target is None else candidates_of(model.adapter, batch, output.target)


def losses_of(model: PTRModel, batch: Batch, goal: PTRObjective | None = None, seed: int = 0) -> Losses:
    """All parts of the objective of one batch, by the path that the trainer takes."""
    output = run(model, batch, seed)
    goal = objective() if goal is None else goal
    return goal(output, candidates(model, batch, output), None, step=0)


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
