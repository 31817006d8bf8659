"""How much each sample counts: scorer, target encoder, candidate pool and controller (PTR Sec. 4 and 7)."""

from .controller import AdaptiveScaleController
from .pool import CandidatePool, Candidates, Negatives
from .scorer import TransitionScorer, TransitionScorerConfig
from .target import TargetEncoder

__all__ = [
    "AdaptiveScaleController",
    "CandidatePool",
    "Candidates",
    "Negatives",
    "TargetEncoder",
    "TransitionScorer",
    "TransitionScorerConfig",
]
