"""Configuration of the belief tokenizer."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from hf_ptr.saved import ComponentConfig


@strict
class BeliefTokenizerConfig(ComponentConfig):
    r"""
    Configuration of a [`BeliefTokenizer`].

    Args:
        hidden_size (`int`, defaults to 64):
            Width `D` of the policy's context tokens, and of the belief tokens.
        feature_size (`int`, *optional*):
            Width of the hidden states and action embeddings that are read; `hidden_size` when left out.
        num_tokens (`int`, defaults to 4):
            Number `M` of belief proxy tokens (PTR Sec. 3).
        temperature (`float`, defaults to 1.0):
            `τ_tok` of the assignment over time, PTR Eq. (7).
        entropy_weight (`float`, defaults to 1e-3):
            `λ_ent` of the slot entropy, PTR Eq. (10).
        diversity_weight (`float`, defaults to 1e-3):
            `λ_div` of the slot diversity, PTR Eq. (11).
    """

    model_type = "ptr_belief_tokenizer"

    hidden_size: int = 64
    feature_size: int | None = None
    num_tokens: int = 4
    temperature: float = 1.0
    entropy_weight: float = 1e-3
    diversity_weight: float = 1e-3

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.feature_size is None:
            self.feature_size = self.hidden_size

    def validate_architecture(self):
        """Called by `@strict` when a configuration is made or changed."""
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens is {self.num_tokens}; a belief tokenizer has at least one token")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
