"""Policies: the contract with PTR, the native policy, adapters for other libraries, loading and LoRA."""

from hf_ptr.policies.adapters import adapter_of, register_adapter
from hf_ptr.policies.contract import PolicyOutput, PostTrainable
from hf_ptr.policies.loading import load_policy, merge_adapter, require_fits
from hf_ptr.policies.robot_policy import RobotPolicy, load_for_robot
from hf_ptr.policies.vla import VLAPolicy, VLAPolicyConfig, VLAProcessor, policy_from_dataset
from hf_ptr.vision.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

# EfficientNetLite is imported for its registration: the configuration of a saved policy names it as a vision tower.
__all__ = [
    "EfficientNetLite",
    "EfficientNetLiteConfig",
    "PolicyOutput",
    "PostTrainable",
    "RobotPolicy",
    "VLAPolicy",
    "VLAPolicyConfig",
    "VLAProcessor",
    "adapter_of",
    "load_for_robot",
    "load_policy",
    "merge_adapter",
    "policy_from_dataset",
    "register_adapter",
    "require_fits",
]
