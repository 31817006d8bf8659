"""Which loss trains which module (PTR Sec. 8), by backward passes of one part of the objective at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from model_helpers import (
    Batch,
    Losses,
    losses_of,
    run,
    text_config,
    text_processor,
    tiny_batch,
    tiny_model,
    tiny_policy,
    trainer_of,
)

from hf_ptr import PTRConfig, PTRModel, PTRTrainer
from hf_ptr.ptr import BeliefCarry
from hf_ptr.training.build_model import as_ptr_model
from hf_ptr.training.identification import Identification
from hf_ptr.training.micro_batches import candidates_of, model_inputs, recall_belief

CONTEXT = ("policy.tower", "policy.state_embedding", "policy.instruction_embedding", "policy.context_layers")
MODULES = (
    *CONTEXT,
    "policy.context_pool",
    "policy.head.embedding",
    "policy.head.expert",
    "policy.head.output",
    "scorer",
    "belief_tokenizer.initial",
    "belief_tokenizer.fuse",
    "belief_tokenizer.assign",
    "target_encoder",
)
SEEN_BY_POLICY = {*CONTEXT, "policy.context_pool", "policy.head.embedding", "belief_tokenizer.initial"}
SCORING = {"scorer"}
TOKENIZING = {"belief_tokenizer.fuse", "belief_tokenizer.assign"}

# What every loss trains, by the paper's joint objective; without it the auxiliary losses train their own parts only.
REACHED = {
    ("action", True): SEEN_BY_POLICY | {"policy.head.expert", "policy.head.output"},
    ("id", True): SEEN_BY_POLICY | SCORING,
    ("rank", True): SEEN_BY_POLICY | SCORING,
    ("tok", True): SEEN_BY_POLICY | {"policy.head.expert"} | TOKENIZING,
    ("action", False): SEEN_BY_POLICY | {"policy.head.expert", "policy.head.output"},
    ("id", False): SCORING,
    ("rank", False): SCORING,
    ("tok", False): TOKENIZING,
}


def part_of(losses: Losses, name: str) -> torch.Tensor:
    return losses.action if name == "action" else losses.auxiliary[name]


def gradients(model: PTRModel, loss: torch.Tensor, retain_graph: bool = False) -> dict[str, torch.Tensor]:
    """Gradients by parameter, without parameters that the loss does not reach."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = torch.autograd.grad(
        loss, [parameter for _, parameter in named], allow_unused=True, retain_graph=retain_graph
    )
    return {name: gradient for (name, _), gradient in zip(named, found, strict=True) if gradient is not None}


def module_of(name: str) -> str:
    return next(module for module in MODULES if name == module or name.startswith(f"{module}."))


def reached(found: dict[str, torch.Tensor]) -> set[str]:
    """The modules with a gradient that is not zero."""
    return {module_of(name) for name, gradient in found.items() if gradient.abs().max() > 0.0}


def filled(model: PTRModel, **changes: object) -> PTRTrainer:
    """A trainer with the targets of an earlier batch in its queue."""
    trainer = trainer_of(model, **changes)
    losses_of(model, tiny_batch(seed=9, first_index=100), trainer, seed=9)
    return trainer


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


# ---- which loss reaches what


@pytest.mark.parametrize(("part", "joint"), REACHED)
def test_each_loss_trains_exactly_its_modules(part: str, joint: bool) -> None:
    model = tiny_model(detach_scorer=not joint, num_context_layers=1).train()
    losses = losses_of(model, tiny_batch(), filled(model))
    loss = part_of(losses, part)
    assert loss.item() != 0.0
    loss.backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert reached(found) == REACHED[part, joint]


def test_the_losses_are_one_sum_with_the_papers_factors() -> None:
    """`L_total = L*_act + λ_id L_id + λ_rank L_rank + L_tok`."""
    model, batch = tiny_model(), tiny_batch()
    plain = losses_of(model, batch, trainer_of(model, lambda_id=1.0, lambda_rank=1.0))
    weighted = losses_of(model, batch, trainer_of(model, lambda_id=0.05, lambda_rank=0.25))
    assert set(weighted.auxiliary) == {"id", "rank", "tok"}
    for name, factor in (("id", 0.05), ("rank", 0.25), ("tok", 1.0)):
        assert weighted.auxiliary[name].item() == pytest.approx(factor * plain.auxiliary[name].item(), rel=1e-6)
    parts = [part_of(weighted, name).item() for name in ("action", "id", "rank", "tok")]
    assert weighted.total.item() == pytest.approx(math.fsum(parts), rel=1e-6)

    total = gradients(model, weighted.total, retain_graph=True)
    by_part = [
        gradients(model, part_of(weighted, name), retain_graph=True) for name in ("action", "id", "rank", "tok")
    ]
    for name, gradient in total.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in by_part if name in part))


