"""
Post-train a policy of your own with PTR.

    python examples/custom_policy.py DATASET

`MyPolicy` is a plain transformers model without any PTR code: a network from state and instruction to a chunk of
actions, trained with an absolute error. `MyAdapter` implements the contract `hf_ptr.policies.PostTrainable` for it:
one forward pass that returns the loss per chunk, the context and the action features, and the module that the target
encoder follows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.data import ChunkDataset, read_dataset
from hf_ptr.policies import PolicyOutput, VLAProcessor, register_adapter
from hf_ptr.policies.action_queue import ActionQueueMixin
from hf_ptr.policies.contract import FeatureSizes, PolicyInputs
from hf_ptr.policies.vla.processing_vla import instruction_tokenizer


class MyConfig(PreTrainedConfig):
    """Sizes of a [`MyPolicy`], and the dataset features that it reads."""

    model_type = "my_policy"

    state_dim: int = 4
    action_dim: int = 4
    chunk_size: int = 16
    n_action_steps: int = 16
    num_instructions: int = 1
    width: int = 64
    observation_features: list[str] | tuple[str, ...] = ("observation.state",)
    state_feature: str = "observation.state"
    action_feature: str = "action"
    belief_tokens: int = 0

    @property
    def observation_dim(self) -> int:
        return self.state_dim


class MyPolicy(PreTrainedModel):
    """From a state and an instruction to a chunk of actions."""

    config_class = MyConfig

    def __init__(self, config: MyConfig):
        super().__init__(config)
        self.see = nn.Sequential(nn.Linear(config.state_dim, config.width), nn.SiLU())
        self.read = nn.Embedding(config.num_instructions + 1, config.width)
        self.mix = nn.Linear(config.width, config.width)
        self.steps = nn.Linear(config.width, config.chunk_size * config.width)
        self.act = nn.Linear(config.width, config.action_dim)
        self.recall = nn.Linear(config.action_dim, config.width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)


class MyAdapter(ActionQueueMixin):
    """Implements the contract for a [`MyPolicy`]."""

    model_class = MyPolicy

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config
        # The policy reads vectors, so it has no cameras.
        self.config.cameras, self.config.image_resolution = (), (1, 1)
        self.reset()

    @staticmethod
    def load_processor(source: str) -> VLAProcessor:
        return VLAProcessor.from_pretrained(source)

    def observation_tower(self) -> nn.Module:
        return self.model.see

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        return state

    def feature_sizes(self) -> FeatureSizes:
        return FeatureSizes(context=self.config.width, action=self.config.width, observation=self.config.width)

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """One training pass over N chunks, with the belief tokens in the context."""
        actions, action_mask = batch["actions"], batch["action_mask"]
        mask = action_mask[..., None].expand_as(actions)
        if "action_dim_mask" in batch:
            mask = mask & batch["action_dim_mask"][:, None]
        clean = actions.masked_fill(~mask, 0.0)
        # Action features must depend on nothing but the recorded actions.
        embeddings = self.model.recall(clean)
        context, hidden = self._encode(batch["observation"], batch["instruction_ids"], belief_tokens)
        error = (self.model.act(hidden) - clean).abs()
        counted, valid = mask.to(error.dtype), action_mask[..., None].to(error.dtype)
        loss = (error * counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1.0)
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=context,
            action_features=(embeddings * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1.0),
            hidden_states=hidden,
            action_embeddings=embeddings,
        )

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """The next chunk, for inputs from the processor. This policy draws no noise."""
        belief_tokens = self._recall_belief(len(batch["observation"]))
        _, hidden = self._encode(batch["observation"], batch["instruction_ids"], belief_tokens)
        actions = self.model.act(hidden)
        self._remember_belief(hidden, self.model.recall(actions))
        action_dim_mask = batch.get("action_dim_mask")
        return actions if action_dim_mask is None else actions.masked_fill(~action_dim_mask[:, None], 0.0)

    def _encode(
        self, observation: torch.Tensor, instruction_ids: torch.Tensor, belief_tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The context `(N, D)` and the hidden states `(N, L, F)` at the action positions."""
        seen = self.model.see(observation) + self.model.read(instruction_ids).mean(dim=1)
        context = torch.tanh(self.model.mix(seen if belief_tokens is None else seen + belief_tokens.mean(dim=1)))
        hidden = self.model.steps(context).unflatten(1, (self.config.chunk_size, self.config.width))
        return context, torch.tanh(hidden)


AutoConfig.register("my_policy", MyConfig, exist_ok=True)
AutoModel.register(MyConfig, MyPolicy, exist_ok=True)
register_adapter("my_policy", MyAdapter)


def main(dataset: str) -> None:
    """Trains the policy for 200 steps."""
    table = read_dataset(dataset)
    config = MyConfig(
        state_dim=table.feature("observation.state").shape[1],
        action_dim=table.feature("action").shape[1],
        num_instructions=len(table.tasks),
    )
    args = PTRConfig(
        output_dir="runs/my_policy", max_steps=200, warmup_steps=20, nce_warmup_steps=20, report_to="none"
    )
    trainer = PTRTrainer(
        MyPolicy(config),
        args,
        train_dataset=ChunkDataset(table),
        processing_class=VLAProcessor(instruction_tokenizer(table.tasks)),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(sys.argv[1])
