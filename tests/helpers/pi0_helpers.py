"""A tiny PI0 that is fitted to a dataset with two cameras, and a batch for it."""

from __future__ import annotations

from typing import Any

from camera_helpers import CAMERAS, camera_batch, camera_table
from transformers import PI0ForConditionalGeneration

from benchmarks.tiny_pi0 import pi0_tokenizer, tiny_pi0
from hf_ptr.data.chunks import Batch
from hf_ptr.policies.pi0 import PI0Adapter, PI0TextProcessor


def fitted(**settings: Any) -> PI0ForConditionalGeneration:
    model = tiny_pi0(**settings)
    PI0Adapter(model).fit_to(camera_table(), observation_features=CAMERAS)
    return model


def batch_of(seed: int = 0) -> Batch:
    return camera_batch(PI0TextProcessor(pi0_tokenizer()), seed)