def test_the_belief_loss_carries_its_own_factors() -> None:
    """`L_tok = λ_ent H_tok + λ_div D_tok` is returned by the model, and the objective adds no factor to it."""
    losses = losses_of(tiny_model(), tiny_batch())
    assert torch.equal(losses.auxiliary["tok"], losses.output.belief_loss)
    assert losses.metrics["belief_entropy"] == losses.output.belief_entropy.item()
    assert not losses.output.belief_entropy.requires_grad


# ---- stop-gradients: the target encoder, the queue, the gather


def test_targets_are_constants_wherever_they_come_from() -> None:
    model, batch = tiny_model().train(), tiny_batch()
    trainer = filled(model)
    before = {name: parameter.clone() for name, parameter in model.target_encoder.named_parameters()}
    losses = losses_of(model, batch, trainer)
    output = losses.output
    assert not output.target.requires_grad and output.target.grad_fn is None
    own = candidates_of(model.policy, batch, output)
    assert not any(tensor.requires_grad for tensor in own.tensors().values())
    losses.total.backward()
    for name, parameter in model.target_encoder.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad, name
        assert torch.equal(parameter, before[name]), name
    assert not any(tensor.requires_grad for tensor in trainer.identification.pool.state_dict().values())


def test_queue_targets_change_the_loss_but_get_no_gradient() -> None:
    """The targets of the queue change the loss, but remain leaves without a gradient."""
    model, batch = tiny_model(), tiny_batch()
    empty, full = losses_of(model, batch), losses_of(model, batch, filled(model))
    assert full.auxiliary["id"] > 1.1 * empty.auxiliary["id"]
    leaves = graph_leaves(full.total)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert leaves and leaves <= trained, "a tensor other than a trained parameter gets a gradient"


def graph_leaves(loss: torch.Tensor) -> set[int]:
    """The ids of all tensors that a backward pass from `loss` would give a gradient."""
    leaves, seen, stack = set(), set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves


@pytest.mark.parametrize("cross_rank", [True, False])
def test_cross_rank_negatives_are_optional_and_exclude_own_targets(cross_rank: bool) -> None:
    """A second rank with two targets of this rank and four others; the gathered targets are constants."""
    model, batch = tiny_model(), tiny_batch()
    theirs = tiny_batch(seed=3, first_index=3)
    other = candidates_of(model.policy, theirs, run(model, theirs, seed=3))
    output = run(model, batch)
    mine = candidates_of(model.policy, batch, output)
    pairs = [(mine.tensors()[name], tensor) for name, tensor in other.tensors().items()]

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        assert not tensor.requires_grad
        remote = next((theirs for own, theirs in pairs if own is tensor), tensor)
        return torch.cat((tensor, remote))

    args = trainer_of(model, cross_rank_negatives=cross_rank, queue_size=16).args
    identification = Identification(args, gather)
    (negatives,) = identification.draw_negatives([mine], step=0)
    logits, _ = identification.logits(output, negatives)
    ids = torch.cat((mine.target_id, other.target_id)) if cross_rank else mine.target_id
    valid = torch.cat((mine.valid, other.valid)) if cross_rank else mine.valid
    usable = valid & (ids != mine.target_id[:, None])
    assert torch.equal(logits[:, 1:].isfinite(), usable)
    assert len(identification.pool) == int(valid.sum())


