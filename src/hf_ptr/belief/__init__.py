"""The belief tokenizer: a short recurrent memory of context tokens (PTR Sec. 3)."""

from hf_ptr.belief.carry import BeliefCarry
from hf_ptr.belief.configuration_belief import BeliefTokenizerConfig
from hf_ptr.belief.modeling_belief import BeliefTokenizer, BeliefTokenizerOutput

__all__ = ["BeliefCarry", "BeliefTokenizer", "BeliefTokenizerConfig", "BeliefTokenizerOutput"]
