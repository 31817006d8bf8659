"""Training: PTRConfig, PTRModel and PTRTrainer."""

from hf_ptr.registration import register
from hf_ptr.training.config import PTRConfig
from hf_ptr.training.model import PTRModel, PTRModelConfig, build_ptr_model
from hf_ptr.training.objective import PTRObjective
from hf_ptr.training.trainer import PTRTrainer

register(PTRModelConfig, PTRModel)

__all__ = ["PTRConfig", "PTRModel", "PTRModelConfig", "PTRObjective", "PTRTrainer", "build_ptr_model"]
