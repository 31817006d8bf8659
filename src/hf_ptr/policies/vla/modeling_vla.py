"""The native policy: context encoder, belief tokens, flow-matching action expert."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributions import Beta
from transformers import AutoModel, PreTrainedModel, initialization

from hf_ptr.belief import BELIEF_FOLDER, BeliefTokenizer
from hf_ptr.data.statistics import present_of
from hf_ptr.policies.contract import Embedded, FeatureSizes, PolicyOutput
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.layers import (
    ActionEmbedding,
    ActionExpert,
    AttentionPool,
    ContextLayer,
    Normalizer,
    ObservationTower,
    VelocityHead,
)


class VLAPolicy(PreTrainedModel):
    """
    A policy from (observation, state, instruction, belief tokens) to a chunk of actions, trained by flow matching.

    Sources: PTR Sec. 2 (loss and sampling), Sec. 3 (belief tokens in the context). All inputs and outputs are in raw
    units; the statistics that normalise them are buffers of the policy.

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
        self.tower = ObservationTower(
            config.observation_dim, config.encoder_size, width, config.dropout, _pasts(config)
        )
        self.state_normalizer = Normalizer(config.state_dim)
        self.action_normalizer = Normalizer(config.action_dim)
        self.state_embedding = nn.Linear(config.state_dim, width)
        if config.text_config is not None:
            self.text_encoder = AutoModel.from_config(config.text_config)
            # Its tokens are read, not its pooled output: weights that no loss reaches would stop distributed training.
            if hasattr(self.text_encoder, "pooler"):
                self.text_encoder.pooler = None
            self.text_projection = nn.Linear(self.text_encoder.config.hidden_size, width)
        else:
            self.instruction_embedding = nn.Embedding(config.num_instructions + 1, width)
        self.context_layers = nn.ModuleList(
            ContextLayer(width, config.num_attention_heads) for _ in range(config.num_context_layers)
        )
        self.context_pool = AttentionPool(width, config.num_attention_heads)
        self.action_embedding = ActionEmbedding(config.action_dim, config.chunk_size, config.action_size)
        self.expert = ActionExpert(
            config.chunk_size,
            width,
            config.action_size,
            config.expert_size,
            config.num_expert_layers,
            config.dropout,
        )
        self.velocity = VelocityHead(config.action_dim, config.action_size)
        # In a tuple, so that the tokenizer stays a module of its owner and not of the policy, whose weights it
        # does not share a file with.
        self._belief: tuple[BeliefTokenizer, ...] = ()
        self.post_init()
        self.reset()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=0.5)
        elif isinstance(module, AttentionPool):
            initialization.normal_(module.query, std=0.5)
        elif isinstance(module, ActionEmbedding):
            initialization.normal_(module.position, std=0.5)
        elif isinstance(module, Normalizer):
            initialization.zeros_(module.mean)
            initialization.ones_(module.std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]; the belief tokenizer beside the policy, if any, comes along."""
        policy = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = policy[0] if isinstance(policy, tuple) else policy
        if model.config.belief_tokens:
            places = ("cache_dir", "force_download", "local_files_only", "token", "revision", "torch_dtype", "dtype")
            known = {name: kwargs[name] for name in places if name in kwargs}
            belief = BeliefTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=BELIEF_FOLDER, **known)
            model.attach_belief(belief)
            nn.Module.to(model, model.device)
        return policy

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        As [`PreTrainedModel.save_pretrained`]; the belief tokenizer, if any, is written beside the policy. Not with a
        `state_dict`, which is of the policy alone: who gathered it, as from shards, has the tokenizer's too.
        """
        super().save_pretrained(save_directory, **kwargs)
        if self._belief and kwargs.get("is_main_process", True) and kwargs.get("state_dict") is None:
            self._belief[0].save_pretrained(Path(save_directory) / BELIEF_FOLDER)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> VLAPolicy:
        # `to`, `half` and the like: the tokenizer is no submodule, and must not stay behind.
        for belief in self._belief:
            belief._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def attach_belief(self, belief: BeliefTokenizer | None) -> None:
        """Lets the policy carry belief tokens from chunk to chunk when it acts; None takes them away."""
        self._belief = () if belief is None else (belief,)
        self.config.belief_tokens = 0 if belief is None else belief.config.num_tokens
        self.reset()

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: raw observations `(N, do)` to features `(N, D)`."""
        return self.tower

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioception `(N, ds)` in normalised units."""
        return self.state_normalizer.clamped(state)

    def feature_sizes(self) -> FeatureSizes:
        """Context and observation tower share one width."""
        width = self.config.hidden_size
        return FeatureSizes(context=width, action=self.config.action_size, observation=width)

    def embed(
        self,
        observation: torch.Tensor,
        state: torch.Tensor,
        instruction_ids: torch.Tensor,
        instruction_mask: torch.Tensor,
        actions: torch.Tensor,
        action_mask: torch.Tensor,
        for_scoring: bool = False,
    ) -> Embedded:
        """
        What the pass computes once for all chunks: context tokens, noised actions and their embeddings.

        Args:
            observation: `(N, do)` raw.
            state: `(N, ds)` raw.
            instruction_ids, instruction_mask: `(N, K)` from the processor.
            actions: `(N, L, da)` raw.
            action_mask: `(N, L)` bool, True = a real step; what the others hold is never read.
            for_scoring: also compute `e_t`, the pooled action embeddings (clean or noised, as configured). They are
                the inputs of the action expert: a second pass through it for clean hidden states costs half a step.
        """
        embedded = self._embed_context(observation, state, instruction_ids, instruction_mask)
        if self.config.relative_actions:
            actions = actions - state[:, None]
        clean = self.action_normalizer(actions).masked_fill(~action_mask[..., None], 0.0)
        noise = torch.randn_like(clean)
        concentration = (self.config.flow_alpha, self.config.flow_beta)
        sigma = Beta(*concentration, validate_args=False).sample((clean.shape[0],)).to(clean)
        mixed = sigma[:, None, None]
        noised = mixed * clean + (1.0 - mixed) * noise
        noised_tokens = self.action_embedding(noised, sigma)
        embedded.update(
            noised=noised,
            sigma=sigma,
            action_embeddings=noised_tokens,
            velocity=clean - noise,
            action_mask=action_mask,
        )
        if for_scoring:
            tokens = noised_tokens
            if self.config.action_features == "clean":
                tokens = self.action_embedding(clean, torch.ones_like(sigma))
            embedded["action_features"] = _masked_mean(tokens, action_mask)
        return embedded

    def step(self, embedded: Embedded, belief_tokens: torch.Tensor | None = None) -> PolicyOutput:
        """
        The pass over N chunks from what `embed` gave, with belief tokens `(N, M, D)` in the context.

        `ℓ_act = ‖v_φ(x_σ, σ, h, s) - (a - ε)‖²`, PTR Eq. (1), averaged over valid steps and action dimensions.
        """
        context = self._encode_context(embedded, belief_tokens)
        tokens = embedded["action_embeddings"]
        hidden = self.expert(tokens, context, embedded["state_token"])
        error = (
            (self.velocity(hidden, embedded["noised"], embedded["sigma"]) - embedded["velocity"]).square().mean(dim=-1)
        )
        mask = embedded["action_mask"].to(error.dtype)
        action_loss = (error * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return PolicyOutput(
            loss=action_loss.mean(),
            action_loss=action_loss,
            context=context,
            action_features=embedded.get("action_features"),
            hidden_states=hidden,
            action_embeddings=tokens,
        )

    def forward(
        self,
        observation: torch.Tensor,
        state: torch.Tensor,
        instruction_ids: torch.Tensor,
        instruction_mask: torch.Tensor,
        actions: torch.Tensor,
        action_mask: torch.Tensor,
    ) -> PolicyOutput:
        """Uniform post-training of N chunks without belief tokens; arguments as in `embed`."""
        return self.step(self.embed(observation, state, instruction_ids, instruction_mask, actions, action_mask))

    # ---- acting ----

    def reset(self) -> None:
        """Forgets queued actions and the belief state. Call at the start of every episode."""
        self._queue: deque[torch.Tensor] = deque()
        # One line of belief tokens for each chunk that may be under way at once, the oldest first.
        self._tokens: deque[torch.Tensor] = deque(maxlen=self.config.belief_lag)
        self._rows: int | None = None

    @torch.no_grad()
    def predict_action_chunk(
        self,
        observation: torch.Tensor,
        state: torch.Tensor,
        instruction_ids: torch.Tensor,
        instruction_mask: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """
        The next chunk `(B, L, da)` in raw action units, by Euler integration of the flow (PTR Sec. 2).

        Carries the belief tokens forward by one chunk: call it once for every chunk that is executed. The rows of the
        batch must stay the same between two calls of `reset`.
        """
        rows = observation.shape[0]
        embedded = self._embed_context(observation, state, instruction_ids, instruction_mask)
        belief = self._belief[0] if self._belief else None
        if self._rows not in (None, rows):
            raise ValueError(f"the batch has {rows} rows and the episode began with {self._rows}: reset()")
        self._rows = rows
        tokens = None
        if belief is not None:
            ended = len(self._tokens) == self.config.belief_lag
            tokens = self._tokens[0] if ended else belief.initial_tokens(rows)
        context = self._encode_context(embedded, tokens)
        shape = (rows, self.config.chunk_size, self.config.action_dim)
        chunk = torch.randn(shape, generator=generator, device=observation.device, dtype=context.dtype)
        steps = self.config.num_denoising_steps
        for number in range(steps):
            sigma = chunk.new_full((rows,), number / steps)
            tokens_of_chunk = self.action_embedding(chunk, sigma)
            hidden = self.expert(tokens_of_chunk, context, embedded["state_token"])
            chunk = chunk + self.velocity(hidden, chunk, sigma) / steps
        if belief is not None:
            self._tokens.append(belief(hidden, tokens_of_chunk, reconstruct=False).tokens)
        actions = self.action_normalizer.inverse(chunk)
        return actions + state[:, None] if self.config.relative_actions else actions

    def select_action(self, **inputs: Any) -> torch.Tensor:
        """
        The next action `(B, da)` in raw units: the first `n_action_steps` of a chunk one by one, then a new chunk.

        Takes the arguments of `predict_action_chunk`.
        """
        if not self._queue:
            chunk = self.predict_action_chunk(**inputs)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(dim=1))
        return self._queue.popleft()

    # ---- inside ----

    def _embed_context(self, observation, state, instruction_ids, instruction_mask) -> Embedded:
        state_token = self.state_embedding(self.state_normalizer.clamped(state))
        if self.config.text_config is not None:
            encoded = self.text_encoder(input_ids=instruction_ids, attention_mask=instruction_mask.long())
            instruction = self.text_projection(encoded.last_hidden_state)
        else:
            instruction = self.instruction_embedding(instruction_ids)
        embedded = {
            "state_token": state_token,
            "context_tokens": torch.cat((self.tower(observation)[:, None], state_token[:, None], instruction), dim=1),
        }
        if instruction_mask.shape[1] > 1:
            embedded["context_mask"] = nn.functional.pad(instruction_mask.bool(), (2, 0), value=True)
        return embedded

    def _encode_context(self, embedded: Embedded, belief_tokens: torch.Tensor | None) -> torch.Tensor:
        """The pooled context `h_t` `(N, D)` of PTR Eq. (3)."""
        tokens = embedded["context_tokens"]
        mask = embedded.get("context_mask")
        if belief_tokens is not None:
            tokens = torch.cat((tokens, belief_tokens), dim=1)
            if mask is not None:
                mask = nn.functional.pad(mask, (0, belief_tokens.shape[1]), value=True)
        key_mask = None if mask is None else mask[:, None, None, :]
        for layer in self.context_layers:
            tokens = layer(tokens, key_mask)
        return self.context_pool(tokens, mask)


def _pasts(config: VLAPolicyConfig) -> list[tuple[int, int, int]]:
    """Where the pasts and their presents lie in the observation, for [`ObservationTower`]."""
    if config.observation_sizes is None:
        return []
    starts = [sum(config.observation_sizes[:position]) for position in range(len(config.observation_sizes))]
    places = zip(starts, present_of(config.observation_features), config.observation_sizes, strict=True)
    return [(start, starts[present], width) for start, present, width in places if present is not None]


def _masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `tokens (N, K, D)` over the positions where `mask (N, K)` is True."""
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
