"""Training: PTRConfig, PTRModel and PTRTrainer."""

from typing import TYPE_CHECKING

from hf_ptr.lazy import lazily

if TYPE_CHECKING:
    from hf_ptr.training.config import PTRConfig
    from hf_ptr.training.model import PTRModel, PTRModelConfig, build_ptr_model
    from hf_ptr.training.objective import PTRObjective
    from hf_ptr.training.trainer import PTRTrainer

_HOMES = {
    "config": ("PTRConfig",),
    "model": ("PTRModel", "PTRModelConfig", "build_ptr_model"),
    "objective": ("PTRObjective",),
    "trainer": ("PTRTrainer",),
}
__getattr__, __dir__ = lazily(__name__, _HOMES)

__all__ = ["PTRConfig", "PTRModel", "PTRModelConfig", "PTRObjective", "PTRTrainer", "build_ptr_model"]
