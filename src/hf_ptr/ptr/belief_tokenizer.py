"""Belief tokens: M context tokens that summarise one chunk for the next (PTR Sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import initialization
from transformers.utils import ModelOutput

from hf_ptr.functional import slot_diversity, slot_entropy, soft_assignments
from hf_ptr.utils.components import Component, ComponentConfig, register_component

# Sub-folder of a saved run, next to the policy.
BELIEF_FOLDER = "belief_tokenizer"


@strict
class BeliefTokenizerConfig(ComponentConfig):
    r"""
    Configuration of a [`BeliefTokenizer`].

    Args:
        hidden_size (`int`, defaults to 64):
            Width `D` of the policy's context tokens, and of the belief tokens.
        feature_size (`int`, *optional*):
            Width of the input hidden states and action embeddings; `hidden_size` by default.
        num_tokens (`int`, defaults to 4):
            Number `M` of belief proxy tokens (PTR Sec. 3).
        temperature (`float`, defaults to 1.0):
            `τ_tok` of the assignment over time, PTR Eq. (7).
        entropy_weight (`float`, defaults to 1e-3):
            `λ_ent` of the slot entropy, PTR Eq. (10).
        diversity_weight (`float`, defaults to 1e-3):
            `λ_div` of the slot diversity, PTR Eq. (11).
        carried (`bool`, defaults to `True`):
            Whether a chunk read the tokens of an earlier one in training; otherwise, a policy that acts begins every
            chunk with `z_init`, too.
    """

    model_type = "ptr_belief_tokenizer"

    hidden_size: int = 64
    feature_size: int | None = None
    num_tokens: int = 4
    temperature: float = 1.0
    entropy_weight: float = 1e-3
    diversity_weight: float = 1e-3
    carried: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.feature_size is None:
            self.feature_size = self.hidden_size

    def validate_architecture(self):
        """Called by `@strict` when a configuration is created or changed."""
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens is {self.num_tokens}; a belief tokenizer has at least one token")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")


@dataclass
class BeliefTokenizerOutput(ModelOutput):
    """
    Output of a [`BeliefTokenizer`] for a batch of chunks.

    Args:
        tokens: `(B, M, D)`, the belief tokens `z_{t+1}` of PTR Eq. (8).
        assignments: `(B, L, M)`, `π` of PTR Eq. (7); sums to 1 over L.
        reconstruction: `(B, L, D)`, `c̃` of PTR Eq. (9).
        entropy: scalar `H_tok` in nats, PTR Eq. (10).
        diversity: scalar `D_tok`, PTR Eq. (11).
        loss: scalar `L_tok = λ_ent H_tok + λ_div D_tok`.
    """

    tokens: torch.Tensor | None = None
    assignments: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    diversity: torch.Tensor | None = None
    loss: torch.Tensor | None = None


class BeliefTokenizer(Component):
    """
    Compresses the policy's hidden states and action embeddings of one chunk into `M` tokens for the next chunk.

    Source: PTR Sec. 3, Eq. (5)-(11). The caller detaches `.tokens` between chunks (`sg` in Eq. (5)).
    """

    config: BeliefTokenizerConfig
    config_class = BeliefTokenizerConfig
    base_model_prefix = "belief_tokenizer"
    main_input_name = "context_tokens"

    def __init__(self, config: BeliefTokenizerConfig):
        super().__init__(config)
        features = config.feature_size or config.hidden_size
        self.fuse = nn.Linear(2 * features, config.hidden_size, bias=False)
        self.assign = nn.Linear(config.hidden_size, config.num_tokens, bias=False)
        self.initial = nn.Parameter(torch.zeros(config.num_tokens, config.hidden_size))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            initialization.xavier_uniform_(module.weight)
        elif isinstance(module, BeliefTokenizer):
            initialization.normal_(module.initial, std=0.02)

    def initial_tokens(self, batch_size: int) -> torch.Tensor:
        """`z_init`, learned, for the first chunk of an episode or segment: `(batch_size, M, D)`."""
        return self.initial.expand(batch_size, -1, -1)

    def forward(
        self, context_tokens: torch.Tensor, action_tokens: torch.Tensor, reconstruct: bool = True
    ) -> BeliefTokenizerOutput:
        """
        Args:
            context_tokens: `C_t` `(B, L, F)`, the policy's hidden states at the action positions.
            action_tokens: `A_t` `(B, L, F)`, the action embeddings of the same forward pass.
            reconstruct: also return `.reconstruction`, which is not part of any loss.

        Raises:
            ValueError: the shapes are not equal and `(B, L, F)`, or F is not the configured width.
        """
        if context_tokens.shape != action_tokens.shape or context_tokens.dim() != 3:
            raise ValueError(
                f"context_tokens {tuple(context_tokens.shape)} and action_tokens {tuple(action_tokens.shape)} "
                "must both be (B, L, F)"
            )
        if context_tokens.shape[-1] != self.config.feature_size:
            raise ValueError(f"context_tokens have width {context_tokens.shape[-1]}, not {self.config.feature_size}")
        features = torch.tanh(self.fuse(torch.cat((context_tokens, action_tokens), dim=-1)))
        assignments = soft_assignments(features, self.assign.weight, self.config.temperature)
        assignments = assignments.to(features.dtype)
        tokens = assignments.transpose(1, 2) @ features
        entropy = slot_entropy(assignments)
        diversity = slot_diversity(assignments)
        return BeliefTokenizerOutput(
            tokens=tokens,
            assignments=assignments,
            reconstruction=assignments @ tokens if reconstruct else None,
            entropy=entropy,
            diversity=diversity,
            loss=self.config.entropy_weight * entropy + self.config.diversity_weight * diversity,
        )


class BeliefCarry:
    """
    The belief tokens that the chunks of one step leave to their successors, by the frame at which each chunk starts.

    A chunk finds the tokens of its predecessor by `previous_index`. Where they are missing, the chunk starts a
    segment. So any order of the data is safe, and tokens travel only along segments. At the start of a step, recall
    the tokens for all its micro-batches, then [`~BeliefCarry.clear`], then remember the tokens of each.
    """

    def __init__(self) -> None:
        self._index: torch.Tensor | None = None
        self._tokens: torch.Tensor | None = None

    def recall(self, previous_index: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            previous_index: `(N,)` int64, `index` of each chunk's predecessor, -1 for none.

        Returns:
            `tokens (N, M, D)` and `found (N,)` bool; rows that were not found hold tokens of another chunk. Both None
            while nothing is remembered.
        """
        if self._index is None or self._tokens is None:
            return None, None
        same = (self._index == previous_index[:, None]) & (previous_index >= 0)[:, None]
        return self._tokens[same.int().argmax(dim=1)], same.any(dim=1)

    def clear(self) -> None:
        """Forgets all tokens."""
        self._index = self._tokens = None

    def remember(self, index: torch.Tensor, tokens: torch.Tensor) -> None:
        """Adds tokens `(N, M, D)`, which carry no gradient, of the chunks that start at the frames `index (N,)`."""
        if self._index is not None and self._tokens is not None:
            index, tokens = torch.cat((self._index, index)), torch.cat((self._tokens, tokens))
        self._index, self._tokens = index, tokens

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state of a resumed run; empty while nothing is remembered."""
        if self._index is None or self._tokens is None:
            return {}
        return {"index": self._index, "tokens": self._tokens}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores the result of [`~BeliefCarry.state_dict`]."""
        self._index, self._tokens = state.get("index"), state.get("tokens")


register_component(BeliefTokenizerConfig, BeliefTokenizer)
