"""PI0: adapter and processor for transformers' `PI0ForConditionalGeneration`, which is trained and saved unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PI0ForConditionalGeneration

from hf_ptr.errors import InputError
from hf_ptr.policies.action_loss import flow_times, masked_loss, masked_mean
from hf_ptr.policies.adapters import register_adapter
from hf_ptr.policies.contract import FeatureSizes, PolicyInputs, PolicyOutput, require_input_shapes
from hf_ptr.policies.feature_binding import DatasetBoundAdapter
from hf_ptr.policies.vla.processing_vla import VLAProcessor
from hf_ptr.vision.towers import CameraFeatures, first_layers, layers_of, normalized

# Mean and standard deviation of each colour in SigLIP's pretraining.
COLOUR = 0.5
# Maximal number of prompt tokens, as in PI0's own processor.
MAX_PROMPT_TOKENS = 48


class PI0TextProcessor(VLAProcessor):
    """
    Writes PI0's prompts. Images are scaled and normalised in the adapter, on the policy's device.

    It replaces the PI0 processor of transformers, which needs torchvision. It saves only PI0's tokenizer.

    Args:
        tokenizer: PI0's tokenizer.
    """

    @classmethod
    def from_tokenizer(cls, source: str) -> PI0TextProcessor:
        """
        With the tokenizer in a folder or Hub repo.

        Raises:
            InputError: there is none.
        """
        try:
            return cls(AutoTokenizer.from_pretrained(source))
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                f"{source} has no tokenizer ({error}); save PI0's tokenizer in the same folder"
            ) from error

    def encode_instructions(self, instructions: Sequence[str]) -> dict[str, torch.Tensor]:
        """`instruction_ids` int64 and `instruction_mask` bool, both `(B, K)`, K at most 48."""
        bos = self.tokenizer.bos_token or ""
        encoded = self.tokenizer(
            [f"{bos}{text}\n" for text in instructions],
            add_special_tokens=False,
            padding="longest",
            padding_side="right",
            truncation=True,
            max_length=MAX_PROMPT_TOKENS,
            return_tensors="pt",
        )
        return {"instruction_ids": encoded["input_ids"], "instruction_mask": encoded["attention_mask"].bool()}

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Saves the tokenizer."""
        self.tokenizer.save_pretrained(save_directory)


