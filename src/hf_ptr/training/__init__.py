"""Training: PTRConfig, PTRModel and PTRTrainer."""

from typing import TYPE_CHECKING

from hf_ptr.utils.lazy_modules import lazy_attributes

if TYPE_CHECKING:
    from hf_ptr.training.ptr_config import PTRConfig
    from hf_ptr.training.ptr_model import PTRModel, PTRModelConfig, build_ptr_model
    from hf_ptr.training.ptr_trainer import PTRTrainer

_HOMES = {
    "ptr_config": ("PTRConfig",),
    "ptr_model": ("PTRModel", "PTRModelConfig", "build_ptr_model"),
    "ptr_trainer": ("PTRTrainer",),
}
__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)

__all__ = ["PTRConfig", "PTRModel", "PTRModelConfig", "PTRTrainer", "build_ptr_model"]
