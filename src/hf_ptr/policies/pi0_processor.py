"""The processor of a PI0: prompts as PI0 was pretrained with, and arrays to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from hf_ptr.errors import InputError
from hf_ptr.policies.vla.processing_vla import VLAProcessor

# Tokens of a prompt, as in PI0's own processor.
LONGEST = 48


class PI0TextProcessor(VLAProcessor):
    """
    Writes PI0's prompts; pictures are scaled and normalised in the policy, on its device.

    The processor of transformers wants torchvision, which this one does not. What it saves is PI0's tokenizer.

    Args:
        tokenizer: of the PI0.
    """

    @classmethod
    def from_tokenizer(cls, place: str) -> PI0TextProcessor:
        """With the tokenizer that lies in a folder or on the Hub."""
        try:
            return cls(AutoTokenizer.from_pretrained(place))
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"{place} has no tokenizer ({error}); save that of the PI0 beside it") from error

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """`instruction_ids` int64 and `instruction_mask` bool, both `(B, K)`, K at most 48."""
        bos = self.tokenizer.bos_token or ""
        encoded = self.tokenizer(
            [f"{bos}{text}\n" for text in instructions],
            add_special_tokens=False,
            padding="longest",
            padding_side="right",
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        )
        return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"].bool()}

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Saves the tokenizer."""
        self.tokenizer.save_pretrained(save_directory)
