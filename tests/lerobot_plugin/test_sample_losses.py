"""Losses per sample of ACT and Diffusion: their mean is the released loss, each is that of its sample alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plugin_helpers import plugin_module
from torch import Tensor, nn
from torch.nn import functional

module = plugin_module("sample_losses")


class Network(nn.Module):
    """Stands in for the network of ACT: actions, and the latent's mean and log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        actions = self.layer(batch["state"])
        return actions, (actions.mean(1), actions.std(1))


class ACT(nn.Module):
    """The released forward pass of ACT in small: one loss for the batch."""

    name = "act"

    def __init__(self) -> None:
        super().__init__()
        self.model = Network()
        self.config = SimpleNamespace(use_vae=True, kl_weight=3.0)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        actions, (mean, log_variance) = self.model(batch)
        valid = ~batch["action_is_pad"].unsqueeze(-1)
        error = ((actions - batch["action"]).abs() * valid).sum() / (valid.sum() * 2)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp())
        return error + 3.0 * divergence.sum(-1).mean(), {"l1_loss": error.item()}


class Other(ACT):
    """An ACT of a later LeRobot, whose loss is another."""

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        loss, logged = super().forward(batch)
        return loss * 2, logged


def batch_of(size: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    padded = torch.arange(4) >= torch.tensor([4, 2, 1])[:size, None]
    return {
        "state": torch.randn(size, 4, 2, generator=generator),
        "action": torch.randn(size, 4, 2, generator=generator),
        "action_is_pad": padded,
    }


@pytest.fixture
def act() -> type[ACT]:
    """A class of its own: its forward pass is extended in place."""
    return type("ACT", (ACT,), {"forward": ACT.forward})


def test_the_mean_is_the_released_loss_and_shares_follow_valid_actions(act: type[ACT]) -> None:
    torch.manual_seed(0)
    policy, batch = act(), batch_of()
    module.give_sample_losses(policy)
    losses, logged = policy(batch, reduction="none")
    released, _ = policy(batch)
    assert losses.shape == (3,) and set(logged) == {"l1_loss"}
    torch.testing.assert_close(losses.mean(), released, rtol=1e-6, atol=1e-6)
    # By hand: seven valid actions of two dimensions in the batch of three.
    actions, (mean, log_variance) = policy.model(batch)
    for row, valid in enumerate((4, 2, 1)):
        error = functional.l1_loss(actions[row, :valid], batch["action"][row, :valid], reduction="sum")
        divergence = -0.5 * (1 + log_variance[row] - mean[row] ** 2 - log_variance[row].exp()).sum()
        torch.testing.assert_close(losses[row], error * 3 / 14 + 3.0 * divergence)


def test_the_gradient_of_a_weighted_loss_is_that_of_its_samples(act: type[ACT]) -> None:
    torch.manual_seed(0)
    policy, batch = act(), batch_of()
    module.give_sample_losses(policy)
    (policy(batch, reduction="none")[0] * torch.tensor([0.0, 3.0, 0.0])).sum().backward()
    weighted = policy.model.layer.weight.grad.clone()
    # Alone the sample has two valid actions of seven, and is one sample of three.
    policy.zero_grad()
    alone = {name: value[1:2] for name, value in batch.items()}
    policy.config.kl_weight *= 7 / 2 / 3
    (policy(alone, reduction="none")[0] * 3 * (2 / 7) * 3).sum().backward()
    torch.testing.assert_close(weighted, policy.model.layer.weight.grad)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_losses_are_those_of_float32_under_autocast(act: type[ACT], precision: torch.dtype) -> None:
    """The released loss is a sum in the precision of training, which is not a loss of another LeRobot."""
    torch.manual_seed(0)
    policy, batch = act(), batch_of()

    class Low(Network):
        """Its latent is of the low precision, in which the released pass computes the divergence."""

        def forward(self, batch: dict[str, Tensor]) -> Any:
            actions, (mean, log_variance) = super().forward(batch)
            return actions, (mean.to(precision) + 3, log_variance.to(precision) / 64)

    policy.model = Low()
    module.give_sample_losses(policy)
    with torch.autocast("cpu", dtype=precision):
        released, _ = policy(batch)
        losses, _ = policy(batch, reduction="none")
    assert losses.dtype == torch.float32
    difference = abs(losses.mean() / released.float() - 1).item()
    assert 0 < difference < module.TOLERANCES[precision]


def test_a_loss_that_has_changed_is_refused_under_autocast_too() -> None:
    policy = type("Changed", (Other,), {"forward": Other.forward})()
    module.give_sample_losses(policy)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(module.NoSampleLossError, match="computes it in another way"),
    ):
        policy(batch_of(), reduction="none")


