"""A policy that reads earlier frames keeps them while it acts."""

from __future__ import annotations

import re

import pytest
import torch
from dataset_kinds import reaching

from hf_ptr.errors import InputError
from hf_ptr.policies import policy_from_dataset
from hf_ptr.policies.observation_history import ObservationHistory

FEATURES = ["observation.state", "observation.state@-1", "observation.state@-3"]
FRAMES = 10


def test_the_present_is_enough_to_act() -> None:
    table = reaching(2, 20)
    policy, processor = policy_from_dataset(table, observation_features=FEATURES, chunk_size=4, n_action_steps=2)
    policy.eval()
    complete = torch.cat([torch.from_numpy(table.feature(name)) for name in FEATURES], dim=1)
    state = torch.from_numpy(table.feature("observation.state"))
    actions = {}
    for name, observed in (("complete", complete), ("present", state)):
        found = []
        for episode in (0, 1):
            policy.reset()
            generator = torch.Generator().manual_seed(episode)
            for frame in range(episode * 20, episode * 20 + FRAMES):
                inputs = processor(instructions=["reach"], observation=observed[frame], state=state[frame])
                found.append(policy.select_action(**inputs, generator=generator))
        actions[name] = torch.cat(found)
    assert torch.equal(actions["present"], actions["complete"])
    assert actions["present"].std() > 0


def test_one_line_says_what_to_pass() -> None:
    table = reaching(2, 20)
    policy, processor = policy_from_dataset(table, observation_features=FEATURES, chunk_size=4, n_action_steps=2)
    state = table.feature("observation.state")[0]
    expected = "call select_action at every frame with the 3 present values of observation.state"
    with pytest.raises(InputError, match=re.escape(expected)):
        policy.predict_action_chunk(processor(instructions=["reach"], observation=state, state=state))
    plain, processor = policy_from_dataset(table, chunk_size=4, n_action_steps=2)
    with pytest.raises(InputError, match="use data of the same robot"):
        plain.select_action(**processor(instructions=["reach"], observation=state[:2], state=state))


def test_several_features_and_changed_rows() -> None:
    history = ObservationHistory(["b@-2", "a", "b"], [1, 2, 1])
    assert history.present == ["b", "a"] and history.width == 3
    frames = [torch.tensor([[float(t), 10.0 + t, 20.0 + t]]) for t in range(4)]
    found = []
    for frame in frames:
        found.append(history.complete(frame)[0].tolist())
        history.remember(frame)
    assert found == [[0, 10, 20, 0], [0, 11, 21, 1], [0, 12, 22, 2], [1, 13, 23, 3]]
    with pytest.raises(InputError, match=r"began with 1 rows, and now there are 2; call reset\(\)"):
        history.complete(torch.zeros(2, 3))


@pytest.mark.parametrize("features", [["observation.state"], FEATURES], ids=["present", "history"])
def test_a_call_that_fails_leaves_nothing_behind(features: list[str]) -> None:
    table = reaching(2, 20)
    policy, processor = policy_from_dataset(table, observation_features=features, chunk_size=4, n_action_steps=1)
    policy.eval()
    state = torch.from_numpy(table.feature("observation.state"))
    complete = torch.cat([torch.from_numpy(table.feature(name)) for name in features], dim=1)
    wrong = [
        (state[:7], state[0]),
        (state[7], state[0, :2]),
        (state[:7], state[:7, :1]),
        (complete[:7], state[0]),
        (torch.zeros(9, 5, 3), state[0]),
        (torch.zeros((9, 5, 3), dtype=torch.uint8), state[0]),
    ]

    def act(frame: int) -> torch.Tensor:
        inputs = processor(instructions=["reach"], observation=state[frame], state=state[frame])
        return policy.select_action(**inputs, generator=torch.Generator().manual_seed(frame))

    policy.reset()
    expected = [act(frame) for frame in range(4)]
    policy.reset()
    for frame in range(4):
        for observation, proprioception in wrong:
            with pytest.raises(InputError):
                policy.select_action(**processor(["reach"], observation=observation, state=proprioception))
        assert torch.equal(act(frame), expected[frame])
