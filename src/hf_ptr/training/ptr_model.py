"""PTRModel: policy, scorer, belief tokenizer and target encoder as one module (PTR Sec. 3, 4 and 8)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder
from hf_ptr.policies.adapters import adapter_of, new_model
from hf_ptr.policies.contract import require_loss_per_sample
from hf_ptr.policies.loading import load_trainable_model
from hf_ptr.policies.lora import is_adapted
from hf_ptr.ptr import (
    BELIEF_FOLDER,
    BeliefTokenizer,
    BeliefTokenizerConfig,
    TargetEncoder,
    TransitionScorer,
    TransitionScorerConfig,
)
from hf_ptr.utils.components import ComponentConfig, load_exactly, register_component
from hf_ptr.utils.safetensors_io import tensors_under

CONFIG_FOLDER = "ptr"
SCORER_FOLDER = "scorer"
TARGET_FILE = "target_encoder/model.safetensors"


@strict
class PTRModelConfig(ComponentConfig):
    r"""
    Configuration of a [`PTRModel`]. A component whose configuration is None does not exist.

    Args:
        policy_config (`dict`, *optional*): configuration of the policy, with its `model_type`; None for a policy that
            is not a transformers model.
        scorer_config (`dict`, *optional*): configuration of the scorer; the target encoder exists with it.
        belief_config (`dict`, *optional*): configuration of the belief tokenizer.
        target_decay (`float`, defaults to 0.999): `μ` of the target encoder.
        detach_scorer (`bool`, defaults to `False`): stop the gradients of L_id, L_rank and L_tok before the policy,
            which is then trained by the weighted regression alone. False is the paper's joint objective.
        target_offset (`int`, defaults to 16): Δ in frames in training, needed for scoring.
        segment_chunks (`int`, defaults to 4): chunks per segment in training, needed for scoring.
    """

    model_type = "ptr"

    policy_config: Any = None
    scorer_config: Any = None
    belief_config: Any = None
    target_decay: float = 0.999
    detach_scorer: bool = False
    target_offset: int = 16
    segment_chunks: int = 4

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if isinstance(self.policy_config, dict):
            values = dict(self.policy_config)
            self.policy_config = AutoConfig.for_model(values.pop("model_type"), **values)
        if isinstance(self.scorer_config, dict):
            self.scorer_config = TransitionScorerConfig(**self.scorer_config)
        if isinstance(self.belief_config, dict):
            self.belief_config = BeliefTokenizerConfig(**self.belief_config)


@dataclass
class PTROutput(ModelOutput):
    """
    Outputs of one forward pass over N chunks. M is the number of belief tokens, D a width.

    Args:
        action_loss: `(N,)`, `ℓ_act`; None in a pass for scoring only.
        query: `(N, D)` unit norm, `u = f(h, e)`; None without a scorer.
        permuted_query: `(N, D)`, `f(h, ẽ)` with another sample's action features; None without a scorer.
        target: `(N, D)` unit norm, `y⁺`, no gradient; None without a scorer or `next_observation`.
        belief_tokens: `(N, M, D)`, the tokens for each chunk's successor, no gradient; None without belief tokens.
        belief_loss: scalar `L_tok`.
        belief_entropy: scalar `H_tok`, no gradient.
        weight: `(N,)`, no gradient; set by the trainer, as `losses`.
        losses: the parts of the loss by name (`action`, `id`, `rank`, `tok`), each with its factor λ.
    """

    action_loss: torch.Tensor | None = None
    query: torch.Tensor | None = None
    permuted_query: torch.Tensor | None = None
    target: torch.Tensor | None = None
    belief_tokens: torch.Tensor | None = None
    belief_loss: torch.Tensor | None = None
    belief_entropy: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None


class PTRModel(PreTrainedModel):
    """
    Policy, scorer, belief tokenizer and target encoder as one module. Its `forward` uses every trained parameter of a
    step, as distributed wrappers need; candidates, weights and losses are computed from its outputs.

    A saved folder holds the policy at its root, loadable without PTR, and the other components in sub-folders.
    """

    config: PTRModelConfig
    config_class = PTRModelConfig
    base_model_prefix = "ptr"
    main_input_name = "observation"

    def __init__(self, config: PTRModelConfig, policy: Any | None = None):
        super().__init__(config)
        self.set_policy(new_model(config.policy_config) if policy is None else policy)
        self.scorer = None if config.scorer_config is None else TransitionScorer(config.scorer_config)
        self.belief_tokenizer = None if config.belief_config is None else BeliefTokenizer(config.belief_config)
        self.target_encoder = (
            None if self.scorer is None else TargetEncoder(self.adapter.observation_tower(), decay=config.target_decay)
        )
        self._attach_belief()

    @property
    def adapter(self) -> Any:
        """The object that implements [`PostTrainable`]: the policy itself, or an adapter around it."""
        return self._adapter[0]

    def set_policy(self, policy: Any) -> None:
        """Replaces the policy, for example by the same one with a LoRA adapter."""
        # Any: the contract is structural, and no transformers class declares it.
        self.policy: Any = policy
        # In a tuple, so that the policy is not registered as a submodule twice.
        self._adapter = (adapter_of(policy),)

    def set_carried(self, carried: bool) -> None:
        """Sets whether chunks read the belief tokens of earlier ones from now on, see [`BeliefTokenizerConfig`]."""
        if self.belief_tokenizer is not None:
            self.belief_tokenizer.config.carried = carried
            self._attach_belief()

    def _attach_belief(self) -> None:
        if hasattr(self.adapter, "attach_belief"):
            self.adapter.attach_belief(self.belief_tokenizer)

    def forward(
        self,
        observation: torch.Tensor,
        state: torch.Tensor,
        instruction_ids: torch.Tensor,
        instruction_mask: torch.Tensor,
        actions: torch.Tensor,
        action_mask: torch.Tensor,
        action_dim_mask: torch.Tensor | None = None,
        state_dim_mask: torch.Tensor | None = None,
        next_observation: torch.Tensor | None = None,
        carried_tokens: torch.Tensor | None = None,
        carried: torch.Tensor | None = None,
        scoring_only: bool = False,
    ) -> PTROutput:
        """
        One pass over N chunks.

        Args:
            observation, state, instruction_ids, instruction_mask: inputs of the policy, see [`PostTrainable`].
            actions, action_mask, action_dim_mask, state_dim_mask: the chunks, see [`PostTrainable`].
            next_observation: raw, `o_{t+Δ}`, like `observation`; read by the target encoder only.
            carried_tokens: `(N, M, D)`, belief tokens of each chunk's predecessor, see [`BeliefCarry`].
            carried: `(N,)` bool, the rows that use them; the other rows begin a segment with `z_init`.
            scoring_only: return queries and target only, if the policy has `scoring_features`.
        """
        batch = {
            "observation": observation,
            "state": state,
            "instruction_ids": instruction_ids,
            "instruction_mask": instruction_mask,
            "actions": actions,
            "action_mask": action_mask,
        }
        masks = {"action_dim_mask": action_dim_mask, "state_dim_mask": state_dim_mask}
        batch.update({name: mask for name, mask in masks.items() if mask is not None})
        belief_tokens = self._belief_tokens(len(observation), carried_tokens, carried)
        if scoring_only and hasattr(self.adapter, "scoring_features"):
            found = self.adapter.scoring_features(batch, belief_tokens)
            if found is not None:
                context, features = found
                return self._scored(PTROutput(), context, features, next_observation)
        # `forward`, not a call: an adapter is a plain object around the module.
        policy = self.adapter.forward(batch, belief_tokens, for_scoring=self.scorer is not None)
        require_loss_per_sample(policy.action_loss, len(observation), self.policy)
        output = PTROutput(action_loss=policy.action_loss)
        if self.belief_tokenizer is not None:
            hidden_states, embeddings = self._auxiliary(policy.hidden_states, policy.action_embeddings)
            belief = self.belief_tokenizer(hidden_states, embeddings, reconstruct=False)
            # PTR Eq. (5): no gradient through time.
            output.belief_tokens = belief.tokens.detach()
            output.belief_loss, output.belief_entropy = belief.loss, belief.entropy.detach()
        if self.scorer is not None:
            return self._scored(output, policy.context, policy.action_features, next_observation)
        return output

    def _scored(
        self, output: PTROutput, context: torch.Tensor, features: torch.Tensor, next_observation: torch.Tensor | None
    ) -> PTROutput:
        """The output with its queries and, for an observation, its target."""
        assert self.scorer is not None and self.target_encoder is not None
        output.query, output.permuted_query = self.scorer.with_permuted(*self._auxiliary(context, features))
        if next_observation is not None:
            output.target = self.target_encoder(next_observation)
        return output

    def _belief_tokens(
        self, rows: int, carried_tokens: torch.Tensor | None, carried: torch.Tensor | None
    ) -> torch.Tensor | None:
        """`z_t` of PTR Eq. (3): the predecessor's tokens, or `z_init` at the start of a segment."""
        if self.belief_tokenizer is None:
            return None
        initial = self.belief_tokenizer.initial_tokens(rows)
        if carried_tokens is None or carried is None:
            return initial
        return torch.where(carried[:, None, None], carried_tokens, initial)

    def _auxiliary(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Inputs of scorer and tokenizer, detached if `detach_scorer`."""
        return tuple(tensor.detach() for tensor in tensors) if self.config.detach_scorer else tensors

    @torch.no_grad()
    def update_target(self) -> None:
        """One EMA step of the target encoder; call it after every optimiser step."""
        if self.target_encoder is not None:
            self.target_encoder.update(self.adapter.observation_tower())

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """
        As [`PreTrainedModel.activation_checkpointing_enable`], for the backbones of the policy that support it. Always
        non-reentrant: the re-entrant form fails for parameters that a micro-batch does not use. The target encoder
        keeps no activations.

        Raises:
            InputError: no backbone supports it.
        """
        if hasattr(self.adapter, "checkpointable"):
            parts = self.adapter.checkpointable()
        else:
            inner = [part for part in self.policy.modules() if isinstance(part, PreTrainedModel)]
            parts = [part for part in inner if part is not self.policy]
        able = [part for part in parts if part.supports_gradient_checkpointing]
        if not able:
            raise InputError(
                f"activation_checkpointing: no part of {type(self.policy).__name__} supports it; leave it out"
            )
        for part in able:
            # Older versions of transformers have it under the other name only.
            enable = getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)
            enable({**(activation_checkpointing_kwargs or {}), "use_reentrant": False}, **kwargs)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """[`~PTRModel.activation_checkpointing_enable`], by the name that older versions of transformers call."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def get_input_embeddings(self) -> None:
        """None: FSDP2 calls this to shard word embeddings separately, and this is not a language model."""
        return None

    # ---- on disk ----

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the policy at the root and the other components in sub-folders, as safetensors only."""
        if not kwargs.get("is_main_process", True):
            return
        folder = Path(save_directory)
        state = kwargs.pop("state_dict", None) or self.state_dict()
        card = folder / "README.md"
        before = card.read_bytes() if card.is_file() else None
        self.policy.save_pretrained(folder, state_dict=tensors_under(state, "policy."), **kwargs)
        if is_adapted(self.policy):
            # peft overwrites the model card with an empty template.
            card.unlink(missing_ok=True)
            if before is not None:
                card.write_bytes(before)
        if hasattr(self.adapter, "save_extra_files"):
            self.adapter.save_extra_files(folder, adapted=is_adapted(self.policy))
        if self.belief_tokenizer is not None:
            belief = tensors_under(state, "belief_tokenizer.")
            self.belief_tokenizer.save_pretrained(folder / BELIEF_FOLDER, state_dict=belief, **kwargs)
        if self.scorer is not None:
            self.scorer.save_pretrained(folder / SCORER_FOLDER, state_dict=tensors_under(state, "scorer."), **kwargs)
            target = folder / TARGET_FILE
            target.parent.mkdir(exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in tensors_under(state, "target_encoder.").items()}
            save_file(tensors, target, metadata={"format": "pt"})
        # Last: saving a component completes its configuration, which is part of this one.
        config = PTRModelConfig(**{**self.config.to_dict(), "policy_config": None})
        config.save_pretrained(folder / CONFIG_FOLDER)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PTRModel:
        """
        Loads a model saved by [`~PTRModel.save_pretrained`], from a folder or Hub repo.

        Raises:
            InputError: there are no PTR components, or they are damaged (see [`Component`]).
        """
        # One snapshot for all components.
        revision = kwargs.pop("revision", None)
        named = str(pretrained_model_name_or_path)
        folder = str(model_folder(named if revision is None else f"{named}@{revision}"))
        try:
            config = PTRModelConfig.from_pretrained(folder, subfolder=CONFIG_FOLDER, **kwargs)
        except OSError as error:
            raise InputError(
                f"{folder} holds no PTR parts ({CONFIG_FOLDER}/config.json is missing); "
                "load a plain policy with AutoModel.from_pretrained."
            ) from error
        policy = load_trainable_model(folder, **kwargs)
        config.policy_config = _config_of(policy)
        model = cls(config, policy=policy)
        if model.belief_tokenizer is not None:
            model.belief_tokenizer = BeliefTokenizer.from_pretrained(f"{folder}/{BELIEF_FOLDER}", **kwargs)
            model._attach_belief()
        if model.scorer is not None:
            model.scorer = TransitionScorer.from_pretrained(f"{folder}/{SCORER_FOLDER}", **kwargs)
            assert model.target_encoder is not None
            target = load_file(str(cached_file(folder, TARGET_FILE, **kwargs)))
            load_exactly(model.target_encoder, target, f"{folder}/{TARGET_FILE}")
        return model


def build_ptr_model(
    policy: Any,
    *,
    with_scorer: bool,
    belief_tokens: int,
    target_decay: float = 0.999,
    belief_temperature: float = 1.0,
    belief_entropy_weight: float = 1e-3,
    belief_diversity_weight: float = 1e-3,
    belief_carried: bool = True,
    detach_scorer: bool = False,
) -> PTRModel:
    """
    A [`PTRModel`] around a policy, with new PTR components sized to it.

    Args:
        policy: the policy to post-train.
        with_scorer: False for runs without scorer and target encoder (SFT, SFT with belief tokens).
        belief_tokens: `M`; 0 for none.
        target_decay, detach_scorer: see [`PTRModelConfig`].
        belief_temperature, belief_entropy_weight, belief_diversity_weight, belief_carried: see
            [`BeliefTokenizerConfig`].
    """
    sizes = adapter_of(policy).feature_sizes()
    scorer = TransitionScorerConfig(
        context_size=sizes.context, action_size=sizes.action, embedding_size=sizes.observation
    )
    belief = None
    if belief_tokens:
        belief = BeliefTokenizerConfig(
            hidden_size=sizes.context,
            feature_size=sizes.action,
            num_tokens=belief_tokens,
            temperature=belief_temperature,
            entropy_weight=belief_entropy_weight,
            diversity_weight=belief_diversity_weight,
            carried=belief_carried,
        )
    config = PTRModelConfig(
        policy_config=_config_of(policy),
        scorer_config=scorer if with_scorer else None,
        belief_config=belief,
        target_decay=target_decay,
        detach_scorer=detach_scorer,
    )
    return PTRModel(config, policy=policy)


def _config_of(policy: Any) -> PreTrainedConfig | None:
    """None for a policy that is not a transformers model: its configuration cannot be nested in a transformers one."""
    return policy.config if isinstance(policy.config, PreTrainedConfig) else None


def has_ptr_parts(source: str) -> bool:
    """Whether a folder or Hub repo holds a saved [`PTRModel`], not only a policy."""
    return cached_file(source, f"{CONFIG_FOLDER}/config.json", _raise_exceptions_for_missing_entries=False) is not None


register_component(PTRModelConfig, PTRModel)