def test_ranks_share_one_normalisation() -> None:
    """`Σ w ℓ / Σ w` over both ranks, times their number, since their gradients are averaged (PTR Eq. 27)."""
    model = tiny_model()
    # Of the other rank: chunks, those with a target, those of them that L_rank counts, Σ w, Σ w n with n = 1 of every
    # chunk, Σ w², Σ (w - 1)².
    elsewhere = torch.tensor([[4.0, 3.0, 3.0, 6.75, 6.75, 13.0, 3.5]])
    trainer = trainer_of(model, beta=0.6, cross_rank_negatives=False)
    trainer.identification.gather = lambda total: torch.cat((total, elsewhere))
    trainer.group.size = trainer.metrics.processes = 2
    losses = losses_of(model, tiny_batch(), trainer)
    pairs = list(zip(losses.weight.tolist(), losses.output.action_loss.tolist(), strict=True))
    total = math.fsum(w for w, _ in pairs) + 6.75
    mean = math.fsum(w * loss for w, loss in pairs) / total
    assert losses.action.item() == pytest.approx(mean, rel=1e-5)
    assert losses.metrics["loss_action"] == pytest.approx(2.0 * mean, rel=1e-5)
    whole = losses.action + sum(losses.auxiliary.values())
    assert losses.total.item() == pytest.approx(2.0 * whole.item(), rel=1e-6)
    # The logged values cover both ranks, too.
    weights = losses.weight.tolist()
    squares = math.fsum(w * w for w in weights) + 13.0
    assert losses.metrics["weight_mean"] == pytest.approx(total / 10, rel=1e-6)
    assert losses.metrics["ess"] == pytest.approx(total**2 / squares / 10, rel=1e-5)
    spread = math.fsum((w - 1.0) ** 2 for w in weights) + 3.5
    expected = math.sqrt(spread / 10 - (total / 10 - 1.0) ** 2)
    assert losses.metrics["weight_std"] == pytest.approx(expected, rel=1e-5)
    assert losses.metrics["valid_ratio"] == pytest.approx(8 / 10)


# ---- the weight


def test_the_weight_is_detached_and_scales_only_the_action_loss() -> None:
    model, batch = tiny_model(), tiny_batch()
    weighted, uniform = (
        losses_of(model, batch, filled(model, **settings))
        for settings in ({"alpha": 1.0, "beta": 0.6}, {"alpha": 0.0, "use_scorer": True})
    )
    assert not weighted.weight.requires_grad and weighted.weight.grad_fn is None
    assert weighted.weight.std() > 0.1, "weights that are all the same would show nothing"
    assert torch.equal(uniform.weight, torch.ones(6))
    for name in ("id", "rank", "tok"):
        assert torch.equal(weighted.auxiliary[name], uniform.auxiliary[name])
        assert_same(
            gradients(model, weighted.auxiliary[name], retain_graph=True),
            gradients(model, uniform.auxiliary[name], retain_graph=True),
        )
    apart, together = gradients(model, weighted.action), gradients(model, uniform.action)
    assert any(not torch.allclose(apart[name], together[name], rtol=1e-2) for name in apart)


def test_the_action_gradient_is_that_of_each_sample_in_proportion_to_its_weight() -> None:
    """A gradient path through the weight would leave a remainder (PTR Eq. 27)."""
    model = tiny_model()
    losses = losses_of(model, tiny_batch(), filled(model, beta=0.6))
    output = losses.output
    samples = [gradients(model, loss, retain_graph=True) for loss in output.action_loss]
    share = (losses.weight / losses.weight.sum()).tolist()
    assert max(share) > 1.3 * min(share)
    assert losses.action.item() == pytest.approx(
        math.fsum(w * loss for w, loss in zip(share, output.action_loss.tolist(), strict=True)), rel=1e-5
    )
    for name, gradient in gradients(model, losses.action).items():
        torch.testing.assert_close(gradient, sum(w * each[name] for w, each in zip(share, samples, strict=True)))


def test_a_sample_without_target_has_weight_one_and_no_scorer_loss() -> None:
    model, batch = tiny_model(), tiny_batch()
    losses = losses_of(model, batch, filled(model, beta=0.6))
    assert batch["has_target"].tolist() == [True] * 5 + [False]
    assert losses.weight[5] == 1.0 and (losses.weight[:5] != 1.0).all()
    for name in ("id", "rank"):
        (query,) = torch.autograd.grad(losses.auxiliary[name], losses.output.query, retain_graph=True)
        assert query[:5].abs().sum(dim=1).min() > 0.0
        assert torch.equal(query[5], torch.zeros_like(query[5]))


