"""The weights that a run trains with, in a line."""

from __future__ import annotations

from typing import Any

import torch

from hf_ptr.training.calibrated_weights import parts_to_fit
from hf_ptr.training.ptr_trainer import PTRTrainer
from hf_ptr.utils.listing import listed

# A chunk counts as lowered below this share of the highest weight.
LOWERED = 0.5
# From this share of the highest weight on, weights count as equal.
EQUAL = 0.99
# Score files that are named.
MOST_FILES = 4


def weights_in_words(trainer: PTRTrainer, file: str | None = None) -> str:
    """
    Says where the weights come from and how many chunks they lower.

    Args:
        trainer: the trainer, ready to train.
        file: the score file of the recipe; None without one.
    """
    args = trainer.args
    # The trainer of transformers allows datasets of other types.
    chunks: Any = trainer.train_dataset
    given: torch.Tensor | None = getattr(chunks, "weights", None)
    if given is None:
        if args.alpha > 0:
            warm_up = args.time_constants.nce_warmup_steps
            return f"Weights: PTR's score, computed in training; 1 for the first {warm_up:,} steps."
        return "Weights: equal, as in plain training."
    source = "those of the sources" if file is None else file
    if args.calibrates:
        files = [f"{args.output_dir}/{name}" for name in parts_to_fit(chunks)]
        source = f"fitted on these episodes, {listed(files, MOST_FILES)}"
    high = float(given.max())
    share = float((given < LOWERED * high).float().mean())
    effect = f"{share:.1%} of the {len(given):,} chunks have less than half of the highest weight, {high:.3g}"
    if float(given.min()) >= EQUAL * high:
        effect = f"all {len(given):,} chunks have nearly the same weight, as in plain training"
    return f"Weights: {source}; {effect}."
