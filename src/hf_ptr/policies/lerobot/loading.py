"""Loading of LeRobot's checkpoints: whole, in the precision that training wants, and nothing that is not needed."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from safetensors.torch import load_file, load_model
from transformers.utils import cached_file

from hf_ptr.errors import InputError

WEIGHTS = "model.safetensors"
# What a policy would fetch to start from, and overwrite with its own weights.
STARTS = {"load_vlm_weights": False, "pretrained_backbone_weights": None}


def load_policy(place: str, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    """
    The LeRobot policy that a folder or Hub id holds, on the CPU and in evaluation mode.

    Not by LeRobot's `from_pretrained`, which for some policies goes on with random weights where a file is damaged.

    Raises:
        InputError: there are no weights, or not those of the configuration.
    """
    config = PreTrainedConfig.from_pretrained(place)
    kept = {name: getattr(config, name) for name in ("device", *STARTS) if hasattr(config, name)}
    for name, value in {"device": "cpu", **STARTS}.items():
        if name in kept:
            setattr(config, name, value)
    policy: Any = get_policy_class(config.type)(config)
    for name, value in kept.items():
        setattr(config, name, value)
    file = cached_file(place, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if file is None:
        raise InputError(f"{place} has no {WEIGHTS}; pass the folder of a LeRobot checkpoint (…/pretrained_model)")
    try:
        if hasattr(policy, "_fix_pytorch_state_dict_keys"):
            # Checkpoints of openpi have other names.
            state = policy._fix_pytorch_state_dict_keys(load_file(file), config)
            policy.load_state_dict({f"model.{name.removeprefix('model.')}": state[name] for name in state})
        else:
            load_model(policy, file)
    except RuntimeError as error:
        raise InputError(
            f"{place} is damaged or no match for its config.json ({str(error)[:200]}); save the policy again"
        ) from error
    # By which it is found again under an adapter.
    config.name_or_path = place
    return policy.to(dtype).eval()
