"""The processor of a LeRobot policy: instructions to tokens as LeRobot makes them, and arrays to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import TokenizerProcessorStep

from hf_ptr.errors import InputError
from hf_ptr.policies.lerobot.state_prompt import with_words
from hf_ptr.policies.vla.processing_vla import as_inputs


class LeRobotProcessor:
    """
    Encodes instructions. Pictures and vectors are normalised in the adapter, on the policy's device.

    Args:
        tokenize: the step of LeRobot's preprocessor that tokenises; None for a policy that reads no instructions.
        reads_state: whether the prompt goes on with the state, as that of π0.5.
    """

    def __init__(self, tokenize: Any, reads_state: bool = False):
        self.tokenize = tokenize
        self.reads_state = reads_state

    @classmethod
    def from_policy(cls, place: str) -> LeRobotProcessor:
        """Of the policy in a folder or on the Hub; raises as [`from_config`]."""
        return cls.from_config(PreTrainedConfig.from_pretrained(place))

    @classmethod
    def from_config(cls, config: Any) -> LeRobotProcessor:
        """
        Of a policy of LeRobot's configuration.

        Raises:
            InputError: its tokenizer is not to be had.
        """
        try:
            steps = make_pre_post_processors(config)[0].steps
        except (OSError, ValueError) as error:
            raise InputError(f"the tokenizer of this {config.type} of LeRobot cannot be loaded: {error}") from error
        found = [step for step in steps if isinstance(step, TokenizerProcessorStep)]
        return cls(found[0] if found else None, reads_state=config.type == "pi05")

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """
        `instruction_ids` int64 and `instruction_mask` bool, both `(B, K)`; K is 1 where none are read. With the state
        in the prompt they end in the words that it is written with, see [`with_words`].
        """
        if self.tokenize is None:
            ids = torch.zeros(len(instructions), 1, dtype=torch.long)
            return {"instruction_ids": ids, "instruction_mask": torch.ones_like(ids, dtype=torch.bool)}
        if self.reads_state:
            return with_words(self.tokenize.input_tokenizer, instructions, self.tokenize.max_length)
        encoded = self.tokenize.input_tokenizer(
            [text if text.endswith("\n") else f"{text}\n" for text in instructions],
            max_length=self.tokenize.max_length,
            truncation=True,
            padding="longest",
            padding_side="right",
            return_tensors="pt",
        )
        return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"].bool()}

    def __call__(
        self,
        instructions: str | Sequence[str],
        observation: np.ndarray | torch.Tensor,
        state: np.ndarray | torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """As [`VLAProcessor`]."""
        instructions = [instructions] if isinstance(instructions, str) else instructions
        return {**as_inputs(observation, state), **self.encode_instructions(instructions)}

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Nothing: LeRobot's processors are written with the policy, which has the statistics in them."""