def test_a_loss_that_has_changed_is_refused() -> None:
    policy = Other()
    module.give_sample_losses(policy)
    with pytest.raises(module.NoSampleLossError, match=r"computes it in another way: pip install 'lerobot==0.6.1'"):
        policy(batch_of(), reduction="none")


def test_a_policy_without_losses_per_sample_is_refused_and_others_stay_as_they_are() -> None:
    class Able(nn.Module):
        def forward(self, batch: Any, reduction: str = "mean") -> Any: ...

    released = Able.forward
    module.give_sample_losses(Able())
    assert Able.forward is released
    other = ACT()
    other.name = "tdmpc"
    with pytest.raises(module.NoSampleLossError, match=r"'tdmpc' has no loss per sample.*act, diffusion, evo1"):
        module.give_sample_losses(other)


def test_a_policy_below_an_adapter_is_extended(act: type[ACT]) -> None:
    class Adapted(nn.Module):
        """As PEFT wraps a policy: any arguments go to the policy."""

        def __init__(self, policy: ACT) -> None:
            super().__init__()
            self.policy = policy

        def get_base_model(self) -> ACT:
            return self.policy

        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            return self.policy(*arguments, **keywords)

    adapted = Adapted(act())
    module.give_sample_losses(adapted)
    # A second weighter of the same process finds it extended.
    extended = act.forward
    module.give_sample_losses(adapted)
    assert act.forward is extended
    assert adapted(batch_of(), reduction="none")[0].shape == (3,)


class Scheduler:
    def add_noise(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        return clean + noise * steps[:, None, None]


class Diffusion(nn.Module):
    """The released forward pass of Diffusion in small."""

    name = "diffusion"

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**{"prediction_type": "epsilon", "do_mask_loss_for_padding": False, **settings})
        self.diffusion = nn.Module()
        self.diffusion.unet = nn.Linear(2, 2)
        self.diffusion.noise_scheduler = Scheduler()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        noise = torch.randn_like(batch["action"])
        noisy = self.diffusion.noise_scheduler.add_noise(batch["action"], noise, torch.ones(len(noise)))
        target = noise if self.config.prediction_type == "epsilon" else batch["action"]
        error = (self.diffusion.unet(noisy) - target) ** 2
        if not self.config.do_mask_loss_for_padding:
            return error.mean(), None
        valid = ~batch["action_is_pad"]
        return error[valid].mean(), None


@pytest.mark.parametrize(
    "settings", [{}, {"prediction_type": "sample"}, {"do_mask_loss_for_padding": True}], ids=lambda given: str(given)
)
def test_diffusion_keeps_its_draws_and_its_loss(settings: dict[str, Any]) -> None:
    policy, batch = Diffusion(**settings), batch_of()
    type(policy).forward = Diffusion.forward
    torch.manual_seed(1)
    released, _ = policy(batch)
    policy.__class__ = type("Extended", (Diffusion,), {"forward": Diffusion.forward})
    module.give_sample_losses(policy)
    torch.manual_seed(1)
    losses, _ = policy(batch, reduction="none")
    torch.testing.assert_close(losses.mean(), released, rtol=1e-6, atol=1e-6)
    assert len(set(losses.tolist())) == 3
    # The scheduler is as it was.
    assert "add_noise" not in vars(policy.diffusion.noise_scheduler)
