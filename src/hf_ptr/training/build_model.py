"""The [`PTRModel`] of a run: from a policy, a saved policy, a saved run or a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from peft import PeftConfig
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
    The module to train.

    Args:
        model: a policy, a [`PTRModel`], or the path or repo id of a saved policy or run. A [`PTRModel`] or run with
            the scorer and belief tokens that `args` require continues with them; of any other run only the policy is
            used, with new PTR components.
        args: the training configuration.
        peft_config: adds a LoRA adapter, which is trained instead of the policy's own weights.

    Raises:
        InputError: a [`PTRModel`] whose scorer or belief tokens are not those that `args` require.
    """
    policy: Any = model
    if isinstance(model, str | os.PathLike):
        folder = str(model_folder(model))
        policy = PTRModel.from_pretrained(folder) if has_ptr_parts(folder) else load_trainable_model(folder)
    if isinstance(policy, PTRModel):
        belief = policy.belief_tokenizer
        has = (policy.scorer is not None, 0 if belief is None else belief.config.num_tokens)
        if has == (args.with_scorer, args.belief_tokens):
            policy.config.detach_scorer = args.detach_scorer
            policy.set_carried(args.belief_dropout < 1)
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
        target_decay=args.time_constants.target_decay,
        belief_temperature=args.belief_temperature,
        belief_entropy_weight=args.belief_entropy_weight,
        belief_diversity_weight=args.belief_diversity_weight,
        belief_carried=args.belief_dropout < 1,
        detach_scorer=args.detach_scorer,
    )
