"""The belief tokenizer: a short recurrent memory of context tokens (PTR Sec. 3)."""

from hf_ptr.belief.carry import BeliefCarry
from hf_ptr.belief.configuration_belief import BeliefTokenizerConfig
from hf_ptr.belief.modeling_belief import BeliefTokenizer, BeliefTokenizerOutput
from hf_ptr.registration import register

# Where a saved run keeps it, beside the policy.
BELIEF_FOLDER = "belief_tokenizer"

register(BeliefTokenizerConfig, BeliefTokenizer)

__all__ = ["BELIEF_FOLDER", "BeliefCarry", "BeliefTokenizer", "BeliefTokenizerConfig", "BeliefTokenizerOutput"]
