"""The adapter of LeRobot's Diffusion Policy: its encoder, U-Net and scheduler, with a loss of each sample."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from torch import nn

from hf_ptr.errors import InputError
from hf_ptr.policies.averages import masked_loss, masked_mean
from hf_ptr.policies.contract import Embedded, FeatureSizes, PolicyOutput
from hf_ptr.policies.lerobot.convolutional import ConvolutionalAdapter


class DiffusionAdapter(ConvolutionalAdapter):
    """
    Keeps the contract for Diffusion Policy.

    The vector that conditions the U-Net is the context `h_t`, and the mean of the belief tokens is added to it. The
    channel tokens are actions through the weights of the U-Net's last layer, read backwards. Padded steps count
    nothing, whatever `do_mask_loss_for_padding` says, and batch normalisation keeps its statistics: what a sample
    costs must not depend on the rest of its batch.

    Raises:
        InputError: a policy that reads more than the present frame.
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
        """Of each camera, or the one that all share."""
        return [encoder.backbone for encoder in self._encoders()]

    def resize(self) -> nn.Module | None:
        """As the encoders do, all alike."""
        return self._encoders()[0].resize

    def feature_sizes(self) -> FeatureSizes:
        """Of the conditioning vector, the U-Net's last layer, and the vision features of all cameras."""
        context = self.config.state_dim + self._encoders()[0].feature_dim * len(self.config.cameras)
        return FeatureSizes(context, self.model.config.down_dims[0], self.vision_size())

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
        """The conditioning vector and the noised actions; arguments as those of [`VLAPolicy.embed`]."""
        clean, mask = self.normalized_actions(actions, action_mask, action_dim_mask)
        condition = self._condition(observation, state)
        scheduler = self.model.diffusion.noise_scheduler
        noise = torch.randn_like(clean)
        time = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), device=clean.device)
        noised = scheduler.add_noise(clean, noise, time)
        embedded = {
            "condition": condition,
            "noised": noised,
            "time": time,
            "wanted": noise if self.model.config.prediction_type == "epsilon" else clean,
            "loss_mask": mask,
            "action_embeddings": self._channel(noised),
        }
        if for_scoring:
            embedded["action_features"] = masked_mean(self._channel(clean), action_mask)
        return embedded

    def step(self, embedded: Embedded, belief_tokens: torch.Tensor | None = None) -> PolicyOutput:
        """The U-Net's pass; `ℓ_act` over valid steps and the robot's dimensions."""
        context = _with_belief(embedded["condition"], belief_tokens)
        tapped: dict[str, torch.Tensor] = {}
        hook = self._tap(tapped)
        try:
            predicted = self.model.diffusion.unet(embedded["noised"], embedded["time"], global_cond=context)
        finally:
            hook.remove()
        loss = masked_loss((predicted - embedded["wanted"]).square(), embedded["loss_mask"])
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=context,
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
        """The next chunk `(B, L, da)` in raw units, the whole horizon, as LeRobot's sampler gives it."""
        context = _with_belief(self._condition(observation, state), self._recalled(len(state)))
        tapped: dict[str, torch.Tensor] = {}
        hooks = [
            self._tap(tapped),
            self.model.diffusion.unet.register_forward_pre_hook(lambda module, given: tapped.update(noised=given[0])),
        ]
        try:
            chunk = self.model.diffusion.conditional_sample(len(state), global_cond=context, generator=generator)
        finally:
            for hook in hooks:
                hook.remove()
        self._remember(tapped["hidden"], self._channel(tapped["noised"]))
        return self.raw_actions(chunk, action_dim_mask)

    # ---- inside ----

    def _encoders(self) -> list[Any]:
        """Of each camera, or the one that all share."""
        found = self.model.diffusion.rgb_encoder
        return list(found) if isinstance(found, nn.ModuleList) else [found]

    def _condition(self, observation: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        for module in self.model.diffusion.rgb_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        # LeRobot has a dimension for the frames of the past.
        pictures = torch.stack(self.pictures(observation, state), dim=1)[:, None]
        batch = {OBS_STATE: self.normalized_state(state)[:, None], OBS_IMAGES: pictures}
        return self.model.diffusion._prepare_global_conditioning(batch)

    def _channel(self, actions: torch.Tensor) -> torch.Tensor:
        """`(N, L, da)` to `(N, L, F)`."""
        return actions @ self.model.diffusion.unet.final_conv[-1].weight.squeeze(-1)

    def _tap(self, tapped: dict[str, torch.Tensor]) -> Any:
        """Keeps what the U-Net's last layer is given, with time before channels."""
        return self.model.diffusion.unet.final_conv[-1].register_forward_pre_hook(
            lambda module, given: tapped.update(hidden=given[0].transpose(1, 2))
        )


def _with_belief(condition: torch.Tensor, belief_tokens: torch.Tensor | None) -> torch.Tensor:
    return condition if belief_tokens is None else condition + belief_tokens.mean(dim=1)
