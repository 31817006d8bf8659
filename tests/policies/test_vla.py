"""The native policy: PTR Eq. (1) and Sec. 2 for the flow, Sec. 3 for the belief state it carries when it acts."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import ACTION_WIDTH, STATE_WIDTH, coded_table
from huggingface_hub.errors import StrictDataclassError
from model_helpers import (
    ACTION,
    INSTRUCTIONS,
    LENGTH,
    OBSERVATION,
    Batch,
    policy_inputs,
    run,
    text_config,
    text_processor,
    tiny_batch,
    tiny_config,
    tiny_model,
    tiny_policy,
    training_inputs,
)
from scipy.stats import kstest
from torch import nn
from transformers import AutoConfig, AutoModel, AutoProcessor

from hf_ptr import BeliefTokenizer, BeliefTokenizerConfig, InputError, VLAPolicy, VLAPolicyConfig, VLAProcessor
from hf_ptr.policies.action_queue import belief_lag
from hf_ptr.policies.vla.building import policy_from_dataset
from hf_ptr.policies.vla.layers import NORMALIZED_LIMIT, Normalizer
from hf_ptr.policies.vla.processing_vla import instruction_tokenizer


@contextmanager
def watching(module: nn.Module) -> Iterator[list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]]:
    """The inputs and the output of every call of a module."""
    calls: list[tuple[tuple[torch.Tensor, ...], torch.Tensor]] = []
    handle = module.register_forward_hook(lambda _module, inputs, output: calls.append((inputs, output)))
    try:
        yield calls
    finally:
        handle.remove()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def belief_for(policy: VLAPolicy) -> BeliefTokenizer:
    sizes = policy.feature_sizes()
    torch.manual_seed(1)
    config = BeliefTokenizerConfig(hidden_size=sizes.context, feature_size=sizes.action, num_tokens=2)
    return BeliefTokenizer(config).eval()


def with_belief(**changes: Any) -> VLAPolicy:
    policy = tiny_policy(**changes).eval()
    policy.attach_belief(belief_for(policy))
    return policy


# ---- the flow-matching loss, PTR Eq. (1)


def test_the_action_loss_is_equation_1() -> None:
    """`x_σ = σ a + (1-σ) ε` goes in, and `‖v - (a - ε)‖²` comes out, over valid steps and action dimensions."""
    policy, batch = tiny_policy(), tiny_batch(rows=5)
    batch["action_mask"][1] = torch.tensor([True, False, True, False])
    torch.manual_seed(7)
    with watching(policy.head.embedding) as embedded, watching(policy.head.output) as velocity:
        output = policy(training_inputs(batch))
    ((noised, sigma), _), (_, predicted) = embedded[0], velocity[0]

    torch.manual_seed(7)
    noise = torch.randn(5, LENGTH, ACTION).tolist()
    mean, std = policy.action_normalizer.mean.tolist(), policy.action_normalizer.std.tolist()
    for row in range(5):
        errors = []
        for step in range(LENGTH):
            if not batch["action_mask"][row, step]:
                continue
            for d in range(ACTION):
                clean = (batch["actions"][row, step, d].item() - mean[d]) / std[d]
                epsilon, time = noise[row][step][d], sigma[row].item()
                assert noised[row, step, d].item() == pytest.approx(time * clean + (1.0 - time) * epsilon, abs=1e-5)
                errors.append((predicted[row, step, d].item() - (clean - epsilon)) ** 2)
        assert output.action_loss[row].item() == pytest.approx(math.fsum(errors) / len(errors), rel=1e-5)
    assert output.loss.item() == pytest.approx(output.action_loss.mean().item())


def test_the_flow_s_times_are_beta_distributed() -> None:
    """`σ ~ Beta(1.5, 1)`, whose distribution function is `σ^1.5`; one time for each sample."""
    policy, batch = tiny_policy(), tiny_batch(rows=2000)
    torch.manual_seed(0)
    with watching(policy.head.embedding) as calls:
        policy(training_inputs(batch))
    sigma = calls[0][0][1]
    assert sigma.shape == (2000,)
    assert kstest(sigma.numpy(), lambda x: x**1.5).pvalue > 0.01


@pytest.mark.parametrize("filler", [0.0, 1e4, float("nan")])
def test_values_of_padded_steps_have_no_effect(filler: float) -> None:
    model, batch = tiny_model(), tiny_batch()
    batch["action_mask"][0] = torch.tensor([True, True, False, False])
    before = run(model, batch)
    batch["actions"] = batch["actions"].masked_fill(~batch["action_mask"][..., None], filler)
    after = run(model, batch)
    for name in ("action_loss", "query", "belief_tokens", "belief_loss"):
        assert torch.equal(before[name], after[name]), name


def test_a_chunk_without_a_valid_step_costs_nothing() -> None:
    policy, batch = tiny_policy(), tiny_batch()
    batch["action_mask"][2] = False
    loss = policy(training_inputs(batch)).action_loss
    assert loss[2] == 0.0 and (loss[[0, 1, 3, 4, 5]] > 0.0).all()


def test_the_action_features_pool_the_valid_clean_actions_or_the_noised_ones() -> None:
    batch = tiny_batch()
    for kind in ("clean", "noised"):
        policy = tiny_policy(pooled_actions=kind)
        outputs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            outputs.append(policy(training_inputs(batch), for_scoring=True))
        same = torch.equal(outputs[0].action_features, outputs[1].action_features)
        assert same == (kind == "clean"), "clean features know nothing of the noise"
        tokens = outputs[0].action_embeddings
        if kind == "clean":
            tokens = policy.head.embedding(policy.action_normalizer(batch["actions"]), torch.ones(6))
        for row, mask in enumerate(batch["action_mask"]):
            torch.testing.assert_close(outputs[0].action_features[row], tokens[row][mask].mean(dim=0))


# ---- units


def test_normalisation_is_inverted() -> None:
    normalizer = Normalizer(3)
    normalizer.set(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.1, 3.0, 1.0]))
    raw = torch.tensor([[1.2, 4.0, 0.5], [0.5, -20.0, -3.0]])
    torch.testing.assert_close(normalizer(raw), torch.tensor([[2.0, 2.0, 0.0], [-5.0, -6.0, -3.5]]))
    torch.testing.assert_close(normalizer.inverse(normalizer(raw)), raw)
    assert normalizer.clamped(torch.full((1, 3), 1e9)).tolist() == [[NORMALIZED_LIMIT] * 3]


def test_inputs_and_outputs_are_in_raw_units() -> None:
    """The same data in other units, with matching statistics, give the same policy."""
    scale, shift = 37.0, -5.0
    plain, changed = tiny_policy().eval(), tiny_policy().eval()
    for normalizer in (changed.tower.normalizer, changed.state_normalizer, changed.action_normalizer):
        normalizer.set(normalizer.mean * scale + shift, normalizer.std * scale)
    batch = tiny_batch()
    other = {**batch, **{name: batch[name] * scale + shift for name in ("observation", "state", "actions")}}
    chunk = plain.predict_action_chunk(policy_inputs(batch), generator=generator(0))
    rescaled = changed.predict_action_chunk(policy_inputs(other), generator=generator(0))
    torch.testing.assert_close(rescaled, chunk * scale + shift, rtol=1e-4, atol=1e-3)
    losses = []
    for policy, data in ((plain, batch), (changed, other)):
        torch.manual_seed(0)
        losses.append(policy(training_inputs(data)).action_loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)


def test_a_new_policy_takes_sizes_and_statistics_of_its_dataset() -> None:
    table = coded_table([9, 12, 7])
    policy, processor = policy_from_dataset(
        table, observation_features=["observation.state", "action"], chunk_size=4, n_action_steps=2, hidden_size=8
    )
    assert policy.config.observation_dim == STATE_WIDTH + ACTION_WIDTH
    assert (policy.config.state_dim, policy.config.action_dim) == (STATE_WIDTH, ACTION_WIDTH)
    assert policy.config.observation_features == ["observation.state", "action"]
    for normalizer, raw in (
        (policy.state_normalizer, torch.from_numpy(table.columns["observation.state"])),
        (policy.action_normalizer, torch.from_numpy(table.columns["action"])),
    ):
        torch.testing.assert_close(normalizer.mean, raw.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(normalizer.std, raw.std(dim=0, correction=0), rtol=1e-4, atol=1e-5)
    ids = processor.encode_instructions(table.tasks)["instruction_ids"]
    assert ids.flatten().tolist() == [1, 2, 3]
    assert policy.instruction_embedding.num_embeddings > ids.max()


def test_the_past_is_read_as_its_difference_from_the_present(tmp_path: Path) -> None:
    """Whatever order the features come in; a checkpoint reads the same."""
    table = coded_table([9, 12, 7])
    features = ["observation.state@-2", "observation.state", "observation.state@-1"]
    policy, _ = policy_from_dataset(table, observation_features=features, chunk_size=4, n_action_steps=2)
    policy.save_pretrained(tmp_path)
    past, now, last = (torch.from_numpy(table.feature(name)) for name in features)
    observation = torch.cat((past, now, last), dim=1)
    read = torch.cat((past - now, now, last - now), dim=1)
    expected = (read - read.mean(dim=0)) / read.std(dim=0, correction=0)
    expected[:, 0] = expected[:, 2 * STATE_WIDTH] = 0.0  # The episode's number: a difference of zero throughout.
    for reader in (policy, VLAPolicy.from_pretrained(tmp_path)):
        with watching(reader.tower.layers) as calls:
            reader.tower(observation)
        torch.testing.assert_close(calls[0][0][0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(observation, torch.cat((past, now, last), dim=1))


def test_observation_sizes_must_be_those_of_the_features() -> None:
    features = ["observation.state", "observation.state@-1"]
    with pytest.raises(StrictDataclassError) as caught:
        tiny_config(observation_features=features, observation_sizes=[2, 2])
    assert f"observation_dim {OBSERVATION}" in str(caught.value.__cause__)


def test_a_scale_floor_holds_for_observation_and_state_but_not_for_differences_and_actions() -> None:
    table, floor = coded_table([9, 12, 7]), 2.0
    features = ["observation.state", "observation.state@-1"]
    sizes = {"chunk_size": 4, "n_action_steps": 2}
    plain, _ = policy_from_dataset(table, observation_features=features, **sizes)
    floored, _ = policy_from_dataset(table, observation_features=features, min_std=floor, **sizes)
    std = plain.state_normalizer.std
    assert std.min() < floor < std.max()
    torch.testing.assert_close(floored.state_normalizer.std, std.clamp(min=floor))
    torch.testing.assert_close(floored.tower.normalizer.std[:STATE_WIDTH], std.clamp(min=floor))
    torch.testing.assert_close(floored.tower.normalizer.std[STATE_WIDTH:], plain.tower.normalizer.std[STATE_WIDTH:])
    torch.testing.assert_close(floored.action_normalizer.std, plain.action_normalizer.std)
    with pytest.raises(InputError, match=r"min_std is -1\.0"):
        policy_from_dataset(table, observation_features=features, min_std=-1.0, **sizes)


# ---- acting


def test_a_chunk_is_four_euler_steps_from_noise() -> None:
    policy, batch = tiny_policy().eval(), tiny_batch()
    assert VLAPolicyConfig().num_denoising_steps == 4
    with watching(policy.head.embedding) as embedded, watching(policy.head.output) as velocity:
        chunk = policy.predict_action_chunk(policy_inputs(batch), generator=generator(3))
    assert chunk.shape == (6, LENGTH, ACTION) and not chunk.requires_grad
    position = torch.randn(6, LENGTH, ACTION, generator=generator(3))
    assert len(embedded) == len(velocity) == 4
    for number, (((seen, sigma), _), (_, speed)) in enumerate(zip(embedded, velocity, strict=True)):
        torch.testing.assert_close(seen, position)
        assert sigma.tolist() == [number / 4] * 6
        position = position + speed / 4
    raw = position * policy.action_normalizer.std + policy.action_normalizer.mean
    torch.testing.assert_close(chunk, raw)


def test_the_generator_determines_the_noise() -> None:
    policy, inputs = tiny_policy().eval(), policy_inputs(tiny_batch())
    one, same, other = (policy.predict_action_chunk(inputs, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_every_input_of_the_policy_has_an_effect() -> None:
    policy, inputs = tiny_policy().eval(), policy_inputs(tiny_batch())

    def chunk(**changes: torch.Tensor) -> torch.Tensor:
        return policy.predict_action_chunk({**inputs, **changes}, generator=generator(0))

    before = chunk()
    assert not torch.allclose(chunk(observation=inputs["observation"] + 1.0), before)
    assert not torch.allclose(chunk(state=inputs["state"] + 1.0), before)
    assert not torch.allclose(chunk(instruction_ids=inputs["instruction_ids"] % 3 + 1), before)


def test_actions_come_one_by_one_and_then_from_a_new_chunk() -> None:
    policy = tiny_policy(n_action_steps=3).eval()
    first, second = (policy_inputs(tiny_batch(rows=2, seed=seed)) for seed in (0, 1))
    noise = generator(0)
    chunks = [policy.predict_action_chunk(inputs, generator=noise) for inputs in (first, second)]
    noise = generator(0)
    actions = [policy.select_action(**inputs, generator=noise) for inputs in (first, first, first, second)]
    for step in range(3):
        assert torch.equal(actions[step], chunks[0][:, step])
    assert torch.equal(actions[3], chunks[1][:, 0])

    policy.reset()
    assert torch.equal(policy.select_action(**first, generator=generator(0)), chunks[0][:, 0]), "reset keeps actions"


# ---- the belief state


def test_belief_tokens_change_the_next_actions_until_reset() -> None:
    policy, inputs = with_belief(), policy_inputs(tiny_batch())
    first, second = (policy.predict_action_chunk(inputs, generator=generator(0)) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-4), "the second chunk knows nothing of the first"
    policy.reset()
    assert torch.equal(policy.predict_action_chunk(inputs, generator=generator(0)), first)

    policy.attach_belief(None)
    assert policy.config.belief_tokens == 0
    bare = [policy.predict_action_chunk(inputs, generator=generator(0)) for _ in range(2)]
    assert torch.equal(*bare)
    assert not torch.allclose(bare[0], first)


@pytest.mark.parametrize("layers", [0, 1])
def test_the_next_context_ends_with_the_belief_tokens_of_this_chunk(layers: int) -> None:
    """`z_{t+1} = B(C_t, A_t)` of the last denoising step; the first chunk reads `z_init`."""
    policy, inputs = tiny_policy(num_context_layers=layers).eval(), policy_inputs(tiny_batch(rows=3))
    tokenizer = belief_for(policy)
    policy.attach_belief(tokenizer)
    reader = policy.context_layers[0] if layers else policy.context_pool
    with watching(reader) as reads, watching(policy.head.expert) as expert:
        policy.predict_action_chunk(inputs, generator=generator(0))
        (embeddings, *_), hidden = expert[-1]
        policy.predict_action_chunk(inputs, generator=generator(1))
    before, after = (call[0][0] for call in reads)
    assert before.shape[1] == after.shape[1] == 3 + 2, "observation, state, instruction and two belief tokens"
    assert torch.equal(before[:, 3:], tokenizer.initial_tokens(3))
    assert torch.equal(after[:, 3:], tokenizer(hidden, embeddings).tokens)
    assert torch.equal(before[:, :3], after[:, :3])


def test_every_row_carries_its_own_belief_state() -> None:
    policy = with_belief()
    start, elsewhere = policy_inputs(tiny_batch(rows=3)), policy_inputs(tiny_batch(rows=3))
    elsewhere["observation"][1] += 1.5

    def second_chunk(first_inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        policy.reset()
        policy.predict_action_chunk(first_inputs, generator=generator(0))
        return policy.predict_action_chunk(start, generator=generator(1))

    same, other = second_chunk(start), second_chunk(elsewhere)
    torch.testing.assert_close(same[[0, 2]], other[[0, 2]])
    assert not torch.allclose(same[1], other[1], atol=1e-5), "row 1 forgot that it came from elsewhere"


def test_another_number_of_rows_in_the_middle_of_an_episode_is_an_error() -> None:
    policy = with_belief()
    policy.predict_action_chunk(policy_inputs(tiny_batch(rows=3)))
    with pytest.raises(ValueError, match=r"2 rows and the episode began with 3: reset\(\)"):
        policy.predict_action_chunk(policy_inputs(tiny_batch(rows=2)))
    policy.reset()
    assert policy.predict_action_chunk(policy_inputs(tiny_batch(rows=2))).shape[0] == 2


def test_acting_leaves_no_graph_behind() -> None:
    policy, inputs = with_belief(), policy_inputs(tiny_batch())
    with watching(policy.context_pool) as reads:
        for _ in range(2):
            assert not policy.predict_action_chunk(inputs).requires_grad
    assert not any(tokens.requires_grad for (tokens, _), _ in reads)


# ---- on disk


def test_the_auto_classes_restore_the_policy(tmp_path: Path) -> None:
    policy = tiny_policy(num_context_layers=1).eval()
    policy.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is VLAPolicy and not loaded.training
    assert type(AutoConfig.from_pretrained(tmp_path)) is VLAPolicyConfig
    inputs = policy_inputs(tiny_batch())
    chunks = [each.predict_action_chunk(inputs, generator=generator(0)) for each in (policy, loaded)]
    assert torch.equal(*chunks)


def acts_twice(policy: VLAPolicy, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    policy.reset()
    return torch.cat([policy.predict_action_chunk(inputs, generator=generator(seed)) for seed in (0, 1)])


@pytest.mark.parametrize("saved_by", ["policy", "model"])
def test_the_belief_tokenizer_is_saved_with_the_policy(saved_by: str, tmp_path: Path) -> None:
    """From what the policy saves itself, and from the root of what a training run saves."""
    model = tiny_model().eval()
    (model if saved_by == "model" else model.policy).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is VLAPolicy and loaded.config.belief_tokens == 2
    assert not any(name.startswith("belief") for name in loaded.state_dict())
    inputs = policy_inputs(tiny_batch())
    assert torch.equal(acts_twice(model.policy, inputs), acts_twice(loaded, inputs))


def test_the_belief_tokenizer_moves_with_the_policy() -> None:
    """The test uses another type in place of another device."""
    policy, inputs = with_belief(), policy_inputs(tiny_batch())
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    assert acts_twice(policy.double(), wide).dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 9}, "hidden_size 9 is not a multiple of num_attention_heads 2"),
        ({"n_action_steps": 5}, r"n_action_steps is 5; it must lie in 1\.\.4"),
        ({"n_action_steps": 0}, "n_action_steps is 0"),
        ({"pooled_actions": "cleen"}, "'cleen'; known: clean, noised"),
        ({"action_size": 7}, "action_size is 7; it must be even"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**changes)


# ---- instructions


def test_the_processor_turns_instructions_into_ids_and_arrays_into_tensors() -> None:
    processor = VLAProcessor(instruction_tokenizer(INSTRUCTIONS))
    batch = tiny_batch(rows=2)
    inputs = processor(
        instructions=[INSTRUCTIONS[2], INSTRUCTIONS[0]],
        observation=batch["observation"].double().numpy(),
        state=batch["state"],
    )
    assert inputs["instruction_ids"].tolist() == [[3], [1]]
    assert inputs["instruction_mask"].tolist() == [[True], [True]]
    assert inputs["observation"].dtype == inputs["state"].dtype == torch.float32
    assert tiny_policy().predict_action_chunk(inputs).shape == (2, LENGTH, ACTION)


def test_an_unknown_instruction_is_one_line_that_names_the_nearest() -> None:
    processor = VLAProcessor(instruction_tokenizer(INSTRUCTIONS))
    with pytest.raises(InputError, match=r"'open the drawers'\. Did you mean 'open the drawer'\?") as error:
        processor.encode_instructions([INSTRUCTIONS[0], "open the drawers"])
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no embedding for the instruction '<unknown>'"):
        processor.encode_instructions(["<unknown>"])
    with pytest.raises(InputError, match="no embedding for the instruction ''"):
        processor.encode_instructions([""])


def test_instructions_are_compared_exactly() -> None:
    """Real datasets contain empty instructions, and instructions that differ in a space or a capital letter."""
    texts = ("", "push", " push", "push ", "Push", "push the cube.")
    ids = VLAProcessor(instruction_tokenizer(texts)).encode_instructions(texts)["instruction_ids"]
    assert ids.flatten().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("make", [lambda: VLAProcessor(instruction_tokenizer(INSTRUCTIONS)), text_processor])
def test_the_auto_processor_restores_it(make: Callable[[], VLAProcessor], tmp_path: Path) -> None:
    processor = make()
    processor.save_pretrained(tmp_path)
    tiny_policy().save_pretrained(tmp_path)
    for loaded in (AutoProcessor.from_pretrained(tmp_path), VLAProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is VLAProcessor
        before, after = (each.encode_instructions(INSTRUCTIONS) for each in (processor, loaded))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


# ---- a text encoder in place of learned embeddings


@pytest.mark.parametrize("layers", [0, 1])
def test_padding_of_instructions_changes_nothing(layers: int) -> None:
    """More padding, and other ids under it; the belief tokens behind it still count."""
    policy = with_belief(text_config=text_config(), num_context_layers=layers)
    processor, batch = text_processor(), tiny_batch(rows=2)

    def chunks(encoded: dict[str, torch.Tensor]) -> torch.Tensor:
        return acts_twice(policy, {**policy_inputs(batch), **encoded})

    encoded = processor.encode_instructions(["open the drawer slowly", "push cube"])
    assert encoded["instruction_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    before = chunks(encoded)
    padded = {
        "instruction_ids": nn.functional.pad(encoded["instruction_ids"], (0, 3), value=5),
        "instruction_mask": nn.functional.pad(encoded["instruction_mask"], (0, 3), value=False),
    }
    padded["instruction_ids"][1, 2:] = 7
    torch.testing.assert_close(chunks(padded), before)

    other_word = encoded["instruction_ids"].clone()
    other_word[1, 1] = 7
    changed = chunks({**encoded, "instruction_ids": other_word})
    torch.testing.assert_close(changed[0], before[0])
    assert not torch.allclose(changed[1], before[1], atol=1e-4), "a word outside the padding is not read"


def test_belief_tokens_are_read_behind_a_padded_instruction() -> None:
    policy = with_belief(text_config=text_config())
    encoded = text_processor().encode_instructions(["open the drawer slowly", "push"])
    inputs = {**policy_inputs(tiny_batch(rows=2)), **encoded}
    first, second = (policy.predict_action_chunk(inputs, generator=generator(0)) for _ in range(2))
    assert (first - second).abs().flatten(1).amax(dim=1).min() > 1e-4


def test_a_policy_with_a_text_encoder_is_restored(tmp_path: Path) -> None:
    policy = tiny_policy(text_config=text_config().to_dict()).eval()
    assert not hasattr(policy, "instruction_embedding")
    policy.save_pretrained(tmp_path)
    text_processor().save_pretrained(tmp_path)
    loaded, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    batch = tiny_batch(rows=2)
    inputs = processor(["close the drawer", "push"], observation=batch["observation"], state=batch["state"])
    chunks = [each.predict_action_chunk(inputs, generator=generator(0)) for each in (policy, loaded)]
    assert torch.equal(*chunks)


# ---- the next observation is not an input of the policy


def test_the_action_loss_never_reads_the_next_observation() -> None:
    model, batch = tiny_model(), tiny_batch()
    before = run(model, batch)
    blinded = run(model, {**batch, "next_observation": torch.full((6, OBSERVATION), float("nan"))})
    without = run(model, {name: value for name, value in batch.items() if name != "next_observation"})
    for name in ("action_loss", "query", "permuted_query", "belief_tokens", "belief_loss"):
        assert torch.equal(before[name], blinded[name]), name
        assert torch.equal(before[name], without[name]), name
    assert blinded.target.isnan().all() and without.target is None


class RecordedReads(UserDict[str, torch.Tensor]):
    """A batch that records the keys that are read."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def test_acting_does_not_read_the_next_observation() -> None:
    policy, batch = with_belief(), tiny_batch()
    masks = {
        f"{kind}_dim_mask": torch.ones(6, width, dtype=torch.bool)
        for kind, width in (("action", ACTION), ("state", batch["state"].shape[1]))
    }
    recorded = RecordedReads({**batch, **masks})
    assert {"actions", "action_mask", "next_observation"} <= set(recorded)
    policy.predict_action_chunk(recorded, generator=generator(0))
    assert recorded.read == {"observation", "state", "instruction_ids", "instruction_mask", *masks}


@pytest.mark.parametrize(("steps", "lag"), [(4, 1), (3, 2), (2, 2), (1, 4)])
def test_belief_tokens_come_from_a_chunk_that_has_ended(steps: int, lag: int) -> None:
    """Tokens of a chunk that overlaps the next would contain the actions that the next one predicts."""
    policy, inputs = tiny_policy(n_action_steps=steps).eval(), policy_inputs(tiny_batch(rows=2))
    assert belief_lag(policy.config) == lag and lag * steps >= policy.config.chunk_size
    tokenizer = belief_for(policy)
    policy.attach_belief(tokenizer)
    made = []
    with watching(policy.context_pool) as reads, watching(policy.head.expert) as expert:
        for number in range(2 * lag + 1):
            policy.predict_action_chunk(inputs, generator=generator(number))
            (embeddings, *_), hidden = expert[-1]
            made.append(tokenizer(hidden, embeddings).tokens)
    read = [call[0][0][:, 3:] for call in reads]
    for number, tokens in enumerate(read):
        expected = tokenizer.initial_tokens(2) if number < lag else made[number - lag]
        assert torch.equal(tokens, expected), number