def test_every_weight_is_one_during_the_warm_up() -> None:
    model, batch = tiny_model(), tiny_batch()
    trainer, losses = trainer_of(model, nce_warmup_steps=3, beta=0.6), []
    for step in (0, 2, 3):
        trainer.state.global_step = step
        losses.append(losses_of(model, batch, trainer))
    for early in losses[:2]:
        assert torch.equal(early.weight, torch.ones(6))
        assert early.action.item() == pytest.approx(early.output.action_loss.mean().item(), rel=1e-6)
    assert not torch.equal(losses[2].weight, torch.ones(6))


@pytest.mark.parametrize("also_weight", [False, True])
def test_the_discount_scales_the_identification_loss_and_optionally_the_weight(also_weight: bool) -> None:
    """`γ^{Δ'}` scales L_id, and the difference of the weight from 1 (PTR Sec. 4)."""
    model, batch = tiny_model(), tiny_batch()
    settings = {"beta": 0.6, "discount_weight": also_weight}
    # Δ' is the offset over the length of the chunk.
    offsets = torch.full((6,), batch["actions"].shape[1])
    half, full = (
        losses_of(model, {**batch, "target_offset": offset}, trainer_of(model, **settings, discount=0.5))
        for offset in (offsets, 0 * offsets)
    )
    none = losses_of(model, batch, trainer_of(model, **settings))
    assert full.auxiliary["id"].item() == pytest.approx(none.auxiliary["id"].item(), rel=1e-6)
    assert half.auxiliary["id"].item() == pytest.approx(0.5 * none.auxiliary["id"].item(), rel=1e-6)
    assert half.auxiliary["rank"].item() == none.auxiliary["rank"].item()
    torch.testing.assert_close(half.weight, 1.0 + (0.5 if also_weight else 1.0) * (none.weight - 1.0))


# ---- the chunk before


def walked(model: PTRModel) -> tuple[torch.Tensor, Batch, Batch, dict[str, torch.Tensor], torch.Tensor]:
    """A first batch, whose observations require a gradient, and the carried tokens of a second batch."""
    first, second = tiny_batch(seed=1), tiny_batch(seed=2, first_index=1)
    watched = first["observation"].requires_grad_()
    carry = BeliefCarry()
    output = run(model, first)
    carry.remember(first["index"], output.belief_tokens)
    left = carry.state_dict()["tokens"]
    recall_belief([second], carry)
    return watched, first, second, model_inputs(second), left


def test_no_gradient_flows_to_the_previous_chunk() -> None:
    """`z_{t+1} = sg(B(H_t, E_t))`, PTR Eq. (5)."""
    model = tiny_model().train()
    watched, _, second, given, left = walked(model)
    assert given["carried"].tolist() == [True] * 6
    assert given["carried_tokens"].grad_fn is None and not given["carried_tokens"].requires_grad
    assert not left.requires_grad

    trainer = trainer_of(model)
    trainer.carry.remember(second["previous_index"], left)
    total, output = trainer.compute_loss(model, second, return_outputs=True)
    assert torch.equal(second["carried_tokens"], left) and second["carried"].all()
    for name in ("action", "id", "rank", "tok"):
        (gradient,) = torch.autograd.grad(output.losses[name], watched, allow_unused=True, retain_graph=True)
        assert gradient is None, name
    total.backward()
    assert watched.grad is None


def test_carried_tokens_replace_the_initial_ones_row_by_row() -> None:
    """With a known predecessor its tokens are used, and `z_init` gets no gradient from that row."""
    model = tiny_model()
    _, _, _, given, _ = walked(model)
    fresh = {name: value for name, value in given.items() if not name.startswith("carried")}
    given["carried"] = torch.tensor([True, False, True, False, False, True])
    torch.manual_seed(0)
    mixed = model(**given).action_loss
    torch.manual_seed(0)
    initial = model(**fresh).action_loss
    assert torch.equal(mixed == initial, ~given["carried"])
    for row, carried in enumerate(given["carried"].tolist()):
        (gradient,) = torch.autograd.grad(mixed[row], model.belief_tokenizer.initial, retain_graph=True)
        assert (gradient.abs().max() > 0.0) == (not carried)


