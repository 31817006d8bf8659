"""Configuration of the native policy."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from hf_ptr.saved import ComponentConfig

ACTION_FEATURES = ("clean", "noised")


@strict
class VLAPolicyConfig(ComponentConfig):
    r"""
    Configuration of a [`VLAPolicy`].

    Args:
        observation_dim (`int`, defaults to 39): length of the low-dimensional observation `o`.
        state_dim (`int`, defaults to 4): length `d_s` of the proprioceptive state `s`.
        action_dim (`int`, defaults to 4): length `d_a` of one action.
        chunk_size (`int`, defaults to 16): `L`, actions predicted at once.
        n_action_steps (`int`, defaults to 8): how many of them are executed before the next chunk is predicted.
        observation_features (`list[str]`): dataset features that are concatenated into `o`.
        observation_sizes (`list[int]`, *optional*): their widths. With them the policy reads a feature `NAME@-K`,
            what `NAME` was K frames before, as its difference from `NAME`, where that is in `o` too.
        state_feature (`str`), action_feature (`str`): dataset features of `s` and `a`.
        num_instructions (`int`, defaults to 0): instructions with a learned embedding each; 0 with a text encoder.
        text_config (`dict`, *optional*): configuration of a transformers text encoder for instructions.
        hidden_size (`int`, defaults to 64): width `D` of the context tokens.
        action_size (`int`, defaults to 32): width `F` of the action tokens, an even number.
        encoder_size (`int`, defaults to 256): hidden width of the observation encoder.
        num_context_layers (`int`, defaults to 0): transformer layers over the context tokens before they are pooled
            by attention.
        num_attention_heads (`int`, defaults to 4): of these layers and of the pooling.
        expert_size (`int`, defaults to 256), num_expert_layers (`int`, defaults to 2): residual action expert.
        dropout (`float`, defaults to 0.0): in the observation encoder and the action expert.
        num_denoising_steps (`int`, defaults to 4): Euler steps at inference (PTR Sec. 2).
        flow_alpha (`float`, defaults to 1.5), flow_beta (`float`, defaults to 1.0): `σ ~ Beta(α, β)`, PTR Eq. (1).
        action_features (`str`, defaults to `"clean"`): whether `e_t` pools the clean or the noised action tokens.
        relative_actions (`bool`, defaults to `False`): the policy works on actions minus the state at a chunk's
            start, for robots whose actions are target positions of their state; inputs and outputs stay absolute.
        belief_tokens (`int`, defaults to 0): belief tokens that the policy was trained with; 0 for none.
    """

    model_type = "ptr_vla"

    observation_dim: int = 39
    state_dim: int = 4
    action_dim: int = 4
    chunk_size: int = 16
    n_action_steps: int = 8
    observation_features: list[str] | tuple[str, ...] = ("observation.environment_state",)
    observation_sizes: list[int] | tuple[int, ...] | None = None
    state_feature: str = "observation.state"
    action_feature: str = "action"
    num_instructions: int = 0
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    hidden_size: int = 64
    action_size: int = 32
    encoder_size: int = 256
    num_context_layers: int = 0
    num_attention_heads: int = 4
    expert_size: int = 256
    num_expert_layers: int = 2
    dropout: float = 0.0
    num_denoising_steps: int = 4
    flow_alpha: float = 1.5
    flow_beta: float = 1.0
    action_features: str = "clean"
    relative_actions: bool = False
    belief_tokens: int = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if isinstance(self.text_config, dict):
            values = dict(self.text_config)
            self.text_config = AutoConfig.for_model(values.pop("model_type"), **values)

    @property
    def belief_lag(self) -> int:
        """
        How many chunks back the belief tokens of a chunk come from.

        A chunk that is replanned before its end overlaps the next one. Tokens made from it would hold the recorded
        actions that the next one is to predict, and the policy would learn to copy them. So the tokens come from the
        last chunk that had ended when this one began.
        """
        return -(-self.chunk_size // self.n_action_steps)

    def validate_architecture(self):
        """Called by `@strict` when a configuration is made or changed."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        sizes = self.observation_sizes
        if sizes is not None and (len(sizes), sum(sizes)) != (len(self.observation_features), self.observation_dim):
            raise ValueError(
                f"observation_sizes {list(sizes)} are not the widths of {len(self.observation_features)} "
                f"observation_features that make up observation_dim {self.observation_dim}"
            )
        if self.relative_actions and self.state_dim != self.action_dim:
            raise ValueError(
                f"relative_actions need as many action ({self.action_dim}) as state dimensions ({self.state_dim})"
            )
        if self.action_size % 2:
            raise ValueError(
                f"action_size is {self.action_size}; it must be even, half sines and half cosines of time"
            )
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(f"n_action_steps is {self.n_action_steps}; it must lie in 1..{self.chunk_size}")
        if self.action_features not in ACTION_FEATURES:
            raise ValueError(f"action_features is {self.action_features!r}; known: {', '.join(ACTION_FEATURES)}")
