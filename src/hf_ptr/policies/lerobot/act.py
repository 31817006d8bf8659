"""Adapter for LeRobot's ACT: its own forward pass, a loss per sample, and belief tokens in the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import nn

from hf_ptr.policies.action_loss import masked_loss, masked_mean
from hf_ptr.policies.contract import FeatureSizes, PolicyInputs, PolicyOutput
from hf_ptr.policies.lerobot.convolutional import ConvolutionalAdapter


class ACTAdapter(ConvolutionalAdapter):
    """
    Implements [`PostTrainable`] for ACT.

    Belief tokens are appended to the tokens of the transformer encoder, whose mean output is the context `h_t`. ACT
    does not embed the actions that it predicts, so the action-channel tokens are the actions multiplied by the
    transposed weights of its output layer. The loss is LeRobot's per sample: absolute error, and in training the KL
    divergence of the latent.
    """

    model_class = ACTPolicy

    def backbones(self) -> list[nn.Module]:
        """One ResNet, shared by all cameras."""
        return [self.model.model.backbone]

    def feature_sizes(self) -> FeatureSizes:
        """The transformer's width twice, and the width of the vision features of all cameras."""
        width = self.model.config.dim_model
        return FeatureSizes(width, width, self.vision_size())

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """One training pass over N chunks; arguments as in [`PostTrainable`]. ACT reads no instruction."""
        action_mask = batch["action_mask"]
        clean, mask = self.normalized_actions(batch["actions"], action_mask, batch.get("action_dim_mask"))
        tokens = self._action_tokens(clean)
        inputs = self._inputs(batch["observation"], batch["state"])
        inputs.update({ACTION: clean, "action_is_pad": ~action_mask})
        with self._with_belief(belief_tokens) as captured:
            predicted, (mean, log_variance) = self.model.model(inputs)
        loss = masked_loss((predicted - clean).abs(), mask)
        if log_variance is not None:
            divergence = (-0.5 * (1 + log_variance - mean.square() - log_variance.exp())).sum(dim=-1)
            loss = loss + self.model.config.kl_weight * divergence
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=captured["context"],
            action_features=masked_mean(tokens, action_mask) if for_scoring else None,
            hidden_states=captured["hidden"],
            action_embeddings=tokens,
        )

    # ---- acting ----

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw units. ACT draws no random numbers, so the generator is not used."""
        state = batch["state"]
        with self._with_belief(self._recall_belief(len(state))) as captured:
            chunk = self.model.model(self._inputs(batch["observation"], state))[0]
        self._remember_belief(captured["hidden"], self._action_tokens(chunk))
        return self.raw_actions(chunk, batch.get("action_dim_mask"))

    # ---- inside ----

    def _inputs(self, observation: torch.Tensor, state: torch.Tensor) -> dict[str, Any]:
        images = self.images(observation, state)
        return {OBS_STATE: self.normalized_state(state), OBS_IMAGES: images}

    def _action_tokens(self, actions: torch.Tensor) -> torch.Tensor:
        """`(N, L, da)` to `(N, L, F)`."""
        return actions @ self.model.model.action_head.weight

    @contextmanager
    def _with_belief(self, belief_tokens: torch.Tensor | None) -> Iterator[dict[str, torch.Tensor]]:
        """Appends belief tokens to the encoder's input, and captures its mean output and the decoder's output."""
        act, captured = self.model.model, {}
        # LeRobot's transformer has time first.
        extra = None if belief_tokens is None else belief_tokens.transpose(0, 1)

        def before_encoder(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if extra is None:
                return args, kwargs
            tokens = torch.cat((args[0], extra.to(args[0].dtype)))
            return (tokens,), {**kwargs, "pos_embed": extended(kwargs["pos_embed"])}

        def before_decoder(module: nn.Module, args: Any, kwargs: Any) -> Any:
            captured["context"] = args[1].mean(dim=0)
            if extra is None:
                return args, kwargs
            return args, {**kwargs, "encoder_pos_embed": extended(kwargs["encoder_pos_embed"])}

        def extended(position: torch.Tensor) -> torch.Tensor:
            """Positions for all tokens; belief tokens have position 0."""
            assert extra is not None
            return torch.cat((position, position.new_zeros(len(extra), *position.shape[1:])))

        hooks = [
            act.encoder.register_forward_pre_hook(before_encoder, with_kwargs=True),
            act.decoder.register_forward_pre_hook(before_decoder, with_kwargs=True),
            act.decoder.register_forward_hook(
                lambda module, args, output: captured.update(hidden=output.transpose(0, 1))
            ),
        ]
        try:
            yield captured
        finally:
            for hook in hooks:
                hook.remove()
