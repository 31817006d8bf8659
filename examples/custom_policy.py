"""
A policy of your own, post-trained by PTR.

    python examples/custom_policy.py DATASET

`MyPolicy` is a plain transformers model that knows nothing of PTR: a network from state and instruction to a chunk of
actions, trained by absolute error. `MyAdapter` keeps the contract for it (see `hf_ptr.policies.PostTrainable`): what
the pass computes before and after the belief tokens, the loss of each chunk, the context and the action features, and
the module that the target encoder follows.
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
from hf_ptr.policies.acting import ChunkActing
from hf_ptr.policies.contract import FeatureSizes
from hf_ptr.policies.vla.processing_vla import instruction_tokenizer


class MyConfig(PreTrainedConfig):
    """Sizes of a [`MyPolicy`], and the features of the dataset that it reads."""

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


class MyAdapter(ChunkActing):
    """Keeps the contract for a [`MyPolicy`]."""

    model_class = MyPolicy

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config
        # What a policy sees through; this one reads vectors.
        self.config.cameras, self.config.image_resolution = (), (1, 1)
        self.reset()

    @staticmethod
    def load_processor(place: str) -> VLAProcessor:
        return VLAProcessor.from_pretrained(place)

    def observation_tower(self) -> nn.Module:
        return self.model.see

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        return state

    def feature_sizes(self) -> FeatureSizes:
        return FeatureSizes(context=self.config.width, action=self.config.width, observation=self.config.width)

    def embed(
        self,
        observation,
        state,
        instruction_ids,
        instruction_mask,
        actions,
        action_mask,
        action_dim_mask=None,
        for_scoring=False,
    ) -> dict[str, torch.Tensor]:
        """Whatever needs no belief tokens, once for all chunks of a batch."""
        mask = action_mask[..., None].expand_as(actions)
        mask = mask if action_dim_mask is None else mask & action_dim_mask[:, None]
        clean = actions.masked_fill(~mask, 0.0)
        # The action features say what was done, and never more than the recorded actions do.
        recalled = self.model.recall(clean)
        valid = action_mask[..., None].to(recalled.dtype)
        return {
            "seen": self.model.see(observation) + self.model.read(instruction_ids).mean(dim=1),
            "actions": clean,
            "mask": mask,
            "recalled": recalled,
            "features": (recalled * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1.0),
        }

    def step(self, embedded: dict[str, torch.Tensor], belief_tokens: torch.Tensor | None = None) -> PolicyOutput:
        """The rest of the pass, with the belief tokens in the context."""
        context, hidden = self._context(embedded["seen"], belief_tokens)
        error = (self.model.act(hidden) - embedded["actions"]).abs()
        mask = embedded["mask"].to(error.dtype)
        loss = (error * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1.0)
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=context,
            action_features=embedded["features"],
            hidden_states=hidden,
            action_embeddings=embedded["recalled"],
        )

    @torch.no_grad()
    def predict_action_chunk(
        self, observation, state, instruction_ids, instruction_mask, action_dim_mask=None, generator=None
    ) -> torch.Tensor:
        seen = self.model.see(observation) + self.model.read(instruction_ids).mean(dim=1)
        _, hidden = self._context(seen, self._recalled(len(observation)))
        actions = self.model.act(hidden)
        self._remember(hidden, self.model.recall(actions))
        return actions if action_dim_mask is None else actions.masked_fill(~action_dim_mask[:, None], 0.0)

    def _context(self, seen: torch.Tensor, belief: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        context = torch.tanh(self.model.mix(seen if belief is None else seen + belief.mean(dim=1)))
        hidden = self.model.steps(context).unflatten(1, (self.config.chunk_size, self.config.width))
        return context, torch.tanh(hidden)


AutoConfig.register("my_policy", MyConfig, exist_ok=True)
AutoModel.register(MyConfig, MyPolicy, exist_ok=True)
register_adapter("my_policy", MyAdapter)


def main(dataset: str) -> None:
    """Trains it for two hundred steps."""
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
