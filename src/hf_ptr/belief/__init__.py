"""The belief tokenizer: a short recurrent memory of context tokens (PTR Sec. 3)."""

from .configuration_belief import BeliefTokenizerConfig
from .modeling_belief import BeliefTokenizer, BeliefTokenizerOutput

__all__ = ["BeliefTokenizer", "BeliefTokenizerConfig", "BeliefTokenizerOutput"]
