"""The adapter of transformers' `PI0ForConditionalGeneration`: post-trained as it is, and saved as PI0 again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PI0ForConditionalGeneration

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.statistics import normalization
from hf_ptr.errors import InputError, nearest
from hf_ptr.policies.acting import ChunkActing
from hf_ptr.policies.adapters import INTERFACE_KEY, register_adapter
from hf_ptr.policies.averages import masked_loss, masked_mean
from hf_ptr.policies.contract import Embedded, FeatureSizes, PolicyOutput
from hf_ptr.policies.pi0_processor import PI0TextProcessor
from hf_ptr.policies.towers import CameraFeatures, first_layers, layers_of, normalized

# What SigLIP was pretrained with.
COLOUR = 0.5


@dataclass
class PI0Interface:
    """
    What a PI0 is given and gives, in the names and units of a dataset.

    Attributes:
        observation_features: cameras, in the order of the prompt.
        state_feature, action_feature: of the dataset.
        state_mean, state_std, action_mean, action_std: that normalise them, `(ds,)` and `(da,)`.
        picture_size: height and width that pictures are scaled to; what is missing to a square is filled up.
        chunk_size, n_action_steps: actions of a chunk, and how many of them are executed.
        target_layer: the vision layer that the target encoder reads (PTR Sec. 4).
        belief_tokens: that the policy was trained with.
    """

    observation_features: list[str]
    state_feature: str
    action_feature: str
    state_mean: list[float]
    state_std: list[float]
    action_mean: list[float]
    action_std: list[float]
    picture_size: tuple[int, int]
    chunk_size: int
    n_action_steps: int
    target_layer: int
    belief_tokens: int = 0

    def __post_init__(self) -> None:
        self.picture_size = (int(self.picture_size[0]), int(self.picture_size[1]))

    @property
    def cameras(self) -> tuple[str, ...]:
        """All that it observes."""
        return tuple(self.observation_features)

    @property
    def state_dim(self) -> int:
        """`ds`."""
        return len(self.state_mean)

    @property
    def action_dim(self) -> int:
        """`da`."""
        return len(self.action_mean)


class PI0Adapter(ChunkActing):
    """
    Keeps the contract for a PI0.

    Belief tokens are further embeddings at the end of the prefix, under the same mask as the others. The prefix goes
    through the language model once; its mean last hidden state is the context `h_t`, and its keys and values are what
    the action expert attends to, as in PI0's own forward pass.

    Args:
        model: the PI0. Its weights, and what it computes without belief tokens, are left as they are.
    """

    model_class = PI0ForConditionalGeneration

    def __init__(self, model: Any):
        self.model = model
        kept = getattr(model.config, INTERFACE_KEY, None)
        self._interface = None if kept is None else _interface(kept, model.config)
        side = model.config.vlm_config.vision_config.image_size
        self.canvas = (side, side)
        if self._interface is not None:
            self.reset()

    @staticmethod
    def load_processor(place: str) -> PI0TextProcessor:
        """The tokenizer of a PI0's folder or Hub id, which writes its prompts."""
        return PI0TextProcessor.from_tokenizer(place)

    @property
    def config(self) -> PI0Interface:
        """
        What it is given and gives.

        Raises:
            InputError: it has not been fitted to a dataset yet.
        """
        if self._interface is None:
            raise InputError("this PI0 knows no dataset yet: call fit_to(table, …), or name observation_features")
        return self._interface

    @property
    def needs_dataset(self) -> bool:
        """Whether it has not been fitted to a dataset yet, as a pretrained PI0 has not."""
        return self._interface is None

    def fit_to(
        self,
        table: EpisodeTable,
        *,
        observation_features: Sequence[str] = (),
        state_feature: str = "observation.state",
        action_feature: str = "action",
        n_action_steps: int | None = None,
    ) -> None:
        """
        Takes cameras (all of them by default), features and statistics of a dataset, and keeps them in the model's
        configuration.

        Raises:
            InputError: a camera or feature that is not there, or vectors wider than the model's.
        """
        observation_features = observation_features or sorted(table.videos)
        if not observation_features:
            raise InputError(f"PI0 sees through cameras, and {table.source!r} has none; record with cameras")
        for name in observation_features:
            if name not in table.videos:
                known = ", ".join(table.videos) or "none"
                raise InputError(
                    f"PI0 sees through cameras, and {table.source!r} has no camera {name!r} (it has: {known})."
                    f"{nearest(name, table.videos)}"
                )
        state, action = normalization(table, [state_feature]), normalization(table, [action_feature])
        given = self.model.config
        for name, values, most in (
            (state_feature, state["mean"], given.max_state_dim),
            (action_feature, action["mean"], given.max_action_dim),
        ):
            if len(values) > most:
                raise InputError(f"{name!r} of {table.source!r} has {len(values)} dimensions, this PI0 at most {most}")
        height, width = table.features[observation_features[0]]["shape"][:2]
        for name in observation_features:
            if table.features[name]["shape"][0] * width != height * table.features[name]["shape"][1]:
                raise InputError(
                    f"cameras {observation_features[0]!r} and {name!r} give pictures of different proportions, and "
                    "one would be squeezed; name cameras of one proportion in observation_features"
                )
        scale = self.canvas[0] / max(height, width)
        layers = len(layers_of(self.model.model.vlm.vision_tower)[1])
        self._interface = PI0Interface(
            observation_features=list(observation_features),
            state_feature=state_feature,
            action_feature=action_feature,
            state_mean=state["mean"].tolist(),
            state_std=state["std"].tolist(),
            action_mean=action["mean"].tolist(),
            action_std=action["std"].tolist(),
            picture_size=(max(1, round(height * scale)), max(1, round(width * scale))),
            chunk_size=given.chunk_size,
            n_action_steps=n_action_steps or given.chunk_size,
            target_layer=-(-layers // 2),
        )
        self._keep_interface()
        self.reset()

    def attach_belief(self, belief: Any) -> None:
        """As [`ChunkActing.attach_belief`]; the number of tokens is kept in the model's configuration."""
        super().attach_belief(belief)
        self._keep_interface()

    # ---- the contract with PTRModel ----

    def observation_tower(self) -> nn.Module:
        """`v`: pictures `(N, C, height, width, 3)` uint8 to the pooled output of a layer of SigLIP, cameras joined."""
        tower = first_layers(self.model.model.vlm.vision_tower, self.config.target_layer)
        return CameraFeatures(tower, *self._colours(), self.config.picture_size, self.canvas)

    def normalized_state(self, state: torch.Tensor) -> torch.Tensor:
        """Proprioception `(N, ds)` in standard deviations."""
        return (state - state.new_tensor(self.config.state_mean)) / state.new_tensor(self.config.state_std)

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
        clean = (actions - actions.new_tensor(self.config.action_mean)) / actions.new_tensor(self.config.action_std)
        mask = action_mask[..., None].expand_as(clean)
        if action_dim_mask is not None:
            mask = mask & action_dim_mask[:, None]
        clean = self._padded(clean.masked_fill(~mask, 0.0), config.max_action_dim)
        beta = torch.distributions.Beta(
            torch.tensor(config.time_sampling_beta_alpha), torch.tensor(config.time_sampling_beta_beta)
        )
        time = beta.sample((len(clean),)).to(clean) * config.time_sampling_scale + config.time_sampling_offset
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
        actions = chunk[..., : self.config.action_dim].float()
        actions = actions * actions.new_tensor(self.config.action_std) + actions.new_tensor(self.config.action_mean)
        return actions if action_dim_mask is None else actions.masked_fill(~action_dim_mask[:, None], 0.0)

    # ---- inside ----

    def _embed_prefix(self, observation, state, instruction_ids, instruction_mask) -> Embedded:
        vlm = self.model.model.vlm
        rows, cameras = observation.shape[:2]
        pixels = normalized(observation, *self._colours(), self.config.picture_size, self.canvas)
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

    def _keep_interface(self) -> None:
        setattr(
            self.model.config, INTERFACE_KEY, {**asdict(self.config), "picture_size": list(self.config.picture_size)}
        )


def _interface(kept: Any, config: Any) -> PI0Interface:
    """What was kept, checked: a configuration may come from anywhere."""
    try:
        found = PI0Interface(**kept)
        widths = [(found.state_mean, found.state_std, config.max_state_dim)]
        widths += [(found.action_mean, found.action_std, config.max_action_dim)]
        whole = all(len(mean) == len(std) <= most and min(std) > 0 for mean, std, most in widths)
        if not (whole and found.observation_features and 1 <= found.n_action_steps <= found.chunk_size):
            raise ValueError("lengths or values that cannot be")
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{INTERFACE_KEY!r} in the configuration of this PI0 is damaged ({error}); remove it and fit it again"
        ) from error
    return found


register_adapter("pi0", PI0Adapter)
