"""The processor of the native policy: instructions and arrays to the policy's tensors."""

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
        tokenizer: of the policy's text encoder, or an [`instruction_tokenizer`] where instructions have learned
            embeddings.
    """

    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer)

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """
        `instruction_ids` int64 and `instruction_mask` bool, both `(B, K)`; K is 1 with learned embeddings.

        Raises:
            InputError: for an instruction without a learned embedding.
        """
        if self.tokenizer.unk_token == UNKNOWN:
            return self._whole_instructions(instructions)
        padding = "longest" if self.tokenizer.pad_token is not None else False
        encoded = self.tokenizer(list(instructions), padding=padding, return_tensors="pt")
        return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"].bool()}

    def known_instructions(self) -> dict[str, int]:
        """The instructions with a learned embedding, and the id of each, in the order of the ids."""
        # From the vocabulary itself: a tokenizer makes no token of an empty instruction, which datasets do hold.
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
        `instructions` of length B, `observation (B, do)` and `state (B, ds)` in raw units, to policy inputs; one
        instruction, `(do,)` and `(ds,)` are a batch of one. Of C cameras, `observation` is `(B, C, height, width, 3)`
        uint8 RGB, or that of one.
        """
        instructions = [instructions] if isinstance(instructions, str) else instructions
        return {**as_inputs(observation, state), **self.encode_instructions(instructions)}


def as_inputs(observation: np.ndarray | torch.Tensor, state: np.ndarray | torch.Tensor) -> dict[str, torch.Tensor]:
    """Observations and states, of a batch or one of them, as the tensors that policies take."""
    seen, now = torch.as_tensor(observation), torch.as_tensor(state, dtype=torch.float32)
    if seen.dtype != torch.uint8:
        seen = torch.atleast_2d(seen.float())
    elif seen.dim() == 4:
        seen = seen[None]
    return {"observation": seen, "state": torch.atleast_2d(now)}


def instruction_tokenizer(instructions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are whole instructions: number n of `instructions` becomes the one id n + 1."""
    vocabulary = {UNKNOWN: 0} | {text: number for number, text in enumerate(instructions, start=1)}
    model = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token=UNKNOWN)
