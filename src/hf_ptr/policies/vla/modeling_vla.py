"""The native policy: context encoder with belief tokens, and one of three action heads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, initialization
from transformers.utils import cached_file

from hf_ptr.data.statistics import present_of
from hf_ptr.policies.action_loss import masked_loss, masked_mean
from hf_ptr.policies.action_queue import ActionQueueMixin
from hf_ptr.policies.contract import FeatureSizes, PolicyInputs, PolicyOutput, require_input_shapes
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.heads import TokenHead, build_head
from hf_ptr.policies.vla.layers import ActionEmbedding, AttentionPool, ContextLayer, Normalizer, ObservationTower
from hf_ptr.policies.vla.text import InstructionReader, is_trained
from hf_ptr.policies.vla.vision import CameraTower
from hf_ptr.ptr import BELIEF_FOLDER, BeliefTokenizer
from hf_ptr.utils.components import Component


class VLAPolicy(ActionQueueMixin, Component):
    """
    Maps observation, state, instruction and belief tokens to a chunk of actions.

    Source: PTR Sec. 2 (loss and sampling), Sec. 3 (belief tokens in the context). All inputs and outputs are in raw
    units; the normalisation statistics are buffers of the policy. [`policy_from_dataset`] creates a new one,
    [`load_policy`] loads a saved one.

    Example:
        ```python
        policy.reset()  # at the start of every episode
        action = policy.select_action(**processor(instructions=["Reach the goal."], observation=o, state=s))
        ```
    """

    config: VLAPolicyConfig
    config_class = VLAPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "observation"

    def __init__(self, config: VLAPolicyConfig):
        super().__init__(config)
        width = config.hidden_size
        self.tower: ObservationTower | CameraTower
        self.tower = _tower(config)
        self.state_normalizer = Normalizer(config.state_dim)
        self.action_normalizer = Normalizer(config.action_dim)
        self.state_embedding = nn.Linear(config.state_dim, width)
        if config.text_config is not None:
            self.text_encoder = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
            # Only its tokens are used: pooler weights without a gradient would stop distributed training.
            if hasattr(self.text_encoder, "pooler"):
                self.text_encoder.pooler = None
            self.text_encoder.requires_grad_(not config.freeze_text)
            self.text_projection = nn.Linear(self.text_encoder.config.hidden_size, width)
            self._read_instructions = InstructionReader()
        else:
            self.instruction_embedding = nn.Embedding(config.num_instructions + 1, width)
        self.context_layers = nn.ModuleList(
            ContextLayer(width, config.num_attention_heads) for _ in range(config.num_context_layers)
        )
        self.context_pool = AttentionPool(width, config.num_attention_heads)
        self.head = build_head(config)
        self.post_init()
        self.reset()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=0.5)
        elif isinstance(module, AttentionPool):
            initialization.normal_(module.query, std=0.5)
        elif isinstance(module, ActionEmbedding):
            initialization.normal_(module.position, std=0.5)
        elif isinstance(module, TokenHead):
            initialization.normal_(module.dimension, std=0.5)
        elif isinstance(module, CameraTower):
            initialization.normal_(module.position, std=0.5)
            module.reset_colours()
        elif isinstance(module, Normalizer):
            initialization.zeros_(module.mean)
            initialization.ones_(module.std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]; also loads the belief tokenizer saved next to the policy, if any."""
        policy = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = policy[0] if isinstance(policy, tuple) else policy
        hub_arguments = (
            "cache_dir",
            "force_download",
            "local_files_only",
            "token",
            "revision",
            "torch_dtype",
            "dtype",
        )
        known = {name: kwargs[name] for name in hub_arguments if name in kwargs}
        home: Any = pretrained_model_name_or_path
        has_belief, subfolder = bool(model.config.belief_tokens), {"subfolder": BELIEF_FOLDER}
        # For an adapter's folder AutoModel loads the base model; the belief tokenizer is in the adapter's folder.
        adapter_kwargs = kwargs.get("adapter_kwargs") or {}
        adapter = adapter_kwargs.get("_adapter_model_path")
        if adapter is not None:
            # `revision` in kwargs is that of the base model.
            known["revision"] = adapter_kwargs.get("revision")
            files = [
                cached_file(adapter, f"{BELIEF_FOLDER}/{name}", _raise_exceptions_for_missing_entries=False, **known)
                for name in ("model.safetensors", "config.json")
            ]
            # By its own folder: with `subfolder`, older versions of transformers take the adapter's base model for it.
            home, has_belief, subfolder = Path(str(files[-1])).parent, files[-1] is not None, {}
        if has_belief:
            model.attach_belief(BeliefTokenizer.from_pretrained(home, **subfolder, **known))
            nn.Module.to(model, model.device)
        return policy

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        As [`PreTrainedModel.save_pretrained`]; the belief tokenizer, if any, is saved next to the policy. Not with a
        `state_dict`, which holds only the policy's weights: the caller gathered it, and saves the tokenizer itself.
        """
        super().save_pretrained(save_directory, **kwargs)
        if self._belief and kwargs.get("is_main_process", True) and kwargs.get("state_dict") is None:
            self._belief[0].save_pretrained(Path(save_directory) / BELIEF_FOLDER)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> VLAPolicy:
        # `to`, `half` and the like must move the tokenizer too, which is not a submodule.
        for belief in self._belief:
            belief._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> VLAPolicy:
        """A frozen text encoder stays in evaluation mode: its dropout would only add noise."""
        super().train(mode)
        if self.config.text_config is not None and not is_trained(self.text_encoder):
            self.text_encoder.eval()
        return self

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: raw observations `(N, do)`, or camera images, to features `(N, d)`."""
        return self.tower.features() if isinstance(self.tower, CameraTower) else self.tower

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioceptive state `(N, ds)` in normalised units."""
        return self.state_normalizer.clamped(state)

    def feature_sizes(self) -> FeatureSizes:
        """The widths to which the PTR components are built."""
        width = self.config.hidden_size
        observation = self.tower.feature_size if isinstance(self.tower, CameraTower) else width
        return FeatureSizes(context=width, action=self.head.feature_size, observation=observation)

    def set_rate(self, fps: float) -> None:
        """Records the frames per second of the data that the policy is trained on from now on."""
        self.config.fps = fps

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """
        One training pass over N chunks. `ℓ_act` is the head's prediction error, PTR Eq. (1), averaged over valid steps
        and active action dimensions.

        Args:
            batch: the tensors of [`PostTrainable`].
            belief_tokens: `(N, M, D)`, appended to the context tokens.
            for_scoring: also return `action_features`, the pooled action embeddings (clean or noised, see
                `pooled_actions`). These are inputs of the action expert: clean hidden states would need a second pass
                through the expert, half the cost of a step.
        """
        context, state_token = self._encode_context(batch, belief_tokens)
        clean, mask, dims = self._clean_actions(batch)
        error, hidden, embeddings = self.head(clean, dims, context, state_token)
        action_loss = masked_loss(error, mask)
        features = None
        if for_scoring:
            pooled = embeddings if self.config.pooled_actions == "noised" else self.head.clean_features(clean)
            features = masked_mean(pooled, batch["action_mask"])
        return PolicyOutput(
            loss=action_loss.mean(),
            action_loss=action_loss,
            context=context,
            action_features=features,
            hidden_states=hidden,
            action_embeddings=embeddings,
        )

    def scoring_features(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`context` and `action_features` of `forward` without the action expert; None where it noises the actions."""
        if self.config.pooled_actions == "noised":
            return None
        context, _ = self._encode_context(batch, belief_tokens)
        clean, _, _ = self._clean_actions(batch)
        return context, masked_mean(self.head.clean_features(clean), batch["action_mask"])

    # ---- acting ----

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """
        The next chunk `(B, L, da)` in raw action units, sampled by the head (PTR Sec. 2); 0 in dimensions that the
        embodiment does not have.

        Each call carries the belief tokens forward by one chunk, so call it exactly once per executed chunk. The rows
        of the batch must stay the same between two calls of `reset`.

        Args:
            batch: observations, as in [`ActionQueueMixin.predict_action_chunk`].
            generator: random generator for the noise.
        """
        state, action_dim_mask = batch["state"], batch.get("action_dim_mask")
        # Before the number of rows is compared with that of the episode: a wrong shape is the more likely mistake.
        require_input_shapes(self.config, batch["observation"], state)
        context, state_token = self._encode_context(batch, self._recall_belief(len(batch["observation"])))
        dims = state.new_ones((), dtype=torch.bool) if action_dim_mask is None else action_dim_mask[:, None]
        chunk, hidden, embeddings = self.head.sample(context, state_token, dims, generator)
        self._remember_belief(hidden, embeddings)
        actions = self.action_normalizer.inverse(chunk)
        actions = actions + state[:, None] if self.config.relative_actions else actions
        return actions.masked_fill(~dims, 0.0)

    # ---- inside ----

    def _clean_actions(self, batch: PolicyInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised actions and the mask of the valid ones, `(N, L, da)`, and the active dimensions `(N, 1, da)`."""
        actions, dim_mask = batch["actions"], batch.get("action_dim_mask")
        if self.config.relative_actions:
            actions = actions - batch["state"][:, None]
        dims = actions.new_ones((), dtype=torch.bool) if dim_mask is None else dim_mask[:, None]
        mask = (batch["action_mask"][..., None] & dims).expand_as(actions)
        return self.action_normalizer(actions).masked_fill(~mask, 0.0), mask, dims

    def _encode_context(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pooled context `h_t` of PTR Eq. (3), which includes the belief tokens, and the state token: `(N, D)`."""
        observation, state, state_dim_mask = batch["observation"], batch["state"], batch.get("state_dim_mask")
        instruction_ids, instruction_mask = batch["instruction_ids"], batch["instruction_mask"]
        require_input_shapes(self.config, observation, state)
        state_token = self.state_embedding(self.state_normalizer.clamped(state, state_dim_mask))
        if self.config.text_config is not None:
            instruction = self.text_projection(
                self._read_instructions(self.text_encoder, instruction_ids, instruction_mask)
            )
        else:
            instruction = self.instruction_embedding(instruction_ids)
        if self.config.observation_features == [self.config.state_feature]:
            observed = self.tower(observation, state_dim_mask)
        else:
            observed = self.tower(observation)
        # A vector is one token, images are many.
        observed = observed[:, None] if observed.dim() == 2 else observed
        tokens = torch.cat((observed, state_token[:, None], instruction), dim=1)
        mask = None
        if instruction_mask.shape[1] > 1:
            mask = nn.functional.pad(instruction_mask.bool(), (observed.shape[1] + 1, 0), value=True)
        if belief_tokens is not None:
            tokens = torch.cat((tokens, belief_tokens), dim=1)
            if mask is not None:
                mask = nn.functional.pad(mask, (0, belief_tokens.shape[1]), value=True)
        key_mask = None if mask is None else mask[:, None, None, :]
        for layer in self.context_layers:
            tokens = layer(tokens, key_mask)
        return self.context_pool(tokens, mask), state_token


def _tower(config: VLAPolicyConfig) -> ObservationTower | CameraTower:
    if config.vision_config is None:
        return ObservationTower(
            config.observation_dim, config.encoder_size, config.hidden_size, config.dropout, _pasts(config)
        )
    return CameraTower(
        config.vision_config,
        len(config.observation_features),
        config.image_resolution,
        config.hidden_size,
        config.target_layer,
        config.image_mean,
        config.image_std,
        config.group_norm,
    )


def _pasts(config: VLAPolicyConfig) -> list[tuple[int, int, int]]:
    """Positions of past and present values in the observation, for [`ObservationTower`]."""
    if config.observation_sizes is None:
        return []
    starts = [sum(config.observation_sizes[:position]) for position in range(len(config.observation_sizes))]
    found = zip(starts, present_of(config.observation_features), config.observation_sizes, strict=True)
    return [(start, starts[present], width) for start, present, width in found if present is not None]
