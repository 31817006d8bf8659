"""Configuration of the native policy."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from hf_ptr.errors import nearest
from hf_ptr.utils.components import ComponentConfig

POOLED_ACTIONS = ("clean", "noised")
ACTION_HEADS = ("flow", "diffusion", "tokens")


@strict
class VLAPolicyConfig(ComponentConfig):
    r"""
    Configuration of a [`VLAPolicy`].

    Args:
        observation_dim (`int`, defaults to 39): length of the low-dimensional observation `o`; 0 with cameras.
        state_dim (`int`, defaults to 4): length `d_s` of the proprioceptive state `s`.
        action_dim (`int`, defaults to 4): length `d_a` of one action.
        chunk_size (`int`, defaults to 16): `L`, actions predicted at once.
        n_action_steps (`int`, defaults to 8): actions executed before the next chunk is predicted.
        observation_features (`list[str]`): dataset features that are concatenated into `o`; or, with `vision_config`,
            the cameras.
        observation_sizes (`list[int]`, *optional*): their widths. With them the policy replaces a feature `NAME@-K`,
            the value of `NAME` K frames earlier, by its difference from `NAME`, if `o` contains `NAME` too.
        state_feature (`str`), action_feature (`str`): dataset features of `s` and `a`.
        num_instructions (`int`, defaults to 0): instructions with a learned embedding each; 0 with a text encoder.
        text_config (`dict`, *optional*): configuration of a transformers text encoder for instructions.
        freeze_text (`bool`, defaults to `False`): whether the text encoder is not trained.
        vision_config (`dict`, *optional*): configuration of a transformers vision tower, shared by all cameras.
        image_size (`int` or `list[int]`, defaults to 96): height and width of its input images.
        image_mean (`list[float]`), image_std (`list[float]`): mean and standard deviation of the three colours in
            [0, 1], defaults to 0.5.
        target_layer (`int`, *optional*): layer of the tower that the target encoder reads (PTR Sec. 4); the middle one
            by default.
        group_norm (`bool`, defaults to `False`): whether group replaces batch normalisation in the tower.
        hidden_size (`int`, defaults to 64): width `D` of the context tokens.
        action_size (`int`, defaults to 32): width `F` of the action tokens, an even number.
        encoder_size (`int`, defaults to 256): hidden width of the observation encoder.
        num_context_layers (`int`, defaults to 0): transformer layers over the context tokens before they are pooled
            by attention.
        num_attention_heads (`int`, defaults to 4): attention heads of these layers and of the pooling.
        expert_size (`int`, defaults to 256), num_expert_layers (`int`, defaults to 2): residual action expert.
        dropout (`float`, defaults to 0.0): dropout in the observation encoder and the action expert.
        action_head (`str`, defaults to `"flow"`): `flow` (flow matching), `diffusion` (schedulers of diffusers), or
            `tokens` (autoregressive binned tokens, as wide as the expert).
        num_denoising_steps (`int`, defaults to 4): Euler or DDIM steps at inference (PTR Sec. 2).
        diffusion_steps (`int`, defaults to 100): diffusion steps in training.
        num_bins (`int`, defaults to 256): bins of each normalised action dimension, for action tokens.
        flow_alpha (`float`, defaults to 1.5), flow_beta (`float`, defaults to 1.0): `σ ~ Beta(α, β)`, PTR Eq. (1).
        pooled_actions (`str`, defaults to `"clean"`): whether `e_t` pools the clean or the noised action tokens.
        relative_actions (`bool`, defaults to `False`): the policy works on actions minus the state at a chunk's
            start, for robots whose actions are target positions of their state; inputs and outputs stay absolute.
        belief_tokens (`int`, defaults to 0): number of belief tokens in training; 0 for none.
        fps (`float`, *optional*): frames per second of the training data, and so actions per second; None where it is
            unknown, or each source of a mixture has its own.
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
    freeze_text: bool = False
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    image_size: int | list[int] | tuple[int, ...] = 96
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    target_layer: int | None = None
    group_norm: bool = False
    hidden_size: int = 64
    action_size: int = 32
    encoder_size: int = 256
    num_context_layers: int = 0
    num_attention_heads: int = 4
    expert_size: int = 256
    num_expert_layers: int = 2
    dropout: float = 0.0
    action_head: str = "flow"
    num_denoising_steps: int = 4
    diffusion_steps: int = 100
    num_bins: int = 256
    flow_alpha: float = 1.5
    flow_beta: float = 1.0
    pooled_actions: str = "clean"
    relative_actions: bool = False
    belief_tokens: int = 0
    fps: float | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.text_config = _tower_config(self.text_config)
        self.vision_config = _tower_config(self.vision_config)

    @property
    def image_resolution(self) -> tuple[int, int]:
        """Height and width of the vision tower's input images, from `image_size`."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that the policy reads; empty for a policy that reads vectors."""
        return () if self.vision_config is None else tuple(self.observation_features)

    def validate_architecture(self):
        """Called by `@strict` when a configuration is created or changed."""
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
        if self.vision_config is not None and min(*self.image_resolution, len(self.observation_features)) < 1:
            raise ValueError(
                f"image_size {self.image_size} with {len(self.observation_features)} cameras has no pixels; both must "
                "be at least 1"
            )
        if self.relative_actions and self.state_dim != self.action_dim:
            raise ValueError(
                f"relative_actions is true, but the action has {self.action_dim} dimensions and the state "
                f"{self.state_dim}; set relative_actions to false"
            )
        if self.action_size % 2:
            raise ValueError(
                f"action_size is {self.action_size}; it must be even, half sines and half cosines of time"
            )
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(f"n_action_steps is {self.n_action_steps}; it must lie in 1..{self.chunk_size}")
        if self.action_head not in ACTION_HEADS:
            raise ValueError(
                f"action_head is {self.action_head!r}.{nearest(self.action_head, ACTION_HEADS)} Known: "
                f"{', '.join(ACTION_HEADS)}"
            )
        if self.pooled_actions not in POOLED_ACTIONS:
            raise ValueError(f"pooled_actions is {self.pooled_actions!r}; known: {', '.join(POOLED_ACTIONS)}")


def _tower_config(given: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig | None:
    if not isinstance(given, dict):
        return given
    values = dict(given)
    return AutoConfig.for_model(values.pop("model_type"), **values)
