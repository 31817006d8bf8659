"""What training keeps in memory for policies of three sizes, from their shapes: no weights are made.

    python -m benchmarks.policy_sizes

Writes tables of `docs/distributed_costs.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel, SmolVLMConfig, SmolVLMModel

from benchmarks.gpu.pi0 import LORA, bound_pi0, pi0_config, random_chunks
from benchmarks.measurement import command_parser, results_file, run, write_results
from benchmarks.training_costs import fill_costs
from hf_ptr.policies import VLAPolicy, VLAPolicyConfig
from hf_ptr.runs.memory import KeptBytes, bytes_on_each, kept_bytes, step_bytes
from hf_ptr.training.ptr_model import PTRModel, build_ptr_model

RANKS = (2, 8)
BELIEF_TOKENS = 4
META = torch.device("meta")
# Chunks of a micro-batch of PI0.
CHUNKS = 8
# SmolVLM2 500M, of which SmolVLA reads the first half of the layers, and its action expert, three quarters as wide.
SMOLVLM = {
    "text_config": {
        "model_type": "llama",
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 16,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "vocab_size": 49280,
    },
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "image_size": 512,
    },
    "scale_factor": 4,
}
EXPERT = {**SMOLVLM["text_config"], "hidden_size": 720, "intermediate_size": 2048, "vocab_size": 1}


def native(dtype: torch.dtype) -> PTRModel:
    """The policy of the demo with scorer and belief tokens, as in `recipes/vla/metaworld_state`."""
    config = VLAPolicyConfig(
        observation_dim=39,
        state_dim=4,
        action_dim=4,
        num_instructions=10,
        chunk_size=16,
        hidden_size=64,
        expert_size=512,
        num_expert_layers=5,
    )
    return build_ptr_model(VLAPolicy(config).to(dtype), with_scorer=True, belief_tokens=BELIEF_TOKENS)


def pi0(dtype: torch.dtype, lora: bool = False) -> PTRModel:
    """PI0 at full size, with scorer and belief tokens."""
    policy: Any = bound_pi0(pi0_config(True), META, dtype)
    if lora:
        policy = get_peft_model(policy, LoraConfig(**LORA))
    with META:
        return build_ptr_model(policy, with_scorer=True, belief_tokens=BELIEF_TOKENS)


def smolvla(dtype: torch.dtype) -> nn.Module:
    """The parts of SmolVLA that have nearly all its weights, in transformers' modules: LeRobot is not needed."""
    parts: dict[str, PreTrainedModel] = {}
    with META:
        parts["vlm"] = SmolVLMModel(SmolVLMConfig(**SMOLVLM))
        parts["expert"] = LlamaModel(LlamaConfig(**EXPERT))
        # The EMA target: the first half of the layers of the vision tower.
        tower = SmolVLMModel(SmolVLMConfig(**SMOLVLM)).vision_model
    layers = tower.encoder.layers
    tower.encoder.layers = layers[: len(layers) // 2]
    model = nn.ModuleDict(parts).to(dtype)
    model.requires_grad_(False)
    model["expert"].requires_grad_(True)
    # In float32, as every EMA target.
    model.add_module("target_encoder", tower.float().requires_grad_(False))
    return model


POLICIES: dict[str, Callable[[], nn.Module]] = {
    "native policy of the demo, all weights, fp32": lambda: native(torch.float32),
    "SmolVLA, its action expert, fp32": lambda: smolvla(torch.float32),
    "SmolVLA, its action expert, bf16": lambda: smolvla(torch.bfloat16),
    "PI0, all weights, fp32": lambda: pi0(torch.float32),
    "PI0, all weights, bf16": lambda: pi0(torch.bfloat16),
    "PI0, LoRA, bf16": lambda: pi0(torch.bfloat16, lora=True),
}


def sizes(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Figures of policies by name: parameters, bytes of one device, and of each of several."""
    found = {}
    for name in names:
        model: Any = POLICIES[name]()
        kept: KeptBytes = kept_bytes(model)
        found[name] = {
            "parameters": sum(each.numel() for each in model.parameters()),
            "trained": sum(each.numel() for each in model.parameters() if each.requires_grad),
            "kept": dataclasses.asdict(kept),
            "on_each": {str(ranks): bytes_on_each(kept, ranks) for ranks in RANKS},
        }
        if name.startswith("PI0"):
            batch = random_chunks(model.adapter.model.config, 2)
            found[name]["step"] = step_bytes(model.train(), batch, CHUNKS)
    return found


def main() -> None:
    parser = command_parser("policy_sizes", __doc__)
    options = parser.parse_args()
    # PI0 takes a minute.
    names = [name for name in POLICIES if not (options.small and name.startswith("PI0"))]
    result = {
        "what": "bytes of weights, gradients, AdamW and of a step, by policy and number of processes",
        "command": "python -m benchmarks.policy_sizes",
        "policies": sizes(names),
    }
    write_results(result, results_file("policy_sizes", options.small))
    if not options.small:
        fill_costs()


if __name__ == "__main__":
    run("benchmarks.policy_sizes", main)
