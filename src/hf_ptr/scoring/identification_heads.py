"""Three views of one transition, each an identification with a small head of its own.

A transition is `(o_t, l, a_{t:t+L-1}, o_{t+Δ})` (PTR Sec. 2). The paper identifies the consequence from context and
action; a fault in another element can leave that one easy. So each element in turn is what has to be identified, and
the action among two kinds of alternatives, each of which makes another of its faults visible:

| component | given | identified | among |
|---|---|---|---|
| `next_observation/pool` | `o_t, a` | `o_{t+Δ}` | other samples |
| `action/pool` | `o_t, o_{t+Δ}` | `a` | other samples |
| `action/shift` | `o_t, o_{t+Δ}` | `a` | the same episode's chunks a few frames earlier and later |
| `instruction/pool` | `o_t, a, o_{t+Δ}` | `l` | the other instructions |

Every one is PTR Eq. (12), (14) and (31) with another query and key. Negatives are never chosen by a label, which may
be wrong. Pure tensors in, tensors out: N samples, C candidates, D embedding width; the caller chooses rows and draws.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from hf_ptr import functional as F
from hf_ptr.scoring.config import ELEMENTS
from hf_ptr.scoring.transitions import Transitions

# The component whose alternatives are a sample's own chunk some frames earlier and later.
ACTION_SHIFT = "action/shift"
# Each component, and the fault made on purpose that shows where a faulty sample lies on it.
COMPONENTS = {
    "next_observation/pool": "next_observation",
    "action/pool": "swapped",
    ACTION_SHIFT: "shifted",
    "instruction/pool": "instruction",
}
# Frames: nearer times of one episode are nearly the same transition, and no mismatch of each other.
GUARD = 4
INITIAL_TEMPERATURE = 0.1
MIN_TEMPERATURE = 0.02
HIDDEN_SIZE = 128
EMBEDDING_SIZE = 64


def element_of(component: str) -> str:
    """The view that a component belongs to."""
    return component.split("/")[0]


class IdentificationHeads(nn.Module):
    """
    The heads: for each view an encoder of what is given and one of what is identified, and a learned temperature.

    Args:
        context_size, action_size, next_observation_size: widths `Dc`, `Da`, `Do`.
        instructions: how many instructions there are; with fewer than two their view is left out.
        hidden_size: width of the two hidden layers.
        embedding_size: `D`.
    """

    def __init__(
        self,
        context_size: int,
        action_size: int,
        next_observation_size: int,
        instructions: int,
        *,
        hidden_size: int = HIDDEN_SIZE,
        embedding_size: int = EMBEDDING_SIZE,
    ):
        super().__init__()

        def encoder(size: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(size, hidden_size),
                nn.LayerNorm(hidden_size),
                nn.GELU(),
                nn.Linear(hidden_size, hidden_size),
                nn.LayerNorm(hidden_size),
                nn.GELU(),
                nn.Linear(hidden_size, embedding_size),
            )

        after = 2 * next_observation_size
        self.query_encoders = nn.ModuleDict(
            {
                "next_observation": encoder(context_size + action_size),
                "action": encoder(context_size + after),
            }
        )
        self.key_encoders = nn.ModuleDict(
            {"next_observation": encoder(next_observation_size), "action": encoder(action_size)}
        )
        self.views = ELEMENTS if instructions > 1 else ELEMENTS[:2]
        if instructions > 1:
            self.query_encoders["instruction"] = encoder(context_size + action_size + after)
            self.key_encoders["instruction"] = nn.Embedding(instructions, embedding_size)
        start = torch.tensor(INITIAL_TEMPERATURE).log()
        self.log_temperature = nn.ParameterDict({view: nn.Parameter(start.clone()) for view in self.views})

    @property
    def components(self) -> tuple[str, ...]:
        """The components that these heads score."""
        return tuple(component for component in COMPONENTS if element_of(component) in self.views)

    def temperature(self, view: str) -> Tensor:
        """A view's temperature, a scalar of at least `MIN_TEMPERATURE`."""
        return self.log_temperature[view].exp().clamp(min=MIN_TEMPERATURE)

    def queries(self, samples: Transitions, views: Collection[str] = ELEMENTS) -> dict[str, Tensor]:
        """What each view knows, `(N, D)` of unit norm."""
        after = (samples.next_observation, samples.change)
        given = {
            "next_observation": (samples.context, samples.action),
            "action": (samples.context, *after),
            "instruction": (samples.context, samples.action, *after),
        }
        return {view: _unit(self.query_encoders[view](torch.cat(given[view], dim=1))) for view in self._of(views)}

    def keys(self, samples: Transitions, views: Collection[str] = ELEMENTS) -> dict[str, Tensor]:
        """What each view has to identify, `(N, D)` of unit norm."""
        return {view: _unit(self.key_encoders[view](getattr(samples, view))) for view in self._of(views)}

    def _of(self, views: Collection[str]) -> list[str]:
        return [view for view in self.views if view in views]

    def losses(self, samples: Transitions, guard: int = GUARD) -> dict[str, Tensor]:
        """
        `L_id` of each view, PTR Eq. (31), a scalar in nats; the negatives are the rest of the batch.

        Other samples of the batch stand as negatives unless they are nearer than `guard` frames in the same episode.

        Args:
            samples: N transitions.
            guard: frames.
        """
        queries, keys = self.queries(samples), self.keys(samples)
        apart = (samples.episode[:, None] != samples.episode) | ((samples.time[:, None] - samples.time).abs() >= guard)
        losses = {}
        for view in self.views:
            negatives, usable = keys[view], apart
            if view == "instruction":
                negatives, usable = self._instructions(samples.instruction)
            losses[view] = F.identification_loss(self._logits(view, queries[view], keys[view], negatives, usable))
        return losses

    @torch.no_grad()
    def scores(
        self,
        samples: Transitions,
        pool: Transitions,
        *,
        shifted: Iterable[Tensor],
        usable_shifts: Tensor,
        known: Tensor,
        components: Collection[str] = tuple(COMPONENTS),
    ) -> dict[str, Tensor]:
        """
        The score of every component, nats; NaN where there is nothing to tell apart.

        `(N,)`, PTR Eq. (14); of `action/shift` `(N, S)`, the logit of PTR Eq. (12) of the match minus that of each
        shift, because one shift runs through an episode: which one is only seen there
        (`hf_ptr.scoring.calibration.consistent_margin`).

        Args:
            samples: N transitions.
            pool: C reference transitions; those of a sample's own episode are masked.
            shifted: the samples' action chunks taken earlier or later, S times `(N, Da)`; asked for one after the
                other, for `action/shift` alone.
            usable_shifts: `(N, S)` bool.
            known: `(instructions,)` bool, the instructions that the heads have met; the others are no candidates.
            components: those wanted.
        """
        wanted = [component for component in self.components if component in components]
        views = {element_of(component) for component in wanted}
        queries, own, pooled = self.queries(samples, views), self.keys(samples, views), self.keys(pool, views)
        elsewhere = samples.episode[:, None] != pool.episode
        found = {}
        for component in wanted:
            view, kind = component.split("/")
            usable = elsewhere
            if view == "instruction":
                negatives, others = self._instructions(samples.instruction)
                usable = others & known
            elif kind == "pool":
                negatives = pooled[view]
            else:
                keys = [_unit(self.key_encoders[view](chunks)) for chunks in shifted]
                negatives, usable = torch.stack(keys, dim=1), usable_shifts
            logits = self._logits(view, queries[view], own[view], negatives, usable)
            if kind == "shift":
                found[component] = (logits[:, :1] - logits[:, 1:]).masked_fill(~usable, torch.nan)
            else:
                found[component] = F.ptr_score(logits).masked_fill(~usable.any(dim=1), torch.nan)
            if view == "instruction":
                found[component] = found[component].masked_fill(~known[samples.instruction], torch.nan)
        return found

    def _logits(self, view: str, query: Tensor, key: Tensor, negatives: Tensor, usable: Tensor | None) -> Tensor:
        temperature = self.temperature(view)
        return F.identification_logits(
            query, key, negatives, temperature=temperature, negative_mask=usable, normalized=True
        )

    def _instructions(self, own: Tensor) -> tuple[Tensor, Tensor]:
        table = self.key_encoders["instruction"]
        assert isinstance(table, nn.Embedding)
        every = table.weight
        return _unit(every), torch.arange(len(every), device=own.device) != own[:, None]


def _unit(embedding: Tensor) -> Tensor:
    return nn.functional.normalize(embedding.float(), dim=-1, eps=F.NORM_EPS)


def mean_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the views' losses: they share no parameter, so none outweighs another."""
    return torch.stack(tuple(losses.values())).sum()
