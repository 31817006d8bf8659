"""Components of PTR: belief tokens, scorer, target encoder, candidate pool, controller (PTR Sec. 3, 4 and 7)."""

from typing import TYPE_CHECKING

from hf_ptr.utils.lazy_modules import lazy_attributes

if TYPE_CHECKING:
    from hf_ptr.ptr.belief_tokenizer import (
        BELIEF_FOLDER,
        BeliefCarry,
        BeliefTokenizer,
        BeliefTokenizerConfig,
        BeliefTokenizerOutput,
    )
    from hf_ptr.ptr.candidate_pool import CandidatePool, Candidates
    from hf_ptr.ptr.controller import AdaptiveScaleController
    from hf_ptr.ptr.scorer import TransitionScorer, TransitionScorerConfig
    from hf_ptr.ptr.target_encoder import TargetEncoder

_HOMES = {
    "belief_tokenizer": (
        "BELIEF_FOLDER",
        "BeliefCarry",
        "BeliefTokenizer",
        "BeliefTokenizerConfig",
        "BeliefTokenizerOutput",
    ),
    "candidate_pool": ("CandidatePool", "Candidates"),
    "controller": ("AdaptiveScaleController",),
    "scorer": ("TransitionScorer", "TransitionScorerConfig"),
    "target_encoder": ("TargetEncoder",),
}
__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)

__all__ = [
    "BELIEF_FOLDER",
    "AdaptiveScaleController",
    "BeliefCarry",
    "BeliefTokenizer",
    "BeliefTokenizerConfig",
    "BeliefTokenizerOutput",
    "CandidatePool",
    "Candidates",
    "TargetEncoder",
    "TransitionScorer",
    "TransitionScorerConfig",
]
