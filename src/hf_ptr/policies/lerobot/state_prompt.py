"""The prompt of π0.5, which goes on with the state in words: `Task: …, State: 12 255 …;\\nAction: `."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hf_ptr.errors import InputError

# Bins of each normalised state dimension in [-1, 1], and one for what lies below.
BINS = 257
# Tokens that each of them, and the end of the prompt, may have.
WORD = 8
END = ";\nAction: "


def with_words(tokenizer: Any, instructions: Sequence[str], most: int) -> dict[str, torch.Tensor]:
    """
    `instruction_ids` int64 and `instruction_mask` bool, both `(B, K + 258·8)`: the prompt up to the state, then the
    words of all numbers and that of the end. Which of them a sample needs, its state says, in the policy.

    Raises:
        InputError: a tokenizer that writes a number differently after another one.
    """
    heads = [f"Task: {_cleaned(text)}, State:" for text in instructions]
    encoded = tokenizer(heads, max_length=most, truncation=True, padding="longest", padding_side="right")
    text, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"]).bool()
    words = _words(tokenizer)
    table, known = torch.zeros(len(words), WORD, dtype=torch.long), torch.zeros(len(words), WORD, dtype=torch.bool)
    for row, word in enumerate(words):
        table[row, : len(word)], known[row, : len(word)] = torch.tensor(word), True
    rows = len(instructions)
    return {
        "instruction_ids": torch.cat((text, table.flatten().expand(rows, -1)), dim=1),
        "instruction_mask": torch.cat((mask, known.flatten().expand(rows, -1)), dim=1),
    }


def prompt_of(ids: torch.Tensor, mask: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The tokens of each sample's prompt and which of them count, `(N, K + 8·ds + 8)`.

    Args:
        ids, mask: as [`with_words`] gives them.
        state: `(N, ds)`, normalised.
    """
    edges = torch.linspace(-1, 1, BINS, dtype=torch.float64, device=state.device)[:-1]
    number = torch.bucketize(state.double(), edges, right=True)
    parts = []
    for given in (ids, mask):
        head, words = given[:, : -(BINS + 1) * WORD], given[:, -(BINS + 1) * WORD :].unflatten(1, (BINS + 1, WORD))
        told = words.gather(1, number[..., None].expand(-1, -1, WORD)).flatten(1)
        parts.append(torch.cat((head, told, words[:, -1]), dim=1))
    return parts[0], parts[1]


def _cleaned(text: str) -> str:
    return text.strip().replace("_", " ").replace("\n", " ")


def _words(tokenizer: Any) -> list[list[int]]:
    """The tokens of ` -1`, ` 0` … ` 255` and of the end, as they stand in a prompt."""
    numbers = [f" {number}" for number in range(-1, BINS - 1)]
    head = "Task: x, State:"
    before, first, last, *told = tokenizer([head, f"{head} 0", f"{head} 0{END}", *(head + word for word in numbers)])[
        "input_ids"
    ]
    words = [tokens[len(before) :] for tokens in told] + [last[len(first) :]]
    sample = [0, 1, 10, 100, 256, 128]
    whole = tokenizer([head + "".join(numbers[row] for row in sample) + END])["input_ids"][0]
    joined = before + [token for row in (*sample, -1) for token in words[row]]
    if whole != joined or max(map(len, words)) > WORD:
        raise InputError(
            "π0.5 writes the state into its prompt, and its tokenizer writes a number differently after another one; "
            "use the tokenizer of PaliGemma, as LeRobot does"
        )
    return words
