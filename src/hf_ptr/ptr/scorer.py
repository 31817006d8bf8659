"""The transition scorer: a query from context and action that identifies the next observation (PTR Sec. 4)."""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import initialization

from hf_ptr.utils.components import Component, ComponentConfig, register_component


@strict
class TransitionScorerConfig(ComponentConfig):
    r"""
    Configuration of a [`TransitionScorer`].

    Args:
        context_size (`int`, defaults to 64):
            Width `Dc` of the policy's pooled context `h_t`.
        action_size (`int`, defaults to 64):
            Width `Da` of the pooled action features `e_t`.
        hidden_size (`int`, defaults to 64):
            Width of the joint hidden layer.
        embedding_size (`int`, defaults to 64):
            Width `D` of the query and of the target encoder's features.
    """

    model_type = "ptr_transition_scorer"

    context_size: int = 64
    action_size: int = 64
    hidden_size: int = 64
    embedding_size: int = 64


class TransitionScorer(Component):
    """
    The query `u = f(h, e)` of PTR Sec. 4, a light projection head.

    The action branch is a two-layer MLP with Xavier initialisation on both layers, as in the paper. Its output is
    added to the projected context before a nonlinearity and the last projection, so that action and context interact.
    """

    config: TransitionScorerConfig
    config_class = TransitionScorerConfig
    base_model_prefix = "scorer"
    main_input_name = "context"

    def __init__(self, config: TransitionScorerConfig):
        super().__init__(config)
        self.context = nn.Linear(config.context_size, config.hidden_size)
        self.action = nn.Sequential(
            nn.Linear(config.action_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        self.query = nn.Linear(config.hidden_size, config.embedding_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)

    def forward(self, context: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """
        Args:
            context: `h_t` `(B, Dc)`, the policy's pooled context.
            action: `e_t` `(B, Da)`, the pooled action features.

        Returns:
            The query `u` `(B, D)`, of unit norm.

        Raises:
            ValueError: the batch sizes differ, or a width is not the configured one.
        """
        expected = (self.config.context_size, self.config.action_size)
        if context.dim() != 2 or action.dim() != 2 or (context.shape[-1], action.shape[-1]) != expected:
            raise ValueError(
                f"context {tuple(context.shape)} and action {tuple(action.shape)} must be "
                f"(B, {expected[0]}) and (B, {expected[1]})"
            )
        if context.shape[0] != action.shape[0]:
            raise ValueError(f"context has {context.shape[0]} rows and action {action.shape[0]}")
        return self._query(self.context(context) + self.action(action))

    def with_permuted(self, context: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `forward`, and the query with another sample's action features, `f(h, ẽ)` of PTR Eq. (13): both `(B, D)`.

        The permutation shifts the minibatch by one, so that no sample keeps its own action.
        """
        projected, own = self.context(context), self.action(action)
        both = self._query(torch.cat((projected + own, projected + own.roll(1, dims=0))))
        query, permuted = both.chunk(2)
        return query, permuted

    def _query(self, joint: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.query(F.gelu(joint)).float(), dim=-1, eps=1e-6)


register_component(TransitionScorerConfig, TransitionScorer)
