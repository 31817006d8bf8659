"""What is post-trained: the contract with PTR, and the native policy."""

from hf_ptr.policies.contract import PolicyOutput, PostTrainable, require_post_trainable
from hf_ptr.policies.loading import load_policy, require_fits
from hf_ptr.policies.vla import VLAPolicy, VLAPolicyConfig, VLAProcessor, policy_from_dataset

__all__ = [
    "PolicyOutput",
    "PostTrainable",
    "VLAPolicy",
    "VLAPolicyConfig",
    "VLAProcessor",
    "load_policy",
    "policy_from_dataset",
    "require_fits",
    "require_post_trainable",
]
