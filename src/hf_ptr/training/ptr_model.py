"""PTRModel: the policy and every PTR part in the one module that is trained (PTR Sec. 3, 4 and 8)."""

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

CONFIG_FOLDER = "ptr"
SCORER_FOLDER = "scorer"
TARGET_FILE = "target_encoder/model.safetensors"


@strict
class PTRModelConfig(ComponentConfig):
    r"""
    Configuration of a [`PTRModel`]: the parts it is made of. A part that is None does not exist.

    Args:
        policy_config (`dict`, *optional*): configuration of the policy, with its `model_type`; None for one that is
            none of transformers'.
        scorer_config (`dict`, *optional*): configuration of the scorer; with it comes the target encoder.
        belief_config (`dict`, *optional*): configuration of the belief tokenizer.
        target_decay (`float`, defaults to 0.999): `μ` of the target encoder.
        detach_scorer (`bool`, defaults to `False`): stop the gradients of L_id, L_rank and L_tok before the policy,
            which is then trained by the weighted regression alone. False is the paper's joint objective.
        target_offset (`int`, defaults to 16): Δ in frames that the scorer was trained on, for scoring later.
        segment_chunks (`int`, defaults to 4): chunks of a segment that the belief tokens were trained on.
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
    One pass over N chunks. Constants (targets) carry no gradient.

    Args:
        action_loss: `(N,)`, `ℓ_act`.
        query: `(N, D)` unit norm, `u = f(h, e)`; None without a scorer, as all that follow but the belief figures.
        permuted_query: `(N, D)`, `f(h, ẽ)` with the action features of another sample of the minibatch.
        target: `(N, D)` unit norm, `y⁺`.
        belief_tokens: `(N, M, D)`, what the chunks leave to their successors; None without belief tokens.
        belief_loss: scalar `L_tok`.
        belief_entropy: scalar `H_tok`, no gradient.
    """

    action_loss: torch.Tensor | None = None
    query: torch.Tensor | None = None
    permuted_query: torch.Tensor | None = None
    target: torch.Tensor | None = None
    belief_tokens: torch.Tensor | None = None
    belief_loss: torch.Tensor | None = None
    belief_entropy: torch.Tensor | None = None


