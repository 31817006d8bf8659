"""How much each sample counts: scorer, target encoder, candidate pool and controller (PTR Sec. 4 and 7)."""

from hf_ptr.registration import register
from hf_ptr.scoring.controller import AdaptiveScaleController
from hf_ptr.scoring.pool import CandidatePool, Candidates
from hf_ptr.scoring.scorer import TransitionScorer, TransitionScorerConfig
from hf_ptr.scoring.target import TargetEncoder

register(TransitionScorerConfig, TransitionScorer)

__all__ = [
    "AdaptiveScaleController",
    "CandidatePool",
    "Candidates",
    "TargetEncoder",
    "TransitionScorer",
    "TransitionScorerConfig",
]
