"""Adapter for LeRobot's Diffusion Policy: its own encoder, U-Net and scheduler, and a loss per sample."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from torch import nn

from hf_ptr.errors import InputError
from hf_ptr.policies.action_loss import masked_loss, masked_mean
from hf_ptr.policies.contract import FeatureSizes, PolicyInputs, PolicyOutput
from hf_ptr.policies.lerobot.convolutional import ConvolutionalAdapter


class DiffusionAdapter(ConvolutionalAdapter):
    """
    Implements [`PostTrainable`] for Diffusion Policy.

    The U-Net's conditioning vector plus the mean of the belief tokens is the context `h_t`. The action-channel tokens
    are the actions multiplied by the transposed weights of the U-Net's output layer. Padded steps are never part of
    the loss, whatever `do_mask_loss_for_padding` is, and batch normalisation stays in evaluation mode: the loss of a
    sample must not depend on the rest of its batch.

    Raises:
        InputError: the policy reads more than the present frame.
    """

    model_class = DiffusionPolicy

    def __init__(self, model: Any):
        if model.config.n_obs_steps != 1:
            raise InputError(
                f"this diffusion policy of LeRobot reads {model.config.n_obs_steps} frames, and chunks hold the "
                "present one; make it with n_obs_steps=1"
            )
        super().__init__(model)

    def chunking(self) -> tuple[int, int]:
        """A chunk is the whole horizon."""
        return self.model.config.horizon, self.model.config.n_action_steps

    def backbones(self) -> list[nn.Module]:
        """The ResNet of each camera, or one that all cameras share."""
        return [encoder.backbone for encoder in self._encoders()]

    def resize(self) -> nn.Module | None:
        """The encoders' resize module, which is the same for all of them."""
        return self._encoders()[0].resize

    def feature_sizes(self) -> FeatureSizes:
        """Widths of the conditioning vector, the U-Net's last layer, and the vision features of all cameras."""
        context = self.config.state_dim + self._encoders()[0].feature_dim * len(self.config.cameras)
        return FeatureSizes(context, self.model.config.down_dims[0], self.vision_size())

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """One training pass over N chunks; arguments as in [`PostTrainable`]."""
        action_mask = batch["action_mask"]
        clean, mask = self.normalized_actions(batch["actions"], action_mask, batch.get("action_dim_mask"))
        condition = self._condition(batch["observation"], batch["state"])
        scheduler = self.model.diffusion.noise_scheduler
        noise = torch.randn_like(clean)
        time = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), device=clean.device)
        noised = scheduler.add_noise(clean, noise, time)
        context = _with_belief(condition, belief_tokens)
        captured: dict[str, torch.Tensor] = {}
        hook = self._capture_hidden(captured)
        try:
            predicted = self.model.diffusion.unet(noised, time, global_cond=context)
        finally:
            hook.remove()
        target = noise if self.model.config.prediction_type == "epsilon" else clean
        loss = masked_loss((predicted - target).square(), mask)
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=context,
            action_features=masked_mean(self._action_tokens(clean), action_mask) if for_scoring else None,
            hidden_states=captured["hidden"],
            action_embeddings=self._action_tokens(noised),
        )

    # ---- acting ----

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw units, the whole horizon, from LeRobot's sampler."""
        state = batch["state"]
        context = _with_belief(self._condition(batch["observation"], state), self._recall_belief(len(state)))
        captured: dict[str, torch.Tensor] = {}
        hooks = [
            self._capture_hidden(captured),
            self.model.diffusion.unet.register_forward_pre_hook(lambda module, args: captured.update(noised=args[0])),
        ]
        try:
            chunk = self.model.diffusion.conditional_sample(len(state), global_cond=context, generator=generator)
        finally:
            for hook in hooks:
                hook.remove()
        self._remember_belief(captured["hidden"], self._action_tokens(captured["noised"]))
        return self.raw_actions(chunk, batch.get("action_dim_mask"))

    # ---- inside ----

    def _encoders(self) -> list[Any]:
        """The image encoder of each camera, or one that all cameras share."""
        found = self.model.diffusion.rgb_encoder
        return list(found) if isinstance(found, nn.ModuleList) else [found]

    def _condition(self, observation: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The conditioning vector `(N, D)` of the U-Net."""
        for module in self.model.diffusion.rgb_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        # LeRobot has a dimension for past frames.
        images = torch.stack(self.images(observation, state), dim=1)[:, None]
        inputs = {OBS_STATE: self.normalized_state(state)[:, None], OBS_IMAGES: images}
        return self.model.diffusion._prepare_global_conditioning(inputs)

    def _action_tokens(self, actions: torch.Tensor) -> torch.Tensor:
        """`(N, L, da)` to `(N, L, F)`."""
        return actions @ self.model.diffusion.unet.final_conv[-1].weight.squeeze(-1)

    def _capture_hidden(self, captured: dict[str, torch.Tensor]) -> Any:
        """Hook that stores the input of the U-Net's last layer, with time before channels."""
        return self.model.diffusion.unet.final_conv[-1].register_forward_pre_hook(
            lambda module, args: captured.update(hidden=args[0].transpose(1, 2))
        )


def _with_belief(condition: torch.Tensor, belief_tokens: torch.Tensor | None) -> torch.Tensor:
    return condition if belief_tokens is None else condition + belief_tokens.mean(dim=1)