class PI0Adapter(DatasetBoundAdapter):
    """
    Implements [`PostTrainable`] for PI0.

    Belief tokens are appended to the prefix embeddings, under the same attention mask. The language model reads the
    prefix once: its mean last hidden state is the context `h_t`, and the action expert attends to its keys and values,
    as in PI0's own forward pass.

    Args:
        model: the PI0. Its weights, and its outputs without belief tokens, are unchanged.
    """

    model_class = PI0ForConditionalGeneration
    title = "PI0"

    def __init__(self, model: Any):
        side = model.config.vlm_config.vision_config.image_size
        self.canvas = (side, side)
        super().__init__(model)

    @staticmethod
    def load_processor(source: str) -> PI0TextProcessor:
        """The processor for a PI0 in a folder or Hub repo."""
        return PI0TextProcessor.from_tokenizer(source)

    def max_dimensions(self) -> tuple[int, int]:
        """The widths to which state and action are padded."""
        return self.model.config.max_state_dim, self.model.config.max_action_dim

    def chunking(self) -> tuple[int, int]:
        """Chunk length; PI0 executes whole chunks."""
        return self.model.config.chunk_size, self.model.config.chunk_size

    def image_resolution_for(self, height: int, width: int) -> tuple[int, int]:
        """The longer side as wide as SigLIP's input, with the aspect ratio kept; the rest is padding."""
        scale = self.canvas[0] / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def vision_layers(self) -> int:
        """Layers of SigLIP."""
        return len(layers_of(self.model.model.vlm.vision_tower)[1])

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: images `(N, C, height, width, 3)` uint8 to the pooled output of a SigLIP layer, cameras joined."""
        tower = first_layers(self.model.model.vlm.vision_tower, self.config.target_layer)
        return CameraFeatures(tower, *self._colours(), self.config.image_resolution, self.canvas)

    def feature_sizes(self) -> FeatureSizes:
        """Widths of the language model, the action expert, and the vision features of all cameras."""
        config = self.model.config
        observation = config.vlm_config.vision_config.hidden_size * len(self.config.observation_features)
        return FeatureSizes(config.vlm_config.text_config.hidden_size, config.dit_config.hidden_size, observation)

    def forward(
        self, batch: PolicyInputs, belief_tokens: torch.Tensor | None = None, *, for_scoring: bool = False
    ) -> PolicyOutput:
        """
        One training pass over N chunks; arguments as in [`PostTrainable`].

        PI0's time runs from 1, noise, to 0, the action.
        """
        prefix, prefix_mask, state = self._embed_prefix(batch)
        config, action_mask = self.model.config, batch["action_mask"]
        clean, mask = self.normalized_actions(batch["actions"], action_mask, batch.get("action_dim_mask"))
        clean = self._padded(clean, config.max_action_dim)
        time = flow_times(config.time_sampling_beta_alpha, config.time_sampling_beta_beta, clean)
        time = time * config.time_sampling_scale + config.time_sampling_offset
        noise = torch.randn_like(clean)
        share = time[:, None, None]
        noised = (share * noise + (1 - share) * clean).to(state.dtype)
        tokens = self.model.embed_action_time(state, noised, time)
        features = None
        if for_scoring:
            quiet = self.model.embed_action_time(state, clean.to(noised.dtype), torch.zeros_like(time))[:, 1:]
            features = masked_mean(quiet, action_mask)
        context, cache, attended = self._read_prefix(prefix, prefix_mask, belief_tokens)
        hidden = self._read_actions(tokens, cache, attended)
        error = (self.model.action_out_proj(hidden).float() - (noise - clean)).square()
        loss = masked_loss(error[..., : self.config.action_dim], mask)
        return PolicyOutput(
            loss=loss.mean(),
            action_loss=loss,
            context=context,
            action_features=features,
            hidden_states=hidden,
            action_embeddings=tokens[:, 1:],
        )

    def checkpointable(self) -> list[Any]:
        """The modules that can recompute activations: the vision tower. The language model must keep its cache."""
        return [self.model.model.vlm.vision_tower]

    # ---- acting ----

    @torch.no_grad()
    def predict_action_chunk(self, batch: PolicyInputs, generator: torch.Generator | None = None) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw units, as by PI0's `sample_actions`; see [`VLAPolicy`]."""
        prefix, prefix_mask, state = self._embed_prefix(batch)
        _, cache, attended = self._read_prefix(prefix, prefix_mask, self._recall_belief(len(state)))
        length, config = cache.get_seq_length(), self.model.config
        shape = (len(state), config.chunk_size, config.max_action_dim)
        chunk = torch.randn(shape, generator=generator, device=state.device, dtype=state.dtype)
        for number in range(config.num_inference_steps):
            # float32 whatever the model's precision, as in PI0: its fastest sine has 250 periods in [0, 1].
            time = torch.full((len(chunk),), 1.0 - number / config.num_inference_steps, device=chunk.device)
            tokens = self.model.embed_action_time(state, chunk, time)
            hidden = self._read_actions(tokens, cache, attended)
            # Only the prefix stays in the cache for the next step.
            cache.crop(length - cache.get_seq_length())
            chunk = chunk - self.model.action_out_proj(hidden) / config.num_inference_steps
        self._remember_belief(hidden, tokens[:, 1:])
        return self.raw_actions(chunk[..., : self.config.action_dim], batch.get("action_dim_mask"))

    # ---- inside ----

    def _embed_prefix(self, batch: PolicyInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings of images and instruction `(N, P, D)`, their mask `(N, P)`, and the padded state."""
        observation, state = batch["observation"], batch["state"]
        require_input_shapes(self.config, observation, state)
        vlm = self.model.model.vlm
        rows, cameras = observation.shape[:2]
        pixels = normalized(observation, *self._colours(), self.config.image_resolution, self.canvas)
        seen = vlm.get_image_features(pixels).pooler_output
        text = vlm.get_input_embeddings()(batch["instruction_ids"])
        seen = seen.reshape(rows, cameras * seen.shape[1], seen.shape[2]).to(text.dtype)
        prefix_mask = nn.functional.pad(batch["instruction_mask"].bool(), (seen.shape[1], 0), value=True)
        padded = self._padded(self.normalized_state(state), self.model.config.max_state_dim)
        return torch.cat((seen, text), dim=1), prefix_mask, padded.to(text.dtype)

    def _read_prefix(
        self, prefix: torch.Tensor, mask: torch.Tensor, belief_tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """The pooled context `(N, D)`, the keys and values of the prefix with belief tokens, and its mask."""
        if belief_tokens is not None:
            prefix = torch.cat((prefix, belief_tokens.to(prefix.dtype)), dim=1)
            mask = nn.functional.pad(mask, (0, belief_tokens.shape[1]), value=True)
        attended = mask.long()
        output = self.model.model.vlm(
            inputs_embeds=prefix,
            attention_mask=attended,
            position_ids=attended.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(attended),
            use_cache=True,
        )
        return masked_mean(output.last_hidden_state, mask), output.past_key_values, attended

    def _read_actions(self, tokens: torch.Tensor, cache: Any, attended: torch.Tensor) -> torch.Tensor:
        """Hidden states `(N, L, F)` of the action expert at the action positions."""
        output = self.model.model(action_embeds=tokens, attention_mask=attended, past_key_values=cache)
        return output.last_hidden_state[:, -self.model.config.chunk_size :]

    def _colours(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.model.action_out_proj.weight
        return weight.new_full((3,), COLOUR), weight.new_full((3,), COLOUR)

    def _padded(self, values: torch.Tensor, width: int) -> torch.Tensor:
        return nn.functional.pad(values, (0, width - values.shape[-1]))


register_adapter("pi0", PI0Adapter)
