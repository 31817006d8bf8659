"""PTRConfig: TrainingArguments and the method's own settings."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from transformers import TrainingArguments

from hf_ptr.errors import InputError
from hf_ptr.ptr.candidate_pool import HARD_NEGATIVES
from hf_ptr.scoring.config import ScoreConfig, parse_settings
from hf_ptr.training.launch_checks import check_launch

SCORINGS = ("paper", "calibrated")
ARGUMENTS_FILE = "training_args.json"


@dataclass
class PTRConfig(TrainingArguments):
    r"""
    Settings of a [`PTRTrainer`]: every field of [`~transformers.TrainingArguments`], and those of the method, with
    the paper's defaults (PTR Table 6).

    The three arms are settings alone: SFT is `alpha=0, belief_tokens=0`, SFT+Belief is `alpha=0`, PTR is the default.

    > Parameters of the weight (PTR Sec. 5)

    scoring (`str`): `"paper"`, the published score, or `"calibrated"`: before the first step, light scorers are fitted
        on the dataset, and the weights stay as they give them (`docs/calibrated.md`). Of what follows it uses α,
        `w_min` and `w_max`; it trains no scorer beside the policy, and needs no warm-up.
    score_settings (`list[str]`): constants of the calibrated score as `key=value`, for example `rounds=1`
        (`hf_ptr.scoring.config.ScoreConfig`).
    alpha (`float`): α in [0, 1], how much of the weight is applied; 0 is plain supervised post-training.
    beta (`float`): β_0, the temperature of `exp(T/β)`.
    w_min (`float`), w_max (`float`): the clip of `exp(T/β)`.
    nce_warmup_steps (`int`): optimiser steps during which every weight is 1.
    discount (`float`): γ of `γ^{Δ'}` on L_id; Δ' is the sample's offset Δ over the chunk length.
    discount_weight (`bool`): also pulls the weight towards 1 by `γ^{Δ'}`.

    > Parameters of the identification (PTR Sec. 4)

    use_scorer (`bool`, *optional*): trains the scorer; by default where `alpha > 0` and `scoring="paper"`. True with
        `alpha=0` is the paper's α = 0 ablation.
    scorer_temperature (`float`): τ_0 of the logits.
    logit_clamp (`float`): bound of the logits.
    lambda_id (`float`), lambda_rank (`float`): weights of L_id and L_rank in the objective.
    detach_scorer (`bool`): stop the gradients of L_id, L_rank and L_tok before the policy.
    queue_size (`int`): targets in the FIFO queue.
    queue_negatives (`int`): how many of them are drawn per sample at most.
    cross_rank_negatives (`bool`): gather the targets of all ranks.
    hard_negatives (`str`): what counts as similar: `"task"` or `"state"`. The hard ratio is a share of the draws from
        the queue; the minibatch is always used whole.
    target_decay (`float`): μ of the target encoder; 1 freezes it.

    > Parameters of the belief tokenizer (PTR Sec. 3)

    belief_tokens (`int`): M; 0 for a policy without belief tokens.
    belief_temperature (`float`): τ_tok.
    belief_entropy_weight (`float`): λ_ent.
    belief_diversity_weight (`float`): λ_div.

    > Parameters of the controller (PTR Sec. 7)

    adaptive_scale (`bool`): adapt τ, β and the hard-negative ratio at logging steps.
    controller_decay (`float`): of its moving averages.

    > Defaults that differ from TrainingArguments: `learning_rate` 1e-4, `weight_decay` 0.01, `lr_scheduler_type`
    > `"cosine"`, `warmup_steps` 2000, `max_steps` 60000, `per_device_train_batch_size` 128, `logging_steps` 50,
    > `save_steps` 1000, `save_total_limit` 2, `remove_unused_columns` False (the collator feeds scorer-side inputs
    > that the policy does not name), `logging_nan_inf_filter` False (it waits for the device at every step and hides
    > the sample at fault).
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=2000, metadata={"help": "Warm-up steps of the learning rate."})
    max_steps: int = field(default=60_000, metadata={"help": "Optimiser steps."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Chunks per device and step."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Chunks per device when evaluating."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs, and controller updates."})
    save_steps: float = field(default=1000, metadata={"help": "Steps between two checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False: see the class."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Keep False: see the class."})

    scoring: str = field(default="paper", metadata={"help": "Which score: paper or calibrated."})
    score_settings: list[str] = field(
        default_factory=list, metadata={"help": "Constants of the calibrated score as key=value, see ScoreConfig."}
    )
    alpha: float = field(default=1.0, metadata={"help": "Strength of the weight, PTR Eq. (21); 0 is plain SFT."})
    beta: float = field(default=1.5, metadata={"help": "Initial scale of the weight, PTR Eq. (21)."})
    w_min: float = field(default=0.25, metadata={"help": "Lower clip of the weight."})
    w_max: float = field(default=4.0, metadata={"help": "Upper clip of the weight."})
    nce_warmup_steps: int = field(default=3000, metadata={"help": "Steps with every weight at 1."})
    discount: float = field(default=1.0, metadata={"help": "Discount of L_id by the normalised offset."})
    discount_weight: bool = field(default=False, metadata={"help": "Discount the weight as well."})
    use_scorer: bool | None = field(
        default=None, metadata={"help": "Train the scorer; by default where weights need it."}
    )
    scorer_temperature: float = field(default=0.12, metadata={"help": "Initial temperature of the logits."})
    logit_clamp: float = field(default=20.0, metadata={"help": "Bound of the logits."})
    lambda_id: float = field(default=0.05, metadata={"help": "Weight of the identification loss."})
    lambda_rank: float = field(default=0.25, metadata={"help": "Weight of the action ranking loss."})
    detach_scorer: bool = field(
        default=False, metadata={"help": "Stop the gradients of the auxiliary losses before the policy."}
    )
    queue_size: int = field(default=1024, metadata={"help": "Targets in the FIFO queue."})
    queue_negatives: int = field(default=64, metadata={"help": "Queue negatives per sample at most."})
    cross_rank_negatives: bool = field(default=True, metadata={"help": "Negatives from all ranks."})
    hard_negatives: str = field(default="task", metadata={"help": "What counts as similar: task or state."})
    target_decay: float = field(default=0.999, metadata={"help": "EMA decay of the target encoder."})
    belief_tokens: int = field(default=4, metadata={"help": "Belief tokens; 0 for none."})
    belief_temperature: float = field(default=1.0, metadata={"help": "Temperature of the slot assignment."})
    belief_entropy_weight: float = field(default=1e-3, metadata={"help": "Weight of the slot entropy."})
    belief_diversity_weight: float = field(default=1e-3, metadata={"help": "Weight of the slot diversity."})
    adaptive_scale: bool = field(default=True, metadata={"help": "Adapt temperature, beta and hard ratio."})
    controller_decay: float = field(default=0.98, metadata={"help": "Decay of the controller's averages."})

    def __post_init__(self) -> None:
        # First: the base class starts the process group.
        check_launch(vars(self), os.environ)
        super().__post_init__()
        # Pinned memory serves the copy to an accelerator; without one PyTorch warns at every loader.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"
        _require_range("alpha", self.alpha, 0.0, 1.0)
        _require_range("discount", self.discount, 1e-6, 1.0)
        _require_range("target_decay", self.target_decay, 0.0, 1.0)
        _require_range("controller_decay", self.controller_decay, 0.0, 1.0)
        _require_range("w_min", self.w_min, 0.0, 1.0)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must lie in [0, 2**32)")
        if self.max_steps == 0:
            raise ValueError("max_steps is 0; it must be at least 1, or -1 to count epochs instead")
        for name in ("beta", "scorer_temperature", "logit_clamp", "belief_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        counts = ("nce_warmup_steps", "queue_size", "queue_negatives", "belief_tokens")
        for name in (*counts, "lambda_id", "lambda_rank", "learning_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.w_max < 1.0:
            raise ValueError(f"w_max is {self.w_max}; the neutral weight 1 must lie in [w_min, w_max]")
        self.score_config()
        for name, known in (("scoring", SCORINGS), ("hard_negatives", HARD_NEGATIVES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.scoring == "calibrated" and self.use_scorer:
            raise ValueError("use_scorer is true and scoring calibrated, which has scorers of its own; leave it out")
        if self.alpha > 0 and self.scoring == "paper" and self.use_scorer is False:
            raise ValueError(f"use_scorer is false and alpha is {self.alpha}: weights need a scorer; set alpha to 0")

    @classmethod
    def from_run(cls, folder: str | os.PathLike) -> PTRConfig:
        """The method's settings of a finished run; everything else at its default.

        Raises:
            InputError: when the folder holds no run.
        """
        file = Path(folder) / ARGUMENTS_FILE
        try:
            saved = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} holds no training run ({error}); pass the output_dir of a run") from error
        own = {item.name for item in fields(cls)} - {item.name for item in fields(TrainingArguments)}
        return cls(output_dir=str(folder), **{name: saved[name] for name in own & set(saved)})

    def score_config(self) -> ScoreConfig:
        """
        The configuration of the label-free score in this run.

        Raises:
            InputError: `score_settings` has an unknown constant, or a value out of range.
        """
        given = {"w_min": self.w_min, "w_max": self.w_max, "seed": self.seed}
        return ScoreConfig(**{**given, **parse_settings(self.score_settings)})

    @property
    def with_scorer(self) -> bool:
        """Whether this run has a scorer (and target encoder)."""
        return self.alpha > 0 and self.scoring == "paper" if self.use_scorer is None else self.use_scorer

    @property
    def calibrates(self) -> bool:
        """Whether this run fits calibrated weights before it trains."""
        return self.alpha > 0 and self.scoring == "calibrated"


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must lie in [{low:g}, {high:g}]")
