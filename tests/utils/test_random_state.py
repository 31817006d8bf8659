"""Random states are forked and seeded on the host and the device in use, and on no other."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from hf_ptr.utils.random_state import forked_random_state, seed_device


class Devices:
    """The module of two accelerators; notes which of them is touched."""

    def __init__(self) -> None:
        self.states = {0: torch.tensor([10]), 1: torch.tensor([11])}
        self.touched: set[int] = set()
        self.current = 0

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        self.touched.add(int(device.index))
        return self.states[int(device.index)].clone()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self.touched.add(int(device.index))
        self.states[int(device.index)] = state

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Any:
        before, self.current = self.current, int(device.index)
        yield
        self.current = before

    def manual_seed(self, seed: int) -> None:
        self.touched.add(self.current)
        self.states[self.current] = torch.tensor([seed])


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_only_the_device_in_use_is_touched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices()
    monkeypatch.setattr(torch, "get_device_module", lambda _: devices)
    for name in ("get_rng_state_all", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("every GPU was touched"))
    before = torch.get_rng_state()
    with forked_random_state(torch.device(kind, 1), seed=5):
        assert devices.states[1].item() == 5
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert devices.touched == {1} and {n: int(s) for n, s in devices.states.items()} == {0: 10, 1: 11}


def test_a_seed_gives_the_numbers_of_manual_seed() -> None:
    with forked_random_state(torch.device("cpu"), seed=3):
        ours = torch.rand(4)
    torch.manual_seed(3)
    torch.testing.assert_close(torch.rand(4), ours, rtol=0, atol=0)
    seed_device(torch.device("cpu"), 3)
    torch.testing.assert_close(torch.rand(4), ours, rtol=0, atol=0)


def test_without_a_seed_the_block_continues_the_numbers() -> None:
    torch.manual_seed(1)
    with forked_random_state(torch.device("cpu")):
        inside = torch.rand(4)
    torch.testing.assert_close(torch.rand(4), inside, rtol=0, atol=0)


def test_the_block_is_told_whether_random_numbers_were_drawn() -> None:
    with forked_random_state(torch.device("cpu")) as untouched:
        assert untouched()
        torch.rand(1)
        assert not untouched()
