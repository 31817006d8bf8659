"""A PI0 of some ten thousand random weights, with a tokenizer of a few words."""

from __future__ import annotations

from typing import Any

import torch
from camera_helpers import CAMERAS, camera_batch, camera_table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PI0ForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.gpu.pi0 import small_pi0_config
from hf_ptr.data.chunks import Batch
from hf_ptr.policies.pi0 import PI0Adapter, PI0TextProcessor

WORDS = ("push", "open", "close", "the", "cube", "drawer")
IMAGE_TOKEN = 20


def tiny_pi0(seed: int = 0, chunk_size: int = 4, **settings: Any) -> PI0ForConditionalGeneration:
    config = small_pi0_config(
        vocabulary=24,
        image_token=IMAGE_TOKEN,
        chunk_size=chunk_size,
        max_state_dim=8,
        max_action_dim=8,
        num_inference_steps=4,
        **settings,
    )
    torch.manual_seed(seed)
    return PI0ForConditionalGeneration(config).eval()


def pi0_tokenizer() -> PreTrainedTokenizerFast:
    words = ("<pad>", "<bos>", "<unk>", *WORDS)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>")


def fitted(**settings: Any) -> PI0ForConditionalGeneration:
    model = tiny_pi0(**settings)
    PI0Adapter(model).fit_to(camera_table(), observation_features=CAMERAS)
    return model


def batch_of(seed: int = 0) -> Batch:
    return camera_batch(PI0TextProcessor(pi0_tokenizer()), seed)
