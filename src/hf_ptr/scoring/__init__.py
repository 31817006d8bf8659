"""How much each sample counts: scorer, target encoder, candidate pool and controller (PTR Sec. 4 and 7)."""

from typing import TYPE_CHECKING

from hf_ptr.lazy import lazily

if TYPE_CHECKING:
    from hf_ptr.scoring.controller import AdaptiveScaleController
    from hf_ptr.scoring.pool import CandidatePool, Candidates
    from hf_ptr.scoring.scorer import TransitionScorer, TransitionScorerConfig
    from hf_ptr.scoring.target import TargetEncoder

_HOMES = {
    "controller": ("AdaptiveScaleController",),
    "pool": ("CandidatePool", "Candidates"),
    "scorer": ("TransitionScorer", "TransitionScorerConfig"),
    "target": ("TargetEncoder",),
}
__getattr__, __dir__ = lazily(__name__, _HOMES)

__all__ = [
    "AdaptiveScaleController",
    "CandidatePool",
    "Candidates",
    "TargetEncoder",
    "TransitionScorer",
    "TransitionScorerConfig",
]
