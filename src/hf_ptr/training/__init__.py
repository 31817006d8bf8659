"""Training: PTRConfig, PTRModel and PTRTrainer."""

from .config import PTRConfig
from .model import PTRModel, PTRModelConfig, build_ptr_model
from .objective import PTRObjective
from .trainer import PTRTrainer

__all__ = ["PTRConfig", "PTRModel", "PTRModelConfig", "PTRObjective", "PTRTrainer", "build_ptr_model"]