class PTRModel(PreTrainedModel):
    """
    Policy, scorer, belief tokenizer and target encoder as one module, whose `forward` does all parameter-using
    compute of a training step. What only uses its outputs (pool, weights, losses) is in [`PTRObjective`].

    A saved directory holds the policy at its root and the other parts in sub-folders.
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
        """What keeps the contract [`PostTrainable`] for the policy: the policy itself, or an adapter around it."""
        return self._adapter[0]

    def set_policy(self, policy: Any) -> None:
        """Takes another policy, as one under LoRA in place of the bare one."""
        # Any: what is called is the contract, which no class of transformers declares.
        self.policy: Any = policy
        # In a tuple, so that it is no module a second time.
        self._adapter = (adapter_of(policy),)

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
    ) -> PTROutput:
        """
        One pass over N chunks.

        Args:
            observation, state, instruction_ids, instruction_mask, actions, action_mask, action_dim_mask,
                state_dim_mask: as the policy takes them; the last only where it takes it.
            next_observation: `(N, do)` raw, `o_{t+Δ}`; read by the target encoder alone.
            carried_tokens: `(N, M, D)`, belief tokens left by each chunk's predecessor, see [`BeliefCarry`].
            carried: `(N,)` bool, which of them to use; the others begin a segment with `z_init`.
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
        # Not a call: an adapter is a plain object around the module.
        policy = self.adapter.forward(batch, belief_tokens, for_scoring=self.scorer is not None)
        require_loss_per_sample(policy.action_loss, len(observation), self.policy)
        output = PTROutput(action_loss=policy.action_loss)
        if self.belief_tokenizer is not None:
            read = self._auxiliary(policy.hidden_states, policy.action_embeddings)
            belief = self.belief_tokenizer(*read, reconstruct=False)
            # PTR Eq. (5): no gradient through time.
            output.belief_tokens = belief.tokens.detach()
            output.belief_loss, output.belief_entropy = belief.loss, belief.entropy.detach()
        if self.scorer is not None:
            context, features = self._auxiliary(policy.context, policy.action_features)
            output.query, output.permuted_query = self.scorer.with_permuted(context, features)
            if next_observation is not None:
                assert self.target_encoder is not None
                output.target = self.target_encoder(next_observation)
        return output

    def _belief_tokens(
        self, rows: int, carried_tokens: torch.Tensor | None, carried: torch.Tensor | None
    ) -> torch.Tensor | None:
        """`z_t` of PTR Eq. (3): what the predecessor left, or `z_init` at the start of a segment."""
        if self.belief_tokenizer is None:
            return None
        initial = self.belief_tokenizer.initial_tokens(rows)
        if carried_tokens is None or carried is None:
            return initial
        return torch.where(carried[:, None, None], carried_tokens, initial)

    def _auxiliary(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Inputs of the scorer and the tokenizer: detached where their losses are not to shape the policy."""
        return tuple(tensor.detach() for tensor in tensors) if self.config.detach_scorer else tensors

    @torch.no_grad()
    def update_target(self) -> None:
        """One EMA step of the target encoder, after an optimiser step."""
        if self.target_encoder is not None:
            self.target_encoder.update(self.adapter.observation_tower())

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """
        As of [`PreTrainedModel`], on the backbones of the policy that support it, and without re-entrance, which does
        not go with parameters that a micro-batch leaves out. The target encoder keeps no activations anyway.

        Raises:
            InputError: when none does.
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
            part.activation_checkpointing_enable(
                {**(activation_checkpointing_kwargs or {}), "use_reentrant": False}, **kwargs
            )

    def get_input_embeddings(self) -> None:
        """None: the module is no language model. FSDP2 asks, to shard word embeddings by themselves."""
        return None

    # ---- on disk ----

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes the policy at the root and the PTR parts in sub-folders, safetensors only."""
        if not kwargs.get("is_main_process", True):
            return
        folder = Path(save_directory)
        state = kwargs.pop("state_dict", None) or self.state_dict()
        card = folder / "README.md"
        before = card.read_bytes() if card.is_file() else None
        self.policy.save_pretrained(folder, state_dict=tensors_under(state, "policy."), **kwargs)
        if is_adapted(self.policy):
            # peft writes a card of its own, a form to be filled in, over what stands there.
            card.unlink(missing_ok=True)
            if before is not None:
                card.write_bytes(before)
        if hasattr(self.adapter, "save_extra_files"):
            self.adapter.save_extra_files(folder, adapted=is_adapted(self.policy))
        config = PTRModelConfig(**{**self.config.to_dict(), "policy_config": None})
        config.save_pretrained(folder / CONFIG_FOLDER)
        if self.belief_tokenizer is not None:
            belief = tensors_under(state, "belief_tokenizer.")
            self.belief_tokenizer.save_pretrained(folder / BELIEF_FOLDER, state_dict=belief, **kwargs)
        if self.scorer is not None:
            self.scorer.save_pretrained(folder / SCORER_FOLDER, state_dict=tensors_under(state, "scorer."), **kwargs)
            target = folder / TARGET_FILE
            target.parent.mkdir(exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in tensors_under(state, "target_encoder.").items()}
            save_file(tensors, target, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> PTRModel:
        """
        Loads what [`~PTRModel.save_pretrained`] wrote, from a folder or a Hub id.

        Raises:
            InputError: when the place holds no PTR parts, or they are damaged (see [`Component`]).
        """
        # One snapshot for all the parts.
        revision = kwargs.pop("revision", None)
        named = str(pretrained_model_name_or_path)
        place = str(model_folder(named if revision is None else f"{named}@{revision}"))
        try:
            config = PTRModelConfig.from_pretrained(place, subfolder=CONFIG_FOLDER, **kwargs)
        except OSError as error:
            raise InputError(
                f"{place} holds no PTR parts ({CONFIG_FOLDER}/config.json is missing); "
                "load a plain policy with AutoModel.from_pretrained."
            ) from error
        policy = load_trainable_model(place, **kwargs)
        config.policy_config = _config_of(policy)
        model = cls(config, policy=policy)
        if model.belief_tokenizer is not None:
            model.belief_tokenizer = BeliefTokenizer.from_pretrained(f"{place}/{BELIEF_FOLDER}", **kwargs)
            model._attach_belief()
        if model.scorer is not None:
            model.scorer = TransitionScorer.from_pretrained(f"{place}/{SCORER_FOLDER}", **kwargs)
            assert model.target_encoder is not None
            target = load_file(str(cached_file(place, TARGET_FILE, **kwargs)))
            load_exactly(model.target_encoder, target, f"{place}/{TARGET_FILE}")
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
    detach_scorer: bool = False,
) -> PTRModel:
    """
    A [`PTRModel`] around a policy, with new PTR parts sized to it.

    Args:
        policy: what is post-trained.
        with_scorer: False for the SFT and SFT+Belief arms, which have neither scorer nor target encoder.
        belief_tokens: `M`; 0 for none.
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
    """None for a policy that is none of transformers', whose configuration is no part of one of transformers'."""
    return policy.config if isinstance(policy.config, PreTrainedConfig) else None


def has_ptr_parts(place: str) -> bool:
    """Whether a folder or Hub id holds what [`~PTRModel.save_pretrained`] wrote."""
    return cached_file(place, f"{CONFIG_FOLDER}/config.json", _raise_exceptions_for_missing_entries=False) is not None


def tensors_under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The entries of a state whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


register_component(PTRModelConfig, PTRModel)
