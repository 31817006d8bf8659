"""hf-ptr: post-train robot policies on uneven demonstrations by Posterior-Transition Reweighting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ptr.errors import InputError
from hf_ptr.utils.auto_classes import defer
from hf_ptr.utils.lazy_modules import lazy_attributes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hf_ptr.embodiment import UnifiedActionSpace
    from hf_ptr.policies import VLAPolicy, VLAPolicyConfig, VLAProcessor
    from hf_ptr.ptr import (
        AdaptiveScaleController,
        BeliefTokenizer,
        BeliefTokenizerConfig,
        CandidatePool,
        TargetEncoder,
        TransitionScorer,
        TransitionScorerConfig,
    )
    from hf_ptr.training import PTRConfig, PTRModel, PTRModelConfig, PTRTrainer

# Public names by the package that has them; a package is loaded when one of its names is first asked for.
_HOMES = {
    "embodiment": ("UnifiedActionSpace",),
    "policies": ("VLAPolicy", "VLAPolicyConfig", "VLAProcessor"),
    "ptr": (
        "AdaptiveScaleController",
        "BeliefTokenizer",
        "BeliefTokenizerConfig",
        "CandidatePool",
        "TargetEncoder",
        "TransitionScorer",
        "TransitionScorerConfig",
    ),
    "training": ("PTRConfig", "PTRModel", "PTRModelConfig", "PTRTrainer"),
}
__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)

defer()

__all__ = [
    "AdaptiveScaleController",
    "BeliefTokenizer",
    "BeliefTokenizerConfig",
    "CandidatePool",
    "InputError",
    "PTRConfig",
    "PTRModel",
    "PTRModelConfig",
    "PTRTrainer",
    "TargetEncoder",
    "TransitionScorer",
    "TransitionScorerConfig",
    "UnifiedActionSpace",
    "VLAPolicy",
    "VLAPolicyConfig",
    "VLAProcessor",
    "__version__",
]
