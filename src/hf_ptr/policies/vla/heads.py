"""Action heads: how a chunk is noised or tokenised, its prediction error, and sampling (PTR Sec. 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from hf_ptr.errors import InputError
from hf_ptr.policies.action_loss import flow_times
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.layers import ActionEmbedding, ActionExpert, DenoisingOutput

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Range of the bins in standard deviations; normalised actions outside are clipped.
BIN_LIMIT = 4.0


def build_head(config: VLAPolicyConfig) -> DenoisingHead | TokenHead:
    """The head for `config.action_head`."""
    return TokenHead(config) if config.action_head == "tokens" else DenoisingHead(config)


class NoisePath(Protocol):
    """
    A path between noise and actions, in normalised units.

    Attributes:
        clean_time: the time of actions without noise.
    """

    clean_time: float

    def noised(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A noised version of `clean (N, L, da)`, its time `(N,)` in [0, 1], and the prediction target there."""
        ...

    def sample(self, predict: Predict, noise: torch.Tensor) -> torch.Tensor:
        """Chunks `(N, L, da)` from noise; `predict(x, time)` is called at every step."""
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
        share = sigma[:, None, None]
        return share * clean + (1.0 - share) * noise, sigma, clean - noise

    def sample(self, predict: Predict, noise: torch.Tensor) -> torch.Tensor:
        """Integrates the velocity from σ = 0 to 1."""
        chunk = noise
        for number in range(self.steps):
            sigma = chunk.new_full((len(chunk),), number / self.steps)
            chunk = chunk + predict(chunk, sigma) / self.steps
        return chunk


class DiffusionPath:
    """
    Diffusion with the schedulers of diffusers: noise prediction (PTR Sec. 2), DDIM steps at inference.

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
        # The schedulers' tensors are not part of a checkpoint: on the meta device, as during loading, they stay empty.
        with torch.device("cpu"):
            # Any: the type annotations of diffusers are wrong.
            self.scheduler: Any = DDPMScheduler(**settings)
            self.sampler: Any = DDIMScheduler(**settings, timestep_spacing="trailing")
            self.sampler.set_timesteps(config.num_denoising_steps)

    def noised(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The chunk after a uniformly drawn number of steps, that number as a share of all steps, and the noise."""
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
    """Predicts from a noised chunk. Flow matching and diffusion differ only in their [`NoisePath`]."""

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

    def forward(
        self, clean: torch.Tensor, dims: torch.Tensor, context: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            clean: `(N, L, da)`, normalised actions.
            dims: `(N, 1, da)` bool, or a scalar: the dimensions that each row's embodiment has.
            context, state: `(N, D)`, the pooled context and the state token.

        Returns:
            The squared error `(N, L, da)`, and the hidden states `C_t` and action embeddings `A_t`, both `(N, L, F)`.
        """
        noised, time, target = self.path.noised(clean)
        # Absent dimensions are 0, without noise.
        noised = noised.masked_fill(~dims, 0.0)
        embeddings = self.embedding(noised, time)
        hidden = self.expert(embeddings, context, state)
        return (self.output(hidden, noised, time) - target).square(), hidden, embeddings

    def clean_features(self, clean: torch.Tensor) -> torch.Tensor:
        """Action-channel tokens `(N, L, F)` of the chunk without noise."""
        return self.embedding(clean, clean.new_full((1,), self.path.clean_time))

    def sample(
        self, context: torch.Tensor, state: torch.Tensor, dims: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised chunks `(N, L, da)`, and `C_t` and `A_t` of the last step; arguments as in `forward`."""
        shape = (len(context), *self.shape)
        noise = torch.randn(shape, generator=generator, device=context.device, dtype=context.dtype)
        last: list[torch.Tensor] = []

        def predict(chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            chunk = chunk.masked_fill(~dims, 0.0)
            embeddings = self.embedding(chunk, time)
            hidden = self.expert(embeddings, context, state)
            last[:] = (hidden, embeddings)
            return self.output(hidden, chunk, time)

        return self.path.sample(predict, noise), last[0], last[1]


class TokenHead(nn.Module):
    """
    Autoregressive action tokens, one per dimension of each step (PTR Sec. 2).

    Normalised actions are cut into bins of equal width. A small causal decoder reads the context and the state before
    the tokens. Action-channel tokens and hidden states are means over the dimensions of a step: L of them, as wide as
    the decoder.
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

    def forward(
        self, clean: torch.Tensor, dims: torch.Tensor, context: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        As [`DenoisingHead.forward`], with the cross-entropy `(N, L, da)` of every token in nats as the error. Absent
        dimensions need no mask: their normalised actions are 0, always the same token.
        """
        bins = self.encode(clean)
        sequence = torch.cat((self._prefix(context, state), self._embed(bins).flatten(1, 2)[:, :-1]), dim=1)
        hidden = self.decoder(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, 1:]
        logits = self.output(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), bins.flatten(), reduction="none").view(bins.shape)
        return loss, hidden.unflatten(1, self.shape).mean(dim=2), self.clean_features(clean)

    def clean_features(self, clean: torch.Tensor) -> torch.Tensor:
        """Action-channel tokens `(N, L, F)`, which have no noise."""
        return self._embed(self.encode(clean)).mean(dim=2)

    def sample(
        self, context: torch.Tensor, state: torch.Tensor, dims: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised chunks `(N, L, da)`, sampled token by token, and their `C_t` and `A_t`."""
        rows, (length, width) = len(context), self.shape
        active = dims.expand(rows, 1, width)[:, 0]
        zero = self.encode(torch.zeros(rows, device=context.device))
        inputs, cache = self._prefix(context, state), None
        bins, hidden = [], []
        for position in range(length * width):
            output = self.decoder(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
            cache, last = output.past_key_values, output.last_hidden_state[:, -1]
            probabilities = self.output(last).float().softmax(dim=-1)
            drawn = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            # An absent dimension has the same token as in training.
            bins.append(torch.where(active[:, position % width], drawn, zero))
            hidden.append(last)
            inputs = (self.decoder.embed_tokens(bins[-1]) + self.dimension[position % width])[:, None]
        chunk = torch.stack(bins, dim=1).view(rows, length, width)
        states = torch.stack(hidden, dim=1).unflatten(1, self.shape).mean(dim=2)
        return self.decode(chunk), states, self._embed(chunk).mean(dim=2)

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        """Normalised actions to bins `0 .. num_bins - 1`."""
        share = (actions.clamp(-BIN_LIMIT, BIN_LIMIT) + BIN_LIMIT) / (2 * BIN_LIMIT)
        return (share * self.bins).long().clamp(max=self.bins - 1)

    def decode(self, bins: torch.Tensor) -> torch.Tensor:
        """Bins to the actions at their centres."""
        return ((bins + 0.5) / self.bins * 2 - 1) * BIN_LIMIT

    def _embed(self, bins: torch.Tensor) -> torch.Tensor:
        """`(N, L, da)` to `(N, L, da, F)`."""
        return self.decoder.embed_tokens(bins) + self.dimension

    def _prefix(self, context: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return torch.stack((self.context(context), self.state(state)), dim=1)
