"""The adapters of SmolVLA, π0 and π0.5 of LeRobot: a vision-language model's prefix and an action expert by flow."""

from __future__ import annotations

from typing import Any, ClassVar

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
from hf_ptr.policies.averages import masked_loss, masked_mean
from hf_ptr.policies.contract import Embedded, FeatureSizes, PolicyOutput
from hf_ptr.policies.lerobot.base import COLOURS, LeRobotAdapter, coloured
from hf_ptr.policies.lerobot.state_prompt import prompt_of
from hf_ptr.policies.towers import first_layers, last_layer_of, layers_of


class FlowAdapter(LeRobotAdapter):
    """
    What SmolVLA, π0 and π0.5 have in common.

    Belief tokens are further embeddings at the end of the prefix, which the action expert attends to as to the rest.
    The mean of the prefix' last hidden states is the context `h_t`. Time runs from 1, noise, to 0, the action.
    """

    @property
    def flow(self) -> Any:
        """LeRobot's network inside the policy."""
        return self.model.model

    # ---- what differs between the three ----

    def vision_tower(self) -> Any:
        """SigLIP."""
        raise NotImplementedError

    def fit_picture(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures `(N, 3, height, width)` as the tower reads them."""
        raise NotImplementedError

    def prefix(
        self, images: list, masks: list, ids: torch.Tensor, mask: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings `(N, P, D)`, which of them are there, and where a block begins that those before do not see."""
        return self.flow.embed_prefix(images, masks, ids, mask)

    def suffix(self, state: torch.Tensor, noised: torch.Tensor, time: torch.Tensor) -> tuple[Any, ...]:
        """The same of the action expert, and what its norms are conditioned by, if anything."""
        return self.flow.embed_suffix(noised, time)

    def passed(
        self, embeddings: list, attended: torch.Tensor, positions: torch.Tensor, condition: Any, use_cache: bool
    ) -> tuple[list, Any]:
        """Last hidden states of prefix and suffix, and keys and values."""
        raise NotImplementedError

    # ---- the dataset ----

    def most_dimensions(self) -> tuple[int, int]:
        """The widths that state and action are filled up to."""
        return self.model.config.max_state_dim, self.model.config.max_action_dim

    def vision_layers(self) -> int:
        """Of SigLIP."""
        return len(layers_of(self.vision_tower())[1])

    def _take_features(self, table: EpisodeTable) -> None:
        # Whatever they are, the weights are the same: vectors are filled up, and all cameras share a tower.
        self.model.config.input_features, self.model.config.output_features = self._features_of(table)
        self.model.config.empty_cameras = 0

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: pictures `(N, C, height, width, 3)` uint8 to the pooled output of a layer of SigLIP, cameras joined."""
        tower = first_layers(self.vision_tower(), self.config.target_layer)
        return VisionFeatures(tower, type(self), tuple(self.resolution()))

    def resolution(self) -> tuple[int, int]:
        """Height and width of the pictures that the tower reads."""
        raise NotImplementedError

    def feature_sizes(self) -> FeatureSizes:
        """The language model's width, the action expert's, and that of the vision features of all cameras."""
        seen = self.vision_tower().config.hidden_size * len(self.config.cameras)
        return FeatureSizes(self.context_size(), self.flow.action_in_proj.out_features, seen)

    def context_size(self) -> int:
        """The language model's width."""
        raise NotImplementedError

    def checkpointable(self) -> list[Any]:
        """What can recompute its activations; the language model is walked through layer by layer."""
        return [self.vision_tower()]

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
        """The prefix, and the tokens of the noised actions; arguments as those of [`VLAPolicy.embed`]."""
        embedded = self._embed_prefix(observation, state, instruction_ids, instruction_mask)
        clean, mask = self.normalized_actions(actions, action_mask, action_dim_mask)
        clean = pad_vector(clean, self.model.config.max_action_dim)
        noise = self.flow.sample_noise(clean.shape, clean.device)
        time = self.flow.sample_time(len(clean), clean.device)
        share = time[:, None, None]
        embedded |= self._embed_suffix(embedded["state"], share * noise + (1 - share) * clean, time)
        embedded.update(velocity=noise - clean, loss_mask=mask)
        if for_scoring:
            quiet = self._embed_suffix(embedded["state"], clean, torch.zeros_like(time))["suffix"]
            embedded["action_features"] = masked_mean(self._actions_in(quiet), action_mask)
        return embedded

    def step(self, embedded: Embedded, belief_tokens: torch.Tensor | None = None) -> PolicyOutput:
        """The pass through language model and action expert; `ℓ_act` over valid steps and the robot's dimensions."""
        prefix, mask, blocks = self._whole_prefix(embedded, belief_tokens)
        suffix, there = embedded["suffix"].to(prefix.dtype), torch.cat((mask, embedded["suffix_mask"]), dim=1)
        attended = make_att_2d_masks(there, torch.cat((blocks, embedded["suffix_blocks"].to(blocks.dtype)), dim=1))
        condition = embedded.get("condition")
        (seen, acting), _ = self.passed([prefix, suffix], attended, _positions(there), condition, use_cache=False)
        hidden = self._actions_in(acting)
        velocity = self.flow.action_out_proj(hidden.to(self.flow.action_out_proj.weight.dtype)).float()
        error = (velocity - embedded["velocity"])[..., : self.config.action_dim].square()
        loss = masked_loss(error, embedded["loss_mask"])
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=masked_mean(seen, mask),
            action_features=embedded.get("action_features"),
            hidden_states=hidden,
            action_embeddings=self._actions_in(suffix),
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
        """The next chunk `(B, L, da)` in raw units, as LeRobot's `sample_actions` gives it; see [`VLAPolicy`]."""
        embedded = self._embed_prefix(observation, state, instruction_ids, instruction_mask)
        prefix, mask, blocks = self._whole_prefix(embedded, self._recalled(len(state)))
        attended = make_att_2d_masks(mask, blocks)
        _, cache = self.passed([prefix, None], attended, _positions(mask), None, use_cache=True)
        config = self.model.config
        noise = torch.randn(
            (len(state), config.chunk_size, config.max_action_dim), generator=generator, device=state.device
        )
        last: dict[str, torch.Tensor] = {}
        found = self.flow.action_out_proj.register_forward_pre_hook(lambda module, given: last.update(hidden=given[0]))

        def velocity(chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            last.update(chunk=chunk, time=time)
            return self.denoised(embedded["state"], mask, cache, chunk, time)

        try:
            chunk = euler_integrate(velocity, noise, self.denoising_steps())
        finally:
            found.remove()
        tokens = self._embed_suffix(embedded["state"], last["chunk"], last["time"])["suffix"]
        self._remember(last["hidden"], self._actions_in(tokens))
        return self.raw_actions(chunk[..., : self.config.action_dim], action_dim_mask)

    def denoised(
        self, state: torch.Tensor, mask: torch.Tensor, cache: Any, chunk: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """The velocity of `chunk (N, L, da)` at `time (N,)`, by LeRobot's own step."""
        return self.flow.denoise_step(prefix_pad_masks=mask, past_key_values=cache, x_t=chunk, timestep=time)

    def denoising_steps(self) -> int:
        """At inference."""
        return self.model.config.num_inference_steps

    # ---- inside ----

    def _embed_prefix(
        self, observation: torch.Tensor, state: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> Embedded:
        images = [self.fit_picture(seen) for seen in self.pictures(observation, state)]
        there = [torch.ones(len(state), dtype=torch.bool, device=state.device)] * len(images)
        padded = pad_vector(self.normalized_state(state), self.model.config.max_state_dim)
        prefix, present, blocks = self.prefix(images, there, ids, mask.bool(), padded)
        return {"prefix": prefix, "prefix_mask": present, "prefix_blocks": blocks, "state": padded}

    def _embed_suffix(self, state: torch.Tensor, noised: torch.Tensor, time: torch.Tensor) -> Embedded:
        tokens, there, blocks, *condition = self.suffix(state, noised, time)
        given = {"suffix": tokens, "suffix_mask": there, "suffix_blocks": blocks}
        return {**given, "condition": condition[0]} if condition and condition[0] is not None else given

    def _whole_prefix(
        self, embedded: Embedded, belief_tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        prefix, mask, blocks = (embedded[name] for name in ("prefix", "prefix_mask", "prefix_blocks"))
        if belief_tokens is None:
            return prefix, mask, blocks
        count = belief_tokens.shape[1]
        # In the block of what stands before: nothing before that block sees them.
        return (
            torch.cat((prefix, belief_tokens.to(prefix.dtype)), dim=1),
            nn.functional.pad(mask, (0, count), value=True),
            nn.functional.pad(blocks, (0, count), value=False),
        )

    def _actions_in(self, suffix: torch.Tensor) -> torch.Tensor:
        """The action positions of a suffix, which π0 begins with the state."""
        return suffix[:, -self.config.chunk_size :]


class SmolVLAAdapter(FlowAdapter):
    """SmolVLA, whose prefix ends with the state; by default its vision-language model stays as it was pretrained."""

    model_class = SmolVLAPolicy

    def vision_tower(self) -> Any:
        """SigLIP of SmolVLM."""
        return self.flow.vlm_with_expert.get_vlm_model().vision_model

    def resolution(self) -> tuple[int, int]:
        """LeRobot keeps width before height."""
        width, height = self.model.config.resize_imgs_with_padding
        return height, width

    def fit_picture(self, pictures: torch.Tensor) -> torch.Tensor:
        """Filled up at the left and above, in [-1, 1]."""
        return self.fitted(pictures, self.resolution())

    @staticmethod
    def fitted(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Pictures `(N, 3, …)` in [0, 1] filled up to a size, in [-1, 1]."""
        return resize_with_pad(pictures, *size, pad_value=0) * 2.0 - 1.0

    def prefix(self, images, masks, ids, mask, state):
        """Pictures, instruction and state."""
        return self.flow.embed_prefix(images, masks, ids, mask, state=state)

    def passed(self, embeddings, attended, positions, condition, use_cache):
        """Through SmolVLM and the action expert, which reads some layers' keys and values across."""
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
        """At inference."""
        return self.model.config.num_steps


class Pi05Adapter(FlowAdapter):
    """π0.5: the state is written into the prompt, and time conditions the norms of the action expert."""

    model_class: ClassVar[Any] = PI05Policy

    def vision_tower(self) -> Any:
        """SigLIP of PaliGemma."""
        return self.flow.paligemma_with_expert.paligemma.model.vision_tower

    def resolution(self) -> tuple[int, int]:
        """Of PaliGemma."""
        height, width = self.model.config.image_resolution
        return height, width

    def fit_picture(self, pictures: torch.Tensor) -> torch.Tensor:
        """Filled up on both sides, in [-1, 1]."""
        return self.fitted(pictures, self.resolution())

    @staticmethod
    def fitted(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Pictures `(N, 3, …)` in [0, 1] filled up to a size, in [-1, 1]."""
        return resize_with_pad_torch(pictures, *size) * 2.0 - 1.0

    def prefix(self, images, masks, ids, mask, state):
        """Pictures, and a prompt of instruction and state."""
        there = state[:, : self.config.state_dim]
        return self.flow.embed_prefix(images, masks, *prompt_of(ids, mask, there))

    def passed(self, embeddings, attended, positions, condition, use_cache):
        """Through PaliGemma and the action expert, layer by layer side by side."""
        own = self.flow.paligemma_with_expert
        dtype = own.paligemma.model.language_model.layers[0].self_attn.q_proj.weight.dtype
        return own.forward(
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
        """Pictures and instruction."""
        return self.flow.embed_prefix(images, masks, ids, mask)

    def suffix(self, state, noised, time):
        """The state before the actions."""
        return self.flow.embed_suffix(state, noised, time)

    def denoised(self, state, mask, cache, chunk, time):
        """As [`FlowAdapter.denoised`], with the state."""
        return self.flow.denoise_step(
            state=state, prefix_pad_masks=mask, past_key_values=cache, x_t=chunk, timestep=time
        )


class VisionFeatures(nn.Module):
    """
    The pooled output of a tower's last layer: pictures `(N, C, height, width, 3)` uint8 to `(N, C·width)`.

    Args:
        model: the tower, cut off after the layer.
        policy: whose class knows how pictures are filled up.
        size: height and width that the tower reads.
    """

    def __init__(self, model: nn.Module, policy: Any, size: tuple[int, ...]):
        super().__init__()
        self.model = model
        self.policy = policy
        self.size = size

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        seen = self.policy.fitted(coloured(pictures.flatten(0, 1), *COLOURS["IDENTITY"]), self.size)
        return last_layer_of(self.model, seen).mean(dim=1).reshape(len(pictures), -1)


def _positions(there: torch.Tensor) -> torch.Tensor:
    return there.cumsum(dim=1) - 1
