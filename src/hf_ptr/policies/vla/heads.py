"""The action heads: how a chunk is noised or cut into tokens, its loss, and how one is sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from hf_ptr.errors import InputError
from hf_ptr.policies.contract import Embedded
from hf_ptr.policies.flow_times import flow_times
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.layers import ActionEmbedding, ActionExpert, DenoisingOutput

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Normalised actions beyond this are cut off by the bins, in standard deviations.
BIN_LIMIT = 4.0


def build_head(config: VLAPolicyConfig) -> DenoisingHead | TokenHead:
    """The head that a configuration names."""
    return TokenHead(config) if config.action_head == "tokens" else DenoisingHead(config)


class NoisePath(Protocol):
    """
    From noise to actions and back, in normalised units.

    Attributes:
        clean_time: the time of actions without noise.
    """

    clean_time: float

    def noised(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of `clean (N, L, da)` a noised version, its time `(N,)` in [0, 1], and what the head is to predict there."""
        ...

    def sample(self, predict: Predict, noise: torch.Tensor) -> torch.Tensor:
        """Chunks `(N, L, da)` from noise, asking `predict(x, time)` on the way."""
        ...


class FlowPath:
    """Flow matching, PTR Eq. (1): `x_σ = σ a + (1-σ) ε`, `σ ~ Beta(α, β)`; Euler steps at inference."""

    clean_time = 1.0

    def __init__(self, config: VLAPolicyConfig):
        self.concentration = (config.flow_alpha, config.flow_beta)
        self.steps = config.num_denoising_steps

    def noised(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`x_σ`, `σ`, and the velocity `a - ε`."""
        noise = torch.randn_like(clean)
        sigma = flow_times(*self.concentration, clean)
        mixed = sigma[:, None, None]
        return mixed * clean + (1.0 - mixed) * noise, sigma, clean - noise

    def sample(self, predict: Predict, noise: torch.Tensor) -> torch.Tensor:
        """Integrates the velocity from σ = 0 to 1."""
        chunk = noise
        for number in range(self.steps):
            sigma = chunk.new_full((len(chunk),), number / self.steps)
            chunk = chunk + predict(chunk, sigma) / self.steps
        return chunk


class DiffusionPath:
    """
    Diffusion with the schedulers of diffusers: the noise is predicted (PTR Sec. 2), DDIM steps at inference.

    Raises:
        InputError: diffusers is not installed.
    """

    clean_time = 0.0

    def __init__(self, config: VLAPolicyConfig):
        try:
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler
            from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        except ImportError as error:
            raise InputError("the diffusion head needs diffusers; pip install 'hf-ptr[diffusion]'") from error
        settings: dict[str, Any] = {
            "num_train_timesteps": config.diffusion_steps,
            "beta_schedule": "squaredcos_cap_v2",
            "clip_sample": True,
            "clip_sample_range": BIN_LIMIT,
        }
        # Their tensors are no part of a checkpoint, and must not be left empty while one is loaded.
        with torch.device("cpu"):
            # Any: diffusers has no type annotations that hold.
            self.scheduler: Any = DDPMScheduler(**settings)
            self.sampler: Any = DDIMScheduler(**settings, timestep_spacing="trailing")
            self.sampler.set_timesteps(config.num_denoising_steps)

    def noised(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The chunk after a number of steps drawn evenly, that number's share of all, and the noise."""
        noise = torch.randn_like(clean)
        total = self.scheduler.config.num_train_timesteps
        step = torch.randint(total, (len(clean),), device=clean.device)
        return self.scheduler.add_noise(clean, noise, step), step.to(clean) / total, noise

    def sample(self, predict: Predict, noise: torch.Tensor) -> torch.Tensor:
        """The deterministic DDIM chain."""
        chunk, total = noise, self.scheduler.config.num_train_timesteps
        for step in self.sampler.timesteps:
            time = chunk.new_full((len(chunk),), float(step) / total)
            chunk = self.sampler.step(predict(chunk, time), step, chunk).prev_sample
        return chunk


class DenoisingHead(nn.Module):
    """The heads that predict from a noised chunk: flow matching and diffusion differ in their path alone."""

    def __init__(self, config: VLAPolicyConfig):
        super().__init__()
        self.shape = (config.chunk_size, config.action_dim)
        self.feature_size = config.action_size
        self.path: NoisePath = FlowPath(config) if config.action_head == "flow" else DiffusionPath(config)
        self.embedding = ActionEmbedding(config.action_dim, config.chunk_size, config.action_size)
        self.expert = ActionExpert(
            config.chunk_size,
            config.hidden_size,
            config.action_size,
            config.expert_size,
            config.num_expert_layers,
            config.dropout,
        )
        self.output = DenoisingOutput(config.action_dim, config.action_size)

    def embed(self, clean: torch.Tensor, dims: torch.Tensor) -> Embedded:
        """The noised chunk of `clean (N, L, da)`, its tokens `A_t`, and what is to be predicted; `dims (N, 1, da)`."""
        noised, time, wanted = self.path.noised(clean)
        # Of dimensions that an embodiment does not have, the head sees nothing, not even noise.
        noised = noised.masked_fill(~dims, 0.0)
        tokens = self.embedding(noised, time)
        return {"noised": noised, "time": time, "wanted": wanted, "action_embeddings": tokens}

    def clean_features(self, clean: torch.Tensor) -> torch.Tensor:
        """Action-channel tokens `(N, L, F)` of the chunk without noise."""
        return self.embedding(clean, clean.new_full((len(clean),), self.path.clean_time))

    def losses(
        self, embedded: Embedded, context: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The squared error of every action dimension `(N, L, da)`, and the hidden states `C_t (N, L, F)`."""
        hidden = self.expert(embedded["action_embeddings"], context, state)
        predicted = self.output(hidden, embedded["noised"], embedded["time"])
        return (predicted - embedded["wanted"]).square(), hidden

    def sample(
        self, context: torch.Tensor, state: torch.Tensor, dims: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised chunks `(N, L, da)`, and `C_t` and `A_t` of the last step; `dims` as in `embed`."""
        shape = (len(context), *self.shape)
        noise = torch.randn(shape, generator=generator, device=context.device, dtype=context.dtype)
        last: list[torch.Tensor] = []

        def predict(chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            chunk = chunk.masked_fill(~dims, 0.0)
            tokens = self.embedding(chunk, time)
            hidden = self.expert(tokens, context, state)
            last[:] = (hidden, tokens)
            return self.output(hidden, chunk, time)

        return self.path.sample(predict, noise), last[0], last[1]


class TokenHead(nn.Module):
    """
    Action tokens, one for each dimension of each step, each predicted from those before (PTR Sec. 2).

    Normalised actions are cut into equal bins. A small causal decoder of transformers reads context and state first.
    Channel tokens and hidden states are means over the dimensions of a step, so that there are L of them, of the
    decoder's width.
    """

    def __init__(self, config: VLAPolicyConfig):
        super().__init__()
        self.shape = (config.chunk_size, config.action_dim)
        self.bins = config.num_bins
        width = self.feature_size = config.expert_size
        heads = config.num_attention_heads
        self.decoder = LlamaModel(
            LlamaConfig(
                vocab_size=self.bins,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=config.num_expert_layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=2 + config.chunk_size * config.action_dim,
                attention_dropout=config.dropout,
            )
        )
        self.context = nn.Linear(config.hidden_size, width)
        self.state = nn.Linear(config.hidden_size, width)
        self.dimension = nn.Parameter(torch.zeros(config.action_dim, width))
        self.output = nn.Linear(width, self.bins)

    def embed(self, clean: torch.Tensor, dims: torch.Tensor) -> Embedded:
        """The bins of `clean (N, L, da)` and the tokens `A_t (N, L, F)`."""
        bins = self.encode(clean)
        return {"bins": bins, "action_embeddings": self._embedded(bins).mean(dim=2)}

    def clean_features(self, clean: torch.Tensor) -> torch.Tensor:
        """Action-channel tokens `(N, L, F)`; tokens have no noise."""
        return self._embedded(self.encode(clean)).mean(dim=2)

    def losses(
        self, embedded: Embedded, context: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The cross-entropy of every token `(N, L, da)` in nats, and the hidden states `C_t (N, L, F)`."""
        bins = embedded["bins"]
        given = self._embedded(bins).flatten(1, 2)
        sequence = torch.cat((self._prefix(context, state), given[:, :-1]), dim=1)
        hidden = self.decoder(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, 1:]
        logits = self.output(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), bins.flatten(), reduction="none").view(bins.shape)
        return loss, hidden.unflatten(1, self.shape).mean(dim=2)

    def sample(
        self, context: torch.Tensor, state: torch.Tensor, dims: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised chunks `(N, L, da)` token by token, drawn as likely as they are, and `C_t`, `A_t` of them."""
        rows, (length, width) = len(context), self.shape
        there = dims.expand(rows, 1, width)[:, 0]
        zero = self.encode(torch.zeros(rows, device=context.device))
        given, cache = self._prefix(context, state), None
        bins, hidden = [], []
        for place in range(length * width):
            passed = self.decoder(inputs_embeds=given, past_key_values=cache, use_cache=True)
            cache, last = passed.past_key_values, passed.last_hidden_state[:, -1]
            chances = self.output(last).float().softmax(dim=-1)
            drawn = torch.multinomial(chances, 1, generator=generator).squeeze(1)
            # A dimension that the embodiment lacks holds what it held in training.
            bins.append(torch.where(there[:, place % width], drawn, zero))
            hidden.append(last)
            given = (self.decoder.embed_tokens(bins[-1]) + self.dimension[place % width])[:, None]
        chunk = torch.stack(bins, dim=1).view(rows, length, width)
        states = torch.stack(hidden, dim=1).unflatten(1, self.shape).mean(dim=2)
        return self.decode(chunk), states, self._embedded(chunk).mean(dim=2)

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        """Normalised actions to bins `0 .. num_bins - 1`."""
        share = (actions.clamp(-BIN_LIMIT, BIN_LIMIT) + BIN_LIMIT) / (2 * BIN_LIMIT)
        return (share * self.bins).long().clamp(max=self.bins - 1)

    def decode(self, bins: torch.Tensor) -> torch.Tensor:
        """Bins to the actions in their middle."""
        return ((bins + 0.5) / self.bins * 2 - 1) * BIN_LIMIT

    def _embedded(self, bins: torch.Tensor) -> torch.Tensor:
        """`(N, L, da)` to `(N, L, da, F)`."""
        return self.decoder.embed_tokens(bins) + self.dimension

    def _prefix(self, context: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return torch.stack((self.context(context), self.state(state)), dim=1)
