"""The native policy, a folder as in LeRobot: configuration, modeling, processing."""

from .building import policy_from_dataset
from .configuration_vla import VLAPolicyConfig
from .modeling_vla import VLAPolicy
from .processing_vla import VLAProcessor

__all__ = ["VLAPolicy", "VLAPolicyConfig", "VLAProcessor", "policy_from_dataset"]