def test_carried_tokens_come_from_the_previous_chunk() -> None:
    model = tiny_model()
    _, first, second, given, _ = walked(model)
    tokens = run(model, first).belief_tokens
    assert torch.equal(second["previous_index"], first["index"])
    assert torch.equal(given["carried_tokens"], tokens)


# ---- the arms


def trained(model: PTRModel) -> Iterable[tuple[str, torch.nn.Parameter]]:
    return ((name, value) for name, value in model.named_parameters() if value.requires_grad)


ARMS = {
    "sft": {"alpha": 0.0, "belief_tokens": 0},
    "sft_belief": {"alpha": 0.0},
    "ptr": {},
    "ptr_without_belief": {"belief_tokens": 0},
    "ptr_alpha_0": {"alpha": 0.0, "use_scorer": True},
}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_builds_only_the_parts_it_uses(arm: str) -> None:
    """The configuration decides; unused parts exist neither in memory nor in a checkpoint."""
    args = PTRConfig(output_dir="unused", use_cpu=True, **ARMS[arm])
    model = as_ptr_model(tiny_policy(), args)
    parts = {name.split(".")[0] for name in model.state_dict()}
    scorer = {"scorer", "target_encoder"} if arm.startswith("ptr") else set()
    belief = set() if arm in ("sft", "ptr_without_belief") else {"belief_tokenizer"}
    assert parts == {"policy"} | scorer | belief
    assert (model.scorer is None) == (model.target_encoder is None) == (not scorer)
    assert (model.belief_tokenizer is None) == (not belief)
    assert model.policy.config.belief_tokens == (4 if belief else 0)

    losses = losses_of(model, tiny_batch(), trainer_of(model, **ARMS[arm]))
    expected = ({"id", "rank"} if scorer else set()) | ({"tok"} if belief else set())
    assert set(losses.auxiliary) == expected
    if not scorer:
        assert torch.equal(losses.weight, torch.ones(6))
        assert losses.output.target is None and "ptr_score" not in losses.metrics


@pytest.mark.parametrize("instructions", ["learned", "text encoder"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("situation", ["first step", "all carried", "no target"])
@pytest.mark.parametrize("arm", ARMS)
def test_after_one_backward_pass_every_parameter_has_its_gradient(
    arm: str, situation: str, joint: bool, instructions: str
) -> None:
    """Distributed training waits for all gradients, for any batch."""
    args = PTRConfig(output_dir="unused", use_cpu=True, nce_warmup_steps=0, detach_scorer=not joint, **ARMS[arm])
    encoder = {"text_config": text_config()} if instructions == "text encoder" else {}
    model = as_ptr_model(tiny_policy(num_context_layers=1, **encoder), args).train()
    batch = tiny_batch()
    if encoder:
        batch.update(text_processor().encode_instructions(["push", "open the drawer", "close the cube"] * 2))
    tokens = run(model, batch).belief_tokens
    if situation == "no target":
        batch.update(has_target=torch.zeros(6, dtype=torch.bool), target_index=torch.full((6,), -1))
    for discount in (1.0, 0.9):
        model.zero_grad()
        trainer = trainer_of(model, **ARMS[arm], detach_scorer=not joint, discount=discount)
        if situation == "all carried" and args.belief_tokens:
            batch["previous_index"] = batch["previous_index"].clamp(min=0)
            trainer.carry.remember(batch["previous_index"], tokens)
        trainer.compute_loss(model, dict(batch)).backward()
        assert [name for name, value in trained(model) if value.grad is None] == []
        assert all(value.grad.isfinite().all() for _, value in trained(model))


def test_checkpointed_activations_change_neither_gradients_nor_target() -> None:
    batch = tiny_batch()
    models = [tiny_model(text_config=text_config(), num_context_layers=1).train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].activation_checkpointing_enable()
    checkpointed = [module for module in models[1].modules() if getattr(module, "gradient_checkpointing", False)]
    assert checkpointed and not any(getattr(module, "gradient_checkpointing", False) for module in models[0].modules())
    plain, recomputed = (gradients(model, losses_of(model, batch).total) for model in models)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=1e-6)
    with torch.no_grad():
        for model in models:
            for parameter in model.policy.parameters():
                parameter.add_(0.5)
            model.update_target()
    assert_same(models[0].target_encoder.state_dict(), models[1].target_encoder.state_dict())
