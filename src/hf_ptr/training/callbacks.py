"""What the trainer does at moments that `Trainer` opens to callbacks only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_ptr.training.weight_histograms import forget_histograms_after


class Steps(TrainerCallback):
    """
    At the beginning of a run and after each of its steps.

    Args:
        trainer: the [`PTRTrainer`] whose they are.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_loss_since_log()
        if state.is_world_process_zero:
            forget_histograms_after(Path(str(args.output_dir)), state.global_step)
        if args.world_size > 1 and state.global_step == 0:
            # Trainer gives all ranks one seed; the noise of a rank's samples must be its own.
            torch.manual_seed(args.seed + args.process_index)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.update_target()
        trainer = self.trainer
        trainer.stopped_by = trainer.ranks.largest(trainer.stop_signals.received)
        if trainer.stopped_by:
            control.should_save = control.should_training_stop = True
