"""Building blocks of the native policy: normalisation, encoders and the action expert."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

# Normalised inputs beyond this come from a sensor outside its recorded range; the encoder never saw such values.
NORMALIZED_LIMIT = 10.0


class Normalizer(nn.Module):
    """Per-feature mean and standard deviation, kept with the policy so that a checkpoint needs no dataset."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def set(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Sets the statistics `(size,)`, in raw units; `std` must be above 0."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw to normalised units, `(…, size)`."""
        return (raw - self.mean) / self.std

    def clamped(self, raw: torch.Tensor, dims: torch.Tensor | None = None) -> torch.Tensor:
        """
        `forward` for encoder inputs: clamped to the range that an encoder can have seen, and 0 in dimensions where
        `dims (…, size)` is False.
        """
        values = self(raw).clamp(-NORMALIZED_LIMIT, NORMALIZED_LIMIT)
        return values if dims is None else values.masked_fill(~dims, 0.0)

    def inverse(self, normalized: torch.Tensor) -> torch.Tensor:
        """Normalised to raw units, `(…, size)`."""
        return normalized * self.std + self.mean


class ObservationTower(nn.Module):
    """
    The observation encoder of a state policy, the `v` of PTR Sec. 4: raw `(N, do)` to features `(N, D)`.

    A past value of a feature is replaced by its difference from the present value. Values a tenth of a second apart
    are nearly equal, and the encoder would have to find the motion in their last digits.

    Args:
        observation_dim: `do`.
        encoder_size: hidden width.
        hidden_size: `D`.
        dropout: dropout after the hidden layer.
        pasts: `(start of the past value, start of the present value, width)` in dimensions of the observation.
    """

    def __init__(
        self,
        observation_dim: int,
        encoder_size: int,
        hidden_size: int,
        dropout: float,
        pasts: Sequence[tuple[int, int, int]] = (),
    ):
        super().__init__()
        self.pasts = tuple(pasts)
        self.normalizer = Normalizer(observation_dim)
        self.layers = nn.Sequential(
            nn.Linear(observation_dim, encoder_size),
            nn.SiLU(),
            _dropout(dropout),
            nn.Linear(encoder_size, hidden_size),
        )

    def forward(self, observation: torch.Tensor, dims: torch.Tensor | None = None) -> torch.Tensor:
        """`dims (N, do)` bool: the observed dimensions of each row; all by default."""
        return self.layers(self.normalizer.clamped(self.differences(observation), dims))

    def differences(self, observation: torch.Tensor) -> torch.Tensor:
        """The observation `(…, do)` with every past value minus its present value, in raw units."""
        if not self.pasts:
            return observation
        result = observation.clone()
        for past, present, width in self.pasts:
            result[..., past : past + width] -= observation[..., present : present + width]
        return result


class ContextLayer(nn.Module):
    """A pre-norm transformer layer over context tokens, in which every token attends to all real tokens."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 2 * hidden_size), nn.GELU(), nn.Linear(2 * hidden_size, hidden_size)
        )

    def forward(self, tokens: torch.Tensor, key_mask: torch.Tensor | None) -> torch.Tensor:
        """`tokens (N, K, D)`; `key_mask (N, 1, 1, K)` bool, True = attend, or None when all tokens are real."""
        rows, length, width = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens)).view(rows, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        return tokens + self.mlp(self.mlp_norm(tokens))


class AttentionPool(nn.Module):
    """
    The pooled context `h_t` of PTR Eq. (3): one learned query reads all context tokens.

    Only the query passes through the output projection and the MLP, so an additional context token costs no more than
    its key and value.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.zeros(hidden_size))
        self.token_norm = nn.LayerNorm(hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`tokens (N, K, D)` and `mask (N, K)` bool, True = a real token, or None when all are, to `(N, D)`."""
        rows, length, width = tokens.shape
        heads, part = self.num_heads, width // self.num_heads
        key, value = self.key_value(self.token_norm(tokens)).view(rows, length, 2, heads, part).unbind(dim=2)
        # With a single query, sums over few elements are cheaper than a batch of tiny matrix products.
        scores = (key * self.query.view(heads, part)).sum(dim=-1) / math.sqrt(part)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
        attention = scores.softmax(dim=1)
        pooled = self.out((attention[..., None] * value).sum(dim=1).flatten(1))
        return self.norm(pooled + self.mlp(self.mlp_norm(pooled)))


class ActionEmbedding(nn.Module):
    """Action-channel tokens: one per action of the chunk, from the action, the noise time and the position."""

    def __init__(self, action_dim: int, chunk_size: int, action_size: int):
        super().__init__()
        self.action_size = action_size
        self.action = nn.Linear(action_dim, action_size)
        self.time = nn.Linear(action_size, action_size)
        self.position = nn.Parameter(torch.zeros(chunk_size, action_size))

    def forward(self, actions: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """`actions (N, L, da)` normalised and `sigma (N,)`, or `(1,)` for all, in [0, 1] to tokens `(N, L, F)`."""
        half = self.action_size // 2
        frequency = torch.exp(torch.linspace(0.0, math.log(100.0), half, device=sigma.device))
        angle = sigma[:, None] * frequency * math.pi
        time = self.time(torch.cat((angle.sin(), angle.cos()), dim=-1))
        # Of a time that all rows share, the sum in brackets has one row.
        return F.silu(self.action(actions) + (self.position + time[:, None, :]))


class DenoisingOutput(nn.Module):
    """
    Prediction for each action of a noised chunk: the velocity `v_φ` of PTR Eq. (1), or the noise of a diffusion. It is
    a function of the hidden states plus a gain on the noised actions.

    Most of the prediction target is the noise itself. Without the direct path the hidden states would have to carry it
    through a trunk that is narrower than the chunk: with 26 action dimensions that error floor exceeded the signal.
    """

    def __init__(self, action_dim: int, action_size: int):
        super().__init__()
        self.out = nn.Linear(action_size, action_dim)
        self.gain = nn.Sequential(nn.Linear(1, action_size), nn.SiLU(), nn.Linear(action_size, action_dim))

    def forward(self, hidden: torch.Tensor, noised: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """`hidden (N, L, F)`, `x_σ (N, L, da)` and `sigma (N,)` to `(N, L, da)`."""
        return self.out(hidden) + self.gain(sigma[:, None])[:, None, :] * noised


class ResidualBlock(nn.Module):
    """A pre-norm two-layer residual block."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.layers = nn.Sequential(nn.Linear(size, size), nn.SiLU(), _dropout(dropout), nn.Linear(size, size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.layers(self.norm(hidden))


class ActionExpert(nn.Module):
    """
    `g_φ(h_t, s_t, a)` of PTR Eq. (4): action tokens, context and state to hidden states at the action positions.

    The chunk is mixed as one flat vector rather than by attention, which on a CPU costs far less for short chunks of
    low-dimensional actions.
    """

    def __init__(
        self, chunk_size: int, hidden_size: int, action_size: int, expert_size: int, num_layers: int, dropout: float
    ):
        super().__init__()
        self.action = nn.Linear(chunk_size * action_size, expert_size)
        self.context = nn.Linear(2 * hidden_size, expert_size)
        self.blocks = nn.ModuleList(ResidualBlock(expert_size, dropout) for _ in range(num_layers))
        self.out = nn.Linear(expert_size, chunk_size * action_size)
        self.norm = nn.LayerNorm(action_size)

    def forward(self, tokens: torch.Tensor, context: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """`tokens (N, L, F)`, `context (N, D)`, `state (N, D)` to hidden states `C (N, L, F)`."""
        hidden = self.action(tokens.flatten(1)) + self.context(torch.cat((context, state), dim=-1))
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(tokens + self.out(hidden).view_as(tokens))


def _dropout(share: float) -> nn.Module:
    # Without dropout no random number is drawn for it.
    return nn.Dropout(share) if share > 0 else nn.Identity()
