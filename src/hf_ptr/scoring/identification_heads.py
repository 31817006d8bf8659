"""Identification heads: each element of a transition identified from the others, by a separate small head.

A transition is `(o_t, l, a_{t:t+L-1}, o_{t+Δ})` (PTR Sec. 2). The paper identifies the next observation from context
and action; a fault in another element can leave that question easy. So each element is identified in turn, and the
action among two kinds of candidates, which reveal different faults:

| check | given | identified | among |
|---|---|---|---|
| `next_observation/pool` | `o_t, a` | `o_{t+Δ}` | other transitions |
| `action/pool` | `o_t, o_{t+Δ}` | `a` | other transitions |
| `action/shift` | `o_t, o_{t+Δ}` | `a` | the same episode's chunks a few frames earlier and later |
| `instruction/pool` | `o_t, a, o_{t+Δ}` | `l` | the other instructions |

Each check is PTR Eq. (12), (14) and (31) with another query and key. Negatives are never chosen by a label, which may
be wrong. Pure tensors in, tensors out: N transitions, C candidates, D embedding width; the caller chooses rows and
draws.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from hf_ptr import functional as F
from hf_ptr.data.score_file import ELEMENTS
from hf_ptr.scoring.config import PLANTED_FAULTS, ScoreConfig
from hf_ptr.scoring.transitions import Transitions


def element_of(check: str) -> str:
    """The element of a transition that a check examines."""
    return check.split("/")[0]


class IdentificationHeads(nn.Module):
    """
    The heads: for each element an encoder of the query, one of the key, and a learned temperature.

    Args:
        context_size, action_size, next_observation_size: widths `Dc`, `Da`, `Do`.
        instructions: number of instructions; with fewer than two, that element is left out.
        config: settings of the score.
    """

    def __init__(
        self,
        context_size: int,
        action_size: int,
        next_observation_size: int,
        instructions: int,
        config: ScoreConfig,
    ):
        super().__init__()
        hidden, width = config.hidden_size, config.embedding_size

        def encoder(size: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(size, hidden),
                nn.LayerNorm(hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.GELU(),
                nn.Linear(hidden, width),
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
        self.elements = ELEMENTS if instructions > 1 else ELEMENTS[:2]
        if instructions > 1:
            self.query_encoders["instruction"] = encoder(context_size + action_size + after)
            self.key_encoders["instruction"] = nn.Embedding(instructions, width)
        start = torch.tensor(config.initial_temperature).log()
        self.log_temperature = nn.ParameterDict({element: nn.Parameter(start.clone()) for element in self.elements})
        self._min_temperature, self._guard = config.min_temperature, config.guard

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks that these heads compute."""
        return tuple(check for check in PLANTED_FAULTS if element_of(check) in self.elements)

    def temperature(self, element: str) -> Tensor:
        """The temperature of an element, a scalar of at least `min_temperature`."""
        return self.log_temperature[element].exp().clamp(min=self._min_temperature)

    def queries(self, samples: Transitions, elements: Collection[str] = ELEMENTS) -> dict[str, Tensor]:
        """The query of each element, `(N, D)` of unit norm."""
        after = (samples.next_observation, samples.change)
        given = {
            "next_observation": (samples.context, samples.action),
            "action": (samples.context, *after),
            "instruction": (samples.context, samples.action, *after),
        }
        return {name: _unit(self.query_encoders[name](torch.cat(given[name], dim=1))) for name in self._of(elements)}

    def keys(self, samples: Transitions, elements: Collection[str] = ELEMENTS) -> dict[str, Tensor]:
        """The key of each element, `(N, D)` of unit norm."""
        return {name: _unit(self.key_encoders[name](getattr(samples, name))) for name in self._of(elements)}

    def _of(self, elements: Collection[str]) -> list[str]:
        return [element for element in self.elements if element in elements]

    def losses(self, samples: Transitions) -> dict[str, Tensor]:
        """
        `L_id` of each element, PTR Eq. (31), a scalar in nats; the negatives are the rest of the batch.

        Other transitions of the batch are negatives unless they are fewer than `guard` frames away in one episode.

        Args:
            samples: N transitions.
        """
        queries, keys = self.queries(samples), self.keys(samples)
        distance = (samples.time[:, None] - samples.time).abs()
        apart = (samples.episode[:, None] != samples.episode) | (distance >= self._guard)
        losses = {}
        for element in self.elements:
            negatives, usable = keys[element], apart
            if element == "instruction":
                negatives, usable = self._instructions(samples.instruction)
            logits = self._logits(element, queries[element], keys[element], negatives, usable)
            losses[element] = F.identification_loss(logits)
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
        checks: Collection[str] = tuple(PLANTED_FAULTS),
    ) -> dict[str, Tensor]:
        """
        The score of every check, nats; NaN where there is no usable candidate.

        `(N,)`, PTR Eq. (14). For `action/shift` `(N, S)`, the logit of PTR Eq. (12) of the match minus that of each
        shift: one shift runs through an episode, and only the episode shows which
        (`hf_ptr.scoring.calibration.consistent_margin`).

        Args:
            samples: N transitions.
            pool: C reference transitions; those of a transition's own episode are masked.
            shifted: the action chunks taken earlier or later, S times `(N, Da)`; iterated for `action/shift` only.
            usable_shifts: `(N, S)` bool.
            known: `(instructions,)` bool, the instructions seen in training; the others are not candidates.
            checks: the checks to score.
        """
        wanted = [check for check in self.checks if check in checks]
        elements = {element_of(check) for check in wanted}
        queries, own = self.queries(samples, elements), self.keys(samples, elements)
        pooled = self.keys(pool, elements)
        elsewhere = samples.episode[:, None] != pool.episode
        found = {}
        for check in wanted:
            element, kind = check.split("/")
            usable = elsewhere
            if element == "instruction":
                negatives, others = self._instructions(samples.instruction)
                usable = others & known
            elif kind == "pool":
                negatives = pooled[element]
            else:
                keys = [_unit(self.key_encoders[element](chunks)) for chunks in shifted]
                negatives, usable = torch.stack(keys, dim=1), usable_shifts
            logits = self._logits(element, queries[element], own[element], negatives, usable)
            if kind == "shift":
                found[check] = (logits[:, :1] - logits[:, 1:]).masked_fill(~usable, torch.nan)
            else:
                found[check] = F.ptr_score(logits).masked_fill(~usable.any(dim=1), torch.nan)
            if element == "instruction":
                found[check] = found[check].masked_fill(~known[samples.instruction], torch.nan)
        return found

    def _logits(self, element: str, query: Tensor, key: Tensor, negatives: Tensor, usable: Tensor | None) -> Tensor:
        temperature = self.temperature(element)
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


def sum_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the elements' losses. The elements share no parameter, so that no loss outweighs another."""
    return torch.stack(tuple(losses.values())).sum()
