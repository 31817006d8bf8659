"""Adapters for LeRobot policies, which are trained and saved unchanged; needs LeRobot."""

from hf_ptr.errors import InputError

try:
    from hf_ptr.policies.lerobot.act import ACTAdapter
    from hf_ptr.policies.lerobot.diffusion import DiffusionAdapter
    from hf_ptr.policies.lerobot.flow import Pi0Adapter, Pi05Adapter, SmolVLAAdapter
except ImportError as error:
    raise InputError(
        f"a LeRobot policy needs LeRobot next to this library ({error}); in a separate environment with Python "
        "3.12: pip install 'hf-ptr[lerobot]'"
    ) from error
from hf_ptr.policies.adapters import register_adapter

register_adapter("lerobot/act", ACTAdapter)
register_adapter("lerobot/diffusion", DiffusionAdapter)
register_adapter("lerobot/pi0", Pi0Adapter)
register_adapter("lerobot/pi05", Pi05Adapter)
register_adapter("lerobot/smolvla", SmolVLAAdapter)
