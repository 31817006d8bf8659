"""PTRConfig: TrainingArguments with the settings of the method."""

from __future__ import annotations

import json
import os
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_ptr.detection.harm import require_harm
from hf_ptr.errors import InputError
from hf_ptr.ptr.candidate_pool import HARD_NEGATIVES, RATIO_OF
from hf_ptr.scoring.config import ScoreConfig, parse_settings
from hf_ptr.training.launch_checks import check_launch, require_one_run
from hf_ptr.training.time_constants import SCHEDULES, TimeConstants, scaled_steps
from hf_ptr.training.trainer_settings import check_settings, default_settings

# The scores, each with its least weight; that of the paper is in PTR Table 6.
LEAST_WEIGHTS = {"paper": 0.25, "calibrated": ScoreConfig.w_min}
SCORINGS = tuple(LEAST_WEIGHTS)
ARGUMENTS_FILE = "training_args.json"


def default_of(item: Field, scoring: str) -> Any:
    """The default of a field of [`PTRConfig`] with a scoring."""
    return LEAST_WEIGHTS[scoring] if item.name == "w_min" else item.default


@dataclass
class PTRConfig(TrainingArguments):
    r"""
    Settings of a [`PTRTrainer`]: every field of [`~transformers.TrainingArguments`], and the fields of the method with
    the defaults of the paper (PTR Table 6).

    The arms of the paper differ in settings only: SFT is `alpha=0, belief_tokens=0`, SFT+Belief is `alpha=0`, PTR is
    the default.

    > Parameters of the weight (PTR Sec. 5)

    scoring (`str`): `"paper"` for the published score, which is computed in every step; `"calibrated"` for weights
        that are fitted on the dataset before the first step and stay constant (`docs/calibrated.md`). Calibrated
        weights use `alpha`, `w_min` and `w_max` of the fields below; they need neither scorer nor warm-up.
    score_settings (`list[str]`): constants of the calibrated score as `key=value`, for example `rounds=1`
        (`hf_ptr.scoring.config.ScoreConfig`).
    harm (`dict[str, float]`): the harm of checks in [0, 1], by name, where it is not that of
        `hf_ptr.detection.harm`: 1 lowers the weight of a chunk with such a finding to `w_min`, 0 leaves it as it is.
    alpha (`float`): α in [0, 1], the strength of the weight; 0 is plain supervised post-training.
    beta (`float`): β_0, initial temperature of `exp(T/β)`.
    w_min (`float`, *optional*), w_max (`float`): lower and upper clip of `exp(T/β)`. By default `w_min` is 0.25, or
        0.02 if the weights are calibrated.
    nce_warmup_steps (`int`): optimiser steps during which every weight is 1.
    missing_target_weight (`str`): weight of a chunk without a target, at the end of an episode: `"one"`, or `"mean"`,
        the mean of the step's chunks with a target. Where most weights are `w_max`, 1 is a quarter of them. `"mean"`
        is refused with `scoring="calibrated"`.
    loss_unit (`str`): what the action loss is a (weighted) mean over: `"chunk"` counts each chunk once, so the last
        steps of an episode, which share their chunks with few others, count several times; `"step"` counts each valid
        step of a chunk once. The weights of the paper's score and of a dataset multiply either.
    discount (`float`): γ of the factor `γ^{Δ'}` of L_id; Δ' is the offset Δ of the sample divided by the chunk length.
    discount_weight (`bool`): whether `γ^{Δ'}` also moves the weight towards 1.

    > Parameters of the identification (PTR Sec. 4)

    use_scorer (`bool`, *optional*): whether to train the scorer; by default if `alpha > 0` and `scoring="paper"`. True
        with `alpha=0` is the paper's α = 0 ablation.
    scorer_temperature (`float`): τ_0, initial temperature of the logits.
    logit_clamp (`float`): bound of the logits.
    lambda_id (`float`), lambda_rank (`float`): weights of L_id and L_rank in the objective.
    detach_scorer (`bool`): whether to stop the gradients of L_id, L_rank and L_tok before the policy.
    queue_size (`int`): number of targets in the FIFO queue.
    queue_negatives (`int`): maximum number of negatives drawn from the queue per sample.
    cross_rank_negatives (`bool`): whether the targets of all ranks are negatives.
    hard_negatives (`str`): similarity of hard negatives: `"task"`, the labelled instruction, which a wrong label
        inverts; or `"state"`, the nearest proprioceptive states.
    hard_negatives_among (`str`): what the hard-negative ratio is a share of: `"queue"`, the draws from the queue, with
        all of the minibatch in addition (at batch 256 and a ratio of 0.5, a tenth of all negatives are hard ones); or
        `"all"`, all negatives, see [`CandidatePool`].
    target_decay (`float`): μ, EMA decay of the target encoder; 1 freezes it.

    > Parameters of the belief tokenizer (PTR Sec. 3)

    belief_tokens (`int`): M, number of belief tokens; 0 for a policy without them.
    belief_dropout (`float`): probability in [0, 1] of giving a chunk `z_init` in place of its predecessor's tokens in
        training. 1 keeps the order of segments and carries nothing, nor does the trained policy. Above 0 it is refused
        without belief tokens.
    belief_temperature (`float`): τ_tok, temperature of the slot assignment.
    belief_entropy_weight (`float`): λ_ent, weight of the slot entropy.
    belief_diversity_weight (`float`): λ_div, weight of the slot diversity.

    > Parameters of the controller (PTR Sec. 7)

    adaptive_scale (`bool`): whether to adapt τ, β and the hard-negative ratio.
    controller_steps (`int`): optimiser steps between two updates of the controller, each from the means over these
        steps. What is logged has no influence.
    controller_decay (`float`): decay of the moving averages of the controller.

    > Parameters of the schedule

    schedule (`str`): `"published"` takes every constant as it is; `"scaled"` reads those in optimiser steps as
        constants of a run of 60,000 steps, and scales them to `max_steps`: `target_decay`, `controller_steps` (with
        its decay and factors), `nce_warmup_steps` and `warmup_steps`; a `warmup_steps` below 1 is a share of the steps
        and stays one. See [`TimeConstants`].

    > Defaults that differ from TrainingArguments: `learning_rate` 1e-4, `weight_decay` 0.01, `lr_scheduler_type`
    > `"cosine"`, `warmup_steps` 2000, `max_steps` 60000, `per_device_train_batch_size` 128, `logging_steps` 50,
    > `save_steps` 1000, `save_total_limit` 2, `remove_unused_columns` False (batches contain inputs of the scorer that
    > the policy's `forward` does not name), `logging_nan_inf_filter` False (it waits for the device in every step and
    > hides non-finite losses).
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=2000, metadata={"help": "Warm-up steps of the learning rate."})
    max_steps: int = field(default=60_000, metadata={"help": "Number of optimiser steps; -1 counts epochs instead."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Chunks per device in a micro-batch."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Chunks per device in evaluation."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs."})
    save_steps: float = field(default=1000, metadata={"help": "Steps between two checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints to keep."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Keep false: the scorer needs these columns."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Keep false: it hides non-finite losses."})

    scoring: str = field(default="paper", metadata={"help": "Score of the weights: paper or calibrated."})
    score_settings: list[str] = field(
        default_factory=list, metadata={"help": "Constants of the calibrated score as key=value; see ScoreConfig."}
    )
    harm: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Harm of checks in [0, 1] by name, for example {action/noise: 0.5}."}
    )
    alpha: float = field(
        default=1.0, metadata={"help": "Strength of the weight in [0, 1], PTR Eq. (21); 0 is plain SFT."}
    )
    beta: float = field(default=1.5, metadata={"help": "Initial temperature of the weight, PTR Eq. (21)."})
    w_min: float | None = field(
        default=None, metadata={"help": "Lower clip of the weight, in [0, 1]; default 0.25, or 0.02 if calibrated."}
    )
    w_max: float = field(default=4.0, metadata={"help": "Upper clip of the weight, at least 1."})
    nce_warmup_steps: int = field(default=3000, metadata={"help": "Optimiser steps during which every weight is 1."})
    missing_target_weight: str = field(
        default="one", metadata={"help": "Weight of chunks without a target: one, or mean of the others in the step."}
    )
    loss_unit: str = field(
        default="chunk", metadata={"help": "What the action loss is a mean over: chunk or (valid) step."}
    )
    discount: float = field(
        default=1.0, metadata={"help": "Discount γ of the identification loss by the target offset."}
    )
    discount_weight: bool = field(default=False, metadata={"help": "Also discount the weight towards 1."})
    use_scorer: bool | None = field(
        default=None, metadata={"help": "Train the scorer; default: if the weights need it."}
    )
    scorer_temperature: float = field(default=0.12, metadata={"help": "Initial temperature of the scorer's logits."})
    logit_clamp: float = field(default=20.0, metadata={"help": "Bound of the scorer's logits."})
    lambda_id: float = field(default=0.05, metadata={"help": "Weight of the identification loss."})
    lambda_rank: float = field(default=0.25, metadata={"help": "Weight of the action ranking loss."})
    detach_scorer: bool = field(
        default=False, metadata={"help": "Stop the gradients of the auxiliary losses before the policy."}
    )
    queue_size: int = field(default=1024, metadata={"help": "Number of targets in the FIFO queue."})
    queue_negatives: int = field(
        default=64, metadata={"help": "Maximum number of negatives from the queue per sample."}
    )
    cross_rank_negatives: bool = field(default=True, metadata={"help": "Use the targets of all ranks as negatives."})
    hard_negatives: str = field(default="task", metadata={"help": "Similarity of hard negatives: task or state."})
    hard_negatives_among: str = field(
        default="queue",
        metadata={"help": "What the hard-negative ratio is a share of: queue (draws) or all negatives."},
    )
    target_decay: float = field(default=0.999, metadata={"help": "EMA decay of the target encoder; 1 freezes it."})
    belief_tokens: int = field(default=4, metadata={"help": "Number of belief tokens; 0 for none."})
    belief_dropout: float = field(
        default=0.0, metadata={"help": "Probability of resetting a chunk's belief tokens in training."}
    )
    belief_temperature: float = field(default=1.0, metadata={"help": "Temperature of the slot assignment."})
    belief_entropy_weight: float = field(default=1e-3, metadata={"help": "Weight of the slot entropy in the loss."})
    belief_diversity_weight: float = field(
        default=1e-3, metadata={"help": "Weight of the slot diversity in the loss."}
    )
    adaptive_scale: bool = field(
        default=True, metadata={"help": "Adapt temperature, beta and hard-negative ratio during training."}
    )
    controller_steps: int = field(
        default=50, metadata={"help": "Optimiser steps between two updates for this adaptation."}
    )
    controller_decay: float = field(
        default=0.98, metadata={"help": "Decay of the moving averages for this adaptation."}
    )
    schedule: str = field(
        default="published",
        metadata={"help": "Constants in steps: published, or scaled from 60,000 steps to max_steps."},
    )

    def __post_init__(self) -> None:
        # Before the base class, which starts the process group, and derives settings from each other.
        check_settings(vars(self), default_settings(type(self)))
        check_launch(vars(self), os.environ)
        super().__post_init__()
        require_one_run(self.world_size, os.environ)
        # Pinned memory speeds up copies to an accelerator; without one, PyTorch warns in every data loader.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"
        _require_range("alpha", self.alpha, 0.0, 1.0)
        _require_range("discount", self.discount, 1e-6, 1.0)
        _require_range("target_decay", self.target_decay, 0.0, 1.0)
        _require_range("controller_decay", self.controller_decay, 0.0, 1.0)
        _require_range("belief_dropout", self.belief_dropout, 0.0, 1.0)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must lie in [0, 2**32)")
        if self.max_steps == 0:
            raise ValueError("max_steps is 0; it must be at least 1, or -1 to count epochs instead")
        if self.max_steps < 0 and not self.num_train_epochs > 0:
            raise ValueError(
                f"max_steps is {self.max_steps} and num_train_epochs is {self.num_train_epochs:g}, which make 0 "
                "steps; set one of them above 0"
            )
        for name in ("beta", "scorer_temperature", "logit_clamp", "belief_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        counts = ("nce_warmup_steps", "queue_size", "queue_negatives", "belief_tokens")
        for name in (*counts, "lambda_id", "lambda_rank", "learning_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not isinstance(self.controller_steps, int) or self.controller_steps < 1:
            raise ValueError(f"controller_steps is {self.controller_steps}; it must be an integer of at least 1")
        if self.w_max < 1.0:
            raise ValueError(f"w_max is {self.w_max}; it must be at least 1, the neutral weight")
        choices = {
            "scoring": SCORINGS,
            "hard_negatives": HARD_NEGATIVES,
            "hard_negatives_among": RATIO_OF,
            "schedule": SCHEDULES,
            "missing_target_weight": ("one", "mean"),
            "loss_unit": ("chunk", "step"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.schedule == "scaled" and self.max_steps < 0:
            raise ValueError("schedule is scaled, which needs the number of steps; set max_steps instead of epochs")
        self.w_min, _ = self.weight_clip
        _require_range("w_min", self.w_min, 0.0, 1.0)
        self.score_config()
        self.harm = require_harm(self.harm, "harm")
        if self.scoring == "calibrated" and self.use_scorer:
            raise ValueError("use_scorer is true, but scoring calibrated fits its own scorers; remove use_scorer")
        if self.scoring == "calibrated" and self.missing_target_weight == "mean":
            raise ValueError(
                "missing_target_weight is mean, but scoring calibrated has weights that no step changes; remove "
                "missing_target_weight"
            )
        if self.belief_dropout > 0 and not self.belief_tokens:
            raise ValueError(
                f"belief_dropout is {self.belief_dropout}, but belief_tokens is 0, so there are no tokens to reset; "
                "remove belief_dropout"
            )
        if self.alpha > 0 and self.scoring == "paper" and self.use_scorer is False:
            raise ValueError(
                f"use_scorer is false, but alpha {self.alpha} needs the scorer for its weights; set alpha to 0"
            )

    @classmethod
    def from_run(cls, folder: str | os.PathLike) -> PTRConfig:
        """The settings of the method in a finished run; all other fields have their defaults.

        Raises:
            InputError: the folder does not contain a run.
        """
        file = Path(folder) / ARGUMENTS_FILE
        try:
            saved = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} does not contain a training run ({error}); pass the output_dir of a run"
            ) from error
        own = {item.name for item in fields(cls)} - {item.name for item in fields(TrainingArguments)}
        return cls(output_dir=str(folder), **{name: saved[name] for name in own & set(saved)})

    def score_config(self) -> ScoreConfig:
        """
        The configuration of the label-free score in this run.

        Raises:
            InputError: `score_settings` has an unknown constant, a value out of range, or one of these three fields.
        """
        elsewhere = {name: f"the key {name} instead of score_settings" for name in ("w_min", "w_max", "seed")}
        settings = parse_settings(self.score_settings, elsewhere)
        w_min, w_max = self.weight_clip
        return ScoreConfig(w_min=w_min, w_max=w_max, seed=self.seed, **settings)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As TrainingArguments': the warm-up of the learning rate in steps, scaled by `schedule`."""
        steps = int(super().get_warmup_steps(num_training_steps))
        return scaled_steps(steps, self.max_steps) if self.schedule == "scaled" and self.warmup_steps >= 1 else steps

    @property
    def time_constants(self) -> TimeConstants:
        """The constants in optimiser steps that this run uses, by its `schedule`."""
        return TimeConstants.of(
            self.schedule,
            self.max_steps,
            target_decay=self.target_decay,
            nce_warmup_steps=self.nce_warmup_steps,
            controller_steps=self.controller_steps,
        )

    @property
    def with_scorer(self) -> bool:
        """Whether this run has a scorer (and target encoder)."""
        return self.alpha > 0 and self.scoring == "paper" if self.use_scorer is None else self.use_scorer

    @property
    def weight_clip(self) -> tuple[float, float]:
        """`w_min` and `w_max`."""
        return LEAST_WEIGHTS[self.scoring] if self.w_min is None else self.w_min, self.w_max

    @property
    def calibrates(self) -> bool:
        """Whether this run fits calibrated weights before it trains."""
        return self.alpha > 0 and self.scoring == "calibrated"


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must lie in [{low:g}, {high:g}]")
