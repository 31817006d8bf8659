"""hf-ptr: post-train robot policies on uneven demonstrations by Posterior-Transition Reweighting."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_ptr._version import __version__
from hf_ptr.errors import InputError
from hf_ptr.registration import defer

if TYPE_CHECKING:
    from hf_ptr.belief import BeliefTokenizer, BeliefTokenizerConfig
    from hf_ptr.embodiment import UnifiedActionSpace
    from hf_ptr.policies import VLAPolicy, VLAPolicyConfig, VLAProcessor
    from hf_ptr.scoring import (
        AdaptiveScaleController,
        CandidatePool,
        TargetEncoder,
        TransitionScorer,
        TransitionScorerConfig,
    )
    from hf_ptr.training import PTRConfig, PTRModel, PTRModelConfig, PTRTrainer

# Public names by the package that has them; a package is loaded when one of its names is first asked for.
_HOMES = {
    "belief": ("BeliefTokenizer", "BeliefTokenizerConfig"),
    "embodiment": ("UnifiedActionSpace",),
    "policies": ("VLAPolicy", "VLAPolicyConfig", "VLAProcessor"),
    "scoring": (
        "AdaptiveScaleController",
        "CandidatePool",
        "TargetEncoder",
        "TransitionScorer",
        "TransitionScorerConfig",
    ),
    "training": ("PTRConfig", "PTRModel", "PTRModelConfig", "PTRTrainer"),
}
_PACKAGE_OF = {name: package for package, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PACKAGE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PACKAGE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
