"""The adapter of transformers' `PI0ForConditionalGeneration`: post-trained as it is, and saved as PI0 again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PI0ForConditionalGeneration

from hf_ptr.policies.adapters import register_adapter
from hf_ptr.policies.averages import masked_loss, masked_mean
from hf_ptr.policies.contract import Embedded, FeatureSizes, PolicyOutput
from hf_ptr.policies.fitted import FittedActing
from hf_ptr.policies.flow_times import flow_times
from hf_ptr.policies.pi0_processor import PI0TextProcessor
from hf_ptr.policies.shapes import require_shapes
from hf_ptr.policies.towers import CameraFeatures, first_layers, layers_of, normalized

# What SigLIP was pretrained with.
COLOUR = 0.5


class PI0Adapter(FittedActing):
    """
    Keeps the contract for a PI0.

    Belief tokens are further embeddings at the end of the prefix, under the same mask as the others. The prefix goes
    through the language model once; its mean last hidden state is the context `h_t`, and its keys and values are what
    the action expert attends to, as in PI0's own forward pass.

    Args:
        model: the PI0. Its weights, and what it computes without belief tokens, are left as they are.
    """

    model_class = PI0ForConditionalGeneration
    title = "PI0"

    def __init__(self, model: Any):
        side = model.config.vlm_config.vision_config.image_size
        self.canvas = (side, side)
        super().__init__(model)

    @staticmethod
    def load_processor(place: str) -> PI0TextProcessor:
        """The tokenizer of a PI0's folder or Hub id, which writes its prompts."""
        return PI0TextProcessor.from_tokenizer(place)

    def most_dimensions(self) -> tuple[int, int]:
        """The widths that state and action are filled up to."""
        return self.model.config.max_state_dim, self.model.config.max_action_dim

    def chunking(self) -> tuple[int, int]:
        """All of a chunk is executed."""
        return self.model.config.chunk_size, self.model.config.chunk_size

    def image_resolution_for(self, height: int, width: int) -> tuple[int, int]:
        """Of the proportions that they have; what is missing to a square is filled up."""
        scale = self.canvas[0] / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def vision_layers(self) -> int:
        """Of SigLIP."""
        return len(layers_of(self.model.model.vlm.vision_tower)[1])

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: pictures `(N, C, height, width, 3)` uint8 to the pooled output of a layer of SigLIP, cameras joined."""
        tower = first_layers(self.model.model.vlm.vision_tower, self.config.target_layer)
        return CameraFeatures(tower, *self._colours(), self.config.image_resolution, self.canvas)

    def feature_sizes(self) -> FeatureSizes:
        """The language model's width, the action expert's, and that of the vision features of all cameras."""
        config = self.model.config
        seen = config.vlm_config.vision_config.hidden_size * len(self.config.observation_features)
        return FeatureSizes(config.vlm_config.text_config.hidden_size, config.dit_config.hidden_size, seen)

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
        """
        The embeddings of pictures and instruction, and the noised actions; arguments as those of [`VLAPolicy.embed`].

        In PI0 time runs the other way: 1 is noise and 0 the action.
        """
        embedded = self._embed_prefix(observation, state, instruction_ids, instruction_mask)
        config = self.model.config
        clean, mask = self.normalized_actions(actions, action_mask, action_dim_mask)
        clean = self._padded(clean, config.max_action_dim)
        time = flow_times(config.time_sampling_beta_alpha, config.time_sampling_beta_beta, clean)
        time = time * config.time_sampling_scale + config.time_sampling_offset
        noise = torch.randn_like(clean)
        share = time[:, None, None]
        noised = (share * noise + (1 - share) * clean).to(embedded["state"].dtype)
        tokens = self.model.embed_action_time(embedded["state"], noised, time)
        embedded.update(action_tokens=tokens, velocity=noise - clean, loss_mask=mask)
        if for_scoring:
            quiet = clean.to(noised.dtype)
            quiet = self.model.embed_action_time(embedded["state"], quiet, torch.zeros_like(time))[:, 1:]
            embedded["action_features"] = masked_mean(quiet, action_mask)
        return embedded

    def step(self, embedded: Embedded, belief_tokens: torch.Tensor | None = None) -> PolicyOutput:
        """The pass through language model and action expert; `ℓ_act` over valid steps and the robot's dimensions."""
        context, cache, attended = self._read_prefix(embedded, belief_tokens)
        hidden = self._act(embedded["action_tokens"], cache, attended)
        error = (self.model.action_out_proj(hidden).float() - embedded["velocity"]).square()
        loss = masked_loss(error[..., : self.config.action_dim], embedded["loss_mask"])
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=context,
            action_features=embedded.get("action_features"),
            hidden_states=hidden,
            action_embeddings=embedded["action_tokens"][:, 1:],
        )

    def checkpointable(self) -> list[Any]:
        """What can recompute its activations: the vision tower; the language model must keep its keys and values."""
        return [self.model.model.vlm.vision_tower]

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
        """The next chunk `(B, L, da)` in raw units, as PI0's `sample_actions` gives it; see [`VLAPolicy`]."""
        embedded = self._embed_prefix(observation, state, instruction_ids, instruction_mask)
        _, cache, attended = self._read_prefix(embedded, self._recalled(len(state)))
        length, config = cache.get_seq_length(), self.model.config
        shape = (len(state), config.chunk_size, config.max_action_dim)
        chunk = torch.randn(shape, generator=generator, device=state.device, dtype=embedded["state"].dtype)
        for number in range(config.num_inference_steps):
            # In float32 whatever the model's precision, as PI0 has it: its fastest wave turns 250 times in a unit.
            time = torch.full((len(chunk),), 1.0 - number / config.num_inference_steps, device=chunk.device)
            tokens = self.model.embed_action_time(embedded["state"], chunk, time)
            hidden = self._act(tokens, cache, attended)
            # The next step attends to the prefix alone.
            cache.crop(length - cache.get_seq_length())
            chunk = chunk - self.model.action_out_proj(hidden) / config.num_inference_steps
        self._remember(hidden, tokens[:, 1:])
        return self.raw_actions(chunk[..., : self.config.action_dim], action_dim_mask)

    # ---- inside ----

    def _embed_prefix(self, observation, state, instruction_ids, instruction_mask) -> Embedded:
        require_shapes(self.config, observation, state)
        vlm = self.model.model.vlm
        rows, cameras = observation.shape[:2]
        pixels = normalized(observation, *self._colours(), self.config.image_resolution, self.canvas)
        seen = vlm.get_image_features(pixels).pooler_output
        text = vlm.get_input_embeddings()(instruction_ids)
        seen = seen.reshape(rows, cameras * seen.shape[1], seen.shape[2]).to(text.dtype)
        mask = nn.functional.pad(instruction_mask.bool(), (seen.shape[1], 0), value=True)
        normalized_state = self._padded(self.normalized_state(state), self.model.config.max_state_dim)
        return {
            "prefix": torch.cat((seen, text), dim=1),
            "prefix_mask": mask,
            "state": normalized_state.to(text.dtype),
        }

    def _read_prefix(self, embedded: Embedded, belief_tokens: torch.Tensor | None) -> tuple[torch.Tensor, Any, Any]:
        """The pooled context `(N, D)`, keys and values of the prefix, and its mask."""
        prefix, mask = embedded["prefix"], embedded["prefix_mask"]
        if belief_tokens is not None:
            prefix = torch.cat((prefix, belief_tokens.to(prefix.dtype)), dim=1)
            mask = nn.functional.pad(mask, (0, belief_tokens.shape[1]), value=True)
        attended = mask.long()
        passed = self.model.model.vlm(
            inputs_embeds=prefix,
            attention_mask=attended,
            position_ids=attended.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(attended),
            use_cache=True,
        )
        return masked_mean(passed.last_hidden_state, mask), passed.past_key_values, attended

    def _act(self, tokens: torch.Tensor, cache: Any, attended: torch.Tensor) -> torch.Tensor:
        """Hidden states `(N, L, F)` of the action expert at the action positions."""
        passed = self.model.model(action_embeds=tokens, attention_mask=attended, past_key_values=cache)
        return passed.last_hidden_state[:, -self.model.config.chunk_size :]

    def _colours(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.model.action_out_proj.weight
        return weight.new_full((3,), COLOUR), weight.new_full((3,), COLOUR)

    def _padded(self, values: torch.Tensor, width: int) -> torch.Tensor:
        return nn.functional.pad(values, (0, width - values.shape[-1]))


register_adapter("pi0", PI0Adapter)
