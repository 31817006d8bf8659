"""Instructions with a learned embedding each: those that a trained policy does not know yet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hf_ptr.policies.vla.modeling_vla import VLAPolicy
from hf_ptr.policies.vla.processing_vla import VLAProcessor, instruction_tokenizer


def learn_instructions(policy: VLAPolicy, processor: VLAProcessor, tasks: Sequence[str]) -> list[str]:
    """
    Gives policy and processor an embedding for every instruction that they lack, to be trained. It begins as the mean
    of those that they have. A policy with a text encoder reads any instruction, and is left as it is.

    Args:
        policy, processor: are changed.
        tasks: instructions.

    Returns:
        The new ones.
    """
    if policy.config.text_config is not None:
        return []
    known = processor.known_instructions()
    new = [text for text in dict.fromkeys(tasks) if text not in known]
    if not new:
        return []
    before: torch.Tensor = policy.instruction_embedding.weight.data
    mean = before[1:].mean(dim=0) if len(known) else before[0]
    policy.instruction_embedding = nn.Embedding.from_pretrained(
        torch.cat((before, mean.expand(len(new), -1))), freeze=False
    )
    policy.config.num_instructions += len(new)
    processor.tokenizer = instruction_tokenizer([*known, *new])
    return new
