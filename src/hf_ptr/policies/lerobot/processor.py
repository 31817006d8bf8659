"""Processor of LeRobot policies: instructions to LeRobot's tokens, π0.5's prompt with the state in words, tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import TokenizerProcessorStep

from hf_ptr.errors import InputError
from hf_ptr.policies.vla.processing_vla import as_inputs

# π0.5's bins of each normalised state dimension: 256 in [-1, 1], and one below.
STATE_BINS = 257
# Maximal number of tokens for the word of a bin, and for the end of the prompt.
WORD_TOKENS = 8
PROMPT_END = ";\nAction: "


class LeRobotProcessor:
    """
    Tokenises instructions. Images and vectors are normalised in the adapter, on the policy's device.

    Args:
        tokenize: the tokenizer step of LeRobot's preprocessor; None for a policy without instructions.
        state_in_prompt: whether the prompt contains the state, as for π0.5.
    """

    def __init__(self, tokenize: Any, state_in_prompt: bool = False):
        self.tokenize = tokenize
        self.state_in_prompt = state_in_prompt

    @classmethod
    def from_policy(cls, source: str) -> LeRobotProcessor:
        """For a policy in a folder or Hub repo; raises as [`from_config`]."""
        return cls.from_config(PreTrainedConfig.from_pretrained(source))

    @classmethod
    def from_config(cls, config: Any) -> LeRobotProcessor:
        """
        For a LeRobot configuration.

        Raises:
            InputError: the tokenizer cannot be loaded.
        """
        try:
            steps = make_pre_post_processors(config)[0].steps
        except (OSError, ValueError) as error:
            raise InputError(f"the tokenizer of this {config.type} of LeRobot cannot be loaded: {error}") from error
        found = [step for step in steps if isinstance(step, TokenizerProcessorStep)]
        return cls(found[0] if found else None, state_in_prompt=config.type == "pi05")

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """
        `instruction_ids` int64 and `instruction_mask` bool, both `(B, K)`; K is 1 for a policy without instructions.
        With the state in the prompt they end in the words for the state, see [`with_state_words`].
        """
        if self.tokenize is None:
            ids = torch.zeros(len(instructions), 1, dtype=torch.long)
            return {"instruction_ids": ids, "instruction_mask": torch.ones_like(ids, dtype=torch.bool)}
        if self.state_in_prompt:
            return with_state_words(self.tokenize.input_tokenizer, instructions, self.tokenize.max_length)
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
        """Does nothing: the adapter saves LeRobot's processors with the policy's statistics in them."""


def with_state_words(tokenizer: Any, instructions: Sequence[str], max_length: int) -> dict[str, torch.Tensor]:
    r"""
    π0.5's prompt `Task: …, State: 12 255 …;\nAction: ` in two parts: the tokens up to the state, then the words of all
    257 bin numbers and of the end. The adapter assembles each sample's prompt by [`state_prompt`], since only the
    policy knows how the state is normalised.

    Returns:
        `instruction_ids` int64 and `instruction_mask` bool, both `(B, K + 258·8)`.

    Raises:
        InputError: the tokenizer encodes a number differently after another number.
    """
    heads = [f"Task: {_cleaned(text)}, State:" for text in instructions]
    encoded = tokenizer(heads, max_length=max_length, truncation=True, padding="longest", padding_side="right")
    text, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"]).bool()
    words = _state_words(tokenizer)
    table = torch.zeros(len(words), WORD_TOKENS, dtype=torch.long)
    known = torch.zeros(len(words), WORD_TOKENS, dtype=torch.bool)
    for row, word in enumerate(words):
        table[row, : len(word)], known[row, : len(word)] = torch.tensor(word), True
    rows = len(instructions)
    return {
        "instruction_ids": torch.cat((text, table.flatten().expand(rows, -1)), dim=1),
        "instruction_mask": torch.cat((mask, known.flatten().expand(rows, -1)), dim=1),
    }


def state_prompt(ids: torch.Tensor, mask: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The token ids of each sample's prompt and their mask, `(N, K + 8·ds + 8)`.

    Args:
        ids, mask: from [`with_state_words`].
        state: `(N, ds)`, normalised.
    """
    edges = torch.linspace(-1, 1, STATE_BINS, dtype=torch.float64, device=state.device)[:-1]
    number = torch.bucketize(state.double(), edges, right=True)
    table_size = (STATE_BINS + 1) * WORD_TOKENS
    parts = []
    for values in (ids, mask):
        head, words = values[:, :-table_size], values[:, -table_size:].unflatten(1, (STATE_BINS + 1, WORD_TOKENS))
        chosen = words.gather(1, number[..., None].expand(-1, -1, WORD_TOKENS)).flatten(1)
        parts.append(torch.cat((head, chosen, words[:, -1]), dim=1))
    return parts[0], parts[1]


def _cleaned(text: str) -> str:
    return text.strip().replace("_", " ").replace("\n", " ")


def _state_words(tokenizer: Any) -> list[list[int]]:
    """The tokens of ` -1`, ` 0` … ` 255` and of the end, as they appear inside a prompt."""
    numbers = [f" {number}" for number in range(-1, STATE_BINS - 1)]
    head = "Task: x, State:"
    before, first, last, *encoded = tokenizer(
        [head, f"{head} 0", f"{head} 0{PROMPT_END}", *(head + word for word in numbers)]
    )["input_ids"]
    words = [tokens[len(before) :] for tokens in encoded] + [last[len(first) :]]
    sample = [0, 1, 10, 100, 256, 128]
    whole = tokenizer([head + "".join(numbers[row] for row in sample) + PROMPT_END])["input_ids"][0]
    joined = before + [token for row in (*sample, -1) for token in words[row]]
    if whole != joined or max(map(len, words)) > WORD_TOKENS:
        raise InputError(
            "π0.5 writes the state into its prompt, and its tokenizer encodes a number differently after another one; "
            "use the tokenizer of PaliGemma, as LeRobot does"
        )
    return words
