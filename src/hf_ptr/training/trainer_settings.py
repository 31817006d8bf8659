"""
The settings of `TrainingArguments`, by whether a run reads them. A setting that is read by nothing here, and set
nevertheless, is refused: the run would differ from the one that its recipe describes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from transformers import TrainingArguments

from hf_ptr.errors import InputError

# Settings that a run follows. Those of `launch_checks` are among them: some of their values are refused there.
_READ_NAMES = (
    "output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type",
    "lr_scheduler_kwargs warmup_steps warmup_ratio optim optim_args optim_target_modules weight_decay adam_beta1",
    "adam_beta2 adam_epsilon gradient_accumulation_steps max_grad_norm bf16 fp16 tf32 activation_checkpointing",
    "activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile",
    "torch_compile_backend torch_compile_mode torch_empty_cache_steps auto_find_batch_size",
    "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter logging_dir log_level",
    "log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id",
    "trackio_static_space_id skip_memory_metrics debug eval_strategy eval_steps eval_delay",
    "per_device_eval_batch_size eval_on_start prediction_loss_only save_strategy save_steps save_total_limit",
    "save_only_model load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip",
    "restore_callback_states_from_checkpoint resume_from_checkpoint push_to_hub hub_token hub_private_repo",
    "hub_model_id hub_strategy hub_always_push hub_revision full_determinism seed data_seed use_cpu",
    "accelerator_config parallelism_config local_rank dataloader_drop_last dataloader_num_workers",
    "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor",
    "dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy ddp_find_unused_parameters",
    "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed",
    "do_train do_eval",
)
READ = frozenset(name for line in _READ_NAMES for name in line.split())

_METRICS = "an evaluation computes eval_loss alone, from no labels and without gathered predictions"
_LIGER = "Liger's kernels replace parts of language models; no policy here has one for them"
# Settings that change nothing here, or something else than they say, each with the reason.
REFUSED = {
    "label_smoothing_factor": "the action loss has no labels to smooth",
    "average_tokens_across_devices": "the loss is always divided by the sums over all devices",
    "bf16_full_eval": "it would leave the policy itself in 16 bits; use bf16",
    "fp16_full_eval": "it would leave the policy itself in 16 bits; use bf16",
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "use_cache": "the policy generates nothing in training",
    "neftune_noise_alpha": "it adds noise to word embeddings, which the policy does not train on",
    "include_num_input_tokens_seen": "chunks have no tokens to count",
    "eval_do_concat_batches": _METRICS,
    "eval_use_gather_object": _METRICS,
    "eval_accumulation_steps": _METRICS,
    "include_for_metrics": _METRICS,
    "batch_eval_metrics": _METRICS,
    "label_names": _METRICS,
    "save_on_each_node": "a checkpoint is one folder, which all nodes share",
    "enable_jit_checkpoint": "a run saves a checkpoint on SIGTERM without it",
    "remove_unused_columns": "the scorer needs columns that the policy does not name",
    "length_column_name": "chunks have one length",
    "do_predict": "a recipe trains; use hf-ptr evaluate",
}
# Values without an effect of settings that are not refused as such.
REFUSED_VALUES = {("train_sampling_strategy", "group_by_length"): "chunks have one length"}
# A metric of an evaluation; `Trainer` looks for others only at the first checkpoint.
BEST_METRIC = re.compile(r"(eval_(.+_)?)?loss")


def check_settings(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """
    Refuses settings of `TrainingArguments` that a run would not follow.

    Args:
        given: settings by name, as the user gave them: before `TrainingArguments` derives some from others.
        defaults: their default values; see [`default_settings`].

    Raises:
        InputError: such a setting differs from its default; the message has the reason of each.
    """
    found = {
        name: reason for name, reason in REFUSED.items() if name in given and not _same(given[name], defaults[name])
    }
    for (name, value), reason in REFUSED_VALUES.items():
        if str(getattr(given.get(name), "value", given.get(name))) == value:
            found[name] = reason
    best = given.get("metric_for_best_model")
    if best is not None and not BEST_METRIC.fullmatch(str(best)):
        found["metric_for_best_model"] = "the metric of an evaluation is eval_loss, or eval_NAME_loss of a named one"
    if found:
        listed = "; ".join(f"{name} {given[name]} ({reason})" for name, reason in found.items())
        raise InputError(f"not read in this training: {listed}; remove {'it' if len(found) == 1 else 'them'}")


def default_settings(arguments: type[TrainingArguments]) -> dict[str, Any]:
    """The default of every setting of a class of training arguments."""
    return {item.name: _default(item) for item in fields(arguments)}


def _default(item: Field) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default


def _same(value: Any, default: Any) -> bool:
    """Whether a setting has its default; transformers spells some of them in several ways: False, None, "no", []."""
    if value in ("no", "false", "False"):
        value = False
    if default in ("no", "false", "False"):
        default = False
    return value == default or (not value and not default)
