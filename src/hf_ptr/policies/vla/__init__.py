"""The native policy: configuration, modeling, processing and construction for a dataset."""

from hf_ptr.policies.vla.building import policy_from_dataset
from hf_ptr.policies.vla.configuration_vla import VLAPolicyConfig
from hf_ptr.policies.vla.modeling_vla import VLAPolicy
from hf_ptr.policies.vla.processing_vla import VLAProcessor
from hf_ptr.utils.components import register_component

register_component(VLAPolicyConfig, VLAPolicy, VLAProcessor)

__all__ = ["VLAPolicy", "VLAPolicyConfig", "VLAProcessor", "policy_from_dataset"]
