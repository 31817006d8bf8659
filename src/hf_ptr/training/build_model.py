"""The module that a run trains, from whatever names it: a policy, a run of ours, a place of either, a checkpoint."""

from __future__ import annotations

import os
from typing import Any

import torch
from peft import PeftConfig
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import PreTrainedModel

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder
from hf_ptr.policies.loading import load_trainable_model
from hf_ptr.policies.lora import with_adapter
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.ptr_model import PTRModel, build_ptr_model, has_ptr_parts


def as_ptr_model(
    model: str | os.PathLike | PreTrainedModel, args: PTRConfig, peft_config: PeftConfig | None = None
) -> PTRModel:
    """
    The module to train. A [`PTRModel`], or a run's folder, with the parts that `args` ask for goes on with them;
    another run's folder gives its policy, and the parts are new. With `peft_config` an adapter trains the policy.
    """
    policy: Any = model
    if isinstance(model, str | os.PathLike):
        place = str(model_folder(model))
        policy = PTRModel.from_pretrained(place) if has_ptr_parts(place) else load_trainable_model(place)
    if isinstance(policy, PTRModel):
        belief = policy.belief_tokenizer
        has = (policy.scorer is not None, 0 if belief is None else belief.config.num_tokens)
        if has == (args.with_scorer, args.belief_tokens):
            policy.config.detach_scorer = args.detach_scorer
            if peft_config is not None:
                policy.set_policy(with_adapter(policy.policy, peft_config))
            return policy
        if policy is model:
            raise InputError(
                f"the model has {'a' if has[0] else 'no'} scorer and {has[1]} belief tokens, and the settings ask for "
                f"{'one' if args.with_scorer else 'none'} and {args.belief_tokens}; pass its .policy, or change alpha "
                "and belief_tokens"
            )
        policy = policy.policy
    return build_ptr_model(
        policy if peft_config is None else with_adapter(policy, peft_config),
        with_scorer=args.with_scorer,
        belief_tokens=args.belief_tokens,
        target_decay=args.target_decay,
        belief_temperature=args.belief_temperature,
        belief_entropy_weight=args.belief_entropy_weight,
        belief_diversity_weight=args.belief_diversity_weight,
        detach_scorer=args.detach_scorer,
    )


def load_weights(model: torch.nn.Module, checkpoint: str, sharded: bool) -> None:
    """
    Takes the weights of a checkpoint.

    Args:
        model: as it is wrapped.
        checkpoint: its folder.
        sharded: whether FSDP2 has shared the model out: each rank takes its part of the whole weights then.
    """
    saved = PTRModel.from_pretrained(checkpoint).state_dict()
    if sharded:
        set_model_state_dict(model, saved, options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(saved)
