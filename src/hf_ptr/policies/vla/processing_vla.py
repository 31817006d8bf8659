"""Processor of the native policy: instructions and arrays to input tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from hf_ptr.errors import InputError, nearest

UNKNOWN = "<unknown>"


class VLAProcessor(ProcessorMixin):
    """
    Turns instructions into ids, and arrays into tensors.

    Args:
        tokenizer: the tokenizer of the policy's text encoder, or an [`instruction_tokenizer`] for a policy with
            learned instruction embeddings.
    """

    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer)

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """
        `instruction_ids` int64 and `instruction_mask` bool, both `(B, K)`; K is 1 with learned embeddings.

        Raises:
            InputError: an instruction has no learned embedding.
        """
        if self.tokenizer.unk_token == UNKNOWN:
            return self._whole_instructions(instructions)
        padding = "longest" if self.tokenizer.pad_token is not None else False
        encoded = self.tokenizer(list(instructions), padding=padding, return_tensors="pt")
        return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"].bool()}

    def known_instructions(self) -> dict[str, int]:
        """The instructions with a learned embedding and their ids, in the order of the ids."""
        # From the vocabulary: a tokenizer makes no token for an empty instruction, which occurs in datasets.
        known = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return {text: number for text, number in known if text != UNKNOWN}

    def _whole_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        vocabulary = self.known_instructions()
        for text in instructions:
            if text not in vocabulary:
                raise InputError(
                    f"the policy has no embedding for the instruction {text!r}.{nearest(text, vocabulary)} "
                    f"It knows {len(vocabulary)}, such as {next(iter(vocabulary), '')!r}; train it with yours, or use "
                    "a policy with a text encoder."
                )
        ids = torch.tensor([[vocabulary[text]] for text in instructions])
        return {"instruction_ids": ids, "instruction_mask": torch.ones_like(ids, dtype=torch.bool)}

    def __call__(
        self,
        instructions: str | Sequence[str],
        observation: np.ndarray | torch.Tensor,
        state: np.ndarray | torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Policy inputs for acting, in raw units.

        Args:
            instructions: B instructions, or one.
            observation: `(B, do)`, or `(B, C, height, width, 3)` uint8 RGB for C cameras. The batch dimension may be
                left out for a batch of one.
            state: `(B, ds)`, or `(ds,)`.
        """
        instructions = [instructions] if isinstance(instructions, str) else instructions
        return {**as_inputs(observation, state), **self.encode_instructions(instructions)}


def as_inputs(observation: np.ndarray | torch.Tensor, state: np.ndarray | torch.Tensor) -> dict[str, torch.Tensor]:
    """Observations and states, with or without the batch dimension, as policy inputs."""
    observed, proprioception = torch.as_tensor(observation), torch.as_tensor(state, dtype=torch.float32)
    if observed.dtype != torch.uint8:
        observed = torch.atleast_2d(observed.float())
    elif observed.dim() == 4:
        observed = observed[None]
    return {"observation": observed, "state": torch.atleast_2d(proprioception)}


def instruction_tokenizer(instructions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are whole instructions: `instructions[n]` has the single id n + 1."""
    vocabulary = {UNKNOWN: 0} | {text: number for number, text in enumerate(instructions, start=1)}
    model = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token=UNKNOWN)
