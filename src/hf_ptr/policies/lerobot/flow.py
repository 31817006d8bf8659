"""Adapters for LeRobot's SmolVLA, π0 and π0.5: a vision-language prefix and an action expert by flow matching."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import (
    make_att_2d_masks,
    pad_vector,
    prepare_attention_masks_4d,
    resize_with_pad,
    resize_with_pad_torch,
)
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from torch import nn

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.policies.action_loss import masked_loss, masked_mean
from hf_ptr.policies.contract import FeatureSizes, PolicyInputs, PolicyOutput
from hf_ptr.policies.lerobot.base import COLOURS, LeRobotAdapter, normalized_images
from hf_ptr.policies.lerobot.processor import state_prompt
from hf_ptr.vision.towers import first_layers, last_layer_of, layers_of


class Embeddings(NamedTuple):
    """
    A part of the sequence, as LeRobot's `embed_prefix` and `embed_suffix` return it.

    Attributes:
        tokens: `(N, P, D)`.
        mask: `(N, P)` bool, True = a real token.
        blocks: `(N, P)`, True where an attention block begins; earlier blocks do not attend to it.
        condition: condition of the action expert's norms, or None.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    blocks: torch.Tensor
    condition: Any = None


class FlowAdapter(LeRobotAdapter):
    """
    Implements [`PostTrainable`] for SmolVLA, π0 and π0.5, which differ in the methods of the first section.

    Belief tokens are appended to the prefix embeddings, and the action expert attends to them as to the rest. The mean
    last hidden state of the prefix is the context `h_t`. Time runs from 1, noise, to 0, the action.
    """

    @property
    def flow(self) -> Any:
        """LeRobot's network inside the policy."""
        return self.model.model

    # ---- defined by each policy ----

    def vision_tower(self) -> Any:
        """SigLIP."""
        raise NotImplementedError

    def resolution(self) -> tuple[int, int]:
        """Height and width of the images that the tower reads."""
        raise NotImplementedError

    @staticmethod
    def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Images `(N, 3, …)` in [0, 1] resized and padded to a size, in [-1, 1]."""
        raise NotImplementedError

    def prefix(
        self, images: list, masks: list, ids: torch.Tensor, mask: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens, mask and blocks of the prefix, see [`Embeddings`]."""
        return self.flow.embed_prefix(images, masks, ids, mask)

    def suffix(self, state: torch.Tensor, noised: torch.Tensor, time: torch.Tensor) -> tuple[Any, ...]:
        """Tokens, mask, blocks and condition of the action expert's input, see [`Embeddings`]."""
        return self.flow.embed_suffix(noised, time)

    def transformer(
        self, embeddings: list, attended: torch.Tensor, positions: torch.Tensor, condition: Any, use_cache: bool
    ) -> tuple[list, Any]:
        """Last hidden states of prefix and suffix, and keys and values."""
        raise NotImplementedError

    def context_size(self) -> int:
        """The language model's width."""
        raise NotImplementedError

    # ---- the dataset ----

    def max_dimensions(self) -> tuple[int, int]:
        """The widths to which state and action are padded."""
        return self.model.config.max_state_dim, self.model.config.max_action_dim

    def vision_layers(self) -> int:
        """Layers of SigLIP."""
        return len(layers_of(self.vision_tower())[1])

    def _take_features(self, table: EpisodeTable) -> None:
        # The weights fit any features: vectors are padded, and all cameras share a tower.
        self.model.config.input_features, self.model.config.output_features = self._features_of(table)
        self.model.config.empty_cameras = 0

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: images `(N, C, height, width, 3)` uint8 to the pooled output of a SigLIP layer, cameras joined."""
        tower = first_layers(self.vision_tower(), self.config.target_layer)
        return VisionFeatures(tower, type(self), self.resolution())

    def feature_sizes(self) -> FeatureSizes:
        """Widths of the language model, the action expert, and the vision features of all cameras."""
        observation = self.vision_tower().config.hidden_size * len(self.config.cameras)
        return FeatureSizes(self.context_size(), self.flow.action_in_proj.out_features, observation)

    def checkpointable(self) -> list[Any]:
        """The modules that can recompute activations: the vision tower. LeRobot calls the other layers one by one."""
        return [self.vision_tower()]

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """One training pass over N chunks; arguments as in [`PostTrainable`]."""
        prefix, state = self._embed_prefix(batch)
        action_mask = batch["action_mask"]
        clean, loss_mask = self.normalized_actions(batch["actions"], action_mask, batch.get("action_dim_mask"))
        clean = pad_vector(clean, self.model.config.max_action_dim)
        noise = self.flow.sample_noise(clean.shape, clean.device)
        time = self.flow.sample_time(len(clean), clean.device)
        share = time[:, None, None]
        suffix = Embeddings(*self.suffix(state, share * noise + (1 - share) * clean, time))
        features = None
        if for_scoring:
            quiet = Embeddings(*self.suffix(state, clean, torch.zeros_like(time)))
            features = masked_mean(self._action_positions(quiet.tokens), action_mask)
        prefix = _with_belief(prefix, belief_tokens)
        tokens = suffix.tokens.to(prefix.tokens.dtype)
        mask = torch.cat((prefix.mask, suffix.mask), dim=1)
        attended = make_att_2d_masks(mask, torch.cat((prefix.blocks, suffix.blocks.to(prefix.blocks.dtype)), dim=1))
        (prefix_hidden, suffix_hidden), _ = self.transformer(
            [prefix.tokens, tokens], attended, _positions(mask), suffix.condition, use_cache=False
        )
        hidden = self._action_positions(suffix_hidden)
        velocity = self.flow.action_out_proj(hidden.to(self.flow.action_out_proj.weight.dtype)).float()
        error = (velocity - (noise - clean))[..., : self.config.action_dim].square()
        loss = masked_loss(error, loss_mask)
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=masked_mean(prefix_hidden, prefix.mask),
            action_features=features,
            hidden_states=hidden,
            action_embeddings=self._action_positions(tokens),
        )

    # ---- acting ----

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw units, as by LeRobot's `sample_actions`; see [`VLAPolicy`]."""
        prefix, state = self._embed_prefix(batch)
        prefix = _with_belief(prefix, self._recall_belief(len(state)))
        attended = make_att_2d_masks(prefix.mask, prefix.blocks)
        _, cache = self.transformer([prefix.tokens, None], attended, _positions(prefix.mask), None, use_cache=True)
        config = self.model.config
        noise = torch.randn(
            (len(state), config.chunk_size, config.max_action_dim), generator=generator, device=state.device
        )
        last: dict[str, torch.Tensor] = {}
        hook = self.flow.action_out_proj.register_forward_pre_hook(lambda module, args: last.update(hidden=args[0]))

        def velocity(chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            last.update(chunk=chunk, time=time)
            return self.denoise_step(state, prefix.mask, cache, chunk, time)

        try:
            chunk = euler_integrate(velocity, noise, self.denoising_steps())
        finally:
            hook.remove()
        suffix = Embeddings(*self.suffix(state, last["chunk"], last["time"]))
        self._remember_belief(last["hidden"], self._action_positions(suffix.tokens))
        return self.raw_actions(chunk[..., : self.config.action_dim], batch.get("action_dim_mask"))

    def denoise_step(
        self, state: torch.Tensor, mask: torch.Tensor, cache: Any, chunk: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """The velocity of `chunk (N, L, da)` at `time (N,)`, by LeRobot's own step."""
        return self.flow.denoise_step(prefix_pad_masks=mask, past_key_values=cache, x_t=chunk, timestep=time)

    def denoising_steps(self) -> int:
        """Number of denoising steps at inference."""
        return self.model.config.num_inference_steps

    # ---- inside ----

    def _embed_prefix(self, batch: PolicyInputs) -> tuple[Embeddings, torch.Tensor]:
        """The prefix without belief tokens, and the padded state."""
        state = batch["state"]
        images = [self.resized(camera, self.resolution()) for camera in self.images(batch["observation"], state)]
        present = [torch.ones(len(state), dtype=torch.bool, device=state.device)] * len(images)
        padded = pad_vector(self.normalized_state(state), self.model.config.max_state_dim)
        ids, mask = batch["instruction_ids"], batch["instruction_mask"].bool()
        return Embeddings(*self.prefix(images, present, ids, mask, padded)), padded

    def _action_positions(self, suffix: torch.Tensor) -> torch.Tensor:
        """The action positions of a suffix; π0's suffix begins with the state."""
        return suffix[:, -self.config.chunk_size :]


class SmolVLAAdapter(FlowAdapter):
    """SmolVLA: the prefix ends with the state. By default LeRobot freezes the vision-language model."""

    model_class = SmolVLAPolicy

    def vision_tower(self) -> Any:
        """SigLIP of SmolVLM."""
        return self.flow.vlm_with_expert.get_vlm_model().vision_model

    def resolution(self) -> tuple[int, int]:
        """Height and width; LeRobot's configuration has width before height."""
        width, height = self.model.config.resize_imgs_with_padding
        return height, width

    @staticmethod
    def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """As [`FlowAdapter.resized`], padded at the left and the top."""
        return resize_with_pad(images, *size, pad_value=0) * 2.0 - 1.0

    def prefix(self, images, masks, ids, mask, state):
        """Images, instruction and state."""
        return self.flow.embed_prefix(images, masks, ids, mask, state=state)

    def transformer(self, embeddings, attended, positions, condition, use_cache):
        """SmolVLM and the action expert, which cross-attends to some layers."""
        return self.flow.vlm_with_expert.forward(
            attention_mask=attended,
            position_ids=positions,
            past_key_values=None,
            inputs_embeds=embeddings,
            use_cache=use_cache,
        )

    def context_size(self) -> int:
        """SmolVLM's width."""
        return self.flow.vlm_with_expert.config.text_config.hidden_size

    def denoising_steps(self) -> int:
        """Number of denoising steps at inference."""
        return self.model.config.num_steps


class Pi05Adapter(FlowAdapter):
    """π0.5: the state is written into the prompt, and time conditions the norms of the action expert."""

    model_class: ClassVar[Any] = PI05Policy

    def vision_tower(self) -> Any:
        """SigLIP of PaliGemma."""
        return self.flow.paligemma_with_expert.paligemma.model.vision_tower

    def resolution(self) -> tuple[int, int]:
        """Height and width that PaliGemma reads."""
        height, width = self.model.config.image_resolution
        return height, width

    @staticmethod
    def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """As [`FlowAdapter.resized`], padded on both sides."""
        return resize_with_pad_torch(images, *size) * 2.0 - 1.0

    def prefix(self, images, masks, ids, mask, state):
        """Images, and a prompt of instruction and state."""
        return self.flow.embed_prefix(images, masks, *state_prompt(ids, mask, state[:, : self.config.state_dim]))

    def transformer(self, embeddings, attended, positions, condition, use_cache):
        """PaliGemma and the action expert, which share attention in every layer."""
        model = self.flow.paligemma_with_expert
        dtype = model.paligemma.model.language_model.layers[0].self_attn.q_proj.weight.dtype
        return model.forward(
            attention_mask=prepare_attention_masks_4d(attended),
            position_ids=positions,
            past_key_values=None,
            inputs_embeds=[None if each is None else each.to(dtype) for each in embeddings],
            use_cache=use_cache,
            adarms_cond=[None, condition],
        )

    def context_size(self) -> int:
        """PaliGemma's width."""
        return self.flow.paligemma_with_expert.paligemma.config.text_config.hidden_size


class Pi0Adapter(Pi05Adapter):
    """π0: the state is the first token of the action expert."""

    model_class = PI0Policy

    def prefix(self, images, masks, ids, mask, state):
        """Images and instruction."""
        return self.flow.embed_prefix(images, masks, ids, mask)

    def suffix(self, state, noised, time):
        """The state, then the actions."""
        return self.flow.embed_suffix(state, noised, time)

    def denoise_step(self, state, mask, cache, chunk, time):
        """As [`FlowAdapter.denoise_step`], with the state."""
        return self.flow.denoise_step(
            state=state, prefix_pad_masks=mask, past_key_values=cache, x_t=chunk, timestep=time
        )


class VisionFeatures(nn.Module):
    """
    Pooled output of a tower's last layer: images `(N, C, height, width, 3)` uint8 to `(N, C·width)`.

    Args:
        model: the tower, truncated after the target layer.
        adapter: the adapter class, whose `resized` prepares images.
        size: height and width that the tower reads.
    """

    def __init__(self, model: nn.Module, adapter: type[FlowAdapter], size: tuple[int, int]):
        super().__init__()
        self.model = model
        self.adapter = adapter
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self.adapter.resized(normalized_images(images.flatten(0, 1), *COLOURS["IDENTITY"]), self.size)
        return last_layer_of(self.model, pixels).mean(dim=1).reshape(len(images), -1)


def _with_belief(prefix: Embeddings, belief_tokens: torch.Tensor | None) -> Embeddings:
    if belief_tokens is None:
        return prefix
    count = belief_tokens.shape[1]
    # They join the last block, so that earlier blocks do not attend to them.
    return Embeddings(
        torch.cat((prefix.tokens, belief_tokens.to(prefix.tokens.dtype)), dim=1),
        nn.functional.pad(prefix.mask, (0, count), value=True),
        nn.functional.pad(prefix.blocks, (0, count), value=False),
    )


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return mask.cumsum(dim=1) - 1
