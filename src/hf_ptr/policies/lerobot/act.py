"""The adapter of LeRobot's ACT: its own forward pass, with a loss of each sample and belief tokens in the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import nn

from hf_ptr.policies.averages import masked_loss, masked_mean
from hf_ptr.policies.contract import Embedded, FeatureSizes, PolicyOutput
from hf_ptr.policies.lerobot.convolutional import ConvolutionalAdapter


class ACTAdapter(ConvolutionalAdapter):
    """
    Keeps the contract for ACT.

    Belief tokens are further tokens of the transformer encoder, whose mean output is the context `h_t`. ACT embeds no
    actions that it predicts; the channel tokens are the actions through the weights of its last layer, read backwards.
    The loss is LeRobot's, of each sample: absolute error, and in training the divergence of the latent.
    """

    model_class = ACTPolicy

    def backbones(self) -> list[nn.Module]:
        """One, for all cameras."""
        return [self.model.model.backbone]

    def feature_sizes(self) -> FeatureSizes:
        """The transformer's width twice, and that of the vision features of all cameras."""
        width = self.model.config.dim_model
        return FeatureSizes(width, width, self.vision_size())

    def embed(
        self,
        observation: torch.Tensor,
        state: torch.Tensor,
        instruction_ids: torch.Tensor,
        instruction_mask: torch.Tensor,
        actions: torch.Tensor,
        action_mask: torch.Tensor,
        action_dim_mask: torch.Tensor | None = None,
        for_scoring: bool = False,
    ) -> Embedded:
        """Normalised actions and their tokens; ACT reads no instruction. Arguments as of [`VLAPolicy.embed`]."""
        clean, mask = self.normalized_actions(actions, action_mask, action_dim_mask)
        tokens = self._channel(clean)
        embedded = {
            "observation": observation,
            "state": state,
            "actions": clean,
            "action_mask": action_mask,
            "loss_mask": mask,
            "action_embeddings": tokens,
        }
        if for_scoring:
            embedded["action_features"] = masked_mean(tokens, action_mask)
        return embedded

    def step(self, embedded: Embedded, belief_tokens: torch.Tensor | None = None) -> PolicyOutput:
        """ACT's pass; `ℓ_act` over valid steps and the robot's dimensions."""
        batch = self._batch(embedded["observation"], embedded["state"])
        batch.update({ACTION: embedded["actions"], "action_is_pad": ~embedded["action_mask"]})
        with self._with_belief(belief_tokens) as tapped:
            predicted, (mean, log_variance) = self.model.model(batch)
        loss = masked_loss((predicted - embedded["actions"]).abs(), embedded["loss_mask"])
        if log_variance is not None:
            divergence = (-0.5 * (1 + log_variance - mean.square() - log_variance.exp())).sum(dim=-1)
            loss = loss + self.model.config.kl_weight * divergence
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=tapped["context"],
            action_features=embedded.get("action_features"),
            hidden_states=tapped["hidden"],
            action_embeddings=embedded["action_embeddings"],
        )

    # ---- acting ----

    @torch.no_grad()
    def predict_action_chunk(
        self,
        observation: torch.Tensor,
        state: torch.Tensor,
        instruction_ids: torch.Tensor,
        instruction_mask: torch.Tensor,
        action_dim_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw units; nothing in it is drawn, so the generator is not used."""
        with self._with_belief(self._recalled(len(state))) as tapped:
            chunk = self.model.model(self._batch(observation, state))[0]
        self._remember(tapped["hidden"], self._channel(chunk))
        return self.raw_actions(chunk, action_dim_mask)

    # ---- inside ----

    def _batch(self, observation: torch.Tensor, state: torch.Tensor) -> dict[str, Any]:
        pictures = self.pictures(observation, state)
        return {OBS_STATE: self.normalized_state(state), OBS_IMAGES: pictures}

    def _channel(self, actions: torch.Tensor) -> torch.Tensor:
        """`(N, L, da)` to `(N, L, F)`."""
        return actions @ self.model.model.action_head.weight

    @contextmanager
    def _with_belief(self, belief_tokens: torch.Tensor | None) -> Iterator[dict[str, torch.Tensor]]:
        """Hands the encoder further tokens, and taps its mean output and the decoder's."""
        act, tapped = self.model.model, {}
        # LeRobot's transformer has time first.
        extra = None if belief_tokens is None else belief_tokens.transpose(0, 1)

        def appended(module: nn.Module, given: Any, named: Any) -> Any:
            if extra is None:
                return given, named
            position = named["pos_embed"]
            none = position.new_zeros(len(extra), *position.shape[1:])
            return (torch.cat((given[0], extra.to(given[0].dtype))),), {
                **named,
                "pos_embed": torch.cat((position, none)),
            }

        def attended(module: nn.Module, given: Any, named: Any) -> Any:
            tapped["context"] = given[1].mean(dim=0)
            if extra is None:
                return given, named
            position = named["encoder_pos_embed"]
            none = position.new_zeros(len(extra), *position.shape[1:])
            return given, {**named, "encoder_pos_embed": torch.cat((position, none))}

        hooks = [
            act.encoder.register_forward_pre_hook(appended, with_kwargs=True),
            act.decoder.register_forward_pre_hook(attended, with_kwargs=True),
            act.decoder.register_forward_hook(
                lambda module, given, output: tapped.update(hidden=output.transpose(0, 1))
            ),
        ]
        try:
            yield tapped
        finally:
            for hook in hooks:
                hook.remove()
