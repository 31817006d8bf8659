"""What is post-trained: the contract with PTR, and the native policy."""

from .contract import PolicyOutput, PostTrainable, missing_parts
from .vla import VLAPolicy, VLAPolicyConfig, VLAProcessor

__all__ = ["PolicyOutput", "PostTrainable", "VLAPolicy", "VLAPolicyConfig", "VLAProcessor", "missing_parts"]
