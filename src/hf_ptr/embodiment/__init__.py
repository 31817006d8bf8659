"""Embodiments: the parts of a robot's state and action, and the unified action space (PTR Sec. 11)."""

from hf_ptr.embodiment.description import Embodiment, embodiment_names, load_embodiment
from hf_ptr.embodiment.unified import SLOTS, WIDTH, UnifiedActionSpace

__all__ = ["SLOTS", "WIDTH", "Embodiment", "UnifiedActionSpace", "embodiment_names", "load_embodiment"]
