"""A PI0 of some ten thousand random weights, with a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PI0Config, PI0ForConditionalGeneration, PreTrainedTokenizerFast

WORDS = ("push", "open", "close", "the", "cube", "drawer")
VOCABULARY, IMAGE_TOKEN = 24, 20


def small_pi0_config(*, vocabulary: int, image_token: int, **settings: Any) -> PI0Config:
    """The configuration of a PI0 of some ten thousand weights."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    text = {"model_type": "gemma", "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, **heads}
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 16,
        "vision_use_head": False,
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {**text, "vocab_size": vocabulary},
            "vision_config": vision,
            "projection_dim": 16,
            "image_token_id": image_token,
        },
        dit_config=text,
        loss_reduction="none",
        **settings,
    )


def tiny_pi0(seed: int = 0, chunk_size: int = 4, **settings: Any) -> PI0ForConditionalGeneration:
    """A PI0 for states and actions of at most eight dimensions."""
    config = small_pi0_config(
        vocabulary=VOCABULARY,
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
    """One id a word; other words are `<unk>`."""
    words = ("<pad>", "<bos>", "<unk>", *WORDS)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>")


def saved_pi0(folder: Path, **settings: Any) -> Path:
    """A folder with the PI0 and its tokenizer, as the key `policy` of a recipe takes it."""
    tiny_pi0(**settings).save_pretrained(folder)
    pi0_tokenizer().save_pretrained(folder)
    return folder
