"""hf-ptr: post-train robot policies on uneven demonstrations by Posterior-Transition Reweighting."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from hf_ptr._version import __version__
from hf_ptr.belief import BeliefTokenizer, BeliefTokenizerConfig
from hf_ptr.embodiment import UnifiedActionSpace
from hf_ptr.errors import InputError
from hf_ptr.policies import VLAPolicy, VLAPolicyConfig, VLAProcessor
from hf_ptr.scoring import (
    AdaptiveScaleController,
    CandidatePool,
    TargetEncoder,
    TransitionScorer,
    TransitionScorerConfig,
)
from hf_ptr.training import PTRConfig, PTRModel, PTRModelConfig, PTRTrainer

_COMPONENTS = (
    (BeliefTokenizerConfig, BeliefTokenizer),
    (TransitionScorerConfig, TransitionScorer),
    (VLAPolicyConfig, VLAPolicy),
    (PTRModelConfig, PTRModel),
)
for _config, _model in _COMPONENTS:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoProcessor.register(VLAPolicyConfig, VLAProcessor, exist_ok=True)

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
